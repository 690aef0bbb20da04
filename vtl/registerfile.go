package vtl

import (
	"cmp"
	"encoding/binary"
	"slices"

	"github.com/govtx/vtx/hypercall"
)

// A RegisterFile holds registers in memory, for tests and tools. All are 0 until they are
// set. Shared registers are one for all levels of a processor, see [StateOf].
type RegisterFile struct {
	list []registerEntry // in order
}

type registerEntry struct {
	vp    uint32
	level VTL
	name  hypercall.Register
	value Value
}

func (a registerEntry) compare(b registerEntry) int {
	return cmp.Or(cmp.Compare(a.vp, b.vp), cmp.Compare(a.level, b.level), cmp.Compare(a.name, b.name))
}

// NewRegisterFile returns an empty one.
func NewRegisterFile() *RegisterFile { return new(RegisterFile) }

func (f *RegisterFile) find(vp uint32, level VTL, name hypercall.Register) (registerEntry, int, bool) {
	e := registerEntry{vp: vp, level: level, name: name}
	if StateOf(name) == Shared {
		e.level = hypercall.InvalidVTL
	}
	i, ok := slices.BinarySearchFunc(f.list, e, registerEntry.compare)
	return e, i, ok
}

// Register returns the value of a register.
func (f *RegisterFile) Register(vp uint32, level VTL, name hypercall.Register) (Value, hypercall.Status) {
	if !name.Known() {
		return Value{}, hypercall.StatusInvalidParameter
	}
	if _, i, ok := f.find(vp, level, name); ok {
		return f.list[i].value, hypercall.StatusSuccess
	}
	return Value{}, hypercall.StatusSuccess
}

// SetRegister changes the value of a register.
func (f *RegisterFile) SetRegister(vp uint32, level VTL, name hypercall.Register, v Value) hypercall.Status {
	if !name.Known() {
		return hypercall.StatusInvalidParameter
	}
	e, i, ok := f.find(vp, level, name)
	e.value = v
	switch {
	case ok && v == Value{}:
		f.list = slices.Delete(f.list, i, i+1)
	case ok:
		f.list[i] = e
	case v != Value{}:
		f.list = slices.Insert(f.list, i, e)
	}
	return hypercall.StatusSuccess
}

// Clone returns a copy.
func (f *RegisterFile) Clone() Registers { return &RegisterFile{slices.Clone(f.list)} }

// Reset sets all registers to 0.
func (f *RegisterFile) Reset() { f.list = nil }

// AppendState appends the values.
func (f *RegisterFile) AppendState(b []byte) []byte {
	le := binary.LittleEndian
	b = le.AppendUint32(b, uint32(len(f.list)))
	for _, e := range f.list {
		b = le.AppendUint32(b, e.vp)
		b = le.AppendUint32(append(b, byte(e.level)), uint32(e.name))
		b = le.AppendUint64(b, e.value.Low)
		b = le.AppendUint64(b, e.value.High)
	}
	return b
}
