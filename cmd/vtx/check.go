package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/govtx/vtx/vmcs"
)

// maxDumpBytes is the most that "vtx check" reads of a log.
const maxDumpBytes = 256 << 20

var checkCommand = &command{
	name:  "check",
	args:  "FILE|-",
	short: "tell which rules of VM entry a dump of a VMCS breaks",
	long: `The FILE, or standard input, is a kernel log with dumps of KVM (load kvm_intel with
dump_invalid_vmcs=1 to get them), or the text that this library's Dump prints.
Timestamps, prefixes and other lines do not matter. Of several dumps, all are checked.

For every rule of SDM Vol. 3C chapter 27 that fails, vtx prints the rule, the fields
with their values, and what the failure leads to. The processor reports the first
one. A rule whose fields the dump does not show is not checked; -v lists those. KVM
leaves out the VMCS link pointer and all addresses of bitmaps and MSR areas, among
others.

Without -model and -caps, nothing is known of the processor. One is then assumed that
has every feature and demands only what all processors do, so that all that fails
fails everywhere; a control that only this processor lacks is not found.

Exit status: 0 if no rule fails; 1 if one does; 2 if FILE cannot be read or has no
dump.
`,
	setup: func(fs *flag.FlagSet) func([]string) (int, error) {
		c := &checkRun{out: os.Stdout}
		fs.StringVar(&c.model, "model", "", "check for the processor `NAME`, recorded in this program")
		fs.StringVar(&c.caps, "caps", "", "check for the processor whose capability MSRs and CPUID leaves are in `FILE`, as \"vtx caps\" reads them")
		fs.BoolVar(&c.verbose, "v", false, "list the rules that are not checked, and the fields they lack")
		fs.BoolVar(&c.dump, "dump", false, "print the dump as a table with the meanings of the values first")
		return func(args []string) (int, error) {
			if len(args) != 1 {
				return 0, fmt.Errorf("want one FILE, or - for standard input")
			}
			return c.run(args[0])
		}
	},
}

// A checkRun is one run of "vtx check".
type checkRun struct {
	model, caps   string
	verbose, dump bool
	out           io.Writer
}

func (c *checkRun) run(name string) (int, error) {
	processor, err := c.processor()
	if err != nil {
		return 0, err
	}
	text, err := readInput(name)
	if err != nil {
		return 0, err
	}
	dumps, err := parseDumps(text)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", name, err)
	}
	status := 0
	for i, d := range dumps {
		if i > 0 {
			fmt.Fprintln(c.out)
		}
		failed, err := c.check(name, d, processor)
		if err != nil {
			return 0, err
		}
		if failed {
			status = 1
		}
	}
	return status, nil
}

// processor returns the capabilities that the flags name, or nil.
func (c *checkRun) processor() (*vmcs.Capabilities, error) {
	switch {
	case c.model != "" && c.caps != "":
		return nil, errors.New("-model and -caps exclude each other")
	case c.model != "":
		return vmcs.Model(c.model)
	case c.caps != "":
		text, err := readInput(c.caps)
		if err != nil {
			return nil, err
		}
		rec, err := vmcs.ParseRecorded(string(text))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", c.caps, err)
		}
		return rec.Capabilities()
	}
	return nil, nil
}

func readInput(name string) ([]byte, error) {
	in := io.Reader(os.Stdin)
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		in = f
	}
	text, err := io.ReadAll(io.LimitReader(in, maxDumpBytes+1))
	if err == nil && len(text) > maxDumpBytes {
		err = fmt.Errorf("%s: longer than %d MiB; cut the dump out of it", name, maxDumpBytes>>20)
	}
	return text, err
}

// parseDumps reads the dumps of KVM in a text, or else the one of this library.
func parseDumps(text []byte) ([]*vmcs.KVMDump, error) {
	var dumps []*vmcs.KVMDump
	for d, err := range vmcs.KVMDumps(bytes.NewReader(text)) {
		if err != nil {
			return nil, err
		}
		dumps = append(dumps, d)
	}
	if len(dumps) > 0 {
		return dumps, nil
	}
	m, err := vmcs.ParseDump(bytes.NewReader(text))
	if err != nil {
		return nil, err
	}
	return []*vmcs.KVMDump{{Image: *m, CPU: -1}}, nil
}

// check prints what is wrong with a dump, and tells whether anything is.
func (c *checkRun) check(name string, d *vmcs.KVMDump, caps *vmcs.Capabilities) (bool, error) {
	fmt.Fprintf(c.out, "%s: %s\n", name, describeDump(d))
	if c.dump {
		if err := vmcs.Dump(c.out, &d.Image, vmcs.DumpOptions{}); err != nil {
			return false, err
		}
		fmt.Fprintln(c.out)
	}
	assumed := caps == nil
	if assumed {
		caps = vmcs.DumpProcessor(&d.Image)
	}
	report := (&vmcs.Checker{Caps: caps}).Check(&d.Image)
	c.violations(d, caps, &report)
	c.failure(d, &report)
	c.unchecked(d, &report)
	if assumed {
		fmt.Fprintf(c.out, "Processor: not known; assumed to have every feature, with %d linear-address bits. Name it with -model or -caps.\n",
			caps.CPU.LinearAddressBits)
	} else {
		fmt.Fprintf(c.out, "Processor: %s\n", c.model+c.caps)
	}
	return !report.OK(), nil
}

