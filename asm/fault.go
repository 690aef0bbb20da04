package asm

import (
	"errors"
	"strconv"
)

// Reasons why an instruction was not executed at all. Test for them with
// [errors.Is] on the *[Fault] that carries them.
var (
	// ErrNotSupported: the program was built for another architecture, or the
	// processor or its operating system does not offer the instruction. It is
	// an [errors.ErrUnsupported] too.
	ErrNotSupported error = unsupported{}

	// ErrPrivilege: the instruction belongs to privilege level 0 and the
	// program runs as an ordinary process.
	ErrPrivilege = errors.New("needs privilege level 0: boot the program in ring 0")

	// ErrOperand: an operand breaks a rule that can be seen beforehand, such as
	// an area's alignment.
	ErrOperand = errors.New("operand refused")
)

type unsupported struct{}

func (unsupported) Error() string { return "not supported by this processor" }

func (unsupported) Is(target error) bool { return target == errors.ErrUnsupported }

// A Fault tells that an instruction did not complete: the processor raised an
// exception, or this package saw beforehand that it would.
//
// Functions without an error result panic with a *Fault; [Try] turns that into
// an error.
type Fault struct {
	Instruction string // as the manual names it: "VMREAD", "MOV to CR4"
	Vector      uint8  // the exception: 6 is #UD, 13 is #GP; 0 if Err is set
	Code        uint32 // the exception's error code, 0 if it has none
	PC          uint64 // address of the instruction; 0 if Err is set
	Operand     uint64 // MSR or extended control register, from the Safe forms
	Err         error  // why the instruction was not executed; nil if it was
}

// Error names the instruction, what happened and what to look at.
func (f *Fault) Error() string {
	if f.Err != nil {
		return "asm: " + f.Instruction + ": " + f.Err.Error()
	}
	s := "asm: " + f.Instruction
	if f.Operand != 0 {
		s += " of 0x" + strconv.FormatUint(f.Operand, 16)
	}
	s += " at 0x" + strconv.FormatUint(f.PC, 16) + " raised " + vectorName(f.Vector)
	if f.Code != 0 {
		s += "(0x" + strconv.FormatUint(uint64(f.Code), 16) + ")"
	}
	if h := f.hint(); h != "" {
		s += ": " + h
	}
	return s
}

// Unwrap returns f.Err.
func (f *Fault) Unwrap() error { return f.Err }

// hint says what most often stands behind a fault.
func (f *Fault) hint() string {
	switch f.Instruction {
	case "VMXON":
		switch f.Vector {
		case 6:
			return "set CR4.VMXE first, on a processor whose CPUID leaf 1 ECX bit 5 is set"
		case 13:
			return "bring CR0 and CR4 in line with MSRs 0x486 to 0x489, and set bits 0 and 2 of IA32_FEATURE_CONTROL"
		}
	case "VMXOFF", "VMCLEAR", "VMPTRLD", "VMPTRST", "VMREAD", "VMWRITE", "VMLAUNCH", "VMRESUME", "INVEPT", "INVVPID":
		if f.Vector == 6 {
			return "not in VMX operation (run VMXON first), or not on this processor"
		}
	case "VMCALL":
		if f.Vector == 6 {
			return "no hypervisor takes the call"
		}
	case "VMFUNC":
		if f.Vector == 6 {
			return "the hypervisor does not enable this VM function"
		}
	case "RDMSR", "WRMSR":
		if f.Vector == 13 {
			return "no such MSR, or a value it refuses"
		}
	case "XGETBV", "XSETBV", "XSAVE", "XRSTOR":
		if f.Vector == 6 {
			return "set CR4.OSXSAVE first, on a processor whose CPUID leaf 1 ECX bit 26 is set"
		}
	}
	return ""
}

// vectorNames are the exceptions of SDM Vol. 3A 6.15, by vector.
var vectorNames = [...]string{
	0: "#DE", 1: "#DB", 2: "NMI", 3: "#BP", 4: "#OF", 5: "#BR", 6: "#UD", 7: "#NM",
	8: "#DF", 10: "#TS", 11: "#NP", 12: "#SS", 13: "#GP", 14: "#PF", 16: "#MF",
	17: "#AC", 18: "#MC", 19: "#XM", 20: "#VE", 21: "#CP",
}

func vectorName(v uint8) string {
	if int(v) < len(vectorNames) && vectorNames[v] != "" {
		return vectorNames[v]
	}
	return "Vector(" + strconv.Itoa(int(v)) + ")"
}

