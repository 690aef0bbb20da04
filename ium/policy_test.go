package ium_test

import (
	"debug/pe"
	"encoding/binary"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/govtx/vtx/ium"
)

const aGUID = "{01234567-89AB-CDEF-0123-456789ABCDEF}"

// somePolicy is a policy with a value of each kind.
func somePolicy() *ium.Policy {
	return &ium.Policy{Version: 1, ID: 0x1234, Entries: []ium.Entry{
		{Type: ium.EntryUInt32, ID: ium.PolicyETW, Value: 1},
		{Type: ium.EntryUInt32, ID: ium.PolicyDebug, Value: 2},
		{Type: ium.EntryUInt32, ID: ium.PolicyCrashDump, Value: 1},
		{Type: ium.EntryUnicodeString, ID: ium.PolicyParentSD, Text: "D:(A;;GA;;;S-1-5-83-0)"},
		{Type: ium.EntryUInt32, ID: ium.PolicyParentSDRevision, Value: 1},
		{Type: ium.EntryUInt32, ID: ium.PolicySVN, Value: 0x20001},
		{Type: ium.EntryUnicodeString, ID: ium.PolicyDeviceID, Text: "PCI\\VEN_1234 µ"},
		{Type: ium.EntryUInt64, ID: ium.PolicyCapability, Value: 3},
		{Type: ium.EntryAnsiString, ID: ium.PolicyScenarioID, Text: aGUID},
	}}
}

// plain returns a policy without what depends on where it is.
func plain(p *ium.Policy) *ium.Policy {
	q := *p
	q.Entries = slices.Clone(p.Entries)
	for n := range q.Entries {
		e := &q.Entries[n]
		e.Offset = 0
		if e.Type == ium.EntryAnsiString || e.Type == ium.EntryUnicodeString {
			e.Value = 0
		}
	}
	return &q
}

// Images that GNU ld has laid out hold the same policy as somePolicy.
func TestLinkedImages(t *testing.T) {
	for _, image := range []struct {
		name    string
		machine ium.Machine
		kind    ium.Kind
		grade   ium.Grade
		section string
		export  string
		rules   []ium.Rule // of the reasons, with ~ before those of notes
	}{
		{"policy64.exe", ium.MachineAMD64, ium.KindProgram, ium.Valid, ".tPolicy", ium.PolicyExport, nil},
		{"policy32.exe", ium.MachineI386, ium.KindProgram, ium.Valid, ".tPolicy", ium.PolicyExport, []ium.Rule{"~" + ium.RulePolicyMachine}},
		{"policy64-old.exe", ium.MachineAMD64, ium.KindProgram, ium.Valid, ".tPolicy", ium.OldPolicyExport, nil},
		{"policy32-old.exe", ium.MachineI386, ium.KindProgram, ium.Valid, ".tPolicy", ium.OldPolicyExport, []ium.Rule{"~" + ium.RulePolicyMachine}},
		{"policy64-both.exe", ium.MachineAMD64, ium.KindProgram, ium.Valid, ".tPolicy", ium.PolicyExport, nil},
		{"policy64-two.exe", ium.MachineAMD64, ium.KindProgram, ium.Malformed, ".tPolicy", ium.PolicyExport, []ium.Rule{ium.RulePolicyExportTwice}},
		{"policy64-rdata.exe", ium.MachineAMD64, ium.KindProgram, ium.Misplaced, ".rdata", ium.PolicyExport, []ium.Rule{ium.RulePolicySection}},
		{"policy64-noexport.exe", ium.MachineAMD64, ium.KindProgram, ium.Misplaced, ".tPolicy", "", []ium.Rule{ium.RulePolicyExport}},
		{"policy64.dll", ium.MachineAMD64, ium.KindDLL, ium.Valid, ".tPolicy", ium.PolicyExport, []ium.Rule{"~" + ium.RulePolicyImage}},
		{"policy64.sys", ium.MachineAMD64, ium.KindDriver, ium.Misplaced, ".tPolicy", ium.PolicyExport, []ium.Rule{ium.RulePolicyImage}},
	} {
		t.Run(image.name, func(t *testing.T) {
			i, err := ium.OpenFile(filepath.Join("testdata", image.name))
			require.NoError(t, err)
			defer i.Close()
			require.Empty(t, i.Problems)
			require.Equal(t, image.machine, i.Machine)
			require.Equal(t, image.kind, i.Kind)
			f, err := i.Policy()
			require.NoError(t, err)
			require.Equal(t, image.grade, f.Grade, "%v", f.Reasons)
			require.Equal(t, image.rules, rulesOf(f))
			require.Equal(t, image.section, f.Location.Section)
			require.Equal(t, image.export, f.Location.Export)
			at, err := i.OffsetOf(f.Location.RVA)
			require.NoError(t, err)
			require.Equal(t, at, f.Location.Offset)
			if image.export == "" {
				require.Nil(t, f.Policy)
			} else {
				require.Equal(t, somePolicy(), plain(f.Policy))
				require.Equal(t, at+16, f.Policy.Entries[0].Offset)
			}
			// The three strings' pointers are all that is relocated.
			var types []uint8
			for r, err := range i.Relocations() {
				require.NoError(t, err)
				types = append(types, r.Type)
			}
			want := ium.RelocationDir64
			if !i.Is64 {
				want = ium.RelocationHighLow
			}
			require.Equal(t, []uint8{want, want, want}, types)
		})
	}
}

