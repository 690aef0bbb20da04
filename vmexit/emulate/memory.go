package emulate

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/govtx/vtx/asm"
	"github.com/govtx/vtx/vmcs"
)

// A Device is what lies at guest-physical addresses where Memory has nothing. p has
// 1, 2, 4, 8 or 16 bytes, which are in one page of 4 KBytes, and is not valid after
// the call. An operand that crosses a page boundary comes in parts, which are aligned to
// their sizes; others come whole. An error ends the emulation.
type Device interface {
	Read(gpa uint64, p []byte) error
	Write(gpa uint64, p []byte) error
}

// An AccessError is an access that Memory or the Device refused. Registers are as
// before; of an operand in several parts, and of a string operation, some may have
// been accessed.
type AccessError struct {
	Access Access
	GPA    uint64 // guest-physical address
	Size   int    // in bytes
	Err    error
}

func (e *AccessError) Error() string {
	return fmt.Sprintf("emulate: %v of %d bytes at guest-physical address 0x%x: %v", e.Access, e.Size, e.GPA, e.Err)
}

// Unwrap returns the error of Memory or the Device.
func (e *AccessError) Unwrap() error { return e.Err }

var errNoDevice = errors.New("no memory, and the Emulator has no Device")

const pageMask = 0xfff

// A span is the guest-physical addresses of an operand: n bytes in the first page and
// the rest in the second.
type span struct {
	gpa     [2]uint64
	n, size uint8
}

// span translates an operand at an offset in a segment. It raises whatever the access
// raises.
func (e *Emulator) span(s *State, seg vmcs.SegmentRegister, offset uint64, size uint8, a Access) (sp span, err error) {
	linear, fault, ok := s.linear(seg, offset, size, a)
	if !ok {
		return sp, e.raise(s, fault, 0)
	}
	if linear&uint64(size-1) != 0 && s.CPL() == 3 && s.RFLAGS&asm.FlagAC != 0 && s.CR0&asm.CR0AM != 0 {
		return sp, e.raise(s, vmcs.VectorAC, 0)
	}
	sp.n, sp.size = size, size
	if sp.gpa[0], err = e.lookup(s, linear, a); err != nil {
		return sp, err
	}
	if room := pageMask + 1 - linear&pageMask; room < uint64(size) {
		sp.n = uint8(room)
		linear += room
		if s.CodeSize() != 64 {
			linear = uint64(uint32(linear))
		}
		sp.gpa[1], err = e.lookup(s, linear, a)
	}
	return sp, err
}

// A translation is remembered for the rest of one step, so that a repeated
// string instruction walks once per page.
type translation struct {
	page, gpa uint64
	valid     bool
}

func (e *Emulator) lookup(s *State, linear uint64, a Access) (uint64, error) {
	t := &e.translations[a&1]
	if t.valid && t.page == linear>>12 {
		return t.gpa | linear&pageMask, nil
	}
	gpa, err := e.Translate(s, linear, a)
	if err != nil {
		return 0, err
	}
	*t = translation{linear >> 12, gpa &^ pageMask, true}
	return gpa, nil
}

// load reads an operand into e.data.
func (e *Emulator) load(sp *span) error {
	if err := e.access(Read, sp.gpa[0], e.data[:sp.n], sp.n < sp.size); err != nil || sp.n == sp.size {
		return err
	}
	return e.access(Read, sp.gpa[1], e.data[sp.n:sp.size], true)
}

// store writes an operand from e.data.
func (e *Emulator) store(sp *span) error {
	if err := e.access(Write, sp.gpa[0], e.data[:sp.n], sp.n < sp.size); err != nil || sp.n == sp.size {
		return err
	}
	return e.access(Write, sp.gpa[1], e.data[sp.n:sp.size], true)
}

// loadValue reads an operand of up to 8 bytes.
func (e *Emulator) loadValue(sp *span) (uint64, error) {
	clear(e.data[:8])
	err := e.load(sp)
	return binary.LittleEndian.Uint64(e.data[:]), err
}

// storeValue writes an operand of up to 8 bytes.
func (e *Emulator) storeValue(sp *span, v uint64) error {
	binary.LittleEndian.PutUint64(e.data[:], v)
	return e.store(sp)
}

// access reads or writes bytes in one page. Part says that they are part of an
// operand: for a device, they are then broken up to what it takes.
func (e *Emulator) access(a Access, gpa uint64, p []byte, part bool) error {
	var err error
	if a == Read {
		err = e.Memory.ReadPhysical(gpa, p)
	} else {
		err = e.Memory.WritePhysical(gpa, p)
	}
	switch {
	case err == nil:
		return nil
	case err != ErrNoMemory && !errors.Is(err, ErrNoMemory): // it is mostly that itself
		return &AccessError{a, gpa, len(p), err}
	case e.Device == nil:
		return &AccessError{a, gpa, len(p), errNoDevice}
	}
	for len(p) > 0 {
		n := len(p)
		if part {
			for n = 1; 2*n <= len(p) && gpa&uint64(2*n-1) == 0; n *= 2 {
			}
		}
		if a == Read {
			err = e.Device.Read(gpa, p[:n])
		} else {
			err = e.Device.Write(gpa, p[:n])
		}
		if err != nil {
			return &AccessError{a, gpa, n, err}
		}
		gpa += uint64(n)
		p = p[n:]
	}
	return nil
}
