package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"
)

// needsRing0 is what a test says when it is skipped for want of ring 0, and the
// result that it then has here.
const needsRing0 = "needs ring 0"

// An event is a line of go test -json: those that cmd/test2json describes, and
// those of the build (see go help buildjson), which have an import path.
type event struct {
	Action      string
	Package     string
	ImportPath  string
	Test        string
	Output      string
	Elapsed     float64 // seconds
	FailedBuild string
}

// counts is how many tests ended how. A skipped test that needs VT-x is counted
// under skipped as well.
type counts struct{ passed, failed, skipped, vtx int }

func (c *counts) add(d counts) {
	c.passed += d.passed
	c.failed += d.failed
	c.skipped += d.skipped
	c.vtx += d.vtx
}

// A summary adds up the events that are written to it.
type summary struct {
	counts
	ring0   bool // a test skipped for want of ring 0 has failed
	out     io.Writer
	rest    []byte // a line whose end is still to come
	pkgs    map[string]*pkg
	builds  map[string]*strings.Builder // the build's output by import path
	reasons map[string]int              // why tests were skipped
}

// A pkg is a package whose tests have begun.
type pkg struct {
	tests map[string]*test
	order []string // names of tests as they began
	log   strings.Builder
}

// A test is a test, subtest, example or fuzz target.
type test struct {
	result    string // "pass", "fail", "skip"; "" while it runs
	subtests  bool
	subFailed bool // one of its subtests failed
	log       strings.Builder
}

func newSummary(out io.Writer) *summary {
	return &summary{
		out:     out,
		pkgs:    map[string]*pkg{},
		builds:  map[string]*strings.Builder{},
		reasons: map[string]int{},
	}
}

// Write takes the command's output in pieces of any size. It never fails.
func (s *summary) Write(b []byte) (int, error) {
	n := len(b)
	for {
		line, rest, ok := bytes.Cut(b, []byte{'\n'})
		s.rest = append(s.rest, line...)
		if !ok {
			return n, nil
		}
		s.line(s.rest)
		s.rest, b = s.rest[:0], rest
	}
}

// line takes one line. What is not an event is printed as it is.
func (s *summary) line(b []byte) {
	var e event
	if len(b) == 0 || b[0] != '{' || json.Unmarshal(b, &e) != nil || e.Action == "" {
		fmt.Fprintf(s.out, "%s\n", b)
		return
	}
	switch {
	case e.Action == "build-output":
		if s.builds[e.ImportPath] == nil {
			s.builds[e.ImportPath] = new(strings.Builder)
		}
		s.builds[e.ImportPath].WriteString(e.Output)
	case e.Action == "build-fail":
		s.printBuild(e.ImportPath)
	case e.Package == "":
		// Nothing to count, and no action that is known today.
	case e.Test != "":
		s.test(&e)
	case e.Action == "output":
		s.pkg(e.Package).log.WriteString(e.Output)
	case e.Action == "pass" || e.Action == "fail" || e.Action == "skip":
		s.endPackage(&e)
	}
}

func (s *summary) printBuild(path string) {
	if b := s.builds[path]; b != nil {
		fmt.Fprint(s.out, b)
		delete(s.builds, path)
	}
}

func (s *summary) pkg(path string) *pkg {
	p := s.pkgs[path]
	if p == nil {
		p = &pkg{tests: map[string]*test{}}
		s.pkgs[path] = p
	}
	return p
}

func (p *pkg) test(name string) *test {
	t := p.tests[name]
	if t == nil {
		t = &test{}
		p.tests[name] = t
		p.order = append(p.order, name)
	}
	return t
}

func (s *summary) test(e *event) {
	t := s.pkg(e.Package).test(e.Test)
	switch e.Action {
	case "output":
		t.log.WriteString(e.Output)
	case "fail":
		t.result = "fail"
	case "pass", "skip":
		if t.result == "fail" {
			break // with -count above 1, one failure is enough
		}
		t.result = e.Action
		if e.Action == "skip" {
			s.reasons[skipReason(t.log.String())]++
			if strings.Contains(t.log.String(), needsRing0) {
				t.result = needsRing0
			}
		}
		// There may be much of it, and nobody wants it any more. But when the
		// program dies between two tests, its last words are taken for the first's.
		rest := afterResult(t.log.String())
		t.log.Reset()
		t.log.WriteString(rest)
	}
}

