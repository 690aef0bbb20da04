package ium

import (
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"

	"github.com/govtx/vtx/internal/names"
)

// Who creates a process asks for a trustlet with the process attribute 18 in the list that
// NtCreateUserProcess takes (PsAttributeSecureProcess; layouts: phnt, ntpsapi.h). Its value
// points to the trustlet's id and up to four trustlet attributes.

// ProcessAttributeSize is the size of a PS_ATTRIBUTE of 64-bit Windows, in bytes.
const ProcessAttributeSize = 32

// SecureProcess is the Attribute of a [ProcessAttribute] that asks for a trustlet: number
// 18, for input, not for threads, not additive.
const SecureProcess = 18 | ProcessAttributeInput

// Parts of the Attribute of a [ProcessAttribute].
const (
	ProcessAttributeNumber   = 0x0ffff // PsAttribute*
	ProcessAttributeThread   = 0x10000 // may be used with threads
	ProcessAttributeInput    = 0x20000 // the value goes to the kernel
	ProcessAttributeAdditive = 0x40000
)

// A ProcessAttribute is an entry of the list of attributes that NtCreateUserProcess takes:
// PS_ATTRIBUTE of 64-bit Windows.
type ProcessAttribute struct {
	Attribute    uint64
	Size         uint64 // of what Value points to, in bytes
	Value        uint64 // an address, or the value itself
	ReturnLength uint64 // an address, or 0
}

// AppendBinary appends the 32 bytes of the entry. There is never an error.
func (a ProcessAttribute) AppendBinary(b []byte) ([]byte, error) {
	for _, v := range [...]uint64{a.Attribute, a.Size, a.Value, a.ReturnLength} {
		b = binary.LittleEndian.AppendUint64(b, v)
	}
	return b, nil
}

// UnmarshalBinary reads an entry of 32 bytes.
func (a *ProcessAttribute) UnmarshalBinary(b []byte) error {
	if len(b) != ProcessAttributeSize {
		return &AttributeError{0, "PS_ATTRIBUTE", uint64(len(b)), RuleAttributeSize, "an entry is 32 bytes long"}
	}
	for i, v := range []*uint64{&a.Attribute, &a.Size, &a.Value, &a.ReturnLength} {
		*v = binary.LittleEndian.Uint64(b[8*i:])
	}
	return nil
}

// CheckSecureProcess returns an *[AttributeError] if the entry does not ask for a trustlet as
// the kernel wants it.
func (a ProcessAttribute) CheckSecureProcess() error {
	if a.Attribute != SecureProcess {
		return &AttributeError{0, "Attribute", a.Attribute, RuleAttributeNumber, "PsAttributeSecureProcess is 0x20012"}
	}
	if !attributesSize(a.Size) {
		return &AttributeError{8, "Size", a.Size, RuleAttributeSize, attributesSizeText}
	}
	if a.Value == 0 {
		return &AttributeError{16, "Value", 0, RuleAttributeValue, "the address of the trustlet's id and attributes must not be 0"}
	}
	return nil
}

// Sizes of what [SecureProcess] points to.
const (
	MinCreateAttributes = 8    // the id alone
	MaxCreateAttributes = 0x88 // the id and 16 words of 8 bytes
	MaxAttributes       = 4    // attributes behind the id
)

const attributesSizeText = "the size must be 8, or a multiple of 8 from 24 to 0x88"

// attributesSize tells whether the kernel takes attributes of a size, in bytes.
func attributesSize(n uint64) bool {
	return n%8 == 0 && n <= MaxCreateAttributes && (n == MinCreateAttributes || n >= 24)
}

