package ept_test

import (
	"errors"
	"flag"
	"fmt"
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/govtx/vtx/ept"
	"github.com/govtx/vtx/internal/require"
	"github.com/govtx/vtx/internal/ring0test"
	"github.com/govtx/vtx/ring0"
	"github.com/govtx/vtx/vmcs"
)

// sparse are tables in pages that nobody built with care: any entries, anywhere.
type sparse struct {
	mode  ept.Mode
	root  uint64
	pages map[uint64]*[512]ept.Entry
	reads int
}

var errAbsent = errors.New("no such page")

func (s *sparse) Mode() *ept.Mode { return &s.mode }
func (s *sparse) Root() uint64    { return s.root }
func (s *sparse) Entry(table uint64, index int) (ept.Entry, error) {
	s.reads++
	p := s.pages[table]
	if p == nil {
		return 0, errAbsent
	}
	return p[index], nil
}

// able is the mode of a processor that can do all, with nothing in use.
func able() ept.Mode {
	return ept.Mode{Capabilities: vmcs.EPTVPID(1 | 1<<6 | 1<<7 | 1<<8 | 1<<14 | 1<<16 | 1<<17 | 1<<20 | 1<<21 | 1<<22 | 1<<23 | 1<<25 | 1<<26), PhysicalAddressBits: 40}
}

func newSparse(m ept.Mode) *sparse {
	return &sparse{mode: m, root: 0x1000, pages: map[uint64]*[512]ept.Entry{0x1000: {}}}
}

// set writes the entry of a level for an address. Tables on the way get the rights in
// allow if they are new.
func (s *sparse) set(gpa uint64, l ept.Level, e, allow ept.Entry) {
	table := s.root
	for at := s.mode.TopLevel(); at > l; at-- {
		slot := &s.pages[table][at.Index(gpa)]
		if *slot == 0 {
			next := uint64(len(s.pages)+1) << 12
			s.pages[next] = &[512]ept.Entry{}
			*slot = ept.Entry(next) | allow
		}
		table = slot.Address(at)
	}
	s.pages[table][l.Index(gpa)] = e
}

// collect returns all mappings and the error.
func collect(s ept.Source, r ept.Range) (out []ept.Mapping, failed error) {
	for m, err := range ept.MappingsIn(s, r) {
		if err != nil {
			return out, err
		}
		out = append(out, m)
	}
	return out, nil
}

var window = ept.Range{Start: 1<<30 - 2<<20, Size: 4 << 20} // across tables of PTEs and PDEs

// drawMapAttributes draws attributes of all kinds, legal or not.
func drawMapAttributes(t *rapid.T) ept.Entry {
	rights := rapid.SampledFrom([]ept.Entry{ept.All, ept.All, ept.Read, ept.ReadWrite, ept.ReadExecute, ept.Execute, ept.Write, ept.Read | ept.ExecuteUser, 0})
	other := rapid.SampledFrom([]ept.Entry{0, 0, 0, 0, ept.IgnorePAT, ept.Accessed, ept.Dirty, ept.Software11, ept.Software59, ept.Software62, ept.SuppressVE,
		ept.SubPageWrite, ept.PagingWrite, ept.VerifyGuestPaging, ept.SupervisorShadowStack, 31 << 52, ept.Large})
	types := rapid.SampledFrom([]ept.MemoryType{ept.WB, ept.WB, ept.WB, ept.UC, ept.WT, 3})
	return rights.Draw(t, "rights") | other.Draw(t, "other") | types.Draw(t, "type").Entry()
}

func drawMapMode(t *rapid.T) ept.Mode {
	m := able()
	on := func(name string) bool { return rapid.Bool().Draw(t, name) }
	m.AccessedDirty, m.SupervisorShadowStack, m.ModeBasedExecute = on("A/D"), on("SSS"), on("MBEC")
	m.SubPageWrite, m.ViolationVE, m.PagingWrite, m.VerifyGuestPaging = on("SPP"), on("VE"), on("PW"), on("VGP")
	if on("5-level") {
		m.Levels = 5
	}
	if on("no 1G") {
		m.Capabilities &^= 1 << 17
	}
	return m
}

