package main

import (
	"errors"
	"fmt"
	"unsafe"

	"github.com/govtx/vtx/asm"
	"github.com/govtx/vtx/ept"
	"github.com/govtx/vtx/hypercall"
	"github.com/govtx/vtx/ring0"
	"github.com/govtx/vtx/vmcs"
	"github.com/govtx/vtx/vtl"
)

const (
	pageSize  = ring0.PageSize
	pageShift = 12

	// ramSize is the guest's memory, from guest-physical address 0 on.
	ramSize = 4 << 20

	// eptTables bounds the extended page tables. What guests can ask for, a page of its own
	// rights everywhere in two views, takes less than half of it.
	eptTables = 64
)

// A guestMemory is what the guest has as physical memory: RAM, with a view of it for each
// level, and the memory types that the machine's MTRRs give.
type guestMemory struct {
	ram    ring0.Pages
	tables ring0.Pages
	space  *ept.Space
	caps   *vmcs.Capabilities
	types  *ept.MTRRs
}

func newGuestMemory(caps *vmcs.Capabilities) (*guestMemory, error) {
	mode := ept.NewMode(caps)
	types, err := ept.ReadMTRRs(vmcs.Processor{}, mode.PhysicalBits())
	if err != nil {
		return nil, err
	}
	tables, err := ring0.AllocPages(eptTables)
	if err != nil {
		return nil, err
	}
	arena, err := ept.NewArena(tables.Bytes(), tables.Phys())
	if err != nil {
		return nil, err
	}
	space, err := ept.New(ept.Config{
		Pages: arena,
		Mode:  mode,
	})
	if err != nil {
		return nil, err
	}
	const largePage = 2 << 20
	ram, err := ring0.AllocAligned(ramSize/pageSize, largePage, 0)
	if err != nil {
		return nil, err
	}
	// Nothing that a processor could have cached: no invalidation is due.
	if _, err := space.MapTyped(0, ramSize, ram.Phys(), ept.All, types); err != nil {
		return nil, err
	}
	return &guestMemory{ram: ram, tables: tables, space: space, caps: caps, types: types}, nil
}

// free gives the memory back.
func (m *guestMemory) free() {
	m.ram.Free()
	m.tables.Free()
}

// changed does what a change of a view asks of the processor, and gives back tables that
// are not used any more.
func (m *guestMemory) changed(v *ept.View, due ept.Invalidation, err error) error {
	if err != nil {
		return err
	}
	if kind, d, ok := due.INVEPT(v.Pointer(), m.caps.EPTVPID); ok {
		if err := vmcs.StatusError(asm.INVEPT(uint64(kind), (*[2]uint64)(&d))); err != nil {
			return err
		}
	}
	m.space.Reclaim()
	return nil
}

// rights are a level's rights as an EPT entry has them: KernelExecute stands for all fetches,
// as the partition offers no mode-based execute control.
func rights(a vtl.Access) (e ept.Entry) {
	if a&vtl.Read != 0 {
		e |= ept.Read
	}
	if a&vtl.Write != 0 {
		e |= ept.Write
	}
	if a&vtl.KernelExecute != 0 {
		e |= ept.Execute
	}
	return e
}

// isRAM tells whether there is RAM behind a page.
func isRAM(page uint64) bool { return page < ramSize>>pageShift }

// A domain is what a level is for all processors: its view of memory, and the overlay pages
// in it.
type domain struct {
	*guestMemory
	number    vtl.VTL
	partition *vtl.Partition
	view      *ept.View
	overlays  []*overlay

	guestOSID hypercall.GuestOSID
	hypercall hypercall.HypercallMSR
	code      *overlay // the hypercall page
}

// An overlay is a page of the hypervisor's own that lies over a guest-physical page, for one
// level alone. What is beneath comes back as it was (TLFS, "GPA Overlay Pages").
type overlay struct {
	ring0.Pages
	rights ept.Entry
	page   uint64 // where it lies
	on     bool
}

func (d *domain) newOverlay(rights ept.Entry) (*overlay, error) {
	p, err := ring0.AllocPages(1)
	o := &overlay{Pages: p, rights: rights}
	d.overlays = append(d.overlays, o)
	return o, err
}

