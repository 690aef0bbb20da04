package vmcs_test

import (
	"flag"
	"fmt"
	"math/bits"
	"slices"
	"strings"
	"testing"

	"github.com/govtx/vtx/asm"
	"github.com/govtx/vtx/internal/require"
	"github.com/govtx/vtx/internal/ring0test"
	"github.com/govtx/vtx/internal/vmtest"
	"github.com/govtx/vtx/vmcs"
	"pgregory.net/rapid"
)

var checkedStates = flag.Int("vmcs.states", defaultStates(), "how many VM entries TestCheckIsProcessor tries")

// defaultStates is 2,000; fewer if the program is slow, for it is the same rules.
func defaultStates() int {
	if ring0test.Optimised() {
		return 2000
	}
	return 500
}

// A bench draws VMCS contents, predicts what a VM entry with them does, and tries
// it.
type bench struct {
	m      *vmtest.Machine
	states []*vmtest.State

	plain, features []*vmtest.State
	fields          []vmcs.Field                   // that can be written
	ruled           []vmcs.Field                   // that a change may be in
	rules           []*vmcs.Rule                   // that read any of them
	live            map[*vmcs.Rule][]*vmtest.State // in which the rule looks at its first field
	near            map[vmcs.Field][]vmcs.Field    // fields that rules know together with this one
	values          map[vmcs.Field][]uint64        // that are right in some state
	special         map[valueClass][]uint64
	checker         vmcs.Checker

	tried []trial // the first of all, up to its capacity

	launched, unsafe, unknown int
	ends                      map[vmcs.OutcomeKind]int
	used                      map[*deviation]int
	shown                     map[*vmcs.Rule]int // how often the prediction hung on the rule
}

// A trial is a VM entry that was tried, and the processor's answer.
type trial struct {
	image vmcs.Image
	got   vmcs.Outcome
}

func newBench(m *vmtest.Machine) *bench {
	m.Helper()
	b := &bench{m: m, states: m.States(), ends: map[vmcs.OutcomeKind]int{}, used: map[*deviation]int{}, shown: map[*vmcs.Rule]int{}}
	b.checker = vmcs.Checker{
		Caps: m.Caps, Memory: m, Launch: vmcs.LaunchClear,
		CurrentVMCS: m.LaunchRegion().Phys(), VMXONRegion: m.VMXON,
	}
	for f := range vmcs.Fields() {
		if f.Supported(m.Caps) && !f.ReadOnly() {
			b.fields = append(b.fields, f)
		}
	}
	for r := range vmcs.Rules() {
		for _, f := range r.Fields {
			if slices.Contains(b.fields, f) && !slices.Contains(b.ruled, f) {
				b.ruled = append(b.ruled, f)
			}
		}
		if len(r.Fields) > 0 && slices.Contains(b.fields, r.Fields[0]) {
			b.rules = append(b.rules, r)
			for i := range deviations {
				if slices.Contains(deviations[i].rules, r.ID) { // drawn more often, for the table needs proof
					b.rules = append(b.rules, r, r, r)
				}
			}
		}
	}
	b.values = map[vmcs.Field][]uint64{}
	for _, s := range b.states {
		if s.Feature {
			b.features = append(b.features, s)
		} else {
			b.plain = append(b.plain, s)
		}
		for f, v := range s.Image.All() {
			if !slices.Contains(b.values[f], v) {
				b.values[f] = append(b.values[f], v)
			}
		}
	}
	b.near = map[vmcs.Field][]vmcs.Field{}
	for r := range vmcs.Rules() {
		for _, f := range r.Fields {
			for _, g := range r.Fields {
				if f != g && slices.Contains(b.fields, f) && slices.Contains(b.fields, g) && !slices.Contains(b.near[f], g) {
					b.near[f] = append(b.near[f], g)
				}
			}
		}
	}
	b.special = specialValues(m)
	return b
}

