package main

import "unsafe"

// mark is the address of the boot mark. Calling it keeps the mark in the
// program.
func mark() unsafe.Pointer
