package ept_test

import (
	"errors"
	"flag"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"

	"pgregory.net/rapid"

	"github.com/govtx/vtx/ept"
	"github.com/govtx/vtx/internal/require"
	"github.com/govtx/vtx/internal/ring0test"
	"github.com/govtx/vtx/vmcs"
)

const (
	size4K = 1 << 12
	size2M = 1 << 21
	size1G = 1 << 30
)

// allCapabilities are all that matter to EPT.
const allCapabilities = ^vmcs.EPTVPID(0)

// fallible is Pages that run dry after a number of pages.
type fallible struct {
	*ept.Arena
	left int // negative: as many as the arena has
}

func (f *fallible) AllocPage() (uint64, error) {
	if f.left == 0 {
		return 0, ept.ErrNoPages
	}
	f.left--
	return f.Arena.AllocPage()
}

// called is fallible without a window.
type called struct{ f *fallible }

func (c called) AllocPage() (uint64, error)  { return c.f.AllocPage() }
func (c called) FreePage(phys uint64)        { c.f.FreePage(phys) }
func (c called) Page(phys uint64) *ept.Table { return c.f.Page(phys) }

// A cell is what the model knows of the pages from one point to the next.
type cell struct {
	mapped bool
	hpa    uint64    // of the first page
	attr   ept.Entry // without flags
	flags  ept.Entry // at least these are set in the first page
}

type modelView struct {
	v     *ept.View
	cells []cell // as points
}

// model is a space and what should be in it.
type model struct {
	points  []uint64 // where operations can begin and end
	arena   *ept.Arena
	pages   *fallible
	space   *ept.Space
	mode    ept.Mode
	largest ept.Level
	views   []*modelView
	touched bool
}

func newModel(t *rapid.T, points []uint64) *model {
	m := &model{points: points}
	m.mode = ept.Mode{
		Capabilities:          allCapabilities,
		PhysicalAddressBits:   uint8(rapid.SampledFrom([]int{42, 46, 52}).Draw(t, "MAXPHYADDR")),
		Levels:                uint8(rapid.SampledFrom([]int{0, 4, 5}).Draw(t, "levels")),
		AccessedDirty:         rapid.Bool().Draw(t, "A/D"),
		SupervisorShadowStack: rarely(t, "SSS"),
		ModeBasedExecute:      rarely(t, "MBEC"),
		SubPageWrite:          rarely(t, "SPP"),
		ViolationVE:           rarely(t, "#VE"),
		PagingWrite:           rarely(t, "paging write"),
	}
	if rapid.Bool().Draw(t, "no execute-only") {
		m.mode.Capabilities &^= 1
	}
	m.largest = ept.Level(rapid.SampledFrom([]int{3, 2, 1}).Draw(t, "largest page"))
	var err error
	m.arena, err = ept.NewArena(make([]byte, 160*size4K), rapid.SampledFrom([]uint64{0x1234_5000, 0}).Draw(t, "tables"))
	require.NoError(t, err)
	m.pages = &fallible{m.arena, -1}
	c := ept.Config{Pages: m.pages, Mode: m.mode, LargestPage: m.largest, Convertible: rapid.Bool().Draw(t, "convertible")}
	if rapid.Bool().Draw(t, "no window") {
		c.Pages = called{m.pages}
	}
	m.space, err = ept.New(c)
	require.NoError(t, err)
	m.views = []*modelView{{m.space.View(0), make([]cell, len(points))}}
	if rapid.Bool().Draw(t, "begin with something") {
		m.begin(t)
	}
	return m
}

func rarely(t *rapid.T, what string) bool { return rapid.IntRange(0, 4).Draw(t, what) == 4 }

// begin maps all that there is to map, for two views that share their tables.
func (m *model) begin(t *rapid.T) {
	v := m.views[0]
	n := len(m.points) - 1
	gpa, size := m.points[0], m.points[n]-m.points[0]
	if _, err := v.v.Map(gpa, size, gpa, ept.All|ept.WB.Entry()); err != nil {
		require.ErrorIs(t, err, ept.ErrNoPages)
		return
	}
	for k := range n {
		v.cells[k] = cell{mapped: true, hpa: m.points[k], attr: ept.All | ept.WB.Entry()}
	}
	w, err := v.v.Clone()
	require.NoError(t, err)
	m.views = append(m.views, &modelView{w, slices.Clone(v.cells)})
}

