package vtl_test

import (
	"fmt"
	"hash/maphash"
	"math/bits"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/govtx/vtx/hypercall"
	"github.com/govtx/vtx/ring0"
	"github.com/govtx/vtx/vtl"
)

// The exhaustive model: two processors, three levels and four pages, which every event can
// happen to in every state. States are explored breadth first, each once, and for each
// transition the invariants of check hold.
//
// All there is at once has too many states. So parts of it are explored until there are
// no new states, each with the events that have to do with each other, and all events
// together up to a number of states.
//
// That it finds mistakes was seen by making some: with a check left out or a change
// forgotten in each of 24 places (who may enable, name or start what, where calls and
// returns go, what becomes of pending interrupts, TLB locks, exceptions, masks and views),
// one at a time, it failed each time.

const (
	modelVPs    = 2
	modelLevels = 3
)

// modelPages lie in two leaves of a mask.
var modelPages = [4]uint64{0x13e, 0x13f, 0x140, 0x141}

// modelRegisters are RSP, RFLAGS, EFER, CR4 and IDTR of each level.
type modelRegisters [modelVPs][modelLevels][5]uint64

func (m *modelRegisters) at(vp uint32, l vtl.VTL, name hypercall.Register) *uint64 {
	switch name {
	case hypercall.RegisterRSP:
		return &m[vp][l][0]
	case hypercall.RegisterRFLAGS:
		return &m[vp][l][1]
	case hypercall.RegisterEFER:
		return &m[vp][l][2]
	case hypercall.RegisterCR4:
		return &m[vp][l][3]
	case hypercall.RegisterIDTR:
		return &m[vp][l][4]
	}
	return nil
}

func (m *modelRegisters) Register(vp uint32, l vtl.VTL, name hypercall.Register) (vtl.Value, hypercall.Status) {
	if r := m.at(vp, l, name); r != nil {
		return vtl.Value{Low: *r}, ok
	}
	return vtl.Value{}, hypercall.StatusInvalidParameter
}

func (m *modelRegisters) SetRegister(vp uint32, l vtl.VTL, name hypercall.Register, v vtl.Value) hypercall.Status {
	r := m.at(vp, l, name)
	if r == nil {
		return hypercall.StatusInvalidParameter
	}
	*r = v.Low
	return ok
}

func (m *modelRegisters) Clone() vtl.Registers {
	c := *m
	return &c
}

func (m *modelRegisters) AppendState(b []byte) []byte {
	for _, v := range m {
		for _, l := range v {
			b = append(b, byte(l[0]), byte(l[1]), byte(l[1]>>8), byte(l[2]), byte(l[3]), byte(l[4]))
		}
	}
	return b
}

func (m *modelRegisters) Reset() { *m = modelRegisters{} }

// What an action is, for the invariants.
type sort uint8

const (
	hostAction   sort = iota // not the guest's: an interrupt, its acceptance
	guestAction              // by the active level of vp
	callAction               // a guest's VTL call or return
	returnAction             //
	acceptAction             // a host's, which may take requests away
	flushAction              // a guest's
	resetAction              // a host's
)

func (s sort) guest() bool { return s != hostAction && s != acceptAction && s != resetAction }

// An action is an event with all its parameters. It reports whether it was refused.
type action struct {
	name string
	sort sort
	vp   uint32
	do   func(p *vtl.Partition, e *vtl.Effects) (refused bool)
}

// A picture is what invariants compare before and after an action.
type picture struct {
	enabled16 uint16
	levels    [modelLevels]hypercall.VsmPartitionConfig
	masks     [modelLevels][modelLevels][len(modelPages)]vtl.Access // owner, target
	rights    [modelLevels][len(modelPages)]vtl.Access
	vps       [modelVPs]vpPicture
	registers modelRegisters
}

type vpPicture struct {
	active                   vtl.VTL
	started                  bool
	enabled, blocked, events uint16
	wants                    bool // a higher level than the active one has an interrupt that it can take
	private                  [modelLevels]vtl.OwnState
	requests                 [modelLevels][4]uint64
	nmi                      [modelLevels]bool
}

func (s *picture) take(p *vtl.Partition) {
	s.enabled16 = p.Status().EnabledVtlSet()
	s.registers = *p.Registers().(*modelRegisters)
	for l := range vtl.VTL(modelLevels) {
		s.levels[l] = p.PartitionConfig(l)
		for i, page := range modelPages {
			s.rights[l][i] = p.PageRights(l, page)
			for t := range l {
				s.masks[l][t][i] = p.Mask(l, t, page)
			}
		}
	}
	for vp := range uint32(modelVPs) {
		v := &s.vps[vp]
		v.active, v.started, v.enabled = p.Active(vp), p.Started(vp), p.Enabled(vp)
		v.blocked, v.events, v.wants = p.BlockedLevels(vp), p.EventLevels(vp), false
		for l := range vtl.VTL(modelLevels) {
			v.private[l] = p.OwnState(vp, l)
			v.requests[l], v.nmi[l] = p.Requests(vp, l)
			if l > v.active && v.started && v.enabled>>l&1 != 0 {
				v.wants = v.wants || v.nmi[l] || class(v.requests[l]) > int(v.private[l].TPR>>4)
			}
		}
	}
}

