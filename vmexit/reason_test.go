package vmexit_test

import (
	_ "embed"
	"encoding/csv"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/govtx/vtx/internal/require"
	"github.com/govtx/vtx/vmexit"
)

//go:embed testdata/witnesses/reasons.csv
var witnesses string

// Reasons that no two sources agree on, or that are reserved.
var reserved = []vmexit.Basic{35, 38, 42, 71, 82, 83}

// The table agrees with a list of what other sources have: each reason is in two of
// them at least, and one of their names is among those that are parsed, in nearly all
// cases.
func TestReasonsHaveWitnesses(t *testing.T) {
	r := csv.NewReader(strings.NewReader(witnesses))
	r.Comment = '#'
	rows, err := r.ReadAll()
	require.NoError(t, err)
	require.Len(t, rows[1:], vmexit.NumBasic)
	for i, row := range rows[1:] {
		require.Equal(t, strconv.Itoa(i), row[0])
		b, sources := vmexit.Basic(i), strings.Fields(row[1])
		if slices.Contains(reserved, b) {
			require.False(t, b.Known(), "%v", b)
			continue
		}
		require.True(t, b.Known(), "%v", b)
		projects := map[string]bool{}
		agree := 0
		for _, s := range sources {
			source, name, ok := strings.Cut(s, "=")
			require.True(t, ok, s)
			project, _, _ := strings.Cut(source, "-")
			projects[project] = true
			for _, name := range []string{name, strings.TrimSuffix(name, "_INSTRUCTION")} {
				if got, err := vmexit.ParseBasic(name); err == nil {
					require.Equal(t, b, got, "%s has %s for %d", source, name, i)
					agree++
				}
			}
		}
		require.GreaterOrEqual(t, len(projects), 2, "%v", b)
		require.GreaterOrEqual(t, agree, 1, "%v: no source has a name that is parsed: %v", b, sources)
	}
}

// Some rows, by hand from SDM Vol. 3D table C-1 and Vol. 3C 28.2.
func TestReasonTable(t *testing.T) {
	type row struct {
		b                vmexit.Basic
		n                int
		name, sdm, linux string
		section          string
		kind             vmexit.Kind
		q                vmexit.QualificationFormat
		i                vmexit.InformationFormat
		length           vmexit.Presence
		linear, physical vmexit.Presence
		delivery         bool
	}
	const (
		fault, trap, event, failure = vmexit.KindFault, vmexit.KindTrap, vmexit.KindEvent, vmexit.KindEntryFailure
		never, some, always         = vmexit.Never, vmexit.Sometimes, vmexit.Always
	)
	for _, c := range []row{
		{vmexit.ExceptionOrNMI, 0, "ExceptionOrNMI", "Exception or non-maskable interrupt (NMI)", "EXCEPTION_NMI", "26.2", event, vmexit.QualificationEvent, 0, some, never, never, true},
		{vmexit.TaskSwitch, 9, "TaskSwitch", "Task switch", "TASK_SWITCH", "26.4.2", fault, vmexit.QualificationTaskSwitch, 0, some, never, never, true},
		{vmexit.CPUID, 10, "CPUID", "CPUID", "CPUID", "26.1.2", fault, 0, 0, always, never, never, false},
		{vmexit.CRAccess, 28, "CRAccess", "Control-register accesses", "CR_ACCESS", "26.1.3", fault, vmexit.QualificationCRAccess, 0, always, some, never, false},
		{vmexit.IOInstruction, 30, "IOInstruction", "I/O instruction", "IO_INSTRUCTION", "26.1.3", fault, vmexit.QualificationIO, vmexit.InformationStringIO, always, some, never, false},
		{vmexit.InvalidGuestState, 33, "InvalidGuestState", "VM-entry failure due to invalid guest state", "INVALID_STATE", "27.8", failure, vmexit.QualificationGuestState, 0, never, never, never, false},
		{vmexit.TPRBelowThreshold, 43, "TPRBelowThreshold", "TPR below threshold", "TPR_BELOW_THRESHOLD", "30.1.2", trap, 0, 0, never, never, never, false},
		{vmexit.EPTViolation, 48, "EPTViolation", "EPT violation", "EPT_VIOLATION", "29.3.3.2", fault, vmexit.QualificationEPTViolation, 0, some, some, always, true},
		{vmexit.INVVPID, 53, "INVVPID", "INVVPID", "INVVPID", "26.1.2", fault, vmexit.QualificationDisplacement, vmexit.InformationInvalidation, always, never, never, false},
		{vmexit.BusLock, 74, "BusLock", "Bus lock", "BUS_LOCK", "26.2", trap, 0, 0, never, never, never, false},
		{vmexit.RDMSRImmediate, 84, "RDMSRImmediate", "RDMSR (immediate form)", "MSR_READ_IMM", "", fault, vmexit.QualificationMSR, vmexit.InformationUserMSR, always, never, never, false},
	} {
		b := c.b
		require.Equal(t, c, row{b, int(b), b.String(), b.SDMName(), b.LinuxName(), b.Section(), b.Kind(), b.QualificationFormat(),
			b.InformationFormat(), b.InstructionLength(), b.LinearAddress(), b.PhysicalAddress(), b.DuringDelivery()})
	}
}

