package ept_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"pgregory.net/rapid"

	"github.com/govtx/vtx/ept"
	"github.com/govtx/vtx/internal/require"
	"github.com/govtx/vtx/internal/ring0test"
)

func mapArena(t require.T, tables int) *ept.Arena {
	a, err := ept.NewArena(make([]byte, tables<<12), 0x1000)
	require.NoError(t, err)
	return a
}

const described = `
# VTL1 sees all; VTL0 cannot touch the secure kernel
processor bits=39 2M 1G execute-only accessed-dirty
mode Accessed-Dirty   # for dirty-page logging
view VTL1
MAP 0 640K rwx WB
map 1M 3G-1M RWX
map 0xfee00000 4K to 0x7f000000 rw- UC ignore-PAT
view VTL0 of VTL1
protect 0x40000000 2M r--
unmap 0x40200000 64K
view empty
view VTL1
replace 0 4K --x software-11 wt
split 2G 4M 2M
join 0 1G
view VTL0
protect 0 4K WC no-ignore-pat software_59
`

func TestMapFile(t *testing.T) {
	f, err := ept.ParseMap(strings.NewReader(described))
	require.NoError(t, err)
	const canonical = `processor bits=39 2M 1G execute-only accessed-dirty
mode accessed-dirty
view VTL1
map 0x0 640K RWX WB
map 0x100000 3071M RWX WB
map 0xfee00000 4K to 0x7f000000 RW- UC ignore-PAT
view VTL0 of VTL1
protect 0x40000000 2M R--
unmap 0x40200000 64K
view empty
view VTL1
replace 0x0 4K --X WT software-11
split 0x80000000 4M 2M
join 0x0 1G
view VTL0
protect 0x0 4K WC no-ignore-PAT software-59
`
	require.Equal(t, canonical, f.String())
	arena := mapArena(t, 64)
	var due []string
	space, views, err := f.Build(arena, func(s ept.Step, i ept.Invalidation) { due = append(due, fmt.Sprint(s.Line, " ", i)) })
	require.NoError(t, err)
	require.NotNil(t, space)
	require.Contains(t, strings.Join(due, "\n"), "10 single-context")
	require.Contains(t, strings.Join(due, "\n"), "6 none")
	var got []string
	for _, v := range views {
		got = append(got, v.Name+":")
		for m, err := range ept.Mappings(v.Source) {
			require.NoError(t, err)
			got = append(got, m.String())
		}
	}
	require.Equal(t, []string{
		"VTL1:",
		"0x0-0xfff: --X WT software-11",
		"0x1000-0x9ffff: RWX WB",
		"0x100000-0xbfffffff: RWX WB",
		"0xfee00000-0xfee00fff: RW- UC ignore-PAT at 0x7f000000",
		"VTL0:",
		"0x0-0xfff: RWX WC software-59",
		"0x1000-0x9ffff: RWX WB",
		"0x100000-0x3fffffff: RWX WB",
		"0x40000000-0x401fffff: R-- WB",
		"0x40210000-0xbfffffff: RWX WB",
		"0xfee00000-0xfee00fff: RW- UC ignore-PAT at 0x7f000000",
		"empty:",
	}, got)
}

