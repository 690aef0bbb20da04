package main

import (
	"bytes"
	"fmt"
	"strconv"

	"github.com/govtx/vtx/internal/generate"
)

// controlsCSV is what the controls are made from.
const controlsCSV = "controls.csv"

// A controlGroup is a VMCS field of control bits.
type controlGroup struct {
	key     string // in the CSV file
	group   string // the ControlGroup constant
	typ     string // the Go type
	bits    int    // its width
	prefix  string // of the constants
	title   string // in the SDM, in the plural
	section string
	field   uint16 // encoding of the VMCS field
	msr     uint16 // the capability MSR
	trueMSR uint16 // the one without the default1 class; 0 if there is none
}

// controlGroups are the groups, in the order of ControlGroup's constants.
var controlGroups = []controlGroup{
	{"pin", "GroupPin", "PinControls", 32, "Pin", "pin-based VM-execution controls", "Vol. 3C 25.6.1", 0x4000, 0x481, 0x48d},
	{"primary", "GroupPrimary", "PrimaryControls", 32, "Primary", "primary processor-based VM-execution controls", "Vol. 3C 25.6.2", 0x4002, 0x482, 0x48e},
	{"secondary", "GroupSecondary", "SecondaryControls", 32, "Secondary", "secondary processor-based VM-execution controls", "Vol. 3C 25.6.2", 0x401e, 0x48b, 0},
	{"tertiary", "GroupTertiary", "TertiaryControls", 64, "Tertiary", "tertiary processor-based VM-execution controls", "Vol. 3C 25.6.2", 0x2034, 0x492, 0},
	{"exit", "GroupExit", "ExitControls", 32, "Exit", "primary VM-exit controls", "Vol. 3C 25.7.1", 0x400c, 0x483, 0x48f},
	{"exit2", "GroupSecondaryExit", "SecondaryExitControls", 64, "Exit2", "secondary VM-exit controls", "Vol. 3C 25.7.1", 0x2044, 0x493, 0},
	{"entry", "GroupEntry", "EntryControls", 32, "Entry", "VM-entry controls", "Vol. 3C 25.8.1", 0x4012, 0x484, 0x490},
	{"vmfunc", "GroupVMFunctions", "VMFunctions", 64, "VMFunc", "VM-function controls", "Vol. 3C 25.6.14", 0x2018, 0x491, 0},
}

// A controlBit is one row of the file.
type controlBit struct {
	bit                      int
	name, sdm, section, note string
	default1                 bool
}

// readControls reads the file: the rows of each group, by its key.
func readControls(path string) (map[string][]controlBit, error) {
	rows, err := generate.Table(path, "group,bit,name,sdm,section,class,note")
	if err != nil {
		return nil, err
	}
	width := map[string]int{}
	for _, g := range controlGroups {
		width[g.key] = g.bits
	}
	groups := map[string][]controlBit{}
	names := map[string]bool{}
	for i, row := range rows {
		wrong := func(format string, args ...any) error {
			return fmt.Errorf("%s: row %d, %q: %s", path, i+2, row, fmt.Sprintf(format, args...))
		}
		key := row[0]
		bit, err := strconv.Atoi(row[1])
		b := controlBit{bit, row[2], row[3], row[4], row[6], row[5] == "default1"}
		rows := groups[key]
		switch {
		case width[key] == 0:
			return nil, wrong("there is no group %q", key)
		case err != nil || bit < 0 || bit >= width[key]:
			return nil, wrong("want a bit from 0 to %d", width[key]-1)
		case len(rows) > 0 && rows[len(rows)-1].bit >= bit:
			return nil, wrong("the bits of a group must ascend")
		case b.section == "" && b.default1:
			return nil, wrong("a bit of the default1 class needs a section")
		case row[5] != "" && !b.default1:
			return nil, wrong(`the class must be "default1" or empty`)
		case (b.name == "") != (b.sdm == "") || (b.name == "") != (b.note == ""):
			return nil, wrong("a bit has a Go name, an SDM name and a note, or none of them")
		case b.name == "" && !b.default1:
			return nil, wrong("a bit without a name must be of the default1 class")
		case b.name != "" && names[key+b.name]:
			return nil, wrong("the name stands twice")
		}
		names[key+b.name] = true
		groups[key] = append(rows, b)
	}
	return groups, nil
}