// What must hold between the columns.
func TestReasonsConsistent(t *testing.T) {
	n := 0
	for b := range vmexit.Basics() {
		n++
		require.NotEqual(t, vmexit.KindUnknown, b.Kind(), "%v", b)
		if b.InformationFormat() != vmexit.InformationNone {
			require.Equal(t, vmexit.Always, b.InstructionLength(), "%v: information is about an instruction", b)
		}
		if b.Kind() != vmexit.KindFault {
			require.NotEqual(t, vmexit.Always, b.InstructionLength(), "%v", b)
		}
		if b.InstructionLength() == vmexit.Sometimes {
			require.True(t, b.DuringDelivery(), "%v: the length is that of a software event", b)
		}
		if b.PhysicalAddress() != vmexit.Never || b.LinearAddress() == vmexit.Always {
			require.True(t, b.DuringDelivery(), "%v: memory accesses take place during delivery", b)
		}
		if b.QualificationFormat() == vmexit.QualificationDisplacement {
			require.NotEqual(t, vmexit.InformationNone, b.InformationFormat(), "%v: a displacement alone is no operand", b)
		}
		if b.Section() == "" {
			require.Contains(t, b.Note(), "younger than revision 084", "%v", b)
		}
	}
	require.Equal(t, vmexit.NumBasic-len(reserved), n)
	first := 0
	for range vmexit.Basics() {
		first++
		break // an iterator can be left
	}
	require.Equal(t, 1, first)
}

