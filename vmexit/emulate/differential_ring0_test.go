package emulate_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/govtx/vtx/asm"
	"github.com/govtx/vtx/internal/require"
	"github.com/govtx/vtx/internal/ring0test"
	"github.com/govtx/vtx/internal/vmtest"
	"github.com/govtx/vtx/vmcs"
	"github.com/govtx/vtx/vmexit/emulate"
)

const (
	reasonException    = 0
	reasonVMCALL       = 18
	reasonEPTViolation = 48
	reasonTimer        = 52
)

// The device takes the middle of three pages, so that operands lie across its ends.
const (
	window     = vmtest.Data
	windowSize = 0x3000
	hole       = window + 0x1000
	holeSize   = 0x1000
)

// A rig is a guest, and what is needed to run it again and again.
type rig struct {
	*vmtest.Guest
	fresh []byte // its memory at first
	image *vmcs.Image
	timed bool // the preemption timer is on

	emulator emulate.Emulator
	memory   *updated
	device   *array
}

func newRig(m *vmtest.Machine, k vmtest.Kind) *rig {
	r := &rig{Guest: m.NewGuest(k), image: new(vmcs.Image)}
	require.NoError(m, vmcs.Copy(r.image, vmcs.Current{}))
	if r.timed = vmtest.Has(m, vmcs.PinActivateVMXPreemptionTimer); r.timed {
		vmtest.SetControls(r.Guest, vmcs.PinActivateVMXPreemptionTimer)
	}
	r.fresh = slices.Clone(r.Memory)
	base := r.Physical(0)
	r.memory = &updated{ram: ram{base: base, bytes: make([]byte, len(r.fresh)), hole: hole, size: holeSize}}
	r.device = &array{base: base + hole, bytes: make([]byte, holeSize), quiet: true}
	r.emulator.Memory, r.emulator.Device = r.memory, r.device
	r.emulator.PhysicalAddressBits = m.Caps.CPU.PhysicalAddressBits
	return r
}

// codeSize is the size of code in a kind of guest.
func codeSize(k vmtest.Kind) int {
	switch k.Mode {
	case vmtest.ModeLong:
		return 64
	case vmtest.ModeCompatibility, vmtest.ModePAE, vmtest.ModePaged, vmtest.ModeProtected:
		return 32
	}
	return 16
}

// paged reports whether a kind of guest has its own page tables, and the size of their
// entries.
func paged(k vmtest.Kind) (entry int) {
	switch k.Mode {
	case vmtest.ModeLong, vmtest.ModeCompatibility, vmtest.ModePAE:
		return 8
	case vmtest.ModePaged, vmtest.ModeVirtual8086:
		return 4
	}
	return 0
}

// flagsStatus are the status flags.
const flagsStatus = asm.FlagCF | asm.FlagPF | asm.FlagAF | asm.FlagZF | asm.FlagSF | asm.FlagOF

