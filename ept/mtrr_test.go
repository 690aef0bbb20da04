package ept_test

import (
	"embed"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/govtx/vtx/ept"
	"github.com/govtx/vtx/internal/require"
	"github.com/govtx/vtx/internal/ring0test"
)

//go:embed testdata/mtrr
var mtrrFiles embed.FS

func recordedMTRRs(t require.T, name string) *ept.MTRRs {
	text, err := mtrrFiles.ReadFile("testdata/mtrr/" + name + ".txt")
	require.NoError(t, err)
	m, err := ept.ParseMTRRs(string(text))
	require.NoError(t, err)
	return m
}

// Registers of real machines, and what they make of memory, worked out by hand.
func TestRecordedMTRRs(t *testing.T) {
	for name, want := range map[string]string{
		"surface": `0x0-0x9ffff WB
0xa0000-0xbffff UC
0xc0000-0xfffff WP
0x100000-0x90ffffff WB
0x91000000-0xffffffff UC
0x100000000-0x3fffffffff WB
0x4000000000-0x7fffffffff UC
`,
		"desktop": `0x0-0x9ffff WB
0xa0000-0xbffff UC
0xc0000-0xd3fff WP
0xd4000-0xe7fff UC
0xe8000-0xfffff WP
0x100000-0xdfffffff WB
0xe0000000-0xffffffff UC
0x100000000-0x41effffff WB
0x41f000000-0xfffffffff UC
`,
		"coreboot": `0x0-0x9ffff WB
0xa0000-0xbffff UC
0xc0000-0x7affffff WB
0x7b000000-0x7fffffff UC
0x80000000-0x8fffffff WC
0x90000000-0xffffffff UC
0x100000000-0x1ffffffff WB
0x200000000-0x7fffffffff UC
`,
	} {
		m := recordedMTRRs(t, name)
		require.Equal(t, want, m.String(), name)
		// At tells the same ranges, from any address in them.
		for r := range m.All() {
			for _, addr := range []uint64{r.Start, (r.Start + r.End) / 2, r.End - 1} {
				got, end := m.At(addr)
				require.Equal(t, r.Type, got)
				require.Equal(t, r.End, end)
			}
		}
	}
	m := recordedMTRRs(t, "surface")
	for _, beyond := range []uint64{1 << 39, math.MaxUint64} {
		got, end := m.At(beyond)
		require.Equal(t, ept.UC, got)
		require.Equal(t, uint64(math.MaxUint64), end)
	}
}

// variable makes a valid range.
func variable(base, mask uint64, t ept.MemoryType) ept.MTRRPair {
	return ept.MTRRPair{Base: base | uint64(t), Mask: mask | 1<<11}
}

const (
	enabled      = 1 << 11
	enabledFixed = 1<<11 | 1<<10
	capFixed     = 1 << 8
	capSMRR      = 1 << 11
)

// The rules for overlaps (SDM Vol. 3A 12.11.4.1), for each set of types.
func TestMTRROverlap(t *testing.T) {
	types := []ept.MemoryType{ept.UC, ept.WC, ept.WT, ept.WP, ept.WB}
	for set := 1; set < 1<<len(types); set++ {
		m := &ept.MTRRs{PhysicalAddressBits: 36, DefType: enabled | uint64(ept.WP)}
		var in []ept.MemoryType
		for i, mt := range types {
			if set>>i&1 != 0 {
				in = append(in, mt)
				m.Variable = append(m.Variable, variable(0x1000_0000, 0xf_f000_0000, mt), variable(0x1000_0000, 0xf_f000_0000, mt))
			}
		}
		want, undefined := ept.UC, false
		switch {
		case in[0] == ept.UC:
		case len(in) == 1:
			want = in[0]
		case len(in) == 2 && in[0] == ept.WT && in[1] == ept.WB:
			want = ept.WT
		default:
			undefined = true
		}
		var got []ept.TypeRange
		for r := range m.All() {
			got = append(got, r)
		}
		middle := ept.TypeRange{Start: 0x1000_0000, End: 0x2000_0000, Type: want, Undefined: undefined}
		if want == ept.WP { // as what surrounds it
			require.Equal(t, []ept.TypeRange{{End: 1 << 36, Type: ept.WP}}, got)
			continue
		}
		require.Equal(t, []ept.TypeRange{{End: 0x1000_0000, Type: ept.WP}, middle, {Start: 0x2000_0000, End: 1 << 36, Type: ept.WP}}, got, "%v", in)
		require.Equal(t, undefined, strings.Contains(m.String(), "undefined overlap"))
	}
}

