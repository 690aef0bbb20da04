package vmexit_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/govtx/vtx/asm"
	"github.com/govtx/vtx/internal/require"
	"github.com/govtx/vtx/internal/ring0test"
	"github.com/govtx/vtx/internal/vmtest"
	"github.com/govtx/vtx/vmcs"
	"github.com/govtx/vtx/vmexit"
)

// The tests below run each program in two guests. In one nothing exits that need not: what
// comes of the program the processor alone decides. In the other everything exits that can,
// and the ready handlers do the work. At the end, registers, the VMCS and memory must be
// the same.

// arena is a guest that can be set back to its beginning.
type arena struct {
	*vmtest.Guest
	image  *vmcs.Image
	memory []byte
}

func newArena(m *vmtest.Machine, k vmtest.Kind) *arena {
	g := m.NewGuest(k)
	return &arena{Guest: g, image: vmcs.Snapshot(vmcs.Current{}), memory: bytes.Clone(g.Memory)}
}

// start sets the guest back, with a program in its memory and some fields changed.
func (a *arena) start(p *program, fields func(*vmcs.Image)) {
	image := *a.image
	fields(&image)
	vmtest.Controls(a.Machine, &image, vmcs.ExitSaveDebugControls)
	if p.fields != nil {
		p.fields(&image)
	}
	a.Load(a.Region())
	require.NoError(a, vmcs.Copy(vmcs.Current{}, &image))
	a.Reset()
	copy(a.Memory, a.memory)
	copy(a.Memory[vmtest.Code:], append(bytes.Clone(p.code), 0x0f, 0x01, 0xc1)) // VMCALL
	for at, b := range p.data {
		copy(a.Memory[at:], b)
	}
	a.Regs, a.CR2, a.RIP = p.regs, 0, vmtest.Code
	const cdNW = 3 << 29
	if v := asm.ReadCR0(); v&cdNW != 0 {
		asm.WriteCR0(v &^ cdNW) // neither VM entry nor VM exit loads these: an earlier guest has left them
	}
	for n := range 4 {
		asm.WriteDR(n, 0)
	}
	asm.WriteDR(6, 0xffff0ff0)
}

// program is machine code and what it starts from.
type program struct {
	name   string
	code   []byte
	regs   [16]uint64
	data   map[int][]byte
	fields func(*vmcs.Image)
}

// GoString is what rapid prints.
func (p *program) GoString() string { return fmt.Sprintf("%s% x", p.name, p.code) }

// end is what a program has come to.
type end struct {
	Reason  uint32
	RIP     uint64
	Regs    [16]uint64
	CR2     uint64
	DR      [5]uint64
	Fields  map[vmcs.Field]uint64
	Memory  []byte
	Handled error
}

var comparedFields = []vmcs.Field{
	vmcs.GuestRSP, vmcs.GuestRFLAGS, vmcs.GuestCR3, vmcs.GuestDR7, vmcs.GuestInterruptibilityState, vmcs.GuestActivityState,
	vmcs.GuestPendingDebugExceptions, vmcs.GuestEFER, vmcs.GuestPAT, vmcs.GuestSysenterCS, vmcs.GuestSysenterESP,
	vmcs.GuestSysenterEIP, vmcs.GuestDebugCtl, vmcs.GuestGDTRBase, vmcs.GuestGDTRLimit, vmcs.GuestIDTRBase, vmcs.GuestIDTRLimit,
	vmcs.VMEntryControls,
}

