package vtl

import (
	"math/bits"
	"slices"

	"github.com/govtx/vtx/hypercall"
)

// ModifyProtection is HvCallModifyVtlProtectionMask by the active level of processor vp, for
// pages in order: a lower level is left these rights. It returns how many pages it has
// done, and the status of the first one that it has not (rules 92 to 101).
//
// Pages that are next to each other and come to the same rights make one EffectProtect.
func (p *Partition) ModifyProtection(vp uint32, in *hypercall.ModifyVtlProtectionMaskInput, pages []uint64, e *Effects) (done int, s hypercall.Status) {
	owner, targets, a, r := p.protection(vp, in)
	if r != refusedNot {
		return 0, p.refuse(r)
	}
	p.why = refusedNot
	for done < len(pages) {
		first, n := pages[done], 1
		for done+n < len(pages) && pages[done+n] == first+uint64(n) {
			n++
		}
		k, r := p.protect(owner, targets, first, uint64(n), a, e)
		done += int(k)
		if r != refusedNot {
			return done, p.refuse(r)
		}
	}
	return done, hypercall.StatusSuccess
}

// protection checks the header: whose mask it is, whom it restricts, and to what.
func (p *Partition) protection(vp uint32, in *hypercall.ModifyVtlProtectionMaskInput) (owner VTL, targets uint16, a Access, r Refusal) {
	v := p.processor(vp)
	switch {
	case v == nil:
		return 0, 0, 0, noSuchCaller
	case !p.isSelf(in.PartitionID):
		return 0, 0, 0, foreignDenied
	case in.Reserved != [3]uint8{} || in.TargetVTL.Reserved() != 0: // flags: see accessOf
		return 0, 0, 0, reservedInput
	}
	owner = v.active
	if p.is(maskNamesOwner) {
		owner = in.TargetVTL.Of(v.active)
		switch {
		case owner > v.active:
			return 0, 0, 0, maskNotLower
		case owner == 0:
			return 0, 0, 0, maskVTL0
		}
		targets = below(owner)
	} else {
		if owner == 0 {
			return 0, 0, 0, maskNotLower
		}
		target := VTL(bits.Len16(p.enabled&below(owner)) - 1)
		if in.TargetVTL.UseTarget() {
			target = in.TargetVTL.Target()
		}
		switch {
		case target >= owner:
			return 0, 0, 0, maskNotLower
		case p.enabled&bit(target) == 0:
			return 0, 0, 0, maskTargetOff
		}
		targets = bit(target)
	}
	switch {
	case p.enabled&bit(owner) == 0:
		return 0, 0, 0, maskOwnerOff
	case p.protecting&bit(owner) == 0:
		return 0, 0, 0, maskNotEnabled
	}
	a, ok := p.accessOf(in.MapFlags, owner)
	if !ok {
		return 0, 0, 0, maskFlags
	}
	return owner, targets, a, refusedNot
}

// protect gives pages rights in the masks of owner for targets, of which there is one or
// more. It returns how many pages it has done: all, unless there is a refusal.
func (p *Partition) protect(owner VTL, targets uint16, page, n uint64, a Access, e *Effects) (done uint64, r Refusal) {
	for done < n {
		if !p.isRAM(page) || len(p.overlays) > 0 && p.overlaid(targets, page) {
			return done, maskNotRAM
		}
		k := min(n-done, fan-page&slotMask, p.config.RAM[p.lastRAM].End()-page)
		if len(p.overlays) > 0 {
			k = p.untilOverlay(page, k)
		}
		if targets&(targets-1) != 0 {
			k = 1 // all masks or none
			if !p.roomFor(owner, targets, page, a) {
				return done, maskMemory
			}
		}
		for s := targets; s != 0; s &= s - 1 {
			d, ok := p.restrict(owner, VTL(bits.TrailingZeros16(s)), page, k, a, e)
			if !ok {
				return done + d, maskMemory
			}
		}
		page += k
		done += k
	}
	return done, refusedNot
}

// restrict gives n pages, which are in one leaf or could be, rights in the mask of owner
// for target. It reports false if memory is out, with how many it has done.
func (p *Partition) restrict(owner, target VTL, page, n uint64, a Access, e *Effects) (done uint64, ok bool) {
	m := p.mask(owner, target)
	others := p.protecting & above(target) &^ bit(owner)
	shown := p.enabled&bit(target) != 0
	for done < n {
		old, k := m.run(&p.pool, page)
		k = min(k, n-done)
		rest := FullAccess
		for o := others; o != 0; o &= o - 1 {
			l := VTL(bits.TrailingZeros16(o))
			b, j := p.mask(l, target).run(&p.pool, page)
			rest &= p.effective(l, b)
			k = min(k, j)
		}
		if old != a {
			if !m.set(&p.pool, page, k, a) {
				return done, false
			}
			if now := a & rest; shown && now != old&rest {
				e.protect(target, page, k, now)
			}
		}
		page += k
		done += k
	}
	return done, true
}

// roomFor reports whether there is memory for a page's rights in several masks, so that
// all are changed or none.
func (p *Partition) roomFor(owner VTL, targets uint16, page uint64, a Access) bool {
	need := p.pool.used()
	for ; targets != 0; targets &= targets - 1 {
		need += p.mask(owner, VTL(bits.TrailingZeros16(targets))).cost(&p.pool, page, 1, a)
	}
	return need <= p.pool.limit
}

// An overlay is a page of a level that lies over another one: a hypercall page, an assist
// page, and so on.
type overlay struct {
	page  uint64
	level VTL
}

func compareOverlays(a, b overlay) int {
	switch {
	case a.page < b.page:
		return -1
	case a.page > b.page:
		return 1
	}
	return int(a.level) - int(b.level)
}

// maxOverlays bounds the overlay pages of a processor's level: the hypercall page, the
// reference TSC page, the assist page, SIMP, SIEFP, SIRBP.
const maxOverlays = 6

// SetOverlay tells the core that a page is an overlay page of a level, or no longer. It is
// not RAM for as long as it is one: its protection cannot be changed (rule 98). It reports
// false if there are too many, 6 for each level of each processor.
func (p *Partition) SetOverlay(level VTL, page uint64, on bool) bool {
	if !level.Valid() || page >= maxPage {
		return false
	}
	o := overlay{page, level}
	i, found := slices.BinarySearchFunc(p.overlays, o, compareOverlays)
	switch {
	case on && !found:
		if len(p.overlays) >= maxOverlays*len(p.contexts) {
			return false
		}
		p.overlays = slices.Insert(p.overlays, i, o)
	case !on && found:
		p.overlays = slices.Delete(p.overlays, i, i+1)
	}
	return true
}

// overlaid reports whether a page is an overlay page of one of these levels.
func (p *Partition) overlaid(levels uint16, page uint64) bool {
	i, _ := slices.BinarySearchFunc(p.overlays, overlay{page, 0}, compareOverlays)
	for ; i < len(p.overlays) && p.overlays[i].page == page; i++ {
		if levels&bit(p.overlays[i].level) != 0 {
			return true
		}
	}
	return false
}

// untilOverlay returns how many of the n pages from page on there are before the next overlay
// page behind the first one.
func (p *Partition) untilOverlay(page, n uint64) uint64 {
	i, _ := slices.BinarySearchFunc(p.overlays, overlay{page + 1, 0}, compareOverlays)
	if i < len(p.overlays) {
		return min(n, p.overlays[i].page-page)
	}
	return n
}

// Overlaid reports whether a page is an overlay page of a level.
func (p *Partition) Overlaid(level VTL, page uint64) bool {
	return level.Valid() && p.overlaid(bit(level), page)
}
