//go:build unix

package main

import (
	"os"
	"syscall"
)

// runNative becomes the program, so that signals, files and the exit status
// need nobody between. It returns only if that fails.
func runNative(path string, argv []string) (int, error) {
	return 0, &os.PathError{Op: "exec", Path: path, Err: syscall.Exec(path, argv, os.Environ())}
}
