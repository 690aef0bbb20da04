package vmexit

import (
	"fmt"

	"github.com/govtx/vtx/asm"
	"github.com/govtx/vtx/vmcs"
)

// CPUIDRegisters are what a leaf of CPUID returns.
type CPUIDRegisters struct{ EAX, EBX, ECX, EDX uint32 }

// A CPUIDPolicy says what CPUID tells a guest (SDM Vol. 2A CPUID): leaves as data, which
// come from a processor ([SnapshotCPUID]) and are changed as one likes. Change it before
// the first guest uses it; after that, any number of processors can.
//
// Three groups of leaves can be held, from 0, 0x40000000 and 0x80000000 on, 64 of each. How
// many there are, EAX of a group's first leaf says. Other leaves are answered
// with the data of the highest leaf of the first group, as Intel processors do.
//
// What depends on the guest's state is put in by the [CPUIDPolicy.Handler], if the policy has
// the feature at all: OSXSAVE, OSPKE, SYSCALL (64-bit mode only), and the sizes in leaf
// 0xd. Whether the feature flag APIC follows IA32_APIC_BASE, and MONITOR
// IA32_MISC_ENABLE, is up to whoever emulates those.
type CPUIDPolicy struct {
	groups [4]cpuidGroup        // by bits 31:30 of the leaf; the last is empty
	plain  [256]*CPUIDRegisters // of the leaves that are always the same, by group and number
	apicID func(*Exit) uint32
	xss    func(*Exit) uint64
}

const (
	groupShift     = 30
	inGroup        = 1<<groupShift - 1
	cpuidLeaves    = 64  // of a group
	cpuidSubleaves = 256 // of a leaf, at most
)

type cpuidGroup struct {
	count  uint32 // how many leaves there are
	leaves [cpuidLeaves]cpuidLeaf
}

type cpuidLeaf struct {
	first CPUIDRegisters   // sub-leaf 0, and if there is no other, all of them
	more  []CPUIDRegisters // sub-leaves from 1 on
	state bool             // depends on the guest's state
	many  bool             // has sub-leaves: those that are not there are 0
}

// SnapshotCPUID returns a policy that tells what c does: vmcs.Processor{}, or a
// recorded processor.
func SnapshotCPUID(c vmcs.CPUIDReader) *CPUIDPolicy {
	p := new(CPUIDPolicy)
	read := func(leaf, sub uint32) (r CPUIDRegisters) {
		r.EAX, r.EBX, r.ECX, r.EDX = c.ReadCPUID(leaf, sub)
		return r
	}
	for _, start := range [...]uint32{0, 0x8000_0000} { // a hypervisor beneath does not show through
		highest := read(start, 0).EAX
		if highest < start {
			continue
		}
		for leaf := start; leaf <= min(highest, start+cpuidLeaves-1); leaf++ {
			first := read(leaf, 0)
			p.Set(leaf, 0, first)
			for sub := uint32(1); moreSubleaves(leaf, sub, first, read); sub++ {
				p.Set(leaf, sub, read(leaf, sub))
			}
		}
	}
	p.Mask(1, 0, CPUIDRegisters{^uint32(0), ^uint32(0), ^uint32(cpuid1Hypervisor), ^uint32(0)})
	return p
}

// moreSubleaves tells whether a leaf has sub-leaf n of its own. What the last one is,
// each leaf says in its own way.
func moreSubleaves(leaf, n uint32, first CPUIDRegisters, read func(leaf, sub uint32) CPUIDRegisters) bool {
	const limit = 64
	if n >= limit {
		return false
	}
	switch leaf {
	case 4, 0x8000_001d: // caches, up to one of type 0
		return read(leaf, n-1).EAX&0x1f != 0
	case 7, 0x14, 0x17, 0x18, 0x1d, 0x20, 0x24: // EAX has the highest
		return n <= first.EAX
	case 0xb, 0x1f: // topology, up to a level of type 0
		return read(leaf, n-1).ECX&0xff00 != 0
	case 0xd: // a state component each
		return true
	case 0xf:
		return n < 2
	case 0x10, 0x23:
		return n < 6
	case 0x12: // SGX: two, and sections up to one of type 0
		return n <= 2 || read(leaf, n-1).EAX&0xf != 0
	case 0x1b: // PCONFIG targets, up to one of type 0
		return read(leaf, n-1).EAX&0xfff != 0
	case 0x1e:
		return n < 2
	}
	return false
}

