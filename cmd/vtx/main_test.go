package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/govtx/vtx/internal/bootproto"
	bootframes "github.com/govtx/vtx/internal/bootproto/frames"
	"github.com/govtx/vtx/internal/machine/machinetest"
)

// beVtx makes the test binary behave as vtx.
const beVtx = "VTX_TEST_BE_VTX"

func TestMain(m *testing.M) {
	if os.Getenv(beVtx) != "" {
		// What vtx starts (the fake emulator, a native program) is the same
		// binary and must not behave as vtx.
		os.Unsetenv(beVtx)
		os.Exit(run(os.Args[1:]))
	}
	machinetest.Fake()
	os.Exit(m.Run())
}

// A session runs vtx in a directory of its own and sees what it leaves.
type session struct {
	dir, temp, pids, share string
	env                    []string
}

func newSession(t *testing.T) *session {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("signals and processes are tested on Linux only")
	}
	root, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	s := &session{
		dir: filepath.Join(root, "dir"), temp: filepath.Join(root, "temp"),
		pids: filepath.Join(root, "pids"), share: filepath.Join(root, "share"),
	}
	for _, d := range []string{s.dir, s.temp, s.pids, s.share} {
		require.NoError(t, os.Mkdir(d, 0o755))
	}
	s.env = []string{beVtx + "=1", "TMPDIR=" + s.temp, "VTXBOOTFLAGS="}
	return s
}

// fake lets vtx run a fake emulator that sends content and then does script.
// It leaves a program that can boot in ./prog.
func (s *session) fake(t *testing.T, content []byte, script string) {
	t.Helper()
	for _, rom := range []string{"BIOS-bochs-latest", "VGABIOS-lgpl-latest"} {
		require.NoError(t, os.WriteFile(filepath.Join(s.share, rom), nil, 0o600))
	}
	file := filepath.Join(s.share, "content")
	require.NoError(t, os.WriteFile(file, content, 0o600))
	prog := machinetest.Guest([]byte("unused"), machinetest.Hang, 0)
	require.NoError(t, os.WriteFile(filepath.Join(s.dir, "prog"), prog, 0o755))
	self, err := os.Executable()
	require.NoError(t, err)
	s.env = append(s.env, "BXSHARE="+s.share, "VTXBOOTFLAGS=-bochs "+self+" -timeout 20s",
		machinetest.FakeEnv+"=pid="+s.pids+";spawn="+s.pids+";out="+file+";"+script)
}

func (s *session) command(args ...string) *exec.Cmd {
	self, err := os.Executable()
	if err != nil {
		panic(err)
	}
	cmd := exec.Command(self, args...)
	cmd.Dir = s.dir
	cmd.Env = append(os.Environ(), s.env...)
	return cmd
}

// run runs vtx to its end and checks that it leaves nothing.
func (s *session) run(t *testing.T, args ...string) (stdout, stderr string, status int) {
	t.Helper()
	return s.runOn(t, "", args...)
}

// runOn is run with a standard input.
func (s *session) runOn(t *testing.T, stdin string, args ...string) (stdout, stderr string, status int) {
	t.Helper()
	cmd := s.command(args...)
	var out, err bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &err
	if e := cmd.Run(); !errors.As(e, new(*exec.ExitError)) {
		require.NoError(t, e)
	}
	s.clean(t)
	return out.String(), err.String(), cmd.ProcessState.ExitCode()
}

func (s *session) clean(t *testing.T) {
	t.Helper()
	entries, err := os.ReadDir(s.temp)
	require.NoError(t, err)
	require.Empty(t, entries, "temporary files")
	require.Eventually(t, func() bool {
		pids, err := machinetest.Alive(s.pids)
		return err == nil && len(pids) == 0
	}, 3*time.Second, 10*time.Millisecond, "processes are left")
}

// checkOutcome runs vtx, which must end with a status and print all of out, or complain with errOut
// and print nothing. It returns what vtx printed.
func checkOutcome(t *testing.T, args, out []string, errOut string, status int) string {
	t.Helper()
	return newSession(t).checkOutcome(t, "", args, out, errOut, status)
}

