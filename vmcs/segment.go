package vmcs

import (
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"
)

// AccessRights are a segment's attributes as the guest-state area has them
// (SDM Vol. 3C 25.4.1, table 25-2).
//
//	31   17   16    15 14  13 12  11  8 7 6  5 4 3    0
//	┌─────┬────────┬──┬───┬──┬───┬─────┬─┬────┬─┬──────┐
//	│  0  │unusable│G │D/B│L │AVL│  0  │P│DPL │S│ type │
//	└─────┴────────┴──┴───┴──┴───┴─────┴─┴────┴─┴──────┘
//
// Bits 15:12 and 7:0 are those of the upper half of a segment descriptor, 8 lower.
type AccessRights uint32

// Bits of AccessRights. For the types of code and data segments see [SegmentType].
const (
	RightsS        AccessRights = 1 << 4  // code or data; a system segment if 0
	RightsP        AccessRights = 1 << 7  // present
	RightsAVL      AccessRights = 1 << 12 // for software
	RightsL        AccessRights = 1 << 13 // 64-bit mode; of CS only
	RightsDB       AccessRights = 1 << 14 // 32-bit operands, addresses, or stack pointer
	RightsG        AccessRights = 1 << 15 // the limit counts in units of 4 KiB
	RightsUnusable AccessRights = 1 << 16 // the register holds a null selector

	rightsDescriptor AccessRights = 0xf0ff // what comes from a descriptor
)

// A SegmentType is the type of a segment: bits 3:0 of its AccessRights. What it
// means depends on the S bit. Bits of code and data segments (SDM Vol. 3A table
// 3-1) can be combined, those of system segments (table 3-2) are numbers.
type SegmentType uint8

// Types of segments.
const (
	TypeAccessed   SegmentType = 1 << 0
	TypeWritable   SegmentType = 1 << 1 // of a data segment
	TypeExpandDown SegmentType = 1 << 2 // of a data segment
	TypeReadable   SegmentType = 1 << 1 // of a code segment
	TypeConforming SegmentType = 1 << 2 // of a code segment
	TypeCode       SegmentType = 1 << 3

	TypeTSS16Available SegmentType = 1
	TypeLDT            SegmentType = 2
	TypeTSS16Busy      SegmentType = 3
	TypeTSSAvailable   SegmentType = 9  // 32-bit; 64-bit in IA-32e mode
	TypeTSSBusy        SegmentType = 11 // 32-bit; 64-bit in IA-32e mode
)

// Rights returns the rights of a present segment of this type: of a code or data
// segment, with S, or a system segment.
func Rights(t SegmentType, codeOrData bool, dpl uint8) AccessRights {
	r := AccessRights(t&15) | AccessRights(dpl&3)<<5 | RightsP
	if codeOrData {
		r |= RightsS
	}
	return r
}

// Type returns the type.
func (r AccessRights) Type() SegmentType { return SegmentType(r & 15) }

// DPL returns the descriptor privilege level.
func (r AccessRights) DPL() uint8 { return uint8(r >> 5 & 3) }

// Unusable reports whether the register cannot be used; the other bits, and base
// and limit, then mostly mean nothing.
func (r AccessRights) Unusable() bool { return r&RightsUnusable != 0 }

// Present reports whether the segment is present.
func (r AccessRights) Present() bool { return r&RightsP != 0 }

// Code reports whether it is a code segment.
func (r AccessRights) Code() bool {
	return r&(RightsS|AccessRights(TypeCode)) == RightsS|AccessRights(TypeCode)
}

// Data reports whether it is a data segment.
func (r AccessRights) Data() bool { return r&(RightsS|AccessRights(TypeCode)) == RightsS }

// System reports whether it is a system segment, such as an LDT or TSS.
func (r AccessRights) System() bool { return r&RightsS == 0 }

