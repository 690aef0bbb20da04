package vmcs

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/govtx/vtx/internal/names"
)

// dumpGroups are the parts of a dump: the areas of the VMCS as the SDM orders them
// (Vol. 3C 25.3), by the section that describes their fields.
var dumpGroups = [...]struct{ title, section string }{
	{"Guest register state", "25.4.1"},
	{"Guest non-register state", "25.4.2"},
	{"Host state", "25.5"},
	{"VM-execution controls", "25.6"},
	{"VM-exit controls", "25.7"},
	{"VM-entry controls", "25.8"},
	{"VM-exit information", "25.9"},
}

// dumpGroup returns the index in dumpGroups. A field that only another document
// describes goes by its type.
func dumpGroup(f Field) int {
	section := f.Section()
	for i, g := range dumpGroups {
		if section == g.section || strings.HasPrefix(section, g.section+".") {
			return i
		}
	}
	switch f.Type() {
	case GuestState:
		return 0
	case HostState:
		return 2
	case ExitInformation:
		return 6
	}
	if f == InjectedEventData {
		return 5
	}
	return 3
}

// dumpOrder is the place of a field in its part of a dump: control registers, other
// registers, then segment by segment, then the rest; of the VM-execution controls,
// first the words of control bits. Fields of one place go by encoding.
func dumpOrder(f Field) int {
	const segments = 100
	if _, ok := controlGroupOf(f); ok {
		return 0
	}
	switch {
	case f == GuestCR0, f == GuestCR3, f == GuestCR4, f == HostCR0, f == HostCR3, f == HostCR4:
		return 0
	case f == GuestDR7, f == GuestRSP, f == GuestRIP, f == GuestRFLAGS, f == HostRSP, f == HostRIP:
		return 1
	case f == HostFSBase, f == HostGSBase, f == HostTRBase:
		return segments + int(f-HostFSBase)/2 + 4
	case f == HostGDTRBase, f == HostIDTRBase:
		return segments + int(f-HostGDTRBase)/2 + 8
	}
	for _, r := range [...][2]Field{
		{GuestESSelector, GuestTRSelector}, {GuestESBase, GuestIDTRBase}, {GuestESLimit, GuestIDTRLimit},
		{GuestESAccessRights, GuestTRAccessRights}, {HostESSelector, HostTRSelector},
	} {
		if r[0] <= f && f <= r[1] {
			return segments + int(f-r[0])/2
		}
	}
	return 2 * segments
}

// A DumpOptions says what Dump and Diff show. The zero value shows what there is.
type DumpOptions struct {
	// Absent shows the fields that cannot be read, too, with a dash for the value.
	Absent bool
	// Values leaves out what the values mean.
	Values bool
}

// Dump prints the fields that r has as a table: name, encoding, value in
// hexadecimal with as many digits as the field has, meaning. It is grouped as
// SDM Vol. 3C chapter 25 is. Fields that r cannot read are left out; if it can read
// none, Dump prints nothing and returns r's error. ParseDump reads what Dump
// prints.
//
// A processor notes an attempt to read a field that it lacks in the VM-instruction
// error field. Dump reads that field first, so that it shows what was there; what
// is there afterwards is 12.
func Dump(w io.Writer, r Reader, o DumpOptions) error {
	m, err := snapshot(r)
	if m.Len() == 0 {
		return fmt.Errorf("vmcs: no field can be read: %w", err)
	}
	var groups [len(dumpGroups)][]Field
	for f := range Fields() {
		if m.Has(f) || o.Absent {
			g := dumpGroup(f)
			groups[g] = append(groups[g], f)
		}
	}
	b := bufio.NewWriter(w)
	blank := ""
	for i, fields := range groups {
		if len(fields) == 0 {
			continue
		}
		slices.SortStableFunc(fields, func(f, g Field) int { return cmp.Compare(dumpOrder(f), dumpOrder(g)) })
		fmt.Fprintf(b, "%s%s (SDM Vol. 3C %s)\n", blank, dumpGroups[i].title, dumpGroups[i].section)
		blank = "\n"
		for _, f := range fields {
			value, meaning := "-", ""
			if v, ok := m.Get(f); ok {
				value = hexValue(f, v)
				if !o.Values {
					meaning = Meaning(m, f, v)
				}
			}
			dumpLine(b, f, value, meaning)
		}
	}
	return b.Flush()
}

func dumpLine(w io.Writer, f Field, columns ...string) {
	s := fmt.Sprintf("  %-*v  %#04x", nameWidth(), f, uint32(f))
	for _, c := range columns {
		s += fmt.Sprintf("  %-18s", c)
	}
	fmt.Fprintln(w, strings.TrimRight(s, " "))
}

