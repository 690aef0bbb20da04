#include "textflag.h"

// What both levels run: 64-bit code that is copied to where the level has its memory, with
// this layout. guests.go fills in what is not code.
#define STACK    0x6ff0 // the level's base is in the word there
#define PAGE     0x8000 // hypercall page
#define INPUT    0x9000 // for HvCallSetVpRegisters
#define ASSIST   0xb000 // VP assist page
#define MESSAGE  0xc000 // message page: the slot of SINT0 comes first
#define OFFSETS  0xd000 // the register VsmCodePageOffsets
#define CR3VTL0  0xd010 // CR3 of VTL0
#define FAULT    0xd020 // a pending #GP, as HvRegisterPendingEvent0 has it
#define SETREGS  0xd028 // the input value of HvCallSetVpRegisters for one register
#define SAVED    0xd100 // registers of the lower level
#define STEPS    0x10000
#define SECRET   0x20000

#define PORT 0xe9 // where steps are announced and reported

#define CPUID_ BYTE $0x0f; BYTE $0xa2

// What a step does, as guests.go has it too.
#define opServe     1
#define opRead      2
#define opWrite     3
#define opCall      4
#define opCPUID     5
#define opRDMSR     6
#define opWRMSR     7
#define opCR0       8
#define opCR3       9
#define opCR4       10
#define opHypercall 11
#define opVTLCall   12
#define opVTLReturn 13
#define opUser      14

// The level begins here, with a stack and no other registers. It goes through its steps, 64
// bytes each: what to do, and three operands. Those with a name are announced to the
// hypervisor, and their result is reported:
//
//	BX   a value: what was read, or RAX after a hypercall
//	R13  0x100 and the vector of the exception that has ended the step; or 0
TEXT guest<>(SB), NOSPLIT|NOFRAME, $0
	MOVQ 0(SP), R11
	LEAQ STEPS(R11), R12

next:
	MOVQ 0(R12), R15
	CMPQ R15, $opServe
	JEQ  serve
	JLT  halt
	MOVL $0, AX
	CALL tell<>(SB)
	XORL BX, BX
	XORL R13, R13
	CALL perform<>(SB)
	MOVL $1, AX
	CALL tell<>(SB)
	ADDQ $64, R12
	JMP  next

halt:
	HLT
	JMP halt

serve:
	JMP serve<>(SB)

// tell announces (AX = 0) or reports (AX = 1) the step.
TEXT tell<>(SB), NOSPLIT|NOFRAME, $0
	CMPQ 32(R12), $0 // without a name
	JEQ  quiet
	MOVL $PORT, DX
	OUTL

quiet:
	RET

// perform does what the step at R12 says, with its operands in SI, DI and R9. It keeps R12 and
// R11. An exception ends it: see fault.
TEXT perform<>(SB), NOSPLIT|NOFRAME, $0
	MOVQ 8(R12), SI
	MOVQ 16(R12), DI
	MOVQ 24(R12), R9
	CMPQ R15, $opRead
	JEQ  read
	CMPQ R15, $opWrite
	JEQ  write
	CMPQ R15, $opCall
	JEQ  call
	CMPQ R15, $opCPUID
	JEQ  cpuid
	CMPQ R15, $opRDMSR
	JEQ  rdmsr
	CMPQ R15, $opWRMSR
	JEQ  wrmsr
	CMPQ R15, $opCR0
	JEQ  cr0
	CMPQ R15, $opCR3
	JEQ  cr3
	CMPQ R15, $opCR4
	JEQ  cr4
	CMPQ R15, $opHypercall
	JEQ  hypercall
	CMPQ R15, $opVTLCall
	JEQ  vtlCall
	CMPQ R15, $opVTLReturn
	JEQ  vtlReturn
	CMPQ R15, $opUser
	JEQ  user
	UNDEF

read:
	MOVQ (SI), BX
	RET

write:
	MOVQ DI, (SI)
	RET

call:
	CALL SI
	RET

cpuid: // leaf SI; of register DI (0 EAX, 1 EBX, 2 ECX, 3 EDX) the bits in R9
	MOVL SI, AX
	XORL CX, CX
	CPUID_
	CMPL DI, $1
	JLT  eax
	JEQ  ebx
	CMPL DI, $2
	JEQ  ecx
	MOVL DX, BX
	JMP  ebx

eax:
	MOVL AX, BX
	JMP  ebx

ecx:
	MOVL CX, BX

ebx:
	ANDL R9, BX
	RET

rdmsr:
	MOVL SI, CX
	RDMSR
	SHLQ $32, DX
	MOVL AX, BX
	ORQ  DX, BX
	RET

wrmsr:
	MOVL SI, CX
	MOVQ DI, AX
	MOVQ DI, DX
	SHRQ $32, DX
	WRMSR
	RET

cr0: // with the bits in SI changed
	MOVQ CR0, AX
	XORQ SI, AX
	MOVQ AX, CR0
	MOVQ CR0, BX
	RET

cr3:
	MOVQ SI, CR3
	MOVQ CR3, BX
	RET

cr4: // with the bits in SI changed
	MOVQ CR4, AX
	XORQ SI, AX
	MOVQ AX, CR4
	MOVQ CR4, BX
	RET

hypercall: // input value SI, addresses or parameters DI and R9
	MOVQ SI, CX
	MOVQ DI, DX
	MOVQ R9, R8
	LEAQ PAGE(R11), AX
	CALL AX
	MOVQ AX, BX
	RET

