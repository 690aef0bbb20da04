package hypercall

import "fmt"

// FlushFlags say what a flush is of (TLFS HvCallFlushVirtualAddressSpace.md). The TLFS has
// bits 2:0; Linux and OpenVMM have [FlushUseExtendedRangeFormat], which CPUID leaf
// 0x40000003 offers (EDX bit 14), and OpenVMM has flags for levels.
//
//vtx:bits Flush
type FlushFlags uint64

// A FlushVirtualAddressInput is the input of HvCallFlushVirtualAddressSpace and the header
// of HvCallFlushVirtualAddressList, whose elements are [GvaRange] (TLFS, pages of those
// names).
//
//vtx:layout
type FlushVirtualAddressInput struct {
	AddressSpace  uint64 // CR3
	Flags         FlushFlags
	ProcessorMask uint64 // bit n: processor n
}

// A FlushVirtualAddressExInput is the header of HvCallFlushVirtualAddressSpaceEx and
// HvCallFlushVirtualAddressListEx, without the contents of the processor set's banks.
// They follow as the variable header; [VpSet.GetBanks] reads them.
//
//vtx:layout
type FlushVirtualAddressExInput struct {
	AddressSpace   uint64 // CR3
	Flags          FlushFlags
	SetFormat      VpSetFormat
	ValidBanksMask uint64
}

// A GvaRange is a range of guest-virtual pages (TLFS HvCallFlushVirtualAddressList.md).
//
//	 63                             12 11          0
//	┌─────────────────────────────────┬─────────────┐
//	│           page number           │ more pages  │
//	└─────────────────────────────────┴─────────────┘
//
// With [FlushUseExtendedRangeFormat], which is not in the TLFS, bit 11 tells of large
// pages, see Extended:
//
//	 63               21 20   13  12   11  10        0
//	┌───────────────────┬───────┬────┬────┬───────────┐
//	│ large page number │   0   │1 GB│ 1  │more pages │
//	└───────────────────┴───────┴────┴────┴───────────┘
type GvaRange uint64

// MakeGvaRange returns the range of pages, 1 to 4096 of 4 KB, that begins at a
// guest-virtual address, whose low 12 bits do not count.
func MakeGvaRange(address uint64, pages int) (GvaRange, error) {
	if pages < 1 || pages > 4096 {
		return 0, fmt.Errorf("hypercall: a range of guest-virtual addresses cannot have %d pages: it has 1 to 4096; give several ranges", pages)
	}
	return GvaRange(address&^0xfff | uint64(pages-1)), nil
}

// Address returns the guest-virtual address of the first page.
func (r GvaRange) Address() uint64 { return uint64(r) &^ 0xfff }

// Pages returns the number of pages, 1 to 4096, of 4 KB.
func (r GvaRange) Pages() int { return int(r&0xfff) + 1 }

// Extended returns the range in the extended format: the address of the first page, the
// number of pages, 1 to 2048, and their size in bytes: 4 KB, 2 MB or 1 GB. It reports
// false if a reserved bit is set.
//
// The address of a range of 1 GB pages is in units of 2 MB all the same; bits below its
// page do not count.
func (r GvaRange) Extended() (address uint64, pages int, size uint64, ok bool) {
	pages = int(r&0x7ff) + 1
	if r&(1<<11) == 0 {
		return r.Address(), pages, 1 << 12, true
	}
	size = 1 << 21
	if r&(1<<12) != 0 {
		size = 1 << 30
	}
	return uint64(r) &^ (1<<21 - 1) &^ (size - 1), pages, size, r>>13&0xff == 0
}

// String tells the first address and the number of pages.
func (r GvaRange) String() string { return fmt.Sprintf("%#x, %d pages", r.Address(), r.Pages()) }
