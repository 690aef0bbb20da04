package vmcs

import (
	"errors"
	"fmt"
	"strings"
)

// Settle returns the value for a field of control bits: the bits that must be 1,
// the wanted ones, and of the optional ones those that the processor has and
// that are not forbidden. All other bits are 0.
//
// If the processor lacks a wanted bit, forces a forbidden one to 1, or a bit is
// both wanted and forbidden, then the error is a *[SettleError] that names each.
// Bits that must be 1, of the default1 class or reserved, need not be wanted.
func Settle[C Controls](c *Capabilities, wanted, optional, forbidden C) (C, error) {
	v, err := c.SettleBits(wanted.ControlGroup(), uint64(wanted), uint64(optional), uint64(forbidden))
	return C(v), err
}

// SettleBits is [Settle] for a group that is known at run time only.
func (c *Capabilities) SettleBits(g ControlGroup, wanted, optional, forbidden uint64) (uint64, error) {
	if !g.Valid() {
		return 0, fmt.Errorf("vmcs: %v is no group of controls", g)
	}
	a := c.Controls[g]
	lacking, forced, both := wanted&^a.May1, forbidden&a.Must1, wanted&forbidden
	if lacking|forced|both != 0 {
		return 0, &SettleError{Group: g, Lacking: lacking, Forced: forced, Contradictory: both, NoGroup: a.May1 == 0}
	}
	return a.Must1 | wanted | optional&a.May1&^forbidden, nil
}

// A SettleError tells why there is no value for a field of control bits. It is
// an [errors.ErrUnsupported] if the processor is the reason.
type SettleError struct {
	Group         ControlGroup
	Lacking       uint64 // wanted, but the processor does not have them
	Forced        uint64 // forbidden, but the processor wants them to be 1
	Contradictory uint64 // wanted and forbidden
	NoGroup       bool   // the processor has none of the group's controls
}

// Error names each bit, and what the matter with it is.
func (e *SettleError) Error() string {
	var s strings.Builder
	fmt.Fprintf(&s, "vmcs: %v: ", e.Group)
	sep := ""
	for _, part := range []struct {
		bits uint64
		text string
	}{
		{e.Lacking, "wanted, but this processor does not have: "},
		{e.Forced, "forbidden, but this processor wants them to be 1: "},
		{e.Contradictory, "both wanted and forbidden: "},
	} {
		if part.bits != 0 {
			s.WriteString(sep + part.text + controlString(e.Group, part.bits))
			sep = "; "
		}
	}
	if e.NoGroup && e.Lacking != 0 {
		s.WriteString(" (it has none of the " + e.Group.String() + ")")
	}
	return s.String()
}

// Is reports whether target is [errors.ErrUnsupported] and the processor is the
// reason.
func (e *SettleError) Is(target error) bool {
	return target == errors.ErrUnsupported && e.Lacking|e.Forced != 0
}
