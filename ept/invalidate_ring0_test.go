package ept_test

import (
	"math/rand/v2"
	"testing"

	"github.com/govtx/vtx/asm"
	"github.com/govtx/vtx/ept"
	"github.com/govtx/vtx/internal/require"
	"github.com/govtx/vtx/internal/vmtest"
)

// TestInvalidationOnVTx: INVEPT and INVVPID refuse the operands that Validate does. Bits
// 127:64 of an INVEPT descriptor are left out, which the processor may ignore, and so are
// bits 63:32 of the type, which Bochs does.
func TestInvalidationOnVTx(t *testing.T) {
	m := vmtest.Start(t)
	caps := m.Caps.EPTVPID
	if !caps.INVEPT() || !caps.INVVPID() {
		t.Skip("this processor has no INVEPT or no INVVPID")
	}
	mode := &ept.Mode{Capabilities: caps, PhysicalAddressBits: m.Caps.CPU.PhysicalAddressBits}
	rng := rand.New(rand.NewPCG(5, 4))
	accepted, refused := 0, 0
	check := func(err error, status asm.Status, what string, kind uint64, d ept.Descriptor) {
		t.Helper()
		require.Equal(t, err == nil, status == asm.Succeed, "%s of type %d with %#x: Validate says %v, the processor %v", what, kind, d, err, status)
		if err == nil {
			accepted++
		} else {
			require.ErrorIs(t, err, ept.ErrInvalidation)
			refused++
		}
	}
	// flip turns one bit of the low n over, in one of three cases.
	flip := func(v *uint64, n uint) {
		if rng.UintN(3) == 0 {
			*v ^= 1 << rng.UintN(n)
		}
	}
	for range 3000 {
		kind := uint64(rng.UintN(4))
		d := ept.INVEPTDescriptor(ept.Pointer(rng.Uint64()&(mode.PhysicalLimit()-1)&^0xfff | 0x1e))
		flip(&d[0], 64)
		flip(&kind, 32)
		check(ept.INVEPTType(kind).Validate(&d, mode), asm.INVEPT(kind, (*[2]uint64)(&d)), "INVEPT", kind, d)

		kind = uint64(rng.UintN(4))
		d = ept.INVVPIDDescriptor(uint16(rng.UintN(3)), uint64(int64(rng.Uint64())>>16))
		flip(&d[0], 64)
		flip(&d[1], 64)
		flip(&kind, 32)
		check(ept.INVVPIDType(kind).Validate(&d, caps, 48), asm.INVVPID(kind, (*[2]uint64)(&d)), "INVVPID", kind, d)
	}
	require.Greater(t, accepted, 1000)
	require.Greater(t, refused, 1000)
}
