# A program to boot, without a Go runtime: it dumps what it was started with in
# frames, so that a test can compare it with what it asked for, and ends.
#
# The frames, each of type FRAME_STDOUT, in this order:
#
#   the registers at entry, 64 bits each (see below)
#   the parameter block
#   multiboot information: 120 bytes of it, or all of multiboot 2's
#   multiboot 1's memory map (empty with multiboot 2)
#   for each segment: its bytes from the file, then 8 bytes: how many of the
#     bytes behind them are not zero
#   for each module: its bytes
#
# Frames hold 64 KiB at most; a dump goes on in the next frame while frames are
# full, and ends with one that is not.

.equ FRAME_STDOUT,      1
.equ FRAME_EXIT,        5
.equ PORT_E9,           0xe9
.equ PORT_SHUTDOWN,     0x8900
.equ PORT_QEMU_EXIT,    0xf4
.equ MULTIBOOT_MAGIC,   0x2badb002
.equ PARAM_SIZE,        8
.equ PARAM_SEGMENTS,    96
.equ PARAM_SEGC,        104
.equ PARAM_MODULES,     112
.equ PARAM_MODC,        120
.equ SEGMENT_BYTES,     32
.equ MODULE_BYTES,      32
.equ CHUNK,             0x10000
.equ STATUS,            42

# What changes is not in the segments, which are compared.
.equ REGS,              0x3ff000
.equ REGS_BYTES,        96
.equ HEAD,              0x3ff080        # of a frame: mark, type, length

.code64
.globl _start
_start: movq %rdi, REGS
        movq %rsi, REGS + 8
        movq %rdx, REGS + 16
        movq %rsp, REGS + 24
        movq %rdx, %r12                 # R12: parameter block
        movq %rsi, %r13                 # R13: information
        movl %edi, %r14d                # R14: magic
        pushfq
        popq REGS + 32
        movq %cs, %rax
        movq %rax, REGS + 40
        movq %ss, %rax
        movq %rax, REGS + 48
        movq %cr0, %rax
        movq %rax, REGS + 56
        movq %cr4, %rax
        movq %rax, REGS + 64
        movl $0xc0000080, %ecx          # IA32_EFER
        rdmsr
        shlq $32, %rdx
        orq %rdx, %rax
        movq %rax, REGS + 72
        rdtsc
        shlq $32, %rdx
        orq %rdx, %rax
        movq %rax, REGS + 80
        movq %rax, %xmm9                # SSE works
        paddq %xmm9, %xmm9
        movq %xmm9, REGS + 88           # twice the TSC
        movl $0xfffffff0, %eax          # the last of 4 GiB is mapped
        movl (%rax), %eax

        movl $0x787476fe, HEAD          # FRAME_MARK
        movb $FRAME_STDOUT, HEAD + 4
        movl $REGS, %esi
        movl $REGS_BYTES, %ecx
        call dump
        movq %r12, %rsi
        movq PARAM_SIZE(%r12), %rcx
        call dump

        cmpl $MULTIBOOT_MAGIC, %r14d
        jne 1f
        movq %r13, %rsi
        movl $120, %ecx
        call dump
        movl 48(%r13), %esi
        movl 44(%r13), %ecx
        call dump
        jmp 2f
1:      movq %r13, %rsi
        movl (%r13), %ecx
        call dump
        xorl %ecx, %ecx
        call dump

2:      movq PARAM_SEGMENTS(%r12), %rbx
        addq %r12, %rbx
        movq PARAM_SEGC(%r12), %r15
3:      movq (%rbx), %rsi
        movq 8(%rbx), %rcx
        call dump
        movq (%rbx), %rdi
        addq 8(%rbx), %rdi
        movq 16(%rbx), %rcx
        subq 8(%rbx), %rcx
        xorl %eax, %eax
        xorl %ebp, %ebp
4:      testq %rcx, %rcx
        jz 5f
        repe scasb
        je 5f
        incl %ebp
        jmp 4b
5:      movq %rbp, REGS
        movl $REGS, %esi
        movl $8, %ecx
        call dump
        addq $SEGMENT_BYTES, %rbx
        decq %r15
        jnz 3b

        movq PARAM_MODULES(%r12), %rbx
        addq %r12, %rbx
        movq PARAM_MODC(%r12), %r15
6:      testq %r15, %r15
        jz 7f
        movq (%rbx), %rsi
        movq 8(%rbx), %rcx
        call dump
        addq $MODULE_BYTES, %rbx
        decq %r15
        jmp 6b

7:      leaq exit(%rip), %rsi
        movl $exitend - exit, %ecx
        movl $PORT_E9, %edx
        rep outsb
        leaq shutdown(%rip), %rsi
        movl $8, %ecx
        movl $PORT_SHUTDOWN, %edx
        rep outsb
        movb $STATUS, %al
        outb %al, $PORT_QEMU_EXIT
8:      hlt
        jmp 8b

# dump writes RCX bytes at RSI. It changes RAX, RCX, RDX, RSI, R8 and R9.
dump:   movq %rcx, %r9
        movl $PORT_E9, %edx
1:      movl $CHUNK, %r8d
        cmpq %r8, %r9
        cmovbq %r9, %r8
        movl %r8d, HEAD + 5
        movq %rsi, %rax
        movl $HEAD, %esi
        movl $9, %ecx
        rep outsb
        movq %rax, %rsi
        movl %r8d, %ecx
        rep outsb
        subq %r8, %r9
        cmpl $CHUNK, %r8d
        je 1b
        ret

exit:   .ascii "\376vtx"
        .byte FRAME_EXIT
        .long 4, STATUS
exitend:
shutdown: .ascii "Shutdown"
