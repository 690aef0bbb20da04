package emulate_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"testing"

	"github.com/govtx/vtx/asm"
	"github.com/govtx/vtx/internal/require"
	"github.com/govtx/vtx/vmcs"
	"github.com/govtx/vtx/vmexit/emulate"
)

// Bits of control registers and paging-structure entries.
const (
	bitPE, bitWP, bitPG                       = 1 << 0, 1 << 16, 1 << 31
	bitPSE, bitPAE, bitLA57, bitSMEP, bitSMAP = 1 << 4, 1 << 5, 1 << 12, 1 << 20, 1 << 21
	bitPKE, bitPKS                            = 1 << 22, 1 << 24
	bitLMA, bitNXE                            = 1 << 10, 1 << 11
	entP, entW, entU, entA, entD, entPS       = 1 << 0, 1 << 1, 1 << 2, 1 << 5, 1 << 6, 1 << 7
	entXD                                     = 1 << 63
	all                                       = entP | entW | entU
)

// A mode of paging, as control registers have it.
type pagingMode struct {
	name           string
	cr0, cr4, efer uint64
}

var (
	mode32  = pagingMode{"32-bit", bitPE | bitPG | bitWP, bitPSE, 0}
	modePAE = pagingMode{"PAE", bitPE | bitPG | bitWP, bitPAE, bitNXE}
	mode4   = pagingMode{"4-level", bitPE | bitPG | bitWP, bitPAE, bitLMA | bitNXE}
	mode5   = pagingMode{"5-level", bitPE | bitPG | bitWP, bitPAE | bitLA57, bitLMA | bitNXE}
)

// An entry of a paging structure, at its address.
type entry struct{ at, value uint64 }

// walker makes a walker with paging structures at the given addresses, and the state of a
// supervisor, whose CR3 is 0x1000.
func walker(mode pagingMode, entries []entry) (*emulate.Walker, *emulate.State, *updated) {
	m := &updated{ram: ram{bytes: make([]byte, 0x6000)}}
	for _, e := range entries {
		if mode.cr4&bitPAE == 0 {
			binary.LittleEndian.PutUint32(m.bytes[e.at:], uint32(e.value))
		} else {
			binary.LittleEndian.PutUint64(m.bytes[e.at:], e.value)
		}
	}
	s := &emulate.State{Regs: new([16]uint64), RFLAGS: 2, CR0: mode.cr0, CR3: 0x1000, CR4: mode.cr4, EFER: mode.efer}
	for n := range s.Segments {
		s.Segments[n] = vmcs.FlatData(0)
	}
	return &emulate.Walker{Memory: m}, s, m
}

// The walk for address 0x00c0_4567 with pages of 4 KBytes: PTE 4 in each mode.
const walked = 0x00c0_4567

var (
	walk32  = []entry{{0x1000 + 4*3, 0x2000 | all}, {0x2000 + 4*4, 0x7000 | all}}
	walkPAE = []entry{{0x1000, 0x2000 | entP}, {0x2000 + 8*6, 0x3000 | all}, {0x3000 + 8*4, 0x7000 | all}}
	walk4   = []entry{{0x1000, 0x2000 | all}, {0x2000, 0x3000 | all}, {0x3000 + 8*6, 0x4000 | all}, {0x4000 + 8*4, 0x7000 | all}}
	walk5   = []entry{{0x1000, 0x5000 | all}, {0x5000, 0x2000 | all}, {0x2000, 0x3000 | all}, {0x3000 + 8*6, 0x4000 | all}, {0x4000 + 8*4, 0x7000 | all}}
)

