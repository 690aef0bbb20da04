package machine

import "errors"

// What can go wrong beside the program itself. The errors of [Run] wrap these
// and say what to do.
var (
	ErrConfig      = errors.New("bad configuration")
	ErrNoEmulator  = errors.New("no emulator")
	ErrCPUModel    = errors.New("unknown CPU model")
	ErrMemory      = errors.New("too little memory")
	ErrTripleFault = errors.New("triple fault")
	ErrEmulator    = errors.New("the emulator failed")
	ErrNoExit      = errors.New("no exit status")
	ErrTimeout     = errors.New("timeout")
	ErrOutputLimit = errors.New("too much output")
	ErrOutput      = errors.New("cannot write the guest's output")
)