// class returns the priority class of the highest vector.
func class(r [4]uint64) int {
	for v := 255; v >= 0; v-- {
		if r[v/64]>>(v%64)&1 != 0 {
			return v / 16
		}
	}
	return -1
}

// may tells what a level may do with a page, from the masks alone.
func (s *picture) may(l vtl.VTL, page int, p *vtl.Partition) vtl.Access {
	a := vtl.FullAccess
	for o := l + 1; o < modelLevels; o++ {
		m := s.masks[o][l][page]
		if p.Status().MbecEnabledVtlSet()>>o&1 == 0 { // one right to execute: rule 88
			m &^= vtl.UserExecute
			if m&vtl.KernelExecute != 0 {
				m |= vtl.UserExecute
			}
		}
		a &= m
	}
	return a
}

// check returns which invariant a transition breaks; "" if none.
func check(a *action, was, now *picture, p *vtl.Partition, e *vtl.Effects) string {
	bad := func(format string, v ...any) string { return fmt.Sprintf(format, v...) }
	actor := was.vps[a.vp].active
	reset := a.sort == resetAction

	// Effects: each level's view comes to what it may do.
	views := was.rights
	var at [modelVPs]vtl.VTL
	var kicked, contexts [modelVPs]uint16
	for vp := range at {
		at[vp] = was.vps[vp].active
	}
	switches := 0
	for _, f := range e.List() {
		switch f.Kind {
		case vtl.EffectProtect:
			for i, page := range modelPages {
				if page-f.Page < f.Pages {
					views[f.Level][i] = f.Access
				}
			}
		case vtl.EffectView:
			views[f.Level] = now.rights[f.Level]
		case vtl.EffectReset:
			views = now.rights
			at = [modelVPs]vtl.VTL{}
		case vtl.EffectKick:
			kicked[f.VP] = 1
		case vtl.EffectContext:
			contexts[f.VP] |= 1 << f.Level
			before := &was.vps[f.VP]
			if before.enabled>>f.Level&1 != 0 && (before.started || f.Level > actor) {
				return bad("%v of VP%d starts anew", f.Level, f.VP)
			}
			if f.Level > actor {
				for vp := range was.vps {
					if was.vps[vp].enabled>>f.Level&1 != 0 {
						return bad("%v has enabled %v for one more processor", actor, f.Level)
					}
				}
				if below := was.enabled16 & (1<<f.Level - 1); below>>actor != 1 {
					return bad("%v has enabled %v, though there is a level between them", actor, f.Level)
				}
			}
		case vtl.EffectStart:
			if was.vps[f.VP].started {
				return bad("VP%d is started while it runs", f.VP)
			}
			if f.Level != vtl.VTL(bits.Len16(was.vps[f.VP].enabled)-1) {
				return bad("VP%d does not start with its highest level", f.VP)
			}
			if o := was.forbidsStart(a); o != 0 {
				return bad("%v starts VP%d, though %v denies it, or wants to know", actor, f.VP, o)
			}
			at[f.VP] = f.Level
		case vtl.EffectInit:
			if o := was.forbidsStart(a); o != 0 {
				return bad("%v stops VP%d, though %v denies it, or wants to know", actor, f.VP, o)
			}
			if was.vps[f.VP].enabled != 1 {
				return bad("INIT stops VP%d, which has higher levels", f.VP)
			}
			at[f.VP] = 0
		case vtl.EffectSwitch:
			enabled := now.vps[f.VP].enabled
			if f.From != at[f.VP] {
				return bad("%v, but it was at %v", f, at[f.VP])
			}
			if enabled>>f.Level&1 == 0 {
				return bad("%v, which is not enabled", f)
			}
			between := enabled &^ (1<<(min(f.From, f.Level)+1) - 1) & (1<<max(f.From, f.Level) - 1)
			first := switches == 0 && f.VP == a.vp
			own := first && (a.sort == callAction || a.sort == returnAction)
			switch {
			case f.Level < f.From && !(first && a.sort == returnAction):
				return bad("%v, without a return", f)
			case own && between != 0:
				return bad("%v passes over a level", f)
			case own != (f.Flags&vtl.FlagAdvance != 0):
				return bad("%v: RIP of the level that is left goes past an instruction just if it was a call or return", f)
			case own && a.sort == callAction && f.Reason != vtl.ReasonCall, !own && f.Reason != vtl.ReasonInterrupt, own && a.sort == returnAction && f.Reason != vtl.ReasonNone:
				return bad("%v: not the reason", f)
			}
			at[f.VP] = f.Level
			switches++
		}
	}
	for l := range vtl.VTL(modelLevels) {
		if now.enabled16>>l&1 != 0 && views[l] != now.rights[l] {
			return bad("the view of %v comes to %v, its rights are %v", l, views[l], now.rights[l])
		}
		for i := range modelPages {
			if want := now.may(l, i, p); now.rights[l][i] != want {
				return bad("%v may do %v with page %d, but masks leave %v", l, now.rights[l][i], i, want)
			}
		}
		if reset {
			continue
		}
		if (l > actor || !a.sort.guest()) && (now.masks[l] != was.masks[l] || was.enabled16>>l&1 != 0 && now.levels[l] != was.levels[l]) {
			return bad("%v has changed what %v protects", actor, l)
		}
		if was.levels[l].EnableVtlProtection() && !now.levels[l].EnableVtlProtection() {
			return bad("protection of %v is off again", l)
		}
	}
	if !reset && was.enabled16&^now.enabled16 != 0 {
		return bad("a level is no longer enabled")
	}

	for vp := range uint32(modelVPs) {
		before, after := &was.vps[vp], &now.vps[vp]
		if at[vp] != after.active {
			return bad("VP%d is at %v, but effects come to %v", vp, after.active, at[vp])
		}
		if after.enabled>>after.active&1 == 0 || after.enabled&^now.enabled16 != 0 || after.enabled&1 == 0 {
			return bad("VP%d has levels 0x%x and runs %v", vp, after.enabled, after.active)
		}
		if after.events>>after.active&1 != 0 && after.started {
			return bad("the exception for %v of VP%d, which runs, is not injected", after.active, vp)
		}
		if reset {
			continue
		}
		stopped := before.started && !after.started
		if stopped && before.enabled != 1 || before.enabled&^after.enabled != 0 {
			return bad("VP%d has lost a level, or been stopped", vp)
		}
		if after.wants && !before.wants && kicked[vp] == 0 {
			return bad("a higher level of VP%d has an interrupt, and does not run", vp)
		}
		if after.wants && vp == a.vp && (a.sort == returnAction || strings.HasPrefix(a.name, "resolve") || strings.HasPrefix(a.name, "interrupt")) {
			return bad("a higher level of VP%d has an interrupt, and does not run after that", vp)
		}
		for l := range vtl.VTL(modelLevels) {
			fresh := before.enabled>>l&1 == 0 || stopped || !after.started && after.enabled == 1
			if l > actor && a.sort.guest() && !fresh {
				if after.private[l] != before.private[l] {
					return bad("%v has changed state of %v on VP%d", actor, l, vp)
				}
				if now.registers[vp][l] != was.registers[vp][l] {
					return bad("%v has changed registers of %v on VP%d", actor, l, vp)
				}
			}
			if o := was.guards(now, actor, vp, l); a.sort.guest() && o != 0 {
				return bad("%v has changed registers of %v on VP%d that %v guards", actor, l, vp, o)
			}
			if a.sort != acceptAction && !fresh {
				for i := range before.requests[l] {
					if before.requests[l][i]&^after.requests[l][i] != 0 || before.nmi[l] && !after.nmi[l] {
						return bad("an interrupt for %v of VP%d is lost", l, vp)
					}
				}
			}
			isBlocked, wasBlocked := after.blocked>>l&1 != 0, before.blocked>>l&1 != 0
			if isBlocked && !wasBlocked && (a.sort != flushAction || vp != a.vp || l != actor) {
				return bad("%v of VP%d is blocked by what another one does", l, vp)
			}
			if isBlocked && !now.locked(l) {
				return bad("%v of VP%d is blocked, but nobody has a lock", l, vp)
			}
		}
	}
	waiting := 0
	for vp := range now.vps {
		waiting += bits.OnesCount16(now.vps[vp].blocked)
	}
	if waiting != p.Waiting() {
		return bad("%d levels wait, but %d are counted", waiting, p.Waiting())
	}
	return ""
}

