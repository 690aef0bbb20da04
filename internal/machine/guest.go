package machine

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

var (
	envPrefixes = []string{"GO", "VTX", "TEST", "CI"}
	envNames    = []string{"HOME", "PATH", "USER", "TMPDIR", "TZ", "LANG"}
)

// GuestEnv returns the part of an environment that means something to a
// program in ring 0: variables whose names begin with GO, VTX, TEST or CI, and
// HOME, PATH, USER, TMPDIR, TZ and LANG. The rest would only make
// runs differ from one shell to the next.
func GuestEnv(environ []string) []string {
	var out []string
	for _, kv := range environ {
		name, _, ok := strings.Cut(kv, "=")
		if ok && (slices.Contains(envNames, name) ||
			slices.ContainsFunc(envPrefixes, func(p string) bool { return strings.HasPrefix(name, p) })) {
			out = append(out, kv)
		}
	}
	return out
}

// maxDirs bounds the directories that a long argument list can name.
const maxDirs = 4096

// GuestDirs returns the directories that the guest's file system shall have, so
// that a program can create its files there: dir, the directory for temporary
// files, and every existing directory that an argument or a GO... variable
// names, or that holds the file it names ("/path", "-flag=/path", "NAME=/path");
// and all that these lie in. The list is sorted.
func GuestDirs(dir string, env, args []string) []string {
	set := map[string]bool{}
	add := func(path string) {
		if path == "" || len(path) > 4096 || strings.ContainsRune(path, 0) {
			return
		}
		if !filepath.IsAbs(path) {
			path = filepath.Join(dir, path)
		}
		path = filepath.Clean(path)
		for _, p := range []string{path, filepath.Dir(path)} {
			st, err := os.Stat(p)
			if err != nil || !st.IsDir() {
				continue
			}
			for !set[p] && len(set) < maxDirs {
				set[p] = true
				p = filepath.Dir(p)
			}
			return
		}
	}
	add(dir)
	temp := "/tmp"
	for _, kv := range env {
		name, value, _ := strings.Cut(kv, "=")
		switch {
		case name == "TMPDIR" && value != "":
			temp = value
		case strings.HasPrefix(name, "GO"):
			add(value)
		}
	}
	add(temp)
	for _, arg := range args {
		if _, value, ok := strings.Cut(arg, "="); ok {
			arg = value
		}
		add(arg)
	}
	return slices.Sorted(maps.Keys(set))
}
