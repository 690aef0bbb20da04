package ring0

import (
	"math/bits"

	"github.com/govtx/vtx/asm"
	"github.com/govtx/vtx/internal/bootproto"
)

const (
	pageSize  = 4096
	largePage = 2 << 20
	hugePage  = 1 << 30
)

// Physical memory: what the firmware reports, what is taken before the kernel
// starts, and a bit for each page frame.

// physRange is a range of physical addresses; kind is the firmware's (ACPI 6.5,
// table 15.4: 1 is usable RAM) or one of ours.
type physRange struct{ start, end, kind uint64 }

const (
	kindRAM    = 1
	kindLoader = 1 << 8 // the boot image's own code and parameters
	kindImage  = 2 << 8
	kindModule = 3 << 8
	kindTables = 4 << 8 // the frame bitmap
	kindLow    = 5 << 8 // below 1 MiB: firmware, and left for real-mode code
)

const maxModules = 64

type bootModule struct{ addr, size, name, nameLen uint64 }

var (
	memoryMap   [256]physRange
	memoryMaps  uint64
	reserved    [128 + maxModules]physRange
	reserveds   uint64
	modules     [maxModules]bootModule
	moduleCount uint64
	moduleNames [maxModules * 256]byte // names that a multiboot loader gave

	frameBits  uint64 // address of the bitmap: 1 is taken
	givenBits  uint64 // address of another: 1 is the program's, from AllocPages
	frameWords uint64
	frameHint  uint64 // single frames are searched from here downward
	freeFrames uint64
	allFrames  uint64
	ramTop     uint64
	mapTop     uint64 // physical memory is mapped to itself up to here

	imageStart, imageEnd uint64 // the program's segments
)

func addRange(table *[256]physRange, n *uint64, start, end, kind uint64) {
	if *n < uint64(len(table)) && start < end {
		table[*n] = physRange{start, end, kind}
		*n++
	}
}

func reserve(start, end, kind uint64) {
	if reserveds == uint64(len(reserved)) {
		die("ring0: too many reserved ranges of memory")
	}
	reserved[reserveds] = physRange{roundDown(start, pageSize), roundUp(end, pageSize), kind}
	reserveds++
}

func addModule(start, end, name uint64) {
	if moduleCount == maxModules || end < start {
		return
	}
	modules[moduleCount] = bootModule{start, end - start, name, strlen(name)}
	moduleCount++
	reserve(start, end, kindModule)
}

func initMemory() {
	reserve(0, 1<<20, kindLow)
	reserve(params-bootproto.LoaderBytes, params+load(params+bootproto.ParamSize), kindLoader)
	segs := params + load(params+bootproto.ParamSegments)
	for range load(params + bootproto.ParamSegc) {
		addr := load(segs + bootproto.SegmentAddr)
		reserve(addr, addr+load(segs+bootproto.SegmentMemSize), kindImage)
		segs += bootproto.SegmentBytes
	}
	mods := params + load(params+bootproto.ParamModules)
	for range load(params + bootproto.ParamModc) {
		addr := load(mods + bootproto.ModuleAddr)
		addModule(addr, addr+load(mods+bootproto.ModuleSize), params+load(mods+bootproto.ModuleName))
		mods += bootproto.ModuleBytes
	}
	switch bootMagic {
	case bootproto.MultibootMagic:
		readMultiboot()
	case bootproto.Multiboot2Magic:
		readMultiboot2()
	}
	for i := range memoryMaps {
		if r := &memoryMap[i]; r.kind == kindRAM {
			ramTop = max(ramTop, r.end)
		}
	}

	// The bitmaps go to the first room below 4 GiB that is free.
	frameWords = roundUp(ramTop/pageSize, 64) / 64
	frameBits = findRoom(roundUp(2*frameWords*8, pageSize))
	if frameBits == 0 {
		die("ring0: the firmware reports too little memory; give the machine more (vtx boot -memory)")
	}
	givenBits = frameBits + frameWords*8
	reserve(frameBits, givenBits+frameWords*8, kindTables)
	for i := range frameWords {
		store(frameBits+8*i, ^uint64(0))
		store(givenBits+8*i, 0)
	}
	for i := range memoryMaps {
		if r := memoryMap[i]; r.kind == kindRAM {
			setFrames(frameBits, roundUp(r.start, pageSize)/pageSize, r.end/pageSize, false)
		}
	}
	// Where the firmware's entries overlap, the one that is not RAM holds.
	for i := range memoryMaps {
		if r := memoryMap[i]; r.kind != kindRAM {
			setFrames(frameBits, r.start/pageSize, roundUp(r.end, pageSize)/pageSize, true)
		}
	}
	for i := range reserveds {
		setFrames(frameBits, reserved[i].start/pageSize, reserved[i].end/pageSize, true)
	}
	for i := range frameWords {
		freeFrames += 64 - uint64(bits.OnesCount64(load(frameBits+8*i)))
	}
	allFrames = freeFrames
	frameHint = min(frameWords, 4<<30/pageSize/64) - 1 // what the boot image maps

	initPaging()
	frameHint = frameWords - 1
}

