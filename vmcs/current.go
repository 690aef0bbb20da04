package vmcs

import (
	"errors"

	"github.com/govtx/vtx/asm"
)

// Current is the current VMCS of the logical processor that the caller runs on,
// read and written by VMREAD and VMWRITE. It has no state: use Current{}. The
// caller must be in VMX root operation and stay on its processor and thread.
//
// Where the processor is not in VMX operation or not in ring 0 the instructions
// fault, and package asm panics with an *asm.Fault.
type Current struct{}

// ErrNoCurrent is VMfailInvalid: there is no current VMCS (SDM Vol. 3C 31.2).
var ErrNoCurrent = errors.New("there is no current VMCS: load one with VMPTRLD")

// Read is VMREAD. On VMfail the error has an InstructionError or ErrNoCurrent.
func (Current) Read(f Field) (uint64, error) {
	v, s := asm.VMREAD(uint32(f))
	if s != asm.Succeed {
		return 0, currentError("read", f, s)
	}
	return v, nil
}

// Write is VMWRITE. On VMfail the error has an InstructionError or ErrNoCurrent.
func (Current) Write(f Field, v uint64) error {
	if s := asm.VMWRITE(uint32(f), v); s != asm.Succeed {
		return currentError("write", f, s)
	}
	return nil
}

func currentError(op string, f Field, s asm.Status) error {
	return fieldError(op, f, StatusError(s))
}

// StatusError turns the answer of a VMX instruction into an error: nil for
// success, ErrNoCurrent for VMfailInvalid, and the InstructionError that the
// current VMCS names for VMfailValid.
func StatusError(s asm.Status) error {
	switch s {
	case asm.Succeed:
		return nil
	case asm.FailValid:
		n, s := asm.VMREAD(uint32(VMInstructionErrorNumber))
		if s == asm.Succeed {
			return InstructionError(n)
		}
	}
	return ErrNoCurrent
}
