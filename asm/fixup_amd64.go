package asm

import "unsafe"

// A fixup is a row of the table in fixup_amd64.s.
type fixup struct {
	pc     uint64 // address of an instruction; 0 ends the table
	target uint64 // where a fault there goes on
	op     uint64
}

// Fixup tells whether rip is the address of an instruction of this package,
// and where to go on if it faulted. A runtime that runs this package in ring 0
// calls it from its exception handler; see the package comment for what it has
// to do with the target. It is assembly, allocates nothing, writes nothing and
// may be called before the Go runtime is up.
//
//go:noescape
func Fixup(rip uint64) (target uint64, ok bool)

// fixups returns the first row of the table.
func fixups() *fixup

// The targets, see fixup_amd64.s. They are not to be called.

//lint:ignore U1000 used in assembly
func faulted()

//lint:ignore U1000 used in assembly
func safeFaulted()

//lint:ignore U1000 used in assembly
func refused()

// faultPanic is where faulted ends.
//
//lint:ignore U1000 used in assembly
func faultPanic(vector, code, rip uint64) {
	panic(&Fault{
		Instruction: opAt(rip).String(),
		Vector:      uint8(vector),
		Code:        uint32(code),
		PC:          rip,
	})
}

// opAt returns the instruction at rip.
func opAt(rip uint64) op {
	for f := fixups(); f.pc != 0; f = (*fixup)(unsafe.Add(unsafe.Pointer(f), unsafe.Sizeof(*f))) {
		if f.pc == rip {
			return op(f.op)
		}
	}
	return opNone
}

// refuse is where a stub ends that needs privilege level 0 and lacks it.
//
//lint:ignore U1000 used in assembly
func refuse(o uint64) {
	panic(&Fault{Instruction: op(o).String(), Err: ErrPrivilege})
}

// user tells that the program runs at a privilege level other than 0. It is
// false until the package is initialised, so that what brings a machine up may
// use the instructions before that.
var user = ReadCS()&3 != 0
