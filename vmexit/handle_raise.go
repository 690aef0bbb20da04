package vmexit

import (
	"errors"

	"github.com/govtx/vtx/asm"
	"github.com/govtx/vtx/vmcs"
)

// Bits of DR7 and IA32_DEBUGCTL (SDM Vol. 3B 18.2, 18.4.1).
const (
	dr7GD       = 1 << 13
	debugCtlLBR = 1 << 0
)

// ErrTripleFault says that the guest has met an exception while a double fault was
// being delivered: a processor shuts down then, and most machines reset.
var ErrTripleFault = errors.New("vmexit: triple fault: the guest cannot go on; reset it")

// Raise makes the guest take an exception as if the instruction that has caused the
// VM exit had raised it, and returns Hold: return x.Raise(vmcs.VectorGP, 0). The
// error code is left out where the guest has none: for vectors without, and in
// real-address mode. For #PF use [Exit.RaisePageFault], for #DB [Exit.RaiseDebug].
//
// If the exit took place while an event was being delivered, that and the exception
// become a double fault or, with [ErrTripleFault] and Stop, a triple fault
// (SDM Vol. 3A table 6-5). An NMI or interrupt whose delivery met a benign exception
// is lost, unless the handler keeps it: see [Interrupted].
func (x *Exit) Raise(v vmcs.Vector, code uint32) Outcome {
	return x.raise(vmcs.InjectException(v, code))
}

// RaisePageFault is Raise for #PF: it sets CR2 to the linear address.
func (x *Exit) RaisePageFault(linear uint64, code uint32) Outcome {
	info, vectoring := x.Vectoring()
	e, c := Combine(vmcs.Event{Info: info, ErrorCode: vectoring}, vmcs.InjectException(vmcs.VectorPF, code))
	if c != Shutdown {
		x.Guest.CR2 = linear // a processor writes it even if #DF comes of it
	}
	return x.inject(e, c)
}

// RaiseDebug is Raise for #DB: the cause says what DR6 is to tell. An injected #DB
// does by itself not change DR6, DR7.GD and IA32_DEBUGCTL.LBR (SDM Vol. 3C 27.6.1.1).
func (x *Exit) RaiseDebug(d *DebugRegisters, cause DebugQualification) Outcome {
	d.debug(x, cause)
	return x.Raise(vmcs.VectorDB, 0)
}

func (x *Exit) raise(second vmcs.Event) Outcome {
	info, code := x.Vectoring()
	return x.inject(Combine(vmcs.Event{Info: info, ErrorCode: code}, second))
}

// inject injects what has become of a fault. The processor pushes RFLAGS with RF set
// for faults other than #DB, so that the instruction's breakpoint does not strike
// twice (SDM Vol. 3B 18.3.1.1); VM entry pushes RFLAGS as it is in the VMCS.
func (x *Exit) inject(e vmcs.Event, c Combination) Outcome {
	if c == Shutdown {
		return x.Fail(ErrTripleFault)
	}
	x.flagFault(e)
	x.injectEvent(e)
	return Hold
}

func (x *Exit) flagFault(e vmcs.Event) {
	if v := e.Info.Vector(); e.Info.Type() == vmcs.EventHardwareException && v != vmcs.VectorDB && v != vmcs.VectorDF && v != vmcs.VectorMC {
		x.setFlags(x.Guest.RFLAGS | asm.FlagRF)
	}
}

// injectEvent injects an event, without error code if the guest is in real-address
// mode (SDM Vol. 3C 27.2.1.3).
func (x *Exit) injectEvent(e vmcs.Event) {
	if e.Info.HasErrorCode() && x.Read(vmcs.GuestCR0)&asm.CR0PE == 0 {
		e = e.WithoutErrorCode()
	}
	x.Inject(e.Info, e.ErrorCode, e.Length)
}

