package vmexit

//go:generate go run ./internal/gen

import (
	"fmt"
	"iter"
	"strconv"
	"strings"
	"sync"

	"github.com/govtx/vtx/internal/names"
)

// A Basic is a basic exit reason: why a VM exit took place, or a VM entry failed
// (SDM Vol. 3D appendix C). Those from 0 to NumBasic-1 are known or reserved.
type Basic uint16

// A Kind tells where in the execution of the guest an exit takes place, and so what
// the saved RIP points to.
type Kind uint8

// Kinds of VM exits (SDM Vol. 3C 26.1, 28.1). The zero Kind is that of reasons
// that are reserved.
const (
	KindUnknown      Kind = iota
	KindFault             // before the instruction at RIP, or within it (or, if an event was being delivered, before that is done)
	KindTrap              // after an instruction; RIP is behind it
	KindEvent             // instead of an event, or between instructions
	KindEntryFailure      // the guest did not run
)

var kindNames = []string{"unknown", "fault", "trap", "event", "entry failure"}

// String returns fault, trap, event, entry failure or unknown.
func (k Kind) String() string { return enumName(kindNames, "Kind", uint8(k)) }

// MarshalText returns what String does.
func (k Kind) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// UnmarshalText reads what String prints.
func (k *Kind) UnmarshalText(text []byte) error { return parseEnum(k, kindNames, "Kind", text) }

// A Presence tells whether exits of a reason define a field.
type Presence uint8

// Presences.
const (
	Never     Presence = iota // the field is undefined
	Sometimes                 // see Note
	Always
)

var presenceNames = []string{"never", "sometimes", "always"}

// String returns never, sometimes or always.
func (p Presence) String() string { return enumName(presenceNames, "Presence", uint8(p)) }

// MarshalText returns what String does.
func (p Presence) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText reads what String prints.
func (p *Presence) UnmarshalText(text []byte) error {
	return parseEnum(p, presenceNames, "Presence", text)
}

// A basicRow is what the table has about one basic exit reason. A reason without
// a name is reserved.
type basicRow struct {
	name, sdm, section       string
	also, note               string // also: other names, Linux' first, separated by blanks
	kind                     Kind
	length, linear, physical Presence
	delivery                 bool
	qualification            QualificationFormat
	information              InformationFormat
}

func (b Basic) row() *basicRow {
	if b < NumBasic {
		return &basicTable[b]
	}
	return &noBasic
}

// noBasic is the row of reasons beyond the table.
var noBasic basicRow

// Known tells whether the reason has a meaning.
func (b Basic) Known() bool { return b < NumBasic && basicTable[b].name != "" }

// String returns the reason's name in Go, such as EPTViolation, and Basic(n) if it
// is reserved or not known.
func (b Basic) String() string {
	if b.Known() {
		return basicTable[b].name
	}
	return "Basic(" + strconv.Itoa(int(b)) + ")"
}

// SDMName returns what table C-1 of SDM Vol. 3D calls the reason, "reserved" if it
// has no meaning.
func (b Basic) SDMName() string {
	if b.Known() {
		return basicTable[b].sdm
	}
	return "reserved"
}

// LinuxName returns what Linux' kvm:kvm_exit trace event calls the reason, or
// another project where Linux has no name, and "" if the reason is not known.
func (b Basic) LinuxName() string {
	name, _, _ := strings.Cut(b.row().also, " ")
	return name
}

// Section returns the section of SDM Vol. 3C, revision 084, that describes such exits,
// or "" if that revision does not.
func (b Basic) Section() string { return b.row().section }

// Note returns what else is to be said of the reason. It is mostly empty.
func (b Basic) Note() string { return b.row().note }

// Kind tells where in the guest's execution such exits take place.
func (b Basic) Kind() Kind { return b.row().kind }

// QualificationFormat returns the format of the exit qualification. That of
// ExceptionOrNMI is QualificationEvent: it depends on the vector; see
// [Reason.QualificationFormat].
func (b Basic) QualificationFormat() QualificationFormat { return b.row().qualification }

// InformationFormat returns the format of the VM-exit instruction information.
func (b Basic) InformationFormat() InformationFormat { return b.row().information }

// InstructionLength tells whether the VM-exit instruction length is defined
// (SDM Vol. 3C 28.2.5), outside of enclaves.
func (b Basic) InstructionLength() Presence { return b.row().length }

