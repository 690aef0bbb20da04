package vtl_test

import (
	"testing"

	"github.com/govtx/vtx/hypercall"
	"github.com/govtx/vtx/internal/require"
	"github.com/govtx/vtx/vtl"
)

// translate translates page 0x123 for a level of a processor.
func (r *rig) translate(id uint64, vp uint32, level hypercall.InputVTL) (vtl.Translation, hypercall.Status) {
	return r.TranslateVirtualAddress(0, &hypercall.TranslateVirtualAddressInput{PartitionID: id, VPIndex: vp, GVAPage: 0x123,
		ControlFlags: hypercall.TranslateFlags(0).WithInputVtl(level)}, &r.e)
}

// A code is a Translator that has this answer to all.
type code hypercall.TranslateResultCode

func (c code) Translate(vp uint32, level vtl.VTL, page uint64, flags hypercall.TranslateFlags) vtl.Translation {
	return vtl.Translation{Code: hypercall.TranslateResultCode(c)}
}

// startStatus requires StartVP of processor 1 to have a status.
func (r *rig) startStatus(want hypercall.Status, target uint32, level vtl.VTL) {
	r.t.Helper()
	r.status(want, func() hypercall.Status {
		o, s := r.startVP(0, target, level)
		require.Equal(r.t, vtl.Done, o)
		return s
	})
}

