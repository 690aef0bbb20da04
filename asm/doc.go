// Package asm gives Go the processor instructions that a hypervisor needs, one
// function each, and the stub that enters a guest and comes back at its exit.
//
// Functions are named as the manual names the instruction: [VMXON], [RDMSR],
// [INVEPT]; moves to and from registers are [ReadCR0], [WriteCR0], [ReadDR]. A
// VMX instruction returns a [Status]. VMLAUNCH and VMRESUME are behind
// [Guest.Enter].
//
// The package imports nothing but the standard library and needs no operating
// system. Sections in comments are those of the Intel 64 and IA-32 Architectures
// Software Developer's Manual (SDM), order number 325462, revision 084, June 2024.
//
// A run loop, on a locked thread with a current VMCS that has been set up:
//
//	g := asm.Guest{RIP: entry}
//	for {
//		if s := g.Enter(); s != asm.Succeed {
//			return s.Err()
//		}
//		switch g.Reason {
//		case 10: // CPUID
//			a, b, c, d := asm.CPUID(uint32(g.Regs[asm.RAX]), uint32(g.Regs[asm.RCX]))
//			g.Regs[asm.RAX], g.Regs[asm.RBX] = uint64(a), uint64(b)
//			g.Regs[asm.RCX], g.Regs[asm.RDX] = uint64(c), uint64(d)
//			g.RIP += uint64(g.InstructionLength)
//		case 12: // HLT
//			return nil
//		}
//	}
//
// # Faults
//
// An instruction that the processor refuses does not end the program. In ring 0,
// the runtime that handles exceptions passes the fault on (see below), and the
// function panics with a *[Fault] that names the instruction, the exception and
// the place; [RDMSRSafe], [WRMSRSafe] and [XSETBVSafe] return it. In an ordinary
// process, functions that need privilege level 0 do not execute anything: they
// panic with a *Fault that is [ErrPrivilege]. The others check what they can, and
// panic with a *Fault that says what is missing. On another architecture than
// amd64 every function panics with, or returns, a *Fault that is
// [ErrNotSupported]. [Try] makes an error of such a panic.
//
// # For runtimes in ring 0
//
// Whatever handles exceptions asks [Fixup] about the address at which the
// processor faulted, after it has served those page faults that it can. If
// Fixup answers, the handler resumes the interrupted code with
//
//	SP   8 less, and the faulting address stored there
//	RAX  the vector
//	RBX  the error code, 0 if the exception has none
//	RCX  the faulting address
//	RIP  the target that Fixup gave
//
// and everything else as it was at the fault, FS base and flags included. To a
// traceback that is a call of the target by the instruction. The thread's stack
// must be valid, as it is for any call; R14 and X15 need not be.
//
// Before the package is initialised it takes the program to be at privilege
// level 0, and its functions, except those that check an area in memory, run on
// any stack without growing it, provided that FS base points to memory that may
// be read at -8. Bringing up a machine needs no other instructions.
package asm
