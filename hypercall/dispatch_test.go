package hypercall_test

import (
	"testing"

	"github.com/govtx/vtx/hypercall"
	"github.com/govtx/vtx/internal/require"
	"github.com/govtx/vtx/internal/ring0test"
	"pgregory.net/rapid"
)

func newDispatcher(t require.T, config hypercall.Config, did *effects) *hypercall.Dispatcher {
	d, err := hypercall.NewDispatcher(config, handlers(did)...)
	require.NoError(t, err)
	return d
}

// newProcessor returns one in 64-bit mode that may do everything. No byte of its memory is
// failByte.
func newProcessor() *processor {
	p := template.clone()
	p.mem.noRead, p.mem.noWrite = map[uint64]bool{}, map[uint64]bool{}
	return p
}

var template = func() *processor {
	p := &processor{
		mode: hypercall.Mode64, privileges: needed, budget: 64, xmmInput: true, xmmOutp: true,
		mem: newMemory(0x1000, 0x2000),
	}
	for i := range p.mem.pages[0x1000] {
		p.mem.pages[0x1000][i] = byte(i*7) % failByte
		p.mem.pages[0x2000][i] = 0x19
	}
	for i := range p.regs {
		p.regs[i] = 0x1919191919191919
	}
	for i := range p.xmm {
		p.xmm[i] = [2]uint64{0x2020202020202020, 0x2121212121212121}
	}
	return p
}()

// sameMemory requires two processors to find the same in memory.
func sameMemory(t require.T, want, got *processor, note ...any) {
	t.Helper()
	for a, p := range want.mem.pages {
		require.True(t, *p == *got.mem.pages[a], note...)
	}
}

func (p *processor) set(w hypercall.Input, first, second uint64) {
	p.setWord64(hvRDX, hvRBX, hvRCX, first)
	p.setWord64(hvR8, hvRDI, hvRSI, second)
	p.setWord64(hvRCX, hvRDX, hvRAX, uint64(w))
}

func (p *processor) result() hypercall.Result {
	return hypercall.Result(p.word64(hvRAX, hvRDX, hvRAX))
}

const (
	success   = hypercall.StatusSuccess
	badCode   = hypercall.StatusInvalidHypercallCode
	badInput  = hypercall.StatusInvalidHypercallInput
	unaligned = hypercall.StatusInvalidAlignment
	denied    = hypercall.StatusAccessDenied
)

