package ium

import (
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"

	"github.com/govtx/vtx/internal/names"
)

// SystemIsolatedUserModeInformation is the class of system information that tells about the
// secure kernel.
const SystemIsolatedUserModeInformation = 165

// IsolatedUserModeSize is the size of what that class gives, in bytes.
const IsolatedUserModeSize = 16

// IsolatedUserMode is what NtQuerySystemInformation gives for the class
// SystemIsolatedUserModeInformation: SYSTEM_ISOLATED_USER_MODE_INFORMATION. The bits are
// those of System Informer's ntexapi.h; Windows 10 1511 had bits 0 to 3 and 8 only.
type IsolatedUserMode struct {
	Flags IsolatedUserModeFlags // bytes 0 to 7
	Spare uint64                // bytes 8 to 15: 0
}

// IsolatedUserModeFlags say how virtualization-based security is set up.
type IsolatedUserModeFlags uint64

// Flags.
const (
	SecureKernelRunning     IsolatedUserModeFlags = 1 << 0
	HVCIEnabled             IsolatedUserModeFlags = 1 << 1
	HVCIStrictMode          IsolatedUserModeFlags = 1 << 2
	SecureKernelDebug       IsolatedUserModeFlags = 1 << 3 // DebugEnabled
	FirmwarePageProtection  IsolatedUserModeFlags = 1 << 4
	EncryptionKeyAvailable  IsolatedUserModeFlags = 1 << 5
	TrustletRunning         IsolatedUserModeFlags = 1 << 8
	HVCIDisableAllowed      IsolatedUserModeFlags = 1 << 9
	HardwareEnforcedVBS     IsolatedUserModeFlags = 1 << 10
	NoSecrets               IsolatedUserModeFlags = 1 << 11
	EncryptionKeyPersistent IsolatedUserModeFlags = 1 << 12
	HardwareEnforcedHVPT    IsolatedUserModeFlags = 1 << 13
	HardwareHVPTAvailable   IsolatedUserModeFlags = 1 << 14
	EncryptionKeyTPMBound   IsolatedUserModeFlags = 1 << 16
)

// isolatedUserModeBits has the flags with their names in Windows and what each says when it
// is set; what it says when it is not, if that is worth a word.
var isolatedUserModeBits = [...]struct {
	flag     IsolatedUserModeFlags
	name     string
	set, not string
}{
	{SecureKernelRunning, "SecureKernelRunning", "the secure kernel runs: virtualization-based security is on", "no secure kernel runs: virtualization-based security is off"},
	{HVCIEnabled, "HvciEnabled", "the hypervisor enforces the integrity of kernel code (memory integrity)", "the integrity of kernel code is not enforced"},
	{HVCIStrictMode, "HvciStrictMode", "memory integrity is strict", ""},
	{SecureKernelDebug, "DebugEnabled", "the secure kernel can be debugged: nothing in VTL1 is secret from a debugger", ""},
	{FirmwarePageProtection, "FirmwarePageProtection", "pages of UEFI runtime firmware are protected: code is not writable, data not executable", ""},
	{EncryptionKeyAvailable, "EncryptionKeyAvailable", "VTL1 has its encryption key", ""},
	{TrustletRunning, "TrustletRunning", "the trustlet that was asked about runs", ""},
	{HVCIDisableAllowed, "HvciDisableAllowed", "memory integrity may be switched off", ""},
	{HardwareEnforcedVBS, "HardwareEnforcedVbs", "the platform's security features are required for virtualization-based security", ""},
	{NoSecrets, "NoSecrets", "VTL1 keeps no secrets on this machine", ""},
	{EncryptionKeyPersistent, "EncryptionKeyPersistent", "the encryption key outlives a restart", ""},
	{HardwareEnforcedHVPT, "HardwareEnforcedHvpt", "the processor enforces paging as VTL1 has set it up (HVPT)", ""},
	{HardwareHVPTAvailable, "HardwareHvptAvailable", "the processor can enforce paging as VTL1 has set it up (HVPT)", ""},
	{EncryptionKeyTPMBound, "EncryptionKeyTpmBound", "the encryption key is bound to the TPM", ""},
}

// AppendBinary appends the 16 bytes. There is never an error.
func (i IsolatedUserMode) AppendBinary(b []byte) ([]byte, error) {
	b = binary.LittleEndian.AppendUint64(b, uint64(i.Flags))
	return binary.LittleEndian.AppendUint64(b, i.Spare), nil
}

