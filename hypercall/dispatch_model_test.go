package hypercall_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"testing"

	"github.com/govtx/vtx/hypercall"
	"github.com/govtx/vtx/internal/require"
	"pgregory.net/rapid"
)

// This file has what the tests of the dispatcher share: guest memory, calls to make, and
// a second dispatcher, written from the rules of the TLFS alone, byte by byte and without
// a thought about speed.

// memory is guest memory with some pages, of which single bytes can be out of reach. It
// is no WriteProber.
type memory struct {
	pages    map[uint64]*[4096]byte
	noRead   map[uint64]bool // by address
	noWrite  map[uint64]bool
	accesses int
}

var errNoMemory = errors.New("no memory")

func newMemory(pages ...uint64) *memory {
	m := &memory{pages: map[uint64]*[4096]byte{}, noRead: map[uint64]bool{}, noWrite: map[uint64]bool{}}
	for _, p := range pages {
		m.pages[p] = new([4096]byte)
	}
	return m
}

func (m *memory) clone() *memory {
	c := newMemory()
	for a, p := range m.pages {
		q := *p
		c.pages[a] = &q
	}
	c.noRead, c.noWrite = m.noRead, m.noWrite
	return c
}

// can reports whether all of n bytes are there and may be accessed.
func (m *memory) can(gpa uint64, n int, not map[uint64]bool) bool {
	for i := range uint64(n) {
		if m.pages[(gpa+i)&^0xfff] == nil || not[gpa+i] {
			return false
		}
	}
	return true
}

func (m *memory) byte(gpa uint64) *byte { return &m.pages[gpa&^0xfff][gpa&0xfff] }

func (m *memory) access(gpa uint64, n int, not map[uint64]bool) error {
	m.accesses++
	if n < 1 || gpa&0xfff+uint64(n) > 4096 {
		panic(fmt.Sprintf("an access to %d bytes at %#x is none that Memory promises", n, gpa))
	}
	if !m.can(gpa, n, not) {
		return errNoMemory
	}
	return nil
}

func (m *memory) ReadPhysical(gpa uint64, p []byte) error {
	if err := m.access(gpa, len(p), m.noRead); err != nil {
		return err
	}
	copy(p, m.pages[gpa&^0xfff][gpa&0xfff:])
	return nil
}

func (m *memory) WritePhysical(gpa uint64, p []byte) error {
	if err := m.access(gpa, len(p), m.noWrite); err != nil {
		return err
	}
	copy(m.pages[gpa&^0xfff][gpa&0xfff:], p)
	return nil
}

// prober is memory that is a WriteProber.
type prober struct{ *memory }

func (m prober) ProbeWrite(gpa uint64, n int) error { return m.access(gpa, n, m.noWrite) }

// A testCall is a call that the tests' hypervisor has. All do the same: a result is the
// sum of everything that goes into it, told apart by position; a header or element that
// starts with failByte fails.
type testCall struct {
	code   hypercall.Code
	rep    bool
	layout hypercall.Layout
}

const (
	failByte   = 0xee
	failStatus = hypercall.StatusInvalidRegisterValue
	needed     = hypercall.PrivilegeAccessVSM
)

// The codes up to 0x1008 are those of OpenVMM's tests.
var testCalls = []testCall{
	{0x1001, false, hypercall.Layout{Input: 16}},
	{0x1002, false, hypercall.Layout{Input: 16, Output: 16}},
	{0x1003, true, hypercall.Layout{Input: 16, InputElement: 8}},
	{0x1004, true, hypercall.Layout{Input: 16, InputElement: 8, OutputElement: 8}},
	{0x1005, false, hypercall.Layout{Input: 16, Output: 16, Variable: true}},
	{0x1006, false, hypercall.Layout{}},
	{0x1007, false, hypercall.Layout{Input: 16, Variable: true}},
	{0x1008, true, hypercall.Layout{Input: 16, InputElement: 8, OutputElement: 8, Variable: true}},
	{0x2000, false, hypercall.Layout{Input: 8}},
	{0x2001, false, hypercall.Layout{Output: 8}},
	{0x2002, false, hypercall.Layout{Output: 112}},
	{0x2003, false, hypercall.Layout{Input: 24, Output: 24}},
	{0x2004, false, hypercall.Layout{Input: 240}},
	{0x2005, false, hypercall.Layout{Input: 16, SlowOnly: true}},
	{0x2006, false, hypercall.Layout{Input: 16, Privileges: needed}},
	{0x2007, true, hypercall.Layout{OutputElement: 16}},
	{0x2008, true, hypercall.Layout{Input: 16, InputElement: 4, OutputElement: 16}},
	{0x2009, true, hypercall.Layout{Input: 16, InputElement: 32, Privileges: needed}},
	{0x200a, true, hypercall.Layout{Input: 8, InputElement: 4, OutputElement: 4}},
	{0x200b, true, hypercall.Layout{InputElement: 8, OutputElement: 4}},
	{0x8001, false, hypercall.Layout{Output: 8}},
}

