package ium

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/govtx/vtx/internal/names"
)

// A SigningLevel is what code integrity takes an image for: SE_SIGNING_LEVEL_*, 0 to 15
// (winnt.h of the Windows SDK 10.0.26100). Trustlets have [SigningWindows] or more
// (Windows Internals 7, part 1, chapter 3).
type SigningLevel uint8

// Signing levels.
const (
	SigningUnchecked SigningLevel = iota
	SigningUnsigned
	SigningEnterprise
	SigningDeveloper // also SE_SIGNING_LEVEL_CUSTOM_1
	SigningAuthenticode
	SigningCustom2
	SigningStore
	SigningAntimalware // also SE_SIGNING_LEVEL_CUSTOM_3
	SigningMicrosoft
	SigningCustom4
	SigningCustom5
	SigningDynamicCodegen
	SigningWindows
	SigningCustom7
	SigningWindowsTCB
	SigningCustom6

	numSigningLevels = iota
)

// levelNames are those of the header without SE_SIGNING_LEVEL_, and a second one.
var levelNames = [numSigningLevels][2]string{
	SigningUnchecked:      {"Unchecked"},
	SigningUnsigned:       {"Unsigned"},
	SigningEnterprise:     {"Enterprise"},
	SigningDeveloper:      {"Developer", "Custom 1"},
	SigningAuthenticode:   {"Authenticode"},
	SigningCustom2:        {"Custom 2"},
	SigningStore:          {"Store"},
	SigningAntimalware:    {"Antimalware", "Custom 3"},
	SigningMicrosoft:      {"Microsoft"},
	SigningCustom4:        {"Custom 4"},
	SigningCustom5:        {"Custom 5"},
	SigningDynamicCodegen: {"Dynamic Codegen"},
	SigningWindows:        {"Windows"},
	SigningCustom7:        {"Custom 7"},
	SigningWindowsTCB:     {"Windows TCB"},
	SigningCustom6:        {"Custom 6"},
}

// String returns the name, such as Windows TCB.
func (l SigningLevel) String() string {
	if l < numSigningLevels {
		return levelNames[l][0]
	}
	return fmt.Sprintf("SigningLevel(%#x)", uint8(l))
}

// ParseSigningLevel reads what String prints, the names of winnt.h, and numbers from 0
// to 15.
func ParseSigningLevel(s string) (SigningLevel, error) {
	if n, err := strconv.ParseUint(s, 0, 8); err == nil && n < numSigningLevels {
		return SigningLevel(n), nil
	}
	if n, ok := parseUnknown(s, "SigningLevel", 8); ok && n >= numSigningLevels {
		return SigningLevel(n), nil
	}
	want := strings.TrimPrefix(names.Squeeze(s), "sesigninglevel")
	for l, all := range levelNames {
		for _, name := range all {
			if name != "" && names.Squeeze(name) == want {
				return SigningLevel(l), nil
			}
		}
	}
	return 0, fmt.Errorf("unknown signing level %q: give a number from 0 to 15 or a name such as Windows TCB", s)
}

// MarshalText returns what String does.
func (l SigningLevel) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

// UnmarshalText takes what ParseSigningLevel does.
func (l *SigningLevel) UnmarshalText(text []byte) (err error) {
	*l, err = ParseSigningLevel(string(text))
	return err
}

// parseUnknown reads what String methods print of values without a name: Type(0x12).
func parseUnknown(s, typ string, bits int) (uint64, bool) {
	inner, found := strings.CutPrefix(s, typ+"(")
	inner, closed := strings.CutSuffix(inner, ")")
	n, err := strconv.ParseUint(inner, 0, bits)
	return n, found && closed && err == nil
}

// An EKU is an extended key usage of a certificate: an object identifier in digits and
// dots, such as 1.3.6.1.5.5.7.3.3.
type EKU string

