package ept_test

import (
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/govtx/vtx/ept"
	"github.com/govtx/vtx/internal/require"
	"github.com/govtx/vtx/ring0"
)

// Benchmarks tell times as ratios to a bound that is measured in the same run: "x-loop"
// is to a plain Go loop that stores the same entries into tables that exist already,
// "x-walk" is to a walk of the tables that is written out by hand.

const (
	benchSmall = 64 << 30  // mapped by pages of 4 KiB
	benchLarge = 512 << 30 // mapped by pages of 2 MiB
	benchPages = 33 << 10  // of the arena
	benchPhys  = 1 << 32   // of the arena
	benchAttr  = ept.All | ept.Entry(ept.WB)<<3
)

var benchMemory = sync.OnceValue(func() []byte {
	mem := make([]byte, benchPages*4096)
	for i := 0; i < len(mem); i += 4096 {
		mem[i] = 1
	}
	return mem
})

var benchMode = ept.Mode{Capabilities: allCapabilities, PhysicalAddressBits: 46}

// benchSpace returns an empty space over memory.
func benchSpace(b testing.TB, mem []byte, largest ept.Level, flags bool) (*ept.Space, *ept.Arena) {
	a, err := ept.NewArena(mem, benchPhys)
	require.NoError(b, err)
	m := benchMode
	m.AccessedDirty = flags
	s, err := ept.New(ept.Config{Pages: a, Mode: m, LargestPage: largest})
	require.NoError(b, err)
	return s, a
}

// mapped returns a space in which 64 GiB are mapped by 4 KiB.
func mapped(b testing.TB, flags bool) (*ept.Space, *ept.Arena) {
	if ring0.Active() {
		b.Skip("needs 130 MB of memory")
	}
	s, a := benchSpace(b, benchMemory(), ept.PTE, flags)
	_, err := s.Map(0, benchSmall, 0, benchAttr)
	require.NoError(b, err)
	return s, a
}

// loop is the bound of filling: it stores the entries of n tables.
func loop(tables []ept.Table, e, step ept.Entry) {
	for i := range tables {
		t := &tables[i]
		for j := range t {
			t[j] = e
			e += step
		}
	}
}

// stopwatch keeps the best time of several, and counts allocations.
type stopwatch struct {
	best   time.Duration
	allocs uint64
	runs   int
}

func (w *stopwatch) time(f func()) {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	start := time.Now()
	f()
	d := time.Since(start)
	runtime.ReadMemStats(&after)
	if w.runs == 0 || d < w.best {
		w.best = d
	}
	w.allocs += after.Mallocs - before.Mallocs
	w.runs++
}

// report tells the best time, for one of n parts of the work too, and its ratio to the
// best time of the bound. What was done besides does not count, nor in ns/op.
func report(b *testing.B, w, bound stopwatch, ratio string, n int) {
	b.ReportMetric(float64(w.best), "ns/op")
	b.ReportMetric(float64(w.allocs/uint64(w.runs)), "mallocs")
	b.ReportMetric(float64(w.best)/float64(n), "ns/entry")
	b.ReportMetric(float64(w.best)/float64(bound.best), ratio)
}

// TestTablePages counts the tables of the two big maps: there cannot be fewer.
func TestTablePages(t *testing.T) {
	_, a := mapped(t, false)
	require.Equal(t, 32834, a.Used()) // 1 + 1 + 64 + 64·512
	s, a := benchSpace(t, benchMemory(), ept.PDE, false)
	_, err := s.Map(0, benchLarge, 0, benchAttr)
	require.NoError(t, err)
	require.Equal(t, 514, a.Used()) // 1 + 1 + 512
	_, err = s.Unmap(0, benchLarge)
	require.NoError(t, err)
	s.Reclaim()
	require.Equal(t, 1, a.Used())
}

