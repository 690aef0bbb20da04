package main

import (
	"encoding/binary"
	"testing"

	"github.com/govtx/vtx/asm"
	"github.com/govtx/vtx/hypercall"
	"github.com/govtx/vtx/internal/require"
	"github.com/govtx/vtx/internal/ring0test"
	"github.com/govtx/vtx/vmcs"
	"github.com/govtx/vtx/vmexit"
)

// survives gives VTL0 of a PC handlers that go on 8 bytes behind an instruction that faults.
func (m *vm) survives(t *testing.T) {
	t.Helper()
	m.gate(t, vmcs.VectorUD, []byte{0x48, 0x83, 0x04, 0x24, 8, 0x48, 0xcf})                      // add qword [rsp], 8; iretq
	m.gate(t, vmcs.VectorGP, []byte{0x48, 0x83, 0xc4, 8, 0x48, 0x83, 0x04, 0x24, 8, 0x48, 0xcf}) // add rsp, 8 first
}

// padded is an instruction with NOPs behind it, up to 8 bytes.
func padded(instruction ...byte) []byte {
	for len(instruction) < 8 {
		instruction = append(instruction, 0x90)
	}
	return instruction
}

// imm32 is an instruction with an operand of 32 bits.
func imm32(v uint32, instruction ...byte) []byte {
	return binary.LittleEndian.AppendUint32(instruction, v)
}

// refusedFirst runs the machine until an exit has been handled, and returns what the table has then.
func (m *vm) refusedFirst(t *testing.T) string {
	t.Helper()
	r := new(refusals)
	m.watch(func(b vmexit.Basic, below vmexit.Handler) vmexit.Handler {
		h := r.layer(b, below)
		return func(x *vmexit.Exit) vmexit.Outcome {
			h(x)
			return x.Fail(errStopped)
		}
	})
	require.ErrorIs(t, m.run(), errStopped)
	return r.text()
}

