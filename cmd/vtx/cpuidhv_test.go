package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/govtx/vtx/hypercall"
)

// cpuidHv runs "vtx cpuid-hv" on standard input.
func cpuidHv(t *testing.T, stdin string, args ...string) (stdout, stderr string, status int) {
	t.Helper()
	return newSession(t).runOn(t, stdin, append([]string{"cpuid-hv"}, args...)...)
}

const leavesDecoded = `0x40000000   vendor "Microsoft Hv", leaves up to 0x40000006
0x40000001   interface "Hv#1"
0x40000003   privileges AccessHypercallMsrs, AccessVSM
             power none
             features XmmHypercallInput, XmmHypercallOutput
0x40000005   up to 240 virtual processors
             up to 64 logical processors
             interrupt vectors not told
`

// The same leaves in every form.
func TestCpuidHv(t *testing.T) {
	for name, text := range map[string]string{
		"cpuid -r": `CPU 0:
   0x00000001 0x00: eax=0x000906ea ebx=0x00100800 ecx=0xfeda3203 edx=0x1f8bfbff
   0x40000000 0x00: eax=0x40000006 ebx=0x7263694d ecx=0x666f736f edx=0x76482074
   0x40000001 0x00: eax=0x31237648 ebx=0x00000000 ecx=0x00000000 edx=0x00000000
   0x40000003 0x00: eax=0x00000020 ebx=0x00010000 ecx=0x00000000 edx=0x00008010
   0x40000005 0x00: eax=0x000000f0 ebx=0x00000040 ecx=0x00000000 edx=0x00000000
   0x40000005 0x01: eax=0x00000001 ebx=0x00000001 ecx=0x00000001 edx=0x00000001
CPU 1:
   0x40000005 0x00: eax=0x00000001 ebx=0x00000000 ecx=0x00000000 edx=0x00000000
`,
		"vtx caps -raw": `# a processor
msr 0x480 0x1
cpuid 0x40000000 0x0 0x40000006 0x7263694d 0x666f736f 0x76482074
cpuid 0x40000001 0x0 0x31237648 0x00000000 0x00000000 0x00000000
cpuid 40000003 0 20 10000 0 8010
cpuid 0x40000005 0x0 0xf0 0x40 0 0
`,
		"simple": `leaf eax ebx ecx edx
40000000 40000006 7263694D 666F736F 76482074
0x40000001 0x31237648 0 0 0
40000003: 20 10000 0 8010
  40000005	f0	40	0	0
`,
	} {
		t.Run(name, func(t *testing.T) {
			out, errOut, status := cpuidHv(t, text, "-")
			require.Empty(t, errOut)
			require.Zero(t, status)
			require.Equal(t, leavesDecoded, out)

			file := filepath.Join(t.TempDir(), "leaves")
			require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
			out, _, status = cpuidHv(t, "", file)
			require.Zero(t, status)
			require.Equal(t, leavesDecoded, out)
		})
	}
}

func TestCpuidHvErrors(t *testing.T) {
	for _, tc := range []struct {
		stdin  string
		args   []string
		out    string
		errOut string
		status int
	}{
		{"", []string{"-"}, "", "no leaf of CPUID is in it", 1},
		{"what else\n", []string{"-"}, "", "no leaf of CPUID is in it", 1},
		{"1 0 0 7fffffff 0\n", []string{"-"}, "", "there is no hypervisor", 1},
		{"1 0 0 ffffffff 0\n", []string{"-"}, "", "of 1 leaves none is a hypervisor's", 1},
		{"40000000 40000001 4b4d564b 564b4d56 4d\n40000001 7efb 0 0 1000000\n", []string{"-"}, `vendor "KVMKVMKVM"`, `interface is not "Hv#1"`, 1},
		{strings.Repeat("\n", maxLeafLines+1), []string{"-"}, "", "more than 65536 lines", 1},
		{strings.Repeat("x", 1<<17), []string{"-"}, "", "token too long", 1},
		{"", []string{"/there/is/none"}, "", "no such file", 1},
		{"", []string{"a", "b"}, "", "want one FILE, or none, not 2", 2},
	} {
		newSession(t).checkOutcome(t, tc.stdin, append([]string{"cpuid-hv"}, tc.args...), oneOrNone(tc.out), tc.errOut, tc.status)
	}
	_, err := readLeafLines(strings.NewReader(strings.Repeat(strings.Repeat("x", 1000)+"\n", 1+maxLeafBytes/1000)))
	require.ErrorContains(t, err, "longer than 16 MiB")
}

