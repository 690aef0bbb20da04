package vtl_test

import (
	"testing"

	"github.com/govtx/vtx/hypercall"
	"github.com/govtx/vtx/internal/require"
	"github.com/govtx/vtx/vtl"
)

const ok = hypercall.StatusSuccess

// A rig is a partition with short names for what tests do often.
type rig struct {
	t require.T
	*vtl.Partition
	e vtl.Effects
}

var oneRange = []vtl.Range{{Page: 0x100, Pages: 0x100}}

func newRig(t require.T, c vtl.Config) *rig {
	t.Helper()
	if c.RAM == nil {
		c.RAM = oneRange
	}
	p, err := vtl.New(c)
	require.NoError(t, err)
	return &rig{t: t, Partition: p}
}

// twoLevels has VTL1 enabled on all processors; all are at VTL0.
func twoLevels(t require.T, c vtl.Config) *rig {
	t.Helper()
	c.MaximumVTL = max(c.MaximumVTL, 1)
	c.Processors = max(c.Processors, 1)
	r := newRig(t, c)
	r.enable(0, 1, 0)
	r.call(0)
	for vp := 1; vp < c.Processors; vp++ {
		require.Equal(t, ok, r.enableVP(0, uint32(vp), 1, good))
	}
	r.ret(0)
	r.e.Reset()
	return r
}

// good is a context for any level.
var good = vtl.Context{RIP: 0x1000, RSP: 0x2000, RFLAGS: 2, CR0: 0x80000011, CR4: 0x20, EFER: 0xd00}

func (r *rig) enablePartition(vp uint32, level vtl.VTL, flags hypercall.EnablePartitionVtlFlags) hypercall.Status {
	in := hypercall.EnablePartitionVtlInput{PartitionID: hypercall.PartitionSelf, TargetVTL: level, Flags: flags}
	return r.EnablePartitionVTL(vp, &in, &r.e)
}

func (r *rig) enableVP(vp, target uint32, level vtl.VTL, c vtl.Context) hypercall.Status {
	in := hypercall.EnableVpVtlInput{PartitionID: hypercall.PartitionSelf, VPIndex: target, TargetVTL: level, Context: c}
	return r.EnableVPVTL(vp, &in, &r.e)
}

func (r *rig) enable(vp uint32, level vtl.VTL, flags hypercall.EnablePartitionVtlFlags) {
	r.t.Helper()
	require.Equal(r.t, ok, r.enablePartition(vp, level, flags), "%v", r.Why())
	require.Equal(r.t, ok, r.enableVP(vp, hypercall.VPSelf, level, good), "%v", r.Why())
}

var (
	callTrap   = vtl.Trap{Word: hypercall.Input(hypercall.CodeVtlCall)}
	returnTrap = vtl.Trap{Word: hypercall.Input(hypercall.CodeVtlReturn)}
	fastTrap   = vtl.Trap{Word: hypercall.Input(hypercall.CodeVtlReturn), Control: 1}
)

func (r *rig) call(vp uint32) {
	r.t.Helper()
	require.Equal(r.t, vtl.Switched, r.Call(vp, callTrap, &r.e), "%v", r.Why())
}

func (r *rig) ret(vp uint32) {
	r.t.Helper()
	require.Equal(r.t, vtl.Switched, r.Return(vp, returnTrap, &r.e), "%v", r.Why())
}

func (r *rig) set(vp uint32, target uint32, level hypercall.InputVTL, name hypercall.Register, v uint64) hypercall.Status {
	in := hypercall.VpRegistersInput{PartitionID: hypercall.PartitionSelf, VPIndex: target, TargetVTL: level}
	return r.SetRegister(vp, &in, name, vtl.Value{Low: v}, &r.e)
}

func (r *rig) get(vp uint32, target uint32, level hypercall.InputVTL, name hypercall.Register) (uint64, hypercall.Status) {
	in := hypercall.VpRegistersInput{PartitionID: hypercall.PartitionSelf, VPIndex: target, TargetVTL: level}
	v, s := r.GetRegister(vp, &in, name)
	return v.Low, s
}

// own sets a register of the active level's own.
func (r *rig) own(vp uint32, name hypercall.Register, v uint64) {
	r.t.Helper()
	require.Equal(r.t, ok, r.set(vp, hypercall.VPSelf, 0, name, v), "%v", r.Why())
}

func (r *rig) protectOn(vp uint32) {
	r.t.Helper()
	r.own(vp, hypercall.RegisterVsmPartitionConfig, uint64(hypercall.VsmPartitionConfigEnableVtlProtection|0xf<<1|hypercall.VsmPartitionConfigZeroMemoryOnReset))
}

func (r *rig) protect(vp uint32, target hypercall.InputVTL, a vtl.Access, pages ...uint64) (int, hypercall.Status) {
	in := hypercall.ModifyVtlProtectionMaskInput{PartitionID: hypercall.PartitionSelf, MapFlags: hypercall.MapFlags(a), TargetVTL: target}
	return r.ModifyProtection(vp, &in, pages, &r.e)
}

func (r *rig) one(kind vtl.EffectKind) vtl.Effect {
	r.t.Helper()
	f, found := r.e.Find(kind)
	require.True(r.t, found, "no %v among:\n%v", kind, &r.e)
	return f
}

func state(p *vtl.Partition) string { return string(p.AppendState(nil)) }

var _ testing.TB