// LinearAddress tells whether the guest-linear address is defined (SDM Vol. 3C
// 28.2.1).
func (b Basic) LinearAddress() Presence { return b.row().linear }

// PhysicalAddress tells whether the guest-physical address is defined (SDM
// Vol. 3C 28.2.1).
func (b Basic) PhysicalAddress() Presence { return b.row().physical }

// DuringDelivery tells whether such an exit can take place while an event is being
// delivered, so that the IDT-vectoring information is valid (SDM Vol. 3C 28.2.4).
func (b Basic) DuringDelivery() bool { return b.row().delivery }

// Basics returns the basic exit reasons that have a meaning, in ascending order.
func Basics() iter.Seq[Basic] {
	return func(yield func(Basic) bool) {
		for b := range Basic(NumBasic) {
			if b.Known() && !yield(b) {
				return
			}
		}
	}
}

// basicNames has the names of the reasons in lower case without what sets words
// apart, so that "EPT violation", "EPT_VIOLATION" and "EPTViolation" are one.
var basicNames = sync.OnceValue(func() map[string]Basic {
	all := make(map[string]Basic, 3*NumBasic)
	for b := range Basics() {
		row := &basicTable[b]
		for _, name := range append([]string{row.name, row.sdm}, strings.Fields(row.also)...) {
			all[names.Squeeze(name)] = b
		}
	}
	return all
})

// ParseBasic reads a basic exit reason: its name in Go, in the SDM or in Linux,
// without regard to case, blanks, hyphens and underscores; what String prints for a
// reserved one; or its number.
func ParseBasic(s string) (Basic, error) {
	s = strings.TrimSpace(s)
	if b, ok := basicNames()[names.Squeeze(s)]; ok {
		return b, nil
	}
	number := s
	if inner, ok := strings.CutPrefix(s, "Basic("); ok {
		number = strings.TrimSuffix(inner, ")")
	}
	n, err := strconv.ParseUint(number, 0, 16)
	if err != nil {
		return 0, fmt.Errorf("vmexit: no basic exit reason is called %.80q: use a name as in the manual (EPT violation), in Go (EPTViolation) or in Linux (EPT_VIOLATION), or a number from 0 to 65535", s)
	}
	return Basic(n), nil
}

// MarshalText returns what String does.
func (b Basic) MarshalText() ([]byte, error) { return []byte(b.String()), nil }

// UnmarshalText reads what ParseBasic does.
func (b *Basic) UnmarshalText(text []byte) error {
	v, err := ParseBasic(string(text))
	if err == nil {
		*b = v
	}
	return err
}

// A Reason is the exit-reason field, [vmcs.ExitReason] (SDM Vol. 3C 25.9.1, table
// 25-18).
//
//	 31  30  29   28    27     26    25    24 16 15          0
//	┌───┬───┬────┬───┬───────┬─────┬──────┬─────┬─────────────┐
//	│ F │ 0 │root│MTF│enclave│ bus │ busy │  0  │basic reason │
//	└───┴───┴────┴───┴───────┴─────┴──────┴─────┴─────────────┘
//
// F: the VM entry failed. Busy: a shadow stack; bus: a bus lock.
type Reason uint32

// Bits of a Reason.
const (
	ReasonBusyShadowStack Reason = 1 << 25 // a supervisor shadow stack has become prematurely busy (26.4.3)
	ReasonBusLock         Reason = 1 << 26 // after a bus lock, if the control "VMM bus-lock detection" is 1
	ReasonEnclave         Reason = 1 << 27 // in enclave mode
	ReasonPendingMTF      Reason = 1 << 28 // an MTF VM exit was pending; SMM VM exits only (32.15.2.3)
	ReasonFromRoot        Reason = 1 << 29 // from VMX root operation; SMM VM exits only
	ReasonEntryFailure    Reason = 1 << 31 // the VM entry failed (27.8)
)

var reasonFlags = [...]struct {
	bit  Reason
	name string
}{
	{ReasonBusyShadowStack, "busy shadow stack"}, {ReasonBusLock, "bus lock asserted"}, {ReasonEnclave, "enclave mode"},
	{ReasonPendingMTF, "pending MTF"}, {ReasonFromRoot, "from VMX root"}, {ReasonEntryFailure, "entry failure"},
}

// reasonNamed are the bits of a Reason that have a name.
const reasonNamed = 0xffff | ReasonBusyShadowStack | ReasonBusLock | ReasonEnclave | ReasonPendingMTF | ReasonFromRoot | ReasonEntryFailure

