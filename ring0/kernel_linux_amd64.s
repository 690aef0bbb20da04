#include "go_asm.h"
#include "funcdata.h"
#include "textflag.h"

// The kernel side of package ring0: what runs between an ordinary Go program
// and the bare machine. See kernel_linux_amd64.go for the rules it keeps.

#define KSTACK 65536
#define MSR_FS_BASE 0xC0000100

// KERNEL makes the processor fit for Go code on the kernel's stack: g is a
// block of zeros (its stack guard is 0, so no prologue ever asks for more
// stack), FS base finds that g for ABI0 wrappers, and X15 is zero.
#define KERNEL \
	MOVL $MSR_FS_BASE, CX \
	LEAQ ·ktls+8(SB), AX \
	MOVQ AX, DX \
	SHRQ $32, DX \
	WRMSR \
	LEAQ ·kg(SB), R14 \
	XORPS X15, X15 \
	CLD

// SAVE stores every general register but AX, IP, flags and SP in the thread
// at AX; AX itself waits in ·scratch.
#define SAVE \
	MOVQ BX, thread_rbx(AX) \
	MOVQ CX, thread_rcx(AX) \
	MOVQ DX, thread_rdx(AX) \
	MOVQ SI, thread_rsi(AX) \
	MOVQ DI, thread_rdi(AX) \
	MOVQ BP, thread_rbp(AX) \
	MOVQ R8, thread_r8(AX) \
	MOVQ R9, thread_r9(AX) \
	MOVQ R10, thread_r10(AX) \
	MOVQ R11, thread_r11(AX) \
	MOVQ R12, thread_r12(AX) \
	MOVQ R13, thread_r13(AX) \
	MOVQ R14, thread_r14(AX) \
	MOVQ R15, thread_r15(AX) \
	MOVQ ·scratch(SB), CX \
	MOVQ CX, thread_rax(AX)

// SAVEREST keeps FS base and the vector state of the thread at AX.
// It leaves the thread in R12.
#define SAVEREST \
	MOVQ AX, R12 \
	MOVL $MSR_FS_BASE, CX \
	RDMSR \
	SHLQ $32, DX \
	ORQ DX, AX \
	MOVQ AX, thread_fs(R12) \
	CALL ·saveVector(SB)

// bootBlock is what the boot image looks for; see internal/bootproto.
DATA ·bootBlock+0(SB)/8, $0x676e69722d787476
DATA ·bootBlock+8(SB)/8, $0x0100746f6f622d30
DATA ·bootBlock+16(SB)/8, $·boot(SB)
GLOBL ·bootBlock(SB), NOPTR, $24

// ktls is the kernel's thread-local storage: one word, the address of its g.
DATA ·ktls+0(SB)/8, $·kg(SB)
GLOBL ·ktls(SB), NOPTR, $16

GLOBL ·kg(SB), NOPTR, $1024
GLOBL ·kstack(SB), NOPTR, $KSTACK
GLOBL ·trapStack(SB), NOPTR, $KSTACK
GLOBL ·nmiStack(SB), NOPTR, $4096
GLOBL ·faultStack(SB), NOPTR, $8192
GLOBL ·idleStack(SB), NOPTR, $256

// func bootBlockAddr() uint64
TEXT ·bootBlockAddr(SB), NOSPLIT, $0-8
	LEAQ ·bootBlock(SB), AX
	MOVQ AX, ret+0(FP)
	RET

