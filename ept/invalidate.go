package ept

import (
	"errors"
	"fmt"
	"strings"

	"github.com/govtx/vtx/vmcs"
)

// An Invalidation is what a change of the tables asks of the caller, on each processor
// that uses them (SDM Vol. 3C 29.4.3.4). Greater ones include lesser ones, so that
// what several changes ask for is the maximum: see [Invalidation.Or].
type Invalidation uint8

// Invalidations.
const (
	NoInvalidation Invalidation = iota // processors have nothing cached that is wrong
	SingleContext                      // INVEPT, single-context, with the EPT pointer of the changed view
	AllContexts                        // INVEPT, all-context, or single-context with each EPT pointer that leads to the tables
)

var invalidationNames = [...]string{"none", "single-context", "all-context"}

// Or returns what two changes ask for together.
func (i Invalidation) Or(j Invalidation) Invalidation { return max(i, j) }

// String returns "none", "single-context" or "all-context".
func (i Invalidation) String() string {
	if int(i) >= len(invalidationNames) {
		return fmt.Sprintf("Invalidation(%d)", uint8(i))
	}
	return invalidationNames[i]
}

// MarshalText returns what String does.
func (i Invalidation) MarshalText() ([]byte, error) { return []byte(i.String()), nil }

// UnmarshalText reads what String prints.
func (i *Invalidation) UnmarshalText(text []byte) error {
	for v, name := range invalidationNames {
		if strings.EqualFold(name, string(text)) {
			*i = Invalidation(v)
			return nil
		}
	}
	return fmt.Errorf("ept: %q is no invalidation: want none, single-context or all-context", text)
}

// INVEPT returns the type and the descriptor for [asm.INVEPT] that fulfils what is
// asked for, for the view that p leads to. Where the processor lacks the
// single-context type it is the all-context type. ok is false if nothing is to be done.
//
// [asm.INVEPT]: https://pkg.go.dev/github.com/govtx/vtx/asm#INVEPT
func (i Invalidation) INVEPT(p Pointer, c vmcs.EPTVPID) (kind INVEPTType, d Descriptor, ok bool) {
	switch {
	case i == NoInvalidation:
		return 0, Descriptor{}, false
	case i == SingleContext && c.INVEPTSingleContext():
		return INVEPTSingleContext, INVEPTDescriptor(p), true
	}
	return INVEPTAllContexts, Descriptor{}, true
}

// A Descriptor is the operand in memory of INVEPT or INVVPID: 128 bits, the low half
// first (SDM Vol. 3C 31.3). A *Descriptor converts to the *[2]uint64 of package asm.
//
//	INVEPT   word 0: EPT pointer                        word 1: 0
//	INVVPID  word 0: VPID in bits 15:0, the rest 0      word 1: linear address
type Descriptor [2]uint64

// INVEPTDescriptor returns the descriptor for the mappings of an EPT pointer.
func INVEPTDescriptor(p Pointer) Descriptor { return Descriptor{uint64(p)} }

// INVVPIDDescriptor returns the descriptor for the mappings of a VPID, and for the
// type INVVPIDAddress those of a linear address.
func INVVPIDDescriptor(vpid uint16, linear uint64) Descriptor {
	return Descriptor{uint64(vpid), linear}
}

// Pointer returns the EPT pointer in an INVEPT descriptor.
func (d *Descriptor) Pointer() Pointer { return Pointer(d[0]) }

// VPID returns the VPID in an INVVPID descriptor.
func (d *Descriptor) VPID() uint16 { return uint16(d[0]) }

// LinearAddress returns the linear address in an INVVPID descriptor.
func (d *Descriptor) LinearAddress() uint64 { return d[1] }

// ErrInvalidation is what errors about operands of INVEPT and INVVPID wrap. The
// instruction fails for them with VM-instruction error 28.
var ErrInvalidation = errors.New("invalid operand to INVEPT or INVVPID")

func invalidationError(instruction, format string, args ...any) error {
	return fmt.Errorf("ept: %w: %s: %s (SDM Vol. 3C 31.3 %s)", ErrInvalidation, instruction, fmt.Sprintf(format, args...), instruction)
}

// An INVEPTType is the register operand of INVEPT.
type INVEPTType uint64

// Types of INVEPT.
const (
	INVEPTSingleContext INVEPTType = 1 // mappings derived from one root table, that of the descriptor's EPT pointer
	INVEPTAllContexts   INVEPTType = 2 // mappings derived from any root table
)

// String returns the manual's name of the type.
func (t INVEPTType) String() string {
	switch t {
	case INVEPTSingleContext:
		return "single-context"
	case INVEPTAllContexts:
		return "all-context"
	}
	return fmt.Sprintf("INVEPTType(%#x)", uint64(t))
}

// ParseINVEPTType reads what String prints for the types that there are.
func ParseINVEPTType(s string) (INVEPTType, error) {
	for t := INVEPTSingleContext; t <= INVEPTAllContexts; t++ {
		if strings.EqualFold(s, t.String()) {
			return t, nil
		}
	}
	return 0, fmt.Errorf("ept: %q is no type of INVEPT: want single-context or all-context", s)
}

