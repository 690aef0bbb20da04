package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/arch/x86/x86asm"

	"github.com/govtx/vtx/internal/require"
	"github.com/govtx/vtx/internal/ring0test"
)

func TestMain(m *testing.M) { os.Exit(ring0test.Main(m)) }

// TestProgram decodes each guest: its loop has three loads, the operation, and the jump back
// to the first of the loads; the one that does nothing differs by the operation alone.
func TestProgram(t *testing.T) {
	for _, o := range operations {
		p := o.program()
		var names []string
		at := map[int]int{} // of an offset, the instruction's number
		for pos := 0; pos < len(p); {
			at[pos] = len(names)
			if len(o.code) > 0 && len(names) == 8 && bytes.HasPrefix(p[pos:], o.code) {
				names = append(names, "operation")
				pos += len(o.code)
				continue
			}
			inst, err := x86asm.Decode(p[pos:], 64)
			require.NoError(t, err, "%s, at %d", o.name, pos)
			pos += inst.Len
			names = append(names, inst.Op.String())
			if inst.Op == x86asm.JNE {
				require.Equal(t, 5, at[pos+int(inst.Args[0].(x86asm.Rel))], "%s: the jump's target", o.name)
			}
		}
		body := "MOV MOV MOV operation DEC JNE"
		if len(o.code) == 0 {
			body = "MOV MOV MOV DEC JNE"
		}
		require.Equal(t, "MOV RDTSC SHL OR MOV "+body+" MOV RDTSC SHL OR SUB MOV MOV OUT", strings.Join(names, " "), o.name)
	}
}

// TestMeasure gives known ticks.
func TestMeasure(t *testing.T) {
	calls := map[string]int{}
	figures, err := measure(func(o *operation) (uint64, error) {
		calls[o.name]++
		n := uint64(calls[o.name])
		switch {
		case len(o.code) == 0:
			return 500 + n%2, nil
		case n == 1:
			return 1e9, nil // does not count
		case n == 2:
			return 500 + 9000*iterations, nil
		case n == 3:
			return 500 + 10*iterations, nil
		}
		return 500 + 20*iterations, nil
	})
	require.NoError(t, err)
	require.Equal(t, len(operations)-1, len(figures))
	for i, f := range figures {
		require.Equal(t, figure{operations[i+1].name, 10, 20, 9000}, f)
		require.Equal(t, runs+1, calls[f.name])
	}
	bad := errors.New("bad")
	_, err = measure(func(o *operation) (uint64, error) { return 0, bad })
	require.ErrorIs(t, err, bad)
}

func TestCheck(t *testing.T) {
	for _, o := range operations {
		if o.mask == 0 { // CPUID
			require.NoError(t, o.check(uint64([]uint32{22, 33}[o.eax]), 22, 33), o.name)
			require.ErrorContains(t, o.check(44, 22, 33), o.name+": RAX is 0x2c in the guest, want")
			continue
		}
		require.NoError(t, o.check(o.rax, 22, 33), o.name)
		require.ErrorContains(t, o.check(o.rax^o.mask, 22, 33), o.name)
	}
}

func TestParse(t *testing.T) {
	want := []figure{{"IN, from: a device (really)", 1.25, 2, 3000.5}, {"x", -0.5, 0, 1}}
	text := "[    1.5] kernel\r\n    file_test.go:1: " + want[0].String() + "\r\nkvmbench: Linux 6.1\r\n" + want[1].String() + "\r\n"
	require.Equal(t, want, parse(text))
	require.Empty(t, parse("kvmbench: done"))
}

func TestTable(t *testing.T) {
	var a, b []figure
	for i, o := range operations[1:] {
		a = append(a, figure{o.name, 1000, 1001.4, 2000 + float64(i)})
		b = append([]figure{{o.name, 100, 100, 100}}, b...) // in any order
	}
	text, err := table("title", []string{"A", "B"}, [][]figure{a, b})
	require.NoError(t, err)
	require.Equal(t, 2+len(a), strings.Count(text, "\n"))
	require.Contains(t, text, "| title | A | B |\n|---|---:|---:|\n| CPUID, leaf 0 | 1001 | 100 |\n")

	_, err = table("title", []string{"A", "B"}, [][]figure{a, b[1:]})
	require.ErrorContains(t, err, "there is no figure for "+b[0].name+" of B")
	b[0].min = 0
	_, err = table("title", []string{"A", "B"}, [][]figure{a, b})
	require.ErrorContains(t, err, "less than the one that exits")
}

func TestReplace(t *testing.T) {
	doc, err := replace([]byte("a\n"+markBegin+"old\n"+markEnd+"b\n"), "new\n")
	require.NoError(t, err)
	require.Equal(t, "a\n"+markBegin+"new\n"+markEnd+"b\n", string(doc))
	for _, doc := range []string{"", markBegin, markEnd + markBegin} {
		_, err := replace([]byte(doc), "new\n")
		require.ErrorContains(t, err, "there is no line <!-- bench-kvm -->")
	}
}

