package hypercall

// The contents of synthetic MSRs. Bits that have no name in them are to be preserved,
// or to be 0, as the TLFS says of each; every type keeps and prints them.
type (
	// A HypercallMSR is what [MSRHypercall] holds: where the hypercall page lies
	// (TLFS, "Hypercall Interface", establishing the hypercall interface).
	HypercallMSR uint64

	// A VPAssistMSR is what [MSRVPAssistPage] holds: where the processor's VP
	// assist page lies (TLFS, "Virtual Processors").
	VPAssistMSR uint64

	// A ReferenceTSCMSR is what [MSRReferenceTSC] holds: where the page with scale
	// and offset of the TSC lies (TLFS, "Timers").
	ReferenceTSCMSR uint64

	// A SControlMSR is what [MSRSControl] holds: whether the synthetic interrupt
	// controller is on (TLFS, "Inter-Partition Communication").
	SControlMSR uint64

	// A SIEFPMSR is what [MSRSIEFP] holds: where the page of event flags lies
	// (TLFS, "Inter-Partition Communication").
	SIEFPMSR uint64

	// A SIMPMSR is what [MSRSIMP] holds: where the page of messages lies (TLFS,
	// "Inter-Partition Communication").
	SIMPMSR uint64

	// A SINTMSR is what [MSRSINT0] to [MSRSINT15] hold: how a synthetic interrupt
	// source interrupts (TLFS, "Inter-Partition Communication").
	SINTMSR uint64

	// A STimerConfigMSR is what [MSRSTimer0Config] to [MSRSTimer3Config] hold
	// (TLFS, "Timers").
	STimerConfigMSR uint64

	// An UnhaltedTimerMSR is what [MSRSTimeUnhaltedTimerConfig] holds (TLFS,
	// "Timers").
	UnhaltedTimerMSR uint64

	// A ReenlightenmentMSR is what [MSRReenlightenmentControl] holds: who is told
	// of a migration (TLFS, "Nested Virtualization").
	ReenlightenmentMSR uint64

	// A TSCEmulationControlMSR is what [MSRTSCEmulationControl] holds (TLFS,
	// "Nested Virtualization").
	TSCEmulationControlMSR uint64

	// A TSCEmulationStatusMSR is what [MSRTSCEmulationStatus] holds (TLFS, "Nested
	// Virtualization").
	TSCEmulationStatusMSR uint64

	// A TSCInvariantMSR is what [MSRTSCInvariantControl] holds. It is not in the
	// TLFS.
	TSCInvariantMSR uint64

	// A CrashControlMSR is what [MSRGuestCrashCtl] holds (TLFS, data type
	// HV_CRASH_CTL_REG_CONTENTS).
	CrashControlMSR uint64
)

// SINTReset is what the SINT MSRs hold at first: the source is masked.
const SINTReset = SINTMSRMasked
