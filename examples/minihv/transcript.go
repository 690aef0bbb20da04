package main

import (
	"encoding/binary"
	"fmt"
	"io"
	"strings"

	"github.com/govtx/vtx/asm"
	"github.com/govtx/vtx/hypercall"
	"github.com/govtx/vtx/vmcs"
	"github.com/govtx/vtx/vmexit"
	"github.com/govtx/vtx/vtl"
)

// A transcript tells line by line what the guests do, and what becomes of each VM exit.
type transcript struct {
	w     io.Writer
	limit int // of exits
	steps [numLevels][]step

	exits             int
	attacks, breaches int
	mistakes          int // steps that are no attacks, and end otherwise than they should
	counter           vmexit.Counter
}

// debugPort is where guests say which step they begin (EAX is 0) and how it has ended.
const debugPort = 0xe9

// layer is a layer over all exits. External interrupts are not told of: they come when
// they like, and are the host's, which has taken them when it runs again.
func (t *transcript) layer(b vmexit.Basic, below vmexit.Handler) vmexit.Handler {
	if b == vmexit.ExternalInterrupt {
		return t.counter.Layer(b, below)
	}
	return t.counter.Layer(b, func(x *vmexit.Exit) vmexit.Outcome {
		p := processorOf(x)
		t.exits++
		o := vmexit.Resume
		if q := vmexit.IOQualification(x.Qualification()); b == vmexit.IOInstruction && q.Port() == debugPort && !q.In() && !q.StringInstruction() {
			t.step(p)
		} else {
			o = t.exit(x, p, below)
		}
		if t.exits == t.limit && o != vmexit.Stop {
			return x.Fail(fmt.Errorf("the guest did not halt within %d exits", t.limit))
		}
		return o
	})
}

// step tells of a step that begins or has ended.
func (t *transcript) step(p *processor) {
	l, r := p.current, &p.current.Regs
	i := (r[asm.R12] - [numLevels]uint64{base0, base1}[l.number] - atSteps) / stepSize
	if i >= uint64(len(t.steps[l.number])) {
		fmt.Fprintf(t.w, "%4d  %v writes to the debug port\n", t.exits, l.number)
		return
	}
	s := &t.steps[l.number][i]
	if uint32(r[asm.RAX]) == 0 {
		fmt.Fprintf(t.w, "%4d  %v %s\n", t.exits, l.number, s.name)
		return
	}
	got := s.result(r)
	fmt.Fprintf(t.w, "%4d      -> %s", t.exits, got)
	good := got == s.want || s.want == "" && r[asm.R13] == 0
	if s.attack {
		t.attacks++
	}
	switch {
	case good:
	case s.attack:
		t.breaches++
		fmt.Fprintf(t.w, ": the attack is successful, it should have ended in %s", s.want)
	default:
		t.mistakes++
		fmt.Fprintf(t.w, ": it should have been %s", s.want)
	}
	fmt.Fprintln(t.w)
}

// result says how a step has ended, by the registers that it has left.
func (s *step) result(r *[16]uint64) string {
	switch v := r[asm.R13]; {
	case v != 0:
		return vmcs.Vector(v).String()
	case s.op == opHypercall:
		return hypercall.Result(r[asm.RBX]).Status().String()
	case s.op == opWrite, s.op == opWRMSR, s.op == opCall:
		return "done"
	}
	return value(r[asm.RBX])
}

// exit handles an exit and tells of it.
func (t *transcript) exit(x *vmexit.Exit, p *processor, below vmexit.Handler) vmexit.Outcome {
	p.effects.Reset()
	l, rip, b := p.current, x.Guest.RIP, x.Reason().Basic()
	what, cpl := p.describe(x, b), x.CPL()
	o := below(x)
	if b == vmexit.VMCALL && p.current == l && (o == vmexit.Resume || l.RIP != rip) {
		what += ": " + hypercall.Result(l.Regs[asm.RAX]).Status().String()
	}
	if b == vmexit.VMCALL {
		what += p.why(o == vmexit.Hold && l.RIP == rip, cpl)
	}
	fmt.Fprintf(t.w, "%4d    %v, %s: %s%s\n", t.exits, l.number, b.SDMName(), what, p.done())
	return o
}

