package emulate

import (
	"github.com/govtx/vtx/asm"
	"github.com/govtx/vtx/vmcs"
)

// flagsStatus are the status flags.
const flagsStatus = asm.FlagCF | asm.FlagPF | asm.FlagAF | asm.FlagZF | asm.FlagSF | asm.FlagOF

// A State is what an instruction depends on: registers, and how the processor
// interprets them. Control registers are those that the processor uses, not what the
// guest reads through a guest/host mask.
type State struct {
	// Regs are the general registers, by the constants asm.RAX to asm.R15. Other
	// than in asm.Guest, Regs[asm.RSP] is the guest's RSP.
	Regs *[16]uint64

	RIP    uint64 // of the instruction; never changed here
	RFLAGS uint64

	CR0, CR3, CR4, EFER uint64

	// PDPTEs are the four page-directory-pointer-table entries of PAE paging. Nil:
	// they are read from memory, at CR3.
	PDPTEs *[4]uint64

	// Segments are ES, CS, SS, DS, FS and GS. The DPL of SS is the current privilege
	// level, except in real-address and virtual-8086 mode.
	Segments [6]vmcs.Segment

	// PKRU and PKRS are the rights of protection keys, of user-mode and supervisor-mode
	// pages. They count with CR4.PKE and CR4.PKS.
	PKRU, PKRS uint32

	pdptes      [4]uint64 // what Read gives PDPTEs
	rsp, rflags uint64    // as Read has found them
}

// Read reads a guest's state from its VMCS, into Regs[asm.RSP] and all other fields
// but Regs and PKRU, which no VMCS has. Of PDPTEs, EFER and PKRS, what r does not have
// becomes nil or 0. EFER.LMA comes from the VM-entry controls; the rest of it is right if
// VM exits save IA32_EFER. In 64-bit mode, what segments have without effect there (SDM
// Vol. 3A 3.4.4) becomes 0: they have their selectors, CS and SS their rights, FS and GS their
// bases. Regs must be set before.
func (s *State) Read(r vmcs.Reader) error {
	s.PDPTEs, s.PKRS = nil, 0
	if _, ok := r.(vmcs.Current); ok && s.readCurrent() { // nearly always: spare the calls by the interface
		return nil
	}
	for _, f := range [...]struct {
		field vmcs.Field
		value *uint64
	}{
		{vmcs.GuestRIP, &s.RIP}, {vmcs.GuestRFLAGS, &s.RFLAGS}, {vmcs.GuestRSP, &s.Regs[asm.RSP]},
		{vmcs.GuestCR0, &s.CR0}, {vmcs.GuestCR3, &s.CR3}, {vmcs.GuestCR4, &s.CR4}, {vmcs.VMEntryControls, &s.EFER},
	} {
		var err error
		if *f.value, err = r.Read(f.field); err != nil {
			return err
		}
	}
	efer, err := r.Read(vmcs.GuestEFER)
	if err != nil {
		efer = 0
	}
	s.settle(efer)
	for n := range s.Segments {
		if s.Segments[n], err = vmcs.ReadSegment(r, vmcs.SegmentRegister(n)); err != nil {
			return err
		}
	}
	if s.CodeSize() == 64 {
		for n := range s.Segments {
			d := &s.Segments[n]
			*d = vmcs.Segment{Selector: d.Selector, Rights: d.Rights, Base: d.Base}
			if r := vmcs.SegmentRegister(n); r != vmcs.CS && r != vmcs.SS {
				d.Rights = 0
			}
			if r := vmcs.SegmentRegister(n); r != vmcs.FS && r != vmcs.GS {
				d.Base = 0
			}
		}
	}
	if s.paging() == pagingPAE {
		s.PDPTEs = &s.pdptes
		for n := range s.pdptes {
			if s.pdptes[n], err = r.Read(vmcs.GuestPDPTE0 + vmcs.Field(2*n)); err != nil {
				s.PDPTEs = nil
				break
			}
		}
	}
	if s.CR4&asm.CR4PKS != 0 {
		if v, err := r.Read(vmcs.GuestPKRS); err == nil {
			s.PKRS = uint32(v)
		}
	}
	return nil
}

// settle is what follows once RSP, RFLAGS and, in place of EFER, the VM-entry controls have been
// read: VM exits store LMA in these (SDM Vol. 3D A.6, bit 5).
func (s *State) settle(efer uint64) {
	long := vmcs.EntryControls(s.EFER)&vmcs.EntryIA32eModeGuest != 0
	if s.EFER = efer &^ asm.EFERLMA; long {
		s.EFER |= asm.EFERLMA
	}
	s.rsp, s.rflags = s.Regs[asm.RSP], s.RFLAGS
}