// rulesOf returns the rules of the reasons, with ~ before those of notes.
func rulesOf(f ium.Finding) []ium.Rule {
	var rules []ium.Rule
	for _, r := range f.Reasons {
		if r.Note {
			rules = append(rules, "~"+r.Rule)
		} else {
			rules = append(rules, r.Rule)
		}
	}
	return rules
}

// TestGrades changes one thing about an image with a sound policy.
func TestGrades(t *testing.T) {
	const base = 0x140000000
	number := func(id ium.PolicyID, kind ium.EntryType, v uint64) func(*ium.ImageSpec) {
		return func(s *ium.ImageSpec) {
			s.Policy.Entries = []ium.Entry{{Type: kind, ID: id, Value: v}}
		}
	}
	text := func(id ium.PolicyID, kind ium.EntryType, v string) func(*ium.ImageSpec) {
		return func(s *ium.ImageSpec) {
			s.Policy.Entries = []ium.Entry{{Type: kind, ID: id, Text: v}}
		}
	}
	// Offsets in the policy; entry 3 is the first string.
	const pointer = 16 + 3*16 + 8
	for _, c := range []struct {
		name  string
		spec  func(*ium.ImageSpec)
		bytes func(b []byte, policy int, h headers) []byte
		grade ium.Grade
		rules []ium.Rule
		at    int // the first reason's offset in the policy; -1: elsewhere
	}{
		{name: "sound", grade: ium.Valid},
		{name: "no policy", spec: func(s *ium.ImageSpec) { s.Policy = nil }, grade: ium.Absent},
		{name: "no entries", spec: func(s *ium.ImageSpec) { s.Policy.Entries = nil }, grade: ium.Valid},
		{name: "older export", spec: func(s *ium.ImageSpec) { s.PolicyExports = []string{ium.OldPolicyExport} }, grade: ium.Valid},
		{name: "both exports", spec: func(s *ium.ImageSpec) { s.PolicyExports = []string{ium.OldPolicyExport, ium.PolicyExport} }, grade: ium.Valid},
		{name: "among other exports", spec: func(s *ium.ImageSpec) {
			for _, n := range strings.Fields("A Z __A __ImagePolicyMetadat __ImagePolicyMetadata_ a s_IumPolicyMetadatA zz") {
				s.Exports = append(s.Exports, ium.Export{Name: n, RVA: 0x1000})
			}
		}, grade: ium.Valid},

		// Where it is.
		{name: "no export", spec: func(s *ium.ImageSpec) { s.PolicyExports = []string{} }, grade: ium.Misplaced, rules: []ium.Rule{ium.RulePolicyExport}},
		{name: "other case of the export", spec: func(s *ium.ImageSpec) { s.PolicyExports = []string{"__imagePolicyMetadata"} }, grade: ium.Misplaced, rules: []ium.Rule{ium.RulePolicyExport}},
		{name: "other section", spec: func(s *ium.ImageSpec) { s.PolicySection = ".rdata" }, grade: ium.Misplaced, rules: []ium.Rule{ium.RulePolicySection}},
		{name: "other case of the section", spec: func(s *ium.ImageSpec) { s.PolicySection = ".tpolicy" }, grade: ium.Misplaced, rules: []ium.Rule{ium.RulePolicySectionName, ium.RulePolicySection}, at: -1},
		{name: "other case and no export", spec: func(s *ium.ImageSpec) { s.PolicySection, s.PolicyExports = ".TPOLICY", []string{} }, grade: ium.Misplaced, rules: []ium.Rule{ium.RulePolicySectionName, ium.RulePolicyExport}, at: -1},
		{name: "export into another section", spec: func(s *ium.ImageSpec) {
			s.Sections = []ium.SectionSpec{{Name: ".rdata", Characteristics: 0x40000040, Data: encoded(t, somePolicy(), base+0x1000)}}
			s.Pointers = []uint32{0x1000 + pointer, 0x1000 + pointer + 48, 0x1000 + pointer + 80}
			s.PolicyExports, s.Exports = []string{}, []ium.Export{{Name: ium.PolicyExport, RVA: 0x1000}}
		}, grade: ium.Misplaced, rules: []ium.Rule{ium.RulePolicySection}, at: -1},
		{name: "export into nowhere", spec: func(s *ium.ImageSpec) {
			s.PolicyExports, s.Exports = []string{}, []ium.Export{{Name: ium.PolicyExport, RVA: 0x700000}}
		}, grade: ium.Misplaced, rules: []ium.Rule{ium.RuleRVA}, at: -1},
		{name: "export into the headers", spec: func(s *ium.ImageSpec) {
			s.Policy.Entries = nil
			s.PolicyExports, s.Exports = []string{}, []ium.Export{{Name: ium.PolicyExport, RVA: 0x40}}
		}, grade: ium.Malformed, rules: []ium.Rule{ium.RulePolicySection}, at: -1},
		{name: "exports of two policies", spec: func(s *ium.ImageSpec) { s.Exports = []ium.Export{{Name: ium.OldPolicyExport, RVA: 0x1010}} }, grade: ium.Malformed, rules: []ium.Rule{ium.RulePolicyExportTwice}},
		{name: "two sections", spec: func(s *ium.ImageSpec) {
			s.Sections = []ium.SectionSpec{{Name: ".tPolicy", Characteristics: 0x40000040, Data: []byte{1}}}
		}, grade: ium.Malformed, rules: []ium.Rule{ium.RulePolicySectionTwice, ium.RulePolicySection}, at: -1},
		{name: "writable", bytes: func(b []byte, _ int, h headers) []byte { return put(b, h.sections+36, uint32(0xc0000040)) }, grade: ium.Valid, rules: []ium.Rule{"~" + ium.RulePolicySectionFlags}, at: -1},
		{name: "forwarded", bytes: func(b []byte, _ int, h headers) []byte {
			// Within the export table, whose end is the export's name.
			return put(b, int(binary.LittleEndian.Uint32(b[h.sections+40+20:]))+40, binary.LittleEndian.Uint32(b[h.directories:])+50)
		}, grade: ium.Misplaced, rules: []ium.Rule{ium.RulePolicyExport, ium.RulePolicyExport}, at: -1},
		{name: "exports out of order", spec: func(s *ium.ImageSpec) {
			for _, n := range strings.Fields("Aa Bb Cc") {
				s.Exports = append(s.Exports, ium.Export{Name: n, RVA: 0x1000})
			}
		}, bytes: func(b []byte, _ int, h headers) []byte {
			// The name table's last becomes its first.
			at := int(binary.LittleEndian.Uint32(b[h.sections+40+20:])) + 40 + 4*4
			b = slices.Clone(b)
			names := b[at : at+16]
			copy(names, append(slices.Clone(names[12:]), names[:12]...))
			return b
		}, grade: ium.Misplaced, rules: []ium.Rule{ium.RulePolicyExport, ium.RulePolicyExport}, at: -1},
		{name: "exports into nowhere", bytes: func(b []byte, _ int, h headers) []byte { return put(b, h.directories, uint32(0x70000000)) }, grade: ium.Malformed, rules: []ium.Rule{ium.RuleRVA, ium.RuleDirectory, ium.RulePolicyExport}, at: -1},
		{name: "not aligned", bytes: func(b []byte, policy int, h headers) []byte {
			b = slices.Clone(b)
			copy(b[policy+4:], append(b[policy:policy+16], make([]byte, 16)...))
			return put(b, int(binary.LittleEndian.Uint32(b[h.sections+40+20:]))+40, uint32(0x1004))
		}, grade: ium.Valid, rules: []ium.Rule{"~" + ium.RulePolicyAlignment}, at: 4},

		// What it is in.
		{name: "32 bits", spec: func(s *ium.ImageSpec) { s.Machine = ium.MachineI386 }, grade: ium.Valid, rules: []ium.Rule{"~" + ium.RulePolicyMachine}, at: -1},
		{name: "32 bits, pointers of 64", spec: func(s *ium.ImageSpec) { s.Machine = ium.MachineI386 }, bytes: func(b []byte, policy int, _ headers) []byte {
			return put(b, policy+16+16*3+12, uint32(1))
		}, grade: ium.Valid, rules: []ium.Rule{"~" + ium.RulePolicyMachine, "~" + ium.RulePolicyValue}, at: -1},
		{name: "strings that are not in the file", bytes: func(b []byte, policy int, h headers) []byte {
			return put(put(b, policy+pointer, uint64(base+0x3000)), h.sections+80+20, uint32(0x700000))
		}, grade: ium.Malformed, rules: []ium.Rule{ium.RuleSectionRawData, ium.RuleTruncated, ium.RuleTruncated}, at: -1},
		{name: "ARM64", spec: func(s *ium.ImageSpec) { s.Machine = ium.MachineARM64 }, grade: ium.Valid},
		{name: "wrong machine", spec: func(s *ium.ImageSpec) { s.Machine = ium.MachineIA64 }, grade: ium.Malformed, rules: []ium.Rule{ium.RulePolicyMachine}, at: -1},
		{name: "unknown machine", spec: func(s *ium.ImageSpec) { s.Machine = 0x1234 }, grade: ium.Malformed, rules: []ium.Rule{ium.RulePolicyMachine}, at: -1},
		{name: ".NET", spec: func(s *ium.ImageSpec) {
			s.Directories = map[int]pe.DataDirectory{14: {VirtualAddress: 0x1000, Size: 72}}
		}, grade: ium.Misplaced, rules: []ium.Rule{ium.RulePolicyImage}, at: -1},
		{name: "driver", spec: func(s *ium.ImageSpec) {
			s.Subsystem, s.DLLCharacteristics = pe.IMAGE_SUBSYSTEM_NATIVE, pe.IMAGE_DLLCHARACTERISTICS_WDM_DRIVER
		}, grade: ium.Misplaced, rules: []ium.Rule{ium.RulePolicyImage}, at: -1},
		{name: "EFI", spec: func(s *ium.ImageSpec) { s.Subsystem = pe.IMAGE_SUBSYSTEM_EFI_APPLICATION }, grade: ium.Misplaced, rules: []ium.Rule{ium.RulePolicyImage}, at: -1},
		{name: "DLL", spec: func(s *ium.ImageSpec) { s.Characteristics = pe.IMAGE_FILE_DLL }, grade: ium.Valid, rules: []ium.Rule{"~" + ium.RulePolicyImage}, at: -1},
		{name: "unsound headers", bytes: func(b []byte, _ int, h headers) []byte { return put(b, h.optional+60, uint32(8)) }, grade: ium.Malformed, rules: []ium.Rule{ium.RuleHeaderSize}, at: -1},

		// What it says.
		{name: "version 0", spec: func(s *ium.ImageSpec) { s.Policy.Version = 0 }, grade: ium.Malformed, rules: []ium.Rule{ium.RulePolicyVersion}},
		{name: "version 2", spec: func(s *ium.ImageSpec) { s.Policy.Version = 2 }, grade: ium.Malformed, rules: []ium.Rule{ium.RulePolicyVersion}},
		{name: "reserved", bytes: func(b []byte, policy int, _ headers) []byte { return put(b, policy+5, uint8(1)) }, grade: ium.Malformed, rules: []ium.Rule{ium.RulePolicyReserved}, at: 5},
		{name: "no end", spec: func(s *ium.ImageSpec) { s.Policy.Entries = s.Policy.Entries[:1] }, bytes: func(b []byte, policy int, h headers) []byte {
			return put(b, h.sections+8, uint32(32))
		}, grade: ium.Malformed, rules: []ium.Rule{ium.RulePolicyEnd}, at: 32},
		{name: "end cut", spec: func(s *ium.ImageSpec) { s.Policy.Entries = s.Policy.Entries[:1] }, bytes: func(b []byte, policy int, h headers) []byte {
			return put(b, h.sections+8, uint32(47))
		}, grade: ium.Malformed, rules: []ium.Rule{ium.RulePolicyEnd}, at: 32},
		{name: "no room", bytes: func(b []byte, policy int, h headers) []byte { return put(b, h.sections+8, uint32(15)) }, grade: ium.Malformed, rules: []ium.Rule{ium.RulePolicyEnd}},
		{name: "end with an id", bytes: func(b []byte, policy int, _ headers) []byte { return put(b, policy+16, uint64(1)<<32) }, grade: ium.Malformed, rules: []ium.Rule{ium.RulePolicyEnd}, at: 16},
		{name: "end with a value", bytes: func(b []byte, policy int, _ headers) []byte { return put(b, policy+16, uint64(0)) }, grade: ium.Valid, rules: []ium.Rule{"~" + ium.RulePolicyEnd}, at: 24},
		{name: "as many as there can be", spec: func(s *ium.ImageSpec) { s.Policy.Entries = many(ium.MaxPolicyEntries) }, grade: ium.Valid},
		{name: "too many", spec: func(s *ium.ImageSpec) { s.Policy.Entries = many(ium.MaxPolicyEntries) }, bytes: func(b []byte, policy int, h headers) []byte {
			return put(b, policy+16+16*ium.MaxPolicyEntries, []uint32{7, 9})
		}, grade: ium.Malformed, rules: []ium.Rule{ium.RulePolicyCount}, at: 16 + 16*ium.MaxPolicyEntries},
		{name: "id 0", bytes: func(b []byte, policy int, _ headers) []byte { return put(b, policy+20, uint32(0)) }, grade: ium.Malformed, rules: []ium.Rule{ium.RulePolicyID}, at: 20},
		{name: "unknown id", spec: number(14, ium.EntryUInt32, 5), grade: ium.Valid, rules: []ium.Rule{"~" + ium.RulePolicyID}, at: 20},
		{name: "unknown type", spec: number(ium.PolicyDeviceID, 13, 5), grade: ium.Valid, rules: []ium.Rule{"~" + ium.RulePolicyEntryType}, at: 16},
		{name: "id twice", spec: func(s *ium.ImageSpec) { s.Policy.Entries = append(s.Policy.Entries[1:2:2], s.Policy.Entries[1]) }, grade: ium.Valid, rules: []ium.Rule{"~" + ium.RulePolicyTwice}, at: 36},
		{name: "id twice that must not be", spec: func(s *ium.ImageSpec) { s.Policy.Entries = append(s.Policy.Entries[:1:1], s.Policy.Entries[0]) }, grade: ium.Malformed, rules: []ium.Rule{ium.RulePolicyTwice}, at: 36},
		{name: "trustlet 0", spec: func(s *ium.ImageSpec) { s.Policy.ID = 0 }, grade: ium.Valid, rules: []ium.Rule{"~" + ium.RulePolicyTrustletID}, at: 8},
		{name: "parent without revision", spec: text(ium.PolicyParentSD, ium.EntryUnicodeString, "D:"), grade: ium.Malformed, rules: []ium.Rule{ium.RulePolicyParent}},
		{name: "revision without parent", spec: number(ium.PolicyParentSDRevision, ium.EntryUInt32, 1), grade: ium.Malformed, rules: []ium.Rule{ium.RulePolicyParent}},
		{name: "capabilities", spec: func(s *ium.ImageSpec) {
			s.Policy.Entries = []ium.Entry{{Type: ium.EntryUInt64, ID: ium.PolicyCapability, Value: 0}, {Type: ium.EntryUInt64, ID: ium.PolicyCapability, Value: 7}}
		}, grade: ium.Valid},
		{name: "no such capability", spec: number(ium.PolicyCapability, ium.EntryUInt64, 8), grade: ium.Malformed, rules: []ium.Rule{ium.RulePolicyValue}, at: 24},
		{name: "no such capability to add", spec: number(ium.PolicyCapabilityOverridable, ium.EntryUInt64, 1<<40), grade: ium.Malformed, rules: []ium.Rule{ium.RulePolicyValue}, at: 24},
		{name: "overridable that is checked", spec: number(ium.PolicyETW, ium.EntryOverride, 0), grade: ium.Malformed, rules: []ium.Rule{ium.RulePolicyEntryType}, at: 16},
		{name: "parent of the wrong type", spec: func(s *ium.ImageSpec) {
			s.Policy.Entries = s.Policy.Entries[3:5]
			s.Policy.Entries[0].Type = ium.EntryAnsiString
		}, grade: ium.Malformed, rules: []ium.Rule{ium.RulePolicyEntryType}, at: 16},
		{name: "devices", spec: func(s *ium.ImageSpec) { s.Policy.Entries = many(2) }, grade: ium.Valid},
		{name: "overridable", spec: number(ium.PolicyDebug, ium.EntryOverride, 0), grade: ium.Valid},
		{name: "overridable with a value", spec: number(ium.PolicyDebug, ium.EntryOverride, 1), grade: ium.Valid, rules: []ium.Rule{"~" + ium.RulePolicyValue}, at: 24},
		{name: "debug policy of the wrong type", spec: number(ium.PolicyDebug, ium.EntryBool, 1), grade: ium.Malformed, rules: []ium.Rule{ium.RulePolicyEntryType}, at: 16},
		{name: "scenario of the wrong type", spec: text(ium.PolicyScenarioID, ium.EntryUnicodeString, aGUID), grade: ium.Malformed, rules: []ium.Rule{ium.RulePolicyEntryType}, at: 16},
		{name: "SVN of the wrong type", spec: number(ium.PolicySVN, ium.EntryUInt64, 1), grade: ium.Malformed, rules: []ium.Rule{ium.RulePolicyEntryType}, at: 16},
		{name: "debug policy 4", spec: number(ium.PolicyDebug, ium.EntryUInt32, 4), grade: ium.Valid, rules: []ium.Rule{"~" + ium.RulePolicyValue}, at: 24},
		{name: "neither false nor true", spec: number(ium.PolicyTrustletIDOverridable, ium.EntryBool, 2), grade: ium.Valid, rules: []ium.Rule{"~" + ium.RulePolicyValue}, at: 24},
		{name: "more bits than the type", bytes: func(b []byte, policy int, _ headers) []byte { return put(b, policy+28, uint32(1)) }, grade: ium.Valid, rules: []ium.Rule{"~" + ium.RulePolicyValue}, at: 24},

		// Strings.
		{name: "pointer 0", bytes: func(b []byte, policy int, _ headers) []byte { return put(b, policy+pointer, uint64(0)) }, grade: ium.Malformed, rules: []ium.Rule{ium.RulePolicyPointer}, at: pointer},
		{name: "pointer to nowhere", bytes: func(b []byte, policy int, _ headers) []byte { return put(b, policy+pointer, ^uint64(0)) }, grade: ium.Malformed, rules: []ium.Rule{ium.RulePolicyPointer}, at: pointer},
		{name: "pointer between sections", bytes: func(b []byte, policy int, _ headers) []byte { return put(b, policy+pointer, uint64(base+0x1f00)) }, grade: ium.Malformed, rules: []ium.Rule{ium.RulePolicyPointer}, at: pointer},
		{name: "pointer into the headers", bytes: func(b []byte, policy int, _ headers) []byte { return put(b, policy+pointer, uint64(base)) }, grade: ium.Valid},
		{name: "string without an end", bytes: func(b []byte, policy int, h headers) []byte {
			size := int(binary.LittleEndian.Uint32(b[h.sections+8:]))
			return put(b, policy+size-1, uint8('x'))
		}, grade: ium.Malformed, rules: []ium.Rule{ium.RulePolicyString}, at: -1},
		{name: "as long as there can be", spec: text(ium.PolicyDeviceID, ium.EntryAnsiString, strings.Repeat("D", ium.MaxPolicyString)), grade: ium.Valid},
		{name: "too long", spec: text(ium.PolicyDeviceID, ium.EntryAnsiString, strings.Repeat("D", ium.MaxPolicyString)), bytes: func(b []byte, policy int, h headers) []byte {
			return put(put(b, policy+48+ium.MaxPolicyString, uint8('D')), h.sections+8, uint32(48+ium.MaxPolicyString+2))
		}, grade: ium.Malformed, rules: []ium.Rule{ium.RulePolicyString}, at: 48},
		{name: "too much text", spec: func(s *ium.ImageSpec) {
			s.Policy.Entries = nil
			for range 4 {
				s.Policy.Entries = append(s.Policy.Entries, ium.Entry{Type: ium.EntryAnsiString, ID: ium.PolicyDeviceID, Text: strings.Repeat("D", ium.MaxPolicyString-1)})
			}
			s.Policy.Entries = append(s.Policy.Entries, ium.Entry{Type: ium.EntryUInt32, ID: ium.PolicyDeviceID})
		}, bytes: func(b []byte, policy int, _ headers) []byte {
			// The last entry becomes a string that takes one byte.
			return put(b, policy+16+4*16, []uint32{10, 9, 0x40000000, 1})
		}, grade: ium.Malformed, rules: []ium.Rule{ium.RulePolicyRelocation, ium.RulePolicyString}, at: 16 + 4*16 + 8},
		{name: "not ASCII", spec: text(ium.PolicyDeviceID, ium.EntryAnsiString, "\xff"), grade: ium.Valid, rules: []ium.Rule{"~" + ium.RulePolicyText}, at: 48},
		{name: "half a surrogate", spec: text(ium.PolicyDeviceID, ium.EntryUnicodeString, "xx"), bytes: func(b []byte, policy int, _ headers) []byte { return put(b, policy+48, uint16(0xd800)) }, grade: ium.Valid, rules: []ium.Rule{"~" + ium.RulePolicyText}, at: 48},
		{name: "replacement character", spec: text(ium.PolicyDeviceID, ium.EntryUnicodeString, "\ufffd"), grade: ium.Valid},
		{name: "not a GUID", spec: text(ium.PolicyScenarioID, ium.EntryAnsiString, "AE53FC6E"), grade: ium.Malformed, rules: []ium.Rule{ium.RulePolicyGUID}, at: 48},
		{name: "key in hexadecimal", spec: text(ium.PolicyCrashDumpKey, ium.EntryAnsiString, "525341310008"), grade: ium.Valid},
		{name: "key not in hexadecimal", spec: text(ium.PolicyCrashDumpKey, ium.EntryAnsiString, "RSA1"), grade: ium.Valid, rules: []ium.Rule{"~" + ium.RulePolicyText}, at: 48},

		// Relocations.
		{name: "no relocations", spec: func(s *ium.ImageSpec) { s.NoRelocations = true }, grade: ium.Valid, rules: []ium.Rule{"~" + ium.RulePolicyRelocation, "~" + ium.RulePolicyRelocation, "~" + ium.RulePolicyRelocation}, at: pointer},
		{name: "pointer not relocated", bytes: func(b []byte, policy int, h headers) []byte {
			// The first entry of the table becomes padding.
			return put(b, int(binary.LittleEndian.Uint32(b[h.sections+80+20:]))+8, uint16(0))
		}, grade: ium.Malformed, rules: []ium.Rule{ium.RulePolicyRelocation}, at: pointer},
		{name: "relocations into nowhere", bytes: func(b []byte, policy int, h headers) []byte { return put(b, h.directories+5*8, uint32(0x5000)) }, grade: ium.Malformed, rules: []ium.Rule{ium.RuleDirectory, ium.RuleRVA}, at: -1},
		{name: "block of no size", bytes: func(b []byte, policy int, h headers) []byte {
			return put(b, int(binary.LittleEndian.Uint32(b[h.sections+80+20:]))+4, uint32(0))
		}, grade: ium.Malformed, rules: []ium.Rule{ium.RuleRelocations}, at: -1},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := ium.ImageSpec{Policy: somePolicy(), ImageBase: base}
			if c.spec != nil {
				c.spec(&s)
			}
			if s.Machine == ium.MachineI386 {
				s.ImageBase = 0
			}
			b := build(t, s)
			policy := int(binary.LittleEndian.Uint32(b[headersOf(b).sections+20:])) // of the first section
			if c.bytes != nil {
				b = c.bytes(b, policy, headersOf(b))
			}
			f, err := open(t, b).Policy()
			require.NoError(t, err)
			require.Equal(t, c.grade, f.Grade, "%v", f.Reasons)
			if c.name == "export into the headers" || c.name == "pointer into the headers" {
				return // what is there makes more reasons
			}
			require.Equal(t, c.rules, rulesOf(f), "%v", f.Reasons)
			if len(f.Reasons) > 0 && c.at >= 0 {
				require.EqualValues(t, policy+c.at, f.Reasons[0].Offset, "%v", f.Reasons)
			}
			for _, r := range f.Reasons {
				require.NotEmpty(t, r.Detail)
				require.Contains(t, r.String(), string(r.Rule))
			}
		})
	}
}

