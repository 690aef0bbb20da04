package ium

import (
	"cmp"
	_ "embed"
	"encoding/csv"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/govtx/vtx/internal/names"
)

// A Numbering has the numbers of secure services or of system calls. They differ from
// build to build: a number without a build says little.
type Numbering struct {
	what   string // in errors, in the plural
	prefix string // of all names
	builds []WindowsBuild
	rows   []numberedRow
}

// A numberedRow has the numbers that a name has; -1 where there is none.
type numberedRow struct {
	name    string
	marker  bool
	numbers [numBuilds]int64
}

// A Numbered is a number with its name in one build.
type Numbered struct {
	Number uint32
	Name   string
	Marker bool // a limit between ranges of numbers, not something that can be called
}

// A Renumbered is a name whose number is not the same in two builds.
type Renumbered struct {
	Name     string
	Marker   bool
	Old, New int64 // -1: the build does not have the name
}

//go:embed services.csv
var servicesCSV string

//go:embed syscalls.csv
var syscallsCSV string

// SecureServices returns the numbers of the secure services: what the kernel of VTL0 asks
// of the secure kernel (SKSERVICE in the public symbols of ntoskrnl.exe).
func SecureServices() *Numbering { return secureServices() }

// SystemCalls returns the numbers of the system calls that only trustlets have: what VTL1
// user mode asks of the secure kernel. They start at 0x8000000.
func SystemCalls() *Numbering { return systemCalls() }

// FirstSystemCall is the lowest number of a system call of [SystemCalls].
const FirstSystemCall = 0x800_0000

var (
	secureServices = sync.OnceValue(func() *Numbering {
		return readNumbering("secure services", "SECURESERVICE_", servicesCSV)
	})
	systemCalls = sync.OnceValue(func() *Numbering {
		return readNumbering("IUM system calls", "Ium", syscallsCSV)
	})
)

// readNumbering reads a table of this package. A mistake in it is one of the package, which
// the tests find.
func readNumbering(what, prefix, table string) *Numbering {
	r := csv.NewReader(strings.NewReader(table))
	r.Comment = '#'
	rows, err := r.ReadAll()
	if err != nil {
		panic(err)
	}
	n := &Numbering{what: what, prefix: prefix}
	for _, name := range rows[0][2:] {
		b, err := ParseWindowsBuild(name)
		if err != nil {
			panic(err)
		}
		n.builds = append(n.builds, b)
	}
	for _, row := range rows[1:] {
		have := numberedRow{name: row[0], marker: row[1] == "marker"}
		for i := range have.numbers {
			have.numbers[i] = -1
		}
		for i, text := range row[2:] {
			if text == "" {
				continue
			}
			v, err := strconv.ParseUint(text, 0, 32)
			if err != nil {
				panic(err)
			}
			have.numbers[n.builds[i]] = int64(v)
		}
		n.rows = append(n.rows, have)
	}
	return n
}

// Builds returns the builds whose numbers are known, oldest first.
func (n *Numbering) Builds() []WindowsBuild { return slices.Clone(n.builds) }

// check returns an error if a build is not one of n.
func (n *Numbering) check(b WindowsBuild) error {
	if slices.Contains(n.builds, b) {
		return nil
	}
	return fmt.Errorf("ium: the numbers of the %s of build %v are not known: use one of the builds %s", n.what, b, buildList(n.builds))
}

// All returns everything that a build has, by ascending number; a marker stands before a
// service that has its number.
func (n *Numbering) All(b WindowsBuild) ([]Numbered, error) {
	if err := n.check(b); err != nil {
		return nil, err
	}
	var all []Numbered
	for _, row := range n.rows {
		if v := row.numbers[b]; v >= 0 {
			all = append(all, Numbered{uint32(v), row.name, row.marker})
		}
	}
	slices.SortFunc(all, func(x, y Numbered) int {
		if x.Number != y.Number {
			return cmp.Compare(x.Number, y.Number)
		}
		if x.Marker {
			return -1
		}
		return 1
	})
	return all, nil
}

