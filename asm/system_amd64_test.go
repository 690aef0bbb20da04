package asm_test

import (
	"encoding/binary"
	"math/bits"
	"testing"

	"github.com/govtx/vtx/internal/require"
	"pgregory.net/rapid"

	"github.com/govtx/vtx/asm"
)

func TestCPUID(t *testing.T) {
	top, b, c, d := asm.CPUID(0, 0)
	require.NotZero(t, top)
	var vendor [12]byte
	for i, r := range []uint32{b, d, c} {
		binary.LittleEndian.PutUint32(vendor[i*4:], r)
	}
	for _, ch := range vendor {
		require.True(t, ch >= ' ' && ch <= '~', "vendor %q", vendor)
	}
	_, _, _, d = asm.CPUID(1, 0)
	require.NotZero(t, d>>26&1, "every amd64 processor has SSE2")
	if top >= 0xd {
		// The subleaf reaches ECX: leaf 0xd answers to 2 with AVX's offset.
		if _, _, c, _ = asm.CPUID(1, 0); c>>28&1 != 0 {
			_, offset, _, _ := asm.CPUID(0xd, 2)
			require.Equal(t, uint32(576), offset)
		}
	}
}

func TestTSC(t *testing.T) {
	last := uint64(0)
	for range 1000 {
		now := asm.RDTSC()
		require.Greater(t, now, last)
		last = now
	}
	if asm.Try(func() { asm.RDTSCP() }) == nil {
		now, _ := asm.RDTSCP()
		require.Greater(t, now, last)
		require.Greater(t, asm.RDTSC(), now)
	}
}

func TestSelectors(t *testing.T) {
	cs, ss := asm.ReadCS(), asm.ReadSS()
	require.Contains(t, []uint16{0, 3}, cs&3)
	if cs&3 == 3 {
		require.Equal(t, uint16(3), ss&3)
	}
	for _, s := range []uint16{asm.ReadDS(), asm.ReadES(), asm.ReadFS(), asm.ReadGS()} {
		require.LessOrEqual(t, cs&3, s&3|cs&3)
	}

	// LAR's bits are those of a descriptor's second doubleword: S, code, present,
	// long (SDM Vol. 3A 3.4.5).
	rights, ok := asm.LAR(cs)
	require.True(t, ok)
	require.Equal(t, uint32(1<<12|1<<11|1<<15|1<<21), rights&(1<<12|1<<11|1<<15|1<<21|1<<22))
	_, ok = asm.LSL(cs)
	require.True(t, ok)

	for _, null := range []uint16{0, 3, 0xfff8} {
		rights, ok = asm.LAR(null)
		require.False(t, ok)
		require.Zero(t, rights)
		limit, ok := asm.LSL(null)
		require.False(t, ok)
		require.Zero(t, limit)
	}
}

func TestRFLAGS(t *testing.T) {
	f := asm.ReadRFLAGS()
	require.NotZero(t, f&2, "bit 1 is always set")
	require.Zero(t, f&(1<<3|1<<5|1<<15|1<<10), "bits that are always clear, and DF, which Go wants clear")
	asm.PAUSE()
}

func TestDebugRegisterNumbers(t *testing.T) {
	for _, n := range []int{-1, 4, 5, 8, 64, 1 << 40} {
		require.ErrorIs(t, asm.Try(func() { asm.ReadDR(n) }), asm.ErrOperand)
		require.ErrorIs(t, asm.Try(func() { asm.WriteDR(n, 0) }), asm.ErrOperand)
	}
}

func TestXGETBV(t *testing.T) {
	_, _, c, _ := asm.CPUID(1, 0)
	if c>>27&1 == 0 {
		if !inRing0() {
			require.ErrorIs(t, asm.Try(func() { asm.XGETBV(0) }), asm.ErrNotSupported)
		}
		t.Skip("CR4.OSXSAVE is clear")
	}
	xcr0 := asm.XGETBV(0)
	require.Equal(t, uint64(3), xcr0&3, "x87 and SSE")
	a, _, _, d := asm.CPUID(0xd, 0)
	require.Zero(t, xcr0&^(uint64(d)<<32|uint64(a)))
	if !inRing0() {
		for _, i := range []uint32{2, 3, 1 << 31} {
			require.ErrorIs(t, asm.Try(func() { asm.XGETBV(i) }), asm.ErrOperand)
		}
	}
}

func TestXSAVESize(t *testing.T) {
	_, _, c, _ := asm.CPUID(1, 0)
	if c>>26&1 == 0 {
		require.Zero(t, asm.XSAVESize(^uint64(0)))
		t.Skip("no XSAVE")
	}
	require.Equal(t, 576, asm.XSAVESize(0))
	require.Equal(t, 576, asm.XSAVESize(3))
	if c>>27&1 != 0 {
		_, enabled, _, _ := asm.CPUID(0xd, 0)
		require.Equal(t, int(enabled), asm.XSAVESize(asm.XGETBV(0)), "what CPUID says the components in XCR0 take")
	}
	rapid.Check(t, func(t *rapid.T) {
		m, n := rapid.Uint64().Draw(t, "m"), rapid.Uint64().Draw(t, "n")
		if got := asm.XSAVESize(m | n); got != max(asm.XSAVESize(m), asm.XSAVESize(n)) {
			t.Fatalf("size of the union is %d", got)
		}
	})
}

