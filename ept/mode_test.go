package ept_test

import (
	"testing"

	"github.com/govtx/vtx/ept"
	"github.com/govtx/vtx/internal/require"
	"github.com/govtx/vtx/vmcs"
)

func TestModeLimits(t *testing.T) {
	m := fullMode()
	require.Equal(t, ept.PML4E, m.TopLevel())
	require.Equal(t, uint64(1)<<46, m.AddressLimit())
	require.Equal(t, uint64(1)<<46, m.PhysicalLimit())
	m.PhysicalAddressBits = 52
	require.Equal(t, uint64(1)<<48, m.AddressLimit())
	m.Levels = 5
	require.Equal(t, ept.PML5E, m.TopLevel())
	require.Equal(t, uint64(1)<<52, m.AddressLimit())
	for c, want := range map[vmcs.EPTVPID]ept.Level{0: ept.PTE, cap2M: ept.PDE, cap1G | cap2M: ept.PDPTE, cap1G: ept.PTE} {
		m.Capabilities = c
		require.Equal(t, want, m.LargestPage())
		require.True(t, m.CanMap(ept.PTE))
		require.Equal(t, c&cap2M != 0, m.CanMap(ept.PDE))
		require.Equal(t, c&cap1G != 0, m.CanMap(ept.PDPTE))
		require.False(t, m.CanMap(ept.PML4E))
	}
}

func TestModeValidate(t *testing.T) {
	full := func(change func(*ept.Mode)) *ept.Mode {
		m := fullMode()
		m.AccessedDirty, m.SupervisorShadowStack = true, true
		change(m)
		return m
	}
	for _, levels := range []uint8{0, 4, 5} {
		require.NoError(t, full(func(m *ept.Mode) { m.Levels = levels }).Validate())
	}
	for _, c := range []struct {
		change func(*ept.Mode)
		want   string
	}{
		{func(m *ept.Mode) { m.PhysicalAddressBits = 31 }, "MAXPHYADDR"},
		{func(m *ept.Mode) { m.PhysicalAddressBits = 53 }, "MAXPHYADDR"},
		{func(m *ept.Mode) { m.Levels = 3 }, "4 or 5 levels, not 3"},
		{func(m *ept.Mode) { m.Capabilities &^= capWalk4 }, "4-level EPT: IA32_VMX_EPT_VPID_CAP[6]"},
		{func(m *ept.Mode) { m.Capabilities &^= capWalk5; m.Levels = 5 }, "5-level EPT: IA32_VMX_EPT_VPID_CAP[7]"},
		{func(m *ept.Mode) { m.Capabilities &^= capAccessedDirty }, "[21]"},
		{func(m *ept.Mode) { m.Capabilities &^= capShadowStack }, "[23]"},
	} {
		require.ErrorContains(t, full(c.change).Validate(), c.want)
	}
}

// image is a VMCS with the given controls; tertiary ones only if they are not 0.
func image(primary vmcs.PrimaryControls, secondary vmcs.SecondaryControls, tertiary vmcs.TertiaryControls, p ept.Pointer) *vmcs.Image {
	m := &vmcs.Image{}
	m.Set(vmcs.PrimaryProcessorBasedControls, uint64(primary))
	m.Set(vmcs.SecondaryProcessorBasedControls, uint64(secondary))
	if tertiary != 0 {
		m.Set(vmcs.TertiaryProcessorBasedControls, uint64(tertiary))
	}
	m.Set(vmcs.EPTPointer, uint64(p))
	return m
}

func TestModeOf(t *testing.T) {
	const on = vmcs.PrimaryActivateSecondaryControls
	const both = on | vmcs.PrimaryActivateTertiaryControls
	caps := &vmcs.Capabilities{EPTVPID: capFull, CPU: vmcs.CPU{PhysicalAddressBits: 46, KeyBits: 6}}
	base := ept.Mode{Capabilities: capFull, PhysicalAddressBits: 46, KeyBits: 6, Levels: 4}

	// Each bit of the VMCS sets what it should and nothing else.
	for _, c := range []struct {
		image  *vmcs.Image
		change func(*ept.Mode)
	}{
		{image(on, vmcs.SecondaryEnableEPT, 0, 0x101e), func(*ept.Mode) {}},
		{image(on, vmcs.SecondaryEnableEPT, 0, 0x1026), func(m *ept.Mode) { m.Levels = 5 }},
		{image(on, vmcs.SecondaryEnableEPT, 0, 0x105e), func(m *ept.Mode) { m.AccessedDirty = true }},
		{image(on, vmcs.SecondaryEnableEPT, 0, 0x109e), func(m *ept.Mode) { m.SupervisorShadowStack = true }},
		{image(on, vmcs.SecondaryEnableEPT|vmcs.SecondaryModeBasedExecuteControlForEPT, 0, 0x101e), func(m *ept.Mode) { m.ModeBasedExecute = true }},
		{image(on, vmcs.SecondaryEnableEPT|vmcs.SecondarySubPageWritePermissionsForEPT, 0, 0x101e), func(m *ept.Mode) { m.SubPageWrite = true }},
		{image(on, vmcs.SecondaryEnableEPT|vmcs.SecondaryEPTViolationVE, 0, 0x101e), func(m *ept.Mode) { m.ViolationVE = true }},
		{image(both, vmcs.SecondaryEnableEPT, vmcs.TertiaryEPTPagingWriteControl, 0x101e), func(m *ept.Mode) { m.PagingWrite = true }},
		{image(both, vmcs.SecondaryEnableEPT, vmcs.TertiaryGuestPagingVerification, 0x101e), func(m *ept.Mode) { m.VerifyGuestPaging = true }},
		// Without their activation the tertiary controls are 0.
		{image(on, vmcs.SecondaryEnableEPT, vmcs.TertiaryGuestPagingVerification, 0x101e), func(*ept.Mode) {}},
	} {
		want := base
		c.change(&want)
		m, p, err := ept.ModeOf(c.image, caps)
		require.NoError(t, err)
		require.Equal(t, want, m)
		v, _ := c.image.Get(vmcs.EPTPointer)
		require.Equal(t, ept.Pointer(v), p)
	}

	for _, off := range []*vmcs.Image{image(0, vmcs.SecondaryEnableEPT, 0, 0x101e), image(on, 0, 0, 0x101e)} {
		_, _, err := ept.ModeOf(off, caps)
		require.ErrorIs(t, err, ept.ErrNoEPT)
	}
	_, _, err := ept.ModeOf(image(on, vmcs.SecondaryEnableEPT, 0, 0x101f), caps)
	require.ErrorIs(t, err, ept.ErrPointer)
	_, _, err = ept.ModeOf(&vmcs.Image{}, nil)
	require.ErrorContains(t, err, "capabilities")
	for _, f := range []vmcs.Field{vmcs.PrimaryProcessorBasedControls, vmcs.SecondaryProcessorBasedControls, vmcs.TertiaryProcessorBasedControls, vmcs.EPTPointer} {
		v := image(both, vmcs.SecondaryEnableEPT, 1, 0x101e)
		v.Delete(f)
		_, _, err := ept.ModeOf(v, caps)
		require.ErrorIs(t, err, vmcs.ErrAbsent)
		require.ErrorContains(t, err, f.String())
	}
	// A width that is not known is the widest.
	m, _, err := ept.ModeOf(image(on, vmcs.SecondaryEnableEPT, 0, 0x101e), &vmcs.Capabilities{EPTVPID: capFull})
	require.NoError(t, err)
	require.Equal(t, uint8(52), m.PhysicalAddressBits)
}
