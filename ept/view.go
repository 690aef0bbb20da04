package ept

import (
	"fmt"
	"unsafe"
)

// hot is what Map knows from the page of 4 KiB that it mapped last.
type hot struct {
	// The view that can map the next without a walk, in a table that it alone uses, all entries
	// above allowing everything. Every other operation forgets it.
	view  *View
	table *Table
	base  uint64 // guest-physical address >> 21

	attr Entry // found right, as 0 is
}

// noTable is the root table of views that are closed.
var noTable Table

func (v *View) closed() bool { return v.top == &noTable }

// set returns the set that has just this view.
func (v *View) set() (uint64, error) {
	if v.closed() {
		return 0, ErrClosed
	}
	return 1 << v.index, nil
}

// fail makes the error of an operation.
func (s *Space) fail(op string, gpa, size uint64, err error) error {
	return &RangeError{Op: op, Range: Range{gpa, size}, Err: err}
}

func (s *Space) failTo(op string, gpa, size, hpa uint64, err error) error {
	return &RangeError{Op: op, Range: Range{gpa, size}, HPA: hpa, Mapped: true, Err: err}
}

// Map maps a range of guest-physical addresses to physical addresses from hpa on, with
// the attributes attr: rights, memory type ([MemoryType.Entry]), IgnorePAT, SuppressVE and so on. Without any
// right it is a mapping that allows nothing; [View.Protect] can allow it later. It
// uses the largest pages that the alignment of both addresses, the processor and
// [Config] allow. If anything is mapped there already, the error wraps [ErrMapped] and
// names the first such address. Addresses and sizes are in bytes, multiples of 4096.
//
// What was not mapped needs no invalidation. One is due all the same if tables had to be copied
// that other views share.
func (v *View) Map(gpa, size, hpa uint64, attr Entry) (Invalidation, error) {
	s := v.space
	if h := &s.hot; h.view == v && gpa>>21 == h.base && s.isPage(gpa, size, hpa, attr) && s.mapIn(h.table, gpa, hpa) {
		return NoInvalidation, nil
	}
	return v.mapAny(gpa, size, hpa, attr)
}

// isPage reports whether one page of 4 KiB is to be mapped with attributes that are known to be
// right.
func (s *Space) isPage(gpa, size, hpa uint64, attr Entry) bool {
	return size == pageSize && attr == s.hot.attr && (gpa|hpa)&(pageSize-1) == 0 && hpa < s.hostLimit
}

// mapIn maps a page with those attributes, if its entry in a table is not in use.
func (s *Space) mapIn(t *Table, gpa, hpa uint64) bool {
	p := &t[gpa>>12&511]
	e := load(p)
	if e&entryUsed != 0 {
		return false
	}
	store(p, Entry(hpa)|s.hot.attr|entryUsed|e&entryCount)
	return true
}

// mapAny is Map for all cases.
func (v *View) mapAny(gpa, size, hpa uint64, attr Entry) (Invalidation, error) {
	s := v.space
	if s.isPage(gpa, size, hpa, attr) {
		if t := v.owned(gpa, s.rights); t != nil && s.mapIn(t, gpa, hpa) {
			return NoInvalidation, nil
		}
	}
	set, err := v.set()
	if err != nil {
		return NoInvalidation, s.failTo("Map", gpa, size, hpa, err)
	}
	due, err := s.place(opMap, set, gpa, size, hpa, attr, nil)
	if err == nil && size == pageSize {
		v.warm(gpa, attr)
	}
	return due, err
}

// warm remembers the attributes with which a page was mapped, and the table.
func (v *View) warm(gpa uint64, attr Entry) {
	s := v.space
	s.hot.attr = attr
	t := v.top
	for l := s.mode.TopLevel(); l > PTE; l-- {
		e := load(&t[l.Index(gpa)])
		if e&(entryShared|s.rights) != s.rights {
			return
		}
		t = s.table(uint64(e & addressMask))
	}
	s.hot.view, s.hot.table, s.hot.base = v, t, gpa>>21
}

