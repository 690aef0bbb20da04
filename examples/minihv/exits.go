package main

import (
	"errors"

	"github.com/govtx/vtx/asm"
	"github.com/govtx/vtx/hypercall"
	"github.com/govtx/vtx/vmcs"
	"github.com/govtx/vtx/vmexit"
	"github.com/govtx/vtx/vtl"
)

// newExits wires the library's ready handlers with what is this hypervisor's own: its
// hypercalls and MSRs, its memory, and what levels guard.
func (m *vm) newExits(cpuid *vmexit.CPUIDPolicy) *vmexit.Builder {
	memory := &vmexit.GuestMemory{Physical: activeMemory{m}, Translate: m.translate}
	cr, tsc := vmexit.NewControlRegisters(m.caps, cpuid), new(vmexit.TSC)
	// Each level has a task priority of its own, which the partition keeps.
	cr.LoadCR8 = func(x *vmexit.Exit, priority uint8) {
		p := processorOf(x)
		p.partition.SetTPR(p.index, p.current.number, priority<<4, &p.effects)
	}
	cr.ReadCR8 = func(x *vmexit.Exit) uint8 {
		p := processorOf(x)
		return p.partition.TPR(p.index, p.current.number) >> 4
	}
	m.msrs = syntheticMSRs(vmexit.DefaultMSRs(cpuid, cr, tsc))
	var ports *vmexit.Ports
	if m.pc != nil {
		m.pc.msrs(m.msrs)
		ports = m.pc.ports
		if m.pc.secure != nil {
			m.pc.secure.Memory = memory
		}
	}
	return vmexit.Defaults(vmexit.Config{
		Capabilities:     m.caps,
		CPUID:            cpuid,
		ControlRegisters: cr,
		TSC:              tsc,
		Memory:           memory,
		MSRs:             m.msrs,
		Ports:            ports,
		Hypercall:        vmcall,
		NMI:              nmi,
		Window:           inNMIWindow,
		Violation:        violation,
		Halt: func(x *vmexit.Exit) bool {
			if m.pc != nil {
				x.Fail(errHalted)
			}
			processorOf(x).halted = true
			return false
		},
	}).
		Handle(vmexit.INIT, func(x *vmexit.Exit) vmexit.Outcome { return x.Fail(errInit) }).
		Handle(vmexit.MWAIT, vmexit.UndefinedOpcode).Handle(vmexit.MONITOR, vmexit.UndefinedOpcode).
		Over(vmexit.CRAccess, guardCR).
		Over(vmexit.XSETBV, guardXCR0).
		Over(vmexit.RDMSR, guardRDMSR).
		Over(vmexit.WRMSR, guardWRMSR).
		Over(vmexit.GDTRIDTRAccess, guardTables).
		Over(vmexit.LDTRTRAccess, guardTables).
		Over(vmexit.IOInstruction, guardPorts)
}

func processorOf(x *vmexit.Exit) *processor { return x.Context.(*processor) }

// vmcall is the handler of VMCALL.
func vmcall(x *vmexit.Exit) vmexit.Outcome {
	p := processorOf(x)
	c := &p.call
	is64 := p.current.rights64 != 0
	if p.pc != nil { // whose guests can change that
		if x.Read(vmcs.CR0ReadShadow)&asm.CR0PE == 0 {
			return p.realModeCall(x)
		}
		is64 = x.Read(vmcs.VMEntryControls)&uint64(vmcs.EntryIA32eModeGuest) != 0
	}
	if !p.current.code.on {
		return x.Raise(vmcs.VectorUD, 0) // hypercalls are not enabled
	}
	p.effects.Reset()
	if cs, _ := asm.VMREAD(uint32(vmcs.GuestCSAccessRights)); is64 && cs&rights64 == code64 {
		// VTL calls and returns are what is to be fast, and nothing but their word.
		w, o := hypercall.Input(c.Regs[asm.RCX]), vtl.Done
		switch w {
		default:
			if o := p.calls.Dispatch(c); o != hypercall.Done || p.effects.Len() != 0 {
				return p.finish(x, o)
			}
			return vmexit.Resume
		case hypercall.Input(hypercall.CodeVtlCall):
			if p.secureEnded() { // there is none to be called
				break
			}
			o = p.partition.Call(p.index, vtl.Trap{Word: w, Control: c.Regs[asm.RAX]}, &p.effects)
		case hypercall.Input(hypercall.CodeVtlReturn):
			o = p.partition.Return(p.index, vtl.Trap{Word: w, Control: c.Regs[asm.RAX]}, &p.effects)
		}
		if o != vtl.Switched {
			return x.Raise(vmcs.VectorUD, 0)
		}
		list := p.effects.List()
		if len(list) != 1 || list[0].Kind != vtl.EffectSwitch {
			return p.carryOut(x)
		}
		if p.change(x, &list[0]) {
			return vmexit.Hold
		}
		return vmexit.Stop
	}
	c.Mode, c.CPL = hypercall.Mode32, uint8(x.CPL())
	if is64 && x.Code64() {
		c.Mode = hypercall.Mode64
	}
	o := p.finish(x, p.calls.Dispatch(c))
	c.Mode, c.CPL = hypercall.Mode64, 0
	return o
}

