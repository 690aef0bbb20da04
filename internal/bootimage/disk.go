package bootimage

import (
	"encoding/binary"
	"io"

	"github.com/govtx/vtx/internal/bootproto"
)

// The disk's geometry is what Bochs wants to be told about it. BIOSes are asked
// by sector number and do not care.
const (
	sectorSize      = 512
	headsPerDisk    = 16
	sectorsPerTrack = 63
	cylinderSize    = sectorSize * headsPerDisk * sectorsPerTrack
)

// Places in disk.bin and the table behind it; see disk.S.
const (
	diskFlags      = 0x1bc
	diskPartition  = 0x1be
	diskTableBytes = 0x800
	diskTableHead  = 16
	diskRowBytes   = 16
)

// Geometry is that of a disk image of so many bytes.
func Geometry(size int64) (cylinders, heads, sectors int) {
	return int(size / cylinderSize), headsPerDisk, sectorsPerTrack
}

// WriteDisk writes the raw image of a disk that a BIOS boots. Its size is a
// multiple of 512*16*63 bytes, a whole number of cylinders.
func (p *Program) WriteDisk(w io.Writer, c *Config) error {
	pieces, err := p.pieces(c, bootproto.LoaderBase)
	if err != nil {
		return err
	}
	le := binary.LittleEndian
	table := make([]byte, diskTableBytes)
	le.PutUint32(table, uint32(len(pieces)))
	le.PutUint32(table[4:], uint32(p.MemoryNeeded(c)>>20))
	le.PutUint32(table[8:], bootproto.LoaderBase+loaderEntry)
	start := int64(len(diskCode) + diskTableBytes)
	pos := start
	starts := make([]int64, len(pieces))
	for i, piece := range pieces {
		row := table[diskTableHead+i*diskRowBytes:]
		le.PutUint32(row, uint32(piece.addr))
		le.PutUint32(row[4:], uint32(piece.fileSize))
		le.PutUint32(row[8:], uint32(piece.memSize))
		le.PutUint32(row[12:], uint32(pos/sectorSize))
		starts[i] = pos
		pos = roundUp(pos+piece.fileSize, sectorSize)
	}
	size := roundUp(pos, cylinderSize)

	code := append([]byte(nil), diskCode...)
	code[diskFlags] = byte(c.Flags)
	// One active partition from the second sector to the end, of a type that
	// no system looks into (0xda): without one, some BIOSes do not boot a disk.
	// All ones in the CHS fields say that the sector numbers count.
	copy(code[diskPartition:], []byte{0x80, 0xff, 0xff, 0xff, 0xda, 0xff, 0xff, 0xff})
	le.PutUint32(code[diskPartition+8:], 1)
	le.PutUint32(code[diskPartition+12:], uint32(size/sectorSize-1))

	out := newWriter(w)
	out.write(code)
	out.write(table)
	for i := range pieces {
		out.padTo(starts[i])
		pieces[i].writeTo(out)
	}
	out.padTo(size)
	return out.close()
}
