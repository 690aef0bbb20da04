package vtl_test

import (
	"fmt"
	"math/bits"
	"testing"

	"github.com/govtx/vtx/hypercall"
	"github.com/govtx/vtx/internal/require"
	"github.com/govtx/vtx/ring0"
	"github.com/govtx/vtx/vtl"
	"pgregory.net/rapid"
)

// A reference is what the rules of docs/vtl-rules.md make of the same events, without a
// thought about speed or memory: a map from pages to rights for each pair of levels.
type reference struct {
	profile    vtl.Profile
	maximum    vtl.VTL
	ram        []vtl.Range
	offersMBEC uint16

	enabled, mbec uint16
	defaults      map[vtl.VTL]vtl.Access // of levels with protection
	masks         map[[2]vtl.VTL]map[uint64]vtl.Access
	vps           []referenceVP
	private       map[place]uint64  // RSP
	shared        map[uint32]uint64 // RBX
}

type referenceVP struct {
	started bool
	active  vtl.VTL
	enabled uint16
	mbec    map[[2]vtl.VTL]bool // owner, lower level
	tpr     [16]uint8
	left    [16]uint64 // RIP when the level was left
}

func (m *reference) has(vp uint32, l vtl.VTL) bool {
	return int(vp) < len(m.vps) && l.Valid() && m.vps[vp].enabled>>l&1 != 0
}

// between reports whether a level is enabled for the partition above one and below another.
func (m *reference) between(low, high vtl.VTL) bool {
	for l := low + 1; l < high; l++ {
		if m.enabled>>l&1 != 0 {
			return true
		}
	}
	return false
}

func (m *reference) mayEnablePartition(a, target vtl.VTL) bool {
	return target >= 1 && target <= m.maximum && m.enabled>>target&1 == 0 && (target < a || !m.between(a, target))
}

func (m *reference) mayEnableVP(v, w uint32, target vtl.VTL) bool {
	a := m.vps[v].active
	if target < 1 || target > 15 || m.enabled>>target&1 == 0 || int(w) >= len(m.vps) || m.has(w, target) {
		return false
	}
	if a >= target {
		return true
	}
	for i := range m.vps {
		if m.has(uint32(i), target) {
			return false
		}
	}
	return !m.between(a, target) && (m.profile != vtl.OpenVMM || v == w)
}

// oneExecute is what a mask without MBEC leaves: one right to execute.
func (m *reference) oneExecute(owner vtl.VTL, a vtl.Access) vtl.Access {
	if m.mbec>>owner&1 != 0 {
		return a
	}
	x := a&vtl.KernelExecute != 0 || m.profile == vtl.KVM && a&vtl.UserExecute != 0
	a &= vtl.Read | vtl.Write
	if x {
		a |= vtl.KernelExecute | vtl.UserExecute
	}
	return a
}

func (m *reference) isRAM(page uint64) bool {
	for _, r := range m.ram {
		if page >= r.Page && page < r.Page+r.Pages {
			return true
		}
	}
	return false
}

func (m *reference) mask(owner, target vtl.VTL, page uint64) vtl.Access {
	d, on := m.defaults[owner]
	if !on || !m.isRAM(page) {
		return vtl.FullAccess
	}
	if a, given := m.masks[[2]vtl.VTL{owner, target}][page]; given {
		return a
	}
	return d
}

// rights are what a level may do with a page.
func (m *reference) rights(l vtl.VTL, page uint64) vtl.Access {
	a := vtl.FullAccess
	for o := l + 1; o < 16; o++ {
		a &= m.oneExecute(o, m.mask(o, l, page))
	}
	return a
}

// sense reports whether a mask makes sense for an owner.
func (m *reference) sense(owner vtl.VTL, a vtl.Access) bool {
	k, u := a&vtl.KernelExecute != 0, a&vtl.UserExecute != 0
	switch {
	case a != 0 && a&vtl.Read == 0:
		return false
	case m.mbec>>owner&1 != 0:
		return !k || u
	case m.profile == vtl.OpenVMM:
		return k == u
	}
	return true
}

