package ium

import (
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"

	"github.com/govtx/vtx/internal/names"
)

// Rules of enclave configurations (winnt.h of the Windows SDK 10.0.26100 and Microsoft
// Learn, IMAGE_ENCLAVE_CONFIG64 and IMAGE_ENCLAVE_IMPORT).
const (
	RuleEnclavePointer  Rule = "enclave-pointer"  // the pointer in the load configuration leads into the image
	RuleEnclaveSize     Rule = "enclave-size"     // the structure has at least all members up to NumberOfThreads, and lies in its section
	RuleEnclaveRequired Rule = "enclave-required" // MinimumRequiredConfigSize is not more than Size
	RuleEnclaveNewer    Rule = "enclave-newer"    // MinimumRequiredConfigSize is not more than this package knows
	RuleEnclavePolicy   Rule = "enclave-policy"   // PolicyFlags has known flags only
	RuleEnclaveFlags    Rule = "enclave-flags"    // EnclaveFlags has known flags only
	RuleEnclaveImports  Rule = "enclave-imports"  // the list of imports lies in the image, with entries of a size that fits
	RuleEnclaveMatch    Rule = "enclave-match"    // MatchType is from 0 to 4
	RuleEnclaveName     Rule = "enclave-name"     // ImportName leads to a name that ends
	RuleEnclaveReserved Rule = "enclave-reserved" // Reserved is 0
)

// What is read of an enclave configuration at most.
const (
	MaxEnclaveImports    = 1024
	MaxEnclaveImportSize = 4096 // bytes of an entry of the list
	MaxEnclaveName       = 260  // bytes of the name of an import, with the zero at its end
)

// Sizes of structures in bytes.
const (
	enclaveConfigHead = 8  // through MinimumRequiredConfigSize
	enclaveConfig32   = 76 // IMAGE_ENCLAVE_CONFIG32
	enclaveConfig64   = 80 // IMAGE_ENCLAVE_CONFIG64
	enclaveImportSize = 80 // IMAGE_ENCLAVE_IMPORT
	enclaveFlagsSize  = 4
)

// An EnclavePolicy is PolicyFlags: IMAGE_ENCLAVE_POLICY_*.
type EnclavePolicy uint32

// Policies of enclaves.
const (
	EnclaveDebuggable   EnclavePolicy = 1 << 0
	EnclaveStrictMemory EnclavePolicy = 1 << 1 // no access to the memory of the process around it

	knownEnclavePolicy = EnclaveDebuggable | EnclaveStrictMemory
)

var enclavePolicyNames = []string{"debuggable", "strict memory"}

// String names the flags: "debuggable + strict memory", "none", "debuggable + 0x10".
func (p EnclavePolicy) String() string { return flagString(uint32(p), enclavePolicyNames) }

// ParseEnclavePolicy reads what String prints.
func ParseEnclavePolicy(s string) (EnclavePolicy, error) {
	v, err := parseFlags(s, enclavePolicyNames, "enclave policy")
	return EnclavePolicy(v), err
}

// MarshalText returns what String does.
func (p EnclavePolicy) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText takes what ParseEnclavePolicy does.
func (p *EnclavePolicy) UnmarshalText(text []byte) (err error) {
	*p, err = ParseEnclavePolicy(string(text))
	return err
}

// EnclaveFlags is the member of that name: IMAGE_ENCLAVE_FLAG_*.
type EnclaveFlags uint32

// EnclavePrimaryImage says that the image may be the first one of an enclave.
const EnclavePrimaryImage EnclaveFlags = 1 << 0

var enclaveFlagNames = []string{"primary image"}

// String names the flags: "primary image", "none", "primary image + 0x10".
func (f EnclaveFlags) String() string { return flagString(uint32(f), enclaveFlagNames) }

// ParseEnclaveFlags reads what String prints.
func ParseEnclaveFlags(s string) (EnclaveFlags, error) {
	v, err := parseFlags(s, enclaveFlagNames, "enclave flag")
	return EnclaveFlags(v), err
}

// MarshalText returns what String does.
func (f EnclaveFlags) MarshalText() ([]byte, error) { return []byte(f.String()), nil }

