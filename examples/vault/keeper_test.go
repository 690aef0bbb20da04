package main

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"os"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/govtx/vtx/hypercall"
	"github.com/govtx/vtx/internal/require"
	"github.com/govtx/vtx/internal/ring0test"
	"github.com/govtx/vtx/ring0"
)

func TestMain(m *testing.M) { os.Exit(ring0test.Main(m)) }

var le = binary.LittleEndian

// newKeeper returns a keeper of 256 MiB, of which 4 to 64 MiB are its own, with a key of bytes
// 0x0b.
func newKeeper() (*keeper, *strings.Builder) {
	out := new(strings.Builder)
	k := &keeper{out: out, top: 256 << 20, mine: []ring0.Range{{Start: 4 << 20, End: 64 << 20}}}
	key := [32]byte{}
	copy(key[:], strings.Repeat("\x0b", 32))
	k.keep(key)
	return k, out
}

// ask returns what a page holds when it has been answered.
func ask(k *keeper, op Op, data []byte) (answer []byte, s Status, done bool, status int) {
	page := make([]byte, pageSize)
	le.PutUint32(page, uint32(op))
	le.PutUint32(page[4:], uint32(len(data)))
	le.PutUint32(page[8:], 0xffffffff)
	copy(page[header:], data)
	done, status = k.answer(page)
	return page[header:][:le.Uint32(page[4:])], Status(le.Uint32(page[8:])), done, status
}

func TestHMAC(t *testing.T) {
	k, _ := newKeeper()
	// RFC 4231, test case 1, whose key of 20 bytes is here filled up with zeros: to HMAC
	// that is the same key.
	clear(k.key[20:])
	answer, s, done, _ := ask(k, OpHMAC, []byte("Hi There"))
	require.Equal(t, "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7", hex.EncodeToString(answer))
	require.Equal(t, OK, s)
	require.False(t, done)

	k, _ = newKeeper()
	for _, n := range []int{0, 1, 31, 32, 33, pageSize - header} {
		data := []byte(strings.Repeat("x", n))
		h := hmac.New(sha256.New, k.key[:])
		h.Write(data)
		answer, s, _, _ := ask(k, OpHMAC, data)
		require.Equal(t, hex.EncodeToString(h.Sum(nil)), hex.EncodeToString(answer), n)
		require.Equal(t, OK, s)
	}
}

func TestProve(t *testing.T) {
	k, _ := newKeeper()
	for i := range 3 {
		require.NoError(t, k.note("attempt %d", i))
	}
	want, _, _, _ := ask(k, OpHMAC, []byte("nonceproof"))
	answer, s, done, _ := ask(k, OpProve, []byte("nonce"))
	require.Equal(t, OK, s)
	require.False(t, done)
	require.Equal(t, string(le.AppendUint32(want, 3)), string(answer))

	k.key[31] ^= 1
	answer, s, _, _ = ask(k, OpProve, []byte("nonce"))
	require.Equal(t, KeyWrong, s)
	require.Equal(t, "nonce", string(answer)) // as it was
}

func TestNames(t *testing.T) {
	k, out := newKeeper()
	names := func() (attempts uint32, list []string) {
		answer, s, _, _ := ask(k, OpNames, nil)
		require.Equal(t, OK, s)
		return le.Uint32(answer), strings.Split(strings.TrimSuffix(string(answer[4:]), "\n"), "\n")
	}
	require.NoError(t, k.note("read of %#x", 1))
	require.NoError(t, k.note("write of %#x", 2))
	attempts, list := names()
	require.Equal(t, uint32(2), attempts)
	require.Equal(t, []string{"read of 0x1", "write of 0x2"}, list)
	require.Equal(t, "refused: read of 0x1\nrefused: write of 0x2\n", out.String())
	_, list = names()
	require.Equal(t, []string{""}, list) // each is told once

	// Names are whole, as many as fit and in order, and no more than maxNames are kept.
	long := strings.Repeat("n", 100)
	for i := range 2 * maxNames {
		require.NoError(t, k.note("%d %s", i, long))
	}
	var all []string
	for range 2 {
		attempts, list = names()
		require.Equal(t, uint32(2+2*maxNames), attempts)
		require.NotEmpty(t, list[0])
		all = append(all, list...)
	}
	require.Len(t, all, maxNames)
	for i, name := range all {
		require.Equal(t, fmt.Sprintf("%d %s", i, long), name)
	}
	_, list = names()
	require.Equal(t, []string{""}, list)
}

