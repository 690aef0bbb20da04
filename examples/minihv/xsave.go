package main

import (
	"bytes"
	"unsafe"

	"github.com/govtx/vtx/asm"
	"github.com/govtx/vtx/vmcs"
)

// An area of XSAVEC: the legacy region, the header, of which the processor writes the first 16
// bytes, and the components that are asked for, one behind the other (SDM Vol. 1 13.4).
const (
	compactHeader = 512
	compactBegin  = compactHeader + 64
	compactSize   = compactBegin + 256 // with the upper halves of YMM0 to YMM15

	compactUpper = compactBegin + 8*16 // YMM8's
)

// compactedByte is the byte n of what compacted puts into YMM8.
func compactedByte(n int) byte { return byte(0x80 + n) }

// compacted returns what XSAVEC makes of x87, SSE and AVX state, or nil where there is no
// XSAVEC or no AVX state.
func compacted(native vmcs.CPUIDReader) []byte {
	const osxsave, avxState, xsavecBit = 1 << 27, 1 << 2, 1 << 1
	if _, _, features, _ := native.ReadCPUID(1, 0); features&osxsave == 0 || asm.XGETBV(0)&avxState == 0 {
		return nil
	}
	if features, _, _, _ := native.ReadCPUID(0xd, 1); features&xsavecBit == 0 {
		return nil
	}
	var ymm [32]byte
	for i := range ymm {
		ymm[i] = compactedByte(i)
	}
	b := make([]byte, compactSize+63)
	area := b[-uintptr(unsafe.Pointer(unsafe.SliceData(b)))&63:][:compactSize]
	xsavec(unsafe.SliceData(area), &ymm)
	return area
}

// compacts reports whether that is as it has to be. Bochs puts AVX state right behind SSE state,
// which is in the legacy region: it runs over the header, of which the rest has to be 0 or
// XRSTOR raises #GP. Linux meets that when it goes back to a process that uses AVX.
func compacts(area []byte) bool {
	if area == nil {
		return true
	}
	for i := range 16 {
		if area[compactUpper+i] != compactedByte(16+i) {
			return false
		}
	}
	return bytes.Count(area[compactHeader+16:compactBegin], []byte{0}) == compactBegin-compactHeader-16
}
