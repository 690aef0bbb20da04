// Package vmcs knows the virtual-machine control structure of Intel VT-x: its
// fields, its controls and which of them a processor has, what its fields point
// to, and the rules that a VM entry checks.
//
// Sections in comments are those of the Intel 64 and IA-32 Architectures Software
// Developer's Manual (SDM), order number 325462, revision 084, June 2024: Vol. 3C
// chapters 25 (VMCS), 26 (non-root operation), 27 (VM entries), 28 (VM exits), 29
// (EPT), 31 (instructions), Vol. 3D appendices A (capabilities) and B (encodings).
// What is younger names its source instead.
//
// # Fields
//
// A [Field] is the encoding that VMREAD and VMWRITE take; [ExitReason] is 0x4402.
// Values go through a [Reader] and a [Writer]:
//
//	Current  the current VMCS, by VMREAD and VMWRITE
//	Image    values in memory: a VMCS in the making, a dump, a snapshot
//	Shadow   values in memory, with the refusals of a real processor
//
// # Controls
//
// [ReadCapabilities] reads what a processor can do from its MSRs, those of Linux'
// msr device ([OpenMSRDevice]) or recorded ones ([ParseRecorded], [Model]). [Settle]
// makes of wanted and optional controls a value that the processor allows, or says
// which bits it lacks.
//
// # Why a VM entry fails
//
// [Check] makes the checks of VM entry in software, and names each rule that a VMCS
// breaks, with the fields, their values, and the manual's section. [KVMDumps] reads
// what Linux' KVM prints of a VMCS when an entry has failed, and [ParseDump] what
// [Dump] has printed.
//
// The processor's answer is in the VM-instruction error field, an
// [InstructionError], if VMLAUNCH or VMRESUME ended with VMfailValid: 7 for the
// controls, 8 for the host state. For the guest state it is a VM exit with reason
// 33, for an MSR that cannot be loaded one with reason 34. Which rule it was is
// nowhere to be read, and [Report.First] is a guess: a processor checks the rules of
// one stage in an order of its own. That each rule is as the processor has it is
// tested by VM entries with thousands of drawn contents.
//
// # In a hypervisor
//
// Nothing here needs an operating system, except [OpenMSRDevice]. Reading and writing
// fields, decoding them, settling controls and looking up bitmaps allocates nothing;
// so does Check if all is well. Printing and parsing allocate.
package vmcs
