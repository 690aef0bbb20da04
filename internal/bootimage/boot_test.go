package bootimage

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/govtx/vtx/internal/bootproto"
	"github.com/stretchr/testify/require"
)

// A frame is one of a framed stream.
type frame struct {
	typ  byte
	data []byte
}

// parseFrames finds the frames in what an emulator has put out.
func parseFrames(t *testing.T, out []byte) (list []frame) {
	t.Helper()
	for {
		i := bytes.Index(out, []byte(bootproto.FrameMark))
		if i < 0 {
			return list
		}
		out = out[i:]
		require.GreaterOrEqual(t, len(out), bootproto.FrameHead, "a frame's head is cut off")
		n := binary.LittleEndian.Uint32(out[5:])
		require.LessOrEqual(t, int(n), min(bootproto.FrameMax, len(out)-bootproto.FrameHead), "a frame is cut off")
		list = append(list, frame{out[4], out[bootproto.FrameHead:][:n]})
		out = out[bootproto.FrameHead+n:]
	}
}

// run runs a command for a minute at most, or until it has put out certain
// text if that is not empty, and returns what it put out and its exit status.
// Without the command it skips the test.
func run(t *testing.T, until string, name string, args ...string) (out []byte, status int) {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("%s is not installed", name)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	w := &watcher{until: until, found: cancel}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Stdout, cmd.Stderr = w, w
	err = cmd.Run()
	require.NotErrorIs(t, ctx.Err(), context.DeadlineExceeded, "%s does not end; its output ends %q", name, tail(w.out))
	if _, failed := err.(*exec.ExitError); !failed {
		require.NoError(t, err)
	}
	return w.out, cmd.ProcessState.ExitCode()
}

// A watcher keeps output, and tells when certain text has been in it.
type watcher struct {
	out   []byte
	until string
	found func()
}

func (w *watcher) Write(b []byte) (int, error) {
	w.out = append(w.out, b...)
	if w.until != "" && bytes.Contains(w.out, []byte(w.until)) {
		w.found()
	}
	return len(b), nil
}

func tail(b []byte) []byte { return b[max(0, len(b)-2000):] }

// A boot is a way to boot an image.
type boot struct {
	name  string
	magic uint64
	write func(*Program, io.Writer, *Config) error
	start func(t *testing.T, image string, m machine) []byte
}

// A machine is what to boot on.
type machine struct {
	memory int    // MiB; 0: 64
	cpu    string // an emulator's name for a model; "": a default with 64 bits
	serial string // not "": no debug port, and what will be on the serial one
}

func (m machine) mib() int {
	if m.memory == 0 {
		return 64
	}
	return m.memory
}

var boots = []boot{
	{name: "bochs disk", magic: bootproto.MultibootMagic, write: (*Program).WriteDisk, start: bochs},
	{name: "qemu disk", magic: bootproto.MultibootMagic, write: (*Program).WriteDisk, start: qemuDisk},
	{name: "qemu kernel", magic: bootproto.MultibootMagic, write: (*Program).WriteELF, start: qemuKernel},
	{name: "grub multiboot", magic: bootproto.MultibootMagic, write: (*Program).WriteELF, start: grub("multiboot")},
	{name: "grub multiboot2", magic: bootproto.Multiboot2Magic, write: (*Program).WriteELF, start: grub("multiboot2")},
}

