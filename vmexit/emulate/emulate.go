package emulate

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"github.com/govtx/vtx/asm"
	"github.com/govtx/vtx/vmcs"
)

// An Emulator carries out instructions for one processor of a guest. Memory must be
// set, and Device, unless everything is memory.
type Emulator struct {
	Walker
	Device Device

	// MaxIterations bounds what one Step does of a repeated string instruction. 0
	// stands for DefaultMaxIterations.
	MaxIterations int

	translations [2]translation // for reads and for writes
	data         [16]byte       // an operand
	code         [15]byte       // an instruction
	decoded      [16]decoded    // by address

	state State      // of the handlers
	regs  [16]uint64 // where they want none
}

// DefaultMaxIterations is the number of iterations of a repeated string instruction
// that one Step makes.
const DefaultMaxIterations = 1024

type decoded struct {
	instruction
	code     [15]byte
	codeSize uint8 // 0: nothing
}

// An Action is what is to be done after a Step.
type Action uint8

// Actions.
const (
	Advance Action = iota // the instruction is done: add Length to RIP, and enter the guest
	Repeat                // it is not: enter the guest with RIP as it is
	Inject                // inject the Exception, with RIP as it is
)

var actionNames = [...]string{"advance", "repeat", "inject"}

// String returns "advance", "repeat" or "inject".
func (a Action) String() string {
	if int(a) < len(actionNames) {
		return actionNames[a]
	}
	return fmt.Sprintf("Action(%d)", uint8(a))
}

// A Result is the outcome of a Step.
type Result struct {
	Action    Action
	Length    uint8     // of the instruction, in bytes; 0 if it was not reached
	Exception Exception // if the Action is Inject
}

// Step carries out the instruction at CS:RIP. Registers in s, RSP included, and RFLAGS
// change as the instruction changes them, and RFLAGS.RF is cleared when it is done.
//
// The error is a *DecodeError, an *AccessError or a *TableError, and the guest cannot
// go on from there.
func (e *Emulator) Step(s *State) (Result, error) {
	var r Result
	in, err := e.fetch(s)
	if err == nil {
		r.Length = in.length
		err = e.execute(s, in)
	}
	e.translations = [2]translation{}
	switch {
	case err == nil:
		s.RFLAGS &^= asm.FlagRF
	case err == errRepeat || err == errBusy:
		s.RFLAGS |= asm.FlagRF // of the instruction breakpoints the first iteration had its share (SDM Vol. 3B 18.3.1.1)
		r.Action = Repeat
	case err == error(&e.raised):
		r.Action, r.Exception = Inject, e.raised
	default:
		return Result{}, err
	}
	return r, nil
}

// fetch reads and decodes the instruction at CS:RIP. Of the page behind the one that
// it begins in, it looks at nothing unless it has to.
func (e *Emulator) fetch(s *State) (*instruction, error) {
	offset, codeSize := s.RIP, s.CodeSize()
	room := uint64(len(e.code))
	if codeSize != 64 {
		offset = uint64(uint32(offset))
		if limit := uint64(s.Segments[vmcs.CS].Limit); offset+room > limit+1 && limit != 0xffffffff {
			room = limit + 1 - min(offset, limit+1)
		}
	}
	linear, _, ok := s.linear(vmcs.CS, offset, 1, Fetch)
	if !ok {
		return nil, e.raise(s, vmcs.VectorGP, 0)
	}
	n := min(room, pageMask+1-linear&pageMask)
	if err := e.readCode(s, linear, e.code[:n]); err != nil {
		return nil, err
	}
	in, err := e.decode(linear, e.code[:n], codeSize)
	if err == nil || n == uint64(len(e.code)) {
		return in, err
	}
	if n == room {
		return nil, e.limited(s, codeSize, int(n), err)
	}
	next := linear + n
	switch {
	case codeSize != 64:
		next = uint64(uint32(next))
	case !s.canonical(next):
		return nil, e.raise(s, vmcs.VectorGP, 0)
	}
	if err := e.readCode(s, next, e.code[n:room]); err != nil {
		return nil, err
	}
	in, err = e.decode(linear, e.code[:room], codeSize)
	if err != nil && room < uint64(len(e.code)) {
		err = e.limited(s, codeSize, int(room), err)
	}
	return in, err
}

// limited tells why code of which the segment has no more than n bytes was not decoded: it
// raises #GP if there is an instruction that begins so and is longer.
func (e *Emulator) limited(s *State, codeSize, n int, err error) error {
	clear(e.code[n:])
	if in, failed := decode(e.code[:], codeSize); failed == nil && int(in.length) > n {
		return e.raise(s, vmcs.VectorGP, 0)
	}
	return err
}

