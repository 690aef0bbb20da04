package vmexit_test

import (
	"math/big"
	"testing"

	"pgregory.net/rapid"

	"github.com/govtx/vtx/asm"
	"github.com/govtx/vtx/internal/require"
	"github.com/govtx/vtx/vmcs"
	"github.com/govtx/vtx/vmexit"
)

// What each format prints, from the tables of SDM Vol. 3C 28.2.5.
func TestDescribeInformation(t *testing.T) {
	for _, c := range []struct {
		b    vmexit.Basic
		i    uint32
		text string
	}{
		{vmexit.CPUID, 0xffffffff, ""},
		{35, 0xffffffff, ""},
		{vmexit.IOInstruction, 0x00018100, "64-bit address, segment DS (of OUTS)"},
		{vmexit.IOInstruction, 0x00028380, "reserved address size, segment GS (of OUTS)"},
		{vmexit.INVEPT, 0x10418100, "type in RCX, descriptor at DS:[RAX], 64-bit address"},
		{vmexit.INVVPID, 0xf9d58181, "type in R15, descriptor at DS:[], reserved address size"},
		{vmexit.INVPCID, 0x23858082, "type in RDX, descriptor at DS:[RDI+RCX*4], 32-bit address"},
		{vmexit.GDTRIDTRAccess, 0x28458080, "LGDT DS:[], 32-bit address, 16-bit operand (outside of 64-bit mode)"},
		{vmexit.LDTRTRAccess, 0x30000c18, "LTR RBX"},
		{vmexit.LDTRTRAccess, 0x08400080, "SLDT ES:[], 32-bit address"},
		{vmexit.RDRAND, 0x00001018, "RBX, 64-bit operand"},
		{vmexit.RDSEED, 0x00000878, "R15, 32-bit operand"},
		{vmexit.RDSEED, 0x00001878, "R15, reserved operand size"},
		{vmexit.TPAUSE, 0x00000078, "R15"},
		{vmexit.UMWAIT, 0xffffff87, "RAX"},
		{vmexit.VMPTRLD, 0x02610083, "SS:[RSP], 32-bit address"},
		{vmexit.VMREAD, 0x10000400, "field in RCX, value in RAX"},
		{vmexit.VMWRITE, 0x20418100, "field in RDX, value at DS:[RAX], 64-bit address"},
		{vmexit.LOADIWKEY, 0x70000018, "XMM3, XMM7"},
		{vmexit.URDMSR, 0x00000040, "R8"},
	} {
		require.Equal(t, c.text, vmexit.DescribeInformation(vmexit.Reason(c.b), c.i), "%v %#x", c.b, c.i)
	}
}

// An operand is drawn as an instruction has it.
type operand struct {
	segment     vmcs.SegmentRegister
	addressBits int
	base, index int // -1: none
	scale       int
	disp        int64
}

func drawOperand(t *rapid.T) (o operand) {
	o.segment = vmcs.SegmentRegister(rapid.IntRange(0, 5).Draw(t, "segment"))
	o.addressBits = rapid.SampledFrom([]int{16, 32, 64}).Draw(t, "address size")
	o.base = rapid.IntRange(-1, 15).Draw(t, "base")
	o.index = rapid.IntRange(-1, 15).Draw(t, "index")
	o.scale = rapid.IntRange(0, 3).Draw(t, "scale")
	o.disp = int64(rapid.Int32().Draw(t, "displacement"))
	return o
}

// encode returns the information for it. Undefined bits are those of noise.
func (o operand) encode(noise uint32) vmexit.MemoryOperand {
	i := uint32(o.segment)<<15 | uint32(map[int]int{16: 0, 32: 1, 64: 2}[o.addressBits])<<7
	defined := uint32(7<<15 | 7<<7 | 1<<22 | 1<<27)
	if o.base < 0 {
		i |= 1 << 27
	} else {
		i |= uint32(o.base) << 23
		defined |= 15 << 23
	}
	if o.index < 0 {
		i |= 1 << 22
	} else {
		i |= uint32(o.index)<<18 | uint32(o.scale)
		defined |= 15<<18 | 3
	}
	return vmexit.MemoryOperand(i | noise&^defined)
}

