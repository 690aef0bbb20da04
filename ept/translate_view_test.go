package ept_test

import (
	"math/rand/v2"
	"testing"
	"time"
	"unsafe"

	"pgregory.net/rapid"

	"github.com/govtx/vtx/ept"
	"github.com/govtx/vtx/internal/require"
	"github.com/govtx/vtx/internal/ring0test"
)

// drawViewMode draws what entries mean.
func drawViewMode(t *rapid.T) ept.Mode {
	bit := func(name string) bool { return rapid.Bool().Draw(t, name) }
	m := mode(nil)
	m.Levels = rapid.SampledFrom([]uint8{0, 4, 5}).Draw(t, "levels")
	m.AccessedDirty, m.SupervisorShadowStack, m.ModeBasedExecute = bit("A/D"), bit("SSS"), bit("MBEC")
	m.SubPageWrite, m.ViolationVE, m.PagingWrite, m.VerifyGuestPaging = bit("SPP"), bit("#VE"), bit("paging-write"), bit("verification")
	m.PhysicalAddressBits = rapid.SampledFrom([]uint8{40, 46, 48, 52}).Draw(t, "MAXPHYADDR")
	return m
}

// checkView: View.Translate, which has ways of its own, is Translate; and what View.Touch
// does is what Touch does.
func checkView(t *rapid.T) {
	m := drawViewMode(t)
	mem := make([]ept.Table, 64)
	arena, err := ept.NewArena(unsafe.Slice((*byte)(unsafe.Pointer(&mem[0])), len(mem)*4096), 0x10000000)
	require.NoError(t, err)
	var pages ept.Pages = arena
	if rapid.Bool().Draw(t, "no window") {
		pages = struct{ ept.Pages }{arena}
	}
	s, err := ept.New(ept.Config{Pages: pages, Mode: m})
	require.NoError(t, err)
	v := s.View(0)
	bases := []uint64{0, 1 << 30, 1 << 39}
	drawGPA := func() uint64 {
		return rapid.SampledFrom(bases).Draw(t, "base") + rapid.Uint64Range(0, 1023).Draw(t, "page")<<12
	}
	for range rapid.IntRange(1, 12).Draw(t, "operations") {
		e := rapid.SampledFrom([]ept.Entry{0, ept.Read, ept.ReadWrite, ept.ReadExecute, ept.All, ept.Execute}).Draw(t, "rights")
		if m.ModeBasedExecute && rapid.Bool().Draw(t, "XU") {
			e |= ept.ExecuteUser
		}
		for _, b := range []ept.Entry{ept.VerifyGuestPaging, ept.PagingWrite, ept.SupervisorShadowStack, ept.SubPageWrite, ept.SuppressVE, ept.Software11} {
			if e&ept.Read != 0 && rapid.Bool().Draw(t, "bit") {
				e |= b
			}
		}
		e |= rapid.SampledFrom([]ept.MemoryType{ept.UC, ept.WC, ept.WT, ept.WP, ept.WB}).Draw(t, "type").Entry()
		at := drawGPA()
		size := uint64(4096) << rapid.SampledFrom([]int{0, 0, 1, 9, 18}).Draw(t, "size")
		at &^= min(size, 1<<30) - 1
		switch rapid.IntRange(0, 3).Draw(t, "operation") {
		case 0, 1:
			_, err = v.Replace(at, size, rapid.Uint64Range(0, 7).Draw(t, "HPA")<<30|at&(1<<30-1), e)
		case 2:
			_, err = v.Unmap(at, size)
		case 3:
			_, err = v.Protect(at, size, e&ept.All, ept.All)
		}
		_ = err // no pages: fine
	}
	for range 40 {
		gpa := drawGPA() | rapid.Uint64Range(0, 0xfff).Draw(t, "offset")
		if rapid.IntRange(0, 9).Draw(t, "wide") == 0 {
			gpa = rapid.Uint64().Draw(t, "gpa")
		}
		a := ept.Access(rapid.Uint32().Draw(t, "access"))
		if rapid.Bool().Draw(t, "usual") {
			a = rapid.SampledFrom([]ept.Access{ept.LinearRead, ept.LinearWrite, ept.LinearFetch, ept.PageWalk, ept.LinearFetch | ept.AccessUser}).Draw(t, "usual access")
		}
		want, wantFault, err := ept.Translate(v, gpa, a)
		require.NoError(t, err)
		hpa, f := v.Translate(gpa, a)
		require.Equal(t, want, hpa, "%v of 0x%x", a, gpa)
		require.Equal(t, wantFault, f, "%v of 0x%x", a, gpa)

		u := &overlay{View: v, changed: map[[2]uint64]ept.Entry{}}
		_, _, err = ept.Touch(u, gpa, a)
		require.NoError(t, err)
		hpa, f = v.Touch(gpa, a)
		require.Equal(t, want, hpa)
		require.Equal(t, wantFault, f)
		for at, e := range u.changed {
			live, err := v.Entry(at[0], int(at[1]))
			require.NoError(t, err)
			require.Equal(t, e, live)
		}
	}
}