// subleafMap has a bit for each leaf of the first group that has sub-leaves, be it only
// one.
const subleafMap uint64 = 1<<4 | 1<<7 | 1<<0xb | 1<<0xd | 1<<0xf | 1<<0x10 | 1<<0x12 | 1<<0x14 | 1<<0x17 | 1<<0x18 |
	1<<0x1b | 1<<0x1d | 1<<0x1e | 1<<0x1f | 1<<0x20 | 1<<0x23 | 1<<0x24

// Bits of leaves that are looked at here.
const (
	cpuid1VMX        = 1 << 5  // ECX
	cpuid1SMX        = 1 << 6  // ECX
	cpuid1XSAVE      = 1 << 26 // ECX
	cpuid1OSXSAVE    = 1 << 27 // ECX
	cpuid1Hypervisor = 1 << 31 // ECX
	cpuid7PKU        = 1 << 3  // ECX
	cpuid7OSPKE      = 1 << 4  // ECX
	cpuidSYSCALL     = 1 << 11 // EDX of 0x80000001
)

// find returns a leaf that can be held.
func (p *CPUIDPolicy) find(leaf uint32) *cpuidLeaf {
	if g, n := leaf>>groupShift, leaf&inGroup; g < 3 && n < cpuidLeaves {
		return &p.groups[g].leaves[n]
	}
	return nil
}

// Set sets a sub-leaf; that of a leaf without sub-leaves is 0. Setting another makes
// the leaf one with sub-leaves, in which what is not set is 0. It panics if the leaf or
// sub-leaf cannot be held.
func (p *CPUIDPolicy) Set(leaf, subleaf uint32, r CPUIDRegisters) *CPUIDPolicy {
	l := p.find(leaf)
	if l == nil || subleaf >= cpuidSubleaves {
		panic(fmt.Sprintf("vmexit: CPUID leaf 0x%x, sub-leaf 0x%x cannot be held: there is room for 64 leaves from 0, 0x40000000 and 0x80000000 on, with 256 sub-leaves", leaf, subleaf))
	}
	if subleaf == 0 {
		l.first = r
	} else {
		for uint32(len(l.more)) < subleaf {
			l.more = append(l.more, CPUIDRegisters{})
		}
		l.more[subleaf-1] = r
	}
	p.settle()
	return p
}

// Mask clears the bits of a sub-leaf that are 0 in keep.
func (p *CPUIDPolicy) Mask(leaf, subleaf uint32, keep CPUIDRegisters) *CPUIDPolicy {
	r := p.Lookup(leaf, subleaf)
	return p.Set(leaf, subleaf, CPUIDRegisters{r.EAX & keep.EAX, r.EBX & keep.EBX, r.ECX & keep.ECX, r.EDX & keep.EDX})
}

// settle brings what the handler looks at in line with the data.
func (p *CPUIDPolicy) settle() {
	for i := range p.groups[:3] {
		g := &p.groups[i]
		if highest := g.leaves[0].first.EAX; highest>>groupShift == uint32(i) {
			g.count = min(highest&inGroup, cpuidLeaves-1) + 1
		}
	}
	p.groups[0].count = max(p.groups[0].count, 1) // leaf 0 is always there
	basic, extended := &p.groups[0].leaves, &p.groups[2].leaves
	basic[1].state = basic[1].first.ECX&cpuid1XSAVE != 0 || p.apicID != nil
	basic[7].state = basic[7].first.ECX&cpuid7PKU != 0
	basic[0xb].state, basic[0x1f].state = true, true
	basic[0xd].state = true
	extended[1].state = extended[1].first.EDX&cpuidSYSCALL != 0
	for i := range p.groups[:3] {
		for n := range p.groups[i].leaves {
			l := &p.groups[i].leaves[n]
			l.many = len(l.more) > 0 || i == 0 && subleafMap>>n&1 != 0
		}
	}
	for i := range p.plain {
		n := uint32(i)
		leaf := n/cpuidLeaves<<groupShift | n%cpuidLeaves
		p.plain[i] = nil
		if l, answers := p.leaf(leaf); answers == leaf && !l.state && !l.many {
			p.plain[i] = &l.first
		}
	}
}

