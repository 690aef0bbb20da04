package ept_test

import (
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/govtx/vtx/ept"
	"github.com/govtx/vtx/internal/require"
	"github.com/govtx/vtx/internal/ring0test"
	"github.com/govtx/vtx/vmcs"
)

// Bits of IA32_VMX_EPT_VPID_CAP.
const (
	capExecuteOnly   = 1 << 0
	capWalk4         = 1 << 6
	capWalk5         = 1 << 7
	capUC            = 1 << 8
	capWB            = 1 << 14
	cap2M            = 1 << 16
	cap1G            = 1 << 17
	capINVEPT        = 1 << 20
	capAccessedDirty = 1 << 21
	capShadowStack   = 1 << 23
	capSingle        = 1 << 25
	capAll           = 1 << 26

	// capFull is what current processors have.
	capFull = capExecuteOnly | capWalk4 | capWalk5 | capUC | capWB | cap2M | cap1G | capINVEPT | capAccessedDirty | capShadowStack | capSingle | capAll
)

// fullMode is the mode of a processor that has everything, with nothing in use.
func fullMode() *ept.Mode { return &ept.Mode{Capabilities: capFull, PhysicalAddressBits: 46} }

// reservedTables are the rows "reserved (must be 0)" of SDM Vol. 3C tables 29-1 to 29-7,
// for entries with all pages supported. M is MAXPHYADDR.
var reservedTables = []struct {
	level ept.Level
	large bool
	bits  string
}{
	{ept.PML5E, false, "7:3 51:M"},        // 29-1
	{ept.PML4E, false, "7:3 51:M"},        // 29-2
	{ept.PDPTE, true, "29:12 51:M"},       // 29-3
	{ept.PDPTE, false, "6:3 51:M"},        // 29-4; bit 7 is 0, or 29-3 holds
	{ept.PDE, true, "20:12 51:M"},         // 29-5
	{ept.PDE, false, "6:3 51:M"},          // 29-6
	{ept.PTE, false, "51:M"},              // 29-7
	{ept.PTE, true /* ignored */, "51:M"}, // 29-7
	{ept.PML4E, true /* bad */, "7:3 51:M"},
	{ept.PML5E, true /* bad */, "7:3 51:M"},
}

// bitsOf reads "7:3 51:M" for a width.
func bitsOf(t require.T, text string, width uint8) (mask uint64) {
	for field := range strings.FieldsSeq(strings.ReplaceAll(text, "M", strconv.Itoa(int(width)))) {
		high, low, _ := strings.Cut(field, ":")
		h, err := strconv.Atoi(high)
		require.NoError(t, err)
		l, err := strconv.Atoi(low)
		require.NoError(t, err)
		for b := l; b <= h; b++ {
			mask |= 1 << b
		}
	}
	return mask
}

// Each single bit of an entry that can be read and written is reserved if the manual's
// tables say so, for each width.
func TestReservedBits(t *testing.T) {
	ring0test.HostOnly(t)
	for _, row := range reservedTables {
		for width := uint8(32); width <= 52; width++ {
			m := &ept.Mode{Capabilities: capFull, PhysicalAddressBits: width}
			want := bitsOf(t, row.bits, width)
			require.Equal(t, want, m.Reserved(row.level, row.large), "%v, width %d", row.level, width)
			base := ept.ReadWrite
			if row.large {
				base |= ept.Large
			}
			for b := range 64 {
				e := base | 1<<b
				if b == 7 && !row.large {
					continue // is a row of its own
				}
				bad := want&uint64(e) != 0
				if e.Leaf(row.level) && b == 4 { // memory type 2
					bad = true
				}
				require.Equal(t, bad, m.Misconfiguration(e, row.level) != nil, "%v %v width %d", row.level, e, width)
			}
		}
	}
}

// kvmMisconfigured decides in the way of KVM: a mask of reserved bits by level and bit 7,
// and a bitmap of 64 bits by the low six bits of the entry, which are rights and type.
func kvmMisconfigured(m *ept.Mode, e uint64, level int) bool {
	span := func(low, high int) uint64 {
		if low > high {
			return 0
		}
		return ^uint64(0) >> (63 - high) &^ (1<<low - 1)
	}
	high := span(int(m.PhysicalAddressBits), 51)
	large2M, large1G := uint64(0), uint64(0)
	if m.Capabilities&cap2M == 0 {
		large2M = 1 << 7
	}
	if m.Capabilities&cap1G == 0 {
		large1G = 1 << 7
	}
	masks := [2][6]uint64{
		{5: high | span(3, 7), 4: high | span(3, 7), 3: high | span(3, 6) | large1G, 2: high | span(3, 6) | large2M, 1: high},
		{5: high | span(3, 7), 4: high | span(3, 7), 3: high | span(12, 29) | large1G, 2: high | span(12, 20) | large2M, 1: high},
	}
	repeat := func(b uint64) uint64 { return b * 0x0101_0101_0101_0101 }
	badRights := uint64(0xff)<<(2*8) | 0xff<<(3*8) | 0xff<<(7*8) | repeat(1<<2) | repeat(1<<6)
	if m.Capabilities&capExecuteOnly == 0 {
		badRights |= repeat(1 << 4)
	}
	return e&masks[e>>7&1][level] != 0 || badRights>>(e&63)&1 != 0
}

