package ept_test

import (
	"fmt"

	"github.com/govtx/vtx/ept"
	"github.com/govtx/vtx/vmcs"
)

// Two views of 1 GiB: all of it, and the same without a page of 4 KiB. In ring 0 the arena is
// memory from ring0.AllocPages, and INVEPT follows each change that asks for it.
func ExampleSpace() {
	caps, err := vmcs.Model("bochs_tigerlake")
	if err != nil {
		fmt.Println(err)
		return
	}
	arena, err := ept.NewArena(make([]byte, 16*4096), 0x100000)
	if err != nil {
		fmt.Println(err)
		return
	}
	space, err := ept.New(ept.Config{Pages: arena, Mode: ept.NewMode(caps)})
	if err != nil {
		fmt.Println(err)
		return
	}
	const base, secret = 0x4000_0000, 0x12_3000
	full := space.View(0)
	due, err := full.Map(0, 1<<30, base, ept.All|ept.WB.Entry())
	fmt.Println(due, err)

	restricted, err := full.Clone()
	if err != nil {
		fmt.Println(err)
		return
	}
	due, err = restricted.Protect(secret, 4096, 0, ept.All)
	fmt.Println(due, err)
	if kind, descriptor, ok := due.INVEPT(restricted.Pointer(), caps.EPTVPID); ok {
		fmt.Printf("INVEPT %v, descriptor %#x\n", kind, descriptor) // asm.INVEPT(uint64(kind), (*[2]uint64)(&descriptor))
	}

	for _, view := range []*ept.View{full, restricted} {
		hpa, fault := view.Translate(secret+8, ept.LinearRead)
		fmt.Printf("%#x, %v\n", hpa, fault)
	}
	fmt.Println(arena.Used(), "pages for tables")
	// Output:
	// none <nil>
	// single-context <nil>
	// INVEPT single-context, descriptor [0x10201e 0x0]
	// 0x40123008, no fault
	// 0x0, EPT violation at guest-physical address 0x123008: read; EPT rights ---; translation of the linear address; EPT PTE 0x40123030
	// 6 pages for tables
}
