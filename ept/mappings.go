package ept

import (
	"errors"
	"fmt"
	"iter"
	"strings"
)

// MaxTables is how many tables one iteration over mappings reads, counted each time
// they are met: 2 TiB by pages of 4 KiB. Tables in hostile memory can refer to each
// other so that a few pages of them map all of the address space by 4 KiB; the limit
// ends this after some seconds.
const MaxTables = 1 << 20

// Errors of walks through tables that somebody else wrote.
var (
	ErrTableLoop     = errors.New("the entry references a table that the walk to it went through: the tables form a loop")
	ErrTooManyTables = fmt.Errorf("there are more than %d tables: look at a smaller range, or find the entries that reference one table again and again", MaxTables)
)

// A TableError tells which of many tables could not be read, and what it translates.
type TableError struct {
	Range Range  // guest-physical addresses that the table translates
	Table uint64 // physical address of the table
	Level Level  // of its entries
	Err   error
}

// Error names the table, what it translates, and the reason.
func (e *TableError) Error() string {
	return fmt.Sprintf("ept: table of %vs at %#x, for guest-physical %v: %v", e.Level, e.Table, e.Range, e.Err)
}

// Unwrap returns the reason.
func (e *TableError) Unwrap() error { return e.Err }

// PageSizes is a set of sizes of pages, by the level that maps them: bit 1 for 4 KiB,
// bit 2 for 2 MiB, bit 3 for 1 GiB.
type PageSizes uint8

// Has reports whether pages of a level are in the set.
func (p PageSizes) Has(l Level) bool { return p>>l&1 != 0 }

// String lists the sizes, as "4K, 2M".
func (p PageSizes) String() string {
	var words []string
	for l := PTE; l <= PML5E; l++ {
		if p.Has(l) {
			words = append(words, formatSize(l.PageSize()))
		}
	}
	return strings.Join(words, ", ")
}

// A Mapping is a range of guest-physical addresses that are translated alike.
type Mapping struct {
	Range
	HPA uint64 // of the first byte; the others follow
	// Attributes are the rights that all entries of the walk allow, and the other
	// attributes of the entries that map the pages: memory type, IgnorePAT, software
	// bits and, if their control is in use, the rest. Address, Large, Accessed, Dirty
	// and bits 56:52 are 0. No right at all (the walk's entries are present, but have
	// no right in common) is possible.
	Attributes Entry
	Sizes      PageSizes
	// Misconfigured is the rule that an entry of the walk breaks; nil for mappings
	// that translate. HPA is 0 then, and Attributes are the rights in the entry.
	Misconfigured *Rule
}

// alike reports whether two mappings differ in no more than addresses and page sizes.
func (m *Mapping) alike(o *Mapping) bool {
	return m.Attributes == o.Attributes && m.Misconfigured == o.Misconfigured && (m.Size == 0) == (o.Size == 0)
}

// clip returns the part of a mapping in [start, end), or no mapping (Size 0).
func (m Mapping) clip(start, end uint64) Mapping {
	s, e := max(start, m.Start), min(end, m.Start+m.Size)
	if m.Size == 0 || s >= e {
		return Mapping{}
	}
	if m.Misconfigured == nil {
		m.HPA += s - m.Start
	}
	m.Start, m.Size = s, e-s
	return m
}

// Footprint counts what maps a range.
type Footprint struct {
	Tables [6]int // by level; a table that is referenced twice counts twice
	Pages  [4]int // by level; 4 KiB at 1, 2 MiB at 2, 1 GiB at 3
}

// Total returns the number of tables of all levels.
func (f *Footprint) Total() (n int) {
	for _, t := range f.Tables {
		n += t
	}
	return n
}

// Mappings iterates over what a source maps, in order of guest-physical addresses.
// Neighbours with the same attributes and contiguous host-physical addresses are one
// Mapping, whatever the sizes of their pages. It allocates a fixed amount, however much is
// mapped.
//
// The last pair has an error if tables could not be read to their end: the [TableError]
// tells why, such as [ErrTableLoop] or [ErrTooManyTables]. What was yielded before is
// valid.
//
// Tables can be in use meanwhile: what is yielded has been true of each page at some moment of
// the iteration.
func Mappings(s Source) iter.Seq2[Mapping, error] {
	return MappingsIn(s, Range{0, 1 << 52})
}

// MappingsIn is [Mappings] for a range: mappings that reach beyond it are cut.
func MappingsIn(s Source, r Range) iter.Seq2[Mapping, error] {
	return func(yield func(Mapping, error) bool) {
		w := walker{source: s, limit: MaxTables, yield: yield}
		w.run(r)
	}
}

// Measure counts tables and pages of a range. Misconfigured entries are not pages.
func Measure(s Source, r Range) (Footprint, error) {
	var failed error
	w := walker{source: s, limit: MaxTables, yield: func(_ Mapping, err error) bool { failed = err; return true }}
	w.run(r)
	return w.footprint, failed
}

// A walker goes through tables and joins what it finds.
type walker struct {
	source    Source
	direct    interface{ table(phys uint64) *Table } // the source, if tables are in memory
	mode      *Mode
	keep      Entry  // attributes that matter
	start     uint64 // of the range
	end       uint64
	path      [PML5E + 1]uint64 // tables on the way, by level
	cur       Mapping           // what grows; Size 0 for none
	yield     func(Mapping, error) bool
	footprint Footprint
	total     int // tables
	limit     int // of total
}

