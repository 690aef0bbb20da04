package bootimage

import (
	"bufio"
	"bytes"
	_ "embed"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/govtx/vtx/internal/bootproto"
)

//go:embed loader.bin
var loaderCode []byte

// loaderRel lists the offsets of the 32-bit addresses in loaderCode, one a line.
//
//go:embed loader.rel
var loaderRel string

//go:embed disk.bin
var diskCode []byte

// Places in loader.bin.
const (
	loaderBootEntry = 0x10   // the program's boot entry, 8 bytes
	loaderEntry     = 0x80   // the 32-bit entry
	loaderMemory    = 0x8000 // with page tables and stack
)

// A piece is a range of memory and what is loaded into it.
type piece struct {
	addr, memSize uint64
	fileSize      int64
	flags         uint32
	parts         []part
}

// A part is some of a piece's bytes, followed by zeros up to size.
type part struct {
	name string
	r    io.Reader
	n    int64 // bytes of r
	size int64
}

func (p *piece) writeTo(w *writer) {
	for _, part := range p.parts {
		w.copy(part.name, part.r, part.n)
		w.zeros(part.size - part.n)
	}
}

// loaderAt is the loader for a place of its own.
func (p *Program) loaderAt(base uint64) []byte {
	loader := bytes.Clone(loaderCode)
	le := binary.LittleEndian
	for line := range strings.Lines(loaderRel) {
		at, err := strconv.Atoi(strings.TrimSpace(line))
		if err != nil {
			panic("loader.rel: " + err.Error()) // it is built in
		}
		le.PutUint32(loader[at:], le.Uint32(loader[at:])+uint32(base-bootproto.LoaderBase))
	}
	le.PutUint64(loader[loaderBootEntry:], p.bootEntry)
	return loader
}

// pieces lists what goes into memory: the loader at base and the parameters, and
// then, by address, the program and its modules.
func (p *Program) pieces(c *Config, base uint64) ([]piece, error) {
	params, err := p.params(c)
	if err != nil {
		return nil, err
	}
	addrs, end, err := p.moduleAddrs(c)
	if err != nil {
		return nil, err
	}
	inMemory := func(name string, addr uint64, data []byte, memSize uint64) piece {
		n := int64(len(data))
		return piece{addr, memSize, n, 7, []part{{name, bytes.NewReader(data), n, n}}}
	}
	list := []piece{
		inMemory("the loader", base, p.loaderAt(base), loaderMemory),
		inMemory("the parameters", base+bootproto.LoaderBytes, params, uint64(len(params))),
	}
	for _, s := range p.segments {
		n := int64(s.fileSize)
		name := fmt.Sprintf("the segment at %#x", s.addr)
		list = append(list, piece{s.addr, s.memSize, n, uint32(s.flags),
			[]part{{name, io.NewSectionReader(p.r, s.offset, n), n, n}}})
	}
	if len(c.Modules) > 0 && end > addrs[0] {
		mods := piece{addr: addrs[0], memSize: end - addrs[0], fileSize: int64(end - addrs[0]), flags: 6}
		for _, m := range c.Modules {
			mods.parts = append(mods.parts, part{fmt.Sprintf("module %q", m.Name),
				io.NewSectionReader(m.Data, 0, m.Size), m.Size, roundUp(m.Size, pageSize)})
		}
		list = append(list, mods)
	}
	return list, nil
}

// MemoryNeeded is the size of RAM, in bytes, below which the program cannot
// even be loaded: the end of the program, its zeroed data and its modules, and
// 1 MiB for the tables that firmware keeps at the top of memory, rounded up to
// a MiB. It counts neither what the program allocates when it runs nor what GRUB
// needs beside it.
func (p *Program) MemoryNeeded(c *Config) uint64 {
	_, end, err := p.moduleAddrs(c)
	if err != nil {
		// Writing the image tells the error.
		end = p.end()
	}
	return roundUp(end, 1<<20) + 1<<20
}

// A writer counts what is written, and keeps the first error.
type writer struct {
	w   *bufio.Writer
	pos int64
	err error
}

func newWriter(w io.Writer) *writer { return &writer{w: bufio.NewWriterSize(w, 1<<18)} }

func (w *writer) write(b []byte) {
	if w.err == nil {
		_, w.err = w.w.Write(b)
		w.pos += int64(len(b))
	}
}

// copy writes n bytes from r.
func (w *writer) copy(name string, r io.Reader, n int64) {
	if w.err != nil {
		return
	}
	done, err := io.CopyN(w.w, r, n)
	w.pos += done
	if errors.Is(err, io.EOF) {
		err = fmt.Errorf("%s has %d bytes, %d were expected: the file changed while it was read, try again", name, done, n)
	}
	w.err = err
}

var zeroPage [pageSize]byte

func (w *writer) zeros(n int64) {
	for ; n > 0 && w.err == nil; n -= pageSize {
		w.write(zeroPage[:min(n, pageSize)])
	}
}

// padTo writes zeros up to pos.
func (w *writer) padTo(pos int64) { w.zeros(pos - w.pos) }

func (w *writer) close() error {
	if w.err != nil {
		return w.err
	}
	return w.w.Flush()
}
