package main

import (
	"errors"
	"strings"
	"testing"
	"testing/iotest"
)

// sum feeds events to a summary and returns its counts and output.
func sum(events string, ring0 bool, err error) (counts, string) {
	var out strings.Builder
	s := newSummary(&out)
	s.ring0 = ring0
	_, _ = s.Write([]byte(events))
	s.finish(err)
	return s.counts, out.String()
}

func TestSummary(t *testing.T) {
	failed := errors.New("exit status 1")
	tests := []struct {
		name   string
		events string
		ring0  bool
		err    error
		want   counts
		says   []string
		quiet  []string // must not be printed
	}{
		{
			name: "passed",
			events: `{"Action":"start","Package":"a/p"}
{"Action":"run","Package":"a/p","Test":"TestA"}
{"Action":"output","Package":"a/p","Test":"TestA","Output":"chatter\n"}
{"Action":"pass","Package":"a/p","Test":"TestA","Elapsed":0.1}
{"Action":"output","Package":"a/p","Output":"PASS\n"}
{"Action":"pass","Package":"a/p","Elapsed":0.12}
`,
			want:  counts{passed: 1},
			says:  []string{"ok    a/p  1 passed, 0 failed, 0 skipped, 120ms\n"},
			quiet: []string{"chatter", "PASS"},
		},
		{
			name: "subtests count, their parents do not",
			events: `{"Action":"run","Package":"p","Test":"TestA"}
{"Action":"run","Package":"p","Test":"TestA/x"}
{"Action":"run","Package":"p","Test":"TestA/x/deep/name"}
{"Action":"run","Package":"p","Test":"TestA/y"}
{"Action":"pass","Package":"p","Test":"TestA"}
{"Action":"pass","Package":"p","Test":"TestA/x"}
{"Action":"pass","Package":"p","Test":"TestA/x/deep/name"}
{"Action":"skip","Package":"p","Test":"TestA/y"}
{"Action":"pass","Package":"p"}
`,
			want: counts{passed: 1, skipped: 1},
			says: []string{"skipped 1: no reason given\n"},
		},
		{
			name: "a failing subtest fails its parent without counting twice",
			events: `{"Action":"run","Package":"p","Test":"TestA"}
{"Action":"run","Package":"p","Test":"TestA/x"}
{"Action":"output","Package":"p","Test":"TestA/x","Output":"    p_test.go:3: got 1\n"}
{"Action":"run","Package":"p","Test":"TestB"}
{"Action":"output","Package":"p","Test":"TestB","Output":"all is well\n"}
{"Action":"pass","Package":"p","Test":"TestB"}
{"Action":"fail","Package":"p","Test":"TestA/x"}
{"Action":"fail","Package":"p","Test":"TestA"}
{"Action":"output","Package":"p","Output":"FAIL\n"}
{"Action":"fail","Package":"p"}
`,
			err:   failed,
			want:  counts{passed: 1, failed: 1},
			says:  []string{"p_test.go:3: got 1\n", "FAIL  p  1 passed, 1 failed"},
			quiet: []string{"all is well", "the command did"},
		},
		{
			name: "a parent that fails by itself counts",
			events: `{"Action":"run","Package":"p","Test":"TestA"}
{"Action":"run","Package":"p","Test":"TestA/x"}
{"Action":"pass","Package":"p","Test":"TestA/x"}
{"Action":"fail","Package":"p","Test":"TestA"}
{"Action":"fail","Package":"p"}
`,
			err:  failed,
			want: counts{passed: 1, failed: 1},
		},
		{
			name: "skipped for two reasons",
			events: `{"Action":"run","Package":"p","Test":"TestA"}
{"Action":"output","Package":"p","Test":"TestA","Output":"=== RUN   TestA\n"}
{"Action":"output","Package":"p","Test":"TestA","Output":"    p_test.go:3: needs ring 0\n"}
{"Action":"output","Package":"p","Test":"TestA","Output":"--- SKIP: TestA (0.00s)\n"}
{"Action":"skip","Package":"p","Test":"TestA"}
{"Action":"run","Package":"p","Test":"TestB"}
{"Action":"output","Package":"p","Test":"TestB","Output":"    p_test.go:9: no: objdump\n"}
{"Action":"skip","Package":"p","Test":"TestB"}
{"Action":"run","Package":"p","Test":"TestC"}
{"Action":"pass","Package":"p","Test":"TestC"}
{"Action":"pass","Package":"p"}
`,
			want:  counts{passed: 1, skipped: 2, vtx: 1},
			says:  []string{"1 passed, 0 failed, 2 skipped (1 need VT-x)", "skipped 1: no: objdump\n"},
			quiet: []string{"skipped 1: needs"},
		},
		{
			name: "in ring 0 nothing may want for it",
			events: `{"Action":"run","Package":"p","Test":"TestA"}
{"Action":"run","Package":"p","Test":"TestA/x"}
{"Action":"output","Package":"p","Test":"TestA/x","Output":"    p_test.go:3: needs ring 0\n"}
{"Action":"skip","Package":"p","Test":"TestA/x"}
{"Action":"pass","Package":"p","Test":"TestA"}
{"Action":"pass","Package":"p"}
`,
			ring0: true,
			want:  counts{failed: 1},
			says:  []string{"TestA/x: skipped, for it needs ring 0", "FAIL  p  0 passed, 1 failed"},
		},
		{
			name: "the program died under a test",
			events: `{"Action":"run","Package":"p","Test":"TestA"}
{"Action":"output","Package":"p","Test":"TestA","Output":"last words\n"}
{"Action":"output","Package":"p","Output":"exit status 125\n"}
{"Action":"fail","Package":"p"}
`,
			err:  failed,
			want: counts{failed: 1},
			says: []string{"last words\n", "(it did not end)", "exit status 125\n"},
		},
		{
			name: "the program died after a test",
			events: `{"Action":"run","Package":"p","Test":"TestA"}
{"Action":"output","Package":"p","Test":"TestA","Output":"chatter\n"}
{"Action":"output","Package":"p","Test":"TestA","Output":"    --- PASS: TestA (0.00s)\n"}
{"Action":"output","Package":"p","Test":"TestA","Output":"fatal error: all is lost\n"}
{"Action":"pass","Package":"p","Test":"TestA"}
{"Action":"fail","Package":"p"}
`,
			err:   failed,
			want:  counts{passed: 1, failed: 1},
			says:  []string{"fatal error: all is lost\n"},
			quiet: []string{"chatter", "--- PASS"},
		},
		{
			name: "the package fails and no test does",
			events: `{"Action":"run","Package":"p","Test":"TestA"}
{"Action":"pass","Package":"p","Test":"TestA"}
{"Action":"output","Package":"p","Output":"TestMain says no\n"}
{"Action":"fail","Package":"p"}
`,
			err:  failed,
			want: counts{passed: 1, failed: 1},
			says: []string{"TestMain says no\n"},
		},
		{
			name: "it does not build",
			events: `{"ImportPath":"p [p.test]","Action":"build-output","Output":"# p [p.test]\n"}
{"ImportPath":"p [p.test]","Action":"build-output","Output":"p.go:3:1: syntax error\n"}
{"ImportPath":"p [p.test]","Action":"build-fail"}
{"Action":"start","Package":"p"}
{"Action":"output","Package":"p","Output":"FAIL\tp [build failed]\n"}
{"Action":"fail","Package":"p","FailedBuild":"p [p.test]"}
`,
			err:  failed,
			want: counts{failed: 1},
			says: []string{"# p [p.test]\np.go:3:1: syntax error\n", "[build failed]"},
		},
		{
			name: "a warning of a build that went well",
			events: `{"ImportPath":"p","Action":"build-output","Output":"p.go:3: deprecated\n"}
{"Action":"run","Package":"p","Test":"TestA"}
{"Action":"pass","Package":"p","Test":"TestA"}
{"Action":"pass","Package":"p"}
`,
			want: counts{passed: 1},
			says: []string{"p.go:3: deprecated\n"},
		},
		{
			name:   "no test",
			events: `{"Action":"skip","Package":"p"}` + "\n",
			want:   counts{failed: 1},
			says:   []string{"no test ran"},
		},
		{
			name: "nothing but skips",
			events: `{"Action":"run","Package":"p","Test":"TestA"}
{"Action":"skip","Package":"p","Test":"TestA"}
{"Action":"pass","Package":"p"}
`,
			want: counts{failed: 1, skipped: 1},
			says: []string{"no test ran"},
		},
		{
			name: "go test fails though every test passed",
			events: `{"Action":"run","Package":"p","Test":"TestA"}
{"Action":"pass","Package":"p","Test":"TestA"}
{"Action":"pass","Package":"p"}
`,
			err:  failed,
			want: counts{passed: 1, failed: 1},
			says: []string{"the command did: exit status 1"},
		},
		{
			name: "cut off, in the middle of a line",
			events: `{"Action":"run","Package":"p","Test":"TestA"}
{"Action":"pass","Package":"p","Test":"TestA"}
{"Action":"run","Package":"p","Test":"TestB"}
{"Action":"outp`,
			err:  failed,
			want: counts{passed: 1, failed: 1},
			says: []string{`{"Action":"outp` + "\n", "p: the tests did not end\n"},
		},
		{
			name: "twice the same test, failing once",
			events: `{"Action":"run","Package":"p","Test":"TestA"}
{"Action":"fail","Package":"p","Test":"TestA"}
{"Action":"run","Package":"p","Test":"TestA"}
{"Action":"pass","Package":"p","Test":"TestA"}
{"Action":"fail","Package":"p"}
`,
			err:  failed,
			want: counts{failed: 1},
		},
		{
			name: "lines that are no events are printed",
			events: `go: warning: something
{"not":"an event"}

{"Action":"run","Package":"p","Test":"TestA"}
{"Action":"pass","Package":"p","Test":"TestA"}
{"Action":"pass","Package":"p"}
`,
			want: counts{passed: 1},
			says: []string{"go: warning: something\n", `{"not":"an event"}` + "\n\n"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, out := sum(tt.events, tt.ring0, tt.err)
			if got != tt.want {
				t.Errorf("counts %+v, want %+v", got, tt.want)
			}
			for _, s := range tt.says {
				if !strings.Contains(out, s) {
					t.Errorf("the output lacks %q", s)
				}
			}
			for _, s := range tt.quiet {
				if strings.Contains(out, s) {
					t.Errorf("the output has %q", s)
				}
			}
			if t.Failed() {
				t.Logf("output:\n%s", out)
			}
		})
	}
}