// What the enable bits switch, and who goes before whom.
func TestMTRRPrecedence(t *testing.T) {
	base := ept.MTRRs{PhysicalAddressBits: 36, Cap: capFixed | capSMRR, DefType: enabledFixed | uint64(ept.WB)}
	for i := range base.Fixed {
		base.Fixed[i] = 0x0101010101010101 * uint64(ept.WP)
	}
	base.Variable = []ept.MTRRPair{variable(0, 0xf_ffe0_0000, ept.WT)} // 2 MiB at 0
	for _, c := range []struct {
		change func(*ept.MTRRs)
		want   string
	}{
		{func(*ept.MTRRs) {}, "0x0-0xfffff WP|0x100000-0x1fffff WT|0x200000-0xfffffffff WB|"},
		{func(m *ept.MTRRs) { m.DefType &^= 1 << 10 }, "0x0-0x1fffff WT|0x200000-0xfffffffff WB|"},
		{func(m *ept.MTRRs) { m.Cap &^= capFixed }, "0x0-0x1fffff WT|0x200000-0xfffffffff WB|"},
		{func(m *ept.MTRRs) { m.DefType &^= 1 << 11 }, "0x0-0xfffffffff UC|"},
		{func(m *ept.MTRRs) { m.Variable[0].Mask &^= 1 << 11 }, "0x0-0xfffff WP|0x100000-0xfffffffff WB|"},
		{func(m *ept.MTRRs) { m.Variable = nil }, "0x0-0xfffff WP|0x100000-0xfffffffff WB|"},
		// The SMRR of a Dell XPS 13 9360 (github.com/chipsec/chipsec, issue 1980), and
		// one over fixed ranges.
		{func(m *ept.MTRRs) { m.SMRR = variable(0x7c00_0000, 0xff00_0000, ept.WB) },
			"0x0-0xfffff WP|0x100000-0x1fffff WT|0x200000-0x7bffffff WB|0x7c000000-0x7cffffff UC|0x7d000000-0xfffffffff WB|"},
		{func(m *ept.MTRRs) { m.SMRR = variable(0xa_0000, 0xfffe_0000, ept.WB) },
			"0x0-0x9ffff WP|0xa0000-0xbffff UC|0xc0000-0xfffff WP|0x100000-0x1fffff WT|0x200000-0xfffffffff WB|"},
		{func(m *ept.MTRRs) { m.SMRR = variable(0x7c00_0000, 0xff00_0000, ept.WB); m.Cap &^= capSMRR }, "0x0-0xfffff WP|0x100000-0x1fffff WT|0x200000-0xfffffffff WB|"},
		{func(m *ept.MTRRs) { m.SMRR = ept.MTRRPair{Base: 0x7c00_0006, Mask: 0xff00_0000} }, "0x0-0xfffff WP|0x100000-0x1fffff WT|0x200000-0xfffffffff WB|"},
	} {
		m := base
		m.Variable = append([]ept.MTRRPair(nil), base.Variable...)
		c.change(&m)
		require.Equal(t, c.want, strings.ReplaceAll(m.String(), "\n", "|"))
	}
}

// Each part of the fixed ranges is where SDM Vol. 3A table 12-9 has it.
func TestMTRRFixed(t *testing.T) {
	start := func(i, part int) uint64 {
		switch {
		case i == 0:
			return uint64(part) * 64 << 10
		case i < 3:
			return 512<<10 + uint64(8*(i-1)+part)*16<<10
		}
		return 768<<10 + uint64(8*(i-3)+part)*4<<10
	}
	for i := range 11 {
		for part := range 8 {
			m := &ept.MTRRs{PhysicalAddressBits: 36, Cap: capFixed, DefType: enabledFixed}
			m.Fixed[i] = uint64(ept.WC) << (8 * part)
			end := uint64(1 << 20)
			if part < 7 {
				end = start(i, part+1)
			} else if i < 10 {
				end = start(i+1, 0)
			}
			got, at := m.At(start(i, part))
			require.Equal(t, ept.WC, got)
			require.Equal(t, end, at)
			n := 0
			for r := range m.All() {
				if n++; r.Type == ept.WC {
					require.Equal(t, ept.TypeRange{Start: start(i, part), End: end, Type: ept.WC}, r)
				}
			}
			require.LessOrEqual(t, n, 3)
		}
	}
}

