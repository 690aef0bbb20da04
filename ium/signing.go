package ium

import (
	"bytes"
	"cmp"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"time"
)

// Rules of signatures (RFC 2315; RFC 5652; Microsoft, "Windows Authenticode Portable
// Executable Signature Format", 21 March 2008, below called Authenticode).
const (
	RuleSignatureDER         Rule = "signature-der"         // elements are DER, and end where what holds them does
	RuleSignatureStructure   Rule = "signature-structure"   // elements stand in the order of RFC 2315, 9.1 and 9.2
	RuleSignatureType        Rule = "signature-type"        // the entry is WIN_CERT_TYPE_PKCS_SIGNED_DATA, of revision 2, and holds signedData
	RuleSignatureContent     Rule = "signature-content"     // what is signed is SpcIndirectDataContent of a PE image
	RuleSignatureAlgorithm   Rule = "signature-algorithm"   // the algorithm is one that this package computes
	RuleSignatureImage       Rule = "signature-image"       // the digest of the image is the one that is signed
	RuleSignatureMessage     Rule = "signature-message"     // the attribute messageDigest is the digest of what is signed
	RuleSignatureSigner      Rule = "signature-signer"      // there is one signer, and its certificate is there
	RuleSignatureKey         Rule = "signature-key"         // the signature is one of the key in the signer's certificate
	RuleSignatureCertificate Rule = "signature-certificate" // certificates can be parsed
	RuleSignatureAttributes  Rule = "signature-attributes"  // the signer's attributes are there, each once
	RuleSignatureTrailing    Rule = "signature-trailing"    // nothing but padding is behind the signature
	RuleSignatureLimit       Rule = "signature-limit"       // no more is there than this package reads
)

// What is read of an image's signatures at most. What is beyond gives a reason with
// [RuleSignatureLimit].
const (
	MaxSignatures            = 32        // of an image, nested ones too
	MaxSignatureNesting      = 4         // levels of nested signatures
	MaxSignatureCertificates = 64        // in a signature
	MaxX509Size              = 32 << 10  // bytes of a certificate that crypto/x509 parses: the text of a name takes time by its square
	MaxX509Total             = 512 << 10 // bytes of those of an image: parsing allocates some 40 times as many
	MaxSignatureSigners      = 4         // in a signature
	MaxSignatureAttributes   = 64        // of a signer
	MaxSignatureEKUs         = 64        // of a certificate
	MaxSignatureKeyBits      = 8192      // of an RSA key that a signature is checked with
)

// Object identifiers in signatures.
const (
	oidSignedData         = "1.2.840.113549.1.7.2"
	oidContentType        = "1.2.840.113549.1.9.3"
	oidMessageDigest      = "1.2.840.113549.1.9.4"
	oidSigningTime        = "1.2.840.113549.1.9.5"
	oidCounterSignature   = "1.2.840.113549.1.9.6"
	oidTSTInfo            = "1.2.840.113549.1.9.16.1.4"
	oidSpcIndirectData    = "1.3.6.1.4.1.311.2.1.4"
	oidSpcPEImageData     = "1.3.6.1.4.1.311.2.1.15"
	oidNestedSignature    = "1.3.6.1.4.1.311.2.4.1"
	oidTimestampRFC3161   = "1.3.6.1.4.1.311.3.3.1"
	oidExtendedKeyUsage   = "2.5.29.37"
	certTypePKCS          = 0x0002
	certRevision2         = 0x0200
	certificateHeaderSize = 8
)

// A Check is the result of a comparison.
type Check uint8

// Results.
const (
	NotChecked Check = iota // something for it is missing; a reason says what
	CheckHolds
	CheckFails
)

var checkNames = [...]string{"not checked", "holds", "fails"}

// String returns not checked, holds or fails.
func (c Check) String() string {
	if int(c) < len(checkNames) {
		return checkNames[c]
	}
	return fmt.Sprintf("Check(%#x)", uint8(c))
}

// MarshalText returns what String does.
func (c Check) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// UnmarshalText reads what String prints.
func (c *Check) UnmarshalText(text []byte) error {
	for i, name := range checkNames {
		if name == string(text) {
			*c = Check(i)
			return nil
		}
	}
	n, ok := parseUnknown(string(text), "Check", 8)
	if !ok || n < uint64(len(checkNames)) {
		return fmt.Errorf("unknown check %q: give not checked, holds or fails", text)
	}
	*c = Check(n)
	return nil
}

