package main

import (
	"encoding/binary"

	"github.com/govtx/vtx/asm"
	"github.com/govtx/vtx/hypercall"
	"github.com/govtx/vtx/ring0"
	"github.com/govtx/vtx/vmcs"
	"github.com/govtx/vtx/vmexit"
	"github.com/govtx/vtx/vtl"
)

// A guest that begins in real-address mode asks the firmware how much memory there is, by INT
// 15h. The firmware tells of all that the machine has, so the vector leads to a page of the
// hypervisor's own making, whose code asks the hypervisor.
const (
	hookAt = 0x9e000 // linear address, in a page that the guest is told it does not have

	hookFirmware = 4    // offset of a far jump to the firmware's handler
	hookBegin    = 0x10 // offset of what the guest begins with
)

// hook puts that page into memory, of which ram is the beginning. Page 0 the guest changes by
// itself: from hookBegin on is code that puts in the vector, says in the firmware's data area
// how many KiB of base memory there are, and goes on to the kernel, which is at a segment.
func hook(ram []byte, segment uint16) {
	const page = hookAt >> 4 // as a segment
	lo, hi := byte(page&0xff), byte(page>>8)
	slo, shi := byte(segment), byte(segment>>8)
	copy(ram[hookAt:], []byte{
		0x0f, 0x01, 0xc1, // VMCALL
		0xcf,             // IRET, if the answer is here
		0xea, 0, 0, 0, 0, // JMP to the firmware
		0, 0, 0, 0, 0, 0, 0,
		0x31, 0xc0, 0x8e, 0xd8, // XOR AX, AX; MOV DS, AX
		0x66, 0xa1, 0x54, 0x00, // MOV EAX, [4*0x15]
		0x66, 0x2e, 0xa3, 0x05, 0x00, // MOV CS:[5], EAX
		0x66, 0xc7, 0x06, 0x54, 0x00, 0, 0, lo, hi, // MOV DWORD [4*0x15], page:0
		0xc7, 0x06, 0x13, 0x04, byte(hookAt >> 10 & 0xff), byte(hookAt >> 18), // MOV WORD [0x413], KiB
		0xb8, slo, shi, 0x8e, 0xd8, // MOV AX, segment; MOV DS, AX
		0xea, 0x00, 0x02, slo, shi, // JMP segment:0x200
	})
}

// firmware answers INT 15h, for the VMCALL of the hook.
func (p *processor) firmware(x *vmexit.Exit) vmexit.Outcome {
	begin := x.Guest.RIP
	x.Advance()
	r := &x.Guest.Regs
	low := func(i int, v uint64) { r[i] = r[i]&^0xffffffff | v&0xffffffff }
	low16 := func(i int, v uint64) { r[i] = r[i]&^0xffff | v&0xffff }
	end := uint64(0) // of memory that begins at 1 MiB
	for _, e := range p.pc.told {
		if e.kind == ring0.Usable && e.gpa == beginHigh {
			end = e.gpa + e.size
		}
	}
	good := true
	switch ax := uint16(r[asm.RAX]); {
	case ax == 0xe820: // ACPI 6.5, 15.1
		const smap, size = 0x534d4150, 20
		n := uint64(uint32(r[asm.RBX]))
		if uint32(r[asm.RDX]) != smap || uint32(r[asm.RCX]) < size || n >= uint64(len(p.pc.told)) {
			good = false
			break
		}
		e := p.pc.told[n]
		b := make([]byte, 0, size)
		b = binary.LittleEndian.AppendUint64(b, e.gpa)
		b = binary.LittleEndian.AppendUint64(b, e.size)
		b = binary.LittleEndian.AppendUint32(b, uint32(e.kind))
		for i := range b { // which may lie in two pages
			good = good && p.WritePhysical(x.Read(vmcs.GuestESBase)+(r[asm.RDI]+uint64(i))&0xffff, b[i:i+1]) == nil
		}
		if n++; n == uint64(len(p.pc.told)) {
			n = 0
		}
		low(asm.RAX, smap)
		low(asm.RBX, n)
		low(asm.RCX, size)
	case ax == 0xe801:
		const mb16 = 16 << 20
		below, above := (min(end, mb16)-beginHigh)>>10, (max(end, mb16)-mb16)>>16
		low16(asm.RAX, below)
		low16(asm.RCX, below)
		low16(asm.RBX, above)
		low16(asm.RDX, above)
	case ax>>8 == 0x88:
		low16(asm.RAX, min((end-beginHigh)>>10, 0xfc00))
	default:
		x.Guest.RIP = begin + hookFirmware
		return vmexit.Hold
	}
	// Carry, in the flags that IRET takes from the stack, tells of failure.
	flags := x.Read(vmcs.GuestSSBase) + (x.Read(vmcs.GuestRSP)+4)&0xffff
	var b [1]byte
	if err := p.ReadPhysical(flags, b[:]); err == nil {
		b[0] &^= 1
		if !good {
			b[0] |= 1
		}
		_ = p.WritePhysical(flags, b[:])
	}
	return vmexit.Hold
}

// realContext is the context in which the guest begins in real-address mode, in the hook's page,
// with the segments of its kernel.
func realContext(segment uint16) vtl.Context {
	register := func(selector uint16, rights hypercall.SegmentAttributes) hypercall.SegmentRegister {
		return hypercall.SegmentRegister{Selector: selector, Base: uint64(selector) << 4, Limit: 0xffff, Attributes: rights}
	}
	s := register(segment, 0x93)
	return vtl.Context{
		RIP: hookBegin, RSP: realStack, RFLAGS: 2,
		CS: register(hookAt>>4, 0x9b), DS: s, ES: s, FS: s, GS: s, SS: s,
		TR: toCall(vmcs.TaskState(0, 0, 0x67)), LDTR: toCall(vmcs.UnusableSegment()),
		IDTR: hypercall.TableRegister{Limit: 0x3ff},
		CR0:  asm.CR0ET, PAT: resetPAT,
	}
}
