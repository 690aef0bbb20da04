package vmexit_test

import (
	"encoding/binary"
	"fmt"
	"testing"

	"github.com/govtx/vtx/asm"
	"github.com/govtx/vtx/internal/require"
	"github.com/govtx/vtx/internal/ring0test"
	"github.com/govtx/vtx/internal/vmtest"
	"github.com/govtx/vtx/vmcs"
	"github.com/govtx/vtx/vmexit"
	"pgregory.net/rapid"
)

// check runs a property a number of times, or fewer if another boot has the rest.
func check(t *testing.T, times int, property func(t *rapid.T)) {
	t.Helper()
	setFlag(t, "rapid.checks", fmt.Sprint(ring0test.Share(times)))
	rapid.Check(t, property)
}

// flags of RFLAGS
const (
	flagTF = 1 << 8
	flagIF = 1 << 9
	flagNT = 1 << 14
)

// flags sets bits of the guest's RFLAGS.
func (s *shot) flags(f uint64) { s.Set(vmcs.GuestRFLAGS, s.Get(vmcs.GuestRFLAGS)|f) }

// stack gives the guest a stack again.
func (s *shot) stack() { s.set(asm.RSP, vmtest.StackTop-256) }

// catches makes these exceptions, and no other, exit.
func (s *shot) catches(vectors ...vmcs.Vector) {
	bitmap := uint64(0)
	for _, v := range vectors {
		bitmap |= 1 << v
	}
	s.Set(vmcs.ExceptionBitmap, bitmap)
}

// arrives enters the guest, which is to come to its handler for a vector.
func (s *shot) arrives(v vmcs.Vector) {
	s.t.Helper()
	s.enter()
	require.Equal(s.t, vmexit.VMCALL, s.reason.Basic(), "%v", s)
	require.Equal(s.t, vmtest.Handler(uint8(v)), s.Linear(), "%v", s)
}

// withEPT makes a bench for each kind of guest that a test of memory, or of events, runs
// in.
func (l *ledger) withEPT(prepare func(b *bench), modes ...vmtest.Mode) (benches []*bench) {
	l.Helper()
	for _, k := range l.Kinds() {
		for _, m := range modes {
			if k.Mode == m && k.EPT && k.Unrestricted == vmtest.Has(l.Machine, vmcs.SecondaryUnrestrictedGuest) {
				benches = append(benches, l.newBench(k, prepare))
			}
		}
	}
	require.NotEmpty(l, benches, "no guest with EPT")
	return benches
}

// draw takes one of the benches, and starts a shot on it. The guest's memory is as at
// first.
func draw(t *rapid.T, benches []*bench) *shot {
	b := benches[drawBelow(t, "guest", len(benches))]
	b.Use()
	copy(b.Memory, b.memory)
	s := b.shoot(t)
	s.stack()
	return s
}

var allModes = []vmtest.Mode{
	vmtest.ModeLong, vmtest.ModeCompatibility, vmtest.ModePAE, vmtest.ModePaged, vmtest.ModeVirtual8086,
	vmtest.ModeProtected, vmtest.ModeProtected16, vmtest.ModeReal,
}

// An exception is code that raises one.
type exception struct {
	name   string
	vector vmcs.Vector
	modes  func(m vmtest.Mode) bool // nil: all
	draw   func(s *shot) (code uint32)
}

func segmented(m vmtest.Mode) bool { return m != vmtest.ModeReal && m != vmtest.ModeVirtual8086 }