// naiveType is the type at an address as the manual puts it, register by register.
func naiveType(m *ept.MTRRs, addr uint64) (ept.MemoryType, bool) {
	width := uint64(1)<<m.PhysicalAddressBits - 1
	if m.Cap&capSMRR != 0 && m.SMRR.Mask&(1<<11) != 0 && addr < 1<<32 {
		if mask := m.SMRR.Mask & 0xffff_f000; addr&mask == m.SMRR.Base&mask {
			return ept.UC, false
		}
	}
	if m.DefType&(1<<11) == 0 {
		return ept.UC, false
	}
	var found []ept.MemoryType
	if m.Cap&capFixed != 0 && m.DefType&(1<<10) != 0 && addr < 1<<20 {
		i, part := 0, addr>>16
		if addr >= 0x80000 {
			i, part = 1+int(addr-0x80000)>>17, addr>>14&7
		}
		if addr >= 0xc0000 {
			i, part = 3+int(addr-0xc0000)>>15, addr>>12&7
		}
		found = append(found, ept.MemoryType(m.Fixed[i]>>(8*part)))
	} else {
		for _, p := range m.Variable {
			mask := p.Mask & width &^ 0xfff
			if p.Mask&(1<<11) != 0 && addr&mask == p.Base&mask {
				found = append(found, ept.MemoryType(p.Base))
			}
		}
		if found == nil {
			found = append(found, ept.MemoryType(m.DefType))
		}
	}
	got := found[0]
	for _, t := range found {
		if !t.Valid() {
			return ept.UC, true
		}
	}
	for _, t := range found {
		if t == ept.UC {
			return ept.UC, false
		}
	}
	set := map[ept.MemoryType]bool{}
	for _, t := range found {
		set[t] = true
	}
	switch {
	case len(set) == 1:
		return got, false
	case len(set) == 2 && set[ept.WT] && set[ept.WB]:
		return ept.WT, false
	}
	return ept.UC, true
}

// drawMTRRs draws registers; wild ones have any value, others what processors accept, though
// masks can have gaps.
func drawMTRRs(t *rapid.T, wild bool) *ept.MTRRs {
	anyType := rapid.SampledFrom([]uint64{0, 1, 4, 5, 6, 6, 6})
	m := &ept.MTRRs{PhysicalAddressBits: rapid.Uint8Range(32, 52).Draw(t, "width")}
	width := uint64(1)<<m.PhysicalAddressBits - 1
	m.Cap = uint64(rapid.IntRange(0, 10).Draw(t, "ranges")) | capFixed | capSMRR
	m.DefType = anyType.Draw(t, "default") | enabledFixed
	for i := range m.Fixed {
		for part := range 8 {
			m.Fixed[i] |= anyType.Draw(t, "fixed") << (8 * part)
		}
	}
	pair := func(width uint64, name string) ept.MTRRPair {
		base := rapid.Uint64().Draw(t, name) & width &^ 0xfff
		mask := width &^ (1<<rapid.IntRange(12, 40).Draw(t, "size") - 1)
		if rapid.IntRange(0, 3).Draw(t, "gaps") == 0 {
			few := rapid.Uint64().Draw(t, "gaps in mask")
			mask &^= few & rapid.Uint64().Draw(t, "and")
		}
		valid := uint64(0)
		if rapid.IntRange(0, 5).Draw(t, "valid") != 0 {
			valid = 1 << 11
		}
		return ept.MTRRPair{Base: base | anyType.Draw(t, "type"), Mask: mask&width&^0xfff | valid}
	}
	for range m.Cap & 0xff {
		m.Variable = append(m.Variable, pair(width, "base"))
	}
	m.SMRR = pair(0xffff_ffff, "SMRR")
	if wild {
		u := rapid.Uint64()
		m.PhysicalAddressBits = rapid.Uint8().Draw(t, "any width")
		m.DefType, m.Cap = u.Draw(t, "wild default"), u.Draw(t, "wild cap")
		m.Fixed[rapid.IntRange(0, 10).Draw(t, "which")] = u.Draw(t, "wild fixed")
		for range rapid.IntRange(0, 100).Draw(t, "more") {
			m.Variable = append(m.Variable, ept.MTRRPair{Base: u.Draw(t, "wild base"), Mask: u.Draw(t, "wild mask")})
		}
		m.SMRR = ept.MTRRPair{Base: u.Draw(t, "wild base"), Mask: u.Draw(t, "wild mask")}
	}
	return m
}

