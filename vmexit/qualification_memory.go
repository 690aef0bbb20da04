package vmexit

import (
	"fmt"
	"strings"
)

// nmiUnblocking is "NMI unblocking due to IRET" in several qualifications
// (SDM Vol. 3C 28.2.3).
const nmiUnblocking = 1 << 12

// An APICAccessType is the type of an access to the APIC-access page.
type APICAccessType uint8

// Types of accesses to the APIC-access page. The others are not used.
const (
	APICLinearRead    APICAccessType = 0  // by an instruction
	APICLinearWrite   APICAccessType = 1  // by an instruction
	APICLinearFetch   APICAccessType = 2  // of an instruction
	APICLinearEvent   APICAccessType = 3  // during event delivery
	APICLinearAsync   APICAccessType = 4  // not by an instruction, nor during event delivery
	APICPhysicalEvent APICAccessType = 10 // during event delivery
	APICPhysicalAsync APICAccessType = 11 // not by an instruction, nor during event delivery
	APICPhysical      APICAccessType = 15 // of an instruction, or by one
)

var apicAccessNames = []string{
	"linear read", "linear write", "linear fetch", "linear, during event delivery", "linear, asynchronous",
	10: "guest-physical, during event delivery", 11: "guest-physical, asynchronous", 15: "guest-physical, for an instruction",
}

// String returns the type in words.
func (t APICAccessType) String() string { return enumName(apicAccessNames, "APICAccessType", uint8(t)) }

// MarshalText returns what String does.
func (t APICAccessType) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// UnmarshalText reads what String prints.
func (t *APICAccessType) UnmarshalText(text []byte) error {
	return parseEnum(t, apicAccessNames, "APICAccessType", text)
}

// Linear reports whether the access was to a linear address that translates to the
// page, so that its offset is known. Types that are not used are not.
func (t APICAccessType) Linear() bool { return t <= APICLinearAsync }

// An APICAccessQualification is that of an access to the APIC-access page
// (SDM Vol. 3C table 28-6).
//
//	63   17 16    15  12 11        0
//	┌──────┬─────┬──────┬───────────┐
//	│  -   │async│ type │  offset   │
//	└──────┴─────┴──────┴───────────┘
type APICAccessQualification uint64

// Offset returns the offset in the page, which is that of the register, if the
// type is Linear, and 0 otherwise.
func (q APICAccessQualification) Offset() uint16 {
	if !q.Type().Linear() {
		return 0
	}
	return uint16(q & 0xfff)
}

// Type returns the type of the access.
func (q APICAccessQualification) Type() APICAccessType { return APICAccessType(q >> 12 & 15) }

// Asynchronous reports whether the access was neither by an instruction nor during
// event delivery: by Intel PT, PEBS or the delivery of a user interrupt.
func (q APICAccessQualification) Asynchronous() bool { return bit(uint64(q), 16) }

// String tells the type, and the offset if there is one.
func (q APICAccessQualification) String() string {
	s := q.Type().String()
	if q.Type().Linear() {
		s += fmt.Sprintf(", offset %#x", q.Offset())
	}
	if q.Asynchronous() {
		s += ", asynchronous to instructions"
	}
	return s
}

// An APICWriteQualification is that of an APIC write (SDM Vol. 3C 28.2.1): the offset
// in the virtual-APIC page that was written, bits 11:0.
type APICWriteQualification uint64

// Offset returns the offset, which is that of the register.
func (q APICWriteQualification) Offset() uint16 { return uint16(q & 0xfff) }

// String tells the offset.
func (q APICWriteQualification) String() string { return fmt.Sprintf("offset %#x", q.Offset()) }

// An EPTViolationQualification is that of an EPT violation (SDM Vol. 3C table 28-7).
//
//	 16  15 14  13  12 11  10  9  8  7  6  5  4  3  2  1  0
//	┌───┬──┬───┬───┬──┬──┬───┬──┬──┬──┬──┬──┬──┬──┬──┬──┬──┐
//	│asy│GV│SSP│SS │N │XD│R/W│US│tr│la│UX│ X│ W│ R│ f│ w│ r│
//	└───┴──┴───┴───┴──┴──┴───┴──┴──┴──┴──┴──┴──┴──┴──┴──┴──┘
//	                   └ paging ┘          └ EPT ────┘└access┘
type EPTViolationQualification uint64

