package ept

import (
	"fmt"

	"github.com/govtx/vtx/vmexit"
)

// A FaultKind is how a translation ends.
type FaultKind uint8

// The kinds of faults.
const (
	NoFault          FaultKind = iota
	Violation                  // EPT violation: exit reason 48, or #VE (SDM Vol. 3C 29.3.3.2)
	Misconfiguration           // EPT misconfiguration: exit reason 49 (SDM Vol. 3C 29.3.3.1)
)

var faultNames = [...]string{"no fault", "EPT violation", "EPT misconfiguration"}

// String names the kind.
func (k FaultKind) String() string {
	if int(k) < len(faultNames) {
		return faultNames[k]
	}
	return fmt.Sprintf("FaultKind(%d)", uint8(k))
}

// A Fault is what an access ends in that EPT does not let through. It is a value, and
// the zero Fault is none.
type Fault struct {
	Kind FaultKind

	// Level and Entry are the entry that is at fault: not present, misconfigured, or
	// the one that maps the page whose rights, with those of the entries above, are
	// not enough. For an address that has more bits than the tables translate, Level is
	// 0: no entry was read.
	Level Level
	Entry Entry

	// VE says that the violation is convertible: the processor raises #VE instead, if
	// the guest is in protected mode, is not in the middle of event delivery, and has
	// room in its virtualization-exception information area (SDM Vol. 3C 26.5.7.1).
	VE bool

	// SubPage says that the violation is a write that is eligible for sub-page write
	// permissions: the processor looks the address up in the sub-page permission table,
	// and it is a violation only if the sub-page may not be written
	// (SDM Vol. 3C 29.3.4).
	SubPage bool

	// Qualification is the exit qualification of a violation. Bits that a processor of
	// this Mode leaves undefined are 0.
	Qualification vmexit.EPTViolationQualification

	Address uint64 // the guest-physical address
	Rule    *Rule  // the rule that a misconfigured entry breaks
}

// String tells the kind, the address and the entry: "EPT violation at guest-physical
// address 0x1000: write; EPT rights R-X; ...".
func (f Fault) String() string {
	if f.Kind == NoFault {
		return f.Kind.String()
	}
	s := fmt.Sprintf("%v at guest-physical address 0x%x: ", f.Kind, f.Address)
	switch {
	case f.Kind == Misconfiguration && f.Rule != nil:
		return s + fmt.Sprintf("%v 0x%x: %v", f.Level, uint64(f.Entry), f.Rule)
	case f.Kind == Violation && f.Level == 0:
		s += fmt.Sprintf("%v; the address has more bits than the tables translate", f.Qualification)
	case f.Kind == Violation:
		s += fmt.Sprintf("%v; %v 0x%x", f.Qualification, f.Level, uint64(f.Entry))
	}
	if f.VE {
		s += "; convertible to #VE"
	}
	if f.SubPage {
		s += "; sub-page permissions decide"
	}
	return s
}

// Err returns the fault as a *FaultError, nil for NoFault.
func (f Fault) Err() error {
	if f.Kind == NoFault {
		return nil
	}
	return &FaultError{f}
}

// A FaultError is a Fault as an error.
type FaultError struct{ Fault Fault }

func (e *FaultError) Error() string { return "ept: " + e.Fault.String() }
