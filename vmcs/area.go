package vmcs

import (
	"fmt"
	"strconv"
	"unsafe"
)

// A page is what most areas that VMCS fields point to take: 4 KiB, at a physical
// address that is a multiple of 4,096. Where it lies is the caller's affair; the
// types here say what its bytes mean.
type page = [4096]byte

// pageOf is the page that mem is, without a copy.
func pageOf(what string, mem []byte) (*page, error) {
	if len(mem) != len(page{}) {
		return nil, fmt.Errorf("vmcs: %s takes a page of 4096 bytes, not %d", what, len(mem))
	}
	return (*page)(mem), nil
}

// aligned reports whether mem lies at a multiple of align.
func aligned(mem []byte, align uintptr) bool {
	return uintptr(unsafe.Pointer(unsafe.SliceData(mem)))%align == 0
}

// bitSet reports bit i of a bitmap: bit i%8 of byte i/8, which is how VMX lays out
// all its bitmaps in memory.
func bitSet(bitmap []byte, i uint32) bool { return bitmap[i>>3]>>(i&7)&1 != 0 }

// fillBits makes the bits first to last, inclusive, all 1 or all 0.
func fillBits(bitmap []byte, first, last uint32, value bool) {
	for i := first; i <= last; {
		mask, n := byte(1)<<(i&7), uint32(1)
		if i&7 == 0 && last-i >= 7 {
			mask, n = 0xff, 8
		}
		if value {
			bitmap[i>>3] |= mask
		} else {
			bitmap[i>>3] &^= mask
		}
		i += n
	}
}

// appendRange appends a number, or the first and last of several, in hex.
func appendRange(b []byte, first, last uint32) []byte {
	b = strconv.AppendUint(append(b, "0x"...), uint64(first), 16)
	if last != first {
		b = strconv.AppendUint(append(b, "-0x"...), uint64(last), 16)
	}
	return b
}

// appendRuns appends the runs of 1 bits of a bitmap with n bits, or "none".
func appendRuns(b []byte, n uint32, set func(uint32) bool) []byte {
	start := len(b)
	for i := uint32(0); i < n; i++ {
		if !set(i) {
			continue
		}
		first := i
		for i+1 < n && set(i+1) {
			i++
		}
		if len(b) > start {
			b = append(b, ", "...)
		}
		b = appendRange(b, first, i)
	}
	if len(b) == start {
		b = append(b, "none"...)
	}
	return b
}