// drawPalette draws attributes: few, so that neighbours often agree.
func drawPalette(t *rapid.T) []ept.Entry {
	return rapid.SliceOfN(rapid.Custom(drawMapAttributes), 1, 3).Draw(t, "palette")
}

// drawSparse draws tables for the window, with pages of a palette.
func drawSparse(t *rapid.T, m ept.Mode, palette []ept.Entry) *sparse {
	s := newSparse(m)
	allow := rapid.SampledFrom([]ept.Entry{ept.All | ept.ExecuteUser, ept.All, ept.Read, ept.ReadWrite | ept.ExecuteUser, ept.ReadExecute})
	for range rapid.IntRange(0, 6).Draw(t, "runs") {
		l := rapid.SampledFrom([]ept.Level{ept.PTE, ept.PTE, ept.PTE, ept.PDE, ept.PDE, ept.PDPTE}).Draw(t, "level")
		e := rapid.SampledFrom(palette).Draw(t, "attributes")
		if l > ept.PTE {
			e |= ept.Large
		}
		gpa := window.Start + uint64(rapid.IntRange(0, 1023).Draw(t, "page"))<<12
		if rapid.Bool().Draw(t, "at start") {
			gpa = gpa &^ (1<<21 - 1)
		}
		hpa := rapid.SampledFrom([]uint64{gpa, 1 << 30, gpa + 1<<31, 1<<40 - 1<<30, 1<<40 - 1<<20, 1 << 41}).Draw(t, "hpa") &^ (l.PageSize() - 1)
		step := rapid.SampledFrom([]uint64{l.PageSize(), l.PageSize(), 0, 2 * l.PageSize()}).Draw(t, "step")
		upper := allow.Draw(t, "allow")
		for i := range uint64(rapid.SampledFrom([]int{1, 2, 8, 600}).Draw(t, "pages")) {
			at := gpa + i*l.PageSize()
			if at >= window.Start+window.Size || s.covered(at, l) {
				break
			}
			s.set(at, l, e|ept.Entry(hpa+i*step)&0x000f_ffff_ffff_f000, upper)
		}
	}
	return s
}

// covered reports whether an entry above a level maps a page already, so that there can be no
// table.
func (s *sparse) covered(gpa uint64, l ept.Level) bool {
	table := s.root
	for at := s.mode.TopLevel(); at > l; at-- {
		e := s.pages[table][at.Index(gpa)]
		if e == 0 {
			return false
		}
		if e&ept.Large != 0 || s.pages[e.Address(at)] == nil {
			return true
		}
		table = e.Address(at)
	}
	return false
}

// page translates one page by hand. Its Range and Sizes are those of the page of 4 KiB.
func (s *sparse) page(gpa uint64) ept.Mapping {
	m := &s.mode
	rights := ept.All
	if m.ModeBasedExecute {
		rights |= ept.ExecuteUser
	}
	left, table := rights, s.root
	for l := m.TopLevel(); ; l-- {
		e := s.pages[table][l.Index(gpa)]
		if e&rights == 0 {
			return ept.Mapping{}
		}
		out := ept.Mapping{Range: ept.Range{Start: gpa, Size: 4096}}
		if r := m.Misconfiguration(e, l); r != nil {
			out.Attributes, out.Misconfigured = e&rights, r
			return out
		}
		left &= e
		if !e.Leaf(l) {
			table = e.Address(l)
			continue
		}
		matters := ept.MemoryType(7).Entry() | ept.IgnorePAT | ept.Software11 | ept.Software59 | ept.Software62
		for _, c := range [...]struct {
			bit ept.Entry
			on  bool
		}{
			{ept.SuppressVE, m.ViolationVE}, {ept.PagingWrite, m.PagingWrite}, {ept.VerifyGuestPaging, m.VerifyGuestPaging},
			{ept.SupervisorShadowStack, m.SupervisorShadowStack}, {ept.SubPageWrite, m.SubPageWrite && l == ept.PTE},
		} {
			if c.on {
				matters |= c.bit
			}
		}
		out.Attributes = e&matters | left
		out.HPA = e.Address(l) + gpa&(l.PageSize()-1)
		out.Sizes = 1 << l
		return out
	}
}

