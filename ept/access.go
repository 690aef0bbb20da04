package ept

import (
	"strings"

	"github.com/govtx/vtx/vmexit"
)

// An Access is what is done with a guest-physical address, and on whose behalf. Its bits
// are where the exit qualification of an EPT violation has them
// (SDM Vol. 3C table 28-7).
//
//	 16  15 14  13  12 11  10  9  8  7  6       3  2  1  0
//	┌───┬──┬───┬───┬──┬──┬───┬──┬──┬──┬───────────┬──┬──┬──┐
//	│asy│GV│ - │SS │N │XD│R/W│US│tr│la│     -     │ f│ w│ r│
//	└───┴──┴───┴───┴──┴──┴───┴──┴──┴──┴───────────┴──┴──┴──┘
//
// A read-modify-write is AccessWrite; processors differ in whether its violations have
// bit 0 too. Without any of AccessRead, AccessWrite and AccessFetch an access asks for
// no right: it finds the address wherever there is one.
//
// Which of AccessLinear and AccessTranslation are set says what the address is:
//
//	both          what a linear address translates to
//	AccessLinear  an entry of the guest's paging structures, on the way there
//	neither       an address that no linear address is behind: PDPTEs loaded by
//	              MOV to CR3, or data of the processor's own
type Access uint32

// Bits of an Access.
const (
	AccessRead  = Access(vmexit.EPTRead)  // a data read
	AccessWrite = Access(vmexit.EPTWrite) // a data write
	AccessFetch = Access(vmexit.EPTFetch) // an instruction fetch

	AccessLinear      = Access(vmexit.EPTLinearAddress) // a linear address is behind it
	AccessTranslation = Access(vmexit.EPTTranslation)   // it is what the linear address translates to

	// What the guest's paging says of the linear address. Without paging, all linear
	// addresses are user-mode ones that can be written and executed.
	AccessUser           = Access(vmexit.EPTUserAddress)    // a user-mode address: U/S is 1 in all entries
	AccessWritable       = Access(vmexit.EPTWritablePage)   // R/W is 1 in all entries
	AccessExecuteDisable = Access(vmexit.EPTExecuteDisable) // XD is 1 in an entry, and means something

	AccessNMIUnblocking = Access(vmexit.EPTNMIUnblocking) // by an IRET that has ended the blocking of NMIs
	AccessShadowStack   = Access(vmexit.EPTShadowStack)   // of a shadow stack; without AccessUser, of a supervisor's

	// AccessUnverified says that an entry of the guest's paging structures, on the way
	// to the address, lies in a page without PagingWrite: guest-paging verification
	// fails if the page asks for it.
	AccessUnverified = Access(vmexit.EPTPagingVerification)

	AccessAsynchronous = Access(vmexit.EPTAsynchronous) // neither by an instruction nor during event delivery
)

// Common accesses through a linear address: by an instruction in supervisor mode, to
// pages of full rights; and to an entry of the guest's paging structures.
const (
	LinearRead  = AccessRead | AccessLinear | AccessTranslation | AccessWritable
	LinearWrite = AccessWrite | AccessLinear | AccessTranslation | AccessWritable
	LinearFetch = AccessFetch | AccessLinear | AccessTranslation | AccessWritable
	PageWalk    = AccessRead | AccessLinear
)

// pageWalk reports whether the access is to an entry of the guest's paging structures,
// on the way of a linear address.
func (a Access) pageWalk() bool {
	return a&(AccessLinear|AccessTranslation) == AccessLinear
}

// String names the access and what else is set: "write, page walk".
func (a Access) String() string {
	var s []string
	for _, b := range [...]struct {
		bit  Access
		name string
	}{{AccessRead, "read"}, {AccessWrite, "write"}, {AccessFetch, "fetch"}} {
		if a&b.bit != 0 {
			s = append(s, b.name)
		}
	}
	if len(s) == 0 {
		s = []string{"no access"}
	}
	t := strings.Join(s, " and ")
	switch {
	case a.pageWalk():
		t += ", page walk"
	case a&AccessLinear == 0:
		t += ", no linear address"
	}
	for _, b := range [...]struct {
		bit  Access
		name string
	}{
		{AccessUser, "user-mode address"}, {AccessExecuteDisable, "execute-disable page"}, {AccessNMIUnblocking, "NMI unblocking"},
		{AccessShadowStack, "shadow stack"}, {AccessUnverified, "unverified paging"}, {AccessAsynchronous, "asynchronous"},
	} {
		if a&b.bit != 0 {
			t += ", " + b.name
		}
	}
	return t
}
