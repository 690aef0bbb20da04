package asm_test

import (
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/govtx/vtx/internal/require"

	"github.com/govtx/vtx/asm"
)

// Where the guest of the vector tests finds and puts things: rdi points to a
// block that it loads, rsi to one that it stores.
const (
	offMXCSR = 1024
	offFCW   = 1028
	offX87   = 1040 // two of 16 bytes
	blockLen = 1072
)

// vectorCode is a guest that loads its registers, calls, stores them, calls,
// and begins anew. width is that of a register in bytes.
func vectorCode(width int) []byte {
	var code []byte
	op := func(disp int, b ...byte) {
		code = binary.LittleEndian.AppendUint32(append(code, b...), uint32(disp))
	}
	move := func(opcode, modrm byte) {
		for r := range byte(16) {
			modrm := modrm | r&7<<3
			switch {
			case width == 32: // vmovdqu ymm
				op(32*int(r), 0xc5, 0xfe^r>>3<<7, opcode, modrm)
			case r < 8: // movdqu xmm
				op(16*int(r), 0xf3, 0x0f, opcode, modrm)
			default:
				op(16*int(r), 0xf3, 0x44, 0x0f, opcode, modrm)
			}
		}
	}
	vmcall := func() { code = append(code, 0x0f, 0x01, 0xc1) }

	move(0x6f, 0x87)                // from [rdi+disp32]
	op(offMXCSR, 0x0f, 0xae, 0x97)  // ldmxcsr [rdi+disp32]
	code = append(code, 0xdb, 0xe3) // fninit
	op(offFCW, 0xd9, 0xaf)          // fldcw [rdi+disp32]
	op(offX87, 0xdb, 0xaf)          // fld tbyte [rdi+disp32]
	op(offX87+16, 0xdb, 0xaf)
	vmcall()
	move(0x7f, 0x86)               // to [rsi+disp32]
	op(offMXCSR, 0x0f, 0xae, 0x9e) // stmxcsr [rsi+disp32]
	op(offFCW, 0xd9, 0xbe)         // fnstcw [rsi+disp32]
	op(offX87+16, 0xdb, 0xbe)      // fstp tbyte [rsi+disp32]
	op(offX87, 0xdb, 0xbe)
	vmcall()
	code = append(code, 0xe9) // jmp rel32 to the beginning
	return binary.LittleEndian.AppendUint32(code, uint32(-(len(code) + 4)))
}

// hostXCR0 returns XCR0, 0 if CR4.OSXSAVE is clear.
func hostXCR0() uint64 {
	if asm.ReadCR4()>>18&1 == 0 {
		return 0
	}
	return asm.XGETBV(0)
}

// callClean is call, and checks the host's registers as Enter left them: x87
// and SSE control as Go wants them, and nothing in use of what Go's compiler
// does not use. The garbage collector does use more, so there is no allocation
// between the two.
func (v *vm) callClean() {
	v.Helper()
	xcr0 := uint64(0)
	if len(v.Vector()) > 512 {
		xcr0 = hostXCR0()
	}
	area, legacy := aligned(64, 1<<14), (*[512]byte)(aligned(16, 512))
	clear(legacy[:]) // both are in memory now
	status := v.Enter()
	if xcr0 != 0 {
		asm.XSAVE(area, xcr0)
	}
	asm.FXSAVE(legacy)

	require.Equal(v, asm.Succeed, status)
	require.Equal(v, uint32(reasonVMCALL), v.Reason)
	v.RIP += uint64(v.InstructionLength)
	require.Zero(v, binary.LittleEndian.Uint64(area[512:])&^2, "state components in use")
	requireInitial(v, legacy)
}

// requireInitial checks x87 and SSE control, and that x87 is empty.
func requireInitial(t testing.TB, legacy *[512]byte) {
	t.Helper()
	require.Equal(t, uint16(0x37f), binary.LittleEndian.Uint16(legacy[:]))
	require.Equal(t, uint32(0x1f80), binary.LittleEndian.Uint32(legacy[24:])&^0x3f)
	require.Zero(t, legacy[4], "x87 registers in use")
}

// hostVectorClean is requireInitial now.
func hostVectorClean(t testing.TB) {
	t.Helper()
	legacy := (*[512]byte)(aligned(16, 512))
	asm.FXSAVE(legacy)
	requireInitial(t, legacy)
}

func randomBlock(r *rand.Rand, b []byte) {
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	binary.LittleEndian.PutUint32(b[offMXCSR:], 0x1f80|r.Uint32N(4)<<13|r.Uint32N(64)) // rounding, flags
	binary.LittleEndian.PutUint16(b[offFCW:], 0x37f&^0xc00|uint16(r.Uint32N(4))<<10)
	for _, x := range []int{offX87, offX87 + 16} { // a normal number: the integer bit is 1
		b[x+7] |= 0x80
		b[x+8], b[x+9] = byte(r.Uint32()), 0x40
		clear(b[x+10 : x+16])
	}
}

