package vmcs

import (
	"fmt"
	"strconv"
	"strings"
)

// An EventType is the type of an event in an [InterruptionInfo].
type EventType uint8

// Types of events (SDM Vol. 3C table 25-17). 1 is reserved.
const (
	EventExternalInterrupt           EventType = 0
	EventNMI                         EventType = 2
	EventHardwareException           EventType = 3 // all exceptions but those below
	EventSoftwareInterrupt           EventType = 4 // INT n
	EventPrivilegedSoftwareException EventType = 5 // INT1
	EventSoftwareException           EventType = 6 // INT3, INTO
	EventOther                       EventType = 7 // at VM entry, with vector 0: a pending MTF VM exit
)

var eventTypeNames = [8]string{
	"external interrupt", "reserved type 1", "NMI", "hardware exception",
	"software interrupt", "privileged software exception", "software exception", "other event",
}

// String returns the type in words.
func (t EventType) String() string {
	if int(t) < len(eventTypeNames) {
		return eventTypeNames[t]
	}
	return fmt.Sprintf("EventType(%d)", uint8(t))
}

// IsException reports whether the vector of such an event is that of an exception.
func (t EventType) IsException() bool {
	return t == EventHardwareException || t == EventPrivilegedSoftwareException || t == EventSoftwareException
}

// An InterruptionInfo is the format of three fields that describe an event:
// VM-entry interruption information (SDM Vol. 3C 25.8.3, table 25-17), VM-exit
// interruption information (25.9.2) and IDT-vectoring information (25.9.3).
//
//	31     30     13  12   11   10    8 7        0
//	┌─────┬─────────┬─────┬────┬───────┬──────────┐
//	│valid│    0    │ NMI │code│ type  │  vector  │
//	└─────┴─────────┴─────┴────┴───────┴──────────┘
//
// Code: the event has an error code, in a field of its own. NMI, at VM exits
// only: an IRET has ended the blocking of NMIs; undefined in IDT-vectoring
// information.
type InterruptionInfo uint32

// Bits of an InterruptionInfo.
const (
	InfoErrorCode     InterruptionInfo = 1 << 11
	InfoNMIUnblocking InterruptionInfo = 1 << 12
	InfoValid         InterruptionInfo = 1 << 31
)

// EventInfo returns valid information about an event without error code.
func EventInfo(t EventType, v Vector) InterruptionInfo {
	return InfoValid | InterruptionInfo(t&7)<<8 | InterruptionInfo(v)
}

// Vector returns the event's vector.
func (i InterruptionInfo) Vector() Vector { return Vector(i) }

// Type returns the event's type.
func (i InterruptionInfo) Type() EventType { return EventType(i >> 8 & 7) }

// HasErrorCode reports whether the event has an error code.
func (i InterruptionInfo) HasErrorCode() bool { return i&InfoErrorCode != 0 }

// NMIUnblocking reports whether an IRET had ended the blocking of NMIs before the
// VM exit.
func (i InterruptionInfo) NMIUnblocking() bool { return i&InfoNMIUnblocking != 0 }

// Valid reports whether there is an event at all.
func (i InterruptionInfo) Valid() bool { return i&InfoValid != 0 }

// HasLength reports whether the instruction length goes with the event when it is
// injected: for software interrupts and exceptions, and for the SYSCALL and SYSENTER
// events of FRED, other events 1 and 2 (SDM Vol. 3C 25.8.3).
func (i InterruptionInfo) HasLength() bool {
	switch i.Type() {
	case EventSoftwareInterrupt, EventPrivilegedSoftwareException, EventSoftwareException:
		return true
	case EventOther:
		return i.Vector() == 1 || i.Vector() == 2
	}
	return false
}

// ForEntry returns what to write to the VM-entry interruption-information field
// to raise again an event that a VM exit has interrupted: the same without the
// bits that must be 0 at VM entry. Error code and instruction length go with it.
func (i InterruptionInfo) ForEntry() InterruptionInfo {
	if !i.Valid() {
		return 0
	}
	return i & (InfoValid | InfoErrorCode | 0x7ff)
}

