package vmcs_test

import (
	"errors"
	"maps"
	"reflect"
	"slices"
	"testing"

	"github.com/govtx/vtx/internal/require"
	"github.com/govtx/vtx/internal/ring0test"
	. "github.com/govtx/vtx/vmcs"
	"pgregory.net/rapid"
)

// hashedMemory is memory with the same arbitrary content each time, some of which
// cannot be read.
type hashedMemory uint64

func (m hashedMemory) ReadPhysical(addr uint64) (uint64, error) {
	v := (addr ^ uint64(m)) * 0x9e3779b97f4a7c15
	v ^= v >> 29
	switch v >> 60 {
	case 0:
		return 0, errors.New("there is no memory")
	case 1, 2, 3, 4: // as the head of an entry of an MSR area
		msrs := []uint64{0x174, 0x175, 0x277, 0x600, 0xc0000080, 0xc0000082, 0xc0000102, 0xc0000100, 0x38f, 0x1d9, 0x808, 0x9b}
		return msrs[v%uint64(len(msrs))], nil
	}
	return v, nil
}

// drawCapabilities draws what no processor has, too.
func drawCapabilities(t *rapid.T) *Capabilities {
	if rapid.Bool().Draw(t, "a model") {
		c, err := Model(rapid.SampledFrom(Models()).Draw(t, "model"))
		require.NoError(t, err)
		return c
	}
	u := rapid.Uint64()
	c := &Capabilities{
		Basic: Basic(u.Draw(t, "basic")), Misc: Misc(u.Draw(t, "misc")), EPTVPID: EPTVPID(u.Draw(t, "ept")),
		CR0Fixed0: u.Draw(t, "cr0 fixed0"), CR0Fixed1: u.Draw(t, "cr0 fixed1"),
		CR4Fixed0: u.Draw(t, "cr4 fixed0"), CR4Fixed1: u.Draw(t, "cr4 fixed1"),
	}
	for g := range c.Controls {
		c.Controls[g] = Allowed{Must1: u.Draw(t, "must"), May1: u.Draw(t, "may")}
	}
	if rapid.Bool().Draw(t, "everything") {
		c.CPU = AnyCPU()
	}
	c.CPU.PhysicalAddressBits, c.CPU.LinearAddressBits = rapid.Byte().Draw(t, "physical"), rapid.Byte().Draw(t, "linear")
	c.CPU.EFERValid = u.Draw(t, "efer")
	return c
}

// drawState draws a state that is valid but for some fields, or arbitrary, or
// lacks fields.
func drawState(t *rapid.T) *checkState {
	s := valid()
	if rapid.Bool().Draw(t, "of a case") {
		cases := ruleCases()
		c := cases[rapid.IntRange(0, len(cases)-1).Draw(t, "case")]
		c.pass(s)
		if rapid.Bool().Draw(t, "fails") {
			c.fail(s)
		}
	}
	var all []Field
	for f := range Fields() {
		all = append(all, f)
	}
	if rapid.Bool().Draw(t, "MSRs") {
		s.Image.Set(EntryMSRLoadAddress, 0x9000)
		s.Image.Set(EntryMSRLoadCount, uint64(rapid.IntRange(0, 5000).Draw(t, "count")))
	}
	for range rapid.IntRange(0, 20).Draw(t, "changes") {
		f := rapid.SampledFrom(all).Draw(t, "field")
		switch rapid.IntRange(0, 2).Draw(t, "how") {
		case 0:
			s.Image.Delete(f)
		case 1:
			v, _ := s.Image.Get(f)
			s.Image.Set(f, v^1<<rapid.IntRange(0, 63).Draw(t, "bit"))
		case 2:
			s.Image.Set(f, rapid.Uint64().Draw(t, "value"))
		}
	}
	if rapid.Bool().Draw(t, "other processor") {
		s.Caps = drawCapabilities(t)
	}
	switch rapid.IntRange(0, 2).Draw(t, "memory") {
	case 0:
		s.Memory = nil
	case 1:
		s.Memory = hashedMemory(rapid.Uint64().Draw(t, "seed"))
	}
	flag := rapid.Bool()
	s.Legacy, s.SMM, s.BlockedMOVSS, s.Tracing = flag.Draw(t, "legacy"), flag.Draw(t, "smm"), flag.Draw(t, "mov ss"), flag.Draw(t, "tracing")
	s.Launch = LaunchState(rapid.Byte().Draw(t, "launch"))
	return s
}

// checkCheck: whatever the VMCS, the processor and the memory are, Check ends, says
// the same again and through any reader, counts each rule once, and no rule reads
// fields that it does not list.
func checkCheck(t *rapid.T) {
	s := drawState(t)
	report := s.Check(&s.Image)
	again := s.Check(plainReader{&s.Image})
	require.True(t, reflect.DeepEqual(report, again))
	total := 0
	for rule := range Rules() {
		total++
		for _, f := range Reads(s.Checker, &s.Image, rule) {
			require.True(t, slices.Contains(rule.Fields, f), "rule %s reads %v", rule.ID, f)
		}
	}
	require.Equal(t, total, report.Checked+len(report.NotChecked))
	seen := map[string]bool{}
	for i := range report.Violations {
		v := &report.Violations[i]
		require.False(t, seen[v.Rule.ID])
		seen[v.Rule.ID] = true
		require.True(t, v.Error() != "")
	}
	for _, r := range report.NotChecked {
		require.False(t, seen[r.ID])
	}
	require.Equal(t, report.OK(), report.Outcome().Kind == Entered)
	require.Equal(t, report.OK(), report.Err() == nil)
	require.True(t, report.Outcome().String() != "")
}

func TestCheckAnything(t *testing.T) { ring0test.CheckOnHost(t, checkCheck) }
func FuzzCheck(f *testing.F)         { f.Fuzz(rapid.MakeFuzz(checkCheck)) }

// Each field that a rule lists is read by it in one of its test cases.
func TestRulesReadTheirFields(t *testing.T) {
	read := map[string]map[Field]bool{}
	for rule := range Rules() {
		read[rule.ID] = map[Field]bool{}
	}
	for _, c := range ruleCases() {
		s := valid()
		c.pass(s)
		for _, f := range Reads(s.Checker, &s.Image, LookupRule(c.id)) {
			read[c.id][f] = true
		}
		c.fail(s)
		for _, f := range Reads(s.Checker, &s.Image, LookupRule(c.id)) {
			read[c.id][f] = true
		}
	}
	for rule := range Rules() {
		for _, f := range rule.Fields {
			if !read[rule.ID][f] {
				t.Errorf("rule %s lists %v, and reads %v", rule.ID, f, slices.Collect(maps.Keys(read[rule.ID])))
			}
		}
	}
}