var exceptions = []exception{
	{name: "UD2", vector: vmcs.VectorUD, draw: func(s *shot) uint32 { s.encode(simple(0x0f, 0x0b)); return 0 }},
	{name: "DIV by 0", vector: vmcs.VectorDE, draw: func(s *shot) uint32 {
		r := s.drawRegister() &^ 4 // AL to BL, R8B to R11B
		s.set(r, s.registers[r]&^0xff)
		s.encode(encoding{opcode: []byte{0xf6}, reg: 6, rm: place{modRM: 3<<6 | byte(r)&7, b: r >= 8}})
		return 0
	}},
	{name: "BOUND", vector: vmcs.VectorBR, modes: func(m vmtest.Mode) bool { return m != vmtest.ModeLong }, draw: func(s *shot) uint32 {
		m := s.drawAimed(vmtest.Data + uint64(drawBelow(s.t, "target", 0x1000)))
		r := m.base ^ 1
		if r == m.index {
			r = m.base ^ 2
		}
		s.set(r, s.registers[r]|1) // the bounds are 0 and 0
		s.encode(encoding{opcode: []byte{0x62}, reg: r, rm: m})
		return 0
	}},
	{name: "x87 with CR0.TS", vector: vmcs.VectorNM, draw: func(s *shot) uint32 {
		s.Set(vmcs.GuestCR0, s.Get(vmcs.GuestCR0)|1<<3)
		s.encode(simple(0xd9, 0xd0))
		return 0
	}},
	{name: "selector beyond the GDT", vector: vmcs.VectorGP, modes: segmented, draw: func(s *shot) uint32 {
		selector := uint64(drawBelow(s.t, "selector", 0x10000)) | 0x1000
		s.set(asm.RAX, selector)
		s.encode(simple(0x8e, 0xd8)) // MOV DS, AX
		return uint32(selector &^ 3)
	}},
	{name: "segment not present", vector: vmcs.VectorNP, modes: segmented, draw: func(s *shot) uint32 {
		selector := s.descriptor(0x00cf73000000ffff) // data, DPL 3
		s.set(asm.RAX, selector)
		s.encode(simple(0x8e, 0xd8))
		return uint32(selector &^ 3)
	}},
	{name: "write to code", vector: vmcs.VectorGP, modes: func(m vmtest.Mode) bool { return segmented(m) && m != vmtest.ModeLong }, draw: func(s *shot) uint32 {
		s.encode(encoding{prefix: 0x2e, opcode: []byte{0x88}, rm: place{modRM: 5}})
		return 0
	}},
	{name: "beyond the limit", vector: vmcs.VectorGP, modes: func(m vmtest.Mode) bool { return !segmented(m) }, draw: func(s *shot) uint32 {
		s.set(asm.RBX, s.registers[asm.RBX]|1<<16)
		s.encode(encoding{opcode: []byte{0x8a}, rm: place{modRM: 3, address: 32}})
		return 0
	}},
	{name: "not canonical", vector: vmcs.VectorGP, modes: func(m vmtest.Mode) bool { return m == vmtest.ModeLong }, draw: func(s *shot) uint32 {
		s.set(asm.RBX, s.registers[asm.RBX]>>1|1<<62)
		s.encode(encoding{opcode: []byte{0x8a}, rm: place{modRM: 3}})
		return 0
	}},
	{name: "stack not canonical", vector: vmcs.VectorSS, modes: func(m vmtest.Mode) bool { return m == vmtest.ModeLong }, draw: func(s *shot) uint32 {
		s.set(asm.RBP, s.registers[asm.RBP]>>1|1<<62)
		s.encode(encoding{opcode: []byte{0x8a}, rm: place{modRM: 0x45, disp: []byte{0}}})
		return 0
	}},
	{name: "stack beyond the limit", vector: vmcs.VectorSS, modes: func(m vmtest.Mode) bool { return !segmented(m) }, draw: func(s *shot) uint32 {
		s.set(asm.RBP, s.registers[asm.RBP]|1<<16)
		s.encode(encoding{opcode: []byte{0x8a}, rm: place{modRM: 0x45, address: 32, disp: []byte{0}}})
		return 0
	}},
}

// descriptor puts a descriptor in the guest's GDT, and draws a selector of it.
func (s *shot) descriptor(d uint64) (selector uint64) {
	const first, last = 0x50, 0xff8
	s.Set(vmcs.GuestGDTRLimit, last+7)
	at := uint64(first + 8*drawBelow(s.t, "descriptor", (last-first)/8+1))
	binary.LittleEndian.PutUint64(s.Memory[vmtest.GDT+at:], d)
	return at | uint64(drawBelow(s.t, "RPL", 4))
}

