package vmexit

import (
	"encoding/binary"
	"fmt"

	"github.com/govtx/vtx/asm"
	"github.com/govtx/vtx/vmcs"
)

// A PortDevice is what answers at I/O ports. Size is 1, 2 or 4 bytes; of the value the
// low bytes count. An error ends the run.
//
// A device that is at the first port of an access gets all of it, even if it does not
// have the ports behind.
type PortDevice interface {
	In(port uint16, size int) (uint32, error)
	Out(port uint16, size int, v uint32) error
}

// Translate returns the guest-physical address for a linear one, as the guest's paging
// has it for a data access at its privilege level. Ok is false if the guest is to take a
// #PF with the error code that it returns. An error ends the run unless it is a [Refusal]. See
// package emulate.
type Translate func(x *Exit, linear uint64, write bool) (gpa uint64, code uint32, ok bool, err error)

// GuestMemory is a guest's memory by linear addresses.
type GuestMemory struct {
	Physical PhysicalMemory

	// Translate may be nil for guests that never turn paging on.
	Translate Translate
}

// Ports handle I/O instructions: a table of devices by port. Ports without a device
// read as all ones, and writes to them do nothing. Set up Ports before the first guest
// uses them; after that, any number of processors can.
type Ports struct {
	// Memory is needed for INS and OUTS.
	Memory *GuestMemory

	// MaxIterations bounds how many elements of a REP INS or REP OUTS an exit moves,
	// 1024 if it is 0. The rest are moved when the instruction exits again, and
	// interrupts can be taken in between.
	MaxIterations int

	used    int
	devices [256]PortDevice
	ports   [1 << 16]uint8 // numbers of devices; 0: none
}

// NewPorts returns ports without devices.
func NewPorts() *Ports {
	p := new(Ports)
	p.devices[0] = undecoded{}
	return p
}

// undecoded is where nothing answers.
type undecoded struct{}

func (undecoded) In(uint16, int) (uint32, error) { return ^uint32(0), nil }
func (undecoded) Out(uint16, int, uint32) error  { return nil }

// Set puts a device at the ports first to last, inclusive, in place of what is there. Nil
// stands for none. It panics if last is before first, or for more than 255 devices.
func (p *Ports) Set(first, last uint16, d PortDevice) *Ports {
	n := 0
	if d != nil {
		if p.used == len(p.devices)-1 || last < first {
			panic(fmt.Sprintf("vmexit: ports 0x%x to 0x%x: this is no range, or the 256th device", first, last))
		}
		p.used++
		n = p.used
		p.devices[n] = d
	}
	for port := int(first); port <= int(last); port++ {
		p.ports[port] = uint8(n)
	}
	return p
}

// Device returns the device at a port, nil if there is none.
func (p *Ports) Device(port uint16) PortDevice {
	if n := p.ports[port]; n != 0 {
		return p.devices[n]
	}
	return nil
}

// Handler returns the handler of IOInstruction exits.
//
//go:noinline
func (p *Ports) Handler() Handler {
	return func(x *Exit) Outcome {
		var q IOQualification
		if _, ok := x.VMCS.(vmcs.Current); ok { // as Qualification does, without its calls
			v, _ := asm.VMREAD(uint32(vmcs.ExitQualification))
			q = IOQualification(v)
		} else {
			q = IOQualification(x.Qualification())
		}
		sizeAndString := q & 0x17
		if sizeAndString > 3 || sizeAndString == 2 {
			return p.str(x, q)
		}
		g, port, size := x.Guest, q.Port(), int(sizeAndString)+1
		d := p.devices[p.ports[port]]
		if !q.In() {
			if err := d.Out(port, size, uint32(g.Regs[asm.RAX]&(1<<(8*size)-1))); err != nil {
				return x.portError(q, err)
			}
			return Resume
		}
		v, err := d.In(port, size)
		if err != nil {
			return x.portError(q, err)
		}
		switch size {
		case 1:
			g.Regs[asm.RAX] = g.Regs[asm.RAX]&^0xff | uint64(uint8(v))
		case 2:
			g.Regs[asm.RAX] = g.Regs[asm.RAX]&^0xffff | uint64(uint16(v))
		default:
			g.Regs[asm.RAX] = uint64(v) // as every 32-bit result
		}
		return Resume
	}
}

func (x *Exit) portError(q IOQualification, err error) Outcome {
	return x.memoryError(q.String(), err)
}

