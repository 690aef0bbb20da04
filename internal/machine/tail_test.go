package machine

import (
	"bytes"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

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

type failWriter struct{ err error }

func (w failWriter) Write([]byte) (int, error) { return 0, w.err }
