#include "textflag.h"

#define PREEMPTION_TIMER_VALUE $0x482e

// nmiEntry is the host's handler of NMIs. It counts, and while a guest is run has the VM entry
// that is next exit at once, by a VMX-preemption timer that is 0 (SDM Vol. 3C 27.7.4): no matter
// how far the host is on its way there, the NMI is noticed before the guest executes an instruction.
// All registers are kept: an NMI can arrive at any instruction.
TEXT nmiEntry<>(SB), NOSPLIT|NOFRAME, $0
	INCL ·nmis(SB)
	CMPB ·nmiStrikes(SB), $0
	JEQ  done
	PUSHQ CX
	PUSHQ DX
	MOVL PREEMPTION_TIMER_VALUE, CX
	XORL DX, DX
	BYTE $0x0f; BYTE $0x79; BYTE $0xca // VMWRITE DX, CX: field CX. Without a current VMCS it fails, and it need not be told
	POPQ DX
	POPQ CX
done:
	IRETQ

// func nmiVector() uintptr
TEXT ·nmiVector(SB), NOSPLIT, $0-8
	LEAQ nmiEntry<>(SB), AX
	MOVQ AX, ret+0(FP)
	RET
