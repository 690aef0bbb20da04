package vmcs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
)

// An MSRDevice reads the MSRs of one processor through Linux' msr driver.
type MSRDevice struct{ file *os.File }

// OpenMSRDevice opens /dev/cpu/N/msr for processor n. That needs the msr module,
// and the right to read the file: root and CAP_SYS_RAWIO.
func OpenMSRDevice(n int) (*MSRDevice, error) {
	return openMSRDevice("/dev/cpu/" + strconv.Itoa(n) + "/msr")
}

func openMSRDevice(name string) (*MSRDevice, error) {
	f, err := os.Open(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("vmcs: %w; load the driver with: modprobe msr", err)
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("vmcs: %w; run it as root with CAP_SYS_RAWIO", err)
	case err != nil:
		return nil, fmt.Errorf("vmcs: %w; is the msr driver there (modprobe msr), and the processor online?", err)
	}
	return &MSRDevice{f}, nil
}

// ReadMSR reads one register. For one that does not exist the driver answers
// with EIO.
func (d *MSRDevice) ReadMSR(msr uint32) (uint64, error) {
	var b [8]byte
	if _, err := d.file.ReadAt(b[:], int64(msr)); err != nil {
		return 0, err
	}
	return binary.LittleEndian.Uint64(b[:]), nil
}

// Close closes the file.
func (d *MSRDevice) Close() error { return d.file.Close() }
