package ium

import (
	"bytes"
	"encoding/binary"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// TestEnclaveImages reads what MinGW's assembler has made of vbs.S.
func TestEnclaveImages(t *testing.T) {
	for _, tt := range []struct {
		file          string
		size, minimum uint32
		is64          bool
	}{
		{"vbs64.dll", 80, 76, true},
		{"signed-vbs64.dll", 80, 76, true},
		{"vbs32.dll", 76, 72, false},
	} {
		i, err := OpenFile(filepath.Join("testdata", tt.file))
		require.NoError(t, err)
		defer i.Close()
		assert.Equal(t, KindEnclave, i.Kind)
		assert.Equal(t, tt.is64, i.Is64)
		c, err := i.Enclave()
		require.NoError(t, err)
		require.NotNil(t, c)
		require.Len(t, c.Imports, 2)
		want := &EnclaveConfig{
			Offset: c.Offset, RVA: c.RVA, Size: tt.size, Minimum: tt.minimum,
			Policy: EnclaveDebuggable | EnclaveStrictMemory, ImportEntrySize: 80,
			FamilyID: [16]byte([]byte("family of tests.")), ImageID: [16]byte([]byte("image for tests.")),
			ImageVersion: 0x10002, SecurityVersion: 7, EnclaveSize: 0x10000000, Threads: 16,
			Flags: EnclavePrimaryImage, HasFlags: true,
			Imports: []EnclaveImport{
				{Offset: c.Imports[0].Offset, Match: MatchAuthorID, Name: "vertdll.dll"},
				{Offset: c.Imports[1].Offset, Match: MatchFamilyID, SecurityVersion: 5, FamilyID: [16]byte([]byte("family of tests.")), Name: "other_enclave.dll"},
			},
		}
		assert.Equal(t, want, c)
		assert.True(t, c.Debuggable())
		assert.True(t, c.Primary())
		assert.True(t, c.Imports[0].FromWindows())
		assert.False(t, c.Imports[1].FromWindows())
		var b [4]byte
		_, err = i.ReaderAt().ReadAt(b[:], c.Offset)
		require.NoError(t, err)
		assert.Equal(t, tt.size, binary.LittleEndian.Uint32(b[:]))
	}

	i, err := OpenFile("testdata/policy64.exe")
	require.NoError(t, err)
	defer i.Close()
	c, err := i.Enclave()
	assert.NoError(t, err)
	assert.Nil(t, c)
}

func drawEnclave(t *rapid.T, is64 bool) *EnclaveConfig {
	id := rapid.Custom(func(t *rapid.T) (id [16]byte) {
		copy(id[:], rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "id"))
		return id
	})
	whole := uint32(76)
	if is64 {
		whole = 80
	}
	c := &EnclaveConfig{
		Size:            rapid.SampledFrom([]uint32{whole - 4, whole - 1, whole, whole + 1, whole + 100}).Draw(t, "size"),
		Policy:          EnclavePolicy(rapid.Uint32Range(0, 3).Draw(t, "policy")),
		ImportEntrySize: rapid.SampledFrom([]uint32{80, 81, 96, 4096}).Draw(t, "entry"),
		FamilyID:        id.Draw(t, "family"), ImageID: id.Draw(t, "image"),
		ImageVersion: rapid.Uint32().Draw(t, "version"), SecurityVersion: rapid.Uint32().Draw(t, "svn"),
		EnclaveSize: uint64(rapid.Uint32().Draw(t, "size")), Threads: rapid.Uint32().Draw(t, "threads"),
	}
	c.Minimum = rapid.Uint32Range(0, min(c.Size, whole)).Draw(t, "minimum")
	c.HasFlags = c.Size >= whole
	if c.HasFlags {
		c.Flags = EnclaveFlags(rapid.Uint32Range(0, 1).Draw(t, "flags"))
	}
	if is64 {
		c.EnclaveSize = rapid.Uint64().Draw(t, "size")
	}
	for range rapid.IntRange(0, 5).Draw(t, "imports") {
		e := EnclaveImport{
			Match:           EnclaveMatch(rapid.Uint32Range(0, 4).Draw(t, "match")),
			SecurityVersion: rapid.Uint32().Draw(t, "svn"),
			FamilyID:        id.Draw(t, "family"), ImageID: id.Draw(t, "image"),
			Name: rapid.StringMatching(`[!-~]{1,30}`).Draw(t, "name"),
		}
		copy(e.UniqueOrAuthor[:], rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "id"))
		c.Imports = append(c.Imports, e)
	}
	return c
}

