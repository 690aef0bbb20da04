package main

import (
	"bufio"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"regexp"
	"runtime"
	"strconv"
	"strings"

	"github.com/govtx/vtx/hypercall"
	"github.com/govtx/vtx/vmcs"
)

// Bounds of what "vtx cpuid-hv" reads.
const (
	maxLeafBytes = 16 << 20
	maxLeafLines = 1 << 16
)

var cpuidHvCommand = &command{
	name:  "cpuid-hv",
	args:  "[FILE|-]",
	short: "decode the CPUID leaves of a hypervisor",
	long: `Without a FILE the leaves of the hypervisor are decoded that this runs under, if its
interface is "Hv#1". A FILE, or standard input for -, has leaves as text, in any of the
forms
	0x40000003 0x00: eax=0x00003fff ebx=0x002bb9ff ecx=0x00000022 edx=0x03d1f7b0
	cpuid 0x40000003 0x0 0x00003fff 0x002bb9ff 0x00000022 0x03d1f7b0
	40000003 00003fff 002bb9ff 00000022 03d1f7b0
which are what cpuid -r and "vtx caps -raw" print, and leaf, EAX, EBX, ECX and EDX in
hexadecimal. Other lines are passed over. Of several processors the first counts. A
FILE can be Linux' device of a processor, such as /dev/cpu/0/cpuid.

Exit status: 0; 1 if there are no such leaves; 2 if the command line makes no sense.
`,
	setup: func(*flag.FlagSet) func([]string) (int, error) {
		return func(args []string) (int, error) {
			if len(args) > 1 {
				return 0, fmt.Errorf("want one FILE, or none, not %d", len(args))
			}
			var err error
			if len(args) == 0 {
				err = printOwnLeaves(os.Stdout)
			} else {
				err = printLeavesOf(os.Stdout, args[0])
			}
			if err != nil {
				fmt.Fprintf(os.Stderr, "vtx cpuid-hv: %v\n", err)
				return 1, nil
			}
			return 0, nil
		}
	},
}

// printOwnLeaves decodes the leaves of this machine.
func printOwnLeaves(out io.Writer) error {
	if runtime.GOARCH != "amd64" {
		return fmt.Errorf("a processor of %s has no CPUID; name a FILE with leaves", runtime.GOARCH)
	}
	return printLeaves(out, func(leaf, subleaf uint32) hypercall.CPUID {
		var r hypercall.CPUID
		r.EAX, r.EBX, r.ECX, r.EDX = vmcs.Processor{}.ReadCPUID(leaf, subleaf)
		return r
	})
}

// printLeaves decodes the leaves that cpuid gives.
func printLeaves(out io.Writer, cpuid func(leaf, subleaf uint32) hypercall.CPUID) error {
	l, err := hypercall.ReadLeaves(cpuid)
	if l == nil {
		return err
	}
	if err != nil {
		// Others than "Hv#1" have these two in the same form.
		t := newTable(out)
		leafRow(t, l.Vendor)
		leafRow(t, l.Interface)
		t.w.Flush()
		return err
	}
	t := newTable(out)
	for leaf := range l.All() {
		leafRow(t, leaf)
	}
	return t.w.Flush()
}

// leafRow tells a leaf, a line for each of its parts.
func leafRow(t table, leaf hypercall.Leaf) {
	number := fmt.Sprintf("0x%08x", leaf.Number())
	for part := range strings.SplitSeq(leaf.String(), "; ") {
		t.row(number, "%s", part)
		number = ""
	}
}

// printLeavesOf decodes the leaves in a file.
func printLeavesOf(out io.Writer, name string) error {
	in, title := io.Reader(os.Stdin), "standard input"
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		defer f.Close()
		if info, err := f.Stat(); err == nil && info.Mode()&os.ModeCharDevice != 0 {
			return printDevice(out, f)
		}
		in, title = f, name
	}
	leaves, err := readLeafLines(in)
	if err != nil {
		return fmt.Errorf("%s: %w", title, err)
	}
	if len(leaves) == 0 {
		return fmt.Errorf("%s: no leaf of CPUID is in it; \"vtx help cpuid-hv\" says how lines look", title)
	}
	return printRecordedLeaves(out, title, leaves)
}

