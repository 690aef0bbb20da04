# A kernel of the 64-bit Linux boot protocol that is hostile, for the tests. The first letter on
# its command line says what it does. It reports on the serial port, and turns the machine off.
#
# It is entered with memory mapped to itself, by a GDT whose code segment is 0x10, with RSI
# pointing to the boot parameters. It is loaded where it likes: addresses are relative to RIP.
#
# R15 is where the next exception goes on, with the vector in R14 and the stack as new.
# RBX is the state of the random numbers.
	.intel_syntax noprefix
	.text
	.org 0x200
entry:
	cld
	lea rsp, [rip + stack]
	mov eax, [rsi + 0x228]          # the command line
	movzx ebp, byte ptr [rax]

	# Exceptions go to their stubs, which are 16 bytes each; all else returns at once.
	lea rdi, [rip + idt]
	lea rdx, [rip + stubs]
	xor ecx, ecx
1:	mov rax, rdx
	cmp ecx, 32
	jb 2f
	lea rax, [rip + ignore]
2:	mov [rdi], ax
	mov word ptr [rdi + 2], 0x10
	mov word ptr [rdi + 4], 0x8e00
	shr rax, 16
	mov [rdi + 6], ax
	shr rax, 16
	mov [rdi + 8], eax
	add rdi, 16
	add rdx, 16
	inc ecx
	cmp ecx, 256
	jb 1b
	lea rax, [rip + idt]
	mov [rip + idtr + 2], rax
	lidt [rip + idtr]
	lea r15, [rip + unexpected]
	mov ebx, 12345

	call serial
	# Vector registers are there.
	mov rax, cr4
	or eax, 3 << 9
	mov cr4, rax

	.macro case letter, label
	cmp bpl, \letter
	je \label
	.endm
	case '3', triple
	case 'h', halt
	case 'l', loop
	case 'x', vmx
	case 'i', init
	case 'I', command
	case 'N', command
	case 'S', command
	case 'd', breakpoints
	case 'm', msrs
	case 'p', ports
	case 'a', addresses
	case 'n', events
	case 'e', off
	case 'r', pulse
	case 'R', output
	case '9', porta
	case 'c', control
	case 't', tsc
	lea rsi, [rip + what]
	jmp die

# --- what the others use

	# Puts out the text at RSI, up to a 0.
puts:	push rax
	push rdx
1:	mov dx, 0x3fd
	in al, dx
	test al, 0x20
	jz 1b
	lodsb
	test al, al
	jz 2f
	mov dx, 0x3f8
	out dx, al
	jmp 1b
2:	pop rdx
	pop rax
	ret

	# Puts out RAX, in hexadecimal.
hex:	push rcx
	push rsi
	mov rcx, rax
	lea rsi, [rip + number + 16]
1:	mov al, cl
	and al, 15
	add al, '0'
	cmp al, '9'
	jbe 2f
	add al, 'a' - '0' - 10
2:	dec rsi
	mov [rsi], al
	shr rcx, 4
	jnz 1b
	call puts
	pop rsi
	pop rcx
	ret

	# The serial port as it has to be: 8 bits, no interrupts, nothing looped back.
serial:	mov dx, 0x3fb
	mov al, 0x83
	out dx, al
	mov dx, 0x3f8
	mov al, 1
	out dx, al
	mov dx, 0x3f9
	mov al, 0
	out dx, al
	mov dx, 0x3fb
	mov al, 3
	out dx, al
	mov dx, 0x3f9
	mov al, 0
	out dx, al
	mov dx, 0x3fa
	out dx, al
	mov dx, 0x3fc
	out dx, al
	ret

	# RAX becomes a random number, for each bit of which 0 and 1 are as likely; or, one time in
	# four each, 0, 1 or all ones.
random:	mov rax, 6364136223846793005
	imul rbx, rax
	mov rax, 1442695040888963407
	add rbx, rax
	mov rax, rbx
	shr rax, 62
	cmp eax, 1
	jb 1f
	je 2f
	cmp eax, 2
	je 3f
	mov rax, rbx
	rol rax, 29
	xor rax, rbx
	ret
1:	xor eax, eax
	ret
2:	mov eax, 1
	ret
3:	mov rax, -1
	ret

good:	call serial
	lea rsi, [rip + ok]
