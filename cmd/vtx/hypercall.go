package main

import (
	"encoding/csv"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"

	"github.com/govtx/vtx/hypercall"
)

var hypercallCommand = &command{
	name:  "hypercall",
	args:  "WORD",
	short: "decode a hypercall's input word, or its result",
	long: `The WORD is what the caller has in RCX (EDX:EAX in 32-bit mode): a number, or text
such as "HvCallGetVpRegisters, fast, reps 3". A number below 0x10000 is a call code
alone; the name of a call does, too, as in the TLFS, with or without HvCall, or in
Linux. vtx names the call, tells how long its parameters are, and what is wrong with
the word: what a hypervisor must refuse before it looks at the parameters.

With -result the WORD is what the call has left in RAX, or a status.

Exit status: 0; 1 if something is wrong with the word, or the call or status is not
known; 2 if it cannot be read.
`,
	setup: func(fs *flag.FlagSet) func([]string) (int, error) {
		result := fs.Bool("result", false, "the WORD is a result")
		return func(args []string) (int, error) {
			if len(args) != 1 {
				return 0, fmt.Errorf("want one WORD, not %d; quote one that has blanks", len(args))
			}
			if *result {
				r, err := hypercall.ParseResult(args[0])
				if err != nil {
					return 0, err
				}
				return printResult(os.Stdout, r), nil
			}
			w, err := hypercall.ParseInput(args[0])
			if err != nil {
				return 0, fmt.Errorf("%w; \"vtx hypercalls\" lists the calls", err)
			}
			return printInput(os.Stdout, w), nil
		}
	},
}

// A table has a name and a value on each line.
type table struct{ w *tabwriter.Writer }

func newTable(out io.Writer) table { return table{tabwriter.NewWriter(out, 0, 8, 3, ' ', 0)} }

func (t table) row(name, format string, args ...any) {
	fmt.Fprintf(t.w, "%s\t%s\n", name, fmt.Sprintf(format, args...))
}

// sources tells who has a row, and warns of one that only one source has.
func (t table) sources(list, also []string) {
	if len(also) > 0 {
		t.row("also", "%s", strings.Join(also, ", "))
	}
	switch len(list) {
	case 0:
	case 1:
		t.row("source", "%s only", list[0])
	default:
		t.row("sources", "%s", strings.Join(list, ", "))
	}
}

// printInput decodes an input word, and returns the exit status.
func printInput(out io.Writer, w hypercall.Input) int {
	t := newTable(out)
	defer t.w.Flush()
	c := w.Code()
	t.row("word", "%#x: %v", uint64(w), w)
	t.row("code", "0x%04x", uint16(c))
	if c.Known() {
		t.row("name", "%s", c.Name())
		t.row("kind", "%v", c.Kind())
		t.sources(c.Sources(), c.Aliases())
	}
	if c.Extended() {
		t.row("extended", "answered by the parent partition")
	}
	l, known := c.Layout()
	if known {
		t.row("input", "%s", size(l.Input, l.InputElement, l.Variable))
		t.row("output", "%s", size(l.Output, l.OutputElement, false))
		t.row("fast form", "%s", fastForm(l, w))
	}
	if l.Privileges != 0 {
		t.row("privilege", "%v, for the caller's own partition", l.Privileges)
	}
	t.row("convention", "%s", map[bool]string{
		false: "RDX (EBX:ECX) has the input's address, R8 (EDI:ESI) the output's",
		true:  "fast: RDX, R8 (EBX:ECX, EDI:ESI) and then XMM0 to XMM5 have the input, and behind it the output",
	}[w.Fast()])
	if w.Nested() {
		t.row("nested", "for the lowest hypervisor, from one that runs on it")
	}
	if n := w.VariableHeader(); n != 0 {
		t.row("variable header", "%d bytes", 8*n)
	}
	if w.RepCount() != 0 || w.RepStart() != 0 {
		t.row("elements", "%d; the next is number %d", w.RepCount(), w.RepStart())
	}
	wrong := wrongInput(w)
	for _, s := range wrong {
		t.row("WRONG", "%s", s)
	}
	if len(wrong) > 0 {
		return 1
	}
	return 0
}

// size tells how long an input or output is.
func size(header, element uint16, variable bool) string {
	switch {
	case header == 0 && element == 0:
		return "none"
	case header == 0:
		return fmt.Sprintf("%d bytes for each element", element)
	}
	s := fmt.Sprintf("%d bytes", header)
	if variable {
		s += ", a variable header"
	}
	if element != 0 {
		s += fmt.Sprintf(", %d for each element", element)
	}
	return s
}

// fastForm tells whether the call has a fast form.
func fastForm(l hypercall.Layout, w hypercall.Input) string {
	if l.InputElement == 0 && l.OutputElement == 0 {
		if !l.Fast(0, 0) {
			return "none"
		}
		return "possible"
	}
	n := 0
	for n < hypercall.MaxReps && l.Fast(w.VariableHeader(), n+1) {
		n++
	}
	if n == 0 {
		return "none"
	}
	return fmt.Sprintf("up to %d elements", n)
}

