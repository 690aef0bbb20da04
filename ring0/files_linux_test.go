package ring0_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"pgregory.net/rapid"

	"github.com/govtx/vtx/internal/require"
)

// A node is a file or directory of the model.
type node struct {
	dir      bool
	data     []byte
	children map[string]*node
	parent   *node
	removed  bool
	mode     os.FileMode
}

func newDir(parent *node) *node {
	return &node{dir: true, children: map[string]*node{}, parent: parent, mode: 0o755}
}

// walk finds the directory that a path's last name is in, that name, and what it
// names, nil if there is nothing.
func (n *node) walk(path string) (dir *node, name string, found *node, errno syscall.Errno) {
	names := strings.Split(path, "/")
	for i, name := range names {
		switch {
		case n == nil:
			return nil, "", nil, syscall.ENOENT
		case !n.dir:
			return nil, "", nil, syscall.ENOTDIR
		}
		var next *node
		switch name {
		case ".":
			next = n
		case "..":
			next = n.parent
		default:
			next = n.children[name]
		}
		if i == len(names)-1 {
			return n, name, next, 0
		}
		n = next
	}
	panic("a path has at least one name")
}

func (n *node) isIn(dir *node) bool {
	for ; n != nil; n = n.parent {
		if n == dir {
			return true
		}
	}
	return false
}

// An opened file of the model beside the real one.
type openFile struct {
	*os.File
	node  *node
	flags int
	pos   int
}

func (f *openFile) write(at int, b []byte) {
	if grown := at + len(b) - len(f.node.data); grown > 0 {
		f.node.data = append(f.node.data, make([]byte, grown)...)
	}
	copy(f.node.data[at:], b)
}

func sameErrno(t *rapid.T, want syscall.Errno, err error) {
	t.Helper()
	if want == 0 {
		require.NoError(t, err)
	} else if !errors.Is(err, want) {
		t.Fatalf("the error is %v, not %v", err, want)
	}
}

