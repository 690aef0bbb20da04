package ium_test

import (
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/govtx/vtx/ium"
)

// as is a policy that does what Windows Internals says of a trustlet.
func as(id uint64) *ium.Policy {
	number := func(id ium.PolicyID, v uint64) ium.Entry { return ium.Entry{Type: ium.EntryUInt32, ID: id, Value: v} }
	text := func(id ium.PolicyID, s string) ium.Entry {
		return ium.Entry{Type: ium.EntryAnsiString, ID: id, Text: s}
	}
	p := &ium.Policy{Version: 1, ID: id}
	switch id {
	case 1, 4:
		p.Entries = []ium.Entry{number(ium.PolicyETW, 1), number(ium.PolicyDebug, 0), number(ium.PolicyCrashDump, 1)}
	case 2:
		p.Entries = []ium.Entry{number(ium.PolicyETW, 1), number(ium.PolicyDebug, 0), number(ium.PolicyCrashDump, 0), number(ium.PolicyCapability, 4), text(ium.PolicyParentSD, "O:s-1-5-83-0")}
	case 5:
		p.Entries = []ium.Entry{number(ium.PolicyETW, 0), number(ium.PolicyDebug, 1), number(ium.PolicyCapability, 1), text(ium.PolicyScenarioID, "{ae53fc6e-8d89-4488-9d2e-4d008731c5fd}")}
	}
	return p
}

func TestTrustlets(t *testing.T) {
	var last int64 = -1
	for k := range ium.Trustlets() {
		require.Greater(t, int64(k.ID), last)
		last = int64(k.ID)
		require.NotEmpty(t, k.Name)
		require.NotEmpty(t, k.Purpose)
		require.NotEmpty(t, k.Source)
		got, ok := ium.FindTrustlet(k.ID)
		require.True(t, ok)
		require.Equal(t, k, got)
		require.Empty(t, k.Compare(as(k.ID)), "%s", k.Name)
		for _, e := range k.Expected {
			if e.Want == ium.WantGUID {
				_, err := ium.ParseGUID(e.Text)
				require.NoError(t, err)
			}
		}
	}
	require.EqualValues(t, 0x1000, last)
	_, ok := ium.FindTrustlet(7)
	require.False(t, ok)
	require.Equal(t, "ImagePolicyIdSvn: Want(9)", ium.Expectation{ID: ium.PolicySVN, Want: 9}.String())
}

func TestTrustletCompare(t *testing.T) {
	for _, tc := range []struct {
		name   string
		id     uint64
		change func(p *ium.Policy)
		want   []string
	}{
		{"debugging allowed", 1, func(p *ium.Policy) { p.Entries[1].Value = 1 }, []string{"expected: ImagePolicyIdDebug is 0 or absent; found: 0x1"}},
		{"no debug entry", 1, func(p *ium.Policy) { p.Entries = append(p.Entries[:1:1], p.Entries[2]) }, nil},
		{"no tracing", 4, func(p *ium.Policy) { p.Entries = p.Entries[1:] }, []string{"expected: ImagePolicyIdEtw is not 0; found: none"}},
		{"another parent", 2, func(p *ium.Policy) { p.Entries[4].Text = "O:BA" }, []string{`expected: ImagePolicyIdParentSd contains S-1-5-83-0; found: "O:BA"`}},
		{"a number for a string", 2, func(p *ium.Policy) { p.Entries[4] = ium.Entry{Type: ium.EntryUInt32, ID: ium.PolicyParentSD, Value: 5} }, []string{`expected: ImagePolicyIdParentSd contains S-1-5-83-0; found: 0x5`}},
		{"a string for a number", 1, func(p *ium.Policy) { p.Entries[1].Type = ium.EntryAnsiString }, []string{`expected: ImagePolicyIdDebug is 0 or absent; found: ""`}},
		{"another scenario", 5, func(p *ium.Policy) { p.Entries[3].Text = "{00000000-0000-0000-0000-000000000000}" }, []string{`expected: ImagePolicyIdScenarioId is {AE53FC6E-8D89-4488-9D2E-4D008731C5FD}; found: "{00000000-0000-0000-0000-000000000000}"`}},
		{"the second scenario", 5, func(p *ium.Policy) {
			p.Entries = append(p.Entries[:3:3], ium.Entry{Type: ium.EntryAnsiString, ID: ium.PolicyScenarioID, Text: "{00000000-0000-0000-0000-000000000000}"}, p.Entries[3])
		}, nil},
		{"no value in an override", 1, func(p *ium.Policy) {
			p.Entries[2] = ium.Entry{Type: ium.EntryOverride, ID: ium.PolicyCrashDump, Value: 1}
		}, []string{"expected: ImagePolicyIdCrashDump is not 0; found: none"}},
		{"nothing", 5, func(p *ium.Policy) { p.Entries = nil }, []string{"expected: ImagePolicyIdDebug is not 0; found: none", "expected: ImagePolicyIdCapability is there; found: none", "expected: ImagePolicyIdScenarioId is {AE53FC6E-8D89-4488-9D2E-4D008731C5FD}; found: none"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := as(tc.id)
			tc.change(p)
			k, ok := ium.FindTrustlet(tc.id)
			require.True(t, ok)
			var got []string
			for _, d := range k.Compare(p) {
				got = append(got, d.String())
			}
			require.Equal(t, tc.want, got)
		})
	}
}

// Any policy can be compared with any trustlet.
func TestTrustletCompareAny(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := &ium.Policy{}
		for range rapid.IntRange(0, 20).Draw(t, "entries") {
			p.Entries = append(p.Entries, ium.Entry{
				Type: ium.EntryType(rapid.Uint32Range(0, 14).Draw(t, "type")), ID: ium.PolicyID(rapid.Uint32Range(0, 15).Draw(t, "id")),
				Value: rapid.Uint64().Draw(t, "value"), Text: rapid.String().Draw(t, "text"),
			})
		}
		for k := range ium.Trustlets() {
			require.LessOrEqual(t, len(k.Compare(p)), len(k.Expected))
		}
	})
}
