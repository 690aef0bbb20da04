package vtl

import (
	"encoding/binary"
	"fmt"
	"math/bits"

	"github.com/govtx/vtx/hypercall"
)

// An Operation is what a level does with memory: a set of bits.
type Operation uint8

// Bits of an Operation. Each of the first three needs the right of that name.
const (
	Reading  Operation = 1 << iota // also by the processor, when it walks page tables
	Writing                        // also by the processor: accessed and dirty bits
	Fetching                       // an instruction fetch

	User       // CPL is 3: counts for Fetching and DescriptorAccess
	SMEPOff    // the level's CR4.SMEP is 0, though it could be 1: counts for Fetching
	Descriptor // the instruction accesses a descriptor table: Page is where the instruction is
)

// An InterceptKind says what is intercepted.
type InterceptKind uint8

// Kinds.
const (
	InterceptMemory   InterceptKind = iota + 1 // a page's protection
	InterceptRegister                          // a write to a register other than an MSR
	InterceptMSR
	InterceptIO
	InterceptStart // a processor is to be started or stopped

	numInterceptKinds
)

var interceptNames = [numInterceptKinds]string{"none", "memory", "register", "msr", "io", "start"}

// String returns the kind's name.
func (k InterceptKind) String() string {
	if k < numInterceptKinds {
		return interceptNames[k]
	}
	return fmt.Sprintf("InterceptKind(%d)", uint8(k))
}

// An Intercept is an action of a level that a higher one is told of, instead of its being
// carried out.
type Intercept struct {
	Kind  InterceptKind
	VP    uint32
	Level VTL // the level that acted
	Owner VTL // the one that is told

	Operation Operation // of memory
	Page      uint64    // of memory
	Register  hypercall.Register
	MSR       uint32
	Port      uint16
	Size      uint8  // of an I/O port access: 1, 2 or 4 bytes
	Write     bool   // of an MSR, or to a port
	Value     uint64 // to be written

	Target      uint32 // processor to be started
	TargetLevel VTL
	Vector      uint8 // of a startup IPI
	INIT        bool
}

// AccessType returns how the message calls the access.
func (i *Intercept) AccessType() hypercall.InterceptAccessType {
	switch {
	case i.Kind == InterceptMemory && i.Operation&Fetching != 0:
		return hypercall.AccessExecute
	case i.Kind == InterceptMemory && i.Operation&Writing != 0, i.Kind == InterceptRegister, i.Write:
		return hypercall.AccessWrite
	}
	return hypercall.AccessRead
}

// String describes the intercept.
func (i *Intercept) String() string {
	s := fmt.Sprintf("VP%d %v tells %v: ", i.VP, i.Level, i.Owner)
	way := "read of"
	if i.Write {
		way = "write to"
	}
	switch i.Kind {
	case InterceptMemory:
		return s + fmt.Sprintf("%v of page 0x%x", i.Operation, i.Page)
	case InterceptRegister:
		return s + fmt.Sprintf("write to %v: 0x%x", i.Register, i.Value)
	case InterceptMSR:
		return s + fmt.Sprintf("%s MSR 0x%x", way, i.MSR)
	case InterceptIO:
		return s + fmt.Sprintf("%s port 0x%x", way, i.Port)
	case InterceptStart:
		return s + fmt.Sprintf("start of VP%d %v", i.Target, i.TargetLevel)
	}
	return s + i.Kind.String()
}

// String lists the bits: "write, user".
func (o Operation) String() string {
	s := ""
	for i, name := range [...]string{"read", "write", "fetch", "user", "smep-off", "descriptor"} {
		if o>>i&1 != 0 {
			if s != "" {
				s += ", "
			}
			s += name
		}
	}
	if rest := o >> 6; rest != 0 || s == "" {
		s += fmt.Sprintf("Operation(0x%x)", uint8(o))
	}
	return s
}

