package vtl_test

import (
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/govtx/vtx/hypercall"
	"github.com/govtx/vtx/internal/require"
	"github.com/govtx/vtx/ring0"
	"github.com/govtx/vtx/vtl"
)

// numRules is how many statements docs/vtl-rules.md has.
const numRules = 145

// rules are the tests of the statements, by number.
var rules = merge(rulesOfEnabling, rulesOfCalls, rulesOfInterrupts, rulesOfRegisters, rulesOfConfig, rulesOfProtection, rulesOfIntercepts, rulesOfStarting, rulesOfHypercalls)

// untested are the statements without a test, with the reason.
var untested = map[int]string{
	39:  "ARM64, which this package does not model.",
	123: "the embedder writes these pages.",
	125: "the event has no value: the embedder, who decodes the MSR, decides.",
	127: "the MSRs and the page are the embedder's.",
}

func merge(lists ...map[int]func(*testing.T)) map[int]func(*testing.T) {
	all := map[int]func(*testing.T){}
	for _, list := range lists {
		for n, f := range list {
			if all[n] != nil {
				panic(fmt.Sprintf("rule %d has two tests", n))
			}
			all[n] = f
		}
	}
	return all
}

// TestRules goes through the statements of docs/vtl-rules.md by their numbers.
func TestRules(t *testing.T) {
	for n := 1; n <= numRules; n++ {
		f := rules[n]
		_, reason := untested[n]
		require.True(t, (f != nil) != reason, "rule %d has to have a test, or a reason why it has none", n)
		if f != nil {
			t.Run(fmt.Sprintf("%03d", n), f)
		}
	}
	require.Len(t, rules, numRules-len(untested))
}

var (
	ruleHead  = regexp.MustCompile(`^(\d+)\. +\S`)
	ruleTest  = regexp.MustCompile("^ +\\*Test:\\* `TestRules/(\\d{3})`$")
	ruleNone  = regexp.MustCompile(`^ +\*No test:\* (.*)$`)
	ruleLists = regexp.MustCompile(`\d+`)
)

// Docs/vtl-rules.md has all numbers, in order, and says of each truly which test there is.
func TestRulesDocument(t *testing.T) {
	if ring0.Active() {
		t.Skip("there are no files in ring 0")
	}
	text, err := os.ReadFile("../docs/vtl-rules.md")
	require.NoError(t, err)
	n, ends := 0, true
	for i, line := range strings.Split(string(text), "\n") {
		if m := ruleHead.FindStringSubmatch(line); m != nil {
			require.True(t, ends, "rule %d has neither a test nor a reason", n)
			n, ends = n+1, false
			require.Equal(t, strconv.Itoa(n), m[1], "line %d", i+1)
		}
		if m := ruleTest.FindStringSubmatch(line); m != nil {
			require.Equal(t, fmt.Sprintf("%03d", n), m[1], "line %d", i+1)
			require.True(t, rules[n] != nil && !ends, "line %d", i+1)
			ends = true
		}
		if m := ruleNone.FindStringSubmatch(line); m != nil {
			require.Equal(t, untested[n], m[1], "line %d", i+1)
			require.False(t, ends, "line %d", i+1)
			ends = true
		}
	}
	require.Equal(t, numRules, n)
	require.True(t, ends, "rule %d has neither a test nor a reason", n)
}

// The numbers in the tables of the package are those of rules.
func TestRuleNumbers(t *testing.T) {
	check := func(list string) {
		for _, s := range ruleLists.FindAllString(list, -1) {
			n, err := strconv.Atoi(s)
			require.NoError(t, err)
			require.True(t, 1 <= n && n <= numRules, "%q", list)
		}
	}
	for c := range vtl.Choices() {
		require.NotEmpty(t, c.Rules)
		check(c.Rules)
	}
	for r := range vtl.Refusals() {
		check(r.Rules())
	}
}

var profiles = [...]vtl.Profile{vtl.TLFS, vtl.OpenVMM, vtl.KVM}

// A by is what each profile says.
type by[T any] struct{ TLFS, OpenVMM, KVM T }

func (b by[T]) of(p vtl.Profile) T { return [...]T{b.TLFS, b.OpenVMM, b.KVM}[p] }

func eachProfile(t *testing.T, f func(t *testing.T, p vtl.Profile)) {
	for _, p := range profiles {
		t.Run(p.String(), func(t *testing.T) { f(t, p) })
	}
}

