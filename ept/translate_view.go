package ept

import "unsafe"

// Translate returns the physical address for a guest-physical one, or the fault in which
// the access ends. Flags are not changed. It allocates nothing, needs no lock, and may
// run while processors walk the tables and a writer changes them. It is fastest if the
// Space's Pages are [Windowed].
//
// The usual case, an access that all entries allow, comes first; everything else is
// looked at again by the function Translate. Rights are compared once, at the end: an
// entry that is not present leads out of the window, or to entries that do not matter
// then. A Space makes no entries that are misconfigured.
func (v *View) Translate(gpa uint64, a Access) (uint64, Fault) {
	m := v.mode
	need := Entry(a) & All
	if a&(AccessTranslation|AccessShadowStack|AccessUnverified) != AccessTranslation || m.ModeBasedExecute {
		need = m.asksUsually(a)
	}
	s := v.space
	base, phys, size := unsafe.Pointer(unsafe.SliceData(s.window)), s.phys, uint64(len(s.window))*pageSize
	top, rights := unsafe.Pointer(v.top), ^Entry(0)
	var e Entry
	var at, offset uint64
	if m.Levels == 5 {
		if gpa>>57 != 0 {
			goto odd
		}
		rights = entryAt(top, 0, gpa, 48)
		if at = uint64(rights&addressMask) - phys; at >= size {
			goto odd
		}
		top = unsafe.Add(base, at)
	} else if gpa>>48 != 0 {
		goto odd
	}
	e = entryAt(top, 0, gpa, 39)
	rights &= e
	if at = uint64(e&addressMask) - phys; at >= size {
		goto odd
	}
	e = entryAt(base, at, gpa, 30)
	rights &= e
	offset = 1<<30 - 1
	if e&Large == 0 {
		if at = uint64(e&addressMask) - phys; at >= size {
			goto odd
		}
		e = entryAt(base, at, gpa, 21)
		rights &= e
		offset = 1<<21 - 1
		if e&Large == 0 {
			if at = uint64(e&addressMask) - phys; at >= size {
				goto odd
			}
			e = entryAt(base, at, gpa, 12)
			rights &= e
			offset = 1<<12 - 1
		}
	}
	if rights&need == need && need != 0 {
		return uint64(e&addressMask) | gpa&offset, Fault{}
	}
odd:
	return v.translate(gpa, a)
}

// asksUsually is asks for accesses that are decided by one conjunction of all entries; 0
// for others.
//
//go:noinline
func (m *Mode) asksUsually(a Access) Entry {
	if a&(AccessShadowStack|AccessUnverified) != 0 {
		return 0
	}
	return m.asks(a)
}

// translate is Translate for any access. Inlined, it would slow down the other.
//
//go:noinline
func (v *View) translate(gpa uint64, a Access) (uint64, Fault) {
	v.mustBeOpen()
	hpa, f, _ := Translate((*viewTables)(v), gpa, a) // which has no errors
	f.Entry &^= bookkeeping
	return hpa, f
}

func (v *View) mustBeOpen() {
	if v.closed() {
		panic("ept: translation in a View that is closed")
	}
}

// Touch is Translate that sets accessed and dirty flags as the processor does: see the
// function [Touch].
func (v *View) Touch(gpa uint64, a Access) (hpa uint64, f Fault) {
	v.mustBeOpen()
	for {
		hpa, f, err := Touch((*viewTables)(v), gpa, a)
		if err == nil { // not ErrBusy
			f.Entry &^= bookkeeping
			return hpa, f
		}
	}
}

// viewTables is a View's tables as an Updater. That is for Touch alone: whoever changes
// entries behind a View's back breaks it.
type viewTables View

func (v *viewTables) Mode() *Mode  { return v.mode }
func (v *viewTables) Root() uint64 { return v.root }

func (v *viewTables) Entry(table uint64, index int) (Entry, error) {
	return load(&(*View)(v).table(table)[index&511]), nil
}

func (v *viewTables) CompareAndSwap(table uint64, index int, old, new Entry) (bool, error) {
	return swap(&(*View)(v).table(table)[index&511], old, new), nil
}
