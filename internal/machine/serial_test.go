package machine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/govtx/vtx/internal/bootproto"
	"github.com/govtx/vtx/internal/machine/machinetest"
)

// shorten changes a time for one test.
func shorten(t testing.TB, p *time.Duration, d time.Duration) {
	old := *p
	*p = d
	t.Cleanup(func() { *p = old })
}

func TestLines(t *testing.T) {
	shorten(t, &lineWait, time.Hour)
	for _, tc := range []struct {
		name, writes, want, flushed string // writes: stream, then text, between "|"
	}{
		{"one stream", "aone|atwo\n|athree", "onetwo\nthree", "onetwo\nthree"},
		{"whole lines", "aone\n|btwo\n|athree\n", "one\ntwo\nthree\n", "one\ntwo\nthree\n"},
		{"one waits", "aon|btwo\n|ae\n", "one\ntwo\n", "one\ntwo\n"},
		{"between a write's lines", "aon|btwo\n|ae\nthr", "one\ntwo\nthr", "one\ntwo\nthr"},
		{"in turn", "aon|btw|ae\nthr|bo\n|aee\n", "one\ntwo\nthree\n", "one\ntwo\nthree\n"},
		{"open at the end", "aon|btw", "on", "on\ntw"},
		{"empty", "a|b|aone|b", "one", "one"},
		{"too much waits", "aon|b" + strings.Repeat("x", heldMax+1) + "|ae", "on\n" + strings.Repeat("x", heldMax+1), "on\n" + strings.Repeat("x", heldMax+1) + "\ne"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var out bytes.Buffer
			m := &lineMux{w: &out}
			streams := map[byte]*lineStream{'a': m.stream(), 'b': m.stream()}
			for _, w := range strings.Split(tc.writes, "|") {
				n, err := streams[w[0]].Write([]byte(w[1:]))
				require.NoError(t, err)
				require.Equal(t, len(w)-1, n)
			}
			require.Equal(t, tc.want, out.String())
			require.NoError(t, m.flush())
			require.Equal(t, tc.flushed, out.String())
		})
	}
}

// Every line is one stream's, each stream's text is all there in its order, and
// lines end nowhere but where they did, if all did.
func TestLinesOfRandomStreams(t *testing.T) {
	shorten(t, &lineWait, time.Hour)
	rapid.Check(t, func(t *rapid.T) {
		var out bytes.Buffer
		m := &lineMux{w: &out}
		letters := "ab"
		var want [2]string
		var streams [2]*lineStream
		for i := range streams {
			streams[i] = m.stream()
		}
		for range rapid.IntRange(0, 30).Draw(t, "writes") {
			i := rapid.IntRange(0, 1).Draw(t, "stream")
			s := rapid.StringOfN(rapid.SampledFrom([]rune{rune(letters[i]), '\n'}), 0, 8, -1).Draw(t, "text")
			want[i] += s
			fmt.Fprint(streams[i], s)
		}
		for i := range streams {
			want[i] += "\n"
			fmt.Fprint(streams[i], "\n")
		}
		if err := m.flush(); err != nil {
			t.Fatal(err)
		}
		for _, line := range strings.Split(out.String(), "\n") {
			if strings.Contains(line, "a") && strings.Contains(line, "b") {
				t.Fatalf("two streams in the line %q", line)
			}
		}
		if got, n := strings.Count(out.String(), "\n"), strings.Count(want[0]+want[1], "\n"); got != n {
			t.Fatalf("%d lines, want %d", got, n)
		}
		for i, l := range letters {
			if got, n := strings.Count(out.String(), string(l)), strings.Count(want[i], string(l)); got != n {
				t.Fatalf("%d times %q, want %d", got, l, n)
			}
		}
	})
}

// An unfinished line keeps nobody waiting for long, and a broken writer is told of.
func TestLinesWait(t *testing.T) {
	shorten(t, &lineWait, 10*time.Millisecond)
	out := make(chan string, 10)
	m := &lineMux{w: chanWriter(out)}
	a, b := m.stream(), m.stream()
	fmt.Fprint(a, "login: ")
	fmt.Fprint(b, "half")
	for _, want := range []string{"login: ", "\n", "half"} {
		require.Equal(t, want, <-out)
	}
	fmt.Fprint(a, "more")
	require.Equal(t, "\n", <-out)
	require.Equal(t, "more", <-out)

	bad := errors.New("bad")
	m = &lineMux{w: failWriter{bad}}
	_, err := m.stream().Write([]byte("x"))
	require.ErrorIs(t, err, bad)
	_, err = m.stream().Write([]byte("x"))
	require.ErrorIs(t, err, bad)
	require.ErrorIs(t, m.flush(), bad)
}

