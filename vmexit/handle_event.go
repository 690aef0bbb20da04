package vmexit

import (
	"errors"
	"fmt"

	"github.com/govtx/vtx/vmcs"
)

// Errors of exits that a guest should not cause, or that the hypervisor must be set up
// for.
var (
	ErrTaskSwitch   = errors.New("vmexit: the guest switches tasks by hardware, which is not emulated")
	ErrMachineCheck = errors.New("vmexit: machine check: it is the host's to handle")
	ErrNMI          = errors.New("vmexit: an NMI for the host has arrived: set Config.NMI, or run in ring 0")
	ErrAcknowledged = errors.New("vmexit: an interrupt for the host has been acknowledged by the VM exit: set Config.Interrupt, or clear the control \"acknowledge interrupt on exit\"")
)

// An EPTError is an EPT violation or misconfiguration that nobody handles.
type EPTError struct {
	Reason        Reason
	Qualification EPTViolationQualification // of EPT violations
	Physical      uint64                    // guest-physical address
	RIP           uint64
}

func (e *EPTError) Error() string {
	if e.Reason.Basic() == EPTMisconfiguration {
		return fmt.Sprintf("vmexit: EPT misconfiguration at guest-physical address %#x, RIP %#x: an EPT entry on the way there has a reserved value", e.Physical, e.RIP)
	}
	return fmt.Sprintf("vmexit: EPT violation at guest-physical address %#x, RIP %#x: %v: map the page, or set Config.Violation", e.Physical, e.RIP, e.Qualification)
}

// Violation is the handler of EPTViolation and EPTMisconfiguration exits that ends the
// run with an *[EPTError].
func Violation(x *Exit) Outcome {
	e := &EPTError{Reason: x.Reason(), Physical: x.PhysicalAddress(), RIP: x.Guest.RIP}
	if e.Reason.Basic() == EPTViolation {
		e.Qualification = EPTViolationQualification(x.Qualification())
	}
	return x.Fail(e)
}

// An EntryFailure is a VM entry that has loaded no guest: an exit with bit 31 of its
// reason set. Report says which rules the VMCS breaks.
type EntryFailure struct {
	Reason        Reason
	Qualification uint64
	Report        vmcs.Report
}

func (e *EntryFailure) Error() string {
	s := fmt.Sprintf("vmexit: %s (exit reason %#x)", e.Reason.Basic().SDMName(), uint32(e.Reason))
	if d := Describe(e.Reason, 0, e.Qualification); d != "" {
		s += ": " + d
	}
	if err := e.Report.Err(); err != nil {
		s += ": " + err.Error()
	}
	return s
}

// Unwrap returns what vmcs.Check has found, nil if nothing.
func (e *EntryFailure) Unwrap() error { return e.Report.Err() }

// EntryFailed returns the handler of the exits that are failed VM entries:
// InvalidGuestState, MSRLoading and EntryMachineCheck. It ends the run with an
// *[EntryFailure]. Without capabilities the VMCS is not checked.
func EntryFailed(c *vmcs.Capabilities) Handler {
	return func(x *Exit) Outcome {
		e := &EntryFailure{Reason: x.Reason(), Qualification: x.Qualification()}
		if c != nil {
			e.Report = vmcs.Check(x.VMCS, c)
		}
		return x.Fail(e)
	}
}

// StartUp is the handler of SIPI exits: the guest, which has waited for the start-up IPI,
// starts in real-address mode at the address that the vector gives (SDM Vol. 3A 9.4.4).
func StartUp(x *Exit) Outcome {
	q := SIPIQualification(x.Qualification())
	x.Write(vmcs.GuestCSSelector, uint64(q.Vector())<<8)
	x.Write(vmcs.GuestCSBase, uint64(q.Address()))
	x.Write(vmcs.GuestActivityState, 0)
	x.Guest.RIP = 0
	return Hold
}

// exceptions returns the handler of ExceptionOrNMI.
func exceptions(c *Config) Handler {
	nmi, d := c.NMI, c.DebugRegisters
	return func(x *Exit) Outcome {
		info, _ := x.Event()
		switch {
		case info.Valid() && info.Type() == vmcs.EventNMI:
			if nmi != nil {
				nmi(x)
			} else if !hostNMI() {
				return x.Fail(ErrNMI)
			}
			return x.Retry()
		case info.Vector() == vmcs.VectorMC && info.Type() == vmcs.EventHardwareException:
			return x.Fail(ErrMachineCheck)
		}
		return x.Reflect(d)
	}
}

// interrupts returns the handler of ExternalInterrupt. Without "acknowledge interrupt on
// exit" the host has taken the interrupt when Enter returns.
func interrupts(take func(*Exit, vmcs.Vector)) Handler {
	return func(x *Exit) Outcome {
		if info, _ := x.Event(); info.Valid() {
			if take == nil {
				return x.Fail(ErrAcknowledged)
			}
			take(x, info.Vector())
		}
		return Hold
	}
}

// window returns the handler of InterruptWindow or NMIWindow: it no longer asks for the
// window, and has the embedder use it.
func window(then Handler, ask func(*Exit, bool)) Handler {
	return func(x *Exit) Outcome {
		ask(x, false)
		if then != nil {
			return then(x)
		}
		return Hold
	}
}

// failWith returns a handler that ends the run with an error.
func failWith(err error) Handler { return func(x *Exit) Outcome { return x.Fail(err) } }