// BenchmarkMap64GiB maps 64 GiB by 4 KiB: one call.
func BenchmarkMap64GiB(b *testing.B) {
	if ring0.Active() {
		b.Skip("needs 130 MB of memory")
	}
	var w, bound stopwatch
	mem := benchMemory()
	for b.Loop() {
		s, a := benchSpace(b, mem, ept.PTE, false)
		w.time(func() { check(b)(s.Map(0, benchSmall, 0, benchAttr)) })
		t, _ := a.Window()
		bound.time(func() { loop(t[:benchSmall>>21], benchAttr, 4096) })
	}
	report(b, w, bound, "x-loop", benchSmall>>12)
}

// BenchmarkMap512GiB maps 512 GiB by 2 MiB.
func BenchmarkMap512GiB(b *testing.B) {
	var w, bound stopwatch
	mem := make([]byte, 520*4096)
	for b.Loop() {
		s, a := benchSpace(b, mem, ept.PDE, false)
		w.time(func() { check(b)(s.Map(0, benchLarge, 0, benchAttr)) })
		t, _ := a.Window()
		bound.time(func() { loop(t[:512], benchAttr|ept.Large, 2<<20) })
	}
	report(b, w, bound, "x-loop", benchLarge>>21)
}

// BenchmarkMapPages maps 1 GiB by one call for each page of 4 KiB.
func BenchmarkMapPages(b *testing.B) {
	for _, flags := range []bool{false, true} {
		b.Run(fmt.Sprintf("flags=%v", flags), func(b *testing.B) {
			mem := make([]byte, 600*4096)
			var w, bound stopwatch
			for b.Loop() {
				s, a := benchSpace(b, mem, 0, flags)
				v := s.View(0)
				w.time(func() {
					for at := uint64(0); at < 1<<30; at += 4096 {
						if _, err := v.Map(at, 4096, at, benchAttr); err != nil {
							b.Fatal(err)
						}
					}
				})
				t, _ := a.Window()
				bound.time(func() { loop(t[:512], benchAttr, 4096) })
			}
			report(b, w, bound, "x-loop", 1<<18)
		})
	}
}

// check ends a benchmark if an operation fails.
func check(b *testing.B) func(ept.Invalidation, error) {
	return func(_ ept.Invalidation, err error) {
		if err != nil {
			b.Fatal(err)
		}
	}
}

// rng is as much of a random number generator as there is time for.
type rng uint64

func (r *rng) next() uint64 {
	*r ^= *r << 13
	*r ^= *r >> 7
	*r ^= *r << 17
	return uint64(*r)
}

// walkMask has the bits of the address in an entry that references a table.
const walkMask = 0xf_ffff_ffff_f000

const batch = 1 << 16 // operations between looks at the clock

// versus measures two functions in turn, which do batch operations each, on pages of
// their own. What is done to pages (on) is undone many batches later, when they are not
// in the caches any more.
func versus(b *testing.B, ours, bound func(r rng, on bool)) {
	var w, x stopwatch
	var old [64]rng
	seed := rng(1)
	for i := 0; b.Loop(); i++ {
		on := i/len(old)%2 == 0
		r := &old[i%len(old)]
		if on {
			*r = rng(seed.next())
		}
		w.time(func() { ours(*r, on) })
		x.time(func() { bound(^*r, on) })
	}
	report(b, w, x, "x-walk", batch)
}

var benchSink uint64

// raw is tables that map by 4 KiB, walked by hand: nothing is checked but that entries
// are present and not large, as a walk must.
type raw struct {
	tables []ept.Table
	phys   uint64
	root   *ept.Table
}

// Not inlined, as what it is compared with.
//
//go:noinline
func (r *raw) entry(gpa uint64) *ept.Entry {
	e := r.root[gpa>>39&511]
	if e&7 == 0 {
		return nil
	}
	e = r.tables[(uint64(e)&walkMask-r.phys)>>12][gpa>>30&511]
	if e&7 == 0 || e&ept.Large != 0 {
		return nil
	}
	e = r.tables[(uint64(e)&walkMask-r.phys)>>12][gpa>>21&511]
	if e&7 == 0 || e&ept.Large != 0 {
		return nil
	}
	return &r.tables[(uint64(e)&walkMask-r.phys)>>12][gpa>>12&511]
}

