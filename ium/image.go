package ium

import (
	"bytes"
	"cmp"
	"debug/pe"
	"encoding/binary"
	"fmt"
	"io"
	"math/bits"
	"os"
	"slices"
	"strings"
)

// Rules of the headers and the section table. Sections named are those of Microsoft's
// PE Format specification.
const (
	RuleDOSHeader         Rule = "dos-header"         // "MS-DOS Stub": MZ and 64 bytes
	RulePESignature       Rule = "pe-signature"       // "Signature": PE\0\0 where e_lfanew points to
	RuleTruncated         Rule = "truncated"          // the file holds what its headers say
	RuleOptionalHeader    Rule = "optional-header"    // "Optional Header": PE32 or PE32+, as large as that takes
	RuleDirectoryCount    Rule = "directory-count"    // "Optional Header Data Directories": as many as fit the header, 16 at most
	RuleDirectory         Rule = "directory"          // a data directory lies in the image
	RuleMachine           Rule = "machine"            // "Machine Types": PE32+ for 64-bit processors, PE32 for 32-bit ones
	RuleAlignment         Rule = "alignment"          // "Optional Header Windows-Specific Fields": powers of 2, the section's not below the file's
	RuleHeaderSize        Rule = "header-size"        // SizeOfHeaders covers the section table and not more than the file
	RuleSectionCount      Rule = "section-count"      // MaxSections at most
	RuleSectionRange      Rule = "section-range"      // a section ends within SizeOfImage
	RuleSectionOrder      Rule = "section-order"      // "Section Table": ascending addresses that do not overlap
	RuleSectionRawData    Rule = "section-raw-data"   // a section's raw data is in the file
	RuleSectionRawOverlap Rule = "section-raw-shared" // no byte of the file is in two sections
	RuleRVA               Rule = "rva"                // an RVA lies in a section or in the headers, with all that is read there
	RuleString            Rule = "string"             // a string ends, in time and in its section
)

// MaxSections is the number of sections an image can have.
const MaxSections = 96

// maxProblems is how many problems an image keeps.
const maxProblems = 32

// A Machine is the processor an image is for: IMAGE_FILE_MACHINE_*.
type Machine uint16

// Machines, as in the PE Format specification, "Machine Types".
const (
	MachineI386        Machine = 0x014c
	MachineARM         Machine = 0x01c0
	MachineThumb       Machine = 0x01c2
	MachineARMNT       Machine = 0x01c4
	MachineIA64        Machine = 0x0200
	MachineEBC         Machine = 0x0ebc
	MachineRISCV32     Machine = 0x5032
	MachineRISCV64     Machine = 0x5064
	MachineLoongArch32 Machine = 0x6232
	MachineLoongArch64 Machine = 0x6264
	MachineAMD64       Machine = 0x8664
	MachineARM64EC     Machine = 0xa641
	MachineARM64X      Machine = 0xa64e
	MachineARM64       Machine = 0xaa64
)

// machines tells of each machine the name and how wide its addresses are; EBC is
// for both.
var machines = []struct {
	machine Machine
	name    string
	bits    int
}{
	{MachineI386, "I386", 32},
	{MachineARM, "ARM", 32},
	{MachineThumb, "THUMB", 32},
	{MachineARMNT, "ARMNT", 32},
	{MachineIA64, "IA64", 64},
	{MachineEBC, "EBC", 0},
	{MachineRISCV32, "RISCV32", 32},
	{MachineRISCV64, "RISCV64", 64},
	{MachineLoongArch32, "LOONGARCH32", 32},
	{MachineLoongArch64, "LOONGARCH64", 64},
	{MachineAMD64, "AMD64", 64},
	{MachineARM64EC, "ARM64EC", 64},
	{MachineARM64X, "ARM64X", 64},
	{MachineARM64, "ARM64", 64},
}

// bits returns how wide addresses are: 32 or 64, or 0 if that is not known.
func (m Machine) bits() int {
	for _, row := range machines {
		if row.machine == m {
			return row.bits
		}
	}
	return 0
}

// String returns the name without its prefix: AMD64.
func (m Machine) String() string {
	for _, row := range machines {
		if row.machine == m {
			return row.name
		}
	}
	return fmt.Sprintf("Machine(%#x)", uint16(m))
}

