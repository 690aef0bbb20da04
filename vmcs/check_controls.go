package vmcs

import "github.com/govtx/vtx/asm"

// Results of violations.
var (
	badControls = Outcome{Kind: FailValid, Error: EntryInvalidControls}
	badHost     = Outcome{Kind: FailValid, Error: EntryInvalidHostState}
	badGuest    = Outcome{Kind: EntryExit, Reason: 33}
	badPDPTE    = Outcome{Kind: EntryExit, Reason: 33, Qualification: 2}
	badNMI      = Outcome{Kind: EntryExit, Reason: 33, Qualification: 3}
	badLink     = Outcome{Kind: EntryExit, Reason: 33, Qualification: 4}
	badMSR      = Outcome{Kind: EntryExit, Reason: 34}
)

// rules are all checks in the manual's order. Each stands once; one that is alike
// for several registers stands once for each of them.
var rules = concat(
	basicRules, executionRules, exitRules, entryRules,
	hostRegisterRules, hostSegmentRules, addressSpaceRules,
	guestRegisterRules, guestSegmentRules(), guestTableRules, guestFlagRules, guestStateRules, guestPDPTERules,
	msrLoadRules,
)

func concat(groups ...[]Rule) []Rule {
	var all []Rule
	for _, g := range groups {
		all = append(all, g...)
	}
	return all
}

func fail(n InstructionError) Outcome { return Outcome{Kind: FailValid, Error: n} }

// Basic VM-entry checks (SDM Vol. 3C 27.1), as far as they have to do with the
// VMCS. The others make VMLAUNCH and VMRESUME fault.
var basicRules = []Rule{
	{"entry.novmcs", "27.1", "there must be a current VMCS", nil, Outcome{Kind: FailInvalid}, false,
		func(c *checker) bool { return !c.NoVMCS }},
	{"entry.shadowvmcs", "27.1", "the current VMCS must not be a shadow VMCS", nil, Outcome{Kind: FailInvalid}, false,
		func(c *checker) bool { return !c.ShadowVMCS }},
	{"entry.movss", "27.1", "events must not be blocked by MOV SS", nil, fail(EntryBlockedByMOVSS), false,
		func(c *checker) bool { return !c.BlockedMOVSS }},
	{"entry.launch", "27.1", "VMLAUNCH needs a VMCS whose launch state is clear", nil, fail(VMLAUNCHNonClear), false,
		func(c *checker) bool { return c.Launch != LaunchNotClear }},
	{"entry.resume", "27.1", "VMRESUME needs a VMCS whose launch state is launched", nil, fail(VMRESUMENonLaunched), false,
		func(c *checker) bool { return c.Launch != ResumeNotLaunched }},
	{"entry.resume.vmxoff", "31.4", "VMRESUME needs a VMCS that was launched since VMXON", nil, fail(VMRESUMEAfterVMXOFF), false,
		func(c *checker) bool { return c.Launch != ResumeAfterVMXOFF }},
	{"smm.executive.address", "32.15.4", "when the entry returns from SMM, bits 11:0 of the executive-VMCS pointer must be 0, and so must the bits beyond the physical-address width", []Field{ExecutiveVMCSPointer, fEntry}, fail(EntryInvalidExecutive), false,
		func(c *checker) bool {
			return !c.SMM || c.entry()&(EntryEntryToSMM|EntryDeactivateDualMonitorTreatment) != 0 || c.page(ExecutiveVMCSPointer)
		}},
	{"smm.executive.vmxon", "32.15.4", "to deactivate the dual-monitor treatment, the executive-VMCS pointer must be the VMXON pointer", []Field{ExecutiveVMCSPointer, fEntry}, fail(EntryExecutiveNotVMXON), false,
		func(c *checker) bool {
			if !c.SMM || c.entry()&EntryDeactivateDualMonitorTreatment == 0 {
				return true
			}
			p := c.get(ExecutiveVMCSPointer)
			c.missing = c.missing || c.VMXONRegion == 0
			return p == c.VMXONRegion
		}},
}

