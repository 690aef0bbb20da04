package ept_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"unsafe"

	"github.com/govtx/vtx/asm"
	"github.com/govtx/vtx/ept"
	"github.com/govtx/vtx/ept/nested"
	"github.com/govtx/vtx/internal/require"
	"github.com/govtx/vtx/internal/vmtest"
	"github.com/govtx/vtx/ring0"
	"github.com/govtx/vtx/vmcs"
	"github.com/govtx/vtx/vmexit"
	"github.com/govtx/vtx/vmexit/emulate"
)

// A rig is a guest whose guest-physical memory is what a Space maps, and which makes one
// access at a time. Beside everything that the processor changes there is a twin: EPT
// tables, the guest's paging structures and its data. Before each access nested.Walker
// makes it on the twin; then the guest makes it, and twin and memory must be equal.
//
//	guest-physical            physical
//	0        128 KiB          the guest's memory of package vmtest: code and its tables; never changed
//	2 MiB    2 MiB  (large)   the pool
//	4 MiB    64 KiB (small)   pages of the pool; the first four hold paging structures
//	1 GiB    1 GiB  (huge)    all memory from 0 on, at first; guests access the pool in it only
//
// Of the pool's 2 MiB the first 16 pages are accessed. Each 16 bytes of them begin with
// VMCALL, for fetches; the second 8 are for data.
type rig struct {
	*vmtest.Guest
	caps   *vmcs.Capabilities
	mode   ept.Mode
	space  *ept.Space
	view   int // that the guest runs in
	arena  *ept.Arena
	pool   ring0.Pages
	twin   twin
	host   host
	walk   nested.Walker
	state  emulate.State
	rand   *rand.Rand
	ve     *vmcs.VEArea    // nil without EPT-violation #VE
	size   ept.Level       // of the page of the last access predicted to succeed
	poked  bool            // entries are not the Space's
	mended *ept.Entry      // see mendBit12
	notes  []func() string // what was done since the last comparison of memory
	count  map[string]int
}

const (
	large      = 2 << 20
	small      = 4 << 20
	huge       = 1 << 30
	active     = 16 * 4096 // bytes of the pool that are accessed
	arenaPages = 32
	slotSize   = 16
	slotData   = 8
)

// Where the guest's paging structures are, guest-physical: those in pages whose EPT
// entries change.
const (
	riskyPDPT = small + 0x1000*iota
	riskyPD
	riskyPT
	riskyPD2
)

// safePD2 is a page directory in the guest's own memory.
const safePD2 = vmtest.Free

// What the guest's code does with the address in RBX, and the registers' values.
type kind int

const (
	read   kind = iota // MOV eax, [rbx]
	write              // MOV [rbx], eax
	modify             // ADD [rbx], eax
	fetch              // JMP rbx
)

var kindNames = [...]string{"read", "write", "read-modify-write", "fetch"}

func (k kind) String() string { return kindNames[k] }

func (k kind) access() emulate.Access {
	return [...]emulate.Access{emulate.Read, emulate.Write, emulate.Write, emulate.Fetch}[k]
}

var program = bytes.Join([][]byte{
	pad(0x8b, 0x03, 0x0f, 0x01, 0xc1),
	pad(0x89, 0x03, 0x0f, 0x01, 0xc1),
	pad(0x01, 0x03, 0x0f, 0x01, 0xc1),
	pad(0xff, 0xe3),
	// VMFUNC with EAX = 0 and ECX, then the read: SDM Vol. 3C 26.5.6.
	pad(0x0f, 0x01, 0xd4, 0x8b, 0x03, 0x0f, 0x01, 0xc1),
}, nil)

const codeSwitch = vmtest.Code + 4*slotSize

func pad(b ...byte) []byte { return append(b, make([]byte, slotSize-len(b))...) }

func (k kind) code() uint64 { return vmtest.Code + slotSize*uint64(k) }