// findLive finds the states in which a rule looks at its first field: without
// that field, the rule cannot be checked. Fields that no rule has but as its
// first are left out all at once, for that saves time.
func (b *bench) findLive() map[*vmcs.Rule][]*vmtest.State {
	var groups [][]vmcs.Field
	var alone []vmcs.Field
	later := map[vmcs.Field]bool{}
	for _, r := range b.rules {
		for _, f := range r.Fields[1:] {
			later[f] = true
		}
	}
	for _, f := range b.ruled {
		if later[f] {
			groups = append(groups, []vmcs.Field{f})
		} else {
			alone = append(alone, f)
		}
	}
	live := map[*vmcs.Rule][]*vmtest.State{}
	for _, group := range append(groups, alone) {
		for _, s := range b.states {
			image := s.Image
			for _, f := range group {
				image.Delete(f)
			}
			report := b.checker.Check(&image)
			for _, r := range report.NotChecked {
				if len(r.Fields) > 0 && slices.Contains(group, r.Fields[0]) {
					live[r] = append(live[r], s)
				}
			}
		}
	}
	return live
}

// A valueClass is a set of values that are edges for a field.
type valueClass int

const (
	classPlain valueClass = iota
	classPhysical
	classLinear
	classLimit
	classRights
	classSelector
	classEvent
	classCount
)

func classOf(f vmcs.Field) valueClass {
	switch name := f.String(); {
	case f == vmcs.EntryInterruptionInformation:
		return classEvent
	case strings.HasSuffix(name, "AccessRights"):
		return classRights
	case strings.HasSuffix(name, "Limit"):
		return classLimit
	case strings.HasSuffix(name, "Selector"):
		return classSelector
	case strings.HasSuffix(name, "Count"):
		return classCount
	case f == vmcs.GuestCR3 || f == vmcs.HostCR3 || strings.HasPrefix(name, "GuestPDPTE"):
		return classPhysical
	case f.Width() == vmcs.Width64 && f.Type() == vmcs.Control || f == vmcs.VMCSLinkPointer:
		return classPhysical
	case f.Width() == vmcs.WidthNatural:
		return classLinear
	}
	return classPlain
}

func specialValues(m *vmtest.Machine) map[valueClass][]uint64 {
	s := map[valueClass][]uint64{
		classLimit:    {0, 0xfff, 0x1000, 0xffff, 0x10000, 0xfffff, 0x100000, 0x100fff, 0xfffffffe, 0xffffffff, 0xfffff000},
		classSelector: {0, 1, 3, 4, 7, 8, 0x10, 0x13, 0x18, 0x1b, 0xfff8, 0xffff},
		classCount:    {0, 1, 2, 4, 5, 16, 255, 256, 257, 512, 1 << 28, 1 << 31, 1<<32 - 1},
		classRights: {0, 0x10, 0x80, 0x81, 0x82, 0x83, 0x8b, 0x89, 0x92, 0x93, 0x97, 0x99, 0x9a, 0x9b, 0x9d, 0x9f, 0xf3, 0xf7, 0xfb, 0xff,
			0xb3, 0x13, 0x1b, 0xa09b, 0xc093, 0xc09b, 0xc097, 0xc0f3, 0xe09b, 0x1009b, 0x10000, 0x10093, 0x1f0ff, 0x8093, 0x409b},
	}
	for v := range uint64(34) {
		for kind := range uint64(8) {
			vector := v
			if v >= 32 {
				vector = (v-31)*112 + 31 // 143 and 255
			}
			for _, code := range []uint64{0, 1 << 11} {
				s[classEvent] = append(s[classEvent], 1<<31|kind<<8|vector|code)
			}
		}
	}
	width := m.Caps.CPU.PhysicalAddressBits
	for _, a := range append(m.Addresses(), 0, 0x1000, 1<<32, 1<<32-4096, 1<<width-4096) {
		for _, low := range []uint64{0, 0, 0, 0, 1, 8, 16, 32, 64, 0x80, 0x1f, 0xff0, 0xfff} {
			s[classPhysical] = append(s[classPhysical], a+low)
		}
		s[classPhysical] = append(s[classPhysical], a|1<<width, a|1<<(width-1), a|1<<63, a|1<<52, a|0x1e)
	}
	s[classPhysical] = append(s[classPhysical], 1<<width, 1<<width-1, 1<<width-16, ^uint64(0), ^uint64(0xfff))
	for _, n := range []uint8{m.Caps.CPU.LinearAddressBits, 48, 57, 32} {
		half := uint64(1) << (n - 1)
		s[classLinear] = append(s[classLinear], half, half-1, -half, -half-1, 2*half, 2*half-1, half-4, -half+4)
	}
	s[classLinear] = append(s[classLinear], 1<<63, ^uint64(0), 1<<31, 1<<31-1, 4, 3)
	return s
}

