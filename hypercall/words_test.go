package hypercall_test

import (
	"encoding"
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/govtx/vtx/hypercall"
	"github.com/govtx/vtx/internal/require"
	"github.com/govtx/vtx/internal/ring0test"
)

// Words and results as they stand in memory, by hand from the TLFS' tables.
func TestInputBits(t *testing.T) {
	for _, c := range []struct {
		word     hypercall.Input
		code     hypercall.Code
		fast     bool
		variable int
		nested   bool
		count    int
		start    int
		reserved uint64
		text     string
	}{
		{0x11, 0x11, false, 0, false, 0, 0, 0, "HvCallVtlCall"},
		{0x10011, 0x11, true, 0, false, 0, 0, 0, "HvCallVtlCall, fast"},
		{0x0000_0003_0001_0050, 0x50, true, 0, false, 3, 0, 0, "HvCallGetVpRegisters, fast, reps 3"},
		{0x0ffe_0fff_0000_000c, 0xc, false, 0, false, 4095, 4094, 0, "HvCallModifyVtlProtectionMask, reps 4095, start 4094"},
		{0x0000_0000_07fe_0015, 0x15, false, 1023, false, 0, 0, 0, "HvCallSendSyntheticClusterIpiEx, variable header 1023"},
		{0x0000_0000_8002_0013, 0x13, false, 1, true, 0, 0, 0, "HvCallFlushVirtualAddressSpaceEx, nested, variable header 1"},
		{0xf000_f000_7800_0000, 0, false, 0, false, 0, 0, 0xf000f00078000000, "HvCallReserved0000, reserved 0xf000f00078000000"},
		{0xffff_ffff_ffff_ffff, 0xffff, true, 1023, true, 4095, 4095, 0xf000f00078000000, "Code(0xffff), fast, nested, variable header 1023, reps 4095, start 4095, reserved 0xf000f00078000000"},
		{0x0000_0000_0800_0002, 2, false, 0, false, 0, 0, 1 << 27, "HvCallFlushVirtualAddressSpace, reserved 0x8000000"},
	} {
		w := c.word
		require.Equal(t, c.code, w.Code(), "%#x", uint64(w))
		require.Equal(t, c.fast, w.Fast(), "%#x", uint64(w))
		require.Equal(t, c.variable, w.VariableHeader(), "%#x", uint64(w))
		require.Equal(t, c.nested, w.Nested(), "%#x", uint64(w))
		require.Equal(t, c.count, w.RepCount(), "%#x", uint64(w))
		require.Equal(t, c.start, w.RepStart(), "%#x", uint64(w))
		require.Equal(t, c.reserved, w.Reserved(), "%#x", uint64(w))
		require.Equal(t, c.text, w.String())
	}
}

func TestResultBits(t *testing.T) {
	for _, c := range []struct {
		word     hypercall.Result
		status   hypercall.Status
		reps     int
		reserved uint64
		text     string
	}{
		{0, 0, 0, 0, "HV_STATUS_SUCCESS"},
		{0x0000_0014_0000_0005, 5, 20, 0, "HV_STATUS_INVALID_PARAMETER, reps 20"},
		{0x0000_0fff_0000_1234, 0x1234, 4095, 0, "Status(0x1234), reps 4095"},
		{0xffff_f000_ffff_0006, 6, 0, 0xfffff000ffff0000, "HV_STATUS_ACCESS_DENIED, reserved 0xfffff000ffff0000"},
	} {
		r := c.word
		require.Equal(t, c.status, r.Status())
		require.Equal(t, c.reps, r.Reps())
		require.Equal(t, c.reserved, r.Reserved())
		require.Equal(t, c.text, r.String())
		require.Equal(t, r&^hypercall.ResultReserved, hypercall.MakeResult(c.status, c.reps))
		if c.status == 0 {
			require.NoError(t, r.Err())
		} else {
			require.ErrorIs(t, r.Err(), c.status)
		}
	}
}

