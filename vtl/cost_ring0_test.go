package vtl_test

import (
	"testing"

	"github.com/govtx/vtx/hypercall"
	"github.com/govtx/vtx/internal/require"
	"github.com/govtx/vtx/internal/ring0test"
	"github.com/govtx/vtx/vtl"
)

// What events cost, in TSC ticks: on Bochs these are instructions, exact and the same in
// every run. Interrupts are off while it is measured.

const eventsPerRun = 1000

// costs are what is measured, with what it may cost on Bochs. What run returns is how
// many events there are in it.
var costs = []struct {
	name  string
	limit uint64
	run   func(t testing.TB) (f func(), events uint64)
}{
	{"VTL call and return, fast", 320, func(t testing.TB) (func(), uint64) { return roundTrips(t, fastTrap), eventsPerRun }},
	{"VTL call and return", 330, func(t testing.TB) (func(), uint64) { return roundTrips(t, returnTrap), eventsPerRun }},
	{"interrupt of VTL1 and return", 800, func(t testing.TB) (func(), uint64) {
		r := switching(t)
		return func() {
			for range eventsPerRun {
				r.e.Reset()
				r.Interrupt(0, 1, vtl.Fixed, 0x40, &r.e)
				r.Accept(0)
				r.EOI(0, &r.e)
				r.Return(0, fastTrap, &r.e)
			}
		}, eventsPerRun
	}},
	{"page protected", 100, func(t testing.TB) (func(), uint64) {
		r, pages := protecting(t)
		in := hypercall.ModifyVtlProtectionMaskInput{PartitionID: hypercall.PartitionSelf, TargetVTL: hypercall.TargetVTL(0)}
		return func() {
			in.MapFlags ^= hypercall.MapReadable
			r.e.Reset()
			for p := pages; len(p) > 0; {
				n := min(len(p), hypercall.DefaultBudget)
				r.ModifyProtection(0, &in, p[:n], &r.e)
				p = p[n:]
			}
		}, uint64(len(pages))
	}},
	{"access allowed", 300, func(t testing.TB) (func(), uint64) {
		r, pages := protecting(t)
		_, s := r.protect(0, hypercall.TargetVTL(0), vtl.Read, pages...)
		require.Equal(t, ok, s)
		r.ret(0)
		r.e.Reset()
		return func() {
			for range eventsPerRun {
				r.Access(0, 0x180, vtl.Reading, &r.e)
			}
		}, eventsPerRun
	}},
}

func roundTrips(t testing.TB, back vtl.Trap) func() {
	r := switching(t)
	return func() {
		for range eventsPerRun {
			r.e.Reset()
			r.Call(0, callTrap, &r.e)
			r.e.Reset()
			r.Return(0, back, &r.e)
		}
	}
}

// TestEventCost holds events to their bounds.
func TestEventCost(t *testing.T) {
	ring0test.Need(t)
	for _, c := range costs {
		f, events := c.run(t)
		f() // memory grows, once
		n := ring0test.Least(func() uint64 { return ring0test.Ticks(f) }) / events
		t.Logf("%s: %d ticks", c.name, n)
		if ring0test.Counted() {
			require.LessOrEqual(t, n, c.limit, "%s", c.name)
			require.Greater(t, n, uint64(10), "%s", c.name)
		}
	}
}

// BenchmarkEvent counts the instructions of events on Bochs.
func BenchmarkEvent(b *testing.B) {
	ring0test.Need(b)
	for _, c := range costs {
		b.Run(c.name, func(b *testing.B) {
			f, events := c.run(b)
			f()
			total, n := uint64(0), uint64(0)
			for b.Loop() {
				total += ring0test.Ticks(f)
				n += events
			}
			b.ReportMetric(float64(total)/float64(n), "ticks/event")
			b.ReportMetric(0, "ns/op")
		})
	}
}
