package vmcs

import (
	"fmt"
	"strconv"
)

// Basic is IA32_VMX_BASIC, MSR 0x480 (SDM Vol. 3D A.1).
type Basic uint64

// Revision returns the revision identifier, which stands in the first 4 bytes of
// every VMXON and VMCS region.
func (b Basic) Revision() uint32 { return uint32(b) & 0x7fff_ffff }

// RegionSize returns how many bytes a VMXON or VMCS region has, 1 to 4096.
func (b Basic) RegionSize() int { return int(b >> 32 & 0x1fff) }

// Addresses32 reports whether the physical addresses of the VMXON region, of
// VMCS regions and of what they point to are limited to 32 bits.
func (b Basic) Addresses32() bool { return b>>48&1 != 0 }

// DualMonitor reports whether there is the dual-monitor treatment of SMIs and
// SMM.
func (b Basic) DualMonitor() bool { return b>>49&1 != 0 }

// MemoryType returns the memory type for the VMCS region and what it points to:
// 0 is uncacheable, 6 is write-back.
func (b Basic) MemoryType() uint8 { return uint8(b >> 50 & 15) }

// InsOutsInfo reports whether VM exits for INS and OUTS fill in the VM-exit
// instruction-information field.
func (b Basic) InsOutsInfo() bool { return b>>54&1 != 0 }

// TrueControls reports whether the TRUE capability MSRs 0x48d to 0x490 are
// there: then bits of the default1 class may be 0 if they say so.
func (b Basic) TrueControls() bool { return b>>55&1 != 0 }

// AnyErrorCode reports whether a VM entry can inject a hardware exception with
// or without an error code, whatever its vector.
func (b Basic) AnyErrorCode() bool { return b>>56&1 != 0 }

// NestedExceptions reports whether VM exits and VM entries tell of and set the
// nested-exception bit that FRED event delivery needs. Revision 084 of the SDM
// has bit 58 reserved.
func (b Basic) NestedExceptions() bool { return b>>58&1 != 0 }

// String returns all of it.
func (b Basic) String() string {
	memory := "memory type " + strconv.Itoa(int(b.MemoryType()))
	switch b.MemoryType() {
	case 0:
		memory = "uncacheable"
	case 6:
		memory = "write-back"
	}
	return fmt.Sprintf("revision %#x, %d-byte regions, %s; %s", b.Revision(), b.RegionSize(), memory,
		flagList(uint64(b), basicFlags))
}

// Misc is IA32_VMX_MISC, MSR 0x485 (SDM Vol. 3D A.6).
type Misc uint64

// TimerShift returns x such that the VMX-preemption timer counts down by one
// each time bit x of the TSC changes: once in 1<<x ticks.
func (m Misc) TimerShift() int { return int(m & 31) }

// StoresLMA reports whether VM exits store EFER.LMA in the "IA-32e mode guest"
// control. It is so wherever there is the unrestricted guest.
func (m Misc) StoresLMA() bool { return m>>5&1 != 0 }

// ActivityHLT reports whether VM entries can put the guest in the HLT state.
func (m Misc) ActivityHLT() bool { return m>>6&1 != 0 }

// ActivityShutdown reports whether VM entries can put the guest in the shutdown
// state.
func (m Misc) ActivityShutdown() bool { return m>>7&1 != 0 }

// ActivityWaitForSIPI reports whether VM entries can put the guest in the
// wait-for-SIPI state.
func (m Misc) ActivityWaitForSIPI() bool { return m>>8&1 != 0 }

// IntelPT reports whether Intel Processor Trace can be used in VMX operation.
func (m Misc) IntelPT() bool { return m>>14&1 != 0 }

// ReadsSMBase reports whether RDMSR in SMM can read IA32_SMBASE.
func (m Misc) ReadsSMBase() bool { return m>>15&1 != 0 }

// CR3Targets returns how many CR3-target values there are, 0 to 256; more than 4
// cannot be used, for there are no more fields.
func (m Misc) CR3Targets() int { return int(m >> 16 & 0x1ff) }

// MSRListMax returns how many entries an MSR-load or MSR-store area should have
// at most: 512 to 4096. More than that may fail with a machine check.
func (m Misc) MSRListMax() int { return 512 * (int(m>>25&7) + 1) }

// BlocksSMI reports whether bit 2 of IA32_SMM_MONITOR_CTL can be set, so that
// VMXOFF leaves SMIs blocked.
func (m Misc) BlocksSMI() bool { return m>>28&1 != 0 }

// WritesExitInformation reports whether VMWRITE can write all fields, those with
// VM-exit information too.
func (m Misc) WritesExitInformation() bool { return m>>29&1 != 0 }

// ZeroLengthInjection reports whether a VM entry can inject software interrupts
// and exceptions with an instruction length of 0.
func (m Misc) ZeroLengthInjection() bool { return m>>30&1 != 0 }

// MSEGRevision returns the MSEG revision identifier.
func (m Misc) MSEGRevision() uint32 { return uint32(m >> 32) }

// String returns all of it.
func (m Misc) String() string {
	return fmt.Sprintf("timer shift %d, %d CR3 targets, MSR lists of %d, MSEG revision %#x; %s",
		m.TimerShift(), m.CR3Targets(), m.MSRListMax(), m.MSEGRevision(), flagList(uint64(m), miscFlags))
}

