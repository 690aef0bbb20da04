package ring0_test

// System calls with arguments that no sane program passes: they must come back
// with an error, or with a sane result, and the kernel must live.

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"pgregory.net/rapid"

	"github.com/govtx/vtx/internal/require"
	"github.com/govtx/vtx/ring0"
)

const (
	arena      = 1 << 46 // nothing else of a Go program lies there
	arenaBytes = 64 * ring0.PageSize
	userTop    = 1<<47 - ring0.PageSize
)

// Numbers of calls that syscall has no name for, and ring0's own.
const (
	sysRenameat2 = 316
	sysGetrandom = 318

	callAllocPages  = 0x76747800
	callFreePages   = 0x76747801
	callTranslate   = 0x76747802
	callMapPhysical = 0x76747803
	callWaitVector  = 0x76747804
)

// cStrings are the strings that system calls read, with their NULs, where
// nothing can be written.
type cStrings struct {
	memory []byte
	at     map[string]uintptr
}

func newCStrings(t *testing.T, all []string) *cStrings {
	memory, err := syscall.Mmap(-1, 0, 1<<16, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_PRIVATE|syscall.MAP_ANON)
	require.NoError(t, err)
	t.Cleanup(func() { syscall.Munmap(memory) })
	c := &cStrings{memory, map[string]uintptr{}}
	n := 0
	for _, s := range all {
		c.at[s] = uintptr(unsafe.Pointer(&memory[n]))
		n += copy(memory[n:], s+"\x00")
	}
	require.NoError(t, syscall.Mprotect(memory, syscall.PROT_READ))
	return c
}

// A hostile program: it has some files open, an arena to point into, and the
// wish to break things.
type hostile struct {
	fds, paths, sizes, small []uintptr
	arguments                []uintptr // all of them: any may stand where another is meant
	strings                  *cStrings
	tid                      uintptr
}

func openHostile(t *testing.T) *hostile {
	dir := t.TempDir()
	h := &hostile{}
	keep := func(fd int, err error) {
		require.NoError(t, err)
		high, _, errno := syscall.RawSyscall(syscall.SYS_FCNTL, uintptr(fd), syscall.F_DUPFD, 500)
		require.Zero(t, errno)
		require.NoError(t, syscall.Close(fd))
		h.fds = append(h.fds, high)
		t.Cleanup(func() { syscall.Close(int(high)) })
	}
	keep(syscall.Open(filepath.Join(dir, "file"), syscall.O_RDWR|syscall.O_CREAT, 0o600))
	keep(syscall.Open(filepath.Join(dir, "append"), syscall.O_WRONLY|syscall.O_APPEND|syscall.O_CREAT, 0o600))
	keep(syscall.Open(dir, syscall.O_RDONLY, 0))
	keep(syscall.Open("/dev/null", syscall.O_RDWR, 0))
	keep(syscall.Open("/dev/zero", syscall.O_RDWR, 0))
	keep(syscall.Open("/dev/urandom", syscall.O_RDONLY, 0))
	var pipe [2]int
	require.NoError(t, syscall.Pipe2(pipe[:], 0))
	keep(pipe[0], nil)
	keep(pipe[1], nil)
	keep(syscall.EpollCreate1(0))
	event, _, errno := syscall.RawSyscall(syscall.SYS_EVENTFD2, 3, 0, 0)
	require.Zero(t, errno)
	keep(int(event), nil)
	h.fds = append(h.fds, ^uintptr(0), 499, 1023, 1024, 1<<31-1, 1<<32+500, 0xffffff9c, ^uintptr(99))

	paths := []string{
		"", "/", ".", "..", "a", "b", "a/b", "a/../b", "file", "file/", "file/x", "a/", "./a//b", "../../../..",
		"/dev/null", "/nowhere/x", strings.Repeat("n", 255), strings.Repeat("n", 256),
		strings.Repeat("/", 5000), strings.Repeat("deep/", 500), strings.Repeat("a/../", 100),
	}
	h.strings = newCStrings(t, paths)
	for _, p := range paths {
		h.paths = append(h.paths, h.strings.at[p])
	}
	h.sizes = []uintptr{
		0, 1, 7, 8, 16, 24, 4095, 4096, 4097, 65536, arenaBytes, 1 << 20, 1 << 30, 1<<30 + 1, 1 << 31, 1 << 32, 1 << 45,
		userTop - arena, userTop, 1 << 47, 1 << 62, 1 << 63, ^uintptr(0), ^uintptr(0) - 4094, ^uintptr(0) &^ 4095,
	}
	h.small = []uintptr{0, 1, 2, 3, 4, 5, 6, 7, 8, 16, 32, 64, 128, 255, 0x22, 0x32, 0x100032, 0x1000, 0x80000, 1 << 31, ^uintptr(0)}
	h.tid = uintptr(syscall.Gettid())
	h.arguments = slices.Concat(h.addresses(), h.sizes, h.small, h.fds, h.paths)
	return h
}