// fieldValues are edges of single fields.
func fieldValues(m *vmtest.Machine, f vmcs.Field) []uint64 {
	end := uint64(1) << m.Caps.CPU.PhysicalAddressBits
	switch f {
	case vmcs.GuestActivityState:
		return []uint64{0, 1, 2, 3, 4, 5}
	case vmcs.GuestInterruptibilityState:
		return []uint64{0, 1, 2, 4, 8, 16, 3, 9, 10, 18, 24, 31, 32}
	case vmcs.EntryInstructionLength, vmcs.TPRThreshold, vmcs.CR3TargetCount:
		return []uint64{0, 1, 3, 4, 5, 15, 16, 17}
	case vmcs.VPID:
		return []uint64{0, 1}
	case vmcs.EntryMSRLoadAddress, vmcs.ExitMSRLoadAddress, vmcs.ExitMSRStoreAddress:
		list := []uint64{end - 16, end - 32, end - 4096, end, 8}
		for _, a := range m.Addresses() {
			list = append(list, a, a+16*13)
		}
		return list
	case vmcs.EntryMSRLoadCount, vmcs.ExitMSRLoadCount, vmcs.ExitMSRStoreCount:
		return []uint64{0, 1, 2, 3, 255, 256, 257, 512, 513, 1 << 28, 1<<28 + 1, 1 << 31, 1<<32 - 1}
	}
	return nil
}

// fieldBits are bits that rules name.
var fieldBits = map[vmcs.Field][]uint64{
	vmcs.HostCR0:  {1, 1 << 5, 1 << 16, 1 << 31, 1 << 32},
	vmcs.GuestCR0: {1, 1 << 5, 1 << 16, 1 << 29, 1 << 30, 1 << 31, 1<<31 | 1, 1 << 32},
	vmcs.HostCR4:  {1 << 5, 1 << 12, 1 << 13, 1 << 17, 1 << 23, 1 << 32},
	vmcs.GuestCR4: {1 << 5, 1 << 12, 1 << 13, 1 << 17, 1 << 23, 1 << 32},
	vmcs.HostEFER: {1, 1 << 1, 1 << 8, 1 << 10, 1<<8 | 1<<10, 1 << 12}, vmcs.GuestEFER: {1, 1 << 1, 1 << 8, 1 << 10, 1<<8 | 1<<10, 1 << 12},
	vmcs.GuestRFLAGS:                 {1 << 1, 1 << 3, 1 << 5, 1 << 8, 1 << 9, 3 << 12, 1 << 15, 1 << 17, 1 << 22, 1 << 63},
	vmcs.GuestPendingDebugExceptions: {1, 1 << 11, 1 << 12, 1 << 13, 1 << 14, 1 << 15, 1 << 16, 1<<16 | 1<<12, 1 << 32},
	vmcs.EPTPointer:                  {1, 6, 1 << 3, 2 << 3, 7 << 3, 1 << 6, 1 << 7, 1 << 8, 1 << 11, 1 << 52},
}

// rightsBits are the bits of access rights, and some that are reserved.
var rightsBits = []uint64{1, 1 << 1, 1 << 2, 1 << 3, 1 << 4, 1 << 5, 1 << 6, 1 << 7, 1 << 8, 1 << 11, 1 << 12, 1 << 13, 1 << 14, 1 << 15, 1 << 16, 1 << 17, 1 << 31}

// choose draws a number below n, each with about the same chance. Rapid's own
// numbers tend to be small.
func choose(t *rapid.T, what string, n int) int {
	x := rapid.Uint64().Draw(t, what)
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	x ^= x >> 31
	high, _ := bits.Mul64(x, uint64(n))
	return int(high)
}

// A change is one that a trial makes to a state.
type change struct {
	field    vmcs.Field
	from, to uint64
}

