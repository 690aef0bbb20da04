package main

import (
	"testing"

	"github.com/govtx/vtx/asm"
	"github.com/govtx/vtx/internal/require"
	"github.com/govtx/vtx/internal/ring0test"
	"github.com/govtx/vtx/vmexit"
)

// What an instruction costs that is carried out here, from VM exit to VM entry, in TSC ticks: on
// Bochs these are instructions. The guest's own are counted too, three for each.
func TestRegisterCost(t *testing.T) {
	const times = 200
	for _, tt := range []struct {
		name  string
		code  []byte // of one access; RBX is where the local APIC is, RBP the I/O APIC
		limit uint64
	}{
		{"local APIC, read", []byte{0x8b, 0x43, 0x20}, 2800},                                       // mov eax, [rbx+0x20]
		{"local APIC, write", []byte{0x89, 0x83, 0x80, 0, 0, 0}, 2800},                             // mov [rbx+0x80], eax
		{"local APIC, write of an immediate", []byte{0xc7, 0x83, 0xb0, 0, 0, 0, 0, 0, 0, 0}, 2800}, // mov dword [rbx+0xb0], 0
		{"I/O APIC, read", []byte{0x8b, 0x45, 0x10}, 2800},                                         // mov eax, [rbp+0x10]
		{"read and write", []byte{0x83, 0x8b, 0x80, 0, 0, 0, 0}, 3400},                             // or dword [rbx+0x80], 0
	} {
		t.Run(tt.name, func(t *testing.T) {
			back := byte(-(len(tt.code) + 4))
			m := pcRig(t, code(tt.code, []byte{0xff, 0xc9, 0x75, back}, vmcallCode), nil) // dec ecx; jnz
			m.builder.Handle(vmexit.VMCALL, func(*vmexit.Exit) vmexit.Outcome { return vmexit.Stop })
			m.exits = m.builder.Build()
			l := m.processors[0].current
			run := func() {
				l.RIP = pcCode0
				l.Regs[asm.RBX], l.Regs[asm.RBP] = 0xfee00000, 0xfec00000
				l.Regs[asm.RAX], l.Regs[asm.RCX] = 0, times
				if err := m.processors[0].run(); err != nil {
					t.Fatal(err)
				}
			}
			// What is done once is not counted; nor is that Go remembers what an assertion to an
			// interface came to only once in a thousand times.
			for range 40 {
				run()
			}
			each := ring0test.Least(func() uint64 { return ring0test.Ticks(run) / times })
			t.Logf("%d ticks", each)
			require.Zero(t, testing.AllocsPerRun(2, run))
			if ring0test.Counted() {
				require.LessOrEqual(t, each, tt.limit)
				require.Greater(t, each, uint64(100))
			}
		})
	}
}

// What the hypervisor has read for VTL0 it reads no more when VTL1 has hidden it.
func TestHiddenAfterReading(t *testing.T) {
	m := pcRig(t, code(vtlCall, turnOff), stop)
	m.stopped(t)
	p := &m.processors[0]
	read := func(n int) error {
		defer func(l *level) { p.current = l }(p.current)
		p.current = &p.levels[n]
		var b [8]byte
		return physical{p}.ReadPhysical(pcHidden+8, b[:])
	}
	require.NoError(t, read(1))
	require.NoError(t, read(0))
	m.hide(t, pcHidden)
	require.NotEqual(t, error(nil), read(0))
	require.NoError(t, read(1))
}