// checks are single calls: what TLFS and OpenVMM answer, as far as an outcome or status
// goes. Where it is not said otherwise, OpenVMM answers like the TLFS, the caller is in
// 64-bit mode, parameters are at the beginning of a page and results at that of another.
var checks = []struct {
	name    string
	word    hypercall.Input
	in, out uint64 // addresses; 0: 0x1000, 0x2000
	change  func(*processor)
	tlfs    any // an Outcome, or the Status of one that is done
	openvmm any // nil: the same
}{
	{"none", 0x1006, 0, 0, nil, success, nil},
	{"none, fast", 0x1_1006, 0, 0, nil, success, nil},
	{"none, addresses do not matter", 0x1006, 3, 5, nil, success, nil},
	{"input", 0x1001, 0, 0, nil, success, nil},
	{"input, the other address does not matter", 0x1001, 0, 3, nil, success, nil},
	{"output, the other address does not matter", 0x2001, 3, 0, nil, success, nil},

	{"CPL 3", 0x1006, 0, 0, func(p *processor) { p.cpl = 3 }, hypercall.UndefinedInstruction, nil},
	{"CPL 1, fast", 0x1_1006, 0, 0, func(p *processor) { p.cpl = 1 }, hypercall.UndefinedInstruction, nil},
	{"real mode", 0x1006, 0, 0, func(p *processor) { p.mode = hypercall.ModeReal }, hypercall.UndefinedInstruction, nil},
	{"no mode", 0x1006, 0, 0, func(p *processor) { p.mode = 3 }, hypercall.UndefinedInstruction, nil},

	{"VTL call", 0x11, 0, 0, nil, hypercall.VTLCall, nil},
	{"VTL call with other bits", 0xf800_0000_8001_0011, 0, 0, nil, hypercall.VTLCall, nil},
	{"VTL call, CPL 3", 0x11, 0, 0, func(p *processor) { p.cpl = 3 }, hypercall.UndefinedInstruction, nil},
	{"VTL return", 0x12, 0, 0, nil, hypercall.VTLReturn, nil},

	{"reserved bit 27", 1<<27 | 0x1006, 0, 0, nil, badInput, nil},
	{"reserved bit 30", 1<<30 | 0x1_1006, 0, 0, nil, badInput, nil},
	{"reserved bit 44", 1<<44 | 0x1006, 0, 0, nil, badInput, nil},
	{"reserved bit 47", 1<<47 | 0x1006, 0, 0, nil, badInput, nil},
	{"reserved bit 60", 1<<60 | 0x1006, 0, 0, nil, badInput, nil},
	{"reserved bit 63", 1<<63 | 0x1006, 0, 0, nil, badInput, nil},
	{"reserved bit of an unknown code", 1<<63 | 0xffff, 0, 0, nil, badInput, nil},
	{"nested", 1<<31 | 0x1006, 0, 0, nil, success, nil},
	{"unknown", 0xffff, 0, 0, nil, badCode, nil},
	{"unknown, fast", 0x1_ffff, 0, 0, nil, badCode, nil},
	{"unknown, 0", 0, 0, 0, nil, badCode, nil},
	{"unknown, beside others", 0x1000, 0, 0, nil, badCode, nil},
	{"extended", 0x8001, 0, 0, nil, success, nil},

	{"no privilege", 0x2006, 0, 0, func(p *processor) { p.privileges = ^needed }, denied, nil},
	{"no privilege, fast", 0x1_2006, 0, 0, func(p *processor) { p.privileges = 0 }, denied, nil},
	{"privilege", 0x1_2006, 0, 0, nil, success, nil},
	{"no privilege for what is wrong", 1<<32 | 0x2006, 3, 0, func(p *processor) { p.privileges = 0 }, denied, nil},

	{"simple, rep count", 3<<32 | 0x1002, 0, 0, nil, badInput, nil},
	{"simple, rep start", 1<<48 | 0x1002, 0, 0, nil, badInput, nil},
	{"rep, no count", 0x1003, 0, 0, nil, badInput, nil},
	{"rep, start is count", 3<<48 | 3<<32 | 0x1003, 0, 0, nil, badInput, nil},
	{"rep, start above count", 4<<48 | 3<<32 | 0x1003, 0, 0, nil, badInput, nil},
	{"rep, start below count", 2<<48 | 3<<32 | 0x1003, 0, 0, nil, success, nil},
	{"variable header of a call without", 1<<17 | 0x1002, 0, 0, nil, badInput, nil},
	{"variable header", 3<<17 | 0x1005, 0, 0, nil, success, nil},
	{"no variable header", 0x1005, 0, 0, nil, success, nil},

	{"fast, too large", 0x1_2004, 0, 0, nil, badInput, nil},
	{"fast, not for this call", 0x1_2005, 0, 0, nil, badInput, nil},
	{"fast, all for results", 0x1_2002, 0, 0, nil, success, nil},
	{"fast, all for parameters", 12<<17 | 0x1_1007, 0, 0, nil, success, nil},
	{"fast, a variable header too large", 13<<17 | 0x1_1007, 0, 0, nil, badInput, nil},
	{"fast, 6 elements each way", 6<<32 | 0x1_1004, 0, 0, nil, success, nil},
	{"fast, 7 elements each way", 7<<32 | 0x1_1004, 0, 0, nil, badInput, nil},
	{"fast, 12 elements", 12<<32 | 0x1_1003, 0, 0, nil, success, nil},
	{"fast, 13 elements", 13<<32 | 0x1_1003, 0, 0, nil, badInput, nil},
	{"fast, 4 registers", 4<<32 | 0x1_2008, 0, 0, nil, success, nil},
	{"fast, 5 registers", 5<<32 | 0x1_2008, 0, 0, nil, badInput, nil},
	{"fast, XMM input not offered", 1<<17 | 0x1_1007, 0, 0, func(p *processor) { p.xmmInput = false }, hypercall.UndefinedInstruction, badInput},
	{"fast, XMM output not offered", 0x1_1002, 0, 0, func(p *processor) { p.xmmOutp = false }, hypercall.UndefinedInstruction, badInput},
	{"fast, XMM not needed", 0x1_1001, 0, 0, func(p *processor) { p.xmmInput, p.xmmOutp = false, false }, success, nil},
	{"fast, too large and not offered", 0x1_2004, 0, 0, func(p *processor) { p.xmmInput = false }, badInput, nil},
	{"fast, 32-bit", 0x1_1001, 0, 0, func(p *processor) { p.mode = hypercall.Mode32 }, success, nil},
	{"fast, 32-bit, XMM", 1<<17 | 0x1_1007, 0, 0, func(p *processor) { p.mode = hypercall.Mode32 }, success, badInput},
	{"fast, 32-bit, output", 0x1_1002, 0, 0, func(p *processor) { p.mode = hypercall.Mode32 }, badInput, nil},

	{"input unaligned", 0x1002, 0x1004, 0, nil, unaligned, nil},
	{"output unaligned", 0x1002, 0, 0x2004, nil, unaligned, nil},
	{"input across pages", 0x1002, 0x1ff8, 0, nil, unaligned, badInput},
	{"output across pages", 0x1002, 0, 0x2ff8, nil, unaligned, badInput},
	{"input unaligned across pages", 0x1002, 0x1ffc, 0, nil, unaligned, badInput},
	{"input up to a page's end", 0x1002, 0x1ff0, 0, nil, success, nil},
	{"output up to a page's end", 0x1002, 0, 0x2ff0, nil, success, nil},
	{"most elements", 510<<32 | 0x1003, 0, 0, nil, hypercall.Again, nil},
	{"one more", 511<<32 | 0x1003, 0, 0, nil, unaligned, badInput},
	{"all elements", 4095<<32 | 0x1003, 0, 0, nil, unaligned, badInput},
	{"largest variable header", 1023<<17 | 0x1007, 0, 0, nil, unaligned, badInput},
	{"input beyond memory's bounds", 0x1002, 1 << physicalBits, 0, nil, unaligned, badInput},
	{"output beyond memory's bounds", 0x1002, 0, 1 << 63, nil, unaligned, badInput},
	{"input at the end of addresses", 0x1002, ^uint64(15), 0, nil, unaligned, badInput},
	{"overlap", 0x1002, 0x1008, 0x1000, nil, unaligned, success},
	{"overlap, other way", 0x1002, 0x1000, 0x1008, nil, unaligned, success},
	{"next to each other", 0x1002, 0x1010, 0x1000, nil, success, nil},
	{"no input memory", 0x1002, 0x3000, 0, nil, hypercall.MemoryFault, badInput},
	{"no output memory", 0x1002, 0, 0x3000, nil, hypercall.MemoryFault, badInput},
}