// The field of each group of controls, for rules that read them.
const (
	fPin       = PinBasedControls
	fPrimary   = PrimaryProcessorBasedControls
	fSecondary = SecondaryProcessorBasedControls
	fTertiary  = TertiaryProcessorBasedControls
	fExit      = PrimaryVMExitControls
	fExit2     = SecondaryVMExitControls
	fEntry     = VMEntryControls
)

const pageText = ", bits 11:0 of the address must be 0, and so must the bits beyond the physical-address width"

// Checks on VM-execution control fields (SDM Vol. 3C 27.2.1.1).
var executionRules = []Rule{
	{"pin.reserved", "27.2.1.1, A.3.1", "reserved bits of the pin-based VM-execution controls must be as IA32_VMX_(TRUE_)PINBASED_CTLS says", []Field{fPin}, badControls, false,
		func(c *checker) bool { return c.allowed(GroupPin, uint64(c.pin())) }},
	{"primary.reserved", "27.2.1.1, A.3.2", "reserved bits of the primary processor-based VM-execution controls must be as IA32_VMX_(TRUE_)PROCBASED_CTLS says", []Field{fPrimary}, badControls, false,
		func(c *checker) bool { return c.allowed(GroupPrimary, uint64(c.primary())) }},
	{"secondary.reserved", "27.2.1.1, A.3.3", "if secondary controls are activated, their reserved bits must be as IA32_VMX_PROCBASED_CTLS2 says", []Field{fSecondary, fPrimary}, badControls, false,
		func(c *checker) bool {
			return c.primary()&PrimaryActivateSecondaryControls == 0 || c.allowed(GroupSecondary, uint64(c.secondary()))
		}},
	{"tertiary.reserved", "27.2.1.1, A.3.4", "if tertiary controls are activated, their reserved bits must be 0 as IA32_VMX_PROCBASED_CTLS3 says", []Field{fTertiary, fPrimary}, badControls, false,
		func(c *checker) bool {
			return c.primary()&PrimaryActivateTertiaryControls == 0 || c.allowed(GroupTertiary, uint64(c.tertiary()))
		}},
	{"cr3target.count", "27.2.1.1, A.6", "the CR3-target count must not exceed the number that IA32_VMX_MISC[24:16] gives", []Field{CR3TargetCount}, badControls, false,
		func(c *checker) bool { return c.get(CR3TargetCount) <= uint64(c.Caps.Misc.CR3Targets()) }},
	{"iobitmap.a", "27.2.1.1", "if “use I/O bitmaps” is 1" + pageText, []Field{IOBitmapA, fPrimary}, badControls, false,
		func(c *checker) bool { return c.primary()&PrimaryUseIOBitmaps == 0 || c.page(IOBitmapA) }},
	{"iobitmap.b", "27.2.1.1", "if “use I/O bitmaps” is 1" + pageText, []Field{IOBitmapB, fPrimary}, badControls, false,
		func(c *checker) bool { return c.primary()&PrimaryUseIOBitmaps == 0 || c.page(IOBitmapB) }},
	{"msrbitmap", "27.2.1.1", "if “use MSR bitmaps” is 1" + pageText, []Field{MSRBitmaps, fPrimary}, badControls, false,
		func(c *checker) bool { return c.primary()&PrimaryUseMSRBitmaps == 0 || c.page(MSRBitmaps) }},
	{"vapic.address", "27.2.1.1", "if “use TPR shadow” is 1" + pageText, []Field{VirtualAPICAddress, fPrimary}, badControls, false,
		func(c *checker) bool { return c.primary()&PrimaryUseTPRShadow == 0 || c.page(VirtualAPICAddress) }},
	{"tpr.threshold.reserved", "27.2.1.1", "if “use TPR shadow” is 1 and “virtual-interrupt delivery” is 0, bits 31:4 of the TPR threshold must be 0", []Field{TPRThreshold, fPrimary, fSecondary}, badControls, false,
		func(c *checker) bool {
			return c.primary()&PrimaryUseTPRShadow == 0 || c.secondary()&SecondaryVirtualInterruptDelivery != 0 || c.get(TPRThreshold)>>4 == 0
		}},
	{"tpr.threshold.vtpr", "27.2.1.1", "if “use TPR shadow” is 1 and “virtualize APIC accesses” and “virtual-interrupt delivery” are 0, bits 3:0 of the TPR threshold must not exceed bits 7:4 of VTPR, at 0x80 on the virtual-APIC page", []Field{TPRThreshold, VirtualAPICAddress, fPrimary, fSecondary}, badControls, true,
		func(c *checker) bool {
			if c.primary()&PrimaryUseTPRShadow == 0 || c.secondary()&(SecondaryVirtualInterruptDelivery|SecondaryVirtualizeAPICAccesses) != 0 {
				return true
			}
			threshold := c.get(TPRThreshold) & 0xf
			if threshold == 0 || !c.page(VirtualAPICAddress) {
				return true // vapic.address has the bad address
			}
			return threshold <= c.load(c.get(VirtualAPICAddress)+0x80)>>4&0xf
		}},
	{"nmi.virtual", "27.2.1.1", "if “NMI exiting” is 0, “virtual NMIs” must be 0", []Field{fPin}, badControls, false,
		func(c *checker) bool { return c.pin()&(PinNMIExiting|PinVirtualNMIs) != PinVirtualNMIs }},
	{"nmi.window", "27.2.1.1", "if “virtual NMIs” is 0, “NMI-window exiting” must be 0", []Field{fPrimary, fPin}, badControls, false,
		func(c *checker) bool {
			return c.primary()&PrimaryNMIWindowExiting == 0 || c.pin()&PinVirtualNMIs != 0
		}},
	{"apicaccess.address", "27.2.1.1", "if “virtualize APIC accesses” is 1" + pageText, []Field{APICAccessAddress, fPrimary, fSecondary}, badControls, false,
		func(c *checker) bool {
			return c.secondary()&SecondaryVirtualizeAPICAccesses == 0 || c.page(APICAccessAddress)
		}},
	{"apic.tprshadow", "27.2.1.1", "if “use TPR shadow” is 0, “virtualize x2APIC mode”, “APIC-register virtualization”, “virtual-interrupt delivery” and “IPI virtualization” must be 0", []Field{fSecondary, fTertiary, fPrimary}, badControls, false,
		func(c *checker) bool {
			return c.primary()&PrimaryUseTPRShadow != 0 ||
				c.secondary()&(SecondaryVirtualizeX2APICMode|SecondaryAPICRegisterVirtualization|SecondaryVirtualInterruptDelivery) == 0 &&
					c.tertiary()&TertiaryIPIVirtualization == 0
		}},
	{"apic.x2apic", "27.2.1.1", "if “virtualize x2APIC mode” is 1, “virtualize APIC accesses” must be 0", []Field{fSecondary, fPrimary}, badControls, false,
		func(c *checker) bool {
			const both = SecondaryVirtualizeX2APICMode | SecondaryVirtualizeAPICAccesses
			return c.secondary()&both != both
		}},
	{"vid.interrupts", "27.2.1.1", "if “virtual-interrupt delivery” is 1, “external-interrupt exiting” must be 1", []Field{fSecondary, fPin, fPrimary}, badControls, false,
		func(c *checker) bool {
			return c.secondary()&SecondaryVirtualInterruptDelivery == 0 || c.pin()&PinExternalInterruptExiting != 0
		}},
	{"posted.vid", "27.2.1.1", "if “process posted interrupts” is 1, “virtual-interrupt delivery” must be 1", []Field{fPin, fSecondary, fPrimary}, badControls, false,
		func(c *checker) bool {
			return c.pin()&PinProcessPostedInterrupts == 0 || c.secondary()&SecondaryVirtualInterruptDelivery != 0
		}},
	{"posted.acknowledge", "27.2.1.1", "if “process posted interrupts” is 1, “acknowledge interrupt on exit” must be 1", []Field{fPin, fExit}, badControls, false,
		func(c *checker) bool {
			return c.pin()&PinProcessPostedInterrupts == 0 || c.exit()&ExitAcknowledgeInterruptOnExit != 0
		}},
	{"posted.vector", "27.2.1.1", "if “process posted interrupts” is 1, the notification vector must be 0 to 255", []Field{PostedInterruptNotificationVector, fPin}, badControls, false,
		func(c *checker) bool {
			return c.pin()&PinProcessPostedInterrupts == 0 || c.get(PostedInterruptNotificationVector) <= 255
		}},
	{"posted.descriptor", "27.2.1.1", "if “process posted interrupts” is 1, bits 5:0 of the descriptor's address must be 0, and so must the bits beyond the physical-address width", []Field{PostedInterruptDescriptorAddress, fPin}, badControls, false,
		func(c *checker) bool {
			if c.pin()&PinProcessPostedInterrupts == 0 {
				return true
			}
			a := c.get(PostedInterruptDescriptorAddress)
			return a&0x3f == 0 && c.physical(a)
		}},
	{"vpid", "27.2.1.1", "if “enable VPID” is 1, the VPID must not be 0", []Field{VPID, fPrimary, fSecondary}, badControls, false,
		func(c *checker) bool { return c.secondary()&SecondaryEnableVPID == 0 || c.get(VPID) != 0 }},
	{"eptp.memorytype", "27.2.1.1, A.10", "if “enable EPT” is 1, the memory type in bits 2:0 of the EPTP must be one that IA32_VMX_EPT_VPID_CAP announces: 0 (UC, bit 8) or 6 (WB, bit 14)", []Field{EPTPointer, fPrimary, fSecondary}, badControls, false,
		func(c *checker) bool {
			if !c.ept() {
				return true
			}
			switch c.get(EPTPointer) & 7 {
			case 0:
				return c.Caps.EPTVPID.Uncacheable()
			case 6:
				return c.Caps.EPTVPID.WriteBack()
			}
			return false
		}},
	{"eptp.walklength", "27.2.1.1, A.10", "if “enable EPT” is 1, bits 5:3 of the EPTP must be a page-walk length less 1 that IA32_VMX_EPT_VPID_CAP announces: 3 (bit 6) or 4 (bit 7)", []Field{EPTPointer, fPrimary, fSecondary}, badControls, false,
		func(c *checker) bool {
			if !c.ept() {
				return true
			}
			switch c.get(EPTPointer) >> 3 & 7 {
			case 3:
				return c.Caps.EPTVPID.Walk4()
			case 4:
				return c.Caps.EPTVPID.Walk5()
			}
			return false
		}},
	{"eptp.accessed", "27.2.1.1, A.10", "if “enable EPT” is 1 and IA32_VMX_EPT_VPID_CAP[21] is 0, bit 6 (accessed and dirty flags) of the EPTP must be 0", []Field{EPTPointer, fPrimary, fSecondary}, badControls, false,
		func(c *checker) bool {
			return !c.ept() || c.get(EPTPointer)>>6&1 == 0 || c.Caps.EPTVPID.AccessedDirty()
		}},
	{"eptp.shadowstack", "27.2.1.1, A.10", "if “enable EPT” is 1 and IA32_VMX_EPT_VPID_CAP[23] is 0, bit 7 (supervisor shadow stack) of the EPTP must be 0", []Field{EPTPointer, fPrimary, fSecondary}, badControls, false,
		func(c *checker) bool {
			return !c.ept() || c.get(EPTPointer)>>7&1 == 0 || c.Caps.EPTVPID.SupervisorShadowStack()
		}},
	{"eptp.reserved", "27.2.1.1", "if “enable EPT” is 1, bits 11:8 of the EPTP must be 0, and so must the bits beyond the physical-address width", []Field{EPTPointer, fPrimary, fSecondary}, badControls, false,
		func(c *checker) bool {
			return !c.ept() || c.get(EPTPointer)&(0xf00|c.physicalMask) == 0
		}},
	{"pml.ept", "27.2.1.1", "if “enable PML” is 1, “enable EPT” must be 1", []Field{fSecondary, fPrimary}, badControls, false,
		func(c *checker) bool { return c.needs(SecondaryEnablePML) }},
	{"pml.address", "27.2.1.1", "if “enable PML” is 1" + pageText, []Field{PMLAddress, fPrimary, fSecondary}, badControls, false,
		func(c *checker) bool { return c.secondary()&SecondaryEnablePML == 0 || c.page(PMLAddress) }},
	{"unrestricted.ept", "27.2.1.1", "if “unrestricted guest” is 1, “enable EPT” must be 1", []Field{fSecondary, fPrimary}, badControls, false,
		func(c *checker) bool { return c.needs(SecondaryUnrestrictedGuest) }},
	{"mbec.ept", "27.2.1.1", "if “mode-based execute control for EPT” is 1, “enable EPT” must be 1", []Field{fSecondary, fPrimary}, badControls, false,
		func(c *checker) bool { return c.needs(SecondaryModeBasedExecuteControlForEPT) }},
	{"spp.ept", "27.2.1.1", "if “sub-page write permissions for EPT” is 1, “enable EPT” must be 1", []Field{fSecondary, fPrimary}, badControls, false,
		func(c *checker) bool { return c.needs(SecondarySubPageWritePermissionsForEPT) }},
	{"spp.address", "27.2.1.1", "if “sub-page write permissions for EPT” is 1" + pageText, []Field{SubPagePermissionTable, fPrimary, fSecondary}, badControls, false,
		func(c *checker) bool {
			return c.secondary()&SecondarySubPageWritePermissionsForEPT == 0 || c.page(SubPagePermissionTable)
		}},
	{"vmfunc.reserved", "27.2.1.1, A.11", "if “enable VM functions” is 1, the VM-function controls must have no bit that IA32_VMX_VMFUNC does not allow", []Field{VMFunctionControls, fPrimary, fSecondary}, badControls, false,
		func(c *checker) bool { return uint64(c.vmfunc())&^c.Caps.Controls[GroupVMFunctions].May1 == 0 }},
	{"vmfunc.eptpswitching.ept", "27.2.1.1", "if “EPTP switching” is 1, “enable EPT” must be 1", []Field{VMFunctionControls, fSecondary, fPrimary}, badControls, false,
		func(c *checker) bool { return c.vmfunc()&VMFuncEPTPSwitching == 0 || c.ept() }},
	{"vmfunc.eptpswitching.list", "27.2.1.1", "if “EPTP switching” is 1" + pageText, []Field{EPTPListAddress, VMFunctionControls, fPrimary, fSecondary}, badControls, false,
		func(c *checker) bool { return c.vmfunc()&VMFuncEPTPSwitching == 0 || c.page(EPTPListAddress) }},
	{"shadowing.vmread", "27.2.1.1", "if “VMCS shadowing” is 1" + pageText, []Field{VMREADBitmap, fPrimary, fSecondary}, badControls, false,
		func(c *checker) bool { return c.secondary()&SecondaryVMCSShadowing == 0 || c.page(VMREADBitmap) }},
	{"shadowing.vmwrite", "27.2.1.1", "if “VMCS shadowing” is 1" + pageText, []Field{VMWRITEBitmap, fPrimary, fSecondary}, badControls, false,
		func(c *checker) bool { return c.secondary()&SecondaryVMCSShadowing == 0 || c.page(VMWRITEBitmap) }},
	{"ve.address", "27.2.1.1", "if “EPT-violation #VE” is 1" + pageText, []Field{VirtualizationExceptionAddress, fPrimary, fSecondary}, badControls, false,
		func(c *checker) bool {
			return c.secondary()&SecondaryEPTViolationVE == 0 || c.page(VirtualizationExceptionAddress)
		}},
	{"entry.tracing", "27.2.1.1", "while IA32_RTIT_CTL.TraceEn is 1, “load IA32_RTIT_CTL” must be 0", []Field{fEntry}, badControls, false,
		func(c *checker) bool { return !c.Tracing || c.entry()&EntryLoadIA32RTITCTL == 0 }},
	{"pt.guestphysical", "27.2.1.1", "if “Intel PT uses guest physical addresses” is 1, “enable EPT”, “load IA32_RTIT_CTL” and “clear IA32_RTIT_CTL” must be 1", []Field{fSecondary, fExit, fEntry, fPrimary}, badControls, false,
		func(c *checker) bool {
			return c.secondary()&SecondaryIntelPTUsesGuestPhysicalAddresses == 0 ||
				c.ept() && c.entry()&EntryLoadIA32RTITCTL != 0 && c.exit()&ExitClearIA32RTITCTL != 0
		}},
	{"tsc.multiplier", "27.2.1.1", "if “use TSC scaling” is 1, the TSC multiplier must not be 0", []Field{TSCMultiplier, fPrimary, fSecondary}, badControls, false,
		func(c *checker) bool { return c.secondary()&SecondaryUseTSCScaling == 0 || c.get(TSCMultiplier) != 0 }},
	{"pasid.low", "27.2.1.1", "if “PASID translation” is 1" + pageText, []Field{LowPASIDDirectory, fPrimary, fSecondary}, badControls, false,
		func(c *checker) bool {
			return c.secondary()&SecondaryPASIDTranslation == 0 || c.page(LowPASIDDirectory)
		}},
	{"pasid.high", "27.2.1.1", "if “PASID translation” is 1" + pageText, []Field{HighPASIDDirectory, fPrimary, fSecondary}, badControls, false,
		func(c *checker) bool {
			return c.secondary()&SecondaryPASIDTranslation == 0 || c.page(HighPASIDDirectory)
		}},
	{"hlat.ept", "27.2.1.1", "if “enable HLAT”, “EPT paging-write control” or “guest-paging verification” is 1, “enable EPT” must be 1", []Field{fTertiary, fSecondary, fPrimary}, badControls, false,
		func(c *checker) bool {
			return c.tertiary()&(TertiaryEnableHLAT|TertiaryEPTPagingWriteControl|TertiaryGuestPagingVerification) == 0 || c.ept()
		}},
	{"hlat.pointer", "27.2.1.1", "if “enable HLAT” is 1, bits 2:0 and 11:5 of the HLATP must be 0, and so must the bits beyond the physical-address width", []Field{HLATPointer, fPrimary, fTertiary}, badControls, false,
		func(c *checker) bool {
			return c.tertiary()&TertiaryEnableHLAT == 0 || c.get(HLATPointer)&(0xfe7|c.physicalMask) == 0
		}},
	{"timer.vid", "27.2.1.1, newer than revision 084", "if “APIC-timer virtualization” is 1, “virtual-interrupt delivery” must be 1", []Field{fTertiary, fSecondary, fPrimary}, badControls, false,
		func(c *checker) bool {
			return c.tertiary()&TertiaryAPICTimerVirtualization == 0 || c.secondary()&SecondaryVirtualInterruptDelivery != 0
		}},
	{"timer.rdtsc", "27.2.1.1, newer than revision 084", "if “APIC-timer virtualization” is 1, “RDTSC exiting” must be 0", []Field{fTertiary, fPrimary}, badControls, false,
		func(c *checker) bool {
			return c.tertiary()&TertiaryAPICTimerVirtualization == 0 || c.primary()&PrimaryRDTSCExiting == 0
		}},
	{"timer.vector", "27.2.1.1, newer than revision 084", "if “APIC-timer virtualization” is 1, the virtual timer vector must be 0 to 255", []Field{VirtualTimerVector, fPrimary, fTertiary}, badControls, false,
		func(c *checker) bool {
			return c.tertiary()&TertiaryAPICTimerVirtualization == 0 || c.get(VirtualTimerVector) <= 255
		}},
	{"ipi.table", "27.2.1.1", "if “IPI virtualization” is 1, bits 2:0 of the PID-pointer table address must be 0, and the table's last byte must be within the physical-address width", []Field{PIDPointerTable, LastPIDPointerIndex, fPrimary, fTertiary}, badControls, false,
		func(c *checker) bool {
			if c.tertiary()&TertiaryIPIVirtualization == 0 {
				return true
			}
			a := c.get(PIDPointerTable)
			return a&7 == 0 && c.physical(a) && c.physical(a+c.get(LastPIDPointerIndex)*8+7)
		}},
}

