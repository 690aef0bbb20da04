package hypercall

import (
	"encoding/binary"
	"fmt"
	"sync/atomic"
	"unsafe"
)

// A sharedPage is a page that processors of a guest and the hypervisor write while others
// read it. Its words are little-endian on every machine; loads and stores are atomic and
// in order.
type sharedPage [4096]byte

// sharedPageOf returns the page that mem is.
func sharedPageOf(what string, mem []byte) (*sharedPage, error) {
	if len(mem) != len(sharedPage{}) {
		return nil, fmt.Errorf("%w: %s takes a page of 4096 bytes, not %d", ErrSize, what, len(mem))
	}
	if uintptr(unsafe.Pointer(unsafe.SliceData(mem)))%8 != 0 {
		// That mem is printed has a use: a caller's make([]byte, 4096) cannot be on the
		// stack then, where it could lie anywhere.
		return nil, fmt.Errorf("hypercall: %s lies at %p, which is no multiple of 8: give the page's own memory, not a part of it that begins elsewhere", what, mem)
	}
	return (*sharedPage)(mem), nil
}

func (p *sharedPage) word32(off uintptr) *uint32 { return (*uint32)(unsafe.Pointer(&p[off])) }
func (p *sharedPage) word64(off uintptr) *uint64 { return (*uint64)(unsafe.Pointer(&p[off])) }

// little32 returns a word with the order of its bytes changed between little-endian and this
// machine's.
func little32(v uint32) uint32 {
	var b [4]byte
	binary.NativeEndian.PutUint32(b[:], v)
	return binary.LittleEndian.Uint32(b[:])
}

func little64(v uint64) uint64 {
	var b [8]byte
	binary.NativeEndian.PutUint64(b[:], v)
	return binary.LittleEndian.Uint64(b[:])
}

func (p *sharedPage) load32(off uintptr) uint32 { return little32(atomic.LoadUint32(p.word32(off))) }
func (p *sharedPage) load64(off uintptr) uint64 { return little64(atomic.LoadUint64(p.word64(off))) }

func (p *sharedPage) store32(off uintptr, v uint32) { atomic.StoreUint32(p.word32(off), little32(v)) }
func (p *sharedPage) store64(off uintptr, v uint64) { atomic.StoreUint64(p.word64(off), little64(v)) }

// or32 sets bits, and returns what was there before. So do the next.
func (p *sharedPage) or32(off uintptr, bits uint32) uint32 {
	return little32(atomic.OrUint32(p.word32(off), little32(bits)))
}

func (p *sharedPage) and32(off uintptr, bits uint32) uint32 {
	return little32(atomic.AndUint32(p.word32(off), little32(bits)))
}

func (p *sharedPage) or64(off uintptr, bits uint64) uint64 {
	return little64(atomic.OrUint64(p.word64(off), little64(bits)))
}

func (p *sharedPage) and64(off uintptr, bits uint64) uint64 {
	return little64(atomic.AndUint64(p.word64(off), little64(bits)))
}