// newRig makes a guest of a mode with an empty Space. Prepare may change the controls.
func newRig(m *vmtest.Machine, guest vmtest.Mode, mode ept.Mode, seed uint64) *rig {
	m.Helper()
	k := vmtest.Kind{Mode: guest, EPT: true, Unrestricted: guest == vmtest.ModeProtected}
	r := &rig{Guest: m.NewGuest(k, program...), caps: m.Caps, rand: rand.New(rand.NewPCG(seed, 1)), count: map[string]int{}}
	mode.Capabilities, mode.PhysicalAddressBits = m.Caps.EPTVPID, m.Caps.CPU.PhysicalAddressBits
	require.NoError(m, mode.Validate())
	r.mode = mode
	memory := m.Pages(arenaPages)
	var err error
	r.arena, err = ept.NewArena(memory.Bytes(), memory.Phys())
	require.NoError(m, err)
	r.space, err = ept.New(ept.Config{Pages: r.arena, Mode: mode})
	require.NoError(m, err)
	r.pool, err = ring0.AllocAligned(large/4096, large, 1<<32)
	require.NoError(m, err)
	m.Cleanup(func() { require.NoError(m, r.pool.Free()) })

	r.twin = twin{mode: &r.mode, base: memory.Phys(), live: memory.Bytes(), copy: make([]ept.Entry, arenaPages*512)}
	r.host.add(r.HostPhysical(0), r.Memory[:vmtest.TablePT+4096])
	r.host.add(r.HostPhysical(safePD2), r.Memory[safePD2:safePD2+4096])
	r.host.add(r.pool.Phys(), r.pool.Bytes()[:active])
	r.walk = nested.Walker{EPT: &r.twin, Memory: &r.host, PhysicalAddressBits: mode.PhysicalAddressBits}

	if guest == vmtest.ModePaged {
		r.Set(vmcs.GuestCR4, r.Get(vmcs.GuestCR4)|asm.CR4PSE)
	}
	if mode.ViolationVE {
		area := m.Pages(1)
		vmtest.SetControls(r.Guest, vmcs.SecondaryEPTViolationVE)
		r.Set(vmcs.VirtualizationExceptionAddress, area.Phys())
		r.ve, err = vmcs.VEAreaOf(area.Bytes())
		require.NoError(m, err)
	}
	_, err = r.space.Map(0, vmtest.MemorySize, r.HostPhysical(0), ept.All|ept.WB.Entry())
	require.NoError(m, err)
	r.reset()
	if guest == vmtest.ModePAE {
		r.Set(vmcs.GuestPDPTE0+2, riskyPD|1)
		r.Set(vmcs.GuestPDPTE0+4, safePD2|1)
	}
	r.state.Regs = &r.Regs
	require.NoError(m, r.state.Read(vmcs.Current{}))
	return r
}

// reset makes the pool and the maps of it as at the start.
func (r *rig) reset() {
	r.Helper()
	b := r.pool.Bytes()[:active]
	for at := 0; at < active; at += slotSize {
		binary.LittleEndian.PutUint64(b[at:], 0x00000000c1010f) // VMCALL
		binary.LittleEndian.PutUint64(b[at+slotData:], r.rand.Uint64())
	}
	r.guestTables()
	s := r.space
	for v := range s.Views() {
		if v.Index() > 0 {
			v.Close()
		}
	}
	_, err := s.Unmap(large, huge+huge-large)
	require.NoError(r, err)
	rights := ept.All | ept.WB.Entry()
	_, err = s.Map(large, large, r.pool.Phys(), rights)
	require.NoError(r, err)
	_, err = s.Map(small, active, r.pool.Phys(), rights)
	require.NoError(r, err)
	_, err = s.Map(huge, huge, 0, rights)
	require.NoError(r, err)
	r.invalidate(ept.AllContexts)
	s.Reclaim()
	r.setView(0)
	r.sync()
}

// flags of a guest's entry: present, writable, user.
const entryAll = 7

