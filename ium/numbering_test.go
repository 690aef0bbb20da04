package ium_test

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/govtx/vtx/ium"
)

var numberings = []*ium.Numbering{ium.SecureServices(), ium.SystemCalls()}

// The tables are sound: one number for a name, one service for a number, and as many of each
// as the sources list.
func TestNumberingTables(t *testing.T) {
	counts := map[*ium.Numbering]map[ium.WindowsBuild]int{
		ium.SecureServices(): {
			ium.Build16299: 103, ium.Build17134: 104, ium.Build17134ARM64: 105, ium.Build17763First: 116, ium.Build17763: 115,
			ium.Build18362: 121, ium.Build19041: 128, ium.Build21292: 140, ium.Build22000: 141,
		},
		ium.SystemCalls(): {ium.Build19041: 24, ium.Build25276: 24, ium.Build27823: 25},
	}
	for _, n := range numberings {
		require.Len(t, n.Builds(), len(counts[n]))
		require.True(t, slices.IsSorted(n.Builds()))
		for _, b := range n.Builds() {
			all, err := n.All(b)
			require.NoError(t, err)
			require.Len(t, all, counts[n][b], "%v", b)
			numbers, seen := map[uint32]bool{}, map[string]bool{}
			last := uint32(0)
			for _, r := range all {
				require.GreaterOrEqual(t, r.Number, last)
				last = r.Number
				require.False(t, seen[r.Name], "%v: %s", b, r.Name)
				seen[r.Name] = true
				if !r.Marker {
					require.False(t, numbers[r.Number], "%v: %#x", b, r.Number)
					numbers[r.Number] = true
					name, err := n.NameOf(b, r.Number)
					require.NoError(t, err)
					require.Equal(t, r.Name, name)
				}
				number, err := n.NumberOf(b, r.Name)
				require.NoError(t, err)
				require.Equal(t, r.Number, number)
			}
		}
	}
}

// An enumeration of Microsoft's has no gaps but behind its ranges, and does not change its
// order from one build to the next: so a number that is wrong in one place shows.
func TestNumberingOrder(t *testing.T) {
	for _, n := range numberings {
		var before map[string]uint32
		for _, b := range n.Builds() {
			all, err := n.All(b)
			require.NoError(t, err)
			numbers, used, last := map[string]uint32{}, map[uint32]bool{}, uint32(0)
			for _, r := range all {
				numbers[r.Name], used[r.Number] = r.Number, true
				alone := r.Number == ium.FirstSystemCall || r.Name == "SECURESERVICE_BUGCHECK" || r.Name == "SECURESERVICE_LIMITED_MODE_SERVICE_START"
				require.True(t, r.Marker || alone || used[r.Number-1], "%v: nothing is in front of %s, %#x", b, r.Name, r.Number)
				if was, ok := before[r.Name]; ok && !r.Marker {
					require.GreaterOrEqual(t, was, last, "%v: %s", b, r.Name)
					last = was
				}
			}
			before = numbers
		}
	}
}

// The services of build 18362 are those that commial/experiments has in
// debugging-secure-kernel/log_securecalls/sknums.json, of which this is the sum.
func TestNumberingSum(t *testing.T) {
	all, err := ium.SecureServices().All(ium.Build18362)
	require.NoError(t, err)
	sum := sha256.New()
	for _, r := range all {
		fmt.Fprintf(sum, "%d %s\n", r.Number, r.Name)
	}
	require.Equal(t, "72145ee6be0e06a86eb5c4ca404425cf98d6659c820d255057f33e43f3fa5558", hex.EncodeToString(sum.Sum(nil)))
}

