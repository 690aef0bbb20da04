package main

import (
	"encoding/binary"
	"fmt"
	"testing"

	"github.com/govtx/vtx/asm"
	"github.com/govtx/vtx/hypercall"
	"github.com/govtx/vtx/internal/require"
	"github.com/govtx/vtx/vmcs"
	"github.com/govtx/vtx/vtl"
)

// Guests that go for the hypervisor itself: what they do never ends the run, and never comes
// through to another level.

var (
	vmcallCode = []byte{0x0f, 0x01, 0xc1}
	vtlCall    = []byte{0x31, 0xc0, 0x31, 0xd2, 0xb9, 0x11, 0, 0, 0, 0x0f, 0x01, 0xc1} // xor eax, eax; xor edx, edx; mov ecx, 0x11; vmcall
	vtlReturn  = []byte{0x31, 0xc0, 0xb9, 0x12, 0, 0, 0, 0x0f, 0x01, 0xc1}             // xor eax, eax; mov ecx, 0x12; vmcall
	swapGS     = []byte{0x0f, 0x01, 0xf8}
)

func code(parts ...[]byte) (all []byte) {
	for _, p := range parts {
		all = append(all, p...)
	}
	return all
}

// setting has the level that runs about to set one of its own registers when it makes its
// next hypercall.
func (m *vm) setting(name hypercall.Register, v uint64) {
	l := m.processors[0].current
	g := &guest{ram: m.memory.ram.Bytes(), input: base0 + atInput}
	l.Regs[asm.RDX] = g.parameters(self(0), &hypercall.RegisterAssoc{Name: name, Value: vtl.Value{Low: v}})
	l.Regs[asm.RCX] = uint64(hypercall.Input(hypercall.CodeSetVpRegisters).WithReps(1))
}

func status(l *level) hypercall.Status { return hypercall.Result(l.Regs[asm.RAX]).Status() }

// atTop puts code of VTL0 at the top of the first 4 GiB, and returns where it begins.
func (m *vm) atTop(t *testing.T, code ...byte) (rip uint64) {
	t.Helper()
	ram := m.memory.ram.Bytes()
	put := func(at, v uint64) { binary.LittleEndian.PutUint64(ram[at:], v) }
	put(base0+atTables+0x1000+3*8, (base0+atTables+0x2000)|7)
	put(base0+atTables+0x2000+511*8, 0x87) // 2 MiB at 0
	copy(ram[0x200000-len(code):], code)
	return 1<<32 - uint64(len(code))
}

func code32() vtl.Value {
	cs := toCall(vmcs.FlatCode64(8))
	cs.Attributes = cs.Attributes&^(1<<13) | 1<<14 // D instead of L
	return cs.Value()
}

// EIP wraps behind a VTL call that ends at 4 GiB; RIP of 64-bit code does not.
func TestCallAt4GiB(t *testing.T) {
	for name, want := range map[string]uint64{"compatibility mode": 1, "64-bit mode": 1<<32 + 1} {
		t.Run(name, func(t *testing.T) {
			m := rig(t, nil, code(vtlReturn, halt))
			ram := m.memory.ram.Bytes()
			rip := m.atTop(t, vmcallCode...)
			ram[0] = halt[0]
			// RIP 4 GiB is mapped, too.
			binary.LittleEndian.PutUint64(ram[base0+atTables+0x1000+4*8:], (base0+atTables+0x2000)|7)
			if want == 1 {
				require.Equal(t, hypercall.StatusSuccess, m.SetRegister(0, 0, hypercall.RegisterCS, code32()))
			}
			l := m.processors[0].current
			l.RIP = rip
			l.Regs[asm.RAX], l.Regs[asm.RDX], l.Regs[asm.RCX] = 0x11, 0, 0
			if want != 1 {
				l.Regs[asm.RAX], l.Regs[asm.RCX] = 0, 0x11
			}
			require.NoError(t, m.run())
			require.True(t, m.processors[0].halted)
			require.Equal(t, vtl.VTL(0), m.partition.Active(0))
			require.Equal(t, want, l.RIP)
		})
	}
}

