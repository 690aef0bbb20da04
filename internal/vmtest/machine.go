// Package vmtest is what tests on VT-x share: VMX operation for the length of a
// test, a small guest that runs given machine code, and VMCS contents that the
// processor accepts, of every kind that it offers.
//
//	func TestCPUIDExits(t *testing.T) {
//		g := vmtest.Start(t).NewGuest(vmtest.Long, 0x0f, 0xa2) // CPUID, and VMCALL behind it
//		g.Run(func() bool {
//			n++
//			g.Skip()
//			return g.Reason != 18 // VMCALL
//		})
//	}
//
// Tests that call Start are skipped in an ordinary process.
package vmtest

import (
	"encoding/binary"
	"runtime"
	"testing"

	"github.com/govtx/vtx/asm"
	"github.com/govtx/vtx/internal/require"
	"github.com/govtx/vtx/internal/ring0test"
	"github.com/govtx/vtx/ring0"
	"github.com/govtx/vtx/vmcs"
)

// A Machine is the processor in VMX operation, for the length of one test.
type Machine struct {
	testing.TB
	Caps  *vmcs.Capabilities
	VMXON uint64 // physical address of the VMXON region

	launcher *launcher // made by the first Launch
	objects  *objects  // made by the first States
}

// processor reads the capabilities of the processor it runs on.
type processor struct{}

func (processor) ReadMSR(msr uint32) (uint64, error) { return asm.RDMSRSafe(msr) }

func (processor) ReadCPUID(leaf, subleaf uint32) (eax, ebx, ecx, edx uint32) {
	return asm.CPUID(leaf, subleaf)
}

const (
	msrFeatureControl = 0x3a
	msrSysenterCS     = 0x174
	msrSysenterESP    = 0x175
	msrSysenterEIP    = 0x176
	msrPAT            = 0x277
	msrVMXBasic       = 0x480
	msrEFER           = 0xc0000080
	msrFSBase         = 0xc0000100
	msrGSBase         = 0xc0000101
	msrKernelGSBase   = 0xc0000102
)

// Start enters VMX operation until the test ends, and keeps the test on its
// thread: subtests, which have threads of their own, must call Start themselves.
// A test that does not run in ring 0, or on a processor without VMX, is skipped.
func Start(t testing.TB) *Machine {
	t.Helper()
	ring0test.Need(t)
	if _, _, ecx, _ := asm.CPUID(1, 0); ecx>>5&1 == 0 {
		t.Skip("this processor has no VMX")
	}
	runtime.LockOSThread()
	t.Cleanup(runtime.UnlockOSThread)

	caps, err := vmcs.ReadCapabilities(processor{}, processor{})
	require.NoError(t, err)
	m := &Machine{TB: t, Caps: caps}
	const lock, outsideSMX = 1 << 0, 1 << 2
	if v := asm.RDMSR(msrFeatureControl); v&lock == 0 {
		asm.WRMSR(msrFeatureControl, v|lock|outsideSMX)
	}
	const vmxe = 1 << 13
	cr0, cr4 := asm.ReadCR0(), asm.ReadCR4()
	asm.WriteCR0((cr0 | caps.CR0Fixed0) & caps.CR0Fixed1)
	asm.WriteCR4((cr4 | caps.CR4Fixed0 | vmxe) & caps.CR4Fixed1)
	t.Cleanup(func() {
		asm.WriteCR4(cr4)
		asm.WriteCR0(cr0)
	})
	m.VMXON = m.Region().Phys()
	require.Equal(t, asm.Succeed, asm.VMXON(m.VMXON))
	t.Cleanup(func() { require.Equal(t, asm.Succeed, asm.VMXOFF()) })
	return m
}

// Pages returns zeroed memory, which is freed when the test ends.
func (m *Machine) Pages(n int) ring0.Pages {
	m.Helper()
	p, err := ring0.AllocPages(n)
	require.NoError(m, err)
	m.Cleanup(func() { require.NoError(m, p.Free()) })
	return p
}

// Region returns a VMCS region that bears the processor's revision identifier
// (SDM Vol. 3C 25.2).
func (m *Machine) Region() ring0.Pages {
	m.Helper()
	p := m.Pages(1)
	binary.LittleEndian.PutUint32(p.Bytes(), uint32(asm.RDMSR(msrVMXBasic))&0x7fffffff)
	return p
}

// Load makes region the current VMCS, cleared.
func (m *Machine) Load(region ring0.Pages) {
	m.Helper()
	require.Equal(m, asm.Succeed, asm.VMCLEAR(region.Phys()))
	require.Equal(m, asm.Succeed, asm.VMPTRLD(region.Phys()))
}

// A control is one of package vmcs' types of control bits.
type control interface {
	~uint32 | ~uint64
	ControlGroup() vmcs.ControlGroup
}

// Has tells whether the processor allows that all of these control bits are 1.
func Has[C control](m *Machine, bits C) bool {
	return uint64(bits)&^m.Caps.Controls[bits.ControlGroup()].May1 == 0
}
