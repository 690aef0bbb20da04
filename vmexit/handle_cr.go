package vmexit

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/govtx/vtx/asm"
	"github.com/govtx/vtx/vmcs"
)

// PhysicalMemory is a guest's physical memory, as package emulate has it too.
type PhysicalMemory interface {
	// ReadPhysical fills p with the bytes from a guest-physical address on,
	// WritePhysical stores them. An error says that there is no memory, and ends the run
	// unless it is a Refusal. p has 1 to 16 bytes, which are in one page of 4 KiB; it is not
	// valid after the call.
	ReadPhysical(gpa uint64, p []byte) error
	WritePhysical(gpa uint64, p []byte) error
}

// A Refusal is an error of PhysicalMemory or Translate that does not end the run: Refuse
// says how the guest goes on, as the handler of an EPT violation by the access would.
type Refusal interface {
	error
	Refuse(x *Exit) Outcome
}

// memoryError is what becomes of an exit whose handler cannot access the guest's memory.
func (x *Exit) memoryError(what string, err error) Outcome {
	var r Refusal
	if errors.As(err, &r) {
		return r.Refuse(x)
	}
	return x.Fail(fmt.Errorf("vmexit: %s at RIP %#x: %w", what, x.Guest.RIP, err))
}

// ControlRegisters handle what a guest does to its control registers: MOV to and from
// CR0, CR3, CR4 and CR8, CLTS, LMSW, and WRMSR of IA32_EFER. What a processor refuses
// with #GP they refuse; what it does besides, they do (SDM Vol. 2 MOV—Move to/from
// Control Registers; Vol. 3A 2.5, 4.1, 4.4.1, 10.8.5).
//
// The real register gets the bits that VMX operation asks for, and the guest reads
// its own: what differs is added to the guest/host mask. Set up the fields before the first
// guest; after that, any number of processors can use them.
type ControlRegisters struct {
	// Memory is needed for guests with PAE paging, whose page-directory pointers are
	// loaded and checked.
	Memory PhysicalMemory

	// LoadCR3 is told of a new CR3, when it has been found valid, in place of the field
	// GuestCR3 being set: for a hypervisor without EPT, whose page tables shadow the
	// guest's. ReadCR3 then gives the guest's value.
	LoadCR3 func(x *Exit, cr3 uint64)
	ReadCR3 func(x *Exit) uint64

	// LoadCR8 is told of a new task priority, 0 to 15; ReadCR8 gives it. Without
	// them it is in Exit.CR8.
	LoadCR8 func(x *Exit, priority uint8)
	ReadCR8 func(x *Exit) uint8

	caps         *vmcs.Capabilities
	cr4, efer    uint64 // the bits that the guest's processor has
	cr3Flags     uint64 // the bits of CR3 above the address: LAM
	physicalBits uint8
}

// cr4Features are the bits of CR4 by the feature flags that announce them (SDM Vol. 3A
// 2.5). What stands with leaf 0 every processor of today has.
var cr4Features = [...]struct {
	cr4           uint64
	leaf, subleaf uint32
	register, bit uint8 // EAX to EDX
}{
	{1<<0 | 1<<1, 1, 0, 3, 1}, // VME, PVI
	{1 << 2, 1, 0, 3, 4},      // TSD
	{asm.CR4DE, 1, 0, 3, 2},
	{asm.CR4PSE, 1, 0, 3, 3},
	{asm.CR4PAE, 1, 0, 3, 6},
	{1 << 6, 1, 0, 3, 7}, // MCE
	{asm.CR4PGE, 1, 0, 3, 13},
	{1 << 9, 1, 0, 3, 24},  // OSFXSR
	{1 << 10, 1, 0, 3, 25}, // OSXMMEXCPT
	{1 << 11, 7, 0, 2, 2},  // UMIP
	{asm.CR4LA57, 7, 0, 2, 16},
	{asm.CR4VMXE, 1, 0, 2, 5},
	{1 << 14, 1, 0, 2, 6}, // SMXE
	{1 << 16, 7, 0, 1, 0}, // FSGSBASE
	{asm.CR4PCIDE, 1, 0, 2, 17},
	{asm.CR4OSXSAVE, 1, 0, 2, 26},
	{1 << 19, 7, 0, 2, 23}, // KL
	{asm.CR4SMEP, 7, 0, 1, 7},
	{asm.CR4SMAP, 7, 0, 1, 20},
	{asm.CR4PKE, 7, 0, 2, 3},
	{asm.CR4CET, 7, 0, 2, 7},  // shadow stacks
	{asm.CR4CET, 7, 0, 3, 20}, // indirect-branch tracking
	{asm.CR4PKS, 7, 0, 2, 31},
	{1 << 25, 7, 0, 3, 5},  // UINTR
	{1 << 28, 7, 1, 0, 26}, // LAM_SUP
}

