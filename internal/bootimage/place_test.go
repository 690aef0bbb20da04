package bootimage

import (
	"bytes"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/govtx/vtx/internal/bootproto"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// The loader for another place is what the assembler makes of its source there.
func TestLoaderElsewhere(t *testing.T) {
	for _, tool := range []string{"as", "ld"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%s (Debian: binutils) is not installed", tool)
		}
	}
	dir := t.TempDir()
	object, binaryFile := filepath.Join(dir, "o"), filepath.Join(dir, "bin")
	for _, base := range []string{"0x100000", "0x1ff000", "0x23456000", "0xfff00000"} {
		out, err := exec.Command("as", "--32", "--defsym", "LOADER_BASE="+base, "-o", object, "loader.S").CombinedOutput()
		if strings.Contains(string(out), "unrecognized option") {
			t.Skipf("binutils here is not for x86: %s", out)
		}
		require.NoError(t, err, "%s", out)
		out, err = exec.Command("ld", "-m", "elf_i386", "-Ttext="+base, "--oformat", "binary", "-o", binaryFile, object).CombinedOutput()
		require.NoError(t, err, "%s", out)
		want, err := os.ReadFile(binaryFile)
		require.NoError(t, err)
		binary.LittleEndian.PutUint64(want[loaderBootEntry:], fakeEntry)
		var at uint64
		for _, digit := range strings.TrimPrefix(base, "0x") {
			at = at<<4 | uint64(strings.IndexRune("0123456789abcdef", digit))
		}
		got := (&Program{bootEntry: fakeEntry}).loaderAt(at)
		require.True(t, bytes.Equal(want, got), "the loader at %s", base)
	}
}

// poison is what memory holds before anything is placed in it.
const poison = 0xa5

func poisoned(n int) []byte { return bytes.Repeat([]byte{poison}, n) }

func TestPlaceMultiboot(t *testing.T) {
	f := fakeProgram(0x23456, 0x123456).lay()
	p, c := open(t, f), testConfig()
	const base = 4 << 20
	end := uint64(base + 8<<20)
	for _, tc := range []struct {
		name   string
		memory []MemoryRange
		loader uint64
	}{
		{"behind the modules", []MemoryRange{{base, end, 1}}, 0},
		{"before the program", []MemoryRange{{base - 1<<20, end, 1}}, base - 1<<20},
		{"in pieces", []MemoryRange{{0, 0x9f000, 1}, {0xf0000, 1 << 20, 2}, {base + 1<<20, end, 1}, {base, base + 1<<20, 1}, {end, 1 << 32, 1}}, 0},
		{"around a hole", []MemoryRange{{base - 2<<20, end, 1}, {base - 2<<20, base - 1<<20 + 1, 3}}, base - 1<<20 + pageSize},
	} {
		t.Run(tc.name, func(t *testing.T) {
			start := uint64(base - 2<<20)
			mem := poisoned(int(end - start))
			entry, info, err := p.PlaceMultiboot(mem, start, tc.memory, c)
			require.NoError(t, err)
			_, modulesEnd, err := p.moduleAddrs(c)
			require.NoError(t, err)
			if tc.loader == 0 {
				tc.loader = modulesEnd
			}
			require.EqualValues(t, tc.loader+loaderEntry, entry)

			// What must be there, and poison around it.
			want := poisoned(len(mem))
			put := func(addr uint64, b []byte, size uint64) {
				clear(want[addr-start:][:size])
				copy(want[addr-start:], b)
			}
			pieces, err := p.pieces(c, tc.loader)
			require.NoError(t, err)
			params, err := p.params(c)
			require.NoError(t, err)
			put(tc.loader, p.loaderAt(tc.loader), loaderMemory)
			put(tc.loader+bootproto.LoaderBytes, params, uint64(len(params)))
			for _, l := range f.loads {
				put(l.addr, l.data, l.memSize)
			}
			addrs, _, _ := p.moduleAddrs(c)
			for i, m := range c.Modules {
				b := make([]byte, m.Size)
				require.NoError(t, readFull(m.Data, b, 0))
				put(addrs[i], b, uint64(roundUp(m.Size, pageSize)))
			}
			le := binary.LittleEndian
			rows := make([]byte, infoBytes)
			le.PutUint32(rows, 1<<6)
			le.PutUint32(rows[44:], uint32(24*len(tc.memory)))
			le.PutUint32(rows[48:], info+infoBytes)
			for _, r := range tc.memory {
				rows = le.AppendUint32(rows, 20)
				rows = le.AppendUint64(rows, r.Start)
				rows = le.AppendUint64(rows, r.End-r.Start)
				rows = le.AppendUint32(rows, r.Type)
			}
			require.GreaterOrEqual(t, uint64(info), tc.loader+bootproto.LoaderBytes+uint64(len(params)))
			put(uint64(info), rows, uint64(len(rows)))
			require.True(t, bytes.Equal(want, mem))
			require.Len(t, pieces, 2+len(f.loads)+1)
		})
	}
}