// TestVector: the guest's vector state survives what Go does between two
// entries, and Go's state what the guest does.
func TestVector(t *testing.T) {
	for _, c := range []struct {
		name  string
		width int
		need  uint64 // in XCR0; 0: use FXSAVE
	}{
		{"FXSAVE", 16, 0},
		{"XSAVE of SSE", 16, 3},
		{"XSAVE of AVX", 32, 7},
	} {
		t.Run(c.name, func(t *testing.T) {
			needRing0(t)
			if c.need&^hostXCR0() != 0 {
				t.Skipf("XCR0 is 0x%x", hostXCR0())
			}
			v := newVM(t, vectorCode(c.width)...)
			if c.need == 0 {
				asm.KeepLegacy(&v.Guest)
				require.Len(t, v.Vector(), 512)
			} else {
				require.NoError(t, v.KeepVector())
			}
			r := rand.New(rand.NewPCG(3, 4))
			in, out := v.data.Bytes()[:blockLen], v.data.Bytes()[2048:2048+blockLen]
			v.Regs[asm.RDI], v.Regs[asm.RSI] = v.data.Phys(), v.data.Phys()+2048
			for range 50 {
				randomBlock(r, in)
				clear(out)
				v.callClean()
				trash(r)
				require.NotEqual(t, in, out)
				v.callClean()
				n := 16 * c.width
				require.Equal(t, in[:n], out[:n])
				require.Equal(t, in[offMXCSR:offFCW+2], out[offMXCSR:offFCW+2])
				for _, x := range []int{offX87, offX87 + 16} {
					require.Equal(t, in[x:x+10], out[x:x+10])
				}
			}

			// The area tells the same: the low halves of XMM0 to XMM15 stand at 160.
			for r := range 16 {
				require.Equal(t, in[r*c.width:r*c.width+16], v.Vector()[160+16*r:176+16*r])
			}
		})
	}
}

// TestVectorInitial: a guest starts from the initial state, not from the host's.
func TestVectorInitial(t *testing.T) {
	code := vectorCode(16)
	half := slices.Index(code, 0xc1) + 1 // behind the first vmcall
	v := newVM(t, code...)
	require.NoError(t, v.KeepVector())
	v.RIP += uint64(half)
	v.Regs[asm.RSI] = v.data.Phys() + 2048
	out := v.data.Bytes()[2048 : 2048+blockLen]
	for i := range out {
		out[i] = 0xee
	}
	trash(rand.New(rand.NewPCG(5, 6)))
	v.call()
	require.Equal(t, make([]byte, 256), out[:256])
	require.Equal(t, uint32(0x1f80), binary.LittleEndian.Uint32(out[offMXCSR:]))
	require.Equal(t, uint16(0x37f), binary.LittleEndian.Uint16(out[offFCW:]))
}

// TestGuestXCR0: the guest runs with its XCR0, the host with its own, and
// components that the guest has disabled are kept.
func TestGuestXCR0(t *testing.T) {
	needRing0(t)
	host := hostXCR0()
	if host&7 != 7 {
		t.Skipf("XCR0 is 0x%x", host)
	}
	code := vectorCode(32)
	read := len(code)
	code = append(code, 0x31, 0xc9, 0x0f, 0x01, 0xd0, 0x0f, 0x01, 0xc1) // xor ecx, ecx; xgetbv; vmcall
	v := newVM(t, code...)
	require.NoError(t, v.KeepVector())
	r := rand.New(rand.NewPCG(7, 8))
	in, out := v.data.Bytes()[:blockLen], v.data.Bytes()[2048:2048+blockLen]
	randomBlock(r, in)
	binary.LittleEndian.PutUint32(in[offMXCSR:], 0x7f80) // not the host's
	binary.LittleEndian.PutUint16(in[offFCW:], 0xf7f)
	v.Regs[asm.RDI], v.Regs[asm.RSI] = v.data.Phys(), v.data.Phys()+2048
	v.call()
	next := v.RIP

	for _, xcr0 := range []uint64{1, 3, 0, 7, host} {
		require.NoError(t, v.SetXCR0(xcr0))
		v.RIP = v.code.Phys() + uint64(read)
		v.callClean()
		want := xcr0
		if want == 0 {
			want = host
		}
		require.Equal(t, want, v.Regs[asm.RAX]&0xffffffff|v.Regs[asm.RDX]<<32)
		require.Equal(t, host, asm.XGETBV(0))
		trash(r)
	}
	v.RIP = next
	v.call()
	require.Equal(t, in[:512], out[:512])

	// A failed entry, and one that faults, restore the host's XCR0, too.
	require.NoError(t, v.SetXCR0(3))
	pin := v.read(fieldPinBased)
	v.write(fieldPinBased, 0)
	require.Equal(t, asm.FailValid, v.Enter())
	require.Equal(t, host, asm.XGETBV(0))
	hostVectorClean(t)
	v.write(fieldPinBased, pin)

	on := region(t)
	v.RIP = v.code.Phys() + uint64(read)
	requireFault(t, "VMRESUME", vectorUD, func() {
		for i := range 2 { // the second time, nothing is left to write
			if i == 1 {
				asm.VMXOFF()
			}
			v.Enter()
		}
	})
	hostVectorClean(t)
	require.Equal(t, host, asm.XGETBV(0))
	require.NotZero(t, asm.ReadRFLAGS()&(1<<9))
	require.Equal(t, asm.Succeed, asm.VMXON(on.Phys()))
}

// TestBadVector: state that the processor refuses is a Fault, not a dead
// machine.
func TestBadVector(t *testing.T) {
	needRing0(t)
	want := "XRSTOR"
	if hostXCR0() == 0 {
		want = "FXRSTOR"
	}
	v := newVM(t, invert()...)
	for _, legacy := range []bool{false, true} {
		if legacy {
			want = "FXRSTOR"
			asm.KeepLegacy(&v.Guest)
		} else {
			require.NoError(t, v.KeepVector())
		}
		v.call()
		binary.LittleEndian.PutUint32(v.Vector()[24:], 1<<31) // MXCSR
		for range 3 {
			requireFault(t, want, vectorGP, func() { v.Enter() })
			hostVectorClean(t)
			require.NotZero(t, asm.ReadRFLAGS()&(1<<9))
		}
		binary.LittleEndian.PutUint32(v.Vector()[24:], 0x1f80)
		v.call()
	}
}
