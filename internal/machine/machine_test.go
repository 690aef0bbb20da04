package machine

import (
	"bytes"
	"context"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/govtx/vtx/internal/bootimage"
	"github.com/govtx/vtx/internal/bootproto"
	"github.com/govtx/vtx/internal/bootproto/frames"
	"github.com/govtx/vtx/internal/machine/machinetest"
)

func TestMain(m *testing.M) {
	machinetest.Fake()
	os.Exit(m.Run())
}

func frame(typ byte, s string) string { return string(frames.Append(nil, typ, []byte(s))) }

func exitFrame(status uint32, stats ...uint64) string {
	p := binary.LittleEndian.AppendUint32(nil, status)
	for _, s := range stats {
		p = binary.LittleEndian.AppendUint64(p, s)
	}
	return frame(bootproto.FrameExit, string(p))
}

// A bench is a place to run machines in, which notices what they leave behind.
type bench struct {
	dir, temp, pids string
	out, err        bytes.Buffer
	cfg             Config
}

// newBench prepares a run of the fake emulator.
func newBench(t *testing.T, script string) *bench {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("the fake emulator's processes are counted in /proc: Linux only")
	}
	root := t.TempDir()
	b := &bench{dir: filepath.Join(root, "work"), temp: filepath.Join(root, "temp"), pids: filepath.Join(root, "pids")}
	share := filepath.Join(root, "share")
	for _, d := range []string{b.dir, b.temp, b.pids, share} {
		require.NoError(t, os.Mkdir(d, 0o755))
	}
	for _, rom := range []string{"BIOS-bochs-latest", "VGABIOS-lgpl-latest"} {
		write0(t, share, rom, "", 0o644)
	}
	t.Setenv("BXSHARE", share)
	t.Setenv("TMPDIR", b.temp)
	if script != "" {
		t.Setenv(machinetest.FakeEnv, "pid="+b.pids+";"+script)
		self, err := os.Executable()
		require.NoError(t, err)
		b.cfg.Emulator = self
	}
	prog := filepath.Join(root, "prog")
	require.NoError(t, os.WriteFile(prog, machinetest.Guest([]byte("unused"), machinetest.Hang, 0), 0o755))
	b.cfg.Program, b.cfg.Dir = prog, b.dir
	b.cfg.Stdout, b.cfg.Stderr = &b.out, &b.err
	b.cfg.Timeout = 20 * time.Second // a failing test ends, too
	return b
}

// file leaves content in a file for the fake to send.
func (b *bench) file(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(filepath.Dir(b.dir), fmt.Sprintf("content%d", len(content)))
	require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
	return path
}

// run runs the machine and checks that nothing of it is left.
func (b *bench) run(t *testing.T, ctx context.Context) (Result, error) {
	t.Helper()
	res, err := Run(ctx, b.cfg)
	b.clean(t)
	return res, err
}

func (b *bench) clean(t *testing.T) {
	t.Helper()
	require.Empty(t, tree(t, b.temp), "temporary files")
	require.Eventually(t, func() bool {
		pids, err := machinetest.Alive(b.pids)
		return err == nil && len(pids) == 0
	}, 2*time.Second, 10*time.Millisecond, "processes are left")
}

func TestRunForwards(t *testing.T) {
	b := newBench(t, "hang")
	content := "banner\n" + frame(bootproto.FrameBoot, "") + frame(bootproto.FrameStdout, "one ") + "noise" +
		frame(bootproto.FrameStderr, "err ") + frame(bootproto.FrameKernel, "kernel\n") +
		frame(bootproto.FrameFile, string(fileFrame(0o644, "out.txt"))) + frame(bootproto.FrameData, "file") +
		frame(bootproto.FrameStdout, "two") + exitFrame(3, 10, 20) + frame(bootproto.FrameStdout, "after the end")
	t.Setenv(machinetest.FakeEnv, "pid="+b.pids+";spawn="+b.pids+";out="+b.file(t, content)+";hang")
	start := time.Now()
	res, err := b.run(t, context.Background())
	require.NoError(t, err)
	require.Less(t, time.Since(start), 10*time.Second, "the exit frame must end the run")
	require.True(t, res.Exited)
	require.True(t, res.Booted)
	require.Equal(t, 3, res.Status)
	require.EqualValues(t, 10, res.Stats[bootproto.StatTSC])
	require.EqualValues(t, 20, res.Stats[bootproto.StatSyscalls])
	require.Empty(t, res.Warnings)
	require.Equal(t, "one two", b.out.String())
	require.Equal(t, "err kernel\n", b.err.String())
	got, err := os.ReadFile(filepath.Join(b.dir, "out.txt"))
	require.NoError(t, err)
	require.Equal(t, "file", string(got))
}

