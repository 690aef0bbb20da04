package ept

import "fmt"

// page returns the entry that maps what is at a guest-physical address.
func (o *op) page(l Level, at uint64) Entry {
	e := Entry(at+o.delta) | o.attr | entryUsed
	if l > PTE {
		e |= Large
	}
	if o.types != nil {
		e |= o.run.bits
	}
	return e
}

// fits reports whether one page of a level can map what is at a guest-physical address.
// full is whether all of what an entry of the level translates is to be mapped. If it
// fits, the memory type is in o.run.
func (o *op) fits(l Level, at uint64, full bool) (bool, error) {
	if !full || l > o.max || o.types == nil {
		return full && l <= o.max, nil
	}
	same, err := o.sameType(at, l.PageSize())
	if l == PTE && !same && err == nil {
		err = fmt.Errorf("%w: the type changes at %#x, inside a page of 4 KiB", ErrTypes, o.run.end)
	}
	return same, err
}

// sameType reports whether what is to be mapped from a guest-physical address on has
// one memory type, which is then in o.run.
func (o *op) sameType(at, size uint64) (bool, error) {
	hpa := at + o.delta
	if hpa < o.run.start || hpa >= o.run.end {
		t, end := o.types.At(hpa)
		if end <= hpa {
			return false, fmt.Errorf("%w: for %#x it says that the next address with another type is %#x", ErrTypes, hpa, end)
		}
		if !t.Valid() {
			return false, fmt.Errorf("%w: for %#x it says %v", ErrTypes, hpa, t)
		}
		o.run.start, o.run.end, o.run.bits = hpa, end, t.Entry()
	}
	return size <= o.run.end-hpa, nil
}

// tables returns how many tables a new table of a level needs below it to map a range.
func (o *op) tables(l Level, lo, hi uint64) (n int, err error) {
	same := o.types == nil
	if !same {
		if same, err = o.sameType(lo, hi-lo); err != nil {
			return 0, err
		}
	}
	if l == PTE && same {
		return 0, nil
	}
	size := l.PageSize()
	for at := lo; at < hi; {
		next := min(at&^(size-1)+size, hi)
		full := next-at == size
		switch {
		case same && full && l <= o.max:
			next = hi &^ (size - 1) // and so do all that are whole
		case same && full:
			n += o.fullTables(l)
		default:
			fits, err := o.fits(l, at, full)
			if err != nil {
				return 0, err
			}
			if !fits {
				below, err := o.tables(l-1, at, next)
				if err != nil {
					return 0, err
				}
				n += 1 + below
			}
		}
		at = next
	}
	return n, nil
}

// fullTables returns how many tables an entry of a level needs, if it cannot map a
// page: that which it references, and those below.
func (o *op) fullTables(l Level) int {
	if l <= o.max {
		return 0
	}
	return 1 + len(Table{})*o.fullTables(l-1)
}

// fill makes a new table, in which a range is mapped and nothing else.
func (o *op) fill(t *Table, l Level, lo, hi uint64) {
	// The first access is a write: the check for nil that slicing makes would read, and an
	// operating system would find a page for memory that is fresh twice.
	t[0] = o.s.empty
	i, j := l.Index(lo), l.Index(hi-1)+1
	for k := range t[:i] {
		t[k] = o.s.empty
	}
	for k := range t[j:] {
		t[j+k] = o.s.empty
	}
	size := l.PageSize()
	for at := lo; at < hi; {
		next := min(at&^(size-1)+size, hi)
		fits, err := o.fits(l, at, next-at == size)
		switch {
		case err != nil:
			panic("ept: the source of memory types changed its answers: " + err.Error())
		case fits:
			// All whole pages of the same type at once.
			end := hi &^ (size - 1)
			if o.types != nil {
				end = at + min(end-at, (o.run.end-(at+o.delta))&^(size-1))
			}
			e := o.page(l, at)
			run := t[l.Index(at) : l.Index(end-1)+1]
			for k := range run {
				run[k] = e
				e += Entry(size)
			}
			next = end
		default:
			phys, c := o.s.popTable()
			o.fill(c, l-1, at, next)
			t[l.Index(at)] = Entry(phys) | o.s.rights | entryUsed
		}
		at = next
	}
}

// taken are pages that were got from the allocator and are not used yet. Pages that
// follow each other are a run, so that those of an allocator that gives them in order
// need not be touched before they are used. The first page of a run has in its first
// words where the next run begins, and how long it is itself.
type taken struct {
	left int    // pages
	next uint64 // the page to be used next
	run  int    // pages in its run that are left; 0 if the page is the first of a run
	then uint64 // the first page of the next run
}

// take gets pages for tables from the allocator: all, or none and an error.
func (s *Space) take(n int) error {
	k := &s.op.taken
	*k = taken{}
	var head, last uint64
	length := 0
	for range n {
		p, err := s.pages.AllocPage()
		if err == nil && (p%pageSize != 0 || p >= s.hostLimit) {
			s.pages.FreePage(p)
			err = fmt.Errorf("%w: %#x is unaligned, or beyond MAXPHYADDR %d", ErrTablePage, p, s.mode.PhysicalBits())
		}
		if err != nil {
			if k.left > 0 {
				s.endRun(head, 0, length)
			}
			s.giveBack()
			return err
		}
		switch {
		case k.left == 0:
			k.next, head = p, p
		case p != last+pageSize:
			s.endRun(head, p, length)
			head, length = p, 0
		}
		last = p
		length++
		k.left++
	}
	s.endRun(head, 0, length)
	return nil
}

func (s *Space) endRun(head, next uint64, length int) {
	t := s.table(head)
	t[0], t[1] = Entry(next), Entry(length)
}

// popTable returns the next of the pages taken.
func (s *Space) popTable() (phys uint64, t *Table) {
	k := &s.op.taken
	if k.left == 0 {
		panic("ept: the dry run counted too few tables: the tables or the source of memory types were changed meanwhile")
	}
	phys, t = k.next, s.table(k.next)
	if k.run == 0 {
		k.then, k.run = uint64(t[0]), int(t[1])
	}
	k.left--
	k.next += pageSize
	if k.run--; k.run == 0 {
		k.next = k.then
	}
	return phys, t
}

// giveBack frees the pages taken that were not used.
func (s *Space) giveBack() {
	for s.op.taken.left > 0 {
		phys, _ := s.popTable()
		s.pages.FreePage(phys)
	}
}
