// Package vtx is the root of a library of the primitives that a VT-x hypervisor
// and Virtual Secure Mode are made of. It holds no code. The packages are
//
//	asm       the instructions, one Go function each, and the VM-entry stub
//	vmcs      the VMCS: fields, controls, capabilities, what fields point to, the
//	          rules of VM entry, dumps
//	vmexit    VM exits: reasons, qualifications and the rest decoded, a
//	          dispatcher, ready handlers; vmexit/emulate does memory-mapped I/O
//	ept       extended page tables: entries, a builder that is safe on live tables,
//	          views that share tables, walks, memory types, memory maps;
//	          ept/nested walks both the guest's tables and these
//	hypercall the Hyper-V interface: words, calls, statuses, registers, CPUID leaves,
//	          structures; a caller and a dispatcher
//	vtl       the state machine of virtual trust levels, 0 to 15
//	ium       trustlets: images, policies, signatures, enclaves; how they are created
//	          and what they call
//	ring0     boots the program that imports it in ring 0, as the stock Go
//	          toolchain built it
//	cmd/vtx   the command: "vtx boot" runs such a program on an emulator with
//	          VT-x, "go test -exec" its tests; "vtx check" explains a failed
//	          VM entry
//
// and examples/minihv is a small hypervisor with trust levels that shows them together, and
// carries Linux; examples/vault is what keeps a key from that Linux in VTL1.
//
// # What depends on what
//
// Imports go one way only: ept imports vmexit, vmexit imports vmcs, ring0 and vmcs
// import asm, vtl imports hypercall, asm, hypercall and ium import nothing of these,
// commands and examples import all. Every package compiles for every system and processor
// that Go knows; what only VT-x can do returns or panics with an error there that says so.
//
// # The manuals
//
// Comments give the section of the Intel 64 and IA-32 Architectures Software
// Developer's Manual (SDM), order number 325462, revision 084, June 2024, as in
// "SDM Vol. 3C 26.2". A package that follows other documents names them in its own
// documentation.
package vtx
