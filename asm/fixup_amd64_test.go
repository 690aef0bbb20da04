package asm

import (
	"bytes"
	"debug/elf"
	"encoding/hex"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"unsafe"

	"github.com/govtx/vtx/internal/require"
)

// encodings are the instructions of this package in the order of the table of
// fixups: the stub, the bytes (SDM Vol. 2 and Vol. 3C 31.3), GNU objdump's
// reading of them, and where a fault goes on.
var encodings = []struct {
	stub, bytes, text, target string
	op                        op
}{
	{"VMXON", "f3 0f c7 74 24 08", "vmxon QWORD PTR [rsp+0x8]", "faulted", opVMXON},
	{"VMXOFF", "0f 01 c4", "vmxoff", "faulted", opVMXOFF},
	{"VMCLEAR", "66 0f c7 74 24 08", "vmclear QWORD PTR [rsp+0x8]", "faulted", opVMCLEAR},
	{"VMPTRLD", "0f c7 74 24 08", "vmptrld QWORD PTR [rsp+0x8]", "faulted", opVMPTRLD},
	{"VMPTRST", "0f c7 7c 24 08", "vmptrst QWORD PTR [rsp+0x8]", "faulted", opVMPTRST},
	{"VMREAD", "0f 78 c1", "vmread rcx,rax", "faulted", opVMREAD},
	{"VMWRITE", "0f 79 c1", "vmwrite rax,rcx", "faulted", opVMWRITE},
	{"INVEPT", "66 0f 38 80 01", "invept rax,OWORD PTR [rcx]", "faulted", opINVEPT},
	{"INVVPID", "66 0f 38 81 01", "invvpid rax,OWORD PTR [rcx]", "faulted", opINVVPID},
	{"VMCALL", "0f 01 c1", "vmcall", "faulted", opVMCALL},
	{"VMFUNC", "0f 01 d4", "vmfunc", "faulted", opVMFUNC},
	{"enter", "0f 79 ca", "vmwrite rcx,rdx", "enterFaulted", opVMWRITE},
	{"enter", "0f 79 ca", "vmwrite rcx,rdx", "enterFaulted", opVMWRITE},
	{"enter", "0f 79 ca", "vmwrite rcx,rdx", "enterFaulted", opVMWRITE},
	{"enter", "0f 79 ca", "vmwrite rcx,rdx", "enterFaulted", opVMWRITE},
	{"enter", "48 0f ae 2e", "xrstor64 [rsi]", "enterFaulted", opXRSTOR},
	{"enter", "48 0f ae 0e", "fxrstor64 [rsi]", "enterFaulted", opFXRSTOR},
	{"enter", "0f 01 d1", "xsetbv", "launchFaulted", opXSETBV},
	{"enter", "0f 01 c3", "vmresume", "launchFaulted", opVMRESUME},
	{"enter", "0f 01 c2", "vmlaunch", "launchFaulted", opVMLAUNCH},
	{"exited", "0f 78 8b 98 00 00 00", "vmread QWORD PTR [rbx+0x98],rcx", "enterFaulted", opVMREAD},
	{"exited", "0f 78 8b 90 00 00 00", "vmread QWORD PTR [rbx+0x90],rcx", "enterFaulted", opVMREAD},
	{"exited", "0f 78 8b a0 00 00 00", "vmread QWORD PTR [rbx+0xa0],rcx", "enterFaulted", opVMREAD},
	{"exited", "0f 78 8b a8 00 00 00", "vmread QWORD PTR [rbx+0xa8],rcx", "enterFaulted", opVMREAD},
	{"exited", "0f 78 ca", "vmread rdx,rcx", "enterFaulted", opVMREAD},
	{"leaveVector", "0f 01 d1", "xsetbv", "enterFaulted", opXSETBV},
	{"leaveVector", "48 0f ae 26", "xsave64 [rsi]", "enterFaulted", opXSAVE},
	{"leaveVector", "48 0f ae ae c0 fd ff", "xrstor64 [rsi-0x240]", "enterFaulted", opXRSTOR},
	{"leaveVector", "48 0f ae 06", "fxsave64 [rsi]", "enterFaulted", opFXSAVE},
	{"leaveVector", "48 0f ae 8e c0 fd ff", "fxrstor64 [rsi-0x240]", "enterFaulted", opFXRSTOR},
	{"CPUID", "0f a2", "cpuid", "faulted", opCPUID},
	{"RDMSR", "0f 32", "rdmsr", "faulted", opRDMSR},
	{"WRMSR", "0f 30", "wrmsr", "faulted", opWRMSR},
	{"rdmsrSafe", "0f 32", "rdmsr", "safeFaulted", opRDMSR},
	{"wrmsrSafe", "0f 30", "wrmsr", "safeFaulted", opWRMSR},
	{"xsetbvSafe", "0f 01 d1", "xsetbv", "safeFaulted", opXSETBV},
	{"ReadCR0", "0f 20 c0", "mov rax,cr0", "faulted", opReadCR0},
	{"ReadCR2", "0f 20 d0", "mov rax,cr2", "faulted", opReadCR2},
	{"ReadCR3", "0f 20 d8", "mov rax,cr3", "faulted", opReadCR3},
	{"ReadCR4", "0f 20 e0", "mov rax,cr4", "faulted", opReadCR4},
	{"ReadCR8", "44 0f 20 c0", "mov rax,cr8", "faulted", opReadCR8},
	{"WriteCR0", "0f 22 c0", "mov cr0,rax", "faulted", opWriteCR0},
	{"WriteCR2", "0f 22 d0", "mov cr2,rax", "faulted", opWriteCR2},
	{"WriteCR3", "0f 22 d8", "mov cr3,rax", "faulted", opWriteCR3},
	{"WriteCR4", "0f 22 e0", "mov cr4,rax", "faulted", opWriteCR4},
	{"WriteCR8", "44 0f 22 c0", "mov cr8,rax", "faulted", opWriteCR8},
	{"readDR", "0f 21 f8", "mov rax,dr7", "faulted", opReadDR},
	{"readDR", "0f 21 c0", "mov rax,dr0", "faulted", opReadDR},
	{"readDR", "0f 21 c8", "mov rax,dr1", "faulted", opReadDR},
	{"readDR", "0f 21 d0", "mov rax,dr2", "faulted", opReadDR},
	{"readDR", "0f 21 d8", "mov rax,dr3", "faulted", opReadDR},
	{"readDR", "0f 21 f0", "mov rax,dr6", "faulted", opReadDR},
	{"writeDR", "0f 23 f8", "mov dr7,rax", "faulted", opWriteDR},
	{"writeDR", "0f 23 c0", "mov dr0,rax", "faulted", opWriteDR},
	{"writeDR", "0f 23 c8", "mov dr1,rax", "faulted", opWriteDR},
	{"writeDR", "0f 23 d0", "mov dr2,rax", "faulted", opWriteDR},
	{"writeDR", "0f 23 d8", "mov dr3,rax", "faulted", opWriteDR},
	{"writeDR", "0f 23 f0", "mov dr6,rax", "faulted", opWriteDR},
	{"xgetbv", "0f 01 d0", "xgetbv", "faulted", opXGETBV},
	{"XSETBV", "0f 01 d1", "xsetbv", "faulted", opXSETBV},
	{"sgdt", "0f 01 41 06", "sgdt [rcx+0x6]", "faulted", opSGDT},
	{"sidt", "0f 01 49 06", "sidt [rcx+0x6]", "faulted", opSIDT},
	{"sldt", "0f 00 c0", "sldt eax", "faulted", opSLDT},
	{"str", "0f 00 c8", "str eax", "faulted", opSTR},
	{"LGDT", "0f 01 51 06", "lgdt [rcx+0x6]", "faulted", opLGDT},
	{"LIDT", "0f 01 59 06", "lidt [rcx+0x6]", "faulted", opLIDT},
	{"LLDT", "0f 00 d0", "lldt ax", "faulted", opLLDT},
	{"LTR", "0f 00 d8", "ltr ax", "faulted", opLTR},
	{"LAR", "0f 02 c8", "lar ecx,eax", "faulted", opLAR},
	{"LSL", "0f 03 c8", "lsl ecx,eax", "faulted", opLSL},
	{"INVLPG", "0f 01 38", "invlpg BYTE PTR [rax]", "faulted", opINVLPG},
	{"INVPCID", "66 0f 38 82 01", "invpcid rax,[rcx]", "faulted", opINVPCID},
	{"WBINVD", "0f 09", "wbinvd", "faulted", opWBINVD},
	{"RDTSC", "0f 31", "rdtsc", "faulted", opRDTSC},
	{"rdtscp", "0f 01 f9", "rdtscp", "faulted", opRDTSCP},
	{"IN8", "ec", "in al,dx", "faulted", opIN},
	{"IN16", "66 ed", "in ax,dx", "faulted", opIN},
	{"IN32", "ed", "in eax,dx", "faulted", opIN},
	{"OUT8", "ee", "out dx,al", "faulted", opOUT},
	{"OUT16", "66 ef", "out dx,ax", "faulted", opOUT},
	{"OUT32", "ef", "out dx,eax", "faulted", opOUT},
	{"HLT", "f4", "hlt", "faulted", opHLT},
	{"CLI", "fa", "cli", "faulted", opCLI},
	{"STI", "fb", "sti", "faulted", opSTI},
	{"RDFSBASE", "f3 48 0f ae c0", "rdfsbase rax", "faulted", opRDFSBASE},
	{"RDGSBASE", "f3 48 0f ae c8", "rdgsbase rax", "faulted", opRDGSBASE},
	{"WRFSBASE", "f3 48 0f ae d0", "wrfsbase rax", "faulted", opWRFSBASE},
	{"WRGSBASE", "f3 48 0f ae d8", "wrgsbase rax", "faulted", opWRGSBASE},
	{"xsave", "48 0f ae 21", "xsave64 [rcx]", "faulted", opXSAVE},
	{"xrstor", "48 0f ae 29", "xrstor64 [rcx]", "faulted", opXRSTOR},
	{"fxsave", "48 0f ae 01", "fxsave64 [rcx]", "faulted", opFXSAVE},
	{"fxrstor", "48 0f ae 09", "fxrstor64 [rcx]", "faulted", opFXRSTOR},
}

