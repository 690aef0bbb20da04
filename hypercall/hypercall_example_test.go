package hypercall_test

import (
	"errors"
	"fmt"

	"github.com/govtx/vtx/hypercall"
)

func ExampleInput() {
	w := hypercall.Input(0).WithCode(hypercall.CodeGetVpRegisters).WithFast(true).WithReps(3)
	fmt.Printf("%#x: %v\n", uint64(w), w)

	w, err := hypercall.ParseInput("HvCallModifyVtlProtectionMask, reps 510, start 64")
	fmt.Printf("%#x %d of %d %v\n", uint64(w), w.RepStart(), w.RepCount(), err)
	// Output:
	// 0x300010050: HvCallGetVpRegisters, fast, reps 3
	// 0x4001fe0000000c 64 of 510 <nil>
}

func ExampleResult() {
	r := hypercall.MakeResult(hypercall.StatusAccessDenied, 2)
	fmt.Printf("%#x: %v\n", uint64(r), r)
	fmt.Println(r.Err())
	fmt.Println(errors.Is(r.Err(), hypercall.StatusAccessDenied))
	// Output:
	// 0x200000006: HV_STATUS_ACCESS_DENIED, reps 2
	// hypercall: HV_STATUS_ACCESS_DENIED (0x6): the caller may not do this: its partition lacks the privilege, or its level is too low
	// true
}

func ExampleCode() {
	c, _ := hypercall.ParseCode("HVCALL_GET_VP_REGISTERS") // as Linux calls it
	l, _ := c.Layout()
	fmt.Println(c, c.Kind(), c.Sources())
	fmt.Printf("%d bytes and %d for each register in, %d for each out; needs %v\n", l.Input, l.InputElement, l.OutputElement, l.Privileges)
	fmt.Println("fast with 4 registers:", l.Fast(0, 4), "with 5:", l.Fast(0, 5))
	// Output:
	// HvCallGetVpRegisters rep [TLFS OpenVMM hvdef Linux gerhart01]
	// 16 bytes and 4 for each register in, 16 for each out; needs AccessVpRegisters
	// fast with 4 registers: true with 5: false
}

func ExampleInputVTL() {
	for _, i := range []hypercall.InputVTL{hypercall.TargetVTL(1), 0} {
		fmt.Printf("%#x: %v, from VTL2 it is %v\n", uint8(i), i, i.Of(hypercall.VTL2))
	}
	// Output:
	// 0x11: VTL1, from VTL2 it is VTL1
	// 0x0: own, from VTL2 it is VTL2
}

func ExampleGuestOSID() {
	fmt.Println(hypercall.GuestOSID(0x0001040a0000585d))
	fmt.Println(hypercall.OpenSourceID(hypercall.OSLinux, 0, 0x60100, 0))
	// Output:
	// Microsoft Windows NT 10.0 service 0 build 22621
	// Linux version 0x60100 OS 0 build 0
}

// A hypervisor tells its guest of virtual secure mode, and the guest finds it.
func ExampleReadLeaves() {
	hypervisor := hypercall.NewLeaves("vtx example", hypercall.LeafRecommendations)
	hypervisor.Features = hypercall.FeaturesLeaf{
		Privileges: hypercall.PrivilegeAccessHypercallMsrs | hypercall.PrivilegeAccessVpIndex | hypercall.PrivilegeAccessVSM,
		Features:   hypercall.FeatureXmmHypercallInput,
	}
	cpuid := func(leaf, subleaf uint32) hypercall.CPUID { // the guest's instruction
		if r, ok := hypervisor.CPUID(leaf); ok {
			return r
		}
		return hypercall.CPUID{ECX: hypercall.HypervisorPresent} // leaf 1
	}

	guest, err := hypercall.ReadLeaves(cpuid)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(guest.Vendor)
	fmt.Println(guest.Features)
	fmt.Println("VSM:", guest.Features.Privileges.Has(hypercall.PrivilegeAccessVSM))
	// Output:
	// vendor "vtx example", leaves up to 0x40000005
	// privileges AccessHypercallMsrs, AccessVpIndex, AccessVSM; power none; features XmmHypercallInput
	// VSM: true
}
