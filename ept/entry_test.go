package ept_test

import (
	"encoding"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/govtx/vtx/ept"
	"github.com/govtx/vtx/internal/require"
	"github.com/govtx/vtx/internal/ring0test"
	"github.com/govtx/vtx/vmcs"
)

// The bits are where SDM Vol. 3C table 29-7 has them, and none is another.
func TestEntryBits(t *testing.T) {
	bits := []struct {
		bit ept.Entry
		n   int
	}{
		{ept.Read, 0}, {ept.Write, 1}, {ept.Execute, 2}, {ept.IgnorePAT, 6}, {ept.Large, 7}, {ept.Accessed, 8},
		{ept.Dirty, 9}, {ept.ExecuteUser, 10}, {ept.Software11, 11}, {ept.VerifyGuestPaging, 57}, {ept.PagingWrite, 58},
		{ept.Software59, 59}, {ept.SupervisorShadowStack, 60}, {ept.SubPageWrite, 61}, {ept.Software62, 62}, {ept.SuppressVE, 63},
	}
	for _, b := range bits {
		require.Equal(t, uint64(1)<<b.n, uint64(b.bit), "bit %d", b.n)
	}
	require.Equal(t, ept.Entry(7), ept.All)
	require.Equal(t, ept.Entry(3), ept.ReadWrite)
	require.Equal(t, ept.Entry(5), ept.ReadExecute)
	require.Equal(t, ept.Entry(0x30), ept.WB.Entry())
	require.Equal(t, ept.Entry(0x38), ept.MemoryType(0xff).Entry())
}

func TestEntryAddress(t *testing.T) {
	const e = ept.Entry(0xfff0_1234_5678_9fff)
	for _, c := range []struct {
		level   ept.Level
		entry   ept.Entry
		address uint64
		leaf    bool
	}{
		{ept.PTE, e, 0x0000_1234_5678_9000, true},
		{ept.PTE, e &^ ept.Large, 0x0000_1234_5678_9000, true},
		{ept.PDE, e, 0x0000_1234_5660_0000, true},
		{ept.PDPTE, e, 0x0000_1234_4000_0000, true},
		{ept.PDE, e &^ ept.Large, 0x0000_1234_5678_9000, false},
		{ept.PDPTE, e &^ ept.Large, 0x0000_1234_5678_9000, false},
		{ept.PML4E, e, 0x0000_1234_5678_9000, false},
		{ept.PML5E, e, 0x0000_1234_5678_9000, false},
	} {
		require.Equal(t, c.leaf, c.entry.Leaf(c.level), "%v", c.level)
		require.Equal(t, c.address, c.entry.Address(c.level), "%v", c.level)
		require.Equal(t, ept.UCMinus, c.entry.MemoryType())
	}
}

func TestEntryText(t *testing.T) {
	for _, c := range []struct {
		entry ept.Entry
		text  string
	}{
		{0, "--- UC 0x0"},
		{0x2000b7 | ept.Accessed, "RWX WB 0x200000 large accessed"},
		{ept.ReadExecute | ept.ExecuteUser | ept.WT.Entry(), "R-XU WT 0x0"},
		{ept.Write | ept.MemoryType(2).Entry(), "-W- MemoryType(2) 0x0"},
		{^ept.Entry(0), "RWXU UC- 0xffffffffff000 ignore-PAT large accessed dirty software-11 verify-guest-paging paging-write " +
			"software-59 supervisor-shadow-stack sub-page-write software-62 suppress-VE software-56:52=0x1f"},
	} {
		require.Equal(t, c.text, c.entry.String())
		got, err := ept.ParseEntry(c.text)
		require.NoError(t, err)
		require.Equal(t, c.entry, got)
	}
	for text, want := range map[string]ept.Entry{
		"0x1000":                           0x1000,
		"4096":                             0x1000,
		"rwx":                              ept.All,
		"0x1000 rwx":                       0x1000 | ept.All,
		"large RW- suppressve Ignore_PAT":  ept.ReadWrite | ept.Large | ept.SuppressVE | ept.IgnorePAT,
		"wb r--u":                          ept.Read | ept.ExecuteUser | ept.WB.Entry(),
		"uc software-56:52=3":              3 << 52,
		" \t0xfffffffffffff000\n":          0xffff_ffff_ffff_f000,
		"verify-guest-paging pagingwrite ": ept.VerifyGuestPaging | ept.PagingWrite,
	} {
		got, err := ept.ParseEntry(text)
		require.NoError(t, err, text)
		require.Equal(t, want, got, text)
	}
	for _, text := range []string{
		"", "RWX RWX", "WB WT", "0x1000 0x2000", "RWX 0x1001", "RWX 0x10000000000000", "RWX 12q", "RXW", "MemoryType(8) RWX",
		"RWX software-56:52=0x20", "RWX software-56:52=1 software-56:52=1", "RWX software-56:52=", "RWXX", "0x10000000000000000",
	} {
		_, err := ept.ParseEntry(text)
		require.ErrorContains(t, err, "is no EPT entry", text)
	}
}

