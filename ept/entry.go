package ept

// An Entry is an entry of an EPT paging structure of any level (SDM Vol. 3C 29.3.2,
// tables 29-1 to 29-7). What a bit means depends on the level, on whether the entry
// maps a page, and on the controls: see [Mode].
//
//	 63  62  61  60  59  58  57 56   52 51     12 11  10  9  8  7  6  5  3  2  1  0
//	┌───┬───┬───┬───┬───┬───┬───┬──────┬─────────┬───┬───┬──┬──┬──┬──┬────┬──┬──┬──┐
//	│SVE│ - │SPP│SSS│ - │PW │VGP│  -   │ address │ - │XU │ D│ A│ L│IP│type│ X│ W│ R│  maps a page
//	├───┴───┴───┴───┴───┴───┴───┴──────┼─────────┼───┼───┼──┼──┼──┼──┴────┼──┼──┼──┤
//	│                -                 │ address │ - │XU │ -│ A│ 0│   0   │ X│ W│ R│  references a table
//	├───┬──────────────────────────────┴─────────┴───┼───┼──┴──┴──┴───────┼──┼──┼──┤
//	│SVE│                     -                      │ 0 │       -        │ 0│ 0│ 0│  not present
//	└───┴────────────────────────────────────────────┴───┴────────────────┴──┴──┴──┘
//
// Bits with "-" are ignored by the processor. L is 1 in PDPTEs and PDEs that map a
// page, and ignored in PTEs. XU counts with mode-based execute control only. Address
// bits at and above MAXPHYADDR are reserved, and so are those below the size of the
// page.
type Entry uint64

// Bits of an Entry.
const (
	Read                  Entry = 1 << 0  // data can be read
	Write                 Entry = 1 << 1  // data can be written
	Execute               Entry = 1 << 2  // code can be fetched; with mode-based execute control, from supervisor-mode linear addresses
	IgnorePAT             Entry = 1 << 6  // the guest's PAT does not count for the memory type
	Large                 Entry = 1 << 7  // the PDE or PDPTE maps a page
	Accessed              Entry = 1 << 8  // the processor has used the entry; if EPTP[6] is 1
	Dirty                 Entry = 1 << 9  // the page has been written; if EPTP[6] is 1
	ExecuteUser           Entry = 1 << 10 // code can be fetched from user-mode linear addresses, with mode-based execute control
	Software11            Entry = 1 << 11 // ignored by the processor
	VerifyGuestPaging     Entry = 1 << 57 // paging structures on the way to the page must have PagingWrite, with guest-paging verification
	PagingWrite           Entry = 1 << 58 // the processor can set accessed and dirty flags in the guest's paging structures here, with EPT paging-write control
	Software59            Entry = 1 << 59 // ignored by the processor
	SupervisorShadowStack Entry = 1 << 60 // supervisor shadow-stack accesses are allowed; if EPTP[7] is 1
	SubPageWrite          Entry = 1 << 61 // the sub-page permission table can allow writes, with sub-page write permissions; PTEs only
	Software62            Entry = 1 << 62 // ignored by the processor
	SuppressVE            Entry = 1 << 63 // EPT violations exit and do not become #VE, with EPT-violation #VE

	ReadWrite   = Read | Write
	ReadExecute = Read | Execute
	All         = Read | Write | Execute // supervisor mode only with mode-based execute control: see ExecuteUser
)

// Fields of an Entry.
const (
	addressMask    Entry = 0x000f_ffff_ffff_f000 // bits 51:12
	memoryTypeMask Entry = 7 << memoryTypeShift
	bookkeeping    Entry = 31 << 52 // ignored by the processor in every entry

	memoryTypeShift = 3
)

// Leaf reports whether the entry maps a page, if it is one of the given level and
// present: PTEs do, PDEs and PDPTEs if bit 7 is 1.
func (e Entry) Leaf(l Level) bool { return l == PTE || e&Large != 0 && l <= PDPTE }

// Address returns the physical address in the entry: that of the page if it maps one,
// else that of the table. Reserved bits below the page's size are left out, those at
// and above MAXPHYADDR are not.
func (e Entry) Address(l Level) uint64 {
	if e.Leaf(l) {
		return uint64(e&addressMask) &^ (l.PageSize() - 1)
	}
	return uint64(e & addressMask)
}

// MemoryType returns the EPT memory type, bits 5:3. It has a meaning if the entry maps
// a page.
func (e Entry) MemoryType() MemoryType { return MemoryType(e >> memoryTypeShift & 7) }

// Present reports whether the entry is present: if it allows any access
// (SDM Vol. 3C 29.3.2). Fetches of user-mode addresses count with mode-based execute
// control only.
func (e Entry) Present(m *Mode) bool { return e&m.presentMask() != 0 }
