package ept_test

import (
	"errors"
	"fmt"
	"math"
	"testing"

	"github.com/govtx/vtx/ept"
	"github.com/govtx/vtx/internal/require"
	"github.com/govtx/vtx/internal/ring0test"
)

func newSpace(t testing.TB, pages int, c ept.Config) (*ept.Space, *ept.Arena) {
	a, err := ept.NewArena(make([]byte, pages*size4K), 0x10_0000)
	require.NoError(t, err)
	c.Pages = a
	if c.Mode.PhysicalAddressBits == 0 {
		c.Mode.PhysicalAddressBits = 46
	}
	if c.Mode.Capabilities == 0 {
		c.Mode.Capabilities = allCapabilities
	}
	s, err := ept.New(c)
	require.NoError(t, err)
	return s, a
}

// TestSpaceErrors: each names the range and the rule, and nothing has changed.
func TestSpaceErrors(t *testing.T) {
	const attr = ept.All | ept.Entry(ept.WB)<<3
	s, a := newSpace(t, 20, ept.Config{Mode: ept.Mode{Capabilities: allCapabilities &^ 1}})
	wide, _ := newSpace(t, 20, ept.Config{Mode: ept.Mode{PhysicalAddressBits: 52}})
	wider, _ := newSpace(t, 20, ept.Config{Mode: ept.Mode{PhysicalAddressBits: 52, Levels: 5}})
	_, err := s.Map(size2M, 2*size2M, size2M, attr)
	require.NoError(t, err)
	v := s.View(0)
	closed, err := v.Clone()
	require.NoError(t, err)
	closed.Close()
	s.Reclaim()
	used := a.Used()
	for _, c := range []struct {
		what string
		err  error
		is   error
		text string
	}{
		{"size of zero", second(v.Map(size4K, 0, 0, attr)), ept.ErrEmpty, "Map of 0x1000, 0 bytes to 0x0: the size is 0"},
		{"unaligned address", second(v.Map(12, size4K, 0, attr)), ept.ErrUnaligned, "Map of 0xc-0x100b to 0x0: the guest-physical address 0xc is unaligned"},
		{"unaligned size", second(v.Unmap(0, 12)), ept.ErrUnaligned, "Unmap of 0x0-0xb: the size 0xc is unaligned"},
		{"unaligned host", second(v.Replace(0, size4K, 1, attr)), ept.ErrUnaligned, "Replace of 0x0-0xfff to 0x1: the physical address 0x1 is unaligned"},
		{"wrap", second(v.Unmap(math.MaxUint64&^0xfff, 2*size4K)), ept.ErrGuestWidth, "0x2000 bytes from 0xfffffffffffff000 on wrap around 2^64"},
		{"up to 2^64", second(v.Unmap(math.MaxUint64&^0xfff, size4K)), ept.ErrGuestWidth, "MAXPHYADDR 46"},
		{"past MAXPHYADDR", second(v.Protect(1<<46-size4K, 2*size4K, 0, ept.Write)), ept.ErrGuestWidth, "end at 0x400000000000, by MAXPHYADDR 46"},
		{"past 48 bits", second(wide.Split(1<<48, size4K, ept.PTE)), ept.ErrGuestWidth, "Split of 0x1000000000000-0x1000000000fff: the range reaches beyond the guest-physical addresses that EPT translates: they end at 0x1000000000000, by the 48 bits that 4 levels translate"},
		{"past 52 bits", second(wider.Join(1<<52, size4K)), ept.ErrGuestWidth, "by MAXPHYADDR 52"},
		{"host past MAXPHYADDR", second(v.Map(0, 2*size4K, 1<<46-size4K, attr)), ept.ErrHostWidth, "end at 0x400000000000"},
		{"host wraps", second(v.Map(0, 2*size4K, math.MaxUint64&^0xfff, attr)), ept.ErrHostWidth, "wrap around"},
		{"memory type", second(v.Map(0, size4K, 0, ept.All|2<<3)), ept.ErrMisconfigure, "memory type (bits 5:3)"},
		{"memory type without rights", second(v.Map(0, size4K, 0, 7<<3)), ept.ErrMisconfigure, "memory type"},
		{"write-only", second(v.Map(0, size4K, 0, ept.Write|ept.Entry(ept.WB)<<3)), ept.ErrMisconfigure, "must allow reads"},
		{"execute-only", second(v.Map(0, size4K, 0, ept.Execute|ept.Entry(ept.WB)<<3)), ept.ErrMisconfigure, "IA32_VMX_EPT_VPID_CAP[0]"},
		{"address as attribute", second(v.Map(0, size4K, 0, attr|0x5000)), ept.ErrAttributes, "0x5000"},
		{"large as attribute", second(v.Map(0, size4K, 0, attr|ept.Large)), ept.ErrAttributes, "0x80"},
		{"bookkeeping as attribute", second(v.Protect(0, size4K, 1<<52, 0)), ept.ErrAttributes, "0x10000000000000"},
		{"flags by Protect", second(v.Protect(0, size4K, 0, ept.Dirty)), ept.ErrAttributes, "Harvest"},
		{"overlap", second(v.Map(size4K, 3*size2M, 0, attr)), ept.ErrMapped, "Map of 0x1000-0x600fff to 0x0: 0x200000 is mapped"},
		{"overlap in all views", second(s.Map(2*size2M, size4K, 0, attr)), ept.ErrMapped, "0x400000 is mapped"},
		{"Protect to write-only", second(v.Protect(0, 2*size2M, 0, ept.Read)), ept.ErrMisconfigure, "Protect of 0x0-0x3fffff: at 0x200000: an entry would be misconfigured"},
		{"Protect to execute-only", second(v.Protect(0, 2*size2M, 0, ept.ReadWrite)), ept.ErrMisconfigure, "at 0x200000"},
		{"Protect to type 7", second(v.Protect(0, 2*size2M, 7<<3, 0)), ept.ErrMisconfigure, "memory type"},
		{"Split to nothing", second(v.Split(0, size4K, 0)), ept.ErrLevel, "not of Level(0)"},
		{"Split to 512 GiB", second(v.Split(0, size4K, ept.PML4E)), ept.ErrLevel, "PML4E"},
		{"no source", second(v.MapTyped(0, size4K, 0, attr, nil)), ept.ErrTypes, "nil"},
		{"stuck source", second(v.MapTyped(0, size4K, 0, attr, source{ept.WB, 0})), ept.ErrTypes, "the next address with another type is 0x0"},
		{"source of type 3", second(v.MapTyped(0, size4K, 0, attr, source{3, size1G})), ept.ErrTypes, "MemoryType(3)"},
		{"type changes in a page", second(v.MapTyped(0, size4K, 0, attr, source{ept.WB, 0x800})), ept.ErrTypes, "the type changes at 0x800"},
		{"type changes in a page that is replaced", second(v.ReplaceTyped(size2M, size2M, 0, attr, source{ept.WB, 0x12_3456})), ept.ErrTypes, "0x123456"},
		{"allocator runs dry", second(v.Split(size2M, 2*size2M, ept.PTE)), nil, ""},
		{"allocator runs dry in the middle", second(v.Map(size1G, 64*size1G, size4K, attr)), ept.ErrNoPages, "32832 pages are needed for tables"},
		{"closed view", second(closed.Map(0, size4K, 0, attr)), ept.ErrClosed, "closed"},
		{"closed view protected", second(closed.Protect(0, size4K, 0, ept.Write)), ept.ErrClosed, "closed"},
		{"closed view unmapped", second(closed.Unmap(0, size4K)), ept.ErrClosed, "closed"},
	} {
		if c.is == nil {
			require.NoError(t, c.err)
			continue
		}
		require.ErrorIs(t, c.err, c.is, c.what)
		require.Contains(t, c.err.Error(), c.text, c.what)
		var re *ept.RangeError
		require.True(t, errors.As(c.err, &re), c.what)
	}
	require.Equal(t, used+2, a.Used()) // those of the one Split that did work
	_, err = closed.Clone()
	require.ErrorIs(t, err, ept.ErrClosed)
}

