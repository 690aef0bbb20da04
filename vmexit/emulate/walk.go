package emulate

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/govtx/vtx/asm"
	"github.com/govtx/vtx/vmcs"
)

// Memory is a guest's physical memory.
type Memory interface {
	// ReadPhysical fills p with the bytes from a guest-physical address on,
	// WritePhysical stores them. If there is no memory, or none that is to be
	// accessed as such, the error is ErrNoMemory, and the access becomes a Device's.
	// p has 1 to 16 bytes, which are in one page of 4 KBytes; it is not
	// valid after the call.
	ReadPhysical(gpa uint64, p []byte) error
	WritePhysical(gpa uint64, p []byte) error
}

// A TableUpdater is Memory in which walks set the accessed and dirty flags of the
// guest's paging-structure entries, as a processor does. With Memory that is no
// TableUpdater they leave them alone.
type TableUpdater interface {
	Memory

	// CompareExchange stores new at a guest-physical address if old is there, in one
	// step as other processors see it. Size is 4 or 8 bytes, at a multiple of size.
	CompareExchange(gpa uint64, size int, old, new uint64) (swapped bool, err error)
}

// ErrNoMemory is what Memory answers where it has nothing.
var ErrNoMemory = errors.New("no memory at this guest-physical address")

// An Access is what is done with memory.
type Access uint8

// The kinds of access. What is both read and written is a Write.
const (
	Read Access = iota
	Write
	Fetch // of an instruction
)

var accessNames = [...]string{"read", "write", "fetch"}

// String returns "read", "write" or "fetch".
func (a Access) String() string {
	if int(a) < len(accessNames) {
		return accessNames[a]
	}
	return fmt.Sprintf("Access(%d)", uint8(a))
}

// An Exception is what the processor would raise. As an error it is a *Exception, and
// valid until the next call of the Walker or Emulator that has returned it.
type Exception struct {
	Event   vmcs.Event // to be injected; in real-address mode without an error code
	Address uint64     // what CR2 is to be, if the vector is #PF
}

// Error describes the exception.
func (x *Exception) Error() string {
	s := "emulate: the guest is due " + x.Event.String()
	if x.Event.Info.Vector() == vmcs.VectorPF {
		s += fmt.Sprintf(", address 0x%x", x.Address)
	}
	return s
}

// A TableError is a walk that led to where there is no memory: the processor
// would have found what no one has put there.
type TableError struct {
	Linear uint64 // the address to be translated
	Entry  uint64 // guest-physical address of the entry
	Level  int    // 5 to 1: PML5E, PML4E, PDPTE, PDE, PTE
	Err    error  // what Memory said
}

func (e *TableError) Error() string {
	return fmt.Sprintf("emulate: the walk for linear address 0x%x needs the %s at guest-physical address 0x%x, which Memory refuses: %v",
		e.Linear, levelNames[e.Level], e.Entry, e.Err)
}

// Unwrap returns Memory's error.
func (e *TableError) Unwrap() error { return e.Err }

var levelNames = [...]string{1: "PTE", "PDE", "PDPTE", "PML4E", "PML5E"}

// A Walker translates a guest's linear addresses.
type Walker struct {
	Memory Memory

	// PhysicalAddressBits is the guest's MAXPHYADDR, above which address bits of
	// entries are reserved: 32 to 52, 0 for 52.
	PhysicalAddressBits uint8

	// NoGigabytePages and NoPSE36 say that the guest's processor lacks 1-GByte
	// pages, and 4-MByte pages above 4 GBytes.
	NoGigabytePages bool
	NoPSE36         bool

	raised Exception
	entry  [8]byte // here, not on the stack, from where it would escape
	last   walked  // of a fetch
}

// A walked is a walk that has been made: as long as the entries and what decides on them are
// the same, the same walk would come to the same end.
type walked struct {
	basis
	linear, gpa uint64 // without what is behind the page's number
	steps       [5]step
	n           uint8
}

