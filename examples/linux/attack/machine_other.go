//go:build !linux

package main

import (
	"errors"
	"os"
)

type console struct{}

func (console) Write(p []byte) (int, error) { return os.Stdout.Write(p) }

func drain() {}

func open() (machine, error) { return nil, errors.New("this program runs in a Linux guest") }
