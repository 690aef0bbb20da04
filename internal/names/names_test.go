package names_test

import (
	"testing"

	"github.com/govtx/vtx/internal/names"
)

func TestSqueeze(t *testing.T) {
	for _, s := range []string{"VM-exit MSR-store count", "VM_EXIT_MSR_STORE_COUNT", "VMExit (MSR/Store), Count"} {
		if got := names.Squeeze(s); got != "vmexitmsrstorecount" {
			t.Errorf("%q becomes %q", s, got)
		}
	}
}
