package machinetest

import "encoding/binary"

// BootSector returns a boot sector, without any program or file system behind
// it, that writes text to the first serial port and then goes on as the Ending
// says: Hang, Shutdown (by ACPI, as Bochs and QEMU have it), TripleFault, or
// Repeat.
func BootSector(text string, end Ending) []byte {
	const base, data = 0x7c00, 0x100
	code := []byte{
		0xfa, 0xfc, // CLI; CLD
		0x31, 0xc0, 0x8e, 0xd8, // XOR AX, AX; MOV DS, AX
		0xba, 0xfb, 0x03, 0xb0, 0x03, 0xee, // MOV DX, 3FBh; MOV AL, 3; OUT DX, AL: 8 bits
		0xbe, data & 0xff, (base + data) >> 8, // MOV SI, text
		0xb9, byte(len(text)), byte(len(text) >> 8), // MOV CX, length
		0xba, 0xfd, 0x03, // again: MOV DX, 3FDh, the line status
		0xec,       // wait: IN AL, DX
		0xa8, 0x40, // TEST AL, 40h: all has been sent
		0x74, 0xfb, // JZ wait
		0xb2, 0xf8, // MOV DL, 0F8h
		0xac, 0xee, // LODSB; OUT DX, AL
		0xe2, 0xf2, // LOOP again
		0xb2, 0xfd, 0xec, 0xa8, 0x40, 0x74, 0xfb, // wait for the last
	}
	switch end {
	case Shutdown:
		for _, port := range []uint16{0xb004, 0x604} { // PM1a_CNT: SLP_EN, and S5 is type 0
			code = binary.LittleEndian.AppendUint16(append(code, 0xba), port)
			code = append(code, 0xb8, 0x00, 0x20, 0xef) // MOV AX, 2000h; OUT DX, AX
		}
	case TripleFault:
		// LIDT [zero], a word of the text's padding; UD2: in real mode an IDT
		// with limit 0 shuts the processor down.
		code = append(code, 0x0f, 0x01, 0x1e, 0xf0, (base+0x1f0)>>8, 0x0f, 0x0b)
	case Repeat:
		code = append(code, 0xeb, byte(-(len(code) + 2)))
	}
	code = append(code, 0xeb, 0xfe)
	sector := make([]byte, 512)
	copy(sector, code)
	copy(sector[data:0x1f0], text)
	sector[510], sector[511] = 0x55, 0xaa
	return sector
}