// realModeCall is vmcall in real-address mode, where there are no hypercalls.
func (p *processor) realModeCall(x *vmexit.Exit) vmexit.Outcome {
	if p.pc.hooked && x.Read(vmcs.GuestCSBase)+x.Guest.RIP == hookAt {
		return p.firmware(x)
	}
	return x.Raise(vmcs.VectorUD, 0)
}

// finish does what a hypercall asks for beside its result.
func (p *processor) finish(x *vmexit.Exit, o hypercall.Outcome) vmexit.Outcome {
	switch o {
	case hypercall.Done:
		x.Advance()
		return p.carryOut(x)
	case hypercall.VTLCall:
		if p.secureEnded() {
			break
		}
		return p.settle(x, p.partition.Call(p.index, p.trap(), &p.effects))
	case hypercall.VTLReturn:
		return p.settle(x, p.partition.Return(p.index, p.trap(), &p.effects))
	case hypercall.Again:
		if o := p.carryOut(x); !p.partition.Blocked(p.index) {
			return o
		}
		return vmexit.Stop // another processor has to run
	case hypercall.MemoryFault:
		op := vtl.Reading
		fault := p.call.Fault()
		if fault.Write {
			op = vtl.Writing
		}
		return p.access(x, fault.GPA>>pageShift, op)
	}
	return x.Raise(vmcs.VectorUD, 0)
}

// rights64 are the access rights of CS that tell whether a guest is in 64-bit mode at privilege
// level 0, and code64 is what they are then: present, no system segment, not conforming, DPL 0,
// L. What is not a matter of them is in level.rights64.
const (
	rights64 = code64 | 1<<2 | 3<<5
	code64   = 1<<7 | 1<<4 | 1<<3 | uint64(vmcs.RightsL)
)

// trap returns the VTL call or return that the dispatcher has found.
func (p *processor) trap() vtl.Trap {
	return vtl.Trap{Word: p.call.Word(), Control: p.call.SwitchControl(), CPL: p.call.CPL}
}

// settle carries out what an event has asked for that the partition takes, intercepts or
// refuses.
func (p *processor) settle(x *vmexit.Exit, o vtl.Outcome) vmexit.Outcome {
	switch o {
	case vtl.UndefinedInstruction:
		return x.Raise(vmcs.VectorUD, 0)
	case vtl.GeneralProtection:
		return x.Raise(vmcs.VectorGP, 0)
	}
	return p.carryOut(x)
}

// violation is the handler of EPT violations.
func violation(x *vmexit.Exit) vmexit.Outcome {
	p := processorOf(x)
	if p.window(x.PhysicalAddress()) != nil {
		return p.emulate(x)
	}
	p.effects.Reset()
	q := vmexit.EPTViolationQualification(x.Qualification())
	var op vtl.Operation
	if q.Read() || q.PageWalk() {
		op |= vtl.Reading
	}
	if q.Write() {
		op |= vtl.Writing
	}
	if q.Fetch() {
		op |= vtl.Fetching
	}
	if x.CPL() == 3 {
		op |= vtl.User
	}
	return p.access(x, x.PhysicalAddress()>>pageShift, op)
}

