package vtl_test

import (
	"encoding"
	"encoding/binary"
	"errors"
	"testing"

	"github.com/govtx/vtx/hypercall"
	"github.com/govtx/vtx/internal/require"
	"github.com/govtx/vtx/vtl"
)

// memory is a guest's first pages.
type memory [4 << 12]byte

var errNoMemory = errors.New("no memory there")

func (m *memory) at(gpa uint64, n int) ([]byte, error) {
	if gpa > uint64(len(m)) || uint64(n) > uint64(len(m))-gpa {
		return nil, errNoMemory
	}
	return m[gpa:][:n], nil
}

func (m *memory) ReadPhysical(gpa uint64, p []byte) error {
	b, err := m.at(gpa, len(p))
	copy(p, b)
	return err
}

func (m *memory) WritePhysical(gpa uint64, p []byte) error {
	b, err := m.at(gpa, len(p))
	copy(b, p)
	return err
}

// A guest makes hypercalls in memory form by a dispatcher with the package's handlers.
type guest struct {
	*rig
	d    *hypercall.Dispatcher
	call hypercall.Call
	regs [16]uint64
	mem  memory
}

func newGuest(t require.T, r *rig) *guest {
	d, err := hypercall.NewDispatcher(hypercall.Config{}, vtl.Handlers()...)
	require.NoError(t, err)
	g := &guest{rig: r, d: d}
	g.call = hypercall.Call{Regs: &g.regs, Memory: &g.mem, Context: &vtl.Caller{Partition: r.Partition, Effects: &r.e},
		Privileges: ^hypercall.Privileges(0), Mode: hypercall.Mode64, Budget: 1000}
	return g
}

const (
	inputAt, outputAt = 0x1000, 0x2000
	rcx, rdx, r8      = 1, 2, 8
)

// hypercall makes a call with header and list in memory.
func (g *guest) hypercall(vp uint32, word hypercall.Input, parts ...encoding.BinaryAppender) (hypercall.Outcome, hypercall.Result) {
	var b []byte
	var err error
	for _, p := range parts {
		b, err = p.AppendBinary(b)
		require.NoError(g.t, err)
	}
	copy(g.mem[inputAt:], b)
	g.call.Context.(*vtl.Caller).VP = vp
	g.regs = [16]uint64{rcx: uint64(word), rdx: inputAt, r8: outputAt}
	g.e.Reset()
	o := g.d.Dispatch(&g.call)
	return o, hypercall.Result(g.regs[0])
}

func (g *guest) must(vp uint32, word hypercall.Input, parts ...encoding.BinaryAppender) {
	g.t.Helper()
	o, r := g.hypercall(vp, word, parts...)
	require.Equal(g.t, hypercall.Done, o)
	require.Equal(g.t, ok, r.Status(), "%v", g.Why())
}

const self = hypercall.PartitionSelf

