// Package machinetest holds what the tests of package machine and of cmd/vtx
// share: programs small enough to be written by hand, and an emulator that
// only pretends.
package machinetest

import (
	"bytes"
	"encoding/binary"

	"github.com/govtx/vtx/internal/bootproto"
)

// An Ending says how a [Guest] goes on when it has printed its text.
type Ending int

const (
	Hang        Ending = iota // loop
	TripleFault               // load an empty IDT and execute UD2
	Shutdown                  // switch the machine off
	Repeat                    // print the text again, for ever
)

const (
	guestBase = 0x400000
	guestMark = 0x80 // behind the ELF header and one program header
	guestCode = 0xa0
	guestText = 0x100
)

// FaultRIP is the address at which a [TripleFault] guest stops.
const FaultRIP = guestBase + guestCode + 26

// Guest returns a static ELF file that can boot, takes memSize bytes of memory
// (more if its own bytes need more), and writes text to the output port.
func Guest(text []byte, end Ending, memSize uint64) []byte {
	le := binary.LittleEndian
	off := guestText + len(text) + 8 - len(text)%8
	zero := uint32(guestBase + off) // an IDT with limit 0, and the shutdown text
	data := append(make([]byte, 16), bootproto.ShutdownText...)

	// MOV ESI, text; MOV ECX, length; MOV EDX, port; CLD; REP OUTSB
	out := func(code []byte, addr uint32, n int, port uint32) []byte {
		code = le.AppendUint32(append(code, 0xbe), addr)
		code = le.AppendUint32(append(code, 0xb9), uint32(n))
		code = le.AppendUint32(append(code, 0xba), port)
		return append(code, 0xfc, 0xf3, 0x6e)
	}
	code := out(nil, guestBase+guestText, len(text), bootproto.PortE9)
	switch end {
	case TripleFault:
		code = le.AppendUint32(append(code, 0x0f, 0x01, 0x1c, 0x25), zero) // LIDT [zero]
		code = append(code, 0x0f, 0x0b)                                    // UD2
	case Shutdown:
		code = out(code, zero+16, len(bootproto.ShutdownText), bootproto.PortShutdown)
	case Repeat:
		code = append(code, 0xeb, byte(-(len(code) + 2))) // JMP to the beginning
	}
	code = append(code, 0xeb, 0xfe) // JMP to itself

	var b bytes.Buffer
	size := uint64(off + len(data))
	put := func(values ...any) {
		for _, v := range values {
			_ = binary.Write(&b, le, v) // a buffer takes everything
		}
	}
	pad := func(to int) { b.Write(make([]byte, to-b.Len())) }
	// ELF header: 64-bit, little-endian, ET_EXEC, EM_X86_64, one program header.
	put([16]byte{0x7f, 'E', 'L', 'F', 2, 1, 1}, uint16(2), uint16(62), uint32(1),
		uint64(guestBase+guestCode), uint64(64), uint64(0),
		uint32(0), uint16(64), uint16(56), uint16(1), uint16(64), uint16(0), uint16(0))
	// PT_LOAD, readable, writable and executable.
	put(uint32(1), uint32(7), uint64(0), uint64(guestBase), uint64(guestBase), size, max(size, memSize), uint64(0x1000))
	pad(guestMark)
	put(bootproto.Mark0, bootproto.Mark1, uint64(guestBase+guestCode))
	pad(guestCode)
	b.Write(code)
	pad(guestText)
	b.Write(text)
	pad(off)
	b.Write(data)
	return b.Bytes()
}
