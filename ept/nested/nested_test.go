package nested_test

import (
	"encoding/binary"
	"errors"
	"testing"
	"unsafe"

	"pgregory.net/rapid"

	"github.com/govtx/vtx/asm"
	"github.com/govtx/vtx/ept"
	"github.com/govtx/vtx/ept/nested"
	"github.com/govtx/vtx/internal/require"
	"github.com/govtx/vtx/internal/ring0test"
	"github.com/govtx/vtx/vmcs"
	"github.com/govtx/vtx/vmexit"
	"github.com/govtx/vtx/vmexit/emulate"
)

// memory is physical memory from an address on. It is an emulate.TableUpdater.
type memory struct {
	base  uint64
	bytes []byte
}

var errNowhere = errors.New("no memory")

func (m *memory) at(hpa uint64, n int) ([]byte, error) {
	if hpa < m.base || hpa-m.base > uint64(len(m.bytes)-n) {
		return nil, errNowhere
	}
	return m.bytes[hpa-m.base:][:n], nil
}

func (m *memory) ReadPhysical(hpa uint64, p []byte) error {
	b, err := m.at(hpa, len(p))
	copy(p, b)
	return err
}

func (m *memory) WritePhysical(hpa uint64, p []byte) error {
	b, err := m.at(hpa, len(p))
	copy(b, p)
	return err
}

func (m *memory) CompareExchange(hpa uint64, size int, old, new uint64) (bool, error) {
	b, err := m.at(hpa, 8)
	if err != nil {
		return false, err
	}
	mask := ^uint64(0) >> (64 - 8*size)
	v := binary.LittleEndian.Uint64(b)
	if v&mask != old {
		return false, nil
	}
	binary.LittleEndian.PutUint64(b, v&^mask|new)
	return true, nil
}

const capabilities = vmcs.EPTVPID(1<<0 | 1<<6 | 1<<7 | 1<<8 | 1<<14 | 1<<16 | 1<<17 | 1<<21 | 1<<22 | 1<<23)

// A setup is a guest of 32 pages, guest-physical from 0 on, at physical address base.
//
//	page 1 PML5, 2 PML4, 3 PDPT (PAE: at its end, too), 4 PD, 5 PT, 6 PD of 32-bit paging, 7 its PT
//
// Linear address linear leads to page 9 by each of them.
type setup struct {
	nested.Walker
	state  emulate.State
	regs   [16]uint64
	memory *memory
	view   *ept.View
}

const (
	base   = 0x40000000
	linear = 1<<30 | 3<<21 | 5<<12 | 0x123 // PDPTE 1, PDE 3 and PTE 5
	target = 9
)

type guest struct {
	name          string
	cr0, cr4, lma uint64
	root          uint64
	steps         []uint64 // pages with the entries, from the root down
}

var guests = []guest{
	{"no paging", 0, 0, 0, 0, nil},
	{"32-bit", asm.CR0PG, 0, 0, 6, []uint64{6, 7}},
	{"PAE", asm.CR0PG, asm.CR4PAE, 0, 3, []uint64{3, 4, 5}},
	{"4-level", asm.CR0PG, asm.CR4PAE, asm.EFERLMA | asm.EFERLME, 2, []uint64{2, 3, 4, 5}},
	{"5-level", asm.CR0PG, asm.CR4PAE | asm.CR4LA57, asm.EFERLMA | asm.EFERLME, 1, []uint64{1, 2, 3, 4, 5}},
}

