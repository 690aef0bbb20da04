package main

import (
	"encoding/binary"
	"errors"
	"unsafe"

	"github.com/govtx/vtx/asm"
	"github.com/govtx/vtx/ept"
	"github.com/govtx/vtx/ring0"
	"github.com/govtx/vtx/vmcs"
	"github.com/govtx/vtx/vmexit"
	"github.com/govtx/vtx/vmexit/emulate"
	"github.com/govtx/vtx/vtl"
)

// The registers of the interrupt controllers are 4 bytes each, and 16 bytes apart. What any
// other access does is undefined, and may be a hang or a machine check (SDM Vol. 3A 11.4.1).
// So they are in no view of memory: an access is an EPT violation, after which the instruction
// is carried out here. A guest that has its interrupts at less cost uses the x2APIC mode of
// the local APIC, whose registers are MSRs.

// A window is a page of registers. Offsets are multiples of 16.
type window interface {
	load(offset uint32) uint32
	store(offset, v uint32)
}

// nothing is a page where nothing answers.
type nothing struct{}

func (nothing) load(uint32) uint32 { return ^uint32(0) }
func (nothing) store(_, _ uint32)  {}

// A registers is the registers themselves.
type registers []byte

func newRegisters(address uint64) (registers, error) { return ring0.Physical(address, pageSize) }

//go:noinline
func (r registers) load(offset uint32) uint32 {
	return *(*uint32)(unsafe.Pointer(&r[offset : offset+4][0]))
}

//go:noinline
func (r registers) store(offset, v uint32) {
	*(*uint32)(unsafe.Pointer(&r[offset : offset+4][0])) = v
}

// A localAPIC is the local APIC in xAPIC mode (SDM Vol. 3A 11.4, 11.5.4, 11.6.2.2).
type localAPIC struct{ registers }

const (
	apicEnd          = 0x400 // of its registers
	apicID           = 0x20
	apicLogical      = 0xd0 // logical destination
	apicDestination  = 0xe0 // destination format
	apicCommand      = 0x300
	apicCommandHigh  = 0x310
	apicInitialCount = 0x380
	apicDivide       = 0x3e0
)

func (a localAPIC) load(offset uint32) uint32 {
	if offset >= apicEnd {
		return ^uint32(0)
	}
	return a.registers.load(offset)
}

func (a localAPIC) store(offset, v uint32) {
	const cluster, flat = 0, 0xf // models
	switch model := v >> 28; {
	case offset >= apicEnd || offset == apicDestination && model != cluster && model != flat:
		return
	}
	a.registers.store(offset, v)
	if offset == apicDivide { // with the new rate, the timer starts anew
		a.registers.store(apicInitialCount, a.registers.load(apicInitialCount))
	}
}

// resets tells whether a write has the local APIC send INIT to the processor itself, which does
// not get it while it is the host's (SDM Vol. 3A 11.6.1, Vol. 3C 26.2).
func (a localAPIC) resets(offset, v uint32) bool {
	const (
		modes, initialize = 7 << 8, 5 << 8
		logical           = 1 << 11
		assert, level     = 1 << 14, 1 << 15
		all               = 0xff
	)
	if offset != apicCommand || v&modes != initialize || v&(assert|level) == level {
		return false
	}
	to := a.registers.load(apicCommandHigh) >> 24
	switch shorthand := v >> 18 & 3; {
	case shorthand != 0:
		return shorthand == 2 // all, including self
	case v&logical != 0:
		return to&(a.registers.load(apicLogical)>>24) != 0
	}
	return to == all || to == a.registers.load(apicID)>>24
}

// An ioAPIC is an I/O APIC: a register that selects another one, and a window to that (82093AA
// data sheet, 3.1).
type ioAPIC struct {
	registers
	selected, last uint32
}

const (
	ioapicSelect = 0
	ioapicWindow = 0x10

	ioapicVersion     = 1
	ioapicArbitration = 2
	ioapicTable       = 0x10
)

func newIOAPIC(address uint64) (*ioAPIC, error) {
	r, err := newRegisters(address)
	if err != nil {
		return nil, err
	}
	r.store(ioapicSelect, ioapicVersion)
	highest := r.load(ioapicWindow) >> 16 & 0xff // entry of the redirection table
	return &ioAPIC{registers: r, last: ioapicTable + 2*highest + 1}, nil
}

// exists tells whether there is a register of the selected number.
func (a *ioAPIC) exists() bool {
	return a.selected <= ioapicArbitration || a.selected >= ioapicTable && a.selected <= a.last
}

func (a *ioAPIC) load(offset uint32) uint32 {
	switch {
	case offset == ioapicSelect:
		return a.selected
	case offset == ioapicWindow && a.exists():
		a.registers.store(ioapicSelect, a.selected)
		return a.registers.load(ioapicWindow)
	}
	return ^uint32(0)
}

func (a *ioAPIC) store(offset, v uint32) {
	switch {
	case offset == ioapicSelect:
		a.selected = v & 0xff
	case offset == ioapicWindow && a.exists():
		a.registers.store(ioapicSelect, a.selected)
		a.registers.store(ioapicWindow, v)
	}
}

// windows are the windows of a machine by their pages: few, so that they are looked through.
type windows []struct {
	page uint64
	window
}

func (w *windows) add(address uint64, to window) {
	*w = append(*w, struct {
		page uint64
		window
	}{address >> pageShift, to})
}

