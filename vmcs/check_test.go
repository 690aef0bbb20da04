package vmcs_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/govtx/vtx/internal/require"
	. "github.com/govtx/vtx/vmcs"
)

// everything is a processor that has all controls and features that this package
// knows, with 46 physical and 48 linear address bits.
func everything() *Capabilities {
	c := &Capabilities{
		Basic:     4 | 4096<<32 | 6<<50 | 1<<54 | 1<<55,
		Misc:      7<<6 | 4<<16 | 1<<29 | 1<<30,
		EPTVPID:   0xf0106f34141,
		CR0Fixed0: 0x80000021, CR0Fixed1: 0xffffffff,
		CR4Fixed0: 0x2000, CR4Fixed1: 1<<32 | 0xfffff | 1<<20 | 1<<21 | 1<<22 | 1<<23 | 1<<24 | 1<<25,
		VMCSEnum: 0x34,
		CPU:      AnyCPU(),
	}
	c.CPU.PhysicalAddressBits, c.CPU.LinearAddressBits = 46, 48
	c.CPU.LAM = false
	c.CPU.PerfGlobalCtrlValid = 0xff | 7<<32
	must := map[ControlGroup]uint64{GroupPin: 0x16, GroupPrimary: 0x04006172, GroupExit: 0x36dfb, GroupEntry: 0x11fb}
	for g := range ControlGroup(NumControlGroups) {
		c.Controls[g] = Allowed{Must1: must[g], May1: must[g] | g.Default1()}
		for b := range g.Bits() {
			c.Controls[g].May1 |= 1 << b.Bit
		}
	}
	return c
}

// testMemory is physical memory that is 0 where nothing is in it.
type testMemory map[uint64]uint64

func (m testMemory) ReadPhysical(addr uint64) (uint64, error) {
	if addr%8 != 0 {
		return 0, fmt.Errorf("address %#x is not a multiple of 8", addr)
	}
	return m[addr], nil
}

// A checkState is what a check looks at.
type checkState struct {
	Image
	*Checker
	memory testMemory
}

// valid returns a state that satisfies all rules: a guest in 64-bit mode.
func valid() *checkState {
	caps := everything()
	s := &checkState{memory: testMemory{}}
	s.Checker = &Checker{Caps: caps, Memory: s.memory, CurrentVMCS: 0x7000, VMXONRegion: 0x6000}
	m := &s.Image
	m.Fill(caps)
	for g := range ControlGroup(NumControlGroups) {
		m.Set(g.Field(), caps.Controls[g].Must1)
	}
	m.Set(PrimaryVMExitControls, 0x36dfb|uint64(ExitHostAddressSpaceSize))
	m.Set(VMEntryControls, 0x11fb|uint64(EntryIA32eModeGuest))
	m.Set(VMCSLinkPointer, ^uint64(0))

	m.Set(HostCR0, 0x80010031)
	m.Set(HostCR3, 0x2000)
	m.Set(HostCR4, 0x2020)
	m.Set(HostCSSelector, 8)
	m.Set(HostSSSelector, 0x10)
	m.Set(HostTRSelector, 0x18)
	m.Set(HostRIP, 0xffffffff81000000)
	m.Set(HostEFER, 0xd01)
	m.Set(HostPAT, 0x0007040600070406)

	m.Set(GuestCR0, 0x80010031)
	m.Set(GuestCR3, 0x1000)
	m.Set(GuestCR4, 0x2020)
	m.Set(GuestEFER, 0xd01)
	m.Set(GuestPAT, 0x0007040600070406)
	m.Set(GuestRFLAGS, 2)
	m.Set(GuestDR7, 0x400)
	m.Set(GuestRIP, 0x8000)
	for r := range SegmentRegister(NumSegmentRegisters) {
		m.Set(r.Limit(), 0xffffffff)
		m.Set(r.AccessRights(), 0xc093)
	}
	m.Set(GuestCSAccessRights, 0xa09b)
	m.Set(GuestLDTRAccessRights, 0x10000)
	m.Set(GuestTRAccessRights, 0x8b)
	m.Set(GuestTRLimit, 0x67)
	return s
}

// A edit is made to a state.
type edit func(*checkState)

func set(f Field, v uint64) edit { return func(s *checkState) { s.Image.Set(f, v) } }

func held(s *checkState, f Field) uint64 {
	v, ok := s.Image.Get(f)
	if !ok {
		panic(fmt.Sprintf("the valid state has no field %v", f))
	}
	return v
}

// or sets bits of a field.
func or[V ~uint32 | ~uint64](f Field, v V) edit {
	return func(s *checkState) { s.Image.Set(f, held(s, f)|uint64(v)) }
}

// clr clears bits of a field.
func clr[V ~uint32 | ~uint64](f Field, v V) edit {
	return func(s *checkState) { s.Image.Set(f, held(s, f)&^uint64(v)) }
}

// Controls that are turned on, and those that activate them.
func pin(v PinControls) edit         { return or(PinBasedControls, v) }
func primary(v PrimaryControls) edit { return or(PrimaryProcessorBasedControls, v) }
func exit(v ExitControls) edit       { return or(PrimaryVMExitControls, v) }
func entry(v EntryControls) edit     { return or(VMEntryControls, v) }
func secondary(v SecondaryControls) edit {
	return all(primary(PrimaryActivateSecondaryControls), or(SecondaryProcessorBasedControls, v))
}
func tertiary(v TertiaryControls) edit {
	return all(primary(PrimaryActivateTertiaryControls), or(TertiaryProcessorBasedControls, v))
}
func exit2(v SecondaryExitControls) edit {
	return all(exit(ExitActivateSecondaryControls), or(SecondaryVMExitControls, v))
}

func all(changes ...edit) edit {
	return func(s *checkState) {
		for _, c := range changes {
			c(s)
		}
	}
}

// withEPT turns EPT on, with 4 levels in write-back memory.
func withEPT() edit { return all(secondary(SecondaryEnableEPT), set(EPTPointer, 0x3000|3<<3|6)) }

func withUnrestricted() edit { return all(withEPT(), secondary(SecondaryUnrestrictedGuest)) }

// guest32 makes the guest one in protected mode with 32-bit paging.
func guest32() edit {
	return all(clr(VMEntryControls, EntryIA32eModeGuest), set(GuestCSAccessRights, 0xc09b), clr[uint64](GuestCR4, 0x20), set(GuestEFER, 0))
}

func realMode() edit {
	return all(withUnrestricted(), guest32(), clr[uint64](GuestCR0, 1<<31|1), func(s *checkState) {
		for r := ES; r <= GS; r++ {
			s.Image.Set(r.AccessRights(), 0x93)
			s.Image.Set(r.Limit(), 0xffff)
		}
		s.Image.Set(GuestCSAccessRights, 0x9b)
	})
}

func v8086() edit {
	return all(guest32(), or[uint64](GuestRFLAGS, 1<<17), func(s *checkState) {
		for r := ES; r <= GS; r++ {
			s.Image.Set(r.AccessRights(), 0xf3)
			s.Image.Set(r.Limit(), 0xffff)
			s.Image.Set(r.Selector(), 0x123)
			s.Image.Set(r.Base(), 0x1230)
		}
	})
}

// host32 makes the host, and with it the guest, 32-bit ones, entered outside
// IA-32e mode.
func host32() edit {
	return all(guest32(), clr(PrimaryVMExitControls, ExitHostAddressSpaceSize), set(HostRIP, 0x1000), set(HostEFER, 0),
		func(s *checkState) { s.Legacy = true })
}

