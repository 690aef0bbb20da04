package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/govtx/vtx/vmcs"
)

const dumpDir = "../../vmcs/testdata/dumps"

// Each dump that package vmcs has, and what is said of it.
func TestCheckDumps(t *testing.T) {
	for _, tc := range []struct {
		file   string
		flags  []string
		golden string
		status int
		rules  []string // that fail, in this order
	}{
		{"long-mode-code-segment.txt", nil, "long-mode-code-segment", 1, []string{"guest.cs.db"}},
		{"long-mode-code-segment.txt", []string{"-model", "bochs_tigerlake"}, "", 1, nil},
		{"real-mode-restricted.txt", []string{"-v"}, "real-mode-restricted", 1, []string{"guest.cr0.fixed"}},
		{"nmi-window.txt", nil, "nmi-window", 1, []string{"nmi.window"}},
		{"host-state.txt", nil, "host-state", 1, []string{"host.tr.null", "size.64.rip"}},
		{"valid.txt", []string{"-v"}, "valid", 0, nil},
		{"valid.txt", []string{"-dump", "-model", "bochs_corei7_skylake_x"}, "valid-dump", 0, nil},
	} {
		t.Run(tc.file+strings.Join(tc.flags, " "), func(t *testing.T) {
			s := newSession(t)
			text, err := os.ReadFile(filepath.Join(dumpDir, tc.file))
			require.NoError(t, err)
			require.NoError(t, os.WriteFile(filepath.Join(s.dir, tc.file), text, 0o600))
			out := s.checkOutcome(t, "", append(append([]string{"check"}, tc.flags...), tc.file), nil, "", tc.status)
			rest := out
			for _, r := range tc.rules {
				_, after, ok := strings.Cut(rest, "\n\n"+r+" (SDM ")
				require.True(t, ok, "%s is missing or too late in\n%s", r, out)
				rest = after
			}
			if tc.golden != "" {
				checkGolden(t, "check/"+tc.golden, out)
			}
		})
	}
}

func TestCheckUsage(t *testing.T) {
	s := newSession(t)
	for name, text := range map[string]string{
		"none":  "nothing here\n",
		"bad":   "*** Guest State ***\nCR3 = 0xg\n",
		"caps":  "msr 0x480 zz\n",
		"twice": strings.Repeat("*** Guest State ***\nCR3 = 0x1000\n*** Control State ***\nreason=80000021 qualification=0\n", 2),
	} {
		require.NoError(t, os.WriteFile(filepath.Join(s.dir, name), []byte(text), 0o600))
	}
	for _, tc := range []struct {
		args   string
		stdin  string
		out    string
		errOut string
		status int
	}{
		{args: "check", errOut: "want one FILE", status: 2},
		{args: "check a b", errOut: "want one FILE", status: 2},
		{args: "check missing", errOut: "no such file", status: 2},
		{args: "check none", errOut: "none: vmcs: the text has no dump of a VMCS", status: 2},
		{args: "check bad", errOut: `bad: vmcs: line 2: "0xg": want a hexadecimal number`, status: 2},
		{args: "check -model nosuch none", errOut: "nosuch", status: 2},
		{args: "check -model bochs_tigerlake -caps caps none", errOut: "exclude each other", status: 2},
		{args: "check -caps caps none", errOut: "caps", status: 2},
		{args: "check -", stdin: "GuestRFLAGS 0x6820 0x0000000000000002\n", out: "-: 1 field\nNo rule fails of the ", status: 0},
		{args: "check -", stdin: "GuestRFLAGS 0x6820 0x0000000000000000\n", out: "\nguest.rflags", status: 1},
		{args: "check twice", out: "twice: dump of KVM in lines 5 to 8, 3 fields", status: 0},
		{args: "check twice", out: "But the log says: VM exit with reason 0x80000021", status: 0},
	} {
		t.Run(tc.args, func(t *testing.T) {
			s.checkOutcome(t, tc.stdin, strings.Fields(tc.args), oneOrNone(tc.out), tc.errOut, tc.status)
		})
	}
}

