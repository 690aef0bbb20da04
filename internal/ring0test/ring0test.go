// Package ring0test is for tests that belong in ring 0, or do not. Those that do are
// skipped, and counted, when they run as an ordinary process.
package ring0test

import (
	"flag"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"sync/atomic"
	"testing"

	"pgregory.net/rapid"

	"github.com/govtx/vtx/asm"
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

// HostOnly skips, in ring 0, a test that takes long there and that no processor has a
// part in.
func HostOnly(t testing.TB) {
	t.Helper()
	if ring0.Active() {
		t.Skip("tested on the host: no processor has a part in it")
	}
}

// CheckOnHost is rapid.Check, but for [HostOnly].
func CheckOnHost(t *testing.T, property func(*rapid.T)) {
	t.Helper()
	HostOnly(t)
	rapid.Check(t, property)
}

var share = flag.Int("ring0.share", 1, "draw one in `N` of what is compared with the processor")

// Share returns how many of n draws to make, which is all of them unless the flag
// -ring0.share says that another boot makes those.
func Share(n int) int { return max(1, n/max(1, *share)) }

// Check is rapid.Check with its Share of draws.
func Check(t *testing.T, property func(*rapid.T)) {
	t.Helper()
	f := flag.Lookup("rapid.checks")
	all := f.Value.String()
	n, err := strconv.Atoi(all)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Value.Set(all) })
	if err := f.Value.Set(strconv.Itoa(Share(n))); err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, property)
}

// Whole reports whether Share leaves all draws, so that what is rare among them can be
// expected to come up.
func Whole() bool { return *share <= 1 }

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

// Counted tells that what is said of numbers of instructions can be held to here: the
// TSC counts them, as it does on Bochs, the one machine with VMX that answers at port
// 0xe9, and the program is Optimised.
func Counted() bool { return asm.IN8(0xe9) == 0xe9 && Optimised() }

// Ticks returns how many ticks of the TSC f takes, with interrupts off.
func Ticks(f func()) uint64 {
	asm.CLI()
	start := asm.RDTSC()
	f()
	n := asm.RDTSC() - start
	asm.STI()
	return n
}

// Quiet has no collection of garbage under way until the function that it returns is
// called: during one each write of a pointer takes longer.
func Quiet() (restore func()) {
	percent := debug.SetGCPercent(-1)
	runtime.GC()
	return func() { debug.SetGCPercent(percent) }
}

// Least measures some times, quietly, and returns the least. What is left to chance with
// interrupts off is that a goroutine whose time is up gives way at its next call.
func Least(measure func() uint64) uint64 {
	defer Quiet()()
	least := measure()
	for range 4 {
		least = min(least, measure())
	}
	return least
}
