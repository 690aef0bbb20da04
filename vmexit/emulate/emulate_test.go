package emulate_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/govtx/vtx/asm"
	"github.com/govtx/vtx/internal/require"
	"github.com/govtx/vtx/vmcs"
	"github.com/govtx/vtx/vmexit/emulate"
)

// step steps and requires that the instruction is done.
func (m *machine) step(t require.T) emulate.Result {
	t.Helper()
	r, err := m.Step(&m.State)
	require.NoError(t, err)
	require.Equal(t, emulate.Advance, r.Action, "%v", r.Exception.Event)
	return r
}

// raises steps and requires an exception, and that nothing has happened.
func (m *machine) raises(t require.T, v vmcs.Vector, code uint32) emulate.Exception {
	t.Helper()
	regs, flags := m.regs, m.RFLAGS
	m.device.log = nil
	r, err := m.Step(&m.State)
	require.NoError(t, err)
	require.Equal(t, emulate.Inject, r.Action)
	want := vmcs.InjectException(v, code)
	if m.CR0&1 == 0 {
		want = want.WithoutErrorCode()
	}
	require.Equal(t, want, r.Exception.Event, "%v", r.Exception.Event)
	require.Equal(t, regs, m.regs)
	require.Equal(t, flags, m.RFLAGS)
	require.Empty(t, m.device.log)
	return r.Exception
}

