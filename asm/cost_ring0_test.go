package asm_test

import (
	"testing"

	"github.com/govtx/vtx/asm"
	"github.com/govtx/vtx/internal/require"
	"github.com/govtx/vtx/internal/ring0test"
)

// What a VM exit costs, in TSC ticks: on Bochs these are instructions, exact
// and the same in every run. Interrupts are off while it is measured. The
// figures include the guest's own instruction, the call of Enter and the loop.

// exitsPerRun is how many times the guest's page of CPUIDs exits.
const exitsPerRun = 1000

// costs are the round trips that are measured.
var costs = []struct {
	name    string
	vector  bool
	xcr0    uint64
	advance bool   // go on behind the instruction: Enter writes GUEST_RIP
	limit   uint64 // instructions on Bochs
}{
	{"empty", false, 0, false, 100},
	{"advance", false, 0, true, 100},
	{"vector", true, 0, false, 120},
	{"vector-advance", true, 0, true, 120},
	{"vector-xcr0-advance", true, 3, true, 130},
}

func costVM(t testing.TB, vector bool, xcr0 uint64) *vm {
	var code []byte
	for range exitsPerRun {
		code = append(code, 0x0f, 0xa2) // cpuid
	}
	v := newVM(t, code...)
	if vector {
		require.NoError(t, v.KeepVector())
	}
	if err := v.SetXCR0(xcr0); err != nil {
		t.Skip(err)
	}
	return v
}

// run enters the guest exitsPerRun times and returns the ticks that took.
func (v *vm) run(advance bool) uint64 {
	v.RIP = v.code.Phys()
	v.enter(reasonCPUID) // what a first entry writes is not counted
	g := &v.Guest
	return ring0test.Ticks(func() { enterOften(g, advance) })
}

//go:noinline
func enterOften(g *asm.Guest, advance bool) {
	if advance {
		for range exitsPerRun - 1 {
			g.RIP += uint64(g.InstructionLength)
			g.Enter()
		}
		return
	}
	for range exitsPerRun - 1 {
		g.Enter()
	}
}

// TestEnterCost holds Enter to its bounds.
func TestEnterCost(t *testing.T) {
	for _, c := range costs {
		t.Run(c.name, func(t *testing.T) {
			v := costVM(t, c.vector, c.xcr0)
			ticks := ring0test.Least(func() uint64 { return v.run(c.advance) }) / (exitsPerRun - 1)
			require.Equal(t, uint32(reasonCPUID), v.Reason)
			if c.advance {
				require.Equal(t, v.code.Phys()+2*(exitsPerRun-1), v.RIP)
			}
			t.Logf("%d ticks a round trip", ticks)
			if ring0test.Counted() {
				require.LessOrEqual(t, ticks, c.limit)
				require.Greater(t, ticks, uint64(40), "it saves and loads 30 registers at least")
			}
		})
	}
}

func BenchmarkEnter(b *testing.B) {
	for _, c := range costs {
		b.Run(c.name, func(b *testing.B) {
			v := costVM(b, c.vector, c.xcr0)
			ticks, exits := uint64(0), 0
			for b.Loop() {
				ticks += v.run(c.advance)
				exits += exitsPerRun - 1
			}
			b.ReportMetric(float64(ticks)/float64(exits), "ticks/exit")
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(exits), "ns/exit")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// What a single VMREAD and VMWRITE cost a caller in Go.
func BenchmarkFields(b *testing.B) {
	v := newVM(b, 0xf4)
	const n = 1000
	for name, f := range map[string]func(){
		"VMREAD": func() {
			for range n {
				asm.VMREAD(fieldReason)
			}
		},
		"VMWRITE": func() {
			for range n {
				asm.VMWRITE(fieldGuestRFLAGS, 2)
			}
		},
	} {
		b.Run(name, func(b *testing.B) {
			ticks, calls := uint64(0), 0
			for b.Loop() {
				ticks += ring0test.Ticks(f)
				calls += n
			}
			b.ReportMetric(float64(ticks)/float64(calls), "ticks/call")
			b.ReportMetric(0, "ns/op")
		})
	}
	_ = v
}
