package ium_test

import (
	"encoding/hex"
	"errors"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/govtx/vtx/ium"
)

// golden is what a creator of Vmsp passes: mailbox key and VM id.
const golden = "0200000000000000" +
	"00021000" + "00000000" + "1111111111111111" + "2222222222222222" +
	"00021303" + "00000000" + "67452301ab89efcd" + "0123456789abcdef"

func TestCreateAttributes(t *testing.T) {
	guid, err := ium.ParseGUID("{01234567-89ab-cdef-0123-456789abcdef}")
	require.NoError(t, err)
	c := ium.CreateAttributes{TrustletID: 2, Attributes: []ium.TrustletAttribute{
		{Type: ium.MailboxKey, Data: []uint64{0x1111111111111111, 0x2222222222222222}},
		ium.GUIDAttribute(ium.VMID, guid),
	}}
	b, err := c.AppendBinary(nil)
	require.NoError(t, err)
	require.Equal(t, golden, hex.EncodeToString(b))
	require.Len(t, b, c.Size())
	require.Empty(t, c.Check())
	var back ium.CreateAttributes
	require.NoError(t, back.UnmarshalBinary(b))
	require.Equal(t, c, back)

	a, ok := back.Find(ium.VMID)
	require.True(t, ok)
	g, ok := a.GUID()
	require.True(t, ok)
	require.Equal(t, guid, g)
	_, ok = back.Find(ium.TKSessionID)
	require.False(t, ok)
	_, ok = ium.TrustletAttribute{Type: ium.TrustedApp, Data: []uint64{1}}.GUID()
	require.False(t, ok)
}

// bytesOf writes hexadecimal digits, with blanks, as bytes.
func bytesOf(t require.TestingT, text string) []byte {
	b, err := hex.DecodeString(strings.ReplaceAll(text, " ", ""))
	require.NoError(t, err)
	return b
}

func TestCreateAttributesRefused(t *testing.T) {
	id, word := "0100000000000000", "0000000000000000"
	for _, tc := range []struct {
		name   string
		bytes  string
		offset int
		field  string
		value  uint64
		rule   ium.Rule
	}{
		{"nothing", "", 0, "PS_TRUSTLET_CREATE_ATTRIBUTES", 0, ium.RuleAttributeSize},
		{"half an id", "01000000", 0, "PS_TRUSTLET_CREATE_ATTRIBUTES", 4, ium.RuleAttributeSize},
		{"no multiple of 8", id + "00021000", 0, "PS_TRUSTLET_CREATE_ATTRIBUTES", 12, ium.RuleAttributeSize},
		{"header without data", id + word, 0, "PS_TRUSTLET_CREATE_ATTRIBUTES", 16, ium.RuleAttributeSize},
		{"too long", id + strings.Repeat(word, 17), 0, "PS_TRUSTLET_CREATE_ATTRIBUTES", 0x90, ium.RuleAttributeSize},
		{"data beyond the end", id + "00021000 00000000" + word, 9, "DataCount", 2, ium.RuleAttributeBounds},
		{"most data", id + "00ff1000 00000000" + word, 9, "DataCount", 255, ium.RuleAttributeBounds},
		{"reserved bits", id + "00021000 00010000" + word + word, 12, "Reserved", 1, ium.RuleAttributeReserved},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := ium.CreateAttributes{TrustletID: 77}
			err := c.UnmarshalBinary(bytesOf(t, tc.bytes))
			var e *ium.AttributeError
			require.ErrorAs(t, err, &e)
			require.Equal(t, tc.offset, e.Offset)
			require.Equal(t, tc.field, e.Field)
			require.Equal(t, tc.value, e.Value)
			require.Equal(t, tc.rule, e.Rule)
			require.ErrorContains(t, err, string(tc.rule))
			require.EqualValues(t, 77, c.TrustletID, "changed by an error")
		})
	}
}

