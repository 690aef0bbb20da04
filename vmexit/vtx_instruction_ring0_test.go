package vmexit_test

import (
	"fmt"
	"testing"

	"github.com/govtx/vtx/asm"
	"github.com/govtx/vtx/internal/require"
	"github.com/govtx/vtx/internal/ring0test"
	"github.com/govtx/vtx/internal/vmtest"
	"github.com/govtx/vtx/ring0"
	"github.com/govtx/vtx/vmcs"
	"github.com/govtx/vtx/vmexit"
	"pgregory.net/rapid"
)

// An instruction is one that exits. Draw encodes it with operands; the function that
// it returns checks the decoded exit against them.
type instruction struct {
	name   string
	reason vmexit.Basic
	modes  func(m vmtest.Mode) bool                // nil: all
	fault  func(m vmtest.Mode) (vmcs.Vector, bool) // what it raises instead of exiting, by mode; nil: nothing
	draw   func(s *shot) func()
}

// privileged instructions raise #GP at CPL 3, which comes before the VM exit (SDM
// Vol. 3C 26.1.1).
func privileged(m vmtest.Mode) (vmcs.Vector, bool) { return vmcs.VectorGP, m == vmtest.ModeVirtual8086 }

// protected instructions are not known in real-address and virtual-8086 mode.
func protected(m vmtest.Mode) (vmcs.Vector, bool) {
	return vmcs.VectorUD, m == vmtest.ModeReal || m == vmtest.ModeVirtual8086
}

// vmx instructions are not known in compatibility mode either.
func vmx(m vmtest.Mode) (vmcs.Vector, bool) {
	_, no := protected(m)
	return vmcs.VectorUD, no || m == vmtest.ModeCompatibility
}

func undefinedInVirtual8086(m vmtest.Mode) (vmcs.Vector, bool) {
	return vmcs.VectorUD, m == vmtest.ModeVirtual8086
}

// opcode is an instruction without operands.
func opcode(code ...byte) func(s *shot) func() {
	return func(s *shot) func() {
		s.encode(simple(code...))
		return nil
	}
}

// xsetbvAtCPL3: SDM Vol. 2D has #GP if the CPL is above 0, and Vol. 3C 26.1.1 such
// faults before the exit. Bochs' XSETBV exits first.
var xsetbvAtCPL3 = &deviation{name: "XSETBV exits at CPL 3"}

// operandSize: SDM Vol. 3C table 28-10 has the operand size in bit 11. Bochs'
// gen_instruction_info leaves it 0.
var operandSize = &deviation{name: "no operand size in the information of LGDT, LIDT, SGDT and SIDT"}

// randomSize: SDM Vol. 3C table 28-12 has the operand size. Bochs' gen_instruction_info
// looks at the address size where it means that of the operand, unless REX.W is 1.
var randomSize = &deviation{name: "wrong operand size in the information of RDRAND and RDSEED"}

// leftDisplacement: SDM Vol. 3C 28.2.1 has 0 if there is no displacement. Bochs'
// VMexit_Instruction takes it from where the decoder, for an operand in a register, has
// not written.
var leftDisplacement = &deviation{name: "a displacement, of an earlier instruction, for an operand in a register"}

// noDisplacement looks at the qualification for an operand in a register.
func (s *shot) noDisplacement() { leftDisplacement.hits(s.qualification != 0) }