// guestTables fills the guest's paging structures. See direct and risky for what they
// translate.
func (r *rig) guestTables() {
	const pageSize = 1 << 7
	put := func(at int, n int, e uint64) { binary.LittleEndian.PutUint64(r.Memory[at+8*n:], e) }
	pooled := func(gpa uint64, n int, e uint64) {
		binary.LittleEndian.PutUint64(r.pool.Bytes()[gpa-small+8*uint64(n):], e)
	}
	pool := r.pool.Phys()
	switch r.Kind.Mode {
	case vmtest.ModeLong:
		put(vmtest.TableRoot, 1, riskyPDPT|entryAll)
		put(vmtest.TablePDPT, 1, huge|entryAll|pageSize)
		put(vmtest.TablePDPT, 3, 3<<30|entryAll|pageSize)
		put(vmtest.TablePD, 1, large|entryAll|pageSize)
		put(vmtest.TablePD, 2, small|entryAll|pageSize)
		clear(r.pool.Bytes()[:4*4096])
		pooled(riskyPDPT, 0, riskyPD|entryAll)
		pooled(riskyPDPT, 1, huge|entryAll|pageSize)
		pooled(riskyPD, 0, riskyPT|entryAll)
		pooled(riskyPD, 1, large|entryAll|pageSize)
	case vmtest.ModePAE:
		put(vmtest.TablePD, 1, large|entryAll|pageSize)
		put(vmtest.TablePD, 2, small|entryAll|pageSize)
		clear(r.pool.Bytes()[:4*4096])
		pooled(riskyPD, 0, riskyPT|entryAll)
		pooled(riskyPD, 1, large|entryAll|pageSize)
		put(safePD2, 0, (huge+pool)|entryAll|pageSize)
		put(safePD2, 1, 3<<30|entryAll|pageSize)
	case vmtest.ModePaged:
		put32 := func(at int, n int, e uint64) { binary.LittleEndian.PutUint32(r.Memory[at+4*n:], uint32(e)) }
		for n := range uint64(active / 4096) {
			put32(vmtest.TablePT, int(512+n), large+n<<12|entryAll)
		}
		put32(vmtest.TableRoot, 1, small|entryAll|pageSize)
		put32(vmtest.TableRoot, 2, (huge+pool)&^(1<<22-1)|entryAll|pageSize)
		put32(vmtest.TableRoot, 3, riskyPT|entryAll)
		put32(vmtest.TableRoot, 4, 3<<30|entryAll|pageSize)
		clear(r.pool.Bytes()[:4*4096])
	}
	for n := range 16 {
		e := r.drawPage(true) | 1
		for _, flag := range []uint64{2, 2, 4, 4} { // R/W, U/S
			e |= flag & -uint64(r.rand.IntN(2))
		}
		for _, flag := range []uint64{1 << 5, 1 << 6} { // A, D
			e |= flag & -uint64(r.rand.IntN(2))
		}
		if r.rand.IntN(12) == 0 {
			e &^= 1
		}
		switch r.Kind.Mode {
		case vmtest.ModePaged:
			binary.LittleEndian.PutUint32(r.pool.Bytes()[riskyPT-small+4*n:], uint32(e))
		case vmtest.ModeProtected:
		default:
			pooled(riskyPT, n, e)
		}
	}
}

// drawPage draws the guest-physical address of a page: one that leads to the accessed part of
// the pool at the start; or, now and then, to nothing.
func (r *rig) drawPage(mapped bool) uint64 {
	n := uint64(r.rand.IntN(16)) << 12
	switch r.rand.IntN(8) {
	case 0, 1:
		return large + n
	case 2, 3:
		return huge + r.pool.Phys() + n
	case 4:
		if !mapped {
			return small + active + n
		}
	}
	return small + n
}

// drawLinear draws a linear address.
func (r *rig) drawLinear(k kind) uint64 {
	offset := uint64(r.rand.IntN(4096/slotSize)) * slotSize
	if k != fetch {
		offset += slotData
	}
	if r.Kind.Mode == vmtest.ModeProtected || r.rand.IntN(3) > 0 {
		return r.direct(r.drawPage(false)) + offset
	}
	n := uint64(r.rand.IntN(16)) << 12
	switch r.Kind.Mode {
	case vmtest.ModeLong:
		switch r.rand.IntN(5) {
		case 0:
			return 1<<39 + huge + r.pool.Phys() + n + offset
		case 1:
			return 1<<39 + large + n + offset
		}
		return 1<<39 + n + offset
	case vmtest.ModePAE:
		if r.rand.IntN(4) == 0 {
			return 1<<30 + large + n + offset
		}
		return 1<<30 + n + offset
	}
	return 3<<22 + n + offset
}

// direct is the linear address that safe tables translate to a guest-physical one.
func (r *rig) direct(gpa uint64) uint64 {
	if gpa < huge || r.Kind.Mode == vmtest.ModeLong || r.Kind.Mode == vmtest.ModeProtected {
		return gpa
	}
	if r.Kind.Mode == vmtest.ModePAE {
		return 2<<30 + (gpa - huge - r.pool.Phys())
	}
	return 2<<22 + gpa&(1<<22-1)
}

