package hypercall

import (
	"encoding/binary"
	"fmt"
)

// A Mode is what the hypervisor has to know of the mode of the processor that makes
// a hypercall (TLFS, "Hypercall Interface", legal hypercall environments and register
// conventions).
type Mode uint8

// Modes.
const (
	ModeReal Mode = iota // no protected mode: hypercalls are #UD
	Mode32               // protected mode, or 64-bit mode's compatibility mode: pairs of 32-bit registers
	Mode64               // 64-bit mode
)

// ModeOf returns the mode that CR0.PE, IA32_EFER.LMA and CS.L of a processor make.
// Virtual-8086 mode needs no Mode of its own, because its CPL is 3.
func ModeOf(protected, longActive, longCode bool) Mode {
	switch {
	case !protected:
		return ModeReal
	case longActive && longCode:
		return Mode64
	}
	return Mode32
}

// String returns the mode's name.
func (m Mode) String() string {
	switch m {
	case ModeReal:
		return "real"
	case Mode32:
		return "32-bit"
	case Mode64:
		return "64-bit"
	}
	return fmt.Sprintf("Mode(%d)", uint8(m))
}

// Indices of general registers, in the order of their numbers in instructions.
const (
	rax = iota
	rcx
	rdx
	rbx
	rsp
	rbp
	rsi
	rdi
	r8
)

// DefaultBudget is how many elements of a rep call are done at once if nothing else is
// said.
const DefaultBudget = 64

// A Call is the hypercall in hand of one virtual processor: the registers that it is
// made with, and its parameters and results. There is one Call for a virtual
// processor, which [Dispatcher.Dispatch] uses for one hypercall after the other; it
// must not be copied, and is large, because parameters are copied into it before
// anything looks at them: what the guest changes meanwhile has no effect.
//
// The exported fields are the embedder's to set.
type Call struct {
	// Regs are the caller's general registers RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI,
	// R8 to R15, as in asm.Guest. Calls read them and leave their result there.
	Regs *[16]uint64

	// XMM are the caller's XMM0 to XMM5, each its low and then its high half. They
	// can be nil if neither XMMInput nor XMMOutput is set.
	XMM *[6][2]uint64

	// Memory is the caller's memory.
	Memory Memory

	// Context is the embedder's, for handlers to find what belongs to this virtual
	// processor. The package does not look at it.
	Context any

	// Privileges are those of the caller's partition.
	Privileges Privileges

	// Budget is how many elements of a rep call are done before the guest has its
	// turn again: 1 or more. 0 is [DefaultBudget].
	Budget int

	Mode Mode  // the processor's mode
	CPL  uint8 // its privilege level, 0 to 3
	VTL  VTL   // the trust level that calls. The package does not look at it

	// XMMInput and XMMOutput tell that the caller is offered fast calls with
	// parameters and results in XMM registers: CPUID leaf 0x40000003, EDX bits 4
	// and 15.
	XMMInput, XMMOutput bool

	held     bool // a handler has called Hold
	word     Input
	call     *service
	elements int // where in in the first element is that is there
	results  int // where in out its results are
	place    place
	fault    Fault
	in, out  [pageSize]byte
}

// A place is where parameters and results of a call are.
type place struct {
	in, out       int    // bytes of all parameters, and of all results
	inGPA, outGPA uint64 // in memory
	outUnit       int    // in registers: the first 16 bytes that results are in
	first, limit  int    // elements to be done now
}

// Word returns the hypercall input value.
func (c *Call) Word() Input { return c.word }

// Code returns the call code.
func (c *Call) Code() Code { return c.word.Code() }

// Header returns the call's input header without its variable part: as many bytes
// as its Layout says. It is valid until the handler returns, like everything that
// the following methods return.
func (c *Call) Header() []byte { return c.in[:c.call.input] }

// VariableHeader returns the variable part of the input header, a multiple of 8
// bytes, none if the call takes no such part.
func (c *Call) VariableHeader() []byte {
	n := int(c.call.input)
	return c.in[n : n+8*c.word.VariableHeader()]
}

// Element returns an element of a rep call's input list. The index is one that the
// handler was given.
func (c *Call) Element(index int) []byte {
	n := int(c.call.inputElement)
	at := c.elements + (index-c.place.first)*n
	return c.in[at : at+n]
}