// errPlace is that an overlay page cannot lie where the guest wants it: WRMSR ends in #GP.
var errPlace = errors.New("there is no such guest-physical page")

// place lays an overlay page over another page, or takes it away.
func (d *domain) place(o *overlay, page uint64, on bool) error {
	if on && page>>(d.caps.CPU.PhysicalAddressBits-pageShift) != 0 {
		return errPlace
	}
	if o.on {
		o.on = false
		d.partition.SetOverlay(d.number, o.page, d.overlaid(o.page) != nil)
		if err := d.show(o.page); err != nil {
			return err
		}
	}
	if !on {
		return nil
	}
	o.page, o.on = page, true
	d.partition.SetOverlay(d.number, page, true)
	return d.show(page)
}

// overlaid returns the overlay page that the level sees at a page, nil if none.
func (d *domain) overlaid(page uint64) *overlay {
	for _, o := range d.overlays {
		if o.on && o.page == page {
			return o
		}
	}
	return nil
}

// show has the view agree with what there is at a page: an overlay page, RAM with the rights
// that the level has, or nothing.
func (d *domain) show(page uint64) error {
	gpa := page << pageShift
	var due ept.Invalidation
	var err error
	if o := d.overlaid(page); o != nil {
		due, err = d.view.ReplaceTyped(gpa, pageSize, o.Phys(), o.rights, d.types)
	} else if isRAM(page) {
		due, err = d.view.ReplaceTyped(gpa, pageSize, d.ram.Phys()+gpa, rights(d.partition.PageRights(d.number, page)), d.types)
	} else {
		due, err = d.view.Unmap(gpa, pageSize)
	}
	return d.changed(d.view, due, err)
}

// protect carries out an EffectProtect: the level may do no more than that with pages.
func (d *domain) protect(page, pages uint64, a vtl.Access) error {
	due, err := d.view.Protect(page<<pageShift, pages<<pageShift, rights(a), ept.Read|ept.Write|ept.Execute)
	return d.changed(d.view, due, err)
}

// remake carries out an EffectView: what the level may do is what the partition says.
func (d *domain) remake() error {
	if err := d.protect(0, ramSize>>pageShift, vtl.FullAccess); err != nil {
		return err
	}
	for r, a := range d.partition.Rights(d.number) {
		if err := d.protect(r.Page, r.Pages, a); err != nil {
			return err
		}
	}
	for _, o := range d.overlays {
		if o.on {
			if err := d.show(o.page); err != nil {
				return err
			}
		}
	}
	return nil
}

// A level's memory is what its view allows: the hypervisor does nothing for a guest that the
// guest could not do by itself.
var _ hypercall.WriteProber = (*processor)(nil)

// ReadPhysical reads guest-physical memory on behalf of the level.
func (d *domain) ReadPhysical(gpa uint64, p []byte) error {
	b, err := d.bytes(gpa, len(p), ept.AccessRead)
	if err == nil {
		copy(p, b)
	}
	return err
}

// WritePhysical writes guest-physical memory on behalf of the level.
func (d *domain) WritePhysical(gpa uint64, p []byte) error {
	b, err := d.bytes(gpa, len(p), ept.AccessWrite)
	if err == nil {
		copy(b, p)
	}
	return err
}

// ProbeWrite tells whether the level may write there.
func (d *domain) ProbeWrite(gpa uint64, n int) error {
	_, err := d.bytes(gpa, n, ept.AccessWrite)
	return err
}

// bytes returns memory that the level may access, which lies in one page.
func (d *domain) bytes(gpa uint64, n int, a ept.Access) ([]byte, error) {
	hpa, fault := d.view.Translate(gpa, a)
	if err := fault.Err(); err != nil {
		return nil, err
	}
	if gpa%pageSize+uint64(n) > pageSize {
		return nil, fmt.Errorf("%d bytes at %#x are in two pages", n, gpa)
	}
	// Views map nothing but pages from ring0.AllocPages, which are where their addresses
	// say.
	return unsafe.Slice(*(**byte)(unsafe.Pointer(&hpa)), n), nil
}
