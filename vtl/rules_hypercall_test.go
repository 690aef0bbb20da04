package vtl_test

import (
	"encoding"
	"encoding/binary"
	"testing"

	"github.com/govtx/vtx/hypercall"
	"github.com/govtx/vtx/internal/require"
	"github.com/govtx/vtx/vtl"
)

// xmm offers the guest fast calls with XMM registers.
func (g *guest) xmm() {
	g.call.XMM, g.call.XMMInput, g.call.XMMOutput = new([6][2]uint64), true, true
}

// refused requires a hypercall to have a status, without any effect.
func (g *guest) refused(want hypercall.Status, vp uint32, word hypercall.Input, parts ...encoding.BinaryAppender) {
	g.t.Helper()
	before := state(g.Partition)
	o, r := g.hypercall(vp, word, parts...)
	require.Equal(g.t, hypercall.Done, o)
	require.Equal(g.t, want, r.Status(), "%v", g.Why())
	require.Zero(g.t, r.Reps())
	g.unchanged(before)
}

// fast makes a fast hypercall by processor 0.
func (g *guest) fast(word hypercall.Input, parts ...encoding.BinaryAppender) (hypercall.Outcome, hypercall.Result) {
	var b []byte
	var err error
	for _, p := range parts {
		b, err = p.AppendBinary(b)
		require.NoError(g.t, err)
	}
	b = append(b, make([]byte, 256)...)
	word64 := func(i int) uint64 { return binary.LittleEndian.Uint64(b[8*i:]) }
	g.regs = [16]uint64{rcx: uint64(word.WithFast(true)), rdx: word64(0), r8: word64(1)}
	if g.call.XMM != nil {
		for i := range g.call.XMM {
			g.call.XMM[i] = [2]uint64{word64(2 + 2*i), word64(3 + 2*i)}
		}
	}
	g.e.Reset()
	o := g.d.Dispatch(&g.call)
	return o, hypercall.Result(g.regs[0])
}

func word64(v uint64) binaryBytes { return binary.LittleEndian.AppendUint64(nil, v) }

func names(v ...hypercall.Register) (b binaryBytes) {
	for _, n := range v {
		b = binary.LittleEndian.AppendUint32(b, uint32(n))
	}
	return b
}

// at makes a memory call with input and output at these addresses.
func (g *guest) at(word hypercall.Input, input, output uint64) (hypercall.Outcome, hypercall.Result) {
	g.regs = [16]uint64{rcx: uint64(word), rdx: input, r8: output}
	g.e.Reset()
	o := g.d.Dispatch(&g.call)
	return o, hypercall.Result(g.regs[0])
}

var (
	modify  = hypercall.Input(hypercall.CodeModifyVtlProtectionMask)
	getRegs = hypercall.Input(hypercall.CodeGetVpRegisters)
	setRegs = hypercall.Input(hypercall.CodeSetVpRegisters)
	enable  = hypercall.Input(hypercall.CodeEnablePartitionVtl)

	ownRegs   = &hypercall.VpRegistersInput{PartitionID: self, VPIndex: hypercall.VPSelf}
	enableOne = &hypercall.EnablePartitionVtlInput{PartitionID: self, TargetVTL: 1}
)