// addresses are places that a call may read or write without harm to the rest of
// the program, and places that it may not.
func (h *hostile) addresses() []uintptr {
	text := **(**uintptr)(unsafe.Pointer(&callable)) // read-only
	return []uintptr{
		arena, arena + 1, arena + 4090, arena + 8*ring0.PageSize, arena + arenaBytes/2 - 4, arena + arenaBytes - 1,
		arena + arenaBytes, arena + 1<<30, arena + 1<<39,
		0, 8, 4095, text, userTop - 1, userTop, userTop + 4088, 1 << 47, 1 << 63, ^uintptr(0), ^uintptr(7), ^uintptr(4095),
	}
}

var callable = func() {}

// reset makes the arena what it is at the beginning: some of it writable and
// full of values that look like arguments, some read-only, some not there.
func (h *hostile) reset(t *rapid.T) {
	const fixed = syscall.MAP_PRIVATE | syscall.MAP_ANON | syscall.MAP_FIXED
	_, _, errno := syscall.RawSyscall(syscall.SYS_MUNMAP, arena, userTop-arena, 0)
	require.Zero(t, errno)
	for _, part := range []struct{ from, n, prot uintptr }{
		{0, arenaBytes / 2, syscall.PROT_READ | syscall.PROT_WRITE},
		{arenaBytes / 2, 4096, 0},
		{arenaBytes/2 + 4096, 4096, syscall.PROT_READ},
		{arenaBytes - 4096, 4096, syscall.PROT_READ | syscall.PROT_WRITE},
		{1 << 39, 1 << 30, syscall.PROT_READ | syscall.PROT_WRITE},
	} {
		at, _, errno := syscall.RawSyscall6(syscall.SYS_MMAP, arena+part.from, part.n, part.prot, fixed, 0, 0)
		require.Zero(t, errno)
		require.Equal(t, arena+part.from, at)
	}
	r := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "arena"), 0))
	for i := range uintptr(512) {
		*(*uintptr)(unsafe.Add(nil, arena+8*i)) = h.arguments[r.IntN(len(h.arguments))]
	}
}

// numbers are the calls to make: all but those that end the program or thread,
// or change what the Go runtime holds on to.
func (h *hostile) numbers() []uintptr {
	var out []uintptr
	for nr := range uintptr(460) {
		switch nr {
		case syscall.SYS_EXIT, syscall.SYS_EXIT_GROUP, syscall.SYS_RT_SIGRETURN:
		default:
			out = append(out, nr)
		}
	}
	for range 20 { // those that the kernel has most to do for
		out = append(out, syscall.SYS_MMAP, syscall.SYS_MPROTECT, syscall.SYS_MUNMAP, syscall.SYS_MADVISE,
			syscall.SYS_READ, syscall.SYS_WRITE, syscall.SYS_PREAD64, syscall.SYS_PWRITE64, syscall.SYS_READV, syscall.SYS_WRITEV,
			syscall.SYS_OPENAT, syscall.SYS_RENAME, syscall.SYS_FUTEX, syscall.SYS_EPOLL_CTL, syscall.SYS_EPOLL_WAIT,
			callAllocPages, callFreePages, callTranslate, callMapPhysical, callWaitVector)
	}
	return out
}

// movable are the paths that may be renamed: not devices.
func (h *hostile) movable() []uintptr {
	var out []uintptr
	for _, p := range h.paths {
		if p != h.strings.at["/dev/null"] {
			out = append(out, p)
		}
	}
	return out
}