// Bits of an EPTViolationQualification.
const (
	EPTRead                  EPTViolationQualification = 1 << 0  // a data read
	EPTWrite                 EPTViolationQualification = 1 << 1  // a data write; with or without EPTRead if a read-modify-write
	EPTFetch                 EPTViolationQualification = 1 << 2  // an instruction fetch
	EPTReadable              EPTViolationQualification = 1 << 3  // the EPT entries allow reads
	EPTWritable              EPTViolationQualification = 1 << 4  // the EPT entries allow writes
	EPTExecutable            EPTViolationQualification = 1 << 5  // the EPT entries allow fetches (of supervisor-mode addresses)
	EPTUserExecutable        EPTViolationQualification = 1 << 6  // the EPT entries allow fetches of user-mode addresses; undefined without mode-based execute control
	EPTLinearAddress         EPTViolationQualification = 1 << 7  // the guest-linear address is valid
	EPTTranslation           EPTViolationQualification = 1 << 8  // the access was to what the linear address translates to
	EPTUserAddress           EPTViolationQualification = 1 << 9  // paging has the linear address in user mode
	EPTWritablePage          EPTViolationQualification = 1 << 10 // paging allows writes to it
	EPTExecuteDisable        EPTViolationQualification = 1 << 11 // paging does not allow fetches
	EPTNMIUnblocking         EPTViolationQualification = 1 << 12 // NMI unblocking due to IRET (28.2.3)
	EPTShadowStack           EPTViolationQualification = 1 << 13 // a shadow-stack access
	EPTSupervisorShadowStack EPTViolationQualification = 1 << 14 // bit 60 of the EPT entry; undefined without supervisor shadow-stack control
	EPTPagingVerification    EPTViolationQualification = 1 << 15 // guest-paging verification caused it (29.3.3.2)
	EPTAsynchronous          EPTViolationQualification = 1 << 16 // neither by an instruction nor during event delivery
)

// Read reports whether the access was a data read.
func (q EPTViolationQualification) Read() bool { return q&EPTRead != 0 }

// Write reports whether the access was a data write. A read-modify-write is one, and
// so is any access of the processor to the guest's paging structures if EPT has
// accessed and dirty flags.
func (q EPTViolationQualification) Write() bool { return q&EPTWrite != 0 }

// Fetch reports whether the access was an instruction fetch.
func (q EPTViolationQualification) Fetch() bool { return q&EPTFetch != 0 }

// Rights returns what the EPT entries allow, bits 6:3: reads (1), writes (2), fetches
// (4), fetches of user-mode addresses (8, undefined without mode-based execute
// control). They are 0 if an entry was not present.
func (q EPTViolationQualification) Rights() uint8 { return uint8(q >> 3 & 15) }

// Present reports whether every EPT entry was present, which it is if it allows
// anything. Without mode-based execute control bit 6 is undefined, and so it counts
// only if mbec is set.
func (q EPTViolationQualification) Present(mbec bool) bool {
	any := EPTReadable | EPTWritable | EPTExecutable
	if mbec {
		any |= EPTUserExecutable
	}
	return q&any != 0
}

// LinearAddress reports whether the guest-linear address is valid.
func (q EPTViolationQualification) LinearAddress() bool { return q&EPTLinearAddress != 0 }

// Translation reports whether the access was to the address that the linear address
// translates to. Otherwise, if LinearAddress, it was to a paging-structure entry on
// the way there.
func (q EPTViolationQualification) Translation() bool {
	return q&(EPTLinearAddress|EPTTranslation) == EPTLinearAddress|EPTTranslation
}

// PageWalk reports whether the access was to an entry of the guest's paging
// structures.
func (q EPTViolationQualification) PageWalk() bool {
	return q&(EPTLinearAddress|EPTTranslation) == EPTLinearAddress
}

// Paging returns what the guest's paging says of the linear address: that it is a
// user-mode address, that it can be written, that it cannot be executed. It is
// defined if Translation, on processors that have advanced VM-exit information for
// EPT violations (IA32_VMX_EPT_VPID_CAP[22]).
func (q EPTViolationQualification) Paging() (user, writable, executeDisable bool) {
	return q&EPTUserAddress != 0, q&EPTWritablePage != 0, q&EPTExecuteDisable != 0
}

// NMIUnblocking reports whether an IRET had ended the blocking of NMIs; see
// [NMIUnblocking].
func (q EPTViolationQualification) NMIUnblocking() bool { return q&EPTNMIUnblocking != 0 }

// ShadowStack reports whether the access was a shadow-stack access.
func (q EPTViolationQualification) ShadowStack() bool { return q&EPTShadowStack != 0 }

