#include "textflag.h"

#define VMCALL_   BYTE $0x0f; BYTE $0x01; BYTE $0xc1
#define XSAVE64_  BYTE $0x48; BYTE $0x0f; BYTE $0xae; BYTE $0x23 // XSAVE64 (BX)
#define XRSTOR64_ BYTE $0x48; BYTE $0x0f; BYTE $0xae; BYTE $0x2b // XRSTOR64 (BX)
#define XGETBV_   BYTE $0x0f; BYTE $0x01; BYTE $0xd0
#define XSETBV_   BYTE $0x0f; BYTE $0x01; BYTE $0xd1

// Offsets in shared.
#define REGS  0
#define XCR0  128 // VTL0's
#define OWN   136 // VTL1's
#define AREA  144

// An XSAVE area in which no component is in use, at a multiple of 64.
GLOBL initial<>(SB), RODATA|NOPTR, $704

// func leave(s *shared)
//
// All general registers but RSP are those of both levels, and so are the vector registers. On
// the way out RAX and RCX are lost: the hypervisor takes them from the VP assist page.
TEXT ·leave(SB), NOSPLIT, $16-8
	MOVQ s+0(FP), DI
	MOVQ DI, 0(SP)
	MOVQ XCR0(DI), AX
	CMPQ AX, OWN(DI)
	JEQ  restore

	// What VTL0's XCR0 does not have is not restored below. It would keep VTL1's values, for
	// VTL0 to find when it sets these bits: it gets those that it has at first.
	LEAQ initial<>+63(SB), BX
	ANDQ $~63, BX
	MOVL $-1, AX
	MOVL $-1, DX
	XRSTOR64_
	MOVQ XCR0(DI), AX
	XORL CX, CX
	MOVQ AX, DX
	SHRQ $32, DX
	XSETBV_

restore:
	MOVQ AREA(DI), BX
	MOVL $-1, AX
	MOVL $-1, DX
	XRSTOR64_
	MOVQ (REGS+8*2)(DI), DX
	MOVQ (REGS+8*3)(DI), BX
	MOVQ (REGS+8*5)(DI), BP
	MOVQ (REGS+8*6)(DI), SI
	MOVQ (REGS+8*8)(DI), R8
	MOVQ (REGS+8*9)(DI), R9
	MOVQ (REGS+8*10)(DI), R10
	MOVQ (REGS+8*11)(DI), R11
	MOVQ (REGS+8*12)(DI), R12
	MOVQ (REGS+8*13)(DI), R13
	MOVQ (REGS+8*14)(DI), R14
	MOVQ (REGS+8*15)(DI), R15
	MOVQ (REGS+8*7)(DI), DI
	XORL AX, AX    // not a fast return
	MOVL $0x12, CX // HvCallVtlReturn
	VMCALL_

	// Entered.
	XCHGQ DI, 0(SP)
	MOVQ  AX, (REGS+8*0)(DI)
	MOVQ  0(SP), AX
	MOVQ  AX, (REGS+8*7)(DI)
	MOVQ  CX, (REGS+8*1)(DI)
	MOVQ  DX, (REGS+8*2)(DI)
	MOVQ  BX, (REGS+8*3)(DI)
	MOVQ  BP, (REGS+8*5)(DI)
	MOVQ  SI, (REGS+8*6)(DI)
	MOVQ  R8, (REGS+8*8)(DI)
	MOVQ  R9, (REGS+8*9)(DI)
	MOVQ  R10, (REGS+8*10)(DI)
	MOVQ  R11, (REGS+8*11)(DI)
	MOVQ  R12, (REGS+8*12)(DI)
	MOVQ  R13, (REGS+8*13)(DI)
	MOVQ  R14, (REGS+8*14)(DI)
	MOVQ  R15, (REGS+8*15)(DI)
	XORL  CX, CX
	XGETBV_
	SHLQ  $32, DX
	ORQ   DX, AX
	MOVQ  AX, XCR0(DI)
	MOVQ  AREA(DI), BX
	MOVL  $-1, AX
	MOVL  $-1, DX
	XSAVE64_
	MOVQ  OWN(DI), AX
	CMPQ  AX, XCR0(DI)
	JEQ   entered
	XORL  CX, CX
	MOVQ  AX, DX
	SHRQ  $32, DX
	XSETBV_

entered:
	MOVL    $0x1f80, 0(SP) // MXCSR as Go has it
	LDMXCSR 0(SP)
	RET