func (l *ledger) exceptions(t *testing.T) {
	benches := l.withEPT(nil, allModes...)
	drawn := map[string]int{}
	check(t, 600, func(t *rapid.T) {
		s := draw(t, benches)
		e := &exceptions[drawBelow(t, "exception", len(exceptions))]
		if e.modes != nil && !e.modes(s.mode) {
			return
		}
		want := vmcs.InjectException(e.vector, e.draw(s))
		if s.mode == vmtest.ModeReal && !errorCodeInRealMode.hits(e.vector.HasErrorCode()) {
			want = want.WithoutErrorCode()
		}
		s.fire()
		drawn[e.name]++
		s.excepted(want)
		require.Equal(t, s.at(), s.RIP, "%v", s)
		require.False(t, s.vectoring.Valid(), "%v", s)
	})
	for _, e := range exceptions {
		if drawn[e.name] == 0 && ring0test.Whole() {
			l.Errorf("%s was not drawn: draw more", e.name)
		}
	}
}

// guestEntry is the guest's page-table entry for a linear address.
func (s *shot) guestEntry(linear uint64) []byte {
	if s.mode == vmtest.ModePaged || s.mode == vmtest.ModeVirtual8086 {
		return s.Memory[vmtest.TablePT+4*(linear>>12):][:4]
	}
	return s.Memory[vmtest.TablePT+8*(linear>>12):][:8]
}

// pageFaults: the linear address and the error code.
func (l *ledger) pageFaults(t *testing.T) {
	benches := l.withEPT(nil, vmtest.ModeLong, vmtest.ModeCompatibility, vmtest.ModePAE, vmtest.ModePaged, vmtest.ModeVirtual8086)
	const present, write, user = 1, 2, 4
	check(t, 300, func(t *rapid.T) {
		s := draw(t, benches)
		code := uint32(0)
		if s.mode == vmtest.ModeVirtual8086 {
			code |= user
		}
		target := uint64(vmtest.Data + drawBelow(t, "target", 0x3000))
		switch drawBelow(t, "access", 4) {
		case 0: // read of a page that is not present
			s.encode(encoding{opcode: []byte{0x8a}, reg: s.drawRegister(), rm: s.drawAimed(target)})
			s.guestEntry(target)[0] &^= present
		case 1: // write
			s.encode(encoding{opcode: []byte{0x88}, reg: s.drawRegister(), rm: s.drawAimed(target)})
			s.guestEntry(target)[0] &^= present
			code |= write
		case 2: // write to a page that can be read
			s.encode(encoding{opcode: []byte{0x88}, reg: s.drawRegister(), rm: s.drawAimed(target)})
			s.guestEntry(target)[0] &^= write
			code |= write | present
		case 3: // fetch
			s.encode(simple(0x90))
			s.start = target
			s.guestEntry(target)[0] &^= present
		}
		s.fire()
		s.excepted(vmcs.InjectException(vmcs.VectorPF, code))
		require.Equal(t, s.at(), s.RIP, "%v", s)
		q := s.reason.QualificationFormat(s.event).Value(s.qualification)
		require.Equal(t, fmt.Sprint(vmexit.LinearAddressQualification(target)), fmt.Sprint(q), "%v", s)
		require.Equal(t, target, s.qualification, "%v", s)
	})
}

