package vmexit

import (
	"fmt"

	"github.com/govtx/vtx/vmcs"
)

// A QualificationFormat is a format of the exit qualification (SDM Vol. 3C 28.2.1
// and, for failed entries, 27.8). Each has a type.
type QualificationFormat uint8

// Formats of the exit qualification.
const (
	QualificationNone          QualificationFormat = iota // 0
	QualificationEvent                                    // of ExceptionOrNMI: depends on the event
	QualificationDebug                                    // DebugQualification
	QualificationLinearAddress                            // LinearAddressQualification
	QualificationNMI                                      // NMIQualification
	QualificationSIPI                                     // SIPIQualification
	QualificationTaskSwitch                               // TaskSwitchQualification
	QualificationDisplacement                             // DisplacementQualification
	QualificationCRAccess                                 // CRAccessQualification
	QualificationDRAccess                                 // DRAccessQualification
	QualificationIO                                       // IOQualification
	QualificationMWAIT                                    // MWAITQualification
	QualificationMSR                                      // MSRQualification
	QualificationWBINVD                                   // WBINVDQualification
	QualificationWRMSR                                    // WRMSRQualification
	QualificationAPICAccess                               // APICAccessQualification
	QualificationAPICWrite                                // APICWriteQualification
	QualificationEOI                                      // EOIQualification
	QualificationEPTViolation                             // EPTViolationQualification
	QualificationPML                                      // PMLQualification
	QualificationSPP                                      // SPPQualification
	QualificationPASID                                    // PASIDQualification
	QualificationTimeout                                  // TimeoutQualification
	QualificationGuestState                               // GuestStateQualification
	QualificationMSRLoading                               // MSRLoadingQualification
)

var qualificationNames = []string{
	"none", "event", "debug exception", "linear address", "NMI", "SIPI", "task switch", "displacement",
	"control-register access", "MOV DR", "I/O", "MWAIT", "MSR", "WBINVD", "WRMSR", "APIC access", "APIC write", "EOI",
	"EPT violation", "page-modification log full", "SPP-related event", "PASID", "instruction timeout",
	"guest state", "MSR loading",
}

// String returns what the format is for.
func (f QualificationFormat) String() string {
	return enumName(qualificationNames, "QualificationFormat", uint8(f))
}

// MarshalText returns what String does.
func (f QualificationFormat) MarshalText() ([]byte, error) { return []byte(f.String()), nil }

// UnmarshalText reads what String prints.
func (f *QualificationFormat) UnmarshalText(text []byte) error {
	return parseEnum(f, qualificationNames, "QualificationFormat", text)
}

// Value returns a qualification in the type of the format, for a type switch or to
// print it. It is nil for QualificationNone and QualificationEvent, and for
// formats that do not exist. Where the reason is known, convert to the type: that
// costs nothing.
func (f QualificationFormat) Value(q uint64) fmt.Stringer {
	switch f {
	case QualificationDebug:
		return DebugQualification(q)
	case QualificationLinearAddress:
		return LinearAddressQualification(q)
	case QualificationNMI:
		return NMIQualification(q)
	case QualificationSIPI:
		return SIPIQualification(q)
	case QualificationTaskSwitch:
		return TaskSwitchQualification(q)
	case QualificationDisplacement:
		return DisplacementQualification(q)
	case QualificationCRAccess:
		return CRAccessQualification(q)
	case QualificationDRAccess:
		return DRAccessQualification(q)
	case QualificationIO:
		return IOQualification(q)
	case QualificationMWAIT:
		return MWAITQualification(q)
	case QualificationMSR:
		return MSRQualification(q)
	case QualificationWBINVD:
		return WBINVDQualification(q)
	case QualificationWRMSR:
		return WRMSRQualification(q)
	case QualificationAPICAccess:
		return APICAccessQualification(q)
	case QualificationAPICWrite:
		return APICWriteQualification(q)
	case QualificationEOI:
		return EOIQualification(q)
	case QualificationEPTViolation:
		return EPTViolationQualification(q)
	case QualificationPML:
		return PMLQualification(q)
	case QualificationSPP:
		return SPPQualification(q)
	case QualificationPASID:
		return PASIDQualification(q)
	case QualificationTimeout:
		return TimeoutQualification(q)
	case QualificationGuestState:
		return GuestStateQualification(q)
	case QualificationMSRLoading:
		return MSRLoadingQualification(q)
	}
	return nil
}

// QualificationFormat returns the format of the exit qualification. The VM-exit
// interruption information tells, for ExceptionOrNMI, which event it was; it is not
// looked at for other reasons.
func (r Reason) QualificationFormat(info vmcs.InterruptionInfo) QualificationFormat {
	f := r.Basic().QualificationFormat()
	if f != QualificationEvent {
		return f
	}
	if !info.Valid() {
		return QualificationNone
	}
	switch t, v := info.Type(), info.Vector(); {
	case t == vmcs.EventNMI:
		return QualificationNMI
	case v == vmcs.VectorDB && (t == vmcs.EventHardwareException || t == vmcs.EventPrivilegedSoftwareException):
		return QualificationDebug
	case v == vmcs.VectorPF && t == vmcs.EventHardwareException:
		return QualificationLinearAddress
	}
	return QualificationNone
}

// Describe tells what an exit qualification says, in one line. It is "" if exits of
// this reason have none (the field is then 0).
func Describe(r Reason, info vmcs.InterruptionInfo, q uint64) string {
	if v := r.QualificationFormat(info).Value(q); v != nil {
		return v.String()
	}
	return ""
}

// bit tells whether bit n of v is 1.
func bit(v uint64, n uint) bool { return v>>n&1 != 0 }

// A named bit is a bit of a qualification that is told of if it is 1.
type namedBit struct {
	n    uint8
	name string
}

// appendBits adds the names of the bits that are 1.
func appendBits(words []string, v uint64, bits []namedBit) []string {
	for _, b := range bits {
		if bit(v, uint(b.n)) {
			words = append(words, b.name)
		}
	}
	return words
}

// A Register is a general-purpose register by the number that instructions,
// qualifications and instruction information have for it. It indexes
// [asm.Guest.Regs].
type Register uint8

var registerNames = []string{"RAX", "RCX", "RDX", "RBX", "RSP", "RBP", "RSI", "RDI", "R8", "R9", "R10", "R11", "R12", "R13", "R14", "R15"}

// String returns RAX to R15.
func (r Register) String() string { return enumName(registerNames, "Register", uint8(r)) }

// MarshalText returns what String does.
func (r Register) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText reads what String prints.
func (r *Register) UnmarshalText(text []byte) error {
	return parseEnum(r, registerNames, "Register", text)
}
