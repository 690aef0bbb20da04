package vtl_test

import (
	"flag"
	"os"
	"testing"

	"github.com/govtx/vtx/internal/ring0test"
	"github.com/govtx/vtx/ring0"
)

func TestMain(m *testing.M) {
	if ring0.Active() { // what processes check a hundred times: on Bochs that takes minutes
		if err := flag.Set("rapid.checks", "15"); err != nil {
			panic(err)
		}
	}
	os.Exit(ring0test.Main(m))
}
