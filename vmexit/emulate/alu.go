package emulate

import "github.com/govtx/vtx/asm"

import "math/bits"

// An operation is what an arithmetic or logical instruction does. The first eight have
// the numbers of their opcodes (SDM Vol. 2D table A-6, group 1).
type operation uint8

const (
	opAdd operation = iota
	opOr
	opAdc
	opSbb
	opAnd
	opSub
	opXor
	opCmp
	opTest
	opInc
	opDec
	opNot
	opNeg
	opBt
	opBts
	opBtr
	opBtc
)

// keeps reports whether the operation leaves its destination alone.
func (o operation) keeps() bool { return o == opCmp || o == opTest || o == opBt }

// arithmetic returns the result of an operation on a and b of size bytes, and RFLAGS
// after it (SDM Vol. 1 appendix A). Flags that the manual leaves undefined are 0
// after logical operations, and unchanged after those on bits.
func arithmetic(o operation, size uint8, a, b, flags uint64) (result, after uint64) {
	switch carry := flags & asm.FlagCF; o {
	case opAdd:
		return add(size, a, b, 0, flags)
	case opAdc:
		return add(size, a, b, carry, flags)
	case opSub, opCmp:
		return sub(size, a, b, 0, flags)
	case opSbb:
		return sub(size, a, b, carry, flags)
	case opInc:
		result, after = add(size, a, 1, 0, flags)
		return result, after&^asm.FlagCF | carry
	case opDec:
		result, after = sub(size, a, 1, 0, flags)
		return result, after&^asm.FlagCF | carry
	case opNeg:
		return sub(size, 0, a, 0, flags)
	case opNot:
		return ^a & mask(size), flags
	case opAnd, opTest:
		result = a & b
	case opOr:
		result = a | b
	case opXor:
		result = a ^ b
	default:
		return bit(o, size, a, b, flags)
	}
	result &= mask(size)
	return result, flags&^flagsStatus | resultFlags(size, result)
}

// mask has the bits of size bytes.
func mask(size uint8) uint64 { return ^uint64(0) >> (64 - 8*uint(size)) }

func add(size uint8, a, b, carry, flags uint64) (result, after uint64) {
	result = (a + b + carry) & mask(size)
	return result, arithmeticFlags(size, result, a&b|(a|b)&^result, (a^result)&(b^result), flags)
}

func sub(size uint8, a, b, borrow, flags uint64) (result, after uint64) {
	result = (a - b - borrow) & mask(size)
	return result, arithmeticFlags(size, result, ^a&b|(^a|b)&result, (a^b)&(a^result), flags)
}

// arithmeticFlags sets the status flags. Carries has the carry out of each bit, and
// the top bit of overflow is OF.
func arithmeticFlags(size uint8, result, carries, overflow, flags uint64) uint64 {
	top := 8*uint(size) - 1
	flags = flags&^flagsStatus | resultFlags(size, result)
	flags |= carries >> top & 1 * asm.FlagCF
	flags |= carries >> 3 & 1 * asm.FlagAF
	return flags | overflow>>top&1*asm.FlagOF
}

// resultFlags are SF, ZF and PF.
func resultFlags(size uint8, result uint64) (flags uint64) {
	if result == 0 {
		flags |= asm.FlagZF
	}
	if bits.OnesCount8(uint8(result))&1 == 0 {
		flags |= asm.FlagPF
	}
	return flags | result>>(8*uint(size)-1)&1*asm.FlagSF
}

// bit does the operations on bit b of a, modulo the operand's size. They change CF
// alone.
func bit(o operation, size uint8, a, b, flags uint64) (result, after uint64) {
	b &= uint64(size)*8 - 1
	result, after = a, flags&^asm.FlagCF|a>>b&1*asm.FlagCF
	switch o {
	case opBts:
		result |= 1 << b
	case opBtr:
		result &^= 1 << b
	case opBtc:
		result ^= 1 << b
	}
	return result, after
}

// condition evaluates a condition code, bits 3:0 of Jcc's and SETcc's opcodes
// (SDM Vol. 1 appendix B).
func condition(code uint8, flags uint64) bool {
	var v bool
	less := flags&asm.FlagSF != 0 != (flags&asm.FlagOF != 0)
	switch code >> 1 & 7 {
	case 0:
		v = flags&asm.FlagOF != 0
	case 1:
		v = flags&asm.FlagCF != 0
	case 2:
		v = flags&asm.FlagZF != 0
	case 3:
		v = flags&(asm.FlagCF|asm.FlagZF) != 0
	case 4:
		v = flags&asm.FlagSF != 0
	case 5:
		v = flags&asm.FlagPF != 0
	case 6:
		v = less
	case 7:
		v = less || flags&asm.FlagZF != 0
	}
	return v != (code&1 != 0)
}

// signExtend widens a value of size bytes.
func signExtend(v uint64, size uint8) uint64 {
	n := 64 - 8*uint(size)
	return uint64(int64(v<<n) >> n)
}

// reverseBytes swaps the order of size bytes.
func reverseBytes(v uint64, size uint8) uint64 {
	return bits.ReverseBytes64(v) >> (64 - 8*uint(size))
}
