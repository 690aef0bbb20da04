package ept

import (
	"strings"
	"testing"

	"github.com/govtx/vtx/internal/require"
	"github.com/govtx/vtx/internal/ring0test"
)

// However few rows there may be, they follow each other without a gap, and each cell tells where
// all of its bytes are.
func TestRows(t *testing.T) {
	ring0test.HostOnly(t)
	var text strings.Builder
	text.WriteString("view a\nmap 0 1G rwx\nmap 8G 4K r-x\nview b of a\n")
	for _, line := range []string{"unmap 0x%x 4K", "protect 0x%x 4K rw- UC"} {
		for i := range uint64(20) {
			base := uint64(64<<20) + i<<16
			if strings.HasPrefix(line, "protect") {
				base = 128<<20 + i*i<<14
			}
			text.WriteString(strings.Replace(line, "0x%x", formatNumber(base), 1) + "\n")
		}
	}
	for _, types := range []string{"--x", "r--", "rw-", "r-- UC", "r-- WT", "r-- WP", "r-- WC", "rwx UC"} { // more than a cell tells apart
		text.WriteString("map " + formatNumber(4<<30+uint64(text.Len())<<20) + " 8K " + types + "\n")
	}
	file, err := ParseMap(strings.NewReader(text.String()))
	require.NoError(t, err)
	arena, err := NewArena(make([]byte, 64<<12), 0)
	require.NoError(t, err)
	_, views, err := file.Build(arena, nil)
	require.NoError(t, err)
	bandsOfAll := 0
	for b, err := range bands([]Source{views[0].Source, views[1].Source}, Range{0, 1 << 52}) {
		require.NoError(t, err)
		require.Len(t, b.cells, 2)
		bandsOfAll++
	}
	periods, others := 0, 0
	for limit := 1; limit < 80; limit++ {
		d := Drawing{Views: views, Rows: limit}
		rows, err := d.rows()
		require.NoError(t, err)
		lines, end, ranges := 0, uint64(0), 0
		for i := range rows {
			r := &rows[i]
			require.Equal(t, end, r.Start)
			end += r.Size
			lines += r.lines()
			ranges += r.ranges
			cells := r.cells
			if r.period != nil {
				periods++
				cells = r.flat().cells
			}
			require.Len(t, cells, 2)
			for _, c := range cells {
				sum := c.other
				for _, p := range c.parts {
					sum += p.size
				}
				require.Equal(t, r.Size, sum, "limit %d, row %v", limit, r.Range)
				if c.other != 0 {
					others++
				}
			}
		}
		require.Equal(t, uint64(8<<30+4096), end)
		require.True(t, lines <= limit, "%d lines of %d", lines, limit)
		require.Equal(t, bandsOfAll, ranges)
		if limit > 5 {
			require.Greater(t, lines, limit/2)
		}
	}
	require.NotZero(t, periods)
	require.NotZero(t, others)
}
