package ept

import (
	"fmt"
	"math/bits"
	"sync/atomic"
	"unsafe"
)

// MaxViews is how many views a [Space] can have at a time.
const MaxViews = 64

// A Range is a piece of an address space.
type Range struct {
	Start uint64
	Size  uint64 // in bytes
}

// End returns the first address behind the range.
func (r Range) End() uint64 { return r.Start + r.Size }

// String returns the first and the last address: "0x1000-0x1fff".
func (r Range) String() string {
	if r.Size == 0 {
		return fmt.Sprintf("%#x, 0 bytes", r.Start)
	}
	return fmt.Sprintf("%#x-%#x", r.Start, r.Start+r.Size-1)
}

// Bookkeeping, in bits that the processor ignores. All but entryUsed are the writers'
// own.
const (
	entryUsed   Entry = 1 << 56 // the entry maps a page, or references a table; it may allow nothing
	entryShared Entry = 1 << 55 // the table may have other parents. In unlinked tables: see retire
	entryCount  Entry = 7 << 52 // three bits of the number of the table's parents: see parents

	countBits  = 3
	countAt    = 52
	countSlots = 8 // entries that hold the number of parents

	// attributes are the bits that the user gives for a page.
	attributes = All | memoryTypeMask | IgnorePAT | Accessed | Dirty | ExecuteUser | Software11 |
		VerifyGuestPaging | PagingWrite | Software59 | SupervisorShadowStack | SubPageWrite | Software62 | SuppressVE
)

// Config is what a [Space] is made from.
type Config struct {
	Pages Pages // where tables live
	Mode  Mode  // what entries mean to the processor

	// LargestPage is the largest size of pages that operations make: PTE (4 KiB), PDE
	// (2 MiB) or PDPTE (1 GiB). 0 is the largest that the processor has.
	LargestPage Level

	// Convertible leaves bit 63 (suppress #VE) 0 in entries that map nothing, so that
	// violations there can become #VE. Without it they are VM exits. It matters in a
	// Mode with ViolationVE.
	Convertible bool
}

// A Space is guest-physical memory: extended page tables in one or more views, which
// share the tables of all that they agree on.
//
// # Who locks
//
// Writers are serialized by the caller: of the methods of a Space and its views, one at
// a time may run, but for these, which any number of goroutines can call at any time:
// Lookup, Translate, Touch, Entry, Mappings and what else only reads, on views that are
// open. Processors walk the tables all the while. Every change that they can see is one
// store of 8 bytes; from one to the next, each address translates as before or as
// after the operation, and never is an address unmapped on the way that is mapped before
// and after. Accessed and dirty flags that processors set meanwhile are kept.
//
// # What is due after a change
//
// Operations return which INVEPT is due on the processors that use the view
// (SDM Vol. 3C 29.4.3.4). It must be done before the next operation on the Space that is
// not an operation on the same view, since processors may still walk tables that have
// become those of another view. Tables that are not linked any more keep their
// contents until [Space.Reclaim].
//
// What a processor still has cached it uses until the INVEPT: an accessed or dirty flag
// that it sets that way goes into the table that it has cached. If the operation has
// unlinked that table, or copied it for this view because others share it, the flag
// is not in the view's own table: it is with the views that have kept the table, or
// lost with it. So to know what has been written: take the right to write away, do the
// INVEPT, then harvest, then change the rest.
//
// # Memory
//
// Nothing is allocated but the pages of tables, from [Pages]; an operation takes all
// that it needs before it changes anything, and returns an error if it cannot.
type Space struct {
	pages  Pages
	window []Table // all pages, if they are Windowed
	phys   uint64  // of window

	mode       Mode
	rights     Entry // the bits of an entry that are rights, all set in entries that reference tables, but for masks
	largest    Level
	empty      Entry // an entry that maps nothing
	legal      uint8 // bit n: a page with the rights n = e&All, and no matter what else, is legal
	guestLimit uint64
	hostLimit  uint64

	views   [MaxViews]*View
	open    uint64 // which views are, by index
	pending uint64 // unlinked tables, the last one first; 0 for none
	dead    int    // how many those are at least: without what only they reference
	hot     hot    // of the page that was mapped last
	op      op     // the operation that is going on
	levels  [PML5E + 1]struct {
		nodes  [MaxViews]node
		groups [MaxViews]group
		of     [MaxViews]uint8 // the group that a node is in
	}
}

