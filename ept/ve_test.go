package ept_test

import (
	"testing"

	"github.com/govtx/vtx/ept"
	"github.com/govtx/vtx/internal/require"
)

func TestConvertible(t *testing.T) {
	m := fullMode()
	require.False(t, m.Convertible(0))
	m.ViolationVE = true
	for _, e := range []ept.Entry{0, ept.Read, ept.Read | ept.Large} {
		require.True(t, m.Convertible(e))
		require.False(t, m.Convertible(e|ept.SuppressVE))
	}
}

// #VE is raised in one state only.
func TestVEState(t *testing.T) {
	for i := range 32 {
		s := ept.VEState{ProtectedMode: i&1 != 0, Delivering: i&2 != 0, Asynchronous: i&4 != 0, ShadowStack: i&8 != 0, Busy: i&16 != 0}
		require.Equal(t, i == 1, s.Raises(), "%+v", s)
	}
}
