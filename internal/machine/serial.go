package machine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// serialName is the file in the private directory that the emulator writes all
// bytes of the first serial port to.
const serialName = "serial.out"

var (
	// serialPoll is how often that file is looked at.
	serialPoll = 20 * time.Millisecond
	// lineWait is how long an unfinished line of one stream keeps the other
	// waiting. Tests shorten it.
	lineWait = 500 * time.Millisecond
)

// heldMax is how much may wait behind an unfinished line.
const heldMax = 64 << 10

// errSerialText is why a run ends when Config.Until has appeared.
var errSerialText = errors.New("the awaited text is on the serial line")

// A serial follows the first serial port while the emulator runs.
type serial struct {
	out   io.Writer // standard output, by the line; nil: not shown
	keep  *os.File  // nil: not kept
	left  *budget
	max   int64
	until []byte // ends the run when it appears; nil: nothing does

	found  bool
	recent []byte // the end of what has come, shorter than until

	file *os.File
	stop chan struct{} // closed when the emulator has ended
	done chan error    // what came of it
}

// startSerial begins to follow the port of an emulator that is to run in dir. It
// calls cancel with the reason when the run must end.
func (c *Config) startSerial(dir string, out io.Writer, left *budget, cancel context.CancelCauseFunc) (*serial, error) {
	s := &serial{left: left, max: c.MaxOutput, until: []byte(c.Until), stop: make(chan struct{}), done: make(chan error, 1)}
	if c.Serial {
		s.out = out
	}
	var err error
	if s.file, err = os.Create(filepath.Join(dir, serialName)); err != nil {
		return nil, fmt.Errorf("the serial port's file: %w", err)
	}
	if c.SerialFile != "" {
		if s.keep, err = os.Create(c.SerialFile); err != nil {
			s.file.Close()
			return nil, fmt.Errorf("the file for the serial port: %w", err)
		}
	}
	go func() {
		err := s.follow()
		if s.keep != nil {
			if bad := s.keep.Close(); err == nil {
				err = bad
			}
		}
		s.file.Close()
		if err != nil {
			cancel(err)
		}
		s.done <- err
	}()
	return s, nil
}

// follow reads the file to its end, again and again until the emulator ends.
func (s *serial) follow() error {
	buf := make([]byte, 64<<10)
	for last := false; ; {
		n, err := s.file.Read(buf)
		switch {
		case n > 0:
			if err := s.take(buf[:n]); err != nil {
				return err
			}
		case err != io.EOF:
			return fmt.Errorf("reading the serial port's file: %w", err)
		case last:
			return nil
		default:
			select {
			case <-s.stop:
				last = true
			case <-time.After(serialPoll):
			}
		}
	}
}

// take passes on what has come.
func (s *serial) take(p []byte) error {
	p, ok := s.left.spend(p)
	if s.out != nil {
		if err := write(s.out, "standard output", p); err != nil {
			return err
		}
	}
	if s.keep != nil {
		if err := write(s.keep, s.keep.Name(), p); err != nil {
			return err
		}
	}
	if len(s.until) > 0 {
		s.recent = append(s.recent, p...)
		if bytes.Contains(s.recent, s.until) {
			s.found = true
			return errSerialText
		}
		s.recent = append(s.recent[:0], s.recent[max(0, len(s.recent)-len(s.until)+1):]...)
	}
	if !ok {
		return fmt.Errorf("%w: the machine wrote more than %d bytes, serial port included, and was stopped; allow more with -max-output", ErrOutputLimit, s.max)
	}
	return nil
}

// finish takes what the emulator, which has ended, wrote last. When ctx is done
// it does not wait for ever for somebody to read that.
func (s *serial) finish(ctx context.Context) error {
	close(s.stop)
	select {
	case err := <-s.done:
		return err
	case <-ctx.Done():
	}
	select {
	case err := <-s.done:
		return err
	case <-time.After(blockGrace):
		return errStuck
	}
}

// A budget is the number of bytes that may still come, from all sources together.
type budget struct {
	mu   sync.Mutex
	left int64
}

// spend takes p off it. When it is too little, spend returns the part that fits,
// and false.
func (b *budget) spend(p []byte) ([]byte, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	ok := int64(len(p)) <= b.left
	if !ok {
		p = p[:b.left]
	}
	b.left -= int64(len(p))
	return p, ok
}

// A lineMux lets several streams share a writer by the line: what comes while
// another stream is within a line waits for that to end. Nobody waits longer
// than lineWait, or holds back more than heldMax; then the line is broken, so that
// none ever holds bytes of two streams.
type lineMux struct {
	w io.Writer

	mu      sync.Mutex
	streams []*lineStream
	open    *lineStream // the one that is within a line; nil: none
	timer   *time.Timer // runs while something waits
	err     error       // the first of w
}

// A lineStream is one of the writers that share.
type lineStream struct {
	mux  *lineMux
	held []byte
}

func (m *lineMux) stream() *lineStream {
	s := &lineStream{mux: m}
	m.streams = append(m.streams, s)
	return s
}

// Write never takes less than all of p but after an error.
func (s *lineStream) Write(p []byte) (int, error) {
	m := s.mux
	m.mu.Lock()
	defer m.mu.Unlock()
	for rest := p; len(rest) > 0; {
		if m.open != nil && m.open != s {
			s.held = append(s.held, rest...)
			break
		}
		// Between whole lines the others have their turn.
		n := bytes.LastIndexByte(rest, '\n') + 1
		if n == 0 {
			n = len(rest)
		}
		m.put(s, rest[:n])
		rest = rest[n:]
		m.release()
	}
	if len(s.held) > heldMax {
		m.breakLine()
	}
	m.setTimer()
	if m.err != nil {
		return 0, m.err
	}
	return len(p), nil
}

// put writes p as part of s.
func (m *lineMux) put(s *lineStream, p []byte) {
	if m.err == nil {
		_, m.err = m.w.Write(p)
	}
	m.open = s
	if p[len(p)-1] == '\n' {
		m.open = nil
	}
}

// release writes what waits, as far as no line is in the way.
func (m *lineMux) release() {
	for _, s := range m.streams {
		if m.open == nil && len(s.held) > 0 {
			held := s.held
			s.held = nil
			m.put(s, held)
		}
	}
}

// breakLine ends the line that others wait for.
func (m *lineMux) breakLine() {
	if m.open != nil && m.waiting() {
		m.put(m.open, []byte{'\n'})
		m.release()
	}
}

func (m *lineMux) waiting() bool {
	for _, s := range m.streams {
		if len(s.held) > 0 {
			return true
		}
	}
	return false
}

// setTimer has the line broken in time, if something waits for it.
func (m *lineMux) setTimer() {
	switch wait := m.waiting(); {
	case wait && m.timer == nil:
		m.timer = time.AfterFunc(lineWait, func() {
			m.mu.Lock()
			defer m.mu.Unlock()
			m.timer = nil
			m.breakLine()
			m.setTimer()
		})
	case !wait && m.timer != nil:
		m.timer.Stop()
		m.timer = nil
	}
}

// flush writes all that waits, and gives the first error there was.
func (m *lineMux) flush() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for m.waiting() {
		m.breakLine()
	}
	m.setTimer()
	return m.err
}