func checked(ok bool) Check {
	if ok {
		return CheckHolds
	}
	return CheckFails
}

// A Signature is an Authenticode signature that an image carries: what it claims, and
// whether that fits the image and itself. Nothing here says that it is to be trusted:
// chains of certificates, their times and revocation are not verified, and catalogs, in
// which Windows has the signatures of most of its images, are not looked at.
type Signature struct {
	Offset  int64 // in the file, of the entry of the certificate table, or of the nested signature
	Nesting int   // 0 in the certificate table, 1 in a signature of that, and so on

	Digest     DigestAlgorithm // of the image
	Claimed    []byte          // the digest of the image as it was signed
	Computed   []byte          // that of the image as it is; nil if it could not be computed
	Image      Check           // whether they are equal
	PageHashes bool            // whether hashes of the image's pages are signed, too

	Certificates []SigningCertificate // in the order of the file
	Signers      []Signer             // Authenticode has one
	Reasons      []Reason             // all that is wrong or was not checked
}

// A SigningCertificate is a certificate in a signature.
type SigningCertificate struct {
	Offset int64             // in the file
	Raw    []byte            // the certificate in DER
	X509   *x509.Certificate // nil if crypto/x509 cannot parse it, or it is too large for that; Err tells
	Err    error
	EKUs   []EKU // in the order of the certificate; nil if it has none

	issuer, serial []byte // in DER, the serial number without tag and length
	key            any    // the public key; nil if it is not known
}

// A Signer is who has signed, and how.
type Signer struct {
	Certificate *SigningCertificate // in the signature's Certificates; nil if it is not there
	Digest      DigestAlgorithm     // of what is signed and of the attributes
	Message     Check               // whether the attribute messageDigest is the digest of what is signed

	// Signature tells whether it is a signature of the signer's attributes by the
	// key in Certificate. Whoever has made a key can make that hold.
	Signature  Check
	Timestamps []Timestamp
}

// A Timestamp says when a signature was there. It is a claim, too: it is not verified.
type Timestamp struct {
	Offset  int64 // in the file
	RFC3161 bool  // of the form of RFC 3161, not a countersignature (RFC 2985, 5.3.6)
	Time    time.Time
}

// Consistent tells whether the signature fits the image and itself: the digest of the
// image, that of what is signed, and the signature by the signer's own key all hold.
func (s *Signature) Consistent() bool {
	for i := range s.Signers {
		if s.Signers[i].Message != CheckHolds || s.Signers[i].Signature != CheckHolds {
			return false
		}
	}
	return s.Image == CheckHolds && len(s.Signers) > 0
}

// Signatures reads the signatures in the image's certificate table and those nested in
// them, each behind the one that holds it. A signature that is malformed is there as far
// as it could be read, with the reasons. The error is that of [Image.Certificates], with
// which come the signatures in front, or of the reader of the file. An image without a
// certificate table has none.
func (i *Image) Signatures() ([]Signature, error) {
	table, err := i.Certificates()
	r := signatureReader{image: i}
	for _, c := range table {
		if !r.room(c.Offset) {
			break
		}
		at := r.add(Signature{Offset: c.Offset})
		switch {
		case c.Type != certTypePKCS:
			r.reason(at, broken(c.Offset+6, RuleSignatureType, "the entry is of type %d; read are those of type %d, PKCS #7 signedData", c.Type, certTypePKCS))
			continue
		case c.Revision != certRevision2:
			r.reason(at, broken(c.Offset+4, RuleSignatureType, "the entry is of revision %#x; Authenticode has %#x", c.Revision, certRevision2))
		}
		in := der{c.Data, c.Offset + certificateHeaderSize}
		if r.signature(at, &in) {
			r.trailing(at, in)
		}
	}
	return r.all, cmp.Or(r.err, err)
}

// A signatureReader reads all signatures of an image.
type signatureReader struct {
	image   *Image
	all     []Signature
	digests map[crypto.Hash]imageDigest
	parsed  int   // bytes of certificates
	err     error // the first one of the file's reader
}

type imageDigest struct {
	sum []byte
	err error
}

// room tells whether there is room for one more signature, and notes it if not.
func (r *signatureReader) room(offset int64) bool {
	if len(r.all) < MaxSignatures {
		return true
	}
	r.reason(len(r.all)-1, broken(offset, RuleSignatureLimit, "there are more signatures than the %d that are read", MaxSignatures))
	return false
}

