# The BIOS disk loader, assembled to disk.bin by generate.sh: a boot sector and,
# right behind it, a second stage. The image builder puts the table of what to
# load behind that, and writes the flags and the partition table into the boot
# sector.
#
# It works in 16-bit mode with DS = ES = SS = 0; memory is laid out so:
#
#   0x07c00  boot sector, second stage, table
#   0x09400  the message being composed
#   0x09600  multiboot information
#   0x09800  memory map, 128 rows
#   0x10000  32 KiB that the disk is read into
#
# Everything multiboot information points at is thus in the first 64 KiB.

.equ FLAG_FRAMED,       1
.equ FRAME_EXIT,        5
.equ FRAME_KERNEL,      7
.equ PORT_E9,           0xe9
.equ PORT_SERIAL,       0x3f8
.equ PORT_SHUTDOWN,     0x8900
.equ PORT_QEMU_EXIT,    0xf4
.equ MULTIBOOT_MAGIC,   0x2badb002
.equ EXIT_STATUS,       125

.equ DISK_CODE,         0x1000          # bytes of boot sector and second stage
.equ DISK_TABLE,        0x800           # bytes of the table
.equ MESSAGE,           0x9400
.equ INFO,              0x9600
.equ INFO_BYTES,        120
.equ MAP,               0x9800
.equ MAP_ROW,           24              # size, base, length, type
.equ MAP_ROWS,          128
.equ BUFFER,            0x10000
.equ BUFFER_SECTORS,    64

# The table: a head, then rows; all 32-bit numbers.
.equ TABLE,             start16 + DISK_CODE
.equ TABLE_ROWS,        TABLE           # number of rows
.equ TABLE_MIB,         TABLE + 4       # memory needed, for the message
.equ TABLE_ENTRY,       TABLE + 8       # the 32-bit loader's entry
.equ TABLE_HEAD,        16
.equ ROW_ADDR,          0               # physical address
.equ ROW_FILE,          4               # bytes on disk
.equ ROW_MEM,           8               # bytes in memory; the rest is zero
.equ ROW_LBA,           12              # first sector
.equ ROW_BYTES,         16

.code16
.globl _start
_start:
start16:
        ljmp $0, $1f                    # some BIOSes enter at 07c0:0000
1:      cli
        xorw %ax, %ax
        movw %ax, %ds
        movw %ax, %es
        movw %ax, %ss
        movw $start16, %sp
        sti
        cld
        movb %dl, drive
        movb $0x41, %ah                 # are there extended reads?
        movw $0x55aa, %bx
        int $0x13
        movw $nolba, %si
        jc fail
        cmpw $0xaa55, %bx
        jne fail
        call read                       # the packet stands ready for it
        movw $unread, %si
        jc fail
        jmp stage2

# read carries out the packet for as many sectors as the word at sectors says,
# in four tries at most. CF and AH tell of failure.
read:   movw $4, %bp
1:      movw $packet, %si
        movw sectors, %ax               # a BIOS writes back how many it read
        movw %ax, count
        movb drive, %dl
        movb $0x42, %ah
        int $0x13
        jnc 2f
        pushw %ax
        xorw %ax, %ax                   # reset the disk
        movb drive, %dl
        int $0x13
        popw %ax
        decw %bp
        jnz 1b
        stc
2:      ret

# fail says the NUL-terminated text at SI and stops the machine.
fail:   movw %si, %di
        xorw %ax, %ax
        movw $-1, %cx
        repne scasb
        notw %cx                        # CX: length, with a newline for the NUL
        movb $'\n', -1(%di)
        movw %cx, headlen
        pushw %si
        pushw %cx
1:      movb $'\r', %al
        cmpb $'\n', (%si)
        jne 2f
        call show
2:      lodsb
        call show
        loop 1b

        movw $PORT_E9, %dx
        inb %dx, %al
        cmpb %dl, %al
        je 3f
        xorw %dx, %dx
        movw $0x00e3, %ax               # INT 14h: 9600 baud, 8 bits, no parity
        int $0x14
        movw $PORT_SERIAL + 3, %dx      # then 115200 baud
        movb $0x83, %al
        outb %al, %dx
        movb $PORT_SERIAL & 0xff, %dl
        movw $1, %ax
        outw %ax, %dx
        movb $(PORT_SERIAL + 3) & 0xff, %dl
        movb $3, %al
        outb %al, %dx