func TestXSAVE(t *testing.T) {
	_, _, c, _ := asm.CPUID(1, 0)
	if c>>27&1 == 0 {
		t.Skip("CR4.OSXSAVE is clear")
	}
	mask := asm.XGETBV(0) & 7
	n := asm.XSAVESize(mask)
	area := aligned(64, n)
	asm.XSAVE(area, mask)
	require.Equal(t, uint32(0x1f80), binary.LittleEndian.Uint32(area[24:])&^0x3f, "Go's MXCSR, but for its sticky flags")
	require.Equal(t, uint16(0x37f), binary.LittleEndian.Uint16(area))
	require.Zero(t, binary.LittleEndian.Uint64(area[512:])&^mask, "XSTATE_BV")

	// What is restored is there to be saved: x87's ST0 to ST7, which Go does not
	// use.
	for i := range 80 {
		area[32+i/10*16+i%10] = byte(i)
	}
	area[4] = 0xff // no register is empty
	binary.LittleEndian.PutUint64(area[512:], 3)
	asm.XRSTOR(area, 3)
	again := aligned(64, n)
	asm.XSAVE(again, 1)
	require.Equal(t, area[32:160], again[32:160])

	init := aligned(64, n)
	binary.LittleEndian.PutUint32(init[24:], 0x1f80)
	asm.XRSTOR(init, 3)
	asm.XSAVE(again, 1)
	if binary.LittleEndian.Uint64(again[512:])&1 != 0 { // else it is in its initial state by definition
		require.Zero(t, again[4], "every register is empty")
	}
}

func TestFXSAVE(t *testing.T) {
	area := (*[512]byte)(aligned(16, 512))
	asm.FXSAVE(area)
	require.Equal(t, uint32(0x1f80), binary.LittleEndian.Uint32(area[24:])&^0x3f)
	saved := *area

	for i := range 80 {
		area[32+i/10*16+i%10] = byte(^i)
	}
	area[4] = 0x55
	asm.FXRSTOR(area)
	again := (*[512]byte)(aligned(16, 512))
	asm.FXSAVE(again)
	require.Equal(t, area[32:160], again[32:160])
	require.Equal(t, byte(0x55), again[4])

	copy(area[:], saved[:])
	asm.FXRSTOR(area)
	asm.FXSAVE(again)
	require.Equal(t, saved[:24], again[:24])
}

func TestAreaChecks(t *testing.T) {
	fx := aligned(64, 1024)
	for _, off := range []int{1, 8, 15, 17} {
		require.ErrorIs(t, asm.Try(func() { asm.FXSAVE((*[512]byte)(fx[off:])) }), asm.ErrOperand)
		require.ErrorIs(t, asm.Try(func() { asm.FXRSTOR((*[512]byte)(fx[off:])) }), asm.ErrOperand)
	}
	_, _, c, _ := asm.CPUID(1, 0)
	if c>>27&1 == 0 {
		t.Skip("CR4.OSXSAVE is clear")
	}
	xcr0 := asm.XGETBV(0)
	area := aligned(64, 1<<16)
	for name, bad := range map[string][]byte{
		"unaligned": area[16:],
		"empty":     nil,
		"short":     area[:575],
	} {
		require.ErrorIs(t, asm.Try(func() { asm.XSAVE(bad, 3) }), asm.ErrOperand, name)
		require.ErrorIs(t, asm.Try(func() { asm.XRSTOR(bad, 3) }), asm.ErrOperand, name)
	}
	if xcr0&4 != 0 {
		require.ErrorIs(t, asm.Try(func() { asm.XSAVE(area[:asm.XSAVESize(4)-1], 4) }), asm.ErrOperand)
	}
	if inRing0() {
		return // there the processor refuses the rest: see the tests in ring 0
	}
	fault := func(why string, change func(area []byte)) {
		t.Helper()
		area := aligned(64, 1<<16)
		binary.LittleEndian.PutUint32(area[24:], 0x1f80)
		change(area)
		err := asm.Try(func() { asm.XRSTOR(area, 3) })
		require.ErrorIs(t, err, asm.ErrOperand)
		require.ErrorContains(t, err, why)
	}
	lacks := bits.TrailingZeros64(^xcr0 &^ 3)
	fault("XSTATE_BV", func(a []byte) { binary.LittleEndian.PutUint64(a[512:], 1<<lacks) })
	fault("header byte 15", func(a []byte) { a[527] = 0x80 })
	fault("header byte 16", func(a []byte) { a[528] = 1 })
	fault("header byte 63", func(a []byte) { a[575] = 1 })
	fault("MXCSR", func(a []byte) { binary.LittleEndian.PutUint32(a[24:], 1<<16) })
	binary.LittleEndian.PutUint32(fx[24:], 1<<31)
	require.ErrorContains(t, asm.Try(func() { asm.FXRSTOR((*[512]byte)(fx)) }), "MXCSR")
}

// TestUMIP: a process either sees plausible values or is told why not.
func TestUMIP(t *testing.T) {
	var gdt, idt asm.DescriptorTable
	var ldt, tr uint16
	err := asm.Try(func() { gdt, idt, ldt, tr = asm.SGDT(), asm.SIDT(), asm.SLDT(), asm.STR() })
	top, _, c, _ := asm.CPUID(0, 0)
	if top >= 7 {
		_, _, c, _ = asm.CPUID(7, 0)
	}
	if !inRing0() && c>>2&1 != 0 {
		require.ErrorIs(t, err, asm.ErrPrivilege)
		return
	}
	require.NoError(t, err)
	require.NotZero(t, gdt.Base)
	require.NotZero(t, idt.Base)
	require.Equal(t, uint16(7), gdt.Limit&7)
	require.Zero(t, ldt&7)
	require.Zero(t, tr&7)
}

func TestNoAllocs(t *testing.T) {
	area := aligned(64, 1<<14)
	require.Zero(t, testing.AllocsPerRun(100, func() {
		asm.CPUID(0, 0)
		asm.RDTSC()
		asm.LAR(asm.ReadCS())
		asm.FXSAVE((*[512]byte)(area))
	}))
}
