package main

import (
	"encoding/binary"
	"fmt"

	"github.com/govtx/vtx/asm"
	"github.com/govtx/vtx/ring0"
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
	caps  capabilities
	ept   *ept
	vmcs  ring0.Pages
	exits map[uint32]int // by basic reason
}

func newVM(caps capabilities) (*vm, error) {
	v := &vm{caps: caps, exits: make(map[uint32]int)}
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

	if v.vmcs, err = caps.region(); err != nil {
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

type field struct {
	encoding uint32
	value    uint64
}

// setup fills the VMCS: how the guest runs, what this thread is when it comes
// back, and where the guest begins.
func (v *vm) setup() error {
	fields := append(v.hostState(), v.guestState()...)
	const (
		interruptExiting = 1 << 0  // pin-based
		hltExiting       = 1 << 7  // primary
		useSecondary     = 1 << 31 // primary
		enableEPT        = 1 << 1  // secondary
		host64           = 1 << 9  // exit
		exitSaveEFER     = 1 << 20 // exit
		exitLoadEFER     = 1 << 21 // exit
		guest64          = 1 << 9  // entry
		entryLoadEFER    = 1 << 15 // entry
	)
	for _, c := range []struct{ field, msr, want uint32 }{
		{pinControls, msrPinControls, interruptExiting},
		{primaryControls, msrPrimary, hltExiting | useSecondary},
		{secondControls, msrSecondary, enableEPT},
		{exitControls, msrExitControls, host64 | exitSaveEFER | exitLoadEFER},
		{entryControls, msrEntryControls, guest64 | entryLoadEFER},
	} {
		value, err := v.caps.controls(c.msr, c.want)
		if err != nil {
			return err
		}
		fields = append(fields, field{c.field, value})
	}
	fields = append(fields,
		field{eptPointer, v.ept.pointer()}, field{vmcsLink, ^uint64(0)},
		field{exceptionBitmap, 0}, field{cr3TargetCount, 0}, field{entryEvent, 0},
		field{exitStoreCount, 0}, field{exitLoadCount, 0}, field{entryLoadCount, 0},
		field{cr0Mask, 0}, field{cr4Mask, 0}, field{cr0Shadow, 0}, field{cr4Shadow, 0})
	for _, f := range fields {
		if s := asm.VMWRITE(f.encoding, f.value); s != asm.Succeed {
			return fmt.Errorf("VMWRITE of %#x to field %#x: %v", f.value, f.encoding, s)
		}
	}
	v.RIP = guestEntry
	return nil
}

// hostState is what every VM exit loads: this thread, as it is now. HOST_RSP
// and HOST_RIP are Enter's.
func (v *vm) hostState() []field {
	gdt, idt, tr := asm.SGDT(), asm.SIDT(), asm.STR()
	return []field{
		{hostES + 2*segES, uint64(asm.ReadES())}, {hostES + 2*segCS, uint64(asm.ReadCS())},
		{hostES + 2*segSS, uint64(asm.ReadSS())}, {hostES + 2*segDS, uint64(asm.ReadDS())},
		{hostES + 2*segFS, uint64(asm.ReadFS())}, {hostES + 2*segGS, uint64(asm.ReadGS())},
		{hostES + 2*segLDTR, uint64(tr)}, // the list of host selectors has no LDTR: TR is next
		{hostCR0, asm.ReadCR0()}, {hostCR3, asm.ReadCR3()}, {hostCR4, asm.ReadCR4()},
		{hostFSBase, asm.RDMSR(msrFSBase)}, {hostGSBase, asm.RDMSR(msrGSBase)},
		{hostTRBase, segmentBase(gdt, tr)}, {hostGDTRBase, gdt.Base}, {hostIDTRBase, idt.Base},
		{hostSysenterCS, asm.RDMSR(msrSysenterCS)}, {hostSysenterESP, asm.RDMSR(msrSysenterESP)},
		{hostSysenterEIP, asm.RDMSR(msrSysenterEIP)}, {hostEFER, asm.RDMSR(msrEFER)},
	}
}

// segmentBase reads the base out of a 16-byte system descriptor
// (SDM Vol. 3A 8.2.3).
func segmentBase(gdt asm.DescriptorTable, selector uint16) uint64 {
	d, err := ring0.Physical(gdt.Base+uint64(selector&^7), 16)
	if err != nil {
		return 0 // the entry check refuses what does not fit
	}
	low, high := binary.LittleEndian.Uint64(d), binary.LittleEndian.Uint64(d[8:])
	return low>>16&0xffffff | low>>56<<24 | high<<32
}

// guestState is a 64-bit processor with paging on, flat segments, interrupts
// off, about to run the guest's first instruction.
func (v *vm) guestState() []field {
	const (
		code64   = 0xa09b // access rights: present, code, read, accessed, long
		data     = 0xc093 // present, data, write, accessed, big, 4 KiB units
		busyTSS  = 0x008b
		unusable = 1 << 16
		pe, ne   = 1 << 0, 1 << 5
		et, pg   = 1 << 4, 1 << 31
		pae      = 1 << 5
		lme, lma = 1 << 8, 1 << 10
	)
	fixed := func(want uint64, fixed0 uint32) uint64 {
		return (want | asm.RDMSR(fixed0)) & asm.RDMSR(fixed0+1)
	}
	fields := []field{
		{guestCR0, fixed(pe|et|ne|pg, msrCR0Fixed0)}, {guestCR3, guestTables},
		{guestCR4, fixed(pae, msrCR4Fixed0)}, {guestEFER, lme | lma},
		{guestRSP, guestStack}, {guestRFLAGS, 2}, {guestDR7, 0x400}, {guestDebugCtl, 0},
		{guestGDTRLimit, 0}, {guestIDTRLimit, 0},
		{guestESBase + 2*segments, 0}, {guestESBase + 2*(segments+1), 0},
		{interruptibility, 0}, {activityState, 0}, {pendingDebug, 0},
		{guestSysenterCS, 0}, {guestSysenterESP, 0}, {guestSysenterEIP, 0},
	}
	for seg := uint32(segES); seg < segments; seg++ {
		rights, limit := uint64(data), uint64(0xffffffff)
		switch seg {
		case segCS:
			rights = code64
		case segLDTR:
			rights, limit = unusable, 0
		case segTR:
			rights, limit = busyTSS, 0x67
		}
		fields = append(fields, field{guestES + 2*seg, 0}, field{guestESBase + 2*seg, 0},
			field{guestESLimit + 2*seg, limit}, field{guestESRights + 2*seg, rights})
	}
	return fields
}

// read reads a field of the current VMCS. It is for fields that every VMCS has.
func read(encoding uint32) uint64 {
	value, status := asm.VMREAD(encoding)
	if status != asm.Succeed {
		panic(fmt.Sprintf("VMREAD of field %#x: %v", encoding, status))
	}
	return value
}
