package main

import (
	"encoding/csv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/govtx/vtx/hypercall"
)

func TestHypercall(t *testing.T) {
	for _, tc := range []struct {
		args   []string
		out    []string
		errOut string
		status int
	}{
		{[]string{"0x300010050"}, []string{"HvCallGetVpRegisters, fast, reps 3", "code         0x0050\n", "kind         rep\n", "16 bytes, 4 for each element", "16 bytes for each element", "up to 4 elements", "AccessVpRegisters"}, "", 0},
		{[]string{"HvCallGetVpRegisters, fast, reps 5"}, []string{"36 bytes in and 80 out are more than the 112 of the fast form", "HV_STATUS_INVALID_HYPERCALL_INPUT"}, "", 1},
		{[]string{"VtlCall"}, []string{"HvCallVtlCall", "fast form    none"}, "", 0},
		{[]string{"0x10011"}, []string{"the word must be the code and nothing else: #UD"}, "", 1},
		{[]string{"HVCALL_SEND_IPI"}, []string{"HvCallSendSyntheticClusterIpi", "fast form    possible"}, "", 0},
		{[]string{"0x1000000002"}, []string{"the call is simple, but the rep count is 16"}, "", 1},
		{[]string{"2, start 1"}, []string{"the rep start index 1: they must be 0"}, "", 1},
		{[]string{"0xc"}, []string{"the rep count is 0"}, "", 1},
		{[]string{"HvCallModifyVtlProtectionMask, reps 3, start 3"}, []string{"the rep start index 3 is not below the rep count 3"}, "", 1},
		{[]string{"HvCallModifyVtlProtectionMask, reps 511"}, []string{"the input of 4104 bytes is longer than a page: HV_STATUS_INVALID_ALIGNMENT"}, "", 1},
		{[]string{"HvCallModifyVtlProtectionMask, reps 510, start 509"}, []string{"510; the next is number 509"}, "", 0},
		{[]string{"HvCallGetVpRegisters, reps 257"}, []string{"the output of 4112 bytes is longer than a page"}, "", 1},
		{[]string{"HvCallEnableVpVtl, fast"}, []string{"240 bytes in and 0 out are more"}, "", 1},
		{[]string{"HvCallSignalEvent, variable header 1"}, []string{"the call takes no variable header, but there are 8 bytes"}, "", 1},
		{[]string{"HvCallSendSyntheticClusterIpiEx, nested, variable header 2"}, []string{"for the lowest hypervisor", "16 bytes\n", "24 bytes, a variable header"}, "", 0},
		{[]string{"0xf000f00078000002"}, []string{"reserved bits 0xf000f00078000000 are not 0"}, "", 1},
		{[]string{"0xffff"}, []string{"no call with code 0xffff is known: HV_STATUS_INVALID_HYPERCALL_CODE", "extended"}, "", 1},
		{[]string{"HvCallUpdateMicrocode, start 1"}, []string{"gerhart01 only", "is not below the rep count 0"}, "", 1},
		{[]string{"-result", "0x200000006"}, []string{"HV_STATUS_ACCESS_DENIED, reps 2", "2, counted from the beginning"}, "", 0},
		{[]string{"-result", "timeout"}, []string{"0x0078", "HV_STATUS_TIME_OUT"}, "", 0},
		{[]string{"-result", "0x1001234"}, []string{"not a status that is known", "the caller should ignore"}, "", 1},
		{[]string{"-result", "HvCallVtlCall"}, nil, "no status is named", 2},
		{[]string{"nothing"}, nil, `"vtx hypercalls" lists the calls`, 2},
		{[]string{"a", "b"}, nil, "want one WORD, not 2", 2},
		{nil, nil, "want one WORD, not 0", 2},
	} {
		t.Run(strings.Join(tc.args, " "), func(t *testing.T) {
			checkOutcome(t, append([]string{"hypercall"}, tc.args...), tc.out, tc.errOut, tc.status)
		})
	}
}

// Every word can be printed, and is called wrong if a rule says so.
func TestHypercallWords(t *testing.T) {
	codes := []hypercall.Code{}
	for c := range hypercall.Codes() {
		codes = append(codes, c)
	}
	rapid.Check(t, func(t *rapid.T) {
		w := hypercall.Input(rapid.Uint64().Draw(t, "word"))
		if rapid.Bool().Draw(t, "known") {
			w = w.WithCode(rapid.SampledFrom(codes).Draw(t, "code"))
		}
		if rapid.Bool().Draw(t, "not reserved") {
			w &^= hypercall.InputReserved
		}
		var b strings.Builder
		status := printInput(&b, w)
		require.Equal(t, status != 0, strings.Contains(b.String(), "\nWRONG"))
		bad := w.Reserved() != 0 || !w.Code().Known() || w.Code().Kind() == hypercall.Simple && (w.RepCount() != 0 || w.RepStart() != 0) ||
			w.RepStart() != 0 && w.RepStart() >= w.RepCount()
		if bad {
			require.NotZero(t, status, b.String())
		}
		b.Reset()
		require.Equal(t, hypercall.Result(w).Status().Known(), printResult(&b, hypercall.Result(w)) == 0)
	})
}

func TestHypercalls(t *testing.T) {
	s := newSession(t)
	out, errOut, status := s.run(t, "hypercalls", "-csv")
	require.Zero(t, status)
	require.Empty(t, errOut)
	rows, err := csv.NewReader(strings.NewReader(out)).ReadAll()
	require.NoError(t, err)
	require.Equal(t, []string{"code", "name", "kind"}, rows[0])
	require.Len(t, rows[1:], 269)
	require.Contains(t, rows, []string{"0x0011", "HvCallVtlCall", "simple"})
	require.Contains(t, rows, []string{"0x000c", "HvCallModifyVtlProtectionMask", "rep"})
	require.Contains(t, rows, []string{"0x0006", "HvCallSwitchAliasMap", "unknown"})

	out, _, status = s.run(t, "hypercalls")
	require.Zero(t, status)
	require.Contains(t, out, "0x8001  HvExtCallQueryCapabilities")

	_, errOut, status = s.run(t, "hypercalls", "x")
	require.Equal(t, 2, status)
	require.Contains(t, errOut, `"vtx hypercall" is for one`)
}

func TestStatusOfHypercall(t *testing.T) {
	for _, tc := range []struct {
		args   []string
		out    string
		errOut string
		status int
	}{
		{[]string{"0x51"}, "HV_STATUS_INVALID_VTL_STATE", "", 0},
		{[]string{"81"}, "HV_STATUS_INVALID_VTL_STATE", "", 0},
		{[]string{"vtl already enabled"}, "0x0086", "", 0},
		{[]string{"HV_STATUS_PARTIAL_PACKET"}, "OpenVMM hvdef only", "", 0},
		{[]string{"0"}, "HV_STATUS_SUCCESS", "", 0},
		{[]string{"0x1234"}, "not a status that is known", "", 1},
		{[]string{"0x10000"}, "", "no status is named", 2},
		{[]string{"x"}, "", `"vtx status" lists them`, 2},
		{[]string{"1", "2"}, "", "want one status, not 2", 2},
		{nil, "0x0087   HV_STATUS_UNKNOWN_REGISTER_NAME", "", 0},
	} {
		t.Run(strings.Join(tc.args, " "), func(t *testing.T) {
			checkOutcome(t, append([]string{"status"}, tc.args...), oneOrNone(tc.out), tc.errOut, tc.status)
		})
	}
}