// UnmarshalText takes what ParseEnclaveFlags does.
func (f *EnclaveFlags) UnmarshalText(text []byte) (err error) {
	*f, err = ParseEnclaveFlags(string(text))
	return err
}

// flagString joins the names of the bits that are set, from bit 0 on, and what is left.
func flagString(v uint32, all []string) string {
	var parts []string
	for bit, name := range all {
		if v>>bit&1 != 0 {
			parts = append(parts, name)
			v &^= 1 << bit
		}
	}
	if v != 0 {
		parts = append(parts, fmt.Sprintf("%#x", v))
	}
	if parts == nil {
		return "none"
	}
	return strings.Join(parts, " + ")
}

// parseFlags reads what flagString prints.
func parseFlags(s string, all []string, what string) (v uint32, err error) {
	if names.Squeeze(s) == "none" {
		return 0, nil
	}
parts:
	for part := range strings.SplitSeq(s, "+") {
		part = strings.TrimSpace(part)
		for bit, name := range all {
			if names.Squeeze(part) == names.Squeeze(name) {
				v |= 1 << bit
				continue parts
			}
		}
		n, err := strconv.ParseUint(part, 0, 32)
		if err != nil {
			return 0, fmt.Errorf("unknown %s %q: give none, numbers, or of these: %s", what, part, strings.Join(all, ", "))
		}
		v |= uint32(n)
	}
	return v, nil
}

// An EnclaveMatch tells by which identity an import is taken: IMAGE_ENCLAVE_IMPORT_MATCH_*.
type EnclaveMatch uint32

// Identities.
const (
	MatchNone     EnclaveMatch = iota // any image of the name
	MatchUniqueID                     // the hash of one image
	MatchAuthorID                     // the author; all zeros: a part of Windows
	MatchFamilyID
	MatchImageID

	numEnclaveMatches = iota
)

var enclaveMatchNames = [numEnclaveMatches]string{"none", "unique id", "author id", "family id", "image id"}

// String returns a name such as author id.
func (m EnclaveMatch) String() string {
	if m < numEnclaveMatches {
		return enclaveMatchNames[m]
	}
	return fmt.Sprintf("EnclaveMatch(%#x)", uint32(m))
}

// ParseEnclaveMatch reads what String prints.
func ParseEnclaveMatch(s string) (EnclaveMatch, error) {
	for m, name := range enclaveMatchNames {
		if names.Squeeze(name) == names.Squeeze(s) {
			return EnclaveMatch(m), nil
		}
	}
	if n, ok := parseUnknown(s, "EnclaveMatch", 32); ok && n >= numEnclaveMatches {
		return EnclaveMatch(n), nil
	}
	return 0, fmt.Errorf("unknown way to match an import %q: give %s", s, strings.Join(enclaveMatchNames[:], ", "))
}

// MarshalText returns what String does.
func (m EnclaveMatch) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalText takes what ParseEnclaveMatch does.
func (m *EnclaveMatch) UnmarshalText(text []byte) (err error) {
	*m, err = ParseEnclaveMatch(string(text))
	return err
}

// An EnclaveConfig is IMAGE_ENCLAVE_CONFIG: what makes an image a VBS enclave.
type EnclaveConfig struct {
	Offset  int64         // in the file, -1 if it is not there but zeros
	RVA     uint32        // of the structure
	Size    uint32        // of the structure, as it says itself, in bytes
	Minimum uint32        // MinimumRequiredConfigSize: what a loader must know of it; 0 means 8
	Policy  EnclavePolicy // PolicyFlags

	ImportEntrySize uint32 // bytes of an entry of the list of imports
	Imports         []EnclaveImport

	FamilyID        [16]byte
	ImageID         [16]byte
	ImageVersion    uint32
	SecurityVersion uint32 // SVN
	EnclaveSize     uint64 // of the enclave's addresses, in bytes
	Threads         uint32 // NumberOfThreads
	Flags           EnclaveFlags
	HasFlags        bool // whether the structure is long enough for Flags

	Reasons []Reason // what is wrong with it, though it could be read
}