// What is printed arrives while the guest still runs.
func TestRunStreams(t *testing.T) {
	b := newBench(t, "hang")
	t.Setenv(machinetest.FakeEnv, "pid="+b.pids+";out="+b.file(t, frame(bootproto.FrameStdout, "early"))+";hang")
	r, w := io.Pipe()
	b.cfg.Stdout = w
	ctx, cancel := context.WithCancelCause(context.Background())
	stop := errors.New("seen")
	go func() {
		got := make([]byte, 5)
		if _, err := io.ReadFull(r, got); err == nil && string(got) == "early" {
			cancel(stop)
		}
	}()
	_, err := b.run(t, ctx)
	require.ErrorIs(t, err, stop)
}

// Bochs' display takes one of 50 ports: while all are taken, the run waits.
func TestRunWaitsForPort(t *testing.T) {
	b := newBench(t, "hang")
	var traces []string
	b.cfg.Trace = func(format string, args ...any) { traces = append(traces, fmt.Sprintf(format, args...)) }
	t.Setenv(machinetest.FakeEnv, "pid="+b.pids+";err=00000p[RFB   ] >>PANIC<< RFB could not bind any port between 5900 and 5949;once="+
		filepath.Join(b.dir, "tried")+";out="+b.file(t, frame(bootproto.FrameStdout, "at last")+exitFrame(5))+";hang")
	res, err := b.run(t, context.Background())
	require.NoError(t, err)
	require.Equal(t, 5, res.Status)
	require.Equal(t, "at last", b.out.String())
	require.Contains(t, strings.Join(traces, "\n"), "could not bind any port between 5900 and 5949; trying again")
}

