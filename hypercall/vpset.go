package hypercall

import (
	"encoding/binary"
	"fmt"
	"iter"
	"math/bits"
)

// A VpSetFormat is the way a [VpSet] says which processors are in it.
//
//vtx:enum
type VpSetFormat uint64

const (
	// VpSetHeaderSize is the size in bytes of what comes before the banks.
	VpSetHeaderSize = 16

	// VpSetMax is one more than the highest processor that a set can have.
	VpSetMax = 64 * 64
)

// A VpSet is a set of virtual processors (TLFS hv_vp_set.md). In memory it is the format,
// a mask of banks, and the contents of each bank that is in the mask, 8 bytes for 64
// processors, in ascending order:
//
//	byte  bits
//	0     64    format
//	8     64    valid banks: bit n is for processors 64n to 64n+63
//	16    64    contents of the lowest valid bank
//	24    64    contents of the next, and so on
//
// A set of format [VpSetAll] has all processors. Its mask does not count and no contents
// follow. The zero value is an empty set.
type VpSet struct {
	Format         VpSetFormat
	ValidBanksMask uint64
	Banks          [64]uint64 // by the number of the bank; those that are not valid do not count
}

// NumBanks returns how many banks follow: the size of the variable header in units of 8
// bytes.
func (s *VpSet) NumBanks() int {
	if s.Format == VpSetAll {
		return 0
	}
	return bits.OnesCount64(s.ValidBanksMask)
}

// Size returns the size in memory in bytes, 16 to 528.
func (s *VpSet) Size() int { return VpSetHeaderSize + 8*s.NumBanks() }

// Add puts processor vp into a sparse set, and reports whether it can be in one: it is
// below [VpSetMax].
func (s *VpSet) Add(vp uint32) bool {
	if vp >= VpSetMax {
		return false
	}
	s.bank(vp / 64)
	s.Banks[vp/64] |= 1 << (vp % 64)
	return true
}

// bank makes a bank valid, and empty if it was not.
func (s *VpSet) bank(n uint32) {
	if s.ValidBanksMask>>n&1 == 0 {
		s.ValidBanksMask |= 1 << n
		s.Banks[n] = 0
	}
}

// Remove takes processor vp out of a sparse set. Its bank stays.
func (s *VpSet) Remove(vp uint32) {
	if vp < VpSetMax {
		s.Banks[vp/64] &^= 1 << (vp % 64)
	}
}

// Contains reports whether processor vp is in the set. In one of format [VpSetAll] every
// processor is, of any other format none.
func (s *VpSet) Contains(vp uint32) bool {
	switch s.Format {
	case VpSetAll:
		return true
	case VpSetSparse:
		return vp < VpSetMax && s.ValidBanksMask>>(vp/64)&1 != 0 && s.Banks[vp/64]>>(vp%64)&1 != 0
	}
	return false
}

// All yields the processors of a sparse set in ascending order, and of a set of format
// [VpSetAll] those below n, the number that the partition has.
func (s *VpSet) All(n uint32) iter.Seq[uint32] {
	return func(yield func(uint32) bool) {
		switch s.Format {
		case VpSetAll:
			for vp := range n {
				if !yield(vp) {
					return
				}
			}
		case VpSetSparse:
			for valid := s.ValidBanksMask; valid != 0; valid &= valid - 1 {
				b := uint32(bits.TrailingZeros64(valid))
				for m := s.Banks[b]; m != 0; m &= m - 1 {
					if !yield(64*b + uint32(bits.TrailingZeros64(m))) {
						return
					}
				}
			}
		}
	}
}

// GetBanks reads the contents of the banks, behind a header that has given Format and
// ValidBanksMask, from b. It reports false, and reads nothing, unless b has exactly as
// many. It leaves the banks that are not valid alone.
func (s *VpSet) GetBanks(b []byte) bool {
	if len(b) != 8*s.NumBanks() {
		return false
	}
	if s.Format == VpSetAll {
		return true
	}
	for valid := s.ValidBanksMask; valid != 0; valid &= valid - 1 {
		s.Banks[bits.TrailingZeros64(valid)] = binary.LittleEndian.Uint64(b)
		b = b[8:]
	}
	return true
}

// AppendBanks appends the contents of the banks: the variable header of a call.
func (s *VpSet) AppendBanks(b []byte) []byte {
	if s.Format == VpSetAll {
		return b
	}
	for valid := s.ValidBanksMask; valid != 0; valid &= valid - 1 {
		b = binary.LittleEndian.AppendUint64(b, s.Banks[bits.TrailingZeros64(valid)])
	}
	return b
}

func (s *VpSet) check() error {
	if s.Format != VpSetSparse && s.Format != VpSetAll {
		return fmt.Errorf("hypercall: a processor set has no format %d: it is 0 for a sparse set, or 1 for all processors", uint64(s.Format))
	}
	return nil
}

// AppendBinary appends the set as it is in memory. It fails if there is no such format.
func (s *VpSet) AppendBinary(b []byte) ([]byte, error) {
	if err := s.check(); err != nil {
		return b, err
	}
	b = binary.LittleEndian.AppendUint64(b, uint64(s.Format))
	b = binary.LittleEndian.AppendUint64(b, s.ValidBanksMask)
	return s.AppendBanks(b), nil
}

// MarshalBinary returns what AppendBinary appends.
func (s *VpSet) MarshalBinary() ([]byte, error) { return s.AppendBinary(nil) }

// UnmarshalBinary reads a set as it is in memory, from as many bytes as it takes. If it
// fails it leaves s as it was; otherwise the banks that are not valid are 0.
func (s *VpSet) UnmarshalBinary(b []byte) error {
	if len(b) < VpSetHeaderSize {
		return fmt.Errorf("%w: a processor set takes %d bytes or more, not %d", ErrSize, VpSetHeaderSize, len(b))
	}
	n := VpSet{Format: VpSetFormat(binary.LittleEndian.Uint64(b)), ValidBanksMask: binary.LittleEndian.Uint64(b[8:])}
	if err := n.check(); err != nil {
		return err
	}
	if !n.GetBanks(b[VpSetHeaderSize:]) {
		return fmt.Errorf("%w: a processor set of format %d with %d valid banks takes %d bytes, not %d", ErrSize, uint64(n.Format), bits.OnesCount64(n.ValidBanksMask), n.Size(), len(b))
	}
	*s = n
	return nil
}
