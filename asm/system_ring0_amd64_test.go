package asm_test

import (
	"encoding/binary"
	"testing"
	"unsafe"

	"github.com/govtx/vtx/internal/require"
	"pgregory.net/rapid"

	"github.com/govtx/vtx/asm"
	"github.com/govtx/vtx/ring0"
)

const (
	kernelGSBase = 0xc0000102
	notCanonical = 1 << 63
	x2APICID     = 0x802 // #GP while the local APIC is not in x2APIC mode
)

func TestMSR(t *testing.T) {
	needRing0(t)
	old := asm.RDMSR(kernelGSBase)
	for _, value := range []uint64{0, 1, 0x7fff_1234_5678, ^uint64(0)} {
		asm.WRMSR(kernelGSBase, value)
		require.Equal(t, value, asm.RDMSR(kernelGSBase))
		require.NoError(t, asm.WRMSRSafe(kernelGSBase, ^value>>1&0x7fff_ffff_ffff))
		got, err := asm.RDMSRSafe(kernelGSBase)
		require.NoError(t, err)
		require.Equal(t, ^value>>1&0x7fff_ffff_ffff, got)
	}
	asm.WRMSR(kernelGSBase, 42)
	fault := requireFault(t, "WRMSR", vectorGP, func() { asm.WRMSR(kernelGSBase, notCanonical) })
	require.Zero(t, fault.Code)
	err := asm.WRMSRSafe(kernelGSBase, notCanonical)
	require.ErrorAs(t, err, &fault)
	require.Equal(t, uint8(vectorGP), fault.Vector)
	require.Zero(t, fault.Code)
	require.Equal(t, uint64(kernelGSBase), fault.Operand)
	require.NotZero(t, fault.PC)
	require.ErrorContains(t, err, "WRMSR of 0xc0000102")
	require.Equal(t, uint64(42), asm.RDMSR(kernelGSBase))
	asm.WRMSR(kernelGSBase, old)

	if _, _, c, _ := asm.CPUID(1, 0); c>>21&1 != 0 && asm.RDMSR(0x1b)>>10&1 == 0 { // not in x2APIC mode
		requireFault(t, "RDMSR", vectorGP, func() { asm.RDMSR(x2APICID) })
		value, err := asm.RDMSRSafe(x2APICID)
		require.ErrorAs(t, err, &fault)
		require.Equal(t, uint64(x2APICID), fault.Operand)
		require.Zero(t, value)
	}
	for range 1000 { // the stack stays where it is
		require.Error(t, asm.WRMSRSafe(kernelGSBase, notCanonical))
	}
	require.Zero(t, testing.AllocsPerRun(100, func() {
		_, _ = asm.RDMSRSafe(kernelGSBase)
		_ = asm.WRMSRSafe(kernelGSBase, old)
	}))
}

func TestControlRegisters(t *testing.T) {
	needRing0(t)
	const NE, AM, DE = 1 << 5, 1 << 18, 1 << 3
	cr0 := asm.ReadCR0()
	require.Equal(t, uint64(1<<31|1), cr0&(1<<31|1), "paging and protection")
	asm.WriteCR0(cr0 ^ AM)
	require.Equal(t, cr0^AM, asm.ReadCR0())
	asm.WriteCR0(cr0)
	requireFault(t, "MOV to CR0", vectorGP, func() { asm.WriteCR0(cr0 &^ 1) })
	require.Equal(t, cr0, asm.ReadCR0())

	rapid.Check(t, func(t *rapid.T) {
		value := rapid.Uint64().Draw(t, "CR2")
		asm.CLI() // a page fault in between would change it
		asm.WriteCR2(value)
		got := asm.ReadCR2()
		asm.STI()
		require.Equal(t, value, got)
	})

	cr3 := asm.ReadCR3()
	require.NotZero(t, cr3)
	asm.WriteCR3(cr3)
	require.Equal(t, cr3, asm.ReadCR3())

	cr4 := asm.ReadCR4()
	require.NotZero(t, cr4>>5&1, "PAE")
	asm.WriteCR4(cr4 ^ DE)
	require.Equal(t, cr4^DE, asm.ReadCR4())
	asm.WriteCR4(cr4)
	requireFault(t, "MOV to CR4", vectorGP, func() { asm.WriteCR4(1 << 40) })

	asm.CLI()
	cr8 := asm.ReadCR8()
	asm.WriteCR8(5)
	got := asm.ReadCR8()
	asm.WriteCR8(cr8)
	asm.STI()
	require.Equal(t, uint64(5), got)
	requireFault(t, "MOV to CR8", vectorGP, func() { asm.WriteCR8(16) })
}