// A basis is what, beside entries, decides on a fetch with 4-level or 5-level paging.
type basis struct {
	cr0, cr3, cr4, efer uint64
	user                bool
	width               uint8
	noGigabytePages     bool
}

func (w *Walker) basis(s *State) basis {
	return basis{s.CR0, s.CR3, s.CR4, s.EFER, s.CPL() == 3, w.PhysicalAddressBits, w.NoGigabytePages}
}

// again returns what the last walk of a fetch came to, if it would again. Code is mostly where
// it was before: to read the entries takes a fifth of what a walk does.
func (w *Walker) again(b *basis, linear uint64) (gpa uint64, ok bool) {
	l := &w.last
	if l.n == 0 || l.linear != linear>>12 || l.basis != *b {
		return 0, false
	}
	for i := range l.steps[:l.n] {
		at := &l.steps[i]
		if err := w.Memory.ReadPhysical(at.address, w.entry[:]); err != nil || binary.LittleEndian.Uint64(w.entry[:]) != at.value {
			return 0, false
		}
	}
	return l.gpa | linear&pageMask, true
}

// raise makes an error of an exception.
func (w *Walker) raise(s *State, v vmcs.Vector, code uint32) error {
	e := vmcs.InjectException(v, code)
	if s.CR0&asm.CR0PE == 0 {
		e = e.WithoutErrorCode()
	}
	w.raised = Exception{Event: e}
	return &w.raised
}

type paging uint8

const (
	pagingNone paging = iota
	paging32
	pagingPAE
	paging4
	paging5
)

// paging is the paging mode (SDM Vol. 3A 4.1.1).
func (s *State) paging() paging {
	switch {
	case s.CR0&asm.CR0PG == 0:
		return pagingNone
	case s.CR4&asm.CR4PAE == 0:
		return paging32
	case s.EFER&asm.EFERLMA == 0:
		return pagingPAE
	case s.CR4&asm.CR4LA57 == 0:
		return paging4
	}
	return paging5
}

// Bits of a page fault's error code (SDM Vol. 3A 4.7, figure 4-12).
const (
	codePresent    = 1 << 0
	codeWrite      = 1 << 1
	codeUser       = 1 << 2
	codeReserved   = 1 << 3
	codeFetch      = 1 << 4
	codeProtection = 1 << 5 // protection keys
)

func (w *Walker) pageFault(s *State, linear uint64, a Access, code uint32) error {
	if a == Write {
		code |= codeWrite
	}
	if s.CPL() == 3 {
		code |= codeUser
	}
	if a == Fetch && (s.CR4&asm.CR4SMEP != 0 || s.CR4&asm.CR4PAE != 0 && s.EFER&asm.EFERNXE != 0) {
		code |= codeFetch
	}
	err := w.raise(s, vmcs.VectorPF, code)
	w.raised.Address = linear
	return err
}

// Bits of paging-structure entries (SDM Vol. 3A 4.3 to 4.5).
const (
	entryP   = 1 << 0
	entryRW  = 1 << 1
	entryUS  = 1 << 2
	entryA   = 1 << 5
	entryD   = 1 << 6
	entryPS  = 1 << 7
	entryXD  = 1 << 63
	entryKey = 59

	entryAddress = 0x000ffffffffff000
)

// A form is how one paging mode looks its entries up.
type form struct {
	levels   int
	index    uint   // bits of an address that each level takes
	size     int    // of an entry, in bytes
	reserved uint64 // bits that are reserved in every entry
	largest  int    // the highest level at which PS may be 1
	width    uint8  // of the addresses of 4-MByte pages
	ignorePS bool   // no large pages: PS means nothing
}

