package asm

import "unsafe"

// A Guest is what one virtual processor's VM entries and exits exchange with
// Go: the state that the VMCS does not hold. [Guest.Enter] enters the guest.
//
// A Guest belongs to one VMCS and must not be copied. The zero Guest is ready
// for a VMCS that is clear; fields are set between two calls of Enter.
type Guest struct {
	// Regs are the general registers, by the constants RAX to R15. Regs[RSP] is
	// not used: RSP is in the VMCS.
	Regs [16]uint64

	// CR2 is the guest's page-fault address, which no VM entry or exit touches.
	CR2 uint64

	// RIP is the guest's instruction pointer. Enter writes it to the VMCS at the
	// first entry, and when it differs from the value of the last exit.
	RIP uint64

	// Reason is VMCS field 0x4402 at the last exit. Bit 31 says that the VM entry
	// failed and the guest did not run.
	Reason uint32
	_      uint32 // VMREAD stores 8 bytes

	// InstructionLength is VMCS field 0x440c at the last exit, in bytes. Not
	// every exit defines it (SDM Vol. 3C 28.2.5).
	InstructionLength uint32
	_                 uint32

	// RFLAGS and Interruptibility are VMCS fields 0x6820 and 0x4824 at the last
	// exit. Enter only reads them: what advances RIP must look at both. To change
	// them, write the VMCS.
	RFLAGS           uint64
	Interruptibility uint32
	_                uint32

	hostRSP uint64 // HOST_RSP as last written; 0: write all that Enter writes
	//lint:ignore U1000 used in assembly
	rip      uint64         // GUEST_RIP as the VMCS holds it
	vector   unsafe.Pointer // the guest's XSAVE or FXSAVE area, initBytes into area; nil: not kept
	mask     uint64         // the host's XCR0; 0: FXSAVE
	xcr0     uint64         // XCR0 in the guest; 0: the host's
	launched bool           // the VMCS is launched: VMRESUME

	area []byte // holds an area in initial state, then vector's
}

// initBytes is the size of an area in which no state component follows the
// XSAVE header. A multiple of 64.
const initBytes = 576

// Reset tells that the VMCS was cleared (VMCLEAR), or replaced by another: the
// next Enter launches it, and writes HOST_RSP, HOST_RIP and GUEST_RIP. It must
// also be called when something else wrote these fields. Registers and vector
// state are kept.
func (g *Guest) Reset() {
	g.hostRSP = 0
	g.launched = false
}

// Launched tells whether the next Enter is by VMRESUME.
func (g *Guest) Launched() bool { return g.launched }

// XCR0 returns the extended control register that the guest runs with, 0 if it
// is the host's.
func (g *Guest) XCR0() uint64 { return g.xcr0 }

// Vector returns the guest's x87, SSE and extended state between two entries,
// as XSAVE's standard format lays it out (SDM Vol. 1 13.4), or FXSAVE's if the
// host has CR4.OSXSAVE clear. It is nil before [Guest.KeepVector]. What is
// written there must be valid, or the next Enter panics with a *[Fault].
func (g *Guest) Vector() []byte {
	if g.vector == nil {
		return nil
	}
	return g.area[uintptr(g.vector)-uintptr(unsafe.Pointer(unsafe.SliceData(g.area))):]
}
