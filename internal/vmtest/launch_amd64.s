#include "textflag.h"

#define VMLAUNCH   BYTE $0x0f; BYTE $0x01; BYTE $0xc2
#define VMPTRLD_AX BYTE $0x0f; BYTE $0xc7; BYTE $0x30 // VMPTRLD (AX)
#define ENDBR64    BYTE $0xf3; BYTE $0x0f; BYTE $0x1e; BYTE $0xfa

// The stack from the PUSHFQ of launch to the end of restored:
//
//	24(SP)  status
//	16(SP)  return address
//	 8(SP)  BP
//	 0(SP)  RFLAGS

// func launch() (status uint8)
TEXT ·launch(SB), NOSPLIT|NOFRAME, $0-1
	PUSHQ BP
	PUSHFQ
	CLI
	MOVQ SP, ·launchSP(SB)
	VMLAUNCH
	MOVB $2, status+0(FP)
	JCC  failed
	MOVB $1, status+0(FP)

failed:
	POPFQ
	POPQ BP
	RET

// exited is where the VMCS that is tried leads. HOST_IA32_S_CET may ask for an
// ENDBR64 there. Should the second VMCS fail, the machine stops.
TEXT ·exited(SB), NOSPLIT|NOFRAME, $0-0
	ENDBR64
	LEAQ ·launchSecond(SB), AX
	VMPTRLD_AX
	VMLAUNCH
	BYTE $0x0f; BYTE $0x0b // UD2

// restored is where the second VMCS leads. POPFQ and POPQ BP are bytes, for the
// assembler would count them.
TEXT ·restored(SB), NOSPLIT|NOFRAME, $0-0
	MOVQ ·launchSP(SB), SP
	MOVB $0, 24(SP)
	BYTE $0x9d; BYTE $0x5d
	RET

// func launchAddresses() (exited, restored uint64)
TEXT ·launchAddresses(SB), NOSPLIT, $0-16
	LEAQ ·exited(SB), AX
	MOVQ AX, exited+0(FP)
	LEAQ ·restored(SB), AX
	MOVQ AX, restored+8(FP)
	RET