func (s *session) checkOutcome(t *testing.T, stdin string, args, out []string, errOut string, status int) string {
	t.Helper()
	gotOut, gotErr, got := s.runOn(t, stdin, args...)
	require.Equal(t, status, got, gotOut+gotErr)
	for _, s := range out {
		require.Contains(t, gotOut, s)
	}
	require.Contains(t, gotErr, errOut)
	if errOut == "" {
		require.Empty(t, gotErr)
	} else if len(out) == 0 {
		require.Empty(t, gotOut)
	}
	return gotOut
}

// oneOrNone is what checkOutcome takes: a list of a text, or of none.
func oneOrNone(text string) []string {
	if text == "" {
		return nil
	}
	return []string{text}
}

var update = flag.Bool("update", false, "write what vtx prints to the golden files in testdata")

// checkGolden compares what vtx printed with a file in testdata, or with -update writes it there.
func checkGolden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name+".golden")
	if *update {
		require.NoError(t, os.MkdirAll(filepath.Dir(file), 0o755))
		require.NoError(t, os.WriteFile(file, []byte(got), 0o644))
	}
	want, err := os.ReadFile(file)
	require.NoError(t, err, "go test -update writes it")
	require.Equal(t, string(want), got)
}

func frame(typ byte, s string) []byte { return bootframes.Append(nil, typ, []byte(s)) }

func frames(list ...[]byte) []byte { return bytes.Join(list, nil) }

func exitFrame(status byte, stats ...byte) []byte {
	p := []byte{status, 0, 0, 0}
	for _, s := range stats {
		p = append(p, s, 0, 0, 0, 0, 0, 0, 0)
	}
	return frame(bootproto.FrameExit, string(p))
}

func TestUsage(t *testing.T) {
	for _, tc := range []struct {
		args        string
		flags       string // VTXBOOTFLAGS
		out, errOut string
		status      int
	}{
		{args: "", errOut: "Usage: vtx COMMAND", status: 2},
		{args: "help", out: "boot a Go program in ring 0", status: 0},
		{args: "-h", out: "Usage: vtx COMMAND", status: 0},
		{args: "help boot", out: "Usage: vtx boot [flags] PROGRAM [ARGS]", status: 0},
		{args: "help boot", out: "  -max-output SIZE", status: 0},
		{args: "help field", out: "Usage: vtx field FIELD...\n", status: 0},
		{args: "help fields", out: "Usage: vtx fields [flags]\n", status: 0},
		{args: "boot -h", out: "Exit status:", status: 0},
		{args: "help fly", errOut: `no command "fly"`, status: 2},
		{args: "help boot boot", errOut: "one command", status: 2},
		{args: "fly", errOut: `no command "fly"; "vtx help" lists them`, status: 2},
		{args: "boot", errOut: "no program named", status: 2},
		{args: "boot -zzz prog", errOut: "-zzz", status: 2},
		{args: "boot -memory x prog", errOut: "-memory", status: 2},
		{args: "boot -timeout 0s prog", errOut: "-timeout 0s", status: 2},
		{args: "boot -clock 0 prog", errOut: "-clock 0", status: 2},
		{args: "boot -env x prog", errOut: "NAME=VALUE", status: 2},
		{args: "boot -module a=x -module a=y prog", errOut: `two modules are named "a"`, status: 2},
		{args: "boot -module = prog", errOut: "NAME=FILE", status: 2},
		{args: "boot -machine pdp11 prog", errOut: `"pdp11"`, status: 2},
		{args: "boot -machine none prog", errOut: "-image", status: 2},
		{args: "boot prog", flags: "-zzz", errOut: "VTXBOOTFLAGS: flag provided but not defined: -zzz", status: 2},
		{args: "boot prog", flags: "-v prog", errOut: `VTXBOOTFLAGS: "prog" is not a flag`, status: 2},
		{args: "boot prog", errOut: "no such file", status: 125},
	} {
		t.Run(tc.args+" "+tc.flags, func(t *testing.T) {
			s := newSession(t)
			s.env = append(s.env, "VTXBOOTFLAGS="+tc.flags)
			s.checkOutcome(t, "", strings.Fields(tc.args), oneOrNone(tc.out), tc.errOut, tc.status)
		})
	}
}

