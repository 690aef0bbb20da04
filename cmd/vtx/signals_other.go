//go:build !unix

package main

import (
	"context"
	"os"
	"os/signal"
)

// stopSignals returns a context that ends, with a *signalError, when a signal
// asks vtx to stop, and a function that gives the signals up again.
func stopSignals(parent context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(parent)
	got := make(chan os.Signal, 1)
	signal.Notify(got, os.Interrupt)
	done := make(chan struct{})
	go func() {
		select {
		case sig := <-got:
			cancel(&signalError{sig.String(), 2})
		case <-done:
		}
	}()
	return ctx, func() {
		close(done)
		signal.Stop(got)
		cancel(nil)
	}
}