// TestEnclaveInverse builds configurations and reads them back.
func TestEnclaveInverse(t *testing.T) { rapid.Check(t, checkEnclave) }

func FuzzEnclaveInverse(f *testing.F) { f.Fuzz(rapid.MakeFuzz(checkEnclave)) }

func checkEnclave(t *rapid.T) {
	spec := trustletSpec()
	is64 := rapid.Bool().Draw(t, "64")
	if !is64 {
		spec.Machine = MachineI386
	}
	spec.Sections = []SectionSpec{{Name: ".text", Data: make([]byte, rapid.IntRange(0, 9000).Draw(t, "code"))}}
	want := drawEnclave(t, is64)
	require.NoError(t, spec.SetEnclave(want))
	b, err := spec.Build()
	require.NoError(t, err)
	i, err := Open(bytes.NewReader(b), int64(len(b)))
	require.NoError(t, err)
	require.Empty(t, i.Problems)
	require.Equal(t, KindEnclave, i.Kind)
	got, err := i.Enclave()
	require.NoError(t, err)
	want.Offset, want.RVA = got.Offset, got.RVA
	for n := range want.Imports {
		require.Equal(t, want.Imports[n].Name, got.Imports[n].Name)
		want.Imports[n].Offset = got.Imports[n].Offset
	}
	require.Equal(t, want, got)
	offset, err := i.OffsetOf(got.RVA)
	require.NoError(t, err)
	require.Equal(t, offset, got.Offset)
	require.Equal(t, want.Size, binary.LittleEndian.Uint32(b[offset:]))
}