// A word is the sum of its parts, every builder changes its own part only, and the
// text is read back. The model is a bit string.
func inputParts(t *rapid.T) {
	w := hypercall.Input(rapid.Uint64().Draw(t, "word"))
	bits := func(hi, lo int) uint64 { return uint64(w) >> lo & (1<<(hi-lo+1) - 1) }
	require.Equal(t, bits(15, 0), uint64(w.Code()))
	require.Equal(t, bits(16, 16) == 1, w.Fast())
	require.Equal(t, bits(26, 17), uint64(w.VariableHeader()))
	require.Equal(t, bits(31, 31) == 1, w.Nested())
	require.Equal(t, bits(43, 32), uint64(w.RepCount()))
	require.Equal(t, bits(59, 48), uint64(w.RepStart()))
	require.Equal(t, bits(63, 60)<<60|bits(47, 44)<<44|bits(30, 27)<<27, w.Reserved())

	require.Equal(t, w, hypercall.Input(w.Reserved()).WithCode(w.Code()).WithFast(w.Fast()).WithVariableHeader(w.VariableHeader()).
		WithNested(w.Nested()).WithReps(w.RepCount()).WithRepStart(w.RepStart()))

	n := rapid.Int().Draw(t, "number")
	c := hypercall.Code(rapid.Uint16().Draw(t, "code"))
	b := rapid.Bool().Draw(t, "bit")
	one := func(b bool) uint64 {
		if b {
			return 1
		}
		return 0
	}
	for _, x := range []struct {
		got    hypercall.Input
		hi, lo int
		v      uint64
	}{
		{w.WithCode(c), 15, 0, uint64(c)},
		{w.WithFast(b), 16, 16, one(b)},
		{w.WithVariableHeader(n), 26, 17, uint64(n)},
		{w.WithNested(b), 31, 31, one(b)},
		{w.WithReps(n), 43, 32, uint64(n)},
		{w.WithRepStart(n), 59, 48, uint64(n)},
	} {
		mask := uint64(1)<<(x.hi+1) - 1<<x.lo
		require.Equal(t, uint64(w)&^mask|x.v<<x.lo&mask, uint64(x.got), "bits %d:%d", x.hi, x.lo)
	}

	r := hypercall.Result(w)
	require.Equal(t, r, hypercall.Result(r.Reserved()).WithStatus(r.Status()).WithReps(r.Reps()))
	require.Equal(t, hypercall.MakeResult(hypercall.Status(c), n), hypercall.Result(0).WithStatus(hypercall.Status(c)).WithReps(n))
}

func TestInputParts(t *testing.T) { ring0test.CheckOnHost(t, inputParts) }

func FuzzInputParts(f *testing.F) { f.Fuzz(rapid.MakeFuzz(inputParts)) }

// A textType is a type of the package with a text.
type textType struct {
	name string
	// draw makes a value, and a pointer to a zero of its type.
	draw func(t *rapid.T) (fmt.Stringer, encoding.TextUnmarshaler)
	zero func() encoding.TextUnmarshaler
}

// text makes a textType of T.
func text[T interface {
	~uint8 | ~uint16 | ~uint32 | ~uint64
	fmt.Stringer
	encoding.TextMarshaler
}, P interface {
	*T
	encoding.TextUnmarshaler
}]() textType {
	var v T
	return textType{
		name: strings.TrimPrefix(fmt.Sprintf("%T", v), "hypercall."),
		draw: func(t *rapid.T) (fmt.Stringer, encoding.TextUnmarshaler) {
			n := rapid.Uint64().Draw(t, "value")
			if rapid.Bool().Draw(t, "few bits") {
				mask := uint64(0)
				for range 2 {
					mask |= 1 << rapid.IntRange(0, 63).Draw(t, "bit")
				}
				n &= mask
			}
			return T(n), P(new(T))
		},
		zero: func() encoding.TextUnmarshaler { return P(new(T)) },
	}
}

