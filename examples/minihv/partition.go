package main

import (
	"errors"
	"fmt"

	"github.com/govtx/vtx/asm"
	"github.com/govtx/vtx/ept"
	"github.com/govtx/vtx/hypercall"
	"github.com/govtx/vtx/ring0"
	"github.com/govtx/vtx/vmcs"
	"github.com/govtx/vtx/vmexit"
	"github.com/govtx/vtx/vmexit/emulate"
	"github.com/govtx/vtx/vtl"
)

const (
	numLevels     = 2
	numProcessors = 2
)

// A vm is one virtual machine.
type vm struct {
	caps       *vmcs.Capabilities
	partition  *vtl.Partition // what the levels are and may do
	memory     *guestMemory
	pc         *pc // the machine that the guest has; nil for the guests in guests.go
	msrs       *vmexit.MSRPolicy
	domains    [numLevels]domain
	processors [numProcessors]processor
	calls      *hypercall.Dispatcher
	builder    *vmexit.Builder
	exits      *vmexit.Dispatcher
	active     *processor // the VMCS of its current level is the current one; nil at first
}

// A processor is a virtual processor. The real one runs one after the other.
type processor struct {
	*vm
	index   uint32
	levels  [numLevels]level
	current *level // the one that runs; nil if the processor has not been started
	halted  bool   // it waits for an interrupt, of which there are none

	exit    vmexit.Exit
	call    hypercall.Call
	caller  vtl.Caller
	effects vtl.Effects
	posted  hypercall.MessageType // by the last intercept; 0 if there was no room

	emulator emulate.Emulator
	readable [16]readable // by it
}

// A level is a trust level of a processor. Its private registers are in its VMCS; those that
// levels share go from one asm.Guest to the other.
type level struct {
	*domain
	asm.Guest
	region ring0.Pages
	msrs   msrAreas
	begun  bool // it has had a context to begin with

	// rights64 is code64 if the level is in IA-32e mode, which guests here cannot leave, since
	// that takes paging off; else 0, which its CS can never have.
	rights64 uint64

	assist  *overlay
	message *overlay
	simp    hypercall.SIMPMSR
	control hypercall.SControlMSR
	sint    [hypercall.NumSints]hypercall.SINTMSR

	vpAssist hypercall.VpAssistPage // the contents of the overlay pages
	messages hypercall.MessagePage
}

// newVM makes a virtual machine whose memory has been filled, and whose first processor
// begins in VTL0 with a context. If it is a PC it has no other.
func newVM(caps *vmcs.Capabilities, memory *guestMemory, pc *pc, boot *vtl.Context) (*vm, error) {
	m := &vm{caps: caps, memory: memory, pc: pc}
	processors, cpuid := numProcessors, cpuidPolicy
	if pc != nil {
		processors, cpuid = 1, pc.cpuid
	}
	page := hypercall.HypercallPage{Trap: hypercall.TrapVMCALL}
	var err error
	m.partition, err = vtl.New(vtl.Config{
		Processors: processors, MaximumVTL: numLevels - 1, Profile: vtl.TLFS,
		Capabilities:    hypercall.VsmCapabilitiesDenyLowerVtlStartup | hypercall.VsmCapabilitiesDr6Shared, // MOV DR does not exit
		CodePageOffsets: page.Offsets(true),
		PhysicalBits:    caps.CPU.PhysicalAddressBits,
		RAM:             memory.ranges(),
		Registers:       m,
		Translator:      m,
	})
	if err != nil {
		return nil, err
	}
	for i := range m.domains {
		d := &m.domains[i]
		*d = domain{guestMemory: memory, pc: pc, number: vtl.VTL(i), partition: m.partition, view: memory.space.View(0)}
		if i > 0 {
			if d.view, err = d.view.Clone(); err != nil {
				return nil, err
			}
		}
		if d.code, err = d.newOverlay(ept.Read | ept.Execute); err != nil {
			return nil, err
		}
		if err := page.Write(d.code.Bytes()); err != nil {
			return nil, err
		}
	}
	if m.calls, err = m.newDispatcher(); err != nil {
		return nil, err
	}
	m.builder = m.newExits(cpuid(vmcs.Processor{}))
	m.exits = m.builder.Build()
	for i := range processors {
		if err := m.processors[i].init(m, uint32(i)); err != nil {
			return nil, err
		}
	}
	if pc != nil {
		for n := range vtl.VTL(numLevels) {
			if err := pc.intercept(n, 0, m.msrs); err != nil {
				return nil, err
			}
		}
	}
	first := &m.processors[0]
	first.enter(&first.levels[0])
	return m, m.begin(first.current, boot)
}

