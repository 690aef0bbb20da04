package vmexit_test

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/govtx/vtx/internal/require"
	"github.com/govtx/vtx/vmcs"
	"github.com/govtx/vtx/vmexit"
)

func TestEventOf(t *testing.T) {
	for _, c := range []struct {
		info         vmcs.InterruptionInfo
		code, length uint32
		text         string // "": none
		nmi          bool
	}{
		{0, 1, 2, "", false},
		{0x0000030e, 1, 2, "", false}, // not valid
		{0x80000b0e, 6, 3, "hardware exception #PF, error code 0x6", false},
		{0x80001b0d, 8, 3, "hardware exception #GP, error code 0x8", false}, // NMI unblocking does not go in
		{0x8000030d, 8, 3, "hardware exception #GP", false},                 // real mode
		{0x80003306, 0, 0, "hardware exception #UD", false},                 // nested, undefined bit 12
		{0x80000603, 9, 1, "software exception #BP, length 1", false},
		{0x80000501, 9, 1, "privileged software exception #DB, length 1", false},
		{0x80000480, 9, 2, "software interrupt 0x80, length 2", false},
		{0x80000202, 9, 2, "NMI 0x2", true},
		{0x80000030, 9, 2, "external interrupt 0x30", false},
	} {
		e, ok := vmexit.EventOf(c.info, c.code, c.length)
		require.Equal(t, c.text != "", ok)
		d, again := vmexit.Interrupted(c.info, c.code, c.length)
		require.Equal(t, ok, again)
		require.Equal(t, vmexit.Delivery{Event: e, UnblockNMI: c.nmi}, d)
		if !ok {
			require.Zero(t, e)
			continue
		}
		require.Equal(t, c.text, e.String())
		require.Zero(t, e.Info&^(vmcs.InfoValid|vmcs.InfoErrorCode|0x7ff), "bits that must be 0 at VM entry")
		if !e.Info.HasErrorCode() {
			require.Zero(t, e.ErrorCode)
		}
		if !e.Info.HasLength() {
			require.Zero(t, e.Length)
		}
	}
}

// What is read from the VMCS is what the processor leaves there for an injected
// event that did not get through.
func readEvents(t *rapid.T) {
	types := []vmcs.EventType{0, 2, 3, 4, 5, 6, 7}
	want := vmcs.Event{Info: vmcs.EventInfo(rapid.SampledFrom(types).Draw(t, "type"), vmcs.Vector(rapid.Byte().Draw(t, "vector")))}
	if want.Info.Type() == vmcs.EventOther { // SYSCALL or SYSENTER, with FRED
		want.Info = vmcs.EventInfo(vmcs.EventOther, 1+want.Info.Vector()&1)
	}
	if want.Info.Type() == vmcs.EventHardwareException && rapid.Bool().Draw(t, "code") {
		want.Info |= vmcs.InfoErrorCode
		want.ErrorCode = rapid.Uint32().Draw(t, "error code")
	}
	if want.Info.HasLength() {
		want.Length = rapid.Uint32Range(1, 15).Draw(t, "length")
	}
	undefined := vmcs.InterruptionInfo(rapid.Uint32().Draw(t, "undefined")) & (1 << 12)

	var m vmcs.Image
	fields := []vmcs.Field{vmcs.IDTVectoringInformation, vmcs.ExitInterruptionInformation}
	codes := []vmcs.Field{vmcs.IDTVectoringErrorCode, vmcs.ExitInterruptionErrorCode}
	read := []func() (vmcs.Event, bool, error){
		func() (vmcs.Event, bool, error) {
			d, ok, err := vmexit.ReadInterrupted(&m)
			require.Equal(t, ok && want.Info.Type() == vmcs.EventNMI, d.UnblockNMI)
			return d.Event, ok, err
		},
		func() (vmcs.Event, bool, error) { return vmexit.ReadEvent(&m) },
	}
	for i := range fields {
		m = vmcs.Image{}
		_, _, err := read[i]()
		require.ErrorIs(t, err, vmcs.ErrAbsent)
		m.Set(fields[i], 0)
		_, ok, err := read[i]() // without the other fields
		require.NoError(t, err)
		require.False(t, ok)

		m.Set(fields[i], uint64(want.Info|undefined))
		if want.Info.HasErrorCode() {
			_, _, err := read[i]()
			require.ErrorContains(t, err, codes[i].String())
			m.Set(codes[i], uint64(want.ErrorCode))
		}
		if want.Info.HasLength() {
			_, _, err := read[i]()
			require.ErrorContains(t, err, vmcs.ExitInstructionLength.String())
			m.Set(vmcs.ExitInstructionLength, uint64(want.Length))
		}
		got, ok, err := read[i]()
		require.NoError(t, err)
		require.True(t, ok)
		require.Equal(t, want, got)
		require.NoError(t, vmexit.CheckLength(got, false))
	}
}