// drawRange draws a range between points.
func (m *model) drawRange(t *rapid.T) (i, j int) {
	i = rapid.IntRange(0, len(m.points)-2).Draw(t, "from")
	switch rapid.IntRange(0, 7).Draw(t, "length") {
	case 0, 1, 2, 3:
		return i, i + 1
	case 4:
		return 0, len(m.points) - 1
	}
	return i, rapid.IntRange(i+1, len(m.points)-1).Draw(t, "to")
}

// drawViews draws one view, or all.
func (m *model) drawViews(t *rapid.T) []*modelView {
	i := rapid.IntRange(-1, len(m.views)-1).Draw(t, "view")
	if i < 0 {
		return m.views
	}
	return m.views[i : i+1]
}

var memoryTypes = []ept.MemoryType{ept.UC, ept.WC, ept.WT, ept.WP, ept.WB}

func (m *model) drawAttributes(t *rapid.T) ept.Entry {
	e := rapid.SampledFrom([]ept.Entry{ept.All, ept.All, ept.ReadWrite, ept.Read, ept.ReadExecute, ept.Execute, ept.Write, 0}).Draw(t, "rights")
	e |= rapid.SampledFrom(memoryTypes).Draw(t, "type").Entry()
	return e | m.drawBits(t)
}

func (m *model) drawBits(t *rapid.T) (e ept.Entry) {
	for _, b := range []ept.Entry{ept.ExecuteUser, ept.SuppressVE, ept.SubPageWrite, ept.PagingWrite, ept.SupervisorShadowStack, ept.Software11} {
		if rapid.IntRange(0, 7).Draw(t, "bit") == 0 {
			e |= b
		}
	}
	return e
}

// wrong tells whether a page must not have these attributes, by the processor's rules.
func (m *model) wrong(attr ept.Entry) bool {
	return m.mode.Misconfiguration(attr, ept.PTE) != nil
}

// try runs an operation with an allocator that runs dry after 0, 1, 2, ... pages, till it
// does something else than to run dry. Until then nothing must have changed.
func (m *model) try(t *rapid.T, views []*modelView, one func(v *ept.View) (ept.Invalidation, error), all func(s *ept.Space) (ept.Invalidation, error)) (ept.Invalidation, error) {
	used := m.arena.Used()
	skip := rapid.IntRange(0, 3).Draw(t, "pages before the first failure")
	for n := skip; ; n++ {
		m.pages.left = n
		if n > skip+6 {
			m.pages.left = -1
		}
		var due ept.Invalidation
		var err error
		if len(views) == 1 {
			due, err = one(views[0].v)
		} else {
			due, err = all(m.space)
		}
		unlimited := m.pages.left < 0
		left := m.pages.left
		m.pages.left = -1
		if err != nil {
			require.Equal(t, used, m.arena.Used(), "pages in use after %v", err)
			require.Equal(t, ept.NoInvalidation, due)
			var re *ept.RangeError
			require.True(t, errors.As(err, &re), "%v", err)
		}
		if !errors.Is(err, ept.ErrNoPages) {
			if err == nil && !unlimited {
				require.Equal(t, used+n-left, m.arena.Used(), "it has used all pages that it took")
			}
			return due, err
		}
		if n == skip {
			m.check(t)
		}
		if unlimited {
			return due, err
		}
	}
}

