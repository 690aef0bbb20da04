package nested

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/govtx/vtx/asm"
	"github.com/govtx/vtx/ept"
	"github.com/govtx/vtx/vmcs"
	"github.com/govtx/vtx/vmexit/emulate"
)

// A Walker translates linear addresses of one guest. It serves one goroutine at a time.
type Walker struct {
	// EPT are the tables of the guest: an *ept.View, or ept.Tables for a dump. Touch
	// needs a View or an ept.Updater.
	EPT ept.Source

	// Memory is the machine's memory, by physical addresses. Touch sets accessed and
	// dirty flags in the guest's paging structures if it is an emulate.TableUpdater.
	Memory emulate.Memory

	// As in emulate.Walker, of the guest's processor.
	PhysicalAddressBits uint8
	NoGigabytePages     bool
	NoPSE36             bool

	guest memory
	walk  emulate.Walker
	fault FaultError
}

// A Step is an entry of the guest's paging structures that a walk has read.
type Step struct {
	Level int    // 5 to 1: PML5E, PML4E, PDPTE, PDE, PTE
	GPA   uint64 // where the entry is, guest-physical
	HPA   uint64 // and physical
	Entry uint64 // as it was read
}

// A Result is how far a walk has come.
type Result struct {
	Linear uint64
	Access ept.Access // of the last step, with what the guest's paging says of the address; 0 if there was none
	GPA    uint64     // that the linear address translates to, if Access is not 0
	HPA    uint64     // the physical address, if there was no error

	steps [5]Step
	n     int
}

// Steps returns the entries of the guest's paging structures that were read, from the
// root down. PDPTEs that are in registers are not among them.
func (r *Result) Steps() []Step { return r.steps[:r.n] }

// A FaultError is an EPT violation or misconfiguration on the way. It is valid until
// the next call of the Walker that has returned it.
type FaultError struct {
	Fault  ept.Fault
	Linear uint64 // the VMCS' guest-linear address, if the qualification says that it is valid
}

func (e *FaultError) Error() string {
	return fmt.Sprintf("nested: linear address 0x%x: %v", e.Linear, e.Fault)
}

// errFault is what a memory answers that has left a fault in the Walker.
var errFault = errors.New("nested: EPT does not allow the access")

// Translate translates a linear address for an access at the privilege level of s, and
// changes nothing in memory. The error is a *[FaultError] for a VM exit due to EPT, an
// *emulate.Exception for a page fault of the guest; other errors mean that memory or
// tables cannot be read.
//
// With PAE paging the PDPTEs are those in s; without, they are loaded from memory as
// MOV to CR3 does (see [Walker.LoadPDPTEs]). With 64-bit addresses the linear one must
// be canonical.
func (w *Walker) Translate(s *emulate.State, linear uint64, a emulate.Access) (Result, error) {
	return w.translate(s, linear, a, false)
}

// Touch is Translate that sets accessed and dirty flags as the processor does: in EPT,
// which must be an *ept.View or an ept.Updater, and in the guest's paging structures, if
// Memory is an emulate.TableUpdater.
func (w *Walker) Touch(s *emulate.State, linear uint64, a emulate.Access) (Result, error) {
	return w.translate(s, linear, a, true)
}

func (w *Walker) translate(s *emulate.State, linear uint64, a emulate.Access, touch bool) (Result, error) {
	g := w.begin(touch)
	g.result = Result{Linear: linear}
	paged := s.CR0&asm.CR0PG != 0
	if paged {
		g.noExecute = s.CR4&asm.CR4PAE != 0 && s.EFER&asm.EFERNXE != 0
		g.level = firstLevel(s)
		g.loads = g.level == 3
	}
	gpa, err := w.walk.Translate(s, linear, a)
	switch {
	case g.faulted:
		return g.result, &w.fault
	case err != nil:
		return g.result, err
	}
	access := [...]ept.Access{emulate.Read: ept.AccessRead, emulate.Write: ept.AccessWrite, emulate.Fetch: ept.AccessFetch}[a]
	access |= ept.AccessLinear | ept.AccessTranslation | g.paging
	if !g.verified {
		access |= ept.AccessUnverified
	}
	g.result.GPA, g.result.Access = gpa, access
	hpa, err := g.translate(gpa, access)
	switch {
	case err == errFault:
		return g.result, &w.fault
	case err != nil:
		return g.result, err
	}
	g.result.HPA = hpa
	return g.result, nil
}

// LoadPDPTEs returns what MOV to CR3 with PAE paging loads from the page-directory-pointer
// table (SDM Vol. 3A 4.4.1): a read that has no linear address behind it, and is no write
// even if EPT has accessed and dirty flags (SDM Vol. 3C 29.3.5). With touch it sets accessed
// flags in EPT. The error is a *[FaultError], an *emulate.Exception (#GP) if a present
// PDPTE has reserved bits set, or that of Memory.
func (w *Walker) LoadPDPTEs(cr3 uint64, touch bool) (pdptes [4]uint64, err error) {
	g := w.begin(touch)
	g.result = Result{}
	hpa, err := g.translate(cr3&0xffffffe0, ept.AccessRead)
	switch {
	case err == errFault:
		return pdptes, &w.fault
	case err != nil:
		return pdptes, err
	}
	for n := range pdptes {
		if err := w.Memory.ReadPhysical(hpa+8*uint64(n), g.buffer[:]); err != nil {
			return pdptes, err
		}
		pdptes[n] = binary.LittleEndian.Uint64(g.buffer[:])
	}
	width := w.PhysicalAddressBits
	if width == 0 || width > 52 {
		width = 52
	}
	const present, ignored, address = 1, 0xe18, 0x000ffffffffff000 // ignored: PWT, PCD and bits 11:9
	for _, e := range pdptes {
		if e&present != 0 && e&^(present|ignored|address&(1<<width-1)) != 0 {
			return pdptes, &emulate.Exception{Event: vmcs.InjectException(vmcs.VectorGP, 0)}
		}
	}
	return pdptes, nil
}

