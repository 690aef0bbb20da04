package bootimage

import (
	"bytes"
	"cmp"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/govtx/vtx/internal/bootproto"
)

// ErrNoRing0 says that a program does not contain package ring0: there is no
// bootproto mark in it. It can run as a process only.
var ErrNoRing0 = errors.New("the program cannot boot: it does not import github.com/govtx/vtx/ring0")

const (
	pageSize     = 0x1000
	largePage    = 0x200000
	maxSegments  = 64
	addressLimit = 1 << 32 // loader.S maps as much
)

// A segment is a PT_LOAD of the program.
type segment struct {
	addr, fileSize, memSize uint64
	offset                  int64 // in the file
	flags                   elf.ProgFlag
}

// A Program is an ELF file that can boot.
type Program struct {
	r         io.ReaderAt
	segments  []segment // by address; none empty, none overlapping
	elfEntry  uint64
	bootEntry uint64
}

// Open examines the ELF file r of size bytes. The program keeps reading from r
// when an image is written. The error is ErrNoRing0 for an intact amd64 program
// that only lacks the mark, however it is linked.
func Open(r io.ReaderAt, size int64) (*Program, error) {
	head, progs, err := readHeaders(r, size)
	if err != nil {
		return nil, err
	}
	p := &Program{r: r, elfEntry: head.Entry}
	var dynamic elf.ProgType
	for i, h := range progs {
		switch typ := elf.ProgType(h.Type); typ {
		case elf.PT_INTERP, elf.PT_DYNAMIC:
			dynamic = typ
		case elf.PT_LOAD:
			if h.Filesz > uint64(size) || h.Off > uint64(size)-h.Filesz {
				return nil, fmt.Errorf("program header %d: %#x bytes at offset %#x reach past the end of the file, %#x: the file is truncated, build it again", i, h.Filesz, h.Off, size)
			}
			if h.Filesz > h.Memsz {
				return nil, fmt.Errorf("program header %d: %#x bytes in the file but only %#x in memory: the file is damaged, build it again", i, h.Filesz, h.Memsz)
			}
			if h.Memsz == 0 {
				continue
			}
			if len(p.segments) == maxSegments {
				return nil, fmt.Errorf("more than %d loadable segments: link with the Go linker's defaults", maxSegments)
			}
			p.segments = append(p.segments, segment{h.Vaddr, h.Filesz, h.Memsz, int64(h.Off), elf.ProgFlag(h.Flags)})
		}
	}
	marks, err := p.findMarks()
	if err != nil {
		return nil, err
	}
	if len(marks) == 0 {
		return nil, ErrNoRing0
	}
	if elf.Type(head.Type) == elf.ET_DYN || dynamic != elf.PT_NULL {
		what := dynamic.String()
		if dynamic == elf.PT_NULL {
			what = elf.ET_DYN.String()
		}
		return nil, fmt.Errorf("the program is dynamically linked or position-independent (%s): build it with CGO_ENABLED=0 and without -buildmode=pie", what)
	}
	if err := p.checkAddresses(); err != nil {
		return nil, err
	}
	if p.bootEntry, err = p.chooseEntry(marks); err != nil {
		return nil, err
	}
	return p, nil
}

