package vmexit

import (
	"errors"

	"github.com/govtx/vtx/vmcs"
)

// A Config says what Defaults makes of VM exits. Every field but Capabilities may be
// left out.
type Config struct {
	// Capabilities are the processor's.
	Capabilities *vmcs.Capabilities

	// CPUID is what the guest is told of its processor: by default the one that the
	// program runs on, less what Defaults does not emulate ([CPUIDPolicy.HideUnemulated]).
	CPUID *CPUIDPolicy

	// MSRs is by default a policy that has the MSRs which a VMCS holds, IA32_EFER and
	// the time-stamp counter, and refuses all others with #GP. Allow those beside them
	// that are switched between host and guest, by MSR areas or otherwise. IA32_EFER,
	// IA32_TIME_STAMP_COUNTER and, if the guest has no VMX, its MSRs are set in a policy
	// only by default.
	MSRs *MSRPolicy

	// ControlRegisters, DebugRegisters, Ports and TSC are by default as they come:
	// without devices, and with the processor's own debug registers. ControlRegisters and
	// Ports that have no memory get Memory.
	ControlRegisters *ControlRegisters
	DebugRegisters   *DebugRegisters
	Ports            *Ports
	TSC              *TSC

	// Memory is needed for INS and OUTS, guests with PAE paging, INVPCID that is checked,
	// and descriptor-table exiting.
	Memory *GuestMemory

	// Halt is called when the guest has halted; see [Halted].
	Halt func(*Exit) bool

	// Interrupt takes an external interrupt that the VM exit has acknowledged, NMI one
	// that has arrived in the guest. By default an NMI goes to the host's handler.
	Interrupt func(*Exit, vmcs.Vector)
	NMI       func(*Exit)

	// Window is the handler of the exits that [Exit.InterruptWindow] and
	// [Exit.NMIWindow] ask for. They no longer ask by then.
	Window Handler

	// Violation is the handler of EPT violations, Hypercall that of VMCALL, which by
	// default raises #UD.
	Violation Handler
	Hypercall Handler

	// Random gives the numbers for RDRAND and RDSEED, 64 bits of them, and false if there
	// are none at the moment. By default the processor does.
	Random func() (uint64, bool)
}

// HideUnemulated takes away the feature flags of what [Defaults] does not emulate: VMX,
// SMX, SGX, performance counters and tracing, machine checks, memory-type ranges, thermal and
// power management, MONITOR, the local APIC's x2APIC mode and deadline timer, MPX,
// transactional memory, and features that come with MSRs of their own: resource control,
// hardware feedback, control-flow enforcement, user interrupts, key locker, speculation
// control.
func (p *CPUIDPolicy) HideUnemulated() *CPUIDPolicy {
	all := ^uint32(0)
	// The bits are those of the tables of SDM Vol. 2A CPUID.
	p.Mask(1, 0, CPUIDRegisters{all, all,
		^uint32(1<<2 | 1<<3 | 1<<4 | 1<<5 | 1<<6 | 1<<7 | 1<<8 | 1<<11 | 1<<15 | 1<<18 | 1<<21 | 1<<24),
		// DTES64, MONITOR, DS-CPL, VMX, SMX, EIST, TM2, SDBG, PDCM, DCA, x2APIC, TSC-Deadline
		^uint32(1<<7 | 1<<12 | 1<<14 | 1<<21 | 1<<22 | 1<<29 | 1<<31)}) // MCE, MTRR, MCA, DS, ACPI, TM, PBE
	for _, leaf := range [...]uint32{5, 6, 9, 0xa, 0xf, 0x10, 0x12, 0x14, 0x19, 0x1a, 0x1b, 0x1c, 0x20, 0x23} {
		p.clear(leaf)
	}
	p.Mask(7, 0, CPUIDRegisters{all,
		// TSC_ADJUST, SGX, HLE, RDT-M, RTM, MPX, RDT-A, Intel PT
		^uint32(1<<1 | 1<<2 | 1<<4 | 1<<11 | 1<<12 | 1<<14 | 1<<15 | 1<<25),
		// WAITPKG, CET_SS, TME, MPX's, KL, bus lock, ENQCMD, SGX_LC, PKS
		^uint32(1<<5 | 1<<7 | 1<<13 | 1<<23 | 1<<24 | 1<<29 | 1<<30 | 1<<31),
		// UINTR, SRBDS, RTM, hybrid, PCONFIG, LBR, CET_IBT, IBRS, STIBP, L1D_FLUSH, ARCH_CAPABILITIES, CORE_CAPABILITIES, SSBD
		^uint32(1<<5 | 1<<9 | 1<<11 | 1<<13 | 1<<15 | 1<<18 | 1<<19 | 1<<20 | 1<<26 | 1<<27 | 1<<28 | 1<<29 | 1<<30 | 1<<31)})
	if sub := p.Lookup(7, 1); sub != (CPUIDRegisters{}) {
		const hreset, lam, msrlist, fred = 1 << 22, 1 << 26, 1 << 27, 1 << 17
		p.Mask(7, 1, CPUIDRegisters{^uint32(hreset | lam | msrlist | fred), all, all, all})
	}
	if p.Lookup(0xd, 1) != (CPUIDRegisters{}) {
		const xsaves, xfd = 1 << 3, 1 << 4
		p.Mask(0xd, 1, CPUIDRegisters{^uint32(xsaves | xfd), all, 0, 0})
	}
	return p
}

