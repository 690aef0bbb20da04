package ium_test

import (
	"bytes"
	"debug/pe"
	"encoding/binary"
	"errors"
	gobuild "go/build"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/govtx/vtx/ium"
)

// testingT is a test, or a property's run.
type testingT interface {
	require.TestingT
	Helper()
}

// open opens an image that has to open.
func open(t testingT, b []byte) *ium.Image {
	t.Helper()
	i, err := ium.Open(bytes.NewReader(b), int64(len(b)))
	require.NoError(t, err)
	return i
}

// build builds an image that has to build.
func build(t testingT, s ium.ImageSpec) []byte {
	t.Helper()
	b, err := s.Build()
	require.NoError(t, err)
	return b
}

// put returns a copy with bytes changed: numbers take as many as their type has.
func put(b []byte, at int, v any) []byte {
	b = slices.Clone(b)
	if _, err := binary.Encode(b[at:], binary.LittleEndian, v); err != nil {
		panic(err)
	}
	return b
}

// headers are where parts of the headers of a built image are.
type headers struct{ nt, optional, directories, sections int }

func headersOf(b []byte) headers {
	nt := int(binary.LittleEndian.Uint32(b[0x3c:]))
	h := headers{nt: nt, optional: nt + 24}
	h.directories = h.optional + 112
	if binary.LittleEndian.Uint16(b[h.optional:]) == 0x10b {
		h.directories = h.optional + 96
	}
	h.sections = h.optional + int(binary.LittleEndian.Uint16(b[nt+20:]))
	return h
}

// formatError requires the error to be about a rule, at an offset.
func formatError(t testingT, err error, rule ium.Rule, offset int64) {
	t.Helper()
	var bad *ium.FormatError
	require.ErrorAs(t, err, &bad)
	require.Equal(t, rule, bad.Rule, "%v", err)
	require.Equal(t, offset, bad.Offset, "%v", err)
	require.Contains(t, err.Error(), string(rule))
}

func TestOpenHeaders(t *testing.T) {
	for _, machine := range []ium.Machine{ium.MachineAMD64, ium.MachineI386} {
		b := build(t, ium.ImageSpec{Machine: machine, Policy: somePolicy()})
		h := headersOf(b)
		wide, narrow := uint16(0x20b), uint16(0x10b)
		other := ium.MachineI386
		if machine == ium.MachineI386 {
			wide, narrow, other = narrow, wide, ium.MachineAMD64
		}
		fixed := h.directories - h.optional
		for _, bad := range []struct {
			name   string
			bytes  []byte
			rule   ium.Rule
			offset int
		}{
			{"empty", nil, ium.RuleDOSHeader, 0},
			{"short", b[:63], ium.RuleDOSHeader, 0},
			{"not MZ", put(b, 0, uint16(0x4d5a)), ium.RuleDOSHeader, 0},
			{"e_lfanew far out", put(b, 0x3c, uint32(0xfffffff0)), ium.RulePESignature, 0x3c},
			{"e_lfanew at the end", put(b, 0x3c, uint32(len(b)-23)), ium.RulePESignature, 0x3c},
			{"NE", put(b, h.nt, uint32(0x454e)), ium.RulePESignature, h.nt},
			{"cut in the file header", b[:h.nt+23], ium.RulePESignature, 0x3c},
			{"cut in the optional header", b[:h.optional+fixed-1], ium.RuleTruncated, h.optional},
			{"cut in the section table", b[:h.sections+39], ium.RuleTruncated, h.sections},
			{"no optional header", put(b, h.nt+20, uint16(0)), ium.RuleOptionalHeader, h.nt + 20},
			{"short optional header", put(b, h.nt+20, uint16(fixed-1)), ium.RuleOptionalHeader, h.nt + 20},
			{"ROM image", put(b, h.optional, uint16(0x107)), ium.RuleOptionalHeader, h.optional},
			{"the other width", put(b, h.optional, narrow), ium.RuleMachine, h.nt + 4},
			{"machine of the other width", put(b, h.nt+4, uint16(other)), ium.RuleMachine, h.nt + 4},
			{"too many sections", put(b, h.nt+6, uint16(97)), ium.RuleSectionCount, h.nt + 6},
			{"sections behind the end", put(b, h.nt+20, uint16(0xf000)), ium.RuleTruncated, h.optional + 0xf000},
		} {
			t.Run(machine.String()+" "+bad.name, func(t *testing.T) {
				_, err := ium.Open(bytes.NewReader(bad.bytes), int64(len(bad.bytes)))
				formatError(t, err, bad.rule, int64(bad.offset))
			})
		}
		i := open(t, b)
		require.Empty(t, i.Problems)
		require.Equal(t, machine, i.Machine)
		require.Equal(t, wide == 0x20b, i.Is64)
		require.Equal(t, ium.KindProgram, i.Kind)
		require.EqualValues(t, len(b), i.Size)
		require.EqualValues(t, h.optional+64, i.ChecksumOffset())
		require.EqualValues(t, h.directories+4*8, i.DirectoryOffset(4))
		require.Zero(t, i.DirectoryOffset(16))
		require.Zero(t, i.DirectoryOffset(-1))
	}
}

