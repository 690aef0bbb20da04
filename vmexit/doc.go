// Package vmexit knows the VM exits of Intel VT-x: their reasons, what the exit
// qualification and the other VM-exit information say, and what follows from it; and
// it dispatches them to handlers.
//
// Sections in comments are those of the Intel 64 and IA-32 Architectures Software
// Developer's Manual (SDM), order number 325462, revision 084, June 2024: Vol. 3C
// chapters 26 (non-root operation), 27 (VM entries), 28 (VM exits), Vol. 3D appendix C
// (exit reasons). What is younger says so, and names its source.
//
// # Reasons
//
// A [Reason] is the exit-reason field, a [Basic] the number in it: [EPTViolation] is 48.
// A table tells of each what it leaves in the other fields:
//
//	Kind                 where RIP points to: a fault, a trap, an event, a failed entry
//	QualificationFormat  format of the exit qualification
//	InformationFormat    format of the VM-exit instruction information
//	InstructionLength    whether there is one
//	LinearAddress        whether there is a guest-linear address
//	PhysicalAddress      whether there is a guest-physical address
//	DuringDelivery       whether there can be IDT-vectoring information
//
// # Decoders
//
// Each format of the exit qualification is a type of 64 bits with methods for its
// parts, such as [EPTViolationQualification] and [IOQualification]; each format of the
// VM-exit instruction information one of 32 bits, such as [InvalidationInformation].
// To decode is to convert:
//
//	q := vmexit.CRAccessQualification(x.Qualification())
//	if q.Type() == vmexit.MOVToCR && q.CR() == 3 {
//		load(x.Register(int(q.Register())))
//	}
//
// They take any value, allocate nothing and take a few instructions; printing
// allocates. [Describe] and [DescribeInformation] print by the reason.
//
// [ReadAddress] works out where the memory operand of an instruction is, from the
// instruction information, the displacement, the guest's registers, segments and mode,
// and [Address.Check] tells the exception that segmentation raises for the access.
//
// # Events
//
// [EventOf] turns VM-exit interruption information into the event to inject when an
// exception is given to the guest. [Interrupted] does so with the event whose delivery
// a VM exit has interrupted; [Combine] puts it together with an exception that is to
// be raised, which can make a double or triple fault. [NMIUnblocking] tells when NMIs
// must be blocked again for an IRET.
//
// # Dispatch
//
// A [Handler] handles VM exits of one basic reason, and returns an [Outcome]: the
// instruction is done, the guest goes on where it is, or the run ends. A [Builder] makes
// a [Dispatcher] of handlers, and [Dispatcher.Run] enters the guest until one says [Stop].
// [Defaults] is a Builder with all handlers that are ready, by way of [CPUIDPolicy],
// [MSRPolicy], [ControlRegisters], [DebugRegisters], [Ports] and [TSC]; one's own replace
// them, or stand above them as a [Layer], such as a [Counter] or a [Trace]:
//
//	var counter vmexit.Counter
//	b := vmexit.Defaults(vmexit.Config{Capabilities: caps, Hypercall: hypercall})
//	d := b.Handle(vmexit.HLT, vmexit.Leave).OverAll(counter.Layer).Build()
//	err := d.Run(&vmexit.Exit{Guest: new(asm.Guest), VMCS: vmcs.Current{}})
//
// From a VM exit to the next VM entry nothing is allocated or locked. A guest cannot make
// a handler panic or loop without end: what it may not do ends in an exception for it, and
// what is not emulated in an error from Run that says so.
package vmexit