// full is what no translation can do without: pages of all sizes, and the rights of all entries,
// which need not be present then.
//
//go:noinline
func (r *raw) full(gpa uint64, need ept.Entry) (hpa uint64, ok bool) {
	e := r.root[gpa>>39&511]
	rights := e
	e = r.tables[(uint64(e)&walkMask-r.phys)>>12][gpa>>30&511]
	if rights &= e; e&ept.Large != 0 {
		return uint64(e)&walkMask | gpa&(1<<30-1), rights&need == need
	}
	e = r.tables[(uint64(e)&walkMask-r.phys)>>12][gpa>>21&511]
	if rights &= e; e&ept.Large != 0 {
		return uint64(e)&walkMask | gpa&(1<<21-1), rights&need == need
	}
	e = r.tables[(uint64(e)&walkMask-r.phys)>>12][gpa>>12&511]
	return uint64(e)&walkMask | gpa&4095, (rights&e)&need == need
}

// BenchmarkRandom works on single random pages of the 64 GiB map.
func BenchmarkRandom(b *testing.B) {
	for _, flags := range []bool{false, true} {
		b.Run(fmt.Sprintf("flags=%v", flags), func(b *testing.B) {
			s, a := mapped(b, flags)
			v := s.View(0)
			tables, phys := a.Window()
			walk := &raw{tables, phys, a.Page(v.Root())}
			page := func(r *rng) uint64 { return r.next() & (benchSmall - 1) &^ 4095 }
			change := func(on bool) (set, clear ept.Entry) {
				if on {
					return 0, ept.Write
				}
				return ept.Write, 0
			}
			// Independent pages overlap in the processor, so that what counts is how many
			// instructions there are besides the walk. Chained ones wait for each other.
			for _, c := range []struct {
				name  string
				chain rng
			}{{"independent", 0}, {"chained", ^rng(0)}} {
				b.Run("Protect/"+c.name, func(b *testing.B) {
					versus(b, func(r rng, on bool) {
						set, clear := change(on)
						for range batch {
							due, err := v.Protect(page(&r), 4096, set, clear)
							if err != nil {
								b.Fatal(err)
							}
							r += rng(due) & c.chain
						}
					}, func(r rng, on bool) {
						set, clear := change(on)
						for range batch {
							p := walk.entry(page(&r))
							e := *p
							if n := e&^clear | set; !flags {
								*p = n
							} else if !atomic.CompareAndSwapUint64((*uint64)(p), uint64(e), uint64(n)) {
								b.Fatal("somebody else changes entries")
							}
							r += rng(e&2) & c.chain
						}
					})
				})
			}
			b.Run("Remap", func(b *testing.B) {
				versus(b, func(r rng, _ bool) {
					for range batch {
						gpa := page(&r)
						if _, err := v.Unmap(gpa, 4096); err != nil {
							b.Fatal(err)
						}
						if _, err := v.Map(gpa, 4096, gpa, benchAttr); err != nil {
							b.Fatal(err)
						}
					}
				}, func(r rng, _ bool) {
					for range batch {
						gpa := page(&r)
						p := walk.entry(gpa)
						e := *p
						atomic.StoreUint64((*uint64)(p), 0)
						*walk.entry(gpa) = e
					}
				})
			})
			b.Run("Lookup", func(b *testing.B) {
				versus(b, func(r rng, _ bool) {
					for range batch {
						e, _, _ := v.Lookup(page(&r))
						benchSink += uint64(e)
					}
				}, func(r rng, _ bool) {
					for range batch {
						benchSink += uint64(*walk.entry(page(&r)))
					}
				})
			})
			translate := func(r rng, _ bool) {
				for range batch {
					hpa, f := v.Translate(page(&r), ept.LinearRead)
					if f.Kind != ept.NoFault {
						b.Fatal(f)
					}
					benchSink += hpa
				}
			}
			b.Run("Translate", func(b *testing.B) {
				versus(b, translate, func(r rng, _ bool) {
					for range batch {
						gpa := page(&r)
						e := *walk.entry(gpa)
						if e&ept.Read == 0 {
							b.Fatal("not readable")
						}
						benchSink += uint64(e)&walkMask | gpa&4095
					}
				})
			})
			b.Run("Translate/full", func(b *testing.B) {
				versus(b, translate, func(r rng, _ bool) {
					for range batch {
						hpa, ok := walk.full(page(&r), ept.Read)
						if !ok {
							b.Fatal("not readable")
						}
						benchSink += hpa
					}
				})
			})
		})
	}
}

