package vmcs

import (
	"fmt"
	"iter"
	"math/bits"
	"strconv"
	"strings"
)

// Controls are the types of control bits: one for each VMCS field of them.
type Controls interface {
	PinControls | PrimaryControls | SecondaryControls | TertiaryControls |
		ExitControls | SecondaryExitControls | EntryControls | VMFunctions
	ControlGroup() ControlGroup
	String() string
}

// A ControlGroup is one of the VMCS fields of control bits.
type ControlGroup uint8

// A controlGroup is what is known of a group.
type controlGroup struct {
	key, title, prefix  string
	width               uint8
	field, msr, trueMSR uint16 // trueMSR is 0 if there is none
	default1            uint64
}

// A controlName is what is known of a bit; it is empty for a bit without a name.
type controlName struct{ name, sdm, section, note string }

// A ControlBit describes a named bit.
type ControlBit struct {
	Group   ControlGroup
	Bit     int    // 0 to 63
	Name    string // the Go constant: "PinNMIExiting"
	SDMName string // "NMI exiting"
	Section string // of SDM Vol. 3C; empty if revision 084 does not have the bit
	Note    string // what the bit does when it is 1
}

// Valid reports whether g is one of the groups.
func (g ControlGroup) Valid() bool { return g < NumControlGroups }

// String returns the SDM's name in the plural, as "VM-entry controls".
func (g ControlGroup) String() string {
	if !g.Valid() {
		return "ControlGroup(" + strconv.Itoa(int(g)) + ")"
	}
	return controlGroups[g].title
}

// Key returns a short name: pin, primary, secondary, tertiary, exit, exit2,
// entry or vmfunc.
func (g ControlGroup) Key() string {
	if !g.Valid() {
		return g.String()
	}
	return controlGroups[g].key
}

// MarshalText returns g's key. It fails for a group that is not one.
func (g ControlGroup) MarshalText() ([]byte, error) {
	if !g.Valid() {
		return nil, fmt.Errorf("vmcs: %v is no group of controls; the last is %d", g, NumControlGroups-1)
	}
	return []byte(g.Key()), nil
}

// UnmarshalText reads what [ParseControlGroup] reads.
func (g *ControlGroup) UnmarshalText(text []byte) error {
	v, err := ParseControlGroup(string(text))
	if err == nil {
		*g = v
	}
	return err
}

// ParseControlGroup reads a group's key or its name in the SDM; case does not
// matter.
func ParseControlGroup(s string) (ControlGroup, error) {
	for g := range ControlGroup(NumControlGroups) {
		if strings.EqualFold(s, g.Key()) || strings.EqualFold(s, g.String()) {
			return g, nil
		}
	}
	var keys []string
	for g := range ControlGroup(NumControlGroups) {
		keys = append(keys, g.Key())
	}
	return 0, fmt.Errorf("vmcs: there is no group of controls %q; want one of %s", short(s), strings.Join(keys, ", "))
}

// Width returns the number of bits: 32 or 64, and 0 for a group that is not
// one.
func (g ControlGroup) Width() int {
	if !g.Valid() {
		return 0
	}
	return int(controlGroups[g].width)
}

// Field returns the VMCS field that holds the controls.
func (g ControlGroup) Field() Field {
	if !g.Valid() {
		return ^Field(0)
	}
	return Field(controlGroups[g].field)
}

// Default1 returns the default1 class: bits that are 1 on processors without
// the TRUE capability MSRs (SDM Vol. 3D A.2). Most of them are reserved.
func (g ControlGroup) Default1() uint64 {
	if !g.Valid() {
		return 0
	}
	return controlGroups[g].default1
}

// Bits returns the named bits, ascending.
func (g ControlGroup) Bits() iter.Seq[ControlBit] {
	return func(yield func(ControlBit) bool) {
		if !g.Valid() {
			return
		}
		for i := range controlNames[g] {
			if b, ok := g.Bit(i); ok && !yield(b) {
				return
			}
		}
	}
}

// Bit describes bit n; ok is false for a bit without a name.
func (g ControlGroup) Bit(n int) (b ControlBit, ok bool) {
	if !g.Valid() || n < 0 || n > 63 || controlNames[g][n].name == "" {
		return ControlBit{}, false
	}
	c := &controlNames[g][n]
	return ControlBit{g, n, c.name, c.sdm, c.section, c.note}, true
}

// AppendBits appends the list of the bits of value that are 1, as the String
// methods of the types of controls print it.
func (g ControlGroup) AppendBits(b []byte, value uint64) []byte { return appendControls(b, g, value) }

// noControls is how 0 prints.
const noControls = "none"

// appendControls lists the bits of value: the named ones by the names of the
// SDM, then the others as "bit 26".
func appendControls(b []byte, g ControlGroup, value uint64) []byte {
	if value == 0 {
		return append(b, noControls...)
	}
	var named uint64
	var names *[64]controlName
	if g.Valid() {
		names = &controlNames[g]
		for v := value; v != 0; v &= v - 1 {
			i := bits.TrailingZeros64(v)
			if s := names[i].sdm; s != "" {
				if named != 0 {
					b = append(b, ", "...)
				}
				b = append(b, s...)
				named |= 1 << i
			}
		}
	}
	for v := value &^ named; v != 0; v &= v - 1 {
		if v != value {
			b = append(b, ", "...)
		}
		b = append(b, "bit "...)
		b = strconv.AppendUint(b, uint64(bits.TrailingZeros64(v)), 10)
	}
	return b
}

