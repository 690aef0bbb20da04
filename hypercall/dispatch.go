package hypercall

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// An Outcome is what became of a hypercall: what the embedder has to do next.
type Outcome uint8

// Outcomes.
const (
	// Done: the result is in the caller's registers. RIP goes behind the instruction.
	Done Outcome = iota
	// Again: RIP is held, so that the guest makes the call again once it had the
	// chance to take interrupts. The input value says how far a rep call has come.
	Again
	// UndefinedInstruction: #UD, with RIP held.
	UndefinedInstruction
	// MemoryFault: the caller's memory could not be accessed, as [Call.Fault] tells.
	// Registers are as they were, and RIP is held: the embedder sends the memory
	// intercept.
	MemoryFault
	// VTLCall and VTLReturn: the caller wants another trust level. Registers are as
	// they were. [Call.Word] has the input value, which must be the call code and
	// nothing else, and [Call.SwitchControl] the control input. Of what makes these
	// calls #UD only the processor's mode and privilege level are checked.
	VTLCall
	VTLReturn
	// Forward: the call is for the hypervisor below, see [Config.Nested]. Registers
	// are as they were.
	Forward

	numOutcomes
)

var outcomeNames = [numOutcomes]string{"done", "again", "#UD", "memory fault", "VTL call", "VTL return", "forward"}

// String returns the outcome's name.
func (o Outcome) String() string {
	if o < numOutcomes {
		return outcomeNames[o]
	}
	return fmt.Sprintf("Outcome(%d)", uint8(o))
}

// A Profile names whom the dispatcher follows where documents and implementations
// disagree.
type Profile uint8

// Profiles. They differ in this:
//
//	                                 ProfileTLFS         ProfileOpenVMM
//	a list crosses a page            INVALID_ALIGNMENT   INVALID_HYPERCALL_INPUT, which goes
//	                                                     before that of an address unaligned
//	lists overlap                    INVALID_ALIGNMENT   allowed
//	memory that is not there         MemoryFault         INVALID_HYPERCALL_INPUT
//	fast calls of 32-bit callers     parameters in XMM   no more than 16 bytes
//	fast calls with too much for     #UD                 INVALID_HYPERCALL_INPUT
//	what the caller is offered
//
// Guests rely on lists that overlap: Linux had them in get_vtl (arch/x86/hyperv/hv_init.c)
// and hv_vtl_apicid_to_vp_id (hv_vtl.c) until they were given pages of their own. Hyper-V
// let them pass.
const (
	ProfileTLFS    Profile = iota // the Top Level Functional Specification
	ProfileOpenVMM                // OpenVMM's hv1_hypercall, at the commit that doc.go names
)

// A Handler carries out the calls with one call code. SimpleFunc, RepFunc and their
// like make one of a function with typed parameters.
type Handler struct {
	Code Code

	// Layout is what the caller has to pass and to be allowed. All parameters are
	// checked against it, and at hand, before a handler runs.
	Layout Layout

	// Simple carries out a simple call. What it leaves in [Call.Output] is the
	// caller's if it returns StatusSuccess.
	Simple func(c *Call) Status

	// Rep carries out the elements of a rep call from first to before limit, in
	// this order, and returns how many it did. With another status than StatusSuccess
	// the call ends there: that is the status of the first element that was not
	// done. A handler may do fewer elements than it could, and return StatusSuccess;
	// the call is then made again.
	Rep func(c *Call, first, limit int) (done int, s Status)
}

// A Config is what a dispatcher has to know of the hypervisor.
type Config struct {
	Profile Profile

	// PhysicalBits is the width of guest-physical addresses; 0 is 52.
	PhysicalBits uint8

	// Nested tells that the hypervisor runs on another one: calls with the nested
	// bit come out as Forward. Otherwise there is none below this one, and the bit
	// makes no difference.
	Nested bool
}

// A service is a Handler as Dispatch needs it.
type service struct {
	short  Input      // what stands above the call code if the call can go the short way
	may    Input      // bits above the call code that can be 1
	needs  Privileges // of the partition
	simple func(c *Call) Status
	rep    func(c *Call, first, limit int) (done int, s Status)

	input, inputElement   uint16
	output, outputElement uint16
	slow                  bool
}

// never is what stands above no call code.
const never = ^Input(0)

// unknown is the service for codes that have no handler.
var unknown = &service{short: never}

