package machine

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/govtx/vtx/internal/bootproto"
)

// frames reads r to its end: copies of the frames, the junk, and the number of
// broken heads.
func frames(r io.Reader) (list []Frame, junk []byte, broken int, err error) {
	var j bytes.Buffer
	fr := NewFrameReader(r)
	fr.Junk = &j
	fr.Broken = func(error) { broken++ }
	for {
		f, err := fr.Next()
		if err != nil {
			return list, j.Bytes(), broken, err
		}
		f.Payload = bytes.Clone(f.Payload)
		list = append(list, f)
	}
}

func TestFrameReader(t *testing.T) {
	enc := func(typ byte, s string) string { return string(AppendFrame(nil, typ, []byte(s))) }
	head := func(typ byte, n uint32) string {
		return bootproto.FrameMark + string([]byte{typ, byte(n), byte(n >> 8), byte(n >> 16), byte(n >> 24)})
	}
	for _, tc := range []struct {
		name, in string
		want     []Frame
		junk     string
		broken   int
	}{
		{"empty", "", nil, "", 0},
		{"one", enc(1, "hello"), []Frame{{1, []byte("hello"), false}}, "", 0},
		{"empty payload", enc(6, ""), []Frame{{6, nil, false}}, "", 0},
		{"junk around", "ab" + enc(2, "x") + "cd" + enc(1, "y") + "ef", []Frame{{2, []byte("x"), false}, {1, []byte("y"), false}}, "abcdef", 0},
		{"junk like a mark", "\xfe\xfevt" + enc(1, "x") + "\xfevt", []Frame{{1, []byte("x"), false}}, "\xfe\xfevt\xfevt", 0},
		{"mark in payload", enc(1, enc(2, "in")), []Frame{{1, []byte(enc(2, "in")), false}}, "", 0},
		{"cut payload", head(1, 10) + "abc", []Frame{{1, []byte("abc"), true}}, "", 0},
		{"cut before payload", head(1, 10), []Frame{{1, nil, true}}, "", 0},
		{"cut head", enc(1, "x") + bootproto.FrameMark + "\x01\x00", []Frame{{1, []byte("x"), false}}, bootproto.FrameMark + "\x01\x00", 0},
		{"type 0", head(0, 1) + enc(1, "x"), []Frame{{1, []byte("x"), false}}, head(0, 1), 1},
		{"type 8", head(8, 1) + "z" + enc(1, "x"), []Frame{{1, []byte("x"), false}}, head(8, 1) + "z", 1},
		{"too long", head(1, bootproto.FrameMax+1) + enc(1, "x"), []Frame{{1, []byte("x"), false}}, head(1, bootproto.FrameMax+1), 1},
		{"longest length", head(1, 0xffffffff) + enc(1, "x"), []Frame{{1, []byte("x"), false}}, head(1, 0xffffffff), 1},
		{"short exit", enc(5, "abc") + enc(5, "abcd"), []Frame{{5, []byte("abcd"), false}}, enc(5, "abc"), 1},
		{"file without path", enc(3, "abcd") + enc(3, "abcdp"), []Frame{{3, []byte("abcdp"), false}}, enc(3, "abcd"), 1},
		{"broken mark, then mark", bootproto.FrameMark + enc(1, "x"), []Frame{{1, []byte("x"), false}}, bootproto.FrameMark, 1},
		{"largest", enc(1, strings.Repeat("z", bootproto.FrameMax)), []Frame{{1, bytes.Repeat([]byte("z"), bootproto.FrameMax), false}}, "", 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for _, r := range []io.Reader{strings.NewReader(tc.in), iotest.OneByteReader(strings.NewReader(tc.in)), iotest.DataErrReader(strings.NewReader(tc.in))} {
				got, junk, broken, err := frames(r)
				require.Equal(t, io.EOF, err)
				require.Len(t, got, len(tc.want))
				for i := range got {
					require.Equal(t, tc.want[i].Type, got[i].Type)
					require.Equal(t, tc.want[i].Cut, got[i].Cut)
					require.True(t, bytes.Equal(tc.want[i].Payload, got[i].Payload))
				}
				require.Equal(t, tc.junk, string(junk))
				require.Equal(t, tc.broken, broken)
			}
		})
	}
}

// What the reader is given goes on as soon as it is there: a frame does not
// wait for the bytes behind it.
func TestFrameReaderDoesNotWait(t *testing.T) {
	r, w := io.Pipe()
	fr := NewFrameReader(r)
	for _, payload := range []string{"", "a", "longer text"} {
		go w.Write(AppendFrame([]byte("junk"), bootproto.FrameStdout, []byte(payload)))
		f, err := fr.Next()
		require.NoError(t, err)
		require.Equal(t, payload, string(f.Payload))
	}
}

func TestFrameReaderErrors(t *testing.T) {
	bad := errors.New("bad")
	_, _, _, err := frames(io.MultiReader(strings.NewReader("junk"), iotest.ErrReader(bad)))
	require.ErrorIs(t, err, bad)
	for _, in := range []string{"junk", "junk" + string(AppendFrame(nil, 1, nil)), "\xfevtx\x00123456789"} {
		fr := NewFrameReader(strings.NewReader(in))
		fr.Junk = failWriter{bad}
		_, err := fr.Next()
		require.ErrorIs(t, err, bad, "%q", in)
	}
}

type failWriter struct{ err error }

func (w failWriter) Write([]byte) (int, error) { return 0, w.err }

// A chunkReader returns its bytes in pieces of the given sizes.
type chunkReader struct {
	b     []byte
	sizes []int
}