// L. Hypercalls.
var rulesOfHypercalls = map[int]func(*testing.T){
	126: func(t *testing.T) {
		g := newGuest(t, newRig(t, vtl.Config{Processors: 1, MaximumVTL: 1}))
		before := state(g.Partition)
		for cpl := uint8(1); cpl < 4; cpl++ {
			g.call.CPL = cpl
			o, _ := g.hypercall(0, enable, enableOne)
			require.Equal(t, hypercall.UndefinedInstruction, o)
		}
		g.call.CPL, g.call.Mode = 0, hypercall.ModeReal
		o, _ := g.hypercall(0, enable, enableOne)
		require.Equal(t, hypercall.UndefinedInstruction, o)
		g.unchanged(before)
		g.call.Mode = hypercall.Mode64
		g.rig.e.Reset()
		g.must(0, enable, enableOne)
	},
	128: func(t *testing.T) {
		g := newGuest(t, newRig(t, vtl.Config{Processors: 1, MaximumVTL: 1}))
		for b := range 64 {
			if hypercall.InputReserved>>b&1 != 0 {
				g.refused(iHypercall, 0, enable|1<<b, enableOne)
			}
		}
		g.refused(iHypercall, 0, enable.WithVariableHeader(1), enableOne)
		g.refused(iHypercall, 0, getRegs.WithReps(1).WithVariableHeader(1), ownRegs)
		g.must(0, enable, enableOne)
	},
	129: func(t *testing.T) {
		g := newGuest(t, levels(t, 1, vtl.Config{}))
		g.protectOn(0)
		in := &hypercall.ModifyVtlProtectionMaskInput{PartitionID: self, TargetVTL: vtl0}
		g.refused(iHypercall, 0, enable.WithReps(1), enableOne)
		g.refused(iHypercall, 0, enable.WithRepStart(1), enableOne)
		g.refused(iHypercall, 0, modify, in, word64(0x100))
		for _, start := range []int{1, 2} {
			before := state(g.Partition)
			_, r := g.hypercall(0, modify.WithReps(1).WithRepStart(start), in, word64(0x100))
			require.Equal(t, iHypercall, r.Status())
			g.unchanged(before)
		}
		g.must(0, modify.WithReps(1), in, word64(0x100))
	},
	130: func(t *testing.T) {
		for _, p := range []hypercall.Profile{hypercall.ProfileTLFS, hypercall.ProfileOpenVMM} {
			g := newGuest(t, newRig(t, vtl.Config{Processors: 1, MaximumVTL: 1}))
			d, err := hypercall.NewDispatcher(hypercall.Config{Profile: p}, vtl.Handlers()...)
			require.NoError(t, err)
			g.d = d
			before := state(g.Partition)
			for offset := uint64(1); offset < 8; offset++ {
				_, r := g.at(enable, inputAt+offset, 0)
				require.Equal(t, iAlignment, r.Status())
			}
			want := iAlignment
			if p == hypercall.ProfileOpenVMM {
				want = iHypercall
			}
			_, r := g.at(enable, inputAt+0xff8, 0)
			require.Equal(t, want, r.Status())
			g.unchanged(before)
		}
	},
	131: func(t *testing.T) {
		g := newGuest(t, levels(t, 1, vtl.Config{}))
		g.xmm()
		g.own(0, hypercall.RegisterRSP, 0x1234)
		g.own(0, hypercall.RegisterRIP, 0x5678)
		// A header of 16 bytes and two names: 24 bytes of input, so that values begin
		// at byte 32, in XMM1.
		o, r := g.fast(getRegs.WithReps(2), ownRegs, names(hypercall.RegisterRSP, hypercall.RegisterRIP))
		require.Equal(t, hypercall.Done, o)
		require.Equal(t, ok, r.Status())
		require.Equal(t, 2, r.Reps())
		require.Equal(t, [2]uint64{0x1234, 0}, g.call.XMM[1])
		require.Equal(t, [2]uint64{0x5678, 0}, g.call.XMM[2])
		// 16 bytes of header and 12 pages are 112 bytes; see rule 133.
		require.Equal(t, 112, hypercall.FastLimit)
	},
	132: func(t *testing.T) {
		g := newGuest(t, levels(t, 1, vtl.Config{}))
		g.xmm()
		list := []hypercall.Register{hypercall.RegisterRSP, hypercall.RegisterRIP, hypercall.RegisterRBX, hypercall.RegisterRSI, hypercall.RegisterRDI}
		var values []encoding.BinaryAppender
		for i, n := range list {
			values = append(values, &hypercall.RegisterAssoc{Name: n, Value: vtl.Value{Low: uint64(i)}})
		}
		for n := 1; n <= 5; n++ {
			want := ok
			if n == 5 {
				want = iHypercall
			}
			o, r := g.fast(getRegs.WithReps(n), ownRegs, names(list[:n]...))
			require.Equal(t, hypercall.Done, o)
			require.Equal(t, want, r.Status(), "%d names", n)
			if n*32+16 > 112 {
				want = iHypercall
			}
			before := state(g.Partition)
			_, r = g.fast(setRegs.WithReps(n), append([]encoding.BinaryAppender{ownRegs}, values[:n]...)...)
			require.Equal(t, want, r.Status(), "%d values", n)
			if want != ok {
				g.unchanged(before)
			}
		}
	},
	133: func(t *testing.T) {
		g := newGuest(t, levels(t, 1, vtl.Config{}))
		g.xmm()
		g.protectOn(0)
		in := &hypercall.ModifyVtlProtectionMaskInput{PartitionID: self, TargetVTL: vtl0}
		for n := 1; n <= 13; n++ {
			var pages binaryBytes
			for i := range n {
				pages = append(pages, word64(uint64(0x100+16*n+i))...)
			}
			_, r := g.fast(modify.WithReps(n), in, pages)
			if n == 13 {
				require.Equal(t, iHypercall, r.Status())
				continue
			}
			require.Equal(t, ok, r.Status(), "%v", g.Why())
			require.Equal(t, n, r.Reps())
			for i := range n {
				require.Equal(t, vtl.NoAccess, g.PageRights(0, uint64(0x100+16*n+i)))
			}
			require.Equal(t, vtl.FullAccess, g.PageRights(0, uint64(0x100+16*n+n)))
		}
	},
	134: func(t *testing.T) {
		g := newGuest(t, newRig(t, vtl.Config{Processors: 1, MaximumVTL: 1}))
		for _, c := range []struct {
			word          hypercall.Input
			input, output uint64
			want          hypercall.Status
		}{
			{enable | 1<<27, inputAt, 0, iHypercall},
			{enable.WithReps(1), inputAt, 0, iHypercall},
			{enable, inputAt + 4, 0, iAlignment},
			{enable, 0x1ff8, 0, iAlignment},
			{enable, 1 << 52, 0, iAlignment},
			{getRegs.WithReps(1), inputAt, 0x2004, iAlignment},
			{getRegs.WithReps(1), inputAt, 0x2ff8, iAlignment},
			{getRegs.WithReps(1), inputAt, 1 << 60, iAlignment},
		} {
			before := state(g.Partition)
			_, r := g.at(c.word, c.input, c.output)
			require.Equal(t, c.want, r.Status(), "%+v", c)
			g.unchanged(before)
		}
		// What a partition may not do is denied, whatever else is wrong with it.
		g.call.Privileges = 0
		_, r := g.at(enable.WithReps(1), inputAt+4, 0)
		require.Equal(t, denied, r.Status())
	},
	135: func(t *testing.T) {
		for _, c := range []struct {
			in, out, short bool
			want           hypercall.Outcome
		}{
			{true, true, false, hypercall.Done}, {false, true, false, hypercall.UndefinedInstruction}, {true, false, false, hypercall.UndefinedInstruction},
			{false, false, true, hypercall.Done},
		} {
			g := newGuest(t, newRig(t, vtl.Config{Processors: 1, MaximumVTL: 1}))
			g.xmm()
			g.call.XMMInput, g.call.XMMOutput = c.in, c.out
			o := hypercall.Outcome(0)
			if c.short { // 16 bytes need no XMM register
				o, _ = g.fast(enable, enableOne)
			} else {
				o, _ = g.fast(getRegs.WithReps(1), ownRegs, names(hypercall.RegisterRSP))
			}
			require.Equal(t, c.want, o)
		}
	},
	136: func(t *testing.T) {
		g := newGuest(t, newRig(t, vtl.Config{Processors: 1, MaximumVTL: 1}))
		word := getRegs.WithReps(4)
		for _, c := range []struct {
			input, output uint64
			want          hypercall.Status
		}{
			{0x1000, 0x1000, iAlignment}, {0x1000, 0x1018, iAlignment}, {0x1038, 0x1000, iAlignment}, {0x1ff0, 0x2000, iAlignment}, {0x1000, 0x2fe0, iAlignment},
			{0x1000, 0x1020, ok}, {0x1040, 0x1000, ok},
		} {
			copy(g.mem[c.input:], make([]byte, 64))
			b, err := ownRegs.AppendBinary(nil)
			require.NoError(t, err)
			copy(g.mem[c.input:], append(b, names(hypercall.RegisterRSP, hypercall.RegisterRIP, hypercall.RegisterRBX, hypercall.RegisterRSI)...))
			_, r := g.at(word, c.input, c.output)
			require.Equal(t, c.want, r.Status(), "%+v", c)
		}
	},
}
