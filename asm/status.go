package asm

import (
	"errors"
	"strconv"
)

// Status is how a VMX instruction ended (SDM Vol. 3C 31.2).
//
//	Status        RFLAGS   manual          VM-instruction error field
//	Succeed       CF=ZF=0  VMsucceed       unchanged
//	FailInvalid   CF=1     VMfailInvalid   there is no current VMCS to hold it
//	FailValid     ZF=1     VMfailValid     says what was wrong (Vol. 3C 31.4)
type Status uint8

// The values of Status.
const (
	Succeed     Status = 0
	FailInvalid Status = 1
	FailValid   Status = 2
)

// The errors of Status.
var (
	ErrFailInvalid = errors.New("asm: VMfailInvalid: no current VMCS (run VMPTRLD), or the physical address or revision is bad")
	ErrFailValid   = errors.New("asm: VMfailValid: read VMCS field 0x4400 for the VM-instruction error")
)

// String returns the manual's name.
func (s Status) String() string {
	switch s {
	case Succeed:
		return "VMsucceed"
	case FailInvalid:
		return "VMfailInvalid"
	case FailValid:
		return "VMfailValid"
	}
	return "Status(" + strconv.Itoa(int(s)) + ")"
}

// Err returns nil, [ErrFailInvalid] or [ErrFailValid]. An unknown status is
// taken for the latter.
func (s Status) Err() error {
	switch s {
	case Succeed:
		return nil
	case FailInvalid:
		return ErrFailInvalid
	}
	return ErrFailValid
}