// Supports reports whether the processor has the type: IA32_VMX_EPT_VPID_CAP[20], and
// [25] or [26].
func (t INVEPTType) Supports(c vmcs.EPTVPID) bool {
	switch t {
	case INVEPTSingleContext:
		return c.INVEPT() && c.INVEPTSingleContext()
	case INVEPTAllContexts:
		return c.INVEPT() && c.INVEPTAllContexts()
	}
	return false
}

// Validate checks the operands as the instruction does. m tells of the processor;
// which controls are in use does not matter.
func (t INVEPTType) Validate(d *Descriptor, m *Mode) error {
	switch {
	case !m.Capabilities.INVEPT():
		return invalidationError("INVEPT", "IA32_VMX_EPT_VPID_CAP[20] is 0: the instruction raises #UD")
	case !t.Supports(m.Capabilities):
		return invalidationError("INVEPT", "the processor does not support type %d (%v): see IA32_VMX_EPT_VPID_CAP[26:25]", uint64(t), t)
	case t == INVEPTSingleContext:
		if err := d.Pointer().Validate(m); err != nil {
			return invalidationError("INVEPT", "%v", err)
		}
	}
	// The second word is reserved. The manual's pseudocode does not test it, so that
	// this is stricter than some processors.
	if d[1] != 0 {
		return invalidationError("INVEPT", "bits 127:64 of the descriptor are %#x, and must be 0", d[1])
	}
	return nil
}

// An INVVPIDType is the register operand of INVVPID.
type INVVPIDType uint64

// Types of INVVPID.
const (
	INVVPIDAddress                       INVVPIDType = 0 // one linear address of a VPID
	INVVPIDSingleContext                 INVVPIDType = 1 // all of a VPID
	INVVPIDAllContexts                   INVVPIDType = 2 // all of any VPID but 0
	INVVPIDSingleContextRetainingGlobals INVVPIDType = 3 // all of a VPID but global translations
)

var invvpidNames = [...]string{"individual-address", "single-context", "all-context", "single-context-retaining-globals"}

// String returns the manual's name of the type.
func (t INVVPIDType) String() string {
	if t >= INVVPIDType(len(invvpidNames)) {
		return fmt.Sprintf("INVVPIDType(%#x)", uint64(t))
	}
	return invvpidNames[t]
}

// ParseINVVPIDType reads what String prints for the types that there are.
func ParseINVVPIDType(s string) (INVVPIDType, error) {
	for t, name := range invvpidNames {
		if strings.EqualFold(s, name) {
			return INVVPIDType(t), nil
		}
	}
	return 0, fmt.Errorf("ept: %q is no type of INVVPID: want %s", s, strings.Join(invvpidNames[:], ", "))
}

// Supports reports whether the processor has the type: IA32_VMX_EPT_VPID_CAP[32], and
// one of [43:40].
func (t INVVPIDType) Supports(c vmcs.EPTVPID) bool {
	if !c.INVVPID() {
		return false
	}
	switch t {
	case INVVPIDAddress:
		return c.INVVPIDAddress()
	case INVVPIDSingleContext:
		return c.INVVPIDSingleContext()
	case INVVPIDAllContexts:
		return c.INVVPIDAllContexts()
	case INVVPIDSingleContextRetainingGlobals:
		return c.INVVPIDSingleContextRetainingGlobals()
	}
	return false
}

// Validate checks the operands as the instruction does. linearBits is the width of
// linear addresses: 48, or 57 on processors with 5-level paging.
func (t INVVPIDType) Validate(d *Descriptor, c vmcs.EPTVPID, linearBits uint8) error {
	switch {
	case !c.INVVPID():
		return invalidationError("INVVPID", "IA32_VMX_EPT_VPID_CAP[32] is 0: the instruction raises #UD")
	case !t.Supports(c):
		return invalidationError("INVVPID", "the processor does not support type %d (%v): see IA32_VMX_EPT_VPID_CAP[43:40]", uint64(t), t)
	case d[0]>>16 != 0:
		return invalidationError("INVVPID", "bits 63:16 of the descriptor are %#x, and must be 0", d[0]>>16)
	case t != INVVPIDAllContexts && d.VPID() == 0:
		return invalidationError("INVVPID", "type %v needs a VPID other than 0", t)
	case t == INVVPIDAddress && !canonical(d.LinearAddress(), linearBits):
		return invalidationError("INVVPID", "the linear address %#x is not canonical: bits 63:%d must be equal", d.LinearAddress(), linearBits-1)
	}
	return nil
}

// canonical reports whether the bits of an address above a width repeat its highest one.
// Widths that do not exist are the nearest that do.
func canonical(addr uint64, bits uint8) bool {
	shift := 64 - min(max(bits, 1), 64)
	return uint64(int64(addr<<shift)>>shift) == addr
}
