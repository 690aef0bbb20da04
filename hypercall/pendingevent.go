package hypercall

// A PendingEventHeader is byte 0 of a pending event. Only OpenVMM tells the layout of these
// events; its ShadowIpt event has a type of four bits, which no other event has.
//
//vtx:bits
type PendingEventHeader uint8

// A PendingEventType is the type of a pending event.
//
//vtx:enum
type PendingEventType uint8

// A PendingEvent is the values of [RegisterPendingEvent0] and RegisterPendingEvent1 one
// after the other: an event that a processor is to take before the next instruction. The
// other types in this file have the layout of those of which the Header has the type.
//
//vtx:layout
type PendingEvent struct {
	Header PendingEventHeader
	Data   [31]uint8
}

// Value returns the value of [RegisterPendingEvent0], the first half.
func (x *PendingEvent) Value() (v RegisterValue) {
	var b [PendingEventSize]byte
	x.Put(b[:])
	v.Get(b[:])
	return v
}

// Exception returns the event as an exception, and whether it is one that is pending.
func (x *PendingEvent) Exception() (e PendingException, ok bool) {
	var b [PendingEventSize]byte
	x.Put(b[:])
	e.Get(b[:])
	return e, x.Header.EventPending() && x.Header.EventType() == PendingEventException
}

// PendingExceptionFlags are flags of a pending exception.
//
//vtx:bits
type PendingExceptionFlags uint8

// A PendingException is an exception that a processor is to take: the value of
// [RegisterPendingEvent0] if its type is [PendingEventException].
//
//vtx:layout
type PendingException struct {
	Header    PendingEventHeader
	Flags     PendingExceptionFlags
	Vector    uint16
	ErrorCode uint32
	Parameter uint64 // CR2 of a #PF, DR6 of a #DB
}

// Value returns the exception as a register's value.
func (x *PendingException) Value() RegisterValue {
	return RegisterValue{
		Low:  uint64(x.Header) | uint64(x.Flags)<<8 | uint64(x.Vector)<<16 | uint64(x.ErrorCode)<<32,
		High: x.Parameter,
	}
}

// Exception returns the value as a pending exception, and whether it is one.
func (x RegisterValue) Exception() (e PendingException, ok bool) {
	e = PendingException{
		Header: PendingEventHeader(x.Low), Flags: PendingExceptionFlags(x.Low >> 8),
		Vector: uint16(x.Low >> 16), ErrorCode: uint32(x.Low >> 32), Parameter: x.High,
	}
	return e, e.Header.EventPending() && e.Header.EventType() == PendingEventException
}

// PendingMemoryFlags are flags of a pending memory intercept.
//
//vtx:bits
type PendingMemoryFlags uint8

// A PendingMemoryIntercept is an access that a higher level is to be told of: the
// event of a failed HvCallTranslateVirtualAddressEx.
//
//vtx:layout
type PendingMemoryIntercept struct {
	Header      PendingEventHeader
	TargetVTL   VTL
	AccessType  InterceptAccessType
	AccessFlags PendingMemoryFlags
	Reserved0   uint32
	GVA, GPA    uint64
	Reserved1   uint64
}

// A PendingInterruption is the value of [RegisterPendingInterruption]: an event whose
// delivery is under way.
//
//	 63          32 31    16 15  10  9   8    5  4   3    1  0
//	┌──────────────┬────────┬──────┬───┬───────┬───┬──────┬───┐
//	│  error code  │ vector │  0   │nst│length │EC │ type │pnd│
//	└──────────────┴────────┴──────┴───┴───────┴───┴──────┴───┘
//
//vtx:bits
type PendingInterruption uint64

// A PendingInterruptionType is the type of a pending interruption, numbered as VMX does.
//
//vtx:enum
type PendingInterruptionType uint8

// An InterruptState is the value of [RegisterInterruptState].
//
//vtx:bits
type InterruptState uint64

// An InternalActivity is the value of [RegisterInternalActivityState]: why a processor
// runs no instructions.
//
//vtx:bits
type InternalActivity uint64

// DeliverabilityNotifications is the value of [RegisterDeliverabilityNotifications]: what
// is to be told of once the processor can take it.
//
//vtx:bits
type DeliverabilityNotifications uint64
