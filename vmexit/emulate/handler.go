package emulate

import (
	"errors"
	"fmt"

	"github.com/govtx/vtx/vmcs"
	"github.com/govtx/vtx/vmexit"
)

// Of gives the Emulator of the processor that an exit is of. Processors that share a
// dispatcher need one each.
type Of func(*vmexit.Exit) *Emulator

// Violations returns the handler of EPT violations that carries out the instruction, as
// [Emulator.Step] does, with what it touches in the Device. Exceptions of the
// instruction are injected, combined with nothing: a violation during the delivery of
// an event, or by an access to the guest's paging structures, is not an access of an
// instruction, and ends the run with a *[vmexit.EPTError]. So does an instruction that
// is not known end it, with its *[DecodeError].
//
// EPT violations for pages that are to be mapped come here too: put a handler for them
// above, and let it pass the others on.
func Violations(of Of) vmexit.Handler {
	return func(x *vmexit.Exit) vmexit.Outcome {
		q := vmexit.EPTViolationQualification(x.Qualification())
		if event, _ := x.Vectoring(); event.Valid() || !q.Translation() {
			return vmexit.Violation(x)
		}
		e := of(x)
		if _, ok := e.Memory.(TableUpdater); !ok {
			e.Operand(x)
		}
		o, err := e.Violation(x)
		if err != nil {
			return x.Fail(fmt.Errorf("%w: %w", ErrViolation, err))
		}
		return o
	}
}

// Violation carries out the instruction whose access has caused an EPT violation, for
// handlers other than [Violations], which have seen already that it is of such an access.
// Call Operand before, where it may be called. Violation reads the guest's state, calls
// Step, and brings back what came of it, an exception too. The error is that of Step; any
// other has made the run fail.
func (e *Emulator) Violation(x *vmexit.Exit) (vmexit.Outcome, error) {
	s := &e.state
	s.Regs = &x.Guest.Regs
	if err := s.Read(x.VMCS); err != nil {
		return x.Fail(err), nil
	}
	s.RIP = x.Guest.RIP
	r, err := e.Step(s)
	if err != nil {
		return vmexit.Stop, err
	}
	if err := s.Write(x.VMCS); err != nil {
		return x.Fail(err), nil
	}
	x.Guest.RFLAGS = s.RFLAGS
	switch r.Action {
	case Advance:
		x.Guest.InstructionLength = uint32(r.Length)
		return vmexit.Resume, nil
	case Repeat:
		return vmexit.Hold, nil
	}
	event := r.Exception.Event
	if event.Info.Vector() == vmcs.VectorPF {
		return x.RaisePageFault(r.Exception.Address, event.ErrorCode), nil
	}
	return x.Raise(event.Info.Vector(), event.ErrorCode), nil
}

// Operand tells Step or Violation, which is to be called next, of the translation that the processor has
// made before an EPT violation: of the operand whose access has caused it. Step does not walk
// for accesses of that kind to that page, nor does it set flags of the entries that map it: leave
// the call out where Memory is a TableUpdater. For other EPT violations, of page walks
// and fetches, it does nothing.
func (e *Emulator) Operand(x *vmexit.Exit) {
	q := vmexit.EPTViolationQualification(x.Qualification())
	if !q.Translation() || q.Fetch() {
		return
	}
	a := Read
	if q.Write() {
		a = Write
	}
	e.translations[a] = translation{x.LinearAddress() >> 12, x.PhysicalAddress() &^ pageMask, true}
}

// ErrViolation is what an EPT violation ends the run with that Violations cannot handle,
// apart from the cause.
var ErrViolation = errors.New("emulate: an EPT violation cannot be emulated")

// Memory returns a guest's memory for the ready handlers that read and write it at
// linear addresses, such as those of string I/O.
func (of Of) Memory(physical Memory) *vmexit.GuestMemory {
	return &vmexit.GuestMemory{Physical: physical, Translate: of.translate}
}

func (of Of) translate(x *vmexit.Exit, linear uint64, write bool) (gpa uint64, code uint32, ok bool, err error) {
	e := of(x)
	s := &e.state
	s.Regs = &e.regs // the guest's are not to be touched
	if err := s.Read(x.VMCS); err != nil {
		return 0, 0, false, err
	}
	access := Read
	if write {
		access = Write
	}
	gpa, err = e.Walker.Translate(s, linear, access)
	if exception, raised := err.(*Exception); raised {
		return 0, exception.Event.ErrorCode, false, nil
	}
	return gpa, 0, err == nil, err
}