// Each way to fail: the error, what it says, and that what was printed before
// is there.
func TestRunFailures(t *testing.T) {
	boot := frame(bootproto.FrameBoot, "")
	for _, tc := range []struct {
		name    string
		content string // what the guest sends
		script  string // what the emulator does then
		set     func(c *Config)
		is      error
		says    []string
		notSays string
		out     string   // standard output
		left    []string // files of the guest that are there
	}{
		{
			name: "timeout", content: boot + frame(1, "partial"), script: "spawn=PIDS;hang",
			set: func(c *Config) { c.Timeout = 700 * time.Millisecond },
			is:  ErrTimeout, says: []string{"700ms", "-timeout"}, notSays: "never took over", out: "partial",
		},
		{
			name: "timeout in a frame", content: boot + frame(1, "partial")[:12], script: "hang",
			set: func(c *Config) { c.Timeout = 700 * time.Millisecond },
			is:  ErrTimeout, out: "par",
		},
		{
			name: "timeout before ring0", content: "Bochs x86 Emulator\nNo bootable device.\n", script: "hang",
			set: func(c *Config) { c.Timeout = 700 * time.Millisecond },
			is:  ErrTimeout, says: []string{"ring0 never took over", "No bootable device."}, notSays: "Bochs x86",
		},
		{
			name: "timeout before ring0, much memory", script: "hang",
			set: func(c *Config) { c.Timeout, c.Memory = 700*time.Millisecond, 100<<30 },
			is:  ErrTimeout, says: []string{"pass less than -memory 102400", "ring0 never took over"},
		},
		{
			name: "busy until the timeout", script: "err=00000p[RFB   ] >>PANIC<< RFB could not bind any port between 5900 and 5949;exit=1",
			set: func(c *Config) { c.Timeout = 240 * time.Millisecond },
			is:  ErrTimeout, says: []string{"too many emulators at once", "RFB could not bind any port between 5900 and 5949"}, notSays: "never took over",
		},
		{
			name: "triple fault", content: boot + frame(1, "before"),
			script: "err=00007i[CPU0  ] | RIP=0000000000400123 (0000000000400123);err=00007p[CPU0  ] >>PANIC<< exception(): 3rd (13) exception with no resolution;exit=1",
			is:     ErrTripleFault, says: []string{"vector 13", "RIP 0x400123", "-log"}, out: "before",
		},
		{
			name: "panic", content: boot + frame(2, "e"),
			script: "err=00000p[HD    ] >>PANIC<< could not open \x1b[31mdisk;exit=1",
			is:     ErrEmulator, says: []string{"could not open [31mdisk", "-log"},
		},
		{
			name: "unknown model", script: "err=00000e[      ] bochsrc:7: wrong value for parameter 'model';err=00000p[      ] >>PANIC<< bochsrc:7: cpu directive malformed.;exit=1",
			set: func(c *Config) { c.CPU = "sextant" },
			is:  ErrCPUModel, says: []string{`"sextant"`, "abacus, slide_rule", "-cpu"},
		},
		{
			name: "model that breaks the configuration", script: "exit=0",
			set: func(c *Config) { c.CPU = "x, ips=5\nlog: /etc/passwd" },
			is:  ErrCPUModel, says: []string{"abacus, slide_rule"},
		},
		{
			name: "shutdown", content: boot + frame(1, "bye"),
			script: "err=00000p[UNMAP ] >>PANIC<< Shutdown port: shutdown requested;exit=1",
			is:     ErrNoExit, says: []string{"os.Exit"}, out: "bye",
		},
		{
			name: "early end", content: boot + frame(1, "x"), script: "err=00000e[CPU0  ] VMENTER FAIL: reason;exit=0",
			is: ErrNoExit, says: []string{"status 0", "VMENTER FAIL: reason"}, out: "x",
		},
		{
			name: "early end with a status", script: "exit=17",
			is: ErrNoExit, says: []string{"exit status 17"},
		},
		{
			name: "emulator killed", content: boot + frame(1, "x"), script: "spawn=PIDS;crash",
			is: ErrEmulator, says: []string{"signal: killed"}, out: "x",
		},
		{
			name: "too much output", script: "flood=CONTENT", content: frame(1, strings.Repeat("y", 1000)),
			set: func(c *Config) { c.MaxOutput = 4500 },
			is:  ErrOutputLimit, says: []string{"4500", "-max-output"}, out: strings.Repeat("y", 4500),
		},
		{
			name: "too much chatter", script: "flood=CONTENT", content: strings.Repeat("y", 1000),
			set: func(c *Config) { c.MaxOutput = 1 << 20 },
			is:  ErrOutputLimit,
		},
		{
			name: "too big a file", script: "flood=CONTENT", content: frame(3, string(fileFrame(0o644, "f"))) + frame(4, strings.Repeat("y", 1000)),
			set: func(c *Config) { c.MaxOutput = 1 << 20 },
			is:  ErrOutputLimit, says: []string{`file "f" was not complete`}, left: []string{"f"}, // the ones before it were
		},
		{
			name: "file that cannot be written", content: frame(3, string(fileFrame(0o644, "/"))) + frame(1, "x") + exitFrame(0),
			script: "hang", says: []string{`file "/" cannot be written`}, out: "x",
		},
		{
			name: "file cut off", content: boot + frame(3, string(fileFrame(0o644, "f"))) + frame(4, "half"),
			script: "exit=1", is: ErrNoExit, says: []string{`file "f" was not complete`},
		},
		{
			name: "standard output closed", content: frame(1, "x"), script: "hang",
			set: func(c *Config) { c.Stdout = failWriter{os.ErrClosed} },
			is:  ErrOutput, says: []string{"standard output", "closed"},
		},
		{
			name: "standard error closed", content: frame(7, "x"), script: "hang",
			set: func(c *Config) { c.Stderr = failWriter{os.ErrClosed} },
			is:  ErrOutput, says: []string{"standard error"},
		},
		{
			name: "too little memory", script: "exit=0", set: func(c *Config) { c.Memory = 1 << 20 },
			is: ErrMemory, says: []string{"1 MiB", "-memory"},
		},
		{
			name: "log that cannot be written", script: "exit=0", set: func(c *Config) { c.Log = "/nonexistent/log" },
			says: []string{"/nonexistent/log"},
		},
		{
			name: "image that cannot be written", script: "exit=0", set: func(c *Config) { c.Image = "/nonexistent/image" },
			says: []string{"/nonexistent/image"},
		},
		{
			name: "image on a device", script: "exit=0", set: func(c *Config) { c.Image = os.DevNull },
			says: []string{"not a regular file"},
		},
		{
			name: "missing emulator", set: func(c *Config) { c.Emulator = "no-such-bochs" },
			is: ErrNoEmulator, says: []string{`"no-such-bochs"`, "apt-get install bochs bochsbios vgabios", "-emulator"},
		},
		{
			name: "missing qemu", set: func(c *Config) { c.Machine, c.Emulator = QEMU, "no-such-qemu" },
			is: ErrNoEmulator, says: []string{"apt-get install qemu-system-x86"},
		},
		{
			name: "unknown model of qemu", script: "err=qemu-system-x86_64: unable to find CPU model 'z80';exit=1",
			set: func(c *Config) { c.Machine, c.CPU = QEMU, "z80" },
			is:  ErrCPUModel, says: []string{`"z80"`, "-cpu help"},
		},
		{
			name: "triple fault on qemu", content: boot, script: "err=Triple fault;exit=0",
			set: func(c *Config) { c.Machine = QEMU },
			is:  ErrTripleFault,
		},
		{
			name: "qemu fails", script: "err=qemu-system-x86_64: cannot set up guest memory;exit=1",
			set: func(c *Config) { c.Machine = QEMU },
			is:  ErrNoExit, says: []string{"cannot set up guest memory", "exit status 1"},
		},
		{
			name: "unknown machine", set: func(c *Config) { c.Machine = "pdp11" },
			is: ErrConfig, says: []string{`"pdp11"`, "bochs, qemu or none"},
		},
		{
			name: "no machine and no image", set: func(c *Config) { c.Machine = None },
			is: ErrConfig, says: []string{"-image"},
		},
		{
			name: "crooked memory", set: func(c *Config) { c.Memory = 12345 },
			is: ErrConfig, says: []string{"12345", "1 MiB"},
		},
		{
			name: "missing program", set: func(c *Config) { c.Program = "/nonexistent/prog" },
			is: os.ErrNotExist, says: []string{"/nonexistent/prog"},
		},
		{
			name: "a directory for a program", set: func(c *Config) { c.Program = "/" },
			says: []string{"not a regular file"},
		},
		{
			name: "missing module", set: func(c *Config) { c.Modules = []Module{{"m", "/nonexistent/mod"}} },
			is: os.ErrNotExist, says: []string{"module m"},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := newBench(t, "hang")
			script := strings.ReplaceAll(tc.script, "PIDS", b.pids)
			if content := b.file(t, tc.content); strings.Contains(script, "CONTENT") {
				script = strings.ReplaceAll(script, "CONTENT", content)
			} else {
				script = "out=" + content + ";" + script
			}
			t.Setenv(machinetest.FakeEnv, "pid="+b.pids+";"+script)
			if tc.set != nil {
				tc.set(&b.cfg)
			}
			_, err := b.run(t, context.Background())
			require.Error(t, err)
			t.Log(err)
			if tc.is != nil {
				require.ErrorIs(t, err, tc.is)
			}
			for _, s := range tc.says {
				require.ErrorContains(t, err, s)
			}
			if tc.notSays != "" {
				require.NotContains(t, err.Error(), tc.notSays)
			}
			require.Equal(t, tc.out, b.out.String())
			require.Equal(t, tc.left, tree(t, b.dir))
		})
	}
}

