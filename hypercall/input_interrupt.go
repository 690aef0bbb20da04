package hypercall

// An InterruptControl says what kind of interrupt it is (TLFS hv_interrupt_control.md).
// Bit 34 is of Arm64, where bits 33:32 are reserved.
//
//	 63     35  34   33    32   31        0
//	┌─────────┬────┬─────┬─────┬───────────┐
//	│    0    │asrt│logic│level│   type    │
//	└─────────┴────┴─────┴─────┴───────────┘
//
//vtx:bits
type InterruptControl uint64

// An InterruptType is the way an interrupt is delivered (TLFS hv_interrupt_type.md), numbered
// as the local APIC does but for Arm64, which has 0 alone.
//
//vtx:enum
type InterruptType uint32

// An AssertVirtualInterruptInput is the input of HvCallAssertVirtualInterrupt (TLFS
// HvCallAssertVirtualInterrupt.md).
//
//vtx:layout
type AssertVirtualInterruptInput struct {
	PartitionID        uint64
	Control            InterruptControl
	DestinationAddress uint64 // APIC id, or logical id
	RequestedVector    uint32
	TargetVTL          VTL
	Reserved           [3]uint8
}

// A SendSyntheticClusterIpiInput is the input of HvCallSendSyntheticClusterIpi (TLFS
// HvCallSendSyntheticClusterIpi.md).
//
// Bytes 7:5 are padding in the TLFS, reserved in Linux, which has TargetVTL in it too; in
// OpenVMM the first of them is flags, which must be 0. The TLFS gives the mask 1 byte in
// its table, and 64 bits in the call's declaration, as everybody else does.
//
//vtx:layout
type SendSyntheticClusterIpiInput struct {
	Vector        uint32 // 0x10 to 0xff
	TargetVTL     InputVTL
	Reserved      [3]uint8
	ProcessorMask uint64 // bit n: processor n
}

// A SendSyntheticClusterIpiExInput is the header of HvCallSendSyntheticClusterIpiEx (TLFS
// HvCallSendSyntheticClusterIpiEx.md), without the contents of the processor set's banks.
// They follow as the variable header; [VpSet.GetBanks] reads them.
//
//vtx:layout
type SendSyntheticClusterIpiExInput struct {
	Vector         uint32 // 0x10 to 0xff
	TargetVTL      InputVTL
	Reserved       [3]uint8
	SetFormat      VpSetFormat
	ValidBanksMask uint64
}
