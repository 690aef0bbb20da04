// Package emulate carries out one guest instruction that touches memory-mapped
// registers of a device, after the EPT violation that the access has caused.
//
// [Emulator.Step] fetches the instruction at CS:RIP through the guest's own
// paging, decodes it with golang.org/x/arch/x86/x86asm, performs its accesses
// through a [Device], or through [Memory] where there is some, and changes the
// registers and flags as the processor would. An [Exception] that the processor
// would raise is returned for the caller to inject; what cannot be decoded is a
// [DecodeError] that shows the bytes.
//
//	var s emulate.State
//	s.Regs = &guest.Regs
//	if err := s.Read(vmcs.Current{}); err != nil { ... }
//	r, err := e.Step(&s)
//	...                     // an error: stop the guest
//	s.Write(vmcs.Current{}) // RSP and RFLAGS
//	switch r.Action {
//	case emulate.Advance: guest.RIP += uint64(r.Length)
//	case emulate.Repeat:  // enter the guest as it is
//	case emulate.Inject:  r.Exception.Event.Write(vmcs.Current{}) // and guest.CR2 = r.Exception.Address
//	}
//
// [Violations] does all that as a handler for package vmexit's dispatcher.
//
// # Instructions
//
// With one memory operand: MOV in all forms but those that load a segment
// register, MOVZX, MOVSX, MOVSXD, MOVBE, MOVNTI, CMOVcc, SETcc, ADD, OR, ADC, SBB,
// AND, SUB, XOR, CMP, TEST, INC, DEC, NOT, NEG, BT, BTS, BTR, BTC, XCHG, XADD,
// CMPXCHG, CMPXCHG8B, CMPXCHG16B, PUSH, POP. With one or two: MOVS, CMPS, STOS, LODS
// and SCAS, repeated or not. LOCK is accepted where the processor accepts it.
//
// A repeated string instruction makes at most [Emulator.MaxIterations] steps, one if
// RFLAGS.TF is set. It is then as after an interrupt between two iterations: RIP
// stays, RCX, RSI and RDI tell what is left, RFLAGS.RF is set. Where RFLAGS.TF was
// set, the single-step trap is the caller's to raise.
//
// # Accesses
//
// Whatever can fault is found before the first access: an instruction that
// faults has touched nothing (a repeated one: nothing in its last iteration).
// Registers and flags change when all accesses have succeeded. An operand that
// crosses a page boundary is accessed in two parts, which one may be RAM
// and the other not. What follows is not done: breakpoints of the debug registers,
// linear-address masking (LAM), locking of the bus against other processors.
//
// # Walks
//
// A [Walker] translates linear addresses by the guest's paging structures: without
// paging, 32-bit paging with 4-MByte pages, PAE paging, 4-level and 5-level
// paging, with the checks of reserved bits, CR0.WP, SMEP, SMAP, execute-disable and
// protection keys (SDM Vol. 3A 4.3 to 4.7). A walk has at most five steps, wherever
// the tables point.
//
// # Memory and time
//
// An Emulator serves one processor at a time. It allocates nothing, but for x86asm
// when an instruction is met the first time: decoded ones are kept, and used again
// when the same bytes are at the same address. So is, with 4-level and 5-level paging, the
// last walk for a fetch, as long as the entries that it has used are the same; they are read each time.
// Errors allocate.
//
// Sections in comments are those of the Intel 64 and IA-32 Architectures Software
// Developer's Manual (SDM), order number 325462, revision 084, June 2024.
package emulate
