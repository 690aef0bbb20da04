package vmcs

import "github.com/govtx/vtx/asm"

// guest64 tells whether the guest is in IA-32e mode.
func (c *checker) guest64() bool { return c.entry()&EntryIA32eModeGuest != 0 }

func (c *checker) unrestricted() bool { return c.secondary()&SecondaryUnrestrictedGuest != 0 }

// virtual8086 tells whether the guest is in virtual-8086 mode.
func (c *checker) virtual8086() bool { return c.get(GuestRFLAGS)&asm.FlagVM != 0 }

// code64 tells whether the guest runs 64-bit code.
func (c *checker) code64() bool { return c.guest64() && c.rights(CS)&RightsL != 0 }

// rflagsReserved are the bits of RFLAGS that must be 0 (SDM Vol. 1 3.4.3).
const rflagsReserved = ^uint64(1<<22-1) | 1<<15 | 1<<5 | 1<<3

// Checks on guest control registers, debug registers and MSRs
// (SDM Vol. 3C 27.3.1.1).
var guestRegisterRules = []Rule{
	{"guest.cr0.fixed", "27.3.1.1, 24.8", "guest CR0 must have the bits of IA32_VMX_CR0_FIXED0 (without PE and PG if “unrestricted guest” is 1), and none beyond those of FIXED1; NW and CD are not checked", []Field{GuestCR0, fPrimary, fSecondary}, badGuest, false,
		func(c *checker) bool {
			must, may := c.Caps.CR0Fixed0, c.Caps.CR0Fixed1|asm.CR0NW|asm.CR0CD
			must &^= asm.CR0NW | asm.CR0CD
			if c.unrestricted() {
				must &^= asm.CR0PE | asm.CR0PG
			}
			return fixed(c.get(GuestCR0), must, may)
		}},
	{"guest.cr0.pg", "27.3.1.1", "if CR0.PG (bit 31) is 1 in guest CR0, CR0.PE (bit 0) must be 1", []Field{GuestCR0}, badGuest, false,
		func(c *checker) bool { return c.get(GuestCR0)&(asm.CR0PG|asm.CR0PE) != asm.CR0PG }},
	{"guest.cr4.fixed", "27.3.1.1, 24.8", "guest CR4 must have the bits of IA32_VMX_CR4_FIXED0, and none beyond those of FIXED1", []Field{GuestCR4}, badGuest, false,
		func(c *checker) bool { return fixed(c.get(GuestCR4), c.Caps.CR4Fixed0, c.Caps.CR4Fixed1) }},
	{"guest.cr4.cet", "27.3.1.1", "if CR4.CET (bit 23) is 1 in guest CR4, CR0.WP (bit 16) must be 1 in guest CR0", []Field{GuestCR4, GuestCR0}, badGuest, false,
		func(c *checker) bool { return c.get(GuestCR4)&asm.CR4CET == 0 || c.get(GuestCR0)&asm.CR0WP != 0 }},
	{"guest.debugctl", "27.3.1.1", "if “load debug controls” is 1, guest IA32_DEBUGCTL must have no reserved bits", []Field{GuestDebugCtl, fEntry}, badGuest, false,
		func(c *checker) bool {
			return c.entry()&EntryLoadDebugControls == 0 || c.get(GuestDebugCtl)&^c.Caps.CPU.DebugCtlValid == 0
		}},
	{"guest.ia32e.pg", "27.3.1.1", "if “IA-32e mode guest” is 1, CR0.PG (bit 31) must be 1 in guest CR0", []Field{GuestCR0, fEntry}, badGuest, false,
		func(c *checker) bool { return !c.guest64() || c.get(GuestCR0)&asm.CR0PG != 0 }},
	{"guest.ia32e.pae", "27.3.1.1", "if “IA-32e mode guest” is 1, CR4.PAE (bit 5) must be 1 in guest CR4", []Field{GuestCR4, fEntry}, badGuest, false,
		func(c *checker) bool { return !c.guest64() || c.get(GuestCR4)&asm.CR4PAE != 0 }},
	{"guest.pcide", "27.3.1.1", "if “IA-32e mode guest” is 0, CR4.PCIDE (bit 17) must be 0 in guest CR4", []Field{GuestCR4, fEntry}, badGuest, false,
		func(c *checker) bool { return c.guest64() || c.get(GuestCR4)&asm.CR4PCIDE == 0 }},
	{"guest.cr4.fred", "FRED specification", "if “IA-32e mode guest” is 0, CR4.FRED (bit 32) must be 0 in guest CR4", []Field{GuestCR4, fEntry}, badGuest, false,
		func(c *checker) bool { return c.guest64() || c.get(GuestCR4)&asm.CR4FRED == 0 }},
	{"guest.cr3", "27.3.1.1", "guest CR3 must have no bits beyond the physical-address width, except 62:61 where there is LAM", []Field{GuestCR3, fPrimary, fSecondary}, badGuest, false,
		func(c *checker) bool { return c.cr3(c.get(GuestCR3), c.cr3Mask()) }},
	{"guest.dr7", "27.3.1.1", "if “load debug controls” is 1, bits 63:32 of guest DR7 must be 0", []Field{GuestDR7, fEntry}, badGuest, false,
		func(c *checker) bool { return c.entry()&EntryLoadDebugControls == 0 || c.get(GuestDR7)>>32 == 0 }},
	{"guest.sysenter.esp", "27.3.1.1", "guest IA32_SYSENTER_ESP" + canonicalText, []Field{GuestSysenterESP}, badGuest, false,
		func(c *checker) bool { return c.canonical(c.get(GuestSysenterESP)) }},
	{"guest.sysenter.eip", "27.3.1.1", "guest IA32_SYSENTER_EIP" + canonicalText, []Field{GuestSysenterEIP}, badGuest, false,
		func(c *checker) bool { return c.canonical(c.get(GuestSysenterEIP)) }},
	{"guest.cet.scet", "27.3.1.1", "if “load CET state” is 1, guest IA32_S_CET must be canonical, with bits 9:6 0 and not both bits 10 and 11 1", []Field{GuestSCET, fEntry}, badGuest, false,
		func(c *checker) bool {
			if c.entry()&EntryLoadCETState == 0 {
				return true
			}
			v := c.get(GuestSCET)
			return validSCET(v) && c.canonical(v)
		}},
	{"guest.cet.table", "27.3.1.1", "if “load CET state” is 1, guest IA32_INTERRUPT_SSP_TABLE_ADDR" + canonicalText, []Field{GuestInterruptSSPTable, fEntry}, badGuest, false,
		func(c *checker) bool {
			return c.entry()&EntryLoadCETState == 0 || c.canonical(c.get(GuestInterruptSSPTable))
		}},
	{"guest.perfglobalctrl", "27.3.1.1", "if “load IA32_PERF_GLOBAL_CTRL” is 1, the guest's must have no reserved bits", []Field{GuestPerfGlobalCtrl, fEntry}, badGuest, false,
		func(c *checker) bool {
			return c.entry()&EntryLoadIA32PerfGlobalCtrl == 0 || c.get(GuestPerfGlobalCtrl)&^c.Caps.CPU.PerfGlobalCtrlValid == 0
		}},
	{"guest.pat", "27.3.1.1", "if “load IA32_PAT” is 1, each byte of guest IA32_PAT must be 0, 1, 4, 5, 6 or 7", []Field{GuestPAT, fEntry}, badGuest, false,
		func(c *checker) bool { return c.entry()&EntryLoadIA32PAT == 0 || patOK(c.get(GuestPAT)) }},
	{"guest.efer.reserved", "27.3.1.1", "if “load IA32_EFER” is 1, guest IA32_EFER must have no reserved bits", []Field{GuestEFER, fEntry}, badGuest, false,
		func(c *checker) bool {
			return c.entry()&EntryLoadIA32EFER == 0 || c.get(GuestEFER)&^c.Caps.CPU.EFERValid == 0
		}},
	{"guest.efer.lma", "27.3.1.1", "if “load IA32_EFER” is 1, LMA (bit 10) in guest IA32_EFER must be as “IA-32e mode guest” is", []Field{GuestEFER, fEntry}, badGuest, false,
		func(c *checker) bool {
			return c.entry()&EntryLoadIA32EFER == 0 || c.get(GuestEFER)&asm.EFERLMA != 0 == c.guest64()
		}},
	{"guest.efer.lme", "27.3.1.1", "if “load IA32_EFER” is 1 and CR0.PG is 1 in guest CR0, LME (bit 8) and LMA (bit 10) in guest IA32_EFER must be alike", []Field{GuestEFER, GuestCR0, fEntry}, badGuest, false,
		func(c *checker) bool {
			if c.entry()&EntryLoadIA32EFER == 0 || c.get(GuestCR0)&asm.CR0PG == 0 {
				return true
			}
			v := c.get(GuestEFER)
			return v&asm.EFERLME != 0 == (v&asm.EFERLMA != 0)
		}},
	{"guest.bndcfgs", "27.3.1.1", "if “load IA32_BNDCFGS” is 1, guest IA32_BNDCFGS must be canonical, with bits 11:2 0", []Field{GuestBndCfgs, fEntry}, badGuest, false,
		func(c *checker) bool {
			return c.entry()&EntryLoadIA32BNDCFGS == 0 || c.get(GuestBndCfgs)&0xffc == 0 && c.canonical(c.get(GuestBndCfgs)&^0xfff)
		}},
	{"guest.rtitctl", "27.3.1.1, 33.2.8.2", "if “load IA32_RTIT_CTL” is 1, bits 63:57, 54:48, 30:28, 23 and 18 of guest IA32_RTIT_CTL must be 0; which others are reserved is for CPUID leaf 14h to say", []Field{GuestRTITCtl, fEntry}, badGuest, false,
		func(c *checker) bool {
			return c.entry()&EntryLoadIA32RTITCTL == 0 || c.get(GuestRTITCtl)&rtitReserved == 0
		}},
	{"guest.lbrctl", "27.3.1.1", "if “load guest IA32_LBR_CTL” is 1, bits 63:23 and 15:4 of guest IA32_LBR_CTL must be 0", []Field{GuestLBRCtl, fEntry}, badGuest, false,
		func(c *checker) bool {
			return c.entry()&EntryLoadGuestIA32LBRCTL == 0 || c.get(GuestLBRCtl)&^0x7f000f == 0
		}},
	{"guest.pkrs", "27.3.1.1", "if “load PKRS” is 1, bits 63:32 of guest IA32_PKRS must be 0", []Field{GuestPKRS, fEntry}, badGuest, false,
		func(c *checker) bool { return c.entry()&EntryLoadPKRS == 0 || c.get(GuestPKRS)>>32 == 0 }},
	{"guest.uinv", "27.3.1.1", "if “load UINV” is 1, bits 15:8 of guest UINV must be 0", []Field{GuestUINV, fEntry}, badGuest, false,
		func(c *checker) bool { return c.entry()&EntryLoadUINV == 0 || c.get(GuestUINV)>>8 == 0 }},
	{"guest.fred.config", "FRED specification", "if “load FRED” is 1, guest IA32_FRED_CONFIG must be canonical, with bits 2, 5:4 and 11 0", []Field{GuestFREDConfig, fEntry}, badGuest, false,
		func(c *checker) bool { return c.entry()&EntryLoadFRED == 0 || c.fredConfig(GuestFREDConfig) }},
	{"guest.fred.rsp", "FRED specification", "if “load FRED” is 1, guest IA32_FRED_RSP1 to RSP3 must be canonical, with bits 5:0 0", []Field{GuestFREDRSP1, GuestFREDRSP2, GuestFREDRSP3, fEntry}, badGuest, false,
		func(c *checker) bool { return c.entry()&EntryLoadFRED == 0 || c.fredStacks(GuestFREDRSP1, 0x3f) }},
	{"guest.fred.ssp", "FRED specification", "if “load FRED” is 1, guest IA32_FRED_SSP1 to SSP3 must be canonical, with bits 2:0 0", []Field{GuestFREDSSP1, GuestFREDSSP2, GuestFREDSSP3, fEntry}, badGuest, false,
		func(c *checker) bool { return c.entry()&EntryLoadFRED == 0 || c.fredStacks(GuestFREDSSP1, 7) }},
}

