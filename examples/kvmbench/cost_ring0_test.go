package main

import (
	"errors"
	"testing"

	"github.com/govtx/vtx/asm"
	"github.com/govtx/vtx/internal/require"
	"github.com/govtx/vtx/internal/ring0test"
	"github.com/govtx/vtx/internal/vmtest"
	"github.com/govtx/vtx/vmcs"
	"github.com/govtx/vtx/vmexit"
)

var errLoopEnded = errors.New("the guest's loop has ended")

// A board has the devices at the guest's ports.
type board struct {
	mask   uint32
	writes int
}

func (b *board) In(port uint16, size int) (uint32, error) { return b.mask, nil }

func (b *board) Out(port uint16, size int, v uint32) error {
	if port == portDone {
		return errLoopEnded
	}
	b.writes++
	return nil
}

// limits are the most that the library may take, in instructions.
var limits = map[string]float64{
	"CPUID, leaf 0":                      150,
	"CPUID, leaf 1":                      300,
	"VMCALL that is not known":           125,
	"RDMSR, a value (IA32_MISC_ENABLE)":  160,
	"RDMSR, in the VMCS (IA32_PAT)":      200,
	"WRMSR, in the VMCS (IA32_PAT)":      255,
	"IN from a device of the hypervisor": 200,
	"OUT to a device of the program":     200,
}

// TestLibrary runs the guest under the library's run loop and ready handlers, and prints the
// figures; kvmbench compare reads them.
func TestLibrary(t *testing.T) {
	m := vmtest.Start(t)
	board := new(board)
	cpuid := vmexit.SnapshotCPUID(vmcs.Processor{}).HideUnemulated()
	cr, tsc := vmexit.NewControlRegisters(m.Caps, cpuid), new(vmexit.TSC)
	d := vmexit.Defaults(vmexit.Config{
		Capabilities: m.Caps, CPUID: cpuid, ControlRegisters: cr, TSC: tsc,
		MSRs:  vmexit.DefaultMSRs(cpuid, cr, tsc).Set(msrMiscEnable, vmexit.ValueMSR(1)),
		Ports: vmexit.NewPorts().Set(portPIC, portPIC, board).Set(portUser, portUser, board).Set(portDone, portDone, board),
		Hypercall: func(x *vmexit.Exit) vmexit.Outcome {
			x.Guest.Regs[asm.RAX] = noSuchCall
			return vmexit.Resume
		},
	}).Build()

	g := m.NewGuest(vmtest.Long)
	vmtest.SetControls(g, vmcs.PrimaryUnconditionalIOExiting)
	vmtest.SetControls(g, vmcs.EntryLoadIA32PAT)
	vmtest.SetControls(g, vmcs.ExitSaveIA32PAT|vmcs.ExitLoadIA32PAT)
	x := &vmexit.Exit{Guest: &g.Guest, VMCS: vmcs.Current{}}
	defer ring0test.Quiet()()
	figures, err := measure(func(o *operation) (uint64, error) {
		copy(g.Memory[vmtest.Code:], o.program())
		g.RIP = vmtest.Code
		before := board.writes
		asm.CLI() // the host's timer is not what is measured
		err := d.Run(x)
		asm.STI()
		require.ErrorIs(t, err, errLoopEnded)
		want := 0
		if o.edx == portUser {
			want = iterations
		}
		require.Equal(t, want, board.writes-before, o.name)
		return g.Regs[asm.R9], o.check(g.Regs[asm.R10], cpuid.Lookup(0, 0).EAX, cpuid.Lookup(1, 0).EAX)
	})
	require.NoError(t, err)
	require.Equal(t, len(operations)-1, len(figures))
	for _, f := range figures {
		t.Log(f)
		if ring0test.Counted() {
			require.Equal(t, f.min, f.median, f.name)
			require.LessOrEqual(t, f.median, limits[f.name], f.name)
			require.Greater(t, f.min, 60.0, "%s: it saves and loads 30 registers at least", f.name)
		}
	}
}
