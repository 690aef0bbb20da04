//go:build !amd64

package vmexit

// There are no guests on other architectures.

func nativeRandom(bool) func() (uint64, bool) { return nil }

func hostNMI() bool { return false }
