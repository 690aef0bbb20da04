package ring0_test

import (
	"unsafe"

	"github.com/govtx/vtx/internal/ring0test"
)

var needRing0 = ring0test.Need

func stringData(s string) *byte { return unsafe.StringData(s) }
