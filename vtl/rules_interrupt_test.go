package vtl_test

import (
	"testing"

	"github.com/govtx/vtx/hypercall"
	"github.com/govtx/vtx/internal/require"
	"github.com/govtx/vtx/vtl"
)

// interruptible sets RFLAGS.IF of a level.
func (r *rig) interruptible(vp uint32, l vtl.VTL, on bool) {
	r.t.Helper()
	v := vtl.Value{Low: 2}
	if on {
		v.Low |= 1 << 9
	}
	require.Equal(r.t, ok, r.Registers().SetRegister(vp, l, hypercall.RegisterRFLAGS, v))
}

func processors(vps ...uint32) *vtl.Set {
	s := new(vtl.Set)
	for _, vp := range vps {
		s.Add(vp)
	}
	return s
}

// watching is a partition whose VTL1 runs and has VINA with this vector.
func watching(t *testing.T, p vtl.Profile, v hypercall.VsmVina) *rig {
	t.Helper()
	r := levels(t, 1, vtl.Config{Profile: p})
	require.Equal(t, vtl.Done, r.SetAssistPage(0, 1, assistOn))
	r.own(0, hypercall.RegisterVsmVina, uint64(v|hypercall.VsmVinaEnabled))
	r.interruptible(0, 0, true)
	return r
}

