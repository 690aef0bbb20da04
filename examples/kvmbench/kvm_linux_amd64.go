package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"syscall"
	"unsafe"
)

// The numbers and structures of KVM's interface: Linux, Documentation/virt/kvm/api.rst and
// include/uapi/linux/kvm.h.
const (
	kvmGetAPIVersion       = 0xae00
	kvmCreateVM            = 0xae01
	kvmGetVCPUMmapSize     = 0xae04
	kvmGetSupportedCPUID   = 0xc008ae05
	kvmCreateVCPU          = 0xae41
	kvmSetUserMemoryRegion = 0x4020ae46
	kvmCreateIRQChip       = 0xae60
	kvmCreatePIT2          = 0x4040ae77
	kvmRun                 = 0xae80
	kvmGetRegs             = 0x8090ae81
	kvmSetRegs             = 0x4090ae82
	kvmGetSregs            = 0x8138ae83
	kvmSetSregs            = 0x4138ae84
	kvmSetCPUID2           = 0x4008ae90

	kvmAPIVersion = 12
	exitIO        = 2
)

type kvmMemoryRegion struct {
	slot, flags                   uint32
	guest, size, userspaceAddress uint64
}

// kvmRegs are RAX, RBX, RCX, RDX, RSI, RDI, RSP, RBP, R8 to R15, RIP and RFLAGS.
type kvmRegs [18]uint64

const (
	regRSP    = 6
	regR9     = 9
	regR10    = 10
	regRIP    = 16
	regRFLAGS = 17
)

type kvmSegment struct {
	base     uint64
	limit    uint32
	selector uint16
	rights   [10]uint8 // type, present, DPL, DB, S, L, G, AVL, unusable, padding
}

// Fields without a name are filled by the kernel and go back as they came: the structure
// is changed in place and never copied.
type kvmSregs struct {
	cs, ds, es, fs, gs, ss, tr   kvmSegment
	_                            kvmSegment // LDTR
	_                            [4]uint64  // GDTR, IDTR
	cr0, _, cr3, cr4, _, efer, _ uint64     // CR2, CR8, and the APIC's base between
	_                            [4]uint64  // pending interrupts
}

// The same holds here.
type kvmCPUIDEntry struct {
	function, _, _, eax, _, _, _ uint32 // index, flags; EBX, ECX, EDX
	_                            [3]uint32
}

// maxCPUID is how many entries the program has room for; KVM has less than half of that.
const maxCPUID = 256

type kvmCPUID struct {
	n, _    uint32
	entries [maxCPUID]kvmCPUIDEntry
}

// The structures have the sizes that their ioctl numbers name.
var (
	_ [32]byte  = [unsafe.Sizeof(kvmMemoryRegion{})]byte{}
	_ [144]byte = [unsafe.Sizeof(kvmRegs{})]byte{}
	_ [312]byte = [unsafe.Sizeof(kvmSregs{})]byte{}
	_ [40]byte  = [unsafe.Sizeof(kvmCPUIDEntry{})]byte{}
)

// The guest's memory, from guest-physical address 0. Its page tables map the first 2 MiB
// to themselves.
const (
	guestMemory = 0x10000
	guestPML4   = 0x1000
	guestPDPT   = 0x2000
	guestPD     = 0x3000
	guestCode   = 0x8000
)

// A vm is a virtual machine of KVM's with one processor.
type vm struct {
	fd, cpu int
	memory  []byte
	run     []byte // struct kvm_run
	cpuid   kvmCPUID
	writes  int // to portUser
}

func ioctl(fd int, request uintptr, argument unsafe.Pointer) (int, error) {
	for {
		r, _, e := syscall.Syscall(syscall.SYS_IOCTL, uintptr(fd), request, uintptr(argument))
		switch e {
		case 0:
			return int(r), nil
		case syscall.EINTR:
		default:
			return 0, e
		}
	}
}

func ioctlPtr[T any](fd int, request uintptr, p *T) error {
	_, err := ioctl(fd, request, unsafe.Pointer(p))
	return err
}

