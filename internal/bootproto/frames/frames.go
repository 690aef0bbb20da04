// Package frames writes and reads the framed stream that package bootproto
// describes: what a program in ring 0 sends through its output port. It needs no
// operating system, so that a hypervisor can follow the programs that it runs.
package frames

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"github.com/govtx/vtx/internal/bootproto"
)

// A Frame is one message of the guest.
type Frame struct {
	Type    byte   // bootproto.Frame...
	Payload []byte // valid until the function that got it returns
	Cut     bool   // the stream ended inside the payload: this is its beginning
}

// Append appends the encoding of a frame to b. The payload must not be longer
// than [bootproto.FrameMax].
func Append(b []byte, typ byte, payload []byte) []byte {
	b = append(b, bootproto.FrameMark...)
	b = append(b, typ)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(payload)))
	return append(b, payload...)
}

// check says what is wrong with a frame's type and length.
func check(typ byte, n uint32) error {
	least := uint32(0)
	switch typ {
	case bootproto.FrameStdout, bootproto.FrameStderr, bootproto.FrameData, bootproto.FrameBoot, bootproto.FrameKernel:
	case bootproto.FrameFile:
		least = 5 // the mode, and a path of one byte
	case bootproto.FrameExit:
		least = 4 // the status
	default:
		return fmt.Errorf("frame type %d is none of %d to %d", typ, bootproto.FrameStdout, bootproto.FrameKernel)
	}
	if n < least || n > bootproto.FrameMax {
		return fmt.Errorf("frame of type %d has %d bytes, want %d to %d", typ, n, least, bootproto.FrameMax)
	}
	return nil
}

// A Decoder takes a guest's output apart, as it comes, into frames and the
// machine's own chatter between them. It holds one frame at most. Every byte of
// the stream ends up either in a frame or in Junk, in order.
type Decoder struct {
	Frame  func(Frame) error  // gets each frame as soon as all of it is there
	Junk   func([]byte) error // gets the bytes that are in no frame; may be nil
	Broken func(error)        // hears of each impossible frame head; may be nil

	buf []byte // the beginning of a frame, or of a mark
}

// Write takes the next bytes of the stream. Its error is the first of Frame or
// Junk, after which the Decoder is of no further use.
func (d *Decoder) Write(p []byte) (int, error) {
	if len(d.buf) == 0 {
		rest, err := d.decode(p)
		d.buf = append(d.buf, rest...)
		return len(p), err
	}
	d.buf = append(d.buf, p...)
	rest, err := d.decode(d.buf)
	if len(rest) < len(d.buf) {
		d.buf = append(d.buf[:0], rest...)
	}
	return len(p), err
}

// decode returns the end of b that makes no whole frame yet.
func (d *Decoder) decode(b []byte) ([]byte, error) {
	const mark = bootproto.FrameMark
	for len(b) > 0 {
		i := bytes.Index(b, []byte(mark))
		if i < 0 {
			// The end may be the beginning of a mark.
			keep := min(len(b), len(mark)-1)
			for !bytes.HasPrefix([]byte(mark), b[len(b)-keep:]) {
				keep--
			}
			i = len(b) - keep
			return b[i:], d.junk(b[:i])
		}
		if err := d.junk(b[:i]); err != nil {
			return nil, err
		}
		b = b[i:]
		if len(b) < bootproto.FrameHead {
			break
		}
		typ, n := b[4], binary.LittleEndian.Uint32(b[5:])
		if err := check(typ, n); err != nil {
			if d.Broken != nil {
				d.Broken(err)
			}
			// Look for the next mark right behind this one's first byte.
			if err := d.junk(b[:1]); err != nil {
				return nil, err
			}
			b = b[1:]
			continue
		}
		end := bootproto.FrameHead + int(n)
		if len(b) < end {
			break
		}
		if err := d.Frame(Frame{Type: typ, Payload: b[bootproto.FrameHead:end]}); err != nil {
			return nil, err
		}
		b = b[end:]
	}
	return b, nil
}

func (d *Decoder) junk(p []byte) error {
	if len(p) == 0 || d.Junk == nil {
		return nil
	}
	return d.Junk(p)
}

// Close says that the stream has ended. What there is of a payload goes to Frame
// as a Cut one, so that nothing printed is lost.
func (d *Decoder) Close() error {
	b := d.buf
	d.buf = nil
	if len(b) < bootproto.FrameHead {
		return d.junk(b)
	}
	return d.Frame(Frame{Type: b[4], Payload: b[bootproto.FrameHead:], Cut: true})
}

// maxLine is the length at which a Console breaks lines.
const maxLine = 4096

// A Console follows the output of a program by the line, and learns how it ended.
// Files that the program writes are left out. It keeps a bounded amount, whatever
// the program sends.
type Console struct {
	// Line gets each line without its newline. The kind is bootproto.FrameStdout,
	// FrameStderr or FrameKernel, or 0 for what came in no frame. The bytes are
	// the program's: nobody has checked that they are text.
	Line func(kind byte, line []byte)

	d      Decoder
	lines  [bootproto.FrameKernel + 1][]byte // unfinished, by kind
	exited bool
	status uint32
}

// Write takes the next bytes that the program has sent. It never fails.
func (c *Console) Write(p []byte) (int, error) {
	c.init()
	return c.d.Write(p)
}

func (c *Console) init() {
	if c.d.Frame != nil {
		return
	}
	c.d.Junk = func(p []byte) error { c.text(0, p); return nil }
	c.d.Frame = func(f Frame) error {
		switch f.Type {
		case bootproto.FrameStdout, bootproto.FrameStderr, bootproto.FrameKernel:
			c.text(f.Type, f.Payload)
		case bootproto.FrameExit:
			if !f.Cut && !c.exited {
				c.exited, c.status = true, binary.LittleEndian.Uint32(f.Payload)
			}
		}
		return nil
	}
}

// text gives the lines that p ends.
func (c *Console) text(kind byte, p []byte) {
	for len(p) > 0 {
		n := min(len(p), maxLine-len(c.lines[kind]))
		i := bytes.IndexByte(p[:n], '\n')
		if i >= 0 {
			n = i
		}
		c.lines[kind] = append(c.lines[kind], p[:n]...)
		p = p[n:]
		if i >= 0 {
			p = p[1:]
		} else if len(c.lines[kind]) < maxLine {
			return
		}
		c.flush(kind)
	}
}

func (c *Console) flush(kind byte) {
	c.Line(kind, c.lines[kind])
	c.lines[kind] = c.lines[kind][:0]
}

// Close gives the lines that have no newline: nothing more will come.
func (c *Console) Close() {
	c.init()
	_ = c.d.Close() // the functions above never fail
	for kind, line := range c.lines {
		if len(line) > 0 {
			c.flush(byte(kind))
		}
	}
}

// Exit is the program's exit status, if it has said one.
func (c *Console) Exit() (status uint32, exited bool) { return c.status, c.exited }