// All calls work through a dispatcher, from the bytes in memory.
func TestHandlers(t *testing.T) {
	g := newGuest(t, newRig(t, vtl.Config{Processors: 2, MaximumVTL: 1, APICIDs: []uint32{4, 6}}))
	simple := func(c hypercall.Code) hypercall.Input { return hypercall.Input(c) }
	rep := func(c hypercall.Code, n int) hypercall.Input { return hypercall.Input(c).WithReps(n) }
	u32 := func(v uint32) binaryBytes { return binary.LittleEndian.AppendUint32(nil, v) }
	u64 := func(v uint64) binaryBytes { return binary.LittleEndian.AppendUint64(nil, v) }

	g.must(0, simple(hypercall.CodeEnablePartitionVtl), &hypercall.EnablePartitionVtlInput{PartitionID: self, TargetVTL: 1})
	g.must(0, simple(hypercall.CodeEnableVpVtl), &hypercall.EnableVpVtlInput{PartitionID: self, VPIndex: hypercall.VPSelf, TargetVTL: 1, Context: good})
	require.Equal(t, good, *g.e.Context(g.one(vtl.EffectContext)))
	o, _ := g.hypercall(0, simple(hypercall.CodeVtlCall))
	require.Equal(t, hypercall.VTLCall, o)
	g.rig.call(0)
	header := &hypercall.VpRegistersInput{PartitionID: self, VPIndex: hypercall.VPSelf}
	g.must(0, rep(hypercall.CodeSetVpRegisters, 2), header,
		&hypercall.RegisterAssoc{Name: hypercall.RegisterVsmPartitionConfig, Value: vtl.Value{Low: 0x3f}},
		&hypercall.RegisterAssoc{Name: hypercall.RegisterRSP, Value: vtl.Value{Low: 0x1234}})
	g.must(0, rep(hypercall.CodeGetVpRegisters, 2), header, u32(uint32(hypercall.RegisterRSP)), u32(uint32(hypercall.RegisterVsmPartitionConfig)))
	require.Equal(t, uint64(0x1234), binary.LittleEndian.Uint64(g.mem[outputAt:]))
	require.Equal(t, uint64(0x3f), binary.LittleEndian.Uint64(g.mem[outputAt+16:]))

	// A list that stops in the middle.
	o, r := g.hypercall(0, rep(hypercall.CodeModifyVtlProtectionMask, 3), &hypercall.ModifyVtlProtectionMaskInput{PartitionID: self, MapFlags: 1, TargetVTL: 0x10},
		u64(0x100), u64(0x101), u64(0x500))
	require.Equal(t, hypercall.Done, o)
	require.Equal(t, hypercall.StatusInvalidParameter, r.Status())
	require.Equal(t, 2, r.Reps())
	require.Equal(t, uint64(2), g.one(vtl.EffectProtect).Pages)
	many := &list{}
	for i := range uint64(200) {
		many.pages = append(many.pages, 0x100+i)
	}
	g.must(0, rep(hypercall.CodeModifyVtlProtectionMask, 200), &hypercall.ModifyVtlProtectionMaskInput{PartitionID: self, MapFlags: 3, TargetVTL: 0x10}, many)
	require.Equal(t, []vtl.Effect{{Kind: vtl.EffectProtect, Page: 0x100, Pages: 200, Access: 3}}, g.e.List())

	g.must(0, rep(hypercall.CodeGetVpIndexFromApicId, 2), &hypercall.GetVpIndexFromApicIdInput{PartitionID: self}, u32(6), u32(4))
	require.Equal(t, uint64(1), binary.LittleEndian.Uint64(g.mem[outputAt:]))
	g.SetOverlay(0, 0x123, true)
	translate := &hypercall.TranslateVirtualAddressInput{PartitionID: self, VPIndex: hypercall.VPSelf, ControlFlags: 0x10 << 56, GVAPage: 0x123}
	for _, c := range []struct {
		code hypercall.Code
		page int
	}{{hypercall.CodeTranslateVirtualAddress, 8}, {hypercall.CodeTranslateVirtualAddressEx, 48}} {
		g.must(0, simple(c.code), translate)
		result := hypercall.TranslateResult(binary.LittleEndian.Uint64(g.mem[outputAt:]))
		require.Equal(t, hypercall.TranslateSuccess, result.ResultCode())
		require.Equal(t, hypercall.CacheWriteBack, result.CacheType())
		require.True(t, result.OverlayPage())
		require.Equal(t, byte(0x23), g.mem[outputAt+c.page])
	}
	g.must(0, simple(hypercall.CodeInstallIntercept), &hypercall.InstallInterceptInput{PartitionID: self, AccessMask: 3, Parameters: 0x60})
	require.True(t, g.InterceptsPort(1, 0x60, false))
	g.must(0, simple(hypercall.CodeStartVirtualProcessor), &hypercall.StartVirtualProcessorInput{PartitionID: self, VPIndex: 1, Context: good})
	require.True(t, g.Started(1))
	g.must(0, simple(hypercall.CodeAssertVirtualInterrupt), &hypercall.AssertVirtualInterruptInput{PartitionID: self, DestinationAddress: 6, RequestedVector: 0x40})
	require.Equal(t, uint32(1), g.one(vtl.EffectKick).VP)
	require.Equal(t, uint16(1), g.PendingLevels(1))
	g.must(0, simple(hypercall.CodeAssertVirtualInterrupt), &hypercall.AssertVirtualInterruptInput{PartitionID: self, DestinationAddress: 3, RequestedVector: 0x41, Control: 1 << 33})
	require.Equal(t, uint64(3), g.one(vtl.EffectRoute).Value)
	g.must(0, simple(hypercall.CodeSendSyntheticClusterIpi), &hypercall.SendSyntheticClusterIpiInput{Vector: 0x44, TargetVTL: 0x10, ProcessorMask: 2})
	require.Equal(t, uint32(1), g.one(vtl.EffectKick).VP)
	g.must(0, simple(hypercall.CodeSendSyntheticClusterIpiEx).WithVariableHeader(1), &hypercall.SendSyntheticClusterIpiExInput{Vector: 0x45, TargetVTL: 0x10, ValidBanksMask: 1}, u64(3))
	require.Equal(t, uint16(1), g.PendingLevels(0))

	// Flushes: not while VTL1 has the TLB of VTL0 on processor 0 locked.
	require.Equal(t, ok, g.set(0, hypercall.VPSelf, 0, hypercall.RegisterVsmVpSecureConfigVtl0, 2))
	for range 2 {
		for _, c := range []struct {
			word hypercall.Input
			ex   bool
		}{
			{simple(hypercall.CodeFlushVirtualAddressSpace), false}, {rep(hypercall.CodeFlushVirtualAddressList, 2), false},
			{simple(hypercall.CodeFlushVirtualAddressSpaceEx).WithVariableHeader(1), true}, {rep(hypercall.CodeFlushVirtualAddressListEx, 2).WithVariableHeader(1), true},
		} {
			parts := []encoding.BinaryAppender{&hypercall.FlushVirtualAddressInput{ProcessorMask: 3}, u64(0x1000), u64(0x2000)}
			if c.ex {
				parts = append([]encoding.BinaryAppender{&hypercall.FlushVirtualAddressExInput{ValidBanksMask: 1}, u64(3)}, parts[1:]...)
			}
			if g.Active(0) == 1 {
				o, _ := g.hypercall(1, c.word, parts...)
				require.Equal(t, hypercall.Again, o)
				require.True(t, g.Blocked(1))
			} else {
				o, r := g.hypercall(1, c.word, parts...)
				require.Equal(t, hypercall.Done, o)
				require.Equal(t, ok, r.Status())
				require.Equal(t, 2, g.e.Len())
			}
		}
		if g.Active(0) == 1 {
			g.ret(0)
		}
	}
	o, r = g.hypercall(0, simple(hypercall.CodeSendSyntheticClusterIpiEx), &hypercall.SendSyntheticClusterIpiExInput{Vector: 0x45, ValidBanksMask: 1})
	require.Equal(t, hypercall.Done, o)
	require.Equal(t, hypercall.StatusInvalidParameter, r.Status(), "banks are missing")
}

