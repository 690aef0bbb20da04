package ium

import (
	"cmp"
	"crypto"
	_ "crypto/md5" // the hashes register themselves
	_ "crypto/sha1"
	_ "crypto/sha256"
	_ "crypto/sha512"
	"debug/pe"
	"fmt"
	"slices"
)

// RuleSignatureLayout is that what is signed of an image, its headers and sections, lies
// in the file, before the certificate table, and that none of it overlaps.
const RuleSignatureLayout Rule = "signature-layout"

// A DigestAlgorithm is an object identifier of a hash, in digits and dots.
type DigestAlgorithm string

// digestRows is what Authenticode signatures are made with (RFC 8017, appendix B.1).
var digestRows = []struct {
	oid  DigestAlgorithm
	hash crypto.Hash
}{
	{"1.2.840.113549.2.5", crypto.MD5},
	{"1.3.14.3.2.26", crypto.SHA1},
	{"2.16.840.1.101.3.4.2.1", crypto.SHA256},
	{"2.16.840.1.101.3.4.2.2", crypto.SHA384},
	{"2.16.840.1.101.3.4.2.3", crypto.SHA512},
}

// Hash returns the hash, and 0 if it is not one that this package computes.
func (d DigestAlgorithm) Hash() crypto.Hash {
	for _, row := range digestRows {
		if row.oid == d {
			return row.hash
		}
	}
	return 0
}

// String returns the name, such as SHA-256, or the identifier.
func (d DigestAlgorithm) String() string {
	if h := d.Hash(); h != 0 {
		return h.String()
	}
	return string(d)
}

func sumOf(h crypto.Hash, data []byte) []byte {
	w := h.New()
	w.Write(data)
	return w.Sum(nil)
}

// A fileRange is the bytes of a file from one offset up to another, and where in the file
// it says so.
type fileRange struct{ from, to, said int64 }

// MaxDigestSize is the size in bytes of the largest file whose digest is computed. The
// offsets in a PE image, of 32 bits, reach no farther.
const MaxDigestSize = 1 << 32

// Digest computes the Authenticode digest of the image: that of its headers without the
// checksum and without the directory entry of the certificate table, of its sections in
// the order of the file, and of what is behind them but for the certificate table
// (Authenticode, "Calculating the PE Image Hash"). It reads no byte of the file more
// than twice, and once if there are no gaps between the sections. A *FormatError says why
// there is no digest: [RuleSignatureLayout], or [RuleSignatureLimit] for more than
// MaxDigestSize bytes.
func (i *Image) Digest(h crypto.Hash) ([]byte, error) {
	if !h.Available() {
		return nil, fmt.Errorf("the hash %v is not available: use one that crypto/md5, sha1, sha256 or sha512 has", h)
	}
	if i.Size > MaxDigestSize {
		return nil, broken(-1, RuleSignatureLimit, "a file of %d bytes: digests are computed of up to %d", i.Size, int64(MaxDigestSize))
	}
	ranges, err := i.signedRanges()
	if err != nil {
		return nil, err
	}
	w, buffer := h.New(), make([]byte, 32<<10)
	for _, r := range ranges {
		for r.from < r.to {
			b := buffer[:min(r.to-r.from, int64(len(buffer)))]
			if err := i.readAt(b, r.from); err != nil {
				return nil, err
			}
			w.Write(b)
			r.from += int64(len(b))
		}
	}
	return w.Sum(nil), nil
}

// signedRanges returns the parts of the file that are signed, in the order in which they
// go into the digest.
func (i *Image) signedRanges() ([]fileRange, error) {
	headers := int64(i.headerSize)
	checksum := i.ChecksumOffset()
	entry := i.DirectoryOffset(pe.IMAGE_DIRECTORY_ENTRY_SECURITY)
	// The entry's address is, unlike all others, an offset in the file.
	address, size := i.Directory(pe.IMAGE_DIRECTORY_ENTRY_SECURITY)
	table := fileRange{int64(address), int64(address) + int64(size), entry}
	if size == 0 {
		table = fileRange{i.Size, i.Size, entry}
	}
	if table.to > i.Size {
		return nil, broken(entry, RuleSignatureLayout, "the certificate table ends at %#x, beyond the file of %#x bytes", table.to, i.Size)
	}

	said := checksum - 4 // SizeOfHeaders
	ranges := []fileRange{{0, checksum, said}, {checksum + 4, headers, said}}
	if entry != 0 {
		ranges = []fileRange{{0, checksum, said}, {checksum + 4, entry, said}, {entry + 8, headers, said}}
	}
	for _, s := range i.Sections() {
		if s.RawSize != 0 {
			from := int64(s.Offset)
			ranges = append(ranges, fileRange{from, from + int64(s.RawSize), s.Header + 16}) // SizeOfRawData
		}
	}
	slices.SortStableFunc(ranges, func(a, b fileRange) int { return cmp.Compare(a.from, b.from) })
	end := int64(0)
	for _, r := range ranges {
		switch {
		case r.from > r.to || r.from < end:
			return nil, broken(r.said, RuleSignatureLayout, "headers and sections overlap in the file at %#x: the digest is not defined", r.from)
		case r.to > table.from:
			return nil, broken(r.said, RuleSignatureLayout, "headers or a section end at %#x in the file, beyond %#x, where the certificate table or the end of the file is", r.to, table.from)
		}
		end = r.to
	}
	// What is behind the last section begins where the sizes say, which is not where
	// the last section ends if the file has gaps (steps 13 and 14).
	hashed := headers
	for _, s := range i.Sections() {
		hashed += int64(s.RawSize)
	}
	if hashed < table.from {
		ranges = append(ranges, fileRange{hashed, table.from, entry})
	}
	if table.to < i.Size {
		ranges = append(ranges, fileRange{table.to, i.Size, entry})
	}
	return ranges, nil
}
