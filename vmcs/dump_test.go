package vmcs_test

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"pgregory.net/rapid"

	"github.com/govtx/vtx/internal/require"
	"github.com/govtx/vtx/internal/ring0test"
	"github.com/govtx/vtx/vmcs"
)

//go:embed testdata/dumps
var dumpFiles embed.FS

func dumpFile(t require.T, name string) []byte {
	t.Helper()
	text, err := dumpFiles.ReadFile("testdata/dumps/" + name)
	require.NoError(t, err)
	return text
}

// drawImage draws an image with some fields, of values with few or many bits.
func drawImage(t *rapid.T, label string) *vmcs.Image {
	m := new(vmcs.Image)
	for f := range vmcs.Fields() {
		if rapid.Bool().Draw(t, label+f.String()) {
			v := rapid.Uint64().Draw(t, "value")
			m.Set(f, v&f.Width().Mask())
		}
	}
	return m
}

func dumpText(t require.T, r vmcs.Reader, o vmcs.DumpOptions) string {
	t.Helper()
	var b strings.Builder
	require.NoError(t, vmcs.Dump(&b, r, o))
	return b.String()
}

func TestDump(t *testing.T) {
	var m vmcs.Image
	m.Set(vmcs.GuestCR0, 0x80000031)
	m.Set(vmcs.GuestCSSelector, 0x13)
	m.Set(vmcs.GuestCSAccessRights, 0xa09b)
	m.Set(vmcs.GuestActivityState, 1)
	m.Set(vmcs.HostTRSelector, 0x40)
	m.Set(vmcs.GroupPin.Field(), 0x16|uint64(vmcs.PinNMIExiting))
	m.Set(vmcs.VPID, 2)
	m.Set(vmcs.GroupExit.Field(), 0x36dff)
	m.Set(vmcs.EntryInterruptionInformation, 0x80000b0e)
	m.Set(vmcs.ExitReason, 0x80000021)
	m.Set(vmcs.ExitQualification, 4)
	require.Equal(t, `Guest register state (SDM Vol. 3C 25.4.1)
  GuestCR0                           0x6800  0x0000000080000031  PE, ET, NE, PG
  GuestCSSelector                    0x0802  0x0013              GDT entry 2, RPL 3
  GuestCSAccessRights                0x4816  0x0000a09b          execute/read accessed, DPL 0, P, L, G

Guest non-register state (SDM Vol. 3C 25.4.2)
  GuestActivityState                 0x4826  0x00000001          HLT

Host state (SDM Vol. 3C 25.5)
  HostTRSelector                     0x0c0c  0x0040              GDT entry 8, RPL 0

VM-execution controls (SDM Vol. 3C 25.6)
  PinBasedControls                   0x4000  0x0000001e          NMI exiting
  VPID                               0x0000  0x0002

VM-exit controls (SDM Vol. 3C 25.7)
  PrimaryVMExitControls              0x400c  0x00036dff          Save debug controls

VM-entry controls (SDM Vol. 3C 25.8)
  EntryInterruptionInformation       0x4016  0x80000b0e          hardware exception #PF, error code

VM-exit information (SDM Vol. 3C 25.9)
  ExitReason                         0x4402  0x80000021          33: VM-entry failure due to invalid guest state
  ExitQualification                  0x6400  0x0000000000000004  the VMCS link pointer is invalid
`, dumpText(t, &m, vmcs.DumpOptions{}))

	values := dumpText(t, &m, vmcs.DumpOptions{Values: true})
	require.Contains(t, values, "0x0000000080000031\n")
	require.NotContains(t, values, "PE")

	// With the absent ones, every field has its line.
	all := dumpText(t, &m, vmcs.DumpOptions{Absent: true})
	for f := range vmcs.Fields() {
		require.Contains(t, all, fmt.Sprintf("  %-34v %#04x  ", f, uint32(f)))
	}
	var parts []string // of fields that the manual does not describe, too
	for _, f := range []vmcs.Field{vmcs.GuestFREDConfig, vmcs.InjectedEventData, vmcs.OriginalEventData, vmcs.HostFREDRSP1, vmcs.SEAMGuestKeyID} {
		before, _, _ := strings.Cut(all, "  "+f.String()+" ")
		part, _, _ := strings.Cut(before[strings.LastIndex("\n\n"+before, "\n\n"):], " (SDM")
		parts = append(parts, part)
	}
	require.Equal(t, []string{"Guest register state", "VM-entry controls", "VM-exit information", "Host state", "VM-execution controls"}, parts)
	require.Contains(t, all, "GuestCR3                           0x6802  -\n")
	got, err := vmcs.ParseDump(strings.NewReader(all))
	require.NoError(t, err)
	require.Equal(t, &m, got)
}