// The exit status for each way to end, with what came before delivered.
func TestStatus(t *testing.T) {
	said := frames([]byte("banner"), frame(bootproto.FrameBoot, ""), frame(bootproto.FrameStdout, "said"), frame(bootproto.FrameStderr, "warned"))
	for _, tc := range []struct {
		name    string
		content []byte
		script  string
		args    string
		status  int
		says    string
	}{
		{"success", frames(said, exitFrame(0)), "hang", "", 0, ""},
		{"failure", frames(said, exitFrame(1)), "hang", "", 1, ""},
		{"status 255", frames(said, exitFrame(255)), "hang", "", 255, ""},
		{"timeout", said, "hang", "-timeout 1s", 124, "-timeout"},
		{"too much output", said, "flood=" + os.DevNull, "-max-output 9", 125, "-max-output"},
		{"no exit status", said, "exit=0", "", 125, "no exit status"},
		{"triple fault", said, "err=3rd (14) exception with no resolution", "", 125, "vector 14"},
		{"bad file, good status", frames(said, frame(bootproto.FrameFile, "\xa4\x01\x00\x00/"), exitFrame(0)), "hang", "", 125, `"/" cannot be written`},
		{"bad file, bad status", frames(said, frame(bootproto.FrameFile, "\xa4\x01\x00\x00/"), exitFrame(9)), "hang", "", 9, `"/" cannot be written`},
		{"broken frame", frames(said, frame(77, ""), exitFrame(0)), "hang", "", 0, "warning: broken frame"},
		{"missing emulator", said, "", "-emulator /nonexistent/bochs", 125, "apt-get install"},
		{"missing module", said, "", "-module /nonexistent/module", 125, "/nonexistent/module"},
		{"too little memory", said, "", "-memory 1", 125, "too little memory"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := newSession(t)
			s.fake(t, tc.content, tc.script)
			args := append([]string{"boot"}, strings.Fields(tc.args)...)
			out, errOut, status := s.run(t, append(args, "./prog")...)
			require.Equal(t, tc.status, status, errOut)
			if tc.script != "" {
				require.Equal(t, "said", out)
				require.True(t, strings.HasPrefix(errOut, "warne"), errOut) // the limit takes the rest
				if tc.says == "" {
					require.Equal(t, "warned", errOut)
				}
			}
			require.Contains(t, errOut, tc.says)
		})
	}
}

// A file that the guest writes is there, relative to the working directory.
func TestGuestFile(t *testing.T) {
	s := newSession(t)
	s.fake(t, frames(frame(bootproto.FrameFile, "\xa4\x01\x00\x00sub/f"), frame(bootproto.FrameData, "data"), exitFrame(0)), "hang")
	_, errOut, status := s.run(t, "boot", "prog")
	require.Zero(t, status, errOut)
	b, err := os.ReadFile(filepath.Join(s.dir, "sub", "f"))
	require.NoError(t, err)
	require.Equal(t, "data", string(b))
}

func TestStats(t *testing.T) {
	s := newSession(t)
	s.fake(t, frames(frame(bootproto.FrameStdout, "x"), exitFrame(3, 101, 102, 103, 104, 105, 106, 107, 108)), "hang")
	out, errOut, status := s.run(t, "boot", "-stats", "prog")
	require.Equal(t, 3, status)
	require.Equal(t, "x", out)
	for i, name := range []string{"instructions", "system calls", "page faults", "timer interrupts", "thread switches", "threads", "most pages in use"} {
		require.Regexp(t, fmt.Sprintf(`(?m)^ *%s +%d$`, name, 101+i), errOut)
	}
	require.Regexp(t, `(?m)^ *sleep skipped +108ns$`, errOut)
	require.Regexp(t, `(?m)^ *wall time +\d`, errOut)
}

// Wherever a signal finds vtx, nothing is left and the status tells.
func TestSignals(t *testing.T) {
	for _, sig := range signalsToTest {
		t.Run(sig.name, func(t *testing.T) {
			if signal.Ignored(sig.signal) {
				t.Skip("the signal is ignored here, as under nohup: vtx then ignores it too")
			}
			s := newSession(t)
			s.fake(t, frame(bootproto.FrameStdout, "ready"), "hang")
			cmd := s.command("boot", "prog")
			var errOut bytes.Buffer
			cmd.Stderr = &errOut
			r, err := cmd.StdoutPipe()
			require.NoError(t, err)
			require.NoError(t, cmd.Start())
			ready := make([]byte, 5)
			_, err = r.Read(ready)
			require.NoError(t, err)
			require.Equal(t, "ready", string(ready))
			require.NoError(t, cmd.Process.Signal(sig.signal))
			_ = cmd.Wait()
			require.Equal(t, sig.status, cmd.ProcessState.ExitCode(), errOut.String())
			require.Contains(t, errOut.String(), "stopped: ")
			s.clean(t)
		})
	}
}