func findTestCall(code hypercall.Code) *testCall {
	for i := range testCalls {
		if testCalls[i].code == code {
			return &testCalls[i]
		}
	}
	return nil
}

// result is what the tests' calls answer with.
func result(n int, from ...[]byte) []byte {
	sum := uint64(n)
	for _, p := range from {
		for _, b := range p {
			sum = sum*31 + uint64(b) + 1
		}
	}
	out := make([]byte, n)
	for i := range out {
		out[i] = byte(sum >> (8 * (i % 8)))
		sum = sum*31 + 7
	}
	return out
}

func fails(p []byte) bool { return len(p) > 0 && p[0] == failByte }

// effects are what the tests' calls do, in the order in which they do it.
type effects []string

func (e *effects) add(code hypercall.Code, index int, from ...[]byte) {
	*e = append(*e, fmt.Sprintf("%v[%d] %x", code, index, from))
}

// handlers returns the handlers of all test calls, which note what they do.
func handlers(done *effects) (all []hypercall.Handler) {
	for _, t := range testCalls {
		h := hypercall.Handler{Code: t.code, Layout: t.layout}
		if t.rep {
			h.Rep = func(c *hypercall.Call, first, limit int) (int, hypercall.Status) {
				size := int(t.layout.InputElement)
				for i := first; i < limit; i++ {
					e := c.Element(i)
					if !bytes.Equal(e, c.Elements()[(i-first)*size:][:size]) || len(c.Elements()) != (limit-first)*size {
						panic("Element and Elements differ")
					}
					if fails(e) || len(e) == 0 && fails(c.Header()) {
						return i - first, failStatus
					}
					done.add(t.code, i, c.Header(), c.VariableHeader(), e)
					copy(c.OutputElement(i), result(int(t.layout.OutputElement), c.Header(), c.VariableHeader(), e))
				}
				return limit - first, hypercall.StatusSuccess
			}
		} else {
			h.Simple = func(c *hypercall.Call) hypercall.Status {
				out := c.Output()
				for i := range out {
					if out[i] != 0 {
						panic("results are not empty")
					}
				}
				copy(out, result(int(t.layout.Output), c.Header(), c.VariableHeader()))
				if fails(c.Header()) {
					return failStatus
				}
				done.add(t.code, 0, c.Header(), c.VariableHeader())
				return hypercall.StatusSuccess
			}
		}
		all = append(all, h)
	}
	return all
}

// A processor is what one has that makes a hypercall.
type processor struct {
	regs              [16]uint64
	xmm               [6][2]uint64
	mode              hypercall.Mode
	cpl               uint8
	privileges        hypercall.Privileges
	budget            int
	xmmInput, xmmOutp bool
	mem               *memory
}

func (p *processor) clone() *processor {
	q := *p
	q.mem = p.mem.clone()
	return &q
}

// call makes the processor's registers and memory those of a Call.
func (p *processor) call(c *hypercall.Call, probing bool) *hypercall.Call {
	c.Regs, c.XMM, c.Memory = &p.regs, &p.xmm, p.mem
	if probing {
		c.Memory = prober{p.mem}
	}
	c.Mode, c.CPL, c.Privileges, c.Budget = p.mode, p.cpl, p.privileges, p.budget
	c.XMMInput, c.XMMOutput = p.xmmInput, p.xmmOutp
	return c
}

