//go:build !race && (amd64 || arm64)

package ept

import "unsafe"

// entryAt reads the entry for a guest-physical address from the table at bytes from base
// on, which are fewer than what is there. Processors and other goroutines may change it: one
// load of 8 aligned bytes is never torn on these processors. That it is not one of
// package atomic lets the compiler put the sum into the instruction.
func entryAt(base unsafe.Pointer, at, gpa uint64, shift uint) Entry {
	return *(*Entry)(unsafe.Add(base, at+gpa>>(shift-3)&(511<<3)))
}
