package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"math/bits"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/govtx/vtx/hypercall"
	"github.com/govtx/vtx/vtl"
)

// Bounds of what "vtx vtl" plays.
const (
	maxVTLBytes      = 1 << 20
	maxVTLSteps      = 10_000
	maxVTLProcessors = 64
	maxVTLPages      = 4096 // of one protect
	vtlRows          = 40   // protections drawn of each level
)

var vtlCommand = &command{
	name:  "vtl",
	args:  "FILE|-",
	short: "play a script of calls between trust levels",
	long: `The FILE, or standard input, has a step on each line; # begins a comment:

	# VTL1 takes a page away from VTL0
	partition processors=2 max=2 profile=tlfs ram=0x0-0xfff
	vp0: enable-partition 1
	vp0: enable-vp 1 rip=0x1000
	vp0: enable-vp 1 on=vp1             # refused: VTL1 has to do that now
	vp0: call
	vp0: protect 0x10-0x1f none         # refused: protection is not on
	vp0: config protection default=rwx
	vp0: protect 0x10-0x1f none
	vp0: enable-vp 1 on=vp1 rip=0x2000
	vp0: return fast
	vp0: read 0x10
	vp0: return
	vp0: get rsp of=1
	vp0: start vp1 rip=0x9000

Numbers are decimal or hexadecimal, memory is in pages of 4 KiB, and a level is its
number. Without a first line that says otherwise the partition is as there, with VTL1
only. "vp0:" is who acts, with the level that runs there:

  partition [processors=N] [max=LEVEL] [profile=tlfs|openvmm|kvm] [ram=RANGE,...]
            [mbec=LEVEL,...] [deny]
  enable-partition LEVEL [mbec]
  enable-vp LEVEL [on=VP] [CONTEXT]       CONTEXT is rip=, rsp=, rflags=, cr0=, cr3=,
  start VP [of=LEVEL] [CONTEXT]           cr4=, efer=, pat=: by default 64-bit mode
  call [cpl=N] [real] [control=N] [word=N]
  return [fast] [cpl=N] [real] [control=N] [word=N]
  config [of=LEVEL] [protection] [default=RIGHTS] [keep] [deny] [intercept]
                                          VsmPartitionConfig; keep: memory is not zeroed
  protect PAGES RIGHTS [of=LEVEL]         RIGHTS are none or letters of r, w, x, k, u
  get REGISTER [of=LEVEL] [on=VP]
  set REGISTER VALUE [of=LEVEL] [on=VP]   registers as in "vtx hypercall", or rip, cr0
  read|write|fetch PAGE [user] [smep-off]
  read-msr MSR                            write-msr MSR VALUE [old=VALUE]
  write-register REGISTER VALUE [old=VALUE]
  in PORT [size=N]                        out PORT VALUE [size=N]
  intercept-port PORT [read] [write]
  translate PAGE [of=LEVEL] [on=VP] [lock]
  flush [VP...]                           of all processors, or these
  ipi VECTOR VP... [of=LEVEL]
  assert VECTOR|nmi VP of=LEVEL
  init VP                                 sipi VP VECTOR
  tpr VALUE                               eoi
  assist PAGE|off                         the assist page

What happens to processor 0, whatever it does, and to all:

  vp0: interrupt LEVEL VECTOR|nmi         vp0: request LEVEL VECTOR|nmi
  vp0: accept                             vp0: resolve
  reset                                   draw

vtx tells of each step what comes of it: the outcome or status, why a call was refused
with the numbers of the rules in docs/vtl-rules.md, and what an embedder has to do. At
the end it draws the levels: what runs, what waits, what each level has for itself,
and what lower levels may do with memory. RIP goes on by 3 bytes with a call.

Exit status: 0, also if calls are refused; 1 if a line makes no sense, which is named; 2 if
FILE cannot be read.
`,
	setup: func(fs *flag.FlagSet) func([]string) (int, error) {
		quiet := fs.Bool("quiet", false, "draw what there is at the end only")
		return func(args []string) (int, error) {
			if len(args) != 1 {
				return 0, errors.New("want one FILE, or - for standard input")
			}
			text, err := readVTLScript(args[0])
			if err != nil {
				return 0, err
			}
			s := &vtlScript{out: os.Stdout}
			if *quiet {
				s.out = io.Discard
			}
			if err := s.play(text); err != nil {
				fmt.Fprintf(os.Stderr, "%s: %v\n", args[0], err)
				return 1, nil
			}
			s.out = os.Stdout
			if !*quiet {
				fmt.Fprintln(s.out)
			}
			s.draw()
			return 0, nil
		}
	},
}

func readVTLScript(name string) (string, error) {
	in := io.Reader(os.Stdin)
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return "", err
		}
		defer f.Close()
		in = f
	}
	b, err := io.ReadAll(io.LimitReader(in, maxVTLBytes+1))
	if err == nil && len(b) > maxVTLBytes {
		err = fmt.Errorf("%s: longer than %d MiB; play a part of it", name, maxVTLBytes>>20)
	}
	return string(b), err
}

