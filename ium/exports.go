package ium

import (
	"bytes"
	"debug/pe"
	"encoding/binary"
	"iter"
	"strings"
)

// RuleExports is the rule of the export table: "The .edata Section" of the PE Format
// specification.
const RuleExports Rule = "exports"

// Limits of exports.
const (
	MaxExports    = 1 << 16 // an ordinal has 16 bits
	MaxExportName = 4096    // bytes; also of a forwarder
)

// An Export is a symbol that an image exports.
type Export struct {
	Name      string // empty: by ordinal only
	Ordinal   uint32
	RVA       uint32 // 0 if it is forwarded
	Forwarder string // where it is forwarded to: DLL.NAME or DLL.#ORDINAL
}

// exportTable is the export directory table.
type exportTable struct {
	rva, size              uint32 // of the data directory
	base                   uint32 // ordinal of the first address
	functions, names       uint32 // how many
	addresses, namePointer uint32 // RVAs of the tables
	ordinals               uint32
	scratch                [64]byte // what readers are given, so that little is allocated
	tables, strings        window
}

// A window is a part of the file that has been read, for reads that lie close together.
type window struct {
	from int64
	b    []byte
}

const windowSize = 4096

// read does what ReadRVA does.
func (w *window) read(i *Image, p []byte, rva uint32) error {
	if uint64(i.rawRoom(rva)) < uint64(len(p)) {
		return i.ReadRVA(p, rva)
	}
	at := i.offsetOf(rva)
	if at < w.from || at+int64(len(p)) > w.from+int64(len(w.b)) {
		from := at &^ (windowSize/2 - 1)
		if cap(w.b) == 0 {
			w.b = make([]byte, windowSize)
		}
		w.b = w.b[:min(windowSize, max(i.Size-from, 0))]
		w.from = from
		if at+int64(len(p)) > from+int64(len(w.b)) || i.readAt(w.b, from) != nil {
			w.b = w.b[:0]
			return i.ReadRVA(p, rva)
		}
	}
	copy(p, w.b[at-w.from:])
	return nil
}

// exportTable reads the directory table; nil if the image exports nothing.
func (i *Image) exportTable() (*exportTable, error) {
	rva, size := i.Directory(pe.IMAGE_DIRECTORY_ENTRY_EXPORT)
	if rva == 0 {
		return nil, nil
	}
	var b [40]byte
	if err := i.ReadRVA(b[:], rva); err != nil {
		return nil, err
	}
	word := func(n int) uint32 { return binary.LittleEndian.Uint32(b[n:]) }
	t := &exportTable{
		rva: rva, size: size, base: word(16), functions: word(20), names: word(24),
		addresses: word(28), namePointer: word(32), ordinals: word(36),
	}
	if t.functions > MaxExports || t.names > MaxExports {
		return nil, broken(i.offsetOf(rva), RuleExports, "%d addresses and %d names, of which %d are the most", t.functions, t.names, MaxExports)
	}
	// The tables lie in the file as a whole, so that a walk takes no longer than the file
	// is.
	for _, table := range []struct {
		rva, n uint32
		what   string
	}{
		{t.addresses, t.functions * 4, "addresses"},
		{t.namePointer, t.names * 4, "names"},
		{t.ordinals, t.names * 2, "ordinals"},
	} {
		if table.n == 0 {
			continue
		}
		if raw := i.rawRoom(table.rva); raw < table.n {
			return nil, broken(i.offsetOf(rva), RuleExports, "the table of %s, %d bytes at RVA %#x, does not lie in the raw data of a section", table.what, table.n, table.rva)
		}
	}
	return t, nil
}

// uint32At and uint16At read a number of one of the tables.
func (t *exportTable) uint32At(i *Image, rva uint32) (uint32, error) {
	err := t.tables.read(i, t.scratch[:4], rva)
	return binary.LittleEndian.Uint32(t.scratch[:]), err
}

func (t *exportTable) uint16At(i *Image, rva uint32) (uint16, error) {
	err := t.tables.read(i, t.scratch[:2], rva)
	return binary.LittleEndian.Uint16(t.scratch[:]), err
}

// address returns what is at an index of the address table.
func (t *exportTable) address(i *Image, index uint32) (Export, error) {
	e := Export{Ordinal: t.base + index}
	if index >= t.functions {
		return e, broken(i.offsetOf(t.rva), RuleExports, "index %d in the ordinal table, where there are %d addresses", index, t.functions)
	}
	rva, err := t.uint32At(i, t.addresses+index*4)
	if err != nil {
		return e, err
	}
	// "Export Address Table": within the data directory it is a forwarder.
	if rva >= t.rva && rva-t.rva < t.size {
		e.Forwarder, err = i.cstring(rva, MaxExportName)
		return e, err
	}
	e.RVA = rva
	return e, nil
}