// debugExceptions: single steps, the general-detect bit, and those that VM entry makes
// pending.
func (l *ledger) debugExceptions(t *testing.T) {
	benches := l.withEPT(nil, vmtest.ModeLong, vmtest.ModePAE, vmtest.ModeProtected, vmtest.ModeReal)
	check(t, 150, func(t *rapid.T) {
		s := draw(t, benches)
		breakpoints, step, access, rip := 0, false, false, uint64(0)
		switch drawBelow(t, "cause", 3) {
		case 0:
			s.flags(flagTF)
			s.encode(simple(0x90))
			step, rip = true, s.next()
		case 1:
			s.Set(vmcs.GuestDR7, 0x400|1<<13)
			s.encode(encoding{opcode: []byte{0x0f, 0x23}, reg: vmexit.Register(drawBelow(t, "DR", 4)), rm: s.drawInRegister()})
			access, rip = true, s.at()
		case 2:
			breakpoints = drawBelow(t, "breakpoints", 15) + 1
			s.Set(vmcs.GuestPendingDebugExceptions, uint64(breakpoints)|1<<12)
			s.encode(simple(0x90))
			rip = s.at()
		}
		s.fire()
		s.excepted(vmcs.InjectException(vmcs.VectorDB, 0))
		require.Equal(t, rip, s.RIP, "%v", s)
		q := vmexit.DebugQualification(s.qualification)
		require.Equal(t, step, q.SingleStep(), "%v", s)
		require.Equal(t, access, q.RegisterAccess(), "%v", s)
		for n := range 4 {
			require.Equal(t, breakpoints>>n&1 != 0, q.Breakpoint(n), "%v", s)
		}
		require.False(t, q.BusLock() || q.RTM(), "%v", s)
		require.Equal(t, vmexit.QualificationDebug, s.reason.QualificationFormat(s.event))
	})
}

// mtfControl: SDM Vol. 3C 26.5.2 has an exit after each instruction if the control is 1.
// Bochs has no use of the control; only an injected event makes a pending exit.
var mtfControl = &deviation{name: "the control \"monitor trap flag\" does nothing", possible: unreachable[vmexit.MonitorTrapFlag].possible}

// asynchronous are exits between instructions: windows, timer, pending MTF VM exits,
// triple faults.
func (l *ledger) asynchronous(t *testing.T) {
	benches := l.withEPT(nil, vmtest.ModeLong, vmtest.ModePAE, vmtest.ModePaged, vmtest.ModeProtected, vmtest.ModeReal)
	check(t, 400, func(t *rapid.T) {
		s := draw(t, benches)
		pin := func(c vmcs.PinControls) { vmtest.SetControls(s.Guest, c) }
		primary := func(c vmcs.PrimaryControls) { vmtest.SetControls(s.Guest, c) }
		for range drawBelow(t, "NOPs", 4) {
			s.encode(simple(0x90))
		}
		want, rip := vmexit.VMCALL, s.start
		switch drawBelow(t, "event", 8) {
		case 0:
			want = vmexit.InterruptWindow
			primary(vmcs.PrimaryInterruptWindowExiting)
			s.flags(flagIF)
		case 1: // the instruction behind STI comes first
			want = vmexit.InterruptWindow
			primary(vmcs.PrimaryInterruptWindowExiting)
			s.encode(simple(0xfb)) // STI
			s.encode(simple(0x90))
			rip = s.next()
			s.encode(simple(0x90))
		case 2:
			want = vmexit.NMIWindow
			pin(vmcs.PinNMIExiting | vmcs.PinVirtualNMIs)
			primary(vmcs.PrimaryNMIWindowExiting)
		case 3:
			want = vmexit.PreemptionTimer
			pin(vmcs.PinActivateVMXPreemptionTimer)
			s.Set(vmcs.PreemptionTimerValue, 0)
		case 4:
			want = vmexit.PreemptionTimer
			pin(vmcs.PinActivateVMXPreemptionTimer)
			s.Set(vmcs.PreemptionTimerValue, 8+uint64(drawBelow(t, "timer", 100)))
			rip = s.next()
			s.code = append(s.code, 0xeb, 0xfe) // JMP to itself
		case 5:
			want = vmexit.TripleFault
			s.catches()
			s.Set(vmcs.GuestIDTRLimit, 0)
			rip = s.next()
			s.code = append(s.code, 0x0f, 0x0b) // UD2
		case 6:
			if !vmtest.Has(s.Machine, vmcs.PrimaryMonitorTrapFlag) {
				return
			}
			want = vmexit.MonitorTrapFlag
			require.NoError(t, vmcs.InjectMTF().Write(vmcs.Current{}))
		case 7:
			if !vmtest.Has(s.Machine, vmcs.PrimaryMonitorTrapFlag) {
				return
			}
			primary(vmcs.PrimaryMonitorTrapFlag)
			s.encode(simple(0x90))
			want, rip = vmexit.MonitorTrapFlag, s.start+1
			if mtfControl.hits(true) {
				want, rip = vmexit.VMCALL, s.next()
			}
		}
		s.fire()
		require.Equal(t, vmexit.Reason(want), s.reason, "%v", s)
		require.Equal(t, rip, s.RIP, "%v", s)
		require.Zero(t, s.qualification, "%v", s)
		require.False(t, s.vectoring.Valid(), "%v", s)
	})
}

