package main

import (
	"encoding/csv"
	"flag"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/govtx/vtx/vmcs"
	"github.com/govtx/vtx/vmexit"
)

var exitCommand = &command{
	name:  "exit",
	args:  "REASON|-",
	short: "decode a VM exit, or a trace of them",
	long: `A REASON is the exit-reason field as a number (48, 0x80000021), or a name as in the
manual ("EPT violation"), in Go (EPTViolation) or in Linux (EPT_VIOLATION), without
regard to case, blanks and hyphens. Flags may stand before or behind it; numbers are
decimal, or hexadecimal with 0x.

With - for REASON, vtx reads from standard input what Linux' trace event kvm:kvm_exit
prints, through ftrace, trace-cmd or perf, and prints each exit decoded. A table of
how often each reason occurred follows at the end of the input. Lines that are
something else, or not of VT-x, are passed over and counted.

	trace-cmd record -e kvm:kvm_exit sleep 1 && trace-cmd report | vtx exit -

Exit status: 0; 1 if the reason is reserved or not known, or the input has no exit; 2
if there is no reason of the name.
`,
	setup: func(fs *flag.FlagSet) func([]string) (int, error) {
		e := &exitFields{}
		e.define(fs)
		return func(args []string) (int, error) {
			if len(args) == 0 {
				return 0, fmt.Errorf("want a REASON, or - for a trace on standard input")
			}
			if err := fs.Parse(args[1:]); err != nil {
				return 0, err
			}
			if fs.NArg() > 0 {
				return 0, fmt.Errorf("%q: one REASON is enough; quote one that has blanks", fs.Arg(0))
			}
			if args[0] == "-" {
				if fs.NFlag() > 0 {
					return 0, fmt.Errorf("flags are for one REASON, not for a trace")
				}
				return exitTrace(os.Stdin, os.Stdout)
			}
			var err error
			if e.reason, err = parseReason(args[0]); err != nil {
				return 0, err
			}
			return e.print(os.Stdout), nil
		}
	},
}

// exitFields are fields of a VM exit as given by flags; nil for those that are not.
type exitFields struct {
	reason                 vmexit.Reason
	qualification          *uint64
	information, intr, idt *uint64
}

func (e *exitFields) define(fs *flag.FlagSet) {
	number := func(name, usage string, bits int, v **uint64) {
		fs.Func(name, usage, func(s string) error {
			n, err := strconv.ParseUint(s, 0, bits)
			if err != nil {
				return fmt.Errorf("want a number of at most %d bits", bits)
			}
			*v = &n
			return nil
		})
	}
	number("qual", "exit qualification `Q`", 64, &e.qualification)
	number("info", "VM-exit instruction information `I`", 32, &e.information)
	number("intr", "VM-exit interruption information `E`: it tells what the qualification of an exception is", 32, &e.intr)
	number("idt", "IDT-vectoring information `V`", 32, &e.idt)
}

// parseReason also takes the names of reasons that contain s, if s is none itself:
// it says which there are, or takes the only one.
func parseReason(s string) (vmexit.Reason, error) {
	r, err := vmexit.ParseReason(s)
	if err == nil {
		return r, nil
	}
	var like []string
	for b := range vmexit.Basics() {
		for _, name := range []string{b.String(), b.SDMName(), b.LinuxName()} {
			if strings.Contains(bare(name), bare(s)) {
				like = append(like, b.String())
				r = vmexit.Reason(b)
				break
			}
		}
	}
	switch {
	case len(like) == 1 && len(bare(s)) > 1:
		return r, nil
	case len(like) == 0 || len(bare(s)) < 2 || len(like) > 12:
		return 0, fmt.Errorf("%w; \"vtx exits\" lists them all", err)
	}
	return 0, fmt.Errorf("no exit reason is called %q; there are %s", s, strings.Join(like, ", "))
}

// kindHelp says what each kind means for RIP.
var kindHelp = map[vmexit.Kind]string{
	vmexit.KindFault:        "RIP is that of the instruction, or of what an event interrupted",
	vmexit.KindTrap:         "RIP is behind the instruction",
	vmexit.KindEvent:        "not of an instruction",
	vmexit.KindEntryFailure: "the guest did not run",
}

