package ring0_test

// Programs booted from outside: how they end, and what they leave behind.

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/govtx/vtx/internal/bootimage"
	"github.com/govtx/vtx/internal/bootproto"
	"github.com/govtx/vtx/internal/bootproto/frames"
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
		for _, args := range [][]string{{act}, {"lend", act}} {
			t.Run(strings.Join(args, " "), func(t *testing.T) {
				t.Parallel()
				o := ends(t, 2, args...)
				for _, w := range want {
					require.Contains(t, o.stderr, w)
				}
			})
		}
	}
}

// Interrupts can be lent by the program, or before it starts.
var lenders = map[string]struct {
	args   []string
	change func(*machine.Config)
}{
	"by the program": {[]string{"lend"}, nil},
	"from the start": {nil, func(c *machine.Config) { c.Lent = true }},
}

// eachLender boots the guest with interrupts lent, in both ways.
func eachLender(t *testing.T, act string, check func(t *testing.T, o outcome)) {
	for name, l := range lenders {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			check(t, boot(t, l.change, append(l.args[:len(l.args):len(l.args)], act)...))
		})
	}
}

// The devices are as Bochs' firmware leaves them, in both cases.
func TestBootLentDevices(t *testing.T) {
	eachLender(t, "devices", func(t *testing.T, o outcome) {
		require.NoError(t, o.err, o.stderr)
		require.Equal(t, "masks 0xb8 0x8f, timer 0x34\ntrue true <nil>\ndeferred\n", o.stdout)
	})
}

// Interrupts that the 8254, the clock chip and the local APIC ask for do not
// come, while the garbage collector, timers, threads and recovered faults work.
func TestBootLentPending(t *testing.T) {
	eachLender(t, "pending", func(t *testing.T, o outcome) {
		require.NoError(t, o.err, o.stderr)
		require.Equal(t, "asked for: 1 1 1 delivered: 0\ncollected: true\nslept 19 minutes: 19m0s\n"+
			"recovered: runtime error: invalid memory address or nil pointer dereference\n"+
			"asked for: 1 1 1 delivered: 0\ndeferred\n", o.stdout)
		require.Less(t, o.result.Elapsed, time.Minute)
	})
}

func TestBootLentBase(t *testing.T) {
	eachLender(t, "base", func(t *testing.T, o outcome) {
		require.NoError(t, o.err, o.stderr)
		require.Equal(t, "timer interrupts on vector 8: 1\ndeferred\n", o.stdout)
	})
}

func TestBootLentSTI(t *testing.T) {
	eachLender(t, "sti", func(t *testing.T, o outcome) {
		require.NoError(t, o.err, o.stderr)
		require.Equal(t, 125, o.status)
		require.Contains(t, o.stderr, "interrupt on vector 64")
	})
}

// Where nothing skips sleep, a lent clock is that of the TSC alone.
func TestBootLentOnQEMU(t *testing.T) {
	o := boot(t, func(c *machine.Config) { c.Machine = machine.QEMU }, "lend", "nap")
	require.NoError(t, o.err, o.stderr)
	require.Equal(t, "napped true\ndeferred\n", o.stdout)

	// QEMU's processor does not tell the rate of its TSC, and nobody else may.
	o = boot(t, func(c *machine.Config) { c.Machine, c.Lent = machine.QEMU, true; c.Timeout = 10 * time.Second }, "nap")
	require.Equal(t, 125, o.status)
	require.Contains(t, o.stderr, "CPUID leaf 15H")
}

// The tests of what a program may expect of its runtime pass too, but for the
// one that needs a timer interrupt.
func TestBootLentRuntime(t *testing.T) {
	if ring0.Active() {
		t.Skip("this test boots machines; it runs on the host")
	}
	exe := filepath.Join(t.TempDir(), "ring0.test")
	cmd := exec.Command("go", "test", "-c", "-o", exe, ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Skipf("the test program cannot be built here: %v\n%s", err, out)
	}
	o := boot(t, func(c *machine.Config) { c.Program, c.Lent = exe, true },
		"-test.v", "-test.run=^Test(Goroutines|Locked|Timers|Sleep|Garbage|Returned|BigStack|Faults|Printing|Pipes|Environment|Mappings|AllocPages|FreeMemory)")
	require.NoError(t, o.err, o.stderr)
	require.Zero(t, o.status, o.stdout)
	for _, name := range []string{"TestLockedThreads", "TestTimersKeepOrder", "TestGarbageCollectionUnderLoad", "TestPipes", "TestFaultsBecomePanics"} {
		require.Contains(t, o.stdout, "--- PASS: "+name)
	}
}

