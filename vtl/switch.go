package vtl

import (
	"math/bits"

	"github.com/govtx/vtx/hypercall"
)

// A Trap is how the guest asks for a VTL call or return.
type Trap struct {
	Word     hypercall.Input // the input value of the hypercall
	Control  uint64          // the control input: RCX, in 32-bit mode EDX:EAX
	CPL      uint8
	RealMode bool // CR0.PE is 0, or it is virtual-8086 mode
}

// Call is a VTL call by the active level: it enters the next higher level that is enabled
// on the processor, or is UndefinedInstruction (TLFS vsm.md, "VTL Call"; rules 28 to 38).
func (p *Partition) Call(vp uint32, t Trap, e *Effects) Outcome {
	v := p.processor(vp)
	if v == nil {
		return p.undefined(noSuchCaller)
	}
	higher := v.enabled & above(v.active)
	switch {
	case t.CPL != 0:
		return p.undefined(callCPL)
	case t.RealMode:
		return p.undefined(callRealMode)
	case t.Word != hypercall.Input(hypercall.CodeVtlCall):
		return p.undefined(callWord)
	case t.Control != 0:
		return p.undefined(callControl)
	case higher == 0:
		return p.undefined(callNothingAbove)
	}
	p.why = refusedNot
	p.enter(vp, v, VTL(bits.TrailingZeros16(higher)), ReasonCall, e)
	if v.pending&below(v.active) != 0 {
		p.notify(vp, v, e)
	}
	return Switched
}

// Return is a VTL return by the active level to the next lower one that is enabled on the
// processor, or UndefinedInstruction (TLFS vsm.md, "VTL Return"; rules 40 to 49). It
// releases the TLB locks that the level holds on the processor. If an interrupt for a
// higher level than the one returned to is pending, that level is entered at once, and
// the effects have both switches.
func (p *Partition) Return(vp uint32, t Trap, e *Effects) Outcome {
	v := p.processor(vp)
	if v == nil {
		return p.undefined(noSuchCaller)
	}
	from := v.active
	switch {
	case t.CPL != 0:
		return p.undefined(callCPL)
	case t.RealMode:
		return p.undefined(callRealMode)
	case t.Word != hypercall.Input(hypercall.CodeVtlReturn):
		return p.undefined(callWord)
	case t.Control&^uint64(hypercall.VtlReturnFastReturn) != 0:
		return p.undefined(returnControl)
	case from == 0:
		return p.undefined(returnFromVTL0)
	}
	p.why = refusedNot
	to := VTL(bits.Len16(v.enabled&below(from)) - 1)
	c := p.context(vp, from)
	flags, page := FlagAdvance, uint64(0)
	if c.assist&assistEnable != 0 && (t.Control == 0 || p.is(restoreAlways)) {
		flags |= FlagRestore
		page = c.assist >> pageShift
	}
	if c.asserted && c.vina.AutoReset() && p.is(vinaResetOnReturn) {
		c.asserted = false
		flags |= FlagVINAReset | FlagVINAFrom
		page = c.assist >> pageShift
	}
	if v.blocked&bit(to) != 0 {
		flags |= FlagBlocked
	}
	v.active = to
	e.change(vp, from, to, ReasonNone, flags, page)
	if v.locking&bit(from) != 0 {
		p.unlock(vp, v, from, c.locked, e)
	}
	if v.events&bit(to) != 0 {
		p.inject(vp, v, to, e)
	}
	if v.pending != 0 {
		p.settle(vp, v, e)
	}
	return Switched
}

const (
	assistEnable = 1 // bit 0 of HV_X64_MSR_VP_ASSIST_PAGE
	pageShift    = 12
)