// String describes the event: its type, its vector, whether it has an error code,
// and bits without a meaning: "hardware exception #PF, error code". It is "none"
// for 0, and begins with "not valid: " if bit 31 alone makes it so.
func (i InterruptionInfo) String() string {
	if i == 0 {
		return "none"
	}
	var b []byte
	if !i.Valid() {
		b = append(b, "not valid: "...)
	}
	b = append(append(b, i.Type().String()...), ' ')
	if i.Type().IsException() {
		b = append(b, i.Vector().String()...)
	} else {
		b = appendRange(b, uint32(i.Vector()), uint32(i.Vector()))
	}
	if i.HasErrorCode() {
		b = append(b, ", error code"...)
	}
	if i.NMIUnblocking() {
		b = append(b, ", NMI unblocking"...)
	}
	for n := 13; n < 31; n++ {
		if i>>n&1 != 0 {
			b = strconv.AppendInt(append(b, ", bit "...), int64(n), 10)
		}
	}
	return string(b)
}

// ParseInterruptionInfo reads what String prints, or a number.
func ParseInterruptionInfo(s string) (i InterruptionInfo, err error) {
	s = strings.TrimSpace(s)
	if s == "none" {
		return 0, nil
	}
	if n, err := strconv.ParseUint(s, 0, 32); err == nil {
		return InterruptionInfo(n), nil
	}
	rest, invalid := strings.CutPrefix(s, "not valid: ")
	if !invalid {
		i = InfoValid
	}
	event, flags, more := strings.Cut(rest, ",")
	event = strings.TrimSpace(event)
	space := strings.LastIndexByte(event, ' ')
	t := -1
	for n, name := range eventTypeNames {
		if event[:max(space, 0)] == name {
			t = n
		}
	}
	if t < 0 {
		return 0, fmt.Errorf("vmcs: %q does not begin with the type and vector of an event: write it as \"hardware exception #PF, error code\", or as a number", s)
	}
	v, err := ParseVector(event[space+1:])
	if err != nil {
		return 0, err
	}
	i |= EventInfo(EventType(t), v) &^ InfoValid
	for more {
		var flag string
		flag, flags, more = strings.Cut(flags, ",")
		switch flag = strings.TrimSpace(flag); flag {
		case "error code":
			i |= InfoErrorCode
		case "NMI unblocking":
			i |= InfoNMIUnblocking
		default:
			n, ok := parseBit(flag, 31)
			if !ok {
				return 0, fmt.Errorf("vmcs: %q in %q is neither \"error code\" nor \"NMI unblocking\" nor \"bit\" and a number from 0 to 30", flag, s)
			}
			i |= 1 << n
		}
	}
	return i, nil
}

// parseBit reads "bit n" with n below limit.
func parseBit(s string, limit uint64) (n uint64, ok bool) {
	digits, ok := strings.CutPrefix(s, "bit ")
	n, err := strconv.ParseUint(digits, 10, 8)
	return n, ok && err == nil && n < limit
}

// MarshalText returns what String does.
func (i InterruptionInfo) MarshalText() ([]byte, error) { return []byte(i.String()), nil }

// UnmarshalText reads what ParseInterruptionInfo does.
func (i *InterruptionInfo) UnmarshalText(text []byte) (err error) {
	*i, err = ParseInterruptionInfo(string(text))
	return err
}

// An Event is what a VM entry injects: the VM-entry controls for event injection
// (SDM Vol. 3C 25.8.3).
type Event struct {
	Info      InterruptionInfo // field EntryInterruptionInformation
	ErrorCode uint32           // field EntryExceptionErrorCode, if Info.HasErrorCode
	Length    uint32           // field EntryInstructionLength in bytes, if Info.HasLength
}

