package hypercall

// An EnablePartitionVtlInput is the input of HvCallEnablePartitionVtl (TLFS
// HvCallEnablePartitionVtl.md).
//
// The TLFS names flag bit 0 alone; OpenVMM has two more.
//
//vtx:layout
type EnablePartitionVtlInput struct {
	PartitionID uint64
	TargetVTL   VTL
	Flags       EnablePartitionVtlFlags
	Reserved    [6]uint8
}

// An EnableVpVtlInput is the input of HvCallEnableVpVtl on x64 (TLFS
// HvCallEnableVpVtl.md).
//
// TargetVTL is an HV_VTL in the TLFS and in OpenVMM. Linux declares it HV_INPUT_VTL, and
// gives a plain number all the same.
//
//vtx:layout
type EnableVpVtlInput struct {
	PartitionID uint64
	VPIndex     uint32
	TargetVTL   VTL
	Reserved    [3]uint8
	Context     InitialVpContext
}

// A StartVirtualProcessorInput is the input of HvCallStartVirtualProcessor on x64 (TLFS
// HvCallStartVirtualProcessor.md). The TLFS leaves bytes 15:13 out of its table;
// OpenVMM names them reserved.
//
//vtx:layout
type StartVirtualProcessorInput struct {
	PartitionID uint64
	VPIndex     uint32
	TargetVTL   VTL
	Reserved    [3]uint8
	Context     InitialVpContext
}

// A ModifyVtlProtectionMaskInput is the header of HvCallModifyVtlProtectionMask (TLFS
// HvCallModifyVtlProtectionMask.md). The list's elements are page numbers of
// guest-physical memory, of [PageNumberSize] bytes each.
//
// What TargetVTL names is not agreed on: in the TLFS and in a fork of QEMU the lower
// level whose rights change; in OpenVMM and LiteBox the level that restricts all those
// below it.
//
//vtx:layout
type ModifyVtlProtectionMaskInput struct {
	PartitionID uint64
	MapFlags    MapFlags
	TargetVTL   InputVTL
	Reserved    [3]uint8
}

// PageNumberSize is the size of a page number in the list of
// HvCallModifyVtlProtectionMask.
const PageNumberSize = 8

// A VpRegistersInput is the header of HvCallGetVpRegisters and HvCallSetVpRegisters (TLFS
// HvCallGetVpRegisters.md, HvCallSetVpRegisters.md). The first has a list of
// [Register], of [RegisterNameSize] bytes each, as input, and of [RegisterValue] as
// output; the second a list of [RegisterAssoc] as input.
//
//vtx:layout
type VpRegistersInput struct {
	PartitionID uint64
	VPIndex     uint32
	TargetVTL   InputVTL
	Reserved    [3]uint8
}

// RegisterNameSize is the size of a register name in the list of HvCallGetVpRegisters.
const RegisterNameSize = 4

// A GetVpIndexFromApicIdInput is the header of HvCallGetVpIndexFromApicId (TLFS
// HvCallGetVpIndexFromApicId.md). TargetVTL is an HV_VTL in the TLFS and in OpenVMM, an
// HV_INPUT_VTL in Linux.
//
// The list has APIC identifiers as input, and indices of processors as output. The TLFS
// gives both kinds of elements 8 bytes with padding; OpenVMM and Linux have 4, which is
// [GetVpIndexElementSize].
//
//lint:ignore ST1003 the call is named so
//vtx:layout
type GetVpIndexFromApicIdInput struct {
	PartitionID uint64
	TargetVTL   VTL
	Pad         [7]uint8 // not said to be 0, and kept
}

// Sizes of an element of HvCallGetVpIndexFromApicId, input or output.
const (
	GetVpIndexElementSize     = 4 // in OpenVMM and Linux
	GetVpIndexElementSizeTLFS = 8 // in the TLFS: 4 bytes of padding follow
)
