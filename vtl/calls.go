package vtl

import (
	"math/bits"
	"slices"

	"github.com/govtx/vtx/hypercall"
)

// VPIndexFromAPICID is an element of HvCallGetVpIndexFromApicId by the active level of
// processor vp: the index of the processor that has an APIC ID and the target level
// (rule 119).
func (p *Partition) VPIndexFromAPICID(vp uint32, in *hypercall.GetVpIndexFromApicIdInput, id uint32) (uint32, hypercall.Status) {
	switch {
	case p.processor(vp) == nil:
		return 0, p.refuse(noSuchCaller)
	case !p.isSelf(in.PartitionID):
		return 0, p.refuse(foreignPartition)
	case !in.TargetVTL.Valid():
		return 0, p.refuse(noLevel)
	}
	i := slices.Index(p.config.APICIDs, id)
	if i < 0 {
		return 0, p.refuse(indexUnknown)
	}
	if !p.processors[i].has(in.TargetVTL) {
		return 0, p.refuse(indexLevelOff)
	}
	p.why = refusedNot
	return uint32(i), hypercall.StatusSuccess
}

// TranslateVirtualAddress is HvCallTranslateVirtualAddress and its Ex form by the active
// level of processor vp: what a linear page of a level of a processor translates to. That
// there is no translation is no error, but a Code. With TlbFlushInhibit, the TLB of a
// lower level is locked (rules 86, 120, 121, 142).
func (p *Partition) TranslateVirtualAddress(vp uint32, in *hypercall.TranslateVirtualAddressInput, e *Effects) (Translation, hypercall.Status) {
	v := p.processor(vp)
	if v == nil {
		return Translation{}, p.refuse(noSuchCaller)
	}
	index, ok := p.index(vp, in.VPIndex)
	input := in.ControlFlags.InputVtl()
	level := input.Of(v.active)
	switch {
	case !p.isSelf(in.PartitionID):
		return Translation{}, p.refuse(foreignDenied)
	case level > v.active:
		return Translation{}, p.refuse(translateAbove)
	case p.is(translateOnlyOwnVP) && index != vp:
		return Translation{}, p.refuse(translateVP)
	case !ok:
		return Translation{}, p.refuse(noSuchVP)
	case !in.ReservedZero() || in.ControlFlags.Reserved() != 0 || input.Reserved() != 0:
		return Translation{}, p.refuse(reservedInput)
	case p.is(translateOnlyLower) && level == v.active:
		return Translation{}, p.refuse(translateOwn)
	}
	t := &p.processors[index]
	if !t.has(level) {
		return Translation{}, p.refuse(translateLevelOff)
	}
	p.why = refusedNot
	// The lock lies with the processor whose TLB it is. There the caller's level is
	// enabled, or it could never be released by a return.
	if in.ControlFlags.TlbFlushInhibit() && level < v.active && t.has(v.active) {
		p.lock(t, p.context(index, v.active), v.active, level)
	}
	x := p.translator.Translate(index, level, in.GVAPage, in.ControlFlags)
	x.Overlay = x.Overlay || x.Code == hypercall.TranslateSuccess && p.Overlaid(level, x.Page)
	return x, hypercall.StatusSuccess
}

// noPaging is a Translator for guests without paging.
type noPaging struct{}

func (noPaging) Translate(vp uint32, level VTL, page uint64, flags hypercall.TranslateFlags) Translation {
	if page >= maxPage {
		return Translation{Code: hypercall.TranslateGpaUnmapped}
	}
	return Translation{Code: hypercall.TranslateSuccess, CacheType: hypercall.CacheWriteBack, Page: page}
}

// Flush is what the calls that flush translations have in common, by the active level of
// processor vp: an EffectFlush for each processor in the set that has been started, or
// with FlagAllProcessors for all; those that the partition has not do not count. It is
// Done, with the status, or Blocked while a higher level has locked the TLB of the
// caller's level on one of these processors: the call is made again after EffectUnblock
// (TLFS vsm.md, "TlbLocked"; rules 85 to 87).
func (p *Partition) Flush(vp uint32, flags hypercall.FlushFlags, set *Set, e *Effects) (Outcome, hypercall.Status) {
	v := p.processor(vp)
	if v == nil {
		return Done, p.refuse(noSuchCaller)
	}
	if flags&^(hypercall.FlushTLFS|hypercall.FlushUseExtendedRangeFormat) != 0 {
		return Done, p.refuse(flushFlags)
	}
	p.why = refusedNot
	level := v.active
	for i := range p.processors {
		t := &p.processors[i]
		if t.locking&above(level) == 0 || !inSet(flags, set, uint32(i)) || uint32(i) == vp && p.is(ownLockPasses) {
			continue
		}
		for o := t.locking & above(level); o != 0; o &= o - 1 {
			if p.context(uint32(i), VTL(bits.TrailingZeros16(o))).locked&bit(level) == 0 {
				continue
			}
			if v.blocked&bit(level) == 0 {
				v.blocked |= bit(level)
				p.waiting++
				e.add(Effect{Kind: EffectBlock, VP: vp, Level: level})
			}
			return Blocked, 0
		}
	}
	if v.blocked&bit(level) != 0 {
		v.blocked &^= bit(level)
		p.waiting--
	}
	for i := range p.processors {
		if p.processors[i].started && p.processors[i].has(level) && inSet(flags, set, uint32(i)) {
			e.add(Effect{Kind: EffectFlush, VP: uint32(i), Level: level})
		}
	}
	return Done, hypercall.StatusSuccess
}

