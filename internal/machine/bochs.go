package machine

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
)

const installBochs = "install with: apt-get install bochs bochsbios vgabios"

// bochsCommand writes Bochs' configuration into dir, beside the disk image.
func bochsCommand(c *Config, dir string) (*command, error) {
	path, err := lookPath(c.Emulator, "bochs", installBochs)
	if err != nil {
		return nil, err
	}
	// The model goes into a configuration file where commas, quotes and
	// newlines mean something.
	if !regexp.MustCompile(`^[A-Za-z0-9_.+-]+$`).MatchString(c.CPU) {
		return nil, fmt.Errorf("%w: %q; %s", ErrCPUModel, c.CPU, bochsModels(path))
	}
	bios, err := findROM(path, "BIOS", "bochsbios", "BIOS-bochs-latest")
	if err != nil {
		return nil, err
	}
	vga, err := findROM(path, "VGA BIOS", "vgabios", "VGABIOS-lgpl-latest", "VGABIOS-lgpl-latest.bin", "vgabios.bin")
	if err != nil {
		return nil, err
	}
	devices := fmt.Sprintf("ata1-master: type=cdrom, path=\"%s\", status=inserted\nboot: cdrom", cdName)
	if !c.isCD() {
		disk, err := os.Stat(filepath.Join(dir, diskName))
		if err != nil {
			return nil, err
		}
		cylinders := (disk.Size() + bochsCylinder - 1) / bochsCylinder
		devices = fmt.Sprintf("ata0-master: type=disk, path=\"%s\", mode=flat, cylinders=%d, heads=16, spt=63\nboot: disk", diskName, cylinders)
	}
	if c.wantsSerial() {
		devices += "\ncom1: enabled=1, mode=file, dev=" + serialName
	}
	mib := c.Memory >> 20
	rc := bochsConfig{
		BIOS: bios, VGA: vga, CPU: c.CPU, IPS: c.IPS,
		Guest: mib, Host: min(mib, bochsHostMax), Devices: devices,
	}
	if err := os.WriteFile(filepath.Join(dir, "bochsrc"), rc.text(), 0o600); err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(dir, "debugger"), []byte("c\n"), 0o600); err != nil {
		return nil, err
	}
	return &command{
		path: path,
		args: []string{"-q", "-f", "bochsrc", "-rc", "debugger"},
		// The clock chip is set by local time: let that be the same everywhere.
		env: append(os.Environ(), "TZ=UTC"),
	}, nil
}

const (
	bochsHostMax  = 2048 // MiB; Bochs keeps what is above in a file
	bochsCylinder = 16 * 63 * 512
)

type bochsConfig struct {
	BIOS, VGA, CPU string
	IPS            uint64
	Guest, Host    uint64 // MiB
	Devices        string // lines: what it boots from, and the serial port
}

// text returns the bochsrc. Paths other than the ROMs' are relative to the
// private directory, so that nothing in TMPDIR's name needs quoting.
//
//   - rfb is the one display that needs no terminal and no X server. It does
//     not wait for a viewer and takes the next free port, so runs may overlap.
//   - ips says how fast the devices' time passes. It scales the BIOS's waits: a low
//     figure boots sooner, but an operating system wants a real second's worth.
//   - The first serial port, if wanted, goes to a file, which Bochs flushes at every byte.
//   - MSRs that the model does not have fault, as on a processor; by default
//     Bochs lets them read as 0.
//   - sync=none and a fixed time make runs repeat to the bit.
//   - The dummy sound drivers keep Bochs from looking for a sound card.
//   - VM-entry failures and the like are reported as errors. There is no log
//     directive, so the log goes to standard error.
func (b *bochsConfig) text() []byte {
	return fmt.Appendf(nil, `config_interface: textconfig
display_library: rfb, options="timeout=0"
romimage: file="%s"
vgaromimage: file="%s"
memory: guest=%d, host=%d
cpu: model=%s, count=1, ips=%d, reset_on_triple_fault=0, ignore_bad_msrs=0
clock: sync=none, time0=%d
port_e9_hack: enabled=1
sound: driver=dummy, waveoutdrv=dummy, waveindrv=dummy, midioutdrv=dummy
%s
panic: action=fatal
error: action=report
info: action=report
debug: action=ignore
`, b.BIOS, b.VGA, b.Guest, b.Host, b.CPU, b.IPS, fixedEpoch, b.Devices)
}

