package vmcs

import (
	"iter"
	"math/bits"
)

// An Image holds the values of VMCS fields in memory: a VMCS being put together,
// a parsed dump, a snapshot. It has a place for each known field, of which any
// may be absent. The zero Image has none. Images can be copied and compared.
//
// Its layout has nothing to do with a processor's VMCS region, which only VMREAD
// and VMWRITE can read.
type Image struct {
	values  [fieldCount]uint64
	present [(fieldCount + 63) / 64]uint64
}

// Snapshot reads all known fields that r has.
func Snapshot(r Reader) *Image {
	m, _ := snapshot(r)
	return m
}

// snapshot returns the last error of r's, too. The VM-instruction error comes
// first: a VMREAD of a field that the processor lacks fails, and changes it.
func snapshot(r Reader) (m *Image, failure error) {
	m = new(Image)
	read := func(f Field) {
		v, err := r.Read(f)
		if err != nil {
			failure = err
			return
		}
		m.Set(f, v)
	}
	read(VMInstructionErrorNumber)
	for f := range Fields() {
		if f != VMInstructionErrorNumber {
			read(f)
		}
	}
	return m, failure
}

func (m *Image) has(slot int) bool { return m.present[slot/64]>>(slot%64)&1 != 0 }

func (m *Image) set(slot int, v uint64) {
	m.values[slot] = v & fieldTable[slot].field.Width().Mask()
	m.present[slot/64] |= 1 << (slot % 64)
}

// Read returns the value of the field. It fails with ErrAbsent if the field has
// never been written, and ErrUnsupported if it is not known.
func (m *Image) Read(f Field) (uint64, error) {
	s := f.slot()
	if s < 0 {
		return 0, fieldError("read", f, ErrUnsupported)
	}
	if !m.has(s) {
		return 0, fieldError("read", f, ErrAbsent)
	}
	if f.High() {
		return m.values[s] >> 32, nil
	}
	return m.values[s], nil
}

// Get returns the value of the field, and whether it is there.
func (m *Image) Get(f Field) (uint64, bool) {
	s := f.slot()
	if s < 0 || !m.has(s) {
		return 0, false
	}
	if f.High() {
		return m.values[s] >> 32, true
	}
	return m.values[s], true
}

// Write sets the value of the field, without the bits beyond its width. A high
// half that is written first has a low half of 0. VM-exit information can be
// written. It fails with ErrUnsupported if the field is not known.
func (m *Image) Write(f Field, v uint64) error {
	s := f.slot()
	if s < 0 {
		return fieldError("write", f, ErrUnsupported)
	}
	if f.High() {
		v = v<<32 | m.values[s]&0xffffffff
	}
	m.set(s, v)
	return nil
}

// Set is Write for fields that are known to be known: it panics for others.
func (m *Image) Set(f Field, v uint64) {
	if err := m.Write(f, v); err != nil {
		panic(err)
	}
}

// Has tells whether the field is there.
func (m *Image) Has(f Field) bool {
	s := f.slot()
	return s >= 0 && m.has(s)
}

// Delete makes the field absent.
func (m *Image) Delete(f Field) {
	if s := f.slot(); s >= 0 {
		m.values[s] = 0
		m.present[s/64] &^= 1 << (s % 64)
	}
}

// Reset makes all fields absent.
func (m *Image) Reset() { *m = Image{} }

// Len returns the number of fields that are there.
func (m *Image) Len() int {
	n := 0
	for _, w := range m.present {
		n += bits.OnesCount64(w)
	}
	return n
}

// All returns the fields that are there and their values, in ascending order.
func (m *Image) All() iter.Seq2[Field, uint64] {
	return func(yield func(Field, uint64) bool) {
		for i := range fieldTable {
			if m.has(i) && !yield(fieldTable[i].field, m.values[i]) {
				return
			}
		}
	}
}

// Fill sets every field that a processor with these capabilities has, and that is
// absent, to 0.
func (m *Image) Fill(c *Capabilities) {
	for i := range fieldTable {
		if !m.has(i) && fieldTable[i].field.Supported(c) {
			m.set(i, 0)
		}
	}
}