// NewControlRegisters returns control registers for a guest whose CPUID says what features
// it has, such as a *[CPUIDPolicy], on a processor with these capabilities.
func NewControlRegisters(caps *vmcs.Capabilities, cpuid vmcs.CPUIDReader) *ControlRegisters {
	cpu := vmcs.ReadCPU(cpuid)
	c := &ControlRegisters{caps: caps, cr4: asm.CR4PCE, efer: cpu.EFERValid, physicalBits: cpu.PhysicalAddressBits}
	highest, _, _, _ := cpuid.ReadCPUID(0, 0)
	for _, f := range cr4Features {
		if f.leaf > highest {
			continue
		}
		var r [4]uint32
		r[0], r[1], r[2], r[3] = cpuid.ReadCPUID(f.leaf, f.subleaf)
		if r[f.register]>>f.bit&1 != 0 {
			c.cr4 |= f.cr4
		}
	}
	c.cr4 &= caps.CR4Fixed1 // what the processor does not allow in VMX operation it lacks
	if cpu.LAM {
		c.cr3Flags = 3 << 61
	}
	return c
}

// Handle is the handler of CRAccess exits.
func (c *ControlRegisters) Handle(x *Exit) Outcome {
	q := CRAccessQualification(x.Qualification())
	switch q.Type() {
	case CLTS:
		return c.SetCR0(x, x.guestCR0()&^asm.CR0TS)
	case LMSW:
		const written = asm.CR0PE | asm.CR0MP | asm.CR0EM | asm.CR0TS
		old := x.guestCR0()
		return c.SetCR0(x, old&^(written&^asm.CR0PE)|uint64(q.LMSWSource())&written) // it never clears PE
	case MOVFromCR:
		return c.get(x, q)
	}
	v := x.Register(int(q.Register()))
	if !x.Code64() {
		v &= 0xffffffff
	}
	switch q.CR() {
	case 0:
		return c.SetCR0(x, v)
	case 3:
		return c.SetCR3(x, v)
	case 4:
		return c.SetCR4(x, v)
	case 8:
		return c.SetCR8(x, v)
	}
	return x.Fail(fmt.Errorf("vmexit: exit qualification %#x: %v: there is no such exit", uint64(q), q))
}

func (c *ControlRegisters) get(x *Exit, q CRAccessQualification) Outcome {
	var v uint64
	switch q.CR() {
	case 0:
		v = x.guestCR0()
	case 3:
		if c.ReadCR3 != nil {
			v = c.ReadCR3(x)
		} else {
			v = x.Read(vmcs.GuestCR3)
		}
	case 4:
		v = x.guestCR4()
	case 8:
		v = uint64(x.CR8)
		if c.ReadCR8 != nil {
			v = uint64(c.ReadCR8(x))
		}
	default:
		return x.Fail(fmt.Errorf("vmexit: exit qualification %#x: %v: there is no such exit", uint64(q), q))
	}
	if !x.Code64() {
		v &= 0xffffffff
	}
	x.SetRegister(int(q.Register()), v)
	return Resume
}

// SetCR0 does what MOV to CR0 with this value does.
func (c *ControlRegisters) SetCR0(x *Exit, v uint64) Outcome {
	const (
		bits    = asm.CR0PE | asm.CR0MP | asm.CR0EM | asm.CR0TS | asm.CR0ET | asm.CR0NE | asm.CR0WP | asm.CR0AM | asm.CR0NW | asm.CR0CD | asm.CR0PG
		hostBit = asm.CR0NW | asm.CR0CD // VM entries and exits do not load them: caching is the host's
	)
	old, cr4 := x.guestCR0(), x.guestCR4()
	reserved := v >> 32
	v = v&bits | asm.CR0ET
	switch {
	case reserved != 0, v&(asm.CR0PG|asm.CR0PE) == asm.CR0PG, v&(asm.CR0NW|asm.CR0CD) == asm.CR0NW, v&asm.CR0WP == 0 && cr4&asm.CR4CET != 0:
		return x.Raise(vmcs.VectorGP, 0)
	}
	efer := c.readEFER(x)
	long := efer&asm.EFERLMA != 0
	switch {
	case v&asm.CR0PG != 0 && old&asm.CR0PG == 0 && efer&asm.EFERLME != 0:
		tss := vmcs.AccessRights(x.Read(vmcs.GuestTRAccessRights)).Type()
		if cr4&asm.CR4PAE == 0 || x.Read(vmcs.GuestCSAccessRights)&uint64(vmcs.RightsL) != 0 || tss != vmcs.TypeTSSBusy {
			return x.Raise(vmcs.VectorGP, 0)
		}
		long = true
	case v&asm.CR0PG == 0 && old&asm.CR0PG != 0:
		if x.Code64() || cr4&asm.CR4PCIDE != 0 {
			return x.Raise(vmcs.VectorGP, 0)
		}
		long = false
	}
	unrestricted := x.secondary()&vmcs.SecondaryUnrestrictedGuest != 0
	if !unrestricted && v&(asm.CR0PE|asm.CR0PG) != asm.CR0PE|asm.CR0PG {
		return x.Fail(fmt.Errorf("vmexit: the guest sets CR0 to 0x%x, without PE or PG: that takes the control \"unrestricted guest\"", v))
	}
	if v&asm.CR0PG != 0 && cr4&asm.CR4PAE != 0 && !long && (v^old)&(asm.CR0PG|asm.CR0CD|asm.CR0NW) != 0 {
		if o, ok := c.loadPDPTEs(x, c.cr3(x)); !ok {
			return o
		}
	}
	if long != (efer&asm.EFERLMA != 0) {
		c.setLongMode(x, efer, long)
	}
	c.write(x, vmcs.GuestCR0, v, c.caps.FixedCR0(v&^hostBit, unrestricted), hostBit)
	if (v^old)&asm.CR0PG != 0 {
		x.RequestFlush(FlushLinear)
	}
	return Resume
}

