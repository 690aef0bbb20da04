package frames

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/govtx/vtx/internal/bootproto"
)

// decode feeds the Decoder what r gives, read by read: copies of the frames, the
// junk, the number of broken heads, and the error of r or the Decoder.
func decode(r io.Reader) (list []Frame, junk []byte, broken int, err error) {
	d := &Decoder{
		Frame: func(f Frame) error {
			f.Payload = bytes.Clone(f.Payload)
			list = append(list, f)
			return nil
		},
		Junk:   func(p []byte) error { junk = append(junk, p...); return nil },
		Broken: func(error) { broken++ },
	}
	_, err = io.Copy(onlyWriter{d}, r)
	return list, junk, broken, errors.Join(err, d.Close())
}

// An onlyWriter has no method but Write, so that io.Copy calls it per read.
type onlyWriter struct{ io.Writer }

func TestDecoder(t *testing.T) {
	enc := func(typ byte, s string) string { return string(Append(nil, typ, []byte(s))) }
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
				got, junk, broken, err := decode(r)
				require.NoError(t, err)
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

// A frame does not wait for the bytes behind it.
func TestDecoderDoesNotWait(t *testing.T) {
	var got []string
	d := &Decoder{Frame: func(f Frame) error { got = append(got, string(f.Payload)); return nil }}
	for i, payload := range []string{"", "a", "longer text"} {
		_, err := d.Write(Append([]byte("junk"), bootproto.FrameStdout, []byte(payload)))
		require.NoError(t, err)
		require.Len(t, got, i+1)
		require.Equal(t, payload, got[i])
	}
}

func TestDecoderErrors(t *testing.T) {
	bad := errors.New("bad")
	fail := func([]byte) error { return bad }
	for _, in := range []string{"junk", "junk" + string(Append(nil, 1, nil)), "\xfevtx\x00123456789"} {
		d := &Decoder{Junk: fail, Frame: func(Frame) error { return nil }}
		_, err := d.Write([]byte(in))
		require.ErrorIs(t, err, bad, "%q", in)
	}
	d := &Decoder{Frame: func(Frame) error { return bad }}
	_, err := d.Write(Append(nil, 1, nil))
	require.ErrorIs(t, err, bad)
	d = &Decoder{Junk: fail}
	_, err = d.Write([]byte(bootproto.FrameMark))
	require.NoError(t, err)
	require.ErrorIs(t, d.Close(), bad)
}

// What is kept is one frame, however it comes.
func TestDecoderKeepsOneFrame(t *testing.T) {
	frame := Append(nil, bootproto.FrameStdout, make([]byte, bootproto.FrameMax))
	d := &Decoder{Frame: func(Frame) error { return nil }}
	for range 3 {
		for i := 0; i < len(frame); i += 1000 {
			_, err := d.Write(frame[i:min(i+1000, len(frame))])
			require.NoError(t, err)
		}
	}
	require.Empty(t, d.buf)
	require.LessOrEqual(t, cap(d.buf), 2*len(frame))
}

func TestConsole(t *testing.T) {
	enc := func(typ byte, s string) string { return string(Append(nil, typ, []byte(s))) }
	long := strings.Repeat("x", maxLine)
	for _, tc := range []struct {
		name, in string
		want     []string
		status   int // -1: none
	}{
		{"lines", enc(1, "one\ntw") + enc(1, "o\n\nthree"), []string{"1 one", "1 two", "1 ", "1 three"}, -1},
		{"kinds", enc(1, "out") + enc(2, "err\n") + enc(7, "kernel\n") + enc(1, "put\n"), []string{"2 err", "7 kernel", "1 output"}, -1},
		{"unframed", "plain\n" + enc(6, "") + "text", []string{"0 plain", "0 text"}, -1},
		{"files are left out", enc(3, "modename") + enc(4, "data\n") + enc(1, "x\n"), []string{"1 x"}, -1},
		{"exit", enc(1, "x") + enc(5, "\x07\x00\x00\x00more") + enc(5, "\x08\x00\x00\x00"), []string{"1 x"}, 7},
		{"cut exit", enc(5, "\x07\x00\x00\x00more")[:12], nil, -1},
		{"cut line", enc(1, "hello\nworld")[:17], []string{"1 hello", "1 wo"}, -1},
		{"longest line", enc(1, long+"\n"), []string{"1 " + long, "1 "}, -1},
		{"longer line", enc(1, long+"yz\n"), []string{"1 " + long, "1 yz"}, -1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for _, step := range []int{1, 7, len(tc.in)} {
				var got []string
				c := &Console{Line: func(kind byte, line []byte) { got = append(got, fmt.Sprintf("%d %s", kind, line)) }}
				for i := 0; i < len(tc.in); i += step {
					_, err := c.Write([]byte(tc.in[i:min(i+step, len(tc.in))]))
					require.NoError(t, err)
				}
				c.Close()
				require.Equal(t, tc.want, got)
				status, exited := c.Exit()
				require.Equal(t, tc.status >= 0, exited)
				require.EqualValues(t, max(tc.status, 0), status)
			}
		})
	}
}

