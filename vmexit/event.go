package vmexit

import (
	"fmt"

	"github.com/govtx/vtx/vmcs"
)

// EventOf returns the event that VM-exit interruption information or IDT-vectoring
// information is about, in the form that injects it, and whether there is one. The code
// is the error code of that information, the length the VM-exit instruction length;
// both may be anything where they are not defined.
//
// Of VM-exit interruption information it is the event to give to the guest that has
// caused the exit: an exception is reflected, an NMI or acknowledged interrupt passed
// on. What its delivery would have done before must be done, too: #PF, CR2 is the exit
// qualification; #DB, DR6 is that of [DebugQualification.DR6], and DR7.GD and
// IA32_DEBUGCTL.LBR are cleared.
//
// Of IDT-vectoring information it is the event whose delivery the VM exit has
// interrupted: [Interrupted].
func EventOf(info vmcs.InterruptionInfo, code, length uint32) (vmcs.Event, bool) {
	if !info.Valid() {
		return vmcs.Event{}, false
	}
	e := vmcs.Event{Info: info.ForEntry()}
	if e.Info.HasErrorCode() {
		e.ErrorCode = code
	}
	if e.Info.HasLength() {
		e.Length = length
	}
	return e, true
}

// A Delivery is an event whose delivery a VM exit has interrupted, and what is to be
// done to deliver it again at the next VM entry, once the cause of the exit is gone.
type Delivery struct {
	Event vmcs.Event

	// UnblockNMI: the event is an NMI, whose first delivery has blocked NMIs. If the
	// control "virtual NMIs" is 1, bit 3 of the interruptibility state must be
	// cleared, or the VM entry fails; the injection sets it again (SDM Vol. 3C
	// 27.3.1.5, 27.6.1.1). If the control is 0, the bit stays as it is.
	UnblockNMI bool
}

// Interrupted returns the event whose delivery a VM exit has interrupted, and whether
// there was one (SDM Vol. 3C 28.2.4). The code is the IDT-vectoring error code, the
// length the VM-exit instruction length, which such exits define for the events of
// instructions.
//
// If the handler of the exit has an exception for the guest, it is to be put together
// with the event by [Combine]. After a task switch by a task gate the event is delivered:
// it is the task switch that is to be emulated.
func Interrupted(vectoring vmcs.InterruptionInfo, code, length uint32) (Delivery, bool) {
	e, ok := EventOf(vectoring, code, length)
	return Delivery{Event: e, UnblockNMI: ok && e.Info.Type() == vmcs.EventNMI}, ok
}

// ReadInterrupted reads what Interrupted needs. Fields that do not matter are not
// read.
func ReadInterrupted(r vmcs.Reader) (d Delivery, ok bool, err error) {
	v, err := r.Read(vmcs.IDTVectoringInformation)
	if err != nil {
		return Delivery{}, false, err
	}
	info := vmcs.InterruptionInfo(v)
	code, length, err := readEvent(r, info, vmcs.IDTVectoringErrorCode)
	if err != nil {
		return Delivery{}, false, err
	}
	d, ok = Interrupted(info, code, length)
	return d, ok, nil
}

// ReadEvent reads the event that has caused the exit: EventOf VM-exit interruption
// information. Fields that do not matter are not read.
func ReadEvent(r vmcs.Reader) (e vmcs.Event, ok bool, err error) {
	v, err := r.Read(vmcs.ExitInterruptionInformation)
	if err != nil {
		return vmcs.Event{}, false, err
	}
	info := vmcs.InterruptionInfo(v)
	code, length, err := readEvent(r, info, vmcs.ExitInterruptionErrorCode)
	if err != nil {
		return vmcs.Event{}, false, err
	}
	e, ok = EventOf(info, code, length)
	return e, ok, nil
}

func readEvent(r vmcs.Reader, info vmcs.InterruptionInfo, codeField vmcs.Field) (code, length uint32, err error) {
	if !info.Valid() {
		return 0, 0, nil
	}
	var v uint64
	if info.HasErrorCode() {
		if v, err = r.Read(codeField); err != nil {
			return 0, 0, err
		}
		code = uint32(v)
	}
	if info.HasLength() {
		if v, err = r.Read(vmcs.ExitInstructionLength); err != nil {
			return 0, 0, err
		}
		length = uint32(v)
	}
	return code, length, nil
}

// An EventClass is the class of an event that matters if another comes up while it is
// being delivered (SDM Vol. 3A table 6-4).
type EventClass uint8

// Classes of events.
const (
	Benign       EventClass = iota // interrupts, NMIs, events of instructions, and all exceptions but those below
	Contributory                   // #DE, #TS, #NP, #SS, #GP, #CP
	PageFault                      // #PF, #VE
	DoubleFaults                   // #DF
)

var eventClassNames = []string{"benign", "contributory", "page fault", "double fault"}

// String returns benign, contributory, page fault or double fault.
func (c EventClass) String() string { return enumName(eventClassNames, "EventClass", uint8(c)) }

// MarshalText returns what String does.
func (c EventClass) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// UnmarshalText reads what String prints.
func (c *EventClass) UnmarshalText(text []byte) error {
	return parseEnum(c, eventClassNames, "EventClass", text)
}

