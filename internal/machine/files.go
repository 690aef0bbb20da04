package machine

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
)

// maxFileErrors bounds what a guest whose every file fails can make us keep.
const maxFileErrors = 8

// files writes the guest's files on the host. A file appears under its name
// only when all of it is there.
//
// The mutex lets Run clear up while the reader of the guest's output may still
// be blocked elsewhere.
type files struct {
	dir string // where relative paths start

	mu     sync.Mutex
	closed bool
	path   string   // the file that is being written, "" for none
	target string   // the name that temp gets at the end; "" for a device
	temp   *os.File // nil after an error: the rest of the data is dropped
	errs   []error
}

func (f *files) fail(err error) {
	if len(f.errs) < maxFileErrors {
		f.errs = append(f.errs, err)
	}
}

// begin handles a FrameFile: it ends the file before.
func (f *files) begin(payload []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return
	}
	f.end()
	mode := fs.FileMode(binary.LittleEndian.Uint32(payload)) & fs.ModePerm
	f.path = string(payload[4:])
	if strings.ContainsRune(f.path, 0) {
		f.fail(fmt.Errorf("the guest's file name %q holds a NUL byte", f.path))
		return
	}
	if err := f.open(mode); err != nil {
		f.fail(fmt.Errorf("the guest's file %q cannot be written on the host: %w", f.path, err))
	}
}

// open prepares to write f.path.
func (f *files) open(mode fs.FileMode) error {
	path := f.path
	if !filepath.IsAbs(path) {
		path = filepath.Join(f.dir, path)
	}
	// Write through a symbolic link as open(2) would, rather than replace it.
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	old, err := os.Stat(path)
	switch {
	case err == nil && old.Mode()&fs.ModeCharDevice != 0:
		// A device such as /dev/null takes the bytes; it is never replaced.
		f.temp, err = os.OpenFile(path, os.O_WRONLY, 0)
		return err
	case err == nil && !old.Mode().IsRegular():
		return fmt.Errorf("%s is there and is not a regular file (%v)", path, old.Mode().Type())
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return err
	}
	// The guest may have made the directory itself; that it told nobody.
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return err
	}
	for range 100 {
		name := filepath.Join(dir, fmt.Sprintf(".vtx-%016x", rand.Uint64()))
		// Not os.CreateTemp: the umask shall apply to the guest's mode.
		f.temp, err = os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
		if !errors.Is(err, fs.ErrExist) {
			break
		}
	}
	if err != nil {
		return err
	}
	f.target = path
	if old != nil { // writing to a file that exists does not change its mode
		return f.temp.Chmod(old.Mode().Perm())
	}
	return nil
}

// data handles a FrameData.
func (f *files) data(p []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return
	}
	if f.path == "" {
		f.fail(errors.New("the guest sent data for a file without naming the file first"))
		return
	}
	if f.temp == nil {
		return
	}
	if _, err := f.temp.Write(p); err != nil {
		f.fail(fmt.Errorf("the guest's file %q cannot be written on the host: %w", f.path, err))
		f.drop()
	}
}

// end puts the finished file in its place.
func (f *files) end() {
	if f.temp != nil {
		name := f.temp.Name()
		err := f.temp.Close()
		f.temp = nil
		if f.target != "" {
			if err == nil {
				err = os.Rename(name, f.target)
			}
			if err != nil {
				os.Remove(name)
			}
		}
		if err != nil {
			f.fail(fmt.Errorf("the guest's file %q cannot be written on the host: %w", f.path, err))
		}
	}
	f.path, f.target = "", ""
}

// drop gives up the file that is being written.
func (f *files) drop() {
	if f.temp == nil {
		return
	}
	f.temp.Close()
	if f.target != "" {
		os.Remove(f.temp.Name())
	}
	f.temp, f.target = nil, ""
}

// close ends the work. A file that is still open is finished when complete says
// that the guest ended as it should, and dropped otherwise. It returns what
// went wrong with any file.
func (f *files) close(complete bool) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return nil
	}
	f.closed = true
	if complete {
		f.end()
	} else if f.temp != nil {
		f.fail(fmt.Errorf("the guest's file %q was not complete when the guest ended, and is not kept", f.path))
		f.drop()
	}
	return errors.Join(f.errs...)
}
