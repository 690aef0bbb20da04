package ium

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Signatures are made here with encoding/asn1, which the package does not use for them.

func oid(s string) asn1.ObjectIdentifier {
	var id asn1.ObjectIdentifier
	for part := range bytes.SplitSeq([]byte(s), []byte(".")) {
		n := 0
		for _, d := range part {
			n = n*10 + int(d-'0')
		}
		id = append(id, n)
	}
	return id
}

// tlv is an element with a tag of one byte.
func tlv(tag byte, parts ...[]byte) []byte {
	b, err := asn1.Marshal(asn1.RawValue{Class: int(tag >> 6), Tag: int(tag & 0x1F), IsCompound: tag&0x20 != 0, Bytes: bytes.Join(parts, nil)})
	if err != nil {
		panic(err)
	}
	return b
}

func der1(v any) []byte {
	b, err := asn1.Marshal(v)
	if err != nil {
		panic(err)
	}
	return b
}

func algorithm(id string) []byte { return tlv(0x30, der1(oid(id)), tlv(0x05)) }

func attribute(id string, values ...[]byte) []byte {
	return tlv(0x30, der1(oid(id)), tlv(0x31, values...))
}

// A testKey is a key with its certificate.
type testKey struct {
	signer      crypto.Signer
	certificate []byte
	algorithm   string
}

// keys are made once.
var keys = map[string]*testKey{}

func key(t testing.TB, kind string, ekus ...string) *testKey {
	name := kind
	for _, e := range ekus {
		name += " " + e
	}
	if k := keys[name]; k != nil {
		return k
	}
	k := &testKey{algorithm: "1.2.840.10045.2.1"}
	var err error
	switch kind {
	case "ecdsa":
		k.signer, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "rsa":
		k.algorithm = "1.2.840.113549.1.1.1"
		k.signer, err = rsa.GenerateKey(rand.Reader, 2048)
	case "ed25519":
		_, k.signer, err = ed25519.GenerateKey(rand.Reader)
	}
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(int64(len(keys)) + 77),
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC),
		NotAfter:     time.Date(2045, 1, 1, 0, 0, 0, 0, time.UTC),
	}
	for _, e := range ekus {
		template.UnknownExtKeyUsage = append(template.UnknownExtKeyUsage, oid(e))
	}
	k.certificate, err = x509.CreateCertificate(rand.Reader, template, template, k.signer.Public(), k.signer)
	require.NoError(t, err)
	keys[name] = k
	return k
}

// A recipe says how to sign. Parts that are nil are as they should be.
type recipe struct {
	key           *testKey
	hash          crypto.Hash // 0: SHA-256
	hashID        string      // of the image
	signerHashID  string
	outerType     string
	contentType   string
	about         string
	digest        []byte
	content       []byte // SpcIndirectDataContent
	certificates  [][]byte
	attributes    [][]byte
	noAttributes  bool
	message       []byte
	signature     []byte
	algorithm     string
	unsigned      [][]byte // unauthenticated attributes
	signers       int      // how often the signer is there; -1: not at all
	issuer        []byte
	crls          bool
	signedContent []byte // what the attribute contentType holds
}

var hashIDs = map[crypto.Hash]string{
	crypto.MD5:    "1.2.840.113549.2.5",
	crypto.SHA1:   "1.3.14.3.2.26",
	crypto.SHA256: "2.16.840.1.101.3.4.2.1",
	crypto.SHA384: "2.16.840.1.101.3.4.2.2",
	crypto.SHA512: "2.16.840.1.101.3.4.2.3",
}

func or[T any](v, instead []T) []T {
	if v != nil {
		return v
	}
	return instead
}

func orString(v, instead string) string {
	if v != "" {
		return v
	}
	return instead
}

func hashed(h crypto.Hash, b []byte) []byte {
	w := h.New()
	w.Write(b)
	return w.Sum(nil)
}

