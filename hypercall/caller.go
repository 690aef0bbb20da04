package hypercall

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// CallRegisters are those that a hypercall passes parameters and results in.
type CallRegisters struct {
	General [16]uint64   // RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8 to R15
	XMM     [6][2]uint64 // XMM0 to XMM5, each its low and then its high half
}

// A Page is a page of the caller's memory.
type Page struct {
	GPA   uint64 // guest-physical address, a multiple of 4096
	Bytes []byte // 4096 bytes
}

// ErrNoProgress is the error of a rep call that succeeds time and again without another
// element being done.
var ErrNoProgress = errors.New("hypercall: the hypervisor does no more elements of the rep call")

// A Caller makes hypercalls: in registers where parameters and results fit in those that
// the hypervisor offers, and else in memory. It belongs to one processor, is for one call
// at a time, and does not allocate.
//
// Where the hypervisor's answer is another status than StatusSuccess, that [Status] is the
// error.
type Caller struct {
	// Trap does what the code in the hypercall page does, with the registers as they
	// are given, and leaves in them what it finds there afterwards.
	Trap func(*CallRegisters)

	// Mode is the processor's: Mode64 or Mode32.
	Mode Mode

	// XMMInput and XMMOutput tell that the hypervisor offers fast calls with parameters
	// and results in XMM registers: CPUID leaf 0x40000003, EDX bits 4 and 15.
	XMMInput, XMMOutput bool

	// Input and Output are for calls in memory. Without them there are only those in
	// registers.
	Input, Output Page

	regs  CallRegisters
	stage [FastLimit]byte // parameters, and behind them results, that are in registers
}

// Fast reports whether a call with that many bytes of parameters and results can be made
// in registers.
func (c *Caller) Fast(in, out int) bool {
	return in >= 0 && out >= 0 && units(in)*FastRegisters+out <= FastLimit &&
		(in <= FastRegisters || c.XMMInput) &&
		(out == 0 || c.XMMOutput && c.Mode == Mode64)
}

// Do makes a call: all of it is given, the input value with the form (fast or not), the
// parameters (header, variable header and elements) as they stand in registers or
// memory, and room for the results. A rep call that the hypervisor ends early is
// continued until all elements are done or one fails; done counts those that are. Of a
// rep call that fails, results of elements that are done are good.
func (c *Caller) Do(w Input, in, out []byte) (done int, err error) {
	stage, results, err := c.room(w, len(in), len(out))
	if err != nil {
		return 0, err
	}
	copy(stage, in)
	done, err = c.run(w, len(in), len(out))
	if err == nil || done > 0 {
		copy(out, results)
	}
	return done, err
}

// room returns where parameters of a call are to be put, and where its results will be.
func (c *Caller) room(w Input, in, out int) (parameters, results []byte, err error) {
	switch {
	case c.Mode != Mode64 && c.Mode != Mode32:
		return nil, nil, fmt.Errorf("hypercall: %v cannot be called in mode %v: set Mode to that of the processor, Mode32 or Mode64", w.Code(), c.Mode)
	case w.Fast() && !c.Fast(in, out):
		return nil, nil, fmt.Errorf("hypercall: %v has %d bytes of parameters and %d of results, which registers cannot hold in mode %v with XMMInput %t and XMMOutput %t: make the call in memory", w.Code(), in, out, c.Mode, c.XMMInput, c.XMMOutput)
	case w.Fast():
		return c.stage[:in], c.stage[units(in)*FastRegisters:][:out], nil
	case !c.Input.holds(in) || !c.Output.holds(out):
		return nil, nil, fmt.Errorf("hypercall: %v has %d bytes of parameters and %d of results: set Input and Output to different pages of 4096 bytes for them", w.Code(), in, out)
	case in > 0 && out > 0 && c.Input.GPA == c.Output.GPA:
		return nil, nil, fmt.Errorf("hypercall: Input and Output are one page, at %#x: parameters and results of %v would overlap", c.Input.GPA, w.Code())
	}
	return c.Input.Bytes[:in], c.Output.Bytes[:out], nil
}

// holds reports whether n bytes fit in the page.
func (p *Page) holds(n int) bool {
	return n == 0 || n > 0 && n <= len(p.Bytes) && n <= pageSize && p.GPA&pageMask == 0
}

// run makes a call whose parameters are where room says.
func (c *Caller) run(w Input, in, out int) (done int, err error) {
	count, first := w.RepCount(), units(in)
	for {
		if w.Fast() {
			for i := range first {
				c.setUnit(i)
			}
		} else {
			c.setParameters(c.Input.GPA, c.Output.GPA)
		}
		c.setWord(w)
		c.Trap(&c.regs)
		r := c.result()
		if w.Fast() {
			for i := first; i < first+units(out); i++ {
				c.getUnit(i)
			}
		}
		if count == 0 {
			return 0, r.Err()
		}
		done = r.Reps()
		if done > count {
			return 0, fmt.Errorf("hypercall: the hypervisor says that it did %d of %d elements of %v", done, count, w.Code())
		}
		if err := r.Err(); err != nil || done == count {
			return done, err
		}
		if done <= w.RepStart() {
			return done, ErrNoProgress
		}
		w = w.WithRepStart(done)
	}
}

