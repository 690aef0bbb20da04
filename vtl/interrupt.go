package vtl

import (
	"math/bits"

	"github.com/govtx/vtx/hypercall"
)

// An Interrupt is a way to interrupt a level.
type Interrupt uint8

// Interrupts.
const (
	Fixed Interrupt = iota
	NMI
)

// String returns the name.
func (i Interrupt) String() string {
	switch i {
	case Fixed:
		return "fixed"
	case NMI:
		return "NMI"
	}
	return "Interrupt(?)"
}

// firstVector is the lowest vector that a local APIC delivers (SDM Vol. 3A 11.5.2).
const firstVector = 16

func (c *context) request(vector uint8) { c.requested[vector>>6] |= 1 << (vector & 63) }

// highest returns the highest vector of a register of 256 bits, or -1.
func highest(r *[4]uint64) int {
	for i := 3; i >= 0; i-- {
		if r[i] != 0 {
			return i<<6 + bits.Len64(r[i]) - 1
		}
	}
	return -1
}

// wantsEntry reports whether an interrupt waits that only the level's TPR could block, and
// does not.
func (c *context) wantsEntry() bool {
	return c.nmi || highest(&c.requested)>>4 > int(c.tpr>>4)
}

// next returns the vector that the level's local APIC gives the processor next: above
// the TPR and all that is in service (SDM Vol. 3A 11.8.3).
func (c *context) next() (vector uint8, ok bool) {
	r := highest(&c.requested)
	if r < 0 || r>>4 <= max(int(c.tpr), highest(&c.inService))>>4 {
		return 0, false
	}
	return uint8(r), true
}

func (c *context) anyPending() bool { return c.nmi || c.requested != [4]uint64{} }

// Interrupt requests an interrupt in a level of a processor: it is Request followed by
// Resolve. It is Switched if the processor entered the level for it, else Pending; Dropped
// if the level is not enabled there, or the vector is below 16.
//
// Whether the level's RFLAGS.IF is set, or that of the level that runs, makes no difference
// (TLFS vsm.md, "Interrupt Masking and VTL Switches").
func (p *Partition) Interrupt(vp uint32, level VTL, kind Interrupt, vector uint8, e *Effects) Outcome {
	if !p.request(vp, level, kind, vector) {
		return Dropped
	}
	v := &p.processors[vp]
	was := v.active
	p.settle(vp, v, e)
	if v.active != was {
		return Switched
	}
	return Pending
}

// Request requests an interrupt in a level of a processor that may be in the guest: an
// EffectKick says that it has to leave it. It is Pending or Dropped.
func (p *Partition) Request(vp uint32, level VTL, kind Interrupt, vector uint8, e *Effects) Outcome {
	if !p.request(vp, level, kind, vector) {
		return Dropped
	}
	e.add(Effect{Kind: EffectKick, VP: vp})
	return Pending
}

func (p *Partition) request(vp uint32, level VTL, kind Interrupt, vector uint8) bool {
	v := p.processor(vp)
	if v == nil || !v.has(level) || kind > NMI || kind == Fixed && vector < firstVector {
		return false
	}
	c := p.context(vp, level)
	if kind == NMI {
		c.nmi = true
	} else {
		c.request(vector)
	}
	v.pending |= bit(level)
	return true
}

// Next returns what the active level of a processor would be interrupted by now: an NMI, or
// the vector that its local APIC has for it. The embedder looks whether the processor can
// take it (RFLAGS.IF, interrupt shadow), calls Accept, and injects it.
func (p *Partition) Next(vp uint32) (kind Interrupt, vector uint8, ok bool) {
	v := p.processor(vp)
	if v == nil || !v.started || v.pending&bit(v.active) == 0 || v.blocked&bit(v.active) != 0 {
		return 0, 0, false
	}
	c := p.context(vp, v.active)
	if c.nmi {
		return NMI, 2, true
	}
	vector, ok = c.next()
	return Fixed, vector, ok
}

// Accept takes what Next returns: it is pending no longer, and in service if it is a fixed
// interrupt, unless it comes from VINA with AutoEoi.
func (p *Partition) Accept(vp uint32) (kind Interrupt, vector uint8, ok bool) {
	kind, vector, ok = p.Next(vp)
	if !ok {
		return kind, vector, false
	}
	v := &p.processors[vp]
	c := p.context(vp, v.active)
	if kind == NMI {
		c.nmi = false
	} else {
		c.requested[vector>>6] &^= 1 << (vector & 63)
		if !c.vina.Enabled() || !c.vina.AutoEoi() || c.vina.Vector() != vector {
			c.inService[vector>>6] |= 1 << (vector & 63)
		}
	}
	if !c.anyPending() {
		v.pending &^= bit(v.active)
	}
	return kind, vector, true
}

// EOI ends the active level's interrupt in service with the highest vector. VinaAsserted
// stays as it is.
func (p *Partition) EOI(vp uint32, e *Effects) Outcome {
	v := p.processor(vp)
	if v == nil {
		return Dropped
	}
	c := p.context(vp, v.active)
	h := highest(&c.inService)
	if h < 0 {
		return Dropped
	}
	c.inService[h>>6] &^= 1 << (h & 63)
	return Done
}