// TestChecks gives each check what it refuses, and what it just lets pass.
func TestChecks(t *testing.T) {
	for _, profile := range []hypercall.Profile{hypercall.ProfileTLFS, hypercall.ProfileOpenVMM} {
		var did effects
		d := newDispatcher(t, hypercall.Config{PhysicalBits: physicalBits, Profile: profile}, &did)
		for _, c := range checks {
			p := newProcessor()
			if c.change != nil {
				c.change(p)
			}
			if c.in == 0 {
				c.in = 0x1000
			}
			if c.out == 0 {
				c.out = 0x2000
			}
			p.set(c.word, c.in, c.out)
			before := p.clone()
			did = nil
			o := d.Dispatch(p.call(new(hypercall.Call), false))
			var got any = o
			if o == hypercall.Done {
				got = p.result().Status()
			}
			want := c.tlfs
			if profile == hypercall.ProfileOpenVMM && c.openvmm != nil {
				want = c.openvmm
			}
			require.Equal(t, want, got, "profile %d: %s", profile, c.name)
			if got == success || got == hypercall.Again {
				require.NotEmpty(t, did, "%s", c.name)
				continue
			}
			// What fails has done nothing, and touches nothing but the result.
			require.Empty(t, did, "%s", c.name)
			sameMemory(t, before, p, "%s", c.name)
			require.Equal(t, before.xmm, p.xmm, "%s", c.name)
			if o == hypercall.Done {
				require.Zero(t, p.result().Reps(), "%s", c.name)
				before.setWord64(hvRAX, hvRDX, hvRAX, uint64(p.result()))
			}
			require.Equal(t, before.regs, p.regs, "%s", c.name)
		}
	}
}

// OpenVMM's vectors: vm/hv1/hv1_hypercall/src/tests.rs at commit 1488a37b. A header is
// two words pattern, a variable header words pattern+1, element i of a list pattern+2+i;
// results are ^pattern, and ^pattern-2-i in lists. Registers and memory are full of 0x19
// before.
const (
	pattern = 0x123456789abcdef0
	back    = 0x1919191919191919
)

var openVMMVectors = []struct {
	test     string
	code     hypercall.Code
	header   int // words
	variable int
	in, out  bool // lists
	results  int  // words
	start    int
	count    int // 0: simple
	fails    int // element that fails with status, or before which the call is held; 0: none
	held     bool
}{
	{test: "test_null", code: 0x1006},
	{test: "test_simple_no_output", code: 0x1001, header: 2},
	{test: "test_simple", code: 0x1002, header: 2, results: 2},
	{test: "test_rep_no_output", code: 0x1003, header: 2, in: true, count: 31},
	{test: "test_rep_no_output, start 1", code: 0x1003, header: 2, in: true, count: 31, start: 1},
	{test: "test_rep_no_output, fast", code: 0x1003, header: 2, in: true, count: 6},
	{test: "test_rep_no_output, fast, start 1", code: 0x1003, header: 2, in: true, count: 6, start: 1},
	{test: "test_rep", code: 0x1004, header: 2, in: true, out: true, count: 31},
	{test: "test_rep, start 1", code: 0x1004, header: 2, in: true, out: true, count: 31, start: 1},
	{test: "test_rep, fast", code: 0x1004, header: 2, in: true, out: true, count: 6},
	{test: "test_rep, fast, start 1", code: 0x1004, header: 2, in: true, out: true, count: 6, start: 1},
	{test: "test_rep_fail", code: 0x1004, header: 2, in: true, out: true, count: 3, fails: 2},
	{test: "test_rep_fail, start 1", code: 0x1004, header: 2, in: true, out: true, count: 3, start: 1, fails: 2},
	{test: "test_rep_fail, fast", code: 0x1004, header: 2, in: true, out: true, count: 6, fails: 5},
	{test: "test_rep_fail, fast, start 1", code: 0x1004, header: 2, in: true, out: true, count: 6, start: 1, fails: 5},
	{test: "test_rep_timeout", code: 0x1004, header: 2, in: true, out: true, count: 3, fails: 2, held: true},
	{test: "test_rep_timeout, start 1", code: 0x1004, header: 2, in: true, out: true, count: 3, start: 1, fails: 2, held: true},
	{test: "test_variable_no_output", code: 0x1007, header: 2, variable: 3},
	{test: "test_variable", code: 0x1005, header: 2, variable: 3, results: 2},
	{test: "test_variable_rep", code: 0x1008, header: 2, variable: 3, in: true, out: true, count: 3},
	{test: "test_variable_rep, start 1", code: 0x1008, header: 2, variable: 3, in: true, out: true, count: 3, start: 1},
}

