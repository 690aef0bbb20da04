package ept

import "iter"

// Harvest yields the pages in a range, or that have a part in it, which the processor
// has used: those that have one of the flags in clear, [Accessed] or [Dirty] or both, which
// it clears by one atomic change each. With clear 0 it yields pages that have any of the two, and
// clears nothing. The entry is what it was before, as [View.Lookup] returns it.
// Addresses that EPT cannot translate are passed over.
//
// Processors may have cached that the flags are 1, and then do not set them again: a
// single-context INVEPT is due before the flags tell anything new (SDM Vol. 3C 29.3.5,
// 29.4.3.4). Tables that views share have one set of flags: what is cleared is
// cleared in all of them, and what one view does is told of another. The body of the loop must not
// change the space.
func (v *View) Harvest(gpa, size uint64, clear Entry) iter.Seq2[Range, Entry] {
	return func(yield func(Range, Entry) bool) {
		v.harvest(gpa, size, clear, yield)
	}
}

// Harvest is [View.Harvest] for one view after the other. With clear, a page in a table
// that views share is yielded once.
func (s *Space) Harvest(gpa, size uint64, clear Entry) iter.Seq2[Range, Entry] {
	return func(yield func(Range, Entry) bool) {
		for v := range s.Views() {
			if !v.harvest(gpa, size, clear, yield) {
				return
			}
		}
	}
}

func (v *View) harvest(gpa, size uint64, clear Entry, yield func(Range, Entry) bool) bool {
	s := v.space
	if v.closed() || gpa >= s.guestLimit || size == 0 {
		return true
	}
	h := harvester{s: s, lo: gpa, hi: gpa + min(size, s.guestLimit-gpa), clear: clear & (Accessed | Dirty), yield: yield}
	if h.want = h.clear; h.want == 0 {
		h.want = Accessed | Dirty
	}
	return h.table(v.top, s.mode.TopLevel(), 0, ^Entry(0))
}

type harvester struct {
	s           *Space
	lo, hi      uint64
	want, clear Entry
	yield       func(Range, Entry) bool
}

// table goes through a table that translates addresses from base on.
func (h *harvester) table(t *Table, l Level, base uint64, allow Entry) bool {
	size := l.PageSize()
	i, j := 0, len(t)
	if h.lo > base {
		i = int((h.lo - base) >> l.Shift())
	}
	if end := base + size<<9; h.hi < end {
		j = int((h.hi-1-base)>>l.Shift()) + 1
	}
	for ; i < j; i++ {
		e := load(&t[i])
		if e&entryUsed == 0 || e&h.want == 0 && leaf(e, l) {
			continue
		}
		at := base + uint64(i)<<l.Shift()
		if !leaf(e, l) {
			if !h.table(h.s.table(uint64(e&addressMask)), l-1, at, allow&e) {
				return false
			}
			continue
		}
		for h.clear != 0 && !swap(&t[i], e, e&^h.clear) {
			e = load(&t[i])
		}
		if !h.yield(Range{at, size}, e&^bookkeeping&(allow|^h.s.rights)) {
			return false
		}
	}
	return true
}