func describeDump(d *vmcs.KVMDump) string {
	n := plural(d.Image.Len(), "field")
	if d.Line == 0 {
		return n
	}
	s := fmt.Sprintf("dump of KVM in lines %d to %d, %s", d.Line, d.LastLine, n)
	if d.CPU >= 0 {
		s += fmt.Sprintf(", last VM entry on CPU %d", d.CPU)
	}
	return s
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// violations prints the rules that fail.
func (c *checkRun) violations(d *vmcs.KVMDump, caps *vmcs.Capabilities, report *vmcs.Report) {
	switch n := len(report.Violations); n {
	case 0:
		fmt.Fprintf(c.out, "No rule fails of the %d checked.\n", report.Checked)
		return
	case 1:
		fmt.Fprint(c.out, "1 rule fails:\n")
	default:
		fmt.Fprintf(c.out, "%d rules fail; the processor reports the first:\n", n)
	}
	for i := range report.Violations {
		v := &report.Violations[i]
		fmt.Fprintf(c.out, "\n%s (SDM Vol. 3C %s)\n  rule   %s\n", v.Rule.ID, v.Rule.Section, v.Rule.Text)
		for _, f := range v.Fields {
			line := fmt.Sprintf("  field  %v (%#04x) = %#x", f.Field, uint32(f.Field), f.Value)
			if m := vmcs.Meaning(&d.Image, f.Field, f.Value); m != "" {
				line += ": " + m
			}
			fmt.Fprintln(c.out, line)
		}
		for _, m := range v.Memory {
			fmt.Fprintf(c.out, "  memory [%#x] = %#x\n", m.Address, m.Value)
		}
		for _, s := range faultyBits(&d.Image, caps, v.Rule) {
			fmt.Fprintf(c.out, "  mend   %s\n", s)
		}
		fmt.Fprintf(c.out, "  gives  %v\n", v.Rule.Result)
	}
	fmt.Fprintln(c.out)
}

// faultyBits names the bits that break a rule about the bits that the capability
// MSRs fix: those of controls, CR0 and CR4.
func faultyBits(m *vmcs.Image, caps *vmcs.Capabilities, rule *vmcs.Rule) (out []string) {
	f := rule.Fields[0]
	value, _ := m.Get(f)
	var must, may uint64
	names := func(bits uint64) string { return vmcs.Meaning(nil, f, bits) }
	if strings.HasSuffix(rule.ID, ".reserved") {
		for g := range vmcs.ControlGroup(vmcs.NumControlGroups) {
			if g.Field() == f {
				must, may = caps.Controls[g].Must1, caps.Controls[g].May1
				names = func(bits uint64) string { return string(g.AppendBits(nil, bits)) }
			}
		}
	}
	if strings.HasSuffix(rule.ID, ".fixed") {
		switch f {
		case vmcs.GuestCR0, vmcs.HostCR0:
			must, may = caps.CR0Fixed0, caps.CR0Fixed1
		case vmcs.GuestCR4, vmcs.HostCR4:
			must, may = caps.CR4Fixed0, caps.CR4Fixed1
		}
		primary, _ := m.Get(vmcs.GroupPrimary.Field())
		secondary, _ := m.Get(vmcs.GroupSecondary.Field())
		if f == vmcs.GuestCR0 && primary&uint64(vmcs.PrimaryActivateSecondaryControls) != 0 &&
			secondary&uint64(vmcs.SecondaryUnrestrictedGuest) != 0 {
			must &^= 1<<0 | 1<<31 // PE, PG
		}
	}
	if may == 0 {
		return nil
	}
	if bits := must &^ value; bits != 0 {
		out = append(out, "set to 1: "+names(bits))
	}
	if bits := value &^ may; bits != 0 {
		out = append(out, "clear to 0: "+names(bits))
	}
	return out
}

// failure compares what the processor has said with the prediction.
func (c *checkRun) failure(d *vmcs.KVMDump, report *vmcs.Report) {
	said, ok := d.Failure()
	if !ok {
		return
	}
	want := report.Outcome()
	agree := said.Kind == want.Kind && said.Error == want.Error && said.Reason == want.Reason
	switch {
	case agree:
		fmt.Fprintf(c.out, "The log says the same: %v.\n", said)
	case report.OK():
		fmt.Fprintf(c.out, "But the log says: %v. What fails must be among the rules that are not checked, or something that only this processor demands.\n", said)
	default:
		fmt.Fprintf(c.out, "The log says otherwise: %v. Rules that are not checked may fail, too.\n", said)
	}
}

// unchecked counts or lists the rules that could not be checked.
func (c *checkRun) unchecked(d *vmcs.KVMDump, report *vmcs.Report) {
	if len(report.NotChecked) == 0 {
		return
	}
	hint := "; -v lists them"
	if c.verbose {
		hint = ":"
	}
	fmt.Fprintf(c.out, "%s checked; %d not, for want of fields or of memory%s\n",
		plural(report.Checked, "rule"), len(report.NotChecked), hint)
	if !c.verbose {
		return
	}
	for _, r := range report.NotChecked {
		var lacks []string
		for _, f := range r.Fields {
			if !d.Image.Has(f) {
				lacks = append(lacks, f.String())
			}
		}
		if r.Memory {
			lacks = append(lacks, "memory")
		}
		fmt.Fprintf(c.out, "  %s (%s): lacks %s\n", r.ID, r.Section, strings.Join(lacks, ", "))
	}
}
