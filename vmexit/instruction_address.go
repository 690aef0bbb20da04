package vmexit

import (
	"fmt"

	"github.com/govtx/vtx/asm"
	"github.com/govtx/vtx/vmcs"
)

// Offset returns the offset of the operand in its segment, its effective address: base,
// index and displacement added up, modulo the address size (SDM Vol. 1 3.7.5). The
// displacement is the exit qualification. Registers are indexed as [asm.Guest.Regs],
// which does not have RSP; that is given by itself.
func (o MemoryOperand) Offset(displacement uint64, regs *[16]uint64, rsp uint64) uint64 {
	sum := displacement
	if r, ok := o.Base(); ok {
		sum += generalRegister(r, regs, rsp)
	}
	if r, scale, ok := o.Index(); ok {
		sum += generalRegister(r, regs, rsp) * uint64(scale)
	}
	switch o.AddressBits() {
	case 16:
		return sum & 0xffff
	case 32:
		return sum & 0xffffffff
	}
	return sum
}

func generalRegister(r Register, regs *[16]uint64, rsp uint64) uint64 {
	if r&15 == asm.RSP {
		return rsp
	}
	return regs[r&15]
}

// A Mode is how a processor executes code: what CR0.PE, RFLAGS.VM, IA32_EFER.LMA and
// CS.L make of it.
type Mode uint8

// Modes.
const (
	RealMode Mode = iota
	Virtual8086Mode
	ProtectedMode
	CompatibilityMode // IA-32e mode, CS.L 0
	Mode64            // IA-32e mode, CS.L 1
)

var modeNames = []string{"real-address mode", "virtual-8086 mode", "protected mode", "compatibility mode", "64-bit mode"}

// String returns the mode's name in the SDM.
func (m Mode) String() string { return enumName(modeNames, "Mode", uint8(m)) }

// MarshalText returns what String does.
func (m Mode) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalText reads what String prints.
func (m *Mode) UnmarshalText(text []byte) error { return parseEnum(m, modeNames, "Mode", text) }

// ModeOf returns the mode for CR0, RFLAGS, IA32_EFER.LMA and the rights of CS.
func ModeOf(cr0, rflags uint64, lma bool, cs vmcs.AccessRights) Mode {
	switch {
	case cr0&asm.CR0PE == 0:
		return RealMode
	case lma && cs&vmcs.RightsL != 0:
		return Mode64
	case lma:
		return CompatibilityMode
	case rflags&asm.FlagVM != 0:
		return Virtual8086Mode
	}
	return ProtectedMode
}

// An Addressing is what the linear address of an operand depends on, beside the
// operand and its segment.
type Addressing struct {
	Mode Mode
	LA57 bool // CR4.LA57: linear addresses have 57 bits in 64-bit mode, not 48
}

// ReadAddressing reads the mode of the guest. IA32_EFER.LMA is taken from the VM-entry
// control "IA-32e mode guest", which VM exits update on processors with unrestricted
// guests (IA32_VMX_MISC[5]); on others a guest cannot change it without a VM exit.
func ReadAddressing(r vmcs.Reader) (Addressing, error) {
	var v [5]uint64
	for i, f := range [...]vmcs.Field{vmcs.GuestCR0, vmcs.GuestRFLAGS, vmcs.VMEntryControls, vmcs.GuestCSAccessRights, vmcs.GuestCR4} {
		var err error
		if v[i], err = r.Read(f); err != nil {
			return Addressing{}, err
		}
	}
	lma := v[2]&uint64(vmcs.EntryIA32eModeGuest) != 0
	return Addressing{
		Mode: ModeOf(v[0], v[1], lma, vmcs.AccessRights(v[3])),
		LA57: lma && v[4]&asm.CR4LA57 != 0,
	}, nil
}

// Linear returns the linear address for an offset in a segment with the given base. In
// 64-bit mode the bases of ES, CS, SS and DS count as 0, in other modes addresses
// have 32 bits (SDM Vol. 3A 3.4.4, Vol. 1 3.3.7.1). It does not tell whether the
// segment allows the access: see Check.
func (a Addressing) Linear(r vmcs.SegmentRegister, base, offset uint64) uint64 {
	if a.Mode != Mode64 {
		return (base + offset) & 0xffffffff
	}
	if r == vmcs.FS || r == vmcs.GS {
		return base + offset
	}
	return offset
}