// MarshalText returns what String does.
func (m Machine) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalText takes what String returns.
func (m *Machine) UnmarshalText(text []byte) error {
	for _, row := range machines {
		if row.name == string(text) {
			*m = row.machine
			return nil
		}
	}
	n, ok := parseUnknown(string(text), "Machine", 16)
	if !ok {
		return fmt.Errorf("%.64q is not a machine: write it as %v or Machine(0x8664)", text, MachineAMD64)
	}
	*m = Machine(n)
	return nil
}

// A Kind tells what an image is.
type Kind uint8

// Kinds. What could be of several kinds is of the last of them in this list.
const (
	KindProgram Kind = iota // what is nothing else
	KindDLL                 // IMAGE_FILE_DLL
	KindDriver              // subsystem native, and a WDM driver or an importer of the kernel or its libraries
	KindEFI                 // one of the EFI subsystems
	KindDotNet              // a CLR header: the data directory IMAGE_DIRECTORY_ENTRY_COM_DESCRIPTOR
	KindEnclave             // an enclave configuration in its load configuration
)

var kindNames = [...]string{"program", "DLL", "driver", "EFI", ".NET", "enclave"}

// String returns the kind in a word.
func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return fmt.Sprintf("Kind(%d)", uint8(k))
}

// MarshalText returns what String does.
func (k Kind) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// UnmarshalText takes what String returns.
func (k *Kind) UnmarshalText(text []byte) error {
	if n := slices.Index(kindNames[:], string(text)); n >= 0 {
		*k = Kind(n)
		return nil
	}
	n, ok := parseUnknown(string(text), "Kind", 8)
	if !ok {
		return fmt.Errorf("%.64q is not a kind of images: there are %s", text, strings.Join(kindNames[:], ", "))
	}
	*k = Kind(n)
	return nil
}

// An Image is a PE image that is open for reading. Its methods read from the file what
// they need each time; only the headers and the section table are kept. Their errors are
// *FormatErrors if the file breaks a rule, and those of the reader otherwise.
type Image struct {
	Machine            Machine
	Is64               bool  // PE32+: addresses of 64 bits
	Kind               Kind  // what its headers say it is
	Size               int64 // of the file, in bytes
	Characteristics    uint16
	Subsystem          uint16
	DLLCharacteristics uint16

	// Problems are rules that the headers break, and that a loader cares about, but
	// that do not keep the image from being read.
	Problems []*FormatError

	file        *io.SectionReader
	closer      io.Closer
	base        uint64
	sizeOfImage uint32
	headerSize  uint32 // of what the loader maps at RVA 0
	pageAligned bool   // SectionAlignment is a page or more
	optional    int64  // where the optional header is in the file
	directories []pe.DataDirectory
	sections    []Section
}

// A Section is a row of the section table.
type Section struct {
	Name            string // as it stands in the table: long names such as /4 are not looked up, since loaders do not
	RVA             uint32
	VirtualSize     uint32
	Offset          uint32 // of its raw data in the file
	RawSize         uint32
	Characteristics uint32
	Header          int64 // where its row is in the file
}

// extent returns how many bytes the section is long in memory.
func (s *Section) extent() uint32 { return cmp.Or(s.VirtualSize, s.RawSize) }

