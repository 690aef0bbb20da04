package main

import (
	"testing"

	"github.com/govtx/vtx/asm"
	"github.com/govtx/vtx/hypercall"
	"github.com/govtx/vtx/internal/require"
	"github.com/govtx/vtx/vmcs"
	"github.com/govtx/vtx/vtl"
)

var halt = []byte{0xf4}

// A processor that another one starts runs when that one has halted.
func TestSecondProcessor(t *testing.T) {
	m := rig(t, halt, nil)
	p, q := &m.processors[0], &m.processors[1]
	_, context := newGuest(m.memory.ram.Bytes(), base1)
	copy(m.memory.ram.Bytes()[base1:], halt)
	require.NoError(t, m.run())
	require.True(t, p.halted)

	p.effects.Reset()
	o, s := m.partition.StartVP(0, &hypercall.StartVirtualProcessorInput{PartitionID: hypercall.PartitionSelf, VPIndex: 1, Context: context}, &p.effects)
	require.Equal(t, vtl.Done, o)
	require.Equal(t, hypercall.StatusSuccess, s)
	p.carryOut(&p.exit)
	require.NoError(t, m.run())
	require.True(t, q.halted)
	require.Equal(t, uint64(base1+1), q.current.RIP)
}

// Registers of a level that does not run are those in its VMCS; what VM entry would refuse, or
// would give a guest what is the host's, is refused. The VMCS of the one that runs stays.
func TestRegisters(t *testing.T) {
	m := rig(t, halt, nil)
	require.NoError(t, m.run())
	eptp := func() uint64 { v, _ := (vmcs.Current{}).Read(vmcs.EPTPointer); return v }
	before := eptp()
	for _, tt := range []struct {
		name  hypercall.Register
		value vtl.Value
		s     hypercall.Status
	}{
		{hypercall.RegisterRIP, vtl.Value{Low: 0x1234}, hypercall.StatusSuccess},
		{hypercall.RegisterRIP, vtl.Value{Low: 1 << 63}, hypercall.StatusInvalidRegisterValue},
		{hypercall.RegisterRSP, vtl.Value{Low: 0x2000}, hypercall.StatusSuccess},
		{hypercall.RegisterRBX, vtl.Value{Low: 7}, hypercall.StatusSuccess},
		{hypercall.RegisterRFLAGS, vtl.Value{Low: 0x202}, hypercall.StatusSuccess},
		{hypercall.RegisterRFLAGS, vtl.Value{Low: 0}, hypercall.StatusInvalidRegisterValue},
		{hypercall.RegisterCR0, vtl.Value{Low: 0x80010031}, hypercall.StatusSuccess},
		{hypercall.RegisterCR0, vtl.Value{Low: 0x31}, hypercall.StatusInvalidRegisterValue},
		{hypercall.RegisterCR3, vtl.Value{Low: 1 << 60}, hypercall.StatusInvalidRegisterValue},
		{hypercall.RegisterCR4, vtl.Value{Low: asm.CR4PAE | asm.CR4PGE}, hypercall.StatusSuccess},
		{hypercall.RegisterCR4, vtl.Value{Low: asm.CR4PAE | asm.CR4OSFXSR}, hypercall.StatusInvalidRegisterValue},
		{hypercall.RegisterCR4, vtl.Value{Low: asm.CR4PAE | asm.CR4VMXE}, hypercall.StatusInvalidRegisterValue},
		{hypercall.RegisterEFER, vtl.Value{Low: asm.EFERLME | asm.EFERLMA | asm.EFERNXE}, hypercall.StatusSuccess},
		{hypercall.RegisterEFER, vtl.Value{Low: 0}, hypercall.StatusInvalidRegisterValue},
		{hypercall.RegisterEFER, vtl.Value{Low: asm.EFERLME | asm.EFERLMA | asm.EFERSCE}, hypercall.StatusInvalidRegisterValue},
		{hypercall.RegisterIDTR, hypercall.TableRegister{Base: 0x5000, Limit: 0xfff}.Value(), hypercall.StatusSuccess},
		{hypercall.RegisterDS, toCall(vmcs.FlatData(0x18)).Value(), hypercall.StatusSuccess},
		{hypercall.RegisterTR, vtl.Value{}, hypercall.StatusInvalidRegisterValue},
		{hypercall.RegisterSysenterEIP, vtl.Value{Low: 1 << 62}, hypercall.StatusInvalidRegisterValue},
		{hypercall.RegisterTSC, vtl.Value{}, hypercall.StatusInvalidParameter},
	} {
		for level := range vtl.VTL(numLevels) {
			old, _ := m.Register(0, level, tt.name)
			require.Equal(t, tt.s, m.SetRegister(0, level, tt.name, tt.value), "%v %#x", tt.name, tt.value.Low)
			want := tt.value
			if tt.s != hypercall.StatusSuccess {
				want = old
			}
			got, s := m.Register(0, level, tt.name)
			require.Equal(t, want, got, "%v", tt.name)
			require.Equal(t, tt.s == hypercall.StatusInvalidParameter, s == hypercall.StatusInvalidParameter)
			require.Equal(t, before, eptp())
		}
	}
}

// Linear addresses are translated by the level's own tables, with its own rights.
func TestTranslate(t *testing.T) {
	m := rig(t, halt, nil)
	require.NoError(t, m.run())
	const read, write = hypercall.TranslateValidateRead, hypercall.TranslateValidateWrite
	for _, tt := range []struct {
		linear uint64
		flags  hypercall.TranslateFlags
		want   vtl.Translation
	}{
		{0x123000, read | write, vtl.Translation{CacheType: hypercall.CacheWriteBack, Page: 0x123}},
		{alias + 0x123000, 0, vtl.Translation{CacheType: hypercall.CacheWriteBack, Page: 0x123}},
		{base0 + atCode, read, vtl.Translation{CacheType: hypercall.CacheWriteBack, Page: (base0 + atCode) >> pageShift, Overlay: true}},
		{base0 + atCode, write, vtl.Translation{Code: hypercall.TranslateGpaNoWriteAccess}},
		{walk, read, vtl.Translation{Code: hypercall.TranslatePageNotPresent}},
	} {
		require.Equal(t, tt.want, m.Translate(0, 0, tt.linear>>pageShift, tt.flags), "%#x", tt.linear)
	}
}
