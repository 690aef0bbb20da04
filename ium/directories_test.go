package ium_test

import (
	"debug/pe"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/govtx/vtx/ium"
)

// exportsOf walks the exports up to the first error.
func exportsOf(i *ium.Image) (all []ium.Export, err error) {
	for e, err := range i.Exports() {
		if err != nil {
			return all, err
		}
		all = append(all, e)
	}
	return all, nil
}

// What is built is found, by a walk and by name, and nothing else is.
func exportsProperty(t *rapid.T) {
	names := rapid.SliceOfNDistinct(rapid.StringMatching(`[A-Za-z_?@$]{1,70}`), 0, 40, rapid.ID).Draw(t, "names")
	var want []ium.Export
	for n, name := range names {
		want = append(want, ium.Export{Name: name, RVA: uint32(0x1000 + n)})
	}
	i := open(t, build(t, ium.ImageSpec{Sections: []ium.SectionSpec{{Name: ".data", VirtualSize: 100}}, Exports: want}))
	got, err := exportsOf(i)
	require.NoError(t, err)
	slices.SortFunc(want, func(a, b ium.Export) int { return strings.Compare(a.Name, b.Name) })
	for n := range want {
		want[n].Ordinal = uint32(n + 1)
	}
	require.Equal(t, want, got)
	for _, e := range want {
		rva, ok, err := i.Export(e.Name)
		require.NoError(t, err)
		require.True(t, ok)
		require.Equal(t, e.RVA, rva)
	}
	other := rapid.StringMatching(`[A-Za-z_?@$]{0,70}`).Draw(t, "other")
	_, ok, err := i.Export(other)
	require.NoError(t, err)
	require.Equal(t, slices.Contains(names, other), ok)
}

func TestExports(t *testing.T) { rapid.Check(t, exportsProperty) }
func FuzzExports(f *testing.F) { f.Fuzz(rapid.MakeFuzz(exportsProperty)) }

func TestBadExports(t *testing.T) {
	exports := []ium.Export{{Name: "a", RVA: 0x1000}, {Name: "b", RVA: 0x1001}, {Name: "c", RVA: 0x1002}}
	b := build(t, ium.ImageSpec{Sections: []ium.SectionSpec{{Name: ".data", VirtualSize: 100}}, Exports: exports})
	h := headersOf(b)
	table := int(binary.LittleEndian.Uint32(b[h.sections+40+20:]))
	const names, ordinals = 40 + 12, 40 + 24
	for _, c := range []struct {
		name   string
		bytes  []byte
		rule   ium.Rule
		offset int
		before int // exports in front of the error
	}{
		{"too many names", put(b, table+24, uint32(ium.MaxExports+1)), ium.RuleExports, table, 0},
		{"too many addresses", put(b, table+20, ^uint32(0)), ium.RuleExports, table, 0},
		{"names outside the section", put(b, table+24, uint32(1000)), ium.RuleExports, table, 0},
		{"addresses in zeros", put(put(b, table+28, uint32(0x1000)), table+20, uint32(10)), ium.RuleExports, table, 0},
		{"ordinals nowhere", put(b, table+36, uint32(0x9000)), ium.RuleExports, table, 0},
		{"an ordinal too large", put(b, table+ordinals+2, uint16(3)), ium.RuleExports, table, 1},
		{"a name nowhere", put(b, table+names+8, uint32(0x9000)), ium.RuleRVA, -1, 2},
		{"a name without an end", put(put(b, h.sections+40+8, uint32(40+30+6+5)), table+names+8, uint32(0x2000+40+30+6+4)), ium.RuleString, table + 40 + 30 + 6 + 4, 2},
		{"the table nowhere", put(b, h.directories, uint32(0x8000)), ium.RuleRVA, -1, 0},
		{"the table cut", put(b, h.directories, uint32(0x2000+40+30+6+6-39)), ium.RuleRVA, table + 40 + 30 + 6 + 6 - 39, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			i := open(t, c.bytes)
			got, err := exportsOf(i)
			formatError(t, err, c.rule, int64(c.offset))
			require.Len(t, got, c.before)
			require.Equal(t, ium.Absent, must(i.Policy()).Grade)
		})
	}
	_, ok, err := open(t, build(t, ium.ImageSpec{})).Export("a")
	require.NoError(t, err)
	require.False(t, ok)
	_, _, err = open(t, put(b, table+names+4, uint32(0x9000))).Export("b")
	formatError(t, err, ium.RuleRVA, -1)
	_, _, err = open(t, put(b, table+ordinals+2, uint16(3))).Export("b")
	formatError(t, err, ium.RuleExports, int64(table))
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// Forwarders, ordinals without a name, and gaps.
func TestExportsWithoutNames(t *testing.T) {
	exports := []ium.Export{{Name: "a", RVA: 0x1000}, {Name: "b", RVA: 0x1001}, {Name: "c", RVA: 0x1002}, {Name: "d", RVA: 0x1003}}
	b := build(t, ium.ImageSpec{Sections: []ium.SectionSpec{{Name: ".data", VirtualSize: 100}}, Exports: exports})
	h := headersOf(b)
	table := int(binary.LittleEndian.Uint32(b[h.sections+40+20:]))
	b = put(b, table+16, uint32(100))       // ordinals from 100
	b = put(b, table+24, uint32(2))         // two names
	b = put(b, table+40, uint32(0x2000+80)) // a is forwarded to "image"
	b = put(b, table+40+8, uint32(0))       // 102 is a gap
	got, err := exportsOf(open(t, b))
	require.NoError(t, err)
	require.Equal(t, []ium.Export{
		{Name: "a", Ordinal: 100, Forwarder: "image"},
		{Name: "b", Ordinal: 101, RVA: 0x1001},
		{Ordinal: 103, RVA: 0x1003},
	}, got)
	// A walk can be left, also among what has no name.
	left := 0
	for e := range open(t, b).Exports() {
		if left++; e.Name == "" {
			break
		}
	}
	require.Equal(t, 3, left)
	// A name can be where there are only zeros.
	rva, ok, err := open(t, put(b, table+40+16, uint32(0x1000))).Export("")
	require.NoError(t, err)
	require.True(t, ok)
	require.Zero(t, rva)
	_, ok, err = open(t, b).Export(strings.Repeat("a", 5000))
	require.NoError(t, err)
	require.False(t, ok)
	for e := range open(t, b).Exports() {
		require.Equal(t, "a", e.Name)
		break
	}
}