// An EnclaveImport is IMAGE_ENCLAVE_IMPORT: an image that the enclave may import.
type EnclaveImport struct {
	Offset          int64 // in the file, -1 if it is not there but zeros
	Match           EnclaveMatch
	SecurityVersion uint32   // MinimumSecurityVersion: the lowest that is taken
	UniqueOrAuthor  [32]byte // UniqueOrAuthorID
	FamilyID        [16]byte
	ImageID         [16]byte
	Name            string // of the file; "" if it could not be read
}

// FromWindows tells whether the import must be a part of Windows: it is matched by
// author, and that is all zeros (Microsoft Learn, IMAGE_ENCLAVE_IMPORT).
func (e *EnclaveImport) FromWindows() bool {
	return e.Match == MatchAuthorID && e.UniqueOrAuthor == [32]byte{}
}

// Debuggable tells whether the enclave may be debugged.
func (c *EnclaveConfig) Debuggable() bool { return c.Policy&EnclaveDebuggable != 0 }

// Primary tells whether the image may be the first one of an enclave. A structure that
// ends in front of the flags is older than they are, and is taken to be so.
func (c *EnclaveConfig) Primary() bool { return !c.HasFlags || c.Flags&EnclavePrimaryImage != 0 }

func (c *EnclaveConfig) reason(offset int64, rule Rule, format string, args ...any) {
	c.Reasons = append(c.Reasons, Reason{Rule: rule, Offset: offset, Detail: fmt.Sprintf(format, args...)})
}

// Enclave reads the enclave configuration that the load configuration points to. Nil
// without an error means that the image is not an enclave. A *FormatError says why the
// configuration cannot be read; what is wrong with one that can is in its Reasons.
func (i *Image) Enclave() (*EnclaveConfig, error) {
	load, err := i.LoadConfig()
	if err != nil || load == nil || load.EnclaveConfigurationPointer == 0 {
		return nil, err
	}
	rva, err := i.RVAOf(load.EnclaveConfigurationPointer)
	if err != nil {
		return nil, broken(load.Offset, RuleEnclavePointer, "EnclaveConfigurationPointer is %#x, which is outside the image at %#x", load.EnclaveConfigurationPointer, i.ImageBase())
	}
	var b [enclaveConfig64]byte
	if err := i.ReadRVA(b[:enclaveConfigHead], rva); err != nil {
		return nil, err
	}
	c := &EnclaveConfig{Offset: i.offsetOf(rva), RVA: rva}
	c.Size = binary.LittleEndian.Uint32(b[0:])
	c.Minimum = binary.LittleEndian.Uint32(b[4:])
	whole := uint32(enclaveConfig32)
	if i.Is64 {
		whole = enclaveConfig64
	}
	if c.Size < whole-enclaveFlagsSize {
		return nil, broken(c.Offset, RuleEnclaveSize, "the size is %d: up to NumberOfThreads it takes %d bytes", c.Size, whole-enclaveFlagsSize)
	}
	c.HasFlags = c.Size >= whole
	n := whole - enclaveFlagsSize
	if c.HasFlags {
		n = whole
	}
	if err := i.ReadRVA(b[:n], rva); err != nil {
		return nil, err
	}
	if c.Minimum > c.Size {
		c.reason(c.Offset+4, RuleEnclaveRequired, "MinimumRequiredConfigSize is %d, more than the structure's own %d", c.Minimum, c.Size)
	} else if c.Minimum > whole {
		c.reason(c.Offset+4, RuleEnclaveNewer, "a loader must know %d bytes of the structure, of which %d are known here: the enclave is for a newer Windows", c.Minimum, whole)
	}
	c.Policy = EnclavePolicy(binary.LittleEndian.Uint32(b[8:]))
	if c.Policy&^knownEnclavePolicy != 0 {
		c.reason(c.Offset+8, RuleEnclavePolicy, "PolicyFlags is %#x, with unknown flags %#x", uint32(c.Policy), uint32(c.Policy&^knownEnclavePolicy))
	}
	count, list := binary.LittleEndian.Uint32(b[12:]), binary.LittleEndian.Uint32(b[16:])
	c.ImportEntrySize = binary.LittleEndian.Uint32(b[20:])
	c.FamilyID, c.ImageID = [16]byte(b[24:40]), [16]byte(b[40:56])
	c.ImageVersion = binary.LittleEndian.Uint32(b[56:])
	c.SecurityVersion = binary.LittleEndian.Uint32(b[60:])
	rest := b[68:]
	c.EnclaveSize = uint64(binary.LittleEndian.Uint32(b[64:]))
	if i.Is64 {
		c.EnclaveSize, rest = binary.LittleEndian.Uint64(b[64:]), b[72:]
	}
	c.Threads = binary.LittleEndian.Uint32(rest)
	if c.HasFlags {
		c.Flags = EnclaveFlags(binary.LittleEndian.Uint32(rest[4:]))
		if c.Flags&^EnclavePrimaryImage != 0 {
			c.reason(c.Offset+int64(whole)-enclaveFlagsSize, RuleEnclaveFlags, "EnclaveFlags is %#x, with unknown flags %#x", uint32(c.Flags), uint32(c.Flags&^EnclavePrimaryImage))
		}
	}
	if err := c.readImports(i, count, list); err != nil {
		return c, err
	}
	return c, nil
}

