package vmcs

import (
	"fmt"
	"iter"
	"strconv"
	"strings"
	"sync"

	"github.com/govtx/vtx/internal/names"
)

// A Field is the encoding of a VMCS field, the operand of VMREAD and VMWRITE
// (SDM Vol. 3C 25.11.2, table 25-21):
//
//	31    15 14 13 12 11  10 9       1   0
//	┌───────┬─────┬──┬──────┬─────────┬──────┐
//	│   0   │width│ 0│ type │  index  │access│
//	└───────┴─────┴──┴──────┴─────────┴──────┘
//
// Access 1 is the high half of a 64-bit field.
type Field uint32

// A Width is the width of a field, as in bits 14:13 of its encoding.
type Width uint8

// Widths of fields.
const (
	Width16      Width = 0
	Width64      Width = 1
	Width32      Width = 2
	WidthNatural Width = 3 // 64 bits on processors with Intel 64 architecture
)

var widthNames = [4]string{"16", "64", "32", "natural"}

// String returns 16, 64, 32 or natural.
func (w Width) String() string {
	if int(w) < len(widthNames) {
		return widthNames[w]
	}
	return fmt.Sprintf("Width(%d)", uint8(w))
}

// Bits returns the number of bits: 16, 32 or 64. Natural width is 64 bits.
func (w Width) Bits() int {
	switch w {
	case Width16:
		return 16
	case Width32:
		return 32
	}
	return 64
}

// Mask has the bits that a field of this width can hold.
func (w Width) Mask() uint64 { return ^uint64(0) >> (64 - w.Bits()) }

// A FieldType is the area that a field belongs to, as in bits 11:10 of its
// encoding.
type FieldType uint8

// Types of fields.
const (
	Control         FieldType = 0
	ExitInformation FieldType = 1
	GuestState      FieldType = 2
	HostState       FieldType = 3
)

var fieldTypeNames = [4]string{"control", "exit information", "guest state", "host state"}

// String returns control, exit information, guest state or host state.
func (t FieldType) String() string {
	if int(t) < len(fieldTypeNames) {
		return fieldTypeNames[t]
	}
	return fmt.Sprintf("FieldType(%d)", uint8(t))
}

// FieldOf returns the encoding of the field with the given width, type and
// index (0 to 511).
func FieldOf(w Width, t FieldType, index int) Field {
	return Field(w&3)<<13 | Field(t&3)<<10 | Field(index&0x1ff)<<1
}

// Width returns the width of the whole field, for a high half too.
func (f Field) Width() Width { return Width(f >> 13 & 3) }

// Type returns the area that the field belongs to.
func (f Field) Type() FieldType { return FieldType(f >> 10 & 3) }

// Index returns the number of the field among those of its width and type.
func (f Field) Index() int { return int(f >> 1 & 0x1ff) }

// High tells whether f is the high half of a 64-bit field.
func (f Field) High() bool { return f&1 != 0 }

// Full returns the field without the choice of a half.
func (f Field) Full() Field { return f &^ 1 }

// HighHalf returns the encoding of bits 63:32 of a 64-bit field. Other fields
// have none; Valid is then false.
func (f Field) HighHalf() Field { return f | 1 }

// Valid tells whether f has the form of an encoding: no reserved bit, and access
// to a high half only for a 64-bit field. There may still be no such field.
func (f Field) Valid() bool {
	const reserved = ^Field(0x6fff)
	return f&reserved == 0 && (f&1 == 0 || f.Width() == Width64)
}

// Known tells whether f, or the field that it is the high half of, is in this
// package's table.
func (f Field) Known() bool { return f.slot() >= 0 }

// ReadOnly tells whether f is a VM-exit information field. VMWRITE to one fails
// unless IA32_VMX_MISC[29] is 1.
func (f Field) ReadOnly() bool { return f.Type() == ExitInformation }

// slot returns the place of the field in fieldTable and in an Image, or -1 if it
// is not known. High halves have the place of the whole field.
func (f Field) slot() int {
	const used = 0x6c7f // of the index, the low 6 bits
	if f&^used != 0 || f&1 != 0 && f.Width() != Width64 {
		return -1
	}
	return int(slotTable[f>>5&0x300|f>>4&0xc0|f>>1&0x3f]) - 1
}

// A fieldRow is what the table has about one field.
type fieldRow struct {
	field              Field
	name, sdm, section string
	note               string
	depends            [2]dependency // any one suffices; none: every processor has it
}

// A dependency is what announces that a processor has a field.
type dependency struct {
	kind   dependencyKind
	group  ControlGroup
	number uint8
}

type dependencyKind uint8

const (
	always      dependencyKind = iota
	control                    // the 1-setting of bit number of group
	cr3Targets                 // at least number CR3-target values (IA32_VMX_MISC[24:16])
	unannounced                // no VMX capability MSR tells
)

