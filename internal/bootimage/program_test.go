package bootimage

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/govtx/vtx/internal/bootproto"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// TestOpen changes a good file in one place at a time.
func TestOpen(t *testing.T) {
	const entryAt = 0x108 + 16 // of the mark's entry in the third segment
	for _, tt := range []struct {
		name   string
		change func(f *elfFile)
		want   string // part of the error; "": none
	}{
		{"good", func(*elfFile) {}, ""},
		{"phnum 0", func(f *elfFile) { f.header.Phnum = 0 }, "0 program headers of 56 bytes"},
		{"phentsize", func(f *elfFile) { f.header.Phentsize = 32 }, "3 program headers of 32 bytes"},
		{"phnum", func(f *elfFile) { f.header.Phnum = 0xffff }, "65535 program headers at offset 0x40 reach past the end of the file"},
		{"phoff", func(f *elfFile) { f.header.Phoff = 1 << 63 }, "program headers at offset 0x8000000000000000 reach past the end"},
		{"phoff wraps", func(f *elfFile) { f.header.Phoff = ^uint64(7) }, "program headers at offset 0xfffffffffffffff8 reach past the end"},
		{"relocatable", func(f *elfFile) { f.header.Type = uint16(elf.ET_REL) }, "ELF type ET_REL is not a program"},
		{"arm64", func(f *elfFile) { f.header.Machine = uint16(elf.EM_AARCH64) }, "built for EM_AARCH64 ELFCLASS64: build it with GOARCH=amd64"},
		{"x32", func(f *elfFile) { f.header.Ident[elf.EI_CLASS] = byte(elf.ELFCLASS32) }, "built for EM_X86_64 ELFCLASS32"},
		{"big-endian", func(f *elfFile) { f.header.Ident[elf.EI_DATA] = byte(elf.ELFDATA2MSB) }, "GOARCH=amd64"},
		{"not ELF", func(f *elfFile) { f.header.Ident[0] = 'M' }, `not an ELF file: it begins with "MELF"`},
		{"interpreter", func(f *elfFile) { f.progs = append(f.progs, elf.Prog64{Type: uint32(elf.PT_INTERP)}); f.header.Phnum++ }, "dynamically linked or position-independent (PT_INTERP): build it with CGO_ENABLED=0"},
		{"dynamic", func(f *elfFile) {
			f.progs = append(f.progs, elf.Prog64{Type: uint32(elf.PT_DYNAMIC)})
			f.header.Phnum++
		}, "(PT_DYNAMIC): build it with CGO_ENABLED=0"},
		{"shared", func(f *elfFile) { f.header.Type = uint16(elf.ET_DYN) }, "(ET_DYN)"},
		{"dynamic, no mark", func(f *elfFile) { f.header.Type = uint16(elf.ET_DYN); clear(f.loads[2].data) }, ErrNoRing0.Error()},
		{"no mark", func(f *elfFile) { clear(f.loads[2].data) }, ErrNoRing0.Error()},
		{"mark of another version", func(f *elfFile) { f.loads[2].data[0x108+15]++ }, ErrNoRing0.Error()},
		{"mark not aligned", func(f *elfFile) { clear(f.loads[2].data); copy(f.loads[2].data[0x10c:], markBlock(fakeEntry)) }, ErrNoRing0.Error()},
		{"mark cut off", func(f *elfFile) {
			clear(f.loads[2].data)
			copy(f.loads[2].data[4321/8*8-16:], markBlock(fakeEntry)[:16])
		}, ErrNoRing0.Error()},
		{"no loadable segment", func(f *elfFile) {
			for i := range f.progs {
				f.progs[i].Type = uint32(elf.PT_NOTE)
			}
		}, ErrNoRing0.Error()},
		{"mark at the end", func(f *elfFile) {
			clear(f.loads[2].data)
			copy(f.loads[2].data[4321/8*8-24:], markBlock(fakeEntry))
		}, ""},
		{"mark in read-only data", func(f *elfFile) { clear(f.loads[2].data); copy(f.loads[1].data, markBlock(fakeEntry)) }, ""},
		{"embedded mark", func(f *elfFile) { copy(f.loads[1].data, markBlock(fakeEntry+1)) }, ""},
		{"embedded mark of no entry", func(f *elfFile) { copy(f.loads[2].data, markBlock(5)) }, ""},
		{"same mark twice", func(f *elfFile) { copy(f.loads[2].data, markBlock(fakeEntry)) }, ""},
		{"two marks", func(f *elfFile) { copy(f.loads[2].data, markBlock(fakeEntry+1)) }, "two boot marks, for the entries 0x401001 and 0x401000"},
		{"entry below", func(f *elfFile) { binary.LittleEndian.PutUint64(f.loads[2].data[entryAt:], fakeText-1) }, "the boot mark names the entry 0x3fffff, which is not in the program's code"},
		{"entry in data", func(f *elfFile) { binary.LittleEndian.PutUint64(f.loads[2].data[entryAt:], f.loads[1].addr) }, "which is not in the program's code"},
		{"ELF entry", func(f *elfFile) { f.header.Entry = f.loads[1].addr }, "the ELF entry 0x403000 is not in the program's code"},
		{"offset", func(f *elfFile) { f.progs[1].Off = 1 << 40 }, "program header 1: 0x3039 bytes at offset 0x10000000000 reach past the end of the file"},
		{"offset wraps", func(f *elfFile) { f.progs[1].Off = ^uint64(0) }, "program header 1: 0x3039 bytes at offset 0xffffffffffffffff reach past"},
		{"file size", func(f *elfFile) { f.progs[1].Filesz = ^uint64(0) }, "program header 1: 0xffffffffffffffff bytes at offset"},
		{"memory size", func(f *elfFile) { f.progs[1].Memsz = 1 }, "program header 1: 0x3039 bytes in the file but only 0x1 in memory"},
		{"empty segment", func(f *elfFile) { f.progs[1].Filesz, f.progs[1].Memsz, f.progs[1].Vaddr = 0, 0, 5 }, ""},
		{"low", func(f *elfFile) { f.progs[0].Vaddr = bootproto.LoaderEnd - pageSize }, "a segment lies at 0x3ff000: the loader needs the memory below 0x400000"},
		{"high", func(f *elfFile) { f.progs[2].Vaddr, f.progs[2].Memsz = 0xffffe000, 0x2000 }, "the segment at 0xffffe000 has 0x2000 bytes: it must end below 4 GiB"},
		{"as high as can be", func(f *elfFile) { f.progs[2].Vaddr, f.progs[2].Memsz = 0xffffe000, 0x1fff }, ""},
		{"huge", func(f *elfFile) { f.progs[2].Memsz = ^uint64(0) }, "it must end below 4 GiB"},
		{"far", func(f *elfFile) { f.progs[2].Vaddr = ^uint64(7) }, "it must end below 4 GiB"},
		{"overlap", func(f *elfFile) { f.progs[1].Vaddr = fakeText + 0x2000 }, "the segment at 0x402000 begins in the segment at 0x400000, which ends at 0x402345"},
		{"overlap by a byte", func(f *elfFile) { f.progs[1].Vaddr = fakeText + 0x2344 }, "the segment at 0x402344 begins in the segment at 0x400000"},
		{"touching", func(f *elfFile) { f.progs[1].Vaddr = fakeText + 0x2345 }, ""},
		{"out of order", func(f *elfFile) { f.progs[1], f.progs[2] = f.progs[2], f.progs[1] }, ""},
		{"many segments", func(f *elfFile) {
			f.progs = slices.Concat(f.progs, slices.Repeat(f.progs[2:], maxSegments-2))
			f.header.Phnum = uint16(len(f.progs))
		}, "more than 64 loadable segments"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := fakeProgram(0x2345, 0).lay()
			tt.change(f)
			data := f.encode()
			p, err := Open(bytes.NewReader(data), int64(len(data)))
			if tt.want == "" {
				require.NoError(t, err)
				require.Equal(t, uint64(fakeEntry), p.bootEntry)
				return
			}
			require.ErrorContains(t, err, tt.want)
			require.Equal(t, tt.want == ErrNoRing0.Error(), errors.Is(err, ErrNoRing0))
		})
	}
}

