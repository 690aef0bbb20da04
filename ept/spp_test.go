package ept_test

import (
	"errors"
	"fmt"
	"testing"

	"pgregory.net/rapid"

	"github.com/govtx/vtx/ept"
	"github.com/govtx/vtx/internal/require"
	"github.com/govtx/vtx/internal/ring0test"
)

func TestSubPageVector(t *testing.T) {
	for _, c := range []struct {
		mask   uint32
		vector ept.SubPageVector
		text   string
	}{
		{0, 0, "none"},
		{1, 1, "0"},
		{1 << 31, 1 << 62, "31"},
		{0x8000_000f, 1<<62 | 0x55, "0-3 31"},
		{0xffff_ffff, 0x5555_5555_5555_5555, "all"},
		{0b101, 0b10001, "0 2"},
		{0xffff_fffe, 0x5555_5555_5555_5554, "1-31"},
	} {
		require.Equal(t, c.vector, ept.SubPages(c.mask))
		require.Equal(t, c.mask, c.vector.Mask())
		require.Equal(t, c.text, c.vector.String())
		got, err := ept.ParseSubPageVector(c.text)
		require.NoError(t, err)
		require.Equal(t, c.vector, got)
	}
	require.Equal(t, "SubPageVector(0x2)", ept.SubPageVector(2).String())
	require.False(t, ept.SubPageVector(2).Valid())
	for _, s := range []string{"", "32", "3-2", "x", "1-", "-1", "0-32", "SubPageVector(z)", "256"} {
		_, err := ept.ParseSubPageVector(s)
		require.ErrorContains(t, err, "are no sub-pages", s)
	}
	for i := range 64 {
		require.Equal(t, i%2 == 0, ept.SubPageVector(1<<i).Valid())
	}
}

// A write is allowed if each of its bytes is.
func TestSubPageWritable(t *testing.T) {
	ring0test.HostOnly(t)
	for _, mask := range []uint32{0, 1, 0xffff_ffff, 0x5555_5555, 0x0000_0ff0, 0x8000_0001} {
		v := ept.SubPages(mask)
		for offset := range uint64(4096) {
			for _, size := range []int{1, 2, 8, 64, 128, 129} {
				want := offset+uint64(size) <= 4096
				for b := offset; want && b < offset+uint64(size); b += 64 {
					want = mask>>(b/128)&1 != 0
				}
				last := offset + uint64(size) - 1
				want = want && mask>>(last/128)&1 != 0
				require.Equal(t, want, v.Writable(0xabc_d000+offset, size), "%v offset %d size %d", v, offset, size)
			}
		}
		require.False(t, v.Writable(0, 0))
		require.False(t, v.Writable(0, -1))
		require.Equal(t, mask == 0xffff_ffff, v.Writable(0, 4096))
	}
}

// sppPages are pages in a map, at physical addresses of their own, which can run out.
type sppPages struct {
	tables map[uint64]*ept.Table
	next   uint64
	left   int
}

var errNoMore = errors.New("no more pages")

func (p *sppPages) AllocPage() (uint64, error) {
	if p.left == 0 {
		return 0, errNoMore
	}
	p.left--
	phys := p.next
	p.next += 0x1000
	t := new(ept.Table)
	for i := range t {
		t[i] = ^ept.Entry(0) // what is in a page does not matter
	}
	p.tables[phys] = t
	return phys, nil
}

func (p *sppPages) FreePage(phys uint64) {
	if p.tables[phys] == nil {
		panic(fmt.Sprintf("%#x is freed and not in use", phys))
	}
	delete(p.tables, phys)
	p.left++
}

func (p *sppPages) Page(phys uint64) *ept.Table { return p.tables[phys] }

var errNoMemory = errors.New("no memory there")

func (p *sppPages) ReadPhysical(addr uint64) (uint64, error) {
	t := p.tables[addr&^0xfff]
	if t == nil {
		return 0, errNoMemory
	}
	return uint64(t[addr>>3&511]), nil
}

