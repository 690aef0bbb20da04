package vmcs

import (
	"fmt"
	"iter"
	"math/bits"
	"strings"
	"sync"
)

// A Rule is one check that a VM entry makes (SDM Vol. 3C, chapter 27).
type Rule struct {
	ID      string  // such as guest.cs.type: the area, the register or control, what of it
	Section string  // of SDM Vol. 3C, which may be followed by a note on newer sources
	Text    string  // the condition that must hold
	Fields  []Field // what the rule may read, the field at fault first
	Result  Outcome // what a violation leads to
	Memory  bool    // whether the rule reads memory that a field points to

	ok func(*checker) bool
}

// Rules returns all rules in the manual's order, which is also the order in which
// First takes them to be reported.
func Rules() iter.Seq[*Rule] {
	return func(yield func(*Rule) bool) {
		for i := range rules {
			if !yield(&rules[i]) {
				return
			}
		}
	}
}

// LookupRule returns the rule with that ID, or nil.
func LookupRule(id string) *Rule {
	for i := range rules {
		if rules[i].ID == id {
			return &rules[i]
		}
	}
	return nil
}

// An OutcomeKind says how a VM entry ends.
type OutcomeKind uint8

// Ends of VM entries.
const (
	Entered     OutcomeKind = iota // the guest runs
	FailInvalid                    // VMfailInvalid: no current VMCS
	FailValid                      // VMfailValid with a VM-instruction error
	EntryExit                      // a VM exit in place of the entry, with bit 31 of its reason set
)

// An Outcome is the end of a VM entry, as software sees it.
type Outcome struct {
	Kind          OutcomeKind
	Error         InstructionError // of FailValid
	Reason        uint32           // of EntryExit: the exit-reason field without bit 31: 33, 34 or 41
	Qualification uint64           // of EntryExit: the exit qualification
}

// String describes the outcome in a line.
func (o Outcome) String() string {
	switch o.Kind {
	case Entered:
		return "VM entry succeeds"
	case FailInvalid:
		return "VMfailInvalid"
	case FailValid:
		return fmt.Sprintf("VMfailValid with VM-instruction error %d (%s)", uint32(o.Error), o.Error.String())
	case EntryExit:
		why := "VM-entry failure"
		switch o.Reason {
		case 33:
			why = "VM-entry failure due to invalid guest state"
		case 34:
			why = "VM-entry failure due to MSR loading"
		}
		return fmt.Sprintf("VM exit with reason %#x (%s), exit qualification %d", o.Reason|1<<31, why, o.Qualification)
	}
	return fmt.Sprintf("OutcomeKind(%d)", o.Kind)
}

// A Memory gives the contents of physical memory, which some rules look into.
type Memory interface {
	// ReadPhysical returns the 8 bytes at addr, a multiple of 8, as a
	// little-endian number. An error makes the rule count as not checked.
	ReadPhysical(addr uint64) (uint64, error)
}

// A Checker makes the checks of VM entry in software. Caps is needed; the other
// fields describe the processor at the time of the entry, and their zero values
// the usual case. A Checker can be used again, by one goroutine at a time.
type Checker struct {
	Caps   *Capabilities
	Memory Memory // nil: rules that look into memory are not checked

	NoVMCS       bool // there is no current VMCS
	ShadowVMCS   bool // the current VMCS is a shadow VMCS
	Legacy       bool // IA32_EFER.LMA is 0: the processor is not in IA-32e mode
	SMM          bool // the processor is in system-management mode
	BlockedMOVSS bool // events are blocked by MOV SS
	Tracing      bool // IA32_RTIT_CTL.TraceEn is 1
	Launch       LaunchState

	// Physical addresses of the current VMCS and of the VMXON region; 0: not
	// known, and no VMCS link pointer is found to equal them.
	CurrentVMCS, VMXONRegion uint64

	c checker
}

// A LaunchState says which instruction enters, and what the VMCS is.
type LaunchState uint8

// Launch states.
const (
	LaunchUnknown     LaunchState = iota // as it should be
	LaunchClear                          // VMLAUNCH with a clear VMCS
	LaunchNotClear                       // VMLAUNCH with a launched one
	ResumeLaunched                       // VMRESUME with a launched one
	ResumeNotLaunched                    // VMRESUME with a clear one
	ResumeAfterVMXOFF                    // VMRESUME, with VMXOFF and VMXON since the launch
)

// A Report is the result of all checks.
type Report struct {
	Violations []Violation // in the order of Rules
	NotChecked []*Rule     // rules whose fields or memory were not there
	Checked    int         // how many rules hold or are violated
}

// A Violation is a rule that does not hold.
type Violation struct {
	Rule   *Rule
	Fields []FieldValue // what the rule looked at
	Memory []MemoryValue

	// MSREntry is the number, from 1, of the entry in the VM-entry MSR-load area
	// that a rule on MSR loading refuses. The exit qualification then is that.
	MSREntry uint64
}

// A FieldValue is a field with its value.
type FieldValue struct {
	Field Field
	Value uint64
}

// A MemoryValue is 8 bytes of memory that a rule looked at.
type MemoryValue struct {
	Address, Value uint64
}

