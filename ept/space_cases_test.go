package ept_test

import (
	"testing"

	"github.com/govtx/vtx/ept"
	"github.com/govtx/vtx/internal/require"
)

// TestClosedView: what has a view's place does not get its operations.
func TestClosedView(t *testing.T) {
	s, _ := newSpace(t, 20, ept.Config{})
	v := s.View(0)
	w, err := v.Clone()
	require.NoError(t, err)
	require.Equal(t, ept.SingleContext, w.Close())
	x, err := v.Clone()
	require.NoError(t, err)
	require.Equal(t, w.Index(), x.Index())
	require.Equal(t, ept.NoInvalidation, w.Close())
	_, err = w.Map(0, size4K, 0, ept.All|ept.WB.Entry())
	require.ErrorIs(t, err, ept.ErrClosed)
	_, _, ok := w.Lookup(0)
	require.False(t, ok)
	for _, translate := range []func(uint64, ept.Access) (uint64, ept.Fault){w.Translate, w.Touch} {
		func() {
			defer func() { require.ErrorContains(t, asError(recover()), "closed") }()
			translate(0, ept.LinearRead)
		}()
	}
	_, f := x.Translate(0, ept.LinearRead)
	require.Equal(t, ept.Violation, f.Kind)

	x.Close()
	v.Close()
	_, err = s.Map(0, size4K, 0, ept.All|ept.WB.Entry())
	require.ErrorIs(t, err, ept.ErrClosed)
}

func asError(r any) error {
	if s, ok := r.(string); ok {
		return textError(s)
	}
	return nil
}

type textError string

func (e textError) Error() string { return string(e) }

// TestTablesAtZero: entries that map nothing are not taken for references to the table at
// physical address 0.
func TestTablesAtZero(t *testing.T) {
	a, err := ept.NewArena(make([]byte, 20*size4K), 0)
	require.NoError(t, err)
	s, err := ept.New(ept.Config{Pages: a, Mode: ept.Mode{Capabilities: allCapabilities, PhysicalAddressBits: 46}})
	require.NoError(t, err)
	v := s.View(0)
	require.Equal(t, uint64(0), v.Root())
	for i := range uint64(3) {
		_, err := v.Map(i<<39, size1G, 0, ept.All|ept.WB.Entry())
		require.NoError(t, err)
	}
	const hole = 5<<39 | 5<<30 | 5<<21 | 1<<12
	for _, do := range []func() (ept.Invalidation, error){
		func() (ept.Invalidation, error) { return v.Unmap(hole, size4K) },
		func() (ept.Invalidation, error) { return v.Protect(hole, size4K, 0, ept.Write) },
	} {
		due, err := do()
		require.NoError(t, err)
		require.Equal(t, ept.NoInvalidation, due)
	}
	for i := range uint64(3) {
		e, _, ok := v.Lookup(i << 39)
		require.True(t, ok)
		require.Equal(t, ept.All, e&ept.All)
	}
	_, _, ok := v.Lookup(hole)
	require.False(t, ok)
	_, f := v.Translate(hole, ept.LinearRead)
	require.Equal(t, ept.Violation, f.Kind)
}

// halves is memory of one type up to 3 MiB, of another behind it.
type halves struct{}

func (halves) At(hpa uint64) (ept.MemoryType, uint64) {
	if hpa < 3<<20 {
		return ept.WB, 3 << 20
	}
	return ept.UC, 1 << 50
}

// TestReplaceKeepsFlags: of pages that map the same memory, whatever their sizes.
func TestReplaceKeepsFlags(t *testing.T) {
	s, _ := newSpace(t, 20, ept.Config{Mode: ept.Mode{AccessedDirty: true}})
	v := s.View(0)
	dirty := func(gpa uint64) bool {
		e, _, ok := v.Lookup(gpa)
		require.True(t, ok)
		return e&ept.Dirty != 0
	}
	good := func(_ ept.Invalidation, err error) { require.NoError(t, err) }

	good(v.Map(0, 2*size2M, 0, ept.All|ept.WB.Entry()))
	good(v.Split(0, size2M, ept.PTE))
	v.Touch(0x5000, ept.LinearWrite)
	good(v.Replace(0, size2M, 0, ept.ReadWrite|ept.WB.Entry())) // pages become one
	require.True(t, dirty(0))

	v.Touch(size2M, ept.LinearWrite)
	good(v.ReplaceTyped(size2M, size2M, size2M, ept.All, halves{})) // one becomes pages
	require.True(t, dirty(size2M))
	require.True(t, dirty(size2M+size4K))

	good(v.Replace(0, size2M, size2M, ept.All|ept.WB.Entry())) // other memory
	require.False(t, dirty(0))
}

// TestLargestWithout2M: pages of 1 GiB cannot be used where those of 2 MiB that they are
// split into do not exist.
func TestLargestWithout2M(t *testing.T) {
	s, _ := newSpace(t, 600, ept.Config{Mode: ept.Mode{Capabilities: allCapabilities &^ cap2M}})
	v := s.View(0)
	for _, size := range []uint64{size2M, size1G} {
		_, err := v.Map(size, size, size, ept.All|ept.WB.Entry())
		require.NoError(t, err)
		_, l, ok := v.Lookup(size)
		require.True(t, ok)
		require.Equal(t, ept.PTE, l)
		_, f := v.Translate(size, ept.LinearRead)
		require.Equal(t, ept.NoFault, f.Kind)
	}
}

// TestCachedTables: what a processor has in its paging-structure caches goes on to
// translate pages that an operation does not touch as before.
func TestCachedTables(t *testing.T) {
	s, a := newSpace(t, 50, ept.Config{LargestPage: ept.PTE})
	good := func(_ ept.Invalidation, err error) { require.NoError(t, err) }
	v := s.View(0)
	good(v.Map(0, size2M, 0, ept.All|ept.WB.Entry()))
	w, err := v.Clone()
	require.NoError(t, err)
	good(v.Protect(0, size2M, 0, ept.Write))
	good(w.Protect(0, size2M, 0, ept.Execute))

	const page = 5
	type cached struct {
		table  uint64
		rights ept.Entry
	}
	var before []cached
	for view := range s.Views() {
		table, rights := view.Root(), ept.All
		for l := view.Mode().TopLevel(); l > ept.PTE; l-- {
			e, err := view.Entry(table, 0)
			require.NoError(t, err)
			table, rights = e.Address(l), rights&e
		}
		before = append(before, cached{table, rights})
	}
	require.Equal(t, before[0].table, before[1].table)
	good(s.Protect(0, size4K, 0, ept.Read|ept.Write|ept.Execute))
	for i, c := range before {
		e, _, _ := s.View(i).Lookup(page * size4K)
		require.Equal(t, e&ept.All, a.Page(c.table)[page]&c.rights, "view %d", i)
	}
	s.Reclaim()
	for view := range s.Views() {
		view.Close()
	}
	s.Reclaim()
	require.Equal(t, 0, a.Used())
}
