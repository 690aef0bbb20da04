package ept

import (
	"testing"

	"github.com/govtx/vtx/internal/require"
)

// fan is a source whose tables at each level are one and the same: each entry of a table
// of one level references the one of the next, down to an empty table of PTEs.
type fan struct{ reads int }

func (*fan) Root() uint64 { return 5 << 12 }
func (*fan) Mode() *Mode {
	return &Mode{Capabilities: 1 << 7, PhysicalAddressBits: 52, Levels: 5}
}

func (f *fan) Entry(table uint64, _ int) (Entry, error) {
	f.reads++
	if table == 1<<12 {
		return 0, nil
	}
	return All | Entry(table-1<<12), nil
}

// A few tables that stand for 512^4 ranges cost no more than the limit. The real one would take
// too long for each boot.
func TestTableLimit(t *testing.T) {
	const limit = 3000
	f := &fan{}
	var failed error
	w := walker{source: f, limit: limit, yield: func(_ Mapping, err error) bool { failed = err; return true }}
	w.run(Range{0, 1 << 52})
	require.ErrorIs(t, failed, ErrTooManyTables)
	require.ErrorContains(t, failed, "table of EPT PTEs at 0x1000, for guest-physical 0x175e00000-0x175ffffff: there are more than 1048576 tables")
	require.LessOrEqual(t, f.reads, limit*512)
	require.Equal(t, limit, w.footprint.Total())
}