// SupervisorShadowStack reports whether the EPT entry marks the page as one for
// supervisor shadow stacks. It is defined if EPTP[7] is 1 and Present.
func (q EPTViolationQualification) SupervisorShadowStack() bool {
	return q&EPTSupervisorShadowStack != 0
}

// PagingVerification reports whether guest-paging verification caused the EPT
// violation.
func (q EPTViolationQualification) PagingVerification() bool { return q&EPTPagingVerification != 0 }

// Asynchronous reports whether the access was neither by an instruction nor during
// event delivery: by Intel PT, PEBS or the delivery of a user interrupt.
func (q EPTViolationQualification) Asynchronous() bool { return q&EPTAsynchronous != 0 }

var eptBits = []namedBit{
	{12, "NMI unblocking"}, {13, "shadow-stack access"}, {14, "supervisor shadow-stack page"},
	{15, "guest-paging verification"}, {16, "asynchronous to instructions"},
}

// String tells the access, the rights in EPT as RWX and U for user-mode fetches, and
// what else is set: "write; EPT rights R-X; translation of the linear address".
func (q EPTViolationQualification) String() string {
	access := appendBits(nil, uint64(q), []namedBit{{0, "read"}, {1, "write"}, {2, "fetch"}})
	if len(access) == 0 {
		access = []string{"no access told"}
	}
	rights := []byte("---")
	for i := range rights {
		if bit(uint64(q), uint(3+i)) {
			rights[i] = "RWX"[i]
		}
	}
	if q&EPTUserExecutable != 0 {
		rights = append(rights, 'U')
	}
	var more []string
	switch {
	case q.Translation():
		more = append(more, "translation of the linear address")
		more = appendBits(more, uint64(q), []namedBit{{9, "user-mode address"}, {10, "writable page"}, {11, "execute-disable page"}})
	case q.PageWalk():
		more = append(more, "page walk")
	default:
		more = append(more, "no linear address")
	}
	return strings.Join(access, " and ") + "; EPT rights " + string(rights) + "; " + list(appendBits(more, uint64(q), eptBits))
}

// A PMLQualification is that of a full page-modification log (SDM Vol. 3C 28.2.1).
//
//	63   17 16    15 13 12 11      0
//	┌──────┬─────┬─────┬──┬─────────┐
//	│  -   │async│  -  │N │    -    │
//	└──────┴─────┴─────┴──┴─────────┘
//
// N: NMI unblocking due to IRET.
type PMLQualification uint64

// NMIUnblocking reports whether an IRET had ended the blocking of NMIs; see
// [NMIUnblocking].
func (q PMLQualification) NMIUnblocking() bool { return q&nmiUnblocking != 0 }

// Asynchronous reports whether the access was neither by an instruction nor during
// event delivery.
func (q PMLQualification) Asynchronous() bool { return bit(uint64(q), 16) }

// String lists the bits that are 1.
func (q PMLQualification) String() string {
	return list(appendBits(nil, uint64(q), []namedBit{{12, "NMI unblocking"}, {16, "asynchronous to instructions"}}))
}

// An SPPQualification is that of an SPP-related event (SDM Vol. 3C 28.2.1).
//
//	63   17 16    15 13 12  11  10     0
//	┌──────┬─────┬─────┬──┬────┬────────┐
//	│  -   │async│  -  │N │miss│   -    │
//	└──────┴─────┴─────┴──┴────┴────────┘
//
// N: NMI unblocking due to IRET.
type SPPQualification uint64

// Miss reports whether an entry on the way to the SPP vector was not present (SPP
// miss); otherwise one is not valid (SPP misconfiguration).
func (q SPPQualification) Miss() bool { return bit(uint64(q), 11) }

// NMIUnblocking reports whether an IRET had ended the blocking of NMIs; see
// [NMIUnblocking].
func (q SPPQualification) NMIUnblocking() bool { return q&nmiUnblocking != 0 }

// Asynchronous reports whether the access was neither by an instruction nor during
// event delivery.
func (q SPPQualification) Asynchronous() bool { return bit(uint64(q), 16) }

// String tells the event, and lists the other bits that are 1.
func (q SPPQualification) String() string {
	event := "SPP misconfiguration"
	if q.Miss() {
		event = "SPP miss"
	}
	return list(appendBits([]string{event}, uint64(q), []namedBit{{12, "NMI unblocking"}, {16, "asynchronous to instructions"}}))
}
