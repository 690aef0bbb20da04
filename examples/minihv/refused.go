package main

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"

	"github.com/govtx/vtx/asm"
	"github.com/govtx/vtx/hypercall"
	"github.com/govtx/vtx/vmcs"
	"github.com/govtx/vtx/vmexit"
	"github.com/govtx/vtx/vtl"
)

// A refusals tells what levels of a PC have tried and this hypervisor has refused by itself. What
// a higher level refuses is told to that level, and is not here.
//
// A guest can try without end, so only so many rows are kept for each kind of attempt: whoever
// fills those of one kind hides nothing of another.
type refusals [numRefusalKinds]struct {
	rows   [refusalSlots]refusedRow // a hash table, at least half of it empty
	used   int
	others [numLevels]uint64 // attempts for which there was no row
}

const (
	refusalRows  = 64
	refusalShift = 64 - 7
	refusalSlots = 1 << (64 - refusalShift)

	_ = uint(refusalSlots - 2*refusalRows) // there is an empty slot to end each search
)

// A refusalKind is a kind of attempts.
type refusalKind uint8

const (
	refusedCall        refusalKind = iota // number: call code, or anyCall; part: privilege level
	refusedInstruction                    // number: exit reason
	refusedRDMSR                          // number: MSR
	refusedWRMSR                          // the same
	refusedCR                             // number: bits that were to change; part: which register
	refusedMemory                         // number: index in owners; part: index in accesses
	refusedIN                             // number: port
	refusedOUT                            // the same
	numRefusalKinds
)

// refusalKinds are the words for them. Attempts with a verb of their own come to one row when they
// are printed, if their numbers follow on each other.
var refusalKinds = [numRefusalKinds]struct{ verb, others string }{
	refusedCall:        {"", "other hypercalls"},
	refusedInstruction: {"", "other instructions"},
	refusedRDMSR:       {"RDMSR", "RDMSR of other MSRs"},
	refusedWRMSR:       {"WRMSR", "WRMSR of other MSRs"},
	refusedCR:          {"", "other changes of control registers"},
	refusedMemory:      {"", "other accesses to memory"},
	refusedIN:          {"IN from port", "IN from other ports"},
	refusedOUT:         {"OUT to port", "OUT to other ports"},
}

// anyCall stands for hypercalls that there are not, or that privilege level 3 cannot make.
const anyCall = 1 << 16

// An answer is what the guest got: the status of a hypercall, or what stands below.
type answer uint32

const (
	answeredFault   answer = 1 << 16 // an exception, with its vector in bits 7:0
	answeredNothing answer = 1 << 17 // as of a port where no device is
)

// An attempt is what makes a row.
type attempt struct {
	number uint64
	answer answer
	kind   refusalKind
	level  vtl.VTL
	part   uint8
}

// A refusedRow is an attempt, how often it was made, and with which address or call first.
type refusedRow struct {
	attempt
	n, first uint64
}

// note counts an attempt.
func (r *refusals) note(a attempt, first uint64) {
	k := &r[a.kind]
	const golden = 0x9e3779b97f4a7c15 // 2^64 by the golden ratio: Knuth 6.4
	h := (a.number ^ uint64(a.answer)<<20 ^ uint64(a.part)<<40 ^ uint64(a.level)<<48) * golden >> refusalShift
	row := &k.rows[h%refusalSlots]
	for row.n != 0 && (row.number != a.number || row.attempt != a) {
		h++
		row = &k.rows[h%refusalSlots]
	}
	switch {
	case row.n != 0:
		row.n++
	case k.used == refusalRows:
		k.others[a.level%numLevels]++
	default:
		k.used++
		*row = refusedRow{a, 1, first}
	}
}

// layer is a layer over all exits. What is not refused costs a comparison or two.
func (r *refusals) layer(b vmexit.Basic, below vmexit.Handler) vmexit.Handler {
	switch b {
	case vmexit.ExceptionOrNMI, vmexit.ExternalInterrupt, vmexit.PreemptionTimer, vmexit.InterruptWindow, vmexit.NMIWindow:
		return below // these are no attempts
	case vmexit.VMCALL:
		return r.calls(below)
	case vmexit.IOInstruction:
		return r.ports(below)
	}
	return func(x *vmexit.Exit) vmexit.Outcome {
		g := x.Guest
		o := below(x)
		if o == vmexit.Hold {
			r.held(x, g)
		}
		return o
	}
}

// calls is the layer over VMCALL.
func (r *refusals) calls(below vmexit.Handler) vmexit.Handler {
	return func(x *vmexit.Exit) vmexit.Outcome {
		g, rip := x.Guest, x.Guest.RIP
		o := below(x)
		if x.Guest != g || o == vmexit.Stop {
			return o // a VTL call or return
		}
		if o == vmexit.Hold && g.RIP == rip { // an exception, or it goes on
			r.held(x, g)
		} else if s := hypercall.Result(g.Regs[asm.RAX]).Status(); s != hypercall.StatusSuccess {
			r.ended(x, s)
		}
		return o
	}
}

