package asm_test

import (
	"encoding/binary"
	"os"
	"runtime"
	"testing"

	"github.com/govtx/vtx/asm"
	"github.com/govtx/vtx/internal/require"
	"github.com/govtx/vtx/internal/ring0test"
	"github.com/govtx/vtx/ring0"
)

// What the tests in ring 0 share: VMX operation, and a small guest.

func TestMain(m *testing.M) { os.Exit(ring0test.Main(m)) }

// needRing0 skips the test unless it runs in ring 0, and keeps it on one thread
// for its duration.
func needRing0(t testing.TB) {
	t.Helper()
	ring0test.Need(t)
	if _, _, ecx, _ := asm.CPUID(1, 0); ecx>>5&1 == 0 {
		t.Skip("this processor has no VMX; QEMU's, which is such, also raises few faults")
	}
	runtime.LockOSThread()
	t.Cleanup(runtime.UnlockOSThread)
}

func pages(t testing.TB, n int) ring0.Pages {
	t.Helper()
	p, err := ring0.AllocPages(n)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, p.Free()) })
	return p
}

// region returns a page that begins with the VMCS revision identifier
// (SDM Vol. 3C 25.2, 25.11.5).
func region(t testing.TB) ring0.Pages {
	t.Helper()
	p := pages(t, 1)
	binary.LittleEndian.PutUint32(p.Bytes(), uint32(asm.RDMSR(0x480))&0x7fffffff)
	return p
}

// prepareVMX brings CR0 and CR4 in line with the fixed-bit MSRs, until the test
// ends (SDM Vol. 3C 24.8).
func prepareVMX(t testing.TB) {
	t.Helper()
	needRing0(t)
	if asm.RDMSR(0x3a)&1 == 0 {
		asm.WRMSR(0x3a, asm.RDMSR(0x3a)|5)
	}
	cr0, cr4 := asm.ReadCR0(), asm.ReadCR4()
	asm.WriteCR0(cr0&asm.RDMSR(0x487) | asm.RDMSR(0x486))
	asm.WriteCR4(cr4&asm.RDMSR(0x489) | asm.RDMSR(0x488))
	t.Cleanup(func() {
		asm.WriteCR0(cr0)
		asm.WriteCR4(cr4)
	})
}

// startVMX enters VMX operation until the test ends, and returns the VMXON
// region.
func startVMX(t testing.TB) ring0.Pages {
	t.Helper()
	prepareVMX(t)
	on := region(t)
	require.Equal(t, asm.Succeed, asm.VMXON(on.Phys()))
	t.Cleanup(func() { require.Equal(t, asm.Succeed, asm.VMXOFF()) })
	return on
}

// VMCS fields (SDM Vol. 3D appendix B).
const (
	fieldLink           = 0x2800
	fieldPinBased       = 0x4000
	fieldPrimary        = 0x4002
	fieldExceptions     = 0x4004
	fieldExitControls   = 0x400c
	fieldEntryControls  = 0x4012
	fieldError          = 0x4400
	fieldReason         = 0x4402
	fieldQualification  = 0x6400
	fieldGuestCR4       = 0x6804
	fieldGuestRIP       = 0x681e
	fieldGuestRFLAGS    = 0x6820
	fieldHostCS         = 0x0c02
	fieldHostCR4        = 0x6c04
	fieldHostRSP        = 0x6c14
	fieldHostRIP        = 0x6c16
	primaryHLT          = 1 << 7
	primaryIO           = 1 << 24
	exitHost64          = 1 << 9
	entryGuest64        = 1 << 9
	reasonException     = 0
	reasonCPUID         = 10
	reasonHLT           = 12
	reasonVMCALL        = 18
	reasonIO            = 30
	reasonBadGuest      = 1<<31 | 33
	errorNotClear       = 4
	errorNotLaunched    = 5
	errorControls       = 7
	errorHostState      = 8
	errorUnsupported    = 12
	errorReadOnly       = 13
	errorVMXONInRoot    = 15
	errorInvalidOperand = 28
)

