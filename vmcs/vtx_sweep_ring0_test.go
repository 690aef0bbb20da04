package vmcs_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/govtx/vtx/asm"
	"github.com/govtx/vtx/internal/require"
	"github.com/govtx/vtx/internal/vmtest"
	"github.com/govtx/vtx/vmcs"
	"pgregory.net/rapid"
)

// loadRegion makes an empty VMCS the current one, with 0 in all fields.
func loadRegion(m *vmtest.Machine) {
	m.Helper()
	m.Load(m.Region())
	for f := range vmcs.Fields() {
		if f.Supported(m.Caps) && (!f.ReadOnly() || m.Caps.Misc.WritesExitInformation()) {
			require.NoError(m, vmcs.Current{}.Write(f, 0))
		}
	}
}

// TestEncodings reads every encoding by VMREAD: the processor has those fields
// that its capabilities announce, and the high halves of the 64-bit ones.
func TestEncodings(t *testing.T) {
	m := vmtest.Start(t)
	loadRegion(m)
	n := 0
	for e := range uint32(0x8000) {
		f := vmcs.Field(e)
		_, status := asm.VMREAD(e)
		want := asm.FailValid
		if f.Supported(m.Caps) {
			want = asm.Succeed
			n++
		}
		if status != want {
			t.Errorf("VMREAD of %v (%#04x): %v; the capabilities say %v. It depends on: %s", f, e, status, want, f.Depends())
		}
		if status == asm.FailValid {
			v, s := asm.VMREAD(uint32(vmcs.VMInstructionErrorNumber))
			require.Equal(t, asm.Succeed, s)
			require.Equal(t, vmcs.UnsupportedComponent, vmcs.InstructionError(v), "%#04x", e)
		}
	}
	t.Logf("%d encodings are supported", n)
	require.Greater(t, n, 150)
	for bit := 15; bit < 32; bit++ {
		_, status := asm.VMREAD(uint32(vmcs.ExitReason) | 1<<bit)
		require.Equal(t, asm.FailValid, status, "bit %d", bit)
	}
}

// TestHighestIndex: IA32_VMX_VMCS_ENUM covers the index of every field
// (SDM Vol. 3D A.9).
func TestHighestIndex(t *testing.T) {
	m := vmtest.Start(t)
	for f := range vmcs.Fields() {
		if f.Supported(m.Caps) {
			require.LessOrEqual(t, f.Index(), m.Caps.HighestIndex(), "%v", f)
		}
	}
}

// TestFieldWidths writes every field, and reads back what its width holds; its
// halves are written apart.
func TestFieldWidths(t *testing.T) {
	m := vmtest.Start(t)
	loadRegion(m)
	c := vmcs.Current{}
	expect := func(f vmcs.Field, want uint64) {
		t.Helper()
		got, err := c.Read(f)
		require.NoError(t, err)
		require.Equal(t, want, got, "%v", f)
	}
	for f := range vmcs.Fields() {
		if !f.Supported(m.Caps) || f.ReadOnly() {
			continue
		}
		for _, v := range []uint64{^uint64(0), 0x123456789abcdef0, 0} {
			require.NoError(t, c.Write(f, v))
			expect(f, v&f.Width().Mask())
		}
		if f.Width() != vmcs.Width64 {
			continue
		}
		require.NoError(t, c.Write(f, 0x1111111122222222))
		expect(f.HighHalf(), 0x11111111)
		require.NoError(t, c.Write(f.HighHalf(), 0xaaaaaaaa33333333))
		expect(f, 0x3333333322222222)
		expect(f.HighHalf(), 0x33333333)
	}
}

// TestReadOnly: VM-exit information can be written if IA32_VMX_MISC[29] says so
// (SDM Vol. 3C 31.3, VMWRITE).
func TestReadOnly(t *testing.T) {
	m := vmtest.Start(t)
	loadRegion(m)
	for f := range vmcs.Fields() {
		if !f.Supported(m.Caps) || !f.ReadOnly() {
			continue
		}
		err := vmcs.Current{}.Write(f, 5)
		if m.Caps.Misc.WritesExitInformation() {
			require.NoError(t, err)
			v, err := vmcs.Current{}.Read(f)
			require.NoError(t, err)
			require.Equal(t, uint64(5), v, "%v", f)
			continue
		}
		require.ErrorIs(t, err, vmcs.ErrReadOnly)
		require.ErrorIs(t, err, vmcs.ReadOnlyComponent)
	}
}

// TestShadowIsCurrent: a Shadow answers a sequence of reads and writes as the
// processor does, in values and in errors.
func TestShadowIsCurrent(t *testing.T) {
	m := vmtest.Start(t)
	loadRegion(m)
	known := slices.Collect(vmcs.Fields())
	field := rapid.OneOf(
		rapid.SampledFrom(known),
		rapid.Map(rapid.SampledFrom(known), func(f vmcs.Field) vmcs.Field { return f | 1 }),
		rapid.Map(rapid.Uint32Range(0, 0x7fff), func(v uint32) vmcs.Field { return vmcs.Field(v) }),
		rapid.Just(vmcs.VMInstructionErrorNumber),
	)
	shadow := vmcs.NewShadow(m.Caps)
	for f := range vmcs.Fields() {
		if v, err := (vmcs.Current{}).Read(f); err == nil {
			shadow.Image().Set(f, v)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		for range rapid.IntRange(1, 50).Draw(t, "n") {
			f := field.Draw(t, "field")
			if rapid.Bool().Draw(t, "write") {
				v := rapid.Uint64().Draw(t, "value")
				want, got := errorText(shadow.Write(f, v)), errorText(vmcs.Current{}.Write(f, v))
				require.Equal(t, want, got, "write of %#x to %v (%#04x)", v, f, uint32(f))
				continue
			}
			want, errShadow := shadow.Read(f)
			got, err := vmcs.Current{}.Read(f)
			require.Equal(t, errorText(errShadow), errorText(err), "read of %v (%#04x)", f, uint32(f))
			require.Equal(t, want, got, "read of %v (%#04x)", f, uint32(f))
		}
	})
}

// errorText is an error's text and VM-instruction error, to compare errors.
func errorText(err error) string {
	if err == nil {
		return ""
	}
	var e vmcs.InstructionError
	errors.As(err, &e)
	return fmt.Sprintf("%d %v", uint32(e), err)
}