func pae(m *checkState) {
	guest32()(m)
	or[uint64](GuestCR4, 0x20)(m)
}

// inject injects an event.
func inject(v uint64) edit { return set(EntryInterruptionInformation, 1<<31|v) }

func ring3(s *checkState) {
	for r := ES; r <= GS; r++ {
		or[uint64](r.AccessRights(), 3<<5)(s)
		s.Image.Set(r.Selector(), 0x23)
	}
}

func fredGuest() edit {
	return all(or[uint64](GuestCR4, 1<<32), entry(EntryLoadFRED))
}

func without(f func(*Capabilities)) edit { return func(s *checkState) { f(s.Caps) } }

const (
	tooFarBit    = 46
	tooFar       = 1 << tooFarBit // beyond the physical-address width
	notCanonical = 1 << 47
	notLinear    = 1 << 48
)

// A ruleCase is a test of one rule. The valid state with the changes of pass
// satisfies all rules; with those of fail on top of it, it violates this rule, and
// of the others only those that are named in also.
type ruleCase struct {
	id   string
	pass edit
	fail edit
	also string
}

func nothing(*checkState) {}

func smm(s *checkState) { s.SMM = true }

// address returns the cases for the address of a page: not aligned, and too far.
func address(id string, f Field, on edit, also ...string) []ruleCase {
	pass := all(on, set(f, 0x5000))
	a := strings.Join(also, " ")
	return []ruleCase{{id, pass, set(f, 0x5800), a}, {id, pass, set(f, tooFar), a}, {id, all(on, set(f, tooFar-0x1000)), set(f, 1<<63), a}}
}

func area(id string, address, count Field) []ruleCase {
	entries := func(s *checkState) {
		for _, a := range []uint64{0x9000, 0x9010, tooFar - 32, tooFar - 16} {
			s.memory[a] = 0x174 // IA32_SYSENTER_CS
		}
	}
	pass := all(entries, set(count, 2), set(address, 0x9000))
	return []ruleCase{
		{id, pass, set(address, 0x9008), ""},
		{id, all(entries, set(count, 2), set(address, tooFar-32)), set(address, tooFar-16), ""},
		{id, pass, set(address, ^uint64(15)), ""},
		{id, set(address, 1), set(count, 1), ""},
	}
}

func noncanonical(id string, f Field, on edit) []ruleCase {
	return []ruleCase{
		{id, all(on, set(f, notCanonical-16)), set(f, notCanonical), ""},
		{id, all(on, set(f, ^uint64(notCanonical-1))), set(f, ^uint64(notCanonical)&^7), ""},
	}
}