// draw draws a state and changes one to three fields of it: any, or those that
// one rule looks at.
func (b *bench) draw(t *rapid.T) (*vmtest.State, *vmcs.Image, []change) {
	s, near := b.state(t), b.ruled
	var first vmcs.Field
	switch choose(t, "what", 8) {
	case 0:
		near = b.fields
	case 1, 2, 3, 4, 5:
		rule := b.rules[choose(t, "rule", len(b.rules))]
		near, first = rule.Fields, rule.Fields[0]
		if live := b.live[rule]; live != nil {
			if s = live[choose(t, "state", len(live))]; !s.Feature {
				s = live[choose(t, "state", len(live))]
			}
		}
	}
	image := s.Image
	var changes []change
	for i := range max(1, rapid.IntRange(0, 3).Draw(t, "changes")) {
		f := near[choose(t, "field", len(near))]
		if first != 0 && i == 0 && rapid.Bool().Draw(t, "first") || !image.Has(f) {
			f = first
		}
		c := change{field: f}
		c.from, _ = image.Get(f)
		if c.to = b.value(t, f, c.from); c.to == c.from {
			c.to ^= 1 << choose(t, "bit", f.Width().Bits())
		}
		image.Set(f, c.to)
		changes = append(changes, c)
		if rapid.Bool().Draw(t, "near") && b.near[f] != nil {
			near = b.near[f]
		}
	}
	return s, &image, changes
}

func (b *bench) state(t *rapid.T) *vmtest.State {
	states := b.plain
	if rapid.Bool().Draw(t, "feature") {
		states = b.features
	}
	return states[choose(t, "state", len(states))]
}

// value draws a value for a field that has another one.
func (b *bench) value(t *rapid.T, f vmcs.Field, v uint64) uint64 {
	if f == vmcs.EntryInterruptionInformation && choose(t, "type", 4) == 0 {
		return v&^(7<<8) | uint64(choose(t, "type", 8))<<8
	}
	bits := fieldBits[f]
	if classOf(f) == classRights {
		bits = rightsBits
	}
	if bits != nil && rapid.Bool().Draw(t, "known bit") {
		return v ^ bits[choose(t, "bit", len(bits))]
	}
	special := fieldValues(b.m, f)
	if special == nil {
		special = b.special[classOf(f)]
	}
	if special != nil && rapid.Bool().Draw(t, "special") {
		return special[choose(t, "special", len(special))] & f.Width().Mask()
	}
	width := f.Width().Bits()
	switch choose(t, "how", 9) {
	case 0:
		return (v + 1) & f.Width().Mask()
	case 1:
		return (v - 1) & f.Width().Mask()
	case 2:
		return []uint64{0, f.Width().Mask()}[choose(t, "0 or ones", 2)]
	case 3:
		return rapid.Uint64().Draw(t, "value") & f.Width().Mask()
	case 4:
		return b.values[f][choose(t, "value of", len(b.values[f]))]
	case 5:
		return v ^ 1<<choose(t, "bit", width) ^ 1<<choose(t, "bit", width)
	default:
		return v ^ 1<<choose(t, "bit", width)
	}
}

// outcomeOf says of the processor's answer what a Report says.
func outcomeOf(o vmtest.Outcome) vmcs.Outcome {
	switch {
	case o.Status == asm.FailInvalid:
		return vmcs.Outcome{Kind: vmcs.FailInvalid}
	case o.Status == asm.FailValid:
		return vmcs.Outcome{Kind: vmcs.FailValid, Error: o.Error}
	case o.Entered():
		return vmcs.Outcome{Kind: vmcs.Entered}
	}
	return vmcs.Outcome{Kind: vmcs.EntryExit, Reason: o.Reason &^ (1 << 31), Qualification: o.Qualification}
}

// try launches a VMCS and compares the processor's answer with the prediction,
// and with what the table of deviations makes of it. It says what disagrees, or
// "". Tried is false if the entry would not be safe, or cannot be predicted.
func (b *bench) try(image *vmcs.Image) (disagreement string, tried bool) {
	b.m.Helper()
	report := b.checker.Check(image)
	if len(report.NotChecked) > 0 {
		b.unknown++
		return "", false
	}
	expected, rows := expect(b.m, image, &report)
	if expected.Kind != vmcs.FailValid && b.m.Unsafe(image, expected.Kind == vmcs.Entered) != "" {
		b.unsafe++
		return "", false
	}
	b.launched++
	o := b.m.Launch(image)
	got := outcomeOf(o)
	if len(b.tried) < cap(b.tried) {
		b.tried = append(b.tried, trial{*image, got})
	}
	b.ends[got.Kind]++
	if got == expected {
		for _, d := range rows {
			b.used[d]++
		}
		b.show(image, &report, got)
		return "", true
	}
	var w strings.Builder
	fmt.Fprintf(&w, "expected   %v\nprocessor  %v (%v)\n", expected, got, o)
	for _, d := range rows {
		fmt.Fprintf(&w, "deviation  %s\n", d.name)
	}
	for i := range report.Violations {
		fmt.Fprintf(&w, "violation  %v\n           leads to %v\n", &report.Violations[i], report.Violations[i].Rule.Result)
	}
	return w.String(), true
}