func inSet(flags hypercall.FlushFlags, set *Set, vp uint32) bool {
	return flags.AllProcessors() || set != nil && set.Contains(vp)
}

// SendIPI is HvCallSendSyntheticClusterIpi and its Ex form by the active level of processor
// vp: a fixed interrupt in the target level of each processor in the set. Processors
// that there are not, and those without that level, get none (rules 54, 62, 144).
func (p *Partition) SendIPI(vp uint32, vector uint32, target hypercall.InputVTL, set *Set, e *Effects) hypercall.Status {
	v := p.processor(vp)
	if v == nil {
		return p.refuse(noSuchCaller)
	}
	level := target.Of(v.active)
	switch {
	case target.Reserved() != 0:
		return p.refuse(ipiFlags)
	case level > v.active && !p.is(ipiUpward):
		return p.refuse(ipiAbove)
	case level != 0 && p.is(ipiOnlyVTL0):
		return p.refuse(ipiNotVTL0)
	case vector < firstVector || vector > 0xff:
		return p.refuse(ipiVector)
	}
	p.why = refusedNot
	for i := range p.processors {
		if set != nil && set.Contains(uint32(i)) {
			p.send(vp, uint32(i), level, Fixed, uint8(vector), e)
		}
	}
	p.settle(vp, v, e)
	return hypercall.StatusSuccess
}

// send requests an interrupt; the sender itself settles at the end of the call.
func (p *Partition) send(vp, target uint32, level VTL, kind Interrupt, vector uint8, e *Effects) {
	if p.request(target, level, kind, vector) && target != vp {
		e.add(Effect{Kind: EffectKick, VP: target})
	}
}

// AssertVirtualInterrupt is HvCallAssertVirtualInterrupt by the active level of processor
// vp: a fixed interrupt or NMI in a lower level, of the processor whose APIC ID is the
// destination, or of all that have the level if it is 0xff or 0xffffffff. A logical
// destination is for the embedder's local APICs, as an EffectRoute (rule 61).
func (p *Partition) AssertVirtualInterrupt(vp uint32, in *hypercall.AssertVirtualInterruptInput, e *Effects) hypercall.Status {
	v := p.processor(vp)
	if v == nil {
		return p.refuse(noSuchCaller)
	}
	kind := in.Control.InterruptType()
	fixed := kind == hypercall.InterruptFixed
	const broadcast8, broadcast32 = 0xff, 0xffffffff
	switch {
	case !p.isSelf(in.PartitionID):
		return p.refuse(foreignDenied)
	case !in.TargetVTL.Valid():
		return p.refuse(noLevel)
	case in.TargetVTL > v.active:
		return p.refuse(assertAbove)
	case in.TargetVTL == v.active:
		return p.refuse(assertOwn)
	case !in.ReservedZero() || in.DestinationAddress > broadcast32:
		return p.refuse(reservedInput)
	case !fixed && kind != hypercall.InterruptNmi, in.Control.Asserted(), in.Control.Reserved() != 0:
		return p.refuse(assertType)
	case fixed && (in.RequestedVector < firstVector || in.RequestedVector > 0xff):
		return p.refuse(assertVector)
	}
	p.why = refusedNot
	if in.Control.LogicalDestinationMode() {
		e.add(Effect{Kind: EffectRoute, Level: in.TargetVTL, Vector: uint8(in.RequestedVector), Value: in.DestinationAddress, Index: uint32(kind)})
		return hypercall.StatusSuccess
	}
	way := Fixed
	if !fixed {
		way = NMI
	}
	for i, id := range p.config.APICIDs {
		if d := uint32(in.DestinationAddress); id == d || d == broadcast8 || d == broadcast32 {
			p.send(vp, uint32(i), in.TargetVTL, way, uint8(in.RequestedVector), e)
		}
	}
	p.settle(vp, v, e)
	return hypercall.StatusSuccess
}