var instructions = []instruction{
	{name: "CPUID", reason: vmexit.CPUID, draw: opcode(0x0f, 0xa2)},
	{name: "GETSEC", reason: vmexit.GETSEC, draw: opcode(0x0f, 0x37)},
	{name: "HLT", reason: vmexit.HLT, fault: privileged, draw: opcode(0xf4)},
	{name: "INVD", reason: vmexit.INVD, fault: privileged, draw: opcode(0x0f, 0x08)},
	{name: "WBINVD", reason: vmexit.WBINVD, fault: privileged, draw: func(s *shot) func() {
		s.encode(simple(0x0f, 0x09))
		return func() { require.False(s.t, vmexit.WBINVDQualification(s.qualification).WBNOINVD(), "%v", s) }
	}},
	{name: "RDPMC", reason: vmexit.RDPMC, fault: privileged, draw: opcode(0x0f, 0x33)},
	{name: "RDTSC", reason: vmexit.RDTSC, draw: opcode(0x0f, 0x31)},
	{name: "RDTSCP", reason: vmexit.RDTSCP, draw: opcode(0x0f, 0x01, 0xf9)},
	{name: "VMCALL", reason: vmexit.VMCALL, draw: opcode(0x0f, 0x01, 0xc1)},
	{name: "VMLAUNCH", reason: vmexit.VMLAUNCH, fault: vmx, draw: opcode(0x0f, 0x01, 0xc2)},
	{name: "VMRESUME", reason: vmexit.VMRESUME, fault: vmx, draw: opcode(0x0f, 0x01, 0xc3)},
	{name: "VMXOFF", reason: vmexit.VMXOFF, fault: vmx, draw: opcode(0x0f, 0x01, 0xc4)},
	{name: "XSETBV", reason: vmexit.XSETBV, fault: func(m vmtest.Mode) (vmcs.Vector, bool) {
		return vmcs.VectorGP, m == vmtest.ModeVirtual8086 && !xsetbvAtCPL3.hits(true)
	}, draw: opcode(0x0f, 0x01, 0xd1)},
	{name: "MONITOR", reason: vmexit.MONITOR, fault: undefinedInVirtual8086, draw: opcode(0x0f, 0x01, 0xc8)},
	{name: "PAUSE", reason: vmexit.PAUSE, draw: opcode(0xf3, 0x90)},
	{name: "RDMSR", reason: vmexit.RDMSR, fault: privileged, draw: opcode(0x0f, 0x32)},
	{name: "WRMSR", reason: vmexit.WRMSR, fault: privileged, draw: func(s *shot) func() {
		s.encode(simple(0x0f, 0x30))
		return func() { require.False(s.t, vmexit.WRMSRQualification(s.qualification).NonSerializing(), "%v", s) }
	}},
	{name: "VMFUNC", reason: vmexit.VMFUNC, draw: func(s *shot) func() {
		s.set(asm.RAX, s.registers[asm.RAX]&^0xffffffff|uint64(drawBelow(s.t, "function", 64)))
		s.encode(simple(0x0f, 0x01, 0xd4))
		return nil
	}},
	{name: "MWAIT", reason: vmexit.MWAIT, fault: undefinedInVirtual8086, draw: func(s *shot) func() {
		armed := s.mode != vmtest.ModeVirtual8086 && drawBool(s.t, "armed")
		if armed {
			vmtest.ClearControls(s.Guest, vmcs.PrimaryMONITORExiting)
			s.setBase(vmcs.DS, 0)
			s.set(asm.RAX, vmtest.Data)
			s.set(asm.RCX, 0)
			s.code = append(s.code, 0x0f, 0x01, 0xc8)
			s.leads()
		}
		s.encode(simple(0x0f, 0x01, 0xc9))
		return func() { require.Equal(s.t, armed, vmexit.MWAITQualification(s.qualification).Armed(), "%v", s) }
	}},
	{name: "MOV to CR", reason: vmexit.CRAccess, fault: privileged, draw: drawMOVCR(true)},
	{name: "MOV from CR", reason: vmexit.CRAccess, fault: privileged, draw: drawMOVCR(false)},
	{name: "CLTS", reason: vmexit.CRAccess, fault: privileged, draw: func(s *shot) func() {
		s.Set(vmcs.CR0ReadShadow, drawWord(s.t, "shadow")|1<<3)
		s.encode(simple(0x0f, 0x06))
		return func() {
			q := vmexit.CRAccessQualification(s.qualification)
			require.Equal(s.t, vmexit.CLTS, q.Type(), "%v", s)
			require.Equal(s.t, 0, q.CR(), "%v", s)
			require.Equal(s.t, "CLTS", q.String())
		}
	}},
	{name: "LMSW", reason: vmexit.CRAccess, fault: privileged, draw: drawLMSW},
	{name: "MOV DR", reason: vmexit.MOVDR, draw: drawMOVDR}, // before its #GP (26.1.3)
	{name: "INVLPG", reason: vmexit.INVLPG, fault: privileged, draw: func(s *shot) func() {
		m := s.drawMemory()
		s.encode(encoding{opcode: []byte{0x0f, 0x01}, reg: 7, rm: m})
		want := s.linearOf(m.segment, s.offset(&m))
		return func() {
			require.Equal(s.t, want, vmexit.LinearAddressQualification(s.qualification).Address(), "%v", s)
		}
	}},
	{name: "IN and OUT", reason: vmexit.IOInstruction, fault: privileged, draw: drawIO},
	{name: "INS and OUTS", reason: vmexit.IOInstruction, fault: privileged, draw: drawStringIO},
	{name: "SGDT and SIDT", reason: vmexit.GDTRIDTRAccess, draw: func(s *shot) func() { return s.drawDescriptorTable(0) }},
	{name: "LGDT and LIDT", reason: vmexit.GDTRIDTRAccess, fault: privileged, draw: func(s *shot) func() { return s.drawDescriptorTable(2) }},
	{name: "SLDT, STR, LLDT and LTR", reason: vmexit.LDTRTRAccess, fault: protected, draw: drawSystemSegment},
	{name: "VMCLEAR", reason: vmexit.VMCLEAR, fault: vmx, draw: drawPointer(0x66, 6)},
	{name: "VMPTRLD", reason: vmexit.VMPTRLD, fault: vmx, draw: drawPointer(0, 6)},
	{name: "VMPTRST", reason: vmexit.VMPTRST, fault: vmx, draw: drawPointer(0, 7)},
	{name: "VMXON", reason: vmexit.VMXON, fault: vmx, draw: drawPointer(0xf3, 6)},
	{name: "XSAVES", reason: vmexit.XSAVES, fault: privileged, draw: drawXSAVES(5)},
	{name: "XRSTORS", reason: vmexit.XRSTORS, fault: privileged, draw: drawXSAVES(3)},
	{name: "VMREAD", reason: vmexit.VMREAD, fault: vmx, draw: drawField(0x78)},
	{name: "VMWRITE", reason: vmexit.VMWRITE, fault: vmx, draw: drawField(0x79)},
	{name: "INVEPT", reason: vmexit.INVEPT, fault: vmx, draw: drawInvalidation(0x80)},
	{name: "INVVPID", reason: vmexit.INVVPID, fault: vmx, draw: drawInvalidation(0x81)},
	{name: "INVPCID", reason: vmexit.INVPCID, fault: privileged, draw: drawInvalidation(0x82)},
	{name: "RDRAND", reason: vmexit.RDRAND, draw: drawRandom(6)},
	{name: "RDSEED", reason: vmexit.RDSEED, draw: drawRandom(7)},
	{name: "INT1", reason: vmexit.ExceptionOrNMI, draw: func(s *shot) func() { return s.drawSoftware(vmcs.InjectINT1(1), 0xf1) }},
	{name: "INT3", reason: vmexit.ExceptionOrNMI, draw: func(s *shot) func() {
		return s.drawSoftware(vmcs.InjectSoftwareException(vmcs.VectorBP, 1), 0xcc)
	}},
	{name: "INTO", reason: vmexit.ExceptionOrNMI, modes: func(m vmtest.Mode) bool { return m != vmtest.ModeLong }, draw: func(s *shot) func() {
		s.Set(vmcs.GuestRFLAGS, s.Get(vmcs.GuestRFLAGS)|1<<11)
		return s.drawSoftware(vmcs.InjectSoftwareException(vmcs.VectorOF, 1), 0xce)
	}},
}