// The processor of -caps decides: one that is recorded, and the same through a file.
func TestCheckCaps(t *testing.T) {
	s := newSession(t)
	text, err := vmcs.ModelText("bochs_tigerlake")
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(s.dir, "caps"), []byte(text), 0o600))
	var m vmcs.Image
	m.Set(vmcs.GroupTertiary.Field(), 0)
	m.Set(vmcs.GroupPin.Field(), 0x16|1<<30) // a bit that no processor has
	var dump strings.Builder
	require.NoError(t, vmcs.Dump(&dump, &m, vmcs.DumpOptions{}))
	require.NoError(t, os.WriteFile(filepath.Join(s.dir, "dump"), []byte(dump.String()), 0o600))
	byFile, _, status := s.run(t, "check", "-caps", "caps", "dump")
	require.Equal(t, 1, status)
	byModel, _, status := s.run(t, "check", "-model", "bochs_tigerlake", "dump")
	require.Equal(t, 1, status)
	require.Equal(t, byModel, strings.Replace(byFile, "Processor: caps", "Processor: bochs_tigerlake", 1))
}

// The bits to mend are those that the rules about fixed bits object to, and no
// others.
func TestFaultyBits(t *testing.T) {
	caps, err := vmcs.Model("bochs_tigerlake")
	require.NoError(t, err)
	check := func(id string, m *vmcs.Image) (violated bool) {
		report := vmcs.Check(m, caps)
		for i := range report.Violations {
			violated = violated || report.Violations[i].Rule.ID == id
		}
		for _, r := range report.NotChecked {
			require.NotEqual(t, id, r.ID)
		}
		return violated
	}
	fields := map[string]vmcs.Field{
		"guest.cr0.fixed": vmcs.GuestCR0, "host.cr0.fixed": vmcs.HostCR0,
		"guest.cr4.fixed": vmcs.GuestCR4, "host.cr4.fixed": vmcs.HostCR4,
	}
	for g := range vmcs.ControlGroup(vmcs.NumControlGroups) {
		if caps.Controls[g].May1 != 0 && g != vmcs.GroupVMFunctions {
			fields[g.Key()+".reserved"] = g.Field()
		}
	}
	for id, f := range fields {
		rule := vmcs.LookupRule(id)
		require.NotNil(t, rule, id)
		for _, unrestricted := range []vmcs.SecondaryControls{0, vmcs.SecondaryUnrestrictedGuest} {
			var m vmcs.Image
			m.Set(vmcs.GroupPrimary.Field(), caps.Controls[vmcs.GroupPrimary].Must1|uint64(vmcs.PrimaryActivateSecondaryControls))
			m.Set(vmcs.GroupSecondary.Field(), uint64(unrestricted))
			if f != vmcs.GroupPrimary.Field() && f != vmcs.GroupSecondary.Field() {
				m.Set(f, 0)
			}
			base, _ := m.Get(f)
			for bit := range f.Width().Bits() {
				if f == vmcs.GroupPrimary.Field() && bit == 31 {
					continue // without it there are no secondary controls
				}
				m.Set(f, base^1<<bit)
				require.Equal(t, check(id, &m), len(faultyBits(&m, caps, rule)) > 0, "%s, bit %d", id, bit)
			}
		}
	}
	// And names them.
	var m vmcs.Image
	m.Set(vmcs.GuestCR4, 1<<40|1<<5)
	require.Equal(t, []string{"set to 1: VMXE", "clear to 0: bit 40"}, faultyBits(&m, caps, vmcs.LookupRule("guest.cr4.fixed")))
	m.Set(vmcs.GroupPin.Field(), 0x2|1<<20)
	require.Equal(t, []string{"set to 1: bit 2, bit 4", "clear to 0: bit 20"}, faultyBits(&m, caps, vmcs.LookupRule("pin.reserved")))
}
