// Guest does what its first argument says. boot_test.go boots it.
package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"github.com/govtx/vtx/asm"
	"github.com/govtx/vtx/ring0"
)

func main() {
	defer fmt.Println("deferred")
	args := os.Args[1:]
	if args[0] == "lend" {
		lend()
		args = args[1:]
	}
	acts[args[0]](args[1:])
}

var acts = map[string]func([]string){
	"echo": func(args []string) {
		fmt.Printf("%q\n", args)
		fmt.Println(os.Getenv("VTX_GREETING"))
		fmt.Fprintln(os.Stderr, "to stderr")
	},
	"exit":     func([]string) { os.Exit(42) },
	"panic":    func([]string) { deep(3) },
	"nil":      func([]string) { fmt.Println(*nowhere) },
	"throw":    func([]string) { new(sync.Mutex).Unlock() },
	"deadlock": func([]string) { select {} },
	"overflow": func([]string) { debug.SetMaxStack(1 << 20); endless(0) },
	"abort":    func([]string) { syscall.Kill(syscall.Getpid(), syscall.SIGTERM); time.Sleep(time.Hour) },
	"spin": func([]string) {
		fmt.Println("spinning")
		for {
		}
	},
	"illegal": func([]string) { execute(0x0f, 0x0b) },                         // UD2
	"reset":   func([]string) { execute(0x0f, 0x01, 0x1d, 0, 0, 0, 0, 0xcc) }, // LIDT of nonsense, INT3
	"sleep":   func([]string) { time.Sleep(time.Hour); fmt.Println("slept") },
	"devour":  func([]string) { devour() },
	"heap":    func([]string) { heap(2 << 30) },
	"memory":  func([]string) { memory() },
	"files":   func([]string) { files() },
	"modules": func([]string) { modules() },
	"nap": func([]string) {
		start, ticks := time.Now(), asm.RDTSC()
		time.Sleep(50 * time.Millisecond)
		fmt.Println("napped", time.Since(start) >= 50*time.Millisecond && asm.RDTSC()-ticks >= ring0.TicksPerSecond()/20)
	},
	"devices": devices,
	"pending": pending,
	"base":    base,
	"sti":     sti,
	"placed":  placed,
	"repeat":  func([]string) { fmt.Println(ring0.Ticks(), time.Now().UnixNano()) },
}

var nowhere *int

//go:noinline
func deep(n int) {
	if n == 0 {
		panic("on purpose")
	}
	deep(n - 1)
}

//go:noinline
func endless(n int) int { return endless(n+1) + 1 }

// execute runs machine code.
func execute(code ...byte) {
	p, err := ring0.AllocPages(1)
	if err != nil {
		panic(err)
	}
	copy(p.Bytes(), code)
	entry := p.Phys()
	closure := &entry
	(*(*func())(unsafe.Pointer(&closure)))()
}

func devour() {
	var keep [][]byte
	for {
		b := make([]byte, 1<<20)
		for i := range b {
			b[i] = 1
		}
		keep = append(keep, b)
		_ = keep
	}
}