// forbidsStart returns a level that does not let a lower one start processors, or wants
// to know; 0 if there is none.
func (s *picture) forbidsStart(a *action) vtl.VTL {
	v := &s.vps[a.vp]
	for l := v.active + 1; l < modelLevels; l++ {
		if s.enabled16>>l&1 != 0 && (s.levels[l].DenyLowerVtlStartup() || s.levels[l].InterceptVpStartup()) {
			return l
		}
	}
	return 0
}

// guards returns a level above the actor that intercepts the writes that registers of a
// level of a processor have seen; 0 if there is none.
func (s *picture) guards(now *picture, actor vtl.VTL, vp uint32, l vtl.VTL) vtl.VTL {
	was, is := &s.registers[vp][l], &now.registers[vp][l]
	for o := max(actor, l) + 1; o < modelLevels; o++ {
		g := &s.vps[vp].private[o]
		if g.Guard&hypercall.CrInterceptMsrEferWrite != 0 && was[2] != is[2] ||
			g.Guard&hypercall.CrInterceptCr4Write != 0 && (was[3]^is[3])&g.CR4 != 0 ||
			g.Guard&hypercall.CrInterceptIdtrWrite != 0 && was[4] != is[4] {
			return o
		}
	}
	return 0
}

// locked reports whether a higher level has a TLB lock on a level on any processor.
func (s *picture) locked(l vtl.VTL) bool {
	for vp := range s.vps {
		for o := l + 1; o < modelLevels; o++ {
			if s.vps[vp].private[o].Locked>>l&1 != 0 {
				return true
			}
		}
	}
	return false
}