func TestDebugRegisters(t *testing.T) {
	needRing0(t)
	dr7 := asm.ReadDR(7)
	require.Equal(t, uint64(0x400), dr7&^0x3ff, "no breakpoint, and bit 10 set")
	for n := range 4 {
		old := asm.ReadDR(n)
		asm.WriteDR(n, 0x1000*uint64(n+1)+0x7000_0000_0000)
		require.Equal(t, 0x1000*uint64(n+1)+0x7000_0000_0000, asm.ReadDR(n))
		t.Cleanup(func() { asm.WriteDR(n, old) })
	}
	for n := range 4 { // none has written another
		require.Equal(t, 0x1000*uint64(n+1)+0x7000_0000_0000, asm.ReadDR(n))
	}
	dr6 := asm.ReadDR(6)
	asm.WriteDR(6, dr6^1)
	require.Equal(t, dr6^1, asm.ReadDR(6))
	asm.WriteDR(6, dr6)
	asm.WriteDR(7, 0x400|0x100) // LE has no effect on this processor's breakpoints
	require.Equal(t, uint64(0x500), asm.ReadDR(7))
	asm.WriteDR(7, dr7)
	requireFault(t, "MOV to DR", vectorGP, func() { asm.WriteDR(6, 1<<32) })
	requireFault(t, "MOV to DR", vectorGP, func() { asm.WriteDR(7, 1<<32) })
}

func TestDescriptorTables(t *testing.T) {
	needRing0(t)
	gdt, idt := asm.SGDT(), asm.SIDT()
	asm.CLI()
	asm.LGDT(gdt)
	longer := idt
	longer.Limit++
	asm.LIDT(longer)
	got := asm.SIDT()
	asm.LIDT(idt)
	asm.STI()
	require.Equal(t, longer, got)
	require.Equal(t, gdt, asm.SGDT())
	require.Equal(t, idt, asm.SIDT())
	requireFault(t, "LGDT", vectorGP, func() { asm.LGDT(asm.DescriptorTable{Base: notCanonical}) })
	requireFault(t, "LIDT", vectorGP, func() { asm.LIDT(asm.DescriptorTable{Base: notCanonical}) })
	require.Equal(t, gdt, asm.SGDT())

	ldt := asm.SLDT()
	asm.LLDT(0)
	require.Zero(t, asm.SLDT())
	fault := requireFault(t, "LLDT", vectorGP, func() { asm.LLDT(asm.ReadCS()) })
	require.Equal(t, uint32(asm.ReadCS()), fault.Code)
	asm.LLDT(ldt)

	// The task register's segment is busy, until its type says otherwise.
	tr := asm.STR()
	require.NotZero(t, tr)
	fault = requireFault(t, "LTR", vectorGP, func() { asm.LTR(tr) })
	require.Equal(t, uint32(tr), fault.Code)
	table, err := ring0.Physical(gdt.Base, int(gdt.Limit)+1)
	require.NoError(t, err)
	table[int(tr)+5] = 0x89
	asm.LTR(tr)
	require.Equal(t, tr, asm.STR())
	require.Equal(t, byte(0x8b), table[int(tr)+5])

	// LAR and LSL agree with the descriptor.
	rights, ok := asm.LAR(tr)
	require.True(t, ok)
	require.Equal(t, uint32(0x8b00), rights&0xff00)
	limit, ok := asm.LSL(tr)
	require.True(t, ok)
	require.Equal(t, uint32(binary.LittleEndian.Uint16(table[tr:])), limit)
	_, ok = asm.LAR(gdt.Limit&^7 + 8)
	require.False(t, ok, "beyond the table")
}

func TestSegmentBases(t *testing.T) {
	prepareVMX(t) // for CR4, which it restores
	if _, b, _, _ := asm.CPUID(7, 0); b&1 == 0 {
		t.Skip("no FSGSBASE")
	}
	cr4 := asm.ReadCR4()
	asm.WriteCR4(cr4 &^ (1 << 16))
	requireFault(t, "RDFSBASE", vectorUD, func() { asm.RDFSBASE() })
	requireFault(t, "WRGSBASE", vectorUD, func() { asm.WRGSBASE(0) })
	asm.WriteCR4(cr4 | 1<<16)
	fs, gs := asm.RDFSBASE(), asm.RDGSBASE()
	require.Equal(t, asm.RDMSR(0xc0000100), fs)
	require.Equal(t, asm.RDMSR(0xc0000101), gs)
	asm.WRFSBASE(fs)
	require.Equal(t, fs, asm.RDFSBASE())
	asm.WRGSBASE(0x1234_5678_9abc)
	require.Equal(t, uint64(0x1234_5678_9abc), asm.RDGSBASE())
	require.Equal(t, uint64(0x1234_5678_9abc), asm.RDMSR(0xc0000101))
	requireFault(t, "WRGSBASE", vectorGP, func() { asm.WRGSBASE(notCanonical) })
	asm.WRGSBASE(gs)
	asm.WriteCR4(cr4)
}