// binaryBytes are bytes as they are in a call's parameters.
type binaryBytes []byte

func (v binaryBytes) AppendBinary(b []byte) ([]byte, error) { return append(b, v...), nil }

// A list of page numbers.
type list struct{ pages []uint64 }

func (l *list) AppendBinary(b []byte) ([]byte, error) {
	for _, p := range l.pages {
		b = binary.LittleEndian.AppendUint64(b, p)
	}
	return b, nil
}

// A start that a higher level intercepts holds the call.
func TestHandlersHold(t *testing.T) {
	g := newGuest(t, twoLevels(t, vtl.Config{Processors: 2}))
	g.rig.call(0)
	g.own(0, hypercall.RegisterVsmPartitionConfig, uint64(hypercall.VsmPartitionConfigInterceptVpStartup))
	g.ret(0)
	o, _ := g.hypercall(0, hypercall.Input(hypercall.CodeStartVirtualProcessor), &hypercall.StartVirtualProcessorInput{PartitionID: self, VPIndex: 1, Context: good})
	require.Equal(t, hypercall.Again, o)
	require.Equal(t, vtl.VTL(1), g.Active(0))
}

// FuzzHandlers makes any hypercall with any parameters.
func FuzzHandlers(f *testing.F) {
	for c := range hypercall.Code(0x100) {
		f.Add(uint64(c)|2<<32, make([]byte, 64), uint8(c))
	}
	f.Fuzz(func(t *testing.T, word uint64, b []byte, how uint8) {
		g := newGuest(t, twoLevels(t, vtl.Config{Processors: 2}))
		if how&1 != 0 {
			g.rig.call(0)
			g.protectOn(0)
		}
		copy(g.mem[inputAt:], b[:min(len(b), 4096)])
		g.regs = [16]uint64{rcx: word, rdx: inputAt, r8: outputAt}
		before := state(g.Partition)
		g.e.Reset()
		o := g.d.Dispatch(&g.call)
		r := hypercall.Result(g.regs[0])
		if o == hypercall.UndefinedInstruction || o == hypercall.Done && r.Status() != ok && r.Reps() == 0 {
			require.Equal(t, before, state(g.Partition))
			require.Zero(t, g.e.Len())
		}
	})
}