// What a hostile guest has tried is in the table by name and number, and nothing else is.
func TestRefusedByName(t *testing.T) {
	const (
		movEBX, movECX, movEDX, mov8 = 0xbb, 0xb9, 0xba, 0xb8
		nobody                       = 0x7e000000
	)
	rdmsr := func(n uint32) []byte { return code(imm32(n, movECX), padded(0x0f, 0x32)) }
	read := func(at uint32) []byte { return code(imm32(at, movEBX), padded(0x8b, 0x03)) }  // mov eax, [rbx]
	write := func(at uint32) []byte { return code(imm32(at, movEBX), padded(0x89, 0x03)) } // mov [rbx], eax
	call := func(w hypercall.Input) []byte {                                               // xor eax, eax; mov rcx, w; vmcall
		return code([]byte{0x31, 0xc0, 0x48, movECX}, binary.LittleEndian.AppendUint64(nil, uint64(w)), padded(vmcallCode...))
	}
	again := func(n int, c []byte) (all []byte) {
		for range n {
			all = append(all, c...)
		}
		return all
	}
	reps := hypercall.Input(hypercall.CodeGetVpRegisters).WithReps(1)
	m := pcRig(t, code(
		again(20, padded(0xf3, 0x0f, 0xc7, 0x34, 0x24)), // vmxon [rsp]
		again(19, padded(0x0f, 0x01, 0xc4)),             // vmxoff
		again(18, code(imm32(vmcs.MSRFeatureControl, movECX), padded(0x0f, 0x30))),
		again(8, rdmsr(0x480)), again(9, rdmsr(0x481)), // one row
		again(16, code([]byte{0x0f, 0x20, 0xe0, 0x0f, 0xba, 0xe8, 13}, padded(0x0f, 0x22, 0xe0))), // mov rax, cr4; bts eax, 13; mov cr4, rax
		read(nobody), again(14, read(nobody+0x1000)),
		again(14, write(pcPage+8)),
		again(13, []byte{0xe4, 0xc0}), // in al, 0xc0
		again(12, []byte{0xe6, 0xc0}), // out 0xc0, al
		[]byte{0xe4, 0x64, 0xe4, 0x40}, rdmsr(msrPAT),
		imm32(pcData, movEDX), imm32(pcData+0x800, 0x41, mov8), // mov r8d
		again(11, call(reps)), // VTL1's registers
		again(10, call(hypercall.Input(hypercall.CodePostMessage))),
		call(hypercall.Input(hypercall.CodeNotifyLongSpinWait).WithFast(true)),
		again(9, call(hypercall.Input(hypercall.CodeVtlReturn))),
		vtlCall, read(pcHidden), turnOff,
	), code(stop, []byte{0xb8, 1, 0, 0, 0, 0xb9, 0x12, 0, 0, 0, 0x0f, 0x01, 0xc1}, stop, vtlReturn)) // a fast return: eax is 1
	ram := m.memory.ram.Bytes()
	in := hypercall.VpRegistersInput{PartitionID: hypercall.PartitionSelf, VPIndex: hypercall.VPSelf, TargetVTL: hypercall.TargetVTL(1)}
	in.Put(ram[pcData:])
	binary.LittleEndian.PutUint32(ram[pcData+hypercall.VpRegistersInputSize:], uint32(hypercall.RegisterRIP))
	m.survives(t)
	r := new(refusals)
	m.watch(r.layer)
	m.stopped(t)
	m.hide(t, pcHidden)
	m.stopped(t) // VTL0 has read what VTL1 hides
	const table = `  refused  VTL  what
       20    0  VMXON: #UD
       19    0  VMXOFF: #UD
       18    0  WRMSR 0x3a (IA32_FEATURE_CONTROL): #GP
       17    0  RDMSR 0x480 (IA32_VMX_BASIC) to 0x481 (IA32_VMX_PINBASED_CTLS): #GP
       16    0  change of CR4, VMXE: #GP
       15    0  read of guest-physical memory that is nobody's, first 0x7e000000: #GP
       14    0  write of a page of the hypervisor's, first 0x50008: #GP
       13    0  IN from port 0xc0: no device, all ones
       12    0  OUT to port 0xc0: no device, nothing is done
       11    0  HvCallGetVpRegisters: HV_STATUS_ACCESS_DENIED
       10    0  hypercalls that there are not, first HvCallPostMessage: HV_STATUS_INVALID_HYPERCALL_CODE
        9    0  HvCallVtlReturn: #UD
`
	require.Equal(t, table, r.text())
	// VTL1 was told of its page. It refuses no more when its program has ended.
	m.pc.end.ended = true
	require.ErrorIs(t, m.run(), errPowerOff)
	require.Equal(t, table+"        1    0  read of memory that a higher level keeps, first 0x500000: #GP\n", r.text())
}

// Privilege level 3 can make no hypercalls.
func TestRefusedAtLevel3(t *testing.T) {
	for _, tt := range []struct {
		code byte
		want string
	}{
		{0x11, "HvCallVtlCall at privilege level 3: #UD"},
		{0x50, "other hypercalls at privilege level 3, first HvCallGetVpRegisters: #UD"},
	} {
		t.Run(tt.want, func(t *testing.T) {
			// xor edx, edx; mov eax, code; vmcall
			m := pc32Rig(t, 3, 0, 0, 0, []byte{0x31, 0xd2, 0xb8, tt.code, 0, 0, 0, 0x0f, 0x01, 0xc1}, nil)
			require.Equal(t, "  refused  VTL  what\n        1    0  "+tt.want+"\n", m.refusedFirst(t))
		})
	}
}

// In real-address mode VMCALL asks the firmware: what it leaves in AX is no status.
func TestFirmwareIsNotRefused(t *testing.T) {
	m := pcRig(t, nil, nil)
	m.pc.memoryMap(false, true)
	copy(m.memory.ram.Bytes()[hookAt:], vmcallCode)
	context := realContext(realBase >> 4)
	context.RIP = 0
	l := &m.processors[0].levels[0]
	require.NoError(t, m.begin(l, &context))
	l.Regs[asm.RAX] = 0xe801
	require.Equal(t, "", m.refusedFirst(t))
	require.NotEqual(t, uint64(0xe801), l.Regs[asm.RAX])
}