// many returns entries that can be there more than once.
func many(n int) []ium.Entry {
	return slices.Repeat([]ium.Entry{{Type: ium.EntryUInt32, ID: ium.PolicyDeviceID, Value: 7}}, n)
}

func encoded(t testingT, p *ium.Policy, va uint64) []byte {
	t.Helper()
	e, err := p.Encode(va, true)
	require.NoError(t, err)
	return e.Data
}

func TestAccessors(t *testing.T) {
	key := "5253413100080000"
	p := &ium.Policy{Version: 1, ID: 5, Entries: []ium.Entry{
		{Type: ium.EntryOverride, ID: ium.PolicyDebug},
		{Type: ium.EntryUInt32, ID: ium.PolicyETW, Value: 1},
		{Type: ium.EntryUInt32, ID: ium.PolicyDebug, Value: 3},
		{Type: ium.EntryUInt32, ID: ium.PolicyDebug, Value: 1},
		{Type: ium.EntryUInt32, ID: ium.PolicyCrashDump, Value: 2},
		{Type: ium.EntryAnsiString, ID: ium.PolicyCrashDumpKey, Text: key},
		{Type: ium.EntryAnsiString, ID: ium.PolicyCrashDumpKeyGUID, Text: aGUID},
		{Type: ium.EntryUnicodeString, ID: ium.PolicyParentSD, Text: "D:"},
		{Type: ium.EntryUInt32, ID: ium.PolicyParentSDRevision, Value: 1},
		{Type: ium.EntryUInt32, ID: ium.PolicySVN, Value: 9},
		{Type: ium.EntryAnsiString, ID: ium.PolicyDeviceID, Text: "one"},
		{Type: ium.EntryUInt64, ID: ium.PolicyDeviceID, Value: 0x2b},
		{Type: ium.EntryUInt64, ID: ium.PolicyCapability, Value: 7},
		{Type: ium.EntryUInt64, ID: ium.PolicyCapability, Value: 0},
		{Type: ium.EntryUInt64, ID: ium.PolicyCapability, Value: 8},
		{Type: ium.EntryAnsiString, ID: ium.PolicyScenarioID, Text: aGUID},
		{Type: ium.EntryUInt64, ID: ium.PolicyCapabilityOverridable, Value: 6},
		{Type: ium.EntryBool, ID: ium.PolicyTrustletIDOverridable, Value: 1},
	}}
	none := &ium.Policy{}
	// What has another type than is asked for is not there.
	wrong := &ium.Policy{Entries: []ium.Entry{
		{Type: ium.EntryBool, ID: ium.PolicyETW, Value: 1},
		{Type: ium.EntryUInt64, ID: ium.PolicyDebug, Value: 1},
		{Type: ium.EntryAnsiString, ID: ium.PolicySVN, Text: "1"},
		{Type: ium.EntryUInt32, ID: ium.PolicyTrustletIDOverridable, Value: 1},
		{Type: ium.EntryUInt32, ID: ium.PolicyCapability, Value: 1},
		{Type: ium.EntryUInt32, ID: ium.PolicyParentSD, Value: 1},
		{Type: ium.EntryUInt32, ID: ium.PolicyScenarioID, Value: 1},
	}}
	guid, err := ium.ParseGUID(aGUID)
	require.NoError(t, err)
	pair := func(v any, ok bool) [2]any { return [2]any{v, ok} }
	for _, c := range []struct {
		name string
		ask  func(p *ium.Policy) [2]any
		want any
		zero any
	}{
		{"ETW", func(p *ium.Policy) [2]any { return pair(p.ETW()) }, true, false},
		{"Debug", func(p *ium.Policy) [2]any { return pair(p.Debug()) }, ium.DebugAfterChallenge, ium.DebugNever},
		{"CrashDump", func(p *ium.Policy) [2]any { return pair(p.CrashDump()) }, uint64(2), uint64(0)},
		{"CrashDumpKeyGUID", func(p *ium.Policy) [2]any { return pair(p.CrashDumpKeyGUID()) }, guid, ium.GUID{}},
		{"ParentSD", func(p *ium.Policy) [2]any { return pair(p.ParentSD()) }, "D:", ""},
		{"ParentSDRevision", func(p *ium.Policy) [2]any { return pair(p.ParentSDRevision()) }, uint64(1), uint64(0)},
		{"SVN", func(p *ium.Policy) [2]any { return pair(p.SVN()) }, uint64(9), uint64(0)},
		{"Capabilities", func(p *ium.Policy) [2]any { return pair(p.Capabilities()) }, uint64(0x81), uint64(0)},
		{"CapabilitiesOverridable", func(p *ium.Policy) [2]any { return pair(p.CapabilitiesOverridable()) }, uint64(1 << 6), uint64(0)},
		{"TrustletIDOverridable", func(p *ium.Policy) [2]any { return pair(p.TrustletIDOverridable()) }, true, false},
		{"ScenarioID", func(p *ium.Policy) [2]any { return pair(p.ScenarioID()) }, guid, ium.GUID{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			require.Equal(t, pair(c.want, true), c.ask(p))
			require.Equal(t, pair(c.zero, false), c.ask(none))
			require.Equal(t, pair(c.zero, false), c.ask(wrong))
		})
	}
	e, ok := p.CrashDumpKey()
	require.True(t, ok)
	require.Equal(t, key, e.Text)
	require.Equal(t, []string{"one", "0x2b"}, p.DeviceIDs())
	require.Len(t, p.All(ium.PolicyDebug), 3)
	require.True(t, p.Overridable(ium.PolicyDebug))
	require.False(t, p.Overridable(ium.PolicyETW))
	require.Equal(t, "after challenge", ium.DebugAfterChallenge.String())
	require.Equal(t, "DebugPolicy(4)", ium.DebugPolicy(4).String())
}

