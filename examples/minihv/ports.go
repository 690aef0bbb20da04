package main

import (
	"errors"

	"github.com/govtx/vtx/asm"
	"github.com/govtx/vtx/ring0"
	"github.com/govtx/vtx/vmcs"
	"github.com/govtx/vtx/vmexit"
	"github.com/govtx/vtx/vtl"
)

// passed are the I/O ports of a PC that a guest gets at without a VM exit. At all others there
// is nothing, but for those in newPorts: no device of PCI, no disk and no DMA controller, since
// without an IOMMU whoever has a device that writes to memory has all of it.
var passed = []ioBlock{
	{0x4d0, 0x4d1},             // 8259s: edge or level
	{0x40, 0x43}, {0x61, 0x61}, // 8254
	{0x80, 0x80},   // power-on self-test codes: a delay
	{0xed, 0xed},   // the same
	{0x3f8, 0x3ff}, // COM1
}

// newPorts has the bitmaps let through what the guest has, and returns what answers at the
// ports where it is not let through.
func newPorts(m vmcs.IOBitmaps, a *acpi, passes *direct) *vmexit.Ports {
	m.InterceptAll()
	ports := vmexit.NewPorts()
	set := func(first, last uint16, d vmexit.PortDevice, pass bool) {
		ports.Set(first, last, d)
		for port := int(first); port <= int(last); port++ {
			passes[port] = pass
			m.Intercept(uint16(port))
			if pass {
				m.Pass(uint16(port))
			}
		}
	}
	pass := func(b ioBlock) { set(b.first, b.last, passes, true) }
	behind := func(first, last uint16, d vmexit.PortDevice) { set(first, last, d, false) }
	for _, b := range passed {
		pass(b)
	}
	for _, b := range a.blocks {
		pass(b)
	}
	if a.smi != 0 { // the firmware turns ACPI on
		pass(ioBlock{a.smi, a.smi + 1})
	}
	behind(0x20, 0x21, chip{&interruptController{wire: 1 << 2}})
	behind(0xa0, 0xa1, chip{&interruptController{wire: 2}})
	behind(0x70, 0x71, chip{new(clock)})
	behind(displayFirst, displayLast, new(display))
	k := new(keyboard)
	behind(keyboardData, keyboardData, k)
	behind(keyboardStatus, keyboardStatus, k)
	if a.control != 0 {
		behind(a.control, a.control+1, power{})
	}
	behind(0x92, 0x92, fastA20{})
	behind(pciAddress, pciLast, newPCIBus(a.control))
	behind(0xcf9, 0xcf9, reset{}) // which is among them
	return ports
}

// direct are the ports that are passed through. Accesses to them exit only if a higher level
// wants to know of some, or if they reach other ports too: those go nowhere.
type direct [1 << 16]bool

func (d *direct) all(port uint16, size int) bool {
	for i := range size {
		if !d[port+uint16(i)] {
			return false
		}
	}
	return true
}

// In implements vmexit.PortDevice.
func (d *direct) In(port uint16, size int) (uint32, error) {
	if !d.all(port, size) {
		return ^uint32(0), nil
	}
	return in(port, size), nil
}

// Out implements vmexit.PortDevice.
func (d *direct) Out(port uint16, size int, v uint32) error {
	if d.all(port, size) {
		out(port, size, v)
	}
	return nil
}

// guardPorts has the accesses to ports exit of which a higher level wants to know.
func (p *pc) guardPorts(partition *vtl.Partition) {
	for port := range p.passes {
		p.bitmaps.Intercept(uint16(port))
		if p.passes[port] && !partition.InterceptsPort(1, uint16(port), false) && !partition.InterceptsPort(1, uint16(port), true) {
			p.bitmaps.Pass(uint16(port))
		}
	}
}

// in and out access the machine's port.
func in(port uint16, size int) uint32 {
	switch size {
	case 1:
		return uint32(asm.IN8(port))
	case 2:
		return uint32(asm.IN16(port))
	}
	return asm.IN32(port)
}

func out(port uint16, size int, v uint32) {
	switch size {
	case 1:
		asm.OUT8(port, uint8(v))
	case 2:
		asm.OUT16(port, uint16(v))
	default:
		asm.OUT32(port, v)
	}
}

var (
	errPowerOff = errors.New("the guest has turned the machine off")
	errReset    = errors.New("the guest has reset the machine")
	errInit     = errors.New("the guest has reset its processor (INIT)")
	errHalted   = errors.New("VTL1 has halted, though nothing can wake it")
)

// power is the PM1 control register (ACPI 6.5, 4.8.3.2.1).
type power struct{}

func (power) In(port uint16, size int) (uint32, error) { return in(port, size), nil }

func (power) Out(port uint16, size int, v uint32) error {
	const enable = 1 << 13 // SLP_EN, with which a sleeping state is entered
	if size == 1 {
		v <<= port & 1 * 8
	}
	if v&enable != 0 {
		return errPowerOff
	}
	out(port, size, v)
	return nil
}

// fastA20 is system control port A: A20 stays open.
type fastA20 struct{}

func (fastA20) In(uint16, int) (uint32, error) { return 2, nil }

func (fastA20) Out(_ uint16, _ int, v uint32) error {
	if v&1 != 0 {
		return errReset
	}
	return nil
}

// reset is the reset control register.
type reset struct{}

func (reset) In(uint16, int) (uint32, error) { return 0, nil }

func (reset) Out(_ uint16, _ int, v uint32) error {
	if v&4 != 0 {
		return errReset
	}
	return nil
}

// newIOBitmaps allocates the I/O bitmaps.
func newIOBitmaps() (ring0.Pages, vmcs.IOBitmaps, error) {
	p, err := ring0.AllocPages(2)
	if err != nil {
		return p, vmcs.IOBitmaps{}, err
	}
	m, err := vmcs.IOBitmapsOf(p.Bytes()[:pageSize], p.Bytes()[pageSize:])
	return p, m, err
}