// A View is one way to see a [Space]: a root table and the EPT pointer to it.
type View struct {
	space *Space
	mode  *Mode
	root  uint64 // physical address of the root table
	top   *Table // its memory
	index int

	// For walks in a window.
	reach   uint64         // the addresses below are walked in four levels
	base    unsafe.Pointer // of the window
	phys    uint64
	bytes   uint64
	unusual Access // accesses that may ask for other rights than it says, but for AccessTranslation
}

// New returns a space with one view, in which nothing is mapped.
func New(c Config) (*Space, error) {
	if c.Pages == nil {
		return nil, fmt.Errorf("ept: a space needs Pages for its tables: an Arena, for example")
	}
	if err := c.Mode.Validate(); err != nil {
		return nil, err
	}
	s := &Space{
		pages: c.Pages, mode: c.Mode, rights: c.Mode.presentMask(), largest: c.LargestPage,
		guestLimit: c.Mode.AddressLimit(), hostLimit: c.Mode.PhysicalLimit(),
	}
	switch {
	case s.largest == 0:
		s.largest = c.Mode.LargestPage()
	case s.largest > c.Mode.LargestPage():
		return nil, fmt.Errorf("ept: the largest page cannot be that of an %v: %w on this processor", s.largest, ErrLevel)
	}
	if !c.Convertible {
		s.empty = SuppressVE
	}
	if w, ok := c.Pages.(Windowed); ok {
		s.window, s.phys = w.Window()
	}
	for e := range All + 1 {
		if e&Read != 0 || !s.mode.ModeBasedExecute && !s.mode.PagingWrite && s.mode.Misconfiguration(e|WB.Entry(), PTE) == nil {
			s.legal |= 1 << e
		}
	}
	s.op.s = s
	if err := s.take(1); err != nil {
		return nil, fmt.Errorf("ept: no page for the root table: %w", err)
	}
	if _, err := NewPointer(&s.mode, s.op.taken.next); err != nil {
		s.giveBack()
		return nil, err
	}
	root, t := s.popTable()
	for i := range t {
		t[i] = s.empty
	}
	s.openView(root, t)
	return s, nil
}

// openView makes a view of a root table.
func (s *Space) openView(root uint64, t *Table) *View {
	i := bits.TrailingZeros64(^s.open)
	s.open |= 1 << i
	v := &View{space: s, mode: &s.mode, root: root, top: t, index: i}
	s.views[i] = v
	v.unusual = AccessTranslation | AccessShadowStack | AccessUnverified
	if s.mode.ModeBasedExecute {
		v.unusual |= AccessFetch
	}
	if len(s.window) > 0 {
		v.base, v.phys, v.bytes = unsafe.Pointer(&s.window[0]), s.phys, uint64(len(s.window))*pageSize
		if s.mode.TopLevel() == PML4E {
			v.reach = 1 << 48
		}
	}
	return v
}

// Mode returns what entries mean. It must not be changed.
func (s *Space) Mode() *Mode { return &s.mode }

// View returns the view of an index from 0 to MaxViews-1, nil if there is none. The
// first view has index 0; Clone gives the lowest that is free.
func (s *Space) View(index int) *View {
	if index < 0 || index >= MaxViews || s.open>>index&1 == 0 {
		return nil
	}
	return s.views[index]
}

// Views returns all open views, by index.
func (s *Space) Views() func(yield func(*View) bool) {
	return func(yield func(*View) bool) {
		for i := range s.views {
			if v := s.View(i); v != nil && !yield(v) {
				return
			}
		}
	}
}

// Index returns the view's number in its space, at most MaxViews-1. A closed view's number is given to
// the next one.
func (v *View) Index() int { return v.index }

// Space returns the space that the view is one of.
func (v *View) Space() *Space { return v.space }