// add adds a signature and returns its index: r.all moves when it grows.
func (r *signatureReader) add(s Signature) int {
	r.all = append(r.all, s)
	return len(r.all) - 1
}

// reason notes an error. One that is not about what the file holds is the reader's.
func (r *signatureReader) reason(at int, err error) {
	var bad *FormatError
	if errors.As(err, &bad) {
		r.all[at].Reasons = append(r.all[at].Reasons, Reason{Rule: bad.Rule, Offset: bad.Offset, Detail: bad.Detail})
		return
	}
	r.err = cmp.Or(r.err, err)
}

// trailing notes what is behind a signature, unless it is the zeros that make the entry
// a multiple of 8 long. What is there is signed by nobody.
func (r *signatureReader) trailing(at int, in der) {
	if len(in.rest) >= 8 || len(bytes.Trim(in.rest, "\x00")) > 0 {
		r.reason(at, broken(in.at, RuleSignatureTrailing, "%d bytes behind the signature, which it does not cover: only up to 7 zeros may be there", len(in.rest)))
	}
}

// signedData is SignedData of RFC 2315, 9.1, and of RFC 5652, 5.1.
type signedData struct {
	contentType  string
	content      derElement // what is in [0] EXPLICIT
	certificates der
	signers      der
}

// readSignedData reads ContentInfo with signedData.
func readSignedData(in *der) (s signedData, err error) {
	at := in.at
	info, err := in.takeInside(derSequence, "ContentInfo")
	if err != nil {
		return s, err
	}
	oid, err := info.object("contentType")
	if err != nil {
		return s, err
	}
	if oid != oidSignedData {
		return s, broken(at, RuleSignatureType, "the content is of type %s; that of a signature is %s, signedData", oid, oidSignedData)
	}
	explicit, err := info.takeInside(derContext0, "content")
	if err != nil {
		return s, err
	}
	data, err := explicit.takeInside(derSequence, "SignedData")
	if err != nil {
		return s, err
	}
	if _, err = data.take(derInteger, "version"); err != nil {
		return s, err
	}
	if _, err = data.take(derSet, "digestAlgorithms"); err != nil {
		return s, err
	}
	content, err := data.takeInside(derSequence, "contentInfo")
	if err != nil {
		return s, err
	}
	if s.contentType, err = content.object("contentType"); err != nil {
		return s, err
	}
	if explicit, err = content.takeInside(derContext0, "content"); err != nil {
		return s, err
	}
	if s.content, err = explicit.next(); err != nil {
		return s, err
	}
	if data.is(derContext0) {
		if s.certificates, err = data.takeInside(derContext0, "certificates"); err != nil {
			return s, err
		}
	}
	if data.is(derContext1) {
		if _, err = data.next(); err != nil {
			return s, err
		}
	}
	s.signers, err = data.takeInside(derSet, "signerInfos")
	return s, err
}

// signature reads a signature into r.all[at], and the ones nested in it behind it. It
// tells whether there was one.
func (r *signatureReader) signature(at int, in *der) bool {
	data, err := readSignedData(in)
	if err != nil {
		r.reason(at, err)
		return false
	}
	if err := r.certificates(at, data.certificates); err != nil {
		r.reason(at, err)
	}
	if err := r.indirectData(at, data); err != nil {
		r.reason(at, err)
	}
	if err := r.signers(at, data); err != nil {
		r.reason(at, err)
	}
	return true
}

// certificates reads the certificates of a signature.
func (r *signatureReader) certificates(at int, in der) error {
	// Those that are not read count, too: each gives a reason.
	for n := 0; !in.empty(); n++ {
		if n == MaxSignatureCertificates {
			return broken(in.at, RuleSignatureLimit, "there are more certificates than the %d that are read", MaxSignatureCertificates)
		}
		e, err := in.next()
		if err != nil {
			return err
		}
		if e.tag != derSequence { // extended and attribute certificates (RFC 5652, 10.2.2)
			r.reason(at, broken(e.at, RuleSignatureCertificate, "a certificate with tag %#x: only those of X.509 are read", e.tag))
			continue
		}
		c := SigningCertificate{Offset: e.at, Raw: e.raw}
		if r.parsed += len(e.raw); len(e.raw) > MaxX509Size || r.parsed > MaxX509Total {
			c.Err = broken(e.at, RuleSignatureLimit, "a certificate of %d bytes: crypto/x509 parses those of up to %d, and up to %d of an image", len(e.raw), MaxX509Size, MaxX509Total)
			r.reason(at, c.Err)
		} else if c.X509, c.Err = x509.ParseCertificate(e.raw); c.Err != nil {
			r.reason(at, broken(e.at, RuleSignatureCertificate, "crypto/x509 cannot parse the certificate: %v", c.Err))
		}
		if err := c.read(e); err != nil {
			r.reason(at, err)
		}
		r.all[at].Certificates = append(r.all[at].Certificates, c)
	}
	return nil
}

