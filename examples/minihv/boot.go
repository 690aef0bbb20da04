package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path"
	"runtime"
	"strings"

	"github.com/govtx/vtx/asm"
	"github.com/govtx/vtx/hypercall"
	"github.com/govtx/vtx/ring0"
	"github.com/govtx/vtx/vmcs"
	"github.com/govtx/vtx/vmexit"
	"github.com/govtx/vtx/vtl"
)

// A linux is what is to be booted: names of boot modules, and the guest's memory in MiB.
type linux struct {
	kernel, ramdisk, command string

	secure string // with arguments behind it, between blanks
	memory uint64

	until string // what the guest is to show on its display
	limit uint64 // instructions
}

var errShown = errors.New("the guest shows what it was to show")

// tick is the handler of the VMX-preemption timer, which strikes now and then.
func (l *linux) tick(x *vmexit.Exit) vmexit.Outcome {
	x.Write(vmcs.PreemptionTimerValue, tickEvery)
	processorOf(x).forwardNMI(x)
	if l.until != "" && strings.Contains(screen(), l.until) {
		return x.Fail(errShown)
	}
	return l.watch(x, vmexit.Hold)
}

// watch ends the run if the guest has had its time.
func (l *linux) watch(x *vmexit.Exit, o vmexit.Outcome) vmexit.Outcome {
	if l.limit != 0 && asm.RDTSC() > l.limit {
		return x.Fail(fmt.Errorf("the guest has taken more than %d instructions, and shows:\n%s", l.limit, screen()))
	}
	return o
}

// watchExceptions is the layer over exceptions: while one raises the next, the timer does not
// strike.
func (l *linux) watchExceptions(_ vmexit.Basic, below vmexit.Handler) vmexit.Handler {
	return func(x *vmexit.Exit) vmexit.Outcome { return l.watch(x, below(x)) }
}

// tickEvery is how often, in units of the timer: powers of two of the time-stamp counter.
const tickEvery = 20_000_000

// screen returns what the display shows in text mode.
func screen() string {
	const columns, lines = 80, 25
	video, err := ring0.Physical(0xb8000, 2*columns*lines)
	if err != nil {
		return ""
	}
	var b strings.Builder
	for i := range lines {
		line := make([]byte, columns)
		for j := range line {
			line[j] = video[2*(i*columns+j)]
			if line[j] < ' ' || line[j] > '~' {
				line[j] = ' '
			}
		}
		if text := strings.TrimRight(string(line), " "); text != "" {
			b.WriteString(text + "\n")
		}
	}
	return b.String()
}

// module returns the contents of a boot module.
func module(name string) ([]byte, error) {
	names := []string{}
	for _, f := range ring0.Modules() {
		if f.Name == name || path.Base(f.Name) == path.Base(name) {
			return f.Data, nil
		}
		names = append(names, f.Name)
	}
	return nil, fmt.Errorf("there is no boot module %q among %q: hand it over by vtx boot -module", name, names)
}

