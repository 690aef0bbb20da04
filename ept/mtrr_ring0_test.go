package ept_test

import (
	"math/rand/v2"
	"testing"

	"github.com/govtx/vtx/asm"
	"github.com/govtx/vtx/ept"
	"github.com/govtx/vtx/internal/require"
	"github.com/govtx/vtx/internal/ring0test"
	"github.com/govtx/vtx/vmcs"
)

// TestMTRRsOnVTx: the processor's MTRRs can be read, WRMSR refuses the values that Validate
// does, and what has been written is what is read.
func TestMTRRsOnVTx(t *testing.T) {
	ring0test.Need(t)
	if _, _, _, edx := asm.CPUID(1, 0); edx>>12&1 == 0 {
		t.Skip("this processor has no MTRRs")
	}
	width := vmcs.ReadCPU(vmcs.Processor{}).PhysicalAddressBits
	m, err := ept.ReadMTRRs(vmcs.Processor{}, width)
	require.NoError(t, err)
	require.NotEmpty(t, m.Variable)

	rng := rand.New(rand.NewPCG(5, 3))
	accepted, refused := 0, 0
	// try writes a register and says whether Validate's and the processor's
	// opinions of the value agree. v is the place of the value in m.
	try := func(msr uint32, v *uint64) {
		t.Helper()
		old := *v
		// Memory types 0 to 7, address bits, and now and then any other bit.
		*v = rng.Uint64() & (1<<width - 1) &^ 0xfff
		if msr < 0x200+2*uint32(len(m.Variable)) && msr&1 != 0 {
			*v |= uint64(rng.UintN(2)) << 11
		} else {
			*v |= uint64(rng.UintN(8))
		}
		switch {
		case msr == ept.MSRMTRRDefType:
			*v &= 7
			*v |= uint64(rng.UintN(4)) << 10
		case msr >= 0x250: // types only
			*v = 0
			for range 8 {
				*v = *v<<8 | uint64([]uint8{0, 1, 4, 5, 6}[rng.UintN(5)])
			}
		}
		if rng.UintN(3) == 0 {
			*v ^= 1 << rng.UintN(64)
		}
		// Discontiguous masks are allowed, if discouraged (SDM Vol. 3A 12.11.2.3).
		err := m.Validate()
		fault := asm.WRMSRSafe(msr, *v)
		require.Equal(t, err != nil, fault != nil, "WRMSR %#x of %#x: Validate says %v, the processor %v", msr, *v, err, fault)
		if err != nil {
			refused++
			*v = old
			return
		}
		accepted++
		got, err := ept.ReadMTRRs(vmcs.Processor{}, width)
		require.NoError(t, err)
		require.Equal(t, m, got)
		*v = old
		asm.WRMSR(msr, old)
	}
	fixed := []uint32{0x250, 0x258, 0x259, 0x268, 0x269, 0x26a, 0x26b, 0x26c, 0x26d, 0x26e, 0x26f}
	for range 200 {
		n := rng.IntN(len(m.Variable))
		try(ept.MSRMTRRPhysBase+2*uint32(n), &m.Variable[n].Base)
		try(ept.MSRMTRRPhysMask+2*uint32(n), &m.Variable[n].Mask)
		try(ept.MSRMTRRDefType, &m.DefType)
		if m.Cap&capFixed != 0 {
			n := rng.IntN(len(fixed))
			try(fixed[n], &m.Fixed[n])
		}
	}
	require.Greater(t, accepted, 300)
	require.Greater(t, refused, 100)
}