// A node is a state, with how it was reached.
type node struct {
	p      *vtl.Partition
	parent *node
	by     *action
	depth  int
}

func (n *node) String() string {
	var steps []string
	for ; n.parent != nil; n = n.parent {
		steps = append(steps, n.by.name)
	}
	slices.Reverse(steps)
	return strings.Join(steps, "\n")
}

// explore goes through all states that the actions lead to, up to a number of them. It
// reports how many there are, and whether those are all.
func explore(t *testing.T, start *vtl.Partition, actions []action, limit int) (states, transitions, depth int, all bool) {
	t.Helper()
	s1, s2 := maphash.MakeSeed(), maphash.MakeSeed()
	seen := map[[2]uint64]bool{}
	key := func(b []byte) [2]uint64 { return [2]uint64{maphash.Bytes(s1, b), maphash.Bytes(s2, b)} }
	var before, after []byte
	before = start.AppendState(before)
	seen[key(before)] = true
	queue := []*node{{p: start}}
	var was, now picture
	var e vtl.Effects
	all = true
	for len(queue) > 0 {
		n := queue[0]
		queue = queue[1:]
		depth = n.depth
		before = n.p.AppendState(before[:0])
		was.take(n.p)
		q := n.p.Clone()
		for i := range actions {
			a := &actions[i]
			v := &was.vps[a.vp]
			if a.sort.guest() && (!v.started || v.blocked>>v.active&1 != 0) {
				continue // the guest does not run
			}
			e.Reset()
			refused := a.do(q, &e)
			transitions++
			after = q.AppendState(after[:0])
			same := string(before) == string(after)
			if refused && (!same || e.Len() != 0) {
				t.Fatalf("%s: refused (%v), but something has happened:\n%v\nafter:\n%v", a.name, q.Why(), &e, n)
			}
			if same && e.Len() == 0 {
				continue
			}
			now.take(q)
			if text := check(a, &was, &now, q, &e); text != "" {
				t.Fatalf("%s: %s\n%v\nafter:\n%v", a.name, text, &e, n)
			}
			if k := key(after); !seen[k] {
				if len(seen) < limit {
					seen[k] = true
					queue = append(queue, &node{q, n, a, n.depth + 1})
				} else {
					all = false
				}
			}
			q = n.p.Clone()
		}
		if after = n.p.AppendState(after[:0]); string(before) != string(after) {
			t.Fatalf("clones have changed the state they were made of; after:\n%v", n)
		}
		n.p = nil // it can be collected
	}
	return len(seen), transitions, depth, all
}

// Actions, by what they have to do with. Each function returns those of one processor.

func refusedStatus(s hypercall.Status) bool { return s != ok }

func switchActions(vp uint32) (list []action) {
	other := vtl.Trap{Word: returnTrap.Word}
	for _, c := range []struct {
		name string
		sort sort
		trap vtl.Trap
	}{{"call", callAction, callTrap}, {"call at CPL 3", callAction, vtl.Trap{Word: callTrap.Word, CPL: 3}}, {"return", returnAction, fastTrap}, {"slow return", returnAction, other},
		{"bad return", returnAction, vtl.Trap{Word: returnTrap.Word, Control: 2}}} {
		list = append(list, action{c.name, c.sort, vp, func(p *vtl.Partition, e *vtl.Effects) bool {
			if c.sort == callAction {
				return p.Call(vp, c.trap, e) == vtl.UndefinedInstruction
			}
			return p.Return(vp, c.trap, e) == vtl.UndefinedInstruction
		}})
	}
	return list
}