// TestWalks: the address that comes out of each form of page, the lowest and the highest
// bits of it.
func TestWalks(t *testing.T) {
	for _, c := range []struct {
		mode    pagingMode
		name    string
		entries []entry
		linear  uint64
		want    uint64
	}{
		{pagingMode{cr0: bitPE}, "none", nil, 0xabc_1234_5678, 0x1234_5678},
		{mode32, "4 KBytes", walk32, walked, 0x7567},
		{mode32, "4 KBytes, upper half of the address not used", walk32, 0xffff_0000_0000_0000 | walked, 0x7567},
		{mode32, "4 MBytes", []entry{{0x1000 + 4*3, 0xffc00000 | entPS | all}}, walked, 0xffc0_4567},
		{mode32, "4 MBytes, PSE-36", []entry{{0x1000 + 4*3, 0x400000 | 0xff<<13 | entPS | all}}, walked, 0xff_0040_4567},
		{pagingMode{"", bitPE | bitPG, 0, 0}, "PS without CR4.PSE", append([]entry{{0x1000 + 4*3, 0x2000 | entPS | all}}, walk32[1]), walked, 0x7567},
		{modePAE, "4 KBytes", walkPAE, walked, 0x7567},
		{modePAE, "2 MBytes", []entry{walkPAE[0], {0x2000 + 8*6, 0xf_ffff_ffe0_0000 | entPS | all}}, walked, 0xf_ffff_ffe0_4567},
		{modePAE, "the last PDPTE", []entry{{0x1018, 0x2000 | entP}, walkPAE[1], walkPAE[2]}, 0xc0000000 | walked, 0x7567},
		{mode4, "4 KBytes", walk4, walked, 0x7567},
		{mode4, "bits 62:52 are for software", append(walk4[:3:3], entry{0x4000 + 8*4, 0x7ff<<52 | 0x7000 | all}), walked, 0x7567},
		{mode4, "2 MBytes", append(walk4[:2:2], entry{0x3000 + 8*6, 0x40_0000 | entPS | all}), walked, 0x40_4567},
		{mode4, "1 GByte", append(walk4[:1:1], entry{0x2000, 0x8000_0000 | entPS | all}), walked, 0x80c0_4567},
		{mode4, "the last entries", []entry{{0x1ff8, 0x2000 | all}, {0x2ff8, 0x3000 | all}, {0x3ff8, 0x4000 | all}, {0x4ff8, 0x7000 | all}}, ^uint64(0), 0x7fff},
		{mode5, "4 KBytes", walk5, walked, 0x7567},
		{mode5, "1 GByte", append(walk5[:2:2], entry{0x2000, 0x8000_0000 | entPS | all}), walked, 0x80c0_4567},
		{mode5, "the last entry", append([]entry{{0x1ff8, 0x5000 | all}}, walk5[1:]...), 0xffff_0000_0000_0000 | walked, 0x7567},
		{mode4, "tables that lead to themselves", []entry{{0x1000, 0x1000 | all}}, 0x567, 0x1567},
		{mode5, "tables that lead to themselves", []entry{{0x1000, 0x1000 | all}}, 0x567, 0x1567},
		{mode32, "tables that lead to themselves", []entry{{0x1000, 0x1000 | all}}, 0x567, 0x1567},
	} {
		w, s, _ := walker(c.mode, c.entries)
		got, err := w.Translate(s, c.linear, emulate.Write)
		require.NoError(t, err, "%s, %s", c.mode.name, c.name)
		require.Equal(t, c.want, got, "%s, %s: 0x%x", c.mode.name, c.name, got)
	}
	w, s, _ := walker(modePAE, walkPAE[1:])
	s.PDPTEs = &[4]uint64{0x2000 | entP}
	got, err := w.Translate(s, walked, emulate.Read)
	require.NoError(t, err)
	require.Equal(t, uint64(0x7567), got)
}

