package ept

import (
	"fmt"
	"io"
	"math/bits"
	"strings"
	"unicode/utf8"
)

// Measures of the SVG, in pixels.
const (
	svgMargin  = 20
	svgChar    = 7.25 // width of a monospaced character
	svgLine    = 18   // height of 4 KiB, and of each line of a period
	svgBand    = 14   // width of the memory type's band
	svgColumn  = 300  // least width of a view
	svgGap     = 12
	svgNote    = 116 // width for what stands at the right
	svgLegend  = 150 // width of an entry of the legend
	svgHeading = 34
)

// svgStyle holds for light and for dark viewers. Blocks are bright in both, so what is
// written in them is dark in both.
const svgStyle = `<style>
text{font:12px ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace;fill:#1a1a1a;white-space:pre}
.page{fill:#fff}.name{font-weight:bold;font-size:14px}.soft{fill:#555}.line{stroke:#999}
.in{fill:#111}.block{stroke:#333;stroke-width:.6}.hole{fill:none;stroke:#888;stroke-dasharray:3 3}.mark{stroke:#111}
@media (prefers-color-scheme:dark){text{fill:#eee}.page{fill:#17181c}.soft{fill:#aaa}.line{stroke:#666}.in{fill:#111}.block{stroke:#000}}
</style>
`

// svgPatterns has one for each memory type but WB, which is plain.
const svgPatterns = `<defs>
<pattern id="ept-UC" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)"><path class="mark" stroke-width="5" d="M0 0V6"/></pattern>
<pattern id="ept-WC" width="6" height="6" patternUnits="userSpaceOnUse"><circle fill="#111" cx="3" cy="3" r="1.6"/></pattern>
<pattern id="ept-WT" width="6" height="5" patternUnits="userSpaceOnUse"><path class="mark" stroke-width="3" d="M0 2H6"/></pattern>
<pattern id="ept-WP" width="7" height="7" patternUnits="userSpaceOnUse"><path class="mark" stroke-width="1.6" d="M0 0L7 7M7 0L0 7"/></pattern>
</defs>
`

// WriteSVG draws as an SVG file that needs nothing else: no scripts, no fonts. Colours are
// rights, the band at the left of each block is the memory type; what a block is stands in it,
// and in full where the pointer rests. If the tables could not be read to their end, it
// draws what there is, and returns the error.
func (d *Drawing) WriteSVG(w io.Writer) error {
	rows, failed := d.rows()
	p := svgPicture{drawing: d, rows: rows, failed: failed}
	if _, err := io.WriteString(w, p.draw()); err != nil {
		return err
	}
	return failed
}

type svgPicture struct {
	drawing *Drawing
	rows    []row
	failed  error
	body    strings.Builder
	used    [len(classes)]bool
	types   [8]bool // memory types used
	digits  int
	left    float64 // of the views
	column  float64 // width of a view
	y       float64
}

func (p *svgPicture) draw() string {
	d := p.drawing
	if n := len(p.rows); n > 0 {
		p.digits = addressDigits(p.rows[n-1].Start + p.rows[n-1].Size - 1)
	}
	p.left = svgMargin + float64(p.digits+2+9)*svgChar
	p.column = svgColumn
	each(p.rows, func(r *row) {
		for i := range r.cells {
			need := 0.0
			for _, label := range r.cells[i].labels(r.Start) {
				need += labelWidth(label)
			}
			p.column = max(p.column, min(need, 2*svgColumn))
		}
	})
	views := max(len(d.Views), 1)
	right := p.left + float64(views)*(p.column+svgGap)
	p.y = svgMargin
	if d.Title != "" {
		p.y += 16
		p.text(svgMargin, p.y, "name", "", cut(plain(d.Title), 80))
		p.y += 8
	}
	p.y += svgHeading
	for i, v := range d.Views {
		p.text(p.x(i), p.y-10, "name", "", cut(plain(v.Name), int(p.column/svgChar*.85)))
	}
	for i := range p.rows {
		p.row(&p.rows[i], right)
	}
	if n := len(p.rows); n > 0 {
		last := &p.rows[n-1]
		p.address(last.Start + last.Size)
		p.y += 8
	} else {
		p.text(svgMargin, p.y+svgLine, "", "", "nothing is mapped")
		p.y += svgLine
	}
	p.y += 14
	if p.failed != nil {
		p.y += 16
		p.text(svgMargin, p.y, "", "", "The tables could not be read further:")
		for s := plain(p.failed.Error()); s != ""; {
			line := cut(s, 100)
			s = strings.TrimPrefix(s, strings.TrimSuffix(line, "…"))
			p.y += 16
			p.text(svgMargin, p.y, "soft", "", line)
		}
		p.y += 10
	}
	width := max(right+svgNote, svgMargin+4*svgLegend)
	p.legend(width)
	height := p.y + svgMargin
	var b strings.Builder
	name := plain(d.Title)
	if name == "" {
		name = "Memory map"
	}
	fmt.Fprintf(&b, "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %.0f %.0f\" width=\"%.0f\" height=\"%.0f\" role=\"img\">\n<title>%s</title>\n",
		width, height, width, height, escape(name))
	b.WriteString(svgStyle + svgPatterns)
	fmt.Fprintf(&b, "<rect class=\"page\" width=\"%.0f\" height=\"%.0f\"/>\n", width, height)
	b.WriteString(p.body.String())
	b.WriteString("</svg>\n")
	return b.String()
}

