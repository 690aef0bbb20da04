package ept_test

import (
	"bytes"
	"embed"
	"encoding/xml"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"pgregory.net/rapid"

	"github.com/govtx/vtx/ept"
	"github.com/govtx/vtx/internal/require"
	"github.com/govtx/vtx/internal/ring0test"
)

var update = flag.Bool("update", false, "write the files in testdata/golden")

//go:embed testdata/golden
var goldens embed.FS

// golden compares with a file in testdata/golden.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	if *update {
		require.NoError(t, os.WriteFile(filepath.Join("testdata/golden", name), got, 0o644))
		return
	}
	want, err := goldens.ReadFile("testdata/golden/" + name)
	require.NoError(t, err, "-update writes it")
	require.Equal(t, string(want), string(got), "%s; -update writes it, if that is meant", name)
}

// paint maps a range, by the largest pages that fit.
func (s *sparse) paint(gpa, size, hpa uint64, e ept.Entry) {
	for end := gpa + size; gpa < end; {
		l := ept.PDPTE
		for l > ept.PTE && ((gpa|hpa)&(l.PageSize()-1) != 0 || gpa+l.PageSize() > end) {
			l--
		}
		at := e | ept.Entry(hpa)
		if l > ept.PTE {
			at |= ept.Large
		}
		s.set(gpa, l, at, ept.All|ept.ExecuteUser)
		gpa, hpa = gpa+l.PageSize(), hpa+l.PageSize()
	}
}

const (
	kib = 1 << 10
	mib = 1 << 20
	gib = 1 << 30
)

// bigWithHole is 512 GiB with a hole of 4 KiB.
func bigWithHole() *sparse {
	s := newSparse(able())
	const hole = 0x12_3456_7000
	s.paint(0, hole, 0, ept.All|wb)
	s.paint(hole+4*kib, 512*gib-hole-4*kib, hole+4*kib, ept.All|wb)
	return s
}

// machine is a computer with 16 GiB, as its two trust levels see it.
func machine() (vtl0, vtl1 *sparse) {
	m := able()
	m.PhysicalAddressBits, m.ModeBasedExecute = 39, true
	const all = ept.All | ept.ExecuteUser
	draw := func(s *sparse, secure, secret, code, bait ept.Entry) *sparse {
		s.paint(0, 640*kib, 0, all|wb)
		s.paint(0xa0000, 128*kib, 0xa0000, ept.ReadWrite|ept.WC.Entry())
		s.paint(0xc0000, 256*kib, 0xc0000, ept.ReadExecute|ept.WP.Entry())
		s.paint(1*mib, 255*mib, 1*mib, all|wb)
		if secure != 0 {
			s.paint(256*mib, 64*mib, 256*mib, secure|wb)
		}
		s.paint(320*mib, 1*gib-320*mib, 320*mib, secret|wb)
		for i := range uint64(64) { // code and data of a driver
			s.paint(1*gib+i*32*kib, 8*kib, 1*gib+i*32*kib, code|wb)
			s.paint(1*gib+i*32*kib+8*kib, 24*kib, 1*gib+i*32*kib+8*kib, ept.ReadWrite|wb)
		}
		s.paint(1*gib+2*mib, 2*gib-2*mib, 1*gib+2*mib, bait|wb)
		s.paint(0xfec00000, 4*kib, 0xfec00000, ept.ReadWrite|ept.UC.Entry())
		s.paint(0xfee00000, 4*kib, 0x2_0000_0000, ept.ReadWrite|ept.UC.Entry()|ept.IgnorePAT)
		s.paint(4*gib, 13*gib, 8*gib, all|wb)
		return s
	}
	return draw(newSparse(m), 0, ept.ReadWrite|ept.ExecuteUser, ept.ReadExecute, all), draw(newSparse(m), all, all, all, all)
}

// crowded is memory in which many single pages differ, at places without pattern.
func crowded() *sparse {
	s := newSparse(able())
	at, step := uint64(0), uint64(1)
	for i := range uint64(500) {
		step = step*6364136223846793005 + 1442695040888963407
		size := 4*kib + step>>40%512*4*kib
		s.paint(at, size, at, ept.All|wb)
		if i%3 != 0 {
			s.paint(at+size, 4*kib, at+size, ept.Read|wb)
		}
		at += size + 4*kib
	}
	s.paint(64*gib, 64*gib, 64*gib, ept.ReadWrite|wb)
	return s
}

// strange has all that is rare.
func strange() *sparse {
	m := able()
	m.ViolationVE, m.Levels, m.PhysicalAddressBits = true, 5, 52
	s := newSparse(m)
	s.paint(0, 16*kib, 0, ept.Execute|ept.WT.Entry())
	s.paint(16*kib, 16*kib, 0, ept.Write|wb)
	s.paint(32*kib, 16*kib, 32*kib, ept.All|wb|ept.SuppressVE|ept.Software62)
	for i := range uint64(8) { // host memory in pieces
		s.paint(2*mib+i*4*kib, 4*kib, 1*gib-i*8*kib, ept.All|wb)
	}
	s.set(6*mib, ept.PTE, ept.Execute|wb, ept.Read) // no right in common
	s.paint(1<<50, 1*gib, 0, ept.Read|wb)
	return s
}