// TestPageFaults: every way in which a walk ends in a page fault, and its error code.
func TestPageFaults(t *testing.T) {
	const p, w, u, rsvd, i, pk = 1, 2, 4, 8, 16, 32
	// with returns a walk in which bits of an entry are flipped.
	with := func(walk []entry, n int, bits uint64) []entry {
		walk = append([]entry(nil), walk...)
		walk[n].value ^= bits
		return walk
	}
	user := func(s *emulate.State, _ *emulate.Walker) { s.Segments[vmcs.SS] = vmcs.FlatData(3) }
	width := func(n uint8) func(*emulate.State, *emulate.Walker) {
		return func(_ *emulate.State, w *emulate.Walker) { w.PhysicalAddressBits = n }
	}
	cr4 := func(bits uint64) func(*emulate.State, *emulate.Walker) {
		return func(s *emulate.State, _ *emulate.Walker) { s.CR4 |= bits }
	}
	const fine = ^uint32(0)
	nothing := func(*emulate.State, *emulate.Walker) {}
	large := func(mode pagingMode, bits uint64) []entry {
		switch mode.name {
		case "32-bit":
			return []entry{{0x1000 + 4*3, bits ^ (entPS | all)}}
		case "PAE":
			return []entry{walkPAE[0], {0x2000 + 8*6, bits ^ (entPS | all)}}
		}
		return append(walk4[:2:2], entry{0x3000 + 8*6, bits ^ (entPS | all)})
	}
	for _, c := range []struct {
		mode    pagingMode
		entries []entry
		access  emulate.Access
		change  func(*emulate.State, *emulate.Walker)
		want    uint32
	}{
		// Not present.
		{mode32, nil, emulate.Read, nothing, 0},
		{mode32, walk32[:1], emulate.Write, nothing, w},
		{mode32, walk32[:1], emulate.Fetch, nothing, 0},
		{modePAE, nil, emulate.Read, user, u},
		{modePAE, walkPAE[:1], emulate.Fetch, nothing, i},
		{mode4, walk4[:3], emulate.Fetch, user, u | i},
		{mode4, with(walk4, 3, entP|entW|1<<51), emulate.Read, width(40), 0},
		{mode5, walk5[:4], emulate.Write, user, u | w},

		// Reserved bits.
		{mode32, large(mode32, 1<<21), emulate.Read, nothing, p | rsvd},
		{mode32, large(mode32, 1<<20), emulate.Read, nothing, fine},
		{mode32, large(mode32, 1<<20), emulate.Read, width(39), p | rsvd},
		{mode32, large(mode32, 1<<13), emulate.Read, width(32), p | rsvd},
		{mode32, large(mode32, 1<<13), emulate.Read, width(33), fine},
		{mode32, large(mode32, 1<<13), emulate.Read, func(_ *emulate.State, w *emulate.Walker) { w.NoPSE36 = true }, p | rsvd},
		{modePAE, with(walkPAE, 2, 1<<52), emulate.Read, nothing, p | rsvd},
		{modePAE, with(walkPAE, 1, 1<<62), emulate.Write, user, p | rsvd | w | u},
		{modePAE, large(modePAE, 1<<13), emulate.Read, nothing, p | rsvd},
		{modePAE, large(modePAE, 1<<12), emulate.Read, nothing, fine},
		{modePAE, large(modePAE, 1<<20), emulate.Read, nothing, p | rsvd},
		{mode4, large(mode4, 1<<20), emulate.Fetch, nothing, p | rsvd | i},
		{mode4, append(walk4[:1:1], entry{0x2000, 1<<29 | entPS | all}), emulate.Read, nothing, p | rsvd},
		{mode4, append(walk4[:1:1], entry{0x2000, 1<<30 | entPS | all}), emulate.Read, func(_ *emulate.State, w *emulate.Walker) { w.NoGigabytePages = true }, p | rsvd},
		{mode4, with(walk4, 0, entPS), emulate.Read, nothing, p | rsvd},
		{mode5, with(walk5, 0, entPS), emulate.Read, nothing, p | rsvd},
		{mode5, with(walk5, 1, entPS), emulate.Read, nothing, p | rsvd},
		{mode4, with(walk4, 3, 1<<40), emulate.Read, width(40), p | rsvd},
		{mode4, with(walk4, 3, 1<<39), emulate.Read, width(40), fine},
		{mode4, with(walk4, 2, entXD), emulate.Read, func(s *emulate.State, _ *emulate.Walker) { s.EFER &^= bitNXE }, p | rsvd},

		// Rights: user mode.
		{mode32, with(walk32, 0, entU), emulate.Read, user, p | u},
		{mode4, with(walk4, 0, entU), emulate.Read, user, p | u},
		{mode4, with(walk4, 3, entU), emulate.Read, user, p | u},
		{mode4, with(walk4, 3, entW), emulate.Write, user, p | w | u},
		{mode4, with(walk4, 1, entW), emulate.Write, user, p | w | u},
		{mode4, with(walk4, 1, entW), emulate.Read, user, fine},
		{mode4, with(walk4, 3, entW), emulate.Write, func(s *emulate.State, w *emulate.Walker) { user(s, w); s.CR0 &^= bitWP }, p | w | 4},
		{mode4, with(walk4, 1, entXD), emulate.Fetch, user, p | u | i},
		{modePAE, with(walkPAE, 1, entXD), emulate.Fetch, user, p | u | i},
		{mode4, walk4, emulate.Fetch, user, fine},

		// Rights: supervisor mode.
		{mode4, with(walk4, 0, entU), emulate.Write, nothing, fine},
		{mode4, with(walk4, 3, entW), emulate.Write, nothing, p | w},
		{mode32, with(walk32, 1, entW), emulate.Write, nothing, p | w},
		{mode4, with(walk4, 3, entW), emulate.Write, func(s *emulate.State, _ *emulate.Walker) { s.CR0 &^= bitWP }, fine},
		{mode4, with(walk4, 3, entXD), emulate.Fetch, nothing, p | i},
		{mode4, walk4, emulate.Fetch, nothing, fine},
		{mode4, walk4, emulate.Fetch, cr4(bitSMEP), p | i},
		{mode32, walk32, emulate.Fetch, cr4(bitSMEP), p | i},
		{mode4, with(walk4, 2, entU), emulate.Fetch, cr4(bitSMEP), fine},
		{mode4, walk4, emulate.Read, cr4(bitSMAP), p},
		{mode4, walk4, emulate.Write, cr4(bitSMAP), p | w},
		{mode4, with(walk4, 2, entU), emulate.Read, cr4(bitSMAP), fine},
		{mode4, walk4, emulate.Read, func(s *emulate.State, _ *emulate.Walker) { s.CR4 |= bitSMAP; s.RFLAGS |= asm.FlagAC }, fine},
		{mode4, walk4, emulate.Fetch, cr4(bitSMAP), fine},

		// Protection keys: key 5 in the last entry.
		{mode4, with(walk4, 3, 5<<59), emulate.Read, func(s *emulate.State, _ *emulate.Walker) { s.CR4 |= bitPKE; s.PKRU = 1 << 10 }, p | pk},
		{mode4, with(walk4, 3, 5<<59), emulate.Write, func(s *emulate.State, w *emulate.Walker) { user(s, w); s.CR4 |= bitPKE; s.PKRU = 2 << 10 }, p | w | u | pk},
		{mode4, with(walk4, 3, 5<<59), emulate.Read, func(s *emulate.State, w *emulate.Walker) { user(s, w); s.CR4 |= bitPKE; s.PKRU = 2 << 10 }, fine},
		{mode4, with(walk4, 3, 5<<59), emulate.Write, func(s *emulate.State, _ *emulate.Walker) { s.CR4 |= bitPKE; s.PKRU = 2 << 10; s.CR0 &^= bitWP }, fine},
		{mode4, with(walk4, 3, 5<<59), emulate.Fetch, func(s *emulate.State, _ *emulate.Walker) { s.CR4 |= bitPKE; s.PKRU = 3 << 10 }, fine},
		{mode4, with(walk4, 3, 5<<59), emulate.Read, func(s *emulate.State, _ *emulate.Walker) { s.CR4 |= bitPKE; s.PKRU = ^uint32(3 << 10) }, fine},
		{mode4, with(walk4, 3, 5<<59), emulate.Read, func(s *emulate.State, _ *emulate.Walker) { s.CR4 |= bitPKS; s.PKRS = 3 << 10 }, fine}, // a user-mode page
		{mode4, with(walk4, 3, 5<<59|entU), emulate.Read, func(s *emulate.State, _ *emulate.Walker) { s.CR4 |= bitPKS; s.PKRS = 1 << 10 }, p | pk},
		{mode4, with(walk4, 3, 5<<59|entU), emulate.Read, func(s *emulate.State, _ *emulate.Walker) { s.CR4 |= bitPKE; s.PKRU = 3 << 10 }, fine},
		{mode4, with(walk4, 3, 5<<59), emulate.Read, func(s *emulate.State, _ *emulate.Walker) { s.PKRU = 3 << 10 }, fine},
		{modePAE, walkPAE, emulate.Read, func(s *emulate.State, _ *emulate.Walker) { s.CR4 |= bitPKE; s.PKRU = 3 }, fine},
	} {
		name := fmt.Sprintf("%s, %v, %x", c.mode.name, c.access, c.entries)
		wk, s, m := walker(c.mode, c.entries)
		c.change(s, wk)
		before := string(m.bytes)
		_, err := wk.Translate(s, walked, c.access)
		if c.want == fine {
			require.NoError(t, err, name)
			continue
		}
		var x *emulate.Exception
		require.ErrorAs(t, err, &x, name)
		require.Equal(t, vmcs.InjectException(vmcs.VectorPF, c.want), x.Event, "%s: %v", name, x.Event)
		require.Equal(t, uint64(walked), x.Address, name)
		require.Equal(t, before, string(m.bytes), "%s: flags are set", name)
	}
}

