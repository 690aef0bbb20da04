package vmcs

import (
	"fmt"
	"iter"
	"math/bits"
	"strconv"
	"strings"
)

// A Vector is the number of an interrupt or exception.
type Vector uint8

// Vectors of exceptions, and of the non-maskable interrupt (SDM Vol. 3A 6.3,
// table 6-1).
const (
	VectorDE  Vector = 0  // divide error
	VectorDB  Vector = 1  // debug
	VectorNMI Vector = 2  // non-maskable interrupt
	VectorBP  Vector = 3  // breakpoint: INT3
	VectorOF  Vector = 4  // overflow: INTO
	VectorBR  Vector = 5  // bound range exceeded
	VectorUD  Vector = 6  // undefined opcode
	VectorNM  Vector = 7  // no math coprocessor
	VectorDF  Vector = 8  // double fault
	VectorTS  Vector = 10 // invalid TSS
	VectorNP  Vector = 11 // segment not present
	VectorSS  Vector = 12 // stack-segment fault
	VectorGP  Vector = 13 // general protection
	VectorPF  Vector = 14 // page fault
	VectorMF  Vector = 16 // x87 floating-point error
	VectorAC  Vector = 17 // alignment check
	VectorMC  Vector = 18 // machine check
	VectorXM  Vector = 19 // SIMD floating-point exception
	VectorVE  Vector = 20 // virtualization exception
	VectorCP  Vector = 21 // control protection exception
)

var vectorNames = [...]string{
	"#DE", "#DB", "NMI", "#BP", "#OF", "#BR", "#UD", "#NM", "#DF", "", "#TS",
	"#NP", "#SS", "#GP", "#PF", "", "#MF", "#AC", "#MC", "#XM", "#VE", "#CP",
}

// String returns the mnemonic of an exception, such as #PF, and the number in hex
// for other vectors.
func (v Vector) String() string {
	if int(v) < len(vectorNames) && vectorNames[v] != "" {
		return vectorNames[v]
	}
	return "0x" + strconv.FormatUint(uint64(v), 16)
}

// HasErrorCode reports whether the exception with this vector comes with an error
// code: #DF, #TS, #NP, #SS, #GP, #PF, #AC and #CP (SDM Vol. 3A table 6-1). In real
// mode none does.
func (v Vector) HasErrorCode() bool {
	const with Exceptions = 1<<VectorDF | 1<<VectorTS | 1<<VectorNP | 1<<VectorSS | 1<<VectorGP | 1<<VectorPF | 1<<VectorAC | 1<<VectorCP
	return v < 32 && with>>v&1 != 0
}

// ParseVector reads a vector as String prints it, with or without the #, or as a
// number.
func ParseVector(s string) (Vector, error) {
	s = strings.TrimSpace(s)
	for v, name := range vectorNames {
		if name != "" && strings.EqualFold(strings.TrimPrefix(s, "#"), strings.TrimPrefix(name, "#")) {
			return Vector(v), nil
		}
	}
	n, err := strconv.ParseUint(s, 0, 8)
	if err != nil {
		return 0, fmt.Errorf("vmcs: %q is no vector: use a mnemonic such as #PF, or a number from 0 to 255", s)
	}
	return Vector(n), nil
}

// MarshalText returns what String does.
func (v Vector) MarshalText() ([]byte, error) { return []byte(v.String()), nil }

// UnmarshalText reads what ParseVector does.
func (v *Vector) UnmarshalText(text []byte) (err error) {
	*v, err = ParseVector(string(text))
	return err
}

// A VectorSet is a set of vectors, one bit each: vector n is bit n%64 of word
// n/64. It is what the EOI-exit bitmaps hold, and a posted-interrupt descriptor.
type VectorSet [4]uint64

// Has reports whether v is in the set.
func (s *VectorSet) Has(v Vector) bool { return s[v>>6]>>(v&63)&1 != 0 }

// Add puts vectors in.
func (s *VectorSet) Add(vectors ...Vector) {
	for _, v := range vectors {
		s[v>>6] |= 1 << (v & 63)
	}
}

// Remove takes vectors out.
func (s *VectorSet) Remove(vectors ...Vector) {
	for _, v := range vectors {
		s[v>>6] &^= 1 << (v & 63)
	}
}

// Len returns the number of vectors in the set.
func (s *VectorSet) Len() (n int) {
	for _, w := range s {
		n += bits.OnesCount64(w)
	}
	return n
}

// Highest returns the highest vector in the set, which is that of highest
// priority. It reports false if the set is empty.
func (s *VectorSet) Highest() (Vector, bool) {
	for i := len(s) - 1; i >= 0; i-- {
		if s[i] != 0 {
			return Vector(64*i + bits.Len64(s[i]) - 1), true
		}
	}
	return 0, false
}

// All yields the vectors in the set, ascending.
func (s *VectorSet) All() iter.Seq[Vector] {
	return func(yield func(Vector) bool) {
		for i, w := range s {
			for ; w != 0; w &= w - 1 {
				if !yield(Vector(64*i + bits.TrailingZeros64(w))) {
					return
				}
			}
		}
	}
}

// String lists the vectors in hex, such as "0x30-0x33, 0xef", or "none".
func (s VectorSet) String() string {
	return string(appendRuns(nil, 256, func(v uint32) bool { return s.Has(Vector(v)) }))
}

// ReadEOIExitBitmap reads the vectors of which an EOI causes a VM exit, from the
// fields [EOIExitBitmap0] to [EOIExitBitmap3] (SDM Vol. 3C 25.6.8). They count if
// the control [SecondaryVirtualInterruptDelivery] is 1.
func ReadEOIExitBitmap(r Reader) (s VectorSet, err error) {
	for i := range s {
		if s[i], err = r.Read(EOIExitBitmap0 + Field(2*i)); err != nil {
			return VectorSet{}, err
		}
	}
	return s, nil
}