func TestRunMissingROM(t *testing.T) {
	b := newBench(t, "exit=0")
	old := romDirs
	t.Cleanup(func() { romDirs = old })
	romDirs = []string{"/nonexistent/share"}
	share := os.Getenv("BXSHARE")
	for _, rom := range []string{"VGABIOS-lgpl-latest", "BIOS-bochs-latest"} {
		require.NoError(t, os.Remove(filepath.Join(share, rom)))
		_, err := b.run(t, context.Background())
		require.ErrorIs(t, err, ErrNoEmulator)
		require.ErrorContains(t, err, rom)
		require.ErrorContains(t, err, "apt-get install")
		require.ErrorContains(t, err, "/nonexistent/share")
	}
}

// An ELF file that cannot boot, in each way that package bootimage knows, ends
// before any emulator starts.
func TestRunUnfitPrograms(t *testing.T) {
	good := machinetest.Guest([]byte("x"), machinetest.Hang, 0)
	edit := func(f func(b []byte) []byte) []byte { return f(bytes.Clone(good)) }
	for name, tc := range map[string]struct {
		file []byte
		says string
	}{
		"empty":     {nil, "not an ELF file"},
		"text":      {[]byte("#!/bin/sh\n"), "not an ELF file"},
		"truncated": {good[:len(good)-1], "truncated"},
		"arm64":     {edit(func(b []byte) []byte { b[18] = byte(elf.EM_AARCH64); return b }), "GOARCH=amd64"},
		"dynamic":   {edit(func(b []byte) []byte { b[16] = byte(elf.ET_DYN); return b }), "CGO_ENABLED=0"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, "exit=0")
			require.NoError(t, os.WriteFile(b.cfg.Program, tc.file, 0o755))
			_, err := b.run(t, context.Background())
			require.ErrorContains(t, err, tc.says)
			require.ErrorContains(t, err, b.cfg.Program)
			require.Empty(t, tree(t, b.pids))
		})
	}
	b := newBench(t, "exit=0")
	require.NoError(t, os.WriteFile(b.cfg.Program, bytes.Replace(good, []byte("vtx-ring"), []byte("vtx-rung"), 1), 0o755))
	_, err := b.run(t, context.Background())
	require.ErrorIs(t, err, bootimage.ErrNoRing0)
}

