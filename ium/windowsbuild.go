package ium

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/govtx/vtx/internal/names"
)

// A WindowsBuild is a build of Windows that numbers of secure services or of system calls
// are known for. Builds are for x64 unless they say otherwise. An update can renumber the
// services within a build: Build17763First is one that was.
type WindowsBuild uint8

// Builds, in the order of their numbers.
const (
	Build16299      WindowsBuild = iota // Windows 10 1709
	Build17134                          // Windows 10 1803
	Build17134ARM64                     // Windows 10 1803, ARM64
	Build17763First                     // Windows 10 1809 as first released
	Build17763                          // Windows 10 1809 from revision 316 on
	Build18362                          // Windows 10 1903 and 1909
	Build19041                          // Windows 10 2004 to 22H2
	Build21292                          // Windows 10 preview
	Build22000                          // Windows 11 21H2
	Build25276                          // Windows 11 preview
	Build27823                          // Windows 11 preview
	numBuilds
)

// A buildRow is what is known about a build.
type buildRow struct {
	name    string
	version string
	sources string // by ", "
}

// The versions are those of Microsoft's release information pages.
var buildTable = [numBuilds]buildRow{
	Build16299:      {"16299", "Windows 10 1709", "SymStore 10.0.16299.15 to .1146, ntdiff"},
	Build17134:      {"17134", "Windows 10 1803", "SymStore 10.0.17134.1 to .799, ntdiff, IntroVirt"},
	Build17134ARM64: {"17134-arm64", "Windows 10 1803, ARM64", "SymStore 10.0.17134.619"},
	Build17763First: {"17763.1", "Windows 10 1809 as first released", "SymStore 10.0.17763.1"},
	Build17763:      {"17763", "Windows 10 1809 from revision 316 on", "SymStore 10.0.17763.316 to .529"},
	Build18362:      {"18362", "Windows 10 1903 and 1909", "SymStore 10.0.18362.30 to .418, commial/experiments"},
	Build19041:      {"19041", "Windows 10 2004 to 22H2", "SymStore 10.0.19041.264 to .928, Pdb-Magician; SyscallTables 19045, stubs of iumdll"},
	Build21292:      {"21292", "Windows 10 preview", "ntdiff"},
	Build22000:      {"22000", "Windows 11 21H2", "SymStore 10.0.22000.194"},
	Build25276:      {"25276", "Windows 11 preview", "SyscallTables"},
	Build27823:      {"27823", "Windows 11 preview", "SyscallTables; stubs of iumdll for ARM64, in part"},
}

// sameKernel has other ways to say a build: builds that are another one with features
// switched on, and the names of releases.
var sameKernel = map[string]WindowsBuild{
	"1709": Build16299, "1803": Build17134, "1809": Build17763, "1903": Build18362, "1909": Build18362, "18363": Build18362,
	"2004": Build19041, "20h2": Build19041, "21h1": Build19041, "19042": Build19041, "19043": Build19041, "19044": Build19041, "19045": Build19041,
	"windows1021h2": Build19041, "windows1022h2": Build19041, "windows1121h2": Build22000,
}

// String returns the number, such as 19041, with the revision or the processor if there is
// another build of the number, such as 17763.1 and 17134-arm64.
func (b WindowsBuild) String() string {
	if b < numBuilds {
		return buildTable[b].name
	}
	return "WindowsBuild(" + strconv.Itoa(int(b)) + ")"
}

// Version returns the releases that have the build, such as "Windows 10 1709".
func (b WindowsBuild) Version() string {
	if b < numBuilds {
		return buildTable[b].version
	}
	return ""
}

// Sources names where the numbers of the build are from.
func (b WindowsBuild) Sources() string {
	if b < numBuilds {
		return buildTable[b].sources
	}
	return ""
}

// firstRenumbered is the first revision of 17763 that is known to have the numbers of
// Build17763. Only the first, 1, is known to have those of Build17763First.
const firstRenumbered = 316

// ParseWindowsBuild reads the number of a build, also with the revision or as a whole
// version (19041, 19041.928, 10.0.19041.928); the release (1709, 20H2, Windows 11 21H2);
// and what String prints. Builds 18363 and 19042 to 19045 are 18362 and 19041 with features
// switched on.
func ParseWindowsBuild(text string) (WindowsBuild, error) {
	plain := strings.TrimPrefix(strings.ToLower(strings.TrimSpace(text)), "10.0.")
	for b, row := range buildTable {
		if plain == row.name {
			return WindowsBuild(b), nil
		}
	}
	squeezed := names.Squeeze(plain)
	if b, ok := sameKernel[strings.TrimPrefix(squeezed, "version")]; ok {
		return b, nil
	}
	if b, ok := sameKernel[strings.TrimPrefix(squeezed, "windows10")]; ok {
		return b, nil
	}
	if number, revision, ok := strings.Cut(plain, "."); ok {
		r, err := strconv.ParseUint(revision, 10, 16)
		b, err2 := ParseWindowsBuild(number)
		switch {
		case err != nil || err2 != nil:
		case b != Build17763 || r >= firstRenumbered:
			return b, nil
		case r > 1:
			return 0, fmt.Errorf("ium: an update between 17763.1 and 17763.%d renumbered secure services; it is not known which numbers 17763.%d has: ask for 17763.1 or 17763", firstRenumbered, r)
		}
	}
	return 0, fmt.Errorf("ium: %.80q is not a build whose numbers are known: use one of %s", text, buildList(nil))
}

// buildList lists builds; nil stands for all.
func buildList(builds []WindowsBuild) string {
	var s []string
	for b := range numBuilds {
		if builds == nil || slices.Contains(builds, b) {
			s = append(s, b.String())
		}
	}
	return strings.Join(s, ", ")
}

// MarshalText returns what String does.
func (b WindowsBuild) MarshalText() ([]byte, error) { return []byte(b.String()), nil }

// UnmarshalText reads what ParseWindowsBuild does.
func (b *WindowsBuild) UnmarshalText(text []byte) (err error) {
	*b, err = ParseWindowsBuild(string(text))
	return err
}
