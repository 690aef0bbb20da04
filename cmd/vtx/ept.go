package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/govtx/vtx/ept"
)

const (
	// eptTables is the most memory that "vtx ept" spends on tables: enough for 64 GiB
	// by pages of 4 KiB, twice.
	eptTables = 256 << 20
	// eptTableBase is where the tables are said to be.
	eptTableBase = 0x1000
	// eptRows is how many mappings of a view are listed without -all.
	eptRows = 100
)

var eptCommand = &command{
	name:  "ept",
	args:  "FILE|-",
	short: "draw and explain a map of guest-physical memory",
	long: `The FILE, or standard input, describes one or several views of memory:

	# VTL1 sees all; VTL0 cannot touch the secure kernel
	processor bits=39 2M 1G execute-only accessed-dirty
	mode accessed-dirty
	view VTL1
	map 0 640K rwx WB
	map 1M 3G-1M rwx WB
	map 0xfee00000 4K to 0x7f000000 rw- UC ignore-PAT
	view VTL0 of VTL1
	protect 0x40000000 2M r--
	unmap 0x40200000 64K

Numbers are decimal or hexadecimal, with units (4K, 2M, 1G, 1T); # begins a comment.

  processor [bits=N] [WORD...]   MAXPHYADDR and those of 2M, 1G, execute-only, 5-level,
                                 accessed-dirty, advanced-exits, shadow-stack that the
                                 processor has; without the line 46 bits and all
  mode WORD...                   what is in use: 5-level, accessed-dirty, shadow-stack,
                                 mode-based-execute, sub-page-write, violation-VE,
                                 paging-write, verify-guest-paging
  view NAME [of VIEW]            what follows is of this view: a new one, a copy of
                                 another as it is by then, or one named before
  map ADDRESS SIZE [to HOST] RIGHTS [TYPE] [ATTRIBUTE...]
                                 RIGHTS are rwx, r--, ..., with a u behind them for
                                 fetches in user mode; TYPE is WB, UC, WC, WT or WP;
                                 ATTRIBUTES are ignore-PAT, suppress-VE, sub-page-write,
                                 paging-write, verify-guest-paging, software-11, ...
  replace ...                    as map, but what is mapped there is replaced
  unmap ADDRESS SIZE
  protect ADDRESS SIZE [RIGHTS] [TYPE] [ATTRIBUTE...] [no-ATTRIBUTE...]
  split ADDRESS SIZE 4K|2M       makes pages smaller
  join ADDRESS SIZE              makes pages larger where they agree

vtx prints the mappings of each view, counts its tables, and draws all views beside each
other. With -translate or -diff it prints the answer only. An ACCESS is r, w or x (fetch),
with u for a user-mode linear address, or p for an access to the guest's paging structures;
r if there is none.

Exit status: 0; 1 if a line is wrong, which is named; 2 if FILE cannot be read.
`,
	setup: func(fs *flag.FlagSet) func([]string) (int, error) {
		e := &eptRun{out: os.Stdout, errOut: os.Stderr}
		fs.StringVar(&e.svg, "svg", "", "write the drawing to `FILE`, too")
		fs.Func("translate", "explain a translation in each view: `ADDRESS[:ACCESS]`", e.parseTranslate)
		fs.StringVar(&e.diff, "diff", "", "print what two views translate differently: `VIEW,VIEW`")
		fs.Func("range", "look at a part only: `ADDRESS,SIZE`", e.parseRange)
		fs.IntVar(&e.rows, "rows", 0, "draw `N` rows at most; 0 for 60")
		fs.BoolVar(&e.all, "all", false, fmt.Sprintf("list all mappings; without it %d of each view", eptRows))
		fs.BoolVar(&e.steps, "steps", false, "print which INVEPT each line of the file would ask for, if processors used the view")
		return func(args []string) (int, error) {
			if len(args) != 1 {
				return 0, fmt.Errorf("want one FILE, or - for standard input")
			}
			return e.run(args[0])
		}
	},
}

// An eptRun is one run of "vtx ept".
type eptRun struct {
	svg, diff   string
	translate   bool
	address     uint64
	access      ept.Access
	part        ept.Range // Size 0 for all
	rows        int
	all, steps  bool
	out, errOut io.Writer
}

func (e *eptRun) parseTranslate(s string) (err error) {
	address, access, _ := strings.Cut(s, ":")
	if e.address, err = ept.ParseNumber(address); err != nil {
		return err
	}
	e.translate = true
	e.access = ept.AccessLinear | ept.AccessTranslation | ept.AccessWritable
	for _, c := range access {
		switch c {
		case 'r':
			e.access |= ept.AccessRead
		case 'w':
			e.access |= ept.AccessWrite
		case 'x':
			e.access |= ept.AccessFetch
		case 'u':
			e.access |= ept.AccessUser
		case 'p':
			e.access &^= ept.AccessTranslation | ept.AccessWritable
		default:
			return fmt.Errorf("%q is no access: want letters of r, w, x, u and p", access)
		}
	}
	if e.access&(ept.AccessRead|ept.AccessWrite|ept.AccessFetch) == 0 {
		e.access |= ept.AccessRead
	}
	return nil
}