// Rules of attributes (phnt, ntpsapi.h; IsTrustletCreateAttributeWellFormed of ntoskrnl.exe).
const (
	RuleAttributeNumber   Rule = "attribute-number"   // Attribute of PS_ATTRIBUTE is SecureProcess
	RuleAttributeValue    Rule = "attribute-value"    // it points somewhere
	RuleAttributeSize     Rule = "attribute-size"     // a structure is as long as the kernel takes
	RuleAttributeBounds   Rule = "attribute-bounds"   // the data of an attribute ends within the structure
	RuleAttributeReserved Rule = "attribute-reserved" // the bits above the instance number are 0
	RuleAttributeData     Rule = "attribute-data"     // an attribute has as many words as its type says
	RuleAttributeInstance Rule = "attribute-instance" // the instance number is 0
	RuleAttributeRights   Rule = "attribute-rights"   // bits 7:4 of the access rights are 0
	RuleAttributeType     Rule = "attribute-type"     // the type is known
	RuleAttributeCount    Rule = "attribute-count"    // MaxAttributes at most
	RuleAttributeIdentity Rule = "attribute-identity" // the id is not 0, but for trusted applications
)

// An AttributeError tells what is wrong with the attributes of a trustlet's creation.
type AttributeError struct {
	Offset int    // in the structure, of the field
	Field  string // its name, as in Windows
	Value  uint64
	Rule   Rule
	Detail string // what the rule says
}

// Error returns all of it: "ium: offset 0x8: Size is 0x10: ...: rule attribute-size".
func (e *AttributeError) Error() string {
	return fmt.Sprintf("ium: offset %#x: %s is %#x: %s: rule %s", e.Offset, e.Field, e.Value, e.Detail, e.Rule)
}

// An AttributeType says what a trustlet attribute is: PS_TRUSTLET_ATTRIBUTE_TYPE.
//
//	bits 7:0    version
//	bits 15:8   number of words of data, of 8 bytes
//	bits 23:16  semantic type
//	bits 31:24  access rights: who may query and write it
type AttributeType uint32

// Types that the kernel knows. The first four are in NtApiDotNet; the last one, of Windows
// 11, in one public source only.
const (
	MailboxKey      AttributeType = 0x0010_0200 // 2 words: the key that VTL0 retrieves mailboxes with
	CollaborationID AttributeType = 0x0011_0200 // a GUID: who has the same one shares secure storage
	TKSessionID     AttributeType = 0x0012_0400 // 4 words: session of cryptographic services
	VMID            AttributeType = 0x0313_0200 // a GUID: the virtual machine that Vmsp works for
	TrustedApp      AttributeType = 0x0014_0100 // 1 word: a trusted application, which needs no id
)

// AccessRights are bits 31:24 of an [AttributeType].
type AccessRights uint8

// Access rights.
const (
	RightTrustlet    AccessRights = 1 << iota // the trustlet may query
	RightNtos                                 // the kernel of VTL0 may query
	RightWriteHandle                          // to write takes a handle
	RightReadHandle                           // to read takes a handle
)

var accessRightNames = []string{"Trustlet", "Ntos", "WriteHandle", "ReadHandle"} // as in NtApiDotNet

// String names the rights: "Trustlet + Ntos", "none", "Ntos + 0x10".
func (r AccessRights) String() string { return flagString(uint32(r), accessRightNames) }

// MarshalText returns what String does.
func (r AccessRights) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText takes what String returns.
func (r *AccessRights) UnmarshalText(text []byte) error {
	v, err := parseFlags(string(text), accessRightNames, "access right")
	if err == nil && v > 0xff {
		err = fmt.Errorf("access rights %#x: they have 8 bits", v)
	}
	if err == nil {
		*r = AccessRights(v)
	}
	return err
}

var attributeNames = [...]struct {
	t    AttributeType
	name string
}{
	{MailboxKey, "MailboxKey"},
	{CollaborationID, "CollaborationId"},
	{TKSessionID, "TkSessionId"},
	{VMID, "VmId"},
	{TrustedApp, "TrustedApp"},
}

// Known reports whether the kernel takes attributes of the type.
func (t AttributeType) Known() bool { return t.name() != "" }

func (t AttributeType) name() string {
	for _, n := range attributeNames {
		if n.t == t {
			return n.name
		}
	}
	return ""
}

// Version returns bits 7:0.
func (t AttributeType) Version() uint8 { return uint8(t) }

// Words returns the number of words of data that an attribute of the type has.
func (t AttributeType) Words() int { return int(t >> 8 & 0xff) }