// access is what becomes of an access that the level's view does not allow.
func (p *processor) access(x *vmexit.Exit, page uint64, op vtl.Operation) vmexit.Outcome {
	if p.current.overlaid(page) != nil {
		return x.Raise(vmcs.VectorGP, 0) // a write to the hypercall page, say
	}
	switch o := p.partition.Access(p.index, page, op, &p.effects); {
	case o == vtl.Intercepted:
		x.Retry() // when the level runs again, so that an event that was being delivered is not lost
		return p.carryOut(x)
	case o == vtl.GeneralProtection || !p.memory.isRAM(page):
		return x.Raise(vmcs.VectorGP, 0)
	}
	return vmexit.Violation(x) // the view is not what the partition says: a mistake in this program
}

// guardCR is the layer over accesses to control registers: higher levels may want to know of
// writes to CR0 and CR4.
func guardCR(_ vmexit.Basic, below vmexit.Handler) vmexit.Handler {
	return func(x *vmexit.Exit) vmexit.Outcome {
		p := processorOf(x)
		q := vmexit.CRAccessQualification(x.Qualification())
		name, shadow := hypercall.RegisterCR0, vmcs.CR0ReadShadow
		if q.CR() == 4 {
			name, shadow = hypercall.RegisterCR4, vmcs.CR4ReadShadow
		}
		old := x.Read(shadow)
		value := old
		switch q.Type() {
		case vmexit.CLTS:
			value &^= asm.CR0TS
		case vmexit.LMSW:
			value = old&^0xe | uint64(q.LMSWSource())&0xf
		case vmexit.MOVToCR:
			if q.CR() == 8 {
				p.effects.Reset()
				o := below(x)
				if o == vmexit.Resume && p.effects.Len() > 0 { // an interrupt waits no longer
					x.Advance()
					o = p.carryOut(x)
				}
				return o
			}
			if q.CR() != 0 && q.CR() != 4 {
				return below(x)
			}
			value = x.Register(int(q.Register()))
		default:
			return below(x)
		}
		p.effects.Reset()
		if p.partition.WriteRegister(p.index, name, old, value, &p.effects) == vtl.Intercepted {
			return p.carryOut(x)
		}
		return below(x)
	}
}

// guardXCR0 is the layer over XSETBV.
func guardXCR0(_ vmexit.Basic, below vmexit.Handler) vmexit.Handler {
	return func(x *vmexit.Exit) vmexit.Outcome {
		p := processorOf(x)
		p.effects.Reset()
		r := &x.Guest.Regs
		if uint32(r[asm.RCX]) == 0 && p.partition.WriteRegister(p.index, hypercall.RegisterXFEM, 0, r[asm.RDX]<<32|r[asm.RAX]&0xffffffff, &p.effects) == vtl.Intercepted {
			return p.carryOut(x)
		}
		return below(x)
	}
}

// guardRDMSR and guardWRMSR are the layers over accesses to MSRs.
func guardRDMSR(_ vmexit.Basic, below vmexit.Handler) vmexit.Handler {
	return func(x *vmexit.Exit) vmexit.Outcome {
		p := processorOf(x)
		p.effects.Reset()
		if p.partition.ReadMSR(p.index, uint32(x.Guest.Regs[asm.RCX]), &p.effects) == vtl.Intercepted {
			return p.carryOut(x)
		}
		return below(x)
	}
}

func guardWRMSR(_ vmexit.Basic, below vmexit.Handler) vmexit.Handler {
	return func(x *vmexit.Exit) vmexit.Outcome {
		p := processorOf(x)
		p.effects.Reset()
		r := &x.Guest.Regs
		msr, old := uint32(r[asm.RCX]), uint64(0)
		if msr == msrMiscEnable && p.pc != nil { // the only one whose old value counts
			old = p.pc.miscEnable
		}
		if p.partition.WriteMSR(p.index, msr, old, r[asm.RDX]<<32|r[asm.RAX]&0xffffffff, &p.effects) == vtl.Intercepted {
			return p.carryOut(x)
		}
		return below(x)
	}
}

