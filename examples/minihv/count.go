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

// A counter counts VM exits by level and reason, and what handling them takes by the time-stamp
// counter.
type counter struct {
	exits [numLevels][vmexit.NumBasic + 1]count
}

type count struct {
	level    int
	reason   vmexit.Basic
	n, ticks uint64
}

func newCounter() *counter { return new(counter) }

// layer counts the exits that a handler gets.
func (c *counter) layer(b vmexit.Basic, below vmexit.Handler) vmexit.Handler {
	i := min(int(b), vmexit.NumBasic)
	for level := range c.exits {
		c.exits[level][i].level, c.exits[level][i].reason = level, b
	}
	return func(x *vmexit.Exit) vmexit.Outcome {
		e := &c.exits[processorOf(x).current.number][i] // a call changes the current level
		begin := asm.RDTSC()
		o := below(x)
		e.n++
		e.ticks += asm.RDTSC() - begin
		return o
	}
}

// print prints a table of what there was.
func (c *counter) print(w io.Writer) {
	var list []count
	for i := range c.exits {
		list = append(list, c.exits[i][:]...)
	}
	slices.SortStableFunc(list, func(a, b count) int { return cmp.Compare(b.n, a.n) })
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(t, "exits\teach\tVTL\t  reason\n")
	for _, e := range list {
		if e.n != 0 {
			fmt.Fprintf(t, "%d\t%d\t%d\t  %v\n", e.n, e.ticks/e.n, e.level, e.reason)
		}
	}
	t.Flush()
}