func (r *rig) setView(n int) {
	r.view = n
	v := r.space.View(n)
	r.Set(vmcs.EPTPointer, uint64(v.Pointer()))
	r.twin.root = v.Pointer().Address()
}

// invalidate does what a change of the tables asks for.
func (r *rig) invalidate(i ept.Invalidation) {
	r.Helper()
	for v := range r.space.Views() {
		if t, d, ok := i.INVEPT(v.Pointer(), r.mode.Capabilities); ok {
			require.Equal(r, asm.Succeed, asm.INVEPT(uint64(t), (*[2]uint64)(&d)))
		}
	}
}

// set changes an entry behind the Space's back.
func (r *rig) set(table uint64, index int, e ept.Entry) {
	r.poked = true
	r.twin.set(table, index, e)
}

// restore undoes set.
func (r *rig) restore(table uint64, index int, e ept.Entry) {
	r.poked = false
	r.twin.set(table, index, e)
}

// sync makes the twin equal to what there is, after a change that same has gone before.
func (r *rig) sync() {
	r.twin.sync()
	for _, a := range r.host {
		copy(a.copy, a.live)
	}
}

// An outcome is what comes of an access.
type outcome struct {
	reason        vmexit.Basic
	qualification uint64 // of an EPT violation; the address of a page fault
	physical      uint64 // guest-physical address, of EPT's exits
	linear        uint64 // of an EPT violation with bit 7
	event         uint32 // interruption information
	code          uint32 // error code
	rip           uint64
	value         uint32 // EAX
}

func (o outcome) String() string {
	return fmt.Sprintf("{%v, qualification 0x%x, physical 0x%x, linear 0x%x, event 0x%x, code 0x%x, RIP 0x%x, EAX 0x%x}",
		o.reason, o.qualification, o.physical, o.linear, o.event, o.code, o.rip, o.value)
}

// errSkip: what the access leads to is not for guests.
var errSkip = errors.New("not in memory that guests may access")

// predict makes an access on the twin. An error means that the guest shall not make it.
func (r *rig) predict(k kind, linear uint64, eax uint32) (outcome, error) {
	s := &r.state
	o := outcome{reason: vmexit.VMCALL, rip: k.code() + 2, value: eax}
	s.RIP = k.code()
	var res nested.Result
	var err error
	for again := true; again; again = r.mendFlags(&res, k, err) || r.mendBit12(err) {
		if res, err = r.walk.Touch(s, k.code(), emulate.Fetch); err == nil {
			res, err = r.walk.Touch(s, linear, k.access())
		}
	}
	if r.mended != nil {
		*r.mended |= 1 << 12
		r.mended = nil
	}
	r.checkView(&res, err)
	var fault *nested.FaultError
	var x *emulate.Exception
	switch {
	case errors.As(err, &fault):
		f := fault.Fault
		o.rip, o.physical = k.code(), f.Address
		if f.Kind == ept.Misconfiguration {
			o.reason = vmexit.EPTMisconfiguration
			return o, nil
		}
		q := f.Qualification
		if walkAsWrite.hits(r.mode.AccessedDirty && q.PageWalk()) {
			q &^= vmexit.EPTRead
		}
		if k == fetch && fault.Linear == linear {
			o.rip = linear
		}
		o.qualification, o.linear = uint64(q), fault.Linear
		o.reason = vmexit.EPTViolation
		if f.VE {
			o.reason, o.event = vmexit.ExceptionOrNMI, uint32(vmcs.InjectException(vmcs.VectorVE, 0).Info)
		}
		return o, nil
	case errors.As(err, &x):
		o.reason, o.rip = vmexit.ExceptionOrNMI, k.code()
		o.event, o.code, o.qualification = uint32(x.Event.Info), x.Event.ErrorCode, x.Address
		if k == fetch && x.Address == linear {
			o.rip = linear
		}
		return o, nil
	case err != nil:
		return o, errSkip
	}
	p := r.host.at(res.HPA)
	if p == nil {
		return o, errSkip
	}
	_, _, _, r.size = r.twin.find(res.GPA, ept.PTE)
	v := binary.LittleEndian.Uint32(p)
	switch k {
	case read:
		o.value = v
	case write:
		binary.LittleEndian.PutUint32(p, eax)
	case modify:
		binary.LittleEndian.PutUint32(p, v+eax)
	case fetch:
		if o.rip = linear; v&0xffffff != 0xc1010f {
			return o, errSkip
		}
	}
	return o, nil
}

