// Minihv is a minimal hypervisor in one program: it boots in ring 0, turns VMX
// on, runs a small 64-bit guest in a virtual machine with extended page tables,
// and prints each VM exit and what it did about it.
//
//	CGO_ENABLED=0 go build github.com/govtx/vtx/examples/minihv
//	go run github.com/govtx/vtx/cmd/vtx boot ./minihv
package main

import (
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"os"
	"runtime"

	"github.com/govtx/vtx/asm"
	"github.com/govtx/vtx/ring0"
	"github.com/govtx/vtx/vmcs"
	"github.com/govtx/vtx/vmexit"
)

func main() {
	limit := flag.Int("exits", 1000, "give the guest up after so many VM exits")
	flag.Parse()
	if err := run(*limit); err != nil {
		fmt.Fprintln(os.Stderr, "minihv:", err)
		os.Exit(1)
	}
}

func run(limit int) error { return runVM(limit, func() error { return nil }) }

// runVM runs the guest for at most limit exits, with a VMCS that change has had its
// say about.
func runVM(limit int, change func() error) error {
	if !ring0.Active() {
		return errors.New("this program runs in ring 0: build it with CGO_ENABLED=0 and boot it with 'vtx boot'")
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
	v, err := newVM(caps)
	if err != nil {
		return err
	}
	defer asm.VMCLEAR(v.vmcs.Phys())
	fmt.Printf("guest      64-bit, %d KiB, paging on, entry %#x, EPTP %#x\n\n",
		guestMemory>>10, guestEntry, v.ept.pointer())

	if err := change(); err != nil {
		return err
	}
	err = v.dispatcher(limit).Run(&vmexit.Exit{Guest: &v.Guest, VMCS: vmcs.Current{}})
	v.printCounts()
	var entry *vmexit.EntryError
	if errors.As(err, &entry) {
		return fmt.Errorf("%w: %w", err, v.explain())
	}
	if err == nil && !v.halted {
		return errors.New("the guest stopped before it halted")
	}
	return err
}

// dispatcher wires the library's ready handlers with what is this hypervisor's own:
// its name, its hypercalls, its memory, and the line that it prints of each exit.
func (v *vm) dispatcher(limit int) *vmexit.Dispatcher {
	cpuid := vmexit.SnapshotCPUID(vmcs.Processor{}).HideUnemulated().PresentHypervisor("vtx minihv  ")
	n := 0
	return vmexit.Defaults(vmexit.Config{
		Capabilities: v.caps,
		CPUID:        cpuid,
		Hypercall:    v.hypercall,
		Violation:    v.violation,
		Halt: func(*vmexit.Exit) bool {
			v.done, v.halted = "the guest is done", true
			return false
		},
	}).OverAll(func(b vmexit.Basic, below vmexit.Handler) vmexit.Handler {
		return func(x *vmexit.Exit) vmexit.Outcome {
			switch b {
			case vmexit.CPUID:
				v.done = fmt.Sprintf("answered leaf %#x", uint32(x.Guest.Regs[asm.RAX]))
			case vmexit.ExternalInterrupt:
				// It was taken by this kernel as soon as interrupts were on again.
				v.done = "left to the host"
			default:
				v.done = "stopped"
			}
			rip := x.Guest.RIP // HLT's handler advances it
			outcome := below(x)
			n++
			fmt.Printf("exit %3d  %-18s  qualification %#-5x  rip %#x  length %d  %s\n",
				n, x.Reason().Basic().SDMName(), x.Qualification(), rip, x.Guest.InstructionLength, v.done)
			if n == limit && outcome != vmexit.Stop {
				return x.Fail(fmt.Errorf("the guest did not halt within %d exits", limit))
			}
			return outcome
		}
	}).OverAll(v.exits.Layer).Build()
}

// hypercall is the handler of VMCALL.
func (v *vm) hypercall(x *vmexit.Exit) vmexit.Outcome {
	number, argument := x.Guest.Regs[asm.RAX], x.Guest.Regs[asm.RBX]
	switch {
	case number == 1:
		var s [4]byte
		binary.LittleEndian.PutUint32(s[:], uint32(argument))
		v.done = fmt.Sprintf("the guest says hello to %q", s)
	case number == 2 && argument == holeContents:
		v.done = fmt.Sprintf("the guest read %#x", argument)
	case number == 2:
		return x.Fail(fmt.Errorf("the guest read %#x from the page that holds %#x", argument, uint64(holeContents)))
	default:
		return x.Fail(fmt.Errorf("hypercall %d is not one of minihv's", number))
	}
	return vmexit.Resume
}

// violation is the handler of EPT violations: the page at guestHole appears.
func (v *vm) violation(x *vmexit.Exit) vmexit.Outcome {
	gpa := x.PhysicalAddress()
	if gpa&^(ring0.PageSize-1) != guestHole {
		return vmexit.Violation(x)
	}
	page, err := ring0.AllocPages(1)
	if err != nil {
		return x.Fail(err)
	}
	binary.LittleEndian.PutUint64(page.Bytes(), holeContents)
	// The entry was not present, so nothing is cached that would have to be
	// invalidated (SDM Vol. 3C 29.4.3.4).
	if err := v.ept.mapPage(guestHole, page.Phys()); err != nil {
		return x.Fail(err)
	}
	v.done = fmt.Sprintf("mapped a page at %#x", guestHole)
	return vmexit.Hold
}

// holeContents is what the guest finds in the page that was not there.
const holeContents = 0x1122334455667788

func (v *vm) printCounts() {
	fmt.Println()
	for b := range vmexit.Basic(vmexit.NumBasic) {
		if n := v.exits.Count(b); n > 0 {
			fmt.Printf("%5d  %s\n", n, b.SDMName())
		}
	}
	fmt.Printf("%5d  exits in all\n", v.exits.Total())
}