// newVM makes a virtual machine as an ordinary program would: with interrupt controllers and
// timer in the kernel, and a CPUID of all that KVM supports.
func newVM() (*vm, error) {
	file, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("%w: is the module kvm_intel loaded?", err)
	}
	defer file.Close()
	kvm := int(file.Fd())
	if version, err := ioctl(kvm, kvmGetAPIVersion, nil); err != nil || version != kvmAPIVersion {
		return nil, fmt.Errorf("KVM's interface has version %d (%v), want %d", version, err, kvmAPIVersion)
	}
	size, err := ioctl(kvm, kvmGetVCPUMmapSize, nil)
	if err != nil {
		return nil, fmt.Errorf("KVM_GET_VCPU_MMAP_SIZE: %w", err)
	}
	m := &vm{}
	m.cpuid.n = maxCPUID
	if err := ioctlPtr(kvm, kvmGetSupportedCPUID, &m.cpuid); err != nil {
		return nil, fmt.Errorf("KVM_GET_SUPPORTED_CPUID: %w", err)
	}
	if m.fd, err = ioctl(kvm, kvmCreateVM, nil); err != nil {
		return nil, fmt.Errorf("KVM_CREATE_VM: %w", err)
	}
	if m.memory, err = syscall.Mmap(-1, 0, guestMemory, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED|syscall.MAP_ANONYMOUS); err != nil {
		return nil, fmt.Errorf("the guest's memory: %w", err)
	}
	if err := ioctlPtr(m.fd, kvmSetUserMemoryRegion, &kvmMemoryRegion{
		0, 0, 0, guestMemory, uint64(uintptr(unsafe.Pointer(&m.memory[0]))),
	}); err != nil {
		return nil, fmt.Errorf("KVM_SET_USER_MEMORY_REGION: %w", err)
	}
	if _, err := ioctl(m.fd, kvmCreateIRQChip, nil); err != nil {
		return nil, fmt.Errorf("KVM_CREATE_IRQCHIP: %w", err)
	}
	if err := ioctlPtr(m.fd, kvmCreatePIT2, new([16]uint32)); err != nil {
		return nil, fmt.Errorf("KVM_CREATE_PIT2: %w", err)
	}
	if m.cpu, err = ioctl(m.fd, kvmCreateVCPU, nil); err != nil {
		return nil, fmt.Errorf("KVM_CREATE_VCPU: %w", err)
	}
	if m.run, err = syscall.Mmap(m.cpu, 0, size, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED); err != nil {
		return nil, fmt.Errorf("struct kvm_run: %w", err)
	}
	if err := ioctlPtr(m.cpu, kvmSetCPUID2, &m.cpuid); err != nil {
		return nil, fmt.Errorf("KVM_SET_CPUID2: %w", err)
	}
	return m, m.longMode()
}

// longMode puts the processor into 64-bit mode with flat segments.
func (m *vm) longMode() error {
	const present, writable, large = 1 << 0, 1 << 1, 1 << 7
	for at, entry := range map[int]uint64{guestPML4: guestPDPT, guestPDPT: guestPD, guestPD: large} {
		binary.LittleEndian.PutUint64(m.memory[at:], entry|present|writable)
	}
	var s kvmSregs
	if err := ioctlPtr(m.cpu, kvmGetSregs, &s); err != nil {
		return fmt.Errorf("KVM_GET_SREGS: %w", err)
	}
	const code, data, busyTSS = 0xb, 0x3, 0xb
	s.cs = kvmSegment{0, low32, 0x08, [10]uint8{code, 1, 0, 0, 1, 1, 1}}
	flat := kvmSegment{0, low32, 0x10, [10]uint8{data, 1, 0, 1, 1, 0, 1}}
	s.ds, s.es, s.fs, s.gs, s.ss = flat, flat, flat, flat, flat
	s.tr = kvmSegment{0, 0x67, 0x18, [10]uint8{busyTSS, 1}}
	const pe, et, ne, wp, pg, pae, lme, lma = 1 << 0, 1 << 4, 1 << 5, 1 << 16, 1 << 31, 1 << 5, 1 << 8, 1 << 10
	s.cr0, s.cr3, s.cr4, s.efer = pe|et|ne|wp|pg, guestPML4, pae, lme|lma
	if err := ioctlPtr(m.cpu, kvmSetSregs, &s); err != nil {
		return fmt.Errorf("KVM_SET_SREGS: %w", err)
	}
	return nil
}

// leaf is EAX of a CPUID leaf as the guest has it.
func (m *vm) leaf(function uint32) uint32 {
	for _, e := range m.cpuid.entries[:min(m.cpuid.n, maxCPUID)] {
		if e.function == function {
			return e.eax
		}
	}
	return 0
}

