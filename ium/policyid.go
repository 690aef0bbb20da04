package ium

import (
	"fmt"
	"iter"
	"slices"
	"strings"

	"github.com/govtx/vtx/internal/names"
)

// An EntryType is the type of the value of a policy entry: IMAGE_POLICY_ENTRY_TYPE.
type EntryType uint32

// Types of values, from winnt.h of Windows SDK 10.0.26100. SDKs before EntryOverride have
// the others with the same numbers.
const (
	EntryNone          EntryType = 0  // ends the entries
	EntryBool          EntryType = 1  // 8 bits: 0 or 1
	EntryInt8          EntryType = 2  // 8 bits with a sign
	EntryUInt8         EntryType = 3  // 8 bits
	EntryInt16         EntryType = 4  // 16 bits with a sign
	EntryUInt16        EntryType = 5  // 16 bits
	EntryInt32         EntryType = 6  // 32 bits with a sign
	EntryUInt32        EntryType = 7  // 32 bits
	EntryInt64         EntryType = 8  // 64 bits with a sign
	EntryUInt64        EntryType = 9  // 64 bits
	EntryAnsiString    EntryType = 10 // pointer to bytes that end with a 0
	EntryUnicodeString EntryType = 11 // pointer to UTF-16 that ends with a 0
	EntryOverride      EntryType = 12 // no value: a policy extension may bring the id
)

const entryTypePrefix = "ImagePolicyEntryType"

// entryTypes are the names of the types without their prefix, and the widths of numbers.
var entryTypes = [...]struct {
	name   string
	width  uint // in bits; 0: not a number
	signed bool
}{
	{"None", 0, false}, {"Bool", 8, false},
	{"Int8", 8, true}, {"UInt8", 8, false},
	{"Int16", 16, true}, {"UInt16", 16, false},
	{"Int32", 32, true}, {"UInt32", 32, false},
	{"Int64", 64, true}, {"UInt64", 64, false},
	{"AnsiString", 0, false}, {"UnicodeString", 0, false}, {"Override", 0, false},
}

// Known tells whether there is such a type.
func (t EntryType) Known() bool { return t < EntryType(len(entryTypes)) }

// String returns the type's name: ImagePolicyEntryTypeBool.
func (t EntryType) String() string {
	if t.Known() {
		return entryTypePrefix + entryTypes[t].name
	}
	return fmt.Sprintf("EntryType(%#x)", uint32(t))
}

// ParseEntryType takes what String returns, with or without its prefix; case and
// punctuation do not matter.
func ParseEntryType(s string) (EntryType, error) {
	want := squeezeWithout(s, entryTypePrefix)
	for n := range entryTypes {
		if want == strings.ToLower(entryTypes[n].name) {
			return EntryType(n), nil
		}
	}
	if n, ok := parseUnknown(s, "EntryType", 32); ok {
		return EntryType(n), nil
	}
	return 0, fmt.Errorf("%.64q is not a type of policy entries: write it as %v or EntryType(0x7)", s, EntryUInt32)
}

// MarshalText returns what String does.
func (t EntryType) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// UnmarshalText takes what ParseEntryType does.
func (t *EntryType) UnmarshalText(text []byte) (err error) {
	*t, err = ParseEntryType(string(text))
	return err
}

func (t EntryType) isText() bool { return t == EntryAnsiString || t == EntryUnicodeString }

// width returns the width of a number in bits, 0 of what is none.
func (t EntryType) width() uint {
	if t.Known() {
		return entryTypes[t].width
	}
	return 0
}

func (t EntryType) isNumber() bool { return t.width() != 0 }

// value returns a value as its type makes it: cut to the width, the sign extended.
func (t EntryType) value(raw uint64) uint64 {
	width := t.width()
	if width == 0 {
		return raw
	}
	if shift := 64 - width; entryTypes[t].signed {
		return uint64(int64(raw<<shift) >> shift)
	} else {
		return raw << shift >> shift
	}
}

// A PolicyID tells what a policy entry is about: IMAGE_POLICY_ID.
type PolicyID uint32