// ept tells whether “enable EPT” is 1.
func (c *checker) ept() bool { return c.secondary()&SecondaryEnableEPT != 0 }

// needs checks that EPT is enabled if the given control is.
func (c *checker) needs(s SecondaryControls) bool {
	v := c.secondary()
	return v&s == 0 || v&SecondaryEnableEPT != 0
}

const areaText = ", its address must have bits 3:0 0 and no bits beyond the physical-address width, and so must the address of its last byte"

// Checks on VM-exit control fields (SDM Vol. 3C 27.2.1.2).
var exitRules = []Rule{
	{"exit.reserved", "27.2.1.2, A.4.1", "reserved bits of the primary VM-exit controls must be as IA32_VMX_(TRUE_)EXIT_CTLS says", []Field{fExit}, badControls, false,
		func(c *checker) bool { return c.allowed(GroupExit, uint64(c.exit())) }},
	{"exit2.reserved", "27.2.1.2, A.4.2", "if secondary VM-exit controls are activated, their reserved bits must be 0 as IA32_VMX_EXIT_CTLS2 says", []Field{fExit2, fExit}, badControls, false,
		func(c *checker) bool {
			return c.exit()&ExitActivateSecondaryControls == 0 || c.allowed(GroupSecondaryExit, uint64(c.exit2()))
		}},
	{"exit.preemptiontimer", "27.2.1.2", "if “activate VMX-preemption timer” is 0, “save VMX-preemption timer value” must be 0", []Field{fExit, fPin}, badControls, false,
		func(c *checker) bool {
			return c.exit()&ExitSaveVMXPreemptionTimerValue == 0 || c.pin()&PinActivateVMXPreemptionTimer != 0
		}},
	{"exit.msrstore", "27.2.1.2", "if the VM-exit MSR-store area has entries" + areaText, []Field{ExitMSRStoreAddress, ExitMSRStoreCount}, badControls, false,
		func(c *checker) bool { return c.area(ExitMSRStoreCount, ExitMSRStoreAddress) }},
	{"exit.msrload", "27.2.1.2", "if the VM-exit MSR-load area has entries" + areaText, []Field{ExitMSRLoadAddress, ExitMSRLoadCount}, badControls, false,
		func(c *checker) bool { return c.area(ExitMSRLoadCount, ExitMSRLoadAddress) }},
}