// readMultiboot reads the information structure (Multiboot 0.6.96, 3.3).
func readMultiboot() {
	flags := load32(bootInfo)
	if flags&(1<<6) != 0 {
		p := uint64(load32(bootInfo + 48))
		end := p + uint64(load32(bootInfo+44))
		for p+24 <= end {
			addRange(&memoryMap, &memoryMaps, load(p+4), load(p+4)+load(p+12), uint64(load32(p+20)))
			p += uint64(load32(p)) + 4
		}
	} else if flags&1 != 0 {
		addRange(&memoryMap, &memoryMaps, 0, uint64(load32(bootInfo+4))<<10, kindRAM)
		addRange(&memoryMap, &memoryMaps, 1<<20, 1<<20+uint64(load32(bootInfo+8))<<10, kindRAM)
	}
	if flags&(1<<3) != 0 {
		p := uint64(load32(bootInfo + 24))
		for range min(load32(bootInfo+20), maxModules) {
			addModule(uint64(load32(p)), uint64(load32(p+4)), keepName(uint64(load32(p+8))))
			p += 16
		}
	}
}

// readMultiboot2 reads the tags (Multiboot2 2.0, 3.6).
func readMultiboot2() {
	p := bootInfo + 8
	end := bootInfo + uint64(load32(bootInfo))
	for p+8 <= end {
		kind, size := load32(p), uint64(load32(p+4))
		if kind == 0 || size < 8 {
			break
		}
		switch kind {
		case 3:
			addModule(uint64(load32(p+8)), uint64(load32(p+12)), keepName(p+16))
		case 6:
			entry := uint64(load32(p + 8))
			for e := p + 16; entry >= 24 && e+24 <= p+size; e += entry {
				addRange(&memoryMap, &memoryMaps, load(e), load(e)+load(e+8), uint64(load32(e+16)))
			}
		}
		p = roundUp(p+size, 8)
	}
}

// keepName copies a module's name out of the loader's memory, which is not
// reserved, into ours.
func keepName(s uint64) uint64 {
	dst := addrOf(&moduleNames) + 256*moduleCount
	if s != 0 && moduleCount < maxModules {
		for i := range uint64(255) {
			c := load8(s + i)
			store8(dst+i, c)
			if c == 0 {
				break
			}
		}
	}
	return dst
}

// findRoom finds n bytes of RAM from 1 MiB to 4 GiB that nothing has reserved.
func findRoom(n uint64) uint64 {
	for i := range memoryMaps {
		r := memoryMap[i]
		if r.kind != kindRAM {
			continue
		}
		start := roundUp(r.start, pageSize)
		for j := uint64(0); j < reserveds; j++ {
			if q := reserved[j]; start < q.end && start+n > q.start {
				start = q.end
				j = ^uint64(0) // from the beginning again
			}
		}
		if start+n <= min(r.end, 4<<30) {
			return start
		}
	}
	return 0
}

// setFrames marks frames first to end-1 in one of the bitmaps, as far as it
// reaches.
func setFrames(bitmap, first, end uint64, taken bool) {
	for end = min(end, frameWords*64); first < end; {
		p, mask, n := bitmap+first/64*8, uint64(1)<<(first%64), uint64(1)
		if first%64 == 0 && end-first >= 64 {
			mask, n = ^uint64(0), 64
		}
		if taken {
			store(p, load(p)|mask)
		} else {
			store(p, load(p)&^mask)
		}
		first += n
	}
}

// countTaken accounts for n frames that were free.
func countTaken(n uint64) {
	freeFrames -= n
	stats[bootproto.StatPages] = max(stats[bootproto.StatPages], allFrames-freeFrames)
}