func (p *svgPicture) x(view int) float64 { return p.left + float64(view)*(p.column+svgGap) }

// svgHeight is how high a range is: 18 for 4 KiB, 72 for 512 GiB.
func svgHeight(size uint64) float64 {
	return svgLine + 2*float64(max(bits.Len64(size)-13, 0))
}

// address writes the address of the line at y, across from where it is drawn.
func (p *svgPicture) address(a uint64) {
	p.printf("<path class=\"line\" d=\"M%.1f %.1fH%.1f\"/>\n", p.left-6, p.y, p.left)
	p.text(svgMargin, p.y+4, "", "", fmt.Sprintf("0x%0*x", p.digits, a))
}

// row draws a row at y.
func (p *svgPicture) row(r *row, right float64) {
	p.address(r.Start)
	height := svgHeight(r.Size)
	if r.period == nil {
		p.size(r.Size, height)
		for i := range r.cells {
			p.cell(&r.cells[i], r, p.x(i), height)
		}
		p.text(right, p.y+height/2+4, "soft", "", r.note())
		p.y += height
		return
	}
	// A period: its lines, and a bracket with how often.
	top := p.y
	for i := range r.period {
		q := &r.period[i]
		height := svgHeight(q.Size)
		p.size(q.Size, height)
		for i := range q.cells {
			p.cell(&q.cells[i], q, p.x(i), height)
		}
		p.text(right, p.y+height/2+4, "soft", "", q.note())
		p.y += height
	}
	x := right + 14
	p.printf("<path class=\"line\" fill=\"none\" d=\"M%.1f %.1fh5V%.1fh-5\"/>\n", x, top+1, p.y-1)
	middle := (top + p.y) / 2
	p.text(x+10, middle-3, "", "", fmt.Sprintf("%d times,", r.times))
	p.text(x+10, middle+11, "", "", formatSize(r.Size))
	// Two gaps in the line tell that what follows is left out.
	p.y += 4
	p.printf("<path class=\"line\" stroke-dasharray=\"2 4\" d=\"M%.1f %.1fH%.1f\"/>\n", p.left, p.y, right-svgGap)
	p.y += 4
}

func (p *svgPicture) size(size uint64, height float64) {
	p.text(p.left-10, p.y+max(height/2+4, 13), "soft", "end", formatSize(size))
}

// cell draws a block. The parts of a mixture stand beside each other, as wide as their texts
// need; what is left goes to the larger ones.
func (p *svgPicture) cell(c *cell, r *row, x, height float64) {
	p.printf("<g><title>%s</title>\n", escape(fmt.Sprintf("%v (%s): %s", r.Range, formatSize(r.Size), c.text(r.Start))))
	labels := c.labels(r.Start)
	need, weight := 0.0, 0.0
	for i, part := range c.parts {
		need += labelWidth(labels[i])
		weight += svgHeight(part.size)
	}
	shrink := min(1, p.column/need)
	spare := max(0, p.column-need)
	for i, part := range c.parts {
		width := labelWidth(labels[i])*shrink + spare*svgHeight(part.size)/weight
		p.part(part.kind, x, width, height)
		class, left := "in", 8.0+svgBand
		switch {
		case !part.mapped:
			class, left = "soft", 8
		case part.misconfigured != nil:
			left = 8
		}
		p.text(x+left, p.y+height/2+4, class, "", cut(labels[i], int((width-left-2)/svgChar)))
		x += width
	}
	p.printf("</g>\n")
}

