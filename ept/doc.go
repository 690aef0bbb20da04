// Package ept knows the extended page tables of Intel VT-x: their entries, how to build,
// change and walk them, what memory type an access has, what must be invalidated when.
//
// Sections in comments are those of the Intel 64 and IA-32 Architectures Software
// Developer's Manual (SDM), order number 325462, revision 084, June 2024: Vol. 3C 25.6.11
// (EPT pointer), 26.5.7 (virtualization exceptions), chapter 29 (address translation),
// 31.3 (INVEPT, INVVPID); Vol. 3D A.10 (capabilities); Vol. 3A 12.11 and 12.12 (MTRRs and
// PAT). What is younger says so, and names its source. In revision 092, June 2026, the
// chapters of Vol. 3A and 3C have numbers that are higher by 2.
//
// # Entries
//
// An [Entry] is an entry of any [Level], a [Pointer] an EPT pointer. What their bits mean
// depends on the processor and on controls, which a [Mode] has; [ModeOf] takes it from a
// VMCS. [Mode.Misconfiguration] names the rule that an entry breaks:
//
//	m := &ept.Mode{Capabilities: caps.EPTVPID, PhysicalAddressBits: 39}
//	if r := m.Misconfiguration(e, ept.PDE); r != nil {
//		return fmt.Errorf("%v: %v", e, r)
//	}
//
// # Memory types
//
// [EffectiveType] combines the type in an entry with that of the guest's PAT. A hypervisor
// that maps the machine's own memory takes the types from the [MTRRs].
//
// # Invalidation
//
// Whoever changes tables that processors use must drop what these have cached. An
// [Invalidation] says what is to be done after a change; [Invalidation.INVEPT] makes the
// operands of the instruction from it.
//
// # Sub-page permissions
//
// A [SubPageTable] allows writes to parts of 128 bytes of a page that is not writable.
package ept