// ClassOf returns the class of an event.
func ClassOf(info vmcs.InterruptionInfo) EventClass {
	const (
		contributory = vmcs.Exceptions(1)<<vmcs.VectorDE | 1<<vmcs.VectorTS | 1<<vmcs.VectorNP | 1<<vmcs.VectorSS | 1<<vmcs.VectorGP | 1<<vmcs.VectorCP
		pageFault    = vmcs.Exceptions(1)<<vmcs.VectorPF | 1<<vmcs.VectorVE
	)
	v := info.Vector()
	switch {
	case info.Type() != vmcs.EventHardwareException || v >= 32:
		return Benign
	case contributory.Has(v):
		return Contributory
	case pageFault.Has(v):
		return PageFault
	case v == vmcs.VectorDF:
		return DoubleFaults
	}
	return Benign
}

// A Combination is what becomes of two events, the second of which has come up while
// the first was being delivered.
type Combination uint8

// Combinations (SDM Vol. 3A table 6-5).
const (
	// Serial: the second is delivered. A first that is a fault comes up again when
	// its instruction runs again. An interrupt or NMI does not: a hypervisor keeps it
	// pending, to be delivered behind the second.
	Serial Combination = iota
	// DoubleFault: #DF is delivered in the place of both.
	DoubleFault
	// Shutdown: the triple fault. The processor stops.
	Shutdown
)

var combinationNames = []string{"serial", "double fault", "shutdown"}

// String returns serial, double fault or shutdown.
func (c Combination) String() string { return enumName(combinationNames, "Combination", uint8(c)) }

// MarshalText returns what String does.
func (c Combination) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// UnmarshalText reads what String prints.
func (c *Combination) UnmarshalText(text []byte) error {
	return parseEnum(c, combinationNames, "Combination", text)
}

// combinations is SDM Vol. 3A table 6-5: rows are the first event's class, columns
// the second's. A #DF as a second is not in it, since none comes up by itself; one that
// a hypervisor raises counts as contributory.
var combinations = [4][4]Combination{
	Benign:       {Serial, Serial, Serial, Serial},
	Contributory: {Serial, DoubleFault, Serial, DoubleFault},
	PageFault:    {Serial, DoubleFault, DoubleFault, DoubleFault},
	DoubleFaults: {Serial, Shutdown, Shutdown, Shutdown},
}

// Combine returns what is to be injected if an exception, the second, has come up
// while the first was being delivered: the second, #DF, or for Shutdown nothing. A first
// that is not valid has no effect. In a guest with CR0.PE clear the result goes through
// [vmcs.Event.WithoutErrorCode].
func Combine(first, second vmcs.Event) (vmcs.Event, Combination) {
	if !first.Info.Valid() {
		return second, Serial
	}
	c := combinations[ClassOf(first.Info)][ClassOf(second.Info)]
	switch c {
	case DoubleFault:
		return vmcs.InjectException(vmcs.VectorDF, 0), c
	case Shutdown:
		return vmcs.Event{}, c
	}
	return second, c
}

// NMIUnblocking tells whether the exit took place within an IRET that had just ended
// the blocking of NMIs (SDM Vol. 3C 28.2.3). If the IRET is to run again, which it is
// unless an exception is given to the guest, bit 3 of the interruptibility state must be
// set for it: [vmcs.GuestInterruptibilityState].
//
// It is known for exceptions, except #DF, and for EPT violations, full
// page-modification logs, SPP-related events and instruction timeouts; not for APIC
// accesses and EPT misconfigurations. It means something if the control "NMI exiting" is
// 0 or "virtual NMIs" is 1; NMIs are not blocked otherwise.
func NMIUnblocking(r Reason, info, vectoring vmcs.InterruptionInfo, qualification uint64) bool {
	if vectoring.Valid() {
		return false // undefined
	}
	switch r.Basic() {
	case ExceptionOrNMI:
		return info.Valid() && info.Type() == vmcs.EventHardwareException && info.Vector() != vmcs.VectorDF && info.NMIUnblocking()
	case EPTViolation, PMLFull, SPPEvent, InstructionTimeout:
		return qualification&nmiUnblocking != 0
	}
	return false
}

// A LengthError says that an instruction length is none.
type LengthError struct {
	Event  vmcs.InterruptionInfo
	Length uint32
}

func (e *LengthError) Error() string {
	return fmt.Sprintf("vmexit: %v has the instruction length %d, but an instruction has 1 to 15 bytes: take it from the VM-exit instruction length of the exit that the event is from, or of the instruction that is emulated (SDM Vol. 3C 27.2.1.3)", e.Event, e.Length)
}

// CheckLength returns a *LengthError if an event of an instruction has a length that no
// instruction has: a VM entry that injects it fails. (Length 0 is allowed if
// IA32_VMX_MISC[30] is 1, and then says that RIP is behind the instruction already.)
func CheckLength(e vmcs.Event, zeroAllowed bool) error {
	if !e.Info.Valid() || !e.Info.HasLength() || e.Length >= 1 && e.Length <= 15 || e.Length == 0 && zeroAllowed {
		return nil
	}
	return &LengthError{e.Info, e.Length}
}