// mtrrs: At agrees with the naive reading at the address, at the end of the run, and
// anywhere in it; runs are as long as can be unless masks have gaps.
func mtrrs(t *rapid.T) {
	m := drawMTRRs(t, false)
	require.NoError(t, m.Validate())
	limit := uint64(1) << m.PhysicalAddressBits
	addresses := []uint64{0, limit - 1, 0x9ffff, 0xfffff, 0x100000, 0xffff_ffff}
	for _, p := range m.Variable {
		low := p.Mask &^ 0xfff & -(p.Mask &^ 0xfff)
		addresses = append(addresses, p.Base&^0xfff, p.Base&^0xfff-1, p.Base&^0xfff+low, p.Base&^0xfff+low-1)
	}
	for range 10 {
		addresses = append(addresses, rapid.Uint64().Draw(t, "address"))
	}
	for _, addr := range addresses {
		addr &= limit - 1
		got, end := m.At(addr)
		want, _ := naiveType(m, addr)
		require.Equal(t, want, got, "%#x", addr)
		require.Greater(t, end, addr)
		require.LessOrEqual(t, end, limit)
		require.Zero(t, end&0xfff)
		for _, in := range []uint64{end - 1, addr + rapid.Uint64Range(0, end-addr-1).Draw(t, "in"), (addr | 0xfff) + 1} {
			if in < end {
				same, _ := naiveType(m, in)
				require.Equal(t, want, same, "%#x, in the run from %#x to %#x", in, addr, end)
			}
		}
		if end < limit && !gaps(m) {
			next, _ := naiveType(m, end)
			require.NotEqual(t, want, next, "the run from %#x ends at %#x", addr, end)
		}
	}
	b, err := m.MarshalText()
	require.NoError(t, err)
	var back ept.MTRRs
	require.NoError(t, back.UnmarshalText(b))
	require.Equal(t, m.String(), back.String())
	again, err := back.MarshalText()
	require.NoError(t, err)
	require.Equal(t, string(b), string(again))
}

// gaps reports whether a mask has gaps.
func gaps(m *ept.MTRRs) bool {
	width := uint64(1)<<m.PhysicalAddressBits - 1
	for _, p := range append([]ept.MTRRPair{{Mask: m.SMRR.Mask | 0xffff_ffff_0000_0000}}, m.Variable...) {
		if free := ^p.Mask&width | 0xfff; free&(free+1) != 0 {
			return true
		}
	}
	return false
}

func TestMTRRs(t *testing.T) { ring0test.CheckOnHost(t, mtrrs) }
func FuzzMTRRs(f *testing.F) { f.Fuzz(rapid.MakeFuzz(mtrrs)) }

// exhaustiveMTRRs compares each page of 4 MiB, which masks with gaps cut into many ranges.
func exhaustiveMTRRs(t *rapid.T) {
	m := &ept.MTRRs{PhysicalAddressBits: 32, Cap: capSMRR, DefType: enabled | uint64(ept.WB)}
	const window = 1<<22 - 1
	at := uint64(rapid.IntRange(0, 1023).Draw(t, "window")) << 22
	draw := func(name string) ept.MTRRPair {
		mask := rapid.Uint64().Draw(t, name)&window | 0xffc0_0000
		return variable(at|rapid.Uint64().Draw(t, "base")&window&^0xfff, mask&^0xfff, rapid.SampledFrom([]ept.MemoryType{0, 1, 4, 5, 6}).Draw(t, "type"))
	}
	for range rapid.IntRange(0, 4).Draw(t, "ranges") {
		m.Variable = append(m.Variable, draw("mask"))
	}
	m.SMRR = draw("SMRR")
	n, end := 0, at
	for addr := at; addr < at+window; addr += 0x1000 {
		want, _ := naiveType(m, addr)
		got, to := m.At(addr)
		require.Equal(t, want, got)
		if addr >= end {
			n, end = n+1, to
		}
		require.Equal(t, end, to, "%#x: another end than from the start of its run", addr)
	}
	runs := 0
	for r := range m.All() {
		if r.End > at && r.Start <= at+window {
			runs++
			want, undefined := naiveType(m, r.Start)
			require.Equal(t, want, r.Type)
			require.Equal(t, undefined, r.Undefined)
		}
	}
	require.GreaterOrEqual(t, runs, n)
}

