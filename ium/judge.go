package ium

import (
	"fmt"
	"iter"
	"slices"
	"strings"

	"github.com/govtx/vtx/internal/names"
)

// A Question is what somebody wants to do with a trustlet.
type Question uint8

// Questions.
const (
	// CreateProcess: make a secure process of the image.
	CreateProcess Question = iota
	// AttachDebugger: debug the process from VTL0 (secure service DebugProcess).
	AttachDebugger
	// WriteCrashDump: write a dump of the process when it fails.
	WriteCrashDump
	// TraceEvents: let the process write events (ETW) that VTL0 sees.
	TraceEvents
	// DebugSecureKernel: see the process through a kernel debugger of VTL1.
	DebugSecureKernel

	numQuestions = iota
)

var questionNames = [numQuestions]string{"create", "attach debugger", "write crash dump", "trace", "debug secure kernel"}

// Questions returns all questions in order.
func Questions() iter.Seq[Question] {
	return func(yield func(Question) bool) {
		for q := range Question(numQuestions) {
			if !yield(q) {
				return
			}
		}
	}
}

// String returns a name such as attach debugger.
func (q Question) String() string {
	if q < numQuestions {
		return questionNames[q]
	}
	return fmt.Sprintf("Question(%#x)", uint8(q))
}

// ParseQuestion reads what String prints, also joined or with dashes: attach-debugger.
func ParseQuestion(s string) (Question, error) {
	for q, name := range questionNames {
		if names.Squeeze(name) == names.Squeeze(s) {
			return Question(q), nil
		}
	}
	if n, ok := parseUnknown(s, "Question", 8); ok && n >= numQuestions {
		return Question(n), nil
	}
	return 0, fmt.Errorf("unknown question %q: give %s", s, strings.Join(questionNames[:], ", "))
}

// MarshalText returns what String does.
func (q Question) MarshalText() ([]byte, error) { return []byte(q.String()), nil }

// UnmarshalText takes what ParseQuestion does.
func (q *Question) UnmarshalText(text []byte) (err error) {
	*q, err = ParseQuestion(string(text))
	return err
}

// A Platform is the state of the machine, and of the process, that VTL1 looks at. The
// zero value is one without Secure Boot on which nothing special has been done.
type Platform struct {
	SecureBoot   bool // Secure Boot is enabled
	DebugEnabled bool // the secure kernel may be debugged: DebugEnabled of SYSTEM_ISOLATED_USER_MODE_INFORMATION
	TestSigning  bool // images signed under the test root are taken; see Claims.TrustletLacks

	// ChallengePassed: the response to the challenge has been given (secure services 18
	// and 19). The challenge is 8 random bytes, encrypted with the crash dump key of
	// the policy: only who has the private key can tell them.
	ChallengePassed bool

	RequestedID uint64 // the trustlet id that the creator has asked for; 0: that of the image
	WrongParent bool   // the creator does not fit the security descriptor of the policy
}

// An Answer tells whether VTL1 allows something.
type Answer struct {
	Question Question
	Allowed  bool
	Rule     Rule   // the rule that decides
	Reason   string // its words
	Source   string // where the rule is from

	// Inferred tells that the rule is a conclusion, from names or from what is
	// known of similar rules: nobody has published that part of the secure kernel.
	Inferred bool
}

// String is a line such as "attach debugger: denied, because debugging is disabled
// (debug-disabled)".
func (a Answer) String() string {
	word, note := "denied", ""
	if a.Allowed {
		word = "allowed"
	}
	if a.Inferred {
		note = ", inferred"
	}
	return fmt.Sprintf("%v: %s, because %s (%s%s)", a.Question, word, a.Reason, a.Rule, note)
}

// A JudgeRule is a row of the model of VTL1's decisions.
type JudgeRule struct {
	Question Question
	Rule     Rule
	Allowed  bool
	Inferred bool
	Reason   string
	Source   string

	holds func(*judged) bool
}

// Sources of rules.
const (
	fromCallback   = "securekernel.exe of Windows 11, decompiled: SkpspReadPolicyMetadataCallback"
	fromReadPolicy = "securekernel.exe of Windows 11, decompiled: SkpsReadPolicyMetadata"
	fromInitialize = "securekernel.exe of Windows 11, decompiled: SkpsInitializeProcess"
	fromDebugging  = "securekernel.exe of Windows 11, decompiled: SkpsIsProcessDebuggingEnabled (LiveCloudKd, issue 19)"
	fromChallenge  = "securekernel.exe of Windows 11, decompiled: secure services 18 and 19 of IumInvokeSecureService"
	fromInternals  = "Windows Internals 7, part 1, chapter 3, policies of trustlets"
	fromSysInfo    = "phnt, ntexapi.h: SYSTEM_ISOLATED_USER_MODE_INFORMATION"
	fromHeader     = "winnt.h, Windows SDK 10.0.26100: IMAGE_POLICY_METADATA"
)

