package ring0_test

import (
	"fmt"

	"github.com/govtx/vtx/asm"
	"github.com/govtx/vtx/ring0"
)

// The same program can tell where it runs. Instructions of privilege level 0 are carried out
// in ring 0; in a process they are refused, and Try makes an error of that.
func Example() {
	err := asm.Try(func() { asm.ReadCR3() })
	fmt.Println((err == nil) == ring0.Active())
	// Output: true
}

// A page of RAM for a device or a hypervisor's tables. The same program says
// in a process why it has none.
func ExampleAllocPages() {
	p, err := ring0.AllocPages(1)
	if !ring0.Active() {
		fmt.Println(err == ring0.ErrNotActive)
		return
	}
	defer p.Free()
	fmt.Println(p.Phys()%ring0.PageSize == 0 && len(p.Bytes()) == ring0.PageSize)
	// Output: true
}

// The firmware's memory map is a list of ranges that print themselves.
func ExampleRange() {
	fmt.Println(ring0.Range{Start: 0x100000, End: 0x20000000, Kind: ring0.Usable})
	fmt.Println(ring0.Range{Start: 0xfffc0000, End: 0x100000000, Kind: ring0.Reserved})
	// Output:
	// [0x000000100000-0x000020000000) usable
	// [0x0000fffc0000-0x000100000000) reserved
}