// ended notes a hypercall that has ended with a status.
func (r *refusals) ended(x *vmexit.Exit, s hypercall.Status) {
	if realMode(x) {
		return
	}
	p := processorOf(x)
	c := uint64(p.call.Word().Code())
	a := attempt{kind: refusedCall, level: p.current.number, number: c, answer: answer(s)}
	if s == hypercall.StatusInvalidHypercallCode {
		a.number = anyCall
	}
	r.note(a, c)
}

// realMode tells whether a level is in real-address mode, where VMCALL is the firmware's.
func realMode(x *vmexit.Exit) bool { return x.Read(vmcs.CR0ReadShadow)&asm.CR0PE == 0 }

// ports is the layer over I/O instructions.
func (r *refusals) ports(below vmexit.Handler) vmexit.Handler {
	return func(x *vmexit.Exit) vmexit.Outcome {
		g := x.Guest
		o := below(x)
		if o == vmexit.Hold {
			r.held(x, g)
		}
		if o != vmexit.Resume {
			return o
		}
		p, q := processorOf(x), vmexit.IOQualification(x.Qualification())
		ports := p.pc.ports
		if p.current.number > 0 {
			ports = p.pc.secure
		}
		if vacant(ports, q.Port(), q.Size()) {
			r.note(attempt{kind: portKind(q), level: p.current.number, number: uint64(q.Port()), answer: answeredNothing}, 0)
		}
		return o
	}
}

func portKind(q vmexit.IOQualification) refusalKind {
	if q.In() {
		return refusedIN
	}
	return refusedOUT
}

// vacant tells whether an access to ports goes nowhere.
func vacant(ports *vmexit.Ports, port uint16, size int) bool {
	switch d := ports.Device(port).(type) {
	case nil:
		return true
	case *direct:
		return !d.all(port, size)
	}
	return false
}

// held notes an exit, if the level that tried, whose registers are g, still runs and has got an
// exception for it. A fault of paging is the guest's own.
func (r *refusals) held(x *vmexit.Exit, g *asm.Guest) {
	if x.Guest != g {
		return // a higher level has been told
	}
	// VM exits clear the valid bit (SDM Vol. 3C 28.2): this is what the handler has injected.
	info := vmcs.InterruptionInfo(x.Read(vmcs.EntryInterruptionInformation))
	if !info.Valid() || info.Type() != vmcs.EventHardwareException || info.Vector() == vmcs.VectorPF || info.Vector() == vmcs.VectorDB {
		return
	}
	p, b := processorOf(x), x.Reason().Basic()
	a := attempt{kind: refusedInstruction, level: p.current.number, number: uint64(b), answer: answeredFault | answer(info.Vector())}
	first := uint64(0)
	switch b {
	case vmexit.VMCALL:
		if !realMode(x) {
			first = uint64(calledBy(x).Code())
			a.kind, a.number, a.part = refusedCall, first, uint8(x.CPL())
			if c := hypercall.Code(first); a.part > 0 && c != hypercall.CodeVtlCall && c != hypercall.CodeVtlReturn {
				a.number = anyCall
			}
		}
	case vmexit.RDMSR:
		a.kind, a.number = refusedRDMSR, uint64(uint32(g.Regs[asm.RCX]))
	case vmexit.WRMSR:
		a.kind, a.number = refusedWRMSR, uint64(uint32(g.Regs[asm.RCX]))
	case vmexit.CRAccess:
		a.kind = refusedCR
		a.part, a.number = changes(x)
	case vmexit.EPTViolation:
		first = x.PhysicalAddress()
		a.kind, a.number = refusedMemory, p.owner(first)
		a.part = accessOf(vmexit.EPTViolationQualification(x.Qualification()))
	case vmexit.IOInstruction:
		q := vmexit.IOQualification(x.Qualification())
		a.kind, a.number = portKind(q), uint64(q.Port())
	}
	r.note(a, first)
}

// calledBy returns the word of a hypercall that has ended in an exception, with which the
// registers are as they were.
func calledBy(x *vmexit.Exit) hypercall.Input {
	r := &x.Guest.Regs
	if x.Code64() {
		return hypercall.Input(r[asm.RCX])
	}
	return hypercall.Input(r[asm.RDX]<<32 | r[asm.RAX]&0xffffffff)
}

// changes tells which control register was to be changed, and which bits of CR0 or CR4.
func changes(x *vmexit.Exit) (register uint8, bits uint64) {
	q := vmexit.CRAccessQualification(x.Qualification())
	old := func(register, mask, shadow vmcs.Field) uint64 {
		return vmcs.CRMask{Mask: x.Read(mask), Shadow: x.Read(shadow)}.Read(x.Read(register))
	}
	switch {
	case q.Type() == vmexit.CLTS:
		return 0, asm.CR0TS
	case q.Type() == vmexit.LMSW:
		return 0, (old(vmcs.GuestCR0, vmcs.CR0GuestHostMask, vmcs.CR0ReadShadow) ^ uint64(q.LMSWSource())) & 0xf
	case q.CR() == 0:
		bits = old(vmcs.GuestCR0, vmcs.CR0GuestHostMask, vmcs.CR0ReadShadow)
	case q.CR() == 4:
		bits = old(vmcs.GuestCR4, vmcs.CR4GuestHostMask, vmcs.CR4ReadShadow)
	default:
		return uint8(q.CR()), 0
	}
	bits ^= x.Register(int(q.Register()))
	if !x.Code64() {
		bits &= 0xffffffff // the operand has no more
	}
	return uint8(q.CR()), bits
}

