package ium

import (
	"cmp"
	"debug/pe"
	"encoding/binary"
)

// RuleLoadConfig is the rule of the load configuration: "The Load Configuration
// Structure" of the PE Format specification.
const RuleLoadConfig Rule = "load-config"

// A LoadConfig is what this package needs of IMAGE_LOAD_CONFIG_DIRECTORY.
type LoadConfig struct {
	Offset                      int64 // in the file; -1 if it is not there but zeros
	RVA                         uint32
	Size                        uint32 // as it says itself; parts behind it are 0
	SecurityCookie              uint64 // a virtual address
	GuardFlags                  uint32
	EnclaveConfigurationPointer uint64 // a virtual address; 0: none
}

// Where the parts are: offsets in winnt.h's IMAGE_LOAD_CONFIG_DIRECTORY32 and 64.
var loadConfigLayouts = [2]struct{ cookie, guardFlags, enclave, end uint32 }{
	{60, 88, 156, 160},
	{88, 144, 248, 256},
}

// LoadConfig returns the load configuration; nil without an error if there is none.
func (i *Image) LoadConfig() (*LoadConfig, error) {
	rva, size := i.Directory(pe.IMAGE_DIRECTORY_ENTRY_LOAD_CONFIG)
	if rva == 0 {
		return nil, nil
	}
	var b [256]byte
	if err := i.ReadRVA(b[:4], rva); err != nil {
		return nil, err
	}
	// The structure's own size counts, since linkers write other ones in the data
	// directory; if it has none, that one does.
	n := cmp.Or(binary.LittleEndian.Uint32(b[:]), size)
	if room, _ := i.room(rva); n < 4 || n > room {
		return nil, broken(i.offsetOf(rva), RuleLoadConfig, "a size of %d bytes, with %d left of its section", n, room)
	}
	c := &LoadConfig{Offset: i.offsetOf(rva), RVA: rva, Size: n}
	at, width := loadConfigLayouts[0], uint32(4)
	if i.Is64 {
		at, width = loadConfigLayouts[1], 8
	}
	if err := i.ReadRVA(b[:min(n, at.end)], rva); err != nil {
		return nil, err
	}
	// A part counts only if all of it lies within the size.
	part := func(offset, size uint32) uint64 {
		switch {
		case offset+size > n:
			return 0
		case size == 8:
			return binary.LittleEndian.Uint64(b[offset:])
		}
		return uint64(binary.LittleEndian.Uint32(b[offset:]))
	}
	c.SecurityCookie = part(at.cookie, width)
	c.GuardFlags = uint32(part(at.guardFlags, 4))
	c.EnclaveConfigurationPointer = part(at.enclave, width)
	return c, nil
}
