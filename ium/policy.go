package ium

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// Sizes and limits of policies.
const (
	MaxPolicyEntries = 256     // without the one that ends them
	MaxPolicyString  = 4096    // characters of a string
	MaxPolicyText    = 1 << 14 // bytes of all strings as they are in memory

	policyHeaderSize = 16 // IMAGE_POLICY_METADATA without entries
	policyEntrySize  = 16 // IMAGE_POLICY_ENTRY, of 32-bit images too: it holds a UINT64
)

// PolicyVersion is the version of policies there is: IMAGE_POLICY_METADATA_VERSION.
const PolicyVersion = 1

// A Policy is the policy of a trustlet: IMAGE_POLICY_METADATA.
type Policy struct {
	Version uint8   // PolicyVersion
	ID      uint64  // ApplicationId: the trustlet's id
	Entries []Entry // in order, without the one that ends them
}

// An Entry is an entry of a policy: IMAGE_POLICY_ENTRY.
type Entry struct {
	Type EntryType
	ID   PolicyID
	// Value is the number, with the bits behind the type's width cleared and the sign
	// of signed types extended. Of a string it is the virtual address, as the image is
	// linked.
	Value uint64
	// Text is the string. That of a Unicode string is UTF-8, that of an ANSI string the
	// bytes as they are.
	Text   string
	Offset int64 // of the entry in the file
}

// GUID returns the GUID that the text of the entry spells, and whether it does.
func (e Entry) GUID() (GUID, bool) {
	if !e.Type.isText() {
		return GUID{}, false
	}
	g, err := ParseGUID(e.Text)
	return g, err == nil
}

// A DebugPolicy tells when a trustlet may be debugged. There are no others: of any other
// value, debugging is denied.
type DebugPolicy uint64

// When a trustlet may be debugged.
const (
	DebugNever             DebugPolicy = iota // not at all
	DebugAlways                               // always
	DebugWithoutSecureBoot                    // if Secure Boot is off
	DebugAfterChallenge                       // if a challenge has been answered
)

var debugNames = [...]string{"never", "always", "without Secure Boot", "after challenge"}

// String tells when in words.
func (d DebugPolicy) String() string {
	if d < DebugPolicy(len(debugNames)) {
		return debugNames[d]
	}
	return fmt.Sprintf("DebugPolicy(%d)", uint64(d))
}

// MarshalText returns what String does.
func (d DebugPolicy) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText takes what String returns.
func (d *DebugPolicy) UnmarshalText(text []byte) error {
	if n := slices.Index(debugNames[:], string(text)); n >= 0 {
		*d = DebugPolicy(n)
		return nil
	}
	n, ok := parseUnknown(string(text), "DebugPolicy", 64)
	if !ok {
		return fmt.Errorf("%.64q is not a debug policy: there are %s", text, strings.Join(debugNames[:], ", "))
	}
	*d = DebugPolicy(n)
	return nil
}

// Lookup returns the first entry with an id, and whether there is one. Entries of type
// EntryOverride do not count: they say nothing but that a policy extension may bring that
// id.
func (p *Policy) Lookup(id PolicyID) (Entry, bool) {
	for _, e := range p.Entries {
		if e.ID == id && e.Type != EntryOverride {
			return e, true
		}
	}
	return Entry{}, false
}

// All returns all entries with an id, those of type EntryOverride too.
func (p *Policy) All(id PolicyID) []Entry {
	var all []Entry
	for _, e := range p.Entries {
		if e.ID == id {
			all = append(all, e)
		}
	}
	return all
}

// Overridable tells whether a policy extension may bring an id of its own: there is an
// entry with the id and the type EntryOverride.
func (p *Policy) Overridable(id PolicyID) bool {
	for _, e := range p.Entries {
		if e.ID == id && e.Type == EntryOverride {
			return true
		}
	}
	return false
}

// number returns the number of the first entry with an id. Who asks for a policy names
// its type, and gets none of another: so what is known to be asked for as one type must be
// of that, and other numbers must be numbers.
func (p *Policy) number(id PolicyID) (uint64, bool) {
	e, ok := p.Lookup(id)
	if !ok || !e.Type.isNumber() || !id.takes(e.Type) && !id.inferred() {
		return 0, false
	}
	return e.Value, true
}

