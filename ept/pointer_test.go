package ept_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/govtx/vtx/ept"
	"github.com/govtx/vtx/internal/require"
	"github.com/govtx/vtx/internal/ring0test"
	"github.com/govtx/vtx/vmcs"
)

// pointer: Validate says of each EPT pointer what the checks of VM entry say, and its
// parts make the whole.
func pointer(t *rapid.T) {
	p := ept.Pointer(rapid.Uint64().Draw(t, "pointer"))
	if rapid.Bool().Draw(t, "nearly valid") {
		p = p&0x0000_ffff_ffff_f0c0 | 0x1e ^ ept.Pointer(1)<<rapid.IntRange(0, 63).Draw(t, "bit")
	}
	m := &ept.Mode{
		Capabilities:        vmcs.EPTVPID(rapid.Uint64().Draw(t, "capabilities")),
		PhysicalAddressBits: rapid.Uint8Range(32, 52).Draw(t, "width"),
	}
	if rapid.Bool().Draw(t, "capable") {
		m.Capabilities |= capFull
	}
	err := p.Validate(m)
	broken := entryRules(p, m)
	require.Equal(t, broken, err != nil, "%v: %v", p, err)
	if err != nil {
		require.ErrorIs(t, err, ept.ErrPointer)
	}
	v := p.Address() | uint64(p.MemoryType()) | uint64(p.Levels()-1)<<3 | uint64(p)&^0x000f_ffff_ffff_f0ff
	if p.AccessedDirty() {
		v |= 1 << 6
	}
	if p.SupervisorShadowStack() {
		v |= 1 << 7
	}
	require.Equal(t, uint64(p), v)
}

// entryRules reports whether package vmcs finds that VM entry fails for the pointer.
func entryRules(p ept.Pointer, m *ept.Mode) bool {
	v := image(vmcs.PrimaryActivateSecondaryControls, vmcs.SecondaryEnableEPT, 0, p)
	caps := vmcs.DumpProcessor(v)
	caps.EPTVPID, caps.CPU.PhysicalAddressBits = m.Capabilities, m.PhysicalAddressBits
	report := vmcs.Check(v, caps)
	return slices.ContainsFunc(report.Violations, func(v vmcs.Violation) bool { return strings.HasPrefix(v.Rule.ID, "eptp.") })
}

func TestPointerRandom(t *testing.T) { ring0test.CheckOnHost(t, pointer) }
func FuzzPointer(f *testing.F)       { f.Fuzz(rapid.MakeFuzz(pointer)) }

func TestNewPointer(t *testing.T) {
	m := fullMode()
	p, err := ept.NewPointer(m, 0x1000)
	require.NoError(t, err)
	require.Equal(t, ept.Pointer(0x101e), p)
	m.Levels, m.AccessedDirty, m.SupervisorShadowStack = 5, true, true
	m.Capabilities &^= capWB
	p, err = ept.NewPointer(m, 0x1000)
	require.NoError(t, err)
	require.Equal(t, ept.Pointer(0x10e0), p)
	_, err = ept.NewPointer(m, 0x1008)
	require.ErrorContains(t, err, "multiple of 4096")
	_, err = ept.NewPointer(m, 1<<46)
	require.ErrorIs(t, err, ept.ErrPointer)
	require.ErrorContains(t, err, "width of 46")
}

func TestPointerText(t *testing.T) {
	require.Equal(t, "0x1000 WB 4 levels, accessed and dirty flags", ept.Pointer(0x105e).String())
	require.Equal(t, "0x0 MemoryType(2) 8 levels, supervisor shadow stack, reserved 0xfff0000000000f00", ept.Pointer(0xfff0_0000_0000_0fba).String())
	p, err := ept.ParsePointer("0x105e")
	require.NoError(t, err)
	require.Equal(t, ept.Pointer(0x105e), p)
	for _, s := range []string{
		"", "0x1001 WB 4 levels", "0x1000 WB 4", "0x1000 XX 4 levels", "0x1000 WB 0 levels", "0x1000 WB 9 levels",
		"0x1000 WB 4 levels, flags", "0x1000 WB 4 levels, reserved 0x1000", "0x1000 MemoryType(8) 4 levels",
	} {
		_, err := ept.ParsePointer(s)
		require.ErrorContains(t, err, "is no EPT pointer", s)
	}
	require.False(t, errors.Is(err, ept.ErrPointer))
}

// Each rule of VM entry is the one that is told of where it alone is broken.
func TestPointerRules(t *testing.T) {
	without := func(c vmcs.EPTVPID) *ept.Mode {
		m := fullMode()
		m.Capabilities &^= c
		return m
	}
	for _, c := range []struct {
		mode *ept.Mode
		p    ept.Pointer
		want string
	}{
		{fullMode(), 0x1019, "is WC; it must be UC (0) or WB (6)"},
		{without(capUC), 0x1018, "[8] is 0"},
		{without(capWB), 0x101e, "[14] is 0"},
		{fullMode(), 0x1016, "tell of 3 levels"},
		{without(capWalk4), 0x101e, "[6] is 0"},
		{without(capWalk5), 0x1026, "[7] is 0"},
		{without(capAccessedDirty), 0x105e, "[21] is 0"},
		{without(capShadowStack), 0x109e, "[23] is 0"},
		{fullMode(), 0x111e, "bits 11:8"},
		{fullMode(), 0x101e | 1<<46, "width of 46"},
		{fullMode(), 0x101e | 1<<63, "width of 46"},
	} {
		require.ErrorContains(t, c.p.Validate(c.mode), c.want)
	}
	for _, p := range []ept.Pointer{0x1018, 0x101e, 0x1026, 0x10de, 0x3fff_ffff_f01e} {
		require.NoError(t, p.Validate(fullMode()))
	}
}