func TestMapFileErrors(t *testing.T) {
	ring0test.HostOnly(t)
	for _, tc := range []struct {
		text string
		line int // 0 if the error is of the whole
		want string
	}{
		{"", 0, `begin with a line "view NAME"`},
		{"# nothing", 0, "no view"},
		{"\n\nfly 0 4K", 3, "line 3: fly 0 4K: want processor, mode, view, map,"},
		{"map 0 4K rwx", 1, "no view yet"},
		{"view", 1, "view NAME of VIEW"},
		{"view a b c", 1, "view NAME of VIEW"},
		{"view a\nview b of c", 2, "no view c to copy; there are: a"},
		{"view a\nview a of a", 2, "the view a is there already"},
		{"view \x1b[31m", 1, "printable"},
		{"view " + strings.Repeat("x", 65), 1, "64 bytes"},
		{"view a\nmap 0", 2, "want map ADDRESS SIZE"},
		{"view a\nmap x 4K rwx", 2, `the address "x" is no number`},
		{"view a\nmap 0 4Q rwx", 2, `the size "4Q" is no number`},
		{"view a\nmap 0 4K to -1 rwx", 2, `the host's address "" is no number`},
		{"view a\nmap 0 1K-2K rwx", 2, `"1K-2K" is below 0`},
		{"view a\nmap 0 17179869184G rwx", 2, "is no number of 64 bits"},
		{"view a\nmap 0 4K", 2, "want rights"},
		{"view a\nmap 0 4K WB", 2, "want rights"},
		{"view a\nmap 0 4K rwx r--", 2, `"r--": there are rights already`},
		{"view a\nmap 0 4K --- rwx", 2, `"rwx": there are rights already`},
		{"view a\nmap 0 4K rwx UC WB", 2, `"WB": there is a memory type already`},
		{"view a\nmap 0 4K rwx UC-", 2, `"UC-" is no rights`},
		{"view a\nmap 0 4K rwx 6", 2, `"6" is no rights`},
		{"view a\nmap 0 4K rwx accessed", 2, `"accessed" is no rights`},
		{"view a\nmap 0 4K rwx no-ignore-PAT", 2, `"no-ignore-PAT" is no rights`},
		{"view a\nmap 0 4K rwxu", 2, `the right u means something with the line "mode mode-based-execute" only`},
		{"view a\nmap 0 4K rwx suppress-VE", 2, `suppress-VE means something with the line "mode violation-VE" only`},
		{"view a\nprotect 0 4K", 2, "want rights, a memory type or attributes"},
		{"view a\nprotect 0 4K ignore-PAT no-ignore-PAT", 2, "both set and cleared"},
		{"view a\nunmap 0 4K rwx", 2, `"rwx" is too much: want unmap ADDRESS SIZE`},
		{"view a\nsplit 0 4K 1G", 2, "split ADDRESS SIZE 4K, or 2M"},
		{"view a\nsplit 0 4K", 2, "split ADDRESS SIZE 4K, or 2M"},
		{"view a\nmode accessed-dirty", 2, "the order is"},
		{"mode accessed-dirty\nprocessor bits=40", 2, "the order is"},
		{"mode accessed-dirty\nmode accessed-dirty", 2, "the order is"},
		{"processor bits=x", 1, "a number from 32 to 52"},
		{"processor bits=53", 1, "MAXPHYADDR"},
		{"processor 4M", 1, `"4M": processors have bits=N, 2M, 1G,`},
		{"mode fast", 1, `"fast": modes have 5-level, accessed-dirty,`},
		{"processor bits=40\nmode 5-level", 2, "5-level EPT"},
		{strings.Repeat("view a\n", ept.MaxMapFileSteps+1), ept.MaxMapFileSteps + 1, "more than 16384 steps"},
		{strings.Repeat("#", ept.MaxMapFileSize+1), 0, "more than 1048576 bytes"},
		{manyViews(65), 65, "more than 64 views"},
	} {
		_, err := ept.ParseMap(strings.NewReader(tc.text))
		require.ErrorContains(t, err, tc.want, "%.80q", tc.text)
		var l *ept.LineError
		require.Equal(t, tc.line != 0, errors.As(err, &l), "%.80q", tc.text)
		if l != nil {
			require.Equal(t, tc.line, l.Line)
			require.Less(t, len(err.Error()), 400)
		}
	}
	_, err := ept.ParseMap(iotest.ErrReader(io.ErrClosedPipe))
	require.ErrorIs(t, err, io.ErrClosedPipe)
}

// manyViews returns lines for a number of views.
func manyViews(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "view v%d\n", i)
	}
	return b.String()
}

// What a step breaks is told when the tables are built.
func TestMapFileBuildErrors(t *testing.T) {
	for _, tc := range []struct {
		text string
		want error
		says string
	}{
		{"view a\nmap 0 8K rwx\nmap 4K 4K rwx", ept.ErrMapped, "line 3: map 0x1000 4K RWX WB: ept: Map of 0x1000-0x1fff"},
		{"view a\nunmap 0 1K", ept.ErrUnaligned, "line 2: unmap 0x0 1K: "},
		{"view a\nunmap 0 0", ept.ErrEmpty, "line 2: "},
		{"view a\nmap 64T 4K rwx", ept.ErrGuestWidth, "line 2: "},
		{"view a\nmap 0 4K to 64T rwx", ept.ErrHostWidth, "line 2: "},
		{"view a\nmap 0 4K -wx", ept.ErrMisconfigure, "line 2: "},
		{"view a\nmap 0 64G rwx\nsplit 0 64G 4K", ept.ErrNoPages, "line 3: "},
	} {
		f, err := ept.ParseMap(strings.NewReader(tc.text))
		require.NoError(t, err)
		_, _, err = f.Build(mapArena(t, 16), nil)
		require.ErrorIs(t, err, tc.want)
		require.ErrorContains(t, err, tc.says)
	}
	f := &ept.MapFile{Mode: able(), Steps: []ept.Step{{Verb: ept.VerbMap}}}
	_, _, err := f.Build(mapArena(t, 16), nil)
	require.ErrorContains(t, err, "no view yet")
	f.Steps = []ept.Step{{Name: "a"}, {Verb: 77}}
	_, _, err = f.Build(mapArena(t, 16), nil)
	require.ErrorContains(t, err, "no verb Verb(77)")
	_, _, err = f.Build(mapArena(t, 1), nil)
	require.Error(t, err)
	f.Mode = ept.Mode{}
	_, _, err = f.Build(mapArena(t, 16), nil)
	require.ErrorContains(t, err, "MAXPHYADDR")
}