// A Circumstance is what only the embedder knows of an intercepted instruction: the parts of
// the message that are in the VMCS and in the guest's registers.
type Circumstance struct {
	Header     hypercall.InterceptHeader // VPIndex and AccessType need not be set
	Bytes      []byte                    // of the instruction, as far as they are known: up to 16. Not for fetches
	GVA        uint64
	GVAValid   bool
	CacheType  hypercall.CacheType
	AccessInfo hypercall.IoPortAccessInfo // of I/O
	DS, ES     hypercall.SegmentRegister  // of I/O
	Regs       *[16]uint64                // in the order of hypercall.Call; of I/O, MSRs; can be nil
}

// MaxMessage is how long a message's payload can be.
const MaxMessage = 240

// PutMessage writes the payload of the message into b, and returns its type and length.
// It returns 0, 0 if the intercept has no Kind.
func (i *Intercept) PutMessage(c *Circumstance, b *[MaxMessage]byte) (t hypercall.MessageType, n int) {
	h := c.Header
	h.VPIndex, h.AccessType = i.VP, i.AccessType()
	var r [16]uint64
	if c.Regs != nil {
		r = *c.Regs
	}
	const rax, rcx, rdx, rsi, rdi = 0, 1, 2, 6, 7
	switch i.Kind {
	case InterceptMemory:
		m := hypercall.MemoryIntercept{Header: h, CacheType: c.CacheType, GVA: c.GVA, GPA: i.Page << pageShift}
		if c.GVAValid {
			m.AccessInfo |= hypercall.MemoryAccessInfoGvaValid
		}
		if i.Operation&Fetching == 0 {
			m.InstructionByteCount = uint8(copy(m.InstructionBytes[:], c.Bytes))
		}
		m.Put(b[:hypercall.MemoryInterceptSize])
		return hypercall.MessageGpaIntercept, hypercall.MemoryInterceptSize
	case InterceptIO:
		m := hypercall.IoPortIntercept{Header: h, Port: i.Port, AccessInfo: c.AccessInfo, RAX: r[rax], RCX: r[rcx], RSI: r[rsi], RDI: r[rdi], DS: c.DS, ES: c.ES}
		m.InstructionByteCount = uint8(copy(m.InstructionBytes[:], c.Bytes))
		m.Put(b[:hypercall.IoPortInterceptSize])
		return hypercall.MessageIoPortIntercept, hypercall.IoPortInterceptSize
	case InterceptMSR:
		m := hypercall.MsrIntercept{Header: h, MSR: i.MSR, RDX: r[rdx], RAX: r[rax]}
		m.Put(b[:hypercall.MsrInterceptSize])
		return hypercall.MessageMsrIntercept, hypercall.MsrInterceptSize
	case InterceptRegister:
		m := hypercall.RegisterIntercept{Header: h, Register: i.Register, Value: Value{Low: i.Value}}
		m.Put(b[:hypercall.RegisterInterceptSize])
		return hypercall.MessageRegisterIntercept, hypercall.RegisterInterceptSize
	case InterceptStart:
		m := hypercall.SipiIntercept{Header: h, TargetVPIndex: i.Target, Vector: uint32(i.Vector)}
		m.Put(b[:hypercall.SipiInterceptSize])
		return hypercall.MessageSipiIntercept, hypercall.SipiInterceptSize
	}
	return 0, 0
}

// report tells a higher level, which is enabled on the processor, and enters it. The level
// that acted stays where it is, and tries again when it next runs.
func (p *Partition) report(v *processor, i *Intercept, e *Effects) {
	p.why = refusedNot
	e.intercept(i)
	p.enter(i.VP, v, i.Owner, ReasonInterrupt, e)
	p.settle(i.VP, v, e)
}

