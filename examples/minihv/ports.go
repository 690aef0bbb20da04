package main

import (
	"errors"

	"github.com/govtx/vtx/asm"
	"github.com/govtx/vtx/ring0"
	"github.com/govtx/vtx/vmcs"
	"github.com/govtx/vtx/vmexit"
)

// passed are the I/O ports of a PC that a guest gets at without a VM exit. At all others there
// is nothing, but for those in newPorts: no PCI, no disk and no DMA controller, since without
// an IOMMU whoever has a device that writes to memory has all of it.
var passed = []ioBlock{
	{0x20, 0x21}, {0xa0, 0xa1}, {0x4d0, 0x4d1}, // 8259s
	{0x40, 0x43}, {0x61, 0x61}, // 8254
	{0x70, 0x71},   // clock
	{0x80, 0x80},   // power-on self-test codes: a delay
	{0xed, 0xed},   // the same
	{0x3b0, 0x3df}, // VGA
	{0x3f8, 0x3ff}, // COM1
}

// newPorts has the bitmaps let through what the guest has, and returns what answers at the
// ports where it is not let through.
func newPorts(m vmcs.IOBitmaps, a *acpi) *vmexit.Ports {
	m.InterceptAll()
	pass := func(b ioBlock) {
		for port := uint32(b.first); port <= uint32(b.last); port++ {
			m.Pass(uint16(port))
		}
	}
	for _, b := range passed {
		pass(b)
	}
	for _, b := range a.blocks {
		pass(b)
	}
	if a.smi != 0 { // the firmware turns ACPI on
		pass(ioBlock{a.smi, a.smi + 1})
	}
	ports := vmexit.NewPorts()
	ports.Set(0x60, 0x60, new(keyboard)).Set(0x64, 0x64, ports.Device(0x60))
	m.Intercept(0x60)
	m.Intercept(0x64)
	if a.control != 0 {
		ports.Set(a.control, a.control+1, power{})
		m.Intercept(a.control)
		m.Intercept(a.control + 1)
	}
	ports.Set(0x92, 0x92, fastA20{}).Set(0xcf9, 0xcf9, reset{})
	return ports
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

// keyboard is the 8042, which can also reset the processor and close gate A20: both
// concern the host.
type keyboard struct{ output bool } // the next byte at port 0x60 is for the output port

func (*keyboard) In(port uint16, size int) (uint32, error) { return in(port, size), nil }

func (k *keyboard) Out(port uint16, size int, v uint32) error {
	if size != 1 {
		return nil
	}
	const keep = 1<<0 | 1<<1 // of the output port: no reset, A20 open
	switch {
	case port == 0x60 && k.output:
		if v&1 == 0 {
			return errReset
		}
		v |= keep
		k.output = false
	case port == 0x64:
		if v >= 0xf0 && v&1 == 0 {
			return errReset
		}
		if v == 0xdd || v >= 0xf0 { // A20 closed; pulses
			return nil
		}
		k.output = v == 0xd1
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