// checkView compares View.Translate, on the tables themselves, with what has come of the last
// access to the twin. Tables with poked entries are not those of a View any more.
func (r *rig) checkView(res *nested.Result, err error) {
	if r.poked || res.Access == 0 {
		return
	}
	hpa, f := r.space.View(r.view).Translate(res.GPA, res.Access)
	var fault *nested.FaultError
	var want ept.Fault
	if errors.As(err, &fault) {
		want = fault.Fault
		want.Entry, f.Entry = 0, 0 // the twin's has bookkeeping
	}
	if hpa != res.HPA || f != want {
		r.fail("View.Translate of 0x%x for %v is 0x%x, %v; should be 0x%x, %v", res.GPA, res.Access, hpa, f, res.HPA, want)
	}
}

// run has the guest make an access. Like all that is done for each access it does without
// Guest's methods, most of whose time is testing's Helper.
func (r *rig) run(k kind, linear uint64, eax uint32) outcome {
	r.RIP = k.code()
	r.Regs[asm.RBX], r.Regs[asm.RAX], r.Regs[asm.RCX] = linear, uint64(eax), 0
	if r.ve != nil {
		clear(r.ve[:])
	}
	for again := true; again; again = vmexit.Basic(r.Basic()) == vmexit.ExternalInterrupt {
		if status := r.Enter(); status != asm.Succeed || r.Reason>>31 != 0 {
			r.Fatalf("VM entry: %v, exit reason 0x%x", status, r.Reason)
		}
	}
	o := outcome{reason: vmexit.Basic(r.Basic()), rip: r.RIP, value: uint32(r.Regs[asm.RAX])}
	switch o.reason {
	case vmexit.EPTViolation:
		o.qualification = field(vmcs.ExitQualification)
		o.linear = field(vmcs.GuestLinearAddress)
		o.physical = field(vmcs.GuestPhysicalAddress)
	case vmexit.EPTMisconfiguration:
		o.physical = field(vmcs.GuestPhysicalAddress)
	case vmexit.ExceptionOrNMI:
		o.event = uint32(field(vmcs.ExitInterruptionInformation))
		switch vmcs.InterruptionInfo(o.event).Vector() {
		case vmcs.VectorPF:
			o.code = uint32(field(vmcs.ExitInterruptionErrorCode))
			o.qualification = field(vmcs.ExitQualification)
		case vmcs.VectorVE:
			v := r.ve.Info()
			o.qualification, o.linear, o.physical = v.Qualification, v.LinearAddress, v.PhysicalAddress
		}
	}
	return o
}

// field reads a field of the current VMCS.
func field(f vmcs.Field) uint64 {
	v, _ := asm.VMREAD(uint32(f))
	return v
}

// try compares what an access should come to with what it comes to. It reports false if
// the access was not made, and then forgets what same has not compared.
func (r *rig) try(k kind, linear uint64) (o outcome, made bool) {
	r.done(func() string { return fmt.Sprintf("%v of 0x%x", k, linear) })
	eax := r.rand.Uint32()
	want, err := r.predict(k, linear, eax)
	if err != nil {
		r.sync()
		r.count["not for guests"]++
		return o, false
	}
	got := r.run(k, linear, eax)
	if got.reason == vmexit.EPTMisconfiguration {
		got.rip = want.rip // fetches: either side of the jump
	}
	if got != want {
		r.fail("processor: %v\nshould be: %v", got, want)
	}
	r.tally(k, got)
	return got, true
}

// want makes an access that must come to a reason, and memory be as it should.
func (r *rig) want(reason vmexit.Basic, k kind, linear uint64) outcome {
	r.Helper()
	r.done(func() string { return fmt.Sprintf("an access for %v", reason) })
	o, made := r.try(k, linear)
	if !made {
		r.fail("the access cannot be made")
	}
	if o.reason != reason {
		r.fail("the access came to %v", o)
	}
	r.same()
	return o
}

