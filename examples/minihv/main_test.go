package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/govtx/vtx/asm"
	"github.com/govtx/vtx/internal/machine"
	"github.com/govtx/vtx/internal/require"
	"github.com/govtx/vtx/ring0"
	"github.com/govtx/vtx/vmcs"
)

// build builds minihv as a user would.
func build(t *testing.T) string {
	t.Helper()
	if ring0.Active() {
		t.Skip("this test boots machines; it runs on the host")
	}
	if _, err := exec.LookPath("go"); err != nil {
		t.Skip("needs the go command")
	}
	exe := filepath.Join(t.TempDir(), "minihv")
	cmd := exec.Command("go", "build", "-o", exe, ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64", "GOAMD64=v1")
	text, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", text)
	return exe
}

// boot boots minihv and returns what it printed and its exit status.
func boot(t *testing.T, cfg machine.Config) (stdout, stderr string, status int) {
	t.Helper()
	tool := map[string]string{machine.Bochs: "bochs", machine.QEMU: "qemu-system-x86_64"}[cfg.Machine]
	if _, err := exec.LookPath(tool); err != nil {
		t.Skip(map[string]string{
			machine.Bochs: "needs Bochs: apt-get install bochs bochsbios vgabios",
			machine.QEMU:  "needs QEMU: apt-get install qemu-system-x86",
		}[cfg.Machine])
	}
	var out, err bytes.Buffer
	cfg.Stdout, cfg.Stderr, cfg.Timeout = &out, &err, 2*time.Minute
	res, e := machine.Run(context.Background(), cfg)
	require.NoError(t, e, "%s%s", out.String(), err.String())
	require.True(t, res.Exited)
	return out.String(), err.String(), res.Status
}

var update = flag.Bool("update", false, "write the transcript in testdata anew")

const transcriptFile = "testdata/transcript.txt"

// checkTranscript checks what minihv prints, exit by exit, against the file in testdata.
func checkTranscript(t *testing.T, stdout string) {
	t.Helper()
	// The timer may strike while the guest runs. These exits are counted, and not told of.
	_, got, _ := strings.Cut(stdout, "\n\n")
	if m := regexp.MustCompile(`(?m)^ *(\d+)  External interrupt\n`).FindStringSubmatch(got); m != nil {
		got = strings.Replace(got, m[0], "", 1)
		n, err := strconv.Atoi(m[1])
		require.NoError(t, err)
		got = regexp.MustCompile(`(?m)^ *(\d+)  exits in all`).ReplaceAllStringFunc(got, func(s string) string {
			all, err := strconv.Atoi(strings.Fields(s)[0])
			require.NoError(t, err)
			return fmt.Sprintf("%5d  exits in all", all-n)
		})
	}
	if *update {
		require.NoError(t, os.WriteFile(transcriptFile, []byte(got), 0o644))
	}
	want, err := os.ReadFile(transcriptFile)
	require.NoError(t, err)
	require.Equal(t, string(want), got)
}

func TestOnBochs(t *testing.T) {
	exe := build(t)
	for model, processor := range map[string]string{
		"corei7_skylake_x": "VMX revision 0x2b, IA32_FEATURE_CONTROL 0x5, EPT_VPID_CAP 0xf0106334141",
		"corei7_icelake_u": "VMX revision 0x4, IA32_FEATURE_CONTROL 0x5, EPT_VPID_CAP 0xf0106334141",
		"tigerlake":        "VMX revision 0x4, IA32_FEATURE_CONTROL 0x5, EPT_VPID_CAP 0xf0106b34141",
	} {
		t.Run(model, func(t *testing.T) {
			t.Parallel()
			stdout, stderr, status := boot(t, machine.Config{Program: exe, Machine: machine.Bochs, CPU: model})
			require.Zero(t, status, stderr)
			require.Empty(t, stderr)
			require.True(t, strings.HasPrefix(stdout, "processor  "+processor+
				"\nguest      4096 KiB, VTL0 begins at 0x10000, VTL1 at 0x100000, its secret is at 0x120000\n\n"), stdout)
			checkTranscript(t, stdout)
		})
	}
}

// Without the one call that hides VTL1's pages, VTL0 gets at the secret: it is that call which
// protects it.
func TestUnprotected(t *testing.T) {
	stdout, stderr, status := boot(t, machine.Config{Program: build(t), Machine: machine.Bochs, Args: []string{"-unprotected"}})
	require.Equal(t, 1, status)
	require.Equal(t, "minihv: 5 of 5 attacks were successful\n", stderr)
	stdout = regexp.MustCompile(`(?m)^ *\d+ *`).ReplaceAllString(stdout, "")
	for _, want := range []string{
		"VTL0 reads the secret\n-> 0x9e3779b97f4a7cc3: the attack is successful",
		"VTL0 writes the secret\n-> done: the attack is successful",
		"VTL0 runs the secret\n-> done: the attack is successful",
		"-> 0x74c741b593daa528: it should have been 0x38c3ef45953dfba9", // VTL1 has another secret now
	} {
		require.Contains(t, stdout, want)
	}
}

// What keeps the guest from its end: a clear message, and status 1.
func TestFailures(t *testing.T) {
	exe := build(t)
	for _, tt := range []struct {
		name         string
		cfg          machine.Config
		want, stdout string
	}{
		{"too few exits", machine.Config{Machine: machine.Bochs, Args: []string{"-exits", "2"}},
			"minihv: the guest did not halt within 2 exits\n", "\n    2  exits in all\n"},
		{"no VMX, Pentium 4", machine.Config{Machine: machine.Bochs, CPU: "p4_prescott_celeron_336"},
			"minihv: vmcs: the processor has no VMX, or what runs beneath hides it (CPUID leaf 1 ECX bit 5 is 0): choose a CPU model that has it\n", ""},
		{"no VMX, AMD", machine.Config{Machine: machine.Bochs, CPU: "ryzen"},
			"minihv: vmcs: the processor has no VMX, or what runs beneath hides it (CPUID leaf 1 ECX bit 5 is 0): choose a CPU model that has it\n", ""},
		{"no VMX, QEMU", machine.Config{Machine: machine.QEMU},
			"minihv: vmcs: the processor has no VMX, or what runs beneath hides it (CPUID leaf 1 ECX bit 5 is 0): choose a CPU model that has it\n", ""},
		{"no VMX, QEMU's disk", machine.Config{Machine: machine.QEMU, Disk: true},
			"minihv: vmcs: the processor has no VMX, or what runs beneath hides it (CPUID leaf 1 ECX bit 5 is 0): choose a CPU model that has it\n", ""},
		{"no EPT", machine.Config{Machine: machine.Bochs, CPU: "core2_penryn_t9600"},
			"minihv: this processor has no EPT: choose a CPU model that has it\n", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			tt.cfg.Program = exe
			stdout, stderr, status := boot(t, tt.cfg)
			require.Equal(t, 1, status)
			require.Equal(t, tt.want, stderr)
			require.True(t, strings.HasSuffix(stdout, tt.stdout), stdout)
			require.NotContains(t, stdout, "the guest is done")
		})
	}
}

