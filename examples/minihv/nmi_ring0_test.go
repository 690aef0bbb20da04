package main

import (
	"encoding/binary"
	"testing"

	"github.com/govtx/vtx/asm"
	"github.com/govtx/vtx/internal/require"
	"github.com/govtx/vtx/ring0"
	"github.com/govtx/vtx/vmcs"
	"github.com/govtx/vtx/vmexit"
)

// sendNMI has the local APIC send an NMI to the processor itself, which the host takes, if it
// can.
func (m *vm) sendNMI() {
	a := m.pc.windows.at(m.pc.acpi.localAPIC >> pageShift).(localAPIC)
	const enable, nmi = 0x1ff, 0x4400
	a.registers.store(0xf0, enable)
	a.registers.store(apicCommandHigh, a.registers.load(apicID))
	a.registers.store(apicCommand, nmi)
}

// hook has f called at each exit for a reason, before the handler or behind it.
func (m *vm) hook(reason vmexit.Basic, behind bool, f func(*vmexit.Exit)) {
	m.watch(func(b vmexit.Basic, below vmexit.Handler) vmexit.Handler {
		if b != reason {
			return below
		}
		return func(x *vmexit.Exit) vmexit.Outcome {
			if !behind {
				f(x)
			}
			o := below(x)
			if behind {
				f(x)
			}
			return o
		}
	})
}

// takeNMIs has the host handle NMIs and the timer as it does when Linux runs.
func (m *vm) takeNMIs(t *testing.T) {
	t.Helper()
	m.builder.Handle(vmexit.PreemptionTimer, new(linux).tick)
	require.NoError(t, ring0.SetVector(uint8(vmcs.VectorNMI), nmiVector()))
	nmis, nmiStrikes = 0, true
	t.Cleanup(func() { nmiStrikes = false })
}

// countUp is long enough for what comes late to come still, and not for the timer to strike.
var countUp = []byte{0x31, 0xdb, 0xff, 0xc3, 0x81, 0xfb, 0, 0, 1, 0, 0x72, 0xf6} // xor ebx, ebx; 1: inc ebx; cmp ebx, 0x10000; jb 1b

// An NMI that arrives in the host, wherever that is, is VTL0's before its next instruction, not
// when the timer strikes the next time.
func TestNMIAtOnce(t *testing.T) {
	cpuid := []byte{0x0f, 0xa2}
	strike := func(x *vmexit.Exit) { x.Write(vmcs.PreemptionTimerValue, 0) }
	for _, tt := range []struct {
		name         string
		code0, code1 []byte
		hooks        func(m *vm)
	}{
		{"while an exit is handled", cpuid, nil, func(m *vm) {
			m.hook(vmexit.CPUID, false, func(*vmexit.Exit) { m.sendNMI() })
		}},
		{"behind the check for NMIs", cpuid, nil, func(m *vm) {
			m.hook(vmexit.CPUID, false, strike)
			sent := false
			m.hook(vmexit.PreemptionTimer, true, func(*vmexit.Exit) {
				if !sent {
					sent = true
					m.sendNMI()
				}
			})
		}},
		{"while another VMCS is the current one", cpuid, nil, func(m *vm) {
			m.hook(vmexit.CPUID, false, func(*vmexit.Exit) {
				_ = m.with(&m.processors[0].levels[1], func() error { m.sendNMI(); return nil })
			})
		}},
		{"while no VMCS is the current one", cpuid, nil, func(m *vm) {
			m.hook(vmexit.CPUID, false, func(x *vmexit.Exit) {
				p := processorOf(x)
				if s := asm.VMCLEAR(p.current.region.Phys()); s != asm.Succeed {
					x.Fail(vmcs.StatusError(s))
				}
				m.sendNMI()
				p.current.Guest.Reset()
				if err := p.reload(); err != nil {
					x.Fail(err)
				}
			})
		}},
		{"while an exit of VTL1 is handled", vtlCall, code(cpuid, vtlReturn), func(m *vm) {
			m.hook(vmexit.CPUID, false, func(*vmexit.Exit) { m.sendNMI() })
		}},
		{"while the switch from VTL1 is handled", vtlCall, code(cpuid, vtlReturn), func(m *vm) {
			m.hook(vmexit.VMCALL, true, func(*vmexit.Exit) {
				if m.processors[0].current.number == 0 {
					m.sendNMI()
				}
			})
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := pcRig(t, code(tt.code0, countUp, turnOff), tt.code1)
			m.gate(t, vmcs.VectorNMI, code([]byte{0x5e}, turnOff)) // pop rsi
			m.takeNMIs(t)
			tt.hooks(m)
			require.ErrorIs(t, m.run(), errPowerOff)
			require.Equal(t, uint64(pcCode0+len(tt.code0)), m.processors[0].current.Regs[asm.RSI], "the instruction before which it was taken")
			require.Zero(t, nmis)
		})
	}
}

// An NMI that VTL0 cannot take, since it handles one, is taken behind the IRET that ends that; and
// the next one arrives in VTL0 without the host.
func TestNMIWindow(t *testing.T) {
	first := []byte{0xff, 0x05, 0xfa, 0xdd, 0xff, 0xff, 0x83, 0x3d, 0xf3, 0xdd, 0xff, 0xff, 0x02, 0x73, 0x10} // inc dword [rip+pcData]; cmp dword [rip+pcData], 2; jae +16
	m := pcRig(t, code([]byte{0x0f, 0xa2}, countUp, turnOff), nil)
	// The first time: cpuid; count; iretq. The second: pop rsi; turn off.
	m.gate(t, vmcs.VectorNMI, code(first, []byte{0x0f, 0xa2}, countUp, []byte{0x48, 0xcf}, []byte{0x5e}, turnOff))
	m.takeNMIs(t)
	var pins []uint64
	m.hook(vmexit.CPUID, false, func(x *vmexit.Exit) {
		nmis++ // as nmiEntry does
		x.Write(vmcs.PreemptionTimerValue, 0)
	})
	m.hook(vmexit.PreemptionTimer, true, func(x *vmexit.Exit) { pins = append(pins, x.Read(vmcs.PinBasedControls)) })
	require.ErrorIs(t, m.run(), errPowerOff)
	require.Equal(t, uint64(pcCode0+2), m.processors[0].current.Regs[asm.RSI], "the instruction before which it was taken")
	require.Equal(t, uint32(2), binary.LittleEndian.Uint32(m.memory.ram.Bytes()[pcData:]))
	require.Zero(t, nmis)
	const controls = uint64(vmcs.PinNMIExiting | vmcs.PinVirtualNMIs)
	require.Equal(t, 2, len(pins))
	require.Zero(t, pins[0]&controls)
	require.Equal(t, controls, pins[1]&controls)
	x := &m.processors[0].exit
	require.Zero(t, x.Read(vmcs.PinBasedControls)&controls)
	require.Zero(t, x.Read(vmcs.PrimaryProcessorBasedControls)&uint64(vmcs.PrimaryNMIWindowExiting))
}
