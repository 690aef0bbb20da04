package vmexit_test

import (
	"fmt"

	"github.com/govtx/vtx/asm"
	"github.com/govtx/vtx/vmcs"
	"github.com/govtx/vtx/vmexit"
)

// A processor is presented without VMX, with a hypervisor of one's own.
func ExampleCPUIDPolicy() {
	recorded, err := vmcs.RecordedModel(vmcs.Models()[0])
	if err != nil {
		fmt.Println(err)
		return
	}
	policy := vmexit.SnapshotCPUID(recorded.CPUID()).HideVMX().
		PresentHypervisor("My own", vmexit.CPUIDRegisters{EAX: 1})
	const vmx, hypervisor = 1 << 5, 1 << 31
	features := policy.Lookup(1, 0).ECX
	fmt.Println("VMX:", features&vmx != 0, "hypervisor:", features&hypervisor != 0)
	fmt.Printf("highest leaf: %#x\n", policy.Lookup(0x40000000, 0).EAX)
	// Output:
	// VMX: false hypervisor: true
	// highest leaf: 0x40000001
}

// An MSR with a value, one that the guest may write, and a bitmap for the rest.
func ExampleMSRPolicy() {
	var scratch uint64
	policy := vmexit.NewMSRPolicy(vmexit.DenyMSR()).
		Set(0x8b, vmexit.ValueMSR(0)). // IA32_BIOS_SIGN_ID
		Set(0x40000000, vmexit.MSRRule{
			Read:  func(*vmexit.Exit, uint32) (uint64, bool) { return scratch, true },
			Write: func(_ *vmexit.Exit, _ uint32, v uint64) bool { scratch = v; return true },
		})
	x := &vmexit.Exit{Guest: new(asm.Guest), VMCS: new(vmcs.Image)}
	x.Guest.Regs[asm.RCX] = 0x40000000
	x.Guest.Regs[asm.RAX], x.Guest.Regs[asm.RDX] = 2, 1
	fmt.Printf("%v, %#x\n", policy.WRMSR()(x), scratch)
	// Output:
	// resume, 0x100000002
}

// Exits are counted by a layer over all handlers.
func ExampleCounter() {
	counter := new(vmexit.Counter)
	dispatcher := vmexit.NewBuilder().Handle(vmexit.PAUSE, vmexit.Nothing).OverAll(counter.Layer).Build()
	x := &vmexit.Exit{Guest: &asm.Guest{Reason: uint32(vmexit.PAUSE)}, VMCS: new(vmcs.Image)}
	fmt.Println(dispatcher.Dispatch(x), counter.Count(vmexit.PAUSE), counter.Total())
	// Output:
	// resume 1 1
}
