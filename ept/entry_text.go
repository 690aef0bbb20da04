package ept

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/govtx/vtx/internal/names"
)

// entryBits are the bits that text forms name. The others are the rights, the memory
// type, the address and bits 56:52.
var entryBits = [...]struct {
	bit  Entry
	name string
}{
	{IgnorePAT, "ignore-PAT"},
	{Large, "large"},
	{Accessed, "accessed"},
	{Dirty, "dirty"},
	{Software11, "software-11"},
	{VerifyGuestPaging, "verify-guest-paging"},
	{PagingWrite, "paging-write"},
	{Software59, "software-59"},
	{SupervisorShadowStack, "supervisor-shadow-stack"},
	{SubPageWrite, "sub-page-write"},
	{Software62, "software-62"},
	{SuppressVE, "suppress-VE"},
}

const (
	bookkeepingShift = 52
	bookkeepingWord  = "software-56:52="
)

// Rights returns the access rights as text: "RWX", with "-" for what is not allowed, and
// "U" behind it if user-mode addresses can be executed (bit 10).
func (e Entry) Rights() string {
	b := []byte("---")
	for i := range b {
		if e>>i&1 != 0 {
			b[i] = "RWX"[i]
		}
	}
	if e&ExecuteUser != 0 {
		b = append(b, 'U')
	}
	return string(b)
}

// parseRights reads what Rights returns, in any case.
func parseRights(s string) (e Entry, ok bool) {
	s = strings.ToUpper(s)
	if len(s) == 4 && s[3] == 'U' {
		e, s = ExecuteUser, s[:3]
	}
	if len(s) != 3 {
		return 0, false
	}
	for i := range s {
		switch s[i] {
		case "RWX"[i]:
			e |= 1 << i
		case '-':
		default:
			return 0, false
		}
	}
	return e, true
}

// String prints all bits, in words that mean the same at each level:
// "RWX WB 0x200000 large accessed" has bits 2:0, the type in bits 5:3, bits 51:12 and
// bits 7 and 8. [Entry.Describe] says what they mean.
func (e Entry) String() string {
	b := fmt.Appendf(nil, "%s %v %#x", e.Rights(), e.MemoryType(), uint64(e&addressMask))
	for _, f := range entryBits {
		if e&f.bit != 0 {
			b = append(append(b, ' '), f.name...)
		}
	}
	if s := e & bookkeeping >> bookkeepingShift; s != 0 {
		b = fmt.Appendf(b, " %s%#x", bookkeepingWord, uint64(s))
	}
	return string(b)
}

// ParseEntry reads what String prints, or a number alone, which is the entry's value.
// Words can stand in any order and case, with or without hyphens, and parts that are 0
// can be left out: "rwx wb 0x200000 large". A number among other words is the address.
func ParseEntry(s string) (Entry, error) {
	words := strings.Fields(s)
	fail := func(format string, args ...any) (Entry, error) {
		return 0, fmt.Errorf("ept: %q is no EPT entry: %s", s, fmt.Sprintf(format, args...))
	}
	if len(words) == 1 {
		if v, err := strconv.ParseUint(words[0], 0, 64); err == nil {
			return Entry(v), nil
		}
	}
	if len(words) == 0 {
		return fail("want a number, or words such as \"RWX WB 0x200000 large\"")
	}
	var e Entry
	var seen [4]bool // rights, memory type, address, software bits
	once := func(part int, v Entry) bool {
		again := seen[part]
		seen[part] = true
		e |= v
		return !again
	}
words:
	for _, w := range words {
		if v, ok := parseRights(w); ok {
			if !once(0, v) {
				return fail("it has access rights twice")
			}
			continue
		}
		for _, f := range entryBits {
			if names.Squeeze(w) == names.Squeeze(f.name) {
				e |= f.bit
				continue words
			}
		}
		if n, ok := strings.CutPrefix(strings.ToLower(w), bookkeepingWord); ok {
			v, err := strconv.ParseUint(n, 0, 64)
			if err != nil || v > uint64(bookkeeping>>bookkeepingShift) || !once(3, Entry(v)<<bookkeepingShift) {
				return fail("%q: bits 56:52 are a number of at most 31, once", w)
			}
			continue
		}
		if v, err := strconv.ParseUint(w, 0, 64); err == nil {
			if v&^uint64(addressMask) != 0 || !once(2, Entry(v)) {
				return fail("%q: the address is one number, a multiple of 4096 below 2^52", w)
			}
			continue
		}
		t, err := ParseMemoryType(w)
		if err != nil || t > 7 || !once(1, t.Entry()) {
			return fail("the word %q", w)
		}
	}
	return e, nil
}