// What is put together from drawn parts is taken apart into them, whatever the
// undefined bits are.
func information(t *rapid.T) {
	noise := rapid.Uint32().Draw(t, "noise")
	reg1, reg2 := rapid.Uint32Range(0, 15).Draw(t, "register"), rapid.Uint32Range(0, 15).Draw(t, "register 2")
	id := rapid.Uint32Range(0, 3).Draw(t, "instruction")
	size := rapid.Uint32Range(0, 1).Draw(t, "size")
	o := drawOperand(t)
	m := o.encode(noise)
	same := func(got vmexit.MemoryOperand) {
		require.Equal(t, o.segment, got.Segment())
		require.Equal(t, o.addressBits, got.AddressBits())
		base, ok := got.Base()
		require.Equal(t, o.base >= 0, ok)
		if ok {
			require.Equal(t, vmexit.Register(o.base), base)
		}
		index, scale, ok := got.Index()
		require.Equal(t, o.index >= 0, ok)
		if ok {
			require.Equal(t, vmexit.Register(o.index), index)
			require.Equal(t, 1<<o.scale, scale)
		}
	}
	same(m)

	inv := vmexit.InvalidationInformation(uint32(m)&^(15<<28) | reg2<<28)
	same(inv.Operand())
	require.Equal(t, vmexit.Register(reg2), inv.Register())

	dt := vmexit.DescriptorTableInformation(uint32(m)&^(3<<28|1<<11) | id<<28 | size<<11)
	same(dt.Operand())
	require.Equal(t, vmexit.DescriptorTableInstruction(id), dt.Instruction())
	require.Equal(t, 16<<size, dt.OperandBits())
	require.Equal(t, id >= 2, dt.Instruction().Load())
	require.Equal(t, id&1 != 0, dt.Instruction().IDT())

	sys := vmexit.SystemSegmentInformation(uint32(m)&^(3<<28|1<<10) | id<<28)
	same(sys.Operand())
	require.False(t, sys.InRegister())
	require.Equal(t, vmexit.SystemSegmentInstruction(id), sys.Instruction())
	require.Equal(t, id >= 2, sys.Instruction().Load())
	require.Equal(t, id&1 != 0, sys.Instruction().Task())
	sys = vmexit.SystemSegmentInformation(noise&^(3<<28|15<<3) | 1<<10 | id<<28 | reg1<<3)
	require.True(t, sys.InRegister())
	require.Equal(t, vmexit.SystemSegmentInstruction(id), sys.Instruction())
	require.Equal(t, vmexit.Register(reg1), sys.Register())

	field := vmexit.VMCSFieldInformation(uint32(m)&^(15<<28|1<<10) | reg2<<28)
	same(field.Operand())
	require.False(t, field.InRegister())
	require.Equal(t, vmexit.Register(reg2), field.Encoding())
	field = vmexit.VMCSFieldInformation(noise&^(15<<28|15<<3) | 1<<10 | reg2<<28 | reg1<<3)
	require.True(t, field.InRegister())
	require.Equal(t, vmexit.Register(reg1), field.Register())
	require.Equal(t, vmexit.Register(reg2), field.Encoding())

	same(vmexit.VMXPointerInformation(m).Operand())

	rnd := vmexit.RandomInformation(noise&^(15<<3|3<<11) | reg1<<3 | id<<11)
	require.Equal(t, vmexit.Register(reg1), rnd.Register())
	require.Equal(t, [4]int{16, 32, 64, 0}[id], rnd.OperandBits())
	require.Equal(t, vmexit.Register(reg1), vmexit.WaitInformation(rnd).Register())
	require.Equal(t, vmexit.Register(reg1), vmexit.UserMSRInformation(rnd).Register())

	key := vmexit.LOADIWKEYInformation(noise&^(15<<3|15<<28) | reg1<<3 | reg2<<28)
	require.Equal(t, int(reg1), key.First())
	require.Equal(t, int(reg2), key.Second())

	str := vmexit.StringIOInformation(noise&^(7<<7|7<<15) | uint32(m)&(7<<7|7<<15))
	require.Equal(t, o.addressBits, str.AddressBits())
	require.Equal(t, o.segment, str.Segment())
	for _, in := range []bool{false, true} {
		op := str.Operand(in)
		base, ok := op.Base()
		require.True(t, ok)
		_, _, ok = op.Index()
		require.False(t, ok)
		require.Equal(t, o.addressBits, op.AddressBits())
		if in {
			require.Equal(t, vmexit.Register(asm.RDI), base)
			require.Equal(t, vmcs.ES, op.Segment())
		} else {
			require.Equal(t, vmexit.Register(asm.RSI), base)
			require.Equal(t, o.segment, op.Segment())
		}
	}
}

func TestInformation(t *testing.T) { rapid.Check(t, information) }
func FuzzInformation(f *testing.F) { f.Fuzz(rapid.MakeFuzz(information)) }

