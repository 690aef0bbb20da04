package main

import (
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestParse(t *testing.T) {
	const printed = `goos: linux
goarch: amd64
pkg: example.org/vtx/asm
cpu: something
BenchmarkEnter         	    1000	       100.0 ns/exit	        98.00 ticks/exit	       0 B/op	       0 allocs/op
BenchmarkEnter/vector-2 	    1000	       140.5 ns/op	         3.000 extra
Benchmark names alone are no result
BenchmarkLog
PASS
ok  	example.org/vtx/asm	1.2s
pkg: example.org/vtx/ring0
BenchmarkChannel-16 	 2000 	 80 ns/op	 16 B/op	 2 allocs/op
ok  	example.org/vtx/ring0	1.2s
`
	got := parse(printed, inInstructions)
	want := []row{
		{"`asm` Enter", "98.00 instructions/exit"},
		{"`asm` Enter/vector", "140.5 instructions/op, 3.000 extra"},
		{"`ring0` Channel", "80 instructions/op, 2 allocs/op"},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}

	got = parse(printed, inTime)
	want = []row{
		{"`asm` Enter", "100.0 ns/exit, 98.00 ticks/exit, 0 allocs/op"},
		{"`asm` Enter/vector", "140.5 ns/op, 3.000 extra"},
		{"`ring0` Channel", "80 ns/op, 2 allocs/op"},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

func TestReplace(t *testing.T) {
	rows := table("go on x", []row{{"a", "1 s"}, {"b", "2 s"}})
	const marked = "| go on x | |\n|---|---:|\n| a | 1 s |\n| b | 2 s |\n"
	tests := []struct{ name, doc, want string }{
		{"empty", "# T\n\n<!-- bench -->\n<!-- /bench -->\nrest\n", "# T\n\n<!-- bench -->\n" + marked + "<!-- /bench -->\nrest\n"},
		{"old", "<!-- bench -->\n| old |\n<!-- /bench -->\n", "<!-- bench -->\n" + marked + "<!-- /bench -->\n"},
		{"none", "# T\n", ""},
		{"no end", "<!-- bench -->\n", ""},
		{"end first", "<!-- /bench -->\n<!-- bench -->\n", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := replace([]byte(tt.doc), rows)
			if string(got) != tt.want || (err != nil) != (tt.want == "") {
				t.Errorf("got %q, %v; want %q", got, err, tt.want)
			}
			if err != nil {
				return
			}
			if again, err := replace(got, rows); err != nil || string(again) != string(got) {
				t.Errorf("a second time: %q, %v", again, err)
			}
		})
	}
}

func TestMedian(t *testing.T) {
	for _, tt := range []struct {
		d    []time.Duration
		want time.Duration
	}{
		{[]time.Duration{7}, 7},
		{[]time.Duration{9, 1, 5}, 5},
		{[]time.Duration{9, 1, 5, 7}, 6},
	} {
		if got := median(tt.d); got != tt.want {
			t.Errorf("median(%v) = %v, want %v", tt.d, got, tt.want)
		}
	}
}

// What is wrong is said before anything is measured.
func TestRunRefuses(t *testing.T) {
	doc := filepath.Join(t.TempDir(), "doc.md")
	if err := os.WriteFile(doc, []byte("no marks\n"), 0o666); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		args []string
		says string
	}{
		{nil, "-vtx PATH"},
		{[]string{"-vtx", "x"}, "at least one package"},
		{[]string{"-vtx", "x", "-runs", "0", "./asm"}, "-runs of 1 or more"},
		{[]string{"-vtx", "x", "-update", doc, "./asm"}, "there is no line <!-- bench -->"},
		{[]string{"-vtx", "x", "-update", doc + ".none", "./asm"}, "doc.md.none"},
	} {
		if err := run(tt.args, io.Discard); err == nil || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%q: %v; want a word of %q", tt.args, err, tt.says)
		}
	}
}
