package vmcs_test

import (
	"encoding"
	"encoding/json"
	"fmt"
	"maps"
	"math/bits"
	"slices"
	"strings"
	"testing"

	"github.com/govtx/vtx/internal/require"
	"github.com/govtx/vtx/vmcs"
	"pgregory.net/rapid"
)

// groups are all groups of controls.
func groups() []vmcs.ControlGroup {
	var all []vmcs.ControlGroup
	for g := range vmcs.ControlGroup(vmcs.NumControlGroups) {
		all = append(all, g)
	}
	return all
}

// TestControlValues compares constants with bit numbers written down
// independently of the data file, for each group.
func TestControlValues(t *testing.T) {
	for _, c := range []struct {
		group vmcs.ControlGroup
		got   uint64
		bit   int
		name  string
	}{
		{vmcs.GroupPin, uint64(vmcs.PinExternalInterruptExiting), 0, "External-interrupt exiting"},
		{vmcs.GroupPin, uint64(vmcs.PinProcessPostedInterrupts), 7, "Process posted interrupts"},
		{vmcs.GroupPrimary, uint64(vmcs.PrimaryHLTExiting), 7, "HLT exiting"},
		{vmcs.GroupPrimary, uint64(vmcs.PrimaryActivateTertiaryControls), 17, "Activate tertiary controls"},
		{vmcs.GroupPrimary, uint64(vmcs.PrimaryActivateSecondaryControls), 31, "Activate secondary controls"},
		{vmcs.GroupSecondary, uint64(vmcs.SecondaryEnableEPT), 1, "Enable EPT"},
		{vmcs.GroupSecondary, uint64(vmcs.SecondaryUnrestrictedGuest), 7, "Unrestricted guest"},
		{vmcs.GroupSecondary, uint64(vmcs.SecondaryModeBasedExecuteControlForEPT), 22, "Mode-based execute control for EPT"},
		{vmcs.GroupSecondary, uint64(vmcs.SecondaryInstructionTimeout), 31, "Instruction timeout"},
		{vmcs.GroupTertiary, uint64(vmcs.TertiaryEnableHLAT), 1, "Enable HLAT"},
		{vmcs.GroupTertiary, uint64(vmcs.TertiaryVirtualizeIA32SpecCtrl), 7, "Virtualize IA32_SPEC_CTRL"},
		{vmcs.GroupExit, uint64(vmcs.ExitHostAddressSpaceSize), 9, "Host address-space size"},
		{vmcs.GroupExit, uint64(vmcs.ExitActivateSecondaryControls), 31, "Activate secondary controls"},
		{vmcs.GroupSecondaryExit, uint64(vmcs.Exit2SaveFRED), 0, "Save FRED"},
		{vmcs.GroupSecondaryExit, uint64(vmcs.Exit2PrematurelyBusyShadowStack), 3, "Prematurely busy shadow stack"},
		{vmcs.GroupEntry, uint64(vmcs.EntryIA32eModeGuest), 9, "IA-32e mode guest"},
		{vmcs.GroupEntry, uint64(vmcs.EntryLoadFRED), 23, "Load FRED"},
		{vmcs.GroupVMFunctions, uint64(vmcs.VMFuncEPTPSwitching), 0, "EPTP switching"},
	} {
		require.Equal(t, uint64(1)<<c.bit, c.got, c.name)
		b, ok := c.group.Bit(c.bit)
		require.True(t, ok, c.name)
		require.Equal(t, c.name, b.SDMName)
	}
	// SDM Vol. 3D A.3.1, A.3.2, A.4 and A.5: the lower halves of the capability
	// MSRs of the first processors.
	require.Equal(t, vmcs.PinControls(0x16), vmcs.PinDefault1)
	require.Equal(t, vmcs.PrimaryControls(0x0401_e172), vmcs.PrimaryDefault1)
	require.Equal(t, vmcs.ExitControls(0x3_6dff), vmcs.ExitDefault1)
	require.Equal(t, vmcs.EntryControls(0x11ff), vmcs.EntryDefault1)
}