func newSetup(t require.T, g guest, mode ept.Mode) *setup {
	t.Helper()
	mem := make([]ept.Table, 8)
	arena, err := ept.NewArena(unsafe.Slice((*byte)(unsafe.Pointer(&mem[0])), len(mem)*4096), 0x80000000)
	require.NoError(t, err)
	mode.Capabilities, mode.PhysicalAddressBits = capabilities, 46
	space, err := ept.New(ept.Config{Pages: arena, Mode: mode, LargestPage: ept.PTE})
	require.NoError(t, err)
	_, err = space.Map(0, 32*4096, base, ept.All|ept.ExecuteUser*b2e(mode.ModeBasedExecute)|ept.WB.Entry())
	require.NoError(t, err)
	s := &setup{memory: &memory{base, make([]byte, 32*4096)}, view: space.View(0)}
	s.Walker = nested.Walker{EPT: s.view, Memory: s.memory, PhysicalAddressBits: 46}
	const all = 7
	put := func(page, index, e uint64) { binary.LittleEndian.PutUint64(s.memory.bytes[page<<12+8*index:], e) }
	put(1, 0, 2<<12|all)
	put(2, 0, 3<<12|all)
	put(3, 1, 4<<12|all)
	if g.name == "PAE" {
		put(3, 1, 4<<12|1)
	}
	put(4, 3, 5<<12|all)
	put(5, 5, target<<12|all)
	binary.LittleEndian.PutUint32(s.memory.bytes[6<<12+4*(linear>>22):], 7<<12|all)
	binary.LittleEndian.PutUint32(s.memory.bytes[7<<12+4*(linear>>12&1023):], target<<12|all)
	s.state = emulate.State{Regs: &s.regs, CR0: asm.CR0PE | asm.CR0WP | g.cr0, CR3: g.root << 12, CR4: g.cr4, EFER: g.lma | asm.EFERNXE}
	return s
}

func b2e(b bool) ept.Entry {
	if b {
		return 1
	}
	return 0
}

func (s *setup) protect(t require.T, gpa uint64, set, clear ept.Entry) {
	t.Helper()
	_, err := s.view.Protect(gpa&^0xfff, 4096, set, clear)
	require.NoError(t, err)
}

// address is what linear is, guest-physical, without translating it.
func (g *guest) gpa() uint64 {
	if g.cr0 == 0 {
		return target<<12 | 0x123
	}
	return target<<12 | linear&0xfff
}

func (g *guest) linear() uint64 {
	if g.cr0 == 0 {
		return g.gpa()
	}
	return linear
}

// TestEveryStep takes rights from each page that a walk of each paging mode reads, in
// turn.
func TestEveryStep(t *testing.T) {
	for _, g := range guests {
		for _, flags := range []bool{false, true} {
			t.Run(g.name+map[bool]string{true: ", flags"}[flags], func(t *testing.T) {
				s := newSetup(t, g, ept.Mode{AccessedDirty: flags})
				r, err := s.Translate(&s.state, g.linear(), emulate.Write)
				require.NoError(t, err)
				require.Equal(t, g.gpa(), r.GPA)
				require.Equal(t, base+g.gpa(), r.HPA)
				require.Equal(t, ept.LinearWrite|ept.AccessUser, r.Access)
				require.Len(t, r.Steps(), len(g.steps))
				for i, step := range r.Steps() {
					require.Equal(t, g.steps[i], step.GPA>>12)
					require.Equal(t, base+step.GPA, step.HPA)
					require.Equal(t, len(g.steps)-i, step.Level)
				}
				for i, page := range g.steps {
					pdpte := g.name == "PAE" && i == 0
					s.protect(t, page<<12, 0, ept.All)
					_, err := s.Translate(&s.state, linear, emulate.Fetch)
					q := faultOf(t, err).Qualification
					want := vmexit.EPTRead | vmexit.EPTLinearAddress
					if pdpte {
						want = vmexit.EPTRead
					} else if flags {
						want |= vmexit.EPTWrite
					}
					require.Equal(t, want, q)
					require.Equal(t, r.Steps()[i].GPA, faultOf(t, err).Address)
					s.protect(t, page<<12, ept.Read, 0)
					r, err := s.Translate(&s.state, linear, emulate.Read)
					switch {
					case pdpte:
						require.NoError(t, err)
					case flags:
						require.Equal(t, want|vmexit.EPTReadable, faultOf(t, err).Qualification)
					default: // the write of the accessed flag
						require.Equal(t, vmexit.EPTWrite|vmexit.EPTReadable|vmexit.EPTLinearAddress, faultOf(t, err).Qualification)
						require.Len(t, r.Steps(), len(g.steps))
					}
					s.protect(t, page<<12, ept.All, 0)
				}
				s.protect(t, g.gpa(), ept.Read, ept.All)
				r, err = s.Translate(&s.state, g.linear(), emulate.Write)
				require.Equal(t, vmexit.EPTWrite|vmexit.EPTReadable|vmexit.EPTLinearAddress|vmexit.EPTTranslation|vmexit.EPTUserAddress|vmexit.EPTWritablePage, faultOf(t, err).Qualification)
				require.Equal(t, g.gpa(), r.GPA)
				require.Zero(t, r.HPA)
			})
		}
	}
}