func TestRunCancel(t *testing.T) {
	b := newBench(t, "hang")
	t.Setenv(machinetest.FakeEnv, "pid="+b.pids+";spawn="+b.pids+";out="+b.file(t, frame(1, "x"))+";hang")
	cause := errors.New("enough")
	ctx, cancel := context.WithCancelCause(context.Background())
	time.AfterFunc(500*time.Millisecond, func() { cancel(cause) })
	res, err := b.run(t, ctx)
	require.ErrorIs(t, err, cause)
	require.False(t, res.Exited)
	require.Equal(t, "x", b.out.String())

	_, err = b.run(t, ctx) // over before it begins
	require.ErrorIs(t, err, cause)
}

// A process that leaves the group and keeps the pipes open delays the end, but
// does not prevent it.
func TestRunEscapedProcess(t *testing.T) {
	b := newBench(t, "hang")
	old := idleGrace
	t.Cleanup(func() { idleGrace = old })
	idleGrace = 100 * time.Millisecond
	other := t.TempDir()
	t.Cleanup(func() {
		pids, err := machinetest.Alive(other)
		require.NoError(t, err)
		require.Len(t, pids, 1)
		p, err := os.FindProcess(pids[0])
		require.NoError(t, err)
		require.NoError(t, p.Kill())
	})
	t.Setenv(machinetest.FakeEnv, "pid="+b.pids+";escape="+other+";out="+b.file(t, frame(1, "all of it"))+";exit=4")
	_, err := b.run(t, context.Background())
	require.ErrorIs(t, err, ErrNoExit)
	require.ErrorContains(t, err, "exit status 4")
	require.Equal(t, "all of it", b.out.String())
}

// When nobody takes the output, the timeout still ends the run.
func TestRunBlockedOutput(t *testing.T) {
	b := newBench(t, "hang")
	old := blockGrace
	t.Cleanup(func() { blockGrace = old })
	blockGrace = 100 * time.Millisecond
	r, w := io.Pipe()
	b.cfg.Stdout = w
	b.cfg.Timeout = time.Second
	content := frame(3, string(fileFrame(0o644, "f"))) + frame(4, "data") + frame(1, "x")
	t.Setenv(machinetest.FakeEnv, "pid="+b.pids+";out="+b.file(t, content)+";exit=0")
	_, err := b.run(t, context.Background())
	require.ErrorIs(t, err, ErrTimeout)
	require.ErrorContains(t, err, "nobody took")
	require.Empty(t, tree(t, b.dir))
	r.Close() // lets the reader go
}

// A slow reader gets all that a guest printed before it died.
func TestRunSlowOutput(t *testing.T) {
	b := newBench(t, "hang")
	old := idleGrace
	t.Cleanup(func() { idleGrace = old })
	idleGrace = 100 * time.Millisecond
	text := strings.Repeat("0123456789", 5000)
	content := ""
	for i := 0; i < len(text); i += 10000 {
		content += frame(1, text[i:i+10000])
	}
	slow := &slowWriter{delay: 150 * time.Millisecond}
	b.cfg.Stdout = slow
	t.Setenv(machinetest.FakeEnv, "pid="+b.pids+";out="+b.file(t, content)+";exit=0")
	_, err := b.run(t, context.Background())
	require.ErrorIs(t, err, ErrNoExit)
	require.Equal(t, text, slow.b.String())
}