func (e *eptRun) parseRange(s string) (err error) {
	start, size, ok := strings.Cut(s, ",")
	if !ok {
		return errors.New("want ADDRESS,SIZE")
	}
	if e.part.Start, err = ept.ParseNumber(start); err != nil {
		return err
	}
	if e.part.Size, err = ept.ParseNumber(size); err == nil && (e.part.Size == 0 || e.part.Start+e.part.Size < e.part.Start) {
		err = errors.New("the range has the size 0, or wraps")
	}
	return err
}

func (e *eptRun) run(name string) (int, error) {
	if e.translate && e.diff != "" {
		return 0, errors.New("-translate and -diff exclude each other")
	}
	text, err := readInput(name)
	if err != nil {
		return 0, err
	}
	wrong := func(err error) (int, error) {
		fmt.Fprintf(e.errOut, "%s: %v\n", name, err)
		return 1, nil
	}
	file, err := ept.ParseMap(bytes.NewReader(text))
	if err != nil {
		return wrong(err)
	}
	arena, err := ept.NewArena(make([]byte, eptTables), eptTableBase)
	if err != nil {
		return 0, err
	}
	_, views, err := file.Build(arena, e.step)
	if err != nil {
		return wrong(err)
	}
	if e.part.Size == 0 {
		e.part = ept.Range{Size: file.Mode.AddressLimit()}
	}
	switch {
	case e.translate:
		err = e.explain(views)
	case e.diff != "":
		err = e.compare(views)
	default:
		err = e.show(views, arena.Used())
	}
	return 0, err
}

// step prints what a line of the file asks for.
func (e *eptRun) step(s ept.Step, due ept.Invalidation) {
	if !e.steps || s.Verb == ept.VerbView {
		return
	}
	fmt.Fprintf(e.out, "line %d: %v\n  INVEPT: %v\n", s.Line, s, due)
}

// explain prints how the access is translated in each view.
func (e *eptRun) explain(views []ept.Named) error {
	for i, v := range views {
		if i > 0 {
			fmt.Fprintln(e.out)
		}
		fmt.Fprintf(e.out, "%s, ", v.Name)
		if err := ept.Explain(e.out, v.Source, e.address, e.access); err != nil {
			return err
		}
	}
	return nil
}

// compare prints what two views translate differently.
func (e *eptRun) compare(views []ept.Named) error {
	var pair []ept.Named
	names := strings.Split(e.diff, ",")
	for _, name := range names {
		for _, v := range views {
			if v.Name == name {
				pair = append(pair, v)
			}
		}
	}
	if len(names) != 2 || len(pair) != 2 {
		var all []string
		for _, v := range views {
			all = append(all, v.Name)
		}
		return fmt.Errorf("-diff %s: want two views, with a comma between them; there are %s", e.diff, strings.Join(all, ", "))
	}
	n, size := 0, uint64(0)
	for d, err := range ept.CompareIn(pair[0].Source, pair[1].Source, e.part) {
		if err != nil {
			return err
		}
		if n == 0 {
			fmt.Fprintf(e.out, "range (size): %s | %s\n", pair[0].Name, pair[1].Name)
		}
		fmt.Fprintln(e.out, d)
		n, size = n+1, size+d.Size
	}
	if n == 0 {
		fmt.Fprintf(e.out, "%s and %s translate alike\n", pair[0].Name, pair[1].Name)
		return nil
	}
	fmt.Fprintf(e.out, "%s, %d KiB\n", plural(n, "difference"), size>>10)
	return nil
}

// show prints mappings, counts of tables, and the drawing.
func (e *eptRun) show(views []ept.Named, used int) error {
	for _, v := range views {
		f, err := ept.Measure(v.Source, e.part)
		if err != nil {
			return err
		}
		fmt.Fprintf(e.out, "%s: %s\n", v.Name, footprint(&f))
		out := &lineLimit{w: e.out, left: eptRows + 1}
		if e.all {
			out.left = -1
		}
		if err := ept.WriteTableIn(out, v.Source, e.part); err != nil {
			return err
		}
		if out.cut > 0 {
			fmt.Fprintf(e.out, "%d more; -all lists them, -range some\n", out.cut)
		}
		fmt.Fprintln(e.out)
	}
	if len(views) > 1 {
		fmt.Fprintf(e.out, "%s in all: views share those that agree\n\n", plural(used, "table"))
	}
	d := &ept.Drawing{Views: views, Range: e.part, Rows: e.rows}
	if err := d.WriteText(e.out); err != nil || e.svg == "" {
		return err
	}
	var b bytes.Buffer
	if err := d.WriteSVG(&b); err != nil {
		return err
	}
	return os.WriteFile(e.svg, b.Bytes(), 0o666)
}

// footprint tells how many tables and pages there are.
func footprint(f *ept.Footprint) string {
	var pages []string
	for l := ept.PDPTE; l >= ept.PTE; l-- {
		if n := f.Pages[l]; n > 0 {
			pages = append(pages, plural(n, "page")+" of "+ept.PageSizes(1<<l).String())
		}
	}
	if len(pages) == 0 {
		pages = []string{"no pages"}
	}
	return plural(f.Total(), "table") + ", " + strings.Join(pages, ", ")
}

// A lineLimit passes a number of lines on, and counts the others. Each Write is one line.
type lineLimit struct {
	w    io.Writer
	left int // below 0 for no limit
	cut  int
}

func (l *lineLimit) Write(p []byte) (int, error) {
	if l.left == 0 {
		l.cut++
		return len(p), nil
	}
	l.left--
	return l.w.Write(p)
}