// bochs boots a disk image on Bochs.
func bochs(t *testing.T, image string, m machine) []byte {
	t.Helper()
	const bios, vga = "/usr/share/bochs/BIOS-bochs-latest", "/usr/share/bochs/VGABIOS-lgpl-latest"
	for _, f := range []string{bios, vga} {
		if _, err := os.Stat(f); err != nil {
			t.Skipf("Bochs' firmware (Debian: bochsbios, vgabios) is not installed: %v", err)
		}
	}
	if m.cpu == "" {
		m.cpu = "corei7_skylake_x"
	}
	info, err := os.Stat(image)
	require.NoError(t, err)
	cylinders, heads, sectors := Geometry(info.Size())
	dir := t.TempDir()
	e9, serial := 1, ""
	if m.serial != "" {
		e9, serial = 0, "com1: enabled=1, mode=file, dev=/dev/stdout\n"
	}
	conf := fmt.Sprintf(`
megs: %d
cpu: model=%s, count=1, ips=1000000, reset_on_triple_fault=0
clock: sync=none, time0=0
romimage: file=%s
vgaromimage: file=%s
display_library: rfb, options="timeout=0"
ata0: enabled=1
ata0-master: type=disk, mode=flat, path=%q, cylinders=%d, heads=%d, spt=%d
boot: disk
panic: action=fatal
error: action=report
info: action=report
log: %s/log
plugin_ctrl: speaker=0
port_e9_hack: enabled=%d
%s`, m.mib(), m.cpu, bios, vga, image, cylinders, heads, sectors, dir, e9, serial)
	require.NoError(t, os.WriteFile(dir+"/rc", []byte("c\n"), 0o600))
	require.NoError(t, os.WriteFile(dir+"/conf", []byte(conf), 0o600))
	out, _ := run(t, m.serial, "bochs", "-q", "-f", dir+"/conf", "-rc", dir+"/rc") // its status is 1 in any case
	t.Cleanup(func() {
		if t.Failed() {
			log, _ := os.ReadFile(dir + "/log")
			t.Logf("Bochs' log ends:\n%s", tail(log))
		}
	})
	return out
}

// qemu boots on QEMU, with TCG. A program that ends says so through
// isa-debug-exit.
func qemu(t *testing.T, m machine, args ...string) []byte {
	t.Helper()
	port := "-debugcon"
	if m.serial != "" {
		port = "-serial"
	}
	args = append(args, "-accel", "tcg", "-m", fmt.Sprint(m.mib()), "-display", "none", "-no-reboot", "-monitor", "none",
		"-nic", "none", port, "stdio", "-device", "isa-debug-exit,iobase=0xf4,iosize=1")
	if m.cpu != "" {
		args = append(args, "-cpu", m.cpu)
	}
	out, _ := run(t, m.serial, "qemu-system-x86_64", args...)
	return out
}

func qemuDisk(t *testing.T, image string, m machine) []byte {
	return qemu(t, m, "-drive", "format=raw,file="+image)
}

func qemuKernel(t *testing.T, image string, m machine) []byte {
	return qemu(t, m, "-kernel", image)
}

// grub boots from a CD with GRUB on it, by one of GRUB's commands.
func grub(command string) func(t *testing.T, image string, m machine) []byte {
	return func(t *testing.T, image string, m machine) []byte {
		for _, tool := range []string{"grub-mkrescue", "xorriso"} {
			if _, err := exec.LookPath(tool); err != nil {
				t.Skipf("%s is not installed", tool)
			}
		}
		if _, err := os.Stat("/usr/lib/grub/i386-pc"); err != nil {
			t.Skipf("GRUB for BIOS machines (Debian: grub-pc-bin) is not installed: %v", err)
		}
		dir := t.TempDir()
		require.NoError(t, os.MkdirAll(dir+"/cd/boot/grub", 0o700))
		require.NoError(t, os.Rename(image, dir+"/cd/boot/program"))
		conf := fmt.Sprintf("%s /boot/program first second\nboot\n", command)
		require.NoError(t, os.WriteFile(dir+"/cd/boot/grub/grub.cfg", []byte(conf), 0o600))
		out, status := run(t, "", "grub-mkrescue", "-d", "/usr/lib/grub/i386-pc", "-o", dir+"/iso", dir+"/cd")
		require.Zero(t, status, "%s", out)
		return qemu(t, m, "-cdrom", dir+"/iso")
	}
}

// open opens an ELF file that must be right.
func open(t testing.TB, f *elfFile) *Program {
	t.Helper()
	data := f.encode()
	p, err := Open(bytes.NewReader(data), int64(len(data)))
	require.NoError(t, err)
	return p
}

// writeImage writes an image into a file, changed by patch if that is not nil.
func writeImage(t *testing.T, p *Program, c *Config, b boot, patch func([]byte) []byte) (name string) {
	t.Helper()
	var out bytes.Buffer
	require.NoError(t, b.write(p, &out, c))
	data := out.Bytes()
	if patch != nil {
		data = patch(data)
	}
	name = filepath.Join(t.TempDir(), "image")
	if strings.ContainsAny(name, ",=") {
		t.Skipf("emulators do not take file names with commas: %s", name)
	}
	require.NoError(t, os.WriteFile(name, data, 0o600))
	return name
}

