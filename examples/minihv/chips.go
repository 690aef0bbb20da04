package main

import "errors"

// What a guest does to a chip of the machine is its own business, as long as the machine goes
// on: VTL1 and the hypervisor are on it, too. The filters here let through what programs for
// PCs do, and change or drop what a PC has no wires for, or what its chips need not survive: an
// emulator such as Bochs ends when it meets it.

// A filter is in the way of what is written to a chip.
type filter interface {
	// pass returns what is to be written to a port in place of v; false if nothing is.
	pass(port uint16, v uint8) (uint8, bool)
}

// A chip is an 8-bit device of the machine, behind a filter.
type chip struct{ filter }

// In implements vmexit.PortDevice.
func (chip) In(port uint16, size int) (uint32, error) {
	if size != 1 {
		return ^uint32(0), nil
	}
	return in(port, 1), nil
}

// Out implements vmexit.PortDevice.
func (c chip) Out(port uint16, size int, v uint32) error {
	if size != 1 {
		return nil
	}
	if b, ok := c.pass(port, uint8(v)); ok {
		out(port, 1, uint32(b))
	}
	return nil
}

// An interruptController is an 8259A: of the two that a PC has, wired as they are there (8259A
// data sheet, "Programming the 8259A").
type interruptController struct {
	wire   uint8 // ICW3: the lines with another one on the master, the slave's own number
	expect uint8 // the initialization command word that comes next, 2 to 4; 0: none
	four   bool  // ICW4 is to come
}

func (c *interruptController) pass(port uint16, v uint8) (uint8, bool) {
	const (
		icw1, icw1Level, icw1Single, icw1Four = 1 << 4, 1 << 3, 1 << 1, 1 << 0
		icw4x86                               = 1 << 0
		ocw3                                  = 1 << 3
	)
	if port&1 == 0 {
		switch {
		case v&icw1 != 0:
			c.expect, c.four = 2, v&icw1Four != 0
			return v &^ (icw1Level | icw1Single), true
		case v&ocw3 != 0:
			return v, true
		}
		// Of the operation command words 2 only those for one level have a level.
		switch v >> 5 {
		case 3, 6, 7: // specific EOI; set priority; both
			return v, true
		}
		return v &^ 7, true
	}
	switch c.expect {
	case 2:
		c.expect = 3
	case 3:
		c.expect = 0
		if c.four {
			c.expect = 4
		}
		return c.wire, true
	case 4:
		c.expect = 0
		return v | icw4x86, true
	}
	return v, true
}

// A clock is the MC146818, with the memory in which the firmware keeps its settings: that can be
// read.
type clock struct{ index uint8 }

func (c *clock) pass(port uint16, v uint8) (uint8, bool) {
	const (
		a, d  = 0xa, 0xd // control registers; behind D is memory
		chain = 7 << 4   // of register A: the divider chain
		runs  = 2 << 4   // with the crystal that every PC has
		reset = 6 << 4   // and above: it is stopped
	)
	if port&1 == 0 {
		c.index = v & 0x7f // bit 7 is the mask of NMIs
		return v, true
	}
	switch {
	case c.index > d:
		return 0, false
	case c.index == a && v&chain < reset:
		v = v&^chain | runs
	}
	return v, true
}

// A display is a VGA, in the text mode that the firmware has left it in: the guest can scroll,
// and place the cursor.
type display struct{ index uint8 } // of the CRT controller's registers

const (
	displayFirst = 0x3b0
	displayLast  = 0x3df
	crtIndex     = 0x3d4
	crtData      = 0x3d5

	crtCursorStart = 0xa
	crtStartHigh   = 0xc // of the memory that is shown
	crtCursorLow   = 0xf
)

func (d *display) pass(port uint16, v uint8) (uint8, bool) {
	const pages = 0x3f // of 256 characters, in text mode
	switch {
	case port == crtIndex:
		d.index = v
		return v, true
	case port == crtData && d.index == crtStartHigh:
		return v & pages, true
	}
	return v, port == crtData && d.index >= crtCursorStart && d.index <= crtCursorLow
}

// In implements vmexit.PortDevice.
func (*display) In(port uint16, size int) (uint32, error) {
	if port+uint16(size)-1 > displayLast {
		return ^uint32(0), nil
	}
	return in(port, size), nil
}

// Out implements vmexit.PortDevice. Index and value can come in one.
func (d *display) Out(port uint16, size int, v uint32) error {
	c := chip{d}
	if size == 2 && port == crtIndex {
		return errors.Join(c.Out(crtIndex, 1, v), c.Out(crtData, 1, v>>8))
	}
	return c.Out(port, size, v)
}

// A keyboard is the 8042, which can also reset the processor and close gate A20: both
// concern the host.
type keyboard struct {
	command    uint8 // that awaits a byte at port 0x60; 0: none
	resolution bool  // the next byte for the mouse is one
}

const (
	keyboardData   = 0x60
	keyboardStatus = 0x64
	outputFull     = 1 << 0 // of the status
)

// In implements vmexit.PortDevice.
func (*keyboard) In(port uint16, size int) (uint32, error) { return chip{}.In(port, size) }

// Out implements vmexit.PortDevice.
func (k *keyboard) Out(port uint16, size int, v uint32) error {
	if size != 1 {
		return nil
	}
	if port == keyboardStatus && v >= 0xf0 && v&1 == 0 || port == keyboardData && k.command == 0xd1 && v&1 == 0 {
		return errReset
	}
	return chip{k}.Out(port, size, v)
}

func (k *keyboard) pass(port uint16, v uint8) (uint8, bool) {
	if port == keyboardStatus {
		k.command = 0
		switch v {
		case 0x60, 0xcb, 0xd1, 0xd2, 0xd3, 0xd4: // a byte is to come
			k.command = v
			return v, true
		case 0x20, 0xa9, 0xaa, 0xab, 0xc0, 0xca, 0xd0: // what answers, which wants room for it
			return v, in(keyboardStatus, 1)&outputFull == 0
		}
		// Interfaces and keyboard on and off, and A20 on. Not: A20 off, pulses, and polls that
		// only ever were in the first of these.
		return v, v == 0xa7 || v == 0xa8 || v == 0xad || v == 0xae || v == 0xdf
	}
	command := k.command
	k.command = 0
	switch command {
	case 0:
		const resend = 0xfe
		return v, v != resend
	case 0xd1:
		const keep = 1<<0 | 1<<1 // of the output port: no reset, A20 open
		return v | keep, true
	case 0xd2, 0xd3:
		return v, in(keyboardStatus, 1)&outputFull == 0
	case 0xd4: // to the mouse, which answers
		const setResolution, highest = 0xe8, 3
		if in(keyboardStatus, 1)&outputFull != 0 {
			return 0, false
		}
		if k.resolution {
			v &= highest
		}
		k.resolution = !k.resolution && v == setResolution
	}
	return v, true
}