func (a *arena) end(err error) *end {
	e := &end{Reason: a.Reason, RIP: a.RIP, Regs: a.Regs, CR2: a.CR2, Memory: bytes.Clone(a.Memory), Handled: err, Fields: map[vmcs.Field]uint64{}}
	e.Regs[asm.RSP] = 0
	for i, n := range [...]int{0, 1, 2, 3, 6} {
		e.DR[i] = asm.ReadDR(n)
	}
	clear(e.Memory[vmtest.TableRoot:vmtest.GDT]) // the processor sets accessed and dirty flags
	for _, f := range comparedFields {
		e.Fields[f] = a.Get(f)
	}
	// What the guest reads. The native guest's CR0.CD and NW are the host's.
	cr0 := vmcs.CRMask{Mask: a.Get(vmcs.CR0GuestHostMask), Shadow: a.Get(vmcs.CR0ReadShadow)}
	cr4 := vmcs.CRMask{Mask: a.Get(vmcs.CR4GuestHostMask), Shadow: a.Get(vmcs.CR4ReadShadow)}
	e.Fields[vmcs.GuestCR0] = cr0.Read(a.Get(vmcs.GuestCR0))
	e.Fields[vmcs.GuestCR4] = cr4.Read(a.Get(vmcs.GuestCR4))
	if e.Fields[vmcs.GuestCR0]>>31&1 == 1 && e.Fields[vmcs.GuestCR4]>>5&1 == 1 && e.Fields[vmcs.GuestEFER]>>10&1 == 0 {
		for n := range vmcs.Field(4) {
			e.Fields[vmcs.GuestPDPTE0+2*n] = a.Get(vmcs.GuestPDPTE0 + 2*n)
		}
	}
	for s := range vmcs.SegmentRegister(vmcs.NumSegmentRegisters) {
		for _, f := range [...]vmcs.Field{s.Selector(), s.Base(), s.Limit(), s.AccessRights()} {
			if f == s.Selector() || a.Get(s.AccessRights())>>16&1 == 0 { // else undefined
				e.Fields[f] = a.Get(f)
			}
		}
	}
	return e
}

// flat is the memory of an arena: guest-physical is linear, where the page table has the
// page.
type flat struct{ a *arena }

func (f flat) at(gpa uint64, p []byte) ([]byte, error) {
	if gpa >= vmtest.MemorySize || gpa+uint64(len(p)) > vmtest.MemorySize {
		return nil, fmt.Errorf("no memory at 0x%x", gpa)
	}
	return f.a.Memory[gpa:][:len(p)], nil
}

func (f flat) ReadPhysical(gpa uint64, p []byte) error {
	b, err := f.at(gpa, p)
	copy(p, b)
	return err
}

func (f flat) WritePhysical(gpa uint64, p []byte) error {
	b, err := f.at(gpa, p)
	copy(b, p)
	return err
}

func (f flat) translate(x *vmexit.Exit, linear uint64, write bool) (gpa uint64, code uint32, ok bool, err error) {
	if x.Read(vmcs.GuestCR0)>>31 == 0 {
		return linear, 0, true, nil
	}
	if write {
		code |= 2
	}
	if x.CPL() == 3 {
		code |= 4
	}
	if linear >= 0x200000 {
		return 0, code, false, nil
	}
	var entry uint64
	if x.Read(vmcs.GuestCR4)>>5&1 == 0 {
		entry = uint64(binary.LittleEndian.Uint32(f.a.Memory[vmtest.TablePT+4*(linear>>12):]))
	} else {
		entry = binary.LittleEndian.Uint64(f.a.Memory[vmtest.TablePT+8*(linear>>12):])
	}
	switch {
	case entry&1 == 0:
		return 0, code, false, nil
	case write && entry&2 == 0:
		return 0, code | 1, false, nil
	}
	return entry&0xffffffff000 | linear&0xfff, 0, true, nil
}

// ports is the machine's own I/O.
type ports struct{}

func (ports) In(port uint16, size int) (uint32, error) {
	switch size {
	case 1:
		return uint32(asm.IN8(port)), nil
	case 2:
		return uint32(asm.IN16(port)), nil
	}
	return asm.IN32(port), nil
}

func (ports) Out(port uint16, size int, v uint32) error {
	switch size {
	case 1:
		asm.OUT8(port, uint8(v))
	case 2:
		asm.OUT16(port, uint16(v))
	default:
		asm.OUT32(port, v)
	}
	return nil
}

// contest is a pair of guests of one kind.
type contest struct {
	*vmtest.Machine
	kind            vmtest.Kind
	native, handled *arena
	bitmap, io      uint64 // physical addresses of a page of zeros each, two for io
	dispatcher      *vmexit.Dispatcher
	exits           *vmexit.Counter
}

func newContest(m *vmtest.Machine, k vmtest.Kind, exits *vmexit.Counter) *contest {
	c := &contest{Machine: m, kind: k, native: newArena(m, k), exits: exits}
	c.handled = newArena(m, k)
	c.bitmap, c.io = m.Pages(1).Phys(), m.Pages(2).Phys()
	cpuid := vmexit.SnapshotCPUID(vmcs.Processor{}).HideVMX()
	memory := &vmexit.GuestMemory{Physical: flat{c.handled}, Translate: flat{c.handled}.translate}
	p := vmexit.NewPorts().Set(0x80, 0x8f, ports{})
	p.MaxIterations = 3
	p.Memory = memory
	c.dispatcher = vmexit.Defaults(vmexit.Config{
		Capabilities: m.Caps, CPUID: cpuid, Ports: p, Memory: memory, Hypercall: vmexit.Leave,
		DebugRegisters: &vmexit.DebugRegisters{RTM: true}, // Bochs lets DR7[11] be written
	}).OverAll(exits.Layer).Build()
	return c
}

