// Code generated from controls.csv by vmcs/internal/gen. DO NOT EDIT.

package vmcs

// The groups of controls.
const (
	GroupPin           ControlGroup = iota // pin-based VM-execution controls
	GroupPrimary                           // primary processor-based VM-execution controls
	GroupSecondary                         // secondary processor-based VM-execution controls
	GroupTertiary                          // tertiary processor-based VM-execution controls
	GroupExit                              // primary VM-exit controls
	GroupSecondaryExit                     // secondary VM-exit controls
	GroupEntry                             // VM-entry controls
	GroupVMFunctions                       // VM-function controls

	NumControlGroups = 8 // how many groups there are
)

// PinControls are the pin-based VM-execution controls (SDM Vol. 3C 25.6.1).
type PinControls uint32

// The bits of [PinControls]. A bit that is 1 means what its comment says.
const (
	// PinExternalInterruptExiting: external interrupts cause VM exits (SDM: "External-interrupt exiting").
	PinExternalInterruptExiting PinControls = 1 << 0
	// PinNMIExiting: NMIs cause VM exits (SDM: "NMI exiting").
	PinNMIExiting PinControls = 1 << 3
	// PinVirtualNMIs: bit 3 of the interruptibility state tells of blocking by a virtual NMI; needs NMI exiting (SDM: "Virtual NMIs").
	PinVirtualNMIs PinControls = 1 << 5
	// PinActivateVMXPreemptionTimer: the VMX-preemption timer counts down in VMX non-root operation and causes a VM exit at zero (SDM: "Activate VMX-preemption timer").
	PinActivateVMXPreemptionTimer PinControls = 1 << 6
	// PinProcessPostedInterrupts: interrupts with the notification vector bring virtual interrupts from the posted-interrupt descriptor (SDM: "Process posted interrupts").
	PinProcessPostedInterrupts PinControls = 1 << 7

	// PinDefault1 is the default1 class: bits that are 1 on every processor, or
	// on those without the TRUE capability MSRs (SDM Vol. 3D A.3.1).
	PinDefault1 PinControls = 0x16
)

// ControlGroup returns [GroupPin].
func (PinControls) ControlGroup() ControlGroup { return GroupPin }

// String lists the bits that are 1 by the names of the SDM: "External-interrupt exiting, NMI exiting".
// Bits without a name follow, as "bit 26"; 0 is "none".
func (c PinControls) String() string { return controlString(GroupPin, uint64(c)) }

// AppendText appends what String returns. The error is always nil.
func (c PinControls) AppendText(b []byte) ([]byte, error) {
	return appendControls(b, GroupPin, uint64(c)), nil
}

// MarshalText returns what String returns. The error is always nil.
func (c PinControls) MarshalText() ([]byte, error) { return c.AppendText(nil) }

// UnmarshalText reads what [ParseControls] reads.
func (c *PinControls) UnmarshalText(text []byte) error { return unmarshalControls(c, text) }

// PrimaryControls are the primary processor-based VM-execution controls (SDM Vol. 3C 25.6.2).
type PrimaryControls uint32

// The bits of [PrimaryControls]. A bit that is 1 means what its comment says.
const (
	// PrimaryInterruptWindowExiting: a VM exit takes place as soon as RFLAGS.IF is 1 and nothing blocks interrupts (SDM: "Interrupt-window exiting").
	PrimaryInterruptWindowExiting PrimaryControls = 1 << 2
	// PrimaryUseTSCOffsetting: the TSC offset is added to what the guest reads as the time-stamp counter (SDM: "Use TSC offsetting").
	PrimaryUseTSCOffsetting PrimaryControls = 1 << 3
	// PrimaryHLTExiting: HLT causes VM exits (SDM: "HLT exiting").
	PrimaryHLTExiting PrimaryControls = 1 << 7
	// PrimaryINVLPGExiting: INVLPG and INVPCID cause VM exits (SDM: "INVLPG exiting").
	PrimaryINVLPGExiting PrimaryControls = 1 << 9
	// PrimaryMWAITExiting: MWAIT causes VM exits (SDM: "MWAIT exiting").
	PrimaryMWAITExiting PrimaryControls = 1 << 10
	// PrimaryRDPMCExiting: RDPMC causes VM exits (SDM: "RDPMC exiting").
	PrimaryRDPMCExiting PrimaryControls = 1 << 11
	// PrimaryRDTSCExiting: RDTSC and RDTSCP cause VM exits (SDM: "RDTSC exiting").
	PrimaryRDTSCExiting PrimaryControls = 1 << 12
	// PrimaryCR3LoadExiting: MOV to CR3 causes VM exits unless the value is a CR3-target value (SDM: "CR3-load exiting"; of the default1 class).
	PrimaryCR3LoadExiting PrimaryControls = 1 << 15
	// PrimaryCR3StoreExiting: MOV from CR3 causes VM exits (SDM: "CR3-store exiting"; of the default1 class).
	PrimaryCR3StoreExiting PrimaryControls = 1 << 16
	// PrimaryActivateTertiaryControls: the tertiary processor-based VM-execution controls are used; they count as 0 otherwise (SDM: "Activate tertiary controls").
	PrimaryActivateTertiaryControls PrimaryControls = 1 << 17
	// PrimaryCR8LoadExiting: MOV to CR8 causes VM exits (SDM: "CR8-load exiting").
	PrimaryCR8LoadExiting PrimaryControls = 1 << 19
	// PrimaryCR8StoreExiting: MOV from CR8 causes VM exits (SDM: "CR8-store exiting").
	PrimaryCR8StoreExiting PrimaryControls = 1 << 20
	// PrimaryUseTPRShadow: the TPR is virtualized by means of the virtual-APIC page (SDM: "Use TPR shadow").
	PrimaryUseTPRShadow PrimaryControls = 1 << 21
	// PrimaryNMIWindowExiting: a VM exit takes place as soon as nothing blocks virtual NMIs; needs virtual NMIs (SDM: "NMI-window exiting").
	PrimaryNMIWindowExiting PrimaryControls = 1 << 22
	// PrimaryMOVDRExiting: MOV to and from debug registers causes VM exits (SDM: "MOV-DR exiting").
	PrimaryMOVDRExiting PrimaryControls = 1 << 23
	// PrimaryUnconditionalIOExiting: I/O instructions cause VM exits; ignored if the I/O bitmaps are used (SDM: "Unconditional I/O exiting").
	PrimaryUnconditionalIOExiting PrimaryControls = 1 << 24
	// PrimaryUseIOBitmaps: the I/O bitmaps tell which I/O instructions cause VM exits (SDM: "Use I/O bitmaps").
	PrimaryUseIOBitmaps PrimaryControls = 1 << 25
	// PrimaryMonitorTrapFlag: a VM exit takes place after every instruction (SDM: "Monitor trap flag").
	PrimaryMonitorTrapFlag PrimaryControls = 1 << 27
	// PrimaryUseMSRBitmaps: the MSR bitmaps tell which RDMSR and WRMSR cause VM exits; all do otherwise (SDM: "Use MSR bitmaps").
	PrimaryUseMSRBitmaps PrimaryControls = 1 << 28
	// PrimaryMONITORExiting: MONITOR causes VM exits (SDM: "MONITOR exiting").
	PrimaryMONITORExiting PrimaryControls = 1 << 29
	// PrimaryPAUSEExiting: PAUSE causes VM exits (SDM: "PAUSE exiting").
	PrimaryPAUSEExiting PrimaryControls = 1 << 30
	// PrimaryActivateSecondaryControls: the secondary processor-based VM-execution controls are used; they count as 0 otherwise (SDM: "Activate secondary controls").
	PrimaryActivateSecondaryControls PrimaryControls = 1 << 31

	// PrimaryDefault1 is the default1 class: bits that are 1 on every processor, or
	// on those without the TRUE capability MSRs (SDM Vol. 3D A.3.2).
	PrimaryDefault1 PrimaryControls = 0x401e172
)

