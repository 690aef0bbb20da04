package vmcs_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/govtx/vtx/asm"
	"github.com/govtx/vtx/internal/require"
	"github.com/govtx/vtx/internal/ring0test"
	"github.com/govtx/vtx/vmcs"
)

// TestCapabilitiesOfThisProcessor compares what RDMSR and CPUID answer with the
// values recorded of the emulator's CPU models.
func TestCapabilitiesOfThisProcessor(t *testing.T) {
	ring0test.Need(t)
	now, err := vmcs.Record(vmcs.Processor{}, vmcs.Processor{})
	require.NoError(t, err)
	var same []string
	for _, name := range vmcs.Models() {
		r, err := vmcs.RecordedModel(name)
		require.NoError(t, err)
		if r.String() == now.String() {
			same = append(same, name)
		}
	}
	require.Len(t, same, 1, "no model has, or several have %v, the values of this processor:\n%s", same, now)
	t.Log("this is", same[0])
	require.True(t, strings.HasPrefix(same[0], "bochs_"))

	want, err := vmcs.Model(same[0])
	require.NoError(t, err)
	got, err := vmcs.ReadCapabilities(vmcs.Processor{}, vmcs.Processor{})
	require.NoError(t, err)
	require.Equal(t, want, got)
	require.NoError(t, got.CanVMXON())
}

// TestProcessorLacksUnannouncedMSRs: those that ReadCapabilities does not read
// because nothing announces them raise #GP, or would have been read for nothing.
func TestProcessorLacksUnannouncedMSRs(t *testing.T) {
	ring0test.Need(t)
	c, err := vmcs.ReadCapabilities(vmcs.Processor{}, vmcs.Processor{})
	require.NoError(t, err)
	for msr, announced := range map[uint32]bool{
		vmcs.MSRVMXTertiaryControls:      vmcs.Supports(c, vmcs.PrimaryActivateTertiaryControls),
		vmcs.MSRVMXSecondaryExitControls: vmcs.Supports(c, vmcs.ExitActivateSecondaryControls),
	} {
		_, err := vmcs.Processor{}.ReadMSR(msr)
		if announced {
			require.NoError(t, err)
			continue
		}
		var fault *asm.Fault
		require.True(t, errors.As(err, &fault), "%#x: %v", msr, err)
		require.Equal(t, uint8(13), fault.Vector)
	}
}
