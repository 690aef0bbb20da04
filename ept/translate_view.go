package ept

import "unsafe"

// Translate returns the physical address for a guest-physical one, or the fault in which
// the access ends. Flags are not changed. It allocates nothing, needs no lock, and may
// run while processors walk the tables and a writer changes them. It is fastest if the
// Space's Pages are [Windowed].
func (v *View) Translate(gpa uint64, a Access) (hpa uint64, f Fault) {
	// Go keeps no struct of this size in registers. As the result of a call it would be taken apart
	// and put together in memory, by narrow stores and wide loads for which the processor
	// waits; so this function is inlined, and passes where its caller wants the fault.
	hpa = v.translate(gpa, a, &f)
	return hpa, f
}

// translate is Translate. It changes f, which is zero, if there is a fault.
//
// The usual case, an access that all entries allow, comes first; everything else is
// looked at again by the function Translate. Rights are compared once, at the end: an
// entry that is not present leads out of the window, or to entries that do not matter
// then. A Space makes no entries that are misconfigured.
func (v *View) translate(gpa uint64, a Access, f *Fault) uint64 {
	var e Entry
	var at, offset uint64
	top, rights := unsafe.Pointer(v.top), ^Entry(0)
	need := Entry(a) & All
	if a&v.unusual != AccessTranslation {
		need = v.mode.asksUsually(a)
	}
	if gpa >= v.reach {
		if v.mode.Levels != 5 || gpa>>57 != 0 {
			goto odd
		}
		rights = entryAt(top, 0, gpa, 48)
		if at = uint64(rights&addressMask) - v.phys; at >= v.bytes {
			goto odd
		}
		top = unsafe.Add(v.base, at)
	}
	e = entryAt(top, 0, gpa, 39)
	rights &= e
	if at = uint64(e&addressMask) - v.phys; at >= v.bytes {
		goto odd
	}
	e = entryAt(v.base, at, gpa, 30)
	rights &= e
	offset = 1<<30 - 1
	if e&Large == 0 {
		if at = uint64(e&addressMask) - v.phys; at >= v.bytes {
			goto odd
		}
		e = entryAt(v.base, at, gpa, 21)
		rights &= e
		offset = 1<<21 - 1
		if e&Large == 0 {
			if at = uint64(e&addressMask) - v.phys; at >= v.bytes {
				goto odd
			}
			e = entryAt(v.base, at, gpa, 12)
			rights &= e
			offset = 1<<12 - 1
		}
	}
	if rights&need == need && need != 0 {
		return uint64(e&addressMask) | gpa&offset
	}
odd:
	return v.translateAny(gpa, a, f)
}

// asksUsually is asks for accesses that are decided by one conjunction of all entries; 0
// for others.
func (m *Mode) asksUsually(a Access) Entry {
	if a&(AccessShadowStack|AccessUnverified) != 0 {
		return 0
	}
	return m.asks(a)
}

// translateAny is translate for any access. Inlined, it would slow down the other.
//
//go:noinline
func (v *View) translateAny(gpa uint64, a Access, f *Fault) (hpa uint64) {
	v.mustBeOpen()
	hpa, *f, _ = Translate((*viewTables)(v), gpa, a) // which has no errors
	f.Entry &^= bookkeeping
	return hpa
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