// run runs a program in both guests, and compares. Masks are the guest/host masks of CR0
// and CR4 of the guest that is handled.
func (c *contest) run(t require.T, p *program, masks [2]uint64) {
	t.Helper()
	const vmxe = 1 << 13
	c.native.start(p, func(i *vmcs.Image) {
		i.Set(vmcs.ExceptionBitmap, 0)
		i.Set(vmcs.CR4GuestHostMask, vmxe)
		vmtest.Controls(c.Machine, i, vmcs.PrimaryUseMSRBitmaps|vmcs.PrimaryUseIOBitmaps)
		i.Set(vmcs.MSRBitmaps, c.bitmap)
		i.Set(vmcs.IOBitmapA, c.io)
		i.Set(vmcs.IOBitmapB, c.io+0x1000)
	})
	c.native.step(t)
	native := c.native.end(nil)

	c.handled.start(p, func(i *vmcs.Image) {
		cr0, _ := i.Get(vmcs.GuestCR0)
		cr4, _ := i.Get(vmcs.GuestCR4)
		i.Set(vmcs.CR0GuestHostMask, masks[0])
		i.Set(vmcs.CR0ReadShadow, cr0)
		i.Set(vmcs.CR4GuestHostMask, masks[1]|vmxe)
		i.Set(vmcs.CR4ReadShadow, cr4&^vmxe)
		vmtest.Controls(c.Machine, i, vmcs.PrimaryUnconditionalIOExiting|vmcs.PrimaryMOVDRExiting|vmcs.PrimaryCR3LoadExiting|
			vmcs.PrimaryCR3StoreExiting|vmcs.PrimaryINVLPGExiting|vmcs.PrimaryMONITORExiting|vmcs.PrimaryPAUSEExiting)
		vmtest.Controls(c.Machine, i, vmcs.SecondaryDescriptorTableExiting)
	})
	x := &vmexit.Exit{Guest: &c.handled.Guest.Guest, VMCS: vmcs.Current{}}
	var err error
	for range 200 { // external interrupts come in between; a loop of exits shall not hang
		if err = c.dispatcher.Run(x); err != nil || c.handled.Basic() == 18 || c.handled.Basic() == 2 {
			break
		}
	}
	shutdown := errors.Is(err, vmexit.ErrTripleFault)
	if shutdown {
		err = nil
	}
	handled := c.handled.end(err)
	if shutdown && native.Reason == 2 { // a handler may have found it; what counts is what led there
		native.Memory, handled.Memory = nil, nil
		native.Fields = map[vmcs.Field]uint64{vmcs.GuestCR0: native.Fields[vmcs.GuestCR0], vmcs.GuestCR4: native.Fields[vmcs.GuestCR4]}
		handled.Reason, handled.RIP, handled.CR2 = native.Reason, native.RIP, native.CR2
	}
	if err != nil && native.Reason == uint32(vmexit.EPTViolation) {
		return // without paging a guest can run off its memory, and both have found it
	}
	if d := native.diff(handled); d != "" {
		t.Fatalf("%v, %s, masks %#x: % x\n%s", c.kind, p.name, masks, p.code, d)
	}
}

func (a *arena) step(t require.T) {
	for {
		require.NoError(t, vmcs.StatusError(a.Enter()))
		if a.Basic() != 1 {
			break
		}
	}
	require.Zero(t, a.Reason>>31)
}

