package ept

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/govtx/vtx/internal/names"
	"github.com/govtx/vtx/vmcs"
)

// Limits of a [MapFile].
const (
	MaxMapFileSize  = 1 << 20 // bytes
	MaxMapFileSteps = 1 << 14 // lines that do something
)

// A MapFile is a description of memory maps as text: a line for each step, in the order in
// which they are done.
//
//	# VTL1 sees all; VTL0 cannot touch the secure kernel
//	processor bits=39 2M 1G execute-only accessed-dirty
//	mode accessed-dirty
//	view VTL1
//	map 0 640K rwx WB                      # to the same host-physical addresses
//	map 1M 3G-1M rwx WB
//	map 0xfee00000 4K to 0x7f000000 rw- UC ignore-PAT
//	view VTL0 of VTL1
//	protect 0x40000000 2M r--
//	unmap 0x40200000 64K
//
// Numbers are decimal, or hexadecimal with 0x, and can have a unit behind them: K, M, G,
// T, P; "3G-1M" subtracts. What follows # is a comment. Words can be in any case. The lines are:
//
//	processor [bits=N] [WORD...]
//	    What the processor can do: MAXPHYADDR (46 if it is not told), and of 2M, 1G (pages),
//	    execute-only, 5-level, accessed-dirty, advanced-exits, shadow-stack those that are
//	    named. Without the line it is 46 bits and all of them.
//	mode WORD...
//	    What is in use: 5-level, accessed-dirty, shadow-stack, mode-based-execute,
//	    sub-page-write, violation-VE, paging-write, verify-guest-paging.
//	view NAME [of VIEW]
//	    The lines below are of this view: a new and empty one, a copy of another as that is
//	    by then, or one that is there already.
//	map ADDRESS SIZE [to HOST] RIGHTS [TYPE] [ATTRIBUTE...]
//	replace ADDRESS SIZE [to HOST] RIGHTS [TYPE] [ATTRIBUTE...]
//	    HOST is ADDRESS if it is not told. RIGHTS are as "rwx" or "r--", with a "u" behind
//	    for fetches from user-mode addresses. TYPE is WB, or UC, WC, WT, WP. The ATTRIBUTES
//	    are those of [Entry.String]: ignore-PAT, suppress-VE and so on. map wants a hole,
//	    replace does not care.
//	unmap ADDRESS SIZE
//	protect ADDRESS SIZE [RIGHTS] [TYPE] [ATTRIBUTE...] [no-ATTRIBUTE...]
//	    Changes what is named, where something is mapped.
//	split ADDRESS SIZE 4K|2M
//	join ADDRESS SIZE
//	    Change the sizes of pages.
//
// processor and mode stand before all others, once each.
type MapFile struct {
	Mode  Mode
	Steps []Step
}

// A Step is a line of a [MapFile], but for processor and mode.
type Step struct {
	Line       int
	Verb       Verb
	Name, Of   string // of view
	Range      Range
	HPA        uint64 // of map and replace
	Set, Clear Entry  // attributes; map and replace set only
	Level      Level  // of split
}

// has reports whether the step tells what all bits of a field shall be.
func (s *Step) has(field Entry) bool { return (s.Set|s.Clear)&field == field }

// String prints the step as a line of a [MapFile].
func (s Step) String() string {
	if s.Verb == VerbView {
		if s.Of != "" {
			return fmt.Sprintf("view %s of %s", s.Name, s.Of)
		}
		return "view " + s.Name
	}
	out := fmt.Sprintf("%v %#x %s", s.Verb, s.Range.Start, formatNumber(s.Range.Size))
	switch s.Verb {
	case VerbMap, VerbReplace:
		if s.HPA != s.Range.Start {
			out += fmt.Sprintf(" to %#x", s.HPA)
		}
		return out + " " + formatAttributes(s.Set)
	case VerbProtect:
		if s.has(All) {
			out += " " + s.Set.Rights()
		}
		if s.has(memoryTypeMask) {
			out += " " + s.Set.MemoryType().String()
		}
		for bit, name := range attributeBits() {
			if s.Set&bit != 0 {
				out += " " + name
			}
			if s.Clear&bit != 0 {
				out += " no-" + name
			}
		}
	case VerbSplit:
		out += " " + formatSize(s.Level.PageSize())
	}
	return out
}