// Open reads the headers of an image: size bytes, of which it reads no others. It is a
// *FormatError if they cannot be understood; any other error is that of the reader.
func Open(r io.ReaderAt, size int64) (*Image, error) {
	if size < 64 {
		return nil, broken(0, RuleDOSHeader, "a file of %d bytes is shorter than a DOS header of 64", size)
	}
	i := &Image{Size: size, file: io.NewSectionReader(r, 0, size)}
	// What the headers take nearly always.
	page := make([]byte, min(size, 4096))
	if err := i.readAt(page, 0); err != nil {
		return nil, err
	}
	part := func(offset, n int64) ([]byte, error) {
		if offset+n <= int64(len(page)) {
			return page[offset : offset+n], nil
		}
		b := make([]byte, n)
		return b, i.readAt(b, offset)
	}

	if string(page[:2]) != "MZ" {
		return nil, broken(0, RuleDOSHeader, "the file begins with %#x, not with MZ: it is not an image", page[:2])
	}
	nt := int64(binary.LittleEndian.Uint32(page[0x3c:]))
	if nt > size-24 {
		return nil, broken(0x3c, RulePESignature, "e_lfanew is %#x, with which the header lies outside the file of %#x bytes", nt, size)
	}
	header, err := part(nt, 24)
	if err != nil {
		return nil, err
	}
	if string(header[:4]) != "PE\x00\x00" {
		return nil, broken(nt, RulePESignature, "the signature is %q, not PE\\0\\0: a file for DOS or another system", header[:4])
	}
	machine := Machine(binary.LittleEndian.Uint16(header[4:]))
	sections := int64(binary.LittleEndian.Uint16(header[6:]))
	optionalSize := int64(binary.LittleEndian.Uint16(header[20:]))
	if sections > MaxSections {
		return nil, broken(nt+6, RuleSectionCount, "%d sections, of which %d are the most", sections, MaxSections)
	}

	// The optional header: 96 or 112 bytes, then the directories.
	i.optional = nt + 24
	const most = 112 + 16*8
	optional, err := part(i.optional, min(optionalSize, most))
	if err != nil {
		return nil, err
	}
	if len(optional) < 2 {
		return nil, broken(nt+20, RuleOptionalHeader, "an optional header of %d bytes has no room for its magic number: it is not an image", len(optional))
	}
	fixed := 0
	switch magic := binary.LittleEndian.Uint16(optional); magic {
	case 0x10b:
		fixed = 96
	case 0x20b:
		fixed, i.Is64 = 112, true
	default:
		return nil, broken(i.optional, RuleOptionalHeader, "the magic number is %#x, neither 0x10b (PE32) nor 0x20b (PE32+)", magic)
	}
	if len(optional) < fixed {
		return nil, broken(nt+20, RuleOptionalHeader, "an optional header of %d bytes is shorter than the %d that its magic number takes", len(optional), fixed)
	}
	if width := machine.bits(); width == 32 && i.Is64 || width == 64 && !i.Is64 {
		return nil, broken(nt+4, RuleMachine, "%v is a machine of %d bits, and the optional header is for the other width", machine, width)
	}
	directories := binary.LittleEndian.Uint32(optional[fixed-4:])
	// There are 16, also in a header of PE32 that is as long as one of PE32+.
	if room := min(uint32(len(optional)-fixed)/8, 16); directories > room {
		i.problem(i.optional+int64(fixed)-4, RuleDirectoryCount, "%d data directories, where there is room for %d", directories, room)
		directories = room
	}
	table, err := part(i.optional+optionalSize, sections*40)
	if err != nil {
		return nil, err
	}

	if err := i.decode(header, optional[:fixed+int(directories)*8], table); err != nil {
		return nil, err
	}
	i.Machine = machine
	for n := range i.sections {
		i.sections[n].Header = i.optional + optionalSize + int64(n)*40
	}
	i.check(i.optional + optionalSize + sections*40)
	if i.Kind, err = i.kind(); err != nil {
		return nil, err
	}
	return i, nil
}

