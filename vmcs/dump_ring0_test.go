package vmcs_test

import (
	"strings"
	"testing"

	"github.com/govtx/vtx/asm"
	"github.com/govtx/vtx/internal/require"
	"github.com/govtx/vtx/internal/vmtest"
	"github.com/govtx/vtx/vmcs"
)

// TestDumpFailedEntry makes VM entries fail on VT-x, dumps the VMCS as a hypervisor
// would, reads the text back, and finds in it why they did.
func TestDumpFailedEntry(t *testing.T) {
	m := vmtest.Start(t)
	states := m.States()
	for _, tc := range []struct {
		field vmcs.Field
		value uint64
		rule  string
	}{
		{vmcs.PinBasedControls, 0, "pin.reserved"},
		{vmcs.HostTRSelector, 0, "host.tr.null"},
		{vmcs.GuestRFLAGS, 0, "guest.rflags.reserved"},
		{vmcs.VMCSLinkPointer, 1, "guest.link.address"},
	} {
		image := states[0].Image
		image.Set(tc.field, tc.value)
		o := m.Launch(&image)
		require.False(t, o.Entered())

		text := dumpText(t, vmcs.Current{}, vmcs.DumpOptions{})
		dump, err := vmcs.ParseDump(strings.NewReader(text))
		require.NoError(t, err)
		for f, v := range image.All() {
			if f.ReadOnly() {
				continue
			}
			got, ok := dump.Get(f)
			require.True(t, ok, "%v", f)
			require.Equal(t, v, got, "%v", f)
		}
		report := vmcs.Check(dump, m.Caps)
		require.Equal(t, tc.rule, report.First().Rule.ID)
		want := report.Outcome()
		if o.Status == asm.FailValid {
			require.Equal(t, vmcs.Outcome{Kind: vmcs.FailValid, Error: o.Error}, want)
			// Fields that the processor lacks were read, too.
			number, _ := dump.Get(vmcs.VMInstructionErrorNumber)
			require.Equal(t, uint64(o.Error), number)
			continue
		}
		reason, _ := dump.Get(vmcs.ExitReason)
		qualification, _ := dump.Get(vmcs.ExitQualification)
		require.Equal(t, uint64(want.Reason)|1<<31, reason)
		require.Equal(t, want.Qualification, qualification)
	}
}
