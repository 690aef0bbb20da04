package asm

// VMXON enters VMX operation with the VMXON region at physical address phys
// (SDM Vol. 3C 31.3 VMXON; F3 0F C7 /6).
//
// #UD: CR4.VMXE is clear. #GP: CR0 or CR4 lacks a fixed bit, or
// IA32_FEATURE_CONTROL does not allow it.
func VMXON(phys uint64) (status Status)

// VMXOFF leaves VMX operation (SDM Vol. 3C 31.3 VMXOFF; 0F 01 C4).
func VMXOFF() (status Status)

// VMCLEAR writes the VMCS at physical address phys back to memory, marks it
// clear, and makes it no longer current (SDM Vol. 3C 31.3 VMCLEAR; 66 0F C7 /6).
func VMCLEAR(phys uint64) (status Status)

// VMPTRLD makes the VMCS at physical address phys the current one
// (SDM Vol. 3C 31.3 VMPTRLD; 0F C7 /6).
func VMPTRLD(phys uint64) (status Status)

// VMPTRST returns the physical address of the current VMCS, all ones if there
// is none (SDM Vol. 3C 31.3 VMPTRST; 0F C7 /7).
func VMPTRST() (phys uint64, status Status)

// VMREAD reads a field of the current VMCS (SDM Vol. 3C 31.3 VMREAD; 0F 78 /r).
// The value is 0 if the status is not [Succeed].
func VMREAD(field uint32) (value uint64, status Status)

// VMWRITE writes a field of the current VMCS
// (SDM Vol. 3C 31.3 VMWRITE; 0F 79 /r).
func VMWRITE(field uint32, value uint64) (status Status)

// INVEPT drops mappings derived from EPT (SDM Vol. 3C 31.3 INVEPT; 66 0F 38 80).
// Kind is 1 for those of an EPTP, 2 for all. The descriptor's first word is the EPTP;
// the second must be 0.
//
//go:noescape
func INVEPT(kind uint64, descriptor *[2]uint64) (status Status)

// INVVPID drops mappings of a virtual processor
// (SDM Vol. 3C 31.3 INVVPID; 66 0F 38 81). Kind is 0 for one address of a VPID, 1 for a
// VPID, 2 for all VPIDs, 3 for a VPID but global ones. The low 16 bits of the descriptor's
// first word are the VPID, the rest of it 0; the second is a linear address.
//
//go:noescape
func INVVPID(kind uint64, descriptor *[2]uint64) (status Status)

// VMCALL calls the hypervisor beneath (SDM Vol. 3C 31.3 VMCALL; 0F 01 C1).
// In an ordinary process it is refused, although the processor would pass it
// on: what a hypervisor makes of it there cannot be known.
//
//go:noescape
func VMCALL(regs *CallRegs)

// VMFUNC calls a VM function of the hypervisor beneath
// (SDM Vol. 3C 31.3 VMFUNC; 0F 01 D4): function goes to EAX, index to ECX.
// It is refused in an ordinary process, like [VMCALL].
func VMFUNC(function, index uint32)
