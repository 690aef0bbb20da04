package vmexit

import (
	"fmt"
	"strings"

	"github.com/govtx/vtx/vmcs"
)

// An InformationFormat is a format of the VM-exit instruction information
// (SDM Vol. 3C 28.2.5). Each has a type. In all of them, what the SDM calls undefined is
// not looked at.
type InformationFormat uint8

// Formats of the VM-exit instruction information.
const (
	InformationNone            InformationFormat = iota // undefined
	InformationStringIO                                 // StringIOInformation
	InformationInvalidation                             // InvalidationInformation
	InformationDescriptorTable                          // DescriptorTableInformation
	InformationSystemSegment                            // SystemSegmentInformation
	InformationRandom                                   // RandomInformation
	InformationWait                                     // WaitInformation
	InformationVMXPointer                               // VMXPointerInformation
	InformationVMCSField                                // VMCSFieldInformation
	InformationLOADIWKEY                                // LOADIWKEYInformation
	InformationUserMSR                                  // UserMSRInformation
)

var informationNames = []string{
	"none", "INS, OUTS", "INVEPT, INVPCID, INVVPID", "LIDT, LGDT, SIDT, SGDT", "LLDT, LTR, SLDT, STR", "RDRAND, RDSEED",
	"TPAUSE, UMWAIT", "VMCLEAR, VMPTRLD, VMPTRST, VMXON, XRSTORS, XSAVES", "VMREAD, VMWRITE", "LOADIWKEY",
	"URDMSR, UWRMSR, RDMSR, WRMSRNS",
}

// String lists the instructions that the format is for.
func (f InformationFormat) String() string {
	return enumName(informationNames, "InformationFormat", uint8(f))
}

// MarshalText returns what String does.
func (f InformationFormat) MarshalText() ([]byte, error) { return []byte(f.String()), nil }

// UnmarshalText reads what String prints.
func (f *InformationFormat) UnmarshalText(text []byte) error {
	return parseEnum(f, informationNames, "InformationFormat", text)
}

// Value returns instruction information in the type of the format, for a type
// switch or to print it. It is nil for InformationNone, and for formats that do not
// exist. Where the reason is known, convert to the type: that costs nothing.
func (f InformationFormat) Value(i uint32) fmt.Stringer {
	switch f {
	case InformationStringIO:
		return StringIOInformation(i)
	case InformationInvalidation:
		return InvalidationInformation(i)
	case InformationDescriptorTable:
		return DescriptorTableInformation(i)
	case InformationSystemSegment:
		return SystemSegmentInformation(i)
	case InformationRandom:
		return RandomInformation(i)
	case InformationWait:
		return WaitInformation(i)
	case InformationVMXPointer:
		return VMXPointerInformation(i)
	case InformationVMCSField:
		return VMCSFieldInformation(i)
	case InformationLOADIWKEY:
		return LOADIWKEYInformation(i)
	case InformationUserMSR:
		return UserMSRInformation(i)
	}
	return nil
}

// DescribeInformation tells what VM-exit instruction information says, in one line.
// It is "" if exits of this reason have none. For IOInstruction it matters only if
// the qualification says that it is INS or OUTS.
func DescribeInformation(r Reason, i uint32) string {
	if v := r.Basic().InformationFormat().Value(i); v != nil {
		return v.String()
	}
	return ""
}

// The parts that several formats have in common.

func infoScale(i uint32) int                    { return 1 << (i & 3) }
func infoRegister1(i uint32) Register           { return Register(i >> 3 & 15) }
func infoInRegister(i uint32) bool              { return i>>10&1 != 0 }
func infoSegment(i uint32) vmcs.SegmentRegister { return vmcs.SegmentRegister(i >> 15 & 7) }
func infoRegister2(i uint32) Register           { return Register(i >> 28) }
func infoRegister(i uint32, at uint) Register   { return Register(i >> at & 15) }

// infoAddressBits returns 16, 32 or 64, and 0 for values that are not used.
func infoAddressBits(i uint32) int {
	if n := i >> 7 & 7; n < 3 {
		return 16 << n
	}
	return 0
}

// A MemoryOperand is the memory operand of an instruction: the part that is the same
// in the formats of instruction information (SDM Vol. 3C tables 28-9 to 28-11, 28-13
// and 28-14). The displacement is in the exit qualification.
//
//	31  28 27 26  23 22 21 18 17   15 14 10 9     7 6  2 1   0
//	┌─────┬──┬──────┬──┬─────┬───────┬─────┬───────┬────┬─────┐
//	│  -  │no│ base │no│index│segment│  -  │address│ -  │scale│
//	└─────┴──┴──────┴──┴─────┴───────┴─────┴───────┴────┴─────┘
type MemoryOperand uint32

