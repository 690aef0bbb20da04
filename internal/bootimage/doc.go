// Package bootimage wraps a statically linked Go program for linux/amd64 that
// contains package ring0 into something that a machine can boot: an ELF file
// for multiboot loaders (GRUB's multiboot and multiboot2 commands, qemu
// -kernel), or the raw image of a disk that a BIOS boots (Bochs, qemu -drive,
// a real disk).
//
// The program itself is not changed. The image holds its loadable segments at
// the addresses they were linked for, and beside them, in the memory that
// package bootproto sets aside:
//
//	0x100000  loader.S: multiboot headers, 32-bit entry, switch to 64 bits
//	0x101000  its page tables and its stack
//	0x120000  the parameter block: arguments, environment, tables
//	0x400000  the program, up to the end of its zeroed data
//	...       the modules, from the next multiple of 2 MiB, page-aligned
//
// The disk image begins with disk.S, a boot sector and a second stage, which
// brings all that into memory by BIOS calls, gathers the memory map, and enters
// loader.S the way a multiboot 1 loader does.
//
// A hypervisor can do without either: PlaceMultiboot writes the same into the
// memory of a guest, with loader and parameters in any place.
//
// What a loader cannot do (no 64-bit mode, too little memory, an unreadable
// disk) it says on the output port, in frames of package bootproto if
// bootproto.FlagFramed is set, with exit status 125, and on the screen.
//
// Sections cited as SDM are of the Intel 64 and IA-32 Architectures Software
// Developer's Manual, order number 325462, revision 084, June 2024.
//
// On a machine that boots with GRUB, the ELF file needs two lines, after which
// the program has the machine to itself:
//
//	multiboot2 /boot/program.elf
//	boot
package bootimage

//go:generate sh generate.sh