// print prints all that is known, and returns the exit status.
func (e *exitFields) print(out io.Writer) int {
	w := tabwriter.NewWriter(out, 0, 8, 3, ' ', 0)
	defer w.Flush()
	row := func(name, format string, args ...any) {
		fmt.Fprintf(w, "%s\t%s\n", name, fmt.Sprintf(format, args...))
	}
	b := e.reason.Basic()
	row("number", "%d (%#x)", b, uint16(b))
	if e.reason>>16 != 0 {
		row("exit reason", "%#x: %v", uint32(e.reason), e.reason)
	}
	status := 0
	if b.Known() {
		row("name", "%v", b)
		row("in the SDM", "%s", b.SDMName())
		row("elsewhere", "%s", b.LinuxName())
		if s := b.Section(); s != "" {
			row("section", "Vol. 3C %s", s)
		}
		row("kind", "%v: %s", b.Kind(), kindHelp[b.Kind()])
		row("qualification", "%v", b.QualificationFormat())
		row("instruction information", "%v", b.InformationFormat())
		for _, p := range []struct {
			name string
			v    vmexit.Presence
		}{
			{"instruction length", b.InstructionLength()}, {"guest-linear address", b.LinearAddress()}, {"guest-physical address", b.PhysicalAddress()},
		} {
			row(p.name, "%v", p.v)
		}
		row("during event delivery", "%s", map[bool]string{true: "possible", false: "no"}[b.DuringDelivery()])
	} else {
		row("name", "none: the reason is reserved, or not known")
		status = 1
	}
	if s := b.Note(); s != "" {
		row("note", "%s", s)
	}
	for _, line := range e.decode() {
		row(line[0], "%s", line[1])
	}
	return status
}

// decode explains the fields that were given.
func (e *exitFields) decode() (rows [][2]string) {
	add := func(name, format string, args ...any) {
		rows = append(rows, [2]string{name, fmt.Sprintf(format, args...)})
	}
	b := e.reason.Basic()
	var intr vmcs.InterruptionInfo
	if e.intr != nil {
		intr = vmcs.InterruptionInfo(*e.intr)
		add(fmt.Sprintf("event %#x", *e.intr), "%v", intr)
	}
	if e.qualification != nil {
		q := *e.qualification
		name := fmt.Sprintf("qualification %#x", q)
		switch s := vmexit.Describe(e.reason, intr, q); {
		case s != "":
			add(name, "%s", s)
		case b == vmexit.ExceptionOrNMI && e.intr == nil:
			add(name, "of #DB: %v; of #PF: %v; otherwise 0 (-intr tells which)", vmexit.DebugQualification(q), vmexit.LinearAddressQualification(q))
		default:
			add(name, "such exits have none: the field is 0")
		}
	}
	if e.information != nil {
		i := uint32(*e.information)
		s := vmexit.DescribeInformation(e.reason, i)
		switch {
		case s == "":
			s = "such exits have none: the field is undefined"
		case b == vmexit.IOInstruction && e.qualification != nil && !vmexit.IOQualification(*e.qualification).StringInstruction():
			s = "only INS and OUTS have it: the field is undefined"
		}
		add(fmt.Sprintf("instruction information %#x", i), "%s", s)
	}
	if e.idt != nil {
		v := vmcs.InterruptionInfo(*e.idt)
		s := v.String()
		if d, ok := vmexit.Interrupted(v, 0, 0); ok {
			s = fmt.Sprintf("%v; to deliver it again, inject %#x", v&^vmcs.InfoNMIUnblocking, uint32(d.Event.Info))
		}
		add(fmt.Sprintf("event being delivered %#x", *e.idt), "%s", s)
	}
	return rows
}

var exitsCommand = &command{
	name:  "exits",
	args:  "",
	short: "list the exit reasons",
	long: `The columns are reason and name; "vtx exit" says more about one. Reserved numbers are
not listed.
`,
	setup: func(fs *flag.FlagSet) func([]string) (int, error) {
		asCSV := fs.Bool("csv", false, "print comma-separated values with a heading")
		return func(args []string) (int, error) {
			if len(args) > 0 {
				return 0, fmt.Errorf("%q: exits takes no arguments; \"vtx exit\" is for one", args[0])
			}
			if *asCSV {
				return 0, exitsCSV(os.Stdout)
			}
			w := tabwriter.NewWriter(os.Stdout, 0, 8, 2, ' ', 0)
			for b := range vmexit.Basics() {
				fmt.Fprintf(w, "%2d\t%v\t%s\n", b, b, b.SDMName())
			}
			return 0, w.Flush()
		}
	},
}

func exitsCSV(out io.Writer) error {
	w := csv.NewWriter(out)
	rows := [][]string{{"reason", "name"}}
	for b := range vmexit.Basics() {
		rows = append(rows, []string{strconv.Itoa(int(b)), b.SDMName()})
	}
	return w.WriteAll(rows)
}
