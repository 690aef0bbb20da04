package main

import (
	"encoding/binary"
	"fmt"
	"math/bits"

	"github.com/govtx/vtx/asm"
	"github.com/govtx/vtx/hypercall"
	"github.com/govtx/vtx/vmcs"
	"github.com/govtx/vtx/vtl"
)

// Where the levels have their memory, and what lies where from there on. guest_amd64.s has
// the same numbers.
const (
	base0 = 0x010000 // VTL0
	base1 = 0x100000 // VTL1, which hides all of its pages

	atTables  = 0x1000 // PML4, PDPT and page directory; then a second PML4
	atGDT     = 0x5000
	atTSS     = 0x5100
	atIDT     = 0x5800
	atStack   = 0x6ff0
	atStack2  = 0x7ff0 // for exceptions in user mode
	atCode    = 0x8000 // hypercall page
	atSet     = 0x9000 // parameters of HvCallSetVpRegisters
	atOutput  = 0xa000
	atAssist  = 0xb000
	atMessage = 0xc000
	atOffsets = 0xd000
	atCR3     = 0xd010
	atFault   = 0xd020
	atSetWord = 0xd028
	atStubs   = 0xe000
	atBytes   = 0xf000 // code of steps that call
	atSteps   = 0x10000
	atSecret  = 0x20000
	atInput   = 0x30000 // parameters of hypercalls
	atEnd     = 0x60000

	secret = base1 + atSecret

	pages1 = atEnd / pageSize // that VTL1 has

	// Linear addresses. Memory is mapped to itself, and again from alias on. What is on the way
	// to the others the level makes up by itself.
	alias = 1 << 30
	walk  = 100 << 21 // of the page directory
	walk4 = 1 << 39   // of the second PML4
)

// Operations of steps.
const (
	opHalt uint64 = iota
	opServe
	opRead
	opWrite
	opCall
	opCPUID
	opRDMSR
	opWRMSR
	opCR0
	opCR3
	opCR4
	opHypercall
	opVTLCall
	opVTLReturn
	opUser
)

// A step is one thing that a guest does.
type step struct {
	name    string // said before it is done; without one it is not said
	op      uint64
	a, b, c uint64
	want    string // what comes of it, as result says it; anything, if it is empty
	attack  bool   // VTL1 must be safe from it
	allowed bool   // it is none, though it stands among attacks
}

// stepSize is how many bytes a step takes in the guest's memory.
const stepSize = 64

// A guest is the memory of one level while it is being filled.
type guest struct {
	ram   []byte
	base  uint64
	steps []step
	input uint64 // where the next parameters go
	code  uint64 // where the next code goes
}

func (g *guest) put64(at, v uint64) { binary.LittleEndian.PutUint64(g.ram[g.base+at:], v) }

