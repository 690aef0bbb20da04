package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/govtx/vtx/ium"
)

var secureServiceCommand = &command{
	name:  "secure-service",
	args:  "[NAME|NUMBER]",
	short: "look up secure services and system calls of trustlets",
	long: `Secure services are what the kernel of VTL0 asks of the secure kernel; system calls
from 0x8000000 on are what trustlets ask of it beyond those of other processes. Their
numbers differ from one build of Windows to the next.

A NAME is as in Microsoft's symbols (SECURESERVICE_CREATE_PROCESS, IumCrypto), also
without SECURESERVICE_ or Ium, without regard to case, blanks, hyphens and underscores.
A NUMBER is decimal, or hexadecimal with 0x. vtx prints which number or name it is in
each build that is known, or in the one that -build names. With -diff and -build, it
lists what differs between two builds; with -build alone, all of that build; without
anything, the builds and where their numbers are from. Flags may also stand behind the
NAME or NUMBER.

A build is given by its number (19041, 17763.1, 17134-arm64), a version (10.0.19041.928)
or a release (1903, 20H2, Windows 11 21H2).

Exit status: 0; 1 if no build, or not the one that is named, has the NAME or NUMBER; 2
if the build is not known.
`,
	setup: func(fs *flag.FlagSet) func([]string) (int, error) {
		s := &serviceRun{out: os.Stdout}
		buildFlag(fs, "build", "the `BUILD` to look in", &s.build)
		buildFlag(fs, "diff", "list what differs between the `BUILD` and that of -build", &s.diff)
		return func(args []string) (int, error) {
			if len(args) > 1 { // flags behind the name, too
				if err := fs.Parse(args[1:]); err != nil {
					return 0, err
				}
				args = append(args[:1:1], fs.Args()...)
			}
			return s.run(args)
		}
	},
}

func buildFlag(fs *flag.FlagSet, name, usage string, p **ium.WindowsBuild) {
	fs.Func(name, usage, func(text string) error {
		b, err := ium.ParseWindowsBuild(text)
		*p = &b
		return err
	})
}

// A serviceRun is one run of "vtx secure-service". Builds are nil if they are not named.
type serviceRun struct {
	build, diff *ium.WindowsBuild
	out         io.Writer
}

func (s *serviceRun) run(args []string) (int, error) {
	switch {
	case len(args) > 1:
		return 0, fmt.Errorf("want one NAME or NUMBER, not %d; quote one that has blanks", len(args))
	case s.diff != nil && s.build == nil:
		return 0, fmt.Errorf("-diff wants -build, too: the other build")
	case s.diff != nil && len(args) > 0:
		return 0, fmt.Errorf("%q: -diff takes no NAME or NUMBER", args[0])
	case s.diff != nil:
		return s.differences()
	case len(args) > 0:
		return s.look(args[0])
	case s.build != nil:
		return s.list()
	}
	return s.builds()
}

// numberings have all that can be looked up.
func numberings() []*ium.Numbering {
	return []*ium.Numbering{ium.SecureServices(), ium.SystemCalls()}
}

// has tells whether a numbering has a build.
func has(n *ium.Numbering, b ium.WindowsBuild) bool {
	for _, have := range n.Builds() {
		if have == b {
			return true
		}
	}
	return false
}

func (s *serviceRun) builds() (int, error) {
	t := newTable(s.out)
	fmt.Fprintln(t.w, "build\tservices\tsystem calls\treleases\tsources")
	for b := ium.WindowsBuild(0); b.Version() != ""; b++ {
		counts := [2]string{"-", "-"}
		for i, n := range numberings() {
			if all, err := n.All(b); err == nil {
				counts[i] = strconv.Itoa(len(all))
			}
		}
		fmt.Fprintf(t.w, "%v\t%s\t%s\t%s\t%s\n", b, counts[0], counts[1], b.Version(), b.Sources())
	}
	return 0, t.w.Flush()
}

func (s *serviceRun) list() (int, error) {
	t := newTable(s.out)
	for _, n := range numberings() {
		all, err := n.All(*s.build)
		if err != nil {
			continue // every build is in one of the tables
		}
		for _, r := range all {
			fmt.Fprintf(t.w, "%s\t%s%s\n", hexNumber(int64(r.Number)), r.Name, marker(r.Marker))
		}
	}
	return 0, t.w.Flush()
}