func ruleCases() []ruleCase {
	cases := []ruleCase{
		{"entry.movss", nothing, func(s *checkState) { s.BlockedMOVSS = true }, ""},
		{"entry.launch", func(s *checkState) { s.Launch = LaunchClear }, func(s *checkState) { s.Launch = LaunchNotClear }, ""},
		{"entry.resume", func(s *checkState) { s.Launch = ResumeLaunched }, func(s *checkState) { s.Launch = ResumeNotLaunched }, ""},
		{"entry.resume.vmxoff", nothing, func(s *checkState) { s.Launch = ResumeAfterVMXOFF }, ""},
		{"entry.novmcs", nothing, func(s *checkState) { s.NoVMCS = true }, ""},
		{"entry.shadowvmcs", nothing, func(s *checkState) { s.ShadowVMCS = true }, ""},
		{"smm.executive.address", all(smm, set(ExecutiveVMCSPointer, 0x8000)), set(ExecutiveVMCSPointer, 0x8001), ""},
		{"smm.executive.vmxon", all(smm, entry(EntryDeactivateDualMonitorTreatment), set(ExecutiveVMCSPointer, 0x6000)), set(ExecutiveVMCSPointer, 0x7000), ""},

		{"pin.reserved", nothing, clr[uint64](PinBasedControls, 2), ""},
		{"pin.reserved", nothing, or[uint64](PinBasedControls, 1<<8), ""},
		{"primary.reserved", nothing, clr[uint64](PrimaryProcessorBasedControls, 2), ""},
		{"primary.reserved", nothing, or[uint64](PrimaryProcessorBasedControls, 1), ""},
		{"secondary.reserved", all(set(SecondaryProcessorBasedControls, uint64(SecondaryRDRANDExiting)), without(func(c *Capabilities) { c.Controls[GroupSecondary].May1 &^= uint64(SecondaryRDRANDExiting) })), primary(PrimaryActivateSecondaryControls), ""},
		{"tertiary.reserved", set(TertiaryProcessorBasedControls, 1<<63), primary(PrimaryActivateTertiaryControls), ""},
		{"cr3target.count", set(CR3TargetCount, 4), set(CR3TargetCount, 5), ""},
		{"tpr.threshold.reserved", all(primary(PrimaryUseTPRShadow), secondary(SecondaryVirtualizeAPICAccesses), set(TPRThreshold, 15)), set(TPRThreshold, 16), ""},
		{"tpr.threshold.vtpr", all(primary(PrimaryUseTPRShadow), set(VirtualAPICAddress, 0x5000), set(TPRThreshold, 7), func(s *checkState) { s.memory[0x5080] = 0x7f }), set(TPRThreshold, 8), ""},
		{"tpr.threshold.vtpr", all(primary(PrimaryUseTPRShadow), secondary(SecondaryVirtualizeAPICAccesses), set(TPRThreshold, 1)), clr(SecondaryProcessorBasedControls, SecondaryVirtualizeAPICAccesses), ""},
		{"nmi.virtual", pin(PinNMIExiting | PinVirtualNMIs), clr(PinBasedControls, PinNMIExiting), ""},
		{"nmi.window", all(pin(PinNMIExiting|PinVirtualNMIs), primary(PrimaryNMIWindowExiting)), clr(PinBasedControls, PinVirtualNMIs), ""},
		{"apic.tprshadow", all(primary(PrimaryUseTPRShadow), secondary(SecondaryVirtualizeX2APICMode)), clr(PrimaryProcessorBasedControls, PrimaryUseTPRShadow), ""},
		{"apic.tprshadow", nothing, secondary(SecondaryAPICRegisterVirtualization), ""},
		{"apic.tprshadow", pin(PinExternalInterruptExiting), secondary(SecondaryVirtualInterruptDelivery), ""},
		{"apic.tprshadow", nothing, tertiary(TertiaryIPIVirtualization), ""},
		{"apic.x2apic", all(primary(PrimaryUseTPRShadow), secondary(SecondaryVirtualizeX2APICMode)), secondary(SecondaryVirtualizeAPICAccesses), ""},
		{"vid.interrupts", all(pin(PinExternalInterruptExiting), primary(PrimaryUseTPRShadow), secondary(SecondaryVirtualInterruptDelivery)), clr(PinBasedControls, PinExternalInterruptExiting), ""},
		{"posted.vid", posted(), clr(SecondaryProcessorBasedControls, SecondaryVirtualInterruptDelivery), ""},
		{"posted.acknowledge", posted(), clr(PrimaryVMExitControls, ExitAcknowledgeInterruptOnExit), ""},
		{"posted.vector", all(posted(), set(PostedInterruptNotificationVector, 255)), set(PostedInterruptNotificationVector, 256), ""},
		{"posted.descriptor", posted(), set(PostedInterruptDescriptorAddress, 0x5020), ""},
		{"posted.descriptor", posted(), set(PostedInterruptDescriptorAddress, tooFar), ""},
		{"vpid", all(secondary(SecondaryEnableVPID), set(VPID, 1)), set(VPID, 0), ""},
		{"eptp.memorytype", withEPT(), set(EPTPointer, 3<<3|5), ""},
		{"eptp.memorytype", withEPT(), without(func(c *Capabilities) { c.EPTVPID &^= 1 << 14 }), ""},
		{"eptp.memorytype", all(withEPT(), set(EPTPointer, 3<<3)), without(func(c *Capabilities) { c.EPTVPID &^= 1 << 8 }), ""},
		{"eptp.walklength", withEPT(), set(EPTPointer, 2<<3|6), ""},
		{"eptp.walklength", withEPT(), set(EPTPointer, 4<<3|6), ""},
		{"eptp.accessed", all(withEPT(), or[uint64](EPTPointer, 1<<6)), without(func(c *Capabilities) { c.EPTVPID &^= 1 << 21 }), ""},
		{"eptp.shadowstack", all(withEPT(), or[uint64](EPTPointer, 1<<7)), without(func(c *Capabilities) { c.EPTVPID &^= 1 << 23 }), ""},
		{"eptp.reserved", withEPT(), or[uint64](EPTPointer, 1<<8), ""},
		{"eptp.reserved", withEPT(), or[uint64](EPTPointer, tooFar), ""},
		{"pml.ept", all(withEPT(), secondary(SecondaryEnablePML)), clr(SecondaryProcessorBasedControls, SecondaryEnableEPT), ""},
		{"unrestricted.ept", withUnrestricted(), clr(SecondaryProcessorBasedControls, SecondaryEnableEPT), ""},
		{"mbec.ept", all(withEPT(), secondary(SecondaryModeBasedExecuteControlForEPT)), clr(SecondaryProcessorBasedControls, SecondaryEnableEPT), ""},
		{"spp.ept", all(withEPT(), secondary(SecondarySubPageWritePermissionsForEPT)), clr(SecondaryProcessorBasedControls, SecondaryEnableEPT), ""},
		{"vmfunc.reserved", all(secondary(SecondaryEnableVMFunctions), set(VMFunctionControls, 0)), set(VMFunctionControls, 1<<63), ""},
		{"vmfunc.eptpswitching.ept", vmfunc(), clr(SecondaryProcessorBasedControls, SecondaryEnableEPT), ""},
		{"pt.guestphysical", intelPT(), clr(SecondaryProcessorBasedControls, SecondaryEnableEPT), ""},
		{"pt.guestphysical", intelPT(), clr(VMEntryControls, EntryLoadIA32RTITCTL), ""},
		{"pt.guestphysical", intelPT(), clr(PrimaryVMExitControls, ExitClearIA32RTITCTL), ""},
		{"tsc.multiplier", all(secondary(SecondaryUseTSCScaling), set(TSCMultiplier, 1)), set(TSCMultiplier, 0), ""},
		{"hlat.ept", all(withEPT(), tertiary(TertiaryEPTPagingWriteControl)), clr(SecondaryProcessorBasedControls, SecondaryEnableEPT), ""},
		{"hlat.pointer", all(withEPT(), tertiary(TertiaryEnableHLAT), set(HLATPointer, 0x5018)), set(HLATPointer, 0x5020), ""},
		{"hlat.pointer", all(withEPT(), tertiary(TertiaryEnableHLAT), set(HLATPointer, 0x5018)), set(HLATPointer, tooFar), ""},
		{"ipi.table", ipi(), set(PIDPointerTable, 0x5004), ""},
		{"ipi.table", ipi(), set(PIDPointerTable, tooFar), ""},
		{"ipi.table", all(ipi(), set(PIDPointerTable, tooFar-16), set(LastPIDPointerIndex, 1)), set(LastPIDPointerIndex, 2), ""},
		{"timer.vid", timer(), clr(SecondaryProcessorBasedControls, SecondaryVirtualInterruptDelivery), ""},
		{"timer.rdtsc", timer(), primary(PrimaryRDTSCExiting), ""},
		{"timer.vector", all(timer(), set(VirtualTimerVector, 255)), set(VirtualTimerVector, 256), ""},

		{"exit.reserved", nothing, clr[uint64](PrimaryVMExitControls, 1), ""},
		{"exit2.reserved", set(SecondaryVMExitControls, 1<<63), exit(ExitActivateSecondaryControls), ""},
		{"exit.preemptiontimer", all(pin(PinActivateVMXPreemptionTimer), exit(ExitSaveVMXPreemptionTimerValue)), clr(PinBasedControls, PinActivateVMXPreemptionTimer), ""},

		{"entry.reserved", nothing, clr[uint64](VMEntryControls, 1), ""},
		{"event.type", inject(3<<8 | 1), inject(1<<8 | 1), ""},
		{"event.type", inject(7 << 8), without(func(c *Capabilities) {
			c.Controls[GroupPrimary].May1 &^= uint64(PrimaryMonitorTrapFlag)
			c.CPU.FRED = false
		}), "event.vector"},
		{"event.vector", inject(2<<8 | 2), inject(2<<8 | 3), ""},
		{"event.vector", inject(3<<8 | 31), inject(3<<8 | 32), ""},
		{"event.vector", inject(7 << 8), inject(7<<8 | 1), ""},
		{"event.vector", inject(7 << 8), without(func(c *Capabilities) { c.Controls[GroupPrimary].May1 &^= uint64(PrimaryMonitorTrapFlag) }), ""},
		{"event.vector", all(fredGuest(), inject(7<<8|2)), inject(7<<8 | 3), ""},
		{"event.length", all(fredGuest(), inject(7<<8|1), set(EntryInstructionLength, 15)), set(EntryInstructionLength, 16), ""},
		{"event.errorcode.must", inject(3<<8 | 1<<11 | 13), inject(3<<8 | 13), ""},
		{"event.errorcode.must", all(realMode(), inject(3<<8|13)), or[uint64](GuestCR0, 1), ""},
		{"event.errorcode.mustnot", inject(3<<8 | 6), inject(3<<8 | 1<<11 | 6), ""},
		{"event.errorcode.mustnot", inject(4<<8 | 0x80), inject(4<<8 | 1<<11 | 0x80), ""},
		{"event.errorcode.mustnot", all(realMode(), inject(3<<8|13)), inject(3<<8 | 1<<11 | 13), ""},
		{"event.errorcode.mustnot", all(without(func(c *Capabilities) { c.Basic |= 1 << 56 }), inject(3<<8|1<<11|6)), inject(4<<8 | 1<<11 | 6), ""},
		{"event.reserved", inject(3<<8 | 1), inject(3<<8 | 1<<30 | 1), ""},
		{"event.reserved", all(without(func(c *Capabilities) { c.Basic |= 1 << 58 }), inject(3<<8|1<<13|1)), inject(2<<8 | 1<<13 | 2), ""},
		{"event.errorcode.value", all(inject(3<<8|1<<11|13), set(EntryExceptionErrorCode, 0xffff)), set(EntryExceptionErrorCode, 0x10000), ""},
		{"event.length", all(inject(4<<8|0x80), set(EntryInstructionLength, 15)), set(EntryInstructionLength, 16), ""},
		{"event.length", all(inject(6<<8|3), set(EntryInstructionLength, 0)), without(func(c *Capabilities) { c.Misc &^= 1 << 30 }), ""},
		{"entry.smm", all(entry(EntryEntryToSMM), or[uint64](GuestInterruptibilityState, 4), func(s *checkState) { s.SMM = true }), func(s *checkState) { s.SMM = false }, "guest.interruptibility.smi"},
		{"entry.smm.both", all(smm, entry(EntryEntryToSMM), or[uint64](GuestInterruptibilityState, 4), set(ExecutiveVMCSPointer, 0x6000)), entry(EntryDeactivateDualMonitorTreatment), ""},
		{"entry.tracing", entry(EntryLoadIA32RTITCTL), func(s *checkState) { s.Tracing = true }, ""},

		{"host.cr0.fixed", nothing, clr[uint64](HostCR0, 0x20), ""},
		{"host.cr0.fixed", nothing, or[uint64](HostCR0, 1<<32), ""},
		{"host.cr4.fixed", nothing, clr[uint64](HostCR4, 0x2000), ""},
		{"host.cr4.fixed", nothing, or[uint64](HostCR4, 1<<63), ""},
		{"host.cr4.cet", or[uint64](HostCR4, 1<<23), clr[uint64](HostCR0, 1<<16), ""},
		{"host.cr3", set(HostCR3, tooFar-1), set(HostCR3, tooFar), ""},
		{"host.cr3", without(func(c *Capabilities) { c.CPU.LAM = true }), or[uint64](HostCR3, 1<<63), ""},
		{"host.cr3", all(without(func(c *Capabilities) { c.CPU.LAM = true }), or[uint64](HostCR3, 3<<61)), without(func(c *Capabilities) { c.CPU.LAM = false }), ""},
		{"host.perfglobalctrl", all(exit(ExitLoadIA32PerfGlobalCtrl), set(HostPerfGlobalCtrl, 7<<32|0xff)), set(HostPerfGlobalCtrl, 0x100), ""},
		{"host.pat", exit(ExitLoadIA32PAT), set(HostPAT, 2), ""},
		{"host.pat", all(exit(ExitLoadIA32PAT), set(HostPAT, 0x0706050401000706)), set(HostPAT, 0x08<<56), ""},
		{"host.pat", exit(ExitLoadIA32PAT), set(HostPAT, 3<<24), ""},
		{"host.efer.reserved", exit(ExitLoadIA32EFER), or[uint64](HostEFER, 2), ""},
		{"host.efer.lma", exit(ExitLoadIA32EFER), clr[uint64](HostEFER, 1<<10), ""},
		{"host.efer.lma", all(host32(), exit(ExitLoadIA32EFER)), set(HostEFER, 1<<8), ""},
		{"host.cet.scet", exit(ExitLoadCETState), set(HostSCET, 1<<6), ""},
		{"host.cet.scet", all(exit(ExitLoadCETState), set(HostSCET, 1<<10)), set(HostSCET, 3<<10), ""},
		{"host.cet.scet", exit(ExitLoadCETState), set(HostSCET, notCanonical), ""},
		{"host.cet.ssp", exit(ExitLoadCETState), set(HostSSP, 2), ""},
		{"host.cet.ssp", exit(ExitLoadCETState), set(HostSSP, notCanonical), ""},
		{"host.pkrs", all(exit(ExitLoadPKRS), set(HostPKRS, 0xffffffff)), set(HostPKRS, 1<<32), ""},
		{"host.fred.config", exit2(Exit2LoadFRED), set(HostFREDConfig, 4), ""},
		{"host.fred.config", exit2(Exit2LoadFRED), set(HostFREDConfig, notCanonical), ""},
		{"host.fred.rsp", exit2(Exit2LoadFRED), set(HostFREDRSP3, 1), ""},
		{"host.fred.ssp", exit2(Exit2LoadFRED), set(HostFREDSSP2, notCanonical), ""},
		{"host.cs.null", nothing, set(HostCSSelector, 0), ""},
		{"host.tr.null", nothing, set(HostTRSelector, 0), ""},
		{"host.ss.null", host32(), set(HostSSSelector, 0), ""},
		{"size.legacy", host32(), entry(EntryIA32eModeGuest), "size.32.guest guest.ia32e.pae"},
		{"size.legacy", host32(), all(exit(ExitHostAddressSpaceSize), or[uint64](HostCR4, 0x20)), ""},
		{"size.ia32e", host32(), func(s *checkState) { s.Legacy = false }, ""},
		{"size.32.guest", host32(), all(entry(EntryIA32eModeGuest), or[uint64](GuestCR4, 0x20)), "size.legacy"},
		{"size.32.pcide", host32(), or[uint64](HostCR4, 1<<17), ""},
		{"size.32.fred", host32(), or[uint64](HostCR4, 1<<32), ""},
		{"size.32.rip", host32(), set(HostRIP, 1<<32), ""},
		{"size.32.cet", all(host32(), exit(ExitLoadCETState)), set(HostSSP, 1<<32), ""},
		{"size.32.cet", all(host32(), exit(ExitLoadCETState)), set(HostSCET, 1<<32), ""},
		{"size.64.pae", nothing, clr[uint64](HostCR4, 0x20), ""},
		{"size.64.rip", nothing, set(HostRIP, notCanonical), ""},
		{"size.64.rip", all(without(func(c *Capabilities) { c.CPU.LinearAddressBits = 57 }), set(HostRIP, notCanonical), or[uint64](HostCR4, 1<<12)), clr[uint64](HostCR4, 1<<12), ""},
		{"size.legacy", host32(), all(without(func(c *Capabilities) { c.CPU.LongMode = false }), func(s *checkState) { s.Legacy = false }, exit(ExitHostAddressSpaceSize), or[uint64](HostCR4, 0x20)), ""},

		{"guest.cr0.fixed", or[uint64](GuestCR0, 3<<29), clr[uint64](GuestCR0, 0x20), ""},
		{"guest.cr0.fixed", nothing, or[uint64](GuestCR0, 1<<32), ""},
		{"guest.cr0.fixed", realMode(), clr(SecondaryProcessorBasedControls, SecondaryUnrestrictedGuest), ""},
		{"guest.cr0.pg", realMode(), or[uint64](GuestCR0, 1<<31), ""},
		{"guest.cr4.fixed", nothing, clr[uint64](GuestCR4, 0x2000), ""},
		{"guest.cr4.fixed", nothing, or[uint64](GuestCR4, 1<<26), ""},
		{"guest.cr4.cet", or[uint64](GuestCR4, 1<<23), clr[uint64](GuestCR0, 1<<16), ""},
		{"guest.debugctl", all(entry(EntryLoadDebugControls), set(GuestDebugCtl, 3)), set(GuestDebugCtl, 1<<16), ""},
		{"guest.ia32e.pg", withUnrestricted(), clr[uint64](GuestCR0, 1<<31), ""},
		{"guest.ia32e.pae", nothing, clr[uint64](GuestCR4, 0x20), ""},
		{"guest.pcide", guest32(), or[uint64](GuestCR4, 1<<17), ""},
		{"guest.cr4.fred", guest32(), or[uint64](GuestCR4, 1<<32), "guest.ss.fred"},
		{"guest.cr3", set(GuestCR3, tooFar-1), set(GuestCR3, tooFar), ""},
		{"guest.cr3", all(keys, withEPT(), set(GuestCR3, 1<<45)), clr(SecondaryProcessorBasedControls, SecondaryEnableEPT), ""},
		{"host.cr3", all(keys, set(HostCR3, 1<<43-1)), set(HostCR3, 1<<43), ""},
		{"guest.dr7", entry(EntryLoadDebugControls), set(GuestDR7, 1<<32), ""},
		{"guest.cet.scet", entry(EntryLoadCETState), set(GuestSCET, 1<<9), ""},
		{"guest.cet.scet", entry(EntryLoadCETState), set(GuestSCET, notCanonical), ""},
		{"guest.perfglobalctrl", entry(EntryLoadIA32PerfGlobalCtrl), set(GuestPerfGlobalCtrl, 1<<35), ""},
		{"guest.pat", entry(EntryLoadIA32PAT), or[uint64](GuestPAT, 1<<31), ""},
		{"guest.efer.reserved", entry(EntryLoadIA32EFER), or[uint64](GuestEFER, 1<<12), ""},
		{"guest.efer.lma", entry(EntryLoadIA32EFER), clr[uint64](GuestEFER, 1<<10|1<<8), ""},
		{"guest.efer.lma", all(guest32(), entry(EntryLoadIA32EFER)), set(GuestEFER, 1<<10|1<<8), ""},
		{"guest.efer.lme", entry(EntryLoadIA32EFER), clr[uint64](GuestEFER, 1<<8), ""},
		{"guest.efer.lme", all(guest32(), entry(EntryLoadIA32EFER)), set(GuestEFER, 1<<8), ""},
		{"guest.bndcfgs", all(entry(EntryLoadIA32BNDCFGS), set(GuestBndCfgs, 0x5003)), set(GuestBndCfgs, 4), ""},
		{"guest.bndcfgs", entry(EntryLoadIA32BNDCFGS), set(GuestBndCfgs, notCanonical), ""},
		{"guest.rtitctl", entry(EntryLoadIA32RTITCTL), set(GuestRTITCtl, 1<<63), ""},
		{"guest.lbrctl", all(entry(EntryLoadGuestIA32LBRCTL), set(GuestLBRCtl, 0x7f000f)), set(GuestLBRCtl, 16), ""},
		{"guest.pkrs", all(entry(EntryLoadPKRS), set(GuestPKRS, 0xffffffff)), set(GuestPKRS, 1<<32), ""},
		{"guest.uinv", all(entry(EntryLoadUINV), set(GuestUINV, 0xff)), set(GuestUINV, 0x100), ""},
		{"guest.fred.config", fredGuest(), set(GuestFREDConfig, 1<<11), ""},
		{"guest.fred.rsp", fredGuest(), set(GuestFREDRSP1, 32), ""},
		{"guest.fred.ssp", fredGuest(), set(GuestFREDSSP3, 4), ""},

		{"guest.tr.ti", set(GuestTRSelector, 0x18), set(GuestTRSelector, 0x1c), ""},
		{"guest.ldtr.ti", all(ldt(), set(GuestLDTRSelector, 0x28)), set(GuestLDTRSelector, 4), ""},
		{"guest.ss.rpl", nothing, set(GuestCSSelector, 3), ""},
		{"guest.ss.rpl", all(withUnrestricted(), set(GuestCSSelector, 3)), clr(SecondaryProcessorBasedControls, SecondaryUnrestrictedGuest), ""},
		{"guest.ldtr.base", ldt(), set(GuestLDTRBase, notCanonical), ""},
		{"guest.cs.base", nothing, set(GuestCSBase, 1<<32), ""},
		{"guest.cs.type", nothing, set(GuestCSAccessRights, 0xa098|2), ""},
		{"guest.cs.type", all(withUnrestricted(), set(GuestCSAccessRights, 0xc093)), clr(SecondaryProcessorBasedControls, SecondaryUnrestrictedGuest), ""},
		{"guest.ss.type", set(GuestSSAccessRights, 0xc097), set(GuestSSAccessRights, 0xc091), ""},
		{"guest.cs.dpl", nothing, all(ring3, set(GuestCSAccessRights, 0xa09b)), ""},
		{"guest.cs.dpl", all(ring3, set(GuestCSAccessRights, 0xa09f)), all(set(GuestSSAccessRights, 0xc0b3), set(GuestCSAccessRights, 0xa0df), set(GuestCSSelector, 1), set(GuestSSSelector, 1)), ""},
		{"guest.cs.dpl", all(withUnrestricted(), set(GuestCSAccessRights, 0xc093)), or[uint64](GuestCSAccessRights, 1<<5), ""},
		{"guest.ss.dpl", nothing, all(set(GuestSSSelector, 1), set(GuestCSSelector, 1)), ""},
		{"guest.ss.dpl", all(withUnrestricted(), set(GuestSSSelector, 1), set(GuestCSSelector, 1)), clr(SecondaryProcessorBasedControls, SecondaryUnrestrictedGuest), ""},
		{"guest.ss.dpl.0", realMode(), all(or[uint64](GuestSSAccessRights, 1<<5), or[uint64](GuestCSAccessRights, 1<<5)), ""},
		{"guest.ss.dpl.0", all(withUnrestricted(), set(GuestCSAccessRights, 0xc093)), or[uint64](GuestSSAccessRights, 1<<5), ""},
		{"guest.cs.db", nothing, or[uint64](GuestCSAccessRights, 1<<14), ""},
		{"guest.ss.fred", fredGuest(), set(GuestCSAccessRights, 0xc09b), ""},
		{"guest.ss.fred", all(fredGuest(), ring3, set(GuestCSAccessRights, 0xc0fb)), func(s *checkState) {
			for r := ES; r <= GS; r++ {
				s.Image.Set(r.AccessRights(), held(s, r.AccessRights())&^0x40)
				s.Image.Set(r.Selector(), 0x21)
			}
		}, ""},
		{"guest.tr.type", nothing, set(GuestTRAccessRights, 0x83), ""},
		{"guest.tr.type", all(guest32(), set(GuestTRAccessRights, 0x83)), set(GuestTRAccessRights, 0x81), ""},
		{"guest.ldtr.type", ldt(), set(GuestLDTRAccessRights, 0x83), ""},
		{"guest.tr.s", nothing, or[uint64](GuestTRAccessRights, 0x10), ""},
		{"guest.tr.p", nothing, clr[uint64](GuestTRAccessRights, 0x80), ""},
		{"guest.tr.reserved", nothing, or[uint64](GuestTRAccessRights, 1<<31), ""},
		{"guest.tr.g", nothing, or[uint64](GuestTRAccessRights, 1<<15), ""},
		{"guest.tr.g", nothing, set(GuestTRLimit, 1<<20), ""},
		{"guest.tr.unusable", nothing, or[uint64](GuestTRAccessRights, 1<<16), ""},
		{"guest.ldtr.s", ldt(), or[uint64](GuestLDTRAccessRights, 0x10), ""},
		{"guest.ldtr.p", ldt(), clr[uint64](GuestLDTRAccessRights, 0x80), ""},
		{"guest.ldtr.reserved", ldt(), or[uint64](GuestLDTRAccessRights, 1<<8), ""},
		{"guest.ldtr.g", ldt(), or[uint64](GuestLDTRAccessRights, 1<<15), ""},

		{"guest.gdtr.limit", set(GuestGDTRLimit, 0xffff), set(GuestGDTRLimit, 0x10000), ""},
		{"guest.idtr.limit", set(GuestIDTRLimit, 0xffff), set(GuestIDTRLimit, 0x10000), ""},
		{"guest.rip.32", all(guest32(), set(GuestRIP, 0xffffffff)), set(GuestRIP, 1<<32), ""},
		{"guest.rip.32", set(GuestRIP, notCanonical), set(GuestCSAccessRights, 0xc09b), ""},
		{"guest.rip.64", set(GuestRIP, notLinear-1), set(GuestRIP, notLinear), ""},
		{"guest.rflags.reserved", nothing, set(GuestRFLAGS, 0), ""},
		{"guest.rflags.reserved", nothing, set(GuestRFLAGS, 1<<22|2), ""},
		{"guest.rflags.reserved", nothing, set(GuestRFLAGS, 1<<3|2), ""},
		{"guest.rflags.vm", v8086(), all(entry(EntryIA32eModeGuest), or[uint64](GuestCR4, 0x20)), ""},
		{"guest.rflags.vm", all(withUnrestricted(), v8086()), clr[uint64](GuestCR0, 1<<31|1), ""},
		{"guest.rflags.if", all(or[uint64](GuestRFLAGS, 1<<9), inject(0x40)), clr[uint64](GuestRFLAGS, 1<<9), ""},
		{"guest.rflags.iopl", all(fredGuest(), ring3), or[uint64](GuestRFLAGS, 1<<12), ""},
		{"guest.ssp", entry(EntryLoadCETState), set(GuestSSP, 1), ""},
		{"guest.ssp", entry(EntryLoadCETState), set(GuestSSP, notLinear), ""},

		{"guest.activity.supported", set(GuestActivityState, 3), set(GuestActivityState, 4), ""},
		{"guest.activity.supported", set(GuestActivityState, 2), without(func(c *Capabilities) { c.Misc &^= 1 << 7 }), ""},
		{"guest.activity.hlt", ring3, set(GuestActivityState, 1), ""},
		{"guest.activity.blocking", set(GuestInterruptibilityState, 2), set(GuestActivityState, 2), ""},
		{"guest.activity.event", all(set(GuestActivityState, 1), inject(3<<8|1)), inject(3<<8 | 3), ""},
		{"guest.activity.event", all(set(GuestActivityState, 2), inject(2<<8|2)), inject(3<<8 | 1), ""},
		{"guest.activity.event", set(GuestActivityState, 3), inject(2<<8 | 2), ""},
		{"guest.activity.smm", all(func(s *checkState) { s.SMM = true }, entry(EntryEntryToSMM), set(GuestInterruptibilityState, 4)), set(GuestActivityState, 3), ""},
		{"guest.interruptibility.reserved", nothing, set(GuestInterruptibilityState, 1<<5), ""},
		{"guest.interruptibility.both", all(or[uint64](GuestRFLAGS, 1<<9), set(GuestInterruptibilityState, 1)), set(GuestInterruptibilityState, 3), ""},
		{"guest.interruptibility.if", all(or[uint64](GuestRFLAGS, 1<<9), set(GuestInterruptibilityState, 1)), clr[uint64](GuestRFLAGS, 1<<9), ""},
		{"guest.interruptibility.interrupt", all(or[uint64](GuestRFLAGS, 1<<9), inject(0x40)), set(GuestInterruptibilityState, 2), ""},
		{"guest.interruptibility.nmi", inject(2<<8 | 2), set(GuestInterruptibilityState, 2), ""},
		{"guest.interruptibility.smi", all(smm, set(GuestInterruptibilityState, 4)), func(s *checkState) { s.SMM = false }, ""},
		{"guest.interruptibility.smm", all(func(s *checkState) { s.SMM = true }, entry(EntryEntryToSMM), set(GuestInterruptibilityState, 4)), set(GuestInterruptibilityState, 0), ""},
		{"guest.interruptibility.nmi.sti", all(or[uint64](GuestRFLAGS, 1<<9), inject(2<<8|2)), set(GuestInterruptibilityState, 1), ""},
		{"guest.interruptibility.nmi.virtual", all(pin(PinNMIExiting), set(GuestInterruptibilityState, 8), inject(2<<8|2)), pin(PinVirtualNMIs), ""},
		{"guest.interruptibility.enclave", set(GuestInterruptibilityState, 16), without(func(c *Capabilities) { c.CPU.SGX = false }), ""},
		{"guest.interruptibility.enclave", set(GuestInterruptibilityState, 16), set(GuestInterruptibilityState, 18), ""},
		{"guest.interruptibility.fred", all(fredGuest(), ring3, or[uint64](GuestRFLAGS, 1<<9)), set(GuestInterruptibilityState, 1), ""},
		{"guest.pending.reserved", set(GuestPendingDebugExceptions, 0x580f), set(GuestPendingDebugExceptions, 1<<13), ""},
		{"guest.pending.reserved", set(GuestPendingDebugExceptions, 1<<11), without(func(c *Capabilities) { c.CPU.DebugCtlValid &^= 4 }), ""},
		{"guest.pending.reserved", nothing, set(GuestPendingDebugExceptions, 1<<17), ""},
		{"guest.pending.bs", all(set(GuestInterruptibilityState, 2), or[uint64](GuestRFLAGS, 1<<8), set(GuestPendingDebugExceptions, 1<<14)), set(GuestPendingDebugExceptions, 0), ""},
		{"guest.pending.bs", all(set(GuestInterruptibilityState, 2), or[uint64](GuestRFLAGS, 1<<8), set(GuestDebugCtl, 2)), set(GuestPendingDebugExceptions, 1<<14), ""},
		{"guest.pending.bs", set(GuestActivityState, 1), set(GuestPendingDebugExceptions, 1<<14), ""},
		{"guest.pending.rtm", set(GuestPendingDebugExceptions, 1<<16|1<<12), set(GuestPendingDebugExceptions, 1<<16), ""},
		{"guest.pending.rtm", set(GuestPendingDebugExceptions, 1<<16|1<<12), set(GuestInterruptibilityState, 2), ""},
		{"guest.link.revision", linked(4), func(s *checkState) { s.memory[0x5000] = 5 }, ""},
		{"guest.link.shadow", all(linked(1<<31|4), secondary(SecondaryVMCSShadowing)), clr(SecondaryProcessorBasedControls, SecondaryVMCSShadowing), ""},
		{"guest.link.current", linked(4), func(s *checkState) { s.CurrentVMCS = 0x5000 }, ""},
		{"guest.link.current", all(linked(4), func(s *checkState) { s.SMM = true }), set(ExecutiveVMCSPointer, 0x5000), ""},

		{"guest.pdpte.fields", all(withEPT(), pae, set(GuestPDPTE3, 0x5001|0xe18)), set(GuestPDPTE3, 0x5003), ""},
		{"guest.pdpte.fields", all(withEPT(), pae, set(GuestPDPTE0, 0x1e6)), set(GuestPDPTE0, tooFar|1), ""},
		{"guest.pdpte.memory", pae, func(s *checkState) { s.memory[0x1018] = 0x101 }, ""},
		{"guest.pdpte.memory", all(pae, secondary(SecondaryEnableRDTSCP), func(s *checkState) { s.memory[0x1000] = 1<<tooFarBit | 1<<5 }), func(s *checkState) { s.memory[0x1000] |= 1 }, ""},
		{"guest.pdpte.memory", all(pae, set(GuestCR3, 0xfff)), func(s *checkState) { s.memory[0xff8] = 3 }, ""},

		{"msrload", msrs(0x277, 0x0007040600070406), func(s *checkState) { s.memory[0x9018] = 2 }, ""},
		{"msrload", msrs(0x277, 0), func(s *checkState) { s.memory[0x9010] = 0xc0000100 }, ""},
		{"msrload", msrs(0x277, 0), func(s *checkState) { s.memory[0x9010] |= 1 << 32 }, ""},
		{"msrload", msrs(0x277, 0), func(s *checkState) { s.memory[0x9010] = 0x808 }, ""},
		{"msrload", msrs(0xc0000080, 0x901), func(s *checkState) { s.memory[0x9018] = 0x801 }, ""},
		{"msrload", all(guest32(), msrs(0xc0000080, 0x801)), func(s *checkState) { s.memory[0x9018] = 0x901 }, ""},
	}
	for _, c := range [][]ruleCase{
		address("iobitmap.a", IOBitmapA, primary(PrimaryUseIOBitmaps)),
		address("iobitmap.b", IOBitmapB, primary(PrimaryUseIOBitmaps)),
		address("msrbitmap", MSRBitmaps, primary(PrimaryUseMSRBitmaps)),
		address("vapic.address", VirtualAPICAddress, primary(PrimaryUseTPRShadow)),
		address("apicaccess.address", APICAccessAddress, secondary(SecondaryVirtualizeAPICAccesses)),
		address("pml.address", PMLAddress, all(withEPT(), secondary(SecondaryEnablePML))),
		address("spp.address", SubPagePermissionTable, all(withEPT(), secondary(SecondarySubPageWritePermissionsForEPT))),
		address("vmfunc.eptpswitching.list", EPTPListAddress, vmfunc()),
		address("shadowing.vmread", VMREADBitmap, secondary(SecondaryVMCSShadowing)),
		address("shadowing.vmwrite", VMWRITEBitmap, secondary(SecondaryVMCSShadowing)),
		address("ve.address", VirtualizationExceptionAddress, secondary(SecondaryEPTViolationVE)),
		address("pasid.low", LowPASIDDirectory, secondary(SecondaryPASIDTranslation)),
		address("pasid.high", HighPASIDDirectory, secondary(SecondaryPASIDTranslation)),
		address("guest.link.address", VMCSLinkPointer, func(s *checkState) {
			s.memory[0x5000] = 4
			s.memory[tooFar-0x1000] = 4
		}),
		area("exit.msrstore", ExitMSRStoreAddress, ExitMSRStoreCount),
		area("exit.msrload", ExitMSRLoadAddress, ExitMSRLoadCount),
		area("entry.msrload", EntryMSRLoadAddress, EntryMSRLoadCount),
		noncanonical("host.sysenter.esp", HostSysenterESP, nothing),
		noncanonical("host.sysenter.eip", HostSysenterEIP, nothing),
		noncanonical("host.fs.base", HostFSBase, nothing),
		noncanonical("host.gs.base", HostGSBase, nothing),
		noncanonical("host.gdtr.base", HostGDTRBase, nothing),
		noncanonical("host.idtr.base", HostIDTRBase, nothing),
		noncanonical("host.tr.base", HostTRBase, nothing),
		noncanonical("host.cet.table", HostInterruptSSPTable, exit(ExitLoadCETState)),
		noncanonical("guest.sysenter.esp", GuestSysenterESP, nothing),
		noncanonical("guest.sysenter.eip", GuestSysenterEIP, nothing),
		noncanonical("guest.cet.table", GuestInterruptSSPTable, entry(EntryLoadCETState)),
		noncanonical("guest.tr.base", GuestTRBase, nothing),
		noncanonical("guest.fs.base", GuestFSBase, or[uint64](GuestFSAccessRights, 1<<16)),
		noncanonical("guest.gs.base", GuestGSBase, nothing),
		noncanonical("guest.gdtr.base", GuestGDTRBase, nothing),
		noncanonical("guest.idtr.base", GuestIDTRBase, nothing),
	} {
		cases = append(cases, c...)
	}
	for i, f := range []Field{HostESSelector, HostCSSelector, HostSSSelector, HostDSSelector, HostFSSelector, HostGSSelector, HostTRSelector} {
		id := "host." + []string{"es", "cs", "ss", "ds", "fs", "gs", "tr"}[i] + ".selector"
		cases = append(cases, ruleCase{id, set(f, 0xfff8), set(f, 0xfffc), ""}, ruleCase{id, set(f, 8), set(f, 9), ""})
	}
	for r := ES; r <= GS; r++ {
		name := "guest." + strings.ToLower(r.String()) + "."
		// What holds for usable registers only passes for the unusable one too.
		unusable := or[uint64](r.AccessRights(), 1<<16)
		if r == CS {
			unusable = nothing
		}
		for _, c := range []ruleCase{
			{"base.v8086", v8086(), set(r.Base(), 0x1231), ""},
			{"limit.v8086", v8086(), set(r.Limit(), 0xfffe), ""},
			{"rights.v8086", v8086(), set(r.AccessRights(), 0xf2), ""},
			{"s", nothing, clr[uint64](r.AccessRights(), 0x10), ""},
			{"p", nothing, clr[uint64](r.AccessRights(), 0x80), ""},
			{"reserved", nothing, or[uint64](r.AccessRights(), 1<<11), ""},
			{"reserved", nothing, or[uint64](r.AccessRights(), 1<<17), ""},
			{"g", nothing, set(r.Limit(), 0xfffffffe), ""},
			{"g", set(r.Limit(), 0xfffff), all(set(r.Limit(), 0x100000), clr[uint64](r.AccessRights(), 1<<15)), ""},
		} {
			c.id = name + c.id
			cases = append(cases, c)
		}
		cases = append(cases, ruleCase{name + "s", unusable, all(clr[uint64](r.AccessRights(), 1<<16), clr[uint64](r.AccessRights(), 0x10)), ""})
		if r != CS && r < FS {
			cases = append(cases, ruleCase{name + "base", all(set(r.Base(), 1<<32), unusable), clr[uint64](r.AccessRights(), 1<<16), ""})
		}
		if r != CS && r != SS {
			cases = append(cases,
				ruleCase{name + "type", set(r.AccessRights(), 0xc09b), set(r.AccessRights(), 0xc099), ""},
				ruleCase{name + "type", set(r.AccessRights(), 0xc091), set(r.AccessRights(), 0xc092), ""},
				ruleCase{name + "dpl", all(set(r.Selector(), 3), set(r.AccessRights(), 0xc0f3)), set(r.AccessRights(), 0xc0d3), ""},
				ruleCase{name + "dpl", all(set(r.Selector(), 3), set(r.AccessRights(), 0xc09f)), set(r.AccessRights(), 0xc09b), ""},
				ruleCase{name + "dpl", all(withUnrestricted(), set(r.Selector(), 3)), clr(SecondaryProcessorBasedControls, SecondaryUnrestrictedGuest), ""})
		}
	}
	return cases
}