func TestOpenNegativeSize(t *testing.T) {
	_, err := ium.Open(bytes.NewReader(nil), -1)
	formatError(t, err, ium.RuleDOSHeader, 0)
}

// failingReader fails behind a number of bytes.
type failingReader struct {
	b   []byte
	err error
}

func (r failingReader) ReadAt(p []byte, at int64) (int, error) {
	n := 0
	if at < int64(len(r.b)) {
		n = copy(p, r.b[at:])
	}
	if n < len(p) {
		return n, r.err
	}
	return n, nil
}

// The reader's errors are not taken for what is wrong with the file.
func TestReaderErrors(t *testing.T) {
	b := build(t, ium.ImageSpec{Policy: somePolicy()})
	var bad *ium.FormatError
	broken := errors.New("the disk is broken")
	_, err := ium.Open(failingReader{b[:100], broken}, int64(len(b)))
	require.ErrorIs(t, err, broken)
	require.False(t, errors.As(err, &bad))
	_, err = ium.Open(failingReader{b[:100], io.EOF}, int64(len(b)))
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)

	// A file that could be read but for the part in the middle.
	big := build(t, ium.ImageSpec{Sections: []ium.SectionSpec{{Name: ".data", Data: make([]byte, 8192)}}, Policy: somePolicy()})
	i, err := ium.Open(failingReader{big[:8192], broken}, int64(len(big)))
	require.NoError(t, err)
	_, err = i.Policy()
	require.ErrorIs(t, err, broken)
	require.ErrorIs(t, i.ReadRVA(make([]byte, 8192), 0x1000), broken)
	for _, err := range i.Exports() {
		require.ErrorIs(t, err, broken)
	}
	for _, err := range i.Relocations() {
		require.ErrorIs(t, err, broken)
	}
}