func (w windows) at(page uint64) window {
	for i := range w {
		if w[i].page == page {
			return w[i].window
		}
	}
	return nil
}

// newWindows returns the windows of the machine.
func newWindows(a *acpi) (w windows, err error) {
	r, err := newRegisters(a.localAPIC)
	if err != nil {
		return nil, err
	}
	w.add(a.localAPIC, localAPIC{r})
	for _, at := range a.ioAPICs {
		io, err := newIOAPIC(at)
		if err != nil {
			return nil, err
		}
		w.add(at, io)
	}
	for _, at := range a.others {
		w.add(at, nothing{})
	}
	return w, nil
}

// physical is a processor's memory for the instructions that are carried out here: what is
// a window is none. It is their Device, too.
type physical struct{ *processor }

// A readable is a page of RAM that a level can read, as long as views do not change.
type readable struct {
	domain  *domain
	page    uint64
	changes uint64 // of views before
	bytes   []byte
}

func (p physical) ReadPhysical(gpa uint64, b []byte) error {
	d, page := p.current.domain, gpa>>pageShift
	known := &p.readable[page%uint64(len(p.readable))]
	if known.domain != d || known.page != page || known.changes != d.changes {
		from, err := p.bytes(gpa&^(pageSize-1), pageSize, ept.AccessRead)
		if err != nil {
			return err
		}
		*known = readable{d, page, d.changes, from}
	}
	copy(b, known.bytes[gpa%pageSize:]) // in one page, says emulate.Memory
	return nil
}

func (p physical) WritePhysical(gpa uint64, b []byte) error {
	to, err := p.bytes(gpa, len(b), ept.AccessWrite)
	copy(to, b)
	return err
}

func (p physical) bytes(gpa uint64, n int, a ept.Access) ([]byte, error) {
	if p.window(gpa) != nil {
		return nil, emulate.ErrNoMemory
	}
	return p.current.bytes(gpa, n, a)
}

// Read implements emulate.Device. A part of a register is read from the whole; there is
// nothing between registers.
func (p physical) Read(gpa uint64, b []byte) error {
	w := p.window(gpa)
	if w == nil {
		return emulate.ErrNoMemory
	}
	v := ^uint64(0)
	offset := uint32(gpa % pageSize)
	if within := offset % 16; int(within)+len(b) <= 4 {
		v = uint64(w.load(offset-within)) >> (8 * within)
	}
	for i := range b {
		b[i] = byte(v)
		v >>= 8
	}
	return nil
}

// Write implements emulate.Device. Only whole registers can be written.
func (p physical) Write(gpa uint64, b []byte) error {
	w := p.window(gpa)
	if w == nil {
		return emulate.ErrNoMemory
	}
	if gpa%16 != 0 || len(b) != 4 {
		return nil
	}
	offset, v := uint32(gpa%pageSize), binary.LittleEndian.Uint32(b)
	if a, ok := w.(localAPIC); ok && a.resets(offset, v) {
		p.exit.Fail(errInit)
	} else {
		w.store(offset, v)
	}
	return nil
}

// window returns the window that the level that runs sees at an address, nil if it sees none.
func (p *processor) window(gpa uint64) window {
	page := gpa >> pageShift
	if p.pc == nil || p.current.overlaid(page) != nil {
		return nil
	}
	return p.pc.windows.at(page)
}

// emulate carries out an instruction that accesses a window. What cannot be done there raises
// #GP: code and page tables in it, and instructions that are not known.
func (p *processor) emulate(x *vmexit.Exit) vmexit.Outcome {
	q := vmexit.EPTViolationQualification(x.Qualification())
	if event, _ := x.Vectoring(); event.Valid() || !q.Translation() || q.Fetch() {
		return x.Raise(vmcs.VectorGP, 0)
	}
	p.emulator.Operand(x)
	o, err := p.emulator.Violation(x)
	if err != nil {
		return p.refused(x, err)
	}
	return o
}

// refused is what becomes of an instruction that cannot be carried out: by other memory, as of an
// access by the level itself.
func (p *processor) refused(x *vmexit.Exit, err error) vmexit.Outcome {
	var refused *emulate.AccessError
	if !errors.As(err, &refused) {
		return x.Raise(vmcs.VectorGP, 0)
	}
	op := vtl.Reading
	switch refused.Access {
	case emulate.Write:
		op = vtl.Writing
	case emulate.Fetch:
		op = vtl.Fetching
	}
	p.effects.Reset()
	return p.access(x, refused.GPA>>pageShift, op)
}

// apicMSRs are the MSRs of the local APIC in x2APIC mode (SDM Vol. 3A table 11-6). They are the
// guest's, but for the one that could have the timer count more than it has.
func apicMSRs(policy *vmexit.MSRPolicy) {
	const first, last = 0x800, 0x83f
	const initialCount, divide = first + apicInitialCount>>4, first + apicDivide>>4
	policy.SetRange(first, last, vmexit.AllowMSR())
	policy.Set(divide, vmexit.MSRRule{
		Read: vmexit.AllowMSR().Read,
		Write: func(x *vmexit.Exit, msr uint32, v uint64) bool {
			if asm.WRMSRSafe(msr, v) != nil {
				return false
			}
			count, err := asm.RDMSRSafe(initialCount)
			return err == nil && asm.WRMSRSafe(initialCount, count) == nil
		},
	})
}
