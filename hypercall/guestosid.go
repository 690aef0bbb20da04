package hypercall

import (
	"fmt"
	"strconv"
	"strings"
)

// A GuestOSID is how a guest says what it is, in [MSRGuestOSID]. While it is 0, there is
// no hypercall page (TLFS, "Hypercall Interface", reporting the guest OS identity).
//
// Proprietary systems:
//
//	 63  62      48 47    40 39   32 31   24 23     16 15     0
//	┌───┬──────────┬────────┬───────┬───────┬─────────┬────────┐
//	│ 0 │  vendor  │  OS ID │ major │ minor │ service │ build  │
//	└───┴──────────┴────────┴───────┴───────┴─────────┴────────┘
//
// Open source systems:
//
//	 63  62   56 55    48 47                      16 15      0
//	┌───┬───────┬────────┬──────────────────────────┬─────────┐
//	│ 1 │  type │  OS ID │          version         │  build  │
//	└───┴───────┴────────┴──────────────────────────┴─────────┘
type GuestOSID uint64

// GuestOSIDOpenSource is the bit of open source systems.
const GuestOSIDOpenSource GuestOSID = 1 << 63

// Vendors of proprietary systems that the TLFS lists.
const (
	VendorMicrosoft  = 0x0001
	VendorHPE        = 0x0002
	VendorBlackBerry = 0x0003
	VendorLANCOM     = 0x0200
)

// OS IDs of Microsoft.
const (
	MicrosoftUndefined = iota
	MicrosoftMSDOS
	MicrosoftWindows3x
	MicrosoftWindows9x
	MicrosoftWindowsNT
	MicrosoftWindowsCE
)

// Types of open source systems that the TLFS lists.
const (
	OSLinux   = 0x1
	OSFreeBSD = 0x2
	OSXen     = 0x3
	OSIllumos = 0x4
)

var (
	vendorNames = map[uint16]string{
		VendorMicrosoft: "Microsoft", VendorHPE: "HPE", VendorBlackBerry: "BlackBerry", VendorLANCOM: "LANCOM",
	}
	microsoftNames = []string{"undefined", "MS-DOS", "Windows 3.x", "Windows 9x", "Windows NT", "Windows CE"}
	osNames        = map[uint8]string{OSLinux: "Linux", OSFreeBSD: "FreeBSD", OSXen: "Xen", OSIllumos: "illumos"}
)

// ProprietaryID returns the identity of a proprietary system. Of vendor the low 15
// bits are taken.
func ProprietaryID(vendor uint16, os, major, minor, service uint8, build uint16) GuestOSID {
	return GuestOSID(vendor&0x7fff)<<48 | GuestOSID(os)<<40 | GuestOSID(major)<<32 | GuestOSID(minor)<<24 | GuestOSID(service)<<16 | GuestOSID(build)
}

// OpenSourceID returns the identity of an open source system. Of typ the low 7 bits
// are taken.
func OpenSourceID(typ, os uint8, version uint32, build uint16) GuestOSID {
	return GuestOSIDOpenSource | GuestOSID(typ&0x7f)<<56 | GuestOSID(os)<<48 | GuestOSID(version)<<16 | GuestOSID(build)
}

// OpenSource reports whether the identity has the form of open source systems: bit 63.
func (g GuestOSID) OpenSource() bool { return g&GuestOSIDOpenSource != 0 }

// Build returns bits 15:0: the build number, which an open source distribution gives a
// meaning of its own.
func (g GuestOSID) Build() uint16 { return uint16(g) }

// OSID returns the variant: bits 55:48 of an open source system, bits 47:40 of
// others.
func (g GuestOSID) OSID() uint8 {
	if g.OpenSource() {
		return uint8(g >> 48)
	}
	return uint8(g >> 40)
}

// Version returns the version: of an open source system bits 47:16, of others the major,
// minor and service version from the top down, bits 39:16.
func (g GuestOSID) Version() uint32 {
	if g.OpenSource() {
		return uint32(g >> 16)
	}
	return uint32(g>>16) & 0xffffff
}

// Vendor returns the vendor of a proprietary system, bits 62:48, and 0 for an open
// source system.
func (g GuestOSID) Vendor() uint16 {
	if g.OpenSource() {
		return 0
	}
	return uint16(g>>48) & 0x7fff
}

// Type returns the type of an open source system, bits 62:56, and 0 for others.
func (g GuestOSID) Type() uint8 {
	if !g.OpenSource() {
		return 0
	}
	return uint8(g>>56) & 0x7f
}