// The model.

const (
	hvRAX, hvRCX, hvRDX, hvRBX, hvRSI, hvRDI, hvR8 = 0, 1, 2, 3, 6, 7, 8
)

// word64 returns one of the three words of the x64 and x86 columns of the register tables.
func (p *processor) word64(x64, high, low int) uint64 {
	if p.mode == hypercall.Mode64 {
		return p.regs[x64]
	}
	return p.regs[high]%(1<<32)<<32 + p.regs[low]%(1<<32)
}

func (p *processor) setWord64(x64, high, low int, v uint64) {
	if p.mode == hypercall.Mode64 {
		p.regs[x64] = v
	} else {
		p.regs[high], p.regs[low] = v/(1<<32), v%(1<<32)
	}
}

// file returns the 112 bytes of registers that fast calls use.
func (p *processor) file() (b []byte) {
	b = binary.LittleEndian.AppendUint64(b, p.word64(hvRDX, hvRBX, hvRCX))
	b = binary.LittleEndian.AppendUint64(b, p.word64(hvR8, hvRDI, hvRSI))
	for _, x := range p.xmm {
		b = binary.LittleEndian.AppendUint64(b, x[0])
		b = binary.LittleEndian.AppendUint64(b, x[1])
	}
	return b
}

func (p *processor) setFile(b []byte) {
	p.regs[hvRDX] = binary.LittleEndian.Uint64(b)
	p.regs[hvR8] = binary.LittleEndian.Uint64(b[8:])
	for i := range p.xmm {
		p.xmm[i] = [2]uint64{binary.LittleEndian.Uint64(b[16+16*i:]), binary.LittleEndian.Uint64(b[24+16*i:])}
	}
}

func (p *processor) finish(status hypercall.Status, reps int) hypercall.Outcome {
	p.setWord64(hvRAX, hvRDX, hvRAX, uint64(status)+uint64(reps)<<32)
	return hypercall.Done
}

const physicalBits = 40