func TestReadEvents(t *testing.T) { rapid.Check(t, readEvents) }
func FuzzReadEvents(f *testing.F) { f.Fuzz(rapid.MakeFuzz(readEvents)) }

// Classes by vector, from SDM Vol. 3A table 6-4.
func TestClassOf(t *testing.T) {
	want := map[vmcs.Vector]vmexit.EventClass{
		0: vmexit.Contributory, 8: vmexit.DoubleFaults, 10: vmexit.Contributory, 11: vmexit.Contributory, 12: vmexit.Contributory,
		13: vmexit.Contributory, 14: vmexit.PageFault, 20: vmexit.PageFault, 21: vmexit.Contributory,
	}
	for v := range 256 {
		for typ := range vmcs.EventType(8) {
			class := want[vmcs.Vector(v)]
			if typ != vmcs.EventHardwareException {
				class = vmexit.Benign // INT 13 is not #GP
			}
			require.Equal(t, class, vmexit.ClassOf(vmcs.EventInfo(typ, vmcs.Vector(v))), "%v %d", typ, v)
		}
	}
}

// SDM Vol. 3A table 6-5, cell by cell: what a second exception does to a first.
func TestCombine(t *testing.T) {
	de, ud := vmcs.InjectException(vmcs.VectorDE, 0), vmcs.InjectException(vmcs.VectorUD, 0)
	gp, np := vmcs.InjectException(vmcs.VectorGP, 8), vmcs.InjectException(vmcs.VectorNP, 0x1b)
	pf, ve := vmcs.InjectException(vmcs.VectorPF, 2), vmcs.InjectException(vmcs.VectorVE, 0)
	df := vmcs.InjectException(vmcs.VectorDF, 0)
	intr, nmi, int13 := vmcs.InjectInterrupt(0x30), vmcs.InjectNMI(), vmcs.InjectSoftwareInterrupt(13, 2)
	const serial, double, shutdown = vmexit.Serial, vmexit.DoubleFault, vmexit.Shutdown
	for _, c := range []struct {
		first, second vmcs.Event
		want          vmexit.Combination
	}{
		{vmcs.Event{}, gp, serial},
		{vmcs.Event{}, df, serial},
		{ud, ud, serial}, {ud, gp, serial}, {ud, pf, serial},
		{intr, gp, serial}, {intr, pf, serial}, {nmi, pf, serial}, {int13, gp, serial}, {int13, np, serial},
		{gp, ud, serial}, {gp, np, double}, {gp, de, double}, {np, gp, double}, {gp, pf, serial}, {gp, ve, serial},
		{pf, ud, serial}, {pf, gp, double}, {pf, pf, double}, {pf, ve, double}, {ve, pf, double}, {ve, np, double},
		{df, ud, serial}, {df, gp, shutdown}, {df, pf, shutdown}, {df, ve, shutdown},
		{gp, df, double}, {pf, df, double}, {df, df, shutdown}, {intr, df, serial},
	} {
		got, how := vmexit.Combine(c.first, c.second)
		require.Equal(t, c.want, how, "%v, then %v", c.first, c.second)
		switch how {
		case serial:
			require.Equal(t, c.second, got)
		case double:
			require.Equal(t, "hardware exception #DF, error code 0x0", got.String())
			require.Equal(t, "hardware exception #DF", got.WithoutErrorCode().String())
		case shutdown:
			require.Zero(t, got)
		}
	}
}

