package hypercall

import "fmt"

// Pages, as hypercalls see them: the list of parameters is in one of them (TLFS,
// "Hypercall Interface", alignment requirements).
const (
	pageSize = 4096
	pageMask = pageSize - 1
)

// Memory is a guest's physical memory, with the rights of the caller's trust level.
type Memory interface {
	// ReadPhysical fills p with the bytes from a guest-physical address on,
	// WritePhysical stores them. An error says that the guest may not do that, and
	// then nothing of p is stored. p has 1 to 4096 bytes, which are in one page of
	// 4 KBytes; it is not valid after the call.
	ReadPhysical(gpa uint64, p []byte) error
	WritePhysical(gpa uint64, p []byte) error
}

// A WriteProber is Memory that can tell whether the guest may write n bytes, which
// are in one page of 4 KBytes. A call with results in memory starts only if it may,
// so that none is carried out whose results cannot be stored. In Memory that is no
// WriteProber the dispatcher finds out by storing there what it reads there.
type WriteProber interface {
	Memory
	ProbeWrite(gpa uint64, n int) error
}

// A Fault tells why the outcome is MemoryFault: the memory with the parameters of a
// call, or for its results, is none that the caller may read, or write. It calls for
// the memory intercept that an access of the guest's own would have caused.
type Fault struct {
	GPA   uint64 // the first byte of what was read or written
	Len   int    // bytes
	Write bool
	Err   error // what Memory has said
}

func (f *Fault) Error() string {
	what := "read its parameters"
	if f.Write {
		what = "store its results"
	}
	return fmt.Sprintf("hypercall: cannot %s, %d bytes at guest-physical address %#x: %v", what, f.Len, f.GPA, f.Err)
}

// Unwrap returns what Memory has said.
func (f *Fault) Unwrap() error { return f.Err }

// read fills p, and notes a fault if that fails.
func (c *Call) read(gpa uint64, p []byte) bool {
	if err := c.Memory.ReadPhysical(gpa, p); err != nil {
		c.fault = Fault{GPA: gpa, Len: len(p), Err: err}
		return false
	}
	return true
}

// write stores p, and notes a fault if that fails.
func (c *Call) write(gpa uint64, p []byte) bool {
	if err := c.Memory.WritePhysical(gpa, p); err != nil {
		c.fault = Fault{GPA: gpa, Len: len(p), Write: true, Err: err}
		return false
	}
	return true
}

// probe finds out whether n bytes can be written, and notes a fault if they cannot.
// It leaves them as they are, and may use the buffer for results.
func (c *Call) probe(gpa uint64, n int) bool {
	if p, ok := c.Memory.(WriteProber); ok {
		if err := p.ProbeWrite(gpa, n); err != nil {
			c.fault = Fault{GPA: gpa, Len: n, Write: true, Err: err}
			return false
		}
		return true
	}
	return c.read(gpa, c.out[:n]) && c.write(gpa, c.out[:n])
}