// newGuest lays out a level's memory but for its steps, and returns it with the context in
// which the level begins.
func newGuest(ram []byte, base uint64) (*guest, vtl.Context) {
	g := &guest{ram: ram, base: base, input: base + atInput, code: base + atBytes}
	code, fault := guestCode()
	copy(ram[base:], code)
	g.put64(atStack, base)

	// Paging: present, writable, user; large pages in the last level.
	const table, page = 7, 0x87
	g.put64(atTables, base+atTables+0x1000|table)
	g.put64(atTables+0x3000, base+atTables+0x1000|table) // the second PML4
	for _, at := range []uint64{0, alias} {
		g.put64(atTables+0x1000+at>>30*8, base+atTables+0x2000|table)
	}
	for i := range uint64(ramSize >> 21) {
		g.put64(atTables+0x2000+8*i, i<<21|page)
	}

	// Segments, and an interrupt-descriptor table with a stub for each exception, which
	// pushes the vector.
	const code64, data, userData, userCode, tss = 0x08, 0x10, 0x1b, 0x23, 0x28
	var all vmcs.Segments
	all[vmcs.CS] = vmcs.FlatCode64(code64)
	for _, r := range []vmcs.SegmentRegister{vmcs.ES, vmcs.SS, vmcs.DS, vmcs.FS, vmcs.GS} {
		all[r] = vmcs.FlatData(data)
	}
	all[vmcs.TR] = vmcs.TaskState(tss, base+atTSS, 0x67)
	all[vmcs.LDTR] = vmcs.UnusableSegment()
	for _, s := range []vmcs.Segment{all[vmcs.CS], all[vmcs.DS], vmcs.FlatData(userData), vmcs.FlatCode64(userCode), all[vmcs.TR]} {
		low, high, _ := s.Descriptor()
		at := atGDT + uint64(s.Selector&^7)
		g.put64(at, low)
		if s.Selector == tss {
			g.put64(at+8, high)
		}
	}
	g.put64(atTSS+4, base+atStack2) // RSP0
	const vectors, stubSize = 32, 16
	for v := range uint64(vectors) {
		stub := uint64(atStubs + stubSize*v)
		b := append(ram[base+stub:base+stub], 0x6a, byte(v), 0xe9) // push v; jmp fault
		_ = binary.LittleEndian.AppendUint32(b, uint32(fault-(stub+7)))
		const gate = 0x8e00 // interrupt gate, present (SDM Vol. 3A 6.14.1)
		entry := base + stub
		g.put64(atIDT+16*v, entry>>16<<48|gate<<32|code64<<16|entry&0xffff)
		g.put64(atIDT+16*v+8, entry>>32)
	}

	c := vtl.Context{
		RIP: base, RSP: base + atStack, RFLAGS: 2,
		CS: toCall(all[vmcs.CS]), DS: toCall(all[vmcs.DS]), ES: toCall(all[vmcs.ES]), FS: toCall(all[vmcs.FS]),
		GS: toCall(all[vmcs.GS]), SS: toCall(all[vmcs.SS]), TR: toCall(all[vmcs.TR]), LDTR: toCall(all[vmcs.LDTR]),
		GDTR: hypercall.TableRegister{Base: base + atGDT, Limit: tss + 16 - 1},
		IDTR: hypercall.TableRegister{Base: base + atIDT, Limit: 16*vectors - 1},
		EFER: asm.EFERLME | asm.EFERLMA, CR0: asm.CR0PE | asm.CR0ET | asm.CR0NE | asm.CR0PG, CR3: base + atTables,
		CR4: asm.CR4PAE, PAT: resetPAT,
	}
	return g, c
}

// add adds steps.
func (g *guest) add(steps ...step) { g.steps = append(g.steps, steps...) }

// finish writes the steps to memory. The rest of it is 0, which is opHalt.
func (g *guest) finish() {
	for i, s := range g.steps {
		named := uint64(len(s.name))
		for j, v := range []uint64{s.op, s.a, s.b, s.c, named} {
			g.put64(atSteps+stepSize*uint64(i)+8*uint64(j), v)
		}
	}
}

// parameters writes parameters of a hypercall, one behind the other in one page, and returns
// their address.
func (g *guest) parameters(list ...hypercall.Parameters) uint64 {
	n := 0
	for _, p := range list {
		n += p.Size()
	}
	if g.input%pageSize+uint64(n) > pageSize {
		g.input = (g.input + pageSize - 1) &^ (pageSize - 1)
	}
	gpa := g.input
	for _, p := range list {
		p.Put(g.ram[g.input:])
		g.input += uint64(p.Size())
	}
	g.input = (g.input + 7) &^ 7
	return gpa
}

// call is a step that makes a hypercall with parameters in memory.
func (g *guest) call(name string, code hypercall.Code, reps int, want string, list ...hypercall.Parameters) step {
	return step{name: name, op: opHypercall, a: uint64(hypercall.Input(code).WithReps(reps)), b: g.parameters(list...), want: want}
}

// to is the step with results of the hypercall at an address.
func (s step) to(gpa uint64) step {
	s.c = gpa
	return s
}

// setRegisters is a step that writes registers of a level.
func (g *guest) setRegisters(name string, level hypercall.InputVTL, want string, list ...hypercall.RegisterAssoc) step {
	all := []hypercall.Parameters{self(level)}
	for i := range list {
		all = append(all, &list[i])
	}
	return g.call(name, hypercall.CodeSetVpRegisters, len(list), want, all...)
}

// getRegister is a step that reads a register of a level, to an address in its own memory.
func (g *guest) getRegister(name string, level hypercall.InputVTL, want string, r hypercall.Register, output uint64) step {
	return g.call(name, hypercall.CodeGetVpRegisters, 1, want, self(level), &r).to(g.base + output)
}

