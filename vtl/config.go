package vtl

import (
	"errors"
	"fmt"
	"slices"

	"github.com/govtx/vtx/hypercall"
)

// A VTL is a level, 0 to 15.
type VTL = hypercall.VTL

// Bounds.
const (
	MaxProcessors = 4096    // processors of a partition: as many as HV_VP_SET can name
	maxPage       = 1 << 40 // page numbers have fewer than 40 bits: addresses have 52

	minPhysicalBits = 32
	maxPhysicalBits = 52

	// DefaultProtectionMemory is how many bytes a partition's protections may take
	// unless Config says otherwise.
	DefaultProtectionMemory = 16 << 20
)

// A Range is a range of guest-physical pages: of addresses from Page*4096 on.
type Range struct {
	Page  uint64 // number of the first page
	Pages uint64 // how many
}

// End returns the number of the first page behind the range.
func (r Range) End() uint64 { return r.Page + r.Pages }

// Contains reports whether a page is in the range.
func (r Range) Contains(page uint64) bool { return page-r.Page < r.Pages }

// String returns the pages in hexadecimal: "0x100-0x1ff".
func (r Range) String() string {
	if r.Pages == 0 {
		return "none"
	}
	return fmt.Sprintf("0x%x-0x%x", r.Page, r.End()-1)
}

// A Config says what a partition is like. It stays as it is.
type Config struct {
	// Processors is how many virtual processors there are, 1 to MaxProcessors. The first
	// one, number 0, runs; the others wait to be started.
	Processors int

	// MaximumVTL is the highest level that the guest may enable. With 0 there is no VSM.
	MaximumVTL VTL

	// Profile says whom to follow where sources disagree.
	Profile Profile

	// Capabilities is the register HvRegisterVsmCapabilities. Of its features,
	// Dr6Shared, MbecVtlMask and DenyLowerVtlStartup can be offered.
	Capabilities hypercall.VsmCapabilities

	// CodePageOffsets is the register HvRegisterVsmCodePageOffsets, of all levels.
	CodePageOffsets hypercall.VsmCodePageOffsets

	// PhysicalBits is how many bits the partition's physical addresses have: what CPUID
	// tells the guest in leaf 0x80000008. An assist page beyond is refused, and RAM is
	// not there. 32 to 52; 0 is 52.
	PhysicalBits uint8

	// PartitionID is the partition's own number, by which it can name itself besides
	// hypercall.PartitionSelf; 0 if it has none.
	PartitionID uint64

	// RAM is the memory that levels can protect: ranges in ascending order that neither
	// overlap nor are empty.
	RAM []Range

	// APICIDs has the APIC ID of each processor; if nil, they are numbered from 0.
	APICIDs []uint32

	// ProtectionMemory bounds the bytes that protections may take, as guests can ask for
	// a different one for each page. A call that would need more is answered with
	// INSUFFICIENT_MEMORY. 0 is DefaultProtectionMemory.
	ProtectionMemory int

	// Registers holds the registers that the core does not; nil for a
	// [RegisterFile] of the partition's own.
	Registers Registers

	// Translator translates linear addresses; if nil, all are their own translation, as
	// without paging.
	Translator Translator
}

// Registers is where the private registers of levels are that the core has no use for:
// with the embedder, in its VMCSs. The core asks for them once the caller has been found
// to have the right to.
//
// Names are those of HvCallGetVpRegisters. A name that there is none
// for is answered with StatusInvalidParameter, a value that the register cannot have with
// StatusInvalidRegisterValue; the register is unchanged then.
type Registers interface {
	Register(vp uint32, level VTL, name hypercall.Register) (Value, hypercall.Status)
	SetRegister(vp uint32, level VTL, name hypercall.Register, v Value) hypercall.Status
}