func posted() edit {
	return all(pin(PinExternalInterruptExiting|PinProcessPostedInterrupts), primary(PrimaryUseTPRShadow), secondary(SecondaryVirtualInterruptDelivery), exit(ExitAcknowledgeInterruptOnExit))
}

func vmfunc() edit {
	return all(withEPT(), secondary(SecondaryEnableVMFunctions), set(VMFunctionControls, 1))
}

func intelPT() edit {
	return all(withEPT(), secondary(SecondaryIntelPTUsesGuestPhysicalAddresses), entry(EntryLoadIA32RTITCTL), exit(ExitClearIA32RTITCTL))
}

func ipi() edit {
	return all(primary(PrimaryUseTPRShadow), tertiary(TertiaryIPIVirtualization), set(PIDPointerTable, 0x5008))
}

func timer() edit {
	return all(pin(PinExternalInterruptExiting), primary(PrimaryUseTPRShadow), secondary(SecondaryVirtualInterruptDelivery), tertiary(TertiaryAPICTimerVirtualization))
}

// keys: memory encryption takes 3 bits of physical addresses.
func keys(s *checkState) { s.Caps.CPU.KeyBits = 3 }

func ldt() edit { return all(set(GuestLDTRAccessRights, 0x82), set(GuestLDTRLimit, 0x2f)) }

