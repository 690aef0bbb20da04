package ring0_test

import (
	"errors"
	"math"
	"os"
	"runtime"
	"testing"
	"time"
	"unsafe"

	"pgregory.net/rapid"

	"github.com/govtx/vtx/asm"
	"github.com/govtx/vtx/internal/require"
	"github.com/govtx/vtx/internal/ring0test"
	"github.com/govtx/vtx/ring0"
)

func TestOutsideRing0(t *testing.T) {
	if ring0.Active() {
		t.Skip("this test is about ordinary processes")
	}
	_, err := ring0.AllocPages(1)
	require.ErrorIs(t, err, ring0.ErrNotActive)
	_, err = ring0.Physical(0x1000, 1)
	require.ErrorIs(t, err, ring0.ErrNotActive)
	_, err = ring0.PhysAddr(0x400000)
	require.ErrorIs(t, err, ring0.ErrNotActive)
	_, err = ring0.WaitInterrupt(ring0.IRQ(8), 0)
	require.ErrorIs(t, err, ring0.ErrNotActive)
	require.ErrorIs(t, ring0.SetVector(100, 1), ring0.ErrNotActive)
	require.ErrorIs(t, ring0.Pages{}.Free(), ring0.ErrNotActive)
	require.Empty(t, ring0.MemoryMap())
	require.Empty(t, ring0.Modules())
}

func TestPrivilegeLevel(t *testing.T) {
	needRing0(t)
	require.Zero(t, asm.ReadCS()&3)
	require.NotZero(t, asm.STR(), "VM exits need a task register")
}

// Allocations and frees in any order: no page is handed out twice, contents
// are zero, alignment and limit are kept, and all of it comes back.
func TestAllocPages(t *testing.T) {
	needRing0(t)
	runtime.GC()
	rapid.Check(t, func(t *rapid.T) {
		owner := make(map[uint64]int) // page frame -> allocation
		var live []ring0.Pages
		t.Repeat(map[string]func(*rapid.T){
			"alloc": func(t *rapid.T) {
				n := rapid.IntRange(1, 70).Draw(t, "pages")
				align := uint64(ring0.PageSize) << rapid.IntRange(0, 9).Draw(t, "align")
				limit := rapid.SampledFrom([]uint64{0, 1 << 32, 64 << 20}).Draw(t, "limit")
				p, err := ring0.AllocAligned(n, align, limit)
				if errors.Is(err, ring0.ErrNoMemory) && limit == 64<<20 {
					return
				}
				require.NoError(t, err)
				if p.Phys()%align != 0 || limit != 0 && p.Phys()+uint64(n)*ring0.PageSize > limit {
					t.Fatalf("%d pages at %#x: not aligned to %#x below %#x", n, p.Phys(), align, limit)
				}
				b := p.Bytes()
				require.Len(t, b, n*ring0.PageSize)
				for i := range n {
					frame := p.Phys()/ring0.PageSize + uint64(i)
					if owner[frame] != 0 {
						t.Fatalf("page %#x was handed out twice", frame*ring0.PageSize)
					}
					owner[frame] = 1
					for _, at := range []int{0, 1, 2048, ring0.PageSize - 1} {
						if b[i*ring0.PageSize+at] != 0 {
							t.Fatalf("page %#x is not zero", frame*ring0.PageSize)
						}
						b[i*ring0.PageSize+at] = 0xee
					}
				}
				live = append(live, p)
			},
			"free": func(t *rapid.T) {
				if len(live) == 0 {
					t.Skip("nothing to free")
				}
				i := rapid.IntRange(0, len(live)-1).Draw(t, "which")
				p := live[i]
				require.NoError(t, p.Free())
				for j := range p.Len() {
					delete(owner, p.Phys()/ring0.PageSize+uint64(j))
				}
				live = append(live[:i], live[i+1:]...)
			},
		})
		for _, p := range live {
			require.NoError(t, p.Free())
		}
	})
}

func TestAllocPagesRefuses(t *testing.T) {
	needRing0(t)
	for _, n := range []int{0, -1} {
		_, err := ring0.AllocPages(n)
		require.Error(t, err)
	}
	_, err := ring0.AllocAligned(1, 3*ring0.PageSize, 0)
	require.ErrorContains(t, err, "power of two")
	_, err = ring0.AllocPages(math.MaxInt)
	require.ErrorIs(t, err, ring0.ErrNoMemory)
	_, err = ring0.AllocAligned(1, ring0.PageSize, 1<<20)
	require.ErrorIs(t, err, ring0.ErrNoMemory, "the first MiB is not for allocation")

	p, err := ring0.AllocPages(2)
	require.NoError(t, err)
	require.NoError(t, p.Free())
	require.ErrorContains(t, p.Free(), "not allocated")
}

