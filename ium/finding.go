package ium

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Where a policy has to be: IMAGE_POLICY_SECTION_NAME and IMAGE_POLICY_METADATA_NAME of
// winnt.h, and the name that Windows 10 had at first (Ionescu, "Battle of SKM and IUM",
// 2015).
const (
	PolicySection   = ".tPolicy"
	PolicyExport    = "__ImagePolicyMetadata"
	OldPolicyExport = "s_IumPolicyMetadata"
)

// Rules of policies.
const (
	RulePolicySection      Rule = "policy-section"       // the policy is in the section .tPolicy
	RulePolicySectionName  Rule = "policy-section-name"  // the name is spelled .tPolicy
	RulePolicySectionTwice Rule = "policy-section-twice" // there is one such section
	RulePolicySectionFlags Rule = "policy-section-flags" // initialized data that can be read, not written or run
	RulePolicyExport       Rule = "policy-export"        // an export of one of the names points to the policy
	RulePolicyExportTwice  Rule = "policy-export-twice"  // exports of both names point to one policy
	RulePolicyImage        Rule = "policy-image"         // the image is sound, and of a kind that runs in VTL1
	RulePolicyMachine      Rule = "policy-machine"       // VTL1 runs on AMD64 and ARM64
	RulePolicyAlignment    Rule = "policy-alignment"     // the metadata is aligned to 8 bytes
	RulePolicyVersion      Rule = "policy-version"       // Version is 1
	RulePolicyReserved     Rule = "policy-reserved"      // Reserved0 is 0
	RulePolicyEnd          Rule = "policy-end"           // an entry of type and id 0 ends the entries, in the section
	RulePolicyCount        Rule = "policy-count"         // MaxPolicyEntries at most
	RulePolicyEntryType    Rule = "policy-entry-type"    // the type is known, and that of the id
	RulePolicyID           Rule = "policy-id"            // the id is known
	RulePolicyTwice        Rule = "policy-id-twice"      // an id is there once, but for devices and capabilities
	RulePolicyTrustletID   Rule = "policy-trustlet-id"   // the trustlet's id is not 0, the secure kernel's
	RulePolicyParent       Rule = "policy-parent"        // the parent's security descriptor and its revision go together
	RulePolicyValue        Rule = "policy-value"         // the value is one that has a meaning
	RulePolicyPointer      Rule = "policy-pointer"       // a string is in the image
	RulePolicyRelocation   Rule = "policy-relocation"    // a pointer is relocated with the image
	RulePolicyString       Rule = "policy-string"        // a string ends, in time; MaxPolicyText is enough for all
	RulePolicyText         Rule = "policy-text"          // a string is ASCII, or UTF-16
	RulePolicyGUID         Rule = "policy-guid"          // the text is a GUID
)

// maxReasons is how many reasons a finding has.
const maxReasons = 64

// A Grade tells what has become of the search for a policy.
type Grade uint8

// Grades.
const (
	Absent    Grade = iota // no policy: not a trustlet
	Valid                  // a policy where it has to be, and nothing wrong with it
	Misplaced              // a policy, or signs of one, where VTL1 does not take it from
	Malformed              // a policy in its place that breaks a rule
)

var gradeNames = [...]string{"absent", "valid", "misplaced", "malformed"}

// String returns the grade in a word.
func (g Grade) String() string {
	if int(g) < len(gradeNames) {
		return gradeNames[g]
	}
	return fmt.Sprintf("Grade(%d)", uint8(g))
}

// MarshalText returns what String does.
func (g Grade) MarshalText() ([]byte, error) { return []byte(g.String()), nil }

// UnmarshalText takes what String returns.
func (g *Grade) UnmarshalText(text []byte) error {
	n := slices.Index(gradeNames[:], string(text))
	if n < 0 {
		return fmt.Errorf("%.64q is not a grade: there are %s", text, strings.Join(gradeNames[:], ", "))
	}
	*g = Grade(n)
	return nil
}

// A Reason is why a policy has its grade.
type Reason struct {
	Rule   Rule
	Offset int64 // in the file; -1 if it has no place there
	Detail string
	// Note: it is worth knowing, but the grade does not come from it.
	Note bool
}

// String returns all of it in a line.
func (r Reason) String() string {
	s := (&FormatError{r.Offset, r.Rule, r.Detail}).Error()
	if r.Note {
		return "note: " + s
	}
	return s
}

// A Location tells where a policy is.
type Location struct {
	Section string // the section it is in; empty: the headers, or nowhere
	Export  string // the export that points to it; empty: none
	RVA     uint32
	Offset  int64 // in the file; -1 if it is not there
}

