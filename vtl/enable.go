package vtl

import (
	"math/bits"

	"github.com/govtx/vtx/hypercall"
)

// isSelf reports whether a partition ID in a call is the partition's own.
func (p *Partition) isSelf(id uint64) bool {
	return id == hypercall.PartitionSelf || id == p.config.PartitionID && id != hypercall.PartitionInvalid
}

// index returns the processor that a call by vp names.
func (p *Partition) index(vp, named uint32) (uint32, bool) {
	if named == hypercall.VPSelf {
		named = vp
	}
	return named, uint64(named) < uint64(len(p.processors))
}

// next reports whether a level is the highest one enabled for the partition of those lower
// than target: the one that may enable it (rules 6 and 16).
func (p *Partition) next(level, target VTL) bool {
	return level < target && p.enabled&below(target)&above(level) == 0
}

// initialConfig is what VsmPartitionConfig of a level is when it has been enabled: all
// rights for lower ones, and memory zeroed on reset.
const initialConfig = hypercall.VsmPartitionConfigZeroMemoryOnReset | hypercall.VsmPartitionConfig(FullAccess)<<1

// EnablePartitionVTL is HvCallEnablePartitionVtl by the active level of processor vp: the
// target level can then be enabled on processors (rules 4 to 15).
func (p *Partition) EnablePartitionVTL(vp uint32, in *hypercall.EnablePartitionVtlInput, e *Effects) hypercall.Status {
	v := p.processor(vp)
	if v == nil {
		return p.refuse(noSuchCaller)
	}
	target := in.TargetVTL
	switch {
	case !p.isSelf(in.PartitionID):
		return p.refuse(foreignPartition)
	case !in.ReservedZero():
		return p.refuse(reservedInput)
	case target == 0:
		return p.refuse(partitionZero)
	case target > p.config.MaximumVTL:
		return p.refuse(partitionMaximum)
	case in.Flags&^hypercall.PartitionVtlEnableMbec != 0:
		return p.refuse(partitionFlags)
	case in.Flags != 0 && p.config.Capabilities.MbecVtlMask()&bit(target) == 0:
		return p.refuse(partitionMBEC)
	case p.enabled&bit(target) != 0:
		return p.refuse(partitionAlready)
	case target >= v.active && !p.next(v.active, target):
		return p.refuse(partitionCaller)
	}
	p.why = refusedNot
	p.enabled |= bit(target)
	if in.Flags != 0 {
		p.mbec |= bit(target)
	}
	p.domains[target] = domain{config: initialConfig}
	e.add(Effect{Kind: EffectView, Level: target})
	return hypercall.StatusSuccess
}

// EnableVPVTL is HvCallEnableVpVtl by the active level of processor vp: the target level can
// then be entered on the target processor, and begins with the context (rules 4, 16 to 26).
// Intercepts that higher levels have there begin to count for the level after that: its
// registers had no values before that the context could change (rule 107).
func (p *Partition) EnableVPVTL(vp uint32, in *hypercall.EnableVpVtlInput, e *Effects) hypercall.Status {
	v := p.processor(vp)
	if v == nil {
		return p.refuse(noSuchCaller)
	}
	index, ok := p.index(vp, in.VPIndex)
	target := in.TargetVTL
	switch {
	case !p.isSelf(in.PartitionID):
		return p.refuse(foreignPartition)
	case !ok:
		return p.refuse(noSuchVP)
	case !target.Valid():
		return p.refuse(noLevel)
	case !in.ReservedZero():
		return p.refuse(reservedInput)
	case target == 0:
		return p.refuse(vpZero)
	case p.enabled&bit(target) == 0:
		return p.refuse(vpPartition)
	}
	t := &p.processors[index]
	if v.active < target {
		if p.is(enableOnlyOwn) && index != vp {
			return p.refuse(vpOwn)
		}
		if p.onAny&bit(target) != 0 || !p.next(v.active, target) {
			return p.refuse(vpCaller)
		}
	}
	if t.has(target) {
		return p.refuse(vpAlready)
	}
	if r := checkContext(target, &in.Context); r != refusedNot {
		return p.refuse(r)
	}
	p.why = refusedNot
	before := p.mbecLevels(index)
	t.enabled |= bit(target)
	p.onAny |= bit(target)
	*p.context(index, target) = context{}
	e.context(index, target, &in.Context)
	p.mbecChanged(index, before, e)
	return hypercall.StatusSuccess
}

// mbecLevels returns the set of levels of a processor that MBEC is in effect for.
func (p *Partition) mbecLevels(vp uint32) (s uint16) {
	if p.mbec == 0 {
		return 0
	}
	for l := range p.stride {
		if p.mbecOn(vp, VTL(l)) {
			s |= 1 << l
		}
	}
	return s
}

func (p *Partition) mbecChanged(vp uint32, before uint16, e *Effects) {
	now := p.mbecLevels(vp)
	for d := before ^ now; d != 0; d &= d - 1 {
		l := VTL(bits.TrailingZeros16(d))
		f := Effect{Kind: EffectMBEC, VP: vp, Level: l}
		if now&bit(l) != 0 {
			f.Flags = FlagOn
		}
		e.add(f)
	}
}

