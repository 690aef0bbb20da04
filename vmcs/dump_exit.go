package vmcs

import "fmt"

// exitReasons are the basic exit reasons (SDM Vol. 3D appendix C). A test of package
// vmexit, which has all of them, compares the names.
var exitReasons = [...]string{
	0:                     "Exception or non-maskable interrupt (NMI)",
	1:                     "External interrupt",
	2:                     "Triple fault",
	3:                     "INIT signal",
	4:                     "Start-up IPI (SIPI)",
	5:                     "I/O system-management interrupt (SMI)",
	6:                     "Other SMI",
	7:                     "Interrupt window",
	8:                     "NMI window",
	9:                     "Task switch",
	10:                    "CPUID",
	11:                    "GETSEC",
	12:                    "HLT",
	13:                    "INVD",
	14:                    "INVLPG",
	15:                    "RDPMC",
	16:                    "RDTSC",
	17:                    "RSM",
	18:                    "VMCALL",
	19:                    "VMCLEAR",
	20:                    "VMLAUNCH",
	21:                    "VMPTRLD",
	22:                    "VMPTRST",
	23:                    "VMREAD",
	24:                    "VMRESUME",
	25:                    "VMWRITE",
	26:                    "VMXOFF",
	27:                    "VMXON",
	28:                    "Control-register accesses",
	29:                    "MOV DR",
	30:                    "I/O instruction",
	31:                    "RDMSR",
	32:                    "WRMSR",
	exitInvalidGuestState: "VM-entry failure due to invalid guest state",
	exitMSRLoading:        "VM-entry failure due to MSR loading",
	36:                    "MWAIT",
	37:                    "Monitor trap flag",
	39:                    "MONITOR",
	40:                    "PAUSE",
	exitMachineCheck:      "VM-entry failure due to machine-check event",
	43:                    "TPR below threshold",
	44:                    "APIC access",
	45:                    "Virtualized EOI",
	46:                    "Access to GDTR or IDTR",
	47:                    "Access to LDTR or TR",
	48:                    "EPT violation",
	49:                    "EPT misconfiguration",
	50:                    "INVEPT",
	51:                    "RDTSCP",
	52:                    "VMX-preemption timer expired",
	53:                    "INVVPID",
	54:                    "WBINVD or WBNOINVD",
	55:                    "XSETBV",
	56:                    "APIC write",
	57:                    "RDRAND",
	58:                    "INVPCID",
	59:                    "VMFUNC",
	60:                    "ENCLS",
	61:                    "RDSEED",
	62:                    "Page-modification log full",
	63:                    "XSAVES",
	64:                    "XRSTORS",
	65:                    "PCONFIG",
	66:                    "SPP-related event",
	67:                    "UMWAIT",
	68:                    "TPAUSE",
	69:                    "LOADIWKEY",
	70:                    "ENCLV",
	72:                    "ENQCMD PASID translation failure",
	73:                    "ENQCMDS PASID translation failure",
	74:                    "Bus lock",
	75:                    "Instruction timeout",
	76:                    "SEAMCALL",
	77:                    "TDCALL",
	78:                    "RDMSRLIST",
	79:                    "WRMSRLIST",
	80:                    "URDMSR",
	81:                    "UWRMSR",
	84:                    "RDMSR (immediate form)",
	85:                    "WRMSRNS (immediate form)",
}

// The basic exit reasons of failed VM entries.
const (
	exitInvalidGuestState = 33
	exitMSRLoading        = 34
	exitMachineCheck      = 41
)

func basicReason(n uint64) string {
	if n < uint64(len(exitReasons)) && exitReasons[n] != "" {
		return exitReasons[n]
	}
	return fmt.Sprintf("reason %d", n)
}

// meanReason explains the exit reason (SDM Vol. 3C 25.9.1, table 25-18). Bit 31
// goes without saying for the reasons of failed entries.
func meanReason(v uint64) string {
	n := v & 0xffff
	out := []string{fmt.Sprintf("%d: %s", n, basicReason(n))}
	failure := n == exitInvalidGuestState || n == exitMSRLoading || n == exitMachineCheck
	if v>>31 != 0 && !failure {
		out = append(out, "VM-entry failure")
	}
	out = append(out, setNames(v>>25, "prematurely busy shadow stack", "bus lock", "enclave mode", "pending MTF VM exit", "from VMX root operation")...)
	return list(append(out, unnamed(v&0x41ff0000)...))
}

