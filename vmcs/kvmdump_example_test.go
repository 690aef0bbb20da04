package vmcs_test

import (
	_ "embed"
	"fmt"
	"log"
	"strings"

	"github.com/govtx/vtx/vmcs"
)

// The log of a host whose KVM has given up on a guest.
//
//go:embed testdata/dumps/long-mode-code-segment.txt
var kernelLog string

// Explain why a VM entry failed, with nothing but the kernel's log.
func ExampleKVMDumps() {
	for d, err := range vmcs.KVMDumps(strings.NewReader(kernelLog)) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("The entry on CPU %d at line %d failed:\n", d.CPU, d.Line)
		report := vmcs.Check(&d.Image, vmcs.DumpProcessor(&d.Image))
		for _, v := range report.Violations {
			fmt.Printf("rule %s of section %s is broken\n", v.Rule.ID, v.Rule.Section)
			cs := v.Fields[0]
			fmt.Printf("%v is %#x: %s\n", cs.Field, cs.Value, vmcs.Meaning(&d.Image, cs.Field, cs.Value))
		}
		said, _ := d.Failure()
		fmt.Println("KVM saw the same:", said == report.Outcome())
	}
	// Output:
	// The entry on CPU 3 at line 2 failed:
	// rule guest.cs.db of section 27.3.1.2 is broken
	// GuestCSAccessRights is 0xe09b: execute/read accessed, DPL 0, P, L, D/B, G
	// KVM saw the same: true
}
