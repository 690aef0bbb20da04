package vmexit

import (
	"fmt"

	"github.com/govtx/vtx/asm"
	"github.com/govtx/vtx/vmcs"
)

// DebugRegisters handle MOV DR (SDM Vol. 2B MOV—Move to/from Debug Registers; Vol. 3B
// 18.2). DR7 is in the VMCS, which wants the controls "load debug controls" and "save debug
// controls". DR0 to DR3 and DR6 no VM entry or exit touches: without
// functions of one's own they are the processor's, so that the guest has its breakpoints,
// and the host must not use them.
type DebugRegisters struct {
	// Read and Write access DR0 to DR3 and DR6.
	Read  func(x *Exit, n int) uint64
	Write func(x *Exit, n int, v uint64)

	// RTM says that the guest's processor has transactional memory: CPUID leaf 7, EBX
	// bit 11. DR7 and DR6 have a bit for it.
	RTM bool
}

func (d *DebugRegisters) read(x *Exit, n int) uint64 {
	if d.Read != nil {
		return d.Read(x, n)
	}
	return asm.ReadDR(n)
}

func (d *DebugRegisters) write(x *Exit, n int, v uint64) {
	if d.Write != nil {
		d.Write(x, n, v)
	} else {
		asm.WriteDR(n, v)
	}
}

// debug does what a #DB does before its handler runs.
func (d *DebugRegisters) debug(x *Exit, cause DebugQualification) {
	d.write(x, 6, cause.DR6(d.read(x, 6)))
	if v := x.Read(vmcs.GuestDR7); v&dr7GD != 0 {
		x.Write(vmcs.GuestDR7, v&^dr7GD)
	}
	if v := x.Read(vmcs.GuestDebugCtl); v&debugCtlLBR != 0 {
		x.Write(vmcs.GuestDebugCtl, v&^debugCtlLBR)
	}
}

// Handle is the handler of MOVDR exits. The VM exit comes before every check of the
// instruction but that of the privilege level (SDM Vol. 3C 26.1.1, 26.1.3).
func (d *DebugRegisters) Handle(x *Exit) Outcome {
	q := DRAccessQualification(x.Qualification())
	n := q.DR()
	if n == 4 || n == 5 {
		if x.guestCR4Has(asm.CR4DE) {
			return x.Raise(vmcs.VectorUD, 0)
		}
		n += 2
	}
	dr7 := x.Read(vmcs.GuestDR7)
	if dr7&dr7GD != 0 {
		return x.RaiseDebug(d, dr6BD)
	}
	if x.CPL() != 0 {
		return x.Raise(vmcs.VectorGP, 0)
	}
	r := int(q.Register())
	if q.From() {
		v := dr7
		if n != 7 {
			v = d.read(x, n)
		}
		if !x.Code64() {
			v &= 0xffffffff
		}
		x.SetRegister(r, v)
		return Resume
	}
	v := x.Register(r)
	if !x.Code64() {
		v &= 0xffffffff
	}
	if n < 4 {
		d.write(x, n, v)
		return Resume
	}
	if v>>32 != 0 {
		return x.Raise(vmcs.VectorGP, 0)
	}
	if n == 6 {
		const written = 0xf | dr6BD | dr6BS | 1<<15 // BT
		fixed := uint64(dr6Ones | dr6BLD | dr6RTM)
		if d.RTM {
			fixed &^= dr6RTM
		}
		d.write(x, 6, v&(written|dr6RTM)|fixed)
		return Resume
	}
	const zero, one = 1<<12 | 1<<14 | 1<<15, 1 << 10
	v = v&^zero | one
	if !d.RTM {
		v &^= 1 << 11
	}
	x.Write(vmcs.GuestDR7, v)
	return Resume
}

// wrongExit is for an exit that cannot be what the handler is for.
func wrongExit(x *Exit, handler string) Outcome {
	return x.Fail(fmt.Errorf("vmexit: %s is not for exits with reason %v, qualification %#x, instruction information %#x", handler, x.Reason(), x.Qualification(), x.Information()))
}
