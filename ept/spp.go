package ept

import (
	"fmt"
	"iter"
	"math/bits"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/govtx/vtx/vmcs"
	"github.com/govtx/vtx/vmexit"
)

// A SubPageVector says which of the 32 sub-pages of 128 bytes of a page can be written,
// where EPT does not allow writes to the page as a whole (SDM Vol. 3C 29.3.4.2). Bit
// 2*n is 1 if sub-page n can be; the odd bits are reserved.
//
//	63  62  61 60     3  2  1  0
//	┌──┬───┬──┬───┬─┬──┬──┬──┬──┐
//	│ 0│s31│ 0│s30│…│ 0│s1│ 0│s0│
//	└──┴───┴──┴───┴─┴──┴──┴──┴──┘
type SubPageVector uint64

// SubPageSize is the size of a sub-page in bytes, SubPageCount how many a page has.
const (
	SubPageSize  = 128
	SubPageCount = 32
)

const evenBits SubPageVector = 0x5555_5555_5555_5555

// SubPages returns the vector that allows writes to the sub-pages whose bits are 1 in
// mask.
func SubPages(mask uint32) (v SubPageVector) {
	for ; mask != 0; mask &= mask - 1 {
		v |= 1 << (2 * bits.TrailingZeros32(mask))
	}
	return v
}

// Mask returns the sub-pages that can be written, a bit for each.
func (v SubPageVector) Mask() (mask uint32) {
	for w := v & evenBits; w != 0; w &= w - 1 {
		mask |= 1 << (bits.TrailingZeros64(uint64(w)) / 2)
	}
	return mask
}

// Valid reports whether the reserved bits are 0. Otherwise there is an SPP
// misconfiguration.
func (v SubPageVector) Valid() bool { return v&^evenBits == 0 }

// Writable reports whether all bytes of an access can be written. It begins at a
// guest-physical address in the page and must end in the same page; how one across two
// pages is treated depends on the processor.
func (v SubPageVector) Writable(gpa uint64, size int) bool {
	offset := int(gpa & 0xfff)
	if size <= 0 || size > 4096-offset {
		return false
	}
	for s := offset / SubPageSize; s <= (offset+size-1)/SubPageSize; s++ {
		if v>>(2*s)&1 == 0 {
			return false
		}
	}
	return true
}

// String lists the sub-pages that can be written: "0-3 31", "all" or "none". A vector
// with reserved bits is printed as a number.
func (v SubPageVector) String() string {
	switch {
	case !v.Valid():
		return fmt.Sprintf("SubPageVector(%#x)", uint64(v))
	case v == 0:
		return "none"
	case v == evenBits:
		return "all"
	}
	var words []string
	mask := uint64(v.Mask())
	for first := 0; mask>>first != 0; {
		first += bits.TrailingZeros64(mask >> first)
		n := bits.TrailingZeros64(^(mask >> first))
		word := strconv.Itoa(first)
		if n > 1 {
			word += "-" + strconv.Itoa(first+n-1)
		}
		words = append(words, word)
		first += n
	}
	return strings.Join(words, " ")
}

// ParseSubPageVector reads what String prints.
func ParseSubPageVector(s string) (SubPageVector, error) {
	switch s = strings.TrimSpace(s); s {
	case "none":
		return 0, nil
	case "all":
		return evenBits, nil
	}
	bad := fmt.Errorf("ept: %q are no sub-pages: want \"all\", \"none\" or numbers from 0 to 31 such as \"0-3 31\"", s)
	if n, ok := strings.CutPrefix(s, "SubPageVector("); ok {
		v, err := strconv.ParseUint(strings.TrimSuffix(n, ")"), 0, 64)
		if err != nil {
			return 0, bad
		}
		return SubPageVector(v), nil
	}
	mask := uint32(0)
	for word := range strings.FieldsSeq(s) {
		a, b, isRange := strings.Cut(word, "-")
		if !isRange {
			b = a
		}
		first, err1 := strconv.ParseUint(a, 10, 8)
		last, err2 := strconv.ParseUint(b, 10, 8)
		if err1 != nil || err2 != nil || first > last || last >= SubPageCount {
			return 0, bad
		}
		mask |= uint32((uint64(2)<<last - 1) &^ (uint64(1)<<first - 1))
	}
	if mask == 0 {
		return 0, bad
	}
	return SubPages(mask), nil
}

// MarshalText returns what String does.
func (v SubPageVector) MarshalText() ([]byte, error) { return []byte(v.String()), nil }