// controls returns the Go source of the controls: types, constants and tables.
func controls() ([]byte, error) {
	groups, err := readControls(controlsCSV)
	if err != nil {
		return nil, err
	}
	var w bytes.Buffer
	p := func(format string, args ...any) { fmt.Fprintf(&w, format, args...) }
	p("// Code generated from controls.csv by vmcs/internal/gen. DO NOT EDIT.\n\npackage vmcs\n")
	p("\n// The groups of controls.\nconst (\n")
	for i, g := range controlGroups {
		kind := ""
		if i == 0 {
			kind = " ControlGroup = iota"
		}
		p("\t%s%s // %s\n", g.group, kind, g.title)
	}
	p("\n\tNumControlGroups = %d // how many groups there are\n)\n", len(controlGroups))
	for _, g := range controlGroups {
		emitGroup(p, g, groups[g.key])
	}
	p("\n// controlGroups describes the groups.\nvar controlGroups = [NumControlGroups]controlGroup{\n")
	for _, g := range controlGroups {
		var default1 uint64
		for _, b := range groups[g.key] {
			if b.default1 {
				default1 |= 1 << b.bit
			}
		}
		p("\t%s: {%q, %q, %q, %d, %#x, %#x, %#x, %#x},\n", g.group, g.key, g.title, g.prefix, g.bits, g.field, g.msr, g.trueMSR, default1)
	}
	p("}\n\n// controlNames holds the names of each group's bits.\nvar controlNames = [NumControlGroups][64]controlName{\n")
	for _, g := range controlGroups {
		p("\t%s: {\n", g.group)
		for _, b := range groups[g.key] {
			if b.name != "" {
				p("\t\t%d: {%q, %q, %q, %q},\n", b.bit, g.prefix+b.name, b.sdm, b.section, b.note)
			}
		}
		p("\t},\n")
	}
	p("}\n")
	return w.Bytes(), nil
}

// emitGroup writes a group's type, constants and methods.
func emitGroup(p func(string, ...any), g controlGroup, bits []controlBit) {
	p("\n// %s are the %s (SDM %s).\ntype %[1]s uint%[4]d\n", g.typ, g.title, g.section, g.bits)
	p("\n// The bits of [%s]. A bit that is 1 means what its comment says.\nconst (\n", g.typ)
	var default1 uint64
	for _, b := range bits {
		if b.default1 {
			default1 |= 1 << b.bit
		}
		if b.name == "" {
			continue
		}
		origin := fmt.Sprintf("SDM: %q", b.sdm)
		if b.section == "" {
			origin = fmt.Sprintf("%q; not in the SDM's revision 084", b.sdm)
		}
		if b.default1 {
			origin += "; of the default1 class"
		}
		p("\t// %s%s: %s (%s).\n", g.prefix, b.name, b.note, origin)
		p("\t%s%s %s = 1 << %d\n", g.prefix, b.name, g.typ, b.bit)
	}
	if default1 != 0 {
		p("\n\t// %sDefault1 is the default1 class: bits that are 1 on every processor, or\n", g.prefix)
		p("\t// on those without the TRUE capability MSRs (SDM Vol. 3D %s).\n", sectionA(bits))
		p("\t%sDefault1 %s = %#x\n", g.prefix, g.typ, default1)
	}
	p(")\n")
	p("\n// ControlGroup returns [%s].\nfunc (%s) ControlGroup() ControlGroup { return %[1]s }\n", g.group, g.typ)
	p("\n// String lists the bits that are 1 by the names of the SDM: \"%s\".\n", exampleList(bits))
	p("// Bits without a name follow, as \"bit 26\"; 0 is \"none\".\nfunc (c %s) String() string { return controlString(%s, uint64(c)) }\n", g.typ, g.group)
	p("\n// AppendText appends what String returns. The error is always nil.\nfunc (c %s) AppendText(b []byte) ([]byte, error) {\n\treturn appendControls(b, %s, uint64(c)), nil\n}\n", g.typ, g.group)
	p("\n// MarshalText returns what String returns. The error is always nil.\nfunc (c %s) MarshalText() ([]byte, error) { return c.AppendText(nil) }\n", g.typ)
	p("\n// UnmarshalText reads what [ParseControls] reads.\nfunc (c *%[1]s) UnmarshalText(text []byte) error { return unmarshalControls(c, text) }\n", g.typ)
}

// exampleList is an example of a printed value: up to two of the named bits.
func exampleList(bits []controlBit) string {
	s, n := "", 0
	for _, b := range bits {
		if b.name == "" {
			continue
		}
		if n > 0 {
			s += ", "
		}
		s += b.sdm
		if n++; n == 2 {
			break
		}
	}
	return s
}

// sectionA is the section of Appendix A that gives the default1 class: the
// unnamed bits have it.
func sectionA(bits []controlBit) string {
	for _, b := range bits {
		if b.name == "" {
			return b.section
		}
	}
	return ""
}