// diff says how two ends differ.
func (e *end) diff(o *end) (s string) {
	say := func(format string, args ...any) { s += fmt.Sprintf(format, args...) + "\n" }
	if o.Handled != nil {
		say("the run ended with: %v", o.Handled)
	}
	if e.Reason != o.Reason || e.RIP != o.RIP {
		say("native ends with exit %d at 0x%x, handled with %d at 0x%x", e.Reason, e.RIP, o.Reason, o.RIP)
	}
	for n := range e.Regs {
		if e.Regs[n] != o.Regs[n] {
			say("%v: native 0x%x, handled 0x%x", vmexit.Register(n), e.Regs[n], o.Regs[n])
		}
	}
	if e.CR2 != o.CR2 {
		say("CR2: native 0x%x, handled 0x%x", e.CR2, o.CR2)
	}
	if e.DR != o.DR {
		say("debug registers: native %#x, handled %#x", e.DR, o.DR)
	}
	for f, v := range e.Fields {
		if o.Fields[f] != v {
			say("%v: native 0x%x, handled 0x%x", f, v, o.Fields[f])
		}
	}
	if bytes.Equal(e.Memory, o.Memory) {
		return s
	}
	for at := 0; at < len(e.Memory); at += 8 {
		if !bytes.Equal(e.Memory[at:][:8], o.Memory[at:][:8]) {
			say("memory at 0x%x: native % x, handled % x", at, e.Memory[at:][:8], o.Memory[at:][:8])
		}
	}
	return s
}

// Assembling. is16 tells of modes with 16-bit code, for the size prefixes and
// addressing forms.
type assembler struct {
	kind vmtest.Kind
	code []byte
}

func (a *assembler) is16() bool {
	switch a.kind.Mode {
	case vmtest.ModeReal, vmtest.ModeVirtual8086, vmtest.ModeProtected16:
		return true
	}
	return false
}

func (a *assembler) is64() bool { return a.kind.Mode == vmtest.ModeLong }

func (a *assembler) put(b ...byte) { a.code = append(a.code, b...) }

// load is MOV register, immediate: 32 bits, or 64.
func (a *assembler) load(r byte, v uint64) {
	switch {
	case a.is64() && v>>32 != 0:
		a.put(0x48|r>>3, 0xb8|r&7)
		a.code = binary.LittleEndian.AppendUint64(a.code, v)
		return
	case a.is16():
		a.put(0x66)
	}
	a.put(0xb8 | r)
	a.code = binary.LittleEndian.AppendUint32(a.code, uint32(v))
}

// memory is the ModRM byte for an operand at [RSI], [ESI] or [SI].
func (a *assembler) memory(reg byte) byte {
	if a.is16() {
		return reg<<3 | 4
	}
	return reg<<3 | 6
}

const (
	ax = 0
	cx = 1
	dx = 2
	si = 6
	di = 7
)

// toggled draws a value that differs from base in some of the bits.
func toggled(t *rapid.T, base uint64, bits []int, label string) uint64 {
	for _, n := range rapid.SliceOfN(rapid.SampledFrom(bits), 0, 4).Draw(t, label) {
		base ^= 1 << n
	}
	return base
}

