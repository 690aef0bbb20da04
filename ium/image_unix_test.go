//go:build unix

package ium_test

import (
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/govtx/vtx/ium"
)

// A pipe that nobody writes to is not waited at.
func TestOpenFilePipe(t *testing.T) {
	name := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(name, 0o600); err != nil {
		t.Skip(err)
	}
	_, err := ium.OpenFile(name)
	require.ErrorContains(t, err, "not a regular file")
}