// cr3Mask has the bits that are reserved in guest CR3. With EPT it is a
// guest-physical address, in which encryption keys have no bits.
func (c *checker) cr3Mask() uint64 {
	if c.guestMask == c.physicalMask || c.ept() {
		return c.guestMask
	}
	return c.physicalMask
}

// rtitReserved has the bits of IA32_RTIT_CTL that are reserved on every processor
// (SDM Vol. 3C 33.2.8.2, table 33-6).
const rtitReserved = 0xfe<<56 | 0x7f<<48 | 7<<28 | 1<<23 | 1<<18

// Checks on guest descriptor-table registers (SDM Vol. 3C 27.3.1.3).
var guestTableRules = []Rule{
	{"guest.gdtr.base", "27.3.1.3", "the guest's GDTR base" + canonicalText, []Field{GuestGDTRBase}, badGuest, false,
		func(c *checker) bool { return c.canonical(c.get(GuestGDTRBase)) }},
	{"guest.idtr.base", "27.3.1.3", "the guest's IDTR base" + canonicalText, []Field{GuestIDTRBase}, badGuest, false,
		func(c *checker) bool { return c.canonical(c.get(GuestIDTRBase)) }},
	{"guest.gdtr.limit", "27.3.1.3", "bits 31:16 of the guest's GDTR limit must be 0", []Field{GuestGDTRLimit}, badGuest, false,
		func(c *checker) bool { return c.get(GuestGDTRLimit)>>16 == 0 }},
	{"guest.idtr.limit", "27.3.1.3", "bits 31:16 of the guest's IDTR limit must be 0", []Field{GuestIDTRLimit}, badGuest, false,
		func(c *checker) bool { return c.get(GuestIDTRLimit)>>16 == 0 }},
}

