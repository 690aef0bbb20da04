package vtl_test

import (
	"encoding/binary"
	"testing"

	"github.com/govtx/vtx/hypercall"
	"github.com/govtx/vtx/internal/require"
	"github.com/govtx/vtx/vtl"
)

var (
	vsmStatus = []hypercall.Register{hypercall.RegisterVsmCapabilities, hypercall.RegisterVsmPartitionStatus, hypercall.RegisterVsmVpStatus, hypercall.RegisterVsmCodePageOffsets}

	// private are registers of each kind that a level has for itself.
	private = []hypercall.Register{hypercall.RegisterRSP, hypercall.RegisterRIP, hypercall.RegisterRFLAGS, hypercall.RegisterCR0, hypercall.RegisterCR3,
		hypercall.RegisterCR8, hypercall.RegisterVsmVina, hypercall.RegisterVsmPartitionConfig, hypercall.RegisterVsmVpSecureConfigVtl0,
		hypercall.RegisterCRInterceptControl, hypercall.RegisterCRInterceptCR0Mask, hypercall.RegisterVpAssistPage, hypercall.RegisterPendingEvent0}
)

func exception(vector uint16) uint64 {
	e := hypercall.PendingException{Header: hypercall.PendingEventHeaderEventPending, Vector: vector}
	return e.Value().Low
}

// both reads and writes a register, and requires both to have a status.
func (r *rig) both(want hypercall.Status, vp, target uint32, level hypercall.InputVTL, name hypercall.Register, value uint64) {
	r.t.Helper()
	r.status(want, func() hypercall.Status {
		_, s := r.get(vp, target, level, name)
		return s
	})
	r.status(want, func() hypercall.Status { return r.set(vp, target, level, name, value) })
}