// An assist page that no guest-physical address reaches is refused, and the old one stays, by
// call and by MSR.
func TestAssistPageOutOfReach(t *testing.T) {
	const good = base0 + atAssist | 1
	for _, v := range []uint64{1<<51 | 1, 1 << 51, 1 << 52, 1<<63 | 1} {
		t.Run(fmt.Sprintf("%#x", v), func(t *testing.T) {
			m := rig(t, []byte{0x0f, 0x01, 0xc1, 0xf4, // vmcall; hlt
				0x0f, 0x30, 0xf4, // wrmsr; hlt
			}, nil)
			l := m.processors[0].current
			// #GP ends at its stub, which jumps to what is not the test's: it halts instead.
			copy(m.memory.ram.Bytes()[base0+atStubs+16*uint64(vmcs.VectorGP):], halt)
			wrmsr := func(v uint64) {
				m.again(l, base0+4)
				l.Regs[asm.RCX], l.Regs[asm.RAX], l.Regs[asm.RDX] = uint64(hypercall.MSRVPAssistPage), v&0xffffffff, v>>32
				require.NoError(t, m.run())
			}
			check := func() {
				require.True(t, l.assist.on)
				require.Equal(t, uint64(good>>pageShift), l.assist.page)
				require.Equal(t, uint64(good), m.partition.AssistPage(0, 0))
			}
			wrmsr(good)
			require.Equal(t, uint64(base0+7), l.RIP)
			check()

			wrmsr(v)
			require.Equal(t, base0+atStubs+16*uint64(vmcs.VectorGP)+1, l.RIP, "%#x", v)
			check()

			m.again(l, base0)
			m.setting(hypercall.RegisterVpAssistPage, v)
			require.NoError(t, m.run())
			require.True(t, m.processors[0].halted)
			require.NotEqual(t, hypercall.StatusSuccess, status(l), "%#x", v)
			check()
		})
	}
}

// Should the partition ever ask for such a page, the run goes on without one.
func TestAssistEffectOutOfReach(t *testing.T) {
	m := rig(t, halt, nil)
	p := &m.processors[0]
	require.NoError(t, m.run())
	require.NoError(t, p.effect(&p.exit, &vtl.Effect{Kind: vtl.EffectAssist, Value: base0 + atAssist | 1}))
	require.True(t, p.levels[0].assist.on)
	require.NoError(t, p.effect(&p.exit, &vtl.Effect{Kind: vtl.EffectAssist, Value: 1<<51 | 1}))
	require.False(t, p.levels[0].assist.on)
}

// Each level has its own IA32_KERNEL_GS_BASE, which SWAPGS reads and writes without a VM exit.
func TestKernelGSBaseIsPrivate(t *testing.T) {
	const secret, own, host = 0xabc123, 0x111222, 0x777
	m := rig(t, code(swapGS, vtlCall, halt, swapGS, halt), code(swapGS, vtlReturn, halt))
	before := asm.RDMSR(msrKernelGSBase)
	defer asm.WRMSR(msrKernelGSBase, before)
	asm.WRMSR(msrKernelGSBase, host)
	for level, base := range []uint64{own, secret} {
		gs := toCall(vmcs.FlatData(0x10))
		gs.Base = base
		require.Equal(t, hypercall.StatusSuccess, m.SetRegister(0, vtl.VTL(level), hypercall.RegisterGS, gs.Value()))
	}
	base := func(level vtl.VTL) uint64 {
		v, _ := m.Register(0, level, hypercall.RegisterGS)
		return v.Segment().Base
	}
	p := &m.processors[0]
	for i := range p.levels { // the host's value is taken when a level begins
		require.NoError(t, p.levels[i].msrs.host.Set(msrKernelGSBase, host))
	}
	kernelBase := func(level int) uint64 {
		v, _ := p.levels[level].msrs.guest.Get(msrKernelGSBase)
		return v
	}
	require.NoError(t, m.run())
	require.Equal(t, uint64(0), base(0), "what came by SWAPGS is neither VTL1's nor the host's")
	require.Equal(t, uint64(0), base(1))
	require.Equal(t, uint64(own), kernelBase(0))
	require.Equal(t, uint64(secret), kernelBase(1))
	require.Equal(t, uint64(host), asm.RDMSR(msrKernelGSBase))
	m.again(p.current, p.current.RIP)
	require.NoError(t, m.run())
	require.Equal(t, uint64(own), base(0))
	require.Equal(t, uint64(host), asm.RDMSR(msrKernelGSBase))
}

