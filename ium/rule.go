package ium

import (
	"errors"
	"fmt"
)

// A Rule is the short name of a rule that an image, its policy or another structure has
// to follow. It is what a [FormatError] and a [Reason] name.
type Rule string

// A FormatError tells which rule the bytes of a file break, and where.
type FormatError struct {
	Offset int64  // in the file, of the value that breaks the rule; -1 if it has no place there
	Rule   Rule   // the rule
	Detail string // the value and what is wrong with it
}

// Error returns all of it: "offset 0x3c: e_lfanew is ...: rule pe-signature".
func (e *FormatError) Error() string {
	if e.Offset < 0 {
		return fmt.Sprintf("%s: rule %s", e.Detail, e.Rule)
	}
	return fmt.Sprintf("offset %#x: %s: rule %s", e.Offset, e.Detail, e.Rule)
}

// readerError returns an error that is not about what a file holds: the reader's.
func readerError(err error) error {
	if errors.As(err, new(*FormatError)) {
		return nil
	}
	return err
}

// broken returns a *FormatError.
func broken(offset int64, rule Rule, format string, args ...any) error {
	return &FormatError{offset, rule, fmt.Sprintf(format, args...)}
}