// snippets append an instruction, and what it needs, to a program.
var snippets = map[string]func(t *rapid.T, a *assembler){
	"MOV to CR0": func(t *rapid.T, a *assembler) {
		base := uint64(0x80010031) // PG, WP, NE, ET, PE
		if a.kind.Mode == vmtest.ModeProtected || a.kind.Mode == vmtest.ModeProtected16 || a.kind.Mode == vmtest.ModeReal {
			base = 0x10030 | rapid.Uint64Range(0, 1).Draw(t, "PE")
		}
		a.load(ax, toggled(t, base, []int{0, 1, 2, 3, 4, 6, 15, 16, 17, 18, 29, 30, 31, 40}, "CR0"))
		a.put(0x0f, 0x22, 0xc0)
	},
	"MOV from CR0": func(_ *rapid.T, a *assembler) { a.put(0x0f, 0x20, 0xc3) }, // to EBX
	"MOV to CR4": func(t *rapid.T, a *assembler) {
		base := uint64(0)
		switch a.kind.Mode {
		case vmtest.ModeLong, vmtest.ModeCompatibility, vmtest.ModePAE:
			base = 0x20
		}
		a.load(ax, toggled(t, base, []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 14, 15, 16, 17, 18, 19, 20, 22, 24, 27, 31, 33}, "CR4"))
		a.put(0x0f, 0x22, 0xe0)
	},
	"MOV from CR4": func(_ *rapid.T, a *assembler) { a.put(0x0f, 0x20, 0xe5) }, // to EBP
	"MOV to CR3": func(t *rapid.T, a *assembler) {
		base := uint64(vmtest.TableRoot)
		if a.kind.Mode == vmtest.ModePAE {
			base = vmtest.TablePDPT
		}
		a.load(ax, toggled(t, base, []int{0, 3, 4, 11, 45, 52, 62, 63}, "CR3"))
		a.put(0x0f, 0x22, 0xd8)
	},
	"MOV from CR3": func(_ *rapid.T, a *assembler) { a.put(0x0f, 0x20, 0xda) }, // to EDX
	"CLTS":         func(_ *rapid.T, a *assembler) { a.put(0x0f, 0x06) },
	"LMSW": func(t *rapid.T, a *assembler) {
		v := rapid.Uint64Range(0, 15).Draw(t, "MSW") | 0x20
		if rapid.Bool().Draw(t, "memory") {
			a.load(si, vmtest.Data+8*v)
			a.put(0x0f, 0x01, a.memory(6))
			return
		}
		a.load(ax, v)
		a.put(0x0f, 0x01, 0xf0)
	},
	"SMSW": func(_ *rapid.T, a *assembler) { a.put(0x0f, 0x01, 0xe1) }, // to CX
	"MOV to DR": func(t *rapid.T, a *assembler) {
		n := rapid.SampledFrom([]byte{0, 1, 2, 3, 4, 5, 6, 7}).Draw(t, "DR")
		v := rapid.SampledFrom([]uint64{0, 0x400, 0xffffffff, 0x100000000, 0x1110001ff, 0xe00f, 0x2000, 0x55}).Draw(t, "value")
		if n == 7 || n == 5 { // no breakpoints: they would strike
			v &^= 0xff
		}
		a.load(ax, v)
		a.put(0x0f, 0x23, 0xc0|n<<3)
	},
	"MOV from DR": func(t *rapid.T, a *assembler) {
		n := rapid.SampledFrom([]byte{0, 1, 2, 3, 4, 5, 6, 7}).Draw(t, "DR")
		a.put(0x0f, 0x21, 0xc3|n<<3)
	},
	"WRMSR": func(t *rapid.T, a *assembler) {
		a.load(cx, rapid.SampledFrom([]uint64{0x174, 0x175, 0x176, 0xc0000080, 0xc0000100, 0xc0000101}).Draw(t, "MSR"))
		a.load(ax, rapid.SampledFrom([]uint64{0, 0x100, 0x101, 0x900, 0x901, 0xd01, 0x501, 0x500, 0x200, 0x12345678}).Draw(t, "low"))
		a.load(dx, rapid.SampledFrom([]uint64{0, 1, 0x8000, 0xffff8000, 0x7fff}).Draw(t, "high"))
		a.put(0x0f, 0x30)
	},
	"RDMSR": func(t *rapid.T, a *assembler) {
		a.load(cx, rapid.SampledFrom([]uint64{0x174, 0x175, 0x176, 0xc0000080, 0xc0000100, 0xc0000101, 0x1fff, 0xc0001fff}).Draw(t, "MSR"))
		a.put(0x0f, 0x32)
	},
	"IN": func(t *rapid.T, a *assembler) {
		a.load(ax, 0x11223344)
		a.load(dx, 0x81)
		a.put(rapid.SampledFrom([][]byte{{0xec}, {0xed}, {0x66, 0xed}, {0xe4, 0x82}, {0xe5, 0x83}}).Draw(t, "form")...)
	},
	"OUT": func(t *rapid.T, a *assembler) {
		a.load(ax, rapid.Uint64Range(0, 255).Draw(t, "value"))
		a.load(dx, 0x84)
		a.put(rapid.SampledFrom([][]byte{{0xee}, {0xef}, {0x66, 0xef}, {0xe6, 0x82}}).Draw(t, "form")...)
	},
	"string I/O": func(t *rapid.T, a *assembler) {
		var prefixes []byte
		for _, prefix := range []byte{0x66, 0x67, 0xf3, 0x26, 0x36, 0x64} {
			if rapid.IntRange(0, 2).Draw(t, "prefix") == 0 {
				prefixes = append(prefixes, prefix)
			}
		}
		// Addresses at a page end, behind which is one that is not there, or not writable.
		at := rapid.SampledFrom([]uint64{vmtest.Data + 0x100, vmtest.Data + 0xffe, vmtest.Data + 0x1ffb, vmtest.Free + 0xffd, vmtest.Free + 0x1001, 0xfffe}).Draw(t, "address")
		// The program shall not write to its page tables: the TLBs of the two guests differ.
		if at > 0xffff && !a.is64() && a.is16() != slices.Contains(prefixes, 0x67) {
			at = vmtest.Data + 0x104
		}
		counts := []uint64{0, 1, 2, 3, 4, 7, 0x10002}
		down := rapid.Bool().Draw(t, "down")
		if down {
			counts = counts[:6]
		}
		if rapid.Bool().Draw(t, "high") {
			at |= 0x12340000
			if a.is64() && rapid.Bool().Draw(t, "not canonical") {
				at |= 0x800000000000
			}
		}
		a.load(si, at)
		a.load(di, at)
		a.load(cx, rapid.SampledFrom(counts).Draw(t, "count"))
		a.load(dx, 0x85)
		if down {
			a.put(0xfd) // STD
		}
		a.put(prefixes...)
		a.put(rapid.SampledFrom([]byte{0x6c, 0x6d, 0x6e, 0x6f}).Draw(t, "instruction"))
	},
	"descriptor table": func(t *rapid.T, a *assembler) {
		n := rapid.SampledFrom([]byte{0, 1, 2, 3}).Draw(t, "instruction")
		addresses := []uint64{vmtest.Data + 0x800, vmtest.Data + 0x810, vmtest.Data + 0x820, vmtest.Free + 0x1000, 0xfffa}
		if n < 2 { // which of limit and base is loaded first, and faults, is the processor's
			addresses = append(addresses, vmtest.Data+0x2000)
		}
		a.load(si, rapid.SampledFrom(addresses).Draw(t, "address"))
		if rapid.IntRange(0, 3).Draw(t, "prefix") == 0 {
			a.put(0x66)
		}
		a.put(0x0f, 0x01, a.memory(n))
	},
	"system segment": func(t *rapid.T, a *assembler) {
		n := rapid.SampledFrom([]byte{0, 1, 2, 3}).Draw(t, "instruction")
		v := rapid.SampledFrom([]uint64{0, 3, 4, 8, vmtest.SelectorTSS, 0x48, 0x58, 0x5b, 0x68, 0x78, 0x88, 0x98, 0xa8, 0xf0}).Draw(t, "selector")
		if rapid.Bool().Draw(t, "memory") {
			a.load(si, vmtest.Data+0x400+2*v)
			a.put(0x0f, 0x00, a.memory(n))
			return
		}
		a.load(ax, 0x99990000|v)
		switch rapid.IntRange(0, 2).Draw(t, "prefix") {
		case 0:
			a.put(0x66)
		case 1:
			if a.is64() {
				a.put(0x48)
			}
		}
		a.put(0x0f, 0x00, 0xc0|n<<3)
	},
	"INVLPG": func(_ *rapid.T, a *assembler) { a.put(0x0f, 0x01, a.memory(7)) },
	"INVPCID": func(t *rapid.T, a *assembler) {
		a.load(ax, rapid.SampledFrom([]uint64{0, 1, 2, 3, 4, 0xffffffff}).Draw(t, "type"))
		a.load(si, rapid.SampledFrom([]uint64{vmtest.Data + 0x900, vmtest.Data + 0x910, vmtest.Data + 0x920, vmtest.Free + 0xff8}).Draw(t, "address"))
		a.put(0x66, 0x0f, 0x38, 0x82, a.memory(0))
	},
	"PAUSE": func(_ *rapid.T, a *assembler) { a.put(0xf3, 0x90) },
	"MONITOR": func(t *rapid.T, a *assembler) {
		a.load(ax, vmtest.Data)
		a.load(cx, rapid.Uint64Range(0, 1).Draw(t, "extensions"))
		a.put(0x0f, 0x01, 0xc8)
	},
	"exception": func(t *rapid.T, a *assembler) {
		a.put(rapid.SampledFrom([][]byte{
			{0xcc}, {0xf1}, {0xcd, 0x40}, {0xcd, 0x03}, {0x0f, 0x0b}, {0xf6, 0xf4}, // INT3, INT1, INT 0x40, INT 3, UD2, DIV AH of 0
			{0xce}, {0xa1, 0xff, 0xff, 0x0f, 0, 0, 0, 0, 0}, {0x8e, 0xd8}, // INTO, MOV EAX, [far away], MOV DS, AX
		}).Draw(t, "form")...)
	},
	"flags": func(t *rapid.T, a *assembler) { // single-stepping starts, or interrupts are blocked by STI
		if rapid.IntRange(0, 3).Draw(t, "form") == 0 {
			a.put(0xfb)
			return
		}
		a.put(0x9c, 0x58, 0x80, 0xcc, 0x01, 0x50, 0x9d) // PUSHF, POP EAX, OR AH, 1, PUSH EAX, POPF
	},
}