// read reads what this package needs of a certificate (RFC 5280, 4.1) without the help of
// crypto/x509. That refuses a whole certificate for what does not matter here, such as
// object identifiers with parts of more than 31 bits, which those of enclave authors may
// have; and it does not keep the usages in order.
func (c *SigningCertificate) read(e derElement) error {
	outer := e.inside()
	in, err := outer.takeInside(derSequence, "TBSCertificate")
	if err != nil {
		return err
	}
	if in.is(derContext0) { // version
		if _, err = in.next(); err != nil {
			return err
		}
	}
	var serial, issuer, key derElement
	for _, part := range []struct {
		into *derElement
		tag  byte
		name string
	}{
		{&serial, derInteger, "serialNumber"},
		{nil, derSequence, "signature"},
		{&issuer, derSequence, "issuer"},
		{nil, derSequence, "validity"},
		{nil, derSequence, "subject"},
		{&key, derSequence, "subjectPublicKeyInfo"},
	} {
		got, err := in.take(part.tag, part.name)
		if err != nil {
			return err
		}
		if part.into != nil {
			*part.into = got
		}
	}
	c.serial, c.issuer = serial.content, issuer.raw
	if parsed, err := x509.ParsePKIXPublicKey(key.raw); err == nil {
		c.key = parsed // not along with an error: it may be a nil pointer
	} else {
		return broken(key.at, RuleSignatureCertificate, "the public key cannot be parsed, and no signature be checked with it: %v", err)
	}
	for !in.empty() {
		part, err := in.next()
		if err != nil {
			return err
		}
		if part.tag == derContext3 {
			return c.readExtensions(part.inside())
		}
	}
	return nil
}

// readExtensions reads the extended key usages (RFC 5280, 4.2.1.12).
func (c *SigningCertificate) readExtensions(in der) error {
	list, err := in.takeInside(derSequence, "Extensions")
	for err == nil && !list.empty() {
		var extension, value der
		var oid string
		if extension, err = list.takeInside(derSequence, "Extension"); err != nil {
			break
		}
		if oid, err = extension.object("extnID"); err != nil {
			break
		}
		if extension.is(derBoolean) { // critical
			if _, err = extension.next(); err != nil {
				break
			}
		}
		if oid != oidExtendedKeyUsage {
			continue
		}
		if value, err = extension.takeInside(derOctetString, "extnValue"); err != nil {
			break
		}
		if value, err = value.takeInside(derSequence, "ExtKeyUsageSyntax"); err != nil {
			break
		}
		for !value.empty() {
			if len(c.EKUs) == MaxSignatureEKUs {
				return broken(value.at, RuleSignatureLimit, "the certificate has more usages than the %d that are read", MaxSignatureEKUs)
			}
			if oid, err = value.object("KeyPurposeId"); err != nil {
				return err
			}
			c.EKUs = append(c.EKUs, EKU(oid))
		}
	}
	return err
}