// Semantic returns bits 23:16.
func (t AttributeType) Semantic() uint8 { return uint8(t >> 16) }

// Rights returns who may query and write the attribute.
func (t AttributeType) Rights() AccessRights { return AccessRights(t >> 24) }

// String returns the name in Windows, such as MailboxKey, and AttributeType(0x...) if there
// is none.
func (t AttributeType) String() string {
	if name := t.name(); name != "" {
		return name
	}
	return "AttributeType(0x" + strconv.FormatUint(uint64(t), 16) + ")"
}

// ParseAttributeType reads what String prints, without regard to case, blanks and hyphens,
// or a number of 32 bits.
func ParseAttributeType(text string) (AttributeType, error) {
	squeezed := names.Squeeze(text)
	for _, n := range attributeNames {
		if names.Squeeze(n.name) == squeezed {
			return n.t, nil
		}
	}
	plain := strings.TrimSuffix(strings.TrimPrefix(strings.TrimSpace(text), "AttributeType("), ")")
	v, err := strconv.ParseUint(plain, 0, 32)
	if err != nil {
		return 0, fmt.Errorf("ium: no trustlet attribute is named %.80q: use MailboxKey, CollaborationId, TkSessionId, VmId, TrustedApp or a number of 32 bits", text)
	}
	return AttributeType(v), nil
}

// MarshalText returns what String does.
func (t AttributeType) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// UnmarshalText reads what ParseAttributeType does.
func (t *AttributeType) UnmarshalText(text []byte) (err error) {
	*t, err = ParseAttributeType(string(text))
	return err
}

// A TrustletAttribute is one attribute: PS_TRUSTLET_ATTRIBUTE_DATA.
type TrustletAttribute struct {
	Type     AttributeType
	Instance uint8    // the kernel takes 0 only
	Data     []uint64 // as many words as the type says
}

// GUIDAttribute returns an attribute of two words with a GUID, such as a [CollaborationID].
func GUIDAttribute(t AttributeType, g GUID) TrustletAttribute {
	return TrustletAttribute{Type: t, Data: []uint64{binary.LittleEndian.Uint64(g[:8]), binary.LittleEndian.Uint64(g[8:])}}
}

// GUID returns the two words of an attribute as a GUID, and whether there are two.
func (a TrustletAttribute) GUID() (g GUID, ok bool) {
	if len(a.Data) != 2 {
		return g, false
	}
	binary.LittleEndian.PutUint64(g[:8], a.Data[0])
	binary.LittleEndian.PutUint64(g[8:], a.Data[1])
	return g, true
}

// CreateAttributes are what [SecureProcess] points to: PS_TRUSTLET_CREATE_ATTRIBUTES. The id
// must be that of the image's policy.
type CreateAttributes struct {
	TrustletID uint64
	Attributes []TrustletAttribute
}

// Find returns the first attribute of a type, and whether there is one.
func (c *CreateAttributes) Find(t AttributeType) (TrustletAttribute, bool) {
	for _, a := range c.Attributes {
		if a.Type == t {
			return a, true
		}
	}
	return TrustletAttribute{}, false
}

// Size returns how many bytes the attributes take.
func (c *CreateAttributes) Size() int {
	n := 8
	for _, a := range c.Attributes {
		n += 8 + 8*len(a.Data)
	}
	return n
}

// AppendBinary appends the attributes. The error is an *[AttributeError]: the size must be one
// that the kernel takes, and each attribute must have as much data as its type says. [CreateAttributes.Check]
// tells what else the kernel wants.
func (c CreateAttributes) AppendBinary(b []byte) ([]byte, error) {
	offset := 8
	for _, a := range c.Attributes {
		if len(a.Data) != a.Type.Words() {
			return b, &AttributeError{offset, "DataCount", uint64(a.Type.Words()), RuleAttributeData,
				fmt.Sprintf("the attribute has %d words of data", len(a.Data))}
		}
		offset += 8 + 8*len(a.Data)
	}
	if !attributesSize(uint64(offset)) {
		return b, &AttributeError{0, "PS_TRUSTLET_CREATE_ATTRIBUTES", uint64(offset), RuleAttributeSize, attributesSizeText}
	}
	b = binary.LittleEndian.AppendUint64(b, c.TrustletID)
	for _, a := range c.Attributes {
		b = binary.LittleEndian.AppendUint32(b, uint32(a.Type))
		b = binary.LittleEndian.AppendUint32(b, uint32(a.Instance))
		for _, w := range a.Data {
			b = binary.LittleEndian.AppendUint64(b, w)
		}
	}
	return b, nil
}