// linked sets the link pointer, to a VMCS that begins with the given word.
func linked(word uint64) edit {
	return func(s *checkState) {
		s.Image.Set(VMCSLinkPointer, 0x5000)
		s.memory[0x5000] = word
	}
}

// msrs makes an MSR-load area of two entries, of which the second is given.
func msrs(index, v uint64) edit {
	return func(s *checkState) {
		s.Image.Set(EntryMSRLoadCount, 2)
		s.Image.Set(EntryMSRLoadAddress, 0x9000)
		s.memory[0x9000], s.memory[0x9008] = 0x174, 8
		s.memory[0x9010], s.memory[0x9018] = index, v
	}
}

func ids(violations []Violation) []string {
	var ids []string
	for _, v := range violations {
		ids = append(ids, v.Rule.ID)
	}
	return ids
}

func TestRules(t *testing.T) {
	tested := map[string]bool{}
	for i, c := range ruleCases() {
		tested[c.id] = true
		t.Run(fmt.Sprintf("%s/%d", c.id, i), func(t *testing.T) {
			require.True(t, LookupRule(c.id) != nil, "there is no such rule")
			s := valid()
			c.pass(s)
			report := s.Check(&s.Image)
			if !s.SMM || held(s, VMEntryControls)&uint64(EntryEntryToSMM) != 0 {
				require.Equal(t, 0, len(report.NotChecked))
			} else { // the VM-execution controls are those of another VMCS
				require.True(t, len(report.NotChecked) > 40)
			}
			require.Equal(t, "", strings.Join(ids(report.Violations), " "))
			require.Equal(t, Entered, report.Outcome().Kind)

			c.fail(s)
			report = s.Check(&s.Image)
			got := ids(report.Violations)
			require.True(t, slices.Contains(got, c.id), fmt.Sprintf("not violated; violated are: %v", got))
			for _, id := range got {
				require.True(t, id == c.id || slices.Contains(strings.Fields(c.also), id), "also violated: "+id)
			}
			v := report.Violations[slices.Index(got, c.id)]
			for _, f := range v.Fields {
				require.Equal(t, held(s, f.Field), f.Value)
				require.True(t, slices.Contains(v.Rule.Fields, f.Field))
			}
			require.True(t, strings.Contains(v.Error(), v.Rule.Text))
			if c.also == "" {
				want := v.Rule.Result
				if c.id == "msrload" {
					want.Qualification = 2
				}
				require.Equal(t, want, report.Outcome())
				require.True(t, report.Err() == error(report.First()))
			}
		})
	}
	for r := range Rules() {
		require.True(t, tested[r.ID], "no test for rule "+r.ID)
	}
}

