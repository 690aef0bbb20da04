package vmexit_test

import (
	"os"
	"testing"

	"github.com/govtx/vtx/internal/ring0test"
)

func TestMain(m *testing.M) { os.Exit(atEnd(ring0test.Main(m))) }