// EPTVPID is IA32_VMX_EPT_VPID_CAP, MSR 0x48c (SDM Vol. 3D A.10).
type EPTVPID uint64

// ExecuteOnly reports whether EPT entries can allow to execute but not to read.
func (e EPTVPID) ExecuteOnly() bool { return e&1 != 0 }

// Walk4 reports whether EPT can have 4 levels.
func (e EPTVPID) Walk4() bool { return e>>6&1 != 0 }

// Walk5 reports whether EPT can have 5 levels.
func (e EPTVPID) Walk5() bool { return e>>7&1 != 0 }

// Uncacheable reports whether EPT paging structures can be of memory type UC.
func (e EPTVPID) Uncacheable() bool { return e>>8&1 != 0 }

// WriteBack reports whether EPT paging structures can be of memory type WB.
func (e EPTVPID) WriteBack() bool { return e>>14&1 != 0 }

// Pages2M reports whether EPT entries can map 2 MiB.
func (e EPTVPID) Pages2M() bool { return e>>16&1 != 0 }

// Pages1G reports whether EPT entries can map 1 GiB.
func (e EPTVPID) Pages1G() bool { return e>>17&1 != 0 }

// INVEPT reports whether the INVEPT instruction is there.
func (e EPTVPID) INVEPT() bool { return e>>20&1 != 0 }

// AccessedDirty reports whether EPT has accessed and dirty flags.
func (e EPTVPID) AccessedDirty() bool { return e>>21&1 != 0 }

// AdvancedExitInfo reports whether EPT violations bring advanced information
// about the linear address in their exit qualification.
func (e EPTVPID) AdvancedExitInfo() bool { return e>>22&1 != 0 }

// SupervisorShadowStack reports whether EPT can control supervisor shadow
// stacks.
func (e EPTVPID) SupervisorShadowStack() bool { return e>>23&1 != 0 }

// INVEPTSingleContext reports whether INVEPT can invalidate for one EPT pointer.
func (e EPTVPID) INVEPTSingleContext() bool { return e>>25&1 != 0 }

// INVEPTAllContexts reports whether INVEPT can invalidate for all EPT pointers.
func (e EPTVPID) INVEPTAllContexts() bool { return e>>26&1 != 0 }

// INVVPID reports whether the INVVPID instruction is there.
func (e EPTVPID) INVVPID() bool { return e>>32&1 != 0 }

// INVVPIDAddress reports whether INVVPID can invalidate for one linear address.
func (e EPTVPID) INVVPIDAddress() bool { return e>>40&1 != 0 }

// INVVPIDSingleContext reports whether INVVPID can invalidate for one VPID.
func (e EPTVPID) INVVPIDSingleContext() bool { return e>>41&1 != 0 }

// INVVPIDAllContexts reports whether INVVPID can invalidate for all VPIDs.
func (e EPTVPID) INVVPIDAllContexts() bool { return e>>42&1 != 0 }

// INVVPIDSingleContextRetainingGlobals reports whether INVVPID can invalidate
// for one VPID but keep global translations.
func (e EPTVPID) INVVPIDSingleContextRetainingGlobals() bool { return e>>43&1 != 0 }

// MaxHLATPrefix returns the largest HLAT prefix size, 0 to 63.
func (e EPTVPID) MaxHLATPrefix() int { return int(e >> 48 & 63) }

// String returns all of it.
func (e EPTVPID) String() string {
	s := flagList(uint64(e), eptVPIDFlags)
	if n := e.MaxHLATPrefix(); n != 0 {
		s += ", HLAT prefix up to " + strconv.Itoa(n)
	}
	return s
}

// A flagName names one bit of a capability MSR.
type flagName struct {
	bit  uint8
	name string
}

// flagList lists the names of the bits that are 1.
func flagList(v uint64, names []flagName) string {
	s := ""
	for _, f := range names {
		if v>>f.bit&1 == 0 {
			continue
		}
		if s != "" {
			s += ", "
		}
		s += f.name
	}
	if s == "" {
		return noControls
	}
	return s
}

var basicFlags = []flagName{
	{48, "32-bit addresses"},
	{49, "dual-monitor treatment"},
	{54, "INS/OUTS information"},
	{55, "TRUE controls"},
	{56, "any error code"},
	{58, "nested exceptions"},
}

var miscFlags = []flagName{
	{5, "stores LMA"},
	{6, "HLT state"},
	{7, "shutdown state"},
	{8, "wait-for-SIPI state"},
	{14, "Intel PT"},
	{15, "reads SMBASE"},
	{28, "blocks SMIs"},
	{29, "writes exit information"},
	{30, "zero-length injection"},
}

var eptVPIDFlags = []flagName{
	{0, "execute-only"},
	{6, "4 levels"},
	{7, "5 levels"},
	{8, "UC"},
	{14, "WB"},
	{16, "2 MiB pages"},
	{17, "1 GiB pages"},
	{20, "INVEPT"},
	{21, "accessed and dirty flags"},
	{22, "advanced exit information"},
	{23, "supervisor shadow stacks"},
	{25, "INVEPT of one context"},
	{26, "INVEPT of all contexts"},
	{32, "INVVPID"},
	{40, "INVVPID of one address"},
	{41, "INVVPID of one context"},
	{42, "INVVPID of all contexts"},
	{43, "INVVPID of one context but globals"},
}
