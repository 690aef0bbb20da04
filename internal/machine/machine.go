// Package machine boots a Go program that contains package ring0 on an emulator
// (Bochs, or QEMU for the boot path alone), forwards what it prints, writes its
// files and returns its exit status.
//
// The emulator runs in a private directory and a process group of its own. Both
// are gone when [Run] returns, whatever happened.
package machine

import (
	"context"
	"crypto/rand"
	"debug/elf"
	"debug/gosym"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/govtx/vtx/internal/bootimage"
	"github.com/govtx/vtx/internal/bootproto"
)

// The machines there are.
const (
	Bochs = "bochs" // Bochs; its Intel models have VT-x
	QEMU  = "qemu"  // QEMU without KVM; no VT-x
	None  = "none"  // only write the image
)

// What zero values in a [Config] mean.
const (
	DefaultTimeout   = 10 * time.Minute
	DefaultMaxOutput = 1 << 30
	DefaultClock     = 50_000_000
	DefaultIPS       = 1_000_000
	// DefaultMemory is less on Bochs: the time that it takes to start grows with
	// the square of the memory (0.1 s for 512 MiB, 0.4 s for 1 GiB, 1.5 s for 2 GiB).
	DefaultMemory      = 1 << 30
	DefaultMemoryBochs = 512 << 20
	DefaultCPUBochs    = "corei7_skylake_x"
	DefaultCPUQEMU     = "max"
)

// fixedEpoch is the time at which Bochs runs begin, 2026-01-01 00:00 UTC, so
// that every run is the same.
const fixedEpoch = 1767225600

// Names in the private directory.
const (
	diskName = "disk.img"
	cdName   = "cdrom.iso"
	elfName  = "boot.elf"
)

// A Module is a host file that the guest finds in its memory.
type Module struct {
	Name string // what the guest calls it
	File string // its path here
}

// A Config says what to boot, on what, and how far it may go.
type Config struct {
	Program string   // path of the ELF file, or with Raw of a disk's or CD's image
	Args    []string // argv behind argv[0], which is Program
	Env     []string // the guest's whole environment, NAME=VALUE
	Dir     string   // working directory; default: this process's
	Dirs    []string // directories that exist for the guest; see GuestDirs
	Modules []Module

	Machine   string        // Bochs, QEMU or None; default: Bochs
	Emulator  string        // its binary; default: the usual name, on PATH
	CPU       string        // CPU model, in the emulator's words
	Memory    uint64        // bytes, a multiple of 1 MiB
	Timeout   time.Duration // of wall time
	MaxOutput int64         // bytes that the guest may print and write to files
	Clock     uint64        // Bochs: instructions in a second of the program's time
	IPS       uint64        // Bochs: instructions in a second of the devices' time
	Disk      bool          // QEMU: boot the disk image, not the multiboot file
	Lent      bool          // interrupts and devices are lent from the start; see bootproto.FlagLent

	// Raw boots Program as it is: the image of a disk, or of a CD if its name ends
	// in ".iso". What the guest writes to the disk is lost. The run ends well when
	// the guest switches the machine off.
	Raw bool
	// Until, with Raw, ends the run well when this text appears on the serial
	// port, and makes the machine's being switched off before a failure.
	Until string

	Serial     bool   // show what the machine writes to its first serial port on Stdout
	SerialFile string // keep that here

	Image string // keep the boot image here: multiboot if it ends in .elf, else a disk
	Log   string // keep the emulator's log here

	Stdout, Stderr io.Writer                        // default: io.Discard
	Trace          func(format string, args ...any) // hears what is being done; may be nil
}

// A Result is what became of the guest. With an error it holds what is known.
type Result struct {
	Exited   bool // the guest said its exit status, or ended in a way that Config.Raw knows
	Status   int  // that status, as given to exit_group(2); with Raw 0, or 1 when Until did not appear
	Booted   bool // ring0 said that it took over
	Stats    [bootproto.Stats]uint64
	Elapsed  time.Duration // of the emulator
	Warnings []string      // what is odd but did not stop the run
}

// An emulator is one kind of machine.
type emulator struct {
	cpu    string
	memory uint64
	disk   func(*Config) bool // does it boot the disk image?
	// command prepares the private directory, which holds the image.
	command func(c *Config, dir string) (*command, error)
	// diagnose says why the emulator ended before the guest did.
	diagnose func(c *Config, path string, log []byte, wait error) error
}

