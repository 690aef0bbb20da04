#include "textflag.h"

DATA block<>+0(SB)/8, $0x676e69722d787476
DATA block<>+8(SB)/8, $0x0100746f6f622d30
DATA block<>+16(SB)/8, $boot<>(SB)
GLOBL block<>(SB), NOPTR, $24

// A frame of type 1 that holds 17 bytes, the message's length.
DATA head<>+0(SB)/8, $"\xfevtx\x01\x11\x00\x00"
DATA head<>+8(SB)/1, $0
GLOBL head<>(SB), NOPTR|RODATA, $9

// A frame of type 5: exit status 42. Then what ends Bochs.
DATA end<>+0(SB)/8, $"\xfevtx\x05\x04\x00\x00"
DATA end<>+8(SB)/8, $"\x00\x2a\x00\x00\x00Shu"
DATA end<>+16(SB)/5, $"tdown"
GLOBL end<>(SB), NOPTR|RODATA, $21

// func mark() unsafe.Pointer
TEXT ·mark(SB), NOSPLIT, $0-8
	LEAQ block<>(SB), AX
	MOVQ AX, ret+0(FP)
	RET

TEXT boot<>(SB), NOSPLIT|NOFRAME, $0
	MOVL $0xe9, DX
	LEAQ head<>(SB), SI
	MOVL $9, CX
	REP; OUTSB
	MOVQ ·message(SB), SI
	MOVQ ·message+8(SB), CX
	REP; OUTSB
	LEAQ end<>(SB), SI
	MOVL $13, CX
	REP; OUTSB
	MOVL $0x8900, DX
	MOVL $8, CX
	REP; OUTSB
	MOVB $42, AX
	OUTB $0xf4
halt:
	HLT
	JMP halt