// A Verb says what a Step does.
type Verb uint8

// Verbs.
const (
	VerbView Verb = iota
	VerbMap
	VerbReplace
	VerbUnmap
	VerbProtect
	VerbSplit
	VerbJoin
)

var verbNames = [...]string{"view", "map", "replace", "unmap", "protect", "split", "join"}

// String returns the word.
func (v Verb) String() string {
	if int(v) >= len(verbNames) {
		return fmt.Sprintf("Verb(%d)", uint8(v))
	}
	return verbNames[v]
}

// A LineError tells what is wrong with a line of a [MapFile].
type LineError struct {
	Line int
	Step string // the line, or as much of it as tells
	Err  error
}

// Error names the line, what it says and the reason.
func (e *LineError) Error() string { return fmt.Sprintf("line %d: %s: %v", e.Line, e.Step, e.Err) }

// Unwrap returns the reason.
func (e *LineError) Unwrap() error { return e.Err }

// defaultBits is MAXPHYADDR of the processor that is not described.
const defaultBits = 46

// always are the capabilities that every processor of a MapFile has: 4 levels, tables of types UC
// and WB, and INVEPT.
const always = vmcs.EPTVPID(1<<6 | 1<<8 | 1<<14 | 1<<20 | 1<<25 | 1<<26)

// capabilityWords name bits of IA32_VMX_EPT_VPID_CAP.
var capabilityWords = [...]struct {
	word string
	bit  uint
}{
	{"2M", 16}, {"1G", 17}, {"execute-only", 0}, {"5-level", 7}, {"accessed-dirty", 21}, {"advanced-exits", 22}, {"shadow-stack", 23},
}

var modeWords = [...]struct {
	word string
	at   func(m *Mode) *bool
	bit  Entry // the attribute that needs it; 0 for none
}{
	{"accessed-dirty", func(m *Mode) *bool { return &m.AccessedDirty }, 0},
	{"shadow-stack", func(m *Mode) *bool { return &m.SupervisorShadowStack }, SupervisorShadowStack},
	{"mode-based-execute", func(m *Mode) *bool { return &m.ModeBasedExecute }, ExecuteUser},
	{"sub-page-write", func(m *Mode) *bool { return &m.SubPageWrite }, SubPageWrite},
	{"violation-VE", func(m *Mode) *bool { return &m.ViolationVE }, SuppressVE},
	{"paging-write", func(m *Mode) *bool { return &m.PagingWrite }, PagingWrite},
	{"verify-guest-paging", func(m *Mode) *bool { return &m.VerifyGuestPaging }, VerifyGuestPaging},
}

func defaultProcessor() Mode {
	m := Mode{PhysicalAddressBits: defaultBits, Capabilities: always}
	for _, c := range capabilityWords {
		m.Capabilities |= 1 << c.bit
	}
	return m
}

// ParseMap reads a MapFile. An error is a [LineError], or that of the reader. Ranges are not looked
// at yet, beyond their syntax: [MapFile.Build] does.
func ParseMap(r io.Reader) (*MapFile, error) {
	text, err := io.ReadAll(io.LimitReader(r, MaxMapFileSize+1))
	if err != nil {
		return nil, err
	}
	if len(text) > MaxMapFileSize {
		return nil, fmt.Errorf("ept: the description of a map has more than %d bytes: put neighbouring ranges together", MaxMapFileSize)
	}
	p := mapParser{file: &MapFile{Mode: defaultProcessor()}}
	lines := bufio.NewScanner(bytes.NewReader(text))
	lines.Buffer(nil, MaxMapFileSize+1)
	for n := 1; lines.Scan(); n++ {
		line, _, _ := strings.Cut(lines.Text(), "#")
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		if err := p.line(n, words); err != nil {
			return nil, &LineError{n, cut(plain(strings.Join(words, " ")), 80), err}
		}
	}
	if len(p.names) == 0 {
		return nil, errors.New("ept: the description has no view: begin with a line \"view NAME\"")
	}
	return p.file, nil
}

type mapParser struct {
	file            *MapFile
	names           []string
	processor, mode bool // had been there
}

