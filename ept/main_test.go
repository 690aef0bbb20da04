package ept_test

import (
	"os"
	"testing"

	"github.com/govtx/vtx/internal/ring0test"
)

func TestMain(m *testing.M) { os.Exit(ring0test.Main(m)) }
