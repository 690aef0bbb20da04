package ium_test

import (
	"encoding"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/govtx/vtx/ium"
)

func TestEventProvider(t *testing.T) {
	require.Equal(t, "{73A33AB2-1966-4999-8ADD-868C41415269}", ium.EventProvider.String())
}

func TestEnclaveCreateInfo(t *testing.T) {
	b, err := ium.EnclaveCreateInfo{Flags: ium.EnclaveCreateDebug, OwnerID: [32]byte{0x10, 31: 0x11}}.AppendBinary([]byte{9})
	require.NoError(t, err)
	require.Equal(t, bytesOf(t, "09 01000000 10000000000000000000000000000000 00000000000000000000000000000011"), b)
	rapid.Check(t, func(t *rapid.T) {
		e := ium.EnclaveCreateInfo{Flags: rapid.Uint32().Draw(t, "flags"), OwnerID: [32]byte(rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "owner"))}
		b, err := e.AppendBinary(nil)
		require.NoError(t, err)
		var back ium.EnclaveCreateInfo
		require.NoError(t, back.UnmarshalBinary(b))
		require.Equal(t, e, back)
	})
	for _, n := range []int{0, 35, 37} {
		require.ErrorContains(t, new(ium.EnclaveCreateInfo).UnmarshalBinary(make([]byte, n)), "36 bytes")
	}
}

func TestOperations(t *testing.T) {
	require.Equal(t, "VbsVmSysCall", ium.CryptoOperation(8).String())
	require.Equal(t, "CryptoOperation(9)", ium.CryptoOperation(9).String())
	require.Equal(t, "SecureIdentitySigningKey", ium.SecureIdentitySigningKey.String())
	for n := range uint16(20) {
		operation, key := ium.CryptoOperation(n), ium.IdentityKey(n)
		var operationBack ium.CryptoOperation
		var keyBack ium.IdentityKey
		for _, c := range []struct {
			from encoding.TextMarshaler
			to   encoding.TextUnmarshaler
		}{{operation, &operationBack}, {key, &keyBack}} {
			text, err := c.from.MarshalText()
			require.NoError(t, err)
			require.NoError(t, c.to.UnmarshalText(text))
			for _, bad := range []string{"", "x", "CryptoOperation(1)", "IdentityKey(1)", "CryptoOperation(65536)", "IdentityKey(-1)"} {
				require.ErrorContains(t, c.to.UnmarshalText([]byte(bad)), "is none of")
			}
			require.NoError(t, c.to.UnmarshalText(text))
		}
		require.Equal(t, operation, operationBack)
		require.Equal(t, key, keyBack)
	}
	var o ium.CryptoOperation
	require.NoError(t, o.UnmarshalText([]byte("get-signed-report")))
	require.Equal(t, ium.CryptoGetSignedReport, o)
}
