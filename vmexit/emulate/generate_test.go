package emulate_test

import (
	"encoding/binary"
	"math/rand/v2"

	"pgregory.net/rapid"
)

// An encoding is a way to write instructions with an operand in memory.
type encoding struct {
	opcode    []byte
	extension int // of the opcode, in ModRM's reg field; anyRegister: a register
	immediate immediate
	lock      bool // LOCK is allowed
	plain     bool // prefixes F2, F3 and 66 would make another instruction of it
}

const (
	anyRegister  = -1
	noModRM      = -2
	segmentField = -3
)

type immediate uint8

const (
	noImmediate immediate = iota
	byteImmediate
	fullImmediate // 2 or 4 bytes
	absolute      // an address of the address size
)

// encodings are all those that package emulate knows. The first is for 64-bit mode only.
var encodings = func() (all []encoding) {
	add := func(e encoding, opcode ...byte) {
		e.opcode = opcode
		all = append(all, e)
	}
	register := encoding{extension: anyRegister}
	add(register, 0x63)      // MOVSXD
	for n := range byte(8) { // ADD, OR, ADC, SBB, AND, SUB, XOR, CMP
		locked := encoding{extension: anyRegister, lock: n != 7}
		add(locked, 8*n)
		add(locked, 8*n+1)
		add(register, 8*n+2)
		add(register, 8*n+3)
		group := encoding{extension: int(n), lock: n != 7, immediate: byteImmediate}
		add(group, 0x80)
		add(group, 0x83)
		group.immediate = fullImmediate
		add(group, 0x81)
	}
	for wide := range byte(2) {
		full := byteImmediate + immediate(wide)
		add(register, 0x84+wide)                                                        // TEST
		add(encoding{extension: anyRegister, lock: true}, 0x86+wide)                    // XCHG
		add(register, 0x88+wide)                                                        // MOV
		add(register, 0x8a+wide)                                                        // MOV
		add(encoding{extension: noModRM, immediate: absolute}, 0xa0+wide)               // MOV
		add(encoding{extension: noModRM, immediate: absolute}, 0xa2+wide)               // MOV
		add(encoding{extension: noModRM}, 0xa4+wide)                                    // MOVS
		add(encoding{extension: noModRM}, 0xa6+wide)                                    // CMPS
		add(encoding{extension: noModRM}, 0xaa+wide)                                    // STOS
		add(encoding{extension: noModRM}, 0xac+wide)                                    // LODS
		add(encoding{extension: noModRM}, 0xae+wide)                                    // SCAS
		add(encoding{extension: 0, immediate: full}, 0xc6+wide)                         // MOV
		add(encoding{extension: 0, immediate: full}, 0xf6+wide)                         // TEST
		add(encoding{extension: 2, lock: true}, 0xf6+wide)                              // NOT
		add(encoding{extension: 3, lock: true}, 0xf6+wide)                              // NEG
		add(encoding{extension: 0, lock: true}, 0xfe+wide)                              // INC
		add(encoding{extension: 1, lock: true}, 0xfe+wide)                              // DEC
		add(encoding{extension: anyRegister, lock: true, plain: true}, 0x0f, 0xb0+wide) // CMPXCHG
		add(encoding{extension: anyRegister, lock: true, plain: true}, 0x0f, 0xc0+wide) // XADD
		add(register, 0x0f, 0xb6+wide)                                                  // MOVZX
		add(register, 0x0f, 0xbe+wide)                                                  // MOVSX
		add(encoding{extension: anyRegister, plain: true}, 0x0f, 0x38, 0xf0+wide)       // MOVBE
	}
	add(encoding{extension: segmentField}, 0x8c)                     // MOV
	add(encoding{extension: 0}, 0x8f)                                // POP
	add(encoding{extension: 6}, 0xff)                                // PUSH
	add(encoding{extension: anyRegister, plain: true}, 0x0f, 0xc3)   // MOVNTI
	add(encoding{extension: 1, lock: true, plain: true}, 0x0f, 0xc7) // CMPXCHG8B, CMPXCHG16B
	for n := range byte(4) {                                         // BT, BTS, BTR, BTC
		add(encoding{extension: anyRegister, lock: n > 0}, 0x0f, 0xa3+8*n)
		add(encoding{extension: 4 + int(n), lock: n > 0, immediate: byteImmediate}, 0x0f, 0xba)
	}
	for n := range byte(16) {
		add(encoding{extension: anyRegister}, 0x0f, 0x90+n) // SETcc
		add(encoding{extension: anyRegister}, 0x0f, 0x40+n) // CMOVcc
	}
	return all
}()

