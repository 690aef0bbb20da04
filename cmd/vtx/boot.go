package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"os"
	"text/tabwriter"
	"time"

	"github.com/govtx/vtx/internal/bootimage"
	"github.com/govtx/vtx/internal/bootproto"
	"github.com/govtx/vtx/internal/machine"
)

// Exit statuses of vtx boot that are not the program's own, as in timeout(1).
const (
	statusTimeout = 124
	statusFailure = 125
	statusSignal  = 128 // and the signal's number
)

var bootCommand = &command{
	name:  "boot",
	args:  "PROGRAM [ARGS]",
	short: "boot a Go program in ring 0 and exit with its status",
	env:   "VTXBOOTFLAGS",
	setup: setupBoot,
	long: `Boot wraps PROGRAM, a static linux/amd64 binary that imports package ring0
(built by CGO_ENABLED=0 go build, or go test -c), into a boot image, runs it on
an emulator, forwards its standard output and error as they come, writes the
files that it creates, and exits with its status.

A PROGRAM without ring0 in it runs natively: vtx boot becomes that program, with
the same arguments, environment, files and process id.

The guest gets PROGRAM and ARGS as its arguments, the variables of the
environment whose names begin with GO, VTX, TEST or CI, and HOME, PATH, USER,
TMPDIR, TZ and LANG. For its file system these directories exist: the working
directory, TMPDIR or /tmp, and those that an argument or a GO... variable names,
or that hold the file it names, with all that they lie in. A file that it
creates there is written on the host when the guest has ended it.

On Bochs, where the TSC counts instructions, every run of the same program with
the same arguments and environment is the same to the bit: time begins at
2026-01-01 00:00 UTC, random numbers are fixed, and sleeping takes no time.

With -serial the serial port's output comes on standard output too, by the line
where both print at once.

With -raw, PROGRAM is no program but the image of a disk or a CD, such as an
operating system's. Nothing is added to it, and what the machine writes to it is
lost. The run ends with status 0 when the machine switches itself off, or with
-until when TEXT appears; with status 1 when it is switched off before that.

Flags may also stand in the environment variable VTXBOOTFLAGS, between blanks;
those on the command line come after them.

Exit status: the program's own, or
  2     the command line makes no sense
  124   the program did not end within -timeout
  125   anything else went wrong: no emulator, a model that it does not know,
        too little memory, an unfit PROGRAM, a triple fault, too much output,
        a file that cannot be written
  128+n vtx was stopped by signal n
`,
}

type bootFlags struct {
	machine.Config
	env     []string
	stats   bool
	verbose bool
}

func setupBoot(fs *flag.FlagSet) func([]string) (int, error) {
	f := &bootFlags{}
	c := &f.Config
	c.MaxOutput = machine.DefaultMaxOutput
	fs.StringVar(&c.Machine, "machine", machine.Bochs, "run on `NAME`: bochs, qemu (which has no VT-x), or none, which only writes the image")
	fs.StringVar(&c.CPU, "cpu", "", "CPU `MODEL`, passed to the emulator as it is (default "+machine.DefaultCPUBochs+" on bochs, "+machine.DefaultCPUQEMU+" on qemu)")
	fs.Var(sizeFlag[uint64]{&c.Memory, 1 << 20}, "memory", "`SIZE` of the machine's memory in MiB, or with a suffix, as 2G (default 512M on bochs, which starts slowly with more: 1G adds 0.3 s, 4G adds 5 s; 1G on qemu)")
	fs.DurationVar(&c.Timeout, "timeout", machine.DefaultTimeout, "stop after `DURATION` of wall time")
	fs.Var(modulesFlag{&c.Modules}, "module", "hand `[NAME=]FILE` to the program in memory (repeatable; NAME is the file's base name if not given)")
	fs.StringVar(&c.Image, "image", "", "keep the boot image in `FILE`: a multiboot file if the name ends in .elf, else a disk")
	fs.StringVar(&c.Log, "log", "", "keep the emulator's log in `FILE`; Bochs names failed VM-entry checks there")
	fs.StringVar(&c.Emulator, "emulator", "", "`PATH` of the emulator (default bochs or qemu-system-x86_64, looked for in PATH)")
	fs.StringVar(&c.Emulator, "bochs", "", "`PATH` of the emulator, the same as -emulator")
	fs.BoolVar(&c.Disk, "disk", false, "let qemu boot the disk image rather than load the multiboot file")
	fs.BoolVar(&c.Serial, "serial", false, "show what the machine writes to its first serial port on standard output")
	fs.StringVar(&c.SerialFile, "serial-file", "", "keep what the machine writes to its first serial port in `FILE`")
	fs.BoolVar(&c.Raw, "raw", false, "boot PROGRAM as it is: the image of a disk, or of a CD if its name ends in .iso")
	fs.StringVar(&c.Until, "until", "", "with -raw, stop when `TEXT` is on the serial port; the machine's end before that is a failure")
	fs.Var(envFlag{&f.env}, "env", "set `NAME=VALUE` in the guest's environment (repeatable)")
	fs.Var(sizeFlag[int64]{&c.MaxOutput, 1}, "max-output", "stop a program that writes more than `SIZE` bytes; suffixes as with -memory")
	fs.BoolVar(&f.stats, "stats", false, "print what was counted (instructions, system calls, page faults, ...) to standard error at the end")
	fs.Uint64Var(&c.Clock, "clock", machine.DefaultClock, "on bochs, `HZ` instructions make a second of the program's time")
	fs.Uint64Var(&c.IPS, "ips", machine.DefaultIPS, "on bochs, `N` instructions make a second of the devices' time; operating systems want 50000000 or so, firmware starts sooner with less")
	fs.BoolVar(&f.verbose, "v", false, "say what is being done")
	return f.run
}