// A text is a value with text forms.
type text interface {
	encoding.TextMarshaler
	String() string
}

// roundTrip marshals a value and reads it back into got.
func roundTrip(t require.T, v text, got encoding.TextUnmarshaler) {
	t.Helper()
	b, err := v.MarshalText()
	require.NoError(t, err)
	require.Equal(t, v.String(), string(b))
	require.NoError(t, got.UnmarshalText(b), v.String())
}

// textForms: text forms read back as the same value, and parsers refuse or accept any
// text without a panic.
func textForms(t *rapid.T) {
	n := rapid.Uint64().Draw(t, "value")
	var e ept.Entry
	roundTrip(t, ept.Entry(n), &e)
	require.Equal(t, ept.Entry(n), e)
	var p ept.Pointer
	roundTrip(t, ept.Pointer(n), &p)
	require.Equal(t, ept.Pointer(n), p)
	var mt ept.MemoryType
	roundTrip(t, ept.MemoryType(n), &mt)
	require.Equal(t, ept.MemoryType(n), mt)
	var v ept.SubPageVector
	roundTrip(t, ept.SubPageVector(n), &v)
	require.Equal(t, ept.SubPageVector(n), v)
	valid := ept.SubPages(uint32(n))
	roundTrip(t, valid, &v)
	require.Equal(t, valid, v)

	s := rapid.OneOf(rapid.String(), rapid.SampledFrom([]string{"RWX WB", "0x", "0x1000 WB 4 levels,", "MAXPHYADDR 39\n", "0-", "RWX software-56:52=", "SubPageVector("})).Draw(t, "text")
	s += rapid.String().Draw(t, "more")
	for _, u := range []interface {
		encoding.TextUnmarshaler
	}{&e, &p, &mt, &v, new(ept.Level), new(ept.Invalidation), new(ept.MTRRs)} {
		if err := u.UnmarshalText([]byte(s)); err != nil {
			require.Contains(t, err.Error(), "ept: ")
		}
	}
}

func TestTextForms(t *testing.T) { ring0test.CheckOnHost(t, textForms) }
func FuzzTextForms(f *testing.F) { f.Fuzz(rapid.MakeFuzz(textForms)) }

// fields: the parts of any entry cover each bit once, and have its value.
func fields(t *rapid.T) {
	e := ept.Entry(rapid.Uint64().Draw(t, "entry"))
	if rapid.Bool().Draw(t, "few rights") {
		e &^= ept.All
	}
	m := drawMode(t)
	l := ept.Level(rapid.IntRange(1, 5).Draw(t, "level"))
	var seen, value, reserved, ignored uint64
	for _, f := range e.Fields(m, l) {
		mask := bitsOf(t, colon(f.Bits), 0)
		low := mask & -mask
		require.Zero(t, seen&mask, "%v: bits %s twice", l, f.Bits)
		seen |= mask
		value |= f.Value * low
		require.LessOrEqual(t, f.Value, mask/low)
		require.NotEmpty(t, f.Name)
		require.NotEmpty(t, f.Meaning)
		if f.Meaning == "ignored" {
			ignored |= mask
		}
		if f.Name == "reserved" {
			reserved |= mask
			require.Equal(t, f.Value != 0, strings.Contains(f.Meaning, "must be 0"))
		}
	}
	require.Equal(t, ^uint64(0), seen)
	if e.Present(m) || m.ModeBasedExecute {
		require.Equal(t, uint64(e), value)
	}
	if e.Present(m) {
		require.Equal(t, m.Reserved(l, e&ept.Large != 0), reserved, "%v: %v", l, e)
		require.Equal(t, ignoredBits(t, m, e, l), ignored, "%v: %v", l, e)
	}
	s := e.Describe(m, l)
	require.Contains(t, s, l.String()+": ")
	require.Equal(t, m.Misconfiguration(e, l) != nil, strings.Contains(s, "misconfigured"))
	require.Equal(t, !e.Present(m), strings.Contains(s, "not present"))
}

