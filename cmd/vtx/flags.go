package main

import (
	"flag"
	"fmt"
	"math"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/govtx/vtx/internal/machine"
)

// parseEnv reads flags from an environment variable: words between blanks,
// without quoting.
func parseEnv(fs *flag.FlagSet, s string) error {
	if err := fs.Parse(strings.Fields(s)); err != nil {
		return err
	}
	if fs.NArg() > 0 {
		return fmt.Errorf("%q is not a flag; only flags may stand here", fs.Arg(0))
	}
	return nil
}

// A sizeFlag is a number of bytes: a number of units, or one with a suffix K,
// M, G or T (powers of 1024; "MiB" and "MB" mean the same).
type sizeFlag[T uint64 | int64] struct {
	p    *T
	unit uint64 // what a bare number counts
}

func (f sizeFlag[T]) String() string {
	if f.p == nil || *f.p == 0 {
		return ""
	}
	n, i := uint64(*f.p), 0
	for n%1024 == 0 && i < len(sizeSuffixes)-1 {
		n, i = n/1024, i+1
	}
	return strconv.FormatUint(n, 10) + strings.TrimSpace(sizeSuffixes[i:i+1])
}

const sizeSuffixes = " KMGT"

func (f sizeFlag[T]) Set(s string) error {
	unit := f.unit
	number := strings.TrimRight(s, "iBKMGTkmgtb")
	if suffix := s[len(number):]; suffix != "" {
		i := strings.Index(sizeSuffixes, strings.ToUpper(suffix[:1]))
		rest := suffix[1:]
		if i < 0 || rest != "" && rest != "iB" && rest != "B" {
			return fmt.Errorf("the suffix %q is none of K, M, G, T", suffix)
		}
		unit = 1 << (10 * i)
	}
	n, err := strconv.ParseUint(number, 10, 64)
	if err != nil {
		return fmt.Errorf("want a size such as 1024, 512M or 2G")
	}
	if n == 0 || n > math.MaxInt64/unit {
		return fmt.Errorf("the size must be more than 0 and less than 8 million T")
	}
	*f.p = T(n * unit)
	return nil
}

// A modulesFlag collects FILE and NAME=FILE.
type modulesFlag struct{ p *[]machine.Module }

func (modulesFlag) String() string { return "" }

func (f modulesFlag) Set(s string) error {
	name, file, ok := strings.Cut(s, "=")
	if !ok {
		file = s
		name = filepath.Base(file)
	}
	if name == "" || file == "" {
		return fmt.Errorf("want FILE or NAME=FILE")
	}
	for _, m := range *f.p {
		if m.Name == name {
			return fmt.Errorf("two modules are named %q; give one another name with NAME=FILE", name)
		}
	}
	*f.p = append(*f.p, machine.Module{Name: name, File: file})
	return nil
}

// An envFlag collects NAME=VALUE.
type envFlag struct{ p *[]string }

func (envFlag) String() string { return "" }

func (f envFlag) Set(s string) error {
	if name, _, ok := strings.Cut(s, "="); !ok || name == "" {
		return fmt.Errorf("want NAME=VALUE")
	}
	*f.p = append(*f.p, s)
	return nil
}

// mergeEnv returns env with the variables in extra set, the last of each name.
// A name stands once in the result: programs differ in which of two they take.
func mergeEnv(env, extra []string) []string {
	var names []string
	values := map[string]string{}
	for _, kv := range append(env[:len(env):len(env)], extra...) {
		name, _, _ := strings.Cut(kv, "=")
		if _, ok := values[name]; !ok {
			names = append(names, name)
		}
		values[name] = kv
	}
	out := make([]string, len(names))
	for i, name := range names {
		out[i] = values[name]
	}
	return out
}