// labels are the texts of a cell's parts.
func (c *cell) labels(start uint64) []string {
	if len(c.parts) == 1 && c.other == 0 {
		return []string{c.text(start)}
	}
	var out []string
	for _, p := range c.parts {
		out = append(out, formatSize(p.size)+" "+p.String())
	}
	return out
}

func labelWidth(s string) float64 {
	return svgBand + 14 + svgChar*float64(utf8.RuneCountInString(s))
}

// part draws one colour of a block, with the band of its memory type.
func (p *svgPicture) part(k kind, x, width, height float64) {
	c := k.class()
	p.used[c] = true
	if c == classHole {
		p.printf("<rect class=\"hole\" x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\"/>\n", x+.5, p.y+.5, width-1, height-1)
		return
	}
	p.printf("<rect class=\"block\" fill=\"%s\" x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\"/>\n", classes[c].colour, x, p.y, width, height)
	if k.misconfigured == nil {
		p.types[k.attributes.MemoryType()] = true
		p.band(k.attributes.MemoryType(), x, p.y, min(svgBand, width), height)
	}
}

func (p *svgPicture) band(t MemoryType, x, y, width, height float64) {
	p.printf("<rect class=\"block\" fill=\"#fff\" x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\"/>\n", x, y, width, height)
	if t != WB {
		p.printf("<rect fill=\"url(#ept-%v)\" x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\"/>\n", t, x, y, width, height)
	}
}

// legend tells what the colours and bands in use are.
func (p *svgPicture) legend(width float64) {
	x := float64(svgMargin)
	item := func(name string, draw func(y float64)) {
		w := max(svgLegend, 40+float64(len(name))*svgChar)
		if x+w > width {
			x, p.y = svgMargin, p.y+24
		}
		draw(p.y)
		p.text(x+34, p.y+12, "", "", name)
		x += w
	}
	for i, c := range classes {
		if !p.used[i] {
			continue
		}
		item(c.name, func(y float64) {
			shape := fmt.Sprintf("class=\"block\" fill=\"%s\"", c.colour)
			if class(i) == classHole {
				shape = "class=\"hole\""
			}
			p.printf("<rect %s x=\"%.1f\" y=\"%.1f\" width=\"28\" height=\"16\"/>\n", shape, x+.5, y+.5)
		})
	}
	p.y += 24
	x = svgMargin
	for t := range MemoryType(len(p.types)) {
		if p.types[t] {
			item(memoryTypeWords[t], func(y float64) { p.band(t, x+.5, y+.5, 28, 16) })
		}
	}
	p.y += 36
	for _, line := range append(p.drawing.notes(p.rows), "Heights grow with the logarithm of the size.") {
		p.text(svgMargin, p.y, "soft", "", line)
		p.y += 16
	}
}

var memoryTypeWords = [...]string{UC: "UC", WC: "WC", WT: "WT", WP: "WP", WB: "WB", 7: ""}

func (p *svgPicture) text(x, y float64, class, anchor, s string) {
	if s == "" {
		return
	}
	attributes := ""
	if class != "" {
		attributes += fmt.Sprintf(" class=%q", class)
	}
	if anchor != "" {
		attributes += fmt.Sprintf(" text-anchor=%q", anchor)
	}
	p.printf("<text%s x=\"%.1f\" y=\"%.1f\">%s</text>\n", attributes, x, y, escape(s))
}

func (p *svgPicture) printf(format string, args ...any) { fmt.Fprintf(&p.body, format, args...) }

// cut shortens a text to a number of characters.
func cut(s string, n int) string {
	if utf8.RuneCountInString(s) <= n {
		return s
	}
	return string([]rune(s)[:max(n-1, 0)]) + "…"
}

var escaper = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", "\"", "&#34;")

// escape makes a text one of XML.
func escape(s string) string { return escaper.Replace(s) }
