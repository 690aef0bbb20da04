package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/govtx/vtx/ium"
)

// maxTrustletFiles is the most files that "vtx trustlet" looks at in one run.
const maxTrustletFiles = 4 << 20

var trustletCommand = &command{
	name:  "trustlet",
	args:  "FILE|DIR...",
	short: "tell whether PE images are trustlets, and what their policies allow",
	long: `Of each FILE, vtx prints what kind of image it is; where its policy is, what the policy
says and what is wrong with it; what its signatures claim; which known trustlet has its
id and how its policy differs from what is published of that one; what VTL1 would let
others do with it (attach a debugger, write a crash dump, trace); and, of a VBS enclave,
its configuration. A line above that says whether it is a trustlet, and why.

Signatures are compared with the image and with the signer's key. Chains of certificates
are not verified: what an image claims may be a lie.

A DIR is walked, without following links in it. Of what is found there, PE images are reported:
a line for those that are no trustlets and no enclaves, more for the rest, or for all
with -v. -v also names the files that are no PE images. A summary follows.

With -json, vtx prints an object for each image, on a line of its own; the summary goes to
standard error. Members: file, error, rule, offset; verdict, trustlet, size, machine,
bits, kind, problems; policy (grade, section, export, rva, offset, version, id, entries,
reasons); signatures; known; answers; enclave. What does not apply is left out. Offsets
are those in the file; -1 is for what is not there.

Exit status: 0 if all could be read; 1 if a FILE is no PE image, or something could not
be read or written.
`,
	setup: func(fs *flag.FlagSet) func([]string) (int, error) {
		r := &trustletRun{out: os.Stdout, errOut: os.Stderr, every: 2 * time.Second}
		fs.BoolVar(&r.json, "json", false, "print JSON: an object for each image")
		fs.BoolVar(&r.verbose, "v", false, "report all images in a DIR in full, and name the files that are no PE images")
		return func(args []string) (int, error) {
			if len(args) == 0 {
				return 0, errors.New("no FILE or DIR named")
			}
			return r.run(args), nil
		}
	},
}

// A trustletRun is one run of "vtx trustlet".
type trustletRun struct {
	json, verbose bool
	out, errOut   io.Writer
	every         time.Duration // between signs of life

	status, files, images, enclaves, broken int
	grades                                  map[ium.Grade]int
	walked                                  bool
	last                                    time.Time
	unwritten                               error // why a report could not be written
}

func (r *trustletRun) run(args []string) int {
	r.grades = map[ium.Grade]int{}
	r.last = time.Now()
	for _, name := range args {
		info, err := os.Stat(name)
		switch {
		case r.unwritten != nil:
		case err != nil:
			r.complain(name, err)
		case info.IsDir():
			r.walk(name)
		case !info.Mode().IsRegular():
			r.complain(name, fmt.Errorf("%s: neither a file nor a directory", name))
		default:
			r.files++
			r.file(name, true)
		}
	}
	if r.walked || len(args) > 1 {
		r.summary()
	}
	if r.unwritten != nil {
		r.status = 1
		fmt.Fprintf(r.errOut, "vtx trustlet: %v\n", r.unwritten)
	}
	return r.status
}

// write writes to r.out, and nothing more once that has failed.
func (r *trustletRun) write(b []byte) {
	if r.unwritten == nil {
		_, r.unwritten = r.out.Write(b)
	}
}

// complain tells of what could not be read.
func (r *trustletRun) complain(name string, err error) {
	r.status = 1
	if r.json {
		r.print(&trustletReport{File: name, Error: err.Error()})
		return
	}
	fmt.Fprintf(r.errOut, "vtx trustlet: %s\n", oneLine(err.Error()))
}