// TestAccessedAndDirty: the flags that a walk sets in each entry; and what comes of others
// that change the entries at the same time.
func TestAccessedAndDirty(t *testing.T) {
	for _, c := range []struct {
		mode    pagingMode
		entries []entry
	}{{mode32, walk32}, {modePAE, walkPAE}, {mode4, walk4}, {mode5, walk5}, {mode4, append(walk4[:2:2], entry{0x3000 + 8*6, entPS | all})}} {
		for _, a := range []emulate.Access{emulate.Read, emulate.Write, emulate.Fetch} {
			for busy := range 3 {
				w, s, m := walker(c.mode, c.entries)
				m.busy = busy
				_, err := w.Translate(s, walked, a)
				require.NoError(t, err)
				for n, e := range c.entries {
					want := e.value | entA
					switch {
					case c.mode.name == "PAE" && n == 0: // a PDPTE has no such flags
						want = e.value
					case n == len(c.entries)-1 && a == emulate.Write:
						want |= entD
					}
					got := uint64(m.bytes[e.at])
					require.Equal(t, want&0xff, got, "%s, %v, entry %d", c.mode.name, a, n)
				}
			}
		}
	}

	// Memory that is no TableUpdater is left alone.
	w, s, m := walker(mode4, walk4)
	before := string(m.bytes)
	w.Memory = &m.ram
	_, err := w.Translate(s, walked, emulate.Write)
	require.NoError(t, err)
	require.Equal(t, before, string(m.bytes))

	// A guest whose processors do nothing else is bounded, and tries again.
	g := newMachine(64, 0x89, 0x03)
	g.CR0, g.CR4, g.CR3 = mode4.cr0, mode4.cr4, 0x1000
	for _, e := range []entry{{0x1000, 0x2000 | all}, {0x2000, 0x83}} {
		binary.LittleEndian.PutUint64(g.ram.bytes[e.at:], e.value)
	}
	g.ram.busy = 1000
	r, err := g.Step(&g.State)
	require.NoError(t, err)
	require.Equal(t, emulate.Repeat, r.Action)
	require.Greater(t, g.ram.busy, 900)
	require.Empty(t, g.device.log)
}