// TestAccesses: what a device sees of each instruction, in order. RBX is the
// device's address, RAX 0x8877665544332211, RCX 3; the device's byte n is 0xd0+n.
func TestAccesses(t *testing.T) {
	read := func(at uint64, n int) operation {
		b := make([]byte, n)
		for i := range b {
			b[i] = 0xd0 + byte(at) + byte(i)
		}
		return operation{false, at, string(b)}
	}
	write := func(at uint64, data string) operation { return operation{true, at, data} }
	for _, c := range []struct {
		name string
		code []byte
		want []operation
		reg  int
		then uint64
	}{
		{"MOV [rbx], al", []byte{0x88, 0x03}, []operation{write(0, "\x11")}, asm.RAX, 0x8877665544332211},
		{"MOV [rbx], ah", []byte{0x88, 0x23}, []operation{write(0, "\x22")}, asm.RAX, 0x8877665544332211},
		{"MOV [rbx+4], ax", []byte{0x66, 0x89, 0x43, 0x04}, []operation{write(4, "\x11\x22")}, asm.RAX, 0x8877665544332211},
		{"MOV [rbx+rcx*4], eax", []byte{0x89, 0x04, 0x8b}, []operation{write(12, "\x11\x22\x33\x44")}, asm.RAX, 0x8877665544332211},
		{"MOV [rbx], rax", []byte{0x48, 0x89, 0x03}, []operation{write(0, "\x11\x22\x33\x44\x55\x66\x77\x88")}, asm.RAX, 0x8877665544332211},
		{"MOV qword [rbx], -2", []byte{0x48, 0xc7, 0x03, 0xfe, 0xff, 0xff, 0xff}, []operation{write(0, "\xfe\xff\xff\xff\xff\xff\xff\xff")}, asm.RCX, 3},
		{"MOV [rbx], ds", []byte{0x8c, 0x1b}, []operation{write(0, "\x10\x00")}, asm.RCX, 3},
		{"MOV ah, [rbx]", []byte{0x8a, 0x23}, []operation{read(0, 1)}, asm.RAX, 0x887766554433d011},
		{"MOV ax, [rbx]", []byte{0x66, 0x8b, 0x03}, []operation{read(0, 2)}, asm.RAX, 0x887766554433d1d0},
		{"MOV eax, [rbx]", []byte{0x8b, 0x03}, []operation{read(0, 4)}, asm.RAX, 0xd3d2d1d0},
		{"MOV eax, moffs", []byte{0xa1, 0x08, 0x00, 0xe0, 0xfe, 0, 0, 0, 0}, []operation{read(8, 4)}, asm.RAX, 0xdbdad9d8},
		{"MOVZX eax, byte [rbx]", []byte{0x0f, 0xb6, 0x03}, []operation{read(0, 1)}, asm.RAX, 0xd0},
		{"MOVSX rax, word [rbx]", []byte{0x48, 0x0f, 0xbf, 0x03}, []operation{read(0, 2)}, asm.RAX, 0xffffffffffffd1d0},
		{"MOVSXD rax, [rbx]", []byte{0x48, 0x63, 0x03}, []operation{read(0, 4)}, asm.RAX, 0xffffffffd3d2d1d0},
		{"MOVBE eax, [rbx]", []byte{0x0f, 0x38, 0xf0, 0x03}, []operation{read(0, 4)}, asm.RAX, 0xd0d1d2d3},
		{"MOVNTI [rbx], eax", []byte{0x0f, 0xc3, 0x03}, []operation{write(0, "\x11\x22\x33\x44")}, asm.RAX, 0x8877665544332211},
		{"OR dword [rbx], 15", []byte{0x83, 0x0b, 0x0f}, []operation{read(0, 4), write(0, "\xdf\xd1\xd2\xd3")}, asm.RCX, 3},
		{"LOCK ADD [rbx], ecx", []byte{0xf0, 0x01, 0x0b}, []operation{read(0, 4), write(0, "\xd3\xd1\xd2\xd3")}, asm.RCX, 3},
		{"AND ecx, [rbx]", []byte{0x23, 0x0b}, []operation{read(0, 4)}, asm.RCX, 0},
		{"CMP [rbx], ecx", []byte{0x39, 0x0b}, []operation{read(0, 4)}, asm.RCX, 3},
		{"TEST byte [rbx], 1", []byte{0xf6, 0x03, 0x01}, []operation{read(0, 1)}, asm.RCX, 3},
		{"BTS [rbx], rdx", []byte{0x48, 0x0f, 0xab, 0x13}, []operation{read(8, 8), write(8, "\xd8\xd9\xda\xdb\xfc\xdd\xde\xdf")}, asm.RDX, 101},
		{"XCHG [rbx], cl", []byte{0x86, 0x0b}, []operation{read(0, 1), write(0, "\x03")}, asm.RCX, 0xd0},
		{"XADD [rbx], cl", []byte{0x0f, 0xc0, 0x0b}, []operation{read(0, 1), write(0, "\xd3")}, asm.RCX, 0xd0},
		{"CMPXCHG [rbx], cl", []byte{0x0f, 0xb0, 0x0b}, []operation{read(0, 1), write(0, "\xd0")}, asm.RAX, 0x88776655443322d0},
		{"CMPXCHG16B [rbx]", []byte{0x48, 0x0f, 0xc7, 0x0b}, []operation{read(0, 16), write(0, "\xd0\xd1\xd2\xd3\xd4\xd5\xd6\xd7\xd8\xd9\xda\xdb\xdc\xdd\xde\xdf")}, asm.RDX, 0xdfdedddcdbdad9d8},
		{"SETNE [rbx]", []byte{0x0f, 0x95, 0x03}, []operation{write(0, "\x01")}, asm.RCX, 3},
		{"CMOVE ecx, [rbx]", []byte{0x0f, 0x44, 0x0b}, []operation{read(0, 4)}, asm.RCX, 3},
		{"PUSH qword [rbx]", []byte{0xff, 0x33}, []operation{read(0, 8)}, asm.RSP, stackTop - 8},
		{"POP qword [rbx]", []byte{0x8f, 0x03}, []operation{write(0, "\x00\x00\x00\x00\x00\x00\x00\x00")}, asm.RSP, stackTop + 8},

		// The first page of the device ends at 0x1000: parts, aligned to their sizes.
		{"MOV eax, [rbx+0xffe]", []byte{0x8b, 0x83, 0xfe, 0x0f, 0, 0}, []operation{read(0xffe, 2), read(0x1000, 2)}, asm.RAX, 0xd1d0cfce},
		{"MOV eax, [rbx+0xffd]", []byte{0x8b, 0x83, 0xfd, 0x0f, 0, 0}, []operation{read(0xffd, 1), read(0xffe, 2), read(0x1000, 1)}, asm.RAX, 0xd0cfcecd},
		{"MOV rax, [rbx+0xfff]", []byte{0x48, 0x8b, 0x83, 0xff, 0x0f, 0, 0}, []operation{read(0xfff, 1), read(0x1000, 4), read(0x1004, 2), read(0x1006, 1)}, asm.RAX, 0xd6d5d4d3d2d1d0cf},
		{"MOV eax, [rbx+0x101]", []byte{0x8b, 0x83, 0x01, 0x01, 0, 0}, []operation{read(0x101, 4)}, asm.RAX, 0xd4d3d2d1},
	} {
		m := newMachine(64, c.code...)
		for n := range m.device.bytes {
			m.device.bytes[n] = 0xd0 + byte(n)
		}
		m.regs[asm.RAX], m.regs[asm.RBX], m.regs[asm.RCX], m.regs[asm.RDX] = 0x8877665544332211, deviceBase, 3, 101
		require.Equal(t, emulate.Result{Length: uint8(len(c.code))}, m.step(t), c.name)
		require.Equal(t, c.want, m.device.log, c.name)
		require.Equal(t, c.then, m.regs[c.reg], c.name)
		require.Equal(t, uint64(codeAt), m.RIP, c.name)
	}
}