// Every format prints any value, in its own type.
func TestInformationValues(t *testing.T) {
	for f := range vmexit.InformationFormat(20) {
		none := f == vmexit.InformationNone || f > vmexit.InformationUserMSR
		require.Equal(t, none, f.Value(0) == nil, "%v", f)
		seen := map[string]bool{}
		for i := uint64(0); i < 1<<32 && !none; i += 0x2aaaab1 {
			s := f.Value(uint32(i)).String()
			require.NotEmpty(t, s)
			seen[s] = true
		}
		require.True(t, none || len(seen) >= 8, "%v prints %d texts", f, len(seen))
	}
}

// The offset is that of arithmetic without bounds, modulo the address size.
func operandOffset(t *rapid.T) {
	o := drawOperand(t)
	var regs [16]uint64
	for i := range regs {
		regs[i] = rapid.Uint64().Draw(t, "register")
	}
	rsp := rapid.Uint64().Draw(t, "RSP")
	sum := big.NewInt(o.disp)
	add := func(r, scale int) {
		if r < 0 {
			return
		}
		v := regs[r]
		if r == asm.RSP {
			v = rsp
		}
		sum.Add(sum, new(big.Int).Mul(new(big.Int).SetUint64(v), big.NewInt(int64(scale))))
	}
	add(o.base, 1)
	add(o.index, 1<<o.scale)
	want := sum.Mod(sum, new(big.Int).Lsh(big.NewInt(1), uint(o.addressBits))).Uint64()
	disp := uint64(o.disp)
	if o.addressBits < 64 { // bits beyond are undefined
		disp = disp&(1<<o.addressBits-1) | rapid.Uint64().Draw(t, "undefined")<<o.addressBits
	}
	require.Equal(t, want, o.encode(rapid.Uint32().Draw(t, "noise")).Offset(disp, &regs, rsp))
}

func TestOperandOffset(t *testing.T) { rapid.Check(t, operandOffset) }
func FuzzOperandOffset(f *testing.F) { f.Fuzz(rapid.MakeFuzz(operandOffset)) }

func TestModeOf(t *testing.T) {
	const long, legacy = vmcs.RightsL, vmcs.AccessRights(0)
	for _, c := range []struct {
		cr0, rflags uint64
		lma         bool
		cs          vmcs.AccessRights
		want        vmexit.Mode
	}{
		{0, 0, false, legacy, vmexit.RealMode},
		{0x10, 1 << 17, false, long, vmexit.RealMode},
		{1, 0, false, legacy, vmexit.ProtectedMode},
		{1, 1 << 17, false, legacy, vmexit.Virtual8086Mode},
		{1, 0, false, long, vmexit.ProtectedMode}, // L means something in IA-32e mode only
		{0x80000001, 0, true, legacy, vmexit.CompatibilityMode},
		{0x80000001, 0, true, long, vmexit.Mode64},
	} {
		require.Equal(t, c.want, vmexit.ModeOf(c.cr0, c.rflags, c.lma, c.cs))
	}
}

func TestLinear(t *testing.T) {
	for _, c := range []struct {
		mode         vmexit.Mode
		r            vmcs.SegmentRegister
		base, offset uint64
		want         uint64
	}{
		{vmexit.Mode64, vmcs.DS, 0x1000, 0xffff800000000010, 0xffff800000000010},
		{vmexit.Mode64, vmcs.SS, 0x1000, 0x10, 0x10},
		{vmexit.Mode64, vmcs.CS, 0x1000, 0x10, 0x10},
		{vmexit.Mode64, vmcs.ES, 0x1000, 0x10, 0x10},
		{vmexit.Mode64, vmcs.FS, 0xffff800000001000, 0x10, 0xffff800000001010},
		{vmexit.Mode64, vmcs.GS, 0x1000, 0xfffffffffffffff0, 0xff0},
		{vmexit.CompatibilityMode, vmcs.FS, 0xffffffff80000000, 0x90000000, 0x10000000},
		{vmexit.ProtectedMode, vmcs.DS, 0x1000, 0xfffff800, 0x800},
		{vmexit.RealMode, vmcs.DS, 0xffff0, 0xffff, 0x10ffef},
		{vmexit.Virtual8086Mode, vmcs.SS, 0x120, 0x10, 0x130},
	} {
		require.Equal(t, c.want, vmexit.Addressing{Mode: c.mode}.Linear(c.r, c.base, c.offset))
	}
}