// A Console takes anything, and keeps little of it.
func FuzzConsole(f *testing.F) {
	f.Add([]byte("junk\xfevtx\x01\x02\x00\x00\x00hijunk\n"), 1)
	f.Fuzz(func(t *testing.T, in []byte, step int) {
		step = max(step, 1)
		n := 0
		c := &Console{Line: func(_ byte, line []byte) {
			if n += len(line); len(line) > maxLine {
				t.Fatalf("a line of %d bytes", len(line))
			}
		}}
		for i := 0; i < len(in); i += min(step, len(in)-i) {
			c.Write(in[i : i+min(step, len(in)-i)])
		}
		c.Close()
		if n > len(in) {
			t.Fatalf("%d bytes of text from %d", n, len(in))
		}
	})
}

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
		stream = Append(stream, f.Type, f.Payload)
		want = append(want, f)
	}
	sizes := rapid.SliceOf(rapid.IntRange(1, 40)).Draw(t, "sizes")
	got, gotJunk, broken, err := decode(&chunkReader{stream, sizes})
	if err != nil || broken != 0 {
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
			return Append(nil, rapid.ByteRange(0, 9).Draw(t, "type"), rapid.SliceOfN(rapid.Byte(), 0, 9).Draw(t, "payload"))
		}),
	)).Draw(t, "parts"), nil)
}

// conserve checks that the stream, put together again from the frames and the
// junk, has every byte that went in, and that chunking changes nothing.
func conserve(t rapid.TB, in []byte) {
	t.Helper()
	list, junk, _, err := decode(bytes.NewReader(in))
	if err != nil {
		t.Fatalf("error %v", err)
	}
	n := len(junk)
	for i, f := range list {
		n += bootproto.FrameHead + len(f.Payload)
		if err := check(f.Type, uint32(len(f.Payload))); err != nil && !f.Cut {
			t.Fatalf("frame %d: %v", i, err)
		}
		if f.Cut && i != len(list)-1 {
			t.Fatalf("frame %d of %d is cut", i, len(list))
		}
	}
	if n != len(in) {
		t.Fatalf("%d bytes came back of %d", n, len(in))
	}
	again, junk2, _, _ := decode(iotest.HalfReader(iotest.OneByteReader(bytes.NewReader(in))))
	if len(again) != len(list) || !bytes.Equal(junk, junk2) {
		t.Fatalf("by the byte: %d frames, %d bytes of junk, want %d, %d", len(again), len(junk2), len(list), len(junk))
	}
}

func FuzzDecoder(f *testing.F) {
	f.Add([]byte("junk\xfevtx\x01\x02\x00\x00\x00hijunk"))
	f.Add([]byte("\xfevtx\xfevtx\x05\x04\x00\x00\x00\x01"))
	f.Add([]byte("\xfevtx\x01\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, in []byte) { conserve(t, in) })
}