func (r *chunkReader) Read(p []byte) (int, error) {
	if len(r.b) == 0 {
		return 0, io.EOF
	}
	n := len(p)
	if len(r.sizes) > 0 {
		n, r.sizes = min(n, r.sizes[0]), r.sizes[1:]
	}
	n = copy(p[:n], r.b)
	r.b = r.b[n:]
	return n, nil
}

// Frames with junk between them come back as they were, however the stream is
// cut into reads.
func frameRoundTrip(t *rapid.T) {
	var stream, junk []byte
	var want []Frame
	for range rapid.IntRange(0, 20).Draw(t, "n") {
		j := rapid.SliceOfN(rapid.OneOf(rapid.Byte(), rapid.SampledFrom([]byte(bootproto.FrameMark))), 0, 12).Draw(t, "junk")
		for bytes.Contains(j, []byte(bootproto.FrameMark)) {
			j = bytes.ReplaceAll(j, []byte(bootproto.FrameMark), []byte("mark"))
		}
		stream, junk = append(stream, j...), append(junk, j...)
		f := Frame{Type: rapid.SampledFrom([]byte{1, 2, 3, 4, 5, 6, 7}).Draw(t, "type")}
		f.Payload = rapid.SliceOfN(rapid.Byte(), 5, 200).Draw(t, "payload")
		stream = AppendFrame(stream, f.Type, f.Payload)
		want = append(want, f)
	}
	sizes := rapid.SliceOf(rapid.IntRange(1, 40)).Draw(t, "sizes")
	got, gotJunk, broken, err := frames(&chunkReader{stream, sizes})
	if err != io.EOF || broken != 0 {
		t.Fatalf("error %v, %d broken frames", err, broken)
	}
	if !bytes.Equal(gotJunk, junk) {
		t.Fatalf("junk %q, want %q", gotJunk, junk)
	}
	if len(got) != len(want) {
		t.Fatalf("%d frames, want %d", len(got), len(want))
	}
	for i, f := range got {
		if f.Type != want[i].Type || f.Cut || !bytes.Equal(f.Payload, want[i].Payload) {
			t.Fatalf("frame %d: %v, want %v", i, f, want[i])
		}
	}
}

func TestFrameRoundTrip(t *testing.T) { rapid.Check(t, frameRoundTrip) }
func FuzzFrameRoundTrip(f *testing.F) { f.Fuzz(rapid.MakeFuzz(frameRoundTrip)) }
func TestFrameConservation(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) { conserve(t, hostile(t)) })
}
func hostile(t *rapid.T) []byte {
	return bytes.Join(rapid.SliceOf(rapid.OneOf(
		rapid.SliceOf(rapid.Byte()),
		rapid.Just([]byte(bootproto.FrameMark)),
		rapid.Custom(func(t *rapid.T) []byte {
			return AppendFrame(nil, rapid.ByteRange(0, 9).Draw(t, "type"), rapid.SliceOfN(rapid.Byte(), 0, 9).Draw(t, "payload"))
		}),
	)).Draw(t, "parts"), nil)
}

// conserve checks that the stream, put together again from the frames and the
// junk, has every byte that went in, and that chunking changes nothing.
func conserve(t rapid.TB, in []byte) {
	t.Helper()
	list, junk, _, err := frames(bytes.NewReader(in))
	if err != io.EOF {
		t.Fatalf("error %v", err)
	}
	n := len(junk)
	for i, f := range list {
		n += bootproto.FrameHead + len(f.Payload)
		if err := checkHead(f.Type, uint32(len(f.Payload))); err != nil && !f.Cut {
			t.Fatalf("frame %d: %v", i, err)
		}
		if f.Cut && i != len(list)-1 {
			t.Fatalf("frame %d of %d is cut", i, len(list))
		}
	}
	if n != len(in) {
		t.Fatalf("%d bytes came back of %d", n, len(in))
	}
	again, junk2, _, _ := frames(iotest.HalfReader(iotest.OneByteReader(bytes.NewReader(in))))
	if len(again) != len(list) || !bytes.Equal(junk, junk2) {
		t.Fatalf("by the byte: %d frames, %d bytes of junk, want %d, %d", len(again), len(junk2), len(list), len(junk))
	}
}

func FuzzFrameReader(f *testing.F) {
	f.Add([]byte("junk\xfevtx\x01\x02\x00\x00\x00hijunk"))
	f.Add([]byte("\xfevtx\xfevtx\x05\x04\x00\x00\x00\x01"))
	f.Add([]byte("\xfevtx\x01\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, in []byte) { conserve(t, in) })
}

func TestTail(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		tl := tail{max: rapid.IntRange(1, 20).Draw(t, "max")}
		var all []byte
		for _, p := range rapid.SliceOf(rapid.SliceOfN(rapid.Byte(), 0, 50)).Draw(t, "writes") {
			if n, err := tl.Write(p); n != len(p) || err != nil {
				t.Fatalf("Write: %d, %v", n, err)
			}
			all = append(all, p...)
			want := all[max(0, len(all)-tl.max):]
			if !bytes.Equal(tl.bytes(), want) {
				t.Fatalf("kept %q, want %q", tl.bytes(), want)
			}
			if len(tl.buf) > 2*tl.max {
				t.Fatalf("%d bytes kept for %d", len(tl.buf), tl.max)
			}
		}
	})
}

func TestPrintable(t *testing.T) {
	long := strings.Repeat("é", 150)
	in := "one\n\n \x1b[2Jtwo\x00\r\nthree\tx\n\xff" + long + "\nfive"
	require.Equal(t, []string{"[2Jtwo", "three x", strings.Repeat("é", 100) + "...", "five"}, printable([]byte(in), 4, nil))
	require.Equal(t, []string{"one"}, printable([]byte(in), 4, func(s string) bool { return s == "one" }))
	require.Empty(t, printable(nil, 4, nil))
}