// TestOpenVMMVectors makes OpenVMM's test calls in each form and mode that can pass them,
// parameters and results up to the end of their pages, as there.
func TestOpenVMMVectors(t *testing.T) {
	made := 0
	for _, v := range openVMMVectors {
		var words []uint64
		for range v.header {
			words = append(words, pattern)
		}
		for range v.variable {
			words = append(words, pattern+1)
		}
		results := v.results
		if v.in {
			for i := range v.count {
				words = append(words, pattern+2+uint64(i))
			}
		}
		if v.out {
			results = v.count
		}
		end := v.count
		if v.fails != 0 {
			end = v.fails
		}
		called := 0
		check := func(c *hypercall.Call) {
			called++
			var got []uint64
			for _, p := range [][]byte{c.Header(), c.VariableHeader()} {
				for i := 0; i < len(p); i += 8 {
					got = append(got, le(p[i:]))
				}
			}
			require.Equal(t, append([]uint64{}, words[:v.header+v.variable]...), append([]uint64{}, got...), "%s", v.test)
		}
		l := findTestCall(v.code).layout
		h := hypercall.Handler{Code: v.code, Layout: l}
		if v.count == 0 {
			h.Simple = func(c *hypercall.Call) hypercall.Status {
				check(c)
				for i := 0; i < len(c.Output()); i += 8 {
					putLE(c.Output()[i:], ^uint64(pattern))
				}
				return success
			}
		} else {
			h.Rep = func(c *hypercall.Call, first, limit int) (int, hypercall.Status) {
				check(c)
				require.Equal(t, v.start, first)
				require.Equal(t, v.count, limit)
				for i := first; i < end; i++ {
					require.Equal(t, pattern+2+uint64(i), le(c.Element(i)))
					if v.out {
						putLE(c.OutputElement(i), ^uint64(pattern)-2-uint64(i))
					}
				}
				if v.fails != 0 && !v.held {
					return end - first, denied
				}
				return end - first, success
			}
		}
		for _, profile := range []hypercall.Profile{hypercall.ProfileTLFS, hypercall.ProfileOpenVMM} {
			d, err := hypercall.NewDispatcher(hypercall.Config{Profile: profile}, h)
			require.NoError(t, err)
			for _, mode := range []hypercall.Mode{hypercall.Mode64, hypercall.Mode32} {
				for _, fast := range []bool{false, true} {
					inUnits := (len(words) + 1) / 2
					if fast && (inUnits*2+results > 14 || mode == hypercall.Mode32 && (inUnits > 1 || results > 0)) {
						continue
					}
					made++
					p := newProcessor()
					p.mode = mode
					for i := range p.regs {
						p.regs[i] = back
					}
					for i := range p.xmm {
						p.xmm[i] = [2]uint64{back, back}
					}
					w := hypercall.Input(v.code).WithFast(fast).WithVariableHeader(v.variable).WithReps(v.count).WithRepStart(v.start)
					inGPA, outGPA := uint64(0x2000-8*len(words)), uint64(0x3000-8*results)
					if fast {
						file := p.file()
						for i, word := range words {
							putLE(file[8*i:], word)
						}
						p.setWord64(hvRDX, hvRBX, hvRCX, le(file))
						p.setWord64(hvR8, hvRDI, hvRSI, le(file[8:]))
						if mode == hypercall.Mode64 {
							p.setFile(file)
						}
						p.setWord64(hvRCX, hvRDX, hvRAX, uint64(w))
					} else {
						for i, word := range words {
							putLE(p.mem.pages[0x1000][inGPA&0xfff+8*uint64(i):], word)
						}
						p.set(w, inGPA, outGPA)
					}
					before := p.clone()
					called = 0
					o := d.Dispatch(p.call(new(hypercall.Call), true))
					require.Equal(t, 1, called, "%s", v.test)

					want := hypercall.MakeResult(success, end)
					switch {
					case v.held:
						require.Equal(t, hypercall.Again, o, "%s", v.test)
						before.setWord64(hvRCX, hvRDX, hvRAX, uint64(w.WithRepStart(end)))
					case v.fails != 0:
						want = want.WithStatus(denied)
						fallthrough
					default:
						require.Equal(t, hypercall.Done, o, "%s", v.test)
						require.Equal(t, want, p.result(), "%s", v.test)
						if v.count != 0 {
							before.setWord64(hvRCX, hvRDX, hvRAX, uint64(w.WithRepStart(end)))
						}
						before.setWord64(hvRAX, hvRDX, hvRAX, uint64(want))
					}

					// Results, and nothing else, have changed. In registers the last is
					// filled up with a zero.
					first, last := 0, v.results
					if v.out {
						first, last = v.start, end
					}
					for i := first; i < last; i++ {
						value := ^uint64(pattern)
						if v.out {
							value -= 2 + uint64(i)
						}
						if !fast {
							putLE(before.mem.pages[0x2000][outGPA&0xfff+8*uint64(i):], value)
							continue
						}
						file := before.file()
						at := 16*inUnits + 8*i
						putLE(file[at:], value)
						if i == last-1 && i%2 == 0 {
							putLE(file[at+8:], 0)
						}
						before.setFile(file)
					}
					require.Equal(t, before.regs, p.regs, "%s, %v, fast %t", v.test, mode, fast)
					require.Equal(t, before.xmm, p.xmm, "%s, %v, fast %t", v.test, mode, fast)
					sameMemory(t, before, p, "%s, %v, fast %t", v.test, mode, fast)
				}
			}
		}
	}
	t.Logf("%d calls", made)
	require.Equal(t, 122, made) // in memory 21 by 2 modes, fast 17 and 2; by 2 profiles
}