func drawMOVCR(to bool) func(s *shot) func() {
	return func(s *shot) func() {
		r := s.drawRegister()
		numbers := []vmexit.Register{0, 3, 4, 8}
		if !to {
			numbers = []vmexit.Register{3, 8} // others never exit
		}
		if s.bits != 64 {
			numbers = numbers[:len(numbers)-1]
		}
		n := numbers[drawBelow(s.t, "control register", len(numbers))]
		differ := s.registers[r] ^ 1<<drawBelow(s.t, "bit", 32)
		s.Set(vmcs.CR0ReadShadow, differ)
		s.Set(vmcs.CR4ReadShadow, differ)
		e := encoding{opcode: []byte{0x0f, 0x20}, reg: n, rm: place{modRM: 3<<6 | byte(r)&7, b: r >= 8}}
		if to {
			e.opcode[1] = 0x22
		}
		s.encode(e)
		return func() {
			q := vmexit.CRAccessQualification(s.qualification)
			want, text := vmexit.MOVToCR, "MOV to CR%d from %v"
			if !to {
				want, text = vmexit.MOVFromCR, "MOV from CR%d to %v"
			}
			require.Equal(s.t, want, q.Type(), "%v", s)
			require.Equal(s.t, int(n), q.CR(), "%v", s)
			require.Equal(s.t, r, q.Register(), "%v", s)
			require.Equal(s.t, fmt.Sprintf(text, n, r), q.String())
		}
	}
}