// What entries are about, from winnt.h of Windows SDK 10.0.26100. SDKs before the last two
// have the others with the same numbers.
const (
	PolicyNone                  PolicyID = 0
	PolicyETW                   PolicyID = 1
	PolicyDebug                 PolicyID = 2
	PolicyCrashDump             PolicyID = 3
	PolicyCrashDumpKey          PolicyID = 4
	PolicyCrashDumpKeyGUID      PolicyID = 5
	PolicyParentSD              PolicyID = 6
	PolicyParentSDRevision      PolicyID = 7
	PolicySVN                   PolicyID = 8
	PolicyDeviceID              PolicyID = 9
	PolicyCapability            PolicyID = 10
	PolicyScenarioID            PolicyID = 11
	PolicyCapabilityOverridable PolicyID = 12
	PolicyTrustletIDOverridable PolicyID = 13
)

const policyIDPrefix = "ImagePolicyId"

// PolicyRules are what the secure kernel sees to when it creates a process.
type PolicyRules uint8

// What it sees to.
const (
	// OnceOnly: there must not be a second entry with the id.
	OnceOnly PolicyRules = 1 << iota
	// CheckedAtCreation: every entry with the id must have its type, so that it cannot
	// be of type EntryOverride either.
	CheckedAtCreation
)

// MaxCapability is the highest number of a capability.
const MaxCapability = 7

// PolicyInfo is what is known of a policy id.
type PolicyInfo struct {
	ID      PolicyID
	Name    string      // ImagePolicyIdEtw
	Types   []EntryType // of values; empty: not known
	Meaning string
	Rules   PolicyRules
	// Inferred: the types come from what the value means, not from an image, a header's
	// example or the code that asks for it.
	Inferred bool
	Source   string // of the types and the meaning
	guid     bool   // the text is a GUID
}

// Sources of the table.
const (
	sourceWI7        = `Windows Internals 7th ed. part 1, chapter 3, "Trustlet policy metadata"`
	sourceIumFuzzer  = "a trustlet's source: IumFuzzer (IumFuzzer.cpp)"
	sourceDecompiled = "disassembly of securekernel.exe: "
	sourceCallback   = sourceDecompiled + "SkpspReadPolicyMetadataCallback"
	sourceChecker    = "the policy of LsaIso.exe as printed by tpolicy_checker (README)"
)

// policyInfos is indexed by the id.
var policyInfos = [...]PolicyInfo{
	{ID: PolicyNone, Name: "None", Meaning: "ends the entries", Source: "winnt.h"},
	{ID: PolicyETW, Name: "Etw", Types: []EntryType{EntryUInt32}, Rules: OnceOnly | CheckedAtCreation,
		Meaning: "event tracing: 1 allowed, others not",
		Source:  sourceWI7 + "; " + sourceCallback + "; " + sourceIumFuzzer},
	{ID: PolicyDebug, Name: "Debug", Types: []EntryType{EntryUInt32},
		Meaning: "debugging: 0 never, 1 always, 2 without Secure Boot, 3 after a challenge; others never",
		Source:  sourceWI7 + "; " + sourceDecompiled + "SkpsIsProcessDebuggingEnabled asks for 2 with type 7; " + sourceIumFuzzer},
	{ID: PolicyCrashDump, Name: "CrashDump", Types: []EntryType{EntryUInt32},
		Meaning: "crash dumps: 0 none, others encrypted ones",
		Source:  sourceWI7 + "; " + sourceIumFuzzer},
	{ID: PolicyCrashDumpKey, Name: "CrashDumpKey", Types: []EntryType{EntryAnsiString},
		Meaning: "public key that crash dumps are encrypted with: an RSA public key blob in hexadecimal",
		Source:  sourceWI7 + "; " + sourceChecker + ": text that begins with 5253, RS; " + sourceDecompiled + "BCryptImportKeyPair of RSAPUBLICBLOB"},
	{ID: PolicyCrashDumpKeyGUID, Name: "CrashDumpKeyGuid", Types: []EntryType{EntryAnsiString}, guid: true,
		Meaning: "GUID that names the key of crash dumps",
		Source:  sourceWI7 + "; " + sourceChecker},
	{ID: PolicyParentSD, Name: "ParentSd", Types: []EntryType{EntryUnicodeString}, Rules: OnceOnly | CheckedAtCreation,
		Meaning: "security descriptor, as SDDL, that the creator's process is checked against; goes with ParentSdRev",
		Source:  sourceWI7 + "; " + sourceCallback},
	{ID: PolicyParentSDRevision, Name: "ParentSdRev", Types: []EntryType{EntryUInt32}, Rules: OnceOnly | CheckedAtCreation,
		Meaning: "revision of SDDL that the security descriptor is in; goes with ParentSd",
		Source:  sourceWI7 + "; " + sourceCallback},
	{ID: PolicySVN, Name: "Svn", Types: []EntryType{EntryUInt32}, Rules: OnceOnly | CheckedAtCreation,
		Meaning: "security version number",
		Source:  sourceWI7 + "; " + sourceCallback},
	{ID: PolicyDeviceID, Name: "DeviceId", Inferred: true,
		Meaning: "PCI id of a secure device that the trustlet may use; there can be several",
		Source:  sourceWI7},
	{ID: PolicyCapability, Name: "Capability", Types: []EntryType{EntryUInt64}, Rules: CheckedAtCreation,
		Meaning: "number from 0 to 7 of something the trustlet may use, such as secure sections, secure devices' DMA and MMIO, secure storage; there can be several",
		Source:  sourceWI7 + "; " + sourceCallback + "; " + sourceIumFuzzer},
	{ID: PolicyScenarioID, Name: "ScenarioId", Types: []EntryType{EntryAnsiString}, guid: true,
		Meaning: "GUID of the scenario that secure sections belong to",
		Source:  sourceWI7 + "; " + sourceIumFuzzer},
	{ID: PolicyCapabilityOverridable, Name: "CapabilityOverridable", Types: []EntryType{EntryUInt64}, Rules: CheckedAtCreation,
		Meaning: "number from 0 to 7 of a capability that a policy extension may add; there can be several",
		Source:  sourceCallback},
	{ID: PolicyTrustletIDOverridable, Name: "TrustletIdOverridable", Types: []EntryType{EntryBool},
		Meaning: "whether a policy extension may change the trustlet's id",
		Source:  sourceDecompiled + "IumSetPolicyExtension asks for 13 with type 1"},
}