// le and putLE are binary.LittleEndian's, in few letters.
func le(b []byte) (v uint64) {
	for i := range 8 {
		v |= uint64(b[i]) << (8 * i)
	}
	return v
}

func putLE(b []byte, v uint64) {
	for i := range 8 {
		b[i] = byte(v >> (8 * i))
	}
}

// run dispatches until the call is over, with the budget of each entry from next, and
// returns how often it was made.
func run(t require.T, d *hypercall.Dispatcher, p *processor, next func() int) (o hypercall.Outcome, entries int) {
	c := new(hypercall.Call)
	for {
		p.budget = next()
		before := hypercall.Input(p.word64(hvRCX, hvRDX, hvRAX))
		entries++
		require.LessOrEqual(t, entries, hypercall.MaxReps)
		if o = d.Dispatch(p.call(c, entries%2 == 0)); o != hypercall.Again {
			return o, entries
		}
		after := hypercall.Input(p.word64(hvRCX, hvRDX, hvRAX))
		require.Equal(t, before.WithRepStart(before.RepStart()+p.budget), after)
	}
}

// TestRepInterrupted interrupts rep calls after each possible number of elements, and at
// random: registers, memory and what was done are the same as without.
func TestRepInterrupted(t *testing.T) {
	ring0test.HostOnly(t)
	var did effects
	d := newDispatcher(t, hypercall.Config{}, &did)
	one := func(t require.T, w hypercall.Input, mode hypercall.Mode, fail int, next func() int) (*processor, effects) {
		p := newProcessor()
		p.mode = mode
		first := uint64(0x0102030405060708)
		second := uint64(0x1112131415161718)
		if !w.Fast() {
			first, second = 0x1000, 0x2000
			if l := findTestCall(w.Code()).layout; fail >= 0 && l.InputElement != 0 {
				p.mem.pages[0x1000][int(l.Input)+fail*int(l.InputElement)] = failByte
			}
		}
		p.set(w, first, second)
		did = nil
		o, _ := run(t, d, p, next)
		require.Equal(t, hypercall.Done, o)
		return p, did
	}
	compare := func(t require.T, w hypercall.Input, mode hypercall.Mode, fail int, next func() int) {
		want, wantDid := one(t, w, mode, fail, func() int { return hypercall.MaxReps })
		got, gotDid := one(t, w, mode, fail, next)
		require.Equal(t, want.regs, got.regs, "%v", w)
		require.Equal(t, want.xmm, got.xmm, "%v", w)
		sameMemory(t, want, got, "%v", w)
		require.Equal(t, wantDid, gotDid, "%v", w)
	}
	var reps []hypercall.Input
	for _, c := range testCalls {
		if !c.rep {
			continue
		}
		for _, n := range []int{1, 3, 8} {
			w := hypercall.Input(c.code).WithReps(n)
			reps = append(reps, w)
			if c.layout.Fast(0, n) {
				reps = append(reps, w.WithFast(true))
			}
		}
	}
	for _, w := range reps {
		for _, mode := range []hypercall.Mode{hypercall.Mode64, hypercall.Mode32} {
			if w.Fast() && mode == hypercall.Mode32 {
				continue
			}
			for at := 1; at <= w.RepCount(); at++ {
				for _, fail := range []int{-1, 0, w.RepCount() / 2} {
					compare(t, w, mode, fail, func() int { return at })
					first := at // interrupted once
					compare(t, w, mode, fail, func() int { n := first; first = hypercall.MaxReps; return n })
				}
			}
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		w := rapid.SampledFrom(reps).Draw(t, "word")
		compare(t, w, hypercall.Mode64, rapid.IntRange(-1, w.RepCount()-1).Draw(t, "fail"), func() int { return rapid.IntRange(1, 9).Draw(t, "budget") })
	})
}