func TestCreateAttributesUnwritable(t *testing.T) {
	for name, c := range map[string]ium.CreateAttributes{
		"too little data":  {Attributes: []ium.TrustletAttribute{{Type: ium.MailboxKey, Data: []uint64{1}}}},
		"too much data":    {Attributes: []ium.TrustletAttribute{{Type: ium.TrustedApp, Data: []uint64{1, 2}}}},
		"no data at all":   {Attributes: []ium.TrustletAttribute{{Type: 0x00200000}}},
		"too long a list":  {Attributes: make([]ium.TrustletAttribute, 17)},
		"too much in all":  {Attributes: []ium.TrustletAttribute{{Type: 0x1000, Data: make([]uint64, 16)}}},
		"data, none meant": {Attributes: []ium.TrustletAttribute{{Type: 0x10, Data: []uint64{1}}}},
	} {
		b, err := c.AppendBinary([]byte("x"))
		var e *ium.AttributeError
		require.ErrorAs(t, err, &e, name)
		require.Equal(t, "x", string(b), name)
		require.NotEmpty(t, c.Check(), name)
	}
}

func TestCreateAttributesCheck(t *testing.T) {
	two := []uint64{1, 2}
	key := ium.TrustletAttribute{Type: ium.MailboxKey, Data: two}
	app := ium.TrustletAttribute{Type: ium.TrustedApp, Data: []uint64{0}}
	for _, tc := range []struct {
		name string
		c    ium.CreateAttributes
		want []ium.Rule
	}{
		{"id alone", ium.CreateAttributes{TrustletID: 1}, nil},
		{"0 alone", ium.CreateAttributes{}, nil},
		{"no id", ium.CreateAttributes{Attributes: []ium.TrustletAttribute{key}}, []ium.Rule{ium.RuleAttributeIdentity}},
		{"an app", ium.CreateAttributes{Attributes: []ium.TrustletAttribute{key, app}}, nil},
		{"the largest", ium.CreateAttributes{TrustletID: 1, Attributes: []ium.TrustletAttribute{
			key, {Type: ium.CollaborationID, Data: two}, {Type: ium.VMID, Data: two}, {Type: ium.TKSessionID, Data: []uint64{1, 2, 3, 4}}}}, nil},
		{"five", ium.CreateAttributes{TrustletID: 1, Attributes: []ium.TrustletAttribute{app, app, app, app, app}}, []ium.Rule{ium.RuleAttributeCount}},
		{"instance", ium.CreateAttributes{TrustletID: 1, Attributes: []ium.TrustletAttribute{{Type: ium.MailboxKey, Instance: 1, Data: two}}}, []ium.Rule{ium.RuleAttributeInstance}},
		{"unknown type", ium.CreateAttributes{TrustletID: 1, Attributes: []ium.TrustletAttribute{{Type: 0x00200200, Data: two}}}, []ium.Rule{ium.RuleAttributeType}},
		{"rights", ium.CreateAttributes{TrustletID: 1, Attributes: []ium.TrustletAttribute{{Type: 0x10100200, Data: two}}}, []ium.Rule{ium.RuleAttributeRights, ium.RuleAttributeType}},
		{"data", ium.CreateAttributes{TrustletID: 1, Attributes: []ium.TrustletAttribute{{Type: ium.MailboxKey, Data: []uint64{1, 2, 3}}}}, []ium.Rule{ium.RuleAttributeData}},
		{"size", ium.CreateAttributes{TrustletID: 1, Attributes: []ium.TrustletAttribute{{Type: 0}}}, []ium.Rule{ium.RuleAttributeSize, ium.RuleAttributeType}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var got []ium.Rule
			for _, e := range tc.c.Check() {
				got = append(got, e.Rule)
				require.NotEmpty(t, e.Detail)
			}
			require.Equal(t, tc.want, got)
			if _, err := tc.c.AppendBinary(nil); err == nil {
				require.NotContains(t, got, ium.RuleAttributeSize)
			} else {
				require.NotEmpty(t, got)
			}
		})
	}
}