// RightsFromLAR returns the rights for what the LAR instruction returned for a
// selector: its ZF, and its result, which has the rights in bits 23:20 and 15:8.
// ZF clear means that there is no segment to be used.
func RightsFromLAR(result uint32, zf bool) AccessRights {
	if !zf {
		return RightsUnusable
	}
	return AccessRights(result>>8) & rightsDescriptor
}

// LAR returns what the LAR instruction would, for [RightsFromLAR].
func (r AccessRights) LAR() (result uint32, zf bool) {
	if r.Unusable() {
		return 0, false
	}
	return uint32(r&rightsDescriptor) << 8, true
}

var (
	codeDataNames = [16]string{
		"read-only", "read-only accessed", "read/write", "read/write accessed",
		"read-only expand-down", "read-only expand-down accessed", "read/write expand-down", "read/write expand-down accessed",
		"execute-only", "execute-only accessed", "execute/read", "execute/read accessed",
		"execute-only conforming", "execute-only conforming accessed", "execute/read conforming", "execute/read conforming accessed",
	}
	systemNames = [16]string{
		"system type 0", "16-bit TSS available", "LDT", "16-bit TSS busy",
		"16-bit call gate", "task gate", "16-bit interrupt gate", "16-bit trap gate",
		"system type 8", "TSS available", "system type 10", "TSS busy",
		"call gate", "system type 13", "interrupt gate", "trap gate",
	}
)

var rightsFlags = [...]struct {
	bit  AccessRights
	name string
}{
	{RightsP, "P"}, {RightsAVL, "AVL"}, {RightsL, "L"}, {RightsDB, "D/B"}, {RightsG, "G"}, {RightsUnusable, "unusable"},
}

const rightsNamed = rightsDescriptor | RightsUnusable

// String describes all bits: the type, the DPL, the flags that are 1, reserved
// bits that are 1. For example "execute/read accessed, DPL 0, P, L, G".
func (r AccessRights) String() string {
	if r == RightsUnusable {
		return "unusable"
	}
	types := &systemNames
	if r&RightsS != 0 {
		types = &codeDataNames
	}
	b := append([]byte(types[r.Type()]), ", DPL "...)
	b = append(b, '0'+r.DPL())
	for _, f := range rightsFlags {
		if r&f.bit != 0 {
			b = append(append(b, ", "...), f.name...)
		}
	}
	for n := range 32 {
		if r&^rightsNamed>>n&1 != 0 {
			b = strconv.AppendInt(append(b, ", bit "...), int64(n), 10)
		}
	}
	return string(b)
}

// ParseAccessRights reads what String prints, or a number. What is not mentioned is
// 0.
func ParseAccessRights(s string) (AccessRights, error) {
	s = strings.TrimSpace(s)
	if n, err := strconv.ParseUint(s, 0, 32); err == nil {
		return AccessRights(n), nil
	}
	var r AccessRights
	for token := range strings.SplitSeq(s, ",") {
		v, ok := parseRight(strings.TrimSpace(token))
		if !ok {
			return 0, fmt.Errorf("vmcs: %q in %q is no part of access rights: write them as \"execute/read accessed, DPL 0, P, L, G\", or as a number", token, s)
		}
		r |= v
	}
	return r, nil
}

func parseRight(token string) (AccessRights, bool) {
	for _, f := range rightsFlags {
		if token == f.name {
			return f.bit, true
		}
	}
	for t := range AccessRights(16) {
		switch token {
		case codeDataNames[t]:
			return t | RightsS, true
		case systemNames[t]:
			return t, true
		}
	}
	if digits, ok := strings.CutPrefix(token, "DPL "); ok {
		n, err := strconv.ParseUint(digits, 10, 2)
		return AccessRights(n) << 5, err == nil
	}
	n, ok := parseBit(token, 32)
	return 1 << n, ok
}

// MarshalText returns what String does.
func (r AccessRights) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText reads what ParseAccessRights does.
func (r *AccessRights) UnmarshalText(text []byte) (err error) {
	*r, err = ParseAccessRights(string(text))
	return err
}