// Each level has its own CR8, and none the host's.
func TestCR8IsPrivate(t *testing.T) {
	setCR8 := func(v byte) []byte { return []byte{0xb8, v, 0, 0, 0, 0x44, 0x0f, 0x22, 0xc0} } // mov eax, v; mov cr8, rax
	getCR8 := func(modRM byte) []byte { return []byte{0x44, 0x0f, 0x20, modRM} }
	m := rig(t, code(setCR8(15), vtlCall, getCR8(0xc6), halt), // mov rsi, cr8
		code(getCR8(0xc3), setCR8(3), getCR8(0xc7), vtlReturn, halt)) // mov rbx, cr8; mov rdi, cr8
	host := asm.ReadCR8()
	require.NoError(t, m.run())
	l := m.processors[0].current
	require.Equal(t, vtl.VTL(0), l.number)
	require.Equal(t, uint64(0), l.Regs[asm.RBX], "VTL1's before")
	require.Equal(t, uint64(3), l.Regs[asm.RDI], "VTL1's after")
	require.Equal(t, uint64(15), l.Regs[asm.RSI], "VTL0's after")
	require.Equal(t, host, asm.ReadCR8())
}

// secondVTL1 has VTL1 running on the first processor, and VTL1 enabled on the second one.
func secondVTL1(t *testing.T, code1 []byte) (m *vm, context0, context1 vtl.Context) {
	t.Helper()
	m = rig(t, code(vtlCall, halt), code(halt, code1))
	p := &m.processors[0]
	require.NoError(t, m.run())
	require.Equal(t, vtl.VTL(1), m.partition.Active(0))
	scratch := make([]byte, ramSize)
	_, context0 = newGuest(scratch, base0)
	_, context1 = newGuest(scratch, base1)
	context1.RIP = base1 + uint64(len(halt))
	p.effects.Reset()
	in := hypercall.EnableVpVtlInput{PartitionID: hypercall.PartitionSelf, VPIndex: 1, TargetVTL: 1, Context: context1}
	require.Equal(t, hypercall.StatusSuccess, m.partition.EnableVPVTL(0, &in, &p.effects))
	p.carryOut(&p.exit)
	return m, context0, context1
}

// start has the first processor start the second one.
func (m *vm) start(t *testing.T, level hypercall.VTL, c vtl.Context) {
	t.Helper()
	p := &m.processors[0]
	p.effects.Reset()
	in := hypercall.StartVirtualProcessorInput{PartitionID: hypercall.PartitionSelf, VPIndex: 1, TargetVTL: level, Context: c}
	o, s := m.partition.StartVP(0, &in, &p.effects)
	require.Equal(t, vtl.Done, o)
	require.Equal(t, hypercall.StatusSuccess, s)
	p.carryOut(&p.exit)
}

// A processor that was started in VTL1 has no context for VTL0: when it returns there, it waits.
func TestReturnToNothing(t *testing.T) {
	m, _, context1 := secondVTL1(t, code(vtlReturn, halt))
	m.start(t, 1, context1)
	q := &m.processors[1]
	require.True(t, &q.levels[1] == q.current)
	require.NoError(t, m.run())
	require.Equal(t, vtl.VTL(0), m.partition.Active(1))
	require.True(t, &q.levels[0] == q.current)
	require.False(t, q.halted)
	require.Nil(t, m.runnable())
	require.NoError(t, m.run())
	require.NotEqual(t, hypercall.StatusSuccess, m.SetRegister(1, 0, hypercall.RegisterRIP, vtl.Value{Low: base0}))
	require.NoError(t, m.run())
}