vtlCall: // control input SI, and a request for the higher level in R8
	MOVQ DI, R8
	MOVQ SI, CX
	MOVQ OFFSETS(R11), AX
	ANDL $0xfff, AX
	LEAQ PAGE(R11)(AX*1), AX
	PUSHQ R11 // the higher level shares registers, and does not save them the first time
	PUSHQ R12
	CALL AX
	POPQ R12
	POPQ R11
	MOVQ AX, BX
	XORL R13, R13
	RET

vtlReturn:
	MOVQ SI, CX
	MOVQ OFFSETS(R11), AX
	SHRQ $12, AX
	ANDL $0xfff, AX
	LEAQ PAGE(R11)(AX*1), AX
	CALL AX
	MOVQ AX, BX
	RET

user: // code at SI, in user mode, which an exception has to end
	LEAQ  (STACK-0x40)(R11), AX
	MOVQ  SI, 0(AX)
	MOVQ  $0x23, 8(AX)  // CS
	MOVQ  $2, 16(AX)    // RFLAGS
	LEAQ  (STACK-0x400)(R11), CX
	MOVQ  CX, 24(AX)    // RSP
	MOVQ  $0x1b, 32(AX) // SS
	MOVQ  AX, SP
	IRETQ

// fault is where the stub for a vector jumps to, with the vector on the stack: the step is
// over. A level has a stack for its user mode's exceptions beside its own.
TEXT fault<>(SB), NOSPLIT|NOFRAME, $0
	MOVQ 0(SP), R13
	ORQ  $0x100, R13
	MOVL $0x10, AX
	MOVW AX, SS
	LEAQ (STACK-8)(R11), SP // where perform's return address is
	RET

// serve is what a level above 0 does from now on: it returns, is entered again, looks why,
// and answers. The lower level's registers are its own, but for RSP and what the assist page
// has.
TEXT serve<>(SB), NOSPLIT|NOFRAME, $0
	XORL CX, CX // not fast: RAX and RCX are restored from the assist page

return:
	MOVQ 0(SP), AX
	MOVQ OFFSETS(AX), AX
	SHRQ $12, AX
	ANDL $0xfff, AX
	ADDQ 0(SP), AX
	ADDQ $PAGE, AX
	CALL AX

	// Entered.
	XCHGQ R11, 0(SP)
	MOVQ  AX, (ASSIST+16)(R11)
	MOVQ  CX, (ASSIST+24)(R11)
	MOVQ  DX, (SAVED+0x00)(R11)
	MOVQ  BX, (SAVED+0x08)(R11)
	MOVQ  SI, (SAVED+0x10)(R11)
	MOVQ  R8, (SAVED+0x18)(R11)
	MOVL  (ASSIST+8)(R11), DX // entry reason
	CMPL  DX, $1
	JEQ   request
	MOVL  MESSAGE(R11), DX
	TESTL DX, DX
	JNE   intercept

answered:
	MOVQ  (SAVED+0x00)(R11), DX
	MOVQ  (SAVED+0x08)(R11), BX
	MOVQ  (SAVED+0x10)(R11), SI
	MOVQ  (SAVED+0x18)(R11), R8
	XCHGQ R11, 0(SP)
	XORL  CX, CX
	JMP   return

request: // a keyed sum: RAX becomes what the secret makes of R8
	LEAQ SECRET(R11), SI
	MOVL $512, CX

sum:
	ROLQ $5, R8
	XORQ (SI), R8
	ADDQ $8, SI
	DECL CX
	JNE  sum
	MOVQ R8, (ASSIST+16)(R11)
	JMP  answered

intercept: // DX is the type of the message in slot 0; its payload begins at 16
	LEAQ INPUT(R11), SI
	CMPL DX, $0x80000001 // memory
	JNE  skip
	MOVQ (MESSAGE+16+48)(R11), AX // linear address
	CMPQ AX, (MESSAGE+16+24)(R11) // RIP
	JNE  refuse
	CMPB (MESSAGE+16+5)(R11), $2 // a fetch
	JEQ  refuse

	// The tables are not good enough to fetch from: the level can do nothing any more,
	// not even take an exception. It gets back the tables that it had.
	MOVL $0x00040002, 16(SI) // CR3
	MOVQ CR3VTL0(R11), AX
	MOVQ AX, 32(SI)
	JMP  set

refuse:
	MOVL $0x00010004, 16(SI) // PendingEvent0
	MOVQ FAULT(R11), AX
	MOVQ AX, 32(SI)
	JMP  set

skip: // a register or MSR: the instruction is passed over
	MOVL $0x00020010, 16(SI) // RIP
	MOVB (MESSAGE+16+4)(R11), AX
	ANDL $0xf, AX // length
	ADDQ (MESSAGE+16+24)(R11), AX
	MOVQ AX, 32(SI)

set:
	MOVQ SETREGS(R11), CX
	LEAQ INPUT(R11), DX
	XORL R8, R8
	LEAQ PAGE(R11), AX
	CALL AX
	MOVL $0, MESSAGE(R11) // the slot is free
	JMP  answered

TEXT guestEnd<>(SB), NOSPLIT|NOFRAME, $0
	UNDEF

// func guestBounds() (start, fault, end uintptr)
TEXT ·guestBounds(SB), NOSPLIT, $0-24
	LEAQ guest<>(SB), AX
	MOVQ AX, start+0(FP)
	LEAQ fault<>(SB), AX
	MOVQ AX, fault+8(FP)
	LEAQ guestEnd<>(SB), AX
	MOVQ AX, end+16(FP)
	RET