func TestMTRRsExhaustive(t *testing.T) { ring0test.CheckOnHost(t, exhaustiveMTRRs) }

// hostileMTRRs: whatever is in the registers, questions are answered and soon.
func hostileMTRRs(t *rapid.T) {
	m := drawMTRRs(t, true)
	addr := rapid.Uint64().Draw(t, "address")
	for range 20 {
		got, end := m.At(addr)
		require.True(t, got.Valid())
		if addr == math.MaxUint64 {
			break
		}
		require.Greater(t, end, addr)
		addr = end
	}
	require.LessOrEqual(t, strings.Count(m.String(), "\n"), 257)
	if err := m.Validate(); err != nil {
		require.ErrorContains(t, err, "ept: ")
	}
	_, _ = m.MarshalText()
}

func TestHostileMTRRs(t *testing.T) { ring0test.CheckOnHost(t, hostileMTRRs) }
func FuzzHostileMTRRs(f *testing.F) { f.Fuzz(rapid.MakeFuzz(hostileMTRRs)) }

// A mask of nothing but gaps alternates types from page to page of all memory.
func TestMTRRGaps(t *testing.T) {
	ring0test.HostOnly(t)
	m := &ept.MTRRs{PhysicalAddressBits: 52, DefType: enabled | uint64(ept.WB), Variable: []ept.MTRRPair{variable(0, 0x1000, ept.UC)}}
	for range m.All() {
		break // a caller may stop
	}
	got, end := m.At(1 << 51)
	require.Equal(t, ept.UC, got)
	require.Equal(t, uint64(1<<51+0x1000), end)
	require.Contains(t, m.String(), "more than 256 ranges")
	// Many neighbours of one type: the end comes early, but the way goes on.
	m.Variable = append(m.Variable, variable(0x1000, 0x1000, ept.UC))
	n := 0
	for addr := uint64(0); addr < 1<<30; n++ {
		got, end := m.At(addr)
		require.Equal(t, ept.UC, got)
		addr = end
	}
	require.Less(t, n, 1<<18/500)
}

// Widths that no processor has are the nearest that there are.
func TestMTRRWidth(t *testing.T) {
	for width, bits := range map[uint8]int{0: 32, 31: 32, 40: 40, 53: 52, 255: 52} {
		m := &ept.MTRRs{PhysicalAddressBits: width}
		require.Equal(t, fmt.Sprintf("0x0-%#x UC\n", uint64(1)<<bits-1), m.String())
		require.Equal(t, width < 32 || width > 52, m.Validate() != nil)
	}
}

// msrsRead records which MSRs are read.
type msrsRead struct {
	cap  uint64
	fail uint32
	read map[uint32]int
}

var errMSR = errors.New("no such MSR")

func (r *msrsRead) ReadMSR(msr uint32) (uint64, error) {
	if msr == r.fail {
		return 0, errMSR
	}
	r.read[msr]++
	if msr == 0xfe {
		return r.cap, nil
	}
	return 0, nil
}

func TestReadMTRRs(t *testing.T) {
	for _, c := range []struct {
		cap  uint64
		want int
	}{{0, 2}, {capFixed, 13}, {3, 8}, {capSMRR, 4}, {10 | capFixed | capSMRR | 1<<10, 35}} {
		r := &msrsRead{cap: c.cap, read: map[uint32]int{}}
		m, err := ept.ReadMTRRs(r, 39)
		require.NoError(t, err)
		require.Len(t, r.read, c.want)
		require.Equal(t, int(c.cap&0xff), len(m.Variable))
		for msr, n := range r.read {
			require.Equal(t, 1, n)
			_, err := ept.ReadMTRRs(&msrsRead{cap: c.cap, fail: msr, read: map[uint32]int{}}, 39)
			require.ErrorIs(t, err, errMSR)
			require.ErrorContains(t, err, fmt.Sprintf("(MSR %#x)", msr))
			require.ErrorContains(t, err, "IA32_")
		}
	}
	_, err := ept.ReadMTRRs(&msrsRead{cap: 41, read: map[uint32]int{}}, 39)
	require.ErrorContains(t, err, "40 at most")
	_, err = ept.ReadMTRRs(&msrsRead{cap: 40, read: map[uint32]int{}}, 39)
	require.NoError(t, err)
	_, err = ept.ReadMTRRs(&msrsRead{read: map[uint32]int{}}, 31)
	require.ErrorContains(t, err, "MAXPHYADDR")
}