// J. Starting processors, their numbers, translation; M. What KVM's unit tests assert.
var rulesOfStarting = map[int]func(*testing.T){
	113: func(t *testing.T) {
		r := levels(t, 1, vtl.Config{Processors: 2})
		require.Equal(t, ok, r.enableVP(0, 1, 1, good))
		for _, kind := range []vtl.Startup{vtl.INIT, vtl.SIPI} {
			r.outcome(vtl.Dropped, func() vtl.Outcome { return r.Startup(0, 1, 1, kind, 8, &r.e) })
		}
		r.Interrupt(1, 1, vtl.NMI, 0, &r.e)
		r.Resolve(1, &r.e)
		require.False(t, r.Started(1), "nor by an interrupt")
		r.startStatus(ok, 1, 1)
		require.Equal(t, vtl.Effect{Kind: vtl.EffectContext, VP: 1, Level: 1}, r.one(vtl.EffectContext))
		require.Equal(t, vtl.VTL(1), r.Active(1))
	},
	114: func(t *testing.T) {
		eachProfile(t, func(t *testing.T, p vtl.Profile) {
			r := levels(t, 1, vtl.Config{Profile: p, Processors: 2})
			r.startStatus(iIndex, hypercall.VPSelf, 0)
			r.startStatus(iIndex, 0, 0)
			r.startStatus(iIndex, 2, 0)
			r.status(iPartition, func() hypercall.Status {
				_, s := r.StartVP(0, &hypercall.StartVirtualProcessorInput{PartitionID: foreign, VPIndex: 1, Context: good}, &r.e)
				return s
			})
		})
	},
	115: func(t *testing.T) {
		eachProfile(t, func(t *testing.T, p vtl.Profile) {
			r := levels(t, 1, vtl.Config{Profile: p, Processors: 2})
			r.startStatus(by[hypercall.Status]{iVTL, iVP, iVTL}.of(p), 1, 1)
		})
	},
	116: func(t *testing.T) {
		eachProfile(t, func(t *testing.T, p vtl.Profile) {
			r := levels(t, 1, vtl.Config{Profile: p, Processors: 2})
			require.Equal(t, ok, r.enableVP(0, 1, 1, good))
			r.downTo(0, 0)
			r.startStatus(by[hypercall.Status]{denied, denied, iParameter}.of(p), 1, 1)
		})
	},
	117: func(t *testing.T) {
		r := levels(t, 1, vtl.Config{Processors: 2})
		r.startStatus(ok, 1, 0)
		r.startStatus(iVP, 1, 0)
	},
	118: func(t *testing.T) {
		for _, target := range []vtl.VTL{0, 1} {
			r := levels(t, 2, vtl.Config{Processors: 2})
			require.Equal(t, ok, r.enableVP(0, 1, 1, good))
			require.Equal(t, ok, r.enableVP(0, 1, 2, good))
			r.startStatus(ok, 1, target)
			require.Equal(t, vtl.Effect{Kind: vtl.EffectStart, VP: 1, Level: 2}, r.one(vtl.EffectStart))
			require.Equal(t, vtl.Effect{Kind: vtl.EffectContext, VP: 1, Level: target}, r.one(vtl.EffectContext), "the context is the target's")
			require.Equal(t, vtl.VTL(2), r.Active(1))
		}
	},
	119: func(t *testing.T) {
		g := newGuest(t, levels(t, 1, vtl.Config{Processors: 3, APICIDs: []uint32{0, 6, 9}}))
		require.Equal(t, ok, g.enableVP(0, 1, 1, good))
		word := hypercall.Input(hypercall.CodeGetVpIndexFromApicId).WithReps(3)
		ids := append(binaryBytes{0, 0, 0, 0, 6, 0, 0, 0}, 9, 0, 0, 0)
		g.must(0, word, &hypercall.GetVpIndexFromApicIdInput{PartitionID: self}, ids)
		require.Equal(t, []byte{0, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0}, g.mem[outputAt:outputAt+12])
		// VTL1 is not enabled on the third.
		o, r := g.hypercall(0, word, &hypercall.GetVpIndexFromApicIdInput{PartitionID: self, TargetVTL: 1}, ids)
		require.Equal(t, hypercall.Done, o)
		require.Equal(t, iVTL, r.Status())
		require.Equal(t, 2, r.Reps())
		g.refused(iPartition, 0, word, &hypercall.GetVpIndexFromApicIdInput{PartitionID: foreign}, ids)
	},
	120: func(t *testing.T) {
		eachProfile(t, func(t *testing.T, p vtl.Profile) {
			r := levels(t, 2, vtl.Config{Profile: p, Processors: 2})
			require.Equal(t, ok, r.enableVP(0, 1, 1, good))
			r.downTo(0, 1)
			for _, c := range []struct {
				name  string
				id    uint64
				vp    uint32
				level hypercall.InputVTL
				want  by[hypercall.Status]
			}{
				{"lower level", self, hypercall.VPSelf, vtl0, by[hypercall.Status]{ok, ok, ok}},
				{"another partition", foreign, hypercall.VPSelf, vtl0, by[hypercall.Status]{denied, denied, denied}},
				{"another processor", self, 1, vtl0, by[hypercall.Status]{ok, denied, ok}},
				{"own level", self, hypercall.VPSelf, vtl1, by[hypercall.Status]{ok, denied, ok}},
				{"own level by default", self, hypercall.VPSelf, 0, by[hypercall.Status]{ok, denied, ok}},
				{"higher level", self, hypercall.VPSelf, vtl2, by[hypercall.Status]{denied, denied, iVP}},
				{"any processor", self, hypercall.VPAny, vtl0, by[hypercall.Status]{iIndex, denied, iIndex}},
			} {
				t.Run(c.name, func(t *testing.T) {
					r.status(c.want.of(p), func() hypercall.Status { _, s := r.translate(c.id, c.vp, c.level); return s })
				})
			}
		})
	},
	121: func(t *testing.T) {
		for c := range code(10) {
			r := levels(t, 1, vtl.Config{Translator: c})
			x, s := r.translate(self, hypercall.VPSelf, vtl0)
			require.Equal(t, ok, s)
			require.Equal(t, hypercall.TranslateResultCode(c), x.Code)
		}
	},
	137: func(t *testing.T) {
		eachProfile(t, func(t *testing.T, p vtl.Profile) {
			r := levels(t, 1, vtl.Config{Profile: p})
			require.Equal(t, hypercall.MapFlags(0xf), r.PartitionConfig(1).DefaultVtlProtectionMask())
			r.protectOn(0)
			want := by[hypercall.Status]{iValue, iValue, ok}.of(p)
			r.status(want, func() hypercall.Status { return r.config(0, protection.WithDefaultVtlProtectionMask(3)) })
			require.Equal(t, hypercall.MapFlags(0xf), r.PartitionConfig(1).DefaultVtlProtectionMask())
			require.Equal(t, vtl.FullAccess, r.PageRights(0, 0x100))
		})
	},
	142: func(t *testing.T) {
		eachProfile(t, func(t *testing.T, p vtl.Profile) {
			r := newRig(t, vtl.Config{Processors: 1, MaximumVTL: 1, Profile: p})
			x, s := r.translate(self, hypercall.VPSelf, 0)
			if p == vtl.OpenVMM {
				require.Equal(t, denied, s)
				return
			}
			require.Equal(t, ok, s)
			require.Equal(t, vtl.Translation{CacheType: hypercall.CacheWriteBack, Page: 0x123}, x)
			absent := newRig(t, vtl.Config{Processors: 1, MaximumVTL: 1, Profile: p, Translator: code(hypercall.TranslatePageNotPresent)})
			x, s = absent.translate(self, hypercall.VPSelf, 0)
			require.Equal(t, ok, s)
			require.Equal(t, hypercall.TranslateResultCode(1), x.Code)
		})
	},
	143: func(t *testing.T) {
		r := levels(t, 1, vtl.Config{})
		require.True(t, r.SetOverlay(0, 0x123, true))
		x, s := r.translate(self, hypercall.VPSelf, vtl0)
		require.Equal(t, ok, s)
		require.True(t, x.Overlay)
		x, s = r.translate(self, hypercall.VPSelf, vtl1) // not VTL1's own
		require.Equal(t, ok, s)
		require.False(t, x.Overlay)
	},
	144: func(t *testing.T) {
		send := hypercall.Input(hypercall.CodeSendSyntheticClusterIpi)
		sendEx := hypercall.Input(hypercall.CodeSendSyntheticClusterIpiEx).WithVariableHeader(1)
		eachProfile(t, func(t *testing.T, p vtl.Profile) {
			for _, c := range []struct {
				name   string
				from   vtl.VTL
				target hypercall.InputVTL
				to     vtl.VTL
				want   by[hypercall.Status]
			}{
				{"VTL0 to its own", 0, 0, 0, by[hypercall.Status]{ok, ok, ok}},
				{"VTL1 to its own", 1, 0, 1, by[hypercall.Status]{ok, iVTL, ok}},
				{"VTL1 to VTL0", 1, vtl0, 0, by[hypercall.Status]{ok, ok, ok}},
				{"VTL0 to VTL1", 0, vtl1, 1, by[hypercall.Status]{denied, denied, ok}},
			} {
				for _, ex := range []bool{false, true} {
					g := newGuest(t, levels(t, 1, vtl.Config{Profile: p, Processors: 2}))
					require.Equal(t, ok, g.enableVP(0, 1, 1, good))
					g.started(0, 1)
					g.downTo(1, 0)
					g.downTo(0, c.from)
					var res hypercall.Result
					if ex {
						_, res = g.hypercall(0, sendEx, &hypercall.SendSyntheticClusterIpiExInput{Vector: 0x44, TargetVTL: c.target, ValidBanksMask: 1}, word64(2))
					} else {
						_, res = g.hypercall(0, send, &hypercall.SendSyntheticClusterIpiInput{Vector: 0x44, TargetVTL: c.target, ProcessorMask: 2})
					}
					require.Equal(t, c.want.of(p), res.Status(), "%s", c.name)
					if res.Status() != ok {
						require.Zero(t, g.PendingLevels(1))
						continue
					}
					require.Equal(t, uint16(1)<<c.to, g.PendingLevels(1), "%s", c.name)
					require.Zero(t, g.PendingLevels(0))
					g.Resolve(1, &g.e)
					require.Equal(t, c.to, g.Active(1))
				}
			}
		})
	},
	145: func(t *testing.T) {
		r := twoLevels(t, vtl.Config{})
		r.outcome(vtl.Switched, func() vtl.Outcome { return r.Interrupt(0, 1, vtl.Fixed, 0x40, &r.e) })
		r.Accept(0)
		r.outcome(vtl.Pending, func() vtl.Outcome { return r.Interrupt(0, 0, vtl.Fixed, 0x50, &r.e) })
		require.Zero(t, r.e.Len())
		r.downTo(0, 0)
		_, vector, now := r.Next(0)
		require.True(t, now)
		require.Equal(t, uint8(0x50), vector)
	},
}