// descriptors are what "system segment" finds in the GDT from 0x48 on, 16 bytes each.
func descriptors() []byte {
	var b []byte
	for _, d := range [...]uint64{
		0x0000820120000fff, // LDT
		0x0000890120000067, // available TSS
		0x0000020120000fff, // LDT that is not present
		0x0000810120000067, // available 16-bit TSS
		0x0000090120000067, // TSS that is not present
		0x00cf93000000ffff, // data
		0x00af820120000fff, // LDT with G
	} {
		b = binary.LittleEndian.AppendUint64(b, d)
		b = binary.LittleEndian.AppendUint64(b, 0)
	}
	return b
}

// data is what programs find in memory.
func programData() map[int][]byte {
	words := make([]byte, 0x200)
	for i := range 0x100 {
		binary.LittleEndian.PutUint16(words[2*i:], uint16(i))
	}
	msw := make([]byte, 0x180)
	for i := range len(msw) / 8 {
		binary.LittleEndian.PutUint64(msw[8*i:], uint64(i))
	}
	tables := make([]byte, 0x30)
	copy(tables, []byte{0x34, 0x12, 0x78, 0x56, 0x34, 0x92, 0, 0, 0, 0})
	copy(tables[0x10:], []byte{0xff, 0x0f, 0, 0, 0, 0, 0, 0x80, 0, 0})
	copy(tables[0x20:], []byte{0xff, 0x0f, 0, 0, 0, 0, 0, 0x80, 0xff, 0xff})
	pcids := make([]byte, 0x30)
	pcids[0x10+1], pcids[0x20] = 0x10, 7 // reserved bit 12, PCID 7
	return map[int][]byte{
		vmtest.Data: msw, vmtest.Data + 0x400: words, vmtest.Data + 0x800: tables, vmtest.Data + 0x900: pcids,
		vmtest.GDT + 0x48: descriptors(),
		// The page behind Free cannot be written, the second behind is not there. These are
		// entries of 8 bytes; in 32-bit paging the bytes are those of other pages.
	}
}