// boot is the entry from the boot image: 64-bit mode, 4 GiB mapped to itself,
// interrupts off, EDI, ESI and EDX as bootproto says.
TEXT ·boot(SB), NOSPLIT|NOFRAME|TOPFRAME, $0
	CLI
	MOVL DX, DX
	MOVQ DX, ·params(SB)
	RDTSC
	SHLQ $32, DX
	ORQ  DX, AX
	MOVQ AX, ·bootTSC(SB)
	MOVL DI, DI
	MOVL SI, SI
	MOVQ DI, ·bootMagic(SB)
	MOVQ SI, ·bootInfo(SB)
	LEAQ ·kstack+KSTACK(SB), SP

	// CR0: no emulation, no task-switched trap, native FPU errors, write
	// protection in ring 0 too (SDM Vol. 3A 2.5).
	MOVQ CR0, AX
	ANDQ $~0xc, AX
	ORQ  $0x10022, AX
	MOVQ AX, CR0

	// CR4: OSFXSR, OSXMMEXCPT; OSXSAVE and FSGSBASE where CPUID has them.
	MOVL $1, AX
	XORL CX, CX
	CPUID
	MOVQ CR4, R8
	ORQ  $0x600, R8
	BTL  $26, CX
	JCC  noxsave
	ORQ  $(1<<18), R8
	MOVB $1, ·haveXSAVE(SB)
noxsave:
	XORL R9, R9
	XORL AX, AX
	CPUID
	CMPL AX, $7
	JCS  nofsgs
	MOVL $7, AX
	XORL CX, CX
	CPUID
	MOVL CX, R9 // bit 8: GFNI
	BTL  $0, BX
	JCC  nofsgs
	ORQ  $(1<<16), R8
nofsgs:
	MOVQ R8, CR4
	CMPB ·haveXSAVE(SB), $0
	JEQ  vectors

	// XCR0: x87, SSE, AVX and AVX-512 as far as CPUID leaf 0DH offers them. A
	// thread's page has room for these and not for AMX tiles.
	MOVL $0xd, AX
	XORL CX, CX
	CPUID
	ANDL $0xe7, AX
	MOVQ AX, ·hostXCR0(SB)
	XORL DX, DX
	XORL CX, CX
	XSETBV

	// Bochs 2.7 gets VGF2P8AFFINEQB wrong, and Go's garbage collector marks with
	// it where there is AVX-512 too: objects in use are freed. The identity
	// matrix shows it; such a processor does without AVX-512.
	BTL  $8, R9
	JCC  vectors
	ANDL $4, AX
	JEQ  vectors
	MOVQ $0x0102040810204080, AX
	MOVQ AX, X1
	MOVQ $0x0123456789abcdef, DX
	MOVQ DX, X0
	VGF2P8AFFINEQB $0, X1, X0, X2
	MOVQ X2, AX
	CMPQ AX, DX
	JEQ  vectors
	MOVQ ·hostXCR0(SB), AX
	ANDL $7, AX
	MOVQ AX, ·hostXCR0(SB)
	XORL DX, DX
	XORL CX, CX
	XSETBV
vectors:
	// MXCSR and the x87 control word as at reset of a Linux process.
	MOVL    $0x1f80, AX
	MOVL    AX, ·scratch(SB)
	LDMXCSR ·scratch(SB)
	FINIT

	// Null selectors: the bases come from MSRs, and VM exits may load these.
	XORL AX, AX
	MOVW AX, FS
	MOVW AX, GS
	KERNEL
	MOVQ ·mainFn(SB), DX
	MOVQ (DX), AX
	CALL AX
	JMP  ·resume(SB)

// saveVector keeps x87, SSE and AVX state in the page of the thread at R12. It
// clobbers AX and DX alone.
TEXT ·saveVector(SB), NOSPLIT|NOFRAME, $0
	CMPB    ·haveXSAVE(SB), $0
	JEQ     fx
	MOVL    $-1, AX
	MOVL    $-1, DX
	XSAVE64 const_vectorOffset(R12)
	RET
fx:
	FXSAVE64 const_vectorOffset(R12)
	RET