// Try calls f. If f panics with a *[Fault], Try returns it; any other panic
// goes on.
func Try(f func()) (err error) {
	defer func() {
		switch r := recover().(type) {
		case nil:
		case *Fault:
			err = r
		default:
			panic(r)
		}
	}()
	f()
	return nil
}

// An op is an instruction of this package. The assembly stubs and the table of
// fixups use the same numbers, through go_asm.h.
type op uint8

const (
	opNone op = iota
	opVMXON
	opVMXOFF
	opVMCLEAR
	opVMPTRLD
	opVMPTRST
	opVMREAD
	opVMWRITE
	opVMLAUNCH
	opVMRESUME
	opINVEPT
	opINVVPID
	opVMCALL
	opVMFUNC
	opCPUID
	opRDMSR
	opWRMSR
	opReadCR0
	opReadCR2
	opReadCR3
	opReadCR4
	opReadCR8
	opWriteCR0
	opWriteCR2
	opWriteCR3
	opWriteCR4
	opWriteCR8
	opReadDR
	opWriteDR
	opXGETBV
	opXSETBV
	opSGDT
	opSIDT
	opSLDT
	opSTR
	opLGDT
	opLIDT
	opLLDT
	opLTR
	opLAR
	opLSL
	opINVLPG
	opINVPCID
	opWBINVD
	opRDTSC
	opRDTSCP
	opIN
	opOUT
	opHLT
	opCLI
	opSTI
	opRDFSBASE
	opRDGSBASE
	opWRFSBASE
	opWRGSBASE
	opXSAVE
	opXRSTOR
	opFXSAVE
	opFXRSTOR
	opPAUSE
	opPUSHF
	opReadSelector
	ops
)

var opNames = [ops]string{
	opNone:         "instruction",
	opVMXON:        "VMXON",
	opVMXOFF:       "VMXOFF",
	opVMCLEAR:      "VMCLEAR",
	opVMPTRLD:      "VMPTRLD",
	opVMPTRST:      "VMPTRST",
	opVMREAD:       "VMREAD",
	opVMWRITE:      "VMWRITE",
	opVMLAUNCH:     "VMLAUNCH",
	opVMRESUME:     "VMRESUME",
	opINVEPT:       "INVEPT",
	opINVVPID:      "INVVPID",
	opVMCALL:       "VMCALL",
	opVMFUNC:       "VMFUNC",
	opCPUID:        "CPUID",
	opRDMSR:        "RDMSR",
	opWRMSR:        "WRMSR",
	opReadCR0:      "MOV from CR0",
	opReadCR2:      "MOV from CR2",
	opReadCR3:      "MOV from CR3",
	opReadCR4:      "MOV from CR4",
	opReadCR8:      "MOV from CR8",
	opWriteCR0:     "MOV to CR0",
	opWriteCR2:     "MOV to CR2",
	opWriteCR3:     "MOV to CR3",
	opWriteCR4:     "MOV to CR4",
	opWriteCR8:     "MOV to CR8",
	opReadDR:       "MOV from DR",
	opWriteDR:      "MOV to DR",
	opXGETBV:       "XGETBV",
	opXSETBV:       "XSETBV",
	opSGDT:         "SGDT",
	opSIDT:         "SIDT",
	opSLDT:         "SLDT",
	opSTR:          "STR",
	opLGDT:         "LGDT",
	opLIDT:         "LIDT",
	opLLDT:         "LLDT",
	opLTR:          "LTR",
	opLAR:          "LAR",
	opLSL:          "LSL",
	opINVLPG:       "INVLPG",
	opINVPCID:      "INVPCID",
	opWBINVD:       "WBINVD",
	opRDTSC:        "RDTSC",
	opRDTSCP:       "RDTSCP",
	opIN:           "IN",
	opOUT:          "OUT",
	opHLT:          "HLT",
	opCLI:          "CLI",
	opSTI:          "STI",
	opRDFSBASE:     "RDFSBASE",
	opRDGSBASE:     "RDGSBASE",
	opWRFSBASE:     "WRFSBASE",
	opWRGSBASE:     "WRGSBASE",
	opXSAVE:        "XSAVE",
	opXRSTOR:       "XRSTOR",
	opFXSAVE:       "FXSAVE",
	opFXRSTOR:      "FXRSTOR",
	opPAUSE:        "PAUSE",
	opPUSHF:        "PUSHF",
	opReadSelector: "MOV from segment register",
}

func (o op) String() string {
	if o < ops {
		return opNames[o]
	}
	return "op(" + strconv.Itoa(int(o)) + ")"
}
