package main

// There is no IOMMU: whoever has a device that writes to memory by itself has all memory. So no
// device of the machine's PCI is the guest's, nor is its host bridge, which could open the memory of
// system-management mode. In their place the guest finds a bus with a host bridge, an ISA bridge and
// power management, as kernels and ACPI tables for PCs want them, and nothing else. They are emulated: no
// access reaches the machine.

// A pciBus is what answers to configuration mechanism #1 (PCI Local Bus Specification 3.0,
// 3.2.2.3.2).
type pciBus struct {
	address   uint32 // what CONFIG_ADDRESS holds
	functions [3]pciFunction
}

// A pciFunction is the configuration space of one function.
type pciFunction struct {
	number    uint16 // of bus, device and function: bits 23:8 of CONFIG_ADDRESS
	registers [256]byte
	writable  [256]byte // the bits that hold what is written; all others stay
}

const (
	pciAddress = 0xcf8 // CONFIG_ADDRESS, 4 bytes
	pciData    = 0xcfc // CONFIG_DATA, 4 bytes
	pciLast    = 0xcff

	pciEnable = 1 << 31    // of CONFIG_ADDRESS: the data ports are those of configuration
	pciHolds  = 0x80fffffc // the bits that it has

	pciISA = 1 << 3   // device 1, function 0
	pciPM  = 1<<3 | 3 // device 1, function 3

	pirqBits = 1<<7 | 0xf // of the ISA bridge's PIRQRC: not routed; the IRQ

	pmBase    = 0x40   // register of pciPM: where its ports are
	pmIO      = 1 << 0 // of pmBase: they are I/O ports
	pmEnable  = 0x80   // register of pciPM: bit 0 has them answer
	pmPorts   = 64     // so many
	pmControl = 4      // of these: PM1 control
)

// newPCIBus returns the bus of a PC whose PM1 control register is at a port; 0: there is none.
func newPCIBus(control uint16) *pciBus {
	b := &pciBus{functions: [...]pciFunction{{
		// 82441FX, the host bridge. PAM registers: RAM that is read, and not written, from 0xf0000. SMRAM:
		// closed, and locked, which is why a write does not open it.
		registers: [256]byte{
			0x00: 0x86, 0x80, 0x37, 0x12, // 8086:1237
			0x04: 0x06, 0x00, 0x80, 0x02, // command and status
			0x0a: 0x00, 0x06, // class: host bridge
			0x59: 0x10,
			0x72: 0x1a,
		},
	}, {
		// 82371SB, function 0: the ISA bridge. Nothing has an interrupt to be routed.
		number: pciISA,
		registers: [256]byte{
			0x00: 0x86, 0x80, 0x00, 0x70, // 8086:7000
			0x04: 0x07, 0x00, 0x00, 0x02,
			0x0a: 0x01, 0x06, // ISA bridge
			0x0e: 0x80,         // one of several functions
			0x60: 11, 9, 11, 9, // PIRQRC[A:D], as the firmware for PCs has them
		},
		writable: [256]byte{0x60: pirqBits, pirqBits, pirqBits, pirqBits},
	}, {
		// 82371AB, function 3: power management, without bus mastering. Its device resources tell ACPI
		// which ports of the ISA bus are in use (DEVRESA to C, from 0x5c): COM1, neither LPT nor COM2.
		number: pciPM,
		registers: [256]byte{
			0x00: 0x86, 0x80, 0x13, 0x71, // 8086:7113
			0x04: 0x00, 0x00, 0x80, 0x02,
			0x08: 0x03, 0x00, 0x80, 0x06, // revision; another bridge
			0x3c: 9, 1, // interrupt line: that of ACPI; INTA#
			pmBase: pmIO, 0,
			0x67: 0x08, // COM1
			0x90: 0x01, // SMBus: ports nowhere
		},
		writable: [256]byte{0x3c: 0xff},
	}}}
	// Where the ports are is said in both this register and ACPI's tables.
	if base := control &^ (pmPorts - 1); base != 0 && control-base == pmControl {
		pm := &b.functions[2]
		pm.registers[pmBase], pm.registers[pmBase+1] = uint8(base)|pmIO, uint8(base>>8)
		pm.registers[pmEnable] = 1
	}
	return b
}

// selected returns the function that the data ports are of, nil if there is none.
func (b *pciBus) selected() *pciFunction {
	if b.address&pciEnable == 0 {
		return nil
	}
	for i := range b.functions {
		if f := &b.functions[i]; f.number == uint16(b.address>>8) {
			return f
		}
	}
	return nil
}

// register returns the number of the register at a port, false if no register is there. An
// access that reaches beyond the data ports is, as on the bus, one to some of them and one to
// others.
func (b *pciBus) register(port uint16) (uint8, bool) {
	return uint8(b.address) | uint8(port&3), port >= pciData && port <= pciLast
}

// In implements vmexit.PortDevice.
func (b *pciBus) In(port uint16, size int) (uint32, error) {
	if port == pciAddress && size == 4 { // smaller accesses are not CONFIG_ADDRESS's
		return b.address, nil
	}
	v := ^uint32(0)
	if f := b.selected(); f != nil {
		for i := range size {
			if r, ok := b.register(port + uint16(i)); ok {
				v ^= uint32(^f.registers[r]) << (8 * i)
			}
		}
	}
	return v, nil
}

// Out implements vmexit.PortDevice.
func (b *pciBus) Out(port uint16, size int, v uint32) error {
	if port == pciAddress && size == 4 {
		b.address = v & pciHolds
		return nil
	}
	if f := b.selected(); f != nil {
		for i := range size {
			if r, ok := b.register(port + uint16(i)); ok {
				f.registers[r] ^= (f.registers[r] ^ uint8(v>>(8*i))) & f.writable[r]
			}
		}
	}
	return nil
}