func TestEncodeRefuses(t *testing.T) {
	entry := func(kind ium.EntryType, v uint64, s string) *ium.Policy {
		return &ium.Policy{Entries: []ium.Entry{{Type: kind, ID: ium.PolicyDeviceID, Value: v, Text: s}}}
	}
	for _, c := range []struct {
		p    *ium.Policy
		want string
	}{
		{entry(ium.EntryBool, 0x100, ""), "0x100 does not fit"},
		{entry(ium.EntryInt8, 0x80, ""), "0x80 does not fit"},
		{entry(ium.EntryNone, 0, ""), "ends a policy"},
		{entry(ium.EntryAnsiString, 0, "a\x00b"), "holds a 0"},
		{entry(ium.EntryUnicodeString, 0, "\xff"), "not UTF-8"},
		{entry(ium.EntryAnsiString, 0, strings.Repeat("x", ium.MaxPolicyString+1)), "4097 characters"},
		{entry(ium.EntryUnicodeString, 0, strings.Repeat("\U00010000", ium.MaxPolicyString/2+1)), "4098 characters"},
		{&ium.Policy{Entries: many(257)}, "257 entries"},
		{&ium.Policy{Entries: slices.Repeat([]ium.Entry{{Type: ium.EntryAnsiString, ID: 9, Text: strings.Repeat("x", 4095)}}, 5)}, "more than 16384 bytes"},
	} {
		_, err := c.p.Encode(0, true)
		require.ErrorContains(t, err, c.want)
	}
	_, err := entry(ium.EntryAnsiString, 0, "x").Encode(0xfffffff0, false)
	require.ErrorContains(t, err, "32-bit")
}

