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
	"maps"
	"os"
	"runtime"
	"slices"

	"github.com/govtx/vtx/asm"
	"github.com/govtx/vtx/ring0"
	"github.com/govtx/vtx/vmcs"
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
	err = v.loop(limit)
	v.printCounts()
	return err
}

// loop enters the guest until it halts.
func (v *vm) loop(limit int) error {
	for n := 1; n <= limit; n++ {
		if status := v.Enter(); status != asm.Succeed {
			return fmt.Errorf("VM entry: %w: %w", vmcs.StatusError(status), v.explain())
		}
		basic := v.Reason & 0xffff
		v.exits[basic]++
		qual, rip, length := read(vmcs.ExitQualification), v.RIP, v.InstructionLength
		done, halted, err := v.handle(basic)
		if err != nil {
			done = "stopped"
		}
		fmt.Printf("exit %3d  %-18s  qualification %#-5x  rip %#x  length %d  %s\n",
			n, reasonName(basic), qual, rip, length, done)
		if halted || err != nil {
			return err
		}
	}
	return fmt.Errorf("the guest did not halt within %d exits", limit)
}

// handle acts on one exit and says in words what it did.
func (v *vm) handle(basic uint32) (done string, halted bool, err error) {
	switch basic {
	case exitCPUID:
		leaf := uint32(v.Regs[asm.RAX])
		a, b, c, d := asm.CPUID(leaf, uint32(v.Regs[asm.RCX]))
		if leaf == 0x40000000 {
			// The leaf where hypervisors say their names.
			const name = "vtx minihv  "
			a, b = leaf, binary.LittleEndian.Uint32([]byte(name[0:]))
			c, d = binary.LittleEndian.Uint32([]byte(name[4:])), binary.LittleEndian.Uint32([]byte(name[8:]))
		}
		v.Regs[asm.RAX], v.Regs[asm.RBX] = uint64(a), uint64(b)
		v.Regs[asm.RCX], v.Regs[asm.RDX] = uint64(c), uint64(d)
		v.RIP += uint64(v.InstructionLength)
		return fmt.Sprintf("answered leaf %#x", leaf), false, nil

	case exitVMCALL:
		number, argument := v.Regs[asm.RAX], v.Regs[asm.RBX]
		v.RIP += uint64(v.InstructionLength)
		switch number {
		case 1:
			var s [4]byte
			binary.LittleEndian.PutUint32(s[:], uint32(argument))
			return fmt.Sprintf("the guest says hello to %q", s), false, nil
		case 2:
			if argument != holeContents {
				return "", false, fmt.Errorf("the guest read %#x from the page that holds %#x", argument, uint64(holeContents))
			}
			return fmt.Sprintf("the guest read %#x", argument), false, nil
		}
		return "", false, fmt.Errorf("hypercall %d is not one of minihv's", number)

	case exitEPTViolation:
		gpa := read(vmcs.GuestPhysicalAddress)
		if gpa&^(ring0.PageSize-1) != guestHole {
			return "", false, fmt.Errorf("the guest touched %#x, where there is no memory", gpa)
		}
		page, err := ring0.AllocPages(1)
		if err != nil {
			return "", false, err
		}
		binary.LittleEndian.PutUint64(page.Bytes(), holeContents)
		// The entry was not present, so nothing is cached that would have to be
		// invalidated (SDM Vol. 3C 29.4.3.4).
		if err := v.ept.mapPage(guestHole, page.Phys()); err != nil {
			return "", false, err
		}
		return fmt.Sprintf("mapped a page at %#x", guestHole), false, nil

	case exitInterrupt:
		// It was taken by this kernel as soon as interrupts were on again.
		return "left to the host", false, nil

	case exitHLT:
		return "the guest is done", true, nil
	}
	if v.Reason>>31 != 0 {
		return "", false, fmt.Errorf("VM entry failed: %s (reason %#x): %w", reasonName(basic), v.Reason, v.explain())
	}
	return "", false, fmt.Errorf("no handler for exit reason %d, %s", basic, reasonName(basic))
}

// holeContents is what the guest finds in the page that was not there.
const holeContents = 0x1122334455667788

// Basic exit reasons (SDM Vol. 3D, appendix C) that this hypervisor handles.
const (
	exitInterrupt    = 1
	exitCPUID        = 10
	exitHLT          = 12
	exitVMCALL       = 18
	exitEPTViolation = 48
)

var reasonNames = map[uint32]string{
	0: "exception or NMI", exitInterrupt: "external interrupt", 2: "triple fault",
	exitCPUID: "CPUID", exitHLT: "HLT", exitVMCALL: "VMCALL",
	33: "VM-entry failure: guest state", 34: "VM-entry failure: MSR loading",
	exitEPTViolation: "EPT violation", 49: "EPT misconfiguration",
}

func reasonName(basic uint32) string {
	if name, ok := reasonNames[basic]; ok {
		return name
	}
	return fmt.Sprintf("reason %d", basic)
}

func (v *vm) printCounts() {
	fmt.Println()
	total := 0
	for _, basic := range slices.Sorted(maps.Keys(v.exits)) {
		fmt.Printf("%5d  %s\n", v.exits[basic], reasonName(basic))
		total += v.exits[basic]
	}
	fmt.Printf("%5d  exits in all\n", total)
}
