package ring0

import (
	"fmt"
	"syscall"
	"time"
	"unsafe"

	"github.com/govtx/vtx/asm"
	"github.com/govtx/vtx/internal/bootproto"
)

func init() {
	// The boot image finds the kernel through this block; the reference keeps
	// it in the program.
	if bootBlockAddr() == 0 {
		panic("ring0: no boot block")
	}
	if Active() {
		dropEarlyCoverage()
	}
}

// Active reports whether the program runs in ring 0.
func Active() bool { return active != 0 }

func call(nr, a, b, c uintptr) (uintptr, syscall.Errno) {
	r, _, errno := syscall.RawSyscall(nr, a, b, c)
	return r, errno
}

// AllocPages takes n contiguous pages of RAM, zeroed. They are not the garbage
// collector's: Free gives them back, and pointers in them keep nothing alive. The
// error wraps ErrNoMemory if no RAM that is free fits.
func AllocPages(n int) (Pages, error) { return AllocAligned(n, PageSize, 0) }

// AllocAligned is AllocPages at a multiple of align, a power of two, and wholly
// below limit, if limit is not 0.
func AllocAligned(n int, align, limit uint64) (Pages, error) {
	if !Active() {
		return Pages{}, ErrNotActive
	}
	if n <= 0 || align&(align-1) != 0 {
		return Pages{}, fmt.Errorf("ring0: cannot allocate %d pages aligned to %#x: the count must be positive and the alignment a power of two", n, align)
	}
	p, errno := call(callAllocPages, uintptr(n), uintptr(align), uintptr(limit))
	if errno != 0 {
		return Pages{}, fmt.Errorf("%w: %d pages aligned to %#x below %#x", ErrNoMemory, n, align, limit)
	}
	return Pages{uint64(p), n}, nil
}

// Bytes is the memory itself.
func (p Pages) Bytes() []byte {
	return unsafe.Slice(mem[byte](p.phys), p.n*PageSize)
}

// Free gives the pages back. Using them afterwards, or freeing them twice, is
// the caller's error; the second is reported.
func (p Pages) Free() error {
	if !Active() {
		return ErrNotActive
	}
	if _, errno := call(callFreePages, uintptr(p.phys), uintptr(p.n), 0); errno != 0 {
		return fmt.Errorf("ring0: %d pages at %#x are not allocated", p.n, p.phys)
	}
	return nil
}

// Physical gives n bytes of physical memory at addr: RAM, or a device's
// registers. RAM and the first 4 GiB, page 0 excepted, are always mapped; other
// ranges are mapped by the first call that names them, if their addresses are
// still free.
func Physical(addr uint64, n int) ([]byte, error) {
	if !Active() {
		return nil, ErrNotActive
	}
	end := addr + uint64(n)
	if n <= 0 || addr < PageSize || end < addr || end > physTop {
		return nil, fmt.Errorf("ring0: %d bytes of physical memory at %#x: the range must lie from %#x to %#x, this processor's last", n, addr, PageSize, physTop)
	}
	if end > mapTop {
		_, errno := call(callMapPhysical, uintptr(addr), uintptr(n), 0)
		if errno == syscall.ENOMEM {
			return nil, fmt.Errorf("%w: tables to map %d bytes at %#x", ErrNoMemory, n, addr)
		}
		if errno != 0 && !mappedToItself(addr, end) {
			return nil, fmt.Errorf("ring0: physical memory at %#x cannot be mapped: the program uses that address", addr)
		}
	}
	return unsafe.Slice(mem[byte](addr), n), nil
}

func mappedToItself(addr, end uint64) bool {
	for a := addr &^ (PageSize - 1); a < end; a += PageSize {
		if p, err := PhysAddr(uintptr(a)); err != nil || p != a {
			return false
		}
	}
	return true
}

// PhysAddr gives the physical address behind a mapped address, bringing its
// page in if need be. It holds until the page is unmapped; memory of the Go heap
// and of stacks keeps its address only while it is in use, and the next page may
// lie anywhere.
func PhysAddr(virtual uintptr) (uint64, error) {
	if !Active() {
		return 0, ErrNotActive
	}
	p, errno := call(callTranslate, virtual, 0, 0)
	if errno != 0 {
		return 0, fmt.Errorf("ring0: nothing is mapped at %#x", virtual)
	}
	return uint64(p), nil
}

// MemoryMap is what the firmware reports, in its order.
func MemoryMap() []Range { return ranges(memoryMap[:memoryMaps]) }

// ReservedMemory is what was taken out of usable memory before the program
// started: the loader, the program's image, modules, the first MiB.
func ReservedMemory() []Range { return ranges(reserved[:reserveds]) }

// ImageRanges is where the program's own segments lie, in order of address.
func ImageRanges() []Range {
	var out []Range
	for _, r := range ReservedMemory() {
		if r.Kind == Image {
			out = append(out, r)
		}
	}
	return out
}