// judgeRules is the model. Of the rules for a question the first one that holds decides;
// the last one always does. All questions but the last, DebugSecureKernel, begin with the
// rules of CreateProcess that deny: without a process there is nothing to do.
var judgeRules = []JudgeRule{
	{CreateProcess, "create-no-policy", false, false, "the image has no policy: it is not a trustlet", fromReadPolicy,
		func(j *judged) bool { return j.policy == nil }},
	{CreateProcess, "create-version", false, true, "the version of the policy is not 1", fromHeader,
		func(j *judged) bool { return j.policy.Version != 1 }},
	{CreateProcess, "create-type", false, false, "an entry has a type that its id does not have: ETW, parent security descriptor revision and SVN are UInt32, the parent security descriptor is a Unicode string, capabilities are UInt64", fromCallback,
		func(j *judged) bool { return j.wrongType }},
	{CreateProcess, "create-twice", false, false, "ETW, the parent security descriptor, its revision or the SVN is there more than once", fromCallback,
		func(j *judged) bool { return j.twice }},
	{CreateProcess, "create-capability", false, false, "a capability is not a number from 0 to 7", fromCallback,
		func(j *judged) bool { return j.badCapability }},
	{CreateProcess, "create-scenario", false, true, "a scenario id is not a string with a GUID", fromCallback,
		func(j *judged) bool { return j.badScenario }},
	{CreateProcess, "create-id-zero", false, false, "the trustlet id of the policy is 0", fromReadPolicy,
		func(j *judged) bool { return j.policy.ID == 0 }},
	{CreateProcess, "create-id", false, false, "the creator has asked for a trustlet id that is not the one of the policy", fromReadPolicy,
		func(j *judged) bool { return j.RequestedID != 0 && j.RequestedID != j.policy.ID }},
	{CreateProcess, "create-parent-half", false, false, "only one of the parent security descriptor and its revision is there, or the descriptor is empty", fromReadPolicy,
		func(j *judged) bool { return j.parentSD != j.parentRevision || j.parentSD && j.emptySD }},
	{CreateProcess, "create-parent", false, false, "the creator does not fit the parent security descriptor", fromReadPolicy,
		func(j *judged) bool { return j.parentSD && j.WrongParent }},
	{CreateProcess, "create-capability-5", false, false, "capability 5 is not supported", fromInitialize,
		func(j *judged) bool { return j.capabilities&(1<<5) != 0 }},
	{CreateProcess, "create-allowed", true, false, "the policy is accepted", fromReadPolicy, always},

	{AttachDebugger, "debug-missing", false, false, "the policy says nothing on debugging", fromDebugging,
		func(j *judged) bool { return !j.debug.there }},
	{AttachDebugger, "debug-type", false, true, "the debug policy is not of type UInt32, which is the type it is looked for with", fromDebugging,
		func(j *judged) bool { return j.debug.typ != EntryUInt32 }},
	{AttachDebugger, "debug-disabled", false, false, "debugging is disabled", fromDebugging,
		func(j *judged) bool { return j.debug.value == uint64(DebugNever) }},
	{AttachDebugger, "debug-always", true, false, "debugging is always allowed", fromDebugging,
		func(j *judged) bool { return j.debug.value == uint64(DebugAlways) }},
	{AttachDebugger, "debug-secure-boot", false, false, "debugging is allowed only without Secure Boot, which is enabled", fromDebugging,
		func(j *judged) bool { return j.debug.value == uint64(DebugWithoutSecureBoot) && j.SecureBoot }},
	{AttachDebugger, "debug-no-secure-boot", true, false, "debugging is allowed without Secure Boot, which is not enabled", fromDebugging,
		func(j *judged) bool { return j.debug.value == uint64(DebugWithoutSecureBoot) }},
	{AttachDebugger, "debug-challenge-key", false, false, "debugging is allowed after a challenge, and that cannot be made: the policy has no crash dump key", fromChallenge,
		func(j *judged) bool { return j.debug.value == uint64(DebugAfterChallenge) && !j.key }},
	{AttachDebugger, "debug-challenge", true, false, "debugging is allowed after the challenge, which has been passed", fromDebugging,
		func(j *judged) bool { return j.debug.value == uint64(DebugAfterChallenge) && j.ChallengePassed }},
	{AttachDebugger, "debug-no-challenge", false, false, "debugging is allowed only after a challenge, which has not been passed", fromDebugging,
		func(j *judged) bool { return j.debug.value == uint64(DebugAfterChallenge) }},
	{AttachDebugger, "debug-unknown", false, false, "the debug policy is not a number from 0 to 3", fromDebugging, always},

	{WriteCrashDump, "dump-missing", false, true, "the policy says nothing on crash dumps", fromInternals,
		func(j *judged) bool { return !j.dump.there }},
	{WriteCrashDump, "dump-type", false, true, "the policy of crash dumps is not of type UInt32, which is the type it has", fromInternals,
		func(j *judged) bool { return j.dump.typ != EntryUInt32 }},
	{WriteCrashDump, "dump-disabled", false, false, "crash dumps are disabled", fromInternals,
		func(j *judged) bool { return j.dump.value == 0 }},
	{WriteCrashDump, "dump-no-key", false, true, "crash dumps are encrypted with a key of the policy, and it has none", fromInternals,
		func(j *judged) bool { return !j.key }},
	{WriteCrashDump, "dump-encrypted", true, false, "crash dumps are enabled, encrypted with the key of the policy", fromInternals, always},

	{TraceEvents, "trace-missing", false, false, "the policy says nothing on ETW", fromCallback,
		func(j *judged) bool { return !j.etw.there }},
	{TraceEvents, "trace-allowed", true, false, "ETW is enabled", fromCallback,
		func(j *judged) bool { return j.etw.value == 1 }},
	{TraceEvents, "trace-disabled", false, false, "ETW is not enabled: that is 1, and no other number", fromCallback, always},

	{DebugSecureKernel, "kernel-debug", true, true, "the secure kernel may be debugged, and its debugger sees all of VTL1: no policy is asked", fromSysInfo,
		func(j *judged) bool { return j.DebugEnabled }},
	{DebugSecureKernel, "kernel-no-debug", false, true, "the secure kernel may not be debugged", fromSysInfo, always},
}