// syscallEntry is IA32_LSTAR: SYSCALL left the return address in RCX and the
// flags in R11, and FMASK has cleared IF and DF. The calling thread's state
// goes into its page; the handler may put another thread in ·current.
TEXT ·syscallEntry(SB), NOSPLIT|NOFRAME|TOPFRAME, $0
	MOVQ AX, ·scratch(SB)
	MOVQ ·current(SB), AX
	SAVE
	MOVQ thread_rcx(AX), CX
	MOVQ CX, thread_rip(AX)
	MOVQ R11, thread_rflags(AX)
	MOVQ SP, thread_rsp(AX)
	MOVQ $const_selCode, thread_cs(AX)
	MOVQ $const_selData, thread_ss(AX)
	LEAQ ·kstack+KSTACK(SB), SP
	SAVEREST
	KERNEL
	MOVQ ·syscallFn(SB), DX
	MOVQ (DX), AX
	CALL AX
	JMP  ·resume(SB)

// trapEntry is where the 256 gates meet, on the stack that the TSS names:
//
//	0(SP) vector  8(SP) error code  16(SP) RIP  24 CS  32 RFLAGS  40 RSP  48 SS
TEXT ·trapEntry(SB), NOSPLIT|NOFRAME|TOPFRAME, $0
	MOVQ AX, ·scratch(SB)

	// A fault of the kernel itself has no thread to blame.
	LEAQ ·kstack(SB), AX
	SUBQ 40(SP), AX
	NEGQ AX
	CMPQ AX, $KSTACK
	JLS  kernel
	LEAQ ·trapStack(SB), AX
	SUBQ 40(SP), AX
	NEGQ AX
	CMPQ AX, $KSTACK
	JLS  kernel

	MOVQ ·current(SB), AX
	SAVE
	MOVQ 16(SP), CX
	MOVQ CX, thread_rip(AX)
	MOVQ 24(SP), CX
	MOVQ CX, thread_cs(AX)
	MOVQ 32(SP), CX
	MOVQ CX, thread_rflags(AX)
	MOVQ 40(SP), CX
	MOVQ CX, thread_rsp(AX)
	MOVQ 48(SP), CX
	MOVQ CX, thread_ss(AX)
	MOVQ 0(SP), BX
	MOVQ 8(SP), SI
	SAVEREST
	KERNEL
	MOVQ BX, AX
	MOVQ SI, BX
	MOVQ ·trapFn(SB), DX
	MOVQ (DX), CX
	CALL CX
	JMP  ·resume(SB)

kernel:
	MOVQ 0(SP), BX
	MOVQ 8(SP), SI
	MOVQ 16(SP), DI
	MOVQ 40(SP), R8
	LEAQ ·faultStack+8128(SB), SP // the callee may spill its arguments above
	KERNEL
	MOVQ BX, AX
	MOVQ SI, BX
	MOVQ DI, CX
	MOVQ R8, DI
	MOVQ ·kernelFaultFn(SB), DX
	MOVQ (DX), SI
	CALL SI
	UNDEF

// nmiEntry returns at once: an NMI may come at any point, kernel included, and
// nobody waits for one.
TEXT ·nmiEntry(SB), NOSPLIT|NOFRAME|TOPFRAME, $0
	IRETQ

// resume runs the thread in ·current. Its page holds the five words that IRETQ
// pops, so the stack pointer goes there; interrupts stay off until then.
TEXT ·resume(SB), NOSPLIT|NOFRAME|TOPFRAME, $0
	MOVQ ·current(SB), R12
	MOVL $MSR_FS_BASE, CX
	MOVL thread_fs(R12), AX
	MOVL thread_fs+4(R12), DX
	WRMSR
	CMPB ·haveXSAVE(SB), $0
	JEQ  fx
	MOVL $-1, AX
	MOVL $-1, DX
	XRSTOR64 const_vectorOffset(R12)
	JMP  registers
fx:
	FXRSTOR64 const_vectorOffset(R12)
