package hypercall

import "math/bits"

// ReferenceTscFields are the fields of a reference TSC page (TLFS timers.md, "Reference Time
// Stamp Counter (TSC) Page Format"). [ReferenceTscPage] is the page itself.
//
// The TLFS has the last two in its reserved 509 quadwords; OpenVMM names them.
//
//vtx:layout
type ReferenceTscFields struct {
	Sequence      uint32
	Reserved0     uint32
	Scale         uint64
	Offset        uint64 // signed, in units of 100 ns
	TimelineBias  uint64
	TscMultiplier uint64
	Reserved1     [4056]uint8
}

// A ReferenceTscPage is the reference TSC page, in place: the one at the address in
// [MSRReferenceTSC], from which a guest computes the time since its partition began, in
// units of 100 ns (TLFS timers.md, "Partition Reference TSC Mechanism"):
//
//	time = (TSC * scale) >> 64 + offset
//
// The sequence tells a reader that scale and offset belong together: it reads it before and
// after them, and begins again if it has changed. 0 says that the page does not serve. The
// hypervisor writes 0, scale and offset, and then a sequence that was not there before. All
// loads and stores keep this order. The zero value has no page, and does not serve.
type ReferenceTscPage struct{ p *sharedPage }

// Offsets in the reference TSC page, and the sequences that do not serve: that of the TLFS,
// and that of its versions before 4.0.
const (
	tscSequence = 0
	tscScale    = 8
	tscOffset   = 16

	tscInvalid    = 0
	tscInvalidOld = 0xffffffff

	tscReads = 64 // how often a reader begins again
)

// ReferenceTscPageOf returns the page that 4096 bytes are, which lie at a multiple of 8.
func ReferenceTscPageOf(mem []byte) (ReferenceTscPage, error) {
	p, err := sharedPageOf("the reference TSC page", mem)
	return ReferenceTscPage{p}, err
}

// Time returns the reference time in units of 100 ns, with the TSC that tsc returns, which
// is called between the two reads of the sequence. It reports false if the page does not
// serve, or changes with every one of 64 attempts: then the time is to be read from
// [MSRTimeRefCount].
func (r ReferenceTscPage) Time(tsc func() uint64) (time uint64, ok bool) {
	if r.p == nil {
		return 0, false
	}
	for range tscReads {
		before := r.p.load32(tscSequence)
		if before == tscInvalid {
			return 0, false
		}
		now := tsc()
		scale, offset := r.p.load64(tscScale), r.p.load64(tscOffset)
		if r.p.load32(tscSequence) == before {
			return ReferenceTime(now, scale, offset), true
		}
	}
	return 0, false
}

// Set gives the page another scale and offset, the latter in units of 100 ns, and makes it
// serve. Only one call at a time may be under way.
func (r ReferenceTscPage) Set(scale, offset uint64) {
	if r.p == nil {
		return
	}
	next := r.p.load32(tscSequence)
	// A reader that has begun must not find its sequence again.
	r.p.store32(tscSequence, tscInvalid)
	for next++; next == tscInvalid || next == tscInvalidOld; next++ {
	}
	r.p.store64(tscScale, scale)
	r.p.store64(tscOffset, offset)
	r.p.store32(tscSequence, next)
}

// Disable tells readers that the page does not serve.
func (r ReferenceTscPage) Disable() {
	if r.p != nil {
		r.p.store32(tscSequence, tscInvalid)
	}
}

// Sequence returns the sequence: 0 if the page does not serve.
func (r ReferenceTscPage) Sequence() uint32 {
	if r.p == nil {
		return tscInvalid
	}
	return r.p.load32(tscSequence)
}

// Clear makes the page zero: it does not serve.
func (r ReferenceTscPage) Clear() {
	if r.p != nil {
		r.Disable()
		clear(r.p[:])
	}
}

// ReferenceTime returns (tsc*scale)>>64 + offset, the product with all its 128 bits.
func ReferenceTime(tsc, scale, offset uint64) uint64 {
	high, _ := bits.Mul64(tsc, scale)
	return high + offset
}

// TscScale returns the scale for a TSC of a frequency in Hz: 2^64 units of 100 ns a tick. It
// reports false for one of 10 MHz or below, which has none of 64 bits.
func TscScale(hz uint64) (scale uint64, ok bool) {
	const reference = 10_000_000
	if hz <= reference {
		return 0, false
	}
	scale, _ = bits.Div64(reference, 0, hz)
	return scale, true
}
