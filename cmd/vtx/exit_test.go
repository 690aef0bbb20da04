package main

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/govtx/vtx/vmcs"
	"github.com/govtx/vtx/vmexit"
)

func TestExit(t *testing.T) {
	for _, tc := range []struct {
		args   []string
		out    []string
		errOut string
		status int
	}{
		{[]string{"48", "-qual", "0x181"}, []string{"number                    48 (0x30)\n", "name                      EPTViolation\n", "section                   Vol. 3C 29.3.3.2\n", "guest-physical address    always\n", "qualification 0x181       read; EPT rights ---; translation of the linear address\n"}, "", 0},
		{[]string{"-qual", "385", "ept_violation"}, []string{"qualification 0x181 "}, "", 0},
		{[]string{"EPT violation"}, []string{"EPT_VIOLATION", "kind                      fault: RIP is that"}, "", 0},
		{[]string{"-qual=4", "0x80000021"}, []string{"exit reason               0x80000021: InvalidGuestState, entry failure\n", "the guest did not run", "the VMCS link pointer is invalid"}, "", 0},
		{[]string{"0", "-qual", "0x4001"}, []string{"of #DB: B0, BS; of #PF: linear address 0x4001; otherwise 0 (-intr tells which)"}, "", 0},
		{[]string{"0", "-qual", "0x4001", "-intr", "0x80000301"}, []string{"event 0x80000301", "hardware exception #DB\n", "qualification 0x4001", "   B0, BS\n"}, "", 0},
		{[]string{"0", "-qual", "0", "-intr", "0x80000306"}, []string{"such exits have none: the field is 0"}, "", 0},
		{[]string{"CPUID", "-qual", "1", "-info", "1"}, []string{"such exits have none: the field is 0", "such exits have none: the field is undefined"}, "", 0},
		{[]string{"invept", "-info", "0x20058103", "-qual", "0xfffffffffffffff8"}, []string{"type in RDX, descriptor at DS:[RAX+RCX*8], 64-bit address\n", "displacement -0x8"}, "", 0},
		{[]string{"30", "-info", "0x18100", "-qual", "0x03f80000"}, []string{"OUT, port 0x3f8 (DX), 8 bits", "only INS and OUTS have it"}, "", 0},
		{[]string{"30", "-info", "0x18100", "-qual", "0x03f80010"}, []string{"OUTS, port 0x3f8 (DX), 8 bits", "64-bit address, segment DS (of OUTS)"}, "", 0},
		{[]string{"30", "-info", "0x18100"}, []string{"64-bit address, segment DS (of OUTS)"}, "", 0},
		{[]string{"9", "-idt", "0x80001b0d"}, []string{"event being delivered 0x80001b0d", "hardware exception #GP, error code; to deliver it again, inject 0x80000b0d\n"}, "", 0},
		{[]string{"9", "-idt", "0"}, []string{"   none\n"}, "", 0},
		{[]string{"84"}, []string{"RDMSR (immediate form)", "younger than revision 084"}, "", 0},
		{[]string{"35"}, []string{"reserved, or not known", "the TDX module"}, "", 1},
		{[]string{"1000"}, []string{"number   1000 (0x3e8)", "reserved, or not known"}, "", 1},
		{[]string{"preempt"}, []string{"PreemptionTimer"}, "", 0}, // the only one with that
		{[]string{"window"}, nil, "there are InterruptWindow, NMIWindow", 2},
		{[]string{"r"}, nil, `"vtx exits" lists them all`, 2},
		{[]string{"é"}, nil, "no basic exit reason is called", 2},
		{[]string{"0x100000000"}, nil, "no basic exit reason is called", 2},
		{[]string{"EPTViolation, x"}, nil, "no flag of an exit reason", 2},
		{[]string{"48", "49"}, nil, `"49": one REASON is enough`, 2},
		{[]string{"48", "-qual", "x"}, nil, "at most 64 bits", 2},
		{[]string{"48", "-info", "0x100000000"}, nil, "at most 32 bits", 2},
		{[]string{"48", "-nonsense"}, nil, "-nonsense", 2},
		{[]string{"-qual", "1", "-"}, nil, "not for a trace", 2},
		{[]string{"-", "-qual", "1"}, nil, "not for a trace", 2},
		{nil, nil, "want a REASON", 2},
	} {
		t.Run(strings.Join(tc.args, " "), func(t *testing.T) {
			checkOutcome(t, append([]string{"exit"}, tc.args...), tc.out, tc.errOut, tc.status)
		})
	}
}