// TestOpenTruncated cuts a good file off after every number of bytes that could
// matter.
func TestOpenTruncated(t *testing.T) {
	data := fakeProgram(0x2345, 0).lay().encode()
	for n := 0; n < len(data); n += 1 + n/300 {
		_, err := Open(bytes.NewReader(data[:n]), int64(n))
		require.Error(t, err, "%d bytes", n)
		require.NotErrorIs(t, err, ErrNoRing0, "%d bytes", n)
		// A size that is not true is not believed either.
		_, err = Open(bytes.NewReader(data[:n]), int64(len(data)))
		require.Error(t, err, "%d bytes", n)
	}
	_, err := Open(bytes.NewReader(data), -1)
	require.ErrorContains(t, err, "size -1 is negative")
}

// TestFindMark puts the mark at every place round the borders of the pieces that
// the file is read in.
func TestFindMark(t *testing.T) {
	f := fakeProgram(0x2345, 0)
	big := make([]byte, 1<<18+4096)
	f.loads[2] = load{f.loads[2].addr + 4, uint64(len(big)), elf.PF_R | elf.PF_W, big}
	f.lay()
	for at := 1<<18 - 100; at < 1<<18+100; at++ {
		clear(big)
		copy(big[at:], markBlock(fakeEntry))
		data := f.encode()
		_, err := Open(bytes.NewReader(data), int64(len(data)))
		if at%8 == 4 { // aligned in memory
			require.NoError(t, err, "mark at %#x", at)
		} else {
			require.ErrorIs(t, err, ErrNoRing0, "mark at %#x", at)
		}
	}
}

