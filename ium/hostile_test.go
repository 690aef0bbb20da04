package ium_test

import (
	"bytes"
	"debug/pe"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/govtx/vtx/ium"
)

// text returns strings that can be in a policy.
func textOf(kind ium.EntryType) *rapid.Generator[string] {
	if kind == ium.EntryAnsiString {
		return rapid.Custom(func(t *rapid.T) string {
			return string(rapid.SliceOfN(rapid.ByteRange(1, 255), 0, 60).Draw(t, "bytes"))
		})
	}
	return rapid.Map(rapid.StringN(0, 60, -1), func(s string) string { return strings.ReplaceAll(s, "\x00", "0") })
}

// valueOf returns numbers that fit a type.
func valueOf(kind ium.EntryType) *rapid.Generator[uint64] {
	unsigned := func(max uint64) *rapid.Generator[uint64] { return rapid.Uint64Range(0, max) }
	signed := func(max int64) *rapid.Generator[uint64] {
		return rapid.Map(rapid.Int64Range(-max-1, max), func(v int64) uint64 { return uint64(v) })
	}
	switch kind {
	case ium.EntryBool, ium.EntryUInt8:
		return unsigned(1<<8 - 1)
	case ium.EntryInt8:
		return signed(1<<7 - 1)
	case ium.EntryInt16:
		return signed(1<<15 - 1)
	case ium.EntryUInt16:
		return unsigned(1<<16 - 1)
	case ium.EntryInt32:
		return signed(1<<31 - 1)
	case ium.EntryUInt32:
		return unsigned(1<<32 - 1)
	}
	return rapid.Uint64()
}

// anyEntry returns any entry that can be encoded.
func anyEntry() *rapid.Generator[ium.Entry] {
	return rapid.Custom(func(t *rapid.T) ium.Entry {
		e := ium.Entry{
			Type: ium.EntryType(rapid.OneOf(rapid.Uint32Range(1, 14), rapid.Uint32Range(1, 1<<32-1)).Draw(t, "type")),
			ID:   ium.PolicyID(rapid.OneOf(rapid.Uint32Range(0, 15), rapid.Uint32()).Draw(t, "id")),
		}
		if e.Type == ium.EntryAnsiString || e.Type == ium.EntryUnicodeString {
			e.Text = textOf(e.Type).Draw(t, "text")
		} else {
			e.Value = valueOf(e.Type).Draw(t, "value")
		}
		return e
	})
}

// soundPolicy returns policies that break no rule.
func soundPolicy() *rapid.Generator[*ium.Policy] {
	return rapid.Custom(func(t *rapid.T) *ium.Policy {
		p := &ium.Policy{Version: ium.PolicyVersion, ID: rapid.Uint64Range(1, 1<<64-1).Draw(t, "trustlet id")}
		parent := false
		for info := range ium.PolicyIDs() {
			there := rapid.Bool().Draw(t, info.Name)
			switch info.ID {
			case ium.PolicyParentSD:
				parent = there
			case ium.PolicyParentSDRevision:
				there = parent
			}
			if len(info.Types) == 0 || !there {
				continue
			}
			e := ium.Entry{Type: rapid.SampledFrom(info.Types).Draw(t, "type"), ID: info.ID}
			switch {
			case info.ID == ium.PolicyScenarioID || info.ID == ium.PolicyCrashDumpKeyGUID:
				e.Text = ium.GUID(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "guid")).String()
			case info.ID == ium.PolicyCrashDumpKey:
				e.Text = rapid.StringMatching("[0-9a-fA-F]{0,100}").Draw(t, "key")
			case e.Type == ium.EntryAnsiString || e.Type == ium.EntryUnicodeString:
				e.Text = rapid.StringMatching("[ -~]{0,60}").Draw(t, "text")
			case info.ID == ium.PolicyDebug:
				e.Value = rapid.Uint64Range(0, 3).Draw(t, "debug")
			case info.ID == ium.PolicyCapability || info.ID == ium.PolicyCapabilityOverridable:
				e.Value = rapid.Uint64Range(0, ium.MaxCapability).Draw(t, "capability")
			case e.Type == ium.EntryBool:
				e.Value = rapid.Uint64Range(0, 1).Draw(t, "bool")
			default:
				e.Value = valueOf(e.Type).Draw(t, "value")
			}
			p.Entries = append(p.Entries, e)
		}
		return p
	})
}

