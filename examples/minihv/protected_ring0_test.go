package main

import (
	"encoding/binary"
	"fmt"
	"testing"

	"github.com/govtx/vtx/asm"
	"github.com/govtx/vtx/hypercall"
	"github.com/govtx/vtx/internal/require"
	"github.com/govtx/vtx/vmcs"
	"github.com/govtx/vtx/vmexit"
	"github.com/govtx/vtx/vtl"
)

// pc32Rig is pcRig with VTL0 in 32-bit protected mode, at a privilege level, with flat segments
// and without paging.
func pc32Rig(t *testing.T, cpl uint16, cr0, cr4, rflags uint64, code0, code1 []byte) *vm {
	t.Helper()
	m := pcRig(t, code0, code1)
	const gdt, code32, data, tss = 0x55000, 0x08, 0x10, 0x18
	cs, ds, tr := vmcs.FlatCode32(code32|cpl), vmcs.FlatData(data|cpl), vmcs.TaskState(tss, 0x56000, 0x67)
	ram := m.memory.ram.Bytes()
	for _, s := range []vmcs.Segment{cs, ds, tr} {
		low, _, _ := s.Descriptor()
		binary.LittleEndian.PutUint64(ram[gdt+uint64(s.Selector&^7):], low)
	}
	flat := toCall(ds)
	context := vtl.Context{
		RIP: pcCode0, RSP: pcCode0 + 3*pageSize, RFLAGS: 2 | rflags,
		CS: toCall(cs), DS: flat, ES: flat, FS: flat, GS: flat, SS: flat, TR: toCall(tr), LDTR: toCall(vmcs.UnusableSegment()),
		GDTR: hypercall.TableRegister{Base: gdt, Limit: 0x1f}, IDTR: hypercall.TableRegister{Base: 0x53000, Limit: 0xff},
		CR0: asm.CR0PE | asm.CR0ET | asm.CR0NE | cr0, CR4: cr4, PAT: resetPAT,
	}
	p := &m.processors[0]
	require.NoError(t, m.begin(&p.levels[0], &context))
	return m
}

// With PAE paging, MOV to CR3, and to CR0 and CR4 when certain bits change, load four entries from
// memory (SDM Vol. 3A 4.4.1): the first by the processor, the others by the hypervisor. From
// what VTL1 hides they load nothing, and VTL1 is told.
func TestHiddenPDPTEs(t *testing.T) {
	call := []byte{0x31, 0xc9, 0x31, 0xd2, 0xb8, 0x11, 0, 0, 0, 0x0f, 0x01, 0xc1} // xor ecx, ecx; xor edx, edx; mov eax, 0x11; vmcall
	load := func(cr byte, v uint32) []byte {                                      // mov eax, v; mov cr, eax
		return append(binary.LittleEndian.AppendUint32([]byte{0xb8}, v), 0x0f, 0x22, 0xc0|cr<<3)
	}
	toggle := func(cr byte, bits uint32) []byte { // mov eax, cr; xor eax, bits; mov cr, eax
		b := binary.LittleEndian.AppendUint32([]byte{0x0f, 0x20, 0xc0 | cr<<3, 0x35}, bits)
		return append(b, 0x0f, 0x22, 0xc0|cr<<3)
	}
	const pg, cd, pge = 1 << 31, 1 << 30, asm.CR4PGE
	for _, tt := range []struct {
		name          string
		setUp, attack []byte
	}{
		{"MOV to CR3", code(load(3, pcData), toggle(0, pg)), load(3, pcHidden)},
		{"MOV to CR0, paging on", load(3, pcHidden), toggle(0, pg)},
		{"MOV to CR0, caching off", code(load(3, pcHidden), toggle(0, pg)), toggle(0, cd)},
		{"MOV to CR4", code(load(3, pcHidden), toggle(0, pg)), toggle(4, pge)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := pc32Rig(t, 0, 0, asm.CR4PAE, 0, code(tt.setUp, call, tt.attack, turnOff), code(stop, vtlReturn, stop))
			ram := m.memory.ram.Bytes()
			const directory = pcData + pageSize*5
			for _, pdpt := range []uint64{pcData, pcHidden} {
				binary.LittleEndian.PutUint64(ram[pdpt:], directory|1)
			}
			for i := range uint64(4) {
				binary.LittleEndian.PutUint64(ram[directory+8*i:], i<<21|0x83)
			}
			m.stopped(t)
			m.hide(t, pcHidden)
			before := m.processors[0].levels[0].RIP
			m.stopped(t)
			kind, gpa := m.message()
			require.Equal(t, hypercall.MessageGpaIntercept, kind)
			require.Equal(t, uint64(pcHidden), gpa&^(pageSize-1))
			// The instruction has not been carried out.
			require.Equal(t, before+uint64(len(tt.attack)-3), m.processors[0].levels[0].RIP)
		})
	}
}

// The delivery of #AC to code of privilege level 3 pushes to a stack that is not aligned, and so
// raises #AC: without end, and without an interrupt between. The hypervisor stays in control.
func TestEndlessAC(t *testing.T) {
	m := pc32Rig(t, 3, asm.CR0AM, 0, asm.FlagAC, []byte{0xbc, 0x01, 0x80, 0x03, 0, 0x8b, 0x04, 0x24}, nil) // mov esp, 0x38001; mov eax, [esp]
	const gate, handler = 0xee00, 0x54000
	binary.LittleEndian.PutUint64(m.memory.ram.Bytes()[0x53000+8*uint64(vmcs.VectorAC):], handler>>16<<48|gate<<32|0x0b<<16|handler&0xffff)
	l := linux{limit: asm.RDTSC() + 5_000_000}
	exits := 0
	m.builder.Handle(vmexit.PreemptionTimer, l.tick).Over(vmexit.ExceptionOrNMI, l.watchExceptions)
	m.hook(vmexit.ExceptionOrNMI, false, func(x *vmexit.Exit) {
		info, _ := x.Event()
		require.Equal(t, vmcs.VectorAC, info.Vector())
		exits++
	})
	err := m.run()
	require.ErrorContains(t, err, fmt.Sprintf("the guest has taken more than %d instructions", l.limit))
	require.Greater(t, exits, 100) // a few hundred without optimization
	require.Equal(t, uint64(pcCode0+5), m.processors[0].current.RIP)
}