// NameOf returns the name that a number has in a build. Where a marker has the number of a
// service, that is the service's.
func (n *Numbering) NameOf(b WindowsBuild, number uint32) (string, error) {
	found, err := n.Lookup(b, number)
	return found.Name, err
}

// Lookup is NameOf that also tells whether the name is a marker.
func (n *Numbering) Lookup(b WindowsBuild, number uint32) (found Numbered, err error) {
	if err := n.check(b); err != nil {
		return found, err
	}
	for _, row := range n.rows {
		if row.numbers[b] == int64(number) && (found.Name == "" || !row.marker) {
			found = Numbered{number, row.name, row.marker}
		}
	}
	if found.Name == "" {
		return found, fmt.Errorf("ium: number %#x is not in use among the %s of build %v", number, n.what, b)
	}
	return found, nil
}

// NumberOf returns the number that a name has in a build. Names are as in the table, also
// without what all begin with (SECURESERVICE_, Ium), without regard to case, blanks,
// hyphens and underscores. The error is a *[NameError] if no build has the name.
func (n *Numbering) NumberOf(b WindowsBuild, name string) (uint32, error) {
	if err := n.check(b); err != nil {
		return 0, err
	}
	row, err := n.find(name)
	if err != nil {
		return 0, err
	}
	v := row.numbers[b]
	if v < 0 {
		var have []WindowsBuild
		for _, other := range n.builds {
			if row.numbers[other] >= 0 {
				have = append(have, other)
			}
		}
		return 0, fmt.Errorf("ium: build %v has no %s; it is among the %s of the builds %s", b, row.name, n.what, buildList(have))
	}
	return uint32(v), nil
}

// Name returns a name as the table has it. The error is a *[NameError].
func (n *Numbering) Name(name string) (string, error) {
	row, err := n.find(name)
	if err != nil {
		return "", err
	}
	return row.name, nil
}

func (n *Numbering) find(name string) (*numberedRow, error) {
	squeezed := names.Squeeze(name)
	short := names.Squeeze(n.prefix)
	for i := range n.rows {
		if have := names.Squeeze(n.rows[i].name); have == squeezed || strings.TrimPrefix(have, short) == squeezed {
			return &n.rows[i], nil
		}
	}
	unknown := &NameError{Name: name, what: n.what}
	for i := range n.rows {
		if len(squeezed) > 2 && strings.Contains(names.Squeeze(n.rows[i].name), squeezed) {
			unknown.Alike = append(unknown.Alike, n.rows[i].name)
		}
	}
	if len(unknown.Alike) > 12 {
		unknown.Alike = nil
	}
	return nil, unknown
}

// A NameError tells that no build has a name.
type NameError struct {
	Name  string   // as it was asked for
	Alike []string // names that it is a part of, unless these are more than 12

	what string
}

// Error returns the name and those that are alike.
func (e *NameError) Error() string {
	if len(e.Alike) > 0 {
		return fmt.Sprintf("ium: none of the %s is named %.80q; there are %s", e.what, e.Name, strings.Join(e.Alike, ", "))
	}
	return fmt.Sprintf("ium: none of the %s of any build is named %.80q", e.what, e.Name)
}

// Differences returns the names whose number in one build is not that in the other, in
// order of the new number, those that are gone last.
func (n *Numbering) Differences(from, to WindowsBuild) ([]Renumbered, error) {
	for _, b := range []WindowsBuild{from, to} {
		if err := n.check(b); err != nil {
			return nil, err
		}
	}
	var all []Renumbered
	for _, row := range n.rows {
		if before, after := row.numbers[from], row.numbers[to]; before != after {
			all = append(all, Renumbered{row.name, row.marker, before, after})
		}
	}
	slices.SortFunc(all, func(x, y Renumbered) int {
		// As unsigned numbers, -1 is the highest.
		return cmp.Or(cmp.Compare(uint64(x.New), uint64(y.New)), cmp.Compare(x.Old, y.Old), cmp.Compare(x.Name, y.Name))
	})
	return all, nil
}