// readCurrent reads the state of 64-bit code from the current VMCS. It reports whether that
// is all there is to be read.
func (s *State) readCurrent() bool {
	bad := asm.Succeed
	get := func(f vmcs.Field) uint64 {
		v, status := asm.VMREAD(uint32(f))
		bad |= status
		return v
	}
	s.EFER = get(vmcs.VMEntryControls)
	cs := vmcs.AccessRights(get(vmcs.GuestCSAccessRights))
	s.CR4 = get(vmcs.GuestCR4)
	if vmcs.EntryControls(s.EFER)&vmcs.EntryIA32eModeGuest == 0 || cs&vmcs.RightsL == 0 || s.CR4&asm.CR4PKS != 0 {
		return false
	}
	s.RIP, s.RFLAGS, s.Regs[asm.RSP] = get(vmcs.GuestRIP), get(vmcs.GuestRFLAGS), get(vmcs.GuestRSP)
	s.CR0, s.CR3 = get(vmcs.GuestCR0), get(vmcs.GuestCR3)
	all := &s.Segments
	*all = [6]vmcs.Segment{}
	all[vmcs.ES].Selector, all[vmcs.CS].Selector = uint16(get(vmcs.GuestESSelector)), uint16(get(vmcs.GuestCSSelector))
	all[vmcs.SS].Selector, all[vmcs.DS].Selector = uint16(get(vmcs.GuestSSSelector)), uint16(get(vmcs.GuestDSSelector))
	all[vmcs.FS].Selector, all[vmcs.GS].Selector = uint16(get(vmcs.GuestFSSelector)), uint16(get(vmcs.GuestGSSelector))
	all[vmcs.CS].Rights, all[vmcs.SS].Rights = cs, vmcs.AccessRights(get(vmcs.GuestSSAccessRights))
	all[vmcs.FS].Base, all[vmcs.GS].Base = get(vmcs.GuestFSBase), get(vmcs.GuestGSBase)
	s.settle(get(vmcs.GuestEFER))
	return bad == asm.Succeed
}

// Write writes RSP and RFLAGS, if they have changed since Read: the rest of what an
// instruction changes here is not in the VMCS.
func (s *State) Write(w vmcs.Writer) error {
	if rsp := s.Regs[asm.RSP]; rsp != s.rsp {
		if err := w.Write(vmcs.GuestRSP, rsp); err != nil {
			return err
		}
		s.rsp = rsp
	}
	if s.RFLAGS != s.rflags {
		if err := w.Write(vmcs.GuestRFLAGS, s.RFLAGS); err != nil {
			return err
		}
		s.rflags = s.RFLAGS
	}
	return nil
}

// CPL returns the current privilege level.
func (s *State) CPL() uint8 {
	switch {
	case s.CR0&asm.CR0PE == 0:
		return 0
	case s.RFLAGS&asm.FlagVM != 0:
		return 3
	}
	return s.Segments[vmcs.SS].Rights.DPL()
}

// CodeSize returns the size of code: 64 in 64-bit mode, else 32 or 16, by CS.D.
func (s *State) CodeSize() int {
	switch cs := s.Segments[vmcs.CS].Rights; {
	case s.EFER&asm.EFERLMA != 0 && cs&vmcs.RightsL != 0:
		return 64
	case cs&vmcs.RightsDB != 0:
		return 32
	}
	return 16
}

// protected reports whether segments have types that are checked.
func (s *State) protected() bool { return s.CR0&asm.CR0PE != 0 && s.RFLAGS&asm.FlagVM == 0 }

// stackSize is the size of the stack pointer in bytes (SDM Vol. 1 6.2.3).
func (s *State) stackSize() uint8 {
	switch {
	case s.CodeSize() == 64:
		return 8
	case s.Segments[vmcs.SS].Rights&vmcs.RightsDB != 0:
		return 4
	}
	return 2
}

// canonical reports whether a linear address is (SDM Vol. 1 3.3.7.1).
func (s *State) canonical(linear uint64) bool {
	unused := 16
	if s.CR4&asm.CR4LA57 != 0 {
		unused = 7
	}
	return uint64(int64(linear)<<unused>>unused) == linear
}

// linear returns the linear address of size bytes at an offset in a segment, and
// what segmentation raises (SDM Vol. 3A 5.3 to 5.5; 64-bit mode: 3.4.4, Vol. 1
// 3.3.7.1).
func (s *State) linear(seg vmcs.SegmentRegister, offset uint64, size uint8, a Access) (uint64, vmcs.Vector, bool) {
	fault := vmcs.VectorGP
	if seg == vmcs.SS {
		fault = vmcs.VectorSS
	}
	d := &s.Segments[seg]
	last := uint64(size) - 1
	if s.CodeSize() == 64 {
		if seg == vmcs.FS || seg == vmcs.GS {
			offset += d.Base
		}
		return offset, fault, s.canonical(offset) && s.canonical(offset+last)
	}
	offset = uint64(uint32(offset))
	ok := contains(d, offset, last)
	if s.protected() {
		ok = ok && permits(d.Rights, a)
	}
	return uint64(uint32(d.Base + offset)), fault, ok
}

// contains reports whether offset to offset+last are inside of the limit. What wraps
// round at 4 GBytes may fault or not, says the manual (SDM Vol. 3A 5.3); here it does
// not in flat segments.
func contains(d *vmcs.Segment, offset, last uint64) bool {
	limit := uint64(d.Limit)
	if d.Rights.Data() && d.Rights.Type()&vmcs.TypeExpandDown != 0 {
		top := uint64(0xffff)
		if d.Rights&vmcs.RightsDB != 0 {
			top = 0xffffffff
		}
		return offset > limit && offset+last <= top
	}
	return offset+last <= limit || limit == 0xffffffff && d.Base == 0
}

// permits reports whether a segment's type allows an access.
func permits(r vmcs.AccessRights, a Access) bool {
	switch {
	case r.Unusable():
		return false
	case a == Write:
		return r.Data() && r.Type()&vmcs.TypeWritable != 0
	case a == Read:
		return r.Data() || r.Code() && r.Type()&vmcs.TypeReadable != 0
	}
	return r.Code()
}