// readImports reads the list of imports.
func (c *EnclaveConfig) readImports(i *Image, count, list uint32) error {
	if count == 0 {
		return nil
	}
	if c.ImportEntrySize < enclaveImportSize || c.ImportEntrySize > MaxEnclaveImportSize {
		return broken(c.Offset+20, RuleEnclaveImports, "ImportEntrySize is %d: an entry takes from %d to %d bytes", c.ImportEntrySize, enclaveImportSize, MaxEnclaveImportSize)
	}
	if count > MaxEnclaveImports {
		return broken(c.Offset+12, RuleEnclaveImports, "NumberOfImports is %d: at most %d are read", count, MaxEnclaveImports)
	}
	for n := range count {
		at := uint64(list) + uint64(n)*uint64(c.ImportEntrySize)
		var b [enclaveImportSize]byte
		if at+enclaveImportSize > 1<<32 {
			return broken(c.Offset+16, RuleEnclaveImports, "import %d of %d is at RVA %#x, beyond any image", n, count, at)
		}
		rva := uint32(at)
		if err := i.ReadRVA(b[:], rva); readerError(err) != nil {
			return err
		} else if err != nil {
			return broken(c.Offset+16, RuleEnclaveImports, "import %d of %d cannot be read: %v", n, count, err)
		}
		e := EnclaveImport{
			Offset:          i.offsetOf(rva),
			Match:           EnclaveMatch(binary.LittleEndian.Uint32(b[0:])),
			SecurityVersion: binary.LittleEndian.Uint32(b[4:]),
			UniqueOrAuthor:  [32]byte(b[8:40]),
			FamilyID:        [16]byte(b[40:56]),
			ImageID:         [16]byte(b[56:72]),
		}
		if e.Match >= numEnclaveMatches {
			c.reason(e.Offset, RuleEnclaveMatch, "MatchType of import %d is %d: 0 to 4 are known", n, uint32(e.Match))
		}
		if reserved := binary.LittleEndian.Uint32(b[76:]); reserved != 0 {
			c.reason(e.Offset+76, RuleEnclaveReserved, "Reserved of import %d is %#x: it must be 0", n, reserved)
		}
		var err error
		if e.Name, err = i.enclaveName(binary.LittleEndian.Uint32(b[72:])); readerError(err) != nil {
			return err
		} else if err != nil {
			c.reason(e.Offset+72, RuleEnclaveName, "the name of import %d cannot be read: %v", n, err)
		}
		c.Imports = append(c.Imports, e)
	}
	return nil
}

// enclaveName reads the name of an import: printable ASCII.
func (i *Image) enclaveName(rva uint32) (string, error) {
	name, err := i.cstring(rva, MaxEnclaveName-1)
	if err != nil {
		return "", err
	}
	bad := strings.IndexFunc(name, func(r rune) bool { return r < ' ' || r > '~' })
	if name == "" || bad >= 0 {
		return "", broken(i.offsetOf(rva), RuleEnclaveName, "%q is not the name of a file", name)
	}
	return name, nil
}
