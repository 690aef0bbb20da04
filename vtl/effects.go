package vtl

import (
	"fmt"
	"strings"
)

// An EffectKind says what an [Effect] asks for.
type EffectKind uint8

// Kinds of effects, with the fields that each has besides Kind.
const (
	// EffectSwitch: VP leaves level From and runs Level from now on. Private state is
	// exchanged, shared state stays; see [State]. The Flags say what else is done.
	EffectSwitch EffectKind = iota + 1
	// EffectContext: Level of VP has a new initial context, [Effects.Context] of Index.
	EffectContext
	// EffectStart: VP, which was waiting to be started, runs Level from now on. With
	// FlagSIPI it was a startup IPI with this Vector, and no context is given.
	EffectStart
	// EffectInit: VP, which has VTL0 only, is reset and waits to be started.
	EffectInit
	// EffectView: what Level may do with memory has changed at large: its view is to be
	// made anew from [Partition.Rights]. The level may be a new one.
	EffectView
	// EffectProtect: Level may do no more than Access with the Pages from Page on. TLBs
	// are to be without other rights before the call returns.
	EffectProtect
	// EffectIntercept: [Effects.Intercept] of Index is put into the message slot of
	// SINT0 of Level on VP. If the slot is full it is dropped: the instruction will run
	// again.
	EffectIntercept
	// EffectInject: the exception with this Vector is injected when VP next enters
	// Level, where it now is. With FlagErrorCode, Value is the error code; for #PF,
	// Page holds the address for CR2.
	EffectInject
	// EffectVINA: VinaAsserted becomes 1 in the assist page of Level on VP. The interrupt
	// itself, with this Vector, is pending in the core.
	EffectVINA
	// EffectKick: VP is to leave the guest, and [Partition.Resolve] to be called for it.
	EffectKick
	// EffectWake: Level of VP is no longer halted.
	EffectWake
	// EffectBlock: Level of VP does not run until EffectUnblock.
	EffectBlock
	// EffectUnblock: Level of VP runs its flush call again.
	EffectUnblock
	// EffectFlush: translations of Level's linear addresses are flushed on VP, as the
	// call that is being carried out says.
	EffectFlush
	// EffectRoute: an interrupt for Level with logical destination Value, type in Index
	// and this Vector is for the embedder's local APICs to route, by [Partition.Request].
	EffectRoute
	// EffectMBEC: mode-based execute control is on (FlagOn) or off for Level on VP.
	EffectMBEC
	// EffectGuard: what Level intercepts of lower levels' registers has changed on VP.
	EffectGuard
	// EffectGuardIO: what Level intercepts of lower levels' I/O ports has changed.
	EffectGuardIO
	// EffectAssist: the assist page of Level on VP is Value, as HV_X64_MSR_VP_ASSIST_PAGE
	// has it.
	EffectAssist
	// EffectZero: the Pages from Page on are filled with zeroes, before a reset ends.
	EffectZero
	// EffectReset: everything is as it was when the partition was made. Contexts are lost;
	// processor 0 runs VTL0.
	EffectReset

	numEffects
)

var effectNames = [numEffects]string{"none", "switch", "context", "start", "init", "view", "protect", "intercept", "inject",
	"vina", "kick", "wake", "block", "unblock", "flush", "route", "mbec", "guard", "guard-io", "assist", "zero", "reset"}

// String returns the kind's name.
func (k EffectKind) String() string {
	if k < numEffects {
		return effectNames[k]
	}
	return fmt.Sprintf("EffectKind(%d)", uint8(k))
}

// Flags are details of an [Effect].
type Flags uint8

// Flags.
const (
	// FlagAdvance: RIP of level From goes behind the instruction before the switch, so
	// that it goes on there when it next runs.
	FlagAdvance Flags = 1 << iota
	// FlagReason: Reason is written into the assist page at Page (page number) of Level.
	FlagReason
	// FlagRestore: RAX and RCX are loaded from the assist page at Page of level From,
	// offsets 16 and 24; a 32-bit level has EAX, ECX, EDX at 16, 20, 24.
	FlagRestore
	// FlagStore: RAX and RCX are written there, in the assist page of Level.
	FlagStore
	// FlagVINAReset: VinaAsserted becomes 0 in the assist page of Level; with
	// FlagVINAFrom in that of level From.
	FlagVINAReset
	FlagVINAFrom
	// FlagBlocked: Level waits for a TLB lock and does not run yet.
	FlagBlocked
	// FlagOn: it is switched on.
	FlagOn
)

// FlagErrorCode (of EffectInject) and FlagSIPI (of EffectStart) share bits with flags of
// EffectSwitch.
const (
	FlagErrorCode = FlagOn
	FlagSIPI      = FlagReason
)

// A Reason says why a level was entered (TLFS, data type HV_VP_VTL_CONTROL).
type Reason uint8

// Reasons.
const (
	ReasonNone      Reason = 0 // of a return, which writes none
	ReasonCall      Reason = 1 // a VTL call
	ReasonInterrupt Reason = 2 // an interrupt, also that of an intercept message
	ReasonIntercept Reason = 3 // an intercept by an intercept page, which this package does not offer
)

// String returns the reason's name.
func (r Reason) String() string {
	switch r {
	case ReasonNone:
		return "none"
	case ReasonCall:
		return "call"
	case ReasonInterrupt:
		return "interrupt"
	case ReasonIntercept:
		return "intercept"
	}
	return fmt.Sprintf("Reason(%d)", uint8(r))
}

