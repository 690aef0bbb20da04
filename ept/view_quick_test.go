package ept_test

import (
	"fmt"
	"testing"
	"unsafe"

	"pgregory.net/rapid"

	"github.com/govtx/vtx/ept"
	"github.com/govtx/vtx/internal/require"
	"github.com/govtx/vtx/internal/ring0test"
)

// checkQuick: what Map, Unmap and Protect do with single pages in a window, where they have ways
// of their own, is what they do without one: the same results, entries and tables.
func checkQuick(t *rapid.T) {
	m := drawViewMode(t)
	phys := rapid.SampledFrom([]uint64{0, 0x10000000}).Draw(t, "tables")
	newSpace := func(windowed bool) (*ept.Space, *ept.Arena) {
		mem := make([]ept.Table, 64)
		arena, err := ept.NewArena(unsafe.Slice((*byte)(unsafe.Pointer(&mem[0])), len(mem)*4096), phys)
		require.NoError(t, err)
		var pages ept.Pages = arena
		if !windowed {
			pages = struct{ ept.Pages }{arena}
		}
		s, err := ept.New(ept.Config{Pages: pages, Mode: m})
		require.NoError(t, err)
		return s, arena
	}
	quick, quickArena := newSpace(true)
	slow, slowArena := newSpace(false)
	attrs := []ept.Entry{ept.All | ept.WB.Entry(), ept.Read | ept.UC.Entry()}
	if m.ModeBasedExecute {
		attrs = append(attrs, ept.ReadWrite|ept.ExecuteUser|ept.WB.Entry())
	}
	attrs = attrs[:rapid.IntRange(1, len(attrs)).Draw(t, "kinds")]
	rights := rapid.SampledFrom([]ept.Entry{ept.Read, ept.Write, ept.Execute, ept.ReadWrite, ept.ExecuteUser, ept.All, 0})
	step := func(do func(v *ept.View) (ept.Invalidation, error)) {
		var open []int
		for v := range quick.Views() {
			open = append(open, v.Index())
		}
		if len(open) == 0 {
			return
		}
		i := rapid.SampledFrom(open).Draw(t, "view")
		due, err := do(quick.View(i))
		slowDue, slowErr := do(slow.View(i))
		require.Equal(t, slowDue, due)
		require.Equal(t, fmt.Sprint(slowErr), fmt.Sprint(err))
	}
	for range rapid.IntRange(30, 150).Draw(t, "operations") {
		// Few pages, so that they meet: in two tables, and one that is seldom there.
		gpa := rapid.SampledFrom([]uint64{0, 0, 0, 2 << 20, 1 << 39}).Draw(t, "base") + rapid.Uint64Range(0, 5).Draw(t, "page")<<12
		size := uint64(4096)
		if rapid.IntRange(0, 4).Draw(t, "large") == 0 {
			size, gpa = 2<<20, gpa&^(2<<20-1)
		}
		// The guest's memory may be where the tables are.
		hpa := rapid.SampledFrom([]uint64{phys, 1 << 30}).Draw(t, "HPA") + gpa&(4<<20-1)
		attr := rapid.SampledFrom(attrs).Draw(t, "attributes")
		// Or what is wrong in one thing.
		switch rapid.IntRange(0, 15).Draw(t, "wrong") {
		case 0:
			gpa ^= rapid.SampledFrom([]uint64{1, 0x800, 1 << 47, 1 << 52, 1 << 63}).Draw(t, "GPA")
		case 1:
			hpa ^= rapid.SampledFrom([]uint64{1, 0x800, 1 << 47, 1 << 52, 1 << 63}).Draw(t, "HPA")
		case 2:
			size ^= rapid.SampledFrom([]uint64{1, 1 << 12, 1 << 63}).Draw(t, "size")
		case 3:
			attr ^= 1 << rapid.SampledFrom([]int{4, 7, 12, 55, 56, 57}).Draw(t, "attribute")
		}
		set, clear := rights.Draw(t, "set"), rights.Draw(t, "clear")
		switch rapid.SampledFrom([]int{0, 0, 0, 1, 1, 2, 2, 3, 4, 5, 6}).Draw(t, "operation") {
		case 0:
			step(func(v *ept.View) (ept.Invalidation, error) { return v.Map(gpa, size, hpa, attr) })
		case 1:
			step(func(v *ept.View) (ept.Invalidation, error) { return v.Unmap(gpa, size) })
		case 2:
			step(func(v *ept.View) (ept.Invalidation, error) { return v.Protect(gpa, size, set, clear) })
		case 3: // masks rights above the pages
			step(func(v *ept.View) (ept.Invalidation, error) { return v.Protect(gpa&^(2<<20-1), 2<<20, 0, clear) })
		case 4:
			step(func(v *ept.View) (ept.Invalidation, error) { _, err := v.Clone(); return 0, err })
		case 5:
			step(func(v *ept.View) (ept.Invalidation, error) { return v.Close(), nil })
		case 6:
			quick.Reclaim()
			slow.Reclaim()
		}
	}
	require.Equal(t, slowArena.Used(), quickArena.Used())
	for v := range quick.Views() {
		w := slow.View(v.Index())
		require.Equal(t, w.Root(), v.Root())
		for _, base := range []uint64{0, 2 << 20, 1 << 39} {
			for page := range uint64(6) {
				gpa := base + page<<12
				e, l, ok := v.Lookup(gpa)
				we, wl, wok := w.Lookup(gpa)
				require.Equal(t, we, e, "0x%x", gpa)
				require.Equal(t, wl, l)
				require.Equal(t, wok, ok)
			}
		}
	}
}

func TestQuickIsSlow(t *testing.T) { ring0test.CheckOnHost(t, checkQuick) }

func FuzzQuickIsSlow(f *testing.F) { f.Fuzz(rapid.MakeFuzz(checkQuick)) }

// Attributes that are like those of the page before, but for a bit that is none, are refused.
func TestMapWrongAfterRight(t *testing.T) {
	s, _ := newSpace(t, 20, ept.Config{})
	v := s.View(0)
	const attr = ept.All | ept.Entry(ept.WB)<<3
	for page, bit := range []int{7, 12, 52, 53, 54, 55, 56} {
		gpa := uint64(page) * 2 * size4K
		require.NoError(t, second(v.Map(gpa, size4K, 0, attr)))
		require.ErrorIs(t, second(v.Map(gpa+size4K, size4K, 0, attr|1<<bit)), ept.ErrAttributes)
		_, _, ok := v.Lookup(gpa + size4K)
		require.False(t, ok)
	}
}