// owned returns the table of PTEs that translates an address, if this view alone uses it and
// those above, and the entries above allow all of rights; else nil. It is nil too where
// walks are not quick: with five levels, or out of a window.
func (v *View) owned(gpa uint64, rights Entry) *Table {
	if gpa >= v.reach {
		return nil
	}
	// Entries that reference no table are found at the end: they lead out of the window, or to
	// entries that do not matter then.
	want := rights | entryUsed
	e := entryAt(unsafe.Pointer(v.top), 0, gpa, 39)
	wrong := e ^ want
	at := uint64(e&addressMask) - v.phys
	if at >= v.bytes {
		return nil
	}
	e = entryAt(v.base, at, gpa, 30)
	wrong |= e ^ want
	if at = uint64(e&addressMask) - v.phys; at >= v.bytes {
		return nil
	}
	e = entryAt(v.base, at, gpa, 21)
	wrong |= e ^ want
	if at = uint64(e&addressMask) - v.phys; at >= v.bytes || wrong&(want|entryShared|Large) != 0 {
		return nil
	}
	return (*Table)(unsafe.Add(v.base, at))
}

// MapTyped is [View.Map] with memory types from a source, such as the processor's MTRRs,
// by physical address. The type in attr does not count. Large pages are used only where the type is the
// same in all of the page (SDM Vol. 3A 12.11.9).
func (v *View) MapTyped(gpa, size, hpa uint64, attr Entry, t Types) (Invalidation, error) {
	set, err := v.set()
	if err != nil {
		return NoInvalidation, v.space.failTo("Map", gpa, size, hpa, err)
	}
	return v.space.placeTyped(opMap, set, gpa, size, hpa, attr, t)
}

// Replace is [View.Map] for a range in which something may be mapped: that is replaced,
// each entry by one store. Tables that are in the way of large pages are unlinked.
// Pages that map the same memory as before keep their accessed and dirty flags.
func (v *View) Replace(gpa, size, hpa uint64, attr Entry) (Invalidation, error) {
	set, err := v.set()
	if err != nil {
		return NoInvalidation, v.space.failTo("Replace", gpa, size, hpa, err)
	}
	return v.space.place(opReplace, set, gpa, size, hpa, attr, nil)
}

// ReplaceTyped is Replace as [View.MapTyped] is Map.
func (v *View) ReplaceTyped(gpa, size, hpa uint64, attr Entry, t Types) (Invalidation, error) {
	set, err := v.set()
	if err != nil {
		return NoInvalidation, v.space.failTo("Replace", gpa, size, hpa, err)
	}
	return v.space.placeTyped(opReplace, set, gpa, size, hpa, attr, t)
}

// Unmap removes what is mapped in a range. Where nothing is mapped nothing happens.
// Tables in which nothing is left are unlinked.
func (v *View) Unmap(gpa, size uint64) (Invalidation, error) {
	// The usual case for one page of 4 KiB: this view alone uses the tables, and a neighbour
	// stays mapped, so that no table gets empty.
	if (size^pageSize)|gpa&(pageSize-1) == 0 {
		if t, i := v.owned(gpa, 0), gpa>>12&511; t != nil && (load(&t[(i+1)&511])|load(&t[(i-1)&511]))&load(&t[i])&entryUsed != 0 {
			link(&t[i], v.space.empty|load(&t[i])&entryCount)
			return SingleContext, nil
		}
	}
	set, err := v.set()
	if err != nil {
		return NoInvalidation, v.space.fail("Unmap", gpa, size, err)
	}
	return v.space.unmap(set, gpa, size)
}

