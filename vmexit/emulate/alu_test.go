package emulate_test

import (
	"math/bits"
	"testing"

	"github.com/govtx/vtx/asm"
	"github.com/govtx/vtx/internal/require"
)

// TestFlags compares the status flags of ADD, ADC, SUB, SBB, CMP, AND, INC, DEC and NEG of
// bytes, for all operands, with what they are defined to be: by sums of integers, not of
// bits.
func TestFlags(t *testing.T) {
	skipInRing0(t)
	flags := func(result, unsigned, signed, half int) (f uint64) {
		set := func(v bool, flag uint64) {
			if v {
				f |= flag
			}
		}
		set(unsigned < 0 || unsigned > 0xff, asm.FlagCF)
		set(bits.OnesCount8(uint8(result))%2 == 0, asm.FlagPF)
		set(half < 0 || half > 0xf, asm.FlagAF)
		set(uint8(result) == 0, asm.FlagZF)
		set(int8(result) < 0, asm.FlagSF)
		set(signed < -128 || signed > 127, asm.FlagOF)
		return f
	}
	for _, c := range []struct {
		name     string
		code     []byte
		sign     int // of the second operand
		carry    bool
		constant int  // the second operand, if it is not CL
		keepCF   bool // INC and DEC
	}{
		{"ADD", []byte{0x00, 0x0b}, 1, false, -1, false},
		{"ADC", []byte{0x10, 0x0b}, 1, true, -1, false},
		{"SUB", []byte{0x28, 0x0b}, -1, false, -1, false},
		{"SBB", []byte{0x18, 0x0b}, -1, true, -1, false},
		{"CMP", []byte{0x38, 0x0b}, -1, false, -1, false},
		{"XADD", []byte{0x0f, 0xc0, 0x0b}, 1, false, -1, false},
		{"INC", []byte{0xfe, 0x03}, 1, false, 1, true},
		{"DEC", []byte{0xfe, 0x0b}, -1, false, 1, true},
	} {
		m := newMachine(64, c.code...)
		m.device.quiet = true
		m.regs[asm.RBX] = deviceBase
		for a := range 0x100 {
			for b := range 0x100 {
				if c.constant >= 0 && b != c.constant {
					continue
				}
				for cf := range 2 {
					m.regs[asm.RCX], m.RFLAGS = uint64(b), uint64(2|cf)
					m.device.bytes[0] = byte(a)
					m.step(t)
					in := 0
					if c.carry {
						in = cf
					}
					result := a + c.sign*(b+in)
					want := 2 | flags(result, result, int(int8(a))+c.sign*(int(int8(b))+in), a&15+c.sign*(b&15+in))
					if c.keepCF {
						want = want&^asm.FlagCF | uint64(cf)
					}
					if want != m.RFLAGS {
						t.Fatalf("%s 0x%x, 0x%x, CF %d: RFLAGS is 0x%x, should be 0x%x", c.name, a, b, cf, m.RFLAGS, want)
					}
					if c.name == "CMP" {
						result = a
					}
					require.True(t, m.device.bytes[0] == byte(result))
				}
			}
		}
	}
}

// TestConditions: each condition code after a comparison of each kind.
func TestConditions(t *testing.T) {
	for _, c := range []struct {
		a, b uint8
	}{{0, 0}, {1, 2}, {2, 1}, {0x80, 1}, {1, 0x80}, {0xff, 0xff}, {0x7f, 0xff}, {0xff, 0x7f}, {3, 0}} {
		sa, sb := int8(c.a), int8(c.b)
		d := c.a - c.b
		overflow := int(sa)-int(sb) != int(int8(d))
		for code, want := range [16]bool{
			overflow, !overflow, c.a < c.b, c.a >= c.b, c.a == c.b, c.a != c.b, c.a <= c.b, c.a > c.b,
			int8(d) < 0, int8(d) >= 0, bits.OnesCount8(d)%2 == 0, bits.OnesCount8(d)%2 != 0, sa < sb, sa >= sb, sa <= sb, sa > sb,
		} {
			m := newMachine(64, 0x38, 0x0b) // CMP [rbx], cl
			m.regs[asm.RBX], m.regs[asm.RCX] = deviceBase, uint64(c.b)
			m.device.bytes[0] = c.a
			m.step(t)
			copy(m.ram.bytes[codeAt:], []byte{0x0f, 0x90 + byte(code), 0x03}) // SETcc [rbx]
			m.step(t)
			require.Equal(t, want, m.device.bytes[0] == 1, "condition %d after comparing 0x%x with 0x%x", code, c.a, c.b)
		}
	}
}
