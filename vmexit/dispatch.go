package vmexit

import (
	"errors"
	"fmt"

	"github.com/govtx/vtx/asm"
	"github.com/govtx/vtx/vmcs"
)

// An Outcome is what a handler wants to be done next.
type Outcome uint8

// Outcomes.
const (
	// Resume: the instruction is done. Run advances RIP behind it and enters the
	// guest.
	Resume Outcome = iota
	// Hold: Run enters the guest where RIP is, because the instruction is to run
	// again, an event is injected, or the exit was not caused by one.
	Hold
	// Stop: Run returns, with the error of [Exit.Fail] or nil.
	Stop
)

// String returns the outcome's name.
func (o Outcome) String() string {
	switch o {
	case Resume:
		return "resume"
	case Hold:
		return "hold"
	case Stop:
		return "stop"
	}
	return fmt.Sprintf("Outcome(%d)", uint8(o))
}

// A Handler handles a VM exit.
type Handler func(*Exit) Outcome

// A Layer puts something round handlers: it is given the basic exit reason, or
// [AnyReason] for the fallback, and the handler below, and returns the handler to
// take its place.
type Layer func(b Basic, below Handler) Handler

// AnyReason stands for the reasons that have no handler of their own.
const AnyReason Basic = 0xffff

// A Builder puts a Dispatcher together, from the bottom up: what comes later is
// above what came before.
type Builder struct {
	table    [NumBasic]Handler
	fallback Handler
}

// NewBuilder returns a Builder without handlers. What has none ends the run with an
// [UnhandledError].
func NewBuilder() *Builder { return &Builder{fallback: Unhandled} }

// Handle sets the handler for a basic exit reason, in place of one that is there.
// AnyReason sets the fallback. It panics if there is no such reason: that is the
// program's mistake, not the guest's.
func (b *Builder) Handle(reason Basic, h Handler) *Builder {
	switch {
	case reason == AnyReason:
		b.fallback = h
	case reason < NumBasic:
		b.table[reason] = h
	default:
		panic(fmt.Sprintf("vmexit: there is no exit reason %d", reason))
	}
	return b
}

// Below returns the handler that there is for a basic exit reason so far; the
// fallback, if it has none of its own. A handler above can pass exits on to it.
func (b *Builder) Below(reason Basic) Handler {
	if reason < NumBasic && b.table[reason] != nil {
		return b.table[reason]
	}
	return b.fallback
}

// Over puts a layer over a basic exit reason: Handle of what the layer makes of
// Below.
func (b *Builder) Over(reason Basic, l Layer) *Builder {
	return b.Handle(reason, l(reason, b.Below(reason)))
}

// OverAll puts a layer over every reason and the fallback.
func (b *Builder) OverAll(l Layer) *Builder {
	for r := range Basic(NumBasic) {
		b.table[r] = l(r, b.Below(r))
	}
	b.fallback = l(AnyReason, b.fallback)
	return b
}

// Build returns the Dispatcher. The Builder can go on; what is built stays as it
// is.
func (b *Builder) Build() *Dispatcher {
	d := new(Dispatcher)
	for r := range d.table {
		d.table[r] = b.Below(Basic(r))
	}
	return d
}

// A Dispatcher calls the handler of a VM exit. It does not change, and any number of
// processors can use it at once.
//
// Its table has a handler, which may be the fallback, for each value of the low byte of
// the reason, so that no index is out of bounds; reasons with more than that byte are
// looked for before.
type Dispatcher struct {
	table [256]Handler
}

const (
	beyondTable = 0xff00 // bits of the basic reason
	noReason    = 0xff   // a place in the table that has the fallback
)

// There is a place for the fallback.
const _ = uint(noReason - NumBasic)

// Dispatch calls the handler for the exit in hand, and returns what it says. It does
// not advance RIP.
func (d *Dispatcher) Dispatch(x *Exit) Outcome { return d.table[index(x.Guest.Reason)](x) }

// index returns the place in the table for an exit reason.
func index(reason uint32) uint8 {
	if reason&beyondTable != 0 {
		return noReason
	}
	return uint8(reason)
}

