package asm_test

import (
	"encoding/binary"
	"math/rand/v2"
	"runtime/debug"
	"strings"
	"testing"

	"github.com/govtx/vtx/internal/require"
	"pgregory.net/rapid"

	"github.com/govtx/vtx/asm"
)

// requireFault runs f, which must fault in instruction with vector.
func requireFault(t testing.TB, instruction string, vector uint8, f func()) *asm.Fault {
	t.Helper()
	err := asm.Try(f)
	var fault *asm.Fault
	require.ErrorAs(t, err, &fault, instruction)
	require.Equal(t, instruction, fault.Instruction)
	require.Equal(t, vector, fault.Vector, "%v", err)
	require.NoError(t, fault.Err)
	_, ok := asm.Fixup(fault.PC)
	require.True(t, ok, "PC 0x%x", fault.PC)
	return fault
}

const (
	vectorUD = 6
	vectorGP = 13
)

// TestVMXOff: with VMX operation off, every VMX instruction is a Fault.
func TestVMXOff(t *testing.T) {
	prepareVMX(t)
	for instruction, f := range map[string]func(){
		"VMXOFF":  func() { asm.VMXOFF() },
		"VMCLEAR": func() { asm.VMCLEAR(0) },
		"VMPTRLD": func() { asm.VMPTRLD(0) },
		"VMPTRST": func() { asm.VMPTRST() },
		"VMREAD":  func() { asm.VMREAD(fieldReason) },
		"VMWRITE": func() { asm.VMWRITE(fieldGuestRIP, 0) },
		"INVEPT":  func() { asm.INVEPT(2, new([2]uint64)) },
		"INVVPID": func() { asm.INVVPID(2, new([2]uint64)) },
		"VMCALL":  func() { asm.VMCALL(new(asm.CallRegs)) },
		"VMFUNC":  func() { asm.VMFUNC(0, 0) },
	} {
		for range 3 {
			requireFault(t, instruction, vectorUD, f)
		}
	}

	// VMXON needs CR4.VMXE, and the fixed bits of CR0.
	on := region(t)
	cr4, cr0 := asm.ReadCR4(), asm.ReadCR0()
	asm.WriteCR4(cr4 &^ (1 << 13))
	requireFault(t, "VMXON", vectorUD, func() { asm.VMXON(on.Phys()) })
	asm.WriteCR4(cr4)
	asm.WriteCR0(cr0 &^ (1 << 5)) // NE
	requireFault(t, "VMXON", vectorGP, func() { asm.VMXON(on.Phys()) })
	asm.WriteCR0(cr0)
}

// TestFaultTraceback: a fault is a panic in the function that faulted.
func TestFaultTraceback(t *testing.T) {
	prepareVMX(t)
	var stack string
	func() {
		defer func() {
			require.NotNil(t, recover())
			stack = string(debug.Stack())
		}()
		asm.VMCLEAR(4096)
	}()
	fault, stub, caller := strings.Index(stack, "asm.faulted"), strings.Index(stack, "asm.VMCLEAR"), strings.Index(stack, "asm_test.TestFaultTraceback(")
	require.True(t, 0 < fault && fault < stub && stub < caller, stack)
}

// TestFaultsManyTimes: faults leave nothing behind on the stack, and work on
// stacks that must grow to panic.
func TestFaultsManyTimes(t *testing.T) {
	prepareVMX(t)
	for range 1000 {
		requireFault(t, "VMREAD", vectorUD, func() { asm.VMREAD(0) })
	}
	var deep func(n int) uint64
	deep = func(n int) uint64 {
		var pad [64]uint64
		pad[n%64] = uint64(n)
		if n > 0 {
			return deep(n-1) + pad[n%64]
		}
		requireFault(t, "VMREAD", vectorUD, func() { asm.VMREAD(0) })
		return 0
	}
	for n := range 40 {
		done := make(chan uint64)
		go func() { done <- deep(n) }()
		require.Equal(t, uint64(n*(n+1)/2), <-done)
	}
}