func enableActions(vp uint32) (list []action) {
	for l := range vtl.VTL(modelLevels + 1) {
		list = append(list, action{fmt.Sprintf("enable %v for the partition", l), guestAction, vp, func(p *vtl.Partition, e *vtl.Effects) bool {
			return refusedStatus(p.EnablePartitionVTL(vp, &hypercall.EnablePartitionVtlInput{PartitionID: self, TargetVTL: l}, e))
		}})
		for w := range uint32(modelVPs) {
			list = append(list, action{fmt.Sprintf("enable %v on VP%d", l, w), guestAction, vp, func(p *vtl.Partition, e *vtl.Effects) bool {
				return refusedStatus(p.EnableVPVTL(vp, &hypercall.EnableVpVtlInput{PartitionID: self, VPIndex: w, TargetVTL: l, Context: good}, e))
			}}, action{fmt.Sprintf("start VP%d at %v", w, l), guestAction, vp, func(p *vtl.Partition, e *vtl.Effects) bool {
				o, s := p.StartVP(vp, &hypercall.StartVirtualProcessorInput{PartitionID: self, VPIndex: w, TargetVTL: l, Context: good}, e)
				return o == vtl.Done && s != ok
			}})
		}
	}
	for w := range uint32(modelVPs) {
		for _, kind := range []vtl.Startup{vtl.INIT, vtl.SIPI} {
			list = append(list, action{fmt.Sprintf("startup %d of VP%d", kind, w), guestAction, vp, func(p *vtl.Partition, e *vtl.Effects) bool {
				return p.Startup(vp, w, 0, kind, 8, e) == vtl.Dropped
			}})
		}
	}
	if vp == 0 {
		list = append(list, action{"reset", resetAction, vp, func(p *vtl.Partition, e *vtl.Effects) bool { p.Reset(e); return false }})
	}
	return list
}

// setActions are writes of registers, of each level on each processor.
func setActions(vp uint32, name hypercall.Register, targets []hypercall.InputVTL, vps []uint32, values ...uint64) (list []action) {
	for _, target := range targets {
		for _, w := range vps {
			for _, v := range values {
				list = append(list, action{fmt.Sprintf("set %v of %v of VP%d to 0x%x", name, target, w, v), guestAction, vp, func(p *vtl.Partition, e *vtl.Effects) bool {
					in := hypercall.VpRegistersInput{PartitionID: self, VPIndex: w, TargetVTL: target}
					return refusedStatus(p.SetRegister(vp, &in, name, vtl.Value{Low: v}, e))
				}})
			}
		}
	}
	return list
}

var (
	eachLevel = []hypercall.InputVTL{vtl0, vtl1, vtl2}
	eachVP    = []uint32{0, 1}
)

func configActions(vp uint32, values ...hypercall.VsmPartitionConfig) (list []action) {
	for _, v := range values {
		list = append(list, setActions(vp, hypercall.RegisterVsmPartitionConfig, []hypercall.InputVTL{vtl1, vtl2}, []uint32{vp}, uint64(v))...)
	}
	return list
}

func protectActions(vp uint32, rights ...vtl.Access) (list []action) {
	for _, target := range []hypercall.InputVTL{vtl0, vtl1, vtl2} {
		for _, a := range rights {
			for i, page := range modelPages {
				list = append(list, action{fmt.Sprintf("leave %v %v of page %d", target, a, i), guestAction, vp, func(p *vtl.Partition, e *vtl.Effects) bool {
					in := hypercall.ModifyVtlProtectionMaskInput{PartitionID: self, MapFlags: hypercall.MapFlags(a), TargetVTL: target}
					pages := [1]uint64{page}
					done, s := p.ModifyProtection(vp, &in, pages[:], e)
					return done == 0 && s != ok
				}})
			}
		}
	}
	return list
}

// accessActions check the outcome themselves, against what the masks leave.
func accessActions(t *testing.T, vp uint32) (list []action) {
	for i, page := range modelPages {
		for _, op := range []vtl.Operation{vtl.Reading, vtl.Writing, vtl.Fetching} {
			list = append(list, action{fmt.Sprintf("%v of page %d", op, i), guestAction, vp, func(p *vtl.Partition, e *vtl.Effects) bool {
				l, need := p.Active(vp), vtl.Access(op) // the three have the same bits
				allowed, owner := true, vtl.VTL(0)
				for o := modelLevels - 1; o > int(l); o-- {
					if p.Mask(vtl.VTL(o), l, page)&need == 0 {
						allowed, owner = false, vtl.VTL(o)
					}
				}
				enabled := p.Enabled(vp)
				switch o := p.Access(vp, page, op, e); {
				case allowed != (o == vtl.Done):
					t.Fatalf("%v of page 0x%x by %v is %v", op, page, l, o)
				case !allowed && (enabled>>owner&1 != 0) != (o == vtl.Intercepted):
					t.Fatalf("%v of page 0x%x by %v is %v, though %v denies it", op, page, l, o, owner)
				case !allowed && o == vtl.Intercepted:
					if f, _ := e.Find(vtl.EffectIntercept); f.Level != owner || f.From != l || f.VP != vp || p.Active(vp) < owner {
						t.Fatalf("%v of page 0x%x by %v: %v", op, page, l, f)
					}
				case o == vtl.GeneralProtection:
					return true
				}
				return false
			}})
		}
	}
	return list
}