// taskSwitches: what initiates them, and the selector.
func (l *ledger) taskSwitches(t *testing.T) {
	benches := l.withEPT(nil, vmtest.ModePAE, vmtest.ModePaged, vmtest.ModeProtected, vmtest.ModeProtected16)
	const available, busy = 0xe9, 0xeb // DPL 3
	check(t, 200, func(t *rapid.T) {
		s := draw(t, benches)
		s.catches()
		source := vmexit.TaskSwitchSource(drawBelow(t, "source", 4))
		access := uint64(available)
		if source == vmexit.TaskSwitchIRET {
			access = busy
		}
		selector := s.descriptor(0x67 | vmtest.Free<<16 | access<<40)
		far := func(code byte) {
			e := simple(code)
			e.immediate = binary.LittleEndian.AppendUint32(nil, uint32(drawWord(t, "offset")))[:s.bits/8]
			e.immediate = binary.LittleEndian.AppendUint16(e.immediate, uint16(selector))
			s.encode(e)
		}
		delivered := vmcs.Event{}
		switch source {
		case vmexit.TaskSwitchCALL:
			far(0x9a)
		case vmexit.TaskSwitchJMP:
			far(0xea)
		case vmexit.TaskSwitchIRET:
			s.flags(flagNT)
			binary.LittleEndian.PutUint16(s.Memory[vmtest.TSS:], uint16(selector))
			s.encode(simple(0xcf))
		case vmexit.TaskSwitchGate:
			v := vmcs.Vector(drawBelow(t, "vector", 256))
			software := drawBool(t, "software")
			if software {
				s.encode(encoding{opcode: []byte{0xcd}, immediate: []byte{byte(v)}, plain: true})
				delivered = vmcs.InjectSoftwareInterrupt(v, s.length())
			} else {
				v = vmcs.VectorUD
				s.encode(simple(0x0f, 0x0b))
				delivered = vmcs.InjectException(v, 0)
			}
			binary.LittleEndian.PutUint64(s.Memory[vmtest.IDT+8*uint64(v):], selector<<16|0xe5<<40)
		}
		s.fire()
		require.Equal(t, vmexit.Reason(vmexit.TaskSwitch), s.reason, "%v", s)
		require.Equal(t, s.at(), s.RIP, "%v", s)
		q := vmexit.TaskSwitchQualification(s.qualification)
		require.Equal(t, source, q.Source(), "%v", s)
		require.Equal(t, uint16(selector), q.Selector(), "%v", s)
		d, ok, err := vmexit.ReadInterrupted(vmcs.Current{})
		require.NoError(t, err)
		require.Equal(t, source == vmexit.TaskSwitchGate, ok, "%v", s)
		require.Equal(t, delivered, d.Event, "%v", s)
		if source != vmexit.TaskSwitchGate || delivered.Length != 0 {
			require.Equal(t, s.length(), s.InstructionLength, "%v", s)
		}
	})
}