// place is Map and Replace, typed or not.
func (m *model) place(t *rapid.T) {
	views := m.drawViews(t)
	i, j := m.drawRange(t)
	gpa, size := m.points[i], m.points[j]-m.points[i]
	align := rapid.SampledFrom([]uint64{size4K, size2M, size1G}).Draw(t, "alignment of the difference")
	delta := uint64(rapid.IntRange(0, 5).Draw(t, "difference")) * align
	attr := m.drawAttributes(t)
	replace := rapid.Bool().Draw(t, "replace")
	var source ept.Types
	if size <= 4*size1G && rapid.Bool().Draw(t, "typed") {
		source = stripes{rapid.SampledFrom([]uint64{max(3*size4K, size/8&^0xfff), size2M, size2M * 2, size1G + size2M, size1G}).Draw(t, "stripes")}
		attr &^= 7 << 3
	}
	due, err := m.try(t, views, func(v *ept.View) (ept.Invalidation, error) {
		switch {
		case source != nil && replace:
			return v.ReplaceTyped(gpa, size, gpa+delta, attr, source)
		case source != nil:
			return v.MapTyped(gpa, size, gpa+delta, attr, source)
		case replace:
			return v.Replace(gpa, size, gpa+delta, attr)
		}
		return v.Map(gpa, size, gpa+delta, attr)
	}, func(s *ept.Space) (ept.Invalidation, error) {
		switch {
		case source != nil && replace:
			return s.ReplaceTyped(gpa, size, gpa+delta, attr, source)
		case source != nil:
			return s.MapTyped(gpa, size, gpa+delta, attr, source)
		case replace:
			return s.Replace(gpa, size, gpa+delta, attr)
		}
		return s.Map(gpa, size, gpa+delta, attr)
	})
	if errors.Is(err, ept.ErrNoPages) {
		return
	}
	if m.wrong(attr) {
		require.ErrorIs(t, err, ept.ErrMisconfigure)
		return
	}
	// What is in the way?
	first := j
	for _, v := range views {
		for k := i; k < first; k++ {
			if v.cells[k].mapped {
				first = k
			}
		}
	}
	if first < j && !replace {
		require.ErrorIs(t, err, ept.ErrMapped)
		require.Contains(t, err.Error(), fmt.Sprintf("%#x is mapped", m.points[first]))
		return
	}
	require.NoError(t, err)
	for _, v := range views {
		for k := i; k < j; k++ {
			c := cell{mapped: true, hpa: m.points[k] + delta, attr: attr}
			if source != nil {
				// The cell may have several memoryTypes: see lookup in check.
				c.attr |= 7 << 3
				m.typed(t, v, k, source, delta, attr)
				old := v.cells[k]
				m.retype(v, k, delta, attr, source)
				if old.mapped && old.hpa == v.cells[k].hpa {
					v.cells[k].flags = old.flags
				}
				continue
			}
			if old := v.cells[k]; old.mapped && old.hpa == c.hpa {
				c.flags = old.flags
			}
			if c.attr != v.cells[k].attr || c.hpa != v.cells[k].hpa {
				m.changed(t, due, v.cells[k], c)
			}
			v.cells[k] = c
			if first == j && !replace {
				_, l, _ := v.v.Lookup(m.points[k])
				require.Equal(t, m.bestLevel(k, i, j, delta, attr), l, "level at %#x", m.points[k])
			}
		}
	}
}

// retype notes the type at the beginning of a cell: typed maps use only cells of one type.
func (m *model) retype(v *modelView, k int, delta uint64, attr ept.Entry, source ept.Types) {
	mt, _ := source.At(m.points[k] + delta)
	v.cells[k] = cell{mapped: true, hpa: m.points[k] + delta, attr: attr | mt.Entry()}
}

// typed checks the memoryTypes of all of a cell, then makes it one of one type.
func (m *model) typed(t *rapid.T, v *modelView, k int, source ept.Types, delta uint64, attr ept.Entry) {
	end := m.points[k+1]
	split := false
	for at := m.points[k]; at < end; {
		e, l, ok := v.v.Lookup(at)
		require.True(t, ok)
		want, next := source.At(at + delta)
		require.Equal(t, want, e.MemoryType(), "type at %#x", at)
		page := at &^ (l.PageSize() - 1)
		require.True(t, next-delta >= page+l.PageSize(), "a page of an %v at %#x has two memoryTypes", l, page)
		e2, l2, _ := v.v.Lookup(min(next-delta, end) - 1)
		require.Equal(t, want, e2.MemoryType(), "type before %#x, in an %v", next-delta, l2)
		if next-delta < end {
			split = true
		}
		at = next - delta
	}
	if split {
		mt, _ := source.At(m.points[k] + delta)
		_, err := v.v.Replace(m.points[k], end-m.points[k], m.points[k]+delta, attr|mt.Entry())
		if err != nil { // no page: leave nothing there
			_, err = v.v.Unmap(m.points[k], end-m.points[k])
			require.NoError(t, err)
			t.Skip("no page")
		}
	}
}

// bestLevel is the largest page that can map a cell in a range that had been empty.
func (m *model) bestLevel(k, i, j int, delta uint64, attr ept.Entry) ept.Level {
	for l := m.largest; l > ept.PTE; l-- {
		page := m.points[k] &^ (l.PageSize() - 1)
		if page >= m.points[i] && page+l.PageSize() <= m.points[j] && delta%l.PageSize() == 0 && !(m.mode.SubPageWrite && attr&ept.SubPageWrite != 0) {
			return l
		}
	}
	return ept.PTE
}