func (c *Caller) setWord(w Input) {
	g := &c.regs.General
	if c.Mode == Mode64 {
		g[rcx] = uint64(w)
	} else {
		g[rdx], g[rax] = uint64(w)>>32, uint64(uint32(w))
	}
}

func (c *Caller) result() Result {
	g := &c.regs.General
	if c.Mode == Mode64 {
		return Result(g[rax])
	}
	return Result(g[rdx]<<32 | uint64(uint32(g[rax])))
}

func (c *Caller) setParameters(first, second uint64) {
	g := &c.regs.General
	if c.Mode == Mode64 {
		g[rdx], g[r8] = first, second
	} else {
		g[rbx], g[rcx] = first>>32, uint64(uint32(first))
		g[rdi], g[rsi] = second>>32, uint64(uint32(second))
	}
}

// setUnit puts 16 bytes of the stage in registers.
func (c *Caller) setUnit(n int) {
	b := c.stage[n*FastRegisters:][:FastRegisters]
	low, high := binary.LittleEndian.Uint64(b), binary.LittleEndian.Uint64(b[8:])
	if n == 0 {
		c.setParameters(low, high)
	} else {
		c.regs.XMM[n-1] = [2]uint64{low, high}
	}
}

// getUnit puts 16 bytes of registers on the stage. Only 64-bit callers have results there.
func (c *Caller) getUnit(n int) {
	b := c.stage[n*FastRegisters:][:FastRegisters]
	low, high := c.regs.General[rdx], c.regs.General[r8]
	if n > 0 {
		low, high = c.regs.XMM[n-1][0], c.regs.XMM[n-1][1]
	}
	binary.LittleEndian.PutUint64(b, low)
	binary.LittleEndian.PutUint64(b[8:], high)
}

// word returns the input value for a call with that many bytes, in the form that fits.
func (c *Caller) word(code Code, in, out, variable int) Input {
	w := Input(code).WithVariableHeader(variable)
	l, _ := code.Layout()
	return w.WithFast(!l.SlowOnly && c.Fast(in, out))
}

// Invoke makes a simple call. in and out are pointers to structures, and nil where there
// are no parameters, or no results. The variable header is in units of 8 bytes.
func (c *Caller) Invoke(code Code, in, out Parameters, variable ...uint64) error {
	if in == nil {
		in = (*None)(nil)
	}
	if out == nil {
		out = (*None)(nil)
	}
	header := in.Size()
	n := header + 8*len(variable)
	if len(variable) > MaxVariableHeader {
		return fmt.Errorf("hypercall: the variable header of %v has %d units of 8 bytes: there can be %d", code, len(variable), MaxVariableHeader)
	}
	w := c.word(code, n, out.Size(), len(variable))
	stage, results, err := c.room(w, n, out.Size())
	if err != nil {
		return err
	}
	in.Put(stage)
	putVariable(stage[header:], variable)
	if _, err := c.run(w, n, out.Size()); err != nil {
		return err
	}
	out.Get(results)
	return nil
}

func putVariable(b []byte, variable []uint64) {
	for i, v := range variable {
		binary.LittleEndian.PutUint64(b[8*i:], v)
	}
}

// InvokeList makes a rep call without results, with as many elements as there are: in
// several calls if one cannot pass them all. It returns how many are done.
func InvokeList[E any, PE PointerTo[E]](c *Caller, code Code, in Parameters, elements []E, variable ...uint64) (done int, err error) {
	return InvokeListOut[E, None, PE](c, code, in, elements, nil, variable...)
}

// InvokeListOut is InvokeList for calls with results, of which there must be room for one
// an element.
func InvokeListOut[E, O any, PE PointerTo[E], PO PointerTo[O]](c *Caller, code Code, in Parameters, elements []E, results []O, variable ...uint64) (done int, err error) {
	if in == nil {
		in = (*None)(nil)
	}
	inSize, outSize := size[E, PE](), size[O, PO]()
	header := in.Size() + 8*len(variable)
	if outSize > 0 && len(results) < len(elements) {
		return 0, fmt.Errorf("hypercall: there is room for the results of %d elements of %v, of which there are %d", len(results), code, len(elements))
	}
	most := MaxReps // at once
	if inSize > 0 {
		most = min(most, (pageSize-header)/inSize)
	}
	if outSize > 0 {
		most = min(most, pageSize/outSize)
	}
	if most <= 0 || len(variable) > MaxVariableHeader {
		return 0, fmt.Errorf("hypercall: no element of %v fits in a page behind a header of %d bytes", code, header)
	}
	for done < len(elements) {
		n := min(len(elements)-done, most)
		w := c.word(code, header+n*inSize, n*outSize, len(variable)).WithReps(n)
		stage, out, err := c.room(w, header+n*inSize, n*outSize)
		if err != nil {
			return done, err
		}
		in.Put(stage)
		putVariable(stage[in.Size():], variable)
		for i := range n {
			PE(&elements[done+i]).Put(stage[header+i*inSize:])
		}
		now, err := c.run(w, header+n*inSize, n*outSize)
		for i := range now {
			if outSize > 0 {
				PO(&results[done+i]).Get(out[i*outSize:])
			}
		}
		done += now
		if err != nil {
			return done, err
		}
	}
	return done, nil
}