// Access tells what becomes of an operation of the active level of a processor on a page:
// Done, it has the rights; Intercepted, a higher level does not let it, and the lowest such
// one runs next; GeneralProtection, for a user's access to a descriptor table from a page
// without KernelExecute, or if the level that does not let it is not enabled on this
// processor, so that there is no one to tell (TLFS vsm.md, "Memory Access Violations",
// "Descriptor Tables"; rules 88 to 91, 100 to 102, 109).
func (p *Partition) Access(vp uint32, page uint64, op Operation, e *Effects) Outcome {
	v := p.processor(vp)
	if v == nil {
		return GeneralProtection
	}
	owners := p.protecting & above(v.active)
	if owners == 0 || !p.isRAM(page) {
		return Done
	}
	needs, forbidden := p.needs(vp, v.active, op)
	for ; owners != 0; owners &= owners - 1 {
		o := VTL(bits.TrailingZeros16(owners))
		has := p.effective(o, p.mask(o, v.active).get(&p.pool, page))
		if needs&^has != 0 {
			if !v.has(o) {
				return GeneralProtection
			}
			p.report(v, &Intercept{Kind: InterceptMemory, VP: vp, Level: v.active, Owner: o, Operation: op, Page: page}, e)
			return Intercepted
		}
		if forbidden&^has != 0 {
			return GeneralProtection
		}
	}
	return Done
}

// needs returns the rights without which an operation is intercepted, and those without
// which it is #GP.
func (p *Partition) needs(vp uint32, level VTL, op Operation) (needs, fault Access) {
	if op&Reading != 0 {
		needs |= Read
	}
	if op&Writing != 0 {
		needs |= Write
	}
	if op&Fetching != 0 {
		switch on := p.mbecOn(vp, level); {
		case op&User == 0 || !on || op&SMEPOff != 0:
			needs |= KernelExecute
		default:
			needs |= UserExecute
		}
	}
	if op&(Descriptor|User) == Descriptor|User {
		fault |= KernelExecute
	}
	return needs, fault
}

// mbecOn reports whether MBEC is in effect for a level of a processor: it has been enabled
// for it by each higher level that the partition allows it (rules 83 and 84).
func (p *Partition) mbecOn(vp uint32, level VTL) bool {
	owners := p.mbec & above(level)
	if owners == 0 {
		return false
	}
	for ; owners != 0; owners &= owners - 1 {
		if p.context(vp, VTL(bits.TrailingZeros16(owners))).mbec&bit(level) == 0 {
			return false
		}
	}
	return true
}

// MBEC reports whether mode-based execute control is in effect for a level of a processor.
func (p *Partition) MBEC(vp uint32, level VTL) bool {
	return p.processor(vp) != nil && level <= p.config.MaximumVTL && p.mbecOn(vp, level)
}

// Guard returns what a level intercepts on a processor, and the masks of CR0, CR4 and
// IA32_MISC_ENABLE; 0 if it is not enabled there.
func (p *Partition) Guard(vp uint32, level VTL) (control hypercall.CrInterceptControl, cr0, cr4, misc uint64) {
	if v := p.processor(vp); v != nil && v.has(level) {
		c := p.context(vp, level)
		return c.guard, c.maskCR0, c.maskCR4, c.maskMisc
	}
	return 0, 0, 0, 0
}

// guardedRegisters are the registers whose writes levels can intercept (TLFS vsm.md,
// "Secure Register Intercepts"). The intermediate ones are other names of CR0 and CR4.
var guardedRegisters = [...]struct {
	name  hypercall.Register
	write hypercall.CrInterceptControl
}{
	{hypercall.RegisterCR0, hypercall.CrInterceptCr0Write},
	{hypercall.RegisterCR4, hypercall.CrInterceptCr4Write},
	{hypercall.RegisterIntermediateCR0, hypercall.CrInterceptCr0Write},
	{hypercall.RegisterIntermediateCR4, hypercall.CrInterceptCr4Write},
	{hypercall.RegisterXFEM, hypercall.CrInterceptXCr0Write},
	{hypercall.RegisterGDTR, hypercall.CrInterceptGdtrWrite},
	{hypercall.RegisterIDTR, hypercall.CrInterceptIdtrWrite},
	{hypercall.RegisterLDTR, hypercall.CrInterceptLdtrWrite},
	{hypercall.RegisterTR, hypercall.CrInterceptTrWrite},
}