// wrongInput tells for what a hypervisor must refuse a word, and how it does (TLFS,
// "Hypercall Interface").
func wrongInput(w hypercall.Input) (wrong []string) {
	add := func(s hypercall.Status, format string, args ...any) {
		wrong = append(wrong, fmt.Sprintf(format, args...)+": "+s.String())
	}
	c := w.Code()
	if c == hypercall.CodeVtlCall || c == hypercall.CodeVtlReturn {
		if w != hypercall.Input(c) {
			wrong = append(wrong, "the word must be the code and nothing else: #UD")
		}
		return wrong
	}
	if !c.Known() {
		add(hypercall.StatusInvalidHypercallCode, "no call with code %#x is known", uint16(c))
	}
	if r := w.Reserved(); r != 0 {
		add(hypercall.StatusInvalidHypercallInput, "reserved bits %#x are not 0", r)
	}
	count, start := w.RepCount(), w.RepStart()
	switch c.Kind() {
	case hypercall.Simple:
		if count != 0 || start != 0 {
			add(hypercall.StatusInvalidHypercallInput, "the call is simple, but the rep count is %d and the rep start index %d: they must be 0", count, start)
		}
	case hypercall.Rep:
		if count == 0 {
			add(hypercall.StatusInvalidHypercallInput, "the call is a rep call, but the rep count is 0")
		}
		if start >= count && count != 0 {
			add(hypercall.StatusInvalidHypercallInput, "the rep start index %d is not below the rep count %d", start, count)
		}
	case hypercall.Unknown:
		if start >= count && start != 0 {
			add(hypercall.StatusInvalidHypercallInput, "the rep start index %d is not below the rep count %d", start, count)
		}
	}
	l, known := c.Layout()
	if !known {
		return wrong
	}
	if n := w.VariableHeader(); n != 0 && !l.Variable {
		add(hypercall.StatusInvalidHypercallInput, "the call takes no variable header, but there are %d bytes of one", 8*n)
	}
	in := int(l.Input) + 8*w.VariableHeader() + count*int(l.InputElement)
	result := int(l.Output) + count*int(l.OutputElement)
	switch {
	case w.Fast() && !l.Fast(w.VariableHeader(), count):
		add(hypercall.StatusInvalidHypercallInput, "%d bytes in and %d out are more than the %d of the fast form, with the output on 16", in, result, hypercall.FastLimit)
	case !w.Fast() && in > 4096:
		add(hypercall.StatusInvalidAlignment, "the input of %d bytes is longer than a page", in)
	case !w.Fast() && result > 4096:
		add(hypercall.StatusInvalidAlignment, "the output of %d bytes is longer than a page", result)
	}
	return wrong
}

// printResult decodes a result, and returns the exit status.
func printResult(out io.Writer, r hypercall.Result) int {
	t := newTable(out)
	defer t.w.Flush()
	t.row("result", "%#x: %v", uint64(r), r)
	statusRows(t, r.Status())
	if r.Reps() != 0 {
		t.row("elements done", "%d, counted from the beginning of the list", r.Reps())
	}
	if v := r.Reserved(); v != 0 {
		t.row("reserved", "%#x: the caller should ignore these bits", v)
	}
	return known(r.Status().Known())
}

// known returns the exit status for something that is known or not.
func known(is bool) int {
	if is {
		return 0
	}
	return 1
}

func statusRows(t table, s hypercall.Status) {
	t.row("status", "0x%04x", uint16(s))
	if s.Known() {
		t.row("name", "%s", s.String())
	}
	t.row("meaning", "%s", s.Meaning())
	t.sources(s.Sources(), s.Aliases())
}

var hypercallsCommand = &command{
	name:  "hypercalls",
	args:  "",
	short: "list the hypercalls",
	long: `The columns are code, name and kind: simple, rep, or unknown where no source tells.
"vtx hypercall" says more about one.
`,
	setup: func(fs *flag.FlagSet) func([]string) (int, error) {
		asCSV := fs.Bool("csv", false, "print comma-separated values with a heading")
		return func(args []string) (int, error) {
			if len(args) > 0 {
				return 0, fmt.Errorf("%q: hypercalls takes no arguments; \"vtx hypercall\" is for one", args[0])
			}
			if *asCSV {
				return 0, hypercallsCSV(os.Stdout)
			}
			w := tabwriter.NewWriter(os.Stdout, 0, 8, 2, ' ', 0)
			for c := range hypercall.Codes() {
				fmt.Fprintf(w, "0x%04x\t%s\t%v\n", uint16(c), c.Name(), c.Kind())
			}
			return 0, w.Flush()
		}
	},
}

func hypercallsCSV(out io.Writer) error {
	w := csv.NewWriter(out)
	rows := [][]string{{"code", "name", "kind"}}
	for c := range hypercall.Codes() {
		rows = append(rows, []string{fmt.Sprintf("0x%04x", uint16(c)), c.Name(), c.Kind().String()})
	}
	return w.WriteAll(rows)
}
