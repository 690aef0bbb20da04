package vtl_test

import (
	"encoding/binary"
	"testing"

	"github.com/govtx/vtx/hypercall"
	"github.com/govtx/vtx/internal/require"
	"github.com/govtx/vtx/vtl"
)

const rd, wr, kx, ux = vtl.Read, vtl.Write, vtl.KernelExecute, vtl.UserExecute

// protected is a partition whose VTL1 runs and has left VTL0 these rights to page 0x100.
func protected(t *testing.T, p vtl.Profile, a vtl.Access) *rig {
	t.Helper()
	r := levels(t, 1, vtl.Config{Profile: p})
	r.protectOn(0)
	r.must(r.restrict(0, a, 0x100))
	r.e.Reset()
	return r
}

// message returns the message of the intercept among the effects.
func (r *rig) message(c *vtl.Circumstance) (hypercall.MessageType, []byte) {
	r.t.Helper()
	var b [vtl.MaxMessage]byte
	kind, n := r.e.Intercept(r.one(vtl.EffectIntercept)).PutMessage(c, &b)
	return kind, b[:n]
}

// tries has VTL0 do something with page 0x100.
func (r *rig) tries(op vtl.Operation, want vtl.Outcome) {
	r.t.Helper()
	r.downTo(0, 0)
	r.outcome(want, func() vtl.Outcome { return r.Access(0, 0x100, op, &r.e) })
}