// registers are what fake.S dumps first.
type registers struct {
	RDI, RSI, RDX, RSP, RFLAGS, CS, SS, CR0, CR4, EFER, TSC, TwiceTSC uint64
}

// A dump reads what fake.S puts out.
type dump struct {
	t      *testing.T
	frames []frame
}

// next is the next range of memory.
func (d *dump) next() (b []byte) {
	d.t.Helper()
	for {
		require.NotEmpty(d.t, d.frames, "a dump is missing")
		f := d.frames[0]
		require.Equal(d.t, byte(bootproto.FrameStdout), f.typ, "payload %.200q", f.data)
		d.frames = d.frames[1:]
		b = append(b, f.data...)
		if len(f.data) < 1<<16 {
			return b
		}
	}
}

// checkBoot compares what fake.S put out with what it should have found.
func checkBoot(t *testing.T, out []byte, f *elfFile, p *Program, c *Config, magic uint64, memory int) (r registers) {
	t.Helper()
	d := &dump{t, parseFrames(t, out)}
	require.NotEmpty(t, d.frames, "no frame in the output, which ends %q", tail(out))

	_, err := binary.Decode(d.next(), binary.LittleEndian, &r)
	require.NoError(t, err)
	require.Equal(t, magic, r.RDI)
	require.Equal(t, uint64(bootproto.ParamsBase), r.RDX)
	require.Zero(t, r.RFLAGS&(1<<9|1<<10|1<<14|1<<18), "RFLAGS %#x: IF, DF, NT and AC must be clear", r.RFLAGS)
	require.Zero(t, r.RSP%16)
	require.Equal(t, uint64(0x18), r.CS)
	require.Equal(t, uint64(0x10), r.SS)
	require.Equal(t, uint64(0x80000033), r.CR0)
	require.Equal(t, uint64(0x620), r.CR4)
	require.Equal(t, uint64(0x500), r.EFER&0x500, "LMA and LME")
	require.Equal(t, 2*r.TSC, r.TwiceTSC)

	params, err := p.params(c)
	require.NoError(t, err)
	require.Equal(t, params, d.next())

	checkInformation(t, d.next(), d.next(), magic, memory)

	for i, l := range f.loads {
		require.True(t, bytes.Equal(l.data, d.next()), "segment %d differs from the file", i)
		require.Zero(t, binary.LittleEndian.Uint64(d.next()), "bytes that are not zero behind segment %d", i)
	}
	for _, m := range c.Modules {
		want, err := io.ReadAll(io.NewSectionReader(m.Data, 0, m.Size))
		require.NoError(t, err)
		require.True(t, bytes.Equal(want, d.next()), "module %s differs", m.Name)
	}
	require.Equal(t, []frame{{bootproto.FrameExit, []byte{42, 0, 0, 0}}}, d.frames)
	return r
}

// checkInformation looks for the memory map in multiboot information: the RAM
// in it must be what the machine has, but for what firmware keeps.
func checkInformation(t *testing.T, info, rows []byte, magic uint64, memory int) {
	t.Helper()
	le := binary.LittleEndian
	var ram uint64
	add := func(base, length uint64, typ uint32) {
		require.NotZero(t, length)
		if typ == 1 {
			ram += length
		}
	}
	var lower, upper uint32 // KiB
	if magic == bootproto.MultibootMagic {
		flags := le.Uint32(info)
		require.Equal(t, uint32(0x241), flags&0x241, "memory, memory map, loader's name")
		lower, upper = le.Uint32(info[4:]), le.Uint32(info[8:])
		require.NotZero(t, le.Uint32(info[64:]))
		for len(rows) > 0 {
			add(le.Uint64(rows[4:]), le.Uint64(rows[12:]), le.Uint32(rows[20:]))
			rows = rows[le.Uint32(rows)+4:]
		}
	} else {
		for info = info[8:]; ; {
			typ, size := le.Uint32(info), le.Uint32(info[4:])
			if typ == 0 {
				break
			}
			switch tag := info[:size]; typ {
			case 4:
				lower, upper = le.Uint32(tag[8:]), le.Uint32(tag[12:])
			case 6:
				for row := tag[16:]; len(row) > 0; row = row[le.Uint32(tag[8:]):] {
					add(le.Uint64(row), le.Uint64(row[8:]), le.Uint32(row[16:]))
				}
			}
			info = info[roundUp(int64(size), 8):]
		}
	}
	whole := uint64(memory) << 20
	require.LessOrEqual(t, ram, whole)
	require.Greater(t, ram, whole-1<<20)
	require.InDelta(t, 640, lower, 16, "KiB of lower memory")
	// QEMU puts what is above 3 GiB behind 4 GiB if there is much of it.
	require.InDelta(t, (min(memory, 3<<10)-1)<<10, upper, 1<<10, "KiB of upper memory")
}

