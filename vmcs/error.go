package vmcs

import "fmt"

// An InstructionError is a VM-instruction error number: why a VMX instruction
// failed with VMfailValid, as left in the VM-instruction error field
// (SDM Vol. 3C 31.4, table 31-1). 14, 21 and 27 are not in use.
type InstructionError uint32

// VM-instruction error numbers.
const (
	VMCALLInRoot                  InstructionError = 1
	VMCLEARInvalidAddress         InstructionError = 2
	VMCLEARWithVMXONPointer       InstructionError = 3
	VMLAUNCHNonClear              InstructionError = 4
	VMRESUMENonLaunched           InstructionError = 5
	VMRESUMEAfterVMXOFF           InstructionError = 6
	EntryInvalidControls          InstructionError = 7
	EntryInvalidHostState         InstructionError = 8
	VMPTRLDInvalidAddress         InstructionError = 9
	VMPTRLDWithVMXONPointer       InstructionError = 10
	VMPTRLDIncorrectRevision      InstructionError = 11
	UnsupportedComponent          InstructionError = 12
	ReadOnlyComponent             InstructionError = 13
	VMXONInRoot                   InstructionError = 15
	EntryInvalidExecutive         InstructionError = 16
	EntryNonLaunchedExecutive     InstructionError = 17
	EntryExecutiveNotVMXON        InstructionError = 18
	VMCALLNonClear                InstructionError = 19
	VMCALLInvalidExitControls     InstructionError = 20
	VMCALLIncorrectMSEGRevision   InstructionError = 22
	VMXOFFUnderDualMonitor        InstructionError = 23
	VMCALLInvalidMonitorFeatures  InstructionError = 24
	EntryInvalidExecutiveControls InstructionError = 25
	EntryBlockedByMOVSS           InstructionError = 26
	InvalidInvalidationOperand    InstructionError = 28
)

var instructionErrors = [...]string{
	VMCALLInRoot:                  "VMCALL executed in VMX root operation",
	VMCLEARInvalidAddress:         "VMCLEAR with invalid physical address",
	VMCLEARWithVMXONPointer:       "VMCLEAR with VMXON pointer",
	VMLAUNCHNonClear:              "VMLAUNCH with non-clear VMCS",
	VMRESUMENonLaunched:           "VMRESUME with non-launched VMCS",
	VMRESUMEAfterVMXOFF:           "VMRESUME after VMXOFF",
	EntryInvalidControls:          "VM entry with invalid control field(s)",
	EntryInvalidHostState:         "VM entry with invalid host-state field(s)",
	VMPTRLDInvalidAddress:         "VMPTRLD with invalid physical address",
	VMPTRLDWithVMXONPointer:       "VMPTRLD with VMXON pointer",
	VMPTRLDIncorrectRevision:      "VMPTRLD with incorrect VMCS revision identifier",
	UnsupportedComponent:          "VMREAD/VMWRITE from/to unsupported VMCS component",
	ReadOnlyComponent:             "VMWRITE to read-only VMCS component",
	VMXONInRoot:                   "VMXON executed in VMX root operation",
	EntryInvalidExecutive:         "VM entry with invalid executive-VMCS pointer",
	EntryNonLaunchedExecutive:     "VM entry with non-launched executive VMCS",
	EntryExecutiveNotVMXON:        "VM entry with executive-VMCS pointer not VMXON pointer",
	VMCALLNonClear:                "VMCALL with non-clear VMCS",
	VMCALLInvalidExitControls:     "VMCALL with invalid VM-exit control fields",
	VMCALLIncorrectMSEGRevision:   "VMCALL with incorrect MSEG revision identifier",
	VMXOFFUnderDualMonitor:        "VMXOFF under dual-monitor treatment of SMIs and SMM",
	VMCALLInvalidMonitorFeatures:  "VMCALL with invalid SMM-monitor features",
	EntryInvalidExecutiveControls: "VM entry with invalid VM-execution control fields in executive VMCS",
	EntryBlockedByMOVSS:           "VM entry with events blocked by MOV SS",
	InvalidInvalidationOperand:    "Invalid operand to INVEPT/INVVPID",
}

// String returns the SDM's description, or InstructionError(n) for a number that
// is not in its table.
func (e InstructionError) String() string {
	if int64(e) < int64(len(instructionErrors)) && instructionErrors[e] != "" {
		return instructionErrors[e]
	}
	return fmt.Sprintf("InstructionError(%d)", uint32(e))
}

// Error returns the number and the SDM's description.
func (e InstructionError) Error() string {
	return fmt.Sprintf("VM-instruction error %d: %s", uint32(e), e.String())
}

// Is makes errors.Is find ErrUnsupported and ErrReadOnly in the numbers that
// VMREAD and VMWRITE answer with.
func (e InstructionError) Is(target error) bool {
	return e == UnsupportedComponent && target == ErrUnsupported ||
		e == ReadOnlyComponent && target == ErrReadOnly
}
