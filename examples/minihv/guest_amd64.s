#include "textflag.h"

#define VMCALL BYTE $0x0f; BYTE $0x01; BYTE $0xc1

// The guest: 64-bit code that runs wherever it is copied. Its hypercalls take a
// number in RAX and an argument in RBX.
TEXT guest<>(SB), NOSPLIT|NOFRAME, $0
	// Who is below? The answer is 12 characters in EBX, ECX and EDX.
	MOVL $0x40000000, AX
	CPUID
	MOVL $1, AX // hello, with the first four characters
	VMCALL

	// This page is not there until it is touched.
	MOVQ $0x100000, SI
	MOVQ (SI), BX
	MOVL $2, AX // found, with what was read
	VMCALL

	HLT
	UNDEF // not reached: the hypervisor ends the guest at HLT

TEXT guestEnd<>(SB), NOSPLIT|NOFRAME, $0
	UNDEF

// func guestBounds() (start, end uintptr)
TEXT ·guestBounds(SB), NOSPLIT, $0-16
	LEAQ guest<>(SB), AX
	MOVQ AX, start+0(FP)
	LEAQ guestEnd<>(SB), AX
	MOVQ AX, end+8(FP)
	RET
