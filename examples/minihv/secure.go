package main

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"path"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/govtx/vtx/asm"
	"github.com/govtx/vtx/hypercall"
	"github.com/govtx/vtx/internal/bootimage"
	"github.com/govtx/vtx/internal/bootproto"
	"github.com/govtx/vtx/internal/bootproto/frames"
	"github.com/govtx/vtx/ring0"
	"github.com/govtx/vtx/vmcs"
	"github.com/govtx/vtx/vmexit"
	"github.com/govtx/vtx/vtl"
)

// secureStart is where VTL1 begins: in the last page of its memory, with what a multiboot
// loader has in its registers.
const secureStart = endUpper - pageSize

// placeSecure puts a program into VTL1's memory, of which ram has what is from address 0 on, and
// the parameters for HvCallEnableVpVtl where the loader in VTL0 will look. The program gets args,
// and before them -top with the address at which the guest's memory ends.
func (p *pc) placeSecure(name string, args []string, file, ram []byte) error {
	program, err := bootimage.Open(bytes.NewReader(file), int64(len(file)))
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	last := p.blocks[len(p.blocks)-1]
	config := &bootimage.Config{
		Args: append([]string{path.Base(name), "-top", strconv.FormatUint(last.gpa+last.size, 10)}, args...),
		Dir:  "/", Exe: "/" + path.Base(name), Dirs: []string{"/"},
		Flags: bootproto.FlagFramed | bootproto.FlagSkipIdle | bootproto.FlagLent,
		TSC:   ring0.TicksPerSecond(), Epoch: uint64(time.Now().Unix()),
	}
	if _, err := rand.Read(config.Seed[:]); err != nil {
		return err
	}
	memory := []bootimage.MemoryRange{{Start: beginUpper, End: endUpper, Type: uint32(ring0.Usable)}}
	entry, info, err := program.PlaceMultiboot(ram[beginUpper:secureStart], beginUpper, memory, config)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	code := append(ram[secureStart:secureStart], 0xb8) // MOV EAX, imm32
	code = binary.LittleEndian.AppendUint32(code, bootproto.MultibootMagic)
	code = append(code, 0xbb) // MOV EBX, imm32
	code = binary.LittleEndian.AppendUint32(code, info)
	code = append(code, 0xe9) // JMP rel32
	_ = binary.LittleEndian.AppendUint32(code, entry-(secureStart+15))

	flat := vmcs.Segment{Selector: 0x10, Limit: 0xffffffff, Rights: 0xc093}
	data, text := toCall(flat), toCall(flat)
	text.Selector, text.Attributes = 8, 0xc09b
	in := hypercall.EnableVpVtlInput{
		PartitionID: hypercall.PartitionSelf, VPIndex: hypercall.VPSelf, TargetVTL: 1,
		Context: vtl.Context{
			RIP: secureStart, RSP: secureStart, RFLAGS: 2,
			CS: text, DS: data, ES: data, FS: data, GS: data, SS: data,
			TR: toCall(vmcs.TaskState(0, 0, 0x67)), LDTR: toCall(vmcs.UnusableSegment()),
			CR0: asm.CR0PE | asm.CR0ET | asm.CR0NE, PAT: resetPAT,
		},
	}
	in.Put(ram[lowInput:])

	s := new(secureConsole)
	s.Line = func(_ byte, line []byte) { fmt.Printf("VTL1       %s\n", printable(line)) }
	p.secure = vmexit.NewPorts().Set(bootproto.PortE9, bootproto.PortE9, s).Set(bootproto.PortShutdown, bootproto.PortShutdown, s)
	p.secureIO = p.secure.Handler()
	return nil
}

// printable returns a line in which every rune can be printed and moves no cursor.
func printable(line []byte) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return unicode.ReplacementChar
		}
		return r
	}, string(line))
}

// A secureConsole is all the devices that VTL1 has: two ports, where it says something, and
// that it has ended.
type secureConsole struct{ frames.Console }

// A secureEnd is that VTL1's program has ended.
type secureEnd struct{ status uint32 }

func (e secureEnd) Error() string {
	return fmt.Sprintf("VTL1's program has ended with status %d", e.status)
}

var errSecureCut = errors.New("VTL1's program has ended without a status")

// In implements vmexit.PortDevice.
func (*secureConsole) In(port uint16, _ int) (uint32, error) { return uint32(port & 0xff), nil }

// Out implements vmexit.PortDevice.
func (s *secureConsole) Out(port uint16, size int, v uint32) error {
	if port == bootproto.PortE9 {
		var b [4]byte
		binary.LittleEndian.PutUint32(b[:], v)
		_, _ = s.Write(b[:size])
		return nil
	}
	s.Close()
	if status, ok := s.Exit(); ok {
		return secureEnd{status}
	}
	return errSecureCut
}
