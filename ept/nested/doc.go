// Package nested translates linear addresses of a guest all the way to physical ones:
// through the guest's own paging, each step of which is a guest-physical address that
// EPT translates.
//
//	linear address
//	  |  CR3, PML5E, PML4E, PDPTE, PDE, PTE   each read at a guest-physical address
//	  v                                       that goes through EPT: a page-walk access
//	guest-physical address
//	  |  EPT
//	  v
//	physical address
//
// A walk ends in the address, in a page fault of the guest, or in an EPT violation or
// misconfiguration with the exit qualification of the access that has failed: the one
// that was asked for, the read of an entry of the guest's paging structures, or the
// setting of its accessed and dirty flags.
//
//	w := nested.Walker{EPT: view, Memory: memory}
//	r, err := w.Translate(&state, linear, emulate.Write)
//	var fault *nested.FaultError     // what the VM exit would tell
//	var x *emulate.Exception         // what the guest would get
//	switch {
//	case errors.As(err, &fault): ...
//	case errors.As(err, &x): ...
//	}
//
// The guest's paging is package emulate's, with its modes and checks: none, 32-bit, PAE,
// 4-level and 5-level (SDM Vol. 3A chapter 4). EPT is package ept's (SDM Vol. 3C 29.3), and
// the order of events is that of SDM Vol. 3C 29.3.3.3. Not covered are hypervisor-managed
// linear-address translation (HLAT), the guest's shadow-stack accesses and TLBs: a walk
// reads all entries anew.
//
// Sections in comments are those of the Intel 64 and IA-32 Architectures Software
// Developer's Manual (SDM), order number 325462, revision 084, June 2024.
package nested
