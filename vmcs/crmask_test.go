package vmcs_test

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/govtx/vtx/internal/require"
	"github.com/govtx/vtx/internal/ring0test"
	"github.com/govtx/vtx/vmcs"
)

// crMask compares every bit with what the manual says of it (SDM Vol. 3C 25.6.6,
// 26.1.3, 26.3).
func crMask(t *rapid.T) {
	word := rapid.Custom(func(t *rapid.T) uint64 {
		v := rapid.Uint64().Draw(t, "value")
		return v&^0xf | uint64(rapid.IntRange(0, 15).Draw(t, "low"))
	})
	m := vmcs.CRMask{Mask: word.Draw(t, "mask"), Shadow: word.Draw(t, "shadow")}
	real, value := word.Draw(t, "real"), word.Draw(t, "value")
	if rapid.Bool().Draw(t, "as the shadow") { // such that most bits do not exit
		value = value&^m.Mask | m.Shadow&m.Mask ^ uint64(rapid.IntRange(0, 15).Draw(t, "but"))
	}

	read, moved, moveExits := m.Read(real), m.MOV(real, value), false
	msw, lmswExits := m.LMSW(real, uint16(value)), false
	granted := m.Set(value).Read(real)
	for i := range 64 {
		bit := func(v uint64) bool { return v>>i&1 != 0 }
		host := bit(m.Mask)
		if host {
			require.Equal(t, bit(m.Shadow), bit(read))
			require.Equal(t, bit(real), bit(moved))
			require.Equal(t, bit(real), bit(msw))
			require.Equal(t, bit(value), bit(granted))
			differs := bit(value) != bit(m.Shadow)
			moveExits = moveExits || differs
			switch {
			case i == 0:
				lmswExits = lmswExits || bit(value) && !bit(m.Shadow)
			case i < 4:
				lmswExits = lmswExits || differs
			}
			continue
		}
		require.Equal(t, bit(real), bit(read))
		require.Equal(t, bit(value), bit(moved))
		require.Equal(t, bit(real), bit(granted))
		switch {
		case i == 0:
			require.Equal(t, bit(real) || bit(value), bit(msw)) // never cleared
		case i < 4:
			require.Equal(t, bit(value), bit(msw))
		default:
			require.Equal(t, bit(real), bit(msw))
		}
	}
	require.Equal(t, moveExits, m.MOVExits(value))
	require.Equal(t, lmswExits, m.LMSWExits(uint16(value)))
	const ts = 1 << 3
	require.Equal(t, m.Mask&ts != 0 && m.Shadow&ts != 0, m.CLTSExits())
	if m.Mask&ts != 0 {
		require.Equal(t, real, m.CLTS(real))
	} else {
		require.Equal(t, real&^ts, m.CLTS(real))
	}

	var image vmcs.Image
	other := vmcs.CRMask{Mask: m.Shadow, Shadow: real}
	require.NoError(t, m.WriteCR0(&image))
	require.NoError(t, other.WriteCR4(&image))
	cr0, err := vmcs.ReadCR0Mask(&image)
	require.NoError(t, err)
	cr4, err := vmcs.ReadCR4Mask(&image)
	require.NoError(t, err)
	require.Equal(t, [2]vmcs.CRMask{m, other}, [2]vmcs.CRMask{cr0, cr4})
}

func TestCRMask(t *testing.T) { ring0test.CheckOnHost(t, crMask) }
func FuzzCRMask(f *testing.F) { f.Fuzz(rapid.MakeFuzz(crMask)) }

func TestCRMaskErrors(t *testing.T) {
	var m vmcs.CRMask
	require.ErrorIs(t, m.WriteCR0(refusing{vmcs.CR0GuestHostMask}), errRefused)
	require.ErrorIs(t, m.WriteCR0(refusing{vmcs.CR0ReadShadow}), errRefused)
	require.ErrorIs(t, m.WriteCR4(refusing{vmcs.CR4GuestHostMask}), errRefused)
	require.ErrorIs(t, m.WriteCR4(refusing{vmcs.CR4ReadShadow}), errRefused)
	var image vmcs.Image
	_, err := vmcs.ReadCR0Mask(&image)
	require.ErrorContains(t, err, "CR0GuestHostMask")
	require.NoError(t, image.Write(vmcs.CR4GuestHostMask, 1))
	_, err = vmcs.ReadCR4Mask(&image)
	require.ErrorContains(t, err, "CR4ReadShadow")
	require.Equal(t, "mask 0x80000001, shadow 0x1", vmcs.CRMask{Mask: 0x80000001, Shadow: 1}.String())
}
