// Package suite is tested in ring 0 by the tests of vtx.
package suite

// Sign is covered in part.
func Sign(n int) int {
	if n < 0 {
		return -1
	}
	return 1
}