// model is a hypercall by the rules of the TLFS, "Hypercall Interface".
func (p *processor) model(done *effects) hypercall.Outcome {
	if p.cpl > 0 || p.mode == hypercall.ModeReal {
		return hypercall.UndefinedInstruction
	}
	w := p.word64(hvRCX, hvRDX, hvRAX)
	code := hypercall.Code(w % 0x10000)
	fast := w/0x10000%2 == 1
	variable := int(w / 0x20000 % 0x400)
	reserved := w>>27%16 + w>>44%16 + w>>60%16
	count, start := int(w>>32%4096), int(w>>48%4096)
	if code == 0x11 {
		return hypercall.VTLCall
	}
	if code == 0x12 {
		return hypercall.VTLReturn
	}
	if reserved != 0 {
		return p.finish(hypercall.StatusInvalidHypercallInput, 0)
	}
	t := findTestCall(code)
	if t == nil {
		return p.finish(hypercall.StatusInvalidHypercallCode, 0)
	}
	if t.layout.Privileges != 0 && p.privileges&t.layout.Privileges == 0 {
		return p.finish(hypercall.StatusAccessDenied, 0)
	}
	if variable != 0 && !t.layout.Variable || !t.rep && count+start != 0 || t.rep && start >= count {
		return p.finish(hypercall.StatusInvalidHypercallInput, 0)
	}
	header := int(t.layout.Input) + variable*8
	in := header + count*int(t.layout.InputElement)
	outElement := int(t.layout.OutputElement)
	out := int(t.layout.Output) + count*outElement

	// Where bytes come from, and where they go.
	var load func(at int) byte
	var store func(at int, b byte)
	if fast {
		behind := in
		for behind%16 != 0 {
			behind++
		}
		if t.layout.SlowOnly || behind+out > 112 || out > 0 && p.mode != hypercall.Mode64 {
			return p.finish(hypercall.StatusInvalidHypercallInput, 0)
		}
		if in > 16 && !p.xmmInput || out > 0 && !p.xmmOutp {
			return hypercall.UndefinedInstruction
		}
		file := p.file()
		load = func(at int) byte { return file[at] }
		store = func(at int, b byte) {
			f := p.file()
			f[behind+at] = b
			for i := behind + at + 1; i%16 != 0; i++ {
				f[i] = 0
			}
			p.setFile(f)
		}
	} else {
		inGPA, outGPA := p.word64(hvRDX, hvRBX, hvRCX), p.word64(hvR8, hvRDI, hvRSI)
		for _, l := range []struct {
			gpa uint64
			n   int
		}{{inGPA, in}, {outGPA, out}} {
			if l.n > 0 && (l.gpa%8 != 0 || l.gpa >= 1<<physicalBits || l.n > 4096 || l.gpa/4096 != (l.gpa+uint64(l.n)-1)/4096) {
				return p.finish(hypercall.StatusInvalidAlignment, 0)
			}
		}
		for i := range uint64(in) {
			if d := inGPA + i - outGPA; d < uint64(out) {
				return p.finish(hypercall.StatusInvalidAlignment, 0)
			}
		}
		most := min(count, start+p.budget)
		for i := range in {
			index := 0
			if i >= header {
				index = (i - header) / int(t.layout.InputElement)
			}
			if (i < header || start <= index && index < most) && !p.mem.can(inGPA+uint64(i), 1, p.mem.noRead) {
				return hypercall.MemoryFault
			}
		}
		if !p.mem.can(outGPA, out, p.mem.noWrite) {
			return hypercall.MemoryFault
		}
		load = func(at int) byte { return *p.mem.byte(inGPA + uint64(at)) }
		store = func(at int, b byte) { *p.mem.byte(outGPA + uint64(at)) = b }
	}
	part := func(at, n int) (b []byte) {
		for i := range n {
			b = append(b, load(at+i))
		}
		return b
	}
	fixed, rest := part(0, int(t.layout.Input)), part(int(t.layout.Input), variable*8)
	if !t.rep {
		if fails(fixed) {
			return p.finish(failStatus, 0)
		}
		done.add(code, 0, fixed, rest)
		for i, b := range result(out, fixed, rest) {
			store(i, b)
		}
		return p.finish(hypercall.StatusSuccess, 0)
	}
	setStart := func(n int) { p.setWord64(hvRCX, hvRDX, hvRAX, w%(1<<48)+uint64(n)<<48) }
	for n := start; n < count; n++ {
		if n == start+p.budget {
			setStart(n)
			return hypercall.Again
		}
		e := part(header+n*int(t.layout.InputElement), int(t.layout.InputElement))
		if fails(e) || len(e) == 0 && fails(fixed) {
			setStart(n)
			return p.finish(failStatus, n)
		}
		done.add(code, n, fixed, rest, e)
		for i, b := range result(outElement, fixed, rest, e) {
			store(n*outElement+i, b)
		}
	}
	setStart(count)
	return p.finish(hypercall.StatusSuccess, count)
}

