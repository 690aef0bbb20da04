#include "textflag.h"

// func xsavec(area *byte, ymm *[32]byte)
TEXT ·xsavec(SB), NOSPLIT, $0-16
	MOVQ area+0(FP), CX
	MOVQ ymm+8(FP), BX
	VMOVDQU (BX), Y8
	MOVL $(1<<0 | 1<<1 | 1<<2), AX
	XORL DX, DX
	XSAVEC64 (CX)
	VZEROUPPER
	RET
