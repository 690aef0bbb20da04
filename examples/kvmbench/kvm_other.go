//go:build !linux || !amd64

package main

import (
	"fmt"
	"io"
	"runtime"
)

func measureKVM(io.Writer) error {
	return fmt.Errorf("KVM on x86-64 is Linux's, and this is %s/%s: build with GOOS=linux GOARCH=amd64", runtime.GOOS, runtime.GOARCH)
}

func beInit() error { return measureKVM(nil) }