// tame changes the arguments of a call that would take the test itself down.
// It reports whether the call may be made.
func (h *hostile) tame(t *rapid.T, nr uintptr, a *[6]uintptr) bool {
	oneOf := func(v ...uintptr) uintptr { return rapid.SampledFrom(v).Draw(t, "harmless") }
	switch nr {
	case syscall.SYS_RT_SIGACTION:
		a[0] = oneOf(0, 9, 19, 40, 64, 65, 1<<32, ^uintptr(0))
	case syscall.SYS_CLONE: // without CLONE_THREAD: it would run on
		a[0] &^= 1 << 16
	case syscall.SYS_KILL, syscall.SYS_TKILL:
		a[1] = oneOf(0, uintptr(syscall.SIGURG), 65, 1<<32, ^uintptr(0))
	case syscall.SYS_TGKILL:
		a[2] = oneOf(0, uintptr(syscall.SIGURG), 65, 1<<32, ^uintptr(0))
	case syscall.SYS_ARCH_PRCTL:
		if a[0] == 0x1002 && a[1] < userTop {
			return false
		}
	case syscall.SYS_CLOSE:
		a[0] = oneOf(h.fds[len(h.fds)-8:]...)
	case syscall.SYS_CHDIR: // not out of the test's directory
		a[0] = oneOf(h.strings.at[""], h.strings.at["."], h.strings.at["a"], h.strings.at["b"], h.strings.at["file"], arena, 0, 1<<63)
	case syscall.SYS_FTRUNCATE, syscall.SYS_FCHMOD, syscall.SYS_FCHDIR, syscall.SYS_READ, syscall.SYS_WRITE,
		syscall.SYS_READV, syscall.SYS_WRITEV, syscall.SYS_PREAD64, syscall.SYS_PWRITE64, syscall.SYS_EPOLL_WAIT, syscall.SYS_EPOLL_PWAIT:
		a[0] = oneOf(h.fds...)
	case syscall.SYS_EPOLL_CTL:
		a[0], a[2] = oneOf(h.fds...), oneOf(h.fds...)
	case syscall.SYS_DUP2, syscall.SYS_DUP3:
		a[1] = oneOf(h.fds[len(h.fds)-8:]...)
	case syscall.SYS_RENAME:
		a[0], a[1] = oneOf(h.movable()...), oneOf(h.paths...)
	case syscall.SYS_RENAMEAT, sysRenameat2:
		a[1], a[3] = oneOf(h.movable()...), oneOf(h.paths...)
	case callAllocPages:
		a[0] = oneOf(0, 1, 3, 1<<30, 1<<52, 1<<63, ^uintptr(0))
	case callMapPhysical:
		a[0] = oneOf(0, 1, 4096, 0x400000, 1<<32-4096, 1<<39, arena, 1<<47, 1<<63, ^uintptr(0))
		a[1] = oneOf(0, 1, 4096, 1<<21, 1<<31, 1<<62, ^uintptr(0))
	}
	// Memory that is the program's in earnest: only what the arena spans.
	switch nr {
	case syscall.SYS_MMAP, syscall.SYS_MPROTECT, syscall.SYS_MUNMAP, syscall.SYS_MADVISE:
		a[0] = oneOf(h.addresses()...)
	}
	return nr>>8 != callAllocPages>>8 || nr <= callWaitVector
}

func TestHostileSystemCalls(t *testing.T) {
	needRing0(t)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	home, err := os.Getwd()
	require.NoError(t, err)
	h := openHostile(t)
	t.Cleanup(func() { syscall.RawSyscall(syscall.SYS_MUNMAP, arena, userTop-arena, 0) })

	// A call that waits is interrupted.
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(time.Millisecond):
				syscall.RawSyscall(syscall.SYS_TGKILL, 1, h.tid, uintptr(syscall.SIGURG))
			}
		}
	}()

	time.Sleep(time.Millisecond) // opens what the runtime's timers need, to be left alone
	var open [1024]bool
	for fd := range open {
		_, _, errno := syscall.RawSyscall(syscall.SYS_FCNTL, uintptr(fd), syscall.F_GETFD, 0)
		open[fd] = errno == 0
	}
	numbers, arguments := rapid.SampledFrom(h.numbers()), rapid.SampledFrom(h.arguments)
	made, succeeded := 0, map[uintptr]bool{}
	rapid.Check(t, func(t *rapid.T) {
		require.NoError(t, os.Chdir(os.TempDir()))
		dir, err := os.MkdirTemp("", "hostile")
		require.NoError(t, err)
		require.NoError(t, os.Chdir(dir))
		defer func() {
			os.Chdir(home)
			os.RemoveAll(dir)
		}()
		h.reset(t)
		for range rapid.IntRange(1, 60).Draw(t, "calls") {
			nr := numbers.Draw(t, "number")
			var a [6]uintptr
			for i := range a {
				a[i] = arguments.Draw(t, "argument")
			}
			if !h.tame(t, nr, &a) {
				continue
			}
			r, errno := hostileCall(nr, a)
			made++
			if errno != 0 {
				require.Less(t, errno, syscall.Errno(134), "call %d %#x", nr, a)
				continue
			}
			succeeded[nr] = true
			h.sane(t, nr, a, r)
		}
		// What was opened, made and set goes again.
		for fd := range open {
			if !open[fd] {
				syscall.Close(fd)
			}
		}
		syscall.RawSyscall(218, 0, 0, 0) // set_tid_address
		syscall.Umask(0o22)
	})
	t.Logf("%d calls; %d kinds succeeded at least once", made, len(succeeded))
	require.Greater(t, len(succeeded), 30)
}

