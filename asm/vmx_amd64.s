#include "stub_amd64.h"

// The Go assembler has none of the VMX instructions, so their bytes stand
// here. 8(SP) is the first argument: the operand of the instructions that take
// a physical address is the argument slot itself.

// func VMXON(phys uint64) (status Status)
TEXT ·VMXON(SB), NOSPLIT, $0-9
	RING0
	BYTE $0xf3; BYTE $0x0f; BYTE $0xc7; BYTE $0x74; BYTE $0x24; BYTE $0x08 // VMXON 8(SP)
	ANSWER(status+8(FP))
	REFUSE(const_opVMXON)

// func VMXOFF() (status Status)
TEXT ·VMXOFF(SB), NOSPLIT, $0-1
	RING0
	BYTE $0x0f; BYTE $0x01; BYTE $0xc4 // VMXOFF
	ANSWER(status+0(FP))
	REFUSE(const_opVMXOFF)

// func VMCLEAR(phys uint64) (status Status)
TEXT ·VMCLEAR(SB), NOSPLIT, $0-9
	RING0
	BYTE $0x66; BYTE $0x0f; BYTE $0xc7; BYTE $0x74; BYTE $0x24; BYTE $0x08 // VMCLEAR 8(SP)
	ANSWER(status+8(FP))
	REFUSE(const_opVMCLEAR)

// func VMPTRLD(phys uint64) (status Status)
TEXT ·VMPTRLD(SB), NOSPLIT, $0-9
	RING0
	BYTE $0x0f; BYTE $0xc7; BYTE $0x74; BYTE $0x24; BYTE $0x08 // VMPTRLD 8(SP)
	ANSWER(status+8(FP))
	REFUSE(const_opVMPTRLD)

// func VMPTRST() (phys uint64, status Status)
TEXT ·VMPTRST(SB), NOSPLIT, $0-9
	RING0
	MOVQ $0, phys+0(FP)
	BYTE $0x0f; BYTE $0xc7; BYTE $0x7c; BYTE $0x24; BYTE $0x08 // VMPTRST 8(SP)
	ANSWER(status+8(FP))
	REFUSE(const_opVMPTRST)

// func VMREAD(field uint32) (value uint64, status Status)
TEXT ·VMREAD(SB), NOSPLIT, $0-17
	RING0
	MOVL field+0(FP), AX
	BYTE $0x0f; BYTE $0x78; BYTE $0xc1 // VMREAD AX, CX
	JLS  fail
	MOVQ CX, value+8(FP)
	MOVB $0, status+16(FP)
	RET
fail:
	MOVQ $0, value+8(FP)
	JCS  invalid
	MOVB $2, status+16(FP)
	RET
invalid:
	MOVB $1, status+16(FP)
	RET
	REFUSE(const_opVMREAD)

// func VMWRITE(field uint32, value uint64) (status Status)
TEXT ·VMWRITE(SB), NOSPLIT, $0-17
	RING0
	MOVL field+0(FP), AX
	MOVQ value+8(FP), CX
	BYTE $0x0f; BYTE $0x79; BYTE $0xc1 // VMWRITE CX, AX
	ANSWER(status+16(FP))
	REFUSE(const_opVMWRITE)

// func INVEPT(kind uint64, descriptor *[2]uint64) (status Status)
TEXT ·INVEPT(SB), NOSPLIT, $0-17
	RING0
	MOVQ kind+0(FP), AX
	MOVQ descriptor+8(FP), CX
	BYTE $0x66; BYTE $0x0f; BYTE $0x38; BYTE $0x80; BYTE $0x01 // INVEPT (CX), AX
	ANSWER(status+16(FP))
	REFUSE(const_opINVEPT)

// func INVVPID(kind uint64, descriptor *[2]uint64) (status Status)
TEXT ·INVVPID(SB), NOSPLIT, $0-17
	RING0
	MOVQ kind+0(FP), AX
	MOVQ descriptor+8(FP), CX
	BYTE $0x66; BYTE $0x0f; BYTE $0x38; BYTE $0x81; BYTE $0x01 // INVVPID (CX), AX
	ANSWER(status+16(FP))
	REFUSE(const_opINVVPID)

// func VMCALL(regs *CallRegs)
//
// ABI0 lets a stub change every register but SP and BP. R14, which holds g in
// compiled code, stays as it is, because a fault's frame may be walked.
TEXT ·VMCALL(SB), NOSPLIT, $0-8
	RING0
	MOVQ regs+0(FP), R12
	MOVQ CallRegs_RAX(R12), AX
	MOVQ CallRegs_RBX(R12), BX
	MOVQ CallRegs_RCX(R12), CX
	MOVQ CallRegs_RDX(R12), DX
	MOVQ CallRegs_RSI(R12), SI
	MOVQ CallRegs_RDI(R12), DI
	MOVQ CallRegs_R8(R12), R8
	MOVQ CallRegs_R9(R12), R9
	MOVQ CallRegs_R10(R12), R10
	MOVQ CallRegs_R11(R12), R11
	BYTE $0x0f; BYTE $0x01; BYTE $0xc1 // VMCALL
	MOVQ regs+0(FP), R12 // the hypervisor may have changed it
	MOVQ AX, CallRegs_RAX(R12)
	MOVQ BX, CallRegs_RBX(R12)
	MOVQ CX, CallRegs_RCX(R12)
	MOVQ DX, CallRegs_RDX(R12)
	MOVQ SI, CallRegs_RSI(R12)
	MOVQ DI, CallRegs_RDI(R12)
	MOVQ R8, CallRegs_R8(R12)
	MOVQ R9, CallRegs_R9(R12)
	MOVQ R10, CallRegs_R10(R12)
	MOVQ R11, CallRegs_R11(R12)
	RET
	REFUSE(const_opVMCALL)

// func VMFUNC(function, index uint32)
TEXT ·VMFUNC(SB), NOSPLIT, $0-8
	RING0
	MOVL function+0(FP), AX
	MOVL index+4(FP), CX
	BYTE $0x0f; BYTE $0x01; BYTE $0xd4 // VMFUNC
	RET
	REFUSE(const_opVMFUNC)