// A Segment is the content of a segment register, the hidden part included, as in
// the guest-state area (SDM Vol. 3C 25.4.1). Limit is the offset of the last byte,
// whatever the G bit says.
type Segment struct {
	Selector uint16
	Rights   AccessRights
	Limit    uint32
	Base     uint64
}

// String prints the segment as Linux' KVM does, and then its rights in words.
func (s Segment) String() string {
	return fmt.Sprintf("sel=0x%04x, attr=0x%05x, limit=0x%08x, base=0x%016x (%v)", s.Selector, uint32(s.Rights), s.Limit, s.Base, s.Rights)
}

// LimitError returns what is wrong with the limit and the G bit, which must agree:
// a limit with a 0 among bits 11:0 cannot count in units of 4 KiB, and one with a 1
// among bits 31:20 must (SDM Vol. 3C 27.3.1.2). It is nil if they agree, and for a
// segment that is unusable.
func (s Segment) LimitError() error {
	if s.Rights.Unusable() {
		return nil
	}
	switch g := s.Rights&RightsG != 0; {
	case g && s.Limit&0xfff != 0xfff:
		return fmt.Errorf("vmcs: G is 1, but bits 11:0 of the limit 0x%x are not all 1: clear G, or set them", s.Limit)
	case !g && s.Limit>>20 != 0:
		return fmt.Errorf("vmcs: G is 0, but bits 31:20 of the limit 0x%x are not all 0: set G, or clear them", s.Limit)
	}
	return nil
}

// ScaleLimit returns the offset of a segment's last byte for the 20-bit limit in
// its descriptor and its G bit (SDM Vol. 3A 3.4.5).
func ScaleLimit(limit uint32, g bool) uint32 {
	limit &= 0xfffff
	if g {
		limit = limit<<12 | 0xfff
	}
	return limit
}

// UnscaleLimit is the inverse of [ScaleLimit]. It reports false for a limit that no
// descriptor can give.
func UnscaleLimit(limit uint32) (descriptor uint32, g, ok bool) {
	if limit>>20 == 0 {
		return limit, false, true
	}
	return limit >> 12, true, limit&0xfff == 0xfff
}

// SegmentFromDescriptor returns the segment for a descriptor (SDM Vol. 3A 3.4.5,
// figure 3-8). Of a 16-byte descriptor, as system segments have in IA-32e mode
// (figure 8-4), high is the second half; it is 0 for others.
func SegmentFromDescriptor(selector uint16, low, high uint64) Segment {
	return Segment{
		Selector: selector,
		Rights:   AccessRights(low>>40) & rightsDescriptor,
		Limit:    ScaleLimit(uint32(low&0xffff|low>>32&0xf0000), low>>55&1 != 0),
		Base:     low>>16&0xffffff | low>>32&0xff000000 | high<<32,
	}
}

// Descriptor returns the descriptor of the segment, 0 for one that is unusable.
// High is the second half of a 16-byte descriptor. It fails if no descriptor can
// give this limit with this G bit.
func (s Segment) Descriptor() (low, high uint64, err error) {
	if s.Rights.Unusable() {
		return 0, 0, nil
	}
	if err := s.LimitError(); err != nil {
		return 0, 0, err
	}
	limit := uint64(s.Limit)
	if s.Rights&RightsG != 0 {
		limit >>= 12
	}
	low = limit&0xffff | limit&0xf0000<<32 |
		uint64(s.Rights&rightsDescriptor)<<40 |
		s.Base&0xffffff<<16 | s.Base&0xff000000<<32
	return low, s.Base >> 32, nil
}

// DescriptorTables are images of a guest's descriptor tables; their lengths are
// one more than the limits in GDTR and LDTR.
type DescriptorTables struct {
	GDT, LDT []byte
	IA32e    bool // in IA-32e mode system descriptors take 16 bytes
}

// A SelectorError says why a selector cannot be loaded.
type SelectorError struct {
	Selector uint16
	Rule     string
}

func (e *SelectorError) Error() string {
	table := "GDT"
	if e.Selector&4 != 0 {
		table = "LDT"
	}
	return fmt.Sprintf("vmcs: selector 0x%x, index %d of the %s: %s", e.Selector, e.Selector>>3, table, e.Rule)
}