// guardTables is the layer over LGDT, LIDT, LLDT and LTR, which exit only if a higher level
// wants to know of one of them.
func guardTables(b vmexit.Basic, below vmexit.Handler) vmexit.Handler {
	return func(x *vmexit.Exit) vmexit.Outcome {
		name, load := hypercall.RegisterGDTR, false
		if b == vmexit.GDTRIDTRAccess {
			n := vmexit.DescriptorTableInformation(x.Information()).Instruction()
			if load = n.Load(); n.IDT() {
				name = hypercall.RegisterIDTR
			}
		} else {
			n := vmexit.SystemSegmentInformation(x.Information()).Instruction()
			load, name = n.Load(), hypercall.RegisterLDTR
			if n.Task() {
				name = hypercall.RegisterTR
			}
		}
		p := processorOf(x)
		p.effects.Reset()
		if load && p.partition.WriteRegister(p.index, name, 0, 0, &p.effects) == vtl.Intercepted {
			return p.carryOut(x)
		}
		return below(x)
	}
}

// guardedTables are what levels can guard only with the control "descriptor-table exiting".
const guardedTables = hypercall.CrInterceptGdtrWrite | hypercall.CrInterceptIdtrWrite | hypercall.CrInterceptLdtrWrite | hypercall.CrInterceptTrWrite

// canGuardTables tells whether the processor has that control. Without it a level that asks
// for the guard is refused.
func (m *vm) canGuardTables() bool {
	return vmcs.Supports(m.caps, vmcs.SecondaryDescriptorTableExiting)
}