// E. Registers of other levels.
var rulesOfRegisters = map[int]func(*testing.T){
	63: func(t *testing.T) {
		eachProfile(t, func(t *testing.T, p vtl.Profile) {
			r := levels(t, 2, vtl.Config{Processors: 2, Profile: p})
			require.Equal(t, ok, r.enableVP(0, 1, 1, good))
			require.Equal(t, ok, r.enableVP(0, 1, 2, good))
			for _, l := range []vtl.VTL{1, 0} {
				r.downTo(0, l)
				for target := l + 1; target <= 2; target++ {
					for _, name := range private {
						for _, vp := range []uint32{hypercall.VPSelf, 0, 1} {
							r.both(denied, 0, vp, hypercall.TargetVTL(target), name, 0)
						}
					}
				}
			}
		})
	},
	64: func(t *testing.T) {
		r := levels(t, 2, vtl.Config{})
		for l := vtl.VTL(2); ; l-- {
			r.status(ok, func() hypercall.Status { return r.set(0, 0, 0, hypercall.RegisterRSP, uint64(l)+1) })
			// The number without the flag does not count.
			v, s := r.get(0, 0, 0x02, hypercall.RegisterRSP)
			require.Equal(t, ok, s)
			require.Equal(t, uint64(l)+1, v)
			if l == 0 {
				break
			}
			r.ret(0)
		}
	},
	65: func(t *testing.T) {
		eachProfile(t, func(t *testing.T, p vtl.Profile) {
			r := levels(t, 1, vtl.Config{Profile: p})
			own := by[hypercall.Status]{ok, denied, ok}.of(p)
			for _, name := range []hypercall.Register{hypercall.RegisterRSP, hypercall.RegisterCR3, hypercall.RegisterEFER} {
				r.both(own, 0, 0, 0, name, 1)
				r.both(own, 0, 0, vtl1, name, 1)
				r.both(ok, 0, 0, vtl0, name, 1)
			}
		})
	},
	66: func(t *testing.T) {
		r := levels(t, 1, vtl.Config{})
		r.status(denied, func() hypercall.Status {
			_, s := r.GetRegister(0, &hypercall.VpRegistersInput{PartitionID: foreign}, hypercall.RegisterRSP)
			return s
		})
		r.status(denied, func() hypercall.Status {
			return r.SetRegister(0, &hypercall.VpRegistersInput{PartitionID: foreign}, hypercall.RegisterRSP, vtl.Value{}, &r.e)
		})
		for _, vp := range []uint32{1, 1 << 31, hypercall.VPAny} {
			r.both(iIndex, 0, vp, 0, hypercall.RegisterRSP, 0)
		}
		for _, name := range []hypercall.Register{0xdead, 0xffffffff, 0xd0000 + 0x999} {
			r.both(iParameter, 0, 0, 0, name, 0)
		}
	},
	67: func(t *testing.T) {
		g := newGuest(t, levels(t, 1, vtl.Config{}))
		o, res := g.hypercall(0, setRegs.WithReps(4), ownRegs,
			&hypercall.RegisterAssoc{Name: hypercall.RegisterRSP, Value: vtl.Value{Low: 1}},
			&hypercall.RegisterAssoc{Name: hypercall.RegisterRIP, Value: vtl.Value{Low: 2}},
			&hypercall.RegisterAssoc{Name: hypercall.RegisterVsmVpStatus, Value: vtl.Value{Low: 3}},
			&hypercall.RegisterAssoc{Name: hypercall.RegisterRBX, Value: vtl.Value{Low: 4}})
		require.Equal(t, hypercall.Done, o)
		require.Equal(t, iParameter, res.Status())
		require.Equal(t, 2, res.Reps())
		g.must(0, getRegs.WithReps(3), ownRegs, names(hypercall.RegisterRSP, hypercall.RegisterRIP, hypercall.RegisterRBX))
		for i, want := range []uint64{1, 2, 0} {
			require.Equal(t, want, binary.LittleEndian.Uint64(g.mem[outputAt+16*i:]))
		}
	},
	68: func(t *testing.T) {
		r := levels(t, 1, vtl.Config{Capabilities: hypercall.VsmCapabilitiesDr6Shared, CodePageOffsets: 0x456123})
		for _, name := range vsmStatus {
			r.status(iParameter, func() hypercall.Status { return r.set(0, 0, 0, name, 0) })
			v, s := r.get(0, 0, 0, name)
			require.Equal(t, ok, s)
			require.NotZero(t, v, "%v", name)
		}
		off := newRig(t, vtl.Config{Processors: 1, CodePageOffsets: 0x456123, Capabilities: hypercall.VsmCapabilitiesDr6Shared})
		for _, name := range vsmStatus {
			v, s := off.get(0, 0, 0, name)
			require.Equal(t, ok, s)
			require.Zero(t, v, "%v", name)
		}
	},
	69: func(t *testing.T) {
		r := levels(t, 2, vtl.Config{})
		r.downTo(0, 1)
		event := func(level hypercall.InputVTL, v uint64) func() hypercall.Status {
			return func() hypercall.Status { return r.set(0, 0, level, hypercall.RegisterPendingEvent0, v) }
		}
		r.status(iParameter, event(0, exception(13)))
		r.status(iParameter, event(vtl1, exception(13)))
		r.status(denied, event(vtl2, exception(13)))
		const ve, vc, sx, hv = 20, 29, 30, 28
		for _, vector := range []uint16{ve, vc, sx, hv, 32, 255} {
			r.status(iValue, event(vtl0, exception(vector)))
		}
		for kind := uint64(1); kind < 8; kind++ { // bits 3:1 of the header: 0 is an exception
			r.status(iValue, event(vtl0, exception(13)|kind<<1))
		}
		for _, vector := range []uint16{0, 1, 3, 6, 8, 13, 14, 17} {
			r.status(ok, event(vtl0, exception(vector)))
			require.Equal(t, vtl.Effect{Kind: vtl.EffectWake}, r.one(vtl.EffectWake))
		}
		r.outcome(vtl.Switched, func() vtl.Outcome { return r.Return(0, fastTrap, &r.e) })
		require.Equal(t, uint8(17), r.one(vtl.EffectInject).Vector)
	},
	70: func(t *testing.T) {
		const pe, nw, cd, pg = 1, 1 << 29, 1 << 30, 1 << 31
		r := levels(t, 1, vtl.Config{})
		for bits := range uint64(16) {
			v := bits&1*pe | bits>>1&1*nw | bits>>2&1*cd | bits>>3&1*pg
			want := ok
			if v&pg != 0 && v&pe == 0 || v&nw != 0 && v&cd == 0 {
				want = iValue
			}
			r.status(want, func() hypercall.Status { return r.set(0, 0, vtl0, hypercall.RegisterCR0, v) })
		}
	},
	71: func(t *testing.T) {
		r := levels(t, 2, vtl.Config{})
		for name := hypercall.RegisterCRInterceptControl; name <= hypercall.RegisterCRInterceptIa32MiscEnableMask; name++ {
			r.both(denied, 0, 0, vtl0, name, 1)
			r.both(ok, 0, 0, vtl1, name, 1)
			r.both(ok, 0, 0, 0, name, 1)
		}
		r.downTo(0, 0)
		r.both(denied, 0, 0, 0, hypercall.RegisterCRInterceptControl, 1)
	},
	122: func(t *testing.T) {
		r := levels(t, 1, vtl.Config{})
		list := []hypercall.Register{hypercall.RegisterRFLAGS, hypercall.RegisterCR3, hypercall.RegisterFS, hypercall.RegisterCR8}
		for l := vtl.VTL(1); ; l-- {
			for i, name := range list {
				r.own(0, name, uint64(l)*8+uint64(i)+2)
			}
			if l == 0 {
				break
			}
			r.ret(0)
		}
		r.call(0)
		for l := range vtl.VTL(2) {
			for i, name := range list {
				v, s := r.get(0, 0, hypercall.TargetVTL(l), name)
				require.Equal(t, ok, s)
				require.Equal(t, uint64(l)*8+uint64(i)+2, v, "%v of %v", name, l)
			}
		}
	},
	124: func(t *testing.T) {
		for _, c := range []struct {
			first, last hypercall.Register
			class       vtl.Class
		}{
			{hypercall.RegisterRAX, hypercall.RegisterRBX, vtl.Shared}, {hypercall.RegisterRSP, hypercall.RegisterRSP, vtl.Private},
			{hypercall.RegisterRBP, hypercall.RegisterR15, vtl.Shared}, {hypercall.RegisterCR2, hypercall.RegisterCR2, vtl.Shared},
			{hypercall.RegisterDR0, hypercall.RegisterDR3, vtl.Shared}, {hypercall.RegisterDR6, hypercall.RegisterDR6, vtl.PrivateOrShared},
			{hypercall.RegisterXMM0, hypercall.RegisterXMM15, vtl.Shared}, {hypercall.RegisterXFEM, hypercall.RegisterXFEM, vtl.Shared},
			{hypercall.RegisterMSRMTRRCap, hypercall.RegisterMSRMTRRDefType, vtl.Shared},
		} {
			for name := c.first; name <= c.last; name++ {
				require.Equal(t, c.class, vtl.StateOf(name), "%v", name)
			}
		}
		for _, msr := range []uint32{0xfe, 0x200, 0x20f, 0x250, 0x258, 0x268, 0x26f, 0x2ff} { // MTRRs
			require.Equal(t, vtl.Shared, vtl.StateOfMSR(msr), "0x%x", msr)
		}
		r := newRig(t, vtl.Config{Processors: 1, MaximumVTL: 1, Capabilities: hypercall.VsmCapabilitiesDr6Shared})
		v, s := r.get(0, 0, 0, hypercall.RegisterVsmCapabilities)
		require.Equal(t, ok, s)
		require.True(t, hypercall.VsmCapabilities(v).Dr6Shared(), "the guest can tell")
	},
}

