package vmexit_test

import (
	"flag"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/govtx/vtx/asm"
	"github.com/govtx/vtx/internal/require"
	"github.com/govtx/vtx/internal/ring0test"
	"github.com/govtx/vtx/internal/vmtest"
	"github.com/govtx/vtx/vmcs"
	"github.com/govtx/vtx/vmexit"
	"pgregory.net/rapid"
)

var drawnExits = flag.Int("vmexit.exits", 3000, "how many instructions TestExitsAreWhatWasDrawn draws")

// A deviation is where the processor is known not to do what the manual says.
// Tests want from it what is written here, and meet each that can be met.
type deviation struct {
	name     string
	possible func(m *vmtest.Machine) bool // nil: always
	met      int
}

// hits counts a deviation if it applies, and returns whether it does.
func (d *deviation) hits(applies bool) bool {
	if applies {
		d.met++
	}
	return applies
}

// A ledger has what came up on a machine.
type ledger struct {
	*vmtest.Machine
	exits map[vmexit.Basic]int
}

func newLedger(t *testing.T) *ledger {
	return &ledger{vmtest.Start(t), map[vmexit.Basic]int{}}
}

// A bench runs code in a guest of one kind, each time from the same state.
type bench struct {
	*vmtest.Guest
	ledger *ledger
	mode   vmtest.Mode
	bits   int        // size of its code
	fields vmcs.Image // at the start
	memory []byte
}

// newBench makes a guest of a kind, which prepare may change.
func (l *ledger) newBench(k vmtest.Kind, prepare func(b *bench)) *bench {
	l.Helper()
	b := &bench{Guest: l.NewGuest(k), ledger: l, mode: k.Mode, bits: codeBits(k.Mode)}
	if prepare != nil {
		prepare(b)
	}
	for f := range vmcs.Fields() {
		switch f {
		case vmcs.HostRSP, vmcs.HostRIP, vmcs.GuestRIP: // Enter's
			continue
		}
		if f.Supported(l.Caps) && !f.ReadOnly() {
			b.fields.Set(f, b.Get(f))
		}
	}
	b.memory = slices.Clone(b.Memory)
	return b
}

// A shot is one try: code with known operands, and the exit that it led to.
type shot struct {
	*bench
	t         *rapid.T
	registers [16]uint64 // with RSP
	bases     [6]uint64
	start     uint64 // of the code
	lead      int    // bytes of code before the instruction that is to exit
	code      []byte
	exit
}

// An exit is what a VM exit has left in the VMCS.
type exit struct {
	reason                          vmexit.Reason
	qualification, linear, physical uint64
	information                     uint32
	event, vectoring                vmcs.InterruptionInfo
}

// shoot starts a shot on a bench: the guest is as at first, with random registers.
func (b *bench) shoot(t *rapid.T) *shot {
	require.NoError(b.TB, vmcs.Copy(vmcs.Current{}, &b.fields))
	s := &shot{bench: b, t: t}
	seed := rapid.Uint64().Draw(t, "registers")
	for i := range s.registers {
		s.registers[i] = mix(seed + uint64(i)<<32)
		if b.bits != 64 {
			s.registers[i] &= 0xffffffff
		}
	}
	for r := range s.bases {
		s.bases[r] = b.Get(vmcs.GuestESBase + vmcs.Field(2*r))
	}
	s.start = vmtest.Code + uint64(drawBelow(t, "start", 0x3000))
	return s
}

// setBase sets the base of a segment.
func (s *shot) setBase(r vmcs.SegmentRegister, base uint64) {
	s.bases[r] = base
	s.Set(vmcs.GuestESBase+vmcs.Field(2*r), base)
}

// drawBases draws the bases of the data segments. In 64-bit mode only those of FS and GS
// count; in virtual-8086 mode they must be 16 times the selector.
func (s *shot) drawBases() {
	if s.mode == vmtest.ModeVirtual8086 {
		return
	}
	seed := rapid.Uint64().Draw(s.t, "bases")
	for _, r := range []vmcs.SegmentRegister{vmcs.ES, vmcs.SS, vmcs.DS, vmcs.FS, vmcs.GS} {
		base := mix(seed + uint64(r))
		switch {
		case s.bits == 64 && r >= vmcs.FS:
			base = uint64(int64(base) >> 17) // canonical
		default:
			base &= 0xffffffff
		}
		s.setBase(r, base)
	}
}

