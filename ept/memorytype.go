package ept

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// A MemoryType says how memory is cached, encoded as in EPT entries, MTRRs and the PAT
// (SDM Vol. 3A table 12-2; Vol. 3C 29.3.7.2).
type MemoryType uint8

// Memory types. 2 and 3 are reserved.
const (
	UC      MemoryType = 0 // uncacheable
	WC      MemoryType = 1 // write combining
	WT      MemoryType = 4 // write-through
	WP      MemoryType = 5 // write-protected
	WB      MemoryType = 6 // write-back
	UCMinus MemoryType = 7 // uncacheable, but an MTRR or EPT can make it WC; in the PAT only
)

// Valid reports whether EPT entries and MTRRs can have the type: UC, WC, WT, WP or WB.
func (t MemoryType) Valid() bool { return 0b111_0011>>t&1 != 0 }

// ValidPAT reports whether the PAT can have the type, which is Valid or UC-.
func (t MemoryType) ValidPAT() bool { return t.Valid() || t == UCMinus }

// Entry returns the type in the place that it has in an entry, bits 5:3.
func (t MemoryType) Entry() Entry { return Entry(t&7) << memoryTypeShift }

var memoryTypeNames = [...]string{UC: "UC", WC: "WC", WT: "WT", WP: "WP", WB: "WB", UCMinus: "UC-"}

// String returns the manual's abbreviation, as "WB".
func (t MemoryType) String() string {
	if !t.ValidPAT() {
		return fmt.Sprintf("MemoryType(%d)", uint8(t))
	}
	return memoryTypeNames[t]
}

// ParseMemoryType reads what String prints, in any case, or a number.
func ParseMemoryType(s string) (MemoryType, error) {
	word := strings.ToUpper(strings.TrimSpace(s))
	for t, name := range memoryTypeNames {
		if name != "" && word == name {
			return MemoryType(t), nil
		}
	}
	digits := strings.TrimSuffix(strings.TrimPrefix(word, "MEMORYTYPE("), ")")
	if n, err := strconv.ParseUint(digits, 10, 8); err == nil {
		return MemoryType(n), nil
	}
	return 0, fmt.Errorf("ept: %q is no memory type: want UC, WC, WT, WP, WB or, for the PAT, UC-", s)
}

// MarshalText returns what String does.
func (t MemoryType) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// UnmarshalText is [ParseMemoryType].
func (t *MemoryType) UnmarshalText(text []byte) (err error) {
	*t, err = ParseMemoryType(string(text))
	return err
}

// At makes a type the [Types] of memory that has it everywhere.
func (t MemoryType) At(uint64) (MemoryType, uint64) { return t, math.MaxUint64 }

// A PAT is a page attribute table, the value of IA32_PAT (SDM Vol. 3A 12.12).
type PAT uint64

// PATReset is the value after power-up and reset: WB, WT, UC-, UC, twice.
const PATReset PAT = 0x0007_0406_0007_0406

// Type returns the type that a guest's paging-structure entry selects, by the bits PAT,
// PCD and PWT as a number, 0 to 7.
func (p PAT) Type(index int) MemoryType { return MemoryType(p >> (8 * (index & 7))) }

// effective is the effective memory type (SDM Vol. 3A table 12-7) by that of the EPT entry,
// which stands for the MTRRs' here, and that of the PAT. UC fills what does not exist.
var effective = [8][8]MemoryType{
	//     UC  WC          WT  WP  WB  UC-
	UC: {UC, WC, UC, UC, UC, UC, UC, UC},
	WC: {UC, WC, UC, UC, UC, UC, WC, WC},
	WT: {UC, WC, UC, UC, WT, WP, WT, UC},
	WP: {UC, WC, UC, UC, WT, WP, WP, WC},
	WB: {UC, WC, UC, UC, WT, WP, WB, UC},
}

// EffectiveType returns the memory type of an access through a page, by the memory type
// and the ignore-PAT bit of the entry that maps the page, the PAT memory type that the
// guest's paging selects (WB while the guest has paging off), and CR0.CD
// (SDM Vol. 3C 29.3.7.2). MTRRs do not count. The result is never UC-; types that are
// reserved act as UC.
func EffectiveType(entry MemoryType, ignorePAT bool, pat MemoryType, cacheDisable bool) MemoryType {
	switch {
	case cacheDisable || !entry.Valid():
		return UC
	case ignorePAT:
		return entry
	case !pat.ValidPAT():
		return UC
	}
	return effective[entry][pat]
}