// drawMapFile draws a file that can be written.
func drawMapFile(t *rapid.T) *ept.MapFile {
	f := &ept.MapFile{Mode: drawMapMode(t)}
	f.Mode.PhysicalAddressBits = rapid.Uint8Range(32, 52).Draw(t, "bits")
	number := rapid.Custom(func(t *rapid.T) uint64 {
		return rapid.Uint64().Draw(t, "number") >> rapid.IntRange(0, 63).Draw(t, "down") << rapid.SampledFrom([]int{0, 10, 12, 21, 30}).Draw(t, "up")
	})
	meaningful := ept.IgnorePAT | ept.Software11 | ept.Software59 | ept.Software62
	rights := ept.All
	for bit, on := range map[ept.Entry]bool{
		ept.SuppressVE: f.Mode.ViolationVE, ept.PagingWrite: f.Mode.PagingWrite, ept.VerifyGuestPaging: f.Mode.VerifyGuestPaging,
		ept.SupervisorShadowStack: f.Mode.SupervisorShadowStack, ept.SubPageWrite: f.Mode.SubPageWrite,
	} {
		if on {
			meaningful |= bit
		}
	}
	if f.Mode.ModeBasedExecute {
		rights |= ept.ExecuteUser
	}
	kinds := rapid.SampledFrom([]ept.MemoryType{ept.UC, ept.WC, ept.WT, ept.WP, ept.WB})
	names := []string{}
	for i := range rapid.IntRange(1, 20).Draw(t, "steps") {
		s := ept.Step{Verb: ept.Verb(rapid.IntRange(0, int(ept.VerbJoin)).Draw(t, "verb"))}
		if i == 0 {
			s.Verb = ept.VerbView
		}
		if s.Verb == ept.VerbView {
			s.Name = rapid.StringMatching(`[a-zé.,]{1,9}`).Draw(t, "name")
			known := false
			for _, n := range names {
				known = known || n == s.Name
			}
			if !known && len(names) > 0 && rapid.Bool().Draw(t, "copy") {
				s.Of = rapid.SampledFrom(names).Draw(t, "of")
			}
			names = append(names, s.Name)
			f.Steps = append(f.Steps, s)
			continue
		}
		s.Range = ept.Range{Start: number.Draw(t, "start"), Size: number.Draw(t, "size")}
		attributes := ept.Entry(rapid.Uint64().Draw(t, "attributes"))
		switch s.Verb {
		case ept.VerbMap, ept.VerbReplace:
			s.HPA = number.Draw(t, "hpa")
			s.Set = attributes&(rights|meaningful) | kinds.Draw(t, "type").Entry()
		case ept.VerbProtect:
			s.Set = attributes & meaningful
			s.Clear = ept.Entry(rapid.Uint64().Draw(t, "clear")) & meaningful &^ s.Set
			if rapid.Bool().Draw(t, "rights") || s.Set|s.Clear == 0 {
				s.Set |= attributes & rights
				s.Clear |= rights &^ attributes
			}
			if rapid.Bool().Draw(t, "typed") {
				e := kinds.Draw(t, "type").Entry()
				s.Set |= e
				s.Clear |= ept.MemoryType(7).Entry() &^ e
			}
		case ept.VerbSplit:
			s.Level = rapid.SampledFrom([]ept.Level{ept.PTE, ept.PDE}).Draw(t, "level")
		}
		f.Steps = append(f.Steps, s)
	}
	return f
}

// What is printed is read back.
func mapFileInverse(t *rapid.T) {
	f := drawMapFile(t)
	text := f.String()
	got, err := ept.ParseMap(strings.NewReader(text))
	require.NoError(t, err, "%s", text)
	for i := range got.Steps {
		require.NotZero(t, got.Steps[i].Line)
		got.Steps[i].Line = 0
	}
	require.Equal(t, f, got, "%s", text)
}

