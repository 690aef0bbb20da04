// Shared by the stubs of this package.

#include "go_asm.h"
#include "textflag.h"

// RING0 begins a stub whose instruction belongs to privilege level 0. REFUSE
// ends it: in an ordinary process it goes on in refused, with the caller's
// return address on top of the stack, as if the stub were not there.
#define RING0 \
	CMPB ·user(SB), $0 \
	JNE  refuse

#define REFUSE(op) \
refuse: \
	MOVL $op, AX \
	JMP  ·refused(SB)

// ANSWER stores the Status of the VMX instruction just executed and returns.
// Success takes three instructions.
#define ANSWER(status) \
	JLS  fail \
	MOVB $0, status \
	RET \
fail: \
	JCS  invalid \
	MOVB $2, status \
	RET \
invalid: \
	MOVB $1, status \
	RET
