package ium_test

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/govtx/vtx/ium"
)

func TestIsolatedUserMode(t *testing.T) {
	for _, tc := range []struct {
		name  string
		bytes string
		flags string
		says  []string
		odd   []string
	}{
		{"off", "0000000000000000 0000000000000000", "none", []string{"no secure kernel runs: virtualization-based security is off", "the integrity of kernel code is not enforced"}, nil},
		{"on, with memory integrity", "2301000000000000 0000000000000000", "SecureKernelRunning, HvciEnabled, EncryptionKeyAvailable, TrustletRunning", []string{"the secure kernel runs: virtualization-based security is on", "the trustlet that was asked about runs"}, nil},
		{"last flags", "2160010000000000 0000000000000000", "SecureKernelRunning, EncryptionKeyAvailable, HardwareEnforcedHvpt, HardwareHvptAvailable, EncryptionKeyTpmBound", []string{"the encryption key is bound to the TPM"}, nil},
		{"debugged", "0900000000000000 0000000000000000", "SecureKernelRunning, DebugEnabled", []string{"nothing in VTL1 is secret from a debugger"}, nil},
		{"strict alone", "0500000000000000 0000000000000000", "SecureKernelRunning, HvciStrictMode", nil, []string{"HvciStrictMode without HvciEnabled"}},
		{"without a secure kernel", "0a01000000000000 0000000000000000", "HvciEnabled, DebugEnabled, TrustletRunning", nil, []string{"HvciEnabled, DebugEnabled, TrustletRunning without SecureKernelRunning"}},
		{"persistent, but no key", "0110000000000000 0000000000000000", "SecureKernelRunning, EncryptionKeyPersistent", nil, []string{"EncryptionKeyPersistent without EncryptionKeyAvailable"}},
		{"enforced, but not there", "0120000000000000 0000000000000000", "SecureKernelRunning, HardwareEnforcedHvpt", nil, []string{"HardwareEnforcedHvpt without HardwareHvptAvailable"}},
		{"spare", "41800e0000000080 0100000000000000", "SecureKernelRunning, reserved 0x80000000000e8040", nil, []string{"bits 0x80000000000e8040 have no known meaning", "the spare word is 0x1, not 0"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var i ium.IsolatedUserMode
			require.NoError(t, i.UnmarshalBinary(bytesOf(t, tc.bytes)))
			require.Equal(t, tc.flags, i.Flags.String())
			says, odd := i.Meaning()
			require.Equal(t, tc.odd, odd)
			for _, want := range tc.says {
				require.True(t, slices.ContainsFunc(says, func(s string) bool { return s == want || len(s) > len(want) && s[len(s)-len(want):] == want }), "%q in %q", want, says)
			}
		})
	}
	for _, n := range []int{0, 8, 15, 17, 32} {
		require.ErrorContains(t, new(ium.IsolatedUserMode).UnmarshalBinary(make([]byte, n)), "16 bytes")
	}
	require.EqualValues(t, 0xa5, ium.SystemIsolatedUserModeInformation)
}

func TestIsolatedUserModeInverse(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		i := ium.IsolatedUserMode{Flags: ium.IsolatedUserModeFlags(rapid.Uint64().Draw(t, "flags")), Spare: rapid.Uint64().Draw(t, "spare")}
		b, err := i.AppendBinary(nil)
		require.NoError(t, err)
		require.Len(t, b, ium.IsolatedUserModeSize)
		var back ium.IsolatedUserMode
		require.NoError(t, back.UnmarshalBinary(b))
		require.Equal(t, i, back)

		text, err := i.Flags.MarshalText()
		require.NoError(t, err)
		var flags ium.IsolatedUserModeFlags
		require.NoError(t, flags.UnmarshalText(text))
		require.Equal(t, i.Flags, flags)
		require.True(t, i.Flags.Has(flags&ium.SecureKernelRunning))

		// What is odd is said, and nothing else.
		_, odd := i.Meaning()
		reserved := i.Flags&^0x17f3f != 0
		require.True(t, !reserved && i.Spare == 0 || len(odd) > 0)
		_, _ = ium.ParseIsolatedUserModeFlags(rapid.String().Draw(t, "text")) // no panic
	})
	flags, err := ium.ParseIsolatedUserModeFlags("hvcienabled,SECUREKERNELRUNNING")
	require.NoError(t, err)
	require.Equal(t, ium.HVCIEnabled|ium.SecureKernelRunning, flags)
	flags, err = ium.ParseIsolatedUserModeFlags("0x3")
	require.NoError(t, err)
	require.Equal(t, ium.HVCIEnabled|ium.SecureKernelRunning, flags)
	for _, s := range []string{"", "x", "HvciEnabled,", "reserved x", "5, HvciEnabled"} {
		_, err := ium.ParseIsolatedUserModeFlags(s)
		require.ErrorContains(t, err, "use names such as", "%q", s)
	}
}