// anySpec draws what is round a policy.
func anySpec(t *rapid.T, p *ium.Policy) ium.ImageSpec {
	s := ium.ImageSpec{
		Machine:       rapid.SampledFrom([]ium.Machine{ium.MachineAMD64, ium.MachineARM64, ium.MachineI386}).Draw(t, "machine"),
		Policy:        p,
		PolicyExports: rapid.SampledFrom([][]string{nil, {ium.OldPolicyExport}, {ium.PolicyExport, ium.OldPolicyExport}}).Draw(t, "exports"),
	}
	for n := range rapid.IntRange(0, 3).Draw(t, "sections") {
		s.Sections = append(s.Sections, ium.SectionSpec{Name: fmt.Sprintf(".s%d", n), Data: make([]byte, rapid.IntRange(0, 5000).Draw(t, "size"))})
	}
	if s.Machine != ium.MachineI386 {
		s.ImageBase = rapid.Uint64Range(1, 1<<47).Draw(t, "base") &^ 0xffff
	}
	return s
}

// A policy that is built is read as it was, whatever it says; and a sound one is valid.
func inverse(t *rapid.T) {
	sound := rapid.Bool().Draw(t, "sound")
	var p *ium.Policy
	if sound {
		p = soundPolicy().Draw(t, "policy")
	} else {
		p = &ium.Policy{
			Version: rapid.Byte().Draw(t, "version"), ID: rapid.Uint64().Draw(t, "trustlet id"),
			Entries: rapid.SliceOfN(anyEntry(), 0, 60).Draw(t, "entries"),
		}
	}
	if len(p.Entries) == 0 {
		p.Entries = nil
	}
	b := build(t, anySpec(t, p))
	i := open(t, b)
	require.Empty(t, i.Problems)
	f, err := i.Policy()
	require.NoError(t, err)
	require.Equal(t, plain(p), plain(f.Policy))
	if sound {
		require.Equal(t, ium.Valid, f.Grade, "%v", f.Reasons)
		for _, r := range f.Reasons {
			require.Equal(t, ium.RulePolicyMachine, r.Rule)
		}
	}
	spoiled := slices.ContainsFunc(f.Reasons, func(r ium.Reason) bool { return !r.Note })
	if len(f.Reasons) < 64 {
		require.Equal(t, spoiled, f.Grade != ium.Valid, "%v", f.Reasons)
	}
	// What is read can be built again, to the byte.
	again := *f.Policy
	e, err := again.Encode(i.ImageBase()+uint64(f.Location.RVA), i.Is64)
	require.NoError(t, err)
	require.Equal(t, b[f.Location.Offset:f.Location.Offset+int64(len(e.Data))], e.Data)
}

func TestInverse(t *testing.T) { rapid.Check(t, inverse) }
func FuzzInverse(f *testing.F) { f.Fuzz(rapid.MakeFuzz(inverse)) }

// guardedReader sees to it that nothing is read outside the file.
type guardedReader struct {
	b []byte
}

func (r guardedReader) ReadAt(p []byte, at int64) (int, error) {
	if at < 0 || at+int64(len(p)) > int64(len(r.b)) {
		panic(fmt.Sprintf("%d bytes are read at %#x of %#x", len(p), at, len(r.b)))
	}
	return copy(p, r.b[at:]), nil
}

// explore reads all there is to read of an image. Whatever the bytes are, errors must be
// about them, and must not be without words.
func explore(t testingT, b []byte) {
	t.Helper()
	check := func(err error) {
		var bad *ium.FormatError
		if err != nil && (!errors.As(err, &bad) || bad.Rule == "" || bad.Detail == "" || bad.Offset > int64(len(b)) && bad.Rule != ium.RuleTruncated) {
			t.Errorf("%v", err)
		}
	}
	i, err := ium.Open(guardedReader{b}, int64(len(b)))
	if err != nil {
		check(err)
		return
	}
	for _, p := range i.Problems {
		check(p)
	}
	f, err := i.Policy()
	if err != nil {
		t.Errorf("%v", err)
	}
	if f.Grade != ium.Absent && f.Grade != ium.Valid && len(f.Reasons) == 0 {
		t.Errorf("%v without a reason", f.Grade)
	}
	if f.Grade == ium.Valid && f.Policy == nil {
		t.Errorf("valid without a policy")
	}
	_, err = i.LoadConfig()
	check(err)
	_, err = i.Certificates()
	check(err)
	for _, err := range i.Exports() {
		check(err)
	}
	for _, err := range i.Relocations() {
		check(err)
	}
}

