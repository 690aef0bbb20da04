// Bench measures vtx: the benchmarks of packages on Bochs, in instructions, those
// of others as processes, and the wall time of booting and of testing in ring 0.
//
//	bench -vtx PATH [flags] PACKAGE...
//
// It must run in the repository's root. It prints the benchmarks as they come,
// and then a table of everything in Markdown; -update puts that table into a file
// as well, in place of what stands between the lines
//
//	<!-- bench -->
//	<!-- /bench -->
package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// With this many instructions a second of guest time, one nanosecond is one
// instruction, and ns/op reads as instructions.
const clock = 1_000_000_000

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		if !errors.Is(err, flag.ErrHelp) {
			fmt.Fprintln(os.Stderr, "bench:", err)
		}
		os.Exit(1)
	}
}

type options struct {
	vtx, cpu, benchtime, update string
	host                        string
	hello, suite                string
	runs                        int
}

func run(args []string, out io.Writer) error {
	var o options
	fs := flag.NewFlagSet("bench", flag.ContinueOnError)
	fs.StringVar(&o.vtx, "vtx", "", "`PATH` of the vtx command")
	fs.StringVar(&o.cpu, "cpu", "corei7_skylake_x", "CPU `MODEL`")
	fs.StringVar(&o.benchtime, "benchtime", "50ms", "run each benchmark for `DURATION` at 1 ns an instruction, or N times (as Nx)")
	fs.StringVar(&o.hello, "hello", "./cmd/vtx/testdata/hello", "`PACKAGE` whose program prints one line: its boot is timed")
	fs.StringVar(&o.suite, "suite", "./cmd/vtx/testdata/suite", "`PACKAGE` whose test is timed")
	fs.StringVar(&o.host, "host", "", "`PACKAGES`, with spaces between, whose benchmarks are also run as a process")
	fs.IntVar(&o.runs, "runs", 5, "time each `N` times and take the median")
	fs.StringVar(&o.update, "update", "", "put the table into `FILE`")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if o.vtx == "" || fs.NArg() == 0 || o.runs < 1 {
		return errors.New("want -vtx PATH, at least one package, and -runs of 1 or more")
	}
	var err error
	if o.vtx, err = filepath.Abs(o.vtx); err != nil {
		return err
	}

	var doc []byte
	if o.update != "" { // better to fail now than after minutes
		if doc, err = os.ReadFile(o.update); err != nil {
			return err
		}
		if doc, err = replace(doc, ""); err != nil {
			return fmt.Errorf("%s: %w", o.update, err)
		}
	}
	rows, err := o.benchmarks(fs.Args(), out)
	if err != nil {
		return err
	}
	times, err := o.wallTimes()
	if err != nil {
		return err
	}
	version, err := o.command("go", "env", "GOVERSION").Output()
	if err != nil {
		return fmt.Errorf("go env GOVERSION: %w", err)
	}
	t := table(fmt.Sprintf("%s on Bochs' %s", bytes.TrimSpace(version), o.cpu), append(rows, times...))
	if packages := strings.Fields(o.host); len(packages) > 0 {
		rows, err := o.hostBenchmarks(packages, out)
		if err != nil {
			return err
		}
		t += "\n" + table(fmt.Sprintf("%s as a process", bytes.TrimSpace(version)), rows)
	}
	fmt.Fprint(out, "\n", t)
	if o.update == "" {
		return nil
	}
	if doc, err = replace(doc, t); err != nil {
		return fmt.Errorf("%s: %w", o.update, err)
	}
	return os.WriteFile(o.update, doc, 0o666)
}

// command prepares a command that builds for and runs in ring 0.
func (o *options) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64", "GOAMD64=v1", "VTXBOOTFLAGS=-cpu="+o.cpu)
	cmd.Stderr = os.Stderr
	return cmd
}

// exec is the value of go test's flag -exec.
func (o *options) exec() string { return "'" + o.vtx + "' boot" }

// benchmarks runs the packages' benchmarks, copies what they print, and returns
// a row for each.
func (o *options) benchmarks(packages []string, out io.Writer) ([]row, error) {
	cmd := o.command("go", append([]string{"test", "-count=1", "-run=^$", "-bench=.", "-benchtime=" + o.benchtime, "-exec", o.exec()}, packages...)...)
	cmd.Env = append(cmd.Env, fmt.Sprintf("VTXBOOTFLAGS=-cpu=%s -clock=%d", o.cpu, clock))
	var printed bytes.Buffer
	cmd.Stdout = io.MultiWriter(out, &printed)
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("go test -bench: %w", err)
	}
	return rowsOf(packages, printed.String(), inInstructions)
}

// hostBenchmarks runs the packages' benchmarks as ordinary processes.
func (o *options) hostBenchmarks(packages []string, out io.Writer) ([]row, error) {
	cmd := exec.Command("go", append([]string{"test", "-count=1", "-run=^$", "-bench=.", "-benchmem"}, packages...)...)
	var printed bytes.Buffer
	cmd.Stdout, cmd.Stderr = io.MultiWriter(out, &printed), os.Stderr
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("go test -bench: %w", err)
	}
	return rowsOf(packages, printed.String(), inTime)
}

func rowsOf(packages []string, printed string, figures func([]string) string) ([]row, error) {
	rows := parse(printed, figures)
	if len(rows) == 0 {
		return nil, fmt.Errorf("there is no benchmark in %s", strings.Join(packages, " "))
	}
	return rows, nil
}

// wallTimes measures what a user waits for.
func (o *options) wallTimes() ([]row, error) {
	dir, err := os.MkdirTemp("", "bench")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	program := filepath.Join(dir, "hello")
	if err := o.command("go", "build", "-o", program, o.hello).Run(); err != nil {
		return nil, fmt.Errorf("go build %s: %w", o.hello, err)
	}
	var rows []row
	for _, m := range []struct {
		what string
		argv []string
	}{
		{"`vtx boot` of a program that prints a line", []string{o.vtx, "boot", program}},
		{"`go test -exec 'vtx boot'` of a small package", []string{"go", "test", "-count=1", "-exec", o.exec(), o.suite}},
	} {
		var times []time.Duration
		for i := range o.runs + 1 {
			cmd := o.command(m.argv[0], m.argv[1:]...)
			var printed bytes.Buffer
			cmd.Stdout = &printed
			begin := time.Now()
			if err := cmd.Run(); err != nil {
				return nil, fmt.Errorf("%s: %w\n%s", strings.Join(m.argv, " "), err, &printed)
			}
			if i > 0 { // the first fills the caches
				times = append(times, time.Since(begin))
			}
		}
		rows = append(rows, row{m.what, fmt.Sprintf("%.2f s", median(times).Seconds())})
	}
	return rows, nil
}

func median(d []time.Duration) time.Duration {
	d = slices.Sorted(slices.Values(d))
	n := len(d)
	return (d[(n-1)/2] + d[n/2]) / 2
}