registers:
	MOVQ R12, AX
	MOVQ thread_rbx(AX), BX
	MOVQ thread_rcx(AX), CX
	MOVQ thread_rdx(AX), DX
	MOVQ thread_rsi(AX), SI
	MOVQ thread_rdi(AX), DI
	MOVQ thread_rbp(AX), BP
	MOVQ thread_r8(AX), R8
	MOVQ thread_r9(AX), R9
	MOVQ thread_r10(AX), R10
	MOVQ thread_r11(AX), R11
	MOVQ thread_r12(AX), R12
	MOVQ thread_r13(AX), R13
	MOVQ thread_r14(AX), R14
	MOVQ thread_r15(AX), R15
	LEAQ thread_rip(AX), SP
	MOVQ thread_rax(AX), AX
	IRETQ

// idle is the thread that runs when no other can.
TEXT ·idle(SB), NOSPLIT|NOFRAME|TOPFRAME, $0
loop:
	STI
	HLT
	JMP loop

// func outString(port, addr, n uint64)
TEXT ·outString(SB), NOSPLIT, $0-24
	MOVQ port+0(FP), DX
	MOVQ addr+8(FP), SI
	MOVQ n+16(FP), CX
	REP; OUTSB
	RET

// func clearPages(addr, n uint64)
TEXT ·clearPages(SB), NOSPLIT, $0-16
	MOVQ addr+0(FP), DI
	MOVQ n+8(FP), CX
	SHLQ $9, CX
	XORL AX, AX
	REP; STOSQ
	RET

// func copyBytes(dst, src, n uint64)
TEXT ·copyBytes(SB), NOSPLIT, $0-24
	MOVQ dst+0(FP), DI
	MOVQ src+8(FP), SI
	MOVQ n+16(FP), CX
	MOVQ CX, DX
	SHRQ $3, CX
	REP; MOVSQ
	MOVQ DX, CX
	ANDQ $7, CX
	REP; MOVSB
	RET

// func haltForever()
TEXT ·haltForever(SB), NOSPLIT, $0-0
loop:
	CLI
	HLT
	JMP loop

// func loadSegments()
TEXT ·loadSegments(SB), NOSPLIT, $0-0
	// IRETQ loads CS, and goes on behind this call as RET would have.
	MOVQ 0(SP), AX
	LEAQ 0(SP), CX
	ADDQ $8, CX
	MOVL $const_selData, DX
	MOVW DX, SS
	MOVW DX, DS
	MOVW DX, ES
	PUSHQ DX
	PUSHQ CX
	PUSHFQ
	PUSHQ $const_selCode
	PUSHQ AX
	IRETQ

// func symbols() (syscallEntry, trapEntry, nmiEntry, idle, trapStack, nmiStack, faultStack, idleStack uint64)
TEXT ·symbols(SB), NOSPLIT, $0-64
	LEAQ ·syscallEntry(SB), AX
	MOVQ AX, syscallEntry+0(FP)
	LEAQ ·trapEntry(SB), AX
	MOVQ AX, trapEntry+8(FP)
	LEAQ ·nmiEntry(SB), AX
	MOVQ AX, nmiEntry+16(FP)
	LEAQ ·idle(SB), AX
	MOVQ AX, idle+24(FP)
	LEAQ ·trapStack+KSTACK(SB), AX
	MOVQ AX, trapStack+32(FP)
	LEAQ ·nmiStack+4096(SB), AX
	MOVQ AX, nmiStack+40(FP)
	LEAQ ·faultStack+8192(SB), AX
	MOVQ AX, faultStack+48(FP)
	LEAQ ·idleStack+256(SB), AX
	MOVQ AX, idleStack+56(FP)
	RET

// func rdrand() uint64
TEXT ·rdrand(SB), NOSPLIT, $0-8
	RDRANDQ AX
	MOVQ    AX, ret+0(FP)
	RET

// func coverageCounters() (start, end uint64)
TEXT ·coverageCounters(SB), NOSPLIT, $0-16
	LEAQ runtime·covctrs(SB), AX
	MOVQ AX, start+0(FP)
	LEAQ runtime·ecovctrs(SB), AX
	MOVQ AX, end+8(FP)
	RET
