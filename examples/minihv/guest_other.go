//go:build !amd64

package main

// guestCode and loaderCode are the guests' code: there is none for this architecture, and main
// stops before it asks.
func guestCode() (code []byte, fault uint64) { return nil, 0 }

func loaderCode() []byte { return nil }

func nmiVector() uintptr { return 0 }
