package main

import (
	"encoding/binary"

	"github.com/govtx/vtx/ring0"
)

// Extended page tables (SDM Vol. 3C 29.3): four levels of 512 entries. The low
// three bits of an entry are the rights; in the last level, bits 5:3 are the
// memory type.
const (
	eptRWX       = 7
	eptWriteBack = 6 << 3
	eptAddress   = 0x000ffffffffff000
)

// An ept translates the guest's physical addresses to the machine's.
type ept struct{ root ring0.Pages }

func newEPT() (*ept, error) {
	root, err := ring0.AllocPages(1)
	return &ept{root}, err
}

// pointer is the EPTP: write-back tables, a walk of four levels.
func (e *ept) pointer() uint64 { return e.root.Phys() | 3<<3 | 6 }

// mapPage maps one page for every use.
func (e *ept) mapPage(gpa, hpa uint64) error {
	table := e.root.Bytes()
	for shift := 39; ; shift -= 9 {
		entry := table[gpa>>shift&511*8:]
		if shift == 12 {
			binary.LittleEndian.PutUint64(entry, hpa|eptWriteBack|eptRWX)
			return nil
		}
		next := binary.LittleEndian.Uint64(entry)
		if next == 0 {
			p, err := ring0.AllocPages(1)
			if err != nil {
				return err
			}
			next = p.Phys() | eptRWX
			binary.LittleEndian.PutUint64(entry, next)
		}
		var err error
		if table, err = ring0.Physical(next&eptAddress, ring0.PageSize); err != nil {
			return err
		}
	}
}
