package ept

import (
	"cmp"
	"fmt"
	"io"
	"math/bits"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// A Named is a source with the name that drawings show.
type Named struct {
	Name   string
	Source Source
}

// A Drawing shows what one or several views map, side by side: a row for each range of
// guest-physical addresses that every view maps in one way. Rows grow with the logarithm of
// their size, so that a page of 4 KiB is seen beside 512 GiB. Ranges that repeat are
// drawn once, with how often. Where there are more ranges than fit, neighbours
// are put together, the smallest first, and the row tells what is in it and how much.
type Drawing struct {
	Title string
	Views []Named
	Range Range // what to draw; Size 0 for all
	Rows  int   // how many rows at most; 0 for 60
}

const (
	defaultRows = 60
	maxPeriod   = 4    // ranges that repeat together
	maxParts    = 6    // kinds of memory that a row of a mixture tells apart
	roomForRows = 8192 // cells kept before neighbours are put together
)

// A kind is how memory is mapped, as far as colours tell.
type kind struct {
	mapped        bool
	attributes    Entry
	misconfigured *Rule
}

func kindOf(m *Mapping) kind { return kind{m.Size != 0, m.Attributes, m.Misconfigured} }

// String tells the attributes, as "RWX WB".
func (k kind) String() string {
	switch {
	case !k.mapped:
		return "hole"
	case k.misconfigured != nil:
		return "misconfigured: " + k.misconfigured.ID
	}
	return formatAttributes(k.attributes)
}

// A part is how much of a cell is of one kind.
type part struct {
	kind
	size uint64
}

// A cell is what one view has in a row.
type cell struct {
	parts []part // one, unless it is a mixture; the largest first
	other uint64 // bytes of kinds that found no room in parts
	host  host
}

// host is where a cell is in host-physical memory.
type host struct {
	known     bool   // something is mapped
	scattered bool   // not all at one distance
	distance  uint64 // of host-physical addresses from guest-physical ones
}

func hostOf(m *Mapping) host {
	if m.Size == 0 || m.Misconfigured != nil {
		return host{}
	}
	return host{known: true, distance: m.HPA - m.Start}
}

func (h host) and(o host) host {
	switch {
	case !h.known:
		return o
	case o.known:
		h.scattered = h.scattered || o.scattered || h.distance != o.distance
	}
	return h
}

// text tells the address for what starts at a guest-physical one, unless they are the same.
func (h host) text(start uint64) string {
	switch {
	case !h.known || !h.scattered && h.distance == 0:
		return ""
	case h.scattered:
		return "scattered"
	}
	return fmt.Sprintf("at 0x%x", start+h.distance)
}

// A row is a range of addresses as it is drawn.
type row struct {
	Range
	cells  []cell // by view; nil if the row is a period that repeats
	ranges int    // that were put together in it
	period []row  // what repeats, with the first addresses
	times  int
}

// note tells what the row is besides its cells: "≠" if the views differ, and how many
// ranges are in it.
func (r *row) note() string {
	s := ""
	for i := range r.cells {
		if !r.cells[i].like(&r.cells[0]) {
			s = "≠ "
		}
	}
	if r.ranges > 1 {
		s += fmt.Sprintf("%d ranges", r.ranges)
	}
	return strings.TrimSpace(s)
}

// like reports whether two views look the same in a row.
func (c *cell) like(o *cell) bool {
	return c.host == o.host && c.other == o.other && slices.Equal(c.parts, o.parts)
}

// lines is how many lines the row takes.
func (r *row) lines() int { return 1 + len(r.period) }

// repeats reports whether a row looks like another, wherever they are.
func (r *row) repeats(o *row) bool {
	return r.Size == o.Size && r.period == nil && o.period == nil && r.ranges == 1 && o.ranges == 1 &&
		slices.EqualFunc(r.cells, o.cells, func(a, b cell) bool { return a.parts[0].kind == b.parts[0].kind })
}

// rows collects what is drawn, and what went wrong when the tables could not be read to
// their end.
func (d *Drawing) rows() ([]row, error) {
	sources := make([]Source, len(d.Views))
	for i, v := range d.Views {
		sources[i] = v.Source
	}
	r := d.Range
	if r.Size == 0 {
		r = Range{0, 1 << 52}
	}
	var rows []row
	room := max(roomForRows/max(len(sources), 1), 256)
	var failed error
	for b, err := range bands(sources, r) {
		if err != nil {
			failed = err
			break
		}
		if n := len(rows); n > 0 && rows[n-1].extend(&b) {
			continue
		}
		rows = fold(rows)
		if len(rows) >= room {
			rows = reduce(rows, room/2)
		}
		rows = append(rows, newRow(&b))
	}
	limit := d.Rows
	if limit <= 0 {
		limit = defaultRows
	}
	return reduce(fold(rows), limit), failed
}

func newRow(b *band) row {
	r := row{Range: b.Range, ranges: 1, cells: make([]cell, len(b.cells))}
	for i := range b.cells {
		r.cells[i] = cell{parts: []part{{kindOf(&b.cells[i]), b.Size}}, host: hostOf(&b.cells[i])}
	}
	return r
}

// extend joins a band to a row that it follows if nothing but host-physical addresses is
// different.
func (r *row) extend(b *band) bool {
	if r.ranges != 1 || r.period != nil {
		return false
	}
	for i := range b.cells {
		if r.cells[i].parts[0].kind != kindOf(&b.cells[i]) {
			return false
		}
	}
	r.Size += b.Size
	for i := range b.cells {
		c := &r.cells[i]
		c.parts[0].size += b.Size
		c.host = c.host.and(hostOf(&b.cells[i]))
	}
	return true
}

// fold replaces the last rows by a period if they are its third repetition, or a further
// one.
func fold(rows []row) []row {
	n := len(rows)
	same := func(a, b []row) bool {
		return slices.EqualFunc(a, b, func(x, y row) bool { return x.repeats(&y) })
	}
	for p := 2; p <= maxPeriod; p++ {
		if n > p {
			if r := &rows[n-p-1]; len(r.period) == p && same(r.period, rows[n-p:]) {
				r.again(rows[n-p:])
				return rows[:n-p]
			}
		}
		if n >= 3*p && same(rows[n-3*p:n-2*p], rows[n-p:]) && same(rows[n-2*p:n-p], rows[n-p:]) {
			r := row{Range: Range{Start: rows[n-3*p].Start}, period: slices.Clone(rows[n-3*p : n-2*p])}
			r.again(nil)
			r.again(rows[n-2*p : n-p])
			r.again(rows[n-p:])
			return append(rows[:n-3*p], r)
		}
	}
	return rows
}

// again counts one more repetition of the period.
func (r *row) again(rows []row) {
	r.times++
	for i := range r.period {
		r.Size += r.period[i].Size
		r.ranges++
		if rows == nil {
			continue
		}
		for v := range r.period[i].cells {
			c := &r.period[i].cells[v]
			c.host = c.host.and(rows[i].cells[v].host)
		}
	}
}

// reduce puts neighbours together until no more than a number of lines is left: those
// first that are smallest together.
func reduce(rows []row, limit int) []row {
	lines := 0
	for i := range rows {
		lines += rows[i].lines()
	}
	for size := uint64(1 << 13); lines > limit && len(rows) > 1; size <<= 1 {
		out := rows[:1]
		for _, r := range rows[1:] {
			last := &out[len(out)-1]
			if lines > limit && last.Size+r.Size <= size {
				lines -= last.lines() + r.lines() - 1
				*last = mix(last, &r)
				continue
			}
			out = append(out, r)
		}
		rows = out
	}
	return rows
}

// mix makes a mixture of two rows.
func mix(a, b *row) row {
	a, b = a.flat(), b.flat()
	out := row{Range: Range{a.Start, a.Size + b.Size}, ranges: a.ranges + b.ranges, cells: make([]cell, len(a.cells))}
	for i := range out.cells {
		c := &out.cells[i]
		*c = a.cells[i]
		c.parts = slices.Clone(c.parts)
		c.add(&b.cells[i], 1)
	}
	return out
}

// flat returns the mixture that a period is.
func (r *row) flat() *row {
	if r.period == nil {
		return r
	}
	out := row{Range: r.Range, ranges: r.ranges, cells: make([]cell, len(r.period[0].cells))}
	for i := range r.period {
		for v := range out.cells {
			out.cells[v].add(&r.period[i].cells[v], uint64(r.times))
		}
	}
	return &out
}

// add mixes another cell in, a number of times.
func (c *cell) add(o *cell, times uint64) {
	c.host = c.host.and(o.host)
	c.other += o.other * times
	for _, p := range o.parts {
		p.size *= times
		i := slices.IndexFunc(c.parts, func(q part) bool { return q.kind == p.kind })
		switch {
		case i >= 0:
			c.parts[i].size += p.size
		case len(c.parts) < maxParts:
			c.parts = append(c.parts, p)
		default:
			c.other += p.size
		}
	}
	slices.SortStableFunc(c.parts, func(a, b part) int { return cmp.Compare(b.size, a.size) })
}

// text tells what is in a cell, with the host-physical address of its start.
func (c *cell) text(start uint64) string {
	h := c.host.text(start)
	if len(c.parts) == 1 && c.other == 0 {
		return strings.TrimSpace(c.parts[0].String() + " " + h)
	}
	var words []string
	for _, p := range c.parts {
		words = append(words, formatSize(p.size)+" "+p.String())
	}
	if c.other != 0 {
		words = append(words, formatSize(c.other)+" other")
	}
	if h != "" {
		return strings.Join(words, " + ") + " (not the same host addresses)"
	}
	return strings.Join(words, " + ")
}

// A class is a set of rights that has a colour.
type class uint8

const (
	classHole class = iota
	classRWX
	classRW
	classRX
	classR
	classX
	classNone
	classBad
)

var classes = [...]struct {
	glyph  rune   // of bars in text
	colour string // of the SVG; after Okabe and Ito, told apart by the colour-blind
	name   string
}{
	classHole: {'·', "none", "not mapped"},
	classRWX:  {'█', "#56b4e9", "RWX"},
	classRW:   {'▓', "#f0e442", "RW-"},
	classRX:   {'▒', "#2fb58c", "R-X"},
	classR:    {'░', "#e69f00", "R--"},
	classX:    {'x', "#cc79a7", "--X"},
	classNone: {'-', "#b4b4b4", "--- (present, no access)"},
	classBad:  {'!', "#e8743b", "misconfigured"},
}

// class returns the class of a kind. Fetches that are allowed in user or in supervisor
// mode only count as fetches.
func (k kind) class() class {
	a := k.attributes
	executable := a&(Execute|ExecuteUser) != 0
	switch {
	case !k.mapped:
		return classHole
	case k.misconfigured != nil:
		return classBad
	case a&Write != 0 && executable:
		return classRWX
	case a&Write != 0:
		return classRW
	case a&Read != 0 && executable:
		return classRX
	case a&Read != 0:
		return classR
	case executable:
		return classX
	}
	return classNone
}

// log8 is how many glyphs a bar has: 1 for 4 KiB, and one more for each factor of 8.
func log8(size uint64) int { return 1 + max(bits.Len64(size)-13, 0)/3 }

// bar draws a cell: each part has a glyph at least, the largest part has the rest.
func (c *cell) bar(size uint64) string {
	var small []rune
	for _, p := range c.parts[1:] {
		small = append(small, classes[p.class()].glyph)
	}
	big := max(log8(size)-len(small), 1)
	return strings.Repeat(string(classes[c.parts[0].class()].glyph), big) + string(small)
}

// WriteText draws with characters. If the tables could not be read to their end, it draws
// what there is, and returns the error.
func (d *Drawing) WriteText(w io.Writer) error {
	rows, failed := d.rows()
	if err := d.writeText(w, rows, failed); err != nil {
		return err
	}
	return failed
}

func (d *Drawing) writeText(w io.Writer, rows []row, failed error) error {
	var b strings.Builder
	if d.Title != "" {
		fmt.Fprintf(&b, "%s\n\n", plain(d.Title))
	}
	if len(rows) == 0 {
		b.WriteString("nothing is mapped\n")
	} else {
		d.writeRows(&b, rows)
	}
	if failed != nil {
		fmt.Fprintf(&b, "\nThe tables could not be read further: %v\n", failed)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func (d *Drawing) writeRows(b *strings.Builder, rows []row) {
	last := rows[len(rows)-1]
	digits := addressDigits(last.Start + last.Size - 1)
	longest := 0 // bar
	var used [len(classes)]bool
	each(rows, func(r *row) {
		for i := range r.cells {
			longest = max(longest, utf8.RuneCountInString(r.cells[i].bar(r.Size)))
			for _, p := range r.cells[i].parts {
				used[p.class()] = true
			}
		}
	})
	heading := []string{"guest-physical", "size"}
	for _, v := range d.Views {
		heading = append(heading, plain(v.Name))
	}
	table := [][]string{heading}
	line := func(first string, r *row) {
		cols := []string{first, formatSize(r.Size)}
		for i := range d.Views {
			if r.cells == nil {
				cols = append(cols, "")
				continue
			}
			c := &r.cells[i]
			cols = append(cols, fmt.Sprintf("%-*s %s", longest, c.bar(r.Size), c.text(r.Start)))
		}
		note := r.note()
		if r.period != nil {
			note = fmt.Sprintf("%d times:", r.times)
		}
		table = append(table, append(cols, note))
	}
	for i := range rows {
		r := &rows[i]
		first := fmt.Sprintf("0x%0*x-0x%0*x", digits, r.Start, digits, r.Start+r.Size-1)
		line(first, r)
		for j := range r.period {
			branch := "├"
			if j == len(r.period)-1 {
				branch = "└"
			}
			line(strings.Repeat(" ", len(first)-1)+branch, &r.period[j])
		}
	}
	writeColumns(b, table)
	b.WriteString("\nlegend:")
	for i, c := range classes {
		if used[i] {
			fmt.Fprintf(b, "  %c %s", c.glyph, c.name)
		}
	}
	b.WriteString("\nEach glyph more is 8 times the size, from 4K on.\n")
	for _, n := range d.notes(rows) {
		b.WriteString(n + "\n")
	}
}

// notes are what the legends of text and SVG have in common.
func (d *Drawing) notes(rows []row) []string {
	var user, differ, host bool
	each(rows, func(r *row) {
		differ = differ || strings.HasPrefix(r.note(), "≠")
		for i := range r.cells {
			host = host || r.cells[i].host.known
			for _, p := range r.cells[i].parts {
				user = user || p.attributes&ExecuteUser != 0
			}
		}
	})
	var out []string
	for _, n := range []struct {
		on   bool
		text string
	}{
		{host, "Host-physical addresses are the same unless told."},
		{user, "X is to execute in supervisor mode, U in user mode."},
		{differ, "≠ is where the views differ."},
	} {
		if n.on {
			out = append(out, n.text)
		}
	}
	return out
}

// each calls f for rows and what repeats in them.
func each(rows []row, f func(*row)) {
	for i := range rows {
		f(&rows[i])
		each(rows[i].period, f)
	}
}

// writeColumns aligns columns; the second one, sizes, to the right.
func writeColumns(b *strings.Builder, table [][]string) {
	var widths []int
	for _, cols := range table {
		for i, c := range cols {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], utf8.RuneCountInString(c))
		}
	}
	for _, cols := range table {
		line := ""
		for i, c := range cols {
			pad := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(c))
			if i == 1 {
				c, pad = pad+c, ""
			}
			line += c + pad + "  "
		}
		b.WriteString(strings.TrimRight(line, " "))
		b.WriteByte('\n')
	}
}

// addressDigits is how many hexadecimal digits all addresses up to one need, at least 8.
func addressDigits(last uint64) int { return max(8, (bits.Len64(last)+3)/4) }

// plain returns a text without what does something to a terminal.
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '?'
	}, s)
}