// HideVMX takes away the feature flag VMX. To be a processor without VMX, the guest
// must not find its MSRs ([MSRPolicy.HideVMX]) nor CR4.VMXE either: [Defaults] and
// [NewControlRegisters] see to it by this flag.
func (p *CPUIDPolicy) HideVMX() *CPUIDPolicy {
	return p.Mask(1, 0, CPUIDRegisters{^uint32(0), ^uint32(0), ^uint32(cpuid1VMX), ^uint32(0)})
}

// PresentHypervisor tells the guest that there is a hypervisor: it sets the flag in leaf
// 1, ECX bit 31, and the leaves from 0x40000000 on, of which the first names the vendor,
// in up to 12 bytes, and the highest leaf. Further leaves are those from 0x40000001 on.
func (p *CPUIDPolicy) PresentHypervisor(vendor string, leaves ...CPUIDRegisters) *CPUIDPolicy {
	if len(vendor) > 12 || len(leaves) >= cpuidLeaves {
		panic(fmt.Sprintf("vmexit: a hypervisor's vendor has at most 12 bytes, and 63 leaves behind the one that names it; %q has %d bytes, with %d leaves", vendor, len(vendor), len(leaves)))
	}
	var name [3]uint32
	for i := range len(vendor) {
		name[i/4] |= uint32(vendor[i]) << (i % 4 * 8)
	}
	const start = 0x4000_0000
	p.Set(start, 0, CPUIDRegisters{start + uint32(len(leaves)), name[0], name[1], name[2]})
	for i, r := range leaves {
		p.Set(start+1+uint32(i), 0, r)
	}
	r := p.Lookup(1, 0)
	r.ECX |= cpuid1Hypervisor
	return p.Set(1, 0, r)
}

// SetAPICID has the handler ask for the x2APIC ID of the processor that the exit is of,
// and put it in the leaves 1, 0xb and 0x1f. Without it they are as set.
func (p *CPUIDPolicy) SetAPICID(id func(*Exit) uint32) *CPUIDPolicy {
	p.apicID = id
	p.settle()
	return p
}

// SetXSS has the handler ask for the guest's IA32_XSS, for the size of the compacted
// format of XSAVE areas in leaf 0xd. Without it that counts as 0.
func (p *CPUIDPolicy) SetXSS(xss func(*Exit) uint64) *CPUIDPolicy {
	p.xss = xss
	return p
}

// leaf returns the leaf that answers for one, and its number.
func (p *CPUIDPolicy) leaf(n uint32) (*cpuidLeaf, uint32) {
	if g, i := &p.groups[n>>groupShift], n&inGroup; i < g.count {
		return &g.leaves[i%cpuidLeaves], n
	}
	n = (p.groups[0].count - 1) % cpuidLeaves
	return &p.groups[0].leaves[n], n
}

func (l *cpuidLeaf) subleaf(n uint32) CPUIDRegisters {
	switch {
	case n == 0 || !l.many:
		return l.first
	case n-1 < uint32(len(l.more)):
		return l.more[n-1]
	}
	return CPUIDRegisters{}
}

// Lookup returns what the policy has for a leaf and sub-leaf, without what depends on
// the guest's state.
func (p *CPUIDPolicy) Lookup(leaf, subleaf uint32) CPUIDRegisters {
	l, _ := p.leaf(leaf)
	return l.subleaf(subleaf)
}

// ReadCPUID is Lookup: it makes the policy a [vmcs.CPUIDReader].
func (p *CPUIDPolicy) ReadCPUID(leaf, subleaf uint32) (eax, ebx, ecx, edx uint32) {
	r := p.Lookup(leaf, subleaf)
	return r.EAX, r.EBX, r.ECX, r.EDX
}