// configs tries values of VsmPartitionConfig of the level that runs, in order.
type configs []struct {
	value hypercall.VsmPartitionConfig
	want  hypercall.Status
	reads hypercall.VsmPartitionConfig
}

func (list configs) try(t *testing.T, r *rig) {
	t.Helper()
	for _, c := range list {
		r.status(c.want, func() hypercall.Status { return r.config(0, c.value) })
		v, s := r.get(0, 0, 0, hypercall.RegisterVsmPartitionConfig)
		require.Equal(t, ok, s)
		require.Equal(t, c.reads, hypercall.VsmPartitionConfig(v), "after %v", c.value)
	}
}

// F. VsmPartitionConfig; G. VsmVpSecureConfigVtlN, MBEC, TLB lock.
var rulesOfConfig = map[int]func(*testing.T){
	72: func(t *testing.T) {
		r := levels(t, 3, vtl.Config{})
		r.downTo(0, 2)
		r.both(denied, 0, 0, hypercall.TargetVTL(3), hypercall.RegisterVsmPartitionConfig, uint64(protection|allRights))
		require.False(t, r.PartitionConfig(3).EnableVtlProtection())
		for _, l := range []vtl.VTL{2, 1} {
			r.both(ok, 0, 0, hypercall.TargetVTL(l), hypercall.RegisterVsmPartitionConfig, uint64(allRights)|uint64(l&1)<<5)
			require.Equal(t, l == 1, r.PartitionConfig(l).ZeroMemoryOnReset(), "each has its own")
		}
	},
	73: func(t *testing.T) {
		eachProfile(t, func(t *testing.T, p vtl.Profile) {
			clear := by[hypercall.Status]{iValue, iValue, ok}.of(p)
			configs{
				{allRights | protection, ok, allRights | protection},
				{allRights, clear, allRights | protection},
				{allRights | protection, ok, allRights | protection},
			}.try(t, levels(t, 1, vtl.Config{Profile: p}))
		})
	},
	74: func(t *testing.T) {
		const rw = hypercall.VsmPartitionConfig(3 << 1)
		eachProfile(t, func(t *testing.T, p vtl.Profile) {
			r := levels(t, 1, vtl.Config{Profile: p})
			change := by[hypercall.Status]{iValue, iValue, ok}.of(p)
			configs{
				{rw | protection, ok, rw | protection},
				{allRights | protection, change, rw | protection},
			}.try(t, r)
			require.Equal(t, vtl.Read|vtl.Write, r.PageRights(0, 0x100))
			require.Equal(t, ok, r.restrictAll(vtl.FullAccess))
			require.Equal(t, vtl.FullAccess, r.PageRights(0, 0x100), "single pages can be given more than the default")
			r.Reset(&r.e)
			r.enable(0, 1, 0)
			r.call(0)
			configs{{allRights | protection, ok, allRights | protection}}.try(t, r)

			// A mask without EnableVtlProtection.
			r = levels(t, 1, vtl.Config{Profile: p})
			on := by[hypercall.VsmPartitionConfig]{OpenVMM: protection}.of(p)
			configs{{rw, ok, rw | on}}.try(t, r)
			if on == 0 {
				require.Equal(t, vtl.FullAccess, r.PageRights(0, 0x100))
				configs{{rw | protection, ok, rw | protection}}.try(t, r)
			}
			require.Equal(t, vtl.Read|vtl.Write, r.PageRights(0, 0x100))
		})
	},
	75: func(t *testing.T) {
		eachProfile(t, func(t *testing.T, p vtl.Profile) {
			for mask := range hypercall.MapFlags(16) {
				r := levels(t, 1, vtl.Config{Profile: p})
				sense := mask == 0 || mask&hypercall.MapReadable != 0
				// OpenVMM, rule 97: without MBEC both rights to execute are alike.
				readWrite := mask&3 == 3 && (mask>>2&1 == mask>>3)
				want := iValue
				if p == vtl.OpenVMM && readWrite || p != vtl.OpenVMM && sense {
					want = ok
				}
				r.status(want, func() hypercall.Status { return r.config(0, protection.WithDefaultVtlProtectionMask(mask)) })
			}
		})
	},
	76: func(t *testing.T) {
		r := levels(t, 1, vtl.Config{RAM: []vtl.Range{{Page: 0, Pages: 0xa0}, {Page: 0x100, Pages: 1 << 28}}})
		require.Equal(t, hypercall.MapFlags(0xf), r.PartitionConfig(1).DefaultVtlProtectionMask())
		require.Equal(t, ok, r.config(0, protection.WithDefaultVtlProtectionMask(1)))
		for _, page := range []uint64{0, 0x9f, 0x100, 0x12345, 1<<28 + 0xff} {
			require.Equal(t, vtl.Read, r.PageRights(0, page))
			require.Equal(t, vtl.FullAccess, r.PageRights(1, page))
		}
		for _, page := range []uint64{0xa0, 0xff, 1<<28 + 0x100} {
			require.Equal(t, vtl.FullAccess, r.PageRights(0, page), "not RAM")
		}
	},
	77: func(t *testing.T) {
		r := levels(t, 1, vtl.Config{})
		require.True(t, r.PartitionConfig(1).ZeroMemoryOnReset())
		r.Reset(&r.e)
		require.Equal(t, vtl.Effect{Kind: vtl.EffectZero, Page: 0x100, Pages: 0x100}, r.e.List()[0])
		require.Equal(t, vtl.EffectReset, r.e.List()[1].Kind, "before the reset ends")
		r = levels(t, 1, vtl.Config{})
		require.Equal(t, ok, r.config(0, allRights))
		r.Reset(&r.e)
		r.none(vtl.EffectZero)
	},
	78: func(t *testing.T) {
		const deny = hypercall.VsmPartitionConfigDenyLowerVtlStartup
		r := levels(t, 1, vtl.Config{Processors: 3, Capabilities: hypercall.VsmCapabilitiesDenyLowerVtlStartup})
		require.Equal(t, ok, r.config(0, deny|allRights))
		r.downTo(0, 0)
		before := state(r.Partition)
		o, s := r.startVP(0, 1, 0)
		require.Equal(t, vtl.Done, o)
		require.Equal(t, denied, s)
		r.unchanged(before)
		r.outcome(vtl.Dropped, func() vtl.Outcome { return r.Startup(0, 1, 0, vtl.SIPI, 8, &r.e) })
		r.outcome(vtl.Dropped, func() vtl.Outcome { return r.Startup(0, 1, 0, vtl.INIT, 8, &r.e) })
		r.call(0)
		r.started(0, 1) // the level itself may
		require.Equal(t, ok, r.config(0, allRights))
		r.downTo(0, 0)
		r.outcome(vtl.Done, func() vtl.Outcome { return r.Startup(0, 2, 0, vtl.SIPI, 8, &r.e) })
	},
	79: func(t *testing.T) {
		for _, start := range []func(r *rig) vtl.Outcome{
			func(r *rig) vtl.Outcome { o, _ := r.startVP(0, 1, 0); return o },
			func(r *rig) vtl.Outcome { return r.Startup(0, 1, 0, vtl.SIPI, 8, &r.e) },
			func(r *rig) vtl.Outcome { return r.Startup(0, 1, 0, vtl.INIT, 0, &r.e) },
		} {
			r := levels(t, 1, vtl.Config{Processors: 2})
			require.Equal(t, ok, r.config(0, hypercall.VsmPartitionConfigInterceptVpStartup|allRights))
			r.downTo(0, 0)
			r.outcome(vtl.Intercepted, func() vtl.Outcome { return start(r) })
			i := r.e.Intercept(r.one(vtl.EffectIntercept))
			require.Equal(t, vtl.InterceptStart, i.Kind)
			require.Equal(t, vtl.VTL(1), i.Owner)
			require.Equal(t, uint32(1), i.Target)
			require.Equal(t, vtl.VTL(1), r.Active(0))
			require.False(t, r.Started(1))
			r.outcome(vtl.Done, func() vtl.Outcome { return start(r) }) // the handler may
		}
	},
	80: func(t *testing.T) {
		for _, deny := range []hypercall.VsmCapabilities{0, hypercall.VsmCapabilitiesDenyLowerVtlStartup} {
			r := levels(t, 1, vtl.Config{Capabilities: deny})
			for b := range 64 {
				want := iValue
				if b >= 1 && b <= 5 || b == 9 || b == 6 && deny != 0 {
					want = ok
				}
				if b == 0 {
					continue // it stays
				}
				r.status(want, func() hypercall.Status { return r.config(0, allRights|1<<b) })
			}
			require.Equal(t, ok, r.config(0, allRights|1))
		}
		gap := newRig(t, vtl.Config{Processors: 1, MaximumVTL: 2})
		gap.enable(0, 2, 0)
		gap.call(0)
		gap.both(iVTL, 0, 0, vtl1, hypercall.RegisterVsmPartitionConfig, uint64(allRights))
	},
	81: func(t *testing.T) {
		r := levels(t, 1, vtl.Config{})
		r.both(iParameter, 0, 0, vtl0, hypercall.RegisterVsmPartitionConfig, uint64(allRights))
		r.downTo(0, 0)
		r.both(iParameter, 0, 0, 0, hypercall.RegisterVsmPartitionConfig, uint64(allRights))
	},
	82: func(t *testing.T) {
		r := levels(t, 2, vtl.Config{})
		for l := vtl.VTL(2); ; l-- {
			for n := range vtl.VTL(15) {
				want := denied
				if n < l {
					want = ok
				}
				r.both(want, 0, 0, 0, hypercall.RegisterVsmVpSecureConfigVtl0+hypercall.Register(n), 0)
			}
			if l == 0 {
				break
			}
			r.ret(0)
		}
	},
	83: func(t *testing.T) {
		r := levels(t, 2, vtl.Config{Processors: 2, Capabilities: hypercall.VsmCapabilities(0).WithMbecVtlMask(6)})
		require.Equal(t, uint16(6), r.Status().MbecEnabledVtlSet())
		for vp := range uint32(2) {
			for l := range vtl.VTL(3) {
				require.False(t, r.MBEC(vp, l))
			}
			require.False(t, r.VPStatus(vp).ActiveMbecEnabled())
		}
		v, s := r.get(0, 0, 0, hypercall.RegisterVsmVpSecureConfigVtl0)
		require.Equal(t, ok, s)
		require.Zero(t, v)
	},
	84: func(t *testing.T) {
		const on = uint64(hypercall.VsmVpSecureConfigMbecEnabled)
		eachProfile(t, func(t *testing.T, p vtl.Profile) {
			for _, partition := range []bool{false, true} {
				r := levels(t, 1, vtl.Config{Profile: p, Capabilities: hypercall.VsmCapabilities(0).WithMbecVtlMask(map[bool]uint16{true: 2}[partition])})
				set := func(v uint64) func() hypercall.Status {
					return func() hypercall.Status { return r.set(0, 0, 0, hypercall.RegisterVsmVpSecureConfigVtl0, v) }
				}
				if !partition {
					r.status(iValue, set(on))
					r.status(ok, set(0))
					require.False(t, r.MBEC(0, 0))
					continue
				}
				require.False(t, r.MBEC(0, 0))
				r.status(ok, set(on))
				require.True(t, r.MBEC(0, 0))
				r.status(by[hypercall.Status]{ok, iValue, ok}.of(p), set(0))
				require.Equal(t, p == vtl.OpenVMM, r.MBEC(0, 0))
			}
		})
	},
	85: func(t *testing.T) {
		const locked = uint64(hypercall.VsmVpSecureConfigTlbLocked)
		for _, remote := range []bool{false, true} {
			r := levels(t, 1, vtl.Config{Processors: 3})
			for vp := uint32(1); vp < 3; vp++ {
				require.Equal(t, ok, r.enableVP(0, vp, 1, good))
				r.started(0, vp)
				r.downTo(vp, 0)
			}
			held := uint32(0)
			if remote {
				held = 1
			}
			set := func(v uint64) hypercall.Status {
				return r.set(0, held, 0, hypercall.RegisterVsmVpSecureConfigVtl0, v)
			}
			r.status(ok, func() hypercall.Status { return set(locked) })
			flush := func(set *vtl.Set) func() vtl.Outcome {
				return func() vtl.Outcome { o, _ := r.Flush(2, 0, set, &r.e); return o }
			}
			r.outcome(vtl.Done, flush(processors(2)))
			r.outcome(vtl.Blocked, flush(processors(0, 1, 2)))
			require.Equal(t, vtl.Effect{Kind: vtl.EffectBlock, VP: 2}, r.one(vtl.EffectBlock))
			require.True(t, r.Blocked(2))
			r.status(ok, func() hypercall.Status { return set(0) })
			require.Equal(t, vtl.Effect{Kind: vtl.EffectUnblock, VP: 2}, r.one(vtl.EffectUnblock))
			require.False(t, r.Blocked(2))
			r.outcome(vtl.Done, flush(processors(0, 1, 2)))
			require.Equal(t, 3, r.e.Len())
		}
	},
	86: func(t *testing.T) {
		r := levels(t, 1, vtl.Config{})
		r.status(ok, func() hypercall.Status {
			_, s := r.TranslateVirtualAddress(0, &hypercall.TranslateVirtualAddressInput{PartitionID: self, VPIndex: hypercall.VPSelf,
				ControlFlags: hypercall.TranslateTlbFlushInhibit.WithInputVtl(vtl0), GVAPage: 0x100}, &r.e)
			return s
		})
		v, s := r.get(0, 0, 0, hypercall.RegisterVsmVpSecureConfigVtl0)
		require.Equal(t, ok, s)
		require.True(t, hypercall.VsmVpSecureConfig(v).TlbLocked())
	},
	87: func(t *testing.T) {
		eachProfile(t, func(t *testing.T, p vtl.Profile) {
			r := levels(t, 1, vtl.Config{Profile: p, Processors: 2})
			require.Equal(t, ok, r.enableVP(0, 1, 1, good))
			r.started(0, 1)
			r.downTo(1, 0)
			// VTL1 of processor 0 locks VTL0's TLB on processor 1.
			require.Equal(t, ok, r.set(0, 1, 0, hypercall.RegisterVsmVpSecureConfigVtl0, uint64(hypercall.VsmVpSecureConfigTlbLocked)))
			want := by[vtl.Outcome]{vtl.Blocked, vtl.Done, vtl.Blocked}.of(p)
			r.outcome(want, func() vtl.Outcome { o, _ := r.Flush(1, 0, processors(1), &r.e); return o })
			r.downTo(0, 0)
			r.outcome(vtl.Blocked, func() vtl.Outcome { o, _ := r.Flush(0, 0, processors(1), &r.e); return o })
			// It waits before it goes back to VTL0, and higher levels run meanwhile.
			r.outcome(vtl.Switched, func() vtl.Outcome { return r.Interrupt(0, 1, vtl.NMI, 0, &r.e) })
			require.False(t, r.Blocked(0))
			r.Accept(0)
			r.outcome(vtl.Switched, func() vtl.Outcome { return r.Return(0, fastTrap, &r.e) })
			require.NotZero(t, r.one(vtl.EffectSwitch).Flags&vtl.FlagBlocked)
			require.True(t, r.Blocked(0))
		})
	},
	88: func(t *testing.T) {
		eachProfile(t, func(t *testing.T, p vtl.Profile) {
			for mask := range vtl.Access(16) {
				r := levels(t, 1, vtl.Config{Profile: p})
				r.protectOn(0)
				if _, s := r.restrict(0, mask, 0x100); s != ok {
					continue // rules 96, 97
				}
				for _, op := range []vtl.Operation{vtl.Fetching, vtl.Fetching | vtl.User} {
					r.downTo(0, 0)
					can := mask&vtl.KernelExecute != 0 || p == vtl.KVM && mask&vtl.UserExecute != 0 // rule 104
					r.outcome(map[bool]vtl.Outcome{true: vtl.Done, false: vtl.Intercepted}[can], func() vtl.Outcome { return r.Access(0, 0x100, op, &r.e) })
				}
			}
		})
	},
	89: func(t *testing.T) {
		for mask := range vtl.Access(16) {
			r := withMBEC(t)
			want := ok
			if mask&vtl.KernelExecute != 0 && mask&vtl.UserExecute == 0 || mask&vtl.Read == 0 && mask != 0 {
				want = iValue
			}
			_, s := r.restrict(0, mask, 0x100)
			require.Equal(t, want, s, "%v", mask)
			if s != ok {
				continue
			}
			r.fetches(mask&vtl.KernelExecute != 0, vtl.Fetching)
			r.fetches(mask&vtl.UserExecute != 0, vtl.Fetching|vtl.User)
		}
	},
	90: func(t *testing.T) {
		for _, mask := range []vtl.Access{vtl.Read, vtl.Read | vtl.UserExecute, vtl.FullAccess} {
			r := withMBEC(t)
			r.must(r.restrict(0, mask, 0x100))
			r.fetches(mask&vtl.KernelExecute != 0, vtl.Fetching|vtl.User|vtl.SMEPOff)
			r.fetches(mask&vtl.KernelExecute != 0, vtl.Fetching|vtl.SMEPOff)
			r.fetches(mask&vtl.UserExecute != 0, vtl.Fetching|vtl.User)
		}
	},
	91: func(t *testing.T) {
		r := withMBEC(t)
		r.must(r.restrict(0, vtl.Read|vtl.Write|vtl.UserExecute, 0x100))
		r.downTo(0, 0)
		r.outcome(vtl.GeneralProtection, func() vtl.Outcome { return r.Access(0, 0x100, vtl.Descriptor|vtl.User, &r.e) })
		r.outcome(vtl.Done, func() vtl.Outcome { return r.Access(0, 0x100, vtl.Descriptor, &r.e) })
		r.outcome(vtl.Done, func() vtl.Outcome { return r.Access(0, 0x101, vtl.Descriptor|vtl.User, &r.e) })
	},
}

// withMBEC is a partition whose VTL1, which runs, has MBEC on for VTL0, and protection.
func withMBEC(t *testing.T) *rig {
	t.Helper()
	r := levels(t, 1, vtl.Config{Capabilities: hypercall.VsmCapabilities(0).WithMbecVtlMask(2)})
	r.protectOn(0)
	r.own(0, hypercall.RegisterVsmVpSecureConfigVtl0, uint64(hypercall.VsmVpSecureConfigMbecEnabled))
	require.True(t, r.MBEC(0, 0))
	return r
}

// fetches tells whether VTL0 may fetch from page 0x100.
func (r *rig) fetches(can bool, op vtl.Operation) {
	r.t.Helper()
	r.downTo(0, 0)
	want := vtl.Intercepted
	if can {
		want = vtl.Done
	}
	r.outcome(want, func() vtl.Outcome { return r.Access(0, 0x100, op, &r.e) })
}

// restrictAll is restrict for all pages.
func (r *rig) restrictAll(a vtl.Access) hypercall.Status {
	var pages []uint64
	for page := oneRange[0].Page; page < oneRange[0].End(); page++ {
		pages = append(pages, page)
	}
	_, s := r.restrict(0, a, pages...)
	return s
}