// Which accesses segmentation refuses, and how (SDM Vol. 3A 5.3 to 5.5).
func TestAddressingCheck(t *testing.T) {
	rights := func(typ vmcs.SegmentType, more vmcs.AccessRights) vmcs.AccessRights {
		return vmcs.Rights(typ|vmcs.TypeAccessed, true, 0) | more
	}
	segment := func(r vmcs.AccessRights, limit uint32) vmcs.Segment { return vmcs.Segment{Rights: r, Limit: limit} }
	data := segment(rights(vmcs.TypeWritable, vmcs.RightsDB|vmcs.RightsG), 0xffffffff)
	small := segment(rights(vmcs.TypeWritable, 0), 0xff)
	readOnly := segment(rights(0, 0), 0xff)
	executeOnly := segment(rights(vmcs.TypeCode, 0), 0xff)
	code := segment(rights(vmcs.TypeCode|vmcs.TypeReadable, 0), 0xff)
	conforming := segment(rights(vmcs.TypeCode|vmcs.TypeReadable|vmcs.TypeConforming, 0), 0xff)
	down := segment(rights(vmcs.TypeWritable|vmcs.TypeExpandDown, 0), 0xff)
	downBig := segment(rights(vmcs.TypeWritable|vmcs.TypeExpandDown, vmcs.RightsDB), 0xff)
	none := vmcs.UnusableSegment()
	real := vmcs.RealModeSegment(0x100)
	const (
		p   = vmexit.ProtectedMode
		l   = vmexit.Mode64
		top = 0xffffffff
	)
	for _, c := range []struct {
		mode   vmexit.Mode
		la57   bool
		r      vmcs.SegmentRegister
		s      vmcs.Segment
		offset uint64
		size   int
		write  bool
		want   string // "": allowed
	}{
		{p, false, vmcs.DS, data, 0, 4, true, ""},
		{p, false, vmcs.DS, data, top - 3, 4, true, ""},
		{p, false, vmcs.DS, data, top - 2, 4, true, "#GP, error code 0x0"},
		{p, false, vmcs.SS, data, top, 2, false, "#SS, error code 0x0"},
		{p, false, vmcs.DS, small, 0xff, 1, true, ""},
		{p, false, vmcs.DS, small, 0xff, 2, false, "#GP, error code 0x0"},
		{p, false, vmcs.DS, small, 0x100, 1, false, "#GP, error code 0x0"},
		{p, false, vmcs.DS, small, 0x100, 0, false, "#GP, error code 0x0"}, // as 1 byte
		{p, false, vmcs.SS, small, 0x100, 1, false, "#SS, error code 0x0"},
		{p, false, vmcs.ES, readOnly, 0, 1, false, ""},
		{p, false, vmcs.ES, readOnly, 0, 1, true, "#GP, error code 0x0"},
		{p, false, vmcs.CS, executeOnly, 0, 1, false, "#GP, error code 0x0"},
		{p, false, vmcs.CS, code, 0, 1, false, ""},
		{p, false, vmcs.CS, code, 0, 1, true, "#GP, error code 0x0"},
		{p, false, vmcs.CS, conforming, 0x10, 1, false, ""}, // its bit 2 is not expand-down
		{vmexit.CompatibilityMode, false, vmcs.CS, code, 0, 1, true, "#GP, error code 0x0"},
		{p, false, vmcs.GS, none, 0, 1, false, "#GP, error code 0x0"},
		{p, false, vmcs.SS, none, 0, 1, false, "#SS, error code 0x0"},
		{p, false, vmcs.DS, down, 0xff, 1, false, "#GP, error code 0x0"},
		{p, false, vmcs.DS, down, 0x100, 1, false, ""},
		{p, false, vmcs.DS, down, 0xfffe, 2, false, ""},
		{p, false, vmcs.DS, down, 0xffff, 2, false, "#GP, error code 0x0"},
		{p, false, vmcs.DS, downBig, 0xffff, 2, false, ""},
		{p, false, vmcs.SS, downBig, top, 2, false, "#SS, error code 0x0"},
		{vmexit.RealMode, false, vmcs.DS, real, 0xfffe, 2, true, ""},
		{vmexit.RealMode, false, vmcs.DS, real, 0xffff, 2, true, "#GP"},
		{vmexit.RealMode, false, vmcs.SS, real, 0xffff, 2, true, "#SS"},
		{vmexit.RealMode, false, vmcs.CS, code, 0, 1, true, ""}, // types do not matter
		{vmexit.Virtual8086Mode, false, vmcs.DS, vmcs.Virtual8086Segment(0), 0xffff, 2, true, "#GP, error code 0x0"},
		{l, false, vmcs.DS, none, 0x7fffffffffff, 1, true, ""},
		{l, false, vmcs.DS, none, 0x7fffffffffff, 2, true, "#GP, error code 0x0"},
		{l, false, vmcs.SS, none, 0x800000000000, 1, true, "#SS, error code 0x0"},
		{l, false, vmcs.DS, none, 0xffff7fffffffffff, 1, false, "#GP, error code 0x0"},
		{l, false, vmcs.DS, none, 0xffff800000000000, 8, false, ""},
		{l, false, vmcs.CS, code, 0x1000, 8, true, ""}, // neither type nor limit matter
		{l, true, vmcs.DS, none, 0x800000000000, 1, true, ""},
		{l, true, vmcs.DS, none, 0x100000000000000, 1, true, "#GP, error code 0x0"},
		{l, false, vmcs.FS, vmcs.Segment{Base: 0x7fffffffff00}, 0x100, 1, true, "#GP, error code 0x0"},
		{l, false, vmcs.GS, vmcs.Segment{Base: 0xffff800000000000}, 0x100, 1, true, ""},
		{l, false, vmcs.DS, none, 0xffffffffffffffff, 2, false, ""}, // wraps round to 0
	} {
		a := vmexit.Address{Addressing: vmexit.Addressing{Mode: c.mode, LA57: c.la57}, Register: c.r, Segment: c.s, Offset: c.offset}
		e, raised := a.Check(c.size, c.write)
		require.Equal(t, c.want != "", raised, "%+v", c)
		if raised {
			require.Equal(t, "hardware exception "+c.want, e.String(), "%+v", c)
		} else {
			require.Zero(t, e)
		}
	}
}

