package ept

import "fmt"

// What operations check and decide before they start, for the views of a set.

// place is Map and Replace.
func (s *Space) place(kind opKind, views uint64, gpa, size, hpa uint64, attr Entry, t Types) (Invalidation, error) {
	name := kindNames[kind]
	err := s.checkRange(gpa, size)
	if err == nil {
		err = s.checkHost(hpa, size)
	}
	if err == nil {
		err = s.checkAttributes(attr)
	}
	if err != nil {
		return NoInvalidation, s.failTo(name, gpa, size, hpa, err)
	}
	o := &s.op
	o.kind, o.push = kind, true
	o.delta, o.attr, o.types = hpa-gpa, attr, t
	o.max = s.largest
	if s.mode.SubPageWrite && attr&SubPageWrite != 0 {
		o.max = PTE // ignored in larger pages
	}
	for o.delta&(o.max.PageSize()-1) != 0 {
		o.max--
	}
	due, err := o.start(views, gpa, size)
	if err != nil {
		return NoInvalidation, s.failTo(name, gpa, size, hpa, err)
	}
	return due, nil
}

// placeTyped is place with memory types from a source.
func (s *Space) placeTyped(kind opKind, views uint64, gpa, size, hpa uint64, attr Entry, t Types) (Invalidation, error) {
	if t == nil {
		return NoInvalidation, s.failTo(kindNames[kind], gpa, size, hpa, fmt.Errorf("%w: it is nil", ErrTypes))
	}
	return s.place(kind, views, gpa, size, hpa, attr&^memoryTypeMask, t)
}

func (s *Space) unmap(views uint64, gpa, size uint64) (Invalidation, error) {
	return s.change(opUnmap, views, gpa, size)
}

// change starts an operation for which the range is all that can be wrong beforehand.
func (s *Space) change(kind opKind, views uint64, gpa, size uint64) (Invalidation, error) {
	err := s.checkRange(gpa, size)
	if err == nil {
		o := &s.op
		o.kind = kind
		switch kind {
		case opJoin:
			o.push = true // what looks the same because of a mask must be so
		case opUnmap, opSplit:
			o.push = false
		}
		var due Invalidation
		if due, err = o.start(views, gpa, size); err == nil {
			return due, nil
		}
	}
	return NoInvalidation, s.fail(kindNames[kind], gpa, size, err)
}

func (s *Space) protect(views uint64, gpa, size uint64, set, clear Entry) (Invalidation, error) {
	if bad := (set | clear) &^ (attributes &^ (Accessed | Dirty)); bad != 0 {
		return NoInvalidation, s.fail("Protect", gpa, size,
			fmt.Errorf("%w: %#x; Protect can change bits 6:0, 11:10 and 63:57, and Harvest accessed and dirty flags", ErrAttributes, uint64(bad)))
	}
	clear &^= set
	o := &s.op
	o.set, o.clear = set, clear
	o.legal = s.keepsLegal(set, clear)
	o.push = set&s.rights != 0 || !o.legal
	// Where writes are allowed by other bits than Write of the page's entry, the entries
	// above must still have it.
	m := &s.mode
	o.mask = set == 0 && clear&^s.rights == 0 && m.Misconfiguration(s.rights&^clear, PDE) == nil &&
		(clear&Write == 0 || !m.SupervisorShadowStack && !m.PagingWrite && !m.SubPageWrite)
	o.max = PDPTE
	if m.SubPageWrite && set&SubPageWrite != 0 {
		o.max = PTE
	}
	return s.change(opProtect, views, gpa, size)
}

// keepsLegal reports whether the change of attributes leaves every page legal that is.
func (s *Space) keepsLegal(set, clear Entry) bool {
	if (set|clear)&memoryTypeMask != 0 {
		for t := range UCMinus {
			if t.Valid() && !(t.Entry()&^clear | set).MemoryType().Valid() {
				return false
			}
		}
	}
	const matter = All | ExecuteUser | PagingWrite
	if (set|clear)&matter == 0 {
		return true
	}
	// All combinations of the bits that matter.
	for i := range Entry(1 << 5) {
		e := i&All | i>>3&1*ExecuteUser | i>>4*PagingWrite | WB.Entry()
		if s.mode.Misconfiguration(e, PTE) == nil && s.mode.Misconfiguration(e&^(clear&matter)|set&matter, PTE) != nil {
			return false
		}
	}
	return true
}

func (s *Space) split(views uint64, gpa, size uint64, to Level) (Invalidation, error) {
	if to < PTE || to > PDPTE {
		return NoInvalidation, s.fail("Split", gpa, size, fmt.Errorf("%w: pages are those of level 1 (4 KiB), 2 (2 MiB) and 3 (1 GiB), not of %v", ErrLevel, to))
	}
	if to > PTE && !s.mode.CanMap(to) {
		return NoInvalidation, s.fail("Split", gpa, size, fmt.Errorf("%w: an %v cannot map a page on this processor", ErrLevel, to))
	}
	s.op.max = to
	return s.change(opSplit, views, gpa, size)
}

func (s *Space) join(views uint64, gpa, size uint64) (Invalidation, error) {
	return s.change(opJoin, views, gpa, size)
}

// Map is [View.Map] in all views at once: tables that they share stay shared, and new
// ones are.
func (s *Space) Map(gpa, size, hpa uint64, attr Entry) (Invalidation, error) {
	return s.place(opMap, s.open, gpa, size, hpa, attr, nil)
}

// MapTyped is [View.MapTyped] in all views at once.
func (s *Space) MapTyped(gpa, size, hpa uint64, attr Entry, t Types) (Invalidation, error) {
	return s.placeTyped(opMap, s.open, gpa, size, hpa, attr, t)
}

// Replace is [View.Replace] in all views at once.
func (s *Space) Replace(gpa, size, hpa uint64, attr Entry) (Invalidation, error) {
	return s.place(opReplace, s.open, gpa, size, hpa, attr, nil)
}

// ReplaceTyped is [View.ReplaceTyped] in all views at once.
func (s *Space) ReplaceTyped(gpa, size, hpa uint64, attr Entry, t Types) (Invalidation, error) {
	return s.placeTyped(opReplace, s.open, gpa, size, hpa, attr, t)
}

// Unmap is [View.Unmap] in all views at once.
func (s *Space) Unmap(gpa, size uint64) (Invalidation, error) { return s.unmap(s.open, gpa, size) }

// Protect is [View.Protect] in all views at once.
func (s *Space) Protect(gpa, size uint64, set, clear Entry) (Invalidation, error) {
	return s.protect(s.open, gpa, size, set, clear)
}

// Split is [View.Split] in all views at once.
func (s *Space) Split(gpa, size uint64, to Level) (Invalidation, error) {
	return s.split(s.open, gpa, size, to)
}

// Join is [View.Join] in all views at once.
func (s *Space) Join(gpa, size uint64) (Invalidation, error) { return s.join(s.open, gpa, size) }
