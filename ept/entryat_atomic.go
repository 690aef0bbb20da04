//go:build race || !(amd64 || arm64)

package ept

import "unsafe"

// entryAt reads the entry for a guest-physical address from the table at bytes from base
// on, which are fewer than what is there.
func entryAt(base unsafe.Pointer, at, gpa uint64, shift uint) Entry {
	return load((*Entry)(unsafe.Add(base, at+gpa>>(shift-3)&(511<<3))))
}