type chanWriter chan string

func (c chanWriter) Write(p []byte) (int, error) {
	c <- string(p)
	return len(p), nil
}

// serialBench is a fake emulator that writes port to the serial port, then does
// what script says.
func serialBench(t *testing.T, port, script string) *bench {
	b := newBench(t, "hang")
	from := filepath.Join(filepath.Dir(b.dir), "port")
	require.NoError(t, os.WriteFile(from, []byte(port), 0o600))
	t.Setenv(machinetest.FakeEnv, "pid="+b.pids+";copy="+from+">"+serialName+";"+script)
	b.cfg.Serial = true
	return b
}

func TestSerial(t *testing.T) {
	const off = "err=00000p[ACPI  ] >>PANIC<< ACPI control: soft power off;exit=1"
	raw := func(until string) func(c *Config) {
		return func(c *Config) { c.Raw, c.Until = true, until }
	}
	for _, tc := range []struct {
		name, port, script string
		set                func(c *Config)
		out                string // standard output
		status             int    // -1: the run fails
		is                 error
		says               string // the error, or a warning
	}{
		{name: "shown", port: "hello\r\nthere", script: "out=EXIT;hang", out: "hello\r\nthere", status: 4},
		{name: "not wanted", port: "hello\r\n", script: "out=EXIT;hang", set: func(c *Config) { c.Serial = false }, status: 4},
		{name: "too much", port: strings.Repeat("x", 1000), script: "hang", set: func(c *Config) { c.MaxOutput = 300 },
			out: strings.Repeat("x", 300), status: -1, is: ErrOutputLimit, says: "-max-output"},
		{name: "too much at the end", port: strings.Repeat("x", 1000), script: "exit=0", set: func(c *Config) { c.MaxOutput = 300 },
			out: strings.Repeat("x", 300), status: -1, is: ErrOutputLimit},
		{name: "closed output", port: "x", script: "hang", set: func(c *Config) { c.Stdout = failWriter{os.ErrClosed} },
			status: -1, is: ErrOutput, says: "standard output"},
		{name: "bad file", port: "x", script: "hang", set: func(c *Config) { c.SerialFile = "/nonexistent/file" },
			status: -1, is: os.ErrNotExist, says: "/nonexistent/file"},
		{name: "raw, off", port: "x", script: off, set: raw(""), out: "x"},
		{name: "raw, shut down", port: "x", script: strings.ReplaceAll(off, "ACPI control: soft power off", "Shutdown port: shutdown requested"), set: raw(""), out: "x"},
		{name: "raw, text", port: "a needle here", script: "hang", set: raw("needle"), out: "a needle here"},
		{name: "raw, text at the end", port: "a needle", script: off, set: raw("needle"), out: "a needle"},
		{name: "raw, off before", port: "a need", script: off, set: raw("needle"), out: "a need", status: 1, says: `"needle"`},
		{name: "raw, frames are not obeyed", script: "out=FILE;" + off, set: raw("")},
		{name: "raw, endless chatter", script: "flood=FILE", set: raw(""), status: -1, is: ErrOutputLimit},
		{name: "raw, timeout", script: "hang", set: func(c *Config) { c.Raw, c.Timeout = true, 700*time.Millisecond },
			status: -1, is: ErrTimeout, says: "the machine did not end"},
		{name: "raw, broken emulator", script: "err=00000p[HD    ] >>PANIC<< no disk;exit=1", set: raw(""), status: -1, is: ErrEmulator, says: "no disk"},
		{name: "raw, triple fault", script: "err=00000p[CPU0  ] >>PANIC<< exception(): 3rd (13) exception with no resolution;exit=1", set: raw(""), status: -1, is: ErrTripleFault},
		{name: "raw, qemu off", script: "exit=0", set: func(c *Config) { c.Raw, c.Machine = true, QEMU }},
		{name: "raw, with arguments", script: "exit=0", set: func(c *Config) { c.Raw, c.Args = true, []string{"x"} },
			status: -1, is: ErrConfig, says: "no arguments"},
		{name: "raw, with an image to keep", script: "exit=0", set: func(c *Config) { c.Raw, c.Image = true, "x" }, status: -1, is: ErrConfig},
		{name: "raw, empty", script: "exit=0", set: func(c *Config) { c.Raw, c.Program = true, os.DevNull }, status: -1, says: "not a regular file"},
		{name: "text without raw", script: "exit=0", set: func(c *Config) { c.Until = "x" }, status: -1, is: ErrConfig, says: "-raw"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			old := leastChatter
			leastChatter = 10_000
			t.Cleanup(func() { leastChatter = old })
			b := newBench(t, "hang")
			exit, file := b.file(t, exitFrame(4)), b.file(t, frame(bootproto.FrameFile, string(fileFrame(0o644, "made")))+frame(1, "framed"))
			b = serialBench(t, tc.port, strings.NewReplacer("EXIT", exit, "FILE", file).Replace(tc.script))
			b.cfg.MaxOutput = 20_000
			if tc.set != nil {
				tc.set(&b.cfg)
			}
			res, err := b.run(t, context.Background())
			require.Equal(t, tc.out, b.out.String())
			require.Empty(t, tree(t, b.dir))
			if tc.status < 0 {
				require.Error(t, err)
				if tc.is != nil {
					require.ErrorIs(t, err, tc.is)
				}
				require.ErrorContains(t, err, tc.says)
				return
			}
			require.NoError(t, err)
			require.True(t, res.Exited)
			require.Equal(t, tc.status, res.Status)
			require.Contains(t, strings.Join(res.Warnings, "\n"), tc.says)
		})
	}
}