// Mappings are what a walk page by page finds, joined as far as they can be.
func mappingsArePages(t *rapid.T) {
	s := drawSparse(t, drawMapMode(t), drawPalette(t))
	r := window
	r.Start += uint64(rapid.IntRange(0, 512).Draw(t, "cut")) << 12
	r.Size = uint64(rapid.IntRange(0, 1024).Draw(t, "size")) << 12
	var want []ept.Mapping
	for gpa := r.Start; gpa < r.Start+r.Size; gpa += 4096 {
		p := s.page(gpa)
		hpa, f, err := ept.Translate(s, gpa, 0)
		require.NoError(t, err)
		require.Equal(t, p.Size != 0 && p.Misconfigured == nil, f.Kind == ept.NoFault)
		require.Equal(t, p.HPA, hpa)
		require.Equal(t, p.Misconfigured, f.Rule)
		if p.Size == 0 {
			continue
		}
		if n := len(want); n > 0 {
			o := &want[n-1]
			if o.Start+o.Size == gpa && o.Attributes == p.Attributes && o.Misconfigured == p.Misconfigured && (p.Misconfigured != nil || o.HPA+o.Size == p.HPA) {
				o.Size += 4096
				o.Sizes |= p.Sizes
				continue
			}
		}
		want = append(want, p)
	}
	got, err := collect(s, r)
	require.NoError(t, err)
	require.Equal(t, want, got)

	f, err := ept.Measure(s, r)
	require.NoError(t, err)
	require.LessOrEqual(t, f.Total(), len(s.pages))
}

// checkFew is rapid.Check, but for ring 0, where the processor is emulated: ten draws
// are enough there, for what has nothing to do with VT-x.
func checkFew(t *testing.T, property func(t *rapid.T)) {
	if ring0.Active() {
		checks := flag.Lookup("rapid.checks").Value
		before := checks.String()
		require.NoError(t, checks.Set("10"))
		defer func() { require.NoError(t, checks.Set(before)) }()
	}
	rapid.Check(t, property)
}

func TestMappings(t *testing.T) { checkFew(t, mappingsArePages) }
func FuzzMappings(f *testing.F) { f.Fuzz(rapid.MakeFuzz(mappingsArePages)) }
func TestMappingsStop(t *testing.T) { // when the loop ends early
	s := newSparse(able())
	for i := range uint64(10) {
		s.set(i<<13, ept.PTE, ept.Read|ept.Entry(i<<12), ept.All)
	}
	n := 0
	for range ept.Mappings(s) {
		if n++; n == 3 {
			break
		}
	}
	require.Equal(t, 3, n)
}

