package vmtest

import (
	"encoding/binary"

	"github.com/govtx/vtx/internal/require"
	"github.com/govtx/vtx/ring0"
)

const pageSize = ring0.PageSize

// A guest's memory: MemorySize bytes from linear address 0. With EPT the
// guest-physical addresses are the same; without, they are the machine's, and
// the guest's own page tables lead there. What lies where is the same for all
// kinds of guests; those in real-address mode find the interrupt vector table
// at 0. Pages at the addresses that have no name are the test's.
const (
	MemorySize  = 0x20000
	TableRoot   = 0x1000 // PML4, or page directory of 32-bit paging
	TablePDPT   = 0x2000 // root of PAE paging
	TablePD     = 0x3000
	TablePT     = 0x4000 // maps MemorySize by pages of 4 KiB
	GDT         = 0x5000
	IDT         = 0x6000
	TSS         = 0x7000
	Code        = 0x8000
	Data        = 0xc000 // three pages
	StackTop    = 0x10000
	Handlers    = 0x11000
	Free        = 0x12000 // up to Ring0Stack
	Ring0Stack  = 0x1f000 // what the TSS names, one page down from here
	handlerSize = 4
)

// Handler is where the guest goes on after an interrupt or exception that is
// delivered to it: a VMCALL of its own for each vector.
func Handler(vector uint8) uint64 { return Handlers + handlerSize*uint64(vector) }

// Selectors of the descriptors in the guest's GDT. All are flat.
const (
	SelectorCode64 = 0x08
	SelectorData   = 0x10
	SelectorCode32 = 0x18
	SelectorCode16 = 0x20
	SelectorData16 = 0x28
	SelectorTSS    = 0x30 // 16 bytes
	SelectorUser   = 0x40 | 3
	gdtSize        = 0x48
)

var vmcall = []byte{0x0f, 0x01, 0xc1}

// memory is a guest's, filled with tables for one mode. Physical gives the
// guest-physical address of a linear one.
type memory struct {
	pages ring0.Pages
	base  uint64 // guest-physical address of linear address 0
}

func newMemory(m *Machine, k Kind, code []byte) *memory {
	m.Helper()
	mem := &memory{pages: m.Pages(MemorySize / pageSize)}
	if !k.EPT {
		mem.base = mem.pages.Phys()
	}
	b := mem.bytes()
	require.LessOrEqual(m, len(code)+len(vmcall), Data-Code, "the code is too long")
	copy(b[Code:], append(code[:len(code):len(code)], vmcall...))
	for v := range 256 {
		copy(b[Handler(uint8(v)):], vmcall)
	}
	mem.paging(k)
	mem.descriptors(k)
	return mem
}

func (mem *memory) bytes() []byte { return mem.pages.Bytes() }

func (mem *memory) physical(linear uint64) uint64 { return mem.base + linear }

func (mem *memory) put64(at int, v uint64) { binary.LittleEndian.PutUint64(mem.bytes()[at:], v) }

func (mem *memory) put32(at int, v uint32) { binary.LittleEndian.PutUint32(mem.bytes()[at:], v) }

// paging fills the guest's page tables (SDM Vol. 3A 4.3 to 4.5).
func (mem *memory) paging(k Kind) {
	const present, all = 1, 7 // all: present, writable, for user mode
	for page := range MemorySize / pageSize {
		entry := mem.physical(uint64(page)*pageSize) | all
		if k.Mode.paging() == paging32 {
			mem.put32(TablePT+4*page, uint32(entry))
		} else {
			mem.put64(TablePT+8*page, entry)
		}
	}
	switch k.Mode.paging() {
	case paging32:
		mem.put32(TableRoot, uint32(mem.physical(TablePT)|all))
	case pagingPAE:
		mem.put64(TablePDPT, mem.physical(TablePD)|present)
		mem.put64(TablePD, mem.physical(TablePT)|all)
	case pagingLong:
		mem.put64(TableRoot, mem.physical(TablePDPT)|all)
		mem.put64(TablePDPT, mem.physical(TablePD)|all)
		mem.put64(TablePD, mem.physical(TablePT)|all)
	}
}

