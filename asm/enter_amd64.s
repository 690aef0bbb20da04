#include "stub_amd64.h"

// VM entry and exit.
//
// Go calls enter like any function; it enters the guest and never returns by
// itself. The VM exit arrives at exited, with SP as enter had it, and that
// returns to enter's caller. So the two are one function in two halves:
//
//	Go            enter                              guest
//	 |--- CALL --->|  1 save BP and RFLAGS, CLI
//	 |             |  2 VMWRITE HOST_RSP, if SP moved
//	 |             |  3 VMWRITE GUEST_RIP, if g.RIP changed
//	 |             |  4 XRSTOR the guest's vector state, if kept
//	 |             |  5 CR2, if it differs
//	 |             |  6 load 15 general registers
//	 |             |  7 VMLAUNCH or VMRESUME ----------->|
//	 |                                                 | runs
//	 |            exited <---------- VM exit ----------|
//	 |             |  8 store 15 general registers
//	 |             |  9 CR2
//	 |             | 10 VMREAD length, reason, flags, RIP
//	 |             | 11 XSAVE the guest's vector state, clean the host's
//	 |<--- RET ----| 12 restore RFLAGS and BP
//
// The stack from step 1 to step 12; HOST_RSP points to its top:
//
//	32(SP)  status     result
//	24(SP)  g          argument
//	16(SP)  return address
//	 8(SP)  BP
//	 0(SP)  RFLAGS     <- HOST_RSP
//
// HOST_RSP is written only when it changed: a run loop calls Enter again and
// again from the same depth of the same stack. When Go moves the stack, SP
// differs, and step 2 notices.
//
// The processor loads RFLAGS with 2 at a VM exit (SDM Vol. 3C 28.5.3), so
// interrupts are off in both halves and nothing sees the guest's CR2, vector
// state or XCR0. CR2 comes after everything that touches memory for the first
// time, because a page fault of the host would change it.
//
// If VMLAUNCH or VMRESUME fails, CF or ZF is set and the next instruction runs,
// with the guest's registers: it takes the way of steps 11 and 12, to return
// the status. If an instruction faults, the runtime goes on in launchFaulted or
// enterFaulted (see Fixup), which unwind the same stack and panic.
//
// BX holds g on both sides, and is loaded last and stored first.

#define HOST_RSP      $0x6c14
#define HOST_RIP      $0x6c16
#define GUEST_RIP     $0x681e
#define EXIT_REASON   $0x4402
#define EXIT_LENGTH   $0x440c
#define GUEST_RFLAGS  $0x6820
#define GUEST_BLOCKED $0x4824 // interruptibility state

#define VMWRITE_DX_CX BYTE $0x0f; BYTE $0x79; BYTE $0xca // VMWRITE DX, CX: field CX
#define VMREAD_CX_DX  BYTE $0x0f; BYTE $0x78; BYTE $0xca // VMREAD CX, DX: field CX
#define VMREAD_CX(offset) BYTE $0x0f; BYTE $0x78; BYTE $0x8b; LONG $offset // VMREAD CX, offset(BX)

// POPFQ and POPQ BP, as bytes: the assembler counts PUSH and POP line by line,
// and would take these for unbalanced.
#define UNWIND BYTE $0x9d; BYTE $0x5d

// func enter(guest *Guest) (status Status)
TEXT ·enter(SB), NOSPLIT|NOFRAME, $0-9
	RING0
	MOVQ guest+0(FP), BX
	PUSHQ BP
	PUSHFQ
	CLI
	CMPQ SP, Guest_hostRSP(BX)
	JNE  moved

rip:
	MOVQ Guest_RIP(BX), DX
	CMPQ DX, Guest_rip(BX)
	JNE  jumped

vector:
	CMPQ Guest_vector(BX), $0
	JNE  keep

cr2:
	MOVQ Guest_CR2(BX), DX
	MOVQ CR2, CX
	CMPQ CX, DX
	JNE  fault

