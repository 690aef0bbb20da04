// Gen writes the Go tables of package vmcs from its data files: the fields from
// fields.csv, the controls from controls.csv. It runs in the package's directory
// (go generate ./vmcs).
package main

import "github.com/govtx/vtx/internal/generate"

func main() {
	generate.Main(
		generate.File{Name: "fields_generated.go", Make: fields},
		generate.File{Name: "controls_generated.go", Make: controls},
	)
}
