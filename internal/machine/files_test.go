package machine

import (
	"encoding/binary"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/govtx/vtx/internal/bootproto"
)

// fileFrame is a FrameFile's payload.
func fileFrame(mode uint32, path string) []byte {
	return append(binary.LittleEndian.AppendUint32(nil, mode), path...)
}

// tree lists what lies below dir.
func tree(t *testing.T, dir string) []string {
	t.Helper()
	var list []string
	require.NoError(t, filepath.WalkDir(dir, func(p string, _ fs.DirEntry, err error) error {
		if rel, _ := filepath.Rel(dir, p); rel != "." {
			list = append(list, filepath.ToSlash(rel))
		}
		return err
	}))
	return list
}

func TestFiles(t *testing.T) {
	if runtime.GOOS == "windows" || runtime.GOOS == "plan9" || runtime.GOOS == "js" {
		t.Skip("permissions, symbolic links and devices are those of Unix")
	}
	type want map[string]string
	for _, tc := range []struct {
		name     string
		before   func(t *testing.T, dir string)
		guest    func(f *files, dir string)
		cut      bool // the guest does not end as it should
		want     want
		wantErrs []string
	}{
		{name: "nothing"},
		{
			name: "two files, in pieces",
			guest: func(f *files, dir string) {
				f.begin(fileFrame(0o644, "a"))
				f.data([]byte("one"))
				f.data([]byte("two"))
				f.begin(fileFrame(0o600, filepath.Join(dir, "b")))
			},
			want: want{"a": "onetwo", "b": ""},
		},
		{
			name:  "directories that the guest made",
			guest: func(f *files, _ string) { f.begin(fileFrame(0o644, "x/y/z")); f.data([]byte("deep")) },
			want:  want{"x": "dir", "x/y": "dir", "x/y/z": "deep"},
		},
		{
			name:   "an old file keeps its mode",
			before: func(t *testing.T, dir string) { write0(t, dir, "a", "old content", 0o640) },
			guest: func(f *files, dir string) {
				f.begin(fileFrame(0o777, "a"))
				f.data([]byte("new"))
				f.mu.Lock()
				f.end()
				f.mu.Unlock()
				if st, err := os.Stat(filepath.Join(dir, "a")); err != nil || st.Mode() != 0o640 {
					panic(st.Mode().String())
				}
			},
			want: want{"a": "new"},
		},
		{
			name: "a link is written through",
			before: func(t *testing.T, dir string) {
				write0(t, dir, "a", "old", 0o644)
				require.NoError(t, os.Symlink("a", filepath.Join(dir, "l")))
			},
			guest: func(f *files, _ string) { f.begin(fileFrame(0o644, "l")); f.data([]byte("new")) },
			want:  want{"a": "new", "l": "new"},
		},
		{
			name:  "a device stays what it is",
			guest: func(f *files, _ string) { f.begin(fileFrame(0o644, os.DevNull)); f.data([]byte("gone")) },
		},
		{
			name:   "not complete",
			before: func(t *testing.T, dir string) { write0(t, dir, "b", "old", 0o644) },
			guest: func(f *files, _ string) {
				f.begin(fileFrame(0o644, "a"))
				f.begin(fileFrame(0o644, "b"))
				f.data([]byte("ne"))
			},
			cut:      true,
			want:     want{"a": "", "b": "old"},
			wantErrs: []string{`file "b" was not complete`},
		},
		{
			name:   "a directory in the way; the next file works",
			before: func(t *testing.T, dir string) { require.NoError(t, os.Mkdir(filepath.Join(dir, "a"), 0o755)) },
			guest: func(f *files, _ string) {
				f.begin(fileFrame(0o644, "a"))
				f.data([]byte("x"))
				f.begin(fileFrame(0o644, "b"))
				f.data([]byte("y"))
			},
			want:     want{"a": "dir", "b": "y"},
			wantErrs: []string{`file "a" cannot be written`, "not a regular file"},
		},
		{
			name:     "a file where a directory must be",
			before:   func(t *testing.T, dir string) { write0(t, dir, "a", "", 0o644) },
			guest:    func(f *files, _ string) { f.begin(fileFrame(0o644, "a/b")); f.data([]byte("x")) },
			want:     want{"a": ""},
			wantErrs: []string{`file "a/b" cannot be written`},
		},
		{
			name:     "data without a file",
			guest:    func(f *files, _ string) { f.data([]byte("x")) },
			wantErrs: []string{"without naming the file"},
		},
		{
			name:     "NUL in the name",
			guest:    func(f *files, _ string) { f.begin(fileFrame(0o644, "a\x00b")); f.data([]byte("x")) },
			wantErrs: []string{"NUL byte"},
		},
		{
			name:  "after the end",
			guest: func(f *files, _ string) { _ = f.close(true); f.begin(fileFrame(0o644, "a")); f.data([]byte("x")) },
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := t.TempDir()
			if tc.before != nil {
				tc.before(t, dir)
			}
			f := &files{dir: dir}
			if tc.guest != nil {
				tc.guest(f, dir)
			}
			err := f.close(!tc.cut)
			if tc.wantErrs == nil {
				require.NoError(t, err)
			}
			for _, s := range tc.wantErrs {
				require.ErrorContains(t, err, s)
			}
			require.Len(t, tree(t, dir), len(tc.want), "%v", tree(t, dir))
			for name, content := range tc.want {
				if content == "dir" {
					require.DirExists(t, filepath.Join(dir, name))
					continue
				}
				b, err := os.ReadFile(filepath.Join(dir, name))
				require.NoError(t, err)
				require.Equal(t, content, string(b))
			}
			st, err := os.Stat(os.DevNull)
			require.NoError(t, err)
			require.NotZero(t, st.Mode()&fs.ModeCharDevice)
		})
	}
}