func testConfig() *Config {
	c := &Config{
		Args: []string{"fake", "-test.v", "", "three words here"}, Env: []string{"A=b", "EMPTY="},
		Dir: "/home", Exe: "/home/fake", Dirs: []string{"/", "/tmp"},
		Flags: bootproto.FlagFramed | bootproto.FlagFixed, TSC: 50e6, Epoch: 1767225600,
		Seed: [16]byte{1, 2, 3},
	}
	for i, size := range []int{1, 70000, 0, 4096, 5} {
		c.Modules = append(c.Modules, Module{fmt.Sprintf("module%d", i), bytes.NewReader(random(10+i, size)), int64(size)})
	}
	return c
}

// TestBoot boots a program every way there is, and looks at all that it finds.
func TestBoot(t *testing.T) {
	for _, b := range boots {
		t.Run(b.name, func(t *testing.T) {
			t.Parallel()
			f := fakeProgram(0x23456, 0x123456).lay()
			p, c := open(t, f), testConfig()
			out := b.start(t, writeImage(t, p, c, b, nil), machine{})
			checkBoot(t, out, f, p, c, b.magic, 64)
		})
	}
}

// TestBootMany boots a program with as many segments as there may be, lying as
// close as can be, and no module.
func TestBootMany(t *testing.T) {
	for _, b := range boots {
		t.Run(b.name, func(t *testing.T) {
			t.Parallel()
			f := fakeProgram(0x2345, 3)
			for i := len(f.loads); i < maxSegments; i++ {
				last := f.loads[i-1]
				data := random(i, i*7)
				f.loads = append(f.loads, load{last.addr + last.memSize, uint64(len(data)) + uint64(i%4)*4, 6, data})
			}
			p, c := open(t, f.lay()), testConfig()
			c.Modules = nil
			out := b.start(t, writeImage(t, p, c, b, nil), machine{memory: 96})
			checkBoot(t, out, f, p, c, b.magic, 96)
		})
	}
}

// TestBootLarge boots where a part of memory is above 4 GiB.
func TestBootLarge(t *testing.T) {
	for _, b := range boots[1:3] {
		t.Run(b.name, func(t *testing.T) {
			t.Parallel()
			f := fakeProgram(0x2345, 0).lay()
			p, c := open(t, f), testConfig()
			out := b.start(t, writeImage(t, p, c, b, nil), machine{memory: 5 << 10})
			checkBoot(t, out, f, p, c, b.magic, 5<<10)
		})
	}
}

// TestBootSpeed counts the instructions to a program's entry on Bochs, where the
// TSC counts them. The BIOS takes 7.2 million.
func TestBootSpeed(t *testing.T) {
	const limit = 12_000_000
	f := fakeProgram(2<<20, 0x40000).lay()
	p, c := open(t, f), testConfig()
	out := bochs(t, writeImage(t, p, c, boots[0], nil), machine{})
	r := checkBoot(t, out, f, p, c, boots[0].magic, 64)
	t.Logf("%d instructions to the entry of a program of 2 MiB", r.TSC)
	require.Less(t, r.TSC, uint64(limit))
}

// TestMemoryNeeded boots on machines with just the memory that is needed. GRUB
// wants some beside it.
func TestMemoryNeeded(t *testing.T) {
	for _, b := range boots[:3] {
		t.Run(b.name, func(t *testing.T) {
			t.Parallel()
			f := fakeProgram(0x2345, 0).lay()
			last := &f.progs[len(f.progs)-1]
			last.Memsz = 33<<20 - last.Vaddr // to the end of a MiB
			p, c := open(t, f), testConfig()
			c.Modules = nil
			require.Equal(t, uint64(34<<20), p.MemoryNeeded(c))
			out := b.start(t, writeImage(t, p, c, b, nil), machine{memory: 34})
			checkBoot(t, out, f, p, c, b.magic, 34)
		})
	}
}