// describe tells what an exit is for.
func (p *processor) describe(x *vmexit.Exit, b vmexit.Basic) string {
	switch r := &x.Guest.Regs; b {
	case vmexit.CPUID:
		return fmt.Sprintf("leaf %#x", uint32(r[asm.RAX]))
	case vmexit.RDMSR:
		return nameMSR(uint32(r[asm.RCX]))
	case vmexit.WRMSR:
		return fmt.Sprintf("%s = %#x", nameMSR(uint32(r[asm.RCX])), r[asm.RDX]<<32|r[asm.RAX]&0xffffffff)
	case vmexit.VMCALL:
		return p.describeCall(r)
	case vmexit.EPTViolation:
		how := accesses[accessOf(vmexit.EPTViolationQualification(x.Qualification()))]
		return fmt.Sprintf("%s at %#x", how, x.PhysicalAddress())
	case vmexit.CRAccess:
		q := vmexit.CRAccessQualification(x.Qualification())
		return fmt.Sprintf("%v, %#x", q, x.Register(int(q.Register())))
	case vmexit.HLT:
		return "the guest is done"
	case vmexit.IOInstruction:
		return vmexit.IOQualification(x.Qualification()).String()
	case vmexit.GDTRIDTRAccess:
		return vmexit.DescriptorTableInformation(x.Information()).Instruction().String()
	}
	return "the guest's processor has no such thing"
}

// accesses are the kinds of accesses to memory.
var accesses = [...]string{"read", "write", "fetch", "page walk"}

// accessOf returns which one has caused an EPT violation: an index in accesses.
func accessOf(q vmexit.EPTViolationQualification) uint8 {
	switch {
	case q.PageWalk():
		return 3
	case q.Fetch():
		return 2
	case q.Write():
		return 1
	}
	return 0
}

func nameMSR(msr uint32) string {
	if name := msrName(msr); name != "" {
		return name
	}
	return fmt.Sprintf("MSR %#x", msr)
}

// msrName returns the name of an MSR, if the library has one, or this program.
func msrName(msr uint32) string {
	if m := hypercall.MSR(msr); m.Known() {
		return m.String()
	}
	if name := vmcs.MSRName(msr); strings.HasPrefix(name, "IA32_") {
		return name
	}
	return msrNames[msr]
}

var msrNames = map[uint32]string{
	msrAPICBase: "IA32_APIC_BASE", msrTSC: "IA32_TIME_STAMP_COUNTER", msrMiscEnable: "IA32_MISC_ENABLE", msrPAT: "IA32_PAT",
	msrSysenterCS: "IA32_SYSENTER_CS", msrSysenterESP: "IA32_SYSENTER_ESP", msrSysenterEIP: "IA32_SYSENTER_EIP",
	msrEFER: "IA32_EFER", msrSTAR: "IA32_STAR", msrLSTAR: "IA32_LSTAR", msrCSTAR: "IA32_CSTAR", msrFMASK: "IA32_FMASK",
	msrFSBase: "IA32_FS_BASE", msrGSBase: "IA32_GS_BASE", msrKernelGSBase: "IA32_KERNEL_GS_BASE", msrTSCAux: "IA32_TSC_AUX",
}

// describeCall tells what a hypercall is to do, as far as the caller may say it.
func (p *processor) describeCall(r *[16]uint64) string {
	w := hypercall.Input(r[asm.RCX])
	s := w.Code().Name()
	const size = hypercall.VpRegistersInputSize
	b := make([]byte, size+8*hypercall.RegisterAssocSize)
	var in hypercall.VpRegistersInput
	step := map[hypercall.Code]int{hypercall.CodeGetVpRegisters: hypercall.RegisterNameSize, hypercall.CodeSetVpRegisters: hypercall.RegisterAssocSize}[w.Code()]
	n := w.RepCount()
	if step != 0 && n*step <= len(b)-size && p.current.ReadPhysical(r[asm.RDX], b[:size+n*step]) == nil && in.Get(b) {
		s += fmt.Sprintf(", %v:", in.TargetVTL.Of(p.current.number))
		for i := range n {
			s += " " + strings.TrimPrefix(strings.TrimPrefix(hypercall.Register(binary.LittleEndian.Uint32(b[size+i*step:])).String(), "HvRegister"), "HvX64Register")
		}
	} else if n > 1 {
		s += fmt.Sprintf(", from %d of %d", w.RepStart(), n)
	}
	return s
}