// clear makes a leaf one that is there and has nothing.
func (p *CPUIDPolicy) clear(leaf uint32) {
	if l := p.find(leaf); l != nil {
		*l = cpuidLeaf{}
	}
	p.settle()
}

// Defaults returns a Builder with a handler for every exit that has a ready one, wired as
// the Config says. It panics if the Config has no Capabilities.
func Defaults(c Config) *Builder {
	if c.Capabilities == nil {
		panic("vmexit: Defaults needs Config.Capabilities: vmcs.ReadCapabilities returns them")
	}
	if c.CPUID == nil {
		c.CPUID = SnapshotCPUID(vmcs.Processor{}).HideUnemulated()
	}
	if c.ControlRegisters == nil {
		c.ControlRegisters = NewControlRegisters(c.Capabilities, c.CPUID)
	}
	if c.TSC == nil {
		c.TSC = new(TSC)
	}
	if c.DebugRegisters == nil {
		c.DebugRegisters = &DebugRegisters{RTM: c.CPUID.Lookup(7, 0).EBX>>11&1 != 0}
	}
	if c.Ports == nil {
		c.Ports = NewPorts()
	}
	if c.MSRs == nil {
		c.MSRs = DefaultMSRs(c.CPUID, c.ControlRegisters, c.TSC)
	}
	if c.Memory != nil {
		if c.ControlRegisters.Memory == nil {
			c.ControlRegisters.Memory = c.Memory.Physical
		}
		if c.Ports.Memory == nil {
			c.Ports.Memory = c.Memory
		}
	}
	b := NewBuilder()
	for reason, h := range map[Basic]Handler{
		ExceptionOrNMI: exceptions(&c), ExternalInterrupt: interrupts(c.Interrupt), TripleFault: failWith(ErrTripleFault),
		SIPI: StartUp, InterruptWindow: window(c.Window, (*Exit).InterruptWindow), NMIWindow: window(c.Window, (*Exit).NMIWindow),
		TaskSwitch: failWith(ErrTaskSwitch), CPUID: c.CPUID.Handler(), HLT: Halted(c.Halt), INVD: Nothing, WBINVD: Nothing,
		INVLPG: InvalidatePage, INVPCID: c.Memory.INVPCID, RDPMC: PerformanceCounter(nil), RDTSC: c.TSC.RDTSC, RDTSCP: c.TSC.RDTSCP,
		CRAccess: c.ControlRegisters.Handle, MOVDR: c.DebugRegisters.Handle, IOInstruction: c.Ports.Handler(),
		RDMSR: c.MSRs.RDMSR(), WRMSR: c.MSRs.WRMSR(), XSETBV: c.CPUID.XSETBV, MWAIT: MonitorWait, MONITOR: ArmMonitor, PAUSE: Nothing,
		UMWAIT: TimedPause, TPAUSE: TimedPause, MonitorTrapFlag: Leave, PreemptionTimer: Leave, TPRBelowThreshold: GoOn,
		InvalidGuestState: EntryFailed(c.Capabilities), MSRLoading: EntryFailed(c.Capabilities), EntryMachineCheck: EntryFailed(nil),
		EPTViolation: Violation, EPTMisconfiguration: Violation,
	} {
		b.Handle(reason, h)
	}
	// What the guest's processor does not have, VMX with its hypervisor's calls first.
	for _, reason := range [...]Basic{
		VMCALL, VMCLEAR, VMLAUNCH, VMPTRLD, VMPTRST, VMREAD, VMRESUME, VMWRITE, VMXOFF, VMXON, INVEPT, INVVPID, VMFUNC,
		GETSEC, RSM, ENCLS, ENCLV, PCONFIG, LOADIWKEY, SEAMCALL, TDCALL,
		RDMSRLIST, WRMSRLIST, URDMSR, UWRMSR, RDMSRImmediate, WRMSRNSImmediate,
	} {
		b.Handle(reason, UndefinedOpcode)
	}
	if c.Memory != nil {
		b.Handle(GDTRIDTRAccess, c.Memory.DescriptorTables).Handle(LDTRTRAccess, c.Memory.SystemSegments)
	} else {
		b.Handle(GDTRIDTRAccess, failWith(errTables)).Handle(LDTRTRAccess, failWith(errTables))
	}
	for reason, seed := range map[Basic]bool{RDRAND: false, RDSEED: true} {
		next := c.Random
		if next == nil {
			next = nativeRandom(seed)
		}
		if next == nil {
			b.Handle(reason, UndefinedOpcode)
		} else {
			b.Handle(reason, RandomNumber(next))
		}
	}
	if c.Violation != nil {
		b.Handle(EPTViolation, c.Violation)
	}
	if c.Hypercall != nil {
		b.Handle(VMCALL, c.Hypercall)
	}
	return b
}

var errTables = errors.New("vmexit: descriptor-table exiting needs Config.Memory")

// DefaultMSRs is the policy of Defaults: the MSRs that a VMCS holds, IA32_EFER and the
// time-stamp counter are there, all others are not.
func DefaultMSRs(cpuid *CPUIDPolicy, cr *ControlRegisters, tsc *TSC) *MSRPolicy {
	p := NewMSRPolicy(DenyMSR())
	for _, msr := range [...]uint32{msrSysenterCS, msrSysenterESP, msrSysenterEIP, msrDebugCtl, msrPAT, msrFSBase, msrGSBase} {
		p.Set(msr, AllowMSR())
	}
	return p.Set(msrEFER, cr.EFER()).Set(msrTSC, tsc.MSR())
}