// run boots args[0].
func (f *bootFlags) run(args []string) (int, error) {
	if len(args) == 0 {
		return 0, errors.New("no program named")
	}
	c := &f.Config
	if c.Timeout <= 0 {
		return 0, fmt.Errorf("-timeout %v: it must be more than 0", c.Timeout)
	}
	if c.Clock == 0 {
		return 0, errors.New("-clock 0: it must be more than 0")
	}
	if c.IPS < 1_000_000 || c.IPS > math.MaxInt32 {
		return 0, fmt.Errorf("-ips %d: Bochs wants 1000000 to %d", c.IPS, math.MaxInt32)
	}
	if err := f.complete(args); err != nil {
		complain(err)
		return statusFailure, nil
	}
	ctx, stop := stopSignals(context.Background())
	res, err := machine.Run(ctx, *c)
	stop()
	if errors.Is(err, bootimage.ErrNoRing0) {
		if f.verbose {
			c.Trace("%v; running it natively", err)
		}
		status, err := runNative(c.Program, args)
		if err != nil {
			complain(fmt.Errorf("%s does not import ring0, so it runs natively, but: %w", c.Program, err))
			return statusFailure, nil
		}
		return status, nil
	}
	if errors.Is(err, machine.ErrConfig) {
		return 0, err
	}
	for _, w := range res.Warnings {
		complain(errors.New("warning: " + w))
	}
	if err != nil {
		complain(err)
	}
	if f.stats && res.Exited {
		printStats(os.Stderr, c, &res)
	}
	return status(&res, err), nil
}

// complete turns flags and arguments into the rest of the Config.
func (f *bootFlags) complete(args []string) error {
	c := &f.Config
	dir, err := os.Getwd()
	if err != nil {
		return fmt.Errorf("the working directory cannot be told (%w): change to another", err)
	}
	c.Program, c.Args, c.Dir = args[0], args[1:], dir
	c.Env = mergeEnv(machine.GuestEnv(os.Environ()), f.env)
	c.Dirs = machine.GuestDirs(dir, c.Env, c.Args)
	c.Stdout, c.Stderr = os.Stdout, os.Stderr
	if f.verbose {
		c.Trace = func(format string, args ...any) { complain(fmt.Errorf(format, args...)) }
	}
	return nil
}

// status is vtx's exit status after a run.
func status(res *machine.Result, err error) int {
	var sig *signalError
	switch {
	case res.Exited && (err == nil || res.Status&0xff != 0):
		return res.Status & 0xff // as wait(2) would tell it
	case errors.As(err, &sig):
		return statusSignal + sig.number
	case errors.Is(err, machine.ErrTimeout):
		return statusTimeout
	case err != nil:
		return statusFailure
	}
	return 0 // only an image was written
}

func complain(err error) { fmt.Fprintf(os.Stderr, "vtx boot: %v\n", err) }

// A signalError is the cause of a run that a signal ended.
type signalError struct {
	name   string
	number int
}

func (e *signalError) Error() string { return "stopped: " + e.name }

// printStats prints the table of -stats.
func printStats(w io.Writer, c *machine.Config, res *machine.Result) {
	ticks := "TSC ticks"
	if c.Machine == machine.Bochs {
		ticks = "instructions" // Bochs' TSC counts them
	}
	wall := res.Elapsed.Round(time.Millisecond)
	if c.Raw {
		fmt.Fprintf(w, "wall time %v\n", wall)
		return
	}
	s := &res.Stats
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', tabwriter.AlignRight)
	for _, row := range []struct {
		name  string
		value any
	}{
		{ticks, s[bootproto.StatTSC]},
		{"system calls", s[bootproto.StatSyscalls]},
		{"page faults", s[bootproto.StatFaults]},
		{"timer interrupts", s[bootproto.StatTicks]},
		{"thread switches", s[bootproto.StatSwitches]},
		{"threads", s[bootproto.StatThreads]},
		{"most pages in use", s[bootproto.StatPages]},
		{"sleep skipped", time.Duration(s[bootproto.StatSleep])},
		{"wall time", wall},
	} {
		fmt.Fprintf(t, "%s\t%v\t\n", row.name, row.value)
	}
	t.Flush()
}
