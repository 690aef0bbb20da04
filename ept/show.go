package ept

import (
	"fmt"
	"io"
	"iter"
	"strings"
)

// attributeBits iterates over the named bits that are attributes of mappings.
func attributeBits() iter.Seq2[Entry, string] {
	return func(yield func(Entry, string) bool) {
		for _, b := range entryBits {
			if b.bit&flags == 0 && !yield(b.bit, b.name) {
				return
			}
		}
	}
}

// formatAttributes prints attributes as "R-X WB ignore-PAT".
func formatAttributes(e Entry) string {
	s := e.Rights() + " " + e.MemoryType().String()
	for bit, name := range attributeBits() {
		if e&bit != 0 {
			s += " " + name
		}
	}
	return s
}

const sizeUnits = "KMGTP"

// formatSize prints a size as people do, "640K" or "1G". It is exact unless it has a point:
// "64.0G" is nearly 64 GiB.
func formatSize(n uint64) string {
	if n == 0 || n%1024 != 0 {
		return fmt.Sprintf("%d", n)
	}
	unit := 0
	for n >>= 10; n%1024 == 0 && unit < len(sizeUnits)-1; n >>= 10 {
		unit++
	}
	if n < 10000 {
		return fmt.Sprintf("%d%c", n, sizeUnits[unit])
	}
	f := float64(n)
	for ; f >= 1023.95 && unit < len(sizeUnits)-1; f /= 1024 {
		unit++
	}
	return fmt.Sprintf("%.1f%c", f, sizeUnits[unit])
}

// WriteTable prints a line for each mapping of a source: guest-physical addresses, size,
// host-physical address, attributes, and the sizes of its pages. If the tables could not
// be read to their end, it prints what there is, and returns the error.
func WriteTable(w io.Writer, s Source) error { return WriteTableIn(w, s, Range{0, 1 << 52}) }

// WriteTableIn is [WriteTable] for a range.
func WriteTableIn(w io.Writer, s Source, r Range) error {
	digits := 10
	if limit := s.Mode().AddressLimit(); limit > 1<<40 {
		digits = addressDigits(limit - 1)
	}
	some := false
	var failed error
	for m, err := range MappingsIn(s, r) {
		if err != nil {
			failed = err
			break
		}
		if !some {
			if _, err := fmt.Fprintf(w, "%-*s  %8s  %-*s  %-8s  %s\n", 2*digits+5, "guest-physical", "size", digits+2, "host", "pages", "attributes"); err != nil {
				return err
			}
			some = true
		}
		host, pages := fmt.Sprintf("0x%0*x", digits, m.HPA), strings.ReplaceAll(m.Sizes.String(), ", ", "+")
		what := formatAttributes(m.Attributes)
		if m.Misconfigured != nil {
			host, pages, what = "", "", m.Attributes.Rights()+" misconfigured: "+m.Misconfigured.String()
		}
		if _, err := fmt.Fprintf(w, "0x%0*x-0x%0*x  %8s  %-*s  %-8s  %s\n", digits, m.Start, digits, m.Start+m.Size-1, formatSize(m.Size), digits+2, host, pages, what); err != nil {
			return err
		}
	}
	if !some && failed == nil {
		_, failed = fmt.Fprintln(w, "nothing is mapped")
	}
	return failed
}

// Explain prints how an access is translated: each entry on the way, with the rights that are
// left, and the address or the fault at the end. The error is that of the source or of w; a
// fault is none.
func Explain(w io.Writer, s Source, gpa uint64, a Access) error {
	m := s.Mode()
	if _, err := fmt.Fprintf(w, "guest-physical 0x%x: %v\n", gpa, a); err != nil {
		return err
	}
	table, allow := s.Root(), m.presentMask()
	for l := m.TopLevel(); gpa>>(m.TopLevel().Shift()+9) == 0 && l >= PTE; l-- {
		e, err := s.Entry(table, l.Index(gpa))
		if err != nil {
			return err
		}
		going := e.Present(m) && m.Misconfiguration(e, l) == nil
		left := ""
		if allow &= e; going && l != m.TopLevel() {
			left = "; all entries: " + allow.Rights()
		}
		if _, err := fmt.Fprintf(w, "  0x%010x[%3d]  0x%016x  %s%s\n", table, l.Index(gpa), uint64(e), e.Describe(m, l), left); err != nil {
			return err
		}
		if !going || e.Leaf(l) {
			break
		}
		table = e.Address(l)
	}
	hpa, f, err := Translate(s, gpa, a)
	if err != nil {
		return err
	}
	if f.Kind == NoFault {
		_, err = fmt.Fprintf(w, "  host-physical 0x%x\n", hpa)
		return err
	}
	_, err = fmt.Fprintf(w, "  %v\n", f.Kind)
	if err == nil && f.Kind == Violation {
		_, err = fmt.Fprintf(w, "  exit qualification 0x%x: %v\n", uint64(f.Qualification), f.Qualification)
		if err == nil && f.Level == 0 {
			_, err = fmt.Fprintln(w, "  the address has more bits than the tables translate")
		}
		if err == nil && f.VE {
			_, err = fmt.Fprintln(w, "  convertible: a #VE in the guest instead of an exit, if it can be delivered (SDM Vol. 3C 26.5.7.1)")
		}
		if err == nil && f.SubPage {
			_, err = fmt.Fprintln(w, "  unless the sub-page permission table allows the write (SDM Vol. 3C 29.3.4)")
		}
	}
	return err
}
