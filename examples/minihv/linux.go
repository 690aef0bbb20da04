package main

import (
	"encoding/binary"
	"fmt"

	"github.com/govtx/vtx/ring0"
)

// The Linux/x86 boot protocol (Documentation/arch/x86/boot.rst and zero-page.rst in Linux):
// offsets in the kernel's file, which begins with its real-mode part, and in the page of
// parameters, where its header is at the same place.
const (
	bootSetupSects   = 0x1f1
	bootFlag         = 0x1fe
	bootJump         = 0x200
	bootMagic        = 0x202
	bootVersion      = 0x206
	bootLoader       = 0x210
	bootLoadFlags    = 0x211
	bootCode32       = 0x214
	bootRamdisk      = 0x218
	bootRamdiskSize  = 0x21c
	bootHeapEnd      = 0x224
	bootCommandLine  = 0x228
	bootRamdiskMax   = 0x22c
	bootAlignment    = 0x230
	bootRelocatable  = 0x234
	bootXLoadFlags   = 0x236
	bootCommandSize  = 0x238
	bootPrefAddress  = 0x258
	bootInitSize     = 0x260
	bootHeaderEnd    = 0x268 // of what is read here
	paramsRSDP       = 0x070
	paramsE820Number = 0x1e8
	paramsE820       = 0x2d0
	paramsE820Max    = 128

	loadedHigh   = 1 << 0 // of bootLoadFlags
	kernel64     = 1 << 0 // of bootXLoadFlags: there is a 64-bit entry point at 0x200
	entry64      = 0x200
	undefinedLdr = 0xff
)

// A linuxKernel is a kernel's file, taken apart.
type linuxKernel struct {
	file        []byte
	setup, code []byte // the real-mode and the protected-mode part
	real        bool   // it begins in real-address mode
	version     uint16
	flags       uint16 // bootXLoadFlags
	relocatable bool
	alignment   uint64
	preferred   uint64 // where it is to be, if it can be anywhere
	load        uint64 // where it has to be, if not
	room        uint64 // that it needs there
	commandSize int    // of the longest command line, without the 0 at its end
	ramdiskMax  uint64 // the highest address of the ramdisk's last byte
}

// parseKernel takes the file of a kernel apart.
func parseKernel(file []byte) (*linuxKernel, error) {
	le := binary.LittleEndian
	if len(file) < bootHeaderEnd {
		return nil, fmt.Errorf("the kernel has %d bytes, which is not even its header: is it a bzImage?", len(file))
	}
	if le.Uint16(file[bootFlag:]) != 0xaa55 || string(file[bootMagic:bootMagic+4]) != "HdrS" {
		return nil, fmt.Errorf("the kernel has no boot header (%#04x at 0x1fe, %q at 0x202): is it a bzImage?", le.Uint16(file[bootFlag:]), file[bootMagic:bootMagic+4])
	}
	k := &linuxKernel{
		file: file, version: le.Uint16(file[bootVersion:]),
		commandSize: 255, ramdiskMax: 0x37ffffff, alignment: 1 << 20, load: uint64(le.Uint32(file[bootCode32:])),
	}
	if k.version < 0x202 {
		return nil, fmt.Errorf("the kernel speaks version %d.%02d of the boot protocol: it takes 2.02", k.version>>8, k.version&0xff)
	}
	if file[bootLoadFlags]&loadedHigh == 0 {
		return nil, fmt.Errorf("the kernel is a zImage, for memory below 1 MiB: build a bzImage")
	}
	sectors := int(file[bootSetupSects])
	if sectors == 0 {
		sectors = 4
	}
	if begin := (sectors + 1) * 512; begin >= len(file) {
		return nil, fmt.Errorf("the kernel has %d bytes, but its real-mode part alone is to have %d", len(file), begin)
	} else {
		k.setup, k.code = file[:begin], file[begin:]
	}
	if k.version >= 0x20c {
		k.flags = le.Uint16(file[bootXLoadFlags:])
	}
	if k.flags&kernel64 == 0 { // without a 64-bit entry point
		k.real, k.load, k.room = true, beginHigh, uint64(len(k.code))
		return k, nil
	}
	k.relocatable = file[bootRelocatable] != 0
	k.alignment = uint64(le.Uint32(file[bootAlignment:]))
	if k.alignment == 0 || k.alignment&(k.alignment-1) != 0 || k.alignment > 1<<30 {
		return nil, fmt.Errorf("the kernel wants to be at multiples of %#x, which is no power of two up to 1 GiB", k.alignment)
	}
	k.preferred = le.Uint64(file[bootPrefAddress:])
	k.room = max(uint64(le.Uint32(file[bootInitSize:])), uint64(len(k.code)))
	k.commandSize = int(le.Uint32(file[bootCommandSize:]))
	k.ramdiskMax = uint64(le.Uint32(file[bootRamdiskMax:]))
	return k, nil
}

// An e820 is an entry of the memory map that the guest is given.
type e820 struct {
	block
	kind ring0.Kind
}

// lowMemory is where a kernel finds what it is started with, below 640 KiB.
const (
	lowParams  = 0x10000
	lowCommand = 0x11000 // up to a page
	lowTables  = 0x12000 // PML4, PDPT, four page directories
	lowGDT     = 0x18000
	lowCode    = 0x19000
	lowInput   = 0x1a000 // parameters of hypercalls
	lowPage    = 0x1b000 // hypercall page
	lowStack   = 0x1d000 // its end

	// The same for one that begins in real-address mode: a segment.
	realBase  = 0x20000
	realStack = 0xe000 // the end of its heap and stack
	realEnd   = 0x10000
)