// What a dump lacks makes rules "not checked", never passed nor violated.
func TestRulesNotChecked(t *testing.T) {
	for _, c := range ruleCases() {
		rule := LookupRule(c.id)
		if len(rule.Fields) == 0 {
			continue
		}
		s := valid()
		c.pass(s)
		c.fail(s)
		report := s.Check(&s.Image)
		v := report.Violations[slices.Index(ids(report.Violations), c.id)]
		s.Image.Delete(v.Fields[0].Field)
		report = s.Check(&s.Image)
		require.False(t, slices.Contains(ids(report.Violations), c.id), c.id)
		require.True(t, slices.Contains(report.NotChecked, rule), c.id)
	}
	empty := Check(new(Image), everything())
	require.Equal(t, 0, len(empty.Violations))
	require.Equal(t, 10, empty.Checked) // those of the launch state, tracing, SMM and legacy mode, which the Checker tells

	// Without memory the rules that look into it are not checked.
	for _, c := range ruleCases() {
		rule := LookupRule(c.id)
		if !rule.Memory {
			continue
		}
		s := valid()
		c.pass(s)
		c.fail(s)
		s.Memory = nil
		report := s.Check(&s.Image)
		require.True(t, slices.Contains(report.NotChecked, rule), c.id)
	}
}

