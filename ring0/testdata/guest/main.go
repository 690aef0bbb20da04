// Guest does what its first argument says. boot_test.go boots it.
package main

import (
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

	"github.com/govtx/vtx/ring0"
)

func main() {
	defer fmt.Println("deferred")
	acts[os.Args[1]](os.Args[2:])
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