3:      popw %cx
        popw %si
        testb $FLAG_FRAMED, flags
        jz 4f
        pushw %si
        pushw %cx
        movw $head, %si
        movw $tail - head, %cx
        call send
        popw %cx
        popw %si
        call send
        movw $tail, %si
        movw $tailend - tail, %cx
4:      call send

        cmpb $PORT_E9, %dl              # no emulator: these ports are unknown
        jne 5f
        movw $PORT_SHUTDOWN, %dx
        movw $shutdown, %si
        movw $8, %cx
        rep outsb
        movb $EXIT_STATUS >> 1, %al     # QEMU's status is twice that, plus 1
        outb %al, $PORT_QEMU_EXIT
5:      cli
        hlt
        jmp 5b

# show puts AL on the screen.
show:   pushaw
        movw $0x0007, %bx
        movb $0x0e, %ah
        int $0x10
        popaw
        ret

# send writes CX bytes at SI: to port E9 if DX says so, else through INT 14h.
send:   lodsb
        cmpb $PORT_E9, %dl
        jne 1f
        outb %al, %dx
        jmp 2f
1:      pushw %dx
        xorw %dx, %dx
        movb $1, %ah
        int $0x14
        popw %dx
2:      loop send
        ret

nolba:  .asciz "boot: this BIOS has no LBA disk reads"
unread: .asciz "boot: cannot read the boot disk"

head:   .ascii "\376vtx"
        .byte FRAME_KERNEL
headlen: .long 0
tail:   .ascii "\376vtx"
        .byte FRAME_EXIT
        .long 4, EXIT_STATUS
tailend:
shutdown: .ascii "Shutdown"

# The packet of INT 13h/42h, ready for the second stage and the table.
        .balign 4
packet: .byte 16, 0
count:  .short 0
offset: .short start16 + 512
segment: .short 0
lba:    .quad 1
sectors: .short (DISK_CODE + DISK_TABLE) / 512 - 1
drive:  .byte 0

# The image builder writes the parameter block's flags here, and the partition
# table behind them.
        .org 0x1bc
flags:  .byte 0
        .org 0x1fe
        .short 0xaa55

# The second stage.
stage2: call a20
        jnz 1f
        movw $0x2401, %ax               # INT 15h: enable A20
        int $0x15
        call a20
        jnz 1f
        inb $0x92, %al                  # system control port A
        andb $0xfe, %al                 # bit 0 would reset the machine
        orb $2, %al
        outb %al, $0x92
        call a20
        jnz 1f
        call kbdwait                    # keyboard controller: write output port
        movb $0xd1, %al
        outb %al, $0x64
        call kbdwait
        movb $0xdf, %al
        outb %al, $0x60
        call kbdwait
        call a20
        movw $noa20, %si
        jz fail

1:      call readmap

        # All that will be loaded must be RAM.
        movw $TABLE + TABLE_HEAD, %bx
        movw TABLE_ROWS, %cx
2:      movl ROW_ADDR(%bx), %eax
        movl %eax, %edx
        addl ROW_MEM(%bx), %edx         # the builder keeps this below 4 GiB
        call ram
        cmpl %edx, %eax
        jb small
        addw $ROW_BYTES, %bx
        loop 2b

        # Load it. BIOSes do not keep every register: state is in memory.
        movw $TABLE + TABLE_HEAD, row
        movw TABLE_ROWS, %cx
        movw %cx, rows
3:      call load
        addw $ROW_BYTES, row
        decw rows
        jnz 3b

        # Multiboot information (section 3.3): memory, map, loader's name.
        movw $INFO, %di
        movw $INFO_BYTES / 2, %cx
        xorw %ax, %ax
        rep stosw
        movl $0x241, INFO
        int $0x12
        movw %ax, INFO + 4              # KiB from 0
        movl $0x100000, %eax
        movl $-1, %edx
        call ram
        subl $0x100000, %eax
        shrl $10, %eax
        movl %eax, INFO + 8             # KiB from 1 MiB
        movzwl mapend, %eax
        subl $MAP, %eax
        movl %eax, INFO + 44
        movl $MAP, INFO + 48
        movl $name, INFO + 64

        cli
        lgdt gdtr
        movl %cr0, %eax
        orb $1, %al
        movl %eax, %cr0
        ljmpl $CODE32, $start32

# small says that the memory which ends at EAX does not do.
small:  pushl %eax
        movw $MESSAGE, %di
        movw $small1, %si
        call text
        movl TABLE_MIB, %eax
        call decimal
        movw $small2, %si
        call text
        popl %eax
        call hex
        movw $small3, %si
        call text
        movw $MESSAGE, %si
        jmp fail

