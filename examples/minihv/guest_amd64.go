package main

import "unsafe"

// guestBounds gives the addresses of the guests' code, in guest_amd64.s, of where
// exceptions go on, and of its end.
func guestBounds() (start, fault, end uintptr)

// guestCode returns the guests' code as bytes, and where in it exceptions go on.
func guestCode() (code []byte, fault uint64) {
	start, at, end := guestBounds()
	return unsafe.Slice(*(**byte)(unsafe.Pointer(&start)), end-start), uint64(at - start)
}

// nmiVector returns the address of nmiEntry, the host's handler of NMIs while a PC runs.
func nmiVector() uintptr

// loaderBounds gives the addresses of the loader's code, in loader_amd64.s, and of its end.
func loaderBounds() (start, end uintptr)

// loaderCode returns the loader's code as bytes.
func loaderCode() []byte {
	start, end := loaderBounds()
	return unsafe.Slice(*(**byte)(unsafe.Pointer(&start)), end-start)
}
