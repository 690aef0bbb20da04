package vmcs

import (
	"fmt"
	"iter"
)

// A FieldBitmap is the page at [VMREADBitmap] or [VMWRITEBitmap]: it says which
// VMREADs, or VMWRITEs, of a guest cause VM exits, if the control
// [SecondaryVMCSShadowing] is 1 (SDM Vol. 3C 25.6.15). The others go to the
// shadow VMCS at [VMCSLinkPointer]. A 1 intercepts. Bit n is for the field with
// encoding n; a field's high half has a bit of its own.
type FieldBitmap [4096]byte

// FieldBitmapOf returns the bitmap that a page of 4096 bytes holds, in place.
func FieldBitmapOf(mem []byte) (*FieldBitmap, error) {
	p, err := pageOf("a VMREAD or VMWRITE bitmap", mem)
	return (*FieldBitmap)(p), err
}

const fieldBits = 8 * uint32(len(FieldBitmap{}))

// Intercepts reports whether a guest's VMREAD or VMWRITE exits whose register
// operand, the one that names the field, is encoding. It always does if a bit
// above 14 is set (SDM Vol. 3C 26.1.3). Outside of 64-bit mode the operand has
// 32 bits.
func (m *FieldBitmap) Intercepts(encoding uint64) bool {
	return encoding >= uint64(fieldBits) || bitSet(m[:], uint32(encoding))
}

// Intercept makes accesses to fields exit. Those with an encoding above 0x7fff do
// anyway.
func (m *FieldBitmap) Intercept(fields ...Field) {
	for _, f := range fields {
		if uint32(f) < fieldBits {
			fillBits(m[:], uint32(f), uint32(f), true)
		}
	}
}

// Pass lets accesses to fields through to the shadow VMCS. It fails without any
// change if the page does not cover all of them.
func (m *FieldBitmap) Pass(fields ...Field) error {
	for _, f := range fields {
		if uint32(f) >= fieldBits {
			return fmt.Errorf("vmcs: an access to field 0x%x always exits: the bitmap covers encodings up to 0x7fff", uint32(f))
		}
	}
	for _, f := range fields {
		fillBits(m[:], uint32(f), uint32(f), false)
	}
	return nil
}

// InterceptAll makes all accesses exit.
func (m *FieldBitmap) InterceptAll() { fillBits(m[:], 0, fieldBits-1, true) }

// PassAll lets accesses through to all encodings up to 0x7fff.
func (m *FieldBitmap) PassAll() { clear(m[:]) }

// All yields the intercepted encodings up to 0x7fff, ascending. They need not be
// those of known fields.
func (m *FieldBitmap) All() iter.Seq[Field] {
	return func(yield func(Field) bool) {
		for f := range fieldBits {
			if bitSet(m[:], f) && !yield(Field(f)) {
				return
			}
		}
	}
}

// Passed yields the encodings up to 0x7fff that are not intercepted, ascending.
func (m *FieldBitmap) Passed() iter.Seq[Field] {
	return func(yield func(Field) bool) {
		for f := range fieldBits {
			if !bitSet(m[:], f) && !yield(Field(f)) {
				return
			}
		}
	}
}

// String lists the intercepted encodings up to 0x7fff in hex, such as
// "0x0-0x6801, 0x6803-0x7fff", or "none".
func (m *FieldBitmap) String() string {
	return string(appendRuns(nil, fieldBits, func(i uint32) bool { return bitSet(m[:], i) }))
}