func TestFreeMemoryBalances(t *testing.T) {
	needRing0(t)
	p, err := ring0.AllocPages(256) // brings in what the calls themselves touch
	require.NoError(t, err)
	before, total := ring0.FreeMemory()
	require.NoError(t, p.Free())
	after, _ := ring0.FreeMemory()
	require.Equal(t, before+256*ring0.PageSize, after)
	require.Less(t, after, total)
}

func TestPhysAddr(t *testing.T) {
	needRing0(t)
	p, err := ring0.AllocPages(1)
	require.NoError(t, err)
	defer p.Free()
	got, err := ring0.PhysAddr(uintptr(p.Phys()) + 5)
	require.NoError(t, err)
	require.Equal(t, p.Phys()+5, got, "allocated pages are mapped to themselves")

	// A heap object, seen through its physical address.
	object := make([]uint64, 512)
	object[7] = 0x1234567
	phys, err := ring0.PhysAddr(uintptr(unsafe.Pointer(&object[7])))
	require.NoError(t, err)
	b, err := ring0.Physical(phys, 8)
	require.NoError(t, err)
	require.Equal(t, uint64(0x1234567), *(*uint64)(unsafe.Pointer(&b[0])))

	for _, bad := range []uint64{0, 8, 1 << 46, 1 << 47, 1 << 63, ^uint64(0)} {
		_, err := ring0.PhysAddr(uintptr(bad))
		require.ErrorContains(t, err, "nothing is mapped", "%#x", bad)
	}
}

func TestPhysical(t *testing.T) {
	needRing0(t)
	for _, bad := range []struct {
		addr uint64
		n    int
	}{{0, 8}, {4095, 1}, {4096, 0}, {4096, -1}, {1 << 46, 1}, {^uint64(0), 8}} {
		_, err := ring0.Physical(bad.addr, bad.n)
		require.Error(t, err, "%#x+%d", bad.addr, bad.n)
	}
	// The local APIC's version register: a device, not memory.
	b, err := ring0.Physical(0xfee00000, ring0.PageSize)
	require.NoError(t, err)
	version := *(*uint32)(unsafe.Pointer(&b[0x30]))
	require.NotZero(t, version)
	require.NotEqual(t, ^uint32(0), version)
	// A range beyond all memory is mapped when it is asked for.
	for range 2 {
		_, err = ring0.Physical(1<<35, ring0.PageSize)
		require.NoError(t, err)
	}
	// What the program has mapped is taken.
	heap := make([]byte, 1)
	_, err = ring0.Physical(uint64(uintptr(unsafe.Pointer(&heap[0]))), 1)
	require.Error(t, err)
}

func TestMemoryMap(t *testing.T) {
	needRing0(t)
	var ram uint64
	for _, r := range ring0.MemoryMap() {
		require.Less(t, r.Start, r.End)
		if r.Kind == ring0.Usable {
			ram += r.End - r.Start
		}
	}
	_, total := ring0.FreeMemory()
	require.Greater(t, ram, total)
	require.Less(t, ram-total, uint64(64<<20), "RAM that is neither free nor reserved")

	// This very function lies in the image, and every range in RAM.
	pc, _, _, _ := runtime.Caller(0)
	inImage := false
	for _, r := range ring0.ImageRanges() {
		inImage = inImage || r.Start <= uint64(pc) && uint64(pc) < r.End
		require.Equal(t, ring0.Image, r.Kind)
	}
	require.True(t, inImage, "%#x is in none of %v", pc, ring0.ImageRanges())
	kinds := make(map[ring0.Kind]bool)
	for _, r := range ring0.ReservedMemory() {
		kinds[r.Kind] = true
		require.NotContains(t, r.String(), "Kind(")
	}
	for _, k := range []ring0.Kind{ring0.Low, ring0.Loader, ring0.Image, ring0.Frames} {
		require.True(t, kinds[k], "nothing is reserved for %v", k)
	}
}

func TestKindStrings(t *testing.T) {
	require.Equal(t, "[0x000000001000-0x000000002000) usable", ring0.Range{Start: 0x1000, End: 0x2000, Kind: ring0.Usable}.String())
	require.Equal(t, "Kind(77)", ring0.Kind(77).String())
}

func TestClock(t *testing.T) {
	needRing0(t)
	require.NotZero(t, ring0.TicksPerSecond())
	// Sleeping moves the wall clock without moving the counter of a machine
	// whose sleep is skipped, and with it elsewhere.
	start, ticks, skipped := time.Now(), ring0.Ticks(), ring0.ReadStats().Skipped
	time.Sleep(time.Second)
	elapsed := time.Since(start)
	counted := time.Duration(float64(ring0.Ticks()-ticks) / float64(ring0.TicksPerSecond()) * 1e9)
	counted += time.Duration(ring0.ReadStats().Skipped - skipped)
	require.Less(t, (elapsed - counted).Abs(), 10*time.Millisecond)
}