func TestXSETBV(t *testing.T) {
	needRing0(t)
	area := aligned(64, 1<<14)
	if asm.ReadCR4()>>18&1 == 0 {
		requireFault(t, "XSETBV", vectorUD, func() { asm.XSETBV(0, 1) })
		requireFault(t, "XGETBV", vectorUD, func() { asm.XGETBV(0) })
		var fault *asm.Fault
		require.ErrorAs(t, asm.XSETBVSafe(0, 1), &fault)
		require.Equal(t, uint8(vectorUD), fault.Vector)
		return
	}
	xcr0 := asm.XGETBV(0)
	asm.XSETBV(0, xcr0)
	require.NoError(t, asm.XSETBVSafe(0, xcr0))
	for _, bad := range []uint64{0, 2, 5, 1 << 62} {
		requireFault(t, "XSETBV", vectorGP, func() { asm.XSETBV(0, bad) })
		var fault *asm.Fault
		require.ErrorAs(t, asm.XSETBVSafe(0, bad), &fault)
		require.Equal(t, uint8(vectorGP), fault.Vector)
	}
	requireFault(t, "XSETBV", vectorGP, func() { asm.XSETBV(5, 1) })
	requireFault(t, "XGETBV", vectorGP, func() { asm.XGETBV(5) })
	require.Equal(t, xcr0, asm.XGETBV(0))
	binary.LittleEndian.PutUint64(area[512:], 1<<62)
	requireFault(t, "XRSTOR", vectorGP, func() { asm.XRSTOR(area, 1) })

	fx := (*[512]byte)(aligned(16, 512))
	binary.LittleEndian.PutUint32(fx[24:], 1<<31)
	requireFault(t, "FXRSTOR", vectorGP, func() { asm.FXRSTOR(fx) })
}

func TestTLBAndCaches(t *testing.T) {
	needRing0(t)
	asm.INVLPG(0x1000)
	asm.INVLPG(notCanonical) // no fault: the address is not used
	asm.WBINVD()
	if _, b, _, _ := asm.CPUID(7, 0); b>>10&1 == 0 {
		t.Skip("no INVPCID")
	}
	asm.INVPCID(2, new([2]uint64))
	asm.INVPCID(0, &[2]uint64{0, uint64(uintptr(unsafe.Pointer(t)))})
	requireFault(t, "INVPCID", vectorGP, func() { asm.INVPCID(9, new([2]uint64)) })
	requireFault(t, "INVPCID", vectorGP, func() { asm.INVPCID(0, &[2]uint64{1 << 12, 0}) })
	requireFault(t, "INVPCID", 14, func() { asm.INVPCID(2, nil) })
}

func TestInterruptsOff(t *testing.T) {
	needRing0(t)
	asm.CLI()
	off := asm.ReadRFLAGS()
	asm.STI()
	require.Zero(t, off&(1<<9))
	require.NotZero(t, asm.ReadRFLAGS()&(1<<9))
}

// TestPorts uses what every PC has: the PCI configuration ports
// (PCI Local Bus Specification 3.0, 3.2.2.3.2).
func TestPorts(t *testing.T) {
	needRing0(t)
	const address, data = 0xcf8, 0xcfc
	asm.OUT32(address, 0x80000000) // bus 0, device 0, register 0
	require.Equal(t, uint32(0x80000000), asm.IN32(address))
	id := asm.IN32(data)
	require.NotEqual(t, ^uint32(0), id, "a host bridge")
	require.Equal(t, uint16(id), asm.IN16(data))
	require.Equal(t, uint16(id>>16), asm.IN16(data+2))
	for i := range uint16(4) {
		require.Equal(t, uint8(id>>(8*i)), asm.IN8(data+i))
	}
}

// A guest that runs this package's own stubs shows what they do to the
// processor.
func newStubVM(t testing.TB) *vm {
	return newVM(t, 0x0f, 0x01, 0xc1) // vmcall, where stubs return to
}

