package vtl_test

import (
	"github.com/govtx/vtx/internal/require"
	"github.com/govtx/vtx/vtl"
)

// trapLength is how long VMCALL is.
const trapLength = 3

// A machine carries effects out as an embedder does: it has each level's RIP, the shared
// RAX and RCX, the assist pages, and a view of memory for each level.
type machine struct {
	p      *vtl.Partition
	rip    map[place]uint64
	rax    map[uint32]uint64
	rcx    map[uint32]uint64
	assist map[uint64]*assistPage // by page number
	active map[uint32]vtl.VTL
	pages  []uint64 // whose rights are followed
	views  map[vtl.VTL]map[uint64]vtl.Access
}

// A place is a level of a processor.
type place struct {
	vp    uint32
	level vtl.VTL
}

type assistPage struct {
	reason   vtl.Reason
	asserted bool
	rax, rcx uint64
}

func newMachine(p *vtl.Partition, pages ...uint64) *machine {
	m := &machine{p: p, rip: map[place]uint64{}, rax: map[uint32]uint64{}, rcx: map[uint32]uint64{}, assist: map[uint64]*assistPage{},
		active: map[uint32]vtl.VTL{}, pages: pages, views: map[vtl.VTL]map[uint64]vtl.Access{}}
	for vp := range uint32(p.Config().Processors) {
		m.active[vp] = p.Active(vp)
	}
	for l := range p.Config().MaximumVTL + 1 {
		m.view(l)
	}
	return m
}

func (m *machine) page(n uint64) *assistPage {
	if m.assist[n] == nil {
		m.assist[n] = new(assistPage)
	}
	return m.assist[n]
}

// view makes a level's view anew, as after an EffectView.
func (m *machine) view(l vtl.VTL) {
	v := map[uint64]vtl.Access{}
	for _, page := range m.pages {
		v[page] = vtl.FullAccess
	}
	for run, a := range m.p.Rights(l) {
		for _, page := range m.pages {
			if run.Contains(page) {
				v[page] = a
			}
		}
	}
	m.views[l] = v
}

// carryOut does what the effects say. Afterwards the machine must be where the partition
// is.
func (m *machine) carryOut(t require.T, e *vtl.Effects) {
	t.Helper()
	for _, f := range e.List() {
		at := place{f.VP, f.Level}
		switch f.Kind {
		case vtl.EffectSwitch:
			require.Equal(t, m.active[f.VP], f.From, "%v", f)
			require.NotEqual(t, f.From, f.Level, "%v", f)
			if f.Flags&vtl.FlagAdvance != 0 {
				m.rip[place{f.VP, f.From}] += trapLength
			}
			page := m.page(f.Page)
			if f.Flags&vtl.FlagReason != 0 {
				page.reason = f.Reason
			}
			if f.Flags&vtl.FlagStore != 0 {
				page.rax, page.rcx = m.rax[f.VP], m.rcx[f.VP]
			}
			if f.Flags&vtl.FlagRestore != 0 {
				m.rax[f.VP], m.rcx[f.VP] = page.rax, page.rcx
			}
			if f.Flags&vtl.FlagVINAReset != 0 {
				page.asserted = false
			}
			m.active[f.VP] = f.Level
		case vtl.EffectContext:
			m.rip[at] = e.Context(f).RIP
		case vtl.EffectStart:
			m.active[f.VP] = f.Level
			if f.Flags&vtl.FlagSIPI != 0 {
				m.rip[at] = uint64(f.Vector) << 12
			}
		case vtl.EffectInit:
			m.active[f.VP] = 0
			m.rip[place{f.VP, 0}] = 0
		case vtl.EffectVINA:
			m.page(f.Page).asserted = true
		case vtl.EffectView:
			m.view(f.Level)
		case vtl.EffectProtect:
			for _, page := range m.pages {
				if (vtl.Range{Page: f.Page, Pages: f.Pages}).Contains(page) {
					m.views[f.Level][page] = f.Access
				}
			}
		case vtl.EffectReset:
			*m = *newMachine(m.p, m.pages...)
		}
	}
	enabled := m.p.Status().EnabledVtlSet()
	for vp, l := range m.active {
		require.Equal(t, m.p.Active(vp), l)
	}
	for l := range m.p.Config().MaximumVTL + 1 {
		if enabled>>l&1 == 0 {
			continue
		}
		for _, page := range m.pages {
			require.Equal(t, m.p.PageRights(l, page), m.views[l][page], "%v, page 0x%x", l, page)
		}
	}
}