// str handles INS and OUTS, with or without REP (SDM Vol. 2A INS, 2B OUTS, REP). It
// needs the instruction information, thus IA32_VMX_BASIC[54], which all processors
// but the first with VMX have.
func (p *Ports) str(x *Exit, q IOQualification) Outcome {
	info := StringIOInformation(x.Information())
	bits, size := info.AddressBits(), q.Size()
	segment := info.Segment()
	if q.In() {
		segment = vmcs.ES
	}
	switch {
	case bits == 0, size == 0, segment > vmcs.GS:
		return wrongExit(x, "Ports")
	case p.Memory == nil:
		return x.portError(q, errNoStringMemory)
	}
	a, err := ReadAddressing(x.VMCS)
	if err != nil {
		return x.Fail(err)
	}
	content, err := vmcs.ReadSegment(x.VMCS, segment)
	if err != nil {
		return x.Fail(err)
	}
	g, mask := x.Guest, ^uint64(0)>>(64-bits)
	index, step := &g.Regs[asm.RSI], uint64(size)
	if q.In() {
		index = &g.Regs[asm.RDI]
	}
	const df = 1 << 10
	if g.RFLAGS&df != 0 {
		step = -step
	}
	count := uint64(1)
	if q.REP() {
		count = g.Regs[asm.RCX] & mask
	}
	limit := uint64(p.MaxIterations)
	if p.MaxIterations <= 0 {
		limit = 1024
	}
	if g.RFLAGS&asm.FlagTF != 0 {
		limit = 1 // each iteration is a step
	}
	for done := uint64(0); done < min(count, limit); done++ {
		offset := *index & mask
		if event, raised := a.Check(segment, content, offset, size, q.In()); raised {
			return p.again(x, done, event)
		}
		at, event, err := p.Memory.place(x, a, a.Linear(segment, content.Base, offset), size, q.In())
		switch {
		case err != nil:
			return p.failed(x, done, q, err)
		case event.Info.Valid():
			return p.again(x, done, event)
		}
		if err := p.move(x, q, &at); err != nil {
			return p.failed(x, done, q, err)
		}
		*index = merge(*index, *index+step, bits)
		if q.REP() {
			g.Regs[asm.RCX] = merge(g.Regs[asm.RCX], count-done-1, bits)
		}
	}
	if count <= limit {
		return Resume
	}
	// The instruction goes on. As after an interrupt in the middle of it, RF keeps its
	// breakpoint from striking again (SDM Vol. 3B 18.3.1.1).
	if g.RFLAGS&asm.FlagTF != 0 {
		x.trap()
	}
	x.setFlags(g.RFLAGS | asm.FlagRF)
	x.begun(limit)
	return Hold
}

var errNoStringMemory = fmt.Errorf("INS and OUTS need Ports.Memory")

// again raises an exception in the middle of a string instruction. The iterations before
// it are done.
func (p *Ports) again(x *Exit, done uint64, event vmcs.Event) Outcome {
	x.begun(done)
	return x.raise(event)
}

// failed is again for an error.
func (p *Ports) failed(x *Exit, done uint64, q IOQualification, err error) Outcome {
	x.begun(done)
	return x.portError(q, err)
}

// begun notes that iterations of a string instruction are done: the instruction before has
// no effect on interrupts any more.
func (x *Exit) begun(done uint64) {
	if done > 0 {
		x.setInterruptibility(x.Guest.Interruptibility &^ (vmcs.BlockingBySTI | vmcs.BlockingByMOVSS))
	}
}

// merge returns a register whose low bits, 16, 32 or 64, have been set. A 32-bit result
// clears the upper half.
func merge(old, v uint64, bits int) uint64 {
	switch bits {
	case 16:
		return old&^0xffff | v&0xffff
	case 32:
		return v & 0xffffffff
	}
	return v
}

// A place is where an operand is: n bytes at the first address, the rest at the
// second.
type place struct {
	gpa  [2]uint64
	n    int
	size int
}

// place translates the linear address of an operand. If the event is valid, the guest is
// to take that #PF, and its CR2 is set.
func (m *GuestMemory) place(x *Exit, a Addressing, linear uint64, size int, write bool) (at place, event vmcs.Event, err error) {
	at = place{n: min(size, int(0x1000-linear&0xfff)), size: size}
	for i := range at.gpa {
		if i == 1 {
			if at.n == size {
				break
			}
			linear += uint64(at.n)
			if a.Mode != Mode64 {
				linear &= 0xffffffff
			}
		}
		var code uint32
		ok := true
		if m.Translate != nil {
			at.gpa[i], code, ok, err = m.Translate(x, linear, write)
		} else if at.gpa[i] = linear; x.Read(vmcs.GuestCR0)&asm.CR0PG != 0 {
			err = errNoTranslate
		}
		if err != nil {
			return at, event, err
		}
		if !ok {
			x.Guest.CR2 = linear
			return at, vmcs.InjectException(vmcs.VectorPF, code), nil
		}
	}
	return at, event, x.err
}

var errNoTranslate = fmt.Errorf("the guest uses paging: set GuestMemory.Translate")

// read and write access the operand, by Exit.buffer.
func (m *GuestMemory) read(x *Exit, at *place) error {
	if err := m.Physical.ReadPhysical(at.gpa[0], x.buffer[:at.n]); err != nil || at.n == at.size {
		return err
	}
	return m.Physical.ReadPhysical(at.gpa[1], x.buffer[at.n:at.size])
}

func (m *GuestMemory) write(x *Exit, at *place) error {
	if err := m.Physical.WritePhysical(at.gpa[0], x.buffer[:at.n]); err != nil || at.n == at.size {
		return err
	}
	return m.Physical.WritePhysical(at.gpa[1], x.buffer[at.n:at.size])
}

// move moves one element.
func (p *Ports) move(x *Exit, q IOQualification, at *place) error {
	port := q.Port()
	d := p.devices[p.ports[port]]
	if q.In() {
		v, err := d.In(port, at.size)
		if err != nil {
			return err
		}
		binary.LittleEndian.PutUint32(x.buffer[:], v)
		return p.Memory.write(x, at)
	}
	clear(x.buffer[:4])
	if err := p.Memory.read(x, at); err != nil {
		return err
	}
	return d.Out(port, at.size, binary.LittleEndian.Uint32(x.buffer[:]))
}