// meanQualification explains the exit qualification by the exit reason
// (SDM Vol. 3C 28.2.1; 27.8 for failed entries).
func meanQualification(r Reader, v uint64) string {
	if r == nil {
		return ""
	}
	reason, err := r.Read(ExitReason)
	if err != nil {
		return ""
	}
	switch basic := reason & 0xffff; basic {
	case 0:
		if info, err := r.Read(ExitInterruptionInformation); err == nil && info>>31 != 0 {
			switch InterruptionInfo(info).Vector() {
			case VectorDB:
				return bitNames(v, debugQualification)
			case VectorPF:
				return fmt.Sprintf("linear address %#x", v)
			}
		}
	case exitInvalidGuestState:
		switch v {
		case 2:
			return "loading the PDPTEs failed"
		case 3:
			return "an NMI was to be injected during blocking by STI"
		case 4:
			return "the VMCS link pointer is invalid"
		}
		return ""
	case exitMSRLoading:
		return fmt.Sprintf("entry %d of the VM-entry MSR-load area, from 1", v)
	case 9:
		return fmt.Sprintf("%s to TSS selector %#04x", [...]string{"CALL", "IRET", "JMP", "task gate"}[v>>30&3], v&0xffff)
	case 14:
		return fmt.Sprintf("linear address %#x", v)
	case 28:
		return crAccess(v)
	case 29:
		form := "MOV to DR%d from %s"
		if v>>4&1 != 0 {
			form = "MOV from DR%d to %s"
		}
		return fmt.Sprintf(form, v&7, gprNames[v>>8&15])
	case 30:
		form := "OUT to"
		if v>>3&1 != 0 {
			form = "IN from"
		}
		out := []string{fmt.Sprintf("%s port %#x", form, v>>16&0xffff), fmt.Sprintf("%d bits", v&7*8+8)}
		return list(append(out, setNames(v>>4, "string", "REP", "immediate")...))
	case 44:
		return fmt.Sprintf("offset %#x, %s", v&0xfff, apicAccess(v>>12&15))
	case 45:
		return fmt.Sprintf("vector %d", v&0xff)
	case 48:
		return bitNames(v, eptQualification)
	case 56:
		return fmt.Sprintf("offset %#x", v&0xfff)
	}
	return ""
}

var (
	// debugQualification is for debug exceptions (SDM Vol. 3C table 28-1).
	debugQualification = join(flags(0, "B0", "B1", "B2", "B3"), flags(11, "BLD", "", "BD", "BS", "", "RTM"))
	// eptQualification is for EPT violations (SDM Vol. 3C table 28-7).
	eptQualification = flags(0, "read", "write", "fetch", "readable", "writable", "executable", "user-mode executable",
		"linear address valid", "translation", "user-mode address", "writable page", "execute-disable page",
		"NMI unblocking", "shadow-stack access", "supervisor shadow-stack page", "guest-paging verification", "asynchronous")

	gprNames = [16]string{"RAX", "RCX", "RDX", "RBX", "RSP", "RBP", "RSI", "RDI", "R8", "R9", "R10", "R11", "R12", "R13", "R14", "R15"}
)

// crAccess explains the qualification of a control-register access (SDM Vol. 3C
// table 28-3).
func crAccess(v uint64) string {
	cr, reg := v&15, gprNames[v>>8&15]
	switch v >> 4 & 3 {
	case 0:
		return fmt.Sprintf("MOV to CR%d from %s", cr, reg)
	case 1:
		return fmt.Sprintf("MOV from CR%d to %s", cr, reg)
	case 2:
		return "CLTS"
	}
	return fmt.Sprintf("LMSW %#x", v>>16&0xffff)
}

// apicAccess names the type of an APIC access (SDM Vol. 3C table 28-6).
func apicAccess(typ uint64) string {
	names := map[uint64]string{0: "linear read", 1: "linear write", 2: "linear fetch", 3: "linear, during event delivery",
		10: "guest-physical, during event delivery", 15: "guest-physical, for an instruction"}
	if s, ok := names[typ]; ok {
		return s
	}
	return fmt.Sprintf("access type %d", typ)
}