func TestBuildRefuses(t *testing.T) {
	for _, c := range []struct {
		spec ium.ImageSpec
		want string
	}{
		{ium.ImageSpec{Machine: ium.MachineI386, ImageBase: 1 << 32}, "image base"},
		{ium.ImageSpec{PolicySection: ".tooLongName", Policy: somePolicy()}, "8 bytes"},
		{ium.ImageSpec{Sections: []ium.SectionSpec{{VirtualSize: 1 << 31}}}, "2 GB"},
		{ium.ImageSpec{Sections: make([]ium.SectionSpec, 97)}, "97 sections"},
		{ium.ImageSpec{Directories: map[int]pe.DataDirectory{16: {}}}, "data directory 16"},
		{ium.ImageSpec{Policy: &ium.Policy{Entries: many(257)}}, "257 entries"},
		{ium.ImageSpec{Exports: make([]ium.Export, ium.MaxExports+1)}, "65537 exports"},
		{ium.ImageSpec{Sections: []ium.SectionSpec{{VirtualSize: 1<<31 - 0x2000}}, Policy: somePolicy()}, `section ".tPolicy" ends`},
		{ium.ImageSpec{Sections: []ium.SectionSpec{{VirtualSize: 1<<31 - 0x2000}}, Exports: make([]ium.Export, 1)}, `section ".edata" ends`},
		{ium.ImageSpec{Sections: []ium.SectionSpec{{VirtualSize: 1<<31 - 0x2000}}, Pointers: make([]uint32, 1)}, `section ".reloc" ends`},
	} {
		_, err := c.spec.Build()
		require.ErrorContains(t, err, c.want)
	}
}