// InjectInterrupt is an external interrupt.
func InjectInterrupt(v Vector) Event { return Event{Info: EventInfo(EventExternalInterrupt, v)} }

// InjectNMI is a non-maskable interrupt.
func InjectNMI() Event { return Event{Info: EventInfo(EventNMI, VectorNMI)} }

// InjectException is a hardware exception. The error code goes with it if the
// exception has one in protected mode: see WithoutErrorCode for real mode. #CP
// with its error code is for processors that have CET; VM entry fails on others.
func InjectException(v Vector, code uint32) Event {
	e := Event{Info: EventInfo(EventHardwareException, v)}
	if v.HasErrorCode() {
		e.Info |= InfoErrorCode
		e.ErrorCode = code
	}
	return e
}

// InjectSoftwareInterrupt is an INT n instruction of the given length in bytes.
func InjectSoftwareInterrupt(v Vector, length uint32) Event {
	return Event{Info: EventInfo(EventSoftwareInterrupt, v), Length: length}
}

// InjectSoftwareException is an INT3 (#BP) or INTO (#OF) of the given length.
func InjectSoftwareException(v Vector, length uint32) Event {
	return Event{Info: EventInfo(EventSoftwareException, v), Length: length}
}

// InjectINT1 is an INT1 of the given length: a privileged software exception.
func InjectINT1(length uint32) Event {
	return Event{Info: EventInfo(EventPrivilegedSoftwareException, VectorDB), Length: length}
}

// InjectMTF makes a VM exit by the monitor trap flag pending; that needs the
// control [PrimaryMonitorTrapFlag] to be supported (SDM Vol. 3C 27.6.2).
func InjectMTF() Event { return Event{Info: EventInfo(EventOther, 0)} }

// WithoutErrorCode returns the event for a guest with CR0.PE clear, where no
// exception delivers an error code (SDM Vol. 3C 27.2.1.3).
func (e Event) WithoutErrorCode() Event {
	e.Info &^= InfoErrorCode
	e.ErrorCode = 0
	return e
}

// ReadEvent reads what the next VM entry is to inject. Fields that do not matter
// are not read.
func ReadEvent(r Reader) (e Event, err error) {
	v, err := r.Read(EntryInterruptionInformation)
	if err != nil {
		return Event{}, err
	}
	e.Info = InterruptionInfo(v)
	if e.Info.Valid() && e.Info.HasErrorCode() {
		if v, err = r.Read(EntryExceptionErrorCode); err != nil {
			return Event{}, err
		}
		e.ErrorCode = uint32(v)
	}
	if e.Info.Valid() && e.Info.HasLength() {
		if v, err = r.Read(EntryInstructionLength); err != nil {
			return Event{}, err
		}
		e.Length = uint32(v)
	}
	return e, nil
}

// Write makes the next VM entry inject the event; the zero Event is none. Fields
// that do not matter are not written. A VM exit makes the information invalid
// again (SDM Vol. 3C 25.8.3).
func (e Event) Write(w Writer) error {
	if e.Info.Valid() && e.Info.HasErrorCode() {
		if err := w.Write(EntryExceptionErrorCode, uint64(e.ErrorCode)); err != nil {
			return err
		}
	}
	if e.Info.Valid() && e.Info.HasLength() {
		if err := w.Write(EntryInstructionLength, uint64(e.Length)); err != nil {
			return err
		}
	}
	return w.Write(EntryInterruptionInformation, uint64(e.Info))
}

// String describes the event with its error code and length, if it has them.
func (e Event) String() string {
	s := e.Info.String()
	if e.Info.Valid() && e.Info.HasErrorCode() {
		s = strings.Replace(s, "error code", fmt.Sprintf("error code 0x%x", e.ErrorCode), 1)
	}
	if e.Info.Valid() && e.Info.HasLength() {
		s += fmt.Sprintf(", length %d", e.Length)
	}
	return s
}
