package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/govtx/vtx/internal/machine"
	"github.com/govtx/vtx/internal/require"
)

// The tests below do what docs/real-machine.md says: GRUB boots minihv on
// machines without a debug port, and the output is plain text on the serial one.

// grubDisk makes a disk that boots minihv by one of GRUB's commands.
func grubDisk(t *testing.T, command string) string {
	t.Helper()
	exe := build(t)
	for _, tool := range []string{"grub-mkrescue", "xorriso", "mformat"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skip("needs GRUB: apt-get install grub-common grub-pc-bin xorriso mtools")
		}
	}
	const modules = "/usr/lib/grub/i386-pc"
	if _, err := os.Stat(modules); err != nil {
		t.Skip("needs GRUB for BIOS machines: apt-get install grub-pc-bin")
	}
	root := filepath.Join(t.TempDir(), "root")
	boot := filepath.Join(root, "boot")
	require.NoError(t, os.MkdirAll(filepath.Join(boot, "grub"), 0o755))
	_, err := machine.Run(context.Background(), machine.Config{
		Program: exe, Machine: machine.None, Image: filepath.Join(boot, "minihv.elf"),
	})
	require.NoError(t, err)
	config := fmt.Sprintf("serial --unit=0 --speed=115200\nterminal_output console serial\n%s /boot/minihv.elf\nboot\n", command)
	require.NoError(t, os.WriteFile(filepath.Join(boot, "grub", "grub.cfg"), []byte(config), 0o600))
	disk := filepath.Join(filepath.Dir(root), "disk")
	out, err := exec.Command("grub-mkrescue", "-d", modules, "-o", disk, root).CombinedOutput()
	require.NoError(t, err, "%s", out)
	return disk
}

// A line is a serial line: it collects what comes, and calls found when that
// holds a certain text.
type line struct {
	text  string
	want  string
	found func()
}

func (l *line) Write(b []byte) (int, error) {
	l.text += string(b)
	if strings.Contains(l.text, l.want) {
		l.found()
	}
	return len(b), nil
}

func TestGRUBOnQEMU(t *testing.T) {
	for _, command := range []string{"multiboot", "multiboot2"} {
		t.Run(command, func(t *testing.T) {
			if _, err := exec.LookPath("qemu-system-x86_64"); err != nil {
				t.Skip("needs QEMU: apt-get install qemu-system-x86")
			}
			t.Parallel()
			disk := grubDisk(t, command)
			// The program cannot switch this machine off: the test does.
			ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
			defer cancel()
			l := &line{want: "minihv: vmcs: the processor has no VMX, or what runs beneath hides it (CPUID leaf 1 ECX bit 5 is 0): choose a CPU model that has it", found: cancel}
			cmd := exec.CommandContext(ctx, "qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-m", "512", "-display", "none",
				"-no-reboot", "-monitor", "none", "-nic", "none", "-serial", "stdio", "-cdrom", disk)
			cmd.Stdout = l
			require.Error(t, cmd.Run())
			require.Contains(t, l.text, l.want)
		})
	}
}

func TestGRUBOnBochs(t *testing.T) {
	for _, command := range []string{"multiboot", "multiboot2"} {
		t.Run(command, func(t *testing.T) {
			const bios, vga = "/usr/share/bochs/BIOS-bochs-latest", "/usr/share/bochs/VGABIOS-lgpl-latest"
			for _, file := range []string{bios, vga} {
				if _, err := os.Stat(file); err != nil {
					t.Skip("needs Bochs: apt-get install bochs bochsbios vgabios")
				}
			}
			if _, err := exec.LookPath("bochs"); err != nil {
				t.Skip("needs Bochs: apt-get install bochs bochsbios vgabios")
			}
			t.Parallel()
			disk := grubDisk(t, command)
			const cylinder = 16 * 63 * 512
			st, err := os.Stat(disk)
			require.NoError(t, err)
			cylinders := (st.Size() + cylinder - 1) / cylinder
			require.NoError(t, os.Truncate(disk, cylinders*cylinder))
			dir := filepath.Dir(disk)
			com1 := filepath.Join(dir, "com1")
			config := fmt.Sprintf(`display_library: rfb, options="timeout=0"
romimage: file=%s
vgaromimage: file=%s
memory: guest=256, host=256
cpu: model=tigerlake, ips=1000000, reset_on_triple_fault=0
clock: sync=none, time0=0
com1: enabled=1, mode=file, dev="%s"
sound: driver=dummy, waveoutdrv=dummy, waveindrv=dummy, midioutdrv=dummy
ata0-master: type=disk, path="%s", mode=flat, cylinders=%d, heads=16, spt=63
boot: disk
panic: action=fatal
log: "%s"
`, bios, vga, com1, disk, cylinders, filepath.Join(dir, "log"))
			require.NoError(t, os.WriteFile(filepath.Join(dir, "bochsrc"), []byte(config), 0o600))
			require.NoError(t, os.WriteFile(filepath.Join(dir, "debugger"), []byte("c\n"), 0o600))
			ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
			defer cancel()
			// Its status is 1 in any case.
			_ = exec.CommandContext(ctx, "bochs", "-q", "-f", filepath.Join(dir, "bochsrc"), "-rc", filepath.Join(dir, "debugger")).Run()
			out, err := os.ReadFile(com1)
			require.NoError(t, err)
			checkTranscript(t, strings.ReplaceAll(string(out), "\r", ""))
		})
	}
}
