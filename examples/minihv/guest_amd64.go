package main

import "unsafe"

// guestBounds gives the addresses of the guest's code, in guest_amd64.s, and of
// its end.
func guestBounds() (start, end uintptr)

// guestCode is the guest's code as bytes.
func guestCode() []byte {
	start, end := guestBounds()
	return unsafe.Slice(*(**byte)(unsafe.Pointer(&start)), end-start)
}