// marker says what is behind the name of a marker.
func marker(is bool) string {
	if is {
		return "  marker: no service"
	}
	return ""
}

// hexNumber prints a number; -1 means none.
func hexNumber(n int64) string {
	if n < 0 {
		return "-"
	}
	return fmt.Sprintf("0x%x", n)
}

func (s *serviceRun) differences() (int, error) {
	t := newTable(s.out)
	compared := false
	for _, n := range numberings() {
		if !has(n, *s.build) || !has(n, *s.diff) {
			continue
		}
		diff, err := n.Differences(*s.diff, *s.build)
		if err != nil {
			return 0, err
		}
		if !compared {
			fmt.Fprintf(t.w, "%v\t%v\tname\n", *s.diff, *s.build)
		}
		compared = true
		for _, d := range diff {
			what := "moved"
			switch {
			case d.Old < 0:
				what = "new"
			case d.New < 0:
				what = "gone"
			}
			fmt.Fprintf(t.w, "%s\t%s\t%s\t%s\n", hexNumber(d.Old), hexNumber(d.New), d.Name, what)
		}
	}
	if !compared {
		return 0, fmt.Errorf("of the builds %v and %v, one is known for secure services only, the other for system calls only; \"vtx secure-service\" lists them", *s.diff, *s.build)
	}
	return 0, t.w.Flush()
}

// look looks a name or number up.
func (s *serviceRun) look(text string) (int, error) {
	text = strings.TrimSpace(text)
	digits, base := text, 10
	if len(text) > 1 && strings.EqualFold(text[:2], "0x") {
		digits, base = text[2:], 16
	}
	number, err := strconv.ParseUint(digits, base, 32)
	var rows [][2]string
	switch {
	case err == nil:
		rows, err = s.names(uint32(number))
	case errors.Is(err, strconv.ErrRange) || base == 16 || text == "":
		return 0, fmt.Errorf("%q: want a number of 32 bits", text)
	default:
		rows, err = s.numbers(text)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "vtx secure-service: %v\n", err)
		return 1, nil
	}
	t := newTable(s.out)
	for _, r := range rows {
		t.row(r[0], "%s", r[1])
	}
	return 0, t.w.Flush()
}

// names returns what a number is called in the builds.
func (s *serviceRun) names(number uint32) (rows [][2]string, err error) {
	n := ium.SecureServices()
	if number >= ium.FirstSystemCall {
		n = ium.SystemCalls()
	}
	var missing error
	for _, b := range s.among(n) {
		found, err := n.Lookup(b, number)
		if err != nil {
			missing = err
			continue
		}
		rows = append(rows, [2]string{b.String(), hexNumber(int64(number)) + "  " + found.Name + marker(found.Marker)})
	}
	switch {
	case len(rows) > 0:
		return rows, nil
	case s.build != nil:
		return nil, missing
	}
	return nil, fmt.Errorf("number %#x is not in use in any build that is known; \"vtx secure-service -build B\" lists those of one", number)
}

// numbers returns what number a name has in the builds.
func (s *serviceRun) numbers(text string) (rows [][2]string, err error) {
	var n *ium.Numbering
	var name string
	var errs []error
	for _, each := range numberings() {
		full, err := each.Name(text)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if n != nil {
			return nil, fmt.Errorf("%q could be %s or %s: say which", text, name, full)
		}
		n, name = each, full
	}
	if n == nil {
		return nil, unknownService(text, errs)
	}
	for _, b := range s.among(n) {
		number, err := n.NumberOf(b, name)
		switch {
		case err == nil:
			rows = append(rows, [2]string{b.String(), fmt.Sprintf("%s  %s", hexNumber(int64(number)), name)})
		case s.build != nil:
			return nil, err
		default:
			rows = append(rows, [2]string{b.String(), "-"})
		}
	}
	return rows, nil
}

// unknownService returns the error that helps most: the one that has names that are alike.
func unknownService(text string, errs []error) error {
	for _, err := range errs {
		var unknown *ium.NameError
		if errors.As(err, &unknown) && len(unknown.Alike) > 0 {
			return err
		}
	}
	return fmt.Errorf("no secure service or system call of trustlets is named %.80q in any build; \"vtx secure-service -build B\" lists those of one", text)
}

// among returns the builds to look in.
func (s *serviceRun) among(n *ium.Numbering) []ium.WindowsBuild {
	if s.build != nil {
		return []ium.WindowsBuild{*s.build}
	}
	return n.Builds()
}