// H. Protections.
var rulesOfProtection = map[int]func(*testing.T){
	92: func(t *testing.T) {
		eachProfile(t, func(t *testing.T, p vtl.Profile) {
			r := levels(t, 2, vtl.Config{Profile: p})
			r.protectOn(0)
			r.downTo(0, 1)
			r.protectOn(0)
			// Whatever a level calls for, its own rights and those of higher levels stay.
			for target := range hypercall.InputVTL(0x20) {
				before := state(r.Partition)
				r.e.Reset()
				if _, s := r.protect(0, target, vtl.NoAccess, 0x100); s != ok {
					r.unchanged(before)
				}
				require.Equal(t, vtl.FullAccess, r.PageRights(1, 0x100))
				require.Equal(t, vtl.FullAccess, r.PageRights(2, 0x100))
			}
			r.downTo(0, 0)
			for target := range hypercall.InputVTL(0x20) {
				before := state(r.Partition)
				r.e.Reset()
				_, s := r.protect(0, target, vtl.FullAccess, 0x100)
				require.NotEqual(t, ok, s)
				r.unchanged(before)
			}
			require.Equal(t, vtl.NoAccess, r.PageRights(0, 0x100))
		})
	},
	93: func(t *testing.T) {
		type row struct {
			target hypercall.InputVTL
			want   hypercall.Status
			rights [3]vtl.Access // of VTL0, VTL1, VTL2 afterwards
		}
		full := vtl.FullAccess
		restricts := []row{ // the level named
			{vtl0, ok, [3]vtl.Access{rd, full, full}}, {vtl1, ok, [3]vtl.Access{full, rd, full}}, {vtl2, denied, [3]vtl.Access{full, full, full}},
			{hypercall.TargetVTL(3), denied, [3]vtl.Access{full, full, full}}, {0, ok, [3]vtl.Access{full, rd, full}},
		}
		owns := []row{ // the level whose mask it is
			{vtl0, iParameter, [3]vtl.Access{full, full, full}}, {vtl1, ok, [3]vtl.Access{rd, full, full}}, {vtl2, ok, [3]vtl.Access{rd, rd, full}},
			{hypercall.TargetVTL(3), denied, [3]vtl.Access{full, full, full}}, {0, ok, [3]vtl.Access{rd, rd, full}},
		}
		eachProfile(t, func(t *testing.T, p vtl.Profile) {
			for _, c := range (by[[]row]{restricts, owns, restricts}).of(p) {
				r := levels(t, 2, vtl.Config{Profile: p, MaximumVTL: 3})
				r.protectOn(0)
				require.Equal(t, ok, r.set(0, 0, vtl1, hypercall.RegisterVsmPartitionConfig, uint64(protection|allRights)))
				r.status(c.want, func() hypercall.Status { _, s := r.protect(0, c.target, rd, 0x100); return s })
				for l, a := range c.rights {
					require.Equal(t, a, r.PageRights(vtl.VTL(l), 0x100), "%v: VTL%d", c.target, l)
				}
			}
		})
	},
	94: func(t *testing.T) {
		eachProfile(t, func(t *testing.T, p vtl.Profile) {
			r := levels(t, 1, vtl.Config{Profile: p})
			modify := func() hypercall.Status { _, s := r.restrict(0, vtl.NoAccess, 0x100); return s }
			r.status(denied, modify)
			r.protectOn(0)
			r.status(ok, modify)
		})
	},
	95: func(t *testing.T) {
		r := newRig(t, vtl.Config{Processors: 1, MaximumVTL: 2, Profile: vtl.OpenVMM})
		r.enable(0, 2, 0)
		r.call(0)
		r.protectOn(0)
		r.status(iVTL, func() hypercall.Status { _, s := r.protect(0, vtl1, vtl.NoAccess, 0x100); return s })
		eachProfile(t, func(t *testing.T, p vtl.Profile) {
			r := levels(t, 1, vtl.Config{Profile: p})
			r.protectOn(0)
			target := by[hypercall.InputVTL]{vtl0, 0, vtl0}.of(p)
			for _, f := range []hypercall.MapFlags{hypercall.MapWritable, hypercall.MapAccess | hypercall.MapLargePage, 1 << 20, 1 << 7, hypercall.MapSpecialZeroed} {
				r.status(iValue, func() hypercall.Status {
					_, s := r.ModifyProtection(0, &hypercall.ModifyVtlProtectionMaskInput{PartitionID: self, MapFlags: f, TargetVTL: target}, []uint64{0x100}, &r.e)
					return s
				})
			}
		})
	},
	96: func(t *testing.T) {
		eachProfile(t, func(t *testing.T, p vtl.Profile) {
			for _, x := range []vtl.Access{0, kx | ux} {
				for _, c := range []struct {
					mask vtl.Access
					want hypercall.Status
				}{{rd | x, ok}, {rd | wr | x, ok}, {wr | x, iValue}} {
					r := levels(t, 1, vtl.Config{Profile: p})
					r.protectOn(0)
					r.status(c.want, func() hypercall.Status { _, s := r.restrict(0, c.mask, 0x100); return s })
				}
			}
			r := levels(t, 1, vtl.Config{Profile: p})
			r.protectOn(0)
			r.status(iValue, func() hypercall.Status { _, s := r.restrict(0, kx|ux, 0x100); return s })
			r.status(ok, func() hypercall.Status { _, s := r.restrict(0, vtl.NoAccess, 0x100); return s })
		})
	},
	97: func(t *testing.T) {
		eachProfile(t, func(t *testing.T, p vtl.Profile) {
			want := by[hypercall.Status]{ok, iValue, ok}.of(p)
			for _, x := range []vtl.Access{kx, ux} {
				r := levels(t, 1, vtl.Config{Profile: p})
				r.protectOn(0)
				r.status(want, func() hypercall.Status { _, s := r.restrict(0, rd|x, 0x100); return s })
			}
			mbec := levels(t, 1, vtl.Config{Profile: p, Capabilities: hypercall.VsmCapabilities(0).WithMbecVtlMask(2)})
			mbec.protectOn(0)
			mbec.status(ok, func() hypercall.Status { _, s := mbec.restrict(0, rd|ux, 0x100); return s })
			for _, f := range []hypercall.MapFlags{hypercall.MapSupervisorShadowStack, hypercall.MapAdjustable} {
				target := by[hypercall.InputVTL]{vtl0, 0, vtl0}.of(p)
				mbec.status(iValue, func() hypercall.Status {
					_, s := mbec.ModifyProtection(0, &hypercall.ModifyVtlProtectionMaskInput{PartitionID: self, MapFlags: hypercall.MapAccess | f, TargetVTL: target}, []uint64{0x100}, &mbec.e)
					return s
				})
			}
		})
	},
	98: func(t *testing.T) {
		eachProfile(t, func(t *testing.T, p vtl.Profile) {
			r := levels(t, 1, vtl.Config{Profile: p})
			r.protectOn(0)
			for _, page := range []uint64{0, 0xff, 0x200, 1 << 40, 1 << 52, ^uint64(0)} {
				r.status(iParameter, func() hypercall.Status { _, s := r.restrict(0, rd, page); return s })
			}
			require.True(t, r.SetOverlay(0, 0x150, true))
			r.status(iParameter, func() hypercall.Status { _, s := r.restrict(0, rd, 0x150); return s })
			r.status(ok, func() hypercall.Status { _, s := r.restrict(0, rd, 0x151); return s })
		})
	},
	99: func(t *testing.T) {
		g := newGuest(t, levels(t, 1, vtl.Config{RAM: []vtl.Range{{Page: 0x100, Pages: 0x400}}}))
		g.protectOn(0)
		g.refused(denied, 0, modify.WithReps(1), &hypercall.ModifyVtlProtectionMaskInput{PartitionID: foreign, TargetVTL: vtl0}, word64(0x100))
		in := &hypercall.ModifyVtlProtectionMaskInput{PartitionID: self, TargetVTL: vtl0}
		var pages binaryBytes
		for i := range uint64(511) {
			pages = append(pages, word64(0x100+i)...)
		}
		g.refused(iAlignment, 0, modify.WithReps(511), in, pages)
		g.must(0, modify.WithReps(510), in, pages)
		for i := range uint64(511) {
			require.Equal(t, i == 510, g.PageRights(0, 0x100+i) == vtl.FullAccess)
		}
	},
	100: func(t *testing.T) {
		for a := range vtl.Access(16) {
			for b := range vtl.Access(16) {
				sense := func(a vtl.Access) bool { return (a == 0 || a&rd != 0) && a>>2&1 == a>>3 }
				if !sense(a) || !sense(b) {
					continue
				}
				r := levels(t, 2, vtl.Config{})
				r.protectOn(0)
				r.must(r.protect(0, vtl0, a, 0x100))
				r.downTo(0, 1)
				r.protectOn(0)
				r.must(r.protect(0, vtl0, b, 0x100))
				require.Equal(t, a&b, r.PageRights(0, 0x100))
				require.Equal(t, vtl.FullAccess, r.PageRights(1, 0x100))
			}
		}
	},
	101: func(t *testing.T) {
		// Two linear pages of VTL0 are the one physical page: a write through either is stopped.
		r := levels(t, 1, vtl.Config{Translator: alias{}})
		r.protectOn(0)
		r.must(r.protect(0, vtl0, rd, 0x100))
		for _, gva := range []uint64{0x7000, 0x8000} {
			if r.Active(0) == 0 {
				r.call(0)
			}
			x, s := r.TranslateVirtualAddress(0, &hypercall.TranslateVirtualAddressInput{PartitionID: self, VPIndex: 0,
				ControlFlags: hypercall.TranslateFlags(0).WithInputVtl(vtl0), GVAPage: gva}, &r.e)
			require.Equal(t, ok, s)
			require.Equal(t, uint64(0x100), x.Page)
			r.downTo(0, 0)
			r.outcome(vtl.Intercepted, func() vtl.Outcome { return r.Access(0, x.Page, vtl.Writing, &r.e) })
		}
		// What devices may do.
		n := 0
		for run, a := range r.Rights(0) {
			require.Equal(t, vtl.Range{Page: 0x100, Pages: 1}, run)
			require.Equal(t, rd, a)
			n++
		}
		require.Equal(t, 1, n)
	},
	102: func(t *testing.T) {
		r := levels(t, 3, vtl.Config{})
		r.downTo(0, 2)
		r.protectOn(0)
		r.must(r.protect(0, vtl0, rd, 0x100))
		r.downTo(0, 0)
		m := newMachine(r.Partition)
		m.rip[place{0, 0}] = 0x5000
		r.outcome(vtl.Intercepted, func() vtl.Outcome { return r.Access(0, 0x100, vtl.Writing, &r.e) })
		i := r.e.Intercept(r.one(vtl.EffectIntercept))
		require.Equal(t, vtl.VTL(2), i.Owner)
		require.Equal(t, vtl.VTL(2), r.Active(0))
		m.carryOut(t, &r.e)
		require.Equal(t, uint64(0x5000), m.rip[place{0, 0}])
	},
	103: func(t *testing.T) {
		r := protected(t, vtl.TLFS, rd)
		r.tries(vtl.Fetching, vtl.Intercepted)
		_, b := r.message(&vtl.Circumstance{Bytes: []byte{1, 2, 3}})
		var m hypercall.MemoryIntercept
		require.NoError(t, m.UnmarshalBinary(b))
		require.Zero(t, m.InstructionByteCount)
		require.Equal(t, [16]byte{}, m.InstructionBytes)
	},
	104: func(t *testing.T) {
		eachProfile(t, func(t *testing.T, p vtl.Profile) {
			r := levels(t, 1, vtl.Config{Profile: p})
			r.protectOn(0)
			if p == vtl.OpenVMM {
				r.status(iValue, func() hypercall.Status { _, s := r.restrict(0, rd|ux, 0x100); return s })
				return
			}
			r.must(r.restrict(0, rd|ux, 0x100))
			want := by[vtl.Outcome]{TLFS: vtl.Intercepted, KVM: vtl.Done}.of(p)
			r.tries(vtl.Fetching, want)
			r.tries(vtl.Fetching|vtl.User, want)
		})
	},
	138: func(t *testing.T) {
		eachProfile(t, func(t *testing.T, p vtl.Profile) {
			r := protected(t, p, vtl.NoAccess)
			r.tries(vtl.Reading, vtl.Intercepted)
			n := 0
			for _, f := range r.e.List() {
				if f.Kind == vtl.EffectIntercept {
					n++
					require.Equal(t, vtl.VTL(1), f.Level)
				}
			}
			require.Equal(t, 1, n)
			kind, _ := r.message(&vtl.Circumstance{})
			require.Equal(t, hypercall.MessageType(0x80000001), kind)
			require.Equal(t, vtl.VTL(1), r.Active(0))
			r.must(r.restrict(0, vtl.FullAccess, 0x100))
			r.tries(vtl.Reading, vtl.Done)
		})
	},
	139: func(t *testing.T) {
		for _, c := range []struct {
			op    vtl.Operation
			kind  byte
			bytes []byte
			rip   uint64
		}{
			{vtl.Reading, 0, []byte{0x48, 0x8b, 0x00}, 0x7000}, {vtl.Writing, 1, []byte{0x48, 0x89, 0x00}, 0x7000}, {vtl.Fetching, 2, nil, 0x100000},
		} {
			r := protected(t, vtl.TLFS, vtl.NoAccess)
			r.tries(c.op, vtl.Intercepted)
			_, b := r.message(&vtl.Circumstance{Header: hypercall.InterceptHeader{RIP: c.rip, Instruction: hypercall.InstructionInfo(len(c.bytes))}, Bytes: c.bytes})
			require.Equal(t, c.kind, b[5])
			var m hypercall.MemoryIntercept
			require.NoError(t, m.UnmarshalBinary(b))
			require.Equal(t, len(c.bytes), int(m.InstructionByteCount))
			require.Equal(t, append([]byte(nil), c.bytes...), append([]byte(nil), m.InstructionBytes[:len(c.bytes)]...))
			require.Equal(t, len(c.bytes), int(b[4]&0xf))
			require.Equal(t, c.rip, m.Header.RIP)
		}
	},
	140: func(t *testing.T) {
		r := levels(t, 1, vtl.Config{Processors: 2})
		r.protectOn(0)
		r.must(r.protect(0, vtl0, vtl.NoAccess, 0x123))
		require.Equal(t, ok, r.enableVP(0, 1, 1, good))
		r.started(0, 1)
		r.downTo(1, 0)
		r.outcome(vtl.Intercepted, func() vtl.Outcome { return r.Access(1, 0x123, vtl.Writing, &r.e) })
		const rf = 1 << 16
		_, b := r.message(&vtl.Circumstance{CacheType: hypercall.CacheWriteBack, Header: hypercall.InterceptHeader{Instruction: 0xa3, ExecutionState: 0x1234,
			CS: hypercall.SegmentRegister{Base: 0xabc}, RIP: 0x7000, RFLAGS: rf | 2}})
		require.Len(t, b, 0x50)
		require.Equal(t, uint32(1), binary.LittleEndian.Uint32(b[0:]))
		require.Equal(t, byte(0xa3), b[4])
		require.Equal(t, byte(1), b[5])
		require.Equal(t, uint16(0x1234), binary.LittleEndian.Uint16(b[6:]))
		require.Equal(t, uint64(0xabc), binary.LittleEndian.Uint64(b[8:]))
		require.Equal(t, uint64(0x7000), binary.LittleEndian.Uint64(b[0x18:]))
		require.Equal(t, uint64(rf|2), binary.LittleEndian.Uint64(b[0x20:]))
		var m hypercall.MemoryIntercept
		require.NoError(t, m.UnmarshalBinary(b))
		require.False(t, m.AccessInfo.GvaValid())
		require.Equal(t, uint64(0x123000), m.GPA)
		require.Equal(t, hypercall.CacheWriteBack, m.CacheType)
	},
	141: func(t *testing.T) {
		eachProfile(t, func(t *testing.T, p vtl.Profile) {
			r := protected(t, p, rd|kx|ux)
			r.tries(vtl.Reading, vtl.Done)
			r.tries(vtl.Writing, vtl.Intercepted)
			r.tries(vtl.Fetching, vtl.Done)
			r = protected(t, p, rd|wr)
			r.tries(vtl.Reading, vtl.Done)
			r.tries(vtl.Writing, vtl.Done)
			r.tries(vtl.Fetching, vtl.Intercepted)
		})
	},
}