func (d dependency) String() string {
	switch d.kind {
	case control:
		b, _ := d.group.Bit(int(d.number))
		return fmt.Sprintf("%q of the %v", b.SDMName, d.group)
	case cr3Targets:
		return fmt.Sprintf("%d or more CR3-target values (IA32_VMX_MISC[24:16])", d.number)
	case unannounced:
		return "something that no VMX capability MSR announces"
	}
	return ""
}

func (f Field) row() *fieldRow {
	if s := f.slot(); s >= 0 {
		return &fieldTable[s]
	}
	return nil
}

// String returns the field's name in Go, with High for a high half, and
// Field(0x...) if it is not known.
func (f Field) String() string {
	r := f.row()
	if r == nil {
		return fmt.Sprintf("Field(%#x)", uint32(f))
	}
	if f.High() {
		return r.name + "High"
	}
	return r.name
}

// SDMName returns the field's name in SDM Vol. 3D, appendix B, as far as that
// can be told in one line, and Field(0x...) if it is not known.
func (f Field) SDMName() string {
	r := f.row()
	if r == nil {
		return f.String()
	}
	if f.High() {
		return r.sdm + " (high)"
	}
	return r.sdm
}

// Section returns the section of SDM Vol. 3C that describes the field, or "" if
// the field is not known or only another document describes it; see Note.
func (f Field) Section() string {
	if r := f.row(); r != nil {
		return r.section
	}
	return ""
}

// Note returns what else is to be said of the field: other names, other
// documents. It is mostly empty.
func (f Field) Note() string {
	if r := f.row(); r != nil {
		return r.note
	}
	return ""
}

// Depends tells in words which capability a processor must have for the field to
// exist. It is "" for fields that every processor has, and for unknown ones.
func (f Field) Depends() string {
	r := f.row()
	if r == nil {
		return ""
	}
	var words []string
	for _, d := range r.depends {
		if d.kind != always {
			words = append(words, d.String())
		}
	}
	return strings.Join(words, " or ")
}

// Supported tells whether a processor with these capabilities has the field: it
// is known, and the processor supports the 1-setting of a control that it belongs
// to (SDM Vol. 3D, appendix B). A field that no capability MSR announces counts as
// missing.
func (f Field) Supported(c *Capabilities) bool {
	r := f.row()
	if r == nil {
		return false
	}
	if r.depends[0].kind == always {
		return true
	}
	for _, d := range r.depends {
		switch d.kind {
		case control:
			if c.Controls[d.group].May1>>d.number&1 != 0 {
				return true
			}
		case cr3Targets:
			if c.Misc.CR3Targets() >= int(d.number) {
				return true
			}
		}
	}
	return false
}

// Fields returns all known fields in ascending order, without high halves.
func Fields() iter.Seq[Field] {
	return func(yield func(Field) bool) {
		for i := range fieldTable {
			if !yield(fieldTable[i].field) {
				return
			}
		}
	}
}

// fieldNames has the names of the fields in lower case without what sets words
// apart, so that "Guest CR0", "guest_cr0" and "GuestCR0" are one.
var fieldNames = sync.OnceValue(func() map[string]Field {
	all := make(map[string]Field, 4*fieldCount)
	for i := range fieldTable {
		r := &fieldTable[i]
		for _, name := range []string{r.name, r.sdm} {
			all[names.Squeeze(name)] = r.field
			if r.field.Width() == Width64 {
				all[names.Squeeze(name+"High")] = r.field.HighHalf()
			}
		}
	}
	return all
})

// ParseField reads a field as String or SDMName print it, without regard to case,
// spaces, hyphens and underscores, or its encoding in hexadecimal with 0x. The
// encoding need not be of a known field.
func ParseField(s string) (Field, error) {
	s = strings.TrimSpace(s)
	if inner, ok := strings.CutPrefix(s, "Field("); ok {
		s = strings.TrimSuffix(inner, ")")
	}
	if f, ok := fieldNames()[names.Squeeze(s)]; ok {
		return f, nil
	}
	if hex, ok := strings.CutPrefix(strings.ToLower(s), "0x"); ok {
		n, err := strconv.ParseUint(hex, 16, 32)
		if err != nil {
			return 0, fmt.Errorf("vmcs: %q is not an encoding of at most 32 bits in hexadecimal", short(s))
		}
		return Field(n), nil
	}
	return 0, fmt.Errorf("vmcs: no field is called %q: use a name as in the manual (Guest CR0) or in Go (GuestCR0), or an encoding (0x6800)", short(s))
}

// MarshalText returns the name, as String does.
func (f Field) MarshalText() ([]byte, error) { return []byte(f.String()), nil }

// UnmarshalText reads what ParseField reads.
func (f *Field) UnmarshalText(text []byte) error {
	v, err := ParseField(string(text))
	if err == nil {
		*f = v
	}
	return err
}
