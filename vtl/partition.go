package vtl

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/bits"
	"slices"

	"github.com/govtx/vtx/hypercall"
)

// A Partition is the state of a partition's trust levels: what is enabled, what runs,
// what is pending, who may do what. Its methods are the events; they change the state and
// add to [Effects] what the embedder has to do in turn, before the processor goes on.
//
// An event is refused as a whole or happens as a whole. None of them panics, whatever the
// guest has passed; a processor that there is not is refused, too.
//
// A Partition is for one goroutine at a time: the embedder locks it. Events on behalf of a
// processor are for when it is not in the guest.
type Partition struct {
	config     *Config
	registers  Registers
	translator Translator

	enabled    uint16 // levels that are enabled for the partition
	mbec       uint16 // those of them that may use MBEC
	protecting uint16 // those with EnableVtlProtection
	onAny      uint16 // levels enabled on any processor
	waiting    int    // levels of processors that wait for a TLB lock

	domains  [hypercall.NumVTLs]domain
	masks    []mask // of each pair of levels, see pair
	pool     pool
	overlays []overlay

	processors []processor
	contexts   []context // of levels: stride for each processor
	stride     int
	answers    uint32 // of the profile to the choices

	lastRAM int // where the last page was found: no part of the state
	why     Refusal
}

// A domain is what a level has for the whole partition.
type domain struct {
	config hypercall.VsmPartitionConfig
	ports  *ports // intercepts; nil: none. Replaced, not changed: clones share it
}

// A processor is what a virtual processor has for all its levels.
type processor struct {
	active  VTL
	started bool
	enabled uint16 // levels
	pending uint16 // levels with an interrupt that is not accepted
	blocked uint16 // levels that wait for a TLB lock
	locking uint16 // levels that hold TLB locks here
	events  uint16 // levels with an exception to be injected
}

// A context is what a level has on a processor.
type context struct {
	requested [4]uint64 // vectors
	inService [4]uint64 // vectors
	assist    uint64    // HV_X64_MSR_VP_ASSIST_PAGE
	event     event

	guard    hypercall.CrInterceptControl
	maskCR0  uint64
	maskCR4  uint64
	maskMisc uint64 // of IA32_MISC_ENABLE
	vina     hypercall.VsmVina
	locked   uint16 // lower levels whose TLB is locked
	mbec     uint16 // lower levels with MbecEnabled
	tpr      uint8  // CR8 << 4, and what a TPR has below
	nmi      bool
	asserted bool // VinaAsserted
}

// New makes a partition as it is when it starts: VTL0 runs on processor 0.
func New(c Config) (*Partition, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	c.RAM = slices.Clone(c.RAM)
	c.APICIDs = slices.Clone(c.APICIDs)
	if c.APICIDs == nil {
		for i := range c.Processors {
			c.APICIDs = append(c.APICIDs, uint32(i))
		}
	}
	if c.PhysicalBits == 0 {
		c.PhysicalBits = maxPhysicalBits
	}
	if c.ProtectionMemory == 0 {
		c.ProtectionMemory = DefaultProtectionMemory
	}
	p := &Partition{
		config:     &c,
		registers:  c.Registers,
		answers:    answers(c.Profile),
		translator: c.Translator,
		stride:     int(c.MaximumVTL) + 1,
		processors: make([]processor, c.Processors),
		contexts:   make([]context, c.Processors*(int(c.MaximumVTL)+1)),
		masks:      make([]mask, pairs(c.MaximumVTL)),
	}
	if p.registers == nil {
		p.registers = NewRegisterFile()
	}
	if p.translator == nil {
		p.translator = noPaging{}
	}
	p.pool.limit = c.ProtectionMemory
	p.initial()
	return p, nil
}

