package ring0_test

// What an ordinary Go program may expect of its runtime. These tests know nothing
// of ring 0: they pass in a Linux process, and must pass in ring 0 alike.

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func TestGoroutinesAndChannels(t *testing.T) {
	const n = 2000
	c := make(chan int)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { c <- i })
	}
	go func() { wg.Wait(); close(c) }()
	sum := 0
	for v := range c {
		sum += v
	}
	if want := n * (n - 1) / 2; sum != want {
		t.Errorf("sum %d, want %d", sum, want)
	}
}

func TestLockedThreads(t *testing.T) {
	const n = 60
	var wg sync.WaitGroup
	var turns atomic.Int64
	token := make(chan struct{})
	ready := make(chan struct{}, n)
	for range n {
		wg.Go(func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			ready <- struct{}{}
			for range 20 {
				<-token
				turns.Add(1)
				runtime.Gosched()
			}
		})
	}
	for range n {
		<-ready // all threads exist at once
	}
	for range 20 * n {
		token <- struct{}{}
	}
	wg.Wait()
	if got := turns.Load(); got != 20*n {
		t.Errorf("%d turns, want %d", got, 20*n)
	}
}

func TestTimersKeepOrder(t *testing.T) {
	start := time.Now()
	var mu sync.Mutex
	var order []int
	var wg sync.WaitGroup
	for _, ms := range []int{50, 10, 30, 20, 40} {
		wg.Add(1)
		time.AfterFunc(time.Duration(ms)*time.Millisecond, func() {
			defer wg.Done()
			mu.Lock()
			order = append(order, ms)
			mu.Unlock()
		})
	}
	wg.Wait()
	if got := fmt.Sprint(order); got != "[10 20 30 40 50]" {
		t.Errorf("timers fired in the order %s", got)
	}
	if d := time.Since(start); d < 50*time.Millisecond {
		t.Errorf("the last timer fired after %v, before its 50 ms", d)
	}
}

func TestSleepIsAtLeastAsLongAsAsked(t *testing.T) {
	for _, d := range []time.Duration{0, 1, time.Microsecond, time.Millisecond, 700 * time.Millisecond} {
		start := time.Now()
		time.Sleep(d)
		if got := time.Since(start); got < d {
			t.Errorf("Sleep(%v) took %v", d, got)
		}
	}
}

// A goroutine that never yields must not keep the others, a garbage collection
// or a timer from running.
func TestSpinningGoroutine(t *testing.T) {
	var stop atomic.Bool
	done := make(chan uint64)
	go func() {
		n := uint64(0)
		for !stop.Load() {
			n++
		}
		done <- n
	}()
	spun := make(chan struct{})
	go func() {
		for i := 0; ; i++ { // no call, no preemption point but a signal
			if i&(1<<20-1) == 0 && stop.Load() {
				close(spun)
				return
			}
		}
	}()
	for range 3 {
		time.Sleep(20 * time.Millisecond)
		runtime.GC()
	}
	stop.Store(true)
	if n := <-done; n == 0 {
		t.Error("the spinning goroutine did not run")
	}
	<-spun
}

type tree struct{ left, right *tree }

func grow(depth int) *tree {
	if depth == 0 {
		return &tree{}
	}
	return &tree{grow(depth - 1), grow(depth - 1)}
}

func (t *tree) count() int {
	if t.left == nil {
		return 1
	}
	return 1 + t.left.count() + t.right.count()
}

func TestGarbageCollectionUnderLoad(t *testing.T) {
	var before runtime.MemStats
	runtime.ReadMemStats(&before)
	keep := grow(14)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 20 {
				if n := grow(10).count(); n != 1<<11-1 {
					t.Errorf("a tree lost nodes: %d", n)
				}
			}
		})
	}
	wg.Wait()
	runtime.GC()
	if n := keep.count(); n != 1<<15-1 {
		t.Errorf("the kept tree has %d nodes", n)
	}
	var after runtime.MemStats
	runtime.ReadMemStats(&after)
	if after.NumGC == before.NumGC {
		t.Error("no collection ran")
	}
}

// What the heap gives back is zero when it comes again.
func TestReturnedMemoryIsZero(t *testing.T) {
	for range 3 {
		b := make([]byte, 32<<20)
		for i := 0; i < len(b); i += 4096 {
			if b[i] != 0 {
				t.Fatalf("byte %d of a new slice is %#x", i, b[i])
			}
			b[i] = 0xff
		}
		b = nil
		debug.FreeOSMemory()
	}
}

func TestBigStack(t *testing.T) {
	var f func(n int) int
	f = func(n int) int {
		var pad [256]byte
		pad[n%256] = byte(n)
		if n == 0 {
			return int(pad[0])
		}
		return f(n-1) + int(pad[n%256]) - n%256
	}
	done := make(chan int)
	go func() { done <- f(50000) }()
	if got := <-done; got != 0 {
		t.Errorf("got %d", got)
	}
}

func recovered(f func()) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = r.(error)
		}
	}()
	f()
	return nil
}

var zero int
var nowhere *[1 << 20]int

func TestFaultsBecomePanics(t *testing.T) {
	for range 100 {
		var re runtime.Error
		if err := recovered(func() { zero = 1 / zero }); !errors.As(err, &re) || !strings.Contains(err.Error(), "divide by zero") {
			t.Fatalf("division by zero: %v", err)
		}
		if err := recovered(func() { zero = nowhere[3] }); !errors.As(err, &re) || !strings.Contains(err.Error(), "nil pointer") {
			t.Fatalf("nil dereference: %v", err)
		}
		if err := recovered(func() { nowhere[3] = 1 }); !errors.As(err, &re) {
			t.Fatalf("write through nil: %v", err)
		}
		if err := recovered(func() { zero = []int{}[zero] }); !errors.As(err, &re) {
			t.Fatalf("index out of range: %v", err)
		}
	}
}