// PolicyIDs returns the policy ids that are known, by number, without the one that ends
// the entries.
func PolicyIDs() iter.Seq[PolicyInfo] {
	return func(yield func(PolicyInfo) bool) {
		for id := PolicyETW; id.Known(); id++ {
			info, _ := id.Info()
			if !yield(info) {
				return
			}
		}
	}
}

// Known tells whether there is such an id.
func (id PolicyID) Known() bool { return id < PolicyID(len(policyInfos)) }

// Info returns what is known of the id, and whether anything is.
func (id PolicyID) Info() (PolicyInfo, bool) {
	if !id.Known() {
		return PolicyInfo{ID: id, Name: id.String()}, false
	}
	info := policyInfos[id]
	info.Name = id.String()
	info.Types = slices.Clone(info.Types)
	return info, true
}

// takes tells whether values of the id are of a type, as far as that is known.
func (id PolicyID) takes(t EntryType) bool {
	return !id.Known() || len(policyInfos[id].Types) == 0 || slices.Contains(policyInfos[id].Types, t)
}

// inferred tells whether the id's types are not known for sure.
func (id PolicyID) inferred() bool { return !id.Known() || policyInfos[id].Inferred }

// String returns the id's name: ImagePolicyIdEtw.
func (id PolicyID) String() string {
	if id.Known() {
		return policyIDPrefix + policyInfos[id].Name
	}
	return fmt.Sprintf("PolicyID(%#x)", uint32(id))
}

// ParsePolicyID takes what String returns, with or without its prefix; case and
// punctuation do not matter.
func ParsePolicyID(s string) (PolicyID, error) {
	want := squeezeWithout(s, policyIDPrefix)
	for n := range policyInfos {
		if want == strings.ToLower(policyInfos[n].Name) {
			return PolicyID(n), nil
		}
	}
	if n, ok := parseUnknown(s, "PolicyID", 32); ok {
		return PolicyID(n), nil
	}
	return 0, fmt.Errorf("%.64q is not a policy id: write it as %v or PolicyID(0x2)", s, PolicyDebug)
}

// MarshalText returns what String does.
func (id PolicyID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText takes what ParsePolicyID does.
func (id *PolicyID) UnmarshalText(text []byte) (err error) {
	*id, err = ParsePolicyID(string(text))
	return err
}

// squeezeWithout returns a squeezed name without a prefix.
func squeezeWithout(s, prefix string) string {
	if len(s) > 64 {
		return ""
	}
	return strings.TrimPrefix(names.Squeeze(s), strings.ToLower(prefix))
}