type slowWriter struct {
	b     bytes.Buffer
	delay time.Duration
}

func (w *slowWriter) Write(p []byte) (int, error) {
	time.Sleep(w.delay)
	return w.b.Write(p)
}

// Gigabytes of log neither block the emulator nor fill the disk or the memory.
func TestRunLog(t *testing.T) {
	b := newBench(t, "hang")
	b.cfg.Log = filepath.Join(b.dir, "log")
	b.cfg.MaxOutput = 1000
	old := leastChatter
	t.Cleanup(func() { leastChatter = old })
	leastChatter = 0
	t.Setenv(machinetest.FakeEnv, "pid="+b.pids+";errs=50000;out="+b.file(t, exitFrame(0))+";hang")
	res, err := b.run(t, context.Background())
	require.NoError(t, err)
	require.True(t, res.Exited)
	require.Len(t, res.Warnings, 1)
	require.Contains(t, res.Warnings[0], "log is longer")
	got, err := os.ReadFile(b.cfg.Log)
	require.NoError(t, err)
	require.Equal(t, strings.Repeat(strings.Repeat("x", 99)+"\n", 10), string(got))
}

func TestRunBrokenFrames(t *testing.T) {
	b := newBench(t, "hang")
	content := strings.Repeat(frame(99, "x"), 20) + frame(1, "good") + exitFrame(0)
	t.Setenv(machinetest.FakeEnv, "pid="+b.pids+";out="+b.file(t, content)+";hang")
	res, err := b.run(t, context.Background())
	require.NoError(t, err)
	require.Equal(t, "good", b.out.String())
	require.Len(t, res.Warnings, maxWarnings+1)
	require.Contains(t, res.Warnings[0], "frame type 99")
	require.Contains(t, res.Warnings[maxWarnings], "12 more")
}

// What Bochs and QEMU are told.
func TestCommands(t *testing.T) {
	b := newBench(t, "hang")
	at := func(name string) string { return filepath.Join(b.dir, name) }
	run := func(t *testing.T, copies string) []string {
		t.Helper()
		t.Setenv(machinetest.FakeEnv, "pid="+b.pids+";args="+at("args")+copies+";out="+b.file(t, exitFrame(0))+";hang")
		_, err := b.run(t, context.Background())
		require.NoError(t, err)
		got, err := os.ReadFile(at("args"))
		require.NoError(t, err)
		args := strings.Split(string(got), "\n")
		dir := args[len(args)-1]
		require.Equal(t, b.temp, filepath.Dir(dir), "the working directory is a private one")
		return args[:len(args)-1]
	}
	read := func(t *testing.T, name string) []byte {
		t.Helper()
		got, err := os.ReadFile(at(name))
		require.NoError(t, err)
		return got
	}
	t.Run("bochs", func(t *testing.T) {
		b.cfg.CPU, b.cfg.Memory, b.cfg.Image = "abacus", 3<<30, at("kept.img")
		args := run(t, ";copy=bochsrc>"+at("rc")+";copy=debugger>"+at("dbg")+";copy=disk.img>"+at("disk"))
		require.Equal(t, []string{"-q", "-f", "bochsrc", "-rc", "debugger"}, args)
		require.Equal(t, "c\n", string(read(t, "dbg")))
		rc := string(read(t, "rc"))
		share := os.Getenv("BXSHARE")
		for _, line := range []string{
			`memory: guest=3072, host=2048`,
			`cpu: model=abacus, count=1, ips=1000000, reset_on_triple_fault=0, ignore_bad_msrs=0`,
			`romimage: file="` + share + `/BIOS-bochs-latest"`,
			`vgaromimage: file="` + share + `/VGABIOS-lgpl-latest"`,
		} {
			require.Contains(t, rc, line+"\n")
		}
		disk := read(t, "disk")
		require.Contains(t, rc, fmt.Sprintf("cylinders=%d, heads=16, spt=63\n", len(disk)/bochsCylinder))
		require.Zero(t, len(disk)%bochsCylinder)
		require.True(t, bytes.Equal(disk, read(t, "kept.img")))
	})
	t.Run("qemu", func(t *testing.T) {
		b.cfg.Machine, b.cfg.CPU, b.cfg.Memory, b.cfg.Image = QEMU, "Haswell,-avx", 64<<20, at("kept.elf")
		args := strings.Join(run(t, ";copy=boot.elf>"+at("elf")), " ")
		for _, s := range []string{"-cpu Haswell,-avx", "-m 64", "-kernel boot.elf", "iobase=0xe9", "iobase=0xf4"} {
			require.Contains(t, args, s)
		}
		f, err := elf.NewFile(bytes.NewReader(read(t, "elf")))
		require.NoError(t, err)
		require.Equal(t, elf.EM_386, f.Machine)
		kept, err := elf.NewFile(bytes.NewReader(read(t, "kept.elf")))
		require.NoError(t, err)
		require.Equal(t, f.FileHeader, kept.FileHeader)
		b.cfg.Disk = true
		args = strings.Join(run(t, ""), " ")
		require.Contains(t, args, "-drive file=disk.img")
		require.NotContains(t, args, "-kernel")
	})
	t.Run("none", func(t *testing.T) {
		b.cfg.Machine, b.cfg.Image = None, at("none.img")
		res, err := b.run(t, context.Background())
		require.NoError(t, err)
		require.Equal(t, Result{}, res)
		require.Zero(t, len(read(t, "none.img"))%bochsCylinder)
	})
}