func drawLMSW(s *shot) func() {
	value := uint16(drawWord(s.t, "value"))
	s.Set(vmcs.CR0ReadShadow, uint64(value)^2<<drawBelow(s.t, "bit", 3)) // MP, EM or TS
	e := encoding{opcode: []byte{0x0f, 0x01}, reg: 6}
	inMemory := drawBool(s.t, "memory")
	target := vmtest.Data + uint64(drawBelow(s.t, "target", 0x2000))
	if inMemory {
		e.rm = s.drawAimed(target)
		s.Memory[target], s.Memory[target+1] = byte(value), byte(value>>8)
	} else {
		e.rm = s.drawInRegister()
		s.set(e.rm.register, s.registers[e.rm.register]&^0xffff|uint64(value))
	}
	s.encode(e)
	return func() {
		q := vmexit.CRAccessQualification(s.qualification)
		require.Equal(s.t, vmexit.LMSW, q.Type(), "%v", s)
		require.Equal(s.t, 0, q.CR(), "%v", s)
		require.Equal(s.t, value, q.LMSWSource(), "%v", s)
		require.Equal(s.t, inMemory, q.Memory(), "%v", s)
		if inMemory {
			require.Equal(s.t, target, s.linear, "%v", s)
		}
	}
}

func drawMOVDR(s *shot) func() {
	r, n, from := s.drawRegister(), vmexit.Register(drawBelow(s.t, "debug register", 8)), drawBool(s.t, "from")
	e := encoding{opcode: []byte{0x0f, 0x23}, reg: n, rm: place{modRM: 3<<6 | byte(r)&7, b: r >= 8}}
	if from {
		e.opcode[1] = 0x21
	}
	s.encode(e)
	return func() {
		q := vmexit.DRAccessQualification(s.qualification)
		require.Equal(s.t, int(n), q.DR(), "%v", s)
		require.Equal(s.t, from, q.From(), "%v", s)
		require.Equal(s.t, r, q.Register(), "%v", s)
	}
}

func drawIO(s *shot) func() {
	size, in, immediate := 1<<drawBelow(s.t, "size", 3), drawBool(s.t, "in"), drawBool(s.t, "immediate")
	port := uint16(s.registers[asm.RDX])
	e := simple(0xec)
	if immediate {
		port = uint16(drawBelow(s.t, "port", 256))
		e.opcode[0], e.immediate = 0xe4, []byte{byte(port)}
	}
	if !in {
		e.opcode[0] |= 2
	}
	if size > 1 {
		e.opcode[0] |= 1
		e.size = 8 * size
	}
	s.encode(e)
	return func() { s.isIO(size, in, immediate, false, false, port) }
}

func (s *shot) isIO(size int, in, immediate, str, rep bool, port uint16) {
	q := vmexit.IOQualification(s.qualification)
	require.Equal(s.t, size, q.Size(), "%v", s)
	require.Equal(s.t, in, q.In(), "%v", s)
	require.Equal(s.t, immediate, q.Immediate(), "%v", s)
	require.Equal(s.t, str, q.StringInstruction(), "%v", s)
	require.Equal(s.t, rep, q.REP(), "%v", s)
	require.Equal(s.t, port, q.Port(), "%v", s)
}

