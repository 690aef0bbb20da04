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
//	m := ept.NewMode(caps)
//	if r := m.Misconfiguration(e, ept.PDE); r != nil {
//		return fmt.Errorf("%v: %v", e, r)
//	}
//
// # Building
//
// A [Space] is one guest-physical memory in up to 64 views, each a hierarchy of tables with
// an EPT pointer of its own; views share the tables of all that they agree on. Map, Replace,
// Unmap, Protect, Split and Join change one [View], or all if they are the Space's. Each
// does all or nothing, on tables that processors walk meanwhile, and says what is to be
// invalidated:
//
//	space, err := ept.New(ept.Config{Pages: arena, Mode: ept.NewMode(caps)})
//	full := space.View(0)
//	due, err := full.MapTyped(0, size, base, ept.All, mtrrs)
//	restricted, err := full.Clone()
//	due, err = restricted.Protect(secret, 4096, 0, ept.All)
//	if kind, d, ok := due.INVEPT(restricted.Pointer(), caps.EPTVPID); ok {
//		asm.INVEPT(uint64(kind), (*[2]uint64)(&d))
//	}
//
// # Walking
//
// [View.Translate] gives the physical address of an access, or the [Fault] that the
// processor would cause, with its exit qualification. The function [Translate] does so for
// any [Source] of entries, such as the [Tables] in a dump, whatever is in them. Package
// ept/nested walks the guest's page tables as well.
//
// [Mappings] merges what a source maps into ranges, [Compare] finds what two map
// differently, and a [Drawing] shows it, as text or SVG. A [MapFile] describes memory in
// text; command "vtx ept" draws it.
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
