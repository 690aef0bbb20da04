package bootimage

import (
	"encoding/binary"
	"fmt"
	"io"
	"strings"

	"github.com/govtx/vtx/internal/bootproto"
)

// A Module is a file that is handed to the program in memory.
type Module struct {
	Name string // not empty, and unlike the others'
	Data io.ReaderAt
	Size int64 // bytes of Data
}

// A Config is what the program finds when it boots.
type Config struct {
	Args    []string // argv; argv[0] at least
	Env     []string // NAME=VALUE each
	Dir     string   // working directory
	Exe     string   // the program's absolute path
	Dirs    []string // directories that exist
	Modules []Module
	Flags   uint64   // bootproto.Flag...
	TSC     uint64   // TSC ticks a second; 0: the program measures
	Epoch   uint64   // Unix time at boot in seconds; 0: the clock chip's
	Seed    [16]byte // for the random numbers
}

func roundUp[T uint64 | int64](n, to T) T { return (n + to - 1) / to * to }

// moduleAddrs are the modules' physical addresses, and the one behind them.
func (p *Program) moduleAddrs(c *Config) (addrs []uint64, end uint64, err error) {
	end = p.end()
	if len(c.Modules) > 0 {
		end = roundUp(end, largePage)
	}
	seen := make(map[string]bool)
	for i, m := range c.Modules {
		switch {
		case m.Name == "":
			return nil, 0, fmt.Errorf("module %d has no name: give it one", i)
		case seen[m.Name]:
			return nil, 0, fmt.Errorf("two modules are named %q: name them apart", m.Name)
		case m.Size < 0:
			return nil, 0, fmt.Errorf("module %q has the size %d", m.Name, m.Size)
		}
		seen[m.Name] = true
		addrs = append(addrs, end)
		if end >= addressLimit || uint64(m.Size) >= addressLimit-end-pageSize {
			return nil, 0, fmt.Errorf("module %q of %d bytes would lie at %#x: the program and its modules must end below 4 GiB; leave some out", m.Name, m.Size, end)
		}
		end = roundUp(end+uint64(m.Size), pageSize)
	}
	return addrs, end, nil
}

// params builds the parameter block.
func (p *Program) params(c *Config) ([]byte, error) {
	addrs, _, err := p.moduleAddrs(c)
	if err != nil {
		return nil, err
	}
	if len(c.Args) == 0 {
		return nil, fmt.Errorf("no arguments: the first one, the program's name, must be there")
	}
	segments := uint64(bootproto.ParamHeader)
	modules := segments + uint64(len(p.segments))*bootproto.SegmentBytes
	stringsAt := modules + uint64(len(c.Modules))*bootproto.ModuleBytes

	// Strings are counted before they are copied, so that a huge environment
	// is refused rather than built.
	const room = bootproto.LoaderEnd - bootproto.ParamsBase
	size := stringsAt
	var text []byte
	var bad error
	add := func(what string, s string) (offset uint64) {
		if bad == nil && strings.IndexByte(s, 0) >= 0 {
			bad = fmt.Errorf("%s %.80q holds a NUL byte, which would end it: take it out", what, s)
		}
		offset = size
		size += uint64(len(s)) + 1
		if bad == nil && size > room {
			bad = fmt.Errorf("arguments, environment and tables need more than the %d bytes that the parameter block may have, from %s %.80q on: shorten them", room, what, s)
		}
		if bad == nil {
			text = append(append(text, s...), 0)
		}
		return offset
	}
	if size > room {
		return nil, fmt.Errorf("%d modules: their table alone is larger than the %d bytes that the parameter block may have; put them in one archive", len(c.Modules), room)
	}
	add("the working directory", c.Dir)
	add("the program's path", c.Exe)
	for _, list := range []struct {
		what    string
		strings []string
	}{{"argument", c.Args}, {"environment variable", c.Env}, {"directory", c.Dirs}} {
		for _, s := range list.strings {
			add(list.what, s)
		}
	}
	names := make([]uint64, len(c.Modules))
	for i, m := range c.Modules {
		names[i] = add("module", m.Name)
	}
	if bad != nil {
		return nil, bad
	}

	b := make([]byte, stringsAt, size)
	put := func(at uint64, v uint64) { binary.LittleEndian.PutUint64(b[at:], v) }
	put(bootproto.ParamMagic, bootproto.ParamsMagic)
	put(bootproto.ParamSize, size)
	put(bootproto.ParamFlags, c.Flags)
	put(bootproto.ParamTSC, c.TSC)
	put(bootproto.ParamEpoch, c.Epoch)
	copy(b[bootproto.ParamSeed:], c.Seed[:])
	put(bootproto.ParamEntry, p.elfEntry)
	put(bootproto.ParamArgc, uint64(len(c.Args)))
	put(bootproto.ParamEnvc, uint64(len(c.Env)))
	put(bootproto.ParamDirc, uint64(len(c.Dirs)))
	put(bootproto.ParamStrings, stringsAt)
	put(bootproto.ParamSegments, segments)
	put(bootproto.ParamSegc, uint64(len(p.segments)))
	put(bootproto.ParamModules, modules)
	put(bootproto.ParamModc, uint64(len(c.Modules)))
	for i, s := range p.segments {
		row := segments + uint64(i)*bootproto.SegmentBytes
		put(row+bootproto.SegmentAddr, s.addr)
		put(row+bootproto.SegmentFileSize, s.fileSize)
		put(row+bootproto.SegmentMemSize, s.memSize)
		put(row+bootproto.SegmentFlags, uint64(s.flags))
	}
	for i, m := range c.Modules {
		row := modules + uint64(i)*bootproto.ModuleBytes
		put(row+bootproto.ModuleAddr, addrs[i])
		put(row+bootproto.ModuleSize, uint64(m.Size))
		put(row+bootproto.ModuleName, names[i])
	}
	return append(b, text...), nil
}
