package bootimage

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/govtx/vtx/internal/bootproto"
	"github.com/stretchr/testify/require"
)

// goBuild runs the go command, which must write the file named by -o.
func goBuild(t *testing.T, env []string, args ...string) *os.File {
	t.Helper()
	if _, err := exec.LookPath("go"); err != nil {
		t.Skip("the go command is not installed")
	}
	out := filepath.Join(t.TempDir(), "program")
	cmd := exec.Command("go", append(args[:len(args):len(args)], "-o", out, "./testdata/goprog")...)
	cmd.Env = append(os.Environ(), "GOOS=linux", "GOARCH=amd64", "CGO_ENABLED=0", "GOFLAGS=", "GOAMD64=v1")
	cmd.Env = append(cmd.Env, env...)
	text, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", text)
	f, err := os.Open(out)
	require.NoError(t, err)
	t.Cleanup(func() { f.Close() })
	return f
}

func openFile(t *testing.T, f *os.File) (*Program, error) {
	t.Helper()
	info, err := f.Stat()
	require.NoError(t, err)
	return Open(f, info.Size())
}

// TestGoPrograms boots what the Go toolchain makes of an ordinary program.
func TestGoPrograms(t *testing.T) {
	for _, tt := range []struct {
		name string
		args []string
	}{
		{"build", []string{"build"}},
		{"test", []string{"test", "-c"}},
		{"stripped test", []string{"test", "-c", "-ldflags=-s -w"}},
		{"not optimized", []string{"build", "-gcflags=all=-N -l"}},
		{"cover", []string{"build", "-cover"}},
		{"test cover", []string{"test", "-c", "-cover", "-covermode=atomic"}},
		{"trimpath", []string{"build", "-trimpath", "-buildvcs=false", "-ldflags=-w"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p, err := openFile(t, goBuild(t, nil, tt.args...))
			require.NoError(t, err)
			c := testConfig()
			for _, b := range []boot{boots[0], boots[2]} {
				t.Run(b.name, func(t *testing.T) {
					t.Parallel()
					out := b.start(t, writeImage(t, p, c, b, nil), machine{memory: 128})
					require.Equal(t, []frame{
						{bootproto.FrameStdout, []byte("loaded as linked\n")},
						{bootproto.FrameExit, []byte{42, 0, 0, 0}},
					}, parseFrames(t, out), "the output ends %q", tail(out))
				})
			}
		})
	}
}

// TestGoProgramsRefused opens what the toolchain makes when it is told to make
// something that cannot boot.
func TestGoProgramsRefused(t *testing.T) {
	t.Run("pie", func(t *testing.T) {
		_, err := openFile(t, goBuild(t, nil, "build", "-buildmode=pie"))
		require.ErrorContains(t, err, "without -buildmode=pie")
	})
	t.Run("arm64", func(t *testing.T) {
		_, err := openFile(t, goBuild(t, []string{"GOARCH=arm64"}, "build"))
		require.ErrorContains(t, err, "built for EM_AARCH64 ELFCLASS64: build it with GOARCH=amd64")
	})
	t.Run("386", func(t *testing.T) {
		_, err := openFile(t, goBuild(t, []string{"GOARCH=386"}, "build"))
		require.ErrorContains(t, err, "built for EM_386 ELFCLASS32: build it with GOARCH=amd64")
	})
	t.Run("windows", func(t *testing.T) {
		_, err := openFile(t, goBuild(t, []string{"GOOS=windows"}, "build"))
		require.ErrorContains(t, err, "not an ELF file")
	})
	t.Run("freebsd", func(t *testing.T) {
		_, err := openFile(t, goBuild(t, []string{"GOOS=freebsd"}, "build"))
		require.ErrorContains(t, err, "built for ELFOSABI_FREEBSD: build it with GOOS=linux")
	})
	t.Run("truncated", func(t *testing.T) {
		data, err := io.ReadAll(goBuild(t, nil, "build"))
		require.NoError(t, err)
		_, err = Open(bytes.NewReader(data), int64(len(data)))
		require.NoError(t, err)
		for size := len(data) - 1; size >= 4; size = size * 9 / 10 {
			_, err := Open(bytes.NewReader(data[:size]), int64(size))
			require.ErrorContains(t, err, "the file is truncated", "%d of %d bytes", size, len(data))
		}
	})
	t.Run("no mark", func(t *testing.T) {
		// The program under test is the nearest there is that has the mark's
		// constants in it, but not the mark.
		name, err := os.Executable()
		require.NoError(t, err)
		b, err := os.ReadFile(name)
		require.NoError(t, err)
		if !bytes.HasPrefix(b, []byte("\x7fELF\x02\x01")) || b[18] != 62 {
			t.Skip("this test is not an ELF file for amd64")
		}
		_, err = Open(bytes.NewReader(b), int64(len(b)))
		require.ErrorIs(t, err, ErrNoRing0)
	})
}