func (r *trustletRun) walk(dir string) {
	r.walked = true
	root := dir
	if info, err := os.Lstat(dir); err == nil && info.Mode()&fs.ModeSymlink != 0 {
		root += string(filepath.Separator) // the directory, not the link to it
	}
	err := filepath.WalkDir(root, func(name string, entry fs.DirEntry, err error) error {
		switch {
		case r.unwritten != nil:
			return fs.SkipAll
		case err != nil:
			r.complain(name, err)
			if entry != nil && entry.IsDir() {
				return fs.SkipDir
			}
			return nil
		case !entry.Type().IsRegular():
			return nil
		}
		r.files++
		if r.files > maxTrustletFiles {
			return fmt.Errorf("more than %d files: name smaller directories", maxTrustletFiles)
		}
		if now := time.Now(); now.Sub(r.last) >= r.every {
			r.last = now
			fmt.Fprintf(r.errOut, "vtx trustlet: %d files so far, %d of them PE images\n", r.files, r.images)
		}
		r.file(name, false)
		return nil
	})
	if err != nil {
		r.complain(dir, err)
	}
}

// file reports one file. One that was found in a directory need not be an image.
func (r *trustletRun) file(name string, named bool) {
	f, err := os.Open(name)
	if err != nil {
		r.complain(name, err)
		return
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		r.complain(name, err)
		return
	}
	report, err := examine(name, f, info.Size())
	var bad *ium.FormatError
	switch {
	case err == nil:
		r.images++
		r.grades[report.grade]++
		if report.Enclave != nil {
			r.enclaves++
		}
		report.brief = !named && !r.verbose && report.grade == ium.Absent && report.Enclave == nil
		r.print(report)
	case !named && errors.Is(err, io.ErrUnexpectedEOF) && !startsMZ(f, info):
		r.broken++ // a file of /sys, say, that is not as long as it says
	case !errors.As(err, &bad):
		r.complain(name, fmt.Errorf("%s: %w", name, err))
	case named:
		r.status = 1
		fallthrough
	case r.verbose || r.json && startsMZ(f, info):
		r.broken++
		r.print(&trustletReport{File: name, Error: bad.Detail, Rule: bad.Rule, Offset: &bad.Offset})
	default:
		r.broken++
	}
}

// startsMZ tells whether a file begins as PE images do. It reads nothing of a file without
// a size: in /proc and /sys, that may be one to wait at.
func startsMZ(f io.ReaderAt, info fs.FileInfo) bool {
	var b [2]byte
	if info.Size() < int64(len(b)) {
		return false
	}
	_, err := f.ReadAt(b[:], 0)
	return err == nil && string(b[:]) == "MZ"
}

func (r *trustletRun) print(report *trustletReport) {
	var b bytes.Buffer
	if r.json {
		enc := json.NewEncoder(&b)
		enc.SetEscapeHTML(false)
		_ = enc.Encode(report) // a report and a buffer have no errors
		r.write(escaped(b.Bytes()))
		return
	}
	report.text(&b)
	r.write(b.Bytes())
}

// escaped returns a line of JSON with what terminals do not print escaped: encoding/json
// leaves DEL, the control characters from U+0080 on and marks of direction as they are. All
// of these can stand in strings only.
func escaped(line []byte) []byte {
	var b []byte
	for _, c := range string(line) {
		switch {
		case c == '\n' || unicode.IsPrint(c):
			b = utf8.AppendRune(b, c)
		case c <= 0xffff:
			b = fmt.Appendf(b, `\u%04x`, c)
		default:
			high, low := utf16.EncodeRune(c)
			b = fmt.Appendf(b, `\u%04x\u%04x`, high, low)
		}
	}
	return b
}

func (r *trustletRun) summary() {
	line := fmt.Sprintf("%s: %s, of which %d without a policy, %d with a valid one, %d misplaced, %d malformed; %s; %d of other formats\n",
		plural(r.files, "file"), plural(r.images, "PE image"), r.grades[ium.Absent], r.grades[ium.Valid], r.grades[ium.Misplaced], r.grades[ium.Malformed],
		plural(r.enclaves, "enclave"), r.broken)
	if r.json {
		fmt.Fprint(r.errOut, line)
		return
	}
	r.write([]byte(line))
}
