package main

import (
	"encoding/binary"
	"fmt"

	"github.com/govtx/vtx/asm"
	"github.com/govtx/vtx/ring0"
	"github.com/govtx/vtx/vmcs"
	"github.com/govtx/vtx/vmexit"
)

// The guest's physical memory: 64 KiB from 0, with its page tables, its code and
// its stack. The page at guestHole appears when the guest touches it.
const (
	guestMemory = 16 * ring0.PageSize
	guestTables = 0x1000 // PML4, PDPT and page directory
	guestEntry  = 0x8000
	guestStack  = 0x10000
	guestHole   = 0x100000
)

// A vm is one virtual machine with one processor.
type vm struct {
	asm.Guest
	caps  *vmcs.Capabilities
	ept   *ept
	vmcs  ring0.Pages
	exits vmexit.Counter

	done   string // what was done about the exit in hand, in words
	halted bool
}

func newVM(caps *vmcs.Capabilities) (*vm, error) {
	v := &vm{caps: caps}
	memory, err := ring0.AllocPages(guestMemory / ring0.PageSize)
	if err != nil {
		return nil, err
	}
	if v.ept, err = newEPT(); err != nil {
		return nil, err
	}
	for gpa := uint64(0); gpa < guestMemory; gpa += ring0.PageSize {
		if err := v.ept.mapPage(gpa, memory.Phys()+gpa); err != nil {
			return nil, err
		}
	}

	// The guest's own paging maps its first 2 MiB to themselves by one large
	// page: present, writable, and in the last level large.
	b := memory.Bytes()
	binary.LittleEndian.PutUint64(b[guestTables:], guestTables+0x1000|3)
	binary.LittleEndian.PutUint64(b[guestTables+0x1000:], guestTables+0x2000|3)
	binary.LittleEndian.PutUint64(b[guestTables+0x2000:], 0|0x83)
	copy(b[guestEntry:], guestCode())

	if v.vmcs, err = newRegion(caps); err != nil {
		return nil, err
	}
	if s := asm.VMCLEAR(v.vmcs.Phys()); s != asm.Succeed {
		return nil, fmt.Errorf("VMCLEAR: %v", s)
	}
	if s := asm.VMPTRLD(v.vmcs.Phys()); s != asm.Succeed {
		return nil, fmt.Errorf("VMPTRLD: %v", s)
	}
	return v, v.setup()
}

// setup fills the VMCS: how the guest runs, what this thread is when it comes
// back, and where the guest begins. The fields are put together in an image, in
// which those that nobody sets are 0.
func (v *vm) setup() error {
	var m vmcs.Image
	if err := v.setControls(&m); err != nil {
		return err
	}
	if err := setHostState(&m); err != nil {
		return err
	}
	if err := v.setGuestState(&m); err != nil {
		return err
	}
	m.Fill(v.caps)
	v.RIP = guestEntry
	return vmcs.Copy(vmcs.Current{}, &m)
}

// settle settles one group of controls: the wanted bits, and those that the
// processor insists on.
func settle[C vmcs.Controls](m *vmcs.Image, caps *vmcs.Capabilities, wanted C) error {
	value, err := vmcs.Settle(caps, wanted, 0, 0)
	if err == nil {
		m.Set(wanted.ControlGroup().Field(), uint64(value))
	}
	return err
}

func (v *vm) setControls(m *vmcs.Image) error {
	for _, err := range []error{
		settle(m, v.caps, vmcs.PinExternalInterruptExiting),
		settle(m, v.caps, vmcs.PrimaryHLTExiting|vmcs.PrimaryActivateSecondaryControls),
		settle(m, v.caps, vmcs.SecondaryEnableEPT),
		settle(m, v.caps, vmcs.ExitHostAddressSpaceSize|vmcs.ExitSaveIA32EFER|vmcs.ExitLoadIA32EFER),
		settle(m, v.caps, vmcs.EntryIA32eModeGuest|vmcs.EntryLoadIA32EFER),
	} {
		if err != nil {
			return err
		}
	}
	m.Set(vmcs.EPTPointer, v.ept.pointer())
	m.Set(vmcs.VMCSLinkPointer, ^uint64(0))
	return nil
}

