package ring0_test

import (
	"errors"
	"os"
	"path/filepath"
	"runtime/debug"
	"syscall"
	"testing"
	"unsafe"

	"pgregory.net/rapid"

	"github.com/govtx/vtx/internal/require"
	"github.com/govtx/vtx/ring0"
)

// touch reads or writes a byte; it reports whether that was allowed.
//
//go:norace
func touch(addr uintptr, write bool, v byte) (_ byte, ok bool) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			if a, isFault := r.(interface{ Addr() uintptr }); !isFault || a.Addr() != addr {
				panic(r)
			}
			ok = false
		}
	}()
	p := (*byte)(unsafe.Add(nil, addr))
	if write {
		*p = v
	}
	return *p, true
}

// Mappings made, changed and taken away in any order behave as a table of pages
// does. The test passes on Linux too, which says that the table is right. The
// pages lie where the tables of each level begin and end.
func TestMappings(t *testing.T) {
	const size, page = 3 << 30, 4096
	base := uintptr(3) << 43 // the race detector has its tables from 1<<45 up
	var offsets []uintptr
	for _, at := range []uintptr{0, 2 << 20, 6 << 20, 1 << 30, 2 << 30, size} {
		for _, d := range []uintptr{3, 2, 1, 0, ^uintptr(0), ^uintptr(1)} {
			if o := at - d*page; o <= size {
				offsets = append(offsets, o)
			}
		}
	}
	file, err := syscall.Open(filepath.Join(t.TempDir(), "file"), syscall.O_RDWR|syscall.O_CREAT, 0o600)
	require.NoError(t, err)
	defer syscall.Close(file)

	type pageState struct {
		mapped bool
		prot   uintptr
		value  byte
	}
	rapid.Check(t, func(t *rapid.T) {
		state := map[uintptr]*pageState{} // by offset
		for _, o := range offsets {
			state[o] = &pageState{}
		}
		// pages are the samples in a range that is drawn.
		pages := func(t *rapid.T) (from, n uintptr, in []*pageState) {
			a, b := rapid.SampledFrom(offsets).Draw(t, "from"), rapid.SampledFrom(offsets).Draw(t, "to")
			if a == b {
				t.Skip("no pages")
			}
			a, b = min(a, b), max(a, b)
			for o, s := range state {
				if a <= o && o < b {
					in = append(in, s)
				}
			}
			return base + a, b - a, in
		}
		drawProt := func(t *rapid.T) uintptr {
			return rapid.SampledFrom([]uintptr{0, 1, 2, 3, 5, 7}).Draw(t, "rights")
		}
		call := func(nr, a, b, c uintptr) syscall.Errno {
			_, _, errno := syscall.RawSyscall6(nr, a, b, c, syscall.MAP_PRIVATE|syscall.MAP_ANON|syscall.MAP_FIXED|syscall.MAP_NORESERVE, ^uintptr(0), 0)
			return errno
		}
		defer call(syscall.SYS_MUNMAP, base, size, 0)
		one := func(t *rapid.T) (uintptr, *pageState) {
			o := rapid.SampledFrom(offsets[:len(offsets)-1]).Draw(t, "page")
			return base + o + uintptr(rapid.SampledFrom([]int{0, 1, 2048, 4095}).Draw(t, "byte")), state[o]
		}
		t.Repeat(map[string]func(*rapid.T){
			"mmap": func(t *rapid.T) {
				from, n, in := pages(t)
				prot := drawProt(t)
				require.Zero(t, call(syscall.SYS_MMAP, from, n, prot))
				for _, s := range in {
					*s = pageState{mapped: true, prot: prot}
				}
			},
			"munmap": func(t *rapid.T) {
				from, n, in := pages(t)
				require.Zero(t, call(syscall.SYS_MUNMAP, from, n, 0))
				for _, s := range in {
					*s = pageState{}
				}
			},
			"mprotect": func(t *rapid.T) {
				from, n, in := pages(t)
				for _, s := range in {
					if !s.mapped {
						t.Skip("Linux changes what comes before the hole")
					}
				}
				prot := drawProt(t)
				require.Zero(t, call(syscall.SYS_MPROTECT, from, n, prot))
				for _, s := range in {
					s.prot = prot
				}
			},
			"madvise": func(t *rapid.T) {
				from, n, in := pages(t)
				call(syscall.SYS_MADVISE, from, n, syscall.MADV_DONTNEED) // ENOMEM where there are holes
				for _, s := range in {
					s.value = 0
				}
			},
			"write": func(t *rapid.T) {
				addr, s := one(t)
				addr = addr &^ (page - 1)
				v := rapid.Byte().Draw(t, "value")
				got, ok := touch(addr, true, v)
				require.Equal(t, s.mapped && s.prot&2 != 0, ok, "%#x", addr)
				if ok {
					require.Equal(t, v, got)
					s.value = v
				}
			},
			"read": func(t *rapid.T) {
				addr, s := one(t)
				got, ok := touch(addr, false, 0)
				require.Equal(t, s.mapped && s.prot != 0, ok, "%#x", addr)
				if want := s.value; ok && addr%page == 0 {
					require.Equal(t, want, got, "%#x", addr)
				} else if ok {
					require.Zero(t, got)
				}
			},
			"kernel reads": func(t *rapid.T) {
				addr, s := one(t)
				_, _, errno := syscall.RawSyscall6(syscall.SYS_PWRITE64, uintptr(file), addr, 1, 0, 0, 0)
				if s.mapped && s.prot != 0 {
					require.Zero(t, errno)
				} else {
					require.Equal(t, syscall.EFAULT, errno)
				}
			},
			"kernel writes": func(t *rapid.T) {
				addr, s := one(t)
				addr = addr &^ (page - 1)
				_, err := syscall.Pwrite(file, []byte{0x5a}, 0)
				require.NoError(t, err)
				_, _, errno := syscall.RawSyscall6(syscall.SYS_PREAD64, uintptr(file), addr, 1, 0, 0, 0)
				if s.mapped && s.prot&2 != 0 {
					require.Zero(t, errno)
					s.value = 0x5a
				} else {
					require.Equal(t, syscall.EFAULT, errno)
				}
			},
		})
	})
}

