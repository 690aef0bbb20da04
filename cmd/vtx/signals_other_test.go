//go:build !unix

package main

import "os"

var signalsToTest []struct {
	name   string
	signal os.Signal
	status int
}
