package main

import (
	"bytes"
	"debug/elf"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/govtx/vtx/internal/machine/machinetest"
)

// The tests below boot real programs, with package ring0 in them, on the
// emulators that are installed.

func need(t *testing.T, names ...string) {
	t.Helper()
	if testing.Short() {
		t.Skip("boots an emulator; not with -short")
	}
	for _, name := range names {
		if _, err := exec.LookPath(name); err != nil {
			t.Skipf("%s is not installed", name)
		}
	}
}

// build builds a program of testdata as a user would.
func build(t *testing.T, s *session, name string, flags ...string) {
	t.Helper()
	out := filepath.Join(s.dir, name)
	cmd := exec.Command("go", append(append([]string{"build", "-o", out}, flags...), "./testdata/"+name)...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
	text, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", text)
}

func TestHelloOnBochs(t *testing.T) {
	need(t, "go", "bochs")
	s := newSession(t)
	build(t, s, "hello")
	module := filepath.Join(s.share, "module")
	require.NoError(t, os.WriteFile(module, []byte("of the host"), 0o600))
	lines := ""
	for i := range 1000 {
		lines += fmt.Sprintln("line", i)
	}
	for _, tc := range []struct {
		name   string
		flags  string
		args   []string
		out    string
		errOut string // a part of it
		status int
	}{
		{"hello", "", nil, "hello, ring 0: true\n", "", 0},
		{"statistics", "-stats", nil, "hello, ring 0: true\n", "system calls", 0},
		{"status", "", []string{"exit", "7"}, "out\n", "err\n", 7},
		{"arguments", "", []string{"args", "", "a b", "-cpu", "é\n"}, `["" "a b" "-cpu" "é\n"]` + "\n", "", 0},
		{"environment", "-env VTXTEST=set -env FOO=bar", []string{"env", "FOO"}, "bar\n", "", 0},
		{"module", "-module m=" + module, []string{"modules"}, "m: of the host\n", "", 0},
		{"much output", "", []string{"print", "1000"}, lines, "", 0},
		{"clock", "", []string{"time"}, "2026-01-01\n", "", 0},
		{"sleep costs nothing", "-timeout 60s", []string{"sleep", "24h"}, "slept 24h0m0s\n", "", 0},
		{"crash", "", []string{"panic"}, "", "main.main()", 2},
		{"hang", "-timeout 3s", []string{"hang"}, "hanging\n", "timeout", 124},
		{"flood", "-max-output 23", []string{"flood"}, "more and more and more\n", "too much output", 125},
		{"memory", "-memory 2", nil, "", "too little memory", 125},
		{"model", "-cpu sextant", nil, "", "corei7_icelake_u", 125},
		{"another model", "-cpu tigerlake", nil, "hello, ring 0: true\n", "", 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			args := append([]string{"boot"}, strings.Fields(tc.flags)...)
			out, errOut, status := s.run(t, append(append(args, "./hello"), tc.args...)...)
			require.Equal(t, tc.status, status, errOut)
			require.Equal(t, tc.out, out)
			require.Contains(t, errOut, tc.errOut)
		})
	}
	t.Run("file", func(t *testing.T) {
		_, errOut, status := s.run(t, "boot", "./hello", "write", "made", "in ring 0")
		require.Zero(t, status, errOut)
		b, err := os.ReadFile(filepath.Join(s.dir, "made"))
		require.NoError(t, err)
		require.Equal(t, "in ring 0", string(b))
	})
	t.Run("natively", func(t *testing.T) {
		cmd := exec.Command(filepath.Join(s.dir, "hello"))
		out, err := cmd.Output()
		require.NoError(t, err)
		require.Equal(t, "hello, ring 0: false\n", string(out))
	})
	t.Run("repeats to the bit", func(t *testing.T) {
		count := func() string {
			_, errOut, status := s.run(t, "boot", "-stats", "./hello")
			require.Zero(t, status, errOut)
			counted, _, ok := strings.Cut(errOut, "wall time")
			require.True(t, ok, errOut)
			return counted
		}
		require.Equal(t, count(), count())
	})
}

// The serial port's lines come beside the program's, and into a file.
func TestBootSerial(t *testing.T) {
	need(t, "go", "bochs")
	s := newSession(t)
	build(t, s, "hello")
	var program, port string
	for i := range 20 {
		program += fmt.Sprintf("program %d\n", i)
		port += fmt.Sprintf("port %d\r\n", i)
	}
	out, errOut, status := s.run(t, "boot", "-serial", "-serial-file", "kept", "./hello", "serial")
	require.Zero(t, status, errOut)
	var programs, ports string
	for line := range strings.Lines(out) {
		if strings.HasPrefix(line, "port") {
			ports += line
		} else {
			programs += line
		}
	}
	require.Equal(t, program, programs)
	require.Equal(t, port, ports)
	kept, err := os.ReadFile(filepath.Join(s.dir, "kept"))
	require.NoError(t, err)
	require.Equal(t, port, string(kept))
	out, errOut, status = s.run(t, "boot", "./hello", "serial")
	require.Zero(t, status, errOut)
	require.Equal(t, program, out)
}

