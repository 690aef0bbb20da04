package vmexit_test

import (
	"encoding/binary"
	"testing"

	"pgregory.net/rapid"

	"github.com/govtx/vtx/asm"
	"github.com/govtx/vtx/internal/require"
	"github.com/govtx/vtx/internal/vmtest"
	"github.com/govtx/vtx/vmcs"
	"github.com/govtx/vtx/vmexit"
)

// A memoryForm is the encoding of a memory operand, and what it means.
type memoryForm struct {
	operand
	prefixes []byte
	modrm    byte // without the reg field
	rest     []byte
}

// drawForm draws a memory operand that code of the given width (16, 32 or 64) can have.
func drawForm(t *rapid.T, width int) (f memoryForm) {
	f.operand = operand{base: -1, index: -1, segment: vmcs.DS, addressBits: width}
	if rapid.Bool().Draw(t, "other address size") {
		f.prefixes = append(f.prefixes, 0x67)
		f.addressBits = map[int]int{16: 32, 32: 16, 64: 32}[width]
	}
	override := rapid.IntRange(-1, 5).Draw(t, "segment")
	if width == 64 && override >= 0 && override < int(vmcs.FS) {
		override = -1 // ignored there
	}
	if override >= 0 {
		f.prefixes = append(f.prefixes, [...]byte{0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65}[override])
	}
	mod := rapid.ByteRange(0, 2).Draw(t, "mod")
	if f.addressBits == 16 {
		rm := rapid.ByteRange(0, 7).Draw(t, "rm")
		f.base = [...]int{asm.RBX, asm.RBX, asm.RBP, asm.RBP, asm.RSI, asm.RDI, asm.RBP, asm.RBX}[rm]
		if rm < 4 {
			f.index = [...]int{asm.RSI, asm.RDI}[rm&1]
		}
		f.modrm = mod<<6 | rm
		if mod == 0 && rm == 6 {
			f.base = -1
		}
		f.displacement(t, mod, mod == 0 && rm == 6, 2)
	} else {
		regs := 8
		if width == 64 {
			regs = 16
		}
		base := rapid.IntRange(0, regs-1).Draw(t, "base")
		rex := byte(base >> 3)
		if base&7 == 4 || rapid.Bool().Draw(t, "SIB") {
			index := rapid.IntRange(0, regs-1).Draw(t, "index")
			f.scale = rapid.IntRange(0, 3).Draw(t, "scale")
			rex |= byte(index >> 3 << 1)
			f.modrm, f.rest = mod<<6|4, []byte{byte(f.scale<<6 | index&7<<3 | base&7)}
			if f.base = base; mod == 0 && base&7 == 5 {
				f.base = -1
			}
			if f.index = index; index == asm.RSP {
				f.index = -1
			}
			f.displacement(t, mod, mod == 0 && base&7 == 5, 4)
		} else {
			f.modrm = mod<<6 | byte(base&7)
			if f.base = base; mod == 0 && base&7 == 5 {
				f.base = -1 // in 64-bit mode relative to RIP
			}
			f.displacement(t, mod, mod == 0 && base&7 == 5, 4)
		}
		if width == 64 {
			f.prefixes = append(f.prefixes, 0x40|rex)
		}
	}
	if f.base == asm.RBP || f.base == asm.RSP && f.addressBits != 16 {
		f.segment = vmcs.SS
	}
	if override >= 0 {
		f.segment = vmcs.SegmentRegister(override)
	}
	return f
}

func (f *memoryForm) displacement(t *rapid.T, mod byte, always bool, size int) {
	if mod == 1 {
		size = 1
	} else if mod == 0 && !always {
		return
	}
	f.disp = int64(rapid.Int32().Draw(t, "displacement"))
	var b [4]byte
	binary.LittleEndian.PutUint32(b[:], uint32(f.disp))
	f.rest = append(f.rest, b[:size]...)
}

// code returns an instruction of two opcode bytes with the operand.
func (f *memoryForm) code(opcode, reg byte) []byte {
	return append(append(append([]byte{}, f.prefixes...), 0x0f, opcode, f.modrm|reg<<3), f.rest...)
}