// decode has debug/pe take the headers apart. It is given a copy which holds nothing that
// would make it refuse, or read elsewhere, or allocate: no symbols, strings or object
// file relocations, a machine it knows, no names that are offsets, as many directories as
// there are.
func (i *Image) decode(header, optional, table []byte) error {
	const dos = 96 // what debug/pe reads of a DOS header
	b := make([]byte, dos, dos+len(header)+len(optional)+len(table))
	copy(b, "MZ")
	b[0x3c] = dos
	b = append(append(append(b, header...), optional...), table...)
	h := b[dos:]
	binary.LittleEndian.PutUint16(h[4:], pe.IMAGE_FILE_MACHINE_AMD64)
	clear(h[12:20]) // PointerToSymbolTable, NumberOfSymbols
	binary.LittleEndian.PutUint16(h[20:], uint16(len(optional)))
	o := h[24:]
	fixed := 96
	if i.Is64 {
		fixed = 112
	}
	binary.LittleEndian.PutUint32(o[fixed-4:], uint32(len(optional)-fixed)/8)
	for s := o[len(optional):]; len(s) > 0; s = s[40:] {
		if s[0] == '/' {
			s[0] = 0
		}
		clear(s[24:36]) // pointers to relocations and line numbers, and their counts
	}
	f, err := pe.NewFile(bytes.NewReader(b))
	if err != nil {
		return broken(i.optional, RuleOptionalHeader, "debug/pe cannot read the headers: %v", err)
	}
	i.Characteristics = f.Characteristics
	var directories []pe.DataDirectory
	var sectionAlignment, fileAlignment uint32
	switch o := f.OptionalHeader.(type) {
	case *pe.OptionalHeader32:
		i.base, i.sizeOfImage, i.headerSize = uint64(o.ImageBase), o.SizeOfImage, o.SizeOfHeaders
		i.Subsystem, i.DLLCharacteristics = o.Subsystem, o.DllCharacteristics
		sectionAlignment, fileAlignment = o.SectionAlignment, o.FileAlignment
		directories = o.DataDirectory[:o.NumberOfRvaAndSizes]
	case *pe.OptionalHeader64:
		i.base, i.sizeOfImage, i.headerSize = o.ImageBase, o.SizeOfImage, o.SizeOfHeaders
		i.Subsystem, i.DLLCharacteristics = o.Subsystem, o.DllCharacteristics
		sectionAlignment, fileAlignment = o.SectionAlignment, o.FileAlignment
		directories = o.DataDirectory[:o.NumberOfRvaAndSizes]
	}
	i.directories = directories
	i.pageAligned = sectionAlignment >= 4096
	if bits.OnesCount32(sectionAlignment) != 1 || bits.OnesCount32(fileAlignment) != 1 || sectionAlignment < fileAlignment {
		i.problem(i.optional+32, RuleAlignment, "the section alignment is %#x and the file alignment %#x", sectionAlignment, fileAlignment)
	}
	i.sections = make([]Section, len(f.Sections))
	for n, s := range f.Sections {
		name := s.Name
		if row := table[n*40:]; row[0] == '/' {
			name, _, _ = stringTo0(row[:8])
		}
		i.sections[n] = Section{
			Name: name, RVA: s.VirtualAddress, VirtualSize: s.VirtualSize,
			Offset: s.Offset, RawSize: s.Size, Characteristics: s.Characteristics,
		}
	}
	return nil
}

// stringTo0 returns the text before the first 0 of b, its length, and whether there is one.
func stringTo0(b []byte) (s string, n int, ok bool) {
	n = bytes.IndexByte(b, 0)
	if n < 0 {
		return string(b), len(b), false
	}
	return string(b[:n]), n, true
}

// problem notes a rule that the headers break.
func (i *Image) problem(offset int64, rule Rule, format string, args ...any) {
	if len(i.Problems) < maxProblems {
		i.Problems = append(i.Problems, &FormatError{offset, rule, fmt.Sprintf(format, args...)})
	}
}

// check looks for what a loader would not take. End is where the section table ends.
func (i *Image) check(end int64) {
	if int64(i.headerSize) < end || int64(i.headerSize) > i.Size {
		i.problem(i.optional+60, RuleHeaderSize, "SizeOfHeaders is %#x, the section table ends at %#x and the file at %#x", i.headerSize, end, i.Size)
	}
	next := uint64(i.headerSize)
	for n := range i.sections {
		s := &i.sections[n]
		if e := uint64(s.RVA) + uint64(s.extent()); e > uint64(i.sizeOfImage) {
			i.problem(s.Header+8, RuleSectionRange, "section %d (%q) ends at %#x, the image at %#x", n, s.Name, e, i.sizeOfImage)
		}
		if uint64(s.RVA) < next {
			i.problem(s.Header+12, RuleSectionOrder, "section %d (%q) begins at %#x, before the end %#x of what is in front of it", n, s.Name, s.RVA, next)
		}
		next = max(next, uint64(s.RVA)+uint64(s.extent()))
		if s.RawSize == 0 {
			continue
		}
		from, to := i.rawRange(s)
		if to > i.Size {
			i.problem(s.Header+20, RuleSectionRawData, "the raw data of section %d (%q) ends at %#x, the file at %#x", n, s.Name, to, i.Size)
		}
		for m := range n {
			if t := &i.sections[m]; t.RawSize != 0 {
				if a, b := i.rawRange(t); from < b && a < to {
					i.problem(s.Header+20, RuleSectionRawOverlap, "the raw data of section %d (%q), %#x to %#x, is also that of section %d (%q)", n, s.Name, from, to, m, t.Name)
					break
				}
			}
		}
	}
	for n, d := range i.directories {
		// The certificate table is not mapped: its address is an offset.
		if n == pe.IMAGE_DIRECTORY_ENTRY_SECURITY || d.VirtualAddress == 0 && d.Size == 0 {
			continue
		}
		if e := uint64(d.VirtualAddress) + uint64(d.Size); e > uint64(i.sizeOfImage) {
			i.problem(i.DirectoryOffset(n), RuleDirectory, "data directory %d, %#x bytes at %#x, ends outside the image of %#x bytes", n, d.Size, d.VirtualAddress, i.sizeOfImage)
		}
	}
}