// MarshalText returns what String does.
func (e Entry) MarshalText() ([]byte, error) { return []byte(e.String()), nil }

// UnmarshalText is [ParseEntry].
func (e *Entry) UnmarshalText(text []byte) (err error) {
	*e, err = ParseEntry(string(text))
	return err
}

// Describe says in one line what an entry of a level does:
// "EPT PDE: maps 2 MiB at 0x200000, RWX, WB, accessed".
func (e Entry) Describe(m *Mode, l Level) string {
	if r := m.Misconfiguration(e, l); r != nil {
		return fmt.Sprintf("%v: misconfigured: %v", l, r)
	}
	var words []string
	switch {
	case !e.Present(m):
		words = append(words, "not present")
		if m.ViolationVE {
			words = append(words, veWords(e))
		}
	case e.Leaf(l):
		words = append(words, fmt.Sprintf("maps %s at %#x", sizeWords(l.PageSize()), e.Address(l)), m.rightsOf(e), e.MemoryType().String())
		for _, f := range e.meanings(m, l) {
			if f.short != "" {
				words = append(words, f.short)
			}
		}
	default:
		words = append(words, fmt.Sprintf("references the table of %vs at %#x", (l-1), e.Address(l)), m.rightsOf(e))
		if m.AccessedDirty && e&Accessed != 0 {
			words = append(words, "accessed")
		}
	}
	return l.String() + ": " + strings.Join(words, ", ")
}

// rightsOf is the rights without what is ignored.
func (m *Mode) rightsOf(e Entry) string {
	if !m.ModeBasedExecute {
		e &^= ExecuteUser
	}
	return e.Rights()
}

func veWords(e Entry) string {
	if e&SuppressVE != 0 {
		return "EPT violations exit"
	}
	return "EPT violations become #VE"
}

func sizeWords(size uint64) string {
	for _, u := range [...]struct {
		shift uint
		name  string
	}{{40, "TiB"}, {30, "GiB"}, {20, "MiB"}} {
		if size>>u.shift != 0 {
			return fmt.Sprintf("%d %s", size>>u.shift, u.name)
		}
	}
	return fmt.Sprintf("%d KiB", size>>10)
}

// An EntryField is a part of an entry, and what it means in an entry of some level.
type EntryField struct {
	Bits    string // "51:12", "7"
	Name    string
	Value   uint64
	Meaning string

	short string // for Describe, "" if it is not worth a word
}

// Fields returns all parts of an entry of a level, from bit 0 up, with what they mean by
// the mode. Each bit is in one of them.
func (e Entry) Fields(m *Mode, l Level) []EntryField {
	if !e.Present(m) {
		ve := EntryField{Bits: "63", Name: "suppress #VE", Value: uint64(e >> 63), Meaning: "ignored: EPT-violation #VE is off"}
		if m.ViolationVE {
			ve.Meaning = veWords(e)
		}
		out := []EntryField{{Bits: "2:0", Name: "access rights", Meaning: "none: the entry is not present; accesses are EPT violations"}}
		if m.ModeBasedExecute {
			return append(out, EntryField{Bits: "9:3", Name: "ignored", Value: uint64(e >> 3 & 0x7f), Meaning: "ignored"},
				EntryField{Bits: "10", Name: "execute, user mode", Meaning: "not allowed"},
				EntryField{Bits: "62:11", Name: "ignored", Value: uint64(e << 1 >> 12), Meaning: "ignored"}, ve)
		}
		return append(out, EntryField{Bits: "62:3", Name: "ignored", Value: uint64(e << 1 >> 4), Meaning: "ignored"}, ve)
	}
	return e.meanings(m, l)
}

