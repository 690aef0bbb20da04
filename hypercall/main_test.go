package hypercall_test

import (
	"os"
	"testing"

	"pgregory.net/rapid"

	"github.com/govtx/vtx/internal/ring0test"
	"github.com/govtx/vtx/ring0"
)

func TestMain(m *testing.M) { os.Exit(ring0test.Main(m)) }

// hostOnly skips, in ring 0, a test that takes long there and that no processor has
// a part in.
func hostOnly(t *testing.T) {
	t.Helper()
	if ring0.Active() {
		t.Skip("tested on the host: no processor has a part in it")
	}
}

// checkOnHost is rapid.Check, but for hostOnly.
func checkOnHost(t *testing.T, property func(*rapid.T)) {
	t.Helper()
	hostOnly(t)
	rapid.Check(t, property)
}