# load brings the row's bytes in.
load:   movw row, %bx
        movl ROW_ADDR(%bx), %eax
        movl %eax, dest
        movl ROW_FILE(%bx), %eax
        movl %eax, left
        movl ROW_LBA(%bx), %eax
        movl %eax, lba
        movw $0, offset
        movw $BUFFER >> 4, segment
1:      movl left, %eax
        testl %eax, %eax
        jz 5f
        cmpl $BUFFER_SECTORS * 512, %eax
        jbe 2f
        movl $BUFFER_SECTORS * 512, %eax
2:      movl %eax, chunk
        addl $511, %eax
        shrl $9, %eax
        movw %ax, sectors
        call read
        jc 6f
        movzwl sectors, %eax
        addl %eax, lba

        # Copy in real mode with 4 GiB limits. A BIOS may take the limits back,
        # so they are set each time.
        cli
        lgdt gdtr
        movl %cr0, %ecx
        orb $1, %cl
        movl %ecx, %cr0
        jmp 3f
3:      movw $DATA, %dx
        movw %dx, %ds
        movw %dx, %es
        andb $0xfe, %cl
        movl %ecx, %cr0
        jmp 4f
4:      xorw %dx, %dx
        movw %dx, %ds
        movw %dx, %es
        movl $BUFFER, %esi
        movl dest, %edi
        movl chunk, %ecx
        subl %ecx, left
        movl %ecx, %eax
        shrl $2, %ecx
        addr32 rep movsl
        movl %eax, %ecx
        andl $3, %ecx
        addr32 rep movsb
        movl %edi, dest
        sti
        jmp 1b
5:      ret

6:      movzbl %ah, %eax
        pushl %eax
        movw $MESSAGE, %di
        movw $read1, %si
        call text
        movl lba, %eax
        call hex
        movw $read2, %si
        call text
        popl %eax
        call hex
        movw $read3, %si
        call text
        movw $MESSAGE, %si
        jmp fail

# text appends the text at SI to the message at DI; decimal and hex append EAX.
# Each leaves DI at the NUL behind.
text:   lodsb
        movb %al, (%di)
        incw %di
        testb %al, %al
        jnz text
        decw %di
        ret

decimal:
        movl $10, %ebx
        xorw %cx, %cx
1:      xorl %edx, %edx
        divl %ebx
        pushw %dx
        incw %cx
        testl %eax, %eax
        jnz 1b
2:      popw %ax
        addb $'0', %al
        stosb
        loop 2b
        movb $0, (%di)
        ret

hex:    movw $8, %cx
1:      roll $4, %eax
        movl %eax, %ebx
        andb $15, %al
        addb $'0', %al
        cmpb $'9', %al
        jbe 2f
        addb $'a' - '9' - 1, %al
2:      stosb
        movl %ebx, %eax
        loop 1b
        movb $0, (%di)
        ret

# a20 clears ZF if the A20 line is on, so that an address 1 MiB further up is
# not the same memory.
a20:    movw $0xffff, %ax
        movw %ax, %fs
        movw $0x5aa5, %fs:start16 + 0x1fe + 16
        cmpw $0x5aa5, start16 + 0x1fe
        movw $0xaa55, start16 + 0x1fe
        ret

# kbdwait waits, but not for ever, until the keyboard controller takes a byte.
kbdwait:
        xorw %cx, %cx
1:      inb $0x64, %al
        testb $2, %al
        loopnz 1b
        ret

# readmap gets the firmware's memory map from INT 15h/E820 (ACPI 6.5, 15.1),
# each row behind its size as multiboot wants it.
readmap:
        xorl %ebx, %ebx
        movw $MAP, %di
1:      movl $0xe820, %eax
        movl $0x534d4150, %edx          # "SMAP"
        movl $MAP_ROW - 4, %ecx
        movl %ecx, (%di)
        addw $4, %di
        int $0x15
        leaw -4(%di), %di
        jc 3f                           # none, or past the last
        cmpl $0x534d4150, %eax
        jne 3f
        movl 12(%di), %eax              # leave out rows of length 0
        orl 16(%di), %eax
        jz 2f
        addw $MAP_ROW, %di
2:      testl %ebx, %ebx                # that was the last
        jz 3f
        cmpw $MAP + MAP_ROWS * MAP_ROW, %di
        jb 1b