// rows returns the table of fixups.
func rows() []fixup {
	n := 0
	for p := fixups(); p.pc != 0; p = (*fixup)(unsafe.Add(unsafe.Pointer(p), unsafe.Sizeof(*p))) {
		n++
	}
	return unsafe.Slice(fixups(), n)
}

// code returns n bytes of the program from pc.
func code(pc uint64, n int) []byte {
	p := uintptr(pc)
	return unsafe.Slice(*(**byte)(unsafe.Pointer(&p)), n)
}

func funcName(pc uint64) string {
	name := runtime.FuncForPC(uintptr(pc)).Name()
	return name[strings.LastIndexByte(name, '.')+1:]
}

// stubCode returns the stub that pc is in, up to its padding.
func stubCode(pc uint64) (entry uint64, b []byte) {
	f := runtime.FuncForPC(uintptr(pc))
	end := pc
	for runtime.FuncForPC(uintptr(end)) == f {
		end++
	}
	return uint64(f.Entry()), code(uint64(f.Entry()), int(end-uint64(f.Entry())))
}

func TestFixups(t *testing.T) {
	table := rows()
	require.Len(t, table, len(encodings))
	seen := map[uint64]bool{}
	for i, f := range table {
		e := encodings[i]
		want, err := hex.DecodeString(strings.ReplaceAll(e.bytes, " ", ""))
		require.NoError(t, err)

		require.Equal(t, e.stub, funcName(f.pc), "row %d", i)
		entry, stub := stubCode(f.pc)
		at := int(f.pc - entry)
		require.NotZero(t, at, "%s: a traceback looks at the byte before a fault", e.stub)
		require.LessOrEqual(t, at+len(want), len(stub))
		require.True(t, bytes.HasPrefix(stub[at:], want), "row %d, %s+%d: have % x, want % x, which first stands at +%d",
			i, e.stub, at, stub[at:at+len(want)], want, bytes.Index(stub, want))

		require.Equal(t, e.target, funcName(f.target))
		require.Equal(t, uint64(runtime.FuncForPC(uintptr(f.target)).Entry()), f.target)
		require.Equal(t, e.op, op(f.op))
		require.False(t, seen[f.pc], "row %d repeats an address", i)
		seen[f.pc] = true

		target, ok := Fixup(f.pc)
		require.True(t, ok)
		require.Equal(t, f.target, target)
	}

	// No other byte of a stub, or of anything round it, is an instruction that
	// has a fixup.
	for _, f := range table {
		entry, stub := stubCode(f.pc)
		for pc := entry - 64; pc < entry+uint64(len(stub))+64; pc++ {
			if target, ok := Fixup(pc); ok != seen[pc] || !ok && target != 0 {
				t.Fatalf("0x%x, %s%+d: target 0x%x, %v", pc, funcName(f.pc), int64(pc-entry), target, ok)
			}
		}
	}
	for _, pc := range []uint64{0, 1, 1 << 63, ^uint64(0)} {
		_, ok := Fixup(pc)
		require.False(t, ok)
	}
}