// Without a file, this machine's: whatever it is, it is told or there is an error.
func TestCpuidHvOwn(t *testing.T) {
	out, errOut, status := cpuidHv(t, "")
	if status == 0 {
		require.Contains(t, out, `interface "Hv#1"`)
		return
	}
	require.Equal(t, 1, status)
	require.Regexp(t, `there is no hypervisor|interface is not "Hv#1"|has no CPUID`, errOut)
}

// A device gives a leaf's registers at the leaf's offset.
type cpuidDevice map[uint32]hypercall.CPUID

func (d cpuidDevice) ReadAt(p []byte, at int64) (int, error) {
	r, ok := d[uint32(at)]
	if !ok || at>>32 != 0 || len(p) != 16 {
		return 0, errors.New("not there")
	}
	for i, v := range []uint32{r.EAX, r.EBX, r.ECX, r.EDX} {
		binary.LittleEndian.PutUint32(p[4*i:], v)
	}
	return len(p), nil
}

func TestCpuidHvDevice(t *testing.T) {
	l := hypercall.NewLeaves("vtx test", hypercall.LeafLimits)
	l.Features.Privileges = hypercall.PrivilegeAccessVSM
	d := cpuidDevice{1: {ECX: hypercall.HypervisorPresent}}
	for leaf := range l.All() {
		d[leaf.Number()] = leaf.CPUID()
	}
	var b strings.Builder
	require.NoError(t, printDevice(&b, d))
	require.Contains(t, b.String(), "0x40000003   privileges AccessVSM\n")
	delete(d, hypercall.LeafVersion)
	require.ErrorContains(t, printDevice(&b, d), "leaf 0x40000002: not there")
	require.ErrorIs(t, printDevice(&b, cpuidDevice{1: {}}), hypercall.ErrNoHypervisor)
}

// Any text gives leaves or an error; a leaf that is written in any form is read back.
func leafLines(t *rapid.T) {
	n := rapid.SliceOfN(rapid.Uint32(), 5, 5).Draw(t, "registers")
	format := rapid.SampledFrom([]string{
		"0x%08x 0x00: eax=0x%08x ebx=0x%08x ecx=0x%08x edx=0x%08x",
		"   0x%x 0x0:  EAX=0x%X EBX=0x%x ECX=0x%x EDX=0x%x ",
		"cpuid 0x%x 0x0 0x%x 0x%x 0x%x 0x%x", "cpuid %x 0 %x %x %x %x",
		"%08x %08x %08x %08x %08x", "0x%x 0x%x 0x%x 0x%x 0x%x", "%X: %X %X %X %X\r",
	}).Draw(t, "format")
	line := fmt.Sprintf(format, n[0], n[1], n[2], n[3], n[4])
	want := hypercall.CPUID{EAX: n[1], EBX: n[2], ECX: n[3], EDX: n[4]}
	noise := rapid.StringMatching(`[g-z ]{0,20}`)
	got, err := readLeafLines(strings.NewReader(noise.Draw(t, "before") + "\n" + line + "\n" + line + " 1\n" + noise.Draw(t, "behind")))
	require.NoError(t, err)
	require.Equal(t, map[uint32]hypercall.CPUID{n[0]: want}, got, line)

	leaves, err := readLeafLines(strings.NewReader(rapid.String().Draw(t, "text")))
	if err == nil {
		var b strings.Builder
		err := printRecordedLeaves(&b, "it", leaves)
		require.Equal(t, err == nil, b.Len() > 0)
	}
}

func TestLeafLines(t *testing.T) { rapid.Check(t, leafLines) }

func FuzzLeafLines(f *testing.F) { f.Fuzz(rapid.MakeFuzz(leafLines)) }
