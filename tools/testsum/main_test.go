package main

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestGo runs the go command on a module with a test of every ending.
func TestGo(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"go.mod": "module example.org/m\n\ngo 1.26\n",
		"good/good_test.go": `package good

import "testing"

func TestPass(t *testing.T) { t.Log("quiet") }
func TestSubs(t *testing.T) {
	t.Run("a", func(t *testing.T) { t.Parallel() })
	t.Run("b", func(t *testing.T) { t.Skip("needs ring 0: boot it") })
	t.Run("c", func(t *testing.T) { t.Skip("not today") })
}
func FuzzSeeds(f *testing.F) {
	f.Add(1)
	f.Add(2)
	f.Fuzz(func(*testing.T, int) {})
}
func Example() {
	// Output:
}
`,
		"bad/bad_test.go": `package bad

import "testing"

func TestFail(t *testing.T) {
	t.Run("sub", func(t *testing.T) { t.Error("one is not two") })
	t.Run("fine", func(t *testing.T) {})
}
`,
		"panics/panics_test.go": `package panics

import "testing"

func TestPass(t *testing.T) {}
func TestPanic(t *testing.T) { panic("on purpose") }
`,
		"dies/dies_test.go": `package dies

import (
	"os"
	"testing"
)

func TestExit(t *testing.T) { os.Exit(7) }
`,
		"later/later_test.go": `package later

import (
	"os"
	"testing"
)

func TestMain(m *testing.M) {
	m.Run()
	println("too late")
	os.Exit(9)
}
func TestPass(t *testing.T) { t.Log("quiet") }
`,
		"broken/broken_test.go": `package broken

import "testing"

func TestBroken(t *testing.T) { undefined() }
`,
		"vetted/vetted_test.go": `package vetted

import "testing"

func TestPrintf(t *testing.T) { t.Logf("%d", "text") }
`,
		"none/none.go": "package none\n",
	} {
		path := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	t.Chdir(dir)
	t.Setenv("GOFLAGS", "")
	t.Setenv("GOWORK", "off")
	tests := []struct {
		pkg    string
		status int
		line   string
		says   []string
	}{
		{"good", 0, "5 passed, 0 failed, 2 skipped (1 need VT-x)", []string{"skipped 1: not today"}},
		{"bad", 1, "1 passed, 1 failed, 0 skipped", []string{"one is not two", "--- FAIL: TestFail/sub"}},
		{"panics", 1, "1 passed, 1 failed, 0 skipped", []string{"panic: on purpose", "panics_test.go:6"}},
		{"dies", 1, "0 passed, 1 failed, 0 skipped", []string{"=== RUN   TestExit", "(it did not end)"}},
		{"later", 1, "1 passed, 1 failed, 0 skipped", []string{"too late\n"}},
		{"broken", 1, "0 passed, 1 failed, 0 skipped", []string{"undefined: undefined", "[build failed]"}},
		{"vetted", 1, "0 passed, 1 failed, 0 skipped", []string{"Logf format %d has arg"}},
		{"none", 1, "0 passed, 1 failed, 0 skipped", []string{"no test ran"}},
		{"absent", 1, "0 passed, 1 failed, 0 skipped", []string{"absent"}},
	}
	totals := filepath.Join(dir, "totals")
	for _, tt := range tests {
		t.Run(tt.pkg, func(t *testing.T) {
			var out strings.Builder
			args := []string{"-label", "the " + tt.pkg, "-totals", totals, "--", "go", "test", "-count=1", "-json", "./" + tt.pkg}
			if status := run(context.Background(), args, &out, &out); status != tt.status {
				t.Errorf("status %d, want %d", status, tt.status)
			}
			if want := "\nthe " + tt.pkg + ": " + tt.line + "\n"; !strings.HasSuffix(out.String(), want) {
				t.Errorf("the last line is not %q", want)
			}
			for _, s := range tt.says {
				if !strings.Contains(out.String(), s) {
					t.Errorf("the output lacks %q", s)
				}
			}
			if strings.Contains(out.String(), "quiet") {
				t.Error("a test that passed is heard")
			}
			if t.Failed() {
				t.Logf("output:\n%s", out.String())
			}
		})
	}
	var out strings.Builder
	if status := run(context.Background(), []string{"-sum", totals}, &out, &out); status != 1 {
		t.Errorf("-sum: status %d, want 1", status)
	}
	lines := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
	if len(lines) != len(tests)+1 || lines[len(tests)] != "8 passed, 8 failed, 2 skipped" {
		t.Errorf("-sum:\n%s", out.String())
	}
	for i, tt := range tests {
		if i < len(lines) && lines[i] != "the "+tt.pkg+": "+tt.line {
			t.Errorf("-sum, line %d: %q", i+1, lines[i])
		}
	}
}

func TestClosing(t *testing.T) {
	tests := []struct {
		name   string
		totals string
		status int
		want   string
	}{
		{"two", "3 0 2 1 host\n4 0 1 0 ring 0, tigerlake\n", 0,
			"host: 3 passed, 0 failed, 2 skipped (1 need VT-x)\nring 0, tigerlake: 4 passed, 0 failed, 1 skipped\n7 passed, 0 failed, 3 skipped\n"},
		{"one failed", "3 1 0 0 host\n", 1, "host: 3 passed, 1 failed, 0 skipped\n3 passed, 1 failed, 0 skipped\n"},
		{"empty", "", 1, "FAIL  no test ran\n0 passed, 1 failed, 0 skipped\n"},
		{"no numbers", "host\n", 1, `:1: "host" is not four counts and a label`},
		{"too few", "3 1 0\n", 1, "is not four counts and a label"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "totals")
			if err := os.WriteFile(path, []byte(tt.totals), 0o666); err != nil {
				t.Fatal(err)
			}
			var out, errs strings.Builder
			if status := run(context.Background(), []string{"-sum", path}, &out, &errs); status != tt.status {
				t.Errorf("status %d, want %d", status, tt.status)
			}
			if got := out.String() + errs.String(); got != tt.want && !strings.Contains(errs.String(), tt.want) {
				t.Errorf("it printed\n%s\nwant\n%s", got, tt.want)
			}
		})
	}
}

func TestUsage(t *testing.T) {
	for _, args := range [][]string{
		{},
		{"-sum", "totals", "--", "go", "test"},
		{"-unknown"},
	} {
		var out, errs strings.Builder
		if status := run(context.Background(), args, &out, &errs); status != 2 || errs.Len() == 0 {
			t.Errorf("%q: status %d, errors %q; want status 2 and an explanation", args, status, errs.String())
		}
	}
	var out, errs strings.Builder
	if status := run(context.Background(), []string{"-sum", filepath.Join(t.TempDir(), "none")}, &out, &errs); status != 1 {
		t.Errorf("-sum of a file that is not there: status %d, want 1", status)
	}
	if status := run(context.Background(), []string{"--", "no-such-command"}, &out, &errs); status != 1 || !strings.Contains(out.String(), "no-such-command") {
		t.Errorf("a command that is not there: status %d, output %q", status, out.String())
	}
}

func TestInterrupt(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	var out strings.Builder
	if status := run(ctx, []string{"--", "go", "version"}, &out, &out); status != 1 || !strings.Contains(out.String(), "interrupted") {
		t.Errorf("status %d, output %q; want 1 and a word of the interruption", status, out.String())
	}
}