func second(_ ept.Invalidation, err error) error { return err }

// source is one type up to an address.
type source struct {
	t   ept.MemoryType
	end uint64
}

func (s source) At(uint64) (ept.MemoryType, uint64) { return s.t, s.end }

func TestViews(t *testing.T) {
	s, a := newSpace(t, 200, ept.Config{})
	v := s.View(0)
	_, err := v.Map(0, size1G, 0, ept.All|ept.WB.Entry())
	require.NoError(t, err)
	_, err = v.Split(0, size1G/2, ept.PDE)
	require.NoError(t, err)
	require.Nil(t, s.View(1))
	require.Nil(t, s.View(-1))
	require.Nil(t, s.View(ept.MaxViews))
	for i := 1; i < ept.MaxViews; i++ {
		w, err := v.Clone()
		require.NoError(t, err)
		require.Equal(t, i, w.Index())
		require.Equal(t, w, s.View(i))
		require.True(t, w.Pointer().Address() == w.Root() && w.Root() != v.Root())
	}
	_, err = v.Clone()
	require.ErrorIs(t, err, ept.ErrTooManyViews)
	require.Equal(t, 3+ept.MaxViews-1, a.Used())

	// What is done in all views keeps what they share.
	due, err := s.Protect(size4K, size4K, 0, ept.Write)
	require.NoError(t, err)
	require.Equal(t, ept.AllContexts, due)
	require.Equal(t, 3+ept.MaxViews-1+1, a.Used())
	due, err = s.Map(size1G, size4K, size1G, ept.All|ept.WB.Entry())
	require.NoError(t, err)
	require.Equal(t, ept.NoInvalidation, due)
	require.Equal(t, 3+ept.MaxViews-1+1+2, a.Used())

	// A large range in one view: just the tables on the way to the entries that mask it.
	w := s.View(7)
	due, err = w.Protect(0, 512*size1G, 0, ept.Write)
	require.NoError(t, err)
	require.Equal(t, ept.SingleContext, due)
	require.Equal(t, 3+ept.MaxViews-1+1+2, a.Used())
	e, l, ok := w.Lookup(5 * size4K)
	require.True(t, ok && l == ept.PTE && e&ept.All == ept.ReadExecute)
	e, _, _ = v.Lookup(5 * size4K)
	require.Equal(t, ept.All, e&ept.All)

	// What changes nothing copies nothing.
	used := a.Used()
	for _, err := range []error{
		second(w.Protect(0, 3*size4K, 0, ept.Write)), second(w.Protect(size1G/4+size2M, size1G/8, ept.SuppressVE, 0)),
	} {
		require.NoError(t, err)
	}
	require.Equal(t, used+1+1, a.Used()) // of 1 GiB, and the one above
	used = a.Used()
	for _, err := range []error{
		second(v.Protect(size4K, 3*size4K, 0, 0)), second(v.Protect(2*size4K, 3*size4K, ept.Read, 0)),
		second(v.Unmap(2*size1G, 5*size1G)), second(v.Split(size2M, size2M, ept.PDE)), second(v.Join(0, size2M)),
		second(v.Replace(3*size2M, size4K, 3*size2M, ept.All|ept.WB.Entry())),
	} {
		require.NoError(t, err)
	}
	require.Equal(t, used, a.Used())

	n := 0
	for range s.Views() {
		n++
	}
	require.Equal(t, ept.MaxViews, n)
	for v := range s.Views() {
		v.Close()
		require.Equal(t, ept.NoInvalidation, v.Close())
	}
	s.Reclaim()
	require.Equal(t, 0, a.Used())
}

