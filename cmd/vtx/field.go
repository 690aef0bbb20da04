package main

import (
	"encoding/csv"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"

	"github.com/govtx/vtx/vmcs"
)

var fieldCommand = &command{
	name:  "field",
	args:  "FIELD...",
	short: "say everything about a field of the VMCS",
	long: `A FIELD is a name as in the manual ("Guest CR0") or in Go (GuestCR0), without
regard to case, blanks and hyphens, or an encoding in hexadecimal (0x6800). Sections
are those of the Intel SDM, revision 084.

Exit status: 0; 1 if an encoding is of no field that is known; 2 if there is no
field of the name.
`,
	setup: func(*flag.FlagSet) func([]string) (int, error) {
		return func(args []string) (int, error) {
			if len(args) == 0 {
				return 0, fmt.Errorf("no field named")
			}
			var fields []vmcs.Field
			for _, a := range args {
				f, err := parseField(a)
				if err != nil {
					return 0, err
				}
				fields = append(fields, f)
			}
			status := 0
			for i, f := range fields {
				if i > 0 {
					fmt.Println()
				}
				printField(os.Stdout, f)
				if !f.Known() {
					status = 1
				}
			}
			return status, nil
		}
	},
}

// parseField also takes the names of fields that contain s, if s is none itself:
// it says which there are, or takes the only one.
func parseField(s string) (vmcs.Field, error) {
	f, err := vmcs.ParseField(s)
	if err == nil {
		return f, nil
	}
	var like []vmcs.Field
	for f := range vmcs.Fields() {
		for _, name := range []string{f.String(), f.SDMName()} {
			if strings.Contains(bare(name), bare(s)) {
				like = append(like, f)
				break
			}
		}
	}
	switch {
	case len(like) == 1:
		return like[0], nil
	case len(like) == 0 || len(bare(s)) < 2 || len(like) > 12:
		return 0, fmt.Errorf("%w; \"vtx fields\" lists them all", err)
	}
	var names []string
	for _, f := range like {
		names = append(names, f.String())
	}
	return 0, fmt.Errorf("no field is called %q; there are %s", s, strings.Join(names, ", "))
}

// bare has the letters and digits of s, in lower case.
func bare(s string) string {
	return strings.Map(func(r rune) rune {
		if strings.ContainsRune("0123456789abcdefghijklmnopqrstuvwxyz", r) {
			return r
		}
		return -1
	}, strings.ToLower(s))
}

func printField(out io.Writer, f vmcs.Field) {
	w := tabwriter.NewWriter(out, 0, 8, 3, ' ', 0)
	defer w.Flush()
	row := func(name, format string, args ...any) {
		fmt.Fprintf(w, "%s\t%s\n", name, fmt.Sprintf(format, args...))
	}
	row("encoding", "%#04x", uint32(f))
	if !f.Valid() {
		row("valid", "no: bits 31:15 and 12 must be 0, and bit 0 too unless the field is 64 bits wide")
		return
	}
	if f.Known() {
		row("name", "%v", f)
		row("in the SDM", "%s", f.SDMName())
	} else {
		row("name", "none that is known")
	}
	width := fmt.Sprintf("%v bits", f.Width())
	switch {
	case f.Width() == vmcs.WidthNatural:
		width = "natural (64 bits, or 32 on processors without Intel 64)"
	case f.High():
		width = "bits 63:32 of a field of 64 bits"
	}
	row("width", "%s", width)
	row("type", "%v", f.Type())
	row("index", "%d", f.Index())
	if !f.Known() {
		return
	}
	if f.Section() != "" {
		row("section", "Vol. 3C %s", f.Section())
	}
	if f.Note() != "" {
		row("note", "%s", f.Note())
	}
	depends := f.Depends()
	if depends == "" {
		depends = "nothing: every processor has it"
	}
	row("depends on", "%s", depends)
	access := "read, write"
	if f.ReadOnly() {
		access = "read; write only where IA32_VMX_MISC[29] is 1"
	}
	row("access", "%s", access)
	switch {
	case f.High():
		row("whole field", "%#04x (%v)", uint32(f.Full()), f.Full())
	case f.Width() == vmcs.Width64:
		row("high half", "%#04x (%v)", uint32(f.HighHalf()), f.HighHalf())
	}
}

var fieldsCommand = &command{
	name:  "fields",
	args:  "",
	short: "list the fields of the VMCS",
	long: `The columns are encoding, name, width and type. High halves of 64-bit fields are
not listed: their encoding is that of the field plus 1.
`,
	setup: func(fs *flag.FlagSet) func([]string) (int, error) {
		asCSV := fs.Bool("csv", false, "print comma-separated values with a heading")
		return func(args []string) (int, error) {
			if len(args) > 0 {
				return 0, fmt.Errorf("%q: fields takes no arguments; \"vtx field\" is for one", args[0])
			}
			if *asCSV {
				return 0, fieldsCSV(os.Stdout)
			}
			w := tabwriter.NewWriter(os.Stdout, 0, 8, 2, ' ', 0)
			for f := range vmcs.Fields() {
				fmt.Fprintf(w, "%#04x\t%v\t%v\t%v\n", uint32(f), f, f.Width(), f.Type())
			}
			return 0, w.Flush()
		}
	},
}

func fieldsCSV(out io.Writer) error {
	w := csv.NewWriter(out)
	rows := [][]string{{"encoding", "name", "width", "type"}}
	for f := range vmcs.Fields() {
		rows = append(rows, []string{fmt.Sprintf("%#04x", uint32(f)), f.String(), f.Width().String(), f.Type().String()})
	}
	return w.WriteAll(rows)
}
