package asm

import (
	"encoding/binary"
	"fmt"
	"unsafe"
)

// Enter enters the guest of the current VMCS, by VMLAUNCH the first time and by
// VMRESUME after that, and returns at the next VM exit.
//
// [Succeed] means that there was an exit, of which g.Reason tells more. Any
// other status means that there was none, that g's registers are unchanged, and
// that the instruction (or a VMWRITE before it) failed. If the processor faults
// instead, as it does when VMX operation is off, Enter panics with a *[Fault];
// the next Enter writes its fields again, but launches only after Reset.
//
// Enter owns the VMCS fields HOST_RSP, HOST_RIP and GUEST_RIP. The other host
// fields must describe the calling thread: HOST_CR3, HOST_FS_BASE and so on as
// they are when Enter is called, on a thread that is locked
// ([runtime.LockOSThread]). Interrupts are off between the call and the exit, and
// afterwards as they were before. General registers, CR2 and, after
// [Guest.KeepVector], vector state are the guest's while it runs; host code
// finds its own. MSRs, debug registers and the state of IA32_XSS are left to the
// caller.
//
//go:nosplit
func (g *Guest) Enter() (status Status) { return enter(g) }

// enter and what follows are in enter_amd64.s, and drawn there.
//
//go:noescape
func enter(guest *Guest) (status Status)

// These are reached by a VM exit or a fault, and not to be called.

//lint:ignore U1000 used in assembly
func exited()

//lint:ignore U1000 used in assembly
func leaveVector()

//lint:ignore U1000 used in assembly
func launchFaulted()

//lint:ignore U1000 used in assembly
func enterFaulted()

// KeepVector makes Enter keep the guest's x87 and SSE state, and whatever else
// the host's XCR0 enables, apart from the host's. The guest starts from the
// state after reset (SDM Vol. 1 13.6). Call it before the first Enter, and again
// if the host changes CR4.OSXSAVE or XCR0.
//
// It fails if the processor has more state than XCR0's standard format can hold.
func (g *Guest) KeepVector() error {
	mask, size := uint64(0), legacyBytes
	if hasOSXSAVE() {
		mask = xgetbv(0)
		_, ebx, _, _ := CPUID(0xd, 0) // bytes for the components in XCR0
		size = max(int(ebx), XSAVESize(mask))
	}
	if size > maxVector {
		return fmt.Errorf("asm: KeepVector: XCR0 0x%x needs %d bytes, more than %d", mask, size, maxVector)
	}
	g.keep(mask, size)
	return nil
}

// keep gives g an area of size bytes for the components in mask, or for FXSAVE
// if that is 0.
func (g *Guest) keep(mask uint64, size int) {
	area := make([]byte, initBytes+size+64)
	area = area[-uintptr(unsafe.Pointer(&area[0]))%64:][:initBytes+size]
	for _, a := range [][]byte{area, area[initBytes:]} {
		binary.LittleEndian.PutUint16(a, 0x37f)       // FCW
		binary.LittleEndian.PutUint32(a[24:], 0x1f80) // MXCSR
	}
	g.area, g.vector, g.mask, g.xcr0 = area, unsafe.Pointer(&area[initBytes]), mask, 0
}

// maxVector bounds what a hypervisor beneath may make KeepVector allocate.
const maxVector = 1 << 20

// SetXCR0 sets the extended control register that the guest runs with; 0 stands
// for the host's. A guest's XSETBV always exits (SDM Vol. 3C 26.1.2): this is how
// to carry it out. [Guest.KeepVector] comes first. The value must be one that
// XSETBV takes, and must not enable what the host's XCR0 does not.
func (g *Guest) SetXCR0(value uint64) error {
	switch {
	case value == 0:
	case g.mask == 0:
		return fmt.Errorf("asm: SetXCR0 0x%x: call KeepVector first, with CR4.OSXSAVE set", value)
	case value&^g.mask != 0:
		return fmt.Errorf("asm: SetXCR0 0x%x: the host's XCR0 0x%x lacks bits 0x%x", value, g.mask, value&^g.mask)
	case !validXCR0(value):
		return fmt.Errorf("asm: SetXCR0 0x%x: not a value that XSETBV takes (SDM Vol. 1 13.3)", value)
	case value == g.mask:
		value = 0
	}
	g.xcr0 = value
	return nil
}

// xcr0Rules are the dependencies of SDM Vol. 1 13.3: if one of the bits in any
// is set, those in all must be.
var xcr0Rules = [...]struct{ any, all uint64 }{
	{^uint64(0), 1 << 0},         // x87 always
	{1 << 2, 1 << 1},             // AVX needs SSE
	{3 << 3, 3 << 3},             // BNDREGS and BNDCSR (MPX) go together
	{7 << 5, 7<<5 | 1<<2 | 1<<1}, // opmask and both ZMM parts (AVX-512), with AVX
	{3 << 17, 3 << 17},           // TILECFG and TILEDATA (AMX) go together
}

func validXCR0(v uint64) bool {
	for _, r := range xcr0Rules {
		if v&r.any != 0 && v&r.all != r.all {
			return false
		}
	}
	return true
}
