package main

import (
	"flag"
	"fmt"
	"io"
	"os"
	"strconv"

	"github.com/govtx/vtx/vmcs"
)

var errorCommand = &command{
	name:  "error",
	args:  "[NUMBER]",
	short: "explain a VM-instruction error",
	long: `The NUMBER, decimal or hexadecimal with 0x, is what the VM-instruction error field
holds after a VMX instruction failed with VMfailValid (SDM Vol. 3C 31.4). A number
with bit 31 set, such as the "hardware error 0x80000021" of QEMU, is the exit reason
of a failed VM entry; it is explained too. Without a NUMBER all are listed.

Exit status: 0; 1 if there is no such error.
`,
	setup: func(*flag.FlagSet) func([]string) (int, error) {
		return func(args []string) (int, error) {
			switch len(args) {
			case 0:
				for e := vmcs.InstructionError(1); int(e) < len(errorHelp); e++ {
					if errorHelp[e].causes != "" {
						fmt.Printf("%2d  %s\n", uint32(e), e.String())
					}
				}
				return 0, nil
			case 1:
				n, err := strconv.ParseUint(args[0], 0, 32)
				if err != nil {
					return 0, fmt.Errorf("%q is not a number of at most 32 bits", args[0])
				}
				return printError(os.Stdout, uint32(n)), nil
			}
			return 0, fmt.Errorf("want one number, not %d", len(args))
		}
	},
}

// printError explains an error number or an exit reason, and returns the exit
// status.
func printError(w io.Writer, n uint32) int {
	if n>>31 != 0 {
		return printReason(w, n)
	}
	e := vmcs.InstructionError(n)
	if n == 0 {
		fmt.Fprintln(w, "0: no error. VMfailInvalid gives no number: there is no current VMCS then (VMPTRLD one).")
		return 1
	}
	if n >= uint32(len(errorHelp)) || errorHelp[n].causes == "" {
		fmt.Fprintf(w, "%d: no VM-instruction error has this number; \"vtx error\" lists them.\n", n)
		return 1
	}
	printHelp(w, fmt.Sprintf("VM-instruction error %d: %s (SDM Vol. 3C 31.4)", n, e.String()), errorHelp[n])
	return 0
}

func printReason(w io.Writer, n uint32) int {
	help, ok := map[uint32]errorText{
		33: {"a field of the guest state breaks a rule of SDM Vol. 3C 27.3.1; exit qualification 2 means the PDPTEs, 3 an NMI under blocking by STI, 4 the VMCS link pointer, 0 the rest",
			"run \"vtx check\" on a dump of the VMCS: it names the rule. For KVM, load kvm_intel with dump_invalid_vmcs=1 and take the dump from dmesg"},
		34: {"an entry of the VM-entry MSR-load area cannot be loaded (27.4); the exit qualification is its number, from 1",
			"look at that entry: an MSR that must not be loaded, a reserved bit, a value that WRMSR would refuse"},
		41: {"a machine check came up during the VM entry (27.9)",
			"look for hardware errors on the host (mcelog, rasdaemon)"},
	}[n&0xffff]
	head := fmt.Sprintf("exit reason %#x is %s (SDM Vol. 3C 27.8)", n, vmcs.Meaning(nil, vmcs.ExitReason, uint64(n)))
	if !ok {
		fmt.Fprintf(w, "%s\nNo failed VM entry has this reason: those are 33, 34 and 41 with bit 31 set.\n", head)
		return 1
	}
	printHelp(w, head, help)
	return 0
}

func printHelp(w io.Writer, head string, t errorText) {
	fmt.Fprintf(w, "%s\n\nCauses: %s.\nNext:   %s.\n", head, t.causes, t.next)
}

// An errorText is what mostly brings an error about, and what to do about it.
type errorText struct{ causes, next string }

