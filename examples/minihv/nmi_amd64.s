#include "textflag.h"

// nmiEntry counts, and keeps all registers: an NMI can arrive at any instruction.
TEXT nmiEntry<>(SB), NOSPLIT|NOFRAME, $0
	INCL ·nmis(SB)
	IRETQ

// func nmiVector() uintptr
TEXT ·nmiVector(SB), NOSPLIT, $0-8
	LEAQ nmiEntry<>(SB), AX
	MOVQ AX, ret+0(FP)
	RET