// programs are drawn for one kind of guest.
func programs(k vmtest.Kind, names []string) *rapid.Generator[*program] {
	return rapid.Custom(func(t *rapid.T) *program {
		a := &assembler{kind: k}
		p := &program{data: programData()}
		for range rapid.IntRange(1, 4).Draw(t, "length") {
			name := rapid.SampledFrom(names).Draw(t, "snippet")
			p.name += name + "; "
			snippets[name](t, a)
		}
		p.code = a.code
		for n := range p.regs {
			p.regs[n] = uint64(n) * 0x1111
		}
		p.regs[asm.RSP] = 0
		entry := func(page int, flags uint64) {
			at, b := vmtest.TablePT+8*page, make([]byte, 8)
			binary.LittleEndian.PutUint64(b, uint64(page)<<12|flags)
			if k.Mode == vmtest.ModePaged || k.Mode == vmtest.ModeVirtual8086 {
				at, b = vmtest.TablePT+4*page, b[:4]
			}
			p.data[at] = b
		}
		entry(vmtest.Free>>12+1, 5)
		entry(vmtest.Free>>12+2, 0)
		entry(vmtest.Data>>12+2, 6)
		limit := rapid.Bool().Draw(t, "limit")
		down := rapid.Bool().Draw(t, "expand-down ES")
		p.fields = func(i *vmcs.Image) {
			i.Set(vmcs.GuestGDTRLimit, 0xb7)
			switch k.Mode {
			case vmtest.ModeProtected, vmtest.ModePaged, vmtest.ModePAE, vmtest.ModeCompatibility, vmtest.ModeProtected16:
				if limit {
					i.Set(vmcs.GuestDSLimit, vmtest.Data+0x1fff)
					i.Set(vmcs.GuestDSAccessRights, 0xc093)
				}
				if down {
					i.Set(vmcs.GuestESLimit, vmtest.Data+0xfff)
					i.Set(vmcs.GuestESAccessRights, 0xc097)
				}
			}
		}
		return p
	})
}

// handlerSeed chooses the programs of TestHandlersLikeProcessor. A fixed one makes a boot
// repeatable; 0 draws others each time.
var handlerSeed = flag.String("vmexit.seed", "1", "seed of the programs of TestHandlersLikeProcessor")