// prepare draws the guest's state: control registers, privilege level, segments, rights of
// pages. It returns what RIP is to be.
func (r *rig) prepare(t *rapid.T) (rip uint64) {
	copy(r.Memory, r.fresh)
	data := rapid.Uint64().Draw(t, "data")
	for at := window; at < window+windowSize; at += 8 {
		binary.LittleEndian.PutUint64(r.Memory[at:], data)
		data = data*6364136223846793005 + 1442695040888963407
	}
	image := *r.image
	get := func(f vmcs.Field) uint64 { v, _ := image.Get(f); return v }
	k := r.Kind
	flip := func(f vmcs.Field, bits uint64) { image.Set(f, get(f)^bits) }
	if k.Mode != vmtest.ModeReal {
		if chance(t, 3, "CR0.WP is 0") {
			flip(vmcs.GuestCR0, asm.CR0WP)
		}
		// In virtual-8086 mode Bochs 2.7 looks at CR0.AM before the privilege level is 3.
		if k.Mode != vmtest.ModeVirtual8086 && chance(t, 3, "CR0.AM") {
			flip(vmcs.GuestCR0, asm.CR0AM)
		}
	}
	flags := rapid.Uint64().Draw(t, "flags") & flagsStatus
	if chance(t, 4, "DF") {
		flags |= asm.FlagDF
	}
	if chance(t, 3, "AC") {
		flags |= asm.FlagAC
	}
	image.Set(vmcs.GuestRFLAGS, get(vmcs.GuestRFLAGS)|flags)
	if entry := paged(k); entry != 0 {
		for _, bit := range []uint64{asm.CR4SMEP, asm.CR4SMAP} {
			if r.Caps.CR4Fixed1&bit != 0 && chance(t, 3, "SMEP or SMAP") {
				flip(vmcs.GuestCR4, bit)
			}
		}
		if entry == 8 && chance(t, 2, "EFER.NXE") {
			flip(vmcs.GuestEFER, asm.EFERNXE)
		}
		if k.Mode != vmtest.ModeVirtual8086 && chance(t, 2, "user mode") {
			for n := range vmcs.Field(6) {
				flip(vmcs.GuestESAccessRights+2*n, 3<<5)
				flip(vmcs.GuestESSelector+2*n, 3)
			}
		}
		r.rights(t, entry)
	}
	for f, v := range image.All() {
		if f.Type() != vmcs.GuestState || f == vmcs.GuestRIP { // the rest is Enter's, or stays
			continue
		}
		if err := (vmcs.Current{}).Write(f, v); err != nil { // r.Set takes ten times as long
			t.Fatal(err)
		}
	}
	rip = vmtest.Code + rapid.SampledFrom([]uint64{0, 0, 0xff0, 0xff8, 0xffe, 0xfff}).Draw(t, "code")
	return rip
}

// rights changes the rights of some pages.
func (r *rig) rights(t *rapid.T, entry int) {
	pages := []int{window >> 12, window>>12 + 1, window>>12 + 2}
	if chance(t, 4, "the stack too") {
		pages = append(pages, vmtest.StackTop>>12-1)
	}
	if chance(t, 8, "the code too") {
		pages = append(pages, vmtest.Code>>12, vmtest.Code>>12+1)
	}
	for _, page := range pages {
		if !chance(t, 3, "rights") {
			continue
		}
		r.change(t, vmtest.TablePT, page, entry, 0x67)
	}
	if !chance(t, 10, "rights of tables") {
		return
	}
	switch {
	case entry == 4:
		r.change(t, vmtest.TableRoot, 0, entry, 0x27)
	case r.Kind.Mode == vmtest.ModePAE:
		r.change(t, vmtest.TablePD, 0, entry, 0x27)
	default:
		table := rapid.SampledFrom([]int{vmtest.TableRoot, vmtest.TablePDPT, vmtest.TablePD}).Draw(t, "table")
		r.change(t, table, 0, entry, 0x27)
	}
}

// change flips bits of an entry of size bytes: one of those in low, or of those that are
// above all addresses.
func (r *rig) change(t *rapid.T, table, index, size int, low uint64) {
	b := r.Memory[table+size*index:][:size]
	if size == 4 {
		e := binary.LittleEndian.Uint32(b)
		binary.LittleEndian.PutUint32(b, e^1<<rapid.SampledFrom([]int{0, 1, 1, 2, 2, 5, 6}).Draw(t, "bit")&uint32(low))
		return
	}
	e := binary.LittleEndian.Uint64(b)
	bit := rapid.SampledFrom([]int{0, 1, 1, 2, 2, 5, 6, 40, 45, 51, 52, 59, 62, 63, 63}).Draw(t, "bit")
	binary.LittleEndian.PutUint64(b, e^1<<bit&(low|0xffffff<<40))
}

// outcome is what has become of an instruction.
type outcome struct {
	exception bool
	event     vmcs.Event
	address   uint64
	rip       uint64
	regs      [16]uint64
	flags     uint64
	memory    []byte
}

// enter runs the guest, for a bounded time: it may have overwritten its code.
func (r *rig) enter() {
	if r.timed {
		r.Set(vmcs.PreemptionTimerValue, 1<<20)
	}
	const externalInterrupt = 1
	for r.Step(); r.Basic() == externalInterrupt; r.Step() {
	}
}