func always(*judged) bool { return true }

// JudgeRules returns the rules of the model in order: of those for a question the first
// one that holds decides. Rules of [CreateProcess] that deny also decide for the others, but
// not for [DebugSecureKernel].
func JudgeRules() iter.Seq[JudgeRule] {
	return slices.Values(judgeRules)
}

// judged is what the rules look at.
type judged struct {
	Platform
	policy *Policy

	wrongType, twice, badCapability, badScenario bool
	capabilities                                 uint64 // a bit each
	parentSD, emptySD, parentRevision            bool
	key                                          bool
	debug, dump, etw                             policyValue
}

// A policyValue is the first entry with an id and a value.
type policyValue struct {
	there bool
	typ   EntryType
	value uint64
}

func (v *policyValue) set(e Entry) {
	if !v.there && e.Type != EntryOverride {
		*v = policyValue{true, e.Type, e.Value}
	}
}

// read collects what the rules look at. The types and numbers are those that
// SkpspReadPolicyMetadataCallback demands; ids that it does not look at may have any.
func (j *judged) read() {
	seen := map[PolicyID]int{}
	for _, e := range j.policy.Entries {
		seen[e.ID]++
		want := e.Type
		switch e.ID {
		case PolicyETW:
			want = EntryUInt32
			j.etw.set(e)
		case PolicyDebug:
			j.debug.set(e)
		case PolicyCrashDump:
			j.dump.set(e)
		case PolicyCrashDumpKey:
			j.key = j.key || e.Type != EntryOverride
		case PolicyParentSD:
			want = EntryUnicodeString
			j.parentSD, j.emptySD = true, e.Text == ""
		case PolicyParentSDRevision:
			want = EntryUInt32
			j.parentRevision = true
		case PolicySVN:
			want = EntryUInt32
		case PolicyCapability, PolicyCapabilityOverridable:
			want = EntryUInt64
			j.badCapability = j.badCapability || e.Value >= 8
			if e.ID == PolicyCapability && e.Value < 8 {
				j.capabilities |= 1 << e.Value
			}
		case PolicyScenarioID:
			_, ok := e.GUID()
			j.badScenario = j.badScenario || !ok
		}
		j.wrongType = j.wrongType || e.Type != want
	}
	for _, id := range []PolicyID{PolicyETW, PolicyParentSD, PolicyParentSDRevision, PolicySVN} {
		j.twice = j.twice || seen[id] > 1
	}
}

// Judge tells whether VTL1 allows something with a trustlet, given the policy of its
// image, nil if it has none, and the state of the platform. It is a model: each rule
// has its source, and some are inferred. It knows nothing of the image's signature.
func Judge(p *Policy, platform Platform, q Question) Answer {
	j := judged{Platform: platform, policy: p}
	if p != nil {
		j.read()
	}
	for i := range judgeRules {
		r := &judgeRules[i]
		applies := r.Question == q
		if r.Question == CreateProcess && q != DebugSecureKernel && q < numQuestions {
			applies = applies || !r.Allowed
		}
		if applies && r.holds(&j) {
			return Answer{q, r.Allowed, r.Rule, r.Reason, r.Source, r.Inferred}
		}
	}
	return Answer{Question: q, Rule: RuleNoQuestion, Reason: fmt.Sprintf("%v is not a question: give one of Questions", q)}
}

// RuleNoQuestion is the rule of the answer, denied, to what is not a question.
const RuleNoQuestion Rule = "no-question"