// Elements returns all elements of a rep call's input list that are to be done now, one
// behind the other.
func (c *Call) Elements() []byte {
	n := (c.place.limit - c.place.first) * int(c.call.inputElement)
	return c.in[c.elements : c.elements+n]
}

// Output returns where a simple call's results go: as many bytes as its Layout says.
// They are the guest's once the handler has returned StatusSuccess.
func (c *Call) Output() []byte { return c.out[:c.call.output] }

// OutputElement returns where the results of one element of a rep call go. They are
// the guest's once the handler has returned with this element done.
func (c *Call) OutputElement(index int) []byte {
	n := int(c.call.outputElement)
	at := c.results + (index-c.place.first)*n
	return c.out[at : at+n]
}

// Hold tells that a simple call cannot be completed yet: it has no results, and the
// guest is to make it again, because its RIP is held. Handlers return what Hold
// returns. A handler of a rep call says so by doing fewer elements than it could.
func (c *Call) Hold() Status {
	c.held = true
	return StatusSuccess
}

// Fault returns what was wrong with the caller's memory, after the outcome MemoryFault.
// It is overwritten by the next one.
func (c *Call) Fault() *Fault { return &c.fault }

// SwitchControl returns the control input of a VTL call or return, after the outcome
// VTLCall or VTLReturn: RAX, in 32-bit mode ECX, where the code in the hypercall page
// puts what its caller gives in RCX, in 32-bit mode in EDX:EAX (TLFS, "Virtual Secure
// Mode", VTL call).
func (c *Call) SwitchControl() uint64 {
	if c.Mode == Mode64 {
		return c.Regs[rax]
	}
	return uint64(uint32(c.Regs[rcx]))
}

// pair returns the 64 bits in a pair of 32-bit registers.
func (c *Call) pair(high, low int) uint64 {
	return c.Regs[high]<<32 | uint64(uint32(c.Regs[low]))
}

func (c *Call) setPair(high, low int, v uint64) {
	c.Regs[high], c.Regs[low] = v>>32, uint64(uint32(v))
}

// The three words of a call: the input value, and two that are the addresses of
// parameters and results, or in a fast call the first parameters (TLFS, "Hypercall
// Interface", register conventions).

func (c *Call) inputWord() Input {
	if c.Mode == Mode64 {
		return Input(c.Regs[rcx])
	}
	return Input(c.pair(rdx, rax))
}

func (c *Call) setInputWord(w Input) {
	if c.Mode == Mode64 {
		c.Regs[rcx] = uint64(w)
	} else {
		c.setPair(rdx, rax, uint64(w))
	}
}

func (c *Call) parameters() (first, second uint64) {
	if c.Mode == Mode64 {
		return c.Regs[rdx], c.Regs[r8]
	}
	return c.pair(rbx, rcx), c.pair(rdi, rsi)
}

func (c *Call) setResult(r Result) {
	if c.Mode == Mode64 {
		c.Regs[rax] = uint64(r)
	} else {
		c.setPair(rdx, rax, uint64(r))
	}
}

// fastUnit returns 16 of the bytes that a fast call passes in registers.
func (c *Call) fastUnit(n int) (low, high uint64) {
	if n == 0 {
		return c.parameters()
	}
	x := &c.XMM[n-1]
	return x[0], x[1]
}

// setFastUnit stores 16 bytes of results. Only 64-bit callers get any.
func (c *Call) setFastUnit(n int, low, high uint64) {
	if n == 0 {
		c.Regs[rdx], c.Regs[r8] = low, high
	} else {
		c.XMM[n-1] = [2]uint64{low, high}
	}
}

// readFast copies n bytes of parameters from registers.
func (c *Call) readFast(n int) {
	for at := 0; at < n; at += FastRegisters {
		low, high := c.fastUnit(at / FastRegisters)
		binary.LittleEndian.PutUint64(c.in[at:], low)
		binary.LittleEndian.PutUint64(c.in[at+8:], high)
	}
}

// writeFast copies n bytes of results to registers, from the one given as unit on. What
// they leave of the last one becomes 0.
func (c *Call) writeFast(unit, n int) {
	clear(c.out[n : units(n)*FastRegisters])
	for at := 0; at < n; at += FastRegisters {
		c.setFastUnit(unit+at/FastRegisters, binary.LittleEndian.Uint64(c.out[at:]), binary.LittleEndian.Uint64(c.out[at+8:]))
	}
}