// TestFaults makes each byte of parameters and results out of reach, one after the other.
func TestFaults(t *testing.T) {
	ring0test.HostOnly(t)
	var did effects
	d := newDispatcher(t, hypercall.Config{}, &did)
	const count = 4 // more than are done at once
	faults := 0
	c := new(hypercall.Call)
	for _, tc := range testCalls {
		w := hypercall.Input(tc.code)
		n := 0
		if tc.rep {
			n = count
			w = w.WithReps(n)
		}
		if tc.layout.Variable {
			w = w.WithVariableHeader(3)
		}
		in := int(tc.layout.Input) + 8*w.VariableHeader() + n*int(tc.layout.InputElement)
		out := int(tc.layout.Output) + n*int(tc.layout.OutputElement)
		for at := -1; at <= in+out; at++ {
			for _, probing := range []bool{false, true} {
				p := newProcessor()
				p.set(w, 0x1000, 0x2000)
				p.budget = 3
				inside := at >= 0 && at < in+out
				switch {
				case at < 0: // the bytes before and behind
					p.mem.noRead[0x1000-1], p.mem.noWrite[0x2000-1] = true, true
					p.mem.noRead[0x1000+uint64(in)], p.mem.noWrite[0x2000+uint64(out)] = true, true
				case at < in:
					p.mem.noRead[0x1000+uint64(at)] = true
				default:
					p.mem.noWrite[0x2000+uint64(at-in)] = true
				}
				p.call(c, probing)
				did = nil
				o := hypercall.Again
				before, finished := p.clone(), 0
				for o == hypercall.Again {
					before, finished = p.clone(), len(did)
					o = d.Dispatch(c)
				}
				if !inside {
					require.Equal(t, hypercall.Done, o, "%v", w)
					require.Equal(t, success, p.result().Status(), "%v", w)
					continue
				}
				faults++
				require.Equal(t, hypercall.MemoryFault, o, "%v, byte %d", w, at)
				require.Equal(t, before.regs, p.regs)
				sameMemory(t, before, p)
				require.Len(t, did, finished) // nothing in this entry
				f := c.Fault()
				require.Equal(t, at >= in, f.Write)
				bad := uint64(0x1000 + at)
				if at >= in {
					bad = uint64(0x2000 + at - in)
				}
				require.True(t, f.GPA <= bad && bad < f.GPA+uint64(f.Len), "%v: %v", w, f)
				require.ErrorIs(t, f, errNoMemory)
				require.ErrorContains(t, f, "guest-physical address 0x")

				// With memory there the call goes on, and is whole.
				clear(p.mem.noRead)
				clear(p.mem.noWrite)
				for o = hypercall.Again; o == hypercall.Again; {
					o = d.Dispatch(c)
				}
				require.Equal(t, hypercall.MakeResult(success, n), p.result())
				require.Len(t, did, max(1, n))
			}
		}
	}
	t.Logf("%d faults", faults)
}

// TestHold has a simple call that takes its time.
func TestHold(t *testing.T) {
	tries := 0
	hold := func(c *hypercall.Call) hypercall.Status {
		if tries++; tries < 3 {
			copy(c.Output(), "not yet")
			return c.Hold()
		}
		return success
	}
	d, err := hypercall.NewDispatcher(hypercall.Config{},
		hypercall.Handler{Code: 0x1001, Layout: hypercall.Layout{Input: 16}, Simple: hold},
		hypercall.Handler{Code: 0x1002, Layout: hypercall.Layout{Input: 16, Output: 16}, Simple: hold},
		hypercall.Handler{Code: 0x1003, Layout: hypercall.Layout{InputElement: 8}, Rep: func(c *hypercall.Call, first, limit int) (int, hypercall.Status) {
			c.Hold()
			return 0, success
		}})
	require.NoError(t, err)
	for _, w := range []hypercall.Input{0x1001, 0x1_1001, 0x1002, 0x1_1002} {
		p := newProcessor()
		p.set(w, 0x1000, 0x2000)
		before := p.clone()
		c := p.call(new(hypercall.Call), true)
		tries = 0
		for range 2 {
			require.Equal(t, hypercall.Again, d.Dispatch(c))
			require.Equal(t, before.regs, p.regs)
			require.Equal(t, before.xmm, p.xmm)
			sameMemory(t, before, p)
		}
		require.Equal(t, hypercall.Done, d.Dispatch(c))
	}
	// A rep call is held by doing no element, and leaves nothing to the next call.
	p := newProcessor()
	p.set(1<<32|0x1003, 0x1000, 0)
	c := p.call(new(hypercall.Call), true)
	require.Equal(t, hypercall.Again, d.Dispatch(c))
	require.Equal(t, uint64(1<<32|0x1003), p.regs[hvRCX])
	tries = 3
	p.set(0x1_1001, 0, 0)
	require.Equal(t, hypercall.Done, d.Dispatch(c))
}

// TestSwitch has the control input where the code in the hypercall page puts it.
func TestSwitch(t *testing.T) {
	d, err := hypercall.NewDispatcher(hypercall.Config{})
	require.NoError(t, err)
	for _, code := range []hypercall.Input{0x11, 0x12} {
		c := &hypercall.Call{Regs: &[16]uint64{hvRAX: 1 << 63, hvRCX: uint64(code)}, Mode: hypercall.Mode64}
		require.Equal(t, hypercall.VTLCall+hypercall.Outcome(code-0x11), d.Dispatch(c))
		require.Equal(t, code, c.Word())
		require.Equal(t, uint64(1<<63), c.SwitchControl())
		c = &hypercall.Call{Regs: &[16]uint64{hvRAX: 1<<63 | uint64(code), hvRCX: 1<<40 | 5}, Mode: hypercall.Mode32}
		require.Equal(t, hypercall.VTLCall+hypercall.Outcome(code-0x11), d.Dispatch(c))
		require.Equal(t, code, c.Word())
		require.Equal(t, uint64(5), c.SwitchControl())
	}
}