// set sets a register.
func (s *shot) set(r vmexit.Register, v uint64) { s.registers[r] = v }

// at is the address of the instruction that is to exit, next that behind it.
func (s *shot) at() uint64   { return s.start + uint64(s.lead) }
func (s *shot) next() uint64 { return s.start + uint64(len(s.code)) }

// length is the instruction's length in bytes.
func (s *shot) length() uint32 { return uint32(len(s.code) - s.lead) }

// leads ends the code that comes before the instruction.
func (s *shot) leads() { s.lead = len(s.code) }

// write puts the code, and a VMCALL behind it, where it runs.
func (s *shot) write() {
	at := s.Memory[s.start:]
	copy(at[copy(at, s.code):], []byte{0x0f, 0x01, 0xc1})
}

// fire runs the code up to an exit, and reads what the exit has left.
func (s *shot) fire() {
	s.write()
	s.Regs, s.RIP = s.registers, s.start
	s.Set(vmcs.GuestRSP, s.registers[asm.RSP])
	s.enter()
}

// enter enters the guest, and reads what the exit has left.
func (s *shot) enter() {
	require.NoError(s.TB, vmcs.StatusError(s.Enter()))
	s.exit = exit{
		reason:        vmexit.Reason(s.Reason),
		qualification: s.Get(vmcs.ExitQualification),
		linear:        s.Get(vmcs.GuestLinearAddress),
		information:   uint32(s.Get(vmcs.ExitInstructionInformation)),
		event:         vmcs.InterruptionInfo(s.Get(vmcs.ExitInterruptionInformation)),
		vectoring:     vmcs.InterruptionInfo(s.Get(vmcs.IDTVectoringInformation)),
	}
	if vmcs.GuestPhysicalAddress.Supported(s.Caps) {
		s.physical = s.Get(vmcs.GuestPhysicalAddress)
	}
	s.ledger.exits[s.reason.Basic()]++
}

// String tells what was run, and how it ended.
func (s *shot) String() string {
	return fmt.Sprintf("%v, code % x at %#x: exit for %v at %#x, length %d; qualification %#x (%s), information %#x (%s), "+
		"linear address %#x, physical address %#x, event %v, delivering %v",
		s.Kind, s.code, s.start, s.reason, s.RIP, s.InstructionLength,
		s.qualification, vmexit.Describe(s.reason, s.event, s.qualification),
		s.information, vmexit.DescribeInformation(s.reason, s.information), s.linear, s.physical, s.event, s.vectoring)
}

// exited checks that the exit is for a reason, at the instruction if its kind is fault,
// behind it if trap; and what else the table of reasons tells.
func (s *shot) exited(b vmexit.Basic) {
	s.t.Helper()
	require.Equal(s.t, vmexit.Reason(b), s.reason, "%v", s)
	switch b.Kind() {
	case vmexit.KindFault:
		require.Equal(s.t, s.at(), s.RIP, "%v", s)
	case vmexit.KindTrap:
		require.Equal(s.t, s.next(), s.RIP, "%v", s)
	}
	if b.InstructionLength() == vmexit.Always {
		require.Equal(s.t, s.length(), s.InstructionLength, "%v", s)
	}
	if s.reason.QualificationFormat(s.event) == vmexit.QualificationNone {
		require.Zero(s.t, s.qualification, "%v", s)
	}
	if !b.DuringDelivery() {
		require.False(s.t, s.vectoring.Valid(), "%v", s)
	}
	if b != vmexit.ExceptionOrNMI && b != vmexit.ExternalInterrupt {
		require.False(s.t, s.event.Valid(), "%v", s)
	}
}

// excepted checks that the exit is for an exception.
func (s *shot) excepted(want vmcs.Event) {
	s.t.Helper()
	require.Equal(s.t, vmexit.Reason(vmexit.ExceptionOrNMI), s.reason, "%v; want %v", s, want)
	got, ok, err := vmexit.ReadEvent(vmcs.Current{})
	require.NoError(s.t, err)
	require.True(s.t, ok, "%v", s)
	require.Equal(s.t, want, got, "%v", s)
}

// errorCodeInRealMode: SDM Vol. 3C 28.2.2 has bit 11 of the interruption information
// always 0 if CR0.PE is 0. Bochs' VMexit_Event takes it from the vector alone.
var errorCodeInRealMode = &deviation{name: "an exception in real-address mode has an error code"}

