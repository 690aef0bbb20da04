package vmcs_test

import (
	"errors"
	"testing"

	"pgregory.net/rapid"

	"github.com/govtx/vtx/internal/require"
	"github.com/govtx/vtx/vmcs"
)

var errRefused = errors.New("refused")

// refusing is a Writer that takes all fields but one.
type refusing struct{ field vmcs.Field }

func (r refusing) Write(f vmcs.Field, _ uint64) error {
	if f == r.field {
		return errRefused
	}
	return nil
}

// TestEvents: what each injection writes (SDM Vol. 3C table 25-17).
func TestEvents(t *testing.T) {
	for _, c := range []struct {
		event  vmcs.Event
		info   uint64
		fields int // written
		text   string
	}{
		{vmcs.Event{}, 0, 1, "none"},
		{vmcs.InjectInterrupt(0x30), 0x80000030, 1, "external interrupt 0x30"},
		{vmcs.InjectInterrupt(14), 0x8000000e, 1, "external interrupt 0xe"},
		{vmcs.InjectNMI(), 0x80000202, 1, "NMI 0x2"},
		{vmcs.InjectException(vmcs.VectorPF, 6), 0x80000b0e, 2, "hardware exception #PF, error code 0x6"},
		{vmcs.InjectException(vmcs.VectorUD, 6), 0x80000306, 1, "hardware exception #UD"},
		{vmcs.InjectException(vmcs.VectorCP, 3), 0x80000b15, 2, "hardware exception #CP, error code 0x3"},
		{vmcs.InjectException(vmcs.VectorGP, 8).WithoutErrorCode(), 0x8000030d, 1, "hardware exception #GP"},
		{vmcs.InjectSoftwareInterrupt(0x80, 2), 0x80000480, 2, "software interrupt 0x80, length 2"},
		{vmcs.InjectSoftwareException(vmcs.VectorBP, 1), 0x80000603, 2, "software exception #BP, length 1"},
		{vmcs.InjectINT1(1), 0x80000501, 2, "privileged software exception #DB, length 1"},
		{vmcs.InjectMTF(), 0x80000700, 1, "other event 0x0"},
	} {
		require.Equal(t, c.text, c.event.String())
		var image vmcs.Image
		require.NoError(t, c.event.Write(&image))
		info, err := image.Read(vmcs.EntryInterruptionInformation)
		require.NoError(t, err)
		require.Equal(t, c.info, info, c.text)
		written := 0
		for f := range vmcs.Fields() {
			if image.Has(f) {
				written++
			}
		}
		require.Equal(t, c.fields, written, c.text)
		back, err := vmcs.ReadEvent(&image)
		require.NoError(t, err)
		require.Equal(t, c.event, back)
	}
}

func TestEventErrors(t *testing.T) {
	fault, software := vmcs.InjectException(vmcs.VectorGP, 8), vmcs.InjectINT1(1)
	require.ErrorIs(t, fault.Write(refusing{vmcs.EntryExceptionErrorCode}), errRefused)
	require.ErrorIs(t, software.Write(refusing{vmcs.EntryInstructionLength}), errRefused)
	require.ErrorIs(t, software.Write(refusing{vmcs.EntryInterruptionInformation}), errRefused)
	for field, e := range map[vmcs.Field]vmcs.Event{
		vmcs.EntryExceptionErrorCode: fault, vmcs.EntryInstructionLength: software, vmcs.EntryInterruptionInformation: fault,
	} {
		var image vmcs.Image
		require.NoError(t, e.Write(&image))
		image.Delete(field)
		_, err := vmcs.ReadEvent(&image)
		require.ErrorIs(t, err, vmcs.ErrAbsent)
		require.ErrorContains(t, err, field.String())
	}
}

// interruptionInfo: any value is taken apart and put together again, and printed
// and parsed.
func interruptionInfo(t *rapid.T) {
	i := vmcs.InterruptionInfo(rapid.Uint32().Draw(t, "information"))
	if rapid.Bool().Draw(t, "usual") {
		i &= 0x80001fff
	}
	text, err := i.MarshalText()
	require.NoError(t, err)
	var back vmcs.InterruptionInfo
	require.NoError(t, back.UnmarshalText(text), string(text))
	require.Equal(t, i, back, string(text))
	n, err := vmcs.ParseInterruptionInfo(hex(int(i)))
	require.NoError(t, err)
	require.Equal(t, i, n)

	whole := vmcs.EventInfo(i.Type(), i.Vector())
	require.True(t, whole.Valid())
	require.Equal(t, i.Type(), whole.Type())
	require.Equal(t, i.Vector(), whole.Vector())
	whole &^= vmcs.InfoValid
	for bit, on := range map[vmcs.InterruptionInfo]bool{
		vmcs.InfoErrorCode: i.HasErrorCode(), vmcs.InfoNMIUnblocking: i.NMIUnblocking(), vmcs.InfoValid: i.Valid(),
	} {
		if on {
			whole |= bit
		}
	}
	require.Equal(t, i&0x80001fff, whole)
	entry := i.ForEntry()
	require.Zero(t, entry&0x7ffff000)
	if i.Valid() {
		require.Equal(t, i&0x80000fff, entry)
	} else {
		require.Zero(t, entry)
	}
}

func TestInterruptionInfo(t *testing.T) { rapid.Check(t, interruptionInfo) }
func FuzzInterruptionInfo(f *testing.F) { f.Fuzz(rapid.MakeFuzz(interruptionInfo)) }

func TestInterruptionInfoText(t *testing.T) {
	for info, text := range map[vmcs.InterruptionInfo]string{
		0x80000b0e: "hardware exception #PF, error code",
		0x80001b0e: "hardware exception #PF, error code, NMI unblocking",
		0x0000030d: "not valid: hardware exception #GP",
		0x80002000: "external interrupt 0x0, bit 13",
		0x80000101: "reserved type 1 0x1",
	} {
		require.Equal(t, text, info.String())
	}
	for text, part := range map[string]string{
		"":                          "type and vector",
		"hardware exception":        "type and vector",
		"hardware exception #XX":    "mnemonic",
		"NMI 0x2, bit 31":           "0 to 30",
		"NMI 0x2, error":            "error code",
		"NMI 0x2,":                  "error code",
		"soft 0x2":                  "type and vector",
		"0x100000000":               "type and vector",
		"not valid: #PF":            "type and vector",
		"external interrupt 0x1234": "mnemonic",
	} {
		_, err := vmcs.ParseInterruptionInfo(text)
		require.ErrorContains(t, err, part, text)
	}
	require.Equal(t, "EventType(9)", vmcs.EventType(9).String())
}

// FuzzParseText: parsers take any text.
func FuzzParseText(f *testing.F) {
	for _, s := range []string{"", "none", "#PF, #UD", "0x20", "hardware exception #PF, error code", "not valid: NMI 0x2, bit 13", "execute/read accessed, DPL 0, P, L, G", "unusable", "bit 31"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if v, err := vmcs.ParseInterruptionInfo(s); err == nil {
			again, err := vmcs.ParseInterruptionInfo(v.String())
			require.NoError(t, err)
			require.Equal(t, v, again)
		}
		if v, err := vmcs.ParseExceptions(s); err == nil {
			again, err := vmcs.ParseExceptions(v.String())
			require.NoError(t, err)
			require.Equal(t, v, again)
		}
		if v, err := vmcs.ParseAccessRights(s); err == nil {
			again, err := vmcs.ParseAccessRights(v.String())
			require.NoError(t, err)
			require.Equal(t, v, again)
		}
	})
}