// A Dispatcher carries out hypercalls. It does not change, and any number of processors
// can use it at once, each with a Call of its own.
//
// In which order conditions are checked is left open by the TLFS, as long as errors
// that tell less go first. Here it is:
//
//   - the processor's mode and privilege level (#UD)
//   - VTL call and return, which come out as such
//   - reserved bits of the input value (INVALID_HYPERCALL_INPUT)
//   - the nested bit, which may make it Forward
//   - the call code (INVALID_HYPERCALL_CODE)
//   - the partition's privileges (ACCESS_DENIED)
//   - rep count, rep start and variable header, of which each is 0 where there is
//     none, and start is below count (INVALID_HYPERCALL_INPUT)
//   - in a fast call: that there is a fast form, for this caller, and that it holds
//     parameters and results (INVALID_HYPERCALL_INPUT); that it is offered (#UD)
//   - in others: alignment, pages and bounds of parameters, then of results, then
//     that they do not overlap (INVALID_ALIGNMENT); that parameters can be read, and
//     that results can be written (MemoryFault)
//
// Whether hypercalls are enabled at all, by the guest's identity and the hypercall
// page, is for the embedder to check.
type Dispatcher struct {
	table   [256]*[256]*service // by the two halves of the call code
	limit   uint64              // first address beyond guest-physical memory
	profile Profile
	nested  bool
}