// MSRs of the host's state (SDM Vol. 4, table 2-2).
const (
	msrSysenterCS  = 0x174
	msrSysenterESP = 0x175
	msrSysenterEIP = 0x176
	msrEFER        = 0xc0000080
	msrFSBase      = 0xc0000100
	msrGSBase      = 0xc0000101
)

// setHostState sets what every VM exit loads: this thread, as it is now. HOST_RSP
// and HOST_RIP are Enter's.
func setHostState(m *vmcs.Image) error {
	gdt, tr := asm.SGDT(), asm.STR()
	table, err := ring0.Physical(gdt.Base, int(gdt.Limit)+1)
	if err != nil {
		return err
	}
	tss, err := (&vmcs.DescriptorTables{GDT: table, IA32e: true}).Load(tr)
	if err != nil {
		return err
	}
	m.Set(vmcs.HostESSelector, uint64(asm.ReadES()))
	m.Set(vmcs.HostCSSelector, uint64(asm.ReadCS()))
	m.Set(vmcs.HostSSSelector, uint64(asm.ReadSS()))
	m.Set(vmcs.HostDSSelector, uint64(asm.ReadDS()))
	m.Set(vmcs.HostFSSelector, uint64(asm.ReadFS()))
	m.Set(vmcs.HostGSSelector, uint64(asm.ReadGS()))
	m.Set(vmcs.HostTRSelector, uint64(tr))
	m.Set(vmcs.HostCR0, asm.ReadCR0())
	m.Set(vmcs.HostCR3, asm.ReadCR3())
	m.Set(vmcs.HostCR4, asm.ReadCR4())
	m.Set(vmcs.HostFSBase, asm.RDMSR(msrFSBase))
	m.Set(vmcs.HostGSBase, asm.RDMSR(msrGSBase))
	m.Set(vmcs.HostTRBase, tss.Base)
	m.Set(vmcs.HostGDTRBase, gdt.Base)
	m.Set(vmcs.HostIDTRBase, asm.SIDT().Base)
	m.Set(vmcs.HostSysenterCS, asm.RDMSR(msrSysenterCS))
	m.Set(vmcs.HostSysenterESP, asm.RDMSR(msrSysenterESP))
	m.Set(vmcs.HostSysenterEIP, asm.RDMSR(msrSysenterEIP))
	m.Set(vmcs.HostEFER, asm.RDMSR(msrEFER))
	return nil
}

// setGuestState sets up a 64-bit processor with paging on, flat segments,
// interrupts off, about to run the guest's first instruction.
func (v *vm) setGuestState(m *vmcs.Image) error {
	m.Set(vmcs.GuestCR0, v.caps.FixedCR0(asm.CR0PE|asm.CR0ET|asm.CR0NE|asm.CR0PG, false))
	m.Set(vmcs.GuestCR3, guestTables)
	m.Set(vmcs.GuestCR4, v.caps.FixedCR4(asm.CR4PAE))
	m.Set(vmcs.GuestEFER, asm.EFERLME|asm.EFERLMA)
	m.Set(vmcs.GuestRSP, guestStack)
	m.Set(vmcs.GuestRFLAGS, 2)
	m.Set(vmcs.GuestDR7, 0x400)
	data := vmcs.FlatData(0)
	return (&vmcs.Segments{
		vmcs.ES: data, vmcs.CS: vmcs.FlatCode64(0), vmcs.SS: data, vmcs.DS: data, vmcs.FS: data, vmcs.GS: data,
		vmcs.LDTR: vmcs.UnusableSegment(), vmcs.TR: vmcs.TaskState(0, 0, 0x67),
	}).Write(m)
}

// explain says which rule a failed VM entry broke, as far as software can tell.
func (v *vm) explain() error {
	k := vmcs.Checker{Caps: v.caps, CurrentVMCS: v.vmcs.Phys()}
	report := k.Check(vmcs.Current{})
	if err := report.Err(); err != nil {
		return err
	}
	return fmt.Errorf("all %d rules that could be checked hold", report.Checked)
}
