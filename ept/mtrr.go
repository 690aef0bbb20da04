package ept

import (
	"errors"
	"fmt"
	"iter"
	"math"
	"math/bits"

	"github.com/govtx/vtx/vmcs"
)

// Types are the memory types of physical memory. At returns the type at an address, and
// the first address behind it from which on the type may be another.
type Types interface {
	At(hpa uint64) (t MemoryType, end uint64)
}

// MSRs of memory type ranges (SDM Vol. 3A 12.11).
const (
	MSRMTRRCap      = 0xfe
	MSRSMRRPhysBase = 0x1f2
	MSRSMRRPhysMask = 0x1f3
	MSRMTRRPhysBase = 0x200 // of variable range 0; that of range n is 2n higher
	MSRMTRRPhysMask = 0x201 // of variable range 0; that of range n is 2n higher
	MSRMTRRDefType  = 0x2ff
)

// fixedMTRRs are the fixed ranges: eight parts of a size, from an address on
// (SDM Vol. 3A table 12-9).
var fixedMTRRs = [...]struct {
	msr   uint32
	start uint64
	shift uint8 // of the size of a part
	name  string
}{
	{0x250, 0x00000, 16, "IA32_MTRR_FIX64K_00000"},
	{0x258, 0x80000, 14, "IA32_MTRR_FIX16K_80000"},
	{0x259, 0xa0000, 14, "IA32_MTRR_FIX16K_A0000"},
	{0x268, 0xc0000, 12, "IA32_MTRR_FIX4K_C0000"},
	{0x269, 0xc8000, 12, "IA32_MTRR_FIX4K_C8000"},
	{0x26a, 0xd0000, 12, "IA32_MTRR_FIX4K_D0000"},
	{0x26b, 0xd8000, 12, "IA32_MTRR_FIX4K_D8000"},
	{0x26c, 0xe0000, 12, "IA32_MTRR_FIX4K_E0000"},
	{0x26d, 0xe8000, 12, "IA32_MTRR_FIX4K_E8000"},
	{0x26e, 0xf0000, 12, "IA32_MTRR_FIX4K_F0000"},
	{0x26f, 0xf8000, 12, "IA32_MTRR_FIX4K_F8000"},
}

const (
	fixedEnd = 0x100000 // first address behind the fixed ranges

	mtrrCapFixed = 1 << 8  // there are fixed ranges
	mtrrCapSMRR  = 1 << 11 // there is the SMRR

	mtrrFixedEnable = 1 << 10
	mtrrEnable      = 1 << 11

	mtrrValid = 1 << 11 // of a mask

	// maxVariable is how many variable ranges there is room for: the MSRs at 0x250 are
	// fixed ranges.
	maxVariable = (0x250 - MSRMTRRPhysBase) / 2
)

// An MTRRPair is the two MSRs of a variable range, or of the SMRR.
//
//	        63    M M-1             12 11 10   8 7         0
//	       ┌───────┬──────────────────┬──────────┬──────────┐
//	Base   │   0   │       base       │    0     │   type   │
//	       ├───────┼──────────────────┼──┬───────┴──────────┤
//	Mask   │   0   │       mask       │ V│        0         │
//	       └───────┴──────────────────┴──┴──────────────────┘
//
// M is MAXPHYADDR. If V is 1, the range is all addresses whose bits agree with base in
// the bits that are 1 in mask.
type MTRRPair struct{ Base, Mask uint64 }

// Valid reports whether the range is in use.
func (p MTRRPair) Valid() bool { return p.Mask&mtrrValid != 0 }

// Type returns the type of the range.
func (p MTRRPair) Type() MemoryType { return MemoryType(p.Base) }

// MTRRs are the memory type range registers of a processor, as they were read
// (SDM Vol. 3A 12.11), which say what type the firmware has given to which memory.
// MTRRs can have any contents: what no processor accepts counts as UC.
//
// They say nothing of accesses in a guest, for whose type only EPT and the guest's PAT
// count (SDM Vol. 3C 29.3.7.2): a hypervisor that maps the machine's own memory gives each
// page the type that it has here.
type MTRRs struct {
	PhysicalAddressBits uint8 // MAXPHYADDR, 32 to 52

	Cap      uint64     // IA32_MTRRCAP
	DefType  uint64     // IA32_MTRR_DEF_TYPE
	Fixed    [11]uint64 // the fixed ranges, from low to high addresses
	Variable []MTRRPair
	SMRR     MTRRPair // the system-management range
}