// subPageTable compares a table with a map: what was set is found, by the builder and by
// the processor's search; what fails changes nothing; no page is lost.
func subPageTable(t *rapid.T) {
	total := rapid.IntRange(1, 12).Draw(t, "pages")
	pages := &sppPages{map[uint64]*ept.Table{}, 0x10_0000, total}
	s, err := ept.NewSubPageTable(pages, 40)
	require.NoError(t, err)
	model := map[uint64]ept.SubPageVector{}
	present := map[uint64]bool{} // 2 MiB regions that have a vector table
	address := rapid.Custom(func(t *rapid.T) uint64 {
		bit := rapid.SampledFrom([]uint{12, 13, 20, 21, 29, 30, 38, 39, 47})
		high := uint64(1) << bit.Draw(t, "bit")
		return high | 1<<bit.Draw(t, "another bit") | rapid.Uint64Range(0, 0xfff).Draw(t, "offset")
	})
	check := func(gpa uint64) {
		want, ok := s.Get(gpa)
		v, result, err := ept.LookupSubPage(pages, s.Pointer(), gpa, 40)
		require.NoError(t, err)
		require.Equal(t, present[gpa>>21], ok)
		require.Equal(t, ok, result == ept.SubPageFound)
		require.Equal(t, want, v)
		require.Equal(t, model[gpa>>12], v)
	}
	t.Repeat(map[string]func(*rapid.T){
		"set": func(t *rapid.T) {
			gpa, v := address.Draw(t, "gpa"), ept.SubPages(rapid.Uint32().Draw(t, "mask"))
			left, old := pages.left, model[gpa>>12]
			inv, err := s.Set(gpa, v)
			if err != nil {
				require.ErrorIs(t, err, errNoMore)
				require.Equal(t, left, pages.left)
				require.Equal(t, ept.NoInvalidation, inv)
				return
			}
			want := ept.NoInvalidation
			if present[gpa>>21] && old != v {
				want = ept.SingleContext
			}
			require.Equal(t, want, inv)
			present[gpa>>21] = true
			model[gpa>>12] = v
			if v == 0 {
				delete(model, gpa>>12)
			}
		},
		"refused": func(t *rapid.T) {
			_, err := s.Set(1<<48, 0)
			require.ErrorContains(t, err, "below 2^48")
			_, err = s.Set(0x1000, 2)
			require.ErrorContains(t, err, "odd bits")
			_, ok := s.Get(1 << 48)
			require.False(t, ok)
		},
		"": func(t *rapid.T) {
			check(address.Draw(t, "asked"))
			last, n := uint64(0), 0
			for gpa, v := range s.All() {
				require.Equal(t, model[gpa>>12], v)
				require.True(t, n == 0 || gpa > last)
				last, n = gpa, n+1
			}
			require.Equal(t, len(model), n)
			for range s.All() {
				break // a caller may stop
			}
			for page := range model {
				check(page << 12)
			}
		},
	})
	s.Close()
	require.Empty(t, pages.tables)
}

func TestSubPageTable(t *testing.T) { ring0test.CheckOnHost(t, subPageTable) }
func FuzzSubPageTable(f *testing.F) { f.Fuzz(rapid.MakeFuzz(subPageTable)) }

// The results of the search: which bits of which entry lead to them.
func TestLookupSubPage(t *testing.T) {
	const gpa = 1<<39 | 2<<30 | 3<<21 | 4<<12
	build := func() *sppPages {
		return &sppPages{tables: map[uint64]*ept.Table{0x1000: {1: 0x2001}, 0x2000: {2: 0x3001}, 0x3000: {3: 0x4001}, 0x4000: {4: 0x5}}}
	}
	look := func(p *sppPages, pointer uint64) (ept.SubPageVector, ept.SubPageResult, error) {
		return ept.LookupSubPage(p, pointer, gpa, 40)
	}
	v, result, err := look(build(), 0x1000)
	require.NoError(t, err)
	require.Equal(t, ept.SubPageFound, result)
	require.Equal(t, "0-1", v.String())
	for level := 4; level > 1; level-- {
		table, index := uint64(5-level)<<12, 5-level
		for bit := range 64 {
			p := build()
			p.tables[table][index] ^= 1 << bit
			_, result, err := look(p, 0x1000)
			switch {
			case bit == 0:
				require.Equal(t, ept.SubPageMiss, result)
				require.NoError(t, err)
			case bit < 12 || bit >= 40:
				require.Equal(t, ept.SubPageMisconfiguration, result, "bit %d", bit)
				require.NoError(t, err)
			default:
				if !errors.Is(err, errNoMemory) { // the address is that of another table
					require.NoError(t, err)
				}
			}
		}
	}
	for bit := range 64 {
		p := build()
		p.tables[0x4000][4] = 1 << bit
		_, result, err := look(p, 0x1000)
		require.NoError(t, err)
		require.Equal(t, bit%2 == 1, result == ept.SubPageMisconfiguration)
	}
	_, _, err = look(build(), 0x9000)
	require.ErrorIs(t, err, errNoMemory)

	require.True(t, ept.SubPageMiss.Qualification().Miss())
	require.False(t, ept.SubPageMisconfiguration.Qualification().Miss())
	for r, want := range map[ept.SubPageResult]string{0: "found", 1: "SPP miss", 2: "SPP misconfiguration", 3: "SubPageResult(3)"} {
		require.Equal(t, want, r.String())
	}
}

// A table whose entries lead in circles ends after four levels.
func TestSubPageLoop(t *testing.T) {
	p := &sppPages{tables: map[uint64]*ept.Table{0x1000: {}}}
	for i := range p.tables[0x1000] {
		p.tables[0x1000][i] = 0x1001
	}
	v, result, err := ept.LookupSubPage(p, 0x1000, 0xffff_ffff_f000, 40)
	require.NoError(t, err)
	require.Equal(t, ept.SubPageFound, result)
	require.Equal(t, ept.SubPageVector(0x1001), v)
}

// An allocator that gives addresses which entries cannot have is told so.
func TestSubPageBadAllocator(t *testing.T) {
	for _, phys := range []uint64{0x1008, 1 << 40} {
		pages := &sppPages{map[uint64]*ept.Table{}, phys, 1}
		_, err := ept.NewSubPageTable(pages, 40)
		require.ErrorContains(t, err, "AllocPage gave the address")
		require.Empty(t, pages.tables)
	}
	_, err := ept.NewSubPageTable(&sppPages{}, 40)
	require.ErrorIs(t, err, errNoMore)
}

func BenchmarkSubPageTable(b *testing.B) {
	pages := &sppPages{map[uint64]*ept.Table{}, 0x10_0000, 16}
	s, err := ept.NewSubPageTable(pages, 40)
	require.NoError(b, err)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.Set(0x1234_5000, ept.SubPages(0xff)); err != nil {
			b.Fatal(err)
		}
	}
}
