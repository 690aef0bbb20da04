package main

import (
	"bytes"
	"errors"
	"fmt"
	"path"
	"regexp"
	"strconv"
	"strings"
)

// A row is a line of the table: what was measured, and the figures with units.
type row struct{ what, figures string }

// procs is the number of processors behind a benchmark's name.
var procs = regexp.MustCompile(`-\d+$`)

// parse finds the benchmarks in what go test -bench printed. Figures writes a
// benchmark's pairs of value and unit.
func parse(printed string, figures func([]string) string) []row {
	var rows []row
	pkg := ""
	for line := range strings.Lines(printed) {
		line = strings.TrimSpace(line)
		if p, ok := strings.CutPrefix(line, "pkg: "); ok {
			pkg = path.Base(p)
			continue
		}
		f := strings.Fields(line)
		if len(f) < 4 || len(f)%2 != 0 || !strings.HasPrefix(f[0], "Benchmark") {
			continue
		}
		if _, err := strconv.ParseUint(f[1], 10, 64); err != nil {
			continue
		}
		name := procs.ReplaceAllString(strings.TrimPrefix(f[0], "Benchmark"), "")
		rows = append(rows, row{"`" + pkg + "` " + name, figures(f[2:])})
	}
	return rows
}

// inInstructions writes the figures of a benchmark on Bochs. There a tick of the
// TSC is an instruction, and here a nanosecond is one too; where a benchmark gives
// both, ticks are exact. Zeroes of memory say nothing but that there is none.
func inInstructions(pairs []string) string {
	ticks := strings.Contains(strings.Join(pairs, " "), " ticks/")
	var list []string
	for i := 0; i+1 < len(pairs); i += 2 {
		value, unit := pairs[i], pairs[i+1]
		base, per, _ := strings.Cut(unit, "/")
		switch {
		case base == "ns" && ticks, unit == "B/op", unit == "allocs/op" && value == "0":
			continue
		case base == "ns", base == "ticks":
			unit = "instructions/" + per
		}
		list = append(list, value+" "+unit)
	}
	return strings.Join(list, ", ")
}

// inTime writes the figures of a benchmark that ran as a process.
func inTime(pairs []string) string {
	var list []string
	for i := 0; i+1 < len(pairs); i += 2 {
		if unit := pairs[i+1]; unit != "B/op" {
			list = append(list, pairs[i]+" "+unit)
		}
	}
	return strings.Join(list, ", ")
}

// table writes rows in Markdown.
func table(title string, rows []row) string {
	var b strings.Builder
	fmt.Fprintf(&b, "| %s | |\n|---|---:|\n", title)
	for _, r := range rows {
		fmt.Fprintf(&b, "| %s | %s |\n", r.what, r.figures)
	}
	return b.String()
}

const (
	markBegin = "<!-- bench -->\n"
	markEnd   = "<!-- /bench -->\n"
)

// replace puts text between the marks in doc, in place of what is there.
func replace(doc []byte, text string) ([]byte, error) {
	before, rest, ok := bytes.Cut(doc, []byte(markBegin))
	_, after, ok2 := bytes.Cut(rest, []byte(markEnd))
	if !ok || !ok2 {
		return nil, errors.New("there is no line <!-- bench --> with a line <!-- /bench --> behind it; put both where the table belongs")
	}
	return []byte(string(before) + markBegin + text + markEnd + string(after)), nil
}