var errorHelp = [...]errorText{
	vmcs.VMCALLInRoot: {"the hypervisor itself executed VMCALL; outside SMM-transfer-monitor code it has a meaning in a guest only",
		"look for code that takes itself for a guest: the check for a hypervisor must not be made by the host"},
	vmcs.VMCLEARInvalidAddress: {"the operand is not a multiple of 4096, sets bits beyond the physical-address width, or sets bits 63:32 where IA32_VMX_BASIC[48] is 1",
		"pass the physical address of the region in memory: the instruction takes a pointer to it, not the address itself; a virtual address is the usual mistake"},
	vmcs.VMCLEARWithVMXONPointer: {"the VMXON region was passed as a VMCS",
		"allocate a region of its own for each VMCS"},
	vmcs.VMLAUNCHNonClear: {"the VMCS has been launched since its last VMCLEAR",
		"enter with VMRESUME after the first entry; VMCLEAR before moving a VMCS to another logical processor, and VMLAUNCH there"},
	vmcs.VMRESUMENonLaunched: {"the VMCS has not been launched since its last VMCLEAR, maybe because the VMLAUNCH failed",
		"enter with VMLAUNCH first; a failed VMLAUNCH leaves the VMCS clear"},
	vmcs.VMRESUMEAfterVMXOFF: {"VMX operation was left and entered again since VMLAUNCH",
		"VMCLEAR every VMCS before VMXOFF (before suspend, kexec, or unplugging a processor), and VMLAUNCH afterwards"},
	vmcs.EntryInvalidControls: {"a VM-execution, VM-exit or VM-entry control breaks a rule of SDM Vol. 3C 27.2.1: a bit that this processor lacks or requires, a bit without one that it depends on, a misaligned address, an event to inject that cannot be",
		"run \"vtx check\" on a dump of the VMCS; settle controls against the capability MSRs (\"vtx caps\")"},
	vmcs.EntryInvalidHostState: {"a field of the host state breaks a rule of SDM Vol. 3C 27.2.2 to 27.2.4: CR0 or CR4 against the fixed bits, a selector with RPL or TI, a null CS or TR, a base or RIP that is not canonical, IA32_EFER against the host address-space size",
		"run \"vtx check\" on a dump of the VMCS; the host-state fields that are written last, per processor, are the first to suspect (TR, GDTR and FS bases)"},
	vmcs.VMPTRLDInvalidAddress: {"the operand is not a multiple of 4096, sets bits beyond the physical-address width, or sets bits 63:32 where IA32_VMX_BASIC[48] is 1",
		"pass the physical address of the region in memory; a virtual address is the usual mistake"},
	vmcs.VMPTRLDWithVMXONPointer: {"the VMXON region was passed as a VMCS",
		"allocate a region of its own for each VMCS"},
	vmcs.VMPTRLDIncorrectRevision: {"the first 31 bits of the region are not the revision in IA32_VMX_BASIC[30:0]; or bit 31, for a shadow VMCS, is set where VMCS shadowing is not supported",
		"write the revision of this processor to the region before the first VMPTRLD"},
	vmcs.UnsupportedComponent: {"this processor has no field of that encoding, or the encoding sets a reserved bit",
		"ask \"vtx field\" what the field depends on, and test the capability before the access"},
	vmcs.ReadOnlyComponent: {"a VM-exit information field was written, and IA32_VMX_MISC[29] is 0",
		"keep own copies of such values; they cannot be injected through these fields"},
	vmcs.VMXONInRoot: {"VMXON in VMX operation: it was on already",
		"track the state for each logical processor; another hypervisor (KVM, VirtualBox) may have it on"},
	vmcs.EntryInvalidExecutive: {"on entry from SMM, the executive-VMCS pointer is misaligned or too wide",
		"matters to SMM-transfer monitors only; others must leave \"entry to SMM\" and \"deactivate dual-monitor treatment\" 0"},
	vmcs.EntryNonLaunchedExecutive: {"on entry from SMM, the executive VMCS has not been launched",
		"matters to SMM-transfer monitors only; others must leave \"entry to SMM\" and \"deactivate dual-monitor treatment\" 0"},
	vmcs.EntryExecutiveNotVMXON: {"on deactivation of the dual-monitor treatment, the executive-VMCS pointer is not the VMXON pointer",
		"matters to SMM-transfer monitors only"},
	vmcs.VMCALLNonClear: {"VMCALL to activate the dual-monitor treatment with a VMCS that is launched",
		"VMCLEAR and VMPTRLD the VMCS before; or do not execute VMCALL in VMX root operation"},
	vmcs.VMCALLInvalidExitControls: {"VMCALL to activate the dual-monitor treatment with VM-exit controls that this processor does not allow",
		"settle the VM-exit controls against the capability MSRs"},
	vmcs.VMCALLIncorrectMSEGRevision: {"the MSEG header has a revision other than IA32_VMX_MISC[63:32]",
		"matters to SMM-transfer monitors only: build it for this processor"},
	vmcs.VMXOFFUnderDualMonitor: {"VMXOFF while an SMM-transfer monitor is active",
		"let it deactivate the dual-monitor treatment first"},
	vmcs.VMCALLInvalidMonitorFeatures: {"the MSEG header sets reserved bits of the SMM-monitor features",
		"matters to SMM-transfer monitors only"},
	vmcs.EntryInvalidExecutiveControls: {"on return from SMM, the VM-execution controls in the executive VMCS break a rule",
		"check the executive VMCS as any other"},
	vmcs.EntryBlockedByMOVSS: {"VMLAUNCH or VMRESUME directly behind MOV SS or POP SS",
		"put another instruction between them; a debugger that steps over the code can bring this about, too"},
	vmcs.InvalidInvalidationOperand: {"the type is one that IA32_VMX_EPT_VPID_CAP does not announce, a reserved bit of the descriptor is set, the EPTP is one that VM entry refuses, VPID 0 with a type that wants one, or a linear address that is not canonical",
		"look at the types in \"vtx caps\"; fall back to a wider type, which every processor with the instruction has"},
}