// What VTL1 guards of a processor that waits it still guards when that is started.
func TestGuardOutlivesStart(t *testing.T) {
	m, context0, _ := secondVTL1(t, halt)
	p, q := &m.processors[0], &m.processors[1]
	exits := func() (on bool) {
		require.NoError(t, m.with(&q.levels[0], func() error {
			v, err := vmcs.Current{}.Read(vmcs.SecondaryProcessorBasedControls)
			on = v&uint64(vmcs.SecondaryDescriptorTableExiting) != 0
			return err
		}))
		return on
	}
	in := *self(0)
	in.VPIndex = 1
	p.effects.Reset()
	require.Equal(t, hypercall.StatusSuccess, m.partition.SetRegister(0, &in, hypercall.RegisterCRInterceptControl,
		vtl.Value{Low: uint64(hypercall.CrInterceptIdtrWrite)}, &p.effects))
	p.carryOut(&p.exit)
	require.True(t, exits())
	m.start(t, 0, context0)
	require.True(t, exits())
	require.NoError(t, m.run())
}

// A register is checked against the RIP that the level has now, not where it was last entered.
func TestRegisterIsCheckedWithRIP(t *testing.T) {
	m := rig(t, nil, code(halt, vtlReturn, halt))
	rip := m.atTop(t, vmcallCode...)
	l := m.processors[0].current
	l.RIP, l.Regs[asm.RCX] = rip, 0x11
	require.NoError(t, m.run()) // VTL1 halts
	require.Equal(t, vtl.VTL(1), m.partition.Active(0))
	require.Equal(t, uint64(1)<<32, l.RIP)
	require.Equal(t, hypercall.StatusInvalidRegisterValue, m.SetRegister(0, 0, hypercall.RegisterCS, code32()), "RIP is too large for it")
	// An injection is checked likewise, whatever the VMCS has there.
	require.NoError(t, m.with(l, func() error { return vmcs.Current{}.Write(vmcs.GuestRIP, 1<<63) }))
	require.NoError(t, m.inject(l, &vtl.Effect{Kind: vtl.EffectInject, Vector: uint8(vmcs.VectorUD)}))
	m.processors[0].halted = false
	copy(m.memory.ram.Bytes()[base0+atStubs+16*uint64(vmcs.VectorUD):], halt)
	require.NoError(t, m.run())
	require.True(t, m.processors[0].halted)
	require.Equal(t, base0+atStubs+16*uint64(vmcs.VectorUD)+1, l.RIP)
}

// On a processor that cannot tell of accesses to descriptor tables, a level that wants to
// guard them is refused. What else it guards it does.
func TestGuardNeedsControl(t *testing.T) {
	for _, can := range []bool{true, false} {
		t.Run(fmt.Sprintf("%v", can), func(t *testing.T) {
			m := rig(t, code(vmcallCode, vtlCall, vmcallCode, halt), code(vmcallCode, halt))
			caps := *m.caps
			if !can {
				caps.Controls[vmcs.SecondaryDescriptorTableExiting.ControlGroup()].May1 &^= uint64(vmcs.SecondaryDescriptorTableExiting)
			}
			m.caps = &caps
			p := &m.processors[0]
			l := p.current
			m.again(l, base0+3)
			require.NoError(t, m.enterVTL1(t))
			l = p.current
			g := &guest{ram: m.memory.ram.Bytes(), input: base1 + atInput}
			for _, tt := range []struct {
				control hypercall.CrInterceptControl
				refused bool
			}{
				{hypercall.CrInterceptCr4Write, false},
				{hypercall.CrInterceptIdtrWrite, !can},
				{hypercall.CrInterceptTrWrite | hypercall.CrInterceptCr4Write, !can},
			} {
				before, _, _, _ := m.partition.Guard(0, 1)
				m.again(l, base1)
				l.Regs[asm.RCX] = uint64(hypercall.Input(hypercall.CodeSetVpRegisters).WithReps(2))
				l.Regs[asm.RDX] = g.parameters(self(0), &hypercall.RegisterAssoc{Name: hypercall.RegisterCRInterceptCR4Mask, Value: vtl.Value{Low: asm.CR4TSD}},
					&hypercall.RegisterAssoc{Name: hypercall.RegisterCRInterceptControl, Value: vtl.Value{Low: uint64(tt.control)}})
				require.NoError(t, m.run())
				want, after := hypercall.MakeResult(hypercall.StatusSuccess, 2), tt.control
				if tt.refused {
					want, after = hypercall.MakeResult(hypercall.StatusInvalidRegisterValue, 1), before
				}
				require.Equal(t, want, hypercall.Result(l.Regs[asm.RAX]))
				now, _, _, _ := m.partition.Guard(0, 1)
				require.Equal(t, after, now)
			}
		})
	}
}

