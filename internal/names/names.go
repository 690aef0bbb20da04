// Package names compares names as people write them.
package names

import "strings"

// Squeeze returns a name in lower case, without what sets words apart: "Guest CR0",
// "guest_cr0" and "GuestCR0" are one.
func Squeeze(name string) string {
	return strings.Map(func(r rune) rune {
		switch r {
		case ' ', '-', '_', '/', '(', ')', ',':
			return -1
		}
		return r
	}, strings.ToLower(name))
}