// Checks on guest RIP, RFLAGS and SSP (SDM Vol. 3C 27.3.1.4).
var guestFlagRules = []Rule{
	{"guest.rip.32", "27.3.1.4", "if the guest does not begin in 64-bit code (“IA-32e mode guest” or CS.L is 0), bits 63:32 of guest RIP must be 0", []Field{GuestRIP, GuestCSAccessRights, fEntry}, badGuest, false,
		func(c *checker) bool { return c.code64() || c.get(GuestRIP)>>32 == 0 }},
	{"guest.rip.64", "27.3.1.4", "if the guest begins in 64-bit code, the bits of guest RIP from the linear-address width up must be identical", []Field{GuestRIP, GuestCSAccessRights, fEntry}, badGuest, false,
		func(c *checker) bool { return !c.code64() || c.linear(c.get(GuestRIP)) }},
	{"guest.rflags.reserved", "27.3.1.4", "bits 63:22, 15, 5 and 3 of guest RFLAGS must be 0, and bit 1 must be 1", []Field{GuestRFLAGS}, badGuest, false,
		func(c *checker) bool { return c.get(GuestRFLAGS)&(rflagsReserved|2) == 2 }},
	{"guest.rflags.vm", "27.3.1.4", "RFLAGS.VM (bit 17) must be 0 in IA-32e mode and in real mode", []Field{GuestRFLAGS, GuestCR0, fEntry}, badGuest, false,
		func(c *checker) bool { return !c.virtual8086() || !c.guest64() && c.get(GuestCR0)&asm.CR0PE != 0 }},
	{"guest.rflags.if", "27.3.1.4", "RFLAGS.IF (bit 9) must be 1 when an external interrupt is injected", []Field{GuestRFLAGS, EntryInterruptionInformation}, badGuest, false,
		func(c *checker) bool { return !c.injects(EventExternalInterrupt) || c.get(GuestRFLAGS)&asm.FlagIF != 0 }},
	{"guest.rflags.iopl", "FRED specification", "if CR4.FRED is 1 in guest CR4 and the guest's CPL (DPL of SS) is 3, RFLAGS.IOPL must be 0", []Field{GuestRFLAGS, GuestCR4, GuestSSAccessRights}, badGuest, false,
		func(c *checker) bool {
			return c.get(GuestCR4)&asm.CR4FRED == 0 || c.dpl(SS) != 3 || c.get(GuestRFLAGS)&asm.FlagIOPL == 0
		}},
	{"guest.ssp", "27.3.1.4", "if “load CET state” is 1, bits 1:0 of guest SSP must be 0, and the bits from the linear-address width up must be identical", []Field{GuestSSP, fEntry}, badGuest, false,
		func(c *checker) bool {
			return c.entry()&EntryLoadCETState == 0 || c.get(GuestSSP)&3 == 0 && c.linear(c.get(GuestSSP))
		}},
}