// TestSharedBehindMasks: an operation on all views that share a table, which one of them
// sees through a mask, ends with one table for each. It is not changed in place for the
// second, since processors may walk it for the first still.
func TestSharedBehindMasks(t *testing.T) {
	s, a := newSpace(t, 100, ept.Config{})
	v := s.View(0)
	_, err := v.Map(0, size1G, 0, ept.All|ept.WB.Entry())
	require.NoError(t, err)
	_, err = v.Split(0, size2M, ept.PTE)
	require.NoError(t, err)
	w, err := v.Clone()
	require.NoError(t, err)
	_, err = w.Protect(0, 512*size1G, 0, ept.Write)
	require.NoError(t, err)
	require.Equal(t, 5, a.Used()) // two roots and three tables that they share
	_, err = s.Protect(size4K, size4K, ept.Write|ept.SuppressVE, ept.Execute)
	require.NoError(t, err)
	s.Reclaim()
	require.Equal(t, 8, a.Used())
	for i, want := range []ept.Entry{ept.All, ept.ReadExecute} {
		for page, want := range []ept.Entry{want, ept.ReadWrite, want} {
			e, _, _ := s.View(i).Lookup(uint64(page) * size4K)
			require.Equal(t, want, e&ept.All, "page %d of view %d", page, i)
		}
	}

	// Joined, all is as it was.
	_, err = s.Replace(size4K, size4K, size4K, ept.All|ept.WB.Entry())
	require.NoError(t, err)
	_, err = w.Protect(0, size1G, 0, ept.Write)
	require.NoError(t, err)
	_, err = s.Join(0, 512*size1G)
	require.NoError(t, err)
	s.Reclaim()
	require.Equal(t, 4, a.Used())
	for i, want := range []ept.Entry{ept.All, ept.ReadExecute} {
		e, l, _ := s.View(i).Lookup(size4K)
		require.Equal(t, ept.PDPTE, l)
		require.Equal(t, want, e&ept.All)
	}
}