// When vtx itself is killed, the emulator dies with it.
func TestKilled(t *testing.T) {
	s := newSession(t)
	s.fake(t, frame(bootproto.FrameStdout, "ready"), "hang")
	// A child of the fake is in nobody's hands then: leave it out.
	for i, e := range s.env {
		s.env[i] = strings.Replace(e, "spawn="+s.pids+";", "", 1)
	}
	cmd := s.command("boot", "prog")
	r, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	_, err = r.Read(make([]byte, 5))
	require.NoError(t, err)
	pids, err := machinetest.Alive(s.pids)
	require.NoError(t, err)
	require.Len(t, pids, 1)
	require.NoError(t, cmd.Process.Kill())
	_ = cmd.Wait()
	require.NoError(t, os.RemoveAll(s.temp)) // vtx had no chance
	require.NoError(t, os.Mkdir(s.temp, 0o755))
	s.clean(t)
}

// A closed standard output ends the run, and nothing is left.
func TestClosedOutput(t *testing.T) {
	s := newSession(t)
	s.fake(t, frame(bootproto.FrameStdout, strings.Repeat("x", 1000)), "flood="+filepath.Join(s.share, "content"))
	cmd := s.command("boot", "prog")
	var errOut bytes.Buffer
	cmd.Stderr = &errOut
	r, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	_, err = r.Read(make([]byte, 5))
	require.NoError(t, err)
	require.NoError(t, r.Close())
	_ = cmd.Wait()
	require.Equal(t, 125, cmd.ProcessState.ExitCode())
	require.Contains(t, errOut.String(), "cannot write the guest's output")
	s.clean(t)
}

// A go command that is killed takes vtx with it.
func TestGoCommandGone(t *testing.T) {
	s := newSession(t)
	s.fake(t, frame(bootproto.FrameStdout, "ready"), "hang")
	sh, err := exec.LookPath("sh")
	if err != nil {
		t.Skip("no sh")
	}
	// A process is named for its script.
	script := filepath.Join(s.share, "go")
	require.NoError(t, os.WriteFile(script, []byte("#!"+sh+"\n\"$@\"\nexit 0\n"), 0o755))
	vtx := s.command("boot", "prog")
	cmd := exec.Command(script, vtx.Args...)
	cmd.Dir, cmd.Env = vtx.Dir, vtx.Env
	r, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	_, err = r.Read(make([]byte, 5))
	require.NoError(t, err)
	require.NoError(t, cmd.Process.Kill())
	_ = cmd.Wait()
	require.Eventually(t, func() bool {
		pids, err := machinetest.Alive(s.pids)
		entries, err2 := os.ReadDir(s.temp)
		return err == nil && err2 == nil && len(pids) == 0 && len(entries) == 0
	}, 5*time.Second, 50*time.Millisecond)
}

// A program without ring0 runs as if vtx were not there.
func TestNative(t *testing.T) {
	s := newSession(t)
	sh, err := exec.LookPath("sh")
	if err != nil {
		t.Skip("no sh")
	}
	cmd := s.command("boot", sh, "-c", `echo "$$ $0 $1"; cat; echo bad >&2; exit 7`, "zero", "-v")
	cmd.Stdin = strings.NewReader("input")
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	require.Error(t, cmd.Run())
	require.Equal(t, 7, cmd.ProcessState.ExitCode())
	require.Equal(t, fmt.Sprintf("%d zero -v\ninput", cmd.ProcessState.Pid()), out.String())
	require.Equal(t, "bad\n", errOut.String())

	// Signals meet the program, whatever vtx does with them.
	cmd = s.command("boot", sh, "-c", `trap 'exit 5' TERM; kill -TERM $$; exit 6`)
	require.Error(t, cmd.Run())
	require.Equal(t, 5, cmd.ProcessState.ExitCode())
	cmd = s.command("boot", sh, "-c", `kill -PIPE $$; exit 6`)
	require.Error(t, cmd.Run())
	require.Equal(t, -1, cmd.ProcessState.ExitCode(), "SIGPIPE must be at its default")

	// Not executable.
	b, err := os.ReadFile(sh)
	require.NoError(t, err)
	plain := filepath.Join(s.dir, "plain")
	require.NoError(t, os.WriteFile(plain, b, 0o644))
	_, text, status := s.run(t, "boot", plain)
	require.Equal(t, 125, status)
	require.Contains(t, text, "runs natively")
	require.Contains(t, text, "permission denied")
}