// TestDocument keeps the document one that -update can write.
func TestDocument(t *testing.T) {
	doc, err := os.ReadFile("../../docs/performance.md")
	if errors.Is(err, os.ErrNotExist) {
		t.Skip("needs the source tree")
	}
	require.NoError(t, err)
	_, err = replace(doc, "")
	require.NoError(t, err)
}

// packages makes a directory as Debian's package of a kernel fills it.
func packages(t *testing.T) string {
	root := t.TempDir()
	for i, name := range append([]string{"boot/vmlinuz-1"}, modules...) {
		path := filepath.Join(root, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, bytes.Repeat([]byte{'a'}, i), 0o600))
	}
	return root
}

func TestRamdisk(t *testing.T) {
	root := packages(t)
	program := filepath.Join(root, "program")
	require.NoError(t, os.WriteFile(program, []byte("a program"), 0o600))
	archive, err := newRamdisk(program, root)
	require.NoError(t, err)

	// An entry is 6 and 13 times 8 digits, name and content, both padded to 4 bytes.
	type entry struct {
		name, content string
		mode, device  uint64
	}
	var entries []entry
	for rest := archive; len(rest) > 0; {
		require.Equal(t, "070701", string(rest[:6]))
		field := func(n int) uint64 {
			v, err := strconv.ParseUint(string(rest[6+8*n:][:8]), 16, 32)
			require.NoError(t, err)
			return v
		}
		size, nameSize := int(field(6)), int(field(11))
		from := (110 + nameSize + 3) / 4 * 4
		entries = append(entries, entry{string(rest[110 : 110+nameSize]), string(rest[from : from+size]), field(1), field(9)<<8 | field(10)})
		rest = rest[(from+size+3)/4*4:]
	}
	require.Equal(t, []entry{
		{"init\x00", "a program", 0o100755, 0}, {"dev\x00", "", 0o040755, 0}, {"dev/console\x00", "", 0o020600, 5<<8 | 1},
		{modules[0] + "\x00", "a", 0o100644, 0}, {modules[1] + "\x00", "aa", 0o100644, 0}, {modules[2] + "\x00", "aaa", 0o100644, 0},
		{"TRAILER!!!\x00", "", 0, 0},
	}, entries)

	if _, err := exec.LookPath("cpio"); err == nil {
		cmd := exec.Command("cpio", "-t", "--quiet")
		cmd.Stdin = bytes.NewReader(archive)
		out, err := cmd.Output()
		require.NoError(t, err)
		require.Equal(t, "init dev dev/console "+strings.Join(modules, " "), strings.Join(strings.Fields(string(out)), " "))
	}

	require.NoError(t, os.Remove(filepath.Join(root, modules[1])))
	_, err = newRamdisk(program, root)
	require.ErrorContains(t, err, "has 0 files kvm.ko, want one")
}

func TestFind(t *testing.T) {
	root := packages(t)
	path, err := find(root, "vmlinuz-*")
	require.NoError(t, err)
	require.Equal(t, filepath.Join(root, "boot", "vmlinuz-1"), path)
	require.NoError(t, os.WriteFile(filepath.Join(root, "vmlinuz-2"), nil, 0o600))
	_, err = find(root, "vmlinuz-*")
	require.ErrorContains(t, err, "has 2 files vmlinuz-*")
	_, err = find(filepath.Join(root, "none"), "vmlinuz-*")
	require.ErrorIs(t, err, os.ErrNotExist)
}

func TestTailer(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	tail := tailer{path: path}
	_, err := tail.read()
	require.ErrorIs(t, err, os.ErrNotExist)
	whole := ""
	for i := range 3 {
		more := fmt.Sprintf("line %d\n", i)
		whole += more
		require.NoError(t, os.WriteFile(path, []byte(whole), 0o600))
		got, err := tail.read()
		require.NoError(t, err)
		require.Equal(t, more, got)
	}
}

func TestCompareRefuses(t *testing.T) {
	doc := filepath.Join(t.TempDir(), "doc")
	require.NoError(t, os.WriteFile(doc, []byte("no marks"), 0o600))
	for _, c := range []struct {
		args []string
		want string
	}{
		{nil, "needs -root DIR"},
		{[]string{"-root=a", "-program=b", "-vtx=c", "more"}, "takes no other arguments"},
		{[]string{"-root=a", "-program=b", "-vtx=c", "-update=" + doc}, "put both where the table belongs"},
	} {
		require.ErrorContains(t, compare(c.args, io.Discard, io.Discard), c.want)
	}
}
