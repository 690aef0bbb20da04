#include "textflag.h"

// func vmcall()
// A VTL call, as ring 0 makes it (TLFS, "VTL Call"). VMCALL is 0F 01 C1 (SDM Vol. 3C 31.3).
TEXT ·vmcall(SB), NOSPLIT, $0-0
	MOVL $0x11, CX
	XORL AX, AX
	BYTE $0x0f; BYTE $0x01; BYTE $0xc1
	RET