// named returns the export at an index of the name table but for its name.
func (t *exportTable) named(i *Image, index uint32) (Export, error) {
	n, err := t.uint16At(i, t.ordinals+index*2)
	if err != nil {
		return Export{}, err
	}
	return t.address(i, uint32(n))
}

// compare compares a name with that at an index of the name table.
func (t *exportTable) compare(i *Image, name string, index uint32) (int, error) {
	rva, err := t.uint32At(i, t.namePointer+index*4)
	if err != nil {
		return 0, err
	}
	room, err := i.room(rva)
	if err != nil {
		return 0, err
	}
	// One byte more than the name tells them apart.
	n := min(len(name)+1, MaxExportName+1, int(min(room, MaxExportName+1)))
	b := t.scratch[:]
	if n > len(b) {
		b = make([]byte, n)
	}
	b = b[:n]
	if err := t.strings.read(i, b, rva); err != nil {
		return 0, err
	}
	if end := bytes.IndexByte(b, 0); end >= 0 {
		b = b[:end]
	}
	switch { // strings.Compare would have the name allocated
	case name < string(b):
		return -1, nil
	case name > string(b):
		return 1, nil
	}
	return 0, nil
}

// find looks a name up as the loader does, which halves the table: "The export name
// pointer table ... is ordered lexically to allow binary searches".
func (t *exportTable) find(i *Image, name string) (e Export, ok bool, err error) {
	for low, high := uint32(0), t.names; low < high; {
		middle := low + (high-low)/2
		c, err := t.compare(i, name, middle)
		switch {
		case err != nil:
			return Export{}, false, err
		case c == 0:
			e, err = t.named(i, middle)
			e.Name = name
			return e, err == nil, err
		case c < 0:
			high = middle
		default:
			low = middle + 1
		}
	}
	return Export{}, false, nil
}

// Export finds an export by name, as the loader does. It does not find what is out of
// order; that, Exports does. The RVA of what is forwarded is 0.
func (i *Image) Export(name string) (rva uint32, ok bool, err error) {
	t, err := i.exportTable()
	if t == nil || err != nil {
		return 0, false, err
	}
	e, ok, err := t.find(i, name)
	return e.RVA, ok, err
}

// Exports walks the exports: those with a name in the order of the name table, then the
// rest. A walk ends with the first error. Names and forwarders that take more bytes than
// the file has, because they overlap, are an error too.
func (i *Image) Exports() iter.Seq2[Export, error] {
	return func(yield func(Export, error) bool) {
		t, err := i.exportTable()
		if err != nil {
			yield(Export{}, err)
		}
		if t == nil || err != nil {
			return
		}
		named := make([]uint64, (t.functions+63)/64)
		left := i.Size
		fits := func(e Export, err error) error {
			if left -= int64(len(e.Name) + len(e.Forwarder)); err == nil && left < 0 {
				return broken(i.offsetOf(t.rva), RuleExports, "names and forwarders take more bytes than the file has")
			}
			return err
		}
		for n := range t.names {
			e, err := t.named(i, n)
			if err == nil {
				var rva uint32
				if rva, err = t.uint32At(i, t.namePointer+n*4); err == nil {
					e.Name, err = i.cstring(rva, MaxExportName)
				}
			}
			if err = fits(e, err); !yield(e, err) || err != nil {
				return
			}
			index := e.Ordinal - t.base
			named[index/64] |= 1 << (index % 64)
		}
		for n := range t.functions {
			if named[n/64]>>(n%64)&1 != 0 {
				continue
			}
			e, err := t.address(i, n)
			if err == nil && e.RVA == 0 && e.Forwarder == "" {
				continue // a gap in the ordinals
			}
			if err = fits(e, err); !yield(e, err) || err != nil {
				return
			}
		}
	}
}

// maxImports is how many DLLs are looked at to tell a driver.
const maxImports = 256

// importsKernel tells whether the image imports from the kernel or the libraries that
// only drivers have.
func (i *Image) importsKernel() (bool, error) {
	rva, _ := i.Directory(pe.IMAGE_DIRECTORY_ENTRY_IMPORT)
	if rva == 0 {
		return false, nil
	}
	for range maxImports {
		// The import directory table: rows of 20 bytes, the last of zeros.
		var row [20]byte
		if err := i.ReadRVA(row[:], rva); err != nil || row == [20]byte{} {
			return false, err
		}
		name, err := i.cstring(binary.LittleEndian.Uint32(row[12:]), 64)
		if err != nil {
			return false, err
		}
		switch strings.ToLower(name) {
		case "ntoskrnl.exe", "hal.dll", "ndis.sys", "wdfldr.sys", "win32k.sys", "fltmgr.sys", "storport.sys":
			return true, nil
		}
		rva += 20
	}
	return false, nil
}
