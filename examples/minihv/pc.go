package main

import (
	"errors"
	"fmt"

	"github.com/govtx/vtx/asm"
	"github.com/govtx/vtx/ept"
	"github.com/govtx/vtx/hypercall"
	"github.com/govtx/vtx/ring0"
	"github.com/govtx/vtx/vmcs"
	"github.com/govtx/vtx/vmexit"
	"github.com/govtx/vtx/vtl"
)

// A pc is what an operating system is given as its machine: the processor with all that
// this hypervisor need not keep for itself; the interrupt controllers, timers, display and
// serial port of the real machine, without VM exits; and RAM of which the hypervisor is no part.
type pc struct {
	*guestMemory
	acpi  *acpi
	ports *vmexit.Ports

	windows windows

	copies     []ring0.Pages // of the firmware's tables
	ioBitmaps  ring0.Pages
	bitmaps    vmcs.IOBitmaps
	passes     *direct // the ports that these let through
	msrBitmaps [numLevels]ring0.Pages
	tscOffset  uint64         // of the guest's time-stamp counter from the processor's
	miscEnable uint64         // what the guest reads of IA32_MISC_ENABLE
	xcr0       uint64         // the host's, of which a guest can have all
	compacts   bool           // XSAVEC works
	secure     *vmexit.Ports  // VTL1's
	secureIO   vmexit.Handler // of them
	end        secureEnd      // VTL1's
	told       []e820         // what the guest is told of its memory
	hooked     bool           // the firmware's INT 15h tells it too
}

// The memory of a PC, by guest-physical address: 640 KiB, which begin as what the firmware
// has put there; display and firmware; and the rest, of which VTL1 has a part.
const (
	endOfLow   = 0xa0000
	beginHigh  = 1 << 20
	beginUpper = 4 << 20 // VTL1's memory, where Go programs are linked to be
	endUpper   = 64 << 20
	minMemory  = 96 << 20
)