// VTL0 that tries one thing for ever, for it cannot take the exception, ends the program. Any
// call, or another attempt, is a sign of life.
func TestNoteEndsAtRepeats(t *testing.T) {
	for name, alive := range map[string]func(*keeper){
		"nothing": func(*keeper) {},
		"call":    func(k *keeper) { ask(k, OpHMAC, nil) },
		"attempt": func(k *keeper) { _ = k.note("another") },
	} {
		k, _ := newKeeper()
		for range maxRepeats {
			require.NoError(t, k.note("read of 0x400000"), name)
		}
		alive(k)
		err := k.note("read of 0x400000")
		if name != "nothing" {
			require.NoError(t, err, name)
			continue
		}
		require.ErrorContains(t, err, "VTL0 does not get on: 101 times in a row it was refused the read of 0x400000")
	}
}

func TestRefusedRequests(t *testing.T) {
	k, out := newKeeper()
	for _, op := range []Op{0, 6, 1 << 31, 1<<32 - 1} {
		answer, s, done, _ := ask(k, op, []byte("data"))
		require.Equal(t, BadOp, s, op)
		require.False(t, done)
		require.Equal(t, "data", string(answer))
	}
	for _, n := range []uint32{pageSize - header + 1, pageSize, 1 << 31, 1<<32 - 1} {
		for op := range Op(7) {
			page := make([]byte, pageSize)
			le.PutUint32(page, uint32(op))
			le.PutUint32(page[4:], n)
			before := string(page)
			done, _ := k.answer(page)
			require.False(t, done)
			require.Equal(t, BadSize, Status(le.Uint32(page[8:])), op)
			le.PutUint32(page[8:], 0)
			require.Equal(t, before, string(page)) // nothing else was written
		}
	}
	_, s, done, _ := ask(k, OpFinish, []byte("12345"))
	require.Equal(t, BadSize, s)
	require.False(t, done)
	require.Empty(t, out.String())
}

func TestSay(t *testing.T) {
	k, out := newKeeper()
	_, s, _, _ := ask(k, OpSay, []byte("a\nb\x1b[2J"))
	require.Equal(t, OK, s)
	require.Equal(t, `VTL0 says: "a\nb\x1b[2J"`+"\n", out.String()) // one line, and nothing that a terminal does
}

func TestFinish(t *testing.T) {
	for _, row := range []struct {
		failed  uint32
		spoiled bool
		status  int
		s       Status
		says    string
	}{
		{0, false, 0, OK, "the key is whole after 1 refused attempts"},
		{3, false, 1, OK, "3 steps have failed\nthe key is whole"},
		{0, true, 1, KeyWrong, "the key is not what it was"},
	} {
		k, out := newKeeper()
		_ = k.note("one")
		out.Reset()
		if row.spoiled {
			k.key[0]++
		}
		_, s, done, status := ask(k, OpFinish, le.AppendUint32(nil, row.failed))
		require.True(t, done)
		require.Equal(t, row.status, status)
		require.Equal(t, row.s, s)
		require.Contains(t, out.String(), row.says)
	}
}

func TestUsable(t *testing.T) {
	k, _ := newKeeper()
	for at, want := range map[uint64]bool{
		0: false, pageSize: false, 0xa0000: false, 1<<20 - pageSize: false, 1 << 20: true, 1<<20 + 1: false, 1<<20 + 8: false,
		4<<20 - pageSize: true, 4 << 20: false, 64<<20 - pageSize: false, 64 << 20: true,
		256<<20 - pageSize: true, 256 << 20: false, 0xfee00000: false, 1 << 52: false, 1<<64 - pageSize: false,
	} {
		require.Equal(t, want, k.usable(at), fmt.Sprintf("%#x", at))
	}
}

