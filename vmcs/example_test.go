package vmcs_test

import (
	"fmt"

	"github.com/govtx/vtx/vmcs"
)

// Put a VMCS together for a processor, and have it checked before it is tried: here
// for Bochs' Tiger Lake, with a mistake.
func ExampleCheck() {
	caps, err := vmcs.Model("bochs_tigerlake")
	if err != nil {
		fmt.Println(err)
		return
	}
	var m vmcs.Image

	// Controls: 64-bit code on both sides.
	for _, c := range []struct {
		g    vmcs.ControlGroup
		want uint64
	}{
		{vmcs.GroupPin, 0},
		{vmcs.GroupPrimary, uint64(vmcs.PrimaryHLTExiting)},
		{vmcs.GroupExit, uint64(vmcs.ExitHostAddressSpaceSize)},
		{vmcs.GroupEntry, uint64(vmcs.EntryIA32eModeGuest)},
	} {
		v, err := caps.SettleBits(c.g, c.want, 0, 0)
		if err != nil {
			fmt.Println(err)
			return
		}
		m.Set(c.g.Field(), v)
	}
	m.Set(vmcs.VMCSLinkPointer, ^uint64(0))

	// The host, as a VM exit shall find it.
	m.Set(vmcs.HostCR0, caps.FixedCR0(1<<31|1, false))
	m.Set(vmcs.HostCR3, 0x1000)
	m.Set(vmcs.HostCR4, caps.FixedCR4(1<<5))
	m.Set(vmcs.HostCSSelector, 0x08)
	m.Set(vmcs.HostSSSelector, 0x10)
	m.Set(vmcs.HostTRSelector, 0x18)
	m.Set(vmcs.HostRIP, 0xffff800000100000)

	// The guest: 64-bit mode, flat segments, interrupts off.
	m.Set(vmcs.GuestCR0, caps.FixedCR0(1<<31|1, false))
	m.Set(vmcs.GuestCR3, 0x2000)
	m.Set(vmcs.GuestCR4, caps.FixedCR4(1<<5))
	m.Set(vmcs.GuestRIP, 0x8000)
	m.Set(vmcs.GuestRFLAGS, 0) // the mistake: bit 1 is always 1
	data := vmcs.FlatData(0)
	segments := vmcs.Segments{
		vmcs.ES: data, vmcs.CS: vmcs.FlatCode64(0), vmcs.SS: data, vmcs.DS: data, vmcs.FS: data, vmcs.GS: data,
		vmcs.LDTR: vmcs.UnusableSegment(), vmcs.TR: vmcs.TaskState(0, 0, 0x67),
	}
	if err := segments.Write(&m); err != nil {
		fmt.Println(err)
		return
	}
	m.Fill(caps) // all other fields are 0

	report := vmcs.Check(&m, caps)
	fmt.Println(report.Err())
	fmt.Println(report.Outcome())

	m.Set(vmcs.GuestRFLAGS, 2)
	report = vmcs.Check(&m, caps)
	fmt.Println(report.OK())
	// Output:
	// guest.rflags.reserved: bits 63:22, 15, 5 and 3 of guest RFLAGS must be 0, and bit 1 must be 1 (SDM Vol. 3C 27.3.1.4): GuestRFLAGS = 0x0
	// VM exit with reason 0x80000021 (VM-entry failure due to invalid guest state), exit qualification 0
	// true
}

// A Shadow stands for the current VMCS in tests of code that runs in ring 0.
func ExampleShadow() {
	caps, err := vmcs.Model("bochs_corei7_skylake_x")
	if err != nil {
		fmt.Println(err)
		return
	}
	var current vmcs.ReadWriter = vmcs.NewShadow(caps)
	fmt.Println(current.Write(vmcs.GuestRIP, 0x1000))
	fmt.Println(current.Write(vmcs.ExitReason, 1) == nil, "where IA32_VMX_MISC[29] is", caps.Misc.WritesExitInformation())
	fmt.Println(current.Write(vmcs.HLATPointer, 0))
	// Output:
	// <nil>
	// true where IA32_VMX_MISC[29] is true
	// vmcs: write of HLATPointer (0x2040): VM-instruction error 12: VMREAD/VMWRITE from/to unsupported VMCS component
}

func ExampleField() {
	f, err := vmcs.ParseField("Guest CR0")
	fmt.Println(f, err)
	fmt.Printf("%#x: %v bits, %v, %s\n", uint32(f), f.Width(), f.Type(), f.Section())
	fmt.Println(vmcs.GuestPAT.Depends())
	fmt.Println(vmcs.Field(0x2407), vmcs.Field(0x1234))
	// Output:
	// GuestCR0 <nil>
	// 0x6800: natural bits, guest state, 25.4.1
	// "Load IA32_PAT" of the VM-entry controls or "Save IA32_PAT" of the primary VM-exit controls
	// ExtendedInstructionInformationHigh Field(0x1234)
}
