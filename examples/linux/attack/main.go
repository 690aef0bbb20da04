// Command attack runs as root in a Linux guest of the minimal hypervisor, in VTL0.
// It tries to get at VTL1 and the hypervisor in all ways that root has, with the
// help of a kernel module (../module) in ring 0 too, and says of each whether it
// was refused. Between attacks, and after them, VTL1 must answer proper calls as
// before.
//
//	attack [-samples N] [-soak N] [-vtl1 FIRST-LAST]   all steps; the status is how many failed
//	attack -tsc                           print the time-stamp counter
//	attack -finish FAILED                 tell VTL1 that all is over
//
// Where there is no hypervisor, nothing is attacked: there it would work.
package main

import (
	"flag"
	"fmt"
	"os"

	"github.com/govtx/vtx/asm"
)

func main() {
	tsc := flag.Bool("tsc", false, "print the time-stamp counter, which on Bochs counts instructions since power-on, and end")
	finish := flag.Int("finish", -1, "tell VTL1 that all is over and that so many `steps` failed, and end")
	vtl1 := span{0x400000, 0x3ffffff}
	flag.TextVar(&vtl1, "vtl1", vtl1, "the physical `addresses` of VTL1's memory, the first one and the last one")
	samples := flag.Uint64("samples", 16, "how many `pages` of a range of addresses to attack, the first one and the last one among them")
	soak := flag.Uint64("soak", 100_000, "how many VTL `calls` to make in the last step but one")
	flag.Parse()
	if *tsc {
		fmt.Println("vtx-init-tsc", asm.RDTSC())
		return
	}
	failed, err := 0, error(nil)
	m, err := open()
	if err == nil {
		a := &attacker{machine: m, out: console{}, vtl1: vtl1, samples: max(*samples, 2), soak: *soak}
		if *finish >= 0 {
			drain() // what init has printed
			err = a.finish(uint32(*finish))
		} else {
			failed, err = a.run()
		}
	}
	if err != nil {
		fmt.Println("attack:", err)
		failed++
	}
	os.Exit(min(failed, 125))
}