// afterResult is what stands behind the line in a test's output that says how
// the test ended.
func afterResult(log string) string {
	end := len(log)
	at := 0
	for line := range strings.Lines(log) {
		at += len(line)
		if strings.HasPrefix(strings.TrimLeft(line, " "), "--- ") {
			end = at
		}
	}
	return log[end:]
}

// skipReason picks what t.Skip said out of a test's output: the last line that
// is not testing's own, without the file and line before it.
func skipReason(log string) string {
	reason := "no reason given"
	for line := range strings.Lines(log) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "=== ") || strings.HasPrefix(line, "--- ") {
			continue
		}
		if at, text, ok := strings.Cut(line, ": "); ok && strings.Contains(at, ".go:") {
			line = text
		}
		reason = line
	}
	return reason
}

// endPackage counts the tests of a package that has ended, and prints a line.
func (s *summary) endPackage(e *event) {
	p := s.pkg(e.Package)
	delete(s.pkgs, e.Package)
	if len(p.tests) == 0 && e.Action != "fail" {
		return // no test files, or none chosen
	}
	for _, name := range p.order {
		for i, c := range name {
			if c != '/' {
				continue
			}
			if parent := p.tests[name[:i]]; parent != nil {
				parent.subtests = true
				parent.subFailed = parent.subFailed || p.tests[name].failed(s.ring0)
			}
		}
	}
	var c counts
	for _, name := range p.order {
		t := p.tests[name]
		failed := t.failed(s.ring0)
		if failed {
			if t.result == "" {
				t.log.WriteString("    (it did not end)\n")
			}
			if t.result == needsRing0 {
				fmt.Fprintf(&t.log, "%s: skipped, for it %s, which this run should have been in\n", name, needsRing0)
			}
		}
		if failed || e.Action == "fail" {
			fmt.Fprint(s.out, &t.log)
		}
		switch {
		case failed && !t.subFailed:
			c.failed++
		case failed || t.subtests:
			// Its subtests are counted.
		case t.result == needsRing0:
			c.vtx++
			c.skipped++
		case t.result == "skip":
			c.skipped++
		default:
			c.passed++
		}
	}
	if e.Action == "fail" {
		fmt.Fprint(s.out, &p.log)
		if c.failed == 0 {
			c.failed = 1 // the package itself
		}
	}
	s.add(c)
	verdict := "ok  "
	if c.failed > 0 {
		verdict = "FAIL"
	}
	d := time.Duration(e.Elapsed * float64(time.Second))
	fmt.Fprintf(s.out, "%s  %s  %v, %v\n", verdict, e.Package, c, d.Round(10*time.Millisecond))
}

// failed tells whether t counts as a failure when its package has ended.
func (t *test) failed(ring0 bool) bool {
	return t.result == "" || t.result == "fail" || ring0 && t.result == needsRing0
}

// finish is to be called when the command has ended, with its error.
func (s *summary) finish(err error) {
	if len(s.rest) > 0 {
		s.line(s.rest)
		s.rest = nil
	}
	for _, path := range slices.Sorted(maps.Keys(s.pkgs)) {
		fmt.Fprintf(s.out, "%s: the tests did not end\n", path)
		s.endPackage(&event{Action: "fail", Package: path})
	}
	for _, path := range slices.Sorted(maps.Keys(s.builds)) {
		s.printBuild(path) // warnings of builds that succeeded
	}
	for _, reason := range slices.Sorted(maps.Keys(s.reasons)) {
		if !strings.Contains(reason, needsRing0) {
			fmt.Fprintf(s.out, "skipped %d: %s\n", s.reasons[reason], reason)
		}
	}
	switch {
	case err != nil && s.failed == 0:
		fmt.Fprintf(s.out, "FAIL  no test failed, but the command did: %v\n", err)
		s.failed = 1
	case s.passed+s.failed == 0:
		fmt.Fprintln(s.out, "FAIL  no test ran")
		s.failed = 1
	}
}