// place puts the kernel, a ramdisk and a command line into the guest's RAM, of which ram is
// what begins at address 0, and returns where the kernel's 64-bit entry point is.
func (k *linuxKernel) place(ram []byte, ramdisk []byte, command string, list []e820, rsdp uint64) (entry uint64, err error) {
	le := binary.LittleEndian
	if len(command) > k.commandSize || len(command) >= pageSize {
		return 0, fmt.Errorf("the command line has %d bytes; this kernel takes %d", len(command), min(k.commandSize, pageSize-1))
	}
	if len(list) > paramsE820Max {
		return 0, fmt.Errorf("the memory map has %d entries; a kernel takes %d", len(list), paramsE820Max)
	}
	at, err := k.address(list)
	if err != nil {
		return 0, err
	}
	disk := uint64(0)
	if len(ramdisk) > 0 {
		if disk, err = ramdiskAddress(list, uint64(len(ramdisk)), k.ramdiskMax, block{gpa: at, size: k.room}); err != nil {
			return 0, err
		}
		copy(ram[disk:], ramdisk)
	}
	copy(ram[at:], k.code)
	if k.real {
		p := ram[realBase : realBase+realEnd]
		if len(k.setup) > realStack-0x1000 {
			return 0, fmt.Errorf("the kernel's real-mode part has %d bytes: there is room for %d", len(k.setup), realStack-0x1000)
		}
		clear(p)
		copy(p, k.setup)
		copy(p[realStack:], command+"\x00")
		const canUseHeap = 1 << 7
		p[bootLoader] = undefinedLdr
		p[bootLoadFlags] |= canUseHeap
		le.PutUint16(p[bootHeapEnd:], realStack-0x200)
		le.PutUint32(p[bootRamdisk:], uint32(disk))
		le.PutUint32(p[bootRamdiskSize:], uint32(len(ramdisk)))
		le.PutUint32(p[bootCommandLine:], realBase+realStack)
		return realBase + bootJump, nil
	}
	copy(ram[lowCommand:], command+"\x00")

	p := ram[lowParams : lowParams+pageSize]
	clear(p)
	copy(p[bootSetupSects:], k.file[bootSetupSects:min(bootMagic+int(k.file[bootJump+1]), bootHeaderEnd+0x28, len(k.file))])
	p[bootLoader] = undefinedLdr
	le.PutUint32(p[bootCode32:], uint32(at))
	le.PutUint32(p[bootRamdisk:], uint32(disk))
	le.PutUint32(p[bootRamdiskSize:], uint32(len(ramdisk)))
	le.PutUint32(p[bootCommandLine:], lowCommand)
	le.PutUint64(p[paramsRSDP:], rsdp)
	p[0x06], p[0x07], p[0x0e], p[0x0f], p[0x10] = 3, 80, 25, 1, 16 // screen_info: VGA text, 80 columns, 25 lines of 16 dots
	p[paramsE820Number] = byte(len(list))
	for i, e := range list {
		q := p[paramsE820+20*i:]
		le.PutUint64(q, e.gpa)
		le.PutUint64(q[8:], e.size)
		le.PutUint32(q[16:], uint32(e.kind))
	}
	return at + entry64, nil
}

// address returns where the kernel is to be.
func (k *linuxKernel) address(list []e820) (uint64, error) {
	fits := func(at uint64) bool {
		for _, e := range list {
			if e.kind == ring0.Usable && at >= e.gpa && at-e.gpa <= e.size && e.size-(at-e.gpa) >= k.room {
				return true
			}
		}
		return false
	}
	if !k.relocatable {
		if at := k.load; fits(at) {
			return at, nil
		}
		return 0, fmt.Errorf("the kernel has to be at %#x and needs %d KiB there, which this guest does not have", k.load, k.room>>10)
	}
	up := func(v uint64) uint64 { return (v + k.alignment - 1) &^ (k.alignment - 1) }
	if at := up(k.preferred); fits(at) {
		return at, nil
	}
	for _, e := range list {
		if at := up(max(e.gpa, 1<<20)); fits(at) && at < 1<<32-k.room {
			return at, nil
		}
	}
	return 0, fmt.Errorf("the kernel needs %d MiB of memory in one piece, which this guest does not have: give it more (-memory)", (k.room+1<<20-1)>>20)
}

// ramdiskAddress returns the highest address at which a ramdisk of a size can be, but not over
// the kernel.
func ramdiskAddress(list []e820, size, highest uint64, kernel block) (uint64, error) {
	best := uint64(0)
	for _, e := range list {
		if e.kind != ring0.Usable || e.gpa < 1<<20 {
			continue
		}
		end := min(e.gpa+e.size, highest+1)
		for _, top := range []uint64{end, min(end, kernel.gpa)} {
			if top < size {
				continue
			}
			at := (top - size) &^ (pageSize - 1)
			if at >= e.gpa && (at+size <= kernel.gpa || at >= kernel.gpa+kernel.size) {
				best = max(best, at)
			}
		}
	}
	if best == 0 {
		return 0, fmt.Errorf("the ramdisk has %d MiB, for which there is no place in this guest's memory: give it more (-memory)", (size+1<<20-1)>>20)
	}
	return best, nil
}