// ControlGroup returns [GroupPrimary].
func (PrimaryControls) ControlGroup() ControlGroup { return GroupPrimary }

// String lists the bits that are 1 by the names of the SDM: "Interrupt-window exiting, Use TSC offsetting".
// Bits without a name follow, as "bit 26"; 0 is "none".
func (c PrimaryControls) String() string { return controlString(GroupPrimary, uint64(c)) }

// AppendText appends what String returns. The error is always nil.
func (c PrimaryControls) AppendText(b []byte) ([]byte, error) {
	return appendControls(b, GroupPrimary, uint64(c)), nil
}

// MarshalText returns what String returns. The error is always nil.
func (c PrimaryControls) MarshalText() ([]byte, error) { return c.AppendText(nil) }

// UnmarshalText reads what [ParseControls] reads.
func (c *PrimaryControls) UnmarshalText(text []byte) error { return unmarshalControls(c, text) }

// SecondaryControls are the secondary processor-based VM-execution controls (SDM Vol. 3C 25.6.2).
type SecondaryControls uint32

// The bits of [SecondaryControls]. A bit that is 1 means what its comment says.
const (
	// SecondaryVirtualizeAPICAccesses: accesses to the APIC-access page are virtualized or cause VM exits (SDM: "Virtualize APIC accesses").
	SecondaryVirtualizeAPICAccesses SecondaryControls = 1 << 0
	// SecondaryEnableEPT: guest-physical addresses are translated by the extended page tables (SDM: "Enable EPT").
	SecondaryEnableEPT SecondaryControls = 1 << 1
	// SecondaryDescriptorTableExiting: LGDT, LIDT, LLDT, LTR, SGDT, SIDT, SLDT and STR cause VM exits (SDM: "Descriptor-table exiting").
	SecondaryDescriptorTableExiting SecondaryControls = 1 << 2
	// SecondaryEnableRDTSCP: RDTSCP and RDPID work; they cause #UD otherwise (SDM: "Enable RDTSCP").
	SecondaryEnableRDTSCP SecondaryControls = 1 << 3
	// SecondaryVirtualizeX2APICMode: RDMSR and WRMSR of x2APIC registers are virtualized (SDM: "Virtualize x2APIC mode").
	SecondaryVirtualizeX2APICMode SecondaryControls = 1 << 4
	// SecondaryEnableVPID: cached translations are tagged with the virtual-processor identifier (SDM: "Enable VPID").
	SecondaryEnableVPID SecondaryControls = 1 << 5
	// SecondaryWBINVDExiting: WBINVD and WBNOINVD cause VM exits (SDM: "WBINVD exiting").
	SecondaryWBINVDExiting SecondaryControls = 1 << 6
	// SecondaryUnrestrictedGuest: the guest may run without paging and in real-address mode; needs EPT (SDM: "Unrestricted guest").
	SecondaryUnrestrictedGuest SecondaryControls = 1 << 7
	// SecondaryAPICRegisterVirtualization: most reads of APIC registers are answered from the virtual-APIC page (SDM: "APIC-register virtualization").
	SecondaryAPICRegisterVirtualization SecondaryControls = 1 << 8
	// SecondaryVirtualInterruptDelivery: pending virtual interrupts are evaluated and delivered by the processor (SDM: "Virtual-interrupt delivery").
	SecondaryVirtualInterruptDelivery SecondaryControls = 1 << 9
	// SecondaryPAUSELoopExiting: a series of PAUSE in a loop at privilege level 0 causes a VM exit (SDM: "PAUSE-loop exiting").
	SecondaryPAUSELoopExiting SecondaryControls = 1 << 10
	// SecondaryRDRANDExiting: RDRAND causes VM exits (SDM: "RDRAND exiting").
	SecondaryRDRANDExiting SecondaryControls = 1 << 11
	// SecondaryEnableINVPCID: INVPCID works; it causes #UD otherwise (SDM: "Enable INVPCID").
	SecondaryEnableINVPCID SecondaryControls = 1 << 12
	// SecondaryEnableVMFunctions: VMFUNC works as the VM-function controls say; it causes #UD otherwise (SDM: "Enable VM functions").
	SecondaryEnableVMFunctions SecondaryControls = 1 << 13
	// SecondaryVMCSShadowing: VMREAD and VMWRITE in the guest may access the shadow VMCS (SDM: "VMCS shadowing").
	SecondaryVMCSShadowing SecondaryControls = 1 << 14
	// SecondaryEnableENCLSExiting: the ENCLS-exiting bitmap tells which ENCLS leaves cause VM exits (SDM: "Enable ENCLS exiting").
	SecondaryEnableENCLSExiting SecondaryControls = 1 << 15
	// SecondaryRDSEEDExiting: RDSEED causes VM exits (SDM: "RDSEED exiting").
	SecondaryRDSEEDExiting SecondaryControls = 1 << 16
	// SecondaryEnablePML: an access that sets the dirty flag of an EPT entry is noted in the page-modification log (SDM: "Enable PML").
	SecondaryEnablePML SecondaryControls = 1 << 17
	// SecondaryEPTViolationVE: EPT violations may cause virtualization exceptions in place of VM exits (SDM: "EPT-violation #VE").
	SecondaryEPTViolationVE SecondaryControls = 1 << 18
	// SecondaryConcealVMXFromPT: Intel PT does not tell that the processor is in VMX non-root operation (SDM: "Conceal VMX from PT").
	SecondaryConcealVMXFromPT SecondaryControls = 1 << 19
	// SecondaryEnableXSAVESXRSTORS: XSAVES and XRSTORS work; they cause #UD otherwise (SDM: "Enable XSAVES/XRSTORS").
	SecondaryEnableXSAVESXRSTORS SecondaryControls = 1 << 20
	// SecondaryPASIDTranslation: the PASID of ENQCMD and ENQCMDS is translated (SDM: "PASID translation").
	SecondaryPASIDTranslation SecondaryControls = 1 << 21
	// SecondaryModeBasedExecuteControlForEPT: EPT has one execute permission for supervisor-mode and one for user-mode linear addresses (SDM: "Mode-based execute control for EPT").
	SecondaryModeBasedExecuteControlForEPT SecondaryControls = 1 << 22
	// SecondarySubPageWritePermissionsForEPT: EPT write permission can be given to 128-byte parts of a page (SDM: "Sub-page write permissions for EPT").
	SecondarySubPageWritePermissionsForEPT SecondaryControls = 1 << 23
	// SecondaryIntelPTUsesGuestPhysicalAddresses: the addresses of Intel PT's output are guest-physical; needs EPT (SDM: "Intel PT uses guest physical addresses").
	SecondaryIntelPTUsesGuestPhysicalAddresses SecondaryControls = 1 << 24
	// SecondaryUseTSCScaling: what the guest reads as the time-stamp counter is multiplied by the TSC multiplier (SDM: "Use TSC scaling").
	SecondaryUseTSCScaling SecondaryControls = 1 << 25
	// SecondaryEnableUserWaitAndPause: TPAUSE, UMONITOR and UMWAIT work; they cause #UD otherwise (SDM: "Enable user wait and pause").
	SecondaryEnableUserWaitAndPause SecondaryControls = 1 << 26
	// SecondaryEnablePCONFIG: PCONFIG works as the PCONFIG-exiting bitmap says; it causes #UD otherwise (SDM: "Enable PCONFIG").
	SecondaryEnablePCONFIG SecondaryControls = 1 << 27
	// SecondaryEnableENCLVExiting: the ENCLV-exiting bitmap tells which ENCLV leaves cause VM exits (SDM: "Enable ENCLV exiting").
	SecondaryEnableENCLVExiting SecondaryControls = 1 << 28
	// SecondaryEnableEPCVirtualization: the SGX extensions that let a hypervisor share out the enclave page cache are enabled ("Enable EPC virtualization"; not in the SDM's revision 084).
	SecondaryEnableEPCVirtualization SecondaryControls = 1 << 29
	// SecondaryVMMBusLockDetection: a bus lock causes a VM exit (SDM: "VMM bus-lock detection").
	SecondaryVMMBusLockDetection SecondaryControls = 1 << 30
	// SecondaryInstructionTimeout: a VM exit takes place if no instruction boundary comes within the instruction-timeout control's time (SDM: "Instruction timeout").
	SecondaryInstructionTimeout SecondaryControls = 1 << 31
)