// ignoredBits are the bits that SDM Vol. 3C tables 29-1 to 29-7 call ignored.
func ignoredBits(t require.T, m *ept.Mode, e ept.Entry, l ept.Level) uint64 {
	words := "11:11 "
	unless := func(used bool, bits string) {
		if !used {
			words += bits + " "
		}
	}
	unless(m.AccessedDirty, "8:8")
	unless(m.ModeBasedExecute, "10:10")
	if !e.Leaf(l) {
		return bitsOf(t, words+"9:9 63:52", 0)
	}
	unless(m.AccessedDirty, "9:9")
	unless(l != ept.PTE, "7:7")
	unless(m.VerifyGuestPaging, "57:57")
	unless(m.PagingWrite, "58:58")
	unless(m.SupervisorShadowStack, "60:60")
	unless(m.SubPageWrite && l == ept.PTE, "61:61")
	unless(m.ViolationVE, "63:63")
	return bitsOf(t, words+"56:52 59:59 62:62", 0)
}

// colon makes a range of a single bit.
func colon(bits string) string {
	if !strings.Contains(bits, ":") {
		return bits + ":" + bits
	}
	return bits
}

func drawMode(t *rapid.T) *ept.Mode {
	b := func(name string) bool { return rapid.Bool().Draw(t, name) }
	return &ept.Mode{
		Capabilities: vmcs.EPTVPID(rapid.Uint64().Draw(t, "capabilities")) | cap2M | cap1G, PhysicalAddressBits: rapid.Uint8Range(32, 52).Draw(t, "width"),
		AccessedDirty: b("AD"), SupervisorShadowStack: b("SSS"), ModeBasedExecute: b("MBEC"), SubPageWrite: b("SPP"),
		ViolationVE: b("VE"), PagingWrite: b("PW"), VerifyGuestPaging: b("GPV"),
	}
}

func TestFields(t *testing.T) { ring0test.CheckOnHost(t, fields) }
func FuzzFields(f *testing.F) { f.Fuzz(rapid.MakeFuzz(fields)) }

func TestDescribe(t *testing.T) {
	m := fullMode()
	m.AccessedDirty, m.ViolationVE = true, true
	for _, c := range []struct {
		level ept.Level
		entry ept.Entry
		want  string
	}{
		{ept.PDE, 0x2000b7 | ept.Accessed, "EPT PDE: maps 2 MiB at 0x200000, RWX, WB, accessed"},
		{ept.PTE, 0x1001 | ept.Dirty | ept.IgnorePAT | ept.SuppressVE, "EPT PTE: maps 4 KiB at 0x1000, R--, UC, PAT ignored, dirty, EPT violations exit"},
		{ept.PDPTE, 0x4000_0000 | 0x80 | ept.ReadExecute | ept.ExecuteUser, "EPT PDPTE: maps 1 GiB at 0x40000000, R-X, UC"},
		{ept.PML4E, 0x5007 | ept.Accessed, "EPT PML4E: references the table of EPT PDPTEs at 0x5000, RWX, accessed"},
		{ept.PML5E, 0, "EPT PML5E: not present, EPT violations become #VE"},
		{ept.PTE, ept.SuppressVE, "EPT PTE: not present, EPT violations exit"},
		{ept.PTE, ept.Write, "EPT PTE: misconfigured: an entry that allows writes (bit 1) must allow reads (bit 0) (SDM Vol. 3C 29.3.3.1)"},
	} {
		require.Equal(t, c.want, c.entry.Describe(m, c.level))
	}
}

func TestLevels(t *testing.T) {
	for l, want := range map[ept.Level]struct {
		name  string
		size  uint64
		shift uint
		index int // of 0x1234_5678_9abc_d000
	}{
		ept.PTE:   {"EPT PTE", 4 << 10, 12, 0x1cd},
		ept.PDE:   {"EPT PDE", 2 << 20, 21, 0x0d5},
		ept.PDPTE: {"EPT PDPTE", 1 << 30, 30, 0x1e2},
		ept.PML4E: {"EPT PML4E", 512 << 30, 39, 0xac},
		ept.PML5E: {"EPT PML5E", 256 << 40, 48, 0x34},
	} {
		require.Equal(t, want.name, l.String())
		require.Equal(t, want.size, l.PageSize())
		require.Equal(t, want.shift, l.Shift())
		require.Equal(t, want.index, l.Index(0x1234_5678_9abc_d000))
		var got ept.Level
		roundTrip(t, l, &got)
		require.Equal(t, l, got)
		for _, s := range []string{strings.ToLower(want.name), strings.TrimPrefix(want.name, "EPT "), string('0' + rune(l))} {
			got, err := ept.ParseLevel(s)
			require.NoError(t, err)
			require.Equal(t, l, got)
		}
	}
	for _, l := range []ept.Level{0, 6, 255} {
		require.False(t, l.Valid())
		require.Contains(t, l.String(), "Level(")
		_, err := l.MarshalText()
		require.ErrorContains(t, err, "1 to 5")
	}
	for _, s := range []string{"", "0", "6", "PML6E", "EPT"} {
		_, err := ept.ParseLevel(s)
		require.ErrorContains(t, err, "1 to 5")
	}
}