// TestRAMAndDevice: an operand of which one part is in RAM.
func TestRAMAndDevice(t *testing.T) {
	m := newMachine(64, 0x48, 0x89, 0x03) // MOV [rbx], rax
	m.ram.bytes = append(m.ram.bytes, make([]byte, 0x1000)...)
	m.device.base = uint64(len(m.ram.bytes))
	m.regs[asm.RAX], m.regs[asm.RBX] = 0x8877665544332211, m.device.base-3
	m.step(t)
	require.Equal(t, "\x11\x22\x33", string(m.ram.bytes[m.device.base-3:]))
	require.Equal(t, []operation{{true, 0, "\x44\x55\x66\x77"}, {true, 4, "\x88"}}, m.device.log)
}

// TestStrings: MOVS between RAM and a device in both directions, the direction flag, address
// sizes, and what ends a repetition.
func TestStrings(t *testing.T) {
	const here, there = 0x3000, deviceBase
	for _, c := range []struct {
		name             string
		size             int
		code             []byte
		flags            uint64
		rcx, rsi, rdi    uint64
		rcx2, rsi2, rdi2 uint64
		accesses         int
	}{
		{"MOVSB to the device", 64, []byte{0xa4}, 0, 9, here, there, 9, here + 1, there + 1, 1},
		{"REP MOVSD to the device", 64, []byte{0xf3, 0xa5}, 0, 3, here, there, 0, here + 12, there + 12, 3},
		{"REP MOVSQ from the device, down", 64, []byte{0xf3, 0x48, 0xa5}, asm.FlagDF, 2, there + 8, here + 8, 0, there - 8, here - 8, 2},
		{"REP MOVSB from the device to itself", 64, []byte{0xf3, 0xa4}, 0, 4, there, there + 1, 0, there + 4, there + 5, 8},
		{"REP STOSW", 64, []byte{0x66, 0xf3, 0xab}, 0, 5, 0, there, 0, 0, there + 10, 5},
		{"LODSB", 64, []byte{0xac}, 0, 5, there, 0, 5, there + 1, 0, 1},
		{"REP with 0", 64, []byte{0xf3, 0xa4}, 0, 0, here, there, 0, here, there, 0},
		{"REPE CMPSB, different at once", 64, []byte{0xf3, 0xa6}, 0, 9, here, there, 8, here + 1, there + 1, 1},
		{"REPNE CMPSB, never equal", 64, []byte{0xf2, 0xa6}, 0, 4, here, there, 0, here + 4, there + 4, 4},
		{"REPE SCASB", 64, []byte{0xf3, 0xae}, 0, 9, 0, there, 8, 0, there + 1, 1},
		{"32-bit addresses", 64, []byte{0x67, 0xf3, 0xa4}, 0, 7<<32 | 2, 7<<32 | here, 7<<32 | there, 0, here + 2, there + 2, 2},
		{"16-bit addresses wrap", 32, []byte{0x67, 0xf3, 0xa4}, 0, 0xabcd0002, 0x1234ffff, 0x5678fffe, 0xabcd0000, 0x12340001, 0x56780000, 0},
	} {
		m := newMachine(c.size, c.code...)
		m.RFLAGS |= c.flags
		for n := range m.device.bytes {
			m.device.bytes[n] = 1
		}
		m.regs[asm.RCX], m.regs[asm.RSI], m.regs[asm.RDI] = c.rcx, c.rsi, c.rdi
		m.step(t)
		require.Equal(t, [3]uint64{c.rcx2, c.rsi2, c.rdi2}, [3]uint64{m.regs[asm.RCX], m.regs[asm.RSI], m.regs[asm.RDI]}, c.name)
		require.Len(t, m.device.log, c.accesses, c.name)
	}
}