// Every reason is found by each of its names, and says what it is.
func TestExitAll(t *testing.T) {
	for b := range vmexit.Basics() {
		for _, name := range []string{b.String(), b.SDMName(), b.LinuxName(), fmt.Sprint(uint16(b)), fmt.Sprintf("%#x", uint16(b))} {
			r, err := parseReason(name)
			require.NoError(t, err)
			require.Equal(t, vmexit.Reason(b), r, name)
		}
		var out strings.Builder
		zero := uint64(0)
		e := exitFields{reason: vmexit.Reason(b), qualification: &zero, information: &zero, intr: &zero, idt: &zero}
		require.Zero(t, e.print(&out))
		for _, s := range []string{b.String(), b.SDMName(), b.Section(), b.Kind().String(), b.Note(), "qualification 0x0 ", "instruction information 0x0 "} {
			require.Contains(t, out.String(), s)
		}
	}
}

func TestExits(t *testing.T) {
	s := newSession(t)
	out, errOut, status := s.run(t, "exits", "-csv")
	require.Equal(t, 0, status)
	require.Empty(t, errOut)
	rows, err := csv.NewReader(strings.NewReader(out)).ReadAll()
	require.NoError(t, err)
	require.Equal(t, []string{"reason", "name"}, rows[0])
	i := 1
	for b := range vmexit.Basics() {
		require.Equal(t, []string{fmt.Sprint(uint16(b)), b.SDMName()}, rows[i])
		i++
	}
	require.Len(t, rows, i)

	out, _, status = s.run(t, "exits")
	require.Equal(t, 0, status)
	require.Equal(t, i-1, strings.Count(out, "\n"))
	require.Contains(t, out, "48  EPTViolation ")
	_, errOut, status = s.run(t, "exits", "x")
	require.Equal(t, 2, status)
	require.Contains(t, errOut, `"vtx exit" is for one`)
}

