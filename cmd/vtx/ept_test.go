package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const eptFile = "testdata/ept/vtl.map"

func TestEPT(t *testing.T) {
	text, err := os.ReadFile(eptFile)
	require.NoError(t, err)
	for _, tc := range []struct {
		name string
		args []string
	}{
		{"show", []string{"vtl.map"}},
		{"part", []string{"-range", "1G,3M", "-rows", "3", "vtl.map"}},
		{"steps", []string{"-steps", "-range=0,4K", "vtl.map"}},
		{"translate", []string{"-translate", "0x40001234:w", "vtl.map"}},
		{"walk", []string{"-translate", "0x40201234:rp", "vtl.map"}},
		{"diff", []string{"-diff", "VTL0,VTL1", "vtl.map"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := newSession(t)
			require.NoError(t, os.WriteFile(filepath.Join(s.dir, "vtl.map"), text, 0o600))
			checkGolden(t, "ept/"+tc.name, s.checkOutcome(t, "", append([]string{"ept"}, tc.args...), nil, "", 0))
		})
	}
}

// The example in the help is the one that is tested.
func TestEPTHelp(t *testing.T) {
	text, err := os.ReadFile(eptFile)
	require.NoError(t, err)
	require.Contains(t, eptCommand.long, "\n\t"+strings.ReplaceAll(strings.TrimSpace(string(text)), "\n", "\n\t")+"\n")
}

func TestEPTSVG(t *testing.T) {
	s := newSession(t)
	s.checkOutcome(t, "view <a>\nmap 0 512G rwx\nunmap 0x123000 4K\n", []string{"ept", "-svg", "out.svg", "-"}, nil, "", 0)
	svg, err := os.ReadFile(filepath.Join(s.dir, "out.svg"))
	require.NoError(t, err)
	require.True(t, bytes.HasPrefix(svg, []byte("<svg xmlns=")))
	require.Contains(t, string(svg), "&lt;a&gt;")
	require.Contains(t, string(svg), "0x0000124000")
}

func TestEPTErrors(t *testing.T) {
	for _, tc := range []struct {
		text, args, want string
		status           int
	}{
		{"view a\nmap 0 4K rwx\nmap 0 8K rw-\n", "-", "-: line 3: map 0x0 8K RW- WB: ept: Map of 0x0-0x1fff", 1},
		{"view a\nmap 0 4K rwz\n", "-", `-: line 2: map 0 4K rwz: "rwz" is no rights`, 1},
		{"view a\nmap 0 64G rwx\nsplit 0 64G 4K\nview b of a\nprotect 0 64G r-- UC\nview c of a\nprotect 0 64G r-- WT", "-", "no free page for a table", 1},
		{"", "-", "no view", 1},
		{"view a", "-diff a -", "-diff a: want two views, with a comma between them; there are a", 2},
		{"view a", "-diff a,b -", "want two views", 2},
		{"view a", "-diff a,a -translate 0 -", "exclude each other", 2},
		{"view a", "-translate 0:q -", `"q" is no access`, 2},
		{"view a", "-translate x -", `"x" is no number`, 2},
		{"view a", "-range 0 -", "want ADDRESS,SIZE", 2},
		{"view a", "-range 0,0 -", "size 0", 2},
		{"view a", "-range 4K,x -", "no number", 2},
		{"view a", "-svg no/such/file -", "no such file", 2},
		{"", "", "want one FILE", 2},
		{"", "nowhere.map", "no such file", 2},
	} {
		newSession(t).checkOutcome(t, tc.text, append([]string{"ept"}, strings.Fields(tc.args)...), []string{""}, tc.want, tc.status) // what came before may be printed
	}
}

// Long lists are cut, and views that agree are said to.
func TestEPTLong(t *testing.T) {
	var b strings.Builder
	b.WriteString("view a\n")
	for i := range 250 {
		fmt.Fprintf(&b, "map %#x 4K r--\n", i<<13)
	}
	b.WriteString("view b of a\n")
	s := newSession(t)
	require.NoError(t, os.WriteFile(filepath.Join(s.dir, "long.map"), []byte(b.String()), 0o600))
	out, _, status := s.run(t, "ept", "long.map")
	require.Zero(t, status)
	require.Contains(t, out, "a: 4 tables, 250 pages of 4K\n")
	require.Contains(t, out, "\n150 more; -all lists them, -range some\n")
	require.Contains(t, out, "249 times:")
	out, _, _ = s.run(t, "ept", "-all", "long.map")
	require.NotContains(t, out, "more;")
	require.Contains(t, out, "0x0000001f2000-0x0000001f2fff ")
	out, _, _ = s.run(t, "ept", "-diff", "a,b", "long.map")
	require.Equal(t, "a and b translate alike\n", out)
}