func TestProblems(t *testing.T) {
	b := build(t, ium.ImageSpec{
		Sections: []ium.SectionSpec{{Name: ".one", Data: []byte{1}}, {Name: ".two", Data: []byte{2}}},
		Policy:   somePolicy(),
	})
	h := headersOf(b)
	one, two := h.sections, h.sections+40
	for _, p := range []struct {
		name   string
		bytes  []byte
		rule   ium.Rule
		offset int
	}{
		{"sections overlap in memory", put(b, one+8, uint32(0x1001)), ium.RuleSectionOrder, two + 12},
		{"sections at one place", put(b, two+12, uint32(0x1000)), ium.RuleSectionOrder, two + 12},
		{"a section in the headers", put(b, one+12, uint32(0)), ium.RuleSectionOrder, one + 12},
		{"a section that wraps", put(put(b, one+12, uint32(0xfffff000)), one+8, uint32(0x2000)), ium.RuleSectionRange, one + 8},
		{"a section outside the image", put(b, h.optional+56, uint32(0x1000)), ium.RuleSectionRange, one + 8},
		{"raw data outside the file", put(b, one+16, uint32(0xfffffe00)), ium.RuleSectionRawData, one + 20},
		{"raw data shared", put(b, two+20, uint32(0x400)), ium.RuleSectionRawOverlap, two + 20},
		{"headers that do not reach", put(b, h.optional+60, uint32(0x40)), ium.RuleHeaderSize, h.optional + 60},
		{"headers larger than the file", put(b, h.optional+60, uint32(0x10000000)), ium.RuleHeaderSize, h.optional + 60},
		{"alignment of no power of 2", put(b, h.optional+32, uint32(0x1800)), ium.RuleAlignment, h.optional + 32},
		{"no alignment", put(b, h.optional+36, uint32(0)), ium.RuleAlignment, h.optional + 32},
		{"a directory outside the image", put(b, h.directories+8*2, uint64(0x10_7fffffff)), ium.RuleDirectory, h.directories + 8*2},
		{"a directory that wraps", put(b, h.directories+8*2, uint64(0xffffffff_fffff000)), ium.RuleDirectory, h.directories + 8*2},
		{"too many directories", put(b, h.directories-4, uint32(17)), ium.RuleDirectoryCount, h.directories - 4},
		{"directories the header has no room for", put(b, h.nt+20, uint16(h.sections-h.optional-8)), ium.RuleDirectoryCount, h.directories - 4},
	} {
		t.Run(p.name, func(t *testing.T) {
			i := open(t, p.bytes)
			n := slices.IndexFunc(i.Problems, func(e *ium.FormatError) bool { return e.Rule == p.rule })
			require.GreaterOrEqual(t, n, 0, "%v", i.Problems)
			require.EqualValues(t, p.offset, i.Problems[n].Offset)
			// What a loader would not take has no valid policy.
			f, err := i.Policy()
			require.NoError(t, err)
			require.NotEqual(t, ium.Valid, f.Grade)
		})
	}
	require.Empty(t, open(t, b).Problems)
}

// There can be more wrong with an image than it tells.
func TestProblemsAreFew(t *testing.T) {
	s := ium.ImageSpec{}
	for range ium.MaxSections {
		s.Sections = append(s.Sections, ium.SectionSpec{Name: "same", Data: []byte{1}})
	}
	b := build(t, s)
	h := headersOf(b)
	for n := range ium.MaxSections {
		b = put(b, h.sections+40*n+12, uint32(0x1000))
		b = put(b, h.sections+40*n+20, uint32(0x2000))
	}
	i := open(t, b)
	require.Len(t, i.Problems, 32)
	require.Len(t, i.Sections(), ium.MaxSections)
}

func TestFewDirectories(t *testing.T) {
	b := build(t, ium.ImageSpec{Directories: map[int]pe.DataDirectory{0: {VirtualAddress: 1, Size: 2}, 1: {VirtualAddress: 3, Size: 4}}})
	h := headersOf(b)
	i := open(t, put(b, h.directories-4, uint32(1)))
	require.Empty(t, i.Problems)
	rva, size := i.Directory(0)
	require.Equal(t, [2]uint32{1, 2}, [2]uint32{rva, size})
	rva, size = i.Directory(1)
	require.Zero(t, rva+size)
}

// There are 16 data directories, whatever a header has room for. That of PE32 is shorter
// than that of PE32+ by 16 bytes, which are no directories.
func TestManyDirectories(t *testing.T) {
	for _, machine := range []ium.Machine{ium.MachineAMD64, ium.MachineI386} {
		b := build(t, ium.ImageSpec{Machine: machine, Sections: []ium.SectionSpec{{Name: ".data", Data: []byte{1}}}})
		h := headersOf(b)
		for _, count := range []uint32{16, 17, 18, 19, 0xffffffff} {
			for _, longer := range []int{0, 8, 16, 24, 4096} {
				c := slices.Insert(slices.Clone(b), h.sections, make([]byte, longer)...)
				c = put(put(c, h.nt+20, uint16(h.sections-h.optional+longer)), h.directories-4, count)
				i := open(t, c)
				_, size := i.Directory(16)
				require.Zero(t, size)
				require.Len(t, i.Sections(), 1)
				wrong := slices.ContainsFunc(i.Problems, func(p *ium.FormatError) bool { return p.Rule == ium.RuleDirectoryCount })
				require.Equal(t, count > 16, wrong, "%d directories, %d bytes more", count, longer)
			}
		}
	}
}