// What the guest is told, for each machine.
func TestBootConfig(t *testing.T) {
	for _, tc := range []struct {
		cfg   Config
		flags uint64
		tsc   uint64
		fixed bool
	}{
		{Config{Machine: Bochs, Clock: 123}, bootproto.FlagFramed | bootproto.FlagSkipIdle | bootproto.FlagFixed, 123, true},
		{Config{Machine: Bochs, Clock: 1}, bootproto.FlagFramed | bootproto.FlagSkipIdle | bootproto.FlagFixed, 1, true},
		{Config{Machine: QEMU, Clock: 123}, bootproto.FlagFramed, 0, false},
		{Config{Machine: None, Clock: 123}, 0, 0, false},
	} {
		tc.cfg.Program, tc.cfg.Args = "p", []string{"a"}
		x, y := tc.cfg.bootConfig("/p"), tc.cfg.bootConfig("/p")
		require.Equal(t, []string{"p", "a"}, x.Args)
		require.Equal(t, "/p", x.Exe)
		require.Equal(t, tc.flags, x.Flags)
		require.Equal(t, tc.tsc, x.TSC)
		require.Equal(t, tc.fixed, x.Seed == y.Seed)
		switch tc.cfg.Machine {
		case Bochs:
			require.EqualValues(t, fixedEpoch, x.Epoch)
			require.Equal(t, "2026-01-01T00:00:00Z", time.Unix(fixedEpoch, 0).UTC().Format(time.RFC3339))
		case QEMU:
			require.InDelta(t, time.Now().Unix(), x.Epoch, 5)
		case None:
			require.Zero(t, x.Epoch)
		}
	}
}

// symbol names the line of an address in this very test, and nothing for
// addresses and files that mean nothing.
func TestSymbol(t *testing.T) {
	self, err := os.Executable()
	require.NoError(t, err)
	if runtime.GOOS == "linux" {
		pc := uint64(symbolTarget())
		require.Contains(t, symbol(self, pc), "machine.symbolTarget (machine_test.go:")
	}
	require.Empty(t, symbol(self, 1))
	require.Empty(t, symbol("/nonexistent", 1))
	require.Empty(t, symbol(os.DevNull, 1))
	require.Empty(t, (&Config{Program: self}).locate("xyz"))
}

//go:noinline
func symbolTarget() uintptr {
	pc, _, _, _ := runtime.Caller(0)
	return pc
}

// Emulators that are installed run programs for real.

func needEmulator(t *testing.T, name string) {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		t.Skipf("%s is not installed", name)
	}
}

func realBench(t *testing.T, text string, end machinetest.Ending) *bench {
	t.Helper()
	b := newBench(t, "")
	t.Setenv("BXSHARE", "")
	require.NoError(t, os.WriteFile(b.cfg.Program, machinetest.Guest([]byte(text), end, 0), 0o755))
	return b
}