// drawProcessor draws one that makes a call, mostly a sensible one.
func drawProcessor(t *rapid.T) *processor {
	p := &processor{
		mode:       rapid.SampledFrom([]hypercall.Mode{hypercall.Mode64, hypercall.Mode64, hypercall.Mode64, hypercall.Mode32, hypercall.Mode32, hypercall.ModeReal}).Draw(t, "mode"),
		cpl:        rapid.SampledFrom([]uint8{0, 0, 0, 0, 0, 0, 0, 3}).Draw(t, "CPL"),
		privileges: rapid.SampledFrom([]hypercall.Privileges{needed, needed, 0}).Draw(t, "privileges"),
		budget:     rapid.SampledFrom([]int{1, 2, 3, 7, 64}).Draw(t, "budget"),
		xmmInput:   rapid.SampledFrom([]bool{true, true, false}).Draw(t, "XMM input"),
		xmmOutp:    rapid.SampledFrom([]bool{true, true, false}).Draw(t, "XMM output"),
		mem:        newMemory(0x1000, 0x2000, 0x10_0000_0000),
	}
	seed := rapid.Uint64().Draw(t, "registers and memory")
	next := func() uint64 { // splitmix64
		seed += 0x9e3779b97f4a7c15
		z := seed
		z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
		z = (z ^ z>>27) * 0x94d049bb133111eb
		return z ^ z>>31
	}
	for i := range p.regs {
		p.regs[i] = next()
	}
	for i := range p.xmm {
		p.xmm[i] = [2]uint64{next(), next()}
	}
	for _, a := range []uint64{0x1000, 0x2000, 0x10_0000_0000} {
		for i := range p.mem.pages[a] {
			p.mem.pages[a][i] = byte(next())
		}
	}

	var word uint64
	var count int
	layout := hypercall.Layout{}
	switch rapid.IntRange(0, 15).Draw(t, "word") {
	case 0:
		word = rapid.Uint64().Draw(t, "any word")
	case 1:
		word = uint64(rapid.SampledFrom([]hypercall.Code{0x11, 0x12, 0, 0x1000, 0x8000, 0xffff}).Draw(t, "code"))
	default:
		c := rapid.SampledFrom(testCalls).Draw(t, "call")
		layout = c.layout
		word = uint64(c.code)
		if c.rep {
			most := rapid.SampledFrom([]int{2, 6, 12, 140, 600, 4095}).Draw(t, "at most")
			count = rapid.IntRange(1, most).Draw(t, "count")
			start := rapid.IntRange(0, min(count-1, 9)).Draw(t, "start")
			word |= uint64(count)<<32 | uint64(start)<<48
		}
		if layout.Variable {
			word |= uint64(rapid.SampledFrom([]int{0, 1, 3, 10, 300, 1023}).Draw(t, "variable")) << 17
		}
		if rapid.Bool().Draw(t, "fast") {
			word |= 1 << 16
		}
		if rapid.IntRange(0, 7).Draw(t, "odd") == 0 {
			word ^= 1 << rapid.IntRange(16, 63).Draw(t, "bit")
		}
	}
	p.setWord64(hvRCX, hvRDX, hvRAX, word)
	if p.mode != hypercall.Mode64 && rapid.Bool().Draw(t, "high halves") {
		p.regs[hvRDX] |= 0xabcd << 32
		p.regs[hvRAX] |= 0xabcd << 32
	}
	if word&(1<<16) == 0 {
		n := int(layout.Input) + int(word>>17&1023)*8 + count*int(layout.InputElement)
		p.setWord64(hvRDX, hvRBX, hvRCX, drawAddress(t, "input", n))
		p.setWord64(hvR8, hvRDI, hvRSI, drawAddress(t, "output", int(layout.Output)+count*int(layout.OutputElement)))
	}
	for range rapid.SampledFrom([]int{0, 0, 0, 1, 5}).Draw(t, "bytes not to be written") {
		a := rapid.Uint64Range(0x1000, 0x2fff).Draw(t, "address")
		p.mem.noWrite[a] = true // what can be written can be read, as in EPT
		if rapid.Bool().Draw(t, "nor read") {
			p.mem.noRead[a] = true
		}
	}
	if rapid.IntRange(0, 3).Draw(t, "failures") == 0 {
		for _, a := range []uint64{0x1000, 0x2000} {
			p.mem.pages[a][rapid.IntRange(0, 4095).Draw(t, "where")] = failByte
		}
	}
	return p
}

// drawAddress draws a place for n bytes, mostly one in memory that they fit in.
func drawAddress(t *rapid.T, label string, n int) uint64 {
	page := rapid.SampledFrom([]uint64{0x1000, 0x2000, 0x10_0000_0000}).Draw(t, label+" page")
	switch rapid.IntRange(0, 9).Draw(t, label) {
	case 0:
		return rapid.Uint64().Draw(t, label+" anywhere")
	case 1:
		return page + rapid.Uint64Range(0, 4095).Draw(t, label+" unaligned")
	case 2:
		return page + 4096 - uint64(n) + 8
	case 3:
		return rapid.SampledFrom([]uint64{0, 0x3000, 1 << physicalBits, 1<<physicalBits - 4096, 1 << 52, 1<<64 - 8}).Draw(t, label+" far")
	case 4, 5:
		return page + uint64(max(0, 4096-n)) // up to the end
	}
	return page + 8*uint64(rapid.IntRange(0, max(0, 4096-n)/8).Draw(t, label+" offset"))
}

