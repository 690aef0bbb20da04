package vmcs

import (
	"encoding/binary"
	"fmt"
	"iter"
	"strings"
	"sync/atomic"
	"unsafe"
)

// A PMLBuffer is the page at [PMLAddress]: the page-modification log of 512
// guest-physical addresses (SDM Vol. 3C 25.6.19, 29.3.6). It counts if the control
// [SecondaryEnablePML] is 1.
//
// The processor fills it from the end: an access that sets a dirty flag of EPT
// writes the address of its page, bits 11:0 clear, to the entry that [PMLIndex]
// names, and takes one from the index; from entry 0 that goes to 0xffff. With an
// index above 511, an access that has to set an accessed or dirty flag causes a VM
// exit instead.
type PMLBuffer [4096]byte

const (
	// PMLEntries is the number of entries in the log.
	PMLEntries = 512

	// PMLStart is the index of an empty log.
	PMLStart = PMLEntries - 1
)

// PMLBufferOf returns the log that a page of 4096 bytes holds, in place.
func PMLBufferOf(mem []byte) (*PMLBuffer, error) {
	p, err := pageOf("the page-modification log", mem)
	return (*PMLBuffer)(p), err
}

// PMLFull reports whether the next write that would be logged causes a VM exit.
func PMLFull(index uint16) bool { return index >= PMLEntries }

// PMLLen returns the number of addresses in a log that began at [PMLStart] and has
// come to index. The processor leaves no index from 512 to 0xfffe behind; it counts
// as empty.
func PMLLen(index uint16) int {
	if PMLFull(index) && index != 0xffff {
		return 0
	}
	return int(PMLStart - index)
}

// At returns entry i, which must be below 512.
func (p *PMLBuffer) At(i int) uint64 { return binary.LittleEndian.Uint64(p[8*i:]) }

// All yields the logged addresses in the order in which they came, the oldest
// first, of a log that has come to index.
func (p *PMLBuffer) All(index uint16) iter.Seq[uint64] {
	return func(yield func(uint64) bool) {
		for i := range PMLLen(index) {
			if !yield(p.At(PMLStart - i)) {
				return
			}
		}
	}
}

// Log does what the processor does to log a guest-physical address. It returns
// the new index, or reports false if the log is full and there is a VM exit.
func (p *PMLBuffer) Log(index uint16, addr uint64) (next uint16, ok bool) {
	if PMLFull(index) {
		return index, false
	}
	binary.LittleEndian.PutUint64(p[8*int(index):], addr&^0xfff)
	return index - 1, true
}

// An EPTPList is the page at [EPTPListAddress]: the 512 EPT pointers among which a
// guest chooses by VMFUNC with EAX 0 (SDM Vol. 3C 25.6.14, 26.5.6.3), if the
// control [VMFuncEPTPSwitching] is 1.
type EPTPList [4096]byte

// EPTPListEntries is the number of entries in the list.
const EPTPListEntries = 512

// EPTPListOf returns the list that a page of 4096 bytes holds, in place.
func EPTPListOf(mem []byte) (*EPTPList, error) {
	p, err := pageOf("the EPTP list", mem)
	return (*EPTPList)(p), err
}

// At returns entry i, the guest's ECX. It reports false if there is none: VMFUNC
// then causes a VM exit. It also does if the entry is no valid EPTP, such as 0.
func (l *EPTPList) At(i uint32) (eptp uint64, ok bool) {
	if i >= EPTPListEntries {
		return 0, false
	}
	return binary.LittleEndian.Uint64(l[8*i:]), true
}

// Set sets entry i. 0 is no valid EPTP, and so takes the entry away.
func (l *EPTPList) Set(i uint32, eptp uint64) error {
	if i >= EPTPListEntries {
		return fmt.Errorf("vmcs: the EPTP list has no entry %d: it has 0 to %d", i, EPTPListEntries-1)
	}
	binary.LittleEndian.PutUint64(l[8*i:], eptp)
	return nil
}

// All yields the entries that are not 0, with their numbers.
func (l *EPTPList) All() iter.Seq2[uint32, uint64] {
	return func(yield func(uint32, uint64) bool) {
		for i := range uint32(EPTPListEntries) {
			if eptp, _ := l.At(i); eptp != 0 && !yield(i, eptp) {
				return
			}
		}
	}
}