// readHeaders reads the file header and the program headers.
func readHeaders(r io.ReaderAt, size int64) (h elf.Header64, progs []elf.Prog64, err error) {
	if size < 0 {
		return h, nil, fmt.Errorf("size %d is negative", size)
	}
	buf := make([]byte, min(size, int64(binary.Size(h))))
	if err := readFull(r, buf, 0); err != nil {
		return h, nil, err
	}
	if !bytes.HasPrefix(buf, []byte(elf.ELFMAG)) {
		return h, nil, fmt.Errorf("not an ELF file: it begins with %q, not %q; build it with GOOS=linux GOARCH=amd64", buf[:min(len(buf), 4)], elf.ELFMAG)
	}
	if len(buf) < binary.Size(h) {
		return h, nil, fmt.Errorf("%d bytes, but an ELF header has %d: the file is truncated, build it again", size, binary.Size(h))
	}
	order := binary.ByteOrder(binary.LittleEndian)
	if elf.Data(buf[elf.EI_DATA]) == elf.ELFDATA2MSB {
		order = binary.BigEndian
	}
	if machine := elf.Machine(order.Uint16(buf[18:])); machine != elf.EM_X86_64 || elf.Class(buf[elf.EI_CLASS]) != elf.ELFCLASS64 || order != binary.LittleEndian {
		return h, nil, fmt.Errorf("built for %s %s: build it with GOARCH=amd64", machine, elf.Class(buf[elf.EI_CLASS]))
	}
	if _, err := binary.Decode(buf, order, &h); err != nil {
		return h, nil, err
	}
	if abi := elf.OSABI(buf[elf.EI_OSABI]); abi != elf.ELFOSABI_NONE && abi != elf.ELFOSABI_LINUX {
		return h, nil, fmt.Errorf("built for %s: build it with GOOS=linux", abi)
	}
	if t := elf.Type(h.Type); t != elf.ET_EXEC && t != elf.ET_DYN {
		return h, nil, fmt.Errorf("ELF type %s is not a program: build a main package, or go test -c", t)
	}
	var prog elf.Prog64
	rowSize := binary.Size(prog)
	if h.Phnum == 0 || int(h.Phentsize) != rowSize {
		return h, nil, fmt.Errorf("%d program headers of %d bytes: a program has at least one, of %d bytes; build it again", h.Phnum, h.Phentsize, rowSize)
	}
	table := uint64(h.Phnum) * uint64(rowSize)
	if table > uint64(size) || h.Phoff > uint64(size)-table {
		return h, nil, fmt.Errorf("%d program headers at offset %#x reach past the end of the file, %#x: the file is truncated, build it again", h.Phnum, h.Phoff, size)
	}
	buf = make([]byte, table)
	if err := readFull(r, buf, int64(h.Phoff)); err != nil {
		return h, nil, err
	}
	progs = make([]elf.Prog64, h.Phnum)
	if _, err := binary.Decode(buf, order, progs); err != nil {
		return h, nil, err
	}
	return h, progs, checkSections(r, size, &h)
}

// checkSections checks that the sections are in the file, if it has any. Loading
// does not need them, but linkers put them last: they tell that the end of the
// file is missing.
func checkSections(r io.ReaderAt, size int64, h *elf.Header64) error {
	var section elf.Section64
	if h.Shoff == 0 || int(h.Shentsize) != binary.Size(section) {
		return nil
	}
	table := uint64(h.Shnum) * uint64(h.Shentsize)
	if table > uint64(size) || h.Shoff > uint64(size)-table {
		return fmt.Errorf("%d section headers at offset %#x reach past the end of the file, %#x: the file is truncated, build it again", h.Shnum, h.Shoff, size)
	}
	buf := make([]byte, table)
	if err := readFull(r, buf, int64(h.Shoff)); err != nil {
		return err
	}
	sections := make([]elf.Section64, h.Shnum)
	if _, err := binary.Decode(buf, binary.LittleEndian, sections); err != nil {
		return err
	}
	for i, s := range sections {
		if t := elf.SectionType(s.Type); t == elf.SHT_NOBITS || t == elf.SHT_NULL {
			continue
		}
		if s.Size > uint64(size) || s.Off > uint64(size)-s.Size {
			return fmt.Errorf("section %d: %#x bytes at offset %#x reach past the end of the file, %#x: the file is truncated, build it again", i, s.Size, s.Off, size)
		}
	}
	return nil
}

// readFull fills buf from the offset. A file that has become shorter than its
// size is an error.
func readFull(r io.ReaderAt, buf []byte, off int64) error {
	n, err := r.ReadAt(buf, off)
	if n == len(buf) {
		return nil
	}
	if err == nil || err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("reading %d bytes at offset %#x: %w", len(buf), off, err)
}