// TestManyMarks opens a file that is full of marks.
func TestManyMarks(t *testing.T) {
	f := fakeProgram(0x2345, 0)
	f.loads[2].data = bytes.Repeat(markBlock(5), 100000)
	f.loads[2].memSize = uint64(len(f.loads[2].data))
	f.lay()
	data := f.encode()
	_, err := Open(bytes.NewReader(data), int64(len(data)))
	require.ErrorContains(t, err, "the boot mark names the entry 0x5")
}

// hostile damages the headers of a good file, and perhaps its length.
func hostile(t *rapid.T) []byte {
	f := fakeProgram(0x2345, 100)
	f.lay()
	data := f.encode()
	headers := 64 + 56*len(f.progs)
	values := rapid.OneOf(
		rapid.SampledFrom([]uint64{0, 1, 7, 0x1000, 0x400000, 0x401000, 1<<31 - 1, 1 << 31, 1<<32 - 1, 1 << 32, 1<<63 - 1, 1 << 63, 1<<64 - 4096, 1<<64 - 1}),
		rapid.Uint64Range(0, 1<<20),
		rapid.Uint64())
	for range rapid.IntRange(0, 6).Draw(t, "changes") {
		width := rapid.SampledFrom([]int{1, 2, 4, 8}).Draw(t, "width")
		at := rapid.IntRange(0, headers/width-1).Draw(t, "at") * width
		var b [8]byte
		binary.LittleEndian.PutUint64(b[:], values.Draw(t, "value"))
		copy(data[at:], b[:width])
	}
	if rapid.IntRange(0, 9).Draw(t, "cut") == 0 {
		data = data[:rapid.IntRange(0, len(data)).Draw(t, "length")]
	}
	return data
}

// openHostile opens a damaged file. What opens all the same must give images
// whose pieces are apart, in order, and below 4 GiB.
func openHostile(t *rapid.T) {
	data := hostile(t)
	p, err := Open(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		return
	}
	c := &Config{Args: []string{"x"}, Modules: []Module{{"m", strings.NewReader("data"), 4}}}
	pieces, err := p.pieces(c, bootproto.LoaderBase)
	if err != nil {
		return // the module does not fit
	}
	end := uint64(0)
	for _, piece := range pieces {
		if piece.addr < end || piece.fileSize < 0 || uint64(piece.fileSize) > piece.memSize || piece.addr+piece.memSize > 1<<32-1 {
			t.Fatalf("piece at %#x of %#x bytes, %#x in memory, behind %#x", piece.addr, piece.fileSize, piece.memSize, end)
		}
		end = piece.addr + piece.memSize
	}
	if !p.executable(p.bootEntry) {
		t.Fatalf("entry %#x", p.bootEntry)
	}
	var disk, file counter
	if err := p.WriteDisk(&disk, c); err != nil {
		t.Fatal(err)
	}
	if err := p.WriteELF(&file, c); err != nil {
		t.Fatal(err)
	}
	if limit := int64(maxSegments*len(data) + 2*cylinderSize); int64(disk) > limit || int64(file) > limit {
		t.Fatalf("images of %d and %d bytes for a file of %d", disk, file, len(data))
	}
}

// A counter counts what is written to it.
type counter int64

func (c *counter) Write(b []byte) (int, error) {
	*c += counter(len(b))
	return len(b), nil
}

func TestOpenHostile(t *testing.T) { rapid.Check(t, openHostile) }

func FuzzOpenHostile(f *testing.F) { f.Fuzz(rapid.MakeFuzz(openHostile)) }