func (w *Walker) form(s *State, p paging) form {
	width := w.PhysicalAddressBits
	if width == 0 || width > 52 {
		width = 52
	}
	f := form{levels: 4, index: 9, size: 8, largest: 3, reserved: entryAddress &^ (1<<width - 1)}
	if w.NoGigabytePages {
		f.largest = 2
	}
	switch p {
	case paging32:
		if w.NoPSE36 || width < 32 {
			width = 32
		}
		return form{levels: 2, index: 10, size: 4, largest: 2, width: min(width, 40), ignorePS: s.CR4&asm.CR4PSE == 0}
	case pagingPAE:
		f.levels, f.largest = 2, 2
		f.reserved |= 0x7ff << 52
	case paging5:
		f.levels = 5
	}
	if s.EFER&asm.EFERNXE == 0 {
		f.reserved |= entryXD
	}
	return f
}

// maxTries bounds walks that start again because another processor has changed an
// entry between the look at it and the setting of its flags.
const maxTries = 16

// errBusy is a walk that came to no end for that reason: the guest is to try again.
var errBusy = errors.New("emulate: other processors keep changing the paging-structure entries")

// Translate returns the guest-physical address for a linear one, at the privilege
// level of s. The error is a *Exception if the access raises a page fault, and a
// *TableError if the tables cannot be read. With 64-bit addresses the linear one
// must be canonical: only the bits that paging uses count.
func (w *Walker) Translate(s *State, linear uint64, a Access) (gpa uint64, err error) {
	p := s.paging()
	if p == pagingNone {
		return uint64(uint32(linear)), nil
	}
	if a == Fetch && p >= paging4 {
		b := w.basis(s)
		if gpa, ok := w.again(&b, linear); ok {
			return gpa, nil
		}
	}
	for range maxTries {
		gpa, err = w.walk(s, p, linear, a)
		if err != errBusy {
			break
		}
	}
	return gpa, err
}

// step is an entry that a walk has used.
type step struct{ address, value uint64 }

func (w *Walker) walk(s *State, p paging, linear uint64, a Access) (uint64, error) {
	f := w.form(s, p)
	table := s.CR3 & entryAddress
	switch p {
	case paging32:
		linear = uint64(uint32(linear))
		table &= 0xffffffff
	case pagingPAE:
		linear = uint64(uint32(linear))
		var err error
		if table, err = w.pdpte(s, linear, a); err != nil {
			return 0, err
		}
	}
	var steps [5]step
	var key uint64
	n, rights, executable := 0, uint64(entryRW|entryUS), true
	for level := f.levels; ; level-- {
		shift := 12 + f.index*uint(level-1)
		at := table + linear>>shift&(1<<f.index-1)*uint64(f.size)
		e, err := w.read(linear, at, f.size, level)
		if err != nil {
			return 0, err
		}
		steps[n] = step{at, e}
		n++
		if e&entryP == 0 {
			return 0, w.pageFault(s, linear, a, 0)
		}
		leaf := level == 1 || e&entryPS != 0 && !f.ignorePS
		if reserved := f.reservedBits(level, leaf, shift); e&reserved != 0 {
			return 0, w.pageFault(s, linear, a, codePresent|codeReserved)
		}
		rights &= e
		executable = executable && (f.size == 4 || e&entryXD == 0)
		if !leaf {
			table = e & entryAddress
			continue
		}
		table = e & entryAddress &^ (1<<shift - 1)
		if f.size == 4 && level == 2 {
			table = e&0xffc00000 | e>>13&0xff<<32 // bits 39:32 are in 20:13 (SDM Vol. 3A table 4-4)
		}
		if p >= paging4 {
			key = e >> entryKey & 15
		}
		if code, ok := s.permitted(p, a, rights, executable, key); !ok {
			return 0, w.pageFault(s, linear, a, code|codePresent)
		}
		if err := w.mark(steps[:n], f.size, a); err != nil {
			return 0, err
		}
		gpa := table | linear&(1<<shift-1)
		if a == Fetch && p >= paging4 {
			for i := range steps[:n] {
				steps[i].value |= entryA // one without is to be walked and marked
			}
			w.last = walked{w.basis(s), linear >> 12, gpa &^ pageMask, steps, uint8(n)}
		}
		return gpa, nil
	}
}