// Extended key usages that matter to trustlets and enclaves (wincrypt.h; the last two:
// the development guide for VBS enclaves).
const (
	EKUCodeSigning     EKU = "1.3.6.1.5.5.7.3.3"
	EKUSystemComponent EKU = "1.3.6.1.4.1.311.10.3.6"  // Windows System Component Verification
	EKUWindowsTCB      EKU = "1.3.6.1.4.1.311.10.3.23" // Windows TCB Component
	EKUIUM             EKU = "1.3.6.1.4.1.311.10.3.37" // Isolated User Mode: trustlets
	EKUBiometric       EKU = "1.3.6.1.4.1.311.10.3.41"
	EKUEnclave         EKU = "1.3.6.1.4.1.311.10.3.42" // enclaves
	EKUVBSEnclave      EKU = "1.3.6.1.4.1.311.76.57.1.15"

	// EKUAuthorArc is what the EKU that names the author of an enclave begins with:
	// its Author ID follows from the whole.
	EKUAuthorArc EKU = "1.3.6.1.4.1.311.97."
)

// An ekuRow says what is known of an EKU. A level that is not 0 is the one that the
// name of the EKU stands for. That code integrity goes by it is inferred from the names,
// and it is never the whole condition: the chain has to end in a root that has a part
// in the level.
type ekuRow struct {
	oid           EKU
	name, meaning string
	level         SigningLevel
	source        string
}

// Sources of rows.
const (
	fromWincrypt = "wincrypt.h, Windows SDK 10.0.26100 and MinGW-w64 10"
	fromDevGuide = "Microsoft Learn, development guide for VBS enclaves"
	fromWDAC     = "EKU list of the App Control for Business default policies"
	fromRFC5280  = "RFC 5280, 4.2.1.12"
)

// ekuRows is in the order of the identifiers.
var ekuRows = []ekuRow{
	{"1.3.6.1.4.1.311.10.3.5", "szOID_WHQL_CRYPTO", "Windows Hardware Driver Verification", 0, fromWincrypt},
	{EKUSystemComponent, "szOID_NT5_CRYPTO", "Windows System Component Verification", SigningWindows, fromWincrypt},
	{"1.3.6.1.4.1.311.10.3.13", "szOID_KP_LIFETIME_SIGNING", "Lifetime Signing", 0, fromWincrypt},
	{"1.3.6.1.4.1.311.10.3.21", "szOID_WINDOWS_RT_SIGNER", "Windows RT Verification", 0, fromWincrypt},
	{"1.3.6.1.4.1.311.10.3.22", "szOID_PROTECTED_PROCESS_LIGHT_SIGNER", "Protected Process Light Verification", 0, fromWincrypt},
	{EKUWindowsTCB, "szOID_WINDOWS_TCB_SIGNER", "Windows TCB Component", SigningWindowsTCB, fromWincrypt},
	{"1.3.6.1.4.1.311.10.3.24", "szOID_PROTECTED_PROCESS_SIGNER", "Protected Process Verification", 0, fromWincrypt},
	{"1.3.6.1.4.1.311.10.3.25", "szOID_WINDOWS_THIRD_PARTY_COMPONENT_SIGNER", "Windows Third Party Application Component", 0, fromWincrypt},
	{"1.3.6.1.4.1.311.10.3.26", "szOID_WINDOWS_SOFTWARE_EXTENSION_SIGNER", "Windows Software Extension Verification", 0, fromWincrypt},
	{EKUIUM, "szOID_IUM_SIGNING", "Isolated User Mode (IUM)", 0, fromWincrypt},
	{"1.3.6.1.4.1.311.10.3.39", "szOID_EV_WHQL_CRYPTO", "Windows Hardware Driver Extended Verification", 0, fromWincrypt},
	{EKUBiometric, "szOID_BIOMETRIC_SIGNING", "Biometric Signing", 0, fromWincrypt},
	{EKUEnclave, "szOID_ENCLAVE_SIGNING", "Enclave", 0, fromWincrypt},
	{"1.3.6.1.4.1.311.61.1.1", "szOID_KP_KERNEL_MODE_CODE_SIGNING", "Kernel Mode Code Signing", 0, fromWincrypt},
	{"1.3.6.1.4.1.311.61.4.1", "szOID_KP_KERNEL_MODE_TRUSTED_BOOT_SIGNING", "Early Launch Antimalware Driver", 0, fromWincrypt},
	{"1.3.6.1.4.1.311.61.5.1", "szOID_KP_KERNEL_MODE_HAL_EXTENSION_SIGNING", "HAL Extension", 0, fromWincrypt},
	{"1.3.6.1.4.1.311.76.3.1", "szOID_WINDOWS_STORE_SIGNER", "Windows Store", SigningStore, fromWincrypt},
	{"1.3.6.1.4.1.311.76.5.1", "szOID_DYNAMIC_CODE_GEN_SIGNER", "Dynamic Code Generator", SigningDynamicCodegen, fromWincrypt},
	{"1.3.6.1.4.1.311.76.8.1", "szOID_MICROSOFT_PUBLISHER_SIGNER", "Microsoft Publisher", SigningMicrosoft, fromWincrypt},
	{"1.3.6.1.4.1.311.76.11.1", "", "AntiMalware", SigningAntimalware, fromWDAC},
	{EKUVBSEnclave, "", "VBS Enclave", 0, fromDevGuide},
	{EKUCodeSigning, "szOID_PKIX_KP_CODE_SIGNING", "Code Signing", SigningAuthenticode, fromRFC5280},
	{"1.3.6.1.5.5.7.3.8", "szOID_PKIX_KP_TIMESTAMP_SIGNING", "Time Stamping", 0, fromRFC5280},
}