// SetCR3 does what MOV to CR3 with this value does.
func (c *ControlRegisters) SetCR3(x *Exit, v uint64) Outcome {
	const keep = 1 << 63 // with PCIDE: nothing is to be invalidated
	cr4, flush := x.guestCR4(), true
	if cr4&asm.CR4PCIDE != 0 {
		flush = v&keep == 0
		v &^= keep
	}
	if v&^c.cr3Flags>>c.physicalBits != 0 {
		return x.Raise(vmcs.VectorGP, 0)
	}
	if cr4&asm.CR4PAE != 0 && x.guestCR0()&asm.CR0PG != 0 && !x.longMode() {
		if o, ok := c.loadPDPTEs(x, v); !ok {
			return o
		}
	}
	if c.LoadCR3 != nil {
		c.LoadCR3(x, v)
	} else {
		x.Write(vmcs.GuestCR3, v)
	}
	if flush {
		x.RequestFlush(FlushLinear)
	}
	return Resume
}

// SetCR4 does what MOV to CR4 with this value does.
func (c *ControlRegisters) SetCR4(x *Exit, v uint64) Outcome {
	const (
		loads   = asm.CR4PAE | asm.CR4PGE | asm.CR4PSE | asm.CR4SMEP // what loads PDPTEs: SDM Vol. 3A 4.4.1
		flushes = loads | asm.CR4PCIDE | asm.CR4SMAP | asm.CR4PKE | asm.CR4PKS | asm.CR4LA57 | asm.CR4CET
	)
	old, cr0, long := x.guestCR4(), x.guestCR0(), x.longMode()
	switch {
	case v&^c.cr4 != 0,
		long && v&asm.CR4PAE == 0,
		long && (v^old)&asm.CR4LA57 != 0,
		v&asm.CR4CET != 0 && cr0&asm.CR0WP == 0,
		v&asm.CR4PCIDE != 0 && !long,
		v&asm.CR4PCIDE != 0 && old&asm.CR4PCIDE == 0 && c.cr3(x)&0xfff != 0:
		return x.Raise(vmcs.VectorGP, 0)
	}
	if v&asm.CR4PAE != 0 && cr0&asm.CR0PG != 0 && !long && (v^old)&loads != 0 {
		if o, ok := c.loadPDPTEs(x, c.cr3(x)); !ok {
			return o
		}
	}
	c.write(x, vmcs.GuestCR4, v, c.caps.FixedCR4(v), 0)
	if (v^old)&flushes != 0 {
		x.RequestFlush(FlushLinear)
	}
	return Resume
}

// SetCR8 does what MOV to CR8 with this value does.
func (c *ControlRegisters) SetCR8(x *Exit, v uint64) Outcome {
	switch {
	case v > 15:
		return x.Raise(vmcs.VectorGP, 0)
	case c.LoadCR8 != nil:
		c.LoadCR8(x, uint8(v))
	default:
		x.CR8 = uint8(v)
	}
	return Resume
}

// EFER is the rule for IA32_EFER, which the VMCS must hold: the controls "save
// IA32_EFER" and "load IA32_EFER" are 1. LMA follows CR0.PG, whatever is written
// (SDM Vol. 3A 2.2.1).
func (c *ControlRegisters) EFER() MSRRule {
	return MSRRule{
		Read: func(x *Exit, _ uint32) (uint64, bool) { return x.Read(vmcs.GuestEFER), true },
		Write: func(x *Exit, _ uint32, v uint64) bool {
			old := x.Read(vmcs.GuestEFER)
			if v&^c.efer != 0 || (v^old)&asm.EFERLME != 0 && x.guestCR0()&asm.CR0PG != 0 {
				return false
			}
			v = v&^asm.EFERLMA | old&asm.EFERLMA
			x.Write(vmcs.GuestEFER, v)
			if (v^old)&asm.EFERNXE != 0 {
				x.RequestFlush(FlushLinear)
			}
			return true
		},
	}
}