// A Translator translates linear addresses as a level of a processor would, by its
// control registers and page tables, with that level's rights to memory.
type Translator interface {
	// Translate takes the number of a linear page and the control flags of the call,
	// whose input VTL does not count. A linear address without translation is no error:
	// that is in the Code.
	Translate(vp uint32, level VTL, page uint64, flags hypercall.TranslateFlags) Translation
}

// A Translation is what a Translator says.
type Translation struct {
	Code      hypercall.TranslateResultCode
	CacheType hypercall.CacheType
	Page      uint64 // number of the guest-physical page; 0 unless Code is success
	Overlay   bool   // the page is an overlay page
}

// check returns what is wrong with a Config.
func (c *Config) check() error {
	var errs []error
	bad := func(format string, v ...any) { errs = append(errs, fmt.Errorf("vtl: "+format, v...)) }
	if c.Processors < 1 || c.Processors > MaxProcessors {
		bad("Processors is %d: a partition has 1 to %d", c.Processors, MaxProcessors)
	}
	if !c.MaximumVTL.Valid() {
		bad("MaximumVTL is %d: levels are 0 to 15", c.MaximumVTL)
	}
	if c.Profile >= numProfiles {
		bad("there is no Profile(%d): use TLFS, OpenVMM or KVM", c.Profile)
	}
	if rest := c.Capabilities &^ offered; rest != 0 {
		bad("Capabilities has %v, which cannot be offered: leave it out", rest)
	}
	if m := c.Capabilities.MbecVtlMask() &^ upTo(c.MaximumVTL); c.MaximumVTL.Valid() && m != 0 {
		bad("MbecVtlMask of Capabilities has bits 0x%x above MaximumVTL %d: clear them", m, c.MaximumVTL)
	}
	width := c.PhysicalBits
	if width == 0 {
		width = maxPhysicalBits
	}
	if width < minPhysicalBits || width > maxPhysicalBits {
		bad("PhysicalBits is %d: physical addresses have %d to %d bits, and 0 stands for %d", width, minPhysicalBits, maxPhysicalBits, maxPhysicalBits)
		width = maxPhysicalBits
	}
	pages := uint64(1) << (width - pageShift)
	for i, r := range c.RAM {
		switch {
		case r.Pages == 0:
			bad("RAM range %d is empty: leave it out", i)
		case r.Page >= pages || r.Pages > pages-r.Page:
			bad("RAM range %d, 0x%x pages from 0x%x, passes page 0x%x: physical addresses have %d bits", i, r.Pages, r.Page, pages, width)
		case i > 0 && r.Page < c.RAM[i-1].End():
			bad("RAM range %d, %v, starts before the one before it ends: sort ranges, and join those that overlap", i, r)
		}
	}
	if c.APICIDs != nil && len(c.APICIDs) != c.Processors {
		bad("there are %d APICIDs for %d processors: give one for each", len(c.APICIDs), c.Processors)
	}
	ids := slices.Sorted(slices.Values(c.APICIDs))
	for i := range ids {
		if i > 0 && ids[i] == ids[i-1] {
			bad("two processors have APIC ID 0x%x: give each its own", ids[i])
		}
	}
	if c.ProtectionMemory < 0 {
		bad("ProtectionMemory is %d bytes: use 0 for the default, or a positive number", c.ProtectionMemory)
	}
	return errors.Join(errs...)
}

// offered are the capabilities that the core carries out: bits 0, 16:1 and 17.
const offered = hypercall.VsmCapabilitiesDr6Shared | 0xffff<<1 | hypercall.VsmCapabilitiesDenyLowerVtlStartup

// upTo is the set of the levels from 0 to v.
func upTo(v VTL) uint16 { return ^above(v) }

// below is the set of the levels lower than v.
func below(v VTL) uint16 { return bit(v) - 1 }

// above is the set of the levels higher than v.
func above(v VTL) uint16 { return 0xfffe << (v & 0xf) }

func bit(v VTL) uint16 { return 1 << (v & 0xf) }
