//go:build !amd64

package main

func xsavec(*byte, *[32]byte) { panic("there is no XSAVEC on this architecture") }