// An Effect is one thing for the embedder to do. Which fields count depends on Kind.
type Effect struct {
	Kind   EffectKind
	Flags  Flags
	Level  VTL
	From   VTL
	Reason Reason
	Access Access
	Vector uint8
	VP     uint32
	Index  uint32
	Page   uint64 // page number: address / 4096
	Pages  uint64
	Value  uint64
}

// String describes the effect on one line.
func (f Effect) String() string {
	var b strings.Builder
	b.WriteString(f.Kind.String())
	put := func(format string, v ...any) { fmt.Fprintf(&b, " "+format, v...) }
	switch f.Kind {
	case EffectView, EffectProtect, EffectRoute, EffectZero, EffectReset, EffectGuardIO:
	default:
		put("VP%d", f.VP)
	}
	switch f.Kind {
	case EffectSwitch:
		put("%v to %v", f.From, f.Level)
		if f.Reason != ReasonNone {
			put("for %v", f.Reason)
		}
		for _, n := range [...]struct {
			flag Flags
			text string
		}{{FlagAdvance, "advance"}, {FlagReason, "reason"}, {FlagRestore, "restore"}, {FlagStore, "store"}, {FlagVINAReset, "vina-reset"}, {FlagBlocked, "blocked"}} {
			if f.Flags&n.flag != 0 {
				put("%s", n.text)
			}
		}
	case EffectProtect:
		put("%v pages 0x%x+0x%x %v", f.Level, f.Page, f.Pages, f.Access)
	case EffectZero:
		put("pages 0x%x+0x%x", f.Page, f.Pages)
	case EffectIntercept:
		put("%v from %v", f.Level, f.From)
	case EffectInject:
		put("%v vector 0x%x", f.Level, f.Vector)
		if f.Flags&FlagErrorCode != 0 {
			put("code 0x%x", f.Value)
		}
	case EffectVINA:
		put("%v vector 0x%x", f.Level, f.Vector)
	case EffectStart:
		put("%v", f.Level)
		if f.Flags&FlagSIPI != 0 {
			put("vector 0x%x", f.Vector)
		}
	case EffectRoute:
		put("%v vector 0x%x destination 0x%x", f.Level, f.Vector, f.Value)
	case EffectMBEC:
		put("%v %v", f.Level, map[bool]string{true: "on", false: "off"}[f.Flags&FlagOn != 0])
	case EffectAssist:
		put("%v 0x%x", f.Level, f.Value)
	case EffectKick, EffectInit, EffectReset:
	default:
		put("%v", f.Level)
	}
	return b.String()
}

// Effects takes what events ask for, in the order in which it is to be done. It belongs
// to the caller, who uses it again and again: Reset keeps its memory, so that events
// allocate nothing once it has grown. An event that is refused adds nothing to it.
type Effects struct {
	list       []Effect
	contexts   []Context
	intercepts []Intercept
}

// Reset empties it. What was read from it before is overwritten by later events.
func (e *Effects) Reset() {
	e.list, e.contexts, e.intercepts = e.list[:0], e.contexts[:0], e.intercepts[:0]
}

// List returns the effects, in order.
func (e *Effects) List() []Effect { return e.list }

// Len returns how many effects there are.
func (e *Effects) Len() int { return len(e.list) }

// Context returns the context of an [EffectContext].
func (e *Effects) Context(f Effect) *Context { return &e.contexts[f.Index] }

// Intercept returns what is reported by an [EffectIntercept].
func (e *Effects) Intercept(f Effect) *Intercept { return &e.intercepts[f.Index] }

// Find returns the first effect of a kind; ok is false if there is none.
func (e *Effects) Find(k EffectKind) (f Effect, ok bool) {
	for _, f := range e.list {
		if f.Kind == k {
			return f, true
		}
	}
	return Effect{}, false
}

// String has a line for each effect.
func (e *Effects) String() string {
	var b strings.Builder
	for _, f := range e.list {
		fmt.Fprintln(&b, f)
	}
	return b.String()
}

func (e *Effects) add(f Effect) { e.list = append(e.list, f) }

// change adds an EffectSwitch. Field by field, because a literal would be put together
// elsewhere and copied.
func (e *Effects) change(vp uint32, from, to VTL, why Reason, flags Flags, page uint64) {
	n := len(e.list)
	if n < cap(e.list) {
		e.list = e.list[:n+1]
	} else {
		e.list = append(e.list, Effect{})
	}
	f := &e.list[n]
	*f = Effect{}
	f.Kind, f.Flags, f.Level, f.From, f.Reason = EffectSwitch, flags, to, from, why
	f.VP, f.Page = vp, page
}

// protect adds an EffectProtect, or pages to the last one.
func (e *Effects) protect(level VTL, page, pages uint64, a Access) {
	if n := len(e.list); n > 0 {
		f := &e.list[n-1]
		if f.Kind == EffectProtect && f.Level == level && f.Access == a && f.Page+f.Pages == page {
			f.Pages += pages
			return
		}
	}
	e.add(Effect{Kind: EffectProtect, Level: level, Access: a, Page: page, Pages: pages})
}

func (e *Effects) context(vp uint32, level VTL, c *Context) {
	e.contexts = append(e.contexts, *c)
	e.add(Effect{Kind: EffectContext, VP: vp, Level: level, Index: uint32(len(e.contexts) - 1)})
}

func (e *Effects) intercept(i *Intercept) {
	e.intercepts = append(e.intercepts, *i)
	e.add(Effect{Kind: EffectIntercept, VP: i.VP, Level: i.Owner, From: i.Level, Index: uint32(len(e.intercepts) - 1)})
}
