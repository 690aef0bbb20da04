//go:build unix

package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

// stopSignals returns a context that ends, with a *signalError, when a signal
// asks vtx to stop, and a function that gives the signals up again.
func stopSignals(parent context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(parent)
	got := make(chan os.Signal, 1)
	for _, sig := range []os.Signal{syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTERM} {
		if !signal.Ignored(sig) { // nohup, or a shell's background job
			signal.Notify(got, sig)
		}
	}
	// Writing to a closed pipe shall be an error, not the end of vtx before it
	// has cleared up.
	pipe := make(chan os.Signal, 1)
	signal.Notify(pipe, syscall.SIGPIPE)

	done := make(chan struct{})
	go func() {
		select {
		case sig := <-got:
			cancel(&signalError{sig.String(), int(sig.(syscall.Signal))})
		case <-goGone(done):
			cancel(&signalError{"the go command that started vtx is gone", int(syscall.SIGHUP)})
		case <-done:
		}
	}()
	return ctx, func() {
		close(done)
		signal.Stop(got)
		signal.Stop(pipe)
		cancel(nil)
	}
}