// execute is a step that executes an instruction.
func (g *guest) execute(name, want string, code ...byte) step {
	s := step{name: name, op: opCall, a: g.code, want: want}
	g.code += uint64(copy(g.ram[g.code:], append(code, 0xc3))) // RET
	return s
}

// allowed is an execute that stands among attacks, and is none.
func (g *guest) allowed(name, want string, code ...byte) step {
	s := g.execute(name, want, code...)
	s.allowed = true
	return s
}

// self is the header of a call that concerns registers of the processor that makes it.
func self(level hypercall.InputVTL) *hypercall.VpRegistersInput {
	return &hypercall.VpRegistersInput{PartitionID: hypercall.PartitionSelf, VPIndex: hypercall.VPSelf, TargetVTL: level}
}

func register(name hypercall.Register, v uint64) hypercall.RegisterAssoc {
	return hypercall.RegisterAssoc{Name: name, Value: hypercall.RegisterValue{Low: v}}
}

// What steps end in.
const (
	success = "HV_STATUS_SUCCESS"
	denied  = "HV_STATUS_ACCESS_DENIED"
	noCall  = "HV_STATUS_INVALID_HYPERCALL_CODE"
	already = "HV_STATUS_INVALID_VTL_STATE"
	ud      = "#UD"
	gp      = "#GP"
)

// value is how a step ends that reads something.
func value(v uint64) string { return fmt.Sprintf("%#x", v) }

// common are the first steps of both levels: they make themselves known, and find out where
// the code for VTL calls and returns is.
func (g *guest) common() {
	page := func(at uint64) uint64 { return (g.base+at)&^(pageSize-1) | 1 }
	g.add(
		step{name: "says who it is", op: opWRMSR, a: uint64(hypercall.MSRGuestOSID), b: uint64(hypercall.OpenSourceID(0x7f, 0, 1, 0))},
		step{name: "lays out its hypercall page", op: opWRMSR, a: uint64(hypercall.MSRHypercall), b: page(atCode)},
		g.getRegister("asks where the code for VTL calls and returns is", 0, success, hypercall.RegisterVsmCodePageOffsets, atOffsets),
	)
}

// program fills the guest's memory, and returns both levels' steps and the context in which
// VTL0 begins. Without protect, VTL1 leaves out the call that hides its pages.
func program(ram []byte, protect bool) (vtl0, vtl1 *guest, boot vtl.Context) {
	vtl0, boot = newGuest(ram, base0)
	vtl1, context := newGuest(ram, base1)
	for i := range uint64(pageSize / 8) {
		vtl1.put64(atSecret+8*i, (i+1)*0x9e3779b97f4a7c15&^0xff|0xc3) // should it be run, it returns
	}
	vtl1.setSteps1(protect)
	vtl0.setSteps0(&context, sum(ram[secret:secret+pageSize], question), protect)
	vtl0.finish()
	vtl1.finish()
	return vtl0, vtl1, boot
}

// question is what VTL0 wants to have VTL1's answer to.
const question = 0x1234

