package vmexit

import "sync/atomic"

// A Counter counts VM exits by basic reason. It allocates nothing, and processors can
// share it; where that is too slow, give each its own.
type Counter struct {
	counts [NumBasic]atomic.Uint64
	others atomic.Uint64
}

// Layer counts the exits of a reason: b.OverAll(counter.Layer).
func (c *Counter) Layer(b Basic, below Handler) Handler {
	n := &c.others
	if b < NumBasic {
		n = &c.counts[b]
	}
	return func(x *Exit) Outcome {
		n.Add(1)
		return below(x)
	}
}

// Count returns how many exits there were for a reason. AnyReason, and every other that is
// not known, stands for those whose reason is not known.
func (c *Counter) Count(b Basic) uint64 {
	if b < NumBasic {
		return c.counts[b].Load()
	}
	return c.others.Load()
}

// Total returns how many exits there were.
func (c *Counter) Total() (n uint64) {
	for i := range c.counts {
		n += c.counts[i].Load()
	}
	return n + c.others.Load()
}

// Trace returns a layer that tells what was made of each exit, before RIP is advanced:
// b.OverAll(Trace(...)).
func Trace(tell func(*Exit, Outcome)) Layer {
	return func(_ Basic, below Handler) Handler {
		return func(x *Exit) Outcome {
			o := below(x)
			tell(x, o)
			return o
		}
	}
}
