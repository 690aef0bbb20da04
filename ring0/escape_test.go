package ring0_test

import (
	"bufio"
	"bytes"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/govtx/vtx/internal/require"
	"github.com/govtx/vtx/ring0"
)

// The kernel runs where there is no heap yet: the compiler must find that nothing
// in its files needs one.
func TestKernelDoesNotAllocate(t *testing.T) {
	if ring0.Active() {
		t.Skip("this test runs the compiler; it runs on the host")
	}
	cmd := exec.Command("go", "build", "-gcflags=-m", ".")
	cmd.Env = append(cmd.Environ(), "GOOS=linux", "GOARCH=amd64", "CGO_ENABLED=0")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Skipf("the package cannot be built here: %v\n%s", err, out)
	}
	kernel := regexp.MustCompile(`^\./(kernel|memory|syscall|signal|file|console|coverage)_linux_amd64\.go:`)
	lines := 0
	for s := bufio.NewScanner(bytes.NewReader(out)); s.Scan(); {
		if line := s.Text(); kernel.MatchString(line) {
			lines++
			if strings.Contains(line, "escapes to heap") || strings.Contains(line, "moved to heap") {
				t.Error(line)
			}
		}
	}
	require.Greater(t, lines, 100, "what the compiler says about the kernel's files")
}