// hasINVEPT tells that the processor has EPT and VPID, and with them INVEPT and
// INVVPID (SDM Vol. 3D A.3.3).
func hasINVEPT() bool {
	return asm.RDMSR(0x482)>>63 != 0 && asm.RDMSR(0x48b)>>33&1 != 0 && asm.RDMSR(0x48b)>>37&1 != 0
}

// TestVMXStatus: the three outcomes of each instruction, and the VM-instruction
// error that belongs to it (SDM Vol. 3C 31.3, 31.4).
func TestVMXStatus(t *testing.T) {
	prepareVMX(t)
	on := region(t)
	wrong := pages(t, 1)
	binary.LittleEndian.PutUint32(wrong.Bytes(), ^uint32(0))

	require.Equal(t, asm.FailInvalid, asm.VMXON(on.Phys()+1), "not aligned")
	require.Equal(t, asm.FailInvalid, asm.VMXON(wrong.Phys()), "revision")
	require.Equal(t, asm.Succeed, asm.VMXON(on.Phys()))
	off := false
	t.Cleanup(func() {
		if !off {
			asm.VMXOFF()
		}
	})

	// Without a current VMCS.
	phys, status := asm.VMPTRST()
	require.Equal(t, asm.Succeed, status)
	require.Equal(t, ^uint64(0), phys)
	value, status := asm.VMREAD(fieldReason)
	require.Equal(t, asm.FailInvalid, status)
	require.Zero(t, value)
	require.Equal(t, asm.FailInvalid, asm.VMWRITE(fieldGuestRIP, 1))
	require.Equal(t, asm.FailInvalid, asm.VMXON(on.Phys()))
	require.Equal(t, asm.FailInvalid, asm.VMCLEAR(1))
	require.Equal(t, asm.FailInvalid, asm.VMPTRLD(1))
	if hasINVEPT() {
		require.Equal(t, asm.FailInvalid, asm.INVEPT(99, new([2]uint64)))
		require.Equal(t, asm.FailInvalid, asm.INVVPID(99, new([2]uint64)))
	}
	g := asm.Guest{Regs: [16]uint64{1, 2, 3}}
	require.Equal(t, asm.FailInvalid, g.Enter())
	require.Equal(t, asm.Guest{Regs: [16]uint64{1, 2, 3}}, g)

	// With one.
	vmcs := region(t)
	require.Equal(t, asm.Succeed, asm.VMCLEAR(vmcs.Phys()))
	require.Equal(t, asm.Succeed, asm.VMPTRLD(vmcs.Phys()))
	phys, status = asm.VMPTRST()
	require.Equal(t, asm.Succeed, status)
	require.Equal(t, vmcs.Phys(), phys)
	for _, value := range []uint64{0, 1, 0x123456789abcdef0, ^uint64(0)} {
		require.Equal(t, asm.Succeed, asm.VMWRITE(fieldGuestRIP, value))
		got, status := asm.VMREAD(fieldGuestRIP)
		require.Equal(t, asm.Succeed, status)
		require.Equal(t, value, got)
	}
	for _, c := range []struct {
		name string
		call func() asm.Status
		code uint64
	}{
		{"VMCLEAR address", func() asm.Status { return asm.VMCLEAR(vmcs.Phys() + 1) }, 2},
		{"VMCLEAR VMXON pointer", func() asm.Status { return asm.VMCLEAR(on.Phys()) }, 3},
		{"VMLAUNCH controls", func() asm.Status { return new(asm.Guest).Enter() }, errorControls},
		{"VMPTRLD address", func() asm.Status { return asm.VMPTRLD(vmcs.Phys() + 1) }, 9},
		{"VMPTRLD VMXON pointer", func() asm.Status { return asm.VMPTRLD(on.Phys()) }, 10},
		{"VMPTRLD revision", func() asm.Status { return asm.VMPTRLD(wrong.Phys()) }, 11},
		{"VMREAD", func() asm.Status { _, s := asm.VMREAD(0xfffe); return s }, errorUnsupported},
		{"VMREAD", func() asm.Status { _, s := asm.VMREAD(0x10000); return s }, errorUnsupported},
		{"VMWRITE", func() asm.Status { return asm.VMWRITE(0xfffe, 0) }, errorUnsupported},
		{"VMXON", func() asm.Status { return asm.VMXON(on.Phys()) }, errorVMXONInRoot},
		{"INVEPT", func() asm.Status { return asm.INVEPT(99, new([2]uint64)) }, errorInvalidOperand},
		{"INVVPID", func() asm.Status { return asm.INVVPID(99, new([2]uint64)) }, errorInvalidOperand},
	} {
		if strings.HasPrefix(c.name, "INV") && !hasINVEPT() {
			continue
		}
		require.Equal(t, asm.FailValid, c.call(), c.name)
		code, status := asm.VMREAD(fieldError)
		require.Equal(t, asm.Succeed, status)
		require.Equal(t, c.code, code, c.name)
	}
	if asm.RDMSR(0x485)>>29&1 == 0 {
		require.Equal(t, asm.FailValid, asm.VMWRITE(fieldReason, 0))
		code, _ := asm.VMREAD(fieldError)
		require.Equal(t, uint64(errorReadOnly), code)
	}
	requireFault(t, "VMFUNC", vectorUD, func() { asm.VMFUNC(0, 0) })
	if hasINVEPT() {
		requireFault(t, "INVEPT", 14, func() { asm.INVEPT(2, (*[2]uint64)(nil)) })
		require.Equal(t, asm.Succeed, asm.INVEPT(2, new([2]uint64)))
		require.Equal(t, asm.Succeed, asm.INVVPID(2, new([2]uint64)))
	}
	require.Equal(t, asm.Succeed, asm.VMXOFF())
	off = true
	requireFault(t, "VMXOFF", vectorUD, func() { asm.VMXOFF() })
}

