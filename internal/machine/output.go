package machine

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/govtx/vtx/internal/bootproto"
	"github.com/govtx/vtx/internal/bootproto/frames"
)

const (
	tailBytes   = 64 << 10 // of chatter and log, kept to explain a failure
	maxWarnings = 8
)

// leastChatter is what the emulator itself may print and log, however little
// the guest may. Tests shorten it.
var leastChatter int64 = 16 << 20

// output consumes a guest's framed stream: it forwards what the guest prints,
// writes its files, and learns how it ended.
type output struct {
	stdout, stderr io.Writer
	files          files
	max            int64  // bytes that may come
	left, leftJunk budget // what may still come, and of chatter
	raw            bool   // all is chatter: the guest knows of no frames

	chatter  tail
	booted   bool
	exited   bool
	status   uint32
	stats    [bootproto.Stats]uint64
	broken   int // impossible frame heads
	warnings []string
}

// run reads r up to the exit frame (nil), its end (io.EOF), or an error.
func (o *output) run(r io.Reader) error {
	if o.raw {
		if _, err := io.Copy(junkWriter{o}, r); err != nil {
			return err
		}
		return io.EOF
	}
	d := &frames.Decoder{
		Frame: o.frame,
		Junk: func(p []byte) error {
			_, err := junkWriter{o}.Write(p)
			return err
		},
		Broken: func(err error) {
			o.broken++
			if len(o.warnings) < maxWarnings {
				o.warnings = append(o.warnings, "broken frame in the guest's output: "+err.Error())
			}
		},
	}
	buf := make([]byte, 64<<10)
	for {
		n, err := r.Read(buf)
		_, bad := d.Write(buf[:n])
		if bad == nil && err != nil {
			bad = d.Close()
		}
		switch {
		case bad == errExited:
			return nil
		case bad != nil:
			return bad
		case err != nil:
			return err
		}
	}
}

// errExited ends the reading behind the exit frame.
var errExited = errors.New("exited")

func (o *output) frame(f frames.Frame) error {
	p, ok := o.left.spend(f.Payload)
	var over error
	if !ok {
		over = fmt.Errorf("%w: the guest wrote more than %d bytes and was stopped; allow more with -max-output", ErrOutputLimit, o.max)
	}
	var err error
	switch f.Type {
	case bootproto.FrameStdout:
		err = write(o.stdout, "standard output", p)
	case bootproto.FrameStderr, bootproto.FrameKernel:
		err = write(o.stderr, "standard error", p)
	case bootproto.FrameBoot:
		o.booted = true
	case bootproto.FrameData:
		o.files.data(p)
	case bootproto.FrameFile:
		if !f.Cut && over == nil {
			o.files.begin(p)
		}
	case bootproto.FrameExit:
		if !f.Cut {
			o.exit(f.Payload)
		}
	}
	if err == nil {
		err = over
	}
	if err == nil && o.exited {
		err = errExited
	}
	return err
}

// exit handles a FrameExit. A kernel with fewer or more statistics than this
// package knows is no error.
func (o *output) exit(p []byte) {
	o.exited = true
	o.status = binary.LittleEndian.Uint32(p)
	p = p[4:]
	for i := 0; i < len(o.stats) && len(p) >= 8; i++ {
		o.stats[i] = binary.LittleEndian.Uint64(p)
		p = p[8:]
	}
}

// A junkWriter remembers the end of the machine's chatter. Endless chatter is
// endless output.
type junkWriter struct{ o *output }

func (w junkWriter) Write(p []byte) (int, error) {
	p, ok := w.o.leftJunk.spend(p)
	n, _ := w.o.chatter.Write(p)
	if !ok {
		return n, fmt.Errorf("%w: the machine wrote without end what is no frame, and was stopped; does the program or a guest of it write to port %#x?", ErrOutputLimit, bootproto.PortE9)
	}
	return n, nil
}

func write(w io.Writer, name string, p []byte) error {
	if len(p) == 0 {
		return nil
	}
	if _, err := w.Write(p); err != nil {
		return fmt.Errorf("%w to %s: %w", ErrOutput, name, err)
	}
	return nil
}

// logSink takes the emulator's log: all of it, within the limit, into the file
// that the user named, and its end into memory.
type logSink struct {
	tail tail
	file io.Writer // nil: none
	left int64
	err  error
}

// Write never fails, so that the emulator never blocks on its log.
func (l *logSink) Write(p []byte) (int, error) {
	l.tail.Write(p)
	if l.file == nil || l.err != nil {
		return len(p), nil
	}
	q := p[:min(int64(len(p)), l.left)]
	l.left -= int64(len(q))
	if _, err := l.file.Write(q); err != nil {
		l.err = fmt.Errorf("writing the emulator's log: %w", err)
	} else if len(q) < len(p) {
		l.err = errors.New("the emulator's log is longer than -max-output allows; the rest of it is not kept")
	}
	return len(p), nil
}
