package ept

// A Rule is one of the rules that a present entry must obey (SDM Vol. 3C 29.3.3.1).
type Rule struct {
	ID      string // "write-without-read"
	Section string // of the SDM, Vol. 3C
	Text    string // what must be so
	bad     func(m *Mode, e Entry, l Level) bool
}

// String returns the rule's words and its section.
func (r *Rule) String() string { return r.Text + " (SDM Vol. 3C " + r.Section + ")" }

// rules are in the order in which they are told of: the processor does not tell which
// of them was broken.
var rules = [...]Rule{
	{"write-without-read", "29.3.3.1", "an entry that allows writes (bit 1) must allow reads (bit 0)",
		func(_ *Mode, e Entry, _ Level) bool { return e&ReadWrite == Write }},
	{"execute-only", "29.3.3.1, A.10", "an entry that allows fetches (bit 2; with mode-based execute control bit 10 too) must allow reads (bit 0) unless IA32_VMX_EPT_VPID_CAP[0] is 1",
		func(m *Mode, e Entry, _ Level) bool {
			return e&Read == 0 && e&(m.presentMask()&^ReadWrite) != 0 && !m.Capabilities.ExecuteOnly()
		}},
	{"paging-write-without-read", "29.3.3.1", "with EPT paging-write control, an entry that maps a page and allows paging writes (bit 58) must allow reads (bit 0)",
		func(m *Mode, e Entry, l Level) bool {
			return m.PagingWrite && e.Leaf(l) && e&(Read|PagingWrite) == PagingWrite
		}},
	{"address-width", "29.3.3.1, 29.3.2", "address bits at and above MAXPHYADDR are reserved and must be 0",
		func(m *Mode, e Entry, _ Level) bool { return uint64(e&addressMask)>>m.PhysicalBits() != 0 }},
	{"table-reserved", "29.3.2, tables 29-1, 29-2, 29-4 and 29-6", "bits 6:3 of an entry that references a table are reserved and must be 0",
		func(_ *Mode, e Entry, l Level) bool { return !e.Leaf(l) && e>>3&15 != 0 }},
	{"large-too-high", "29.3.2, tables 29-1 and 29-2", "bit 7 of a PML5E or PML4E is reserved and must be 0: they map no pages",
		func(_ *Mode, e Entry, l Level) bool { return l > PDPTE && e&Large != 0 }},
	{"large-unsupported", "29.3.2, A.10", "bit 7 must be 0 where the processor has no pages of that size: IA32_VMX_EPT_VPID_CAP[16] tells of 2 MiB (PDE), [17] of 1 GiB (PDPTE)",
		func(m *Mode, e Entry, l Level) bool { return l <= PDPTE && e.Leaf(l) && !m.CanMap(l) }},
	{"large-alignment", "29.3.2, tables 29-3 and 29-5", "address bits below the size of the page (29:12 for 1 GiB, 20:12 for 2 MiB) are reserved and must be 0",
		func(_ *Mode, e Entry, l Level) bool {
			return e.Leaf(l) && uint64(e&addressMask)&(l.PageSize()-1) != 0
		}},
	{"memory-type", "29.3.3.1, 29.3.7.2", "the memory type (bits 5:3) of a page must not be 2, 3 or 7",
		func(_ *Mode, e Entry, l Level) bool { return e.Leaf(l) && !e.MemoryType().Valid() }},
}

// Rules returns the rules whose breach is an EPT misconfiguration.
func Rules() []*Rule {
	out := make([]*Rule, len(rules))
	for i := range rules {
		out[i] = &rules[i]
	}
	return out
}

// Misconfiguration returns the first rule that an entry of a level breaks, or nil. An
// entry that is not present breaks none. It allocates nothing.
func (m *Mode) Misconfiguration(e Entry, l Level) *Rule {
	if !e.Present(m) {
		return nil
	}
	// Nearly all entries can be read, and are right.
	if e&Read != 0 && uint64(e)&m.Reserved(l, e&Large != 0) == 0 && (!e.Leaf(l) || e.MemoryType().Valid()) {
		return nil
	}
	return m.brokenRule(e, l)
}

// brokenRule asks each rule.
func (m *Mode) brokenRule(e Entry, l Level) *Rule {
	for i := range rules {
		if r := &rules[i]; r.bad(m, e, l) {
			return r
		}
	}
	return nil
}

// Reserved returns the bits that must be 0 in a present entry of a level; large is
// whether bit 7 of it is 1, which matters at levels 2 and 3.
func (m *Mode) Reserved(l Level, large bool) uint64 {
	r := uint64(addressMask) >> m.PhysicalBits() << m.PhysicalBits()
	leaf := l == PTE
	if large && l > PTE {
		leaf = m.CanMap(l)
		if !leaf {
			r |= uint64(Large)
		}
	}
	if leaf {
		return r | uint64(addressMask)&(l.PageSize()-1)
	}
	if l > PDPTE {
		r |= uint64(Large)
	}
	return r | 15<<3
}