// Basic returns the basic exit reason, bits 15:0.
func (r Reason) Basic() Basic { return Basic(r) }

// BusyShadowStack reports whether the exit made a supervisor shadow stack
// prematurely busy: its event or instruction has marked the stack as in use, and
// will do so again.
func (r Reason) BusyShadowStack() bool { return r&ReasonBusyShadowStack != 0 }

// BusLock reports whether the guest has asserted a bus lock. The basic reason
// tells whether that caused the exit.
func (r Reason) BusLock() bool { return r&ReasonBusLock != 0 }

// Enclave reports whether the exit took place in enclave mode. The instruction
// length and information are then 0.
func (r Reason) Enclave() bool { return r&ReasonEnclave != 0 }

// PendingMTF reports whether an MTF VM exit was pending at an SMM VM exit.
func (r Reason) PendingMTF() bool { return r&ReasonPendingMTF != 0 }

// FromRoot reports whether an SMM VM exit was from VMX root operation.
func (r Reason) FromRoot() bool { return r&ReasonFromRoot != 0 }

// EntryFailure reports whether the VM entry failed and the guest did not run.
func (r Reason) EntryFailure() bool { return r&ReasonEntryFailure != 0 }

// String returns the name of the basic reason, and those of the bits that are 1:
// "EPTViolation, enclave mode".
func (r Reason) String() string {
	b := []byte(r.Basic().String())
	for _, f := range reasonFlags {
		if r&f.bit != 0 {
			b = append(append(b, ", "...), f.name...)
		}
	}
	for n := range 32 {
		if r&^reasonNamed>>n&1 != 0 {
			b = strconv.AppendInt(append(b, ", bit "...), int64(n), 10)
		}
	}
	return string(b)
}

// ParseReason reads what String prints, a name that ParseBasic reads, or a number
// of 32 bits.
func ParseReason(s string) (Reason, error) {
	if n, err := strconv.ParseUint(strings.TrimSpace(s), 0, 32); err == nil {
		return Reason(n), nil
	}
	name, flags, more := strings.Cut(s, ",")
	b, err := ParseBasic(name)
	if err != nil {
		return 0, err
	}
	r := Reason(b)
	for more {
		var flag string
		flag, flags, more = strings.Cut(flags, ",")
		bit, ok := parseReasonFlag(strings.TrimSpace(flag))
		if !ok {
			return 0, fmt.Errorf("vmexit: %.80q in %.80q is no flag of an exit reason: write it as \"EPTViolation, enclave mode\", or as a number", flag, s)
		}
		r |= bit
	}
	return r, nil
}

func parseReasonFlag(s string) (Reason, bool) {
	for _, f := range reasonFlags {
		if f.name == s {
			return f.bit, true
		}
	}
	digits, ok := strings.CutPrefix(s, "bit ")
	n, err := strconv.ParseUint(digits, 10, 8)
	return 1 << n, ok && err == nil && n >= 16 && n < 32
}

// MarshalText returns what String does.
func (r Reason) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText reads what ParseReason does.
func (r *Reason) UnmarshalText(text []byte) error {
	v, err := ParseReason(string(text))
	if err == nil {
		*r = v
	}
	return err
}

// enumName returns the name of a value, and Type(n) if it has none.
func enumName(names []string, typ string, v uint8) string {
	if int(v) < len(names) && names[v] != "" {
		return names[v]
	}
	return typ + "(" + strconv.Itoa(int(v)) + ")"
}

// parseEnum reads what enumName returns.
func parseEnum[T ~uint8](v *T, names []string, typ string, text []byte) error {
	s := string(text)
	for n, name := range names {
		if name != "" && strings.EqualFold(name, s) {
			*v = T(n)
			return nil
		}
	}
	if inner, ok := strings.CutPrefix(s, typ+"("); ok {
		if n, err := strconv.ParseUint(strings.TrimSuffix(inner, ")"), 10, 8); err == nil {
			*v = T(n)
			return nil
		}
	}
	return fmt.Errorf("vmexit: %.80q is no %s: it is one of %s", s, typ, strings.Join(names, ", "))
}

// list joins the words, and is "none" if there are none.
func list(words []string) string {
	if len(words) == 0 {
		return "none"
	}
	return strings.Join(words, ", ")
}
