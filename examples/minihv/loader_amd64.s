#include "textflag.h"

#define VMCALL_ BYTE $0x0f; BYTE $0x01; BYTE $0xc1

// loader is what VTL0 of a PC runs first, in 64-bit mode and with memory mapped to itself: it
// enables VTL1, as an operating system's loader does, calls it once, and goes on to the kernel.
//
//	RBX  the kernel's entry point, RSI its parameters
//	R12  address of the parameters of HvCallEnableVpVtl; 0 if there is to be no VTL1
//	RDI  page for the hypercall page
//
// If a call fails it ends with UD2, for which there is no handler; RAX has the status.
TEXT loader<>(SB), NOSPLIT|NOFRAME, $0
	TESTQ R12, R12
	JEQ   kernel

	MOVL $0x40000000, CX // HV_X64_MSR_GUEST_OS_ID: open source, no number
	XORL AX, AX
	MOVL $0x80000000, DX
	WRMSR
	MOVL $0x40000001, CX // HV_X64_MSR_HYPERCALL, on
	MOVL DI, AX
	ORL  $1, AX
	XORL DX, DX
	WRMSR

	MOVQ  $0x1000d, CX // HvCallEnablePartitionVtl, fast
	MOVQ  $-1, DX      // the own partition
	MOVQ  $1, R8       // VTL1, no flags
	CALL  DI
	TESTW AX, AX
	JNE   failed
	MOVQ  $0xf, CX // HvCallEnableVpVtl
	MOVQ  R12, DX
	CALL  DI
	TESTW AX, AX
	JNE   failed
	PUSHQ BX // VTL1 has the same registers, and nothing to give them back from yet
	PUSHQ SI
	PUSHQ DI
	MOVQ  $0x11, CX // HvCallVtlCall
	XORL  AX, AX
	XORL  DX, DX // without a page
	VMCALL_
	POPQ  DI
	POPQ  SI
	POPQ  BX

	MOVL $0x40000001, CX
	XORL AX, AX
	XORL DX, DX
	WRMSR
	MOVL $0x40000000, CX
	WRMSR

kernel:
	XORL DI, DI
	JMP  BX

failed:
	UNDEF

TEXT loaderEnd<>(SB), NOSPLIT|NOFRAME, $0
	UNDEF

// func loaderBounds() (start, end uintptr)
TEXT ·loaderBounds(SB), NOSPLIT, $0-16
	LEAQ loader<>(SB), AX
	MOVQ AX, start+0(FP)
	LEAQ loaderEnd<>(SB), AX
	MOVQ AX, end+8(FP)
	RET
