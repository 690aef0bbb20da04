package ring0test

import (
	"flag"
	"testing"

	"github.com/govtx/vtx/internal/require"
	"pgregory.net/rapid"
)

// Check draws as many times as rapid would, or one in as many as the flag says, and leaves rapid
// as it was.
func TestCheck(t *testing.T) {
	old := *share
	t.Cleanup(func() { *share = old })
	for of, want := range map[int]int{-1: 100, 0: 100, 1: 100, 3: 33, 1000: 1} {
		*share = of
		drawn := 0
		t.Run("", func(t *testing.T) { Check(t, func(*rapid.T) { drawn++ }) })
		require.Equal(t, want, drawn)
		require.Equal(t, want == 100, Whole())
		require.Equal(t, "100", flag.Lookup("rapid.checks").Value.String())
	}
}
