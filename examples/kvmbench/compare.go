package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"time"
)

type options struct {
	root, program, vtx string
	cpu, update, keep  string
	clock              int
	timeout            time.Duration
	verbose            bool
}

// compare measures both sides and prints the table.
func compare(args []string, out, progress io.Writer) error {
	var o options
	fs := flag.NewFlagSet("kvmbench compare", flag.ContinueOnError)
	fs.StringVar(&o.root, "root", "", "`DIR` with a kernel and its modules, as Debian's package has them")
	fs.StringVar(&o.program, "program", "", "`PATH` of kvmbench for Linux on x86-64, without cgo")
	fs.StringVar(&o.vtx, "vtx", "", "`PATH` of the vtx command")
	fs.StringVar(&o.cpu, "cpu", "corei7_skylake_x", "Bochs' CPU `MODEL`")
	fs.IntVar(&o.clock, "clock", 100_000_000, "for Linux, how many `INSTRUCTIONS` make a second: its timer ticks 250 times in one")
	fs.DurationVar(&o.timeout, "timeout", 15*time.Minute, "how long Linux may take")
	fs.BoolVar(&o.verbose, "v", false, "show the serial console")
	fs.StringVar(&o.keep, "keep", "", "leave disk, console and log in `DIR`")
	fs.StringVar(&o.update, "update", "", "put the table into `FILE` too, between the marks there")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if o.root == "" || o.program == "" || o.vtx == "" || fs.NArg() != 0 {
		return errors.New("compare needs -root DIR, -program PATH and -vtx PATH, and takes no other arguments; make bench-kvm gives them")
	}
	if o.update != "" { // better to fail now than after minutes
		doc, err := os.ReadFile(o.update)
		if err == nil {
			_, err = replace(doc, "")
		}
		if err != nil {
			return fmt.Errorf("%s: %w", o.update, err)
		}
	}
	library, err := o.library()
	if err != nil {
		return err
	}
	linux, columns, err := o.linux(progress)
	if err != nil {
		return err
	}
	title := fmt.Sprintf("instructions for an exit, Bochs' %s", o.cpu)
	t, err := table(title, []string{"KVM, " + linux, "the same, `mitigations=off`", "this library"}, append(columns, library))
	if err != nil {
		return err
	}
	fmt.Fprint(out, t)
	if o.update == "" {
		return nil
	}
	doc, err := os.ReadFile(o.update)
	if err == nil {
		doc, err = replace(doc, t)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", o.update, err)
	}
	return os.WriteFile(o.update, doc, 0o666)
}

// library runs this package's test in ring 0 and returns its figures.
func (o *options) library() ([]figure, error) {
	vtx, err := filepath.Abs(o.vtx)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command("go", "test", "-count=1", "-v", "-run=^TestLibrary$", "-exec", "'"+vtx+"' boot", "./examples/kvmbench")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64", "GOAMD64=v1", "VTXBOOTFLAGS=-cpu="+o.cpu)
	text, err := cmd.CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("the test in ring 0: %w\n%s", err, text)
	}
	figures := parse(string(text))
	if len(figures) != len(operations)-1 {
		return nil, fmt.Errorf("the test in ring 0 printed %d figures, want %d: choose a CPU model that has VMX\n%s", len(figures), len(operations)-1, text)
	}
	return figures, nil
}

// linux boots the kernel with and without its mitigations, and returns its release and both
// sets of figures. The two boots run side by side.
func (o *options) linux(progress io.Writer) (release string, columns [][]figure, err error) {
	kernel, err := find(o.root, "vmlinuz-*")
	if err != nil {
		return "", nil, err
	}
	initrd, err := newRamdisk(o.program, o.root)
	if err != nil {
		return "", nil, err
	}
	dir := o.keep
	if dir == "" {
		if dir, err = os.MkdirTemp("", "kvmbench-"); err != nil {
			return "", nil, err
		}
		defer os.RemoveAll(dir)
	}
	// CPUID has the frequency of a real processor. A kernel that went by it would set its timer
	// to times that have come before its clock says so, and take an interrupt many times over.
	base := fmt.Sprintf("console=ttyS0 tsc_early_khz=%d %%s -- init", o.clock/1000)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	boots := []struct {
		name, options, text string
		err                 error
	}{{name: "default"}, {name: "unmitigated", options: "mitigations=off"}}
	var all sync.WaitGroup
	for i := range boots {
		b := &boots[i]
		all.Go(func() {
			b.text, b.err = o.boot(ctx, filepath.Join(dir, b.name), kernel, fmt.Sprintf(base, b.options), initrd, func(line string) {
				if o.verbose || strings.HasPrefix(line, "kvmbench: ") {
					fmt.Fprintf(progress, "%-11s  %s\n", b.name, line)
				}
			})
			if b.err != nil {
				cancel() // the other is of no use then
			}
		})
	}
	all.Wait()
	for _, b := range boots {
		if b.err != nil {
			err = errors.Join(err, fmt.Errorf("%s: %w", b.name, b.err))
		}
		columns = append(columns, parse(b.text))
		if m := linuxLine.FindStringSubmatch(b.text); m != nil {
			release = m[1]
		}
	}
	return release, columns, err
}