// printRecordedLeaves decodes leaves that were recorded. A hypervisor's are decoded
// also without leaf 1 and without those that say who it is.
func printRecordedLeaves(out io.Writer, title string, leaves map[uint32]hypercall.CPUID) error {
	if r, ok := leaves[hypercall.LeafInterface]; ok && r.EAX != hypercall.SignatureHv1 {
		return printLeaves(out, func(leaf, _ uint32) hypercall.CPUID {
			if leaf == 1 {
				return hypercall.CPUID{ECX: hypercall.HypervisorPresent}
			}
			return leaves[leaf]
		})
	}
	t := newTable(out)
	n := 0
	for number := hypercall.LeafVendor; number <= hypercall.LeafIsolation; number++ {
		r, ok := leaves[number]
		if !ok {
			continue
		}
		if leaf, ok := hypercall.DecodeLeaf(number, r); ok {
			leafRow(t, leaf)
			n++
		}
	}
	if n > 0 {
		return t.w.Flush()
	}
	if r, ok := leaves[1]; ok && r.ECX&hypercall.HypervisorPresent == 0 {
		return fmt.Errorf("%s: %w", title, hypercall.ErrNoHypervisor)
	}
	return fmt.Errorf("%s: of %d leaves none is a hypervisor's, %#x to %#x", title, len(leaves), hypercall.LeafVendor, hypercall.LeafIsolation)
}

// printDevice decodes the leaves that Linux' cpuid device gives: 16 bytes at an offset
// that is the leaf, with the subleaf in its upper half.
func printDevice(out io.Writer, f io.ReaderAt) error {
	var failed error
	err := printLeaves(out, func(leaf, subleaf uint32) hypercall.CPUID {
		var b [16]byte
		if _, err := f.ReadAt(b[:], int64(subleaf)<<32|int64(leaf)); err != nil {
			failed = errors.Join(failed, fmt.Errorf("leaf %#x: %w", leaf, err))
			return hypercall.CPUID{}
		}
		v := binary.LittleEndian
		return hypercall.CPUID{EAX: v.Uint32(b[0:]), EBX: v.Uint32(b[4:]), ECX: v.Uint32(b[8:]), EDX: v.Uint32(b[12:])}
	})
	if failed != nil {
		return failed
	}
	return err
}

// Forms of a line with a leaf. Registers are in the last four groups.
var leafForms = []struct {
	re      *regexp.Regexp
	base    int
	subleaf int // the group that has the subleaf; 0 for none
}{
	{regexp.MustCompile(`(?i)^\s*(0x[0-9a-f]{1,8})\s+(0x[0-9a-f]{1,8}):\s*eax=(0x[0-9a-f]{1,8})\s+ebx=(0x[0-9a-f]{1,8})\s+ecx=(0x[0-9a-f]{1,8})\s+edx=(0x[0-9a-f]{1,8})\s*$`), 0, 2},
	{regexp.MustCompile(`(?i)^\s*cpuid\s+((?:0x)?[0-9a-f]{1,8})\s+((?:0x)?[0-9a-f]{1,8})\s+((?:0x)?[0-9a-f]{1,8})\s+((?:0x)?[0-9a-f]{1,8})\s+((?:0x)?[0-9a-f]{1,8})\s+((?:0x)?[0-9a-f]{1,8})\s*$`), 16, 2},
	{regexp.MustCompile(`(?i)^\s*((?:0x)?[0-9a-f]{1,8})[:\s]\s*((?:0x)?[0-9a-f]{1,8})\s+((?:0x)?[0-9a-f]{1,8})\s+((?:0x)?[0-9a-f]{1,8})\s+((?:0x)?[0-9a-f]{1,8})\s*$`), 16, 0},
}

// readLeafLines reads the leaves in a text, those of subleaf 0. Of a leaf that is there
// more than once, the first counts.
func readLeafLines(in io.Reader) (map[uint32]hypercall.CPUID, error) {
	leaves := map[uint32]hypercall.CPUID{}
	limited := &io.LimitedReader{R: in, N: maxLeafBytes + 1}
	s := bufio.NewScanner(limited)
	for n := 0; s.Scan(); n++ {
		if n == maxLeafLines {
			return nil, fmt.Errorf("more than %d lines; cut the leaves out of it", maxLeafLines)
		}
		leaf, r, ok := leafOfLine(s.Text())
		if _, twice := leaves[leaf]; ok && !twice {
			leaves[leaf] = r
		}
	}
	if limited.N == 0 {
		return nil, fmt.Errorf("longer than %d MiB; cut the leaves out of it", maxLeafBytes>>20)
	}
	return leaves, s.Err()
}

// leafOfLine returns the leaf of a line, if it has one, with subleaf 0.
func leafOfLine(line string) (leaf uint32, r hypercall.CPUID, ok bool) {
	for _, form := range leafForms {
		m := form.re.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		n := make([]uint32, len(m))
		for i := 1; i < len(m); i++ {
			digits := m[i]
			if form.base == 16 {
				digits = strings.TrimPrefix(strings.ToLower(digits), "0x")
			}
			v, err := strconv.ParseUint(digits, form.base, 32)
			if err != nil {
				return 0, r, false
			}
			n[i] = uint32(v)
		}
		if form.subleaf != 0 && n[form.subleaf] != 0 {
			return 0, r, false
		}
		n = append(n[1:2], n[len(n)-4:]...)
		return n[0], hypercall.CPUID{EAX: n[1], EBX: n[2], ECX: n[3], EDX: n[4]}, true
	}
	return 0, r, false
}