// TestBoundedRepetition: a count of 2^64-1 takes MaxIterations a step, and the guest
// is left as between two iterations.
func TestBoundedRepetition(t *testing.T) {
	for _, c := range []struct {
		max   int
		flags uint64
		want  uint64
	}{{0, 0, emulate.DefaultMaxIterations}, {10, 0, 10}, {10, asm.FlagTF, 1}} {
		m := newMachine(64, 0xf3, 0xaa) // REP STOSB
		m.MaxIterations = c.max
		m.RFLAGS |= c.flags
		m.regs[asm.RCX], m.regs[asm.RDI], m.regs[asm.RAX] = ^uint64(0), deviceBase, 0x55
		r, err := m.Step(&m.State)
		require.NoError(t, err)
		require.Equal(t, emulate.Result{Action: emulate.Repeat, Length: 2}, r)
		require.Equal(t, ^uint64(0)-c.want, m.regs[asm.RCX])
		require.Equal(t, deviceBase+c.want, m.regs[asm.RDI])
		require.Equal(t, uint64(2|asm.FlagRF)|c.flags, m.RFLAGS)
		require.Len(t, m.device.log, int(c.want))
	}
	// It ends with RF cleared.
	m := newMachine(64, 0xf3, 0xaa)
	m.RFLAGS |= asm.FlagRF
	m.regs[asm.RCX], m.regs[asm.RDI] = 5, deviceBase
	m.step(t)
	require.Equal(t, uint64(2), m.RFLAGS)
}

// TestFaultsFirst: what an instruction raises, and that it has touched no device by then.
func TestFaultsFirst(t *testing.T) {
	const noncanonical = 1 << 60
	type change func(m *machine)
	rbx := func(v uint64) change { return func(m *machine) { m.regs[asm.RBX] = v } }
	user := func(m *machine) {
		m.Segments[vmcs.SS] = vmcs.FlatData(3)
		m.CR0 |= asm.CR0AM
		m.RFLAGS |= asm.FlagAC
	}
	for _, c := range []struct {
		name   string
		size   int
		code   []byte
		change change
		vector vmcs.Vector
	}{
		{"not canonical", 64, []byte{0x89, 0x03}, rbx(noncanonical), vmcs.VectorGP},
		{"the last byte is not canonical", 64, []byte{0x89, 0x03}, rbx(1<<47 - 3), vmcs.VectorGP},
		{"not canonical, by RBP", 64, []byte{0x89, 0x45, 0x00}, func(m *machine) { m.regs[asm.RBP] = noncanonical }, vmcs.VectorSS},
		{"the stack is not canonical", 64, []byte{0xff, 0x33}, func(m *machine) { m.regs[asm.RSP], m.regs[asm.RBX] = noncanonical, deviceBase }, vmcs.VectorSS},
		{"POP from nowhere", 64, []byte{0x8f, 0x03}, func(m *machine) { m.regs[asm.RSP], m.regs[asm.RBX] = noncanonical, deviceBase }, vmcs.VectorSS},
		{"POP to nowhere", 64, []byte{0x8f, 0x03}, rbx(noncanonical), vmcs.VectorGP},
		{"MOVS to nowhere", 64, []byte{0xa4}, func(m *machine) { m.regs[asm.RSI], m.regs[asm.RDI] = deviceBase, noncanonical }, vmcs.VectorGP},
		{"REP MOVS to nowhere", 64, []byte{0xf3, 0xa4}, func(m *machine) { m.regs[asm.RCX], m.regs[asm.RSI], m.regs[asm.RDI] = 9, deviceBase, noncanonical }, vmcs.VectorGP},
		{"CMPXCHG16B that is not aligned", 64, []byte{0x48, 0x0f, 0xc7, 0x0b}, rbx(deviceBase + 8), vmcs.VectorGP},
		{"LOCK MOV", 64, []byte{0xf0, 0x89, 0x03}, rbx(deviceBase), vmcs.VectorUD},
		{"LOCK CMP", 64, []byte{0xf0, 0x39, 0x03}, rbx(deviceBase), vmcs.VectorUD},
		{"alignment check", 64, []byte{0x89, 0x03}, func(m *machine) { user(m); m.regs[asm.RBX] = deviceBase + 2 }, vmcs.VectorAC},
		{"beyond the limit", 32, []byte{0x89, 0x03}, func(m *machine) {
			m.Segments[vmcs.DS].Limit = deviceBase + 2
			m.regs[asm.RBX] = deviceBase
		}, vmcs.VectorGP},
		{"beyond the stack's limit", 32, []byte{0xff, 0x33}, func(m *machine) {
			m.Segments[vmcs.SS].Limit = stackTop - 2
			m.regs[asm.RBX] = deviceBase
		}, vmcs.VectorSS},
		{"below an expand-down limit", 32, []byte{0x89, 0x03}, func(m *machine) {
			m.Segments[vmcs.DS].Limit = deviceBase
			m.Segments[vmcs.DS].Rights |= vmcs.AccessRights(vmcs.TypeExpandDown)
			m.regs[asm.RBX] = deviceBase
		}, vmcs.VectorGP},
		{"a null selector", 32, []byte{0x89, 0x03}, func(m *machine) { m.Segments[vmcs.DS] = vmcs.UnusableSegment() }, vmcs.VectorGP},
		{"a read-only segment", 32, []byte{0x89, 0x03}, func(m *machine) { m.Segments[vmcs.DS].Rights &^= vmcs.AccessRights(vmcs.TypeWritable) }, vmcs.VectorGP},
		{"write to the code segment", 32, []byte{0x2e, 0x89, 0x03}, rbx(deviceBase), vmcs.VectorGP},
		{"read of execute-only code", 32, []byte{0x2e, 0x8b, 0x03}, func(m *machine) { m.Segments[vmcs.CS].Rights &^= vmcs.AccessRights(vmcs.TypeReadable) }, vmcs.VectorGP},
		{"beyond 64 KBytes in real mode", 16, []byte{0x66, 0x89, 0x07}, rbx(0xfffd), vmcs.VectorGP},
		{"beyond 64 KBytes by BP", 16, []byte{0x89, 0x46, 0x00}, func(m *machine) { m.regs[asm.RBP] = 0xffff }, vmcs.VectorSS},
		{"code beyond its limit", 32, []byte{0x89, 0x03}, func(m *machine) { m.Segments[vmcs.CS].Limit = codeAt - 1 }, vmcs.VectorGP},
		{"code across its limit", 32, []byte{0x89, 0x03}, func(m *machine) { m.Segments[vmcs.CS].Limit = codeAt }, vmcs.VectorGP},
		{"code that is not canonical", 64, nil, func(m *machine) { m.RIP = noncanonical }, vmcs.VectorGP},
	} {
		m := newMachine(c.size, c.code...)
		c.change(m)
		t.Log(c.name)
		m.raises(t, c.vector, 0)
	}
	// Near the limit, what is not known is still an error.
	m := newMachine(32, 0x90)
	m.Segments[vmcs.CS].Limit = codeAt + 3
	_, err := m.Step(&m.State)
	require.ErrorContains(t, err, "NOP")

	// The last byte inside.
	for _, c := range []change{
		func(m *machine) { m.Segments[vmcs.DS].Limit = deviceBase + 3 },
		func(m *machine) {
			m.Segments[vmcs.DS].Limit = deviceBase - 1
			m.Segments[vmcs.DS].Rights |= vmcs.AccessRights(vmcs.TypeExpandDown)
		},
		func(m *machine) { m.Segments[vmcs.CS].Limit = codeAt + 1 },
	} {
		m := newMachine(32, 0x89, 0x03)
		m.regs[asm.RBX] = deviceBase
		c(m)
		m.step(t)
	}
}