var emulators = map[string]*emulator{
	Bochs: {DefaultCPUBochs, DefaultMemoryBochs, func(*Config) bool { return true }, bochsCommand, bochsDiagnose},
	QEMU:  {DefaultCPUQEMU, DefaultMemory, func(c *Config) bool { return c.Disk }, qemuCommand, qemuDiagnose},
}

// complete checks c and fills in the defaults.
func (c *Config) complete() error {
	e := emulators[c.Machine]
	switch {
	case c.Machine == "":
		c.Machine = Bochs
		e = emulators[Bochs]
	case e == nil && c.Machine != None:
		return fmt.Errorf("%w: machine %q: it must be %s, %s or %s", ErrConfig, c.Machine, Bochs, QEMU, None)
	case c.Machine == None && c.Image == "":
		return fmt.Errorf("%w: machine %s only writes the boot image: say where with -image FILE", ErrConfig, None)
	}
	switch {
	case c.Raw && (c.Image != "" || len(c.Args) > 0 || len(c.Modules) > 0):
		return fmt.Errorf("%w: %s is booted as it is (-raw): there is no boot image to keep, and it takes no arguments and no modules", ErrConfig, c.Program)
	case c.Until != "" && !c.Raw:
		return fmt.Errorf("%w: -until %q: a program says itself when it has ended; only what is booted with -raw is ended by a text", ErrConfig, c.Until)
	}
	setDefault(&c.Timeout, DefaultTimeout)
	setDefault(&c.MaxOutput, DefaultMaxOutput)
	setDefault(&c.Clock, DefaultClock)
	setDefault(&c.IPS, DefaultIPS)
	if c.Timeout < 0 || c.MaxOutput < 0 {
		return fmt.Errorf("%w: timeout %v and output limit %d must not be negative", ErrConfig, c.Timeout, c.MaxOutput)
	}
	if e != nil {
		setDefault(&c.CPU, e.cpu)
		setDefault(&c.Memory, e.memory)
	}
	if c.Memory%(1<<20) != 0 {
		return fmt.Errorf("%w: memory of %d bytes: it must be a multiple of 1 MiB", ErrConfig, c.Memory)
	}
	if c.Dir == "" {
		dir, err := os.Getwd()
		if err != nil {
			return err
		}
		c.Dir = dir
	}
	if c.Stdout == nil {
		c.Stdout = io.Discard
	}
	if c.Stderr == nil {
		c.Stderr = io.Discard
	}
	return nil
}

func setDefault[T comparable](v *T, def T) {
	var zero T
	if *v == zero {
		*v = def
	}
}

func (c *Config) trace(format string, args ...any) {
	if c.Trace != nil {
		c.Trace(format, args...)
	}
}

// bootConfig is what the image tells the program.
func (c *Config) bootConfig(exe string) *bootimage.Config {
	b := &bootimage.Config{
		Args: append([]string{c.Program}, c.Args...),
		Env:  c.Env, Dir: c.Dir, Exe: exe, Dirs: c.Dirs,
	}
	switch c.Machine {
	case Bochs:
		// All that could differ between two runs is fixed.
		b.Flags = bootproto.FlagFramed | bootproto.FlagSkipIdle | bootproto.FlagFixed
		b.TSC = c.Clock
		b.Epoch = fixedEpoch
		copy(b.Seed[:], "vtx boot on Bochs")
	case QEMU:
		b.Flags = bootproto.FlagFramed
		b.Epoch = uint64(time.Now().Unix())
		_, _ = rand.Read(b.Seed[:]) // never fails
	default:
		// The image may run anywhere: plain text, and nothing assumed.
		_, _ = rand.Read(b.Seed[:])
	}
	if c.Lent {
		b.Flags |= bootproto.FlagLent
	}
	return b
}