// ReadMTRRs reads the MSRs, and only those that IA32_MTRRCAP announces. The processor
// must have MTRRs (CPUID leaf 1 EDX bit 12). physicalBits is the width of physical
// addresses: [Mode.PhysicalBits]. Errors name the MSR that cannot be read, or has a value
// that no processor accepts; with the latter, what was read is returned too.
func ReadMTRRs(r vmcs.MSRReader, physicalBits uint8) (*MTRRs, error) {
	m := &MTRRs{PhysicalAddressBits: physicalBits}
	var failed error
	read := func(msr uint32) (v uint64) {
		if failed == nil {
			if v, failed = r.ReadMSR(msr); failed != nil {
				failed = fmt.Errorf("ept: reading %s (MSR %#x): %w", mtrrName(msr), msr, failed)
			}
		}
		return v
	}
	m.Cap = read(MSRMTRRCap)
	n := uint32(m.Cap & 0xff)
	if n > maxVariable {
		return nil, fmt.Errorf("ept: IA32_MTRRCAP %#x tells of %d variable ranges; there are MSRs for %d at most", m.Cap, n, maxVariable)
	}
	m.DefType = read(MSRMTRRDefType)
	if m.Cap&mtrrCapFixed != 0 {
		for i := range fixedMTRRs {
			m.Fixed[i] = read(fixedMTRRs[i].msr)
		}
	}
	for i := range n {
		m.Variable = append(m.Variable, MTRRPair{read(MSRMTRRPhysBase + 2*i), read(MSRMTRRPhysMask + 2*i)})
	}
	if m.Cap&mtrrCapSMRR != 0 {
		m.SMRR = MTRRPair{read(MSRSMRRPhysBase), read(MSRSMRRPhysMask)}
	}
	if failed != nil {
		return nil, failed
	}
	return m, m.Validate()
}

// mtrrName is the manual's name of an MSR.
func mtrrName(msr uint32) string {
	switch {
	case msr == MSRMTRRCap:
		return "IA32_MTRRCAP"
	case msr == MSRSMRRPhysBase:
		return "IA32_SMRR_PHYSBASE"
	case msr == MSRSMRRPhysMask:
		return "IA32_SMRR_PHYSMASK"
	case msr == MSRMTRRDefType:
		return "IA32_MTRR_DEF_TYPE"
	case msr >= MSRMTRRPhysBase && msr < MSRMTRRPhysBase+2*maxVariable:
		return fmt.Sprintf("IA32_MTRR_PHYS%s%d", [...]string{"BASE", "MASK"}[msr&1], (msr-MSRMTRRPhysBase)/2)
	}
	for i := range fixedMTRRs {
		if fixedMTRRs[i].msr == msr {
			return fixedMTRRs[i].name
		}
	}
	return fmt.Sprintf("MSR %#x", msr)
}

// ErrMTRR is what errors about values of MTRRs wrap.
var ErrMTRR = errors.New("no processor accepts this value")