// readEFER returns IA32_EFER, 0 if the guest's processor has none.
func (c *ControlRegisters) readEFER(x *Exit) uint64 {
	if c.efer == 0 {
		return 0
	}
	return x.Read(vmcs.GuestEFER)
}

func (c *ControlRegisters) cr3(x *Exit) uint64 {
	if c.ReadCR3 != nil {
		return c.ReadCR3(x)
	}
	return x.Read(vmcs.GuestCR3)
}

// setLongMode turns IA-32e mode on or off.
func (c *ControlRegisters) setLongMode(x *Exit, efer uint64, on bool) {
	entry := x.Read(vmcs.VMEntryControls)
	if on {
		entry |= uint64(vmcs.EntryIA32eModeGuest)
		efer |= asm.EFERLMA
	} else {
		entry &^= uint64(vmcs.EntryIA32eModeGuest)
		efer &^= asm.EFERLMA
	}
	x.Write(vmcs.VMEntryControls, entry)
	x.Write(vmcs.GuestEFER, efer)
}

// write makes a control register real, and has the guest read v. Bits in which the two
// differ, and those in host, belong to the host from now on.
func (c *ControlRegisters) write(x *Exit, register vmcs.Field, v, real, host uint64) {
	maskField, shadowField := vmcs.CR0GuestHostMask, vmcs.CR0ReadShadow
	if register == vmcs.GuestCR4 {
		maskField, shadowField = vmcs.CR4GuestHostMask, vmcs.CR4ReadShadow
	}
	mask := x.Read(maskField)
	if more := mask | (v ^ real) | host; more != mask {
		mask = more
		x.Write(maskField, mask)
	}
	x.Write(shadowField, v&mask)
	x.Write(register, real)
}

// loadPDPTEs loads and checks the four page-directory-pointer-table entries of PAE
// paging (SDM Vol. 3A 4.4.1). Ok is false if the outcome is to be returned at once.
func (c *ControlRegisters) loadPDPTEs(x *Exit, cr3 uint64) (o Outcome, ok bool) {
	if c.Memory == nil {
		return x.Fail(fmt.Errorf("vmexit: the guest loads page-directory pointers from CR3 0x%x: set ControlRegisters.Memory", cr3)), false
	}
	var entries [4]uint64
	for i := range entries {
		p := x.buffer[:8]
		if err := c.Memory.ReadPhysical(cr3&0xffffffe0+uint64(8*i), p); err != nil {
			return x.memoryError(fmt.Sprintf("the guest's page-directory pointers for CR3 0x%x,", cr3), err), false
		}
		e := binary.LittleEndian.Uint64(p)
		const present, reserved = 1, 0x1e6
		if e&present != 0 && (e&reserved != 0 || e>>c.physicalBits != 0) {
			return x.Raise(vmcs.VectorGP, 0), false
		}
		entries[i] = e
	}
	if x.secondary()&vmcs.SecondaryEnableEPT != 0 {
		for i, e := range entries {
			x.Write(vmcs.GuestPDPTE0+vmcs.Field(2*i), e)
		}
	}
	return Resume, true
}

// XSETBV is the handler of XSETBV exits: it sets XCR0 for the guest, by
// [asm.Guest.SetXCR0] (SDM Vol. 2D XSETBV). Values that the guest's CPUID leaf 0xd does
// not announce raise #GP. It needs [asm.Guest.KeepVector].
func (p *CPUIDPolicy) XSETBV(x *Exit) Outcome {
	const ecx = 1
	leaf := p.Lookup(0xd, 0)
	v := x.edxEAX()
	if uint32(x.Guest.Regs[ecx]) != 0 || v&1 == 0 || v&^(uint64(leaf.EDX)<<32|uint64(leaf.EAX)) != 0 {
		return x.Raise(vmcs.VectorGP, 0)
	}
	if x.Guest.Vector() == nil {
		return x.Fail(fmt.Errorf("vmexit: the guest sets XCR0 to 0x%x: call Guest.KeepVector before the first entry, or clear CPUID leaf 1 ECX bit 26", v))
	}
	host := hostXCR0()
	set := v
	if v == host {
		set = 0
	}
	switch err := x.Guest.SetXCR0(set); {
	case err == nil:
		return Resume
	case v&^host != 0:
		return x.Fail(fmt.Errorf("vmexit: the guest's CPUID leaf 0xd announces what the host does not have: %w", err))
	}
	return x.Raise(vmcs.VectorGP, 0)
}