func TestKinds(t *testing.T) {
	imports := func(dll string) []ium.SectionSpec {
		b := make([]byte, 40)
		binary.LittleEndian.PutUint32(b[12:], 0x1000+40)
		return []ium.SectionSpec{{Name: ".idata", Characteristics: 0x40000040, Data: append(b, dll+"\x00"...)}}
	}
	endless := imports("ntdll.dll")
	endless[0].Data = append(bytes.Repeat(endless[0].Data[:20], 1000), "ntdll.dll\x00"...)
	for n := range 1000 {
		binary.LittleEndian.PutUint32(endless[0].Data[20*n+12:], 0x1000+20000)
	}
	importing := map[int]pe.DataDirectory{1: {VirtualAddress: 0x1000, Size: 40}}
	for _, k := range []struct {
		name string
		spec ium.ImageSpec
		kind ium.Kind
	}{
		{"console", ium.ImageSpec{}, ium.KindProgram},
		{"DLL", ium.ImageSpec{Characteristics: pe.IMAGE_FILE_DLL}, ium.KindDLL},
		{"native program", ium.ImageSpec{Subsystem: pe.IMAGE_SUBSYSTEM_NATIVE, Sections: imports("ntdll.dll"), Directories: importing}, ium.KindProgram},
		{"native, imports nothing", ium.ImageSpec{Subsystem: pe.IMAGE_SUBSYSTEM_NATIVE}, ium.KindProgram},
		{"native, imports nowhere", ium.ImageSpec{Subsystem: pe.IMAGE_SUBSYSTEM_NATIVE, Directories: importing}, ium.KindProgram},
		{"native, imports no name", ium.ImageSpec{Subsystem: pe.IMAGE_SUBSYSTEM_NATIVE, Sections: imports(strings.Repeat("n", 65)), Directories: importing}, ium.KindProgram},
		{"native, imports without an end", ium.ImageSpec{Subsystem: pe.IMAGE_SUBSYSTEM_NATIVE, Sections: endless, Directories: importing}, ium.KindProgram},
		{"driver", ium.ImageSpec{Subsystem: pe.IMAGE_SUBSYSTEM_NATIVE, Sections: imports("NTOSKRNL.exe"), Directories: importing}, ium.KindDriver},
		{"imports the kernel, not native", ium.ImageSpec{Sections: imports("ntoskrnl.exe"), Directories: importing}, ium.KindProgram},
		{"WDM driver", ium.ImageSpec{Subsystem: pe.IMAGE_SUBSYSTEM_NATIVE, DLLCharacteristics: pe.IMAGE_DLLCHARACTERISTICS_WDM_DRIVER}, ium.KindDriver},
		{"EFI", ium.ImageSpec{Subsystem: pe.IMAGE_SUBSYSTEM_EFI_APPLICATION}, ium.KindEFI},
		{".NET", ium.ImageSpec{Characteristics: pe.IMAGE_FILE_DLL, Directories: map[int]pe.DataDirectory{14: {VirtualAddress: 0x2000, Size: 72}}}, ium.KindDotNet},
	} {
		t.Run(k.name, func(t *testing.T) {
			i := open(t, build(t, k.spec))
			require.Equal(t, k.kind, i.Kind, "%v", i.Kind)
		})
	}
}