// However the stream is cut into pieces, the result is the same.
func TestSummaryPieces(t *testing.T) {
	const events = `{"Action":"run","Package":"p","Test":"TestA"}
noise
{"Action":"pass","Package":"p","Test":"TestA"}
{"Action":"pass","Package":"p"}
`
	want, wantOut := sum(events, false, nil)
	var out strings.Builder
	s := newSummary(&out)
	r := iotest.OneByteReader(strings.NewReader(events))
	b := make([]byte, 8)
	for {
		n, err := r.Read(b)
		if m, err := s.Write(b[:n]); m != n || err != nil {
			t.Fatalf("Write: %d, %v; want %d, nil", m, err, n)
		}
		if err != nil {
			break
		}
	}
	s.finish(nil)
	if s.counts != want || out.String() != wantOut {
		t.Errorf("in pieces: %+v and %q; at once: %+v and %q", s.counts, out.String(), want, wantOut)
	}
}

func FuzzSummary(f *testing.F) {
	f.Add(`{"Action":"run","Package":"p","Test":"TestA/"}` + "\n" + `{"Action":"fail","Package":"p"}`)
	f.Add(`{"Action":"build-fail","ImportPath":"p"}` + "\nx\n")
	f.Fuzz(func(t *testing.T, events string) {
		c, out := sum(events, false, nil)
		if c.passed+c.failed == 0 || c.vtx > c.skipped {
			t.Errorf("counts %+v", c)
		}
		if c.failed > 0 && !strings.Contains(out, "FAIL") {
			t.Errorf("%d failures, and the output has no FAIL:\n%s", c.failed, out)
		}
	})
}
