package hypercall_test

import (
	"encoding/binary"
	"math/bits"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/govtx/vtx/hypercall"
	"github.com/govtx/vtx/internal/require"
	"github.com/govtx/vtx/internal/ring0test"
)

// The set {0, 5, 130} of TLFS hv_vp_set.md.
func TestVpSetOfTLFS(t *testing.T) {
	var s hypercall.VpSet
	for _, vp := range []uint32{130, 0, 5} {
		require.True(t, s.Add(vp))
	}
	b, err := s.MarshalBinary()
	require.NoError(t, err)
	var want []byte
	for _, v := range []uint64{0, 5, 0x21, 4} {
		want = binary.LittleEndian.AppendUint64(want, v)
	}
	require.Equal(t, want, b)
	require.Equal(t, []uint32{0, 5, 130}, slices.Collect(s.All(200)))
	require.Equal(t, 2, s.NumBanks())

	all := hypercall.VpSet{Format: hypercall.VpSetAll, ValidBanksMask: 7}
	require.Equal(t, 16, all.Size())
	require.True(t, all.Contains(1<<20))
	require.Equal(t, []uint32{0, 1, 2}, slices.Collect(all.All(3)))
	require.True(t, all.GetBanks(nil))
	require.False(t, all.GetBanks(make([]byte, 24)))

	invalid := hypercall.VpSet{ValidBanksMask: 2, Banks: [64]uint64{1, 1}}
	require.False(t, invalid.Contains(0), "its bank is not valid")
	require.True(t, invalid.Contains(64))
	require.Equal(t, []uint32{64}, slices.Collect(invalid.All(200)))

	none := hypercall.VpSet{Format: 2, ValidBanksMask: 1, Banks: [64]uint64{1}}
	require.False(t, none.Contains(0))
	require.Empty(t, slices.Collect(none.All(3)))
	_, err = none.MarshalBinary()
	require.ErrorContains(t, err, "a processor set has no format 2: it is 0 for a sparse set, or 1 for all processors")
}

// A sparse set is a set.
func vpSets(t *rapid.T) {
	var s hypercall.VpSet
	model := map[uint32]bool{}
	vps := rapid.OneOf(rapid.Uint32Range(0, 200), rapid.Uint32Range(4000, 4200), rapid.Uint32())
	t.Repeat(map[string]func(*rapid.T){
		"": func(t *rapid.T) {
			var want []uint32
			for vp := range model {
				want = append(want, vp)
			}
			slices.Sort(want)
			require.Equal(t, want, slices.Collect(s.All(0)))
		},
		"add": func(t *rapid.T) {
			vp := vps.Draw(t, "vp")
			require.Equal(t, vp < hypercall.VpSetMax, s.Add(vp))
			if vp < hypercall.VpSetMax {
				model[vp] = true
			}
		},
		"remove": func(t *rapid.T) {
			vp := vps.Draw(t, "vp")
			s.Remove(vp)
			delete(model, vp)
		},
		"contains": func(t *rapid.T) {
			vp := vps.Draw(t, "vp")
			require.Equal(t, model[vp], s.Contains(vp))
		},
		"memory": func(t *rapid.T) {
			b, err := s.AppendBinary([]byte{1})
			require.NoError(t, err)
			require.Len(t, b[1:], s.Size())
			var x hypercall.VpSet
			require.NoError(t, x.UnmarshalBinary(b[1:]))
			require.Equal(t, slices.Collect(s.All(0)), slices.Collect(x.All(0)))
			require.Equal(t, string(b[17:]), string(s.AppendBanks(nil)))
			old := x
			for _, wrong := range [][]byte{b[1 : len(b)-1], append(b[1:len(b):len(b)], 0), b[1:1]} {
				require.ErrorIs(t, x.UnmarshalBinary(wrong), hypercall.ErrSize)
				require.Equal(t, old, x)
			}
			s = x
		},
	})
}

func TestVpSets(t *testing.T) { ring0test.CheckOnHost(t, vpSets) }

func FuzzVpSet(f *testing.F) {
	f.Add([]byte{})
	f.Add(make([]byte, 16))
	f.Add(append([]byte{0, 0, 0, 0, 0, 0, 0, 0, 5}, make([]byte, 23)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		var s hypercall.VpSet
		if s.UnmarshalBinary(b) != nil {
			require.Zero(t, s)
			return
		}
		require.Len(t, b, s.Size())
		again, err := s.MarshalBinary()
		require.NoError(t, err)
		require.Equal(t, b, again)
		count := 0
		for vp := range s.All(0) {
			require.True(t, s.Contains(vp))
			count++
		}
		for i, bank := range s.Banks {
			if s.Format == hypercall.VpSetSparse && s.ValidBanksMask>>i&1 != 0 {
				count -= bits.OnesCount64(bank)
			}
		}
		require.Zero(t, count)
	})
}

// A range covers the pages it is made of, in both formats.
func TestGvaRange(t *testing.T) {
	for _, c := range []struct {
		r       hypercall.GvaRange
		address uint64
		pages   int
		size    uint64
		ok      bool
	}{
		{0x7fff12345002, 0x7fff12345000, 3, 1 << 12, true},
		{0xffffffff_ffe00803, 0xffffffff_ffe00000, 4, 1 << 21, true},
		{0xffffffff_c0001801, 0xffffffff_c0000000, 2, 1 << 30, true},
		{0xffffffff_e0001801, 0xffffffff_c0000000, 2, 1 << 30, true},
		{0x2800, 0, 1, 1 << 21, false},
		{0x7ff, 0, 2048, 1 << 12, true},
	} {
		address, pages, size, ok := c.r.Extended()
		require.Equal(t, c.address, address, "%#x", uint64(c.r))
		require.Equal(t, []any{c.pages, c.size, c.ok}, []any{pages, size, ok}, "%#x", uint64(c.r))
	}
	rapid.Check(t, func(t *rapid.T) {
		address, pages := rapid.Uint64().Draw(t, "address"), rapid.IntRange(1, 4096).Draw(t, "pages")
		r, err := hypercall.MakeGvaRange(address, pages)
		require.NoError(t, err)
		require.Equal(t, address&^0xfff, r.Address())
		require.Equal(t, pages, r.Pages())
	})
	for _, n := range []int{-1, 0, 4097} {
		_, err := hypercall.MakeGvaRange(0, n)
		require.ErrorContains(t, err, "it has 1 to 4096")
	}
}
