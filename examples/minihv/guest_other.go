//go:build !amd64

package main

// guestCode is the guest's code: there is none for this architecture, and main
// stops before it asks.
func guestCode() []byte { return nil }
