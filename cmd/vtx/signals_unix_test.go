//go:build unix

package main

import (
	"os"
	"syscall"
)

var signalsToTest = []struct {
	name   string
	signal os.Signal
	status int
}{
	{"SIGHUP", syscall.SIGHUP, 129},
	{"SIGINT", syscall.SIGINT, 130},
	{"SIGQUIT", syscall.SIGQUIT, 131},
	{"SIGTERM", syscall.SIGTERM, 143},
}