// Names that overlap must not make much of a small file.
func TestExportsOverlap(t *testing.T) {
	var exports []ium.Export
	for n := range 2000 {
		exports = append(exports, ium.Export{Name: fmt.Sprintf("%05d", n) + strings.Repeat("x", 10), RVA: 0x1000})
	}
	b := build(t, ium.ImageSpec{Sections: []ium.SectionSpec{{Name: ".text", Data: []byte(strings.Repeat("y", 3000) + "\x00")}}, Exports: exports})
	h := headersOf(b)
	table := int(binary.LittleEndian.Uint32(b[h.sections+40+20:]))
	for n := range exports {
		binary.LittleEndian.PutUint32(b[table+40+8000+4*n:], 0x1000)
	}
	got, err := exportsOf(open(t, b))
	formatError(t, err, ium.RuleExports, int64(table))
	require.Less(t, len(got), len(b)/3000+1)
	rva, ok, err := open(t, b).Export(strings.Repeat("y", 3000))
	require.NoError(t, err)
	require.True(t, ok)
	require.EqualValues(t, 0x1000, rva)
}

// What is built is found again.
func relocationsProperty(t *rapid.T) {
	machine := rapid.SampledFrom([]ium.Machine{ium.MachineAMD64, ium.MachineI386}).Draw(t, "machine")
	pointers := rapid.SliceOfNDistinct(rapid.Uint32Range(0x1000, 0x6fff), 0, 300, rapid.ID).Draw(t, "pointers")
	i := open(t, build(t, ium.ImageSpec{Machine: machine, Sections: []ium.SectionSpec{{Name: ".data", VirtualSize: 0x6000}}, Pointers: slices.Clone(pointers)}))
	kind := ium.RelocationDir64
	if machine == ium.MachineI386 {
		kind = ium.RelocationHighLow
	}
	slices.Sort(pointers)
	var want, got []ium.Relocation
	for _, p := range pointers {
		want = append(want, ium.Relocation{RVA: p, Type: kind})
	}
	for r, err := range i.Relocations() {
		require.NoError(t, err)
		got = append(got, r)
	}
	require.Equal(t, want, got)
}

func TestRelocations(t *testing.T) { rapid.Check(t, relocationsProperty) }
func FuzzRelocations(f *testing.F) { f.Fuzz(rapid.MakeFuzz(relocationsProperty)) }

