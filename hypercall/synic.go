package hypercall

import (
	"fmt"
	"iter"
	"math/bits"
)

// NumSints is the number of a processor's synthetic interrupt sources, and of the slots in
// its message and event flags pages.
const NumSints = 16

// A MessageType is the type of a message (TLFS hv_message_type.md). Those with bit 31 set
// are the hypervisor's.
//
//vtx:enum
type MessageType uint32

// Hypervisor reports whether only the hypervisor sends such messages.
func (v MessageType) Hypervisor() bool { return v>>31 != 0 }

// MessageFlags are flags of a message (TLFS hv_message.md).
//
//vtx:bits -
type MessageFlags uint8

// A MessageHeader is what a message begins with (TLFS hv_message.md).
//
//vtx:layout
type MessageHeader struct {
	Type        MessageType
	PayloadSize uint8 // in bytes, up to 240
	Flags       MessageFlags
	Reserved    uint16
	Origin      uint64 // the partition that was intercepted, or the port's id in bits 23:0
}

// A Message is a message as it is in a slot (TLFS hv_message.md).
//
//vtx:layout
type Message struct {
	Header  MessageHeader
	Payload [240]uint8
}

// A TimerMessage is the payload of a message of type [MessageTimerExpired] (TLFS
// hv_timer_message_payload.md).
//
//vtx:layout
type TimerMessage struct {
	TimerIndex     uint32 // 0 to 3
	Reserved       uint32
	ExpirationTime uint64 // in units of 100 ns
	DeliveryTime   uint64 // in units of 100 ns
}

// SetPayload makes x the payload, with zeros behind it. It reports false if x is longer
// than [MessagePayloadMax].
func (m *Message) SetPayload(x Structure) bool {
	n := x.Size()
	if n > len(m.Payload) || !x.Put(m.Payload[:]) {
		return false
	}
	clear(m.Payload[n:])
	m.Header.PayloadSize = uint8(n)
	return true
}

// GetPayload reads x from the payload. It reports false if the payload is shorter, by
// PayloadSize.
func (m *Message) GetPayload(x Structure) bool {
	return int(m.Header.PayloadSize) >= x.Size() && x.Get(m.Payload[:])
}

// A MessagePage is the page at the address in SIMP, in place: a slot for a message from each
// synthetic interrupt source (TLFS inter-partition-communication.md, "SIM Page"). The
// hypervisor and the guest's processor both write it:
//
//   - The hypervisor writes an empty slot only, the type last. If a slot is not empty, it
//     sets [MessagePending] and keeps the message.
//   - The guest copies a message, makes the slot empty by writing type 0, and looks at
//     MessagePending after that. If it is set, it writes the EOM register, upon which the
//     hypervisor tries again.
//
// Whichever comes second sees what the other wrote, so that no message is left behind. The
// zero value has no page; its methods act as on a page of zeros, and write nothing.
type MessagePage struct{ p *sharedPage }

// MessagePageOf returns the page that 4096 bytes are, which lie at a multiple of 8.
func MessagePageOf(mem []byte) (MessagePage, error) {
	p, err := sharedPageOf("the message page", mem)
	return MessagePage{p}, err
}

// Offsets in a slot.
const (
	slotSize    = MessageSize
	slotType    = 0
	slotFlags   = 4 // and the payload's size
	slotOrigin  = 8
	slotPayload = 16

	slotPending = uint32(MessagePending) << 8
)

func (m MessagePage) slot(sint int) (off uintptr, ok bool) {
	return uintptr(sint) * slotSize, m.p != nil && sint >= 0 && sint < NumSints
}

// Type returns the type of the message in the slot of a source, 0 to 15: [MessageNone] if it
// is empty or there is no such slot.
func (m MessagePage) Type(sint int) MessageType {
	off, ok := m.slot(sint)
	if !ok {
		return MessageNone
	}
	return MessageType(m.p.load32(off + slotType))
}

// Deliver puts a message into the slot of a source, as the hypervisor does. It reports
// false if the slot is not empty, and has then set MessagePending: the message has to wait
// until the guest writes the EOM register. It also does for a source above 15, and for a
// message of type 0, which no slot can hold.
//
// Only one call at a time may be under way for a slot. The flag that the message has in
// its header goes into the slot with it; set it if another one waits.
func (m MessagePage) Deliver(sint int, msg *Message) bool {
	off, ok := m.slot(sint)
	if !ok || msg.Header.Type == MessageNone {
		return false
	}
	if m.p.load32(off+slotType) != 0 {
		m.p.or32(off+slotFlags, slotPending)
		// The guest may have made the slot empty without seeing the flag.
		if m.p.load32(off+slotType) != 0 {
			return false
		}
	}
	h := &msg.Header
	m.p.store32(off+slotFlags, uint32(h.PayloadSize)|uint32(h.Flags)<<8|uint32(h.Reserved)<<16)
	m.p.store64(off+slotOrigin, h.Origin)
	copy(m.p[off+slotPayload:off+slotSize], msg.Payload[:])
	m.p.store32(off+slotType, uint32(h.Type))
	return true
}

