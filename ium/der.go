package ium

import "crypto/x509"

// Tags of ASN.1 that signatures have (ITU-T X.690, 8.1.2).
const (
	derBoolean         = 0x01
	derInteger         = 0x02
	derOctetString     = 0x04
	derObject          = 0x06
	derUTCTime         = 0x17
	derGeneralizedTime = 0x18
	derSequence        = 0x30
	derSet             = 0x31
	derContext0        = 0xA0 // [0], constructed
	derContext1        = 0xA1
	derContext3        = 0xA3
)

// maxObjectBytes bounds an object identifier. The longest in use, those of the authors
// of enclaves, have less than 40 bytes.
const maxObjectBytes = 64

// A derElement is one element: a tag and what it holds.
type derElement struct {
	tag     byte
	at      int64  // where in the file its tag is
	raw     []byte // all of it
	content []byte // what is behind tag and length
}

// A der reads elements one behind the other. It allocates nothing, and each byte is
// looked at once a level, so that hostile input costs no more than it is long.
type der struct {
	rest []byte
	at   int64 // where in the file rest is
}

// inside returns a reader of what an element holds.
func (e derElement) inside() der {
	return der{e.content, e.at + int64(len(e.raw)-len(e.content))}
}

func (d *der) empty() bool { return len(d.rest) == 0 }

// is tells whether the next element has a tag.
func (d *der) is(tag byte) bool { return len(d.rest) > 0 && d.rest[0] == tag }

// next reads any element. Only what DER allows is read: lengths are definite and as
// short as can be (X.690, 10.1).
func (d *der) next() (derElement, error) {
	wrong := func(format string, args ...any) (derElement, error) {
		return derElement{}, broken(d.at, RuleSignatureDER, format, args...)
	}
	if len(d.rest) < 2 {
		return wrong("%d bytes are left, too few for a tag and a length", len(d.rest))
	}
	tag, size, head := d.rest[0], uint64(d.rest[1]), 2
	if tag&0x1F == 0x1F {
		return wrong("tag %#x is of more than one byte", tag)
	}
	if size >= 0x80 {
		n := int(size - 0x80)
		if n == 0 {
			return wrong("the length is indefinite")
		}
		if n > 4 || len(d.rest) < 2+n {
			return wrong("a length of %d bytes: at most 4, and %d are left", n, len(d.rest)-2)
		}
		size = 0
		for _, b := range d.rest[2 : 2+n] {
			size = size<<8 | uint64(b)
		}
		if size < 0x80 || size>>(8*(n-1)) == 0 {
			return wrong("the length %d is written in %d bytes: fewer do", size, n)
		}
		head += n
	}
	if size > uint64(len(d.rest)-head) {
		return wrong("a length of %d bytes, and %d are left", size, len(d.rest)-head)
	}
	end := head + int(size)
	e := derElement{tag, d.at, d.rest[:end:end], d.rest[head:end:end]}
	d.rest, d.at = d.rest[end:], d.at+int64(end)
	return e, nil
}

// take reads the next element, which must have a tag. What names it in errors.
func (d *der) take(tag byte, what string) (derElement, error) {
	at := d.at
	e, err := d.next()
	if err != nil {
		return e, err
	}
	if e.tag != tag {
		return e, broken(at, RuleSignatureStructure, "tag %#x where %s has %#x", e.tag, what, tag)
	}
	return e, nil
}

// takeInside reads the next element and returns a reader of what it holds.
func (d *der) takeInside(tag byte, what string) (der, error) {
	e, err := d.take(tag, what)
	return e.inside(), err
}

// object reads an object identifier and returns it in digits and dots.
func (d *der) object(what string) (string, error) {
	e, err := d.take(derObject, what)
	if err != nil {
		return "", err
	}
	var oid x509.OID
	if len(e.content) > maxObjectBytes {
		return "", broken(e.at, RuleSignatureLimit, "an object identifier of %d bytes: at most %d are read", len(e.content), maxObjectBytes)
	}
	if err := oid.UnmarshalBinary(e.content); err != nil {
		return "", broken(e.at, RuleSignatureDER, "%s is not an object identifier: % x", what, e.content)
	}
	return oid.String(), nil
}

// algorithm reads an AlgorithmIdentifier and returns its object identifier.
func (d *der) algorithm(what string) (string, error) {
	in, err := d.takeInside(derSequence, what)
	if err != nil {
		return "", err
	}
	return in.object(what)
}
