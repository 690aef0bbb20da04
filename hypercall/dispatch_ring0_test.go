package hypercall_test

import (
	"testing"

	"github.com/govtx/vtx/hypercall"
	"github.com/govtx/vtx/internal/require"
	"github.com/govtx/vtx/internal/ring0test"
)

// What Dispatch costs in TSC ticks: on Bochs these are instructions, exact and the same in
// every run. What the test does for each call, setting three registers and calling through
// a variable, is measured by itself and taken off.

// ticks returns what a run of f takes.
func ticks(f func()) uint64 {
	const runs = 1000
	f() // what a first run alone does is not counted
	return ring0test.Least(func() uint64 {
		return ring0test.Ticks(func() {
			for range runs {
				f()
			}
		})
	}) / runs
}

func TestDispatchCost(t *testing.T) {
	ring0test.Need(t)
	limits := map[string]uint64{
		"null-fast": 90, "null": 270, "null-32": 290, "fast-16": 90, "xmm-24-24": 620, "memory-16-16": 760,
		"rep-64": 560, "rep-64-output": 1100, "unknown": 130, "typed-16": 165, "typed-rep-64": 5600,
	}
	d := costDispatcher(t)
	measure := func(name string, d *hypercall.Dispatcher, w hypercall.Input, mode hypercall.Mode) {
		p := newProcessor()
		p.mode = mode
		empty := ticks(func() { p.set(w, 0, 4096) })
		n := ticks(costRun(d, w, mode)) - empty
		t.Logf("%s: %d ticks", name, n)
		if ring0test.Counted() {
			require.LessOrEqual(t, n, limits[name], "%s", name)
			require.Greater(t, n, uint64(20), "%s: it has to look at the call", name)
		}
	}
	for _, c := range costCalls {
		measure(c.name, d, c.word, c.mode)
	}
	typed, err := hypercall.NewDispatcher(hypercall.Config{},
		hypercall.SimpleFunc(hypercall.Code(0x1001), func(c *hypercall.Call, in hypercall.SignalEventInput) hypercall.Status { return success }),
		hypercall.Handler{Code: 0x1002, Layout: hypercall.Layout{Input: 16, InputElement: 8},
			Rep: hypercall.RepFunc(hypercall.CodeModifyVtlProtectionMask, func(*hypercall.Call, hypercall.ModifyVtlProtectionMaskInput, hypercall.Uint64) hypercall.Status {
				return success
			}).Rep})
	require.NoError(t, err)
	measure("typed-16", typed, 0x1_1001, hypercall.Mode64)
	measure("typed-rep-64", typed, 64<<32|0x1002, hypercall.Mode64)
}
