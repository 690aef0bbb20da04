package ept

import (
	"errors"
	"fmt"
)

// What errors of a [Space] and its views wrap. An operation that returns an error has
// changed nothing.
var (
	ErrEmpty        = errors.New("the size is 0: give at least 4096 bytes")
	ErrUnaligned    = errors.New("addresses and sizes must be multiples of 4096")
	ErrGuestWidth   = errors.New("the range reaches beyond the guest-physical addresses that EPT translates")
	ErrHostWidth    = errors.New("the range reaches beyond the physical addresses of the processor")
	ErrMapped       = errors.New("something is mapped there: unmap it first, or use Replace")
	ErrAttributes   = errors.New("bits that are no attributes of a page")
	ErrMisconfigure = errors.New("an entry would be misconfigured")
	ErrTypes        = errors.New("the source of memory types gives what EPT cannot express")
	ErrLevel        = errors.New("no such page size")
	ErrTablePage    = errors.New("the allocator gave a page that cannot be a table")
	ErrTooManyViews = errors.New("a space has at most 64 views: close one first")
	ErrClosed       = errors.New("the view is closed")
)

// A RangeError is why an operation on a range of guest-physical addresses was refused.
type RangeError struct {
	Op string // "Map"
	Range
	HPA    uint64 // where the range should have been mapped, if Mapped
	Mapped bool   // whether HPA has a meaning
	Err    error  // wraps one of the errors of this package, or is the allocator's
}

// Error returns the operation, the range and the rule.
func (e *RangeError) Error() string {
	s := fmt.Sprintf("ept: %s of %v", e.Op, e.Range)
	if e.Mapped {
		s += fmt.Sprintf(" to %#x", e.HPA)
	}
	return s + ": " + e.Err.Error()
}

// Unwrap returns Err.
func (e *RangeError) Unwrap() error { return e.Err }

// checkRange returns what is wrong with a range of guest-physical addresses.
func (s *Space) checkRange(gpa, size uint64) error {
	switch {
	case size == 0:
		return ErrEmpty
	case gpa%pageSize != 0:
		return fmt.Errorf("the guest-physical address %#x is unaligned: %w", gpa, ErrUnaligned)
	case size%pageSize != 0:
		return fmt.Errorf("the size %#x is unaligned: %w", size, ErrUnaligned)
	case gpa+size < gpa && gpa+size != 0:
		return fmt.Errorf("%#x bytes from %#x on wrap around 2^64: %w", size, gpa, ErrGuestWidth)
	case gpa >= s.guestLimit || size > s.guestLimit-gpa:
		what := fmt.Sprintf("MAXPHYADDR %d", s.mode.PhysicalAddressBits)
		if width := s.mode.TopLevel().Shift() + 9; s.guestLimit == 1<<width {
			what = fmt.Sprintf("the %d bits that %d levels translate", width, s.mode.TopLevel())
		}
		return fmt.Errorf("%w: they end at %#x, by %s", ErrGuestWidth, s.guestLimit, what)
	}
	return nil
}

// checkHost returns what is wrong with a range of physical addresses.
func (s *Space) checkHost(hpa, size uint64) error {
	switch {
	case hpa%pageSize != 0:
		return fmt.Errorf("the physical address %#x is unaligned: %w", hpa, ErrUnaligned)
	case hpa+size < hpa && hpa+size != 0:
		return fmt.Errorf("%#x bytes from physical address %#x on wrap around 2^64: %w", size, hpa, ErrHostWidth)
	case hpa >= s.hostLimit || size > s.hostLimit-hpa:
		return fmt.Errorf("%w: they end at %#x, by MAXPHYADDR %d", ErrHostWidth, s.hostLimit, s.mode.PhysicalBits())
	}
	return nil
}

// checkAttributes returns what is wrong with the attributes of pages.
func (s *Space) checkAttributes(attr Entry) error {
	if bad := attr &^ attributes; bad != 0 {
		return fmt.Errorf("%w: %#x; attributes are bits 6:0, 11:8 and 63:57", ErrAttributes, uint64(bad))
	}
	return s.checkLeaf(attr, PTE)
}

// checkLeaf returns the rule that the entry of a page breaks. The memory type matters
// even if nothing is allowed: rights can be given back later.
func (s *Space) checkLeaf(e Entry, l Level) error {
	if !e.MemoryType().Valid() {
		e |= Read
	}
	if r := s.mode.Misconfiguration(e, l); r != nil {
		return fmt.Errorf("%w: %#x: %v", ErrMisconfigure, uint64(e&attributes), r)
	}
	return nil
}