// overlay is a View's tables, whose changes are kept aside.
type overlay struct {
	*ept.View
	changed map[[2]uint64]ept.Entry
}

func (o *overlay) CompareAndSwap(table uint64, index int, old, new ept.Entry) (bool, error) {
	o.changed[[2]uint64{table, uint64(index)}] = new
	return true, nil
}

func TestViewTranslateIsTranslate(t *testing.T) { ring0test.CheckOnHost(t, checkView) }

func FuzzViewTranslate(f *testing.F) { f.Fuzz(rapid.MakeFuzz(checkView)) }

// walkSpace is a map of size bytes by 4 KiB, and random addresses in it.
func walkSpace(t testing.TB, size uint64) (v *ept.View, arena *ept.Arena, gpas []uint64) {
	t.Helper()
	mem := make([]ept.Table, size>>21+size>>30+8)
	arena, err := ept.NewArena(unsafe.Slice((*byte)(unsafe.Pointer(&mem[0])), len(mem)*4096), 1<<40)
	require.NoError(t, err)
	s, err := ept.New(ept.Config{Pages: arena, Mode: mode(nil), LargestPage: ept.PTE})
	require.NoError(t, err)
	_, err = s.Map(0, size, 0, ept.All|ept.WB.Entry())
	require.NoError(t, err)
	r := rand.New(rand.NewPCG(1, 2))
	for range 1 << 14 {
		gpas = append(gpas, r.Uint64N(size))
	}
	return s.View(0), arena, gpas
}

func TestTranslateAllocatesNothing(t *testing.T) {
	if !ring0test.Optimised() {
		t.Skip("only with optimization")
	}
	v, _, gpas := walkSpace(t, 1<<30)
	_, err := v.Space().Protect(0, 1<<29, ept.Read, ept.All)
	require.NoError(t, err)
	i := 0
	require.Zero(t, testing.AllocsPerRun(1000, func() {
		sink, fault = v.Translate(gpas[i], ept.LinearWrite) // half are violations
		sink, fault = v.Touch(gpas[i], ept.LinearRead)
		i++
	}))
}

var (
	sink  uint64
	fault ept.Fault
)

// BenchmarkTranslate is Translate of random addresses in 64 GiB by 4 KiB, beside the
// plainest walk of the same tables (x-walk is the ratio): of addresses that are known
// beforehand, many at a time as far as the processor looks ahead; and of addresses each of which depends on
// the result before.
func BenchmarkTranslate(b *testing.B) {
	v, arena, gpas := walkSpace(b, 64<<30)
	tables, phys := arena.Window()
	root := v.Root()
	const mask = 1<<14 - 1
	for _, bench := range []struct {
		name  string
		chain uint64 // the bit of a result that chooses the next address
	}{{"independent", 0}, {"chained", 1 << 12}} {
		b.Run(bench.name, func(b *testing.B) {
			b.ReportAllocs()
			best, bestRaw := time.Duration(1<<62), time.Duration(1<<62)
			for b.Loop() {
				start := time.Now()
				x := uint64(0)
				for i := range uint64(mask) {
					x = rawWalk(tables, phys, root, gpas[(i+x&bench.chain)&mask])
					sink += x
				}
				bestRaw = min(bestRaw, time.Since(start))
				start = time.Now()
				for i := range uint64(mask) {
					x, _ = v.Translate(gpas[(i+x&bench.chain)&mask], ept.LinearRead)
					sink += x
				}
				best = min(best, time.Since(start))
			}
			b.ReportMetric(float64(best.Nanoseconds())/mask, "ns/address")
			b.ReportMetric(float64(bestRaw.Nanoseconds())/mask, "ns/walk")
			b.ReportMetric(float64(best)/float64(bestRaw), "x-walk")
		})
	}
}

// rawWalk knows that all is mapped by 4 KiB. Not inlined, as what it is compared with.
//
//go:noinline
func rawWalk(tables []ept.Table, phys, root, gpa uint64) uint64 {
	const address = 0x000ffffffffff000
	base := unsafe.Add(unsafe.Pointer(&tables[0]), -int(phys))
	at := func(table uint64, shift uint) uint64 {
		return *(*uint64)(unsafe.Add(base, int(table)+int(gpa>>shift&511*8)))
	}
	e := at(root, 39)
	if e&7 == 0 {
		return 0
	}
	e = at(e&address, 30)
	if e&7 == 0 || e&(1<<7) != 0 {
		return 0
	}
	e = at(e&address, 21)
	if e&7 == 0 || e&(1<<7) != 0 {
		return 0
	}
	e = at(e&address, 12)
	if e&7 == 0 {
		return 0
	}
	return e&address | gpa&0xfff
}
