package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestVTL(t *testing.T) {
	for _, name := range []string{"hide", "all"} {
		t.Run(name, func(t *testing.T) {
			text, err := os.ReadFile(filepath.Join("testdata", "vtl", name+".vtl"))
			require.NoError(t, err)
			s := newSession(t)
			require.NoError(t, os.WriteFile(filepath.Join(s.dir, "script.vtl"), text, 0o600))
			out := s.checkOutcome(t, "", []string{"vtl", "script.vtl"}, nil, "", 0)
			checkGolden(t, "vtl/"+name, out)

			// The drawing alone is the end of that.
			quiet, _, status := s.run(t, "vtl", "-quiet", "script.vtl")
			require.Zero(t, status)
			require.True(t, strings.HasSuffix(out, "\n\n"+quiet))
		})
	}
}

// The example in the help is the one that is tested, and all steps are in the other one.
func TestVTLHelp(t *testing.T) {
	text, err := os.ReadFile("testdata/vtl/hide.vtl")
	require.NoError(t, err)
	require.Contains(t, vtlCommand.long, "\n\t"+strings.ReplaceAll(strings.TrimSpace(string(text)), "\n", "\n\t")+"\n")
	every, err := os.ReadFile("testdata/vtl/all.vtl")
	require.NoError(t, err)
	for _, v := range vtlVerbs {
		require.Regexp(t, `(?m)^(vp\d: )?`+v.name+`( |$)`, string(every))
		for _, way := range strings.Split(v.name, "|") {
			require.Contains(t, vtlCommand.long, way)
		}
	}
}

func TestVTLErrors(t *testing.T) {
	for _, tc := range []struct {
		text, want string
		status     int
	}{
		{"", "", 0},
		{"# nothing\n\n", "", 0},
		{"vp0: fly\n", `line 1: vp0: fly: there is no step "fly"`, 1},
		{"\n\nvp1: call\n", "line 3: vp1: call: there is no VP1: the partition has 1 processor", 1},
		{"call\n", `who does that? write "vp0: call"`, 1},
		{"vp0: reset\n", "reset is for the whole partition", 1},
		{"vp0: call\npartition\n", "line 2: partition: the partition is what the first step says", 1},
		{"partition processors=0\n", "Processors is 0", 1},
		{"partition processors=65\n", "65 is more than 0x40", 1},
		{"partition max=16\n", "16 is more than 0xf", 1},
		{"partition profile=xen\n", "use TLFS, OpenVMM or KVM", 1},
		{"partition ram=5-4\n", "ends before it begins", 1},
		{"partition ram=1,0\n", "sort ranges", 1},
		{"partition mbec=x\n", `"x" is no number`, 1},
		{"partition mbec=3\n", "above MaximumVTL", 1},
		{"partition what=3\n", "what= means nothing here", 1},
		{"partition what\n", `"what" means nothing here`, 1},
		{"partition max=1 max=1\n", "max= is there twice", 1},
		{"vp0: enable-partition\n", "want: enable-partition LEVEL [mbec]", 1},
		{"vp0: enable-partition x\n", `"x" is no number`, 1},
		{"vp0: enable-partition 1 fast\n", `"fast" means nothing here; there is mbec`, 1},
		{"vp0: enable-vp 1 rip=y\n", `rip=: "y" is no number`, 1},
		{"vp0: enable-vp 1 on=0\n", `"0" is no processor: write vp0`, 1},
		{"vp0: call fast=1\n", "fast= means nothing here", 1},
		{"vp0: protect 0-0xfffff none\n", "0x100000 pages are more than 0x1000", 1},
		{"vp0: protect 0 q\n", `"q" is no rights`, 1},
		{"vp0: get nothing\n", `there is no register "nothing"`, 1},
		{"vp0: ipi 0x40 vp5000\n", "no set has VP5000", 1},
		{"partition processors=2\nvp1: call\n", "line 2: vp1: call: VP1 waits to be started", 1},
		{strings.Repeat("draw\n", maxVTLSteps+1), "line 10001: more than 10000 steps", 1},
		{"vp0:\n", `there is no step ""`, 1},
		{strings.Repeat("#", maxVTLBytes+1), "longer than 1 MiB", 2},
	} {
		newSession(t).checkOutcome(t, tc.text, []string{"vtl", "-quiet", "-"}, nil, tc.want, tc.status)
	}
	checkOutcome(t, []string{"vtl"}, nil, "want one FILE", 2)
	checkOutcome(t, []string{"vtl", "nowhere"}, nil, "no such file", 2)
}

// A level that waits for a TLB lock does nothing but flush again.
func TestVTLBlocked(t *testing.T) {
	script := "partition processors=2\nvp0: enable-partition 1\nvp0: enable-vp 1\nvp0: call\nvp0: enable-vp 1 on=vp1\nvp0: start vp1\nvp1: return fast\n" +
		"vp0: translate 5 of=0 lock\nvp1: flush\nvp1: flush\n"
	s := &vtlScript{out: io.Discard}
	require.NoError(t, s.play(script))
	require.True(t, s.p.Blocked(1))
	s = &vtlScript{out: io.Discard}
	require.ErrorContains(t, s.play(script+"vp1: read 5\n"), "line 11: vp1: read 5: VTL0 of VP1 waits for a TLB lock")
}

// Whatever a script has in it, it is played or a line is named.
func TestVTLHostile(t *testing.T) {
	var words []string
	for _, v := range vtlVerbs {
		words = append(words, v.name)
	}
	values := []string{"0", "1", "2", "3", "15", "16", "255", "0x40", "0x10-0x20", "0xffffffffffffffff", "none", "rwx", "r", "vp0", "vp1", "vp9", "of=0", "of=1", "of=15",
		"on=vp1", "on=vp4294967294", "rip=5", "cr0=0", "cpl=3", "control=1", "fast", "nmi", "rip", "VsmPartitionConfig", "PendingEvent0", "VsmVpSecureConfigVtl0", "0x350", "lock", "mbec", "size=0", "size=4", "off"}
	rapid.Check(t, func(t *rapid.T) {
		var b strings.Builder
		fmt.Fprintf(&b, "partition processors=%d max=%d profile=%s\n", rapid.IntRange(1, 3).Draw(t, "processors"), rapid.IntRange(0, 15).Draw(t, "max"),
			rapid.SampledFrom([]string{"tlfs", "openvmm", "kvm"}).Draw(t, "profile"))
		b.WriteString("vp0: enable-partition 1\nvp0: enable-vp 1\nvp0: call\n")
		s := &vtlScript{out: io.Discard}
		if err := s.play(b.String()); err != nil {
			t.Fatal(err)
		}
		for range rapid.IntRange(0, 30).Draw(t, "steps") {
			line := "vp" + rapid.SampledFrom([]string{"0", "0", "1"}).Draw(t, "vp") + ": " + rapid.SampledFrom(words).Draw(t, "verb")
			for range rapid.IntRange(0, 3).Draw(t, "words") {
				line += " " + rapid.SampledFrom(values).Draw(t, "word")
			}
			_ = s.step(line, false)
		}
		s.draw()
		_ = (&vtlScript{out: io.Discard}).play(rapid.String().Draw(t, "text"))
	})
}
