package ium

import (
	"fmt"
	"slices"
	"strings"

	"github.com/govtx/vtx/internal/names"
)

// A CryptoOperation is what the system call IumCrypto shall do: the first 2 bytes of the
// structure that it is given. The numbers are from one source, published disassembly of
// iumbase.dll of Windows 11; older builds may have fewer.
type CryptoOperation uint16

// Operations, each named like the function of iumbase.dll that asks for it.
const (
	CryptoEncryptData CryptoOperation = iota
	CryptoDecryptData
	CryptoDecryptISKBoundData
	CryptoGetSignedReport
	CryptoGetSeedFromIUMKernelState
	CryptoGetFIPSModeFromIUMKernelState
	CryptoGetTPMBindingInfo
	CryptoVerifyEnclaveAttestationReport
	CryptoVBSVMSysCall

	numCryptoOperations = iota
)

var cryptoOperationNames = [numCryptoOperations]string{
	"EncryptData", "DecryptData", "DecryptISKBoundData", "GetSignedReport", "GetSeedFromIumKernelState",
	"GetFipsModeFromIumKernelState", "GetTpmBindingInfo", "VerifyEnclaveAttestationReport", "VbsVmSysCall",
}

// String returns the name of the function of iumbase.dll, such as GetSignedReport.
func (o CryptoOperation) String() string {
	if o < numCryptoOperations {
		return cryptoOperationNames[o]
	}
	return fmt.Sprintf("CryptoOperation(%d)", uint16(o))
}

// MarshalText returns what String does.
func (o CryptoOperation) MarshalText() ([]byte, error) { return []byte(o.String()), nil }

// UnmarshalText takes what String returns, without regard to case, blanks and hyphens.
func (o *CryptoOperation) UnmarshalText(text []byte) error {
	n, err := parseName(string(text), "CryptoOperation", 16, cryptoOperationNames[:])
	*o = CryptoOperation(n)
	return err
}

// An IdentityKey tells which key the system call IumGetIdk returns: its first argument. The
// numbers are from the same source as those of [CryptoOperation].
type IdentityKey uint32

// Keys.
const (
	SecureIdentityKey        IdentityKey = iota // GetSecureIdentityKey of iumbase.dll
	SecureIdentitySigningKey                    // GetSecureIdentitySigningKey

	numIdentityKeys = iota
)

var identityKeyNames = [numIdentityKeys]string{"SecureIdentityKey", "SecureIdentitySigningKey"}

// String returns SecureIdentityKey or SecureIdentitySigningKey.
func (k IdentityKey) String() string {
	if k < numIdentityKeys {
		return identityKeyNames[k]
	}
	return fmt.Sprintf("IdentityKey(%d)", uint32(k))
}

// MarshalText returns what String does.
func (k IdentityKey) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// UnmarshalText takes what String returns, without regard to case, blanks and hyphens.
func (k *IdentityKey) UnmarshalText(text []byte) error {
	n, err := parseName(string(text), "IdentityKey", 32, identityKeyNames[:])
	*k = IdentityKey(n)
	return err
}

// parseName returns the index of a name, or the number in typ(number) if none has it.
func parseName(s, typ string, bits int, all []string) (uint64, error) {
	if n := slices.IndexFunc(all, func(name string) bool { return names.Squeeze(name) == names.Squeeze(s) }); n >= 0 {
		return uint64(n), nil
	}
	if n, ok := parseUnknown(s, typ, bits); ok && n >= uint64(len(all)) {
		return n, nil
	}
	return 0, fmt.Errorf("%.64q is none of %s", s, strings.Join(all, ", "))
}