// rawRange returns what the loader takes as a section's raw data. It reads whole sectors of
// 512 bytes unless sections are aligned below a page.
func (i *Image) rawRange(s *Section) (from, to int64) {
	from = int64(s.Offset)
	if i.pageAligned {
		from &^= 511
	}
	return from, from + int64(s.RawSize)
}

// kind tells what the image is. The error is the reader's.
func (i *Image) kind() (Kind, error) {
	if c, err := i.LoadConfig(); readerError(err) != nil {
		return 0, err
	} else if err == nil && c != nil && c.EnclaveConfigurationPointer != 0 {
		return KindEnclave, nil
	}
	if rva, _ := i.Directory(pe.IMAGE_DIRECTORY_ENTRY_COM_DESCRIPTOR); rva != 0 {
		return KindDotNet, nil
	}
	switch i.Subsystem {
	case pe.IMAGE_SUBSYSTEM_EFI_APPLICATION, pe.IMAGE_SUBSYSTEM_EFI_BOOT_SERVICE_DRIVER,
		pe.IMAGE_SUBSYSTEM_EFI_RUNTIME_DRIVER, pe.IMAGE_SUBSYSTEM_EFI_ROM:
		return KindEFI, nil
	case pe.IMAGE_SUBSYSTEM_NATIVE:
		if i.DLLCharacteristics&pe.IMAGE_DLLCHARACTERISTICS_WDM_DRIVER != 0 {
			return KindDriver, nil
		}
		if is, err := i.importsKernel(); is || readerError(err) != nil {
			return KindDriver, err
		}
	}
	if i.Characteristics&pe.IMAGE_FILE_DLL != 0 {
		return KindDLL, nil
	}
	return KindProgram, nil
}

// OpenFile opens a regular file. Close closes it. The error is that of the file system or
// of [Open].
func OpenFile(name string) (*Image, error) {
	// To open a pipe would wait for who writes to it.
	info, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file: %v", name, info.Mode().Type())
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	if info, err = f.Stat(); err != nil {
		f.Close()
		return nil, err
	}
	i, err := Open(f, info.Size())
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	i.closer = f
	return i, nil
}

// Close closes the file that OpenFile has opened. What Open has opened needs no closing.
func (i *Image) Close() error {
	if i.closer == nil {
		return nil
	}
	c := i.closer
	i.closer = nil
	return c.Close()
}

// ReaderAt returns the file, which ends at Size.
func (i *Image) ReaderAt() io.ReaderAt { return i.file }

// Sections returns the section table. It is the image's own: do not change it.
func (i *Image) Sections() []Section { return i.sections }

// ImageBase returns the address that the image is linked for.
func (i *Image) ImageBase() uint64 { return i.base }

// SizeOfImage returns how many bytes of memory the image takes.
func (i *Image) SizeOfImage() uint32 { return i.sizeOfImage }

// Directory returns a data directory, one of debug/pe's IMAGE_DIRECTORY_ENTRY_*. Both
// parts are 0 if it is absent.
func (i *Image) Directory(n int) (rva, size uint32) {
	if n < 0 || n >= len(i.directories) {
		return 0, 0
	}
	return i.directories[n].VirtualAddress, i.directories[n].Size
}

// DirectoryOffset returns where in the file the entry of a data directory is: 8 bytes;
// 0 if there is no such entry.
func (i *Image) DirectoryOffset(n int) int64 {
	switch {
	case n < 0 || n >= len(i.directories):
		return 0
	case i.Is64:
		return i.optional + 112 + int64(n)*8
	}
	return i.optional + 96 + int64(n)*8
}

// ChecksumOffset returns where in the file the checksum is: 4 bytes.
func (i *Image) ChecksumOffset() int64 { return i.optional + 64 }

// readAt reads all of p from the file.
func (i *Image) readAt(p []byte, offset int64) error {
	if offset < 0 || offset > i.Size-int64(len(p)) {
		return broken(offset, RuleTruncated, "%d bytes do not fit in the file of %#x bytes", len(p), i.Size)
	}
	n, err := i.file.ReadAt(p, offset)
	if n == len(p) {
		return nil
	}
	if err == nil || err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("reading %d bytes at offset %#x: %w", len(p), offset, err)
}