// Numbers as independent sources have them: analyses of the secure kernel that are not where
// the tables are from.
func TestNumberingWitnesses(t *testing.T) {
	services, calls := ium.SecureServices(), ium.SystemCalls()
	for _, tc := range []struct {
		n      *ium.Numbering
		build  ium.WindowsBuild
		number uint32
		name   string
	}{
		{services, ium.Build17134, 5, "SECURESERVICE_CREATE_PROCESS"}, // IntroVirt
		{services, ium.Build17134, 0xf6, "SECURESERVICE_KSR_CALL"},
		{services, ium.Build18362, 0xc, "SECURESERVICE_DEBUG_PROCESS"}, // commial/experiments
		{services, ium.Build18362, 0xd6, "SECURESERVICE_INITIALIZE_KERNEL_CFG"},
		{services, ium.Build19041, 0x100, "SECURESERVICE_QUERY_SPECULATION_CONTROL_FEATURES"}, // Pdb-Magician
		{services, ium.Build17763First, 223, "SECURESERVICE_UPDATE_IMPORT_RELOCATIONS"},       // not the marker of that number
		{services, ium.Build17763, 223, "SECURESERVICE_DISPATCH_LEVEL_FIRST"},
		{calls, ium.Build19041, 0x8000005, "IumCrypto"}, // stubs of iumdll
		{calls, ium.Build27823, 0x8000016, "IumUnmapSecureIo"},
		{calls, ium.Build27823, 0x8000018, "IumEnclaveUsesAttestedKeys"},
	} {
		name, err := tc.n.NameOf(tc.build, tc.number)
		require.NoError(t, err)
		require.Equal(t, tc.name, name)
	}
	all, err := calls.All(ium.Build27823)
	require.NoError(t, err)
	for i, r := range all {
		require.EqualValues(t, ium.FirstSystemCall+i, r.Number)
	}
}

func TestNumberingNames(t *testing.T) {
	services := ium.SecureServices()
	for _, name := range []string{"SECURESERVICE_CREATE_PROCESS", "create process", "CREATE-PROCESS", "SecureServiceCreateProcess"} {
		number, err := services.NumberOf(ium.Build22000, name)
		require.NoError(t, err)
		require.EqualValues(t, 6, number)
		full, err := services.Name(name)
		require.NoError(t, err)
		require.Equal(t, "SECURESERVICE_CREATE_PROCESS", full)
	}
	number, err := ium.SystemCalls().NumberOf(ium.Build19041, "crypto")
	require.NoError(t, err)
	require.EqualValues(t, 0x8000005, number)
}

func TestNumberingErrors(t *testing.T) {
	services, calls := ium.SecureServices(), ium.SystemCalls()
	for _, tc := range []struct {
		err  error
		want []string
	}{
		{second(services.NameOf(ium.Build25276, 1)), []string{"the numbers of the secure services of build 25276 are not known", "16299", "22000"}},
		{second(calls.NameOf(ium.Build16299, 1)), []string{"IUM system calls of build 16299", "19041, 25276, 27823"}},
		{second(services.NameOf(99, 1)), []string{"build WindowsBuild(99)"}},
		{second(services.NameOf(ium.Build22000, 100)), []string{"number 0x64 is not in use among the secure services of build 22000"}},
		{second(services.NumberOf(ium.Build16299, "FINISH_START_PROCESSOR")), []string{"build 16299 has no SECURESERVICE_FINISH_START_PROCESSOR", "17763.1, 17763, 18362, 19041, 21292, 22000"}},
		{second(services.NumberOf(ium.Build16299, "retpoline")), []string{"there are SECURESERVICE_INITIALIZE_RETPOLINE", "PERFORM_RETPOLINE_RELOCATIONS"}},
		{second(services.NumberOf(ium.Build16299, "")), []string{`none of the secure services of any build is named ""`}},
		{second(services.NumberOf(ium.Build16299, strings.Repeat("x", 1000))), []string{"xxx"}},
		{second(services.NumberOf(ium.Build27823, "NONE")), []string{"not known"}},
		{second(services.Name("nothing like it")), []string{"none of the secure services"}},
		{second(services.Differences(ium.Build16299, ium.Build27823)), []string{"build 27823"}},
		{second(services.Differences(ium.Build27823, ium.Build16299)), []string{"build 27823"}},
		{second(services.All(ium.Build27823)), []string{"build 27823"}},
	} {
		require.Error(t, tc.err)
		for _, s := range tc.want {
			require.ErrorContains(t, tc.err, s)
		}
		require.Less(t, len(tc.err.Error()), 400)
	}
}

func second[T any](_ T, err error) error { return err }

func TestNameError(t *testing.T) {
	var unknown *ium.NameError
	require.ErrorAs(t, second(ium.SecureServices().NumberOf(ium.Build22000, "retpoline")), &unknown)
	require.Equal(t, "retpoline", unknown.Name)
	require.Contains(t, unknown.Alike, "SECURESERVICE_INITIALIZE_RETPOLINE")
	require.ErrorAs(t, second(ium.SystemCalls().Name("Ium")), &unknown)
	require.Empty(t, unknown.Alike) // all are
	require.False(t, errors.As(second(ium.SecureServices().NumberOf(ium.Build25276, "NONE")), &unknown))
}