// nameWidth is the length of the longest name of a field.
var nameWidth = sync.OnceValue(func() int {
	n := 0
	for f := range Fields() {
		n = max(n, len(f.String()))
	}
	return n
})

// hexValue prints a value with all digits that the field has.
func hexValue(f Field, v uint64) string {
	return fmt.Sprintf("0x%0*x", f.Width().Bits()/4, v)
}

// A Difference is a field that two readers do not agree on.
type Difference struct {
	Field    Field
	A, B     uint64
	InA, InB bool   // whether the reader has the field at all
	Meaning  string // the names of the bits that came (+) and went (-), or what both values mean
}

// Differences returns the fields whose values differ or that only one of the
// readers has, in ascending order.
func Differences(a, b Reader) iter.Seq[Difference] {
	return func(yield func(Difference) bool) {
		ma := Snapshot(a)
		mb := Snapshot(b)
		for f := range Fields() {
			d := Difference{Field: f}
			d.A, d.InA = ma.Get(f)
			d.B, d.InB = mb.Get(f)
			if d.InA == d.InB && d.A == d.B {
				continue
			}
			d.Meaning = d.meaning(ma, mb)
			if !yield(d) {
				return
			}
		}
	}
}

func (d *Difference) meaning(a, b Reader) string {
	switch {
	case !d.InA:
		return Meaning(b, d.Field, d.B)
	case !d.InB:
		return Meaning(a, d.Field, d.A)
	}
	ma, mb := Meaning(a, d.Field, d.A), Meaning(b, d.Field, d.B)
	if !isList(d.Field) {
		if ma == mb {
			return ma
		}
		return ma + " -> " + mb
	}
	// Names stand for bits: show which came and which went.
	la, lb := strings.Split(ma, ", "), strings.Split(mb, ", ")
	var out []string
	for _, s := range lb {
		if s != none && !slices.Contains(la, s) {
			out = append(out, "+"+s)
		}
	}
	for _, s := range la {
		if s != none && !slices.Contains(lb, s) {
			out = append(out, "-"+s)
		}
	}
	return strings.Join(out, ", ")
}

// Diff prints the fields that differ between a and b as a table: name, encoding,
// both values (a dash where a reader lacks the field), and what the difference is,
// in names of bits where there are some. It returns how many fields differ.
func Diff(w io.Writer, a, b Reader, o DumpOptions) (int, error) {
	out := bufio.NewWriter(w)
	n := 0
	for d := range Differences(a, b) {
		va, vb, meaning := "-", "-", d.Meaning
		if d.InA {
			va = hexValue(d.Field, d.A)
		}
		if d.InB {
			vb = hexValue(d.Field, d.B)
		}
		if o.Values {
			meaning = ""
		}
		dumpLine(out, d.Field, va, vb, meaning)
		n++
	}
	return n, out.Flush()
}

// ParseDump reads what Dump prints, also from a log that puts something before
// each line and other lines between. A line counts if it has the name of a field,
// the field's encoding and a value, in this order. Errors are a *SyntaxError, one
// of r, or ErrNoDump.
func ParseDump(r io.Reader) (*Image, error) {
	m := new(Image)
	n, found := 0, false
	for line, err := range dumpLines(r) {
		n++
		if err != nil {
			return nil, err
		}
		ok, err := parseDumpLine(m, line)
		var syntax *SyntaxError
		if errors.As(err, &syntax) {
			syntax.Line = n
		}
		if err != nil {
			return nil, err
		}
		found = found || ok
	}
	if !found {
		return nil, ErrNoDump
	}
	return m, nil
}

// parseDumpLine reads a line into m and tells whether it has a field.
func parseDumpLine(m *Image, line string) (bool, error) {
	words := strings.Fields(line)
	for i := 0; i+2 < len(words); i++ {
		if !strings.HasPrefix(words[i+1], "0x") {
			continue
		}
		f, ok := fieldNames()[names.Squeeze(words[i])]
		if !ok {
			continue
		}
		encoding, value := words[i+1], words[i+2]
		if encoding != fmt.Sprintf("%#04x", uint32(f)) {
			return false, &SyntaxError{0, encoding, fmt.Sprintf("the encoding of %v is %#04x", f, uint32(f))}
		}
		if value == "-" {
			return true, nil
		}
		digits, hex := strings.CutPrefix(value, "0x")
		v, err := strconv.ParseUint(digits, 16, f.Width().Bits())
		if !hex || err != nil {
			return false, &SyntaxError{0, value, fmt.Sprintf("want the value of %v: 0x and a hexadecimal number of at most %d bits, or a dash", f, f.Width().Bits())}
		}
		if old, there := m.Get(f); there && old != v {
			return false, &SyntaxError{0, value, fmt.Sprintf("%v was %#x before; take the lines of one dump", f, old)}
		}
		return true, m.Write(f, v)
	}
	return false, nil
}