// Validate returns an error that names the first register whose value WRMSR would
// refuse: a reserved memory type, reserved bits, address bits beyond MAXPHYADDR. Values come from one
// processor, MAXPHYADDR too, or one of them is wrong.
func (m *MTRRs) Validate() error {
	if m.PhysicalAddressBits < 32 || m.PhysicalAddressBits > 52 {
		return fmt.Errorf("ept: MAXPHYADDR (CPUID leaf 0x80000008 EAX[7:0]) must be 32 to 52, not %d", m.PhysicalAddressBits)
	}
	fail := func(msr uint32, v uint64, why string, args ...any) error {
		return fmt.Errorf("ept: %s (MSR %#x) is %#x: %w: %s (SDM Vol. 3A 12.11.2)", mtrrName(msr), msr, v, ErrMTRR, fmt.Sprintf(why, args...))
	}
	const reserved = "bits %d:%d are reserved, and must be 0"
	switch t := MemoryType(m.DefType); {
	case !t.Valid():
		return fail(MSRMTRRDefType, m.DefType, "memory type %d is reserved", t)
	case m.DefType>>8&3 != 0:
		return fail(MSRMTRRDefType, m.DefType, reserved, 9, 8)
	case m.DefType>>12 != 0:
		return fail(MSRMTRRDefType, m.DefType, reserved, 63, 12)
	}
	for i, v := range m.Fixed {
		for part := range 8 {
			if t := MemoryType(v >> (8 * part)); !t.Valid() {
				return fail(fixedMTRRs[i].msr, v, "memory type %d in bits %d:%d is reserved", t, 8*part+7, 8*part)
			}
		}
	}
	limit := func(msr uint32, width uint8, p MTRRPair) error {
		switch {
		case !p.Type().Valid():
			return fail(msr, p.Base, "memory type %d is reserved", p.Type())
		case p.Base>>width != 0:
			return fail(msr, p.Base, "it has bits beyond the width of %d", width)
		case p.Mask>>width != 0:
			return fail(msr+1, p.Mask, "it has bits beyond the width of %d", width)
		}
		return nil
	}
	for i, p := range m.Variable {
		msr := MSRMTRRPhysBase + 2*uint32(i)
		if err := limit(msr, m.PhysicalAddressBits, p); err != nil {
			return err
		}
		if p.Base>>8&15 != 0 {
			return fail(msr, p.Base, reserved, 11, 8)
		}
		if p.Mask&0x7ff != 0 {
			return fail(msr+1, p.Mask, reserved, 10, 0)
		}
	}
	return limit(MSRSMRRPhysBase, 32, m.SMRR)
}

// Enabled reports whether MTRRs are enabled. If not, all memory is UC.
func (m *MTRRs) Enabled() bool { return m.DefType&mtrrEnable != 0 }

// FixedEnabled reports whether the fixed ranges count.
func (m *MTRRs) FixedEnabled() bool {
	return m.Enabled() && m.DefType&mtrrFixedEnable != 0 && m.Cap&mtrrCapFixed != 0
}

// width is MAXPHYADDR, within what there is.
func (m *MTRRs) width() uint8 { return min(max(m.PhysicalAddressBits, 32), 52) }

// next reports whether the range has an address below limit, and the first address
// behind it where that changes, limit at most. limit is a power of 2. It takes a few
// instructions whatever the mask, which may have gaps: such a range is many.
func (p MTRRPair) next(addr, limit uint64) (in bool, change uint64) {
	mask := p.Mask &^ 0xfff & (limit - 1)
	base := p.Base & mask
	differ := addr&mask ^ base
	if differ == 0 {
		if mask == 0 {
			return true, limit
		}
		// Behind the bits that the lowest one of mask leaves free, that bit differs.
		return true, (addr | (mask&-mask - 1)) + 1
	}
	// The first address behind addr that is in: up to its highest bit that differs, or
	// to a free bit above that can be set, it is as addr; below as base, free bits 0.
	top := uint64(1) << (bits.Len64(differ) - 1)
	if base&top != 0 {
		return false, addr&^(2*top-1) | base&(2*top-1)
	}
	free := ^addr & ^mask & (limit - 1) &^ (2*top - 1)
	if free == 0 {
		return false, limit
	}
	free &= -free
	return false, addr&^(2*free-1) | free | base&(free-1)
}

// smrr is the system-management range as a range of all physical memory: it lies below
// 4 GiB.
func (m *MTRRs) smrr() MTRRPair {
	return MTRRPair{m.SMRR.Base & 0xffff_ffff, m.SMRR.Mask | 0xffff_ffff_0000_0000}
}

