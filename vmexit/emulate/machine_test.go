package emulate_test

import (
	"encoding/binary"
	"errors"
	"testing"

	"github.com/govtx/vtx/asm"
	"github.com/govtx/vtx/ring0"
	"github.com/govtx/vtx/vmcs"
	"github.com/govtx/vtx/vmexit/emulate"
)

// ram is memory from a guest-physical address on, with a hole in it for a device.
type ram struct {
	base       uint64
	bytes      []byte
	hole, size uint64 // addresses as in bytes
}

func (m *ram) at(gpa uint64, n int) ([]byte, error) {
	gpa -= m.base
	if gpa >= uint64(len(m.bytes)) || uint64(n) > uint64(len(m.bytes))-gpa || gpa-m.hole < m.size {
		return nil, emulate.ErrNoMemory
	}
	return m.bytes[gpa:][:n], nil
}

func (m *ram) ReadPhysical(gpa uint64, p []byte) error {
	b, err := m.at(gpa, len(p))
	copy(p, b)
	return err
}

func (m *ram) WritePhysical(gpa uint64, p []byte) error {
	b, err := m.at(gpa, len(p))
	copy(b, p)
	return err
}

// updated is ram with accessed and dirty flags.
type updated struct {
	ram
	busy int // so many exchanges fail
}

func (m *updated) CompareExchange(gpa uint64, size int, old, new uint64) (bool, error) {
	b, err := m.at(gpa, size)
	if err != nil {
		return false, err
	}
	if m.busy > 0 {
		m.busy--
		return false, nil
	}
	if size == 4 {
		if uint64(binary.LittleEndian.Uint32(b)) != old {
			return false, nil
		}
		binary.LittleEndian.PutUint32(b, uint32(new))
		return true, nil
	}
	if binary.LittleEndian.Uint64(b) != old {
		return false, nil
	}
	binary.LittleEndian.PutUint64(b, new)
	return true, nil
}

var errRange = errors.New("the device is not so large")

// An operation is what a device has seen.
type operation struct {
	write bool
	at    uint64
	data  string
}

// array is a device that is an array, at a guest-physical address.
type array struct {
	base  uint64
	bytes []byte
	log   []operation
	quiet bool
	fail  int // after so many accesses it fails; 0: never
}

func (d *array) access(write bool, gpa uint64, p []byte) ([]byte, error) {
	if n := len(p); n == 0 || n > 16 || n&(n-1) != 0 || gpa&0xfff+uint64(n) > 0x1000 {
		return nil, errors.New("not an access that Device speaks of")
	}
	gpa -= d.base
	if gpa >= uint64(len(d.bytes)) || gpa+uint64(len(p)) > uint64(len(d.bytes)) {
		return nil, errRange
	}
	if d.fail > 0 {
		if d.fail--; d.fail == 0 {
			return nil, errRange
		}
	}
	b := d.bytes[gpa:][:len(p)]
	if !d.quiet {
		o := operation{write, gpa, string(b)}
		if write {
			o.data = string(p)
		}
		d.log = append(d.log, o)
	}
	return b, nil
}

func (d *array) Read(gpa uint64, p []byte) error {
	b, err := d.access(false, gpa, p)
	copy(p, b)
	return err
}

func (d *array) Write(gpa uint64, p []byte) error {
	b, err := d.access(true, gpa, p)
	copy(b, p)
	return err
}

const (
	ramSize    = 0x10000
	deviceBase = 0xfee00000
	deviceSize = 0x2000
	codeAt     = 0x8000
	stackTop   = 0xa000
)

// skipInRing0 is for tests that take long there, and have nothing to find.
func skipInRing0(t *testing.T) {
	t.Helper()
	if ring0.Active() {
		t.Skip("takes long on an emulated processor, and does not depend on it")
	}
}

// A machine is a guest without paging, with RAM from 0 and a device.
type machine struct {
	emulate.Emulator
	emulate.State
	regs   [16]uint64
	ram    *updated
	device *array
}

// newMachine makes one that is about to run code, of 16, 32 or 64 bits.
func newMachine(codeSize int, code ...byte) *machine {
	m := &machine{
		ram:    &updated{ram: ram{bytes: make([]byte, ramSize)}},
		device: &array{base: deviceBase, bytes: make([]byte, deviceSize)},
	}
	m.Memory, m.Device = m.ram, m.device
	copy(m.ram.bytes[codeAt:], code)
	m.State = emulate.State{Regs: &m.regs, RIP: codeAt, RFLAGS: 2, CR0: 1}
	for n := range m.Segments {
		m.Segments[n] = vmcs.FlatData(0x10)
	}
	switch codeSize {
	case 64:
		m.EFER = 1 << 10 // paging is off nevertheless, which no processor has
		m.Segments[vmcs.CS] = vmcs.FlatCode64(8)
	case 32:
		m.Segments[vmcs.CS] = vmcs.FlatCode32(8)
	default:
		m.CR0 = 0
		for n := range m.Segments {
			m.Segments[n] = vmcs.RealModeSegment(0)
		}
	}
	m.regs[asm.RSP] = stackTop
	return m
}