// What tells mappings apart, and what does not.
func TestCompareAttributes(t *testing.T) {
	on := able()
	on.SubPageWrite, on.ViolationVE, on.AccessedDirty = true, true, true
	for _, tc := range []struct {
		name   string
		mode   ept.Mode
		level  ept.Level
		a, b   ept.Entry
		differ bool
	}{
		{"same", on, ept.PTE, ept.Read, ept.Read, false},
		{"rights", on, ept.PTE, ept.Read, ept.All, true},
		{"host-physical address", on, ept.PTE, ept.Read, ept.Read | 4096, true},
		{"memory type", on, ept.PDE, ept.Read, ept.Read | wb, true},
		{"accessed and dirty", on, ept.PTE, ept.Read, ept.Read | ept.Accessed | ept.Dirty, false},
		{"bookkeeping", on, ept.PTE, ept.Read, ept.Read | 31<<52, false},
		{"the owner's bit", on, ept.PTE, ept.Read, ept.Read | ept.Software59, true},
		{"bit 7 of a PTE", on, ept.PTE, ept.Read, ept.Read | ept.Large, false},
		{"sub-page write", on, ept.PTE, ept.Read, ept.Read | ept.SubPageWrite, true},
		{"sub-page write of a PDE", on, ept.PDE, ept.Read, ept.Read | ept.SubPageWrite, false},
		{"sub-page write, off", able(), ept.PTE, ept.Read, ept.Read | ept.SubPageWrite, false},
		{"suppress #VE", on, ept.PDE, ept.Read, ept.Read | ept.SuppressVE, true},
		{"suppress #VE, off", able(), ept.PDE, ept.Read, ept.Read | ept.SuppressVE, false},
		{"user execute, off", able(), ept.PTE, ept.Read, ept.Read | ept.ExecuteUser, false},
		{"hole", on, ept.PTE, ept.Read, 0, true},
		{"misconfigured", on, ept.PTE, ept.Read, ept.Write, true},
		{"misconfigured otherwise", on, ept.PTE, ept.Write | 2<<3, ept.Read | 2<<3, true},
	} {
		a, b := newSparse(tc.mode), newSparse(tc.mode)
		large := ept.Entry(0)
		if tc.level > ept.PTE {
			large = ept.Large
		}
		a.set(0, tc.level, tc.a|large, ept.All)
		b.set(0, tc.level, tc.b|large, ept.All)
		n := 0
		for d, err := range ept.Compare(a, b) {
			require.NoError(t, err)
			require.Equal(t, ept.Range{Size: tc.level.PageSize()}, d.Range)
			n++
		}
		require.Equal(t, tc.differ, n == 1, tc.name)
	}
}

func TestMeasure(t *testing.T) {
	s := newSparse(able())
	for i := range uint64(600) {
		s.set(i<<12, ept.PTE, ept.Read|ept.Entry(i<<12), ept.All)
	}
	s.set(4<<20, ept.PDE, ept.Read|ept.Large, ept.All)
	s.set(1<<30, ept.PDPTE, ept.Read|ept.Large|1<<30, ept.All)
	s.set(2<<30, ept.PDPTE, ept.Write, ept.All) // misconfigured
	f, err := ept.Measure(s, ept.Range{Size: 1 << 40})
	require.NoError(t, err)
	require.Equal(t, ept.Footprint{Tables: [6]int{ept.PTE: 2, ept.PDE: 1, ept.PDPTE: 1, ept.PML4E: 1}, Pages: [4]int{ept.PTE: 600, ept.PDE: 1, ept.PDPTE: 1}}, f)
	require.Equal(t, 5, f.Total())
	f, err = ept.Measure(s, ept.Range{Start: 0x5000, Size: 0x3000})
	require.NoError(t, err)
	require.Equal(t, [4]int{ept.PTE: 3}, f.Pages)
}