// changed checks that an invalidation is due when one is needed.
func (m *model) changed(t *rapid.T, due ept.Invalidation, old, now cell) {
	const allow = ept.All
	if old.mapped && old.attr&allow != 0 && (!now.mapped || old.hpa != now.hpa || old.attr&^now.attr&allow != 0 || (old.attr^now.attr)&(7<<3|ept.IgnorePAT) != 0) {
		require.NotEqual(t, ept.NoInvalidation, due, "%+v became %+v", old, now)
	}
}

// stripes is memory whose type changes from one stripe to the next.
type stripes struct{ size uint64 }

func (s stripes) At(hpa uint64) (ept.MemoryType, uint64) {
	n := hpa / s.size
	return memoryTypes[n%uint64(len(memoryTypes))], (n + 1) * s.size
}

func (m *model) unmap(t *rapid.T) {
	views := m.drawViews(t)
	i, j := m.drawRange(t)
	gpa, size := m.points[i], m.points[j]-m.points[i]
	due, err := m.try(t, views, func(v *ept.View) (ept.Invalidation, error) { return v.Unmap(gpa, size) },
		func(s *ept.Space) (ept.Invalidation, error) { return s.Unmap(gpa, size) })
	if errors.Is(err, ept.ErrNoPages) {
		return
	}
	require.NoError(t, err)
	for _, v := range views {
		for k := i; k < j; k++ {
			m.changed(t, due, v.cells[k], cell{})
			v.cells[k] = cell{}
		}
	}
}

func (m *model) protect(t *rapid.T) {
	views := m.drawViews(t)
	i, j := m.drawRange(t)
	gpa, size := m.points[i], m.points[j]-m.points[i]
	var set, clear ept.Entry
	rights := []ept.Entry{ept.Write, ept.Execute, ept.ReadWrite, ept.All, ept.Read, ept.ReadExecute, ept.All | ept.ExecuteUser, ept.ExecuteUser}
	switch rapid.IntRange(0, 3).Draw(t, "what") {
	case 0:
		set = rapid.SampledFrom(rights).Draw(t, "set")
	case 1:
		clear = rapid.SampledFrom(rights).Draw(t, "clear")
	case 2:
		set, clear = rapid.SampledFrom(rights).Draw(t, "set"), rapid.SampledFrom(rights).Draw(t, "clear")
	default:
		set, clear = m.drawBits(t), m.drawBits(t)
		if rapid.Bool().Draw(t, "retype") {
			clear |= 7 << 3
			set |= rapid.SampledFrom(memoryTypes).Draw(t, "type").Entry()
		}
	}
	due, err := m.try(t, views, func(v *ept.View) (ept.Invalidation, error) { return v.Protect(gpa, size, set, clear) },
		func(s *ept.Space) (ept.Invalidation, error) { return s.Protect(gpa, size, set, clear) })
	if errors.Is(err, ept.ErrNoPages) {
		return
	}
	change := func(e ept.Entry) ept.Entry { return e&^clear | set }
	for _, v := range views {
		for _, c := range v.cells[i:j] {
			if c.mapped && change(c.attr) != c.attr && m.wrong(change(c.attr)) {
				require.ErrorIs(t, err, ept.ErrMisconfigure)
				return
			}
		}
	}
	require.NoError(t, err)
	for _, v := range views {
		for k := i; k < j; k++ {
			if c := &v.cells[k]; c.mapped {
				old := *c
				c.attr = change(c.attr)
				m.changed(t, due, old, *c)
			}
		}
	}
}

func (m *model) split(t *rapid.T) {
	views := m.drawViews(t)
	i, j := m.drawRange(t)
	to := ept.Level(rapid.IntRange(1, 3).Draw(t, "to"))
	gpa, size := m.points[i], m.points[j]-m.points[i]
	_, err := m.try(t, views, func(v *ept.View) (ept.Invalidation, error) { return v.Split(gpa, size, to) },
		func(s *ept.Space) (ept.Invalidation, error) { return s.Split(gpa, size, to) })
	if errors.Is(err, ept.ErrNoPages) {
		return
	}
	require.NoError(t, err)
	for _, v := range views {
		for k := i; k < j; k++ {
			if _, l, ok := v.v.Lookup(m.points[k]); ok {
				require.True(t, l <= to, "an %v after Split to %v", l, to)
			}
		}
	}
}

