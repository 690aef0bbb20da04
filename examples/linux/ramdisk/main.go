// Command ramdisk writes an initial ramdisk for Linux that holds the files of a
// directory.
//
//	ramdisk DIR >FILE
//
// The format is the "newc" one of cpio, not compressed: to unpack that is less
// work for the kernel than to decompress. The owner of all files is root, and a
// file's mode says no more than whether it can be executed, so that the same files
// make the same ramdisk, whoever has made them and when.
package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: ramdisk DIR >FILE")
		os.Exit(2)
	}
	if err := write(os.Stdout, os.DirFS(os.Args[1])); err != nil {
		fmt.Fprintln(os.Stderr, "ramdisk:", err)
		os.Exit(1)
	}
}

// The file types of a mode, as Linux has them.
const (
	typeDirectory = 0o040000
	typeRegular   = 0o100000
	typeLink      = 0o120000
)

// write writes the files of a tree, in the order of their paths.
func write(to io.Writer, tree fs.FS) error {
	a := archive{w: bufio.NewWriter(to)}
	err := fs.WalkDir(tree, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == "." {
			return err
		}
		switch d.Type() {
		case fs.ModeDir:
			a.add(path, typeDirectory|0o755, nil)
		case fs.ModeSymlink:
			target, err := fs.ReadLink(tree, path)
			if err != nil {
				return err
			}
			a.add(path, typeLink|0o777, []byte(target))
		case 0:
			info, err := d.Info()
			if err != nil {
				return err
			}
			// The format has 32 bits for a size.
			if info.Size() > math.MaxUint32 {
				return fmt.Errorf("%s: %d bytes are more than the %d that a file of a ramdisk can have", path, info.Size(), uint32(math.MaxUint32))
			}
			data, err := fs.ReadFile(tree, path)
			if err != nil {
				return err
			}
			mode := uint32(typeRegular | 0o644)
			if info.Mode()&0o111 != 0 {
				mode |= 0o111
			}
			a.add(path, mode, data)
		default:
			return fmt.Errorf("%s: a file of type %v; a ramdisk holds directories, regular files and symbolic links", path, d.Type())
		}
		return a.err
	})
	a.files = 0 // the trailer is no file
	a.add("TRAILER!!!", 0, nil)
	return errors.Join(err, a.err, a.w.Flush())
}

// An archive is what has been written so far.
type archive struct {
	w     *bufio.Writer
	files uint32
	err   error
}

// add writes a file: a header of 13 numbers in hexadecimal behind the magic one,
// the path and the data, both padded to 4 bytes.
func (a *archive) add(path string, mode uint32, data []byte) {
	header := "070701"
	for _, field := range [...]uint32{
		a.files, mode,
		0, 0, // owner, group
		1, 0, // links, time of change
		uint32(len(data)),
		0, 0, 0, 0, // device of the file, device that the file is
		uint32(len(path)) + 1, // with its final 0
		0,                     // check sum, which this format does not have
	} {
		header += fmt.Sprintf("%08x", field)
	}
	a.files++
	a.put(append([]byte(header+path), 0))
	a.put(data)
}

// put writes bytes and pads them.
func (a *archive) put(b []byte) {
	if a.err == nil {
		_, a.err = a.w.Write(b)
	}
	if a.err == nil {
		_, a.err = a.w.Write(make([]byte, -len(b)&3))
	}
}