// initial brings the state to what it is at first.
func (p *Partition) initial() {
	p.enabled, p.mbec, p.protecting, p.onAny, p.waiting = 1, 0, 0, 1, 0
	p.domains = [hypercall.NumVTLs]domain{}
	p.pool.clear()
	height := uint8(0)
	if n := len(p.config.RAM); n > 0 {
		height = heightFor(p.config.RAM[n-1].End() - 1)
	}
	for i := range p.masks {
		p.masks[i] = mask{root: uniform(FullAccess), height: height}
	}
	p.overlays = p.overlays[:0]
	for i := range p.processors {
		p.processors[i] = processor{enabled: 1, started: i == 0}
	}
	clear(p.contexts)
	p.lastRAM, p.why = 0, refusedNot
}

// Config returns what the partition was made with.
func (p *Partition) Config() Config {
	c := *p.config
	c.RAM, c.APICIDs = slices.Clone(c.RAM), slices.Clone(c.APICIDs)
	return c
}

// Clone returns a partition in the same state, which goes its own way from there. So do
// its registers if they have a method Clone() Registers, as those of [RegisterFile];
// others are shared.
func (p *Partition) Clone() *Partition {
	q := *p
	q.masks = slices.Clone(p.masks)
	q.overlays = slices.Clone(p.overlays)
	q.processors = slices.Clone(p.processors)
	q.contexts = slices.Clone(p.contexts)
	q.pool = p.pool.clone()
	if r, ok := p.registers.(interface{ Clone() Registers }); ok {
		q.registers = r.Clone()
	}
	return &q
}

// Registers returns where the registers are that the core does not hold.
func (p *Partition) Registers() Registers { return p.registers }

// AppendState appends the state, so that two partitions of the same Config are in the
// same state just if the bytes are equal. Registers are part of it if they have a method
// AppendState(b []byte) []byte.
func (p *Partition) AppendState(b []byte) []byte {
	le := binary.LittleEndian
	b = le.AppendUint16(b, p.enabled)
	b = le.AppendUint16(b, p.mbec)
	for v := range bits.Len16(p.enabled) {
		d := &p.domains[v]
		b = le.AppendUint64(b, uint64(d.config))
		b = d.ports.appendState(b)
	}
	for i := range p.masks {
		b = p.masks[i].appendState(b, &p.pool)
	}
	b = le.AppendUint32(b, uint32(len(p.overlays)))
	for _, o := range p.overlays {
		b = le.AppendUint64(append(b, byte(o.level)), o.page)
	}
	for i := range p.processors {
		v := &p.processors[i]
		b = append(b, byte(v.active), flag(v.started))
		b = le.AppendUint16(b, v.enabled)
		b = le.AppendUint16(b, v.blocked)
		for l := range p.stride {
			if v.enabled>>l&1 != 0 {
				b = p.context(uint32(i), VTL(l)).appendState(b)
			}
		}
	}
	if r, ok := p.registers.(interface{ AppendState([]byte) []byte }); ok {
		b = r.AppendState(b)
	}
	return b
}

func flag(v bool) byte {
	if v {
		return 1
	}
	return 0
}

func (c *context) appendState(b []byte) []byte {
	le := binary.LittleEndian
	for i := range c.requested {
		b = le.AppendUint64(b, c.requested[i])
		b = le.AppendUint64(b, c.inService[i])
	}
	for _, v := range [...]uint64{c.assist, c.event.word, c.event.parameter, uint64(c.guard), c.maskCR0, c.maskCR4, c.maskMisc, uint64(c.vina)} {
		b = le.AppendUint64(b, v)
	}
	b = le.AppendUint16(b, c.locked)
	b = le.AppendUint16(b, c.mbec)
	return append(b, c.tpr, flag(c.nmi), flag(c.asserted))
}

// processor returns a processor, or nil.
func (p *Partition) processor(vp uint32) *processor {
	if uint64(vp) < uint64(len(p.processors)) {
		return &p.processors[vp]
	}
	return nil
}

// context returns what a level that there can be has on a processor that there is.
func (p *Partition) context(vp uint32, v VTL) *context {
	return &p.contexts[int(vp)*p.stride+int(v)]
}