func TestDumpErrors(t *testing.T) {
	var out strings.Builder
	err := vmcs.Dump(&out, new(vmcs.Image), vmcs.DumpOptions{Absent: true})
	require.ErrorIs(t, err, vmcs.ErrAbsent)
	require.Equal(t, "", out.String())

	var m vmcs.Image
	m.Set(vmcs.GuestCR0, 1)
	r, w := io.Pipe()
	r.CloseWithError(io.ErrClosedPipe)
	require.ErrorIs(t, vmcs.Dump(w, &m, vmcs.DumpOptions{}), io.ErrClosedPipe)
	_, err = vmcs.Diff(w, &m, new(vmcs.Image), vmcs.DumpOptions{})
	require.ErrorIs(t, err, io.ErrClosedPipe)
}

// What Dump prints reads back, through a log's prefixes and between other lines.
func dumpRoundTrip(t *rapid.T) {
	m := drawImage(t, "")
	if m.Len() == 0 {
		return
	}
	o := vmcs.DumpOptions{Absent: rapid.Bool().Draw(t, "absent"), Values: rapid.Bool().Draw(t, "values")}
	prefix := rapid.SampledFrom([]string{"", "[   12.345678] hv: ", "Jan  1 00:00:00 host hv[12]: ", "\t", "2026-01-01T00:00:00Z 0x12 "}).Draw(t, "prefix")
	end := rapid.SampledFrom([]string{"\n", "\r\n"}).Draw(t, "end")
	noise := rapid.SampledFrom([]string{"", "eth0: link up", "GuestCR0 is 0x80000031", "at 0x6800 0x1", strings.Repeat("x ", 5000)})
	var text strings.Builder
	for line := range strings.Lines(dumpText(t, m, o)) {
		text.WriteString(prefix + strings.TrimSuffix(line, "\n") + end)
		text.WriteString(noise.Draw(t, "noise") + end)
	}
	got, err := vmcs.ParseDump(strings.NewReader(text.String()))
	require.NoError(t, err)
	require.Equal(t, m, got)
}

func TestDumpRoundTrip(t *testing.T) { ring0test.CheckOnHost(t, dumpRoundTrip) }
func FuzzDumpRoundTrip(f *testing.F) { f.Fuzz(rapid.MakeFuzz(dumpRoundTrip)) }

func TestParseDumpErrors(t *testing.T) {
	for _, tc := range []struct{ text, err string }{
		{"", "no dump"},
		{"GuestCR0 0x6800\n", "no dump"},
		{"NoSuchField 0x6800 0x1\n", "no dump"},
		{"\nGuestCR0 0x6802 0x1\n", `line 2: "0x6802": the encoding of GuestCR0 is 0x6800`},
		{"GuestCR0 0x6800 1\n", `line 1: "1": want the value of GuestCR0`},
		{"VPID 0x0000 0x10000\n", `line 1: "0x10000": want the value of VPID: 0x and a hexadecimal number of at most 16 bits`},
		{"VPID 0x0000 0x1\nVPID 0x0000 0x1\nVPID 0x0000 0x2", `line 3: "0x2": VPID was 0x1 before`},
	} {
		_, err := vmcs.ParseDump(strings.NewReader(tc.text))
		require.ErrorContains(t, err, tc.err)
	}
	_, err := vmcs.ParseDump(strings.NewReader("x"))
	require.ErrorIs(t, err, vmcs.ErrNoDump)
	_, err = vmcs.ParseDump(iotest.ErrReader(io.ErrUnexpectedEOF))
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
}

// Whatever parses prints to what parses to the same.
func FuzzParseDump(f *testing.F) {
	f.Add(dumpFile(f, "valid.txt"))
	f.Add(dumpFile(f, "host-state.txt"))
	f.Add([]byte("GuestCR0 0x6800 -"))
	f.Fuzz(func(t *testing.T, text []byte) {
		m, err := vmcs.ParseDump(bytes.NewReader(text))
		if err != nil || m.Len() == 0 {
			return
		}
		again, err := vmcs.ParseDump(strings.NewReader(dumpText(t, m, vmcs.DumpOptions{})))
		require.NoError(t, err)
		require.Equal(t, m, again)
	})
}

