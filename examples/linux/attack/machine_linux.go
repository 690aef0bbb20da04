package main

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"syscall"
	"unsafe"
)

// console is standard output, on which a line is out before the next thing is done: the kernel
// writes to the same serial port at once, and the machine may end at any time.
type console struct{}

func (console) Write(p []byte) (int, error) {
	n, err := os.Stdout.Write(p)
	drain()
	return n, err
}

// drain waits until all that was printed is out.
func drain() {
	const tcsbrk = 0x5409 // as tcdrain does it: with an argument that is not 0
	// The error is that standard output is no terminal, which keeps nothing back.
	_, _, _ = syscall.Syscall(syscall.SYS_IOCTL, os.Stdout.Fd(), tcsbrk, 1)
}

// A guest is the Linux that this program runs in.
type guest struct {
	device *os.File // the module's
	mem    *os.File // /dev/mem
	kmsg   int      // the kernel's log
}

func open() (machine, error) {
	device, err := os.OpenFile("/dev/vtx", os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("%w: load the module vtxattack as root", err)
	}
	mem, err := os.OpenFile("/dev/mem", os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	kmsg, err := syscall.Open("/dev/kmsg", syscall.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("/dev/kmsg: %w", err)
	}
	return &guest{device, mem, kmsg}, nil
}

// doRequest is VTX_DO in ../module/vtxattack.h.
const doRequest = 3<<30 | unsafe.Sizeof(request{})<<16 | 'v'<<8 | 1

func (g *guest) do(r *request) error {
	_, _, errno := syscall.Syscall(syscall.SYS_IOCTL, g.device.Fd(), doRequest, uintptr(unsafe.Pointer(r)))
	switch errno {
	case 0:
		return nil
	case syscall.ENODEV:
		return errNoHypervisor
	}
	return fmt.Errorf("the module refuses request %d (%#x, %#x, %#x): %w", r.what, r.a, r.b, r.c, errno)
}

// An action is the kernel's struct sigaction; all zeros it is the default one.
type action [4]uint64

// alone runs a system call, or VMCALL if there is none, in a process that is a copy of this
// one with one thread, and returns the signal that ended it, or -1. An oops ends a thread, not a
// process: with more threads the others would go on and wait for it.
func alone(trap, a1, a2, a3, a4 uintptr) (signal syscall.Signal, err error) {
	var byDefault action
	runtime.LockOSThread()
	pid, _, errno := syscall.RawSyscall(syscall.SYS_CLONE, uintptr(syscall.SIGCHLD), 0, 0)
	if pid == 0 && errno == 0 {
		// Of Go's runtime nothing works here, and nothing is needed.
		for _, sig := range [...]syscall.Signal{syscall.SIGILL, syscall.SIGSEGV, syscall.SIGBUS} {
			syscall.RawSyscall6(syscall.SYS_RT_SIGACTION, uintptr(sig), uintptr(unsafe.Pointer(&byDefault)), 0, 8, 0, 0)
		}
		if trap != 0 {
			_, _, errno = syscall.RawSyscall6(trap, a1, a2, a3, a4, 0, 0)
		} else {
			vmcall()
		}
		syscall.RawSyscall(syscall.SYS_EXIT_GROUP, uintptr(min(errno, 255)), 0, 0)
	}
	runtime.UnlockOSThread()
	if errno != 0 {
		return -1, fmt.Errorf("clone: %w", errno)
	}
	var status syscall.WaitStatus
	for {
		if _, err = syscall.Wait4(int(pid), &status, 0, nil); err != syscall.EINTR {
			break
		}
	}
	if err != nil {
		return -1, fmt.Errorf("wait4: %w", err)
	}
	if status.Exited() && status.ExitStatus() != 0 {
		return -1, fmt.Errorf("a process that attacks: %w", syscall.Errno(status.ExitStatus()))
	}
	return status.Signal(), nil
}

func (g *guest) doomed(r *request) (bool, error) {
	signal, err := alone(syscall.SYS_IOCTL, g.device.Fd(), doRequest, uintptr(unsafe.Pointer(r)), 0)
	runtime.KeepAlive(r)
	return signal != -1, err
}

func (g *guest) vmcall() (string, error) {
	signal, err := alone(0, 0, 0, 0, 0)
	if signal == -1 {
		return "", err
	}
	return signal.String(), err
}

func (g *guest) pread(p []byte, address uint64) error {
	return short(syscall.Pread(int(g.mem.Fd()), p, int64(address)))
}

func (g *guest) pwrite(p []byte, address uint64) (bool, error) {
	signal, err := alone(syscall.SYS_PWRITE64, g.mem.Fd(), uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)), uintptr(address))
	runtime.KeepAlive(p)
	return signal != -1, err
}

// short makes an error of a transfer of nothing.
func short(n int, err error) error {
	if err == nil && n == 0 {
		return errors.New("no bytes")
	}
	return err
}

func (g *guest) mapped(address uint64, f func(page []byte)) (fault bool, err error) {
	page, err := syscall.Mmap(int(g.mem.Fd()), int64(address&^(pageSize-1)), pageSize, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, syscall.Munmap(page)) }()
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		switch r := recover().(type) {
		case nil:
		case interface{ Addr() uintptr }: // a fault
			fault = true
		case runtime.Error: // a fault whose address the kernel does not say
			if !strings.Contains(r.Error(), "invalid memory address") {
				panic(r)
			}
			fault = true
		default:
			panic(r)
		}
	}()
	f(page)
	return false, nil
}

// log reads records, of which each is a line with a prefix up to a semicolon, and then lines
// that begin with a space.
func (g *guest) log() string {
	var b strings.Builder
	var record [8192]byte
	for {
		n, err := syscall.Read(g.kmsg, record[:])
		switch {
		case err == syscall.EPIPE: // records were overwritten before they were read
			continue
		case err != nil || n == 0:
			return b.String()
		}
		if _, text, ok := strings.Cut(string(record[:n]), ";"); ok {
			text, _, _ = strings.Cut(text, "\n")
			b.WriteString(text + "\n")
		}
	}
}

func (g *guest) file(name string) (string, error) {
	text, err := os.ReadFile(name)
	return string(text), err
}