func (m *model) join(t *rapid.T) {
	views := m.drawViews(t)
	i, j := m.drawRange(t)
	gpa, size := m.points[i], m.points[j]-m.points[i]
	_, err := m.try(t, views, func(v *ept.View) (ept.Invalidation, error) { return v.Join(gpa, size) },
		func(s *ept.Space) (ept.Invalidation, error) { return s.Join(gpa, size) })
	if errors.Is(err, ept.ErrNoPages) {
		return
	}
	require.NoError(t, err)
	for _, v := range views {
		for k := i; k < j; k++ {
			for l := m.largest; l > ept.PTE; l-- {
				if m.uniform(v, i, j, k, l) {
					_, got, _ := v.v.Lookup(m.points[k])
					require.True(t, got >= l, "an %v at %#x after Join, that could be an %v", got, m.points[k], l)
				}
			}
		}
	}
}

// uniform tells whether the page of a level around a cell lies in a range, and is
// mapped in one piece.
func (m *model) uniform(v *modelView, i, j, k int, l ept.Level) bool {
	page := m.points[k] &^ (l.PageSize() - 1)
	if page < m.points[i] || page+l.PageSize() > m.points[j] {
		return false
	}
	c := v.cells[k]
	delta := c.hpa - m.points[k]
	if !c.mapped || delta%l.PageSize() != 0 || m.mode.SubPageWrite && c.attr&ept.SubPageWrite != 0 {
		return false
	}
	for n := i; n < j; n++ {
		if at := m.points[n]; at >= page && at < page+l.PageSize() {
			if d := v.cells[n]; !d.mapped || d.hpa-at != delta || d.attr != c.attr {
				return false
			}
		}
	}
	return true
}

func (m *model) clone(t *rapid.T) {
	of := rapid.SampledFrom(m.views).Draw(t, "view")
	if len(m.views) == 4 {
		t.Skip("enough views")
	}
	m.pages.left = 0
	_, err := of.v.Clone()
	require.ErrorIs(t, err, ept.ErrNoPages)
	m.pages.left = -1
	v, err := of.v.Clone()
	if errors.Is(err, ept.ErrNoPages) {
		return
	}
	require.NoError(t, err)
	cells := slices.Clone(of.cells)
	m.views = append(m.views, &modelView{v, cells})
}

func (m *model) close(t *rapid.T) {
	if len(m.views) == 1 {
		t.Skip("the last view")
	}
	i := rapid.IntRange(0, len(m.views)-1).Draw(t, "view")
	require.Equal(t, ept.SingleContext, m.views[i].v.Close())
	m.views = slices.Delete(m.views, i, i+1)
}

// touch sets flags as a processor does.
func (m *model) touch(t *rapid.T) {
	v := rapid.SampledFrom(m.views).Draw(t, "view")
	k := rapid.IntRange(0, len(m.points)-2).Draw(t, "cell")
	flags := rapid.SampledFrom([]ept.Entry{ept.Accessed, ept.Accessed | ept.Dirty}).Draw(t, "flags")
	if m.mode.AccessedDirty && v.cells[k].mapped && m.mark(v.v.Root(), m.points[k], flags) {
		v.cells[k].flags |= flags
		m.touched = true
	}
}

// mark walks the tables and sets flags on the way. It reports whether a page is there
// that allows anything.
func (m *model) mark(root, gpa uint64, flags ept.Entry) bool {
	for l := m.mode.TopLevel(); ; l-- {
		p := &m.arena.Page(root)[l.Index(gpa)]
		for {
			e := ept.Entry(atomic.LoadUint64((*uint64)(p)))
			if !e.Present(&m.mode) {
				return false
			}
			f := ept.Accessed
			if e.Leaf(l) {
				f = flags
			}
			if atomic.CompareAndSwapUint64((*uint64)(p), uint64(e), uint64(e|f)) {
				if e.Leaf(l) {
					return true
				}
				root = e.Address(l)
				break
			}
		}
	}
}

