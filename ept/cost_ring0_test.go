package ept_test

import (
	"testing"

	"github.com/govtx/vtx/ept"
	"github.com/govtx/vtx/internal/require"
	"github.com/govtx/vtx/internal/ring0test"
)

// What calls for one page of 4 KiB cost in TSC ticks: on Bochs these are instructions, exact and
// the same in every run. The loop that makes the calls is measured by itself and taken off. The
// walks by hand are what benchmarks compare with.
func TestPageCost(t *testing.T) {
	ring0test.Need(t)
	const (
		size = 64 << 20
		n    = size >> 13
	)
	v, arena, _ := walkSpace(t, size)
	tables, phys := arena.Window()
	walk := &raw{tables, phys, arena.Page(v.Root())}
	// Every other page, in no order.
	page := func(i uint64) uint64 { return (i*0x9e3779b1&(n-1)*2 + 1) << 12 }
	ok := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	loop := uint64(0)
	for _, c := range []struct {
		name  string
		limit uint64
		run   func(gpa uint64)
	}{
		{"loop", 30, func(gpa uint64) { sink += gpa }},
		{"plain walk", 80, func(gpa uint64) { sink += rawWalk(tables, phys, v.Root(), gpa) }},
		{"raw walk", 90, func(gpa uint64) { sink += uint64(*walk.entry(gpa))&walkMask | gpa&4095 }},
		{"full walk", 90, func(gpa uint64) {
			hpa, allowed := walk.full(gpa, ept.Read)
			if !allowed {
				t.Fatal("not readable")
			}
			sink += hpa
		}},
		{"Translate", 115, func(gpa uint64) {
			hpa, f := v.Translate(gpa, ept.LinearRead)
			if f.Kind != ept.NoFault {
				t.Fatal(f)
			}
			sink += hpa
		}},
		{"Lookup", 95, func(gpa uint64) { e, _, _ := v.Lookup(gpa); sink += uint64(e) }},
		{"Protect", 140, func(gpa uint64) { _, err := v.Protect(gpa, 4096, 0, ept.Write); ok(err) }},
		{"Unmap", 150, func(gpa uint64) { _, err := v.Unmap(gpa, 4096); ok(err) }},
		// The first of them finds no page that was mapped before.
		{"Map", 170, func(gpa uint64) { _, err := v.Map(gpa, 4096, gpa, benchAttr); ok(err) }},
	} {
		ticks := ring0test.Ticks(func() {
			for i := range uint64(n) {
				c.run(page(i))
			}
		}) / n
		if c.name == "loop" {
			loop = ticks
		} else {
			ticks -= loop
		}
		t.Logf("%s: %d ticks", c.name, ticks)
		if ring0test.Counted() {
			require.LessOrEqual(t, ticks, c.limit, "%s", c.name)
		}
	}
}