// Error describes the violation in one line: the rule, its condition, its section,
// and the fields with their values.
func (v *Violation) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s (SDM Vol. 3C %s)", v.Rule.ID, v.Rule.Text, v.Rule.Section)
	sep := ": "
	for _, f := range v.Fields {
		fmt.Fprintf(&b, "%s%v = %#x", sep, f.Field, f.Value)
		sep = ", "
	}
	for _, m := range v.Memory {
		fmt.Fprintf(&b, "%smemory[%#x] = %#x", sep, m.Address, m.Value)
		sep = ", "
	}
	return b.String()
}

// OK tells whether no rule is violated. Rules may still not have been checked.
func (r *Report) OK() bool { return len(r.Violations) == 0 }

// First returns the violation that the processor reports: the first one in the
// manual's order among those of the first stage that fails. The manual lets a
// processor check the controls and the host state in any order, and the guest
// state too; all that is certain is that a failing control or host state goes
// before guest state, and that before MSR loading.
func (r *Report) First() *Violation {
	if len(r.Violations) == 0 {
		return nil
	}
	return &r.Violations[0]
}

// Outcome returns how the VM entry ends: that of First's rule, or Entered.
func (r *Report) Outcome() Outcome {
	if len(r.Violations) == 0 {
		return Outcome{}
	}
	v := &r.Violations[0]
	o := v.Rule.Result
	if o.Kind == EntryExit && o.Reason == 34 {
		o.Qualification = v.MSREntry
	}
	return o
}

// Err returns nil if no rule is violated, and else an error that describes the
// first violation and how many there are.
func (r *Report) Err() error {
	switch n := len(r.Violations); n {
	case 0:
		return nil
	case 1:
		return &r.Violations[0]
	default:
		return fmt.Errorf("%w; and %d more", &r.Violations[0], n-1)
	}
}

var checkers = sync.Pool{New: func() any { return new(Checker) }}

// Check makes all checks of VM entry on the fields of r for a processor with
// these capabilities that is in IA-32e mode and not in SMM, without a look into
// memory. See Checker for more.
func Check(r Reader, c *Capabilities) Report {
	k := checkers.Get().(*Checker)
	defer checkers.Put(k)
	*k = Checker{Caps: c}
	report := k.Check(r)
	k.Caps = nil
	return report
}

// Check makes all checks of VM entry on the fields of r. It allocates nothing if
// all rules hold and could be checked.
func (k *Checker) Check(r Reader) Report {
	var report Report
	c := &k.c
	c.start(k, r)
	for i := range rules {
		rule := &rules[i]
		c.missing, c.entryNo = false, 0
		ok := rule.ok(c)
		if c.missing {
			report.NotChecked = append(report.NotChecked, rule)
			continue
		}
		report.Checked++
		if !ok {
			report.Violations = append(report.Violations, c.violation(rule))
		}
	}
	c.Checker, c.reader = nil, nil
	return report
}

// A checker is the state of a check: the fields read so far.
type checker struct {
	*Checker
	reader Reader // nil if all that it has is in values

	values        [fieldCount]uint64
	known, absent [(fieldCount + 63) / 64]uint64 // which values are there, and which cannot be had

	missing bool // whether something that the rule in hand looked at was not there

	// What a violated rule has looked at.
	tracking bool
	touched  [(fieldCount + 63) / 64]uint64
	reads    int
	memory   [4]MemoryValue // the first of reads
	entryNo  uint64         // the number of the MSR-load entry that the rule has refused

	physicalMask uint64 // the bits that are beyond the width of an address, or of a key
	guestMask    uint64 // the same for guest-physical addresses
	legacy       bool   // not in IA-32e mode
	fromSMM      bool   // the entry returns from SMM
}

func (c *checker) start(k *Checker, r Reader) {
	c.Checker, c.reader = k, nil
	switch r := r.(type) {
	case *Image:
		c.values, c.known = r.values, r.present
	case *Shadow:
		c.values, c.known = r.image.values, r.image.present
	default:
		c.reader = r
		c.known, c.absent = [len(c.known)]uint64{}, [len(c.absent)]uint64{}
	}
	width := k.Caps.CPU.physicalWidth()
	c.guestMask = ^uint64(0) << width
	c.physicalMask = ^uint64(0) << (width - min(k.Caps.CPU.KeyBits, width))
	c.legacy = k.Legacy || !k.Caps.CPU.LongMode
	c.fromSMM = false
	if k.SMM {
		c.fromSMM = EntryControls(c.get(VMEntryControls))&EntryEntryToSMM == 0
	}
}

// get returns the field's value. If it is not there, get returns 0 and the rule
// counts as not checked.
func (c *checker) get(f Field) uint64 {
	s := uint(f.slot())
	if word, bit := s/64, uint64(1)<<(s%64); c.known[word]&bit == 0 || c.tracking {
		return c.getSlow(f, word, bit)
	}
	return c.values[s]
}