// A disk that no program of ours is on.
func TestBootRaw(t *testing.T) {
	need(t, "bochs")
	s := newSession(t)
	const text = "a needle here\r\n"
	for name, end := range map[string]machinetest.Ending{"off.img": machinetest.Shutdown, "hang.img": machinetest.Hang} {
		require.NoError(t, os.WriteFile(filepath.Join(s.dir, name), machinetest.BootSector(text, end), 0o600))
	}
	for _, tc := range []struct {
		args        string
		out, errOut string // errOut is a part
		status      int
	}{
		{"-raw off.img", "", "", 0},
		{"-raw -serial off.img", text, "", 0},
		{"-raw -serial -stats off.img", text, "wall time", 0},
		{"-raw -until needle -timeout 60s hang.img", "", "", 0},
		{"-raw -until thread off.img", "", `switched off before "thread"`, 1},
		{"-raw -timeout 3s hang.img", "", "the machine did not end", 124},
		{"-raw -serial -max-output 5 off.img", text[:5], "-max-output", 125},
		{"-raw missing.img", "", "missing.img", 125},
		{"-raw off.img argument", "", "no arguments", 2},
		{"-until needle off.img", "", "-raw", 2},
		{"-ips 5 off.img", "", "-ips 5", 2},
	} {
		t.Run(tc.args, func(t *testing.T) {
			out, errOut, status := s.run(t, append([]string{"boot"}, strings.Fields(tc.args)...)...)
			require.Equal(t, tc.status, status, errOut)
			require.Equal(t, tc.out, out)
			require.Contains(t, errOut, tc.errOut)
		})
	}
}

func TestHelloOnQEMU(t *testing.T) {
	need(t, "go", "qemu-system-x86_64")
	s := newSession(t)
	build(t, s, "hello")
	for _, flags := range [][]string{nil, {"-disk"}} {
		args := append([]string{"boot", "-machine", "qemu"}, flags...)
		out, errOut, status := s.run(t, append(args, "./hello")...)
		require.Zero(t, status, errOut)
		require.Equal(t, "hello, ring 0: true\n", out)
		_, _, status = s.run(t, append(args, "./hello", "exit", "9")...)
		require.Equal(t, 9, status)
	}
}

// -machine none writes the image and runs nothing.
func TestHelloImage(t *testing.T) {
	need(t, "go")
	s := newSession(t)
	build(t, s, "hello")
	s.env = append(s.env, "PATH=/nonexistent")
	for _, name := range []string{"boot.elf", "boot.img"} {
		out, errOut, status := s.run(t, "boot", "-machine", "none", "-image", name, "./hello")
		require.Zero(t, status, errOut)
		require.Empty(t, out+errOut)
	}
	f, err := elf.Open(filepath.Join(s.dir, "boot.elf"))
	require.NoError(t, err)
	defer f.Close()
	require.Equal(t, elf.EM_386, f.Machine)
	disk, err := os.ReadFile(filepath.Join(s.dir, "boot.img"))
	require.NoError(t, err)
	require.Equal(t, []byte{0x55, 0xaa}, disk[510:512])
}

// vtx boot as the runner of go test: results, benchmarks, a coverage profile,
// and the failing status.
func TestGoTestExec(t *testing.T) {
	need(t, "go", "bochs")
	s := newSession(t)
	self, err := os.Executable()
	require.NoError(t, err)
	goTest := func(t *testing.T, env string, flags ...string) (string, error) {
		cmd := exec.Command("go", append(append([]string{"test", "-count=1", "-v", "-exec", self + " boot"}, flags...), "./testdata/suite")...)
		cmd.Env = append(os.Environ(), append(s.env, "CGO_ENABLED=0", env)...)
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		err := cmd.Run()
		s.clean(t)
		return out.String(), err
	}
	profile := filepath.Join(s.dir, "c.out")
	out, err := goTest(t, "", "-bench=.", "-benchtime=100x", "-coverprofile="+profile)
	require.NoError(t, err, out)
	require.Contains(t, out, "in ring 0: true")
	require.Contains(t, out, "--- PASS: TestTempDir")
	require.Regexp(t, `BenchmarkSign\S*\s+100\s`, out)
	require.Contains(t, out, "coverage: 66.7% of statements")
	b, err := os.ReadFile(profile)
	require.NoError(t, err)
	require.Regexp(t, `suite/suite.go:[67]\.\S* 1 0\n`, string(b)+"\n") // "return -1" never ran

	out, err = goTest(t, "VTX_SUITE_FAIL=1")
	require.Error(t, err)
	require.Contains(t, out, "failing as asked")
	require.Contains(t, out, "FAIL")
}
