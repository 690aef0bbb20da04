// Minihv is a small hypervisor with virtual trust levels, in one program: it boots in ring
// 0, turns VMX on, and runs a virtual machine in which a guest at VTL0 puts another one into
// VTL1, and then does all it can to get at its secret. It prints what the two do and what
// becomes of each VM exit.
//
//	CGO_ENABLED=0 go build github.com/govtx/vtx/examples/minihv
//	go run github.com/govtx/vtx/cmd/vtx boot ./minihv
//
// The partition's state is a vtl.Partition: main.go to vmcs.go are what it takes to run it
// on VT-x.
//
//	partition.go   processors, levels, and how what the partition asks for is done
//	memory.go      a view of memory for each level, and overlay pages
//	exits.go       VM exits
//	hypercalls.go  CPUID, hypercalls and synthetic MSRs
//	registers.go   registers that levels read and write of each other
//	translate.go   linear addresses
//	vmcs.go        what a level's VMCS holds
//	machine.go     VMX operation
//	guests.go      the guests' memory, and what they do step by step
//	transcript.go  what is printed
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"runtime"

	"github.com/govtx/vtx/ring0"
	"github.com/govtx/vtx/vmexit"
)

func main() {
	limit := flag.Int("exits", 10000, "give the guest up after so many VM exits")
	unprotected := flag.Bool("unprotected", false, "have VTL1 leave out the call that hides its pages: the attacks are successful")
	var l linux
	flag.StringVar(&l.kernel, "kernel", "", "boot the `module` with this name, a Linux kernel or what is started like one, in VTL0")
	flag.StringVar(&l.ramdisk, "initrd", "", "the `module` with the kernel's ramdisk")
	flag.StringVar(&l.command, "append", "", "the kernel's command `line`")
	flag.StringVar(&l.secure, "vtl1", "", "the `module` that runs in VTL1, a Go program with package ring0, and its arguments")
	flag.Uint64Var(&l.memory, "memory", 256, "the guest's memory in `MiB`, with a kernel")
	flag.StringVar(&l.until, "until", "", "end well when the display shows this `text`, and only then")
	flag.Uint64Var(&l.limit, "instructions", 0, "with a kernel, give it up after `N` instructions")
	flag.Parse()
	err := error(nil)
	if l.kernel != "" {
		err = l.run()
	} else {
		err = run(*limit, !*unprotected, nil)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "minihv:", err)
		os.Exit(1)
	}
}

var errNotRing0 = errors.New("this program runs in ring 0: build it with CGO_ENABLED=0 and boot it with 'vtx boot'")

// run runs the virtual machine for at most limit exits. Change, if it is not nil, changes the
// VMCS of VTL0 first.
func run(limit int, protect bool, change func() error) error {
	if !ring0.Active() {
		return errNotRing0
	}
	// The VMCS belongs to this processor and describes this thread.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()

	caps, err := checkVMX(native{})
	if err != nil {
		return err
	}
	fmt.Printf("processor  VMX revision %#x, IA32_FEATURE_CONTROL %#x, EPT_VPID_CAP %#x\n",
		caps.Basic.Revision(), uint64(caps.FeatureControl), uint64(caps.EPTVPID))
	leave, err := enterVMX(caps)
	if err != nil {
		return err
	}
	defer leave()
	memory, err := newGuestMemory(caps)
	if err != nil {
		return err
	}
	defer memory.free()
	vtl0, vtl1, boot := program(memory.ram.Bytes(), protect)
	m, err := newVM(caps, memory, nil, &boot)
	if err != nil {
		return err
	}
	defer m.free()
	t := &transcript{w: os.Stdout, limit: limit, steps: [numLevels][]step{vtl0.steps, vtl1.steps}}
	m.watch(t.layer)
	fmt.Printf("guest      %d KiB, VTL0 begins at %#x, VTL1 at %#x, its secret is at %#x\n\n", ramSize>>10, base0, base1, secret)

	if change != nil {
		if err := m.with(m.processors[0].current, change); err != nil {
			return err
		}
	}
	err = m.run()
	if e := t.end(); err == nil {
		err = e
	}
	var entry *vmexit.EntryError
	if errors.As(err, &entry) {
		return fmt.Errorf("%w: %w", err, m.active.current.explain())
	}
	if err == nil && !m.processors[0].halted {
		return errors.New("the guest stopped before it halted")
	}
	return err
}