// seeds are images of all kinds.
func seeds(t testing.TB) [][]byte {
	var all [][]byte
	for _, pattern := range []string{"*.exe", "*.dll", "*.sys"} {
		names, err := filepath.Glob(filepath.Join("testdata", pattern))
		require.NoError(t, err)
		for _, name := range names {
			b, err := os.ReadFile(name)
			require.NoError(t, err)
			all = append(all, b)
		}
	}
	require.NotEmpty(t, all)
	config := make([]byte, 256)
	binary.LittleEndian.PutUint32(config, 256)
	binary.LittleEndian.PutUint64(config[248:], 0x140001000)
	for _, machine := range []ium.Machine{ium.MachineAMD64, ium.MachineI386} {
		s := ium.ImageSpec{
			Machine:      machine,
			Sections:     []ium.SectionSpec{{Name: ".rdata", Data: config, VirtualSize: 0x2000}, {Name: ".bss", VirtualSize: 1 << 28}},
			Directories:  map[int]pe.DataDirectory{1: {VirtualAddress: 0x1000, Size: 20}, 10: {VirtualAddress: 0x1000, Size: 256}},
			Certificates: []ium.Certificate{{Type: 2, Data: []byte{0x30, 0x80, 1, 2, 3}}},
			Policy:       somePolicy(),
			Subsystem:    pe.IMAGE_SUBSYSTEM_NATIVE,
		}
		for n := range 50 {
			s.Exports = append(s.Exports, ium.Export{Name: fmt.Sprint("export", n), RVA: 0x1000})
			s.Pointers = append(s.Pointers, uint32(0x1000+8*n))
		}
		all = append(all, build(t, s))
	}
	return all
}

// mutated draws an image with a few changes, most of them in places that count.
func mutated(t *rapid.T, seeds [][]byte) []byte {
	b := slices.Clone(rapid.SampledFrom(seeds).Draw(t, "seed"))
	h := headersOf(b)
	var starts []int // of sections, and of parts of the headers
	starts = append(starts, 0, h.nt, h.optional, h.directories, h.sections)
	for at := h.sections; at+40 <= len(b) && at < 0x400 && b[at] != 0; at += 40 {
		starts = append(starts, at, int(binary.LittleEndian.Uint32(b[at+20:])))
	}
	for range rapid.IntRange(1, 12).Draw(t, "changes") {
		at := rapid.IntRange(0, len(b)-1).Draw(t, "at")
		if rapid.IntRange(0, 3).Draw(t, "where") > 0 {
			at = rapid.SampledFrom(starts).Draw(t, "start") + rapid.IntRange(0, 63).Draw(t, "offset")&^3
		}
		v := rapid.OneOf(
			rapid.SampledFrom([]uint32{0, 1, 7, 0x7fffffff, 0x80000000, 0xfffffff8, 0xffffffff, uint32(len(b))}),
			rapid.Uint32Range(0, 0x10000), rapid.Uint32(),
		).Draw(t, "value")
		width := rapid.SampledFrom([]int{1, 2, 4}).Draw(t, "width")
		if at+4 <= len(b) {
			copy(b[at:at+width], binary.LittleEndian.AppendUint32(nil, v))
		}
	}
	if rapid.IntRange(0, 4).Draw(t, "cut") == 0 {
		b = b[:rapid.IntRange(0, len(b)).Draw(t, "length")]
	}
	return b
}

// allocated returns how many bytes f allocates.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// maxAllocated is what reading all of an image may allocate in all, most of which is
// garbage at once: an export takes 10 bytes of the file, and some 150 to be told of.
func maxAllocated(size int) uint64 { return uint64(256<<10 + 16*size) }

func mutations(seeds [][]byte) func(*rapid.T) {
	return func(t *rapid.T) {
		b := mutated(t, seeds)
		n := allocated(func() { explore(t, b) })
		if limit := maxAllocated(len(b)); n > limit {
			t.Fatalf("%d bytes allocated for a file of %d, more than %d", n, len(b), limit)
		}
	}
}

func TestMutations(t *testing.T) { rapid.Check(t, mutations(seeds(t))) }
func FuzzMutations(f *testing.F) { f.Fuzz(rapid.MakeFuzz(mutations(seeds(f)))) }

// FuzzImage cuts and edits one of the seeds: three bytes of an edit are an offset and what to
// write there. Whole images would be too large an input: see FuzzSignatures.
func FuzzImage(f *testing.F) {
	all := seeds(f)
	for n := range all {
		f.Add(uint8(n), uint16(math.MaxUint16), []byte{})
	}
	f.Fuzz(func(t *testing.T, image uint8, size uint16, edits []byte) {
		b := slices.Clone(all[int(image)%len(all)])
		for ; len(edits) >= 3; edits = edits[3:] {
			b[int(binary.LittleEndian.Uint16(edits))%len(b)] = edits[2]
		}
		explore(t, b[:min(int(size), len(b))])
	})
}