// Protect sets and clears attributes of what is mapped in a range: rights, memory type
// (clear all three bits, set those wanted), and the others that Map takes, but not the
// accessed and dirty flags (see [View.Harvest]). Bits in both are set. Where nothing is
// mapped nothing happens. Pages that the range has a part of are split. Where only
// rights are cleared, that takes one store in the entry above, for
// each table that lies in the range with all it translates; tables stay shared.
// A page that would be misconfigured makes the whole operation fail.
func (v *View) Protect(gpa, size uint64, set, clear Entry) (Invalidation, error) {
	s := v.space
	// The usual case: one page of 4 KiB, whose tables this view alone uses, and which mask no
	// rights. The walk is that of owned, which costs 17 instructions more when it is called. Entries that reference no table are found at the end: they lead out of the
	// window, or to entries that do not matter then.
	if (size^pageSize)|gpa&(pageSize-1)|uint64((set|clear)&^All) == 0 && gpa < v.reach {
		const want = entryUsed | All
		e := load(&v.top[gpa>>39&511])
		wrong := e ^ want
		at := uint64(e&addressMask) - v.phys
		if at >= v.bytes {
			goto slow
		}
		e = entryAt(v.base, at, gpa, 30)
		wrong |= e ^ want
		if at = uint64(e&addressMask) - v.phys; at >= v.bytes {
			goto slow
		}
		e = entryAt(v.base, at, gpa, 21)
		wrong |= e ^ want
		if at = uint64(e&addressMask) - v.phys; at >= v.bytes || wrong&(want|entryShared|Large) != 0 {
			goto slow
		}
		p := (*Entry)(unsafe.Add(v.base, at+gpa>>(12-3)&(511<<3)))
		old := load(p)
		e = old&^clear | set
		if old&entryUsed == 0 || e&Read == 0 && s.legal>>(e&All)&1 == 0 || !s.exchange(p, old, e) {
			goto slow
		}
		// SingleContext if a right was lost: without a branch, which could not be predicted
		// before the entry has come from memory.
		return Invalidation((old&^e + All) >> 3), nil
	}
slow:
	return v.protect(gpa, size, set, clear)
}

// protect is Protect for all cases.
func (v *View) protect(gpa, size uint64, set, clear Entry) (Invalidation, error) {
	one, err := v.set()
	if err != nil {
		return NoInvalidation, v.space.fail("Protect", gpa, size, err)
	}
	return v.space.protect(one, gpa, size, set, clear)
}

// Split splits pages that are larger than those of a level, wherever they are in the
// range or have a part in it: into pages of the next level, as far as needed for the
// range. Attributes, accessed and dirty flags are those of the page.
func (v *View) Split(gpa, size uint64, to Level) (Invalidation, error) {
	set, err := v.set()
	if err != nil {
		return NoInvalidation, v.space.fail("Split", gpa, size, err)
	}
	return v.space.split(set, gpa, size, to)
}

// Join replaces tables by large pages: those that lie in the range with all that they
// translate, and map it in order and with the same attributes. Accessed and dirty flags
// are combined. A flag that a processor sets through what it has cached, after Join and before
// the invalidation that is due, is lost with the table; so is nothing else.
func (v *View) Join(gpa, size uint64) (Invalidation, error) {
	set, err := v.set()
	if err != nil {
		return NoInvalidation, v.space.fail("Join", gpa, size, err)
	}
	return v.space.join(set, gpa, size)
}

// Clone returns a new view that maps the same. It takes one page: all but the root table is
// shared until one of the views changes, and each change copies just the tables on the
// way to it. Accessed and dirty flags in shared tables are those of all that share: to find
// them all, harvest all views, by [Space.Harvest].
func (v *View) Clone() (*View, error) {
	s := v.space
	if v.closed() {
		return nil, fmt.Errorf("ept: Clone: %w", ErrClosed)
	}
	if ^s.open == 0 {
		return nil, fmt.Errorf("ept: Clone: %w", ErrTooManyViews)
	}
	s.hot.view = nil
	if err := s.take(1); err != nil {
		return nil, fmt.Errorf("ept: Clone: no page for the root table: %w", err)
	}
	if _, err := NewPointer(&s.mode, s.op.taken.next); err != nil {
		s.giveBack()
		return nil, err
	}
	root, t := s.popTable()
	s.copyTable(t, v.top, s.mode.TopLevel(), s.rights)
	return s.openView(root, t), nil
}

// Close ends a view. The INVEPT that it returns is that of the view's EPT pointer, on
// processors that have used it; [Space.Reclaim] then frees what only it used. The view
// must not be used any more: operations return [ErrClosed], and translations panic.
// Closing it twice does nothing.
func (v *View) Close() Invalidation {
	if v.closed() {
		return NoInvalidation
	}
	s := v.space
	s.hot.view = nil
	s.open &^= 1 << v.index
	s.retire(v.root, v.top, s.mode.TopLevel())
	s.views[v.index] = nil
	v.top, v.reach = &noTable, 0
	return SingleContext
}