// TestNowhere: tables that are where no memory is.
func TestNowhere(t *testing.T) {
	for _, c := range []struct {
		mode    pagingMode
		entries []entry
		at      uint64
		level   int
	}{
		{mode32, []entry{{0x1000 + 4*3, 0xfffff000 | all}}, 0xfffff010, 1},
		{modePAE, []entry{{0x1000, 0xf_ffff_ffff_f000 | entP}}, 0xf_ffff_ffff_f030, 2},
		{mode4, []entry{{0x1000, 0xabcd_ef000 | all}}, 0xabcd_ef000, 3},
		{mode5, []entry{{0x1000, 0xabcd_ef000 | all}}, 0xabcd_ef000, 4},
	} {
		w, s, _ := walker(c.mode, c.entries)
		_, err := w.Translate(s, walked, emulate.Read)
		var e *emulate.TableError
		require.ErrorAs(t, err, &e)
		require.Equal(t, emulate.TableError{Linear: walked, Entry: c.at, Level: c.level, Err: emulate.ErrNoMemory}, *e)
		require.ErrorIs(t, err, emulate.ErrNoMemory)
		require.Contains(t, err.Error(), fmt.Sprintf("0x%x", c.at))
		s.CR3 = 0x1234_5000
		_, err = w.Translate(s, walked, emulate.Read)
		require.ErrorAs(t, err, &e)
	}
}

