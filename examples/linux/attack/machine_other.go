//go:build !linux

package main

import "errors"

func open() (machine, error) { return nil, errors.New("this program runs in a Linux guest") }