die:	call puts
off:	mov dx, 0xb004
	mov ax, 0x2000
	out dx, ax
	lea rsi, [rip + alive]
	call puts
	jmp die

unexpected:
	lea rsi, [rip + fault]
	call puts
	mov eax, r14d
	call hex
	lea rsi, [rip + newline]
	jmp die

	.balign 16
stubs:
	.set vector, 0
	.rept 32
	.if vector == 2
	jmp nmi
	.else
	mov r14d, vector
	jmp exception
	.endif
	.balign 16
	.set vector, vector + 1
	.endr
exception:
	lea rsp, [rip + stack]
	jmp r15
nmi:	inc dword ptr [rip + nmis]
ignore:	iretq

# --- what it does

triple:	lidt [rip + empty]
	ud2

halt:	cli
1:	hlt
	jmp 1b

loop:	jmp loop

pulse:	mov al, 0xfe
	out 0x64, al
	jmp survived
output:	mov al, 0xd1
	out 0x64, al
	mov al, 0xfe
	out 0x60, al
	jmp survived
porta:	mov al, 1
	out 0x92, al
	jmp survived
control:
	mov dx, 0xcf9
	mov al, 6
	out dx, al
survived:
	lea rsi, [rip + alive]
	jmp die

	# VMX, and what else is not there, are as on a processor without: #UD.
vmx:
	.macro undefined bytes:vararg
	lea r15, [rip + 9f]
	.byte \bytes
	lea rsi, [rip + done]
	jmp die
9:	cmp r14d, 6
	jne unexpected
	.endm
	undefined 0x0f, 0x01, 0xc1            # VMCALL
	undefined 0x0f, 0x01, 0xc2            # VMLAUNCH
	undefined 0x0f, 0x01, 0xc3            # VMRESUME
	undefined 0x0f, 0x01, 0xc4            # VMXOFF
	undefined 0x0f, 0x01, 0xd4            # VMFUNC
	undefined 0xf3, 0x0f, 0xc7, 0x34, 0x24 # VMXON [rsp]
	undefined 0x66, 0x0f, 0xc7, 0x34, 0x24 # VMCLEAR
	undefined 0x0f, 0xc7, 0x34, 0x24      # VMPTRLD
	undefined 0x0f, 0xc7, 0x3c, 0x24      # VMPTRST
	undefined 0x0f, 0x78, 0xc0            # VMREAD
	undefined 0x0f, 0x79, 0xc0            # VMWRITE
	undefined 0x66, 0x0f, 0x38, 0x80, 0x04, 0x24 # INVEPT
	undefined 0x66, 0x0f, 0x38, 0x81, 0x04, 0x24 # INVVPID
	undefined 0x0f, 0x37                  # GETSEC
	undefined 0x0f, 0xaa                  # RSM
	undefined 0x0f, 0x01, 0xc8            # MONITOR
	undefined 0x0f, 0x01, 0xc9            # MWAIT
	undefined 0x66, 0x0f, 0xae, 0xf0      # TPAUSE
	undefined 0x0f, 0xc7, 0x2c, 0x24      # XSAVES
	lea r15, [rip + 1f]
	xor ecx, ecx
	rdpmc
	lea rsi, [rip + done]
	jmp die
1:	cmp r14d, 13
	jne unexpected
	# CR4 has no bit for what the guest does not have.
	lea r15, [rip + 1f]
	mov rax, cr4
	or eax, 1 << 13                 # VMXE
	mov cr4, rax
	lea rsi, [rip + done]
	jmp die
1:	cmp r14d, 13
	jne unexpected
	jmp good

	# INIT to the processor itself, by the local APIC.
init:	mov edi, 0xfee00000
	call enable
	mov eax, [rdi + 0x20]
	and eax, 0xff000000
	mov [rdi + 0x310], eax
	mov dword ptr [rdi + 0x300], 0x4500
	mov ecx, 1000
1:	loop 1b
	jmp survived

	# In x2APIC mode, what the command line says behind its letter, as 16 hexadecimal digits:
	# after I the processor must have been reset, after N an NMI must have come, after S nothing.
command:
	mov r8d, [rsi + 0x228]
	xor r9d, r9d
	mov ecx, 16