// UnmarshalBinary reads all of b as attributes. The error is an *[AttributeError]. Types that
// are not known are kept; Check tells of them.
func (c *CreateAttributes) UnmarshalBinary(b []byte) error {
	if !attributesSize(uint64(len(b))) {
		return &AttributeError{0, "PS_TRUSTLET_CREATE_ATTRIBUTES", uint64(len(b)), RuleAttributeSize, attributesSizeText}
	}
	read := CreateAttributes{TrustletID: binary.LittleEndian.Uint64(b)}
	for offset := 8; offset < len(b); {
		a := TrustletAttribute{Type: AttributeType(binary.LittleEndian.Uint32(b[offset:]))}
		second := binary.LittleEndian.Uint32(b[offset+4:])
		if second>>8 != 0 {
			return &AttributeError{offset + 4, "Reserved", uint64(second >> 8), RuleAttributeReserved, "the bits above the instance number must be 0"}
		}
		a.Instance = uint8(second)
		next := offset + 8 + 8*a.Type.Words()
		if next > len(b) {
			return &AttributeError{offset + 1, "DataCount", uint64(a.Type.Words()), RuleAttributeBounds,
				fmt.Sprintf("the data would end at %#x, behind the end %#x", next, len(b))}
		}
		for i := offset + 8; i < next; i += 8 {
			a.Data = append(a.Data, binary.LittleEndian.Uint64(b[i:]))
		}
		read.Attributes = append(read.Attributes, a)
		offset = next
	}
	*c = read
	return nil
}

// Check returns what the kernels of VTL0 and VTL1 would refuse (IsTrustletCreateAttributeWellFormed,
// as publicly decompiled from Windows 11; older builds do not know TrustedApp). It is nil if
// they take the attributes.
func (c *CreateAttributes) Check() (wrong []*AttributeError) {
	add := func(offset int, field string, value uint64, rule Rule, detail string) {
		wrong = append(wrong, &AttributeError{offset, field, value, rule, detail})
	}
	size := c.Size()
	if !attributesSize(uint64(size)) {
		add(0, "PS_TRUSTLET_CREATE_ATTRIBUTES", uint64(size), RuleAttributeSize, attributesSizeText)
	}
	if n := len(c.Attributes); n > MaxAttributes {
		add(8, "Attributes", uint64(n), RuleAttributeCount, "there may be at most 4")
	}
	app := false
	offset := 8
	for _, a := range c.Attributes {
		app = app || a.Type.Semantic() == TrustedApp.Semantic()
		if r := a.Type.Rights(); r>>4 != 0 {
			add(offset+3, "AccessRights", uint64(r), RuleAttributeRights, "bits 7:4 must be 0")
		}
		if !a.Type.Known() {
			add(offset, "AttributeType", uint64(a.Type), RuleAttributeType, "the kernel knows MailboxKey, CollaborationId, TkSessionId, VmId and TrustedApp only")
		}
		if a.Instance != 0 {
			add(offset+4, "InstanceNumber", uint64(a.Instance), RuleAttributeInstance, "it must be 0")
		}
		if len(a.Data) != a.Type.Words() {
			add(offset+1, "DataCount", uint64(a.Type.Words()), RuleAttributeData, fmt.Sprintf("the attribute has %d words of data", len(a.Data)))
		}
		offset += 8 + 8*len(a.Data)
	}
	// With the id alone, the kernel lets 0 pass.
	if c.TrustletID == 0 && !app && len(c.Attributes) > 0 {
		add(0, "TrustletIdentity", 0, RuleAttributeIdentity, "only a trusted application may do without an id")
	}
	return wrong
}