// allocFrame takes one page frame, contents unspecified; 0 if none is left.
// It takes from the top, so that large contiguous ranges stay whole below.
func allocFrame() uint64 {
	for range frameWords {
		p := frameBits + 8*frameHint
		if w := load(p); w != ^uint64(0) {
			bit := 63 - uint64(bits.LeadingZeros64(^w))
			store(p, w|1<<bit)
			countTaken(1)
			return (frameHint*64 + bit) * pageSize
		}
		if frameHint == 0 {
			frameHint = frameWords
		}
		frameHint--
	}
	return 0
}

func freeFrame(a uint64) {
	w := a / pageSize / 64
	p := frameBits + 8*w
	store(p, load(p)&^(1<<(a/pageSize%64)))
	freeFrames++
	frameHint = max(frameHint, w)
}

// allocRange takes n contiguous frames from the bottom, aligned to align bytes,
// below limit (0: anywhere); 0 if there are none.
func allocRange(n, align, limit uint64) uint64 {
	if n == 0 || n > freeFrames || n+spareFrames > freeFrames {
		return 0
	}
	top := frameWords * 64
	if limit != 0 {
		top = min(top, limit/pageSize)
	}
	step := max(align/pageSize, 1)
	for first := uint64(0); first+n <= top; {
		i := uint64(0)
		for i < n {
			w := load(frameBits + (first+i)/64*8)
			if (first+i)%64 == 0 && n-i >= 64 && w == 0 {
				i += 64
				continue
			}
			if w>>((first+i)%64)&1 != 0 {
				break
			}
			i++
		}
		if i == n {
			setFrames(frameBits, first, first+n, true)
			countTaken(n)
			return first * pageSize
		}
		// The next candidate lies behind the taken frame; a full word is
		// skipped whole.
		next := first + i + 1
		for next%64 == 0 && next < top && load(frameBits+next/64*8) == ^uint64(0) {
			next += 64
		}
		first = roundUp(next, step)
	}
	return 0
}

// freeRange gives n frames back.
func freeRange(a, n uint64) {
	first := a / pageSize
	setFrames(frameBits, first, first+n, false)
	freeFrames += n
	frameHint = max(frameHint, (first+n-1)/64)
}

// isGiven reports whether the program has all of n frames from AllocPages, so
// that it may give them back.
func isGiven(a, n uint64) bool {
	first, all := a/pageSize, frameWords*64
	if a%pageSize != 0 || n == 0 || n > all || first > all-n {
		return false
	}
	for i := first; i < first+n; i++ {
		if load(givenBits+i/64*8)>>(i%64)&1 == 0 {
			return false
		}
	}
	return true
}

// allocZeroed takes n contiguous frames of zeros; 0 if there are none.
func allocZeroed(n uint64) uint64 {
	a := uint64(0)
	if n == 1 {
		a = allocFrame()
	} else {
		a = allocRange(n, pageSize, 0)
	}
	if a != 0 {
		clearPages(a, n)
	}
	return a
}

func outOfMemory() {
	begin()
	put("ring0: out of memory: all ")
	putUint(allFrames * pageSize >> 20)
	put(" MiB that were free at boot are in use; give the machine more (vtx boot -memory)\n")
	end()
	poweroff(exitKernel)
}

// Address space. One set of 4-level tables holds everything:
//
//   - physical memory, mapped to itself: all RAM and at least the first 4 GiB,
//     except page 0, so that nil dereferences fault;
//   - in it the program's image, with the rights of its segments;
//   - what the program maps, filled in by page faults.
//
// There is no second data structure: an entry of the last kind that is not (or
// not yet) present holds the rights that the page has been given, at the
// highest level that its range fills, so that reserving a gigabyte is one store.
//
//	 63  62     58 57     56     55     54 53 52  51      12  11      0
//	+---+---------+------+------+------+--------+-----------+----------+
//	|NX |         |frame |mapped|owned | X  W R |  address  | A D P ...|
//	+---+---------+------+------+------+--------+-----------+----------+
//
// mapped: the program has mapped this; owned: the frame goes back to the
// allocator with the mapping; frame: not present, but the frame holds data
// (PROT_NONE over written pages).
const (
	ptePresent = 1 << 0
	pteWrite   = 1 << 1
	pteLarge   = 1 << 7
	pteProt    = 52 // protRead, protWrite, protExec
	pteOwned   = 1 << 55
	pteMapped  = 1 << 56
	pteFrame   = 1 << 57
	pteNX      = 1 << 63
	pteAddr    = 0x000ffffffffff000

	protRead  = 1
	protWrite = 2
	protExec  = 4

	userTop = 0x7ffffffff000
	mapBase = 1 << 44 // mappings without a hint begin here

	// What changeRange may need: three tables where either end of the range
	// splits an entry. A page fault needs three, and its page.
	tableFrames = 8

	// What is kept back for tables when all else is in use, so that a program
	// without memory can still give some back.
	spareFrames = 64
)