// trash uses SSE registers as Go does when it copies, and more of them.
func trash(r *rand.Rand) float64 {
	var a, b [256]byte
	for i := range a {
		a[i] = byte(r.Uint32())
	}
	b = a
	f := 1.0
	for _, x := range b {
		f = f*1.0000001 + float64(x)
	}
	return f
}

// invert is guest code that inverts all general registers but RSP, and CR2.
func invert() []byte {
	var code []byte
	code = append(code, 0x50,
		0x0f, 0x20, 0xd0, // mov rax, cr2
		0x48, 0xf7, 0xd0, // not rax
		0x0f, 0x22, 0xd0, // mov cr2, rax
		0x58) // push and pop rax round it
	for r := range byte(16) {
		if r != asm.RSP {
			code = append(code, 0x48|r>>3, 0xf7, 0xd0|r&7) // not r
		}
	}
	code = append(code, 0x0f, 0x01, 0xc1) // vmcall
	back := byte(-(len(code) + 2))
	return append(code, 0xeb, back) // jmp to the beginning
}

// TestRegisters: what Go writes reaches the guest, and what the guest writes
// comes back, whatever Go did in between.
func TestRegisters(t *testing.T) {
	v := newVM(t, invert()...)
	r := rand.New(rand.NewPCG(1, 2))
	exits := 0
	rapid.Check(t, func(t *rapid.T) {
		regs := rapid.SliceOfN(rapid.Uint64(), 16, 16).Draw(t, "regs")
		cr2 := rapid.Uint64().Draw(t, "cr2")
		copy(v.Regs[:], regs)
		v.CR2 = cr2
		for n := range rapid.IntRange(1, 5).Draw(t, "times") {
			if rapid.Bool().Draw(t, "host CR2") {
				asm.WriteCR2(rapid.Uint64().Draw(t, "host's"))
			}
			trash(r)
			v.call()
			exits++
			want := -uint64(n+1) & 1 * ^uint64(0) // all ones after an odd number
			for i, was := range regs {
				if i == asm.RSP {
					want := was // not the guest's
					require.Equal(t, want, v.Regs[i])
					continue
				}
				require.Equal(t, was^want, v.Regs[i], "register %d", i)
			}
			require.Equal(t, cr2^want, v.CR2)
		}
	})
	require.Greater(t, exits, 100)
	require.True(t, v.Launched())
}