// protect is ModifyVtlProtectionMask: how many pages are done.
func (m *reference) protect(v uint32, in hypercall.InputVTL, a vtl.Access, pages []uint64) (done int, good bool) {
	owner := m.vps[v].active
	var targets []vtl.VTL
	if m.profile == vtl.OpenVMM {
		if in.UseTarget() {
			owner = in.Target()
		}
		for l := range owner {
			targets = append(targets, l)
		}
	} else {
		target := vtl.VTL(0)
		for l := range owner {
			if m.enabled>>l&1 != 0 {
				target = l
			}
		}
		if in.UseTarget() {
			target = in.Target()
		}
		if target >= owner || m.enabled>>target&1 == 0 {
			return 0, false
		}
		targets = []vtl.VTL{target}
	}
	if _, on := m.defaults[owner]; owner == 0 || owner > m.vps[v].active || !on || !m.sense(owner, a) {
		return 0, false
	}
	for _, page := range pages {
		if !m.isRAM(page) {
			return done, false
		}
		for _, l := range targets {
			k := [2]vtl.VTL{owner, l}
			if m.masks[k] == nil {
				m.masks[k] = map[uint64]vtl.Access{}
			}
			m.masks[k][page] = m.oneExecute(owner, a)
		}
		done++
	}
	return done, true
}

// mbecOn reports whether fetches of a level in user mode need UserExecute.
func (m *reference) mbecOn(v uint32, l vtl.VTL) bool {
	on := false
	for o := l + 1; o < 16; o++ {
		if m.mbec>>o&1 != 0 {
			if !m.vps[v].mbec[[2]vtl.VTL{o, l}] {
				return false
			}
			on = true
		}
	}
	return on
}

// randomPages are those that programs deal with: next to each other, at the edges of what a
// node of a mask covers, far away, and beside RAM.
var randomPages = []uint64{0x100, 0x101, 0x102, 0x13f, 0x140, 0x17f, 0x1ff, 0x0ff, 0x200, 0x400, 0x401, 1 << 20, 1<<20 + 63, 1<<20 + 64, 1<<28 - 1, 1 << 28, 1 << 39, ^uint64(0)}

// A program is a partition at the mercy of a random guest, with its reference and a machine
// that carries its effects out.
type program struct {
	t *rapid.T
	*vtl.Partition
	m *reference
	x *machine
	e vtl.Effects
}

func newProgram(t *rapid.T) *program {
	m := &reference{profile: rapid.SampledFrom(profiles[:]).Draw(t, "profile"), maximum: rapid.SampledFrom([]vtl.VTL{1, 2, 3, 5, 15}).Draw(t, "maximum"),
		ram: []vtl.Range{{Page: 0x100, Pages: 0x100}, {Page: 0x400, Pages: 1<<28 - 0x400}}, enabled: 1,
		defaults: map[vtl.VTL]vtl.Access{}, masks: map[[2]vtl.VTL]map[uint64]vtl.Access{}, private: map[place]uint64{}, shared: map[uint32]uint64{}}
	m.offersMBEC = uint16(rapid.SampledFrom([]int{0, 0xfffe, 4}).Draw(t, "mbec")) & (1<<(m.maximum+1) - 1)
	vps := rapid.IntRange(1, 4).Draw(t, "processors")
	p, err := vtl.New(vtl.Config{Processors: vps, MaximumVTL: m.maximum, Profile: m.profile, RAM: m.ram, Capabilities: hypercall.VsmCapabilities(0).WithMbecVtlMask(m.offersMBEC)})
	require.NoError(t, err)
	for i := range vps {
		m.vps = append(m.vps, referenceVP{started: i == 0, enabled: 1, mbec: map[[2]vtl.VTL]bool{}})
	}
	g := &program{t: t, Partition: p, m: m, x: newMachine(p, randomPages...)}
	return g
}

// expect requires success or failure as the reference says. What failed without having
// done anything has changed nothing.
func (g *program) expect(what string, good bool, s hypercall.Status, before string, nothingDone bool) {
	require.Equal(g.t, good, s == ok, "%s: %v (%v)", what, s.String(), g.Why())
	if !good && nothingDone {
		require.Equal(g.t, before, state(g.Partition), what)
		require.Zero(g.t, g.e.Len(), what)
	}
}