var authorRow = ekuRow{EKUAuthorArc, "", "Enclave Author", 0, fromDevGuide}

func (e EKU) row() *ekuRow {
	for i := range ekuRows {
		if ekuRows[i].oid == e {
			return &ekuRows[i]
		}
	}
	if strings.HasPrefix(string(e), string(EKUAuthorArc)) {
		return &authorRow
	}
	return &ekuRow{}
}

// Name returns the name in wincrypt.h, such as szOID_IUM_SIGNING, and "" if it has none
// there or is not known.
func (e EKU) Name() string { return e.row().name }

// Meaning returns what Windows shows for it, such as Isolated User Mode (IUM); "" if the
// EKU is not known.
func (e EKU) Meaning() string { return e.row().meaning }

// Source returns where the number stands; "" if the EKU is not known.
func (e EKU) Source() string { return e.row().source }

// String returns the meaning and the identifier, or only that.
func (e EKU) String() string {
	if m := e.Meaning(); m != "" {
		return m + " [" + string(e) + "]"
	}
	return string(e)
}

// ParseEKU reads an object identifier in digits and dots, what String prints, and the
// names that are known.
func ParseEKU(s string) (EKU, error) {
	if i := strings.LastIndexByte(s, '['); i >= 0 && strings.HasSuffix(s, "]") {
		s = s[i+1 : len(s)-1]
	}
	digits := len(s) > 0 && len(s) < 256 && strings.Contains(s, ".")
	for part := range strings.SplitSeq(s, ".") {
		digits = digits && part != "" && strings.Trim(part, "0123456789") == "" && (part == "0" || part[0] != '0')
	}
	if digits {
		return EKU(s), nil
	}
	for i := range ekuRows {
		row := &ekuRows[i]
		if want := names.Squeeze(s); want != "" && (want == names.Squeeze(row.name) || want == names.Squeeze(row.meaning)) {
			return row.oid, nil
		}
	}
	return "", fmt.Errorf("unknown extended key usage %q: give an object identifier such as %s, or a name such as %s", s, EKUIUM, EKUIUM.Name())
}
