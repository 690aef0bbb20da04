package ring0

import (
	"errors"
	"fmt"
)

// ErrNotActive is the error of everything here that needs ring 0, in a program
// that runs as an ordinary process.
var ErrNotActive = errors.New("ring0: this program runs as an ordinary process; boot it with 'vtx boot'")

// ErrNoMemory says that no free physical memory fits a request.
var ErrNoMemory = errors.New("ring0: no free physical memory fits")

// ErrTimeout says that an interrupt did not come in time.
var ErrTimeout = errors.New("ring0: no interrupt came in time")

// ErrLent is the error of what needs interrupts, after LendInterrupts.
var ErrLent = errors.New("ring0: interrupts are lent (LendInterrupts): they go to whoever has the controllers now, and none comes here")

// PageSize is the size of a page frame in bytes.
const PageSize = 4096

// Kind says what a range of physical memory is.
type Kind uint32

// The firmware's kinds are those of ACPI 6.5, table 15.4. From Loader on they
// are this package's, and lie within usable memory.
const (
	Usable     Kind = 1      // free RAM, or taken by what the kinds below say
	Reserved   Kind = 2      // not for use: firmware, devices
	ACPITables Kind = 3      // ACPI tables, usable once they have been read
	ACPINVS    Kind = 4      // ACPI non-volatile storage
	Unusable   Kind = 5      // bad RAM
	Loader     Kind = 1 << 8 // the boot image's own code and parameters
	Image      Kind = 2 << 8 // a segment of the program
	Module     Kind = 3 << 8 // a file handed over at boot
	Frames     Kind = 4 << 8 // the page allocator's bitmap
	Low        Kind = 5 << 8 // the first MiB: firmware and real-mode code
)

// String gives the kind in words.
func (k Kind) String() string {
	switch k {
	case Usable:
		return "usable"
	case Reserved:
		return "reserved"
	case ACPITables:
		return "ACPI tables"
	case ACPINVS:
		return "ACPI NVS"
	case Unusable:
		return "unusable"
	case Loader:
		return "boot loader"
	case Image:
		return "program image"
	case Module:
		return "module"
	case Frames:
		return "frame bitmap"
	case Low:
		return "first MiB"
	}
	return fmt.Sprintf("Kind(%d)", uint32(k))
}

// Range is the physical addresses from Start up to, not including, End.
type Range struct {
	Start, End uint64
	Kind       Kind
}

// String prints the range as the firmware's map is usually shown.
func (r Range) String() string {
	return fmt.Sprintf("[%#012x-%#012x) %v", r.Start, r.End, r.Kind)
}

// Pages is contiguous physical memory from AllocPages. It is mapped at its
// physical address, so a byte's address as a pointer is its physical address.
type Pages struct {
	phys uint64
	n    int
}

// Phys is the physical address of the first byte.
func (p Pages) Phys() uint64 { return p.phys }

// Len is the number of pages.
func (p Pages) Len() int { return p.n }

// File is a file that was handed over at boot: a module of the boot image, or of
// a multiboot loader. The program can also open it by its name, for reading.
type File struct {
	Name string
	Phys uint64 // physical address, page-aligned
	Data []byte // its contents in place, not a copy
}

// Stats counts what the kernel below the program has done since boot.
type Stats struct {
	Syscalls uint64 // system calls served
	Faults   uint64 // page faults that gave a page
	Ticks    uint64 // timer interrupts
	Switches uint64 // thread switches
	Threads  uint64 // threads made
	Peak     uint64 // most page frames in use at once
	Skipped  uint64 // nanoseconds of sleep that were jumped over
}