// A vm is a guest in 64-bit mode with the host's descriptor tables and page
// tables of its own, which map the first 4 GiB to themselves. Every exception
// in it exits.
type vm struct {
	testing.TB
	asm.Guest
	vmcs ring0.Pages
	data ring0.Pages // for the guest's use; its stack grows down from the end
	code ring0.Pages
}

// newVM makes a vm that will run code, and makes its VMCS the current one.
func newVM(t testing.TB, code ...byte) *vm {
	t.Helper()
	startVMX(t)
	v := &vm{TB: t, vmcs: region(t), data: pages(t, 2), code: pages(t, 1)}
	copy(v.code.Bytes(), code)
	require.Equal(t, asm.Succeed, asm.VMCLEAR(v.vmcs.Phys()))
	require.Equal(t, asm.Succeed, asm.VMPTRLD(v.vmcs.Phys()))
	v.controls()
	v.segments()
	v.state()
	v.RIP = v.code.Phys()
	return v
}

func (v *vm) write(field uint32, value uint64) {
	v.Helper()
	require.Equal(v, asm.Succeed, asm.VMWRITE(field, value), "field 0x%x", field)
}

func (v *vm) read(field uint32) uint64 {
	v.Helper()
	value, status := asm.VMREAD(field)
	require.Equal(v, asm.Succeed, status, "field 0x%x", field)
	return value
}

// control writes a control field: what is wanted, and what must be
// (SDM Vol. 3D A.3). Its MSR is the true one, if there are such.
func (v *vm) control(field, msr uint32, want uint64) {
	v.Helper()
	if asm.RDMSR(0x480)>>55&1 != 0 {
		msr += 0x48d - 0x481
	}
	allowed := asm.RDMSR(msr)
	want |= allowed & 0xffffffff
	require.Zero(v, want&^(allowed>>32), "controls in MSR 0x%x", msr)
	v.write(field, want)
}

func (v *vm) controls() {
	v.control(fieldPinBased, 0x481, 0)
	v.control(fieldPrimary, 0x482, primaryHLT|primaryIO)
	v.control(fieldExitControls, 0x483, exitHost64)
	v.control(fieldEntryControls, 0x484, entryGuest64)
	v.write(fieldExceptions, 0xffffffff)
	for _, field := range []uint32{
		0x4006, 0x4008, // page-fault error code: every page fault exits
		0x400a,                                 // CR3-target count
		0x400e, 0x4010, 0x4014, 0x4016, 0x4018, // MSR areas, event injection
		0x6000, 0x6002, 0x6004, 0x6006, // CR0 and CR4 masks and shadows
	} {
		v.write(field, 0)
	}
	v.write(fieldLink, ^uint64(0))
}

func (v *vm) segments() {
	gdt, idt := asm.SGDT(), asm.SIDT()
	descriptors, err := ring0.Physical(gdt.Base, int(gdt.Limit)+1)
	require.NoError(v, err)

	tr := asm.STR()
	d := descriptors[tr&^7:]
	trBase := uint64(binary.LittleEndian.Uint16(d[2:])) | uint64(d[4])<<16 | uint64(d[7])<<24 |
		uint64(binary.LittleEndian.Uint32(d[8:]))<<32
	trLimit, ok := asm.LSL(tr)
	require.True(v, ok)

	fs, gs := asm.RDMSR(0xc0000100), asm.RDMSR(0xc0000101)
	base := [8]uint64{4: fs, 5: gs, 7: trBase}
	for i, selector := range [8]uint16{asm.ReadES(), asm.ReadCS(), asm.ReadSS(), asm.ReadDS(), asm.ReadFS(), asm.ReadGS(), 0, tr} {
		n := uint32(2 * i)
		rights, usable := asm.LAR(selector)
		limit, _ := asm.LSL(selector)
		access := uint64(rights >> 8 & 0xf0ff)
		if !usable {
			access = 1 << 16
		}
		if i == 7 {
			limit, access = trLimit, 0x8b // a busy TSS
		}
		v.write(0x800+n, uint64(selector))
		v.write(0x4800+n, uint64(limit))
		v.write(0x4814+n, access)
		v.write(0x6806+n, base[i])
		if i < 6 {
			v.write(0xc00+n, uint64(selector&^7))
		}
	}
	v.write(0xc0c, uint64(tr&^7))
	v.write(0x4810, uint64(gdt.Limit))
	v.write(0x4812, uint64(idt.Limit))
	v.write(0x6816, gdt.Base)
	v.write(0x6818, idt.Base)
	v.write(0x6c06, fs)
	v.write(0x6c08, gs)
	v.write(0x6c0a, trBase)
	v.write(0x6c0c, gdt.Base)
	v.write(0x6c0e, idt.Base)
}