// A Finding is what has become of the search for a policy.
type Finding struct {
	Grade    Grade
	Policy   *Policy // what could be read of it; nil if nothing
	Reasons  []Reason
	Location Location // where it is, or the section that ought to hold it
}

// because adds a reason and raises the grade to what follows from it, but malformed is not
// taken back.
func (f *Finding) because(g Grade, offset int64, rule Rule, format string, args ...any) {
	if f.Grade != Malformed {
		f.Grade = g
	}
	f.reason(Reason{rule, offset, fmt.Sprintf(format, args...), false})
}

// note adds a reason that leaves the grade as it is.
func (f *Finding) note(offset int64, rule Rule, format string, args ...any) {
	f.reason(Reason{rule, offset, fmt.Sprintf(format, args...), true})
}

func (f *Finding) reason(r Reason) {
	if len(f.Reasons) < maxReasons {
		f.Reasons = append(f.Reasons, r)
	}
}

// formatReason adds what an error in the image says, as a reason for a grade. Other errors
// it returns: the reader's.
func (f *Finding) formatReason(g Grade, err error) error {
	var bad *FormatError
	if !errors.As(err, &bad) {
		return err
	}
	f.because(g, bad.Offset, bad.Rule, "%s", bad.Detail)
	return nil
}

// Policy finds the policy of the image and grades it. The error is the reader's; whatever is
// wrong with the image is a reason.
//
// A policy is misplaced if there is no section .tPolicy, or no export that points to it
// there, or the image is of a kind that VTL1 does not run (drivers, .NET and EFI images). It
// is malformed if it, or the image around it, breaks a rule. What is only unusual, or about
// which sources are not sure, is a note.
func (i *Image) Policy() (Finding, error) {
	f := Finding{Location: Location{Offset: -1}}
	section := i.policySections(&f)
	exports, err := i.policyExports(&f, section != nil)
	if err != nil {
		return f, err
	}
	if section == nil && len(exports) == 0 && len(f.Reasons) == 0 {
		return f, nil
	}
	if f.Grade == Absent {
		f.Grade = Valid
	}
	if section != nil {
		f.Location = Location{Section: section.Name, RVA: section.RVA, Offset: i.offsetOf(section.RVA)}
	}
	i.judgeImage(&f)
	if len(exports) == 0 {
		f.because(Misplaced, f.Location.Offset, RulePolicyExport, "no export %s or %s tells where the policy is", PolicyExport, OldPolicyExport)
		return f, nil
	}
	e := exports[0]
	f.Location = Location{Export: e.Name, RVA: e.RVA, Offset: i.offsetOf(e.RVA)}
	if len(exports) == 2 && exports[1].RVA != e.RVA {
		f.because(Malformed, f.Location.Offset, RulePolicyExportTwice, "export %s points to RVA %#x and %s to %#x: which counts depends on the reader", e.Name, e.RVA, exports[1].Name, exports[1].RVA)
	}
	in, err := i.sectionAt(e.RVA)
	if err != nil {
		return f, f.formatReason(Misplaced, err)
	}
	if in != nil {
		f.Location.Section = in.Name
	}
	switch {
	case section == nil:
		f.because(Misplaced, f.Location.Offset, RulePolicySection, "export %s points to section %q, and there is no section %s", e.Name, f.Location.Section, PolicySection)
	case in != section:
		f.because(Misplaced, f.Location.Offset, RulePolicySection, "export %s points to section %q, not to %s", e.Name, f.Location.Section, PolicySection)
	}
	return f, i.parsePolicy(&f)
}

// policySections returns the section that has to hold the policy, nil if there is none.
func (i *Image) policySections(f *Finding) *Section {
	var found *Section
	for n := range i.sections {
		s := &i.sections[n]
		switch {
		case !strings.EqualFold(s.Name, PolicySection):
		case s.Name != PolicySection:
			f.because(Misplaced, s.Header, RulePolicySectionName, "section %q is spelled %s where it counts", s.Name, PolicySection)
		case found != nil:
			f.because(Malformed, s.Header, RulePolicySectionTwice, "section %d is named %s like one before it, which counts", n, PolicySection)
		default:
			found = s
		}
	}
	if found != nil {
		const (
			want = 0x40000040 // IMAGE_SCN_MEM_READ, IMAGE_SCN_CNT_INITIALIZED_DATA
			not  = 0xa2000020 // IMAGE_SCN_MEM_WRITE, _MEM_EXECUTE, _MEM_DISCARDABLE, _CNT_CODE
		)
		if c := found.Characteristics; c&want != want || c&not != 0 {
			f.note(found.Header+36, RulePolicySectionFlags, "section %s has characteristics %#x: link.exe gives it %#x", PolicySection, c, uint32(want))
		}
	}
	return found
}