// native runs the instruction on plain memory. It reports false if the guest has come to
// an address where there is nothing.
func (r *rig) native(d *drawn, rip uint64) (o outcome, ok bool) {
	r.RIP = rip
	r.Regs = d.regs
	r.Set(vmcs.GuestRSP, d.regs[asm.RSP])
	r.enter()
	o.regs, o.flags, o.rip, o.memory = r.Regs, r.Get(vmcs.GuestRFLAGS), r.RIP, r.Memory
	o.regs[asm.RSP] = r.Get(vmcs.GuestRSP)
	switch r.Basic() {
	case reasonVMCALL:
	case reasonException:
		o.exception = true
		o.event.Info = vmcs.InterruptionInfo(r.Get(vmcs.ExitInterruptionInformation)).ForEntry()
		if o.event.Info.HasErrorCode() {
			o.event.ErrorCode = uint32(r.Get(vmcs.ExitInterruptionErrorCode))
		}
		if r.Kind.Mode == vmtest.ModeReal { // which Bochs 2.7 forgets (SDM Vol. 3C 28.2.2)
			o.event = o.event.WithoutErrorCode()
		}
		if o.event.Info.Vector() == vmcs.VectorPF {
			o.address = r.Get(vmcs.ExitQualification)
		}
	default:
		return o, false
	}
	return o, true
}

// emulated carries out the same from state s, with a device in the window.
func (r *rig) emulated(t *rapid.T, s *emulate.State, memory []byte) (o outcome, err error) {
	copy(r.memory.bytes, memory)
	copy(r.device.bytes, memory[hole:])
	o.rip = s.RIP
	for o.rip == s.RIP && !o.exception {
		result, err := r.emulator.Step(s)
		if err != nil {
			return o, err
		}
		switch result.Action {
		case emulate.Advance:
			o.rip += uint64(result.Length)
		case emulate.Inject:
			o.exception, o.event, o.address = true, result.Exception.Event, result.Exception.Address
		}
	}
	if !o.exception { // the processor goes on to the VMCALL
		for _, at := range []uint64{o.rip, max(o.rip, (o.rip+2)&^0xfff)} {
			_, err := r.emulator.Translate(s, at, emulate.Fetch)
			var x *emulate.Exception
			if errors.As(err, &x) {
				o.exception, o.event, o.address = true, x.Event, x.Address
				break
			}
			require.NoError(t, err)
		}
	}
	copy(r.memory.bytes[hole:], r.device.bytes)
	o.regs, o.flags, o.memory = *s.Regs, s.RFLAGS, r.memory.bytes
	return o, nil
}

// changed reports whether more than accessed and dirty flags differ.
func changed(before, after []byte, from, to int) bool {
	const flags = 0x6060606060606060
	for at := from; at < to; at += 8 {
		if (binary.LittleEndian.Uint64(before[at:])^binary.LittleEndian.Uint64(after[at:]))&^flags != 0 {
			return true
		}
	}
	return false
}

// TestSameAsTheProcessor draws instructions and runs each twice: by the processor on
// plain memory, and by the emulator with a device in the place of some of it. Registers,
// flags, memory, page tables with their accessed and dirty flags, and exceptions
// are the same.
func TestSameAsTheProcessor(t *testing.T) {
	m := vmtest.Start(t)
	var rigs []*rig
	for _, k := range m.Kinds() {
		rigs = append(rigs, newRig(m, k))
	}
	before := make([]byte, vmtest.MemorySize)
	count := map[string]int{}
	ring0test.Check(t, func(t *rapid.T) {
		for _, r := range rigs {
			r.check(t, before, count)
		}
	})
	t.Log(count)
	require.Greater(t, count["advance"], count["#PF"])
	for _, v := range []string{"#PF", "#GP", "#AC", "#UD"} {
		require.True(t, count[v] > 0 || !ring0test.Whole(), v)
	}
}