// meanings are the fields of a present entry.
func (e Entry) meanings(m *Mode, l Level) []EntryField {
	out := make([]EntryField, 0, 20)
	leaf := e.Leaf(l)
	add := func(high, low uint, name, meaning, short string) {
		bits := strconv.Itoa(int(low))
		if high != low {
			bits = fmt.Sprintf("%d:%d", high, low)
		}
		out = append(out, EntryField{bits, name, uint64(e) >> low & (1<<(high-low+1) - 1), meaning, short})
	}
	// bit adds a bit with a meaning for each value; it is ignored unless it is used.
	bit := func(n uint, name string, used bool, no, yes, short string) {
		set := e>>n&1 != 0
		switch {
		case !used:
			add(n, n, name, "ignored", "")
		case set:
			add(n, n, name, yes, short)
		default:
			add(n, n, name, no, "")
		}
	}
	execute := "execute"
	if m.ModeBasedExecute {
		execute = "execute, supervisor mode"
	}
	bit(0, "read", true, "not allowed", "allowed", "")
	bit(1, "write", true, "not allowed", "allowed", "")
	bit(2, execute, true, "not allowed", "allowed", "")
	switch {
	case leaf:
		t := e.MemoryType()
		meaning := t.String()
		if !t.Valid() {
			meaning = "reserved"
		}
		add(5, 3, "memory type", meaning, "")
		bit(6, "ignore PAT", true, "the guest's PAT counts", "the guest's PAT does not count", "PAT ignored")
	case l > PDPTE:
		add(7, 3, "reserved", reservedWords(e>>3&31), "")
	default:
		add(6, 3, "reserved", reservedWords(e>>3&15), "")
	}
	switch {
	case l == PTE:
		bit(7, "large page", false, "", "", "")
	case l <= PDPTE:
		bit(7, "large page", true, "references a table", "maps "+sizeWords(l.PageSize()), "")
	}
	bit(8, "accessed", m.AccessedDirty, "not used yet", "used", "accessed")
	bit(9, "dirty", m.AccessedDirty && leaf, "not written yet", "written", "dirty")
	bit(10, "execute, user mode", m.ModeBasedExecute, "not allowed", "allowed", "")
	bit(11, "ignored", false, "", "", "")
	low := uint(12)
	if leaf && l > PTE {
		low = l.Shift()
		add(low-1, 12, "reserved", reservedWords(Entry(e.low(low))), "")
	}
	what := "of the table"
	if leaf {
		what = "of the page"
	}
	width := uint(m.PhysicalBits())
	add(width-1, low, "address", fmt.Sprintf("%#x %s", e.Address(l)&(m.PhysicalLimit()-1), what), "")
	if width < 52 {
		add(51, width, "reserved", reservedWords(e&addressMask>>width), "")
	}
	if !leaf {
		add(63, 52, "ignored", "ignored", "")
		return out
	}
	add(56, 52, "ignored", "ignored", "")
	bit(57, "verify guest paging", m.VerifyGuestPaging, "no", "paging structures on the way here must allow paging writes", "guest paging verified")
	bit(58, "paging write", m.PagingWrite, "no more than the write right", "accessed and dirty flags of the guest's paging structures can be set", "paging writes")
	bit(59, "ignored", false, "", "", "")
	bit(60, "supervisor shadow stack", m.SupervisorShadowStack, "not allowed", "allowed", "supervisor shadow stack")
	bit(61, "sub-page write", m.SubPageWrite && l == PTE, "no", "the sub-page permission table can allow writes", "sub-page writes")
	bit(62, "ignored", false, "", "", "")
	bit(63, "suppress #VE", m.ViolationVE, veWords(0), veWords(SuppressVE), veWords(SuppressVE))
	return out
}

// low is bits n-1:12 of an entry.
func (e Entry) low(n uint) uint64 { return uint64(e) & (1<<n - 1) >> 12 }

func reservedWords(v Entry) string {
	if v != 0 {
		return "reserved, and must be 0"
	}
	return "reserved"
}