func (p *mapParser) line(n int, words []string) error {
	verb, args := strings.ToLower(words[0]), words[1:]
	switch verb {
	case "processor", "mode":
		done, read := &p.processor, p.readProcessor
		if verb == "mode" {
			done, read = &p.mode, p.readMode
		}
		if *done || len(p.names) > 0 || verb == "processor" && p.mode {
			return fmt.Errorf("the order is one line of processor, one of mode, then views; the first two can be left out")
		}
		*done = true
		if err := read(args); err != nil {
			return err
		}
		return p.file.Mode.Validate()
	}
	v := slices.Index(verbNames[:], verb)
	if v < 0 {
		return fmt.Errorf("want processor, mode, %s", strings.Join(verbNames[:], ", "))
	}
	if len(p.file.Steps) == MaxMapFileSteps {
		return fmt.Errorf("there are more than %d steps: put neighbouring ranges together", MaxMapFileSteps)
	}
	s := Step{Line: n, Verb: Verb(v)}
	read := p.readRange
	if s.Verb == VerbView {
		read = p.readView
	} else if len(p.names) == 0 {
		return fmt.Errorf("there is no view yet: begin with a line \"view NAME\"")
	}
	if err := read(&s, args); err != nil {
		return err
	}
	p.file.Steps = append(p.file.Steps, s)
	return nil
}

func (p *mapParser) readProcessor(args []string) error {
	m := &p.file.Mode
	m.Capabilities = always
	for _, a := range args {
		if n, ok := strings.CutPrefix(strings.ToLower(a), "bits="); ok {
			v, err := strconv.ParseUint(n, 10, 8)
			if err != nil {
				return fmt.Errorf("%q: MAXPHYADDR is a number from 32 to 52", plain(a))
			}
			m.PhysicalAddressBits = uint8(v)
			continue
		}
		found := false
		var all []string
		for _, c := range capabilityWords {
			if all = append(all, c.word); names.Squeeze(a) == names.Squeeze(c.word) {
				m.Capabilities |= 1 << c.bit
				found = true
			}
		}
		if !found {
			return fmt.Errorf("%q: processors have bits=N, %s", plain(a), strings.Join(all, ", "))
		}
	}
	return nil
}

func (p *mapParser) readMode(args []string) error {
	m := &p.file.Mode
	for _, a := range args {
		if names.Squeeze(a) == "5level" {
			m.Levels = 5
			continue
		}
		found := false
		all := []string{"5-level"}
		for _, c := range modeWords {
			if all = append(all, c.word); names.Squeeze(a) == names.Squeeze(c.word) {
				*c.at(m) = true
				found = true
			}
		}
		if !found {
			return fmt.Errorf("%q: modes have %s", plain(a), strings.Join(all, ", "))
		}
	}
	return nil
}

func (p *mapParser) readView(s *Step, args []string) error {
	if len(args) != 1 && !(len(args) == 3 && strings.EqualFold(args[1], "of")) {
		return fmt.Errorf("want view NAME, or view NAME of VIEW")
	}
	s.Name = args[0]
	for _, name := range args {
		if len(name) > 64 || strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) || r == unicode.ReplacementChar }) {
			return fmt.Errorf("names of views have at most 64 bytes, all printable")
		}
	}
	exists := slices.Contains(p.names, s.Name)
	if len(args) == 3 {
		s.Of = args[2]
		if exists {
			return fmt.Errorf("the view %s is there already", s.Name)
		}
		if !slices.Contains(p.names, s.Of) {
			return fmt.Errorf("there is no view %s to copy; there are: %s", s.Of, cut(strings.Join(p.names, ", "), 80))
		}
	}
	if !exists {
		if len(p.names) == MaxViews {
			return fmt.Errorf("there are more than %d views", MaxViews)
		}
		p.names = append(p.names, s.Name)
	}
	return nil
}