// text returns the text of the first entry with an id, likewise.
func (p *Policy) text(id PolicyID) (string, bool) {
	e, ok := p.Lookup(id)
	if !ok || !e.Type.isText() || !id.takes(e.Type) && !id.inferred() {
		return "", false
	}
	return e.Text, true
}

// ETW tells whether event tracing is allowed, and whether the policy says anything of it.
// Here and below, an entry of another type than VTL1 asks for says nothing.
func (p *Policy) ETW() (allowed, ok bool) {
	v, ok := p.number(PolicyETW)
	return v == 1, ok
}

// Debug tells when the trustlet may be debugged, and whether the policy says so.
func (p *Policy) Debug() (DebugPolicy, bool) {
	v, ok := p.number(PolicyDebug)
	return DebugPolicy(v), ok
}

// CrashDump returns the policy of crash dumps: 0, none are written; others, encrypted ones
// are.
func (p *Policy) CrashDump() (uint64, bool) { return p.number(PolicyCrashDump) }

// CrashDumpKey returns the entry with the public key that crash dumps are encrypted with.
func (p *Policy) CrashDumpKey() (Entry, bool) { return p.Lookup(PolicyCrashDumpKey) }

// CrashDumpKeyGUID returns the GUID that names that key.
func (p *Policy) CrashDumpKeyGUID() (GUID, bool) {
	e, _ := p.Lookup(PolicyCrashDumpKeyGUID)
	return e.GUID()
}

// ParentSD returns the security descriptor, as SDDL, that the creator's process is checked
// against.
func (p *Policy) ParentSD() (string, bool) { return p.text(PolicyParentSD) }

// ParentSDRevision returns the revision of SDDL that ParentSD is in.
func (p *Policy) ParentSDRevision() (uint64, bool) { return p.number(PolicyParentSDRevision) }

// SVN returns the security version number.
func (p *Policy) SVN() (uint64, bool) { return p.number(PolicySVN) }

// DeviceIDs returns the ids of the secure devices the trustlet may use: the text of each
// entry, or its number in hexadecimal.
func (p *Policy) DeviceIDs() []string {
	var ids []string
	for _, e := range p.All(PolicyDeviceID) {
		switch {
		case e.Type.isText():
			ids = append(ids, e.Text)
		case e.Type.isNumber():
			ids = append(ids, fmt.Sprintf("%#x", e.Value))
		}
	}
	return ids
}

// Capabilities returns the capabilities, with a bit for each, and whether there are any.
// They allow such things as secure storage and secure sections; which number is which is
// not published.
func (p *Policy) Capabilities() (mask uint64, ok bool) { return p.mask(PolicyCapability) }

// CapabilitiesOverridable returns the capabilities that a policy extension may add, with a
// bit for each, and whether there are any.
func (p *Policy) CapabilitiesOverridable() (mask uint64, ok bool) {
	return p.mask(PolicyCapabilityOverridable)
}

// mask returns a mask of the numbers of all entries with an id.
func (p *Policy) mask(id PolicyID) (mask uint64, ok bool) {
	for _, e := range p.Entries {
		if e.ID == id && id.takes(e.Type) && e.Value <= MaxCapability {
			mask |= 1 << e.Value
			ok = true
		}
	}
	return mask, ok
}

// TrustletIDOverridable tells whether a policy extension may change the trustlet's id, and
// whether the policy says anything of it.
func (p *Policy) TrustletIDOverridable() (allowed, ok bool) {
	v, ok := p.number(PolicyTrustletIDOverridable)
	return v != 0, ok
}

// ScenarioID returns the GUID of the scenario that secure sections belong to.
func (p *Policy) ScenarioID() (GUID, bool) {
	e, _ := p.Lookup(PolicyScenarioID)
	return e.GUID()
}

// An EncodedPolicy is a policy as it is in an image.
type EncodedPolicy struct {
	// Data is IMAGE_POLICY_METADATA with its entries, the entry that ends them, and
	// the strings.
	Data []byte
	// Pointers are the offsets in Data that hold virtual addresses: of 8 bytes, or 4 in
	// a 32-bit image. They need base relocations.
	Pointers []uint32
}