var textTypes = []textType{
	text[hypercall.Input](), text[hypercall.Result](), text[hypercall.Code](), text[hypercall.Kind](), text[hypercall.Status](),
	text[hypercall.Register](), text[hypercall.MSR](), text[hypercall.VTL](), text[hypercall.InputVTL](), text[hypercall.GuestOSID](),
	text[hypercall.Privileges](), text[hypercall.PowerFeatures](), text[hypercall.Features](), text[hypercall.Recommendations](),
	text[hypercall.AddressWidth](), text[hypercall.HardwareFeatures](), text[hypercall.ManagementFeatures](), text[hypercall.PowerManagement](),
	text[hypercall.PasidFeatures](), text[hypercall.NestedAccess](), text[hypercall.NestedOptimizations](), text[hypercall.NestedFields](),
	text[hypercall.IsolationFeatures](), text[hypercall.IsolationState](), text[hypercall.HypercallMSR](), text[hypercall.VPAssistMSR](),
	text[hypercall.ReferenceTSCMSR](), text[hypercall.SControlMSR](), text[hypercall.SIEFPMSR](), text[hypercall.SIMPMSR](), text[hypercall.SINTMSR](),
	text[hypercall.STimerConfigMSR](), text[hypercall.UnhaltedTimerMSR](), text[hypercall.ReenlightenmentMSR](),
	text[hypercall.TSCEmulationControlMSR](), text[hypercall.TSCEmulationStatusMSR](), text[hypercall.TSCInvariantMSR](), text[hypercall.CrashControlMSR](),
}

// What a type prints, it reads back, and it marshals as it prints; what it cannot read,
// it refuses and leaves alone.
func texts(t *rapid.T) {
	typ := rapid.SampledFrom(textTypes).Draw(t, "type")
	v, p := typ.draw(t)
	out, err := v.(encoding.TextMarshaler).MarshalText()
	require.NoError(t, err)
	require.Equal(t, v.String(), string(out))
	require.NoError(t, p.UnmarshalText(out), typ.name)
	require.Equal(t, v, deref(p), "%s: %s", typ.name, out)

	// Text from anywhere: read to something that prints and reads the same again, or
	// an error.
	s := rapid.OneOf(rapid.String(), rapid.Map(rapid.IntRange(0, len(out)), func(n int) string { return string(out[:n]) }),
		rapid.Map(rapid.String(), func(s string) string { return string(out) + "," + s })).Draw(t, "text")
	q := typ.zero()
	if err := q.UnmarshalText([]byte(s)); err != nil {
		require.Equal(t, deref(typ.zero()), deref(q), "changed by %q", s)
		require.True(t, strings.HasPrefix(err.Error(), "hypercall: "), "%v", err)
		require.Less(t, len(err.Error()), 1000)
		return
	}
	again := typ.zero()
	require.NoError(t, again.UnmarshalText([]byte(deref(q).(fmt.Stringer).String())))
	require.Equal(t, deref(q), deref(again), "%q", s)
}

func TestTexts(t *testing.T) { ring0test.CheckOnHost(t, texts) }

func FuzzTexts(f *testing.F) { f.Fuzz(rapid.MakeFuzz(texts)) }

// What is no text of a type, and what the error says about it.
func TestBadTexts(t *testing.T) {
	for _, c := range []struct {
		to   encoding.TextUnmarshaler
		text string
		want string
	}{
		{new(hypercall.Input), "", `no call is named ""`},
		{new(hypercall.Input), "HvCallNothing, fast", `no call is named "HvCallNothing"`},
		{new(hypercall.Input), "HvCallVtlCall, reps 4096", `" reps 4096" in`},
		{new(hypercall.Input), "HvCallVtlCall, variable header 1024", "too large"},
		{new(hypercall.Input), "HvCallVtlCall, fast, fast", "stands there twice"},
		{new(hypercall.Input), "HvCallVtlCall, reserved 0x1", "no part of a hypercall input word"},
		{new(hypercall.Input), "0x10000000000000000", "no call is named"},
		{new(hypercall.Result), "HV_STATUS_SUCCESS, start 3", "no part of a hypercall result"},
		{new(hypercall.Result), "HV_STATUS_SUCCESS, reserved 0x1", "no part of a hypercall result"},
		{new(hypercall.Code), "65536", "a number from 0 to 0xffff"},
		{new(hypercall.Code), "Code(0x12", "no call is named"},
		{new(hypercall.Status), "HV_STATUS_NOTHING", "no status is named"},
		{new(hypercall.Register), "HvRegister", "no register is named"},
		{new(hypercall.Register), "0x100000000", "a number of 32 bits"},
		{new(hypercall.MSR), "HV_X64_MSR_SINT16", "no synthetic MSR is named"},
		{new(hypercall.VTL), "VTLx", "no virtual trust level"},
		{new(hypercall.VTL), "256", "no virtual trust level"},
		{new(hypercall.InputVTL), "VTL16", "names no level"},
		{new(hypercall.InputVTL), "own, target 16", "names no level"},
		{new(hypercall.InputVTL), "VTL1, target 1", "names no level"},
		{new(hypercall.InputVTL), "own, reserved 1", "names no level"},
		{new(hypercall.Kind), "complex", "no kind of hypercall"},
		{new(hypercall.GuestOSID), "Linux", "no identity of a guest"},
		{new(hypercall.GuestOSID), "Linux version 0x060100 OS 0 build 0", "no identity of a guest"},
		{new(hypercall.Privileges), "AccessVSM, AccessVSM", "twice"},
		{new(hypercall.Privileges), "AccessVSN", "no field"},
		{new(hypercall.SINTMSR), "Vector 256", "8 bits"},
	} {
		require.ErrorContains(t, c.to.UnmarshalText([]byte(c.text)), c.want, "%T %q", c.to, c.text)
	}
}

// Other spellings that are read.
func TestOtherTexts(t *testing.T) {
	for _, c := range []struct {
		to   encoding.TextUnmarshaler
		text string
		want string
	}{
		{new(hypercall.Input), " 0x3_0001_0050", "HvCallGetVpRegisters, fast, reps 3"},
		{new(hypercall.Input), "getvpregisters , start 2,reps 3, fast", "HvCallGetVpRegisters, fast, reps 3, start 2"},
		{new(hypercall.Code), "HVCALL_SEND_IPI_EX", "HvCallSendSyntheticClusterIpiEx"},
		{new(hypercall.Code), "send_ipi", "HvCallSendSyntheticClusterIpi"},
		{new(hypercall.Code), "HvGetVpRegisters", "HvCallGetVpRegisters"},
		{new(hypercall.Code), "17", "HvCallVtlCall"},
		{new(hypercall.Code), "ExtCallQueryCapabilities", "HvExtCallQueryCapabilities"},
		{new(hypercall.Status), "invalid vtl state", "HV_STATUS_INVALID_VTL_STATE"},
		{new(hypercall.Status), "HV_STATUS_TIME_OUT", "HV_STATUS_TIMEOUT"},
		{new(hypercall.Register), "rip", "HvX64RegisterRip"},
		{new(hypercall.Register), "VsmVina", "HvRegisterVsmVina"},
		{new(hypercall.Register), "HV_REGISTER_SIEFP", "HvRegisterSifp"},
		{new(hypercall.Register), "HvArm64RegisterX0", "HvX64RegisterRax"}, // the same number
		{new(hypercall.MSR), "vp_index", "HV_X64_MSR_VP_INDEX"},
		{new(hypercall.MSR), "HV_X64_MSR_APIC_ASSIST_PAGE", "HV_X64_MSR_VP_ASSIST_PAGE"},
		{new(hypercall.VTL), "vtl2", "VTL2"},
		{new(hypercall.VTL), "1", "VTL1"},
		{new(hypercall.InputVTL), "0x11", "VTL1"},
		{new(hypercall.Privileges), "accessvsm, access vp registers", ""},
		{new(hypercall.Privileges), "accessvsm,AccessVpRegisters", "AccessVSM, AccessVpRegisters"},
		{new(hypercall.Privileges), "none", "none"},
	} {
		err := c.to.UnmarshalText([]byte(c.text))
		if c.want == "" {
			require.Error(t, err, "%q", c.text)
			continue
		}
		require.NoError(t, err)
		require.Equal(t, c.want, deref(c.to).(fmt.Stringer).String())
	}
}