// Run enters the guest and dispatches its exits until a handler says Stop or a
// method of Exit meets an error, which it returns. An *[EntryError] says that the
// guest could not be entered.
//
// The caller has the VMCS of x current and the thread locked; see
// [asm.Guest.Enter]. Run allocates nothing.
//
// A handler that makes another VMCS the current one sets x.Guest to that one's guest and
// returns Hold: then Run enters that guest.
func (d *Dispatcher) Run(x *Exit) error {
	if err := x.begin(); err != nil {
		return err
	}
	table := &d.table
	for {
		if x.Guest.Enter() != asm.Succeed {
			return entryError()
		}
		b := x.Guest.Reason // from here as in Dispatch, without the call
		if b >= uint32(len(table)) {
			b = uint32(index(b))
		}
		if o := table[uint8(b)](x); o == Resume {
			// Advance, with its usual case here.
			g := x.Guest
			const below = 0xfffffff0 // 0 if RIP may have passed 4 GiB
			rip := g.RIP + uint64(g.InstructionLength)
			if uint32(rip)&below == 0 || uint32(g.RFLAGS)&(asm.FlagTF|asm.FlagRF) != 0 || g.Interruptibility != 0 {
				x.Advance()
			} else if g.RIP = rip; x.state == 0 {
				continue
			}
		} else if o != Hold {
			return x.err
		}
		if x.state != 0 {
			if err := x.settle(); err != nil {
				return err
			}
		}
	}
}

// begin starts a run. What an earlier one has left to be invalidated still is.
func (x *Exit) begin() error {
	x.err = nil
	x.state &= pending &^ failed
	return x.settle()
}

// settle does what is to be done before the guest goes on. Inlined, it would cost the
// usual case instructions.
//
//go:noinline
func (x *Exit) settle() error {
	if x.state&pending != 0 {
		x.flush()
	}
	x.state = 0
	return x.err
}

// entryError returns the error of a VM entry that has failed, as the VMCS tells it: with
// a current VMCS the failure is VMfailValid.
func entryError() error {
	s := asm.FailInvalid
	if _, read := asm.VMREAD(uint32(vmcs.VMInstructionErrorNumber)); read == asm.Succeed {
		s = asm.FailValid
	}
	return &EntryError{Status: s, Err: vmcs.StatusError(s)}
}

// flush carries out the invalidations that were asked for.
func (x *Exit) flush() {
	f := x.Flushes()
	if f == 0 {
		return
	}
	const singleContext = 1
	secondary := vmcs.SecondaryControls(0)
	if vmcs.PrimaryControls(x.Read(vmcs.PrimaryProcessorBasedControls))&vmcs.PrimaryActivateSecondaryControls != 0 {
		secondary = vmcs.SecondaryControls(x.Read(vmcs.SecondaryProcessorBasedControls))
	}
	if f&FlushLinear != 0 && secondary&vmcs.SecondaryEnableVPID != 0 {
		if s := asm.INVVPID(singleContext, &[2]uint64{x.Read(vmcs.VPID), 0}); s != asm.Succeed {
			x.Fail(fmt.Errorf("vmexit: INVVPID, single context: %w", vmcs.StatusError(s)))
		}
	}
	if f&FlushPhysical != 0 && secondary&vmcs.SecondaryEnableEPT != 0 {
		if s := asm.INVEPT(singleContext, &[2]uint64{x.Read(vmcs.EPTPointer), 0}); s != asm.Succeed {
			x.Fail(fmt.Errorf("vmexit: INVEPT, single context: %w", vmcs.StatusError(s)))
		}
	}
}

// An EntryError says that VMLAUNCH or VMRESUME failed, so that the guest did not
// run. vmcs.Check may tell why.
type EntryError struct {
	Status asm.Status
	Err    error // a vmcs.InstructionError, or vmcs.ErrNoCurrent
}

func (e *EntryError) Error() string { return fmt.Sprintf("vmexit: VM entry: %v: %v", e.Status, e.Err) }

// Unwrap returns the cause.
func (e *EntryError) Unwrap() error { return e.Err }

// ErrUnhandled is what an UnhandledError is.
var ErrUnhandled = errors.New("no handler for the VM exit")

// An UnhandledError describes a VM exit that nobody handles.
type UnhandledError struct {
	Reason        Reason
	Qualification uint64
	RIP           uint64
}

func (e *UnhandledError) Error() string {
	return fmt.Sprintf("vmexit: %v: %v (%#x) at RIP %#x, exit qualification %#x", ErrUnhandled, e.Reason, uint32(e.Reason), e.RIP, e.Qualification)
}

// Is makes the error an ErrUnhandled.
func (e *UnhandledError) Is(target error) bool { return target == ErrUnhandled }

// Unhandled is the handler that ends the run with an [UnhandledError].
func Unhandled(x *Exit) Outcome {
	return x.Fail(&UnhandledError{x.Reason(), x.Qualification(), x.Guest.RIP})
}