// status requires a call to have a status: without effects and as if it had not been
// made, if that is not success.
func (r *rig) status(want hypercall.Status, call func() hypercall.Status) {
	r.t.Helper()
	before := state(r.Partition)
	r.e.Reset()
	require.Equal(r.t, want, call(), "%v", r.Why())
	if want != ok {
		r.unchanged(before)
		require.NotZero(r.t, r.Why())
		require.Equal(r.t, want, r.Why().Status(r.Config().Profile))
	} else {
		require.Zero(r.t, r.Why())
	}
}

// outcome is status for events.
func (r *rig) outcome(want vtl.Outcome, event func() vtl.Outcome) {
	r.t.Helper()
	before := state(r.Partition)
	r.e.Reset()
	require.Equal(r.t, want, event(), "%v", r.Why())
	if want == vtl.UndefinedInstruction || want == vtl.GeneralProtection || want == vtl.Dropped {
		r.unchanged(before)
	}
}

func (r *rig) unchanged(before string) {
	r.t.Helper()
	require.Equal(r.t, before, state(r.Partition), "refused, but something has changed")
	require.Zero(r.t, r.e.Len(), "refused, but:\n%v", &r.e)
}

func (r *rig) none(kind vtl.EffectKind) {
	r.t.Helper()
	_, found := r.e.Find(kind)
	require.False(r.t, found, "%v among:\n%v", kind, &r.e)
}

const (
	iHypercall = hypercall.StatusInvalidHypercallInput
	iAlignment = hypercall.StatusInvalidAlignment
	iParameter = hypercall.StatusInvalidParameter
	denied     = hypercall.StatusAccessDenied
	iValue     = hypercall.StatusInvalidRegisterValue
	iVTL       = hypercall.StatusInvalidVTLState
	iVP        = hypercall.StatusInvalidVPState
	iIndex     = hypercall.StatusInvalidVPIndex
	iPartition = hypercall.StatusInvalidPartitionID
	already    = hypercall.StatusVTLAlreadyEnabled

	foreign = 77 // another partition

	vtl0, vtl1, vtl2 = hypercall.InputVTL(0x10), hypercall.InputVTL(0x11), hypercall.InputVTL(0x12)
)

// levels has VTL1 up to a level enabled on processor 0, which runs the highest.
func levels(t require.T, top vtl.VTL, c vtl.Config) *rig {
	t.Helper()
	c.MaximumVTL = max(c.MaximumVTL, top)
	c.Processors = max(c.Processors, 1)
	r := newRig(t, c)
	for l := vtl.VTL(1); l <= top; l++ {
		r.enable(0, l, hypercall.EnablePartitionVtlFlags(c.Capabilities.MbecVtlMask()>>l&1))
		r.call(0)
	}
	r.e.Reset()
	return r
}

// downTo has processor vp return until it runs a level.
func (r *rig) downTo(vp uint32, l vtl.VTL) {
	r.t.Helper()
	for r.Active(vp) > l {
		r.ret(vp)
	}
	require.Equal(r.t, l, r.Active(vp))
	r.e.Reset()
}

// startVP has processor vp start another one.
func (r *rig) startVP(vp, target uint32, level vtl.VTL) (vtl.Outcome, hypercall.Status) {
	return r.StartVP(vp, &hypercall.StartVirtualProcessorInput{PartitionID: self, VPIndex: target, TargetVTL: level, Context: good}, &r.e)
}

func (r *rig) started(vp, target uint32) {
	r.t.Helper()
	o, s := r.startVP(vp, target, 0)
	require.Equal(r.t, vtl.Done, o)
	require.Equal(r.t, ok, s, "%v", r.Why())
	r.e.Reset()
}

// restrict leaves rights to VTL0, by the mask of the active level, as the profile has the call.
func (r *rig) restrict(vp uint32, a vtl.Access, pages ...uint64) (int, hypercall.Status) {
	target := vtl0
	if r.Config().Profile == vtl.OpenVMM {
		target = 0
	}
	return r.protect(vp, target, a, pages...)
}

func (r *rig) must(done int, s hypercall.Status) {
	r.t.Helper()
	require.Equal(r.t, ok, s, "%v", r.Why())
	require.NotZero(r.t, done)
}

// config sets VsmPartitionConfig of the active level.
func (r *rig) config(vp uint32, v hypercall.VsmPartitionConfig) hypercall.Status {
	return r.set(vp, hypercall.VPSelf, 0, hypercall.RegisterVsmPartitionConfig, uint64(v))
}

const (
	protection = hypercall.VsmPartitionConfigEnableVtlProtection
	zeroing    = hypercall.VsmPartitionConfigZeroMemoryOnReset
	allRights  = hypercall.VsmPartitionConfig(0xf << 1)
)