func drawStringIO(s *shot) func() {
	size, in, rep := 1<<drawBelow(s.t, "size", 3), drawBool(s.t, "in"), drawBool(s.t, "REP")
	m := place{memory: true, address: s.addressBits(), segment: vmcs.DS, index: none, base: asm.RSI}
	s.drawOverride(&m)
	e := simple(0x6e)
	if in {
		e.opcode[0], m.base, m.segment = 0x6c, asm.RDI, vmcs.ES
	}
	if rep {
		e.prefix = 0xf3
		s.registers[asm.RCX] |= 1 // 0 would do nothing
	}
	if size > 1 {
		e.opcode[0] |= 1
		e.size = 8 * size
		if size == 4 && s.bits == 64 {
			e.size = 0
		}
	}
	e.rm = m
	s.encode(e)
	return func() {
		s.isIO(size, in, false, true, rep, uint16(s.registers[asm.RDX]))
		i := vmexit.StringIOInformation(s.information)
		require.Equal(s.t, m.address, i.AddressBits(), "%v", s)
		if !in {
			require.Equal(s.t, m.segment, i.Segment(), "%v", s)
		}
		s.operandIs(&m, i.Operand(in), 0)
		require.Equal(s.t, s.linearOf(m.segment, s.offset(&m)), s.linear, "%v", s)
	}
}

// drawDescriptorTable draws SGDT or SIDT (0) or LGDT or LIDT (2).
func (s *shot) drawDescriptorTable(load vmexit.Register) func() {
	n := load | vmexit.Register(drawBelow(s.t, "IDT", 2))
	size := 16 << drawBelow(s.t, "operand size", 2)
	e := encoding{opcode: []byte{0x0f, 0x01}, reg: n, rm: s.drawMemory(), size: size}
	s.encode(e)
	return func() {
		i := vmexit.DescriptorTableInformation(s.information)
		require.Equal(s.t, vmexit.DescriptorTableInstruction(n), i.Instruction(), "%v", s)
		require.Equal(s.t, load != 0, i.Instruction().Load(), "%v", s)
		if s.bits != 64 {
			if operandSize.hits(size == 32) {
				size = 16
			}
			require.Equal(s.t, size, i.OperandBits(), "%v", s)
		}
		s.operandIs(&e.rm, i.Operand(), s.qualification)
	}
}

func drawSystemSegment(s *shot) func() {
	ext := vmexit.Register(drawBelow(s.t, "instruction", 4)) // SLDT, STR, LLDT, LTR
	e := encoding{opcode: []byte{0x0f, 0x00}, reg: ext}
	inRegister := drawBool(s.t, "register")
	if inRegister {
		e.rm = s.drawInRegister()
	} else {
		e.rm = s.drawMemory()
	}
	s.encode(e)
	return func() {
		i := vmexit.SystemSegmentInformation(s.information)
		require.Equal(s.t, vmexit.SystemSegmentInstruction(ext), i.Instruction(), "%v", s)
		require.Equal(s.t, inRegister, i.InRegister(), "%v", s)
		if inRegister {
			require.Equal(s.t, e.rm.register, i.Register(), "%v", s)
			s.noDisplacement()
			return
		}
		s.operandIs(&e.rm, i.Operand(), s.qualification)
	}
}

// drawPointer draws an instruction with a memory operand alone: 0F C7 with an opcode
// extension.
func drawPointer(prefix byte, ext vmexit.Register) func(s *shot) func() {
	return func(s *shot) func() {
		e := encoding{prefix: prefix, opcode: []byte{0x0f, 0xc7}, reg: ext, rm: s.drawMemory()}
		s.encode(e)
		return func() { s.operandIs(&e.rm, vmexit.VMXPointerInformation(s.information).Operand(), s.qualification) }
	}
}