// Unmapping gives back every frame, the tables' too.
func TestUnmappingGivesFramesBack(t *testing.T) {
	needRing0(t)
	const flags = syscall.MAP_PRIVATE | syscall.MAP_ANON | syscall.MAP_FIXED
	base, size := uintptr(1)<<45, uintptr(1)<<39 // what one entry of the top table maps
	cycle := func() (low uint64) {
		syscall.RawSyscall6(syscall.SYS_MMAP, base, size, 3, flags, 0, 0)
		for at := uintptr(0); at < size; at += 1 << 34 {
			*(*byte)(unsafe.Add(nil, base+at)) = 1
		}
		syscall.RawSyscall(syscall.SYS_MPROTECT, base, size/2, 0) // written pages out of sight
		syscall.RawSyscall6(syscall.SYS_MMAP, base+size/4, 1<<30, 1, flags, 0, 0)
		low, _ = ring0.FreeMemory()
		syscall.RawSyscall(syscall.SYS_MUNMAP, base, size, 0)
		return low
	}
	cycle()
	before, _ := ring0.FreeMemory()
	low := cycle()
	after, _ := ring0.FreeMemory()
	require.Equal(t, before, after)
	require.Less(t, low, before-32*ring0.PageSize)
}

// Physical memory's mapping is not the program's to change, nor are system calls
// to write to what the kernel keeps there.
func TestMappingsRefused(t *testing.T) {
	needRing0(t)
	text := **(**uintptr)(unsafe.Pointer(&callable))
	far, err := ring0.Physical(1<<36, 2<<20)
	require.NoError(t, err)
	zero, err := syscall.Open("/dev/zero", syscall.O_RDWR, 0)
	require.NoError(t, err)
	defer syscall.Close(zero)
	for _, at := range []uintptr{0, 4096, 1 << 20, text &^ 4095, 1<<32 - 4096, uintptr(unsafe.Pointer(&far[0])), 1<<47 - 4096, 1 << 47, 1 << 63, ^uintptr(4095)} {
		for _, n := range []uintptr{4096, 8192, 1 << 30, 1 << 46, 1 << 63, ^uintptr(0), ^uintptr(4095)} {
			for _, nr := range []uintptr{syscall.SYS_MUNMAP, syscall.SYS_MPROTECT} {
				_, _, errno := syscall.RawSyscall(nr, at, n, 0)
				require.NotZero(t, errno, "call %d %#x %#x", nr, at, n)
			}
			_, _, errno := syscall.RawSyscall6(syscall.SYS_MMAP, at, n, 3, syscall.MAP_PRIVATE|syscall.MAP_ANON|syscall.MAP_FIXED, 0, 0)
			require.NotZero(t, errno, "mmap %#x %#x", at, n)
		}
	}
	for _, r := range ring0.ReservedMemory() {
		if r.Kind == ring0.Frames || r.Kind == ring0.Loader {
			_, _, errno := syscall.RawSyscall(syscall.SYS_READ, uintptr(zero), uintptr(r.Start), 1)
			require.Equal(t, syscall.EFAULT, errno, "%v", r)
		}
	}
	argument := unsafe.StringData(os.Args[0])
	_, _, errno := syscall.RawSyscall(syscall.SYS_READ, uintptr(zero), uintptr(unsafe.Pointer(argument)), 1)
	require.Equal(t, syscall.EFAULT, errno)
	_, _, errno = syscall.RawSyscall(syscall.SYS_WRITE, uintptr(zero), uintptr(unsafe.Pointer(argument)), 1)
	require.Zero(t, errno)

	p, err := ring0.AllocPages(1)
	require.NoError(t, err)
	p.Bytes()[7] = 1
	n, err := syscall.Read(zero, p.Bytes())
	require.NoError(t, err)
	require.Equal(t, ring0.PageSize, n)
	require.Zero(t, p.Bytes()[7])
	require.NoError(t, p.Free())
	if _, _, errno := syscall.RawSyscall(syscall.SYS_READ, uintptr(zero), uintptr(p.Phys()), 1); !errors.Is(errno, syscall.EFAULT) {
		t.Errorf("a read into memory that was given back: %v", errno)
	}
}