// An MSR that only some processors have cannot be judged.
func TestMSRLoadNotChecked(t *testing.T) {
	s := valid()
	msrs(0xc0000103, 0)(s)
	report := s.Check(&s.Image)
	require.True(t, report.OK())
	require.Equal(t, 1, len(report.NotChecked))
	s.memory[0x9000] = 0xc0000100 // an entry before it can
	report = s.Check(&s.Image)
	require.Equal(t, uint64(1), report.Outcome().Qualification)
	s.memory[0x9000], s.memory[0x9010] = 0xc0000103, 0xc0000100 // after it, which is the one?
	report = s.Check(&s.Image)
	require.True(t, report.OK())

	// A count without bounds is not followed.
	s.Image.Set(EntryMSRLoadCount, 1<<32-1)
	s.memory[0x9000], s.memory[0x9010] = 0x174, 0x174
	for i := range uint64(10000) {
		s.memory[0x9000+16*i] = 0x174
	}
	report = s.Check(&s.Image)
	require.True(t, report.OK())
	require.Equal(t, "msrload", report.NotChecked[0].ID)
}

// Rules are well-formed: each stands once, reads known fields, and has its text.
func TestRuleTable(t *testing.T) {
	seen, order := map[string]bool{}, 0
	rank := map[Outcome]int{}
	for _, r := range []string{"entry.movss", "pin.reserved", "host.cr0.fixed", "guest.cr0.fixed", "guest.pdpte.fields", "guest.link.address", "guest.interruptibility.nmi.sti", "msrload"} {
		o := LookupRule(r).Result
		switch {
		case o.Kind == FailValid && o.Error == EntryInvalidControls:
			rank[o] = 1
		case o.Kind == FailValid && o.Error == EntryInvalidHostState:
			rank[o] = 2
		case o.Kind == EntryExit && o.Reason == 33:
			rank[o] = 3
		case o.Kind == EntryExit:
			rank[o] = 4
		}
	}
	for r := range Rules() {
		require.False(t, seen[r.ID], r.ID)
		seen[r.ID] = true
		require.True(t, len(r.Text) > 20 && r.Section != "", r.ID)
		for _, f := range r.Fields {
			require.True(t, f.Known(), r.ID)
		}
		require.True(t, rank[r.Result] >= order, r.ID+" is out of order")
		order = rank[r.Result]
	}
	require.True(t, LookupRule("guest.nothing") == nil)
}

