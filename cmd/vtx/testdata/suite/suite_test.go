package suite

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/govtx/vtx/ring0"
)

func TestSign(t *testing.T) {
	if Sign(5) != 1 {
		t.Fatal("wrong sign")
	}
	t.Log("in ring 0:", ring0.Active())
}

func TestTempDir(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != "x" {
		t.Fatal(b, err)
	}
}

func TestFail(t *testing.T) {
	if os.Getenv("VTX_SUITE_FAIL") != "" {
		t.Fatal("failing as asked")
	}
}

func BenchmarkSign(b *testing.B) {
	for b.Loop() {
		Sign(5)
	}
}
