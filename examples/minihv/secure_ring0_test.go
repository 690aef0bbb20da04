package main

import (
	"encoding/binary"
	"testing"

	"github.com/govtx/vtx/asm"
	"github.com/govtx/vtx/hypercall"
	"github.com/govtx/vtx/internal/bootproto"
	"github.com/govtx/vtx/internal/bootproto/frames"
	"github.com/govtx/vtx/internal/require"
	"github.com/govtx/vtx/vmcs"
	"github.com/govtx/vtx/vtl"
)

// gate gives VTL0 of a PC a handler of an exception.
func (m *vm) gate(t *testing.T, v vmcs.Vector, handler []byte) {
	t.Helper()
	const idt, handlers, code64, gate = 0x53000, 0x54000, 0x10, 0x8e00
	at := handlers + 0x100*uint64(v)
	ram := m.memory.ram.Bytes()
	copy(ram[at:], handler)
	binary.LittleEndian.PutUint64(ram[idt+16*uint64(v):], at>>16<<48|gate<<32|code64<<16|at&0xffff)
	require.NoError(t, m.with(&m.processors[0].levels[0], func() error {
		w := vmcs.Current{}
		require.NoError(t, w.Write(vmcs.GuestIDTRBase, idt))
		return w.Write(vmcs.GuestIDTRLimit, 16*32-1)
	}))
}

// When VTL1's program ends, VTL0 goes on behind its call, or with what it tried when VTL1 was
// to be told of that; with its own registers. What VTL1 has hidden and what it guards stays so, and
// there is none to be called.
func TestSecureEnd(t *testing.T) {
	const status = 7
	secret := []byte{0x8b, 0x04, 0x25, 0, 0, 0x50, 0, 0x90} // mov eax, [0x500000]; nop
	port := []byte{0xe4, 0x40, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90}
	cr4 := []byte{0x0f, 0x20, 0xe0, 0x83, 0xc8, 0x04} // mov eax, cr4; or eax, TSD
	setCR4 := []byte{0x0f, 0x22, 0xe0, 0x90, 0x90, 0x90, 0x90, 0x90}
	attacks := code(secret, port, cr4, setCR4, secret)
	const refusals = 4
	// mov ebx, 0xdead; mov r15, rbx; xorps xmm1, xmm1; mov edx, 0x8900; out dx, al
	end := []byte{0xbb, 0xad, 0xde, 0, 0, 0x49, 0x89, 0xdf, 0x0f, 0x57, 0xc9, 0xba, 0, 0x89, 0, 0, 0xee}
	for _, tt := range []struct {
		name         string
		code0, code1 []byte
	}{
		{"in a call", code(vtlCall, vtlCall), code(stop, vtlReturn, end)},
		{"when it is told", code(vtlCall, secret), code(stop, vtlReturn, end)},
		{"in the first call", vtlCall, code(stop, end)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			begin := []byte{0xbb, 0x34, 0x12, 0, 0, 0x66, 0x48, 0x0f, 0x6e, 0xcb} // mov ebx, 0x1234; movq xmm1, rbx
			last := []byte{0x66, 0x49, 0x0f, 0x7e, 0xce}                          // movq r14, xmm1
			m := pcRig(t, code(begin, tt.code0, vmcallCode, attacks, vtlCall, last, turnOff), tt.code1)
			p := &m.processors[0]
			// inc r12d; add rsp, 8; add qword [rsp], 8; iretq
			m.gate(t, vmcs.VectorGP, []byte{0x41, 0xff, 0xc4, 0x48, 0x83, 0xc4, 8, 0x48, 0x83, 0x04, 0x24, 8, 0x48, 0xcf})
			// inc r13d; add qword [rsp], 3; iretq
			m.gate(t, vmcs.VectorUD, []byte{0x41, 0xff, 0xc5, 0x48, 0x83, 0x04, 0x24, 3, 0x48, 0xcf})
			w := vmcs.Current{}
			require.NoError(t, m.with(p.current, func() error { // SSE, and VTL0 may write CR4
				v, _ := w.Read(vmcs.GuestCR4)
				return w.Write(vmcs.GuestCR4, v|asm.CR4OSFXSR)
			}))
			require.NoError(t, m.with(&p.levels[1], func() error {
				v, _ := w.Read(vmcs.GuestCR4)
				return w.Write(vmcs.GuestCR4, v|asm.CR4OSFXSR)
			}))
			console := &secureConsole{end: &m.pc.end}
			_, _ = console.Write(frames.Append(nil, bootproto.FrameExit, []byte{status, 0, 0, 0}))
			m.pc.secure.Set(bootproto.PortShutdown, bootproto.PortShutdown, console)
			m.pc.secureIO = m.pc.secure.Handler()
			m.stopped(t)
			m.hide(t, pcHidden)
			m.guardTimer(t)
			p.effects.Reset()
			for name, v := range map[hypercall.Register]uint64{
				hypercall.RegisterCRInterceptControl: uint64(hypercall.CrInterceptCr4Write), hypercall.RegisterCRInterceptCR4Mask: asm.CR4TSD,
			} {
				require.Equal(t, hypercall.StatusSuccess, m.partition.SetRegister(0, self(0), name, vtl.Value{Low: v}, &p.effects))
			}
			p.carryOut(&p.exit)

			require.ErrorIs(t, m.run(), errPowerOff)
			require.Equal(t, secureEnd{true, status, m.pc.end.refused}, m.pc.end)
			l := &p.levels[0]
			require.True(t, l == p.current)
			require.Equal(t, vtl.VTL(0), m.partition.Active(0))
			more := 0
			if tt.name == "when it is told" {
				more = 1 // that attempt is made again
			}
			require.Equal(t, refusals+more, m.pc.end.refused)
			require.Equal(t, uint64(refusals+more), l.Regs[asm.R12], "#GP")
			require.Equal(t, uint64(2), l.Regs[asm.R13], "#UD")
			require.Equal(t, uint64(0x1234), l.Regs[asm.RBX])
			require.Equal(t, uint64(0x1234), l.Regs[asm.R14])
			require.Zero(t, l.Regs[asm.R15])
			require.Zero(t, m.memory.ram.Bytes()[pcHidden])
		})
	}
}

// Without a status it is the end of the run.
func TestSecureCut(t *testing.T) {
	m := pcRig(t, code(vtlCall, turnOff), []byte{0xba, 0, 0x89, 0, 0, 0xee})
	m.pc.secure.Set(bootproto.PortShutdown, bootproto.PortShutdown, &secureConsole{end: &m.pc.end})
	m.pc.secureIO = m.pc.secure.Handler()
	require.ErrorIs(t, m.run(), errSecureCut)
}