func TestMeaning(t *testing.T) {
	exit := func(reason uint64) *vmcs.Image {
		m := new(vmcs.Image)
		m.Set(vmcs.ExitReason, reason)
		return m
	}
	exception := func(vector vmcs.Vector) *vmcs.Image {
		m := exit(0)
		m.Set(vmcs.ExitInterruptionInformation, uint64(vmcs.EventInfo(vmcs.EventHardwareException, vector)))
		return m
	}
	for _, tc := range []struct {
		r     vmcs.Reader
		field vmcs.Field
		value uint64
		want  string
	}{
		{nil, vmcs.GuestCR0, 0, "none"},
		{nil, vmcs.GuestCR0, 1<<31 | 1<<6 | 1<<7, "PG, bit 6, bit 7"},
		{nil, vmcs.GuestCR4, 1<<5 | 1<<12 | 1<<32, "PAE, LA57, FRED"},
		{nil, vmcs.CR0GuestHostMask, ^uint64(1 << 3), "PE, MP, EM, ET, NE, WP, AM, NW, CD, PG, bits 15:6, bit 17, bits 28:19, bits 63:32"},
		{nil, vmcs.HostEFER, 0xd01, "SCE, LME, LMA, NXE"},
		{nil, vmcs.GuestRFLAGS, 0x3202, "IF, IOPL=0x3"},
		{nil, vmcs.GuestRFLAGS, 0x200, "IF, without bit 1"},
		{nil, vmcs.GuestDR7, 0xd0402, "G0, R/W0=0x1, LEN0=0x3"},
		{nil, vmcs.GuestDebugCtl, 0x4003, "LBR, BTF, FREEZE_WHILE_SMM"},
		{nil, vmcs.GuestInterruptibilityState, 9, "blocking by STI, blocking by NMI"},
		{nil, vmcs.GuestPendingDebugExceptions, 0x5001, "B0, enabled breakpoint, BS"},
		{nil, vmcs.GuestActivityState, 3, "wait-for-SIPI"},
		{nil, vmcs.GuestActivityState, 4, "reserved"},
		{nil, vmcs.GuestInterruptStatus, 0x31ec, "RVI 0xec, SVI 0x31"},
		{nil, vmcs.PageFaultErrorCodeMask, 0x8003, "P, W/R, SGX"},
		{nil, vmcs.ExceptionBitmap, 0x60042, "#DB, #UD, #AC, #MC"},
		{nil, vmcs.GuestPAT, 0x0407050600070106, "WB WC UC- UC WB WP UC- WT"},
		{nil, vmcs.GuestPAT, 0x02, "reserved type 2 UC UC UC UC UC UC UC"},
		{nil, vmcs.EPTPointer, 0x10b2d605e, "WB, 4 levels, accessed and dirty flags, table at 0x10b2d6000"},
		{nil, vmcs.EPTPointer, 0x1923, "reserved type 3, 5 levels, bit 8, bit 11, table at 0x1000"},
		{nil, vmcs.GuestPDPTE2, 0x5000, "not present"},
		{nil, vmcs.GuestPDPTE2, 0x5009, "present, PWT, directory at 0x5000"},
		{nil, vmcs.GuestSSSelector, 3, "null"},
		{nil, vmcs.HostFSSelector, 0x2f, "LDT entry 5, RPL 3"},
		{nil, vmcs.GuestTRAccessRights, 0x8b, "TSS busy, DPL 0, P"},
		{nil, vmcs.GuestTRAccessRights, 0x1008b, "unusable"},
		{nil, vmcs.VMInstructionErrorNumber, 12, "VMREAD/VMWRITE from/to unsupported VMCS component"},
		{nil, vmcs.VMInstructionErrorNumber, 0, "none"},
		{nil, vmcs.GroupPin.Field(), 0x1e, "NMI exiting"},
		{nil, vmcs.GroupPin.Field(), 0x14, "without bit 1"},
		{nil, vmcs.ExitReason, 0x30, "48: EPT violation"},
		{nil, vmcs.ExitReason, 0x80000029, "41: VM-entry failure due to machine-check event"},
		{nil, vmcs.ExitReason, 0xa0000012, "18: VMCALL, VM-entry failure, from VMX root operation"},
		{nil, vmcs.ExitReason, 0x1ffff, "65535: reason 65535, bit 16"},
		{nil, vmcs.GuestCR3, 0x1000, ""},
		{nil, vmcs.ExitQualification, 1, ""},
		{new(vmcs.Image), vmcs.ExitQualification, 1, ""},
		{exception(vmcs.VectorDB), vmcs.ExitQualification, 0x4001, "B0, BS"},
		{exception(vmcs.VectorPF), vmcs.ExitQualification, 0x1234, "linear address 0x1234"},
		{exception(vmcs.VectorUD), vmcs.ExitQualification, 0x1234, ""},
		{exit(0x80000021), vmcs.ExitQualification, 2, "loading the PDPTEs failed"},
		{exit(0x80000021), vmcs.ExitQualification, 3, "an NMI was to be injected during blocking by STI"},
		{exit(0x80000021), vmcs.ExitQualification, 0, ""},
		{exit(0x80000022), vmcs.ExitQualification, 7, "entry 7 of the VM-entry MSR-load area, from 1"},
		{exit(9), vmcs.ExitQualification, 0xc0000028, "task gate to TSS selector 0x0028"},
		{exit(14), vmcs.ExitQualification, 0x7000, "linear address 0x7000"},
		{exit(28), vmcs.ExitQualification, 0x300, "MOV to CR0 from RBX"},
		{exit(28), vmcs.ExitQualification, 0xf14, "MOV from CR4 to R15"},
		{exit(28), vmcs.ExitQualification, 0x20, "CLTS"},
		{exit(28), vmcs.ExitQualification, 0x00010030, "LMSW 0x1"},
		{exit(29), vmcs.ExitQualification, 0x217, "MOV from DR7 to RDX"},
		{exit(30), vmcs.ExitQualification, 0x03f80000, "OUT to port 0x3f8, 8 bits"},
		{exit(30), vmcs.ExitQualification, 0x01f00039, "IN from port 0x1f0, 16 bits, string, REP"},
		{exit(44), vmcs.ExitQualification, 0x10b0, "offset 0xb0, linear write"},
		{exit(44), vmcs.ExitQualification, 0x5000, "offset 0x0, access type 5"},
		{exit(45), vmcs.ExitQualification, 0x31, "vector 49"},
		{exit(48), vmcs.ExitQualification, 0x181, "read, linear address valid, translation"},
		{exit(56), vmcs.ExitQualification, 0x300, "offset 0x300"},
		{exit(10), vmcs.ExitQualification, 0x300, ""},
	} {
		require.Equal(t, tc.want, vmcs.Meaning(tc.r, tc.field, tc.value), "%v = %#x", tc.field, tc.value)
	}
}