func TestMTRRsInvalid(t *testing.T) {
	base := func() *ept.MTRRs {
		return &ept.MTRRs{PhysicalAddressBits: 36, Cap: 1, DefType: enabled, Variable: []ept.MTRRPair{variable(0, 0xf_ffff_f000, ept.WB)}}
	}
	require.NoError(t, base().Validate())
	for _, c := range []struct {
		change func(*ept.MTRRs)
		want   string
	}{
		{func(m *ept.MTRRs) { m.DefType |= 7 }, "IA32_MTRR_DEF_TYPE (MSR 0x2ff)"},
		{func(m *ept.MTRRs) { m.Fixed[10] = 2 << 56 }, "IA32_MTRR_FIX4K_F8000 (MSR 0x26f) is 0x200000000000000: no processor accepts this value: memory type 2 in bits 63:56"},
		{func(m *ept.MTRRs) { m.Variable[0].Base |= 1 }, "IA32_MTRR_PHYSBASE0 (MSR 0x200)"},
		{func(m *ept.MTRRs) { m.Variable[0].Base |= 1 << 36 }, "beyond the width of 36"},
		{func(m *ept.MTRRs) { m.Variable[0].Mask |= 1 << 36 }, "IA32_MTRR_PHYSMASK0 (MSR 0x201)"},
		{func(m *ept.MTRRs) { m.DefType |= 1 << 9 }, "bits 9:8 are reserved"},
		{func(m *ept.MTRRs) { m.DefType |= 1 << 12 }, "bits 63:12 are reserved"},
		{func(m *ept.MTRRs) { m.Variable[0].Base |= 1 << 8 }, "bits 11:8 are reserved"},
		{func(m *ept.MTRRs) { m.Variable[0].Mask |= 1 << 10 }, "bits 10:0 are reserved"},
		{func(m *ept.MTRRs) { m.SMRR.Base = 1 << 32 }, "IA32_SMRR_PHYSBASE (MSR 0x1f2)"},
		{func(m *ept.MTRRs) { m.SMRR.Mask = 1 << 32 }, "IA32_SMRR_PHYSMASK (MSR 0x1f3)"},
	} {
		m := base()
		c.change(m)
		require.ErrorIs(t, m.Validate(), ept.ErrMTRR)
		require.ErrorContains(t, m.Validate(), c.want)
	}
	m := base()
	m.Cap = 2
	_, err := m.MarshalText()
	require.ErrorContains(t, err, "tells of 2 variable ranges")
}

func TestParseMTRRs(t *testing.T) {
	for text, want := range map[string]string{
		"":                                  "MAXPHYADDR is missing",
		"MAXPHYADDR 39":                     "IA32_MTRRCAP",
		"MAXPHYADDR 39\n0xfe 1\n0x2ff 0":    "IA32_MTRR_PHYSBASE0",
		"MAXPHYADDR 31":                     "32 to 52",
		"MAXPHYADDR 39\nMAXPHYADDR 39":      "once",
		"0xfe":                              "line 1",
		"0xfe x":                            "no number",
		"0x10 1":                            "no MTRR",
		"\n# a\n0xfe 0 IA32_MTRRCAP\n254 0": "line 4",
		"MAXPHYADDR 39\n0xfe 0\n0x2ff 0\n0x250 0": "does not announce",
	} {
		_, err := ept.ParseMTRRs(text)
		require.ErrorContains(t, err, want, text)
	}
	m, err := ept.ParseMTRRs("maxphyaddr 40\n0x2ff 0xc06 default\n254 0\n")
	require.NoError(t, err)
	require.Equal(t, "0x0-0xffffffffff WB\n", m.String())
}

func BenchmarkMTRRs(b *testing.B) {
	for _, c := range []struct {
		name string
		addr uint64
	}{{"fixed", 0xd8000}, {"first", 0x100000}, {"last", 0x40_0000_0000}} {
		m := recordedMTRRs(b, "surface")
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, end := m.At(c.addr); end <= c.addr {
					b.Fatal(end)
				}
			}
		})
	}
}