// owners are those who may have what is at a guest-physical address.
var owners = [...]string{
	"guest-physical memory that is nobody's", "a page of the hypervisor's", "registers of an interrupt controller",
	"memory of a device", "memory that a higher level keeps",
}

// owner returns who has what is at an address, for the level that runs: an index in owners.
func (p *processor) owner(gpa uint64) uint64 {
	const nobody, hypervisor, registers, device, higher = 0, 1, 2, 3, 4
	page := gpa >> pageShift
	switch _, _, ok := p.memory.behind(page); {
	case p.current.overlaid(page) != nil:
		return hypervisor
	case p.window(gpa) != nil:
		return registers
	case !ok:
		return nobody
	case !p.memory.isRAM(page):
		return device
	}
	return higher
}

// what tells what was tried. Last is the number with which a run of attempts ends.
func (r *refusedRow) what(last uint64) string {
	first := hypercall.Code(r.first)
	switch {
	case r.kind == refusedInstruction:
		return vmexit.Basic(r.number).SDMName()
	case r.kind == refusedMemory:
		return fmt.Sprintf("%s of %s, first %#x", accesses[r.part], owners[r.number], r.first)
	case r.kind == refusedCR && r.part == 0:
		return "change of CR0, " + vmcs.Meaning(new(vmcs.Image), vmcs.GuestCR0, r.number)
	case r.kind == refusedCR && r.part == 4:
		return "change of CR4, " + vmcs.Meaning(new(vmcs.Image), vmcs.GuestCR4, r.number)
	case r.kind == refusedCR:
		return fmt.Sprintf("MOV to CR%d", r.part)
	case r.kind == refusedCall && r.number != anyCall && r.part == 0:
		return first.String()
	case r.kind == refusedCall && r.number != anyCall:
		return fmt.Sprintf("%v at privilege level %d", first, r.part)
	case r.kind == refusedCall && r.part == 0:
		return fmt.Sprintf("hypercalls that there are not, first %v", first)
	case r.kind == refusedCall:
		return fmt.Sprintf("other hypercalls at privilege level %d, first %v", r.part, first)
	}
	text := refusalKinds[r.kind].verb + " " + r.named(r.number)
	if last != r.number {
		text += " to " + r.named(last)
	}
	return text
}

// named returns a number, and the name if it is that of an MSR that has one.
func (r *refusedRow) named(number uint64) string {
	if name := msrName(uint32(number)); name != "" && (r.kind == refusedRDMSR || r.kind == refusedWRMSR) {
		return fmt.Sprintf("%#x (%s)", number, name)
	}
	return fmt.Sprintf("%#x", number)
}

// how tells how the attempt was answered.
func (r *refusedRow) how() string {
	switch {
	case r.answer&answeredFault != 0:
		return vmcs.Vector(r.answer).String()
	case r.answer != answeredNothing:
		return hypercall.Status(r.answer).String()
	case r.kind == refusedIN:
		return "no device, all ones"
	}
	return "no device, nothing is done"
}

// goesOn tells whether the next row is of the same attempt, with the number behind last.
func (r *refusedRow) goesOn(last uint64, next *refusedRow) bool {
	a := r.attempt
	a.number = last + 1
	return refusalKinds[r.kind].verb != "" && next.attempt == a
}

// print prints a table of what there was, most first.
func (r *refusals) print(w io.Writer) {
	type line struct {
		n     uint64
		level vtl.VTL
		text  string
	}
	var lines []line
	for kind := range r {
		k := &r[kind]
		var list []refusedRow
		for _, row := range k.rows {
			if row.n != 0 {
				list = append(list, row)
			}
		}
		slices.SortFunc(list, func(a, b refusedRow) int {
			return cmp.Or(cmp.Compare(a.level, b.level), cmp.Compare(a.part, b.part), cmp.Compare(a.answer, b.answer), cmp.Compare(a.number, b.number))
		})
		for i := 0; i < len(list); {
			row, last := list[i], list[i].number
			n := row.n
			for i++; i < len(list) && row.goesOn(last, &list[i]); i++ {
				n += list[i].n
				last++
			}
			lines = append(lines, line{n, row.level, row.what(last) + ": " + row.how()})
		}
		for level, n := range k.others {
			if n != 0 {
				lines = append(lines, line{n, vtl.VTL(level), refusalKinds[kind].others})
			}
		}
	}
	if len(lines) == 0 {
		return
	}
	slices.SortStableFunc(lines, func(a, b line) int { return cmp.Compare(b.n, a.n) })
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(t, "refused\tVTL\t  what\n")
	for _, l := range lines {
		fmt.Fprintf(t, "%d\t%d\t  %s\n", l.n, l.level, l.text)
	}
	t.Flush()
}