// Every image cut at every length, and with every byte of the headers changed.
func TestTruncations(t *testing.T) {
	for _, b := range seeds(t)[:2] {
		for n := range b {
			explore(t, b[:n])
		}
		for n := range 0x300 {
			for _, v := range []byte{0, 0x7f, 0x80, 0xff} {
				c := slices.Clone(b)
				c[n] = v
				explore(t, c)
			}
		}
	}
}

// What is worst for memory: as many entries with as long strings as the limits let pass,
// all of them the same bytes.
func TestPolicyMemory(t *testing.T) {
	p := &ium.Policy{Version: 1, ID: 1}
	for range ium.MaxPolicyEntries {
		p.Entries = append(p.Entries, ium.Entry{Type: ium.EntryAnsiString, ID: ium.PolicyDeviceID})
	}
	b := build(t, ium.ImageSpec{Policy: p, Sections: []ium.SectionSpec{{Name: ".text", Data: bytes.Repeat([]byte("z"), ium.MaxPolicyString)}}, ImageBase: 0x10000})
	policy := int(binary.LittleEndian.Uint32(b[headersOf(b).sections+40+20:]))
	for n := range p.Entries {
		b = put(b, policy+16+16*n+8, uint64(0x11000))
	}
	n := allocated(func() {
		f := must(open(t, b).Policy())
		require.Equal(t, ium.Malformed, f.Grade)
		require.Len(t, f.Reasons, 64)
	})
	require.Less(t, n, uint64(256<<10))
}

// largeImage is an image of 2 MB with all that images have.
func largeImage(t testingT) []byte {
	s := ium.ImageSpec{
		Sections: []ium.SectionSpec{
			{Name: ".text", Data: bytes.Repeat([]byte{0xcc}, 1<<20)},
			{Name: ".data", Data: make([]byte, 900<<10)},
		},
		Certificates: []ium.Certificate{{Type: 2, Revision: 0x200, Data: make([]byte, 10000)}},
		Policy:       somePolicy(),
	}
	for n := range 2000 {
		s.Exports = append(s.Exports, ium.Export{Name: fmt.Sprintf("ExportedFunction%04d", n), RVA: uint32(0x1000 + 16*n)})
	}
	for n := range 20000 {
		s.Pointers = append(s.Pointers, uint32(0x1000+88*n))
	}
	return build(t, s)
}

// Opening an image of 2 MB and reading its policy allocates less than 64 KiB.
func TestLargeImageMemory(t *testing.T) {
	b := largeImage(t)
	require.Greater(t, len(b), 2_000_000)
	n := allocated(func() {
		f := must(open(t, b).Policy())
		require.Equal(t, ium.Valid, f.Grade)
	})
	require.Less(t, n, uint64(64<<10))
}

func benchmarkPolicy(b *testing.B, r io.ReaderAt, size int64, grade ium.Grade) {
	b.ReportAllocs()
	for b.Loop() {
		i, err := ium.Open(r, size)
		if err != nil {
			b.Fatal(err)
		}
		f, err := i.Policy()
		if err != nil || f.Grade != grade {
			b.Fatal(f.Grade, err)
		}
	}
}

// An image of 2 MB, opened and its policy read: with a policy and without, in memory and
// in a file.
func BenchmarkPolicy(b *testing.B) {
	image := largeImage(b)
	plain := slices.Clone(image)
	h := headersOf(plain)
	copy(plain[h.sections+80:], ".rdata\x00\x00")
	table := int(binary.LittleEndian.Uint32(plain[h.sections+120+20:]))
	at := bytes.Index(plain[table:], []byte(ium.PolicyExport))
	plain[table+at] = '?'
	for _, c := range []struct {
		name  string
		image []byte
		grade ium.Grade
	}{{"trustlet", image, ium.Valid}, {"other", plain, ium.Absent}} {
		b.Run(c.name+"/memory", func(b *testing.B) {
			benchmarkPolicy(b, bytes.NewReader(c.image), int64(len(c.image)), c.grade)
		})
		b.Run(c.name+"/file", func(b *testing.B) {
			name := filepath.Join(b.TempDir(), "image")
			if err := os.WriteFile(name, c.image, 0o600); err != nil {
				b.Fatal(err)
			}
			f, err := os.Open(name)
			if err != nil {
				b.Fatal(err)
			}
			defer f.Close()
			benchmarkPolicy(b, f, int64(len(c.image)), c.grade)
		})
	}
}