// show notes the rules without which the prediction would be wrong.
func (b *bench) show(image *vmcs.Image, report *vmcs.Report, got vmcs.Outcome) {
	for i := range report.Violations {
		without := vmcs.Report{Violations: slices.Delete(slices.Clone(report.Violations), i, i+1)}
		if expected, _ := expect(b.m, image, &without); expected != got {
			b.shown[report.Violations[i].Rule]++
		}
	}
}

// check draws VMCS contents until one can be tried, and tries it.
func (b *bench) check(t *rapid.T) {
	t.Helper()
	for range 20 {
		s, image, changes := b.draw(t)
		disagreement, tried := b.try(image)
		if disagreement != "" {
			t.Fatalf("%v%s\n%s", s, describe(changes), disagreement)
		}
		if tried {
			return
		}
	}
}

func describe(changes []change) string {
	var w strings.Builder
	for _, c := range changes {
		fmt.Fprintf(&w, "\nchange     %v: %#x, was %#x", c.field, c.to, c.from)
	}
	return w.String()
}

// setFlag sets a flag for the length of a test.
func setFlag(t testing.TB, name, value string) {
	old := flag.Lookup(name).Value.String()
	require.NoError(t, flag.Set(name, value))
	t.Cleanup(func() { require.NoError(t, flag.Set(name, old)) })
}

// TestStatesAreValid: what the processor enters has no violation.
func TestStatesAreValid(t *testing.T) {
	b := newBench(vmtest.Start(t))
	for _, s := range b.states {
		report := b.checker.Check(&s.Image)
		require.NoError(t, report.Err(), "%v", s)
		require.Empty(t, report.NotChecked, "%v", s)
	}
}

// TestCheckIsProcessor: Check says what the processor does. States that it
// enters are changed in one to three fields.
func TestCheckIsProcessor(t *testing.T) {
	b := newBench(vmtest.Start(t))
	setFlag(t, "rapid.checks", fmt.Sprint(ring0test.Share(*checkedStates)))
	setFlag(t, "rapid.seed", "1")
	setFlag(t, "rapid.nofailfile", "true")
	b.live = b.findLive()
	b.tried = make([]trial, 0, 2000)
	rapid.Check(t, b.check)
	t.Logf("%d VM entries tried: %d entered, %d VMfail, %d failed with a VM exit; %d were not safe, %d not to be predicted",
		b.launched, b.ends[vmcs.Entered], b.ends[vmcs.FailValid], b.ends[vmcs.EntryExit], b.unsafe, b.unknown)
	for i := range deviations {
		d := &deviations[i]
		if d.here(b.m) {
			t.Logf("%5d  %s", b.used[d], d.name)
		}
	}
	var hidden []string
	for r := range vmcs.Rules() {
		if b.shown[r] == 0 {
			hidden = append(hidden, r.ID)
		}
	}
	t.Logf("to leave one of %d rules out would show; not so: %s", len(b.shown), strings.Join(hidden, " "))
	if !ring0test.Optimised() || !ring0test.Whole() {
		return // mistakes are found with more states
	}
	b.plantedMistakes(t) // no subtest, which would be on another thread
}

