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

	s := &secureConsole{end: &p.end}
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
type secureConsole struct {
	frames.Console
	end *secureEnd // what becomes of VTL1
}

// A secureEnd is whether VTL1's program has ended, and how; and how many attempts of VTL0 have
// been refused since.
type secureEnd struct {
	ended   bool
	status  uint32
	refused int
}

func (e *secureEnd) Error() string {
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
	status, ok := s.Exit()
	if !ok {
		return errSecureCut
	}
	s.end.ended, s.end.status = true, status
	return nil
}

// secureEnded tells whether there was a VTL1 whose program has ended.
func (p *processor) secureEnded() bool { return p.pc != nil && p.pc.end.ended }

// leaveSecure has VTL0 go on where it was, for good, when VTL1's program has ended. VTL1's pages
// and what it guards stay out of reach. VTL0 has the shared registers that it came with, not
// what VTL1 has left in them.
func (p *processor) leaveSecure(x *vmexit.Exit) vmexit.Outcome {
	fmt.Println("guest     ", &p.pc.end)
	if err := p.backFromSecure(x); err != nil {
		return x.Fail(err)
	}
	p.enter(&p.levels[0])
	if err := p.reload(); err != nil {
		return x.Fail(err)
	}
	return vmexit.Hold
}

// backFromSecure has the partition return to VTL0, and does what it asks for but the switch itself.
func (p *processor) backFromSecure(x *vmexit.Exit) error {
	p.effects.Reset()
	trap := vtl.Trap{Word: hypercall.Input(hypercall.CodeVtlReturn)}
	if o := p.partition.Return(p.index, trap, &p.effects); o != vtl.Switched {
		return fmt.Errorf("VTL1's program has ended, but the partition cannot return to VTL0: %v", o)
	}
	list := p.effects.List()
	for i := range list {
		if f := &list[i]; f.Kind != vtl.EffectSwitch {
			if err := p.effect(x, f); err != nil {
				return err
			}
		}
	}
	return nil
}

// refuseAlone is what becomes of an attempt of VTL0 of which VTL1 would be told: what it would
// have said, #GP.
func (p *processor) refuseAlone(x *vmexit.Exit) vmexit.Outcome {
	const told = 64 // a guest can try without end
	if p.pc.end.refused++; p.pc.end.refused <= told {
		where := ""
		if x.Reason().Basic() == vmexit.EPTViolation {
			where = fmt.Sprintf(" at %#x", x.PhysicalAddress())
		}
		fmt.Printf("guest      refused without VTL1: %v%s by code at %#x\n", x.Reason().Basic(), where, x.Guest.RIP)
	}
	if err := p.backFromSecure(x); err != nil {
		return x.Fail(err)
	}
	return x.Raise(vmcs.VectorGP, 0)
}