// The processor's own address calculation is the exit qualification of INVLPG. What
// ReadAddress makes of the exit of an instruction with the same operand is the same, in
// every mode; and the decoded operand is the encoded one.
func TestOperandsOnVTX(t *testing.T) {
	widths := map[vmtest.Mode]int{
		vmtest.ModeLong: 64, vmtest.ModeCompatibility: 32, vmtest.ModePAE: 32, vmtest.ModePaged: 32, vmtest.ModeProtected: 32,
		vmtest.ModeProtected16: 16, vmtest.ModeReal: 16,
	}
	modes := map[vmtest.Mode]vmexit.Mode{
		vmtest.ModeLong: vmexit.Mode64, vmtest.ModeCompatibility: vmexit.CompatibilityMode, vmtest.ModeReal: vmexit.RealMode,
	}
	m := vmtest.Start(t)
	n := 0
	for _, k := range m.Kinds() {
		width := widths[k.Mode]
		if width == 0 {
			continue // virtual-8086 mode: INVLPG is privileged
		}
		mode, ok := modes[k.Mode]
		if !ok {
			mode = vmexit.ProtectedMode
		}
		g := m.NewGuest(k)
		vmtest.SetControls(g, vmcs.PrimaryActivateSecondaryControls|vmcs.PrimaryINVLPGExiting)
		vmtest.SetControls(g, vmcs.SecondaryDescriptorTableExiting)
		linear := g.Linear() // of the code, which stands there
		start := g.RIP
		run := func(code []byte, reason vmexit.Basic) {
			copy(g.Memory[linear:], code)
			g.RIP = start
			g.Require(uint16(reason))
			require.Equal(t, uint32(len(code)), g.InstructionLength)
		}
		rapid.Check(t, func(t *rapid.T) {
			n++
			for r := range g.Regs {
				g.Regs[r] = rapid.Uint64().Draw(t, "register")
			}
			g.Set(vmcs.GuestRSP, rapid.Uint64().Draw(t, "RSP"))
			for s := vmcs.ES; s <= vmcs.GS; s++ {
				base := uint64(rapid.Uint32().Draw(t, "base"))
				if mode == vmexit.Mode64 && s >= vmcs.FS {
					base = uint64(int64(base<<32) >> 17) // canonical
				}
				if s != vmcs.CS {
					g.Set(s.Base(), base)
				}
			}
			f := drawForm(t, width)
			run(f.code(0x01, 7), vmexit.INVLPG)
			want := g.Get(vmcs.ExitQualification)

			n := vmexit.DescriptorTableInstruction(rapid.ByteRange(0, 3).Draw(t, "instruction"))
			run(f.code(0x01, byte(n)), vmexit.GDTRIDTRAccess)
			info := vmexit.DescriptorTableInformation(g.Get(vmcs.ExitInstructionInformation))
			require.Equal(t, n, info.Instruction())
			o := info.Operand()
			require.Equal(t, f.addressBits, o.AddressBits())
			require.Equal(t, f.segment, o.Segment())
			base, ok := o.Base()
			require.Equal(t, f.base >= 0, ok)
			if ok {
				require.Equal(t, vmexit.Register(f.base), base)
			}
			index, scale, ok := o.Index()
			require.Equal(t, f.index >= 0, ok)
			if ok {
				require.Equal(t, vmexit.Register(f.index), index)
				require.Equal(t, 1<<f.scale, scale)
			}
			// Bochs 2.7 leaves the bit for the operand size 0.
			at, err := vmexit.ReadAddress(vmcs.Current{}, o, g.Get(vmcs.ExitQualification), &g.Regs)
			require.NoError(t, err)
			require.Equal(t, mode, at.Mode)
			require.Equal(t, want, at.Linear, "%v, displacement %#x: %v", o, g.Get(vmcs.ExitQualification), at)
		})
	}
	require.GreaterOrEqual(t, n, 500)
	t.Logf("%d operands", n)
}