// faulted checks that the instruction has raised an exception with error code 0, if it
// has one.
func (s *shot) faulted(v vmcs.Vector) {
	s.t.Helper()
	want := vmcs.InjectException(v, 0)
	if s.mode == vmtest.ModeReal && !errorCodeInRealMode.hits(v.HasErrorCode()) {
		want = want.WithoutErrorCode()
	}
	s.excepted(want)
	require.Equal(s.t, s.at(), s.RIP, "%v", s)
}

// operandIs checks the memory operand in the instruction information, and the address
// that is worked out from it, against what was drawn.
func (s *shot) operandIs(want *place, o vmexit.MemoryOperand, displacement uint64) {
	s.t.Helper()
	require.Equal(s.t, want.address, o.AddressBits(), "%v", s)
	require.Equal(s.t, want.segment, o.Segment(), "%v", s)
	base, ok := o.Base()
	require.Equal(s.t, want.base != none, ok, "%v", s)
	if ok {
		require.Equal(s.t, want.base, base, "%v", s)
	}
	index, scale, ok := o.Index()
	require.Equal(s.t, want.index != none, ok, "%v", s)
	if ok {
		require.Equal(s.t, want.index, index, "%v", s)
		require.Equal(s.t, want.scale, scale, "%v", s)
	}
	wantDisplacement := uint64(want.displacement)
	if want.relative {
		wantDisplacement += s.next()
	}
	mask := ^uint64(0) >> (64 - want.address)
	require.Equal(s.t, wantDisplacement&mask, displacement&mask, "%v", s)
	a, err := vmexit.ReadAddress(vmcs.Current{}, o, displacement, &s.Regs)
	require.NoError(s.t, err)
	require.Equal(s.t, s.offset(want), a.Offset, "%v", s)
	require.Equal(s.t, s.linearOf(want.segment, s.offset(want)), a.Linear, "%v", s)
	require.Equal(s.t, s.bases[want.segment], a.Segment.Base, "%v", s)
}

// report logs which reasons came up, and fails the test if one of those that can is
// missing.
func (l *ledger) report(deviations []*deviation) {
	var covered, missing, impossible []string
	for b := range vmexit.Basics() {
		why := l.cannot(b)
		switch {
		case l.exits[b] > 0:
			covered = append(covered, fmt.Sprintf("%v %d", b, l.exits[b]))
			if why != "" {
				l.Errorf("%v came up, but the table says: %s", b, why)
			}
		case b == vmexit.INIT:
			initAtEnd = true
			covered = append(covered, "INIT after all tests")
		case why == "":
			missing = append(missing, b.String())
		default:
			impossible = append(impossible, fmt.Sprintf("%v (%s)", b, why))
		}
	}
	l.Logf("%d of %d exit reasons that this model can produce are covered: %s", len(covered), len(covered)+len(missing), strings.Join(covered, ", "))
	l.Logf("%d that it cannot: %s", len(impossible), strings.Join(impossible, ", "))
	if len(missing) > 0 {
		l.Errorf("not covered: %s", strings.Join(missing, ", "))
	}
	for _, d := range deviations {
		if d.possible != nil && !d.possible(l.Machine) {
			continue
		}
		l.Logf("%5d times: %s", d.met, d.name)
		if d.met == 0 && ring0test.Whole() {
			l.Errorf("the processor does not deviate any more, or not in what is drawn: %s", d.name)
		}
	}
}

// cannot says why a reason does not come up on this machine; "" if it can.
func (l *ledger) cannot(b vmexit.Basic) string {
	if r, ok := unreachable[b]; ok && (r.possible == nil || !r.possible(l.Machine)) {
		return r.why
	}
	return ""
}

// A cause is why a reason does not come up. With possible, it does on models that have
// something.
type cause struct {
	why      string
	possible func(m *vmtest.Machine) bool
}

func hasSecondary(c vmcs.SecondaryControls) func(m *vmtest.Machine) bool {
	return func(m *vmtest.Machine) bool { return vmtest.Has(m, c) }
}

