package vmexit

import (
	"github.com/govtx/vtx/asm"
	"github.com/govtx/vtx/vmcs"
)

// An Exit is the VM exit in hand of one virtual processor: its fields, read when
// they are asked for and then kept, the guest's registers, and what handlers
// usually do about it. There is one Exit for a virtual processor; [Dispatcher.Run] has
// it start over at each VM exit.
//
// A field that cannot be read, or written, is an error that [Exit.Err] returns and
// that ends the run; the method that met it returns 0.
type Exit struct {
	// Guest has the registers that the VMCS does not hold, and what Enter has
	// read: Reason, InstructionLength, RIP, RFLAGS, Interruptibility.
	Guest *asm.Guest

	// VMCS is the current VMCS: vmcs.Current{}, or a double in tests.
	VMCS vmcs.ReadWriter

	// Context is the embedder's, for handlers to find what belongs to this virtual
	// processor. The package does not look at it.
	Context any

	// CR8 is the guest's task priority, 0 to 15, if [ControlRegisters] has no hooks
	// for it.
	CR8 uint8

	state  state
	err    error
	buffer [16]byte // guest memory passes through here: on the stack it would escape

	qualification uint64
	linear        uint64
	physical      uint64
	information   uint32
	event         vmcs.InterruptionInfo
	eventCode     uint32
	vectoring     vmcs.InterruptionInfo
	vectoringCode uint32
}

// A state is what Run has to look at before it enters the guest again: which values the
// Exit has, and in bits 15:8 what else is to be done. It is mostly 0.
type state uint16

const (
	haveQualification state = 1 << iota
	haveLinear
	havePhysical
	haveInformation
	haveEvent
	haveVectoring

	flushShift       = 8
	failed     state = 1 << 15 // there is an error
	pending    state = 0xff00
)

// Begin starts over for the next VM exit: it forgets the fields of the last one.
// Run does so; only a run loop of one's own needs it.
func (x *Exit) Begin() { x.state &= pending }

// Reason returns the exit reason.
func (x *Exit) Reason() Reason { return Reason(x.Guest.Reason) }

// Err returns the first error that a method met since the run began.
func (x *Exit) Err() error { return x.err }

// Fail notes an error, unless there is one already, and returns Stop. It is for
// handlers: return x.Fail(err).
func (x *Exit) Fail(err error) Outcome {
	if x.err == nil {
		x.err = err
		x.state |= failed
	}
	return Stop
}

// Read reads a field of the VMCS.
func (x *Exit) Read(f vmcs.Field) uint64 {
	if _, ok := x.VMCS.(vmcs.Current); ok { // nearly always: spare the call by the interface
		if v, s := asm.VMREAD(uint32(f)); s == asm.Succeed {
			return v
		}
	}
	return x.read(f)
}

func (x *Exit) read(f vmcs.Field) uint64 {
	v, err := x.VMCS.Read(f)
	if err != nil {
		x.Fail(err)
		return 0
	}
	return v
}

// Write writes a field of the VMCS.
func (x *Exit) Write(f vmcs.Field, v uint64) {
	if err := x.VMCS.Write(f, v); err != nil {
		x.Fail(err)
	}
}

// Qualification returns the exit qualification.
func (x *Exit) Qualification() uint64 {
	if x.state&haveQualification == 0 {
		x.qualification = x.Read(vmcs.ExitQualification)
		x.state |= haveQualification
	}
	return x.qualification
}

// LinearAddress returns the guest-linear address, of the exits that have one
// (SDM Vol. 3C 28.2.1).
func (x *Exit) LinearAddress() uint64 {
	if x.state&haveLinear == 0 {
		x.linear = x.Read(vmcs.GuestLinearAddress)
		x.state |= haveLinear
	}
	return x.linear
}

// PhysicalAddress returns the guest-physical address, of EPT violations, EPT
// misconfigurations and SPP-related events.
func (x *Exit) PhysicalAddress() uint64 {
	if x.state&havePhysical == 0 {
		x.physical = x.Read(vmcs.GuestPhysicalAddress)
		x.state |= havePhysical
	}
	return x.physical
}