// Reflect gives the guest the exception that has caused the VM exit, and returns
// Hold: the handler of ExceptionOrNMI for exceptions that the hypervisor does not want.
// It does what the VM exit has kept the processor from doing: #PF sets CR2, #DB sets
// DR6 and clears DR7.GD and IA32_DEBUGCTL.LBR. The exception is combined with an event
// that was being delivered, as by Raise.
func (x *Exit) Reflect(d *DebugRegisters) Outcome {
	info, code := x.Event()
	e, ok := EventOf(info, code, x.Guest.InstructionLength)
	if !ok || !e.Info.Type().IsException() {
		return Unhandled(x)
	}
	first, firstCode := x.Vectoring()
	e, c := Combine(vmcs.Event{Info: first, ErrorCode: firstCode}, e)
	switch {
	case c == Shutdown:
		return x.Fail(ErrTripleFault)
	case info.Vector() == vmcs.VectorPF && info.Type() == vmcs.EventHardwareException:
		x.Guest.CR2 = x.Qualification()
	case info.Vector() == vmcs.VectorDB && e.Info.Vector() == vmcs.VectorDB:
		d.debug(x, DebugQualification(x.Qualification()))
	}
	x.flagFault(e) // the exit should have saved RFLAGS so (28.3.3), but Bochs does not
	x.injectEvent(e)
	return Hold
}

// Retry returns Hold for an exit whose cause the handler has removed, so that the
// instruction runs again: an event that was being delivered is delivered again, and
// if an IRET had ended the blocking of NMIs before the exit, NMIs are blocked until
// it has run.
func (x *Exit) Retry() Outcome {
	info, code := x.Vectoring()
	if d, ok := Interrupted(info, code, x.Guest.InstructionLength); ok {
		if d.UnblockNMI {
			x.setInterruptibility(x.Guest.Interruptibility &^ vmcs.BlockingByNMI)
		}
		x.injectEvent(d.Event)
		return Hold
	}
	var event vmcs.InterruptionInfo
	var qualification uint64
	switch x.Reason().Basic() {
	case ExceptionOrNMI:
		event, _ = x.Event()
	case EPTViolation, PMLFull, SPPEvent, InstructionTimeout:
		qualification = x.Qualification()
	}
	if NMIUnblocking(x.Reason(), event, info, qualification) && x.nmisBlock() {
		x.setInterruptibility(x.Guest.Interruptibility | vmcs.BlockingByNMI)
	}
	return Hold
}

// nmisBlock tells whether the blocking of NMIs by IRET concerns the guest: not if NMIs
// exit and are not virtual (SDM Vol. 3C 28.2.3).
func (x *Exit) nmisBlock() bool {
	pin := vmcs.PinControls(x.Read(vmcs.PinBasedControls))
	return pin&(vmcs.PinNMIExiting|vmcs.PinVirtualNMIs) != vmcs.PinNMIExiting
}

// guestCR0 and guestCR4 return what the guest reads from CR0 and CR4.
func (x *Exit) guestCR0() uint64 {
	m := vmcs.CRMask{Mask: x.Read(vmcs.CR0GuestHostMask), Shadow: x.Read(vmcs.CR0ReadShadow)}
	return m.Read(x.Read(vmcs.GuestCR0))
}

func (x *Exit) guestCR4() uint64 {
	m := vmcs.CRMask{Mask: x.Read(vmcs.CR4GuestHostMask), Shadow: x.Read(vmcs.CR4ReadShadow)}
	return m.Read(x.Read(vmcs.GuestCR4))
}

// guestCR4Has tells whether the guest reads a bit of CR4 as 1.
func (x *Exit) guestCR4Has(bit uint64) bool {
	f := vmcs.GuestCR4
	if x.Read(vmcs.CR4GuestHostMask)&bit != 0 {
		f = vmcs.CR4ReadShadow
	}
	return x.Read(f)&bit != 0
}

// longMode tells whether the guest is in IA-32e mode.
func (x *Exit) longMode() bool {
	return x.Read(vmcs.VMEntryControls)&uint64(vmcs.EntryIA32eModeGuest) != 0
}

// secondary returns the secondary controls; 0 if they are not activated.
func (x *Exit) secondary() vmcs.SecondaryControls {
	if vmcs.PrimaryControls(x.Read(vmcs.PrimaryProcessorBasedControls))&vmcs.PrimaryActivateSecondaryControls == 0 {
		return 0
	}
	return vmcs.SecondaryControls(x.Read(vmcs.SecondaryProcessorBasedControls))
}

// edxEAX and setEDXEAX are the pair of registers that RDMSR, RDTSC and others use.
func (x *Exit) edxEAX() uint64 {
	return x.Guest.Regs[asm.RDX]<<32 | x.Guest.Regs[asm.RAX]&0xffffffff
}

func (x *Exit) setEDXEAX(v uint64) {
	g := x.Guest
	g.Regs[asm.RAX] = v & 0xffffffff
	g.Regs[asm.RDX] = v >> 32
}
