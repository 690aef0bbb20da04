package ept

import (
	"errors"

	"github.com/govtx/vtx/vmexit"
)

// An Updater is a Source whose entries can be changed.
type Updater interface {
	Source

	// CompareAndSwap stores an entry if another is there, in one step as processors
	// see it.
	CompareAndSwap(table uint64, index int, old, new Entry) (swapped bool, err error)
}

// ErrBusy is a walk that came to no end, since others kept changing the entries.
var ErrBusy = errors.New("ept: others keep changing the entries between the look at them and the setting of their flags: try again")

// maxTries bounds the walks of one Touch.
const maxTries = 16

// Translate returns the physical address for a guest-physical one, or the fault in which
// the access ends. The order is the processor's (SDM Vol. 3C 29.3.3.3): from the root
// down, an entry that is not present is a violation, one that is misconfigured a
// misconfiguration; rights are looked at when all entries are known. Flags are not
// changed. The error is a *[TableError], if the Source cannot read a table.
//
// A walk has at most five steps, wherever the entries point.
func Translate(s Source, gpa uint64, a Access) (hpa uint64, f Fault, err error) {
	var p path
	return p.walk(s, gpa, a)
}

// Touch is Translate that, if the access is allowed, sets flags as the processor does
// (SDM Vol. 3C 29.3.5): the accessed flag of every entry that it has used, and the dirty
// flag of the last for a write. Accesses to the guest's paging structures are writes.
// Without accessed and dirty flags in the Mode it changes nothing. The error can be
// [ErrBusy], too.
func Touch(u Updater, gpa uint64, a Access) (hpa uint64, f Fault, err error) {
	for range maxTries {
		var p path
		hpa, f, err = p.walk(u, gpa, a)
		if err != nil || f.Kind != NoFault {
			return hpa, f, err
		}
		if ok, err := p.mark(u, a); ok || err != nil {
			return hpa, f, err
		}
	}
	return 0, Fault{}, ErrBusy
}

// A path is the entries that a walk has used, from the root down.
type path struct {
	steps [PML5E]step
	n     int
}

type step struct {
	table uint64
	index int
	entry Entry
}

func (p *path) walk(s Source, gpa uint64, a Access) (hpa uint64, f Fault, err error) {
	m := s.Mode()
	level := m.TopLevel()
	if gpa>>(level.Shift()+9) != 0 { // bits 51:48 with 4 levels (SDM Vol. 3C 29.3.2)
		return 0, m.violation(gpa, a, 0, 0, 0), nil
	}
	table, upper := s.Root(), ^Entry(0)
	for ; ; level-- {
		index := level.Index(gpa)
		e, err := s.Entry(table, index)
		if err != nil {
			span := level.PageSize() * uint64(len(Table{}))
			return 0, Fault{}, &TableError{Range{gpa &^ (span - 1), span}, table, level, err}
		}
		p.steps[p.n] = step{table, index, e}
		p.n++
		if !e.Present(m) {
			return 0, m.violation(gpa, a, level, e, 0), nil
		}
		if r := m.Misconfiguration(e, level); r != nil {
			return 0, Fault{Kind: Misconfiguration, Level: level, Entry: e, Address: gpa, Rule: r}, nil
		}
		if !e.Leaf(level) {
			upper &= e
			table = e.Address(level)
			continue
		}
		switch {
		case !m.allows(a, upper, e):
			f = m.violation(gpa, a, level, e, upper&e)
			f.SubPage = m.subPage(a, upper, e, level)
		case m.unverified(a, e):
			f = m.violation(gpa, a, level, e, upper&e)
			f.Qualification |= vmexit.EPTPagingVerification
		default:
			return e.Address(level) | gpa&(level.PageSize()-1), Fault{}, nil
		}
		return 0, f, nil
	}
}

// mark sets the flags of the entries. It reports false if an entry is not any more what
// it was.
func (p *path) mark(u Updater, a Access) (ok bool, err error) {
	if !u.Mode().AccessedDirty {
		return true, nil
	}
	for i, s := range p.steps[:p.n] {
		flags := Accessed
		if i == p.n-1 && (a&AccessWrite != 0 || a.pageWalk()) {
			flags |= Dirty
		}
		if s.entry&flags == flags {
			continue
		}
		if ok, err := u.CompareAndSwap(s.table, s.index, s.entry, s.entry|flags); !ok || err != nil {
			return false, err
		}
	}
	return true, nil
}