// policyExports returns the exports that could point to a policy, the one that counts
// first.
func (i *Image) policyExports(f *Finding, section bool) ([]Export, error) {
	var found []Export
	var missing []string
	t, err := i.exportTable()
	if t == nil || err != nil {
		return nil, f.exportReason(section, err)
	}
	for _, name := range []string{PolicyExport, OldPolicyExport} {
		e, ok, err := t.find(i, name)
		if err != nil {
			if err := f.exportReason(section, err); err != nil {
				return nil, err
			}
			continue
		}
		switch {
		case ok && e.Forwarder != "":
			f.because(Misplaced, i.offsetOf(t.rva), RulePolicyExport, "export %s is forwarded to %.64q: the policy would be in another image", name, e.Forwarder)
		case ok:
			found = append(found, e)
		default:
			missing = append(missing, name)
		}
	}
	if !section || len(found) > 0 {
		return found, nil
	}
	// Where a policy seems to be, it is worth telling why it is not found.
	for n := range t.names {
		for _, name := range missing {
			c, err := t.compare(i, name, n)
			if err != nil {
				return nil, f.exportReason(section, err)
			}
			if c == 0 {
				f.because(Misplaced, i.offsetOf(t.namePointer+n*4), RulePolicyExport, "export %s is not found, because the name table is not in order", name)
			}
		}
	}
	return nil, nil
}

// exportReason adds what is wrong with the exports as a reason, if there is a section for a
// policy. Of other images it says nothing about a policy.
func (f *Finding) exportReason(section bool, err error) error {
	var bad *FormatError
	switch {
	case err == nil:
		return nil
	case !section && errors.As(err, &bad):
		return nil
	}
	return f.formatReason(Malformed, err)
}

// judgeImage adds what the image around the policy is reason for.
func (i *Image) judgeImage(f *Finding) {
	for _, p := range i.Problems {
		f.because(Malformed, p.Offset, p.Rule, "%s", p.Detail)
	}
	switch i.Kind {
	case KindDriver, KindEFI, KindDotNet:
		f.because(Misplaced, i.optional, RulePolicyImage, "a %v image does not run in VTL1", i.Kind)
	case KindDLL:
		f.note(i.optional-2, RulePolicyImage, "a DLL: the policy that counts is that of the program, or this is an extension of it")
	}
	switch i.Machine {
	case MachineAMD64, MachineARM64, MachineARM64EC, MachineARM64X:
	case MachineI386:
		f.note(i.optional-20, RulePolicyMachine, "an image for %v: no trustlet for it is known", i.Machine)
	default:
		f.because(Malformed, i.optional-20, RulePolicyMachine, "an image for %v: VTL1 runs on AMD64 and ARM64", i.Machine)
	}
}