// Tables that do not end, or not soon, end in an error, and cost a bounded number of
// reads.
func TestHostileMappings(t *testing.T) {
	full := func(target uint64) *[512]ept.Entry {
		var p [512]ept.Entry
		for i := range p {
			p[i] = ept.Entry(target) | ept.All
		}
		return &p
	}
	wide := able()
	wide.PhysicalAddressBits = 52
	for _, tc := range []struct {
		name     string
		pages    map[uint64]*[512]ept.Entry
		mappings int
		want     error
		text     string
	}{
		{"root in itself", map[uint64]*[512]ept.Entry{0x1000: full(0x1000)}, 0, ept.ErrTableLoop,
			"ept: table of EPT PDPTEs at 0x1000, for guest-physical 0x0-0x7fffffffff: the entry references a table that the walk to it went through: the tables form a loop"},
		{"loop of two", map[uint64]*[512]ept.Entry{0x1000: full(0x2000), 0x2000: full(0x1000)}, 0, ept.ErrTableLoop, "table of EPT PDEs at 0x1000"},
		{"loop behind a mapping", map[uint64]*[512]ept.Entry{0x1000: {0x2007, 0x1007}, 0x2000: {ept.Read | ept.Large}}, 1, ept.ErrTableLoop, "0x8000000000-0xffffffffff"},
		{"no table", map[uint64]*[512]ept.Entry{0x1000: {511: 0xdead_f007}}, 0, errAbsent, "table of EPT PDPTEs at 0xdeadf000, for guest-physical 0xff8000000000-0xffffffffffff: no such page"},
		{"no root", nil, 0, errAbsent, "table of EPT PML4Es at 0x1000"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := &sparse{mode: wide, root: 0x1000, pages: tc.pages}
			got, err := collect(s, ept.Range{Size: 1 << 52})
			require.ErrorIs(t, err, tc.want)
			var w *ept.TableError
			require.True(t, errors.As(err, &w))
			require.Contains(t, err.Error(), tc.text)
			require.Len(t, got, tc.mappings)
			require.LessOrEqual(t, s.reads, 2048)
			_, err = ept.Measure(s, ept.Range{Size: 1 << 52})
			require.ErrorIs(t, err, tc.want)
		})
	}
	s := newSparse(ept.Mode{})
	_, err := collect(s, window)
	require.ErrorContains(t, err, "MAXPHYADDR")
	require.Zero(t, s.reads)
}

// An address out of range is a misconfiguration of its entry, not of the neighbours whose
// addresses lead up to it.
func TestMappingsAddressWidth(t *testing.T) {
	m := able()
	m.PhysicalAddressBits = 32
	s := newSparse(m)
	for i := range uint64(512) {
		s.set(i<<12, ept.PTE, ept.Read|ept.Entry(1<<32-1<<20+i<<12), ept.All)
	}
	got, err := collect(s, ept.Range{Size: 1 << 30})
	require.NoError(t, err)
	require.Len(t, got, 2)
	require.Equal(t, ept.Range{Size: 1 << 20}, got[0].Range)
	require.Equal(t, "address-width", got[1].Misconfigured.ID)
	require.Equal(t, ept.Range{Start: 1 << 20, Size: 1 << 20}, got[1].Range)
}

// goesOn reports whether b continues a, or both are holes.
func goesOn(a, b ept.Mapping) bool {
	if a.Size == 0 || b.Size == 0 {
		return a.Size == b.Size
	}
	return a.Attributes == b.Attributes && a.Misconfigured == b.Misconfigured && (a.Misconfigured != nil || a.HPA+a.Size == b.HPA)
}

// differences are those of two random maps, page by page.
func differencesArePages(t *rapid.T) {
	mode := drawMapMode(t)
	palette := drawPalette(t)
	a := drawSparse(t, mode, palette)
	b := drawSparse(t, mode, palette)
	if rapid.Bool().Draw(t, "similar") {
		b = &sparse{mode: mode, root: a.root, pages: map[uint64]*[512]ept.Entry{}}
		for phys, p := range maps.All(a.pages) {
			copied := *p
			b.pages[phys] = &copied
		}
		for range rapid.IntRange(0, 4).Draw(t, "changes") {
			at := window.Start + uint64(rapid.IntRange(0, 1023).Draw(t, "page"))<<12
			if b.covered(at, ept.PTE) {
				continue
			}
			e := rapid.SampledFrom(palette).Draw(t, "attributes")
			b.set(at, ept.PTE, e|ept.Entry(rapid.SampledFrom([]uint64{at, 0}).Draw(t, "hpa")), ept.All)
		}
	}
	page := func(m ept.Mapping, gpa uint64) ept.Mapping {
		if m.Size == 0 {
			return m
		}
		if m.Misconfigured == nil {
			m.HPA += gpa - m.Start
		}
		m.Start, m.Size, m.Sizes = gpa, 4096, 0
		return m
	}
	got := make([][2]ept.Mapping, window.Size>>12)
	end := uint64(0)
	var last ept.Difference
	for d, err := range ept.CompareIn(a, b, window) {
		require.NoError(t, err)
		require.GreaterOrEqual(t, d.Start, end)
		require.False(t, d.Start == end && goesOn(last.A, d.A) && goesOn(last.B, d.B), "%v and %v are one", last, d)
		last, end = d, d.Start+d.Size
		for _, m := range []ept.Mapping{d.A, d.B} {
			require.True(t, m.Size == 0 || m.Range == d.Range)
		}
		for gpa := d.Start; gpa < end; gpa += 4096 {
			got[(gpa-window.Start)>>12] = [2]ept.Mapping{page(d.A, gpa), page(d.B, gpa)}
		}
	}
	for i := range got {
		gpa := window.Start + uint64(i)<<12
		want := [2]ept.Mapping{page(a.page(gpa), gpa), page(b.page(gpa), gpa)}
		if want[0] == want[1] {
			want = [2]ept.Mapping{}
		}
		if want != got[i] { // quicker than reflection
			require.Equal(t, want, got[i], "at %#x", gpa)
		}
	}
}