func faultOf(t require.T, err error) ept.Fault {
	t.Helper()
	var f *nested.FaultError
	require.ErrorAs(t, err, &f)
	require.Contains(t, f.Error(), "linear address 0x")
	return f.Fault
}

// TestPagingBits: what the guest's paging says of the address, bits 9 to 11 of the
// qualification, and which execute right counts.
func TestPagingBits(t *testing.T) {
	g := guests[3]
	const user, writable, disable = 1 << 2, 1 << 1, 1 << 63
	for _, test := range []struct {
		page, index, clear, set uint64
		want                    ept.Access
	}{
		{5, 5, 0, 0, ept.AccessUser | ept.AccessWritable},
		{5, 5, user, 0, ept.AccessWritable},
		{3, 1, user, 0, ept.AccessWritable},
		{2, 0, writable, 0, ept.AccessUser},
		{4, 3, user | writable, 0, 0},
		{4, 3, 0, disable, ept.AccessUser | ept.AccessWritable | ept.AccessExecuteDisable},
	} {
		s := newSetup(t, g, ept.Mode{ModeBasedExecute: true})
		at := s.memory.bytes[test.page<<12+8*test.index:]
		binary.LittleEndian.PutUint64(at, binary.LittleEndian.Uint64(at)&^test.clear|test.set)
		r, err := s.Translate(&s.state, linear, emulate.Read)
		require.NoError(t, err)
		require.Equal(t, ept.AccessRead|ept.AccessLinear|ept.AccessTranslation|test.want, r.Access)
		if test.want&ept.AccessExecuteDisable != 0 {
			continue
		}
		s.protect(t, g.gpa(), 0, ept.ExecuteUser)
		_, err = s.Translate(&s.state, linear, emulate.Fetch)
		if test.want&ept.AccessUser == 0 {
			require.NoError(t, err)
			continue
		}
		q := faultOf(t, err).Qualification
		require.True(t, q.Fetch() && q.Rights() == 7, "%v", q)
		user, _, _ := q.Paging()
		require.True(t, user)
	}
}

// TestVerifiedPaging: guest-paging verification (SDM Vol. 3C 29.3.3.2).
func TestVerifiedPaging(t *testing.T) {
	s := newSetup(t, guests[3], ept.Mode{VerifyGuestPaging: true, PagingWrite: true})
	for page := uint64(2); page <= 5; page++ {
		s.protect(t, page<<12, ept.PagingWrite, 0)
	}
	s.protect(t, target<<12, ept.VerifyGuestPaging, 0)
	_, err := s.Translate(&s.state, linear, emulate.Read)
	require.NoError(t, err)
	s.protect(t, 4<<12, 0, ept.PagingWrite)
	_, err = s.Translate(&s.state, linear, emulate.Read)
	require.True(t, faultOf(t, err).Qualification.PagingVerification())
	s.protect(t, target<<12, 0, ept.VerifyGuestPaging)
	_, err = s.Translate(&s.state, linear, emulate.Read)
	require.NoError(t, err)
	// Accessed flags in a page that may not be written, but for paging.
	s.protect(t, 4<<12, ept.PagingWrite, ept.Write)
	_, err = s.Translate(&s.state, linear, emulate.Read)
	require.NoError(t, err)
}