// indirectData reads what is signed: SpcIndirectDataContent (Authenticode), with the
// digest of the image, and compares that with the image.
func (r *signatureReader) indirectData(at int, data signedData) error {
	s := &r.all[at]
	if data.contentType != oidSpcIndirectData {
		return broken(data.content.at, RuleSignatureContent, "what is signed is of type %s; that of an image is %s, SpcIndirectDataContent", data.contentType, oidSpcIndirectData)
	}
	if data.content.tag != derSequence {
		return broken(data.content.at, RuleSignatureStructure, "tag %#x where SpcIndirectDataContent has %#x", data.content.tag, derSequence)
	}
	in := data.content.inside()
	about, err := in.takeInside(derSequence, "SpcAttributeTypeAndOptionalValue")
	if err != nil {
		return err
	}
	kind, err := about.object("type")
	if err != nil {
		return err
	}
	if kind != oidSpcPEImageData {
		r.reason(at, broken(data.content.at, RuleSignatureContent, "what is signed is about %s; that of an image is %s, SpcPeImageData", kind, oidSpcPEImageData))
	}
	// The object is of a fixed form five levels down; its class id occurs nowhere else.
	s.PageHashes = bytes.Contains(about.rest, spcPageHashes)
	info, err := in.takeInside(derSequence, "DigestInfo")
	if err != nil {
		return err
	}
	oid, err := info.algorithm("digestAlgorithm")
	if err != nil {
		return err
	}
	digest, err := info.take(derOctetString, "digest")
	if err != nil {
		return err
	}
	s.Digest, s.Claimed = DigestAlgorithm(oid), digest.content
	hash := s.Digest.Hash()
	if hash == 0 {
		return broken(digest.at, RuleSignatureAlgorithm, "the digest of the image is made with %s, which is not supported", s.Digest)
	}
	if len(s.Claimed) != hash.Size() {
		s.Image = CheckFails
		return broken(digest.at, RuleSignatureImage, "the digest of the image has %d bytes; one made with %s has %d", len(s.Claimed), s.Digest, hash.Size())
	}
	computed := r.digest(hash)
	if computed.err != nil {
		return computed.err
	}
	s.Computed = computed.sum
	if s.Image = checked(bytes.Equal(s.Computed, s.Claimed)); s.Image == CheckFails {
		return broken(digest.at, RuleSignatureImage, "the digest of the image is %x, and signed is %x: the image is not the one that was signed", s.Computed, s.Claimed)
	}
	return nil
}

// spcPageHashes is the class id of the serialized object that holds page hashes.
var spcPageHashes = []byte{0xA6, 0xB5, 0x86, 0xD5, 0xB4, 0xA1, 0x24, 0x66, 0xAE, 0x05, 0xA2, 0x17, 0xDA, 0x8E, 0x60, 0xD6}

// digest returns the digest of the image, which is computed once for all signatures.
func (r *signatureReader) digest(h crypto.Hash) imageDigest {
	d, ok := r.digests[h]
	if !ok {
		d.sum, d.err = r.image.Digest(h)
		if r.digests == nil {
			r.digests = map[crypto.Hash]imageDigest{}
		}
		r.digests[h] = d
	}
	return d
}

// signers reads SignerInfos (RFC 2315, 9.2).
func (r *signatureReader) signers(at int, data signedData) error {
	in := data.signers
	if in.empty() {
		return broken(in.at, RuleSignatureSigner, "nobody has signed: Authenticode has one signer")
	}
	for !in.empty() {
		if len(r.all[at].Signers) == MaxSignatureSigners {
			return broken(in.at, RuleSignatureLimit, "there are more signers than the %d that are read", MaxSignatureSigners)
		}
		e, err := in.take(derSequence, "SignerInfo")
		if err != nil {
			return err
		}
		if len(r.all[at].Signers) == 1 {
			r.reason(at, broken(e.at, RuleSignatureSigner, "there is more than one signer: Authenticode has one"))
		}
		info, err := readSignerInfo(e)
		if err != nil {
			return err
		}
		signer, err := r.signer(at, info, data)
		r.all[at].Signers = append(r.all[at].Signers, signer)
		if err != nil {
			return err
		}
		if err := r.unauthenticated(at, len(r.all[at].Signers)-1, info); err != nil {
			return err
		}
	}
	return nil
}

// signerInfo is SignerInfo of RFC 2315, 9.2.
type signerInfo struct {
	at              int64
	issuer, serial  []byte // in DER, the serial number without tag and length
	digest          string
	authenticated   derElement // its raw is nil if there are none
	algorithm       string
	signature       derElement
	unauthenticated der
}

func readSignerInfo(e derElement) (s signerInfo, err error) {
	s.at = e.at
	in := e.inside()
	if _, err = in.take(derInteger, "version"); err != nil {
		return s, err
	}
	name, err := in.takeInside(derSequence, "issuerAndSerialNumber")
	if err != nil {
		return s, err
	}
	issuer, err := name.take(derSequence, "issuer")
	if err != nil {
		return s, err
	}
	serial, err := name.take(derInteger, "serialNumber")
	if err != nil {
		return s, err
	}
	s.issuer, s.serial = issuer.raw, serial.content
	if s.digest, err = in.algorithm("digestAlgorithm"); err != nil {
		return s, err
	}
	if in.is(derContext0) {
		if s.authenticated, err = in.next(); err != nil {
			return s, err
		}
	}
	if s.algorithm, err = in.algorithm("digestEncryptionAlgorithm"); err != nil {
		return s, err
	}
	if s.signature, err = in.take(derOctetString, "encryptedDigest"); err != nil {
		return s, err
	}
	if in.is(derContext1) {
		s.unauthenticated, err = in.takeInside(derContext1, "unauthenticatedAttributes")
	}
	return s, err
}

