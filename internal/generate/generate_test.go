package generate

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/govtx/vtx/internal/require"
)

func TestTable(t *testing.T) {
	for _, c := range []struct {
		text, problem string
		want          [][]string
	}{
		{"# about\na,b\n1,\"2, 3\"\n# more\n4,\n", "", [][]string{{"1", "2, 3"}, {"4", ""}}},
		{"a,b\n", "", [][]string{}},
		{"# about\n", "has no row: the first must be a,b", nil},
		{"b,a\n1,2\n", "has the columns b,a, not a,b", nil},
		{"a,b\n1,2\n3\n", "t.csv: record on line 3: wrong number of fields", nil},
	} {
		file := filepath.Join(t.TempDir(), "t.csv")
		require.NoError(t, os.WriteFile(file, []byte(c.text), 0o600))
		got, err := Table(file, "a,b")
		require.Equal(t, c.want, got)
		if c.problem != "" {
			require.ErrorContains(t, err, c.problem)
		}
	}
	_, err := Table("nowhere.csv", "a,b")
	require.ErrorIs(t, err, os.ErrNotExist)
}

func TestWrite(t *testing.T) {
	f := File{Name: filepath.Join(t.TempDir(), "made.go")}
	text, problem := "package p\nvar  x int", error(nil)
	f.Make = func() ([]byte, error) { return []byte(text), problem }
	const made = "package p\n\nvar x int\n"
	holds := func() {
		t.Helper()
		b, err := os.ReadFile(f.Name)
		require.NoError(t, err)
		require.Equal(t, made, string(b))
	}
	require.NoError(t, f.write())
	holds()

	// What is there already is not written again.
	old := time.Unix(1e9, 0)
	require.NoError(t, os.Chtimes(f.Name, old, old))
	require.NoError(t, f.write())
	info, err := os.Stat(f.Name)
	require.NoError(t, err)
	require.True(t, info.ModTime().Equal(old))

	// What goes wrong leaves the file as it was.
	problem = errors.New("no table")
	require.ErrorIs(t, f.write(), problem)
	text, problem = "package", nil
	require.ErrorContains(t, f.write(), "the text made is not Go: ")
	holds()
}
