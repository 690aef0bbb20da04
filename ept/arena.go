package ept

import (
	"fmt"
	"unsafe"
)

const pageSize = 4096

// An Arena is [Pages] over one piece of memory, which is contiguous in physical memory:
// heap memory with made-up addresses in tests, identity-mapped pages in ring 0. It
// allocates nothing: free pages are linked through their first words. Pages that were
// never given out are not touched. It is not safe for concurrent use, but for Page and
// Window.
type Arena struct {
	tables []Table
	phys   uint64 // of tables[0]
	fresh  int    // tables[fresh:] were never given out
	free   uint64 // 1 plus the index of the first page in the list of freed ones
	used   int
}

// NewArena returns an arena over memory whose first byte is at a physical address. What
// lies before the first and after the last whole page of 4 KiB is not used. There must
// be at least one page, and pages must be at multiples of 8 in the program's own memory.
func NewArena(mem []byte, phys uint64) (*Arena, error) {
	skip := -phys & (pageSize - 1)
	if uint64(len(mem)) < skip+pageSize {
		return nil, fmt.Errorf("ept: an arena of %d bytes at %#x has no whole page of 4 KiB in it: give it more memory", len(mem), phys)
	}
	n := (uint64(len(mem)) - skip) / pageSize
	if end := phys + skip + n*pageSize; end < phys || end > uint64(addressMask)+pageSize {
		return nil, fmt.Errorf("ept: an arena of %d bytes at %#x reaches beyond 2^52: give physical addresses that entries can have", len(mem), phys)
	}
	p := unsafe.Pointer(&mem[skip])
	if uintptr(p)%8 != 0 {
		return nil, fmt.Errorf("ept: the pages of an arena must be at multiples of 8, not at %p", p)
	}
	return &Arena{tables: unsafe.Slice((*Table)(p), n), phys: phys + skip}, nil
}

// AllocPage returns a free page, or [ErrNoPages].
func (a *Arena) AllocPage() (uint64, error) {
	i := uint64(a.fresh)
	switch {
	case a.free != 0:
		i = a.free - 1
		a.free = uint64(a.tables[i][0])
	case a.fresh < len(a.tables):
		a.fresh++
	default:
		return 0, ErrNoPages
	}
	a.used++
	return a.phys + i*pageSize, nil
}

// FreePage takes a page back. It panics if the page is not one of the arena's.
func (a *Arena) FreePage(phys uint64) {
	i := (phys - a.phys) / pageSize
	if phys%pageSize != 0 || i >= uint64(a.fresh) || a.used == 0 {
		panic(fmt.Sprintf("ept: the page %#x that is freed is not from this arena", phys))
	}
	a.tables[i][0] = Entry(a.free)
	a.free = i + 1
	a.used--
}

// Page returns the memory of a page. It panics if the page is not one of the arena's.
func (a *Arena) Page(phys uint64) *Table { return &a.tables[(phys-a.phys)/pageSize] }

// Window returns all memory of the arena.
func (a *Arena) Window() (tables []Table, phys uint64) { return a.tables, a.phys }

// Used returns the number of pages that are in use.
func (a *Arena) Used() int { return a.used }

// Free returns the number of pages that AllocPage can still give.
func (a *Arena) Free() int { return len(a.tables) - a.used }
