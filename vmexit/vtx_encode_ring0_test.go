package vmexit_test

import (
	"encoding/binary"
	"math/bits"

	"github.com/govtx/vtx/asm"
	"github.com/govtx/vtx/internal/vmtest"
	"github.com/govtx/vtx/vmcs"
	"github.com/govtx/vtx/vmexit"
	"pgregory.net/rapid"
)

// drawBelow draws a number below n, each with about the same chance. Rapid's own
// numbers tend to be small.
func drawBelow(t *rapid.T, what string, n int) int {
	high, _ := bits.Mul64(drawWord(t, what), uint64(n))
	return int(high)
}

func drawBool(t *rapid.T, what string) bool { return drawWord(t, what)>>63 != 0 }

// drawWord draws 64 bits, all of them as often 1 as 0.
func drawWord(t *rapid.T, what string) uint64 { return mix(rapid.Uint64().Draw(t, what)) }

// mix is a bijection that leaves no pattern.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// none stands for a register that an operand does not have.
const none vmexit.Register = 0xff

// A place is what ModRM.mod and ModRM.rm of an instruction stand for (SDM Vol. 2A
// 2.1.5, 2.2.1.2): a register, or memory.
type place struct {
	register vmexit.Register // if it is in a register

	memory       bool
	address      int // address size in bits
	segment      vmcs.SegmentRegister
	base, index  vmexit.Register
	scale        int
	displacement int64
	relative     bool // to RIP

	modRM    byte
	sib      []byte
	disp     []byte
	x, b     bool // of REX
	override byte // segment prefix, 0: none
}

var segmentPrefixes = [...]byte{vmcs.ES: 0x26, vmcs.CS: 0x2e, vmcs.SS: 0x36, vmcs.DS: 0x3e, vmcs.FS: 0x64, vmcs.GS: 0x65}

// pairs16 are base and index of 16-bit addresses (SDM Vol. 2A table 2-1).
var pairs16 = [8][2]vmexit.Register{
	{asm.RBX, asm.RSI}, {asm.RBX, asm.RDI}, {asm.RBP, asm.RSI}, {asm.RBP, asm.RDI},
	{asm.RSI, none}, {asm.RDI, none}, {asm.RBP, none}, {asm.RBX, none},
}

// addressBits draws one of the two address sizes that code of a size has.
func (s *shot) addressBits() int {
	if drawBelow(s.t, "other address size", 3) != 0 {
		return s.bits
	}
	return map[int]int{16: 32, 32: 16, 64: 32}[s.bits]
}

// drawRegister draws a general register that code of this size has.
func (s *shot) drawRegister() vmexit.Register {
	n := 8
	if s.bits == 64 {
		n = 16
	}
	return vmexit.Register(drawBelow(s.t, "register", n))
}

// drawInRegister draws an operand in a register.
func (s *shot) drawInRegister() place {
	r := s.drawRegister()
	return place{register: r, modRM: 3<<6 | byte(r)&7, b: r >= 8}
}

// drawMemory draws an operand in memory, of any form.
func (s *shot) drawMemory() place {
	t := s.t
	o := place{memory: true, address: s.addressBits(), base: none, index: none, scale: 1, segment: vmcs.DS}
	mod, low := drawBelow(t, "mod", 3), drawBelow(t, "rm", 8)
	o.modRM = byte(mod<<6 | low)
	size := [3]int{0, 1, 4}[mod]
	switch {
	case o.address == 16:
		o.base, o.index = pairs16[low][0], pairs16[low][1]
		size = mod
		if mod == 0 && low == 6 {
			o.base, size = none, 2
		}
		if o.base == asm.RBP {
			o.segment = vmcs.SS
		}
	default:
		high := func(set bool) vmexit.Register {
			if set {
				return 8
			}
			return 0
		}
		if s.bits == 64 {
			o.x, o.b = drawBool(t, "REX.X"), drawBool(t, "REX.B")
		}
		o.base = vmexit.Register(low) | high(o.b)
		switch {
		case low == 4:
			sib := byte(drawWord(t, "SIB"))
			o.sib = []byte{sib}
			o.scale = 1 << (sib >> 6)
			if o.index = vmexit.Register(sib>>3&7) | high(o.x); o.index == asm.RSP {
				o.index = none
			}
			if o.base = vmexit.Register(sib&7) | high(o.b); mod == 0 && sib&7 == 5 {
				o.base, size = none, 4
			}
		case mod == 0 && low == 5:
			o.base, size, o.relative = none, 4, s.bits == 64
		}
		if o.base == asm.RSP || o.base == asm.RBP {
			o.segment = vmcs.SS
		}
	}
	o.disp = binary.LittleEndian.AppendUint64(nil, drawWord(t, "displacement"))[:size]
	for i, c := range o.disp {
		o.displacement |= int64(c) << (8 * i)
	}
	if size > 0 {
		o.displacement = o.displacement << (64 - 8*size) >> (64 - 8*size)
	}
	s.drawOverride(&o)
	return o
}