// attributes walks attributes (RFC 2315, 6.2): visit gets the type, and a reader of the
// set of values.
func attributes(in der, visit func(oid string, at int64, values der) error) error {
	for n := 0; !in.empty(); n++ {
		at := in.at
		if n == MaxSignatureAttributes {
			return broken(at, RuleSignatureLimit, "there are more attributes than the %d that are read", MaxSignatureAttributes)
		}
		attribute, err := in.takeInside(derSequence, "Attribute")
		if err != nil {
			return err
		}
		oid, err := attribute.object("attributeType")
		if err != nil {
			return err
		}
		values, err := attribute.takeInside(derSet, "attributeValue")
		if err != nil {
			return err
		}
		if err := visit(oid, at, values); err != nil {
			return err
		}
	}
	return nil
}

// signer checks what a signer claims.
func (r *signatureReader) signer(at int, info signerInfo, data signedData) (Signer, error) {
	s := Signer{Digest: DigestAlgorithm(info.digest)}
	all := r.all[at].Certificates
	for i := range all {
		if bytes.Equal(all[i].serial, info.serial) && bytes.Equal(all[i].issuer, info.issuer) {
			s.Certificate = &all[i]
			break
		}
	}
	if s.Certificate == nil {
		r.reason(at, broken(info.at, RuleSignatureSigner, "the certificate of the signer, with serial number %.32x, is not in the signature", info.serial))
	}
	hash := s.Digest.Hash()
	if hash == 0 {
		return s, broken(info.at, RuleSignatureAlgorithm, "the signer's digest is made with %s, which is not supported", s.Digest)
	}
	if info.authenticated.raw == nil {
		return s, broken(info.at, RuleSignatureAttributes, "the signer has no authenticated attributes: Authenticode has contentType and messageDigest")
	}
	var message, kind derElement
	err := attributes(info.authenticated.inside(), func(oid string, where int64, values der) (err error) {
		into := map[string]*derElement{oidMessageDigest: &message, oidContentType: &kind}[oid]
		if into == nil {
			return nil
		}
		if into.raw != nil {
			return broken(where, RuleSignatureAttributes, "the attribute %s is there more than once", oid)
		}
		*into, err = values.next()
		return err
	})
	if err != nil {
		return s, err
	}
	if kind.raw == nil || message.raw == nil || message.tag != derOctetString {
		r.reason(at, broken(info.at, RuleSignatureAttributes, "the signer's attributes contentType (%s) and messageDigest (%s) are not both there", oidContentType, oidMessageDigest))
	} else {
		sum := sumOf(hash, data.content.content)
		if s.Message = checked(bytes.Equal(sum, message.content)); s.Message == CheckFails {
			r.reason(at, broken(message.at, RuleSignatureMessage, "the attribute messageDigest is %.64x, and the digest of what is signed %x", message.content, sum))
		}
		in := der{kind.raw, kind.at}
		if oid, err := in.object("contentType"); err != nil {
			r.reason(at, err)
		} else if oid != data.contentType {
			s.Message = CheckFails
			r.reason(at, broken(kind.at, RuleSignatureMessage, "the attribute contentType is %s, and what is signed is of type %s", oid, data.contentType))
		}
	}
	// The attributes are signed as a SET OF, not as the [0] that they have here
	// (RFC 2315, 9.3).
	signed := bytes.Clone(info.authenticated.raw)
	signed[0] = derSet
	if s.Certificate != nil && s.Certificate.key != nil {
		s.Signature, err = verifySignature(s.Certificate.key, info, hash, sumOf(hash, signed))
	}
	return s, err
}