// plantedMistakes: a mistake in one rule makes Check disagree with the processor
// on the states that were tried.
func (b *bench) plantedMistakes(t *testing.T) {
	leftOut := func(bool) bool { return true }
	turnedRound := func(holds bool) bool { return !holds }
	for _, c := range []struct {
		rule     string
		mistake  string
		mutation func(bool) bool
	}{
		{"pin.reserved", "left out", leftOut},
		{"secondary.reserved", "left out", leftOut},
		{"event.vector", "left out", leftOut},
		{"eptp.walklength", "left out", leftOut},
		{"host.cr0.fixed", "left out", leftOut},
		{"host.ds.selector", "left out", leftOut},
		{"host.gdtr.base", "left out", leftOut},
		{"guest.cr4.fixed", "left out", leftOut},
		{"guest.cs.type", "left out", leftOut},
		{"guest.tr.type", "left out", leftOut},
		{"guest.rflags.reserved", "left out", leftOut},
		{"guest.interruptibility.if", "left out", leftOut},
		{"guest.link.address", "left out", leftOut},
		{"guest.pdpte.fields", "left out", leftOut},
		{"guest.idtr.limit", "turned round", turnedRound},
		{"exit.msrload", "turned round", turnedRound},
	} {
		found, from := -1, 0
		for seed := 2; ; seed++ {
			found = b.findMistake(c.rule, c.mutation, from)
			if from = len(b.tried); found >= 0 || seed > 5 {
				break
			}
			// Some rules need more states than the first ones.
			b.tried = slices.Grow(b.tried, 2000)
			setFlag(t, "rapid.checks", "2000")
			setFlag(t, "rapid.seed", fmt.Sprint(seed))
			rapid.Check(t, b.check)
		}
		if found < 0 {
			t.Errorf("rule %s %s: no disagreement in %d states", c.rule, c.mistake, len(b.tried))
			continue
		}
		t.Logf("rule %s %s: found by state %d", c.rule, c.mistake, found+1)
	}
}

// findMistake plants a mistake in a rule and returns the first of the states
// tried, from a number on, that shows it; -1 if there is none.
func (b *bench) findMistake(rule string, mutation func(bool) bool, from int) int {
	defer vmcs.Mutate(rule, mutation)()
	for i := from; i < len(b.tried); i++ {
		report := b.checker.Check(&b.tried[i].image)
		if expected, _ := expect(b.m, &b.tried[i].image, &report); expected != b.tried[i].got {
			return i
		}
	}
	return -1
}

// TestRareCases tries what is seldom drawn: each must use a row of deviations, or
// show a rule.
func TestRareCases(t *testing.T) {
	b := newBench(vmtest.Start(t))
	real := map[vmcs.Field]uint64{vmcs.GuestRFLAGS: 0x20002}
	for n := range vmcs.Field(6) {
		real[vmcs.GuestESAccessRights+2*n] = 0xf3
	}
	for _, c := range []struct {
		state, row, rule string
		fields           map[vmcs.Field]uint64
	}{
		{"64-bit, shutdown and #MC", "injection of vector 18 into the shutdown state", "",
			map[vmcs.Field]uint64{vmcs.EntryInterruptionInformation: 1<<31 | 4<<8 | 18, vmcs.EntryInstructionLength: 2}},
		{"64-bit, CR4.CET of the host", "CR4.CET without CR0.WP of the host is checked with \"load CET state\" only", "",
			map[vmcs.Field]uint64{vmcs.HostCR0: asm.ReadCR0() &^ (1 << 16)}},
		{"real-address, EPT, unrestricted", "virtual-8086 mode in real mode is not refused", "", real},
		{"64-bit", "", "guest.link.current", map[vmcs.Field]uint64{vmcs.VMCSLinkPointer: b.m.LaunchRegion().Phys()}},
	} {
		i := slices.IndexFunc(b.states, func(s *vmtest.State) bool { return s.Name == c.state })
		if i < 0 {
			continue // not on this processor
		}
		image := b.states[i].Image
		for f, v := range c.fields {
			image.Set(f, v)
		}
		disagreement, tried := b.try(&image)
		require.Equal(t, "", disagreement, "%s", c.state)
		require.True(t, tried, "%s", c.state)
		if c.rule != "" {
			require.Equal(t, 1, b.shown[vmcs.LookupRule(c.rule)], "%s", c.rule)
			continue
		}
		j := slices.IndexFunc(deviations, func(d deviation) bool { return d.name == c.row })
		require.GreaterOrEqual(t, j, 0, "%s", c.row)
		require.Equal(t, 1, b.used[&deviations[j]], "%s", c.row)
	}
}
