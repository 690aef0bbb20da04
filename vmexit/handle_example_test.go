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

// A printer is a device with one port, to which a guest prints.
type printer struct{}

func (printer) In(port uint16, size int) (uint32, error) { return 0, nil }

func (printer) Out(port uint16, size int, v uint32) error {
	fmt.Printf("port %#x: %q\n", port, rune(v))
	return nil
}

// A dispatcher with all ready handlers, a device at a port, and two handlers of one's own.
// In a hypervisor Run takes it from VM exit to VM exit; here the exits are made up.
func ExampleDefaults() {
	recorded, err := vmcs.RecordedModel("bochs_tigerlake")
	if err != nil {
		fmt.Println(err)
		return
	}
	caps, err := recorded.Capabilities()
	if err != nil {
		fmt.Println(err)
		return
	}
	dispatcher := vmexit.Defaults(vmexit.Config{
		Capabilities: caps,
		CPUID:        vmexit.SnapshotCPUID(recorded.CPUID()).HideUnemulated(),
		Ports:        vmexit.NewPorts().Set(0x3f8, 0x3f8, printer{}),
		Hypercall: func(x *vmexit.Exit) vmexit.Outcome {
			x.Guest.Regs[asm.RAX] = x.Guest.Regs[asm.RCX] + 1
			return vmexit.Resume
		},
	}).Handle(vmexit.HLT, vmexit.Leave).Build()

	var image vmcs.Image
	image.Fill(caps)
	x := &vmexit.Exit{Guest: new(asm.Guest), VMCS: &image}
	exit := func(reason vmexit.Basic, qualification uint64) {
		x.Guest.Reason = uint32(reason)
		image.Set(vmcs.ExitQualification, qualification)
		x.Begin()
		outcome := dispatcher.Dispatch(x)
		fmt.Printf("%v: %v, RAX %#x, %v\n", reason, outcome, x.Guest.Regs[asm.RAX], x.Err())
	}
	exit(vmexit.CPUID, 0)
	x.Guest.Regs[asm.RCX] = 41
	exit(vmexit.VMCALL, 0)
	x.Guest.Regs[asm.RAX] = 'x'
	exit(vmexit.IOInstruction, 0x3f8<<16) // OUT DX, AL
	exit(vmexit.HLT, 0)
	exit(vmexit.TaskSwitch, 0)
	// Output:
	// CPUID: resume, RAX 0x1b, <nil>
	// VMCALL: resume, RAX 0x2a, <nil>
	// port 0x3f8: 'x'
	// IOInstruction: resume, RAX 0x78, <nil>
	// HLT: stop, RAX 0x78, <nil>
	// TaskSwitch: stop, RAX 0x78, vmexit: the guest switches tasks by hardware, which is not emulated
}
