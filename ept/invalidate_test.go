package ept_test

import (
	"testing"

	"github.com/govtx/vtx/ept"
	"github.com/govtx/vtx/internal/require"
	"github.com/govtx/vtx/vmcs"
)

func TestInvalidation(t *testing.T) {
	all := []ept.Invalidation{ept.NoInvalidation, ept.SingleContext, ept.AllContexts}
	for i, a := range all {
		var got ept.Invalidation
		roundTrip(t, a, &got)
		require.Equal(t, a, got)
		for j, b := range all {
			require.Equal(t, all[max(i, j)], a.Or(b))
		}
	}
	require.Equal(t, "Invalidation(3)", ept.Invalidation(3).String())

	const p = ept.Pointer(0x105e)
	for _, c := range []struct {
		asked ept.Invalidation
		caps  vmcs.EPTVPID
		kind  ept.INVEPTType
		desc  ept.Descriptor
		ok    bool
	}{
		{ept.NoInvalidation, capFull, 0, ept.Descriptor{}, false},
		{ept.SingleContext, capFull, ept.INVEPTSingleContext, ept.Descriptor{0x105e, 0}, true},
		{ept.SingleContext, capFull &^ capSingle, ept.INVEPTAllContexts, ept.Descriptor{}, true},
		{ept.AllContexts, capFull, ept.INVEPTAllContexts, ept.Descriptor{}, true},
	} {
		kind, d, ok := c.asked.INVEPT(p, c.caps)
		require.Equal(t, c.kind, kind)
		require.Equal(t, c.desc, d)
		require.Equal(t, c.ok, ok)
		if ok {
			m := fullMode()
			m.Capabilities = c.caps
			require.NoError(t, kind.Validate(&d, m))
		}
	}
}

func TestINVEPT(t *testing.T) {
	for kind := range ept.INVEPTType(5) {
		m := fullMode()
		d := ept.INVEPTDescriptor(0x101e)
		require.Equal(t, ept.Pointer(0x101e), d.Pointer())
		known := kind == 1 || kind == 2
		require.Equal(t, known, kind.Supports(m.Capabilities))
		require.Equal(t, known, kind.Validate(&d, m) == nil, "%v", kind)
		got, err := ept.ParseINVEPTType(kind.String())
		require.Equal(t, known, err == nil)
		if known {
			require.Equal(t, kind, got)
			m.Capabilities &^= 1 << (24 + kind)
			require.ErrorContains(t, kind.Validate(&d, m), "does not support")
			m.Capabilities = capFull &^ capINVEPT
			require.False(t, kind.Supports(m.Capabilities))
			require.ErrorContains(t, kind.Validate(&d, m), "#UD")
			d[1] = 1
			require.ErrorIs(t, kind.Validate(&d, fullMode()), ept.ErrInvalidation)
		}
	}
	// What the descriptor points to counts for single-context only.
	bad := ept.INVEPTDescriptor(0x101f)
	require.ErrorContains(t, ept.INVEPTSingleContext.Validate(&bad, fullMode()), "EPT pointer")
	require.NoError(t, ept.INVEPTAllContexts.Validate(&bad, fullMode()))
}

func TestINVVPID(t *testing.T) {
	const full = vmcs.EPTVPID(1<<32 | 15<<40)
	names := []string{"individual-address", "single-context", "all-context", "single-context-retaining-globals"}
	for kind := range ept.INVVPIDType(6) {
		d := ept.INVVPIDDescriptor(7, 0xffff_8000_0000_0000)
		require.Equal(t, uint16(7), d.VPID())
		require.Equal(t, uint64(0xffff_8000_0000_0000), d.LinearAddress())
		known := int(kind) < len(names)
		require.Equal(t, known, kind.Supports(full))
		require.Equal(t, known, kind.Validate(&d, full, 48) == nil)
		if !known {
			require.Contains(t, kind.String(), "INVVPIDType(0x")
			_, err := ept.ParseINVVPIDType(kind.String())
			require.Error(t, err)
			continue
		}
		require.Equal(t, names[kind], kind.String())
		got, err := ept.ParseINVVPIDType(names[kind])
		require.NoError(t, err)
		require.Equal(t, kind, got)
		require.ErrorContains(t, kind.Validate(&d, full&^(1<<(40+kind)), 48), "does not support")
		require.ErrorContains(t, kind.Validate(&d, full&^(1<<32), 48), "#UD")
		require.False(t, kind.Supports(full&^(1<<32)))

		reserved := ept.Descriptor{1<<16 | 7, 0}
		require.ErrorContains(t, kind.Validate(&reserved, full, 48), "63:16")
		zero := ept.INVVPIDDescriptor(0, 0)
		require.Equal(t, kind == ept.INVVPIDAllContexts, kind.Validate(&zero, full, 48) == nil)
		wide := ept.INVVPIDDescriptor(7, 0x0000_8000_0000_0000)
		require.Equal(t, kind != ept.INVVPIDAddress, kind.Validate(&wide, full, 48) == nil)
		require.NoError(t, kind.Validate(&wide, full, 57))
		// Widths that no processor has do not matter, but must not hurt.
		for _, width := range []uint8{0, 64, 255} {
			_ = kind.Validate(&wide, full, width)
		}
	}
}
