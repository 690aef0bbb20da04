package ium

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// debugModel is SkpsIsProcessDebuggingEnabled, step by step as it is decompiled, where
// found tells whether the policy has an entry Debug of type UInt32.
func debugModel(found bool, value uint32, secureBoot, flag bool) bool {
	if !found || value >= 4 {
		return false
	}
	if value == 0 {
		return false
	}
	if value == 1 {
		return true
	}
	if value == 2 {
		return !secureBoot // STATUS_SECUREBOOT_NOT_ENABLED
	}
	return flag
}

// createModel is SkpspReadPolicyMetadataCallback for each entry, and then
// SkpsReadPolicyMetadata and SkpsInitializeProcess. Parts that are not published are
// left out.
func createModel(p *Policy, platform Platform) (created, etw bool) {
	var seen uint
	var capabilities uint64
	for _, e := range p.Entries {
		switch e.ID {
		case 1:
			if seen&1 != 0 || e.Type != 7 {
				return false, false
			}
			etw = e.Value == 1
			seen |= 1
		case 6:
			if seen&2 != 0 || e.Type != 11 {
				return false, false
			}
			seen |= 2
		case 7:
			if seen&4 != 0 || e.Type != 7 {
				return false, false
			}
			seen |= 4
		case 8:
			if seen&8 != 0 || e.Type != 7 {
				return false, false
			}
			seen |= 8
		case 10, 12:
			if e.Type != 9 || e.Value >= 8 {
				return false, false
			}
			if e.ID == 10 {
				capabilities |= 1 << e.Value
			}
		}
	}
	requested := platform.RequestedID
	if requested == 0 {
		requested = p.ID
	}
	if p.ID == 0 || p.ID != requested {
		return false, false
	}
	switch {
	case seen&2 != 0 && seen&4 != 0:
		if platform.WrongParent {
			return false, false
		}
	case seen&2 != 0 || seen&4 != 0:
		return false, false
	}
	return capabilities&0x20 == 0, etw
}

// TestJudgeDebugger goes through all that debugging depends on.
func TestJudgeDebugger(t *testing.T) {
	both := []bool{false, true}
	n := 0
	for _, value := range []uint32{0, 1, 2, 3, 4, 5, 0x80000002, 0xFFFFFFFF} {
		for _, typ := range []EntryType{EntryNone, EntryBool, EntryUInt32, EntryUInt64, EntryOverride} {
			for _, there := range both {
				for _, secureBoot := range both {
					for _, passed := range both {
						for _, key := range both {
							p := &Policy{Version: 1, ID: 1}
							if there {
								p.Entries = append(p.Entries, Entry{Type: typ, ID: PolicyDebug, Value: uint64(value)})
							}
							if key {
								p.Entries = append(p.Entries, Entry{Type: EntryAnsiString, ID: PolicyCrashDumpKey, Text: "key"})
							}
							a := Judge(p, Platform{SecureBoot: secureBoot, ChallengePassed: passed}, AttachDebugger)
							// Without a key there is no challenge that could be passed.
							want := debugModel(there && typ == EntryUInt32, value, secureBoot, passed && key)
							assert.Equal(t, want, a.Allowed, "%v: %v %v, Secure Boot %v, passed %v, key %v", a, typ, value, secureBoot, passed, key)
							n++
						}
					}
				}
			}
		}
	}
	assert.Equal(t, 8*5*16, n)
}

// drawPolicy draws policies of which some are accepted and some are not.
func drawPolicy(t *rapid.T) *Policy {
	if rapid.IntRange(0, 30).Draw(t, "nil") == 0 {
		return nil
	}
	p := &Policy{
		Version: rapid.SampledFrom([]uint8{1, 1, 1, 1, 1, 1, 1, 0, 2}).Draw(t, "version"),
		ID:      rapid.SampledFrom([]uint64{1, 1, 1, 1, 1, 2, 0}).Draw(t, "id"),
	}
	usual := map[PolicyID]EntryType{
		PolicyETW: EntryUInt32, PolicyDebug: EntryUInt32, PolicyCrashDump: EntryUInt32,
		PolicyCrashDumpKey: EntryAnsiString, PolicyParentSD: EntryUnicodeString, PolicyParentSDRevision: EntryUInt32,
		PolicySVN: EntryUInt32, PolicyCapability: EntryUInt64, PolicyScenarioID: EntryAnsiString, PolicyCapabilityOverridable: EntryUInt64,
	}
	ids := []PolicyID{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 99}
	pair := rapid.IntRange(0, 2).Draw(t, "pair") > 0
	for range rapid.IntRange(0, 6).Draw(t, "entries") {
		e := Entry{ID: rapid.SampledFrom(ids).Draw(t, "id"), Value: rapid.SampledFrom([]uint64{0, 1, 1, 2, 3, 4, 5, 8, 1 << 40}).Draw(t, "value")}
		if pair && (e.ID == PolicyParentSD || e.ID == PolicyParentSDRevision) {
			continue
		}
		if typ, ok := usual[e.ID]; ok && rapid.IntRange(0, 20).Draw(t, "usual") > 0 {
			e.Type = typ
		} else {
			e.Type = EntryType(rapid.IntRange(0, 13).Draw(t, "type"))
		}
		if e.Type == EntryAnsiString || e.Type == EntryUnicodeString {
			e.Text = rapid.SampledFrom([]string{"D:", "{01234567-89AB-CDEF-0123-456789ABCDEF}"}).Draw(t, "text")
		}
		p.Entries = append(p.Entries, e)
	}
	if pair && rapid.Bool().Draw(t, "parent") {
		p.Entries = append(p.Entries,
			Entry{Type: EntryUnicodeString, ID: PolicyParentSD, Text: "D:"},
			Entry{Type: EntryUInt32, ID: PolicyParentSDRevision, Value: 1})
	}
	return p
}