// The port's output comes while the machine runs, however it is cut into writes,
// and goes into a file too.
func TestSerialStreams(t *testing.T) {
	b := serialBench(t, "early", "hang")
	kept := filepath.Join(filepath.Dir(b.dir), "kept")
	b.cfg.SerialFile = kept
	ctx, cancel := context.WithCancelCause(context.Background())
	stop := errors.New("seen")
	b.cfg.Stdout = funcWriter(func(p []byte) {
		if string(p) == "early" {
			cancel(stop)
		}
	})
	_, err := b.run(t, ctx)
	require.ErrorIs(t, err, stop)
	got, err := os.ReadFile(kept)
	require.NoError(t, err)
	require.Equal(t, "early", string(got))

	for cut := 1; cut < len("the needle"); cut++ {
		s := &serial{left: &budget{left: 100}, until: []byte("needle")}
		require.NoError(t, s.take([]byte("the needl")[:min(cut, 9)]))
		require.ErrorIs(t, s.take([]byte("the needle")[min(cut, 9):]), errSerialText)
	}
}

type funcWriter func(p []byte)

func (f funcWriter) Write(p []byte) (int, error) { f(p); return len(p), nil }

// Program and port print at once: no line holds something of both.
func TestSerialBesideProgram(t *testing.T) {
	for _, name := range []string{Bochs, QEMU} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, "hang")
			var content, port string
			for i := range 2000 {
				content += frame(bootproto.FrameStdout, "pro") + frame(bootproto.FrameStdout, fmt.Sprintf("gram %d\n", i))
				port += fmt.Sprintf("port %d\r\n", i)
			}
			from := filepath.Join(filepath.Dir(b.dir), "port")
			require.NoError(t, os.WriteFile(from, []byte(port), 0o600))
			t.Setenv(machinetest.FakeEnv, "pid="+b.pids+";copy="+from+">"+serialName+";out="+b.file(t, content)+";out="+b.file(t, exitFrame(0))+";hang")
			b.cfg.Serial, b.cfg.Machine = true, name
			_, err := b.run(t, context.Background())
			require.NoError(t, err)
			var program, serial int
			for _, line := range strings.Split(strings.TrimSuffix(b.out.String(), "\n"), "\n") {
				switch line {
				case fmt.Sprintf("program %d", program):
					program++
				case fmt.Sprintf("port %d\r", serial):
					serial++
				default:
					t.Fatalf("line %q, after %d of the program's and %d of the port's", line, program, serial)
				}
			}
			require.Equal(t, []int{2000, 2000}, []int{program, serial})
		})
	}
}