func write0(t *testing.T, dir, name, content string, mode fs.FileMode) {
	t.Helper()
	path := filepath.Join(dir, name)
	require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
	require.NoError(t, os.Chmod(path, mode))
}

// A guest whose files all fail is told of so many times and no more.
func TestFilesErrorsAreBounded(t *testing.T) {
	f := &files{dir: t.TempDir()}
	for range 1000 {
		f.data([]byte("x"))
	}
	require.Error(t, f.close(true))
	require.Len(t, f.errs, maxFileErrors)
}

func TestGuestEnv(t *testing.T) {
	got := GuestEnv([]string{"GOMAXPROCS=1", "HOME=/h", "SECRET=x", "VTX=", "TESTX=1", "CI=true", "HOMER=no", "junk", "PATH=/bin", "=C:=x"})
	require.Equal(t, []string{"GOMAXPROCS=1", "HOME=/h", "VTX=", "TESTX=1", "CI=true", "PATH=/bin"}, got)
}

func TestGuestDirs(t *testing.T) {
	root, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	for _, d := range []string{"work/sub", "cover", "out", "tmp", "unnamed"} {
		require.NoError(t, os.MkdirAll(filepath.Join(root, d), 0o755))
	}
	at := func(s string) string { return filepath.Join(root, s) }
	got := GuestDirs(at("work"),
		[]string{"GOCOVERDIR=" + at("cover"), "TMPDIR=" + at("tmp"), "HOME=" + at("unnamed")},
		[]string{"-test.v", "-o=" + at("out/file"), "sub", at("missing/file"), "", "a\x00b"})
	want := []string{at("work"), at("work/sub"), at("cover"), at("tmp"), at("out")}
	for d := root; ; d = filepath.Dir(d) {
		want = append(want, d)
		if d == filepath.Dir(d) {
			break
		}
	}
	require.ElementsMatch(t, want, got)
	require.IsIncreasing(t, got)

	// "/dir/missing" names nothing, but the directory that it would lie in is there.
	require.Contains(t, GuestDirs(at("work"), nil, []string{at("out/new")}), at("out"))
}

// The statistics keep their order, whatever the guest sends.
func TestOutputExit(t *testing.T) {
	for _, n := range []int{0, 3, bootproto.Stats, bootproto.Stats + 5} {
		p := binary.LittleEndian.AppendUint32(nil, 7)
		for i := range n {
			p = binary.LittleEndian.AppendUint64(p, uint64(100+i))
		}
		p = append(p, 1, 2, 3) // part of a number
		var o output
		o.exit(p)
		require.True(t, o.exited)
		require.EqualValues(t, 7, o.status)
		for i, v := range o.stats {
			want := uint64(0)
			if i < n {
				want = uint64(100 + i)
			}
			require.Equal(t, want, v)
		}
	}
}
