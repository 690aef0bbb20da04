package ept

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// A Pointer is an EPT pointer (EPTP), as the VMCS, EPTP lists and INVEPT descriptors
// have it (SDM Vol. 3C 25.6.11, table 25-9).
//
//	63    52 51        12 11  8  7   6  5  3  2  0
//	┌───────┬────────────┬─────┬───┬──┬─────┬─────┐
//	│   0   │  address   │  0  │SSS│AD│len-1│type │
//	└───────┴────────────┴─────┴───┴──┴─────┴─────┘
//
// The address is that of the root table; bits at and above MAXPHYADDR must be 0. type
// is the memory type of the tables themselves, UC or WB. len is the number of levels.
// AD enables accessed and dirty flags, SSS supervisor shadow-stack control.
type Pointer uint64

const (
	pointerAccessedDirty Pointer = 1 << 6
	pointerShadowStack   Pointer = 1 << 7
	pointerReserved      Pointer = 0xf << 8
	pointerLowBits       Pointer = 0xfff
)

// ErrPointer is what errors about EPT pointers wrap.
var ErrPointer = errors.New("VM entry refuses the EPT pointer")

// NewPointer returns the EPT pointer for a root table at a physical address, with the
// number of levels, the flags of the mode, and the memory type of the tables. That is
// WB if the processor supports it, as nearly all do, and else UC.
func NewPointer(m *Mode, root uint64) (Pointer, error) {
	if root&0xfff != 0 {
		return 0, fmt.Errorf("ept: the root table at %#x is not at a multiple of 4096", root)
	}
	p := Pointer(root) | Pointer(m.TopLevel()-1)<<3
	if m.Capabilities.WriteBack() {
		p |= Pointer(WB)
	}
	if m.AccessedDirty {
		p |= pointerAccessedDirty
	}
	if m.SupervisorShadowStack {
		p |= pointerShadowStack
	}
	return p, p.Validate(m)
}

// Address returns the physical address of the root table, bits 51:12.
func (p Pointer) Address() uint64 { return uint64(p) & uint64(addressMask) }

// MemoryType returns the memory type with which the tables are accessed, bits 2:0.
func (p Pointer) MemoryType() MemoryType { return MemoryType(p & 7) }

// Levels returns the number of levels, 1 to 8: bits 5:3, plus 1. Only 4 and 5 are
// valid.
func (p Pointer) Levels() int { return int(p>>3&7) + 1 }

// AccessedDirty reports whether EPT has accessed and dirty flags, bit 6.
func (p Pointer) AccessedDirty() bool { return p&pointerAccessedDirty != 0 }

// SupervisorShadowStack reports supervisor shadow-stack control, bit 7.
func (p Pointer) SupervisorShadowStack() bool { return p&pointerShadowStack != 0 }

// Validate checks the pointer as VM entry does (SDM Vol. 3C 27.2.1.1), by the
// capabilities and the physical-address width of the mode. Errors wrap
// [ErrPointer] and name the rule.
func (p Pointer) Validate(m *Mode) error {
	c := m.Capabilities
	fail := func(format string, args ...any) error {
		return fmt.Errorf("ept: %w %#x: %s (SDM Vol. 3C 27.2.1.1, Vol. 3D A.10)", ErrPointer, uint64(p), fmt.Sprintf(format, args...))
	}
	const capability = "IA32_VMX_EPT_VPID_CAP"
	switch t, n := p.MemoryType(), p.Levels(); {
	case t != UC && t != WB:
		return fail("the memory type in bits 2:0 is %v; it must be UC (0) or WB (6)", t)
	case t == UC && !c.Uncacheable():
		return fail("the memory type in bits 2:0 is UC, and %s[8] is 0", capability)
	case t == WB && !c.WriteBack():
		return fail("the memory type in bits 2:0 is WB, and %s[14] is 0", capability)
	case n != 4 && n != 5:
		return fail("bits 5:3 tell of %d levels; they must be 3 or 4, one less than the levels", n)
	case n == 4 && !c.Walk4():
		return fail("it has 4 levels, and %s[6] is 0", capability)
	case n == 5 && !c.Walk5():
		return fail("it has 5 levels, and %s[7] is 0", capability)
	case p.AccessedDirty() && !c.AccessedDirty():
		return fail("bit 6 (accessed and dirty flags) is 1, and %s[21] is 0", capability)
	case p.SupervisorShadowStack() && !c.SupervisorShadowStack():
		return fail("bit 7 (supervisor shadow stack) is 1, and %s[23] is 0", capability)
	case p&pointerReserved != 0:
		return fail("bits 11:8 must be 0")
	case uint64(p)>>m.PhysicalBits() != 0:
		return fail("the address has bits beyond the physical-address width of %d", m.PhysicalBits())
	}
	return nil
}