// Any value of any field has a meaning in one line, whatever the other fields.
func meaning(t *rapid.T) {
	m := drawImage(t, "")
	for f := range vmcs.Fields() {
		for _, v := range []uint64{0, ^uint64(0), rapid.Uint64().Draw(t, "value")} {
			s := vmcs.Meaning(m, f, v)
			require.False(t, strings.ContainsAny(s, "\n\t"), "%q", s)
			require.Equal(t, strings.TrimSpace(s), s)
		}
	}
	require.Equal(t, "", vmcs.Meaning(m, vmcs.Field(rapid.Uint32Min(0x8000).Draw(t, "unknown")), 1))
}

func TestMeaningTotal(t *testing.T) { ring0test.CheckOnHost(t, meaning) }
func FuzzMeaning(f *testing.F)      { f.Fuzz(rapid.MakeFuzz(meaning)) }

func TestDiff(t *testing.T) {
	var a, b vmcs.Image
	for _, m := range []*vmcs.Image{&a, &b} {
		m.Set(vmcs.GuestCR3, 0x1000)
		m.Set(vmcs.GuestCR0, 0x80000031)
		m.Set(vmcs.GroupEntry.Field(), 0x11ff)
		m.Set(vmcs.GuestCSAccessRights, 0xa09b)
	}
	b.Set(vmcs.GuestCR0, 0x80010011)
	b.Set(vmcs.GroupEntry.Field(), 0x13fb)
	b.Set(vmcs.GuestCSAccessRights, 0xc09b)
	b.Delete(vmcs.GuestCR3)
	b.Set(vmcs.VPID, 1)
	var out strings.Builder
	n, err := vmcs.Diff(&out, &a, &b, vmcs.DumpOptions{})
	require.NoError(t, err)
	require.Equal(t, 5, n)
	require.Equal(t, `  VPID                               0x0000  -                   0x0001
  VMEntryControls                    0x4012  0x000011ff          0x000013fb          +IA-32e mode guest, -Load debug controls
  GuestCSAccessRights                0x4816  0x0000a09b          0x0000c09b          execute/read accessed, DPL 0, P, L, G -> execute/read accessed, DPL 0, P, D/B, G
  GuestCR0                           0x6800  0x0000000080000031  0x0000000080010011  +WP, -NE
  GuestCR3                           0x6802  0x0000000000001000  -
`, out.String())

	out.Reset()
	n, err = vmcs.Diff(&out, &a, &a, vmcs.DumpOptions{})
	require.NoError(t, err)
	require.Equal(t, 0, n)
	require.Equal(t, "", out.String())
}