var (
	rootTable  uint64
	mapNext    uint64 = mapBase // where mmap without a hint looks first
	usePages1G bool
	physTop    uint64 // no physical address reaches this (MAXPHYADDR)
	farMapped  bool   // physical memory is mapped above mapTop too
)

// tableFrame takes a frame for a table. Callers see to it that there is one.
func tableFrame() uint64 {
	a := allocZeroed(1)
	if a == 0 {
		outOfMemory()
	}
	return a
}

// levelSize is the size of what an entry at a level maps; level 1 is the page
// table's.
func levelSize(level uint64) uint64 { return 1 << (12 + 9*(level-1)) }

func initPaging() {
	top, _, _, _ := asm.CPUID(0x80000000, 0)
	if top >= 0x80000001 {
		_, _, _, d := asm.CPUID(0x80000001, 0)
		usePages1G = d>>26&1 != 0
		if d>>20&1 == 0 {
			die("ring0: this processor has no execute-disable (CPUID 80000001H:EDX.NX)")
		}
	}
	physTop = 1 << 36 // where CPUID does not say
	if top >= 0x80000008 {
		width, _, _, _ := asm.CPUID(0x80000008, 0)
		physTop = 1 << min(width&0xff, 46)
	}
	asm.WRMSR(msrEFER, asm.RDMSR(msrEFER)|1<<11) // NXE
	rootTable = tableFrame()
	mapTop = roundUp(max(ramTop, 4<<30), largePage)

	// Page 0 stays unmapped. The image lies where no 1 GiB page can be; each
	// segment has its own rights, and what is between them belongs to nobody.
	mapPhysical(pageSize, bootproto.LoaderEnd, ptePresent|pteWrite)
	next := uint64(bootproto.LoaderEnd)
	segs := params + load(params+bootproto.ParamSegments)
	for range load(params + bootproto.ParamSegc) {
		addr := roundDown(load(segs+bootproto.SegmentAddr), pageSize)
		end := roundUp(load(segs+bootproto.SegmentAddr)+load(segs+bootproto.SegmentMemSize), pageSize)
		rights := uint64(ptePresent)
		flags := load(segs + bootproto.SegmentFlags)
		if flags&2 != 0 {
			rights |= pteWrite
		}
		if flags&1 == 0 {
			rights |= pteNX
		}
		mapPhysical(next, addr, ptePresent|pteWrite)
		mapPhysical(addr, end, rights)
		if imageStart == 0 {
			imageStart = addr
		}
		imageEnd, next = end, end
		segs += bootproto.SegmentBytes
	}
	mapPhysical(next, mapTop, ptePresent|pteWrite)
	asm.WriteCR3(rootTable)
}

// mapPhysical maps a range to itself with the largest pages that fit.
func mapPhysical(start, end, rights uint64) {
	for a := start; a < end; {
		table := rootTable
		for level := uint64(4); ; level-- {
			size := levelSize(level)
			e := table + a>>(12+9*(level-1))&511*8
			fits := a%size == 0 && end-a >= size
			if level == 1 || fits && load(e) == 0 && (level == 2 || level == 3 && usePages1G) {
				v := a | rights
				if level > 1 {
					v |= pteLarge
				}
				store(e, v)
				a += size
				break
			}
			if load(e)&ptePresent == 0 {
				store(e, tableFrame()|ptePresent|pteWrite)
			}
			if load(e)&pteLarge != 0 { // mapped already
				a = roundDown(a, size) + size
				break
			}
			table = load(e) & pteAddr
		}
	}
}

// What changeRange does to every page of a range.
const (
	opReserve = iota // mmap: demand-zero with the given rights; old contents go
	opRelease        // munmap
	opProtect        // mprotect: what is mapped gets the given rights
	opDiscard        // madvise(MADV_DONTNEED): contents go, rights stay
)