func (w *walker) run(r Range) {
	m := w.source.Mode()
	if err := m.Validate(); err != nil {
		w.yield(Mapping{}, err)
		return
	}
	w.mode, w.keep = m, m.meaningful()
	w.direct, _ = w.source.(interface{ table(phys uint64) *Table })
	w.end = m.AddressLimit()
	if r.Size < w.end && r.Start < w.end-r.Size {
		w.end = r.Start + r.Size
	}
	w.start = r.Start
	if r.Start < w.end && w.walk(w.source.Root(), m.TopLevel(), 0, m.presentMask()) {
		w.flush()
	}
}

// flags are the named bits that are no attributes.
const flags = Large | Accessed | Dirty

// meaningful has the attributes of a leaf that the processor uses in this mode, and those that
// are the owner's.
func (m *Mode) meaningful() Entry {
	keep := All | memoryTypeMask
	for _, b := range entryBits {
		keep |= b.bit &^ flags
	}
	for _, c := range []struct {
		on   bool
		bits Entry
	}{
		{m.ModeBasedExecute, ExecuteUser}, {m.VerifyGuestPaging, VerifyGuestPaging}, {m.PagingWrite, PagingWrite},
		{m.SupervisorShadowStack, SupervisorShadowStack}, {m.SubPageWrite, SubPageWrite}, {m.ViolationVE, SuppressVE},
	} {
		if c.on {
			keep |= c.bits
		} else {
			keep &^= c.bits
		}
	}
	return keep
}

// walk goes through a table that translates addresses from base on. allow has the
// rights that the entries above have in common. It reports whether to go on.
func (w *walker) walk(phys uint64, l Level, base uint64, allow Entry) bool {
	size := l.PageSize()
	first := 0
	if w.start > base {
		first = int((w.start - base) >> l.Shift())
	}
	for above := l + 1; above <= w.mode.TopLevel(); above++ {
		if w.path[above] == phys {
			return w.fail(phys, l, base, ErrTableLoop)
		}
	}
	if w.total++; w.total > w.limit {
		return w.fail(phys, l, base, ErrTooManyTables)
	}
	w.path[l] = phys
	w.footprint.Tables[l]++
	var t *Table
	if w.direct != nil {
		t = w.direct.table(phys)
	}
	rights := w.mode.presentMask()
	keep := w.keep | addressMask | Large
	if l == PTE {
		keep &^= Large // ignored there
	} else {
		keep &^= SubPageWrite // ignored here
	}
	last := len(Table{})
	if n := (w.end - base + size - 1) >> l.Shift(); n < uint64(last) {
		last = int(n)
	}
	for i := first; i < last; i++ {
		gpa := base + uint64(i)*size
		e, err := w.entry(t, phys, i)
		if err != nil {
			return w.fail(phys, l, base, err)
		}
		if !e.Present(w.mode) {
			continue
		}
		if rule := w.mode.Misconfiguration(e, l); rule != nil {
			if !w.add(Mapping{Range: Range{gpa, size}, Attributes: e & rights, Misconfigured: rule}) {
				return false
			}
			continue
		}
		if !e.Leaf(l) {
			if !w.walk(e.Address(l), l-1, gpa, allow&e) {
				return false
			}
			continue
		}
		// Pages that belong together are found without all this: their entries count
		// up by the size of a page. They must not count up into reserved bits,
		// where entries are misconfigured.
		hpa := e.Address(l)
		most := int(min(uint64(last-i), (w.mode.PhysicalLimit()-hpa)/size))
		n := 1
		if t != nil {
			n = run(t[i:i+most], keep, e&keep, Entry(size))
		} else {
			for n < most {
				next, err := w.entry(t, phys, i+n)
				if err != nil || next&keep != e&keep+Entry(uint64(n)*size) {
					break // an error comes again
				}
				n++
			}
		}
		w.footprint.Pages[l] += n
		m := Mapping{Range: Range{gpa, uint64(n) * size}, HPA: hpa, Sizes: 1 << l}
		m.Attributes = e & keep &^ (addressMask | Large) &^ (rights &^ allow)
		if !w.add(m) {
			return false
		}
		i += n - 1
	}
	return true
}

// entry reads an entry of a table, in place if that is possible.
func (w *walker) entry(t *Table, phys uint64, i int) (Entry, error) {
	if t != nil {
		return load(&t[i]), nil
	}
	return w.source.Entry(phys, i)
}

// run returns how many entries from the first one on, which has the bits e of those in keep,
// count up by a step.
func run(entries []Entry, keep, e, step Entry) int {
	for i := range entries {
		if load(&entries[i])&keep != e && i > 0 {
			return i
		}
		e += step
	}
	return len(entries)
}

// add joins a mapping to the open one, or opens it instead.
func (w *walker) add(m Mapping) bool {
	c := &w.cur
	m = m.clip(w.start, w.end)
	if c.Size != 0 && m.Start == c.Start+c.Size && m.alike(c) && (m.Misconfigured != nil || m.HPA == c.HPA+c.Size) {
		c.Size += m.Size
		c.Sizes |= m.Sizes
		return true
	}
	if !w.flush() {
		return false
	}
	*c = m
	return true
}

// flush yields the open mapping.
func (w *walker) flush() bool {
	m := w.cur
	w.cur.Size = 0
	return m.Size == 0 || w.yield(m, nil)
}

// fail yields what there is, and then the reason why there is no more.
func (w *walker) fail(phys uint64, l Level, base uint64, err error) bool {
	if w.flush() {
		w.yield(Mapping{}, &TableError{Range{base, l.PageSize() << 9}, phys, l, err})
	}
	return false
}
