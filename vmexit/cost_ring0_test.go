package vmexit_test

import (
	"testing"

	"github.com/govtx/vtx/asm"
	"github.com/govtx/vtx/internal/require"
	"github.com/govtx/vtx/internal/ring0test"
	"github.com/govtx/vtx/internal/vmtest"
	"github.com/govtx/vtx/vmcs"
	"github.com/govtx/vtx/vmexit"
)

// What a VM exit costs from one VM entry to the next, in TSC ticks: on Bochs these are
// instructions, exact and the same in every run. Interrupts are off while it is measured.
// The figures include the guest's own instruction, but not those that load its operands.

const exitsPerRun = 1000

// costs are the round trips that are measured, with what they may cost on Bochs.
var costs = []struct {
	name  string
	code  []byte
	regs  [4]uint64 // RAX, RCX, RDX, RBX
	limit uint64
	loads uint64 // instructions of the guest before the one that exits
}{
	{"VMCALL", []byte{0x0f, 0x01, 0xc1}, [4]uint64{}, 120, 0},
	{"CPUID", []byte{0xb8, 0, 0, 0, 0, 0x0f, 0xa2}, [4]uint64{}, 150, 1},
	{"CPUID-extended", []byte{0xb8, 2, 0, 0, 0x80, 0x0f, 0xa2}, [4]uint64{}, 150, 1},
	{"CPUID-features", []byte{0xb8, 1, 0, 0, 0, 0x0f, 0xa2}, [4]uint64{}, 350, 1}, // OSXSAVE: reads CR4, its mask and its shadow
	{"CPUID-no-leaf", []byte{0xb8, 0x78, 0x56, 0x34, 0x12, 0x0f, 0xa2}, [4]uint64{}, 220, 1},
	{"RDMSR-value", []byte{0x0f, 0x32}, [4]uint64{0, 0x1a0}, 160, 0},
	{"RDMSR-hook", []byte{0x0f, 0x32}, [4]uint64{0, 0x40000020}, 160, 0},
	{"RDMSR-field", []byte{0x0f, 0x32}, [4]uint64{0, 0xc0000100}, 220, 0},
	{"RDMSR-passed", []byte{0x0f, 0x32}, [4]uint64{0, 0xc0000102}, 220, 0},
	{"WRMSR-hook", []byte{0x0f, 0x30}, [4]uint64{1, 0x40000020, 2}, 160, 0},
	{"OUT", []byte{0xee}, [4]uint64{'x', 0, 0x3f8}, 200, 0},
	{"IN", []byte{0xec}, [4]uint64{0, 0, 0x3f8}, 200, 0},
	{"PAUSE", []byte{0xf3, 0x90}, [4]uint64{}, 120, 0},
}

// serial is a device that takes bytes.
type serial struct{ last, n uint32 }

func (s *serial) In(port uint16, size int) (uint32, error) { return s.last, nil }

func (s *serial) Out(port uint16, size int, v uint32) error {
	s.last = v
	s.n++
	return nil
}

// costRun returns what runs the guest of one of the costs, and returns the ticks that took.
func costRun(t testing.TB, m *vmtest.Machine, code []byte, regs [4]uint64) (run func() uint64, device *serial) {
	var page []byte
	for range exitsPerRun {
		page = append(page, code...)
	}
	g := m.NewGuest(vmtest.Long, append(page, 0xf4)...) // HLT
	vmtest.SetControls(g, vmcs.PrimaryPAUSEExiting|vmcs.PrimaryUnconditionalIOExiting)
	device = new(serial)
	cpuid := vmexit.SnapshotCPUID(vmcs.Processor{}).HideUnemulated()
	value := uint64(0)
	cr, tsc := vmexit.NewControlRegisters(m.Caps, cpuid), new(vmexit.TSC)
	msrs := vmexit.DefaultMSRs(cpuid, cr, tsc).
		Set(0x1a0, vmexit.ValueMSR(1)).
		Set(0xc0000102, vmexit.AllowMSR()).
		Set(0x40000020, vmexit.MSRRule{
			Read:  func(*vmexit.Exit, uint32) (uint64, bool) { return value, true },
			Write: func(_ *vmexit.Exit, _ uint32, v uint64) bool { value = v; return true },
		})
	d := vmexit.Defaults(vmexit.Config{
		Capabilities: m.Caps, CPUID: cpuid, MSRs: msrs, ControlRegisters: cr, TSC: tsc,
		Ports: vmexit.NewPorts().Set(0x3f8, 0x3ff, device),
		Hypercall: func(x *vmexit.Exit) vmexit.Outcome {
			x.Guest.Regs[asm.RAX]++
			return vmexit.Resume
		},
	}).Build()
	x := &vmexit.Exit{Guest: &g.Guest, VMCS: vmcs.Current{}}
	return func() uint64 {
		g.RIP = vmtest.Code
		g.Regs[asm.RAX], g.Regs[asm.RCX], g.Regs[asm.RDX], g.Regs[asm.RBX] = regs[0], regs[1], regs[2], regs[3]
		var err error
		ticks := ring0test.Ticks(func() { err = d.Run(x) })
		if err != nil || g.RIP != uint64(vmtest.Code+len(page)+1) {
			t.Fatalf("the run ended at RIP 0x%x: %v", g.RIP, err)
		}
		return ticks
	}, device
}

// TestDispatchCost holds the public run loop with ready handlers to its bounds, and to no
// allocation.
func TestDispatchCost(t *testing.T) {
	m := vmtest.Start(t)
	for _, c := range costs {
		run, device := costRun(t, m, c.code, c.regs)
		run() // what a first entry writes is not counted
		ticks := ring0test.Least(run)/exitsPerRun - c.loads
		t.Logf("%s: %d ticks an exit", c.name, ticks)
		if c.name == "OUT" {
			require.Equal(t, serial{'x', 6 * exitsPerRun}, *device)
		}
		require.Zero(t, testing.AllocsPerRun(2, func() { run() }), "%s", c.name)
		if ring0test.Counted() {
			require.LessOrEqual(t, ticks, c.limit, "%s", c.name)
			require.Greater(t, ticks, uint64(60), "%s: it saves and loads 30 registers at least", c.name)
		}
	}
}

func BenchmarkExit(b *testing.B) {
	m := vmtest.Start(b)
	for _, c := range costs {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			run, _ := costRun(b, m, c.code, c.regs)
			ticks, exits := uint64(0), 0
			for b.Loop() {
				ticks += run() - c.loads*exitsPerRun
				exits += exitsPerRun
			}
			b.ReportMetric(float64(ticks)/float64(exits), "ticks/exit")
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(exits), "ns/exit")
			b.ReportMetric(0, "ns/op")
		})
	}
}
