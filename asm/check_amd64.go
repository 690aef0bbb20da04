package asm

import (
	"encoding/binary"
	"fmt"
	"sync"
	"unsafe"
)

// The checks before an instruction that could fault although it is legal at
// privilege level 3. A process would not survive the fault: its operating
// system answers with a signal that Go takes for a crash.

// deny panics with a Fault that gives the cause and the rule.
func deny(o op, cause error, format string, args ...any) {
	panic(&Fault{Instruction: o.String(), Err: fmt.Errorf("%w: "+format, append([]any{cause}, args...)...)})
}

// hasOSXSAVE tells that CR4.OSXSAVE is set (SDM Vol. 1 13.3).
func hasOSXSAVE() bool {
	_, _, ecx, _ := CPUID(1, 0)
	return ecx>>27&1 != 0
}

// leaf7ECX returns ECX of CPUID leaf 7, 0 if there is no such leaf.
func leaf7ECX() uint32 {
	if max, _, _, _ := CPUID(0, 0); max < 7 {
		return 0
	}
	_, _, ecx, _ := CPUID(7, 0)
	return ecx
}

func checkXGETBV(index uint32) {
	if !hasOSXSAVE() {
		deny(opXGETBV, ErrNotSupported, "the operating system has not set CR4.OSXSAVE")
	}
	switch index {
	case 0:
		return
	case 1:
		if eax, _, _, _ := CPUID(0xd, 1); eax>>2&1 != 0 {
			return
		}
	}
	deny(opXGETBV, ErrOperand, "no extended control register %d", index)
}

func checkUMIP(o op) {
	if leaf7ECX()>>2&1 != 0 {
		deny(o, ErrPrivilege, "user-mode instruction prevention may be on")
	}
}

func checkRDTSCP() {
	if max, _, _, _ := CPUID(0x80000000, 0); max >= 0x80000001 {
		if _, _, _, edx := CPUID(0x80000001, 0); edx>>27&1 != 0 {
			return
		}
	}
	deny(opRDTSCP, ErrNotSupported, "CPUID leaf 0x80000001 EDX bit 27 is clear")
}

func checkAligned(o op, p unsafe.Pointer, align uintptr) {
	if uintptr(p)%align != 0 {
		deny(o, ErrOperand, "area at 0x%x is not %d-byte aligned", uintptr(p), align)
	}
}

// Sizes in an XSAVE area (SDM Vol. 1 13.4).
const (
	legacyBytes = 512
	headerBytes = 64
	minXSAVE    = legacyBytes + headerBytes
)

// componentEnds returns, for each state component, the offset of the first
// byte behind it in the standard format (SDM Vol. 1 13.4.3), 0 if the processor
// has no such component; and nil if the processor lacks XSAVE.
var componentEnds = sync.OnceValue(func() []int {
	if _, _, ecx, _ := CPUID(1, 0); ecx>>26&1 == 0 {
		return nil
	}
	ends := make([]int, 63) // bit 63 selects the compacted format
	lo, _, _, hi := CPUID(0xd, 0)
	for i := 2; i < len(ends); i++ {
		if (uint64(hi)<<32|uint64(lo))>>i&1 != 0 {
			size, offset, _, _ := CPUID(0xd, uint32(i))
			ends[i] = int(size) + int(offset)
		}
	}
	return ends
})

// XSAVESize returns how many bytes an area takes that holds the state
// components in mask, in the standard format. It is 0 if the processor lacks
// XSAVE.
func XSAVESize(mask uint64) int {
	ends := componentEnds()
	if ends == nil {
		return 0
	}
	size := minXSAVE
	for i, end := range ends {
		if mask>>i&1 != 0 {
			size = max(size, end)
		}
	}
	return size
}

func checkArea(o op, area []byte, mask uint64) {
	if user && !hasOSXSAVE() {
		deny(o, ErrNotSupported, "the operating system has not set CR4.OSXSAVE")
	}
	if need := XSAVESize(mask); len(area) < max(need, minXSAVE) {
		deny(o, ErrOperand, "area of %d bytes, components 0x%x need %d", len(area), mask, need)
	}
	checkAligned(o, unsafe.Pointer(unsafe.SliceData(area)), 64)
}

// checkRestore checks what XRSTOR would answer with #GP or #NM
// (SDM Vol. 1 13.8). The compacted format is refused, too.
func checkRestore(area []byte, mask uint64) {
	const tileData = 1 << 18 // needs a permission of the operating system
	xcr0 := xgetbv(0)
	if v := binary.LittleEndian.Uint64(area[512:]); v&^xcr0 != 0 {
		deny(opXRSTOR, ErrOperand, "XSTATE_BV 0x%x has components that XCR0 0x%x lacks", v, xcr0)
	} else if v&mask&tileData != 0 {
		deny(opXRSTOR, ErrOperand, "tile data cannot be restored in a process")
	}
	for i, b := range area[520:minXSAVE] {
		if b != 0 {
			deny(opXRSTOR, ErrOperand, "header byte %d is 0x%x, not 0", i+8, b)
		}
	}
	if mask&6 != 0 { // XRSTOR loads MXCSR with SSE or AVX
		checkMXCSR(opXRSTOR, area)
	}
}

// mxcsrMask returns the bits that MXCSR may have (SDM Vol. 1 11.6.6).
var mxcsrMask = sync.OnceValue(func() uint32 {
	var room [legacyBytes + 16]byte
	skip := -uintptr(unsafe.Pointer(&room)) % 16
	area := (*[legacyBytes]byte)(room[skip:])
	fxsave(area)
	if m := binary.LittleEndian.Uint32(area[28:]); m != 0 {
		return m
	}
	return 0xffbf
})

func checkMXCSR(o op, area []byte) {
	if v := binary.LittleEndian.Uint32(area[24:]); v&^mxcsrMask() != 0 {
		deny(o, ErrOperand, "MXCSR 0x%x has bits that this processor lacks", v)
	}
}