func TestFaultAwayFromNil(t *testing.T) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	text := "constants are not for writing"
	err := recovered(func() { *stringData(text) = 'x' })
	var addressed interface{ Addr() uintptr }
	if !errors.As(err, &addressed) {
		t.Fatalf("write to read-only data: %v", err)
	}
}

func TestPrintingAndHashing(t *testing.T) {
	var b bytes.Buffer
	if err := json.NewEncoder(&b).Encode(map[string]any{"b": 1.5, "a": []int{1, 2}, "c": nil}); err != nil {
		t.Fatal(err)
	}
	if got := b.String(); got != `{"a":[1,2],"b":1.5,"c":null}`+"\n" {
		t.Errorf("json: %s", got)
	}
	h := sha256.Sum256([]byte("abc"))
	if got := hex.EncodeToString(h[:]); got != "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad" {
		t.Errorf("sha256: %s", got) // FIPS 180-4, the standard's example
	}
}

func TestFiles(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "a", "b.txt")
	if err := os.WriteFile(name, nil, 0o644); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("write below a missing directory: %v", err)
	}
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	want := bytes.Repeat([]byte("0123456789abcdef"), 1000)
	if err := os.WriteFile(name, want, 0o640); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(name, os.O_RDWR|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(f, "end")
	if _, err := f.WriteAt([]byte("x"), 0); err == nil {
		t.Error("WriteAt on an O_APPEND file did not fail")
	}
	if _, err := f.Seek(-3, io.SeekEnd); err != nil {
		t.Error(err)
	}
	if tail, err := io.ReadAll(f); err != nil || string(tail) != "end" {
		t.Errorf("tail %q, %v", tail, err)
	}
	if err := f.Truncate(10); err != nil {
		t.Error(err)
	}
	if err := f.Truncate(20); err != nil {
		t.Error(err)
	}
	f.Close()
	if got, err := os.ReadFile(name); err != nil || string(got) != "0123456789"+strings.Repeat("\x00", 10) {
		t.Errorf("after truncation: %q, %v", got, err)
	}
	if fi, err := os.Stat(name); err != nil || fi.Size() != 20 || fi.IsDir() || fi.Name() != "b.txt" {
		t.Errorf("stat: %v, %v", fi, err)
	}

	// A hole reads as zeros.
	sparse, err := os.Create(filepath.Join(dir, "sparse"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := sparse.WriteAt([]byte{7}, 5<<20); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 2)
	if _, err := sparse.ReadAt(b, 5<<20-1); err != nil || b[0] != 0 || b[1] != 7 {
		t.Errorf("sparse: %v, %v", b, err)
	}
	sparse.Close()

	if err := os.Remove(filepath.Dir(name)); err == nil {
		t.Error("a directory with a file in it was removed")
	}
	if err := os.Rename(filepath.Join(dir, "a"), filepath.Join(dir, "c")); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(name); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the old name after a rename: %v", err)
	}
	var names []string
	err = filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		rel, _ := filepath.Rel(dir, path)
		names = append(names, rel)
		return err
	})
	if got := strings.Join(names, " "); err != nil || got != ". c c/b.txt sparse" {
		t.Errorf("walk: %q, %v", got, err)
	}
	if err := os.RemoveAll(filepath.Join(dir, "c")); err != nil {
		t.Error(err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("left: %v, %v", entries, err)
	}
}

func TestWorkingDirectory(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	if err := os.WriteFile("../here", []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(filepath.Dir(dir), "here")); err != nil {
		t.Error(err)
	}
	os.Remove("../here")
}

func TestPipes(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	want := bytes.Repeat([]byte("more than a pipe holds. "), 20000)
	go func(w *os.File) {
		w.Write(want)
		w.Close()
	}(w)
	got, err := io.ReadAll(r)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes of %d came through: %v", len(got), len(want), err)
	}
	r.Close()

	r, w, err = os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	if _, err := w.Write([]byte("x")); err == nil {
		t.Error("a write to a pipe that nobody reads did not fail")
	}
	w.Close()
}

func TestEnvironment(t *testing.T) {
	if len(os.Args) < 2 || !filepath.IsAbs(os.Args[0]) || !strings.HasPrefix(os.Args[1], "-test.") {
		t.Errorf("os.Args = %q", os.Args)
	}
	exe, err := os.Executable()
	if err != nil || !filepath.IsAbs(exe) {
		t.Errorf("os.Executable: %q, %v", exe, err)
	}
	t.Setenv("RING0_TEST", "1")
	if os.Getenv("RING0_TEST") != "1" {
		t.Error("the environment does not keep a variable")
	}
	if now := time.Now(); now.Year() < 2025 || now.Year() > 2100 {
		t.Errorf("it is %v", now)
	}
}

func BenchmarkSyscall(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		os.Getppid()
	}
}

func BenchmarkChannelSwitch(b *testing.B) {
	c := make(chan int)
	go func() {
		for range c {
		}
	}()
	b.ReportAllocs()
	for b.Loop() {
		c <- 1
	}
	close(c)
}

func FuzzSeeds(f *testing.F) {
	f.Add("seed", 3)
	f.Add("", 0)
	f.Fuzz(func(t *testing.T, s string, n int) {
		if got := strings.Repeat(s, n&7); len(got) != len(s)*(n&7) {
			t.Errorf("%q", got)
		}
	})
}
