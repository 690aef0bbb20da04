package main

import (
	"bytes"
	"fmt"
	"io/fs"
	"os/exec"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/govtx/vtx/internal/require"
)

func TestWrite(t *testing.T) {
	tree := fstest.MapFS{
		"init":    {Data: []byte("#!/bin/sh\n"), Mode: 0o700},
		"etc/x":   {Data: []byte("abcd"), Mode: 0o600, ModTime: time.Unix(12345, 0)},
		"bin/sh":  {Data: []byte("busybox"), Mode: fs.ModeSymlink | 0o777},
		"dev":     {Mode: fs.ModeDir | 0o700},
		"etc/yyy": {},
	}
	var out bytes.Buffer
	require.NoError(t, write(&out, tree))
	require.Zero(t, out.Len()%4)
	want := []string{
		"bin 40755 0", "bin/sh 120777 7 busybox", "dev 40755 0", "etc 40755 0", "etc/x 100644 4 abcd", "etc/yyy 100644 0",
		"init 100755 10 #!/bin/sh\n", "TRAILER!!! 0 0",
	}
	// Read it as the format is defined.
	b, inodes := out.Bytes(), map[uint64]bool{}
	for _, w := range want {
		require.Equal(t, "070701", string(b[:6]))
		var f [13]uint64
		for i := range f {
			_, err := fmt.Sscanf(string(b[6+8*i:][:8]), "%x", &f[i])
			require.NoError(t, err)
		}
		nameSize, size := f[11], f[6]
		name := string(b[110 : 110+nameSize-1])
		require.Equal(t, byte(0), b[110+nameSize-1])
		b = b[(110+nameSize+3)&^3:]
		got := fmt.Sprintf("%s %o %d", name, f[1], size)
		if size > 0 {
			got += " " + string(b[:size])
		}
		require.Equal(t, w, got)
		b = b[(size+3)&^3:]
		require.Zero(t, f[2]|f[3]|f[5]) // owner, group, time
		require.False(t, inodes[f[0]] && name != "TRAILER!!!", name)
		inodes[f[0]] = true
	}
	require.Empty(t, b)
}

func TestWriteRefusesOtherFiles(t *testing.T) {
	tree := fstest.MapFS{"pipe": {Mode: fs.ModeNamedPipe}}
	require.ErrorContains(t, write(new(bytes.Buffer), tree), "pipe")
}

func TestCPIOReadsIt(t *testing.T) {
	if _, err := exec.LookPath("cpio"); err != nil {
		t.Skip("needs cpio: apt-get install cpio")
	}
	var out bytes.Buffer
	require.NoError(t, write(&out, fstest.MapFS{"a/b": {Data: []byte("data")}}))
	cmd := exec.Command("cpio", "-t", "--quiet")
	cmd.Stdin = &out
	text, err := cmd.Output()
	require.NoError(t, err)
	require.Equal(t, "a a/b", strings.Join(strings.Fields(string(text)), " "))
}
