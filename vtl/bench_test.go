package vtl_test

import (
	"testing"

	"github.com/govtx/vtx/hypercall"
	"github.com/govtx/vtx/internal/require"
	"github.com/govtx/vtx/internal/ring0test"
	"github.com/govtx/vtx/vtl"
)

// switching has VTL1 with an assist page; VTL0 runs.
func switching(t testing.TB) *rig {
	r := twoLevels(t, vtl.Config{})
	r.SetAssistPage(0, 1, 0x123001)
	r.e.Reset()
	return r
}

func BenchmarkCallReturn(b *testing.B) {
	r := switching(b)
	b.ReportAllocs()
	for b.Loop() {
		r.e.Reset()
		r.Call(0, callTrap, &r.e)
		r.e.Reset()
		r.Return(0, fastTrap, &r.e)
	}
}

// protecting has VTL1 running, which protects 4,096 pages.
func protecting(t testing.TB) (r *rig, pages []uint64) {
	r = twoLevels(t, vtl.Config{RAM: []vtl.Range{{Page: 0x100, Pages: 1 << 20}}})
	r.call(0)
	r.protectOn(0)
	for i := range uint64(4096) {
		pages = append(pages, 0x100+i)
	}
	return r, pages
}

func BenchmarkModifyProtection(b *testing.B) {
	r, pages := protecting(b)
	in := hypercall.ModifyVtlProtectionMaskInput{PartitionID: hypercall.PartitionSelf, TargetVTL: hypercall.TargetVTL(0)}
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		in.MapFlags ^= hypercall.MapReadable
		r.e.Reset()
		done, _ := r.ModifyProtection(0, &in, pages, &r.e)
		n += done
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(n), "ns/page")
}

func BenchmarkAccess(b *testing.B) {
	r, pages := protecting(b)
	_, s := r.protect(0, hypercall.TargetVTL(0), vtl.Read, pages...)
	require.Equal(b, ok, s)
	r.ret(0)
	b.ReportAllocs()
	for b.Loop() {
		r.Access(0, 0x180, vtl.Reading, &r.e)
	}
}

func BenchmarkClone(b *testing.B) {
	r, pages := protecting(b)
	_, s := r.protect(0, hypercall.TargetVTL(0), vtl.Read, pages[:4]...)
	require.Equal(b, ok, s)
	for b.Loop() {
		r.Clone()
	}
}

// The way from an exit to the next entry allocates nothing.
func TestAllocations(t *testing.T) {
	if !ring0test.Optimised() {
		t.Skip("not optimised")
	}
	r := switching(t)
	require.Zero(t, testing.AllocsPerRun(100, func() {
		r.e.Reset()
		r.Call(0, callTrap, &r.e)
		r.Return(0, returnTrap, &r.e)
		r.Interrupt(0, 1, vtl.Fixed, 0x40, &r.e)
		r.Accept(0)
		r.EOI(0, &r.e)
		r.Return(0, fastTrap, &r.e)
	}))
	p, pages := protecting(t)
	p.ret(0)
	p.call(0)
	in := hypercall.ModifyVtlProtectionMaskInput{PartitionID: hypercall.PartitionSelf, TargetVTL: hypercall.TargetVTL(0)}
	require.Zero(t, testing.AllocsPerRun(10, func() {
		in.MapFlags ^= hypercall.MapReadable
		p.e.Reset()
		p.ModifyProtection(0, &in, pages[:100], &p.e)
	}))
}