// readRange reads all that stands behind verbs with a range.
func (p *mapParser) readRange(s *Step, args []string) error {
	if len(args) < 2 {
		return fmt.Errorf("want %v ADDRESS SIZE", s.Verb)
	}
	var err error
	if s.Range.Start, err = ParseNumber(args[0]); err != nil {
		return fmt.Errorf("the address %w", err)
	}
	if s.Range.Size, err = ParseNumber(args[1]); err != nil {
		return fmt.Errorf("the size %w", err)
	}
	args = args[2:]
	switch s.Verb {
	case VerbMap, VerbReplace:
		s.HPA = s.Range.Start
		if len(args) >= 2 && strings.EqualFold(args[0], "to") {
			if s.HPA, err = ParseNumber(args[1]); err != nil {
				return fmt.Errorf("the host's address %w", err)
			}
			args = args[2:]
		}
		if err := p.readAttributes(s, args); err != nil {
			return err
		}
		if !s.has(All) {
			return fmt.Errorf("want rights, such as rwx")
		}
		if !s.has(memoryTypeMask) {
			s.Set |= WB.Entry()
		}
		s.Clear = 0
		return nil
	case VerbProtect:
		if len(args) == 0 {
			return fmt.Errorf("want rights, a memory type or attributes")
		}
		return p.readAttributes(s, args)
	case VerbSplit:
		if len(args) == 1 {
			for s.Level = PTE; s.Level <= PDE; s.Level++ {
				if strings.EqualFold(args[0], formatSize(s.Level.PageSize())) {
					return nil
				}
			}
		}
		return fmt.Errorf("want split ADDRESS SIZE 4K, or 2M")
	}
	if len(args) > 0 {
		return fmt.Errorf("%q is too much: want %v ADDRESS SIZE", plain(args[0]), s.Verb)
	}
	return nil
}

// readAttributes reads rights, memory type and attributes in any order.
func (p *mapParser) readAttributes(s *Step, args []string) error {
	rights := All
	if p.file.Mode.ModeBasedExecute {
		rights |= ExecuteUser
	}
words:
	for _, a := range args {
		if e, ok := parseRights(a); ok {
			if s.has(All) {
				return fmt.Errorf("%q: there are rights already", plain(a))
			}
			if e&ExecuteUser != 0 && !p.file.Mode.ModeBasedExecute {
				return p.needs("the right u", ExecuteUser)
			}
			s.Set |= e
			s.Clear |= rights &^ e
			continue
		}
		if t, err := ParseMemoryType(a); err == nil && t.Valid() && !unicode.IsDigit(rune(a[0])) {
			if s.has(memoryTypeMask) {
				return fmt.Errorf("%q: there is a memory type already", plain(a))
			}
			s.Set |= t.Entry()
			s.Clear |= memoryTypeMask &^ t.Entry()
			continue
		}
		word, no := strings.CutPrefix(names.Squeeze(a), "no")
		for bit, name := range attributeBits() {
			if word != names.Squeeze(name) {
				continue
			}
			if p.file.Mode.meaningful()&bit == 0 {
				return p.needs(name, bit)
			}
			if no && s.Verb == VerbProtect {
				s.Clear |= bit
				continue words
			} else if !no {
				s.Set |= bit
				continue words
			}
		}
		return fmt.Errorf("%q is no rights (rwx, r--), no memory type (UC, WC, WT, WP, WB) and no attribute (ignore-PAT, ...)", plain(a))
	}
	if both := s.Set & s.Clear; both != 0 {
		return fmt.Errorf("an attribute is both set and cleared")
	}
	return nil
}

func (p *mapParser) needs(what string, bit Entry) error {
	for _, c := range modeWords {
		if c.bit == bit {
			return fmt.Errorf("%s means something with the line \"mode %s\" only", what, c.word)
		}
	}
	return fmt.Errorf("%s means nothing in this mode", what)
}

// ParseNumber reads a number as it stands in a [MapFile]: "640K", "0x1000", or a
// difference such as "3G-1M".
func ParseNumber(s string) (uint64, error) {
	first, second, difference := strings.Cut(s, "-")
	a, err := parseTerm(first)
	if err != nil || !difference {
		return a, err
	}
	b, err := parseTerm(second)
	if err == nil && b > a {
		err = fmt.Errorf("%q is below 0", plain(s))
	}
	return a - b, err
}

func parseTerm(s string) (uint64, error) {
	digits, shift := s, 0
	if n := len(s); n > 0 {
		if i := strings.IndexByte(sizeUnits, s[n-1]&^0x20); i >= 0 {
			digits, shift = s[:n-1], 10*(i+1)
		}
	}
	v, err := strconv.ParseUint(digits, 0, 64)
	if err != nil || bits.Len64(v)+shift > 64 {
		return 0, fmt.Errorf("%q is no number of 64 bits, such as 0x1000, 640K or 4G", cut(plain(s), 40))
	}
	return v << shift, nil
}