// verifySignature tells whether a signature is one of a digest by a key. The older
// algorithms are taken, too: crypto/x509 would refuse them, and the question is not
// whether they are strong.
func verifySignature(key any, info signerInfo, hash crypto.Hash, sum []byte) (Check, error) {
	ok := false
	switch key := key.(type) {
	case *rsa.PublicKey:
		if !rsaSignatures[info.algorithm] {
			return NotChecked, broken(info.at, RuleSignatureAlgorithm, "the signature is made with %s, which is not supported with an RSA key", info.algorithm)
		}
		if key.N.BitLen() > MaxSignatureKeyBits {
			return NotChecked, broken(info.at, RuleSignatureLimit, "an RSA key of %d bits: signatures are checked with up to %d", key.N.BitLen(), MaxSignatureKeyBits)
		}
		err := rsa.VerifyPKCS1v15(key, hash, sum, info.signature.content)
		if err != nil && !errors.Is(err, rsa.ErrVerification) {
			return NotChecked, broken(info.at, RuleSignatureAlgorithm, "signatures by this RSA key are not checked: %v", err)
		}
		ok = err == nil
	case *ecdsa.PublicKey:
		if !ecdsaSignatures[info.algorithm] {
			return NotChecked, broken(info.at, RuleSignatureAlgorithm, "the signature is made with %s, which is not supported with an ECDSA key", info.algorithm)
		}
		ok = ecdsa.VerifyASN1(key, sum, info.signature.content)
	default:
		return NotChecked, broken(info.at, RuleSignatureAlgorithm, "signatures by a key of type %T are not supported", key)
	}
	if !ok {
		return CheckFails, broken(info.signature.at, RuleSignatureKey, "the signature is not one of the signer's attributes by the key in its certificate")
	}
	return CheckHolds, nil
}

// Algorithms of signatures. Authenticode names that of the key; others name it together
// with that of the digest.
var (
	rsaSignatures = map[string]bool{
		"1.2.840.113549.1.1.1":  true, // rsaEncryption (RFC 8017)
		"1.2.840.113549.1.1.4":  true, // md5WithRSAEncryption
		"1.2.840.113549.1.1.5":  true, // sha1WithRSAEncryption
		"1.2.840.113549.1.1.11": true, // sha256WithRSAEncryption
		"1.2.840.113549.1.1.12": true, // sha384WithRSAEncryption
		"1.2.840.113549.1.1.13": true, // sha512WithRSAEncryption
	}
	ecdsaSignatures = map[string]bool{
		"1.2.840.10045.2.1":   true, // id-ecPublicKey (RFC 5480)
		"1.2.840.10045.4.1":   true, // ecdsa-with-SHA1
		"1.2.840.10045.4.3.2": true, // ecdsa-with-SHA256
		"1.2.840.10045.4.3.3": true, // ecdsa-with-SHA384
		"1.2.840.10045.4.3.4": true, // ecdsa-with-SHA512
	}
)

// unauthenticated reads the attributes that are not signed: timestamps and nested
// signatures.
func (r *signatureReader) unauthenticated(at, signer int, info signerInfo) error {
	return attributes(info.unauthenticated, func(oid string, where int64, values der) error {
		switch oid {
		case oidCounterSignature, oidTimestampRFC3161:
			t := Timestamp{Offset: where, RFC3161: oid == oidTimestampRFC3161}
			var err error
			if t.RFC3161 {
				t.Time, err = timeOfToken(values)
			} else {
				t.Time, err = timeOfCounterSignature(values)
			}
			s := &r.all[at].Signers[signer]
			s.Timestamps = append(s.Timestamps, t)
			return err
		case oidNestedSignature:
			for !values.empty() {
				nesting := r.all[at].Nesting + 1
				if nesting > MaxSignatureNesting {
					return broken(where, RuleSignatureLimit, "signatures are nested deeper than %d levels", MaxSignatureNesting)
				}
				if !r.room(where) {
					return nil
				}
				e, err := values.take(derSequence, "nested signature")
				if err != nil {
					return err
				}
				r.signature(r.add(Signature{Offset: e.at, Nesting: nesting}), &der{e.raw, e.at})
			}
		}
		return nil
	})
}

// timeOfToken returns the time in a token of RFC 3161: genTime of TSTInfo (2.4.2).
func timeOfToken(in der) (t time.Time, err error) {
	data, err := readSignedData(&in)
	if err != nil {
		return t, err
	}
	if data.contentType != oidTSTInfo || data.content.tag != derOctetString {
		return t, broken(data.content.at, RuleSignatureContent, "the timestamp is about %s; one of RFC 3161 is about %s, TSTInfo", data.contentType, oidTSTInfo)
	}
	in = data.content.inside()
	info, err := in.takeInside(derSequence, "TSTInfo")
	if err != nil {
		return t, err
	}
	for _, field := range []struct {
		tag  byte
		name string
	}{{derInteger, "version"}, {derObject, "policy"}, {derSequence, "messageImprint"}, {derInteger, "serialNumber"}} {
		if _, err = info.take(field.tag, field.name); err != nil {
			return t, err
		}
	}
	return timeOf(&info, "genTime")
}

