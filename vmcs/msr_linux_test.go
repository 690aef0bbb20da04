package vmcs

import (
	"encoding/binary"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/govtx/vtx/internal/require"
	"github.com/govtx/vtx/ring0"
)

// TestMSRDevice reads an ordinary file in place of the device: the driver too
// takes the offset as the register's number.
func TestMSRDevice(t *testing.T) {
	if ring0.Active() {
		t.Skip("there is no such device in ring 0, and no need for it")
	}
	name := filepath.Join(t.TempDir(), "msr")
	content := binary.LittleEndian.AppendUint64(make([]byte, 0x480), 0x00da_0400_0000_0010)
	require.NoError(t, os.WriteFile(name, content, 0o600))
	d, err := openMSRDevice(name)
	require.NoError(t, err)
	v, err := d.ReadMSR(0x480)
	require.NoError(t, err)
	require.Equal(t, uint64(0x00da_0400_0000_0010), v)
	_, err = d.ReadMSR(0x481)
	require.Error(t, err, "7 bytes are no register")
	_, err = d.ReadMSR(0xc000_0080)
	require.Error(t, err)
	require.NoError(t, d.Close())
	_, err = d.ReadMSR(0x480)
	require.Error(t, err)

	_, err = openMSRDevice(name + "x")
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.ErrorContains(t, err, "modprobe msr")
	if os.Geteuid() != 0 {
		require.NoError(t, os.Chmod(name, 0))
		_, err = openMSRDevice(name)
		require.ErrorIs(t, err, fs.ErrPermission)
		require.ErrorContains(t, err, "root")
	}
	_, err = OpenMSRDevice(-1)
	require.ErrorContains(t, err, "/dev/cpu/-1/msr")
}