// TestNamedControls compares which bits have names with masks made from an
// independent list.
func TestNamedControls(t *testing.T) {
	masks := [vmcs.NumControlGroups]uint64{
		vmcs.GroupPin: 0xe9, vmcs.GroupPrimary: 0xfbfb_9e8c, vmcs.GroupSecondary: 0xffff_ffff, vmcs.GroupTertiary: 0x1ff,
		vmcs.GroupExit: 0xfffc_9204, vmcs.GroupSecondaryExit: 0xb, vmcs.GroupEntry: 0x00ff_ee04, vmcs.GroupVMFunctions: 1,
	}
	for _, g := range groups() {
		var named uint64
		for b := range g.Bits() {
			named |= 1 << b.Bit
		}
		require.Equal(t, masks[g], named, "%v", g)
	}
}

func TestControlGroups(t *testing.T) {
	fields := map[vmcs.ControlGroup]vmcs.Field{
		vmcs.GroupPin: 0x4000, vmcs.GroupPrimary: 0x4002, vmcs.GroupSecondary: 0x401e, vmcs.GroupTertiary: 0x2034,
		vmcs.GroupExit: 0x400c, vmcs.GroupSecondaryExit: 0x2044, vmcs.GroupEntry: 0x4012, vmcs.GroupVMFunctions: 0x2018,
	}
	require.Len(t, fields, vmcs.NumControlGroups)
	for _, g := range groups() {
		require.True(t, g.Valid())
		require.Equal(t, fields[g], g.Field())
		require.True(t, g.Field().Known(), "%v", g)
		width := 32
		if g.Field().Width() == vmcs.Width64 {
			width = 64
		}
		require.Equal(t, width, g.Width(), "%v", g)

		for _, s := range []string{g.Key(), g.String(), strings.ToUpper(g.String())} {
			got, err := vmcs.ParseControlGroup(s)
			require.NoError(t, err)
			require.Equal(t, g, got)
		}
		text, err := g.MarshalText()
		require.NoError(t, err)
		var back vmcs.ControlGroup
		require.NoError(t, back.UnmarshalText(text))
		require.Equal(t, g, back)

		n := 0
		names := map[string]bool{}
		for b := range g.Bits() {
			n++
			require.Less(t, b.Bit, g.Width())
			require.Equal(t, g, b.Group)
			require.False(t, b.Name == "" || b.SDMName == "" || b.Note == "")
			require.False(t, names[b.Name] || names[b.SDMName], "%s stands twice", b.Name)
			names[b.Name], names[b.SDMName] = true, true
		}
		require.Greater(t, n, 0)
	}
	bad := vmcs.ControlGroup(vmcs.NumControlGroups)
	require.False(t, bad.Valid())
	require.Equal(t, "ControlGroup(8)", bad.String())
	require.Equal(t, "ControlGroup(8)", bad.Key())
	require.Zero(t, bad.Width())
	require.Zero(t, bad.Default1())
	require.False(t, bad.Field().Known())
	for range bad.Bits() {
		t.Fatal("a group that is none has bits")
	}
	_, err := bad.MarshalText()
	require.ErrorContains(t, err, "ControlGroup(8)")
	_, err = bad.ParseBits("bit 0")
	require.Error(t, err)
	require.Equal(t, "bit 0, bit 63", string(bad.AppendBits(nil, 1<<63|1)))
	_, err = vmcs.ParseControlGroup("tertiery")
	require.ErrorContains(t, err, `"tertiery"`)
	require.ErrorContains(t, err, "tertiary")
	_, ok := vmcs.GroupPin.Bit(-1)
	require.False(t, ok)
	_, ok = vmcs.GroupPin.Bit(64)
	require.False(t, ok)
}

func TestControlsPrint(t *testing.T) {
	for _, c := range []struct {
		value fmt.Stringer
		want  string
	}{
		{vmcs.PinControls(0), "none"},
		{vmcs.PinNMIExiting | vmcs.PinExternalInterruptExiting, "External-interrupt exiting, NMI exiting"},
		{vmcs.PinNMIExiting | vmcs.PinDefault1, "NMI exiting, bit 1, bit 2, bit 4"},
		{vmcs.PrimaryControls(1 << 26), "bit 26"},
		{vmcs.SecondaryEnableXSAVESXRSTORS | 1<<29, "Enable XSAVES/XRSTORS, Enable EPC virtualization"},
		{vmcs.TertiaryIPIVirtualization | 1<<63, "IPI virtualization, bit 63"},
		{vmcs.ExitSaveIA32PerfGlobalCtrl, "Save IA32_PERF_GLOBAL_CTL"},
		{vmcs.Exit2LoadFRED, "Load FRED"},
		{vmcs.EntryConcealVMXFromPT, "Conceal VMX from PT"},
		{vmcs.VMFuncEPTPSwitching, "EPTP switching"},
	} {
		require.Equal(t, c.want, c.value.String())
	}
	text, err := json.Marshal(map[string]vmcs.EntryControls{"entry": vmcs.EntryIA32eModeGuest})
	require.NoError(t, err)
	require.Equal(t, `{"entry":"IA-32e mode guest"}`, string(text))
	var back map[string]vmcs.EntryControls
	require.NoError(t, json.Unmarshal(text, &back))
	require.Equal(t, vmcs.EntryIA32eModeGuest, back["entry"])
}

