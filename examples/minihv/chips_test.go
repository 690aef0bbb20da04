package main

import (
	"testing"

	"github.com/govtx/vtx/internal/require"
)

// What is written to chips: what programs for PCs write is as it was, and of the rest comes
// through what the machine takes.
func TestFilters(t *testing.T) {
	const dropped = 0x100
	type write struct {
		port uint16
		v    uint8
		want uint16
	}
	for _, tt := range []struct {
		name   string
		f      filter
		writes []write
	}{
		{"8259A as Linux starts it", &interruptController{wire: 4}, []write{
			{0x20, 0x11, 0x11}, {0x21, 0x30, 0x30}, {0x21, 0x04, 0x04}, {0x21, 0x01, 0x01}, {0x21, 0xfb, 0xfb}, {0x20, 0x20, 0x20}, {0x20, 0x0b, 0x0b}, {0x20, 0x62, 0x62}}},
		{"8259A single, level-triggered, for an 8085", &interruptController{wire: 2}, []write{
			{0xa0, 0x1b, 0x11}, {0xa1, 0xff, 0xff}, {0xa1, 0x07, 0x02}, {0xa1, 0x00, 0x01}, {0xa1, 0x00, 0x00}}},
		{"8259A without ICW4", &interruptController{wire: 2}, []write{
			{0xa0, 0x10, 0x10}, {0xa1, 0x70, 0x70}, {0xa1, 0xff, 0x02}, {0xa1, 0xfe, 0xfe}}},
		{"8259A, commands", new(interruptController), []write{
			{0x20, 0x25, 0x20}, {0x20, 0x01, 0x00}, {0x20, 0xa7, 0xa0}, {0x20, 0xc5, 0xc5}, {0x20, 0xe1, 0xe1}, {0x20, 0x87, 0x80}, {0x20, 0x6c, 0x6c}}},
		{"clock", new(clock), []write{
			{0x70, 0x8a, 0x8a}, {0x71, 0x26, 0x26}, {0x71, 0x56, 0x26}, {0x71, 0x06, 0x26}, {0x71, 0x7f, 0x7f}, {0x71, 0x66, 0x66},
			{0x70, 0x0b, 0x0b}, {0x71, 0xff, 0xff}, {0x70, 0x0e, 0x0e}, {0x71, 0x01, dropped}, {0x70, 0xff, 0xff}, {0x71, 0x01, dropped}}},
		{"display", new(display), []write{
			{0x3d4, 0x0f, 0x0f}, {0x3d5, 0xff, 0xff}, {0x3d4, 0x0c, 0x0c}, {0x3d5, 0xff, 0x3f}, {0x3d4, 0x0a, 0x0a}, {0x3d5, 0x20, 0x20},
			{0x3d4, 0x10, 0x10}, {0x3d5, 0, dropped}, {0x3d4, 0x09, 0x09}, {0x3d5, 0, dropped},
			{0x3c2, 0, dropped}, {0x3c5, 0, dropped}, {0x3cf, 0, dropped}, {0x3c0, 0, dropped}, {0x3b5, 0, dropped}}},
		{"keyboard controller", new(keyboard), []write{
			{0x64, 0x60, 0x60}, {0x60, 0x47, 0x47}, {0x64, 0xd1, 0xd1}, {0x60, 0, 3}, {0x60, 0xed, 0xed}, {0x60, 0xfe, dropped},
			{0x64, 0xad, 0xad}, {0x64, 0xae, 0xae}, {0x64, 0xdf, 0xdf}, {0x64, 0xdd, dropped}, {0x64, 0xc1, dropped}, {0x64, 0xe0, dropped},
			{0x64, 0xff, dropped}, {0x64, 0xd1, 0xd1}, {0x64, 0xa7, 0xa7}, {0x60, 0, 0}}},
	} {
		for i, w := range tt.writes {
			v, ok := tt.f.pass(w.port, w.v)
			got := uint16(v)
			if !ok {
				got = dropped
			}
			require.Equal(t, w.want, got, "%s: %d: port %#x, %#x", tt.name, i, w.port, w.v)
		}
	}
}

// Accesses that reach ports which are not passed through reach nothing.
func TestDirect(t *testing.T) {
	d := new(direct)
	d[0x61], d[0xffff], d[0] = true, true, true
	require.True(t, d.all(0x61, 1))
	require.False(t, d.all(0x61, 2))
	require.False(t, d.all(0x60, 2))
	require.True(t, d.all(0xffff, 2))
	require.False(t, d.all(0xffff, 4))
	v, err := d.In(0x60, 2)
	require.NoError(t, err)
	require.Equal(t, ^uint32(0), v)
}

// newPage returns a page of registers that are memory.
func newPage() registers { return make(registers, pageSize) }

func TestIOAPIC(t *testing.T) {
	r := newPage()
	a := &ioAPIC{registers: r, last: 0x3f}
	for _, tt := range []struct {
		selected uint32
		exists   bool
	}{{0, true}, {2, true}, {3, false}, {0xf, false}, {0x10, true}, {0x3f, true}, {0x40, false}, {0xff, false}} {
		clear(r)
		a.store(ioapicSelect, 0xabcdef00|tt.selected)
		require.Equal(t, tt.selected, a.load(ioapicSelect))
		a.store(ioapicWindow, 0x12345678)
		want, real := ^uint32(0), uint32(0)
		if tt.exists {
			want, real = 0x12345678, tt.selected
		}
		require.Equal(t, want, a.load(ioapicWindow), "%#x", tt.selected)
		require.Equal(t, real, r.load(ioapicSelect))
		a.store(0x20, 1)
		require.Equal(t, ^uint32(0), a.load(0x20))
		require.Zero(t, r.load(0x20))
	}
}

func TestLocalAPIC(t *testing.T) {
	r := newPage()
	a := localAPIC{r}
	for _, tt := range []struct{ offset, v, want uint32 }{
		{0x80, 0x20, 0x20}, {0xe0, 0xffffffff, 0xffffffff}, {0xe0, 0x1fffffff, 0}, {0xe0, 0x0fffffff, 0x0fffffff}, {0x3f0, 1, 1}, {0x400, 1, 0}, {0xff0, 1, 0},
	} {
		clear(r)
		a.store(tt.offset, tt.v)
		require.Equal(t, tt.want, r.load(tt.offset), "%#x %#x", tt.offset, tt.v)
	}
	require.Equal(t, ^uint32(0), a.load(0x400))

	clear(r)
	r.store(apicID, 3<<24)
	r.store(apicLogical, 2<<24)
	for _, tt := range []struct {
		command, to uint32
		resets      bool
	}{
		{0x4500, 3, true}, {0x4500, 0xff, true}, {0x4500, 2, false}, {0x4d00, 2, true}, {0x4d00, 4, false},
		{0x84500, 0, true}, {0xc4500, 3, false}, {0x44500, 3, false}, {0x8500, 3, false}, {0xc500, 3, true}, {0x4400, 3, false}, {0x4600, 3, false},
	} {
		r.store(apicCommandHigh, tt.to<<24)
		require.Equal(t, tt.resets, a.resets(apicCommand, tt.command), "%#x to %#x", tt.command, tt.to)
		require.False(t, a.resets(apicCommandHigh, tt.command))
	}
}
