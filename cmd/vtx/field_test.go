package main

import (
	"encoding/csv"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/govtx/vtx/vmcs"
)

func TestField(t *testing.T) {
	for _, tc := range []struct {
		args   []string
		out    []string
		errOut string
		status int
	}{
		{[]string{"Guest CR0"}, []string{"encoding     0x6800\n", "name         GuestCR0\n", "width        natural", "type         guest state\n", "index        0\n", "section      Vol. 3C 25.4.1\n", "every processor"}, "", 0},
		{[]string{"0x6800"}, []string{"GuestCR0"}, "", 0},
		{[]string{"guest-cr0"}, []string{"GuestCR0"}, "", 0},
		{[]string{"eptpointer"}, []string{"0x201a", "Enable EPT", "high half    0x201b (EPTPointerHigh)"}, "", 0},
		{[]string{"0x2011"}, []string{"TSCOffsetHigh", "bits 63:32", "whole field   0x2010 (TSCOffset)"}, "", 0},
		{[]string{"ExitReason"}, []string{"read; write only where IA32_VMX_MISC[29] is 1"}, "", 0},
		{[]string{"ExitReason", "VPID"}, []string{"0x4402", "\n\nencoding     0x0000"}, "", 0},
		{[]string{"pdpte3"}, []string{"GuestPDPTE3"}, "", 0}, // the only one with that
		{[]string{"0x6c7e"}, []string{"none that is known", "host state", "index      63"}, "", 1},
		{[]string{"0x1000"}, []string{"valid      no: "}, "", 1},
		{[]string{"cr0"}, nil, "there are CR0GuestHostMask, CR0ReadShadow, GuestCR0, HostCR0", 2},
		{[]string{"guest"}, nil, `"vtx fields" lists them all`, 2},
		{[]string{"no such thing"}, nil, "no field is called", 2},
		{[]string{"é"}, nil, "no field is called", 2},
		{nil, nil, "no field named", 2},
	} {
		t.Run(strings.Join(tc.args, " "), func(t *testing.T) {
			checkOutcome(t, append([]string{"field"}, tc.args...), tc.out, tc.errOut, tc.status)
		})
	}
}

// Every field says what it is, in any spelling.
func TestFieldAll(t *testing.T) {
	for f := range vmcs.Fields() {
		for _, name := range []string{f.String(), f.SDMName(), fmt.Sprintf("%#x", uint32(f)), strings.ToUpper(f.String())} {
			got, err := parseField(name)
			if strings.HasPrefix(name, "0X") {
				continue
			}
			require.NoError(t, err)
			require.Equal(t, f, got, name)
		}
		var b strings.Builder
		printField(&b, f)
		for _, s := range []string{f.String(), f.SDMName(), fmt.Sprintf("%#04x", uint32(f)), f.Type().String()} {
			require.Contains(t, b.String(), s)
		}
	}
}

func TestFields(t *testing.T) {
	s := newSession(t)
	out, errOut, status := s.run(t, "fields", "-csv")
	require.Equal(t, 0, status)
	require.Empty(t, errOut)
	rows, err := csv.NewReader(strings.NewReader(out)).ReadAll()
	require.NoError(t, err)
	require.Equal(t, []string{"encoding", "name", "width", "type"}, rows[0])
	i := 1
	for f := range vmcs.Fields() {
		require.Equal(t, []string{fmt.Sprintf("0x%04x", uint32(f)), f.String(), f.Width().String(), f.Type().String()}, rows[i])
		i++
	}
	require.Len(t, rows, i)

	out, _, status = s.run(t, "fields")
	require.Equal(t, 0, status)
	require.Equal(t, i-1, strings.Count(out, "\n"))
	require.Contains(t, out, "0x4402  ExitReason ")
	_, errOut, status = s.run(t, "fields", "x")
	require.Equal(t, 2, status)
	require.Contains(t, errOut, `"vtx field" is for one`)
}