1:	inc r8
	movzx eax, byte ptr [r8]
	sub eax, '0'
	cmp eax, 10
	jb 2f
	sub eax, 'a' - '0' - 10
2:	shl r9, 4
	or r9, rax
	loop 1b
	mov ecx, 0x1b
	rdmsr
	or eax, 0xc00
	wrmsr
	wrmsr                           # Bochs makes the logical ID with the second one
	mov ecx, 0x80f
	mov eax, 0x1ff
	xor edx, edx
	wrmsr
	mov ecx, 0x830
	mov eax, r9d
	mov rdx, r9
	shr rdx, 32
	wrmsr
	mov ecx, 1000
1:	loop 1b
	mov eax, [rip + nmis]
	cmp bpl, 'I'
	je survived
	cmp bpl, 'S'
	je 2f
	dec eax
2:	test eax, eax
	jnz lost
	jmp good

enable:	mov eax, [rdi + 0xf0]
	or eax, 0x1ff
	mov [rdi + 0xf0], eax
	ret

	# NMI and SMI to itself: the first arrives, of the second it notices nothing.
events:	mov edi, 0xfee00000
	call enable
	mov eax, [rdi + 0x20]
	and eax, 0xff000000
	mov [rdi + 0x310], eax
	mov dword ptr [rdi + 0x300], 0x4400
	mov ecx, 1000
1:	loop 1b
	cmp dword ptr [rip + nmis], 1
	jne lost
	mov dword ptr [rdi + 0x300], 0x4200
	mov ecx, 1000
1:	loop 1b
	# The timer's interrupt, as NMI
	mov dword ptr [rdi + 0x3e0], 0xb
	mov dword ptr [rdi + 0x350], 0x10400 # LINT0 masked
	mov dword ptr [rdi + 0x360], 0x10400
	# An interrupt to itself, with interrupts off, comes when they are on.
	mov dword ptr [rdi + 0x300], 0x44030
	mov ecx, 1000
1:	loop 1b
	test dword ptr [rdi + 0x210], 1 << 16 # IRR, vector 0x30
	jz lost
	mov al, 0xff                    # and nothing from elsewhere
	out 0x21, al
	out 0xa1, al
	sti
	nop
	cli
	test dword ptr [rdi + 0x210], 1 << 16
	jnz lost
	mov dword ptr [rdi + 0xb0], 0
	jmp good
lost:	lea rsi, [rip + lostone]
	jmp die

	# A breakpoint on the stack, where the delivery of #DB writes: it raises the next one.
breakpoints:
	lea rax, [rip + stack - 8]
	mov dr0, rax
	mov eax, 0xd0401                # 8 bytes; writes
	mov dr7, rax
	lea rax, [rip + again]          # #DB is to return at once
	lea rdi, [rip + idt + 16]
	mov [rdi], ax
	shr rax, 16
	mov [rdi + 6], ax
	mov byte ptr [rdi + 4], 1       # on the stack of IST 1, which is always the same place
	# A TSS of its own has it.
	sub rsp, 16
	sgdt [rsp]
	mov rsi, [rsp + 2]
	lea rdi, [rip + gdt]
	mov ecx, 5 * 8
	rep movsb
	lea rax, [rip + tss]
	mov [rip + gdt + 0x30 + 2], ax
	mov rcx, rax
	shr rcx, 16
	mov [rip + gdt + 0x30 + 4], cl
	mov [rip + gdt + 0x30 + 7], ch
	shr rcx, 16
	mov [rip + gdt + 0x30 + 8], ecx
	lea rax, [rip + stack]
	mov [rip + tss + 0x24], rax
	lea rax, [rip + gdt]
	mov [rip + gdtr + 2], rax
	lgdt [rip + gdtr]
	mov eax, 0x30
	ltr ax
	lea rsp, [rip + stack2]
	mov qword ptr [rip + stack - 8], 0
again:	jmp again

	# All MSRs, with hostile values; then those of the x2APIC mode.
msrs:	lea rsi, [rip + ranges]
1:	mov r8d, [rsi]
	mov r9d, [rsi + 4]
	add rsi, 8
	cmp r9d, 0
	je 5f
2:	mov r12d, 5
	lea r15, [rip + 3f]
	mov ecx, r8d
	rdmsr