// TestEnclaveReasons breaks each rule.
func TestEnclaveReasons(t *testing.T) {
	reached := map[Rule]bool{}
	const rva = 0x1000 // of the load configuration
	for _, tt := range []struct {
		name   string
		is32   bool
		change func(c *EnclaveConfig)
		write  map[int]uint32 // offsets in the section; the configuration is behind the load configuration
		err    Rule
		want   []Rule
	}{
		{name: "as it should be"},
		{name: "as it should be, 32 bits", is32: true},
		{name: "old, without flags", change: func(c *EnclaveConfig) { c.Size = 76 }},
		{name: "newer", change: func(c *EnclaveConfig) { c.Size, c.Minimum = 100, 80 }},
		{name: "pointer out of the image", write: map[int]uint32{248: 0x10}, err: RuleEnclavePointer},
		{name: "pointer into nothing", write: map[int]uint32{248: 0x40000FFF}, err: RuleRVA},
		{name: "pointer to the end", write: map[int]uint32{248: 0x40001000 + 256 + 80 + 80 + 4}, err: RuleRVA},
		{name: "size 0", write: map[int]uint32{256: 0}, err: RuleEnclaveSize},
		{name: "short", change: func(c *EnclaveConfig) { c.Size = 75 }, err: RuleEnclaveSize},
		{name: "short, 32 bits", is32: true, change: func(c *EnclaveConfig) { c.Size = 71 }, err: RuleEnclaveSize},
		{name: "required beyond the size", change: func(c *EnclaveConfig) { c.Minimum = 81 }, want: []Rule{RuleEnclaveRequired}},
		{name: "required beyond what is known", change: func(c *EnclaveConfig) { c.Size, c.Minimum = 100, 84 }, want: []Rule{RuleEnclaveNewer}},
		{name: "unknown policy", change: func(c *EnclaveConfig) { c.Policy = 4 }, want: []Rule{RuleEnclavePolicy}},
		{name: "unknown flags", change: func(c *EnclaveConfig) { c.Flags = 0x80000001 }, want: []Rule{RuleEnclaveFlags}},
		{name: "unknown match", change: func(c *EnclaveConfig) { c.Imports[0].Match = 5 }, want: []Rule{RuleEnclaveMatch}},
		{name: "no name", change: func(c *EnclaveConfig) { c.Imports[0].Name = "" }, want: []Rule{RuleEnclaveName}},
		{name: "name of control characters", change: func(c *EnclaveConfig) { c.Imports[0].Name = "a\nb" }, want: []Rule{RuleEnclaveName}},
		{name: "name that is too long", change: func(c *EnclaveConfig) { c.Imports[0].Name = string(bytes.Repeat([]byte("a"), MaxEnclaveName)) }, want: []Rule{RuleEnclaveName}},
		{name: "name of the longest", change: func(c *EnclaveConfig) { c.Imports[0].Name = string(bytes.Repeat([]byte("a"), MaxEnclaveName-1)) }},
		{name: "name nowhere", write: map[int]uint32{256 + 80 + 72: 0xFFFFFFFF}, want: []Rule{RuleEnclaveName}},
		{name: "reserved", write: map[int]uint32{256 + 80 + 76: 1}, want: []Rule{RuleEnclaveReserved}},
		{name: "too many imports", write: map[int]uint32{256 + 12: MaxEnclaveImports + 1}, err: RuleEnclaveImports},
		{name: "more imports than there is room for", write: map[int]uint32{256 + 12: 1000}, err: RuleEnclaveImports},
		{name: "short entries", change: func(c *EnclaveConfig) { c.ImportEntrySize = 79 }, err: RuleEnclaveImports},
		{name: "long entries", write: map[int]uint32{256 + 20: MaxEnclaveImportSize + 1}, err: RuleEnclaveImports},
		{name: "list nowhere", write: map[int]uint32{256 + 16: 0x80000000}, err: RuleEnclaveImports},
		{name: "list around the end of addresses", write: map[int]uint32{256 + 16: 0xFFFFFFF0}, err: RuleEnclaveImports},
		{name: "a list that does not matter", change: func(c *EnclaveConfig) { c.Imports = nil }, write: map[int]uint32{256 + 16: 0xFFFFFFF0, 256 + 20: 1}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			spec := &ImageSpec{}
			if tt.is32 {
				spec.Machine = MachineI386
			}
			c := &EnclaveConfig{Imports: []EnclaveImport{{Match: MatchImageID, Name: "a.dll"}}}
			if tt.change != nil {
				tt.change(c)
			}
			require.NoError(t, spec.SetEnclave(c))
			for at, v := range tt.write {
				binary.LittleEndian.PutUint32(spec.Sections[0].Data[at:], v)
			}
			i := built(t, spec)
			got, err := i.Enclave()
			if tt.err != "" {
				var format *FormatError
				require.ErrorAs(t, err, &format)
				assert.Equal(t, tt.err, format.Rule, err)
				assert.Less(t, format.Offset, i.Size)
				reached[format.Rule] = true
				return
			}
			require.NoError(t, err)
			require.Equal(t, uint32(rva+256), got.RVA+map[bool]uint32{true: 96}[tt.is32])
			assert.Equal(t, tt.want, rulesOf(got.Reasons), got.Reasons)
			for _, r := range got.Reasons {
				reached[r.Rule] = true
				assert.True(t, r.Offset > 0 && r.Offset < i.Size)
				assert.NotEmpty(t, r.Detail)
			}
			assert.Equal(t, tt.name != "old, without flags", got.HasFlags)
		})
	}
	for _, r := range []Rule{
		RuleEnclavePointer, RuleEnclaveSize, RuleEnclaveRequired, RuleEnclaveNewer, RuleEnclavePolicy, RuleEnclaveFlags,
		RuleEnclaveImports, RuleEnclaveMatch, RuleEnclaveName, RuleEnclaveReserved,
	} {
		assert.True(t, reached[r], "no case reaches %s", r)
	}
}

