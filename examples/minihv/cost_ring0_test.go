package main

import (
	"runtime"
	"testing"

	"github.com/govtx/vtx/asm"
	"github.com/govtx/vtx/hypercall"
	"github.com/govtx/vtx/internal/require"
	"github.com/govtx/vtx/internal/ring0test"
	"github.com/govtx/vtx/vmcs"
	"github.com/govtx/vtx/vtl"
)

// What hypercalls cost from VM exit to VM entry, in TSC ticks: on Bochs these are
// instructions, exact and the same in every run. Interrupts are off while it is measured.

// startVMX starts VMX operation until the end of a test.
func startVMX(t testing.TB) *vmcs.Capabilities {
	t.Helper()
	ring0test.Need(t)
	if _, _, features, _ := asm.CPUID(1, 0); features>>5&1 == 0 {
		t.Skip("needs a processor with VMX")
	}
	runtime.LockOSThread()
	t.Cleanup(runtime.UnlockOSThread)
	caps, err := checkVMX(native{})
	require.NoError(t, err)
	leave, err := enterVMX(caps)
	require.NoError(t, err)
	t.Cleanup(leave)
	return caps
}

// rig starts VMX operation and makes a virtual machine whose levels run code of the test's.
func rig(t testing.TB, code0, code1 []byte) *vm {
	t.Helper()
	caps := startVMX(t)
	memory, err := newGuestMemory(caps)
	require.NoError(t, err)
	t.Cleanup(memory.free)
	ram := memory.ram.Bytes()
	_, context0 := newGuest(ram, base0)
	_, context1 := newGuest(ram, base1)
	copy(ram[base0:], code0)
	copy(ram[base1:], code1)
	m, err := newVM(caps, memory, nil, &context0)
	require.NoError(t, err)
	t.Cleanup(m.free)
	// Hypercalls are enabled, VTL1 is there.
	p := &m.processors[0]
	for i := range m.domains {
		d := &m.domains[i]
		d.guestOSID = 1
		require.NoError(t, d.place(d.code, ([numLevels]uint64{base0, base1}[i]+atCode)>>pageShift, true))
	}
	require.Zero(t, uint16(m.partition.EnablePartitionVTL(0, &hypercall.EnablePartitionVtlInput{PartitionID: hypercall.PartitionSelf, TargetVTL: 1}, &p.effects)))
	require.Zero(t, uint16(m.partition.EnableVPVTL(0, &hypercall.EnableVpVtlInput{PartitionID: hypercall.PartitionSelf, VPIndex: hypercall.VPSelf, TargetVTL: 1, Context: context1}, &p.effects)))
	p.carryOut(&p.exit)
	return m
}

// again has a level that has halted begin anew.
func (m *vm) again(l *level, rip uint64) {
	m.processors[0].halted = false
	l.RIP = rip
}

// ticks runs the machine until it halts, and returns what that takes.
func (m *vm) ticks(t testing.TB) uint64 {
	var err error
	n := ring0test.Ticks(func() { err = m.run() })
	if err != nil {
		t.Fatal(err)
	}
	return n
}

const callsPerRun = 400