func drawAttributes(t *rapid.T) ium.CreateAttributes {
	c := ium.CreateAttributes{TrustletID: rapid.Uint64().Draw(t, "id")}
	room := rapid.IntRange(0, 16).Draw(t, "words")
	for room >= 2 {
		typ := ium.AttributeType(rapid.Uint32().Draw(t, "type"))
		if rapid.Bool().Draw(t, "known") {
			typ = rapid.SampledFrom([]ium.AttributeType{ium.MailboxKey, ium.CollaborationID, ium.TKSessionID, ium.VMID, ium.TrustedApp}).Draw(t, "type")
		}
		n := min(typ.Words(), room-1)
		if n == 0 {
			n = 1
		}
		typ = typ&^0xff00 | ium.AttributeType(n)<<8
		a := ium.TrustletAttribute{Type: typ, Instance: rapid.Uint8().Draw(t, "instance")}
		for range n {
			a.Data = append(a.Data, rapid.Uint64().Draw(t, "word"))
		}
		c.Attributes = append(c.Attributes, a)
		room -= 1 + n
	}
	return c
}

// Building and parsing are inverse, both ways.
func TestCreateAttributesInverse(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := drawAttributes(t)
		b, err := c.AppendBinary(nil)
		require.NoError(t, err)
		var back ium.CreateAttributes
		require.NoError(t, back.UnmarshalBinary(b))
		require.Equal(t, c, back)
		require.Equal(t, c.Check(), back.Check())
	})
}

func checkAttributeBytes(t require.TestingT, b []byte) {
	var c ium.CreateAttributes
	if err := c.UnmarshalBinary(b); err != nil {
		var e *ium.AttributeError
		if !errors.As(err, &e) || e.Offset > len(b) || e.Rule == "" {
			require.Fail(t, "untyped error", "%#v", err)
		}
		return
	}
	for _, e := range c.Check() {
		require.Less(t, e.Offset, len(b))
	}
	again, err := c.AppendBinary(nil)
	require.NoError(t, err)
	require.Equal(t, b, again)
}

func TestCreateAttributesBytes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b, err := drawAttributes(t).AppendBinary(nil)
		require.NoError(t, err)
		for range rapid.IntRange(0, 4).Draw(t, "changes") {
			b[rapid.IntRange(0, len(b)-1).Draw(t, "where")] = rapid.Byte().Draw(t, "byte")
		}
		checkAttributeBytes(t, b[:rapid.IntRange(0, len(b)).Draw(t, "length")])
		checkAttributeBytes(t, b)
	})
}

func TestAccessRights(t *testing.T) {
	require.Equal(t, "Trustlet + Ntos", ium.VMID.Rights().String())
	require.Equal(t, "none", ium.MailboxKey.Rights().String())
	for r := range 256 {
		text, err := ium.AccessRights(r).MarshalText()
		require.NoError(t, err)
		var back ium.AccessRights
		require.NoError(t, back.UnmarshalText(text))
		require.EqualValues(t, r, back)
	}
	for _, s := range []string{"", "Owner", "0x100"} {
		require.ErrorContains(t, new(ium.AccessRights).UnmarshalText([]byte(s)), "access right", "%q", s)
	}
}

func FuzzCreateAttributes(f *testing.F) {
	f.Add(bytesOf(f, golden))
	f.Add(bytesOf(f, "0100000000000000"))
	f.Add(bytesOf(f, "0000000000000000 00011400 00000000 0100000000000000"))
	f.Add(bytesOf(f, "0100000000000000 00ff1000 00000000 0000000000000000"))
	f.Fuzz(func(t *testing.T, b []byte) { checkAttributeBytes(t, b) })
}

