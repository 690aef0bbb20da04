//go:build !(linux && amd64)

package ring0

import "time"

// The kernel leans on the Linux system calls of an amd64 program; elsewhere no
// program is ever in ring 0.

// Active reports whether the program runs in ring 0.
func Active() bool { return false }

// AllocPages takes n contiguous pages of RAM, zeroed.
func AllocPages(n int) (Pages, error) { return Pages{}, ErrNotActive }

// AllocAligned is AllocPages at a multiple of align and below limit.
func AllocAligned(n int, align, limit uint64) (Pages, error) { return Pages{}, ErrNotActive }

// Bytes is the memory itself.
func (p Pages) Bytes() []byte { return nil }

// Free gives the pages back.
func (p Pages) Free() error { return ErrNotActive }

// Physical gives n bytes of physical memory at addr.
func Physical(addr uint64, n int) ([]byte, error) { return nil, ErrNotActive }

// PhysAddr gives the physical address behind a mapped address.
func PhysAddr(virtual uintptr) (uint64, error) { return 0, ErrNotActive }

// MemoryMap is what the firmware reports.
func MemoryMap() []Range { return nil }

// ReservedMemory is what was taken before the program started.
func ReservedMemory() []Range { return nil }

// ImageRanges is where the program's own segments lie.
func ImageRanges() []Range { return nil }

// FreeMemory gives the bytes of RAM that are free now and that were free at boot.
func FreeMemory() (free, total uint64) { return 0, 0 }

// Modules are the files handed over at boot.
func Modules() []File { return nil }

// Ticks is the time-stamp counter since boot.
func Ticks() uint64 { return 0 }

// TicksPerSecond is the rate at which Ticks makes time pass.
func TicksPerSecond() uint64 { return 0 }

// ReadStats gives the kernel's counters.
func ReadStats() Stats { return Stats{} }

// IRQ is the vector of an interrupt line.
func IRQ(n uint8) uint8 { return 0x20 + n }

// WaitInterrupt waits until an interrupt arrives on vector.
func WaitInterrupt(vector uint8, timeout time.Duration) (int, error) { return 0, ErrNotActive }

// SetVector makes the processor enter handler on a vector.
func SetVector(vector uint8, handler uintptr) error { return ErrNotActive }

// LendInterrupts gives interrupts away for good.
func LendInterrupts() error { return ErrNotActive }