// modes yields each combination of what the rules depend on.
func modes(yield func(*ept.Mode) bool) {
	for i := range 32 {
		m := &ept.Mode{Capabilities: capFull &^ (capExecuteOnly | cap2M | cap1G), PhysicalAddressBits: 39}
		for b, c := range []vmcs.EPTVPID{capExecuteOnly, cap2M, cap1G} {
			if i>>b&1 != 0 {
				m.Capabilities |= c
			}
		}
		m.ModeBasedExecute, m.PagingWrite = i>>3&1 != 0, i>>4&1 != 0
		if !yield(m) {
			return
		}
	}
}

// All combinations of the bits that rules look at, at each level and in each mode, get
// the outcome that KVM's way gives; where KVM has no say (mode-based execute control,
// paging-write control) the rules are put in other words here.
func TestMisconfigurationExhaustive(t *testing.T) {
	ring0test.HostOnly(t)
	places := []int{0, 1, 2, 3, 4, 5, 6, 7, 10, 58}
	addresses := []uint64{0, 1 << 12, 1 << 20, 1 << 21, 1 << 29, 1 << 30, 1 << 38, 1 << 39, 1 << 51}
	for m := range modes {
		for level := 1; level <= 5; level++ {
			for combination := range 1 << len(places) {
				e := uint64(0)
				for i, b := range places {
					e |= uint64(combination>>i&1) << b
				}
				address := addresses[combination%len(addresses)]
				checkMisconfiguration(t, m, e|address, level)
			}
			for _, address := range addresses {
				checkMisconfiguration(t, m, address|0xb7, level)
				checkMisconfiguration(t, m, address|0x07, level)
			}
		}
	}
}

func checkMisconfiguration(t require.T, m *ept.Mode, e uint64, level int) {
	t.Helper()
	present := e&7 != 0
	leaf := level == 1 || level <= 3 && e&0x80 != 0
	want := false
	if m.ModeBasedExecute && e&(1<<10) != 0 {
		present = true
		want = e&1 == 0 && m.Capabilities&capExecuteOnly == 0
	}
	want = want || kvmMisconfigured(m, e, level)
	want = want || m.PagingWrite && leaf && e>>58&1 != 0 && e&1 == 0
	want = want && present
	r := m.Misconfiguration(ept.Entry(e), ept.Level(level))
	if (r != nil) != want {
		t.Fatalf("level %d entry %#x %v mode %+v: want misconfigured %t, got rule %v", level, e, ept.Entry(e), *m, want, r)
	}
	require.Equal(t, present, ept.Entry(e).Present(m))
}

// misconfiguration is as the test above, for any bits.
func misconfiguration(t *rapid.T) {
	m := &ept.Mode{
		Capabilities:        vmcs.EPTVPID(rapid.Uint64().Draw(t, "capabilities")),
		PhysicalAddressBits: rapid.Uint8Range(32, 52).Draw(t, "width"),
		ModeBasedExecute:    rapid.Bool().Draw(t, "mode-based execute"),
		PagingWrite:         rapid.Bool().Draw(t, "paging write"),
	}
	e := rapid.Uint64().Draw(t, "entry")
	if rapid.Bool().Draw(t, "sparse") {
		e &= rapid.Uint64().Draw(t, "and")
		e &= rapid.Uint64().Draw(t, "and")
	}
	checkMisconfiguration(t, m, e, rapid.IntRange(1, 5).Draw(t, "level"))
}

func TestMisconfigurationRandom(t *testing.T) { ring0test.CheckOnHost(t, misconfiguration) }
func FuzzMisconfiguration(f *testing.F)       { f.Fuzz(rapid.MakeFuzz(misconfiguration)) }