// TestDecodeErrors: what cannot be decoded is told with its bytes.
func TestDecodeErrors(t *testing.T) {
	for _, c := range []struct {
		size   int
		code   []byte
		reason string
	}{
		{64, []byte{0x66, 0x0f, 0x38, 0x80, 0x00}, "unrecognized"}, // INVEPT, of which x86asm makes a prefix
		{64, []byte{0xf3, 0x0f, 0xc7, 0x33}, "unrecognized"},       // VMXON
		{64, []byte{0x06}, "unrecognized"},                         // PUSH ES, not in 64-bit mode
		{64, []byte{0xc5, 0xfc, 0x11, 0x03}, "VEX"},                // VMOVUPS [rbx], ymm0
		{64, []byte{0x62, 0xf1, 0x7c, 0x48, 0x11, 0x03}, "EVEX"},   // VMOVUPS [rbx], zmm0
		{32, []byte{0xc4, 0x03}, "LES"},                            // LES eax, [ebx]
		{64, []byte{0x0f, 0x11, 0x03}, "MOVUPS"},                   // MOVUPS [rbx], xmm0
		{64, []byte{0x89, 0xc3}, "no operand is in memory"},        // MOV ebx, eax
		{64, []byte{0x90}, "NOP"},                                  // NOP
		{64, []byte{0x8e, 0x1b}, "segment register"},               // MOV ds, [rbx]
		{64, []byte{0xff, 0x13}, "CALL"},                           // CALL [rbx]
		{64, []byte{0xd9, 0x03}, "FLD"},                            // FLD [rbx]
		{64, []byte{0x0f, 0x01, 0x3b}, "INVLPG"},                   // INVLPG [rbx]
		{64, []byte{0x69, 0x03, 1, 0, 0, 0}, "IMUL"},               // IMUL eax, [rbx], 1
		{16, []byte{0xd1, 0x07}, "ROL"},                            // ROL
	} {
		m := newMachine(c.size, c.code...)
		_, err := m.Step(&m.State)
		var e *emulate.DecodeError
		require.ErrorAs(t, err, &e, "% x", c.code)
		require.Equal(t, c.size, e.CodeSize)
		require.Equal(t, string(c.code), string(e.Code[:len(c.code)]))
		require.Contains(t, err.Error(), fmt.Sprintf("% x", c.code))
		require.Contains(t, e.Reason, c.reason)
	}
}

