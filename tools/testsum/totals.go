package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strings"
)

// String gives counts as the summary lines do.
func (c counts) String() string {
	s := fmt.Sprintf("%d passed, %d failed, %d skipped", c.passed, c.failed, c.skipped)
	if c.vtx > 0 {
		s += fmt.Sprintf(" (%d need VT-x)", c.vtx)
	}
	return s
}

// A summaryLine is what one run comes to.
type summaryLine struct {
	label string
	counts
}

func (l summaryLine) String() string { return l.label + ": " + l.counts.String() }

// totalsFormat is a line of the totals file: the counts, then the label.
const totalsFormat = "%d %d %d %d "

// appendTotals adds l to the file's end, and makes the file if there is none.
func appendTotals(name string, l summaryLine) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o666)
	if err != nil {
		return err
	}
	label := strings.Join(strings.Fields(l.label), " ") // one line
	_, err = fmt.Fprintf(f, totalsFormat+"%s\n", l.passed, l.failed, l.skipped, l.vtx, label)
	if err2 := f.Close(); err == nil {
		err = err2
	}
	return err
}

// closing prints the summaries in the named file and their total, and returns
// how many failures there were. Totals of no test are a failure.
func closing(name string, w io.Writer) (failed int, err error) {
	f, err := os.Open(name)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	var total counts
	sc := bufio.NewScanner(f)
	for n := 1; sc.Scan(); n++ {
		var c counts
		fields := strings.SplitN(sc.Text(), " ", 5)
		if _, err := fmt.Sscanf(sc.Text(), totalsFormat, &c.passed, &c.failed, &c.skipped, &c.vtx); err != nil || len(fields) != 5 {
			return 0, fmt.Errorf("%s:%d: %q is not four counts and a label", name, n, sc.Text())
		}
		fmt.Fprintln(w, summaryLine{fields[4], c})
		total.add(c)
	}
	if err := sc.Err(); err != nil {
		return 0, fmt.Errorf("%s: %w", name, err)
	}
	if total.passed+total.failed == 0 {
		fmt.Fprintln(w, "FAIL  no test ran")
		total.failed = 1
	}
	total.vtx = 0 // the closing line has the three numbers alone
	fmt.Fprintln(w, total)
	return total.failed, nil
}
