package ium

import (
	"cmp"
	"debug/pe"
	"encoding/binary"
	"fmt"
	"math"
	"slices"
)

// How images are built.
const (
	builtPage   = 0x1000 // section alignment
	builtSector = 0x200  // file alignment
)

// An ImageSpec says what image to build. The zero value is a program for AMD64 without
// sections.
type ImageSpec struct {
	Machine            Machine // 0: MachineAMD64. PE32+ unless it is of 32 bits
	Characteristics    uint16  // beyond IMAGE_FILE_EXECUTABLE_IMAGE and what follows from the rest
	DLLCharacteristics uint16
	Subsystem          uint16 // 0: IMAGE_SUBSYSTEM_WINDOWS_CUI
	ImageBase          uint64 // 0: 0x140000000, or 0x400000 for 32 bits

	// Sections come first: the first is at RVA 0x1000, each next at the next multiple of
	// 0x1000.
	Sections []SectionSpec
	// Directories are entries of the data directory.
	Directories map[int]pe.DataDirectory
	// Exports are exported besides the policy; the forwarder does not matter.
	Exports []Export
	// Pointers are RVAs of pointers to relocate, besides those of the policy.
	Pointers []uint32
	// Certificates are appended. Offset and Length do not matter.
	Certificates []Certificate

	Policy        *Policy  // nil: none
	PolicySection string   // empty: .tPolicy
	PolicyExports []string // names of exports that point to the policy; nil: __ImagePolicyMetadata
	NoRelocations bool     // IMAGE_FILE_RELOCS_STRIPPED, and no relocations
}

// A SectionSpec is a section to build.
type SectionSpec struct {
	Name            string
	Characteristics uint32
	VirtualSize     uint32 // 0: as long as the data
	Data            []byte
}

const readOnlyData = 0x40000040 // IMAGE_SCN_MEM_READ, IMAGE_SCN_CNT_INITIALIZED_DATA

// Build builds the image. It is the smallest there is with sections that loaders can map:
// it has no code, and no checksum.
func (s *ImageSpec) Build() ([]byte, error) {
	b := builder{machine: cmp.Or(s.Machine, MachineAMD64)}
	b.is64 = b.machine.bits() != 32
	b.base = cmp.Or(s.ImageBase, uint64(0x140000000))
	if !b.is64 {
		b.base = cmp.Or(s.ImageBase, uint64(0x400000))
		if b.base > math.MaxUint32 {
			return nil, fmt.Errorf("an image base of %#x does not fit a 32-bit image", b.base)
		}
	}
	b.next = builtPage
	for _, section := range s.Sections {
		if _, err := b.add(section); err != nil {
			return nil, err
		}
	}
	directories := map[int]pe.DataDirectory{}
	exports := slices.Clone(s.Exports)
	pointers := slices.Clone(s.Pointers)
	if s.Policy != nil {
		e, err := s.Policy.Encode(b.base+uint64(b.next), b.is64)
		if err != nil {
			return nil, err
		}
		rva, err := b.add(SectionSpec{Name: cmp.Or(s.PolicySection, PolicySection), Characteristics: readOnlyData, Data: e.Data})
		if err != nil {
			return nil, err
		}
		names := s.PolicyExports
		if names == nil {
			names = []string{PolicyExport}
		}
		for _, name := range names {
			exports = append(exports, Export{Name: name, RVA: rva})
		}
		for _, p := range e.Pointers {
			pointers = append(pointers, rva+p)
		}
	}
	if len(exports) > 0 {
		if len(exports) > MaxExports {
			return nil, fmt.Errorf("%d exports: there can be %d", len(exports), MaxExports)
		}
		data := encodeExports(b.next, exports)
		rva, err := b.add(SectionSpec{Name: ".edata", Characteristics: readOnlyData, Data: data})
		if err != nil {
			return nil, err
		}
		directories[pe.IMAGE_DIRECTORY_ENTRY_EXPORT] = pe.DataDirectory{VirtualAddress: rva, Size: uint32(len(data))}
	}
	characteristics := s.Characteristics | pe.IMAGE_FILE_EXECUTABLE_IMAGE
	if b.is64 {
		characteristics |= pe.IMAGE_FILE_LARGE_ADDRESS_AWARE
	} else {
		characteristics |= pe.IMAGE_FILE_32BIT_MACHINE
	}
	switch {
	case s.NoRelocations:
		characteristics |= pe.IMAGE_FILE_RELOCS_STRIPPED
	case len(pointers) > 0:
		data := encodeRelocations(pointers, b.is64)
		rva, err := b.add(SectionSpec{Name: ".reloc", Characteristics: readOnlyData | pe.IMAGE_SCN_MEM_DISCARDABLE, Data: data})
		if err != nil {
			return nil, err
		}
		directories[pe.IMAGE_DIRECTORY_ENTRY_BASERELOC] = pe.DataDirectory{VirtualAddress: rva, Size: uint32(len(data))}
	}
	if len(b.sections) > MaxSections {
		return nil, fmt.Errorf("%d sections: there can be %d", len(b.sections), MaxSections)
	}
	return b.image(s, characteristics, directories)
}

