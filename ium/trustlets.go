package ium

import (
	"fmt"
	"iter"
	"slices"
	"strings"
)

// A Trustlet is one that public sources name.
type Trustlet struct {
	ID       uint64
	Name     string
	Image    string // its file; empty if not known
	Purpose  string
	Expected []Expectation // of its policy; nil if no source tells
	Source   string
	Note     string // what is uncertain
}

// An Expectation is what a source says of one part of a trustlet's policy.
type Expectation struct {
	ID   PolicyID
	Want Want
	Text string // for WantText and WantGUID
}

// A Want is a condition on the value of a policy entry.
type Want uint8

// Conditions. Sources do not give numbers, only what they do.
const (
	WantZero    Want = iota // 0, or no entry: what the policy would allow is off
	WantNonzero             // there is an entry, and it is not 0
	WantEntry               // there is an entry
	WantText                // there is an entry whose string contains a text, without regard to case
	WantGUID                // there is an entry whose string is a GUID
)

// A Deviation is an expectation that a policy does not meet.
type Deviation struct {
	Expectation
	Got string // the value as text; "none" if there is no entry
}

// fromTable36 has ids 1 to 5 with what their policies do; the text before it, id 0.
const fromTable36 = "Windows Internals 7, part 1, Table 3-6"

// trustletTable has the known trustlets by ascending id.
var trustletTable = [...]Trustlet{
	{
		ID: 0, Name: "Secure Kernel", Image: "securekernel.exe", Purpose: "the secure kernel itself",
		Source: fromTable36,
		Note:   "not a process that is created from a policy",
	},
	{
		ID: 1, Name: "LSAISO", Image: "LsaIso.exe", Purpose: "Credential Guard and Key Guard",
		Expected: []Expectation{
			{ID: PolicyETW, Want: WantNonzero}, {ID: PolicyDebug, Want: WantZero}, {ID: PolicyCrashDump, Want: WantNonzero},
		},
		Source: fromTable36,
	},
	{
		ID: 2, Name: "VMSP", Image: "Vmsp.exe", Purpose: "worker of a shielded virtual machine: virtual TPM",
		Expected: []Expectation{
			{ID: PolicyETW, Want: WantNonzero}, {ID: PolicyDebug, Want: WantZero}, {ID: PolicyCrashDump, Want: WantZero},
			{ID: PolicyCapability, Want: WantEntry}, {ID: PolicyParentSD, Want: WantText, Text: "S-1-5-83-0"},
		},
		Source: fromTable36,
		Note:   "the capability is that of secure storage, the parent NT VIRTUAL MACHINE\\Virtual Machines; which number the capability has, no source tells",
	},
	{
		ID: 3, Name: "vTPM key enrollment", Purpose: "provisions keys for virtual TPMs",
		Source: fromTable36,
		Note:   "image and policy are not published; in 2015 only this one could call IumSecureStoragePut, and only VMSP IumSecureStorageGet (Ionescu, \"Battle of SKM and IUM\")",
	},
	{
		ID: 4, Name: "BIOISO", Image: "BioIso.exe", Purpose: "secure biometrics",
		Expected: []Expectation{
			{ID: PolicyETW, Want: WantNonzero}, {ID: PolicyDebug, Want: WantZero}, {ID: PolicyCrashDump, Want: WantNonzero},
		},
		Source: fromTable36,
	},
	{
		ID: 5, Name: "FSISO", Image: "FsIso.exe", Purpose: "secure frame server, for cameras",
		Expected: []Expectation{
			{ID: PolicyETW, Want: WantZero}, {ID: PolicyDebug, Want: WantNonzero}, {ID: PolicyCapability, Want: WantEntry},
			{ID: PolicyScenarioID, Want: WantGUID, Text: "{AE53FC6E-8D89-4488-9D2E-4D008731C5FD}"},
		},
		Source: fromTable36 + "; the scenario also as public notes read it from the file",
		Note:   "the capability is that of creating secure sections; which number it has, no source tells",
	},
	{
		ID: 6, Name: "KCM", Image: "NgcIso.exe", Purpose: "key credential manager, for Windows Hello",
		Source: "microsoft/VbsEnclaveTooling (TRUSTLETIDENTITY_KCM)",
		Note:   "the image is probable only; the policy is not published",
	},
	{
		ID: 0x1000, Name: "SecureCompanion", Purpose: "hosts the secure companion of a UMDF driver, which its vendor writes",
		Source: "TrustletIdentity in public driver INF files",
		Note:   "image and policy are not published",
	},
}

// Trustlets returns the known trustlets, by ascending id.
func Trustlets() iter.Seq[Trustlet] {
	return slices.Values(trustletTable[:])
}

// FindTrustlet returns the trustlet with an id, and whether it is known.
func FindTrustlet(id uint64) (Trustlet, bool) {
	for _, t := range trustletTable {
		if t.ID == id {
			return t, true
		}
	}
	return Trustlet{}, false
}

// Compare returns which expectations a policy does not meet. What no source speaks of is
// not compared, and entries of type EntryOverride do not count. The id is the caller's to
// compare.
func (t Trustlet) Compare(p *Policy) []Deviation {
	var all []Deviation
	for _, e := range t.Expected {
		entries := slices.DeleteFunc(p.All(e.ID), func(e Entry) bool { return e.Type == EntryOverride })
		if e.met(entries) {
			continue
		}
		got := "none"
		if len(entries) > 0 {
			got = entryText(entries[0])
		}
		all = append(all, Deviation{e, got})
	}
	return all
}

// met tells whether the entries of a policy id meet the expectation. Where there can be only
// one, the first counts.
func (e Expectation) met(entries []Entry) bool {
	if len(entries) == 0 {
		return e.Want == WantZero
	}
	switch e.Want {
	case WantZero:
		return !entries[0].Type.isText() && entries[0].Value == 0
	case WantNonzero:
		return !entries[0].Type.isText() && entries[0].Value != 0
	case WantEntry:
		return true
	case WantText:
		for _, entry := range entries {
			if strings.Contains(strings.ToLower(entry.Text), strings.ToLower(e.Text)) {
				return true
			}
		}
	case WantGUID:
		want, err := ParseGUID(e.Text)
		for _, entry := range entries {
			if g, ok := entry.GUID(); err == nil && ok && g == want {
				return true
			}
		}
	}
	return false
}

func entryText(e Entry) string {
	if e.Type.isText() {
		return fmt.Sprintf("%q", e.Text)
	}
	return fmt.Sprintf("%#x", e.Value)
}

// String says what is expected, in words.
func (e Expectation) String() string {
	switch e.Want {
	case WantZero:
		return fmt.Sprintf("%v is 0 or absent", e.ID)
	case WantNonzero:
		return fmt.Sprintf("%v is not 0", e.ID)
	case WantEntry:
		return fmt.Sprintf("%v is there", e.ID)
	case WantText:
		return fmt.Sprintf("%v contains %s", e.ID, e.Text)
	case WantGUID:
		return fmt.Sprintf("%v is %s", e.ID, e.Text)
	}
	return fmt.Sprintf("%v: Want(%d)", e.ID, e.Want)
}

// String says what is expected and what there is.
func (d Deviation) String() string {
	return fmt.Sprintf("expected: %v; found: %s", d.Expectation, d.Got)
}