// injects tells whether an event of the given type is injected.
func (c *checker) injects(t EventType) bool {
	i, ok := c.injected()
	return ok && i.Type() == t
}

// Activity states (SDM Vol. 3C 25.4.2).
const (
	activityActive      = 0
	activityHLT         = 1
	activityShutdown    = 2
	activityWaitForSIPI = 3
)

// Bits of the guest's interruptibility state (SDM Vol. 3C 25.4.2, table 25-3).
const (
	BlockingBySTI       = 1 << 0
	BlockingByMOVSS     = 1 << 1
	BlockingBySMI       = 1 << 2
	BlockingByNMI       = 1 << 3
	EnclaveInterruption = 1 << 4
)

// Bits of the pending debug exceptions (SDM Vol. 3C 25.4.2, table 25-4).
const (
	pendingBLD = 1 << 11
	pendingEBP = 1 << 12
	pendingBS  = 1 << 14
	pendingRTM = 1 << 16
)

// Checks on guest non-register state (SDM Vol. 3C 27.3.1.5).
var guestStateRules = []Rule{
	{"guest.activity.supported", "27.3.1.5, A.6", "the guest's activity state must be 0 (active), or 1 (HLT), 2 (shutdown) or 3 (wait-for-SIPI) if IA32_VMX_MISC[6], [7] or [8] is 1", []Field{GuestActivityState}, badGuest, false,
		func(c *checker) bool {
			switch c.get(GuestActivityState) {
			case activityActive:
				return true
			case activityHLT:
				return c.Caps.Misc.ActivityHLT()
			case activityShutdown:
				return c.Caps.Misc.ActivityShutdown()
			case activityWaitForSIPI:
				return c.Caps.Misc.ActivityWaitForSIPI()
			}
			return false
		}},
	{"guest.activity.hlt", "27.3.1.5", "a guest in the HLT state must have CPL 0 (DPL of SS)", []Field{GuestActivityState, GuestSSAccessRights}, badGuest, false,
		func(c *checker) bool { return c.get(GuestActivityState) != activityHLT || c.dpl(SS) == 0 }},
	{"guest.activity.blocking", "27.3.1.5", "a guest with blocking by STI or MOV SS must be in the active state", []Field{GuestActivityState, GuestInterruptibilityState}, badGuest, false,
		func(c *checker) bool {
			return c.get(GuestInterruptibilityState)&(BlockingBySTI|BlockingByMOVSS) == 0 || c.get(GuestActivityState) == activityActive
		}},
	{"guest.activity.event", "27.3.1.5", "an injected event must fit the activity state: for HLT an external interrupt, an NMI, #DB, #MC or a pending MTF VM exit; for shutdown an NMI or #MC; for wait-for-SIPI none", []Field{GuestActivityState, EntryInterruptionInformation}, badGuest, false,
		func(c *checker) bool {
			i, ok := c.injected()
			if !ok {
				return true
			}
			hardware := i.Type() == EventHardwareException
			machineCheck := hardware && i.Vector() == VectorMC
			switch c.get(GuestActivityState) {
			case activityHLT:
				return machineCheck || hardware && i.Vector() == VectorDB || i.Type() == EventExternalInterrupt ||
					i.Type() == EventNMI || i.Type() == EventOther && i.Vector() == 0
			case activityShutdown:
				return machineCheck || i.Type() == EventNMI
			case activityWaitForSIPI:
				return false
			}
			return true
		}},
	{"guest.activity.smm", "27.3.1.5", "if “entry to SMM” is 1, the guest must not be in the wait-for-SIPI state", []Field{GuestActivityState, fEntry}, badGuest, false,
		func(c *checker) bool {
			return c.entry()&EntryEntryToSMM == 0 || c.get(GuestActivityState) != activityWaitForSIPI
		}},
	{"guest.interruptibility.reserved", "27.3.1.5", "bits 31:5 of the guest's interruptibility state must be 0", []Field{GuestInterruptibilityState}, badGuest, false,
		func(c *checker) bool { return c.get(GuestInterruptibilityState)>>5 == 0 }},
	{"guest.interruptibility.both", "27.3.1.5", "the guest must not have both blocking by STI and blocking by MOV SS", []Field{GuestInterruptibilityState}, badGuest, false,
		func(c *checker) bool {
			const both = BlockingBySTI | BlockingByMOVSS
			return c.get(GuestInterruptibilityState)&both != both
		}},
	{"guest.interruptibility.if", "27.3.1.5", "the guest must not have blocking by STI if RFLAGS.IF is 0", []Field{GuestInterruptibilityState, GuestRFLAGS}, badGuest, false,
		func(c *checker) bool {
			return c.get(GuestInterruptibilityState)&BlockingBySTI == 0 || c.get(GuestRFLAGS)&asm.FlagIF != 0
		}},
	{"guest.interruptibility.interrupt", "27.3.1.5", "when an external interrupt is injected, the guest must not have blocking by STI or MOV SS", []Field{GuestInterruptibilityState, EntryInterruptionInformation}, badGuest, false,
		func(c *checker) bool {
			return !c.injects(EventExternalInterrupt) || c.get(GuestInterruptibilityState)&(BlockingBySTI|BlockingByMOVSS) == 0
		}},
	{"guest.interruptibility.nmi", "27.3.1.5", "when an NMI is injected, the guest must not have blocking by MOV SS", []Field{GuestInterruptibilityState, EntryInterruptionInformation}, badGuest, false,
		func(c *checker) bool {
			return !c.injects(EventNMI) || c.get(GuestInterruptibilityState)&BlockingByMOVSS == 0
		}},
	{"guest.interruptibility.smi", "27.3.1.5", "outside SMM, the guest must not have blocking by SMI", []Field{GuestInterruptibilityState}, badGuest, false,
		func(c *checker) bool { return c.SMM || c.get(GuestInterruptibilityState)&BlockingBySMI == 0 }},
	{"guest.interruptibility.smm", "27.3.1.5", "if “entry to SMM” is 1, the guest must have blocking by SMI", []Field{GuestInterruptibilityState, fEntry}, badGuest, false,
		func(c *checker) bool {
			return c.entry()&EntryEntryToSMM == 0 || c.get(GuestInterruptibilityState)&BlockingBySMI != 0
		}},
	{"guest.interruptibility.nmi.sti", "27.3.1.5, 27.8", "when an NMI is injected, the guest must not have blocking by STI; revision 084 leaves the check to the processor, newer manuals demand it", []Field{GuestInterruptibilityState, EntryInterruptionInformation}, badNMI, false,
		func(c *checker) bool {
			return !c.injects(EventNMI) || c.get(GuestInterruptibilityState)&BlockingBySTI == 0
		}},
	{"guest.interruptibility.nmi.virtual", "27.3.1.5", "if “virtual NMIs” is 1 when an NMI is injected, the guest must not have blocking by NMI", []Field{GuestInterruptibilityState, EntryInterruptionInformation, fPin}, badGuest, false,
		func(c *checker) bool {
			return !c.injects(EventNMI) || c.pin()&PinVirtualNMIs == 0 || c.get(GuestInterruptibilityState)&BlockingByNMI == 0
		}},
	{"guest.interruptibility.enclave", "27.3.1.5", "the guest's enclave interruption bit must be 0 without SGX, and with blocking by MOV SS", []Field{GuestInterruptibilityState}, badGuest, false,
		func(c *checker) bool {
			v := c.get(GuestInterruptibilityState)
			return v&EnclaveInterruption == 0 || c.Caps.CPU.SGX && v&BlockingByMOVSS == 0
		}},
	{"guest.interruptibility.fred", "FRED specification", "if CR4.FRED is 1 in guest CR4 and the guest's CPL (DPL of SS) is 3, it must not have blocking by STI", []Field{GuestInterruptibilityState, GuestCR4, GuestSSAccessRights}, badGuest, false,
		func(c *checker) bool {
			return c.get(GuestInterruptibilityState)&BlockingBySTI == 0 || c.get(GuestCR4)&asm.CR4FRED == 0 || c.dpl(SS) != 3
		}},
	{"guest.pending.reserved", "27.3.1.5", "bits 63:17, 15, 13 and 10:4 of the guest's pending debug exceptions must be 0, and bit 11 too where there is no bus-lock detection", []Field{GuestPendingDebugExceptions}, badGuest, false,
		func(c *checker) bool {
			v := c.get(GuestPendingDebugExceptions)
			if c.Caps.CPU.DebugCtlValid&debugCtlBusLock != 0 {
				v &^= pendingBLD
			}
			return v>>17 == 0 && v&0xaff0 == 0
		}},
	{"guest.pending.bs", "27.3.1.5", "with blocking by STI or MOV SS, or in the HLT state, BS (bit 14) of the guest's pending debug exceptions must be 1 if RFLAGS.TF is 1 and IA32_DEBUGCTL.BTF is 0, and 0 otherwise", []Field{GuestPendingDebugExceptions, GuestInterruptibilityState, GuestActivityState, GuestRFLAGS, GuestDebugCtl}, badGuest, false,
		func(c *checker) bool {
			if c.get(GuestInterruptibilityState)&(BlockingBySTI|BlockingByMOVSS) == 0 && c.get(GuestActivityState) != activityHLT {
				return true
			}
			step := c.get(GuestRFLAGS)&asm.FlagTF != 0 && c.get(GuestDebugCtl)&2 == 0
			return c.get(GuestPendingDebugExceptions)&pendingBS != 0 == step
		}},
	{"guest.pending.rtm", "27.3.1.5", "if RTM (bit 16) of the guest's pending debug exceptions is 1, bits 15:13 and 11:0 must be 0 and bit 12 1, the processor must have RTM, and the guest no blocking by MOV SS", []Field{GuestPendingDebugExceptions, GuestInterruptibilityState}, badGuest, false,
		func(c *checker) bool {
			v := c.get(GuestPendingDebugExceptions)
			return v&pendingRTM == 0 ||
				v&0xffff == pendingEBP && c.Caps.CPU.RTM && c.get(GuestInterruptibilityState)&BlockingByMOVSS == 0
		}},
	{"guest.link.address", "27.3.1.5", "the VMCS link pointer must be all ones, or have bits 11:0 0 and no bits beyond the physical-address width", []Field{VMCSLinkPointer}, badLink, false,
		func(c *checker) bool { return c.get(VMCSLinkPointer) == ^uint64(0) || c.page(VMCSLinkPointer) }},
	{"guest.link.revision", "27.3.1.5", "the VMCS that the link pointer points to must begin with the processor's VMCS revision identifier", []Field{VMCSLinkPointer}, badLink, true,
		func(c *checker) bool {
			v, ok := c.linked()
			return !ok || uint32(v)&0x7fffffff == c.Caps.Basic.Revision()
		}},
	{"guest.link.shadow", "27.3.1.5", "the VMCS that the link pointer points to must be a shadow VMCS (bit 31 of its first word) if, and only if, “VMCS shadowing” is 1", []Field{VMCSLinkPointer, fPrimary, fSecondary}, badLink, true,
		func(c *checker) bool {
			v, ok := c.linked()
			return !ok || v>>31&1 != 0 == (c.secondary()&SecondaryVMCSShadowing != 0)
		}},
	{"guest.link.current", "27.3.1.5", "outside SMM, or if “entry to SMM” is 1, the VMCS link pointer must not be the current VMCS; else not the executive VMCS", []Field{VMCSLinkPointer, ExecutiveVMCSPointer, fEntry}, badLink, false,
		func(c *checker) bool {
			p := c.get(VMCSLinkPointer)
			switch {
			case p == ^uint64(0):
				return true
			case !c.SMM || c.entry()&EntryEntryToSMM != 0:
				return c.CurrentVMCS == 0 || p != c.CurrentVMCS
			}
			return p != c.get(ExecutiveVMCSPointer)
		}},
}

