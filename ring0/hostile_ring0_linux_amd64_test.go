package ring0_test

import (
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"unsafe"

	"github.com/govtx/vtx/internal/require"
	"github.com/govtx/vtx/ring0"
)

// A system call with NT set in RFLAGS: the kernel leaves by IRETQ, which faults
// with NT set.
func TestSystemCallWithNestedTask(t *testing.T) {
	needRing0(t)
	f, page := machineCode(t, []byte{
		0x50, 0x53, 0x51, 0x52, 0x56, 0x57, 0x41, 0x53, // PUSH RAX, RBX, RCX, RDX, RSI, RDI, R11
		0x9c,                                  // PUSHFQ
		0x48, 0x81, 0x0c, 0x24, 0, 0x40, 0, 0, // ORQ $0x4000, (RSP)
		0x9d,               // POPFQ
		0xb8, 110, 0, 0, 0, // MOVL $110, EAX: getppid
		0x0f, 0x05, // SYSCALL
		0x9c,                                           // PUSHFQ
		0x48, 0x81, 0x24, 0x24, 0xff, 0xbf, 0xff, 0xff, // ANDQ $~0x4000, (RSP)
		0x9d,                                           // POPFQ
		0x41, 0x5b, 0x5f, 0x5e, 0x5a, 0x59, 0x5b, 0x58, // POP them
		0xc3,
	})
	defer page.Free()
	for range 10 {
		f()
	}
}

// Bases that are not canonical would fault where the kernel loads them.
func TestThreadBaseRefused(t *testing.T) {
	needRing0(t)
	for _, base := range []uintptr{1 << 47, 1 << 63, ^uintptr(0)} {
		_, _, errno := syscall.RawSyscall(syscall.SYS_ARCH_PRCTL, 0x1002, base, 0)
		require.Equal(t, syscall.EPERM, errno)
		const thread = 0x100 | 0x200 | 0x400 | 0x800 | 0x10000 | 0x80000 // with CLONE_SETTLS
		_, _, errno = syscall.RawSyscall6(syscall.SYS_CLONE, thread, 0, 0, 0, base, 0)
		require.Equal(t, syscall.EPERM, errno)
	}
}

func TestSignalStackRefused(t *testing.T) {
	needRing0(t)
	for _, bad := range []struct {
		base, flags, size uint64
		want              syscall.Errno
	}{
		{1 << 46, 0, 2047, syscall.ENOMEM},
		{1 << 46, 0, 0, syscall.ENOMEM},
		{1 << 46, 4, 1 << 16, syscall.EINVAL},
		{1 << 46, 1 << 31, 1 << 16, syscall.EINVAL},
	} {
		set := [3]uint64{bad.base, bad.flags, bad.size}
		_, _, errno := syscall.RawSyscall(syscall.SYS_SIGALTSTACK, uintptr(unsafe.Pointer(&set)), 0, 0)
		require.Equal(t, bad.want, errno, "%+v", bad)
	}
}

// A file has no bytes, and no size, where it cannot have them.
func TestFarOffsets(t *testing.T) {
	needRing0(t)
	f, err := os.Create(filepath.Join(t.TempDir(), "far"))
	require.NoError(t, err)
	defer f.Close()
	for _, at := range []int64{1 << 30, 1 << 40, 1<<63 - 1} {
		_, err = syscall.Pwrite(int(f.Fd()), []byte("x"), at)
		require.ErrorIs(t, err, syscall.EFBIG)
		if at > 1<<30 {
			require.ErrorIs(t, f.Truncate(at), syscall.EFBIG)
		}
		n, err := syscall.Pread(int(f.Fd()), make([]byte, 1), at)
		require.NoError(t, err)
		require.Zero(t, n)
	}
	_, err = syscall.Pread(int(f.Fd()), make([]byte, 1), -1)
	require.ErrorIs(t, err, syscall.EINVAL)
	fi, err := f.Stat()
	require.NoError(t, err)
	require.Zero(t, fi.Size())
}