// getSlow is get for a field that has not been read yet, or while tracking.
func (c *checker) getSlow(f Field, word uint, bit uint64) uint64 {
	if c.tracking {
		c.touched[word] |= bit
	}
	if c.known[word]&bit == 0 {
		if c.reader == nil || c.absent[word]&bit != 0 {
			c.missing = true
			return 0
		}
		v, err := c.reader.Read(f)
		if err != nil {
			c.absent[word] |= bit
			c.missing = true
			return 0
		}
		c.values[f.slot()] = v & f.Width().Mask()
		c.known[word] |= bit
	}
	return c.values[f.slot()]
}

// load reads 8 bytes of memory. If that cannot be, it returns 0 and the rule
// counts as not checked.
func (c *checker) load(addr uint64) uint64 {
	if c.Memory == nil {
		c.missing = true
		return 0
	}
	v, err := c.Memory.ReadPhysical(addr)
	if err != nil {
		c.missing = true
		return 0
	}
	if c.tracking {
		c.memory[c.reads%len(c.memory)] = MemoryValue{addr, v}
		c.reads++
	}
	return v
}

// violation runs a violated rule again, and keeps what it looks at.
func (c *checker) violation(rule *Rule) Violation {
	v := Violation{Rule: rule, MSREntry: c.entryNo}
	c.tracking, c.touched, c.reads = true, [len(c.touched)]uint64{}, 0
	rule.ok(c)
	c.tracking = false
	for _, f := range rule.Fields {
		if s := f.slot(); c.touched[s/64]>>(s%64)&1 != 0 {
			v.Fields = append(v.Fields, FieldValue{f, c.get(f)})
		}
	}
	n := min(c.reads, len(c.memory))
	for i := c.reads - n; i < c.reads; i++ {
		v.Memory = append(v.Memory, c.memory[i%len(c.memory)])
	}
	return v
}

// Controls. A group that is not activated counts as all 0, whatever its field
// holds (SDM Vol. 3C 27.2.1.1).

// A VM entry that returns from SMM does not check the VM-execution controls of the
// current VMCS but those of the executive VMCS, which is not here
// (SDM Vol. 3C 32.15.4): rules that ask for them are not checked.

func (c *checker) pin() PinControls {
	c.missing = c.missing || c.fromSMM
	return PinControls(c.get(PinBasedControls))
}

func (c *checker) primary() PrimaryControls {
	c.missing = c.missing || c.fromSMM
	return PrimaryControls(c.get(PrimaryProcessorBasedControls))
}

func (c *checker) secondary() SecondaryControls {
	if c.primary()&PrimaryActivateSecondaryControls == 0 {
		return 0
	}
	return SecondaryControls(c.get(SecondaryProcessorBasedControls))
}

func (c *checker) tertiary() TertiaryControls {
	if c.primary()&PrimaryActivateTertiaryControls == 0 {
		return 0
	}
	return TertiaryControls(c.get(TertiaryProcessorBasedControls))
}

func (c *checker) exit() ExitControls { return ExitControls(c.get(PrimaryVMExitControls)) }

func (c *checker) exit2() SecondaryExitControls {
	if c.exit()&ExitActivateSecondaryControls == 0 {
		return 0
	}
	return SecondaryExitControls(c.get(SecondaryVMExitControls))
}

func (c *checker) entry() EntryControls { return EntryControls(c.get(VMEntryControls)) }

func (c *checker) vmfunc() VMFunctions {
	if c.secondary()&SecondaryEnableVMFunctions == 0 {
		return 0
	}
	return VMFunctions(c.get(VMFunctionControls))
}

// allowed checks a group of controls against its capability MSR.
func (c *checker) allowed(g ControlGroup, v uint64) bool {
	return c.Caps.Controls[g].Allows(v)
}

// Conditions on addresses.

// physical checks that an address has only bits within the processor's
// physical-address width, or within 32 bits if IA32_VMX_BASIC[48] says so
// (SDM Vol. 3D A.1).
func (c *checker) physical(a uint64) bool {
	return a&c.physicalMask == 0 && (a>>32 == 0 || !c.Caps.Basic.Addresses32())
}

// page checks the address of a 4-KiB structure.
func (c *checker) page(f Field) bool {
	a := c.get(f)
	return a&0xfff == 0 && c.physical(a)
}

// area checks the address and length of an MSR-load or MSR-store area.
func (c *checker) area(count, address Field) bool {
	n := c.get(count)
	if n == 0 {
		return true
	}
	a := c.get(address)
	if a&0xf != 0 || !c.physical(a) {
		return false
	}
	last, carry := bits.Add64(a, n*16-1, 0)
	return carry == 0 && c.physical(last)
}

// canonical checks that an address is canonical for the processor's linear-address
// width, whatever the paging mode is.
func (c *checker) canonical(a uint64) bool {
	if !c.Caps.CPU.LongMode {
		return true
	}
	return signExtended(a, c.Caps.CPU.linearWidth())
}

// linear checks bits 63:N of an instruction pointer, which must be identical
// where N is the linear-address width (SDM Vol. 3C 27.3.1.4). Bit N-1 may differ:
// then the first fetch raises #GP.
func (c *checker) linear(a uint64) bool {
	top := int64(a) >> c.Caps.CPU.linearWidth()
	return top == 0 || top == -1
}
