package vtl_test

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/govtx/vtx/hypercall"
	"github.com/govtx/vtx/internal/require"
	"github.com/govtx/vtx/vtl"
)

// maskProperty draws programs of protections by VTL1 and VTL2 and compares what comes of
// them with a map, and what the effects say with the rights before and after.
func maskProperty(t *rapid.T) {
	ram := []vtl.Range{{Page: 3, Pages: 200}, {Page: 0x1000, Pages: 70}, {Page: 1<<40 - 5, Pages: 5}}
	r := newRig(t, vtl.Config{Processors: 1, MaximumVTL: 2, RAM: ram, ProtectionMemory: 1 << 14})
	r.enable(0, 1, 0)
	r.call(0)
	r.protectOn(0)
	r.enable(0, 2, 0)
	r.call(0)
	r.protectOn(0)
	type key struct {
		owner, target vtl.VTL
		page          uint64
	}
	model := map[key]vtl.Access{}
	at := func(owner, target vtl.VTL, page uint64) vtl.Access {
		if a, there := model[key{owner, target, page}]; there {
			return a
		}
		return vtl.FullAccess
	}
	full := func(target vtl.VTL, page uint64) vtl.Access {
		a := at(2, target, page)
		if target == 0 {
			a &= at(1, target, page)
		}
		return a
	}
	view := [2]map[uint64]vtl.Access{{}, {}} // what an embedder has, by the effects
	steps := rapid.IntRange(1, 30).Draw(t, "steps")
	for range steps {
		if rapid.Bool().Draw(t, "switch") {
			if r.Active(0) == 2 {
				r.ret(0)
			} else {
				r.call(0)
			}
		}
		owner := r.Active(0)
		target := vtl.VTL(rapid.IntRange(0, int(owner)-1).Draw(t, "target"))
		area := rapid.SampledFrom(ram).Draw(t, "range")
		first := area.Page + rapid.Uint64Range(0, area.Pages-1).Draw(t, "first")
		n := rapid.Uint64Range(1, min(130, area.End()-first)).Draw(t, "pages")
		a := rapid.SampledFrom([]vtl.Access{0, 1, 3, 13, 15}).Draw(t, "access")
		var pages []uint64
		for i := range n {
			pages = append(pages, first+i)
		}
		if rapid.Bool().Draw(t, "reverse") {
			for i := range pages {
				pages[i] = first + n - 1 - uint64(i)
			}
		}
		r.e.Reset()
		done, s := r.protect(0, hypercall.TargetVTL(target), a, pages...)
		if s == hypercall.StatusInsufficientMemory {
			require.LessOrEqual(t, r.ProtectionMemory(), 1<<14)
		} else {
			require.Equal(t, ok, s, "%v", r.Why())
			require.Equal(t, len(pages), done)
		}
		for _, p := range pages[:done] {
			model[key{owner, target, p}] = a
		}
		for _, f := range r.e.List() {
			require.Equal(t, vtl.EffectProtect, f.Kind)
			for i := range f.Pages {
				require.NotEqual(t, f.Access, viewAt(view[f.Level], f.Page+i), "nothing changes there")
				view[f.Level][f.Page+i] = f.Access
			}
		}
	}
	for target := range vtl.VTL(2) {
		var page uint64
		runs := map[uint64]vtl.Access{}
		for run, a := range r.Rights(target) {
			require.GreaterOrEqual(t, run.Page, page)
			require.NotEqual(t, vtl.FullAccess, a)
			page = run.End()
			for i := range run.Pages {
				runs[run.Page+i] = a
			}
		}
		for _, area := range ram {
			for p := area.Page; p < area.End(); p++ {
				want := full(target, p)
				require.Equal(t, want, r.PageRights(target, p), "page 0x%x of %v", p, target)
				require.Equal(t, want, viewAt(view[target], p))
				require.Equal(t, want, viewAt(runs, p))
			}
		}
	}
	// Whatever way the state was reached, it has one form, and all memory comes back.
	for owner := vtl.VTL(2); owner >= 1; owner-- {
		if r.Active(0) < owner {
			r.call(0)
		} else if r.Active(0) > owner {
			r.ret(0)
		}
		for target := range owner {
			for _, area := range ram {
				for p := area.Page; p < area.End(); p++ {
					_, s := r.protect(0, hypercall.TargetVTL(target), vtl.FullAccess, p)
					require.Equal(t, ok, s)
				}
			}
		}
	}
	require.Zero(t, r.ProtectionMemory())
}

func viewAt(m map[uint64]vtl.Access, page uint64) vtl.Access {
	if a, there := m[page]; there {
		return a
	}
	return vtl.FullAccess
}

func TestMask(t *testing.T) { rapid.Check(t, maskProperty) }

func FuzzMask(f *testing.F) { f.Fuzz(rapid.MakeFuzz(maskProperty)) }

// A level's rights over 1 TiB with few exceptions take kilobytes.
func TestMaskIsSparse(t *testing.T) {
	r := twoLevels(t, vtl.Config{RAM: []vtl.Range{{Page: 0, Pages: 1 << 28}}})
	r.call(0)
	r.protectOn(0)
	for i := range uint64(16) {
		_, s := r.protect(0, hypercall.TargetVTL(0), vtl.NoAccess, i*0xffffff%(1<<28))
		require.Equal(t, ok, s)
	}
	require.LessOrEqual(t, r.ProtectionMemory(), 20<<10)
	t.Logf("16 pages of 1 TiB: %d bytes", r.ProtectionMemory())
}

// A call that would take too much memory changes nothing of the page that it stops at.
func TestMaskMemory(t *testing.T) {
	for _, profile := range []vtl.Profile{vtl.TLFS, vtl.OpenVMM} {
		r := newRig(t, vtl.Config{Processors: 1, MaximumVTL: 2, Profile: profile, ProtectionMemory: 5000, RAM: []vtl.Range{{Pages: 1 << 28}}})
		r.enable(0, 1, 0)
		r.call(0)
		r.enable(0, 2, 0)
		r.call(0)
		r.protectOn(0)
		target := hypercall.TargetVTL(0)
		if profile == vtl.OpenVMM {
			target = hypercall.TargetVTL(2)
		}
		stopped := false
		for i := range uint64(10) {
			before := state(r.Partition)
			r.e.Reset()
			done, s := r.protect(0, target, vtl.Read, i<<20)
			if s != ok {
				stopped = true
				require.Equal(t, hypercall.StatusInsufficientMemory, s)
				require.Zero(t, done)
				require.Equal(t, before, state(r.Partition))
				require.Zero(t, r.e.Len())
			}
		}
		require.True(t, stopped)
		require.LessOrEqual(t, r.ProtectionMemory(), 5000)
	}
}