// A signal handler may write what it likes into its frame: an address that is
// not canonical, NT, vector state that no processor has. The kernel must deliver
// the fault that follows, not have one.
func TestSigreturnOfNonsense(t *testing.T) {
	needRing0(t)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()

	// The handler of signal 50 ruins RIP, flags and vector state in its frame and
	// returns. That faults, and the handler of SIGSEGV puts RIP back.
	_, page := machineCode(t, nil)
	defer page.Free()
	b := page.Bytes()
	copy(b, []byte{
		// 0: handler of 50: RDX is the ucontext.
		0x4c, 0x8b, 0xa2, 0xa8, 0, 0, 0, // MOVQ 168(RDX), R12: RIP
		0x4c, 0x89, 0x25, 0xf2, 0x00, 0, 0, // MOVQ R12, 0x100
		0x48, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0x80, // MOVQ $1<<63, RAX
		0x48, 0x89, 0x82, 0xa8, 0, 0, 0, // MOVQ RAX, 168(RDX)
		0x48, 0x81, 0x8a, 0xb0, 0, 0, 0, 0, 0x40, 0, 0, // ORQ $NT, 176(RDX): flags
		0x48, 0xc7, 0xc0, 0xff, 0xff, 0xff, 0xff, // MOVQ $-1, RAX
		0x48, 0x8b, 0x8a, 0xe0, 0, 0, 0, // MOVQ 224(RDX), RCX: vector state
		0x48, 0x89, 0x81, 0, 2, 0, 0, // MOVQ RAX, 512(RCX): XSTATE_BV
		0x48, 0x89, 0x81, 8, 2, 0, 0, // MOVQ RAX, 520(RCX): XCOMP_BV
		0x89, 0x41, 24, // MOVL EAX, 24(RCX): MXCSR
		0xc3, // RET, to the restorer
	})
	// 0x80: handler of SIGSEGV: counts, and goes back to where 50 came.
	copy(b[0x80:], []byte{
		0x48, 0xff, 0x05, 0x81, 0x00, 0, 0, // INCQ 0x108
		0x48, 0x8b, 0x05, 0x72, 0x00, 0, 0, // MOVQ 0x100, RAX
		0x48, 0x89, 0x82, 0xa8, 0, 0, 0, // MOVQ RAX, 168(RDX)
		0x48, 0x8b, 0x82, 0xe0, 0, 0, 0, // MOVQ 224(RDX), RAX
		0xc7, 0x40, 24, 0x80, 0x1f, 0, 0, // MOVL $0x1f80, 24(RAX)
		0xc3,
	})
	copy(b[0xc0:], []byte{0xb8, 15, 0, 0, 0, 0x0f, 0x05}) // the restorer: rt_sigreturn
	type action struct{ handler, flags, restorer, mask uint64 }
	const flags = 0x08000000 | 0x04000000 | 4 // on the signal stack, with restorer and siginfo
	set := func(sig uintptr, new, old *action) {
		_, _, errno := syscall.RawSyscall6(syscall.SYS_RT_SIGACTION, sig, uintptr(unsafe.Pointer(new)), uintptr(unsafe.Pointer(old)), 8, 0, 0)
		require.Zero(t, errno)
	}
	fifty := action{page.Phys(), flags, page.Phys() + 0xc0, ^uint64(0) &^ (1 << (syscall.SIGSEGV - 1))}
	segv := action{page.Phys() + 0x80, flags, page.Phys() + 0xc0, ^uint64(0)}
	var was50, wasSegv action
	set(50, &fifty, &was50)
	set(uintptr(syscall.SIGSEGV), &segv, &wasSegv)
	tid := uintptr(syscall.Gettid())
	for range 3 {
		syscall.RawSyscall(syscall.SYS_TGKILL, 1, tid, 50)
	}
	set(uintptr(syscall.SIGSEGV), &wasSegv, nil)
	set(50, &was50, nil)
	require.Equal(t, uint64(3), *(*uint64)(unsafe.Pointer(&b[0x108])))
}

// Lines 7 and 15 of the 8259s come without a cause when a request goes away too
// early; an INT instruction does as well. Nobody is told of it.
func TestSpuriousInterrupts(t *testing.T) {
	needRing0(t)
	for _, irq := range []uint8{7, 15} {
		f, page := machineCode(t, []byte{0xcd, ring0.IRQ(irq), 0xc3}) // INT, RET
		f()
		_, err := ring0.WaitInterrupt(ring0.IRQ(irq), 0)
		require.ErrorIs(t, err, ring0.ErrTimeout)
		require.NoError(t, page.Free())
	}
	// The timer goes on, so the chips were not told of an end that was not.
	before := ring0.ReadStats().Ticks
	for start := ring0.Ticks(); ring0.Ticks()-start < ring0.TicksPerSecond()/5; {
	}
	require.Greater(t, ring0.ReadStats().Ticks, before)
}