// testText checks the methods of one type of controls.
func testText[C vmcs.Controls, P interface {
	*C
	UnmarshalText([]byte) error
}](t *testing.T, g vmcs.ControlGroup) {
	t.Helper()
	const two = uint64(1 | 1<<31)
	c := C(two)
	require.Equal(t, g, c.ControlGroup())
	require.Equal(t, string(g.AppendBits(nil, two)), c.String())
	text, err := any(c).(encoding.TextMarshaler).MarshalText()
	require.NoError(t, err)
	require.Equal(t, c.String(), string(text))
	text, err = any(c).(encoding.TextAppender).AppendText([]byte("= "))
	require.NoError(t, err)
	require.Equal(t, "= "+c.String(), string(text))
	var back C
	require.NoError(t, P(&back).UnmarshalText([]byte(c.String())))
	require.Equal(t, c, back)
	require.Error(t, P(&back).UnmarshalText([]byte("no such thing")))
	require.Equal(t, c, back, "a failed UnmarshalText changes nothing")
}

func TestControlsText(t *testing.T) {
	testText[vmcs.PinControls](t, vmcs.GroupPin)
	testText[vmcs.PrimaryControls](t, vmcs.GroupPrimary)
	testText[vmcs.SecondaryControls](t, vmcs.GroupSecondary)
	testText[vmcs.TertiaryControls](t, vmcs.GroupTertiary)
	testText[vmcs.ExitControls](t, vmcs.GroupExit)
	testText[vmcs.SecondaryExitControls](t, vmcs.GroupSecondaryExit)
	testText[vmcs.EntryControls](t, vmcs.GroupEntry)
	testText[vmcs.VMFunctions](t, vmcs.GroupVMFunctions)
}

func TestParseControls(t *testing.T) {
	for _, c := range []struct {
		text string
		want vmcs.PrimaryControls
	}{
		{"none", 0},
		{"0x0", 0},
		{"HLT exiting", vmcs.PrimaryHLTExiting},
		{"hlt-exiting | PrimaryPAUSEExiting\nUseMSRBitmaps,", vmcs.PrimaryHLTExiting | vmcs.PrimaryPAUSEExiting | vmcs.PrimaryUseMSRBitmaps},
		{"bit 26, bit 7", 1<<26 | 1<<7},
		{"BIT26", 1 << 26},
		{"0x0401_e172", vmcs.PrimaryDefault1},
		{"0xFFFFFFFF", 0xffff_ffff},
		{"HLT exiting, HLT exiting", vmcs.PrimaryHLTExiting},
	} {
		got, err := vmcs.ParseControls[vmcs.PrimaryControls](c.text)
		require.NoError(t, err, c.text)
		require.Equal(t, c.want, got, c.text)
	}
	for _, c := range []struct{ text, says string }{
		{"", "none"},
		{" , ", "none"},
		{"HLT exitng", `did you mean "HLT exiting"?`},
		{"HLT exiting, xyzzy", `"xyzzy"`},
		{"bit 32", "0 to 31"},
		{"bit 300", `"bit 300"`},
		{"0x100000000", "32 bits"},
		{"0xg", "0xg"},
		{"128", `"128"`},
		{"windows", `"windows"`},
		{"window", `"Interrupt-window exiting" or "NMI-window exiting"`},
		{strings.Repeat("x", 1000), "..."},
	} {
		_, err := vmcs.ParseControls[vmcs.PrimaryControls](c.text)
		require.ErrorContains(t, err, c.says, c.text)
		require.ErrorContains(t, err, "primary processor-based", c.text)
		require.Less(t, len(err.Error()), 400)
	}
	v, err := vmcs.ParseControls[vmcs.TertiaryControls]("0x8000000000000000")
	require.NoError(t, err)
	require.Equal(t, vmcs.TertiaryControls(1<<63), v)
}