// A mark is a bootproto mark block: the entry it names, and whether it lies in
// a writable segment.
type mark struct {
	entry    uint64
	writable bool
}

// maxMarks bounds what a file made of marks alone can make us keep.
const maxMarks = 256

// findMarks looks for mark blocks in the segments' bytes.
func (p *Program) findMarks() ([]mark, error) {
	// Put together here, so that the mark does not stand in this program's own
	// data.
	want := binary.LittleEndian.AppendUint64(nil, bootproto.Mark0)
	want = binary.LittleEndian.AppendUint64(want, bootproto.Mark1)

	var marks []mark
	buf := make([]byte, 1<<18)
	for _, s := range p.segments {
		// A block is 8-byte aligned in memory.
		pos := -s.addr & 7
		for pos+bootproto.MarkBytes <= s.fileSize && len(marks) < maxMarks {
			b := buf[:min(uint64(len(buf)), s.fileSize-pos)]
			if err := readFull(p.r, b, s.offset+int64(pos)); err != nil {
				return nil, err
			}
			last := len(b) - bootproto.MarkBytes
			for i := 0; i <= last; {
				n := bytes.Index(b[i:last+len(want)], want)
				if n < 0 {
					break
				}
				i += n
				if i%8 == 0 {
					entry := binary.LittleEndian.Uint64(b[i+len(want):])
					marks = append(marks, mark{entry, s.flags&elf.PF_W != 0})
				}
				i++
			}
			pos += uint64(last)/8*8 + 8 // the first place not looked at
		}
	}
	return marks, nil
}

// chooseEntry says which mark is the program's own. A program may carry others
// that can boot as embedded data; those are read-only, while ring0's mark is
// not.
func (p *Program) chooseEntry(marks []mark) (uint64, error) {
	for _, writable := range []bool{true, false} {
		var entry uint64
		found := false
		for _, m := range marks {
			if m.writable != writable || !p.executable(m.entry) {
				continue
			}
			if found && m.entry != entry {
				return 0, fmt.Errorf("two boot marks, for the entries %#x and %#x: a program must have one; compress the program embedded in it", entry, m.entry)
			}
			entry, found = m.entry, true
		}
		if found {
			return entry, nil
		}
	}
	return 0, fmt.Errorf("the boot mark names the entry %#x, which is not in the program's code: build it again", marks[0].entry)
}

// executable reports whether addr is in the file's bytes of executable memory.
func (p *Program) executable(addr uint64) bool {
	return slices.ContainsFunc(p.segments, func(s segment) bool {
		return s.flags&elf.PF_X != 0 && addr >= s.addr && addr-s.addr < s.fileSize
	})
}

// checkAddresses sorts the segments and checks that they fit where the loader
// puts them.
func (p *Program) checkAddresses() error {
	slices.SortStableFunc(p.segments, func(a, b segment) int { return cmp.Compare(a.addr, b.addr) })
	end := uint64(bootproto.LoaderEnd)
	for i, s := range p.segments {
		if s.addr < bootproto.LoaderEnd {
			return fmt.Errorf("a segment lies at %#x: the loader needs the memory below %#x; leave the linker's -T flag alone", s.addr, bootproto.LoaderEnd)
		}
		if s.memSize >= addressLimit || s.addr >= addressLimit-s.memSize {
			return fmt.Errorf("the segment at %#x has %#x bytes: it must end below 4 GiB; leave the linker's -T flag alone", s.addr, s.memSize)
		}
		if s.addr < end {
			return fmt.Errorf("the segment at %#x begins in the segment at %#x, which ends at %#x: the file is damaged, build it again", s.addr, p.segments[i-1].addr, end)
		}
		end = s.addr + s.memSize
	}
	if !p.executable(p.elfEntry) {
		return fmt.Errorf("the ELF entry %#x is not in the program's code: the file is damaged, build it again", p.elfEntry)
	}
	return nil
}

// end is the address behind the program.
func (p *Program) end() uint64 {
	last := p.segments[len(p.segments)-1]
	return last.addr + last.memSize
}
