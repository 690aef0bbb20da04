package ium

import (
	"cmp"
	"debug/pe"
	"encoding/binary"
	"fmt"
	"math"
)

// SetEnclave makes the image to build an enclave: it appends a section with a load
// configuration and in it a pointer to the enclave configuration c. It comes last, since
// the addresses follow from the sections that are there. Offset, RVA, HasFlags and
// Reasons of c do not matter. Size, ImportEntrySize and Minimum are written as they are,
// even if they are wrong, but that 0 as Size is the size of the structure, and as
// ImportEntrySize that of an entry. Flags is left out if it is beyond Size.
func (s *ImageSpec) SetEnclave(c *EnclaveConfig) error {
	machine := cmp.Or(s.Machine, MachineAMD64)
	is64 := machine.bits() != 32
	base := cmp.Or(s.ImageBase, uint64(0x140000000))
	whole, loadSize, pointer := enclaveConfig64, loadConfigLayouts[1].end, loadConfigLayouts[1].enclave
	if !is64 {
		base = cmp.Or(s.ImageBase, uint64(0x400000))
		whole, loadSize, pointer = enclaveConfig32, loadConfigLayouts[0].end, loadConfigLayouts[0].enclave
		if c.EnclaveSize > math.MaxUint32 {
			return fmt.Errorf("an enclave of %#x bytes does not fit a 32-bit image: EnclaveSize is at most %#x", c.EnclaveSize, uint32(math.MaxUint32))
		}
	}
	size := cmp.Or(c.Size, uint32(whole))
	entry := cmp.Or(c.ImportEntrySize, enclaveImportSize)
	if size > MaxEnclaveImportSize || entry > MaxEnclaveImportSize || len(c.Imports) > MaxEnclaveImports {
		return fmt.Errorf("a structure of %d bytes with %d imports of %d bytes: at most %d, %d and %d are built", size, len(c.Imports), entry, MaxEnclaveImportSize, MaxEnclaveImports, MaxEnclaveImportSize)
	}

	rva := uint32(builtPage)
	for _, section := range s.Sections {
		n := max(uint64(section.VirtualSize), uint64(len(section.Data)), 1)
		rva += uint32((n + builtPage - 1) &^ (builtPage - 1))
	}
	config := rva + loadSize
	list := config + max(size, uint32(whole))
	le := binary.LittleEndian
	b := make([]byte, loadSize, list-rva)
	le.PutUint32(b, loadSize)
	if is64 {
		le.PutUint64(b[pointer:], base+uint64(config))
	} else {
		le.PutUint32(b[pointer:], uint32(base)+config)
	}

	b = le.AppendUint32(b, size)
	b = le.AppendUint32(b, c.Minimum)
	b = le.AppendUint32(b, uint32(c.Policy))
	b = le.AppendUint32(b, uint32(len(c.Imports)))
	if len(c.Imports) == 0 {
		b = le.AppendUint32(b, 0)
	} else {
		b = le.AppendUint32(b, list)
	}
	b = le.AppendUint32(b, entry)
	b = append(append(b, c.FamilyID[:]...), c.ImageID[:]...)
	b = le.AppendUint32(b, c.ImageVersion)
	b = le.AppendUint32(b, c.SecurityVersion)
	if is64 {
		b = le.AppendUint64(b, c.EnclaveSize)
	} else {
		b = le.AppendUint32(b, uint32(c.EnclaveSize))
	}
	b = le.AppendUint32(b, c.Threads)
	if size >= uint32(whole) {
		b = le.AppendUint32(b, uint32(c.Flags))
	}
	b = append(b, make([]byte, int(list-rva)-len(b))...)

	var texts []byte
	at := uint64(list) + uint64(len(c.Imports))*uint64(max(entry, enclaveImportSize))
	for _, e := range c.Imports {
		start := len(b)
		b = le.AppendUint32(b, uint32(e.Match))
		b = le.AppendUint32(b, e.SecurityVersion)
		b = append(b, e.UniqueOrAuthor[:]...)
		b = append(append(b, e.FamilyID[:]...), e.ImageID[:]...)
		b = le.AppendUint32(b, uint32(at)+uint32(len(texts)))
		b = le.AppendUint32(b, 0) // Reserved
		b = append(b, make([]byte, int(max(entry, enclaveImportSize))-(len(b)-start))...)
		texts = append(append(texts, e.Name...), 0)
	}
	if s.Directories == nil {
		s.Directories = map[int]pe.DataDirectory{}
	}
	s.Directories[pe.IMAGE_DIRECTORY_ENTRY_LOAD_CONFIG] = pe.DataDirectory{VirtualAddress: rva, Size: loadSize}
	s.Sections = append(s.Sections, SectionSpec{Name: ".rdata", Characteristics: readOnlyData, Data: append(b, texts...)})
	s.Pointers = append(s.Pointers, rva+pointer)
	s.Characteristics |= pe.IMAGE_FILE_DLL
	return nil
}