func interruptActions(vp uint32, target uint32) (list []action) {
	for l := range vtl.VTL(modelLevels) {
		list = append(list, action{fmt.Sprintf("interrupt %v of VP%d", l, target), hostAction, target, func(p *vtl.Partition, e *vtl.Effects) bool {
			return p.Interrupt(target, l, vtl.Fixed, 0x40, e) == vtl.Dropped
		}}, action{fmt.Sprintf("request for %v of VP%d", l, target), hostAction, target, func(p *vtl.Partition, e *vtl.Effects) bool {
			return p.Request(target, l, vtl.Fixed, 0x40, e) == vtl.Dropped
		}}, action{fmt.Sprintf("IPI to %v of VP%d", l, target), guestAction, vp, func(p *vtl.Partition, e *vtl.Effects) bool {
			var s vtl.Set
			s.Add(target)
			return refusedStatus(p.SendIPI(vp, 0x40, hypercall.TargetVTL(l), &s, e))
		}}, action{fmt.Sprintf("interrupt asserted in %v of VP%d", l, target), guestAction, vp, func(p *vtl.Partition, e *vtl.Effects) bool {
			return refusedStatus(p.AssertVirtualInterrupt(vp, &hypercall.AssertVirtualInterruptInput{PartitionID: self, TargetVTL: l, RequestedVector: 0x40, DestinationAddress: uint64(target)}, e))
		}})
	}
	return append(list, action{fmt.Sprintf("resolve VP%d", target), hostAction, target, func(p *vtl.Partition, e *vtl.Effects) bool { p.Resolve(target, e); return false }})
}

func apicActions(vp uint32) (list []action) {
	list = []action{{"accept", acceptAction, vp, func(p *vtl.Partition, e *vtl.Effects) bool { _, _, taken := p.Accept(vp); return !taken }},
		{"EOI", guestAction, vp, func(p *vtl.Partition, e *vtl.Effects) bool { return p.EOI(vp, e) == vtl.Dropped }}}
	for _, tpr := range []uint8{0, 0xf0} {
		list = append(list, action{fmt.Sprintf("TPR 0x%x", tpr), guestAction, vp, func(p *vtl.Partition, e *vtl.Effects) bool {
			return p.SetTPR(vp, p.Active(vp), tpr, e) == vtl.Dropped
		}})
	}
	return list
}

func lockActions(vp uint32) (list []action) {
	for n := range hypercall.Register(modelLevels - 1) {
		list = append(list, setActions(vp, hypercall.RegisterVsmVpSecureConfigVtl0+n, []hypercall.InputVTL{vtl1, vtl2}, eachVP, 0, 2)...)
		for w := range uint32(modelVPs) {
			list = append(list, action{fmt.Sprintf("translate for VTL%d of VP%d with lock", n, w), guestAction, vp, func(p *vtl.Partition, e *vtl.Effects) bool {
				_, s := p.TranslateVirtualAddress(vp, &hypercall.TranslateVirtualAddressInput{PartitionID: self, VPIndex: w,
					ControlFlags: hypercall.TranslateTlbFlushInhibit.WithInputVtl(hypercall.TargetVTL(vtl.VTL(n)))}, e)
				return s != ok
			}})
		}
	}
	for w := range uint32(modelVPs) {
		list = append(list, action{fmt.Sprintf("flush VP%d", w), flushAction, vp, func(p *vtl.Partition, e *vtl.Effects) bool {
			var s vtl.Set
			s.Add(w)
			o, status := p.Flush(vp, 0, &s, e)
			return o == vtl.Done && status != ok
		}})
	}
	return list
}

func guardActions(vp uint32) (list []action) {
	list = setActions(vp, hypercall.RegisterCRInterceptControl, eachLevel, eachVP, 0, uint64(hypercall.CrInterceptMsrEferWrite))
	list = append(list, action{"write EFER", guestAction, vp, func(p *vtl.Partition, e *vtl.Effects) bool {
		p.WriteMSR(vp, 0xc0000080, 0, 1, e)
		return false
	}}, action{"port 0x60", guestAction, vp, func(p *vtl.Partition, e *vtl.Effects) bool {
		p.AccessIO(vp, 0x60, 1, true, 0, e)
		return false
	}})
	for _, mask := range []hypercall.InterceptAccessMask{0, 3} {
		list = append(list, action{fmt.Sprintf("intercept %d of port 0x60", mask), guestAction, vp, func(p *vtl.Partition, e *vtl.Effects) bool {
			return refusedStatus(p.InstallIntercept(vp, &hypercall.InstallInterceptInput{PartitionID: self, AccessMask: mask, Parameters: 0x60}, e))
		}})
	}
	return list
}

// modelGuards are the intercepts of the registers that the model has.
const modelGuards = uint64(hypercall.CrInterceptMsrEferWrite | hypercall.CrInterceptCr4Write | hypercall.CrInterceptIdtrWrite)

