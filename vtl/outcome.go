package vtl

import "fmt"

// An Outcome is what became of an event: what the embedder does with the instruction,
// or with the request, that caused it. What else is to be done stands in [Effects].
type Outcome uint8

// Outcomes.
const (
	// Done: the event has been taken, and nothing more happens to its cause. After a
	// hypercall the status is in the result, and RIP goes behind the instruction.
	Done Outcome = iota
	// Switched: the processor is at another level; an [EffectSwitch] says at which.
	Switched
	// Intercepted: the instruction is not carried out, and RIP is held. A higher level
	// is told by an [EffectIntercept] and runs next.
	Intercepted
	// UndefinedInstruction: #UD, with RIP held. Nothing has changed.
	UndefinedInstruction
	// GeneralProtection: #GP(0), with RIP held. Nothing has changed.
	GeneralProtection
	// Blocked: the level waits for a TLB lock. RIP is held, and the instruction is run
	// again after [EffectUnblock].
	Blocked
	// Pending: the interrupt is kept until its level can take it.
	Pending
	// Dropped: the interrupt has no effect, now or later.
	Dropped

	numOutcomes
)

var outcomeNames = [numOutcomes]string{"done", "switched", "intercepted", "#UD", "#GP", "blocked", "pending", "dropped"}

// String returns the outcome's name.
func (o Outcome) String() string {
	if o < numOutcomes {
		return outcomeNames[o]
	}
	return fmt.Sprintf("Outcome(%d)", uint8(o))
}
