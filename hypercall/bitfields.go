package hypercall

import (
	"encoding"
	"fmt"
	"strconv"
	"strings"

	"github.com/govtx/vtx/internal/names"
)

//go:generate go run ./internal/genlayout

// A bitfield is a field of a word, as its text has it.
type bitfield struct {
	name         string
	shift, width uint8
	always       bool                                 // told even if 0
	text         func(v uint64) string                // of the value; nil for a number
	parse        func(s string) (v uint64, err error) // reads what text prints
}

func (f *bitfield) max() uint64 { return ^uint64(0) >> (64 - f.width) }

// reservedWord stands in texts before the bits of a word that no field has.
const reservedWord = "reserved"

// formatBits returns the fields of a word that are not 0, and "none" if there are
// none: "EnableVtlProtection, DefaultVtlProtectionMask 0xf, reserved 0x40000".
func formatBits(word uint64, fields []bitfield) string {
	b := make([]byte, 0, 64)
	comma := func() {
		if len(b) > 0 {
			b = append(b, ", "...)
		}
	}
	for i := range fields {
		f := &fields[i]
		v := word >> f.shift & f.max()
		word &^= f.max() << f.shift
		if v == 0 && !f.always {
			continue
		}
		comma()
		b = append(b, f.name...)
		switch {
		case f.width == 1:
		case f.text != nil:
			b = append(b, ' ')
			b = append(b, strings.ReplaceAll(f.text(v), ", ", "+")...)
		default:
			b = strconv.AppendUint(append(b, " 0x"...), v, 16)
		}
	}
	if word != 0 {
		comma()
		b = strconv.AppendUint(append(b, reservedWord+" 0x"...), word, 16)
	}
	if len(b) == 0 {
		return "none"
	}
	return string(b)
}

// parseBits reads what formatBits prints, the fields in any order and their names
// without regard to case, or a number of bits bits.
func parseBits(typ string, fields []bitfield, bits int, s string) (uint64, error) {
	s = strings.TrimSpace(s)
	if n, err := strconv.ParseUint(s, 0, bits); err == nil {
		return n, nil
	}
	if strings.EqualFold(s, "none") {
		return 0, nil
	}
	var word, seen uint64
	for part := range strings.SplitSeq(s, ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(part), " ")
		v, mask, err := parseBit(fields, bits, name, strings.TrimSpace(value))
		if err == nil && seen&mask != 0 {
			err = fmt.Errorf("it stands there twice")
		}
		if err != nil {
			return 0, fmt.Errorf("hypercall: %.80q in %.80q: %w: write a %s as a list of its fields, or as a number of %d bits", part, s, err, typ, bits)
		}
		word |= v
		seen |= mask
	}
	return word, nil
}

// parseBit returns a field's value in its place, and the bits that the field has.
func parseBit(fields []bitfield, bits int, name, value string) (v, mask uint64, err error) {
	reserved := ^uint64(0) >> (64 - bits)
	for i := range fields {
		f := &fields[i]
		mask := f.max() << f.shift
		reserved &^= mask
		if names.Squeeze(f.name) != names.Squeeze(name) {
			continue
		}
		if f.width == 1 {
			if value != "" {
				return 0, 0, fmt.Errorf("%s is one bit and has no value", f.name)
			}
			return mask, mask, nil
		}
		n, err := strconv.ParseUint(value, 0, 64)
		if err != nil && f.parse != nil {
			n, err = f.parse(strings.ReplaceAll(value, "+", ", "))
		}
		if err != nil || n > f.max() {
			return 0, 0, fmt.Errorf("%s takes a value of %d bits", f.name, f.width)
		}
		return n << f.shift, mask, nil
	}
	if !strings.EqualFold(name, reservedWord) {
		return 0, 0, fmt.Errorf("there is no field %.40q", name)
	}
	n, err := strconv.ParseUint(value, 0, 64)
	if err != nil || n&^reserved != 0 {
		return 0, 0, fmt.Errorf("only bits of %#x are reserved", reserved)
	}
	return n, n, nil
}

// textOf returns the text of a value of type T.
func textOf[T interface {
	~uint8 | ~uint16 | ~uint32 | ~uint64
	fmt.Stringer
}](v uint64) string {
	return T(v).String()
}

// parseOf reads the text of a value of type T.
func parseOf[T interface {
	~uint8 | ~uint16 | ~uint32 | ~uint64
}, P interface {
	*T
	encoding.TextUnmarshaler
}](s string) (uint64, error) {
	var v T
	err := P(&v).UnmarshalText([]byte(s))
	return uint64(v), err
}

// An enumName is a value of an enumeration and the manual's name for it.
type enumName struct {
	value uint64
	name  string
}

// formatEnum returns the name of v, and typ(0x...) if it has none. The names are in
// the order of their values.
func formatEnum(v uint64, typ string, list []enumName) string {
	for _, e := range list {
		if e.value == v {
			return e.name
		}
	}
	return typ + "(0x" + strconv.FormatUint(v, 16) + ")"
}

// parseEnum reads what formatEnum prints, without regard to case, or a number.
func parseEnum(s, typ string, list []enumName, bits int) (uint64, error) {
	s = strings.TrimSpace(s)
	for _, e := range list {
		if names.Squeeze(e.name) == names.Squeeze(s) {
			return e.value, nil
		}
	}
	number := s
	if inner, ok := strings.CutPrefix(s, typ+"("); ok {
		number = strings.TrimSuffix(inner, ")")
	}
	n, err := strconv.ParseUint(number, 0, bits)
	if err != nil {
		return 0, fmt.Errorf("hypercall: %.80q is no %s: write a name such as %s, or a number of %d bits", s, typ, list[0].name, bits)
	}
	return n, nil
}
