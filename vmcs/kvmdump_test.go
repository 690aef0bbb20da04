package vmcs_test

import (
	"bytes"
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

func kvmDumps(t require.T, text []byte) (dumps []*vmcs.KVMDump) {
	t.Helper()
	for d, err := range vmcs.KVMDumps(bytes.NewReader(text)) {
		require.NoError(t, err)
		dumps = append(dumps, d)
	}
	return dumps
}

func TestKVMDumps(t *testing.T) {
	type values map[vmcs.Field]uint64
	for _, tc := range []struct {
		file   string
		want   vmcs.KVMDump // without the image
		fields int
		values values
		absent []vmcs.Field
	}{
		{
			file:   "long-mode-code-segment.txt",
			want:   vmcs.KVMDump{Line: 2, LastLine: 49, VMCS: "00000000a1c94e37", CPU: 3},
			fields: 109,
			values: values{
				vmcs.GuestCR0: 0x80000031, vmcs.CR4GuestHostMask: 0xfffffffffffef871, vmcs.GuestRIP: 0x100142,
				vmcs.GuestRSP: 0x108ff0, vmcs.GuestCSAccessRights: 0xe09b, vmcs.GuestGDTRLimit: 0x1f,
				vmcs.GuestEFER: 0x500, vmcs.GuestPAT: 0x0007040600070406, vmcs.HostRIP: 0xffffffffc0d2a1f0,
				vmcs.HostRSP: 0xffffb2c141a9bd10, vmcs.HostTRSelector: 0x40, vmcs.HostGDTRBase: 0xfffffe61a40d3000,
				vmcs.HostSysenterEIP: 0xffffffff9fa01b40, vmcs.GroupPrimary.Field(): 0xb5a06dfa,
				vmcs.GroupTertiary.Field(): 0, vmcs.GroupExit.Field(): 0x2befff, vmcs.ExitReason: 0x80000021,
				vmcs.TPRThreshold: 0, vmcs.APICAccessAddress: 0x1a7e41000, vmcs.VirtualAPICAddress: 0x11d09c000,
				vmcs.EPTPointer: 0x10b2d605e, vmcs.PLEWindow: 0x1000, vmcs.VPID: 2,
			},
			absent: []vmcs.Field{vmcs.VMCSLinkPointer, vmcs.TSCMultiplier, vmcs.GuestInterruptStatus},
		},
		{
			file:   "real-mode-restricted.txt",
			want:   vmcs.KVMDump{Line: 2, LastLine: 43, CPU: -1},
			fields: 102,
			values: values{
				vmcs.GuestCR0: 0x60000030, vmcs.GuestCSSelector: 0xf000, vmcs.GuestEFER: 0,
				vmcs.HostEFER: 0xd01, vmcs.HostPAT: 0x0407050600070106, vmcs.GroupPin.Field(): 0x3f,
				vmcs.GroupSecondary.Field(): 0x6b, vmcs.VPID: 1,
			},
			absent: []vmcs.Field{vmcs.GuestPDPTE0, vmcs.GroupTertiary.Field()},
		},
		{
			file: "nmi-window.txt",
			want: vmcs.KVMDump{
				Line: 1, LastLine: 56, VMCS: "000000006e0f8d52", CPU: 11,
				EFER: 0xd01, EFERSource: "effective", HardwareError: 7,
				MSRs: []vmcs.KVMMSR{
					{Area: "guest autoload", MSREntry: vmcs.MSREntry{Index: 0x1d9}},
					{Area: "guest autoload", MSREntry: vmcs.MSREntry{Index: 0x38f, Value: 0x70000000f}},
					{Area: "host autoload", MSREntry: vmcs.MSREntry{Index: 0x1d9}},
					{Area: "host autoload", MSREntry: vmcs.MSREntry{Index: 0x38f, Value: 0x70000001f}},
				},
			},
			fields: 108,
			values: values{
				vmcs.GroupPrimary.Field(): 0xb5e06dfa, vmcs.GroupPin.Field(): 0x1f, vmcs.GuestInterruptStatus: 0,
				vmcs.TPRThreshold: 0, vmcs.VirtualAPICAddress: 0x225b07000, vmcs.HostCR0: 0x80050033,
				vmcs.TSCMultiplier: 1 << 48,
			},
			absent: []vmcs.Field{vmcs.GuestEFER, vmcs.HostEFER, vmcs.APICAccessAddress},
		},
	} {
		t.Run(tc.file, func(t *testing.T) {
			text := dumpFile(t, tc.file)
			dumps := kvmDumps(t, append(text, text...))
			require.Len(t, dumps, 2)
			lines := bytes.Count(text, []byte("\n"))
			require.Equal(t, tc.want.Line+lines, dumps[1].Line)
			d := *dumps[0]
			for f, v := range tc.values {
				got, ok := d.Image.Get(f)
				require.True(t, ok, "%v is absent", f)
				require.Equal(t, v, got, "%v", f)
			}
			for _, f := range tc.absent {
				require.False(t, d.Image.Has(f), "%v", f)
			}
			require.Equal(t, tc.fields, d.Image.Len())
			require.Equal(t, d.Image, dumps[1].Image)
			d.Image.Reset()
			require.Equal(t, tc.want, d)
		})
	}
	require.Len(t, kvmDumps(t, dumpFile(t, "valid.txt")), 0)
}

func TestKVMFailure(t *testing.T) {
	const head = "*** Guest State ***\n*** Control State ***\n"
	for _, tc := range []struct {
		text string
		want vmcs.Outcome
		ok   bool
	}{
		{head, vmcs.Outcome{}, false},
		{head + "reason=0000000c qualification=0\n", vmcs.Outcome{}, false},
		{head + "reason=80000021 qualification=4\n", vmcs.Outcome{Kind: vmcs.EntryExit, Reason: 33, Qualification: 4}, true},
		{head + "reason=0000000c qualification=0\nqemu: KVM: entry failed, hardware error 0x8\n", vmcs.Outcome{Kind: vmcs.FailValid, Error: 8}, true},
		{head + "KVM: entry failed, hardware error 0x80000022\n", vmcs.Outcome{Kind: vmcs.EntryExit, Reason: 34}, true},
		{head + "KVM: entry failed, hardware error 0xzz\n", vmcs.Outcome{}, false},
	} {
		d := kvmDumps(t, []byte(tc.text))
		require.Len(t, d, 1)
		got, ok := d[0].Failure()
		require.Equal(t, tc.want, got, tc.text)
		require.Equal(t, tc.ok, ok, tc.text)
	}
}

func TestKVMDumpErrors(t *testing.T) {
	const guest, host, control = "*** Guest State ***\n", "*** Host State ***\n", "*** Control State ***\n"
	for _, tc := range []struct{ text, err string }{
		{"VMCS 0, last attempted VM-entry on CPU x\n", `line 1: "x": want the number of a CPU`},
		{guest + "CR3 = 0x12g4\n", `line 2: "0x12g4": want a hexadecimal number of at most 64 bits`},
		{guest + "[ 1.2] CR3 = \n", `line 2: "": want a hexadecimal number`},
		{guest + "CR3 = 0x0_1\n", `line 2: "0x0_1"`},
		{guest + "CR0: actual=0x31, shadow=0x3\n", `line 2: "": want "gh_mask=" here`},
		{guest + "\n\nCS:   sel=0x10, attr=0x0a09b, lim\n", `line 4: "lim": want "limit=" here`},
		{guest + "CS:   sel=0x12345, attr=0, limit=0, base=0\n", `line 2: "0x12345": want a hexadecimal number of at most 16 bits`},
		{guest + "CR3 = 0x1\nCR3 = 0x1\nCR3 = 0x2\n", `line 4: "0x2": GuestCR3 was 0x1 before in this dump`},
		{guest + host + control + host, `line 4: "*** Host State ***": the part stands twice`},
		{guest + "MSR guest autoload:\n 0: msr=0x123456789 value=0\n", `line 3: "0x123456789": want a hexadecimal number of at most 32 bits`},
		{guest + "MSR guest autoload:\n 0: msr=0x1 val\n", `line 3: "val": want "value=" here`},
		{guest + "MSR guest autoload:\n 0: msr=0x1 value=x\n", `line 3: "x"`},
		{guest + "MSR guest autoload:\n" + strings.Repeat(" 0: msr=0x1 value=0\n", 513), `line 515: "msr=0x1 value=0": a dump has at most 512 MSRs`},
		{control + "SVI|RVI = 100|00\n", `line 2: "100": want a hexadecimal number of at most 8 bits`},
	} {
		var got error
		for d, err := range vmcs.KVMDumps(strings.NewReader(tc.text)) {
			require.True(t, d == nil)
			require.True(t, got == nil)
			got = err
		}
		require.ErrorContains(t, got, tc.err, tc.text)
		require.ErrorAs(t, got, new(*vmcs.SyntaxError))
	}

	// Dumps before the fault come first.
	n := 0
	for d, err := range vmcs.KVMDumps(io.MultiReader(bytes.NewReader(dumpFile(t, "nmi-window.txt")), strings.NewReader(guest), iotest.ErrReader(io.ErrUnexpectedEOF))) {
		if n++; n == 1 {
			require.NoError(t, err)
			require.Equal(t, 108, d.Image.Len())
			continue
		}
		require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	}
	require.Equal(t, 2, n)
}

// A kvmPrinter prints as dump_vmcs of some version does.
type kvmPrinter struct {
	bytes.Buffer
	t *rapid.T
	m *vmcs.Image
	prefix,
	end string
	foreign *rapid.Generator[string]
}

// line prints a line; each field stands for a value drawn for it.
func (p *kvmPrinter) line(format string, fields ...vmcs.Field) {
	args := make([]any, len(fields))
	for i, f := range fields {
		v, ok := p.m.Get(f)
		if !ok {
			v = rapid.Uint64().Draw(p.t, f.String()) & f.Width().Mask()
			p.m.Set(f, v)
		}
		args[i] = v
	}
	fmt.Fprintf(p, p.prefix+format+p.end, args...)
	if s := p.foreign.Draw(p.t, "foreign"); s != "" {
		p.WriteString(s + p.end)
	}
}

// The formats are those of Linux 4.4 (0), 5.4 (1), 5.13 (2), 6.1 (3) and 6.18 (4).
func (p *kvmPrinter) dump(version int) {
	hex := "" // 5.19 and later print 0x for controls
	if version > 2 {
		hex = "0x"
	}
	has := func(what string) bool { return rapid.Bool().Draw(p.t, what) }
	if version > 1 {
		p.line("VMCS 00000000deadbeef, last attempted VM-entry on CPU 7")
	}
	p.line("*** Guest State ***")
	p.line("CR0: actual=0x%016x, shadow=0x%016x, gh_mask=%016x", vmcs.GuestCR0, vmcs.CR0ReadShadow, vmcs.CR0GuestHostMask)
	p.line("CR4: actual=0x%016x, shadow=0x%016x, gh_mask=%016x", vmcs.GuestCR4, vmcs.CR4ReadShadow, vmcs.CR4GuestHostMask)
	p.line("CR3 = 0x%016x", vmcs.GuestCR3)
	if has("PDPTEs") {
		p.line("PDPTR0 = 0x%016x  PDPTR1 = 0x%016x", vmcs.GuestPDPTE0, vmcs.GuestPDPTE1)
		p.line("PDPTR2 = 0x%016x  PDPTR3 = 0x%016x", vmcs.GuestPDPTE2, vmcs.GuestPDPTE3)
	}
	p.line("RSP = 0x%016x  RIP = 0x%016x", vmcs.GuestRSP, vmcs.GuestRIP)
	p.line("RFLAGS=0x%08x         DR7 = 0x%016x", vmcs.GuestRFLAGS, vmcs.GuestDR7)
	p.line("Sysenter RSP=%016x CS:RIP=%04x:%016x", vmcs.GuestSysenterESP, vmcs.GuestSysenterCS, vmcs.GuestSysenterEIP)
	for _, s := range []vmcs.SegmentRegister{vmcs.CS, vmcs.DS, vmcs.SS, vmcs.ES, vmcs.FS, vmcs.GS} {
		p.segment(s)
	}
	p.line("GDTR:                           limit=0x%08x, base=0x%016x", vmcs.GuestGDTRLimit, vmcs.GuestGDTRBase)
	p.segment(vmcs.LDTR)
	p.line("IDTR:                           limit=0x%08x, base=0x%016x", vmcs.GuestIDTRLimit, vmcs.GuestIDTRBase)
	p.segment(vmcs.TR)
	switch {
	case version < 2 && has("EFER and PAT"):
		p.line("EFER =     0x%016x  PAT = 0x%016x", vmcs.GuestEFER, vmcs.GuestPAT)
	case version >= 2 && has("EFER"):
		p.line("EFER= 0x%016x", vmcs.GuestEFER)
	case version >= 2:
		p.line("EFER= 0x0000000000000500 (autoload)")
		p.line("PAT = 0x%016x", vmcs.GuestPAT)
	}
	p.line("DebugCtl = 0x%016x  DebugExceptions = 0x%016x", vmcs.GuestDebugCtl, vmcs.GuestPendingDebugExceptions)
	if has("PerfGlobCtl") {
		p.line("PerfGlobCtl = 0x%016x", vmcs.GuestPerfGlobalCtrl)
	}
	if has("BndCfgS") {
		p.line("BndCfgS = 0x%016x", vmcs.GuestBndCfgs)
	}
	p.line("Interruptibility = %08x  ActivityState = %08x", vmcs.GuestInterruptibilityState, vmcs.GuestActivityState)
	delivery := has("virtual-interrupt delivery")
	if delivery {
		p.line("InterruptStatus = %04x", vmcs.GuestInterruptStatus)
	}
	if version > 1 && has("MSRs") {
		p.line("MSR guest autoload:")
		p.line("   0: msr=0x00000600 value=0x0000000012345678")
	}
	cet := version > 3 && has("CET")
	if cet {
		p.line("S_CET = 0x%016x, SSP = 0x%016x, SSP TABLE = 0x%016x", vmcs.GuestSCET, vmcs.GuestSSP, vmcs.GuestInterruptSSPTable)
	}
	p.host(version, cet)
	p.line("*** Control State ***")
	if version > 2 {
		p.line("CPUBased=0x%08x SecondaryExec=0x%08x TertiaryExec=0x%016x", vmcs.GroupPrimary.Field(), vmcs.GroupSecondary.Field(), vmcs.GroupTertiary.Field())
		p.line("PinBased="+hex+"%08x EntryControls=%08x ExitControls=%08x", vmcs.GroupPin.Field(), vmcs.GroupEntry.Field(), vmcs.GroupExit.Field())
	} else {
		p.line("PinBased=%08x CPUBased=%08x SecondaryExec=%08x", vmcs.GroupPin.Field(), vmcs.GroupPrimary.Field(), vmcs.GroupSecondary.Field())
		p.line("EntryControls=%08x ExitControls=%08x", vmcs.GroupEntry.Field(), vmcs.GroupExit.Field())
	}
	p.line("ExceptionBitmap=%08x PFECmask=%08x PFECmatch=%08x", vmcs.ExceptionBitmap, vmcs.PageFaultErrorCodeMask, vmcs.PageFaultErrorCodeMatch)
	p.line("VMEntry: intr_info=%08x errcode=%08x ilen=%08x", vmcs.EntryInterruptionInformation, vmcs.EntryExceptionErrorCode, vmcs.EntryInstructionLength)
	p.line("VMExit: intr_info=%08x errcode=%08x ilen=%08x", vmcs.ExitInterruptionInformation, vmcs.ExitInterruptionErrorCode, vmcs.ExitInstructionLength)
	p.line("        reason=%08x qualification=%016x", vmcs.ExitReason, vmcs.ExitQualification)
	p.line("IDTVectoring: info=%08x errcode=%08x", vmcs.IDTVectoringInformation, vmcs.IDTVectoringErrorCode)
	p.line("TSC Offset = 0x%016x", vmcs.TSCOffset)
	if has("TSC scaling") {
		p.line("TSC Multiplier = 0x%016x", vmcs.TSCMultiplier)
	}
	if has("TPR shadow") {
		if delivery {
			v, _ := p.m.Get(vmcs.GuestInterruptStatus)
			p.line(fmt.Sprintf("SVI|RVI = %02x|%02x TPR Threshold = 0x%%02x", v>>8, v&0xff), vmcs.TPRThreshold)
		} else {
			p.line("TPR Threshold = 0x%02x", vmcs.TPRThreshold)
		}
		if has("APIC accesses") {
			p.line("APIC-access addr = 0x%016x virt-APIC addr = 0x%016x", vmcs.APICAccessAddress, vmcs.VirtualAPICAddress)
		} else {
			p.line("virt-APIC addr = 0x%016x", vmcs.VirtualAPICAddress)
		}
	}
	if has("posted interrupts") {
		p.line("PostedIntrVec = 0x%02x", vmcs.PostedInterruptNotificationVector)
	}
	if has("EPT") {
		p.line("EPT pointer = 0x%016x", vmcs.EPTPointer)
	}
	if version < 1 && has("CR3 targets") {
		p.line("CR3 target0=%016x target1=%016x", vmcs.CR3Target0, vmcs.CR3Target1)
		p.line("CR3 target2=%016x", vmcs.CR3Target2)
	}
	if has("PLE") {
		p.line("PLE Gap=%08x Window=%08x", vmcs.PLEGap, vmcs.PLEWindow)
	}
	if has("VPID") {
		p.line("Virtual processor ID = 0x%04x", vmcs.VPID)
	}
}

func (p *kvmPrinter) segment(s vmcs.SegmentRegister) {
	p.line(fmt.Sprintf("%-5s ", fmt.Sprintf("%v:", s))+"sel=0x%04x, attr=0x%05x, limit=0x%08x, base=0x%016x",
		s.Selector(), s.AccessRights(), s.Limit(), s.Base())
}

func (p *kvmPrinter) host(version int, cet bool) {
	p.line("*** Host State ***")
	p.line("RIP = 0x%016x  RSP = 0x%016x", vmcs.HostRIP, vmcs.HostRSP)
	p.line("CS=%04x SS=%04x DS=%04x ES=%04x FS=%04x GS=%04x TR=%04x", vmcs.HostCSSelector, vmcs.HostSSSelector,
		vmcs.HostDSSelector, vmcs.HostESSelector, vmcs.HostFSSelector, vmcs.HostGSSelector, vmcs.HostTRSelector)
	p.line("FSBase=%016x GSBase=%016x TRBase=%016x", vmcs.HostFSBase, vmcs.HostGSBase, vmcs.HostTRBase)
	p.line("GDTBase=%016x IDTBase=%016x", vmcs.HostGDTRBase, vmcs.HostIDTRBase)
	p.line("CR0=%016x CR3=%016x CR4=%016x", vmcs.HostCR0, vmcs.HostCR3, vmcs.HostCR4)
	p.line("Sysenter RSP=%016x CS:RIP=%04x:%016x", vmcs.HostSysenterESP, vmcs.HostSysenterCS, vmcs.HostSysenterEIP)
	if version < 2 {
		p.line("EFER = 0x%016x  PAT = 0x%016x", vmcs.HostEFER, vmcs.HostPAT)
	} else {
		p.line("EFER= 0x%016x", vmcs.HostEFER)
		p.line("PAT = 0x%016x", vmcs.HostPAT)
	}
	p.line("PerfGlobCtl = 0x%016x", vmcs.HostPerfGlobalCtrl)
	if cet {
		p.line("S_CET = 0x%016x, SSP = 0x%016x, SSP TABLE = 0x%016x", vmcs.HostSCET, vmcs.HostSSP, vmcs.HostInterruptSSPTable)
	}
}

// What any version of KVM prints, parses to exactly the fields printed, through any
// log.
func kvmRoundTrip(t *rapid.T) {
	prefixes := []string{"", "[    0.000001] ", "[ 2311.499052] kvm_intel: ", "[ 2311.499052][ T4312] kvm_intel: ",
		"Jan 17 22:40:51 node-2 kernel: [912.004400] ", "Jan 17 22:40:51 node-2 kernel: ", "<3>[   12.345678] ", "> | "}
	foreign := []string{"", "", "", "", "[ 5.0] eth0: link up", "x: CR0=80050033 CR2=0 CR3=0", "RIP: 0010:ffffffff81000000",
		"MSR: 00000000", "Code: 0f 01 c2 <0f> 0b", "no CR3 = at all", strings.Repeat("CR3 = 0x1 ", 1000)}
	var text bytes.Buffer
	var want []vmcs.Image
	for range rapid.IntRange(0, 3).Draw(t, "dumps") {
		p := &kvmPrinter{
			t: t, m: new(vmcs.Image),
			prefix:  rapid.SampledFrom(prefixes).Draw(t, "prefix"),
			end:     rapid.SampledFrom([]string{"\n", "\r\n"}).Draw(t, "end"),
			foreign: rapid.SampledFrom(foreign),
		}
		p.dump(rapid.IntRange(0, 4).Draw(t, "version"))
		text.Write(p.Bytes())
		want = append(want, *p.m)
	}
	dumps := kvmDumps(t, text.Bytes())
	require.Len(t, dumps, len(want))
	for i := range dumps {
		for d := range vmcs.Differences(&want[i], &dumps[i].Image) {
			t.Fatalf("dump %d: %v is %#x (%v), want %#x (%v)", i, d.Field, d.B, d.InB, d.A, d.InA)
		}
	}
}

func TestKVMRoundTrip(t *testing.T) { ring0test.CheckOnHost(t, kvmRoundTrip) }
func FuzzKVMRoundTrip(f *testing.F) { f.Fuzz(rapid.MakeFuzz(kvmRoundTrip)) }

// No text makes the parser panic; what it takes out of one prints and parses.
func FuzzKVMDumps(f *testing.F) {
	for _, name := range []string{"long-mode-code-segment.txt", "real-mode-restricted.txt", "nmi-window.txt", "valid.txt"} {
		f.Add(dumpFile(f, name))
	}
	f.Add([]byte("*** Guest State ***\nMSR guest autoload:\n0: msr=0x1 value=2\n*** Control State ***\nSVI|RVI = 1|2"))
	f.Fuzz(func(t *testing.T, text []byte) {
		for d, err := range vmcs.KVMDumps(bytes.NewReader(text)) {
			if err != nil {
				require.ErrorAs(t, err, new(*vmcs.SyntaxError))
				continue
			}
			require.LessOrEqual(t, d.Line, d.LastLine)
			d.Failure()
			if d.Image.Len() == 0 {
				continue
			}
			again, err := vmcs.ParseDump(strings.NewReader(dumpText(t, &d.Image, vmcs.DumpOptions{})))
			require.NoError(t, err)
			require.Equal(t, &d.Image, again)
		}
	})
}

func BenchmarkKVMDumps(b *testing.B) {
	text := dumpFile(b, "long-mode-code-segment.txt")
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		for range vmcs.KVMDumps(bytes.NewReader(text)) {
		}
	}
}
