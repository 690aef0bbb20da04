package ept_test

import (
	"syscall"
	"testing"

	"github.com/govtx/vtx/ept"
	"github.com/govtx/vtx/internal/require"
	"github.com/govtx/vtx/ring0"
)

// BenchmarkMap64GiBFresh is BenchmarkMap64GiB with memory that the operating system has
// to find first, for both.
func BenchmarkMap64GiBFresh(b *testing.B) {
	if ring0.Active() {
		b.Skip("needs 260 MB of memory")
	}
	fresh := func() []byte {
		mem, err := syscall.Mmap(-1, 0, benchPages*4096, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
		require.NoError(b, err)
		return mem
	}
	var w, bound stopwatch
	for b.Loop() {
		mem := fresh()
		s, _ := benchSpace(b, mem, ept.PTE, false)
		w.time(func() { check(b)(s.Map(0, benchSmall, 0, benchAttr)) })
		require.NoError(b, syscall.Munmap(mem))

		mem = fresh()
		a, err := ept.NewArena(mem, benchPhys)
		require.NoError(b, err)
		t, _ := a.Window()
		bound.time(func() { loop(t[:benchSmall>>21], benchAttr, 4096) })
		require.NoError(b, syscall.Munmap(mem))
	}
	report(b, w, bound, "x-loop", benchSmall>>12)
}
