package asm_test

import (
	"encoding/binary"
	"errors"
	"runtime"
	"testing"

	"github.com/govtx/vtx/internal/require"

	"github.com/govtx/vtx/asm"
)

// ring0Calls are the functions that need privilege level 0, each with the
// instruction that its Fault names. None of them is called there.
var ring0Calls = []struct {
	instruction string
	call        func()
}{
	{"VMXON", func() { asm.VMXON(0) }},
	{"VMXOFF", func() { asm.VMXOFF() }},
	{"VMCLEAR", func() { asm.VMCLEAR(0) }},
	{"VMPTRLD", func() { asm.VMPTRLD(0) }},
	{"VMPTRST", func() { asm.VMPTRST() }},
	{"VMREAD", func() { asm.VMREAD(0x4402) }},
	{"VMWRITE", func() { asm.VMWRITE(0x681e, 0) }},
	{"VMLAUNCH", func() { new(asm.Guest).Enter() }},
	{"INVEPT", func() { asm.INVEPT(2, new([2]uint64)) }},
	{"INVVPID", func() { asm.INVVPID(2, new([2]uint64)) }},
	{"VMCALL", func() { asm.VMCALL(new(asm.CallRegs)) }},
	{"VMFUNC", func() { asm.VMFUNC(0, 0) }},
	{"RDMSR", func() { asm.RDMSR(0x10) }},
	{"WRMSR", func() { asm.WRMSR(0x10, 0) }},
	{"MOV from CR0", func() { asm.ReadCR0() }},
	{"MOV from CR2", func() { asm.ReadCR2() }},
	{"MOV from CR3", func() { asm.ReadCR3() }},
	{"MOV from CR4", func() { asm.ReadCR4() }},
	{"MOV from CR8", func() { asm.ReadCR8() }},
	{"MOV to CR0", func() { asm.WriteCR0(0) }},
	{"MOV to CR2", func() { asm.WriteCR2(0) }},
	{"MOV to CR3", func() { asm.WriteCR3(0) }},
	{"MOV to CR4", func() { asm.WriteCR4(0) }},
	{"MOV to CR8", func() { asm.WriteCR8(0) }},
	{"MOV from DR", func() { asm.ReadDR(7) }},
	{"MOV to DR", func() { asm.WriteDR(7, 0) }},
	{"XSETBV", func() { asm.XSETBV(0, 1) }},
	{"LGDT", func() { asm.LGDT(asm.DescriptorTable{}) }},
	{"LIDT", func() { asm.LIDT(asm.DescriptorTable{}) }},
	{"LLDT", func() { asm.LLDT(0) }},
	{"LTR", func() { asm.LTR(0) }},
	{"INVLPG", func() { asm.INVLPG(0) }},
	{"INVPCID", func() { asm.INVPCID(2, new([2]uint64)) }},
	{"WBINVD", func() { asm.WBINVD() }},
	{"IN", func() { asm.IN8(0x80) }},
	{"IN", func() { asm.IN16(0x80) }},
	{"IN", func() { asm.IN32(0x80) }},
	{"OUT", func() { asm.OUT8(0x80, 0) }},
	{"OUT", func() { asm.OUT16(0x80, 0) }},
	{"OUT", func() { asm.OUT32(0x80, 0) }},
	{"HLT", func() { asm.HLT() }},
	{"CLI", func() { asm.CLI() }},
	{"STI", func() { asm.STI() }},
	{"RDFSBASE", func() { asm.RDFSBASE() }},
	{"RDGSBASE", func() { asm.RDGSBASE() }},
	{"WRFSBASE", func() { asm.WRFSBASE(0) }},
	{"WRGSBASE", func() { asm.WRGSBASE(0) }},
	{"RDMSR", func() { panicIf(asm.RDMSRSafe(0x10)) }},
	{"WRMSR", func() { panicIf(0, asm.WRMSRSafe(0x10, 0)) }},
	{"XSETBV", func() { panicIf(0, asm.XSETBVSafe(0, 1)) }},
}

// userCalls are the functions that an ordinary process may call. Those that
// need something of the processor may be refused there.
var userCalls = []struct {
	instruction string
	call        func()
}{
	{"CPUID", func() { asm.CPUID(0, 0) }},
	{"XGETBV", func() { asm.XGETBV(0) }},
	{"SGDT", func() { asm.SGDT() }},
	{"SIDT", func() { asm.SIDT() }},
	{"SLDT", func() { asm.SLDT() }},
	{"STR", func() { asm.STR() }},
	{"LAR", func() { asm.LAR(0x10) }},
	{"LSL", func() { asm.LSL(0x10) }},
	{"RDTSC", func() { asm.RDTSC() }},
	{"RDTSCP", func() { asm.RDTSCP() }},
	{"PAUSE", func() { asm.PAUSE() }},
	{"PUSHF", func() { asm.ReadRFLAGS() }},
	{"MOV from segment register", func() { asm.ReadCS() }},
	{"MOV from segment register", func() { asm.ReadDS() }},
	{"MOV from segment register", func() { asm.ReadES() }},
	{"MOV from segment register", func() { asm.ReadFS() }},
	{"MOV from segment register", func() { asm.ReadGS() }},
	{"MOV from segment register", func() { asm.ReadSS() }},
	{"XSAVE", func() { asm.XSAVE(aligned(64, 4096), 1) }},
	{"XRSTOR", func() { asm.XRSTOR(initialArea(), 1) }},
	{"FXSAVE", func() { asm.FXSAVE((*[512]byte)(aligned(16, 512))) }},
	{"FXRSTOR", func() { asm.FXRSTOR((*[512]byte)(initialArea())) }},
	{"XSAVE", func() { panicIf(0, new(asm.Guest).KeepVector()) }},
}

// initialArea returns an XSAVE or FXSAVE area in initial state.
func initialArea() []byte {
	a := aligned(64, 576)
	binary.LittleEndian.PutUint16(a, 0x37f)
	binary.LittleEndian.PutUint32(a[24:], 0x1f80)
	return a
}

func panicIf(_ uint64, err error) {
	if err != nil {
		panic(err)
	}
}

// inRing0 tells that the test runs at privilege level 0.
func inRing0() bool { return runtime.GOARCH == "amd64" && asm.ReadCS()&3 == 0 }

func TestPrivileged(t *testing.T) {
	if inRing0() {
		t.Skip("the processor would obey")
	}
	want := asm.ErrNotSupported
	if runtime.GOARCH == "amd64" {
		want = asm.ErrPrivilege
	}
	for _, c := range ring0Calls {
		err := asm.Try(c.call)
		var f *asm.Fault
		require.ErrorAs(t, err, &f, c.instruction)
		require.ErrorIs(t, err, want, c.instruction)
		require.Equal(t, c.instruction, f.Instruction)
		require.Zero(t, f.Vector)
		require.Zero(t, f.PC)
		require.Contains(t, err.Error(), c.instruction)
	}
}

func TestUnprivileged(t *testing.T) {
	for _, c := range userCalls {
		err := asm.Try(c.call)
		if runtime.GOARCH != "amd64" {
			require.ErrorIs(t, err, errors.ErrUnsupported, c.instruction)
		} else if err != nil {
			t.Logf("refused: %v", err)
		}
		if err != nil {
			var f *asm.Fault
			require.ErrorAs(t, err, &f)
			require.Equal(t, c.instruction, f.Instruction)
			require.True(t, f.Err != nil || f.Vector != 0)
		}
	}
}
