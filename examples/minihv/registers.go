package main

import (
	"errors"

	"github.com/govtx/vtx/asm"
	"github.com/govtx/vtx/hypercall"
	"github.com/govtx/vtx/vmcs"
	"github.com/govtx/vtx/vtl"
)

// fields are the registers that are one field of the VMCS.
var fields = map[hypercall.Register]vmcs.Field{
	hypercall.RegisterRSP:         vmcs.GuestRSP,
	hypercall.RegisterRFLAGS:      vmcs.GuestRFLAGS,
	hypercall.RegisterCR3:         vmcs.GuestCR3,
	hypercall.RegisterDR7:         vmcs.GuestDR7,
	hypercall.RegisterEFER:        vmcs.GuestEFER,
	hypercall.RegisterPAT:         vmcs.GuestPAT,
	hypercall.RegisterSysenterCS:  vmcs.GuestSysenterCS,
	hypercall.RegisterSysenterESP: vmcs.GuestSysenterESP,
	hypercall.RegisterSysenterEIP: vmcs.GuestSysenterEIP,
}

// Register returns a register of a level for the partition, which has found that the caller
// may see it.
func (m *vm) Register(vp uint32, number vtl.VTL, name hypercall.Register) (v vtl.Value, s hypercall.Status) {
	p := &m.processors[vp%numProcessors]
	l := &p.levels[number%numLevels]
	if r := shared(p, name); r != nil {
		return vtl.Value{Low: *r}, hypercall.StatusSuccess
	}
	s = hypercall.StatusInvalidParameter
	err := m.with(l, func() (err error) {
		v, err = l.read(name)
		return err
	})
	if err == nil {
		s = hypercall.StatusSuccess
	}
	return v, s
}

// SetRegister changes a register of a level. What VM entry would refuse is refused.
func (m *vm) SetRegister(vp uint32, number vtl.VTL, name hypercall.Register, v vtl.Value) hypercall.Status {
	p := &m.processors[vp%numProcessors]
	l := &p.levels[number%numLevels]
	if r := shared(p, name); r != nil {
		*r = v.Low
		return hypercall.StatusSuccess
	}
	s := hypercall.StatusInvalidParameter
	err := m.with(l, func() error {
		old, err := l.read(name)
		if err != nil {
			return err
		}
		s = hypercall.StatusInvalidRegisterValue
		if err := l.showRIP(); err != nil {
			return err
		}
		if err := l.write(name, v); err != nil {
			return l.write(name, old)
		}
		if !m.canRun(vmcs.Current{}) || pagingRegister(name) && needsPDPTEs(vmcs.Current{}) {
			return l.write(name, old)
		}
		s = hypercall.StatusSuccess
		return nil
	})
	if err != nil {
		return hypercall.StatusInvalidParameter
	}
	return s
}

// shared returns where a register is that all levels of a processor share, nil if it is none.
func shared(p *processor, name hypercall.Register) *uint64 {
	switch {
	case p.current == nil || name == hypercall.RegisterRSP:
		return nil
	case name >= hypercall.RegisterRAX && name <= hypercall.RegisterR15:
		return &p.current.Regs[name-hypercall.RegisterRAX]
	case name == hypercall.RegisterCR2:
		return &p.current.CR2
	}
	return nil
}

var errNoRegister = errors.New("no such register")

// read and write access a register of a level that has not been started, too. Its VMCS is the
// current one.
func (l *level) read(name hypercall.Register) (v vtl.Value, err error) {
	field, ok := fields[name]
	switch name {
	case hypercall.RegisterRIP:
		return vtl.Value{Low: l.RIP}, nil
	case hypercall.RegisterCR0:
		field, ok = vmcs.CR0ReadShadow, true
	case hypercall.RegisterCR4:
		field, ok = vmcs.CR4ReadShadow, true
	}
	if ok {
		v.Low, err = vmcs.Current{}.Read(field)
		return v, err
	}
	if msr, ok := switchedRegisters[name]; ok {
		v.Low, _ = l.msrs.guest.Get(msr)
		return v, nil
	}
	if base, limit, ok := tableFields(name); ok {
		b, err := vmcs.Current{}.Read(base)
		n, err2 := vmcs.Current{}.Read(limit)
		return hypercall.TableRegister{Base: b, Limit: uint16(n)}.Value(), errors.Join(err, err2)
	}
	for i, n := range segmentNames {
		if n == name {
			s, err := vmcs.ReadSegment(vmcs.Current{}, vmcs.SegmentRegister(i))
			return toCall(s).Value(), err
		}
	}
	return v, errNoRegister
}