// drawOverride draws a segment prefix, or none. In 64-bit mode those of ES, CS, SS and
// DS have no effect (SDM Vol. 2A 2.1.1).
func (s *shot) drawOverride(o *place) {
	if drawBool(s.t, "override") {
		return
	}
	r := vmcs.SegmentRegister(drawBelow(s.t, "segment", 6))
	o.override = segmentPrefixes[r]
	if s.bits != 64 || r >= vmcs.FS {
		o.segment = r
	}
}

// offset is the effective address, and linearOf the linear address of the operand, worked
// out from what was drawn.
func (s *shot) offset(o *place) uint64 {
	sum := uint64(o.displacement)
	if o.base != none {
		sum += s.registers[o.base]
	}
	if o.index != none {
		sum += s.registers[o.index] * uint64(o.scale)
	}
	if o.relative {
		sum += s.next()
	}
	if o.address < 64 {
		sum &= 1<<o.address - 1
	}
	return sum
}

func (s *shot) linearOf(r vmcs.SegmentRegister, offset uint64) uint64 {
	switch {
	case s.bits != 64:
		return uint64(uint32(s.bases[r] + offset))
	case r >= vmcs.FS:
		return s.bases[r] + offset
	}
	return offset
}

// drawAimed draws a memory operand whose linear address is target: one of a form with
// a base register, which is set, in a segment that can be written.
func (s *shot) drawAimed(target uint64) place {
	for {
		o := s.drawMemory()
		if o.base == none || o.base == o.index || o.segment == vmcs.CS && s.bits != 64 { // CS cannot be written
			continue
		}
		s.setBase(o.segment, 0)
		s.registers[o.base] = 0
		r := target - s.offset(&o)
		if o.address < s.bits {
			r = r&(1<<o.address-1) | s.registers[o.base]&^(1<<o.address-1)
		}
		if s.bits != 64 {
			r &= 0xffffffff
		}
		s.registers[o.base] = r
		return o
	}
}

// An encoding is an instruction but for its operands' prefixes.
type encoding struct {
	prefix    byte // mandatory, 0: none
	opcode    []byte
	immediate []byte
	size      int // operand size in bits, if a prefix tells it
	w         bool
	plain     bool // no ModRM
	reg       vmexit.Register
	rm        place
}

// simple is an instruction without operands.
func simple(opcode ...byte) encoding { return encoding{opcode: opcode, plain: true} }

// encode appends the instruction to the shot's code.
func (s *shot) encode(e encoding) {
	var prefixes []byte
	if e.prefix != 0 {
		prefixes = append(prefixes, e.prefix)
	}
	if e.rm.override != 0 {
		prefixes = append(prefixes, e.rm.override)
	}
	if e.rm.address != 0 && e.rm.address != s.bits {
		prefixes = append(prefixes, 0x67)
	}
	if e.size == 16 && s.bits != 16 || e.size == 32 && s.bits == 16 {
		prefixes = append(prefixes, 0x66)
	}
	if e.plain && e.rm.override == 0 && drawBool(s.t, "idle prefix") {
		prefixes = append(prefixes, 0x3e)
	}
	turn := 0
	if len(prefixes) > 1 {
		turn = drawBelow(s.t, "order", len(prefixes))
	}
	s.code = append(append(s.code, prefixes[turn:]...), prefixes[:turn]...)
	if s.bits == 64 {
		rex := byte(0x40)
		for n, set := range [...]bool{e.rm.b, e.rm.x, e.reg >= 8, e.w || e.size == 64} {
			if set {
				rex |= 1 << n
			}
		}
		if rex != 0x40 || drawBelow(s.t, "idle REX", 4) == 0 {
			s.code = append(s.code, rex)
		}
	}
	s.code = append(s.code, e.opcode...)
	if !e.plain {
		s.code = append(s.code, e.rm.modRM|byte(e.reg)&7<<3)
		s.code = append(append(s.code, e.rm.sib...), e.rm.disp...)
	}
	s.code = append(s.code, e.immediate...)
}

// codeBits is the size of a mode's code.
func codeBits(m vmtest.Mode) int {
	switch m {
	case vmtest.ModeLong:
		return 64
	case vmtest.ModeCompatibility, vmtest.ModePAE, vmtest.ModePaged, vmtest.ModeProtected:
		return 32
	}
	return 16
}
