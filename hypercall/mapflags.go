package hypercall

// MapFlags are rights to pages of guest-physical memory, and how they are mapped (TLFS
// hv_map_gpa_flags.md). A protection mask of a level has the low four bits, [MapAccess].
//
//	 31  28:24 21 20  17:16   15   6    4    3   2   1   0
//	┌───┬─────┬──┬──┬───────┬────┬────────┬───┬───┬───┬───┐
//	│lrg│ A/D │NC│NO│special│adj.│ paging │ UX│ KX│ W │ R │
//	└───┴─────┴──┴──┴───────┴────┴────────┴───┴───┴───┴───┘
//
// Bits 6:4 and 15 are not in the TLFS; OpenVMM has them, and Linux the last.
//
//vtx:bits Map
type MapFlags uint32

// Rights that go together.
const (
	MapNone    MapFlags = 0                                       // no access
	MapExecute          = MapKernelExecutable | MapUserExecutable // fetches in both modes
	MapAccess           = MapReadable | MapWritable | MapExecute  // all rights, and the bits that a protection mask can have

	// Values of SpecialPage, in their place.
	MapSpecialNoAccess MapFlags = 1 << 16
	MapSpecialZeroed   MapFlags = 2 << 16
	MapSpecialOnes     MapFlags = 3 << 16
)

// Access returns the rights alone.
func (v MapFlags) Access() MapFlags { return v & MapAccess }

// Rights returns the rights as four characters: R, W, K for fetches in supervisor mode,
// U for those in user mode, and - in the place of each that is not there.
func (v MapFlags) Rights() string {
	b := [4]byte{'R', 'W', 'K', 'U'}
	for i := range b {
		if v>>i&1 == 0 {
			b[i] = '-'
		}
	}
	return string(b[:])
}