func TestRelocationBlocks(t *testing.T) {
	block := func(page, size uint32, entries ...uint16) []byte {
		b := binary.LittleEndian.AppendUint32(nil, page)
		b = binary.LittleEndian.AppendUint32(b, size)
		for _, e := range entries {
			b = binary.LittleEndian.AppendUint16(b, e)
		}
		return b
	}
	large := block(0x5000, 8+2*3000, slices.Repeat([]uint16{0xa001}, 3000)...)
	for _, c := range []struct {
		name  string
		table []byte
		size  uint32 // of the directory; 0: of the table
		want  []ium.Relocation
		bad   int // offset of the error in the table; -1: none
	}{
		{"padding", block(0x1000, 12, 0xa123, 0), 0, []ium.Relocation{{RVA: 0x1123, Type: 10}}, -1},
		{"adjusted", block(0x1000, 16, 0x4123, 0xa234, 0x3456, 0), 0, []ium.Relocation{{RVA: 0x1123, Type: 4}, {RVA: 0x1456, Type: 3}}, -1},
		{"adjustment missing", block(0x1000, 10, 0x4123), 0, []ium.Relocation{{RVA: 0x1123, Type: 4}}, -1},
		{"empty block", slices.Concat(block(0x1000, 8), block(0x2000, 10, 0xa001)), 0, []ium.Relocation{{RVA: 0x2001, Type: 10}}, -1},
		{"zeros behind", slices.Concat(block(0x1000, 10, 0xa001), make([]byte, 100)), 0, []ium.Relocation{{RVA: 0x1001, Type: 10}}, -1},
		{"a few bytes behind", slices.Concat(block(0x1000, 10, 0xa001), []byte{1, 2, 3, 4}), 0, []ium.Relocation{{RVA: 0x1001, Type: 10}}, -1},
		{"a block longer than the window", slices.Concat(large, block(0x2000, 10, 0xa002)), 0, append(slices.Repeat([]ium.Relocation{{RVA: 0x5001, Type: 10}}, 3000), ium.Relocation{RVA: 0x2002, Type: 10}), -1},
		{"no size", slices.Concat(block(0x1000, 10, 0xa001), block(0x2000, 0)), 0, []ium.Relocation{{RVA: 0x1001, Type: 10}}, 10},
		{"size of 7", block(0x1000, 7), 0, nil, 0},
		{"odd", block(0x1000, 9, 0xa001), 0, nil, 0},
		{"longer than the table", block(0x1000, 12, 0xa001), 0, nil, 0},
		{"larger than a page needs", slices.Concat(block(0x1000, 8+4*4096+2), make([]byte, 1<<15)), 0, nil, 0},
		{"4 GB", block(0x1000, 0xfffffffe, 0), 0, nil, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			size := uint32(len(c.table))
			b := build(t, ium.ImageSpec{
				Sections:    []ium.SectionSpec{{Name: ".reloc", Data: c.table}},
				Directories: map[int]pe.DataDirectory{5: {VirtualAddress: 0x1000, Size: size}},
			})
			i := open(t, b)
			var got []ium.Relocation
			var err error
			for r, e := range i.Relocations() {
				if err = e; err == nil {
					got = append(got, r)
				}
			}
			require.Equal(t, c.want, got)
			if c.bad < 0 {
				require.NoError(t, err)
				return
			}
			at, _ := i.OffsetOf(0x1000)
			formatError(t, err, ium.RuleRelocations, at+int64(c.bad))
		})
	}
	i := open(t, build(t, ium.ImageSpec{
		Sections:    []ium.SectionSpec{{Name: ".reloc", Data: large}},
		Directories: map[int]pe.DataDirectory{5: {VirtualAddress: 0x1000, Size: uint32(len(large)) + 1}},
	}))
	for _, err := range i.Relocations() {
		formatError(t, err, ium.RuleRelocations, i.DirectoryOffset(5))
	}
	n := 0
	for range open(t, build(t, ium.ImageSpec{Pointers: []uint32{1, 2, 3}})).Relocations() {
		n++
		break
	}
	require.Equal(t, 1, n)
}

