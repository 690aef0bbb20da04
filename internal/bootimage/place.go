package bootimage

import (
	"encoding/binary"
	"fmt"
	"io"
	"slices"

	"github.com/govtx/vtx/internal/bootproto"
)

// A MemoryRange is a row of the memory map that a placed program finds.
type MemoryRange struct {
	Start, End uint64 // physical addresses; End is the first behind it
	Type       uint32 // ACPI 6.5, table 15.4: 1 is RAM
}

const (
	typeRAM   = 1
	maxRanges = 128

	// The multiboot information (Multiboot 0.6.96, 3.3): its size, and the
	// fields that are filled in.
	infoBytes     = 120
	infoFlags     = 0
	infoMapLength = 44
	infoMapAddr   = 48
	infoHasMap    = 1 << 6
	mapRowBytes   = 24 // size, base, length, type
)

// PlaceMultiboot puts the program into the memory of a machine that has not
// started, where a multiboot loader would have put it: a guest's, say. The bytes of
// mem are the physical memory from base on. The program with its modules goes to
// the addresses that it was linked for; the loader, the parameters and the
// multiboot information beside it, wherever there is room. All of it lies in RAM
// that is both in mem and in the memory map, below 4 GiB, and what is zero at the
// program's start is cleared; no other byte of mem is touched. With
// bootproto.FlagLent in c.Flags the program later keeps to that RAM too.
//
// The program starts in 32-bit protected mode without paging, with flat segments
// and interrupts off, EIP at entry, EAX holding bootproto.MultibootMagic, and EBX
// info (Multiboot 0.6.96, 3.2).
func (p *Program) PlaceMultiboot(mem []byte, base uint64, memory []MemoryRange, c *Config) (entry, info uint32, err error) {
	if len(memory) == 0 || len(memory) > maxRanges {
		return 0, 0, fmt.Errorf("a memory map of %d ranges: a program is told of 1 to %d", len(memory), maxRanges)
	}
	for i, r := range memory {
		if r.Start >= r.End {
			return 0, 0, fmt.Errorf("range %d of the memory map, from %#x to %#x: it must end behind its start", i, r.Start, r.End)
		}
	}
	if base+uint64(len(mem)) < base {
		return 0, 0, fmt.Errorf("%#x bytes of memory at %#x: they must end below 2^64", len(mem), base)
	}
	ram := usable(memory, base, min(base+uint64(len(mem)), addressLimit))

	params, err := p.params(c)
	if err != nil {
		return 0, 0, err
	}
	_, end, err := p.moduleAddrs(c)
	if err != nil {
		return 0, 0, err
	}
	infoAt := roundUp(bootproto.LoaderBytes+uint64(len(params)), 8)
	need := infoAt + infoBytes + uint64(len(memory))*mapRowBytes
	loader, ok := room(ram, need, p.segments[0].addr, end)
	if !ok {
		return 0, 0, fmt.Errorf("no %#x bytes of RAM for the loader and the parameters beside the program, which lies from %#x to %#x: give it more memory", need, p.segments[0].addr, end)
	}
	pieces, err := p.pieces(c, loader)
	if err != nil {
		return 0, 0, err
	}
	for _, piece := range pieces { // before any byte is touched
		if !slices.ContainsFunc(ram, func(r MemoryRange) bool {
			return r.Start <= piece.addr && piece.addr+piece.memSize <= r.End
		}) {
			return 0, 0, fmt.Errorf("%s, %#x bytes at %#x, is not in RAM: the memory from %#x to %#x and the memory map must hold it", piece.parts[0].name, piece.memSize, piece.addr, base, base+uint64(len(mem)))
		}
	}
	for _, piece := range pieces {
		b := mem[piece.addr-base:][:piece.memSize]
		n := int64(0)
		for _, part := range piece.parts {
			if _, err := io.ReadFull(part.r, b[n:n+part.n]); err != nil {
				return 0, 0, fmt.Errorf("%s: %w", part.name, err)
			}
			clear(b[n+part.n : n+part.size])
			n += part.size
		}
		clear(b[n:])
	}

	le := binary.LittleEndian
	at := loader + infoAt
	b := mem[at-base:][:infoBytes+len(memory)*mapRowBytes]
	clear(b)
	le.PutUint32(b[infoFlags:], infoHasMap)
	le.PutUint32(b[infoMapLength:], uint32(len(memory)*mapRowBytes))
	le.PutUint32(b[infoMapAddr:], uint32(at+infoBytes))
	for i, r := range memory {
		row := b[infoBytes+i*mapRowBytes:]
		le.PutUint32(row, mapRowBytes-4)
		le.PutUint64(row[4:], r.Start)
		le.PutUint64(row[12:], r.End-r.Start)
		le.PutUint32(row[20:], r.Type)
	}
	return uint32(loader + loaderEntry), uint32(at), nil
}

// usable is the RAM from start to end that a memory map tells of: ascending
// ranges that do not touch. Where the map's ranges overlap, the one that is not
// RAM holds, as for the kernel.
func usable(memory []MemoryRange, start, end uint64) []MemoryRange {
	// Between two neighbours among all bounds, memory is of one kind.
	bounds := []uint64{start, end}
	for _, r := range memory {
		bounds = append(bounds, r.Start, r.End)
	}
	slices.Sort(bounds)
	bounds = slices.Compact(bounds)
	var out []MemoryRange
	for i, a := range bounds[:len(bounds)-1] {
		if a < start || a >= end {
			continue
		}
		ram, other := false, false
		for _, r := range memory {
			if r.Start <= a && a < r.End {
				ram = ram || r.Type == typeRAM
				other = other || r.Type != typeRAM
			}
		}
		if !ram || other {
			continue
		}
		if n := len(out); n > 0 && out[n-1].End == a {
			out[n-1].End = bounds[i+1]
			continue
		}
		out = append(out, MemoryRange{a, bounds[i+1], typeRAM})
	}
	return out
}

// room finds n bytes of RAM, from a page's beginning, that are not in the range
// from start to end.
func room(ram []MemoryRange, n, start, end uint64) (uint64, bool) {
	for _, r := range ram {
		a := roundUp(r.Start, pageSize)
		if a < end && a+n > start {
			a = roundUp(end, pageSize)
		}
		if a < r.End && n <= r.End-a {
			return a, true
		}
	}
	return 0, false
}