// String lists the entries that are not 0, one a line.
func (l *EPTPList) String() string {
	var b strings.Builder
	for i, eptp := range l.All() {
		fmt.Fprintf(&b, "%d: 0x%x\n", i, eptp)
	}
	return b.String()
}

// A VEArea is the page at [VirtualizationExceptionAddress], the
// virtualization-exception information area: there the processor tells a guest
// about an EPT violation that it turns into a #VE, without a VM exit (SDM Vol. 3C
// 25.6.20, 26.5.7.2), if the control [SecondaryEPTViolationVE] is 1.
//
//	byte  bits
//	0     32    the exit reason that there would have been: 48, EPT violation
//	4     32    busy: all ones
//	8     64    exit qualification
//	16    64    guest-linear address
//	24    64    guest-physical address
//	32    16    EPTP index
//
// While busy is not 0 EPT violations exit; the guest's handler writes 0 there.
type VEArea [4096]byte

const (
	veReason        = 0
	veBusy          = 4
	veQualification = 8
	veLinear        = 16
	vePhysical      = 24
	veEPTPIndex     = 32
)

// A VEInfo is what the area says of one virtualization exception.
type VEInfo struct {
	Reason          uint32 // basic exit reason
	Qualification   uint64 // as the exit qualification of an EPT violation
	LinearAddress   uint64
	PhysicalAddress uint64 // guest-physical
	EPTPIndex       uint16
}

// VEAreaOf returns the area that a page of 4096 bytes holds, in place. It must lie
// at a multiple of 4, as the word at byte 4 is shared with the guest.
func VEAreaOf(mem []byte) (*VEArea, error) {
	const what = "the virtualization-exception information area"
	p, err := pageOf(what, mem)
	if err == nil && !aligned(mem, 4) {
		return nil, fmt.Errorf("vmcs: %s does not lie at a multiple of 4", what)
	}
	return (*VEArea)(p), err
}

// busy is the word at byte 4. Any value but 0 counts as busy, so that the order
// of its bytes does not matter.
func (a *VEArea) busy() *uint32 { return (*uint32)(unsafe.Pointer(&a[veBusy])) }

// Busy reports whether EPT violations exit, since the last virtualization
// exception has not been handled.
func (a *VEArea) Busy() bool { return atomic.LoadUint32(a.busy()) != 0 }

// Release allows the next virtualization exception.
func (a *VEArea) Release() { atomic.StoreUint32(a.busy(), 0) }

// Hold makes EPT violations exit until Release.
func (a *VEArea) Hold() { atomic.StoreUint32(a.busy(), ^uint32(0)) }

// Info returns what the area says of the last virtualization exception.
func (a *VEArea) Info() VEInfo {
	return VEInfo{
		Reason:          binary.LittleEndian.Uint32(a[veReason:]),
		Qualification:   binary.LittleEndian.Uint64(a[veQualification:]),
		LinearAddress:   binary.LittleEndian.Uint64(a[veLinear:]),
		PhysicalAddress: binary.LittleEndian.Uint64(a[vePhysical:]),
		EPTPIndex:       binary.LittleEndian.Uint16(a[veEPTPIndex:]),
	}
}

// Deliver does what the processor does before it raises #VE. It reports false,
// without any change, if the area is busy; there is a VM exit then.
func (a *VEArea) Deliver(v VEInfo) bool {
	if !atomic.CompareAndSwapUint32(a.busy(), 0, ^uint32(0)) {
		return false
	}
	binary.LittleEndian.PutUint32(a[veReason:], v.Reason)
	binary.LittleEndian.PutUint64(a[veQualification:], v.Qualification)
	binary.LittleEndian.PutUint64(a[veLinear:], v.LinearAddress)
	binary.LittleEndian.PutUint64(a[vePhysical:], v.PhysicalAddress)
	binary.LittleEndian.PutUint16(a[veEPTPIndex:], v.EPTPIndex)
	return true
}

// String prints the area's fields.
func (a *VEArea) String() string {
	v := a.Info()
	return fmt.Sprintf("reason %d, busy %t, qualification 0x%x, linear 0x%x, physical 0x%x, EPTP index %d",
		v.Reason, a.Busy(), v.Qualification, v.LinearAddress, v.PhysicalAddress, v.EPTPIndex)
}
