package hypercall

import (
	"fmt"
	"strconv"
	"strings"
)

// Partitions and virtual processors that hypercalls name (TLFS, data types
// HV_PARTITION_ID and HV_VP_INDEX).
const (
	PartitionInvalid = uint64(0)
	PartitionSelf    = ^uint64(0) // the caller's own partition

	VPAny  = uint32(0xffffffff) // any processor
	VPSelf = uint32(0xfffffffe) // the processor that calls
	AnyVP  = VPAny
)

// A VTL is a virtual trust level, 0 to 15 (TLFS, data type HV_VTL).
type VTL uint8

// Levels, and values that are none.
const (
	VTL0 VTL = iota
	VTL1
	VTL2

	NumVTLs = 16 // as many as the architecture has; a partition offers fewer

	// AllVTLs stands for all levels where a call's documentation says so. It is
	// the number of level 15, too.
	AllVTLs    VTL = 0xf
	InvalidVTL VTL = 0xff
)

// Valid reports whether v is a level, 0 to 15.
func (v VTL) Valid() bool { return v < NumVTLs }

// String returns VTL0 to VTL15, and VTL(n) for what is no level.
func (v VTL) String() string {
	if v.Valid() {
		return "VTL" + strconv.Itoa(int(v))
	}
	return "VTL(" + strconv.Itoa(int(v)) + ")"
}

// ParseVTL reads what String prints, without regard to case, or a number from 0 to
// 255.
func ParseVTL(s string) (VTL, error) {
	number := strings.TrimSpace(s)
	if len(number) > 3 && strings.EqualFold(number[:3], "VTL") {
		number = number[3:]
		if inner, ok := strings.CutPrefix(number, "("); ok {
			number = strings.TrimSuffix(inner, ")")
		}
	}
	n, err := strconv.ParseUint(number, 0, 8)
	if err != nil {
		return 0, fmt.Errorf("hypercall: %.80q is no virtual trust level: write VTL0 to VTL15, or a number up to 255", s)
	}
	return VTL(n), nil
}

// MarshalText returns what String does.
func (v VTL) MarshalText() ([]byte, error) { return []byte(v.String()), nil }

// UnmarshalText reads what ParseVTL does.
func (v *VTL) UnmarshalText(text []byte) error { return unmarshal(v, ParseVTL, text) }

// An InputVTL is how calls name a level: one that it gives, or the caller's own
// (TLFS, data type HV_INPUT_VTL).
//
//	 7     5   4   3      0
//	┌───────┬─────┬────────┐
//	│   0   │ use │ target │
//	└───────┴─────┴────────┘
type InputVTL uint8

// Bits of an InputVTL.
const (
	InputVTLUseTarget InputVTL = 1 << 4 // the target counts; otherwise the level that calls does
	InputVTLReserved  InputVTL = 7 << 5 // must be 0
)

// TargetVTL returns the InputVTL that names level v, of which the low 4 bits count.
func TargetVTL(v VTL) InputVTL { return InputVTLUseTarget | InputVTL(v&0xf) }

// Target returns the level in bits 3:0. It counts only if UseTarget is true.
func (i InputVTL) Target() VTL { return VTL(i & 0xf) }

// UseTarget reports whether Target is meant, not the level that calls: bit 4.
func (i InputVTL) UseTarget() bool { return i&InputVTLUseTarget != 0 }

// Reserved returns the bits that must be 0, in their places.
func (i InputVTL) Reserved() uint8 { return uint8(i & InputVTLReserved) }

// Of returns the level that is meant when level active calls.
func (i InputVTL) Of(active VTL) VTL {
	if i.UseTarget() {
		return i.Target()
	}
	return active
}

// String returns "VTL1" if level 1 is named, "own" if the caller's is meant, and
// after them what is 1 or given all the same: "own, target 1, reserved 0x20".
func (i InputVTL) String() string {
	s := "own"
	if i.UseTarget() {
		s = i.Target().String()
	} else if i.Target() != 0 {
		s += ", target " + strconv.Itoa(int(i.Target()))
	}
	if r := i.Reserved(); r != 0 {
		s += ", reserved 0x" + strconv.FormatUint(uint64(r), 16)
	}
	return s
}

// ParseInputVTL reads what String prints, or a number from 0 to 255.
func ParseInputVTL(s string) (InputVTL, error) {
	if n, err := strconv.ParseUint(strings.TrimSpace(s), 0, 8); err == nil {
		return InputVTL(n), nil
	}
	bad := func() (InputVTL, error) {
		return 0, fmt.Errorf("hypercall: %.80q names no level for a call: write \"VTL1\", \"own\" for the caller's, or a number up to 255", s)
	}
	first, rest, more := strings.Cut(s, ",")
	var i InputVTL
	if first = strings.TrimSpace(first); first != "own" {
		v, err := ParseVTL(first)
		if err != nil || !v.Valid() {
			return bad()
		}
		i = TargetVTL(v)
	}
	for more {
		var part string
		part, rest, more = strings.Cut(rest, ",")
		name, digits, _ := strings.Cut(strings.TrimSpace(part), " ")
		n, err := strconv.ParseUint(digits, 0, 8)
		v := InputVTL(n)
		if err != nil || i&v != 0 || !(name == "target" && v < NumVTLs && !i.UseTarget() || name == "reserved" && v&^InputVTLReserved == 0) {
			return bad()
		}
		i |= v
	}
	return i, nil
}

// MarshalText returns what String does.
func (i InputVTL) MarshalText() ([]byte, error) { return []byte(i.String()), nil }

// UnmarshalText reads what ParseInputVTL does.
func (i *InputVTL) UnmarshalText(text []byte) error { return unmarshal(i, ParseInputVTL, text) }
