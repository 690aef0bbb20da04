package machine

import (
	"bytes"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/govtx/vtx/internal/bootproto"
)

const installQEMU = "install with: apt-get install qemu-system-x86"

// qemuCommand starts QEMU without a display, a network or a monitor. Output
// comes through the debug console, which is also what the guest looks for.
func qemuCommand(c *Config, dir string) (*command, error) {
	path, err := lookPath(c.Emulator, "qemu-system-x86_64", installQEMU)
	if err != nil {
		return nil, err
	}
	args := []string{
		"-nodefaults", "-no-user-config", "-display", "none", "-vga", "std",
		"-machine", "pc", "-cpu", c.CPU, "-m", strconv.FormatUint(c.Memory>>20, 10),
		"-no-reboot", "-d", "cpu_reset", // says "Triple fault" on standard error
		"-chardev", "stdio,id=out,signal=off",
		"-device", fmt.Sprintf("isa-debugcon,iobase=%#x,chardev=out", bootproto.PortE9),
		"-device", fmt.Sprintf("isa-debug-exit,iobase=%#x,iosize=4", bootproto.PortQEMUExit),
	}
	if c.wantsSerial() {
		args = append(args, "-serial", "file:"+serialName)
	}
	switch {
	case c.isCD():
		args = append(args, "-cdrom", cdName, "-boot", "d")
	case c.Disk || c.Raw:
		args = append(args, "-drive", "file="+diskName+",format=raw,if=ide")
	default:
		args = append(args, "-kernel", elfName)
	}
	return &command{path: path, args: args}, nil
}

// qemuDiagnose explains from standard error why QEMU ended before the guest did.
func qemuDiagnose(c *Config, path string, log []byte, wait error) error {
	switch {
	case bytes.Contains(log, []byte("unable to find CPU model")):
		return fmt.Errorf("%w: QEMU does not know %q; see the list with: %s -cpu help", ErrCPUModel, c.CPU, path)
	case bytes.Contains(log, []byte("Triple fault")):
		return fmt.Errorf("%w: an exception while delivering a double fault stopped the processor; QEMU does not say where, -machine bochs does", ErrTripleFault)
	case c.Raw && wait == nil: // switched off, or reset: -no-reboot
		return errOff
	}
	return died(c, path, log, wait, func(line string) bool {
		return strings.HasPrefix(line, filepath.Base(path)) || strings.HasPrefix(line, "qemu")
	})
}