// hostileCall makes a call, and undoes at once what would meet the next signal.
func hostileCall(nr uintptr, a [6]uintptr) (uintptr, syscall.Errno) {
	all, old, stack := ^uint64(0), uint64(0), [3]uint64{}
	mask := func(set, old *uint64) {
		syscall.RawSyscall6(syscall.SYS_RT_SIGPROCMASK, 2, uintptr(unsafe.Pointer(set)), uintptr(unsafe.Pointer(old)), 8, 0, 0)
	}
	switch nr {
	case syscall.SYS_RT_SIGPROCMASK, syscall.SYS_SIGALTSTACK:
		mask(&all, &old)
		syscall.RawSyscall(syscall.SYS_SIGALTSTACK, 0, uintptr(unsafe.Pointer(&stack)), 0)
		r, _, errno := syscall.RawSyscall6(nr, a[0], a[1], a[2], a[3], a[4], a[5])
		syscall.RawSyscall(syscall.SYS_SIGALTSTACK, uintptr(unsafe.Pointer(&stack)), 0, 0)
		mask(&old, nil)
		return r, errno
	case syscall.SYS_READ, syscall.SYS_WRITE, syscall.SYS_READV, syscall.SYS_WRITEV, syscall.SYS_FUTEX, syscall.SYS_NANOSLEEP,
		syscall.SYS_CLOCK_NANOSLEEP, syscall.SYS_EPOLL_WAIT, syscall.SYS_EPOLL_PWAIT, callWaitVector:
		r, _, errno := syscall.Syscall6(nr, a[0], a[1], a[2], a[3], a[4], a[5])
		return r, errno
	}
	r, _, errno := syscall.RawSyscall6(nr, a[0], a[1], a[2], a[3], a[4], a[5])
	return r, errno
}

// sane checks a result, and gives back what it stands for.
func (h *hostile) sane(t *rapid.T, nr uintptr, a [6]uintptr, r uintptr) {
	switch nr {
	case syscall.SYS_READ, syscall.SYS_WRITE, syscall.SYS_PREAD64, syscall.SYS_PWRITE64, syscall.SYS_GETDENTS64:
		require.LessOrEqual(t, r, a[2], "call %d %#x", nr, a)
	case sysGetrandom:
		require.LessOrEqual(t, r, a[1])
	case syscall.SYS_MMAP:
		size := (a[1] + 4095) &^ 4095
		if r%4096 != 0 || r < 1<<32 || r > userTop || size > userTop-r {
			t.Fatalf("mmap %#x gave %#x", a, r)
		}
		if r < arena {
			_, _, errno := syscall.RawSyscall(syscall.SYS_MUNMAP, r, size, 0)
			require.Zero(t, errno)
		}
	case syscall.SYS_MUNMAP, syscall.SYS_MPROTECT:
		if a[1] > 0 && a[0] < 1<<32 {
			t.Fatalf("call %d changed %#x bytes of physical memory's mapping at %#x", nr, a[1], a[0])
		}
	case callAllocPages:
		require.NotZero(t, r)
		require.Zero(t, r%4096)
		_, _, errno := syscall.RawSyscall(callFreePages, r, a[0], 0)
		require.Zero(t, errno)
	case callFreePages:
		t.Fatalf("%#x pages at %#x were never allocated, but could be freed", a[1], a[0])
	default:
		require.Less(t, r, uintptr(1<<63), "call %d %#x", nr, a)
	}
}