// Run boots the program and waits for its end. The error is
// [bootimage.ErrNoRing0] for a program that can run as a process only, one of
// this package's Err... values, the cause of ctx, or another failure; a program
// that ends with a status of its own is no error, whatever the status.
func Run(ctx context.Context, cfg Config) (Result, error) {
	c := &cfg
	if err := c.complete(); err != nil {
		return Result{}, err
	}
	if c.Raw {
		return c.boot(ctx, func(dir string) error { return c.copyRaw(ctx, dir) })
	}
	prog, boot, closeFiles, err := c.open()
	if err != nil {
		return Result{}, err
	}
	defer closeFiles()

	if c.Image != "" {
		form := prog.WriteDisk
		if strings.HasSuffix(c.Image, ".elf") {
			form = prog.WriteELF
		}
		if err := keep(ctx, c.Image, func(w io.Writer) error { return form(w, boot) }); err != nil {
			return Result{}, fmt.Errorf("the boot image %s: %w", c.Image, err)
		}
		c.trace("boot image kept in %s", c.Image)
	}
	if c.Machine == None {
		return Result{}, nil
	}
	if need := prog.MemoryNeeded(boot); need > c.Memory {
		return Result{}, fmt.Errorf("%w: the program and its modules need %d MiB just to be loaded, the machine has %d MiB; pass -memory %d or more",
			ErrMemory, need>>20, c.Memory>>20, 2*(need>>20))
	}

	return c.boot(ctx, func(dir string) error {
		name, form := elfName, prog.WriteELF
		if emulators[c.Machine].disk(c) {
			name, form = diskName, prog.WriteDisk
		}
		return create(ctx, filepath.Join(dir, name), func(w io.Writer) error { return form(w, boot) })
	})
}

// boot runs the emulator in a private directory, in which image puts what it is
// to boot.
func (c *Config) boot(ctx context.Context, image func(dir string) error) (Result, error) {
	dir, err := os.MkdirTemp("", "vtx-boot-")
	if err != nil {
		return Result{}, fmt.Errorf("no place for the boot image: %w; set TMPDIR to a directory that can be written", err)
	}
	defer os.RemoveAll(dir)
	if err := image(dir); err != nil {
		return Result{}, fmt.Errorf("the boot image: %w", err)
	}
	emu := emulators[c.Machine]
	cmd, err := emu.command(c, dir)
	if err != nil {
		return Result{}, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, c.Timeout, ErrTimeout)
	defer cancel()
	for {
		res, err := c.emulate(ctx, emu, cmd, dir)
		if !errors.Is(err, errBusy) {
			return res, err
		}
		c.trace("%v; trying again", err)
		select {
		case <-time.After(busyWait):
		case <-ctx.Done():
			return res, fmt.Errorf("%w: %w", context.Cause(ctx), err)
		}
	}
}

// openRegular opens a regular file and tells its size.
func openRegular(path string) (*os.File, int64, error) {
	st, err := os.Stat(path) // before opening: a named pipe would block
	if err != nil {
		return nil, 0, err
	}
	if !st.Mode().IsRegular() {
		return nil, 0, fmt.Errorf("%s is not a regular file (%v)", path, st.Mode().Type())
	}
	f, err := os.Open(path)
	return f, st.Size(), err
}

// wantsSerial reports whether anybody hears of the serial port.
func (c *Config) wantsSerial() bool { return c.Serial || c.SerialFile != "" || c.Until != "" }

// isCD reports whether a raw image is a CD's.
func (c *Config) isCD() bool { return c.Raw && strings.HasSuffix(c.Program, ".iso") }

// copyRaw copies a raw image into dir, where the guest may write to it. A disk
// gets zeros up to the end of its last cylinder.
func (c *Config) copyRaw(ctx context.Context, dir string) error {
	f, size, err := openRegular(c.Program)
	if err != nil {
		return err
	}
	defer f.Close()
	name := diskName
	if c.isCD() {
		name = cdName
	}
	if size == 0 {
		return fmt.Errorf("%s is empty: name the image of a disk or a CD", c.Program)
	}
	path := filepath.Join(dir, name)
	if err := create(ctx, path, func(w io.Writer) error {
		_, err := io.Copy(w, f)
		return err
	}); err != nil || c.isCD() {
		return err
	}
	return os.Truncate(path, (size+bochsCylinder-1)/bochsCylinder*bochsCylinder)
}

// open opens the program and the modules.
func (c *Config) open() (*bootimage.Program, *bootimage.Config, func(), error) {
	var opened []*os.File
	closeAll := func() {
		for _, f := range opened {
			f.Close()
		}
	}
	open := func(path string) (*os.File, int64, error) {
		f, size, err := openRegular(path)
		if err == nil {
			opened = append(opened, f)
		}
		return f, size, err
	}
	fail := func(err error) (*bootimage.Program, *bootimage.Config, func(), error) {
		closeAll()
		return nil, nil, nil, err
	}
	f, size, err := open(c.Program)
	if err != nil {
		return fail(err)
	}
	prog, err := bootimage.Open(f, size)
	if err != nil {
		return fail(fmt.Errorf("%s: %w", c.Program, err))
	}
	exe, err := filepath.Abs(c.Program)
	if err != nil {
		return fail(err)
	}
	boot := c.bootConfig(exe)
	for _, m := range c.Modules {
		f, size, err := open(m.File)
		if err != nil {
			return fail(fmt.Errorf("module %s: %w", m.Name, err))
		}
		boot.Modules = append(boot.Modules, bootimage.Module{Name: m.Name, Data: f, Size: size})
	}
	return prog, boot, closeAll, nil
}