// drawEvent draws an event and makes the guest meet it: injected, or by an instruction.
func (s *shot) drawEvent() (e vmcs.Event) {
	t := s.t
	vector := vmcs.Vector(32 + drawBelow(t, "vector", 224))
	injected := true
	switch drawBelow(t, "event", 9) {
	case 0:
		e = vmcs.InjectInterrupt(vector)
		s.flags(flagIF)
	case 1:
		e = vmcs.InjectNMI()
	case 2:
		e = vmcs.InjectException([]vmcs.Vector{vmcs.VectorDE, vmcs.VectorBR, vmcs.VectorUD, vmcs.VectorNM, vmcs.VectorMF, vmcs.VectorXM}[drawBelow(t, "vector", 6)], 0)
	case 3:
		e = vmcs.InjectException([]vmcs.Vector{vmcs.VectorTS, vmcs.VectorNP, vmcs.VectorSS, vmcs.VectorGP, vmcs.VectorPF}[drawBelow(t, "vector", 5)],
			uint32(drawBelow(t, "error code", 1<<15)))
	case 4:
		e = vmcs.InjectSoftwareInterrupt(vector, uint32(2+drawBelow(t, "length", 14)))
	case 5:
		e = vmcs.InjectINT1(uint32(1 + drawBelow(t, "length", 15)))
	case 6:
		e = vmcs.InjectSoftwareException(vmcs.VectorBP, uint32(1+drawBelow(t, "length", 15)))
	case 7:
		s.encode(encoding{opcode: []byte{0xcd}, immediate: []byte{byte(vector)}, plain: true})
		e, injected = vmcs.InjectSoftwareInterrupt(vector, s.length()), false
	case 8:
		s.encode(simple(0x0f, 0x0b))
		e, injected = vmcs.InjectException(vmcs.VectorUD, 0), false
	}
	if injected {
		require.NoError(t, e.Write(vmcs.Current{}))
	}
	return e
}

func (s *shot) gate(v vmcs.Vector) uint64 {
	if s.mode == vmtest.ModeLong {
		return vmtest.IDT + 16*uint64(v)
	}
	return vmtest.IDT + 8*uint64(v)
}

// deliveries: an exit in the delivery of an event tells of it, and the event can be
// injected again.
func (l *ledger) deliveries(t *testing.T) {
	benches := l.withEPT(nil, vmtest.ModeLong, vmtest.ModePAE)
	check(t, 600, func(t *rapid.T) {
		s := draw(t, benches)
		s.catches()
		event := s.drawEvent()
		v := event.Info.Vector()
		restore := func() {}
		defer func() { restore() }()
		want := vmexit.EPTViolation
		obstacle := drawBelow(t, "obstacle", 5)
		switch obstacle {
		case 0: // the gate cannot be read
			restore = s.mapPage(vmtest.IDT, 0)
		case 1: // the stack cannot be written
			restore = s.mapPage(vmtest.StackTop-1, vmtest.EPTRead)
		case 2:
			restore = s.mapPage(vmtest.IDT, vmtest.EPTWrite)
			want = vmexit.EPTMisconfiguration
		case 3: // the gate is not present
			s.catches(vmcs.VectorNP)
			at := s.gate(v) + 5
			s.Memory[at] &^= 0x80
			restore = func() { s.Memory[at] |= 0x80 }
			want = vmexit.ExceptionOrNMI
		case 4: // the page of the IDT is not present
			s.catches(vmcs.VectorPF)
			entry := s.guestEntry(vmtest.IDT)
			entry[0] &^= 1
			restore = func() { entry[0] |= 1 }
			want = vmexit.ExceptionOrNMI
		}
		s.fire()
		require.Equal(t, vmexit.Reason(want), s.reason, "%v", s)
		require.Equal(t, s.at(), s.RIP, "%v", s)
		d, ok, err := vmexit.ReadInterrupted(vmcs.Current{})
		require.NoError(t, err)
		require.True(t, ok, "%v", s)
		require.Equal(t, event, d.Event, "%v", s)
		require.Equal(t, event.Info.Type() == vmcs.EventNMI, d.UnblockNMI, "%v", s)
		q := vmexit.EPTViolationQualification(s.qualification)
		switch obstacle {
		case 0:
			require.True(t, q.Read() && !q.Write() && !q.Fetch() && !q.Present(false) && q.Translation(), "%v", s)
			require.Equal(t, s.gate(v), s.physical&^15|s.gate(v)&15, "%v", s)
			require.Equal(t, s.linear, s.physical, "%v", s)
		case 1:
			require.True(t, q.Write() && !q.Fetch() && q.Rights()&7 == vmtest.EPTRead && q.Translation(), "%v", s)
			require.Equal(t, uint64(vmtest.StackTop-1)>>12, s.linear>>12, "%v", s)
			require.Equal(t, s.linear, s.physical, "%v", s)
		case 2:
			require.Equal(t, uint64(vmtest.IDT)>>12, s.physical>>12, "%v", s)
		case 3:
			external := uint32(1)
			if kind := event.Info.Type(); kind == vmcs.EventSoftwareInterrupt || kind == vmcs.EventSoftwareException {
				external = 0
			}
			s.excepted(vmcs.InjectException(vmcs.VectorNP, uint32(v)<<3|2|external))
		case 4:
			s.excepted(vmcs.InjectException(vmcs.VectorPF, 0))
			require.Equal(t, s.gate(v)>>12, s.qualification>>12, "%v", s)
		}

		restore()
		restore = func() {}
		s.catches()
		require.NoError(t, d.Event.Write(vmcs.Current{}))
		s.arrives(v)
	})
}

