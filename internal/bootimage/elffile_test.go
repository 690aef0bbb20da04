package bootimage

import (
	"bytes"
	"debug/elf"
	_ "embed"
	"encoding/binary"
	"math/rand/v2"

	"github.com/govtx/vtx/internal/bootproto"
)

//go:embed testdata/fake.bin
var fakeCode []byte

const (
	fakeText  = 0x400000
	fakeEntry = 0x401000 // where generate.sh links fake.S
)

// A load is a loadable segment of an ELF file under test.
type load struct {
	addr, memSize uint64
	flags         elf.ProgFlag
	data          []byte
}

// An elfFile is an ELF file under test; encode makes its bytes.
type elfFile struct {
	header elf.Header64
	progs  []elf.Prog64
	loads  []load
}

// markBlock is what package ring0 puts into a program.
func markBlock(entry uint64) []byte {
	b := binary.LittleEndian.AppendUint64(nil, bootproto.Mark0)
	b = binary.LittleEndian.AppendUint64(b, bootproto.Mark1)
	return binary.LittleEndian.AppendUint64(b, entry)
}

func random(seed, n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(seed)})
	r.Read(b)
	return b
}

// fakeProgram is a program with fake.S in it: text of textSize bytes, read-only
// data and written data of odd sizes, and bssSize bytes of zeros.
func fakeProgram(textSize int, bssSize uint64) *elfFile {
	text := random(1, textSize)
	copy(text[fakeEntry-fakeText:], fakeCode)
	ro := random(2, 12345)
	rw := random(3, 4321)
	copy(rw[0x108:], markBlock(fakeEntry))
	roAddr := roundUp(uint64(fakeText+textSize), pageSize)
	rwAddr := roundUp(roAddr+uint64(len(ro)), pageSize)
	return &elfFile{loads: []load{
		{fakeText, uint64(len(text)), elf.PF_R | elf.PF_X, text},
		{roAddr, uint64(len(ro)), elf.PF_R, ro},
		{rwAddr, uint64(len(rw)) + bssSize, elf.PF_R | elf.PF_W, rw},
	}}
}

// lay fills in the headers for the loads.
func (f *elfFile) lay() *elfFile {
	f.header = elf.Header64{
		Ident:   [elf.EI_NIDENT]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)},
		Type:    uint16(elf.ET_EXEC),
		Machine: uint16(elf.EM_X86_64),
		Version: uint32(elf.EV_CURRENT),
		Entry:   fakeEntry,
		Phoff:   64,
		Ehsize:  64, Phentsize: 56, Phnum: uint16(len(f.loads)),
	}
	off := uint64(pageSize)
	for _, l := range f.loads {
		f.progs = append(f.progs, elf.Prog64{Type: uint32(elf.PT_LOAD), Flags: uint32(l.flags), Off: off,
			Vaddr: l.addr, Paddr: l.addr, Filesz: uint64(len(l.data)), Memsz: l.memSize, Align: pageSize})
		off = roundUp(off+uint64(len(l.data)), pageSize)
	}
	return f
}

// encode makes the file's bytes. The last segment's are its last.
func (f *elfFile) encode() []byte {
	var b bytes.Buffer
	binary.Write(&b, binary.LittleEndian, f.header)
	binary.Write(&b, binary.LittleEndian, f.progs)
	for _, l := range f.loads {
		b.Write(make([]byte, int(roundUp(int64(b.Len()), pageSize))-b.Len()))
		b.Write(l.data)
	}
	return b.Bytes()
}
