package main

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
)

// modules are what KVM consists of, in the order in which init loads them.
var modules = []string{"irqbypass.ko", "kvm.ko", "kvm-intel.ko"}

// A ramdisk is an archive in the form that a kernel unpacks first of all: cpio, "newc"
// (Linux, Documentation/driver-api/early-userspace/buffer-format.rst).
type ramdisk struct {
	bytes.Buffer
	inode int
}

const (
	modeDirectory = 0o040000
	modeDevice    = 0o020000
	modeFile      = 0o100000
)

// add adds a file, or a character device with its numbers.
func (r *ramdisk) add(name string, mode int, major, minor int, content []byte) {
	r.inode++
	fmt.Fprintf(r, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
		r.inode, mode, 0, 0, 1, 0, len(content), 0, 0, major, minor, len(name)+1, 0, name)
	r.align()
	r.Write(content)
	r.align()
}

func (r *ramdisk) align() { r.Write(make([]byte, -r.Len()&3)) }

// newRamdisk makes one with this program as init, KVM's modules, and the console for init
// to print on. Root holds a kernel's packages, unpacked.
func newRamdisk(program, root string) ([]byte, error) {
	var r ramdisk
	content, err := os.ReadFile(program)
	if err != nil {
		return nil, err
	}
	r.add("init", modeFile|0o755, 0, 0, content)
	r.add("dev", modeDirectory|0o755, 0, 0, nil)
	r.add("dev/console", modeDevice|0o600, 5, 1, nil)
	for _, name := range modules {
		path, err := find(root, name)
		if err != nil {
			return nil, err
		}
		if content, err = os.ReadFile(path); err != nil {
			return nil, err
		}
		r.add(name, modeFile|0o644, 0, 0, content)
	}
	r.add("TRAILER!!!", 0, 0, 0, nil)
	return r.Bytes(), nil
}

// find returns the one file below root with a name that matches the pattern.
func find(root, pattern string) (string, error) {
	var found []string
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if ok, err := filepath.Match(pattern, d.Name()); err != nil {
			return err
		} else if ok && d.Type().IsRegular() {
			found = append(found, path)
		}
		return nil
	})
	if err == nil && len(found) != 1 {
		err = fmt.Errorf("%s has %d files %s, want one: %q", root, len(found), pattern, found)
	}
	if err != nil {
		return "", err
	}
	return found[0], nil
}

// The geometry that Bochs is told: a disk is whole cylinders.
const cylinder = 16 * 63 * 512

// newDisk makes a disk in dir from which GRUB boots the kernel, and returns its path.
func newDisk(dir, kernel, options string, initrd []byte) (string, error) {
	tree := filepath.Join(dir, "tree")
	if err := os.MkdirAll(filepath.Join(tree, "boot", "grub"), 0o755); err != nil {
		return "", err
	}
	vmlinuz, err := os.ReadFile(kernel)
	if err != nil {
		return "", err
	}
	for name, content := range map[string][]byte{
		"vmlinuz": vmlinuz, "initrd": initrd,
		"grub/grub.cfg": fmt.Appendf(nil, "linux /boot/vmlinuz %s\ninitrd /boot/initrd\nboot\n", options),
	} {
		if err := os.WriteFile(filepath.Join(tree, "boot", name), content, 0o600); err != nil {
			return "", err
		}
	}
	disk := filepath.Join(dir, "disk")
	if out, err := exec.Command("grub-mkrescue", "-d", "/usr/lib/grub/i386-pc", "-o", disk, tree).CombinedOutput(); err != nil {
		return "", fmt.Errorf("grub-mkrescue: %w\n%s", err, out)
	}
	st, err := os.Stat(disk)
	if err != nil {
		return "", err
	}
	return disk, os.Truncate(disk, (st.Size()+cylinder-1)/cylinder*cylinder)
}

// writeBochs writes Bochs' configuration into dir, which has the disk, and returns the file
// that will have what comes out of the first serial port.
func writeBochs(dir, disk, cpu string, clock int) (serial string, err error) {
	st, err := os.Stat(disk)
	if err != nil {
		return "", err
	}
	bios, err := rom("BIOS-bochs-latest")
	if err != nil {
		return "", err
	}
	vga, err := rom("VGABIOS-lgpl-latest", "VGABIOS-lgpl-latest.bin", "vgabios.bin")
	if err != nil {
		return "", err
	}
	serial = filepath.Join(dir, "serial")
	config := fmt.Appendf(nil, `config_interface: textconfig
display_library: rfb, options="timeout=0"
romimage: file="%s"
vgaromimage: file="%s"
memory: guest=512, host=512
cpu: model=%s, count=1, ips=%d, reset_on_triple_fault=0
clock: sync=none, time0=0
com1: enabled=1, mode=file, dev="serial"
sound: driver=dummy, waveoutdrv=dummy, waveindrv=dummy, midioutdrv=dummy
ata0-master: type=disk, path="%s", mode=flat, cylinders=%d, heads=16, spt=63
boot: disk
panic: action=fatal
error: action=report
info: action=ignore
debug: action=ignore
log: "log"
`, bios, vga, cpu, clock, filepath.Base(disk), st.Size()/cylinder)
	for name, content := range map[string][]byte{"bochsrc": config, "debugger": []byte("c\n"), "serial": nil} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			return "", err
		}
	}
	return serial, nil
}

// rom finds a ROM image where Bochs' packages keep them.
func rom(names ...string) (string, error) {
	dirs := []string{os.Getenv("BXSHARE"), "/usr/share/bochs", "/usr/local/share/bochs", "/usr/share/vgabios"}
	for _, dir := range dirs {
		for _, name := range names {
			path := filepath.Join(dir, name)
			if st, err := os.Stat(path); dir != "" && err == nil && st.Mode().IsRegular() {
				return path, nil
			}
		}
	}
	return "", fmt.Errorf("no file %s in %q: install Bochs with bochsbios and vgabios, or set BXSHARE to the directory that has it", names[0], dirs)
}

// tailer copies what is appended to a file.
type tailer struct {
	path string
	at   int64
}

// read returns what has come since the last call.
func (t *tailer) read() (string, error) {
	f, err := os.Open(t.path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	if _, err := f.Seek(t.at, io.SeekStart); err != nil {
		return "", err
	}
	b, err := io.ReadAll(f)
	t.at += int64(len(b))
	return string(b), err
}