// A vtlScript plays a script. It is the partition's embedder, as far as RIP goes.
type vtlScript struct {
	out io.Writer
	p   *vtl.Partition
	e   vtl.Effects
}

// A vtlStep is a line: who acts, what, and how.
type vtlStep struct {
	vp    uint32
	verb  string
	words []string          // without a =
	named map[string]string // with one
	used  map[string]bool
	held  bool // RIP stays: the call is made again
}

// play plays the lines. The error names the one that makes no sense.
func (s *vtlScript) play(text string) error {
	steps := 0
	for i, line := range strings.Split(text, "\n") {
		line, _, _ = strings.Cut(line, "#")
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		if steps++; steps > maxVTLSteps {
			return fmt.Errorf("line %d: more than %d steps; play a part of them", i+1, maxVTLSteps)
		}
		if err := s.step(line, steps == 1); err != nil {
			return fmt.Errorf("line %d: %.200s: %w", i+1, line, err)
		}
	}
	if s.p == nil {
		return s.partition(&vtlStep{})
	}
	return nil
}

func (s *vtlScript) step(line string, first bool) error {
	st := &vtlStep{named: map[string]string{}, used: map[string]bool{}}
	who, rest, acts := strings.Cut(line, ":")
	if !acts {
		rest = line
	}
	for i, w := range strings.Fields(rest) {
		key, value, named := strings.Cut(w, "=")
		switch {
		case i == 0:
			st.verb = w
		case !named:
			st.words = append(st.words, w)
		default:
			if _, twice := st.named[key]; twice {
				return fmt.Errorf("%s= is there twice", key)
			}
			st.named[key] = value
		}
	}
	if st.verb == "partition" && !acts {
		if !first {
			return errors.New("the partition is what the first step says, or nothing does")
		}
		return s.partition(st)
	}
	if s.p == nil {
		if err := s.partition(&vtlStep{}); err != nil {
			return err
		}
	}
	verb := vtlVerb{}
	for _, v := range vtlVerbs {
		if v.name == st.verb {
			verb = v
		}
	}
	switch {
	case verb.do == nil:
		return fmt.Errorf("there is no step %q; \"vtx help vtl\" lists them", st.verb)
	case acts == verb.alone && verb.alone:
		return fmt.Errorf("%s is for the whole partition: leave %q out", st.verb, who+":")
	case !acts && !verb.alone:
		return fmt.Errorf("who does that? write \"vp0: %s\"", st.verb)
	case len(st.words) < verb.min || len(st.words) > verb.max:
		return fmt.Errorf("want: %s %s", verb.name, verb.args)
	}
	title := line
	if acts {
		var err error
		if st.vp, err = s.processor(strings.TrimSpace(who)); err != nil {
			return err
		}
		title = fmt.Sprintf("VP%d %v: %s", st.vp, s.p.Active(st.vp), strings.Join(strings.Fields(rest), " "))
		if verb.guest && !s.p.Started(st.vp) {
			return fmt.Errorf("VP%d waits to be started: it can do nothing", st.vp)
		}
		if verb.guest && s.p.Blocked(st.vp) && st.verb != "flush" {
			return fmt.Errorf("%v of VP%d waits for a TLB lock: it can only flush again", s.p.Active(st.vp), st.vp)
		}
	}
	s.e.Reset()
	from := s.p.Active(st.vp)
	result, err := verb.do(s, st)
	if err != nil {
		return err
	}
	for key := range st.named {
		if !st.used[key] {
			return fmt.Errorf("%s= means nothing here; want: %s %s", key, verb.name, verb.args)
		}
	}
	if !verb.alone || s.e.Len() > 0 { // a drawing says itself what it is
		fmt.Fprintln(s.out, title)
	}
	if result != "" {
		fmt.Fprintln(s.out, "  "+result)
	}
	if verb.call && !st.held {
		s.advance(st.vp, from)
	}
	for _, f := range s.e.List() {
		fmt.Fprintln(s.out, "  "+s.describe(f))
		s.carryOut(f)
	}
	return nil
}

// describe tells an effect, of an intercept what it reports.
func (s *vtlScript) describe(f vtl.Effect) string {
	if f.Kind == vtl.EffectIntercept {
		return f.Kind.String() + " " + s.e.Intercept(f).String()
	}
	return f.String()
}

// carryOut keeps registers as effects have them.
func (s *vtlScript) carryOut(f vtl.Effect) {
	switch f.Kind {
	case vtl.EffectSwitch:
		if f.Flags&vtl.FlagAdvance != 0 {
			s.advance(f.VP, f.From)
		}
	case vtl.EffectContext:
		c := s.e.Context(f)
		for _, r := range vtlContext {
			s.p.Registers().SetRegister(f.VP, f.Level, r.register, vtl.Value{Low: *r.of(c)})
		}
	}
}

func (s *vtlScript) advance(vp uint32, l vtl.VTL) {
	v, _ := s.p.Registers().Register(vp, l, hypercall.RegisterRIP)
	v.Low += hypercall.TrapLength
	s.p.Registers().SetRegister(vp, l, hypercall.RegisterRIP, v)
}