// A builder puts sections one after the other.
type builder struct {
	machine  Machine
	is64     bool
	base     uint64
	next     uint32 // RVA of the next section
	sections []SectionSpec
	rvas     []uint32
}

// add adds a section and returns its RVA.
func (b *builder) add(s SectionSpec) (uint32, error) {
	if len(s.Name) > 8 {
		return 0, fmt.Errorf("section name %.40q: there can be 8 bytes", s.Name)
	}
	size := max(uint64(s.VirtualSize), uint64(len(s.Data)), 1)
	end := (uint64(b.next) + size + builtPage - 1) &^ (builtPage - 1)
	if end > math.MaxInt32 {
		return 0, fmt.Errorf("section %q ends at RVA %#x: an image can take 2 GB", s.Name, end)
	}
	rva := b.next
	b.sections, b.rvas, b.next = append(b.sections, s), append(b.rvas, rva), uint32(end)
	return rva, nil
}

// image writes the file.
func (b *builder) image(s *ImageSpec, characteristics uint16, directories map[int]pe.DataDirectory) ([]byte, error) {
	const nt = 64 // directly behind the DOS header
	optional := 96
	if b.is64 {
		optional = 112
	}
	table := nt + 24 + optional + 16*8
	headers := roundUp(table+40*len(b.sections), builtSector)
	f := make([]byte, headers)
	le := binary.LittleEndian
	copy(f, "MZ")
	le.PutUint32(f[0x3c:], nt)
	h := f[nt:]
	copy(h, "PE\x00\x00")
	le.PutUint16(h[4:], uint16(b.machine))
	le.PutUint16(h[6:], uint16(len(b.sections)))
	le.PutUint16(h[20:], uint16(optional+16*8))
	le.PutUint16(h[22:], characteristics)
	o := h[24:]
	le.PutUint16(o, 0x10b)
	if b.is64 {
		le.PutUint16(o, 0x20b)
		le.PutUint64(o[24:], b.base)
	} else {
		le.PutUint32(o[28:], uint32(b.base))
	}
	le.PutUint32(o[32:], builtPage)
	le.PutUint32(o[36:], builtSector)
	le.PutUint16(o[40:], 10) // MajorOperatingSystemVersion
	le.PutUint16(o[48:], 10) // MajorSubsystemVersion
	le.PutUint32(o[56:], b.next)
	le.PutUint32(o[60:], uint32(headers))
	le.PutUint16(o[68:], cmp.Or(s.Subsystem, pe.IMAGE_SUBSYSTEM_WINDOWS_CUI))
	le.PutUint16(o[70:], s.DLLCharacteristics)
	le.PutUint32(o[optional-4:], 16)

	for n, section := range b.sections {
		row := f[table+40*n:]
		copy(row[:8], section.Name)
		le.PutUint32(row[8:], max(section.VirtualSize, uint32(len(section.Data)), 1))
		le.PutUint32(row[12:], b.rvas[n])
		le.PutUint32(row[36:], section.Characteristics)
		if len(section.Data) > 0 {
			raw := roundUp(len(section.Data), builtSector)
			le.PutUint32(row[16:], uint32(raw))
			le.PutUint32(row[20:], uint32(len(f)))
			f = append(f, section.Data...)
			f = append(f, make([]byte, raw-len(section.Data))...)
		}
	}
	if len(s.Certificates) > 0 {
		start := len(f)
		for _, c := range s.Certificates {
			f = le.AppendUint32(f, uint32(8+len(c.Data)))
			f = le.AppendUint16(f, c.Revision)
			f = le.AppendUint16(f, c.Type)
			f = append(f, c.Data...)
			f = append(f, make([]byte, -len(f)&7)...)
		}
		directories[pe.IMAGE_DIRECTORY_ENTRY_SECURITY] = pe.DataDirectory{VirtualAddress: uint32(start), Size: uint32(len(f) - start)}
	}
	for n, d := range s.Directories {
		directories[n] = d
	}
	for n, d := range directories {
		if n < 0 || n >= 16 {
			return nil, fmt.Errorf("data directory %d: there are 0 to 15", n)
		}
		at := nt + 24 + optional + 8*n
		le.PutUint32(f[at:], d.VirtualAddress)
		le.PutUint32(f[at+4:], d.Size)
	}
	return f, nil
}