// TestCodeAcrossPages: of the page behind, nothing is looked at unless it is needed.
func TestCodeAcrossPages(t *testing.T) {
	m := newMachine(64)
	m.regs[asm.RBX] = deviceBase
	copy(m.ram.bytes[ramSize-2:], []byte{0x89, 0x03}) // behind which there is no memory
	m.RIP = ramSize - 2
	m.step(t)

	copy(m.ram.bytes[ramSize-2:], []byte{0x89, 0x43})
	_, err := m.Step(&m.State)
	var e *emulate.AccessError
	require.ErrorAs(t, err, &e)
	require.Equal(t, emulate.AccessError{Access: emulate.Fetch, GPA: ramSize, Size: 13, Err: emulate.ErrNoMemory}, *e)

	m = newMachine(64)
	m.regs[asm.RBX] = deviceBase
	m.RIP = 0x8ffe
	copy(m.ram.bytes[m.RIP:], []byte{0x89, 0x43, 0x10})
	require.Equal(t, uint8(3), m.step(t).Length)
	require.Equal(t, uint64(0x10), m.device.log[0].at)
}

// TestChangedCode: an instruction that is remembered is not used for other bytes, nor
// for another size of code.
func TestChangedCode(t *testing.T) {
	m := newMachine(64, 0x89, 0x03)
	m.regs[asm.RBX], m.regs[asm.RAX] = deviceBase, 1<<32
	m.step(t)
	m.ram.bytes[codeAt] = 0x88
	m.step(t)
	m.Segments[vmcs.CS] = vmcs.FlatCode32(8)
	m.ram.bytes[codeAt] = 0x48 // DEC eax, and MOV behind it
	_, err := m.Step(&m.State)
	require.Error(t, err)
	m.ram.bytes[codeAt] = 0x89
	m.Segments[vmcs.CS].Rights &^= vmcs.RightsDB
	m.regs[asm.RBP], m.regs[asm.RDI] = 0x1000, 0x10
	m.step(t) // in 16-bit code the same bytes are MOV [bp+di], ax
	require.Equal(t, []int{4, 1}, []int{len(m.device.log[0].data), len(m.device.log[1].data)})
	require.Len(t, m.device.log, 2)
}

// TestRefusals: an error of the device or of memory leaves registers and flags as they
// were.
func TestRefusals(t *testing.T) {
	for _, code := range [][]byte{
		{0x8b, 0x03}, {0x01, 0x03}, {0x0f, 0xc1, 0x03}, {0x87, 0x03}, {0x0f, 0xb1, 0x0b}, {0x48, 0x0f, 0xc7, 0x0b},
		{0xff, 0x33}, {0x8f, 0x03}, {0xf3, 0xa4}, {0xac}, {0xa6}, {0xf6, 0x1b}, {0x48, 0x0f, 0xab, 0x03},
	} {
		for fail := 1; ; fail++ {
			m := newMachine(64, code...)
			for _, n := range []int{asm.RBX, asm.RSI} {
				m.regs[n] = deviceBase
			}
			m.regs[asm.RDI], m.regs[asm.RAX], m.regs[asm.RCX] = deviceBase+0x800, 5, 1
			m.device.fail = fail
			regs, flags := m.regs, m.RFLAGS
			_, err := m.Step(&m.State)
			if err == nil {
				require.Greater(t, fail, 1)
				break
			}
			require.ErrorIs(t, err, errRange)
			var e *emulate.AccessError
			require.ErrorAs(t, err, &e)
			require.Contains(t, err.Error(), fmt.Sprintf("0x%x", e.GPA))
			require.Equal(t, regs, m.regs, "% x", code)
			require.Equal(t, flags, m.RFLAGS, "% x", code)
		}
	}
	m := newMachine(64, 0x8b, 0x03)
	m.regs[asm.RBX] = deviceBase
	m.Device = nil
	_, err := m.Step(&m.State)
	require.ErrorContains(t, err, "no Device")
	m.RIP = 0x20000
	_, err = m.Step(&m.State)
	require.ErrorIs(t, err, emulate.ErrNoMemory)
}

