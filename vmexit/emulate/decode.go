package emulate

import (
	"fmt"

	"golang.org/x/arch/x86/x86asm"

	"github.com/govtx/vtx/vmcs"
)

// A DecodeError is an instruction that this package does not know, or that has no
// operand in memory.
type DecodeError struct {
	Code     []byte // what was read at RIP: up to 15 bytes
	CodeSize int    // 16, 32 or 64
	Reason   string
}

func (e *DecodeError) Error() string {
	return fmt.Sprintf("emulate: cannot carry out % x (%d-bit code): %s", e.Code, e.CodeSize, e.Reason)
}

// A kind is the way in which an instruction is carried out.
type kind uint8

const (
	kindMove     kind = iota + 1 // register to memory, immediate to memory, memory to register
	kindMoveBE                   // the same, bytes reversed
	kindCompute                  // operation on memory and register or immediate, either way
	kindBit                      // operation on a bit of memory
	kindExchange                 // XCHG
	kindAdd                      // XADD
	kindCompare                  // CMPXCHG
	kindCompare2                 // CMPXCHG8B, CMPXCHG16B
	kindSet                      // SETcc
	kindCMov                     // CMOVcc
	kindPush
	kindPop
	kindStrings // and what follows: with RSI or RDI
	kindMOVS
	kindCMPS
	kindSTOS
	kindLODS
	kindSCAS
	kindInvalid // raises #UD
)

// An instruction is decoded. One operand is in memory, the other a register, an
// immediate or none; string instructions have theirs implied.
type instruction struct {
	address   address
	immediate uint64
	register  register
	kind      kind
	operation operation
	condition uint8 // of SETcc and CMOVcc
	length    uint8 // in bytes
	size      uint8 // of the operand in memory, in bytes
	to        bool  // the destination is in memory
	fromImm   bool  // the other operand is the immediate
	selector  bool  // the other operand is segment register immediate
	signed    bool  // extend the operand in memory by its sign
	repeat    uint8 // 0, or the prefix F2 or F3
}

// A register is a general register, or a part of one.
type register struct {
	number uint8 // as in asm.Guest.Regs
	size   uint8 // in bytes
	shift  uint8 // 8 for AH, CH, DH and BH
}

// Numbers of registers in addresses that are none.
const (
	noRegister  = 0xff
	nextAddress = 0xfe // the instruction behind this one
)

// An address is base + index*scale + displacement, modulo size bytes.
type address struct {
	displacement uint64
	base, index  uint8
	scale        uint8
	size         uint8
	segment      vmcs.SegmentRegister
}

// decode decodes the instruction at the beginning of code.
func decode(code []byte, codeSize int) (in instruction, err error) {
	refuse := func(reason string) (instruction, error) {
		return instruction{}, &DecodeError{append([]byte(nil), code...), codeSize, reason}
	}
	if len(code) > 0 {
		switch code[0] {
		case 0x62, 0xc4, 0xc5: // not shown to x86asm, of which these take a part of its own
			return refuse("this package does not know VEX and EVEX prefixes, nor BOUND, LES and LDS")
		}
	}
	d, err := x86asm.Decode(code, codeSize)
	switch {
	case err != nil:
		return refuse(err.Error())
	case d.Op == 0: // x86asm makes an instruction of a prefix alone
		return refuse("unrecognized instruction")
	}
	in = instruction{length: uint8(d.Len), size: uint8(d.MemBytes)}
	if reason := in.classify(&d); reason != "" {
		return refuse(reason)
	}
	for _, p := range d.Prefix {
		if p&x86asm.PrefixInvalid != 0 && d.Op != x86asm.XCHG {
			in.kind = kindInvalid // a LOCK that is not allowed (SDM Vol. 2A LOCK)
		}
	}
	return in, nil
}

// classify fills in what the instruction does. It returns why it cannot.
func (in *instruction) classify(d *x86asm.Inst) (reason string) {
	if in.stringOperation(d) {
		return ""
	}
	inMemory := in.operands(d)
	compute := func(o operation) { in.kind, in.operation = kindCompute, o }
	bit := func(o operation) { in.kind, in.operation = kindBit, o }
	switch d.Op {
	case x86asm.MOV, x86asm.MOVNTI, x86asm.MOVZX:
		in.kind = kindMove
	case x86asm.MOVSX, x86asm.MOVSXD:
		in.kind, in.signed = kindMove, true
		in.size = min(in.size, in.register.size) // MOVSXD r16, r/m16, of which x86asm makes m32
	case x86asm.MOVBE:
		in.kind = kindMoveBE
	case x86asm.ADD:
		compute(opAdd)
	case x86asm.OR:
		compute(opOr)
	case x86asm.ADC:
		compute(opAdc)
	case x86asm.SBB:
		compute(opSbb)
	case x86asm.AND:
		compute(opAnd)
	case x86asm.SUB:
		compute(opSub)
	case x86asm.XOR:
		compute(opXor)
	case x86asm.CMP:
		compute(opCmp)
	case x86asm.TEST:
		compute(opTest)
	case x86asm.INC:
		compute(opInc)
	case x86asm.DEC:
		compute(opDec)
	case x86asm.NOT:
		compute(opNot)
	case x86asm.NEG:
		compute(opNeg)
	case x86asm.BT:
		bit(opBt)
	case x86asm.BTS:
		bit(opBts)
	case x86asm.BTR:
		bit(opBtr)
	case x86asm.BTC:
		bit(opBtc)
	case x86asm.XCHG:
		in.kind = kindExchange
	case x86asm.XADD:
		in.kind = kindAdd
	case x86asm.CMPXCHG:
		in.kind = kindCompare
	case x86asm.CMPXCHG8B, x86asm.CMPXCHG16B:
		in.kind = kindCompare2
	case x86asm.PUSH:
		in.kind = kindPush
	case x86asm.POP:
		in.kind = kindPop
	default:
		// SETcc is 0F 9x, CMOVcc 0F 4x (SDM Vol. 2D table A-3).
		in.condition = uint8(d.Opcode>>16) & 15
		switch d.Opcode >> 20 {
		case 0x0f9:
			in.kind = kindSet
		case 0x0f4:
			in.kind = kindCMov
		default:
			return "this package does not know " + d.Op.String()
		}
	}
	switch {
	case !inMemory:
		return "no operand is in memory"
	case in.selector && !in.to:
		return "it loads a segment register"
	case in.size == 0:
		return "the size of its operand is not known"
	}
	return ""
}

