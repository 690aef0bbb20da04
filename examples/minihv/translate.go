package main

import (
	"errors"

	"github.com/govtx/vtx/asm"
	"github.com/govtx/vtx/ept"
	"github.com/govtx/vtx/hypercall"
	"github.com/govtx/vtx/vmcs"
	"github.com/govtx/vtx/vmexit"
	"github.com/govtx/vtx/vmexit/emulate"
	"github.com/govtx/vtx/vtl"
)

// activeMemory is the memory of the level that runs. What the level cannot have ends as an EPT
// violation does.
type activeMemory struct{ *vm }

// ReadPhysical and WritePhysical are those of the level.
func (m activeMemory) ReadPhysical(gpa uint64, p []byte) error {
	return refuse(gpa, vtl.Reading, m.active.ReadPhysical(gpa, p))
}

func (m activeMemory) WritePhysical(gpa uint64, p []byte) error {
	return refuse(gpa, vtl.Writing, m.active.WritePhysical(gpa, p))
}

// A refusal is an access to memory that the level cannot have.
type refusal struct {
	error
	gpa uint64
	op  vtl.Operation
}

func refuse(gpa uint64, op vtl.Operation, err error) error {
	if err == nil {
		return nil
	}
	return &refusal{err, gpa, op}
}

// Refuse implements vmexit.Refusal.
func (r *refusal) Refuse(x *vmexit.Exit) vmexit.Outcome {
	p := processorOf(x)
	p.effects.Reset()
	return p.access(x, r.gpa>>pageShift, r.op)
}

// walker returns what translates linear addresses of a level, whose VMCS is the current one,
// and its state.
func (l *level) walker() (*emulate.Walker, *emulate.State, error) {
	s := &emulate.State{Regs: new([16]uint64)}
	return &emulate.Walker{Memory: l.domain, PhysicalAddressBits: l.caps.CPU.PhysicalAddressBits}, s, s.Read(vmcs.Current{})
}

// translate is what the library's handlers need for operands in memory.
func (m *vm) translate(x *vmexit.Exit, linear uint64, write bool) (gpa uint64, code uint32, ok bool, err error) {
	w, s, err := m.active.current.walker()
	if err != nil {
		return 0, 0, false, err
	}
	access := emulate.Read
	if write {
		access = emulate.Write
	}
	gpa, err = w.Translate(s, linear, access)
	var fault *emulate.Exception
	if errors.As(err, &fault) {
		return 0, fault.Event.ErrorCode, false, nil
	}
	var table *emulate.TableError
	if errors.As(err, &table) {
		err = refuse(table.Entry, vtl.Reading, err)
	}
	return gpa, 0, err == nil, err
}

// Translate translates a linear address for HvCallTranslateVirtualAddress.
func (m *vm) Translate(vp uint32, number vtl.VTL, page uint64, flags hypercall.TranslateFlags) (t vtl.Translation) {
	l := &m.processors[vp%numProcessors].levels[number%numLevels]
	t.Code = hypercall.TranslateGpaUnmapped
	_ = m.with(l, func() error {
		w, s, err := l.walker()
		if err != nil {
			return err
		}
		// The privilege level is that of SS.
		switch dpl := &s.Segments[vmcs.SS].Rights; {
		case flags.PrivilegeExempt(), flags.SupervisorAccess():
			*dpl &^= 3 << 5
		case flags.UserAccess():
			*dpl |= 3 << 5
		}
		if flags.EnforceSmap() {
			s.RFLAGS &^= asm.FlagAC
		} else if flags.OverrideSmap() {
			s.RFLAGS |= asm.FlagAC
		}
		gpa := uint64(0)
		checked := false
		for _, c := range []struct {
			flag   hypercall.TranslateFlags
			access emulate.Access
			right  ept.Access
			code   hypercall.TranslateResultCode
		}{
			{hypercall.TranslateValidateWrite, emulate.Write, ept.AccessWrite, hypercall.TranslateGpaNoWriteAccess},
			{hypercall.TranslateValidateExecute, emulate.Fetch, ept.AccessFetch, hypercall.TranslateIntercept},
			{hypercall.TranslateValidateRead, emulate.Read, ept.AccessRead, hypercall.TranslateGpaNoReadAccess},
			{0, emulate.Read, 0, 0}, // without any of these flags
		} {
			if flags&c.flag == 0 && (c.flag != 0 || checked) {
				continue
			}
			checked = true
			if gpa, err = w.Translate(s, page<<pageShift, c.access); err != nil {
				t.Code = translationFault(err)
				return nil
			}
			if _, fault := l.view.Translate(gpa, c.right); fault.Err() != nil {
				if l.isRAM(gpa>>pageShift) && c.code != 0 {
					t.Code = c.code
				}
				return nil
			}
		}
		t = vtl.Translation{Code: hypercall.TranslateSuccess, CacheType: hypercall.CacheWriteBack, Page: gpa >> pageShift,
			Overlay: l.overlaid(gpa>>pageShift) != nil}
		return nil
	})
	return t
}

// translationFault returns the result for a walk that has failed.
func translationFault(err error) hypercall.TranslateResultCode {
	var fault *emulate.Exception
	if !errors.As(err, &fault) {
		return hypercall.TranslateGpaNoReadAccess // the tables are not to be read
	}
	const present, reserved = 1 << 0, 1 << 3 // of a #PF's error code (SDM Vol. 3A 4.7)
	switch code := fault.Event.ErrorCode; {
	case code&present == 0:
		return hypercall.TranslatePageNotPresent
	case code&reserved != 0:
		return hypercall.TranslateInvalidPageTableFlags
	}
	return hypercall.TranslatePrivilegeViolation
}
