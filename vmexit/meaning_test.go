package vmexit_test

import (
	"testing"

	"github.com/govtx/vtx/internal/require"
	"github.com/govtx/vtx/vmcs"
	"github.com/govtx/vtx/vmexit"
)

// Dumps of a VMCS, which package vmcs prints, call the exit reasons as this package
// does.
func TestDumpsNameReasons(t *testing.T) {
	for b := range vmexit.Basics() {
		require.Contains(t, vmcs.Meaning(new(vmcs.Image), vmcs.ExitReason, uint64(b)), b.SDMName())
	}
}