// TestMaskedFirst: where the view that sees a table through a mask comes first, it gets the
// copy, and the other keeps the table. That takes three pages and no more.
func TestMaskedFirst(t *testing.T) {
	a, err := ept.NewArena(make([]byte, 100*size4K), 0x10_0000)
	require.NoError(t, err)
	pages := &fallible{a, -1}
	s, err := ept.New(ept.Config{Pages: pages, Mode: ept.Mode{Capabilities: allCapabilities, PhysicalAddressBits: 46}})
	require.NoError(t, err)
	v := s.View(0)
	_, err = v.Map(0, size1G, 0, ept.All|ept.WB.Entry())
	require.NoError(t, err)
	_, err = v.Split(0, size2M, ept.PTE)
	require.NoError(t, err)
	_, err = v.Clone()
	require.NoError(t, err)
	_, err = v.Protect(0, 512*size1G, 0, ept.Write)
	require.NoError(t, err)
	pages.left = 2
	_, err = s.Protect(size4K, size4K, ept.Write|ept.SuppressVE, ept.Execute)
	require.ErrorIs(t, err, ept.ErrNoPages)
	pages.left = 3
	_, err = s.Protect(size4K, size4K, ept.Write|ept.SuppressVE, ept.Execute)
	require.NoError(t, err)
}

// TestVirtualizationExceptions: what becomes #VE is for each page to say, also if all
// rights of a large range are taken away.
func TestVirtualizationExceptions(t *testing.T) {
	s, _ := newSpace(t, 100, ept.Config{Mode: ept.Mode{ViolationVE: true}, Convertible: true})
	v := s.View(0)
	_, err := v.Map(0, size2M, 0, ept.All|ept.WB.Entry()|ept.SuppressVE)
	require.NoError(t, err)
	_, err = v.Map(size2M, size2M, size2M, ept.All|ept.WB.Entry())
	require.NoError(t, err)
	_, err = v.Protect(0, 512*size1G, 0, ept.All)
	require.NoError(t, err)
	for gpa, want := range map[uint64]bool{0: false, size2M: true, 2 * size2M: true} {
		_, f := v.Translate(gpa, ept.LinearRead)
		require.Equal(t, ept.Violation, f.Kind)
		require.Equal(t, want, f.VE, "%#x", gpa)
	}
}

