package machine

import (
	"bytes"
	"strings"
)

// tail keeps the last bytes that were written to it.
type tail struct {
	max int
	buf []byte
}

// Write never fails.
func (t *tail) Write(p []byte) (int, error) {
	n := len(p)
	if n > t.max {
		p = p[n-t.max:]
	}
	// Shift only when twice the room is used, so that writing stays linear.
	if len(t.buf)+len(p) > 2*t.max {
		t.buf = append(t.buf[:0], t.last(t.max)...)
	}
	t.buf = append(t.buf, p...)
	return n, nil
}

// last returns at most the last n bytes.
func (t *tail) last(n int) []byte {
	return t.buf[max(0, len(t.buf)-min(n, t.max)):]
}

// bytes returns what is kept.
func (t *tail) bytes() []byte { return t.last(t.max) }

// printable makes foreign output fit for a terminal: at most the last n
// non-empty lines of b that keep accepts, without control characters.
func printable(b []byte, n int, keep func(string) bool) []string {
	var lines []string
	for line := range bytes.SplitSeq(b, []byte{'\n'}) {
		s := strings.Map(func(r rune) rune {
			if r == '\t' {
				return ' '
			}
			if r < ' ' || r == 0x7f || r == '\ufffd' || (r >= 0x80 && r < 0xa0) {
				return -1
			}
			return r
		}, string(line))
		s = strings.TrimSpace(s)
		if len(s) > 200 {
			s = strings.ToValidUTF8(s[:200], "") + "..."
		}
		if s != "" && (keep == nil || keep(s)) {
			lines = append(lines, s)
		}
	}
	return lines[max(0, len(lines)-n):]
}