// UnmarshalText is [ParseSubPageVector].
func (v *SubPageVector) UnmarshalText(text []byte) (err error) {
	*v, err = ParseSubPageVector(string(text))
	return err
}

// A SubPageResult is how the processor's search for a sub-page vector ends
// (SDM Vol. 3C 29.3.4.2).
type SubPageResult uint8

// Results of a search. All but SubPageFound are VM exits with reason 66.
const (
	SubPageFound            SubPageResult = iota // there is a vector
	SubPageMiss                                  // an entry on the way is not valid
	SubPageMisconfiguration                      // an entry, or the vector, has reserved bits that are 1
)

var subPageNames = [...]string{"found", "SPP miss", "SPP misconfiguration"}

// String returns the manual's name of the event, or "found".
func (r SubPageResult) String() string {
	if int(r) >= len(subPageNames) {
		return fmt.Sprintf("SubPageResult(%d)", uint8(r))
	}
	return subPageNames[r]
}

// Qualification returns the exit qualification of the event: bit 11 tells a miss from a
// misconfiguration.
func (r SubPageResult) Qualification() vmexit.SPPQualification {
	if r == SubPageMiss {
		return 1 << 11
	}
	return 0
}

// An SPPL4E, SPPL3E or SPPL2E has the physical address of a table in bits 51:12, and a
// valid bit; all other bits are reserved.
const sppValid = 1 << 0

// sppReserved are the reserved bits of an entry that references a table.
func sppReserved(physicalBits uint8) uint64 {
	return ^(uint64(addressMask)&(1<<min(physicalBits, 52)-1) | sppValid)
}

// sppTables is the number of levels: SPPL4 to SPPL2 reference tables, SPPL1 has vectors.
const sppTables = 4

// LookupSubPage finds the vector for the page of a guest-physical address, of which bits
// 47:12 count, as the processor does: in the sub-page permission table at pointer, the
// field [vmcs.SubPagePermissionTable]. The tables can have any contents. The error is that
// of the memory.
func LookupSubPage(memory vmcs.Memory, pointer, gpa uint64, physicalBits uint8) (SubPageVector, SubPageResult, error) {
	table := pointer & uint64(addressMask)
	for l := Level(sppTables); l > 1; l-- {
		e, err := memory.ReadPhysical(table + 8*uint64(l.Index(gpa)))
		if err != nil {
			return 0, SubPageMiss, fmt.Errorf("ept: entry %d of the SPPL%d table at %#x: %w", l.Index(gpa), l, table, err)
		}
		if e&sppValid == 0 {
			return 0, SubPageMiss, nil
		}
		if e&sppReserved(physicalBits) != 0 {
			return 0, SubPageMisconfiguration, nil
		}
		table = e & uint64(addressMask)
	}
	v, err := memory.ReadPhysical(table + 8*uint64(PTE.Index(gpa)))
	if err != nil {
		return 0, SubPageMiss, fmt.Errorf("ept: vector %d of the SPPL1 table at %#x: %w", PTE.Index(gpa), table, err)
	}
	if !SubPageVector(v).Valid() {
		return 0, SubPageMisconfiguration, nil
	}
	return SubPageVector(v), SubPageFound, nil
}

// A SubPageTable builds a sub-page permission table, for the field
// [vmcs.SubPagePermissionTable]. Processors can use it while it changes; calls that
// change it are serialized by the caller. It counts for pages of 4 KiB whose EPT entry has
// [SubPageWrite], with the control "sub-page write permissions for EPT".
type SubPageTable struct {
	pages        Pages
	root         uint64
	physicalBits uint8
}

// NewSubPageTable returns an empty table: each page is an SPP miss. physicalBits is
// MAXPHYADDR.
func NewSubPageTable(pages Pages, physicalBits uint8) (*SubPageTable, error) {
	s := &SubPageTable{pages: pages, physicalBits: physicalBits}
	root, err := s.alloc()
	s.root = root
	if err != nil {
		return nil, err
	}
	return s, nil
}

// alloc returns an empty table.
func (s *SubPageTable) alloc() (uint64, error) {
	phys, err := s.pages.AllocPage()
	if err != nil {
		return 0, fmt.Errorf("ept: a table of sub-page permissions: %w", err)
	}
	if phys&sppReserved(s.physicalBits) != 0 || phys&sppValid != 0 {
		s.pages.FreePage(phys)
		return 0, fmt.Errorf("ept: AllocPage gave the address %#x: pages are at multiples of 4096 below 2^%d", phys, s.physicalBits)
	}
	clear(s.pages.Page(phys)[:])
	return phys, nil
}

