package ept_test

import (
	"math"
	"strings"
	"testing"

	"github.com/govtx/vtx/ept"
	"github.com/govtx/vtx/internal/require"
	"github.com/govtx/vtx/internal/ring0test"
)

// effectiveTable is SDM Vol. 3A table 12-7 by its columns: MTRR (here EPT) type, PAT entry,
// effective type.
const effectiveTable = `
UC UC UC    UC UC- UC   UC WC WC   UC WT UC   UC WB UC   UC WP UC
WC UC UC    WC UC- WC   WC WC WC   WC WT UC   WC WB WC   WC WP UC
WT UC UC    WT UC- UC   WT WC WC   WT WT WT   WT WB WT   WT WP WP
WB UC UC    WB UC- UC   WB WC WC   WB WT WT   WB WB WB   WB WP WP
WP UC UC    WP UC- WC   WP WC WC   WP WT WT   WP WB WP   WP WP WP`

func TestEffectiveType(t *testing.T) {
	ring0test.HostOnly(t)
	words := strings.Fields(effectiveTable)
	seen := map[[2]ept.MemoryType]bool{}
	for i := 0; i < len(words); i += 3 {
		var v [3]ept.MemoryType
		for j := range v {
			var err error
			v[j], err = ept.ParseMemoryType(words[i+j])
			require.NoError(t, err)
		}
		seen[[2]ept.MemoryType{v[0], v[1]}] = true
		require.Equal(t, v[2], ept.EffectiveType(v[0], false, v[1], false), "%v with PAT %v", v[0], v[1])
		require.Equal(t, v[0], ept.EffectiveType(v[0], true, v[1], false))
		require.Equal(t, ept.UC, ept.EffectiveType(v[0], false, v[1], true))
		require.Equal(t, ept.UC, ept.EffectiveType(v[0], true, v[1], true))
	}
	require.Len(t, seen, 5*6)
	// Whatever the values, the result is a type that memory can have.
	for e := range 256 {
		for p := range 256 {
			for flags := range 4 {
				got := ept.EffectiveType(ept.MemoryType(e), flags&1 != 0, ept.MemoryType(p), flags&2 != 0)
				if !got.Valid() {
					t.Fatalf("EPT type %d with PAT type %d is %v", e, p, got)
				}
				if !ept.MemoryType(e).Valid() && got != ept.UC {
					t.Fatalf("reserved type %d is %v", e, got)
				}
			}
		}
	}
}

func TestMemoryTypes(t *testing.T) {
	names := map[ept.MemoryType]string{0: "UC", 1: "WC", 4: "WT", 5: "WP", 6: "WB", 7: "UC-"}
	for i := range 256 {
		mt := ept.MemoryType(i)
		name, ok := names[mt]
		require.Equal(t, ok, mt.ValidPAT())
		require.Equal(t, ok && i != 7, mt.Valid())
		if ok {
			require.Equal(t, name, mt.String())
			got, err := ept.ParseMemoryType(" " + strings.ToLower(name))
			require.NoError(t, err)
			require.Equal(t, mt, got)
		}
		require.Equal(t, ept.MemoryType(i&7), mt.Entry().MemoryType())
	}
	for _, s := range []string{"", "XX", "256", "MemoryType(256)", "-1"} {
		_, err := ept.ParseMemoryType(s)
		require.ErrorContains(t, err, "is no memory type")
	}
	got, end := ept.WB.At(1 << 40)
	require.Equal(t, ept.WB, got)
	require.Equal(t, uint64(math.MaxUint64), end)
}

// The PAT after reset is in SDM Vol. 3A table 12-12.
func TestPAT(t *testing.T) {
	for i, want := range []ept.MemoryType{ept.WB, ept.WT, ept.UCMinus, ept.UC, ept.WB, ept.WT, ept.UCMinus, ept.UC} {
		require.Equal(t, want, ept.PATReset.Type(i))
	}
	require.Equal(t, ept.MemoryType(0xff), ept.PAT(0xff<<40).Type(5))
}