// replace returns a patch that must find the bytes once.
func replace(t *testing.T, from, to string) func([]byte) []byte {
	return func(b []byte) []byte {
		code := b[:len(diskCode)]
		require.Equal(t, 1, bytes.Count(code, []byte(from)), "%x in the loader's code", from)
		return append(bytes.Replace(code, []byte(from), []byte(to), 1), b[len(code):]...)
	}
}

func patches(list ...func([]byte) []byte) func([]byte) []byte {
	return func(b []byte) []byte {
		for _, p := range list {
			b = p(b)
		}
		return b
	}
}

// TestDiskFirmware takes away what firmware offers, so that disk.S must fall
// back on something else.
func TestDiskFirmware(t *testing.T) {
	noE820 := replace(t, "\x66\xb8\x20\xe8\x00\x00", "\x66\xb8\xff\xe8\x00\x00")
	noE801 := replace(t, "\xb8\x01\xe8", "\xb8\xff\xe8")
	// At entry, go by way of unused bytes that turn A20 off.
	a20Off := func(b []byte) []byte {
		copy(b, "\xe9\xa0\x01\x90\x90")                         // jmp 0x1a3
		copy(b[0x1a3:], "\xe4\x92\x24\xfd\xe6\x92\xe9\x59\xfe") // in 0x92; and ~2; out 0x92; jmp 5
		return b
	}
	noBIOS := replace(t, "\xb8\x01\x24", "\xb8\xff\x24")
	noPort92 := replace(t, "\x0c\x02\xe6\x92", "\x0c\x00\xe6\x92")
	for _, tt := range []struct {
		name  string
		patch func([]byte) []byte
	}{
		{"E801", noE820},
		{"88", patches(noE820, noE801)},
		{"A20 by BIOS", a20Off},
		{"A20 by port 92", patches(a20Off, noBIOS)},
		{"A20 by keyboard controller", patches(a20Off, noBIOS, noPort92)},
	} {
		for _, b := range boots[:2] {
			t.Run(tt.name+"/"+b.name, func(t *testing.T) {
				t.Parallel()
				f := fakeProgram(0x2345, 0x12345).lay()
				p, c := open(t, f), testConfig()
				memory := 48 // 88h does not tell of more than 64 MiB
				out := b.start(t, writeImage(t, p, c, b, tt.patch), machine{memory: memory})
				checkBoot(t, out, f, p, c, b.magic, memory)
			})
		}
	}
}

// TestDiskZeroes fills memory before disk.S clears it: emulators begin with
// memory that is zero.
func TestDiskZeroes(t *testing.T) {
	for _, bss := range []uint64{1, 2, 3, 4, 5, 6, 7, 0x12345} {
		for _, b := range boots[:2] {
			t.Run(fmt.Sprint(bss, " bytes/", b.name), func(t *testing.T) {
				t.Parallel()
				f := fakeProgram(0x2345, bss).lay()
				data := f.loads[2]
				patch := func(image []byte) []byte {
					// The first instructions in 32-bit mode are mov $0x10, %eax
					// and its moves to DS and ES. Make them a jump to the end of
					// the second stage, where there is room.
					const room = 0xf80
					at := bytes.Index(image[:len(diskCode)], []byte("\xb8\x10\x00\x00\x00\x8e\xd8\x8e\xc0\x8e\xd0"))
					require.Positive(t, at)
					le := binary.LittleEndian
					fill := append(bytes.Clone(image[at:at+9]), 0xbf) // mov $start, %edi
					fill = le.AppendUint32(fill, uint32(data.addr)+uint32(len(data.data)))
					fill = append(fill, 0xb9) // mov $bytes, %ecx
					fill = le.AppendUint32(fill, uint32(bss))
					fill = append(fill, "\xb0\xff\xf3\xaa"...) // mov $-1, %al; rep stosb
					fill = append(fill, image[at:at+5]...)
					fill = append(fill, 0xe9) // jmp back
					fill = le.AppendUint32(fill, uint32(at+5-(room+len(fill)+4)))
					require.Equal(t, make([]byte, len(fill)), image[room:room+len(fill)])
					copy(image[room:], fill)
					image[at] = 0xe9
					le.PutUint32(image[at+1:], uint32(room-at-5))
					return image
				}
				p, c := open(t, f), testConfig()
				out := b.start(t, writeImage(t, p, c, b, patch), machine{})
				checkBoot(t, out, f, p, c, b.magic, 64)
			})
		}
	}
}