// guardedActions change guards of processor 1, and registers that they guard: by calls of
// processor vp, and by instructions, carried out unless they are intercepted.
func guardedActions(vp uint32) (list []action) {
	one := []uint32{1}
	list = setActions(vp, hypercall.RegisterCRInterceptControl, []hypercall.InputVTL{vtl1, vtl2}, one, 0, modelGuards)
	list = append(list, setActions(vp, hypercall.RegisterCRInterceptCR4Mask, []hypercall.InputVTL{vtl1, vtl2}, one, 0, 1)...)
	list = append(list, setActions(vp, hypercall.RegisterCR4, []hypercall.InputVTL{vtl0, vtl1}, one, 0, 1, 2)...)
	for _, name := range []hypercall.Register{hypercall.RegisterEFER, hypercall.RegisterIDTR} {
		list = append(list, setActions(vp, name, []hypercall.InputVTL{vtl0}, one, 0, 1)...)
	}
	if vp == 1 {
		for _, name := range []hypercall.Register{hypercall.RegisterCR4, hypercall.RegisterEFER, hypercall.RegisterIDTR} {
			list = append(list, action{fmt.Sprintf("load %v with 1", name), guestAction, vp, func(p *vtl.Partition, e *vtl.Effects) bool {
				l := p.Active(vp)
				if name != hypercall.RegisterCR4 && l != 0 {
					return true // only VTL0's are followed
				}
				old, _ := p.Registers().Register(vp, l, name)
				o := vtl.Done
				if name == hypercall.RegisterEFER {
					o = p.WriteMSR(vp, 0xc0000080, old.Low, 1, e)
				} else {
					o = p.WriteRegister(vp, name, old.Low, 1, e)
				}
				if o == vtl.Done && l < modelLevels-1 {
					p.Registers().SetRegister(vp, l, name, vtl.Value{Low: 1})
				}
				return false
			}})
		}
	}
	return list
}

// modelStart is a partition of the model; with levels, all of them are enabled on both
// processors, which run VTL0.
func modelStart(t *testing.T, enabled bool) *rig {
	t.Helper()
	r := newRig(t, vtl.Config{Processors: modelVPs, MaximumVTL: modelLevels - 1, RAM: []vtl.Range{{Page: 0x100, Pages: 0x80}},
		Capabilities: hypercall.VsmCapabilitiesDenyLowerVtlStartup.WithMbecVtlMask(4), Registers: new(modelRegisters)})
	if !enabled {
		return r
	}
	for l := vtl.VTL(1); l < modelLevels; l++ {
		r.enable(0, l, 0)
		r.call(0)
	}
	for l := vtl.VTL(1); l < modelLevels; l++ {
		r.status(ok, func() hypercall.Status { return r.enableVP(0, 1, l, good) })
	}
	r.downTo(0, 0)
	r.started(0, 1)
	r.downTo(1, 0)
	return r
}

// both is what a function has for both processors.
func both(f func(vp uint32) []action) []action { return append(f(0), f(1)...) }