// changeRange applies op to the pages of [start, end). The caller has checked
// that the range is page-aligned, lies in [mapTop, userTop) without physical
// memory in it, and that tableFrames are free.
func changeRange(start, end, op, prot uint64) {
	changeTable(rootTable, 4, start, end, op, prot)
	asm.WriteCR3(rootTable) // flush: at most a few thousand entries are lost
}

func changeTable(table, level, start, end, op, prot uint64) {
	size := levelSize(level)
	for a := start; a < end; {
		next := min(roundDown(a, size)+size, end)
		whole := next-a == size
		e := table + a>>(12+9*(level-1))&511*8
		v := load(e)
		isTable := level > 1 && v&ptePresent != 0
		switch {
		case isTable && whole && (op == opReserve || op == opRelease):
			freeTable(v&pteAddr, level-1)
			store(e, changed(0, op, prot))
		case isTable:
			changeTable(v&pteAddr, level-1, a, next, op, prot)
		case whole || v == 0 && op != opReserve:
			if v&pteOwned != 0 && op != opProtect {
				freeFrame(v & pteAddr)
				v &^= pteOwned | pteAddr | pteFrame | ptePresent
			}
			store(e, changed(v, op, prot))
		default:
			// Part of an entry.
			changeTable(splitEntry(e, v)&pteAddr, level-1, a, next, op, prot)
		}
		a = next
	}
}

// changed is the entry that op makes of v, whose frame, if any, stays.
func changed(v, op, prot uint64) uint64 {
	switch op {
	case opReserve:
		return pteMapped | prot<<pteProt
	case opRelease:
		return 0
	case opProtect:
		if v&pteMapped == 0 {
			return v
		}
		if v&pteOwned == 0 {
			return pteMapped | prot<<pteProt
		}
		return frameEntry(v&pteAddr, prot)
	default:
		if v&pteMapped == 0 {
			return v
		}
		return pteMapped | v&(7<<pteProt)
	}
}

// frameEntry is the entry of an owned frame with the given rights.
func frameEntry(frame, prot uint64) uint64 {
	v := frame | pteOwned | pteMapped | prot<<pteProt
	if prot == 0 {
		return v | pteFrame
	}
	v |= ptePresent
	if prot&protWrite != 0 {
		v |= pteWrite
	}
	if prot&protExec == 0 {
		v |= pteNX
	}
	return v
}

func freeTable(table, level uint64) {
	for i := range uint64(512) {
		v := load(table + 8*i)
		switch {
		case level > 1 && v&ptePresent != 0:
			freeTable(v&pteAddr, level-1)
		case v&pteOwned != 0:
			freeFrame(v & pteAddr)
		}
	}
	freeFrame(table)
}

// What an entry that maps no table says about its addresses.
const (
	areFree     = 1 << iota
	areMapped   // by the program
	arePhysical // physical memory
)

// scan finds the first address in [start, end) that is one of what; end if
// there is none.
func scan(table, level, start, end, what uint64) uint64 {
	size := levelSize(level)
	for a := start; a < end; {
		next := min(roundDown(a, size)+size, end)
		v := load(table + a>>(12+9*(level-1))&511*8)
		switch {
		case level > 1 && v&(ptePresent|pteLarge) == ptePresent:
			if found := scan(v&pteAddr, level-1, a, next, what); found != next {
				return found
			}
		case v == 0 && what&areFree != 0,
			v&pteMapped != 0 && what&areMapped != 0,
			v != 0 && v&pteMapped == 0 && what&arePhysical != 0:
			return a
		}
		a = next
	}
	return end
}

// isFree reports whether nothing is mapped in [start, end).
func isFree(start, end uint64) bool {
	return scan(rootTable, 4, start, end, areMapped|arePhysical) == end
}

// findFree finds n bytes of address space for a mapping, with a page to spare
// on either side; 0 if there are none. Addresses are used again only when all
// have been used once.
func findFree(n uint64) uint64 {
	n += 2 * pageSize
	for range 2 {
		for a := mapNext; n <= userTop && a <= userTop-n; {
			taken := scan(rootTable, 4, a, a+n, areMapped|arePhysical)
			if taken == a+n {
				mapNext = a + n - pageSize
				return a + pageSize
			}
			a = scan(rootTable, 4, taken, userTop, areFree)
		}
		mapNext = mapBase
	}
	return 0
}

// inProgram reports whether [a, a+n) lies where the program may map.
func inProgram(a, n uint64) bool {
	return a >= mapTop && a <= userTop && n <= userTop-a
}