// What the emulators are told of a raw image and of the serial port.
func TestRawCommands(t *testing.T) {
	b := newBench(t, "hang")
	at := func(name string) string { return filepath.Join(b.dir, name) }
	image := bytes.Repeat([]byte("image"), 1000)
	for _, tc := range []struct {
		name, program, copied string
		bochs, qemu           []string
		size                  int
	}{
		{"disk", "x.img", diskName, []string{`ata0-master: type=disk, path="disk.img", mode=flat, cylinders=1, heads=16, spt=63`, "boot: disk"}, []string{"-drive file=disk.img,format=raw,if=ide"}, bochsCylinder},
		{"cd", "x.iso", cdName, []string{`ata1-master: type=cdrom, path="cdrom.iso", status=inserted`, "boot: cdrom"}, []string{"-cdrom cdrom.iso", "-boot d"}, len(image)},
	} {
		b.cfg.Raw, b.cfg.Serial, b.cfg.IPS = true, true, 50_000_000
		b.cfg.Program = filepath.Join(filepath.Dir(b.dir), tc.program)
		require.NoError(t, os.WriteFile(b.cfg.Program, image, 0o600))
		t.Run(tc.name, func(t *testing.T) {
			b.cfg.Machine = Bochs
			t.Setenv(machinetest.FakeEnv, "pid="+b.pids+";copy=bochsrc>"+at("rc")+";copy="+tc.copied+">"+at("copied")+";err=>>PANIC<< power off;exit=1")
			_, err := b.run(t, context.Background())
			require.NoError(t, err)
			rc, err := os.ReadFile(at("rc"))
			require.NoError(t, err)
			for _, line := range append(tc.bochs, "com1: enabled=1, mode=file, dev=serial.out", "cpu: model=corei7_skylake_x, count=1, ips=50000000, reset_on_triple_fault=0, ignore_bad_msrs=0") {
				require.Contains(t, string(rc), "\n"+line+"\n")
			}
			copied, err := os.ReadFile(at("copied"))
			require.NoError(t, err)
			require.Len(t, copied, tc.size)
			require.True(t, bytes.HasPrefix(copied, image))

			b.cfg.Machine = QEMU
			t.Setenv(machinetest.FakeEnv, "pid="+b.pids+";args="+at("args")+";exit=0")
			_, err = b.run(t, context.Background())
			require.NoError(t, err)
			args, err := os.ReadFile(at("args"))
			require.NoError(t, err)
			for _, s := range append(tc.qemu, "-serial file:serial.out") {
				require.Contains(t, strings.ReplaceAll(string(args), "\n", " "), s)
			}
			require.NotContains(t, string(args), "-kernel")
		})
	}
}

// A boot sector of a few instructions, on the emulators that are installed.
func TestRawForReal(t *testing.T) {
	for machine, binary := range map[string]string{Bochs: "bochs", QEMU: "qemu-system-x86_64"} {
		for _, tc := range []struct {
			name   string
			ending machinetest.Ending
			until  string
			status int
			is     error
		}{
			{"off", machinetest.Shutdown, "", 0, nil},
			{"text", machinetest.Hang, "second", 0, nil},
			{"no text", machinetest.Shutdown, "third", 1, nil},
			{"triple fault", machinetest.TripleFault, "", 0, ErrTripleFault},
			{"flood", machinetest.Repeat, "", 0, ErrOutputLimit},
		} {
			t.Run(machine+" "+tc.name, func(t *testing.T) {
				needEmulator(t, binary)
				const text = "first line\r\nand a second\r\n"
				b := realBench(t, "", machinetest.Hang)
				require.NoError(t, os.WriteFile(b.cfg.Program, machinetest.BootSector(text, tc.ending), 0o600))
				b.cfg.Machine, b.cfg.Raw, b.cfg.Serial, b.cfg.Until, b.cfg.MaxOutput = machine, true, true, tc.until, 500
				res, err := b.run(t, context.Background())
				if tc.is != nil {
					require.ErrorIs(t, err, tc.is)
				} else {
					require.NoError(t, err)
					require.True(t, res.Exited)
				}
				require.Equal(t, tc.status, res.Status)
				if tc.ending == machinetest.Repeat {
					require.Equal(t, strings.Repeat(text, 100)[:500], b.out.String())
				} else {
					require.Contains(t, text, b.out.String())
					require.Contains(t, b.out.String(), "and a second")
				}
			})
		}
	}
}

// A CD with GRUB on it, which says something and switches the machine off.
func TestRawCD(t *testing.T) {
	for _, tool := range []string{"grub-mkrescue", "xorriso", "mformat"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skip("needs GRUB: apt-get install grub-common grub-pc-bin xorriso mtools")
		}
	}
	needEmulator(t, "bochs")
	root := filepath.Join(t.TempDir(), "root")
	require.NoError(t, os.MkdirAll(filepath.Join(root, "boot", "grub"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(root, "boot", "grub", "grub.cfg"),
		[]byte("serial --unit=0 --speed=115200\nterminal_output serial\necho from the disc\nhalt\n"), 0o600))
	iso := root + ".iso"
	if out, err := exec.Command("grub-mkrescue", "-d", "/usr/lib/grub/i386-pc", "-o", iso, root).CombinedOutput(); err != nil {
		t.Skipf("needs GRUB for BIOS machines: apt-get install grub-pc-bin (%s)", out)
	}
	b := realBench(t, "", machinetest.Hang)
	b.cfg.Program, b.cfg.Raw, b.cfg.Serial = iso, true, true
	res, err := b.run(t, context.Background())
	require.NoError(t, err)
	require.Zero(t, res.Status)
	require.Regexp(t, regexp.MustCompile(`from the disc\r?\n`), b.out.String())
}
