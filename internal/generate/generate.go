// Package generate is for the programs that make a package's tables: they read CSV
// files, and write Go. Those programs run in the package's directory.
package generate

import (
	"bytes"
	"encoding/csv"
	"fmt"
	"go/format"
	"os"
	"strings"
)

// Table reads a CSV file and returns its rows but the first, which must be columns. A
// line that begins with # is a comment.
func Table(file, columns string) ([][]string, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	r := csv.NewReader(bytes.NewReader(data))
	r.Comment = '#'
	rows, err := r.ReadAll()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	if len(rows) == 0 {
		return nil, fmt.Errorf("%s has no row: the first must be %s", file, columns)
	}
	if got := strings.Join(rows[0], ","); got != columns {
		return nil, fmt.Errorf("%s has the columns %s, not %s", file, got, columns)
	}
	return rows[1:], nil
}

// A File is a Go file and what makes its text, which need not be formatted.
type File struct {
	Name string
	Make func() ([]byte, error)
}

// Main writes files as gofmt does, unless they hold that already, and ends the program
// with status 1 if one cannot be made.
func Main(files ...File) {
	for _, f := range files {
		if err := f.write(); err != nil {
			fmt.Fprintf(os.Stderr, "%s is not made: %v\n", f.Name, err)
			os.Exit(1)
		}
	}
}

func (f File) write() error {
	text, err := f.Make()
	if err != nil {
		return err
	}
	if text, err = format.Source(text); err != nil {
		return fmt.Errorf("the text made is not Go: %w", err)
	}
	if old, err := os.ReadFile(f.Name); err == nil && bytes.Equal(old, text) {
		return nil
	}
	return os.WriteFile(f.Name, text, 0o644)
}