func ranges(in []physRange) []Range {
	out := make([]Range, len(in))
	for i, r := range in {
		out[i] = Range{r.start, r.end, Kind(r.kind)}
	}
	return out
}

// FreeMemory gives the bytes of RAM that are free now and that were free at boot.
func FreeMemory() (free, total uint64) {
	return freeFrames * PageSize, allFrames * PageSize
}

// Modules are the files handed over at boot, in order.
func Modules() []File {
	out := make([]File, moduleCount)
	for i := range out {
		m := &modules[i]
		out[i] = File{
			Name: unsafe.String(mem[byte](m.name), int(m.nameLen)),
			Phys: m.addr,
		}
		if m.size > 0 {
			out[i].Data = unsafe.Slice(mem[byte](m.addr), int(m.size))
		}
	}
	return out
}

// Ticks is the time-stamp counter since boot. On Bochs it counts instructions,
// exactly and without noise.
func Ticks() uint64 { return asm.RDTSC() - bootTSC }

// TicksPerSecond is the rate at which Ticks makes time pass.
func TicksPerSecond() uint64 { return tscHz }

// ReadStats gives the kernel's counters.
func ReadStats() Stats {
	return Stats{
		Syscalls: stats[bootproto.StatSyscalls],
		Faults:   stats[bootproto.StatFaults],
		Ticks:    stats[bootproto.StatTicks],
		Switches: stats[bootproto.StatSwitches],
		Threads:  stats[bootproto.StatThreads],
		Peak:     stats[bootproto.StatPages],
		Skipped:  skipped,
	}
}

// IRQ is the vector of the interrupt line n, 0 to 15, of the 8259s. Line 0 is
// the timer, which the kernel keeps for itself.
func IRQ(n uint8) uint8 { return vectorIRQ + n }

// WaitInterrupt waits until an interrupt arrives on vector, 32 to 255, and gives
// the number that arrived since the last call. Only the calling goroutine waits.
// A negative timeout waits for ever; 0 asks without waiting. The error is
// ErrTimeout when none came, and ErrLent after LendInterrupts. Waiting for a line
// of the 8259s unmasks it.
func WaitInterrupt(vector uint8, timeout time.Duration) (int, error) {
	if !Active() {
		return 0, ErrNotActive
	}
	timeout = max(timeout, -1) // the kernel's "for ever"
	if vector < 32 || vector == vectorIRQ {
		return 0, fmt.Errorf("ring0: vector %d is not one to wait for: exceptions are delivered as Go panics, and %d is the timer's", vector, vectorIRQ)
	}
	for {
		n, _, errno := syscall.Syscall(callWaitVector, uintptr(vector), uintptr(timeout), 0)
		switch {
		case errno == 0:
			return int(n), nil
		case errno == syscall.EPERM:
			return 0, ErrLent
		case errno != syscall.EINTR:
			return 0, ErrTimeout
		}
	}
}

// SetVector makes the processor enter handler on a vector, in place of the
// kernel. The handler is machine code, entered with interrupts off on the
// kernel's trap stack, for vector 2 on that of NMIs, with the frame of SDM Vol. 3A 6.14.2 (and the error code,
// where the exception has one); it must keep every register, must not call Go,
// and must end with IRETQ. Vectors that the Go runtime lives on (0, 6, 13 and 14,
// and the timer) are best left alone. After LendInterrupts only exceptions can have
// a handler, vectors 0 to 31; for others the error is ErrLent.
func SetVector(vector uint8, handler uintptr) error {
	if !Active() {
		return ErrNotActive
	}
	_, errno := call(callSetGate, uintptr(vector), handler, 0)
	if errno == syscall.EPERM {
		return fmt.Errorf("no handler for vector %d: %w", vector, ErrLent)
	}
	if errno != 0 {
		return fmt.Errorf("ring0: no handler for vector %d", vector)
	}
	return nil
}

// LendInterrupts gives interrupts away for good: to a guest that has the
// interrupt controllers passed through, say. The 8259s get the firmware's vectors
// (08h and 70h) and masks back and the 8254's counter 0 its mode, at 18.2 Hz; the
// local APIC never was the kernel's. From then on RFLAGS.IF is 0 in every thread,
// and must stay so: an interrupt that comes here all the same ends the program.
//
// All else goes on, but without a timer to interrupt it: a thread runs until it
// waits, sleeps or yields. A thread that does none of this, such as one that runs a
// guest in a loop, keeps the processor; a garbage collection that it needs runs
// when it allocates. Time comes from the time-stamp counter. WaitInterrupt and
// SetVector give ErrLent, to those who wait already too.
func LendInterrupts() error {
	if !Active() {
		return ErrNotActive
	}
	call(callLendInterrupts, 0, 0, 0)
	return nil
}
