package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/govtx/vtx/vmcs"
)

// caps runs "vtx caps" on standard input.
func caps(t *testing.T, stdin string, args ...string) (stdout, stderr string, status int) {
	t.Helper()
	return newSession(t).runOn(t, stdin, append([]string{"caps"}, args...)...)
}

// The table of a small processor, in full.
func TestCapsTable(t *testing.T) {
	text := `
msr 0x3a 5
msr 0x480 001a040000000007
msr 0x481 0000003f00000016
msr 0x482 041be1fe0401e172
msr 0x483 0003efff00036dff
msr 0x484 000013ff000011ff
msr 0x485 403c0
msr 0x486 80000021
msr 0x487 ffffffff
msr 0x488 2000
msr 0x489 27ff
msr 0x48a 2c
msr 0x492 2000000000000002
cpuid 0 0 1 0 0 0
cpuid 1 0 0 0 20 0
cpuid 80000008 0 00003027 0 0 0
`
	out, errOut, status := caps(t, text, "-file", "-")
	require.Zero(t, status)
	require.Empty(t, errOut)
	require.Equal(t, `standard input

Feature control  0x5 (locked, VMX outside SMX operation)
VMXON            works outside SMX operation
Basic            revision 0x7, 1024-byte regions, write-back; dual-monitor treatment
Misc             timer shift 0, 4 CR3 targets, MSR lists of 512, MSEG revision 0x0; HLT state, shutdown state, wait-for-SIPI state
EPT and VPID     none
CR0              must be 1: 0x80000021, may be 1: 0xffffffff
CR4              must be 1: 0x2000, may be 1: 0x27ff
Fields           highest index 22
Addresses        39 bits physical, 48 bits linear

Pin-based VM-execution controls (must be 1: 0x16, may be 1: 0x3f)
  bit  0  may   External-interrupt exiting
  bit  1  must  (reserved, default1)
  bit  2  must  (reserved, default1)
  bit  3  may   NMI exiting
  bit  4  must  (reserved, default1)
  bit  5  may   Virtual NMIs
  bit  6  no    Activate VMX-preemption timer
  bit  7  no    Process posted interrupts
`, out[:strings.Index(out, "\nPrimary processor")])
	for _, line := range []string{
		"\n  bit 15  must  CR3-load exiting\n",
		"\n  bit 17  may   Activate tertiary controls\n",
		"\n  bit 20  may   CR8-store exiting\n",
		"\n  bit 31  no    Activate secondary controls\n",
		"\nSecondary processor-based VM-execution controls: none\n",
		"\nTertiary processor-based VM-execution controls (must be 1: 0x0, may be 1: 0x2000000000000002)\n  bit  0  no    LOADIWKEY exiting\n  bit  1  may   Enable HLAT\n",
		"\n  bit 61  may   (without a name)\n",
		"\nVM-function controls: none\n",
	} {
		require.Contains(t, out, line)
	}
}

func TestCaps(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "values")
	locked, err := vmcs.ModelText("core_i7_3770")
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(file, []byte(strings.Replace(locked, "0x0000000000000005", "0x0000000000000001", 1)), 0o600))
	empty := filepath.Join(dir, "empty")
	require.NoError(t, os.WriteFile(empty, []byte("nothing"), 0o600))

	for _, c := range []struct {
		args, out, errOut string
		status            int
	}{
		{args: "-model core_i7_3770", out: "core_i7_3770: Intel Core i7-3770 (Ivy Bridge, 306A9)\n"},
		{args: "-model westmere_hp_2540p", out: "IA32_FEATURE_CONTROL is not known"},
		{args: "-list", out: "bochs_tigerlake "},
		{args: "-file " + file, out: "fails: IA32_FEATURE_CONTROL does not allow VMXON"},
		{args: "-raw -model core_i7_3770", out: "msr 0x48c 0x00000f0106114141 # IA32_VMX_EPT_VPID_CAP\n"},
		{args: "-model z80", errOut: `no recorded model "z80"; there are bochs_`, status: 2},
		{args: "-model z80 -file x", errOut: "exclude each other", status: 2},
		{args: "extra", errOut: `"extra"`, status: 2},
		{args: "-cpu -1", errOut: "-cpu -1", status: 2},
		{args: "-file " + empty, errOut: "empty: vmcs: the text has no capability MSR", status: 1},
		{args: "-file " + dir + "/none", errOut: "no such file", status: 1},
	} {
		t.Run(c.args, func(t *testing.T) {
			checkOutcome(t, append([]string{"caps"}, strings.Fields(c.args)...), oneOrNone(c.out), c.errOut, c.status)
		})
	}
}

// What -raw prints of each model, -file reads, and the tables are the same.
func TestCapsRawIsRead(t *testing.T) {
	for _, name := range []string{"bochs_tigerlake", "coffee_lake_906ea"} {
		raw, _, status := caps(t, "", "-raw", "-model", name)
		require.Zero(t, status)
		again, errOut, status := caps(t, raw, "-file", "-")
		require.Zero(t, status, errOut)
		table, _, _ := caps(t, "", "-model", name)
		_, want, _ := strings.Cut(table, "\n")
		_, got, _ := strings.Cut(again, "\n")
		require.Equal(t, want, got)
	}
}

// Without flags it is this machine's table, or what stands in the way of it.
func TestCapsOfThisMachine(t *testing.T) {
	out, errOut, status := caps(t, "")
	if status == 0 {
		require.Contains(t, out, "processor 0 of this machine\n")
		require.Empty(t, errOut)
		return
	}
	require.Equal(t, 1, status)
	require.Empty(t, out)
	require.Regexp(t, `no VMX|modprobe msr|root|CAP_SYS_RAWIO|IA32_`, errOut)
}