// combinations: two exceptions become what Combine tells.
func (l *ledger) combinations(t *testing.T) {
	benches := l.withEPT(nil, vmtest.ModeLong, vmtest.ModePAE)
	ends := map[string]int{}
	check(t, 200, func(t *rapid.T) {
		s := draw(t, benches)
		vectors := []vmcs.Vector{
			vmcs.VectorDE, vmcs.VectorUD, vmcs.VectorNM, vmcs.VectorDF, vmcs.VectorTS, vmcs.VectorSS, vmcs.VectorGP, vmcs.VectorPF,
			vmcs.VectorMF, vmcs.VectorXM,
		}
		code := uint32(drawBelow(t, "error code", 1<<15))
		first := vmcs.InjectException(vectors[drawBelow(t, "first", len(vectors))], code)
		if first.Info.Vector() == vmcs.VectorDF {
			first.ErrorCode = 0
		}
		v := first.Info.Vector()
		second := vmcs.InjectException(vmcs.VectorNP, uint32(v)<<3|3)
		s.Memory[s.gate(v)+5] &^= 0x80
		if drawBool(t, "page fault") && (v < vmcs.VectorDF || v == vmcs.VectorPF) {
			// The gates below that of #DF are on a page that is not present, or all are.
			second = vmcs.InjectException(vmcs.VectorPF, 0)
			missing := uint64(vmtest.IDT)
			if v < vmcs.VectorDF {
				missing = vmtest.Free
				base := missing + 0x1000 - (s.gate(vmcs.VectorDF) - vmtest.IDT)
				copy(s.Memory[base:], s.Memory[vmtest.IDT:][:0x1000])
				s.Set(vmcs.GuestIDTRBase, base)
			}
			s.guestEntry(missing)[0] &^= 1
		}
		s.catches(vmcs.VectorDF)
		require.NoError(t, first.Write(vmcs.Current{}))
		event, combination := vmexit.Combine(first, second)
		ends[fmt.Sprintf("%v and %v: %v", vmexit.ClassOf(first.Info), vmexit.ClassOf(second.Info), combination)]++
		s.fire()
		switch combination {
		case vmexit.Serial:
			require.Equal(t, vmexit.VMCALL, s.reason.Basic(), "%v", s)
			require.Equal(t, vmtest.Handler(uint8(event.Info.Vector())), s.Linear(), "%v", s)
		case vmexit.DoubleFault:
			s.excepted(event)
			require.False(t, s.vectoring.Valid(), "%v", s) // SDM Vol. 3C 28.2.4
		case vmexit.Shutdown:
			require.Equal(t, vmexit.Reason(vmexit.TripleFault), s.reason, "%v", s)
			require.False(t, s.vectoring.Valid(), "%v", s)
		}
	})
	l.Logf("two exceptions: %v", ends)
}