// ControlGroup returns [GroupSecondary].
func (SecondaryControls) ControlGroup() ControlGroup { return GroupSecondary }

// String lists the bits that are 1 by the names of the SDM: "Virtualize APIC accesses, Enable EPT".
// Bits without a name follow, as "bit 26"; 0 is "none".
func (c SecondaryControls) String() string { return controlString(GroupSecondary, uint64(c)) }

// AppendText appends what String returns. The error is always nil.
func (c SecondaryControls) AppendText(b []byte) ([]byte, error) {
	return appendControls(b, GroupSecondary, uint64(c)), nil
}

// MarshalText returns what String returns. The error is always nil.
func (c SecondaryControls) MarshalText() ([]byte, error) { return c.AppendText(nil) }

// UnmarshalText reads what [ParseControls] reads.
func (c *SecondaryControls) UnmarshalText(text []byte) error { return unmarshalControls(c, text) }

// TertiaryControls are the tertiary processor-based VM-execution controls (SDM Vol. 3C 25.6.2).
type TertiaryControls uint64

// The bits of [TertiaryControls]. A bit that is 1 means what its comment says.
const (
	// TertiaryLOADIWKEYExiting: LOADIWKEY causes VM exits (SDM: "LOADIWKEY exiting").
	TertiaryLOADIWKEYExiting TertiaryControls = 1 << 0
	// TertiaryEnableHLAT: hypervisor-managed linear-address translation is enabled (SDM: "Enable HLAT").
	TertiaryEnableHLAT TertiaryControls = 1 << 1
	// TertiaryEPTPagingWriteControl: EPT entries can allow that the processor sets accessed and dirty flags in read-only paging structures (SDM: "EPT paging-write control").
	TertiaryEPTPagingWriteControl TertiaryControls = 1 << 2
	// TertiaryGuestPagingVerification: EPT entries can require that paging structures lie in pages marked for that (SDM: "Guest-paging verification").
	TertiaryGuestPagingVerification TertiaryControls = 1 << 3
	// TertiaryIPIVirtualization: virtual interprocessor interrupts are sent without a VM exit (SDM: "IPI virtualization").
	TertiaryIPIVirtualization TertiaryControls = 1 << 4
	// TertiaryGuestPhysicalAddressWidth: the guest-physical addresses of a trust domain have 52 bits in place of 48 ("Guest-physical-address width"; not in the SDM's revision 084).
	TertiaryGuestPhysicalAddressWidth TertiaryControls = 1 << 5
	// TertiaryEnableMSRListInstructions: RDMSRLIST and WRMSRLIST work; they cause #UD otherwise (SDM: "Enable MSR-list instructions").
	TertiaryEnableMSRListInstructions TertiaryControls = 1 << 6
	// TertiaryVirtualizeIA32SpecCtrl: RDMSR and WRMSR of IA32_SPEC_CTRL go by the IA32_SPEC_CTRL mask and shadow (SDM: "Virtualize IA32_SPEC_CTRL").
	TertiaryVirtualizeIA32SpecCtrl TertiaryControls = 1 << 7
	// TertiaryAPICTimerVirtualization: the guest's writes to IA32_TSC_DEADLINE arm a timer that brings a virtual interrupt ("APIC-timer virtualization"; not in the SDM's revision 084).
	TertiaryAPICTimerVirtualization TertiaryControls = 1 << 8
)

