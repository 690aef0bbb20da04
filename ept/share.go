package ept

// Views share tables. How many entries reference a table is in the table itself, in
// bits that the processor ignores: the number less 1, three bits of it in each of the first
// eight entries. A new table has zeros there. Entries that reference a table have
// entryShared if it may have another parent; without it the table need not be looked
// at. When a table loses a parent, others may keep the bit for some time.

// parents returns how many entries reference a table.
func (s *Space) parents(t *Table) int {
	n := 0
	for i := range t[:countSlots] {
		n |= int(load(&t[i])&entryCount>>countAt) << (countBits * i)
	}
	return n + 1
}

// setParents notes how many entries reference a table.
func (s *Space) setParents(t *Table, n int) {
	n--
	for i := range t[:countSlots] {
		s.update(&t[i], entryCount, Entry(n)<<countAt&entryCount)
		n >>= countBits
	}
}

// release takes a reference to a table away. e is the entry that referenced it, l the level of the table.
func (s *Space) release(e Entry, l Level) {
	phys := uint64(e & addressMask)
	t := s.table(phys)
	if n := s.parents(t); n > 1 {
		s.setParents(t, n-1)
		return
	}
	s.retire(phys, t, l)
}

// Unlinked tables keep their contents, since processors may still walk them, and so do
// the tables below, which keep their number of parents: what another view shares
// with the dead is not changed in place, where a processor that still uses
// the dead would see it. The list of unlinked tables is in bits 55:52 of the entries:
// the next one's page number, four bits in each of the first ten, then the level.
const (
	retiredSlots = 10
	retiredBits  = 4
	retiredMask  = entryShared | entryCount
)

// retire puts a table on the list of those that Reclaim frees.
func (s *Space) retire(phys uint64, t *Table, l Level) {
	next := s.pending >> 12
	for i := range t[:retiredSlots] {
		s.update(&t[i], retiredMask, Entry(next)<<countAt&retiredMask)
		next >>= retiredBits
	}
	s.update(&t[retiredSlots], retiredMask, Entry(l)<<countAt)
	s.pending = phys
	s.dead++
}

// Reclaim gives the tables that are not linked any more back to Pages. To be called when
// all processors have done the invalidations that operations returned, and no
// goroutine is in anything that reads tables (Lookup, Translate, Touch, Mappings, Compare and so
// on) that began before.
func (s *Space) Reclaim() {
	for s.dead > 0 {
		phys := s.pending
		t := s.table(phys)
		next := uint64(0)
		for i := range t[:retiredSlots] {
			next |= uint64(load(&t[i])&retiredMask>>countAt) << (retiredBits * i)
		}
		l := Level(load(&t[retiredSlots]) & retiredMask >> countAt)
		s.pending = next << 12
		s.dead--
		if l > PTE {
			for i := range t {
				if e := load(&t[i]); e&entryUsed != 0 && !leaf(e, l) {
					s.release(e, l-1)
				}
			}
		}
		s.pages.FreePage(phys)
	}
}

// emptyOutside reports whether nothing is mapped in or below a table but in a range.
func (s *Space) emptyOutside(phys uint64, l Level, lo, hi uint64) bool {
	t := s.table(phys)
	i, j := l.Index(lo), l.Index(hi-1)
	// Neighbours first: most often they are mapped.
	if i > 0 && load(&t[i-1])&entryUsed != 0 || j < len(t)-1 && load(&t[j+1])&entryUsed != 0 {
		return false
	}
	for k := range t {
		if (k < i || k > j) && load(&t[k])&entryUsed != 0 {
			return false
		}
	}
	size := l.PageSize()
	if i == j {
		return s.endEmptyOutside(load(&t[i]), l, lo, hi)
	}
	end := hi &^ (size - 1)
	return s.endEmptyOutside(load(&t[i]), l, lo, lo&^(size-1)+size) && (end == hi || s.endEmptyOutside(load(&t[j]), l, end, hi))
}

// endEmptyOutside is emptyOutside for an entry at an end of the range.
func (s *Space) endEmptyOutside(e Entry, l Level, lo, hi uint64) bool {
	switch {
	case e&entryUsed == 0 || hi-lo == l.PageSize():
		return true
	case leaf(e, l):
		return false
	}
	return s.emptyOutside(uint64(e&addressMask), l-1, lo, hi)
}

// flags returns the accessed and dirty flags of all pages in and below a table that map the
// memory which they would map as parts of a page at hpa.
func (s *Space) flags(phys uint64, l Level, hpa uint64) (f Entry) {
	t := s.table(phys)
	for i := range t {
		switch e := load(&t[i]); {
		case e&entryUsed == 0:
		case !leaf(e, l):
			f |= s.flags(uint64(e&addressMask), l-1, hpa)
		case uint64(e&addressMask) == hpa:
			f |= e & (Accessed | Dirty)
		}
		hpa += l.PageSize()
	}
	return f
}

// uniform returns the entry of the page that a table could be replaced by: the entries
// map all that it translates, in order, and have the same attributes, when they have
// lost the rights that the entries above do not allow. Accessed and dirty flags are
// combined.
func (s *Space) uniform(phys uint64, l Level, allow Entry) (joined Entry, ok bool) {
	if l+1 > s.largest {
		return 0, false
	}
	t := s.table(phys)
	step := Entry(l.PageSize())
	keep := (allow | ^s.rights) &^ (Accessed | Dirty | entryCount)
	var flags, next Entry
	for i := range t {
		e := load(&t[i])
		switch {
		case e&entryUsed == 0:
			return 0, false
		case !leaf(e, l):
			if e, ok = s.uniform(uint64(e&addressMask), l-1, allow&e); !ok {
				return 0, false
			}
		}
		flags |= e
		e = e&keep | Large
		if i == 0 {
			if uint64(e&addressMask)&((l+1).PageSize()-1) != 0 || s.mode.SubPageWrite && e&SubPageWrite != 0 {
				return 0, false
			}
			joined, next = e, e
		}
		if e != next {
			return 0, false
		}
		next += step
	}
	return joined | flags&(Accessed|Dirty), true
}