func TestLoadConfig(t *testing.T) {
	for _, c := range []struct {
		name          string
		machine       ium.Machine
		size          uint32 // that the structure says
		length        int    // of the section
		cookie, flags bool
		enclave       bool
		fails         bool
	}{
		{"whole", ium.MachineAMD64, 256, 256, true, true, true, false},
		{"whole, 32 bits", ium.MachineI386, 160, 160, true, true, true, false},
		{"newer", ium.MachineAMD64, 320, 320, true, true, true, false},
		{"without enclaves", ium.MachineAMD64, 255, 256, true, true, false, false},
		{"without enclaves, 32 bits", ium.MachineI386, 159, 160, true, true, false, false},
		{"without guard", ium.MachineAMD64, 147, 147, true, false, false, false},
		{"of old", ium.MachineI386, 64, 160, true, false, false, false},
		{"the size of the directory", ium.MachineI386, 0, 160, true, false, false, false},
		{"tiny", ium.MachineAMD64, 4, 4, false, false, false, false},
		{"none", ium.MachineAMD64, 3, 256, false, false, false, true},
		{"longer than the section", ium.MachineAMD64, 257, 256, false, false, false, true},
		{"4 GB", ium.MachineAMD64, 0xffffffff, 256, false, false, false, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			data := make([]byte, 320)
			is64 := c.machine == ium.MachineAMD64
			if is64 {
				binary.LittleEndian.PutUint64(data[88:], 0x1122334455667788)
				binary.LittleEndian.PutUint32(data[144:], 0x500)
				binary.LittleEndian.PutUint64(data[248:], 0x140001234)
			} else {
				binary.LittleEndian.PutUint32(data[60:], 0x55667788)
				binary.LittleEndian.PutUint32(data[88:], 0x500)
				binary.LittleEndian.PutUint32(data[156:], 0x40001234)
			}
			binary.LittleEndian.PutUint32(data, c.size)
			i := open(t, build(t, ium.ImageSpec{
				Machine:     c.machine,
				Sections:    []ium.SectionSpec{{Name: ".rdata", Data: data[:c.length]}},
				Directories: map[int]pe.DataDirectory{10: {VirtualAddress: 0x1000, Size: 64}},
			}))
			config, err := i.LoadConfig()
			if c.fails {
				at, _ := i.OffsetOf(0x1000)
				formatError(t, err, ium.RuleLoadConfig, at)
				return
			}
			require.NoError(t, err)
			require.EqualValues(t, 0x1000, config.RVA)
			require.Equal(t, c.cookie, config.SecurityCookie != 0)
			require.Equal(t, c.flags, config.GuardFlags == 0x500)
			require.Equal(t, c.enclave, config.EnclaveConfigurationPointer&0xffff == 0x1234)
			require.Equal(t, c.enclave, i.Kind == ium.KindEnclave)
		})
	}
	config, err := open(t, build(t, ium.ImageSpec{})).LoadConfig()
	require.NoError(t, err)
	require.Nil(t, config)
	_, err = open(t, build(t, ium.ImageSpec{Directories: map[int]pe.DataDirectory{10: {VirtualAddress: 0x1000, Size: 64}}})).LoadConfig()
	formatError(t, err, ium.RuleRVA, -1)
}

func TestCertificates(t *testing.T) {
	want := []ium.Certificate{
		{Revision: 0x200, Type: 2, Data: []byte("one")},
		{Revision: 0x100, Type: 1, Data: []byte{}},
		{Revision: 0x200, Type: 2, Data: []byte("12345678")},
	}
	b := build(t, ium.ImageSpec{Certificates: want})
	i := open(t, b)
	got, err := i.Certificates()
	require.NoError(t, err)
	require.Len(t, got, 3)
	for n, c := range got {
		require.Equal(t, want[n].Data, c.Data)
		require.Equal(t, want[n].Type, c.Type)
		require.Equal(t, want[n].Revision, c.Revision)
		require.EqualValues(t, 8+len(c.Data), c.Length)
	}
	h := headersOf(b)
	entry := h.directories + 4*8
	start := int(got[0].Offset)
	for _, c := range []struct {
		name   string
		bytes  []byte
		offset int
		before int
	}{
		{"at 0", put(b, entry, uint32(0)), entry, 0},
		{"not aligned", put(b, entry, uint32(start+4)), entry, 0},
		{"behind the end", put(b, entry, uint32(len(b))), entry, 0},
		{"longer than the file", put(b, entry+4, uint32(len(b)-start+1)), entry, 0},
		{"4 GB", put(b, entry+4, ^uint32(0)), entry, 0},
		{"length 0", put(b, start, uint32(0)), start, 0},
		{"length 7", put(b, start+16, uint32(7)), start + 16, 1},
		{"longer than the table", put(b, start+24, uint32(17)), start + 24, 2},
		{"absurd length", put(b, start+24, ^uint32(0)), start + 24, 2},
		{"cut", b[:len(b)-1], entry, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := open(t, c.bytes).Certificates()
			formatError(t, err, ium.RuleCertificateTable, int64(c.offset))
			require.Len(t, got, c.before)
		})
	}
	padded := put(append(slices.Clone(b), make([]byte, 16)...), entry+4, uint32(len(b)-start+16))
	got, err = open(t, padded).Certificates()
	require.NoError(t, err)
	require.Len(t, got, 3)

	many := build(t, ium.ImageSpec{Certificates: make([]ium.Certificate, ium.MaxCertificates+1)})
	got, err = open(t, many).Certificates()
	formatError(t, err, ium.RuleCertificateTable, int64(len(many)-8))
	require.Len(t, got, ium.MaxCertificates)

	large := build(t, ium.ImageSpec{Certificates: []ium.Certificate{{Data: make([]byte, ium.MaxCertificateTableSize)}}})
	_, err = open(t, large).Certificates()
	formatError(t, err, ium.RuleCertificateTable, int64(headersOf(large).directories+4*8+4))

	got, err = open(t, build(t, ium.ImageSpec{})).Certificates()
	require.NoError(t, err)
	require.Empty(t, got)
}