// vtlContext are the registers of an initial context that scripts can name.
var vtlContext = []struct {
	name     string
	register hypercall.Register
	of       func(c *vtl.Context) *uint64
}{
	{"rip", hypercall.RegisterRIP, func(c *vtl.Context) *uint64 { return &c.RIP }},
	{"rsp", hypercall.RegisterRSP, func(c *vtl.Context) *uint64 { return &c.RSP }},
	{"rflags", hypercall.RegisterRFLAGS, func(c *vtl.Context) *uint64 { return &c.RFLAGS }},
	{"cr0", hypercall.RegisterCR0, func(c *vtl.Context) *uint64 { return &c.CR0 }},
	{"cr3", hypercall.RegisterCR3, func(c *vtl.Context) *uint64 { return &c.CR3 }},
	{"cr4", hypercall.RegisterCR4, func(c *vtl.Context) *uint64 { return &c.CR4 }},
	{"efer", hypercall.RegisterEFER, func(c *vtl.Context) *uint64 { return &c.EFER }},
	{"pat", hypercall.RegisterPAT, func(c *vtl.Context) *uint64 { return &c.PAT }},
}

func (st *vtlStep) context() (*vtl.Context, error) {
	c := &vtl.Context{RFLAGS: 2, CR0: 0x80000011, CR4: 0x20, EFER: 0x500, PAT: 0x0007040600070406}
	for _, r := range vtlContext {
		if err := st.option(r.name, r.of(c), ^uint64(0)); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// option reads a number that has a name, if it is there.
func (st *vtlStep) option(name string, to *uint64, limit uint64) error {
	text, ok := st.named[name]
	if !ok {
		return nil
	}
	st.used[name] = true
	v, err := vtlNumber(text, limit)
	if err != nil {
		return fmt.Errorf("%s=: %w", name, err)
	}
	*to = v
	return nil
}

// flags reads words, each of which is one of these.
func (st *vtlStep) flags(words []string, names ...string) (set uint, err error) {
	for _, w := range words {
		i := slices.Index(names, w)
		if i < 0 {
			return 0, fmt.Errorf("%q means nothing here; there is %s", w, strings.Join(names, ", "))
		}
		set |= 1 << i
	}
	return set, nil
}

// target reads of=, the level that a call names, if it does.
func (st *vtlStep) target() (hypercall.InputVTL, error) {
	if _, ok := st.named["of"]; !ok {
		return 0, nil
	}
	l := uint64(0)
	err := st.option("of", &l, 15)
	return hypercall.TargetVTL(vtl.VTL(l)), err
}

// on reads on=, the processor that a call names.
func (s *vtlScript) on(st *vtlStep) (uint32, error) {
	name, ok := st.named["on"]
	if !ok {
		return hypercall.VPSelf, nil
	}
	st.used["on"] = true
	return vtlProcessor(name)
}

func vtlNumber(text string, limit uint64) (uint64, error) {
	v, err := strconv.ParseUint(text, 0, 64)
	if err != nil {
		return 0, fmt.Errorf("%.40q is no number", text)
	}
	if v > limit {
		return 0, fmt.Errorf("%s is more than 0x%x", text, limit)
	}
	return v, nil
}

func vtlLevel(text string) (vtl.VTL, error) {
	v, err := vtlNumber(strings.TrimPrefix(strings.ToLower(text), "vtl"), 255)
	return vtl.VTL(v), err
}

// vtlProcessor reads the name of a processor that there need not be.
func vtlProcessor(text string) (uint32, error) {
	number, ok := strings.CutPrefix(strings.ToLower(text), "vp")
	if !ok {
		return 0, fmt.Errorf("%.40q is no processor: write vp0", text)
	}
	v, err := vtlNumber(number, 1<<32-1)
	return uint32(v), err
}

// processor reads the name of a processor that there is.
func (s *vtlScript) processor(text string) (uint32, error) {
	vp, err := vtlProcessor(text)
	if n := s.p.Config().Processors; err == nil && vp >= uint32(n) {
		err = fmt.Errorf("there is no VP%d: the partition has %s", vp, plural(n, "processor"))
	}
	return vp, err
}

// vtlPages reads a page or a range of pages.
func vtlPages(text string) (r vtl.Range, err error) {
	from, to, several := strings.Cut(text, "-")
	if r.Page, err = vtlNumber(from, 1<<40-1); err != nil {
		return r, err
	}
	last := r.Page
	if several {
		if last, err = vtlNumber(to, 1<<40-1); err != nil {
			return r, err
		}
	}
	if last < r.Page {
		return r, fmt.Errorf("%.60q ends before it begins", text)
	}
	r.Pages = last - r.Page + 1
	return r, nil
}

// vtlRights reads rights: "none", or letters.
func vtlRights(text string) (hypercall.MapFlags, error) {
	f := hypercall.MapFlags(0)
	if text == "none" {
		return f, nil
	}
	for _, c := range text {
		switch c {
		case 'r':
			f |= hypercall.MapReadable
		case 'w':
			f |= hypercall.MapWritable
		case 'x':
			f |= hypercall.MapExecute
		case 'k':
			f |= hypercall.MapKernelExecutable
		case 'u':
			f |= hypercall.MapUserExecutable
		case '-':
		default:
			return 0, fmt.Errorf("%.40q is no rights: want none, or letters of r, w, x, k and u", text)
		}
	}
	return f, nil
}

func vtlRegister(text string) (hypercall.Register, error) {
	if r, err := hypercall.ParseRegister(text); err == nil {
		return r, nil
	}
	for _, prefix := range []string{"HvX64Register", "HvRegister"} {
		if r, err := hypercall.ParseRegister(prefix + text); err == nil {
			return r, nil
		}
	}
	return 0, fmt.Errorf("there is no register %.60q", text)
}

// partition makes the partition.
func (s *vtlScript) partition(st *vtlStep) error {
	if len(st.words) > 0 && !slices.Equal(st.words, []string{"deny"}) {
		return fmt.Errorf("%q means nothing here; there is deny", st.words[0])
	}
	processors, maximum := uint64(1), uint64(1)
	err := errors.Join(st.option("processors", &processors, maxVTLProcessors), st.option("max", &maximum, 15))
	if err != nil {
		return err
	}
	c := vtl.Config{Processors: int(processors), MaximumVTL: vtl.VTL(maximum), RAM: []vtl.Range{{Page: 0, Pages: 0x1000}}}
	if len(st.words) > 0 {
		c.Capabilities |= hypercall.VsmCapabilitiesDenyLowerVtlStartup
	}
	for name, value := range st.named {
		switch name {
		case "processors", "max":
		case "profile":
			if c.Profile, err = vtl.ParseProfile(value); err != nil {
				return err
			}
		case "ram":
			c.RAM = nil
			for text := range strings.SplitSeq(value, ",") {
				r, err := vtlPages(text)
				if err != nil {
					return err
				}
				c.RAM = append(c.RAM, r)
			}
		case "mbec":
			mask := uint16(0)
			for text := range strings.SplitSeq(value, ",") {
				l, err := vtlLevel(text)
				if err != nil {
					return err
				}
				mask |= 1 << (l & 15)
			}
			c.Capabilities = c.Capabilities.WithMbecVtlMask(mask)
		default:
			return fmt.Errorf("%s= means nothing here", name)
		}
	}
	if s.p, err = vtl.New(c); err != nil {
		return err
	}
	fmt.Fprintf(s.out, "partition with %s, VTL0 to %v, as %v has it\n", plural(c.Processors, "processor"), c.MaximumVTL, c.Profile)
	return nil
}

// A vtlVerb is a kind of step. What it does returns what is to be told.
type vtlVerb struct {
	name, args string
	min, max   int  // words behind it
	guest      bool // a processor does it, which has to run
	call       bool // a hypercall, which moves RIP
	alone      bool // without a processor
	do         func(s *vtlScript, st *vtlStep) (string, error)
}

// status tells the status of a call, and why it was refused.
func (s *vtlScript) status(v hypercall.Status) string {
	if v == hypercall.StatusSuccess {
		return v.String()
	}
	return v.String() + s.why()
}

func (s *vtlScript) why() string {
	why := s.p.Why()
	if why == 0 {
		return ""
	}
	text := ": " + why.String()
	if rules := strings.Fields(why.Rules()); len(rules) > 0 {
		text += " (rule " + strings.Join(rules, ", ") + ")"
		if len(rules) > 1 {
			text = strings.Replace(text, "(rule ", "(rules ", 1)
		}
	}
	return text
}

func (s *vtlScript) outcome(o vtl.Outcome) string {
	if o == vtl.UndefinedInstruction {
		return o.String() + s.why()
	}
	return o.String()
}

const self = hypercall.PartitionSelf

var vtlVerbs = []vtlVerb{
	{name: "enable-partition", args: "LEVEL [mbec]", min: 1, max: 2, guest: true, call: true, do: func(s *vtlScript, st *vtlStep) (string, error) {
		l, err := vtlLevel(st.words[0])
		if err != nil {
			return "", err
		}
		f, err := st.flags(st.words[1:], "mbec")
		return s.status(s.p.EnablePartitionVTL(st.vp, &hypercall.EnablePartitionVtlInput{PartitionID: self, TargetVTL: l, Flags: hypercall.EnablePartitionVtlFlags(f)}, &s.e)), err
	}},
	{name: "enable-vp", args: "LEVEL [on=VP] [CONTEXT]", min: 1, max: 1, guest: true, call: true, do: func(s *vtlScript, st *vtlStep) (string, error) {
		l, err1 := vtlLevel(st.words[0])
		on, err2 := s.on(st)
		c, err3 := st.context()
		if err := errors.Join(err1, err2, err3); err != nil {
			return "", err
		}
		return s.status(s.p.EnableVPVTL(st.vp, &hypercall.EnableVpVtlInput{PartitionID: self, VPIndex: on, TargetVTL: l, Context: *c}, &s.e)), nil
	}},
	{name: "start", args: "VP [of=LEVEL] [CONTEXT]", min: 1, max: 1, guest: true, call: true, do: func(s *vtlScript, st *vtlStep) (string, error) {
		vp, err1 := vtlProcessor(st.words[0])
		c, err2 := st.context()
		of := uint64(0)
		if err := errors.Join(err1, err2, st.option("of", &of, 255)); err != nil {
			return "", err
		}
		o, status := s.p.StartVP(st.vp, &hypercall.StartVirtualProcessorInput{PartitionID: self, VPIndex: vp, TargetVTL: vtl.VTL(of), Context: *c}, &s.e)
		if st.held = o != vtl.Done; st.held {
			return s.outcome(o), nil
		}
		return s.status(status), nil
	}},
	{name: "call", args: "[cpl=N] [real] [control=N] [word=N]", max: 1, guest: true, do: func(s *vtlScript, st *vtlStep) (string, error) {
		t, err := st.trap(hypercall.CodeVtlCall, "real")
		if err != nil {
			return "", err
		}
		return s.outcome(s.p.Call(st.vp, t, &s.e)), nil
	}},
	{name: "return", args: "[fast] [cpl=N] [real] [control=N] [word=N]", max: 2, guest: true, do: func(s *vtlScript, st *vtlStep) (string, error) {
		t, err := st.trap(hypercall.CodeVtlReturn, "real", "fast")
		if err != nil {
			return "", err
		}
		return s.outcome(s.p.Return(st.vp, t, &s.e)), nil
	}},
	{name: "config", args: "[of=LEVEL] [protection] [default=RIGHTS] [keep] [deny] [intercept]", max: 4, guest: true, call: true, do: func(s *vtlScript, st *vtlStep) (string, error) {
		f, err1 := st.flags(st.words, "protection", "keep", "deny", "intercept")
		target, err2 := st.target()
		rights, err3 := hypercall.MapAccess, error(nil)
		if text, ok := st.named["default"]; ok {
			st.used["default"] = true
			rights, err3 = vtlRights(text)
		}
		if err := errors.Join(err1, err2, err3); err != nil {
			return "", err
		}
		v := hypercall.VsmPartitionConfigZeroMemoryOnReset.WithDefaultVtlProtectionMask(rights)
		v = v.With(hypercall.VsmPartitionConfigEnableVtlProtection, f&1 != 0).With(hypercall.VsmPartitionConfigZeroMemoryOnReset, f&2 == 0)
		v = v.With(hypercall.VsmPartitionConfigDenyLowerVtlStartup, f&4 != 0).With(hypercall.VsmPartitionConfigInterceptVpStartup, f&8 != 0)
		return s.set(st, target, hypercall.VPSelf, hypercall.RegisterVsmPartitionConfig, uint64(v)), nil
	}},
	{name: "protect", args: "PAGES RIGHTS [of=LEVEL]", min: 2, max: 2, guest: true, call: true, do: func(s *vtlScript, st *vtlStep) (string, error) {
		r, err1 := vtlPages(st.words[0])
		rights, err2 := vtlRights(st.words[1])
		target, err3 := st.target()
		if err := errors.Join(err1, err2, err3); err != nil {
			return "", err
		}
		if r.Pages > maxVTLPages {
			return "", fmt.Errorf("0x%x pages are more than 0x%x; do it in parts", r.Pages, maxVTLPages)
		}
		pages := make([]uint64, r.Pages)
		for i := range pages {
			pages[i] = r.Page + uint64(i)
		}
		done, status := s.p.ModifyProtection(st.vp, &hypercall.ModifyVtlProtectionMaskInput{PartitionID: self, MapFlags: rights, TargetVTL: target}, pages, &s.e)
		return fmt.Sprintf("%s, %d of %s", s.status(status), done, plural(len(pages), "page")), nil
	}},
	{name: "get", args: "REGISTER [of=LEVEL] [on=VP]", min: 1, max: 1, guest: true, call: true, do: func(s *vtlScript, st *vtlStep) (string, error) {
		name, err1 := vtlRegister(st.words[0])
		target, err2 := st.target()
		on, err3 := s.on(st)
		if err := errors.Join(err1, err2, err3); err != nil {
			return "", err
		}
		v, status := s.p.GetRegister(st.vp, &hypercall.VpRegistersInput{PartitionID: self, VPIndex: on, TargetVTL: target}, name)
		if status != hypercall.StatusSuccess {
			return s.status(status), nil
		}
		return fmt.Sprintf("%s, %v is 0x%x", s.status(status), name, v.Low), nil
	}},
	{name: "set", args: "REGISTER VALUE [of=LEVEL] [on=VP]", min: 2, max: 2, guest: true, call: true, do: func(s *vtlScript, st *vtlStep) (string, error) {
		name, err1 := vtlRegister(st.words[0])
		value, err2 := vtlNumber(st.words[1], ^uint64(0))
		target, err3 := st.target()
		on, err4 := s.on(st)
		if err := errors.Join(err1, err2, err3, err4); err != nil {
			return "", err
		}
		return s.set(st, target, on, name, value), nil
	}},
	{name: "read", args: "PAGE [user] [smep-off]", min: 1, max: 3, guest: true, do: vtlAccess(vtl.Reading)},
	{name: "write", args: "PAGE [user] [smep-off]", min: 1, max: 3, guest: true, do: vtlAccess(vtl.Writing)},
	{name: "fetch", args: "PAGE [user] [smep-off]", min: 1, max: 3, guest: true, do: vtlAccess(vtl.Fetching)},
	{name: "read-msr", args: "MSR", min: 1, max: 1, guest: true, do: func(s *vtlScript, st *vtlStep) (string, error) {
		n, err := vtlNumber(st.words[0], 1<<32-1)
		if err != nil {
			return "", err
		}
		return s.outcome(s.p.ReadMSR(st.vp, uint32(n), &s.e)), nil
	}},
	{name: "write-msr", args: "MSR VALUE [old=VALUE]", min: 2, max: 2, guest: true, do: func(s *vtlScript, st *vtlStep) (string, error) {
		n, err1 := vtlNumber(st.words[0], 1<<32-1)
		value, err2 := vtlNumber(st.words[1], ^uint64(0))
		old := uint64(0)
		if err := errors.Join(err1, err2, st.option("old", &old, ^uint64(0))); err != nil {
			return "", err
		}
		return s.outcome(s.p.WriteMSR(st.vp, uint32(n), old, value, &s.e)), nil
	}},
	{name: "write-register", args: "REGISTER VALUE [old=VALUE]", min: 2, max: 2, guest: true, do: func(s *vtlScript, st *vtlStep) (string, error) {
		name, err1 := vtlRegister(st.words[0])
		value, err2 := vtlNumber(st.words[1], ^uint64(0))
		old := uint64(0)
		if err := errors.Join(err1, err2, st.option("old", &old, ^uint64(0))); err != nil {
			return "", err
		}
		return s.outcome(s.p.WriteRegister(st.vp, name, old, value, &s.e)), nil
	}},
	{name: "in", args: "PORT [size=N]", min: 1, max: 1, guest: true, do: vtlIO(false)},
	{name: "out", args: "PORT VALUE [size=N]", min: 2, max: 2, guest: true, do: vtlIO(true)},
	{name: "intercept-port", args: "PORT [read] [write]", min: 1, max: 3, guest: true, call: true, do: func(s *vtlScript, st *vtlStep) (string, error) {
		port, err1 := vtlNumber(st.words[0], 0xffff)
		f, err2 := st.flags(st.words[1:], "read", "write")
		if err := errors.Join(err1, err2); err != nil {
			return "", err
		}
		return s.status(s.p.InstallIntercept(st.vp, &hypercall.InstallInterceptInput{PartitionID: self, Type: hypercall.InterceptIoPort,
			AccessMask: hypercall.InterceptAccessMask(f), Parameters: hypercall.InterceptParameters(port)}, &s.e)), nil
	}},
	{name: "translate", args: "PAGE [of=LEVEL] [on=VP] [lock]", min: 1, max: 2, guest: true, call: true, do: func(s *vtlScript, st *vtlStep) (string, error) {
		page, err1 := vtlNumber(st.words[0], 1<<52-1)
		f, err2 := st.flags(st.words[1:], "lock")
		target, err3 := st.target()
		on, err4 := s.on(st)
		if err := errors.Join(err1, err2, err3, err4); err != nil {
			return "", err
		}
		x, status := s.p.TranslateVirtualAddress(st.vp, &hypercall.TranslateVirtualAddressInput{PartitionID: self, VPIndex: on, GVAPage: page,
			ControlFlags: hypercall.TranslateFlags(0).With(hypercall.TranslateTlbFlushInhibit, f != 0).WithInputVtl(target)}, &s.e)
		if status != hypercall.StatusSuccess {
			return s.status(status), nil
		}
		return fmt.Sprintf("%s, %v, page 0x%x", s.status(status), x.Code, x.Page), nil
	}},
	{name: "flush", args: "[VP...]", max: maxVTLProcessors, guest: true, call: true, do: func(s *vtlScript, st *vtlStep) (string, error) {
		set, err := s.processors(st.words)
		if err != nil {
			return "", err
		}
		flags := hypercall.FlushFlags(0)
		if len(st.words) == 0 {
			flags = hypercall.FlushAllProcessors
		}
		o, status := s.p.Flush(st.vp, flags, set, &s.e)
		if st.held = o != vtl.Done; st.held {
			return s.outcome(o), nil
		}
		return s.status(status), nil
	}},
	{name: "ipi", args: "VECTOR VP... [of=LEVEL]", min: 2, max: maxVTLProcessors + 1, guest: true, call: true, do: func(s *vtlScript, st *vtlStep) (string, error) {
		vector, err1 := vtlNumber(st.words[0], 1<<32-1)
		set, err2 := s.processors(st.words[1:])
		target, err3 := st.target()
		if err := errors.Join(err1, err2, err3); err != nil {
			return "", err
		}
		return s.status(s.p.SendIPI(st.vp, uint32(vector), target, set, &s.e)), nil
	}},
	{name: "assert", args: "VECTOR|nmi VP of=LEVEL", min: 2, max: 2, guest: true, call: true, do: func(s *vtlScript, st *vtlStep) (string, error) {
		kind, vector, err1 := vtlInterrupt(st.words[0])
		vp, err2 := s.processor(st.words[1])
		of := uint64(0)
		if err := errors.Join(err1, err2, st.option("of", &of, 255)); err != nil {
			return "", err
		}
		way := hypercall.InterruptFixed
		if kind == vtl.NMI {
			way = hypercall.InterruptNmi
		}
		return s.status(s.p.AssertVirtualInterrupt(st.vp, &hypercall.AssertVirtualInterruptInput{PartitionID: self, TargetVTL: vtl.VTL(of), RequestedVector: uint32(vector),
			DestinationAddress: uint64(s.p.Config().APICIDs[vp]), Control: hypercall.InterruptControl(0).WithInterruptType(way)}, &s.e)), nil
	}},
	{name: "init", args: "VP", min: 1, max: 1, guest: true, do: func(s *vtlScript, st *vtlStep) (string, error) {
		vp, err := s.processor(st.words[0])
		if err != nil {
			return "", err
		}
		return s.outcome(s.p.Startup(st.vp, vp, 0, vtl.INIT, 0, &s.e)), nil
	}},
	{name: "sipi", args: "VP VECTOR", min: 2, max: 2, guest: true, do: func(s *vtlScript, st *vtlStep) (string, error) {
		vp, err1 := s.processor(st.words[0])
		vector, err2 := vtlNumber(st.words[1], 255)
		if err := errors.Join(err1, err2); err != nil {
			return "", err
		}
		return s.outcome(s.p.Startup(st.vp, vp, 0, vtl.SIPI, uint8(vector), &s.e)), nil
	}},
	{name: "tpr", args: "VALUE", min: 1, max: 1, guest: true, do: func(s *vtlScript, st *vtlStep) (string, error) {
		v, err := vtlNumber(st.words[0], 255)
		if err != nil {
			return "", err
		}
		return s.outcome(s.p.SetTPR(st.vp, s.p.Active(st.vp), uint8(v), &s.e)), nil
	}},
	{name: "eoi", guest: true, do: func(s *vtlScript, st *vtlStep) (string, error) { return s.outcome(s.p.EOI(st.vp, &s.e)), nil }},
	{name: "assist", args: "PAGE|off", min: 1, max: 1, guest: true, do: func(s *vtlScript, st *vtlStep) (string, error) {
		v := uint64(0)
		if st.words[0] != "off" {
			page, err := vtlNumber(st.words[0], 1<<52-1)
			if err != nil {
				return "", err
			}
			v = page<<12 | 1
			if page >= 1<<40 {
				v = 1 << 52 // for the core to refuse
			}
		}
		return s.outcome(s.p.SetAssistPage(st.vp, s.p.Active(st.vp), v)), nil
	}},
	{name: "interrupt", args: "LEVEL VECTOR|nmi", min: 2, max: 2, do: func(s *vtlScript, st *vtlStep) (string, error) {
		l, err1 := vtlLevel(st.words[0])
		kind, vector, err2 := vtlInterrupt(st.words[1])
		if err := errors.Join(err1, err2); err != nil {
			return "", err
		}
		return s.outcome(s.p.Interrupt(st.vp, l, kind, vector, &s.e)), nil
	}},
	{name: "request", args: "LEVEL VECTOR|nmi", min: 2, max: 2, do: func(s *vtlScript, st *vtlStep) (string, error) {
		l, err1 := vtlLevel(st.words[0])
		kind, vector, err2 := vtlInterrupt(st.words[1])
		if err := errors.Join(err1, err2); err != nil {
			return "", err
		}
		return s.outcome(s.p.Request(st.vp, l, kind, vector, &s.e)), nil
	}},
	{name: "accept", do: func(s *vtlScript, st *vtlStep) (string, error) {
		kind, vector, ok := s.p.Accept(st.vp)
		if !ok {
			return "nothing to accept", nil
		}
		return fmt.Sprintf("%v, vector 0x%x", kind, vector), nil
	}},
	{name: "resolve", do: func(s *vtlScript, st *vtlStep) (string, error) { return s.outcome(s.p.Resolve(st.vp, &s.e)), nil }},
	{name: "reset", alone: true, do: func(s *vtlScript, st *vtlStep) (string, error) { s.p.Reset(&s.e); return "", nil }},
	{name: "draw", alone: true, do: func(s *vtlScript, st *vtlStep) (string, error) { s.draw(); return "", nil }},
}

func (st *vtlStep) trap(code hypercall.Code, names ...string) (vtl.Trap, error) {
	word, control, cpl := uint64(code), uint64(0), uint64(0)
	f, err := st.flags(st.words, names...)
	control = uint64(f >> 1 & 1)
	err = errors.Join(err, st.option("word", &word, ^uint64(0)), st.option("control", &control, ^uint64(0)), st.option("cpl", &cpl, 3))
	return vtl.Trap{Word: hypercall.Input(word), Control: control, CPL: uint8(cpl), RealMode: f&1 != 0}, err
}

func (s *vtlScript) set(st *vtlStep, target hypercall.InputVTL, on uint32, name hypercall.Register, value uint64) string {
	return s.status(s.p.SetRegister(st.vp, &hypercall.VpRegistersInput{PartitionID: self, VPIndex: on, TargetVTL: target}, name, vtl.Value{Low: value}, &s.e))
}

// processors reads a list of processors.
func (s *vtlScript) processors(words []string) (*vtl.Set, error) {
	set := new(vtl.Set)
	for _, w := range words {
		vp, err := vtlProcessor(w)
		if err != nil {
			return nil, err
		}
		if !set.Add(vp) {
			return nil, fmt.Errorf("no set has VP%d", vp)
		}
	}
	return set, nil
}

func vtlInterrupt(text string) (vtl.Interrupt, uint8, error) {
	if text == "nmi" {
		return vtl.NMI, 0, nil
	}
	v, err := vtlNumber(text, 255)
	return vtl.Fixed, uint8(v), err
}

func vtlAccess(op vtl.Operation) func(s *vtlScript, st *vtlStep) (string, error) {
	return func(s *vtlScript, st *vtlStep) (string, error) {
		page, err1 := vtlNumber(st.words[0], ^uint64(0))
		f, err2 := st.flags(st.words[1:], "user", "smep-off")
		if err := errors.Join(err1, err2); err != nil {
			return "", err
		}
		how := op
		for i, o := range []vtl.Operation{vtl.User, vtl.SMEPOff} {
			if f>>i&1 != 0 {
				how |= o
			}
		}
		return s.outcome(s.p.Access(st.vp, page, how, &s.e)), nil
	}
}

func vtlIO(write bool) func(s *vtlScript, st *vtlStep) (string, error) {
	return func(s *vtlScript, st *vtlStep) (string, error) {
		port, err := vtlNumber(st.words[0], 0xffff)
		value, size := uint64(0), uint64(1)
		if write && err == nil {
			value, err = vtlNumber(st.words[1], 1<<32-1)
		}
		err = errors.Join(err, st.option("size", &size, 4))
		if err != nil {
			return "", err
		}
		return s.outcome(s.p.AccessIO(st.vp, uint16(port), uint8(size), write, value, &s.e)), nil
	}
}

// draw draws the levels, what each has for itself, and what they may do with memory.
func (s *vtlScript) draw() {
	fmt.Fprint(s.out, s.p.Draw())
	top := bits.Len16(s.p.Status().EnabledVtlSet()) - 1
	for vp := range uint32(s.p.Config().Processors) {
		for l := vtl.VTL(top); l.Valid(); l-- { // below 0 it is none
			if s.p.Enabled(vp)>>l&1 != 0 {
				if text := s.private(vp, l); text != "" {
					fmt.Fprintf(s.out, "VP%d %v: %s\n", vp, l, text)
				}
			}
		}
	}
	for l := vtl.VTL(0); int(l) < top; l++ {
		n := 0
		for run, a := range s.p.Rights(l) {
			if n++; n <= vtlRows {
				fmt.Fprintf(s.out, "memory of %v: %v %v\n", l, run, a)
			}
		}
		if n > vtlRows {
			fmt.Fprintf(s.out, "memory of %v: %d more\n", l, n-vtlRows)
		}
	}
}

// private tells what a level has for itself on a processor, where it is not 0.
func (s *vtlScript) private(vp uint32, l vtl.VTL) string {
	var parts []string
	put := func(name string, v uint64) {
		if v != 0 {
			parts = append(parts, fmt.Sprintf("%s 0x%x", name, v))
		}
	}
	for _, r := range vtlContext {
		v, _ := s.p.Registers().Register(vp, l, r.register)
		put(r.name, v.Low)
	}
	put("tpr", uint64(s.p.TPR(vp, l)))
	put("assist page", s.p.AssistPage(vp, l)>>12)
	control, cr0, cr4, misc := s.p.Guard(vp, l)
	if control != 0 {
		parts = append(parts, "intercepts "+control.String())
	}
	put("mask of CR0", cr0)
	put("mask of CR4", cr4)
	put("mask of IA32_MISC_ENABLE", misc)
	if s.p.MBEC(vp, l) {
		parts = append(parts, "MBEC")
	}
	if s.p.VINAAsserted(vp, l) {
		parts = append(parts, "VINA asserted")
	}
	if s.p.PendingLevels(vp)>>l&1 != 0 {
		parts = append(parts, "interrupts pending")
	}
	return strings.Join(parts, ", ")
}