func TestBochs(t *testing.T) {
	needEmulator(t, "bochs")
	hello := frame(bootproto.FrameBoot, "") + frame(1, "hello\n") + frame(2, "world\n")
	t.Run("exit", func(t *testing.T) {
		b := realBench(t, hello+exitFrame(42, 7), machinetest.Hang)
		b.cfg.Log = filepath.Join(b.dir, "log")
		res, err := b.run(t, context.Background())
		require.NoError(t, err)
		require.Equal(t, 42, res.Status)
		require.True(t, res.Booted)
		require.EqualValues(t, 7, res.Stats[0])
		require.Equal(t, "hello\n", b.out.String())
		require.Equal(t, "world\n", b.err.String())
		log, err := os.ReadFile(b.cfg.Log)
		require.NoError(t, err)
		require.Contains(t, string(log), "corei7_skylake_x")
		t.Log(res.Elapsed)
	})
	t.Run("triple fault", func(t *testing.T) {
		b := realBench(t, hello, machinetest.TripleFault)
		_, err := b.run(t, context.Background())
		require.ErrorIs(t, err, ErrTripleFault)
		require.ErrorContains(t, err, fmt.Sprintf("RIP %#x", machinetest.FaultRIP))
		require.Equal(t, "hello\n", b.out.String())
	})
	t.Run("shutdown", func(t *testing.T) {
		b := realBench(t, hello, machinetest.Shutdown)
		_, err := b.run(t, context.Background())
		require.ErrorIs(t, err, ErrNoExit)
		require.ErrorContains(t, err, "switched the machine off")
		require.Equal(t, "hello\n", b.out.String())
	})
	t.Run("hang", func(t *testing.T) {
		b := realBench(t, hello, machinetest.Hang)
		b.cfg.Timeout = 4 * time.Second
		_, err := b.run(t, context.Background())
		require.ErrorIs(t, err, ErrTimeout)
		require.Equal(t, "hello\n", b.out.String())
	})
	t.Run("gigabytes", func(t *testing.T) {
		b := realBench(t, hello, machinetest.Repeat)
		b.cfg.MaxOutput = 10_000
		_, err := b.run(t, context.Background())
		require.ErrorIs(t, err, ErrOutputLimit)
		require.Equal(t, 10_000, b.out.Len()+b.err.Len())
	})
	t.Run("model", func(t *testing.T) {
		b := realBench(t, hello, machinetest.Hang)
		b.cfg.CPU = "sextant"
		_, err := b.run(t, context.Background())
		require.ErrorIs(t, err, ErrCPUModel)
		require.ErrorContains(t, err, "corei7_skylake_x, ")
		require.ErrorContains(t, err, ", tigerlake")
	})
	t.Run("parallel", func(t *testing.T) {
		// Each takes a display port of its own.
		var wg sync.WaitGroup
		b := realBench(t, hello+exitFrame(0), machinetest.Hang)
		errs := make([]error, 3)
		for i := range errs {
			wg.Go(func() {
				cfg := b.cfg
				cfg.Stdout, cfg.Stderr = io.Discard, io.Discard
				_, errs[i] = Run(context.Background(), cfg)
			})
		}
		wg.Wait()
		require.NoError(t, errors.Join(errs...))
		b.clean(t)
	})
}

func TestQEMU(t *testing.T) {
	needEmulator(t, "qemu-system-x86_64")
	hello := frame(bootproto.FrameBoot, "") + frame(1, "hello\n")
	for _, disk := range []bool{false, true} {
		t.Run(fmt.Sprintf("disk=%v", disk), func(t *testing.T) {
			b := realBench(t, hello+exitFrame(5), machinetest.Hang)
			b.cfg.Machine, b.cfg.Disk = QEMU, disk
			res, err := b.run(t, context.Background())
			require.NoError(t, err)
			require.Equal(t, 5, res.Status)
			require.Equal(t, "hello\n", b.out.String())

			b = realBench(t, hello, machinetest.TripleFault)
			b.cfg.Machine, b.cfg.Disk = QEMU, disk
			_, err = b.run(t, context.Background())
			require.ErrorIs(t, err, ErrTripleFault)
			require.Equal(t, "hello\n", b.out.String())
		})
	}
	t.Run("model", func(t *testing.T) {
		b := realBench(t, hello, machinetest.Hang)
		b.cfg.Machine, b.cfg.CPU = QEMU, "z80"
		_, err := b.run(t, context.Background())
		require.ErrorIs(t, err, ErrCPUModel)
	})
}