// execute has the guest execute an operation's program, and returns the ticks.
func (m *vm) execute(o *operation) (uint64, error) {
	copy(m.memory[guestCode:], o.program())
	regs := kvmRegs{regRIP: guestCode, regRSP: guestMemory, regRFLAGS: 1 << 1}
	if err := ioctlPtr(m.cpu, kvmSetRegs, &regs); err != nil {
		return 0, fmt.Errorf("KVM_SET_REGS: %w", err)
	}
	before := m.writes
	if err := m.enter(); err != nil {
		return 0, fmt.Errorf("%s: %w", o.name, err)
	}
	if err := ioctlPtr(m.cpu, kvmGetRegs, &regs); err != nil {
		return 0, fmt.Errorf("KVM_GET_REGS: %w", err)
	}
	want := 0
	if o.edx == portUser {
		want = iterations
	}
	if got := m.writes - before; got != want {
		return 0, fmt.Errorf("%s: %d writes came to the program, want %d", o.name, got, want)
	}
	return regs[regR9], o.check(regs[regR10], m.leaf(0), m.leaf(1))
}

// enter runs the guest until it writes to portDone. The system call is the bare
// instruction, without what Go does around one that may block.
func (m *vm) enter() error {
	for {
		if _, _, e := syscall.RawSyscall(syscall.SYS_IOCTL, uintptr(m.cpu), kvmRun, 0); e != 0 {
			if e == syscall.EINTR {
				continue
			}
			return fmt.Errorf("KVM_RUN: %w", e)
		}
		// struct kvm_run: exit_reason at 8, io.direction at 32, io.size at 33, io.port
		// at 34, and io.count at 36.
		reason := binary.LittleEndian.Uint32(m.run[8:])
		access := binary.LittleEndian.Uint64(m.run[32:])
		const out, byteSize, once = 1, 1 << 8, 1 << 32
		switch {
		case reason == exitIO && access == out|byteSize|once|portUser<<16:
			m.writes++
		case reason == exitIO && access == out|byteSize|once|portDone<<16:
			return nil
		default:
			return fmt.Errorf("KVM_RUN came back with exit reason %d (0x%x), which the guest gives no cause for", reason, access)
		}
	}
}

// measureKVM runs the guest under KVM and prints the figures.
func measureKVM(w io.Writer) error {
	runtime.LockOSThread() // the virtual processor belongs to a thread
	m, err := newVM()
	if err != nil {
		return err
	}
	figures, err := measure(m.execute)
	if err != nil {
		return err
	}
	for _, f := range figures {
		fmt.Fprintln(w, f)
	}
	return nil
}

// beInit is all that a system with no other process needs: it loads KVM, measures, and
// switches the machine off.
func beInit() error {
	if os.Getpid() != 1 {
		return errors.New("init switches the machine off at its end, and is for a kernel's first process only")
	}
	err := func() error {
		if err := syscall.Mount("dev", "/dev", "devtmpfs", 0, ""); err != nil {
			return fmt.Errorf("mounting /dev: %w", err)
		}
		for _, name := range modules {
			if err := loadModule("/" + name); err != nil {
				return fmt.Errorf("loading %s: %w", name, err)
			}
		}
		var u syscall.Utsname
		if err := syscall.Uname(&u); err != nil {
			return err
		}
		fmt.Printf("kvmbench: Linux %s\n", text(u.Release[:]))
		return measureKVM(os.Stdout)
	}()
	if err != nil {
		fmt.Println("kvmbench: FAILED:", err)
	} else {
		fmt.Println("kvmbench: done")
	}
	// What was printed shall have left the serial port.
	const tcsbrk = 0x5409
	_, _, _ = syscall.Syscall(syscall.SYS_IOCTL, os.Stdout.Fd(), tcsbrk, 1)
	// This returns only if it has failed. The kernel panics when its first process ends, and says so.
	return fmt.Errorf("switching off: %w", syscall.Reboot(syscall.LINUX_REBOOT_CMD_POWER_OFF))
}

func loadModule(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	const finitModule = 313
	if _, _, e := syscall.Syscall(finitModule, f.Fd(), uintptr(unsafe.Pointer(unsafe.StringData("\x00"))), 0); e != 0 && !errors.Is(e, syscall.EEXIST) {
		return e
	}
	return nil
}

func text(b []int8) (s string) {
	for _, c := range b {
		if c == 0 {
			break
		}
		s += string(rune(c))
	}
	return s
}
