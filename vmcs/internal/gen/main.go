// Gen writes the Go tables of package vmcs from its data files: the fields from
// fields.csv, the controls from controls.csv. It runs in the package's directory
// (go generate ./vmcs).
package main

import (
	"bytes"
	"fmt"
	"go/format"
	"os"
)

func main() {
	for _, g := range []struct {
		file string
		make func() ([]byte, error)
	}{
		{"fields_generated.go", fields},
		{"controls_generated.go", controls},
	} {
		if err := write(g.file, g.make); err != nil {
			fmt.Fprintf(os.Stderr, "gen: %s: %v\n", g.file, err)
			os.Exit(1)
		}
	}
}

func write(file string, source func() ([]byte, error)) error {
	text, err := source()
	if err != nil {
		return err
	}
	formatted, err := format.Source(text)
	if err != nil {
		return fmt.Errorf("the text made is not Go: %w", err)
	}
	if old, err := os.ReadFile(file); err == nil && bytes.Equal(old, formatted) {
		return nil
	}
	return os.WriteFile(file, formatted, 0o644)
}