// RVAOf returns the RVA of a virtual address, as the image is linked.
func (i *Image) RVAOf(va uint64) (uint32, error) {
	if rva := va - i.base; va >= i.base && rva < uint64(i.sizeOfImage) {
		return uint32(rva), nil
	}
	return 0, broken(-1, RuleRVA, "address %#x lies outside the image, %#x bytes at %#x", va, i.sizeOfImage, i.base)
}

// sectionAt returns the section an RVA is in; nil for the headers. It is the first one, if
// there are several.
func (i *Image) sectionAt(rva uint32) (*Section, error) {
	for n := range i.sections {
		if s := &i.sections[n]; rva >= s.RVA && rva-s.RVA < s.extent() {
			return s, nil
		}
	}
	if rva < i.headerSize {
		return nil, nil
	}
	return nil, broken(-1, RuleRVA, "RVA %#x lies in no section", rva)
}

// room returns how many bytes there are from an RVA to the end of its section.
func (i *Image) room(rva uint32) (uint32, error) {
	s, err := i.sectionAt(rva)
	switch {
	case err != nil:
		return 0, err
	case s == nil:
		return i.headerSize - rva, nil
	}
	return s.extent() - (rva - s.RVA), nil
}

// rawRoom returns how many bytes there are from an RVA to the end of what its section has
// in the file.
func (i *Image) rawRoom(rva uint32) uint32 {
	s, err := i.sectionAt(rva)
	switch {
	case err != nil:
		return 0
	case s == nil:
		return i.headerSize - rva
	}
	if end := min(s.RawSize, s.extent()); rva-s.RVA < end {
		return end - (rva - s.RVA)
	}
	return 0
}

// OffsetOf returns where in the file an RVA is. There is a place for it only if the loader
// fills it from the file.
func (i *Image) OffsetOf(rva uint32) (int64, error) {
	s, err := i.sectionAt(rva)
	switch {
	case err != nil:
		return 0, err
	case s == nil:
		return int64(rva), nil
	case rva-s.RVA >= s.RawSize:
		return 0, broken(s.Header, RuleRVA, "RVA %#x has no place in the file: section %q has %#x bytes there", rva, s.Name, s.RawSize)
	}
	from, _ := i.rawRange(s)
	return from + int64(rva-s.RVA), nil
}

// offsetOf returns where in the file an RVA is, -1 if nowhere.
func (i *Image) offsetOf(rva uint32) int64 {
	if offset, err := i.OffsetOf(rva); err == nil {
		return offset
	}
	return -1
}

// ReadRVA reads all of p from where the loader maps it: the raw data, and zeros from its
// end to the end of the section. What does not lie in one section is a *FormatError.
func (i *Image) ReadRVA(p []byte, rva uint32) error {
	room, err := i.room(rva)
	if err != nil {
		return err
	}
	if uint64(len(p)) > uint64(room) {
		return broken(i.offsetOf(rva), RuleRVA, "%d bytes at RVA %#x do not fit in its section, which ends %d bytes behind it", len(p), rva, room)
	}
	s, _ := i.sectionAt(rva)
	if s == nil {
		return i.readAt(p, int64(rva))
	}
	if at := rva - s.RVA; at < s.RawSize {
		n := min(uint32(len(p)), s.RawSize-at)
		from, _ := i.rawRange(s)
		if err := i.readAt(p[:n], from+int64(at)); err != nil {
			return err
		}
		p = p[n:]
	}
	clear(p)
	return nil
}

// cstring reads a string that ends with a 0, of at most limit bytes without it.
func (i *Image) cstring(rva uint32, limit int) (string, error) {
	room, err := i.room(rva)
	if err != nil {
		return "", err
	}
	var buf []byte
	left := min(int64(room), int64(limit)+1)
	for at := rva; left > 0; {
		// A few bytes are enough for most.
		piece := make([]byte, min(left, 64+int64(len(buf))))
		if err := i.ReadRVA(piece, at); err != nil {
			return "", err
		}
		s, n, ok := stringTo0(piece)
		if ok && buf == nil {
			return s, nil
		}
		buf = append(buf, piece[:n]...)
		if ok {
			return string(buf), nil
		}
		at += uint32(len(piece))
		left -= int64(len(piece))
	}
	return "", broken(i.offsetOf(rva), RuleString, "the string at RVA %#x does not end within %d bytes and its section", rva, limit)
}