// TestInterruptFlag: Enter returns with interrupts as they were, and enters
// with them off.
func TestInterruptFlag(t *testing.T) {
	v := newVM(t, invert()...)
	const IF = 1 << 9
	for range 3 {
		asm.CLI()
		s := v.Enter()
		off := asm.ReadRFLAGS()
		asm.STI()
		on := asm.ReadRFLAGS()
		require.Equal(t, asm.Succeed, s)
		require.Zero(t, off&IF)
		require.NotZero(t, on&IF)

		v.RIP += 3
		v.call()
		require.NotZero(t, asm.ReadRFLAGS()&IF)
	}

	// A failing entry, too.
	v.write(fieldPinBased, 0)
	asm.CLI()
	s := v.Enter()
	off := asm.ReadRFLAGS()
	asm.STI()
	require.Equal(t, asm.FailValid, s)
	require.Zero(t, off&IF)
	require.Equal(t, asm.FailValid, v.Enter())
	require.NotZero(t, asm.ReadRFLAGS()&IF)
}

// TestStackMoves: HOST_RSP follows Go's stack.
func TestStackMoves(t *testing.T) {
	v := newVM(t, invert()...)
	seen := map[uint64]bool{}
	var deep func(n int) int
	deep = func(n int) int {
		var pad [512]byte
		pad[n] = 1
		v.Regs[asm.RAX] = uint64(n)
		v.call()
		require.Equal(t, ^uint64(n), v.Regs[asm.RAX])
		seen[v.read(fieldHostRSP)] = true
		if n > 0 {
			return deep(n-1) + int(pad[n])
		}
		return 0
	}
	require.Equal(t, 200, deep(200))
	require.GreaterOrEqual(t, len(seen), 200)
}

// TestGuestOnStack: a Guest may itself lie on a stack that moves.
func TestGuestOnStack(t *testing.T) {
	v := newVM(t, invert()...)
	g := asm.Guest{RIP: v.code.Phys()}
	var grow func(n int) int
	grow = func(n int) int {
		var pad [1024]byte
		pad[n] = 1
		if n > 0 {
			return grow(n-1) + int(pad[n])
		}
		return 0
	}
	for i := range 8 {
		g.Regs[asm.R9] = uint64(i)
		require.Equal(t, asm.Succeed, g.Enter())
		require.Equal(t, ^uint64(i), g.Regs[asm.R9])
		g.RIP += uint64(g.InstructionLength)
		require.Equal(t, i*100, grow(i*100))
	}
}

// TestWhatEnterWrites: VMX operation off, the first VMX instruction of Enter
// faults and so tells what it is. At the same place with the same RIP it is the
// entry itself.
func TestWhatEnterWrites(t *testing.T) {
	v := newVM(t, invert()...)
	on := region(t)
	for _, c := range []struct {
		name, want string
		change     func()
	}{
		{"nothing changed", "VMRESUME", func() {}},
		{"RIP changed", "VMWRITE", func() { v.RIP += 3 }},
		{"RIP written with the same value", "VMRESUME", func() { v.RIP += 0 }},
		{"reset", "VMWRITE", func() { v.Reset() }},
		{"CR2 changed", "VMRESUME", func() { v.CR2++ }},
	} {
		require.Equal(t, asm.Succeed, asm.VMCLEAR(v.vmcs.Phys()))
		require.Equal(t, asm.Succeed, asm.VMPTRLD(v.vmcs.Phys()))
		v.Reset()
		v.RIP = v.code.Phys()
		var status asm.Status
		fault := requireFault(t, c.want, vectorUD, func() {
			for i := range 2 { // one place of the stack for both
				if i == 1 {
					asm.VMXOFF()
					c.change()
				}
				status = v.Enter()
			}
		})
		require.Equal(t, asm.Succeed, status, "the first")
		require.NotZero(t, fault.PC, c.name)
		require.NotZero(t, asm.ReadRFLAGS()&(1<<9), "interrupts are on again")
		require.Equal(t, asm.Succeed, asm.VMXON(on.Phys()))
	}
	require.Equal(t, asm.Succeed, asm.VMPTRLD(v.vmcs.Phys()))
}