// AddressBits returns the address size in bits: 16, 32 or 64; 0 if the field has a
// value that is not used.
func (o MemoryOperand) AddressBits() int { return infoAddressBits(uint32(o)) }

// Segment returns the segment register, ES to GS. Values 6 and 7, LDTR and TR, are not
// used.
func (o MemoryOperand) Segment() vmcs.SegmentRegister { return infoSegment(uint32(o)) }

// Base returns the base register, if there is one.
func (o MemoryOperand) Base() (r Register, ok bool) {
	return infoRegister(uint32(o), 23), o>>27&1 == 0
}

// Index returns the index register and what to multiply it with (1, 2, 4 or 8), if
// there is one.
func (o MemoryOperand) Index() (r Register, scale int, ok bool) {
	return infoRegister(uint32(o), 18), infoScale(uint32(o)), o>>22&1 == 0
}

// String prints the operand without its displacement: "DS:[RAX+RCX*4], 64-bit
// address". An operand without registers is "DS:[]".
func (o MemoryOperand) String() string {
	var terms []string
	if r, ok := o.Base(); ok {
		terms = append(terms, r.String())
	}
	if r, scale, ok := o.Index(); ok {
		terms = append(terms, fmt.Sprintf("%v*%d", r, scale))
	}
	size := "reserved address size"
	if n := o.AddressBits(); n != 0 {
		size = fmt.Sprintf("%d-bit address", n)
	}
	return fmt.Sprintf("%v:[%s], %s", o.Segment(), strings.Join(terms, "+"), size)
}

// A StringIOInformation is that of INS and OUTS (SDM Vol. 3C table 28-8).
//
//	31 18 17   15 14 10 9     7 6   0
//	┌────┬───────┬─────┬───────┬─────┐
//	│ -  │segment│  -  │address│  -  │
//	└────┴───────┴─────┴───────┴─────┘
type StringIOInformation uint32

// AddressBits returns the address size in bits: 16, 32 or 64; 0 if the field has a
// value that is not used.
func (i StringIOInformation) AddressBits() int { return infoAddressBits(uint32(i)) }

// Segment returns the segment register of OUTS. It is undefined for INS, which is
// always with ES.
func (i StringIOInformation) Segment() vmcs.SegmentRegister { return infoSegment(uint32(i)) }

// Operand returns the memory operand: ES:[RDI] for INS, [RSI] in Segment for OUTS.
func (i StringIOInformation) Operand(in bool) MemoryOperand {
	const noIndex = 1 << 22
	o := MemoryOperand(i)&0x38380 | noIndex
	if in {
		return o&^(7<<15) | MemoryOperand(vmcs.ES)<<15 | 7<<23
	}
	return o | 6<<23
}

// String tells address size and segment.
func (i StringIOInformation) String() string {
	if n := i.AddressBits(); n != 0 {
		return fmt.Sprintf("%d-bit address, segment %v (of OUTS)", n, i.Segment())
	}
	return fmt.Sprintf("reserved address size, segment %v (of OUTS)", i.Segment())
}

// An InvalidationInformation is that of INVEPT, INVPCID and INVVPID (SDM Vol. 3C table
// 28-9).
//
//	31      28 27                               0
//	┌─────────┬──────────────────────────────────┐
//	│register │          MemoryOperand           │
//	└─────────┴──────────────────────────────────┘
type InvalidationInformation uint32

// Operand returns the memory operand: a descriptor of 16 bytes.
func (i InvalidationInformation) Operand() MemoryOperand { return MemoryOperand(i) }

// Register returns the register that has the type of the invalidation.
func (i InvalidationInformation) Register() Register { return infoRegister2(uint32(i)) }

// String prints the operands.
func (i InvalidationInformation) String() string {
	return fmt.Sprintf("type in %v, descriptor at %v", i.Register(), i.Operand())
}

// A DescriptorTableInstruction accesses GDTR or IDTR.
type DescriptorTableInstruction uint8

// Instructions that access GDTR or IDTR.
const (
	SGDT DescriptorTableInstruction = 0
	SIDT DescriptorTableInstruction = 1
	LGDT DescriptorTableInstruction = 2
	LIDT DescriptorTableInstruction = 3
)

var descriptorTableNames = []string{"SGDT", "SIDT", "LGDT", "LIDT"}

// String returns SGDT, SIDT, LGDT or LIDT.
func (n DescriptorTableInstruction) String() string {
	return enumName(descriptorTableNames, "DescriptorTableInstruction", uint8(n))
}

// MarshalText returns what String does.
func (n DescriptorTableInstruction) MarshalText() ([]byte, error) { return []byte(n.String()), nil }

// UnmarshalText reads what String prints.
func (n *DescriptorTableInstruction) UnmarshalText(text []byte) error {
	return parseEnum(n, descriptorTableNames, "DescriptorTableInstruction", text)
}