// setSteps1 has VTL1 set itself up, and then serve.
func (g *guest) setSteps1(protect bool) {
	event := hypercall.PendingException{
		Header: hypercall.PendingEventHeaderEventPending.WithEventType(hypercall.PendingEventException),
		Flags:  hypercall.PendingExceptionFlagsDeliverErrorCode, Vector: uint16(vmcs.VectorGP),
	}
	g.put64(atFault, event.Value().Low)
	g.put64(atSetWord, uint64(hypercall.Input(hypercall.CodeSetVpRegisters).WithReps(1)))
	self(hypercall.TargetVTL(0)).Put(g.ram[g.base+atSet:])

	g.common()
	g.add(
		step{name: "lays out its VP assist page", op: opWRMSR, a: uint64(hypercall.MSRVPAssistPage), b: g.base + atAssist | 1},
		step{name: "lays out its message page", op: opWRMSR, a: uint64(hypercall.MSRSIMP), b: g.base + atMessage | 1},
		step{name: "will look for messages of SINT0 by itself", op: opWRMSR, a: uint64(hypercall.MSRSINT0), b: uint64(hypercall.SINTMSRPolling)},
		step{name: "turns its synthetic interrupt controller on", op: opWRMSR, a: uint64(hypercall.MSRSControl), b: 1},
		g.getRegister("remembers CR3 of VTL0", hypercall.TargetVTL(0), success, hypercall.RegisterCR3, atCR3),
		g.setRegisters("turns protection on, and lets VTL0 start no processors", 0, success,
			register(hypercall.RegisterVsmPartitionConfig, uint64((hypercall.VsmPartitionConfigEnableVtlProtection|hypercall.VsmPartitionConfigDenyLowerVtlStartup).
				WithDefaultVtlProtectionMask(hypercall.MapAccess)))),
	)
	if protect {
		list := []hypercall.Parameters{&hypercall.ModifyVtlProtectionMaskInput{PartitionID: hypercall.PartitionSelf, TargetVTL: hypercall.TargetVTL(0)}}
		for i := range uint64(pages1) {
			page := g.base>>pageShift + i
			list = append(list, (*hypercall.Uint64)(&page))
		}
		g.add(g.call(fmt.Sprintf("hides its %d pages", pages1), hypercall.CodeModifyVtlProtectionMask, pages1, success, list...))
	}
	g.add(
		g.setRegisters("guards CR0.WP, CR4.TSD, IDTR, IA32_EFER and IA32_SYSENTER_EIP of VTL0", 0, success,
			register(hypercall.RegisterCRInterceptControl, uint64(hypercall.CrInterceptCr0Write|hypercall.CrInterceptCr4Write|
				hypercall.CrInterceptIdtrWrite|hypercall.CrInterceptMsrEferWrite|hypercall.CrInterceptMsrSysenterEipWrite)),
			register(hypercall.RegisterCRInterceptCR0Mask, asm.CR0WP),
			register(hypercall.RegisterCRInterceptCR4Mask, asm.CR4TSD)),
		g.call("guards the I/O ports 0xcf8 to 0xcff", hypercall.CodeInstallIntercept, 0, success, portIntercept()),
		step{op: opServe},
	)
}

// portIntercept asks to be told of accesses to the ports of PCI configuration.
func portIntercept() *hypercall.InstallInterceptInput {
	return &hypercall.InstallInterceptInput{
		PartitionID: hypercall.PartitionSelf, AccessMask: hypercall.InterceptAccessRead | hypercall.InterceptAccessWrite,
		Type: hypercall.InterceptIoPortRange, Parameters: hypercall.IoPortParameters(0xcf8, 0xcff),
	}
}

// setSteps0 has VTL0 set up VTL1, ask it something, attack it, and ask again. If VTL1 does not
// protect itself, the first attacks will do.
func (g *guest) setSteps0(context *vtl.Context, answer uint64, protect bool) {
	wrong := *context
	wrong.TR = hypercall.SegmentRegister{} // VM entry would fail
	ask := step{name: "asks VTL1 for a keyed sum", op: opVTLCall, b: question, want: value(answer)}
	g.add(
		step{name: "looks for a hypervisor", op: opCPUID, a: 1, b: 2, c: hypercall.HypervisorPresent, want: value(hypercall.HypervisorPresent)},
		step{name: "looks for the interface \"Hv#1\"", op: opCPUID, a: uint64(hypercall.LeafInterface), c: ^uint64(0), want: value(uint64(hypercall.SignatureHv1))},
		step{name: "looks for its right to use VSM", op: opCPUID, a: uint64(hypercall.LeafFeatures), b: 1, c: uint64(hypercall.PrivilegeAccessVSM >> 32), want: value(uint64(hypercall.PrivilegeAccessVSM >> 32))},
		g.execute("calls before it has a hypercall page", ud, 0x0f, 0x01, 0xc1),
	)
	g.common()
	g.add(
		enablePartition("enables VTL1 for the partition", success),
		g.enableVP("enables VTL1 with a context that no processor can have", "HV_STATUS_INVALID_REGISTER_VALUE", hypercall.VPSelf, &wrong),
		g.enableVP("enables VTL1 on its processor", success, hypercall.VPSelf, context),
		step{name: "calls VTL1 for the first time", op: opVTLCall, want: value(0)},
		ask,
	)
	first := len(g.steps)
	g.attackMemory()
	if protect {
		g.attackWalks()
		g.attackByCalls()
		g.attackRegisters(context)
		g.attackGuards(context)
		g.attackVTLCalls()
		g.attackVMX()
	}
	for i := range g.steps[first:] {
		s := &g.steps[first+i]
		s.attack = s.want != "" && !s.allowed
	}
	g.add(ask)
}