// TestDue: what has to be invalidated (SDM Vol. 3C 29.4.3.4).
func TestDue(t *testing.T) {
	const wb = ept.Entry(ept.WB) << 3
	s, _ := newSpace(t, 100, ept.Config{Mode: ept.Mode{AccessedDirty: true}})
	v := s.View(0)
	for _, c := range []struct {
		what string
		do   func() (ept.Invalidation, error)
		want ept.Invalidation
	}{
		{"map", func() (ept.Invalidation, error) { return v.Map(0, size2M, 0, ept.Read|wb) }, ept.NoInvalidation},
		{"add a right", func() (ept.Invalidation, error) { return v.Protect(0, size2M, ept.Write, 0) }, ept.NoInvalidation},
		{"set what is set", func() (ept.Invalidation, error) { return v.Protect(0, size2M, ept.Write, 0) }, ept.NoInvalidation},
		{"software bit", func() (ept.Invalidation, error) { return v.Protect(0, size2M, ept.Software11, 0) }, ept.NoInvalidation},
		{"remove a right", func() (ept.Invalidation, error) { return v.Protect(0, size2M, 0, ept.Write) }, ept.SingleContext},
		{"memory type", func() (ept.Invalidation, error) { return v.Protect(0, size2M, 0, 7<<3) }, ept.SingleContext},
		{"ignore PAT", func() (ept.Invalidation, error) { return v.Protect(0, size2M, ept.IgnorePAT, 0) }, ept.SingleContext},
		{"suppress #VE", func() (ept.Invalidation, error) { return v.Protect(0, size2M, ept.SuppressVE, 0) }, ept.SingleContext},
		{"split", func() (ept.Invalidation, error) { return v.Split(0, size4K, ept.PTE) }, ept.SingleContext},
		{"nothing to split", func() (ept.Invalidation, error) { return v.Split(0, size4K, ept.PTE) }, ept.NoInvalidation},
		{"join", func() (ept.Invalidation, error) { return v.Join(0, size2M) }, ept.SingleContext},
		{"nothing to join", func() (ept.Invalidation, error) { return v.Join(0, size2M) }, ept.NoInvalidation},
		{"replace by the same", func() (ept.Invalidation, error) {
			return v.Replace(0, size2M, 0, ept.Read|ept.IgnorePAT|ept.SuppressVE|ept.Software11)
		}, ept.NoInvalidation},
		{"replace by more rights", func() (ept.Invalidation, error) {
			return v.Replace(0, size2M, 0, ept.ReadWrite|ept.IgnorePAT|ept.SuppressVE|ept.Software11)
		}, ept.NoInvalidation},
		{"replace the address", func() (ept.Invalidation, error) {
			return v.Replace(0, size2M, size2M, ept.ReadWrite|ept.IgnorePAT|ept.SuppressVE|ept.Software11)
		}, ept.SingleContext},
		{"unmap a hole", func() (ept.Invalidation, error) { return v.Unmap(size1G, size1G) }, ept.NoInvalidation},
		{"unmap", func() (ept.Invalidation, error) { return v.Unmap(0, size2M) }, ept.SingleContext},
	} {
		due, err := c.do()
		require.NoError(t, err, c.what)
		require.Equal(t, c.want, due, c.what)
	}
}

// TestOperationsAllocateNothing but pages of tables, and Clone its View.
func TestOperationsAllocateNothing(t *testing.T) {
	if !ring0test.Optimised() {
		t.Skip("only with optimization")
	}
	s, _ := newSpace(t, 700, ept.Config{Mode: ept.Mode{AccessedDirty: true}})
	v := s.View(0)
	var due ept.Invalidation
	require.Equal(t, 1.0, testing.AllocsPerRun(20, func() {
		for _, err := range [...]error{
			second(v.Map(0, size1G, 0, ept.All)),
			second(v.MapTyped(size1G, size1G, size4K+size1G, ept.All, ept.WB)),
			second(v.Protect(size2M, size4K, 0, ept.Write)),
			second(s.Protect(size2M, size2M, ept.Write, 0)),
			second(v.Split(0, size2M, ept.PTE)),
			second(v.Join(0, size1G)),
			second(v.Replace(0, size2M+size4K, size4K, ept.All)),
		} {
			if err != nil {
				t.Log(fmt.Sprint(err))
				t.Fail()
			}
		}
		w, err := v.Clone() // which allocates the View
		require.True(t, err == nil)
		due, err = w.Protect(0, size4K, 0, ept.Write)
		require.True(t, err == nil)
		w.Close()
		due, err = s.Unmap(0, 4*size1G)
		require.True(t, err == nil)
		s.Reclaim()
	}))
	require.Equal(t, ept.SingleContext, due)
}