func TestFixupAllocs(t *testing.T) {
	pc := rows()[0].pc
	require.Zero(t, testing.AllocsPerRun(100, func() { Fixup(pc); Fixup(0) }))
}

func TestOps(t *testing.T) {
	for o := range ops {
		require.NotEmpty(t, o.String(), "op %d", int(o))
	}
	require.Equal(t, "op(255)", op(255).String())
	require.Equal(t, opVMXON, opAt(rows()[0].pc))
	require.Equal(t, opNone, opAt(1))
}

// TestObjdump has GNU objdump read the instructions out of this very program.
func TestObjdump(t *testing.T) {
	if !user {
		t.Skip("no programs in ring 0")
	}
	objdump, err := exec.LookPath("objdump")
	if err != nil {
		t.Skip("objdump is not installed (binutils)")
	}
	self, err := os.Executable()
	require.NoError(t, err)
	file, err := elf.Open(self)
	if err != nil || file.Type != elf.ET_EXEC {
		t.Skip("the program is no ELF file that runs at its link address")
	}
	require.NoError(t, file.Close())

	low, high := ^uint64(0), uint64(0)
	for _, f := range rows() {
		entry, stub := stubCode(f.pc)
		low, high = min(low, entry), max(high, entry+uint64(len(stub)))
	}
	out, err := exec.Command(objdump, "-d", "-M", "intel",
		"--start-address=0x"+strconv.FormatUint(low, 16), "--stop-address=0x"+strconv.FormatUint(high, 16), self).CombinedOutput()
	require.NoError(t, err, "%s", out)

	text := map[uint64]string{}
	for line := range strings.Lines(string(out)) {
		column := strings.Split(strings.TrimSpace(line), "\t")
		if len(column) == 3 {
			pc, err := strconv.ParseUint(strings.TrimSuffix(column[0], ":"), 16, 64)
			require.NoError(t, err, line)
			text[pc] = strings.Join(strings.Fields(column[2]), " ")
		}
	}
	for i, f := range rows() {
		require.Equal(t, encodings[i].text, text[f.pc], "row %d: %s", i, encodings[i].stub)
	}
}
