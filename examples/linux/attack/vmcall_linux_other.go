//go:build linux && !amd64

package main

func vmcall() { panic("VMCALL is an instruction of x86") }
