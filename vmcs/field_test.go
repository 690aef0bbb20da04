package vmcs_test

import (
	_ "embed"
	"encoding"
	"encoding/csv"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/govtx/vtx/internal/require"
	"github.com/govtx/vtx/internal/ring0test"
	"github.com/govtx/vtx/vmcs"
	"pgregory.net/rapid"
)

// Encodings that fewer than two independent sources have, or that are wrong in
// the only one: the package does without them. docs/vmcs-left-out.md tells why.
var leftOutFields = []vmcs.Field{0x282a, 0x282c, 0x282e, 0x2c18, 0x2c1a, 0x4830, 0x6c28, 0x6c2a, 0x6c2c}

//go:embed testdata/witnesses/fields.csv
var fieldWitnesses string

// The table agrees with a list of what other sources have: each field is in two of
// them at least, and their names are about the same thing.
func TestFieldsHaveWitnesses(t *testing.T) {
	r := csv.NewReader(strings.NewReader(fieldWitnesses))
	r.Comment = '#'
	rows, err := r.ReadAll()
	require.NoError(t, err)
	witnesses := map[vmcs.Field][]string{}
	for _, row := range rows[1:] {
		e, err := strconv.ParseUint(row[0], 0, 16)
		require.NoError(t, err)
		witnesses[vmcs.Field(e)] = strings.Fields(row[1])
	}
	// Words of the manual's names and what others write for them.
	area := map[vmcs.FieldType]string{vmcs.GuestState: "guest", vmcs.HostState: "host"}
	for f := range vmcs.Fields() {
		sources := witnesses[f]
		require.GreaterOrEqual(t, len(sources), 2, "%v", f)
		if want := area[f.Type()]; want != "" && strings.HasPrefix(f.SDMName(), strings.ToUpper(want[:1])+want[1:]) {
			said := strings.ToLower(strings.Join(sources, " "))
			require.Contains(t, said, want, "%v", f)
		}
		delete(witnesses, f)
	}
	for _, f := range leftOutFields {
		require.True(t, witnesses[f] != nil, "%v is said to be left out, but is not in the list", f)
		require.False(t, f.Known(), "%v", f)
		delete(witnesses, f)
	}
	require.Empty(t, witnesses)
}

// Some encodings, from SDM Vol. 3D appendix B by hand: the first and last ones of
// each group.
func TestFieldEncodings(t *testing.T) {
	for _, c := range []struct {
		f    vmcs.Field
		e    uint32
		w    vmcs.Width
		typ  vmcs.FieldType
		i    int
		name string
		sdm  string
	}{
		{vmcs.VPID, 0x0000, vmcs.Width16, vmcs.Control, 0, "VPID", "Virtual-processor identifier (VPID)"},
		{vmcs.GuestESSelector, 0x0800, vmcs.Width16, vmcs.GuestState, 0, "GuestESSelector", "Guest ES selector"},
		{vmcs.HostTRSelector, 0x0c0c, vmcs.Width16, vmcs.HostState, 6, "HostTRSelector", "Host TR selector"},
		{vmcs.IOBitmapA, 0x2000, vmcs.Width64, vmcs.Control, 0, "IOBitmapA", "Address of I/O bitmap A"},
		{vmcs.EPTPointer, 0x201a, vmcs.Width64, vmcs.Control, 13, "EPTPointer", "EPT pointer (EPTP)"},
		{vmcs.GuestPhysicalAddress, 0x2400, vmcs.Width64, vmcs.ExitInformation, 0, "GuestPhysicalAddress", "Guest-physical address"},
		{vmcs.VMCSLinkPointer, 0x2800, vmcs.Width64, vmcs.GuestState, 0, "VMCSLinkPointer", "VMCS link pointer"},
		{vmcs.HostPKRS, 0x2c06, vmcs.Width64, vmcs.HostState, 3, "HostPKRS", "Host IA32_PKRS"},
		{vmcs.PinBasedControls, 0x4000, vmcs.Width32, vmcs.Control, 0, "PinBasedControls", "Pin-based VM-execution controls"},
		{vmcs.ExitReason, 0x4402, vmcs.Width32, vmcs.ExitInformation, 1, "ExitReason", "Exit reason"},
		{vmcs.PreemptionTimerValue, 0x482e, vmcs.Width32, vmcs.GuestState, 23, "PreemptionTimerValue", "VMX-preemption timer value"},
		{vmcs.HostSysenterCS, 0x4c00, vmcs.Width32, vmcs.HostState, 0, "HostSysenterCS", "Host IA32_SYSENTER_CS"},
		{vmcs.CR0GuestHostMask, 0x6000, vmcs.WidthNatural, vmcs.Control, 0, "CR0GuestHostMask", "CR0 guest/host mask"},
		{vmcs.GuestLinearAddress, 0x640a, vmcs.WidthNatural, vmcs.ExitInformation, 5, "GuestLinearAddress", "Guest-linear address"},
		{vmcs.GuestRIP, 0x681e, vmcs.WidthNatural, vmcs.GuestState, 15, "GuestRIP", "Guest RIP"},
		{vmcs.HostInterruptSSPTable, 0x6c1c, vmcs.WidthNatural, vmcs.HostState, 14, "HostInterruptSSPTable", "Host IA32_INTERRUPT_SSP_TABLE_ADDR"},
	} {
		require.Equal(t, c.e, uint32(c.f))
		require.Equal(t, c.w, c.f.Width())
		require.Equal(t, c.typ, c.f.Type())
		require.Equal(t, c.i, c.f.Index())
		require.Equal(t, c.name, c.f.String())
		require.Equal(t, c.sdm, c.f.SDMName())
		require.Equal(t, c.f, vmcs.FieldOf(c.w, c.typ, c.i))
	}
	require.True(t, vmcs.ExitReason == 0x4402)
	require.Equal(t, "Field(0x6c28)", vmcs.Field(0x6c28).String())
	require.Equal(t, "Field(0x6c28)", vmcs.Field(0x6c28).SDMName())
	require.Equal(t, "EPTPointerHigh", vmcs.EPTPointer.HighHalf().String())
	require.Equal(t, vmcs.EPTPointer, vmcs.EPTPointer.HighHalf().Full())
	require.False(t, vmcs.ExitReason.HighHalf().Valid())
	require.Equal(t, "Width(9)", vmcs.Width(9).String())
	require.Equal(t, "FieldType(4)", vmcs.FieldType(4).String())
}

