package hypercall

// SegmentAttributes are the attributes of a segment register (TLFS
// hv_x64_segment_register.md).
//
//	 15  14  13   12  11    8  7   6   5   4   3     0
//	┌───┬───┬───┬────┬───────┬───┬──────┬───┬─────────┐
//	│ G │ D │ L │AVL │   0   │ P │ DPL  │ S │  type   │
//	└───┴───┴───┴────┴───────┴───┴──────┴───┴─────────┘
//
//vtx:bits Segment
type SegmentAttributes uint16

// A SegmentRegister is a segment register with what its selector stands for (TLFS
// hv_x64_segment_register.md).
//
//vtx:layout
type SegmentRegister struct {
	Base       uint64
	Limit      uint32 // in bytes, whatever the granularity
	Selector   uint16
	Attributes SegmentAttributes
}

// Value returns the register as its value.
func (x SegmentRegister) Value() RegisterValue {
	return RegisterValue{Low: x.Base, High: uint64(x.Limit) | uint64(x.Selector)<<32 | uint64(x.Attributes)<<48}
}

// A TableRegister is GDTR or IDTR (TLFS hv_x64_table_register.md).
//
//vtx:layout
type TableRegister struct {
	Pad   [3]uint16 // not said to be 0, and kept
	Limit uint16
	Base  uint64
}

// Value returns the register as its value.
func (x TableRegister) Value() RegisterValue {
	return RegisterValue{
		Low:  uint64(x.Pad[0]) | uint64(x.Pad[1])<<16 | uint64(x.Pad[2])<<32 | uint64(x.Limit)<<48,
		High: x.Base,
	}
}

// A RegisterValue is the value of a register in calls and messages: 128 bits, of which
// narrower registers have the low ones (TLFS hv_register_value.md).
//
//vtx:layout
type RegisterValue struct {
	Low, High uint64
}

// Segment returns the value as that of a segment register.
func (x RegisterValue) Segment() SegmentRegister {
	return SegmentRegister{Base: x.Low, Limit: uint32(x.High), Selector: uint16(x.High >> 32), Attributes: SegmentAttributes(x.High >> 48)}
}

// Table returns the value as that of a table register.
func (x RegisterValue) Table() TableRegister {
	return TableRegister{
		Pad:   [3]uint16{uint16(x.Low), uint16(x.Low >> 16), uint16(x.Low >> 32)},
		Limit: uint16(x.Low >> 48), Base: x.High,
	}
}

// A RegisterAssoc is an element of the list of HvCallSetVpRegisters: a register and its
// new value (TLFS HvCallSetVpRegisters.md).
//
// The list is of such elements in the TLFS, OpenVMM and Linux. A fork of QEMU with its
// tests for KVM has all names first, and then, at a multiple of 16 bytes, all values.
//
//vtx:layout
type RegisterAssoc struct {
	Name     Register
	Reserved [3]uint32
	Value    RegisterValue
}

// An InitialVpContext is what a level or a processor of an x64 partition begins with
// (TLFS hv_initial_vp_context.md). General registers are not in it, since levels
// share them.
//
//vtx:layout
type InitialVpContext struct {
	RIP, RSP, RFLAGS                 uint64
	CS, DS, ES, FS, GS, SS, TR, LDTR SegmentRegister
	IDTR, GDTR                       TableRegister
	EFER, CR0, CR3, CR4, PAT         uint64
}

// An InitialVpContextArm64 is what a level or a processor of an Arm64 partition begins
// with (TLFS hv_initial_vp_context.md).
//
//vtx:layout
type InitialVpContextArm64 struct {
	PC, SPELH                          uint64
	SCTLREL1, MAIREL1, TCREL1, VBAREL1 uint64
	TTBR0EL1, TTBR1EL1                 uint64
	X18                                uint64
}