func drawXSAVES(ext vmexit.Register) func(s *shot) func() {
	return func(s *shot) func() {
		e := encoding{opcode: []byte{0x0f, 0xc7}, reg: ext, rm: s.drawMemory(), w: s.bits == 64 && drawBool(s.t, "REX.W")}
		mask := xss(s.Machine)
		s.set(asm.RAX, s.registers[asm.RAX]|mask&0xffffffff)
		s.set(asm.RDX, s.registers[asm.RDX]|mask>>32)
		s.encode(e)
		return func() { s.operandIs(&e.rm, vmexit.VMXPointerInformation(s.information).Operand(), s.qualification) }
	}
}

func drawField(code byte) func(s *shot) func() {
	return func(s *shot) func() {
		e := encoding{opcode: []byte{0x0f, code}, reg: s.drawRegister()}
		inRegister := drawBool(s.t, "register")
		if inRegister {
			e.rm = s.drawInRegister()
		} else {
			e.rm = s.drawMemory()
		}
		s.encode(e)
		return func() {
			i := vmexit.VMCSFieldInformation(s.information)
			require.Equal(s.t, e.reg, i.Encoding(), "%v", s)
			require.Equal(s.t, inRegister, i.InRegister(), "%v", s)
			if inRegister {
				require.Equal(s.t, e.rm.register, i.Register(), "%v", s)
				s.noDisplacement()
				return
			}
			s.operandIs(&e.rm, i.Operand(), s.qualification)
		}
	}
}

func drawInvalidation(code byte) func(s *shot) func() {
	return func(s *shot) func() {
		e := encoding{prefix: 0x66, opcode: []byte{0x0f, 0x38, code}, reg: s.drawRegister(), rm: s.drawMemory()}
		s.encode(e)
		return func() {
			i := vmexit.InvalidationInformation(s.information)
			require.Equal(s.t, e.reg, i.Register(), "%v", s)
			s.operandIs(&e.rm, i.Operand(), s.qualification)
		}
	}
}

func drawRandom(ext vmexit.Register) func(s *shot) func() {
	return func(s *shot) func() {
		e := encoding{opcode: []byte{0x0f, 0xc7}, reg: ext, rm: s.drawInRegister(), size: 16 << drawBelow(s.t, "operand size", 2)}
		if s.bits == 64 && drawBool(s.t, "REX.W") {
			e.size = 64
		}
		s.encode(e)
		return func() {
			i := vmexit.RandomInformation(s.information)
			require.Equal(s.t, e.rm.register, i.Register(), "%v", s)
			want := e.size
			if addressSize := max(16, min(32, s.bits)); want != 64 && randomSize.hits(want != addressSize) {
				want = addressSize
			}
			require.Equal(s.t, want, i.OperandBits(), "%v", s)
		}
	}
}

// drawSoftware draws an instruction that raises an event of its own.
func (s *shot) drawSoftware(event vmcs.Event, code byte) func() {
	s.encode(simple(code))
	event.Length = s.length()
	return func() {
		require.Equal(s.t, s.at(), s.RIP, "%v", s)
		require.Equal(s.t, s.length(), s.InstructionLength, "%v", s)
		s.excepted(event)
	}
}

// everythingExits sets every control that makes instructions exit.
func everythingExits(b *bench) {
	vmtest.SetControls(b.Guest, vmcs.PrimaryINVLPGExiting|vmcs.PrimaryMWAITExiting|vmcs.PrimaryRDPMCExiting|vmcs.PrimaryRDTSCExiting|
		vmcs.PrimaryCR3LoadExiting|vmcs.PrimaryCR3StoreExiting|vmcs.PrimaryCR8LoadExiting|vmcs.PrimaryCR8StoreExiting|
		vmcs.PrimaryMOVDRExiting|vmcs.PrimaryUnconditionalIOExiting|vmcs.PrimaryMONITORExiting|vmcs.PrimaryPAUSEExiting)
	for _, c := range []vmcs.SecondaryControls{
		vmcs.SecondaryDescriptorTableExiting, vmcs.SecondaryWBINVDExiting, vmcs.SecondaryRDRANDExiting, vmcs.SecondaryRDSEEDExiting,
		vmcs.SecondaryEnableVMFunctions,
	} {
		if vmtest.Has(b.Machine, c) {
			vmtest.SetControls(b.Guest, c)
		}
	}
	if vmcs.XSSExitingBitmap.Supported(b.Caps) {
		b.Set(vmcs.XSSExitingBitmap, ^uint64(0))
	}
	b.Set(vmcs.CR0GuestHostMask, ^uint64(0))
	b.Set(vmcs.CR4GuestHostMask, ^uint64(0))
	const osxsave, smxe = 1 << 18, 1 << 14
	b.Set(vmcs.GuestCR4, b.Get(vmcs.GuestCR4)|(osxsave|smxe)&b.Caps.CR4Fixed1)
}