// Lines as kernels of several ages print them, by several tools.
func TestParseKVMExit(t *testing.T) {
	for _, tc := range []struct{ line, want string }{ // "": passed over
		{" qemu-5665  [000] d..1   280.971121: kvm_exit: reason EXTERNAL_INTERRUPT rip 0x22da info 0 800000fd",
			"qemu-5665  [000] d..1   280.971121: rip 0x22da ExternalInterrupt [external interrupt 0xfd]"},
		{"a.out-20024 [001] .... 2323301.154940: kvm_exit: reason EXCEPTION_NMI rip 0x1000 info 1000 80000b0e",
			"a.out-20024 [001] .... 2323301.154940: rip 0x1000 ExceptionOrNMI: linear address 0x1000 [hardware exception #PF, error code]"},
		{"kvm_exit: vcpu 2 reason IO_INSTRUCTION rip 0xfff0 info 3f80000 0",
			"vcpu 2 rip 0xfff0 IOInstruction: OUT, port 0x3f8 (DX), 8 bits"},
		{"kvm_exit:             reason EPT_VIOLATION rip 0x40359f info 0x181 0",
			"rip 0x40359f EPTViolation: read; EPT rights ---; translation of the linear address"},
		{"CPU 0/KVM  7289 [023]  2925.640967:                kvm:kvm_exit: vcpu 3 reason EXCEPTION_NMI rip 0xfd0bd info1 0x0000000000000413 info2 0x0000000080000030 intr_info 0x80000b0e error_code 0x00000002",
			"CPU 0/KVM  7289 [023]  2925.640967: vcpu 3 rip 0xfd0bd ExceptionOrNMI: linear address 0x413 [hardware exception #PF, error code 0x2] [while delivering external interrupt 0x30]"},
		{"kvm_exit: vcpu 0 reason INVALID_STATE FAILED_VMENTRY rip 0xfff0 info1 0x0000000000000002 info2 0x0000000000000000 intr_info 0x80000b0e error_code 0x00000000 requests 0x0000000000000001",
			"vcpu 0 rip 0xfff0 InvalidGuestState, entry failure: loading the PDPTEs failed"},
		{"kvm_exit: vcpu 0 reason 0x80000021 rip 0xfff0 info 4 0", "vcpu 0 rip 0xfff0 InvalidGuestState, entry failure: the VMCS link pointer is invalid"},
		{"kvm_exit: reason BUS_LOCK FAILED_VMENTRY|0x4000000 rip 0x1 info 0 0", "rip 0x1 BusLock, bus lock asserted, entry failure"},
		{"kvm_exit: reason UNKNOWN (78) rip 0x1 info 10 0", "rip 0x1 RDMSRLIST: MSR 0x10"},
		{"kvm_exit: reason 0x52 rip 0x1 info 10 0", "rip 0x1 Basic(82)"},
		{"kvm_exit: vcpu 0 reason EXTERNAL_INTERRUPT intr_info 0x800000ec", "vcpu 0 ExternalInterrupt [external interrupt 0xec]"},
		{"kvm_exit: vcpu 1 reason EPT_VIOLATION rip 0x1018 info1 0x0000000000000781", "vcpu 1 rip 0x1018 EPTViolation: read; EPT rights ---; translation of the linear address, user-mode address, writable page"},
		{"kvm_exit: vcpu 0, reason HLT", "vcpu 0 HLT"},
		{"kvm_exit: reason PENDING_INTERRUPT rip 0x1 info 0 0", "rip 0x1 InterruptWindow"},
		{"x\x1b[31m\x00\xff: kvm_exit: reason HLT rip 0x1 info 0 0", "x?[31m??: rip 0x1 HLT"},

		{"", ""},
		{"# tracer: nop", ""},
		{"kvm_entry: vcpu 0, rip 0x1", ""},
		{"kvm_nested_vmexit: vcpu 0 reason HLT rip 0x1 info1 0x0", ""},
		{"my_kvm_exit: reason HLT rip 0x1", ""},
		{"kvm_exit:", ""},
		{"kvm_exit: rip 0x1 info 0 0", ""},
		{"kvm_exit: reason", ""},
		{"kvm_exit: reason rip 0x1", ""},
		{"kvm_exit: reason npf rip 0x1 info 100000014 0", ""}, // AMD-V
		{"kvm_exit: reason hlt rip 0x1 info 0 0", ""},         // AMD-V, though VT-x has the name
		{"kvm_exit: reason NONSENSE rip 0x1 info 0 0", ""},
		{"kvm_exit: reason HLT rip zz info 0 0", ""},
		{"kvm_exit: reason HLT rip 0x1 info 0", ""},
		{"kvm_exit: reason HLT rip 0x1 info 0 zz", ""},
		{"kvm_exit: reason HLT rip 0x1 info1 0x10000000000000000", ""},
		{"kvm_exit: vcpu x reason HLT rip 0x1", ""},
	} {
		e, ok := parseKVMExit(tc.line)
		require.Equal(t, tc.want != "", ok, tc.line)
		if ok {
			require.Equal(t, tc.want, e.String())
		}
	}
}

func TestExitTrace(t *testing.T) {
	trace := strings.Repeat("a-1 [0] 1.0: kvm_exit: reason HLT rip 0x1 info 0 0\n", 3) +
		"a-1 [0] 1.1: kvm_entry: vcpu 0\r\n\n" +
		"kvm_exit: reason CPUID rip 0x1 info 0 0" + strings.Repeat(" ", 3*maxTraceLine) + "\n" + // too long
		"kvm_exit: reason CPUID rip 0x2 info 0 0\r\n" +
		"kvm_exit: reason 100 rip 0x3 info 0 0" // without an end
	const want = `a-1 [0] 1.0: rip 0x1 HLT
a-1 [0] 1.0: rip 0x1 HLT
a-1 [0] 1.0: rip 0x1 HLT
rip 0x2 CPUID
rip 0x3 Basic(100)

        3   60.0%  HLT
        1   20.0%  CPUID
        1   20.0%  Basic(100)
        5  exits; 2 other lines passed over
`
	require.Equal(t, want, newSession(t).checkOutcome(t, trace, []string{"exit", "-"}, nil, "", 0))

	// A byte at a time it is the same.
	var out strings.Builder
	status, err := exitTrace(iotest.OneByteReader(strings.NewReader(trace)), &out)
	require.NoError(t, err)
	require.Zero(t, status)
	require.Equal(t, want, out.String())

	out.Reset()
	status, err = exitTrace(strings.NewReader("nothing\n"), &out)
	require.NoError(t, err)
	require.Equal(t, 1, status)
	require.Equal(t, "        0  exits; 1 other lines passed over\n", out.String())

	bad := errors.New("bad")
	_, err = exitTrace(io.MultiReader(strings.NewReader("x"), iotest.ErrReader(bad)), io.Discard)
	require.ErrorIs(t, err, bad)
	_, err = exitTrace(io.MultiReader(strings.NewReader(strings.Repeat("x", 2*maxTraceLine)), iotest.ErrReader(bad)), io.Discard)
	require.ErrorIs(t, err, bad)
	status, err = exitTrace(strings.NewReader(trace), brokenPipe{})
	require.NoError(t, err)
	require.Equal(t, 1, status)
}

