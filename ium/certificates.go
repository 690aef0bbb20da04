package ium

import (
	"debug/pe"
	"encoding/binary"
)

// RuleCertificateTable is the rule of the certificate table: "The Attribute Certificate
// Table (Image Only)" of the PE Format specification.
const RuleCertificateTable Rule = "certificate-table"

// Limits of certificates.
const (
	MaxCertificates         = 64
	MaxCertificateTableSize = 4 << 20 // bytes
)

// A Certificate is an entry of the certificate table: WIN_CERTIFICATE.
type Certificate struct {
	Offset   int64  // in the file, of the header
	Length   uint32 // with the header of 8 bytes
	Revision uint16 // WIN_CERT_REVISION_*
	Type     uint16 // WIN_CERT_TYPE_*
	Data     []byte // what is behind the header
}

// Certificates reads the certificate table. Along with an error come the certificates in
// front of it.
func (i *Image) Certificates() ([]Certificate, error) {
	start, size := i.Directory(pe.IMAGE_DIRECTORY_ENTRY_SECURITY)
	if start == 0 && size == 0 {
		return nil, nil
	}
	entry := i.DirectoryOffset(pe.IMAGE_DIRECTORY_ENTRY_SECURITY)
	// Its address is an offset in the file, for it is not mapped.
	end := int64(start) + int64(size)
	switch {
	case start == 0 || start%8 != 0:
		return nil, broken(entry, RuleCertificateTable, "the table begins at offset %#x: it must be a multiple of 8, not 0", start)
	case end > i.Size:
		return nil, broken(entry, RuleCertificateTable, "the table, %#x bytes at offset %#x, ends outside the file of %#x bytes", size, start, i.Size)
	case size > MaxCertificateTableSize:
		return nil, broken(entry+4, RuleCertificateTable, "a table of %d bytes, of which %d are the most", size, MaxCertificateTableSize)
	}
	var all []Certificate
	for at := int64(start); end-at >= 8; {
		var h [8]byte
		if err := i.readAt(h[:], at); err != nil {
			return all, err
		}
		c := Certificate{
			Offset:   at,
			Length:   binary.LittleEndian.Uint32(h[:]),
			Revision: binary.LittleEndian.Uint16(h[4:]),
			Type:     binary.LittleEndian.Uint16(h[6:]),
		}
		if h == [8]byte{} && len(all) > 0 {
			break // padding
		}
		if c.Length < 8 || int64(c.Length) > end-at {
			return all, broken(at, RuleCertificateTable, "certificate %d has a length of %d bytes: it must be from 8 to the %d that are left", len(all), c.Length, end-at)
		}
		if len(all) == MaxCertificates {
			return all, broken(at, RuleCertificateTable, "more than %d certificates", MaxCertificates)
		}
		c.Data = make([]byte, c.Length-8)
		if err := i.readAt(c.Data, at+8); err != nil {
			return all, err
		}
		all = append(all, c)
		at += (int64(c.Length) + 7) &^ 7
	}
	return all, nil
}
