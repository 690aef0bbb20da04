package vmcs

import (
	"errors"
	"fmt"
)

// A Reader reads VMCS fields. Values have the field's width in their low bits;
// access to a high half gives bits 63:32 of the field in bits 31:0.
//
// Read fails with an error that is ErrUnsupported if there is no such field, and
// ErrAbsent if the source does not have its value.
type Reader interface {
	Read(Field) (uint64, error)
}

// A Writer writes VMCS fields. Bits of the value beyond the field's width are
// ignored, as VMWRITE does, and access to a high half leaves the low one alone.
//
// Write fails with an error that is ErrUnsupported if there is no such field, and
// ErrReadOnly if it cannot be written.
type Writer interface {
	Write(Field, uint64) error
}

// A ReadWriter both reads and writes.
type ReadWriter interface {
	Reader
	Writer
}

// Errors of Readers and Writers. They come wrapped, with the field's name.
var (
	ErrUnsupported = errors.New("the field is not supported here")
	ErrReadOnly    = errors.New("the field is read-only: it has VM-exit information, and IA32_VMX_MISC[29] is 0")
	ErrAbsent      = errors.New("the field's value is not there")
	ErrWidth       = errors.New("the field has another width")
)

// A FieldError says what went wrong with which field.
type FieldError struct {
	Op    string // "read" or "write"
	Field Field
	Err   error
}

func (e *FieldError) Error() string {
	return fmt.Sprintf("vmcs: %s of %v (%#04x): %v", e.Op, e.Field, uint32(e.Field), e.Err)
}

// Unwrap returns the cause.
func (e *FieldError) Unwrap() error { return e.Err }

func fieldError(op string, f Field, err error) error { return &FieldError{op, f, err} }

func checkWidth(op string, f Field, w Width) error {
	if f.High() {
		if w == Width32 && f.Width() == Width64 {
			return nil
		}
	} else if f.Width() == w {
		return nil
	}
	return fieldError(op, f, fmt.Errorf("%w: it is %v, not %v bits wide", ErrWidth, f.Width(), w))
}

// Read16 reads a 16-bit field. A field of another width is refused with
// ErrWidth.
func Read16(r Reader, f Field) (uint16, error) {
	v, err := readWidth(r, f, Width16)
	return uint16(v), err
}

// Read32 reads a 32-bit field, or the high half of a 64-bit one.
func Read32(r Reader, f Field) (uint32, error) {
	v, err := readWidth(r, f, Width32)
	return uint32(v), err
}

// Read64 reads a 64-bit field.
func Read64(r Reader, f Field) (uint64, error) { return readWidth(r, f, Width64) }

// ReadNatural reads a natural-width field.
func ReadNatural(r Reader, f Field) (uint64, error) { return readWidth(r, f, WidthNatural) }

func readWidth(r Reader, f Field, w Width) (uint64, error) {
	if err := checkWidth("read", f, w); err != nil {
		return 0, err
	}
	return r.Read(f)
}

// Write16 writes a 16-bit field. A field of another width is refused with
// ErrWidth.
func Write16(w Writer, f Field, v uint16) error { return writeWidth(w, f, uint64(v), Width16) }

// Write32 writes a 32-bit field, or the high half of a 64-bit one.
func Write32(w Writer, f Field, v uint32) error { return writeWidth(w, f, uint64(v), Width32) }

// Write64 writes a 64-bit field.
func Write64(w Writer, f Field, v uint64) error { return writeWidth(w, f, v, Width64) }

// WriteNatural writes a natural-width field.
func WriteNatural(w Writer, f Field, v uint64) error { return writeWidth(w, f, v, WidthNatural) }

func writeWidth(w Writer, f Field, v uint64, width Width) error {
	if err := checkWidth("write", f, width); err != nil {
		return err
	}
	return w.Write(f, v)
}

// Copy writes every field that src has to dst, and skips those that src does not
// have or does not know. VM-exit information is not copied: it is the processor's.
// It stops at the first error of dst.
func Copy(dst Writer, src Reader) error {
	for i := range fieldTable {
		f := fieldTable[i].field
		if f.ReadOnly() {
			continue
		}
		v, err := src.Read(f)
		if errors.Is(err, ErrAbsent) || errors.Is(err, ErrUnsupported) {
			continue
		}
		if err == nil {
			err = dst.Write(f, v)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