// guardedMSRs are the MSRs whose accesses levels can intercept. Registers of a row have
// names that follow each other, as the MSRs do.
var guardedMSRs = [...]struct {
	msr, last uint32
	name      hypercall.Register // of the first
	read      hypercall.CrInterceptControl
	write     hypercall.CrInterceptControl
}{
	{0x1b, 0x1b, hypercall.RegisterAPICBase, hypercall.CrInterceptApicBaseMsrRead, hypercall.CrInterceptApicBaseMsrWrite}, // IA32_APIC_BASE
	{0x8c, 0x8f, hypercall.RegisterSgxLaunchControl0, 0, hypercall.CrInterceptMsrSgxLaunchControlWrite},                   // IA32_SGXLEPUBKEYHASH0-3
	{0x174, 0x174, hypercall.RegisterSysenterCS, 0, hypercall.CrInterceptMsrSysenterCsWrite},
	{0x175, 0x175, hypercall.RegisterSysenterESP, 0, hypercall.CrInterceptMsrSysenterEspWrite},
	{0x176, 0x176, hypercall.RegisterSysenterEIP, 0, hypercall.CrInterceptMsrSysenterEipWrite},
	{0x1a0, 0x1a0, hypercall.RegisterMSRIa32MiscEnable, hypercall.CrInterceptIA32MiscEnableRead, hypercall.CrInterceptIA32MiscEnableWrite},
	{0x6a2, 0x6a2, hypercall.RegisterSCet, 0, hypercall.CrInterceptMsrScetWrite},                                   // IA32_S_CET
	{0x6a4, 0x6a6, hypercall.RegisterPl0SSP, 0, hypercall.CrInterceptMsrPlsSspWrite},                               // IA32_PL0_SSP-PL2_SSP
	{0x6a8, 0x6a8, hypercall.RegisterInterruptSSPTableAddr, 0, hypercall.CrInterceptMsrInterruptSspTableAddrWrite}, // IA32_INTERRUPT_SSP_TABLE_ADDR
	{0xda0, 0xda0, hypercall.RegisterXss, 0, hypercall.CrInterceptMsrXSSWrite},                                     // IA32_XSS
	{0xc0000080, 0xc0000080, hypercall.RegisterEFER, hypercall.CrInterceptMsrEferRead, hypercall.CrInterceptMsrEferWrite},
	{0xc0000081, 0xc0000081, hypercall.RegisterSTAR, hypercall.CrInterceptMsrStarRead, hypercall.CrInterceptMsrStarWrite},
	{0xc0000082, 0xc0000082, hypercall.RegisterLSTAR, hypercall.CrInterceptMsrLstarRead, hypercall.CrInterceptMsrLstarWrite},
	{0xc0000083, 0xc0000083, hypercall.RegisterCSTAR, hypercall.CrInterceptMsrCstarRead, hypercall.CrInterceptMsrCstarWrite},
	{0xc0000084, 0xc0000084, hypercall.RegisterSFMASK, 0, hypercall.CrInterceptMsrSfmaskWrite},
	{0xc0000103, 0xc0000103, hypercall.RegisterTSCAux, 0, hypercall.CrInterceptMsrTscAuxWrite},
}

// writeGuard returns the intercept of writes to a register; 0 if there is none.
func writeGuard(name hypercall.Register) hypercall.CrInterceptControl {
	for i := range guardedRegisters {
		if guardedRegisters[i].name == name {
			return guardedRegisters[i].write
		}
	}
	for i := range guardedMSRs {
		if m := &guardedMSRs[i]; uint32(name-m.name) <= m.last-m.msr {
			return m.write
		}
	}
	return 0
}

// intercepts reports whether a level intercepts an access, of which there is one bit. The
// values, before and after, count for registers with a mask.
func (c *context) intercepts(how hypercall.CrInterceptControl, old, value uint64) bool {
	if c.guard&how == 0 {
		return false
	}
	switch how {
	case hypercall.CrInterceptCr0Write:
		return (old^value)&c.maskCR0 != 0
	case hypercall.CrInterceptCr4Write:
		return (old^value)&c.maskCR4 != 0
	case hypercall.CrInterceptIA32MiscEnableWrite:
		return (old^value)&c.maskMisc != 0
	}
	return true
}

