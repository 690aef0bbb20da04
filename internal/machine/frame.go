package machine

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"

	"github.com/govtx/vtx/internal/bootproto"
)

// A Frame is one message of the guest; bootproto describes the encoding.
type Frame struct {
	Type    byte   // bootproto.Frame...
	Payload []byte // valid until the next call of [FrameReader.Next]
	Cut     bool   // the stream ended inside the payload: this is its beginning
}

// AppendFrame appends the encoding of a frame to b. The payload must not be
// longer than [bootproto.FrameMax].
func AppendFrame(b []byte, typ byte, payload []byte) []byte {
	b = append(b, bootproto.FrameMark...)
	b = append(b, typ)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(payload)))
	return append(b, payload...)
}

// checkHead says what is wrong with a frame's type and length.
func checkHead(typ byte, n uint32) error {
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

// A FrameReader takes a guest's output apart into frames and the machine's
// own chatter between them. It holds one frame at most. Every byte of the
// stream ends up either in a frame or in Junk.
type FrameReader struct {
	Junk   io.Writer   // gets the bytes that are in no frame; may be nil
	Broken func(error) // hears of each impossible frame head; may be nil

	r   *bufio.Reader
	buf []byte
}

// NewFrameReader reads frames from r.
func NewFrameReader(r io.Reader) *FrameReader {
	return &FrameReader{r: bufio.NewReaderSize(r, 64<<10)}
}

// Next returns the next frame, or the error of the underlying reader (io.EOF
// at its end) or of Junk. A stream that ends inside a payload yields what there
// is of it as a Cut frame first, so that nothing printed is lost.
func (f *FrameReader) Next() (Frame, error) {
	for {
		if err := f.seek(); err != nil {
			return Frame{}, err
		}
		head, err := f.r.Peek(bootproto.FrameHead)
		if err != nil {
			return Frame{}, first(f.junk(len(head)), err)
		}
		typ, n := head[4], binary.LittleEndian.Uint32(head[5:])
		if err := checkHead(typ, n); err != nil {
			if f.Broken != nil {
				f.Broken(err)
			}
			// Look for the next mark right behind this one's first byte.
			if err := f.junk(1); err != nil {
				return Frame{}, err
			}
			continue
		}
		f.discard(bootproto.FrameHead)
		got, err := f.payload(int(n))
		return Frame{Type: typ, Payload: got, Cut: err != nil}, nil
	}
}

// seek skips junk until the reader stands at a mark.
func (f *FrameReader) seek() error {
	const mark = bootproto.FrameMark
	for want := len(mark); ; {
		_, err := f.r.Peek(want)
		b, _ := f.r.Peek(f.r.Buffered())
		i := bytes.Index(b, []byte(mark))
		if i >= 0 {
			return f.junk(i)
		}
		if err != nil {
			return first(f.junk(len(b)), err)
		}
		// The end of b may be the beginning of a mark: keep that much, and
		// ask for one byte more.
		keep := min(len(b), len(mark)-1)
		for !bytes.HasPrefix([]byte(mark), b[len(b)-keep:]) {
			keep--
		}
		if err := f.junk(len(b) - keep); err != nil {
			return err
		}
		want = keep + 1
	}
}

// payload reads n bytes. The buffer grows with what arrives, not with what
// the head promises.
func (f *FrameReader) payload(n int) ([]byte, error) {
	f.buf = f.buf[:0]
	for len(f.buf) < n {
		if _, err := f.r.Peek(1); err != nil {
			return f.buf, err
		}
		b, _ := f.r.Peek(min(f.r.Buffered(), n-len(f.buf)))
		f.buf = append(f.buf, b...)
		f.discard(len(b))
	}
	return f.buf, nil
}

// junk hands the next n buffered bytes to Junk.
func (f *FrameReader) junk(n int) error {
	defer f.discard(n)
	if n == 0 || f.Junk == nil {
		return nil
	}
	b, _ := f.r.Peek(n)
	_, err := f.Junk.Write(b)
	return err
}

// discard drops n buffered bytes.
func (f *FrameReader) discard(n int) { _, _ = f.r.Discard(n) }

// first returns the first error there is.
func first(a, b error) error {
	if a != nil {
		return a
	}
	return b
}