func (m *model) harvest(t *rapid.T) {
	i, j := m.drawRange(t)
	gpa, size := m.points[i], m.points[j]-m.points[i]
	clear := rapid.SampledFrom([]ept.Entry{0, ept.Accessed, ept.Dirty, ept.Accessed | ept.Dirty}).Draw(t, "flags")
	want := clear
	if want == 0 {
		want = ept.Accessed | ept.Dirty
	}
	v := rapid.SampledFrom(m.views).Draw(t, "view")
	type found struct {
		r ept.Range
		e ept.Entry
	}
	var all []found
	for r, e := range v.v.Harvest(gpa, size, clear) {
		require.NotZero(t, e&want)
		all = append(all, found{r, e})
		if e2, _, _ := v.v.Lookup(r.Start); clear != 0 {
			require.Zero(t, e2&clear)
		}
	}
	for k := i; k < j; k++ {
		flags := v.cells[k].flags & want
		if flags == 0 {
			continue
		}
		at := slices.IndexFunc(all, func(f found) bool { return f.r.Start <= m.points[k] && m.points[k] < f.r.End() })
		require.True(t, at >= 0, "%#x is not among the pages used", m.points[k])
		require.Equal(t, flags, all[at].e&flags)
	}
	for _, f := range all {
		for _, v := range m.views {
			for k := range v.cells {
				if f.r.Start <= m.points[k] && m.points[k] < f.r.End() {
					v.cells[k].flags &^= clear
				}
			}
		}
	}
}

// rawTables counts the tables that are reachable from the roots, and checks what is in
// them: by the raw memory alone.
func (m *model) rawTables(t require.T) int {
	type place struct {
		phys uint64
		l    ept.Level
	}
	const used, shared = ept.Entry(1) << 56, ept.Entry(1) << 55
	parents := map[place]int{}
	var lonely []place // referenced without the bit that says that it may be shared
	var walk func(p place)
	walk = func(p place) {
		if parents[p]++; parents[p] > 1 {
			return
		}
		some := false
		for i, e := range m.arena.Page(p.phys) {
			some = some || e&used != 0
			if r := m.mode.Misconfiguration(e, p.l); r != nil {
				t.Fatalf("entry %d of the table at %#x is %v: %v", i, p.phys, e, r)
			}
			switch {
			case e&used == 0:
				require.Zero(t, e&^(ept.SuppressVE|7<<52), "an entry that maps nothing")
			case e.Leaf(p.l):
				require.True(t, p.l <= m.largest)
			default:
				child := place{e.Address(p.l), p.l - 1}
				if e&shared == 0 {
					lonely = append(lonely, child)
				}
				walk(child)
			}
		}
		require.True(t, some || p.l == m.mode.TopLevel(), "the table at %#x is empty", p.phys)
	}
	for v := range m.space.Views() {
		walk(place{v.Root(), m.mode.TopLevel()})
	}
	for _, p := range lonely {
		require.Equal(t, 1, parents[p], "parents of the table at %#x", p.phys)
	}
	return len(parents)
}

// check compares every page with the model, or the first, the last and one between of
// every cell.
func (m *model) check(t *rapid.T) {
	m.checkCells(t)
	require.True(t, m.rawTables(t) <= m.arena.Used())
}

