package ring0_test

import (
	"unsafe"

	"github.com/govtx/vtx/internal/ring0test"
)

// needRing0 skips a test that does not run in ring 0.
var needRing0 = ring0test.Need

func stringData(s string) *byte { return unsafe.StringData(s) }
