//go:build !linux

package vmcs

import (
	"errors"
	"fmt"
)

// An MSRDevice reads the MSRs of one processor through Linux' msr driver. There
// is none on this system.
type MSRDevice struct{}

// OpenMSRDevice fails: it is for Linux.
func OpenMSRDevice(n int) (*MSRDevice, error) {
	return nil, fmt.Errorf("vmcs: reading MSRs of processor %d: %w here; Linux has a device for that", n, errors.ErrUnsupported)
}

// ReadMSR fails: it is for Linux.
func (*MSRDevice) ReadMSR(msr uint32) (uint64, error) { return 0, errors.ErrUnsupported }

// Close does nothing.
func (*MSRDevice) Close() error { return nil }