// TestControlNamesParse: each bit parses back from every name it has.
func TestControlNamesParse(t *testing.T) {
	prefixes := map[vmcs.ControlGroup]string{
		vmcs.GroupPin: "Pin", vmcs.GroupPrimary: "Primary", vmcs.GroupSecondary: "Secondary", vmcs.GroupTertiary: "Tertiary",
		vmcs.GroupExit: "Exit", vmcs.GroupSecondaryExit: "Exit2", vmcs.GroupEntry: "Entry", vmcs.GroupVMFunctions: "VMFunc",
	}
	require.Equal(t, groups(), slices.Sorted(maps.Keys(prefixes)))
	for _, g := range groups() {
		for b := range g.Bits() {
			for _, s := range []string{b.Name, b.SDMName, strings.TrimPrefix(b.Name, prefixes[g]), fmt.Sprintf("bit %d", b.Bit), fmt.Sprintf("%#x", uint64(1)<<b.Bit)} {
				got, err := g.ParseBits(s)
				require.NoError(t, err)
				require.Equal(t, uint64(1)<<b.Bit, got, s)
			}
		}
	}
}

// drawControls draws a value of a group's width, with few or many bits.
func drawControls(t *rapid.T, g vmcs.ControlGroup, label string) uint64 {
	v := rapid.Uint64().Draw(t, label)
	if rapid.Bool().Draw(t, label+" sparse") {
		v &= rapid.Uint64().Draw(t, label+" mask")
	}
	return v << (64 - g.Width()) >> (64 - g.Width())
}

func drawGroup(t *rapid.T) vmcs.ControlGroup {
	return rapid.SampledFrom(groups()).Draw(t, "group")
}

// controlsRoundTrip: what is printed parses back to the same value, and lists
// each bit once.
func controlsRoundTrip(t *rapid.T) {
	g := drawGroup(t)
	v := drawControls(t, g, "value")
	text := string(g.AppendBits(nil, v))
	back, err := g.ParseBits(text)
	require.NoError(t, err)
	require.Equal(t, v, back, text)
	if v != 0 {
		require.Equal(t, bits.OnesCount64(v), strings.Count(text, ", ")+1, text)
	}
}

func TestControlsRoundTrip(t *testing.T) { rapid.Check(t, controlsRoundTrip) }

func FuzzControlsRoundTrip(f *testing.F) { f.Fuzz(rapid.MakeFuzz(controlsRoundTrip)) }

func FuzzParseControls(f *testing.F) {
	for _, s := range []string{"none", "HLT exiting, bit 26", "0x401e172|PrimaryUseIOBitmaps", "bit", "0x", ",,", "biT 031", "\xff"} {
		f.Add(uint8(1), s)
	}
	f.Fuzz(func(t *testing.T, group uint8, s string) {
		g := vmcs.ControlGroup(group % vmcs.NumControlGroups)
		v, err := g.ParseBits(s)
		if err != nil {
			require.Less(t, len(err.Error()), 1000)
			return
		}
		require.Zero(t, v>>(g.Width()-1)>>1)
		back, err := g.ParseBits(string(g.AppendBits(nil, v)))
		require.NoError(t, err)
		require.Equal(t, v, back)
	})
}

func TestControlsDoNotAllocate(t *testing.T) {
	room := make([]byte, 0, 4096)
	c := vmcs.PrimaryControls(0xffff_ffff)
	require.Zero(t, testing.AllocsPerRun(100, func() {
		if b, _ := c.AppendText(room); len(b) == 0 {
			t.Fatal("nothing printed")
		}
	}))
}

func BenchmarkControlsString(b *testing.B) {
	b.ReportAllocs()
	c := vmcs.PrimaryDefault1 | vmcs.PrimaryHLTExiting | vmcs.PrimaryActivateSecondaryControls
	for b.Loop() {
		_ = c.String()
	}
}

func BenchmarkControlsAppendText(b *testing.B) {
	b.ReportAllocs()
	room := make([]byte, 0, 1024)
	c := vmcs.PrimaryDefault1 | vmcs.PrimaryHLTExiting | vmcs.PrimaryActivateSecondaryControls
	for b.Loop() {
		_, _ = c.AppendText(room)
	}
}