func TestReadRVA(t *testing.T) {
	b := build(t, ium.ImageSpec{Sections: []ium.SectionSpec{
		{Name: ".data", Data: []byte{1, 2, 3, 4, 5, 6, 7, 8}, VirtualSize: 0x800},
		{Name: ".bss", VirtualSize: 0x10},
		{Name: "/4", Data: []byte{9}},
	}})
	i := open(t, b)
	require.Equal(t, "/4", i.Sections()[2].Name)
	read := func(rva uint32, n int) ([]byte, error) {
		p := bytes.Repeat([]byte{0xff}, n)
		err := i.ReadRVA(p, rva)
		return p, err
	}
	p, err := read(0x1004, 6)
	require.NoError(t, err)
	require.Equal(t, []byte{5, 6, 7, 8, 0, 0}, p)
	p, err = read(0x1000+0x1fe, 4) // from the raw data into what is behind it
	require.NoError(t, err)
	require.Equal(t, make([]byte, 4), p)
	p, err = read(0x17ff, 1)
	require.NoError(t, err)
	require.Equal(t, []byte{0}, p)
	p, err = read(0x2000, 0x10)
	require.NoError(t, err)
	require.Equal(t, make([]byte, 0x10), p)
	p, err = read(0, 2)
	require.NoError(t, err)
	require.Equal(t, "MZ", string(p))

	_, err = read(0x17ff, 2)
	formatError(t, err, ium.RuleRVA, -1)
	_, err = read(0x200-1, 2) // from the headers into nothing
	formatError(t, err, ium.RuleRVA, 0x200-1)
	_, err = read(0x1800, 1)
	formatError(t, err, ium.RuleRVA, -1)
	_, err = read(0xffffffff, 1)
	formatError(t, err, ium.RuleRVA, -1)

	at, err := i.OffsetOf(0x1003)
	require.NoError(t, err)
	require.Equal(t, byte(4), b[at])
	at, err = i.OffsetOf(0x3c)
	require.NoError(t, err)
	require.EqualValues(t, 0x3c, at)
	_, err = i.OffsetOf(0x1000 + 0x200)
	formatError(t, err, ium.RuleRVA, i.Sections()[0].Header)
	_, err = i.OffsetOf(0x9000)
	formatError(t, err, ium.RuleRVA, -1)

	rva, err := i.RVAOf(i.ImageBase() + 0x1000)
	require.NoError(t, err)
	require.EqualValues(t, 0x1000, rva)
	_, err = i.RVAOf(i.ImageBase() - 1)
	formatError(t, err, ium.RuleRVA, -1)
	_, err = i.RVAOf(i.ImageBase() + uint64(i.SizeOfImage()))
	formatError(t, err, ium.RuleRVA, -1)

	// The raw data ends outside the file: what is there can still be read.
	h := headersOf(b)
	i = open(t, put(b, h.sections+80+16, uint32(0x10000)))
	require.NoError(t, i.ReadRVA(p[:1], 0x3000))
	cut := open(t, b[:len(b)-0x200])
	formatError(t, cut.ReadRVA(p[:1], 0x3000), ium.RuleTruncated, int64(len(b)-0x200))
}

// The loader reads raw data from the start of a sector.
func TestRawDataStartsAtSector(t *testing.T) {
	b := build(t, ium.ImageSpec{Sections: []ium.SectionSpec{{Name: ".data", Data: []byte{1}}}})
	h := headersOf(b)
	moved := put(b, h.sections+20, uint32(0x2ff))
	p := make([]byte, 1)
	require.NoError(t, open(t, moved).ReadRVA(p, 0x1000))
	require.Equal(t, byte(1), p[0])
	// Not so in images that are mapped as they are.
	small := put(put(moved, h.optional+32, uint32(0x200)), h.sections+16, uint32(1))
	require.NoError(t, open(t, small).ReadRVA(p, 0x1000))
	require.Equal(t, byte(0), p[0])
}

func TestReaderAtEnds(t *testing.T) {
	b := build(t, ium.ImageSpec{})
	i, err := ium.Open(bytes.NewReader(append(slices.Clone(b), "behind"...)), int64(len(b)))
	require.NoError(t, err)
	n, err := i.ReaderAt().ReadAt(make([]byte, 10), int64(len(b))-4)
	require.Equal(t, 4, n)
	require.ErrorIs(t, err, io.EOF)
}