// Differences are exactly the fields whose values or presence differ.
func differences(t *rapid.T) {
	a, b := drawImage(t, "a"), drawImage(t, "b")
	if rapid.Bool().Draw(t, "close") {
		*b = *a
		b.Set(vmcs.GuestCR4, rapid.Uint64().Draw(t, "CR4"))
	}
	found := map[vmcs.Field]vmcs.Difference{}
	for d := range vmcs.Differences(a, b) {
		found[d.Field] = d
	}
	for f := range vmcs.Fields() {
		va, inA := a.Get(f)
		vb, inB := b.Get(f)
		d, ok := found[f]
		require.Equal(t, inA != inB || va != vb, ok, "%v", f)
		if ok {
			require.Equal(t, []any{va, vb, inA, inB}, []any{d.A, d.B, d.InA, d.InB})
		}
	}
	for range vmcs.Differences(a, b) {
		break // an early stop is fine
	}
}

func TestDifferences(t *testing.T) { ring0test.CheckOnHost(t, differences) }
func FuzzDifferences(f *testing.F) { f.Fuzz(rapid.MakeFuzz(differences)) }

// No processor demands less than the one assumed for a dump, or has more.
func TestDumpProcessor(t *testing.T) {
	assumed := vmcs.DumpProcessor(new(vmcs.Image))
	require.Equal(t, uint8(48), assumed.CPU.LinearAddressBits)
	require.NotEqual(t, 0, len(vmcs.Models()))
	for _, name := range vmcs.Models() {
		c, err := vmcs.Model(name)
		require.NoError(t, err)
		require.Equal(t, uint64(0), assumed.CR0Fixed0&^c.CR0Fixed0, name)
		require.Equal(t, uint64(0), assumed.CR4Fixed0&^c.CR4Fixed0, name)
		require.Equal(t, uint64(0), c.CR4Fixed1&^assumed.CR4Fixed1, name)
		require.Equal(t, uint64(0), c.CR0Fixed1&^assumed.CR0Fixed1, name)
		for g := range vmcs.ControlGroup(vmcs.NumControlGroups) {
			a, b := assumed.Controls[g], c.Controls[g]
			if b.May1 == 0 {
				continue // the processor lacks the group
			}
			require.Equal(t, uint64(0), a.Must1&^b.Must1, "%s, %v", name, g)
			for v := b.May1 &^ a.May1; v != 0; v &= v - 1 {
				t.Errorf("%s, %v: bit %#x is allowed, but not assumed", name, g, v&-v)
			}
		}
		require.True(t, int(assumed.CPU.PhysicalAddressBits) >= int(c.CPU.PhysicalAddressBits))
		require.True(t, assumed.Misc.CR3Targets() >= c.Misc.CR3Targets(), name)
		require.True(t, assumed.Misc.MSRListMax() >= c.Misc.MSRListMax(), name)
	}
	for _, f := range []vmcs.Field{vmcs.GuestCR4, vmcs.HostCR4} {
		var m vmcs.Image
		m.Set(f, 1<<12)
		require.Equal(t, uint8(57), vmcs.DumpProcessor(&m).CPU.LinearAddressBits)
	}
}

// A processor answers an attempt to read what it lacks with an error number that
// hides the one that was there before.
func TestDumpKeepsInstructionError(t *testing.T) {
	caps, err := vmcs.Model("bochs_corei7_skylake_x")
	require.NoError(t, err)
	s := vmcs.NewShadow(caps)
	s.Image().Set(vmcs.VMInstructionErrorNumber, 7)
	require.False(t, vmcs.GuestFREDConfig.Supported(caps))
	require.Contains(t, dumpText(t, s, vmcs.DumpOptions{}), "0x00000007          VM entry with invalid control field(s)\n")
	v, err := s.Read(vmcs.VMInstructionErrorNumber)
	require.NoError(t, err)
	require.Equal(t, uint64(vmcs.UnsupportedComponent), v)

	s.Image().Set(vmcs.VMInstructionErrorNumber, 7)
	was := *s.Image()
	for d := range vmcs.Differences(s, &was) {
		t.Errorf("%v: %#x, %#x", d.Field, d.A, d.B)
	}
}

// A reader that knows no field at all still gives an error and no panic.
func TestDumpFailingReader(t *testing.T) {
	failure := errors.New("no current VMCS")
	err := vmcs.Dump(io.Discard, failingReader{failure}, vmcs.DumpOptions{})
	require.ErrorIs(t, err, failure)
}

type failingReader struct{ err error }

func (r failingReader) Read(vmcs.Field) (uint64, error) { return 0, r.err }