registers:
	CMPB Guest_launched(BX), $0 // MOVQ keeps the flags
	MOVQ (Guest_Regs+0*8)(BX), AX
	MOVQ (Guest_Regs+1*8)(BX), CX
	MOVQ (Guest_Regs+2*8)(BX), DX
	MOVQ (Guest_Regs+5*8)(BX), BP
	MOVQ (Guest_Regs+6*8)(BX), SI
	MOVQ (Guest_Regs+7*8)(BX), DI
	MOVQ (Guest_Regs+8*8)(BX), R8
	MOVQ (Guest_Regs+9*8)(BX), R9
	MOVQ (Guest_Regs+10*8)(BX), R10
	MOVQ (Guest_Regs+11*8)(BX), R11
	MOVQ (Guest_Regs+12*8)(BX), R12
	MOVQ (Guest_Regs+13*8)(BX), R13
	MOVQ (Guest_Regs+14*8)(BX), R14
	MOVQ (Guest_Regs+15*8)(BX), R15
	MOVQ (Guest_Regs+3*8)(BX), BX
	JEQ  launch
	BYTE $0x0f; BYTE $0x01; BYTE $0xc3 // VMRESUME
	JMP  failed

launch:
	BYTE $0x0f; BYTE $0x01; BYTE $0xc2 // VMLAUNCH

failed:
	MOVB $2, status+8(FP)
	JCC  undo
	MOVB $1, status+8(FP)

undo:
	MOVQ guest+0(FP), BX
	CMPQ Guest_vector(BX), $0
	JEQ  out
	JMP  ·leaveVector(SB) // with SP as at a VM exit

fault:
	MOVQ DX, CR2
	JMP  registers

	// Step 2. The first time, HOST_RIP and GUEST_RIP are written too, and both
	// ends of g are touched, so that its pages are there when CR2 is loaded.
moved:
	MOVL HOST_RSP, CX
	MOVQ SP, DX
	VMWRITE_DX_CX
	JLS  unwritten
	CMPQ Guest_hostRSP(BX), $0
	JNE  written
	MOVL HOST_RIP, CX
	LEAQ ·exited(SB), DX
	VMWRITE_DX_CX
	JLS  unwritten
	MOVL GUEST_RIP, CX
	MOVQ Guest_RIP(BX), DX
	VMWRITE_DX_CX
	JLS  unwritten
	MOVQ DX, Guest_rip(BX)
	ORQ  $0, Guest_Regs(BX)

written:
	MOVQ SP, Guest_hostRSP(BX)
	JMP  rip

jumped:
	MOVL GUEST_RIP, CX
	VMWRITE_DX_CX
	JLS  unwritten
	MOVQ DX, Guest_rip(BX)
	JMP  vector

	// Step 4. XCR0 changes last, for the mask goes by the host's.
keep:
	MOVQ Guest_vector(BX), SI
	CMPQ Guest_mask(BX), $0
	JEQ  legacy
	MOVL Guest_mask(BX), AX
	MOVL (Guest_mask+4)(BX), DX
	XRSTOR64 (SI)
	CMPQ Guest_xcr0(BX), $0
	JEQ  cr2
	MOVL Guest_xcr0(BX), AX
	MOVL (Guest_xcr0+4)(BX), DX
	XORL CX, CX
	XSETBV
	JMP  cr2

legacy:
	FXRSTOR64 (SI)
	JMP  cr2

	// A VMWRITE failed, before vector state was touched.
unwritten:
	MOVB $2, status+8(FP)
	JCC  out
	MOVB $1, status+8(FP)

out:
	POPFQ
	POPQ BP
	RET
	REFUSE(const_opVMLAUNCH)