// TestNested hands calls on to the hypervisor below.
func TestNested(t *testing.T) {
	var did effects
	d := newDispatcher(t, hypercall.Config{Nested: true}, &did)
	for w, want := range map[hypercall.Input]hypercall.Outcome{
		0x1_1006:           hypercall.Done,
		1<<31 | 0x1_1006:   hypercall.Forward,
		1<<31 | 0xffff:     hypercall.Forward, // whether it is known is for the other to say
		1<<31 | 1<<30 | 22: hypercall.Done,
	} {
		p := newProcessor()
		p.set(w, 0x1000, 0x2000)
		require.Equal(t, want, d.Dispatch(p.call(new(hypercall.Call), true)), "%v", w)
	}
	require.Len(t, did, 1)
}

// TestNewDispatcher refuses what makes no sense.
func TestNewDispatcher(t *testing.T) {
	simple := func(*hypercall.Call) hypercall.Status { return success }
	rep := func(_ *hypercall.Call, first, limit int) (int, hypercall.Status) { return 0, success }
	known, _ := hypercall.CodeModifyVtlProtectionMask.Layout()
	for _, c := range []struct {
		config   hypercall.Config
		handlers []hypercall.Handler
		want     string
	}{
		{hypercall.Config{PhysicalBits: 53}, nil, "53 bits"},
		{hypercall.Config{PhysicalBits: 11}, nil, "11 bits"},
		{hypercall.Config{Profile: 2}, nil, "Profile(2)"},
		{hypercall.Config{}, []hypercall.Handler{{Code: 0x11, Simple: simple}}, "HvCallVtlCall cannot have a handler"},
		{hypercall.Config{}, []hypercall.Handler{{Code: 0x12, Simple: simple}}, "HvCallVtlReturn cannot have a handler"},
		{hypercall.Config{}, []hypercall.Handler{{Code: 0x1000}}, "either Simple or Rep"},
		{hypercall.Config{}, []hypercall.Handler{{Code: 0x1000, Simple: simple, Rep: rep}}, "either Simple or Rep"},
		{hypercall.Config{}, []hypercall.Handler{{Code: hypercall.CodeModifyVtlProtectionMask, Simple: simple}}, "HvCallModifyVtlProtectionMask is a rep call"},
		{hypercall.Config{}, []hypercall.Handler{{Code: hypercall.CodePostMessage, Rep: rep}}, "HvCallPostMessage is a simple call"},
		{hypercall.Config{}, []hypercall.Handler{{Code: 0x1000, Simple: simple, Layout: hypercall.Layout{InputElement: 8}}}, "a simple call has none"},
		{hypercall.Config{}, []hypercall.Handler{{Code: 0x1000, Rep: rep, Layout: hypercall.Layout{Input: 8}}}, "must have elements"},
		{hypercall.Config{}, []hypercall.Handler{{Code: 0x1000, Rep: rep, Layout: hypercall.Layout{Output: 8, InputElement: 8}}}, "no output header"},
		{hypercall.Config{}, []hypercall.Handler{{Code: 0x1000, Simple: simple, Layout: hypercall.Layout{Input: 4097}}}, "does not fit"},
		{hypercall.Config{}, []hypercall.Handler{{Code: hypercall.CodePostMessage, Simple: simple, Layout: hypercall.Layout{Input: 255}}}, "the layout of HvCallPostMessage"},
		{hypercall.Config{}, []hypercall.Handler{{Code: 0x1000, Simple: simple}, {Code: 0x1000, Simple: simple}}, "two handlers"},
	} {
		d, err := hypercall.NewDispatcher(c.config, c.handlers...)
		require.ErrorContains(t, err, c.want)
		require.Nil(t, d)
	}
	// Privileges, and whether there is a fast form, are the embedder's to say.
	known.Privileges, known.SlowOnly = 0, true
	_, err := hypercall.NewDispatcher(hypercall.Config{PhysicalBits: 12}, hypercall.Handler{Code: hypercall.CodeModifyVtlProtectionMask, Rep: rep, Layout: known})
	require.NoError(t, err)
}

// TestHandlerLies has a handler that does more than it was given.
func TestHandlerLies(t *testing.T) {
	for _, done := range []int{2, -1} {
		d, err := hypercall.NewDispatcher(hypercall.Config{}, hypercall.Handler{Code: 0x1000, Layout: hypercall.Layout{InputElement: 8},
			Rep: func(*hypercall.Call, int, int) (int, hypercall.Status) { return done, success }})
		require.NoError(t, err)
		p := newProcessor()
		p.set(1<<32|0x1000, 0x1000, 0)
		require.Panics(t, func() { d.Dispatch(p.call(new(hypercall.Call), true)) })
	}
}

