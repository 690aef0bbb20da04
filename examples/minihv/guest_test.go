package main

import (
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/govtx/vtx/internal/machine"
	"github.com/govtx/vtx/internal/require"
	"github.com/govtx/vtx/ring0"
)

// hostileKernel assembles testdata/guest.S and returns the file of the kernel.
func hostileKernel(t *testing.T) string {
	t.Helper()
	if ring0.Active() {
		t.Skip("this test boots machines; it runs on the host")
	}
	for _, tool := range []string{"as", "objcopy"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skip("needs GNU binutils: apt-get install binutils")
		}
	}
	dir := t.TempDir()
	object, binary := filepath.Join(dir, "guest.o"), filepath.Join(dir, "guest.bin")
	text, err := exec.Command("as", "--64", "-o", object, "testdata/guest.S").CombinedOutput()
	require.NoError(t, err, "%s", text)
	text, err = exec.Command("objcopy", "-O", "binary", "-j", ".text", object, binary).CombinedOutput()
	require.NoError(t, err, "%s", text)
	code, err := os.ReadFile(binary)
	require.NoError(t, err)
	file := bzImage(len(code))
	copy(file[1024:], code)
	return write(t, dir, "kernel", file)
}

func write(t *testing.T, dir, name string, content []byte) string {
	t.Helper()
	path := filepath.Join(dir, name)
	require.NoError(t, os.WriteFile(path, content, 0o600))
	return path
}

// bootKernel boots minihv with a kernel, and returns what the guest has put out besides.
func bootKernel(t *testing.T, exe, kernel string, cfg machine.Config, args ...string) (stdout, stderr, serial string, status int) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "serial")
	cfg.Program, cfg.Machine, cfg.SerialFile = exe, machine.Bochs, file
	cfg.Modules = append(cfg.Modules, machine.Module{Name: "kernel", File: kernel})
	cfg.Args = append([]string{"-kernel", "kernel", "-memory", "96"}, args...)
	stdout, stderr, status = boot(t, cfg)
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	return stdout, stderr, string(text), status
}