// Each rule is told of where it alone is broken, and nowhere else in the table.
func TestMisconfigurationRules(t *testing.T) {
	without := func(bits vmcs.EPTVPID) *ept.Mode {
		m := fullMode()
		m.Capabilities &^= bits
		return m
	}
	mbec := without(capExecuteOnly)
	mbec.ModeBasedExecute = true
	paging := fullMode()
	paging.PagingWrite = true
	for _, c := range []struct {
		mode  *ept.Mode
		level ept.Level
		entry ept.Entry
		rule  string
	}{
		{fullMode(), ept.PTE, ept.Write, "write-without-read"},
		{fullMode(), ept.PML4E, ept.Write | ept.Execute, "write-without-read"},
		{fullMode(), ept.PTE, ept.Execute, ""},
		{without(capExecuteOnly), ept.PTE, ept.Execute, "execute-only"},
		{without(capExecuteOnly), ept.PML5E, ept.Execute, "execute-only"},
		{without(capExecuteOnly), ept.PTE, ept.ExecuteUser, ""}, // not present
		{mbec, ept.PTE, ept.ExecuteUser, "execute-only"},
		{mbec, ept.PTE, ept.ExecuteUser | ept.Read, ""},
		{paging, ept.PTE, ept.PagingWrite | ept.Execute, "paging-write-without-read"},
		{paging, ept.PDE, ept.PagingWrite | ept.Execute | ept.Large, "paging-write-without-read"},
		{paging, ept.PDE, ept.PagingWrite | ept.Execute, ""}, // ignored in references
		{paging, ept.PTE, ept.PagingWrite, ""},               // not present
		{paging, ept.PTE, ept.PagingWrite | ept.Read, ""},
		{fullMode(), ept.PTE, ept.PagingWrite | ept.Execute, ""}, // the control is 0
		{fullMode(), ept.PTE, ept.Read | 1<<46, "address-width"},
		{fullMode(), ept.PML5E, ept.Read | 1<<51, "address-width"},
		{fullMode(), ept.PML5E, ept.Read | 1<<45, ""},
		{fullMode(), ept.PDE, ept.Read | ept.IgnorePAT, "table-reserved"},
		{fullMode(), ept.PDPTE, ept.Read | ept.WB.Entry(), "table-reserved"},
		{fullMode(), ept.PML4E, ept.Read | ept.Large, "large-too-high"},
		{fullMode(), ept.PML5E, ept.Read | ept.Large, "large-too-high"},
		{without(cap1G), ept.PDPTE, ept.Read | ept.Large, "large-unsupported"},
		{without(cap1G), ept.PDE, ept.Read | ept.Large, ""},
		{without(cap2M), ept.PDE, ept.Read | ept.Large, "large-unsupported"},
		{fullMode(), ept.PDE, ept.Read | ept.Large | 1<<12, "large-alignment"},
		{fullMode(), ept.PDE, ept.Read | ept.Large | 1<<21, ""},
		{fullMode(), ept.PDPTE, ept.Read | ept.Large | 1<<29, "large-alignment"},
		{fullMode(), ept.PDPTE, ept.Read | ept.Large | 1<<30, ""},
		{fullMode(), ept.PTE, ept.Read | ept.Large | 1<<12, ""}, // bit 7 is ignored
		{fullMode(), ept.PTE, ept.Read | ept.MemoryType(2).Entry(), "memory-type"},
		{fullMode(), ept.PDE, ept.Read | ept.Large | ept.MemoryType(3).Entry(), "memory-type"},
		{fullMode(), ept.PDPTE, ept.Read | ept.Large | ept.MemoryType(7).Entry(), "memory-type"},
		{fullMode(), ept.PTE, ept.MemoryType(7).Entry() | ept.SuppressVE, ""}, // not present
		{fullMode(), ept.PTE, ^ept.Entry(0) &^ (1<<52 - 1<<46) &^ ept.MemoryType(1).Entry(), ""},
	} {
		got := ""
		if r := c.mode.Misconfiguration(c.entry, c.level); r != nil {
			got = r.ID
		}
		require.Equal(t, c.rule, got, "%v %v", c.level, c.entry)
	}
}

// The rules have distinct names, a section and words; each can be the one that is told of.
func TestRules(t *testing.T) {
	seen := map[string]bool{}
	for _, r := range ept.Rules() {
		require.False(t, seen[r.ID])
		seen[r.ID] = true
		require.Contains(t, r.String(), "29.3")
		require.Contains(t, r.String(), "must")
		require.Contains(t, r.Section, "29.3")
	}
	require.Len(t, seen, 9)
}

func BenchmarkMisconfiguration(b *testing.B) {
	m := fullMode()
	for _, c := range []struct {
		name  string
		entry ept.Entry
		level ept.Level
	}{
		{"PTE", ept.All | ept.WB.Entry() | 0x1000, ept.PTE},
		{"table", ept.All | 0x1000, ept.PDPTE},
		{"bad", ept.Write, ept.PTE},
	} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if (m.Misconfiguration(c.entry, c.level) != nil) != (c.entry == ept.Write) {
					b.Fatal(c.name)
				}
			}
		})
	}
}