// unreachable are the reasons that Bochs 2.7 cannot produce, by its sources: there is no
// call of VMexit with them in cpu/*.cc, unless the text says otherwise.
var unreachable = map[vmexit.Basic]cause{
	vmexit.SIPI:               {why: "one processor alone sends no SIPI to itself: in the wait-for-SIPI state it runs nothing"},
	vmexit.IOSMI:              {why: "there is no SMM-transfer monitor"},
	vmexit.OtherSMI:           {why: "there is no SMM-transfer monitor"},
	vmexit.RSM:                {why: "there is no SMM-transfer monitor"},
	vmexit.EntryMachineCheck:  {why: "there are no machine checks"},
	vmexit.ENCLS:              {why: "there is no SGX"},
	vmexit.ENCLV:              {why: "there is no SGX"},
	vmexit.PCONFIG:            {why: "there is no PCONFIG"},
	vmexit.UMWAIT:             {why: "there is no UMWAIT"},
	vmexit.TPAUSE:             {why: "there is no TPAUSE"},
	vmexit.LOADIWKEY:          {why: "there is no Key Locker"},
	vmexit.ENQCMDPASID:        {why: "there is no ENQCMD"},
	vmexit.ENQCMDSPASID:       {why: "there is no ENQCMDS"},
	vmexit.BusLock:            {why: "there is no bus-lock detection"},
	vmexit.InstructionTimeout: {why: "there is no instruction timeout"},
	vmexit.SEAMCALL:           {why: "there is no SEAM"},
	vmexit.TDCALL:             {why: "there is no SEAM"},
	vmexit.RDMSRLIST:          {why: "there is no RDMSRLIST"},
	vmexit.WRMSRLIST:          {why: "there is no WRMSRLIST"},
	vmexit.URDMSR:             {why: "there is no URDMSR"},
	vmexit.UWRMSR:             {why: "there is no UWRMSR"},
	vmexit.RDMSRImmediate:     {why: "there is no such form"},
	vmexit.WRMSRNSImmediate:   {why: "there is no such form"},

	vmexit.GETSEC:          {"CR4.SMXE cannot be set", func(m *vmtest.Machine) bool { return m.Caps.CR4Fixed1>>14&1 != 0 }},
	vmexit.XSAVES:          {"IA32_XSS has no bit that can be set", hasXSS},
	vmexit.XRSTORS:         {"IA32_XSS has no bit that can be set", hasXSS},
	vmexit.MonitorTrapFlag: {noControl, func(m *vmtest.Machine) bool { return vmtest.Has(m, vmcs.PrimaryMonitorTrapFlag) }},
	vmexit.PreemptionTimer: {noControl, func(m *vmtest.Machine) bool { return vmtest.Has(m, vmcs.PinActivateVMXPreemptionTimer) }},
	vmexit.APICWrite:       {noControl, hasSecondary(vmcs.SecondaryAPICRegisterVirtualization)},
	vmexit.VirtualizedEOI:  {noControl, hasSecondary(vmcs.SecondaryVirtualInterruptDelivery)},
	vmexit.INVPCID:         {noControl, hasSecondary(vmcs.SecondaryEnableINVPCID)},
	vmexit.RDRAND:          {noControl, hasSecondary(vmcs.SecondaryRDRANDExiting)},
	vmexit.RDSEED:          {noControl, hasSecondary(vmcs.SecondaryRDSEEDExiting)},
	vmexit.VMFUNC:          {noControl, hasSecondary(vmcs.SecondaryEnableVMFunctions)},
	vmexit.PMLFull:         {noControl, hasSecondary(vmcs.SecondaryEnablePML)},
	vmexit.SPPEvent:        {noControl, hasSecondary(vmcs.SecondarySubPageWritePermissionsForEPT)},
}

const noControl = "the control is missing"

const msrXSS = 0xda0

// xss are the bits of IA32_XSS that can be set. CPUID's leaf for them does not tell: on
// Bochs it has none, and WRMSR takes the two of CET on every model that has XSAVES.
func xss(m *vmtest.Machine) (mask uint64) {
	if !vmtest.Has(m, vmcs.SecondaryEnableXSAVESXRSTORS) {
		return 0
	}
	old := asm.RDMSR(msrXSS)
	for n := range 32 {
		if asm.WRMSRSafe(msrXSS, 1<<n) == nil {
			mask |= 1 << n
		}
	}
	asm.WRMSR(msrXSS, old)
	return mask
}

func hasXSS(m *vmtest.Machine) bool { return xss(m) != 0 }

// setFlag sets a flag for the length of a test.
func setFlag(t testing.TB, name, value string) {
	old := flag.Lookup(name).Value.String()
	require.NoError(t, flag.Set(name, value))
	t.Cleanup(func() { require.NoError(t, flag.Set(name, old)) })
}
