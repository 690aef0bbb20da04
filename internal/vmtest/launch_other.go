//go:build !amd64

package vmtest

var launchSecond uint64

func launch() (status uint8) { panic("vmtest: no VT-x on this architecture") }

func launchAddresses() (exited, restored uint64) {
	panic("vmtest: no VT-x on this architecture")
}
