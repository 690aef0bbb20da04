package main

import (
	"encoding/binary"
	"errors"
	"testing"

	"github.com/govtx/vtx/internal/require"
	"pgregory.net/rapid"
)

// A fakeFirmware is physical memory with ACPI tables.
type fakeFirmware map[uint64][]byte

func (f fakeFirmware) read(address uint64, n int) ([]byte, error) {
	for at, b := range f {
		if address-at < uint64(len(b)) && uint64(n) <= uint64(len(b))-(address-at) {
			return b[address-at:][:n], nil
		}
	}
	return nil, errors.New("no such memory")
}

// sign sets a table's length and checksum.
func sign(t []byte) []byte {
	binary.LittleEndian.PutUint32(t[4:], uint32(len(t)))
	t[9] = 0
	t[9] = -checksum(t)
	return t
}

// newFirmware returns tables like those of a PC's firmware.
func newFirmware() fakeFirmware {
	le := binary.LittleEndian
	table := func(signature string, n int) []byte { return append([]byte(signature), make([]byte, n-4)...) }
	fadt := table("FACP", 116)
	le.PutUint32(fadt[48:], 0xb2)
	for _, f := range []struct{ at, port uint32 }{{56, 0xb000}, {64, 0xb004}, {76, 0xb008}, {80, 0xafe0}} {
		le.PutUint32(fadt[f.at:], f.port)
	}
	copy(fadt[88:], []byte{4, 2, 0, 4, 4, 0})
	madt := table("APIC", 44+8+12)
	le.PutUint32(madt[36:], 0xfee00000)
	copy(madt[44:], []byte{0, 8})
	copy(madt[52:], []byte{1, 12, 1, 0, 0, 0, 0xc0, 0xfe})
	hpet := table("HPET", 56)
	le.PutUint32(hpet[44:], 0xfed00000)
	root := table("RSDT", 36+12)
	for i, at := range []uint32{0x2000, 0x3000, 0x4000} {
		le.PutUint32(root[36+4*i:], at)
	}
	bios := make([]byte, 0x20000)
	copy(bios[0x100:], "RSD PTR ")
	le.PutUint32(bios[0x110:], 0x1000)
	bios[0x108] = -checksum(bios[0x100:0x114])
	return fakeFirmware{0xe0000: bios, 0x1000: sign(root), 0x2000: sign(fadt), 0x3000: sign(madt), 0x4000: sign(hpet)}
}

func TestReadACPI(t *testing.T) {
	a, err := readACPI(newFirmware().read)
	require.NoError(t, err)
	require.Equal(t, &acpi{
		root: 0xe0100, smi: 0xb2, control: 0xb004,
		blocks:    []ioBlock{{0xb000, 0xb003}, {0xb004, 0xb005}, {0xb008, 0xb00b}, {0xafe0, 0xafe3}},
		localAPIC: 0xfee00000, ioAPICs: []uint64{0xfec00000}, others: []uint64{0xfed00000},
	}, a)

	f := newFirmware()
	clear(f[0xe0000])
	_, err = readACPI(f.read)
	require.ErrorIs(t, err, errACPI)
	f = newFirmware()
	f[0x3000][40]++
	_, err = readACPI(f.read)
	require.Equal(t, `the firmware has no ACPI tables that can be read: the checksum of "APIC" at 0x3000 is wrong`, err.Error())
	f = newFirmware()
	f[0x3000][45] = 0
	sign(f[0x3000])
	_, err = readACPI(f.read)
	require.Equal(t, "the firmware has no ACPI tables that can be read: an entry of the MADT has 0 bytes", err.Error())
	f = newFirmware()
	f[0x2000] = sign(f[0x2000][:100])
	_, err = readACPI(f.read)
	require.Equal(t, "the firmware has no ACPI tables that can be read: the FADT has 100 bytes", err.Error())
}

// Whatever the tables say, reading them comes to an end.
func TestReadACPIHostile(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := newFirmware()
		for _, at := range []uint64{0x1000, 0x2000, 0x3000, 0x4000} {
			b := f[at]
			for range rapid.IntRange(0, 4).Draw(t, "changes") {
				b[rapid.IntRange(0, len(b)-1).Draw(t, "at")] = rapid.Byte().Draw(t, "value")
			}
			if rapid.Bool().Draw(t, "sign") {
				sign(b)
			}
		}
		_, _ = readACPI(f.read)
	})
}

// What would end the host, or give the guest more than its own, does not reach the machine.
func TestPortsRefuse(t *testing.T) {
	for _, tt := range []struct {
		name string
		out  func() error
		want error
	}{
		{"keyboard controller: reset pulse", func() error { return new(keyboard).Out(0x64, 1, 0xfe) }, errReset},
		{"keyboard controller: pulses on other lines", func() error { return new(keyboard).Out(0x64, 1, 0xff) }, nil},
		{"keyboard controller: A20 off", func() error { return new(keyboard).Out(0x64, 1, 0xdd) }, nil},
		{"keyboard controller: output port with reset", func() error { return (&keyboard{command: 0xd1}).Out(0x60, 1, 0x02) }, errReset},
		{"keyboard controller: two bytes", func() error { return new(keyboard).Out(0x64, 2, 0xfe) }, nil},
		{"port A: reset", func() error { return fastA20{}.Out(0x92, 1, 1) }, errReset},
		{"port A: A20 off", func() error { return fastA20{}.Out(0x92, 1, 0) }, nil},
		{"reset control register", func() error { return reset{}.Out(0xcf9, 1, 6) }, errReset},
		{"reset control register, prepared", func() error { return reset{}.Out(0xcf9, 1, 2) }, nil},
		{"PM1 control: S5", func() error { return power{}.Out(0xb004, 2, 1<<13) }, errPowerOff},
		{"PM1 control: S5, a byte", func() error { return power{}.Out(0xb005, 1, 1<<5) }, errPowerOff},
	} {
		require.Equal(t, tt.want, tt.out(), tt.name)
	}
}
