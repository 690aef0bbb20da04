package asm

// A DescriptorTable is what GDTR and IDTR hold (SDM Vol. 3A 2.4).
type DescriptorTable struct {
	Limit uint16 // offset of the table's last byte
	Base  uint64 // linear address
}

// CallRegs are the general registers that [VMCALL] loads before the call and
// stores after it. Which of them mean something is between the guest and its
// hypervisor.
type CallRegs struct {
	RAX, RBX, RCX, RDX, RSI, RDI, R8, R9, R10, R11 uint64
}

// Indices of [Guest.Regs]: the numbers by which instructions and exit
// qualifications encode the general registers.
const (
	RAX = iota
	RCX
	RDX
	RBX
	RSP
	RBP
	RSI
	RDI
	R8
	R9
	R10
	R11
	R12
	R13
	R14
	R15
)