// ControlGroup returns [GroupTertiary].
func (TertiaryControls) ControlGroup() ControlGroup { return GroupTertiary }

// String lists the bits that are 1 by the names of the SDM: "LOADIWKEY exiting, Enable HLAT".
// Bits without a name follow, as "bit 26"; 0 is "none".
func (c TertiaryControls) String() string { return controlString(GroupTertiary, uint64(c)) }

// AppendText appends what String returns. The error is always nil.
func (c TertiaryControls) AppendText(b []byte) ([]byte, error) {
	return appendControls(b, GroupTertiary, uint64(c)), nil
}

// MarshalText returns what String returns. The error is always nil.
func (c TertiaryControls) MarshalText() ([]byte, error) { return c.AppendText(nil) }

// UnmarshalText reads what [ParseControls] reads.
func (c *TertiaryControls) UnmarshalText(text []byte) error { return unmarshalControls(c, text) }

// ExitControls are the primary VM-exit controls (SDM Vol. 3C 25.7.1).
type ExitControls uint32

// The bits of [ExitControls]. A bit that is 1 means what its comment says.
const (
	// ExitSaveDebugControls: VM exits save DR7 and IA32_DEBUGCTL (SDM: "Save debug controls"; of the default1 class).
	ExitSaveDebugControls ExitControls = 1 << 2
	// ExitHostAddressSpaceSize: the processor is in 64-bit mode after a VM exit (SDM: "Host address-space size").
	ExitHostAddressSpaceSize ExitControls = 1 << 9
	// ExitLoadIA32PerfGlobalCtrl: VM exits load IA32_PERF_GLOBAL_CTRL (SDM: "Load IA32_PERF_GLOBAL_CTRL").
	ExitLoadIA32PerfGlobalCtrl ExitControls = 1 << 12
	// ExitAcknowledgeInterruptOnExit: a VM exit for an external interrupt acknowledges it and stores its vector (SDM: "Acknowledge interrupt on exit").
	ExitAcknowledgeInterruptOnExit ExitControls = 1 << 15
	// ExitSaveIA32PAT: VM exits save IA32_PAT (SDM: "Save IA32_PAT").
	ExitSaveIA32PAT ExitControls = 1 << 18
	// ExitLoadIA32PAT: VM exits load IA32_PAT (SDM: "Load IA32_PAT").
	ExitLoadIA32PAT ExitControls = 1 << 19
	// ExitSaveIA32EFER: VM exits save IA32_EFER (SDM: "Save IA32_EFER").
	ExitSaveIA32EFER ExitControls = 1 << 20
	// ExitLoadIA32EFER: VM exits load IA32_EFER (SDM: "Load IA32_EFER").
	ExitLoadIA32EFER ExitControls = 1 << 21
	// ExitSaveVMXPreemptionTimerValue: VM exits save what is left of the VMX-preemption timer (SDM: "Save VMX-preemption timer value").
	ExitSaveVMXPreemptionTimerValue ExitControls = 1 << 22
	// ExitClearIA32BNDCFGS: VM exits clear IA32_BNDCFGS (SDM: "Clear IA32_BNDCFGS").
	ExitClearIA32BNDCFGS ExitControls = 1 << 23
	// ExitConcealVMXFromPT: Intel PT does not tell of VM exits (SDM: "Conceal VMX from PT").
	ExitConcealVMXFromPT ExitControls = 1 << 24
	// ExitClearIA32RTITCTL: VM exits clear IA32_RTIT_CTL (SDM: "Clear IA32_RTIT_CTL").
	ExitClearIA32RTITCTL ExitControls = 1 << 25
	// ExitClearIA32LBRCTL: VM exits clear IA32_LBR_CTL (SDM: "Clear IA32_LBR_CTL").
	ExitClearIA32LBRCTL ExitControls = 1 << 26
	// ExitClearUINV: VM exits clear the user-interrupt notification vector (SDM: "Clear UINV").
	ExitClearUINV ExitControls = 1 << 27
	// ExitLoadCETState: VM exits load IA32_S_CET, IA32_INTERRUPT_SSP_TABLE_ADDR and SSP (SDM: "Load CET state").
	ExitLoadCETState ExitControls = 1 << 28
	// ExitLoadPKRS: VM exits load IA32_PKRS (SDM: "Load PKRS").
	ExitLoadPKRS ExitControls = 1 << 29
	// ExitSaveIA32PerfGlobalCtrl: VM exits save IA32_PERF_GLOBAL_CTRL (SDM: "Save IA32_PERF_GLOBAL_CTL").
	ExitSaveIA32PerfGlobalCtrl ExitControls = 1 << 30
	// ExitActivateSecondaryControls: the secondary VM-exit controls are used; they count as 0 otherwise (SDM: "Activate secondary controls").
	ExitActivateSecondaryControls ExitControls = 1 << 31

	// ExitDefault1 is the default1 class: bits that are 1 on every processor, or
	// on those without the TRUE capability MSRs (SDM Vol. 3D A.4).
	ExitDefault1 ExitControls = 0x36dff
)

// ControlGroup returns [GroupExit].
func (ExitControls) ControlGroup() ControlGroup { return GroupExit }

// String lists the bits that are 1 by the names of the SDM: "Save debug controls, Host address-space size".
// Bits without a name follow, as "bit 26"; 0 is "none".
func (c ExitControls) String() string { return controlString(GroupExit, uint64(c)) }

// AppendText appends what String returns. The error is always nil.
func (c ExitControls) AppendText(b []byte) ([]byte, error) {
	return appendControls(b, GroupExit, uint64(c)), nil
}

// MarshalText returns what String returns. The error is always nil.
func (c ExitControls) MarshalText() ([]byte, error) { return c.AppendText(nil) }

// UnmarshalText reads what [ParseControls] reads.
func (c *ExitControls) UnmarshalText(text []byte) error { return unmarshalControls(c, text) }

// SecondaryExitControls are the secondary VM-exit controls (SDM Vol. 3C 25.7.1).
type SecondaryExitControls uint64