// Take copies the message in the slot of a source into msg and makes the slot empty, as the
// guest does. It reports whether there was one, and whether others wait: then the EOM
// register is to be written.
func (m MessagePage) Take(sint int, msg *Message) (ok, eom bool) {
	off, ok := m.slot(sint)
	if !ok {
		return false, false
	}
	t := m.p.load32(off + slotType)
	if t == 0 {
		return false, false
	}
	f := m.p.load32(off + slotFlags)
	msg.Header = MessageHeader{
		Type: MessageType(t), PayloadSize: uint8(f), Flags: MessageFlags(f >> 8), Reserved: uint16(f >> 16),
		Origin: m.p.load64(off + slotOrigin),
	}
	copy(msg.Payload[:], m.p[off+slotPayload:off+slotSize])
	m.p.store32(off+slotType, 0)
	return true, m.p.load32(off+slotFlags)&slotPending != 0
}

// Clear makes the page zero, as at the processor's reset.
func (m MessagePage) Clear() {
	if m.p != nil {
		clear(m.p[:])
	}
}

// NumEventFlags is the number of event flags that a synthetic interrupt source has.
const NumEventFlags = 256 * 8

// An EventFlagsPage is the page at the address in SIEFP, in place: 2,048 flags for each
// synthetic interrupt source (TLFS inter-partition-communication.md, "SIEF Page";
// hv_synic_event_flags.md). Flag n is bit n%8 of byte n/8. The hypervisor sets them and
// the guest clears them, both atomically. The zero value has no page; its methods act as on
// a page of zeros, and write nothing.
type EventFlagsPage struct{ p *sharedPage }

// EventFlagsPageOf returns the page that 4096 bytes are, which lie at a multiple of 8.
func EventFlagsPageOf(mem []byte) (EventFlagsPage, error) {
	p, err := sharedPageOf("the event flags page", mem)
	return EventFlagsPage{p}, err
}

func (e EventFlagsPage) flag(sint, n int) (off uintptr, mask uint64, ok bool) {
	return uintptr(sint)*(NumEventFlags/8) + uintptr(n/64*8), 1 << (uint(n) % 64),
		e.p != nil && sint >= 0 && sint < NumSints && n >= 0 && n < NumEventFlags
}

// Set sets flag n, 0 to 2047, of a source, 0 to 15, and reports whether it was clear: then
// the guest is to be interrupted. It reports false if there is no such flag.
func (e EventFlagsPage) Set(sint, n int) bool {
	off, mask, ok := e.flag(sint, n)
	return ok && e.p.or64(off, mask)&mask == 0
}

// Clear clears flag n of a source, and reports whether it was set. It reports false if
// there is no such flag.
func (e EventFlagsPage) Clear(sint, n int) bool {
	off, mask, ok := e.flag(sint, n)
	return ok && e.p.and64(off, ^mask)&mask != 0
}

// IsSet reports whether flag n of a source is set.
func (e EventFlagsPage) IsSet(sint, n int) bool {
	off, mask, ok := e.flag(sint, n)
	return ok && e.p.load64(off)&mask != 0
}

// TakeAll clears the flags of a source that are set, and yields their numbers in ascending
// order. Each group of 64 is cleared before its flags are yielded, so that one that is set
// later is not lost. It ends after one pass, however often flags are set meanwhile.
func (e EventFlagsPage) TakeAll(sint int) iter.Seq[int] {
	return func(yield func(int) bool) {
		for first := 0; first < NumEventFlags; first += 64 {
			off, _, ok := e.flag(sint, first)
			if !ok {
				return
			}
			for set := e.p.and64(off, 0); set != 0; set &= set - 1 {
				if !yield(first + bits.TrailingZeros64(set)) {
					// What has not been yielded is for the next time.
					e.p.or64(off, set&(set-1))
					return
				}
			}
		}
	}
}

// String tells the type of the message in each slot that is not empty.
func (m MessagePage) String() string {
	s := ""
	for sint := range NumSints {
		if t := m.Type(sint); t != MessageNone {
			s += fmt.Sprintf("SINT%d: %v\n", sint, t)
		}
	}
	return s
}