// Load reports whether the instruction loads the register, from memory.
func (n DescriptorTableInstruction) Load() bool { return n&2 != 0 }

// IDT reports whether the register is IDTR, not GDTR.
func (n DescriptorTableInstruction) IDT() bool { return n&1 != 0 }

// A DescriptorTableInformation is that of LIDT, LGDT, SIDT and SGDT (SDM Vol. 3C table
// 28-10).
//
//	31 30 29      28 27          12   11   10       0
//	┌────┬──────────┬──────────────┬──────┬──────────┐
//	│ -  │instruct. │   Memory-    │32-bit│ Operand  │
//	└────┴──────────┴──────────────┴──────┴──────────┘
type DescriptorTableInformation uint32

// Operand returns the memory operand: 2 bytes of limit, and a base of 4 bytes, 8 in
// 64-bit mode.
func (i DescriptorTableInformation) Operand() MemoryOperand { return MemoryOperand(i) }

// Instruction returns which instruction it is.
func (i DescriptorTableInformation) Instruction() DescriptorTableInstruction {
	return DescriptorTableInstruction(i >> 28 & 3)
}

// OperandBits returns the operand size in bits: 16 or 32. With 16 only 24 bits of the
// base are loaded. It is undefined in 64-bit mode, where it is always 64.
func (i DescriptorTableInformation) OperandBits() int { return 16 << (i >> 11 & 1) }

// String prints the instruction, its operand, and the operand size, which is not
// that of 64-bit mode.
func (i DescriptorTableInformation) String() string {
	return fmt.Sprintf("%v %v, %d-bit operand (outside of 64-bit mode)", i.Instruction(), i.Operand(), i.OperandBits())
}

// A SystemSegmentInstruction accesses LDTR or TR.
type SystemSegmentInstruction uint8

// Instructions that access LDTR or TR.
const (
	SLDT SystemSegmentInstruction = 0
	STR  SystemSegmentInstruction = 1
	LLDT SystemSegmentInstruction = 2
	LTR  SystemSegmentInstruction = 3
)

var systemSegmentNames = []string{"SLDT", "STR", "LLDT", "LTR"}

// String returns SLDT, STR, LLDT or LTR.
func (n SystemSegmentInstruction) String() string {
	return enumName(systemSegmentNames, "SystemSegmentInstruction", uint8(n))
}

// MarshalText returns what String does.
func (n SystemSegmentInstruction) MarshalText() ([]byte, error) { return []byte(n.String()), nil }

// UnmarshalText reads what String prints.
func (n *SystemSegmentInstruction) UnmarshalText(text []byte) error {
	return parseEnum(n, systemSegmentNames, "SystemSegmentInstruction", text)
}

// Load reports whether the instruction loads the register.
func (n SystemSegmentInstruction) Load() bool { return n&2 != 0 }

// Task reports whether the register is TR, not LDTR.
func (n SystemSegmentInstruction) Task() bool { return n&1 != 0 }

// A SystemSegmentInformation is that of LLDT, LTR, SLDT and STR (SDM Vol. 3C table
// 28-11).
//
//	31 30 29      28 27      11     10       9  7 6      3 2    0
//	┌────┬──────────┬──────────┬───────────┬─────┬────────┬──────┐
//	│ -  │instruct. │ Memory-  │in register│ Op- │register│ erand│
//	└────┴──────────┴──────────┴───────────┴─────┴────────┴──────┘
type SystemSegmentInformation uint32

// Instruction returns which instruction it is.
func (i SystemSegmentInformation) Instruction() SystemSegmentInstruction {
	return SystemSegmentInstruction(i >> 28 & 3)
}

// InRegister reports whether the operand is in Register, not in memory.
func (i SystemSegmentInformation) InRegister() bool { return infoInRegister(uint32(i)) }

// Register returns the operand, if InRegister.
func (i SystemSegmentInformation) Register() Register { return infoRegister1(uint32(i)) }

// Operand returns the operand of 2 bytes, if it is in memory.
func (i SystemSegmentInformation) Operand() MemoryOperand { return MemoryOperand(i) }

// String prints the instruction and its operand.
func (i SystemSegmentInformation) String() string {
	if i.InRegister() {
		return fmt.Sprintf("%v %v", i.Instruction(), i.Register())
	}
	return fmt.Sprintf("%v %v", i.Instruction(), i.Operand())
}

// A RandomInformation is that of RDRAND and RDSEED (SDM Vol. 3C table 28-12).
//
//	31  13 12   11 10  7 6      3 2   0
//	┌─────┬───────┬─────┬────────┬─────┐
//	│  -  │operand│  -  │register│  -  │
//	└─────┴───────┴─────┴────────┴─────┘
type RandomInformation uint32