// step has processor v do something.
func (g *program) step() {
	t, m := g.t, g.m
	v := uint32(rapid.IntRange(0, len(m.vps)-1).Draw(t, "vp"))
	vp := &m.vps[v]
	level := func(name string) vtl.VTL {
		return vtl.VTL(rapid.SampledFrom([]int{0, 1, 2, 3, int(vp.active), int(vp.active) + 1, max(int(vp.active)-1, 0), 15}).Draw(t, name)) & 15
	}
	processor := func() uint32 { return uint32(rapid.IntRange(0, len(m.vps)).Draw(t, "index")) }
	target := func() hypercall.InputVTL {
		if rapid.Bool().Draw(t, "use target") {
			return hypercall.TargetVTL(level("target"))
		}
		return hypercall.InputVTL(rapid.IntRange(0, 15).Draw(t, "no target"))
	}
	before := state(g.Partition)
	active := vp.active
	own := 0 // 1: the switch of v is a call, 2: a return
	g.e.Reset()
	actions := []string{"call", "return", "enable partition", "enable vp", "config", "protect", "protect", "access", "access", "set RSP", "set RBX", "mbec", "climb"}
	if !vp.started {
		actions = []string{"start"}
	}
	actions = append(actions, "interrupt", "accept", "TPR", "start")
	action := rapid.SampledFrom(actions).Draw(t, "action")
	switch action {
	case "call":
		to := vtl.VTL(bits.TrailingZeros16(vp.enabled >> active >> 1 << active << 1))
		good := vp.enabled>>active>>1 != 0
		require.Equal(t, good, g.Call(v, callTrap, &g.e) == vtl.Switched)
		if own = 1; good {
			require.Equal(t, to, g.e.List()[0].Level)
		}
	case "return":
		require.Equal(t, active > 0, g.Return(v, fastTrap, &g.e) == vtl.Switched)
		if own = 2; active > 0 {
			require.Equal(t, vtl.VTL(bits.Len16(vp.enabled&(1<<active-1))-1), g.e.List()[0].Level)
		}
	case "enable partition":
		l, flags := level("level"), hypercall.EnablePartitionVtlFlags(0)
		if m.offersMBEC>>l&1 != 0 && rapid.Bool().Draw(t, "with MBEC") {
			flags = hypercall.PartitionVtlEnableMbec
		}
		good := m.mayEnablePartition(active, l)
		s := g.EnablePartitionVTL(v, &hypercall.EnablePartitionVtlInput{PartitionID: self, TargetVTL: l, Flags: flags}, &g.e)
		g.expect("enable partition", good, s, before, true)
		if good {
			m.enabled |= 1 << l
			m.mbec |= uint16(flags) << l
		}
	case "enable vp":
		w, l := processor(), level("level")
		good := m.mayEnableVP(v, w, l)
		c := vtl.Context{RIP: uint64(l)<<32 | uint64(w)<<16, RFLAGS: 2, CR0: 0x11}
		s := g.EnableVPVTL(v, &hypercall.EnableVpVtlInput{PartitionID: self, VPIndex: w, TargetVTL: l, Context: c}, &g.e)
		g.expect("enable vp", good, s, before, true)
		if good {
			m.vps[w].enabled |= 1 << l
			m.vps[w].left[l] = c.RIP
		}
	case "climb": // a shortcut to high levels
		l := active + 1
		if m.mayEnablePartition(active, l) {
			require.Equal(t, ok, g.EnablePartitionVTL(v, &hypercall.EnablePartitionVtlInput{PartitionID: self, TargetVTL: l}, &g.e))
			m.enabled |= 1 << l
		}
		if m.mayEnableVP(v, v, l) {
			require.Equal(t, ok, g.EnableVPVTL(v, &hypercall.EnableVpVtlInput{PartitionID: self, VPIndex: v, TargetVTL: l, Context: good}, &g.e))
			vp.enabled |= 1 << l
			vp.left[l] = good.RIP
		}
		if vp.enabled>>l&1 != 0 && l <= 15 {
			g.x.carryOut(t, &g.e)
			g.e.Reset()
			require.Equal(t, vtl.Switched, g.Call(v, callTrap, &g.e))
			own = 1
		}
	case "config":
		l := level("level")
		a := rapid.SampledFrom([]vtl.Access{vtl.FullAccess, vtl.Read | vtl.Write}).Draw(t, "default")
		in := hypercall.VpRegistersInput{PartitionID: self, VPIndex: v, TargetVTL: hypercall.TargetVTL(l)}
		s := g.SetRegister(v, &in, hypercall.RegisterVsmPartitionConfig, vtl.Value{Low: uint64(protection.WithDefaultVtlProtectionMask(hypercall.MapFlags(a)))}, &g.e)
		old, on := m.defaults[l]
		good := l >= 1 && l <= active && m.enabled>>l&1 != 0 && (!on || old == a || m.profile == vtl.KVM)
		g.expect("config", good, s, before, true)
		if good && !on {
			m.defaults[l] = a
		}
	case "protect":
		a := rapid.SampledFrom([]vtl.Access{0, vtl.Read, vtl.Read | vtl.Write, vtl.Read | vtl.UserExecute, vtl.Read | vtl.KernelExecute, vtl.FullAccess, vtl.Write}).Draw(t, "rights")
		pages := rapid.SliceOfN(rapid.SampledFrom(randomPages), 1, 4).Draw(t, "pages")
		if rapid.IntRange(0, 3).Draw(t, "many") == 0 { // a leaf of a mask
			first := pages[0] &^ 63
			pages = nil
			for i := range uint64(64) {
				pages = append(pages, first+i)
			}
		}
		in := target()
		want, good := m.protect(v, in, a, pages)
		done, s := g.ModifyProtection(v, &hypercall.ModifyVtlProtectionMaskInput{PartitionID: self, MapFlags: hypercall.MapFlags(a), TargetVTL: in}, pages, &g.e)
		g.expect("protect", good, s, before, want == 0)
		require.Equal(t, want, done)
	case "access":
		page := rapid.SampledFrom(randomPages).Draw(t, "page")
		op := rapid.SampledFrom([]vtl.Operation{vtl.Reading, vtl.Writing, vtl.Fetching, vtl.Fetching | vtl.User, vtl.Reading | vtl.Writing}).Draw(t, "operation")
		need := vtl.Access(op) & (vtl.Read | vtl.Write | vtl.KernelExecute)
		if op&vtl.User != 0 && m.mbecOn(v, active) {
			need = vtl.UserExecute
		}
		o := g.Access(v, page, op, &g.e)
		require.Equal(t, m.rights(active, page)&need == need, o == vtl.Done, "%v of page 0x%x: %v", op, page, o)
		if o == vtl.Intercepted {
			i := g.e.Intercept(g.e.List()[0])
			require.NotEqual(t, need, m.oneExecute(i.Owner, m.mask(i.Owner, active, page))&need)
			for l := active + 1; l < i.Owner; l++ {
				require.Equal(t, need, m.oneExecute(l, m.mask(l, active, page))&need, "%v comes first", l)
			}
			require.GreaterOrEqual(t, g.Active(v), i.Owner)
		}
	case "set RSP", "set RBX":
		w, in, value := processor(), target(), rapid.Uint64Range(0, 9).Draw(t, "value")
		l := in.Of(active)
		name := hypercall.RegisterRSP
		if action == "set RBX" {
			name = hypercall.RegisterRBX
		}
		good := l <= active && m.has(w, l) && (m.profile != vtl.OpenVMM || l < active)
		s := g.SetRegister(v, &hypercall.VpRegistersInput{PartitionID: self, VPIndex: w, TargetVTL: in}, name, vtl.Value{Low: value}, &g.e)
		g.expect(action, good, s, before, true)
		if good && action == "set RSP" {
			m.private[place{w, l}] = value
		} else if good {
			m.shared[w] = value
		}
	case "mbec":
		n, on := level("level"), rapid.Bool().Draw(t, "on")
		value := uint64(0)
		if on {
			value = uint64(hypercall.VsmVpSecureConfigMbecEnabled)
		}
		allowed := m.mbec>>active&1 != 0
		good := n < active && (!on || allowed) && (m.profile != vtl.OpenVMM || on == allowed)
		s := g.SetRegister(v, &hypercall.VpRegistersInput{PartitionID: self, VPIndex: hypercall.VPSelf}, hypercall.RegisterVsmVpSecureConfigVtl0+hypercall.Register(n), vtl.Value{Low: value}, &g.e)
		g.expect("mbec", good, s, before, true)
		if good {
			vp.mbec[[2]vtl.VTL{active, n}] = on
		}
	case "interrupt":
		l, vector := level("level"), rapid.SampledFrom([]uint8{0x30, 0x80, 15}).Draw(t, "vector")
		o := g.Interrupt(v, l, vtl.Fixed, vector, &g.e)
		require.Equal(t, m.has(v, l) && vector >= 16, o != vtl.Dropped)
		if m.has(v, l) && vp.started && vector >= 16 && l > active && vector>>4 > vp.tpr[l]>>4 {
			require.Equal(t, vtl.Switched, o)
			require.GreaterOrEqual(t, g.Active(v), l)
		}
		if l <= active {
			require.Equal(t, active, g.Active(v), "a higher level is preempted")
		}
	case "accept":
		g.Accept(v)
	case "TPR":
		tpr := rapid.SampledFrom([]uint8{0, 0x40, 0xf0}).Draw(t, "TPR")
		g.SetTPR(v, active, tpr, &g.e)
		vp.tpr[active] = tpr
	case "start":
		w := processor()
		exists := int(w) < len(m.vps)
		good := exists && w != v && !m.vps[w].started
		if !vp.started {
			break // the guest does not run there
		}
		c := vtl.Context{RIP: 0x77000, RFLAGS: 2, CR0: 0x11}
		_, s := g.StartVP(v, &hypercall.StartVirtualProcessorInput{PartitionID: self, VPIndex: w, Context: c}, &g.e)
		g.expect("start", good, s, before, true)
		if good {
			m.vps[w].started = true
			m.vps[w].left[0] = c.RIP
			m.vps[w].active = vtl.VTL(bits.Len16(m.vps[w].enabled) - 1)
		}
	}
	g.follow(v, own)
}