// TestTouchFlags: Touch sets the flags of the guest and of EPT, Translate none.
func TestTouchFlags(t *testing.T) {
	for _, g := range guests[1:] {
		s := newSetup(t, g, ept.Mode{AccessedDirty: true})
		_, err := s.Translate(&s.state, linear, emulate.Write)
		require.NoError(t, err)
		flags := func(page uint64) ept.Entry {
			e, _, ok := s.view.Lookup(page << 12)
			require.True(t, ok)
			return e & (ept.Accessed | ept.Dirty)
		}
		for page := range uint64(32) {
			require.Zero(t, flags(page))
		}
		before := append([]byte(nil), s.memory.bytes...)
		r, err := s.Touch(&s.state, linear, emulate.Write)
		require.NoError(t, err)
		for i, step := range r.Steps() {
			set := s.memory.bytes[step.GPA] ^ before[step.GPA]
			want := byte(1 << 5)
			if i == len(r.Steps())-1 {
				want |= 1 << 6
			}
			pdpte := g.name == "PAE" && i == 0
			if pdpte {
				require.Zero(t, set)
				require.Equal(t, ept.Accessed, flags(step.GPA>>12)) // read, not written
				continue
			}
			require.Equal(t, want, set, "%s, step %d", g.name, i)
			require.Equal(t, ept.Accessed|ept.Dirty, flags(step.GPA>>12))
		}
		require.Equal(t, ept.Accessed|ept.Dirty, flags(target))
		require.Zero(t, flags(target+1))
	}
	s := newSetup(t, guests[3], ept.Mode{})
	s.EPT = struct{ ept.Source }{s.view}
	_, err := s.Touch(&s.state, linear, emulate.Write)
	require.ErrorContains(t, err, "ept.Updater")
}

// TestPageFaults: the guest's own faults come out as such, after the steps of EPT that
// come before.
func TestPageFaults(t *testing.T) {
	s := newSetup(t, guests[3], ept.Mode{})
	clear(s.memory.bytes[4<<12+8*3:][:8])
	s.protect(t, 5<<12, 0, ept.All)
	_, err := s.Translate(&s.state, linear, emulate.Write)
	var x *emulate.Exception
	require.ErrorAs(t, err, &x)
	require.Equal(t, uint64(linear), x.Address)
	require.Equal(t, uint32(2), x.Event.ErrorCode)
	s.protect(t, 4<<12, 0, ept.All)
	_, err = s.Translate(&s.state, linear, emulate.Write)
	require.Equal(t, uint64(4<<12+8*3), faultOf(t, err).Address)
}

func TestLoadPDPTEs(t *testing.T) {
	s := newSetup(t, guests[2], ept.Mode{AccessedDirty: true})
	pdptes, err := s.LoadPDPTEs(3<<12|0x18, true) // bits 4:0 are ignored
	require.NoError(t, err)
	require.Equal(t, [4]uint64{1: 4<<12 | 1}, pdptes)
	e, _, _ := s.view.Lookup(3 << 12)
	require.Equal(t, ept.Accessed, e&(ept.Accessed|ept.Dirty))
	s.state.PDPTEs = &pdptes
	s.protect(t, 3<<12, 0, ept.All)
	r, err := s.Translate(&s.state, linear, emulate.Read) // from registers
	require.NoError(t, err)
	require.Len(t, r.Steps(), 2)
	_, err = s.LoadPDPTEs(3<<12, false)
	require.Equal(t, vmexit.EPTRead, faultOf(t, err).Qualification)
	s.protect(t, 3<<12, ept.Read, 0)
	for _, bit := range []int{1, 2, 5, 8, 46, 51, 52, 63} {
		binary.LittleEndian.PutUint64(s.memory.bytes[3<<12+24:], 1|1<<bit)
		_, err := s.LoadPDPTEs(3<<12, false)
		var x *emulate.Exception
		require.ErrorAs(t, err, &x)
		require.Equal(t, vmcs.VectorGP, x.Event.Info.Vector())
	}
	binary.LittleEndian.PutUint64(s.memory.bytes[3<<12+24:], 1<<63) // not present
	_, err = s.LoadPDPTEs(3<<12, false)
	require.NoError(t, err)
}