// TestLaunchFault: the fault is VMLAUNCH's, if all else is in place.
func TestLaunchFault(t *testing.T) {
	v := newVM(t, invert()...)
	v.write(fieldPinBased, 0)
	on := region(t)
	requireFault(t, "VMLAUNCH", vectorUD, func() {
		for i := range 2 {
			if i == 1 {
				asm.VMXOFF()
			}
			v.Enter()
		}
	})
	require.Equal(t, asm.Succeed, asm.VMXON(on.Phys()))
	require.Equal(t, asm.Succeed, asm.VMPTRLD(v.vmcs.Phys()))
	v.controls()
	v.Regs[asm.RCX] = 5
	v.call()
	require.Equal(t, ^uint64(5), v.Regs[asm.RCX])
}

// TestAfterFault: after a fault, Enter writes all of its fields again, even at
// the same place of the stack.
func TestAfterFault(t *testing.T) {
	v := newVM(t, invert()...)
	on := region(t)
	for i := range 3 {
		want := ""
		switch i {
		case 1:
			asm.VMXOFF()
			want = "VMRESUME"
		case 2:
			require.Equal(t, asm.Succeed, asm.VMXON(on.Phys()))
			require.Equal(t, asm.Succeed, asm.VMPTRLD(v.vmcs.Phys()))
			v.write(fieldHostRSP, 0)
			v.write(fieldHostRIP, 0)
			v.write(fieldGuestRIP, 0)
		}
		var status asm.Status
		err := asm.Try(func() { status = v.Enter() })
		if want != "" {
			require.ErrorContains(t, err, want)
			continue
		}
		require.NoError(t, err)
		require.Equal(t, asm.Succeed, status)
		require.Equal(t, uint32(reasonVMCALL), v.Reason)
	}
}

// TestFailedEntry: a status or an exit tells of each kind of failure, the guest
// is unchanged, and it runs once the cause is gone.
func TestFailedEntry(t *testing.T) {
	t.Run("without vector state", func(t *testing.T) { testFailedEntry(newVM(t, invert()...)) })
	t.Run("with vector state", func(t *testing.T) {
		v := newVM(t, invert()...)
		require.NoError(t, v.KeepVector())
		testFailedEntry(v)
	})
}

