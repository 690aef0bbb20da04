package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
)

// acpi is what a hypervisor that gives its machine away has to know from the firmware's ACPI
// tables (ACPI 6.5, chapter 5).
type acpi struct {
	root uint64 // physical address of the RSDP

	smi     uint16    // SMI command port; 0: none
	blocks  []ioBlock // fixed registers at I/O ports
	control uint16    // PM1a control register, where the machine is turned off; 0: none

	localAPIC uint64 // pages with the registers of interrupt controllers
	ioAPICs   []uint64
	others    []uint64 // and of other devices
}

// An ioBlock is some I/O ports.
type ioBlock struct{ first, last uint16 }

var errACPI = errors.New("the firmware has no ACPI tables that can be read")

// readACPI reads the tables. Memory returns n bytes of physical memory.
func readACPI(memory func(address uint64, n int) ([]byte, error)) (*acpi, error) {
	area, err := memory(0xe0000, 0x20000) // 5.2.5.1
	if err != nil {
		return nil, err
	}
	for at := 0; at+20 <= len(area); at += 16 {
		p := area[at:]
		if !bytes.HasPrefix(p, []byte("RSD PTR ")) || checksum(p[:20]) != 0 {
			continue
		}
		a := &acpi{root: 0xe0000 + uint64(at)}
		// The RSDT has 32-bit addresses, which every firmware with a BIOS has.
		root, err := table(memory, uint64(binary.LittleEndian.Uint32(p[16:])), "RSDT")
		if err != nil {
			return nil, err
		}
		for rest := root[36:]; len(rest) >= 4; rest = rest[4:] {
			t, err := table(memory, uint64(binary.LittleEndian.Uint32(rest)), "")
			if err != nil {
				return nil, err
			}
			if err := a.read(t); err != nil {
				return nil, err
			}
		}
		return a, nil
	}
	return nil, errACPI
}

// table returns a whole table, of a signature if one is given.
func table(memory func(uint64, int) ([]byte, error), address uint64, signature string) ([]byte, error) {
	header, err := memory(address, 36)
	if err != nil {
		return nil, err
	}
	n := binary.LittleEndian.Uint32(header[4:])
	if signature != "" && string(header[:4]) != signature || n < 36 || n > 1<<20 {
		return nil, fmt.Errorf("%w: at %#x is %q of %d bytes", errACPI, address, header[:4], n)
	}
	t, err := memory(address, int(n))
	if err == nil && checksum(t) != 0 {
		err = fmt.Errorf("%w: the checksum of %q at %#x is wrong", errACPI, header[:4], address)
	}
	return t, err
}

func checksum(b []byte) (s byte) {
	for _, c := range b {
		s += c
	}
	return s
}

// read takes what there is to know from a table.
func (a *acpi) read(t []byte) error {
	u32 := binary.LittleEndian.Uint32
	page := func(at int) uint64 { return uint64(u32(t[at:])) &^ (pageSize - 1) }
	switch string(t[:4]) {
	case "FACP": // 5.2.9
		if len(t) < 116 {
			return fmt.Errorf("%w: the FADT has %d bytes", errACPI, len(t))
		}
		a.smi = uint16(u32(t[48:]))
		a.control = uint16(u32(t[64:]))
		for _, f := range []struct {
			at     int
			length byte
		}{
			{56, t[88]}, {60, t[88]}, {64, t[89]}, {68, t[89]}, {72, t[90]}, {76, t[91]}, {80, t[92]}, {84, t[93]},
		} {
			if port := u32(t[f.at:]); port != 0 && f.length != 0 && port+uint32(f.length) <= 1<<16 {
				a.blocks = append(a.blocks, ioBlock{uint16(port), uint16(port + uint32(f.length) - 1)})
			}
		}
	case "APIC": // 5.2.12
		if len(t) < 44 {
			return fmt.Errorf("%w: the MADT has %d bytes", errACPI, len(t))
		}
		a.localAPIC = page(36)
		for at := 44; at+2 <= len(t); {
			n := int(t[at+1])
			if n < 2 || n > len(t)-at {
				return fmt.Errorf("%w: an entry of the MADT has %d bytes", errACPI, n)
			}
			if t[at] == 1 && n >= 12 { // an I/O APIC
				a.ioAPICs = append(a.ioAPICs, page(at+4))
			}
			at += n
		}
	case "HPET": // IA-PC HPET specification 1.0a, 3.2.4
		if len(t) >= 56 {
			a.others = append(a.others, page(44))
		}
	}
	return nil
}
