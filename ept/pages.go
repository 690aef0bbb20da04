package ept

import "errors"

// A Table is an EPT paging structure: 512 entries, 4 KiB.
type Table = [512]Entry

// Pages is where tables live: the embedder's allocator. Its methods are called by one
// goroutine at a time for one [Space], except for Page, which readers call too.
type Pages interface {
	// AllocPage returns the physical address of a free page of 4 KiB. What is in the
	// page does not matter.
	AllocPage() (phys uint64, err error)

	// FreePage takes back a page that AllocPage gave.
	FreePage(phys uint64)

	// Page returns the memory of a page that AllocPage gave. It must be aligned to 8
	// bytes, and stay where it is.
	Page(phys uint64) *Table
}

// Windowed is implemented by those Pages that lie in one window of physical memory,
// which is mapped in one piece: tables are then found by an addition, without a call of
// Page for each level of each walk.
type Windowed interface {
	Pages

	// Window returns the memory and the physical address of its first byte. Both do
	// not change.
	Window() (tables []Table, phys uint64)
}

// ErrNoPages is what an [Arena] returns when all its pages are in use.
var ErrNoPages = errors.New("no free page for a table: give the arena more memory, or call Reclaim")
