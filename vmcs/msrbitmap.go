package vmcs

import (
	"fmt"
	"iter"
)

// An MSRAccess is a set of ways to access an MSR.
type MSRAccess uint8

// The ways to access an MSR.
const (
	MSRRead  MSRAccess = 1 << 0 // RDMSR
	MSRWrite MSRAccess = 1 << 1 // WRMSR

	MSRReadWrite = MSRRead | MSRWrite
)

// String returns "r", "w", "rw" or "none".
func (a MSRAccess) String() string {
	return [...]string{"none", "r", "w", "rw"}[a&MSRReadWrite]
}

// An MSRBitmap is the page at [MSRBitmaps]: it says which RDMSR and WRMSR cause
// VM exits, if the control [PrimaryUseMSRBitmaps] is 1 (SDM Vol. 3C 25.6.9). A 1
// intercepts.
//
//	byte  access  MSRs
//	0     read    0x00000000-0x00001fff
//	1024  read    0xc0000000-0xc0001fff
//	2048  write   0x00000000-0x00001fff
//	3072  write   0xc0000000-0xc0001fff
//
// Accesses to any other MSR always exit (26.1.3). The zero value intercepts none
// of those that the page covers.
type MSRBitmap [4096]byte

const (
	msrHigh  = 0xc0000000 // the first MSR of the upper range
	msrCount = 0x2000     // the MSRs in each range
)

// MSRBitmapOf returns the bitmap that a page of 4096 bytes holds, in place.
func MSRBitmapOf(mem []byte) (*MSRBitmap, error) {
	p, err := pageOf("the MSR bitmap", mem)
	return (*MSRBitmap)(p), err
}

// msrBit is the number of an MSR's bit for reads. The one for writes is
// 2*msrCount further on.
func msrBit(msr uint32) (n uint32, covered bool) {
	if msr < msrCount {
		return msr, true
	}
	return msr - msrHigh + msrCount, msr-msrHigh < msrCount
}

// Intercepts reports whether a guest's RDMSR of msr, or WRMSR if write, causes a
// VM exit.
func (m *MSRBitmap) Intercepts(msr uint32, write bool) bool {
	n, covered := msrBit(msr)
	if !covered {
		return true
	}
	if write {
		n += 2 * msrCount
	}
	return bitSet(m[:], n)
}

// Intercepted returns the accesses to msr that cause VM exits.
func (m *MSRBitmap) Intercepted(msr uint32) (a MSRAccess) {
	if m.Intercepts(msr, false) {
		a |= MSRRead
	}
	if m.Intercepts(msr, true) {
		a |= MSRWrite
	}
	return a
}

// Intercept makes accesses to msr exit. MSRs outside of both ranges do anyway.
func (m *MSRBitmap) Intercept(msr uint32, a MSRAccess) { m.fill(msr, msr, a, true) }

// InterceptRange makes accesses to the MSRs first to last, inclusive, exit.
func (m *MSRBitmap) InterceptRange(first, last uint32, a MSRAccess) { m.fill(first, last, a, true) }

// Pass lets accesses to msr through to the processor. It fails if the page does
// not cover msr.
func (m *MSRBitmap) Pass(msr uint32, a MSRAccess) error { return m.PassRange(msr, msr, a) }

// PassRange lets accesses to the MSRs first to last, inclusive, through. It fails
// without any change if the page does not cover all of them.
func (m *MSRBitmap) PassRange(first, last uint32, a MSRAccess) error {
	low := last < msrCount
	high := first >= msrHigh && last < msrHigh+msrCount
	if first > last || !low && !high {
		return fmt.Errorf("vmcs: MSRs 0x%x to 0x%x do not lie in order within 0-0x1fff or 0xc0000000-0xc0001fff: accesses to others always exit", first, last)
	}
	m.fill(first, last, a, false)
	return nil
}

// InterceptAll makes all accesses exit.
func (m *MSRBitmap) InterceptAll() { fillBits(m[:], 0, 4*msrCount-1, true) }

// PassAll lets all accesses to MSRs in the two ranges through.
func (m *MSRBitmap) PassAll() { clear(m[:]) }

// fill sets or clears the bits of those MSRs, first to last, that the page covers.
func (m *MSRBitmap) fill(first, last uint32, a MSRAccess, value bool) {
	for i, start := range [...]uint32{0, msrHigh} {
		lo, hi := max(first, start), min(last, start+msrCount-1)
		if lo > hi {
			continue
		}
		lo, hi = lo-start+uint32(i)*msrCount, hi-start+uint32(i)*msrCount
		if a&MSRRead != 0 {
			fillBits(m[:], lo, hi, value)
		}
		if a&MSRWrite != 0 {
			fillBits(m[:], lo+2*msrCount, hi+2*msrCount, value)
		}
	}
}

// All yields the MSRs in the two ranges of which accesses exit, ascending, with
// those accesses.
func (m *MSRBitmap) All() iter.Seq2[uint32, MSRAccess] {
	return func(yield func(uint32, MSRAccess) bool) {
		for _, start := range [...]uint32{0, msrHigh} {
			for msr := start; msr < start+msrCount; msr++ {
				if a := m.Intercepted(msr); a != 0 && !yield(msr, a) {
					return
				}
			}
		}
	}
}

// String lists the MSRs in the two ranges of which accesses exit, such as
// "0x10 r, 0x174-0x176 rw", or "none".
func (m *MSRBitmap) String() string {
	var b []byte
	var first, last uint32
	var run MSRAccess // of the MSRs first to last, not yet written
	flush := func() {
		if run == 0 {
			return
		}
		if len(b) > 0 {
			b = append(b, ", "...)
		}
		b = append(append(appendRange(b, first, last), ' '), run.String()...)
	}
	for msr, a := range m.All() {
		if a == run && msr == last+1 {
			last = msr
			continue
		}
		flush()
		first, last, run = msr, msr, a
	}
	flush()
	if len(b) == 0 {
		return "none"
	}
	return string(b)
}