func TestSizeFlag(t *testing.T) {
	for _, tc := range []struct {
		in   string
		unit uint64
		want uint64
		text string
	}{
		{"1024", 1 << 20, 1 << 30, "1G"},
		{"1024", 1, 1024, "1K"},
		{"1000", 1, 1000, "1000"},
		{"2G", 1 << 20, 2 << 30, "2G"},
		{"512MiB", 1, 512 << 20, "512M"},
		{"512mB", 1, 512 << 20, "512M"},
		{"3k", 1, 3 << 10, "3K"},
		{"1T", 1, 1 << 40, "1T"},
		{"2048T", 1, 1 << 51, "2048T"},
		{"0", 1, 0, ""}, {"", 1, 0, ""}, {"G", 1, 0, ""}, {"-1", 1, 0, ""}, {"1.5G", 1, 0, ""},
		{"1X", 1, 0, ""}, {"1GG", 1, 0, ""}, {"1iB", 1, 0, ""}, {"1B", 1, 0, ""},
		{"9999999999999999999", 1, 0, ""}, {"9999999999T", 1, 0, ""}, {"18014398509481984", 1 << 20, 0, ""},
	} {
		var v uint64
		f := sizeFlag[uint64]{&v, tc.unit}
		err := f.Set(tc.in)
		if tc.want == 0 {
			require.Error(t, err, "%q", tc.in)
			continue
		}
		require.NoError(t, err, "%q", tc.in)
		require.Equal(t, tc.want, v, "%q", tc.in)
		require.Equal(t, tc.text, f.String())
	}
	rapid.Check(t, func(t *rapid.T) {
		v := rapid.Int64Range(1, 1<<62).Draw(t, "v")
		w := int64(0)
		if err := (sizeFlag[int64]{&w, 1}).Set(sizeFlag[int64]{&v, 1}.String()); err != nil || v != w {
			t.Fatalf("%d came back as %d, %v", v, w, err)
		}
		_ = (sizeFlag[int64]{&w, 1}).Set(rapid.String().Draw(t, "s")) // no panic
		if w <= 0 {
			t.Fatalf("size %d", w)
		}
	})
}

func TestMergeEnv(t *testing.T) {
	base := []string{"A=1", "B=2", "A=3"}
	require.Equal(t, []string{"A=5", "B=2", "C=4"}, mergeEnv(base, []string{"C=4", "A=5"}))
	require.Equal(t, []string{"A=1", "B=2", "A=3"}, base)
	require.Empty(t, mergeEnv(nil, nil))
}

// Flags on the command line come after those in the environment.
func TestEnvFlags(t *testing.T) {
	fs := flag.NewFlagSet("", flag.ContinueOnError)
	cpu := fs.String("cpu", "", "")
	mem := fs.Int("m", 0, "")
	require.NoError(t, parseEnv(fs, "  -cpu a\t-m=5\n"))
	require.NoError(t, fs.Parse([]string{"-cpu", "b", "prog", "-m", "7"}))
	require.Equal(t, "b", *cpu)
	require.Equal(t, 5, *mem)
	require.Equal(t, []string{"prog", "-m", "7"}, fs.Args())
}

// Places that are not there are trouble of vtx's own, not of the command line.
func TestBadPlaces(t *testing.T) {
	s := newSession(t)
	s.fake(t, exitFrame(0), "exit=0")
	self, err := os.Executable()
	require.NoError(t, err)
	for _, tc := range []struct{ name, script, want string }{
		{"temporary directory", `TMPDIR=/nonexistent exec "$0" boot ./prog`, "set TMPDIR to a directory that can be written"},
		{"working directory", `mkdir gone && cd gone && rmdir ../gone && exec "$0" boot "$1"`, "the working directory cannot be told"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			cmd := s.command()
			cmd.Path, cmd.Args = "/bin/sh", []string{"sh", "-c", tc.script, self, filepath.Join(s.dir, "prog")}
			out, err := cmd.CombinedOutput()
			require.Error(t, err)
			require.Equal(t, 125, cmd.ProcessState.ExitCode(), "%s", out)
			require.Contains(t, string(out), tc.want)
			s.clean(t)
		})
	}
}
