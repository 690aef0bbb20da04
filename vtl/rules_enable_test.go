package vtl_test

import (
	"testing"

	"github.com/govtx/vtx/hypercall"
	"github.com/govtx/vtx/internal/require"
	"github.com/govtx/vtx/vtl"
)

// A. Levels, and enabling them.
var rulesOfEnabling = map[int]func(*testing.T){
	1: func(t *testing.T) {
		require.Equal(t, 16, hypercall.NumVTLs)
		require.Equal(t, vtl.VTL(0xf), hypercall.AllVTLs)
		require.Equal(t, vtl.VTL(0xff), hypercall.InvalidVTL)
		r := levels(t, 15, vtl.Config{})
		require.Equal(t, uint16(0xffff), r.Status().EnabledVtlSet())
		_, err := vtl.New(vtl.Config{Processors: 1, MaximumVTL: 16})
		require.Error(t, err)
	},
	2: func(t *testing.T) {
		r := newRig(t, vtl.Config{Processors: 3, MaximumVTL: 1})
		for vp := range uint32(3) {
			v, s := r.get(0, vp, 0, hypercall.RegisterVsmVpStatus)
			require.Equal(t, ok, s)
			require.Equal(t, uint16(1), hypercall.VsmVpStatus(v).EnabledVtlSet())
		}
		v, s := r.get(0, hypercall.VPSelf, 0, hypercall.RegisterVsmPartitionStatus)
		require.Equal(t, ok, s)
		require.Equal(t, uint16(1), hypercall.VsmPartitionStatus(v).EnabledVtlSet())
	},
	3: func(t *testing.T) {
		r := newRig(t, vtl.Config{Processors: 3, MaximumVTL: 1})
		for vp := range uint32(3) {
			v, s := r.get(0, vp, 0, hypercall.RegisterVsmVpStatus)
			require.Equal(t, ok, s)
			require.Zero(t, hypercall.VsmVpStatus(v).ActiveVtl())
		}
	},
	4: func(t *testing.T) {
		eachProfile(t, func(t *testing.T, p vtl.Profile) {
			r := newRig(t, vtl.Config{Processors: 1, MaximumVTL: 1, Profile: p})
			r.status(iVTL, func() hypercall.Status { return r.enableVP(0, hypercall.VPSelf, 1, good) })
			r.status(ok, func() hypercall.Status { return r.enablePartition(0, 1, 0) })
			r.status(ok, func() hypercall.Status { return r.enableVP(0, hypercall.VPSelf, 1, good) })
		})
	},
	5: func(t *testing.T) {
		r := newRig(t, vtl.Config{Processors: 1, MaximumVTL: 5})
		r.enable(0, 3, 0)
		r.call(0)
		r.enable(0, 5, 0)
		r.call(0)
		for _, l := range []vtl.VTL{1, 4, 2} {
			r.status(ok, func() hypercall.Status { return r.enablePartition(0, l, 0) })
		}
	},
	6: func(t *testing.T) {
		r := newRig(t, vtl.Config{Processors: 1, MaximumVTL: 3})
		r.status(ok, func() hypercall.Status { return r.enablePartition(0, 2, 0) })
		r.status(denied, func() hypercall.Status { return r.enablePartition(0, 3, 0) })
		r.status(ok, func() hypercall.Status { return r.enablePartition(0, 1, 0) })
		require.Equal(t, ok, r.enableVP(0, hypercall.VPSelf, 1, good))
		r.call(0)
		r.status(denied, func() hypercall.Status { return r.enablePartition(0, 3, 0) })
		require.Equal(t, ok, r.enableVP(0, hypercall.VPSelf, 2, good))
		r.call(0)
		r.status(ok, func() hypercall.Status { return r.enablePartition(0, 3, 0) })
	},
	7: func(t *testing.T) {
		r := newRig(t, vtl.Config{Processors: 1, MaximumVTL: 1, PartitionID: 5})
		enable := func(id uint64) hypercall.Status {
			return r.EnablePartitionVTL(0, &hypercall.EnablePartitionVtlInput{PartitionID: id, TargetVTL: 1}, &r.e)
		}
		r.status(iPartition, func() hypercall.Status { return enable(foreign) })
		r.status(iPartition, func() hypercall.Status { return enable(0) })
		r.status(ok, func() hypercall.Status { return enable(5) })
		nameless := newRig(t, vtl.Config{Processors: 1, MaximumVTL: 1})
		nameless.status(iPartition, func() hypercall.Status {
			return nameless.EnablePartitionVTL(0, &hypercall.EnablePartitionVtlInput{TargetVTL: 1}, &nameless.e)
		})
	},
	8: func(t *testing.T) {
		eachProfile(t, func(t *testing.T, p vtl.Profile) {
			r := newRig(t, vtl.Config{Processors: 1, MaximumVTL: 1, Profile: p})
			want := by[hypercall.Status]{iParameter, denied, iParameter}.of(p)
			r.status(want, func() hypercall.Status { return r.enablePartition(0, 0, 0) })
		})
	},
	9: func(t *testing.T) {
		eachProfile(t, func(t *testing.T, p vtl.Profile) {
			r := newRig(t, vtl.Config{Processors: 1, MaximumVTL: 1, Profile: p})
			want := by[hypercall.Status]{iParameter, denied, iParameter}.of(p)
			for _, l := range []vtl.VTL{2, 15, 16, 255} {
				r.status(want, func() hypercall.Status { return r.enablePartition(0, l, 0) })
			}
		})
	},
	10: func(t *testing.T) {
		eachProfile(t, func(t *testing.T, p vtl.Profile) {
			r := newRig(t, vtl.Config{Processors: 1, MaximumVTL: 1, Profile: p})
			r.enable(0, 1, 0)
			want := by[hypercall.Status]{iVTL, iVTL, iParameter}.of(p)
			r.status(want, func() hypercall.Status { return r.enablePartition(0, 1, 0) })
			r.call(0)
			r.status(want, func() hypercall.Status { return r.enablePartition(0, 1, 0) })
		})
	},
	11: func(t *testing.T) {
		const mbec = hypercall.PartitionVtlEnableMbec
		r := newRig(t, vtl.Config{Processors: 1, MaximumVTL: 2, Capabilities: hypercall.VsmCapabilities(0).WithMbecVtlMask(1 << 2)})
		r.status(iParameter, func() hypercall.Status { return r.enablePartition(0, 1, mbec) })
		r.status(ok, func() hypercall.Status { return r.enablePartition(0, 2, mbec) })
	},
	12: func(t *testing.T) {
		r := newRig(t, vtl.Config{Processors: 1, MaximumVTL: 1})
		for _, f := range []hypercall.EnablePartitionVtlFlags{hypercall.PartitionVtlEnableSupervisorShadowStack, hypercall.PartitionVtlEnableHardwareHvpt, 0x80} {
			r.status(iParameter, func() hypercall.Status { return r.enablePartition(0, 1, f) })
		}
	},
	13: func(t *testing.T) {
		r := newRig(t, vtl.Config{Processors: 3, MaximumVTL: 1})
		r.status(ok, func() hypercall.Status { return r.enablePartition(0, 1, 0) })
		require.Equal(t, uint16(3), r.Status().EnabledVtlSet())
		r.none(vtl.EffectSwitch)
		for vp := range uint32(3) {
			require.Equal(t, uint16(1), r.VPStatus(vp).EnabledVtlSet())
			require.Zero(t, r.VPStatus(vp).ActiveVtl())
		}
	},
	14: func(t *testing.T) {
		for mask := range uint16(8) {
			r := newRig(t, vtl.Config{Processors: 1, MaximumVTL: 2, Capabilities: hypercall.VsmCapabilities(0).WithMbecVtlMask(mask)})
			want := uint16(0)
			for l := vtl.VTL(2); l > 0; l-- {
				if r.enablePartition(0, l, hypercall.PartitionVtlEnableMbec) == ok {
					want |= 1 << l
				} else {
					require.Equal(t, ok, r.enablePartition(0, l, 0))
				}
			}
			require.Equal(t, want, r.Status().MbecEnabledVtlSet())
			require.Equal(t, mask&^1, want)
		}
	},
	15: func(t *testing.T) {
		for l := range vtl.VTL(16) {
			r := newRig(t, vtl.Config{Processors: 1, MaximumVTL: l})
			require.Equal(t, uint8(l), uint8(r.Status().MaximumVtl()))
		}
	},
	16: func(t *testing.T) {
		r := newRig(t, vtl.Config{Processors: 2, MaximumVTL: 3})
		for l := vtl.VTL(3); l > 0; l-- {
			require.Equal(t, ok, r.enablePartition(0, l, 0))
		}
		// VTL0 is the highest one below VTL1, and not below VTL2 and VTL3.
		r.status(denied, func() hypercall.Status { return r.enableVP(0, hypercall.VPSelf, 2, good) })
		r.status(denied, func() hypercall.Status { return r.enableVP(0, hypercall.VPSelf, 3, good) })
		r.status(ok, func() hypercall.Status { return r.enableVP(0, hypercall.VPSelf, 1, good) })
		r.call(0)
		r.status(denied, func() hypercall.Status { return r.enableVP(0, hypercall.VPSelf, 3, good) })
		r.status(ok, func() hypercall.Status { return r.enableVP(0, hypercall.VPSelf, 2, good) })
		r.call(0)
		// From above any lower one, on any processor.
		r.status(ok, func() hypercall.Status { return r.enableVP(0, 1, 1, good) })
	},
	17: func(t *testing.T) {
		eachProfile(t, func(t *testing.T, p vtl.Profile) {
			r := newRig(t, vtl.Config{Processors: 2, MaximumVTL: 1, Profile: p})
			r.enable(0, 1, 0)
			r.status(denied, func() hypercall.Status { return r.enableVP(0, 1, 1, good) })
			require.Equal(t, vtl.Done, r.Startup(0, 1, 0, vtl.SIPI, 8, &r.e))
			r.status(denied, func() hypercall.Status { return r.enableVP(1, hypercall.VPSelf, 1, good) })
			r.call(0)
			r.status(ok, func() hypercall.Status { return r.enableVP(0, 1, 1, good) })
		})
	},
	18: func(t *testing.T) {
		eachProfile(t, func(t *testing.T, p vtl.Profile) {
			r := newRig(t, vtl.Config{Processors: 2, MaximumVTL: 1, Profile: p})
			require.Equal(t, ok, r.enablePartition(0, 1, 0))
			want := by[hypercall.Status]{ok, denied, ok}.of(p)
			r.status(want, func() hypercall.Status { return r.enableVP(0, 1, 1, good) })
		})
	},
	19: func(t *testing.T) {
		eachProfile(t, func(t *testing.T, p vtl.Profile) {
			r := levels(t, 1, vtl.Config{Profile: p})
			want := by[hypercall.Status]{already, already, iParameter}.of(p)
			r.status(want, func() hypercall.Status { return r.enableVP(0, hypercall.VPSelf, 1, good) })
		})
	},
	20: func(t *testing.T) {
		r := newRig(t, vtl.Config{Processors: 2, MaximumVTL: 1})
		require.Equal(t, ok, r.enablePartition(0, 1, 0))
		r.status(iParameter, func() hypercall.Status { return r.enableVP(0, hypercall.VPSelf, 0, good) })
		r.status(iPartition, func() hypercall.Status {
			return r.EnableVPVTL(0, &hypercall.EnableVpVtlInput{PartitionID: foreign, VPIndex: 0, TargetVTL: 1, Context: good}, &r.e)
		})
		for _, vp := range []uint32{2, 1 << 31, hypercall.VPAny} {
			r.status(iIndex, func() hypercall.Status { return r.enableVP(0, vp, 1, good) })
		}
		r.status(ok, func() hypercall.Status { return r.enableVP(0, hypercall.VPSelf, 1, good) })
		require.Equal(t, uint16(3), r.Enabled(0))
	},
	21: func(t *testing.T) {
		r := newRig(t, vtl.Config{Processors: 1, MaximumVTL: 1})
		m := newMachine(r.Partition)
		m.rip[place{0, 0}] = 0x5000
		require.Equal(t, ok, r.enablePartition(0, 1, 0))
		r.status(ok, func() hypercall.Status { return r.enableVP(0, 0, 1, good) })
		r.none(vtl.EffectSwitch)
		require.Equal(t, vtl.VTL(0), r.Active(0))
		m.carryOut(t, &r.e)
		require.Equal(t, uint64(0x5000), m.rip[place{0, 0}])
		require.Equal(t, good.RIP, m.rip[place{0, 1}])
	},
	22: func(t *testing.T) {
		r := newRig(t, vtl.Config{Processors: 3, MaximumVTL: 1})
		require.Equal(t, ok, r.enablePartition(0, 1, 0))
		require.Equal(t, ok, r.enableVP(0, 1, 1, good))
		for vp, want := range []uint16{1, 3, 1} {
			require.Equal(t, want, r.VPStatus(uint32(vp)).EnabledVtlSet())
		}
	},
	23: func(t *testing.T) {
		require.Equal(t, 224, hypercall.InitialVpContextSize)
		require.Equal(t, 72, hypercall.InitialVpContextArm64Size)
		c := good
		c.CS = hypercall.SegmentRegister{Base: 1, Limit: 2, Selector: 8, Attributes: 0xa09b}
		c.TR, c.GDTR = hypercall.SegmentRegister{Base: 3, Selector: 0x18}, hypercall.TableRegister{Base: 4, Limit: 5}
		c.CR3, c.PAT = 0x7000, 0x0007040600070406
		r := newRig(t, vtl.Config{Processors: 1, MaximumVTL: 1})
		require.Equal(t, ok, r.enablePartition(0, 1, 0))
		r.status(ok, func() hypercall.Status { return r.enableVP(0, 0, 1, c) })
		require.Equal(t, c, *r.e.Context(r.one(vtl.EffectContext)))
		for g := hypercall.RegisterRAX; g <= hypercall.RegisterR15; g++ {
			require.Equal(t, g != hypercall.RegisterRSP, vtl.StateOf(g) == vtl.Shared, "%v", g)
		}
	},
	24: func(t *testing.T) {
		real, thirtyTwo := good, good
		real.CR0, real.EFER = 0x10, 0
		thirtyTwo.CR0, thirtyTwo.EFER, thirtyTwo.CR4 = 0x11, 0, 0
		for _, c := range []struct {
			context vtl.Context
			want    hypercall.Status
		}{{real, iValue}, {thirtyTwo, ok}, {good, ok}} {
			r := newRig(t, vtl.Config{Processors: 1, MaximumVTL: 1})
			require.Equal(t, ok, r.enablePartition(0, 1, 0))
			r.status(c.want, func() hypercall.Status { return r.enableVP(0, 0, 1, c.context) })
		}
		// VTL0 of another processor may start so.
		r := newRig(t, vtl.Config{Processors: 2, MaximumVTL: 1})
		r.status(ok, func() hypercall.Status {
			_, s := r.StartVP(0, &hypercall.StartVirtualProcessorInput{PartitionID: self, VPIndex: 1, Context: real}, &r.e)
			return s
		})
		// No level above 0 gets there later.
		up := levels(t, 2, vtl.Config{})
		up.status(iValue, func() hypercall.Status { return up.set(0, 0, vtl1, hypercall.RegisterCR0, 0x10) })
		up.status(ok, func() hypercall.Status { return up.set(0, 0, vtl0, hypercall.RegisterCR0, 0x10) })
	},
	25: func(t *testing.T) {
		g := newGuest(t, newRig(t, vtl.Config{Processors: 2, MaximumVTL: 1}))
		g.xmm()
		require.Equal(t, ok, g.enablePartition(0, 1, 0))
		in := &hypercall.EnableVpVtlInput{PartitionID: self, VPIndex: hypercall.VPSelf, TargetVTL: 1, Context: good}
		for _, c := range []hypercall.Code{hypercall.CodeEnableVpVtl, hypercall.CodeStartVirtualProcessor} {
			for _, w := range []hypercall.Input{hypercall.Input(c).WithFast(true), hypercall.Input(c).WithReps(1), hypercall.Input(c).WithFast(true).WithReps(1)} {
				g.refused(iHypercall, 0, w, in)
			}
		}
		g.must(0, hypercall.Input(hypercall.CodeEnableVpVtl), in)
	},
	26: func(t *testing.T) {
		r := newRig(t, vtl.Config{Processors: 1, MaximumVTL: 1})
		r.enable(0, 1, 0)
		for l := range vtl.VTL(2) {
			for page := oneRange[0].Page; page < oneRange[0].End(); page++ {
				require.Equal(t, vtl.FullAccess, r.PageRights(l, page))
			}
			r.outcome(vtl.Done, func() vtl.Outcome { return r.Access(0, 0x180, vtl.Reading|vtl.Writing|vtl.Fetching, &r.e) })
			if l == 0 {
				r.call(0)
			}
		}
	},
	27: func(t *testing.T) {
		r := newRig(t, vtl.Config{Processors: 2, MaximumVTL: 1, APICIDs: []uint32{4, 6}})
		require.Equal(t, vtl.Done, r.SetTPR(0, 0, 0x50, &r.e))
		r.Interrupt(0, 0, vtl.Fixed, 0x40, &r.e)
		r.enable(0, 1, 0)
		require.Zero(t, r.TPR(0, 1))
		require.Zero(t, r.PendingLevels(0)>>1)
		require.Equal(t, uint8(0x50), r.TPR(0, 0))
		for l := range vtl.VTL(2) {
			vp, s := r.VPIndexFromAPICID(0, &hypercall.GetVpIndexFromApicIdInput{PartitionID: self, TargetVTL: l}, 4)
			require.Equal(t, ok, s)
			require.Zero(t, vp)
		}
		r.call(0)
		_, _, pending := r.Next(0)
		require.False(t, pending)
		require.Equal(t, vtl.Dropped, r.EOI(0, &r.e), "nothing is in service")
	},
}