// D. Interrupts, VINA.
var rulesOfInterrupts = map[int]func(*testing.T){
	50: func(t *testing.T) {
		for _, flags := range [][2]bool{{false, false}, {true, false}, {false, true}, {true, true}} {
			r := twoLevels(t, vtl.Config{})
			require.Equal(t, vtl.Done, r.SetAssistPage(0, 1, assistOn))
			r.SetTPR(0, 0, 0xf0, &r.e) // VTL0's makes no difference
			r.interruptible(0, 0, flags[0])
			r.interruptible(0, 1, flags[1])
			r.outcome(vtl.Switched, func() vtl.Outcome { return r.Interrupt(0, 1, vtl.Fixed, 0x40, &r.e) })
			f := r.one(vtl.EffectSwitch)
			require.Equal(t, vtl.Reason(2), f.Reason)
			require.Equal(t, vtl.FlagReason, f.Flags&(vtl.FlagReason|vtl.FlagAdvance))
		}
	},
	51: func(t *testing.T) {
		for tpr := range 256 {
			r := twoLevels(t, vtl.Config{})
			r.SetTPR(0, 1, uint8(tpr), &r.e)
			want := vtl.Switched
			if tpr>>4 >= 0x4 {
				want = vtl.Pending
			}
			r.outcome(want, func() vtl.Outcome { return r.Interrupt(0, 1, vtl.Fixed, 0x47, &r.e) })
			require.Equal(t, uint16(2), r.PendingLevels(0))
			require.Equal(t, want == vtl.Switched, r.Active(0) == 1)
		}
	},
	52: func(t *testing.T) {
		r := levels(t, 3, vtl.Config{})
		r.downTo(0, 0)
		for _, l := range []vtl.VTL{1, 3, 2} {
			require.Equal(t, vtl.Pending, r.Request(0, l, vtl.Fixed, uint8(0xf0-l<<4), &r.e))
		}
		r.outcome(vtl.Switched, func() vtl.Outcome { return r.Resolve(0, &r.e) })
		require.Equal(t, []vtl.Effect{{Kind: vtl.EffectSwitch, Level: 3, Reason: vtl.ReasonInterrupt}}, r.e.List())
	},
	53: func(t *testing.T) {
		r := levels(t, 1, vtl.Config{})
		r.outcome(vtl.Pending, func() vtl.Outcome { return r.Interrupt(0, 0, vtl.Fixed, 0x40, &r.e) })
		_, _, now := r.Next(0)
		require.False(t, now)
		r.ret(0)
		kind, vector, now := r.Accept(0)
		require.True(t, now)
		require.Equal(t, vtl.Fixed, kind)
		require.Equal(t, uint8(0x40), vector)
	},
	54: func(t *testing.T) {
		eachProfile(t, func(t *testing.T, p vtl.Profile) {
			r := levels(t, 1, vtl.Config{Profile: p, Processors: 2})
			require.Equal(t, ok, r.enableVP(0, 1, 1, good))
			r.started(0, 1)
			r.downTo(1, 0)
			send := func() hypercall.Status { return r.SendIPI(0, 0x40, 0, processors(1), &r.e) }
			if p == vtl.OpenVMM {
				r.status(iVTL, send)
				return
			}
			r.status(ok, send)
			require.Equal(t, uint32(1), r.one(vtl.EffectKick).VP)
			r.outcome(vtl.Switched, func() vtl.Outcome { return r.Resolve(1, &r.e) })
			require.Equal(t, vtl.VTL(1), r.Active(1))
		})
	},
	55: func(t *testing.T) {
		r := levels(t, 1, vtl.Config{Processors: 2})
		r.outcome(vtl.Done, func() vtl.Outcome { return r.Startup(0, 1, 0, vtl.INIT, 0, &r.e) })
		r.outcome(vtl.Done, func() vtl.Outcome { return r.Startup(0, 1, 0, vtl.SIPI, 8, &r.e) })
		require.Equal(t, ok, r.enableVP(0, 1, 1, good))
		for _, kind := range []vtl.Startup{vtl.INIT, vtl.SIPI} {
			r.outcome(vtl.Dropped, func() vtl.Outcome { return r.Startup(0, 1, 0, kind, 8, &r.e) })
		}
		waits := levels(t, 1, vtl.Config{Processors: 2})
		require.Equal(t, ok, waits.enableVP(0, 1, 1, good))
		for _, kind := range []vtl.Startup{vtl.INIT, vtl.SIPI} {
			waits.outcome(vtl.Dropped, func() vtl.Outcome { return waits.Startup(0, 1, 0, kind, 8, &waits.e) })
		}
	},
	56: func(t *testing.T) {
		r := twoLevels(t, vtl.Config{})
		r.SetTPR(0, 0, 0x30, &r.e)
		r.Interrupt(0, 0, vtl.Fixed, 0x40, &r.e)
		_, _, now := r.Accept(0)
		require.True(t, now)
		r.Interrupt(0, 0, vtl.Fixed, 0x80, &r.e)
		r.call(0)
		r.SetTPR(0, 1, 0xf0, &r.e)
		r.Interrupt(0, 1, vtl.Fixed, 0x50, &r.e)
		require.Equal(t, vtl.Dropped, r.EOI(0, &r.e), "what is in service is VTL0's")
		require.Equal(t, uint8(0x30), r.TPR(0, 0))
		require.Equal(t, uint8(0xf0), r.TPR(0, 1))
		v, s := r.get(0, 0, vtl0, hypercall.RegisterCR8)
		require.Equal(t, ok, s)
		require.Equal(t, uint64(3), v)
		r.ret(0)
		_, vector, now := r.Accept(0)
		require.True(t, now)
		require.Equal(t, uint8(0x80), vector)
		require.Equal(t, vtl.Done, r.EOI(0, &r.e))
		require.Equal(t, vtl.Done, r.EOI(0, &r.e))
		require.Equal(t, vtl.Dropped, r.EOI(0, &r.e))
	},
	57: func(t *testing.T) {
		eachProfile(t, func(t *testing.T, p vtl.Profile) {
			for _, c := range []struct {
				enabled, flag, asserted bool
				tpr                     uint8
				want                    bool
			}{
				{true, true, false, 0, true}, {false, true, false, 0, false}, {true, false, false, 0, false}, {true, true, true, 0, false},
				{true, true, false, 0x60, false}, {true, true, false, 0x5f, true},
			} {
				r := watching(t, p, 0x41)
				if !c.enabled {
					r.own(0, hypercall.RegisterVsmVina, 0x41)
				}
				r.interruptible(0, 0, c.flag)
				r.SetVINAAsserted(0, 1, c.asserted)
				r.SetTPR(0, 0, c.tpr, &r.e)
				m := newMachine(r.Partition)
				r.outcome(vtl.Pending, func() vtl.Outcome { return r.Interrupt(0, 0, vtl.Fixed, 0x60, &r.e) })
				m.carryOut(t, &r.e)
				_, vector, now := r.Next(0)
				require.Equal(t, c.want, now, "%+v", c)
				require.Equal(t, c.want, m.page(0x123).asserted)
				require.Equal(t, c.want || c.asserted, r.VINAAsserted(0, 1))
				if c.want {
					require.Equal(t, uint8(0x41), vector)
				}
				require.Equal(t, vtl.VTL(1), r.Active(0))
			}
		})
	},
	58: func(t *testing.T) {
		r := watching(t, vtl.TLFS, 0x41)
		r.Interrupt(0, 0, vtl.Fixed, 0x60, &r.e)
		_, _, now := r.Accept(0)
		require.True(t, now)
		r.outcome(vtl.Done, func() vtl.Outcome { return r.EOI(0, &r.e) })
		require.True(t, r.VINAAsserted(0, 1))
		r.outcome(vtl.Pending, func() vtl.Outcome { return r.Interrupt(0, 0, vtl.Fixed, 0x70, &r.e) })
		require.Zero(t, r.e.Len())
		_, _, now = r.Next(0)
		require.False(t, now)
	},
	59: func(t *testing.T) {
		eachProfile(t, func(t *testing.T, p vtl.Profile) {
			r := watching(t, p, 0x41)
			r.Interrupt(0, 0, vtl.Fixed, 0x60, &r.e)
			require.True(t, r.VINAAsserted(0, 1))
			r.Accept(0)
			r.ret(0)
			r.Accept(0)
			r.call(0)
			require.True(t, r.VINAAsserted(0, 1), "without AutoReset")
			r.SetVINAAsserted(0, 1, false) // software does
			r.outcome(vtl.Pending, func() vtl.Outcome { return r.Interrupt(0, 0, vtl.Fixed, 0x80, &r.e) })
			r.one(vtl.EffectVINA)

			r = watching(t, p, 0x41|hypercall.VsmVinaAutoReset)
			r.Interrupt(0, 0, vtl.Fixed, 0x60, &r.e)
			require.True(t, r.VINAAsserted(0, 1))
			r.Accept(0)
			onReturn := by[bool]{OpenVMM: true}.of(p)
			r.outcome(vtl.Switched, func() vtl.Outcome { return r.Return(0, fastTrap, &r.e) })
			require.Equal(t, onReturn, r.one(vtl.EffectSwitch).Flags&vtl.FlagVINAReset != 0)
			require.Equal(t, !onReturn, r.VINAAsserted(0, 1))
			r.Accept(0)
			r.outcome(vtl.Switched, func() vtl.Outcome { return r.Call(0, callTrap, &r.e) })
			require.Equal(t, !onReturn, r.one(vtl.EffectSwitch).Flags&vtl.FlagVINAReset != 0)
			require.False(t, r.VINAAsserted(0, 1))
		})
	},
	60: func(t *testing.T) {
		r := levels(t, 1, vtl.Config{})
		r.status(iParameter, func() hypercall.Status { return r.set(0, 0, vtl0, hypercall.RegisterVsmVina, 0x41) })
		for b := 11; b < 64; b++ {
			r.status(iParameter, func() hypercall.Status { return r.set(0, 0, 0, hypercall.RegisterVsmVina, 1<<b) })
		}
		r.status(ok, func() hypercall.Status { return r.set(0, 0, 0, hypercall.RegisterVsmVina, 0x741) })
	},
	61: func(t *testing.T) {
		r := levels(t, 1, vtl.Config{})
		assert := func(id uint64, level vtl.VTL, kind hypercall.InterruptType) hypercall.Status {
			return r.AssertVirtualInterrupt(0, &hypercall.AssertVirtualInterruptInput{PartitionID: id, TargetVTL: level, RequestedVector: 0x40,
				Control: hypercall.InterruptControl(0).WithInterruptType(kind)}, &r.e)
		}
		r.status(denied, func() hypercall.Status { return assert(self, 1, hypercall.InterruptFixed) })
		r.status(denied, func() hypercall.Status { return assert(foreign, 0, hypercall.InterruptFixed) })
		for kind := range hypercall.InterruptType(12) {
			want := iParameter
			if kind == hypercall.InterruptFixed || kind == hypercall.InterruptNmi {
				want = ok
			}
			r.status(want, func() hypercall.Status { return assert(self, 0, kind) })
		}
		r.downTo(0, 0)
		r.status(denied, func() hypercall.Status { return assert(self, 0, hypercall.InterruptFixed) })
	},
	62: func(t *testing.T) {
		eachProfile(t, func(t *testing.T, p vtl.Profile) {
			g := newGuest(t, levels(t, 1, vtl.Config{Profile: p}))
			for i := range 24 { // bytes 7:5
				g.refused(iParameter, 0, hypercall.Input(hypercall.CodeSendSyntheticClusterIpi), word64(0x40|uint64(vtl0)<<32|1<<(40+i)), word64(1))
			}
			g.must(0, hypercall.Input(hypercall.CodeSendSyntheticClusterIpi), word64(0x40|uint64(vtl0)<<32), word64(1))
			for vector := range uint32(300) {
				want := ok
				if vector < 16 || vector > 255 {
					want = iParameter
				}
				g.status(want, func() hypercall.Status { return g.SendIPI(0, vector, vtl0, processors(0), &g.e) })
			}
			want := by[hypercall.Status]{ok, iVTL, ok}.of(p)
			g.status(want, func() hypercall.Status { return g.SendIPI(0, 0x40, vtl1, processors(0), &g.e) })
		})
	},
}