// entry finds the level-1 entry for a, which the program has mapped, making
// tables on the way.
func entry(a uint64) uint64 {
	table := rootTable
	for level := uint64(4); level > 1; level-- {
		e := table + a>>(12+9*(level-1))&511*8
		v := load(e)
		if v&ptePresent == 0 {
			v = splitEntry(e, v)
		}
		table = v & pteAddr
	}
	return table + a>>12&511*8
}

// splitEntry puts a table of 512 entries like v in v's place at e.
func splitEntry(e, v uint64) uint64 {
	t := tableFrame()
	for i := range uint64(512) {
		store(t+8*i, v)
	}
	v = t | ptePresent | pteWrite
	store(e, v)
	return v
}

// Bits of a page fault's error code (SDM Vol. 3A 4.7).
const (
	faultPresent = 1 << 0
	faultWrite   = 1 << 1
	faultFetch   = 1 << 4
)

// lookup finds the entry that says what a is, at whichever level.
func lookup(a uint64) (v, level uint64) {
	table := rootTable
	for level = 4; ; level-- {
		v = load(table + a>>(12+9*(level-1))&511*8)
		if level == 1 || v&(ptePresent|pteLarge) != ptePresent {
			return v, level
		}
		table = v & pteAddr
	}
}

// What came of a page fault.
const (
	faultBad      = iota // the program may not do this
	faultServed          // the access can be tried again
	faultNoMemory        // it may, but there is no frame for it
)

// pageFault gives a demand-zero page its frame.
func pageFault(a, code uint64) uint64 {
	if code&faultPresent != 0 || a >= userTop {
		return faultBad
	}
	// A page that can be written or executed can be read (SDM Vol. 3A 4.6.1).
	v, _ := lookup(a)
	prot := v >> pteProt & 7
	need := uint64(protRead | protWrite | protExec)
	if code&faultWrite != 0 {
		need = protWrite
	} else if code&faultFetch != 0 {
		need = protExec
	}
	if v&pteMapped == 0 || prot&need == 0 || v&ptePresent != 0 {
		return faultBad
	}
	if freeFrames < spareFrames {
		return faultNoMemory
	}

	// A program that walks through fresh memory gets some pages ahead.
	e := entry(a)
	count := uint64(1)
	if i := e & 0xfff / 8; i > 0 && load(e-8)&ptePresent != 0 {
		count = min(16, 512-i)
	}
	for i := range count {
		if load(e+8*i) != v || freeFrames < spareFrames && i > 0 {
			break
		}
		store(e+8*i, frameEntry(allocZeroed(1), prot))
	}
	return faultServed
}

// present makes [a, a+n) accessible to the kernel; it reports whether the
// program may read, or write, all of it.
func present(a, n uint64, write bool) bool {
	if n == 0 {
		return true
	}
	if n > userTop || a > userTop-n {
		return false
	}
	for p := roundDown(a, pageSize); p < a+n; p += pageSize {
		if !presentPage(p, write) {
			return false
		}
	}
	return true
}

func presentPage(a uint64, write bool) bool {
	v, _ := lookup(a)
	if v&ptePresent != 0 {
		return (!write || v&pteWrite != 0) && (v&pteMapped != 0 || isPrograms(a, write))
	}
	code := uint64(0)
	if write {
		code = faultWrite
	}
	return pageFault(a, code) == faultServed
}

// isPrograms reports whether a, in physical memory, is for the program to use:
// not RAM that is free, or that the kernel or the program's own mappings use.
func isPrograms(a uint64, write bool) bool {
	if imageStart <= a && a < imageEnd || a < 1<<20 || active == 0 {
		return true
	}
	if a-params < load(params+bootproto.ParamSize) {
		return !write // the arguments and the environment
	}
	if f := a / pageSize; f >= frameWords*64 || load(givenBits+f/64*8)>>(f%64)&1 != 0 {
		return true
	}
	for i := range moduleCount {
		if m := &modules[i]; a-m.addr < roundUp(m.size, pageSize) {
			return true
		}
	}
	for i := range memoryMaps {
		if r := &memoryMap[i]; r.kind == kindRAM && r.start <= a && a < r.end {
			return false
		}
	}
	return true
}

// translate gives the physical address behind a mapped one.
func translate(a uint64) uint64 {
	v, level := lookup(a)
	size := levelSize(level)
	return v&pteAddr&^(size-1) | a&(size-1)
}