3:      cmpw $MAP, %di
        jne 6f

        # No E820: conventional memory is what INT 12h says, and the rest what
        # E801 says, KiB from 1 MiB and blocks of 64 KiB from 16 MiB, or else
        # what 88h says, KiB from 1 MiB.
        int $0x12
        movzwl %ax, %eax
        shll $10, %eax
        xorl %edx, %edx
        call addrow
        xorw %cx, %cx
        xorw %dx, %dx
        movw $0xe801, %ax
        int $0x15
        jc 5f
        jcxz 4f                         # a BIOS may answer in AX and BX alone
        movw %cx, %ax
        movw %dx, %bx
4:      pushw %bx
        movzwl %ax, %eax
        shll $10, %eax
        movl $0x100000, %edx
        call addrow
        popw %bx
        movzwl %bx, %eax
        shll $16, %eax
        movl $0x1000000, %edx
        call addrow
        jmp 6f
5:      movb $0x88, %ah
        int $0x15
        movw $nomap, %si
        jc fail
        movzwl %ax, %eax
        shll $10, %eax
        movl $0x100000, %edx
        call addrow
6:      movw %di, mapend
        ret

# addrow appends EAX bytes of RAM from EDX to the map at DI.
addrow: movl $MAP_ROW - 4, (%di)
        movl %edx, 4(%di)
        movl %eax, 12(%di)
        xorl %eax, %eax
        movl %eax, 8(%di)
        movl %eax, 16(%di)
        incw %ax
        movl %eax, 20(%di)
        addw $MAP_ROW, %di
        ret

# ram moves the address EAX to the end of the RAM that it lies in, unless EDX
# comes first. RAM may be told in rows that touch; each turn moves EAX up.
ram:    cmpl %edx, %eax
        jae 5f
        movw $MAP, %si
1:      cmpl $1, 20(%si)                # RAM
        jne 4f
        cmpl $0, 8(%si)                 # from 4 GiB up
        jne 4f
        cmpl %eax, 4(%si)
        ja 4f
        movl 4(%si), %edi
        addl 12(%si), %edi
        jc 2f
        cmpl $0, 16(%si)
        je 3f
2:      movl $-1, %edi                  # it ends past 4 GiB
3:      cmpl %eax, %edi
        jbe 4f
        movl %edi, %eax
        jmp ram
4:      addw $MAP_ROW, %si
        cmpw mapend, %si
        jb 1b
5:      ret

# start32 clears what a row has in memory beyond its bytes on disk, and enters
# the 32-bit loader.
.code32
start32:
        movl $DATA, %eax
        movl %eax, %ds
        movl %eax, %es
        movl %eax, %ss
        movl $start16, %esp
        movl $TABLE + TABLE_HEAD, %ebx
        movl TABLE_ROWS, %edx
1:      movl ROW_FILE(%ebx), %ecx
        movl ROW_ADDR(%ebx), %edi
        addl %ecx, %edi
        movl ROW_MEM(%ebx), %esi
        subl %ecx, %esi
        movl %edi, %ecx                 # bytes up to the next dword
        negl %ecx
        andl $3, %ecx
        cmpl %esi, %ecx
        jbe 2f
        movl %esi, %ecx
2:      subl %ecx, %esi
        xorl %eax, %eax
        rep stosb
        movl %esi, %ecx
        shrl $2, %ecx
        rep stosl
        movl %esi, %ecx
        andl $3, %ecx
        rep stosb
        addl $ROW_BYTES, %ebx
        decl %edx
        jnz 1b
        movl $MULTIBOOT_MAGIC, %eax
        movl $INFO, %ebx
        jmp *TABLE_ENTRY

noa20:  .asciz "boot: the A20 line does not turn on: enable it in the firmware's setup"
nomap:  .asciz "boot: the firmware does not tell how much memory there is"
small1: .asciz "boot: the program needs "
small2: .asciz " MiB of memory, and there is no RAM at 0x"
small3: .asciz ": give the machine more memory"
read1:  .asciz "boot: cannot read the boot disk at sector 0x"
read2:  .asciz ": INT 13h status 0x"
read3:  .asciz ": write the image again, whole"
name:   .asciz "vtx disk"

        .balign 8
gdt:    .quad 0
        .equ CODE32, . - gdt
        .quad 0x00cf9b000000ffff
        .equ DATA, . - gdt
        .quad 0x00cf93000000ffff
gdtr:   .short gdtr - gdt - 1
        .long gdt
dest:   .long 0                         # where the next chunk goes
left:   .long 0                         # bytes of the row to come
chunk:  .long 0                         # bytes of this one
row:    .short 0                        # address of the row
rows:   .short 0                        # rows to come
mapend: .short 0                        # end of the memory map

        .org DISK_CODE