func drawings() map[string]*ept.Drawing {
	vtl0, vtl1 := machine()
	broken := bigWithHole()
	broken.pages[broken.root][1] = 0x1007
	return map[string]*ept.Drawing{
		"hole":    {Views: []ept.Named{{Name: "view", Source: bigWithHole()}}},
		"vtl":     {Title: "16 GiB as two trust levels see it", Views: []ept.Named{{Name: "VTL0", Source: vtl0}, {Name: "VTL1", Source: vtl1}}},
		"few":     {Views: []ept.Named{{Name: "VTL0", Source: vtl0}, {Name: "VTL1", Source: vtl1}}, Rows: 8},
		"crowded": {Views: []ept.Named{{Name: "view", Source: crowded()}}, Rows: 24},
		"strange": {Views: []ept.Named{{Name: "<&\x1b[31m \"view\"", Source: strange()}}},
		"broken":  {Title: "A dump", Views: []ept.Named{{Name: "view", Source: broken}}},
		"empty":   {Views: []ept.Named{{Name: "view", Source: newSparse(able())}}},
		"part":    {Views: []ept.Named{{Name: "VTL0", Source: vtl0}}, Range: ept.Range{Start: 1 * gib, Size: 64 * kib}},
	}
}

func TestDraw(t *testing.T) {
	ring0test.HostOnly(t)
	for name, d := range drawings() {
		t.Run(name, func(t *testing.T) {
			var text, svg bytes.Buffer
			for w, draw := range map[*bytes.Buffer]func(io.Writer) error{&text: d.WriteText, &svg: d.WriteSVG} {
				err := draw(w)
				if name == "broken" {
					require.ErrorIs(t, err, ept.ErrTableLoop)
				} else {
					require.NoError(t, err)
				}
			}
			golden(t, "draw_"+name+".txt", text.Bytes())
			golden(t, "draw_"+name+".svg", svg.Bytes())
			wellFormed(t, svg.Bytes())
			for line := range strings.Lines(text.String()) {
				require.Equal(t, strings.TrimRight(line, " \n"), strings.TrimSuffix(line, "\n"))
			}
		})
	}
}

// wellFormed checks that an SVG is XML, and stands alone.
func wellFormed(t require.T, svg []byte) {
	d := xml.NewDecoder(bytes.NewReader(svg))
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		require.NoError(t, err, "%s", svg)
		if e, ok := token.(xml.StartElement); ok {
			require.NotEqual(t, "script", e.Name.Local)
			for _, a := range e.Attr {
				require.True(t, a.Name.Local != "href" && !strings.HasPrefix(a.Name.Local, "on"), "%v", a)
			}
		}
	}
}

// Whatever is drawn has at most as many lines as asked for (and some for each period), is
// plain text, and begins and ends where the mappings do.
func drawAnything(t *rapid.T) {
	mode, palette := drawMapMode(t), drawPalette(t)
	d := ept.Drawing{Title: rapid.String().Draw(t, "title"), Rows: rapid.IntRange(1, 30).Draw(t, "rows"), Range: window}
	for range rapid.IntRange(1, 3).Draw(t, "views") {
		d.Views = append(d.Views, ept.Named{Name: rapid.String().Draw(t, "name"), Source: drawSparse(t, mode, palette)})
	}
	var text, svg bytes.Buffer
	require.NoError(t, d.WriteText(&text))
	require.NoError(t, d.WriteSVG(&svg))
	wellFormed(t, svg.Bytes())
	require.True(t, utf8.Valid(text.Bytes()))
	rows := 0
	for line := range strings.Lines(text.String()) {
		if strings.HasPrefix(line, "0x") || strings.HasPrefix(line, "  ") {
			rows++
		}
	}
	require.LessOrEqual(t, rows, d.Rows+5)
}

func TestDrawAnything(t *testing.T) { checkFew(t, drawAnything) }
func FuzzDraw(f *testing.F)         { f.Fuzz(rapid.MakeFuzz(drawAnything)) }

type full struct{ room int }

func (f *full) Write(p []byte) (int, error) {
	if f.room -= len(p); f.room < 0 {
		return 0, io.ErrShortWrite
	}
	return len(p), nil
}

// An error of the writer is returned, wherever it comes.
func TestDrawFails(t *testing.T) {
	s := bigWithHole()
	d := ept.Drawing{Views: []ept.Named{{Name: "view", Source: s}}}
	for _, write := range []func(io.Writer) error{
		d.WriteText, d.WriteSVG,
		func(w io.Writer) error { return ept.WriteTable(w, s) },
		func(w io.Writer) error { return ept.Explain(w, s, 0x1234, ept.LinearRead) },
	} {
		var b bytes.Buffer
		require.NoError(t, write(&b))
		for _, room := range []int{0, b.Len() / 2, b.Len() - 1} {
			require.ErrorIs(t, write(&full{room}), io.ErrShortWrite)
		}
	}
}

// Of more ranges than are kept, all are still counted.
func TestDrawMany(t *testing.T) {
	ring0test.HostOnly(t)
	s := newSparse(able())
	want := 0
	for i := range uint64(20000) {
		if i*i%7 < 3 && i*i*i%11 > 4 { // with periods longer than those that are looked for
			s.set(i<<12, ept.PTE, ept.Read|ept.Entry(i<<12), ept.All)
		}
	}
	last := uint64(0)
	for m, err := range ept.Mappings(s) {
		require.NoError(t, err)
		if m.Start != last {
			want++ // a hole
		}
		want, last = want+1, m.Start+m.Size
	}
	require.Greater(t, want, 8192)
	var b bytes.Buffer
	require.NoError(t, (&ept.Drawing{Views: []ept.Named{{Source: s}}, Rows: 1}).WriteText(&b))
	require.Contains(t, b.String(), fmt.Sprintf(" %d ranges\n", want))
}