var linuxLine = regexp.MustCompile(`kvmbench: (Linux \S+)`)

// boot boots a kernel on Bochs and returns what came out of the serial port until the
// machine was switched off. Each line is shown as it comes.
func (o *options) boot(ctx context.Context, dir, kernel, options string, initrd []byte, show func(line string)) (string, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	disk, err := newDisk(dir, kernel, options, initrd)
	if err != nil {
		return "", err
	}
	serial, err := writeBochs(dir, disk, o.cpu, o.clock)
	if err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, "bochs", "-q", "-f", "bochsrc", "-rc", "debugger")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "TZ=UTC")
	if err := cmd.Start(); err != nil {
		return "", err
	}
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait() // Bochs' status is 1 in any case
		close(ended)
	}()
	var text strings.Builder
	rest := ""
	t := tailer{path: serial}
	for running := true; running; {
		select {
		case <-ended:
			running = false
		case <-time.After(200 * time.Millisecond):
		}
		more, err := t.read()
		if err != nil {
			return "", err
		}
		more = strings.ReplaceAll(more, "\r", "")
		text.WriteString(more)
		lines := strings.Split(rest+more, "\n")
		rest = lines[len(lines)-1]
		for _, line := range lines[:len(lines)-1] {
			show(line)
		}
	}
	if !strings.Contains(text.String(), "kvmbench: done\n") {
		return "", fmt.Errorf("on Bochs, Linux did not come to its end (%w); the last lines of its console, and of Bochs' log:\n%s\n%s",
			errors.Join(ctx.Err(), errNotDone), lastLines(text.String()), lastLines(readOr(filepath.Join(dir, "log"))))
	}
	return text.String(), nil
}

var errNotDone = errors.New("without the line \"kvmbench: done\"")

func readOr(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

func lastLines(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return "  " + strings.Join(lines[max(0, len(lines)-10):], "\n  ")
}

// table writes the figures in Markdown: for each operation the median of the runs. It is an
// error if a column lacks one.
func table(title string, heads []string, columns [][]figure) (string, error) {
	var b strings.Builder
	fmt.Fprintf(&b, "| %s | %s |\n|---|%s\n", title, strings.Join(heads, " | "), strings.Repeat("---:|", len(heads)))
	for _, o := range operations {
		if len(o.code) == 0 {
			continue
		}
		fmt.Fprintf(&b, "| %s ", o.name)
		for i, figures := range columns {
			at := -1
			for n := range figures {
				if figures[n].name == o.name {
					at = n
				}
			}
			if at < 0 {
				return "", fmt.Errorf("there is no figure for %s of %s", o.name, heads[i])
			}
			f := figures[at]
			if f.min < 1 {
				return "", fmt.Errorf("%s of %s: %.2f instructions are less than the one that exits", o.name, heads[i], f.min)
			}
			fmt.Fprintf(&b, "| %.0f ", f.median)
		}
		b.WriteString("|\n")
	}
	return b.String(), nil
}

const (
	markBegin = "<!-- bench-kvm -->\n"
	markEnd   = "<!-- /bench-kvm -->\n"
)

// replace puts text between the marks in doc, in place of what is there.
func replace(doc []byte, text string) ([]byte, error) {
	before, rest, ok := bytes.Cut(doc, []byte(markBegin))
	_, after, ok2 := bytes.Cut(rest, []byte(markEnd))
	if !ok || !ok2 {
		return nil, errors.New("there is no line <!-- bench-kvm --> with a line <!-- /bench-kvm --> behind it; put both where the table belongs")
	}
	return []byte(string(before) + markBegin + text + markEnd + string(after)), nil
}
