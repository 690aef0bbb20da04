# The 32-bit loader, assembled to loader.bin by generate.sh.
#
# It is what a multiboot 1 loader, a multiboot 2 loader and our own disk.S jump
# to, in 32-bit protected mode with paging off: EAX holds the loader's magic,
# EBX the address of its information. It turns long mode on with the first 4 GiB
# mapped to themselves and jumps to the program's 64-bit boot entry.
#
# It is assembled for LOADER_BASE; generate.sh lists the numbers that change with
# that in loader.rel, so that a hypervisor can put it elsewhere. What lies at an
# address is written so that all four bytes of that are an operand or a datum.
#
# Sections cited are those of the Intel SDM, the Multiboot Specification 0.6.96
# and the Multiboot2 Specification 2.0.

.ifndef LOADER_BASE
.equ LOADER_BASE,       0x100000
.endif
.equ LOADER_BYTES,      0x20000         # up to the parameter block
.equ PARAM_FLAGS,       16
.equ FLAG_FRAMED,       1
.equ FLAG_LENT,         8
.equ FRAME_EXIT,        5
.equ FRAME_KERNEL,      7
.equ PORT_E9,           0xe9
.equ PORT_SERIAL,       0x3f8
.equ PORT_SHUTDOWN,     0x8900
.equ PORT_QEMU_EXIT,    0xf4
.equ MULTIBOOT_MAGIC,   0x2badb002
.equ MULTIBOOT2_MAGIC,  0x36d76289
.equ EXIT_STATUS,       125

# Memory behind the code, up to LOADER_MEMORY bytes from LOADER_BASE: the page
# tables, then a page of stack. image.go reserves it.
.equ LOADER_MEMORY,     0x8000
.equ PML4,              LOADER_BASE + 0x1000
.equ PDPT,              LOADER_BASE + 0x2000
.equ PD,                LOADER_BASE + 0x3000    # four of them
.equ STACK_TOP,         LOADER_BASE + LOADER_MEMORY

.equ MB1_HEADER,        0x1badb002
.equ MB1_FLAGS,         3               # page-align modules, tell the memory
.equ MB2_HEADER,        0xe85250d6

.code32
.globl _start

# Multiboot 1 header (section 3.1.1). Bit 16 of the flags is clear: the ELF
# header says where to load.
mb1:    .long MB1_HEADER, MB1_FLAGS, -(MB1_HEADER + MB1_FLAGS)
        .long 0

# The image builder writes the program's boot entry here, at offset 0x10.
        .org 0x10
entry64: .quad 0

# Multiboot 2 header (section 3.1.1): ask for the memory map, then end.
        .org 0x20
mb2:    .long MB2_HEADER, 0, mb2end - mb2, -(MB2_HEADER + mb2end - mb2)
1:      .short 1, 0                     # information request, required
        .long 2f - 1b
        .long 4, 6                      # basic memory information, memory map
2:      .balign 8
        .short 0, 0                     # end
        .long 8
mb2end:

# The entry, at offset 0x80.
        .org 0x80
_start:
        cli
        cld
        movl $STACK_TOP, %esp
        pushl $2                        # clears every flag, NT and AC too
        popfl
        lidt noidt                      # a stray fault resets at once
        lgdt gdtr
        ljmp $CODE32, $1f
1:      movl $DATA, %ecx
        movl %ecx, %ds
        movl %ecx, %es
        movl %ecx, %fs
        movl %ecx, %gs
        movl %ecx, %ss

        movl $badmagic, %esi
        cmpl $MULTIBOOT_MAGIC, %eax
        je 1f
        cmpl $MULTIBOOT2_MAGIC, %eax
        jne fail
1:      movl %eax, %ebp                 # EBP: magic
        movl %ebx, %edi                 # EDI: information

        # CPUID exists if EFLAGS.ID can be changed (SDM Vol. 2A, CPUID).
        movl $no64, %esi
        pushfl
        popl %eax
        movl %eax, %ecx
        xorl $1 << 21, %eax
        pushl %eax
        popfl
        pushfl
        popl %eax
        xorl %ecx, %eax
        testl $1 << 21, %eax
        jz fail
        movl $0x80000000, %eax
        cpuid
        cmpl $0x80000001, %eax
        jb fail
        movl $0x80000001, %eax
        cpuid
        testl $1 << 29, %edx            # Intel 64 architecture
        jz fail

        # 4 GiB of 2 MiB pages (SDM Vol. 3A 4.5, "4-Level Paging").
        movl %edi, %edx
        xorl %eax, %eax
        movl $PML4, %edi
        movl $(6 * 4096) / 4, %ecx
        rep stosl
        movl $PDPT + 3, PML4            # present, writable
        movl $PD + 0x0003, PDPT
        movl $PD + 0x1003, PDPT + 8
        movl $PD + 0x2003, PDPT + 16
        movl $PD + 0x3003, PDPT + 24
        movl $PD, %edi
        movl $0x83, %eax                # present, writable, 2 MiB