func (e *Emulator) readCode(s *State, linear uint64, p []byte) error {
	gpa, err := e.Translate(s, linear, Fetch)
	if err != nil {
		return err
	}
	if err := e.Memory.ReadPhysical(gpa, p); err != nil {
		return &AccessError{Fetch, gpa, len(p), err}
	}
	return nil
}

// decode decodes, or remembers.
func (e *Emulator) decode(linear uint64, code []byte, codeSize int) (*instruction, error) {
	d := &e.decoded[(linear^linear>>4)%uint64(len(e.decoded))]
	if n := int(d.length); int(d.codeSize) == codeSize && n <= len(code) && bytes.Equal(d.code[:n], code[:n]) {
		return &d.instruction, nil
	}
	in, err := decode(code, codeSize)
	if err != nil {
		return nil, err
	}
	*d = decoded{instruction: in, codeSize: uint8(codeSize)}
	copy(d.code[:], code)
	return &d.instruction, nil
}

// get returns the value of a register.
func (s *State) get(r register) uint64 { return s.Regs[r.number&15] >> r.shift & mask(r.size) }

// set changes a register; in 64-bit mode a part of 32 bits clears the upper half
// (SDM Vol. 1 3.4.1.1).
func (s *State) set(r register, v uint64) {
	p := &s.Regs[r.number&15]
	if r.size == 4 {
		*p = uint64(uint32(v))
		return
	}
	m := mask(r.size) << r.shift
	*p = *p&^m | v<<r.shift&m
}

// effective returns the offset of the operand in memory in its segment.
func (s *State) effective(in *instruction) uint64 {
	a := &in.address
	v := a.displacement
	switch a.base {
	case noRegister:
	case nextAddress:
		v += s.RIP + uint64(in.length)
	default:
		v += s.Regs[a.base&15]
	}
	if a.index != noRegister {
		v += s.Regs[a.index&15] * uint64(a.scale)
	}
	return v & mask(a.size)
}

// accumulator is AL, AX, EAX or RAX.
func accumulator(size uint8) register { return register{asm.RAX, size, 0} }

func (e *Emulator) execute(s *State, in *instruction) error {
	switch {
	case in.kind == kindInvalid:
		return e.raise(s, vmcs.VectorUD, 0)
	case in.kind == kindPush:
		return e.push(s, in)
	case in.kind == kindPop:
		return e.pop(s, in)
	case in.kind == kindCompare2:
		return e.compare2(s, in)
	case in.kind > kindStrings:
		return e.strings(s, in)
	}
	offset := s.effective(in)
	if in.kind == kindBit && !in.fromImm {
		// The bit may lie outside of the operand, on either side (SDM Vol. 2A 3.1.1.9).
		n := int64(signExtend(s.get(in.register), in.size))
		offset += uint64(n >> 3 &^ int64(in.size-1))
		offset &= mask(in.address.size)
	}
	a := Read
	if in.writes() {
		a = Write
	}
	sp, err := e.span(s, in.address.segment, offset, in.size, a)
	if err != nil {
		return err
	}
	var old uint64
	if in.reads() {
		if old, err = e.loadValue(&sp); err != nil {
			return err
		}
	}
	return e.compute(s, in, &sp, old)
}

// writes reports whether the operand in memory is written.
func (in *instruction) writes() bool {
	switch in.kind {
	case kindMove, kindMoveBE:
		return in.to
	case kindCompute, kindBit:
		return in.to && !in.operation.keeps()
	}
	return in.kind != kindCMov
}

// reads reports whether the operand in memory is read.
func (in *instruction) reads() bool {
	switch in.kind {
	case kindMove, kindMoveBE:
		return !in.to
	}
	return in.kind != kindSet
}

