package bootimage

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/govtx/vtx/internal/bootproto"
	"github.com/stretchr/testify/require"
)

// TestConfigRefused changes a good configuration in one place at a time.
func TestConfigRefused(t *testing.T) {
	p := open(t, fakeProgram(0x2345, 0).lay())
	data := bytes.NewReader(nil)
	for _, tt := range []struct {
		name   string
		change func(c *Config)
		want   string
	}{
		{"no arguments", func(c *Config) { c.Args = nil }, "no arguments"},
		{"NUL in argument", func(c *Config) { c.Args[1] = "a\x00b" }, `argument "a\x00b" holds a NUL byte`},
		{"NUL in environment", func(c *Config) { c.Env[1] = "\x00" }, `environment variable "\x00" holds a NUL byte`},
		{"NUL in directory", func(c *Config) { c.Dirs[0] = "/\x00" }, `directory "/\x00" holds a NUL byte`},
		{"NUL in working directory", func(c *Config) { c.Dir = "\x00" }, `the working directory "\x00" holds a NUL byte`},
		{"NUL in path", func(c *Config) { c.Exe = "\x00" }, `the program's path "\x00" holds a NUL byte`},
		{"NUL in module", func(c *Config) { c.Modules[3].Name = "\x00" }, `module "\x00" holds a NUL byte`},
		{"module without a name", func(c *Config) { c.Modules[3].Name = "" }, "module 3 has no name"},
		{"modules of one name", func(c *Config) { c.Modules[3].Name = "module1" }, `two modules are named "module1"`},
		{"negative module", func(c *Config) { c.Modules[3].Size = -1 }, `module "module3" has the size -1`},
		{"huge module", func(c *Config) { c.Modules[3].Size = 1<<63 - 1 }, "must end below 4 GiB"},
		{"modules past 4 GiB", func(c *Config) { c.Modules[0].Size = 3 << 30; c.Modules[3].Size = 1 << 30 }, `module "module3" of 1073741824 bytes would lie at`},
		{"long argument", func(c *Config) { c.Args = append(c.Args, strings.Repeat("y", 3<<20)) }, `from argument "yyy`},
		{"large environment", func(c *Config) {
			for i := range 100_000 {
				c.Env = append(c.Env, fmt.Sprintf("VARIABLE%d=some value or other", i))
			}
		}, `need more than the 3014656 bytes that the parameter block may have, from environment variable "VARIABLE`},
		{"many modules", func(c *Config) {
			for i := range 100_000 {
				c.Modules = append(c.Modules, Module{fmt.Sprint("m", i), data, 0})
			}
		}, "100005 modules: their table alone"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := testConfig()
			tt.change(c)
			require.ErrorContains(t, p.WriteELF(io.Discard, c), tt.want)
			require.ErrorContains(t, p.WriteDisk(io.Discard, c), tt.want)
			require.NotZero(t, p.MemoryNeeded(c))
		})
	}
}

// TestConfigFull fills the parameter block to its last byte.
func TestConfigFull(t *testing.T) {
	p := open(t, fakeProgram(0x2345, 0).lay())
	c := testConfig()
	c.Args = append(c.Args, "")
	params, err := p.params(c)
	require.NoError(t, err)
	room := bootproto.LoaderEnd - bootproto.ParamsBase - len(params)
	c.Args[len(c.Args)-1] = strings.Repeat("y", room)
	params, err = p.params(c)
	require.NoError(t, err)
	require.Len(t, params, bootproto.LoaderEnd-bootproto.ParamsBase)
	require.NoError(t, p.WriteELF(io.Discard, c))
	c.Args[len(c.Args)-1] += "y"
	_, err = p.params(c)
	require.ErrorContains(t, err, "shorten them")
}