// The bits of [SecondaryExitControls]. A bit that is 1 means what its comment says.
const (
	// Exit2SaveFRED: VM exits save the FRED MSRs ("Save FRED"; not in the SDM's revision 084).
	Exit2SaveFRED SecondaryExitControls = 1 << 0
	// Exit2LoadFRED: VM exits load the FRED MSRs ("Load FRED"; not in the SDM's revision 084).
	Exit2LoadFRED SecondaryExitControls = 1 << 1
	// Exit2PrematurelyBusyShadowStack: a VM exit may tell that a supervisor shadow stack became busy too early (SDM: "Prematurely busy shadow stack").
	Exit2PrematurelyBusyShadowStack SecondaryExitControls = 1 << 3
)

// ControlGroup returns [GroupSecondaryExit].
func (SecondaryExitControls) ControlGroup() ControlGroup { return GroupSecondaryExit }

// String lists the bits that are 1 by the names of the SDM: "Save FRED, Load FRED".
// Bits without a name follow, as "bit 26"; 0 is "none".
func (c SecondaryExitControls) String() string { return controlString(GroupSecondaryExit, uint64(c)) }

// AppendText appends what String returns. The error is always nil.
func (c SecondaryExitControls) AppendText(b []byte) ([]byte, error) {
	return appendControls(b, GroupSecondaryExit, uint64(c)), nil
}

// MarshalText returns what String returns. The error is always nil.
func (c SecondaryExitControls) MarshalText() ([]byte, error) { return c.AppendText(nil) }

// UnmarshalText reads what [ParseControls] reads.
func (c *SecondaryExitControls) UnmarshalText(text []byte) error { return unmarshalControls(c, text) }

// EntryControls are the VM-entry controls (SDM Vol. 3C 25.8.1).
type EntryControls uint32

// The bits of [EntryControls]. A bit that is 1 means what its comment says.
const (
	// EntryLoadDebugControls: VM entries load DR7 and IA32_DEBUGCTL (SDM: "Load debug controls"; of the default1 class).
	EntryLoadDebugControls EntryControls = 1 << 2
	// EntryIA32eModeGuest: the processor is in IA-32e mode after a VM entry (SDM: "IA-32e mode guest").
	EntryIA32eModeGuest EntryControls = 1 << 9
	// EntryEntryToSMM: the processor is in system-management mode after a VM entry (SDM: "Entry to SMM").
	EntryEntryToSMM EntryControls = 1 << 10
	// EntryDeactivateDualMonitorTreatment: the default treatment of SMIs and SMM is in effect after a VM entry (SDM: "Deactivate dual-monitor treatment").
	EntryDeactivateDualMonitorTreatment EntryControls = 1 << 11
	// EntryLoadIA32PerfGlobalCtrl: VM entries load IA32_PERF_GLOBAL_CTRL (SDM: "Load IA32_PERF_GLOBAL_CTRL").
	EntryLoadIA32PerfGlobalCtrl EntryControls = 1 << 13
	// EntryLoadIA32PAT: VM entries load IA32_PAT (SDM: "Load IA32_PAT").
	EntryLoadIA32PAT EntryControls = 1 << 14
	// EntryLoadIA32EFER: VM entries load IA32_EFER (SDM: "Load IA32_EFER").
	EntryLoadIA32EFER EntryControls = 1 << 15
	// EntryLoadIA32BNDCFGS: VM entries load IA32_BNDCFGS (SDM: "Load IA32_BNDCFGS").
	EntryLoadIA32BNDCFGS EntryControls = 1 << 16
	// EntryConcealVMXFromPT: Intel PT does not tell of VM entries (SDM: "Conceal VMX from PT").
	EntryConcealVMXFromPT EntryControls = 1 << 17
	// EntryLoadIA32RTITCTL: VM entries load IA32_RTIT_CTL (SDM: "Load IA32_RTIT_CTL").
	EntryLoadIA32RTITCTL EntryControls = 1 << 18
	// EntryLoadUINV: VM entries load the user-interrupt notification vector (SDM: "Load UINV").
	EntryLoadUINV EntryControls = 1 << 19
	// EntryLoadCETState: VM entries load IA32_S_CET, IA32_INTERRUPT_SSP_TABLE_ADDR and SSP (SDM: "Load CET state").
	EntryLoadCETState EntryControls = 1 << 20
	// EntryLoadGuestIA32LBRCTL: VM entries load IA32_LBR_CTL (SDM: "Load guest IA32_LBR_CTL").
	EntryLoadGuestIA32LBRCTL EntryControls = 1 << 21
	// EntryLoadPKRS: VM entries load IA32_PKRS (SDM: "Load PKRS").
	EntryLoadPKRS EntryControls = 1 << 22
	// EntryLoadFRED: VM entries load the FRED MSRs ("Load FRED"; not in the SDM's revision 084).
	EntryLoadFRED EntryControls = 1 << 23

	// EntryDefault1 is the default1 class: bits that are 1 on every processor, or
	// on those without the TRUE capability MSRs (SDM Vol. 3D A.5).
	EntryDefault1 EntryControls = 0x11ff
)

// ControlGroup returns [GroupEntry].
func (EntryControls) ControlGroup() ControlGroup { return GroupEntry }

// String lists the bits that are 1 by the names of the SDM: "Load debug controls, IA-32e mode guest".
// Bits without a name follow, as "bit 26"; 0 is "none".
func (c EntryControls) String() string { return controlString(GroupEntry, uint64(c)) }

// AppendText appends what String returns. The error is always nil.
func (c EntryControls) AppendText(b []byte) ([]byte, error) {
	return appendControls(b, GroupEntry, uint64(c)), nil
}

// MarshalText returns what String returns. The error is always nil.
func (c EntryControls) MarshalText() ([]byte, error) { return c.AppendText(nil) }

// UnmarshalText reads what [ParseControls] reads.
func (c *EntryControls) UnmarshalText(text []byte) error { return unmarshalControls(c, text) }

// VMFunctions are the VM-function controls (SDM Vol. 3C 25.6.14).
type VMFunctions uint64

// The bits of [VMFunctions]. A bit that is 1 means what its comment says.
const (
	// VMFuncEPTPSwitching: VM function 0 lets the guest choose another EPT pointer from the EPTP list (SDM: "EPTP switching").
	VMFuncEPTPSwitching VMFunctions = 1 << 0
)

// ControlGroup returns [GroupVMFunctions].
func (VMFunctions) ControlGroup() ControlGroup { return GroupVMFunctions }