// descriptors fills the GDT, the IDT or interrupt vector table, and the TSS
// (SDM Vol. 3A 3.4.5, 6.11, 6.14.1, 8.2.1, 8.7; 21.1.4).
func (mem *memory) descriptors(k Kind) {
	const (
		code64 = 0x00af9b000000ffff
		code32 = 0x00cf9b000000ffff
		code16 = 0x00009b000000ffff
		data32 = 0x00cf93000000ffff
		data16 = 0x000093000000ffff
		user64 = 0x00affb000000ffff
		tss    = 0x00008b0000000067 | TSS<<16
	)
	for selector, d := range map[int]uint64{
		SelectorCode64: code64, SelectorCode32: code32, SelectorCode16: code16, SelectorData: data32,
		SelectorData16: data16, SelectorTSS: tss, SelectorUser: user64,
	} {
		mem.put64(GDT+selector&^7, d)
	}
	mem.put64(TSS+4, Ring0Stack) // RSP0, or ESP0
	switch {
	case k.Mode.long():
		mem.put32(TSS+0x64, 0x68<<16) // I/O map beyond the limit: no port is open
	default:
		mem.put32(TSS+8, SelectorData) // SS0
		mem.put32(TSS+0x64, 0x68<<16)
	}
	const gate = 0xee // present, DPL 3, interrupt gate
	for v := range 256 {
		at := Handler(uint8(v))
		switch {
		case k.Mode.long():
			mem.put64(IDT+16*v, at&0xffff|SelectorCode64<<16|gate<<40|at>>16<<48)
		case k.Mode == ModeReal:
			mem.put32(4*v, uint32(Handlers-0x1000)>>4<<16|uint32(at-Handlers+0x1000))
		default:
			mem.put64(IDT+8*v, at&0xffff|SelectorCode32<<16|gate<<40|at>>16<<48)
		}
	}
}

// An EPT translates guest-physical addresses (SDM Vol. 3C 29.3).
type EPT struct {
	m    *Machine
	root ring0.Pages
}

// EPT access rights.
const (
	EPTRead    = 1 << 0
	EPTWrite   = 1 << 1
	EPTExecute = 1 << 2
	EPTAll     = EPTRead | EPTWrite | EPTExecute
)

const (
	eptWriteBack = 6 << 3
	eptAddress   = 0x000ffffffffff000
)

// NewEPT returns an EPT that maps nothing.
func (m *Machine) NewEPT() *EPT {
	m.Helper()
	return &EPT{m, m.Pages(1)}
}

// Pointer is the EPTP for it: write-back tables, a walk of four levels
// (SDM Vol. 3C 25.6.11). Flags for accessed and dirty are off.
func (e *EPT) Pointer() uint64 { return e.root.Phys() | 3<<3 | 6 }

// Map maps a page of 4 KiB with the given rights. It replaces what was there;
// INVEPT is the caller's.
func (e *EPT) Map(guest, host, rights uint64) {
	e.m.Helper()
	binary.LittleEndian.PutUint64(e.Entry(guest), host|eptWriteBack|rights)
}

// Entry is the 8 bytes of the last-level entry for a guest-physical address,
// with the tables above it.
func (e *EPT) Entry(guest uint64) []byte {
	e.m.Helper()
	table := e.root.Bytes()
	for shift := 39; ; shift -= 9 {
		entry := table[guest>>shift&511*8:][:8]
		if shift == 12 {
			return entry
		}
		next := binary.LittleEndian.Uint64(entry)
		if next == 0 {
			next = e.m.Pages(1).Phys() | EPTAll
			binary.LittleEndian.PutUint64(entry, next)
		}
		var err error
		table, err = ring0.Physical(next&eptAddress, pageSize)
		require.NoError(e.m, err)
	}
}

// mapMemory maps a guest's memory where the guest expects it.
func (e *EPT) mapMemory(mem *memory) {
	e.m.Helper()
	for at := uint64(0); at < MemorySize; at += pageSize {
		e.Map(at, mem.pages.Phys()+at, EPTAll)
	}
}
