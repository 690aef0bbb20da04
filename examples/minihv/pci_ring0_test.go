package main

import (
	"testing"

	"github.com/govtx/vtx/asm"
	"github.com/govtx/vtx/internal/require"
	"github.com/govtx/vtx/internal/ring0test"
	"pgregory.net/rapid"
)

// On the machine itself: its bridges say the same of themselves, and take the same interrupt
// routes; it has devices that the guest does not see.
func TestPCIAsOnTheMachine(t *testing.T) {
	ring0test.Need(t)
	before := asm.IN32(pciAddress)
	defer asm.OUT32(pciAddress, before)
	if id := pciSpace(in, out, atHost)[0]; id != 0x12378086 {
		t.Skipf("needs a machine with an 82441FX as its host bridge, not %#x", id)
	}
	b := newPCIBus(0xb004)
	emulated := func(port uint16, size int) uint32 {
		v, err := b.In(port, size)
		require.NoError(t, err)
		return v
	}
	write := func(port uint16, size int, v uint32) { require.NoError(t, b.Out(port, size, v)) }
	for _, tt := range []struct {
		function  uint32
		registers []int // in which both are the same
	}{
		{atHost, []int{0x00, 0x04, 0x08, 0x0c, 0x10, 0x14, 0x18, 0x1c, 0x20, 0x24, 0x30, 0x34, 0x3c}},
		{atISA, []int{0x00, 0x04, 0x08, 0x0c, 0x10, 0x14, 0x18, 0x1c, 0x20, 0x24, 0x30, 0x34, 0x3c, 0x60}},
		{atPM, []int{0x00, 0x08, 0x0c, 0x10, 0x14, 0x18, 0x1c, 0x20, 0x24, 0x30, 0x34, 0x3c, 0x40, 0x80}},
	} {
		real, ours := pciSpace(in, out, tt.function), pciSpace(emulated, write, tt.function)
		for _, r := range tt.registers {
			require.Equal(t, real[r/4], ours[r/4], "function %#x, register %#x", tt.function, r)
		}
	}
	const atIDE = atISA | 1<<8
	require.Equal(t, uint32(0x70108086), pciSpace(in, out, atIDE)[0])
	require.Equal(t, ^uint32(0), pciSpace(emulated, write, atIDE)[0])

	out(pciAddress, 4, atISA|0x60)
	routes := in(pciData, 4)
	defer func() {
		out(pciAddress, 4, atISA|0x60)
		out(pciData, 4, routes)
	}()
	rapid.Check(t, func(t *rapid.T) {
		out(pciAddress, 4, atISA|0x60)
		write(pciAddress, 4, atISA|0x60)
		size := rapid.SampledFrom([]int{1, 2, 4}).Draw(t, "size")
		port := pciData + uint16(rapid.IntRange(0, 4/size-1).Draw(t, "at")*size)
		if rapid.Bool().Draw(t, "writes") {
			v := uint32(0)
			for i := range size { // Bochs ends at IRQs that are another device's
				v |= rapid.SampledFrom([]uint32{9, 10, 11, 0x80}).Draw(t, "route") << (8 * i)
			}
			out(port, size, v)
			write(port, size, v)
		}
		require.Equal(t, in(port, size), emulated(port, size)&(1<<(8*size)-1), "port %#x, %d bytes", port, size)
		require.Equal(t, in(pciData, 4), emulated(pciData, 4))
	})
}