// Alias is a Translator by which all linear pages are one physical page.
type alias struct{}

func (alias) Translate(vp uint32, level vtl.VTL, page uint64, flags hypercall.TranslateFlags) vtl.Translation {
	return vtl.Translation{Code: hypercall.TranslateSuccess, CacheType: hypercall.CacheWriteBack, Page: 0x100}
}

// I. Secure intercepts.
var rulesOfIntercepts = map[int]func(*testing.T){
	105: func(t *testing.T) {
		const cr4Write, eferWrite = hypercall.CrInterceptCr4Write, hypercall.CrInterceptMsrEferWrite
		for _, c := range []struct {
			want  hypercall.MessageType
			event func(r *rig) vtl.Outcome
		}{
			{0x80000001, func(r *rig) vtl.Outcome { return r.Access(0, 0x100, vtl.Reading, &r.e) }},
			{0x80010000, func(r *rig) vtl.Outcome { return r.AccessIO(0, 0x60, 1, true, 5, &r.e) }},
			{0x80010001, func(r *rig) vtl.Outcome { return r.WriteMSR(0, 0xc0000080, 0, 1, &r.e) }},
			{0x80010006, func(r *rig) vtl.Outcome { return r.WriteRegister(0, hypercall.RegisterCR4, 0, 1, &r.e) }},
		} {
			r := protected(t, vtl.TLFS, vtl.NoAccess)
			r.SetAssistPage(0, 1, assistOn)
			r.own(0, hypercall.RegisterCRInterceptControl, uint64(cr4Write|eferWrite))
			r.own(0, hypercall.RegisterCRInterceptCR4Mask, ^uint64(0))
			require.Equal(t, ok, r.InstallIntercept(0, &hypercall.InstallInterceptInput{PartitionID: self, Type: hypercall.InterceptIoPort, AccessMask: hypercall.InterceptAccessWrite, Parameters: 0x60}, &r.e))
			r.downTo(0, 0)
			r.outcome(vtl.Intercepted, func() vtl.Outcome { return c.event(r) })
			kind, _ := r.message(&vtl.Circumstance{})
			require.Equal(t, c.want, kind)
			f := r.one(vtl.EffectSwitch)
			require.Equal(t, vtl.VTL(1), f.Level)
			require.Equal(t, vtl.ReasonInterrupt, f.Reason)
			require.NotZero(t, f.Flags&vtl.FlagReason)
		}
	},
	106: func(t *testing.T) {
		r := protected(t, vtl.TLFS, vtl.NoAccess)
		for range 3 {
			r.tries(vtl.Reading, vtl.Intercepted)
			r.one(vtl.EffectIntercept)
			require.Zero(t, r.one(vtl.EffectSwitch).Flags&vtl.FlagAdvance)
		}
	},
	107: func(t *testing.T) {
		for _, c := range []struct {
			name, mask hypercall.Register
			write      hypercall.CrInterceptControl
		}{
			{hypercall.RegisterCR0, hypercall.RegisterCRInterceptCR0Mask, hypercall.CrInterceptCr0Write},
			{hypercall.RegisterCR4, hypercall.RegisterCRInterceptCR4Mask, hypercall.CrInterceptCr4Write},
		} {
			for b := range 8 {
				for mask := range uint64(8) {
					r := twoLevels(t, vtl.Config{})
					r.call(0)
					r.own(0, hypercall.RegisterCRInterceptControl, uint64(c.write))
					r.own(0, c.mask, mask)
					r.downTo(0, 0)
					was, now := uint64(b), uint64(b)^uint64(b)>>1
					want := vtl.Done
					if (was^now)&mask != 0 {
						want = vtl.Intercepted
					}
					r.outcome(want, func() vtl.Outcome { return r.WriteRegister(0, c.name, was, now, &r.e) })
				}
			}
		}
		// Without a mask register: also a write that changes nothing.
		for _, event := range []func(r *rig) vtl.Outcome{
			func(r *rig) vtl.Outcome { return r.WriteRegister(0, hypercall.RegisterIDTR, 5, 5, &r.e) },
			func(r *rig) vtl.Outcome { return r.WriteRegister(0, hypercall.RegisterXFEM, 7, 7, &r.e) },
			func(r *rig) vtl.Outcome { return r.WriteMSR(0, 0xc0000082, 5, 5, &r.e) },
			func(r *rig) vtl.Outcome { return r.ReadMSR(0, 0xc0000082, &r.e) },
			func(r *rig) vtl.Outcome { return r.ReadMSR(0, 0x1a0, &r.e) },
		} {
			r := twoLevels(t, vtl.Config{})
			r.call(0)
			r.own(0, hypercall.RegisterCRInterceptControl, uint64(hypercall.CrInterceptTLFS))
			r.downTo(0, 0)
			r.outcome(vtl.Intercepted, func() vtl.Outcome { return event(r) })
		}
	},
	108: func(t *testing.T) {
		r := protected(t, vtl.TLFS, rd)
		require.Equal(t, ok, r.Registers().SetRegister(0, 0, hypercall.RegisterRIP, vtl.Value{Low: 0x7000}))
		r.tries(vtl.Writing, vtl.Intercepted)
		// It was a write of 3 bytes: VTL1 carries it out, and goes past it.
		rip, s := r.get(0, hypercall.VPSelf, vtl0, hypercall.RegisterRIP)
		require.Equal(t, ok, s)
		r.status(ok, func() hypercall.Status { return r.set(0, hypercall.VPSelf, vtl0, hypercall.RegisterRIP, rip+3) })
		r.status(ok, func() hypercall.Status { return r.set(0, hypercall.VPSelf, vtl0, hypercall.RegisterCR4, 0x20) })
		r.status(ok, func() hypercall.Status {
			return r.set(0, hypercall.VPSelf, vtl0, hypercall.RegisterPendingEvent0, exception(13)|1<<8|5<<32)
		})
		r.none(vtl.EffectInject)
		r.outcome(vtl.Switched, func() vtl.Outcome { return r.Return(0, fastTrap, &r.e) })
		require.Equal(t, vtl.Effect{Kind: vtl.EffectInject, Vector: 13, Flags: vtl.FlagErrorCode, Value: 5}, r.one(vtl.EffectInject))
		rip, s = r.get(0, hypercall.VPSelf, 0, hypercall.RegisterRIP)
		require.Equal(t, ok, s)
		require.Equal(t, uint64(0x7003), rip)
	},
	109: func(t *testing.T) {
		r := levels(t, 2, vtl.Config{})
		for l := vtl.VTL(2); l > 0; l-- {
			r.protectOn(0)
			r.must(r.protect(0, vtl0, rd, 0x100))
			r.own(0, hypercall.RegisterCRInterceptControl, uint64(hypercall.CrInterceptMsrEferWrite))
			r.ret(0)
		}
		for _, event := range []func() vtl.Outcome{
			func() vtl.Outcome { return r.Access(0, 0x100, vtl.Writing, &r.e) },
			func() vtl.Outcome { return r.WriteMSR(0, 0xc0000080, 0, 1, &r.e) },
		} {
			r.outcome(vtl.Intercepted, event)
			require.Equal(t, vtl.VTL(1), r.e.Intercept(r.one(vtl.EffectIntercept)).Owner)
			// VTL1 lets it.
			r.must(r.protect(0, vtl0, vtl.FullAccess, 0x100))
			r.own(0, hypercall.RegisterCRInterceptControl, 0)
			r.downTo(0, 0)
			r.outcome(vtl.Intercepted, event)
			require.Equal(t, vtl.VTL(2), r.e.Intercept(r.one(vtl.EffectIntercept)).Owner)
			r.downTo(0, 1)
			r.own(0, hypercall.RegisterCRInterceptControl, uint64(hypercall.CrInterceptMsrEferWrite))
			r.downTo(0, 0)
		}
	},
	110: func(t *testing.T) {
		const apicBase = 0x1b
		r := twoLevels(t, vtl.Config{})
		require.Equal(t, hypercall.CrInterceptControl(0x1000), hypercall.CrInterceptApicBaseMsrWrite)
		r.call(0)
		r.own(0, hypercall.RegisterCRInterceptControl, 0x1000)
		require.Equal(t, ok, r.set(0, 0, vtl0, hypercall.RegisterAPICBase, 0xfee00900))
		r.downTo(0, 0)
		r.outcome(vtl.Done, func() vtl.Outcome { return r.ReadMSR(0, apicBase, &r.e) })
		r.outcome(vtl.Intercepted, func() vtl.Outcome { return r.WriteMSR(0, apicBase, 0xfee00900, 0, &r.e) })
		require.Equal(t, vtl.ReasonInterrupt, r.one(vtl.EffectSwitch).Reason)
		v, s := r.get(0, 0, vtl0, hypercall.RegisterAPICBase)
		require.Equal(t, ok, s)
		require.Equal(t, uint64(0xfee00900), v)

		eachProfile(t, func(t *testing.T, p vtl.Profile) {
			const reads = 1<<3 | 1<<5 | 1<<7 | 1<<9 | 1<<11 | 1<<13
			offered := by[uint64]{0x1ffffff, 0x1fffffff &^ reads &^ (1 << 24), 0x1ffffff}.of(p)
			r := levels(t, 1, vtl.Config{Profile: p})
			for b := range 64 {
				want := iValue
				if offered>>b&1 != 0 {
					want = ok
				}
				r.status(want, func() hypercall.Status { return r.set(0, 0, 0, hypercall.RegisterCRInterceptControl, 1<<b) })
			}
		})
	},
	111: func(t *testing.T) {
		r := twoLevels(t, vtl.Config{})
		install := func(kind hypercall.InterceptType, access hypercall.InterceptAccessMask) func() hypercall.Status {
			return func() hypercall.Status {
				return r.InstallIntercept(0, &hypercall.InstallInterceptInput{PartitionID: self, Type: kind, AccessMask: access, Parameters: hypercall.IoPortParameters(0x60, 0x64)}, &r.e)
			}
		}
		r.status(denied, install(hypercall.InterceptIoPort, 1))
		r.call(0)
		for kind := range hypercall.InterceptType(0x20) {
			want := iParameter
			if kind == hypercall.InterceptIoPort || kind == hypercall.InterceptIoPortRange {
				want = ok
			}
			r.status(want, install(kind, hypercall.InterceptAccessRead|hypercall.InterceptAccessWrite))
		}
		r.status(iParameter, install(hypercall.InterceptIoPort, hypercall.InterceptAccessExecute))
	},
	112: func(t *testing.T) {
		// SDM Vol. 3A table 6-5: rows are the first exception, columns the second.
		benign, contributory, fault := []uint8{1, 3, 4, 5, 6, 7, 16, 17, 18, 19}, []uint8{0, 10, 11, 12, 13}, []uint8{14}
		for i, first := range [][]uint8{benign, contributory, fault} {
			for j, second := range [][]uint8{benign, contributory, fault} {
				want := [3][3]bool{{}, {1: true}, {1: true, 2: true}}[i][j]
				for _, a := range first {
					for _, b := range second {
						require.Equal(t, want, vtl.DoubleFault(a, b), "%d, then %d", a, b)
					}
				}
			}
		}
	},
}
