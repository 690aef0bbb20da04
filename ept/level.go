package ept

import (
	"fmt"
	"strconv"
	"strings"
)

// A Level is a level of the EPT paging structures, 1 to 5, counted from the pages.
type Level uint8

// Levels, by the name of their entries.
const (
	PTE   Level = 1 // maps 4 KiB
	PDE   Level = 2 // controls 2 MiB: maps a page, or references a table of PTEs
	PDPTE Level = 3 // controls 1 GiB: maps a page, or references a table of PDEs
	PML4E Level = 4 // controls 512 GiB
	PML5E Level = 5 // controls 256 TiB; the root of 5-level EPT has these
)

// Valid reports whether there is such a level.
func (l Level) Valid() bool { return PTE <= l && l <= PML5E }

// Shift returns the lowest bit of a guest-physical address that selects an entry of
// the level: 12, 21, 30, 39 or 48.
func (l Level) Shift() uint { return 3 + 9*uint(l) }

// PageSize returns how many bytes of guest-physical addresses an entry of the level
// controls. Levels 1 to 3 can map pages of that size.
func (l Level) PageSize() uint64 { return 1 << l.Shift() }

// Index returns the number of the entry, 0 to 511, that translates a guest-physical
// address in a table of the level.
func (l Level) Index(gpa uint64) int { return int(gpa>>l.Shift()) & 511 }

var levelNames = [...]string{PTE: "EPT PTE", PDE: "EPT PDE", PDPTE: "EPT PDPTE", PML4E: "EPT PML4E", PML5E: "EPT PML5E"}

// String returns the manual's name of the level's entries, as "EPT PDE".
func (l Level) String() string {
	if !l.Valid() {
		return fmt.Sprintf("Level(%d)", uint8(l))
	}
	return levelNames[l]
}

// ParseLevel reads what String prints, in any case and with or without "EPT", or the
// number of a level.
func ParseLevel(s string) (Level, error) {
	word := strings.ToUpper(strings.TrimSpace(s))
	if n, err := strconv.ParseUint(word, 10, 8); err == nil && Level(n).Valid() {
		return Level(n), nil
	}
	word = strings.TrimSpace(strings.TrimPrefix(word, "EPT"))
	for l := PTE; l <= PML5E; l++ {
		if word == levelNames[l][len("EPT "):] {
			return l, nil
		}
	}
	return 0, fmt.Errorf("ept: %q is no level of EPT: want 1 to 5, or PTE, PDE, PDPTE, PML4E or PML5E", s)
}

// MarshalText returns what String does.
func (l Level) MarshalText() ([]byte, error) {
	if !l.Valid() {
		return nil, fmt.Errorf("ept: there is no level %d of EPT: they are 1 to 5", uint8(l))
	}
	return []byte(l.String()), nil
}

// UnmarshalText is [ParseLevel].
func (l *Level) UnmarshalText(text []byte) (err error) {
	*l, err = ParseLevel(string(text))
	return err
}