// String lists the bits that are 1 by the names of the SDM: "EPTP switching".
// Bits without a name follow, as "bit 26"; 0 is "none".
func (c VMFunctions) String() string { return controlString(GroupVMFunctions, uint64(c)) }

// AppendText appends what String returns. The error is always nil.
func (c VMFunctions) AppendText(b []byte) ([]byte, error) {
	return appendControls(b, GroupVMFunctions, uint64(c)), nil
}

// MarshalText returns what String returns. The error is always nil.
func (c VMFunctions) MarshalText() ([]byte, error) { return c.AppendText(nil) }

// UnmarshalText reads what [ParseControls] reads.
func (c *VMFunctions) UnmarshalText(text []byte) error { return unmarshalControls(c, text) }

// controlGroups describes the groups.
var controlGroups = [NumControlGroups]controlGroup{
	GroupPin:           {"pin", "pin-based VM-execution controls", "Pin", 32, 0x4000, 0x481, 0x48d, 0x16},
	GroupPrimary:       {"primary", "primary processor-based VM-execution controls", "Primary", 32, 0x4002, 0x482, 0x48e, 0x401e172},
	GroupSecondary:     {"secondary", "secondary processor-based VM-execution controls", "Secondary", 32, 0x401e, 0x48b, 0x0, 0x0},
	GroupTertiary:      {"tertiary", "tertiary processor-based VM-execution controls", "Tertiary", 64, 0x2034, 0x492, 0x0, 0x0},
	GroupExit:          {"exit", "primary VM-exit controls", "Exit", 32, 0x400c, 0x483, 0x48f, 0x36dff},
	GroupSecondaryExit: {"exit2", "secondary VM-exit controls", "Exit2", 64, 0x2044, 0x493, 0x0, 0x0},
	GroupEntry:         {"entry", "VM-entry controls", "Entry", 32, 0x4012, 0x484, 0x490, 0x11ff},
	GroupVMFunctions:   {"vmfunc", "VM-function controls", "VMFunc", 64, 0x2018, 0x491, 0x0, 0x0},
}