// A guest that tries 100,000 MSRs, and 4,095 hypercalls with a reserved bit, fills the rows of those two kinds, without
// an allocation, and hides nothing else.
func TestRefusedWithoutEnd(t *testing.T) {
	const first, n = 0x2000000, 100_000 // MSRs
	m := pcRig(t, code(
		imm32(first+n, 0xb9), // mov ecx
		padded(0x0f, 0x32),
		[]byte{0xff, 0xc9, 0x81, 0xf9, 0, 0, 0, 2, 0x75, 0xee}, // dec ecx; cmp ecx, first; jne to the rdmsr
		[]byte{0x48, 0xb9}, binary.LittleEndian.AppendUint64(nil, uint64(1<<27|0xfff)), padded(vmcallCode...), // mov rcx: a reserved bit; vmcall
		[]byte{0xff, 0xc9, 0x66, 0x85, 0xc9, 0x75, 0xf1}, // dec ecx; test cx, cx; jne to the vmcall
		padded(0x0f, 0x01, 0xc4),                         // vmxoff
		[]byte{0x0f, 0xa2},                               // cpuid
	), nil)
	m.survives(t)
	r := new(refusals)
	m.watch(func(b vmexit.Basic, below vmexit.Handler) vmexit.Handler {
		if b == vmexit.CPUID {
			return func(x *vmexit.Exit) vmexit.Outcome { return x.Fail(errStopped) }
		}
		return r.layer(b, below)
	})
	l := m.processors[0].current
	allocations := testing.AllocsPerRun(1, func() {
		l.RIP = pcCode0
		if err := m.run(); err != errStopped {
			t.Fatal(err)
		}
	})
	require.Zero(t, allocations)
	const runs = 2 // AllocsPerRun has one more
	for _, k := range []refusalKind{refusedRDMSR, refusedCall} {
		require.Equal(t, refusalRows, r[k].used)
	}
	require.Equal(t, uint64(runs*(n-refusalRows)), r[refusedRDMSR].others[0])
	require.Equal(t, uint64(runs*(0xfff-refusalRows)), r[refusedCall].others[0])
	require.Contains(t, r.text(), "   199872    0  RDMSR of other MSRs\n")
	require.Contains(t, r.text(), "     8062    0  other hypercalls\n")
	require.Contains(t, r.text(), "        2    0  VMXOFF: #UD\n")
}

// What is not refused costs next to nothing, and what is costs no more however the table is filled.
func TestRefusedCost(t *testing.T) {
	m := pcRig(t, turnOff, nil)
	if !ring0test.Counted() {
		t.Skip("needs Bochs, whose time-stamp counter counts instructions")
	}
	x := &m.processors[0].exit
	m.processors[0].current.Regs[asm.RAX] = 0
	r := new(refusals)
	const n = 1000
	done := func(*vmexit.Exit) vmexit.Outcome { return vmexit.Resume }
	each := func(h vmexit.Handler) uint64 {
		return ring0test.Least(func() uint64 {
			return ring0test.Ticks(func() {
				for range n {
					h(x)
				}
			}) / n
		})
	}
	bare := each(done)
	for _, b := range []vmexit.Basic{vmexit.CPUID, vmexit.VMCALL} {
		cost := each(r.layer(b, done)) - bare
		t.Logf("%v: %d ticks", b, cost)
		require.LessOrEqual(t, cost, uint64(40))
	}
	require.Equal(t, "", r.text())
	// All rows in one piece, and another attempt that is looked for from its beginning.
	slot := func(number uint64) uint64 { return number * 0x9e3779b97f4a7c15 >> refusalShift }
	number := uint64(1)
	for range refusalRows {
		for slot(number) != 0 {
			number++
		}
		r.note(attempt{number: number}, 0)
		number++
	}
	for slot(number) != 0 {
		number++
	}
	cost := each(func(*vmexit.Exit) vmexit.Outcome {
		r.note(attempt{number: number}, 0)
		return vmexit.Hold
	})
	t.Logf("a full table: %d ticks", cost)
	require.LessOrEqual(t, cost, uint64(1000))
	require.Equal(t, uint64(5*n), r[0].others[0])
}
