package ept_test

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/govtx/vtx/ept"
	"github.com/govtx/vtx/internal/require"
	"github.com/govtx/vtx/internal/ring0test"
	"github.com/govtx/vtx/ring0"
)

// concurrent runs readers while a writer works, which pauses them for what needs that.
type concurrent struct {
	mu   sync.RWMutex
	stop atomic.Bool
	wg   sync.WaitGroup
}

func (c *concurrent) reader(f func()) {
	c.wg.Go(func() {
		for !c.stop.Load() {
			c.mu.RLock()
			for range 16 {
				f()
			}
			c.mu.RUnlock()
		}
	})
}

func (c *concurrent) pause(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f()
}

func (c *concurrent) end() {
	c.stop.Store(true)
	c.wg.Wait()
}

// rounds makes fewer of n in ring 0, where all runs on one emulated processor.
func rounds(n int) int {
	if ring0.Active() {
		return n / 10
	}
	return n
}

// TestReadersSeeOldOrNew splits, joins, protects, replaces and clones while others look: an
// address that is mapped before and after is never seen unmapped or elsewhere, and
// always has the rights that do not change.
func TestReadersSeeOldOrNew(t *testing.T) {
	ring0test.HostOnly(t)
	for _, flags := range []bool{false, true} {
		a, err := ept.NewArena(make([]byte, 200*size4K), 0x10_0000)
		require.NoError(t, err)
		s, err := ept.New(ept.Config{Pages: a, Mode: ept.Mode{Capabilities: allCapabilities, PhysicalAddressBits: 46, AccessedDirty: flags}})
		require.NoError(t, err)
		const size, delta = size1G + 4*size2M, 2 * size1G
		_, err = s.Map(0, size, delta, ept.All|ept.WB.Entry())
		require.NoError(t, err)
		v := s.View(0)

		var c concurrent
		var looks atomic.Int64
		fail := make(chan string, 100)
		for n := range 2 {
			r := rand.New(rand.NewPCG(1, uint64(n)))
			c.reader(func() {
				gpa := r.Uint64N(size)
				if r.IntN(2) == 0 {
					gpa = size1G + gpa%(4*size2M) // where it happens
				}
				e, l, ok := v.Lookup(gpa)
				if !ok || e.Address(l)|gpa&(l.PageSize()-1) != gpa+delta || e&ept.Read == 0 || e.MemoryType() != ept.WB {
					select {
					case fail <- e.String():
					default:
					}
				}
				if hpa, f := v.Translate(gpa, ept.LinearRead); f.Kind != ept.NoFault || hpa != gpa+delta {
					select {
					case fail <- f.String():
					default:
					}
				}
				looks.Add(1)
			})
		}
		r := rand.New(rand.NewPCG(2, 2))
		var other *ept.View
		for i := 0; i < rounds(3000) || looks.Load() < 1000; i++ {
			gpa := uint64(size1G) + r.Uint64N(4*512)*size4K
			n := min(1+r.Uint64N(1024), (size-gpa)/size4K) * size4K
			if r.IntN(20) == 0 {
				gpa, n = 0, size
			}
			switch r.IntN(8) {
			case 0:
				_, err = v.Split(gpa, n, ept.PTE)
				if gpa == 0 {
					err = nil // too few pages, perhaps
				}
			case 1:
				_, err = v.Join(0, size)
			case 2:
				_, err = v.Protect(gpa, n, 0, ept.Write)
			case 3:
				_, err = v.Protect(gpa, n, ept.Write, 0)
			case 4:
				_, err = s.Protect(gpa, n, ept.Execute, 0)
			case 5:
				_, err = s.Protect(gpa, n, 0, ept.Execute)
			case 6:
				_, err = v.Replace(gpa, n, gpa+delta, ept.All|ept.WB.Entry())
			case 7:
				if other == nil {
					other, err = v.Clone()
				} else {
					other.Close()
					other = nil
				}
			}
			if err != nil {
				require.ErrorIs(t, err, ept.ErrNoPages)
			}
			if a.Free() < 50 {
				c.pause(s.Reclaim)
			}
		}
		c.end()
		select {
		case what := <-fail:
			t.Fatal(what)
		default:
		}
	}
}

// TestNoFlagIsLost has processors set flags all the time, while pages are split, and
// rights changed: what they have set is there at the end.
func TestNoFlagIsLost(t *testing.T) {
	ring0test.HostOnly(t)
	a, err := ept.NewArena(make([]byte, 64*size4K), 0x10_0000)
	require.NoError(t, err)
	s, err := ept.New(ept.Config{Pages: a, Mode: ept.Mode{Capabilities: allCapabilities, PhysicalAddressBits: 46, AccessedDirty: true}})
	require.NoError(t, err)
	const size = 8 * size2M
	v := s.View(0)
	var dirty, accessed [size / size4K]atomic.Bool
	var touched atomic.Int64
	reset := func() {
		for i := range dirty {
			dirty[i].Store(false)
			accessed[i].Store(false)
		}
		_, err := s.Unmap(0, size)
		require.NoError(t, err)
		s.Reclaim()
		_, err = s.Map(0, size, size1G, ept.ReadWrite|ept.WB.Entry())
		require.NoError(t, err)
	}
	reset()
	var c concurrent
	for n := range 2 {
		r := rand.New(rand.NewPCG(3, uint64(n)))
		c.reader(func() {
			gpa := r.Uint64N(size)
			access, flag := ept.LinearRead, &accessed
			if r.IntN(2) == 0 {
				access, flag = ept.LinearWrite, &dirty
			}
			if _, f := v.Touch(gpa, access); f.Kind == ept.NoFault {
				flag[gpa/size4K].Store(true)
				touched.Add(1)
			}
		})
	}
	r := rand.New(rand.NewPCG(4, 4))
	for range rounds(30) {
		for before := touched.Load(); touched.Load() < before+300; {
			gpa := r.Uint64N(size/size4K) * size4K
			n := min(1+r.Uint64N(600), (size-gpa)/size4K) * size4K
			switch r.IntN(4) {
			case 0:
				_, err = s.Split(gpa, n, ept.PTE)
			case 1:
				_, err = s.Protect(gpa, n, 0, ept.Write)
			case 2:
				_, err = s.Protect(gpa, n, ept.Write, 0)
			case 3:
				_, err = s.Replace(gpa, n, size1G+gpa, ept.ReadWrite|ept.UC.Entry())
			}
			require.NoError(t, err)
		}
		c.pause(func() {
			check := func() {
				for i := range dirty {
					e, _, ok := v.Lookup(uint64(i) * size4K)
					require.True(t, ok)
					require.True(t, !dirty[i].Load() || e&ept.Dirty != 0, "dirty flag of page %#x", i)
					require.True(t, !(dirty[i].Load() || accessed[i].Load()) || e&ept.Accessed != 0, "accessed flag of page %#x", i)
				}
			}
			check()
			_, err := s.Protect(0, size, ept.Write, 0)
			require.NoError(t, err)
			_, err = s.Join(0, size)
			require.NoError(t, err)
			check()
			harvested := map[uint64]bool{}
			for r, e := range s.Harvest(0, size, ept.Dirty) {
				require.NotZero(t, e&ept.Dirty)
				for at := r.Start; at < r.End(); at += size4K {
					harvested[at/size4K] = true
				}
			}
			for i := range dirty {
				require.True(t, !dirty[i].Load() || harvested[uint64(i)])
			}
			reset()
		})
	}
	c.end()
}
