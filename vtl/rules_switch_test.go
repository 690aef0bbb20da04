package vtl_test

import (
	"testing"

	"github.com/govtx/vtx/hypercall"
	"github.com/govtx/vtx/internal/require"
	"github.com/govtx/vtx/vtl"
)

// traps requires some VTL calls or returns to be #UD, and the first of all to be none.
func traps(t *testing.T, r *rig, do func(uint32, vtl.Trap, *vtl.Effects) vtl.Outcome, good vtl.Trap, bad ...vtl.Trap) {
	t.Helper()
	for _, trap := range bad {
		r.outcome(vtl.UndefinedInstruction, func() vtl.Outcome { return do(0, trap, &r.e) })
		require.NotZero(t, r.Why())
	}
	r.outcome(vtl.Switched, func() vtl.Outcome { return do(0, good, &r.e) })
}

// A pair is RAX and RCX.
type pair [2]uint64

const assistOn = 0x123001 // an assist page: page 0x123, enabled

// B. VTL call; C. VTL return.
var rulesOfCalls = map[int]func(*testing.T){
	28: func(t *testing.T) {
		r := twoLevels(t, vtl.Config{})
		traps(t, r, r.Call, callTrap, vtl.Trap{Word: callTrap.Word, CPL: 1}, vtl.Trap{Word: callTrap.Word, CPL: 2}, vtl.Trap{Word: callTrap.Word, CPL: 3})
	},
	29: func(t *testing.T) {
		r := twoLevels(t, vtl.Config{})
		traps(t, r, r.Call, callTrap, vtl.Trap{Word: callTrap.Word, RealMode: true})
	},
	30: func(t *testing.T) {
		r := newRig(t, vtl.Config{Processors: 2, MaximumVTL: 1})
		call := func() vtl.Outcome { return r.Call(0, callTrap, &r.e) }
		r.outcome(vtl.UndefinedInstruction, call)
		require.Equal(t, ok, r.enablePartition(0, 1, 0))
		r.outcome(vtl.UndefinedInstruction, call)
		require.Equal(t, ok, r.enableVP(0, 1, 1, good)) // another processor
		r.outcome(vtl.UndefinedInstruction, call)
		up := levels(t, 1, vtl.Config{})
		up.outcome(vtl.UndefinedInstruction, func() vtl.Outcome { return up.Call(0, callTrap, &up.e) })
	},
	31: func(t *testing.T) {
		r := twoLevels(t, vtl.Config{})
		traps(t, r, r.Call, callTrap, vtl.Trap{Word: callTrap.Word, Control: 1}, vtl.Trap{Word: callTrap.Word, Control: 1 << 63})
	},
	32: func(t *testing.T) {
		r := twoLevels(t, vtl.Config{})
		require.Equal(t, hypercall.Input(0x11), callTrap.Word)
		var bad []vtl.Trap
		for b := range 48 {
			bad = append(bad, vtl.Trap{Word: callTrap.Word | 1<<(16+b)})
		}
		traps(t, r, r.Call, callTrap, bad...)
	},
	33: func(t *testing.T) {
		r := levels(t, 4, vtl.Config{})
		r.downTo(0, 0)
		for l := vtl.VTL(1); l <= 4; l++ {
			r.call(0)
			require.Equal(t, l, r.Active(0))
		}
		gap := newRig(t, vtl.Config{Processors: 1, MaximumVTL: 5})
		gap.enable(0, 3, 0)
		gap.call(0)
		require.Equal(t, vtl.VTL(3), gap.Active(0))
		gap.enable(0, 5, 0)
		gap.downTo(0, 0)
		gap.call(0)
		require.Equal(t, vtl.VTL(3), gap.Active(0), "not past it")
	},
	34: func(t *testing.T) {
		r := twoLevels(t, vtl.Config{})
		m := newMachine(r.Partition)
		m.rip[place{0, 0}] = 0x5000
		r.outcome(vtl.Switched, func() vtl.Outcome { return r.Call(0, callTrap, &r.e) })
		m.carryOut(t, &r.e)
		require.Equal(t, uint64(0x5003), m.rip[place{0, 0}])
		r.outcome(vtl.Switched, func() vtl.Outcome { return r.Return(0, returnTrap, &r.e) })
		m.carryOut(t, &r.e)
		require.Equal(t, uint64(0x5003), m.rip[place{0, 0}])
	},
	35: func(t *testing.T) {
		r := twoLevels(t, vtl.Config{})
		for _, name := range []hypercall.Register{hypercall.RegisterRBX, hypercall.RegisterRSP, hypercall.RegisterCR3, hypercall.RegisterXMM0} {
			r.own(0, name, 7)
		}
		r.call(0)
		for name, want := range map[hypercall.Register]uint64{hypercall.RegisterRBX: 7, hypercall.RegisterXMM0: 7, hypercall.RegisterRSP: 0, hypercall.RegisterCR3: 0} {
			v, s := r.get(0, hypercall.VPSelf, 0, name)
			require.Equal(t, ok, s)
			require.Equal(t, want, v, "%v", name)
			r.own(0, name, 9)
		}
		r.ret(0)
		for name, want := range map[hypercall.Register]uint64{hypercall.RegisterRBX: 9, hypercall.RegisterXMM0: 9, hypercall.RegisterRSP: 7, hypercall.RegisterCR3: 7} {
			v, s := r.get(0, hypercall.VPSelf, 0, name)
			require.Equal(t, ok, s)
			require.Equal(t, want, v, "%v", name)
		}
	},
	36: func(t *testing.T) {
		eachProfile(t, func(t *testing.T, p vtl.Profile) {
			r := twoLevels(t, vtl.Config{Profile: p})
			m := newMachine(r.Partition)
			r.outcome(vtl.Switched, func() vtl.Outcome { return r.Call(0, callTrap, &r.e) })
			require.Zero(t, r.one(vtl.EffectSwitch).Flags&vtl.FlagReason, "the page is off")
			m.carryOut(t, &r.e)
			r.downTo(0, 0)
			m = newMachine(r.Partition)
			require.Equal(t, vtl.Done, r.SetAssistPage(0, 1, assistOn))
			require.Equal(t, vtl.Done, r.SetAssistPage(0, 0, 0x456001))
			r.outcome(vtl.Switched, func() vtl.Outcome { return r.Call(0, callTrap, &r.e) })
			m.carryOut(t, &r.e)
			require.Equal(t, vtl.Reason(1), m.page(0x123).reason)
			require.Zero(t, m.page(0x456).reason)
		})
	},
	37: func(t *testing.T) {
		eachProfile(t, func(t *testing.T, p vtl.Profile) {
			r := twoLevels(t, vtl.Config{Profile: p})
			m := newMachine(r.Partition)
			m.rax[0], m.rcx[0] = 5, 6
			require.Equal(t, vtl.Done, r.SetAssistPage(0, 1, assistOn))
			r.outcome(vtl.Switched, func() vtl.Outcome { return r.Call(0, callTrap, &r.e) })
			m.carryOut(t, &r.e)
			want := by[pair]{KVM: pair{5, 6}}.of(p)
			require.Equal(t, want, pair{m.page(0x123).rax, m.page(0x123).rcx})
			require.Equal(t, uint64(5), m.rax[0], "shared registers stay")
		})
	},
	38: func(t *testing.T) {
		r := newRig(t, vtl.Config{Processors: 1, MaximumVTL: 1})
		m := newMachine(r.Partition)
		r.enable(0, 1, 0)
		m.carryOut(t, &r.e)
		for round := range uint64(3) {
			r.outcome(vtl.Switched, func() vtl.Outcome { return r.Call(0, callTrap, &r.e) })
			r.none(vtl.EffectContext)
			m.carryOut(t, &r.e)
			require.Equal(t, good.RIP+round*trapLength, m.rip[place{0, 1}])
			r.outcome(vtl.Switched, func() vtl.Outcome { return r.Return(0, returnTrap, &r.e) })
			m.carryOut(t, &r.e)
		}
	},
	40: func(t *testing.T) {
		for _, top := range []vtl.VTL{0, 1} {
			r := levels(t, top, vtl.Config{})
			r.downTo(0, 0)
			r.outcome(vtl.UndefinedInstruction, func() vtl.Outcome { return r.Return(0, returnTrap, &r.e) })
			r.outcome(vtl.UndefinedInstruction, func() vtl.Outcome { return r.Return(0, fastTrap, &r.e) })
		}
	},
	41: func(t *testing.T) {
		r := levels(t, 1, vtl.Config{})
		traps(t, r, r.Return, returnTrap, vtl.Trap{Word: returnTrap.Word, CPL: 1}, vtl.Trap{Word: returnTrap.Word, CPL: 3})
	},
	42: func(t *testing.T) {
		r := levels(t, 1, vtl.Config{})
		var bad []vtl.Trap
		for b := 1; b < 64; b++ {
			bad = append(bad, vtl.Trap{Word: returnTrap.Word, Control: 1 << b}, vtl.Trap{Word: returnTrap.Word, Control: 1<<b | 1})
		}
		traps(t, r, r.Return, fastTrap, bad...)
		r.call(0)
		traps(t, r, r.Return, returnTrap)
	},
	43: func(t *testing.T) {
		eachProfile(t, func(t *testing.T, p vtl.Profile) {
			m, r := returning(t, p, 2, returnTrap)
			require.Equal(t, pair{11, 12}, pair{m.rax[0], m.rcx[0]})
			require.Equal(t, uint64(0x222), r.one(vtl.EffectSwitch).Page, "the page of the level that returns")
			// Offsets of the page.
			page := hypercall.VpAssistFields{VtlControl: hypercall.VtlControl{ReturnRAX: 0x1111, ReturnRCX: 0x2222}}
			b, err := page.MarshalBinary()
			require.NoError(t, err)
			require.Equal(t, []byte{0x11, 0x11}, b[16:18])
			require.Equal(t, []byte{0x22, 0x22}, b[24:26])
			// Without the page there is nothing to load.
			off := levels(t, 1, vtl.Config{Profile: p})
			off.outcome(vtl.Switched, func() vtl.Outcome { return off.Return(0, returnTrap, &off.e) })
			require.Equal(t, vtl.FlagAdvance, off.one(vtl.EffectSwitch).Flags)
		})
	},
	44: func(t *testing.T) {
		eachProfile(t, func(t *testing.T, p vtl.Profile) {
			m, _ := returning(t, p, 2, fastTrap)
			want := by[pair]{pair{1, 2}, pair{1, 2}, pair{11, 12}}.of(p)
			require.Equal(t, want, pair{m.rax[0], m.rcx[0]})
		})
	},
	45: func(t *testing.T) {
		r := levels(t, 4, vtl.Config{})
		for l := vtl.VTL(3); ; l-- {
			r.ret(0)
			require.Equal(t, l, r.Active(0))
			if l == 0 {
				break
			}
		}
		gap := newRig(t, vtl.Config{Processors: 1, MaximumVTL: 5})
		gap.enable(0, 3, 0)
		gap.call(0)
		gap.enable(0, 5, 0)
		gap.call(0)
		gap.ret(0)
		require.Equal(t, vtl.VTL(3), gap.Active(0))
		gap.ret(0)
		require.Equal(t, vtl.VTL(0), gap.Active(0))
	},
	46: func(t *testing.T) {
		const locked = uint64(hypercall.VsmVpSecureConfigTlbLocked)
		r := levels(t, 2, vtl.Config{Processors: 2})
		require.Equal(t, ok, r.enableVP(0, 1, 1, good))
		// VTL2 locks both lower levels, VTL1 locks VTL0: here, and on the other processor.
		r.own(0, hypercall.RegisterVsmVpSecureConfigVtl0, locked)
		r.own(0, hypercall.RegisterVsmVpSecureConfigVtl1, locked)
		require.Equal(t, ok, r.set(0, 0, vtl1, hypercall.RegisterVsmVpSecureConfigVtl0, locked))
		require.Equal(t, ok, r.set(0, 1, vtl1, hypercall.RegisterVsmVpSecureConfigVtl0, locked))
		lock := func(vp uint32, owner hypercall.InputVTL, name hypercall.Register) uint64 {
			v, s := r.get(0, vp, owner, name)
			require.Equal(t, ok, s)
			return v
		}
		require.Equal(t, locked, lock(0, vtl2, hypercall.RegisterVsmVpSecureConfigVtl0))
		r.ret(0)
		require.Equal(t, locked, lock(0, vtl1, hypercall.RegisterVsmVpSecureConfigVtl0), "VTL1's is there")
		r.call(0)
		require.Zero(t, lock(0, vtl2, hypercall.RegisterVsmVpSecureConfigVtl0))
		require.Zero(t, lock(0, vtl2, hypercall.RegisterVsmVpSecureConfigVtl1))
		r.downTo(0, 0)
		r.call(0)
		require.Zero(t, lock(0, vtl1, hypercall.RegisterVsmVpSecureConfigVtl0))
		require.Equal(t, locked, lock(1, vtl1, hypercall.RegisterVsmVpSecureConfigVtl0), "the other processor has not returned")
	},
	47: func(t *testing.T) {
		r := twoLevels(t, vtl.Config{})
		m := newMachine(r.Partition)
		step := func(event func() vtl.Outcome, want vtl.Outcome, rip uint64) {
			t.Helper()
			r.outcome(want, event)
			m.carryOut(t, &r.e)
			require.Equal(t, rip, m.rip[place{0, 0}])
		}
		back := func() vtl.Outcome { return r.Return(0, fastTrap, &r.e) }
		m.rip[place{0, 0}] = 0x5000
		step(func() vtl.Outcome { return r.Call(0, callTrap, &r.e) }, vtl.Switched, 0x5003)
		step(back, vtl.Switched, 0x5003)
		step(func() vtl.Outcome { return r.Interrupt(0, 1, vtl.NMI, 0, &r.e) }, vtl.Switched, 0x5003)
		r.Accept(0)
		r.protectOn(0)
		r.must(r.restrict(0, vtl.NoAccess, 0x100))
		step(back, vtl.Switched, 0x5003)
		step(func() vtl.Outcome { return r.Access(0, 0x100, vtl.Reading, &r.e) }, vtl.Intercepted, 0x5003)
		step(back, vtl.Switched, 0x5003)
	},
	48: func(t *testing.T) {
		r := levels(t, 2, vtl.Config{Processors: 2})
		require.Equal(t, ok, r.enableVP(0, 1, 1, good))
		r.started(0, 1)
		require.Equal(t, ok, r.Registers().SetRegister(0, 0, hypercall.RegisterRFLAGS, vtl.Value{Low: 0x202}))
		for _, event := range []func() vtl.Outcome{
			func() vtl.Outcome { return r.Interrupt(0, 0, vtl.Fixed, 0xff, &r.e) },
			func() vtl.Outcome { return r.Interrupt(0, 1, vtl.NMI, 0, &r.e) },
			func() vtl.Outcome { return r.Request(0, 1, vtl.Fixed, 0x80, &r.e) },
			func() vtl.Outcome { return r.Resolve(0, &r.e) },
			func() vtl.Outcome { return r.SetTPR(0, 2, 0xff, &r.e) },
			func() vtl.Outcome { return r.Startup(1, 0, 0, vtl.INIT, 0, &r.e) },
			func() vtl.Outcome { return r.Access(0, 0x100, vtl.Writing, &r.e) },
		} {
			event()
			require.Equal(t, vtl.VTL(2), r.Active(0))
		}
	},
	49: func(t *testing.T) {
		for _, blocked := range []bool{false, true} {
			r := twoLevels(t, vtl.Config{})
			r.call(0)
			if blocked {
				r.SetTPR(0, 1, 0x40, &r.e)
			}
			require.Equal(t, ok, r.Registers().SetRegister(0, 1, hypercall.RegisterRFLAGS, vtl.Value{Low: 2})) // IF is 0
			require.Equal(t, vtl.Pending, r.Interrupt(0, 1, vtl.Fixed, 0x41, &r.e))
			r.outcome(vtl.Switched, func() vtl.Outcome { return r.Return(0, fastTrap, &r.e) })
			if blocked {
				require.Equal(t, vtl.VTL(0), r.Active(0))
				continue
			}
			require.Equal(t, []vtl.Effect{
				{Kind: vtl.EffectSwitch, From: 1, Level: 0, Flags: vtl.FlagAdvance},
				{Kind: vtl.EffectSwitch, From: 0, Level: 1, Reason: vtl.ReasonInterrupt},
			}, r.e.List())
		}
	},
}

// returning has level top return, from an assist page with other values of RAX and RCX
// than those that there are: 11 and 12, 1 and 2.
func returning(t *testing.T, p vtl.Profile, top vtl.VTL, trap vtl.Trap) (*machine, *rig) {
	r := levels(t, top, vtl.Config{Profile: p})
	for l := range top + 1 {
		require.Equal(t, vtl.Done, r.SetAssistPage(0, l, uint64(l)*0x111<<12|1))
	}
	m := newMachine(r.Partition)
	m.rax[0], m.rcx[0] = 1, 2
	page := m.page(uint64(top) * 0x111)
	page.rax, page.rcx = 11, 12
	r.outcome(vtl.Switched, func() vtl.Outcome { return r.Return(0, trap, &r.e) })
	m.carryOut(t, &r.e)
	return m, r
}