// linked returns the first 8 bytes of the VMCS that the link pointer points to;
// ok is false if there is none, or guest.link.address has a bad pointer.
func (c *checker) linked() (v uint64, ok bool) {
	p := c.get(VMCSLinkPointer)
	if p == ^uint64(0) || !c.page(VMCSLinkPointer) {
		return 0, false
	}
	v = c.load(p)
	return v, !c.missing
}

// paePaging tells whether the guest uses PAE paging (SDM Vol. 3C 27.3.1.6).
func (c *checker) paePaging() bool {
	return !c.guest64() && c.get(GuestCR0)&asm.CR0PG != 0 && c.get(GuestCR4)&asm.CR4PAE != 0
}

// pdpte checks a page-directory-pointer-table entry: if it is present, bits 2:1,
// 8:5 and the reserved ones must be 0 (SDM Vol. 3A 4.4.1).
func pdpte(v, reserved uint64) bool { return v&1 == 0 || v&(0x1e6|reserved) == 0 }

// Checks on guest page-directory-pointer-table entries (SDM Vol. 3C 27.3.1.6).
var guestPDPTERules = []Rule{
	{"guest.pdpte.fields", "27.3.1.6", "if the guest uses PAE paging and EPT, bits 2:1, 8:5 and those beyond the physical-address width must be 0 in the guest PDPTEs that are present", []Field{GuestPDPTE0, GuestPDPTE1, GuestPDPTE2, GuestPDPTE3, GuestCR0, GuestCR4, fPrimary, fSecondary, fEntry}, badPDPTE, false,
		func(c *checker) bool {
			if !c.paePaging() || !c.ept() {
				return true
			}
			for i := range Field(4) {
				if !pdpte(c.get(GuestPDPTE0+2*i), c.guestMask) {
					return false
				}
			}
			return true
		}},
	{"guest.pdpte.memory", "27.3.1.6", "if the guest uses PAE paging without EPT, bits 2:1, 8:5 and those beyond the physical-address width must be 0 in the PDPTEs at guest CR3 that are present; a processor need not check them if it used PAE paging with this CR3 before", []Field{GuestCR3, GuestCR0, GuestCR4, fPrimary, fSecondary, fEntry}, badPDPTE, true,
		func(c *checker) bool {
			if !c.paePaging() || c.ept() || !c.cr3(c.get(GuestCR3), c.physicalMask) {
				return true // guest.cr3 has the bad address
			}
			for i := range uint64(4) {
				if !pdpte(c.load(c.get(GuestCR3)&0xffffffe0+8*i), c.physicalMask) {
					return false
				}
			}
			return true
		}},
}

