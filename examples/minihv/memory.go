package main

import (
	"errors"
	"fmt"
	"slices"
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

	largePage = 2 << 20

	// ramSize is the memory of the guests in guests.go, from guest-physical address 0 on.
	ramSize = 4 << 20
)

// A block is guest-physical memory that is in one piece on the machine.
type block struct{ gpa, size, hpa uint64 }

// A device is guest-physical memory that is no RAM, with what the guest may do there.
type device struct {
	block
	access ept.Entry
}

// A guestMemory is what the guest has as physical memory: RAM, with a view of it for each
// level, and the memory types that the machine's MTRRs give.
type guestMemory struct {
	ram     ring0.Pages // of which the guest's RAM is made
	blocks  []block     // RAM, by address
	devices []device    // what else the guest reaches: firmware and registers of the machine
	tables  ring0.Pages
	space   *ept.Space
	caps    *vmcs.Capabilities
	types   *ept.MTRRs
	changes uint64 // of the views, so far
}

// newGuestMemory returns ramSize bytes of memory from address 0 on.
func newGuestMemory(caps *vmcs.Capabilities) (*guestMemory, error) {
	ram, err := ring0.AllocAligned(ramSize/pageSize, largePage, 0)
	if err != nil {
		return nil, err
	}
	return mapMemory(caps, ram, []block{{0, ramSize, ram.Phys()}}, nil)
}

// mapMemory returns memory that consists of blocks of RAM, and of devices.
func mapMemory(caps *vmcs.Capabilities, ram ring0.Pages, blocks []block, devices []device) (*guestMemory, error) {
	mode := ept.NewMode(caps)
	types, err := ept.ReadMTRRs(vmcs.Processor{}, mode.PhysicalBits())
	if err != nil {
		return nil, err
	}
	// What guests can ask for, a page of its own rights everywhere in two views, takes a table
	// for each 2 MiB twice, and overlay pages anywhere else some more.
	n := 60
	for _, b := range blocks {
		n += 2 * int(b.size/largePage+1)
	}
	tables, err := ring0.AllocPages(n)
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
	// Nothing that a processor could have cached: no invalidation is due.
	all := slices.Clone(devices)
	for _, b := range blocks {
		all = append(all, device{b, ept.All})
	}
	for _, d := range all {
		if _, err := space.MapTyped(d.gpa, d.size, d.hpa, d.access, types); err != nil {
			return nil, err
		}
	}
	return &guestMemory{ram: ram, blocks: blocks, devices: devices, tables: tables, space: space, caps: caps, types: types}, nil
}

// free gives the memory back.
func (m *guestMemory) free() {
	m.ram.Free()
	m.tables.Free()
}

// changed does what a change of a view asks of the processor, and gives back tables that
// are not used any more.
func (m *guestMemory) changed(v *ept.View, due ept.Invalidation, err error) error {
	m.changes++
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

// ranges is what there is of RAM.
func (m *guestMemory) ranges() (list []vtl.Range) {
	for _, b := range m.blocks {
		list = append(list, vtl.Range{Page: b.gpa >> pageShift, Pages: b.size >> pageShift})
	}
	return list
}

// behind returns where the machine has what is at a page, and what a level can have there at
// most.
func (m *guestMemory) behind(page uint64) (hpa uint64, access ept.Entry, ok bool) {
	gpa := page << pageShift
	for _, b := range m.blocks {
		if gpa-b.gpa < b.size {
			return b.hpa + gpa - b.gpa, ept.All, true
		}
	}
	for _, d := range m.devices {
		if gpa-d.gpa < d.size {
			return d.hpa + gpa - d.gpa, d.access, true
		}
	}
	return 0, 0, false
}

// isRAM tells whether there is RAM behind a page.
func (m *guestMemory) isRAM(page uint64) bool {
	return slices.ContainsFunc(m.blocks, func(b block) bool { return page<<pageShift-b.gpa < b.size })
}

// A domain is what a level is for all processors: its view of memory, and the overlay pages
// in it.
type domain struct {
	*guestMemory
	pc        *pc
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
	} else if hpa, access, ok := d.behind(page); ok {
		if d.isRAM(page) {
			access = rights(d.partition.PageRights(d.number, page))
		}
		due, err = d.view.ReplaceTyped(gpa, pageSize, hpa, access, d.types)
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
	for _, b := range d.blocks {
		if err := d.protect(b.gpa>>pageShift, b.size>>pageShift, vtl.FullAccess); err != nil {
			return err
		}
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
	if d.pc != nil && !d.isRAM(gpa>>pageShift) && d.overlaid(gpa>>pageShift) == nil {
		return nil, fmt.Errorf("at %#x is no memory, but a device", gpa)
	}
	if gpa%pageSize+uint64(n) > pageSize {
		return nil, fmt.Errorf("%d bytes at %#x are in two pages", n, gpa)
	}
	// Views map nothing but pages from ring0.AllocPages, which are where their addresses
	// say.
	return unsafe.Slice(*(**byte)(unsafe.Pointer(&hpa)), n), nil
}