// dispatchLikeModel draws a call, and has both dispatchers carry it out to its end.
func dispatchLikeModel(t *rapid.T) {
	var did, expected effects
	d, err := hypercall.NewDispatcher(hypercall.Config{PhysicalBits: physicalBits}, handlers(&did)...)
	require.NoError(t, err)
	p := drawProcessor(t)
	model := p.clone()
	c := p.call(new(hypercall.Call), rapid.Bool().Draw(t, "probing"))
	word := p.word64(hvRCX, hvRDX, hvRAX)
	for entries := 0; ; entries++ {
		require.LessOrEqual(t, entries, 4095)
		p.mem.accesses = 0
		did, expected = nil, nil
		got, want := d.Dispatch(c), model.model(&expected)
		require.Equal(t, want, got, "%#x", word)
		require.Equal(t, model.regs, p.regs, "%#x", word)
		require.Equal(t, model.xmm, p.xmm, "%#x", word)
		sameMemory(t, model, p, "%#x", word)
		require.Equal(t, expected, did)
		require.LessOrEqual(t, len(did), p.budget)
		require.LessOrEqual(t, p.mem.accesses, 5)
		if got != hypercall.Again {
			outcomes[got]++
			return
		}
	}
}

// outcomes counts how calls of dispatchLikeModel end.
var outcomes = map[hypercall.Outcome]int{}

// TestDispatchModel compares with the model.
func TestDispatchModel(t *testing.T) {
	clear(outcomes)
	rapid.Check(t, dispatchLikeModel)
	t.Log(outcomes)
	require.NotZero(t, outcomes[hypercall.Done])
}

func FuzzDispatchModel(f *testing.F) { f.Fuzz(rapid.MakeFuzz(dispatchLikeModel)) }

// FuzzDispatch gives the dispatcher registers and memory without any sense in them: it
// answers, does no more than it may, and does nothing where it does not succeed.
func FuzzDispatch(f *testing.F) {
	f.Add(uint64(0x1_1002), uint64(1), uint64(2), []byte{1}, uint8(0), uint8(2))
	f.Add(uint64(0x0005_0009_0000_1004), uint64(0x1000), uint64(0x2000), []byte{1}, uint8(0), uint8(1))
	var did effects
	d, err := hypercall.NewDispatcher(hypercall.Config{PhysicalBits: physicalBits}, handlers(&did)...)
	require.NoError(f, err)
	f.Fuzz(func(t *testing.T, word, first, second uint64, content []byte, flags, mode uint8) {
		p := &processor{
			mode: hypercall.Mode(mode % 4), cpl: flags & 1, budget: int(flags>>1&3) - 1, privileges: needed,
			xmmInput: flags&8 != 0, xmmOutp: flags&16 != 0, mem: newMemory(0x1000, 0x2000),
		}
		for i := range content {
			p.mem.pages[0x1000][i%4096] += content[i]
			p.xmm[i/16%6][i/8%2] = p.xmm[i/16%6][i/8%2]<<8 | uint64(content[i])
		}
		p.setWord64(hvRCX, hvRDX, hvRAX, word)
		p.setWord64(hvRDX, hvRBX, hvRCX, first)
		p.setWord64(hvR8, hvRDI, hvRSI, second)
		if p.mode != hypercall.Mode64 {
			p.setWord64(hvRCX, hvRDX, hvRAX, word)
		}
		before := p.clone()
		c := p.call(new(hypercall.Call), flags&32 != 0)
		did = nil
		o := d.Dispatch(c)
		budget := p.budget
		if budget <= 0 {
			budget = hypercall.DefaultBudget
		}
		require.LessOrEqual(t, len(did), budget)
		r := hypercall.Result(p.word64(hvRAX, hvRDX, hvRAX))
		if o != hypercall.Done && o != hypercall.Again {
			require.Equal(t, before.regs, p.regs)
		}
		if len(did) == 0 {
			require.Equal(t, before.xmm, p.xmm)
			sameMemory(t, before, p)
		}
		if o == hypercall.Done {
			require.Zero(t, r.Reserved())
		}
	})
}