// Information returns the VM-exit instruction information.
func (x *Exit) Information() uint32 {
	if x.state&haveInformation == 0 {
		x.information = uint32(x.Read(vmcs.ExitInstructionInformation))
		x.state |= haveInformation
	}
	return x.information
}

// Event returns the VM-exit interruption information, and the error code, which is
// valid if the information says so: the exception, NMI or interrupt that caused the
// VM exit.
func (x *Exit) Event() (vmcs.InterruptionInfo, uint32) {
	if x.state&haveEvent == 0 {
		x.event = vmcs.InterruptionInfo(x.Read(vmcs.ExitInterruptionInformation))
		x.eventCode = uint32(x.Read(vmcs.ExitInterruptionErrorCode))
		x.state |= haveEvent
	}
	return x.event, x.eventCode
}

// Vectoring returns the IDT-vectoring information and error code: the event during
// whose delivery the VM exit took place. It is not valid if there was none.
func (x *Exit) Vectoring() (vmcs.InterruptionInfo, uint32) {
	if x.state&haveVectoring == 0 {
		x.vectoring = vmcs.InterruptionInfo(x.Read(vmcs.IDTVectoringInformation))
		x.vectoringCode = uint32(x.Read(vmcs.IDTVectoringErrorCode))
		x.state |= haveVectoring
	}
	return x.vectoring, x.vectoringCode
}

// Register returns a general register, RSP too.
func (x *Exit) Register(n int) uint64 {
	if n&15 == asm.RSP {
		return x.Read(vmcs.GuestRSP)
	}
	return x.Guest.Regs[n&15]
}

// SetRegister sets a general register, RSP too.
func (x *Exit) SetRegister(n int, v uint64) {
	if n&15 == asm.RSP {
		x.Write(vmcs.GuestRSP, v)
		return
	}
	x.Guest.Regs[n&15] = v
}

// CPL returns the guest's current privilege level: the DPL of SS.
func (x *Exit) CPL() int { return int(x.Read(vmcs.GuestSSAccessRights) >> 5 & 3) }

// Code64 tells whether the guest runs 64-bit code: CS.L in IA-32e mode.
func (x *Exit) Code64() bool {
	return x.Read(vmcs.VMEntryControls)&uint64(vmcs.EntryIA32eModeGuest) != 0 &&
		x.Read(vmcs.GuestCSAccessRights)&uint64(vmcs.RightsL) != 0
}

// Advance completes the instruction that caused the VM exit: RIP goes behind it,
// blocking by STI and by MOV SS ends, RFLAGS.RF is cleared, and if the guest is
// single-stepping, the debug trap for the instruction becomes pending. The exit must
// be one that leaves the instruction length (SDM Vol. 3C 28.2.5).
func (x *Exit) Advance() {
	g := x.Guest
	rip := g.RIP + uint64(g.InstructionLength)
	if uint32(rip) < g.InstructionLength && !x.Code64() {
		rip &= 0xffffffff // it has passed 4 GiB
	}
	g.RIP = rip
	x.setInterruptibility(g.Interruptibility &^ (vmcs.BlockingBySTI | vmcs.BlockingByMOVSS))
	if g.RFLAGS&asm.FlagRF != 0 {
		x.setFlags(g.RFLAGS &^ asm.FlagRF)
	}
	if g.RFLAGS&asm.FlagTF != 0 {
		x.trap()
	}
}

// setFlags sets RFLAGS, in the VMCS and as Enter has read them.
func (x *Exit) setFlags(v uint64) {
	if v != x.Guest.RFLAGS {
		x.Guest.RFLAGS = v
		x.Write(vmcs.GuestRFLAGS, v)
	}
}

// setInterruptibility sets the interruptibility state likewise.
func (x *Exit) setInterruptibility(v uint32) {
	if v != x.Guest.Interruptibility {
		x.Guest.Interruptibility = v
		x.Write(vmcs.GuestInterruptibilityState, uint64(v))
	}
}

// trap makes a single-step trap pending, unless IA32_DEBUGCTL.BTF makes branches
// the steps (SDM Vol. 3C 25.4.2, table 25-4: BS).
func (x *Exit) trap() {
	const btf, bs = 1 << 1, 1 << 14
	if x.Read(vmcs.GuestDebugCtl)&btf == 0 {
		x.Write(vmcs.GuestPendingDebugExceptions, x.Read(vmcs.GuestPendingDebugExceptions)|bs)
	}
}