func (v *vm) state() {
	for _, guest := range []struct {
		field uint32
		value uint64
	}{
		{0x2802, 0},                           // IA32_DEBUGCTL
		{0x4824, 0},                           // interruptibility
		{0x4826, 0},                           // active
		{0x6802, v.pageTables()},              // CR3
		{0x681a, 0x400},                       // DR7
		{0x681c, v.data.Phys() + 2*4096 - 16}, // RSP
		{fieldGuestRFLAGS, 2},
		{0x6822, 0}, // pending debug exceptions
		{0x6c02, asm.ReadCR3()},
	} {
		v.write(guest.field, guest.value)
	}
	for guest, host := range map[uint32]uint32{0x482a: 0x4c00, 0x6824: 0x6c10, 0x6826: 0x6c12} {
		msr := map[uint32]uint32{0x482a: 0x174, 0x6824: 0x175, 0x6826: 0x176}[guest]
		v.write(guest, asm.RDMSR(msr))
		v.write(host, asm.RDMSR(msr))
	}
	v.controlRegisters()
}

// controlRegisters gives host and guest CR0 and CR4 as they are now.
func (v *vm) controlRegisters() {
	for _, field := range []uint32{0x6800, 0x6c00} {
		v.write(field, asm.ReadCR0())
	}
	for _, field := range []uint32{fieldGuestCR4, fieldHostCR4} {
		v.write(field, asm.ReadCR4())
	}
}

// pageTables maps the first 4 GiB to themselves by pages of 2 MiB, and returns
// the value for CR3.
func (v *vm) pageTables() uint64 {
	p := pages(v, 6)
	entry := func(i int, value uint64) { binary.LittleEndian.PutUint64(p.Bytes()[8*i:], value) }
	entry(0, p.Phys()+4096|3)
	for i := range 4 {
		entry(512+i, p.Phys()+uint64(2+i)*4096|3)
	}
	for i := range 4 * 512 {
		entry(1024+i, uint64(i)<<21|0x83)
	}
	return p.Phys()
}

// enter runs the guest up to an exit for reason.
func (v *vm) enter(reason uint32) {
	v.Helper()
	if s := v.Enter(); s != asm.Succeed {
		e, _ := asm.VMREAD(fieldError)
		v.Fatalf("%v, VM-instruction error %d", s, e)
	}
	if v.Reason != reason {
		q, _ := asm.VMREAD(fieldQualification)
		info, _ := asm.VMREAD(0x4404)
		v.Fatalf("exit reason 0x%x at RIP 0x%x, qualification 0x%x, interruption 0x%x; want 0x%x", v.Reason, v.RIP, q, info, reason)
	}
}

// call runs the guest up to its next VMCALL, and has it go on behind that.
func (v *vm) call() {
	v.Helper()
	v.enter(reasonVMCALL)
	require.Equal(v, uint32(3), v.InstructionLength)
	v.RIP += uint64(v.InstructionLength)
}