3:	lea r15, [rip + 4f]
	call random
	mov rdx, rax
	shr rdx, 32
	mov ecx, r8d
	wrmsr
4:	dec r12d
	jnz 3b
	inc r8d
	dec r9d
	jnz 2b
	jmp 1b

5:	lea r15, [rip + 9f]
	mov ecx, 0x1b
	rdmsr
	or eax, 0xc00
	wrmsr
	mov r8d, 0x800
6:	mov r12d, 40
7:	lea r15, [rip + 8f]
	mov ecx, r8d
	rdmsr
	call random
	cmp r8d, 0x830                  # the command register: anything but INIT
	jne 1f
	mov edx, eax
	and edx, 7 << 8
	cmp edx, 5 << 8
	jne 1f
	and eax, ~(7 << 8)
1:	xor edx, edx
	mov ecx, r8d
	wrmsr
8:	dec r12d
	jnz 7b
	inc r8d
	cmp r8d, 0x840
	jb 6b
	# The timer, at another rate than it has been counting with
	lea r15, [rip + unexpected]
	mov r12d, 100
1:	call random
	mov edx, 0
	mov ecx, 0x83e
	and eax, 0xb
	wrmsr
	call random
	xor edx, edx
	mov ecx, 0x838
	wrmsr
	mov ecx, 0x83e
	mov eax, 0xb
	xor edx, edx
	wrmsr
	mov ecx, 0x839
	rdmsr
	dec r12d
	jnz 1b
9:	jmp good

	# The time-stamp counter can be set.
tsc:	mov ecx, 0x10
	mov eax, 5000
	mov edx, 0x12345
	wrmsr
	rdtsc
	cmp edx, 0x12345
	jne lost
	rdmsr
	cmp edx, 0x12345
	jne lost
	jmp good

	# All I/O ports in all sizes, but for what turns the machine off or resets it; then those of
	# devices over and over, while the display is drawn.
ports:	xor r8d, r8d
1:	mov r13d, 1
	call access
	inc r8d
	cmp r8d, 0x10000
	jb 1b
	mov r12d, 2500
2:	lea rsi, [rip + devices]
	call random
	mov rax, rbx
	shr rax, 33
	xor edx, edx
	mov ecx, (devicesEnd - devices) / 4
	div ecx
	movzx r8d, word ptr [rsi + rdx * 4]
	movzx ecx, word ptr [rsi + rdx * 4 + 2]
	mov rax, rbx
	shr rax, 20
	and eax, 0xffff
	xor edx, edx
	div ecx
	add r8d, edx
	mov r13d, 2
	call access
	# something on the display
	mov rdi, rbx
	shr rdi, 30
	and edi, 0x1fff8
	mov [rdi + 0xa0000], rbx
	dec r12d
	jnz 2b
	jmp good

	# Reads the port R8D, and writes it R13D times.
access:	mov edx, r8d
	in al, dx
	in ax, dx
	in eax, dx
1:	call random
	mov edx, r8d
	cmp edx, 0xb000
	jb 2f
	cmp edx, 0xb005
	ja 2f
	and eax, ~0x20002020            # no sleeping state
2:	cmp edx, 0x64
	jne 3f
	cmp al, 0xf0
	jb 3f
	or al, 1                        # no reset pulse
3:	cmp edx, 0x60
	jne 4f
	or al, 1                        # on the output port neither
4:	cmp edx, 0x92
	jne 5f
	and al, 0xfe
5:	cmp edx, 0xcf9
	jne 6f
	and al, 0xfb
6:	out dx, al
	out dx, ax
	out dx, eax
	dec r13d
	jnz 1b
	ret

	# Accesses of all sizes to the pages of devices, also as code and as page tables.
addresses:
	.macro touch instruction:vararg
	lea r15, [rip + 9f]
	\instruction
9:
	.endm
	lea r9, [rip + pages]
1:	mov r13d, [r9]
	test r13d, r13d
	jz 4f
	add r9, 4
	xor r8d, r8d