// Levels, and how calls name them: every byte.
func TestVTLs(t *testing.T) {
	for n := range 256 {
		v := hypercall.VTL(n)
		require.Equal(t, n < 16, v.Valid())
		i := hypercall.InputVTL(n)
		require.Equal(t, hypercall.VTL(n%16), i.Target())
		require.Equal(t, n/16%2 == 1, i.UseTarget())
		require.Equal(t, uint8(n)&0xe0, i.Reserved())
		for active := range hypercall.VTL(hypercall.NumVTLs) {
			want := active
			if i.UseTarget() {
				want = hypercall.VTL(n % 16)
			}
			require.Equal(t, want, i.Of(active))
		}
		got, err := hypercall.ParseInputVTL(i.String())
		require.NoError(t, err)
		require.Equal(t, i, got)
	}
	for v := range hypercall.VTL(hypercall.NumVTLs) {
		i := hypercall.TargetVTL(v)
		require.Equal(t, v, i.Of(0))
		require.Equal(t, v.String(), i.String())
		require.Zero(t, i.Reserved())
	}
	require.False(t, hypercall.InvalidVTL.Valid())
	require.Equal(t, "VTL(255)", hypercall.InvalidVTL.String())
	require.Equal(t, "own, target 3, reserved 0x20", hypercall.InputVTL(0x23).String())
}

// Identities of guests, by hand.
func TestGuestOSID(t *testing.T) {
	w := hypercall.ProprietaryID(hypercall.VendorMicrosoft, hypercall.MicrosoftWindowsNT, 10, 0, 0, 22621)
	require.Equal(t, hypercall.GuestOSID(0x0001_040a_0000_585d), w)
	require.Equal(t, "Microsoft Windows NT 10.0 service 0 build 22621", w.String())
	require.False(t, w.OpenSource())
	require.Zero(t, w.Type())

	// Linux 6.1.0 as it identifies itself: the version is LINUX_VERSION_CODE.
	l := hypercall.OpenSourceID(hypercall.OSLinux, 0, 0x60100, 0)
	require.Equal(t, hypercall.GuestOSID(0x8100_0006_0100_0000), l)
	require.Equal(t, "Linux version 0x60100 OS 0 build 0", l.String())
	require.Zero(t, l.Vendor())

	require.Equal(t, "none", hypercall.GuestOSID(0).String())
	require.Equal(t, "type(0x7f) version 0xffffffff OS 255 build 65535", hypercall.GuestOSID(1<<64-1).String())
	require.Equal(t, "vendor(0x7fff) OS 255 255.255 service 255 build 65535", hypercall.GuestOSID(1<<63-1).String())
	require.Equal(t, "HPE OS 4 1.2 service 3 build 4", hypercall.ProprietaryID(hypercall.VendorHPE, 4, 1, 2, 3, 4).String())
	require.Equal(t, "Microsoft OS 6 1.2 service 3 build 4", hypercall.ProprietaryID(hypercall.VendorMicrosoft, 6, 1, 2, 3, 4).String())
}

func guestOSIDs(t *rapid.T) {
	g := hypercall.GuestOSID(rapid.Uint64().Draw(t, "id"))
	again := hypercall.ProprietaryID(g.Vendor(), g.OSID(), g.Major(), g.Minor(), g.Service(), g.Build())
	if g.OpenSource() {
		again = hypercall.OpenSourceID(g.Type(), g.OSID(), g.Version(), g.Build())
	}
	require.Equal(t, g, again)
}

func TestGuestOSIDs(t *testing.T) { ring0test.CheckOnHost(t, guestOSIDs) }

// Words are made and taken apart without allocation.
func TestWordsDoNotAllocate(t *testing.T) {
	l := hypercall.NewLeaves("vtx", hypercall.LeafFeatures)
	var sum uint64
	require.Zero(t, int(testing.AllocsPerRun(100, func() {
		w := hypercall.Input(0).WithCode(hypercall.CodeGetVpRegisters).WithFast(true).WithReps(3)
		r, _ := l.CPUID(hypercall.LeafFeatures)
		_, known := w.Code().Layout()
		sum += uint64(w) + uint64(hypercall.MakeResult(hypercall.StatusAccessDenied, w.RepCount())) + uint64(r.EAX)
		if known && w.Code().Known() && w.Code().Name() != "" && hypercall.RegisterRIP.Known() && hypercall.MSRVPIndex.String() != "" {
			sum++
		}
	})))
	require.NotZero(t, sum)
}