func TestSetEnclaveErrors(t *testing.T) {
	assert.ErrorContains(t, (&ImageSpec{Machine: MachineI386}).SetEnclave(&EnclaveConfig{EnclaveSize: 1 << 32}), "EnclaveSize")
	assert.ErrorContains(t, (&ImageSpec{}).SetEnclave(&EnclaveConfig{Size: 5000}), "5000")
	assert.ErrorContains(t, (&ImageSpec{}).SetEnclave(&EnclaveConfig{Imports: make([]EnclaveImport, MaxEnclaveImports+1)}), "1025")
	assert.ErrorContains(t, (&ImageSpec{}).SetEnclave(&EnclaveConfig{ImportEntrySize: 5000}), "5000")

	c, err := built(t, func() *ImageSpec {
		s := &ImageSpec{}
		require.NoError(t, s.SetEnclave(&EnclaveConfig{Size: 76}))
		return s
	}()).Enclave()
	require.NoError(t, err)
	assert.True(t, c.Primary(), "the structure is older than its flags")
	assert.False(t, c.Debuggable())
}

func TestEnclaveNames(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		bits := rapid.OneOf(rapid.Uint32Range(0, 7), rapid.Uint32())
		p, f, m := EnclavePolicy(bits.Draw(t, "policy")), EnclaveFlags(bits.Draw(t, "flags")), EnclaveMatch(bits.Draw(t, "match"))
		var p2 EnclavePolicy
		var f2 EnclaveFlags
		var m2 EnclaveMatch
		for _, c := range []struct {
			from interface{ MarshalText() ([]byte, error) }
			to   interface{ UnmarshalText([]byte) error }
		}{{p, &p2}, {f, &f2}, {m, &m2}} {
			text, err := c.from.MarshalText()
			require.NoError(t, err)
			require.NoError(t, c.to.UnmarshalText(text), "%s", text)
		}
		require.Equal(t, p, p2)
		require.Equal(t, f, f2)
		require.Equal(t, m, m2)
	})
	assert.Equal(t, "debuggable + strict memory + 0x4", EnclavePolicy(7).String())
	assert.Equal(t, "none", EnclaveFlags(0).String())
	_, err := ParseEnclavePolicy("secret")
	assert.ErrorContains(t, err, "strict memory")
	_, err = ParseEnclaveFlags("")
	assert.ErrorContains(t, err, "primary image")
	for _, s := range []string{"", "owner", "EnclaveMatch(0x1)", "EnclaveMatch(9"} {
		_, err = ParseEnclaveMatch(s)
		assert.ErrorContains(t, err, "author id", s)
	}
}

// TestMutatedEnclaves changes bytes of enclaves, mostly of the section that says so.
func TestMutatedEnclaves(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		spec := &ImageSpec{}
		if rapid.Bool().Draw(rt, "32") {
			spec.Machine = MachineI386
		}
		require.NoError(rt, spec.SetEnclave(drawEnclave(rt, spec.Machine != MachineI386)))
		b, err := spec.Build()
		require.NoError(rt, err)
		for range rapid.IntRange(1, 6).Draw(rt, "changes") {
			at := rapid.IntRange(0, len(b)-4).Draw(rt, "at") &^ 3
			binary.LittleEndian.PutUint32(b[at:], rapid.OneOf(rapid.Uint32(), rapid.Uint32Range(0, 0x3000)).Draw(rt, "word"))
		}
		hostile(t, b)
	})
}