// Encode encodes the policy for the virtual address it will be at. The addresses of its
// strings are worked out; Value of such entries is ignored. It is an error if a number does
// not fit its type, a string holds a 0 or is not UTF-8 where it has to be, or a limit is
// exceeded; such entries, and entries of type and id 0, cannot be parsed as they were.
func (p *Policy) Encode(va uint64, is64 bool) (*EncodedPolicy, error) {
	if len(p.Entries) > MaxPolicyEntries {
		return nil, fmt.Errorf("a policy of %d entries: there can be %d", len(p.Entries), MaxPolicyEntries)
	}
	e := new(EncodedPolicy)
	b := make([]byte, policyHeaderSize+policyEntrySize*(len(p.Entries)+1))
	b[0] = p.Version
	binary.LittleEndian.PutUint64(b[8:], p.ID)
	text := 0
	for n, entry := range p.Entries {
		bad := func(format string, args ...any) (*EncodedPolicy, error) {
			return nil, fmt.Errorf("entry %d of the policy (%v): %s", n, entry.ID, fmt.Sprintf(format, args...))
		}
		at := policyHeaderSize + policyEntrySize*n
		binary.LittleEndian.PutUint32(b[at:], uint32(entry.Type))
		binary.LittleEndian.PutUint32(b[at+4:], uint32(entry.ID))
		if entry.Type == EntryNone {
			return bad("the type is that of the entry that ends a policy")
		}
		if !entry.Type.isText() {
			if entry.Type.value(entry.Value) != entry.Value {
				return bad("%#x does not fit %v", entry.Value, entry.Type)
			}
			v := entry.Value
			if width := entry.Type.width(); width > 0 && width < 64 {
				v &= 1<<width - 1
			}
			binary.LittleEndian.PutUint64(b[at+8:], v)
			continue
		}
		s, err := encodeText(entry.Type, entry.Text)
		if err != nil {
			return bad("%v", err)
		}
		if text += len(s); text > MaxPolicyText {
			return bad("the strings of the policy take more than %d bytes", MaxPolicyText)
		}
		if len(b)%2 != 0 {
			b = append(b, 0)
		}
		address := va + uint64(len(b))
		if !is64 && address > math.MaxUint32 {
			return bad("address %#x does not fit a 32-bit image", address)
		}
		binary.LittleEndian.PutUint64(b[at+8:], address)
		e.Pointers = append(e.Pointers, uint32(at+8))
		b = append(b, s...)
	}
	e.Data = b
	return e, nil
}

// encodeText returns a string as it is in memory, with what ends it.
func encodeText(t EntryType, s string) ([]byte, error) {
	switch {
	case strings.IndexByte(s, 0) >= 0:
		return nil, fmt.Errorf("the string %.40q holds a 0, which would end it", s)
	case t == EntryAnsiString:
		if len(s) > MaxPolicyString {
			return nil, fmt.Errorf("a string of %d characters: there can be %d", len(s), MaxPolicyString)
		}
		return append([]byte(s), 0), nil
	case !utf8.ValidString(s):
		return nil, fmt.Errorf("the string %.40q is not UTF-8", s)
	}
	u := utf16.Encode([]rune(s))
	if len(u) > MaxPolicyString {
		return nil, fmt.Errorf("a string of %d characters: there can be %d", len(u), MaxPolicyString)
	}
	b := make([]byte, 0, 2*len(u)+2)
	for _, c := range u {
		b = binary.LittleEndian.AppendUint16(b, c)
	}
	return append(b, 0, 0), nil
}

// decodeText returns the string that b begins with, how many bytes it takes with its end,
// and whether it ends. Valid tells whether it is well formed.
func decodeText(t EntryType, b []byte) (s string, n int, valid, ok bool) {
	if t == EntryAnsiString {
		n = bytes.IndexByte(b, 0)
		if n < 0 || n > MaxPolicyString {
			return "", 0, false, false
		}
		s = string(b[:n])
		return s, n + 1, strings.IndexFunc(s, func(r rune) bool { return r >= 0x80 }) < 0, true
	}
	var u []uint16
	for ; n+2 <= len(b) && n <= 2*MaxPolicyString; n += 2 {
		c := binary.LittleEndian.Uint16(b[n:])
		if c == 0 {
			s = string(utf16.Decode(u))
			return s, n + 2, strings.Count(s, "\ufffd") == countUnit(u, 0xfffd), true
		}
		u = append(u, c)
	}
	return "", 0, false, false
}

// countUnit counts a UTF-16 code unit.
func countUnit(u []uint16, unit uint16) int {
	n := 0
	for _, c := range u {
		if c == unit {
			n++
		}
	}
	return n
}