// Handler returns the handler of CPUID exits. (A method value would be one call more at
// each exit; inlined into a large function, the handler would have nothing inlined.)
//
//go:noinline
func (p *CPUIDPolicy) Handler() Handler {
	return func(x *Exit) Outcome {
		g := x.Guest
		if n := uint32(g.Regs[asm.RAX]); n&(inGroup&^(cpuidLeaves-1)) == 0 {
			if r := p.plain[uint8(n>>(groupShift-6)|n%cpuidLeaves)]; r != nil {
				setCPUID(g, r)
				return Resume
			}
		}
		return p.look(x)
	}
}

// setCPUID writes the registers, all 64 bits of them in every mode.
func setCPUID(g *asm.Guest, r *CPUIDRegisters) {
	g.Regs[asm.RAX] = uint64(r.EAX)
	g.Regs[asm.RBX] = uint64(r.EBX)
	g.Regs[asm.RCX] = uint64(r.ECX)
	g.Regs[asm.RDX] = uint64(r.EDX)
}

// look answers for leaves that are not the same always.
func (p *CPUIDPolicy) look(x *Exit) Outcome {
	l, n := p.leaf(uint32(x.Guest.Regs[asm.RAX]))
	sub := uint32(x.Guest.Regs[asm.RCX])
	r := l.subleaf(sub)
	switch n {
	case 1:
		r.ECX &^= cpuid1OSXSAVE
		if r.ECX&cpuid1XSAVE != 0 && x.guestCR4Has(asm.CR4OSXSAVE) {
			r.ECX |= cpuid1OSXSAVE
		}
		if p.apicID != nil {
			r.EBX = r.EBX&0xffffff | p.apicID(x)<<24
		}
	case 7:
		if sub == 0 {
			r.ECX &^= cpuid7OSPKE
			if r.ECX&cpuid7PKU != 0 && x.guestCR4Has(asm.CR4PKE) {
				r.ECX |= cpuid7OSPKE
			}
		}
	case 0xb, 0x1f:
		if sub > uint32(len(l.more)) {
			r.ECX = sub & 0xff // of a level that is not there, too
			r.EDX = l.first.EDX
		}
		if p.apicID != nil {
			r.EDX = p.apicID(x)
		}
	case 0xd:
		if sub < 2 && l.first.EAX != 0 {
			r.EBX = p.xsaveSize(x, l, sub, r.EAX)
		}
	case 0x8000_0001:
		if !x.Code64() {
			r.EDX &^= cpuidSYSCALL
		}
	}
	setCPUID(x.Guest, &r)
	return Resume
}

// xsaveSize returns the size of XSAVE areas: of the standard format for what XCR0
// enables (sub-leaf 0), and of the compacted one for what XCR0 and IA32_XSS enable
// (SDM Vol. 1 13.2, 13.4.3).
func (p *CPUIDPolicy) xsaveSize(x *Exit, l *cpuidLeaf, sub, eax uint32) uint32 {
	const (
		legacy = 512 + 64 // with the header
		xsaves = 1 << 3
	)
	enabled := x.Guest.XCR0()
	if enabled == 0 {
		enabled = hostXCR0()
	}
	if sub == 1 && eax&xsaves != 0 && p.xss != nil {
		enabled |= p.xss(x)
	}
	size := uint32(legacy)
	for i, c := range l.more {
		n := i + 1
		switch {
		case n < 2 || n > 63 || enabled>>n&1 == 0:
		case sub == 0:
			size = max(size, c.EBX+c.EAX)
		default:
			if c.ECX&2 != 0 { // aligned
				size = (size + 63) &^ 63
			}
			size += c.EAX
		}
	}
	return size
}

// hostXCR0 is XCR0 as the host has it, which is the guest's unless set.
func hostXCR0() uint64 {
	if _, _, ecx, _ := asm.CPUID(1, 0); ecx&cpuid1OSXSAVE == 0 {
		return 1
	}
	return asm.XGETBV(0)
}
