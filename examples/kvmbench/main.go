// Kvmbench counts what VM exits cost under KVM and under this library, on the same
// processor and with the same guest.
//
//	kvmbench            run the guest under KVM, here
//	kvmbench init       the same as the first process of a kernel, which it switches off
//	kvmbench compare    boot Debian's kernel on Bochs with kvmbench as its init, run the
//	                    guest under the library on Bochs too, and set the figures side by side
//
// The guest executes one instruction that exits, again and again in a loop, between two
// readings of the time-stamp counter; what the same loop takes without that instruction is
// subtracted. On Bochs the counter advances by one with each instruction, so that the
// figures are instructions, and runs repeat to the bit. Elsewhere they are ticks.
//
// The library's side is this package's test in ring 0: the same bytes under the run loop
// and the ready handlers of [github.com/govtx/vtx/vmexit.Defaults].
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
)

func main() {
	var err error
	switch {
	case len(os.Args) == 1:
		err = measureKVM(os.Stdout)
	case os.Args[1] == "init":
		err = beInit()
	case os.Args[1] == "compare":
		err = compare(os.Args[2:], os.Stdout, os.Stderr)
	default:
		err = errors.New("usage: kvmbench, or kvmbench compare -h")
	}
	if err != nil {
		if !errors.Is(err, flag.ErrHelp) {
			fmt.Fprintln(os.Stderr, "kvmbench:", err)
		}
		os.Exit(1)
	}
}