func (m *model) checkCells(t require.T) {
	for n, v := range m.views {
		for k, c := range v.cells[:len(m.points)-1] {
			size := m.points[k+1] - m.points[k]
			for _, off := range []uint64{0, size / 2 &^ 0xfff, size - size4K} {
				gpa := m.points[k] + off
				e, l, ok := v.v.Lookup(gpa)
				if ok != c.mapped {
					t.Fatalf("view %d at %#x: mapped %v, want %v", n, gpa, ok, c.mapped)
				}
				if !ok {
					continue
				}
				got := e &^ (ept.Accessed | ept.Dirty | ept.Large) &^ 0xf_ffff_ffff_f000
				if want := c.attr; got != want {
					t.Fatalf("view %d at %#x: attributes %#x, want %#x", n, gpa, uint64(got), uint64(want))
				}
				if hpa := e.Address(l) | gpa&(l.PageSize()-1); hpa != c.hpa+off {
					t.Fatalf("view %d at %#x: address %#x, want %#x", n, gpa, hpa, c.hpa+off)
				}
				if off == 0 && e&c.flags != c.flags {
					t.Fatalf("view %d at %#x: flags %v were set, and are %v", n, gpa, c.flags, e)
				}
				if !m.touched && e&(ept.Accessed|ept.Dirty) != 0 {
					t.Fatalf("view %d at %#x: flags %v that nobody set", n, gpa, e)
				}
				if off != 0 {
					continue
				}
				// As the processor does.
				hpa, f, err := ept.Translate(v.v, gpa, ept.AccessRead)
				require.NoError(t, err)
				if allowed := c.attr&ept.Read != 0; allowed != (f.Kind == ept.NoFault) || allowed && hpa != c.hpa {
					t.Fatalf("view %d at %#x: %#x %v, want %#x allowed %v", n, gpa, hpa, f, c.hpa, allowed)
				}
				if f.Kind == ept.Violation {
					require.Equal(t, m.mode.ViolationVE && c.attr&ept.SuppressVE == 0, f.VE)
				}
				_, f, err = ept.Translate(v.v, gpa, ept.AccessWrite)
				require.NoError(t, err)
				require.Equal(t, c.attr&ept.Write != 0, f.Kind == ept.NoFault)
				// Writes that are allowed by other bits than Write.
				_, f, err = ept.Translate(v.v, gpa, ept.PageWalk)
				require.NoError(t, err)
				write := !m.mode.AccessedDirty || c.attr&ept.Write != 0 || m.mode.PagingWrite && c.attr&ept.PagingWrite != 0
				require.Equal(t, c.attr&ept.Read != 0 && write, f.Kind == ept.NoFault)
				if m.mode.SupervisorShadowStack {
					_, f, err = ept.Translate(v.v, gpa, ept.LinearWrite|ept.AccessShadowStack)
					require.NoError(t, err)
					require.Equal(t, c.attr&ept.Read != 0 && c.attr&ept.SupervisorShadowStack != 0, f.Kind == ept.NoFault)
				}
			}
		}
	}
}

// reclaim frees what is not linked: then no page is in use but for what the views need.
func (m *model) reclaim(t *rapid.T) {
	m.space.Reclaim()
	require.Equal(t, m.rawTables(t), m.arena.Used())
}

func (m *model) actions() map[string]func(*rapid.T) {
	return map[string]func(*rapid.T){
		"place": m.place, "place2": m.place, "unmap": m.unmap, "unmap2": m.unmap, "protect": m.protect, "protect2": m.protect,
		"protect3": m.protect, "split": m.split, "join": m.join,
		"clone": m.clone, "close": m.close, "touch": m.touch, "harvest": m.harvest, "reclaim": m.reclaim,
		"": m.check,
	}
}

// widePoints have pages of all sizes between them, and tables of all levels.
func widePoints() []uint64 {
	const pml4 = 512 * size1G
	return []uint64{
		0, size4K, 2 * size4K, size2M - size4K, size2M, size2M + size4K, 2 * size2M, 3 * size2M, size1G - size2M, size1G - size4K,
		size1G, size1G + size2M, size1G + size2M + size4K, 2 * size1G, 2*size1G + size2M, 3 * size1G,
		pml4 - 2*size1G, pml4 - size1G, pml4 - size2M, pml4 - size4K, pml4, pml4 + size4K, pml4 + size2M, pml4 + size1G, pml4 + 2*size1G,
	}
}

// densePoints have every page of some MiB between them.
func densePoints() (p []uint64) {
	for at := uint64(size1G - size2M - 8*size4K); at <= size1G+size2M+8*size4K; at += size4K {
		p = append(p, at)
	}
	return p
}

func checkSpace(points []uint64) func(t *rapid.T) {
	return func(t *rapid.T) {
		m := newModel(t, points)
		t.Repeat(m.actions())
		for _, v := range m.views {
			v.v.Close()
		}
		m.space.Reclaim()
		require.Equal(t, 0, m.arena.Used(), "pages in use when all views are closed")
	}
}

func TestSpaceIsModel(t *testing.T) {
	ring0test.HostOnly(t)
	if raceDetector { // has nothing to find here; TestReadersSeeOldOrNew is for it
		old := flag.Lookup("rapid.checks").Value.String()
		require.NoError(t, flag.Set("rapid.checks", "5"))
		defer flag.Set("rapid.checks", old)
	}
	t.Run("all page sizes", func(t *testing.T) { rapid.Check(t, checkSpace(widePoints())) })
	t.Run("every page", func(t *testing.T) { rapid.Check(t, checkSpace(densePoints())) })
}

func FuzzSpaceIsModel(f *testing.F) { f.Fuzz(rapid.MakeFuzz(checkSpace(widePoints()))) }
