// Package vtl is the state machine of virtual trust levels, the core of Virtual Secure
// Mode: what levels a partition and its processors have, which one runs, what lower levels
// may do, and what becomes of their hypercalls, interrupts and accesses. Levels are 0 to
// 15, as many as the partition offers.
//
// It follows the chapter on Virtual Secure Mode and the pages of its hypercalls in the
// Hypervisor Top Level Functional Specification (TLFS), which Microsoft publishes as
// MicrosoftDocs/Virtualization-Documentation, at commit 77e0742a of August 2026. Where
// that is silent or others disagree, a [Profile] says whom to follow: [Choices] and
// [Refusals] list what depends on it, with the numbers of the rules
// that the tests of this package go through one by one.
//
// # Events and effects
//
// The core is pure: it touches no hardware, has no goroutine, lock or clock, and can be
// cloned, compared and explored. Its methods are the events that a hypervisor meets. They
// return an [Outcome] or a status, and add to [Effects] what is to be done:
//
//	e.Reset()
//	switch p.Call(vp, vtl.Trap{Word: word, Control: rcx, CPL: cpl}, &e) {
//	case vtl.Switched:
//		carryOut(e.List()) // make the VMCS of the other level current, ...
//	case vtl.UndefinedInstruction:
//		inject(6)
//	}
//
// The embedder has a VMCS for each level of each processor, and a view of memory, such as
// an EPT hierarchy, for each level. Private registers are in those VMCSs, and are switched
// with them; [States] tells which registers are private. The core reaches them by
// [Registers].
//
//	VM exit                                  event
//	VTL call and return                      Call, Return
//	other hypercalls                         the methods with their names; see Handlers
//	EPT violation                            Access
//	MOV to CR0, CR4, LGDT, LTR, XSETBV ...   WriteRegister
//	RDMSR, WRMSR                             ReadMSR, WriteMSR, SetAssistPage
//	IN, OUT                                  AccessIO
//	an interrupt for a level                 Interrupt, or Request if the processor may run
//	MOV to CR8, writes to the local APIC     SetTPR, EOI, Startup
//	before VM entry                          Next and Accept, if the processor can be interrupted
//	after it was kicked                      Resolve
//
// An event happens as a whole or not at all, and takes bounded time and memory, whatever a
// guest passes.
//
// # Memory
//
// Each level has, for each lower one, a mask with rights to each page of RAM. What a level
// may do is what all masks above it leave ([Partition.PageRights], [Partition.Rights]). Changes
// come out as [EffectProtect], which says what the view of a level is to allow, and
// [EffectView], after which the embedder makes it anew from Rights.
//
// Masks are trees in which what is the same for many pages is said once: protections of a
// few pages take kilobytes, however large memory is. [Config] bounds them.
package vtl