func TestAsProcess(t *testing.T) {
	if runtime.GOOS != "linux" || runtime.GOARCH != "amd64" {
		t.Skip("needs linux/amd64")
	}
	cmd := exec.Command(build(t))
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	require.ErrorAs(t, cmd.Run(), new(*exec.ExitError))
	require.Equal(t, 1, cmd.ProcessState.ExitCode())
	require.Equal(t, "minihv: this program runs in ring 0: build it with CGO_ENABLED=0 and boot it with 'vtx boot'\n", stderr.String())
}

// VMX operation can be left, with a guest's work done or not, and entered again.
func TestInRing0(t *testing.T) {
	if !ring0.Active() {
		t.Skip("needs ring 0")
	}
	if _, _, features, _ := asm.CPUID(1, 0); features>>5&1 == 0 {
		t.Skip("needs a processor with VMX")
	}
	require.NoError(t, run(10000, true, nil))
	require.ErrorContains(t, run(3, true, nil), "did not halt within 3 exits")
	require.NoError(t, run(10000, true, nil))
}

// A recording is a processor with the values of Bochs' corei7_skylake_x, some of
// them changed.
type recording struct {
	t *testing.T
	*vmcs.Recorded
	features uint32            // bits of CPUID leaf 1 ECX that are cleared
	changed  map[uint32]uint64 // MSRs
	stuck    bool              // WRMSR changes nothing
}

func (r *recording) ReadMSR(msr uint32) (uint64, error) {
	if v, ok := r.changed[msr]; ok {
		return v, nil
	}
	return r.Recorded.ReadMSR(msr)
}