// UnmarshalBinary reads 16 bytes.
func (i *IsolatedUserMode) UnmarshalBinary(b []byte) error {
	if len(b) != IsolatedUserModeSize {
		return fmt.Errorf("ium: %d bytes are no SYSTEM_ISOLATED_USER_MODE_INFORMATION: it is 16 bytes long", len(b))
	}
	i.Flags, i.Spare = IsolatedUserModeFlags(binary.LittleEndian.Uint64(b)), binary.LittleEndian.Uint64(b[8:])
	return nil
}

// Meaning returns what the information says of the machine, a sentence each, and what does not
// fit together.
func (i IsolatedUserMode) Meaning() (says, odd []string) {
	known := IsolatedUserModeFlags(0)
	for _, b := range isolatedUserModeBits {
		known |= b.flag
		switch {
		case i.Flags&b.flag != 0:
			says = append(says, b.set)
		case b.not != "":
			says = append(says, b.not)
		}
	}
	for _, need := range []struct{ flag, needs IsolatedUserModeFlags }{
		{HVCIEnabled | HVCIStrictMode | SecureKernelDebug | TrustletRunning | EncryptionKeyAvailable, SecureKernelRunning},
		{HVCIStrictMode, HVCIEnabled},
		{EncryptionKeyPersistent | EncryptionKeyTPMBound, EncryptionKeyAvailable},
		{HardwareEnforcedHVPT, HardwareHVPTAvailable},
	} {
		if have := i.Flags & need.flag; have != 0 && i.Flags&need.needs == 0 {
			odd = append(odd, fmt.Sprintf("%v without %v", have, need.needs))
		}
	}
	if unknown := i.Flags &^ known; unknown != 0 {
		odd = append(odd, fmt.Sprintf("bits %#x have no known meaning", uint64(unknown)))
	}
	if i.Spare != 0 {
		odd = append(odd, fmt.Sprintf("the spare word is %#x, not 0", i.Spare))
	}
	return says, odd
}

// Has reports whether all of flags are set.
func (f IsolatedUserModeFlags) Has(flags IsolatedUserModeFlags) bool { return f&flags == flags }

// String returns the names of the flags in Windows, separated by commas, and "none" if none is
// set. Others come out as "reserved 0x...".
func (f IsolatedUserModeFlags) String() string {
	var all []string
	for _, b := range isolatedUserModeBits {
		if f&b.flag != 0 {
			all = append(all, b.name)
			f &^= b.flag
		}
	}
	if f != 0 {
		all = append(all, "reserved 0x"+strconv.FormatUint(uint64(f), 16))
	}
	if len(all) == 0 {
		return "none"
	}
	return strings.Join(all, ", ")
}

// ParseIsolatedUserModeFlags reads what String prints, in any order and without regard to
// case, or a number of 64 bits.
func ParseIsolatedUserModeFlags(text string) (IsolatedUserModeFlags, error) {
	text = strings.TrimSpace(text)
	if v, err := strconv.ParseUint(text, 0, 64); err == nil {
		return IsolatedUserModeFlags(v), nil
	}
	var f IsolatedUserModeFlags
	if strings.EqualFold(text, "none") {
		return f, nil
	}
words:
	for word := range strings.SplitSeq(text, ",") {
		for _, b := range isolatedUserModeBits {
			if names.Squeeze(b.name) == names.Squeeze(word) {
				f |= b.flag
				continue words
			}
		}
		number, ok := strings.CutPrefix(strings.ToLower(strings.TrimSpace(word)), "reserved ")
		v, err := strconv.ParseUint(strings.TrimSpace(number), 0, 64)
		if !ok || err != nil {
			return 0, fmt.Errorf("ium: no flag of isolated user mode is named %.80q: use names such as SecureKernelRunning, HvciEnabled, separated by commas, or a number", strings.TrimSpace(word))
		}
		f |= IsolatedUserModeFlags(v)
	}
	return f, nil
}

// MarshalText returns what String does.
func (f IsolatedUserModeFlags) MarshalText() ([]byte, error) { return []byte(f.String()), nil }

// UnmarshalText reads what ParseIsolatedUserModeFlags does.
func (f *IsolatedUserModeFlags) UnmarshalText(text []byte) (err error) {
	*f, err = ParseIsolatedUserModeFlags(string(text))
	return err
}