// Inject raises an event in the guest at the next VM entry: information, error code
// and instruction length as in SDM Vol. 3C 25.8.3. It replaces an event that is to
// be injected already. See [Exit.Raise] for exceptions of handled instructions.
func (x *Exit) Inject(i vmcs.InterruptionInfo, code, length uint32) {
	x.Write(vmcs.EntryInterruptionInformation, uint64(i))
	if i.HasErrorCode() {
		x.Write(vmcs.EntryExceptionErrorCode, uint64(code))
	}
	if i.HasLength() {
		x.Write(vmcs.EntryInstructionLength, uint64(length))
	}
}

// Interrupt injects an external interrupt. It tells whether the guest can take it
// now: RFLAGS.IF is 1 and nothing blocks it. If not, nothing is injected; ask for an
// interrupt window.
func (x *Exit) Interrupt(v vmcs.Vector) bool {
	g := x.Guest
	if g.RFLAGS&asm.FlagIF == 0 || g.Interruptibility&(vmcs.BlockingBySTI|vmcs.BlockingByMOVSS) != 0 || x.Injecting() {
		return false
	}
	x.Inject(vmcs.EventInfo(vmcs.EventExternalInterrupt, v), 0, 0)
	return true
}

// NMI injects a non-maskable interrupt, if the guest can take one now. STI blocks NMIs
// on some processors only (SDM Vol. 2B, STI): if an NMI window opens with that
// blocking, it does not here, and is taken away, for injection may demand it (SDM Vol.
// 3C 27.3.1.5) and ends it anyway (27.7.1).
func (x *Exit) NMI() bool {
	state := x.Guest.Interruptibility
	if x.Reason().Basic() == NMIWindow {
		state &^= vmcs.BlockingBySTI
	}
	if state&(vmcs.BlockingBySTI|vmcs.BlockingByMOVSS|vmcs.BlockingByNMI) != 0 || x.Injecting() {
		return false
	}
	x.setInterruptibility(state)
	x.Inject(vmcs.EventInfo(vmcs.EventNMI, vmcs.VectorNMI), 0, 0)
	return true
}

// Injecting tells whether an event is to be injected at the next VM entry.
func (x *Exit) Injecting() bool {
	return vmcs.InterruptionInfo(x.Read(vmcs.EntryInterruptionInformation)).Valid()
}

// InterruptWindow asks for a VM exit as soon as the guest can take an external
// interrupt, or no longer asks for it.
func (x *Exit) InterruptWindow(on bool) { x.primary(vmcs.PrimaryInterruptWindowExiting, on) }

// NMIWindow asks for a VM exit as soon as the guest can take an NMI, or no longer
// asks for it. It needs the control "virtual NMIs".
func (x *Exit) NMIWindow(on bool) { x.primary(vmcs.PrimaryNMIWindowExiting, on) }

func (x *Exit) primary(bit vmcs.PrimaryControls, on bool) {
	old := vmcs.PrimaryControls(x.Read(vmcs.PrimaryProcessorBasedControls))
	v := old &^ bit
	if on {
		v |= bit
	}
	if v != old && x.err == nil {
		x.Write(vmcs.PrimaryProcessorBasedControls, uint64(v))
	}
}

// A Flush is what must be invalidated before the guest goes on.
type Flush uint8

// What can be invalidated. They add up.
const (
	// FlushLinear: linear and combined mappings of the guest's VPID (INVVPID,
	// single context). Without VPIDs each VM entry does it by itself.
	FlushLinear Flush = 1 << iota
	// FlushPhysical: guest-physical and combined mappings of the EPT pointer
	// (INVEPT, single context).
	FlushPhysical
)

// RequestFlush asks for an invalidation before the next VM entry.
func (x *Exit) RequestFlush(f Flush) {
	x.state |= state(f&(FlushLinear|FlushPhysical)) << flushShift
}

// Flushes returns what is to be invalidated, and forgets it.
func (x *Exit) Flushes() Flush {
	const mask = state(FlushLinear|FlushPhysical) << flushShift
	f := Flush(x.state & mask >> flushShift)
	x.state &^= mask
	return f
}
