package hypercall

import (
	"encoding"
	"errors"
	"fmt"
	"slices"
)

// A Structure lies in guest memory or in registers: an input or
// output of a call, a message, a part of a shared page. All are little-endian and
// have no gaps; what is reserved has fields, so that Get and Put are inverse on
// every pattern of bytes.
//
// A hypervisor uses Get, Put and ReservedZero, which do not allocate. The methods of
// package encoding are stricter: they refuse a length that is not Size and what is
// reserved and not 0. What the TLFS leaves as padding without a word on its contents
// is not reserved in this sense, and is kept.
type Structure interface {
	encoding.BinaryAppender
	encoding.BinaryMarshaler
	encoding.BinaryUnmarshaler

	// Size returns the length in bytes.
	Size() int

	// Get reads the structure from the beginning of b. It reports false, and reads
	// nothing, if b is shorter than Size.
	Get(b []byte) bool

	// Put writes the structure to the beginning of b. It reports false, and writes
	// nothing, if b is shorter than Size.
	Put(b []byte) bool

	// ReservedZero reports whether all that is reserved is 0.
	ReservedZero() bool

	// CheckReserved returns nil if all that is reserved is 0, and otherwise a
	// [*ReservedError] for the first that is not.
	CheckReserved() error
}

// ErrSize is the error of a structure whose bytes are too few or too many.
var ErrSize = errors.New("hypercall: wrong size")

// A ReservedError tells of a field with reserved bits that are not 0.
type ReservedError struct {
	Field  string // its name; with dots where a structure is in another
	Offset int    // in bytes, from the beginning of the innermost structure
	Bits   uint64 // those that are not 0, in their places
}

func (e *ReservedError) Error() string {
	return fmt.Sprintf("hypercall: the reserved bits %#x of %s are set (offset %d of its structure): they must be 0", e.Bits, e.Field, e.Offset)
}

func reservedError(field string, offset int, bits uint64) error {
	return &ReservedError{Field: field, Offset: offset, Bits: bits}
}

// inField tells that an error of an inner structure is in a field of an outer one.
func inField(field string, err error) error {
	if e := (*ReservedError)(nil); errors.As(err, &e) {
		return &ReservedError{Field: field + "." + e.Field, Offset: e.Offset, Bits: e.Bits}
	}
	return err
}

func appendLayout(b []byte, x Structure) ([]byte, error) {
	if err := x.CheckReserved(); err != nil {
		return b, err
	}
	n := len(b)
	b = slices.Grow(b, x.Size())[:n+x.Size()]
	x.Put(b[n:])
	return b, nil
}

func unmarshalLayout(name string, b []byte, x Structure) error {
	if len(b) != x.Size() {
		return fmt.Errorf("%w: a %s takes %d bytes, not %d", ErrSize, name, x.Size(), len(b))
	}
	x.Get(b)
	return x.CheckReserved()
}