// done notes what was done, for failures.
func (r *rig) done(note func() string) { r.notes = append(r.notes, note) }

// fail ends the test with what was done since memory was last compared.
func (r *rig) fail(format string, args ...any) {
	r.Helper()
	r.Logf("%v guest, view %d, mode %+v", r.Kind.Mode, r.view, r.mode)
	for _, note := range r.notes {
		r.Log(note())
	}
	r.Fatalf(format, args...)
}

// same compares memory with the twin: flags and data.
func (r *rig) same() {
	if table, index, ok := r.twin.same(); !ok {
		live, _ := r.twin.Live(table, index)
		e, _ := r.twin.Entry(table, index)
		r.fail("entry %d of the table at 0x%x is 0x%x, should be 0x%x", index, table, uint64(live), uint64(e))
	}
	for _, a := range r.host {
		if bytes.Equal(a.live, a.copy) {
			continue
		}
		for i := range a.live {
			if a.live[i] != a.copy[i] {
				r.fail("the byte at physical address 0x%x is 0x%x, should be 0x%x", a.base+uint64(i), a.live[i], a.copy[i])
			}
		}
	}
	r.notes = r.notes[:0]
}

// tally counts what came up.
func (r *rig) tally(k kind, o outcome) {
	switch o.reason {
	case vmexit.VMCALL:
		r.count[k.String()]++
		r.count[[...]string{ept.PTE: "4 KiB", ept.PDE: "2 MiB", ept.PDPTE: "1 GiB"}[r.size]]++
	case vmexit.ExceptionOrNMI:
		r.count[vmcs.InterruptionInfo(o.event).Vector().String()]++
	case vmexit.EPTViolation:
		q := vmexit.EPTViolationQualification(o.qualification)
		switch {
		case q.PageWalk():
			r.count["violation, page walk"]++
		case !q.Present(false):
			r.count["violation, not present"]++
		default:
			r.count["violation, "+k.String()]++
		}
	default:
		r.count["misconfiguration"]++
	}
}

// A twin is a copy of EPT tables, which stands in for them.
type twin struct {
	mode *ept.Mode
	root uint64
	base uint64 // physical address of the tables
	live []byte
	copy []ept.Entry
}

var errOutside = errors.New("no table of this test")

func (t *twin) Mode() *ept.Mode { return t.mode }
func (t *twin) Root() uint64    { return t.root }

func (t *twin) at(table uint64, index int) (*ept.Entry, error) {
	n := (table-t.base)/8 + uint64(index)
	if table < t.base || n >= uint64(len(t.copy)) {
		return nil, errOutside
	}
	return &t.copy[n], nil
}

func (t *twin) Entry(table uint64, index int) (ept.Entry, error) {
	e, err := t.at(table, index)
	if err != nil {
		return 0, err
	}
	return *e, nil
}

// Live is Entry of the tables themselves.
func (t *twin) Live(table uint64, index int) (ept.Entry, error) {
	if _, err := t.at(table, index); err != nil {
		return 0, err
	}
	return ept.Entry(binary.LittleEndian.Uint64(t.live[table-t.base+8*uint64(index):])), nil
}

// set changes an entry in both.
func (t *twin) set(table uint64, index int, e ept.Entry) {
	binary.LittleEndian.PutUint64(t.live[table-t.base+8*uint64(index):], uint64(e))
	t.copy[(table-t.base)/8+uint64(index)] = e
}

func (t *twin) CompareAndSwap(table uint64, index int, old, new ept.Entry) (bool, error) {
	e, err := t.at(table, index)
	if err != nil || *e != old {
		return false, err
	}
	*e = new
	return true, nil
}

func (t *twin) bytes() []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(&t.copy[0])), len(t.copy)*8)
}

func (t *twin) sync() { copy(t.bytes(), t.live) }

// same finds the first entry that differs.
func (t *twin) same() (table uint64, index int, ok bool) {
	b := t.bytes()
	if bytes.Equal(b, t.live) {
		return 0, 0, true
	}
	for i := 0; ; i += 8 {
		if !bytes.Equal(b[i:i+8], t.live[i:i+8]) {
			return t.base + uint64(i)&^0xfff, i >> 3 & 511, false
		}
	}
}

// A host is physical memory, and a copy of each part, which stands in for it.
type host []*area

