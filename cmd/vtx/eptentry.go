package main

import (
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/govtx/vtx/ept"
	"github.com/govtx/vtx/vmcs"
)

var eptEntryCommand = &command{
	name:  "ept-entry",
	args:  "ENTRY",
	short: "explain an entry of the extended page tables",
	long: `An ENTRY is a number, such as 0x2000b7, or words: access rights, memory type, address
and names of other bits ("RWX WB 0x200000 large"; rights such as --X cannot be the first of them, as they look
like a flag). Flags may stand before or behind it.

What an entry means depends on its level. Without -level, vtx says in a line each what
it is at each level, and then explains all its bits for the levels at which it is not
misconfigured. What is allowed depends on the processor: without -model and -cap it is
one that supports everything.

Exit status: 0; 1 if the entry is misconfigured at the level, or at every level; 2 if
the command line makes no sense.
`,
	setup: func(fs *flag.FlagSet) func([]string) (int, error) {
		e := &eptEntry{mode: ept.Mode{Capabilities: ^vmcs.EPTVPID(0), PhysicalAddressBits: 52}}
		e.define(fs)
		return func(args []string) (int, error) {
			// Flags end the words of the entry; numbers and words can be several.
			n := slices.IndexFunc(args, func(a string) bool { return strings.HasPrefix(a, "-") && strings.Trim(a, "-rRwWxXuU") != "" })
			words := args
			if n >= 0 {
				words = args[:n]
				if err := fs.Parse(args[n:]); err != nil {
					return 0, err
				}
				if fs.NArg() > 0 {
					return 0, fmt.Errorf("%q: one ENTRY is enough", fs.Arg(0))
				}
			}
			if len(words) == 0 {
				return 0, fmt.Errorf("want an ENTRY, such as 0x2000b7")
			}
			entry, err := ept.ParseEntry(strings.Join(words, " "))
			if err != nil {
				return 0, err
			}
			if err := e.processor(); err != nil {
				return 0, err
			}
			return e.print(os.Stdout, entry)
		}
	},
}

// An eptEntry is one run of "vtx ept-entry".
type eptEntry struct {
	mode  ept.Mode
	level ept.Level // 0: all
	model string
	caps  *uint64
	width uint8 // 0: that of the model
}

func (e *eptEntry) define(fs *flag.FlagSet) {
	fs.Func("level", "explain the entry as one of the level `L` only: 1 to 5, or PTE, PDE, PDPTE, PML4E, PML5E", func(s string) (err error) {
		e.level, err = ept.ParseLevel(s)
		return err
	})
	fs.StringVar(&e.model, "model", "", "for the processor `NAME`, recorded in this program; \"vtx caps -list\" lists them")
	fs.Func("cap", "for a processor whose IA32_VMX_EPT_VPID_CAP (MSR 0x48c) is `VALUE`", func(s string) error {
		v, err := strconv.ParseUint(s, 0, 64)
		if err != nil {
			return fmt.Errorf("want a number of at most 64 bits")
		}
		e.caps = &v
		return nil
	})
	fs.Func("width", "MAXPHYADDR is `N`, 32 to 52: address bits from there on are reserved (default 52, or that of the -model)", func(s string) error {
		v, err := strconv.ParseUint(s, 10, 8)
		if err != nil || v < 32 || v > 52 {
			return fmt.Errorf("want a number from 32 to 52")
		}
		e.width = uint8(v)
		return nil
	})
	m := &e.mode
	fs.BoolVar(&m.AccessedDirty, "ad", false, "accessed and dirty flags are on (EPTP bit 6)")
	fs.BoolVar(&m.SupervisorShadowStack, "sss", false, "supervisor shadow-stack control is on (EPTP bit 7)")
	fs.BoolVar(&m.ModeBasedExecute, "mbec", false, "mode-based execute control for EPT is on")
	fs.BoolVar(&m.SubPageWrite, "spp", false, "sub-page write permissions for EPT are on")
	fs.BoolVar(&m.ViolationVE, "ve", false, "EPT-violation #VE is on")
	fs.BoolVar(&m.PagingWrite, "pw", false, "EPT paging-write control is on")
	fs.BoolVar(&m.VerifyGuestPaging, "gpv", false, "guest-paging verification is on")
}

// processor puts what the flags tell of it into the mode.
func (e *eptEntry) processor() error {
	if e.model != "" {
		if e.caps != nil {
			return fmt.Errorf("-model and -cap exclude each other")
		}
		c, err := vmcs.Model(e.model)
		if err != nil {
			return err
		}
		m := ept.NewMode(c)
		e.mode.Capabilities, e.mode.PhysicalAddressBits, e.mode.KeyBits = m.Capabilities, m.PhysicalAddressBits, m.KeyBits
	}
	if e.caps != nil {
		e.mode.Capabilities = vmcs.EPTVPID(*e.caps)
	}
	if e.width != 0 {
		e.mode.PhysicalAddressBits = e.width
	}
	return nil
}

// print explains the entry, and returns the exit status.
func (e *eptEntry) print(out io.Writer, entry ept.Entry) (int, error) {
	levels := []ept.Level{ept.PTE, ept.PDE, ept.PDPTE, ept.PML4E, ept.PML5E}
	if e.level != 0 {
		levels = []ept.Level{e.level}
	}
	fmt.Fprintf(out, "0x%016x  %v\n\n", uint64(entry), entry)
	for _, l := range levels {
		fmt.Fprintln(out, entry.Describe(&e.mode, l))
	}
	status := 1
	var printed []ept.Level
	for _, l := range levels {
		if e.mode.Misconfiguration(entry, l) == nil {
			status = 0
		} else if e.level == 0 {
			continue // the line above says why
		}
		fields := entry.Fields(&e.mode, l)
		alike := func(other ept.Level) bool { return slices.Equal(entry.Fields(&e.mode, other), fields) }
		if slices.ContainsFunc(printed, alike) {
			continue
		}
		printed = append(printed, l)
		var heads []string
		for _, other := range levels {
			if e.mode.Misconfiguration(entry, other) == nil && alike(other) || other == l {
				heads = append(heads, other.String())
			}
		}
		if err := printFields(out, strings.Join(heads, ", "), fields); err != nil {
			return 0, err
		}
	}
	return status, nil
}

func printFields(out io.Writer, head string, fields []ept.EntryField) error {
	fmt.Fprintf(out, "\nas %s:\n", head)
	w := tabwriter.NewWriter(out, 0, 8, 3, ' ', 0)
	fmt.Fprintf(w, "bits\tfield\tvalue\tmeaning\n")
	for _, f := range fields {
		fmt.Fprintf(w, "%s\t%s\t%#x\t%s\n", f.Bits, f.Name, f.Value, f.Meaning)
	}
	return w.Flush()
}