// Any access is refused if and only if one of its bytes would be.
func bytewise(t *rapid.T) {
	a := vmexit.Addressing{Mode: vmexit.Mode(rapid.IntRange(0, 4).Draw(t, "mode")), LA57: rapid.Bool().Draw(t, "LA57")}
	near := func(v uint64) uint64 { return v + uint64(rapid.IntRange(-40, 40).Draw(t, "near")) }
	s := vmcs.Segment{
		Rights: vmcs.AccessRights(rapid.Uint32().Draw(t, "rights")) &^ vmcs.RightsUnusable,
		Limit:  uint32(near(rapid.SampledFrom([]uint64{40, 0xffff, 0xfffff, 0xffffffff}).Draw(t, "limit"))),
		Base:   rapid.Uint64().Draw(t, "base"),
	}
	r := vmcs.SegmentRegister(rapid.IntRange(0, 5).Draw(t, "segment"))
	offset := near(rapid.SampledFrom([]uint64{40, uint64(s.Limit), 0x10000, 0x100000000 - 80, 1 << 47, 1 << 56, 0xffff800000000000, -s.Base}).Draw(t, "offset"))
	if a.Mode != vmexit.Mode64 {
		offset &= 0xffffffff
	}
	size := rapid.IntRange(1, 64).Draw(t, "size")
	write := rapid.Bool().Draw(t, "write")
	e, raised := a.Check(r, s, offset, size, write)
	any := false
	for i := range uint64(size) {
		at := offset + i
		if a.Mode != vmexit.Mode64 && at > 0xffffffff {
			any = true // the segment has no such byte
			break
		}
		if _, bad := a.Check(r, s, at, 1, write); bad {
			any = true
		}
	}
	require.Equal(t, any, raised)
	require.Equal(t, raised, e.Info.Valid())
}

func TestAddressingBytewise(t *testing.T) { rapid.Check(t, bytewise) }
func FuzzAddressing(f *testing.F)         { f.Fuzz(rapid.MakeFuzz(bytewise)) }

func guest64() *vmcs.Image {
	var m vmcs.Image
	m.Set(vmcs.GuestCR0, 0x80000031)
	m.Set(vmcs.GuestCR4, 0x2020)
	m.Set(vmcs.GuestRFLAGS, 2)
	m.Set(vmcs.GuestRSP, 0x7ff0)
	m.Set(vmcs.VMEntryControls, uint64(vmcs.EntryIA32eModeGuest))
	segments := vmcs.Segments{}
	for i := range segments {
		segments[i] = vmcs.FlatData(0)
	}
	segments[vmcs.CS] = vmcs.FlatCode64(0)
	segments[vmcs.FS].Base = 0x5000
	if err := segments.Write(&m); err != nil {
		panic(err)
	}
	return &m
}

