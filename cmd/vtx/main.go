// Vtx explains VT-x at the command line, and boots Go programs in ring 0.
//
// Usage:
//
//	vtx COMMAND [flags] [arguments]
//	vtx help [COMMAND]
//
// "vtx boot PROGRAM" wraps an ordinary Go program that imports package ring0
// into a boot image, runs it on an emulator with VT-x, forwards what it
// prints, and ends with its exit status. It serves as the runner of the go
// command:
//
//	go test -exec 'go run github.com/govtx/vtx/cmd/vtx boot' ./asm
//
// "vtx help boot" describes it in full.
//
// "vtx check FILE" finds in a dump of a VMCS, such as KVM leaves in the kernel's
// log, the rules of VM entry that it breaks. "vtx exit -" decodes a trace of VM exits.
// "vtx ept FILE" draws and explains a map of guest-physical memory, "vtx ept-entry" one entry.
// "vtx caps", "vtx field", "vtx fields", "vtx exit", "vtx exits" and "vtx error" look up
// what processors can do, fields of the VMCS, VM exits, and errors of VMX
// instructions.
//
// "vtx hypercall", "vtx hypercalls", "vtx status" and "vtx cpuid-hv" decode what passes
// between Hyper-V, or who does as it does, and its guests. "vtx vtl FILE" plays a script of
// calls between trust levels.
//
// "vtx trustlet FILE" tells whether a PE image is a trustlet and what its policy allows;
// "vtx secure-service" looks up what VTL0, and trustlets, ask of the secure kernel.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"text/tabwriter"
)

// statusUsage is the exit status for a command line that makes no sense, as in
// package flag.
const statusUsage = 2

// A command is one of vtx's subcommands.
type command struct {
	name  string
	args  string // what follows the flags, for the usage line
	short string // one line
	long  string // what the flags' own texts do not say
	// setup defines the flags, and returns what runs with them and the
	// arguments behind them. That gives the exit status, or an error when the
	// command line makes no sense.
	setup func(fs *flag.FlagSet) func(args []string) (int, error)
	// env names the environment variable that holds flags; "" for none.
	env string
}

var commands = []*command{
	bootCommand,
	capsCommand,
	checkCommand,
	cpuidHvCommand,
	eptCommand,
	eptEntryCommand,
	errorCommand,
	exitCommand,
	exitsCommand,
	fieldCommand,
	fieldsCommand,
	hypercallCommand,
	hypercallsCommand,
	secureServiceCommand,
	statusCommand,
	trustletCommand,
	vtlCommand,
}

func main() { os.Exit(run(os.Args[1:])) }

func run(args []string) int {
	if len(args) == 0 {
		usage(os.Stderr)
		return statusUsage
	}
	switch name := args[0]; name {
	case "help", "-h", "-help", "--help":
		return help(args[1:])
	default:
		if c := find(name); c != nil {
			return c.run(args[1:])
		}
		return unknown(name)
	}
}

func find(name string) *command {
	for _, c := range commands {
		if c.name == name {
			return c
		}
	}
	return nil
}

func unknown(name string) int {
	fmt.Fprintf(os.Stderr, "vtx: there is no command %q; \"vtx help\" lists them\n", name)
	return statusUsage
}

func help(args []string) int {
	switch len(args) {
	case 0:
		usage(os.Stdout)
		return 0
	case 1:
		c := find(args[0])
		if c == nil {
			return unknown(args[0])
		}
		c.usage(os.Stdout)
		return 0
	}
	fmt.Fprintln(os.Stderr, "vtx: help takes the name of one command")
	return statusUsage
}

func usage(w io.Writer) {
	fmt.Fprint(w, "Vtx explains VT-x at the command line, and boots Go programs in ring 0.\n\nUsage: vtx COMMAND [flags] [arguments]\n\nCommands:\n")
	t := tabwriter.NewWriter(w, 0, 8, 3, ' ', 0)
	for _, c := range commands {
		fmt.Fprintf(t, "  %s\t%s\n", c.name, c.short)
	}
	t.Flush()
	fmt.Fprint(w, "\n\"vtx help COMMAND\" says more about one.\n")
}

func (c *command) usage(w io.Writer) {
	fs := flag.NewFlagSet(c.name, flag.ContinueOnError)
	c.setup(fs)
	line := "Usage: vtx " + c.name
	has := false
	fs.VisitAll(func(*flag.Flag) { has = true })
	if has {
		line += " [flags]"
	}
	if c.args != "" {
		line += " " + c.args
	}
	fmt.Fprintf(w, "%s\n\n%s", line, c.long)
	if has {
		fmt.Fprint(w, "\nFlags:\n")
		fs.SetOutput(w)
		fs.PrintDefaults()
	}
}

// run parses the flags and runs the command.
func (c *command) run(args []string) int {
	fs := flag.NewFlagSet(c.name, flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	do := c.setup(fs)
	if c.env != "" {
		if err := parseEnv(fs, os.Getenv(c.env)); err != nil {
			return c.badUsage(fmt.Errorf("%s: %w", c.env, err))
		}
	}
	switch err := fs.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		c.usage(os.Stdout)
		return 0
	case err != nil:
		return c.badUsage(err)
	}
	status, err := do(fs.Args())
	if err != nil {
		return c.badUsage(err)
	}
	return status
}

// badUsage reports a command line that makes no sense.
func (c *command) badUsage(err error) int {
	fmt.Fprintf(os.Stderr, "vtx %s: %v\nusage: vtx %[1]s [flags] %[3]s; \"vtx help %[1]s\" says more\n", c.name, err, c.args)
	return statusUsage
}