// BenchmarkRange changes what is mapped: for figures, without a bound but the loop over as many
// entries.
func BenchmarkRange(b *testing.B) {
	const size = 4 << 30
	type state struct {
		s *ept.Space
		v *ept.View
	}
	for _, c := range []struct {
		name    string
		largest ept.Level
		entries int
		before  func(b *testing.B, s *state)
		run     func(b *testing.B, s *state)
	}{
		{"Unmap/4KiB", ept.PTE, size >> 12, nil, func(b *testing.B, s *state) { check(b)(s.v.Unmap(0, size)) }},
		{"UnmapReclaim/4KiB", ept.PTE, size >> 12, nil, func(b *testing.B, s *state) { check(b)(s.v.Unmap(0, size)); s.s.Reclaim() }},
		{"UnmapPages/4KiB", ept.PTE, size >> 12, nil, func(b *testing.B, s *state) {
			for at := uint64(0); at < size; at += 4096 {
				check(b)(s.v.Unmap(at, 4096))
			}
		}},
		{"Protect/4KiB", ept.PTE, size >> 12, nil, func(b *testing.B, s *state) { check(b)(s.v.Protect(0, size, 0, ept.Write)) }},
		{"ProtectEach/4KiB", ept.PTE, size >> 12, nil, func(b *testing.B, s *state) { check(b)(s.v.Protect(0, size, ept.SuppressVE, 0)) }},
		{"ProtectPages/4KiB", ept.PTE, size >> 12, nil, func(b *testing.B, s *state) {
			for at := uint64(0); at < size; at += 4096 {
				check(b)(s.v.Protect(at, 4096, 0, ept.Write))
			}
		}},
		{"Split/2MiB", ept.PDE, size >> 12, nil, func(b *testing.B, s *state) { check(b)(s.v.Split(0, size, ept.PTE)) }},
		{"Join/4KiB", ept.PDE, size >> 12, func(b *testing.B, s *state) { check(b)(s.v.Split(0, size, ept.PTE)) },
			func(b *testing.B, s *state) { check(b)(s.v.Join(0, size)) }},
		{"CloneProtectPage/4KiB", ept.PTE, 512 * 3, nil, func(b *testing.B, s *state) {
			v, err := s.v.Clone()
			if err != nil {
				b.Fatal(err)
			}
			check(b)(v.Protect(size/2, 4096, 0, ept.Write))
		}},
		{"CloneProtectAll/4KiB", ept.PTE, size >> 12, nil, func(b *testing.B, s *state) {
			v, err := s.v.Clone()
			if err != nil {
				b.Fatal(err)
			}
			check(b)(v.Protect(0, size, 0, ept.Write))
		}},
		{"Harvest/4KiB", ept.PTE, size >> 12, nil, func(b *testing.B, s *state) {
			for range s.v.Harvest(0, size, ept.Dirty) {
				benchSink++
			}
		}},
		{"Mappings/4KiB", ept.PTE, size >> 12, nil, func(b *testing.B, s *state) {
			for _, err := range ept.Mappings(s.v) {
				if err != nil {
					b.Fatal(err)
				}
				benchSink++
			}
		}},
	} {
		b.Run(c.name, func(b *testing.B) {
			if ring0.Active() {
				b.Skip("needs memory")
			}
			mem := make([]byte, 2100*4096)
			tables := make([]ept.Table, c.entries/512)
			loop(tables, benchAttr, 4096)
			var w, bound stopwatch
			for b.Loop() {
				s, _ := benchSpace(b, mem, c.largest, false)
				st := &state{s, s.View(0)}
				check(b)(s.Map(0, size, 0, benchAttr))
				if c.before != nil {
					c.before(b, st)
				}
				w.time(func() { c.run(b, st) })
				bound.time(func() { loop(tables, benchAttr, 4096) })
			}
			report(b, w, bound, "x-loop", c.entries)
		})
	}
}