// TestHandlersLikeProcessor is the contest over drawn programs.
func TestHandlersLikeProcessor(t *testing.T) {
	m := vmtest.Start(t)
	if !vmtest.Has(m, vmcs.SecondaryDescriptorTableExiting) || !vmtest.Has(m, vmcs.SecondaryUnrestrictedGuest) {
		t.Skip("this processor cannot make everything exit")
	}
	var names []string
	for name := range snippets {
		names = append(names, name)
	}
	slices.Sort(names) // a seed means the same programs again
	setFlag(t, "rapid.seed", *handlerSeed)
	setFlag(t, "rapid.nofailfile", "true")
	exits := new(vmexit.Counter)
	var contests []*contest
	var gens []*rapid.Generator[*program]
	for _, k := range m.Kinds() {
		if k.Unrestricted {
			contests = append(contests, newContest(m, k, exits))
			gens = append(gens, programs(k, names))
		}
	}
	ring0test.Check(t, func(t *rapid.T) {
		for range 3 {
			n := rapid.IntRange(0, len(contests)-1).Draw(t, "kind")
			masks := rapid.SampledFrom([][2]uint64{
				{^uint64(0), ^uint64(0)}, {0, 0}, {0x60000001, 0x20}, {0xffff0000, 0xffff}, {0x8, 0x1ff00},
			}).Draw(t, "masks")
			contests[n].run(t, gens[n].Draw(t, "program"), masks)
		}
	})
	for _, b := range []vmexit.Basic{
		vmexit.ExceptionOrNMI, vmexit.CRAccess, vmexit.MOVDR, vmexit.IOInstruction, vmexit.RDMSR, vmexit.WRMSR, vmexit.GDTRIDTRAccess,
		vmexit.LDTRTRAccess, vmexit.INVLPG, vmexit.PAUSE, vmexit.MONITOR, vmexit.VMCALL,
	} {
		require.True(t, exits.Count(b) > 0 || !ring0test.Whole(), "no program had an exit for %v", b)
	}
	t.Logf("%d exits handled", exits.Total())
}

// TestCPUIDLikeProcessor: a snapshot answers as the processor does, in every mode, for
// leaves that are there and others.
func TestCPUIDLikeProcessor(t *testing.T) {
	m := vmtest.Start(t)
	for _, k := range []vmtest.Kind{vmtest.Long, {Mode: vmtest.ModeCompatibility, EPT: true}} {
		g := m.NewGuest(k, 0x0f, 0xa2) // CPUID
		policy := vmexit.SnapshotCPUID(vmcs.Processor{})
		handle := policy.Handler()
		g.Require(uint16(vmexit.CPUID))
		x := &vmexit.Exit{Guest: &g.Guest, VMCS: vmcs.Current{}}
		highest, _, _, _ := asm.CPUID(0, 0)
		extended, _, _, _ := asm.CPUID(0x80000000, 0)
		var leaves []uint32
		for leaf := range highest + 2 {
			leaves = append(leaves, leaf)
		}
		for leaf := uint32(0x80000000); leaf <= extended; leaf++ {
			leaves = append(leaves, leaf)
		}
		for _, leaf := range leaves {
			for _, sub := range []uint32{0, 1, 2, 3, 9} {
				g.Regs[asm.RAX], g.Regs[asm.RCX] = uint64(leaf), uint64(sub)
				require.Equal(t, vmexit.Resume, handle(x))
				var want vmexit.CPUIDRegisters
				want.EAX, want.EBX, want.ECX, want.EDX = asm.CPUID(leaf, sub)
				const osxsave, hypervisor, syscall = 1 << 27, 1 << 31, 1 << 11
				switch leaf {
				case 1: // the guest's CR4.OSXSAVE is 0
					want.ECX &^= osxsave | hypervisor
				case 0x80000001:
					if k.Mode != vmtest.ModeLong {
						want.EDX &^= syscall
					}
				}
				got := vmexit.CPUIDRegisters{uint32(g.Regs[asm.RAX]), uint32(g.Regs[asm.RBX]), uint32(g.Regs[asm.RCX]), uint32(g.Regs[asm.RDX])}
				if leaf == 0xd && sub == 1 {
					got.EBX = want.EBX // Bochs tells the size of the standard format here, too
				}
				require.Equal(t, want, got, "leaf 0x%x, sub-leaf %d", leaf, sub)
			}
		}
	}
}