func TestPolicyNames(t *testing.T) {
	seen := map[string]bool{}
	for info := range ium.PolicyIDs() {
		require.NotEmpty(t, info.Meaning)
		require.NotEmpty(t, info.Source)
		require.False(t, seen[info.Name])
		seen[info.Name] = true
		require.Equal(t, info.Name, info.ID.String())
		for _, s := range []string{info.Name, strings.TrimPrefix(info.Name, "ImagePolicyId"), strings.ToUpper(info.Name)} {
			id, err := ium.ParsePolicyID(s)
			require.NoError(t, err)
			require.Equal(t, info.ID, id)
		}
	}
	require.Len(t, seen, 13)
	_, ok := ium.PolicyID(14).Info()
	require.False(t, ok)
	for _, id := range []ium.PolicyID{0, 13, 14, 0xffffffff} {
		var got ium.PolicyID
		text, err := id.MarshalText()
		require.NoError(t, err)
		require.NoError(t, got.UnmarshalText(text))
		require.Equal(t, id, got)
	}
	for _, kind := range []ium.EntryType{0, 1, 12, 13, 0xffffffff} {
		var got ium.EntryType
		text, err := kind.MarshalText()
		require.NoError(t, err)
		require.NoError(t, got.UnmarshalText(text))
		require.Equal(t, kind, got)
	}
	for _, grade := range []ium.Grade{ium.Absent, ium.Valid, ium.Misplaced, ium.Malformed} {
		var got ium.Grade
		text, err := grade.MarshalText()
		require.NoError(t, err)
		require.NoError(t, got.UnmarshalText(text))
		require.Equal(t, grade, got)
	}
	require.Equal(t, "ImagePolicyEntryTypeUInt32", ium.EntryUInt32.String())
	_, err := ium.ParsePolicyID("nothing")
	require.ErrorContains(t, err, "nothing")
	_, err = ium.ParseEntryType(strings.Repeat("x", 1000))
	require.Error(t, err)
	require.Less(t, len(err.Error()), 200)
	require.Error(t, new(ium.Grade).UnmarshalText([]byte("good")))
	require.Equal(t, "Grade(9)", ium.Grade(9).String())
}

func TestGUID(t *testing.T) {
	g, err := ium.ParseGUID("01234567-89ab-cdef-0123-456789abcdef")
	require.NoError(t, err)
	require.Equal(t, aGUID, g.String())
	require.Equal(t, ium.GUID{0x67, 0x45, 0x23, 0x01, 0xab, 0x89, 0xef, 0xcd, 0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef}, g)
	text, err := g.MarshalText()
	require.NoError(t, err)
	var again ium.GUID
	require.NoError(t, again.UnmarshalText(text))
	require.Equal(t, g, again)
	for _, s := range []string{"", "{}", "{01234567-89ab-cdef-0123-456789abcdef", "01234567-89ab-cdef-0123-456789abcdeg", "01234567x89ab-cdef-0123-456789abcdef", strings.Repeat("0", 1<<20)} {
		_, err := ium.ParseGUID(s)
		require.ErrorContains(t, err, "GUID")
		require.Less(t, len(err.Error()), 200)
	}
}