// exited is where HOST_RIP points.
TEXT ·exited(SB), NOSPLIT|NOFRAME, $0-0
	PUSHQ BX
	MOVQ 32(SP), BX // g, one slot further up
	MOVQ AX, (Guest_Regs+0*8)(BX)
	MOVQ CX, (Guest_Regs+1*8)(BX)
	MOVQ DX, (Guest_Regs+2*8)(BX)
	MOVQ BP, (Guest_Regs+5*8)(BX)
	MOVQ SI, (Guest_Regs+6*8)(BX)
	MOVQ DI, (Guest_Regs+7*8)(BX)
	MOVQ R8, (Guest_Regs+8*8)(BX)
	MOVQ R9, (Guest_Regs+9*8)(BX)
	MOVQ R10, (Guest_Regs+10*8)(BX)
	MOVQ R11, (Guest_Regs+11*8)(BX)
	MOVQ R12, (Guest_Regs+12*8)(BX)
	MOVQ R13, (Guest_Regs+13*8)(BX)
	MOVQ R14, (Guest_Regs+14*8)(BX)
	MOVQ R15, (Guest_Regs+15*8)(BX)
	POPQ (Guest_Regs+3*8)(BX)
	MOVQ CR2, CX
	MOVQ CX, Guest_CR2(BX)
	MOVL EXIT_LENGTH, CX
	VMREAD_CX(Guest_InstructionLength)
	MOVL EXIT_REASON, CX
	VMREAD_CX(Guest_Reason)
	MOVL GUEST_RFLAGS, CX
	VMREAD_CX(Guest_RFLAGS)
	MOVL GUEST_BLOCKED, CX
	VMREAD_CX(Guest_Interruptibility)
	MOVL GUEST_RIP, CX
	VMREAD_CX_DX
	MOVQ DX, Guest_RIP(BX)
	MOVQ DX, Guest_rip(BX)
	CMPL Guest_Reason(BX), $0
	JLT  unlaunched // bit 31: the entry failed and launched nothing (SDM Vol. 3C 27.8)
	MOVB $1, Guest_launched(BX)

unlaunched:
	MOVB $0, 32(SP) // status
	CMPQ Guest_vector(BX), $0
	JNE  vector
	UNWIND
	RET

vector:
	JMP ·leaveVector(SB)

// leaveVector is step 11 and 12: it stores the guest's vector state and gives
// the host clean registers. Go keeps nothing in them across a call, but expects
// MXCSR and the x87 control word in their initial state; upper halves left
// dirty would slow it down.
TEXT ·leaveVector(SB), NOSPLIT|NOFRAME, $0-0
	MOVQ Guest_vector(BX), SI
	CMPQ Guest_mask(BX), $0
	JEQ  legacy
	MOVL Guest_mask(BX), AX
	MOVL (Guest_mask+4)(BX), DX
	CMPQ Guest_xcr0(BX), $0
	JNE  switch

save:
	XSAVE64  (SI)
	XRSTOR64 (-const_initBytes)(SI)
	UNWIND
	RET

switch:
	XORL CX, CX
	XSETBV
	JMP  save

legacy:
	FXSAVE64  (SI)
	FXRSTOR64 (-const_initBytes)(SI)
	UNWIND
	RET

// launchFaulted is where a fault goes on after XCR0 may have become the
// guest's: it restores the host's first. See enterFaulted for what it is given.
TEXT ·launchFaulted(SB), NOSPLIT|NOFRAME, $0-0
	MOVQ AX, R8
	MOVQ CX, R9
	MOVQ 32(SP), SI // g, one slot further up
	CMPQ Guest_xcr0(SI), $0
	JEQ  same
	MOVL Guest_mask(SI), AX
	MOVL (Guest_mask+4)(SI), DX
	XORL CX, CX
	XSETBV

same:
	MOVQ R8, AX
	MOVQ R9, CX
	JMP  ·enterFaulted(SB)

// enterFaulted is where a fault in enter or its second half goes on. The
// runtime has pushed the faulting address on the stack drawn above; AX, BX and
// CX hold what faulted takes. It unwinds that stack and goes on there as if
// enter's caller had called faulted.
TEXT ·enterFaulted(SB), NOSPLIT|NOFRAME, $0-0
	MOVQ 32(SP), SI // g
	MOVQ $0, Guest_hostRSP(SI)
	MOVQ Guest_vector(SI), SI
	TESTQ SI, SI
	JEQ  unwind
	BYTE $0xdb; BYTE $0xe3 // FNINIT
	LDMXCSR (-const_initBytes+24)(SI)

unwind:
	LEAQ 8(SP), SP
	UNWIND
	JMP  ·faulted(SB)