// multibootStub is a kernel for QEMU's loader that goes on at entry as a multiboot
// loader would.
func multibootStub(entry, info uint32) []byte {
	const addr, offset = 0x100000, 0x60
	le := binary.LittleEndian
	b := []byte("\x7fELF\x01\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\x03\x00\x01\x00\x00\x00")
	for _, v := range []uint32{addr + 12, 52, 0, 0, 52 | 32<<16, 1, 0, // the rest of the header
		1, offset, addr, addr, 64, 64, 7, 4096} { // a segment to load
		b = le.AppendUint32(b, v)
	}
	b = append(b, make([]byte, offset-len(b))...)
	for _, v := range []uint32{0x1badb002, 0, 0xe4524ffe} { // magic, flags, and what makes their sum 0
		b = le.AppendUint32(b, v)
	}
	b = le.AppendUint32(append(b, 0xb8), bootproto.MultibootMagic) // MOV EAX, magic
	b = le.AppendUint32(append(b, 0xbb), info)                     // MOV EBX, info
	b = le.AppendUint32(append(b, 0xb9), entry)                    // MOV ECX, entry
	b = append(b, 0xff, 0xe1)                                      // JMP ECX
	return append(b, make([]byte, offset+64-len(b))...)
}

// A program that a hypervisor places in memory of its own runs in that alone: from
// 4 to 64 MiB here, of which QEMU is told, with poison beside it.
func TestBootPlaced(t *testing.T) {
	if ring0.Active() {
		t.Skip("this test boots machines; it runs on the host")
	}
	qemu, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		t.Skip("needs QEMU: apt-get install qemu-system-x86")
	}
	exe, err := guest()
	if err != nil {
		t.Skip("the guest program cannot be built here:", err)
	}
	f, err := os.Open(exe)
	require.NoError(t, err)
	defer f.Close()
	st, err := f.Stat()
	require.NoError(t, err)
	program, err := bootimage.Open(f, st.Size())
	require.NoError(t, err)

	const base, end = 4 << 20, 64 << 20
	memory := bytes.Repeat([]byte{0xa5}, end-base)
	entry, info, err := program.PlaceMultiboot(memory, base, []bootimage.MemoryRange{{Start: base, End: end, Type: 1}}, &bootimage.Config{
		Args: []string{"guest", "placed"}, Dir: "/", Exe: "/guest", Dirs: []string{"/"}, TSC: 1_000_000_000,
		Flags:   bootproto.FlagFramed | bootproto.FlagLent,
		Modules: []bootimage.Module{{Name: "m", Data: strings.NewReader("of the host"), Size: 11}},
	})
	require.NoError(t, err)

	dir := t.TempDir()
	args := []string{
		"-nodefaults", "-no-user-config", "-display", "none", "-machine", "pc", "-cpu", "max", "-m", "96", "-no-reboot",
		"-chardev", "stdio,id=out,signal=off", "-device", "isa-debugcon,iobase=0xe9,chardev=out",
	}
	load := func(option, name string, data []byte, at int) {
		file := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(file, data, 0o600))
		if option == "-kernel" {
			args = append(args, option, file)
			return
		}
		args = append(args, option, fmt.Sprintf("loader,file=%s,addr=%#x,force-raw=on", file, at))
	}
	load("-kernel", "stub.elf", multibootStub(entry, info), 0)
	load("-device", "memory", memory, base)
	load("-device", "below", bytes.Repeat([]byte{0xa5}, 2<<20), 2<<20)
	load("-device", "above", bytes.Repeat([]byte{0xa5}, 8<<20), end) // the firmware works further up

	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var lines []string
	console := &frames.Console{Line: func(kind byte, line []byte) { lines = append(lines, fmt.Sprintf("%d %s", kind, line)) }}
	cmd := exec.CommandContext(ctx, qemu, args...)
	cmd.Stdout = writerFunc(func(p []byte) {
		console.Write(p)
		if _, exited := console.Exit(); exited {
			cancel() // it has no way to switch this machine off
		}
	})
	_ = cmd.Run() // ended by cancel
	console.Close()
	status, exited := console.Exit()
	require.True(t, exited, "%q", lines)
	require.Zero(t, status)
	require.Equal(t, []string{
		"1 [0x000000400000-0x000004000000) usable",
		"1 module m: of the host",
		"1 320 objects of 64 KiB, at least 3 collections: true",
		"1 slept: true 1970",
		"1 changed from 0x200000 to 0x400000: 0",
		"1 changed from 0x4000000 to 0x4800000: 0",
		"1 deferred",
	}, lines)
}

type writerFunc func(p []byte)

func (f writerFunc) Write(p []byte) (int, error) { f(p); return len(p), nil }

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
