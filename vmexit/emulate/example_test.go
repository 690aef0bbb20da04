package emulate_test

import (
	"fmt"

	"github.com/govtx/vtx/asm"
	"github.com/govtx/vtx/vmcs"
	"github.com/govtx/vtx/vmexit/emulate"
)

// pages is a guest's memory from guest-physical address 0.
type pages []byte

func (m pages) ReadPhysical(gpa uint64, p []byte) error {
	if gpa+uint64(len(p)) > uint64(len(m)) {
		return emulate.ErrNoMemory
	}
	copy(p, m[gpa:])
	return nil
}

func (m pages) WritePhysical(gpa uint64, p []byte) error {
	if gpa+uint64(len(p)) > uint64(len(m)) {
		return emulate.ErrNoMemory
	}
	copy(m[gpa:], p)
	return nil
}

// counter is a device with one register, which counts how often it is read.
type counter byte

func (c *counter) Read(gpa uint64, p []byte) error {
	*c++
	clear(p)
	p[0] = byte(*c)
	return nil
}

func (c *counter) Write(gpa uint64, p []byte) error {
	fmt.Printf("write of % x at 0x%x\n", p, gpa)
	*c = counter(p[0])
	return nil
}

func Example() {
	memory := make(pages, 0x1000)
	copy(memory[0x100:], []byte{0xff, 0x43, 0x10}) // INC dword [ebx+0x10]

	var regs [16]uint64
	regs[asm.RBX] = 0xfed00000
	flat := vmcs.FlatData(0)
	s := emulate.State{ // in a hypervisor State.Read fills it
		Regs: &regs, RIP: 0x100, RFLAGS: 2, CR0: 1,
		Segments: [6]vmcs.Segment{flat, vmcs.FlatCode32(0), flat, flat, flat, flat},
	}
	device := counter(6)
	e := emulate.Emulator{Walker: emulate.Walker{Memory: memory}, Device: &device}
	r, err := e.Step(&s)
	fmt.Println(r.Action, r.Length, err)

	memory[0x100] = 0xc8 // ENTER
	_, err = e.Step(&s)
	fmt.Println(err)
	// Output:
	// write of 08 00 00 00 at 0xfed00010
	// advance 3 <nil>
	// emulate: cannot carry out c8 43 10 00 00 00 00 00 00 00 00 00 00 00 00 (32-bit code): this package does not know ENTER
}

// A page fault of the guest is not an error of Step, but one of Translate.
func ExampleWalker_Translate() {
	memory := make(pages, 0x1000) // the page directory, at 0: nothing is present
	s := emulate.State{CR0: 1<<31 | 1}
	w := emulate.Walker{Memory: memory}
	_, err := w.Translate(&s, 0x401234, emulate.Write)
	fmt.Println(err)
	// Output: emulate: the guest is due hardware exception #PF, error code 0x2, address 0x401234
}