// injected returns the event that the VM entry injects, and whether it does.
func (c *checker) injected() (InterruptionInfo, bool) {
	i := InterruptionInfo(c.get(EntryInterruptionInformation))
	return i, i.Valid()
}

// Vectors of hardware exceptions that have an error code, and those that never
// have one (SDM Vol. 3C 27.2.1.3). #CP is among the latter where
// IA32_VMX_BASIC[56] is 0.
const (
	withErrorCode    = 1<<8 | 1<<10 | 1<<11 | 1<<12 | 1<<13 | 1<<14 | 1<<17
	withoutErrorCode = ^uint32(withErrorCode)
)

// protected tells whether the guest begins with CR0.PE = 1, as far as it matters
// to error codes: without unrestricted guests it always does.
func (c *checker) protected() bool {
	return c.secondary()&SecondaryUnrestrictedGuest == 0 || c.get(GuestCR0)&asm.CR0PE != 0
}

// Checks on VM-entry control fields (SDM Vol. 3C 27.2.1.3).
var entryRules = []Rule{
	{"entry.reserved", "27.2.1.3, A.5", "reserved bits of the VM-entry controls must be as IA32_VMX_(TRUE_)ENTRY_CTLS says", []Field{fEntry}, badControls, false,
		func(c *checker) bool { return c.allowed(GroupEntry, uint64(c.entry())) }},
	{"event.type", "27.2.1.3", "the type of an injected event must not be 1, nor 7 on a processor without “monitor trap flag” and FRED", []Field{EntryInterruptionInformation}, badControls, false,
		func(c *checker) bool {
			i, ok := c.injected()
			if !ok {
				return true
			}
			return i.Type() != 1 && (i.Type() != EventOther || c.Caps.Controls[GroupPrimary].May1&uint64(PrimaryMonitorTrapFlag) != 0 || c.Caps.CPU.FRED)
		}},
	{"event.vector", "27.2.1.3", "the vector of an injected event must be 2 for an NMI, at most 31 for a hardware exception, and for an other event 0 where there is “monitor trap flag”, 1 or 2 if CR4.FRED is 1 in guest CR4", []Field{EntryInterruptionInformation, GuestCR4}, badControls, false,
		func(c *checker) bool {
			i, ok := c.injected()
			if !ok {
				return true
			}
			switch v := i.Vector(); i.Type() {
			case EventNMI:
				return v == VectorNMI
			case EventHardwareException:
				return v <= 31
			case EventOther:
				return v == 0 && c.Caps.Controls[GroupPrimary].May1&uint64(PrimaryMonitorTrapFlag) != 0 ||
					(v == 1 || v == 2) && c.Caps.CPU.FRED && c.get(GuestCR4)&asm.CR4FRED != 0
			}
			return true
		}},
	{"event.errorcode.must", "27.2.1.3", "a hardware exception with an error code (#DF, #TS, #NP, #SS, #GP, #PF, #AC) injected into protected mode must deliver it, unless IA32_VMX_BASIC[56] is 1", []Field{EntryInterruptionInformation, fPrimary, fSecondary, GuestCR0}, badControls, false,
		func(c *checker) bool {
			i, ok := c.injected()
			if !ok || c.Caps.Basic.AnyErrorCode() || i.Type() != EventHardwareException || i.HasErrorCode() {
				return true
			}
			return i.Vector() > 31 || withErrorCode>>i.Vector()&1 == 0 || !c.protected()
		}},
	{"event.errorcode.mustnot", "27.2.1.3", "an injected event must not deliver an error code if it is not a hardware exception, if the guest is in real mode, or if its vector has none and IA32_VMX_BASIC[56] is 0", []Field{EntryInterruptionInformation, fPrimary, fSecondary, GuestCR0}, badControls, false,
		func(c *checker) bool {
			i, ok := c.injected()
			if !ok || !i.HasErrorCode() {
				return true
			}
			if i.Type() != EventHardwareException || !c.protected() {
				return false
			}
			return c.Caps.Basic.AnyErrorCode() || i.Vector() > 31 || withoutErrorCode>>i.Vector()&1 == 0
		}},
	{"event.reserved", "27.2.1.3", "bits 30:12 of the interruption information of an injected event must be 0, except bit 13 (nested exception) of a hardware exception if IA32_VMX_BASIC[58] is 1", []Field{EntryInterruptionInformation}, badControls, false,
		func(c *checker) bool {
			i, ok := c.injected()
			if !ok {
				return true
			}
			if c.Caps.Basic.NestedExceptions() && i.Type() == EventHardwareException {
				i &^= 1 << 13
			}
			return i&0x7ffff000 == 0
		}},
	{"event.errorcode.value", "27.2.1.3", "bits 31:16 of an error code to deliver must be 0", []Field{EntryExceptionErrorCode, EntryInterruptionInformation}, badControls, false,
		func(c *checker) bool {
			i, ok := c.injected()
			return !ok || !i.HasErrorCode() || c.get(EntryExceptionErrorCode)>>16 == 0
		}},
	{"event.length", "27.2.1.3", "to inject a software interrupt or exception, or FRED's SYSCALL or SYSENTER event, the instruction length must be 1 to 15, or 0 if IA32_VMX_MISC[30] is 1", []Field{EntryInstructionLength, EntryInterruptionInformation}, badControls, false,
		func(c *checker) bool {
			i, ok := c.injected()
			if !ok || !i.HasLength() {
				return true
			}
			n := c.get(EntryInstructionLength)
			return n <= 15 && (n > 0 || c.Caps.Misc.ZeroLengthInjection())
		}},
	{"entry.msrload", "27.2.1.3", "if the VM-entry MSR-load area has entries" + areaText, []Field{EntryMSRLoadAddress, EntryMSRLoadCount}, badControls, false,
		func(c *checker) bool { return c.area(EntryMSRLoadCount, EntryMSRLoadAddress) }},
	{"entry.smm", "27.2.1.3", "outside SMM, “entry to SMM” and “deactivate dual-monitor treatment” must be 0", []Field{fEntry}, badControls, false,
		func(c *checker) bool {
			return c.SMM || c.entry()&(EntryEntryToSMM|EntryDeactivateDualMonitorTreatment) == 0
		}},
	{"entry.smm.both", "27.2.1.3", "“entry to SMM” and “deactivate dual-monitor treatment” must not both be 1", []Field{fEntry}, badControls, false,
		func(c *checker) bool {
			const both = EntryEntryToSMM | EntryDeactivateDualMonitorTreatment
			return c.entry()&both != both
		}},
}