// Whatever a guest does to the machine that it has been given, the hypervisor stays in control:
// the guest turns its machine off at the end, or it is said what became of it.
func TestHostileGuest(t *testing.T) {
	exe, kernel := build(t), hostileKernel(t)
	const reset = "the guest has reset its processor (INIT)"
	for _, tt := range []struct {
		name, letter string
		args         []string
		cpu          string
		ends         string // what minihv says; "": the guest turns the machine off, having said "ok"
	}{
		{name: "triple fault", letter: "3", ends: "vmexit: triple fault: the guest cannot go on; reset it"},
		{name: "HLT without interrupts", letter: "h", args: []string{"-instructions", "80000000"}, ends: "the guest has taken more than 80000000 instructions, and shows:"},
		{name: "endless loop", letter: "l", args: []string{"-instructions", "80000000"}, ends: "the guest has taken more than 80000000 instructions, and shows:"},
		{name: "endless #DB", letter: "d", args: []string{"-instructions", "80000000"}, ends: "the guest has taken more than 80000000 instructions, and shows:"},
		{name: "instructions that are not there", letter: "x"},
		{name: "INIT", letter: "i", ends: reset},
		{name: "NMI and SMI", letter: "n"},
		// The interrupt command register as the guest writes it in x2APIC mode (SDM Vol. 3A 11.12.9): its
		// own ID is 0, its logical ID 1.
		{name: "x2APIC, INIT to its ID", letter: "I0000000000004500", ends: reset},
		{name: "x2APIC, INIT to another ID", letter: "S0000000100004500"},
		{name: "x2APIC, INIT to all IDs", letter: "Iffffffff00004500", ends: reset},
		{name: "x2APIC, INIT to its logical ID", letter: "I0000000100004d00", ends: reset},
		{name: "x2APIC, INIT to another logical ID", letter: "S0000000200004d00"},
		{name: "x2APIC, INIT to another cluster", letter: "S0001000100004d00"},
		{name: "x2APIC, INIT to all logical IDs", letter: "Iffffffff00004d00", ends: reset},
		{name: "x2APIC, INIT to all", letter: "I0000000000084500", ends: reset},
		{name: "x2APIC, INIT to all others", letter: "S00000000000c4500"},
		{name: "x2APIC, end of INIT", letter: "S0000000000008500"},
		{name: "x2APIC, start-up to its ID", letter: "S0000000000004608"},
		{name: "x2APIC, start-up to its logical ID", letter: "S0000000100004e08"},
		{name: "x2APIC, SMI to its ID", letter: "S0000000000004200"},
		{name: "x2APIC, SMI to its logical ID", letter: "S0000000100004a00"},
		{name: "x2APIC, NMI to its ID", letter: "N0000000000004400"},
		{name: "x2APIC, NMI to its logical ID", letter: "N0000000100004c00"},
		{name: "x2APIC, NMI to all", letter: "N0000000000084400"},
		{name: "x2APIC, NMI to all others", letter: "S00000000000c4400"},
		{name: "reset by the keyboard controller's pulse", letter: "r", ends: "the guest has reset the machine"},
		{name: "reset by the keyboard controller's output port", letter: "R", ends: "the guest has reset the machine"},
		{name: "reset by port 0x92", letter: "9", ends: "the guest has reset the machine"},
		{name: "reset by port 0xcf9", letter: "c", ends: "the guest has reset the machine"},
		{name: "time-stamp counter", letter: "t"},
		{name: "all MSRs", letter: "m"},
		{name: "all MSRs, icelake", letter: "m", cpu: "corei7_icelake_u"},
		{name: "all MSRs, tigerlake", letter: "m", cpu: "tigerlake"},
		{name: "all ports", letter: "p"},
		{name: "addresses of devices", letter: "a"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			stdout, stderr, serial, status := bootKernel(t, exe, kernel, machine.Config{CPU: tt.cpu}, append(tt.args, "-append", tt.letter)...)
			if tt.ends == "" {
				require.Zero(t, status, "%s%s%s", stdout, stderr, serial)
				require.True(t, strings.HasSuffix(serial, "\nok\n"), serial)
				require.True(t, strings.HasSuffix(stdout, "guest      turned off\n"), stdout)
				return
			}
			require.Equal(t, 1, status, "%s%s", stdout, stderr)
			_, last, _ := strings.Cut(stderr, "\nminihv: ")
			require.Contains(t, last, tt.ends)
			require.Contains(t, stderr, "Guest register state")
			require.NotContains(t, serial, "it has survived")
		})
	}
}

// Guests that nobody here wrote run unmodified: iPXE, which begins in real-address mode, until
// its banner; memtest86+ until it has run some tests, seen on its serial console as well.
func TestOtherGuests(t *testing.T) {
	exe := build(t)
	const limit = "3000000000"
	for _, tt := range []struct {
		name, file, cpu string
		args            []string
		shows           []string
		serial          []string
	}{
		{"iPXE", "ipxe.lkrn", "corei7_skylake_x", []string{"-until", "iPXE 1."}, []string{"Open Source Network Boot Firmware", `shows "iPXE 1."`}, nil},
		{"iPXE", "ipxe.lkrn", "corei7_icelake_u", []string{"-until", "iPXE 1."}, []string{"Open Source Network Boot Firmware", `shows "iPXE 1."`}, nil},
		{"iPXE", "ipxe.lkrn", "tigerlake", []string{"-until", "iPXE 1."}, []string{"Open Source Network Boot Firmware", `shows "iPXE 1."`}, nil},
		{"memtest86+", "memtest86+x64.bin", "corei7_skylake_x", []string{"-append", "console=ttyS0,115200", "-until", "Test #2"},
			[]string{"Memory  :   96MB", "Errors: 0", `shows "Test #2"`}, []string{"Memtest86+ v", "[Address test, "}},
	} {
		t.Run(tt.name+", "+tt.cpu, func(t *testing.T) {
			kernel := filepath.Join("../../.build/guests/boot", tt.file)
			if _, err := os.Stat(kernel); err != nil {
				t.Skip("needs Debian's packages ipxe and memtest86+: run scripts/guests.sh")
			}
			t.Parallel()
			// With fewer instructions to a second both wait for the timer most of the time.
			stdout, stderr, serial, status := bootKernel(t, exe, kernel, machine.Config{CPU: tt.cpu, IPS: 10_000_000}, append(tt.args, "-instructions", limit)...)
			require.Zero(t, status, "%s%s", stdout, stderr)
			for _, s := range tt.shows {
				require.Contains(t, stdout, s)
			}
			for _, s := range tt.serial {
				require.Contains(t, serial, s)
			}
		})
	}
}

