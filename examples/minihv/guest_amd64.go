package main

import "unsafe"

// guest is the guest's code, in guest_amd64.s; it is never called here.
func guest()
func guestEnd()
func guestBounds() (start, end uintptr)

// guestCode is the guest's code as bytes.
func guestCode() []byte {
	start, end := guestBounds()
	return unsafe.Slice(*(**byte)(unsafe.Pointer(&start)), end-start)
}
