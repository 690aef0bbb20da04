package bootimage

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"

	"github.com/govtx/vtx/internal/bootproto"
	"github.com/stretchr/testify/require"
)

// TestGenerated assembles the sources again and compares.
func TestGenerated(t *testing.T) {
	for _, tool := range []string{"sh", "as", "ld"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%s (Debian: binutils) is not installed", tool)
		}
	}
	dir := t.TempDir()
	out, err := exec.Command("sh", "generate.sh", dir).CombinedOutput()
	if regexp.MustCompile(`unrecognized option|unrecognised emulation`).Match(out) {
		t.Skipf("binutils here is not for x86: %s", out)
	}
	require.NoError(t, err, "%s", out)
	for _, name := range []string{"loader.bin", "loader.rel", "disk.bin", "testdata/fake.bin"} {
		want, err := os.ReadFile(filepath.Join(dir, name))
		require.NoError(t, err)
		got, err := os.ReadFile(name)
		require.NoError(t, err)
		require.Equal(t, want, got, "%s is not what its source says: run go generate", name)
	}
}

// TestConstants compares the numbers in the assembly sources with Go's.
func TestConstants(t *testing.T) {
	constants := map[string]uint64{
		"LOADER_BASE":      bootproto.LoaderBase,
		"PARAM_SIZE":       bootproto.ParamSize,
		"PARAM_FLAGS":      bootproto.ParamFlags,
		"PARAM_SEGMENTS":   bootproto.ParamSegments,
		"PARAM_SEGC":       bootproto.ParamSegc,
		"PARAM_MODULES":    bootproto.ParamModules,
		"PARAM_MODC":       bootproto.ParamModc,
		"SEGMENT_BYTES":    bootproto.SegmentBytes,
		"MODULE_BYTES":     bootproto.ModuleBytes,
		"LOADER_BYTES":     bootproto.LoaderBytes,
		"FLAG_FRAMED":      bootproto.FlagFramed,
		"FLAG_LENT":        bootproto.FlagLent,
		"FRAME_STDOUT":     bootproto.FrameStdout,
		"FRAME_EXIT":       bootproto.FrameExit,
		"FRAME_KERNEL":     bootproto.FrameKernel,
		"PORT_E9":          bootproto.PortE9,
		"PORT_SERIAL":      bootproto.PortSerial,
		"PORT_SHUTDOWN":    bootproto.PortShutdown,
		"PORT_QEMU_EXIT":   bootproto.PortQEMUExit,
		"MULTIBOOT_MAGIC":  bootproto.MultibootMagic,
		"MULTIBOOT2_MAGIC": bootproto.Multiboot2Magic,
		"LOADER_MEMORY":    loaderMemory,
		"DISK_TABLE":       diskTableBytes,
		"TABLE_HEAD":       diskTableHead,
		"ROW_BYTES":        diskRowBytes,
		"DISK_CODE":        uint64(len(diskCode)),
	}
	equ := regexp.MustCompile(`(?m)^\.equ (\w+),\s+(\w+)\s`)
	seen := map[string]bool{}
	for _, name := range []string{"loader.S", "disk.S", "testdata/fake.S"} {
		source, err := os.ReadFile(name)
		require.NoError(t, err)
		for _, m := range equ.FindAllSubmatch(source, -1) {
			want, known := constants[string(m[1])]
			if !known {
				continue
			}
			got, err := strconv.ParseUint(string(m[2]), 0, 64)
			require.NoError(t, err)
			require.Equal(t, want, got, "%s in %s", m[1], name)
			seen[string(m[1])] = true
		}
	}
	for name := range constants {
		require.True(t, seen[name], "no source has %s", name)
	}
	require.LessOrEqual(t, diskTableHead+(maxSegments+3)*diskRowBytes, diskTableBytes, "the disk's table is too small")
	require.LessOrEqual(t, 52+(maxSegments+3)*32, pageSize, "the ELF headers run into the loader")
}
