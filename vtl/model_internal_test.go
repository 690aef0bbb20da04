package vtl

import "github.com/govtx/vtx/hypercall"

// What the tests look at that the package keeps to itself.

// OwnState is what a level has on a processor that only it and higher levels change.
type OwnState struct {
	Assist, CR0, CR4, Misc uint64
	Guard                  hypercall.CrInterceptControl
	VINA                   hypercall.VsmVina
	Locked, MBEC           uint16
	TPR                    uint8
}

// OwnState returns that of a level.
func (p *Partition) OwnState(vp uint32, l VTL) OwnState {
	c := p.context(vp, l)
	return OwnState{c.assist, c.maskCR0, c.maskCR4, c.maskMisc, c.guard, c.vina, c.locked, c.mbec, c.tpr}
}

// Requests returns the vectors and the NMI that a level has not accepted.
func (p *Partition) Requests(vp uint32, l VTL) ([4]uint64, bool) {
	c := p.context(vp, l)
	return c.requested, c.nmi
}

// BlockedLevels and EventLevels return the levels of a processor that wait for a TLB lock,
// and those with an exception to be injected.
func (p *Partition) BlockedLevels(vp uint32) uint16 { return p.processors[vp].blocked }

func (p *Partition) EventLevels(vp uint32) uint16 { return p.processors[vp].events }

// Waiting returns how many levels of processors wait for a TLB lock: for each processor
// they are counted, and by Partition.
func (p *Partition) Waiting() int { return p.waiting }