// enableVP is a step that enables VTL1 on a processor.
func (g *guest) enableVP(name, want string, vp uint32, context *vtl.Context) step {
	return g.call(name, hypercall.CodeEnableVpVtl, 0, want,
		&hypercall.EnableVpVtlInput{PartitionID: hypercall.PartitionSelf, VPIndex: vp, TargetVTL: 1, Context: *context})
}

// enablePartition is a step that enables VTL1 for the partition, by a call in registers.
func enablePartition(name, want string) step {
	return step{name: name, op: opHypercall, a: uint64(hypercall.Input(hypercall.CodeEnablePartitionVtl).WithFast(true)),
		b: hypercall.PartitionSelf, c: 1, want: want}
}

// attackMemory goes for the memory that VTL1 hides.
func (g *guest) attackMemory() {
	g.add(
		step{name: "reads the secret", op: opRead, a: secret, want: gp},
		step{name: "writes the secret", op: opWrite, a: secret + 8, b: 0x666, want: gp},
		step{name: "runs the secret", op: opCall, a: secret, want: gp},
		step{name: "reads it at another linear address", op: opRead, a: alias + secret, want: gp},
		step{name: "writes it at another linear address", op: opWrite, a: alias + secret + 16, b: 0x666, want: gp},
	)
}

// attackWalks has the processor read the secret when it walks page tables.
func (g *guest) attackWalks() {
	g.add(
		step{name: "takes it for a page table", op: opWrite, a: g.base + atTables + 0x2000 + walk>>21*8, b: secret | 7},
		step{name: "reads by a walk through it", op: opRead, a: walk, want: gp},
		step{name: "takes it for a page-directory-pointer table", op: opWrite, a: g.base + atTables + 0x3000 + walk4>>39*8, b: secret | 7},
		step{name: "uses these tables", op: opCR3, a: g.base + atTables + 0x3000, want: value(g.base + atTables + 0x3000), allowed: true},
		step{name: "reads by a walk through it", op: opRead, a: walk4, want: gp},
		step{name: "takes it for CR3", op: opCR3, a: secret, want: value(g.base + atTables)},
		step{name: "writes VTL1's page tables", op: opWrite, a: base1 + atTables, b: 0, want: gp},
		step{name: "writes VTL1's code", op: opWrite, a: base1, b: 0, want: gp},
	)
}

// attackByCalls has the hypervisor do what VTL0 cannot.
func (g *guest) attackByCalls() {
	through := func(name string, in, out uint64) step {
		return step{name: name, op: opHypercall, a: uint64(hypercall.Input(hypercall.CodeGetVpRegisters).WithReps(1)), b: in, c: out, want: gp}
	}
	good := g.parameters(self(0), ptr(hypercall.RegisterVpIndex))
	protect := func(name string, level hypercall.InputVTL, want string) step {
		return g.call(name, hypercall.CodeModifyVtlProtectionMask, 1, want,
			&hypercall.ModifyVtlProtectionMaskInput{PartitionID: hypercall.PartitionSelf, MapFlags: hypercall.MapAccess, TargetVTL: level}, ptr(hypercall.Uint64(secret>>pageShift)))
	}
	over := func(what string, msr hypercall.MSR, seen, back uint64) {
		g.add(
			step{name: "lays " + what + " over the secret", op: opWRMSR, a: uint64(msr), b: secret | 1},
			step{name: "reads what is there", op: opRead, a: secret, want: value(seen)},
			step{name: "takes " + what + " away again", op: opWRMSR, a: uint64(msr), b: back},
			step{name: "reads the secret", op: opRead, a: secret, want: gp},
		)
	}
	g.add(
		through("has the hypervisor read parameters from the secret", secret, g.base+atOutput),
		through("has the hypervisor write results to the secret", good, secret),
		protect("gives itself all rights (HvCallModifyVtlProtectionMask)", hypercall.TargetVTL(0), denied),
		protect("gives itself all rights in the name of VTL1", hypercall.TargetVTL(1), denied),
		g.call("maps other memory there (HvCallMapGpaPages)", 0x4b, 0, noCall),
	)
	over("its hypercall page", hypercall.MSRHypercall, 0xccccccccc3c1010f, (g.base+atCode)|1)
	over("its VP assist page", hypercall.MSRVPAssistPage, 0, 0)
	over("its message page", hypercall.MSRSIMP, 0, 0)
}