// WriteEOIExitBitmap writes the vectors of which an EOI is to cause a VM exit.
func WriteEOIExitBitmap(w Writer, s VectorSet) error {
	for i := range s {
		if err := w.Write(EOIExitBitmap0+Field(2*i), s[i]); err != nil {
			return err
		}
	}
	return nil
}

// Exceptions is a set of exceptions, one bit for each of the vectors 0 to 31: the
// value of the field [ExceptionBitmap] (SDM Vol. 3C 25.6.3).
type Exceptions uint32

// ExceptionsOf returns the set of the given exceptions. Vectors above 31 are
// none.
func ExceptionsOf(vectors ...Vector) Exceptions { return Exceptions(0).With(vectors...) }

// Has reports whether v is in the set.
func (e Exceptions) Has(v Vector) bool { return v < 32 && e>>v&1 != 0 }

// With returns the set with the given exceptions too.
func (e Exceptions) With(vectors ...Vector) Exceptions {
	for _, v := range vectors {
		e |= 1 << v // 0 for vectors above 31
	}
	return e
}

// Without returns the set without the given exceptions.
func (e Exceptions) Without(vectors ...Vector) Exceptions {
	for _, v := range vectors {
		e &^= 1 << v
	}
	return e
}

// All yields the exceptions in the set, ascending.
func (e Exceptions) All() iter.Seq[Vector] {
	return func(yield func(Vector) bool) {
		for ; e != 0; e &= e - 1 {
			if !yield(Vector(bits.TrailingZeros32(uint32(e)))) {
				return
			}
		}
	}
}

// String lists the exceptions, such as "#DB, #UD, #PF", or "none".
func (e Exceptions) String() string {
	if e == 0 {
		return "none"
	}
	var b []byte
	for v := range e.All() {
		if len(b) > 0 {
			b = append(b, ", "...)
		}
		b = append(b, v.String()...)
	}
	return string(b)
}

// ParseExceptions reads a set as String prints it, or as a hexadecimal number
// with 0x that stands alone and is at least 0x20. A smaller number is a vector:
// write the bits out.
func ParseExceptions(s string) (e Exceptions, err error) {
	s = strings.TrimSpace(s)
	if s == "" || strings.EqualFold(s, "none") {
		return 0, nil
	}
	if n, err := strconv.ParseUint(s, 0, 32); err == nil && n >= 32 {
		return Exceptions(n), nil
	}
	for name := range strings.SplitSeq(s, ",") {
		v, err := ParseVector(name)
		if err != nil {
			return 0, err
		}
		if v >= 32 {
			return 0, fmt.Errorf("vmcs: vector %v is no exception: those have vectors up to 31", v)
		}
		e |= 1 << v
	}
	return e, nil
}

// MarshalText returns what String does.
func (e Exceptions) MarshalText() ([]byte, error) { return []byte(e.String()), nil }

// UnmarshalText reads what ParseExceptions does.
func (e *Exceptions) UnmarshalText(text []byte) (err error) {
	*e, err = ParseExceptions(string(text))
	return err
}

// An ExceptionFilter decides which exceptions in a guest cause VM exits
// (SDM Vol. 3C 25.6.3). Page faults are told apart by their error code: those
// with code&Mask == Match exit if #PF is in Exceptions, the others if it is not.
// Mask and Match 0 leave the decision to Exceptions alone.
type ExceptionFilter struct {
	Exceptions Exceptions // field ExceptionBitmap
	Mask       uint32     // field PageFaultErrorCodeMask
	Match      uint32     // field PageFaultErrorCodeMatch
}

// Intercepts reports whether an exception causes a VM exit. The code is looked at
// for #PF only. NMIs are no exceptions: [PinNMIExiting] is for them. An INT n
// instruction never counts as an exception, but INT1, INT3 and INTO raise #DB,
// #BP and #OF.
func (f ExceptionFilter) Intercepts(v Vector, code uint32) bool {
	if v == VectorNMI {
		return false
	}
	if v == VectorPF {
		return f.Exceptions.Has(v) == (code&f.Mask == f.Match)
	}
	return f.Exceptions.Has(v)
}

// ReadExceptionFilter reads the three fields.
func ReadExceptionFilter(r Reader) (ExceptionFilter, error) {
	var v [3]uint64
	for i, field := range [...]Field{ExceptionBitmap, PageFaultErrorCodeMask, PageFaultErrorCodeMatch} {
		var err error
		if v[i], err = r.Read(field); err != nil {
			return ExceptionFilter{}, err
		}
	}
	return ExceptionFilter{Exceptions(v[0]), uint32(v[1]), uint32(v[2])}, nil
}

// Write writes the three fields.
func (f ExceptionFilter) Write(w Writer) error {
	if err := w.Write(ExceptionBitmap, uint64(f.Exceptions)); err != nil {
		return err
	}
	if err := w.Write(PageFaultErrorCodeMask, uint64(f.Mask)); err != nil {
		return err
	}
	return w.Write(PageFaultErrorCodeMatch, uint64(f.Match))
}

// String prints the exceptions, and what page faults are told apart by.
func (f ExceptionFilter) String() string {
	s := f.Exceptions.String()
	if f.Mask|f.Match == 0 {
		return s
	}
	not := "not "
	if f.Exceptions.Has(VectorPF) {
		not = ""
	}
	return fmt.Sprintf("%s; #PF if its code is %s0x%x under the mask 0x%x", s, not, f.Match, f.Mask)
}
