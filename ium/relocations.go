package ium

import (
	"debug/pe"
	"encoding/binary"
	"iter"
)

// RuleRelocations is the rule of the base relocation table: "The .reloc Section" of the
// PE Format specification.
const RuleRelocations Rule = "relocations"

// Types of base relocations: IMAGE_REL_BASED_*.
const (
	RelocationAbsolute uint8 = 0 // padding: nothing is relocated
	RelocationHighAdj  uint8 = 4 // takes the next entry too
	RelocationHighLow  uint8 = 3 // a pointer of 32 bits
	RelocationDir64    uint8 = 10
)

// A Relocation is a place in an image that holds what depends on its address.
type Relocation struct {
	RVA  uint32
	Type uint8 // IMAGE_REL_BASED_*
}

// maxBlock is the size of the largest block: each byte of a page twice.
const maxBlock = 8 + 2*2*4096

// blocks walks the base relocation blocks. A block lies in buf only until the next.
func (i *Image) blocks(want func(page uint32) bool, yield func(page uint32, entries []byte) bool) error {
	rva, size := i.Directory(pe.IMAGE_DIRECTORY_ENTRY_BASERELOC)
	if rva == 0 || size == 0 {
		return nil
	}
	if room, err := i.room(rva); err != nil {
		return err
	} else if room < size {
		return broken(i.DirectoryOffset(pe.IMAGE_DIRECTORY_ENTRY_BASERELOC), RuleRelocations, "%d bytes at RVA %#x do not lie in one section", size, rva)
	}
	// Headers are read through a window, since there are as many as pages.
	window := make([]byte, min(size, 4096))
	var from, have uint32 // what the window holds: an offset in the table, a number of bytes
	var block []byte
	for at := uint32(0); size-at >= 8; {
		if at < from || at+8 > from+have {
			from, have = at, min(size-at, uint32(len(window)))
			if err := i.ReadRVA(window[:have], rva+from); err != nil {
				return err
			}
		}
		page := binary.LittleEndian.Uint32(window[at-from:])
		n := binary.LittleEndian.Uint32(window[at-from+4:])
		if page == 0 && n == 0 {
			return nil // what is behind the last is padding
		}
		if n < 8 || n > maxBlock || n%2 != 0 || n > size-at {
			return broken(i.offsetOf(rva+at), RuleRelocations, "a block for page %#x of %d bytes, with %d bytes left of the table", page, n, size-at)
		}
		if want(page) {
			var entries []byte
			if at+n <= from+have {
				entries = window[at-from+8 : at-from+n]
			} else {
				if block == nil {
					block = make([]byte, maxBlock)
				}
				entries = block[:n-8]
				if err := i.ReadRVA(entries, rva+at+8); err != nil {
					return err
				}
			}
			if !yield(page, entries) {
				return nil
			}
		}
		at += n
	}
	return nil
}

// eachRelocation calls yield for each entry of a block that is not padding.
func eachRelocation(page uint32, entries []byte, yield func(Relocation) bool) bool {
	for n := 0; n+2 <= len(entries); n += 2 {
		e := binary.LittleEndian.Uint16(entries[n:])
		r := Relocation{page + uint32(e&0xfff), uint8(e >> 12)}
		switch r.Type {
		case RelocationAbsolute:
			continue
		case RelocationHighAdj:
			n += 2
		}
		if !yield(r) {
			return false
		}
	}
	return true
}

// Relocations walks the base relocations. A walk ends with the first error.
func (i *Image) Relocations() iter.Seq2[Relocation, error] {
	return func(yield func(Relocation, error) bool) {
		stopped := false
		err := i.blocks(func(uint32) bool { return true }, func(page uint32, entries []byte) bool {
			stopped = !eachRelocation(page, entries, func(r Relocation) bool { return yield(r, nil) })
			return !stopped
		})
		if err != nil && !stopped {
			yield(Relocation{}, err)
		}
	}
}

// pointersIn returns which of the RVAs in [from, from+n) a relocation of a pointer begins
// at.
func (i *Image) pointersIn(from, n uint32) (map[uint32]bool, error) {
	kind := RelocationHighLow
	if i.Is64 {
		kind = RelocationDir64
	}
	found := map[uint32]bool{}
	err := i.blocks(
		func(page uint32) bool {
			return uint64(page) < uint64(from)+uint64(n) && uint64(page)+4096 > uint64(from)
		},
		func(page uint32, entries []byte) bool {
			return eachRelocation(page, entries, func(r Relocation) bool {
				if r.Type == kind && r.RVA >= from && r.RVA-from < n {
					found[r.RVA] = true
				}
				return true
			})
		})
	return found, err
}