func (r *rig) check(t *rapid.T, before []byte, count map[string]int) {
	r.Use()
	rip := r.prepare(t)
	target := rapid.Uint64Range(window+0x100, window+windowSize-0x100).Draw(t, "target")
	switch rapid.IntRange(0, 15).Draw(t, "where") {
	case 0, 1, 2, 3: // across the ends of the device
		target = hole + holeSize*(target&1) - target>>1&15
	case 4:
		target = interesting(t, "anywhere")
	case 5: // across the end of 64 KBytes
		target = 0x10000 - target&15
	}
	stack := rapid.Uint64Range(vmtest.StackTop-0x800, vmtest.StackTop).Draw(t, "stack")
	size := codeSize(r.Kind)
	d := draw(t, size, rip, target, stack, r.Kind.Mode != vmtest.ModeVirtual8086)
	if r.Kind.Mode != vmtest.ModeVirtual8086 {
		r.Set(vmcs.GuestFSBase, d.fs)
		r.Set(vmcs.GuestGSBase, d.gs)
	}
	copy(r.Memory[rip:], d.code)
	copy(r.Memory[rip+uint64(len(d.code)):], []byte{0x0f, 0x01, 0xc1}) // VMCALL
	copy(before, r.Memory)

	regs := d.regs
	if size != 64 {
		for n := range regs {
			regs[n] = uint64(uint32(regs[n]))
			d.regs[n] = regs[n]
		}
	}
	s := emulate.State{Regs: &regs}
	r.Set(vmcs.GuestRSP, regs[asm.RSP])
	require.NoError(t, s.Read(vmcs.Current{}))
	same := emulate.State{Regs: new([16]uint64)}
	require.NoError(t, same.Read(struct{ vmcs.Reader }{vmcs.Current{}})) // by no way of its own
	require.Equal(t, same.Regs[asm.RSP], regs[asm.RSP])
	same.Regs = &regs
	require.Equal(t, same, s)
	s.RIP = rip

	want, ok := r.native(&d, rip)
	switch {
	case ok:
	case r.Basic() == reasonTimer && changed(before, r.Memory, vmtest.Code, window):
		count["code that has overwritten itself"]++
		return
	case r.Basic() == reasonEPTViolation:
		count["nowhere"]++
		return
	default:
		t.Fatalf("%v: % x: exit reason %d", r.Kind, d.code, r.Reason)
	}
	if changed(before, r.Memory, vmtest.TableRoot, vmtest.GDT) || changed(before, r.Memory, vmtest.Code, window) {
		count["paging structures or code"]++ // of which the processor may go on to use what it had
		return
	}
	got, err := r.emulated(t, &s, before)
	if errors.Is(err, errRange) || errors.Is(err, emulate.ErrNoMemory) {
		count["outside"]++ // of all that the emulator has, where the machine has something
		return
	}
	require.NoError(t, err, "%v: % x", r.Kind, d.code)
	const compared = flagsStatus | asm.FlagDF | asm.FlagAC
	if want.exception {
		count[want.event.Info.Vector().String()]++
	} else {
		count["advance"]++
	}
	require.Equal(t, want.exception, got.exception, "%v: % x: %v %v", r.Kind, d.code, want.event, got.event)
	require.Equal(t, want.event, got.event, "%v: % x: %v %v", r.Kind, d.code, want.event, got.event)
	require.Equal(t, want.address, got.address, "%v: % x: %v", r.Kind, d.code, got.event)
	require.Equal(t, want.rip, got.rip, "%v: % x", r.Kind, d.code)
	for n := range got.regs {
		if size != 64 {
			want.regs[n], got.regs[n] = uint64(uint32(want.regs[n])), uint64(uint32(got.regs[n]))
		}
		if want.regs[n] != got.regs[n] {
			t.Fatalf("%v: % x: register %d is 0x%x, should be 0x%x, was 0x%x", r.Kind, d.code, n, got.regs[n], want.regs[n], d.regs[n])
		}
	}
	require.Equal(t, want.flags&compared, got.flags&compared, "%v: % x", r.Kind, d.code)
	if bytes.Equal(want.memory, got.memory) {
		return
	}
	for at := range got.memory {
		if want.memory[at] != got.memory[at] {
			t.Fatalf("%v: % x: byte 0x%x of memory is 0x%x, should be 0x%x, was 0x%x", r.Kind, d.code, at, got.memory[at], want.memory[at], before[at])
		}
	}
}