// FuzzOpen takes any bytes at all.
func FuzzOpen(f *testing.F) {
	data := fakeProgram(0x1400, 100).lay().encode()
	f.Add(data)
	f.Add(data[:200])
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := Open(bytes.NewReader(b), int64(len(b)))
		if err == nil && p.WriteELF(io.Discard, &Config{Args: []string{"x"}}) != nil {
			t.Error("a program that opens cannot be written")
		}
	})
}

var errBroken = errors.New("broken")

// A broken reader or writer fails after n bytes.
type broken struct{ n int }

func (b *broken) Write(p []byte) (int, error) {
	if b.n -= len(p); b.n < 0 {
		return 0, errBroken
	}
	return len(p), nil
}

func (b *broken) ReadAt([]byte, int64) (int, error) { return 0, errBroken }

// TestWriteFails makes what is written to and read from fail.
func TestWriteFails(t *testing.T) {
	p := open(t, fakeProgram(0x2345, 0).lay())
	for _, write := range []func(*Program, io.Writer, *Config) error{(*Program).WriteELF, (*Program).WriteDisk} {
		c := testConfig()
		for range 20 {
			require.ErrorIs(t, write(p, &broken{rand.IntN(100000)}, c), errBroken)
		}
		c.Modules[1].Size++
		require.EqualError(t, write(p, io.Discard, c), `module "module1" has 70000 bytes, 70001 were expected: the file changed while it was read, try again`)
		c.Modules[1].Data = &broken{}
		require.ErrorIs(t, write(p, io.Discard, c), errBroken)
	}
	_, err := Open(&broken{}, 1<<20)
	require.ErrorIs(t, err, errBroken)
}