// operands sorts the operands, of which one must be in memory.
func (in *instruction) operands(d *x86asm.Inst) bool {
	memory := -1
	for i, arg := range d.Args[:2] {
		switch v := arg.(type) {
		case x86asm.Mem:
			if memory >= 0 {
				return false
			}
			memory = i
			in.address = decodeAddress(d, v)
		case x86asm.Imm:
			in.fromImm, in.immediate = true, uint64(v)
		case x86asm.Reg:
			if x86asm.ES <= v && v <= x86asm.GS {
				in.selector, in.immediate = true, uint64(v-x86asm.ES)
			} else if r, ok := decodeRegister(v); ok {
				in.register = r
			} else {
				return false
			}
		}
	}
	in.to = memory == 0
	return memory >= 0 && d.Args[2] == nil
}

func decodeRegister(r x86asm.Reg) (register, bool) {
	n := uint8(r)
	switch {
	case r < x86asm.AL || r > x86asm.R15:
		return register{}, false
	case r <= x86asm.BL:
		return register{n - uint8(x86asm.AL), 1, 0}, true
	case r <= x86asm.BH:
		return register{n - uint8(x86asm.AH), 1, 8}, true
	case r <= x86asm.R15B:
		return register{n - uint8(x86asm.SPB) + 4, 1, 0}, true
	case r <= x86asm.R15W:
		return register{n - uint8(x86asm.AX), 2, 0}, true
	case r <= x86asm.R15L:
		return register{n - uint8(x86asm.EAX), 4, 0}, true
	}
	return register{n - uint8(x86asm.RAX), 8, 0}, true
}

func decodeAddress(d *x86asm.Inst, m x86asm.Mem) address {
	a := address{displacement: uint64(m.Disp), base: noRegister, index: noRegister, scale: m.Scale, size: uint8(d.AddrSize / 8), segment: vmcs.DS}
	if r, ok := decodeRegister(m.Base); ok {
		a.base = r.number
		if r.number == 4 || r.number == 5 { // SP, BP (SDM Vol. 1 3.7.4)
			a.segment = vmcs.SS
		}
	} else if m.Base == x86asm.EIP || m.Base == x86asm.RIP {
		a.base = nextAddress
	}
	if r, ok := decodeRegister(m.Index); ok {
		a.index = r.number
	}
	if m.Segment != 0 {
		a.segment = vmcs.SegmentRegister(m.Segment - x86asm.ES)
	}
	// x86asm zero-extends displacements of 32 bits. Only MOV's A0 to A3 have longer ones.
	if op := d.Opcode >> 24; op < 0xa0 || op > 0xa3 {
		a.displacement = signExtend(a.displacement, 4)
	}
	return a
}

var stringKinds = [...]struct {
	kind kind
	ops  [4]x86asm.Op // for operands of 1, 2, 4 and 8 bytes
}{
	{kindMOVS, [4]x86asm.Op{x86asm.MOVSB, x86asm.MOVSW, x86asm.MOVSD, x86asm.MOVSQ}},
	{kindCMPS, [4]x86asm.Op{x86asm.CMPSB, x86asm.CMPSW, x86asm.CMPSD, x86asm.CMPSQ}},
	{kindSTOS, [4]x86asm.Op{x86asm.STOSB, x86asm.STOSW, x86asm.STOSD, x86asm.STOSQ}},
	{kindLODS, [4]x86asm.Op{x86asm.LODSB, x86asm.LODSW, x86asm.LODSD, x86asm.LODSQ}},
	{kindSCAS, [4]x86asm.Op{x86asm.SCASB, x86asm.SCASW, x86asm.SCASD, x86asm.SCASQ}},
}

// stringOperation recognizes string instructions. Their segment is that of the
// operand at RSI; the one at RDI is always in ES.
func (in *instruction) stringOperation(d *x86asm.Inst) bool {
	for _, s := range stringKinds {
		for i, op := range s.ops {
			if d.Op == op {
				in.kind, in.size = s.kind, 1<<i
			}
		}
	}
	if in.kind == 0 {
		return false
	}
	in.register = register{size: in.size} // AL, AX, EAX or RAX
	in.address = address{base: noRegister, index: noRegister, size: uint8(d.AddrSize / 8), segment: vmcs.DS}
	for _, arg := range d.Args[:2] {
		if m, ok := arg.(x86asm.Mem); ok && m.Segment != 0 && m.Base&15 == x86asm.SI&15 {
			in.address.segment = vmcs.SegmentRegister(m.Segment - x86asm.ES)
		}
	}
	for _, p := range d.Prefix {
		switch p &^ x86asm.PrefixImplicit {
		case x86asm.PrefixREP, x86asm.PrefixREPN:
			in.repeat = uint8(p)
		}
	}
	return true
}