// guard carries out an EffectGuard: of what levels can guard, only accesses to descriptor
// tables do not exit in any case, nor do those to some MSRs on a PC.
func (p *processor) guard() error {
	if p.pc != nil {
		guards := hypercall.CrInterceptControl(0)
		for n := numLevels - 1; n > 0; n-- {
			control, _, _, _ := p.partition.Guard(p.index, vtl.VTL(n))
			guards |= control
			if err := p.pc.intercept(vtl.VTL(n-1), guards, p.msrs); err != nil {
				return err
			}
		}
	}
	if !p.canGuardTables() {
		return nil
	}
	on := false
	for n := numLevels - 1; n > 0; n-- {
		control, _, _, _ := p.partition.Guard(p.index, vtl.VTL(n))
		on = on || control&guardedTables != 0
		err := p.with(&p.levels[n-1], func() error {
			w := vmcs.Current{}
			v, err := w.Read(vmcs.SecondaryProcessorBasedControls)
			if v &^= uint64(vmcs.SecondaryDescriptorTableExiting); on {
				v |= uint64(vmcs.SecondaryDescriptorTableExiting)
			}
			return errors.Join(err, w.Write(vmcs.SecondaryProcessorBasedControls, v))
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// nmis is how many NMIs have arrived in the host, where nmiEntry counts them, or where
// nmi does. One that comes while another one waits for VTL0 may be lost, as on a processor that
// has one pending.
var nmis uint32

// nmiStrikes tells nmiEntry that the current VMCS, if there is one, has a VMX-preemption timer.
var nmiStrikes bool

// nmi is told of NMIs that have arrived in a guest of a PC, but that it did not take: while VTL1
// ran, or while an earlier one waits. They are VTL0's.
func nmi(*vmexit.Exit) { nmis++ }

// reload makes the VMCS of the level that runs the current one, and has nmiEntry's word stand
// there that may have been given to another one.
func (p *processor) reload() error {
	err := load(p.current)
	if nmis != 0 && nmiStrikes && err == nil {
		err = vmcs.Current{}.Write(vmcs.PreemptionTimerValue, 0)
	}
	return err
}

// forwardNMI gives VTL0 of a PC the NMIs that have arrived elsewhere, as one: now, or as soon as
// nothing blocks it. It is called when the VMX-preemption timer strikes, for which nmiEntry
// cares, when VTL0 runs again after VTL1, and in the window that it asks for itself.
func (p *processor) forwardNMI(x *vmexit.Exit) {
	if nmis == 0 || p.pc == nil || p.current.number != 0 {
		return
	}
	nmis = 0 // first: the next one is counted again
	if !x.NMI() {
		nmis = 1
		p.nmiWindow(x, true)
	}
}

// nmiWindow has VTL0 exit when it can take an NMI, or no more. The window needs virtual NMIs, and
// these that NMIs exit (SDM Vol. 3C 27.2.1.1): blocking by NMI, which the guest is in, becomes one of
// virtual NMIs with the same bit, and ends by the same IRET.
func (p *processor) nmiWindow(x *vmexit.Exit, on bool) {
	const controls = uint64(vmcs.PinNMIExiting | vmcs.PinVirtualNMIs)
	pin := x.Read(vmcs.PinBasedControls) &^ controls
	if on {
		pin |= controls
	}
	x.Write(vmcs.PinBasedControls, pin)
	x.NMIWindow(on)
}

// inNMIWindow is the handler of the window.
func inNMIWindow(x *vmexit.Exit) vmexit.Outcome {
	p := processorOf(x)
	p.nmiWindow(x, false)
	p.forwardNMI(x)
	return vmexit.Hold
}

// guardPorts is the layer over I/O instructions.
func guardPorts(_ vmexit.Basic, below vmexit.Handler) vmexit.Handler {
	return func(x *vmexit.Exit) vmexit.Outcome {
		p := processorOf(x)
		if p.pc != nil && p.current.number > 0 {
			o := p.pc.secureIO(x)
			if p.pc.end.ended && o != vmexit.Stop {
				return p.leaveSecure(x)
			}
			return o
		}
		q := vmexit.IOQualification(x.Qualification())
		p.effects.Reset()
		if p.partition.AccessIO(p.index, q.Port(), uint8(q.Size()), !q.In(), x.Guest.Regs[asm.RAX], &p.effects) == vtl.Intercepted {
			return p.carryOut(x)
		}
		return below(x)
	}
}

// post carries out an EffectIntercept: it tells a level what the one whose VMCS is current has
// tried. If the level has no place for messages, or it is taken, it is not told; the
// instruction will run again.
func (p *processor) post(x *vmexit.Exit, to *level, i *vtl.Intercept) error {
	cs, err := vmcs.ReadSegment(x.VMCS, vmcs.CS)
	if err != nil {
		return err
	}
	state := hypercall.ExecutionState(0).With(hypercall.ExecutionStateCr0Pe, true).
		With(hypercall.ExecutionStateEferLma, x.Read(vmcs.VMEntryControls)&uint64(vmcs.EntryIA32eModeGuest) != 0).
		WithCpl(uint8(x.CPL()))
	c := vtl.Circumstance{
		Header: hypercall.InterceptHeader{
			ExecutionState: state, CS: toCall(cs), RIP: x.Guest.RIP, RFLAGS: x.Guest.RFLAGS,
		},
		CacheType: hypercall.CacheWriteBack,
		Regs:      &x.Guest.Regs,
	}
	if x.Reason().Basic().InstructionLength() == vmexit.Always {
		c.Header.Instruction = c.Header.Instruction.WithInstructionLength(uint8(x.Guest.InstructionLength))
	}
	if x.Reason().Basic() == vmexit.IOInstruction {
		q := vmexit.IOQualification(x.Qualification())
		c.AccessInfo = hypercall.IoPortAccessInfo(0).WithAccessSize(uint8(q.Size())).
			With(hypercall.IoPortAccessInfoStringOp, q.StringInstruction()).With(hypercall.IoPortAccessInfoRepPrefix, q.REP())
	}
	if x.Reason().Basic() == vmexit.EPTViolation && vmexit.EPTViolationQualification(x.Qualification()).LinearAddress() {
		c.GVA, c.GVAValid = x.LinearAddress(), true
	}
	p.posted = 0
	var payload [vtl.MaxMessage]byte
	var m hypercall.Message
	t, n := i.PutMessage(&c, &payload)
	m.Header = hypercall.MessageHeader{Type: t, PayloadSize: uint8(n)}
	copy(m.Payload[:], payload[:n])
	if to.message.on && to.control.Has(hypercall.SControlMSREnable) && !to.sint[0].Has(hypercall.SINTMSRMasked) {
		if to.messages.Deliver(0, &m) {
			p.posted = t
		}
	}
	return nil
}