func testFailedEntry(v *vm) {
	t := v.TB
	try := func(name string, code uint64) {
		t.Helper()
		before := v.Guest
		require.Equal(t, asm.FailValid, v.Enter(), name)
		require.Equal(t, code, v.read(fieldError), name)
		require.Equal(t, before.Regs, v.Regs)
		require.Equal(t, before.RIP, v.RIP)
		require.Equal(t, before.CR2, v.CR2)
		require.Equal(t, before.Launched(), v.Launched())
	}
	v.Regs[asm.RBX], v.CR2 = 77, 0x7777

	pin := v.read(fieldPinBased)
	v.write(fieldPinBased, 0)
	try("controls", errorControls)
	v.write(fieldPinBased, pin)

	cs := v.read(fieldHostCS)
	v.write(fieldHostCS, 0)
	try("host state", errorHostState)
	v.write(fieldHostCS, cs)

	// Guest state is checked later, and comes back as an exit, which has not
	// launched the VMCS.
	v.write(fieldGuestRFLAGS, 0)
	v.enter(reasonBadGuest)
	require.False(t, v.Launched())
	require.Equal(t, uint64(77), v.Regs[asm.RBX])
	require.Equal(t, uint64(0x7777), v.CR2)
	require.Equal(t, v.code.Phys(), v.RIP)
	v.write(fieldGuestRFLAGS, 2)

	v.call()
	require.True(t, v.Launched())
	require.Equal(t, ^uint64(77), v.Regs[asm.RBX])

	// A second Guest launches a VMCS that is launched.
	g := asm.Guest{RIP: v.RIP}
	require.Equal(t, asm.FailValid, g.Enter())
	require.Equal(t, uint64(errorNotClear), v.read(fieldError))
	require.False(t, g.Launched())
	v.Reset() // g has written HOST_RSP
	require.Equal(t, asm.Succeed, asm.VMCLEAR(v.vmcs.Phys()))
	require.Equal(t, asm.Succeed, asm.VMPTRLD(v.vmcs.Phys()))
	v.call()

	// A failed VMRESUME of bad guest state leaves it launched.
	v.write(fieldGuestRFLAGS, 0)
	v.enter(reasonBadGuest)
	require.True(t, v.Launched())
	v.write(fieldGuestRFLAGS, 2)
	v.call()

	// VMCLEAR without Reset.
	require.Equal(t, asm.Succeed, asm.VMCLEAR(v.vmcs.Phys()))
	require.Equal(t, asm.Succeed, asm.VMPTRLD(v.vmcs.Phys()))
	try("VMRESUME of a clear VMCS", errorNotLaunched)
	v.Reset()
	v.call()
	require.Equal(t, asm.Succeed, asm.VMCLEAR(v.vmcs.Phys()))
	require.Equal(t, asm.FailInvalid, v.Enter())
	require.Equal(t, asm.Succeed, asm.VMPTRLD(v.vmcs.Phys()))
	v.Reset()
	v.call()
}

// TestTwoGuests run in turn, each with its VMCS and registers.
func TestTwoGuests(t *testing.T) {
	v := newVM(t, invert()...)
	w := &vm{TB: t, vmcs: region(t), data: pages(t, 2), code: v.code}
	require.Equal(t, asm.Succeed, asm.VMCLEAR(w.vmcs.Phys()))
	require.Equal(t, asm.Succeed, asm.VMPTRLD(w.vmcs.Phys()))
	w.controls()
	w.segments()
	w.state()
	w.RIP = w.code.Phys()
	v.Regs[asm.RSI], w.Regs[asm.RSI] = 1, 2
	for i := range uint64(20) {
		for _, g := range []*vm{v, w} {
			require.Equal(t, asm.Succeed, asm.VMPTRLD(g.vmcs.Phys()))
			g.call()
		}
		flip := -(i + 1) & 1 * ^uint64(0)
		require.Equal(t, 1^flip, v.Regs[asm.RSI])
		require.Equal(t, 2^flip, w.Regs[asm.RSI])
	}
}

// TestExitFields: what Enter reads is what the VMCS holds.
func TestExitFields(t *testing.T) {
	v := newVM(t,
		0x8e, 0xd0, // mov ss, eax: blocks events until the next instruction is through
		0x0f, 0xa2, // cpuid
		0xf4,       // hlt
		0xe6, 0x80, // out 0x80, al
		0x0f, 0x0b, // ud2
	)
	at := v.code.Phys() + 2
	for i, want := range []struct {
		reason, length uint32
	}{{reasonCPUID, 2}, {reasonHLT, 1}, {reasonIO, 2}, {reasonException, 0}} {
		v.enter(want.reason)
		require.True(t, i > 0 || v.Interruptibility == 2)
		require.Equal(t, at, v.RIP)
		require.Equal(t, v.read(fieldGuestRIP), v.RIP)
		require.Equal(t, v.read(fieldReason), uint64(v.Reason))
		require.Equal(t, v.read(0x440c), uint64(v.InstructionLength))
		require.Equal(t, v.read(fieldGuestRFLAGS), v.RFLAGS)
		require.Equal(t, v.read(0x4824), uint64(v.Interruptibility))
		if want.length != 0 {
			require.Equal(t, want.length, v.InstructionLength)
		}
		at += uint64(want.length)
		v.RIP = at
	}
}
