package ept

import (
	"fmt"

	"github.com/govtx/vtx/vmcs"
)

// A Source is EPT tables, wherever they are. Nothing is taken for granted of what is in
// them.
type Source interface {
	Mode() *Mode  // what entries mean
	Root() uint64 // physical address of the root table

	// Entry reads an entry, 0 to 511, of the table at a physical address.
	Entry(table uint64, index int) (Entry, error)
}

// Tables is a Source over physical memory: tables in a dump, or those of another
// hypervisor. It writes nothing.
type Tables struct {
	memory vmcs.Memory
	mode   Mode
	root   uint64
}

// NewTables returns the tables that an EPTP leads to. Mode tells the processor and the
// controls; the number of levels, accessed and dirty flags and supervisor shadow stacks
// are taken from the EPTP. Memory reads 8 bytes at physical addresses; an address where
// there is none must end in an error.
func NewTables(memory vmcs.Memory, mode Mode, p Pointer) (*Tables, error) {
	mode.Levels = uint8(p.Levels())
	mode.AccessedDirty = p.AccessedDirty()
	mode.SupervisorShadowStack = p.SupervisorShadowStack()
	if err := p.Validate(&mode); err != nil {
		return nil, err
	}
	return &Tables{memory, mode, p.Address()}, nil
}

// Mode returns what the entries mean.
func (t *Tables) Mode() *Mode { return &t.mode }

// Root returns the physical address of the root table.
func (t *Tables) Root() uint64 { return t.root }

// Entry reads an entry, 0 to 511, of the table at a physical address.
func (t *Tables) Entry(table uint64, index int) (Entry, error) {
	if uint(index) >= 512 {
		return 0, fmt.Errorf("entry %d: a table has entries 0 to 511", index)
	}
	e, err := t.memory.ReadPhysical(table + 8*uint64(index))
	if err != nil {
		return 0, fmt.Errorf("entry %d: %w", index, err)
	}
	return Entry(e), nil
}
