package vmcs

import (
	"fmt"
	"sync/atomic"
	"unsafe"
)

// A PostedInterruptDescriptor is what [PostedInterruptDescriptorAddress] points
// to: 64 bytes at a multiple of 64, through which other processors and devices
// hand interrupts to a guest (SDM Vol. 3C 30.6, table 30-1). Whoever shares it may
// change it at any time, so all access is atomic.
//
//	bits 255:0    PIR  the requested vectors
//	bit  256      ON   a notification is outstanding
//	bit  257      SN   notifications are suppressed
//	bits 279:272  NV   vector of the notification
//	bits 319:288  NDST its destination: an APIC ID
//
// The processor itself looks at PIR and ON only; to it the rest is software's. SN,
// NV and NDST are used by the remapping hardware that posts the interrupts of
// devices (Intel Virtualization Technology for Directed I/O Architecture
// Specification, "Posted Interrupt Descriptor").
type PostedInterruptDescriptor struct {
	words [8]atomic.Uint64 // PIR, then the word with the other fields, then nothing
}

// These do not compile if the descriptor has not 64 bytes, or the word with ON
// does not begin at bit 256.
const (
	_ = -(unsafe.Sizeof(PostedInterruptDescriptor{}) ^ 64)
	_ = -(4*unsafe.Sizeof(atomic.Uint64{}) ^ 256/8)
)

// Fields of the fifth word, bits 319:256 of the descriptor.
const (
	postedON   = 1 << 0
	postedSN   = 1 << 1
	postedNV   = 16
	postedNDST = 32
)

// PostedInterruptDescriptorOf returns the descriptor that the first 64 bytes of
// mem hold, in place. They must lie at a multiple of 64.
func PostedInterruptDescriptorOf(mem []byte) (*PostedInterruptDescriptor, error) {
	const size = int(unsafe.Sizeof(PostedInterruptDescriptor{}))
	if len(mem) < size {
		return nil, fmt.Errorf("vmcs: a posted-interrupt descriptor takes %d bytes, not %d", size, len(mem))
	}
	p := unsafe.Pointer(unsafe.SliceData(mem))
	if uintptr(p)%uintptr(size) != 0 {
		return nil, fmt.Errorf("vmcs: a posted-interrupt descriptor lies at a multiple of %d, not at 0x%x", size, uintptr(p))
	}
	return (*PostedInterruptDescriptor)(p), nil
}

// Post requests an interrupt, and reports whether the caller has to send the
// notification: an interrupt with [PostedInterruptDescriptor.NotificationVector]
// to the processor that runs the guest. It need not if an earlier one is still
// outstanding, or if notifications are suppressed; the guest then finds the
// request when it next looks.
func (d *PostedInterruptDescriptor) Post(v Vector) (notify bool) {
	d.words[v>>6].Or(1 << (v & 63))
	for {
		old := d.words[4].Load()
		if old&(postedON|postedSN) != 0 {
			return false
		}
		if d.words[4].CompareAndSwap(old, old|postedON) {
			return true
		}
	}
}

// Take ends the outstanding notification, and returns and clears the requests, as
// the processor does when the notification arrives (SDM Vol. 3C 30.6). Requests
// that come in between are kept, either in the result or in the descriptor with a
// new notification.
func (d *PostedInterruptDescriptor) Take() (s VectorSet) {
	d.words[4].And(^uint64(postedON))
	for i := range s {
		s[i] = d.words[i].Swap(0)
	}
	return s
}

// Pending returns the requests, and leaves them.
func (d *PostedInterruptDescriptor) Pending() (s VectorSet) {
	for i := range s {
		s[i] = d.words[i].Load()
	}
	return s
}

// Outstanding reports whether a notification is outstanding.
func (d *PostedInterruptDescriptor) Outstanding() bool { return d.words[4].Load()&postedON != 0 }

// Suppressed reports whether notifications are suppressed.
func (d *PostedInterruptDescriptor) Suppressed() bool { return d.words[4].Load()&postedSN != 0 }

// Suppress suppresses notifications, or ends that: look at Pending afterwards, as
// what was posted meanwhile has not been notified.
func (d *PostedInterruptDescriptor) Suppress(on bool) {
	if on {
		d.words[4].Or(postedSN)
	} else {
		d.words[4].And(^uint64(postedSN))
	}
}

// NotificationVector returns the vector of the notification. The field
// [PostedInterruptNotificationVector] has it too.
func (d *PostedInterruptDescriptor) NotificationVector() Vector {
	return Vector(d.words[4].Load() >> postedNV)
}

// Destination returns the APIC ID of the processor to notify, in the format that
// the remapping hardware takes: all 32 bits in x2APIC mode, bits 15:8 otherwise.
func (d *PostedInterruptDescriptor) Destination() uint32 {
	return uint32(d.words[4].Load() >> postedNDST)
}

// SetDestination sets whom to notify and how, in one atomic step.
func (d *PostedInterruptDescriptor) SetDestination(v Vector, apic uint32) {
	for {
		old := d.words[4].Load()
		value := old&0xff00ffff | uint64(v)<<postedNV | uint64(apic)<<postedNDST
		if d.words[4].CompareAndSwap(old, value) {
			return
		}
	}
}

// String lists the requests and the other fields.
func (d *PostedInterruptDescriptor) String() string {
	return fmt.Sprintf("PIR %v; ON %t, SN %t, NV 0x%x, NDST 0x%x", d.Pending(), d.Outstanding(), d.Suppressed(), uint8(d.NotificationVector()), d.Destination())
}