// Pointer returns the physical address of the root table, for the VMCS.
func (s *SubPageTable) Pointer() uint64 { return s.root }

// slot is the entry for an address in a table, as the processor sees it.
func (s *SubPageTable) slot(table uint64, l Level, gpa uint64) *uint64 {
	return (*uint64)(&s.pages.Page(table)[l.Index(gpa)])
}

// find returns the slot of the vector, or else the level whose entry is not valid, and
// its table.
func (s *SubPageTable) find(gpa uint64) (slot *uint64, missing Level, table uint64) {
	table = s.root
	for l := Level(sppTables); l > 1; l-- {
		e := atomic.LoadUint64(s.slot(table, l, gpa))
		if e&sppValid == 0 {
			return nil, l, table
		}
		table = e & uint64(addressMask)
	}
	return s.slot(table, PTE, gpa), 0, 0
}

// Set gives the page of a guest-physical address below 2⁴⁸ a vector. It returns what must
// be invalidated on processors that use the table: they cache vectors with translations
// (SDM Vol. 3C 29.4.1). If there are no pages for tables nothing has changed.
func (s *SubPageTable) Set(gpa uint64, v SubPageVector) (Invalidation, error) {
	switch {
	case gpa >= 1<<48:
		return NoInvalidation, fmt.Errorf("ept: sub-page permissions are for guest-physical addresses below 2^48, not %#x", gpa)
	case !v.Valid():
		return NoInvalidation, fmt.Errorf("ept: the odd bits of a sub-page vector are reserved: %#x; SubPages makes vectors", uint64(v))
	}
	slot, missing, table := s.find(gpa)
	if slot != nil {
		if old := atomic.SwapUint64(slot, uint64(v)); old == uint64(v) {
			return NoInvalidation, nil
		}
		return SingleContext, nil
	}
	// Where an entry is not valid the processor exits, and has nothing to cache. Tables
	// are linked bottom up: the last store, to a table that is in use, shows them all.
	var fresh [sppTables]uint64 // by the level of the entry that references them
	for l := missing; l > 1; l-- {
		phys, err := s.alloc()
		if err != nil {
			for _, p := range fresh {
				if p != 0 {
					s.pages.FreePage(p)
				}
			}
			return NoInvalidation, err
		}
		fresh[l-1] = phys
	}
	*s.slot(fresh[1], PTE, gpa) = uint64(v)
	for l := Level(3); l <= missing; l++ {
		*s.slot(fresh[l-1], l-1, gpa) = fresh[l-2] | sppValid
	}
	atomic.StoreUint64(s.slot(table, missing, gpa), fresh[missing-1]|sppValid)
	return NoInvalidation, nil
}

// Get returns the vector for the page of a guest-physical address below 2⁴⁸. ok is false
// if there is none, which is an SPP miss.
func (s *SubPageTable) Get(gpa uint64) (v SubPageVector, ok bool) {
	if gpa >= 1<<48 {
		return 0, false
	}
	slot, _, _ := s.find(gpa)
	if slot == nil {
		return 0, false
	}
	return SubPageVector(atomic.LoadUint64(slot)), true
}

// All yields the pages that have a vector other than 0, by their guest-physical
// address, from low to high ones.
func (s *SubPageTable) All() iter.Seq2[uint64, SubPageVector] {
	return func(yield func(uint64, SubPageVector) bool) { s.walk(s.root, sppTables, 0, yield) }
}

func (s *SubPageTable) walk(table uint64, l Level, gpa uint64, yield func(uint64, SubPageVector) bool) bool {
	for i := range s.pages.Page(table) {
		at := gpa + uint64(i)<<l.Shift()
		e := atomic.LoadUint64(s.slot(table, l, at))
		switch {
		case l == PTE:
			if e != 0 && !yield(at, SubPageVector(e)) {
				return false
			}
		case e&sppValid != 0:
			if !s.walk(e&uint64(addressMask), l-1, at, yield) {
				return false
			}
		}
	}
	return true
}

// Close gives all tables back. No processor may use them any more.
func (s *SubPageTable) Close() {
	s.free(s.root, sppTables)
	s.root = 0
}

func (s *SubPageTable) free(table uint64, l Level) {
	if l > 1 {
		for _, e := range s.pages.Page(table) {
			if e&sppValid != 0 {
				s.free(uint64(e&addressMask), l-1)
			}
		}
	}
	s.pages.FreePage(table)
}