func TestAttributeType(t *testing.T) {
	for typ, want := range map[ium.AttributeType]struct {
		name     string
		words    int
		semantic uint8
		rights   ium.AccessRights
	}{
		ium.MailboxKey:      {"MailboxKey", 2, 0x10, 0},
		ium.CollaborationID: {"CollaborationId", 2, 0x11, 0},
		ium.TKSessionID:     {"TkSessionId", 4, 0x12, 0},
		ium.VMID:            {"VmId", 2, 0x13, ium.RightTrustlet | ium.RightNtos},
		ium.TrustedApp:      {"TrustedApp", 1, 0x14, 0},
	} {
		require.True(t, typ.Known())
		require.Equal(t, want.name, typ.String())
		require.Equal(t, want.words, typ.Words())
		require.Equal(t, want.semantic, typ.Semantic())
		require.Equal(t, want.rights, typ.Rights())
		require.Zero(t, typ.Version())
		got, err := ium.ParseAttributeType(strings.ToUpper(want.name))
		require.NoError(t, err)
		require.Equal(t, typ, got)
	}
	_, err := ium.ParseAttributeType("nothing")
	require.ErrorContains(t, err, "use MailboxKey")
	_, err = ium.ParseAttributeType("0x100000000")
	require.Error(t, err)
	rapid.Check(t, func(t *rapid.T) {
		typ := ium.AttributeType(rapid.Uint32().Draw(t, "type"))
		text, err := typ.MarshalText()
		require.NoError(t, err)
		var back ium.AttributeType
		require.NoError(t, back.UnmarshalText(text))
		require.Equal(t, typ, back)
		_, _ = ium.ParseAttributeType(rapid.String().Draw(t, "text")) // no panic
	})
}

func TestProcessAttribute(t *testing.T) {
	require.EqualValues(t, 0x20012, ium.SecureProcess)
	a := ium.ProcessAttribute{Attribute: ium.SecureProcess, Size: 0x38, Value: 0x7ff000001000}
	require.NoError(t, a.CheckSecureProcess())
	b, err := a.AppendBinary(nil)
	require.NoError(t, err)
	require.Equal(t, "1200020000000000"+"3800000000000000"+"00100000f07f0000"+"0000000000000000", hex.EncodeToString(b))
	for _, tc := range []struct {
		a      ium.ProcessAttribute
		offset int
		rule   ium.Rule
	}{
		{ium.ProcessAttribute{Attribute: 0x20011, Size: 8, Value: 1}, 0, ium.RuleAttributeNumber},
		{ium.ProcessAttribute{Attribute: 0x10012, Size: 8, Value: 1}, 0, ium.RuleAttributeNumber},
		{ium.ProcessAttribute{Attribute: ium.SecureProcess, Size: 16, Value: 1}, 8, ium.RuleAttributeSize},
		{ium.ProcessAttribute{Attribute: ium.SecureProcess, Size: 0, Value: 1}, 8, ium.RuleAttributeSize},
		{ium.ProcessAttribute{Attribute: ium.SecureProcess, Size: 0x90, Value: 1}, 8, ium.RuleAttributeSize},
		{ium.ProcessAttribute{Attribute: ium.SecureProcess, Size: 8}, 16, ium.RuleAttributeValue},
	} {
		var e *ium.AttributeError
		require.ErrorAs(t, tc.a.CheckSecureProcess(), &e)
		require.Equal(t, tc.offset, e.Offset)
		require.Equal(t, tc.rule, e.Rule)
	}
	for _, n := range []int{0, 31, 33} {
		require.Error(t, new(ium.ProcessAttribute).UnmarshalBinary(make([]byte, n)))
	}
	rapid.Check(t, func(t *rapid.T) {
		word := func(name string) uint64 { return rapid.Uint64().Draw(t, name) }
		a := ium.ProcessAttribute{Attribute: word("attribute"), Size: word("size"), Value: word("value"), ReturnLength: word("return length")}
		b, err := a.AppendBinary(nil)
		require.NoError(t, err)
		require.Len(t, b, ium.ProcessAttributeSize)
		var back ium.ProcessAttribute
		require.NoError(t, back.UnmarshalBinary(b))
		require.Equal(t, a, back)
	})
}