func (r *recording) ReadCPUID(leaf, subleaf uint32) (eax, ebx, ecx, edx uint32) {
	eax, ebx, ecx, edx = r.CPUID().ReadCPUID(leaf, subleaf)
	if leaf == 1 {
		ecx &^= r.features
	}
	return eax, ebx, ecx, edx
}

func (r *recording) WriteMSR(msr uint32, value uint64) {
	require.Equal(r.t, uint32(vmcs.MSRFeatureControl), msr)
	require.Zero(r.t, r.changed[msr]&1, "a locked MSR was written")
	if !r.stuck {
		r.changed[msr] = value
	}
}

func TestCheckVMX(t *testing.T) {
	for _, tt := range []struct {
		name     string
		features uint32
		change   map[uint32]uint64
		stuck    bool
		feature  uint64 // IA32_FEATURE_CONTROL in the end
		err      string
	}{
		{name: "ready", change: map[uint32]uint64{vmcs.MSRFeatureControl: 5}, feature: 5},
		{name: "left open by the firmware", change: map[uint32]uint64{vmcs.MSRFeatureControl: 0}, feature: 5},
		{name: "open, other bits set", change: map[uint32]uint64{vmcs.MSRFeatureControl: 1 << 20}, feature: 1<<20 | 5},
		{name: "no VMX", features: 1 << 5, err: "the processor has no VMX"},
		{name: "locked off", change: map[uint32]uint64{vmcs.MSRFeatureControl: 1}, err: "turn VT-x on in the firmware's setup"},
		{name: "locked to SMX", change: map[uint32]uint64{vmcs.MSRFeatureControl: 3}, err: "turn VT-x on in the firmware's setup"},
		{name: "cannot be turned on", change: map[uint32]uint64{vmcs.MSRFeatureControl: 0}, stuck: true, err: "does not allow VMXON: it is 0x0"},
		{name: "uncached regions", change: map[uint32]uint64{vmcs.MSRVMXBasic: 0x00c010000000002b},
			err: "VMCS regions need memory type 0, not write-back (IA32_VMX_BASIC is 0xc010000000002b)"},
		{name: "no secondary controls", change: map[uint32]uint64{vmcs.MSRVMXTruePrimaryControls: 0x77f9fffe04006172}, err: "this processor has no EPT"},
		{name: "no EPT", change: map[uint32]uint64{vmcs.MSRVMXSecondaryControls: 0x0000000100000000}, err: "this processor has no EPT"},
		{name: "no 4-level EPT", change: map[uint32]uint64{vmcs.MSRVMXEPTVPID: 0xf0106334101},
			err: "the processor does not support 4-level EPT: IA32_VMX_EPT_VPID_CAP[6] is 0"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			skylake, err := vmcs.RecordedModel("bochs_corei7_skylake_x")
			require.NoError(t, err)
			p := &recording{t: t, Recorded: skylake, features: tt.features, changed: tt.change, stuck: tt.stuck}
			caps, err := checkVMX(p)
			if tt.err != "" {
				require.ErrorContains(t, err, tt.err)
				return
			}
			require.NoError(t, err)
			require.Equal(t, tt.feature, uint64(caps.FeatureControl))
		})
	}
}

// A VMCS that the processor refuses is explained by the rule that it breaks.
func TestExplain(t *testing.T) {
	if !ring0.Active() {
		t.Skip("needs ring 0")
	}
	if _, _, features, _ := asm.CPUID(1, 0); features>>5&1 == 0 {
		t.Skip("needs a processor with VMX")
	}
	for _, tt := range []struct {
		field vmcs.Field
		value uint64
		errs  []string
	}{
		{vmcs.CR3TargetCount, 5, []string{"VM-instruction error 7", "cr3target.count", "CR3TargetCount = 0x5"}},
		{vmcs.HostCSSelector, 0, []string{"VM-instruction error 8", "host.cs.null", "HostCSSelector = 0x0"}},
		{vmcs.GuestRFLAGS, 0, []string{"reason 0x80000021", "guest.rflags.reserved", "GuestRFLAGS = 0x0"}},
	} {
		err := run(3, true, func() error { return vmcs.Current{}.Write(tt.field, tt.value) })
		for _, want := range tt.errs {
			require.ErrorContains(t, err, want)
		}
	}
}