2:	lea r12, [r13 + r8]
	touch mov al, [r12]
	touch mov ax, [r12]
	touch mov eax, [r12]
	touch mov rax, [r12]
	touch movdqu xmm0, [r12]
	touch fld tbyte ptr [r12]
	touch fxrstor [r12]
	touch lock cmpxchg16b [r12]
	touch add [r12], rax
	touch movntdqa xmm0, [r12]
	cmp r13d, 0xc0000               # what is in a ROM can be run
	je 3f
	cmp r13d, 0xf0000
	je 3f
	touch call r12
3:	touch sgdt [r12]
	lea rax, [r12 + 3]              # as a table of page tables
	mov rdx, cr3
	mov [rdx + 8 * 511], rax
	invlpg [rdx]
	touch mov rax, [-1 - 0xfff]
	cmp r8d, 0x300                  # INIT is a test of its own
	je 3f
	call random
	touch xchg [r12], eax
	touch mov [r12], al
	touch mov [r12], ax
	touch mov [r12], rax
	touch movdqu [r12], xmm0
	touch push qword ptr [r12]
	touch pop qword ptr [r12]
	mov rsi, r12
	lea rdi, [r12 + 8]
	mov ecx, 3
	touch rep movsd
	mov rsi, r12
	lea rdi, [rip + buffer]
	mov ecx, 64
	touch rep movsb
	mov edx, 0x80
	mov rsi, r12
	touch outsd
3:	cmp r8d, 0x40
	jb 8f
	add r8d, 46
	and r8d, ~15
	add r8d, 1
8:	inc r8d
	cmp r8d, 0x1000
	jb 2b
	jmp 1b
	# And registers as they are to be accessed, at random
4:	mov r12d, 3000
	lea r15, [rip + unexpected]
5:	call random
	mov edi, 0xfec00000
	and eax, ~(1 << 10)             # fixed interrupts
	mov r8, rbx
	shr r8, 35
	test r8d, 0x1000
	jnz 6f
	mov [rdi], r8b                  # is dropped
	and r8d, 0x3f
	mov [rdi], r8d
	mov ecx, [rdi + 0x10]
	mov [rdi + 0x10], eax
	jmp 7f
6:	mov edi, 0xfee00000
	and r8d, 0x3f0
	mov ecx, [rdi + r8]
	cmp r8d, 0x300
	je 7f
	mov [rdi + r8], eax
	mov dword ptr [rdi + 0x300], 0x04830 # logical, to all: by what the destination format says
7:	dec r12d
	jnz 5b
	jmp good

	.balign 8
ranges:	.long 0, 0x2000, 0x40000000, 0x1000, 0xc0000000, 0x2000, 0x80000000, 0x100, 0xfffffff0, 16, 0, 0
devices: # first port, ports
	.word 0x20, 2, 0xa0, 2, 0x4d0, 2, 0x40, 4, 0x60, 5, 0x70, 4, 0x80, 1, 0x92, 1, 0xb2, 2, 0xed, 1, 0xcf8, 8
	.word 0x3b0, 48, 0x3c0, 16, 0x3c0, 32, 0x3c4, 2, 0x3ce, 2, 0x3d4, 2, 0x3f8, 8, 0xb000, 64, 0xafe0, 4, 0, 32, 0x1ce, 3
	.word 0x8a00, 2, 0x8900, 1, 0xe9, 1, 0x400, 4, 0x1f0, 8, 0x510, 4
devicesEnd:
pages:	.long 0xfee00000, 0xfec00000, 0xfed00000, 0xb8000, 0xa0000, 0xf0000, 0xc0000, 0xe0000000, 0xfffff000, 0xfffbc000, 0
what:	.asciz "there is no such case\n"
ok:	.asciz "\nok\n"
alive:	.asciz "it has survived\n"
done:	.asciz "an instruction that is to fault does not\n"
lostone: .asciz "lost\n"
fault:	.asciz "unexpected exception "
number:	.fill 17
buffer:	.fill 64
newline: .asciz "\n"
	.balign 16
empty:	.fill 16
idtr:	.word 256 * 16 - 1
	.quad 0
	.balign 16
gdtr:	.word 0x40 - 1
	.quad 0
	.balign 16
gdt:	.fill 0x30
	.word 0x67, 0
	.byte 0, 0x89, 0, 0
	.quad 0
	.balign 16
tss:	.fill 0x68
nmis:	.long 0
	.balign 16
idt:	.fill 256 * 16
	.fill 8192
stack:
	.fill 4096
stack2:
