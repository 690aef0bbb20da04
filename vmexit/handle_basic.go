package vmexit

import (
	"encoding/binary"
	"errors"
	"math/bits"

	"github.com/govtx/vtx/asm"
	"github.com/govtx/vtx/vmcs"
)

// Nothing is the handler of instructions that need not do anything: PAUSE, INVD, and
// WBINVD where the guest's memory is cached coherently. INVD must not be executed for a
// guest: it would throw away what the host has written.
func Nothing(*Exit) Outcome { return Resume }

// WriteBack is the handler of WBINVD and INVD for guests that have devices which do not
// see caches: it executes WBINVD.
func WriteBack(*Exit) Outcome {
	asm.WBINVD()
	return Resume
}

// UndefinedOpcode is the handler of instructions that the guest's processor lacks: #UD.
func UndefinedOpcode(x *Exit) Outcome { return x.Raise(vmcs.VectorUD, 0) }

// GoOn is the handler of exits after which the guest just goes on, with nothing to
// skip.
func GoOn(*Exit) Outcome { return Hold }

// Leave is the handler of exits that end the run, without an error.
func Leave(*Exit) Outcome { return Stop }

// InvalidatePage is the handler of INVLPG.
func InvalidatePage(x *Exit) Outcome {
	x.RequestFlush(FlushLinear)
	return Resume
}

// Halted returns the handler of HLT. The instruction is done when it calls wait, which
// returns true when the guest has something to go on with (it has injected an
// interrupt, say), and false to end the run. Nil ends the run.
func Halted(wait func(*Exit) bool) Handler {
	return func(x *Exit) Outcome {
		x.Advance()
		if wait != nil && wait(x) {
			return Hold
		}
		return Stop
	}
}

// ArmMonitor is the handler of MONITOR, and does nothing but what the instruction
// refuses: extensions in ECX, #GP, and an address that segmentation does not allow
// (SDM Vol. 2B MONITOR). The VM exit does not tell of prefixes: the address is taken to
// be in DS, and of the size that the code has.
func ArmMonitor(x *Exit) Outcome {
	if uint32(x.Guest.Regs[asm.RCX]) != 0 {
		return x.Raise(vmcs.VectorGP, 0)
	}
	a, err := ReadAddressing(x.VMCS)
	if err != nil {
		return x.Fail(err)
	}
	ds, err := vmcs.ReadSegment(x.VMCS, vmcs.DS)
	if err != nil {
		return x.Fail(err)
	}
	offset := x.Guest.Regs[asm.RAX]
	switch cs := vmcs.AccessRights(x.Read(vmcs.GuestCSAccessRights)); {
	case a.Mode == Mode64:
	case cs&vmcs.RightsDB != 0:
		offset = uint64(uint32(offset))
	default:
		offset = uint64(uint16(offset))
	}
	if event, raised := a.Check(vmcs.DS, ds, offset, 1, false); raised {
		return x.raise(event)
	}
	return Resume
}

// MonitorWait is the handler of MWAIT: the guest goes on at once, which MWAIT allows.
// Extensions in ECX other than bit 0 raise #GP (SDM Vol. 2B MWAIT).
func MonitorWait(x *Exit) Outcome {
	if uint32(x.Guest.Regs[asm.RCX])&^1 != 0 {
		return x.Raise(vmcs.VectorGP, 0)
	}
	return Resume
}

const flagsStatus = 1<<0 | 1<<2 | 1<<4 | 1<<6 | 1<<7 | 1<<11 // CF, PF, AF, ZF, SF, OF

// TimedPause is the handler of TPAUSE and UMWAIT: the guest goes on at once, and reads
// from CF that it was not the operating system's time limit that ended the wait. An
// operand other than 0 or 1 raises #GP (SDM Vol. 2B TPAUSE, UMWAIT).
func TimedPause(x *Exit) Outcome {
	if uint32(x.Register(int(WaitInformation(x.Information()).Register())))&^1 != 0 {
		return x.Raise(vmcs.VectorGP, 0)
	}
	x.setFlags(x.Guest.RFLAGS &^ flagsStatus)
	return Resume
}

// RandomNumber returns the handler of RDRAND or RDSEED. Next returns 64 random bits, and
// false if there are none at the moment, which the guest sees in CF.
func RandomNumber(next func() (uint64, bool)) Handler {
	return func(x *Exit) Outcome {
		i := RandomInformation(x.Information())
		n := i.OperandBits()
		if n == 0 {
			return wrongExit(x, "RandomNumber")
		}
		v, ok := next()
		flags := x.Guest.RFLAGS &^ flagsStatus
		if ok {
			flags |= 1 // CF
		} else {
			v = 0
		}
		r := int(i.Register())
		x.SetRegister(r, merge(x.Register(r), v, n))
		x.setFlags(flags)
		return Resume
	}
}

// PerformanceCounter returns the handler of RDPMC. Read returns the counter that ECX
// names, and false if there is none, which raises #GP. Nil stands for a processor
// without counters.
func PerformanceCounter(read func(x *Exit, counter uint32) (uint64, bool)) Handler {
	return func(x *Exit) Outcome {
		if read != nil {
			if v, ok := read(x, uint32(x.Guest.Regs[asm.RCX])); ok {
				x.setEDXEAX(v)
				return Resume
			}
		}
		return x.Raise(vmcs.VectorGP, 0)
	}
}

// A TSC is a guest's time-stamp counter: the processor's, scaled and offset as the VMCS
// says. The guest reads the same whether or not RDTSC exits (SDM Vol. 3C 25.6.5, 26.3).
type TSC struct {
	// Now returns the processor's counter; nil stands for [asm.RDTSC].
	Now func() uint64
}

// scaled returns the counter without the offset, and whether an offset counts.
func (t *TSC) scaled(x *Exit) (v uint64, offset bool) {
	if t.Now != nil {
		v = t.Now()
	} else {
		v = asm.RDTSC()
	}
	if vmcs.PrimaryControls(x.Read(vmcs.PrimaryProcessorBasedControls))&vmcs.PrimaryUseTSCOffsetting == 0 {
		return v, false
	}
	if x.secondary()&vmcs.SecondaryUseTSCScaling != 0 {
		high, low := bits.Mul64(v, x.Read(vmcs.TSCMultiplier))
		v = high<<16 | low>>48
	}
	return v, true
}

// Value returns what the guest reads.
func (t *TSC) Value(x *Exit) uint64 {
	v, offset := t.scaled(x)
	if offset {
		v += x.Read(vmcs.TSCOffset)
	}
	return v
}

// RDTSC is the handler of RDTSC exits.
func (t *TSC) RDTSC(x *Exit) Outcome {
	x.setEDXEAX(t.Value(x))
	return Resume
}

// RDTSCP is the handler of RDTSCP exits. IA32_TSC_AUX is the processor's, which must be
// the guest's.
func (t *TSC) RDTSCP(x *Exit) Outcome {
	_, aux := asm.RDTSCP()
	x.setEDXEAX(t.Value(x))
	x.Guest.Regs[asm.RCX] = uint64(aux)
	return Resume
}

// MSR is the rule for IA32_TIME_STAMP_COUNTER. Writing it sets the offset, for which the
// control "use TSC offsetting" must be 1.
func (t *TSC) MSR() MSRRule {
	return MSRRule{
		Read: func(x *Exit, _ uint32) (uint64, bool) { return t.Value(x), true },
		Write: func(x *Exit, _ uint32, v uint64) bool {
			now, offset := t.scaled(x)
			if !offset {
				x.Fail(errors.New("vmexit: the guest writes its time-stamp counter: set the control \"use TSC offsetting\""))
				return false
			}
			x.Write(vmcs.TSCOffset, v-now)
			return true
		},
	}
}

// operand finds the memory operand of an instruction. If ok is false, the outcome is to
// be returned: the guest takes an exception, or the run ends.
func (m *GuestMemory) operand(x *Exit, o MemoryOperand, size int, write bool) (at place, a Address, out Outcome, ok bool) {
	a, err := ReadAddress(x.VMCS, o, x.Qualification(), &x.Guest.Regs)
	if err != nil {
		return at, a, x.Fail(err), false
	}
	if event, raised := a.Check(size, write); raised {
		return at, a, x.raise(event), false
	}
	at, event, err := m.place(x, a.Addressing, a.Linear, size, write)
	if err != nil {
		return at, a, x.memoryError(x.Reason().String(), err), false
	}
	if event.Info.Valid() {
		return at, a, x.raise(event), false
	}
	return at, a, Resume, true
}

// load reads a memory operand into Exit.buffer.
func (m *GuestMemory) load(x *Exit, o MemoryOperand, size int) (a Address, out Outcome, ok bool) {
	at, a, out, ok := m.operand(x, o, size, false)
	if !ok {
		return a, out, false
	}
	if err := m.read(x, &at); err != nil {
		return a, x.memoryError(x.Reason().String(), err), false
	}
	return a, Resume, true
}

// store writes a memory operand from Exit.buffer.
func (m *GuestMemory) store(x *Exit, o MemoryOperand, size int) Outcome {
	kept := x.buffer
	at, _, out, ok := m.operand(x, o, size, true)
	if !ok {
		return out
	}
	x.buffer = kept // Translate may have used it
	if err := m.write(x, &at); err != nil {
		return x.memoryError(x.Reason().String(), err)
	}
	return Resume
}

// INVPCID is the handler of INVPCID (SDM Vol. 2A INVPCID): it checks the operands and
// invalidates all linear mappings of the guest, which is more than was asked for. With
// no memory the descriptor is not looked at.
func (m *GuestMemory) INVPCID(x *Exit) Outcome {
	i := InvalidationInformation(x.Information())
	kind := x.Register(int(i.Register()))
	if !x.Code64() {
		kind &= 0xffffffff
	}
	if kind > 3 {
		return x.Raise(vmcs.VectorGP, 0)
	}
	if m != nil {
		a, out, ok := m.load(x, i.Operand(), 16)
		if !ok {
			return out
		}
		pcid, linear := binary.LittleEndian.Uint64(x.buffer[:]), binary.LittleEndian.Uint64(x.buffer[8:])
		disabled := !x.guestCR4Has(asm.CR4PCIDE)
		switch {
		case pcid>>12 != 0, kind < 2 && disabled && pcid != 0, kind == 0 && !a.canonical(linear):
			return x.Raise(vmcs.VectorGP, 0)
		}
	}
	x.RequestFlush(FlushLinear)
	return Resume
}