// Check returns the exception that segmentation raises for an access of size bytes
// (1 or more) at an offset, and whether it raises one: #SS if the segment register is
// SS, #GP otherwise, with error code 0 except in real-address mode. In 64-bit mode the
// linear address must be canonical (linear-address masking is not looked at), in
// others the segment must be usable, allow the access, and not end before it
// (SDM Vol. 3A 5.3, 5.4.1, 5.5). Paging and alignment come afterwards.
func (a Addressing) Check(r vmcs.SegmentRegister, s vmcs.Segment, offset uint64, size int, write bool) (vmcs.Event, bool) {
	if a.allows(r, s, offset, uint64(max(size, 1)-1), write) {
		return vmcs.Event{}, false
	}
	v := vmcs.VectorGP
	if r == vmcs.SS {
		v = vmcs.VectorSS
	}
	e := vmcs.InjectException(v, 0)
	if a.Mode == RealMode {
		e = e.WithoutErrorCode()
	}
	return e, true
}

// allows tells whether the bytes from offset to offset+last can be accessed.
func (a Addressing) allows(r vmcs.SegmentRegister, s vmcs.Segment, offset, last uint64, write bool) bool {
	if a.Mode == Mode64 {
		first := a.Linear(r, s.Base, offset)
		return a.canonical(first) && a.canonical(first+last)
	}
	if s.Rights.Unusable() {
		return false
	}
	const (
		writable   = vmcs.AccessRights(vmcs.TypeWritable)   // of data
		readable   = vmcs.AccessRights(vmcs.TypeReadable)   // of code
		expandDown = vmcs.AccessRights(vmcs.TypeExpandDown) // of data
	)
	code := s.Rights&vmcs.AccessRights(vmcs.TypeCode) != 0
	if a.Mode == ProtectedMode || a.Mode == CompatibilityMode {
		switch {
		case write && (code || s.Rights&writable == 0), code && s.Rights&readable == 0:
			return false
		}
	}
	limit := uint64(s.Limit)
	offset &= 0xffffffff
	end := offset + last
	if !code && s.Rights&expandDown != 0 {
		top := uint64(0xffff)
		if s.Rights&vmcs.RightsDB != 0 {
			top = 0xffffffff
		}
		return end >= offset && offset > limit && end <= top
	}
	return end >= offset && end <= limit
}

// canonical tells whether an address is the sign extension of its low 48 or 57 bits.
func (a Addressing) canonical(addr uint64) bool {
	shift := 64 - 48
	if a.LA57 {
		shift = 64 - 57
	}
	return uint64(int64(addr<<shift)>>shift) == addr
}

// An Address is where the memory operand of an instruction is.
type Address struct {
	Addressing
	Register vmcs.SegmentRegister
	Segment  vmcs.Segment // its content
	Offset   uint64       // effective address: offset in the segment
	Linear   uint64
}

// ReadAddress returns where a memory operand is, for the exit at hand: its
// displacement is the exit qualification, the registers are those of
// [asm.Guest.Regs], and the rest is read from the VMCS. It fails if the operand has a
// segment register or an address size that is not used, or if a field cannot be
// read.
func ReadAddress(r vmcs.Reader, o MemoryOperand, displacement uint64, regs *[16]uint64) (a Address, err error) {
	if o.Segment() > vmcs.GS || o.AddressBits() == 0 {
		return Address{}, fmt.Errorf("vmexit: instruction information %#x is not that of a memory operand: its segment register (bits 17:15) is %d of at most 5, its address size (bits 9:7) %d of at most 2; look at the exit reason",
			uint32(o), uint8(o.Segment()), uint32(o)>>7&7)
	}
	if a.Addressing, err = ReadAddressing(r); err != nil {
		return Address{}, err
	}
	a.Register = o.Segment()
	if a.Segment, err = vmcs.ReadSegment(r, a.Register); err != nil {
		return Address{}, err
	}
	var rsp uint64
	if o.uses(asm.RSP) {
		if rsp, err = r.Read(vmcs.GuestRSP); err != nil {
			return Address{}, err
		}
	}
	a.Offset = o.Offset(displacement, regs, rsp)
	a.Linear = a.Addressing.Linear(a.Register, a.Segment.Base, a.Offset)
	return a, nil
}

// uses tells whether the operand has r as base or index.
func (o MemoryOperand) uses(r Register) bool {
	base, hasBase := o.Base()
	index, _, hasIndex := o.Index()
	return hasBase && base == r || hasIndex && index == r
}

// Check returns the exception that segmentation raises for an access of size bytes
// there, and whether it raises one: see [Addressing.Check].
func (a *Address) Check(size int, write bool) (vmcs.Event, bool) {
	return a.Addressing.Check(a.Register, a.Segment, a.Offset, size, write)
}