1:      movl %eax, (%edi)
        addl $8, %edi
        addl $0x200000, %eax
        jnc 1b                          # until the address wraps at 4 GiB
        movl %edx, %edi

        # SDM Vol. 3A 10.8.5, "Initializing IA-32e Mode". The SSE bits (14.1,
        # "Providing Operating System Support for SSE Extensions") are set now,
        # because Go code uses XMM registers everywhere.
        movl %cr0, %eax
        andl $0x7fffffff, %eax          # paging off, if it was on
        movl %eax, %cr0
        movl $0x620, %eax               # CR4: PAE, OSFXSR, OSXMMEXCPT
        movl %eax, %cr4
        movl $PML4, %eax
        movl %eax, %cr3
        movl $0xc0000080, %ecx          # IA32_EFER
        rdmsr
        orl $1 << 8, %eax               # LME
        wrmsr
        movl $0x80000033, %eax          # CR0: PG, NE, ET, MP, PE
        movl %eax, %cr0
        ljmp $CODE64, $long

.code64
long:   movl %edi, %esi                 # ESI: information
        movl %ebp, %edi                 # EDI: magic
        movl $LOADER_BASE + LOADER_BYTES, %edx
        movl $STACK_TOP, %esp
        xorl %ebx, %ebx
        xorl %ecx, %ecx
        xorl %ebp, %ebp
        movl $entry64, %eax
        jmp *(%rax)

# fail says the NUL-terminated text at ESI and stops the machine.
.code32
fail:   pushl %esi
        testb $FLAG_LENT, LOADER_BASE + LOADER_BYTES + PARAM_FLAGS
        jnz 2f                          # the screen is someone else's
        movl $0xb8000, %edi             # the text screen's first row
        movb $0x0f, %ah                 # white on black
1:      lodsb
        testb %al, %al
        jz 2f
        stosw
        jmp 1b
2:      popl %esi

        # The length: without the NUL, and with a newline, which stands behind.
        movl %esi, %edi
        xorl %eax, %eax
        orl $-1, %ecx
        repne scasb
        notl %ecx
        movb $'\n', -1(%edi)
        movl %ecx, headlen

        movl $PORT_E9, %edx
        testb $FLAG_LENT, LOADER_BASE + LOADER_BYTES + PARAM_FLAGS
        jnz 3f
        inb %dx, %al
        cmpb %dl, %al
        je 3f
        movl $PORT_SERIAL + 3, %edx     # 115200 baud, 8 bits, no parity
        movb $0x80, %al
        outb %al, %dx
        movl $PORT_SERIAL, %edx
        movb $1, %al
        outb %al, %dx
        incl %edx
        xorl %eax, %eax
        outb %al, %dx
        addl $2, %edx
        movb $3, %al
        outb %al, %dx
        movl $PORT_SERIAL, %edx

3:      testb $FLAG_FRAMED, LOADER_BASE + LOADER_BYTES + PARAM_FLAGS
        jz 4f
        pushl %esi
        pushl %ecx
        movl $head, %esi
        movl $tail - head, %ecx
        call send
        popl %ecx
        popl %esi
        call send
        movl $tail, %esi
        movl $tailend - tail, %ecx
4:      call send

        cmpb $PORT_E9, %dl              # no emulator: these ports are unknown
        jne 6f
        movl $PORT_SHUTDOWN, %edx
        movl $shutdown, %esi
        movl $8, %ecx
        rep outsb
        testb $FLAG_LENT, LOADER_BASE + LOADER_BYTES + PARAM_FLAGS
        jnz 6f
        movb $EXIT_STATUS >> 1, %al     # QEMU's status is twice that, plus 1
        outb %al, $PORT_QEMU_EXIT
6:      hlt
        jmp 6b

# send writes ECX bytes at ESI to the port in DX. A serial port that does not
# become ready, or is not there, is given up waiting for.
send:   cmpb $PORT_E9, %dl
        je 3f
        addl $5, %edx
        movl $1 << 20, %ebx
1:      inb %dx, %al
        testb $0x20, %al
        jnz 2f
        decl %ebx
        jnz 1b
2:      subl $5, %edx
3:      outsb
        loop send
        ret

badmagic:
        .asciz "boot: the image was entered without a multiboot magic: boot it with multiboot, multiboot2 or as a disk"
no64:   .asciz "boot: this processor has no 64-bit mode: choose an x86-64 CPU model"

head:   .ascii "\376vtx"
        .byte FRAME_KERNEL
headlen: .long 0
tail:   .ascii "\376vtx"
        .byte FRAME_EXIT
        .long 4, EXIT_STATUS
tailend:
shutdown: .ascii "Shutdown"

        .balign 8
gdt:    .quad 0
        .equ CODE32, . - gdt
        .quad 0x00cf9b000000ffff
        .equ DATA, . - gdt
        .quad 0x00cf93000000ffff
        .equ CODE64, . - gdt
        .quad 0x00af9b000000ffff
gdtr:   .short gdtr - gdt - 1
        .long gdt
noidt:  .short 0
        .long 0

        .org 0x1000                     # the page tables begin here
