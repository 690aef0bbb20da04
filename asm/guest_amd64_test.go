package asm_test

import (
	"encoding/binary"
	"testing"
	"unsafe"

	"github.com/govtx/vtx/internal/require"
	"pgregory.net/rapid"

	"github.com/govtx/vtx/asm"
)

func TestKeepVector(t *testing.T) {
	var g asm.Guest
	require.Nil(t, g.Vector())
	require.NoError(t, g.KeepVector())
	v := g.Vector()
	require.Zero(t, uintptr(unsafe.Pointer(&v[0]))%64)
	require.Equal(t, uint16(0x37f), binary.LittleEndian.Uint16(v))
	require.Equal(t, uint32(0x1f80), binary.LittleEndian.Uint32(v[24:]))
	_, _, c, _ := asm.CPUID(1, 0)
	if c>>27&1 == 0 {
		require.Len(t, v, 512)
		require.ErrorContains(t, g.SetXCR0(1), "KeepVector")
		return
	}
	_, size, _, _ := asm.CPUID(0xd, 0)
	require.Len(t, v, int(size))
	asm.XSAVE(v, asm.XGETBV(0)) // it is large enough by this package's own rule, too
}

func TestSetXCR0(t *testing.T) {
	var g asm.Guest
	require.NoError(t, g.SetXCR0(0))
	require.ErrorContains(t, g.SetXCR0(1), "KeepVector")
	_, _, c, _ := asm.CPUID(1, 0)
	if c>>27&1 == 0 {
		t.Skip("CR4.OSXSAVE is clear")
	}
	require.NoError(t, g.KeepVector())
	host := asm.XGETBV(0)
	for _, v := range []uint64{1, 3, host, 0, 1} {
		require.NoError(t, g.SetXCR0(v))
		if v == host {
			v = 0 // needs no switch
		}
		require.Equal(t, v, g.XCR0())
	}
	for _, bad := range []uint64{2, 5, 9, 0x21, 1 << 63, ^host, host &^ 1, host | 1<<62} {
		require.Error(t, g.SetXCR0(bad), "0x%x", bad)
	}
	require.Equal(t, uint64(1), g.XCR0(), "a refused value changes nothing")

	// Whatever is accepted is the host's, and as SDM Vol. 1 13.3 wants it.
	rapid.Check(t, func(t *rapid.T) {
		v := rapid.Uint64().Draw(t, "v")
		if rapid.Bool().Draw(t, "likely") {
			v &= host
		}
		if g.SetXCR0(v) != nil || v == 0 {
			return
		}
		with := func(bits, need uint64) bool { return v&bits == 0 || v&need == need }
		if v&^host != 0 || v&1 == 0 || !with(4, 2) || !with(0x18, 0x18) || !with(0xe0, 0xe6) || !with(3<<17, 3<<17) {
			t.Fatalf("0x%x accepted", v)
		}
	})
}

func TestGuestReset(t *testing.T) {
	g := asm.Guest{RIP: 1, CR2: 2}
	g.Regs[asm.R15] = 3
	require.False(t, g.Launched())
	g.Reset()
	require.Equal(t, asm.Guest{RIP: 1, CR2: 2, Regs: [16]uint64{asm.R15: 3}}, g)
}

// The registers' numbers are those of SDM Vol. 3C table 28-3 (qualification for
// control-register accesses).
func TestRegisterNumbers(t *testing.T) {
	require.Equal(t, []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 15},
		[]int{asm.RAX, asm.RCX, asm.RDX, asm.RBX, asm.RSP, asm.RBP, asm.RSI, asm.RDI, asm.R8, asm.R15})
}