// unblocking: an IRET that ends the blocking of NMIs and then exits.
func (l *ledger) unblocking(t *testing.T) {
	benches := l.withEPT(func(b *bench) {
		vmtest.SetControls(b.Guest, vmcs.PinNMIExiting|vmcs.PinVirtualNMIs)
	}, vmtest.ModeLong)
	check(t, 100, func(t *rapid.T) {
		s := draw(t, benches)
		blocked := drawBool(t, "blocked")
		if blocked {
			s.Set(vmcs.GuestInterruptibilityState, vmcs.BlockingByNMI)
		}
		s.encode(encoding{opcode: []byte{0xcf}, plain: true, size: 64})
		restore := func() {}
		want := vmexit.ExceptionOrNMI
		switch drawBelow(t, "cause", 3) {
		case 0:
			restore = s.mapPage(vmtest.StackTop-1, 0)
			want = vmexit.EPTViolation
		case 1:
			s.guestEntry(vmtest.StackTop - 1)[0] &^= 1
		case 2: // the selectors on the stack are null: #GP
			clear(s.Memory[s.registers[asm.RSP]:vmtest.StackTop])
		}
		s.fire()
		restore()
		require.Equal(t, vmexit.Reason(want), s.reason, "%v", s)
		require.Equal(t, blocked, vmexit.NMIUnblocking(s.reason, s.event, s.vectoring, s.qualification), "%v", s)
		require.Zero(t, s.Get(vmcs.GuestInterruptibilityState)&vmcs.BlockingByNMI, "%v", s)
	})
}

// stiAndNMI: SDM Vol. 3C 27.8 has 3 for an NMI that is to be injected during blocking by
// STI. Bochs' VMenterLoadCheckGuestState sets the qualification only for PDPTEs and the
// VMCS link pointer.
var stiAndNMI = &deviation{name: "no qualification if an NMI is to be injected during blocking by STI"}

// entryFailures: guests that are not entered.
func (l *ledger) entryFailures(t *testing.T) {
	benches := l.withEPT(nil, vmtest.ModeLong, vmtest.ModePAE)
	area := l.Pages(1)
	check(t, 100, func(t *rapid.T) {
		s := draw(t, benches)
		want, text := vmexit.InvalidGuestState, vmexit.GuestStateOther
		entry := uint64(0)
		switch drawBelow(t, "failure", 5) {
		case 0:
			s.Set(vmcs.GuestRFLAGS, 0)
		case 1:
			s.Set(vmcs.VMCSLinkPointer, 1)
			text = vmexit.GuestStateLink
		case 2:
			if s.mode != vmtest.ModePAE {
				return
			}
			s.Set(vmcs.GuestPDPTE0, 1<<1|1) // a reserved bit
			text = vmexit.GuestStatePDPTE
		case 3:
			s.Set(vmcs.GuestInterruptibilityState, 1) // blocked by STI
			s.flags(flagIF)
			require.NoError(t, vmcs.InjectNMI().Write(vmcs.Current{}))
			text = vmexit.GuestStateNMI
		case 4:
			want = vmexit.MSRLoading
			count := 1 + drawBelow(t, "entries", 100)
			entry = uint64(1 + drawBelow(t, "bad entry", count))
			for i := range count {
				msr := uint64(0xc0000102) // IA32_KERNEL_GS_BASE
				if i == int(entry)-1 {
					msr = 0xc0000100 // IA32_FS_BASE, which the VMCS has a field for
				}
				binary.LittleEndian.PutUint64(area.Bytes()[16*i:], msr)
				binary.LittleEndian.PutUint64(area.Bytes()[16*i+8:], asm.RDMSR(0xc0000102))
			}
			s.Set(vmcs.EntryMSRLoadAddress, area.Phys())
			s.Set(vmcs.EntryMSRLoadCount, uint64(count))
		}
		s.encode(simple(0x90))
		s.fire()
		require.Equal(t, vmexit.Reason(want)|vmexit.ReasonEntryFailure, s.reason, "%v", s)
		require.True(t, s.reason.EntryFailure())
		if want == vmexit.MSRLoading {
			require.Equal(t, entry, vmexit.MSRLoadingQualification(s.qualification).Entry(), "%v", s)
		} else if !stiAndNMI.hits(text == vmexit.GuestStateNMI && s.qualification == 0) {
			require.Equal(t, text, vmexit.GuestStateQualification(s.qualification), "%v", s)
		}
	})
}