// newPC returns a PC with a size of memory.
func newPC(caps *vmcs.Capabilities, size uint64) (*pc, error) {
	if size < minMemory || size%largePage != 0 || size >= 3<<30 {
		return nil, fmt.Errorf("the guest cannot have %d MiB of memory: %d MiB to 3 GiB, in steps of 2 MiB", size>>20, minMemory>>20)
	}
	tables, err := readACPI(ring0.Physical)
	if err != nil {
		return nil, err
	}
	ram, err := ring0.AllocAligned(int(size/pageSize), largePage, 0)
	if err != nil {
		free, _ := ring0.FreeMemory()
		return nil, fmt.Errorf("there are no %d MiB of memory in one piece for the guest (%d MiB are free in all): boot with more, or give it less (-memory)", size>>20, free>>20)
	}
	low, err := ring0.Physical(pageSize, endOfLow-pageSize)
	if err != nil {
		return nil, err
	}
	copy(ram.Bytes()[pageSize:], low)
	blocks := []block{{pageSize, endOfLow - pageSize, ram.Phys() + pageSize}, {beginHigh, size - beginHigh, ram.Phys() + beginHigh}}
	// Page 0, with the interrupt vectors, is the machine's own, which the host does not use.
	const endOfVideo = 0xc0000
	video := device{block{endOfLow, endOfVideo - endOfLow, endOfLow}, ept.Read | ept.Write} // no code
	devices := []device{{block{0, pageSize, 0}, ept.All}, video, {block{endOfVideo, beginHigh - endOfVideo, endOfVideo}, ept.All}}
	var copies []ring0.Pages
	for _, r := range ring0.MemoryMap() {
		if r.Kind == ring0.ACPITables || r.Kind == ring0.ACPINVS {
			begin, end := r.Start&^(pageSize-1), (r.End+pageSize-1)&^(pageSize-1)
			if begin < size {
				return nil, fmt.Errorf("the firmware's tables are at %#x: give the guest less memory (-memory)", begin)
			}
			original, err := ring0.Physical(begin, int(end-begin))
			if err != nil {
				return nil, err
			}
			c, err := ring0.AllocPages(int(end-begin) / pageSize)
			if err != nil {
				return nil, err
			}
			copy(c.Bytes(), original)
			copies = append(copies, c)
			devices = append(devices, device{block{begin, end - begin, c.Phys()}, ept.All})
		}
	}
	windows, err := newWindows(tables)
	if err != nil {
		return nil, err
	}
	m, err := mapMemory(caps, ram, blocks, devices)
	if err != nil {
		return nil, err
	}
	p := &pc{guestMemory: m, acpi: tables, windows: windows, copies: copies, xcr0: 3, miscEnable: readMiscEnable()}
	if asm.ReadCR4()&asm.CR4OSXSAVE != 0 {
		p.xcr0 = asm.XGETBV(0)
	}
	p.compacts = compacts(compacted(vmcs.Processor{}))
	pages, bitmaps, err := newIOBitmaps()
	if err != nil {
		return nil, err
	}
	p.ioBitmaps, p.bitmaps, p.passes = pages, bitmaps, new(direct)
	p.ports = newPorts(bitmaps, tables, p.passes)
	for i := range p.msrBitmaps {
		if p.msrBitmaps[i], err = ring0.AllocPages(1); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// free gives its memory back.
func (p *pc) free() {
	p.guestMemory.free()
	p.ioBitmaps.Free()
	for _, b := range append(p.copies, p.msrBitmaps[:]...) {
		b.Free()
	}
}

// memoryMap is what the guest is told: its own memory, and what the firmware says of the rest.
// What VTL1 has is reserved.
func (p *pc) memoryMap(secure, hooked bool) (list []e820) {
	size := p.blocks[len(p.blocks)-1].gpa + p.blocks[len(p.blocks)-1].size
	for _, r := range ring0.MemoryMap() {
		if r.Start < beginHigh && r.Kind == ring0.Usable {
			end := min(r.End, endOfLow)
			if hooked {
				end = min(end, hookAt)
			}
			list = append(list, e820{block{gpa: r.Start, size: end - r.Start}, r.Kind})
		}
	}
	if secure {
		list = append(list,
			e820{block{gpa: beginHigh, size: beginUpper - beginHigh}, ring0.Usable},
			e820{block{gpa: beginUpper, size: endUpper - beginUpper}, ring0.Reserved},
			e820{block{gpa: endUpper, size: size - endUpper}, ring0.Usable})
	} else {
		list = append(list, e820{block{gpa: beginHigh, size: size - beginHigh}, ring0.Usable})
	}
	for _, r := range ring0.MemoryMap() {
		if r.Kind != ring0.Usable && r.Kind < ring0.Loader {
			list = append(list, e820{block{gpa: r.Start, size: r.End - r.Start}, r.Kind})
		}
	}
	p.told, p.hooked = list, hooked
	return list
}

// pcPrivileges are what the guest of a PC may do.
const pcPrivileges = privileges&^hypercall.PrivilegeAccessIntrCtrlRegs | hypercall.PrivilegeAccessTscInvariantControls

// cpuid is what the guest is told: the processor, without what is not emulated, and with the
// hypervisor's interface, by which Windows and Linux know it.
func (p *pc) cpuid(native vmcs.CPUIDReader) *vmexit.CPUIDPolicy {
	const vendor = "Microsoft Hv"
	all := ^uint32(0)
	policy := vmexit.SnapshotCPUID(native).HideUnemulated().PresentHypervisor(vendor, hypervisorLeaves(vendor, pcPrivileges, 1)...).
		// WAITPKG, and protection keys, which the host's XCR0 does not have
		Mask(7, 0, vmexit.CPUIDRegisters{EAX: all, EBX: all, ECX: ^uint32(1<<3 | 1<<4 | 1<<5), EDX: all}).
		Mask(0xd, 0, vmexit.CPUIDRegisters{EAX: uint32(p.xcr0), EBX: all, ECX: all, EDX: uint32(p.xcr0 >> 32)}).
		Mask(0xd, 1, vmexit.CPUIDRegisters{EAX: ^uint32(1 << 3), EBX: all}) // XSAVES
	if !p.compacts {
		const xsavec = 1 << 1
		policy.Mask(0xd, 1, vmexit.CPUIDRegisters{EAX: ^uint32(xsavec), EBX: all})
	}
	if p.miscEnable&fastStrings == 0 {
		// Nor are there faster ones. Linux 6.1 leaves ERMS out by itself then, but not FSRM, with
		// which its memmove takes ERMS for granted: less than 32 bytes overwrite all memory behind.
		const erms, fsrm, zeroOrShort = 1 << 9, 1 << 4, 7 << 10
		policy.Mask(7, 0, vmexit.CPUIDRegisters{EAX: all, EBX: ^uint32(erms), ECX: all, EDX: ^uint32(fsrm)}).
			Mask(7, 1, vmexit.CPUIDRegisters{EAX: ^uint32(zeroOrShort), EBX: all, ECX: all, EDX: all})
	}
	const x2APIC = 1 << 21
	if _, _, features, _ := native.ReadCPUID(1, 0); features&x2APIC != 0 {
		r := policy.Lookup(1, 0)
		r.ECX |= x2APIC
		policy.Set(1, 0, r)
	}
	const avx512 = 7 << 5 // of XCR0
	if p.xcr0&avx512 != avx512 {
		policy.Mask(7, 0, vmexit.CPUIDRegisters{EAX: all,
			EBX: ^uint32(1<<16 | 1<<17 | 1<<21 | 1<<26 | 1<<27 | 1<<28 | 1<<30 | 1<<31),
			ECX: ^uint32(1<<1 | 1<<6 | 1<<11 | 1<<12 | 1<<14), EDX: ^uint32(1<<2 | 1<<3 | 1<<8)})
	}
	return policy
}

// msrs adds to a policy what the guest of a PC has besides.
func (p *pc) msrs(policy *vmexit.MSRPolicy) *vmexit.MSRPolicy {
	for _, n := range switched {
		policy.Set(n, switchedMSR)
	}
	policy.Set(msrTSCAux, vmexit.AllowMSR()) // the host does not use it
	policy.Set(msrAPICBase, vmexit.MSRRule{
		Read: func(_ *vmexit.Exit, msr uint32) (uint64, bool) { return asm.RDMSR(msr), true },
		// The local APIC stays where it is. It can be turned off, on again, and to x2APIC mode.
		Write: func(_ *vmexit.Exit, msr uint32, v uint64) bool {
			const modes = 3 << 10
			if (v^asm.RDMSR(msr))&^modes != 0 {
				return false
			}
			return asm.WRMSRSafe(msr, v) == nil
		},
	})
	apicMSRs(policy)
	// The time-stamp counter is the processor's, and was always invariant.
	invariant := uint64(0)
	policy.Set(uint32(hypercall.MSRTSCInvariantControl), vmexit.MSRRule{
		Read: func(*vmexit.Exit, uint32) (uint64, bool) { return invariant, true },
		Write: func(_ *vmexit.Exit, _ uint32, v uint64) bool {
			if v > 1 {
				return false
			}
			invariant = v
			return true
		},
	})
	const biosSignature, platformID = 0x8b, 0x17
	policy.Set(biosSignature, vmexit.IgnoreMSR(0)).Set(platformID, vmexit.ValueMSR(0)).
		Set(msrMiscEnable, vmexit.IgnoreMSR(p.miscEnable)).
		Set(msrTSC, vmexit.MSRRule{Read: policy.Rule(msrTSC).Read, Write: setTSC})
	return policy
}

// fastStrings is a bit of IA32_MISC_ENABLE.
const fastStrings = 1

// readMiscEnable is what the guest reads of IA32_MISC_ENABLE: whether strings are fast, as the
// processor says it. One that does not have the register is an emulator, for which they are
// loops; a kernel that was told otherwise would clear and copy pages with them.
func readMiscEnable() uint64 {
	v, err := asm.RDMSRSafe(msrMiscEnable)
	if err != nil {
		return 0
	}
	return v & fastStrings
}

// setTSC writes the time-stamp counter, which levels share: the offset of each from the
// processor's.
func setTSC(x *vmexit.Exit, _ uint32, v uint64) bool {
	p := processorOf(x)
	p.pc.tscOffset = v - asm.RDTSC()
	for i := range p.levels {
		l := &p.levels[i]
		if !l.begun {
			continue // it will find the offset
		}
		if err := p.with(l, func() error { return vmcs.Current{}.Write(vmcs.TSCOffset, p.pc.tscOffset) }); err != nil {
			x.Fail(err)
			return false
		}
	}
	return true
}

// setControls sets what a VMCS says on how a level runs. VTL0 has what can be had without VM
// exits. VTL1 has no devices, and no use for halting, which would halt VTL0 too.
func (p *pc) setControls(m *vmcs.Image, caps *vmcs.Capabilities, number vtl.VTL) error {
	// RDPMC, MONITOR and MWAIT are not in the guest's CPUID.
	primary := vmcs.PrimaryUseTSCOffsetting | vmcs.PrimaryRDPMCExiting | vmcs.PrimaryMONITORExiting | vmcs.PrimaryMWAITExiting
	m.Set(vmcs.TSCOffset, p.tscOffset)
	if number == 0 {
		primary |= vmcs.PrimaryUseIOBitmaps
	} else {
		primary |= vmcs.PrimaryUnconditionalIOExiting | vmcs.PrimaryHLTExiting
	}
	secondary, err := vmcs.Settle(caps, vmcs.SecondaryEnableEPT|vmcs.SecondaryUnrestrictedGuest,
		vmcs.SecondaryEnableRDTSCP|vmcs.SecondaryEnableINVPCID, 0)
	if err != nil {
		return err
	}
	m.Set(vmcs.SecondaryProcessorBasedControls, uint64(secondary))
	m.Set(vmcs.IOBitmapA, p.ioBitmaps.Phys())
	m.Set(vmcs.IOBitmapB, p.ioBitmaps.Phys()+pageSize)
	m.Set(vmcs.MSRBitmaps, p.msrBitmaps[number].Phys())
	// The timer gives the hypervisor its turn. NMIs are VTL0's.
	pin := vmcs.PinActivateVMXPreemptionTimer
	m.Set(vmcs.PreemptionTimerValue, tickEvery)
	if number > 0 {
		pin |= vmcs.PinNMIExiting
	}
	return errors.Join(
		settle(m, caps, pin),
		settle(m, caps, primary|vmcs.PrimaryUseMSRBitmaps|vmcs.PrimaryActivateSecondaryControls))
}

// intercept has the MSRs exit of which a higher level wants to know.
func (p *pc) intercept(number vtl.VTL, guard hypercall.CrInterceptControl, policy *vmexit.MSRPolicy) error {
	m, err := vmcs.MSRBitmapOf(p.msrBitmaps[number].Bytes())
	if err != nil {
		return err
	}
	if err := policy.FillBitmap(m); err != nil {
		return err
	}
	for _, n := range switched {
		if err := m.Pass(n, vmcs.MSRRead|vmcs.MSRWrite); err != nil {
			return err
		}
	}
	for _, g := range guardedMSRs {
		if guard&g.read != 0 {
			m.Intercept(g.msr, vmcs.MSRRead)
		}
		if guard&g.write != 0 {
			m.Intercept(g.msr, vmcs.MSRWrite)
		}
	}
	return nil
}

// guardedMSRs are those that could be used without a VM exit, and that levels can guard.
var guardedMSRs = []struct {
	msr         uint32
	read, write hypercall.CrInterceptControl
}{
	{msrLSTAR, hypercall.CrInterceptMsrLstarRead, hypercall.CrInterceptMsrLstarWrite},
	{msrSTAR, hypercall.CrInterceptMsrStarRead, hypercall.CrInterceptMsrStarWrite},
	{msrCSTAR, hypercall.CrInterceptMsrCstarRead, hypercall.CrInterceptMsrCstarWrite},
	{msrFMASK, 0, hypercall.CrInterceptMsrSfmaskWrite},
	{msrTSCAux, 0, hypercall.CrInterceptMsrTscAuxWrite},
	{msrSysenterCS, 0, hypercall.CrInterceptMsrSysenterCsWrite},
	{msrSysenterESP, 0, hypercall.CrInterceptMsrSysenterEspWrite},
	{msrSysenterEIP, 0, hypercall.CrInterceptMsrSysenterEipWrite},
	{msrEFER, hypercall.CrInterceptMsrEferRead, hypercall.CrInterceptMsrEferWrite},
}
