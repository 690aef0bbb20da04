package vmcs_test

import (
	"fmt"
	"os"

	"github.com/govtx/vtx/vmcs"
)

func ExampleDiff() {
	var before, after vmcs.Image
	before.Set(vmcs.GuestCR0, 0x21)
	before.Set(vmcs.GuestRIP, 0x7c00)
	after = before
	after.Set(vmcs.GuestCR0, 0x80000021)
	n, err := vmcs.Diff(os.Stdout, &before, &after, vmcs.DumpOptions{})
	fmt.Println(n, err)
	// Output:
	//   GuestCR0                           0x6800  0x0000000000000021  0x0000000080000021  +PG
	// 1 <nil>
}