// checkImages compares both images with what should be in memory, by other
// means than those that wrote them.
func checkImages(t *rapid.T) {
	f := fakeProgram(rapid.IntRange(0x1400, 0x4000).Draw(t, "text"), uint64(rapid.IntRange(0, 1<<22).Draw(t, "bss")))
	data := f.lay().encode()
	p, err := Open(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	text := rapid.StringMatching(`[^\x00]{0,20}`)
	c := &Config{
		Args: rapid.SliceOfN(text, 1, 5).Draw(t, "args"), Env: rapid.SliceOfN(text, 0, 5).Draw(t, "env"),
		Dirs: rapid.SliceOfN(text, 0, 5).Draw(t, "dirs"), Dir: text.Draw(t, "dir"), Exe: text.Draw(t, "exe"),
		Flags: rapid.Uint64().Draw(t, "flags"), TSC: rapid.Uint64().Draw(t, "tsc"), Epoch: rapid.Uint64().Draw(t, "epoch"),
	}
	copy(c.Seed[:], rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "seed"))
	mods := rapid.SliceOfN(rapid.SliceOfN(rapid.Byte(), 0, 5000), 0, 4).Draw(t, "modules")
	for i, m := range mods {
		c.Modules = append(c.Modules, Module{fmt.Sprint(i), bytes.NewReader(m), int64(len(m))})
	}

	var disk, file bytes.Buffer
	if err := p.WriteDisk(&disk, c); err != nil {
		t.Fatal(err)
	}
	if err := p.WriteELF(&file, c); err != nil {
		t.Fatal(err)
	}

	// Load the ELF file as a multiboot loader would.
	ef, err := elf.NewFile(bytes.NewReader(file.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	if ef.Class != elf.ELFCLASS32 || ef.Machine != elf.EM_386 || ef.Entry != bootproto.LoaderBase+loaderEntry || ef.Section(".shstrtab") == nil {
		t.Fatalf("ELF header %+v", ef.FileHeader)
	}
	memory := map[uint64][]byte{} // by address
	for _, prog := range ef.Progs {
		b := make([]byte, prog.Memsz)
		if _, err := prog.ReadAt(b[:prog.Filesz], 0); err != nil {
			t.Fatal(err)
		}
		memory[prog.Paddr] = b
	}
	if i := bytes.Index(file.Bytes(), []byte("\x02\xb0\xad\x1b")); i < 0 || i%4 != 0 || i+12 > 8192 {
		t.Fatalf("multiboot header at %d", i)
	}
	if i := bytes.Index(file.Bytes(), []byte("\xd6\x50\x52\xe8")); i < 0 || i%8 != 0 || i > 8192 {
		t.Fatalf("multiboot2 header at %d", i)
	}

	// The disk's table must say the same.
	image := disk.Bytes()
	le := binary.LittleEndian
	cylinders, heads, sectors := Geometry(int64(len(image)))
	if cylinders*heads*sectors*512 != len(image) || le.Uint16(image[510:]) != 0xaa55 || image[diskFlags] != byte(c.Flags) {
		t.Fatalf("disk of %d bytes", len(image))
	}
	table := image[len(diskCode):]
	rows := int(le.Uint32(table))
	if rows != len(memory) {
		t.Fatalf("%d rows, %d segments", rows, len(memory))
	}
	for i := range rows {
		row := table[diskTableHead+i*diskRowBytes:]
		addr, size, mem, lba := uint64(le.Uint32(row)), le.Uint32(row[4:]), le.Uint32(row[8:]), le.Uint32(row[12:])
		want := memory[addr]
		if uint32(len(want)) != mem || !bytes.Equal(want[:size], image[lba*512:][:size]) || bytes.Count(want[size:], []byte{0}) != int(mem-size) {
			t.Fatalf("row %d, at %#x, differs", i, addr)
		}
	}

	// What is in memory must be what was asked for.
	for _, l := range f.loads {
		if got := memory[l.addr]; uint64(len(got)) != l.memSize || !bytes.Equal(got[:len(l.data)], l.data) {
			t.Fatalf("segment at %#x differs", l.addr)
		}
	}
	params := memory[bootproto.ParamsBase]
	field := func(at uint64) uint64 { return le.Uint64(params[at:]) }
	for at, want := range map[uint64]uint64{
		bootproto.ParamMagic: bootproto.ParamsMagic, bootproto.ParamSize: uint64(len(params)), bootproto.ParamFlags: c.Flags,
		bootproto.ParamTSC: c.TSC, bootproto.ParamEpoch: c.Epoch, bootproto.ParamEntry: fakeEntry,
		bootproto.ParamArgc: uint64(len(c.Args)), bootproto.ParamEnvc: uint64(len(c.Env)), bootproto.ParamDirc: uint64(len(c.Dirs)),
		bootproto.ParamSegc: uint64(len(f.loads)), bootproto.ParamModc: uint64(len(c.Modules)),
	} {
		if field(at) != want {
			t.Fatalf("parameter at %d is %#x, not %#x", at, field(at), want)
		}
	}
	if !bytes.Equal(params[bootproto.ParamSeed:][:16], c.Seed[:]) {
		t.Fatal("the seed differs")
	}
	strs := params[field(bootproto.ParamStrings):]
	for _, want := range slices.Concat([]string{c.Dir, c.Exe}, c.Args, c.Env, c.Dirs) {
		got, rest, found := bytes.Cut(strs, []byte{0})
		if !found || string(got) != want {
			t.Fatalf("string %q, not %q", got, want)
		}
		strs = rest
	}
	for i, l := range f.loads {
		row := field(bootproto.ParamSegments) + uint64(i)*bootproto.SegmentBytes
		if field(row+bootproto.SegmentAddr) != l.addr || field(row+bootproto.SegmentFileSize) != uint64(len(l.data)) ||
			field(row+bootproto.SegmentMemSize) != l.memSize || field(row+bootproto.SegmentFlags) != uint64(l.flags) {
			t.Fatalf("segment row %d: %x", i, params[row:][:bootproto.SegmentBytes])
		}
	}
	for i, want := range mods {
		row := field(bootproto.ParamModules) + uint64(i)*bootproto.ModuleBytes
		addr, size, name := field(row+bootproto.ModuleAddr), field(row+bootproto.ModuleSize), field(row+bootproto.ModuleName)
		if got, _, _ := bytes.Cut(params[name:], []byte{0}); string(got) != c.Modules[i].Name || addr%pageSize != 0 || size != uint64(len(want)) || addr < p.end() {
			t.Fatalf("module row %d: %q at %#x of %d bytes", i, got, addr, size)
		}
		if size > 0 {
			base := roundUp(p.end(), largePage)
			if !bytes.Equal(memory[base][addr-base:][:size], want) {
				t.Fatalf("module %d differs", i)
			}
		}
	}
	if need := p.MemoryNeeded(c); need < p.end() || need%(1<<20) != 0 || uint64(le.Uint32(table[4:])) != need>>20 {
		t.Fatalf("memory needed: %#x", need)
	}
}

func TestImages(t *testing.T) { rapid.Check(t, checkImages) }

func FuzzImages(f *testing.F) { f.Fuzz(rapid.MakeFuzz(checkImages)) }