// asks returns the bits that must be 1 in every entry for the access (SDM Vol. 3C
// 29.3.3.2), those for special pages aside. Accesses to the guest's paging structures
// are writes, too, if EPT has accessed and dirty flags (29.3.5).
func (m *Mode) asks(a Access) Entry {
	need := Entry(a & (AccessRead | AccessWrite | AccessFetch)) // the bits are those of an entry
	if a.pageWalk() && m.AccessedDirty && need != 0 {
		need |= Write
	}
	if m.ModeBasedExecute && a&(AccessFetch|AccessUser) == AccessFetch|AccessUser {
		need = need&^Execute | ExecuteUser
	}
	return need
}

// supervisorShadowStack reports whether the rules for supervisor shadow stacks count.
func (m *Mode) supervisorShadowStack(a Access) bool {
	return m.SupervisorShadowStack && a&(AccessShadowStack|AccessUser) == AccessShadowStack
}

// allows reports whether the entries, upper being the conjunction of those above the
// leaf, allow the access (SDM Vol. 3C 29.3.3.2).
func (m *Mode) allows(a Access, upper, leaf Entry) bool {
	if m.supervisorShadowStack(a) {
		return upper&leaf&Read != 0 && upper&Write != 0 && leaf&SupervisorShadowStack != 0
	}
	need := m.asks(a)
	if m.PagingWrite && a.pageWalk() && leaf&PagingWrite != 0 {
		leaf |= Write
	}
	return upper&leaf&need == need
}

// unverified reports whether guest-paging verification fails (SDM Vol. 3C 29.3.3.2).
func (m *Mode) unverified(a Access, leaf Entry) bool {
	const of = AccessLinear | AccessTranslation | AccessUnverified
	return m.VerifyGuestPaging && m.PagingWrite && a&of == of && leaf&VerifyGuestPaging != 0
}

// subPage reports whether an access that is not allowed is a write that is eligible for
// sub-page write permissions (SDM Vol. 3C 29.3.4.1).
func (m *Mode) subPage(a Access, upper, leaf Entry, l Level) bool {
	return m.SubPageWrite && l == PTE && leaf&SubPageWrite != 0 && a&AccessWrite != 0 && !a.pageWalk() &&
		!m.supervisorShadowStack(a) && m.allows(a&^AccessWrite, upper, leaf)
}

// fromAccess are the bits of a qualification that tell the access.
const fromAccess = AccessRead | AccessWrite | AccessFetch | AccessLinear | AccessTranslation | AccessUser | AccessWritable |
	AccessExecuteDisable | AccessNMIUnblocking | AccessShadowStack | AccessAsynchronous

// violation returns the violation of an access (SDM Vol. 3C table 28-7). Rights is the
// conjunction of all entries, 0 if one was not present.
func (m *Mode) violation(gpa uint64, a Access, l Level, e, rights Entry) Fault {
	q := a & fromAccess
	if a.pageWalk() && m.AccessedDirty && q&(AccessRead|AccessWrite) != 0 {
		q |= AccessRead | AccessWrite
	}
	if q&AccessLinear == 0 {
		q &^= AccessTranslation
	}
	if q&AccessTranslation == 0 || !m.Capabilities.AdvancedExitInfo() {
		q &^= AccessUser | AccessWritable | AccessExecuteDisable
	}
	f := Fault{Kind: Violation, Level: l, Entry: e, Address: gpa}
	f.Qualification = vmexit.EPTViolationQualification(q) | vmexit.EPTViolationQualification(rights&All)<<3
	if m.ModeBasedExecute && rights&ExecuteUser != 0 {
		f.Qualification |= vmexit.EPTUserExecutable
	}
	if m.SupervisorShadowStack && l != 0 && e.Leaf(l) && e.Present(m) && e&SupervisorShadowStack != 0 {
		f.Qualification |= vmexit.EPTSupervisorShadowStack
	}
	f.VE = l != 0 && m.Convertible(e)
	return f
}