// sign makes PKCS #7 signedData for an image.
func (r recipe) sign(t testing.TB, image *Image) []byte {
	if r.hash == 0 {
		r.hash = crypto.SHA256
	}
	if r.digest == nil {
		var err error
		r.digest, err = image.Digest(r.hash)
		require.NoError(t, err)
	}
	content := or(r.content, tlv(0x30,
		tlv(0x30, der1(oid(orString(r.about, "1.3.6.1.4.1.311.2.1.15"))), tlv(0x30, tlv(0x03, []byte{0}), tlv(0xA0))),
		tlv(0x30, algorithm(orString(r.hashID, hashIDs[r.hash])), tlv(0x04, r.digest))))
	contentType := orString(r.contentType, "1.3.6.1.4.1.311.2.1.4")
	var whole asn1.RawValue
	_, err := asn1.Unmarshal(content, &whole)
	require.NoError(t, err)

	attributes := or(r.attributes, [][]byte{
		attribute("1.2.840.113549.1.9.3", or(r.signedContent, der1(oid(contentType)))),
		attribute("1.2.840.113549.1.9.4", tlv(0x04, or(r.message, hashed(r.hash, whole.Bytes)))),
	})
	signature := r.signature
	if signature == nil {
		sum := hashed(r.hash, tlv(0x31, attributes...))
		opts := crypto.SignerOpts(r.hash)
		if _, ok := r.key.signer.(ed25519.PrivateKey); ok {
			opts = crypto.Hash(0)
		}
		signature, err = r.key.signer.Sign(rand.Reader, sum, opts)
		require.NoError(t, err)
	}
	issuer := r.issuer
	if issuer == nil {
		certificate, err := x509.ParseCertificate(r.key.certificate)
		require.NoError(t, err)
		issuer = tlv(0x30, certificate.RawIssuer, der1(certificate.SerialNumber))
	}
	parts := [][]byte{der1(1), issuer, algorithm(orString(r.signerHashID, hashIDs[r.hash]))}
	if !r.noAttributes {
		parts = append(parts, tlv(0xA0, attributes...))
	}
	parts = append(parts, algorithm(orString(r.algorithm, r.key.algorithm)), tlv(0x04, signature))
	if r.unsigned != nil {
		parts = append(parts, tlv(0xA1, r.unsigned...))
	}
	var signers []byte
	n := r.signers
	if n == 0 {
		n = 1
	}
	for range max(n, 0) {
		signers = append(signers, tlv(0x30, parts...)...)
	}
	data := [][]byte{
		der1(1), tlv(0x31, algorithm(hashIDs[r.hash])),
		tlv(0x30, der1(oid(contentType)), tlv(0xA0, content)),
		tlv(0xA0, or(r.certificates, [][]byte{r.key.certificate})...),
	}
	if r.crls {
		data = append(data, tlv(0xA1))
	}
	data = append(data, tlv(0x31, signers))
	return tlv(0x30, der1(oid(orString(r.outerType, "1.2.840.113549.1.7.2"))), tlv(0xA0, tlv(0x30, data...)))
}

// trustletSpec is an image to sign.
func trustletSpec() *ImageSpec {
	return &ImageSpec{Policy: &Policy{Version: 1, ID: 1, Entries: []Entry{{Type: EntryUInt32, ID: PolicyETW, Value: 1}}}}
}

func built(t testing.TB, s *ImageSpec) *Image {
	b, err := s.Build()
	require.NoError(t, err)
	i, err := Open(bytes.NewReader(b), int64(len(b)))
	require.NoError(t, err)
	return i
}

// signed returns an image with entries in its certificate table.
func signed(t testing.TB, entries ...[]byte) *Image {
	s := trustletSpec()
	for _, e := range entries {
		s.Certificates = append(s.Certificates, Certificate{Revision: 0x200, Type: 2, Data: e})
	}
	return built(t, s)
}