// heap keeps n bytes alive in many objects through collections.
func heap(n int) {
	const object = 64 << 10
	keep := make([][]byte, n/object)
	for i := range keep {
		keep[i] = make([]byte, object)
		for j := 0; j < object; j += ring0.PageSize {
			keep[i][j] = byte(i)
		}
	}
	runtime.GC()
	for i, b := range keep {
		for j := 0; j < object; j += ring0.PageSize {
			if b[j] != byte(i) {
				fmt.Println("lost object", i)
				os.Exit(1)
			}
		}
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	fmt.Printf("%d objects of %d KiB, at least %d collections: %v\n", len(keep), object>>10, 3, m.NumGC >= 3)
}

func memory() {
	_, total := ring0.FreeMemory()
	fmt.Println("total MiB", total>>20)
	usable := uint64(0)
	for _, r := range ring0.MemoryMap() {
		if r.Kind == ring0.Usable && r.Start >= 4<<30 {
			usable += r.End - r.Start
		}
	}
	fmt.Println("above 4 GiB", usable>>20)
	// Single pages, of which the heap is made, come from the top.
	object := new([ring0.PageSize]byte)
	object[0] = 1
	phys, err := ring0.PhysAddr(uintptr(unsafe.Pointer(object)))
	fmt.Println("heap above 4 GiB", phys >= 4<<30, err)
	p, err := ring0.AllocPages(int(total / ring0.PageSize))
	fmt.Println("all of it at once", p.Len(), errors.Is(err, ring0.ErrNoMemory))
}

func files() {
	check := func(err error) {
		if err != nil {
			panic(err)
		}
	}
	check(os.WriteFile("here.txt", []byte("in the working directory\n"), 0o644))
	check(os.MkdirAll("a/b", 0o755))
	check(os.WriteFile("a/b/deep.bin", []byte(strings.Repeat("x", 3<<20)), 0o600))
	check(os.WriteFile("empty", nil, 0o644))
	check(os.WriteFile("gone", []byte("x"), 0o644))
	check(os.Remove("gone"))
	check(os.WriteFile(os.Args[2], []byte("named by an argument\n"), 0o644))
}

func modules() {
	for _, m := range ring0.Modules() {
		b, err := os.ReadFile(m.Name)
		fmt.Printf("%s %d bytes at a page: %v, same as file: %v, %v\n",
			m.Name, len(m.Data), m.Phys%ring0.PageSize == 0, string(b) == string(m.Data), err)
		if err := os.WriteFile(m.Name, nil, 0o644); err == nil {
			fmt.Println("a module could be written")
		}
	}
}

// lend lends the interrupts while a goroutine waits for one.
func lend() {
	waiting := make(chan error)
	go func() {
		_, err := ring0.WaitInterrupt(ring0.IRQ(4), -1)
		waiting <- err
	}()
	time.Sleep(10 * time.Millisecond) // it waits now
	if err := ring0.LendInterrupts(); err != nil {
		panic(err)
	}
	if err := <-waiting; !errors.Is(err, ring0.ErrLent) {
		panic(err)
	}
}

// devices tells how the interrupt controllers and the timer are set, and what
// this package says of them.
func devices([]string) {
	asm.OUT8(0x43, 0xe2) // read-back: status of counter 0
	fmt.Printf("masks %#x %#x, timer %#x\n", asm.IN8(0x21), asm.IN8(0xa1), asm.IN8(0x40)&0x3f)
	_, err := ring0.WaitInterrupt(ring0.IRQ(4), 0)
	fmt.Println(err == ring0.ErrLent, errors.Is(ring0.SetVector(0x41, 1), ring0.ErrLent), ring0.LendInterrupts())
}

const apic = 0xfee00000

// raise makes the 8254, the clock chip and the local APIC ask for an interrupt,
// and leaves the processor's time to do so.
func raise() {
	asm.OUT8(0x43, 0x34)
	asm.OUT8(0x40, 100)
	asm.OUT8(0x40, 0)
	asm.OUT8(0x21, 0)
	asm.OUT8(0xa1, 0)
	asm.OUT8(0x70, 0x0b) // status register B: periodic interrupt
	b := asm.IN8(0x71)
	asm.OUT8(0x70, 0x0b)
	asm.OUT8(0x71, b|0x40)
	*register(apic + 0xf0) |= 0x100        // enable (SDM Vol. 3A 12.4.3)
	*register(apic + 0x310) = 0            // interrupt command
	*register(apic + 0x300) = 0x40 | 1<<18 // vector 40h, to self
	for start := ring0.Ticks(); ring0.Ticks()-start < 1_000_000; {
	}
}

func register(phys uint64) *uint32 {
	b, err := ring0.Physical(phys, 4)
	if err != nil {
		panic(err)
	}
	return (*uint32)(unsafe.Pointer(&b[0]))
}

// pending works while interrupts are asked for that must not come.
func pending([]string) {
	ticks := ring0.ReadStats().Ticks
	raise()
	asked := func() {
		asm.OUT8(0x20, 0x0a) // OCW3: the next read gives the request register
		asm.OUT8(0xa0, 0x0a)
		fmt.Println("asked for:", asm.IN8(0x20)&1, asm.IN8(0xa0)&1, *register(apic + 0x220)&1, "delivered:", ring0.ReadStats().Ticks-ticks)
	}
	asked()

	// A thread that never yields: what it allocates is collected all the same.
	done := make(chan uint32)
	go func() {
		runtime.LockOSThread()
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for range 100 {
			sink = make([]byte, 1<<20)
		}
		runtime.ReadMemStats(&after)
		done <- after.NumGC - before.NumGC
	}()
	fmt.Println("collected:", <-done > 3)

	start := time.Now()
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() { time.Sleep(time.Duration(i) * time.Minute) })
	}
	wg.Wait()
	fmt.Println("slept 19 minutes:", time.Since(start).Round(time.Minute))
	defer func() {
		fmt.Println("recovered:", recover())
		asked()
	}()
	fmt.Println(*nowhere)
}

var sink []byte

// base takes an interrupt of the timer on the firmware's vector.
func base([]string) {
	p, err := ring0.AllocPages(1)
	if err != nil {
		panic(err)
	}
	b := p.Bytes()
	handler := []byte{0x50, 0xb0, 0x20, 0xe6, 0x20, 0xff, 0x04, 0x25} // PUSH RAX; MOV AL, 20h; OUT 20h, AL; INC [counter]
	handler = binary.LittleEndian.AppendUint32(handler, uint32(p.Phys()+256))
	copy(b, append(handler, 0x58, 0x48, 0xcf)) // POP RAX; IRETQ
	if err := ring0.SetVector(8, uintptr(p.Phys())); err != nil {
		panic(err)
	}
	asm.OUT8(0x21, 0xfe)
	for start := ring0.Ticks(); ring0.Ticks()-start < 1_000_000; {
	}
	execute(0xfb, 0x90, 0x90, 0xfa, 0xc3) // STI; NOP; NOP; CLI; RET
	fmt.Println("timer interrupts on vector 8:", b[256])
}

// sti breaks the rule.
func sti([]string) {
	raise()
	asm.OUT8(0x21, 0xff)
	asm.OUT8(0xa1, 0xff)
	execute(0xfb, 0x90, 0x90, 0xfa, 0xc3)
	fmt.Println("nothing came")
}

// placed works in the memory that it was given, and tells what of the rest, which
// holds poison, has changed.
func placed([]string) {
	for _, r := range ring0.MemoryMap() {
		fmt.Println(r)
	}
	for _, m := range ring0.Modules() {
		fmt.Printf("module %s: %s\n", m.Name, m.Data)
	}
	heap(20 << 20)
	start := time.Now()
	time.Sleep(time.Millisecond)
	fmt.Println("slept:", time.Since(start) >= time.Millisecond, start.Year())
	for _, r := range [][2]uint64{{2 << 20, 4 << 20}, {64 << 20, 72 << 20}} {
		b, err := ring0.Physical(r[0], int(r[1]-r[0]))
		if err != nil {
			panic(err)
		}
		changed := 0
		for _, v := range b {
			if v != 0xa5 {
				changed++
			}
		}
		fmt.Printf("changed from %#x to %#x: %d\n", r[0], r[1], changed)
	}
}