// NewDispatcher returns a Dispatcher with these handlers. Other calls are answered
// with StatusInvalidHypercallCode. It fails if a handler makes no sense, or contradicts
// what is known about its call.
func NewDispatcher(config Config, handlers ...Handler) (*Dispatcher, error) {
	const maxPhysicalBits = 52 // SDM Vol. 3A 4.1.4
	bits := config.PhysicalBits
	if bits == 0 {
		bits = maxPhysicalBits
	}
	d := &Dispatcher{limit: 1 << bits, profile: config.Profile, nested: config.Nested}
	var errs []error
	if bits > maxPhysicalBits || bits < 12 {
		errs = append(errs, fmt.Errorf("hypercall: guest-physical addresses cannot have %d bits: use 12 to %d", bits, maxPhysicalBits))
	}
	if config.Profile > ProfileOpenVMM {
		errs = append(errs, fmt.Errorf("hypercall: there is no Profile(%d): use ProfileTLFS or ProfileOpenVMM", config.Profile))
	}
	none := new([256]*service)
	for i := range none {
		none[i] = unknown
	}
	for i := range d.table {
		d.table[i] = none
	}
	for i := range handlers {
		h := &handlers[i]
		if err := h.check(); err != nil {
			errs = append(errs, err)
			continue
		}
		if d.find(h.Code) != unknown {
			errs = append(errs, fmt.Errorf("hypercall: %v has two handlers: keep one", h.Code))
			continue
		}
		page := &d.table[h.Code>>8]
		if *page == none {
			*page = new(*none)
		}
		(*page)[uint8(h.Code)] = h.service()
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return d, nil
}

// check returns what is wrong with a handler.
func (h *Handler) check() error {
	l := &h.Layout
	known, isKnown := h.Code.Layout()
	known.Privileges, known.SlowOnly = l.Privileges, l.SlowOnly // are the embedder's
	switch k := h.Code.Kind(); {
	case h.Code == CodeVtlCall || h.Code == CodeVtlReturn:
		return fmt.Errorf("hypercall: %v cannot have a handler: it is an Outcome of Dispatch", h.Code)
	case (h.Simple == nil) == (h.Rep == nil):
		return fmt.Errorf("hypercall: the handler of %v needs either Simple or Rep", h.Code)
	case k == Simple && h.Simple == nil || k == Rep && h.Rep == nil:
		return fmt.Errorf("hypercall: %v is a %v call: its handler must be one, too", h.Code, k)
	case h.Simple != nil && (l.InputElement != 0 || l.OutputElement != 0):
		return fmt.Errorf("hypercall: the layout of %v has elements: a simple call has none", h.Code)
	case h.Rep != nil && (l.Output != 0 || l.InputElement == 0 && l.OutputElement == 0):
		return fmt.Errorf("hypercall: the layout of %v must have elements and no output header: it is a rep call", h.Code)
	case max(l.Input, l.Output, l.InputElement, l.OutputElement) > pageSize:
		return fmt.Errorf("hypercall: the layout of %v does not fit in a page of %d bytes: it has %d, %d, %d and %d", h.Code, pageSize, l.Input, l.Output, l.InputElement, l.OutputElement)
	case isKnown && *l != known:
		return fmt.Errorf("hypercall: the layout of %v is %+v, not %+v", h.Code, known, *l)
	}
	return nil
}

func (h *Handler) service() *service {
	l := &h.Layout
	s := &service{
		short: never, needs: l.Privileges, simple: h.Simple, rep: h.Rep,
		input: l.Input, inputElement: l.InputElement, output: l.Output, outputElement: l.OutputElement,
		slow: l.SlowOnly,
	}
	s.may = InputFast | InputNested
	if h.Rep != nil {
		s.may |= inputReps
	}
	if l.Variable {
		s.may |= inputVariable
	}
	if h.Simple != nil && l.Input <= FastRegisters && l.Output == 0 && !l.SlowOnly {
		s.short = InputFast >> 16
	}
	return s
}

// find returns the service for a code.
func (d *Dispatcher) find(c Code) *service { return d.table[uint8(c>>8)][uint8(c)] }

// Dispatch carries out the hypercall that the caller's registers describe, and tells
// what is to be done then. It looks at the guest's registers and memory, which may hold
// anything, and at nothing else that a guest could have changed; it allocates nothing,
// takes no lock, and does no more than the Budget's elements of a rep call.
//
// It panics if Regs is nil, if there are parameters in memory and Memory is nil, or if a
// handler says that it did more elements than it was given.
func (d *Dispatcher) Dispatch(c *Call) Outcome {
	// Most calls that are made often have two parameters, no results, and nothing but
	// the code and the fast bit in the input value: for them everything that admit
	// checks comes to this.
	if r := c.Regs; c.Mode == Mode64 && c.CPL == 0 {
		w := Input(r[rcx])
		if s := d.find(w.Code()); w>>16 == s.short && s.needs&^c.Privileges == 0 {
			c.word, c.call = w, s
			binary.LittleEndian.PutUint64(c.in[:], r[rdx])
			binary.LittleEndian.PutUint64(c.in[8:], r[r8])
			status := s.simple(c)
			if c.held {
				c.held = false
				return Again
			}
			r[rax] = uint64(status)
			return Done
		}
	}
	return d.long(c)
}

// long is Dispatch for any call.
func (d *Dispatcher) long(c *Call) Outcome {
	o, status := d.admit(c)
	if o == Done && status == StatusSuccess {
		if o, status = d.gather(c); o == Done && status == StatusSuccess {
			if c.call.rep != nil {
				return d.repeat(c)
			}
			return d.once(c)
		}
	}
	return d.end(c, o, status, 0)
}

// once carries out a simple call that is admitted and gathered.
func (d *Dispatcher) once(c *Call) Outcome {
	p, o := &c.place, Done
	clear(c.out[:p.out])
	status := c.call.simple(c)
	if c.held {
		c.held = false
		return Again
	}
	if p.out > 0 && status == StatusSuccess {
		if c.word.Fast() {
			c.writeFast(p.outUnit, p.out)
		} else if !c.write(p.outGPA, c.out[:p.out]) {
			o, status = d.faulted()
		}
	}
	return d.end(c, o, status, 0)
}

// repeat carries out elements of a rep call that is admitted and gathered.
func (d *Dispatcher) repeat(c *Call) Outcome {
	s, w, p := c.call, c.word, &c.place
	size := int(s.outputElement)
	before := p.first * size // bytes of results of elements done earlier
	if c.results = 0; w.Fast() {
		// These may share a register with results to come.
		if c.results = before % FastRegisters; c.results != 0 {
			low, high := c.fastUnit(p.outUnit + before/FastRegisters)
			binary.LittleEndian.PutUint64(c.out[:], low)
			binary.LittleEndian.PutUint64(c.out[8:], high)
		}
	}
	most := p.limit - p.first
	clear(c.out[c.results : c.results+most*size])
	done, status := s.rep(c, p.first, p.limit)
	c.held = false // it has told by done
	if uint(done) > uint(most) {
		panic(fmt.Sprintf("hypercall: the handler of %v says that it did %d of %d elements", w.Code(), done, most))
	}
	if n := done * size; n > 0 {
		if w.Fast() {
			c.writeFast(p.outUnit+before/FastRegisters, c.results+n)
		} else if !c.write(p.outGPA+uint64(before), c.out[:n]) {
			o, status := d.faulted()
			return d.end(c, o, status, p.first)
		}
	}
	next := p.first + done
	c.setInputWord(w.WithRepStart(next))
	if status == StatusSuccess && next < w.RepCount() {
		return Again
	}
	return d.end(c, Done, status, next)
}

// end leaves the result with the caller if there is one.
func (d *Dispatcher) end(c *Call, o Outcome, s Status, reps int) Outcome {
	if o == Done {
		c.setResult(MakeResult(s, reps))
	}
	return o
}

// faulted says what becomes of a call with a fault.
func (d *Dispatcher) faulted() (Outcome, Status) {
	if d.profile == ProfileOpenVMM {
		return Done, StatusInvalidHypercallInput
	}
	return MemoryFault, StatusSuccess
}

// admit checks all that can be checked without the parameters.
func (d *Dispatcher) admit(c *Call) (Outcome, Status) {
	if c.CPL != 0 || c.Mode != Mode64 && c.Mode != Mode32 {
		return UndefinedInstruction, 0
	}
	w := c.inputWord()
	s := d.find(w.Code())
	c.word, c.call = w, s
	if s != unknown && w&^0xffff&^s.may == 0 && s.needs&^c.Privileges == 0 &&
		(s.rep == nil || w.RepStart() < w.RepCount()) && !(w.Nested() && d.nested) {
		return Done, StatusSuccess
	}
	return d.refuse(c)
}

// refuse tells what is wrong with a call that is not admitted, if it is wrong.
func (d *Dispatcher) refuse(c *Call) (Outcome, Status) {
	w, s := c.word, c.call
	switch {
	case w.Code() == CodeVtlCall:
		return VTLCall, 0
	case w.Code() == CodeVtlReturn:
		return VTLReturn, 0
	case w.Reserved() != 0:
		return Done, StatusInvalidHypercallInput
	case w.Nested() && d.nested:
		return Forward, 0
	case s == unknown:
		return Done, StatusInvalidHypercallCode
	case s.needs&^c.Privileges != 0:
		return Done, StatusAccessDenied
	}
	return Done, StatusInvalidHypercallInput
}

// units returns how many units of 16 bytes n bytes take.
func units(n int) int { return (n + FastRegisters - 1) / FastRegisters }

// gather finds where parameters and results are, checks that, and copies the parameters:
// the header, and the elements to be done now.
func (d *Dispatcher) gather(c *Call) (Outcome, Status) {
	w, s, p := c.word, c.call, &c.place
	header := int(s.input) + 8*w.VariableHeader()
	*p = place{in: header, out: int(s.output)}
	c.elements = header
	if s.rep != nil {
		n, budget := w.RepCount(), c.Budget
		if budget <= 0 {
			budget = DefaultBudget
		}
		p.in += n * int(s.inputElement)
		p.out = n * int(s.outputElement)
		p.first = w.RepStart()
		p.limit = min(n, p.first+budget)
	}
	if w.Fast() {
		p.outUnit = units(p.in)
		o, status := d.checkFast(c)
		if o == Done && status == StatusSuccess {
			c.readFast(p.in)
			c.elements += p.first * int(s.inputElement)
		}
		return o, status
	}
	p.inGPA, p.outGPA = c.parameters()
	if p.in > 0 {
		if status := d.checkList(p.inGPA, p.in); status != StatusSuccess {
			return Done, status
		}
	}
	if p.out > 0 {
		if status := d.checkOutput(p); status != StatusSuccess {
			return Done, status
		}
	}
	// The first elements stand behind the header, and are read with it.
	skip := p.first * int(s.inputElement)
	n := (p.limit - p.first) * int(s.inputElement)
	if skip == 0 {
		header += n
		n = 0
	}
	if header > 0 && !c.read(p.inGPA, c.in[:header]) ||
		n > 0 && !c.read(p.inGPA+uint64(header+skip), c.in[header:header+n]) ||
		p.out > 0 && !c.probe(p.outGPA, p.out) {
		return d.faulted()
	}
	return Done, StatusSuccess
}

// checkFast checks that registers hold the parameters and results of a call.
func (d *Dispatcher) checkFast(c *Call) (Outcome, Status) {
	p := &c.place
	refused := p.out > 0 && c.Mode != Mode64 || // results are in registers on x64 alone
		d.profile == ProfileOpenVMM && p.in > FastRegisters && c.Mode != Mode64
	if c.call.slow || refused || p.outUnit*FastRegisters+p.out > FastLimit {
		return Done, StatusInvalidHypercallInput
	}
	input := c.XMMInput && c.XMM != nil
	output := c.XMMOutput && c.XMM != nil
	if p.in > FastRegisters && !input || p.out > 0 && !output {
		if d.profile == ProfileOpenVMM {
			return Done, StatusInvalidHypercallInput
		}
		return UndefinedInstruction, 0
	}
	return Done, StatusSuccess
}

// checkOutput checks the address of results.
func (d *Dispatcher) checkOutput(p *place) Status {
	if s := d.checkList(p.outGPA, p.out); s != StatusSuccess {
		return s
	}
	if p.in > 0 && d.profile != ProfileOpenVMM && p.inGPA < p.outGPA+uint64(p.out) && p.outGPA < p.inGPA+uint64(p.in) {
		return StatusInvalidAlignment // they overlap
	}
	return StatusSuccess
}

// checkList checks the address of a list of n bytes, 1 or more.
func (d *Dispatcher) checkList(gpa uint64, n int) Status {
	across := gpa&pageMask+uint64(n) > pageSize
	if gpa%8 == 0 && !across && gpa < d.limit {
		return StatusSuccess
	}
	if d.profile == ProfileOpenVMM && (across || gpa%8 == 0) {
		return StatusInvalidHypercallInput
	}
	return StatusInvalidAlignment
}