func drawPlatform(t *rapid.T) Platform {
	flip := func(name string) bool { return rapid.Bool().Draw(t, name) }
	return Platform{
		SecureBoot: flip("Secure Boot"), DebugEnabled: flip("debug"), TestSigning: flip("test signing"),
		ChallengePassed: flip("challenge"), WrongParent: flip("wrong parent"),
		RequestedID: rapid.SampledFrom([]uint64{0, 0, 1, 2}).Draw(t, "requested"),
	}
}

// TestJudgeIsTotal: each question has an answer, which is a row of the table, and it is
// that of the models.
func TestJudgeIsTotal(t *testing.T) { rapid.Check(t, checkJudge) }

func FuzzJudge(f *testing.F) { f.Fuzz(rapid.MakeFuzz(checkJudge)) }

func checkJudge(t *rapid.T) {
	p, platform := drawPolicy(t), drawPlatform(t)
	rows := slices.Collect(JudgeRules())
	answers := map[Question]Answer{}
	for q := range Questions() {
		a := Judge(p, platform, q)
		require.Equal(t, q, a.Question)
		n := 0
		for _, r := range rows {
			if r.Rule == a.Rule {
				n++
				require.Equal(t, Answer{q, r.Allowed, r.Rule, r.Reason, r.Source, r.Inferred}, a)
				require.True(t, r.Question == q || r.Question == CreateProcess && !r.Allowed && q != DebugSecureKernel)
			}
		}
		require.Equal(t, 1, n, "rule %s", a.Rule)
		answers[q] = a
	}
	require.Equal(t, platform.DebugEnabled, answers[DebugSecureKernel].Allowed)
	if p == nil {
		require.Equal(t, Rule("create-no-policy"), answers[TraceEvents].Rule)
		return
	}
	created, etw := createModel(p, platform)
	// The two rules of the model that createModel does not have.
	if r := answers[CreateProcess].Rule; r == "create-version" || r == "create-scenario" {
		return
	}
	require.Equal(t, created, answers[CreateProcess].Allowed, "%v", answers[CreateProcess])
	require.Equal(t, created && etw, answers[TraceEvents].Allowed, "%v", answers[TraceEvents])
	if !created {
		require.Equal(t, answers[CreateProcess].Rule, answers[AttachDebugger].Rule)
		require.Equal(t, answers[CreateProcess].Rule, answers[WriteCrashDump].Rule)
	}
}