func TestMapFileInverse(t *testing.T) { rapid.Check(t, mapFileInverse) }

// FuzzParseMap: any text is refused or read; what is read can be printed and read again, and built
// in bounded memory.
func FuzzParseMap(f *testing.F) {
	for _, s := range []string{"", described, "view a\nmap 0 0 ---", "view a\nview b of a\nmap 1P-4K 4K rwx\nprotect 0 1P r-- WC", "mode 5-level violation-VE\nview a\nunmap 0 128T"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		file, err := ept.ParseMap(bytes.NewReader(text))
		if err != nil {
			return
		}
		again, err := ept.ParseMap(strings.NewReader(file.String()))
		require.NoError(t, err)
		require.Equal(t, file.String(), again.String())
		if len(file.Steps) > 50 {
			return
		}
		_, views, err := file.Build(mapArena(t, 64), nil)
		if err != nil {
			return
		}
		d := ept.Drawing{Views: views, Rows: 10}
		require.NoError(t, d.WriteText(io.Discard))
		require.NoError(t, d.WriteSVG(io.Discard))
	})
}

// Mappings of a view, whose tables are read in place, are those of its entries.
func TestMappingsOfView(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := &ept.MapFile{Mode: able(), Steps: []ept.Step{{Name: "a"}, {Verb: ept.VerbReplace, Range: ept.Range{Size: 1 << 30}, Set: ept.All | wb}}}
		for range rapid.IntRange(1, 10).Draw(t, "steps") {
			r := ept.Range{Start: rapid.Uint64Range(0, 600).Draw(t, "start") << 12, Size: rapid.Uint64Range(1, 600).Draw(t, "size") << 12}
			f.Steps = append(f.Steps, rapid.SampledFrom([]ept.Step{
				{Verb: ept.VerbUnmap, Range: r}, {Verb: ept.VerbProtect, Range: r, Clear: ept.Write}, {Verb: ept.VerbSplit, Range: r, Level: ept.PTE},
				{Verb: ept.VerbReplace, Range: r, HPA: 1 << 32, Set: ept.Read}, {Verb: ept.VerbProtect, Range: r, Clear: ept.All}, {Verb: ept.VerbJoin, Range: r},
			}).Draw(t, "step"))
		}
		_, views, err := f.Build(mapArena(t, 64), nil)
		require.NoError(t, err)
		type plain struct{ ept.Source } // hides how the view's tables can be read in place
		r := ept.Range{Start: rapid.Uint64Range(0, 1200).Draw(t, "from") << 12, Size: rapid.Uint64Range(0, 1<<20).Draw(t, "length") << 12}
		want, err := collect(plain{views[0].Source}, r)
		require.NoError(t, err)
		got, err := collect(views[0].Source, r)
		require.NoError(t, err)
		require.Equal(t, want, got)
	})
}

func TestParseNumber(t *testing.T) {
	for s, want := range map[string]uint64{
		"0": 0, "4096": 4096, "0x1000": 4096, "4k": 4096, "2M": 2 << 20, "1G": 1 << 30, "3T": 3 << 40, "1P": 1 << 50, "0x10K": 16 << 10,
		"3G-1M": 3<<30 - 1<<20, "0xfffff_f000": 0xffffff000, "4K-4096": 0,
	} {
		got, err := ept.ParseNumber(s)
		require.NoError(t, err)
		require.Equal(t, want, got, s)
	}
	for _, s := range []string{"", "K", "-", "1-", "-1", "1-2", "1K-2K-3K", "1.5G", "4KB", "0x", "16384P", "99999999999999999999"} {
		_, err := ept.ParseNumber(s)
		require.Error(t, err, s)
	}
}

func BenchmarkMappings(b *testing.B) {
	for _, bm := range []struct {
		name string
		size uint64
		to   ept.Level
	}{{"1GiB/4KiB", 1 << 30, ept.PTE}, {"512GiB/2MiB", 512 << 30, ept.PDE}} {
		b.Run(bm.name, func(b *testing.B) {
			space, err := ept.New(ept.Config{Pages: mapArena(b, 600), Mode: able(), LargestPage: bm.to})
			require.NoError(b, err)
			v := space.View(0)
			_, err = v.Map(0, bm.size, 0, ept.All|wb)
			require.NoError(b, err)
			b.ReportAllocs()
			n := 0
			for b.Loop() {
				for range ept.Mappings(v) {
					n++
				}
			}
			require.Equal(b, b.N, n)
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(bm.size/bm.to.PageSize()), "ns/page")
		})
	}
}
