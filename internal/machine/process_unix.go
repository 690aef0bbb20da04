//go:build unix && !linux

package machine

import (
	"os"
	"syscall"
)

// ownGroup puts the child in a process group of its own, so that it can be
// killed whole and the terminal's signals do not reach it.
func ownGroup() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

// killGroup kills the child and everything it started.
func killGroup(p *os.Process) { _ = syscall.Kill(-p.Pid, syscall.SIGKILL) }