// formatNumber prints a number that ParseNumber reads, exactly.
func formatNumber(n uint64) string {
	if s := formatSize(n); !strings.Contains(s, ".") {
		return s
	}
	return fmt.Sprintf("%#x", n)
}

// String prints the file as [ParseMap] reads it, without comments.
func (f *MapFile) String() string {
	var b strings.Builder
	normal := defaultProcessor()
	if f.Mode.Capabilities != normal.Capabilities || f.Mode.PhysicalAddressBits != normal.PhysicalAddressBits {
		fmt.Fprintf(&b, "processor bits=%d", f.Mode.PhysicalAddressBits)
		for _, c := range capabilityWords {
			if f.Mode.Capabilities>>c.bit&1 != 0 {
				b.WriteString(" " + c.word)
			}
		}
		b.WriteByte('\n')
	}
	var words []string
	if f.Mode.Levels == 5 {
		words = append(words, "5-level")
	}
	for _, c := range modeWords {
		if *c.at(&f.Mode) {
			words = append(words, c.word)
		}
	}
	if len(words) > 0 {
		fmt.Fprintf(&b, "mode %s\n", strings.Join(words, " "))
	}
	for i := range f.Steps {
		fmt.Fprintln(&b, f.Steps[i])
	}
	return b.String()
}

// maxBuildWork bounds what a short file can ask for: tables that its steps look at, of which
// a second is enough for some millions.
const maxBuildWork = 1 << 22

// Build makes the space that the file describes, with tables in p, and its views by
// name, in the order of the file. After each step applied is called, if it is not nil, with
// what the step asks to be invalidated. The error is a [LineError], with the rule that the
// step breaks; nothing is given back to p then.
func (f *MapFile) Build(p Pages, applied func(Step, Invalidation)) (*Space, []Named, error) {
	space, err := New(Config{Pages: p, Mode: f.Mode})
	if err != nil {
		return nil, nil, err
	}
	var views []Named
	var view *View
	find := func(name string) *View {
		for _, n := range views {
			if n.Name == name {
				return n.Source.(*View)
			}
		}
		return nil
	}
	for _, s := range f.Steps {
		var due Invalidation
		var err error
		switch {
		case s.Verb == VerbView:
			if view = find(s.Name); view == nil {
				view, err = newView(space, len(views) == 0, find(s.Of))
				views = append(views, Named{s.Name, view})
			}
		case view == nil:
			err = errors.New("there is no view yet: begin with a line \"view NAME\"")
		default:
			due, err = s.apply(view)
			space.Reclaim() // no processor walks these tables
			if err == nil && space.op.work > maxBuildWork {
				err = fmt.Errorf("the steps up to here look at more than %d tables: use fewer steps, or larger pages", maxBuildWork)
			}
		}
		if err != nil {
			return nil, nil, &LineError{s.Line, cut(s.String(), 80), err}
		}
		if applied != nil {
			applied(s, due)
		}
	}
	return space, views, nil
}

// newView returns the space's first view, a copy of one, or an empty one.
func newView(s *Space, first bool, of *View) (*View, error) {
	v := s.View(0)
	if first {
		return v, nil
	}
	if of != nil {
		return of.Clone()
	}
	v, err := v.Clone()
	if err == nil {
		_, err = v.Unmap(0, s.Mode().AddressLimit())
	}
	return v, err
}

func (s *Step) apply(v *View) (Invalidation, error) {
	start, size := s.Range.Start, s.Range.Size
	switch s.Verb {
	case VerbMap:
		return v.Map(start, size, s.HPA, s.Set)
	case VerbReplace:
		return v.Replace(start, size, s.HPA, s.Set)
	case VerbUnmap:
		return v.Unmap(start, size)
	case VerbProtect:
		return v.Protect(start, size, s.Set, s.Clear)
	case VerbSplit:
		return v.Split(start, size, s.Level)
	case VerbJoin:
		return v.Join(start, size)
	}
	return 0, fmt.Errorf("there is no verb %v", s.Verb)
}