// However many exceptions come up, three that are not benign bring any processor down,
// and no fewer do.
func combineChain(t *rapid.T) {
	e := vmcs.InjectException(vmcs.Vector(rapid.ByteRange(0, 31).Draw(t, "first")), 0)
	for n := range 4 {
		next := vmcs.InjectException(rapid.SampledFrom([]vmcs.Vector{0, 10, 11, 12, 13, 21}).Draw(t, "next"), 0)
		class := vmexit.ClassOf(e.Info)
		got, how := vmexit.Combine(e, next)
		switch class {
		case vmexit.Benign:
			require.Equal(t, vmexit.Serial, how)
		case vmexit.Contributory, vmexit.PageFault:
			require.Equal(t, vmexit.DoubleFault, how)
		case vmexit.DoubleFaults:
			require.Equal(t, vmexit.Shutdown, how)
			require.LessOrEqual(t, n, 2)
			return
		}
		e = got
	}
	t.Fatalf("four contributory exceptions did not bring the processor down")
}

func TestCombineChain(t *testing.T) { rapid.Check(t, combineChain) }

func TestNMIUnblocking(t *testing.T) {
	const (
		gp      = vmcs.InterruptionInfo(0x80000b0d)
		bit     = vmcs.InfoNMIUnblocking
		qualBit = 1 << 12
	)
	for _, c := range []struct {
		name            string
		b               vmexit.Basic
		info, vectoring vmcs.InterruptionInfo
		q               uint64
		want            bool
	}{
		{"fault", 0, gp | bit, 0, 0, true},
		{"fault of another instruction", 0, gp, 0, qualBit, false},
		{"fault during event delivery", 0, gp | bit, gp, 0, false},
		{"#DF", 0, 0x80000b08 | bit, 0, 0, false},
		{"not valid", 0, gp&^vmcs.InfoValid | bit, 0, 0, false},
		{"NMI", 0, 0x80000202 | bit, 0, 0, false},
		{"EPT violation", vmexit.EPTViolation, bit, 0, qualBit, true},
		{"EPT violation of another", vmexit.EPTViolation, gp | bit, 0, ^uint64(qualBit), false},
		{"EPT violation during delivery", vmexit.EPTViolation, 0, 0x80000202, qualBit, false},
		{"log full", vmexit.PMLFull, 0, 0, qualBit, true},
		{"SPP", vmexit.SPPEvent, 0, 0, qualBit, true},
		{"timeout", vmexit.InstructionTimeout, 0, 0, qualBit, true},
		{"misconfiguration", vmexit.EPTMisconfiguration, 0, 0, qualBit, false},
		{"APIC access", vmexit.APICAccess, 0, 0, qualBit, false},
		{"CPUID", vmexit.CPUID, gp | bit, 0, qualBit, false},
	} {
		got := vmexit.NMIUnblocking(vmexit.Reason(c.b)|vmexit.ReasonBusLock, c.info, c.vectoring, c.q)
		require.Equal(t, c.want, got, c.name)
	}
}

func TestCheckLength(t *testing.T) {
	for length := range uint32(20) {
		bad := length < 1 || length > 15
		for _, e := range []vmcs.Event{vmcs.InjectINT1(length), vmcs.InjectSoftwareInterrupt(0x80, length), vmcs.InjectSoftwareException(3, length),
			{Info: vmcs.EventInfo(vmcs.EventOther, 1), Length: length}} {
			err := vmexit.CheckLength(e, false)
			require.Equal(t, bad, err != nil)
			if bad {
				var le *vmexit.LengthError
				require.ErrorAs(t, err, &le)
				require.Equal(t, length, le.Length)
				require.ErrorContains(t, err, "1 to 15 bytes")
			}
			require.Equal(t, length > 15, vmexit.CheckLength(e, true) != nil)
			e.Info &^= vmcs.InfoValid
			require.NoError(t, vmexit.CheckLength(e, false))
		}
	}
	require.NoError(t, vmexit.CheckLength(vmcs.InjectException(vmcs.VectorGP, 0), false))
}

func BenchmarkEvent(b *testing.B) {
	b.Run("interrupted", func(b *testing.B) {
		benchmark(b, func(v uint64) uint64 {
			d, ok := vmexit.Interrupted(vmcs.InterruptionInfo(v), uint32(v>>32), 2)
			return uint64(d.Event.Info) + b2u(ok, 40)
		})
	})
	b.Run("combine", func(b *testing.B) {
		gp := vmcs.InjectException(vmcs.VectorGP, 0)
		benchmark(b, func(v uint64) uint64 {
			e, how := vmexit.Combine(vmcs.Event{Info: vmcs.InterruptionInfo(v)}, gp)
			return uint64(e.Info) + uint64(how)
		})
	})
}