// TestState reads a state from an image of a VMCS, and writes what has changed.
func TestState(t *testing.T) {
	var image vmcs.Image
	segments := vmcs.Segments{
		vmcs.ES: vmcs.FlatData(0x13), vmcs.CS: vmcs.FlatCode32(0x1b), vmcs.SS: vmcs.FlatData(0x13), vmcs.DS: vmcs.FlatData(0x13),
		vmcs.FS: vmcs.FlatData(0x13), vmcs.GS: vmcs.UnusableSegment(), vmcs.LDTR: vmcs.UnusableSegment(), vmcs.TR: vmcs.TaskState(8, 0, 0x67),
	}
	require.NoError(t, segments.Write(&image))
	for f, v := range map[vmcs.Field]uint64{
		vmcs.GuestRIP: 1, vmcs.GuestRFLAGS: 2, vmcs.GuestRSP: 3, vmcs.GuestCR0: 1<<31 | 1, vmcs.GuestCR3: 5, vmcs.GuestCR4: 1<<5 | 1<<24,
		vmcs.GuestEFER: 1<<11 | 1<<10, vmcs.VMEntryControls: 0x11ff, vmcs.GuestPDPTE0: 7, vmcs.GuestPDPTE1: 8, vmcs.GuestPDPTE2: 9, vmcs.GuestPDPTE3: 10, vmcs.GuestPKRS: 11,
	} {
		image.Set(f, v)
	}
	var regs [16]uint64
	s := emulate.State{Regs: &regs, PKRU: 12}
	require.NoError(t, s.Read(&image))
	require.Equal(t, [...]uint64{1, 2, 3, 1<<31 | 1, 5, 1<<5 | 1<<24, 1 << 11}, [...]uint64{s.RIP, s.RFLAGS, regs[asm.RSP], s.CR0, s.CR3, s.CR4, s.EFER})
	require.Equal(t, [4]uint64{7, 8, 9, 10}, *s.PDPTEs)
	require.Equal(t, [2]uint32{12, 11}, [2]uint32{s.PKRU, s.PKRS})
	require.Equal(t, segments[vmcs.CS], s.Segments[vmcs.CS])
	require.Equal(t, segments[vmcs.GS], s.Segments[vmcs.GS])
	require.Equal(t, uint8(3), s.CPL())
	require.Equal(t, 32, s.CodeSize())

	refuse := writer{fail: true}
	require.NoError(t, s.Write(&refuse)) // nothing to be written
	regs[asm.RSP], s.RFLAGS = 8, 0x42
	require.Error(t, s.Write(&refuse))
	require.NoError(t, s.Write(&image))
	require.NoError(t, s.Write(&refuse))
	for f, want := range map[vmcs.Field]uint64{vmcs.GuestRSP: 8, vmcs.GuestRFLAGS: 0x42} {
		v, _ := image.Get(f)
		require.Equal(t, want, v)
	}

	// LMA is the entry control's.
	image.Set(vmcs.VMEntryControls, 0x13ff)
	require.NoError(t, s.Read(&image))
	require.Equal(t, uint64(1<<11|1<<10), s.EFER)
	image.Delete(vmcs.GuestEFER)
	require.NoError(t, s.Read(&image))
	require.Equal(t, uint64(1<<10), s.EFER)
	image.Set(vmcs.VMEntryControls, 0x11ff)

	// Without the fields of EPT the entries are in memory.
	image.Delete(vmcs.GuestPDPTE2)
	require.NoError(t, s.Read(&image))
	require.True(t, s.PDPTEs == nil)
	for _, f := range []vmcs.Field{vmcs.GuestCR3, vmcs.GuestESBase, vmcs.GuestRSP} {
		without := image
		without.Delete(f)
		require.ErrorIs(t, s.Read(&without), vmcs.ErrAbsent)
	}
	s.CR0 = 0
	require.Equal(t, uint8(0), s.CPL())
	s.CR0, s.RFLAGS, s.Segments[vmcs.SS] = 1, 1<<17, vmcs.FlatData(0)
	require.Equal(t, uint8(3), s.CPL())
}

// writer is a VMCS that refuses.
type writer struct{ fail bool }

func (w *writer) Write(vmcs.Field, uint64) error {
	if w.fail {
		return errors.New("refused")
	}
	return nil
}

// TestNames: what prints has a name.
func TestNames(t *testing.T) {
	for _, c := range []struct {
		v    fmt.Stringer
		want string
	}{
		{emulate.Read, "read"}, {emulate.Write, "write"}, {emulate.Fetch, "fetch"}, {emulate.Access(9), "Access(9)"},
		{emulate.Advance, "advance"}, {emulate.Repeat, "repeat"}, {emulate.Inject, "inject"}, {emulate.Action(9), "Action(9)"},
	} {
		require.Equal(t, c.want, c.v.String())
	}
	x := &emulate.Exception{Event: vmcs.InjectException(vmcs.VectorPF, 2), Address: 0x1234}
	require.True(t, strings.HasSuffix(x.Error(), "#PF, error code 0x2, address 0x1234"), x.Error())
}

