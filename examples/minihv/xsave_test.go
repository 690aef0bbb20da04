package main

import (
	"bytes"
	"testing"

	"github.com/govtx/vtx/asm"
	"github.com/govtx/vtx/internal/require"
	"github.com/govtx/vtx/ring0"
	"github.com/govtx/vtx/vmcs"
	"github.com/govtx/vtx/vmexit"
)

// The guest is told of XSAVEC if XRSTOR takes what it saves, and only then. Bochs' does not; on a
// processor that Linux runs on it does.
func TestXSAVEC(t *testing.T) {
	native := vmcs.Processor{}
	area := compacted(native)
	if area == nil {
		t.Skip("needs XSAVEC and AVX state")
	}
	upper := make([]byte, 16)
	for i := range upper {
		upper[i] = compactedByte(16 + i)
	}
	t.Logf("upper half of YMM8 at %d; header % x", bytes.Index(area, upper), area[compactHeader:compactBegin])
	right := true // XRSTOR of asm takes no compacted format in a process
	if ring0.Active() {
		err := asm.Try(func() { asm.XRSTOR(area, 1<<2) })
		t.Log("XRSTOR:", err)
		right = err == nil
	}
	require.Equal(t, right, compacts(area))
	const xsavecBit = 1 << 1
	p := &pc{xcr0: asm.XGETBV(0), compacts: compacts(area)}
	require.Equal(t, right, p.cpuid(native).Lookup(0xd, 1).EAX&xsavecBit != 0)
}

// A guest that is told by IA32_MISC_ENABLE that strings are not fast is not told otherwise by
// CPUID.
func TestFastStrings(t *testing.T) {
	all := ^uint32(0)
	native := new(vmexit.CPUIDPolicy).Set(0, 0, vmexit.CPUIDRegisters{EAX: 0xd}).
		Set(7, 0, vmexit.CPUIDRegisters{EAX: 1, EBX: all, ECX: all, EDX: all}).
		Set(7, 1, vmexit.CPUIDRegisters{EAX: all, EBX: all, ECX: all, EDX: all})
	const erms, fsrm, short = 1 << 9, 1 << 4, 7 << 10
	for enable, want := range map[uint64]uint32{0: 0, 1: all} {
		policy := (&pc{xcr0: 0xe7, miscEnable: enable}).cpuid(native)
		r, more := policy.Lookup(7, 0), policy.Lookup(7, 1)
		require.Equal(t, uint32(erms)&want, r.EBX&erms)
		require.Equal(t, uint32(fsrm)&want, r.EDX&fsrm)
		require.Equal(t, uint32(short)&want, more.EAX&short)
	}
}
