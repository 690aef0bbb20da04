package bootimage

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"io"
	"math"

	"github.com/govtx/vtx/internal/bootproto"
)

// elfSections is the table of section names. Nothing needs sections, but some
// versions of GRUB take a file without any for damaged.
const elfSections = "\x00.shstrtab\x00"

// WriteELF writes an ELF file for i386 that multiboot 1 and multiboot 2 loaders
// boot. The loader comes first in it, behind one page of headers, and so the
// multiboot headers are where loaders look for them: in the first 8 KiB for
// multiboot 1, 32 KiB for multiboot 2.
func (p *Program) WriteELF(w io.Writer, c *Config) error {
	pieces, err := p.pieces(c, bootproto.LoaderBase)
	if err != nil {
		return err
	}
	var head elf.Header32
	var section elf.Section32
	headSize := binary.Size(head)
	progs := make([]elf.Prog32, len(pieces))
	pos := int64(pageSize)
	for i, piece := range pieces {
		// Offset and address agree within a page, as for a file to be mapped.
		pos = roundUp(pos, pageSize) + int64(piece.addr%pageSize)
		progs[i] = elf.Prog32{
			Type: uint32(elf.PT_LOAD), Off: uint32(pos), Vaddr: uint32(piece.addr), Paddr: uint32(piece.addr),
			Filesz: uint32(piece.fileSize), Memsz: uint32(piece.memSize), Flags: piece.flags, Align: pageSize,
		}
		pos += piece.fileSize
	}
	names := pos
	table := roundUp(names+int64(len(elfSections)), 8)
	if table+2*int64(binary.Size(section)) > math.MaxUint32 {
		return fmt.Errorf("the image would have %d bytes: a 32-bit ELF file must be smaller than 4 GiB; leave out modules", table)
	}
	head = elf.Header32{
		Ident:     [elf.EI_NIDENT]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS32), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)},
		Type:      uint16(elf.ET_EXEC),
		Machine:   uint16(elf.EM_386),
		Version:   uint32(elf.EV_CURRENT),
		Entry:     bootproto.LoaderBase + loaderEntry,
		Phoff:     uint32(headSize),
		Shoff:     uint32(table),
		Ehsize:    uint16(headSize),
		Phentsize: uint16(binary.Size(progs[0])),
		Phnum:     uint16(len(progs)),
		Shentsize: uint16(binary.Size(section)),
		Shnum:     2,
		Shstrndx:  1,
	}
	section = elf.Section32{Name: 1, Type: uint32(elf.SHT_STRTAB), Off: uint32(names), Size: uint32(len(elfSections)), Addralign: 1}

	var headers, sections bytes.Buffer
	for _, v := range []any{head, progs} {
		if err := binary.Write(&headers, binary.LittleEndian, v); err != nil {
			return err
		}
	}
	for _, v := range []any{elf.Section32{}, section} {
		if err := binary.Write(&sections, binary.LittleEndian, v); err != nil {
			return err
		}
	}
	out := newWriter(w)
	out.write(headers.Bytes())
	for i := range pieces {
		out.padTo(int64(progs[i].Off))
		pieces[i].writeTo(out)
	}
	out.padTo(names)
	out.write([]byte(elfSections))
	out.padTo(table)
	out.write(sections.Bytes())
	return out.close()
}
