package emulate

import (
	"errors"

	"github.com/govtx/vtx/asm"
	"github.com/govtx/vtx/vmcs"
)

// errRepeat is a repeated string instruction that has more to do.
var errRepeat = errors.New("emulate: the string instruction goes on")

const prefixREPNE = 0xf2 // F3 is REP, or REPE

// strings carries out a string instruction: once, or as often as its prefix, RCX and the
// bound say (SDM Vol. 2B REP).
func (e *Emulator) strings(s *State, in *instruction) error {
	if in.repeat == 0 {
		return e.iteration(s, in)
	}
	count := register{asm.RCX, in.address.size, 0}
	limit := e.MaxIterations
	if limit <= 0 {
		limit = DefaultMaxIterations
	}
	if s.RFLAGS&asm.FlagTF != 0 {
		limit = 1
	}
	for range limit {
		left := s.get(count)
		if left == 0 {
			return nil
		}
		if err := e.iteration(s, in); err != nil {
			return err
		}
		s.set(count, left-1)
		if left == 1 || in.ends(s.RFLAGS) {
			return nil
		}
	}
	return errRepeat
}

// ends reports whether the flags end the repetition of CMPS or SCAS.
func (in *instruction) ends(flags uint64) bool {
	if in.kind != kindCMPS && in.kind != kindSCAS {
		return false
	}
	return flags&asm.FlagZF != 0 == (in.repeat == prefixREPNE)
}

// iteration does a string instruction once.
func (e *Emulator) iteration(s *State, in *instruction) (err error) {
	source, destination := register{asm.RSI, in.address.size, 0}, register{asm.RDI, in.address.size, 0}
	usesSource := in.kind == kindMOVS || in.kind == kindCMPS || in.kind == kindLODS
	usesDestination := in.kind != kindLODS
	var from, to span
	if usesSource {
		if from, err = e.span(s, in.address.segment, s.get(source), in.size, Read); err != nil {
			return err
		}
	}
	if usesDestination {
		a := Read
		if in.kind == kindMOVS || in.kind == kindSTOS {
			a = Write
		}
		if to, err = e.span(s, vmcs.ES, s.get(destination), in.size, a); err != nil {
			return err
		}
	}
	value, flags := s.get(in.register), s.RFLAGS
	if usesSource {
		if value, err = e.loadValue(&from); err != nil {
			return err
		}
	}
	switch in.kind {
	case kindMOVS, kindSTOS:
		if err := e.storeValue(&to, value); err != nil {
			return err
		}
	case kindLODS:
		s.set(in.register, value)
	default: // CMPS, SCAS
		other, err := e.loadValue(&to)
		if err != nil {
			return err
		}
		_, flags = arithmetic(opCmp, in.size, value, other, flags)
	}
	s.RFLAGS = flags
	step := uint64(in.size)
	if flags&asm.FlagDF != 0 {
		step = -step
	}
	if usesSource {
		s.set(source, s.get(source)+step)
	}
	if usesDestination {
		s.set(destination, s.get(destination)+step)
	}
	return nil
}
