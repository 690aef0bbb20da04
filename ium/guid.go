package ium

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strings"
)

// A GUID is in the order of bytes that Windows has it in memory: the first three parts
// are little-endian, the rest are bytes in order.
type GUID [16]byte

// ParseGUID reads a GUID such as {01234567-89ab-cdef-0123-456789abcdef}, in either case,
// with or without the braces.
func ParseGUID(s string) (GUID, error) {
	t := s
	if strings.HasPrefix(t, "{") && strings.HasSuffix(t, "}") {
		t = t[1 : len(t)-1]
	}
	var b [16]byte
	ok := len(t) == 36 && t[8] == '-' && t[13] == '-' && t[18] == '-' && t[23] == '-'
	if ok {
		_, err := hex.Decode(b[:], []byte(t[:8]+t[9:13]+t[14:18]+t[19:23]+t[24:]))
		ok = err == nil
	}
	if !ok {
		if len(s) > 64 {
			s = s[:64] + "..."
		}
		return GUID{}, fmt.Errorf("%q is not a GUID: write it as {01234567-89ab-cdef-0123-456789abcdef}", s)
	}
	g := GUID(b)
	binary.LittleEndian.PutUint32(g[:], binary.BigEndian.Uint32(b[:]))
	binary.LittleEndian.PutUint16(g[4:], binary.BigEndian.Uint16(b[4:]))
	binary.LittleEndian.PutUint16(g[6:], binary.BigEndian.Uint16(b[6:]))
	return g, nil
}

// String returns the GUID in capitals, in braces.
func (g GUID) String() string {
	return fmt.Sprintf("{%08X-%04X-%04X-%X-%X}", binary.LittleEndian.Uint32(g[:]),
		binary.LittleEndian.Uint16(g[4:]), binary.LittleEndian.Uint16(g[6:]), g[8:10], g[10:])
}

// MarshalText returns what String does.
func (g GUID) MarshalText() ([]byte, error) { return []byte(g.String()), nil }

// UnmarshalText takes what ParseGUID does.
func (g *GUID) UnmarshalText(text []byte) (err error) {
	*g, err = ParseGUID(string(text))
	return err
}