// Register returns the destination.
func (i RandomInformation) Register() Register { return infoRegister1(uint32(i)) }

// OperandBits returns the operand size in bits: 16, 32 or 64; 0 if the field has a
// value that is not used.
func (i RandomInformation) OperandBits() int {
	if n := i >> 11 & 3; n < 3 {
		return 16 << n
	}
	return 0
}

// String prints the destination and its size.
func (i RandomInformation) String() string {
	if n := i.OperandBits(); n != 0 {
		return fmt.Sprintf("%v, %d-bit operand", i.Register(), n)
	}
	return fmt.Sprintf("%v, reserved operand size", i.Register())
}

// A WaitInformation is that of TPAUSE and UMWAIT (SDM Vol. 3C table 28-12; a table of
// their own in later revisions). The source has 32 bits.
//
//	31            7 6      3 2   0
//	┌──────────────┬────────┬─────┐
//	│       -      │register│  -  │
//	└──────────────┴────────┴─────┘
type WaitInformation uint32

// Register returns the source, which tells the state to wait in. The deadline is in
// EDX:EAX.
func (i WaitInformation) Register() Register { return infoRegister1(uint32(i)) }

// String prints the source.
func (i WaitInformation) String() string { return i.Register().String() }

// A VMXPointerInformation is that of VMCLEAR, VMPTRLD, VMPTRST and VMXON, and of XRSTORS
// and XSAVES (SDM Vol. 3C table 28-13): a MemoryOperand alone.
type VMXPointerInformation uint32

// Operand returns the memory operand: a physical address, of 8 bytes, for the VMX
// instructions; the XSAVE area for the others.
func (i VMXPointerInformation) Operand() MemoryOperand { return MemoryOperand(i) }

// String prints the operand.
func (i VMXPointerInformation) String() string { return i.Operand().String() }

// A VMCSFieldInformation is that of VMREAD and VMWRITE (SDM Vol. 3C table 28-14).
//
//	31     28 27      11     10       9  7 6      3 2    0
//	┌────────┬──────────┬───────────┬─────┬────────┬──────┐
//	│encoding│ Memory-  │in register│ Op- │register│ erand│
//	└────────┴──────────┴───────────┴─────┴────────┴──────┘
type VMCSFieldInformation uint32

// Encoding returns the register that has the encoding of the VMCS field.
func (i VMCSFieldInformation) Encoding() Register { return infoRegister2(uint32(i)) }

// InRegister reports whether the other operand is in Register, not in memory.
func (i VMCSFieldInformation) InRegister() bool { return infoInRegister(uint32(i)) }

// Register returns the other operand, the field's value, if InRegister.
func (i VMCSFieldInformation) Register() Register { return infoRegister1(uint32(i)) }

// Operand returns the other operand, if it is in memory: 8 bytes in 64-bit mode, else
// 4.
func (i VMCSFieldInformation) Operand() MemoryOperand { return MemoryOperand(i) }

// String prints the operands.
func (i VMCSFieldInformation) String() string {
	if i.InRegister() {
		return fmt.Sprintf("field in %v, value in %v", i.Encoding(), i.Register())
	}
	return fmt.Sprintf("field in %v, value at %v", i.Encoding(), i.Operand())
}

// A LOADIWKEYInformation is that of LOADIWKEY (SDM Vol. 3C table 28-15).
//
//	31   28 27        7 6    3 2   0
//	┌──────┬───────────┬──────┬─────┐
//	│second│     -     │first │  -  │
//	└──────┴───────────┴──────┴─────┘
type LOADIWKEYInformation uint32

// First returns the number of the XMM register (0 to 15) that is the first operand.
func (i LOADIWKEYInformation) First() int { return int(infoRegister1(uint32(i))) }

// Second returns the number of the XMM register that is the second operand.
func (i LOADIWKEYInformation) Second() int { return int(infoRegister2(uint32(i))) }

// String prints the operands.
func (i LOADIWKEYInformation) String() string {
	return fmt.Sprintf("XMM%d, XMM%d", i.First(), i.Second())
}

// A UserMSRInformation is that of URDMSR and UWRMSR, and of RDMSR and WRMSRNS with an
// immediate operand. It is younger than revision 084 of the SDM, and as Linux and
// Xen's patches for them read it; the MSR is in the exit qualification.
//
//	31            7 6      3 2   0
//	┌──────────────┬────────┬─────┐
//	│       -      │register│  -  │
//	└──────────────┴────────┴─────┘
type UserMSRInformation uint32

// Register returns the register for the MSR's value, of 64 bits.
func (i UserMSRInformation) Register() Register { return infoRegister1(uint32(i)) }

// String prints the register.
func (i UserMSRInformation) String() string { return i.Register().String() }