// Major returns the major version of a proprietary system: bits 39:32.
func (g GuestOSID) Major() uint8 { return uint8(g.Version() >> 16) }

// Minor returns the minor version of a proprietary system: bits 31:24.
func (g GuestOSID) Minor() uint8 { return uint8(g.Version() >> 8) }

// Service returns the service version of a proprietary system: bits 23:16.
func (g GuestOSID) Service() uint8 { return uint8(g.Version()) }

// String returns the parts with the names that the TLFS has:
// "Microsoft Windows NT 10.0 service 0 build 22621", or for open source systems
// "Linux version 0x60100 OS 0 build 0". 0 is "none".
func (g GuestOSID) String() string {
	if g == 0 {
		return "none"
	}
	if g.OpenSource() {
		name, ok := osNames[g.Type()]
		if !ok {
			name = fmt.Sprintf("type(0x%x)", g.Type())
		}
		return fmt.Sprintf("%s version 0x%x OS %d build %d", name, g.Version(), g.OSID(), g.Build())
	}
	vendor, ok := vendorNames[g.Vendor()]
	if !ok {
		vendor = fmt.Sprintf("vendor(0x%x)", g.Vendor())
	}
	os := "OS " + strconv.Itoa(int(g.OSID()))
	if g.Vendor() == VendorMicrosoft && int(g.OSID()) < len(microsoftNames) {
		os = microsoftNames[g.OSID()]
	}
	return fmt.Sprintf("%s %s %d.%d service %d build %d", vendor, os, g.Major(), g.Minor(), g.Service(), g.Build())
}

// ParseGuestOSID reads what String prints, or a number of 64 bits.
func ParseGuestOSID(s string) (GuestOSID, error) {
	s = strings.TrimSpace(s)
	if n, err := strconv.ParseUint(s, 0, 64); err == nil {
		return GuestOSID(n), nil
	}
	if s == "none" {
		return 0, nil
	}
	if g, ok := parseOpenSource(s); ok && g.String() == s {
		return g, nil
	}
	if g, ok := parseProprietary(s); ok && g.String() == s {
		return g, nil
	}
	return 0, fmt.Errorf("hypercall: %.80q is no identity of a guest: write it as \"Linux version 0x60100 OS 0 build 0\" or \"Microsoft Windows NT 10.0 service 0 build 22621\", or as a number of 64 bits", s)
}

func parseOpenSource(s string) (GuestOSID, bool) {
	name, rest, _ := strings.Cut(s, " ")
	typ, ok := parseNamed(name, "type(", osNames)
	var version uint32
	var os uint8
	var build uint16
	_, err := fmt.Sscanf(rest, "version 0x%x OS %d build %d", &version, &os, &build)
	return OpenSourceID(typ, os, version, build), ok && err == nil
}

func parseProprietary(s string) (GuestOSID, bool) {
	name, rest, _ := strings.Cut(s, " ")
	vendor, ok := parseNamed(name, "vendor(", vendorNames)
	os, found := uint8(0), false
	if vendor == VendorMicrosoft {
		for i, name := range microsoftNames {
			if after, ok := strings.CutPrefix(rest, name+" "); ok {
				os, rest, found = uint8(i), after, true
			}
		}
	}
	if !found {
		if _, err := fmt.Sscanf(rest, "OS %d", &os); err != nil {
			return 0, false
		}
		rest = strings.TrimPrefix(rest, "OS "+strconv.Itoa(int(os))+" ")
	}
	var major, minor, service uint8
	var build uint16
	_, err := fmt.Sscanf(rest, "%d.%d service %d build %d", &major, &minor, &service, &build)
	return ProprietaryID(vendor, os, major, minor, service, build), ok && err == nil
}

// parseNamed reads a name, or a number behind prefix.
func parseNamed[T uint8 | uint16](s, prefix string, list map[T]string) (T, bool) {
	for v, name := range list {
		if name == s {
			return v, true
		}
	}
	n, err := parseNumber(s, prefix, 15)
	return T(n), err == nil
}

// MarshalText returns what String does.
func (g GuestOSID) MarshalText() ([]byte, error) { return []byte(g.String()), nil }

// UnmarshalText reads what ParseGuestOSID does.
func (g *GuestOSID) UnmarshalText(text []byte) error { return unmarshal(g, ParseGuestOSID, text) }