// attackRegisters goes for VTL1's registers and configuration, and for its start.
func (g *guest) attackRegisters(context *vtl.Context) {
	one, own := hypercall.TargetVTL(1), *context
	own.RIP = base0
	g.add(
		g.getRegister("reads VTL1's RIP", one, denied, hypercall.RegisterRIP, atOutput),
		g.setRegisters("writes VTL1's RIP", one, denied, register(hypercall.RegisterRIP, base0)),
		g.setRegisters("writes VTL1's CR3", one, denied, register(hypercall.RegisterCR3, base0+atTables)),
		g.setRegisters("turns VTL1's protection off", one, denied, register(hypercall.RegisterVsmPartitionConfig, 0)),
		g.setRegisters("turns VTL1's guard off", one, denied, register(hypercall.RegisterCRInterceptControl, 0)),
		g.setRegisters("moves VTL1's VP assist page", one, denied, register(hypercall.RegisterVpAssistPage, base0+atAssist|1)),
		enablePartition("enables VTL1 for the partition again", already),
		g.enableVP("enables VTL1 again, with its own entry point", denied, hypercall.VPSelf, &own),
		g.enableVP("enables VTL1 on the other processor, with its own entry point", denied, 1, &own),
		g.call("has a linear address of VTL1 translated", hypercall.CodeTranslateVirtualAddress, 0, denied,
			&hypercall.TranslateVirtualAddressInput{PartitionID: hypercall.PartitionSelf, VPIndex: hypercall.VPSelf,
				ControlFlags: hypercall.TranslateValidateRead.WithInputVtl(one), GVAPage: secret >> pageShift}).to(g.base+atOutput),
		g.call("interrupts VTL1 (HvCallSendSyntheticClusterIpi)", hypercall.CodeSendSyntheticClusterIpi, 0, noCall,
			&hypercall.SendSyntheticClusterIpiInput{Vector: 0x40, TargetVTL: one, ProcessorMask: 1}),
		g.call("interrupts VTL1 (HvCallAssertVirtualInterrupt)", hypercall.CodeAssertVirtualInterrupt, 0, noCall,
			&hypercall.AssertVirtualInterruptInput{PartitionID: hypercall.PartitionSelf, RequestedVector: 0x40, TargetVTL: 1}),
		g.call("asks to be told of I/O itself", hypercall.CodeInstallIntercept, 0, denied, portIntercept()),
		g.call("starts the other processor", hypercall.CodeStartVirtualProcessor, 0, denied,
			&hypercall.StartVirtualProcessorInput{PartitionID: hypercall.PartitionSelf, VPIndex: 1, Context: own}),
		g.call("starts the other processor in VTL1", hypercall.CodeStartVirtualProcessor, 0, denied,
			&hypercall.StartVirtualProcessorInput{PartitionID: hypercall.PartitionSelf, VPIndex: 1, TargetVTL: 1, Context: own}),
	)
}