// Load returns what a segment register holds after a selector has been loaded
// into it: the descriptor's content. A null selector gives an unusable segment. It
// fails with a *SelectorError if the descriptor is not in its table, not present,
// or a gate or of a reserved type. Privilege is not looked at, and neither is which
// register it is for. The tables' accessed and busy bits are taken as they are: VM
// entry wants them set.
func (t *DescriptorTables) Load(selector uint16) (Segment, error) {
	if selector&^3 == 0 {
		return Segment{Selector: selector, Rights: RightsUnusable}, nil
	}
	table, at := t.GDT, int(selector&^7)
	if selector&4 != 0 {
		table = t.LDT
	}
	refuse := func(format string, args ...any) (Segment, error) {
		return Segment{}, &SelectorError{selector, fmt.Sprintf(format, args...)}
	}
	if at+8 > len(table) {
		return refuse("the descriptor ends at byte %d, but the table has %d: mend the selector or the table's limit", at+8, len(table))
	}
	low, high := binary.LittleEndian.Uint64(table[at:]), uint64(0)
	rights := AccessRights(low >> 40)
	if rights.System() {
		switch rights.Type() {
		case TypeTSSAvailable, TypeTSSBusy, TypeLDT:
		case TypeTSS16Available, TypeTSS16Busy:
			if t.IA32e {
				return refuse("there is no 16-bit TSS in IA-32e mode")
			}
		default:
			return refuse("a %s is no segment", systemNames[rights.Type()])
		}
		if t.IA32e {
			if at+16 > len(table) {
				return refuse("the 16-byte descriptor ends at byte %d, but the table has %d: mend the selector or the table's limit", at+16, len(table))
			}
			high = binary.LittleEndian.Uint64(table[at+8:])
			if high>>40&0x1f != 0 {
				return refuse("bits 12:8 of the last doubleword of a 16-byte descriptor must be 0: it is 0x%x", high>>32)
			}
			high &= 0xffffffff
		}
	}
	if !rights.Present() {
		return refuse("the segment is not present: set P in its descriptor")
	}
	return SegmentFromDescriptor(selector, low, high), nil
}

// A SegmentRegister is a segment register of the guest-state area.
type SegmentRegister uint8

// The segment registers, in the order of their fields. The first six are in the
// order of instruction encodings as well.
const (
	ES SegmentRegister = iota
	CS
	SS
	DS
	FS
	GS
	LDTR
	TR

	NumSegmentRegisters = 8
)

var segmentNames = [NumSegmentRegisters]string{"ES", "CS", "SS", "DS", "FS", "GS", "LDTR", "TR"}

// String returns the register's name.
func (s SegmentRegister) String() string {
	if s < NumSegmentRegisters {
		return segmentNames[s]
	}
	return fmt.Sprintf("SegmentRegister(%d)", uint8(s))
}

// Selector returns the field with the guest's selector.
func (s SegmentRegister) Selector() Field { return GuestESSelector + Field(s&7)*2 }

// Base returns the field with the guest's base address.
func (s SegmentRegister) Base() Field { return GuestESBase + Field(s&7)*2 }

// Limit returns the field with the guest's limit.
func (s SegmentRegister) Limit() Field { return GuestESLimit + Field(s&7)*2 }

// AccessRights returns the field with the guest's access rights.
func (s SegmentRegister) AccessRights() Field { return GuestESAccessRights + Field(s&7)*2 }

// ReadSegment reads the four fields of a guest's segment register.
func ReadSegment(r Reader, s SegmentRegister) (Segment, error) {
	var v [4]uint64
	for i, f := range [...]Field{s.Selector(), s.AccessRights(), s.Limit(), s.Base()} {
		var err error
		if v[i], err = r.Read(f); err != nil {
			return Segment{}, err
		}
	}
	return Segment{uint16(v[0]), AccessRights(v[1]), uint32(v[2]), v[3]}, nil
}