func (p *processor) init(m *vm, index uint32) error {
	p.vm, p.index = m, index
	for i := range p.levels {
		l := &p.levels[i]
		l.domain = &m.domains[i]
		var err error
		if m.pc != nil {
			if err := l.KeepVector(); err != nil {
				return err
			}
		}
		if l.region, err = newRegion(m.caps); err != nil {
			return err
		}
		if s := asm.VMCLEAR(l.region.Phys()); s != asm.Succeed {
			return fmt.Errorf("VMCLEAR: %w", vmcs.StatusError(s))
		}
		if err := l.msrs.init(); err != nil {
			return err
		}
		if l.assist, err = l.newOverlay(ept.Read | ept.Write); err != nil {
			return err
		}
		if l.message, err = l.newOverlay(ept.Read | ept.Write); err != nil {
			return err
		}
		if l.vpAssist, err = hypercall.VpAssistPageOf(l.assist.Bytes()); err != nil {
			return err
		}
		if l.messages, err = hypercall.MessagePageOf(l.message.Bytes()); err != nil {
			return err
		}
		for i := range l.sint {
			l.sint[i] = hypercall.SINTReset
		}
	}
	p.emulator.Memory, p.emulator.Device = physical{p}, physical{p}
	p.emulator.PhysicalAddressBits = m.caps.CPU.PhysicalAddressBits
	p.exit = vmexit.Exit{VMCS: vmcs.Current{}, Context: p}
	p.caller = vtl.Caller{Partition: m.partition, VP: index, Effects: &p.effects}
	p.call.Context, p.call.Memory, p.call.Privileges, p.call.Budget = &p.caller, p, privileges, budget
	if m.pc != nil {
		p.call.Privileges = pcPrivileges
	}
	p.call.Mode = hypercall.Mode64
	return nil
}

// watch puts a layer over all exits.
func (m *vm) watch(l vmexit.Layer) { m.exits = m.builder.OverAll(l).Build() }

// budget is how many elements of a rep call are done before the guest can be interrupted. Each
// time they are changes of extended page tables are done for all at once.
const budget = 512

// ReadPhysical, WritePhysical and ProbeWrite are those of the level that runs: the memory of
// hypercalls.
func (p *processor) ReadPhysical(gpa uint64, b []byte) error { return p.current.ReadPhysical(gpa, b) }

func (p *processor) WritePhysical(gpa uint64, b []byte) error {
	return p.current.WritePhysical(gpa, b)
}

func (p *processor) ProbeWrite(gpa uint64, n int) error { return p.current.ProbeWrite(gpa, n) }

// free makes the VMCSs inactive, and gives pages back.
func (m *vm) free() {
	for i := range m.processors {
		for j := range m.processors[i].levels {
			l := &m.processors[i].levels[j]
			asm.VMCLEAR(l.region.Phys())
			l.region.Free()
			l.msrs.Free()
		}
	}
	for i := range m.domains {
		for _, o := range m.domains[i].overlays {
			o.Free()
		}
	}
}

// load makes a level's VMCS the current one.
func load(l *level) error {
	if s := asm.VMPTRLD(l.region.Phys()); s != asm.Succeed {
		return fmt.Errorf("VMPTRLD: %w", vmcs.StatusError(s))
	}
	return nil
}

// with calls f while the VMCS of a level is the current one.
func (m *vm) with(l *level, f func() error) error {
	if m.active != nil && m.active.current == l {
		return f()
	}
	if err := load(l); err != nil {
		return err
	}
	err := f()
	if m.active != nil {
		if err := m.active.reload(); err != nil {
			return err
		}
	}
	return err
}

// begin has a level of a processor that does not run begin with a context when it next does.
func (m *vm) begin(l *level, c *vtl.Context) error {
	image, err := l.image(c)
	if err != nil {
		return err
	}
	l.msrs.set(image)
	if s := asm.VMCLEAR(l.region.Phys()); s != asm.Succeed {
		return fmt.Errorf("VMCLEAR: %w", vmcs.StatusError(s))
	}
	l.Guest.Reset()
	l.RIP, l.begun = c.RIP, true
	for _, n := range switched {
		l.msrs.write(n, 0)
	}
	if l.rights64 = 0; c.EFER&asm.EFERLMA != 0 {
		l.rights64 = code64
	}
	return m.with(l, func() error { return vmcs.Copy(vmcs.Current{}, image) })
}

// enter makes a level the one that runs.
func (p *processor) enter(l *level) {
	p.current = l
	p.exit.Guest = &l.Guest
	p.call.Regs = &l.Regs
}

// run runs the machine until its processors have halted.
func (m *vm) run() error {
	for {
		p := m.runnable()
		if p == nil {
			return nil
		}
		if err := p.run(); err != nil {
			return err
		}
	}
}

// runnable returns a processor that can run, nil if there is none.
func (m *vm) runnable() *processor {
	for i := range m.processors {
		p := &m.processors[i]
		if p.current != nil && p.current.begun && !p.halted && !m.partition.Blocked(p.index) {
			return p
		}
	}
	return nil
}