// guarded returns why the active level of processor v may not write a register of its own
// or a lower level of processor index: a level above it that is enabled there intercepts
// that level's own writes (rules 65 and 107). Were it let, a level would get round its
// guards by a hypercall. A masked register is compared with what it is now.
func (p *Partition) guarded(v *processor, index uint32, level VTL, name hypercall.Register, value uint64) (Refusal, hypercall.Status) {
	owners := p.processors[index].enabled & above(v.active)
	if owners == 0 {
		return refusedNot, hypercall.StatusSuccess
	}
	how, old := writeGuard(name), Value{}
	switch how {
	case 0:
		return refusedNot, hypercall.StatusSuccess
	case hypercall.CrInterceptCr0Write:
		name = hypercall.RegisterCR0
	case hypercall.CrInterceptCr4Write:
		name = hypercall.RegisterCR4
	}
	if masked := hypercall.CrInterceptCr0Write | hypercall.CrInterceptCr4Write | hypercall.CrInterceptIA32MiscEnableWrite; how&masked != 0 {
		var s hypercall.Status
		if old, s = p.registers.Register(index, level, name); s != hypercall.StatusSuccess {
			return registersRefuse, s
		}
	}
	for ; owners != 0; owners &= owners - 1 {
		if p.context(index, VTL(bits.TrailingZeros16(owners))).intercepts(how, old.Low, value) {
			return registerGuarded, refusals[registerGuarded].status[p.config.Profile]
		}
	}
	return refusedNot, hypercall.StatusSuccess
}

// WriteRegister tells what becomes of a write by the active level of a processor to CR0,
// CR4, XCR0 (RegisterXFEM), GDTR, IDTR, LDTR or TR: Done or Intercepted. The old value
// counts for CR0 and CR4, of which a level guards only the bits in its mask.
func (p *Partition) WriteRegister(vp uint32, name hypercall.Register, old, value uint64, e *Effects) Outcome {
	v := p.processor(vp)
	if v == nil {
		return GeneralProtection
	}
	var write hypercall.CrInterceptControl
	for i := range guardedRegisters {
		if guardedRegisters[i].name == name {
			write = guardedRegisters[i].write
		}
	}
	for o := v.enabled & above(v.active); o != 0; o &= o - 1 {
		l := VTL(bits.TrailingZeros16(o))
		if !p.context(vp, l).intercepts(write, old, value) {
			continue
		}
		p.report(v, &Intercept{Kind: InterceptRegister, VP: vp, Level: v.active, Owner: l, Register: name, Value: value}, e)
		return Intercepted
	}
	return Done
}

// ReadMSR and WriteMSR tell what becomes of an access to an MSR by the active level of a
// processor: Done or Intercepted. The old value counts for IA32_MISC_ENABLE, of which a
// level guards the bits in its mask.
func (p *Partition) ReadMSR(vp uint32, msr uint32, e *Effects) Outcome {
	return p.accessMSR(vp, msr, false, 0, 0, e)
}

// WriteMSR is like ReadMSR.
func (p *Partition) WriteMSR(vp uint32, msr uint32, old, value uint64, e *Effects) Outcome {
	return p.accessMSR(vp, msr, true, old, value, e)
}

func (p *Partition) accessMSR(vp uint32, msr uint32, write bool, old, value uint64, e *Effects) Outcome {
	v := p.processor(vp)
	if v == nil {
		return GeneralProtection
	}
	owners := v.enabled & above(v.active)
	if owners == 0 {
		return Done
	}
	var how hypercall.CrInterceptControl
	for i := range guardedMSRs {
		if m := &guardedMSRs[i]; m.msr <= msr && msr <= m.last {
			how = m.read
			if write {
				how = m.write
			}
		}
	}
	for ; owners != 0; owners &= owners - 1 {
		l := VTL(bits.TrailingZeros16(owners))
		if !p.context(vp, l).intercepts(how, old, value) {
			continue
		}
		p.report(v, &Intercept{Kind: InterceptMSR, VP: vp, Level: v.active, Owner: l, MSR: msr, Write: write, Value: value}, e)
		return Intercepted
	}
	return Done
}