// costs are what is measured, with what it may cost on Bochs. Run has the machine do it once
// more, and returns how many times that is.
var costs = []struct {
	name  string
	limit uint64
	loads uint64 // the guests' instructions for each, without those that exit
	rig   func(t testing.TB) (m *vm, run func() (ticks, n uint64))
}{
	{"null fast hypercall", 250, 0, func(t testing.TB) (*vm, func() (uint64, uint64)) {
		var code []byte
		for range callsPerRun {
			code = append(code, 0x0f, 0x01, 0xc1) // vmcall
		}
		m := rig(t, append(code, 0xf4), nil) // hlt
		l := m.processors[0].current
		return m, func() (uint64, uint64) {
			m.again(l, base0)
			l.Regs[asm.RCX] = uint64(hypercall.Input(hypercall.CodeNotifyLongSpinWait).WithFast(true))
			n := m.ticks(t)
			if l.RIP != base0+uint64(len(code))+1 || l.Regs[asm.RAX] != 0 {
				t.Fatalf("RIP 0x%x, RAX 0x%x", l.RIP, l.Regs[asm.RAX])
			}
			return n, callsPerRun
		}
	}},
	{"VTL call and return", 900, 5, func(t testing.TB) (*vm, func() (uint64, uint64)) {
		var code []byte
		for range callsPerRun {
			code = append(code, 0x31, 0xc0, 0xb1, 0x11, 0x0f, 0x01, 0xc1) // xor eax, eax; mov cl, 0x11; vmcall
		}
		m := rig(t, append(code, 0xf4), []byte{
			0xff, 0xc0, 0xb1, 0x12, 0x0f, 0x01, 0xc1, 0xeb, 0xf7, // inc eax; mov cl, 0x12; vmcall; jmp
		})
		l := m.processors[0].current
		return m, func() (uint64, uint64) {
			m.again(l, base0)
			l.Regs[asm.RCX] = 0
			n := m.ticks(t)
			if l.RIP != base0+uint64(len(code))+1 || m.partition.Active(0) != 0 {
				t.Fatalf("RIP 0x%x", l.RIP)
			}
			return n, callsPerRun
		}
	}},
	{"page protected", 100, 0, func(t testing.TB) (*vm, func() (uint64, uint64)) {
		m := rig(t, []byte{0x31, 0xc0, 0xb9, 0x11, 0, 0, 0, 0x0f, 0x01, 0xc1}, []byte{0xf4, 0x0f, 0x01, 0xc1, 0xf4}) // hlt; vmcall; hlt
		p := &m.processors[0]
		config := hypercall.VsmPartitionConfigEnableVtlProtection.WithDefaultVtlProtectionMask(hypercall.MapAccess)
		m.again(p.current, base0)
		require.NoError(t, m.run()) // VTL1 halts
		require.Equal(t, vtl.VTL(1), m.partition.Active(0))
		own := self(0)
		require.Zero(t, uint16(m.partition.SetRegister(0, own, hypercall.RegisterVsmPartitionConfig, vtl.Value{Low: uint64(config)}, &p.effects)))
		l := p.current
		g := &guest{ram: m.memory.ram.Bytes(), input: base1 + atInput}
		const pages = (pageSize - hypercall.ModifyVtlProtectionMaskInputSize) / hypercall.PageNumberSize
		in := hypercall.ModifyVtlProtectionMaskInput{PartitionID: hypercall.PartitionSelf, TargetVTL: hypercall.TargetVTL(0)}
		list := []hypercall.Parameters{&in}
		for i := range uint64(pages) {
			list = append(list, ptr(hypercall.Uint64(0x200+i)))
		}
		at := g.parameters(list...)
		return m, func() (uint64, uint64) {
			in.MapFlags ^= hypercall.MapReadable
			in.Put(g.ram[at:])
			m.again(l, base1+1)
			l.Regs[asm.RCX] = uint64(hypercall.Input(hypercall.CodeModifyVtlProtectionMask).WithReps(pages))
			l.Regs[asm.RDX], l.Regs[asm.R8] = at, 0
			n := m.ticks(t)
			if r := hypercall.Result(l.Regs[asm.RAX]); r != hypercall.MakeResult(hypercall.StatusSuccess, pages) {
				t.Fatalf("result %v", r)
			}
			return n, pages
		}
	}},
}

// TestCost holds hypercalls to their bounds, and to no allocation.
func TestCost(t *testing.T) {
	for _, c := range costs {
		t.Run(c.name, func(t *testing.T) {
			_, run := c.rig(t)
			run() // what is done once is not counted
			run()
			each := ring0test.Least(func() uint64 {
				ticks, n := run()
				return ticks/n - c.loads
			})
			t.Logf("%d ticks", each)
			require.Zero(t, testing.AllocsPerRun(2, func() { run() }))
			if ring0test.Counted() {
				require.LessOrEqual(t, each, c.limit)
				require.Greater(t, each, uint64(10))
			}
		})
	}
}

// BenchmarkHypercall counts the instructions of hypercalls on Bochs.
func BenchmarkHypercall(b *testing.B) {
	for _, c := range costs {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			_, run := c.rig(b)
			run()
			total, calls := uint64(0), uint64(0)
			for b.Loop() {
				ticks, n := run()
				total += ticks - c.loads*n
				calls += n
			}
			b.ReportMetric(float64(total)/float64(calls), "ticks/call")
			b.ReportMetric(0, "ns/op")
		})
	}
}
