package vtl

import (
	"fmt"
	"iter"

	"github.com/govtx/vtx/hypercall"
)

//go:generate go run ./internal/gen

// A Class says whether each level has a register for itself.
type Class uint8

// Classes.
const (
	// ClassUnknown: no source tells.
	ClassUnknown Class = iota
	// Private: a switch to another level exchanges it.
	Private
	// Shared: it keeps its value through a switch.
	Shared
	// PrivateOrShared: DR6, as Dr6Shared of the partition's capabilities says.
	PrivateOrShared
)

// String returns the class's name.
func (c Class) String() string {
	switch c {
	case ClassUnknown:
		return "unknown"
	case Private:
		return "private"
	case Shared:
		return "shared"
	case PrivateOrShared:
		return "private or shared"
	}
	return fmt.Sprintf("Class(%d)", uint8(c))
}

// A State is a register, or a range of registers, of an x64 processor with what a switch of
// levels does with it (TLFS vsm.md, "Private State", "Shared State").
type State struct {
	Name                   string
	Register, LastRegister hypercall.Register // by name; both 0 if it has none
	MSR, LastMSR           uint32             // both 0 if it is not one
	Class                  Class
	Source, Note           string
}

// States lists what is known, in the order of the table.
func States() iter.Seq[State] {
	return func(yield func(State) bool) {
		for i := range states {
			if !yield(states[i]) {
				return
			}
		}
	}
}

// StateOf returns the class of a register.
func StateOf(name hypercall.Register) Class {
	for i := range states {
		if s := &states[i]; s.LastRegister != 0 && s.Register <= name && name <= s.LastRegister {
			return s.Class
		}
	}
	return ClassUnknown
}

// StateOfMSR returns the class of an MSR.
func StateOfMSR(msr uint32) Class {
	for i := range states {
		if s := &states[i]; s.LastMSR != 0 && s.MSR <= msr && msr <= s.LastMSR {
			return s.Class
		}
	}
	return ClassUnknown
}