// callStub has the guest call a stub with arguments.
func (v *vm) callStub(stub string, args ...uint64) {
	entry, _ := asm.StubAddr(stub)
	stack := v.data.Bytes()[4096 : 2*4096-16]
	clear(stack[2048:])
	frame := stack[2048:]
	binary.LittleEndian.PutUint64(frame, v.code.Phys())
	for i, a := range args {
		binary.LittleEndian.PutUint64(frame[8+8*i:], a)
	}
	v.write(0x681c, v.data.Phys()+4096+2048)
	v.RIP = entry
}

// TestPortExits: the exit's qualification says how wide an access is, in which
// direction, and to which port (SDM Vol. 3C table 28-5).
func TestPortExits(t *testing.T) {
	v := newStubVM(t)
	const port = 0xe7a5
	for _, c := range []struct {
		stub          string
		args          []uint64
		qualification uint64
		rax           uint64
	}{
		{"IN8", []uint64{port}, 8, 0},
		{"IN16", []uint64{port}, 8 | 1, 0},
		{"IN32", []uint64{port}, 8 | 3, 0},
		{"OUT8", []uint64{port | 0x9c<<16}, 0, 0x9c},
		{"OUT16", []uint64{port | 0x9c5d<<16}, 1, 0x9c5d},
		{"OUT32", []uint64{port | 0x9c5d1234<<32}, 3, 0x9c5d1234},
	} {
		v.callStub(c.stub, c.args...)
		v.Regs[asm.RAX] = 0
		v.enter(reasonIO)
		_, at := asm.StubAddr(c.stub)
		require.Equal(t, at, v.RIP)
		require.Equal(t, port<<16|c.qualification, v.read(fieldQualification), c.stub)
		require.Equal(t, uint64(port), v.Regs[asm.RDX]&0xffff)
		mask := uint64(1)<<(8*(c.qualification&7+1)) - 1
		require.Equal(t, c.rax, v.Regs[asm.RAX]&mask)

		v.Regs[asm.RAX] = 0xf1e2d3c4b5a69788
		v.RIP += uint64(v.InstructionLength)
		v.enter(reasonVMCALL) // it has returned
		if c.qualification&8 != 0 {
			result := v.data.Bytes()[4096+2048+16:]
			require.Equal(t, 0xf1e2d3c4b5a69788&mask, binary.LittleEndian.Uint64(result), c.stub)
		}
	}
}

func TestHLTExit(t *testing.T) {
	v := newStubVM(t)
	v.callStub("HLT")
	v.enter(reasonHLT)
	v.RIP++
	v.enter(reasonVMCALL)
}

// TestVMCALL: the hypervisor sees the registers of CallRegs, and the guest what
// the hypervisor leaves there.
func TestVMCALL(t *testing.T) {
	v := newStubVM(t)
	order := []int{asm.RAX, asm.RBX, asm.RCX, asm.RDX, asm.RSI, asm.RDI, asm.R8, asm.R9, asm.R10, asm.R11}
	rapid.Check(t, func(t *rapid.T) {
		for i := range order {
			binary.LittleEndian.PutUint64(v.data.Bytes()[8*i:], rapid.Uint64().Draw(t, "in"))
		}
		kept := [...]int{asm.RBP, asm.R13, asm.R14, asm.R15}
		for i, r := range kept {
			v.Regs[r] = uint64(i + 100)
		}
		v.callStub("VMCALL", v.data.Phys())
		v.enter(reasonVMCALL)
		out := make([]uint64, len(order))
		for i, r := range order {
			require.Equal(t, binary.LittleEndian.Uint64(v.data.Bytes()[8*i:]), v.Regs[r])
			out[i] = rapid.Uint64().Draw(t, "out")
			v.Regs[r] = out[i]
		}
		v.Regs[asm.R12] = 0 // not for the guest to rely on
		v.RIP += 3
		v.enter(reasonVMCALL)
		require.Equal(t, v.code.Phys(), v.RIP)
		for i := range order {
			require.Equal(t, out[i], binary.LittleEndian.Uint64(v.data.Bytes()[8*i:]))
		}
		for i, r := range kept {
			require.Equal(t, uint64(i+100), v.Regs[r])
		}
	})
}

// TestVMFUNC: without VM functions it is #UD in the guest, with its registers
// in place.
func TestVMFUNC(t *testing.T) {
	v := newStubVM(t)
	v.callStub("VMFUNC", 0x11|0x22<<32)
	v.enter(reasonException)
	require.Equal(t, uint64(1<<31|3<<8|vectorUD), v.read(0x4404))
	require.Equal(t, uint64(0x11), v.Regs[asm.RAX])
	require.Equal(t, uint64(0x22), v.Regs[asm.RCX])
}