// TestExitsAreWhatWasDrawn: instructions with drawn operands, in guests of every mode,
// exit, and what is decoded from the exits is what was drawn. Then the events and the
// accesses to memory that exit, each by a property of its own.
func TestExitsAreWhatWasDrawn(t *testing.T) {
	if ring0.Active() && !ring0test.Optimised() {
		t.Skip("takes minutes without optimization, and the guests' code is the same")
	}
	l := newLedger(t)
	setFlag(t, "rapid.seed", "1")
	setFlag(t, "rapid.nofailfile", "true")
	if mask := xss(l.Machine); mask != 0 {
		old := asm.RDMSR(msrXSS)
		asm.WRMSR(msrXSS, mask)
		t.Cleanup(func() { asm.WRMSR(msrXSS, old) })
	}
	if !vmtest.Has(l.Machine, vmcs.SecondaryEnableEPT) {
		l.instructions(t)
		t.Skip("this processor has no EPT, which the other parts need")
	}
	for _, part := range []struct {
		name string
		run  func(t *testing.T)
	}{
		{"instructions", l.instructions},
		{"exceptions", l.exceptions},
		{"page faults", l.pageFaults},
		{"debug exceptions", l.debugExceptions},
		{"asynchronous", l.asynchronous},
		{"task switches", l.taskSwitches},
		{"deliveries", l.deliveries},
		{"combinations", l.combinations},
		{"NMI unblocking", l.unblocking},
		{"entry failures", l.entryFailures},
		{"EPT rights", l.eptRights},
		{"EPT walks", l.eptWalks},
		{"EPT misconfigurations", l.eptMisconfigurations},
		{"page-modification logs", l.fullLogs},
		{"sub-page permissions", l.subPages},
		{"EPTP switching and #VE", l.eptpSwitching},
		{"APIC accesses", l.apicAccesses},
		{"virtual APIC", l.virtualAPIC},
		{"interrupts", l.interrupts},
	} {
		t.Log(part.name)
		part.run(t) // no subtest, which would be on another thread
	}
	l.report(deviations)
}

// deviations are all that these tests allow for.
var deviations = []*deviation{errorCodeInRealMode, xsetbvAtCPL3, operandSize, randomSize, leftDisplacement, mtfControl, stiAndNMI, walkOfAPICPage, walkAsWrite}

func (l *ledger) instructions(t *testing.T) {
	var benches []*bench
	for _, k := range l.Kinds() {
		if k.EPT == vmtest.Has(l.Machine, vmcs.SecondaryEnableEPT) {
			benches = append(benches, l.newBench(k, everythingExits))
		}
	}
	drawn := map[string]int{}
	check(t, *drawnExits, func(t *rapid.T) {
		b := benches[drawBelow(t, "guest", len(benches))]
		i := &instructions[drawBelow(t, "instruction", len(instructions))]
		if why := l.cannot(i.reason); why != "" || i.modes != nil && !i.modes(b.mode) {
			return
		}
		b.Use()
		s := b.shoot(t)
		s.drawBases()
		check := i.draw(s)
		s.fire()
		drawn[i.name]++
		if i.fault != nil {
			if v, ok := i.fault(b.mode); ok {
				s.faulted(v)
				return
			}
		}
		s.exited(i.reason)
		if check != nil {
			check()
		}
	})
	for _, i := range instructions {
		if drawn[i.name] == 0 && l.cannot(i.reason) == "" && ring0test.Whole() {
			l.Errorf("%s was not drawn: draw more", i.name)
		}
	}
	l.Logf("%d instructions on %d guests", ring0test.Share(*drawnExits), len(benches))
}