// TestBootErrors makes booting fail: the message must come out, framed or not.
func TestBootErrors(t *testing.T) {
	cut := func(n int) func([]byte) []byte { return func(b []byte) []byte { return b[:n] } }
	disks := boots[:2]
	const no64 = "boot: this processor has no 64-bit mode: choose an x86-64 CPU model\n"
	for _, tt := range []struct {
		name  string
		boots []boot
		m     machine
		patch func([]byte) []byte
		want  string
	}{
		{name: "memory", boots: boots[:1], m: machine{memory: 16}, want: "boot: the program needs 39 MiB of memory, and there is no RAM at 0x00ff0000: give the machine more memory\n"},
		{name: "memory", boots: boots[1:2], m: machine{memory: 16}, want: "boot: the program needs 39 MiB of memory, and there is no RAM at 0x00fe0000: give the machine more memory\n"},
		{name: "no 64-bit mode", boots: boots[:1], m: machine{cpu: "p3_katmai"}, want: no64},
		{name: "no 64-bit mode", boots: boots[1:4], m: machine{cpu: "pentium3"}, want: no64},
		{name: "no CPUID leaf", boots: boots[:1], m: machine{cpu: "pentium_mmx"}, want: no64},
		{name: "no multiboot magic", boots: disks, patch: replace(t, "\xb8\x02\xb0\xad\x2b", "\xb8\x02\xb0\xad\x2c"),
			want: "boot: the image was entered without a multiboot magic: boot it with multiboot, multiboot2 or as a disk\n"},
		{name: "no boot disk", boots: boots[1:2], patch: cut(512), want: "boot: cannot read the boot disk\n"},
		{name: "no LBA", boots: disks, patch: replace(t, "\x81\xfb\x55\xaa", "\x81\xfb\x55\xab"), want: "boot: this BIOS has no LBA disk reads\n"},
		{name: "disk cut off", boots: boots[1:2], patch: cut(0x8000), want: "boot: cannot read the boot disk at sector 0x00000040: INT 13h status 0x00000001: write the image again, whole\n"},
		{name: "no memory map", boots: disks, patch: patches(
			replace(t, "\x66\xb8\x20\xe8\x00\x00", "\x66\xb8\xff\xe8\x00\x00"), replace(t, "\xb8\x01\xe8", "\xb8\xff\xe8"), replace(t, "\xb4\x88", "\xb4\xff")),
			want: "boot: the firmware does not tell how much memory there is\n"},
	} {
		for _, b := range tt.boots {
			for name, flags := range map[string]uint64{"plain": 0, "framed": bootproto.FlagFramed | bootproto.FlagFixed} {
				for _, port := range []string{"E9", "serial"} {
					t.Run(tt.name+"/"+b.name+"/"+name+"/"+port, func(t *testing.T) {
						t.Parallel()
						p := open(t, fakeProgram(0x2345, 33<<20).lay())
						m := tt.m
						if port == "serial" {
							m.serial = tt.want
							if flags != 0 {
								m.serial = "\xfevtx\x05\x04\x00\x00\x00\x7d\x00\x00\x00"
							}
						}
						out := b.start(t, writeImage(t, p, &Config{Args: []string{"fake"}, Flags: flags}, b, tt.patch), m)
						if flags == 0 {
							require.Contains(t, string(out), tt.want)
							require.Empty(t, parseFrames(t, out))
							return
						}
						require.Equal(t, []frame{{bootproto.FrameKernel, []byte(tt.want)}, {bootproto.FrameExit, []byte{125, 0, 0, 0}}},
							parseFrames(t, out), "the output ends %q", tail(out))
					})
				}
			}
		}
	}
}