func (w *Walker) begin(touch bool) *memory {
	g := &w.guest
	*g = memory{w: w, touch: touch, paging: ept.AccessUser | ept.AccessWritable, verified: true}
	w.walk.Memory = g
	w.walk.PhysicalAddressBits = w.PhysicalAddressBits
	w.walk.NoGigabytePages, w.walk.NoPSE36 = w.NoGigabytePages, w.NoPSE36
	return g
}

// firstLevel is the level of the first entry that a walk reads. It is 3 for PDPTEs that
// have to be loaded.
func firstLevel(s *emulate.State) int {
	switch {
	case s.CR4&asm.CR4PAE == 0:
		return 2
	case s.EFER&asm.EFERLMA == 0:
		if s.PDPTEs == nil {
			return 3
		}
		return 2
	case s.CR4&asm.CR4LA57 == 0:
		return 4
	}
	return 5
}

// A memory is the guest-physical memory that holds the guest's paging structures. It is an
// emulate.TableUpdater whatever the Walker's Memory is: the setting of a flag is an access
// that can fail, even if the flag is not set.
type memory struct {
	w         *Walker
	touch     bool // set flags
	result    Result
	level     int        // of the next entry
	loads     bool       // the next read loads a PDPTE
	noExecute bool       // XD means something
	paging    ept.Access // AccessUser, AccessWritable, AccessExecuteDisable of the entries so far
	verified  bool       // every entry was in a page with PagingWrite
	faulted   bool
	buffer    [8]byte
}

// translate makes one access to a guest-physical address.
func (g *memory) translate(gpa uint64, a ept.Access) (hpa uint64, err error) {
	var f ept.Fault
	v, ok := g.w.EPT.(*ept.View)
	switch {
	case ok && g.touch:
		hpa, f = v.Touch(gpa, a)
	case ok:
		hpa, f = v.Translate(gpa, a)
	case g.touch:
		u, ok := g.w.EPT.(ept.Updater)
		if !ok {
			return 0, fmt.Errorf("nested: tables of type %T cannot be changed: Touch needs an *ept.View or an ept.Updater", g.w.EPT)
		}
		hpa, f, err = ept.Touch(u, gpa, a)
	default:
		hpa, f, err = ept.Translate(g.w.EPT, gpa, a)
	}
	switch {
	case err != nil:
		return 0, err
	case f.Kind != ept.NoFault:
		g.w.fault = FaultError{Fault: f, Linear: g.result.Linear}
		g.faulted = true
		return 0, errFault
	}
	return hpa, nil
}

// ReadPhysical reads an entry.
func (g *memory) ReadPhysical(gpa uint64, p []byte) error {
	a := ept.AccessRead | ept.AccessLinear
	if g.loads {
		a = ept.AccessRead // SDM Vol. 3C table 28-7: no linear address is valid
	}
	hpa, err := g.translate(gpa, a)
	if err != nil {
		return err
	}
	if err := g.w.Memory.ReadPhysical(hpa, p); err != nil {
		return err
	}
	e := uint64(0)
	for i, b := range p {
		e |= uint64(b) << (8 * i)
	}
	if g.result.n < len(g.result.steps) {
		g.result.steps[g.result.n] = Step{g.level, gpa, hpa, e}
		g.result.n++
	}
	g.level--
	if g.loads {
		g.loads = false
		return nil
	}
	const rw, us, xd = 1 << 1, 1 << 2, 1 << 63
	if e&us == 0 {
		g.paging &^= ept.AccessUser
	}
	if e&rw == 0 {
		g.paging &^= ept.AccessWritable
	}
	if e&xd != 0 && g.noExecute {
		g.paging |= ept.AccessExecuteDisable
	}
	if m := g.w.EPT.Mode(); m.VerifyGuestPaging && m.PagingWrite && g.verified {
		g.verified, err = pagingWrite(g.w.EPT, gpa)
	}
	return err
}

// pagingWrite reports whether a guest-physical address that EPT has translated is in a
// page with PagingWrite.
func pagingWrite(s ept.Source, gpa uint64) (bool, error) {
	table := s.Root()
	for level := s.Mode().TopLevel(); ; level-- {
		e, err := s.Entry(table, level.Index(gpa))
		if err != nil || e.Leaf(level) {
			return e&ept.PagingWrite != 0, err
		}
		table = e.Address(level)
	}
}

// CompareExchange sets flags in an entry: a data write (SDM Vol. 3C 29.3.3.2).
func (g *memory) CompareExchange(gpa uint64, size int, old, new uint64) (bool, error) {
	hpa, err := g.translate(gpa, ept.AccessWrite|ept.AccessLinear)
	if err != nil {
		return false, err
	}
	if u, ok := g.w.Memory.(emulate.TableUpdater); ok && g.touch {
		return u.CompareExchange(hpa, size, old, new)
	}
	return true, nil
}

// WritePhysical is part of emulate.Memory. Walks only set flags.
func (g *memory) WritePhysical(uint64, []byte) error { return emulate.ErrNoMemory }
