package vmcs

import (
	"iter"
)

// IOBitmaps are the two pages at [IOBitmapA], for ports 0 to 0x7fff, and
// [IOBitmapB], for ports 0x8000 to 0xffff: they say which accesses to I/O ports
// cause VM exits, if the control [PrimaryUseIOBitmaps] is 1 (SDM Vol. 3C 25.6.4).
// A 1 intercepts. The control [PrimaryUnconditionalIOExiting] is then without
// effect.
//
// Both pages must be there before a method is called. They need not be next to
// each other.
type IOBitmaps struct {
	A, B *[4096]byte
}

// IOBitmapsOf returns the bitmaps that two pages of 4096 bytes each hold, in
// place.
func IOBitmapsOf(a, b []byte) (IOBitmaps, error) {
	pageA, err := pageOf("I/O bitmap A", a)
	if err != nil {
		return IOBitmaps{}, err
	}
	pageB, err := pageOf("I/O bitmap B", b)
	if err != nil {
		return IOBitmaps{}, err
	}
	return IOBitmaps{A: pageA, B: pageB}, nil
}

const portsPerPage = 8 * len(page{})

// Intercepts reports whether a guest's access of size bytes (1, 2 or 4) at port
// causes a VM exit. It does if any port that it touches is intercepted, and
// always if it goes beyond port 0xffff, round to port 0 (SDM Vol. 3C 26.1.3). A
// string instruction makes one access for each element.
func (m IOBitmaps) Intercepts(port uint16, size int) bool {
	if size > 0x10000-int(port) {
		return true
	}
	for i := range size {
		if m.set(uint32(port) + uint32(i)) {
			return true
		}
	}
	return false
}

func (m IOBitmaps) set(port uint32) bool {
	if port < uint32(portsPerPage) {
		return bitSet(m.A[:], port)
	}
	return bitSet(m.B[:], port-uint32(portsPerPage))
}

// Intercept makes accesses to a port exit.
func (m IOBitmaps) Intercept(port uint16) { m.fill(port, port, true) }

// InterceptRange makes accesses to the ports first to last, inclusive, exit.
func (m IOBitmaps) InterceptRange(first, last uint16) { m.fill(first, last, true) }

// InterceptAll makes all accesses exit.
func (m IOBitmaps) InterceptAll() { m.fill(0, 0xffff, true) }

// Pass lets accesses to a port through to the device.
func (m IOBitmaps) Pass(port uint16) { m.fill(port, port, false) }

// PassRange lets accesses to the ports first to last, inclusive, through.
func (m IOBitmaps) PassRange(first, last uint16) { m.fill(first, last, false) }

// PassAll lets accesses to all ports through.
func (m IOBitmaps) PassAll() { m.fill(0, 0xffff, false) }

func (m IOBitmaps) fill(first, last uint16, value bool) {
	for i, p := range [...]*page{m.A, m.B} {
		start := i * portsPerPage
		lo, hi := max(int(first), start), min(int(last), start+portsPerPage-1)
		if lo <= hi {
			fillBits(p[:], uint32(lo-start), uint32(hi-start), value)
		}
	}
}

// All yields the intercepted ports, ascending.
func (m IOBitmaps) All() iter.Seq[uint16] {
	return func(yield func(uint16) bool) {
		for port := range uint32(0x10000) {
			if m.set(port) && !yield(uint16(port)) {
				return
			}
		}
	}
}

// String lists the intercepted ports, such as "0x20-0x21, 0x3f8", or "none".
func (m IOBitmaps) String() string { return string(appendRuns(nil, 0x10000, m.set)) }