// StartVP is HvCallStartVirtualProcessor by the active level of processor vp: a processor
// that waits to be started has the context in the target level, and runs. If higher levels
// are enabled on it, the highest one runs first. If a level above the caller's wants to know, it is
// Intercepted, and the call is made again after that level has run; otherwise it is Done,
// with the status: ACCESS_DENIED if that level is not enabled on the caller's processor, so
// that it cannot be told (rules 78, 79, 113 to 118).
//
// The context is not held against the intercepts of register writes that higher levels have
// on the target processor: these run first there, and see it. Those who want to see it
// before have InterceptVpStartup and DenyLowerVtlStartup (rule 107).
func (p *Partition) StartVP(vp uint32, in *hypercall.StartVirtualProcessorInput, e *Effects) (Outcome, hypercall.Status) {
	v := p.processor(vp)
	if v == nil {
		return Done, p.refuse(noSuchCaller)
	}
	index, ok := p.index(vp, in.VPIndex)
	target := in.TargetVTL
	switch {
	case !p.isSelf(in.PartitionID):
		return Done, p.refuse(foreignPartition)
	case !ok:
		return Done, p.refuse(noSuchVP)
	case index == vp:
		return Done, p.refuse(startSelf)
	case !target.Valid():
		return Done, p.refuse(noLevel)
	case target > v.active:
		return Done, p.refuse(startAbove)
	}
	t := &p.processors[index]
	switch {
	case !t.has(target):
		return Done, p.refuse(startLevelOff)
	case p.deniesStart(v.active):
		return Done, p.refuse(startDenied)
	case t.started:
		return Done, p.refuse(startRunning)
	}
	if r := checkContext(target, &in.Context); r != refusedNot {
		return Done, p.refuse(r)
	}
	o := p.startGuard(v)
	if o != 0 && !v.has(o) {
		return Done, p.refuse(startUntold)
	}
	p.why = refusedNot
	if o != 0 {
		p.report(v, &Intercept{Kind: InterceptStart, VP: vp, Level: v.active, Owner: o, Target: index, TargetLevel: target}, e)
		return Intercepted, 0
	}
	t.started = true
	t.active = VTL(bits.Len16(t.enabled) - 1)
	e.context(index, target, &in.Context)
	e.add(Effect{Kind: EffectStart, VP: index, Level: t.active})
	if t.events&bit(t.active) != 0 {
		p.inject(index, t, t.active, e)
	}
	return Done, hypercall.StatusSuccess
}

// Bits of registers in a context (SDM Vol. 3A 2.2.1, 2.5; Vol. 1 3.4.3).
const (
	cr0PE = 1 << 0
	cr0NW = 1 << 29
	cr0CD = 1 << 30
	cr0PG = 1 << 31

	cr4PAE = 1 << 5

	eferLME   = 1 << 8
	eferLMA   = 1 << 10
	eferKnown = 1<<0 | eferLME | eferLMA | 1<<11

	flagsOne  = 1 << 1
	flagsZero = ^uint64(0x3f7fd7) // reserved bits, all but bit 1
)

// validCR0 reports whether CR0 can have a value (SDM Vol. 3A 2.5).
func validCR0(v uint64) bool {
	return v>>32 == 0 && (v&cr0PG == 0 || v&cr0PE != 0) && (v&cr0NW == 0 || v&cr0CD != 0)
}

// validPAT reports whether each of the eight types is one that there is (SDM Vol. 3A
// table 12-10).
func validPAT(v uint64) bool {
	for ; v != 0; v >>= 8 {
		if t := v & 0xff; t > 7 || t == 2 || t == 3 {
			return false
		}
	}
	return true
}

// checkContext tells what is wrong with the initial context of a level.
func checkContext(level VTL, c *Context) Refusal {
	long := c.EFER&eferLME != 0 && c.CR0&cr0PG != 0
	switch {
	case level > 0 && c.CR0&cr0PE == 0:
		return realMode
	case !validCR0(c.CR0), !validPAT(c.PAT),
		c.EFER&^eferKnown != 0, (c.EFER&eferLMA != 0) != long, long && c.CR4&cr4PAE == 0,
		c.RFLAGS&flagsZero != 0, c.RFLAGS&flagsOne == 0:
		return badContext
	}
	return refusedNot
}

// Reset brings the partition to what it was when it was made. If a level that is enabled
// has ZeroMemoryOnReset set, memory is zeroed first (rule 77). Registers are reset if they
// have a method Reset().
func (p *Partition) Reset(e *Effects) {
	for l := VTL(1); l <= p.config.MaximumVTL; l++ {
		if p.domains[l].config.ZeroMemoryOnReset() {
			for _, r := range p.config.RAM {
				e.add(Effect{Kind: EffectZero, Page: r.Page, Pages: r.Pages})
			}
			break
		}
	}
	p.initial()
	if r, ok := p.registers.(interface{ Reset() }); ok {
		r.Reset()
	}
	e.add(Effect{Kind: EffectReset})
}