// strings reports whether it is a string instruction.
func (e encoding) strings() bool { return e.extension == noModRM && e.immediate == noImmediate }

// A drawn instruction, and registers with which its operand is at the address wanted.
type drawn struct {
	code []byte
	regs [16]uint64
	fs   uint64 // bases of FS and GS
	gs   uint64
}

// interesting draws a number that may be special.
func interesting(t *rapid.T, name string) uint64 {
	return special(rapid.Uint64().Draw(t, name), rapid.IntRange(0, 5).Draw(t, name+", kind"))
}

func special(v uint64, kind int) uint64 {
	switch kind {
	case 0:
		return v & 0xff
	case 1:
		return -(v & 0xff)
	case 2:
		return 1 << (v & 63)
	case 3:
		return 1<<(v&63) - 1
	}
	return v
}

func chance(t *rapid.T, one int, name string) bool {
	return rapid.IntRange(0, one-1).Draw(t, name) == one-1
}

// draw draws an instruction of codeSize bits. Its operand is at target, the stack at
// stack, and the code at rip; bases says that FS and GS may have bases.
func draw(t *rapid.T, codeSize int, rip, target, stack uint64, bases bool) (d drawn) {
	from := 1
	if codeSize == 64 {
		from = 0
	}
	e := encodings[rapid.IntRange(from, len(encodings)-1).Draw(t, "encoding")]
	source := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "registers"), 0)) // drawn one by one they take long
	for n := range d.regs {
		d.regs[n] = special(source.Uint64(), source.IntN(6))
	}
	d.regs[4] = stack

	// Prefixes.
	addressSize, operandSize := codeSize, min(codeSize, 32)
	var prefixes []byte
	if chance(t, 4, "67") {
		prefixes = append(prefixes, 0x67)
		addressSize = map[int]int{16: 32, 32: 16, 64: 32}[codeSize]
	}
	if !e.plain && chance(t, 3, "66") {
		prefixes = append(prefixes, 0x66)
		operandSize = 48 - operandSize
	}
	segmentBase := uint64(0)
	if bases {
		d.fs, d.gs = rapid.Uint64Range(0, 0x100).Draw(t, "FS"), rapid.Uint64Range(0, 0x100).Draw(t, "GS")
	}
	if chance(t, 3, "segment") {
		p := rapid.SampledFrom([]byte{0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65}).Draw(t, "override")
		prefixes = append(prefixes, p)
		switch p {
		case 0x64:
			segmentBase = d.fs
		case 0x65:
			segmentBase = d.gs
		}
	}
	if e.lock && chance(t, 4, "LOCK") || chance(t, 50, "wrong LOCK") {
		prefixes = append(prefixes, 0xf0)
	}
	repeated := e.strings() && chance(t, 2, "repeat")
	if repeated || !e.plain && len(e.opcode) == 1 && chance(t, 10, "idle F2 or F3") {
		prefixes = append(prefixes, rapid.SampledFrom([]byte{0xf2, 0xf3}).Draw(t, "F2 or F3"))
	}
	if len(prefixes) > 1 {
		prefixes = rapid.Permutation(prefixes).Draw(t, "prefixes")
	}
	rex := byte(0)
	if codeSize == 64 && chance(t, 2, "REX") {
		rex = 0x40 | rapid.Byte().Draw(t, "REX.WRXB")&15
		if e.extension == segmentField {
			rex &^= 4 // it is ignored (SDM Vol. 2A 2.2.1.2), but Bochs 2.7 raises #UD
		}
		prefixes = append(prefixes, rex)
		if rex&8 != 0 {
			operandSize = 64
		}
	}
	d.code = append(prefixes, e.opcode...)

	var imm []byte
	switch value := binary.LittleEndian.AppendUint64(nil, interesting(t, "immediate")); e.immediate {
	case byteImmediate:
		imm = value[:1]
	case fullImmediate:
		imm = value[:min(operandSize/8, 4)]
	case absolute:
		imm = binary.LittleEndian.AppendUint64(nil, target-segmentBase)[:addressSize/8]
	}
	if e.strings() {
		d.regs[6], d.regs[7] = target-segmentBase, target^rapid.Uint64Range(0, 0x3f).Draw(t, "distance")
		if repeated {
			d.regs[1] = rapid.Uint64Range(0, 40).Draw(t, "count")
			if addressSize < 64 && codeSize == 64 {
				d.regs[1] |= interesting(t, "upper half") << 32
			}
		}
	}
	if e.extension == noModRM {
		d.code = append(d.code, imm...)
		return d
	}
	reg := e.extension
	switch reg {
	case anyRegister:
		reg = rapid.IntRange(0, 7).Draw(t, "reg")
	case segmentField:
		reg = rapid.IntRange(0, 5).Draw(t, "Sreg")
	}
	if addressSize == 16 {
		d.modRM16(t, byte(reg), target-segmentBase)
	} else {
		d.modRM(t, codeSize, byte(reg), rex, rip, target-segmentBase, len(imm))
	}
	d.code = append(d.code, imm...)
	return d
}