// Every 16-bit encoding, and one from each range beyond, means the same to all
// methods, and is parsed back from all that it prints as.
func TestFieldsRoundTrip(t *testing.T) {
	ring0test.HostOnly(t)
	all := slices.Collect(vmcs.Fields())
	require.True(t, slices.IsSorted(all))
	known := 0
	for e := range uint32(0x12000) {
		f := vmcs.Field(e)
		if e >= 0x11000 {
			f = vmcs.Field(e<<15 | e&0x7fff)
		}
		if f.Known() {
			known++
			require.True(t, f.Valid(), "%v", f)
			require.True(t, slices.Contains(all, f.Full()), "%v", f)
			require.Equal(t, f, vmcs.FieldOf(f.Width(), f.Type(), f.Index())|f&1)
		}
		names := []string{f.String(), f.SDMName(), "0x" + strconv.FormatUint(uint64(f), 16), strings.ToUpper(f.SDMName())}
		if !f.Known() {
			names = names[:3]
		}
		for _, s := range names {
			got, err := vmcs.ParseField(s)
			require.NoError(t, err)
			require.Equal(t, f, got, s)
		}
	}
	high := 0
	for _, f := range all {
		if f.Width() == vmcs.Width64 {
			high++
		}
	}
	require.Equal(t, len(all)+high, known)

	for _, s := range []string{"", "0x", "0x123456789", "Guest CR9", "Field(", "0xzz", "(", "High", strings.Repeat("x", 1<<16)} {
		_, err := vmcs.ParseField(s)
		require.Error(t, err, s)
		require.Less(t, len(err.Error()), 400)
	}
	for _, s := range []string{"guest cr0", "GUEST_CR0", "guestcr0", " 0x6800 ", "Field(0x6800)", "0X6800"} {
		f, err := vmcs.ParseField(s)
		require.NoError(t, err, s)
		require.Equal(t, vmcs.GuestCR0, f)
	}
}

func checkParseField(t *rapid.T) {
	s := rapid.OneOf(rapid.String(), rapid.StringMatching(`(Field\()?(0x)?[0-9a-f]{0,10}\)?`)).Draw(t, "s")
	f, err := vmcs.ParseField(s)
	if err != nil {
		return
	}
	var back vmcs.Field
	text, err := f.MarshalText()
	require.NoError(t, err)
	var u encoding.TextUnmarshaler = &back
	require.NoError(t, u.UnmarshalText(text))
	require.Equal(t, f, back)
}

func TestParseField(t *testing.T) { rapid.Check(t, checkParseField) }
func FuzzParseField(f *testing.F) { f.Fuzz(rapid.MakeFuzz(checkParseField)) }

// What a field depends on is what the capabilities announce.
func TestFieldSupported(t *testing.T) {
	none := &vmcs.Capabilities{}
	every := everything()
	for f := range vmcs.Fields() {
		require.Equal(t, f.Depends() == "", f.Supported(none), "%v", f)
		unannounced := strings.Contains(f.Depends(), "announces")
		require.Equal(t, !unannounced, f.Supported(every), "%v", f)
		if f.Width() == vmcs.Width64 {
			require.Equal(t, f.Supported(every), f.HighHalf().Supported(every))
		}
	}
	require.False(t, vmcs.Field(0x7000).Supported(every))
	require.Equal(t, `"Enable VPID" of the secondary processor-based VM-execution controls`, vmcs.VPID.Depends())
	require.Equal(t, `"Load IA32_PAT" of the VM-entry controls or "Save IA32_PAT" of the primary VM-exit controls`, vmcs.GuestPAT.Depends())
	require.Equal(t, "3 or more CR3-target values (IA32_VMX_MISC[24:16])", vmcs.CR3Target2.Depends())
}

func BenchmarkFieldDecode(b *testing.B) {
	b.ReportAllocs()
	f := vmcs.Field(0)
	n := 0
	for b.Loop() {
		if f.Known() && f.Width() == vmcs.Width64 && f.Type() == vmcs.GuestState {
			n += f.Index()
		}
		f = (f + 2) & 0x7fff
	}
}