// TestJudgeRules has, for each rule, a policy and a platform with which it decides.
func TestJudgeRules(t *testing.T) {
	type entries = []Entry
	number := func(id PolicyID, v uint64) Entry { return Entry{Type: EntryUInt32, ID: id, Value: v} }
	sd := Entry{Type: EntryUnicodeString, ID: PolicyParentSD, Text: "D:"}
	revision := number(PolicyParentSDRevision, 1)
	capability := func(v uint64) Entry { return Entry{Type: EntryUInt64, ID: PolicyCapability, Value: v} }
	dumpKey := Entry{Type: EntryAnsiString, ID: PolicyCrashDumpKey, Text: "key"}
	scenario := func(s string) Entry { return Entry{Type: EntryAnsiString, ID: PolicyScenarioID, Text: s} }
	covered := map[Rule]bool{}
	for _, tt := range []struct {
		rule     Rule
		policy   *Policy // nil: version 1, id 7 and the entries
		entries  entries
		platform Platform
		question Question
	}{
		{rule: "create-no-policy"},
		{rule: "create-version", policy: &Policy{Version: 2, ID: 7}},
		{rule: "create-type", entries: entries{{Type: EntryBool, ID: PolicyETW, Value: 1}}},
		{rule: "create-type", entries: entries{{Type: EntryOverride, ID: PolicyCapability}}},
		{rule: "create-type", entries: entries{{Type: EntryAnsiString, ID: PolicyParentSD, Text: "D:"}, revision}, question: TraceEvents},
		{rule: "create-twice", entries: entries{number(PolicySVN, 1), number(PolicySVN, 1)}},
		{rule: "create-capability", entries: entries{capability(8)}},
		{rule: "create-scenario", entries: entries{scenario("scenario")}},
		{rule: "create-id-zero", policy: &Policy{Version: 1}},
		{rule: "create-id", entries: entries{}, platform: Platform{RequestedID: 8}},
		{rule: "create-parent-half", entries: entries{sd}},
		{rule: "create-parent-half", entries: entries{revision}},
		{rule: "create-parent-half", entries: entries{{Type: EntryUnicodeString, ID: PolicyParentSD}, revision}},
		{rule: "create-parent-half", entries: entries{{Type: EntryUnicodeString, ID: PolicyParentSD, Value: 0x140001000}, revision}},
		{rule: "create-parent", entries: entries{sd, revision}, platform: Platform{WrongParent: true}},
		{rule: "create-capability-5", entries: entries{capability(0), capability(5)}},
		{rule: "create-allowed", entries: entries{sd, revision, capability(0), capability(7), scenario("{01234567-89AB-CDEF-0123-456789ABCDEF}")}, platform: Platform{RequestedID: 7}},

		{rule: "debug-missing", entries: entries{}, question: AttachDebugger},
		{rule: "debug-type", entries: entries{{Type: EntryUInt64, ID: PolicyDebug, Value: 1}}, question: AttachDebugger},
		{rule: "debug-disabled", entries: entries{number(PolicyDebug, 0)}, question: AttachDebugger},
		{rule: "debug-always", entries: entries{number(PolicyDebug, 1)}, question: AttachDebugger, platform: Platform{SecureBoot: true}},
		{rule: "debug-secure-boot", entries: entries{number(PolicyDebug, 2)}, question: AttachDebugger, platform: Platform{SecureBoot: true}},
		{rule: "debug-no-secure-boot", entries: entries{number(PolicyDebug, 2)}, question: AttachDebugger},
		{rule: "debug-challenge-key", entries: entries{number(PolicyDebug, 3)}, question: AttachDebugger, platform: Platform{ChallengePassed: true}},
		{rule: "debug-challenge", entries: entries{number(PolicyDebug, 3), dumpKey}, question: AttachDebugger, platform: Platform{ChallengePassed: true}},
		{rule: "debug-no-challenge", entries: entries{number(PolicyDebug, 3), dumpKey}, question: AttachDebugger},
		{rule: "debug-unknown", entries: entries{number(PolicyDebug, 4)}, question: AttachDebugger},

		{rule: "dump-missing", entries: entries{}, question: WriteCrashDump},
		{rule: "dump-type", entries: entries{{Type: EntryAnsiString, ID: PolicyCrashDump, Value: 1, Text: "1"}, dumpKey}, question: WriteCrashDump},
		{rule: "dump-disabled", entries: entries{number(PolicyCrashDump, 0), dumpKey}, question: WriteCrashDump},
		{rule: "dump-no-key", entries: entries{number(PolicyCrashDump, 1)}, question: WriteCrashDump},
		{rule: "dump-no-key", entries: entries{number(PolicyCrashDump, 1), {Type: EntryOverride, ID: PolicyCrashDumpKey}}, question: WriteCrashDump},
		{rule: "dump-encrypted", entries: entries{number(PolicyCrashDump, 1), dumpKey}, question: WriteCrashDump},

		{rule: "trace-missing", entries: entries{}, question: TraceEvents},
		{rule: "trace-allowed", entries: entries{number(PolicyETW, 1)}, question: TraceEvents},
		{rule: "trace-disabled", entries: entries{number(PolicyETW, 2)}, question: TraceEvents},

		{rule: "kernel-debug", question: DebugSecureKernel, platform: Platform{DebugEnabled: true}},
		{rule: "kernel-no-debug", question: DebugSecureKernel},
		{rule: RuleNoQuestion, question: 99},
	} {
		p := tt.policy
		if tt.entries != nil {
			p = &Policy{Version: 1, ID: 7, Entries: tt.entries}
		}
		a := Judge(p, tt.platform, tt.question)
		assert.Equal(t, tt.rule, a.Rule, "%v", a)
		assert.Contains(t, a.String(), string(tt.rule))
		covered[a.Rule] = true
	}
	seen := map[Rule]bool{}
	for r := range JudgeRules() {
		assert.True(t, covered[r.Rule], "no case reaches %s", r.Rule)
		assert.False(t, seen[r.Rule], "%s is there twice", r.Rule)
		seen[r.Rule] = true
		assert.NotEmpty(t, r.Source)
	}
}

func TestQuestions(t *testing.T) {
	assert.Len(t, slices.Collect(Questions()), 5)
	for q := range Question(255) {
		text, err := q.MarshalText()
		require.NoError(t, err)
		var back Question
		require.NoError(t, back.UnmarshalText(text))
		assert.Equal(t, q, back)
	}
	q, err := ParseQuestion("Attach-Debugger")
	require.NoError(t, err)
	assert.Equal(t, AttachDebugger, q)
	for _, s := range []string{"", "ask", "Question(0x1)"} {
		_, err := ParseQuestion(s)
		assert.ErrorContains(t, err, "write crash dump", s)
	}
}
