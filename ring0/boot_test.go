package ring0_test

// Programs booted from outside: how they end, and what they leave behind.

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/govtx/vtx/internal/machine"
	"github.com/govtx/vtx/internal/require"
	"github.com/govtx/vtx/internal/ring0test"
	"github.com/govtx/vtx/ring0"
)

var guest = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "ring0-guest")
	if err != nil {
		return "", err
	}
	exe := filepath.Join(dir, "guest")
	cmd := exec.Command("go", "build", "-o", exe, "./testdata/guest")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("go build: %v\n%s", err, out)
	}
	return exe, nil
})

func TestMain(m *testing.M) {
	status := ring0test.Main(m)
	if exe, err := guest(); !ring0.Active() && err == nil {
		os.RemoveAll(filepath.Dir(exe))
	}
	os.Exit(status)
}

// An outcome is what a program left.
type outcome struct {
	status         int
	stdout, stderr string
	result         machine.Result
	err            error
	dir            string
}

// boot runs the guest program, as far as its machine can be had here.
func boot(t *testing.T, change func(*machine.Config), args ...string) outcome {
	t.Helper()
	if ring0.Active() {
		t.Skip("this test boots machines; it runs on the host")
	}
	exe, err := guest()
	if err != nil {
		t.Skip("the guest program cannot be built here:", err)
	}
	var stdout, stderr bytes.Buffer
	dir := t.TempDir()
	cfg := machine.Config{
		Program: exe, Args: args, Env: []string{"VTX_GREETING=good morning"},
		Dir: dir, Dirs: machine.GuestDirs(dir, nil, args),
		Timeout: 2 * time.Minute, Stdout: &stdout, Stderr: &stderr,
	}
	if change != nil {
		change(&cfg)
	}
	if _, err := exec.LookPath(map[string]string{machine.QEMU: "qemu-system-x86_64"}[cfg.Machine]); err != nil && cfg.Machine == machine.QEMU {
		t.Skip("needs QEMU: apt-get install qemu-system-x86")
	}
	if _, err := exec.LookPath("bochs"); err != nil && cfg.Machine == "" {
		t.Skip("needs Bochs: apt-get install bochs bochsbios vgabios")
	}
	r, err := machine.Run(context.Background(), cfg)
	return outcome{r.Status, stdout.String(), stderr.String(), r, err, dir}
}

// ends boots the guest and expects it to end by itself.
func ends(t *testing.T, status int, args ...string) outcome {
	t.Helper()
	o := boot(t, nil, args...)
	require.NoError(t, o.err, "stdout %q, stderr %q", o.stdout, o.stderr)
	require.True(t, o.result.Exited)
	require.Equal(t, status, o.status, "stdout %q, stderr %q", o.stdout, o.stderr)
	return o
}

func TestBootPassesArgumentsAndEnvironment(t *testing.T) {
	o := ends(t, 0, "echo", "two words", "", "ü\n")
	require.Equal(t, "[\"two words\" \"\" \"ü\\n\"]\ngood morning\ndeferred\n", o.stdout)
	require.Equal(t, "to stderr\n", o.stderr)
}

func TestBootExitStatus(t *testing.T) { ends(t, 42, "exit") }

func TestBootTracebacks(t *testing.T) {
	for act, want := range map[string][]string{
		"panic":    {"panic: on purpose", "main.deep(", "testdata/guest/main.go:"},
		"nil":      {"invalid memory address or nil pointer dereference", "SIGSEGV", "main.init.func"},
		"throw":    {"fatal error: sync: unlock of unlocked mutex", "main.init.func"},
		"deadlock": {"fatal error: all goroutines are asleep - deadlock!", "goroutine 1 [select (no cases)]"},
		"overflow": {"stack overflow", "goroutine stack exceeds 1048576-byte limit", "main.endless("},
		"illegal":  {"SIGILL: illegal instruction"},
	} {
		t.Run(act, func(t *testing.T) {
			t.Parallel()
			o := ends(t, 2, act)
			for _, w := range want {
				require.Contains(t, o.stderr, w)
			}
		})
	}
}

func TestBootEndedBySignal(t *testing.T) {
	o := ends(t, 128+15, "abort")
	require.Contains(t, o.stderr, "ended by signal 15")
}