// controlNames holds the names of each group's bits.
var controlNames = [NumControlGroups][64]controlName{
	GroupPin: {
		0: {"PinExternalInterruptExiting", "External-interrupt exiting", "25.6.1", "external interrupts cause VM exits"},
		3: {"PinNMIExiting", "NMI exiting", "25.6.1", "NMIs cause VM exits"},
		5: {"PinVirtualNMIs", "Virtual NMIs", "25.6.1", "bit 3 of the interruptibility state tells of blocking by a virtual NMI; needs NMI exiting"},
		6: {"PinActivateVMXPreemptionTimer", "Activate VMX-preemption timer", "25.6.1", "the VMX-preemption timer counts down in VMX non-root operation and causes a VM exit at zero"},
		7: {"PinProcessPostedInterrupts", "Process posted interrupts", "25.6.1", "interrupts with the notification vector bring virtual interrupts from the posted-interrupt descriptor"},
	},
	GroupPrimary: {
		2:  {"PrimaryInterruptWindowExiting", "Interrupt-window exiting", "25.6.2", "a VM exit takes place as soon as RFLAGS.IF is 1 and nothing blocks interrupts"},
		3:  {"PrimaryUseTSCOffsetting", "Use TSC offsetting", "25.6.2", "the TSC offset is added to what the guest reads as the time-stamp counter"},
		7:  {"PrimaryHLTExiting", "HLT exiting", "25.6.2", "HLT causes VM exits"},
		9:  {"PrimaryINVLPGExiting", "INVLPG exiting", "25.6.2", "INVLPG and INVPCID cause VM exits"},
		10: {"PrimaryMWAITExiting", "MWAIT exiting", "25.6.2", "MWAIT causes VM exits"},
		11: {"PrimaryRDPMCExiting", "RDPMC exiting", "25.6.2", "RDPMC causes VM exits"},
		12: {"PrimaryRDTSCExiting", "RDTSC exiting", "25.6.2", "RDTSC and RDTSCP cause VM exits"},
		15: {"PrimaryCR3LoadExiting", "CR3-load exiting", "25.6.2", "MOV to CR3 causes VM exits unless the value is a CR3-target value"},
		16: {"PrimaryCR3StoreExiting", "CR3-store exiting", "25.6.2", "MOV from CR3 causes VM exits"},
		17: {"PrimaryActivateTertiaryControls", "Activate tertiary controls", "25.6.2", "the tertiary processor-based VM-execution controls are used; they count as 0 otherwise"},
		19: {"PrimaryCR8LoadExiting", "CR8-load exiting", "25.6.2", "MOV to CR8 causes VM exits"},
		20: {"PrimaryCR8StoreExiting", "CR8-store exiting", "25.6.2", "MOV from CR8 causes VM exits"},
		21: {"PrimaryUseTPRShadow", "Use TPR shadow", "25.6.2", "the TPR is virtualized by means of the virtual-APIC page"},
		22: {"PrimaryNMIWindowExiting", "NMI-window exiting", "25.6.2", "a VM exit takes place as soon as nothing blocks virtual NMIs; needs virtual NMIs"},
		23: {"PrimaryMOVDRExiting", "MOV-DR exiting", "25.6.2", "MOV to and from debug registers causes VM exits"},
		24: {"PrimaryUnconditionalIOExiting", "Unconditional I/O exiting", "25.6.2", "I/O instructions cause VM exits; ignored if the I/O bitmaps are used"},
		25: {"PrimaryUseIOBitmaps", "Use I/O bitmaps", "25.6.2", "the I/O bitmaps tell which I/O instructions cause VM exits"},
		27: {"PrimaryMonitorTrapFlag", "Monitor trap flag", "25.6.2", "a VM exit takes place after every instruction"},
		28: {"PrimaryUseMSRBitmaps", "Use MSR bitmaps", "25.6.2", "the MSR bitmaps tell which RDMSR and WRMSR cause VM exits; all do otherwise"},
		29: {"PrimaryMONITORExiting", "MONITOR exiting", "25.6.2", "MONITOR causes VM exits"},
		30: {"PrimaryPAUSEExiting", "PAUSE exiting", "25.6.2", "PAUSE causes VM exits"},
		31: {"PrimaryActivateSecondaryControls", "Activate secondary controls", "25.6.2", "the secondary processor-based VM-execution controls are used; they count as 0 otherwise"},
	},
	GroupSecondary: {
		0:  {"SecondaryVirtualizeAPICAccesses", "Virtualize APIC accesses", "25.6.2", "accesses to the APIC-access page are virtualized or cause VM exits"},
		1:  {"SecondaryEnableEPT", "Enable EPT", "25.6.2", "guest-physical addresses are translated by the extended page tables"},
		2:  {"SecondaryDescriptorTableExiting", "Descriptor-table exiting", "25.6.2", "LGDT, LIDT, LLDT, LTR, SGDT, SIDT, SLDT and STR cause VM exits"},
		3:  {"SecondaryEnableRDTSCP", "Enable RDTSCP", "25.6.2", "RDTSCP and RDPID work; they cause #UD otherwise"},
		4:  {"SecondaryVirtualizeX2APICMode", "Virtualize x2APIC mode", "25.6.2", "RDMSR and WRMSR of x2APIC registers are virtualized"},
		5:  {"SecondaryEnableVPID", "Enable VPID", "25.6.2", "cached translations are tagged with the virtual-processor identifier"},
		6:  {"SecondaryWBINVDExiting", "WBINVD exiting", "25.6.2", "WBINVD and WBNOINVD cause VM exits"},
		7:  {"SecondaryUnrestrictedGuest", "Unrestricted guest", "25.6.2", "the guest may run without paging and in real-address mode; needs EPT"},
		8:  {"SecondaryAPICRegisterVirtualization", "APIC-register virtualization", "25.6.2", "most reads of APIC registers are answered from the virtual-APIC page"},
		9:  {"SecondaryVirtualInterruptDelivery", "Virtual-interrupt delivery", "25.6.2", "pending virtual interrupts are evaluated and delivered by the processor"},
		10: {"SecondaryPAUSELoopExiting", "PAUSE-loop exiting", "25.6.2", "a series of PAUSE in a loop at privilege level 0 causes a VM exit"},
		11: {"SecondaryRDRANDExiting", "RDRAND exiting", "25.6.2", "RDRAND causes VM exits"},
		12: {"SecondaryEnableINVPCID", "Enable INVPCID", "25.6.2", "INVPCID works; it causes #UD otherwise"},
		13: {"SecondaryEnableVMFunctions", "Enable VM functions", "25.6.2", "VMFUNC works as the VM-function controls say; it causes #UD otherwise"},
		14: {"SecondaryVMCSShadowing", "VMCS shadowing", "25.6.2", "VMREAD and VMWRITE in the guest may access the shadow VMCS"},
		15: {"SecondaryEnableENCLSExiting", "Enable ENCLS exiting", "25.6.2", "the ENCLS-exiting bitmap tells which ENCLS leaves cause VM exits"},
		16: {"SecondaryRDSEEDExiting", "RDSEED exiting", "25.6.2", "RDSEED causes VM exits"},
		17: {"SecondaryEnablePML", "Enable PML", "25.6.2", "an access that sets the dirty flag of an EPT entry is noted in the page-modification log"},
		18: {"SecondaryEPTViolationVE", "EPT-violation #VE", "25.6.2", "EPT violations may cause virtualization exceptions in place of VM exits"},
		19: {"SecondaryConcealVMXFromPT", "Conceal VMX from PT", "25.6.2", "Intel PT does not tell that the processor is in VMX non-root operation"},
		20: {"SecondaryEnableXSAVESXRSTORS", "Enable XSAVES/XRSTORS", "25.6.2", "XSAVES and XRSTORS work; they cause #UD otherwise"},
		21: {"SecondaryPASIDTranslation", "PASID translation", "25.6.2", "the PASID of ENQCMD and ENQCMDS is translated"},
		22: {"SecondaryModeBasedExecuteControlForEPT", "Mode-based execute control for EPT", "25.6.2", "EPT has one execute permission for supervisor-mode and one for user-mode linear addresses"},
		23: {"SecondarySubPageWritePermissionsForEPT", "Sub-page write permissions for EPT", "25.6.2", "EPT write permission can be given to 128-byte parts of a page"},
		24: {"SecondaryIntelPTUsesGuestPhysicalAddresses", "Intel PT uses guest physical addresses", "25.6.2", "the addresses of Intel PT's output are guest-physical; needs EPT"},
		25: {"SecondaryUseTSCScaling", "Use TSC scaling", "25.6.2", "what the guest reads as the time-stamp counter is multiplied by the TSC multiplier"},
		26: {"SecondaryEnableUserWaitAndPause", "Enable user wait and pause", "25.6.2", "TPAUSE, UMONITOR and UMWAIT work; they cause #UD otherwise"},
		27: {"SecondaryEnablePCONFIG", "Enable PCONFIG", "25.6.2", "PCONFIG works as the PCONFIG-exiting bitmap says; it causes #UD otherwise"},
		28: {"SecondaryEnableENCLVExiting", "Enable ENCLV exiting", "25.6.2", "the ENCLV-exiting bitmap tells which ENCLV leaves cause VM exits"},
		29: {"SecondaryEnableEPCVirtualization", "Enable EPC virtualization", "", "the SGX extensions that let a hypervisor share out the enclave page cache are enabled"},
		30: {"SecondaryVMMBusLockDetection", "VMM bus-lock detection", "25.6.2", "a bus lock causes a VM exit"},
		31: {"SecondaryInstructionTimeout", "Instruction timeout", "25.6.2", "a VM exit takes place if no instruction boundary comes within the instruction-timeout control's time"},
	},
	GroupTertiary: {
		0: {"TertiaryLOADIWKEYExiting", "LOADIWKEY exiting", "25.6.2", "LOADIWKEY causes VM exits"},
		1: {"TertiaryEnableHLAT", "Enable HLAT", "25.6.2", "hypervisor-managed linear-address translation is enabled"},
		2: {"TertiaryEPTPagingWriteControl", "EPT paging-write control", "25.6.2", "EPT entries can allow that the processor sets accessed and dirty flags in read-only paging structures"},
		3: {"TertiaryGuestPagingVerification", "Guest-paging verification", "25.6.2", "EPT entries can require that paging structures lie in pages marked for that"},
		4: {"TertiaryIPIVirtualization", "IPI virtualization", "25.6.2", "virtual interprocessor interrupts are sent without a VM exit"},
		5: {"TertiaryGuestPhysicalAddressWidth", "Guest-physical-address width", "", "the guest-physical addresses of a trust domain have 52 bits in place of 48"},
		6: {"TertiaryEnableMSRListInstructions", "Enable MSR-list instructions", "25.6.2", "RDMSRLIST and WRMSRLIST work; they cause #UD otherwise"},
		7: {"TertiaryVirtualizeIA32SpecCtrl", "Virtualize IA32_SPEC_CTRL", "25.6.2", "RDMSR and WRMSR of IA32_SPEC_CTRL go by the IA32_SPEC_CTRL mask and shadow"},
		8: {"TertiaryAPICTimerVirtualization", "APIC-timer virtualization", "", "the guest's writes to IA32_TSC_DEADLINE arm a timer that brings a virtual interrupt"},
	},
	GroupExit: {
		2:  {"ExitSaveDebugControls", "Save debug controls", "25.7.1", "VM exits save DR7 and IA32_DEBUGCTL"},
		9:  {"ExitHostAddressSpaceSize", "Host address-space size", "25.7.1", "the processor is in 64-bit mode after a VM exit"},
		12: {"ExitLoadIA32PerfGlobalCtrl", "Load IA32_PERF_GLOBAL_CTRL", "25.7.1", "VM exits load IA32_PERF_GLOBAL_CTRL"},
		15: {"ExitAcknowledgeInterruptOnExit", "Acknowledge interrupt on exit", "25.7.1", "a VM exit for an external interrupt acknowledges it and stores its vector"},
		18: {"ExitSaveIA32PAT", "Save IA32_PAT", "25.7.1", "VM exits save IA32_PAT"},
		19: {"ExitLoadIA32PAT", "Load IA32_PAT", "25.7.1", "VM exits load IA32_PAT"},
		20: {"ExitSaveIA32EFER", "Save IA32_EFER", "25.7.1", "VM exits save IA32_EFER"},
		21: {"ExitLoadIA32EFER", "Load IA32_EFER", "25.7.1", "VM exits load IA32_EFER"},
		22: {"ExitSaveVMXPreemptionTimerValue", "Save VMX-preemption timer value", "25.7.1", "VM exits save what is left of the VMX-preemption timer"},
		23: {"ExitClearIA32BNDCFGS", "Clear IA32_BNDCFGS", "25.7.1", "VM exits clear IA32_BNDCFGS"},
		24: {"ExitConcealVMXFromPT", "Conceal VMX from PT", "25.7.1", "Intel PT does not tell of VM exits"},
		25: {"ExitClearIA32RTITCTL", "Clear IA32_RTIT_CTL", "25.7.1", "VM exits clear IA32_RTIT_CTL"},
		26: {"ExitClearIA32LBRCTL", "Clear IA32_LBR_CTL", "25.7.1", "VM exits clear IA32_LBR_CTL"},
		27: {"ExitClearUINV", "Clear UINV", "25.7.1", "VM exits clear the user-interrupt notification vector"},
		28: {"ExitLoadCETState", "Load CET state", "25.7.1", "VM exits load IA32_S_CET, IA32_INTERRUPT_SSP_TABLE_ADDR and SSP"},
		29: {"ExitLoadPKRS", "Load PKRS", "25.7.1", "VM exits load IA32_PKRS"},
		30: {"ExitSaveIA32PerfGlobalCtrl", "Save IA32_PERF_GLOBAL_CTL", "25.7.1", "VM exits save IA32_PERF_GLOBAL_CTRL"},
		31: {"ExitActivateSecondaryControls", "Activate secondary controls", "25.7.1", "the secondary VM-exit controls are used; they count as 0 otherwise"},
	},
	GroupSecondaryExit: {
		0: {"Exit2SaveFRED", "Save FRED", "", "VM exits save the FRED MSRs"},
		1: {"Exit2LoadFRED", "Load FRED", "", "VM exits load the FRED MSRs"},
		3: {"Exit2PrematurelyBusyShadowStack", "Prematurely busy shadow stack", "25.7.1", "a VM exit may tell that a supervisor shadow stack became busy too early"},
	},
	GroupEntry: {
		2:  {"EntryLoadDebugControls", "Load debug controls", "25.8.1", "VM entries load DR7 and IA32_DEBUGCTL"},
		9:  {"EntryIA32eModeGuest", "IA-32e mode guest", "25.8.1", "the processor is in IA-32e mode after a VM entry"},
		10: {"EntryEntryToSMM", "Entry to SMM", "25.8.1", "the processor is in system-management mode after a VM entry"},
		11: {"EntryDeactivateDualMonitorTreatment", "Deactivate dual-monitor treatment", "25.8.1", "the default treatment of SMIs and SMM is in effect after a VM entry"},
		13: {"EntryLoadIA32PerfGlobalCtrl", "Load IA32_PERF_GLOBAL_CTRL", "25.8.1", "VM entries load IA32_PERF_GLOBAL_CTRL"},
		14: {"EntryLoadIA32PAT", "Load IA32_PAT", "25.8.1", "VM entries load IA32_PAT"},
		15: {"EntryLoadIA32EFER", "Load IA32_EFER", "25.8.1", "VM entries load IA32_EFER"},
		16: {"EntryLoadIA32BNDCFGS", "Load IA32_BNDCFGS", "25.8.1", "VM entries load IA32_BNDCFGS"},
		17: {"EntryConcealVMXFromPT", "Conceal VMX from PT", "25.8.1", "Intel PT does not tell of VM entries"},
		18: {"EntryLoadIA32RTITCTL", "Load IA32_RTIT_CTL", "25.8.1", "VM entries load IA32_RTIT_CTL"},
		19: {"EntryLoadUINV", "Load UINV", "25.8.1", "VM entries load the user-interrupt notification vector"},
		20: {"EntryLoadCETState", "Load CET state", "25.8.1", "VM entries load IA32_S_CET, IA32_INTERRUPT_SSP_TABLE_ADDR and SSP"},
		21: {"EntryLoadGuestIA32LBRCTL", "Load guest IA32_LBR_CTL", "25.8.1", "VM entries load IA32_LBR_CTL"},
		22: {"EntryLoadPKRS", "Load PKRS", "25.8.1", "VM entries load IA32_PKRS"},
		23: {"EntryLoadFRED", "Load FRED", "", "VM entries load the FRED MSRs"},
	},
	GroupVMFunctions: {
		0: {"VMFuncEPTPSwitching", "EPTP switching", "25.6.14", "VM function 0 lets the guest choose another EPT pointer from the EPTP list"},
	},
}
