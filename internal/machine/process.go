package machine

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"runtime"
	"sync/atomic"
	"time"
)

// Tests shorten these.
var (
	// exitGrace is how long an emulator that closed its output has to end
	// by itself, so that its exit status is known.
	exitGrace = 2 * time.Second
	// idleGrace is how long a pipe may stay silent after the emulator's end.
	// Only a process that left its group can still hold it open.
	idleGrace = time.Second
	// blockGrace is how long our own standard output may block after a
	// timeout or a signal.
	blockGrace = 5 * time.Second
)

// A command is an emulator's command line.
type command struct {
	path string
	args []string
	env  []string // nil: this process's own
}

// An ending says how an emulator run ended.
type ending struct {
	out  error // what output.run returned; errStuck if it did not
	wait error // what exec.Cmd.Wait returned
	ctx  error // why the run was stopped from outside, nil if it was not
}

var errStuck = errors.New("the reader of the guest's output is blocked")

// run starts the emulator in directory dir, feeds its standard output to o and
// its standard error to log, and returns when the guest has sent its exit frame,
// the emulator has ended, or ctx is done. No process of it is left then.
func (c *command) run(ctx context.Context, dir string, o *output, log io.Writer) (ending, error) {
	outR, outW, err := os.Pipe()
	if err != nil {
		return ending{}, err
	}
	defer outR.Close()
	defer outW.Close()
	logR, logW, err := os.Pipe()
	if err != nil {
		return ending{}, err
	}
	defer logR.Close()
	defer logW.Close()

	cmd := exec.Command(c.path, c.args...) // standard input is the null device
	cmd.Dir = dir
	cmd.Env = c.env
	cmd.Stdout, cmd.Stderr = outW, logW
	cmd.SysProcAttr = ownGroup()

	started := make(chan error, 1)
	exited := make(chan error, 1)
	go func() {
		// The parent-death signal watches the thread that forked, which must
		// therefore live as long as the child.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err != nil {
			return
		}
		err = cmd.Wait()
		killGroup(cmd.Process) // what the emulator itself left behind
		exited <- err
	}()
	if err := <-started; err != nil {
		return ending{}, err
	}
	outW.Close()
	logW.Close()

	outDone := make(chan error, 1)
	logDone := make(chan struct{})
	outPipe, logPipe := &pipe{f: outR}, &pipe{f: logR}
	go func() { outDone <- o.run(outPipe) }()
	go func() {
		defer close(logDone)
		_, _ = io.Copy(log, logPipe)
	}()

	var e ending
	var haveOut, haveWait bool
	var grace <-chan time.Time
	for stop := false; !stop; {
		select {
		case <-ctx.Done():
			e.ctx = context.Cause(ctx)
			stop = true
		case e.out = <-outDone:
			haveOut = true
			if e.out != io.EOF {
				stop = true
				break
			}
			outDone, grace = nil, time.After(exitGrace)
		case e.wait = <-exited:
			haveWait, stop = true, true
		case <-grace:
			stop = true
		}
	}
	if !haveWait {
		killGroup(cmd.Process)
		e.wait = <-exited
	}
	// All that the dead process wrote is still in the pipes: read it to the end.
	outPipe.drain()
	logPipe.drain()
	if !haveOut {
		select {
		case e.out = <-outDone:
		case <-ctx.Done():
			e.ctx = context.Cause(ctx)
			select {
			case e.out = <-outDone:
			case <-time.After(blockGrace):
				e.out = errStuck
			}
		}
	}
	<-logDone
	return e, nil
}

// A pipe is read without a limit while the emulator runs, and until it has
// been silent for idleGrace after that.
type pipe struct {
	f     *os.File
	ended atomic.Bool
}

func (p *pipe) drain() {
	p.ended.Store(true)
	_ = p.f.SetReadDeadline(time.Now().Add(idleGrace))
}

func (p *pipe) Read(b []byte) (int, error) {
	if p.ended.Load() {
		_ = p.f.SetReadDeadline(time.Now().Add(idleGrace))
	}
	n, err := p.f.Read(b)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = io.EOF
	}
	return n, err
}