// String prints all fields: "0x1000 WB 4 levels, accessed and dirty flags". Reserved
// bits are shown as a number.
func (p Pointer) String() string {
	s := fmt.Sprintf("%#x %v %d levels", p.Address(), p.MemoryType(), p.Levels())
	if p.AccessedDirty() {
		s += ", " + pointerFlags[0].name
	}
	if p.SupervisorShadowStack() {
		s += ", " + pointerFlags[1].name
	}
	if r := uint64(p &^ (pointerLowBits &^ pointerReserved) &^ Pointer(addressMask)); r != 0 {
		s += fmt.Sprintf(", reserved %#x", r)
	}
	return s
}

var pointerFlags = [...]struct {
	bit  Pointer
	name string
}{{pointerAccessedDirty, "accessed and dirty flags"}, {pointerShadowStack, "supervisor shadow stack"}}

// ParsePointer reads what String prints, or the value as one number (which has the low
// bits in it: "0x105e").
func ParsePointer(s string) (Pointer, error) {
	head, tail, _ := strings.Cut(s, ",")
	words := strings.Fields(head)
	if len(words) == 1 && tail == "" {
		v, err := strconv.ParseUint(words[0], 0, 64)
		if err != nil {
			return 0, fmt.Errorf("ept: %q is no EPT pointer: want a number of 64 bits", s)
		}
		return Pointer(v), nil
	}
	fail := func(what string) (Pointer, error) {
		return 0, fmt.Errorf("ept: %q is no EPT pointer, for %s; want \"0x1000 WB 4 levels\", with flags behind commas", s, what)
	}
	if len(words) != 4 || words[3] != "levels" {
		return fail("its first part is not address, memory type and levels")
	}
	address, err := strconv.ParseUint(words[0], 0, 64)
	if err != nil || address&^uint64(addressMask) != 0 {
		return fail("the address " + words[0])
	}
	t, err := ParseMemoryType(words[1])
	if err != nil || t > 7 {
		return fail("the memory type " + words[1])
	}
	n, err := strconv.ParseUint(words[2], 10, 8)
	if err != nil || n < 1 || n > 8 {
		return fail("the number of levels " + words[2])
	}
	p := Pointer(address) | Pointer(t) | Pointer(n-1)<<3
parts:
	for part := range strings.SplitSeq(tail, ",") {
		part = strings.TrimSpace(part)
		if part == "" {
			continue
		}
		for _, f := range pointerFlags {
			if part == f.name {
				p |= f.bit
				continue parts
			}
		}
		number, ok := strings.CutPrefix(part, "reserved ")
		v, err := strconv.ParseUint(number, 0, 64)
		if !ok || err != nil || Pointer(v)&(pointerLowBits&^pointerReserved|Pointer(addressMask)) != 0 {
			return fail("the part " + strconv.Quote(part))
		}
		p |= Pointer(v)
	}
	return p, nil
}

// MarshalText returns what String does.
func (p Pointer) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText is [ParsePointer].
func (p *Pointer) UnmarshalText(text []byte) (err error) {
	*p, err = ParsePointer(string(text))
	return err
}