// reservedBits are the bits that must be 0 in an entry (SDM Vol. 3A tables 4-4 to 4-6
// and 4-9 to 4-20).
func (f *form) reservedBits(level int, leaf bool, shift uint) uint64 {
	switch {
	case !leaf || level == 1:
		return f.reserved
	case level > f.largest:
		return f.reserved | entryPS
	case f.size == 4: // a 4-MByte page: bits 20:13 are 39:32 of its address
		return 1<<21 | 0xff<<13&^(1<<(f.width-32+13)-1)
	}
	return f.reserved | (1<<shift-1)&^(1<<13-1) // bit 12 is PAT
}

// pdpte returns the page directory of PAE paging. VM entry and MOV to CR3 have checked
// that reserved bits are 0 (SDM Vol. 3A 4.4.1).
func (w *Walker) pdpte(s *State, linear uint64, a Access) (uint64, error) {
	var e uint64
	n := linear >> 30
	if s.PDPTEs != nil {
		e = s.PDPTEs[n]
	} else {
		var err error
		if e, err = w.read(linear, s.CR3&0xffffffe0+8*n, 8, 3); err != nil {
			return 0, err
		}
	}
	if e&entryP == 0 {
		return 0, w.pageFault(s, linear, a, 0)
	}
	return e & entryAddress, nil
}

func (w *Walker) read(linear, at uint64, size, level int) (uint64, error) {
	if err := w.Memory.ReadPhysical(at, w.entry[:size]); err != nil {
		return 0, &TableError{linear, at, level, err}
	}
	if size == 4 {
		return uint64(binary.LittleEndian.Uint32(w.entry[:])), nil
	}
	return binary.LittleEndian.Uint64(w.entry[:]), nil
}

// permitted decides on an access by the rights of the entries (SDM Vol. 3A 4.6). The
// code has the bit for protection keys, which is independent of the rest.
func (s *State) permitted(p paging, a Access, rights uint64, executable bool, key uint64) (code uint32, ok bool) {
	user, userPage := s.CPL() == 3, rights&entryUS != 0
	ok = true
	switch {
	case user && !userPage:
		ok = false
	case a == Fetch:
		ok = executable && (user || !userPage || s.CR4&asm.CR4SMEP == 0)
	default:
		if a == Write && rights&entryRW == 0 {
			ok = !user && s.CR0&asm.CR0WP == 0
		}
		if !user && userPage && s.CR4&asm.CR4SMAP != 0 && s.RFLAGS&asm.FlagAC == 0 {
			ok = false
		}
	}
	if p >= paging4 && a != Fetch && s.keyDenies(userPage, user, a, key) {
		return codeProtection, false
	}
	return 0, ok
}

// keyDenies reports whether the protection key of a page forbids an access to data
// (SDM Vol. 3A 4.6.2).
func (s *State) keyDenies(userPage, user bool, a Access, key uint64) bool {
	var deny uint32
	switch {
	case userPage && s.CR4&asm.CR4PKE != 0:
		deny = s.PKRU >> (2 * key)
	case !userPage && s.CR4&asm.CR4PKS != 0:
		deny = s.PKRS >> (2 * key)
	}
	const all, writes = 1, 2
	return deny&all != 0 || deny&writes != 0 && a == Write && (user || s.CR0&asm.CR0WP != 0)
}

// mark sets the accessed flags of the entries, and the dirty flag of the last
// (SDM Vol. 3A 4.8).
func (w *Walker) mark(steps []step, size int, a Access) error {
	for i, e := range steps {
		flags := uint64(entryA)
		if a == Write && i == len(steps)-1 {
			flags |= entryD
		}
		if e.value&flags == flags {
			continue
		}
		u, ok := w.Memory.(TableUpdater)
		if !ok {
			return nil
		}
		swapped, err := u.CompareExchange(e.address, size, e.value, e.value|flags)
		switch {
		case err != nil:
			return fmt.Errorf("emulate: Memory cannot set accessed and dirty flags at guest-physical address 0x%x: %w", e.address, err)
		case !swapped:
			return errBusy
		}
	}
	return nil
}
