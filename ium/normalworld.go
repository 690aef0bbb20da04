package ium

import (
	"encoding/binary"
	"fmt"
)

// What VTL0 sees of a process: bits of Flags of PROCESS_EXTENDED_BASIC_INFORMATION, which
// NtQueryInformationProcess gives for ProcessBasicInformation (phnt, ntpsapi.h).
const (
	ProcessIsSecure     = 1 << 7 // IsSecureProcess: a trustlet
	ProcessIsTrustedApp = 1 << 9 // IsTrustedApp: since Windows 11 24H2
)

// EventProvider is the event provider Microsoft-Windows-IsolatedUserMode, which tells in the
// System log of trustlets that start and stop (its manifest, as public collections have it).
var EventProvider = GUID{0xb2, 0x3a, 0xa3, 0x73, 0x66, 0x19, 0x99, 0x49, 0x8a, 0xdd, 0x86, 0x8c, 0x41, 0x41, 0x52, 0x69}

// Events of [EventProvider]. Those with the numbers 3 and 4 are in the manifest, too; what
// they tell of, no public source says.
const (
	EventStartedOld = 1 // started: TrustletIdentity, NormalProcessId, Status, ImageName
	EventStopped    = 2 // stopped: TrustletIdentity, NormalProcessId, Status
	EventStarted    = 5 // started, in logs of newer builds
)

// EnclaveCreateInfoSize is the size of [EnclaveCreateInfo] in bytes.
const EnclaveCreateInfoSize = 36

// EnclaveCreateDebug is the flag of [EnclaveCreateInfo] that lets the enclave be debugged:
// ENCLAVE_VBS_FLAG_DEBUG. Its image must allow that, too: [EnclaveDebuggable].
const EnclaveCreateDebug = 1 << 0

// EnclaveCreateInfo is what CreateEnclave is given for a VBS enclave, whose type is 0x10:
// ENCLAVE_CREATE_INFO_VBS (winnt.h of the Windows SDK 10.0.26100; Microsoft Learn).
type EnclaveCreateInfo struct {
	Flags   uint32 // bytes 0 to 3: 0 or EnclaveCreateDebug
	OwnerID [32]byte
}

// AppendBinary appends the 36 bytes. There is never an error.
func (e EnclaveCreateInfo) AppendBinary(b []byte) ([]byte, error) {
	return append(binary.LittleEndian.AppendUint32(b, e.Flags), e.OwnerID[:]...), nil
}

// UnmarshalBinary reads 36 bytes.
func (e *EnclaveCreateInfo) UnmarshalBinary(b []byte) error {
	if len(b) != EnclaveCreateInfoSize {
		return fmt.Errorf("ium: %d bytes are no ENCLAVE_CREATE_INFO_VBS: it is %d bytes long", len(b), EnclaveCreateInfoSize)
	}
	e.Flags, e.OwnerID = binary.LittleEndian.Uint32(b), [32]byte(b[4:])
	return nil
}