// Files behave as a tree of byte slices does. The test passes on Linux too, which
// says that the tree is right.
func TestFilesAgainstModel(t *testing.T) {
	top := t.TempDir()
	t.Chdir(top)
	count := 0
	rapid.Check(t, func(t *rapid.T) {
		count++
		base := filepath.Join(top, strings.Repeat("x", count%7+1))
		require.NoError(t, os.Mkdir(base, 0o755))
		require.NoError(t, os.Chdir(base))
		root := newDir(nil)
		root.parent = newDir(nil) // what ".." leads to is not looked into
		cwd := root
		var open []*openFile
		defer func() {
			for _, f := range open {
				f.Close()
			}
			require.NoError(t, os.Chdir(top))
			require.NoError(t, os.RemoveAll(base))
		}()

		name := rapid.SampledFrom([]string{"a", "b", "c", "a", "b", "c", "a name that is longer than the others"})
		// path draws one for the system, and where the model begins with the rest.
		path := func(t *rapid.T, label string, last *rapid.Generator[string]) (string, *node, string) {
			rel := ""
			for range rapid.IntRange(0, 2).Draw(t, "depth") {
				d := rapid.OneOf(name, name, name, rapid.Just(".")).Draw(t, "directory")
				rel += d + "/"
				if d != "." && rapid.IntRange(0, 7).Draw(t, "up") == 0 {
					rel += "../"
				}
			}
			rel += last.Draw(t, label)
			if rapid.Bool().Draw(t, "absolute") {
				return base + "/" + rel, root, rel
			}
			return rel, cwd, rel
		}
		pick := func(t *rapid.T) *openFile {
			if len(open) == 0 {
				t.Skip("no file is open")
			}
			return rapid.SampledFrom(open).Draw(t, "file")
		}
		remove := func(n *node, dir *node, name string) {
			n.removed = true
			delete(dir.children, name)
			if cwd.removed { // what works there is Linux' own affair
				require.NoError(t, os.Chdir(base))
				cwd = root
			}
		}
		data := rapid.Custom(func(t *rapid.T) []byte {
			return bytes.Repeat([]byte{rapid.Byte().Draw(t, "fill")}, rapid.SampledFrom([]int{0, 1, 100, 4095, 4096, 4097, 9000}).Draw(t, "length"))
		})
		offset := rapid.SampledFrom([]int{0, 1, 100, 4095, 4096, 8192, 12345, 20000})

		t.Repeat(map[string]func(*rapid.T){
			"mkdir": func(t *rapid.T) {
				p, from, rel := path(t, "name", name)
				dir, base, found, errno := from.walk(rel)
				if errno == 0 && found != nil {
					errno = syscall.EEXIST
				}
				sameErrno(t, errno, os.Mkdir(p, 0o777))
				if errno == 0 {
					dir.children[base] = newDir(dir)
				}
			},
			"open": func(t *rapid.T) {
				p, from, rel := path(t, "name", rapid.OneOf(name, name, name, rapid.Just("."), rapid.Just("..")))
				flags := rapid.SampledFrom([]int{os.O_RDONLY, os.O_WRONLY, os.O_RDWR}).Draw(t, "access")
				for _, f := range []int{os.O_CREATE, os.O_CREATE, os.O_EXCL, os.O_TRUNC, os.O_APPEND} {
					if rapid.IntRange(0, 2).Draw(t, "flag") == 0 {
						flags |= f
					}
				}
				if flags&os.O_CREATE == 0 {
					flags &^= os.O_EXCL
				}
				dir, base, found, errno := from.walk(rel)
				switch {
				case errno != 0:
				case found == nil && flags&os.O_CREATE == 0:
					errno = syscall.ENOENT
				case found != nil && flags&os.O_EXCL != 0:
					errno = syscall.EEXIST
				case found != nil && found.dir && flags&(os.O_WRONLY|os.O_RDWR|os.O_CREATE|os.O_TRUNC) != 0:
					errno = syscall.EISDIR
				}
				f, err := os.OpenFile(p, flags, 0o666)
				sameErrno(t, errno, err)
				if errno != 0 {
					return
				}
				if found == nil {
					found = &node{parent: dir, mode: 0o644}
					dir.children[base] = found
				}
				if flags&os.O_TRUNC != 0 {
					found.data = nil
				}
				open = append(open, &openFile{f, found, flags, 0})
			},
			"close": func(t *rapid.T) {
				f := pick(t)
				require.NoError(t, f.Close())
				open = slices.DeleteFunc(open, func(o *openFile) bool { return o == f })
			},
			"write": func(t *rapid.T) {
				f, b := pick(t), data.Draw(t, "data")
				n, err := f.Write(b)
				if f.flags&(os.O_WRONLY|os.O_RDWR) == 0 {
					sameErrno(t, syscall.EBADF, err)
					return
				}
				require.NoError(t, err)
				require.Equal(t, len(b), n)
				if len(b) == 0 {
					return
				}
				if f.flags&os.O_APPEND != 0 {
					f.pos = len(f.node.data)
				}
				f.write(f.pos, b)
				f.pos += n
			},
			"writeAt": func(t *rapid.T) {
				f, b, at := pick(t), data.Draw(t, "data"), offset.Draw(t, "at")
				if f.flags&os.O_APPEND != 0 || len(b) == 0 {
					t.Skip("os does not make the call")
				}
				_, err := f.WriteAt(b, int64(at))
				if f.flags&(os.O_WRONLY|os.O_RDWR) == 0 {
					sameErrno(t, syscall.EBADF, err)
					return
				}
				require.NoError(t, err)
				f.write(at, b)
			},
			"read": func(t *rapid.T) {
				f := pick(t)
				b := make([]byte, rapid.SampledFrom([]int{1, 100, 4096, 10000}).Draw(t, "length"))
				n, err := f.Read(b)
				switch {
				case f.flags&os.O_WRONLY != 0:
					sameErrno(t, syscall.EBADF, err)
				case f.node.dir:
					sameErrno(t, syscall.EISDIR, err)
				case f.pos >= len(f.node.data):
					require.ErrorIs(t, err, io.EOF)
				default:
					require.NoError(t, err)
					want := f.node.data[f.pos:min(len(f.node.data), f.pos+len(b))]
					require.True(t, bytes.Equal(want, b[:n]), "%d bytes at %d", n, f.pos)
					f.pos += n
				}
			},
			"seek": func(t *rapid.T) {
				f, at := pick(t), offset.Draw(t, "to")
				if f.node.dir {
					t.Skip("a directory's positions are the system's own")
				}
				whence := rapid.IntRange(0, 2).Draw(t, "whence")
				want := at + []int{0, f.pos, len(f.node.data)}[whence]
				got, err := f.Seek(int64(at), whence)
				require.NoError(t, err)
				require.Equal(t, int64(want), got)
				f.pos = want
			},
			"truncate": func(t *rapid.T) {
				f, size := pick(t), offset.Draw(t, "size")
				err := f.Truncate(int64(size))
				if f.flags&(os.O_WRONLY|os.O_RDWR) == 0 {
					sameErrno(t, syscall.EINVAL, err)
					return
				}
				require.NoError(t, err)
				if size > len(f.node.data) {
					f.write(size, nil)
				} else {
					f.node.data = slices.Clone(f.node.data[:size])
				}
			},
			"remove": func(t *rapid.T) {
				p, from, rel := path(t, "name", name)
				dir, base, found, errno := from.walk(rel)
				switch {
				case errno != 0:
				case found == nil:
					errno = syscall.ENOENT
				case len(found.children) > 0:
					errno = syscall.ENOTEMPTY
				}
				sameErrno(t, errno, os.Remove(p))
				if errno == 0 {
					remove(found, dir, base)
				}
			},
			"rename": func(t *rapid.T) {
				p, from, rel := path(t, "old", name)
				p2, from2, rel2 := path(t, "new", name)
				dir, base, found, errno := from.walk(rel)
				dir2, base2, found2, errno2 := from2.walk(rel2)
				switch {
				case errno != 0:
				case errno2 != 0:
					errno = errno2
				case found == nil:
					errno = syscall.ENOENT
				case dir2.isIn(found):
					errno = syscall.EINVAL
				case found2 != nil && dir.isIn(found2):
					errno = syscall.ENOTEMPTY
				case found2 == nil || found == found2:
				case found.dir && !found2.dir:
					errno = syscall.ENOTDIR
				case !found.dir && found2.dir:
					errno = syscall.EISDIR
				case len(found2.children) > 0:
					errno = syscall.ENOTEMPTY
				}
				err := syscall.Rename(p, p2)
				sameErrno(t, errno, err)
				if errno != 0 || found == found2 {
					return
				}
				if found2 != nil {
					remove(found2, dir2, base2)
				}
				delete(dir.children, base)
				dir2.children[base2], found.parent = found, dir2
			},
			"chmod": func(t *rapid.T) {
				p, from, rel := path(t, "name", name)
				_, _, found, errno := from.walk(rel)
				if errno == 0 && found == nil {
					errno = syscall.ENOENT
				}
				mode := os.FileMode(rapid.SampledFrom([]int{0o755, 0o700, 0o711}).Draw(t, "mode"))
				sameErrno(t, errno, os.Chmod(p, mode))
				if errno == 0 {
					found.mode = mode
				}
			},
			"chdir": func(t *rapid.T) {
				p, from, rel := path(t, "name", rapid.OneOf(name, rapid.Just(".")))
				_, _, found, errno := from.walk(rel)
				switch {
				case errno != 0:
				case found == nil:
					errno = syscall.ENOENT
				case !found.dir:
					errno = syscall.ENOTDIR
				}
				sameErrno(t, errno, syscall.Chdir(p))
				if errno == 0 {
					cwd = found
				}
			},
			"": func(t *rapid.T) {
				for _, f := range open {
					if fi, err := f.Stat(); err != nil || !f.node.dir && fi.Size() != int64(len(f.node.data)) {
						t.Fatalf("%s: %v, %v; the model has %d bytes", f.Name(), fi, err, len(f.node.data))
					}
				}
				wd, err := syscall.Getwd()
				require.NoError(t, err)
				here, err := os.Stat(wd)
				require.NoError(t, err)
				dot, err := os.Stat(".")
				require.NoError(t, err)
				require.True(t, os.SameFile(here, dot))
				require.Equal(t, len(cwd.children), len(list(t, ".")))
			},
		})
		compare(t, base, root)
	})
}

func list(t *rapid.T, dir string) []string {
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// compare checks a directory and all below it.
func compare(t *rapid.T, path string, n *node) {
	fi, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, n.dir, fi.IsDir(), path)
	require.Equal(t, n.mode, fi.Mode().Perm(), path)
	if !n.dir {
		got, err := os.ReadFile(path)
		require.NoError(t, err)
		require.True(t, bytes.Equal(n.data, got), "%s: %d bytes, want %d", path, len(got), len(n.data))
		return
	}
	var want []string
	for name := range n.children {
		want = append(want, name)
	}
	slices.Sort(want)
	require.Equal(t, want, list(t, path), path)
	for name, child := range n.children {
		compare(t, path+"/"+name, child)
	}
}
