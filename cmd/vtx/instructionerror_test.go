package main

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/govtx/vtx/vmcs"
)

func TestError(t *testing.T) {
	for _, tc := range []struct {
		args   string
		out    string
		errOut string
		status int
	}{
		{"7", "VM-instruction error 7: VM entry with invalid control field(s) (SDM Vol. 3C 31.4)\n\nCauses: ", "", 0},
		{"0xc", "VM-instruction error 12: ", "", 0},
		{"0x80000021", "exit reason 0x80000021 is 33: VM-entry failure due to invalid guest state", "", 0},
		{"0x80000022", "VM-entry MSR-load area", "", 0},
		{"0x80000029", "machine check", "", 0},
		{"0x80000030", "No failed VM entry has this reason", "", 1},
		{"0", "VMfailInvalid", "", 1},
		{"14", "no VM-instruction error has this number", "", 1},
		{"99", "no VM-instruction error has this number", "", 1},
		{"", "28  Invalid operand to INVEPT/INVVPID\n", "", 0},
		{"x", "", `"x" is not a number`, 2},
		{"0x100000000", "", "not a number of at most 32 bits", 2},
		{"1 2", "", "want one number, not 2", 2},
	} {
		t.Run(tc.args, func(t *testing.T) {
			checkOutcome(t, append([]string{"error"}, strings.Fields(tc.args)...), oneOrNone(tc.out), tc.errOut, tc.status)
		})
	}
}

// Every number that the SDM gives a meaning has causes and a next step, and no other.
func TestErrorTexts(t *testing.T) {
	for n := range uint32(64) {
		e := vmcs.InstructionError(n)
		known := n > 0 && !strings.HasPrefix(e.String(), "InstructionError(")
		help := errorText{}
		if int(n) < len(errorHelp) {
			help = errorHelp[n]
		}
		require.Equal(t, known, help.causes != "", "%d", n)
		require.Equal(t, known, help.next != "", "%d", n)
		var b strings.Builder
		require.Equal(t, !known, printError(&b, n) != 0)
		if known {
			require.Contains(t, b.String(), fmt.Sprintf("error %d: %s", n, e.String()))
		}
	}
}