type area struct {
	base uint64
	live []byte
	copy []byte
}

func (h *host) add(base uint64, live []byte) {
	*h = append(*h, &area{base, live, bytes.Clone(live)})
}

// at returns the copy from an address on, nil if there is none.
func (h host) at(hpa uint64) []byte {
	for _, a := range h {
		if n := hpa - a.base; hpa >= a.base && n <= uint64(len(a.copy))-8 {
			return a.copy[n:]
		}
	}
	return nil
}

func (h *host) ReadPhysical(hpa uint64, p []byte) error {
	b := h.at(hpa)
	if b == nil {
		return errSkip
	}
	copy(p, b)
	return nil
}

func (h *host) WritePhysical(hpa uint64, p []byte) error { return errSkip }

func (h *host) CompareExchange(hpa uint64, size int, old, new uint64) (bool, error) {
	b := h.at(hpa)
	switch {
	case b == nil:
		return false, errSkip
	case size == 4:
		if binary.LittleEndian.Uint32(b) != uint32(old) {
			return false, nil
		}
		binary.LittleEndian.PutUint32(b, uint32(new))
	default:
		if binary.LittleEndian.Uint64(b) != old {
			return false, nil
		}
		binary.LittleEndian.PutUint64(b, new)
	}
	return true, nil
}

// A deviation is where the processor is known not to do what the manual says; docs/bochs.md has
// the evidence. Tests want from it what is written here, and meet each.
type deviation struct {
	name string
	met  int
}

// hits counts a deviation if it applies, and returns whether it does.
func (d *deviation) hits(applies bool) bool {
	if applies {
		d.met++
	}
	return applies
}

// Bochs' translate_guest_physical and update_access_dirty, in cpu/paging.cc.
var (
	// SDM Vol. 3C table 28-7: bits 0 and 1 are both set.
	walkAsWrite = &deviation{name: "a page walk with accessed and dirty flags for EPT counts as a write, and not as a read, too"}

	// SDM Vol. 3C 29.3.3.2: a write that EPT does not allow is a violation.
	freeFlags = &deviation{name: "the guest's accessed and dirty flags are set in pages that EPT does not allow to be written"}

	// SDM Vol. 3C tables 29-3 and 29-5: bit 12 of an entry that maps a large page is reserved.
	bit12 = &deviation{name: "bit 12 of an entry that maps a large page is not reserved"}

	deviations = []*deviation{walkAsWrite, freeFlags, bit12}
)

// mendFlags sets, in the twin, accessed and dirty flags of the guest that Bochs sets
// although EPT does not allow it. It reports whether err is that violation.
func (r *rig) mendFlags(res *nested.Result, k kind, err error) bool {
	var fault *nested.FaultError
	if !errors.As(err, &fault) {
		return false
	}
	q := fault.Fault.Qualification
	if !freeFlags.hits(q.PageWalk() && q.Write() && !q.Read()) {
		return false
	}
	steps := res.Steps()
	for i, s := range steps {
		if s.GPA != fault.Fault.Address {
			continue
		}
		flags := byte(1 << 5)
		if i == len(steps)-1 && k.access() == emulate.Write {
			flags |= 1 << 6
		}
		r.host.at(s.HPA)[0] |= flags
	}
	return true
}

// mendBit12 clears, in the twin and until the end of the prediction, bit 12 of an entry that
// Bochs ignores. It reports whether err is that misconfiguration.
func (r *rig) mendBit12(err error) bool {
	var fault *nested.FaultError
	if !errors.As(err, &fault) || fault.Fault.Rule == nil || fault.Fault.Rule.ID != "large-alignment" {
		return false
	}
	f := fault.Fault
	if !bit12.hits(uint64(f.Entry)&(f.Level.PageSize()-1)>>12 == 1) {
		return false
	}
	table, index, _, _ := r.twin.find(f.Address, f.Level)
	r.mended, _ = r.twin.at(table, index)
	*r.mended &^= 1 << 12
	return true
}

// report logs what came up, and fails the test if one of the names did not.
func (r *rig) report(t testing.TB, label string, names ...string) {
	t.Logf("%s: %v", label, r.count)
	for _, name := range names {
		if r.count[name] == 0 {
			t.Errorf("%s: %q did not come up", label, name)
		}
	}
}