func TestPlaceMultibootRefuses(t *testing.T) {
	p, c := open(t, fakeProgram(0x23456, 0x123456).lay()), testConfig()
	const base, size = 4 << 20, 8 << 20
	ram := []MemoryRange{{base, base + size, 1}}
	for _, tc := range []struct {
		name   string
		base   uint64
		size   int
		memory []MemoryRange
		change func(c *Config)
		says   string
	}{
		{"no map", base, size, nil, nil, "1 to 128"},
		{"long map", base, size, slices.Repeat(ram, 129), nil, "1 to 128"},
		{"empty range", base, size, []MemoryRange{{base, base, 1}}, nil, "behind its start"},
		{"wrapping memory", ^uint64(0) - 5, size, ram, nil, "2^64"},
		{"no RAM", base, size, []MemoryRange{{base, base + size, 2}}, nil, "no 0x"},
		{"high RAM", 8 << 30, size, []MemoryRange{{8 << 30, 8<<30 + size, 1}}, nil, "no 0x"},
		{"RAM elsewhere", base, size, []MemoryRange{{64 << 20, 65 << 20, 1}}, nil, "no 0x"},
		{"memory elsewhere", 64 << 20, size, []MemoryRange{{0, 128 << 20, 1}}, nil, "the segment at 0x400000"},
		{"half the program", base, 1 << 20, []MemoryRange{{base, base + size, 1}}, nil, "no 0x"},
		{"a hole in the program", base, size, []MemoryRange{{base, base + size, 1}, {base + 0x30000, base + 0x30001, 3}}, nil, "is not in RAM"},
		{"no arguments", base, size, ram, func(c *Config) { c.Args = nil }, "no arguments"},
		{"modules too large", base, size, ram, func(c *Config) {
			c.Modules = []Module{{"m", bytes.NewReader(nil), size}}
		}, "no 0x"},
		{"short module", base, size, ram, func(c *Config) {
			c.Modules = []Module{{"m", bytes.NewReader(nil), 1000}}
		}, `module "m"`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			change := *c
			if tc.change != nil {
				tc.change(&change)
			}
			mem := poisoned(tc.size)
			_, _, err := p.PlaceMultiboot(mem, tc.base, tc.memory, &change)
			require.ErrorContains(t, err, tc.says)
			if tc.name != "short module" {
				require.Equal(t, len(mem), bytes.Count(mem, []byte{poison}), "memory is touched")
			}
		})
	}
}

// Whatever the file and the map, nothing but RAM is written, or nothing at all.
func placeHostile(t *rapid.T) {
	data := hostile(t)
	p, err := Open(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		return
	}
	bound := rapid.OneOf(rapid.Uint64Range(3<<20, 7<<20), rapid.Uint64())
	var memory []MemoryRange
	for range rapid.IntRange(0, 4).Draw(t, "ranges") {
		memory = append(memory, MemoryRange{bound.Draw(t, "start"), bound.Draw(t, "end"), rapid.Uint32Range(0, 3).Draw(t, "type")})
	}
	base := bound.Draw(t, "base")
	mem := poisoned(rapid.IntRange(0, 3<<20).Draw(t, "size"))
	_, _, err = p.PlaceMultiboot(mem, base, memory, &Config{Args: []string{"x"}})
	for i, b := range mem {
		if b == poison {
			continue
		}
		if err != nil {
			t.Fatalf("byte %#x is written, but: %v", i, err)
		}
		a := base + uint64(i)
		if !slices.ContainsFunc(memory, func(r MemoryRange) bool { return r.Type == 1 && r.Start <= a && a < r.End }) {
			t.Fatalf("byte %#x is written, which is no RAM", a)
		}
	}
}

func TestPlaceMultibootHostile(t *testing.T) { rapid.Check(t, placeHostile) }

func FuzzPlaceMultiboot(f *testing.F) { f.Fuzz(rapid.MakeFuzz(placeHostile)) }