// enter switches to a higher level.
func (p *Partition) enter(vp uint32, v *processor, to VTL, why Reason, e *Effects) {
	flags, page := Flags(0), uint64(0)
	if why == ReasonCall {
		flags = FlagAdvance
	}
	c := p.context(vp, to)
	if c.assist&assistEnable != 0 {
		flags |= FlagReason
		page = c.assist >> pageShift
		if p.is(storeOnEntry) {
			flags |= FlagStore
		}
	}
	if c.asserted && c.vina.AutoReset() && !p.is(vinaResetOnReturn) {
		c.asserted = false
		flags |= FlagVINAReset
	}
	e.change(vp, v.active, to, why, flags, page)
	v.active = to
	if v.events&bit(to) != 0 {
		p.inject(vp, v, to, e)
	}
}

// Resolve makes a processor enter a higher level if an interrupt waits there, and tells
// the active level of one that waits below if it wants to know. The embedder calls it for
// a processor that was kicked.
func (p *Partition) Resolve(vp uint32, e *Effects) Outcome {
	v := p.processor(vp)
	if v == nil {
		return Dropped
	}
	was := v.active
	p.settle(vp, v, e)
	if v.active != was {
		return Switched
	}
	return Done
}

// settle is Resolve: of several levels with interrupts that they can take, the highest
// one is entered (rules 49 to 52).
func (p *Partition) settle(vp uint32, v *processor, e *Effects) {
	if !v.started {
		return
	}
	for higher := v.pending & above(v.active); higher != 0; {
		l := VTL(bits.Len16(higher) - 1)
		if p.context(vp, l).wantsEntry() {
			p.enter(vp, v, l, ReasonInterrupt, e)
			break
		}
		higher &^= bit(l)
	}
	p.notify(vp, v, e)
}

// notify is VINA: an interrupt for a lower level is ready, and the active level wants to
// know that it holds it up (rules 57 to 59).
func (p *Partition) notify(vp uint32, v *processor, e *Effects) {
	lower := v.pending & below(v.active)
	if lower == 0 {
		return
	}
	c := p.context(vp, v.active)
	if !c.vina.Enabled() || c.asserted {
		return
	}
	for ; lower != 0; lower &= lower - 1 {
		l := VTL(bits.TrailingZeros16(lower))
		if !p.ready(vp, l) {
			continue
		}
		c.asserted = true
		c.request(c.vina.Vector())
		v.pending |= bit(v.active)
		e.add(Effect{Kind: EffectVINA, VP: vp, Level: v.active, Vector: c.vina.Vector(), Page: c.assist >> pageShift})
		return
	}
}

// ready reports whether a level would take an interrupt at once if it ran.
func (p *Partition) ready(vp uint32, l VTL) bool {
	c := p.context(vp, l)
	if c.nmi {
		return true
	}
	if _, ok := c.next(); !ok {
		return false
	}
	const interruptFlag = 1 << 9
	flags, s := p.registers.Register(vp, l, hypercall.RegisterRFLAGS)
	return s == hypercall.StatusSuccess && flags.Low&interruptFlag != 0
}

// inject has an exception injected that a higher level has put into a level.
func (p *Partition) inject(vp uint32, v *processor, l VTL, e *Effects) {
	c := p.context(vp, l)
	f := Effect{Kind: EffectInject, VP: vp, Level: l, Vector: c.event.vector(), Page: c.event.parameter}
	if code, ok := c.event.code(); ok {
		f.Flags |= FlagErrorCode
		f.Value = uint64(code)
	}
	c.event = event{}
	v.events &^= bit(l)
	e.add(f)
}

// unlock releases TLB locks that a level holds on lower ones, and has those go on that
// wait for one.
func (p *Partition) unlock(vp uint32, v *processor, owner VTL, targets uint16, e *Effects) {
	c := p.context(vp, owner)
	targets &= c.locked
	c.locked &^= targets
	if c.locked == 0 {
		v.locking &^= bit(owner)
	}
	if p.waiting == 0 {
		return
	}
	for i := range p.processors {
		w := &p.processors[i]
		for free := w.blocked & targets; free != 0; free &= free - 1 {
			l := VTL(bits.TrailingZeros16(free))
			w.blocked &^= bit(l)
			p.waiting--
			e.add(Effect{Kind: EffectUnblock, VP: uint32(i), Level: l})
		}
	}
}