// A fetch from where the last one was follows every change: of an entry, and of what else
// decides on it.
func TestFetchFollows(t *testing.T) {
	entry := func(i int, v uint64) func(*emulate.State, *updated) {
		return func(_ *emulate.State, m *updated) { binary.LittleEndian.PutUint64(m.bytes[walk4[i].at:], v) }
	}
	for name, change := range map[string]func(*emulate.State, *updated){
		"nothing":             func(*emulate.State, *updated) {},
		"PML4E not present":   entry(0, 0),
		"PDPTE not present":   entry(1, 0),
		"PDE not executable":  entry(2, walk4[2].value|entXD),
		"PTE to another page": entry(3, 0x9000|all),
		"PTE reserved":        entry(3, walk4[3].value|1<<50),
		"PTE of a supervisor": entry(3, 0x7000|entP),
		"other tables":        func(s *emulate.State, _ *updated) { s.CR3 = 0x2000 },
		"SMEP":                func(s *emulate.State, _ *updated) { s.CR4 |= bitSMEP },
		"no execute-disable":  func(s *emulate.State, m *updated) { s.EFER &^= bitNXE; entry(3, walk4[3].value|entXD)(s, m) },
		"no paging":           func(s *emulate.State, _ *updated) { s.CR0 &^= bitPG },
		"user":                func(s *emulate.State, _ *updated) { s.Segments[vmcs.SS] = vmcs.FlatData(3) },
		"user, supervisor's": func(s *emulate.State, m *updated) {
			s.Segments[vmcs.SS] = vmcs.FlatData(3)
			entry(0, 0x2000|entP)(s, m)
		},
		"the tables have gone": func(_ *emulate.State, m *updated) { m.hole, m.size = 0x3000, 0x1000 },
	} {
		w, s, m := walker(mode4, walk4)
		w.PhysicalAddressBits = 40
		for range 3 { // with the flags set, and from what is remembered
			gpa, err := w.Translate(s, walked, emulate.Fetch)
			require.NoError(t, err)
			require.Equal(t, uint64(0x7567), gpa)
		}
		change(s, m)
		before := bytes.Clone(m.bytes)
		got, err := w.Translate(s, walked, emulate.Fetch)
		marked := bytes.Clone(m.bytes)
		copy(m.bytes, before)
		fresh := &emulate.Walker{Memory: m, PhysicalAddressBits: 40}
		want, wantErr := fresh.Translate(s, walked, emulate.Fetch)
		require.Equal(t, fmt.Sprint(want, wantErr), fmt.Sprint(got, err), name)
		require.Equal(t, m.bytes, marked, name)
		// Another page is another walk.
		_, err = w.Translate(s, walked+1<<12, emulate.Fetch)
		require.Equal(t, name == "no paging", err == nil, name)
	}
}

// Nor does it hold for another guest processor.
func TestFetchFollowsProcessor(t *testing.T) {
	for name, c := range map[string]struct {
		entries []entry
		change  func(*emulate.Walker)
	}{
		"narrower addresses": {
			[]entry{{0x1000, 0x2000 | all}, {0x2000, 0x3000 | all}, {0x3000 + 8*6, 0x4000 | all}, {0x4000, 1<<39 | all}},
			func(w *emulate.Walker) { w.PhysicalAddressBits = 39 },
		},
		"no 1-GByte pages": {
			[]entry{{0x1000, 0x2000 | all}, {0x2000, entPS | all}},
			func(w *emulate.Walker) { w.NoGigabytePages = true },
		},
	} {
		w, s, _ := walker(mode4, c.entries)
		w.PhysicalAddressBits = 40
		const linear = 6 << 21
		for range 2 {
			_, err := w.Translate(s, linear, emulate.Fetch)
			require.NoError(t, err, name)
		}
		c.change(w)
		_, err := w.Translate(s, linear, emulate.Fetch)
		var x *emulate.Exception
		require.ErrorAs(t, err, &x, name)
		require.Equal(t, vmcs.VectorPF, x.Event.Info.Vector())
	}
}