// A sleep of an hour passes in no time, on the program's own clock too.
func TestBootSkipsSleep(t *testing.T) {
	o := ends(t, 0, "sleep")
	require.Equal(t, "slept\ndeferred\n", o.stdout)
	require.Less(t, o.result.Elapsed, time.Minute)
}

func TestBootTwiceIsTheSame(t *testing.T) {
	dir := t.TempDir()
	same := func(c *machine.Config) { c.Dir, c.Dirs = dir, nil }
	first, second := boot(t, same, "repeat"), boot(t, same, "repeat")
	require.NoError(t, first.err)
	require.Equal(t, first.stdout, second.stdout)
	require.Equal(t, first.result.Stats, second.result.Stats)
}

func TestBootTripleFault(t *testing.T) {
	o := boot(t, nil, "reset")
	require.ErrorIs(t, o.err, machine.ErrTripleFault)
}

func TestBootTimeout(t *testing.T) {
	o := boot(t, func(c *machine.Config) { c.Timeout = 8 * time.Second }, "spin")
	require.ErrorIs(t, o.err, machine.ErrTimeout)
	require.Equal(t, "spinning\n", o.stdout)
}

func TestBootOutOfMemory(t *testing.T) {
	o := ends(t, 125, "devour")
	require.Contains(t, o.stderr, "out of memory")
	require.Contains(t, o.stderr, "-memory")
}

func TestBootFilesComeBack(t *testing.T) {
	named := filepath.Join(t.TempDir(), "named.txt")
	o := ends(t, 0, "files", named)
	for name, want := range map[string]string{
		filepath.Join(o.dir, "here.txt"):     "in the working directory\n",
		filepath.Join(o.dir, "a/b/deep.bin"): strings.Repeat("x", 3<<20),
		filepath.Join(o.dir, "empty"):        "",
		named:                                "named by an argument\n",
	} {
		got, err := os.ReadFile(name)
		require.NoError(t, err)
		if string(got) != want {
			t.Errorf("%s holds %d bytes, not the %d written", name, len(got), len(want))
		}
	}
	_, err := os.Stat(filepath.Join(o.dir, "gone"))
	require.ErrorIs(t, err, os.ErrNotExist)
}

func TestBootModules(t *testing.T) {
	dir := t.TempDir()
	small, large := filepath.Join(dir, "small"), filepath.Join(dir, "large")
	require.NoError(t, os.WriteFile(small, []byte("a module"), 0o600))
	require.NoError(t, os.WriteFile(large, bytes.Repeat([]byte("0123456789abcde\n"), 1<<16), 0o600))
	o := boot(t, func(c *machine.Config) {
		c.Modules = []machine.Module{{Name: "small", File: small}, {Name: "sub/large.bin", File: large}}
	}, "modules")
	require.NoError(t, o.err)
	require.Equal(t, "small 8 bytes at a page: true, same as file: true, <nil>\n"+
		"sub/large.bin 1048576 bytes at a page: true, same as file: true, <nil>\ndeferred\n", o.stdout, o.stderr)
}

func TestBootUsesMemoryAbove4GiB(t *testing.T) {
	o := boot(t, func(c *machine.Config) { c.Memory = 5 << 30; c.Machine = machine.QEMU }, "memory")
	require.NoError(t, o.err, o.stderr)
	var total, above int
	_, err := fmt.Sscanf(o.stdout, "total MiB %d\nabove 4 GiB %d", &total, &above)
	require.NoError(t, err, o.stdout)
	require.LessOrEqual(t, 5<<10-64, total)
	require.Equal(t, 2<<10, above)
	require.Contains(t, o.stdout, "heap above 4 GiB true <nil>\nall of it at once 0 true\n")
}

func TestBootHeapOfGigabytes(t *testing.T) {
	if testing.Short() {
		t.Skip("allocates 2 GiB in the guest")
	}
	o := boot(t, func(c *machine.Config) { c.Memory = 3 << 30 }, "heap")
	require.NoError(t, o.err, o.stderr)
	require.Equal(t, "32768 objects of 64 KiB, at least 3 collections: true\ndeferred\n", o.stdout)
}