// TestModel explores the model. Its log says how many states there are.
func TestModel(t *testing.T) {
	const deny, intercept = hypercall.VsmPartitionConfigDenyLowerVtlStartup, hypercall.VsmPartitionConfigInterceptVpStartup
	for _, part := range []struct {
		name    string
		limit   int // 0: there are no more
		start   func(t *testing.T) *rig
		actions func(t *testing.T) []action
	}{
		{"enabling and starting", 0, func(t *testing.T) *rig { return modelStart(t, false) }, func(t *testing.T) []action {
			return append(both(switchActions), both(enableActions)...)
		}},
		{"who may start processors", 0, func(t *testing.T) *rig {
			// VTL2 of processor 0 enables the rest.
			r := modelStart(t, false)
			r.enable(0, 1, 0)
			r.call(0)
			r.enable(0, 2, 0)
			return r
		}, func(t *testing.T) []action {
			list := append(switchActions(0), enableActions(0)...)
			list = list[:len(list)-1] // no reset
			list = append(list, switchActions(1)...)
			return append(list, configActions(0, allRights, allRights|deny, allRights|intercept)...)
		}},
		{"protections", 0, func(t *testing.T) *rig {
			r := modelStart(t, true)
			r.call(0)
			r.protectOn(0)
			r.call(0)
			r.protectOn(0)
			r.downTo(0, 0)
			return r
		}, func(t *testing.T) []action {
			list := append(switchActions(0), protectActions(0, vtl.NoAccess, vtl.FullAccess)...)
			return append(append(list, accessActions(t, 0)...), accessActions(t, 1)[:3]...)
		}},
		{"rights of a page", 0, func(t *testing.T) *rig { return modelStart(t, true) }, func(t *testing.T) []action {
			// All that one page can have, with protection and a default mask set whenever.
			var list []action
			for _, a := range append(protectActions(0, vtl.NoAccess, vtl.Read, vtl.Read|vtl.Write, vtl.Read|vtl.KernelExecute, vtl.FullAccess), accessActions(t, 0)...) {
				if strings.HasSuffix(a.name, "page 2") {
					list = append(list, a)
				}
			}
			list = append(list, both(switchActions)...)
			return append(list, configActions(0, allRights|protection, protection.WithDefaultVtlProtectionMask(1))...)
		}},
		{"interrupts", 0, func(t *testing.T) *rig { return modelStart(t, true) }, func(t *testing.T) []action {
			list := append(both(switchActions), interruptActions(1, 0)...)
			return append(list, apicActions(0)...)
		}},
		{"notification", 0, func(t *testing.T) *rig {
			r := modelStart(t, true)
			for l := range vtl.VTL(modelLevels) {
				r.interruptible(0, l, true)
			}
			return r
		}, func(t *testing.T) []action {
			list := append(switchActions(0), interruptActions(0, 0)...)
			list = append(list, apicActions(0)...)
			return append(list, setActions(0, hypercall.RegisterVsmVina, []hypercall.InputVTL{vtl2}, []uint32{0}, 0, 0x350)...)
		}},
		{"TLB locks", 0, func(t *testing.T) *rig { return modelStart(t, true) }, func(t *testing.T) []action {
			return append(both(switchActions), both(lockActions)...)
		}},
		{"registers", 0, func(t *testing.T) *rig { return modelStart(t, true) }, func(t *testing.T) []action {
			list := both(switchActions)
			for vp := range uint32(modelVPs) {
				list = append(list, setActions(vp, hypercall.RegisterRSP, eachLevel, eachVP, 0, 1)...)
			}
			return list
		}},
		{"exceptions", 0, func(t *testing.T) *rig { return modelStart(t, true) }, func(t *testing.T) []action {
			list := append(both(switchActions), interruptActions(0, 1)...)
			list = append(list, apicActions(1)[0])
			for vp := range uint32(modelVPs) {
				list = append(list, setActions(vp, hypercall.RegisterPendingEvent0, eachLevel, []uint32{1}, 0, exception(6))...)
			}
			return list
		}},
		{"intercepts", 0, func(t *testing.T) *rig { return modelStart(t, true) }, func(t *testing.T) []action {
			return append(both(switchActions), both(guardActions)...)
		}},
		{"guarded registers", 0, func(t *testing.T) *rig { return modelStart(t, true) }, func(t *testing.T) []action {
			return append(both(switchActions), both(guardedActions)...)
		}},
		{"everything", 12000, func(t *testing.T) *rig { return modelStart(t, false) }, everything},
		{"everything, with all levels", 5000, func(t *testing.T) *rig { return modelStart(t, true) }, everything},
	} {
		t.Run(part.name, func(t *testing.T) {
			limit := part.limit
			if limit == 0 {
				limit = 1 << 20
			}
			switch { // to see that it works there, too
			case ring0.Active():
				limit = 30
			case raceDetector:
				limit = 300
			}
			begin := time.Now()
			states, transitions, depth, all := explore(t, part.start(t).Partition, part.actions(t), limit)
			t.Logf("%d states, %d transitions, %d steps away at most, all: %v (%v)", states, transitions, depth, all, time.Since(begin).Round(time.Millisecond))
			if limit == 1<<20 && !all {
				t.Fatal("there are more states")
			}
		})
	}
}

// everything is all actions at once.
func everything(t *testing.T) (list []action) {
	list = append(both(switchActions), both(enableActions)...)
	for vp := range uint32(modelVPs) {
		list = append(list, configActions(vp, allRights|protection, protection.WithDefaultVtlProtectionMask(1), allRights|hypercall.VsmPartitionConfigDenyLowerVtlStartup, allRights|hypercall.VsmPartitionConfigInterceptVpStartup)...)
		list = append(list, protectActions(vp, vtl.NoAccess, vtl.Read, vtl.FullAccess)...)
		list = append(list, accessActions(t, vp)...)
		list = append(list, interruptActions(vp, 0)...)
		list = append(list, interruptActions(vp, 1)...)
		list = append(list, apicActions(vp)...)
		list = append(list, lockActions(vp)...)
		list = append(list, guardActions(vp)...)
		list = append(list, guardedActions(vp)...)
		list = append(list, setActions(vp, hypercall.RegisterVsmVina, eachLevel, []uint32{vp}, 0, 0x350)...)
		list = append(list, setActions(vp, hypercall.RegisterRSP, eachLevel, eachVP, 0, 1)...)
		list = append(list, setActions(vp, hypercall.RegisterRFLAGS, eachLevel, []uint32{vp}, 0x202)...)
		list = append(list, setActions(vp, hypercall.RegisterPendingEvent0, eachLevel, eachVP, 0, exception(6))...)
		list = append(list, setActions(vp, hypercall.RegisterVpAssistPage, eachLevel, []uint32{vp}, 0x100001)...)
	}
	return list
}