func TestNameOf(t *testing.T) {
	header := func(a hypercall.InterceptAccessType) hypercall.InterceptHeader {
		return hypercall.InterceptHeader{AccessType: a, RIP: 0xabc}
	}
	message := func(mt hypercall.MessageType, x hypercall.Structure) *hypercall.Message {
		m := &hypercall.Message{Header: hypercall.MessageHeader{Type: mt}}
		if x != nil {
			require.True(t, m.SetPayload(x))
		}
		return m
	}
	for _, row := range []struct {
		want string
		m    *hypercall.Message
	}{
		{"read of 0x400000 by code at 0xabc", message(hypercall.MessageGpaIntercept,
			&hypercall.MemoryIntercept{Header: header(hypercall.AccessRead), GPA: 0x400000})},
		{"execute of 0x401000 by code at 0xabc", message(hypercall.MessageGpaIntercept,
			&hypercall.MemoryIntercept{Header: header(hypercall.AccessExecute), GPA: 0x401000})},
		{"write of MSR 0xc0000082 with 0x100000002 by code at 0xabc", message(hypercall.MessageMsrIntercept,
			&hypercall.MsrIntercept{Header: header(hypercall.AccessWrite), MSR: 0xc0000082, RDX: 1, RAX: 0xff00000002})},
		{"write of HvX64RegisterCr4 with 0x20 by code at 0xabc", message(hypercall.MessageRegisterIntercept,
			&hypercall.RegisterIntercept{Header: header(hypercall.AccessWrite), Register: hypercall.RegisterCR4, Value: hypercall.RegisterValue{Low: 0x20}})},
		{"what HvMessageTypeGpaIntercept tells", message(hypercall.MessageGpaIntercept, nil)}, // cut off
		{"what HvMessageTypeX64IoPortIntercept tells", message(hypercall.MessageIoPortIntercept, nil)},
	} {
		require.Equal(t, row.want, nameOf(row.m))
	}
}

// hostile is the property that no page hurts: whatever one asks, the key stays, its bytes are
// not in any answer, the length is that of an answer, and what is kept is bounded.
func hostile(t *rapid.T) {
	k, out := newKeeper()
	key := k.key
	for i := range key {
		key[i] = byte(i) ^ 0xa5
	}
	k.keep(key)
	for range rapid.IntRange(1, 8).Draw(t, "calls") {
		for i := range rapid.IntRange(0, 2*maxNames).Draw(t, "attempts") {
			require.NoError(t, k.note("attempt %d %s", i, rapid.StringMatching(`[a-z]{0,90}`).Draw(t, "name")))
		}
		page := make([]byte, pageSize)
		le.PutUint32(page, rapid.OneOf(rapid.Uint32Range(0, 6), rapid.Uint32()).Draw(t, "op"))
		n := rapid.OneOf(rapid.Uint32Range(0, 8), rapid.Uint32Range(pageSize-header-1, pageSize+1), rapid.Uint32()).Draw(t, "length")
		le.PutUint32(page[4:], n)
		copy(page[header:], rapid.SliceOfN(rapid.Byte(), 0, 64).Draw(t, "data"))
		k.answer(page)
		require.True(t, k.whole())
		require.LessOrEqual(t, len(k.names), maxNames)
		require.NotContains(t, string(page), string(key[:8]))
		if s := Status(le.Uint32(page[8:])); s == OK {
			require.LessOrEqual(t, le.Uint32(page[4:]), uint32(pageSize-header))
		} else {
			require.Equal(t, n, le.Uint32(page[4:]))
		}
	}
	require.NotContains(t, out.String(), string(key[:8]))
}

func TestHostilePages(t *testing.T) { ring0test.CheckOnHost(t, hostile) }

func FuzzHostilePages(f *testing.F) { f.Fuzz(rapid.MakeFuzz(hostile)) }