// attackGuards changes registers that VTL1 guards, and one that it does not.
func (g *guest) attackGuards(context *vtl.Context) {
	cr0, cr4 := context.CR0, context.CR4
	g.add(
		step{name: "sets CR0.WP", op: opCR0, a: asm.CR0WP, want: value(cr0)},
		step{name: "sets CR4.TSD", op: opCR4, a: asm.CR4TSD, want: value(cr4)},
		step{name: "sets CR4.PGE, which VTL1 does not guard", op: opCR4, a: asm.CR4PGE, want: value(cr4 | asm.CR4PGE), allowed: true},
		step{name: "writes IA32_EFER", op: opWRMSR, a: msrEFER, b: asm.EFERLME | asm.EFERLMA | asm.EFERNXE},
		step{name: "reads it back", op: opRDMSR, a: msrEFER, want: value(asm.EFERLME | asm.EFERLMA)},
		step{name: "writes IA32_SYSENTER_EIP", op: opWRMSR, a: msrSysenterEIP, b: 0x666},
		step{name: "reads it back", op: opRDMSR, a: msrSysenterEIP, want: value(0)},
		g.setRegisters("sets CR4.TSD by a call (HvCallSetVpRegisters)", 0, denied, register(hypercall.RegisterCR4, cr4|asm.CR4PGE|asm.CR4TSD)),
		g.setRegisters("loads an IDTR by a call", 0, denied, hypercall.RegisterAssoc{Name: hypercall.RegisterIDTR, Value: hypercall.TableRegister{Base: g.base, Limit: 0xfff}.Value()}),
		g.execute("loads an IDTR of its own", "done", 0x0f, 0x01, 0x1c, 0x24), // lidt [rsp]
		g.execute("raises an exception: IDTR is the old one", ud, 0x0f, 0x0b), // ud2
		g.allowed("loads GDTR with what it is, which VTL1 does not guard", "done", 0x48, 0x83, 0xec, 0x10, // sub rsp, 16
			0x0f, 0x01, 0x04, 0x24, 0x0f, 0x01, 0x14, 0x24, 0x48, 0x83, 0xc4, 0x10), // sgdt [rsp]; lgdt [rsp]; add rsp, 16
		g.execute("reads a guarded I/O port", "done", 0xba, 0xfc, 0x0c, 0, 0, 0x89, 0xd0, 0xed), // mov edx, 0xcfc; mov eax, edx; in eax, dx
	)
}

// attackVTLCalls makes VTL calls and returns that are none.
func (g *guest) attackVTLCalls() {
	g.add(
		step{name: "returns from VTL0", op: opVTLReturn, want: ud},
		step{name: "calls VTL1 with a control input", op: opVTLCall, a: 1, want: ud},
		g.execute("calls VTL1 with bits above the call code", ud, 0x31, 0xc0, 0xb9, 0x11, 0, 1, 0, 0x0f, 0x01, 0xc1), // xor eax, eax; mov ecx, 0x10011; vmcall
	)
	user := g.execute("calls VTL1 from user mode", ud, 0x31, 0xc0, 0xb9, 0x11, 0, 0, 0, 0x0f, 0x01, 0xc1)
	user.op = opUser
	g.add(user)
}

// attackVMX would be a hypervisor itself.
func (g *guest) attackVMX() {
	g.add(
		step{name: "looks for VMX", op: opCPUID, a: 1, b: 2, c: 1 << 5, want: value(0)},
		step{name: "reads IA32_FEATURE_CONTROL", op: opRDMSR, a: vmcs.MSRFeatureControl, want: gp},
		step{name: "reads IA32_VMX_BASIC", op: opRDMSR, a: vmcs.MSRVMXBasic, want: gp},
		step{name: "sets CR4.VMXE", op: opCR4, a: asm.CR4VMXE, want: gp},
		g.execute("VMXON", ud, 0xf3, 0x0f, 0xc7, 0x34, 0x24),
		g.execute("VMXOFF", ud, 0x0f, 0x01, 0xc4),
		g.execute("VMCLEAR", ud, 0x66, 0x0f, 0xc7, 0x34, 0x24),
		g.execute("VMPTRLD", ud, 0x0f, 0xc7, 0x34, 0x24),
		g.execute("VMPTRST", ud, 0x0f, 0xc7, 0x3c, 0x24),
		g.execute("VMLAUNCH", ud, 0x0f, 0x01, 0xc2),
		g.execute("VMRESUME", ud, 0x0f, 0x01, 0xc3),
		g.execute("VMREAD", ud, 0x0f, 0x78, 0xc0),
		g.execute("VMWRITE", ud, 0x0f, 0x79, 0xc0),
		g.execute("INVEPT", ud, 0x66, 0x0f, 0x38, 0x80, 0x04, 0x24),
		g.execute("INVVPID", ud, 0x66, 0x0f, 0x38, 0x81, 0x04, 0x24),
		g.execute("VMFUNC", ud, 0x0f, 0x01, 0xd4),
	)
}

func ptr[T any](v T) *T { return &v }

// sum is what VTL1 answers to a request.
func sum(page []byte, v uint64) uint64 {
	for i := 0; i < len(page); i += 8 {
		v = bits.RotateLeft64(v, 5) ^ binary.LittleEndian.Uint64(page[i:])
	}
	return v
}