// TestOutputRace has memory that goes away after it was probed: the call comes to
// nothing for the guest, and its registers are as they were.
func TestOutputRace(t *testing.T) {
	p := newProcessor()
	vanish := func(c *hypercall.Call) { p.mem.noWrite[0x2000] = true }
	all := []hypercall.Handler{
		{Code: 0x1002, Layout: hypercall.Layout{Output: 16}, Simple: func(c *hypercall.Call) hypercall.Status { vanish(c); return success }},
		{Code: 0x1004, Layout: hypercall.Layout{OutputElement: 16}, Rep: func(c *hypercall.Call, first, limit int) (int, hypercall.Status) {
			vanish(c)
			return limit - first, success
		}},
	}
	for profile, want := range []hypercall.Outcome{hypercall.MemoryFault, hypercall.Done} {
		d, err := hypercall.NewDispatcher(hypercall.Config{Profile: hypercall.Profile(profile)}, all...)
		require.NoError(t, err)
		for _, w := range []hypercall.Input{0x1002, 3<<32 | 0x1004} {
			clear(p.mem.noWrite)
			p.set(w, 0x1000, 0x2000)
			before := p.clone()
			c := p.call(new(hypercall.Call), true)
			require.Equal(t, want, d.Dispatch(c))
			require.True(t, c.Fault().Write)
			sameMemory(t, before, p)
			if want == hypercall.Done {
				require.Equal(t, hypercall.MakeResult(badInput, 0), p.result())
				before.regs[hvRAX] = p.regs[hvRAX]
			}
			require.Equal(t, before.regs, p.regs)
		}
	}
}

func TestModeOf(t *testing.T) {
	require.Equal(t, hypercall.ModeReal, hypercall.ModeOf(false, false, false))
	require.Equal(t, hypercall.Mode32, hypercall.ModeOf(true, false, false))
	require.Equal(t, hypercall.Mode32, hypercall.ModeOf(true, true, false)) // compatibility mode
	require.Equal(t, hypercall.Mode32, hypercall.ModeOf(true, false, true)) // CS.L means nothing
	require.Equal(t, hypercall.Mode64, hypercall.ModeOf(true, true, true))
	require.Equal(t, "real 32-bit 64-bit Mode(3)", hypercall.ModeReal.String()+" "+hypercall.Mode32.String()+" "+hypercall.Mode64.String()+" "+hypercall.Mode(3).String())
	require.Equal(t, "done", hypercall.Done.String())
	require.Equal(t, "forward", hypercall.Forward.String())
	require.Equal(t, "Outcome(7)", hypercall.Outcome(7).String())
}

// costCalls are calls whose cost is measured.
var costCalls = []struct {
	name string
	word hypercall.Input
	mode hypercall.Mode
}{
	{"null-fast", 0x1_1006, hypercall.Mode64},
	{"null", 0x1006, hypercall.Mode64},
	{"null-32", 0x1_1006, hypercall.Mode32},
	{"fast-16", 0x1_1001, hypercall.Mode64},
	{"xmm-24-24", 0x1_2003, hypercall.Mode64},
	{"memory-16-16", 0x1002, hypercall.Mode64},
	{"rep-64", 64<<32 | 0x1003, hypercall.Mode64},
	{"rep-64-output", 64<<32 | 0x1004, hypercall.Mode64},
	{"unknown", 0xffff, hypercall.Mode64},
}

// costDispatcher has handlers that do nothing.
func costDispatcher(t require.T) *hypercall.Dispatcher {
	var all []hypercall.Handler
	for _, c := range testCalls {
		h := hypercall.Handler{Code: c.code, Layout: c.layout}
		if c.rep {
			h.Rep = func(c *hypercall.Call, first, limit int) (int, hypercall.Status) { return limit - first, success }
		} else {
			h.Simple = func(*hypercall.Call) hypercall.Status { return success }
		}
		all = append(all, h)
	}
	d, err := hypercall.NewDispatcher(hypercall.Config{}, all...)
	require.NoError(t, err)
	return d
}

// flat is two pages of memory at address 0, and costs next to nothing.
type flat [8192]byte

func (m *flat) ReadPhysical(gpa uint64, p []byte) error  { copy(p, m[gpa:]); return nil }
func (m *flat) WritePhysical(gpa uint64, p []byte) error { copy(m[gpa:], p); return nil }
func (m *flat) ProbeWrite(uint64, int) error             { return nil }

func costRun(d *hypercall.Dispatcher, w hypercall.Input, mode hypercall.Mode) func() {
	p := newProcessor()
	p.mode = mode
	c := p.call(new(hypercall.Call), false)
	c.Memory = new(flat)
	return func() {
		p.set(w, 0, 4096)
		if d.Dispatch(c) != hypercall.Done {
			panic(w.String())
		}
	}
}

// TestDispatchAllocates nothing.
func TestDispatchAllocates(t *testing.T) {
	if !ring0test.Optimised() {
		t.Skip("built without optimisation")
	}
	d := costDispatcher(t)
	for _, c := range costCalls {
		require.Zero(t, testing.AllocsPerRun(10, costRun(d, c.word, c.mode)), "%s", c.name)
	}
}

func BenchmarkDispatch(b *testing.B) {
	d := costDispatcher(b)
	for _, c := range costCalls {
		run := costRun(d, c.word, c.mode)
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				run()
			}
		})
	}
}