// stepAnything is one step of a machine that nobody has made with care.
func stepAnything(t *rapid.T) {
	size := rapid.SampledFrom([]int{16, 32, 64}).Draw(t, "code size")
	code := rapid.SliceOfN(rapid.Byte(), 1, 15).Draw(t, "code")
	if rapid.Bool().Draw(t, "known") {
		code = draw(t, size, codeAt, deviceBase, stackTop, false).code
	}
	m := newMachine(size, code...)
	m.RIP = rapid.SampledFrom([]uint64{codeAt, codeAt, codeAt, ramSize - 3, 0xffff_fffe, 1<<47 - 1, ^uint64(0)}).Draw(t, "RIP")
	m.CR0 = rapid.Uint64().Draw(t, "CR0")
	m.CR3 = interesting(t, "CR3")
	m.CR4 = rapid.Uint64().Draw(t, "CR4")
	m.EFER = rapid.Uint64().Draw(t, "EFER")
	m.RFLAGS = rapid.Uint64().Draw(t, "RFLAGS")
	m.PhysicalAddressBits = rapid.Byte().Draw(t, "physical-address width")
	m.NoPSE36 = rapid.Bool().Draw(t, "NoPSE36")
	if rapid.Bool().Draw(t, "no paging") {
		m.CR0 &^= 1 << 31
	}
	for n := range m.regs {
		m.regs[n] = interesting(t, "register")
	}
	for n := range m.Segments {
		m.Segments[n].Rights ^= vmcs.AccessRights(1) << rapid.IntRange(0, 63).Draw(t, "rights")
		if rapid.Bool().Draw(t, "limit") {
			m.Segments[n].Limit = uint32(interesting(t, "limit"))
		}
	}
	for at := 0; at < 0x4000; at += 8 {
		binary.LittleEndian.PutUint64(m.ram.bytes[at:], uint64(at%0x4000)<<12&0x3000|uint64(rapid.Byte().Draw(t, "entry"))|7)
		if at > 0x100 {
			break
		}
	}
	regs, flags := m.regs, m.RFLAGS
	r, err := m.Step(&m.State)
	require.LessOrEqual(t, len(m.device.log), 2*emulate.DefaultMaxIterations*8)
	switch {
	case err != nil:
		require.Equal(t, emulate.Result{}, r)
		var d *emulate.DecodeError
		var a *emulate.AccessError
		var w *emulate.TableError
		require.True(t, errors.As(err, &d) || errors.As(err, &a) || errors.As(err, &w), "%v", err)
		require.NotEmpty(t, err.Error())
	case r.Action == emulate.Inject:
		require.True(t, r.Exception.Event.Info.Valid())
		if r.Length > 0 && m.regs == regs {
			require.Equal(t, flags, m.RFLAGS)
		}
	default:
		require.Greater(t, r.Length, uint8(0))
		require.LessOrEqual(t, r.Length, uint8(15))
	}
}

func TestAnything(t *testing.T) { rapid.Check(t, stepAnything) }

func FuzzAnything(f *testing.F) { f.Fuzz(rapid.MakeFuzz(stepAnything)) }

// TestAllOpcodes decodes every opcode of one, two and three bytes with every ModRM byte.
func TestAllOpcodes(t *testing.T) {
	skipInRing0(t)
	for _, size := range []int{16, 32, 64} {
		known := 0
		m := newMachine(size)
		m.MaxIterations = 1
		m.device.quiet = true
		for _, prefix := range [][]byte{nil, {0x66}, {0xf3}, {0xf2}, {0xf0}, {0x48}, {0x0f}, {0x66, 0x0f}, {0xf3, 0x0f}, {0x48, 0x0f}, {0x0f, 0x38}, {0x0f, 0x3a}} {
			for opcode := range 0x10000 {
				code := append(prefix[:len(prefix):len(prefix)], byte(opcode>>8), byte(opcode), 0x25, 0x12, 0x34, 0x56, 0x78, 0x9a)
				m.ram.bytes = append(m.ram.bytes[:codeAt], code...)
				m.ram.bytes = append(m.ram.bytes, make([]byte, 16)...)
				m.regs = [16]uint64{asm.RSP: stackTop}
				r, err := m.Step(&m.State)
				var e *emulate.DecodeError
				switch {
				case err == nil:
					require.LessOrEqual(t, int(r.Length), 15)
					known++
				case !errors.As(err, &e):
					known++
				}
			}
		}
		t.Logf("%d-bit code: %d known", size, known)
		require.Greater(t, known, 10000)
	}
}
