package main

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"

	"github.com/govtx/vtx/asm"
	"github.com/govtx/vtx/vmexit"
)

// A counter counts VM exits by reason, and what handling them takes by the time-stamp counter.
type counter struct {
	exits [vmexit.NumBasic + 1]struct {
		reason   vmexit.Basic
		n, ticks uint64
	}
}

func newCounter() *counter { return new(counter) }

// layer counts the exits that a handler gets.
func (c *counter) layer(b vmexit.Basic, below vmexit.Handler) vmexit.Handler {
	e := &c.exits[min(int(b), vmexit.NumBasic)]
	e.reason = b
	return func(x *vmexit.Exit) vmexit.Outcome {
		begin := asm.RDTSC()
		o := below(x)
		e.n++
		e.ticks += asm.RDTSC() - begin
		return o
	}
}

// print prints a table of what there was.
func (c *counter) print(w io.Writer) {
	list := slices.Clone(c.exits[:])
	slices.SortStableFunc(list, func(a, b struct {
		reason   vmexit.Basic
		n, ticks uint64
	}) int {
		return cmp.Compare(b.n, a.n)
	})
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(t, "exits\teach\t  reason\n")
	for _, e := range list {
		if e.n != 0 {
			fmt.Fprintf(t, "%d\t%d\t  %v\n", e.n, e.ticks/e.n, e.reason)
		}
	}
	t.Flush()
}