// run boots the kernel and returns when the guest has turned its machine off.
func (l *linux) run() (err error) {
	if !ring0.Active() {
		return errNotRing0
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	file, err := module(l.kernel)
	if err != nil {
		return err
	}
	kernel, err := parseKernel(file)
	if err != nil {
		return err
	}
	var ramdisk []byte
	l.secure = strings.TrimSpace(l.secure)
	if l.ramdisk != "" {
		if ramdisk, err = module(l.ramdisk); err != nil {
			return err
		}
	}
	caps, err := checkVMX(native{})
	if err != nil {
		return err
	}
	if !vmcs.Supports(caps, vmcs.PinVirtualNMIs) || !vmcs.Supports(caps, vmcs.PrimaryNMIWindowExiting) {
		return errors.New("this processor has no NMI-window exiting: choose a CPU model that has it")
	}
	leave, err := enterVMX(caps)
	if err != nil {
		return err
	}
	defer func() {
		if !errors.Is(err, errInit) { // which could wait for the end of VMX operation
			leave()
		}
	}()
	pc, err := newPC(caps, l.memory<<20)
	if err != nil {
		return err
	}
	defer pc.free()
	list := pc.memoryMap(l.secure != "", kernel.real)
	for _, e := range list {
		fmt.Printf("guest      %v\n", ring0.Range{Start: e.gpa, End: e.gpa + e.size, Kind: e.kind})
	}
	ram := pc.ram.Bytes()
	entry, err := kernel.place(ram, ramdisk, l.command, list, pc.acpi.root)
	if err != nil {
		return err
	}
	context := vtl.Context{}
	if kernel.real {
		hook(ram, realBase>>4)
		context = realContext(realBase >> 4)
	} else {
		context = bootContext(ram)
	}
	if l.secure != "" {
		if kernel.real {
			return errors.New("only a kernel that begins in 64-bit mode can have VTL1 enabled before it: leave -vtl1 out")
		}
		name, args := strings.Fields(l.secure)[0], strings.Fields(l.secure)[1:]
		file, err := module(name)
		if err != nil {
			return err
		}
		if err := pc.placeSecure(name, args, file, ram); err != nil {
			return err
		}
	}
	m, err := newVM(caps, pc.guestMemory, pc, &context)
	if err != nil {
		return err
	}
	defer m.free()
	count, refused := newCounter(), new(refusals)
	m.builder.Handle(vmexit.PreemptionTimer, l.tick).Over(vmexit.ExceptionOrNMI, l.watchExceptions)
	m.watch(func(b vmexit.Basic, below vmexit.Handler) vmexit.Handler {
		return refused.layer(b, count.layer(b, below))
	})
	first := m.processors[0].current
	if l.secure != "" {
		first.Regs[asm.R12] = lowInput
	}
	first.Regs[asm.RBX], first.Regs[asm.RSI], first.Regs[asm.RDI] = entry, lowParams, lowPage
	if err := errors.Join(ring0.LendInterrupts(), ring0.SetVector(uint8(vmcs.VectorNMI), nmiVector())); err != nil {
		return err
	}
	fmt.Printf("guest      kernel at %#x, %d instructions since power-on\n", entry, asm.RDTSC())
	nmiStrikes = true
	err = m.run()
	nmiStrikes = false
	count.print(os.Stdout)
	refused.print(os.Stdout)
	if err = l.outcome(err, &pc.end); err == nil {
		fmt.Println("guest      turned off")
		return nil
	}
	if errors.Is(err, errShown) {
		fmt.Printf("%s\nguest      shows %q\n", screen(), l.until)
		return nil
	}
	if errors.Is(err, &pc.end) {
		return err
	}
	fmt.Fprintf(os.Stderr, "VTL%d at %#x:\n", m.active.current.number, m.active.current.RIP)
	_ = vmcs.Dump(os.Stderr, vmcs.Current{}, vmcs.DumpOptions{})
	var failed *vmexit.EntryError
	if errors.As(err, &failed) {
		return fmt.Errorf("%w: %w", err, m.active.current.explain())
	}
	return err
}

// outcome is what the end of a run comes to. It is good if the guest has turned its machine off,
// and VTL1's program, if there was one, has ended before, with status 0. Where the end is that
// a text was shown, VTL1's program need not have ended, but must not have ended badly.
func (l *linux) outcome(err error, end *secureEnd) error {
	switch {
	case errors.Is(err, errShown) && end.ended && end.status != 0:
		return end
	case !errors.Is(err, errPowerOff):
		return err
	case l.until != "":
		return fmt.Errorf("%w, and has not shown %q", err, l.until)
	case l.secure != "" && !end.ended:
		return fmt.Errorf("%w, but VTL1's program has not ended", err)
	case l.secure != "" && end.status != 0:
		return end
	}
	return nil
}

// bootContext lays out what the loader needs in low memory, of which ram is the beginning, and
// returns the context in which it begins: 64-bit mode, the first 4 GiB mapped to themselves.
func bootContext(ram []byte) vtl.Context {
	put := func(at, v uint64) { binary.LittleEndian.PutUint64(ram[at:], v) }
	const table, page = 7, 0x87
	clear(ram[lowTables:lowStack])
	put(lowTables, lowTables+pageSize|table)
	for i := range uint64(4) {
		put(lowTables+pageSize+8*i, lowTables+(2+i)*pageSize|table)
	}
	for i := range uint64(4 * 512) {
		put(lowTables+2*pageSize+8*i, i<<21|page)
	}
	const code64, data, tss = 0x10, 0x18, 0x20 // the first two as the boot protocol wants it
	var all vmcs.Segments
	all[vmcs.CS] = vmcs.FlatCode64(code64)
	for _, r := range []vmcs.SegmentRegister{vmcs.ES, vmcs.SS, vmcs.DS, vmcs.FS, vmcs.GS} {
		all[r] = vmcs.FlatData(data)
	}
	all[vmcs.TR] = vmcs.TaskState(tss, lowGDT+0x100, 0x67)
	all[vmcs.LDTR] = vmcs.UnusableSegment()
	for _, s := range []vmcs.Segment{all[vmcs.CS], all[vmcs.DS], all[vmcs.TR]} {
		low, high, _ := s.Descriptor()
		put(lowGDT+uint64(s.Selector), low)
		if s.Selector == tss {
			put(lowGDT+tss+8, high)
		}
	}
	copy(ram[lowCode:], loaderCode())
	return vtl.Context{
		RIP: lowCode, RSP: lowStack, RFLAGS: 2,
		CS: toCall(all[vmcs.CS]), DS: toCall(all[vmcs.DS]), ES: toCall(all[vmcs.ES]), FS: toCall(all[vmcs.FS]),
		GS: toCall(all[vmcs.GS]), SS: toCall(all[vmcs.SS]), TR: toCall(all[vmcs.TR]), LDTR: toCall(all[vmcs.LDTR]),
		GDTR: hypercall.TableRegister{Base: lowGDT, Limit: tss + 16 - 1},
		EFER: asm.EFERLME | asm.EFERLMA, CR0: asm.CR0PE | asm.CR0ET | asm.CR0NE | asm.CR0PG, CR3: lowTables,
		CR4: asm.CR4PAE, PAT: resetPAT,
	}
}