func TestOpenFile(t *testing.T) {
	i, err := ium.OpenFile(filepath.Join("testdata", "policy64.exe"))
	require.NoError(t, err)
	require.NoError(t, i.Close())
	require.NoError(t, i.Close())
	_, err = i.Policy()
	require.ErrorIs(t, err, os.ErrClosed)

	_, err = ium.OpenFile(t.TempDir())
	require.ErrorContains(t, err, "not a regular file")
	_, err = ium.OpenFile("no such file")
	require.ErrorIs(t, err, os.ErrNotExist)
	_, err = ium.OpenFile(filepath.Join("testdata", "policy.c"))
	var bad *ium.FormatError
	require.ErrorAs(t, err, &bad)
	require.ErrorContains(t, err, "policy.c")
}

// The standard library's own images: no trustlets, and object files are not images.
func TestStandardLibraryImages(t *testing.T) {
	dir := filepath.Join(gobuild.Default.GOROOT, "src", "debug", "pe", "testdata")
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Skip("the sources of the standard library are not here")
	}
	images := 0
	for _, f := range files {
		if f.IsDir() {
			continue
		}
		b, err := os.ReadFile(filepath.Join(dir, f.Name()))
		require.NoError(t, err)
		i, err := ium.Open(bytes.NewReader(b), int64(len(b)))
		if !bytes.HasPrefix(b, []byte("MZ")) {
			formatError(t, err, ium.RuleDOSHeader, 0)
			continue
		}
		images++
		require.NoError(t, err, f.Name())
		finding, err := i.Policy()
		require.NoError(t, err)
		require.Equal(t, ium.Absent, finding.Grade, f.Name())

		// debug/pe finds the same sections, but for the long names it looks up.
		theirs, err := pe.NewFile(bytes.NewReader(b))
		require.NoError(t, err)
		require.Len(t, i.Sections(), len(theirs.Sections))
		for n, s := range i.Sections() {
			require.Equal(t, theirs.Sections[n].VirtualAddress, s.RVA)
			require.Equal(t, theirs.Sections[n].Size, s.RawSize)
			if !strings.HasPrefix(s.Name, "/") {
				require.Equal(t, theirs.Sections[n].Name, s.Name)
			}
		}
	}
	require.Positive(t, images)
}

func TestNamesOfMachinesAndKinds(t *testing.T) {
	require.Equal(t, "AMD64", ium.MachineAMD64.String())
	require.Equal(t, "Machine(0x1234)", ium.Machine(0x1234).String())
	require.Equal(t, "enclave", ium.KindEnclave.String())
	require.Equal(t, "Kind(200)", ium.Kind(200).String())
	b, err := ium.KindDotNet.MarshalText()
	require.NoError(t, err)
	require.Equal(t, ".NET", string(b))
}

// What prints parses back, with a name and without.
func TestTextOfNumbers(t *testing.T) {
	for n := range 1 << 16 {
		text, err := ium.Machine(n).MarshalText()
		require.NoError(t, err)
		var machine ium.Machine
		require.NoError(t, machine.UnmarshalText(text))
		require.EqualValues(t, n, machine)
	}
	for n := range 256 {
		text, err := ium.Kind(n).MarshalText()
		require.NoError(t, err)
		var kind ium.Kind
		require.NoError(t, kind.UnmarshalText(text))
		require.EqualValues(t, n, kind)

		text, err = ium.DebugPolicy(n).MarshalText()
		require.NoError(t, err)
		var debug ium.DebugPolicy
		require.NoError(t, debug.UnmarshalText(text))
		require.EqualValues(t, n, debug)
	}
	for _, s := range []string{"", "x", "Machine(0x10000)", "Kind(256)", "Kind(1", "Machine(", "DebugPolicy(-1)"} {
		require.ErrorContains(t, new(ium.Machine).UnmarshalText([]byte(s)), "not a machine")
		require.ErrorContains(t, new(ium.Kind).UnmarshalText([]byte(s)), "not a kind")
		require.ErrorContains(t, new(ium.DebugPolicy).UnmarshalText([]byte(s)), "not a debug policy")
	}
}
