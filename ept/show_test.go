package ept_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/govtx/vtx/ept"
	"github.com/govtx/vtx/internal/require"
)

func TestWriteTable(t *testing.T) {
	var b bytes.Buffer
	vtl0, _ := machine()
	require.NoError(t, ept.WriteTableIn(&b, vtl0, ept.Range{Size: 1<<30 + 32<<10}))
	for _, s := range []ept.Source{strange(), newSparse(able())} {
		b.WriteByte('\n')
		require.NoError(t, ept.WriteTable(&b, s))
	}
	b.WriteByte('\n')
	require.NoError(t, ept.WriteTableIn(&b, bigWithHole(), ept.Range{Start: 0x12_3400_0000, Size: 16 << 20}))
	golden(t, "table.txt", b.Bytes())

	broken := bigWithHole()
	broken.pages[broken.root][1] = 0x1007
	b.Reset()
	require.ErrorIs(t, ept.WriteTable(&b, broken), ept.ErrTableLoop)
	require.Equal(t, 3, strings.Count(b.String(), "\n"))
}

func TestExplain(t *testing.T) {
	var b bytes.Buffer
	explain := func(s ept.Source, gpa uint64, a ept.Access) {
		require.NoError(t, ept.Explain(&b, s, gpa, a))
		b.WriteByte('\n')
	}
	vtl0, _ := machine()
	flags := newSparse(able())
	flags.mode.AccessedDirty, flags.mode.ViolationVE, flags.mode.SubPageWrite = true, true, true
	flags.set(0x1000, ept.PTE, ept.Read|wb|ept.Accessed|ept.Dirty|0x7000, ept.All|ept.Accessed)
	flags.set(0x2000, ept.PTE, ept.Read|wb|ept.SubPageWrite|0x7000, ept.All)
	explain(bigWithHole(), 0x1234, ept.LinearRead)
	explain(bigWithHole(), 0x12_3456_7890, ept.LinearWrite)
	explain(vtl0, 0xfee00020, ept.LinearWrite)
	explain(vtl0, 1<<30, ept.LinearFetch|ept.AccessUser)
	explain(strange(), 16<<10, ept.LinearRead)
	explain(strange(), 6<<20, ept.LinearRead)
	explain(strange(), 1<<57, ept.LinearRead)
	explain(flags, 0x1fff, ept.PageWalk)
	explain(flags, 0x1fff, ept.LinearRead)
	explain(flags, 0x2000, ept.LinearWrite)
	golden(t, "explain.txt", b.Bytes())

	flags.pages[flags.root][1] = 0xf0007
	require.ErrorIs(t, ept.Explain(&b, flags, 512<<30, ept.LinearRead), errAbsent)
}
