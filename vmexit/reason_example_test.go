package vmexit_test

import (
	"fmt"

	"github.com/govtx/vtx/asm"
	"github.com/govtx/vtx/vmcs"
	"github.com/govtx/vtx/vmexit"
)

func ExampleBasic() {
	b, err := vmexit.ParseBasic("EPT violation")
	fmt.Println(b, err)
	fmt.Printf("%d: %s, a %v, section %s\n", b, b.SDMName(), b.Kind(), b.Section())
	fmt.Println("guest-physical address:", b.PhysicalAddress())
	fmt.Println("guest-linear address:", b.LinearAddress())
	fmt.Println(vmexit.Basic(35), vmexit.Reason(0x80000021))
	// Output:
	// EPTViolation <nil>
	// 48: EPT violation, a fault, section 29.3.3.2
	// guest-physical address: always
	// guest-linear address: sometimes
	// Basic(35) InvalidGuestState, entry failure
}

func ExampleDescribe() {
	fmt.Println(vmexit.Describe(vmexit.Reason(vmexit.EPTViolation), 0, 0x1aa))
	fmt.Println(vmexit.Describe(vmexit.Reason(vmexit.IOInstruction), 0, 0x03f80000))
	pageFault := vmcs.InterruptionInfo(0x80000b0e)
	fmt.Println(vmexit.Describe(vmexit.Reason(vmexit.ExceptionOrNMI), pageFault, 0x7fff0000))
	// Output:
	// write; EPT rights R-X; translation of the linear address
	// OUT, port 0x3f8 (DX), 8 bits
	// linear address 0x7fff0000
}

// A guest moves to CR3.
func ExampleCRAccessQualification() {
	q := vmexit.CRAccessQualification(0x203)
	if q.Type() == vmexit.MOVToCR && q.CR() == 3 {
		fmt.Println("new CR3 in", q.Register())
	}
	// Output: new CR3 in RDX
}

// A nested hypervisor executes INVEPT with a descriptor at [rax+rcx*8-8].
func ExampleReadAddress() {
	var m vmcs.Image // stands for the current VMCS
	m.Set(vmcs.GuestCR0, 0x80000021)
	m.Set(vmcs.GuestCR4, 0x2020)
	m.Set(vmcs.GuestRFLAGS, 2)
	m.Set(vmcs.VMEntryControls, uint64(vmcs.EntryIA32eModeGuest))
	segments := vmcs.Segments{vmcs.CS: vmcs.FlatCode64(0x08), vmcs.DS: vmcs.FlatData(0x10)}
	if err := segments.Write(&m); err != nil {
		fmt.Println(err)
		return
	}
	guest := asm.Guest{Regs: [16]uint64{asm.RAX: 0xffff800000001000, asm.RCX: 2, asm.RDX: 1}}

	info := vmexit.InvalidationInformation(0x20058103)
	fmt.Println(info)
	displacement := ^uint64(8) + 1 // the exit qualification: -8
	at, err := vmexit.ReadAddress(&m, info.Operand(), displacement, &guest.Regs)
	fmt.Printf("%v: %#x %v\n", at.Mode, at.Linear, err)
	if e, raised := at.Check(16, false); raised {
		fmt.Println("inject", e)
	}
	// Output:
	// type in RDX, descriptor at DS:[RAX+RCX*8], 64-bit address
	// 64-bit mode: 0xffff800000001008 <nil>
}

// A page fault came up while a #GP was being delivered, and the guest is to have it.
func ExampleCombine() {
	interrupted, _ := vmexit.Interrupted(0x80000b0d, 0x18, 0)
	fault, _ := vmexit.EventOf(0x80000b0e, 2, 0)
	fmt.Println(vmexit.Combine(interrupted.Event, fault))
	fmt.Println(vmexit.Combine(fault, interrupted.Event))
	// Output:
	// hardware exception #PF, error code 0x2 serial
	// hardware exception #DF, error code 0x0 double fault
}