type brokenPipe struct{}

func (brokenPipe) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

// An event is printed in a format of the kernel's, and read back.
func kvmExits(t *rapid.T) {
	word := func(name string) uint64 { return rapid.Uint64().Draw(t, name) }
	b := vmexit.Basic(rapid.Uint16Range(0, vmexit.NumBasic-1).Draw(t, "reason"))
	name := fmt.Sprintf("%#x", uint16(b))
	if n := b.LinuxName(); n != "" {
		name = n
	}
	want := kvmExit{reason: vmexit.Reason(b), rip: word("rip"), hasRIP: true, qualification: word("qualification"), has: true, event: vmcs.InterruptionInfo(uint32(word("event")))}
	if rapid.Bool().Draw(t, "failed") {
		want.reason |= vmexit.ReasonEntryFailure
		name += " FAILED_VMENTRY"
	}
	var line string
	switch rapid.IntRange(0, 2).Draw(t, "format") {
	case 0:
		line = fmt.Sprintf("kvm_exit: reason %s rip 0x%x info %x %x", name, want.rip, want.qualification, uint32(want.event))
	case 1:
		want.vcpu = "7"
		line = fmt.Sprintf("kvm_exit: vcpu 7 reason %s rip 0x%x info %x %x", name, want.rip, want.qualification, uint32(want.event))
	case 2:
		want.vcpu, want.vectoring = "7", vmcs.InterruptionInfo(uint32(word("vectoring")))
		want.code, want.hasCode = uint32(word("code")), true
		line = fmt.Sprintf("kvm_exit: vcpu 7 reason %s rip 0x%x info1 0x%016x info2 0x%016x intr_info 0x%08x error_code 0x%08x requests 0x%016x",
			name, want.rip, want.qualification, uint64(want.vectoring), uint32(want.event), want.code, word("requests"))
	}
	want.prefix = rapid.SampledFrom([]string{"", "a-1 [000] 1.0:"}).Draw(t, "prefix")
	got, ok := parseKVMExit(want.prefix + " " + line)
	require.True(t, ok, line)
	require.Equal(t, want, got, line)
}

func TestKVMExits(t *testing.T) { rapid.Check(t, kvmExits) }

// FuzzParseKVMExit: any line is read or passed over; what is printed is one line without
// characters that do something to a terminal.
func FuzzParseKVMExit(f *testing.F) {
	for _, s := range []string{"", "kvm_exit: reason HLT rip 0x1 info 0 0", "kvm:kvm_exit: vcpu 0 reason UNKNOWN (1) FAILED_VMENTRY|0x1 info1 0x1 intr_info 0x80000b0e"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, line string) {
		e, ok := parseKVMExit(line)
		if !ok {
			return
		}
		out := e.String()
		require.NotContains(t, out, "\n")
		require.NotContains(t, out, "\x1b")
		require.LessOrEqual(t, len(out), len(line)+2000)
		again, ok := parseKVMExit("kvm_exit: reason " + fmt.Sprintf("%#x", uint32(e.reason)))
		require.True(t, ok)
		require.Equal(t, e.reason, again.reason)
	})
}