// follow carries the effects out, and compares what there is then.
func (g *program) follow(v uint32, own int) {
	t, m := g.t, g.m
	first := true
	for _, f := range g.e.List() {
		if f.Kind != vtl.EffectSwitch {
			continue
		}
		vp := &m.vps[f.VP]
		require.Equal(t, v, f.VP, "another processor is switched")
		require.Equal(t, vp.active, f.From)
		require.True(t, vp.enabled>>f.Level&1 != 0)
		voluntary := first && own != 0
		require.True(t, f.Level > f.From || voluntary && own == 2, "%v leaves without a return", f.From)
		vp.left[f.From] = g.x.rip[place{f.VP, f.From}]
		if voluntary {
			vp.left[f.From] += trapLength
		}
		vp.active, first = f.Level, false
	}
	g.x.carryOut(t, &g.e)
	for i := range m.vps {
		vp, n := &m.vps[i], uint32(i)
		require.Equal(t, vp.active, g.Active(n))
		require.Equal(t, vp.started, g.Started(n))
		require.Equal(t, vp.enabled, g.Enabled(n))
		for l := range vtl.VTL(16) {
			if vp.enabled>>l&1 == 0 {
				continue
			}
			if l != vp.active || !first {
				require.Equal(t, vp.left[l], g.x.rip[place{n, l}], "%v of VP%d goes on elsewhere", l, n)
			}
			value, _ := g.Registers().Register(n, l, hypercall.RegisterRSP)
			require.Equal(t, m.private[place{n, l}], value.Low)
			value, _ = g.Registers().Register(n, l, hypercall.RegisterRBX)
			require.Equal(t, m.shared[n], value.Low)
		}
	}
	// What runs goes on by some instructions.
	vp := &m.vps[v]
	g.x.rip[place{v, vp.active}] += 0x10
	vp.left[vp.active] = g.x.rip[place{v, vp.active}]

	require.Equal(t, m.enabled, g.Status().EnabledVtlSet())
	for l := range m.maximum + 1 {
		for _, page := range randomPages {
			require.Equal(t, m.rights(l, page), g.PageRights(l, page), "%v, page 0x%x", l, page)
		}
	}
}

// randomProgram is the property: whatever a guest does, the partition does as the reference,
// and the machine comes to what the partition says.
func randomProgram(t *rapid.T) {
	g := newProgram(t)
	steps := 60
	if ring0.Active() || raceDetector {
		steps = 8
	}
	for range rapid.IntRange(1, steps).Draw(t, "steps") {
		g.step()
	}
	c := g.Clone()
	require.Equal(t, state(g.Partition), state(c))
	require.Equal(t, fmt.Sprint(g.Draw()), c.Draw())
}

func TestRandomPrograms(t *testing.T) { rapid.Check(t, randomProgram) }

func FuzzRandomPrograms(f *testing.F) {
	f.Fuzz(rapid.MakeFuzz(randomProgram))
}
