package vmcs

import (
	"embed"
	"fmt"
	"slices"
	"strings"
)

//go:embed testdata/caps/*.txt
var modelFiles embed.FS

const (
	modelDir    = "testdata/caps/"
	modelSuffix = ".txt"
)

// Models returns the names of the processors whose values are recorded in this
// package, sorted. Those of Bochs' CPU models begin with "bochs_".
func Models() []string {
	files, err := modelFiles.ReadDir(strings.TrimSuffix(modelDir, "/"))
	if err != nil {
		panic(err) // the files are part of the program
	}
	var names []string
	for _, f := range files {
		names = append(names, strings.TrimSuffix(f.Name(), modelSuffix))
	}
	return names
}

// Model returns the capabilities of one of [Models].
func Model(name string) (*Capabilities, error) {
	r, err := RecordedModel(name)
	if err != nil {
		return nil, err
	}
	return r.Capabilities()
}

// RecordedModel returns the recorded values of one of [Models].
func RecordedModel(name string) (*Recorded, error) {
	text, err := ModelText(name)
	if err != nil {
		return nil, err
	}
	return ParseRecorded(text)
}

// ModelText returns the text of one of [Models]. Its first lines, which begin
// with #, tell which processor it is and where the values come from.
func ModelText(name string) (string, error) {
	names := Models()
	if !slices.Contains(names, name) {
		return "", fmt.Errorf("vmcs: there is no recorded model %q; there are %s", short(name), strings.Join(names, ", "))
	}
	text, err := modelFiles.ReadFile(modelDir + name + modelSuffix)
	return string(text), err
}