func TestPhysicalWhereTheProgramMaps(t *testing.T) {
	needRing0(t)
	const addr, flags = 1 << 37, syscall.MAP_PRIVATE | syscall.MAP_ANON | syscall.MAP_FIXED
	_, _, errno := syscall.RawSyscall6(syscall.SYS_MMAP, addr, ring0.PageSize, 3, flags, 0, 0)
	require.Zero(t, errno)
	_, err := ring0.Physical(addr+8, 16)
	require.ErrorContains(t, err, "the program uses that address")
	_, _, errno = syscall.RawSyscall(syscall.SYS_MUNMAP, addr, ring0.PageSize, 0)
	require.Zero(t, errno)
	_, err = ring0.Physical(addr+8, 16)
	require.NoError(t, err)
}

// BenchmarkPageFault is the cost of a page that is touched for the first time.
func BenchmarkPageFault(b *testing.B) {
	const n = 1024
	for done := 0; done < b.N; done += n {
		b.StopTimer()
		memory, err := syscall.Mmap(-1, 0, n*4096, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_PRIVATE|syscall.MAP_ANON)
		require.NoError(b, err)
		b.StartTimer()
		for i := range min(n, b.N-done) {
			memory[i*4096] = 1
		}
		b.StopTimer()
		require.NoError(b, syscall.Munmap(memory))
		b.StartTimer()
	}
}