// What cannot be booted is refused, and it is said what to do.
func TestBadGuests(t *testing.T) {
	exe := build(t)
	dir := t.TempDir()
	le := binary.LittleEndian
	changed := func(change func(b []byte)) []byte {
		b := bzImage(4096)
		change(b)
		return b
	}
	program, err := os.ReadFile(exe)
	require.NoError(t, err)
	for i, tt := range []struct {
		name   string
		kernel []byte
		more   int // bytes of another module, "more"
		args   []string
		want   string
	}{
		{"a text file", []byte(strings.Repeat("not a kernel\n", 100)), 0, nil, `the kernel has no boot header (0x6120 at 0x1fe, "erne" at 0x202): is it a bzImage?`},
		{"a short file", []byte("#!/bin/sh\n"), 0, nil, "the kernel has 10 bytes, which is not even its header: is it a bzImage?"},
		{"an ELF file", program, 0, nil, "the kernel has no boot header"},
		{"a zImage", changed(func(b []byte) { b[bootLoadFlags] = 0 }), 0, nil, "the kernel is a zImage, for memory below 1 MiB: build a bzImage"},
		{"cut off", bzImage(4096)[:1024], 0, nil, "the kernel has 1024 bytes, but its real-mode part alone is to have 1024"},
		{"it needs more memory", changed(func(b []byte) { le.PutUint32(b[bootInitSize:], 200<<20) }), 0, nil,
			"the kernel needs 200 MiB of memory in one piece, which this guest does not have: give it more (-memory)"},
		{"a ramdisk that does not fit", changed(func(b []byte) { le.PutUint32(b[bootInitSize:], 78<<20) }), 16 << 20, []string{"-initrd", "more"},
			"the ramdisk has 16 MiB, for which there is no place in this guest's memory: give it more (-memory)"},
		{"too little memory", bzImage(4096), 0, []string{"-memory", "32"}, "the guest cannot have 32 MiB of memory: 96 MiB to 3 GiB, in steps of 2 MiB"},
		{"odd memory", bzImage(4096), 0, []string{"-memory", "97"}, "the guest cannot have 97 MiB of memory: 96 MiB to 3 GiB, in steps of 2 MiB"},
		{"more memory than there is", bzImage(4096), 0, []string{"-memory", "2048"}, "there are no 2048 MiB of memory in one piece for the guest ("},
		{"no such kernel", bzImage(4096), 0, []string{"-kernel", "other"}, `there is no boot module "other" among ["kernel"]: hand it over by vtx boot -module`},
		{"no such ramdisk", bzImage(4096), 0, []string{"-initrd", "other"}, `there is no boot module "other" among ["kernel"]: hand it over by vtx boot -module`},
		{"no such program for VTL1", bzImage(4096), 0, []string{"-vtl1", "other"}, `there is no boot module "other" among ["kernel"]: hand it over by vtx boot -module`},
		{"no program for VTL1", bzImage(4096), 1000, []string{"-vtl1", "more"}, "more: "},
		{"VTL1 before real-address mode", changed(func(b []byte) { le.PutUint16(b[bootXLoadFlags:], 0) }), 1000, []string{"-vtl1", "more"},
			"only a kernel that begins in 64-bit mode can have VTL1 enabled before it: leave -vtl1 out"},
		{"a long command line", bzImage(4096), 0, []string{"-append", strings.Repeat("x", 2048)}, "the command line has 2048 bytes; this kernel takes 2047"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			kernel := write(t, dir, fmt.Sprint("kernel", i), tt.kernel)
			var cfg machine.Config
			if tt.more > 0 {
				cfg.Modules = []machine.Module{{Name: "more", File: write(t, dir, fmt.Sprint("more", i), make([]byte, tt.more))}}
			}
			_, stderr, _, status := bootKernel(t, exe, kernel, cfg, tt.args...)
			require.Equal(t, 1, status)
			require.True(t, strings.HasPrefix(stderr, "minihv: "+tt.want), stderr)
		})
	}
}