// Any Reader does, not an Image alone.
type plainReader struct{ r Reader }

func (p plainReader) Read(f Field) (uint64, error) { return p.r.Read(f) }

func TestCheckReaders(t *testing.T) {
	s := valid()
	s.Image.Set(GuestRFLAGS, 0)
	for _, r := range []Reader{&s.Image, plainReader{&s.Image}} {
		report := s.Check(r)
		require.Equal(t, "guest.rflags.reserved", strings.Join(ids(report.Violations), " "))
	}
	shadow := NewShadow(s.Caps)
	require.NoError(t, Copy(shadow, &s.Image))
	report := s.Check(shadow)
	require.Equal(t, "guest.rflags.reserved", strings.Join(ids(report.Violations), " "))
	var v *Violation
	require.True(t, errors.As(report.Err(), &v))
}

func TestCheckAllocatesNothing(t *testing.T) {
	s := valid()
	require.Equal(t, 0.0, testing.AllocsPerRun(100, func() {
		if report := s.Check(&s.Image); !report.OK() {
			panic("violated")
		}
	}))
}

func BenchmarkCheck(b *testing.B) {
	s := valid()
	b.ReportAllocs()
	for b.Loop() {
		if report := s.Check(&s.Image); !report.OK() {
			b.Fatal(report.Err())
		}
	}
}