// run runs a processor until it can run no more, or something else is to run.
func (p *processor) run() error {
	if err := p.reload(); err != nil {
		return err
	}
	p.active = p
	return p.exits.Run(&p.exit)
}

// carryOut does what the partition has asked for, and says how the guest goes on: RIP is
// where it is to be.
func (p *processor) carryOut(x *vmexit.Exit) vmexit.Outcome {
	if p.secureEnded() && p.partition.Active(p.index) != p.current.number {
		return p.refuseAlone(x)
	}
	o := vmexit.Hold
	list := p.effects.List()
	for i := range list {
		if f := &list[i]; f.Kind == vtl.EffectSwitch {
			if p.change(x, f) {
				continue
			}
			if o = vmexit.Stop; x.Err() != nil {
				return o
			}
		} else if err := p.effect(x, f); err != nil {
			return x.Fail(err)
		}
	}
	return o
}

// change carries out an EffectSwitch, and reports whether the level can run at once.
func (p *processor) change(x *vmexit.Exit, f *vtl.Effect) bool {
	from, to := p.current, &p.levels[f.Level&(numLevels-1)]
	if f.Flags&vtl.FlagAdvance != 0 {
		const steps = asm.FlagTF | asm.FlagRF
		g := &from.Guest
		// The usual case of Advance. EIP wraps at 4 GiB, where code of another mode has it.
		if next := g.RIP + uint64(g.InstructionLength); g.Interruptibility == 0 && g.RFLAGS&steps == 0 && from.rights64 != 0 && (next^g.RIP)>>32 == 0 {
			g.RIP = next
		} else {
			x.Advance()
		}
	}
	pages := f.Flags &^ vtl.FlagAdvance // assist pages are concerned
	if pages != 0 {
		if pages&vtl.FlagRestore != 0 {
			from.Regs[asm.RAX], from.Regs[asm.RCX] = from.vpAssist.ReturnRegisters()
		}
		if pages&vtl.FlagVINAFrom != 0 {
			from.vpAssist.SetVinaAsserted(false)
		}
	}
	if asm.VMPTRLD(to.region.Phys()) != asm.Succeed {
		x.Fail(errors.New("VMPTRLD: the VMCS of the other level cannot be loaded"))
		return false
	}
	to.Regs = from.Regs
	to.CR2 = from.CR2
	if p.pc != nil {
		copy(to.Vector(), from.Vector())
		if x0 := from.XCR0(); x0 != to.XCR0() {
			if err := to.SetXCR0(x0); err != nil {
				x.Fail(err)
				return false
			}
		}
	}
	if pages != 0 {
		if pages&vtl.FlagReason != 0 {
			to.vpAssist.SetEntryReason(hypercall.VtlEntryReason(f.Reason))
		}
		if pages&(vtl.FlagVINAReset|vtl.FlagVINAFrom) == vtl.FlagVINAReset {
			to.vpAssist.SetVinaAsserted(false)
		}
	}
	p.enter(to)
	if nmis != 0 {
		p.forwardNMI(x)
	}
	// A level without a context waits for one: its processor was started in a higher one.
	return pages&vtl.FlagBlocked == 0 && to.begun
}

// effect carries out any other effect.
func (p *processor) effect(x *vmexit.Exit, f *vtl.Effect) error {
	d := &p.domains[f.Level&(numLevels-1)]
	q := &p.processors[f.VP%numProcessors]
	l := &q.levels[d.number]
	switch f.Kind {
	case vtl.EffectContext:
		if err := p.begin(l, p.effects.Context(*f)); err != nil {
			return err
		}
		return q.guard() // the VMCS is a new one
	case vtl.EffectStart:
		q.enter(l)
	case vtl.EffectView:
		return d.remake()
	case vtl.EffectProtect:
		return d.protect(f.Page, f.Pages, f.Access)
	case vtl.EffectIntercept:
		return p.post(x, l, p.effects.Intercept(*f))
	case vtl.EffectInject:
		return q.inject(l, f)
	case vtl.EffectVINA:
		l.vpAssist.SetVinaAsserted(true)
	case vtl.EffectAssist:
		w := hypercall.VPAssistMSR(f.Value)
		err := d.place(l.assist, w.GPN(), w.Has(hypercall.VPAssistMSREnable))
		if errors.Is(err, errPlace) { // no guest ends the run with it: it sees no assist page
			err = d.place(l.assist, 0, false)
		}
		return err
	case vtl.EffectGuard:
		return q.guard()
	case vtl.EffectGuardIO:
		if p.pc != nil {
			p.pc.guardPorts(p.partition)
		}
	case vtl.EffectWake:
		q.halted = false
	}
	// The others ask for nothing here. One processor runs at a time, and VM entry without
	// VPIDs flushes translations of linear addresses; blocked processors are asked about in runnable.
	return nil
}