// WriteSegment writes the four fields of a guest's segment register.
func WriteSegment(w Writer, s SegmentRegister, v Segment) error {
	if err := w.Write(s.Selector(), uint64(v.Selector)); err != nil {
		return err
	}
	if err := w.Write(s.AccessRights(), uint64(v.Rights)); err != nil {
		return err
	}
	if err := w.Write(s.Limit(), uint64(v.Limit)); err != nil {
		return err
	}
	return w.Write(s.Base(), v.Base)
}

// Segments are all segment registers, indexed by [SegmentRegister].
type Segments [NumSegmentRegisters]Segment

// ReadSegments reads all segment registers of a guest.
func ReadSegments(r Reader) (all Segments, err error) {
	for s := range all {
		if all[s], err = ReadSegment(r, SegmentRegister(s)); err != nil {
			return Segments{}, err
		}
	}
	return all, nil
}

// Write writes all segment registers of a guest.
func (all *Segments) Write(w Writer) error {
	for s := range all {
		if err := WriteSegment(w, SegmentRegister(s), all[s]); err != nil {
			return err
		}
	}
	return nil
}

// String prints a register a line, as Linux' KVM does.
func (all *Segments) String() string {
	var b strings.Builder
	for s := range all {
		fmt.Fprintf(&b, "%-6s %v\n", SegmentRegister(s).String()+":", all[s])
	}
	return b.String()
}

// UnusableSegment is a register that holds a null selector. TR must not.
func UnusableSegment() Segment { return Segment{Rights: RightsUnusable} }

// RealModeSegment is what a move to a segment register gives in real-address mode:
// a writable 64-KiB segment at 16 times the selector (SDM Vol. 3B 21.1.1). It will
// do for CS, too.
func RealModeSegment(selector uint16) Segment {
	return Segment{
		Selector: selector,
		Base:     uint64(selector) << 4,
		Limit:    0xffff,
		Rights:   Rights(TypeWritable|TypeAccessed, true, 0),
	}
}

// Virtual8086Segment is what a segment register holds in virtual-8086 mode
// (SDM Vol. 3C 27.3.1.2).
func Virtual8086Segment(selector uint16) Segment {
	s := RealModeSegment(selector)
	s.Rights |= 3 << 5
	return s
}

// flat is a segment of 4 GiB at address 0 with the selector's RPL as its DPL.
func flat(selector uint16, t SegmentType, more AccessRights) Segment {
	return Segment{
		Selector: selector,
		Limit:    0xffffffff,
		Rights:   Rights(t|TypeAccessed, true, uint8(selector)) | RightsG | more,
	}
}

// FlatCode64 is a CS for 64-bit mode. Its privilege level is the selector's RPL,
// here and for the other flat segments.
func FlatCode64(selector uint16) Segment {
	return flat(selector, TypeCode|TypeReadable, RightsL)
}

// FlatCode32 is a CS of 4 GiB at address 0 for 32-bit code.
func FlatCode32(selector uint16) Segment {
	return flat(selector, TypeCode|TypeReadable, RightsDB)
}

// FlatData is a writable segment of 4 GiB at address 0, for SS, DS, ES, FS and GS.
func FlatData(selector uint16) Segment { return flat(selector, TypeWritable, RightsDB) }

// TaskState is a TR for a busy 32-bit TSS, or 64-bit in IA-32e mode. VM entry wants
// it busy (SDM Vol. 3C 27.3.1.2).
func TaskState(selector uint16, base uint64, limit uint16) Segment {
	return Segment{
		Selector: selector,
		Base:     base,
		Limit:    uint32(limit),
		Rights:   Rights(TypeTSSBusy, false, 0),
	}
}

// LocalTable is an LDTR.
func LocalTable(selector uint16, base uint64, limit uint16) Segment {
	return Segment{
		Selector: selector,
		Base:     base,
		Limit:    uint32(limit),
		Rights:   Rights(TypeLDT, false, 0),
	}
}