// parsePolicy reads the policy at the location.
func (i *Image) parsePolicy(f *Finding) error {
	rva := f.Location.RVA
	room, _ := i.room(rva) // it lies in a section or in the headers
	offset := func(n int) int64 {
		if f.Location.Offset < 0 {
			return -1
		}
		return f.Location.Offset + int64(n)
	}
	if room < policyHeaderSize {
		f.because(Malformed, offset(0), RulePolicyEnd, "%d bytes from the export to the end of the section have no room for a policy", room)
		return nil
	}
	// All entries there can be, and the one that ends them.
	b := make([]byte, min(room, policyHeaderSize+(MaxPolicyEntries+1)*policyEntrySize))
	if err := i.ReadRVA(b, rva); err != nil {
		return f.formatReason(Malformed, err)
	}
	p := &Policy{Version: b[0], ID: binary.LittleEndian.Uint64(b[8:])}
	f.Policy = p
	if rva%8 != 0 {
		f.note(offset(0), RulePolicyAlignment, "the policy is at RVA %#x: compilers align it to 8", rva)
	}
	if p.Version != PolicyVersion {
		f.because(Malformed, offset(0), RulePolicyVersion, "version %d: it must be %d", p.Version, PolicyVersion)
	}
	if p.ID == 0 {
		f.note(offset(8), RulePolicyTrustletID, "the trustlet id is 0, the secure kernel's own: it creates no process with that")
	}
	if n := slices.IndexFunc(b[1:8], func(c byte) bool { return c != 0 }); n >= 0 {
		f.because(Malformed, offset(1+n), RulePolicyReserved, "the reserved bytes %#x must be 0", b[1:8])
	}
	at := policyHeaderSize
	for ; ; at += policyEntrySize {
		if at+policyEntrySize > len(b) {
			f.because(Malformed, offset(at), RulePolicyEnd, "the section ends behind %d entries, without one of type and id 0", len(p.Entries))
			break
		}
		e := Entry{
			Type:   EntryType(binary.LittleEndian.Uint32(b[at:])),
			ID:     PolicyID(binary.LittleEndian.Uint32(b[at+4:])),
			Value:  binary.LittleEndian.Uint64(b[at+8:]),
			Offset: offset(at),
		}
		if e.Type == EntryNone {
			if e.ID != PolicyNone {
				f.because(Malformed, offset(at), RulePolicyEnd, "an entry of type 0 and id %v: some readers stop here, others do not", e.ID)
			} else if e.Value != 0 {
				f.note(offset(at+8), RulePolicyEnd, "the entry that ends the policy has the value %#x: it is 0 otherwise", e.Value)
			}
			break
		}
		if len(p.Entries) == MaxPolicyEntries {
			f.because(Malformed, offset(at), RulePolicyCount, "more than %d entries", MaxPolicyEntries)
			break
		}
		p.Entries = append(p.Entries, e)
	}
	f.reviewEntries()
	return i.readTexts(f, rva, uint32(at))
}

// reviewEntries looks at types, ids and values, and makes values what their types say.
func (f *Finding) reviewEntries() {
	var seen [len(policyInfos)]bool
	for n := range f.Policy.Entries {
		e := &f.Policy.Entries[n]
		raw := e.Value
		e.Value = e.Type.value(raw)
		at := func(n int64) int64 { return e.Offset + n } // in the file, for zeros are no entry
		var info PolicyInfo
		if e.ID.Known() {
			info = policyInfos[e.ID]
		}
		switch {
		case !e.ID.Known():
			f.note(at(4), RulePolicyID, "entry %d is about %v, which is not known", n, e.ID)
		case e.ID == PolicyNone:
			f.because(Malformed, at(4), RulePolicyID, "entry %d of %v is about id 0: some readers stop here, others do not", n, e.Type)
		case e.Type == EntryOverride && info.Rules&CheckedAtCreation == 0:
		case seen[e.ID] && info.Rules&OnceOnly != 0:
			f.because(Malformed, at(4), RulePolicyTwice, "entry %d is about %v like one before it: the secure kernel refuses it", n, e.ID)
		case seen[e.ID] && e.ID != PolicyDeviceID && info.Rules&CheckedAtCreation == 0:
			f.note(at(4), RulePolicyTwice, "entry %d is about %v like one before it, which counts", n, e.ID)
		default:
			seen[e.ID] = true
		}
		switch {
		case !e.Type.Known():
			f.note(at(0), RulePolicyEntryType, "entry %d has type %v, which is not known", n, e.Type)
		case e.Type == EntryOverride && raw != 0:
			f.note(at(8), RulePolicyValue, "entry %d of %v has the value %#x, which means nothing", n, e.Type, raw)
		}
		switch {
		case e.ID.takes(e.Type):
		case e.Type == EntryOverride && info.Rules&CheckedAtCreation == 0:
		default:
			f.because(Malformed, at(0), RulePolicyEntryType, "entry %d: %v has the type %v: the secure kernel takes %v", n, e.ID, e.Type, info.Types[0])
		}
		if !e.Type.isNumber() {
			continue
		}
		// Headers write the value as a pointer, so that the bits behind it are 0, or
		// copies of the sign.
		width := e.Type.width()
		if raw != e.Value && (width == 64 || raw != e.Value&(1<<width-1)) {
			f.note(at(8), RulePolicyValue, "entry %d: %#x has bits that %v leaves out", n, raw, e.Type)
		}
		if e.Type == EntryBool && e.Value > 1 {
			f.note(at(8), RulePolicyValue, "entry %d: %d is neither false nor true", n, e.Value)
		}
		if (e.ID == PolicyCapability || e.ID == PolicyCapabilityOverridable) && e.Value > MaxCapability {
			f.because(Malformed, at(8), RulePolicyValue, "entry %d: %v is %d: the secure kernel takes 0 to %d", n, e.ID, e.Value, MaxCapability)
		}
		if e.ID == PolicyDebug && DebugPolicy(e.Value) > DebugAfterChallenge {
			f.note(at(8), RulePolicyValue, "entry %d: %v is not a debug policy: debugging is denied", n, e.Value)
		}
	}
	if seen[PolicyParentSD] != seen[PolicyParentSDRevision] {
		f.because(Malformed, f.Location.Offset, RulePolicyParent, "of %v and %v there is only one: the secure kernel refuses it", PolicyParentSD, PolicyParentSDRevision)
	}
}