func TestReadAddress(t *testing.T) {
	m := guest64()
	regs := [16]uint64{asm.RAX: 0x100, asm.RCX: 3, asm.RSP: 0xbad}
	read := func(o operand, disp uint64) vmexit.Address {
		a, err := vmexit.ReadAddress(m, o.encode(0), disp, &regs)
		require.NoError(t, err)
		return a
	}
	a := read(operand{segment: vmcs.FS, addressBits: 64, base: asm.RAX, index: asm.RCX, scale: 3}, 0x20)
	require.Equal(t, uint64(0x138), a.Offset)
	require.Equal(t, uint64(0x5138), a.Linear)
	require.Equal(t, vmexit.Mode64, a.Mode)
	a = read(operand{segment: vmcs.SS, addressBits: 64, base: asm.RSP, index: -1}, ^uint64(7))
	require.Equal(t, uint64(0x7fe8), a.Linear)
	a = read(operand{segment: vmcs.DS, addressBits: 32, base: asm.RAX, index: asm.RSP}, 1<<40)
	require.Equal(t, uint64(0x80f0), a.Linear)
	_, raised := a.Check(8, true)
	require.False(t, raised)

	// Without the registers that are used nothing is read; each field that is missing
	// is an error.
	o := operand{segment: vmcs.SS, addressBits: 64, base: asm.RSP, index: -1}.encode(0)
	for _, f := range []vmcs.Field{vmcs.GuestCR0, vmcs.GuestCR4, vmcs.GuestRFLAGS, vmcs.VMEntryControls, vmcs.GuestCSAccessRights, vmcs.GuestSSBase, vmcs.GuestSSLimit, vmcs.GuestRSP} {
		part := *m
		part.Delete(f)
		_, err := vmexit.ReadAddress(&part, o, 0, &regs)
		require.ErrorIs(t, err, vmcs.ErrAbsent)
		require.ErrorContains(t, err, f.String())
	}
	part := *m
	part.Delete(vmcs.GuestRSP)
	_, err := vmexit.ReadAddress(&part, operand{segment: vmcs.SS, addressBits: 64, base: -1, index: -1}.encode(0xffffffff), 0, &regs)
	require.NoError(t, err)

	for _, bad := range []vmexit.MemoryOperand{6 << 15, 7<<15 | 2<<7, 3 << 7, 7 << 7} {
		_, err := vmexit.ReadAddress(m, bad, 0, &regs)
		require.ErrorContains(t, err, "is not that of a memory operand")
	}
	m.Set(vmcs.GuestCR4, 0x3020)
	a57, err := vmexit.ReadAddressing(m)
	require.NoError(t, err)
	require.True(t, a57.LA57)
	m.Set(vmcs.VMEntryControls, 0)
	a57, err = vmexit.ReadAddressing(m)
	require.NoError(t, err)
	require.Equal(t, vmexit.Addressing{Mode: vmexit.ProtectedMode}, a57)
}

func BenchmarkInformation(b *testing.B) {
	b.Run("operands", func(b *testing.B) {
		benchmark(b, func(v uint64) uint64 {
			i := vmexit.VMCSFieldInformation(v)
			base, ok := i.Operand().Base()
			return uint64(i.Encoding()) + uint64(i.Register()) + uint64(base) + b2u(ok, 8) + b2u(i.InRegister(), 9)
		})
	})
	b.Run("offset", func(b *testing.B) {
		regs := [16]uint64{1, 2, 3, 4, 5, 6, 7, 8}
		benchmark(b, func(v uint64) uint64 { return vmexit.MemoryOperand(v).Offset(v>>32, &regs, v) })
	})
	b.Run("check", func(b *testing.B) {
		a, s := vmexit.Addressing{Mode: vmexit.Mode64}, vmcs.FlatData(0)
		benchmark(b, func(v uint64) uint64 {
			e, bad := a.Check(vmcs.DS, s, v, 8, true)
			return uint64(e.Info) + b2u(bad, 40)
		})
	})
	b.Run("read", func(b *testing.B) {
		m, regs := guest64(), [16]uint64{}
		o := operand{segment: vmcs.DS, addressBits: 64, base: asm.RAX, index: -1}.encode(0)
		benchmark(b, func(v uint64) uint64 {
			a, err := vmexit.ReadAddress(m, o, v, &regs)
			if err != nil {
				b.Fatal(err)
			}
			return a.Linear
		})
	})
}