// compute does the rest for instructions with one operand in memory, whose value is
// old.
func (e *Emulator) compute(s *State, in *instruction, sp *span, old uint64) error {
	other := in.immediate
	switch {
	case in.selector:
		other = uint64(s.Segments[in.immediate].Selector)
	case !in.fromImm && in.register.size != 0:
		other = s.get(in.register)
	}
	flags := s.RFLAGS
	switch in.kind {
	case kindMove:
		if in.to {
			return e.storeValue(sp, other)
		}
		if in.signed {
			old = signExtend(old, in.size)
		}
		s.set(in.register, old)
	case kindMoveBE:
		if in.to {
			return e.storeValue(sp, reverseBytes(other, in.size))
		}
		s.set(in.register, reverseBytes(old, in.size))
	case kindCompute, kindBit:
		a, b := old, other&mask(in.size)
		if !in.to {
			a, b = b, a
		}
		v, flags := arithmetic(in.operation, in.size, a, b, flags)
		if in.writes() {
			if err := e.storeValue(sp, v); err != nil {
				return err
			}
		} else if !in.operation.keeps() {
			s.set(in.register, v)
		}
		s.RFLAGS = flags
	case kindExchange:
		if err := e.storeValue(sp, other); err != nil {
			return err
		}
		s.set(in.register, old)
	case kindAdd:
		v, flags := arithmetic(opAdd, in.size, old, other, flags)
		if err := e.storeValue(sp, v); err != nil {
			return err
		}
		s.set(in.register, old)
		s.RFLAGS = flags
	case kindCompare:
		acc := accumulator(in.size)
		_, flags := arithmetic(opCmp, in.size, s.get(acc), old, flags)
		if flags&asm.FlagZF == 0 {
			other = old // it is written all the same (SDM Vol. 2A CMPXCHG)
		}
		if err := e.storeValue(sp, other); err != nil {
			return err
		}
		if flags&asm.FlagZF == 0 {
			s.set(acc, old)
		}
		s.RFLAGS = flags
	case kindSet:
		v := uint64(0)
		if condition(in.condition, flags) {
			v = 1
		}
		return e.storeValue(sp, v)
	case kindCMov:
		if !condition(in.condition, flags) {
			old = s.get(in.register) // of 32 bits, the upper half is cleared nevertheless
		}
		s.set(in.register, old)
	}
	return nil
}

// compare2 is CMPXCHG8B and CMPXCHG16B.
func (e *Emulator) compare2(s *State, in *instruction) error {
	offset, size := s.effective(in), in.size/2
	if size == 8 {
		linear, _, _ := s.linear(in.address.segment, offset, in.size, Write)
		if linear&15 != 0 {
			return e.raise(s, vmcs.VectorGP, 0)
		}
	}
	sp, err := e.span(s, in.address.segment, offset, in.size, Write)
	if err != nil {
		return err
	}
	if err := e.load(&sp); err != nil {
		return err
	}
	low, high := register{asm.RAX, size, 0}, register{asm.RDX, size, 0}
	oldLow, oldHigh := binary.LittleEndian.Uint64(e.data[:]), binary.LittleEndian.Uint64(e.data[8:])
	if size == 4 {
		oldLow, oldHigh = uint64(uint32(oldLow)), oldLow>>32
	}
	equal := s.get(low) == oldLow && s.get(high) == oldHigh
	if equal {
		v, w := s.get(register{asm.RBX, size, 0}), s.get(register{asm.RCX, size, 0})
		if size == 4 {
			v |= w << 32
		}
		binary.LittleEndian.PutUint64(e.data[:], v)
		binary.LittleEndian.PutUint64(e.data[8:], w)
	}
	if err := e.store(&sp); err != nil {
		return err
	}
	s.RFLAGS |= asm.FlagZF
	if !equal {
		s.RFLAGS &^= asm.FlagZF
		s.set(low, oldLow)
		s.set(high, oldHigh)
	}
	return nil
}

// stackPointer is the part of RSP that the stack uses. As other parts of registers are
// set, it leaves the rest alone, or clears it.
func (s *State) stackPointer() register { return register{asm.RSP, s.stackSize(), 0} }

func (e *Emulator) push(s *State, in *instruction) error {
	sp := s.stackPointer()
	top := (s.get(sp) - uint64(in.size)) & mask(sp.size)
	source, err := e.span(s, in.address.segment, s.effective(in), in.size, Read)
	if err != nil {
		return err
	}
	destination, err := e.span(s, vmcs.SS, top, in.size, Write)
	if err != nil {
		return err
	}
	if err := e.load(&source); err != nil {
		return err
	}
	if err := e.store(&destination); err != nil {
		return err
	}
	s.set(sp, top)
	return nil
}

// pop has the peculiarity that an address with RSP uses what RSP will be
// (SDM Vol. 2B POP).
func (e *Emulator) pop(s *State, in *instruction) error {
	sp, old := s.stackPointer(), s.Regs[asm.RSP]
	source, err := e.span(s, vmcs.SS, s.get(sp), in.size, Read)
	if err != nil {
		return err
	}
	s.set(sp, s.get(sp)+uint64(in.size))
	err = e.popTo(s, in, &source)
	if err != nil {
		s.Regs[asm.RSP] = old
	}
	return err
}

func (e *Emulator) popTo(s *State, in *instruction, source *span) error {
	destination, err := e.span(s, in.address.segment, s.effective(in), in.size, Write)
	if err != nil {
		return err
	}
	if err := e.load(source); err != nil {
		return err
	}
	return e.store(&destination)
}