// readTexts reads the strings of the entries, which take n bytes at an RVA.
func (i *Image) readTexts(f *Finding, rva, n uint32) error {
	if !slices.ContainsFunc(f.Policy.Entries, func(e Entry) bool { return e.Type.isText() }) {
		return nil
	}
	const stripped = 0x0001 // IMAGE_FILE_RELOCS_STRIPPED
	relocated, err := i.pointersIn(rva, n)
	if err != nil {
		if err := f.formatReason(Malformed, err); err != nil {
			return err
		}
	}
	left := MaxPolicyText
	var scratch []byte
	for n := range f.Policy.Entries {
		e := &f.Policy.Entries[n]
		if !e.Type.isText() {
			continue
		}
		slot := policyHeaderSize + policyEntrySize*uint32(n) + 8
		at := e.Offset + 8
		switch {
		case err != nil || relocated[rva+slot]:
		case i.Characteristics&stripped != 0:
			f.note(at, RulePolicyRelocation, "entry %d: the pointer has no relocation; the image has none and cannot be moved", n)
		default:
			f.because(Malformed, at, RulePolicyRelocation, "entry %d: the pointer has no relocation: it is wrong once the image is moved", n)
		}
		if !i.Is64 && e.Value>>32 != 0 {
			f.note(at, RulePolicyValue, "entry %d: %#x has bits that a pointer of 32 leaves out", n, e.Value)
			e.Value &= 1<<32 - 1
		}
		target, err := i.RVAOf(e.Value)
		if err != nil {
			f.because(Malformed, at, RulePolicyPointer, "entry %d: the string is at address %#x, outside the image of %#x bytes at %#x", n, e.Value, i.sizeOfImage, i.base)
			continue
		}
		room, err := i.room(target)
		if err != nil {
			f.because(Malformed, at, RulePolicyPointer, "entry %d: the string is at RVA %#x, which lies in no section", n, target)
			continue
		}
		size := min(int64(room), int64(left))
		if e.Type == EntryAnsiString {
			size = min(size, MaxPolicyString+1)
		} else {
			size = min(size, 2*MaxPolicyString+2)
		}
		took, valid, err := i.readText(e, target, int(size), &scratch)
		if err != nil {
			if err := f.formatReason(Malformed, err); err != nil {
				return err
			}
			continue
		}
		if took == 0 {
			f.because(Malformed, i.offsetOf(target), RulePolicyString, "entry %d: the string at RVA %#x does not end in its section, within %d characters and with %d bytes of strings left", n, target, MaxPolicyString, left)
			continue
		}
		left -= took
		if !valid {
			f.note(i.offsetOf(target), RulePolicyText, "entry %d: the string %.64q is not ASCII or UTF-16", n, e.Text)
		}
		if e.ID.Known() && policyInfos[e.ID].guid {
			if _, ok := e.GUID(); !ok {
				f.because(Malformed, i.offsetOf(target), RulePolicyGUID, "entry %d: %v is %.64q, not a GUID such as {01234567-89AB-CDEF-0123-456789ABCDEF}", n, e.ID, e.Text)
			}
		}
		if e.ID == PolicyCrashDumpKey && strings.Trim(e.Text, "0123456789abcdefABCDEF") != "" {
			f.note(i.offsetOf(target), RulePolicyText, "entry %d: %v is %.64q, not a number in hexadecimal", n, e.ID, e.Text)
		}
	}
	return nil
}

// readText reads the string of an entry, of at most size bytes with its end. It takes 0
// bytes if it does not end.
func (i *Image) readText(e *Entry, rva uint32, size int, scratch *[]byte) (took int, valid bool, err error) {
	// GUIDs, which most strings are, take less.
	for n := min(size, 128); ; n = size {
		if len(*scratch) < n {
			*scratch = make([]byte, n)
		}
		b := (*scratch)[:n]
		if err := i.ReadRVA(b, rva); err != nil {
			return 0, false, err
		}
		s, took, valid, ok := decodeText(e.Type, b)
		if ok {
			e.Text = s
			return took, valid, nil
		}
		if n == size {
			return 0, false, nil
		}
	}
}