func (l *level) write(name hypercall.Register, v vtl.Value) error {
	w := vmcs.Current{}
	switch name {
	case hypercall.RegisterRIP:
		l.RIP = v.Low
		return l.showRIP()
	case hypercall.RegisterCR0:
		return errors.Join(w.Write(vmcs.CR0ReadShadow, v.Low), w.Write(vmcs.GuestCR0, l.caps.FixedCR0(v.Low, l.pc != nil)))
	case hypercall.RegisterCR4:
		return errors.Join(w.Write(vmcs.CR4ReadShadow, v.Low), w.Write(vmcs.GuestCR4, l.caps.FixedCR4(v.Low)))
	}
	if f, ok := fields[name]; ok {
		return w.Write(f, v.Low)
	}
	if msr, ok := switchedRegisters[name]; ok {
		if !l.msrs.write(msr, v.Low) {
			return errNoRegister
		}
		return nil
	}
	if base, limit, ok := tableFields(name); ok {
		t := v.Table()
		return errors.Join(w.Write(base, t.Base), w.Write(limit, uint64(t.Limit)))
	}
	for i, n := range segmentNames {
		if n == name {
			r, s := vmcs.SegmentRegister(i), toVMCS(v.Segment())
			return errors.Join(w.Write(r.Selector(), uint64(s.Selector)), w.Write(r.Base(), s.Base),
				w.Write(r.Limit(), uint64(s.Limit)), w.Write(r.AccessRights(), uint64(s.Rights)))
		}
	}
	return errNoRegister
}

func tableFields(name hypercall.Register) (base, limit vmcs.Field, ok bool) {
	switch name {
	case hypercall.RegisterGDTR:
		return vmcs.GuestGDTRBase, vmcs.GuestGDTRLimit, true
	case hypercall.RegisterIDTR:
		return vmcs.GuestIDTRBase, vmcs.GuestIDTRLimit, true
	}
	return 0, 0, false
}

// guestCR4 are the bits of CR4 that guests can have. Without OSFXSR and OSXSAVE they have no
// vector registers, which are the host's.
const guestCR4 = asm.CR4VME | asm.CR4PVI | asm.CR4TSD | asm.CR4DE | asm.CR4PSE | asm.CR4PAE | asm.CR4PGE | asm.CR4PCE

// pcCR4 are the bits of CR4 that the guest of a PC can have.
const pcCR4 = guestCR4 | asm.CR4OSFXSR | asm.CR4OSXMMEXCPT | asm.CR4UMIP | asm.CR4FSGSBASE | asm.CR4PCIDE |
	asm.CR4OSXSAVE | asm.CR4SMEP | asm.CR4SMAP | asm.CR4MCE

// canRun tells whether a level can run with what a VMCS has: VM entry accepts it, and it is
// what a guest can set by itself.
func (m *vm) canRun(r vmcs.Reader) bool {
	cr0, _ := r.Read(vmcs.CR0ReadShadow)
	cr4, _ := r.Read(vmcs.CR4ReadShadow)
	efer, _ := r.Read(vmcs.GuestEFER)
	report := vmcs.Check(r, m.caps)
	if m.pc != nil { // which is an unrestricted guest
		return report.Err() == nil && cr0>>32 == 0 && cr4&^pcCR4 == 0
	}
	const paging = asm.CR0PE | asm.CR0PG
	return report.Err() == nil && cr0&paging == paging && cr0>>32 == 0 && cr4&^guestCR4 == 0 && efer&asm.EFERSCE == 0
}

// showRIP has the current VMCS, the level's, say what its RIP is, for canRun: otherwise only
// Enter writes it.
func (l *level) showRIP() error { return vmcs.Current{}.Write(vmcs.GuestRIP, l.RIP) }

// pagingRegister tells whether a register says where PDPTEs are, or that there are any.
func pagingRegister(name hypercall.Register) bool {
	return name == hypercall.RegisterCR0 || name == hypercall.RegisterCR3 || name == hypercall.RegisterCR4 || name == hypercall.RegisterEFER
}

// needsPDPTEs tells whether PAE paging is on, the entries of whose first table VM entry takes
// from the VMCS (SDM Vol. 3C 27.3.2.4). Only a guest that turns it on by itself has them loaded:
// who turns it on for another one is refused.
func needsPDPTEs(r vmcs.Reader) bool {
	cr4, _ := r.Read(vmcs.CR4ReadShadow)
	efer, _ := r.Read(vmcs.GuestEFER)
	return cr4&asm.CR4PAE != 0 && efer&asm.EFERLMA == 0
}

// inject carries out an EffectInject: a higher level has put an exception into this one.
func (m *vm) inject(l *level, f *vtl.Effect) error {
	if f.Vector == uint8(vmcs.VectorPF) {
		l.CR2 = f.Page
	}
	return m.with(l, func() error {
		w := vmcs.Current{}
		if err := l.showRIP(); err != nil {
			return err
		}
		if err := vmcs.InjectException(vmcs.Vector(f.Vector), uint32(f.Value)).Write(w); err != nil || m.canRun(w) {
			return err
		}
		return w.Write(vmcs.EntryInterruptionInformation, 0) // one that the guest's processor does not have
	})
}
