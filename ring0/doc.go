// Package ring0 boots an ordinary Go program in ring 0.
//
// A program that imports it and is built as usual, without cgo and without any
// flag, still runs as a Linux process; and "vtx boot" (package cmd/vtx), or a
// multiboot loader such as GRUB, starts the same file on a bare machine, where
// the whole of it runs at privilege level 0:
//
//	CGO_ENABLED=0 go build -o prog .
//	./prog                                        # a process
//	go run github.com/govtx/vtx/cmd/vtx boot prog # ring 0, on Bochs
//	go test -exec 'go run github.com/govtx/vtx/cmd/vtx boot' .
//
// [Active] tells which it is. There, package asm's instructions are allowed, and
// this package gives a hypervisor what else it needs: physical memory
// ([AllocPages], [Physical], [PhysAddr], [MemoryMap]), interrupts
// ([WaitInterrupt], [SetVector]), an exact clock ([Ticks]) and the files that were
// handed over at boot ([Modules]). Elsewhere those functions return
// [ErrNotActive].
//
// # What works
//
// The Go runtime is the stock one: goroutines, threads and timers, a garbage
// collector with all the RAM that the firmware reports, panics on nil
// dereference and division by zero, tracebacks with symbols, deadlock detection,
// os.Args and the environment, os.Exit and the exit status, testing with
// benchmarks, fuzz seeds and -cover, -gcflags='all=-N -l'. A fault in one of
// package asm's instructions is a Go panic with the instruction's name.
//
// Files live in memory: up to 4,096 of them, 1 GiB each, with paths of up to 760
// bytes. On an emulator, what the program has created is written on the host when
// it ends. A read or write on a pipe that has to wait keeps its thread, and knows
// no deadline. Standard input is at its end. There are no sockets, no links, no
// other processes, and no profiling timer. There is one processor.
//
// # How it works
//
//	program    user code, the Go runtime, package asm
//	              |  SYSCALL                ^ signal frames
//	              |  exceptions, interrupts |
//	kernel     this package: memory, threads, files, clock, console
//	machine    page tables, IDT, 8254, 8259, port E9 or COM1
//
// Everything is at privilege level 0, in one address space; "kernel" is the code
// that serves the Linux system calls that the runtime makes. It touches no
// runtime file, and depends on the Linux ABI alone. Physical memory is mapped at
// its own address (page 0 excepted), so a physical address is a pointer. The
// program's memory is filled in by page faults.
//
// A thread that blocks is its saved registers and nothing more: the kernel keeps
// one stack, runs with interrupts off, and needs no lock. A timer interrupt lets
// the next thread run; a goroutine that never yields is preempted by a signal,
// as on Linux.
//
// # Time
//
// On Bochs the time-stamp counter counts instructions, and "vtx boot" says how
// many make a second (50 million unless told otherwise). When every thread
// sleeps, time jumps to the next deadline. Runs of one program with the same
// arguments are the same to the bit, so random numbers are not random there:
// they must not become secrets. Elsewhere time is real, and random numbers come
// from RDRAND where the processor has it.
//
// # Lending the interrupts
//
// A hypervisor may pass the interrupt controllers and timers of the machine
// through to its guest. [LendInterrupts] gives them up: from then on no interrupt
// comes to the program, threads switch only where they wait, sleep or yield, and
// the TSC alone tells the time.
//
// A program can be such a guest's too. Flag Lent in the parameter block
// (internal/bootproto) makes it begin in that state: it then touches no port but E9,
// which takes its output, and 8900h, to which it writes "Shutdown" at its end; no
// memory but the RAM of the multiboot memory map; and no device. The
// function PlaceMultiboot of internal/bootimage puts a program into a guest's memory,
// and internal/bootproto/frames decodes its output.
//
// # What a hypervisor must keep
//
// Interrupts, system calls and page faults enter the kernel at any time, so
// these stay as they are while interrupts are on or a page fault may come: the
// IDT, GDT and task register, CR3, CR4.OSXSAVE and XCR0, IA32_EFER, IA32_LSTAR,
// IA32_STAR and IA32_FMASK, the FS base of each thread. A VM exit loads the host
// state from the VMCS, so HOST_FS_BASE must be that of the thread that enters the
// guest: lock it with [runtime.LockOSThread]. MSRs that a guest shares with the
// host must be intercepted, or swapped at entry and exit.
package ring0