// has reports whether a level is enabled on the processor.
func (v *processor) has(l VTL) bool { return l.Valid() && v.enabled&bit(l) != 0 }

// Active returns the level that runs on a processor; InvalidVTL if there is no such one.
func (p *Partition) Active(vp uint32) VTL {
	if v := p.processor(vp); v != nil {
		return v.active
	}
	return hypercall.InvalidVTL
}

// Enabled returns the set of levels that are enabled on a processor: bit n is level n.
func (p *Partition) Enabled(vp uint32) uint16 {
	if v := p.processor(vp); v != nil {
		return v.enabled
	}
	return 0
}

// Started reports whether a processor has been started.
func (p *Partition) Started(vp uint32) bool {
	v := p.processor(vp)
	return v != nil && v.started
}

// Blocked reports whether the active level of a processor waits for a TLB lock.
func (p *Partition) Blocked(vp uint32) bool {
	v := p.processor(vp)
	return v != nil && v.blocked&bit(v.active) != 0
}

// Status returns HvRegisterVsmPartitionStatus.
func (p *Partition) Status() hypercall.VsmPartitionStatus {
	return hypercall.VsmPartitionStatus(uint64(p.enabled) | uint64(p.config.MaximumVTL)<<16 | uint64(p.mbec)<<20)
}

// VPStatus returns HvRegisterVsmVpStatus; 0 if there is no such processor.
func (p *Partition) VPStatus(vp uint32) hypercall.VsmVpStatus {
	v := p.processor(vp)
	if v == nil {
		return 0
	}
	s := hypercall.VsmVpStatus(uint64(v.active) | uint64(v.enabled)<<16)
	if p.mbecOn(vp, v.active) {
		s |= hypercall.VsmVpStatusActiveMbecEnabled
	}
	return s
}

// PartitionConfig returns HvRegisterVsmPartitionConfig of a level; 0 if it is not enabled.
func (p *Partition) PartitionConfig(l VTL) hypercall.VsmPartitionConfig {
	if l.Valid() {
		return p.domains[l].config
	}
	return 0
}

// Draw returns a drawing of the levels of all processors, a line for each level.
func (p *Partition) Draw() string {
	var b []byte
	top := VTL(bits.Len16(p.enabled) - 1)
	for l := int(top); l >= 0; l-- {
		if p.enabled>>l&1 == 0 {
			continue
		}
		b = fmt.Appendf(b, "%-5v", VTL(l))
		for i := range p.processors {
			v := &p.processors[i]
			c := " .    "
			switch {
			case !v.has(VTL(l)):
			case v.active == VTL(l) && !v.started:
				c = " stop "
			case v.blocked>>l&1 != 0:
				c = " wait "
			case v.active == VTL(l):
				c = " RUN  "
			case v.pending>>l&1 != 0:
				c = " irq  "
			default:
				c = " on   "
			}
			b = append(b, c...)
		}
		if l > 0 {
			b = append(b, p.domains[l].describe()...)
		}
		b = append(bytes.TrimRight(b, " "), '\n')
	}
	b = append(b, "     "...)
	for i := range p.processors {
		b = fmt.Appendf(b, " VP%-3d", i)
	}
	return string(append(bytes.TrimRight(b, " "), '\n'))
}

// describe tells the configuration in few words.
func (d *domain) describe() string {
	s := " default " + d.config.DefaultVtlProtectionMask().Rights()
	for _, f := range [...]struct {
		on   bool
		text string
	}{
		{d.config.EnableVtlProtection(), "protection on"}, {d.config.ZeroMemoryOnReset(), "zero on reset"},
		{d.config.DenyLowerVtlStartup(), "startup denied"}, {d.config.InterceptVpStartup(), "startup intercepted"},
	} {
		if f.on {
			s += ", " + f.text
		}
	}
	return s
}