// Mode returns what entries mean. It must not be changed.
func (v *View) Mode() *Mode { return v.mode }

// Root returns the physical address of the root table.
func (v *View) Root() uint64 { return v.root }

// Pointer returns the EPT pointer: what the VMCS, an EPTP list and INVEPT take.
func (v *View) Pointer() Pointer {
	p, _ := NewPointer(v.mode, v.root) // checked when the view was made
	return p
}

// Entry returns an entry of one of the view's tables, which must be one that the root leads
// to, without bookkeeping.
func (v *View) Entry(table uint64, index int) (Entry, error) {
	if uint(index) >= uint(len(Table{})) {
		return 0, fmt.Errorf("ept: a table has no entry %d", index)
	}
	if table%pageSize != 0 || v.space.window != nil && (table-v.space.phys)>>12 >= uint64(len(v.space.window)) {
		return 0, fmt.Errorf("ept: there is no table at %#x", table)
	}
	return load(&v.table(table)[index]) &^ bookkeeping, nil
}

// table returns the memory of a table.
func (v *View) table(phys uint64) *Table { return v.space.table(phys) }

// table returns the memory of a table.
func (s *Space) table(phys uint64) *Table {
	if i := (phys - s.phys) >> 12; i < uint64(len(s.window)) {
		return &s.window[i]
	}
	return s.pages.Page(phys)
}

// load reads an entry that processors and other goroutines may change.
func load(p *Entry) Entry { return Entry(atomic.LoadUint64((*uint64)(p))) }

// swap stores an entry if another is there.
func swap(p *Entry, old, new Entry) bool {
	return atomic.CompareAndSwapUint64((*uint64)(p), uint64(old), uint64(new))
}

// link stores an entry behind which there is a table that others shall see whole.
func link(p *Entry, e Entry) { atomic.StoreUint64((*uint64)(p), uint64(e)) }

// leaf reports whether an entry that is used maps a page.
func leaf(e Entry, l Level) bool { return e&Large != 0 || l == PTE }

// Lookup returns the entry that maps a guest-physical address, and its level. Of its
// rights it has those that the entries above allow too. The address in it is that of the page: see [Entry.Address].
// ok is false if nothing is mapped; then the entry tells, by SuppressVE, what violations
// do there. It allocates nothing, and can be called at any time.
func (v *View) Lookup(gpa uint64) (e Entry, l Level, ok bool) {
	if gpa >= v.reach {
		return v.lookup(gpa)
	}
	// The usual case. Entries that map nothing are found at the end: they lead out of the
	// window, or to entries that do not matter then.
	l = PDPTE
	allow := load(&v.top[gpa>>39&511])
	at := uint64(allow&addressMask) - v.phys
	if at >= v.bytes {
		return v.lookup(gpa)
	}
	e = entryAt(v.base, at, gpa, 30)
	if e&Large == 0 {
		allow &= e
		if at = uint64(e&addressMask) - v.phys; at >= v.bytes {
			return v.lookup(gpa)
		}
		l, e = PDE, entryAt(v.base, at, gpa, 21)
		if e&Large == 0 {
			allow &= e
			if at = uint64(e&addressMask) - v.phys; at >= v.bytes {
				return v.lookup(gpa)
			}
			l, e = PTE, entryAt(v.base, at, gpa, 12)
		}
	}
	if allow&e&entryUsed == 0 {
		return v.lookup(gpa)
	}
	return e &^ bookkeeping & (allow | ^v.space.rights), l, true
}

// lookup is Lookup for all cases.
func (v *View) lookup(gpa uint64) (e Entry, l Level, ok bool) {
	s := v.space
	if gpa >= s.guestLimit || v.closed() {
		return 0, 0, false
	}
	allow, t := ^Entry(0), v.top
	for l = s.mode.TopLevel(); ; l-- {
		e = load(&t[l.Index(gpa)])
		if e&entryUsed == 0 {
			return e &^ bookkeeping, l, false
		}
		if leaf(e, l) {
			return e &^ bookkeeping & (allow | ^s.rights), l, true
		}
		allow &= e
		t = s.table(uint64(e & addressMask))
	}
}
