// Package ring0test is for tests that belong in ring 0. Run as an ordinary
// process they are skipped, and counted.
package ring0test

import (
	"fmt"
	"os"
	"runtime/debug"
	"sync/atomic"
	"testing"

	"github.com/govtx/vtx/ring0"
)

var skipped atomic.Int64

// Need skips a test that does not run in ring 0.
func Need(t testing.TB) {
	t.Helper()
	if !ring0.Active() {
		skipped.Add(1)
		t.Skip("needs ring 0")
	}
}

// Main is for TestMain: it runs the tests and says in one line how many of them
// were skipped by Need. Go shows that line for a single package, and with -v.
func Main(m *testing.M) (status int) {
	status = m.Run()
	if n := skipped.Load(); n > 0 {
		fmt.Fprintf(os.Stderr, "%d tests that need ring 0 were skipped: make test runs them on VT-x\n", n)
	}
	return status
}

// Optimised tells that the program was built without flags that make it slow. What
// a test says of speed or of allocations holds only then.
func Optimised() bool {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return false
	}
	for _, s := range info.Settings {
		if s.Key == "-gcflags" || s.Key == "-cover" && s.Value == "true" {
			return false
		}
	}
	return true
}