// everywhere tells whether every processor with VMX and Intel 64 architecture has
// the MSR, and takes all values that MSREntry.LoadRule does (SDM Vol. 4, table 2-2).
func everywhere(msr uint32) bool {
	switch msr {
	case msrTSC, msrSysenterCS, msrSysenterESP, msrSysenterEIP, msrPAT, msrEFER, msrSTAR, msrLSTAR, msrCSTAR, msrFMASK, msrKernelGSBase:
		return true
	}
	return false
}

// keepsLME tells whether IA32_EFER can be loaded with this value: with paging on,
// LME cannot be changed (SDM Vol. 3C 27.4).
func (c *checker) keepsLME(efer uint64) bool {
	return c.get(GuestCR0)&asm.CR0PG == 0 || efer&asm.EFERLME != 0 == c.guest64()
}

// msrLoadRules are those of loading MSRs (SDM Vol. 3C 27.4).
var msrLoadRules = []Rule{
	{"msrload", "27.4", "each entry of the VM-entry MSR-load area must have bits 63:32 0, and an MSR and a value that VM entry can load (see MSREntry.LoadRule); IA32_EFER must not change LME while CR0.PG is 1; which other MSRs there are is not known, so that an entry for one makes the rule not checked", []Field{EntryMSRLoadAddress, EntryMSRLoadCount, GuestCR0, fEntry}, badMSR, true,
		func(c *checker) bool {
			n := c.get(EntryMSRLoadCount)
			if n == 0 || !c.area(EntryMSRLoadCount, EntryMSRLoadAddress) {
				return true // entry.msrload has the bad area
			}
			a := c.get(EntryMSRLoadAddress)
			limit := uint64(c.Caps.Misc.MSRListMax())
			unknown := n > limit // what is beyond the recommended size is not looked at
			for i := range min(n, limit) {
				head, value := c.load(a+16*i), c.load(a+16*i+8)
				if c.missing {
					return true
				}
				e := MSREntry{uint32(head), uint32(head >> 32), value}
				rule := e.LoadRule(&c.Caps.CPU)
				if rule == MSRSMM && c.SMM {
					rule = MSRAccepted
				}
				if rule != MSRAccepted || e.Index == msrEFER && !c.keepsLME(value) {
					c.entryNo = i + 1
					c.missing = unknown // an entry before may be refused
					return false
				}
				unknown = unknown || !everywhere(e.Index)
			}
			c.missing = unknown
			return true
		}},
}