// romDirs is where Debian's packages and Bochs' own installation put ROM images.
var romDirs = []string{"/usr/share/bochs", "/usr/local/share/bochs", "/usr/share/vgabios"}

// findROM looks for a ROM image where Bochs and Debian keep them.
func findROM(bochs, what, pkg string, names ...string) (string, error) {
	dirs := []string{os.Getenv("BXSHARE")} // what Bochs itself goes by
	if real, err := filepath.EvalSymlinks(bochs); err == nil {
		dirs = append(dirs, filepath.Join(filepath.Dir(real), "..", "share", "bochs"))
	}
	dirs = append(dirs, romDirs...)
	for _, dir := range dirs {
		if dir == "" || strings.ContainsAny(dir, "\"\n$") {
			continue // cannot be written in a bochsrc
		}
		for _, name := range names {
			path := filepath.Join(dir, name)
			if st, err := os.Stat(path); err == nil && st.Mode().IsRegular() {
				return path, nil
			}
		}
	}
	return "", fmt.Errorf("%w: Bochs' %s %s (package %s) is in none of %s; %s, or set BXSHARE to the directory that holds it",
		ErrNoEmulator, what, names[0], pkg, strings.Join(dirs[1:], ", "), installBochs)
}

// bochsModels lists the CPU models that the installed Bochs knows.
func bochsModels(path string) string {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, "--help", "cpu")
	cmd.SysProcAttr = ownGroup()
	cmd.WaitDelay = time.Second
	cmd.Cancel = func() error { killGroup(cmd.Process); return nil }
	var all tail
	all.max = tailBytes
	cmd.Stdout, cmd.Stderr = &all, &all
	_ = cmd.Run()
	var models []string
	_, list, _ := bytes.Cut(all.bytes(), []byte("Supported CPU models:"))
	for _, line := range printable(list, 200, nil) {
		if !regexp.MustCompile(`^[a-z0-9_]+$`).MatchString(line) {
			break
		}
		models = append(models, line)
	}
	if len(models) == 0 {
		return fmt.Sprintf("see the list with: %s --help cpu", path)
	}
	return "pass -cpu with one of: " + strings.Join(models, ", ")
}

var (
	bochsTriple = regexp.MustCompile(`3rd \((\d+)\) exception with no resolution`)
	bochsPanic  = regexp.MustCompile(`>>PANIC<< (.*)`)
	bochsIP     = regexp.MustCompile(`\| [RE]IP=([0-9a-f]+)`)
	bochsError  = regexp.MustCompile(`^\d+[ep]\[`)
)

// bochsDiagnose explains from the log why Bochs ended before the guest did.
func bochsDiagnose(c *Config, path string, log []byte, wait error) error {
	if m := bochsTriple.FindSubmatch(log); m != nil {
		vector, _ := strconv.Atoi(string(m[1]))
		// The registers stand before the message and once more behind it.
		where := ""
		if ips := bochsIP.FindAllSubmatch(log, -1); len(ips) > 0 {
			where = c.locate(string(ips[len(ips)-1][1]))
		}
		return fmt.Errorf("%w: an exception while delivering a double fault (vector %d) stopped the processor%s; -log FILE keeps the registers and what led to it",
			ErrTripleFault, vector, where)
	}
	message := ""
	if m := bochsPanic.FindSubmatch(log); m != nil {
		message = strings.Join(printable(m[1], 1, nil), "")
	}
	switch {
	case strings.HasPrefix(message, "RFB could not bind any port"):
		return fmt.Errorf("%w: Bochs says: %s", errBusy, message)
	case bytes.Contains(log, []byte("wrong value for parameter 'model'")):
		return fmt.Errorf("%w: Bochs does not know %q; %s", ErrCPUModel, c.CPU, bochsModels(path))
	case c.Raw && (strings.Contains(message, "hutdown requested") || strings.Contains(message, "power off")):
		return errOff
	case bytes.Contains(log, []byte("hutdown requested")):
		return fmt.Errorf("%w: the guest switched the machine off without saying its exit status; does the program import package ring0, and did it end by os.Exit or by returning from main?", ErrNoExit)
	case message != "":
		return fmt.Errorf("%w: Bochs says: %s; -log FILE keeps its whole log", ErrEmulator, message)
	}
	return died(c, path, log, wait, bochsError.MatchString)
}