func TestDifferences(t *testing.T) {
	services := ium.SecureServices()
	none, err := services.Differences(ium.Build22000, ium.Build22000)
	require.NoError(t, err)
	require.Empty(t, none)

	got, err := services.Differences(ium.Build17763First, ium.Build17763)
	require.NoError(t, err)
	require.Equal(t, []ium.Renumbered{
		{Name: "SECURESERVICE_PERFORM_RETPOLINE_RELOCATIONS", Old: 222, New: 221},
		{Name: "SECURESERVICE_UPDATE_IMPORT_RELOCATIONS", Old: 223, New: 222},
		{Name: "SECURESERVICE_SET_RETPOLINE_PFN", Old: 221, New: -1},
	}, got)

	got, err = ium.SystemCalls().Differences(ium.Build25276, ium.Build27823)
	require.NoError(t, err)
	require.Equal(t, []ium.Renumbered{{Name: "IumEnclaveUsesAttestedKeys", Old: -1, New: 0x8000018}}, got)

	// The differences turn one build's table into the other's.
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.SampledFrom(numberings).Draw(t, "table")
		build := rapid.SampledFrom(n.Builds())
		from, to := build.Draw(t, "from"), build.Draw(t, "to")
		diff, err := n.Differences(from, to)
		require.NoError(t, err)
		have := numbersByName(t, n, from)
		for _, d := range diff {
			old, ok := have[d.Name]
			require.Equal(t, d.Old >= 0, ok)
			require.True(t, !ok || int64(old) == d.Old)
			delete(have, d.Name)
			if d.New >= 0 {
				have[d.Name] = uint32(d.New)
			}
		}
		require.Equal(t, numbersByName(t, n, to), have)
	})
}

func numbersByName(t require.TestingT, n *ium.Numbering, b ium.WindowsBuild) map[string]uint32 {
	all, err := n.All(b)
	require.NoError(t, err)
	m := map[string]uint32{}
	for _, r := range all {
		m[r.Name] = r.Number
	}
	return m
}

func TestParseWindowsBuild(t *testing.T) {
	for text, want := range map[string]ium.WindowsBuild{
		"19041": ium.Build19041, " 19041 ": ium.Build19041, "19041.1": ium.Build19041, "10.0.19041.928": ium.Build19041, "10.0.19045.3000": ium.Build19041,
		"1709": ium.Build16299, "1909": ium.Build18362, "18363": ium.Build18362, "20H2": ium.Build19041, "Windows 10 22H2": ium.Build19041,
		"windows 11 21h2": ium.Build22000, "version 1903": ium.Build18362, "Windows 10 1809": ium.Build17763, "17763": ium.Build17763,
		"17763.1": ium.Build17763First, "10.0.17763.1": ium.Build17763First, "17763.316": ium.Build17763, "17763.5000": ium.Build17763,
		"17134-ARM64": ium.Build17134ARM64,
	} {
		got, err := ium.ParseWindowsBuild(text)
		require.NoError(t, err, text)
		require.Equal(t, want, got, text)
	}
	for text, want := range map[string]string{
		"":      "use one of 16299, 17134, 17134-arm64, 17763.1, 17763, 18362, 19041, 21292, 22000, 25276, 27823",
		"22621": "use one of", "21H2": "use one of", "19041.x": "use one of", "19041.99999": "use one of", "1.2.3.4": "use one of",
		"17763.2": "it is not known which numbers 17763.2 has", "10.0.17763.315": "ask for 17763.1 or 17763",
	} {
		_, err := ium.ParseWindowsBuild(text)
		require.ErrorContains(t, err, want, text)
	}
	seen := map[ium.WindowsBuild]bool{}
	for _, n := range numberings {
		for _, b := range n.Builds() {
			seen[b] = true
			text, err := b.MarshalText()
			require.NoError(t, err)
			var back ium.WindowsBuild
			require.NoError(t, back.UnmarshalText(text))
			require.Equal(t, b, back)
			require.NotEmpty(t, b.Version())
			require.NotEmpty(t, b.Sources())
		}
	}
	require.Len(t, seen, 11, "a build without a table")
	require.Equal(t, "WindowsBuild(200)", ium.WindowsBuild(200).String())
	require.Empty(t, ium.WindowsBuild(200).Version()+ium.WindowsBuild(200).Sources())
	require.Error(t, new(ium.WindowsBuild).UnmarshalText([]byte("200")))
	rapid.Check(t, func(t *rapid.T) {
		_, _ = ium.ParseWindowsBuild(rapid.String().Draw(t, "text")) // no panic
	})
}