// modRM16 appends a ModRM byte and displacement (SDM Vol. 2A table 2-1).
func (d *drawn) modRM16(t *rapid.T, reg byte, target uint64) {
	mod, rm := byte(rapid.IntRange(0, 2).Draw(t, "mod")), byte(rapid.IntRange(0, 7).Draw(t, "rm"))
	d.code = append(d.code, mod<<6|reg<<3|rm)
	displacement := d.displacement(t, mod)
	if mod == 0 && rm == 6 {
		d.code = binary.LittleEndian.AppendUint16(d.code, uint16(target))
		return
	}
	parts := [8][]int{{3, 6}, {3, 7}, {5, 6}, {5, 7}, {6}, {7}, {5}, {3}}[rm]
	if len(parts) == 2 {
		d.regs[parts[1]] &= 0xff
		target -= d.regs[parts[1]]
	}
	d.regs[parts[0]] = d.regs[parts[0]]&^0xffff | (target-displacement)&0xffff
	switch mod {
	case 1:
		d.code = append(d.code, byte(displacement))
	case 2:
		d.code = binary.LittleEndian.AppendUint16(d.code, uint16(displacement))
	}
}

func (d *drawn) displacement(t *rapid.T, mod byte) uint64 {
	switch mod {
	case 1:
		return uint64(int64(int8(rapid.Byte().Draw(t, "displacement"))))
	case 2:
		return uint64(int64(int32(interesting(t, "displacement"))))
	}
	return 0
}

// modRM appends ModRM, SIB and displacement for 32-bit and 64-bit addresses (SDM Vol. 2A
// tables 2-2 and 2-3).
func (d *drawn) modRM(t *rapid.T, codeSize int, reg, rex byte, rip, target uint64, behind int) {
	mod, rm := byte(rapid.IntRange(0, 2).Draw(t, "mod")), byte(rapid.IntRange(0, 7).Draw(t, "rm"))
	d.code = append(d.code, mod<<6|reg<<3|rm)
	displacement := d.displacement(t, mod)
	base, none := int(rm)|int(rex&1)<<3, false
	switch {
	case rm == 4:
		scale, index := byte(rapid.IntRange(0, 3).Draw(t, "scale")), byte(rapid.IntRange(0, 7).Draw(t, "index"))
		low := byte(rapid.IntRange(0, 7).Draw(t, "base"))
		d.code = append(d.code, scale<<6|index<<3|low)
		base, none = int(low)|int(rex&1)<<3, mod == 0 && low == 5
		if x := int(index) | int(rex&2)<<2; x != 4 {
			switch {
			case none:
				d.regs[x] &= 0xff
				target -= d.regs[x] << scale
			case x == base:
				d.regs[x] = (target - displacement) / (1 + 1<<scale)
				base = -1
			default:
				d.regs[x] = uint64(int64(int8(d.regs[x])))
				target -= d.regs[x] << scale
			}
		}
	case mod == 0 && rm == 5:
		none = true
		if codeSize == 64 { // relative to RIP
			target -= rip + uint64(len(d.code)+4+behind)
		}
	}
	switch {
	case none:
		d.code = binary.LittleEndian.AppendUint32(d.code, uint32(target))
		return
	case base >= 0:
		d.regs[base] = target - displacement
	}
	switch mod {
	case 1:
		d.code = append(d.code, byte(displacement))
	case 2:
		d.code = binary.LittleEndian.AppendUint32(d.code, uint32(displacement))
	}
}
