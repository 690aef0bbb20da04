package vmexit

import (
	"encoding/binary"
	"fmt"

	"github.com/govtx/vtx/vmcs"
)

// DescriptorTables is the handler of GDTRIDTRAccess exits: LGDT, LIDT, SGDT and SIDT,
// which exit if the control "descriptor-table exiting" is 1 (SDM Vol. 2). SGDT and SIDT
// store the whole base with any operand size, as processors do since the 386.
func (m *GuestMemory) DescriptorTables(x *Exit) Outcome {
	i := DescriptorTableInformation(x.Information())
	n := i.Instruction()
	base, limit := vmcs.GuestGDTRBase, vmcs.GuestGDTRLimit
	if n.IDT() {
		base, limit = vmcs.GuestIDTRBase, vmcs.GuestIDTRLimit
	}
	long, size := x.Code64(), 6
	if long {
		size = 10
	}
	if !n.Load() {
		binary.LittleEndian.PutUint16(x.buffer[:], uint16(x.Read(limit)))
		binary.LittleEndian.PutUint64(x.buffer[2:], x.Read(base))
		return m.store(x, i.Operand(), size)
	}
	short, out, ok := m.operand16(x) // not by OperandBits: Bochs leaves it 16 always
	if !ok {
		return out
	}
	clear(x.buffer[:])
	a, out, ok := m.load(x, i.Operand(), size)
	if !ok {
		return out
	}
	v := binary.LittleEndian.Uint64(x.buffer[2:])
	switch {
	case long && !a.canonical(v):
		return x.Raise(vmcs.VectorGP, 0)
	case long:
	case short:
		v &= 0xffffff
	default:
		v &= 0xffffffff
	}
	x.Write(base, v)
	x.Write(limit, uint64(binary.LittleEndian.Uint16(x.buffer[:])))
	return Resume
}

// SystemSegments is the handler of LDTRTRAccess exits: LLDT, LTR, SLDT and STR.
func (m *GuestMemory) SystemSegments(x *Exit) Outcome {
	i := SystemSegmentInformation(x.Information())
	n := i.Instruction()
	register := vmcs.LDTR
	if n.Task() {
		register = vmcs.TR
	}
	if !n.Load() {
		v := x.Read(register.Selector())
		if !i.InRegister() {
			binary.LittleEndian.PutUint16(x.buffer[:], uint16(v))
			return m.store(x, i.Operand(), 2)
		}
		short, out, ok := m.operand16(x)
		if !ok {
			return out
		}
		r := int(i.Register())
		if short {
			v |= x.Register(r) &^ 0xffff
		}
		x.SetRegister(r, v)
		return Resume
	}
	var selector uint16
	if i.InRegister() {
		selector = uint16(x.Register(int(i.Register())))
	} else {
		if _, out, ok := m.load(x, i.Operand(), 2); !ok {
			return out
		}
		selector = binary.LittleEndian.Uint16(x.buffer[:])
	}
	return m.loadSystem(x, register, selector)
}

// operand16 tells whether the instruction at RIP, whose opcode begins with 0F, has operands
// of 16 bits, which its information does not say: it looks at the prefixes.
func (m *GuestMemory) operand16(x *Exit) (short bool, out Outcome, ok bool) {
	a, err := ReadAddressing(x.VMCS)
	if err != nil {
		return false, x.Fail(err), false
	}
	rights := vmcs.AccessRights(x.Read(vmcs.GuestCSAccessRights))
	base := x.Read(vmcs.GuestCSBase)
	long := a.Mode == Mode64
	short = !long && rights&vmcs.RightsDB == 0
	before := short
	for n := range uint64(min(x.Guest.InstructionLength, 15)) {
		at, event, err := m.place(x, a, a.Linear(vmcs.CS, base, x.Guest.RIP+n), 1, false)
		if err == nil && !event.Info.Valid() {
			err = m.read(x, &at)
		}
		switch {
		case err != nil:
			return false, x.memoryError("the instruction", err), false
		case event.Info.Valid():
			return false, x.raise(event), false
		}
		switch b := x.buffer[0]; {
		case b == 0x0f:
			return short, Resume, true
		case b == 0x66:
			short = !before
		case long && b&0xf8 == 0x48: // REX.W
			return false, Resume, true
		}
	}
	return short, Resume, true
}

// loadSystem loads LDTR or TR from the GDT (SDM Vol. 2A LLDT, LTR; Vol. 3A 3.5, 8.2).
func (m *GuestMemory) loadSystem(x *Exit, register vmcs.SegmentRegister, selector uint16) Outcome {
	code := uint32(selector &^ 3)
	if code == 0 {
		if register == vmcs.TR {
			return x.Raise(vmcs.VectorGP, 0)
		}
		return x.setSegment(register, vmcs.Segment{Selector: selector, Rights: vmcs.RightsUnusable})
	}
	a, err := ReadAddressing(x.VMCS)
	if err != nil {
		return x.Fail(err)
	}
	long, size := a.Mode == Mode64 || a.Mode == CompatibilityMode, 8
	if long {
		size = 16
	}
	offset := uint64(selector &^ 7)
	if selector&4 != 0 || offset+uint64(size)-1 > x.Read(vmcs.GuestGDTRLimit) {
		return x.Raise(vmcs.VectorGP, code)
	}
	linear := x.Read(vmcs.GuestGDTRBase) + offset
	if !long {
		linear &= 0xffffffff
	}
	clear(x.buffer[:])
	at, event, err := m.place(x, a, linear, size, false)
	if err == nil && !event.Info.Valid() {
		err = m.read(x, &at)
	}
	switch {
	case err != nil:
		return x.memoryError(fmt.Sprintf("the guest's GDT at %#x,", linear), err)
	case event.Info.Valid():
		return x.raise(event)
	}
	low, high := binary.LittleEndian.Uint64(x.buffer[:]), binary.LittleEndian.Uint64(x.buffer[8:])
	rights := vmcs.AccessRights(low >> 40 & 0xff)
	fits := rights.Type() == vmcs.TypeLDT
	if register == vmcs.TR {
		fits = rights.Type() == vmcs.TypeTSSAvailable || rights.Type() == vmcs.TypeTSS16Available && !long
	}
	s := vmcs.SegmentFromDescriptor(selector, low, high)
	switch {
	case !rights.System() || !fits, long && (high>>40&0x1f != 0 || !a.canonical(s.Base)):
		return x.Raise(vmcs.VectorGP, code)
	case !rights.Present():
		return x.Raise(vmcs.VectorNP, code)
	}
	if register == vmcs.TR {
		const busy = 2
		x.buffer[5] |= busy
		s.Rights |= busy
		kept := x.buffer
		at, event, err := m.place(x, a, linear, 8, true)
		if err == nil && !event.Info.Valid() {
			x.buffer = kept
			err = m.write(x, &at)
		}
		switch {
		case err != nil:
			return x.memoryError(fmt.Sprintf("the guest's GDT at %#x,", linear), err)
		case event.Info.Valid():
			return x.raise(event)
		}
	}
	return x.setSegment(register, s)
}

func (x *Exit) setSegment(r vmcs.SegmentRegister, s vmcs.Segment) Outcome {
	if err := vmcs.WriteSegment(x.VMCS, r, s); err != nil {
		return x.Fail(err)
	}
	return Resume
}
