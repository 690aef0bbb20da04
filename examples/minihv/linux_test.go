package main

import (
	"encoding/binary"
	"fmt"
	"testing"

	"github.com/govtx/vtx/internal/require"
	"github.com/govtx/vtx/ring0"
	"pgregory.net/rapid"
)

// bzImage returns the file of a kernel of the 64-bit boot protocol, with a real-mode part of
// one sector more, and code of n bytes.
func bzImage(n int) []byte {
	le := binary.LittleEndian
	b := make([]byte, 1024+n)
	b[bootSetupSects] = 1
	le.PutUint16(b[bootFlag:], 0xaa55)
	copy(b[bootJump:], "\xeb\x66HdrS")
	le.PutUint16(b[bootVersion:], 0x20f)
	b[bootLoadFlags] = loadedHigh
	le.PutUint32(b[bootCode32:], 0x100000)
	le.PutUint32(b[bootRamdiskMax:], 0x7fffffff)
	le.PutUint32(b[bootAlignment:], 2<<20)
	b[bootRelocatable] = 1
	le.PutUint16(b[bootXLoadFlags:], kernel64)
	le.PutUint32(b[bootCommandSize:], 2047)
	le.PutUint64(b[bootPrefAddress:], 16<<20)
	le.PutUint32(b[bootInitSize:], 4<<20)
	for i := range n {
		b[1024+i] = byte(i)
	}
	return b
}

// usable is a memory map.
func usable(blocks ...block) (list []e820) {
	for _, b := range blocks {
		list = append(list, e820{b, ring0.Usable})
	}
	return list
}

func TestParseKernel(t *testing.T) {
	le := binary.LittleEndian
	for _, tt := range []struct {
		name   string
		change func(b []byte) []byte
		err    string
	}{
		{"good", func(b []byte) []byte { return b }, ""},
		{"real mode", func(b []byte) []byte { le.PutUint16(b[bootXLoadFlags:], 0); return b }, ""},
		{"empty", func(b []byte) []byte { return nil }, "the kernel has 0 bytes, which is not even its header: is it a bzImage?"},
		{"an ELF", func(b []byte) []byte { clear(b[bootFlag:]); return b }, `the kernel has no boot header (0x0000 at 0x1fe, "\x00\x00\x00\x00" at 0x202): is it a bzImage?`},
		{"old", func(b []byte) []byte { b[bootVersion], b[bootVersion+1] = 0, 2; return b }, "the kernel speaks version 2.00 of the boot protocol: it takes 2.02"},
		{"zImage", func(b []byte) []byte { b[bootLoadFlags] = 0; return b }, "the kernel is a zImage, for memory below 1 MiB: build a bzImage"},
		{"cut off", func(b []byte) []byte { b[bootSetupSects] = 200; return b }, "the kernel has 5024 bytes, but its real-mode part alone is to have 102912"},
		{"no sectors stands for 4", func(b []byte) []byte { b[bootSetupSects] = 0; return b }, ""},
		{"alignment", func(b []byte) []byte { le.PutUint32(b[bootAlignment:], 3); return b }, "the kernel wants to be at multiples of 0x3, which is no power of two up to 1 GiB"},
	} {
		k, err := parseKernel(tt.change(bzImage(4000)))
		if tt.err != "" {
			require.Equal(t, tt.err, err.Error())
			continue
		}
		require.NoError(t, err, tt.name)
		require.Equal(t, tt.name == "real mode", k.real)
	}
}

func TestPlaceKernel(t *testing.T) {
	le := binary.LittleEndian
	ram := make([]byte, 32<<20)
	list := usable(block{gpa: 0, size: 0x9f000}, block{gpa: 1 << 20, size: 31 << 20})
	file := bzImage(4000)
	k, err := parseKernel(file)
	require.NoError(t, err)
	disk := []byte("a ramdisk")
	entry, err := k.place(ram, disk, "console=ttyS0", list, 0xf9fa0)
	require.NoError(t, err)
	require.Equal(t, uint64(16<<20+entry64), entry)
	require.Equal(t, file[1024:], ram[16<<20:][:4000])
	p := ram[lowParams:]
	require.Equal(t, "HdrS", string(p[bootMagic:bootMagic+4]))
	require.Equal(t, byte(undefinedLdr), p[bootLoader])
	at := le.Uint32(p[bootRamdisk:])
	require.Equal(t, uint32(32<<20-pageSize), at)
	require.Equal(t, disk, ram[at:][:le.Uint32(p[bootRamdiskSize:])])
	require.Equal(t, "console=ttyS0\x00", string(ram[le.Uint32(p[bootCommandLine:]):][:14]))
	require.Equal(t, uint64(0xf9fa0), le.Uint64(p[paramsRSDP:]))
	require.Equal(t, byte(2), p[paramsE820Number])
	require.Equal(t, uint64(1<<20), le.Uint64(p[paramsE820+20:]))
	require.Equal(t, uint64(31<<20), le.Uint64(p[paramsE820+28:]))
	require.Equal(t, uint32(1), le.Uint32(p[paramsE820+36:]))

	for _, tt := range []struct {
		name    string
		list    []e820
		disk    int
		command string
		change  func(b []byte)
		err     string
	}{
		{name: "too little memory", list: usable(block{gpa: 1 << 20, size: 3 << 20}),
			err: "the kernel needs 4 MiB of memory in one piece, which this guest does not have: give it more (-memory)"},
		{name: "a ramdisk that does not fit", list: list, disk: 28 << 20,
			err: "the ramdisk has 28 MiB, for which there is no place in this guest's memory: give it more (-memory)"},
		{name: "a ramdisk that has to be low", list: list, disk: 4096, change: func(b []byte) { le.PutUint32(b[bootRamdiskMax:], 0xfffff) },
			err: "the ramdisk has 1 MiB, for which there is no place in this guest's memory: give it more (-memory)"},
		{name: "a kernel that cannot be moved", list: usable(block{gpa: 2 << 20, size: 30 << 20}), change: func(b []byte) { b[bootRelocatable] = 0 },
			err: "the kernel has to be at 0x100000 and needs 4096 KiB there, which this guest does not have"},
		{name: "a long command line", list: list, command: string(make([]byte, 2048)), err: "the command line has 2048 bytes; this kernel takes 2047"},
		{name: "a long map", list: make([]e820, 129), err: "the memory map has 129 entries; a kernel takes 128"},
		{name: "all of memory", list: list, change: func(b []byte) { le.PutUint32(b[bootInitSize:], 0xffffffff) },
			err: "the kernel needs 4096 MiB of memory in one piece, which this guest does not have: give it more (-memory)"},
	} {
		file := bzImage(4000)
		if tt.change != nil {
			tt.change(file)
		}
		k, err := parseKernel(file)
		require.NoError(t, err, tt.name)
		_, err = k.place(ram, make([]byte, tt.disk), tt.command, tt.list, 0)
		require.Equal(t, tt.err, err.Error())
	}
}