// timeOfCounterSignature returns the time in a countersignature: its attribute
// signingTime (RFC 2985, 5.3.3).
func timeOfCounterSignature(in der) (t time.Time, err error) {
	e, err := in.take(derSequence, "countersignature")
	if err != nil {
		return t, err
	}
	info, err := readSignerInfo(e)
	if err != nil || info.authenticated.raw == nil {
		return t, err
	}
	err = attributes(info.authenticated.inside(), func(oid string, _ int64, values der) (err error) {
		if oid == oidSigningTime {
			t, err = timeOf(&values, "signingTime")
		}
		return err
	})
	return t, err
}

// timeOf reads a time of either form.
func timeOf(in *der, what string) (t time.Time, err error) {
	e, err := in.next()
	if err != nil {
		return t, err
	}
	if e.tag != derUTCTime && e.tag != derGeneralizedTime {
		return t, broken(e.at, RuleSignatureStructure, "tag %#x where %s has %#x or %#x", e.tag, what, derUTCTime, derGeneralizedTime)
	}
	if len(e.raw) > 64 {
		return t, broken(e.at, RuleSignatureLimit, "a time of %d bytes: at most 64 are read", len(e.raw))
	}
	if e.tag == derGeneralizedTime {
		// encoding/asn1 knows no fractions of seconds, which tokens may have.
		t, err = time.Parse("20060102150405Z", string(e.content))
	} else {
		_, err = asn1.Unmarshal(e.raw, &t)
	}
	if err != nil {
		return time.Time{}, broken(e.at, RuleSignatureDER, "%s is not a time: %q", what, e.content)
	}
	return t.UTC(), nil
}

// Claims is what the certificate of a signature's signer says that the image is.
type Claims struct {
	// Level is the highest level that one of the usages stands for, and Because that
	// usage. It is Authenticode without any of them, and Unsigned without a signer's
	// certificate. Code integrity would also look at the root of the chain.
	Level   SigningLevel
	Because EKU

	EKUs []EKU // all usages of the signer's certificate
}

// Claims returns what the certificate of the first signer says, whether the signature
// fits or not.
func (s *Signature) Claims() Claims {
	if len(s.Signers) == 0 || s.Signers[0].Certificate == nil {
		return Claims{Level: SigningUnsigned}
	}
	c := Claims{Level: SigningAuthenticode, EKUs: s.Signers[0].Certificate.EKUs}
	for _, e := range c.EKUs {
		if l := e.row().level; l > c.Level || l == c.Level && c.Because == "" {
			c.Level, c.Because = l, e
		}
	}
	return c
}

// Has tells whether a usage is among those claimed.
func (c Claims) Has(e EKU) bool {
	for _, have := range c.EKUs {
		if have == e {
			return true
		}
	}
	return false
}

// Author returns the usage that names the author of an enclave, and whether there is one.
func (c Claims) Author() (EKU, bool) {
	for _, e := range c.EKUs {
		if e.row() == &authorRow {
			return e, true
		}
	}
	return "", false
}

// TrustletLacks returns what of the claims that a trustlet has to make is missing: the
// usages Isolated User Mode and Windows System Component Verification, and the level
// Windows or more. With test signing, nothing is needed beyond a signature whose root
// is the test root (Windows Internals 7, part 1, chapter 3).
func (c Claims) TrustletLacks(platform Platform) []string {
	if c.Level == SigningUnsigned {
		return []string{"a signature"}
	}
	var lacks []string
	if platform.TestSigning {
		return nil
	}
	for _, e := range []EKU{EKUIUM, EKUSystemComponent} {
		if !c.Has(e) {
			lacks = append(lacks, "the usage "+e.String())
		}
	}
	if c.Level < SigningWindows {
		lacks = append(lacks, fmt.Sprintf("signing level %d (%s); claimed is %d (%s)", SigningWindows, SigningWindows, c.Level, c.Level))
	}
	return lacks
}
