//go:build !unix

package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
)

// runNative runs the program with this process's files and returns its exit
// status.
func runNative(path string, argv []string) (int, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return 0, err
	}
	cmd := exec.Command(abs, argv[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	err = cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode(), nil
	}
	return 0, err
}