// ports are the I/O ports that a level intercepts, reads and writes: a bit each.
type ports [2][1 << 16 / 64]uint64

func (t *ports) has(write byte, first, last uint32) bool {
	if t == nil {
		return false
	}
	for p := first; p <= last; p++ {
		if t[write&1][uint16(p)>>6]>>(p&63)&1 != 0 {
			return true
		}
	}
	return false
}

func (t *ports) appendState(b []byte) []byte {
	if t == nil {
		return append(b, 0)
	}
	b = append(b, 1)
	for _, m := range t {
		for _, w := range m {
			b = binary.LittleEndian.AppendUint64(b, w)
		}
	}
	return b
}

// AccessIO tells what becomes of an access to I/O ports by the active level of a processor,
// of 1, 2 or 4 bytes: Done or Intercepted. Every port that it reaches counts. What levels
// intercept they intercept on all processors: it is GeneralProtection if such a level is
// not enabled on this one, so that there is no one to tell (rule 111).
func (p *Partition) AccessIO(vp uint32, port uint16, size uint8, write bool, value uint64, e *Effects) Outcome {
	v := p.processor(vp)
	if v == nil || size == 0 || size > 8 {
		return GeneralProtection
	}
	for o := p.enabled & above(v.active); o != 0; o &= o - 1 {
		l := VTL(bits.TrailingZeros16(o))
		if !p.domains[l].ports.has(flag(write), uint32(port), uint32(port)+uint32(size)-1) {
			continue
		}
		if !v.has(l) {
			return GeneralProtection
		}
		p.report(v, &Intercept{Kind: InterceptIO, VP: vp, Level: v.active, Owner: l, Port: port, Size: size, Write: write, Value: value}, e)
		return Intercepted
	}
	return Done
}

// InterceptsPort reports whether a level intercepts reads of, or writes to, an I/O port.
func (p *Partition) InterceptsPort(level VTL, port uint16, write bool) bool {
	return level.Valid() && p.domains[level].ports.has(flag(write), uint32(port), uint32(port))
}

// InstallIntercept is HvCallInstallIntercept, by the active level of processor vp: it has
// lower levels' accesses to one or more I/O ports intercepted, reads, writes or both as the
// mask says; what was said of these ports before is replaced. It counts on all processors,
// also where the level is not enabled: see [Partition.AccessIO].
func (p *Partition) InstallIntercept(vp uint32, in *hypercall.InstallInterceptInput, e *Effects) hypercall.Status {
	v := p.processor(vp)
	if v == nil {
		return p.refuse(noSuchCaller)
	}
	var first, last uint16
	switch in.Type {
	case hypercall.InterceptIoPort:
		first = in.Parameters.IoPort()
		last = first
	case hypercall.InterceptIoPortRange:
		first, last = in.Parameters.IoPortRange()
	}
	switch {
	case !p.isSelf(in.PartitionID):
		return p.refuse(foreignDenied)
	case v.active == 0:
		return p.refuse(installVTL0)
	case in.Type != hypercall.InterceptIoPort && in.Type != hypercall.InterceptIoPortRange, last < first:
		return p.refuse(installKind)
	case in.AccessMask&^(hypercall.InterceptAccessRead|hypercall.InterceptAccessWrite) != 0:
		return p.refuse(installAccess)
	}
	p.why = refusedNot
	t := new(ports)
	d := &p.domains[v.active]
	if d.ports != nil {
		*t = *d.ports
	}
	for port := uint32(first); port <= uint32(last); port++ {
		for way, m := range [2]hypercall.InterceptAccessMask{hypercall.InterceptAccessRead, hypercall.InterceptAccessWrite} {
			t[way][port>>6] &^= 1 << (port & 63)
			if in.AccessMask&m != 0 {
				t[way][port>>6] |= 1 << (port & 63)
			}
		}
	}
	if *t == (ports{}) {
		t = nil
	}
	d.ports = t
	e.add(Effect{Kind: EffectGuardIO, Level: v.active})
	return hypercall.StatusSuccess
}