// TestNoMemory: tables of the guest or of EPT that lead nowhere.
func TestNoMemory(t *testing.T) {
	s := newSetup(t, guests[3], ept.Mode{})
	s.memory.bytes = s.memory.bytes[:4<<12]
	_, err := s.Translate(&s.state, linear, emulate.Read)
	require.ErrorIs(t, err, errNowhere)
	p := s.view.Pointer()
	tables, err := ept.NewTables(nowhere{}, *s.view.Mode(), p)
	require.NoError(t, err)
	s.EPT = tables
	_, err = s.Translate(&s.state, linear, emulate.Read)
	require.ErrorIs(t, err, errNowhere)
	var e *ept.TableError
	require.ErrorAs(t, err, &e)
}

type nowhere struct{}

func (nowhere) ReadPhysical(uint64) (uint64, error) { return 0, errNowhere }

func TestNoAllocation(t *testing.T) {
	if !ring0test.Optimised() {
		t.Skip("only with optimization")
	}
	for _, g := range guests {
		s := newSetup(t, g, ept.Mode{AccessedDirty: true})
		require.Zero(t, testing.AllocsPerRun(100, func() {
			if _, err := s.Touch(&s.state, g.linear(), emulate.Write); err != nil {
				t.Error(err)
			}
		}), g.name)
	}
}

// checkHostile: whatever the guest's tables and EPT say, a walk ends.
func checkHostile(t *rapid.T) {
	g := rapid.SampledFrom(guests).Draw(t, "guest")
	s := newSetup(t, g, ept.Mode{AccessedDirty: rapid.Bool().Draw(t, "flags")})
	for range rapid.IntRange(0, 30).Draw(t, "words") {
		at := rapid.Uint64Range(0, 32*512-1).Draw(t, "at")
		e := rapid.Uint64().Draw(t, "word")
		if rapid.Bool().Draw(t, "a table") {
			e = e&0x1f000 | 7
		}
		binary.LittleEndian.PutUint64(s.memory.bytes[8*at:], e)
	}
	for range rapid.IntRange(0, 4).Draw(t, "rights") {
		s.protect(t, rapid.Uint64Range(0, 31).Draw(t, "page")<<12, rapid.SampledFrom([]ept.Entry{0, ept.Read, ept.ReadWrite, ept.Execute, ept.All}).Draw(t, "to"), ept.All)
	}
	a := emulate.Access(rapid.IntRange(0, 2).Draw(t, "access"))
	at := rapid.Uint64Range(0, 1<<48-1).Draw(t, "linear")
	want, wantErr := s.Translate(&s.state, at, a)
	text := ""
	if wantErr != nil {
		text = wantErr.Error() // the next call may replace it
	}
	r, err := s.Touch(&s.state, at, a)
	if wantErr != nil {
		require.Equal(t, text, err.Error())
		return
	}
	require.NoError(t, err)
	require.Equal(t, want.HPA, r.HPA)
	require.LessOrEqual(t, len(r.Steps()), 5)
}

func TestHostileGuests(t *testing.T) { rapid.Check(t, checkHostile) }

func FuzzHostileGuests(f *testing.F) { f.Fuzz(rapid.MakeFuzz(checkHostile)) }