// SetTPR sets the task-priority register of a level of a processor: CR8 in bits 7:4. If a
// higher level's goes down it may be entered.
func (p *Partition) SetTPR(vp uint32, level VTL, tpr uint8, e *Effects) Outcome {
	v := p.processor(vp)
	if v == nil || !v.has(level) {
		return Dropped
	}
	p.context(vp, level).tpr = tpr
	was := v.active
	p.settle(vp, v, e)
	if v.active != was {
		return Switched
	}
	return Done
}

// TPR returns the task-priority register of a level of a processor; 0 if it is not enabled.
func (p *Partition) TPR(vp uint32, level VTL) uint8 {
	if v := p.processor(vp); v != nil && v.has(level) {
		return p.context(vp, level).tpr
	}
	return 0
}

// PendingLevels returns the set of levels of a processor with interrupts that are not
// accepted.
func (p *Partition) PendingLevels(vp uint32) uint16 {
	if v := p.processor(vp); v != nil {
		return v.pending
	}
	return 0
}

// VINAAsserted reports the flag of a level of a processor.
func (p *Partition) VINAAsserted(vp uint32, level VTL) bool {
	v := p.processor(vp)
	return v != nil && v.has(level) && p.context(vp, level).asserted
}

// SetVINAAsserted tells the core what VinaAsserted in the assist page of a level is now.
// Software changes it without the hypervisor's noticing: an embedder with levels that use
// VINA reads it before it calls Interrupt or Resolve.
func (p *Partition) SetVINAAsserted(vp uint32, level VTL, asserted bool) {
	if v := p.processor(vp); v != nil && v.has(level) {
		p.context(vp, level).asserted = asserted
	}
}

// SetAssistPage is a write to HV_X64_MSR_VP_ASSIST_PAGE by a level of a processor: Done,
// GeneralProtection if the address has more bits than physical ones have, or Dropped if the
// level is not enabled there.
func (p *Partition) SetAssistPage(vp uint32, level VTL, value uint64) Outcome {
	v := p.processor(vp)
	if v == nil || !v.has(level) {
		return Dropped
	}
	if value>>p.config.PhysicalBits != 0 {
		return GeneralProtection
	}
	p.context(vp, level).assist = value
	return Done
}

// AssistPage returns HV_X64_MSR_VP_ASSIST_PAGE of a level of a processor; 0 if the level is
// not enabled.
func (p *Partition) AssistPage(vp uint32, level VTL) uint64 {
	if v := p.processor(vp); v != nil && v.has(level) {
		return p.context(vp, level).assist
	}
	return 0
}

// A Startup is an interprocessor interrupt that starts or stops processors.
type Startup uint8

// Startups.
const (
	INIT Startup = iota
	SIPI
)

// Startup is an INIT or startup IPI that the active level of processor vp sends, for a level
// of processor target. It is Dropped if that processor has a higher level than the one
// that it is for, if it is for a level above VTL0, which only HvCallStartVirtualProcessor
// starts, or if a higher level than the sender denies it (TLFS vsm.md, "VTL Interrupt
// Management"; rules 55 and 78). Intercepted is the sender if a higher level has asked for
// that; if that level is not enabled on the sender's processor the IPI is Dropped (rule 79).
func (p *Partition) Startup(vp, target uint32, level VTL, kind Startup, vector uint8, e *Effects) Outcome {
	s, v := p.processor(vp), p.processor(target)
	if s == nil || v == nil || kind > SIPI || level != 0 || v.enabled != 1 {
		return Dropped
	}
	if p.deniesStart(s.active) {
		return Dropped
	}
	if kind == SIPI && v.started {
		return Dropped // it does not wait for one
	}
	if o := p.startGuard(s); o != 0 {
		if !s.has(o) {
			return Dropped
		}
		p.report(s, &Intercept{Kind: InterceptStart, VP: vp, Level: s.active, Owner: o, Target: target, TargetLevel: level, Vector: vector, INIT: kind == INIT}, e)
		return Intercepted
	}
	if kind == INIT {
		p.stop(target, v, e)
		return Done
	}
	v.started = true
	e.add(Effect{Kind: EffectStart, VP: target, Level: 0, Vector: vector, Flags: FlagSIPI})
	return Done
}

// stop resets a processor that has VTL0 only.
func (p *Partition) stop(vp uint32, v *processor, e *Effects) {
	if v.blocked != 0 {
		p.waiting -= bits.OnesCount16(v.blocked)
	}
	*v = processor{enabled: 1}
	*p.context(vp, 0) = context{}
	e.add(Effect{Kind: EffectInit, VP: vp})
}

// deniesStart reports whether a level above this one denies it to start processors.
func (p *Partition) deniesStart(level VTL) bool {
	for o := p.enabled & above(level); o != 0; o &= o - 1 {
		if p.domains[bits.TrailingZeros16(o)].config&hypercall.VsmPartitionConfigDenyLowerVtlStartup != 0 {
			return true
		}
	}
	return false
}

// startGuard returns the lowest level above the active one of a processor that wants to know
// when it starts processors; 0 if there is none. It wants to know it of all processors, so it
// need not be enabled on this one.
func (p *Partition) startGuard(v *processor) VTL {
	for o := p.enabled & above(v.active); o != 0; o &= o - 1 {
		l := VTL(bits.TrailingZeros16(o))
		if p.domains[l].config&hypercall.VsmPartitionConfigInterceptVpStartup != 0 {
			return l
		}
	}
	return 0
}