// enterVTL1 has the first processor call VTL1, where it halts at once.
func (m *vm) enterVTL1(t *testing.T) error {
	t.Helper()
	p := &m.processors[0]
	p.effects.Reset()
	require.Equal(t, vtl.Switched, m.partition.Call(0, vtl.Trap{Word: hypercall.Input(hypercall.CodeVtlCall)}, &p.effects))
	require.NoError(t, load(p.current))
	p.active = p
	p.carryOut(&p.exit)
	return p.exit.Err()
}

// PAE paging has entries in the VMCS, which only a guest that turns it on by itself has loaded.
func TestPAEIsRefused(t *testing.T) {
	m := rig(t, vmcallCode, nil)
	l := m.processors[0].current
	g, c := newGuest(make([]byte, ramSize), base1)
	g.ram = m.memory.ram.Bytes()
	c.EFER, c.CR3 = 0, base1
	c.CS = code32().Segment()
	for name, code := range map[string]hypercall.Code{"enable": hypercall.CodeEnableVpVtl, "start": hypercall.CodeStartVirtualProcessor} {
		for pae, want := range map[uint64]bool{asm.CR4PAE: true, 0: false} {
			c.CR4 = pae
			l.Regs[asm.RCX] = uint64(hypercall.Input(code))
			l.Regs[asm.RDX] = g.parameters(&hypercall.EnableVpVtlInput{PartitionID: hypercall.PartitionSelf, VPIndex: hypercall.VPSelf, TargetVTL: 1, Context: c})
			m.memory.ram.Bytes()[base0+3] = halt[0]
			m.again(l, base0)
			require.NoError(t, m.run())
			require.Equal(t, want, status(l) == hypercall.StatusInvalidRegisterValue, "%s, CR4 %#x: %v", name, pae, status(l))
		}
	}
	// A level without PAE does not get it by a register.
	c.CR4 = 0
	require.NoError(t, m.begin(&m.processors[1].levels[0], &c))
	require.Equal(t, hypercall.StatusInvalidRegisterValue, m.SetRegister(1, 0, hypercall.RegisterCR4, vtl.Value{Low: asm.CR4PAE}))
	require.Equal(t, hypercall.StatusSuccess, m.SetRegister(1, 0, hypercall.RegisterCR4, vtl.Value{Low: asm.CR4PSE}))
}

// There are no interrupts: calls that would send one do not say that they have.
func TestNoInterruptCalls(t *testing.T) {
	m := rig(t, code(vmcallCode, halt), nil)
	l := m.processors[0].current
	for _, c := range []hypercall.Code{hypercall.CodeSendSyntheticClusterIpi, hypercall.CodeSendSyntheticClusterIpiEx, hypercall.CodeAssertVirtualInterrupt} {
		m.again(l, base0)
		l.Regs[asm.RCX], l.Regs[asm.RDX] = uint64(hypercall.Input(c)), base0+atInput
		require.NoError(t, m.run())
		require.Equal(t, hypercall.StatusInvalidHypercallCode, status(l), "%v", c)
	}
}