func TestTicksAreExact(t *testing.T) {
	needRing0(t)
	sum := 0
	work := func() {
		for i := range 1000 {
			sum += i
		}
	}
	ring0test.Ticks(work) // pages come in
	first := ring0test.Ticks(work)
	for range 10 {
		if n := ring0test.Ticks(work); n != first && ring0.TicksPerSecond() == 50_000_000 {
			t.Fatalf("the same work took %d and %d instructions", first, n)
		}
	}
}

// machineCode makes a function of code in a page of its own.
func machineCode(t *testing.T, code []byte) (f func(), page ring0.Pages) {
	page, err := ring0.AllocPages(1)
	require.NoError(t, err)
	copy(page.Bytes(), code)
	entry := page.Phys()
	closure := &entry
	return *(*func())(unsafe.Pointer(&closure)), page
}

func TestSetVector(t *testing.T) {
	needRing0(t)
	const vector = 0x70
	f, page := machineCode(t, []byte{
		0xcd, vector, // INT 70H
		0xc3,                   // RET
		0, 0, 0, 0, 0, 0, 0, 0, // 8-byte counter at 8
		0, 0, 0, 0, 0,
		0x48, 0xff, 0x05, 0xf1, 0xff, 0xff, 0xff, // INCQ -15(RIP), which is 8
		0x48, 0xcf, // IRETQ
	})
	defer page.Free()
	require.NoError(t, ring0.SetVector(vector, uintptr(page.Phys()+16)))
	for range 5 {
		f()
	}
	require.Equal(t, uint64(5), *(*uint64)(unsafe.Pointer(&page.Bytes()[8])))
	require.Error(t, ring0.SetVector(vector, 0))
}

func TestWaitInterrupt(t *testing.T) {
	needRing0(t)
	_, err := ring0.WaitInterrupt(13, 0)
	require.ErrorContains(t, err, "exceptions")
	_, err = ring0.WaitInterrupt(ring0.IRQ(0), 0)
	require.ErrorContains(t, err, "timer")
	_, err = ring0.WaitInterrupt(0x71, 0)
	require.ErrorIs(t, err, ring0.ErrTimeout)
	_, err = ring0.WaitInterrupt(0x71, 5*time.Millisecond)
	require.ErrorIs(t, err, ring0.ErrTimeout)

	// A software interrupt that comes before anybody waits is not lost.
	f, page := machineCode(t, []byte{0xcd, 0x71, 0xc3})
	defer page.Free()
	f()
	f()
	n, err := ring0.WaitInterrupt(0x71, 0)
	require.NoError(t, err)
	require.Equal(t, 2, n)

	// One that comes later wakes the goroutine that waits.
	got := make(chan error)
	go func() {
		_, err := ring0.WaitInterrupt(0x71, time.Minute)
		got <- err
	}()
	time.Sleep(time.Millisecond)
	f()
	require.NoError(t, <-got)
}

// The clock chip interrupts on line 8, through both 8259s.
func TestWaitHardwareInterrupt(t *testing.T) {
	needRing0(t)
	cmos := func(reg, value uint8) {
		asm.OUT8(0x70, reg|0x80)
		asm.OUT8(0x71, value)
	}
	read := func(reg uint8) uint8 {
		asm.OUT8(0x70, reg|0x80)
		return asm.IN8(0x71)
	}
	b := read(0xb)
	cmos(0xa, read(0xa)&0xf0|6) // 1,024 Hz
	cmos(0xb, b|0x40)           // periodic interrupt
	defer func() { cmos(0xb, b); read(0xc) }()
	for range 5 {
		read(0xc) // acknowledges, so that the next one can come
		n, err := ring0.WaitInterrupt(ring0.IRQ(8), time.Minute)
		require.NoError(t, err)
		require.Greater(t, n, 0)
	}
}

func TestFaultsOfInstructions(t *testing.T) {
	needRing0(t)
	for range 100 {
		err := asm.Try(func() { asm.RDMSR(0xdeadbeef) })
		var f *asm.Fault
		if !errors.As(err, &f) || f.Instruction != "RDMSR" || f.Vector != 13 {
			t.Fatalf("RDMSR of no MSR: %v", err)
		}
		err = asm.Try(func() { asm.VMXOFF() })
		if !errors.As(err, &f) || f.Instruction != "VMXOFF" || f.Vector != 6 {
			t.Fatalf("VMXOFF outside VMX operation: %v", err)
		}
	}
}

func TestStats(t *testing.T) {
	needRing0(t)
	a := ring0.ReadStats()
	for range 10 {
		runtime.Gosched()
		os.Getppid()
	}
	b := ring0.ReadStats()
	require.Greater(t, b.Syscalls, a.Syscalls)
	require.NotZero(t, b.Faults)
	require.NotZero(t, b.Ticks)
	require.NotZero(t, b.Threads)
	require.NotZero(t, b.Peak)
}
