package vmexit_test

import (
	"testing"

	"github.com/govtx/vtx/asm"
	"github.com/govtx/vtx/internal/require"
	"github.com/govtx/vtx/internal/ring0test"
	"github.com/govtx/vtx/vmcs"
	"github.com/govtx/vtx/vmexit"
)

// TestWritesOfPAT: WRMSR of IA32_PAT takes what a VM entry would load, for each value of each
// field beside others.
func TestWritesOfPAT(t *testing.T) {
	ring0test.HostOnly(t)
	const msrPAT = 0x277
	d := newDouble(t).long()
	write := vmexit.NewMSRPolicy(vmexit.DenyMSR()).Set(msrPAT, vmexit.AllowMSR()).WRMSR()
	accepted := 0
	for _, others := range []uint64{0, 0x0007040600070406, 0x0606060606060606, 0x0101010101010101} {
		for shift := 0; shift < 64; shift += 8 {
			for field := range uint64(256) {
				v := others&^(0xff<<shift) | field<<shift
				d.exit(vmexit.WRMSR, 0, 0)
				d.Guest.Regs[asm.RCX], d.Guest.Regs[asm.RAX], d.Guest.Regs[asm.RDX] = msrPAT, v&0xffffffff, v>>32
				ok := write(d.Exit) == vmexit.Resume
				require.Equal(t, vmcs.MSREntry{Index: msrPAT, Value: v}.LoadRule(nil) == vmcs.MSRAccepted, ok, "0x%x", v)
				if ok {
					accepted++
					got, _ := d.image.Get(vmcs.GuestPAT)
					require.Equal(t, v, got)
				}
			}
		}
	}
	require.Equal(t, 4*8*6, accepted) // 6 of 256 types
}