// emulate runs the emulator in dir and judges how it ended.
func (c *Config) emulate(ctx context.Context, emu *emulator, cmd *command, dir string) (Result, error) {
	out := &output{
		stdout: c.Stdout, stderr: c.Stderr, files: files{dir: c.Dir}, raw: c.Raw,
		max: c.MaxOutput, left: budget{left: c.MaxOutput}, leftJunk: budget{left: max(c.MaxOutput, leastChatter)}, chatter: tail{max: tailBytes},
	}
	log := &logSink{tail: tail{max: tailBytes}, left: max(c.MaxOutput, leastChatter)}
	if c.Log != "" {
		f, err := os.Create(c.Log)
		if err != nil {
			return Result{}, fmt.Errorf("the emulator's log: %w", err)
		}
		defer f.Close()
		log.file = f
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var port *serial
	lines := &lineMux{w: c.Stdout}
	if c.wantsSerial() {
		if c.Serial {
			out.stdout = lines.stream()
		}
		var err error
		if port, err = c.startSerial(dir, lines.stream(), &out.left, cancel); err != nil {
			return Result{}, err
		}
	}
	c.trace("running %s %s in %s", cmd.path, strings.Join(cmd.args, " "), dir)
	start := time.Now()
	end, err := cmd.run(ctx, dir, out, log)
	elapsed := time.Since(start)
	var portErr error
	if port != nil {
		portErr = port.finish(ctx)
	}
	if err != nil {
		return Result{}, fmt.Errorf("%w: %w", ErrEmulator, err)
	}
	if end.out == errStuck || portErr == errStuck {
		// Nothing of out may be touched: its reader may go on at any time.
		_ = out.files.close(false)
		return Result{Elapsed: elapsed}, fmt.Errorf("%w: nobody took what the guest printed; the end of it is lost", context.Cause(ctx))
	}
	if err := lines.flush(); err != nil && portErr == nil {
		portErr = fmt.Errorf("%w to standard output: %w", ErrOutput, err)
	}
	fileErr := out.files.close(out.exited)
	res := Result{
		Exited: out.exited, Status: int(out.status), Booted: out.booted, Stats: out.stats,
		Elapsed: elapsed, Warnings: out.warnings,
	}
	if n := out.broken - len(out.warnings); n > 0 {
		res.Warnings = append(res.Warnings, fmt.Sprintf("%d more broken frames in the guest's output", n))
	}
	if log.err != nil {
		res.Warnings = append(res.Warnings, log.err.Error())
	}
	switch {
	case out.exited:
		err = nil
	case port != nil && port.found:
		res.Exited, err = true, nil
	case portErr != nil:
		err, portErr = portErr, nil
	case end.out != nil && end.out != io.EOF:
		err = end.out
	case end.ctx == nil:
		err = emu.diagnose(c, cmd.path, log.tail.bytes(), end.wait)
		if c.Raw && errors.Is(err, errOff) {
			res.Exited, err = true, nil
			if c.Until != "" {
				res.Status = 1
				res.Warnings = append(res.Warnings, fmt.Sprintf("the machine was switched off before %q was on its serial port", c.Until))
			}
			break
		}
		err = c.explain(err, &res, out)
	case errors.Is(end.ctx, ErrTimeout):
		what := "program"
		if c.Raw {
			what = "machine"
		}
		err = fmt.Errorf("%w: the %s did not end within %v of wall time and was stopped; give it more with -timeout, or see what it printed last", ErrTimeout, what, c.Timeout)
		if !out.booted && c.Machine == Bochs && c.Memory > 2<<30 {
			err = fmt.Errorf("%w; Bochs takes long to start with much memory, four times as long with twice as much: pass less than -memory %d", err, c.Memory>>20)
		}
		err = c.explain(err, &res, out)
	default:
		err = end.ctx
	}
	if portErr == errSerialText {
		portErr = nil
	}
	return res, errors.Join(err, portErr, fileErr)
}

// banner matches what Bochs prints in every run.
var banner = regexp.MustCompile(`^(=+$|Bochs x86 Emulator|Built from |Timestamp: |Next at t=|\(0\))`)

// errOff says that the guest switched the machine off without saying more.
var errOff = errors.New("switched off")

// errBusy says that the emulator could not start because too many of its kind
// run, which passes.
var errBusy = errors.New("too many emulators at once")

// busyWait is the time until the next try then.
const busyWait = 250 * time.Millisecond

// explain adds what the machine itself printed if the guest never came to speak.
func (c *Config) explain(err error, res *Result, out *output) error {
	if c.Raw || res.Booted || errors.Is(err, ErrCPUModel) || errors.Is(err, errBusy) {
		return err
	}
	text := "\nring0 never took over"
	for _, line := range printable(out.chatter.bytes(), 5, func(s string) bool { return !banner.MatchString(s) }) {
		text += "\n  " + line
	}
	return fmt.Errorf("%w%s", err, text)
}

// died is the error for an emulator that ended for no reason that its log
// names. It cites the last lines that keep accepts.
func died(c *Config, path string, log []byte, wait error, keep func(string) bool) error {
	how := "with status 0"
	kind := ErrNoExit
	var exit *exec.ExitError
	if errors.As(wait, &exit) {
		how = "with " + exit.ProcessState.String() // "exit status 1", "signal: killed"
		if !exit.ProcessState.Exited() {
			kind = ErrEmulator
		}
	}
	text := fmt.Sprintf("%s ended %s before the guest said its exit status; -log FILE keeps its log", filepath.Base(path), how)
	for _, line := range printable(log, 5, keep) {
		text += "\n  " + line
	}
	return fmt.Errorf("%w: %s", kind, text)
}

// lookPath finds the emulator's binary as an absolute path, for it runs in
// another directory.
func lookPath(given, name, install string) (string, error) {
	if given != "" {
		name = given
	}
	path, err := exec.LookPath(name)
	if err == nil || errors.Is(err, exec.ErrDot) && given != "" {
		return filepath.Abs(path)
	}
	return "", fmt.Errorf("%w: %w; %s, or name the binary with -emulator", ErrNoEmulator, err, install)
}

// locate describes the address (in hexadecimal) at which the program stopped.
func (c *Config) locate(hex string) string {
	pc, err := strconv.ParseUint(hex, 16, 64)
	if err != nil {
		return ""
	}
	return fmt.Sprintf(" at RIP %#x%s", pc, symbol(c.Program, pc))
}

// symbol names the function and the line of an address, if the program can
// tell. The tables that it reads are checked by nobody, and may come from a newer
// linker: what goes wrong with them is no matter.
func symbol(path string, pc uint64) (s string) {
	defer func() {
		if recover() != nil {
			s = ""
		}
	}()
	f, err := elf.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	text, lines := f.Section(".text"), f.Section(".gopclntab")
	if text == nil || lines == nil {
		return ""
	}
	data, err := lines.Data()
	if err != nil {
		return ""
	}
	table, err := gosym.NewTable(nil, gosym.NewLineTable(data, text.Addr))
	if err != nil {
		return ""
	}
	file, line, fn := table.PCToLine(pc)
	if fn == nil {
		return ""
	}
	return fmt.Sprintf(" in %s (%s:%d)", fn.Name, filepath.Base(file), line)
}

// keep writes a file that appears under its name only when it is whole.
func keep(ctx context.Context, path string, write func(io.Writer) error) error {
	if st, err := os.Stat(path); err == nil && !st.Mode().IsRegular() {
		// Renaming would replace a device, or fail on a directory.
		return fmt.Errorf("it is there and is not a regular file (%v)", st.Mode().Type())
	}
	temp, err := os.CreateTemp(filepath.Dir(path), ".vtx-image-*")
	if err != nil {
		return err
	}
	defer os.Remove(temp.Name()) // fails when all went well
	if err := temp.Close(); err != nil {
		return err
	}
	if err := create(ctx, temp.Name(), write); err != nil {
		return err
	}
	if err := os.Chmod(temp.Name(), 0o644); err != nil {
		return err
	}
	return os.Rename(temp.Name(), path)
}

// create writes a file in a private place.
func create(ctx context.Context, path string, write func(io.Writer) error) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	err = write(ctxWriter{ctx, f})
	return errors.Join(err, f.Close())
}

// A ctxWriter ends a long write when the context is done.
type ctxWriter struct {
	ctx context.Context
	w   io.Writer
}

func (w ctxWriter) Write(p []byte) (int, error) {
	if err := context.Cause(w.ctx); err != nil {
		return 0, err
	}
	return w.w.Write(p)
}