func TestCompare(t *testing.T) { checkFew(t, differencesArePages) }
func FuzzCompare(f *testing.F) { f.Fuzz(rapid.MakeFuzz(differencesArePages)) }

func TestCompareFails(t *testing.T) {
	good, bad := newSparse(able()), newSparse(able())
	good.set(0, ept.PTE, ept.Read, ept.All)
	bad.pages[0x1000][1] = 0x1007
	for _, pair := range [][2]ept.Source{{good, bad}, {bad, good}} {
		n := 0
		var failed error // at 512 GiB
		for d, err := range ept.Compare(pair[0], pair[1]) {
			if n++; n == 1 {
				require.NoError(t, err)
				require.Contains(t, []string{"0x0-0xfff (4K): R-- UC | not mapped", "0x0-0xfff (4K): not mapped | R-- UC"}, d.String())
			}
			failed = err
		}
		require.ErrorIs(t, failed, ept.ErrTableLoop)
	}
	for range ept.Compare(good, newSparse(able())) {
		break // the other source's iteration ends too
	}
}

func TestMappingText(t *testing.T) {
	s := newSparse(able())
	s.set(0, ept.PTE, ept.All|ept.WB.Entry()|ept.IgnorePAT|ept.Software62, ept.All)
	s.set(4<<20, ept.PDE, ept.Large|ept.Read|8<<20, ept.All)
	s.set(6<<20, ept.PTE, ept.Write, ept.All)
	got, err := collect(s, ept.Range{Size: 1 << 30})
	require.NoError(t, err)
	require.Equal(t, []string{
		"0x0-0xfff: RWX WB ignore-PAT software-62",
		"0x400000-0x5fffff: R-- UC at 0x800000",
		"0x600000-0x600fff: misconfigured: write-without-read",
	}, slices.Collect(func(yield func(string) bool) {
		for _, m := range got {
			yield(fmt.Sprint(m))
		}
	}))
	require.Equal(t, "4K, 2M", ept.PageSizes(6).String())
	require.Equal(t, "", ept.PageSizes(0).String())
}

// Nothing is allocated for each page.
func TestMappingsAllocations(t *testing.T) {
	if !ring0test.Optimised() {
		t.Skip("not optimised")
	}
	s := newSparse(able())
	for i := range uint64(4096) {
		s.set(i<<12, ept.PTE, ept.All|ept.Entry(i<<12), ept.All)
	}
	once := testing.AllocsPerRun(10, func() {
		for range ept.MappingsIn(s, ept.Range{Size: 1 << 12}) {
		}
	})
	all := testing.AllocsPerRun(10, func() {
		for range ept.Mappings(s) {
		}
	})
	require.Equal(t, once, all)
	require.Less(t, all, 10.)
}