// All names of all reasons are parsed, in any spelling; so are numbers up to the
// highest, and none panics.
func TestBasicText(t *testing.T) {
	for n := 0; n < 1<<16; n += 1 + n/300 {
		b := vmexit.Basic(n)
		text, err := b.MarshalText()
		require.NoError(t, err)
		var back vmexit.Basic
		require.NoError(t, back.UnmarshalText(text), string(text))
		require.Equal(t, b, back)
		if n >= vmexit.NumBasic {
			require.False(t, b.Known())
			require.Equal(t, fmt.Sprintf("Basic(%d)", n), b.String())
			require.Equal(t, "reserved", b.SDMName())
			require.Zero(t, b.Kind())
			require.Zero(t, b.LinuxName()+b.Section()+b.Note())
		}
	}
	for b := range vmexit.Basics() {
		for _, name := range []string{b.String(), b.SDMName(), b.LinuxName(), strings.ToLower(b.SDMName()), strings.ToUpper(b.String()), strconv.Itoa(int(b)), fmt.Sprintf("%#x", int(b))} {
			got, err := vmexit.ParseBasic(name)
			require.NoError(t, err)
			require.Equal(t, b, got, name)
		}
	}
	for _, s := range []string{"", "EPT", "Basic(", "Basic(x)", "65536", "-1", "ept violationn", strings.Repeat("x", 1000)} {
		_, err := vmexit.ParseBasic(s)
		require.ErrorContains(t, err, "no basic exit reason is called")
		require.Less(t, len(err.Error()), 400)
	}
	for name, want := range map[string]vmexit.Basic{"pending_interrupt": vmexit.InterruptWindow, " apic access ": vmexit.APICAccess, "vmon": vmexit.VMXON, "Basic(71)": 71} {
		got, err := vmexit.ParseBasic(name)
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
}

func TestReasonBits(t *testing.T) {
	for _, c := range []struct {
		r    vmexit.Reason
		text string
	}{
		{48, "EPTViolation"},
		{0x80000021, "InvalidGuestState, entry failure"},
		{0x0a000030, "EPTViolation, busy shadow stack, enclave mode"},
		{0x0400004a, "BusLock, bus lock asserted"},
		{0x30000006, "OtherSMI, pending MTF, from VMX root"},
		{0x41010023, "Basic(35), bit 16, bit 24, bit 30"},
	} {
		require.Equal(t, c.text, c.r.String())
	}
	r := vmexit.Reason(0xffff0000)
	require.Equal(t, vmexit.ExceptionOrNMI, r.Basic())
	for bit, has := range map[vmexit.Reason]func(vmexit.Reason) bool{
		vmexit.ReasonBusyShadowStack: vmexit.Reason.BusyShadowStack, vmexit.ReasonBusLock: vmexit.Reason.BusLock,
		vmexit.ReasonEnclave: vmexit.Reason.Enclave, vmexit.ReasonPendingMTF: vmexit.Reason.PendingMTF,
		vmexit.ReasonFromRoot: vmexit.Reason.FromRoot, vmexit.ReasonEntryFailure: vmexit.Reason.EntryFailure,
	} {
		require.True(t, has(bit))
		require.True(t, has(r))
		require.False(t, has(r&^bit))
	}
	for text, part := range map[string]string{
		"EPTViolation,":           "no flag",
		"EPTViolation, enclave":   "no flag",
		"EPTViolation, bit 15":    "no flag",
		"EPTViolation, bit 32":    "no flag",
		"EPTViolation, bit 16, x": "no flag",
		"x, enclave mode":         "no basic exit reason",
		"0x100000000":             "no basic exit reason",
	} {
		_, err := vmexit.ParseReason(text)
		require.ErrorContains(t, err, part, text)
	}
}

// reasonText: any value is printed and parsed back.
func reasonText(t *rapid.T) {
	r := vmexit.Reason(rapid.Uint32().Draw(t, "reason"))
	text, err := r.MarshalText()
	require.NoError(t, err)
	var back vmexit.Reason
	require.NoError(t, back.UnmarshalText(text), string(text))
	require.Equal(t, r, back, string(text))
	n, err := vmexit.ParseReason(fmt.Sprintf("%#x", uint32(r)))
	require.NoError(t, err)
	require.Equal(t, r, n)
	require.Equal(t, vmexit.Basic(r&0xffff), r.Basic())
	b := r.Basic()
	require.Equal(t, b.Known(), b.Kind() != vmexit.KindUnknown)
}

func TestReasonText(t *testing.T) { rapid.Check(t, reasonText) }
func FuzzReason(f *testing.F)     { f.Fuzz(rapid.MakeFuzz(reasonText)) }

// FuzzParseReason: the parser takes any text, and what it understands is printed and
// parsed back.
func FuzzParseReason(f *testing.F) {
	for _, s := range []string{"", "48", "EPT violation", "EPTViolation, enclave mode", "Basic(35), bit 16", "0x80000021", "CPUID, bit 31"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := vmexit.ParseReason(s)
		if err != nil {
			require.Zero(t, r)
			return
		}
		again, err := vmexit.ParseReason(r.String())
		require.NoError(t, err)
		require.Equal(t, r, again)
	})
}

// enum is an enumeration of 8 bits.
type enum[T any] interface {
	*T
	UnmarshalText([]byte) error
}

func checkEnum[T interface {
	~uint8
	fmt.Stringer
	MarshalText() ([]byte, error)
}, P enum[T]](t *testing.T, named int) {
	t.Helper()
	numbered, seen := 0, map[string]bool{}
	for n := range 256 {
		v := T(n)
		text, err := v.MarshalText()
		require.NoError(t, err)
		require.Equal(t, v.String(), string(text))
		require.False(t, seen[string(text)], "%q is there twice", text)
		seen[string(text)] = true
		if strings.HasSuffix(string(text), fmt.Sprintf("(%d)", n)) {
			numbered++
		}
		var back T
		require.NoError(t, P(&back).UnmarshalText(text), string(text))
		require.Equal(t, v, back, string(text))
	}
	require.Equal(t, named, 256-numbered)
	for _, s := range []string{"", "nonsense", "X(1)", "("} {
		v := T(3)
		require.Error(t, P(&v).UnmarshalText([]byte(s)), s)
		require.Equal(t, T(3), v)
	}
}

// All enumerations print and parse all values.
func TestEnumerations(t *testing.T) {
	checkEnum[vmexit.Kind](t, 5)
	checkEnum[vmexit.Presence](t, 3)
	checkEnum[vmexit.QualificationFormat](t, 25)
	checkEnum[vmexit.InformationFormat](t, 11)
	checkEnum[vmexit.Register](t, 16)
	checkEnum[vmexit.TaskSwitchSource](t, 4)
	checkEnum[vmexit.CRAccessType](t, 4)
	checkEnum[vmexit.APICAccessType](t, 8)
	checkEnum[vmexit.DescriptorTableInstruction](t, 4)
	checkEnum[vmexit.SystemSegmentInstruction](t, 4)
	checkEnum[vmexit.Mode](t, 5)
	checkEnum[vmexit.EventClass](t, 4)
	checkEnum[vmexit.Combination](t, 3)
}