func roundUp(n, to int) int { return (n + to - 1) / to * to }

// encodeExports writes an export table for its RVA. Ordinals go by name.
func encodeExports(rva uint32, exports []Export) []byte {
	slices.SortStableFunc(exports, func(a, b Export) int { return cmp.Compare(a.Name, b.Name) })
	n := len(exports)
	addresses, names, ordinals := 40, 40+4*n, 40+8*n
	b := make([]byte, 40+10*n)
	le := binary.LittleEndian
	le.PutUint32(b[16:], 1)
	le.PutUint32(b[20:], uint32(n))
	le.PutUint32(b[24:], uint32(n))
	le.PutUint32(b[28:], rva+uint32(addresses))
	le.PutUint32(b[32:], rva+uint32(names))
	le.PutUint32(b[36:], rva+uint32(ordinals))
	le.PutUint32(b[12:], rva+uint32(len(b)))
	b = append(b, "image\x00"...)
	for k, e := range exports {
		le.PutUint32(b[addresses+4*k:], e.RVA)
		le.PutUint32(b[names+4*k:], rva+uint32(len(b)))
		le.PutUint16(b[ordinals+2*k:], uint16(k))
		b = append(append(b, e.Name...), 0)
	}
	return b
}

// encodeRelocations writes base relocation blocks for pointers.
func encodeRelocations(pointers []uint32, is64 bool) []byte {
	kind := uint16(RelocationHighLow)
	if is64 {
		kind = uint16(RelocationDir64)
	}
	slices.Sort(pointers)
	var b []byte
	le := binary.LittleEndian
	for len(pointers) > 0 {
		page := pointers[0] &^ (builtPage - 1)
		n := slices.IndexFunc(pointers, func(p uint32) bool { return p&^(builtPage-1) != page })
		if n < 0 {
			n = len(pointers)
		}
		b = le.AppendUint32(b, page)
		b = le.AppendUint32(b, uint32(8+2*(n+n%2)))
		for _, p := range pointers[:n] {
			b = le.AppendUint16(b, kind<<12|uint16(p-page))
		}
		if n%2 != 0 {
			b = le.AppendUint16(b, 0) // a block is a multiple of 4 bytes
		}
		pointers = pointers[n:]
	}
	return b
}