// at returns the type at an address below limit, whether the manual leaves it undefined,
// and an address behind it up to which both stay so.
func (m *MTRRs) at(addr, limit uint64) (t MemoryType, undefined bool, end uint64) {
	end = limit
	// Outside of SMM the SMRR is UC, whatever the MTRRs say (12.11.2.4).
	if m.Cap&mtrrCapSMRR != 0 && m.SMRR.Valid() {
		in, change := m.smrr().next(addr, limit)
		end = min(end, change)
		if in {
			return UC, false, end
		}
	}
	if !m.Enabled() {
		return UC, false, end
	}
	if m.FixedEnabled() && addr < fixedEnd {
		t, change := m.fixedAt(addr)
		if !t.Valid() {
			t, undefined = UC, true
		}
		return t, undefined, min(end, change)
	}
	types := 0 // a bit for each type of a range that has the address
	for _, p := range m.Variable {
		if !p.Valid() {
			continue
		}
		in, change := p.next(addr, limit)
		end = min(end, change)
		if in {
			types |= typeBit(p.Type())
		}
	}
	if types == 0 {
		types = typeBit(MemoryType(m.DefType))
	}
	t, undefined = overlap(types)
	return t, undefined, end
}

// typeBit is a bit for a type, the same for all that do not exist.
func typeBit(t MemoryType) int {
	if !t.Valid() {
		return 1 << 7
	}
	return 1 << t
}

// overlap is the type of ranges with the given types (12.11.4.1). Where the manual leaves
// it undefined it is UC, which is always coherent.
func overlap(types int) (t MemoryType, undefined bool) {
	switch {
	case types>>7 != 0:
		return UC, true
	case types&(1<<UC) != 0:
		return UC, false
	case types == 1<<WT|1<<WB:
		return WT, false
	case types&(types-1) != 0:
		return UC, true
	}
	return MemoryType(bits.TrailingZeros(uint(types))), false
}

// fixedAt returns the type in the fixed ranges, and where the next part begins.
func (m *MTRRs) fixedAt(addr uint64) (t MemoryType, end uint64) {
	i := len(fixedMTRRs) - 1
	for fixedMTRRs[i].start > addr {
		i--
	}
	f := &fixedMTRRs[i]
	part := (addr - f.start) >> f.shift
	return MemoryType(m.Fixed[i] >> (8 * part)), f.start + (part+1)<<f.shift
}

// maxSteps is how many neighbouring parts of one type At joins. With masks that have no
// gaps there are fewer boundaries than this.
const maxSteps = 1024

// At returns the memory type at a physical address outside of system-management mode, and
// the first address behind it that has another. Masks with gaps can cut memory into
// millions of ranges; with these, the address may be one from which on the type stays
// the same. Where the manual leaves the type undefined (see [MTRRs.All]) it is UC. At
// and beyond MAXPHYADDR there is no memory: the type is UC, the end the highest address.
func (m *MTRRs) At(hpa uint64) (t MemoryType, end uint64) {
	t, _, end = m.run(hpa, false)
	return t, end
}

// run is At; with exact, a run ends too where only undefined changes.
func (m *MTRRs) run(addr uint64, exact bool) (t MemoryType, undefined bool, end uint64) {
	limit := uint64(1) << m.width()
	if addr >= limit {
		return UC, false, math.MaxUint64
	}
	t, undefined, end = m.at(addr, limit)
	for range maxSteps {
		if end >= limit {
			break
		}
		t2, undefined2, end2 := m.at(end, limit)
		if t2 != t || exact && undefined2 != undefined {
			break
		}
		end = end2
	}
	return t, undefined, end
}

// A TypeRange is a range of physical memory of one type.
type TypeRange struct {
	Start, End uint64 // End is the first address behind it
	Type       MemoryType

	// Undefined: ranges overlap whose types the manual does not combine, such as WC
	// and WB (SDM Vol. 3A 12.11.4.1), or a register has a reserved type. Type is UC then.
	Undefined bool
}

// String prints the range: "0x0-0x9ffff WB".
func (r TypeRange) String() string {
	s := fmt.Sprintf("%#x-%#x %v", r.Start, r.End-1, r.Type)
	if r.Undefined {
		s += " (undefined overlap)"
	}
	return s
}

// All yields all physical memory, from address 0 up, in ranges of one type. Masks with gaps
// can make for very many ranges.
func (m *MTRRs) All() iter.Seq[TypeRange] {
	return func(yield func(TypeRange) bool) {
		limit := uint64(1) << m.width()
		for addr := uint64(0); addr < limit; {
			t, undefined, end := m.run(addr, true)
			if !yield(TypeRange{addr, end, t, undefined}) {
				return
			}
			addr = end
		}
	}
}