func controlString(g ControlGroup, value uint64) string {
	var room [256]byte
	return string(appendControls(room[:0], g, value))
}

// ParseControls reads a list of controls: what the String method prints, with
// the SDM's names or those of the Go constants, "bit 26", or hexadecimal
// values as 0x80; separated by commas, vertical bars or line ends. In names,
// case, blanks and punctuation do not matter.
func ParseControls[C Controls](s string) (C, error) {
	var c C
	v, err := c.ControlGroup().ParseBits(s)
	return C(v), err
}

func unmarshalControls[C Controls](c *C, text []byte) error {
	v, err := ParseControls[C](string(text))
	if err == nil {
		*c = v
	}
	return err
}

// ParseBits is [ParseControls] for a group that is known at run time only.
func (g ControlGroup) ParseBits(s string) (uint64, error) {
	if !g.Valid() {
		return 0, fmt.Errorf("vmcs: %v is no group of controls", g)
	}
	var value uint64
	if strings.TrimSpace(s) == noControls {
		return 0, nil
	}
	for token := range strings.FieldsFuncSeq(s, func(r rune) bool { return strings.ContainsRune(",|\n", r) }) {
		token = strings.TrimSpace(token)
		v, err := g.parseToken(token)
		if err != nil {
			return 0, err
		}
		value |= v
	}
	if strings.Trim(s, ",|\n\r\t ") == "" {
		return 0, fmt.Errorf("vmcs: %v: the list is empty; write %q for no control", g, noControls)
	}
	return value, nil
}

// parseToken reads one element of a list of controls.
func (g ControlGroup) parseToken(token string) (uint64, error) {
	if token == "" {
		return 0, nil
	}
	if hex, ok := cutPrefixFold(token, "0x"); ok {
		v, err := strconv.ParseUint(strings.ReplaceAll(hex, "_", ""), 16, 64)
		if err != nil || v>>(g.Width()-1)>>1 != 0 {
			return 0, fmt.Errorf("vmcs: %v: %q is not a hexadecimal number of %d bits", g, short(token), g.Width())
		}
		return v, nil
	}
	if n, ok := cutPrefixFold(token, "bit"); ok {
		if bit, err := strconv.ParseUint(strings.TrimSpace(n), 10, 8); err == nil {
			if int(bit) >= g.Width() {
				return 0, fmt.Errorf("vmcs: %v: there is no %q; the bits are 0 to %d", g, token, g.Width()-1)
			}
			return 1 << bit, nil
		}
	}
	word := bareName(token)
	for i := range controlNames[g] {
		if c := &controlNames[g][i]; c.name != "" && g.named(c, word) {
			return 1 << i, nil
		}
	}
	err := fmt.Sprintf("vmcs: %v: there is no control %q", g, short(token))
	if near := g.near(word); near != "" {
		err += "; did you mean " + near + "?"
	}
	return 0, fmt.Errorf("%s", err)
}

// named reports whether word, which bareName made, is a name of c: the SDM's,
// the Go constant's, or the latter without the group's prefix.
func (g ControlGroup) named(c *controlName, word string) bool {
	name := bareName(c.name)
	return word == bareName(c.sdm) || word == name || word == name[len(controlGroups[g].prefix):]
}

// near returns up to three names that are like word, which bareName made.
func (g ControlGroup) near(word string) string {
	if len(word) < 3 || len(word) > 64 {
		return ""
	}
	var like []string
	for b := range g.Bits() {
		sdm := bareName(b.SDMName)
		if d := editDistance(sdm, word); d <= 2 || d <= len(word)/4 || strings.Contains(sdm, word) {
			like = append(like, strconv.Quote(b.SDMName))
		}
	}
	if len(like) > 3 {
		like = like[:3]
	}
	return strings.Join(like, " or ")
}

// bareName returns the letters and digits of a name, in lower case.
func bareName(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case 'A' <= r && r <= 'Z':
			return r - 'A' + 'a'
		case 'a' <= r && r <= 'z', '0' <= r && r <= '9':
			return r
		}
		return -1
	}, s)
}

// editDistance counts the letters to insert, delete or replace to turn a into
// b (Levenshtein).
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		left := row[0]
		row[0] = i + 1
		for j := range len(b) {
			d := left
			if a[i] != b[j] {
				d++
			}
			left = row[j+1]
			row[j+1] = min(d, left+1, row[j]+1)
		}
	}
	return row[len(b)]
}

func cutPrefixFold(s, prefix string) (string, bool) {
	if len(s) < len(prefix) || !strings.EqualFold(s[:len(prefix)], prefix) {
		return s, false
	}
	return s[len(prefix):], true
}

// short cuts a text from outside for an error message.
func short(s string) string {
	const most = 80
	if len(s) > most {
		return s[:most] + "..."
	}
	return s
}