// why tells why a hypercall was refused. RIP is held if it ended in #UD.
func (p *processor) why(held bool, cpl int) string {
	r := p.partition.Why()
	switch {
	case held && cpl > 0:
		return fmt.Sprintf(", not at privilege level %d (rule 28)", cpl)
	case r == 0 || p.effects.Len() > 0:
		return ""
	case held, r.Status(vtl.TLFS) == hypercall.Result(p.current.Regs[asm.RAX]).Status():
		return fmt.Sprintf(", %v (%s)", r, rules(r.Rules()))
	}
	return ""
}

// rules names rules by their numbers, which are those of the tests of package vtl.
func rules(numbers string) string {
	if strings.Contains(numbers, " ") {
		return "rules " + numbers
	}
	return "rule " + numbers
}

// done tells what has been done about the exit.
func (p *processor) done() string {
	var b strings.Builder
	list := p.effects.List()
	for i := range list {
		switch f := &list[i]; f.Kind {
		case vtl.EffectSwitch:
			fmt.Fprintf(&b, "; %v runs", f.Level)
		case vtl.EffectContext:
			fmt.Fprintf(&b, "; %v of VP%d will begin at %#x", f.Level, f.VP, p.effects.Context(*f).RIP)
		case vtl.EffectView:
			fmt.Fprintf(&b, "; %v has a view of memory", f.Level)
		case vtl.EffectProtect:
			fmt.Fprintf(&b, "; %v has %v on pages %#x to %#x", f.Level, f.Access, f.Page, f.Page+f.Pages-1)
		case vtl.EffectInject:
			fmt.Fprintf(&b, "; %v gets %v", f.Level, vmcs.Vector(f.Vector))
		case vtl.EffectIntercept:
			what := "it has no room for a message"
			if p.posted != 0 {
				what = "message " + strings.TrimPrefix(p.posted.String(), "HvMessageType")
			}
			fmt.Fprintf(&b, ", kept by %v (%s); %s", f.Level, map[vtl.InterceptKind]string{
				vtl.InterceptMemory: "rules 100 102", vtl.InterceptRegister: "rule 107", vtl.InterceptMSR: "rule 110", vtl.InterceptIO: "rule 111", vtl.InterceptStart: "rule 79",
			}[p.effects.Intercept(*f).Kind], what)
		}
	}
	if v, err := (vmcs.Current{}).Read(vmcs.EntryInterruptionInformation); err == nil && b.Len() == 0 && vmcs.InterruptionInfo(v).Valid() {
		fmt.Fprintf(&b, "; %v", vmcs.InterruptionInfo(v).Vector())
	}
	return b.String()
}

// end tells how it all ended.
func (t *transcript) end() error {
	fmt.Fprintf(t.w, "\n%d attacks, %d successful\n\n", t.attacks, t.breaches)
	for b := range vmexit.Basic(vmexit.NumBasic) {
		if n := t.counter.Count(b); n > 0 {
			fmt.Fprintf(t.w, "%5d  %s\n", n, b.SDMName())
		}
	}
	fmt.Fprintf(t.w, "%5d  exits in all\n", t.counter.Total())
	switch {
	case t.breaches > 0:
		return fmt.Errorf("%d of %d attacks were successful", t.breaches, t.attacks)
	case t.mistakes > 0:
		return fmt.Errorf("%d steps ended otherwise than they should", t.mistakes)
	}
	return nil
}
