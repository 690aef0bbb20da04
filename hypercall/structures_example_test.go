package hypercall_test

import (
	"fmt"

	"github.com/govtx/vtx/hypercall"
)

// The input of a call is made, and read as the hypervisor does.
func ExampleStructure() {
	input := hypercall.ModifyVtlProtectionMaskInput{
		PartitionID: hypercall.PartitionSelf,
		MapFlags:    hypercall.MapReadable | hypercall.MapExecute,
		TargetVTL:   hypercall.TargetVTL(hypercall.VTL0),
	}
	b, err := input.MarshalBinary()
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("% x\n", b)

	b[13] = 4
	var got hypercall.ModifyVtlProtectionMaskInput
	fmt.Println(got.Get(b), got.MapFlags.Rights(), got.TargetVTL, got.ReservedZero())
	fmt.Println(got.UnmarshalBinary(b))
	// Output:
	// ff ff ff ff ff ff ff ff 0d 00 00 00 10 00 00 00
	// true R-KU VTL0 false
	// hypercall: the reserved bits 0x4 of Reserved are set (offset 13 of its structure): they must be 0
}

// What a level above 0 reads when it is entered, and leaves for the return.
func ExampleVpAssistPage() {
	page := make([]byte, 4096)
	assist, err := hypercall.VpAssistPageOf(page)
	if err != nil {
		fmt.Println(err)
		return
	}
	assist.SetEntryReason(hypercall.VtlEntryVtlCall) // by the hypervisor
	assist.SetReturnRegisters(0x1234, 0)             // by the level, before it returns
	fmt.Println(assist)
	// Output:
	// HvVtlEntryVtlCall, VINA asserted false, RAX 0x1234, RCX 0x0 for the lower level
}

// A message goes from the hypervisor to a guest through a slot.
func ExampleMessagePage() {
	page, err := hypercall.MessagePageOf(make([]byte, 4096))
	if err != nil {
		fmt.Println(err)
		return
	}
	intercept := hypercall.MemoryIntercept{GPA: 0x7000}
	intercept.Header.AccessType = hypercall.AccessWrite
	msg := hypercall.Message{Header: hypercall.MessageHeader{Type: hypercall.MessageGpaIntercept}}
	msg.SetPayload(&intercept)
	fmt.Println(page.Deliver(0, &msg), page.Deliver(0, &msg)) // the second has to wait

	var got hypercall.Message
	ok, eom := page.Take(0, &got)
	var what hypercall.MemoryIntercept
	fmt.Println(ok, eom, got.Header.Type, got.GetPayload(&what))
	fmt.Printf("%v of %#x\n", what.Header.AccessType, what.GPA)
	// Output:
	// true false
	// true true HvMessageTypeGpaIntercept true
	// HvInterceptAccessWrite of 0x7000
}

// Words print as lists of their fields, and are read from them.
func ExampleParseVsmPartitionConfig() {
	c, err := hypercall.ParseVsmPartitionConfig("EnableVtlProtection, DefaultVtlProtectionMask 0xf")
	fmt.Printf("%#x %v\n", uint64(c), err)
	fmt.Println(c | hypercall.VsmPartitionConfigDenyLowerVtlStartup)
	fmt.Println(c.DefaultVtlProtectionMask().Rights())
	// Output:
	// 0x1f <nil>
	// EnableVtlProtection, DefaultVtlProtectionMask Readable+Writable+KernelExecutable+UserExecutable, DenyLowerVtlStartup
	// RWKU
}

// The hypercall page and where VTL calls and returns are in it.
func ExampleHypercallPage() {
	page := make([]byte, 4096)
	p := hypercall.HypercallPage{Trap: hypercall.TrapVMCALL}
	if err := p.Write(page); err != nil {
		fmt.Println(err)
		return
	}
	offsets := p.Offsets(true)
	fmt.Println(offsets)
	fmt.Printf("% x\n", page[offsets.VtlCallOffset():][:12])
	// Output:
	// VtlCallOffset 0x10, VtlReturnOffset 0x20
	// 48 89 c8 b9 11 00 00 00 0f 01 c1 c3
}

// A set of processors, and the variable header of a call that takes it.
func ExampleVpSet() {
	var s hypercall.VpSet
	for _, vp := range []uint32{0, 5, 130} {
		s.Add(vp)
	}
	fmt.Printf("banks %#x, variable header %d\n", s.ValidBanksMask, s.NumBanks())
	for vp := range s.All(200) {
		fmt.Print(vp, " ")
	}
	// Output:
	// banks 0x5, variable header 2
	// 0 5 130
}