// However hostile a kernel's header is, it is refused or lies in memory that the guest has,
// with the ramdisk beside it.
func checkPlace(t *rapid.T) {
	file := bzImage(rapid.IntRange(0, 5000).Draw(t, "size"))
	for range rapid.IntRange(0, 12).Draw(t, "changes") {
		file[rapid.IntRange(bootSetupSects, bootHeaderEnd-1).Draw(t, "at")] = rapid.Byte().Draw(t, "value")
	}
	copy(file[bootMagic:], "HdrS")
	file[bootFlag], file[bootFlag+1] = 0x55, 0xaa
	k, err := parseKernel(file)
	if err != nil {
		return
	}
	ram := make([]byte, 8<<20)
	list := usable(block{gpa: 0, size: 0x9f000}, block{gpa: 1 << 20, size: 2 << 20}, block{gpa: 4 << 20, size: 4 << 20})
	disk := make([]byte, rapid.IntRange(0, 3<<20).Draw(t, "ramdisk"))
	entry, err := k.place(ram, disk, "command", list, 0)
	if err != nil {
		return
	}
	if k.real {
		require.Equal(t, uint64(realBase+bootJump), entry)
		return
	}
	at := entry - entry64
	require.True(t, at+k.room <= 3<<20 || at >= 4<<20 && at+k.room <= 8<<20, "%#x", at)
	if d := uint64(binary.LittleEndian.Uint32(ram[lowParams+bootRamdisk:])); len(disk) > 0 {
		require.True(t, d+uint64(len(disk)) <= at || d >= at+k.room, "ramdisk at %#x, kernel at %#x", d, at)
	}
}

func TestPlaceHostile(t *testing.T) { rapid.Check(t, checkPlace) }

// The run is good if the guest has turned its machine off, VTL1 has ended with status 0 before, and
// nothing else was asked for.
func TestOutcome(t *testing.T) {
	off := fmt.Errorf("OUT: %w", errPowerOff)
	for _, tt := range []struct {
		name string
		l    linux
		err  error
		end  secureEnd
		want string // "": status 0
	}{
		{"off", linux{}, off, secureEnd{}, ""},
		{"off, VTL1 has ended", linux{secure: "vault"}, off, secureEnd{ended: true}, ""},
		{"off, VTL1 has ended badly", linux{secure: "vault"}, off, secureEnd{ended: true, status: 3}, "VTL1's program has ended with status 3"},
		{"off, VTL1 has not ended", linux{secure: "vault"}, off, secureEnd{}, "OUT: the guest has turned the machine off, but VTL1's program has not ended"},
		{"off, not having shown a text", linux{until: "x"}, off, secureEnd{}, `OUT: the guest has turned the machine off, and has not shown "x"`},
		{"shown", linux{secure: "vault", until: "x"}, errShown, secureEnd{}, errShown.Error()},
		{"shown, VTL1 has ended", linux{secure: "vault", until: "x"}, errShown, secureEnd{ended: true}, errShown.Error()},
		{"shown, VTL1 has ended badly", linux{secure: "vault", until: "x"}, errShown, secureEnd{ended: true, status: 3}, "VTL1's program has ended with status 3"},
		{"reset", linux{}, errReset, secureEnd{}, "the guest has reset the machine"},
		{"reset, VTL1 has ended", linux{secure: "vault"}, errReset, secureEnd{ended: true}, "the guest has reset the machine"},
		{"VTL1 without a status", linux{secure: "vault"}, errSecureCut, secureEnd{}, "VTL1's program has ended without a status"},
	} {
		err := tt.l.outcome(tt.err, &tt.end)
		if tt.want == "" {
			require.NoError(t, err, tt.name)
			continue
		}
		require.Equal(t, tt.want, err.Error(), tt.name)
	}
}

func FuzzPlace(f *testing.F) { f.Fuzz(rapid.MakeFuzz(checkPlace)) }
