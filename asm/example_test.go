package asm_test

import (
	"errors"
	"fmt"

	"github.com/govtx/vtx/asm"
)

func ExampleStatus() {
	for _, s := range []asm.Status{asm.Succeed, asm.FailInvalid, asm.FailValid} {
		fmt.Println(s, s.Err() == nil)
	}
	// Output:
	// VMsucceed true
	// VMfailInvalid false
	// VMfailValid false
}

// A fault is a panic that Try makes an error of.
func ExampleTry() {
	err := asm.Try(func() {
		panic(&asm.Fault{Instruction: "VMREAD", Vector: 6, PC: 0x401000})
	})
	var fault *asm.Fault
	if errors.As(err, &fault) {
		fmt.Println(fault.Instruction, fault.Vector)
	}
	fmt.Println(err)
	// Output:
	// VMREAD 6
	// asm: VMREAD at 0x401000 raised #UD: not in VMX operation (run VMXON first), or not on this processor
}

// What a program prints that was not booted in ring 0, but is run as a process.
func ExampleFault() {
	err := &asm.Fault{Instruction: "VMXON", Err: asm.ErrPrivilege}
	fmt.Println(err)
	fmt.Println(errors.Is(err, asm.ErrPrivilege), errors.Is(err, errors.ErrUnsupported))
	// Output:
	// asm: VMXON: needs privilege level 0: boot the program in ring 0
	// true false
}
