// Testsum runs "go test -json", shows its progress a package a line, prints the
// output of what failed in full, and adds up how many tests passed, failed and
// were skipped.
//
//	testsum [-label TEXT] [-totals FILE] [-ring0] -- COMMAND [ARGS]
//	testsum -sum FILE
//
// In the first form COMMAND must write the events that go doc test2json
// describes. A summary line goes to standard output and, with -totals, to the
// end of FILE. In the second form testsum prints the summaries in FILE again,
// and behind them one closing line, "N passed, N failed, N skipped".
//
// A test that has subtests does not count itself: they do. A package that fails
// without a failing test (it does not build, or it dies) counts as one failure,
// and so does a run in which no test passed or failed. The exit status is 1 if
// anything failed and 2 if the command line makes no sense.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	status := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(status)
}

// run is main without the process: it returns the exit status.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	fs := flag.NewFlagSet("testsum", flag.ContinueOnError)
	fs.SetOutput(stderr)
	label := fs.String("label", "tests", "call the run `TEXT` in its summary line")
	totals := fs.String("totals", "", "append the counts to `FILE`")
	ring0 := fs.Bool("ring0", false, "the run is one in ring 0: a test that is skipped for want of it has failed")
	sum := fs.String("sum", "", "print what -totals collected in `FILE`, and the closing line")
	if err := fs.Parse(args); err != nil {
		return 2
	}
	if (*sum == "") == (fs.NArg() == 0) {
		fmt.Fprintln(stderr, "testsum: give either -sum FILE or a command to run, such as: testsum -- go test -json ./...")
		return 2
	}
	if *sum != "" {
		failed, err := closing(*sum, stdout)
		if err != nil {
			fmt.Fprintln(stderr, "testsum:", err)
			return 1
		}
		return exitStatus(failed)
	}

	s := newSummary(stdout)
	s.ring0 = *ring0
	err := command(ctx, fs.Args(), s, stderr)
	s.finish(err)
	line := summaryLine{*label, s.counts}
	fmt.Fprintln(stdout, line)
	if *totals != "" {
		if err := appendTotals(*totals, line); err != nil {
			fmt.Fprintln(stderr, "testsum:", err)
			return 1
		}
	}
	return exitStatus(s.failed)
}

func exitStatus(failed int) int {
	if failed > 0 {
		return 1
	}
	return 0
}

// command runs argv with its standard output going to w. When ctx ends it is
// asked to end too, and stopped if it does not.
func command(ctx context.Context, argv []string, w, stderr io.Writer) error {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Stdout, cmd.Stderr = w, stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 20 * time.Second // go test gives its tests five to print their goroutines
	err := cmd.Run()
	if err != nil && ctx.Err() != nil {
		return errors.New("interrupted")
	}
	return err
}
