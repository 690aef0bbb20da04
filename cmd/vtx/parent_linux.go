package main

import (
	"fmt"
	"os"
	"strings"
	"time"
)

// goGone returns a channel that is closed when the parent process, if that is
// the go command, is gone, and never otherwise. "go test -exec" ends a test that takes
// too long by killing what it started; when that is "go run", which passes no
// signal on, the program that runs below it hears nothing.
func goGone(done <-chan struct{}) <-chan struct{} {
	parent := os.Getppid()
	comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", parent))
	if err != nil || strings.TrimSpace(string(comm)) != "go" {
		return nil
	}
	gone := make(chan struct{})
	go func() {
		tick := time.NewTicker(500 * time.Millisecond)
		defer tick.Stop()
		for os.Getppid() == parent {
			select {
			case <-tick.C:
			case <-done:
				return
			}
		}
		close(gone)
	}()
	return gone
}
