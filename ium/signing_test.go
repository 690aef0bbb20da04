package ium

import (
	"bytes"
	"crypto"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// rulesOf returns the rules of reasons.
func rulesOf(all []Reason) []Rule {
	var rules []Rule
	for _, r := range all {
		rules = append(rules, r.Rule)
	}
	return rules
}

var trustletEKUs = []EKU{EKUCodeSigning, EKUSystemComponent, EKUIUM}

// TestSignedImages reads what osslsigncode has made: it has computed the digests.
func TestSignedImages(t *testing.T) {
	type want struct {
		digest     string
		nesting    int
		ekus       []EKU
		level      SigningLevel
		lacks      int
		pageHashes bool
		timestamp  bool
		rules      []Rule
	}
	windows := want{digest: "SHA-256", ekus: trustletEKUs, level: SigningWindows}
	sha1, nested, stamped, tampered := windows, windows, windows, windows
	sha1.digest, nested.nesting, stamped.timestamp = "SHA-1", 1, true
	tampered.rules = []Rule{RuleSignatureImage}
	for _, tt := range []struct {
		file string
		want []want
	}{
		{"signed-rsa.exe", []want{windows}},
		{"signed-ecdsa.exe", []want{windows}},
		{"signed-sha1.exe", []want{sha1}},
		{"signed-nested.exe", []want{sha1, nested}},
		{"signed-timestamp.exe", []want{stamped}},
		{"signed-tampered.exe", []want{tampered}},
		{"signed-vbs64.dll", []want{{
			digest: "SHA-256", ekus: []EKU{EKUCodeSigning, EKUVBSEnclave, EKUEnclave, "1.3.6.1.4.1.311.97.4294967296.2.3"},
			level: SigningAuthenticode, lacks: 3, pageHashes: true,
			// The identifier has a part of more than 31 bits.
			rules: []Rule{RuleSignatureCertificate},
		}}},
		{"policy64.exe", nil},
	} {
		t.Run(tt.file, func(t *testing.T) {
			i, err := OpenFile(filepath.Join("testdata", tt.file))
			require.NoError(t, err)
			defer i.Close()
			all, err := i.Signatures()
			require.NoError(t, err)
			require.Len(t, all, len(tt.want))
			for n, want := range tt.want {
				s := all[n]
				assert.Equal(t, want.nesting, s.Nesting)
				assert.Equal(t, want.digest, s.Digest.String())
				assert.Equal(t, want.pageHashes, s.PageHashes)
				assert.Equal(t, want.rules, rulesOf(s.Reasons), s.Reasons)
				fits := tt.file != "signed-tampered.exe"
				assert.Equal(t, checked(fits), s.Image)
				assert.Equal(t, fits, bytes.Equal(s.Claimed, s.Computed))
				assert.Equal(t, fits, s.Consistent())
				require.Len(t, s.Signers, 1)
				assert.Equal(t, CheckHolds, s.Signers[0].Message)
				assert.Equal(t, CheckHolds, s.Signers[0].Signature)
				require.NotNil(t, s.Signers[0].Certificate)
				var times []time.Time
				for _, stamp := range s.Signers[0].Timestamps {
					assert.True(t, stamp.RFC3161)
					times = append(times, stamp.Time)
				}
				if want.timestamp {
					assert.Equal(t, []time.Time{time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}, times)
				} else {
					assert.Empty(t, times)
				}
				claims := s.Claims()
				assert.Equal(t, want.ekus, claims.EKUs)
				assert.Equal(t, want.level, claims.Level)
				assert.Len(t, claims.TrustletLacks(Platform{}), want.lacks)
				assert.Empty(t, claims.TrustletLacks(Platform{TestSigning: true}))
				author, ok := claims.Author()
				assert.Equal(t, want.pageHashes, ok, author)
			}
		})
	}
}

// TestDigestIsOsslsigncodes asks osslsigncode, if it is there, for digests of all images.
func TestDigestIsOsslsigncodes(t *testing.T) {
	tool, err := exec.LookPath("osslsigncode")
	if err != nil {
		t.Skip("needs osslsigncode")
	}
	files, err := filepath.Glob("testdata/signed-*")
	require.NoError(t, err)
	compared := 0
	line := regexp.MustCompile(`Calculated message digest +: ([0-9A-F]+)`)
	for _, file := range files {
		out, _ := exec.Command(tool, "verify", "-in", file).CombinedOutput() // it cannot verify the chain
		i, err := OpenFile(file)
		require.NoError(t, err)
		all, err := i.Signatures()
		require.NoError(t, err)
		for n, m := range line.FindAllSubmatch(out, -1) {
			if n < len(all) {
				assert.Equal(t, string(m[1]), fmt.Sprintf("%X", all[n].Computed), file)
				compared++
			}
		}
		i.Close()
	}
	assert.GreaterOrEqual(t, compared, len(files))
}

// TestSignatureReasons breaks signatures in every way there is a rule against, and in
// some that are allowed.
func TestSignatureReasons(t *testing.T) {
	good := key(t, "ecdsa", string(EKUIUM), string(EKUSystemComponent))
	plain := built(t, trustletSpec())
	reached := map[Rule]bool{}
	longEKUs := make([]string, MaxSignatureEKUs+1)
	for i := range longEKUs {
		longEKUs[i] = fmt.Sprintf("1.2.3.%d", i)
	}
	many := func(n int, b []byte) (all [][]byte) {
		for range n {
			all = append(all, b)
		}
		return all
	}
	contentTypeAttribute := attribute("1.2.840.113549.1.9.3", der1(oid("1.3.6.1.4.1.311.2.1.4")))
	nest := func(inner []byte) [][]byte { return [][]byte{attribute(oidNestedSignature, inner)} }
	deep := recipe{key: good}.sign(t, plain)
	for range MaxSignatureNesting + 1 {
		deep = recipe{key: good, unsigned: nest(deep)}.sign(t, plain)
	}
	signedTime := attribute(oidSigningTime, tlv(derUTCTime, []byte("260101000000Z")))
	counter := func(parts ...[]byte) []byte {
		return attribute(oidCounterSignature, tlv(0x30, der1(1), tlv(0x30, tlv(0x30), der1(5)), algorithm(hashIDs[crypto.SHA1]),
			tlv(0xA0, parts...), algorithm(good.algorithm), tlv(0x04, []byte{1})))
	}
	token := func(contentType string, content []byte) []byte {
		return attribute(oidTimestampRFC3161, recipe{key: good, contentType: contentType, content: content}.sign(t, plain))
	}
	genTime := func(s string) []byte {
		return tlv(derOctetString, tlv(0x30, der1(1), der1(oid("1.2.3")), tlv(0x30), der1(9), tlv(derGeneralizedTime, []byte(s))))
	}
	// with returns a certificate with another public key, and no signature.
	with := func(spki []byte) *testKey {
		name := tlv(0x30)
		tbs := tlv(0x30, der1(99), algorithm("1.2.3"), name, tlv(0x30), name, spki)
		return &testKey{good.signer, tlv(0x30, tbs, algorithm("1.2.3"), tlv(0x03, []byte{0})), "1.2.840.113549.1.1.1"}
	}
	rsaKey := func(bits int) []byte {
		n := new(big.Int).Lsh(big.NewInt(1), uint(bits))
		b, err := x509.MarshalPKIXPublicKey(&rsa.PublicKey{N: n.Sub(n, big.NewInt(1)), E: 65537})
		require.NoError(t, err)
		return b
	}
	issuer := tlv(0x30, tlv(0x30), der1(99))
	odd := tlv(0x30, tlv(0x30, der1(oid("1.2.840.10045.2.1")), der1(oid("1.2.840.10045.3.1.7"))), tlv(0x03, []byte{0, 4}, make([]byte, 64)))

	tests := []struct {
		name  string
		entry []byte
		want  []Rule
	}{
		{"as it should be", recipe{key: good}.sign(t, plain), nil},
		{"RSA", recipe{key: key(t, "rsa")}.sign(t, plain), nil},
		{"RSA, named with the digest", recipe{key: key(t, "rsa"), algorithm: "1.2.840.113549.1.1.11"}.sign(t, plain), nil},
		{"MD5", recipe{key: key(t, "rsa"), hash: crypto.MD5}.sign(t, plain), nil},
		{"SHA-384", recipe{key: good, hash: crypto.SHA384}.sign(t, plain), nil},
		{"SHA-512", recipe{key: good, hash: crypto.SHA512}.sign(t, plain), nil},
		{"revocation lists", recipe{key: good, crls: true}.sign(t, plain), nil},
		{"7 zeros behind", append(recipe{key: good}.sign(t, plain), 0, 0, 0, 0, 0, 0, 0), nil},
		{"countersignature", recipe{key: good, unsigned: [][]byte{counter(signedTime)}}.sign(t, plain), nil},
		{"countersignature without a time", recipe{key: good, unsigned: [][]byte{counter()}}.sign(t, plain), nil},
		{"timestamp", recipe{key: good, unsigned: [][]byte{token(oidTSTInfo, genTime("20260101000000.5Z"))}}.sign(t, plain), nil},
		{"unknown unsigned attribute", recipe{key: good, unsigned: [][]byte{attribute("1.2.3.4", der1(5))}}.sign(t, plain), nil},

		{"empty", nil, []Rule{RuleSignatureDER}},
		{"8 zeros behind", append(recipe{key: good}.sign(t, plain), make([]byte, 8)...), []Rule{RuleSignatureTrailing}},
		{"a byte behind", append(recipe{key: good}.sign(t, plain), 1), []Rule{RuleSignatureTrailing}},
		{"cut off", recipe{key: good}.sign(t, plain)[:300], []Rule{RuleSignatureDER}},
		{"indefinite length", []byte{0x30, 0x80, 0, 0}, []Rule{RuleSignatureDER}},
		{"length of 5 bytes", []byte{0x30, 0x85, 0, 0, 0, 0, 1, 0}, []Rule{RuleSignatureDER}},
		{"4 GB", []byte{0x30, 0x84, 0xFF, 0xFF, 0xFF, 0xFF}, []Rule{RuleSignatureDER}},
		{"long form of a short length", []byte{0x30, 0x81, 0x01, 0}, []Rule{RuleSignatureDER}},
		{"length with a leading zero", append([]byte{0x30, 0x82, 0, 0x80}, make([]byte, 0x80)...), []Rule{RuleSignatureDER}},
		{"high tag", []byte{0x3F, 0x02, 0, 0}, []Rule{RuleSignatureDER}},
		{"not a sequence", tlv(0x31), []Rule{RuleSignatureStructure}},
		{"data, not signedData", recipe{key: good, outerType: "1.2.840.113549.1.7.1"}.sign(t, plain), []Rule{RuleSignatureType}},
		{"about data", recipe{key: good, contentType: "1.2.840.113549.1.7.1"}.sign(t, plain), []Rule{RuleSignatureContent}},
		{"about a cabinet", recipe{key: good, about: "1.3.6.1.4.1.311.2.1.25"}.sign(t, plain), []Rule{RuleSignatureContent}},
		{"content of another form", recipe{key: good, content: tlv(0x31)}.sign(t, plain), []Rule{RuleSignatureStructure}},
		{"unknown digest", recipe{key: good, hashID: "1.2.3"}.sign(t, plain), []Rule{RuleSignatureAlgorithm}},
		{"unknown digest of the signer", recipe{key: good, signerHashID: "1.2.3"}.sign(t, plain), []Rule{RuleSignatureAlgorithm}},
		{"another image", recipe{key: good, digest: make([]byte, 32)}.sign(t, plain), []Rule{RuleSignatureImage}},
		{"short digest", recipe{key: good, digest: make([]byte, 20)}.sign(t, plain), []Rule{RuleSignatureImage}},
		{"other message", recipe{key: good, message: make([]byte, 32)}.sign(t, plain), []Rule{RuleSignatureMessage}},
		{"other content type", recipe{key: good, signedContent: der1(oid("1.2.3"))}.sign(t, plain), []Rule{RuleSignatureMessage}},
		{"content type of no form", recipe{key: good, signedContent: der1(3)}.sign(t, plain), []Rule{RuleSignatureStructure}},
		{"other signature", recipe{key: good, signature: []byte{1, 2, 3}}.sign(t, plain), []Rule{RuleSignatureKey}},
		{"other RSA signature", recipe{key: key(t, "rsa"), signature: make([]byte, 256)}.sign(t, plain), []Rule{RuleSignatureKey}},
		{"ECDSA key, RSA algorithm", recipe{key: good, algorithm: "1.2.840.113549.1.1.1"}.sign(t, plain), []Rule{RuleSignatureAlgorithm}},
		{"RSA key, PSS", recipe{key: key(t, "rsa"), algorithm: "1.2.840.113549.1.1.10"}.sign(t, plain), []Rule{RuleSignatureAlgorithm}},
		{"Ed25519", recipe{key: key(t, "ed25519")}.sign(t, plain), []Rule{RuleSignatureAlgorithm}},
		{"no signer", recipe{key: good, signers: -1}.sign(t, plain), []Rule{RuleSignatureSigner}},
		{"two signers", recipe{key: good, signers: 2}.sign(t, plain), []Rule{RuleSignatureSigner}},
		{"too many signers", recipe{key: good, signers: MaxSignatureSigners + 1}.sign(t, plain), []Rule{RuleSignatureSigner, RuleSignatureLimit}},
		{"certificate of another", recipe{key: good, certificates: [][]byte{key(t, "rsa").certificate}}.sign(t, plain), []Rule{RuleSignatureSigner}},
		{"certificate that is none", recipe{key: good, certificates: [][]byte{tlv(0x30), good.certificate}}.sign(t, plain), []Rule{RuleSignatureCertificate, RuleSignatureDER}},
		{"extended certificate", recipe{key: good, certificates: [][]byte{tlv(0xA0), good.certificate}}.sign(t, plain), []Rule{RuleSignatureCertificate}},
		{"too many certificates", recipe{key: good, certificates: many(MaxSignatureCertificates+1, good.certificate)}.sign(t, plain), []Rule{RuleSignatureLimit}},
		{"too many usages", recipe{key: key(t, "ecdsa", longEKUs...)}.sign(t, plain), []Rule{RuleSignatureLimit}},
		{"no attributes", recipe{key: good, noAttributes: true}.sign(t, plain), []Rule{RuleSignatureAttributes}},
		{"one attribute", recipe{key: good, attributes: [][]byte{contentTypeAttribute}}.sign(t, plain), []Rule{RuleSignatureAttributes}},
		{"attribute twice", recipe{key: good, attributes: many(2, contentTypeAttribute)}.sign(t, plain), []Rule{RuleSignatureAttributes}},
		{"too many attributes", recipe{key: good, attributes: many(MaxSignatureAttributes+1, attribute("1.2.3.4"))}.sign(t, plain), []Rule{RuleSignatureLimit}},
		{"too long an identifier", recipe{key: good, contentType: "1" + strings.Repeat(".2", maxObjectBytes+2)}.sign(t, plain), []Rule{RuleSignatureLimit}},
		// crypto/x509 parses no certificate that is as bare as these.
		{"RSA key of 512 bits", recipe{key: with(rsaKey(512)), issuer: issuer, signature: make([]byte, 64)}.sign(t, plain), []Rule{RuleSignatureCertificate, RuleSignatureAlgorithm}},
		{"RSA key of 8193 bits", recipe{key: with(rsaKey(8193)), issuer: issuer, signature: make([]byte, 1025)}.sign(t, plain), []Rule{RuleSignatureCertificate, RuleSignatureLimit}},
		{"point that is not on the curve", recipe{key: with(odd), issuer: issuer, signature: []byte{1}}.sign(t, plain), []Rule{RuleSignatureCertificate, RuleSignatureCertificate}},
		{"nested deep", deep, []Rule{RuleSignatureLimit}},
		{"many nested", recipe{key: good, unsigned: [][]byte{attribute(oidNestedSignature, many(MaxSignatures, recipe{key: good}.sign(t, plain))...)}}.sign(t, plain), []Rule{RuleSignatureLimit}},
		{"nested, not a sequence", recipe{key: good, unsigned: nest(der1(1))}.sign(t, plain), []Rule{RuleSignatureStructure}},
		{"countersignature of no form", recipe{key: good, unsigned: [][]byte{attribute(oidCounterSignature, der1(1))}}.sign(t, plain), []Rule{RuleSignatureStructure}},
		{"countersignature with a time that is none", recipe{key: good, unsigned: [][]byte{counter(attribute(oidSigningTime, tlv(derUTCTime, []byte("noon"))))}}.sign(t, plain), []Rule{RuleSignatureDER}},
		{"countersignature with a number for a time", recipe{key: good, unsigned: [][]byte{counter(attribute(oidSigningTime, der1(5)))}}.sign(t, plain), []Rule{RuleSignatureStructure}},
		{"timestamp about something else", recipe{key: good, unsigned: [][]byte{token("1.2.3", genTime("20260101000000Z"))}}.sign(t, plain), []Rule{RuleSignatureContent}},
		{"timestamp of another form", recipe{key: good, unsigned: [][]byte{token(oidTSTInfo, tlv(derOctetString, tlv(0x31)))}}.sign(t, plain), []Rule{RuleSignatureStructure}},
		{"timestamp that ends too soon", recipe{key: good, unsigned: [][]byte{token(oidTSTInfo, tlv(derOctetString, tlv(0x30, der1(1), der1(oid("1.2.3")), tlv(0x30), der1(9))))}}.sign(t, plain), []Rule{RuleSignatureDER}},
		{"countersignature of another form", recipe{key: good, unsigned: [][]byte{attribute(oidCounterSignature, tlv(0x30, der1(oid("1.2.3"))))}}.sign(t, plain), []Rule{RuleSignatureStructure}},
		{"countersignature without attributes", recipe{key: good, unsigned: [][]byte{attribute(oidCounterSignature, tlv(0x30, der1(1), tlv(0x30, tlv(0x30), der1(5)), algorithm(hashIDs[crypto.SHA1]), algorithm(good.algorithm), tlv(0x04)))}}.sign(t, plain), nil},
		{"revocation lists that do not end", tlv(0x30, der1(oid(oidSignedData)), tlv(0xA0, tlv(0x30, der1(1), tlv(0x31), tlv(0x30, der1(oid(oidSpcIndirectData)), tlv(0xA0, tlv(0x30))), []byte{derContext1, 9}))), []Rule{RuleSignatureDER}},
		{"timestamp without an end", recipe{key: good, unsigned: [][]byte{token(oidTSTInfo, genTime(strings.Repeat("0", 99)))}}.sign(t, plain), []Rule{RuleSignatureLimit}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			i := signed(t, tt.entry)
			all, err := i.Signatures()
			require.NoError(t, err)
			require.NotEmpty(t, all)
			var reasons []Reason
			for _, s := range all {
				reasons = append(reasons, s.Reasons...)
			}
			assert.Equal(t, tt.want, rulesOf(reasons), reasons)
			assert.Equal(t, tt.want == nil, all[0].Consistent() && reasons == nil)
			for _, r := range reasons {
				reached[r.Rule] = true
				assert.NotEmpty(t, r.Detail)
				assert.True(t, r.Offset >= all[0].Offset && r.Offset <= i.Size, "offset %#x of %q", r.Offset, r.Detail)
			}
		})
	}

	for _, tt := range []struct {
		name           string
		kind, revision uint16
	}{{"X.509", 1, 0x200}, {"revision 1", 2, 0x100}} {
		spec := trustletSpec()
		spec.Certificates = []Certificate{{Type: tt.kind, Revision: tt.revision, Data: recipe{key: good}.sign(t, plain)}}
		all, err := built(t, spec).Signatures()
		require.NoError(t, err)
		require.Len(t, all, 1)
		assert.Equal(t, []Rule{RuleSignatureType}, rulesOf(all[0].Reasons), tt.name)
		assert.Equal(t, tt.kind == 2, all[0].Consistent(), tt.name)
	}

	// RuleSignatureLayout is reached by TestSignedRanges.
	for _, r := range []Rule{
		RuleSignatureDER, RuleSignatureStructure, RuleSignatureType, RuleSignatureContent,
		RuleSignatureAlgorithm, RuleSignatureImage, RuleSignatureMessage, RuleSignatureSigner, RuleSignatureKey,
		RuleSignatureCertificate, RuleSignatureAttributes, RuleSignatureTrailing, RuleSignatureLimit,
	} {
		assert.True(t, reached[r], "no test reaches %s", r)
	}
}

// TestTimestamps reads the times that TestSignatureReasons only makes.
func TestTimestamps(t *testing.T) {
	good := key(t, "ecdsa")
	plain := built(t, trustletSpec())
	info := tlv(derOctetString, tlv(0x30, der1(1), der1(oid("1.2.3")), tlv(0x30), der1(9), tlv(derGeneralizedTime, []byte("20260203040506.25Z"))))
	counter := tlv(0x30, der1(1), tlv(0x30, tlv(0x30), der1(5)), algorithm(hashIDs[crypto.SHA1]),
		tlv(0xA0, attribute(oidSigningTime, tlv(derUTCTime, []byte("991231235959Z")))), algorithm(good.algorithm), tlv(0x04))
	i := signed(t, recipe{key: good, unsigned: [][]byte{
		attribute(oidTimestampRFC3161, recipe{key: good, contentType: oidTSTInfo, content: info}.sign(t, plain)),
		attribute(oidCounterSignature, counter),
	}}.sign(t, plain))
	all, err := i.Signatures()
	require.NoError(t, err)
	require.Empty(t, all[0].Reasons)
	stamps := all[0].Signers[0].Timestamps
	require.Len(t, stamps, 2)
	assert.True(t, stamps[0].RFC3161)
	assert.Equal(t, time.Date(2026, 2, 3, 4, 5, 6, 250e6, time.UTC), stamps[0].Time)
	assert.False(t, stamps[1].RFC3161)
	assert.Equal(t, time.Date(1999, 12, 31, 23, 59, 59, 0, time.UTC), stamps[1].Time)
}

// TestSignaturesOfTable reads several entries, and those in front of one that is broken.
func TestSignaturesOfTable(t *testing.T) {
	plain := built(t, trustletSpec())
	one := recipe{key: key(t, "ecdsa")}.sign(t, plain)
	two := recipe{key: key(t, "rsa"), unsigned: [][]byte{attribute(oidNestedSignature, one)}}.sign(t, plain)
	spec := trustletSpec()
	for _, b := range [][]byte{one, two, one} {
		spec.Certificates = append(spec.Certificates, Certificate{Revision: 0x200, Type: 2, Data: b})
	}
	i := built(t, spec)
	all, err := i.Signatures()
	require.NoError(t, err)
	require.Len(t, all, 4)
	for n, nesting := range []int{0, 0, 1, 0} {
		assert.Equal(t, nesting, all[n].Nesting)
		assert.True(t, all[n].Consistent(), all[n].Reasons)
	}
	assert.True(t, all[1].Offset < all[2].Offset && all[2].Offset < all[3].Offset)

	b := make([]byte, i.Size)
	_, err = i.ReaderAt().ReadAt(b, 0)
	require.NoError(t, err)
	binary.LittleEndian.PutUint32(b[all[3].Offset:], 1<<30)
	broken, err := Open(bytes.NewReader(b), int64(len(b)))
	require.NoError(t, err)
	all, err = broken.Signatures()
	var format *FormatError
	require.ErrorAs(t, err, &format)
	assert.Equal(t, RuleCertificateTable, format.Rule)
	assert.Len(t, all, 3)

	for range MaxSignatures {
		spec.Certificates = append(spec.Certificates, Certificate{Revision: 0x200, Type: 2, Data: one})
	}
	all, err = built(t, spec).Signatures()
	require.NoError(t, err)
	require.Len(t, all, MaxSignatures)
	assert.Equal(t, []Rule{RuleSignatureLimit}, rulesOf(all[MaxSignatures-1].Reasons))
}

// TestSignedRanges changes each byte of an image: the digest changes unless the byte is
// one that is left out, and those are the checksum, the directory entry and the table.
func TestSignedRanges(t *testing.T) {
	spec := trustletSpec()
	spec.Sections = []SectionSpec{{Name: ".text", Data: []byte("code")}}
	plain := built(t, spec)
	spec.Certificates = []Certificate{{Revision: 0x200, Type: 2, Data: recipe{key: key(t, "ecdsa")}.sign(t, plain)}}
	i := built(t, spec)
	b := make([]byte, i.Size)
	_, err := i.ReaderAt().ReadAt(b, 0)
	require.NoError(t, err)
	before, err := i.Digest(crypto.SHA256)
	require.NoError(t, err)
	address, size := i.Directory(4)
	left := 0
	for at := range b {
		b[at] ^= 0x10
		c := int64(at)
		in := c >= i.ChecksumOffset() && c < i.ChecksumOffset()+4 ||
			c >= i.DirectoryOffset(4) && c < i.DirectoryOffset(4)+8 ||
			c >= int64(address) && c < int64(address+size)
		// The image stays as it was opened, so that a header that is changed does
		// not change the ranges.
		changed := *i
		changed.file = sectionOf(b)
		sum, err := changed.Digest(crypto.SHA256)
		require.NoError(t, err)
		assert.Equal(t, in, bytes.Equal(before, sum), "byte %#x", at)
		if in {
			left++
		}
		b[at] ^= 0x10
	}
	assert.Equal(t, 12+int(size), left)

	for _, tt := range []struct {
		name   string
		change func(i *Image)
		detail string
	}{
		{"sections that overlap", func(i *Image) { i.sections[1].Offset = i.sections[0].Offset }, "overlap"},
		{"a section in the table", func(i *Image) { i.sections[1].RawSize += 1024 }, "beyond"},
		{"a section behind the file", func(i *Image) { i.sections[1].Offset = 1 << 30 }, "beyond"},
		{"a section in the headers", func(i *Image) { i.sections[0].Offset = 0x40 }, "overlap"},
	} {
		changed := *i
		changed.sections = append([]Section(nil), i.sections...)
		tt.change(&changed)
		_, err := changed.Digest(crypto.SHA256)
		var format *FormatError
		require.ErrorAs(t, err, &format, tt.name)
		assert.Equal(t, RuleSignatureLayout, format.Rule)
		assert.Contains(t, format.Detail, tt.detail)
		all, err := changed.Signatures()
		require.NoError(t, err)
		assert.Equal(t, NotChecked, all[0].Image, tt.name)
		assert.Equal(t, []Rule{RuleSignatureLayout}, rulesOf(all[0].Reasons))
	}
	// What is behind the table is signed, too; a table that is not in the file is not left
	// out of it.
	longer, err := Open(bytes.NewReader(append(bytes.Clone(b), "12345678"...)), i.Size+8)
	require.NoError(t, err)
	sum, err := longer.Digest(crypto.SHA256)
	require.NoError(t, err)
	assert.NotEqual(t, before, sum)
	changed := *i
	changed.directories = slices.Clone(i.directories)
	changed.directories[4].Size += 8
	_, err = changed.Digest(crypto.SHA256)
	assert.ErrorContains(t, err, "the certificate table ends")
	assert.ErrorContains(t, err, string(RuleSignatureLayout))
	// Files that are larger than images can be are not read.
	large := *i
	large.Size = MaxDigestSize + 1
	var format *FormatError
	_, err = large.Digest(crypto.SHA256)
	require.ErrorAs(t, err, &format)
	assert.Equal(t, RuleSignatureLimit, format.Rule)
	_, err = i.Digest(crypto.BLAKE2b_256)
	assert.ErrorContains(t, err, "not available")
	failing := *i
	failing.file = failingSection(i.Size)
	_, err = failing.Digest(crypto.SHA256)
	assert.ErrorContains(t, err, "broken disk")
}

// TestDigestOfGaps follows the document where it and a digest of the file in order
// differ: a gap between sections is left out, and the end goes in again.
func TestDigestOfGaps(t *testing.T) {
	i := built(t, trustletSpec())
	b := make([]byte, i.Size)
	_, err := i.ReaderAt().ReadAt(b, 0)
	require.NoError(t, err)
	last := i.sections[len(i.sections)-1]
	gap := 512
	b = append(b[:last.Offset:last.Offset], append(make([]byte, gap), b[last.Offset:]...)...)
	binary.LittleEndian.PutUint32(b[last.Header+20:], last.Offset+uint32(gap))
	moved, err := Open(bytes.NewReader(b), int64(len(b)))
	require.NoError(t, err)
	sum, err := moved.Digest(crypto.SHA256)
	require.NoError(t, err)

	checksum, entry := moved.ChecksumOffset(), moved.DirectoryOffset(4)
	headers := int64(binary.LittleEndian.Uint32(b[checksum-4:]))
	var want []byte
	want = append(want, b[:checksum]...)
	want = append(want, b[checksum+4:entry]...)
	want = append(want, b[entry+8:headers]...)
	want = append(want, b[headers:last.Offset]...)
	want = append(want, b[last.Offset+uint32(gap):]...)
	want = append(want, b[len(b)-gap:]...) // from SUM_OF_BYTES_HASHED on
	assert.Equal(t, hashed(crypto.SHA256, want), sum)
}

func sectionOf(b []byte) *io.SectionReader {
	return io.NewSectionReader(bytes.NewReader(b), 0, int64(len(b)))
}

type brokenDisk struct{}

func (brokenDisk) ReadAt([]byte, int64) (int, error) { return 0, errors.New("broken disk") }

// failingSection reads headers and then fails.
func failingSection(size int64) *io.SectionReader {
	return io.NewSectionReader(brokenDisk{}, 0, size)
}

// TestDERIsASN1 compares the reader of elements with encoding/asn1.
func TestDERIsASN1(t *testing.T) { rapid.Check(t, checkDERIsASN1) }

func FuzzDERIsASN1(f *testing.F) { f.Fuzz(rapid.MakeFuzz(checkDERIsASN1)) }

func checkDERIsASN1(t *rapid.T) {
	b := rapid.OneOf(
		rapid.SliceOfN(rapid.Byte(), 0, 40),
		rapid.Custom(func(t *rapid.T) []byte {
			tag := rapid.SampledFrom([]byte{0x02, 0x04, 0x30, 0x31, 0xA0}).Draw(t, "tag")
			size := rapid.SampledFrom([][]byte{{0}, {5}, {0x7F}, {0x80}, {0x81, 0x7F}, {0x81, 0x80}, {0x82, 0, 0x80}, {0x82, 1, 0}, {0x83, 0, 1, 0}, {0x84, 0, 0, 1, 0}, {0x84, 0xFF, 0xFF, 0xFF, 0xFF}, {0x88, 0, 0, 0, 0, 0, 0, 0, 1}}).Draw(t, "size")
			return append(append([]byte{tag}, size...), make([]byte, rapid.SampledFrom([]int{0, 5, 127, 128, 255, 256, 300}).Draw(t, "n"))...)
		})).Draw(t, "bytes")
	d := der{b, 100}
	e, err := d.next()
	var raw asn1.RawValue
	rest, want := asn1.Unmarshal(b, &raw)
	if len(b) > 0 && b[0]&0x1F == 0x1F {
		require.Error(t, err)
		return
	}
	require.Equal(t, want == nil, err == nil, "% x: %v, %v", b, err, want)
	if err != nil {
		return
	}
	require.Equal(t, raw.FullBytes, e.raw)
	require.True(t, bytes.Equal(raw.Bytes, e.content))
	require.Equal(t, rest, d.rest)
	require.Equal(t, int64(100), e.at)
	require.Equal(t, int64(100+len(e.raw)), d.at)
}

// watched fails when something outside the file is read.
type watched struct {
	t testing.TB
	b []byte
}

func (w watched) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || off+int64(len(p)) > int64(len(w.b)) {
		w.t.Errorf("%d bytes read at %#x of a file of %#x", len(p), off, len(w.b))
	}
	return bytes.NewReader(w.b).ReadAt(p, off)
}

// hostile reads signatures and the enclave of any bytes, and the bounds that it checks
// hold for all.
func hostile(t testing.TB, b []byte) {
	i, err := Open(watched{t, b}, int64(len(b)))
	if err != nil {
		return
	}
	all, _ := i.Signatures()
	if len(all) > MaxSignatures {
		t.Errorf("%d signatures", len(all))
	}
	for _, s := range all {
		if s.Nesting > MaxSignatureNesting || len(s.Signers) > MaxSignatureSigners || len(s.Certificates) > MaxSignatureCertificates {
			t.Errorf("more is read than the limits allow: %+v", s)
		}
		if s.Consistent() && !bytes.Equal(s.Claimed, s.Computed) {
			t.Errorf("consistent with another digest: %+v", s)
		}
		_ = s.Claims().TrustletLacks(Platform{})
		for _, r := range s.Reasons {
			if r.Rule == "" || r.Detail == "" || r.Offset < 0 || r.Offset > i.Size {
				t.Errorf("reason %+v", r)
			}
		}
	}
	if c, err := i.Enclave(); err == nil && c != nil {
		if len(c.Imports) > MaxEnclaveImports {
			t.Errorf("%d imports", len(c.Imports))
		}
		_ = fmt.Sprint(c)
	}
}

// images returns the test images of this file's subjects.
func images(t testing.TB) [][]byte {
	var all [][]byte
	for _, pattern := range []string{"signed-*", "vbs*.dll"} {
		files, err := filepath.Glob(filepath.Join("testdata", pattern))
		require.NoError(t, err)
		require.NotEmpty(t, files)
		for _, file := range files {
			b, err := os.ReadFile(file)
			require.NoError(t, err)
			all = append(all, b)
		}
	}
	return all
}

// TestMutatedSignatures changes bytes: every eighth of the certificate table alone, and
// some of the whole file together.
func TestMutatedSignatures(t *testing.T) {
	all := images(t)
	for n, b := range all {
		i, err := Open(bytes.NewReader(b), int64(len(b)))
		require.NoError(t, err)
		from, size := i.Directory(4)
		for at := from; at < from+size; at++ {
			if (at+uint32(n))%8 != 0 {
				continue // all of them take 10 seconds
			}
			was := b[at]
			for _, v := range []byte{0, was + 1, was ^ 0x20, was ^ 0x80, 0xFF} {
				b[at] = v
				hostile(t, b)
			}
			b[at] = was
		}
	}
	rapid.Check(t, func(rt *rapid.T) {
		b := bytes.Clone(rapid.SampledFrom(all).Draw(rt, "image"))
		for range rapid.IntRange(1, 8).Draw(rt, "changes") {
			at := rapid.IntRange(0, len(b)-1).Draw(rt, "at")
			b[at] = rapid.Byte().Draw(rt, "byte")
		}
		if rapid.IntRange(0, 9).Draw(rt, "cut") == 0 {
			b = b[:rapid.IntRange(0, len(b)).Draw(rt, "size")]
		}
		hostile(t, b)
	})
}

// FuzzSignatures edits one of the images: three bytes of an edit are an offset, counted from
// the end of the file, where the certificates are, and what to write there. Whole images
// would be too large an input: to make one smaller, the fuzzer tries to leave out each pair
// of its bytes, for a minute.
func FuzzSignatures(f *testing.F) {
	all := images(f)
	for n := range all {
		f.Add(uint8(n), []byte{})
	}
	f.Fuzz(func(t *testing.T, image uint8, edits []byte) {
		b := bytes.Clone(all[int(image)%len(all)])
		for ; len(edits) >= 3; edits = edits[3:] {
			b[len(b)-1-int(binary.LittleEndian.Uint16(edits))%len(b)] = edits[2]
		}
		hostile(t, b)
	})
}

// TestSignaturesAllocate bounds what is allocated for signatures by their size, whatever
// they hold: here, as many small elements as there can be.
func TestSignaturesAllocate(t *testing.T) {
	good := key(t, "ecdsa")
	plain := built(t, trustletSpec())
	small := bytes.Repeat(tlv(0x30), 1<<19)
	for name, entry := range map[string][]byte{
		"certificates": recipe{key: good, certificates: [][]byte{small}}.sign(t, plain),
		"others":       recipe{key: good, certificates: [][]byte{bytes.Repeat(tlv(0x05), 1<<19)}}.sign(t, plain),
		"signers":      tlv(0x30, der1(oid(oidSignedData)), tlv(0xA0, tlv(0x30, der1(1), tlv(0x31), tlv(0x30, der1(oid(oidSpcIndirectData)), tlv(0xA0, tlv(0x30))), tlv(0x31, small)))),
		"attributes":   recipe{key: good, unsigned: [][]byte{small}}.sign(t, plain),
		"nested":       recipe{key: good, unsigned: [][]byte{attribute(oidNestedSignature, small)}}.sign(t, plain),
		"serial":       recipe{key: good, issuer: tlv(0x30, tlv(0x30), tlv(derInteger, make([]byte, 1<<20)))}.sign(t, plain),
	} {
		i := signed(t, entry)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := i.Signatures()
		runtime.ReadMemStats(&after)
		require.NoError(t, err)
		allocated := int64(after.TotalAlloc - before.TotalAlloc)
		assert.Less(t, allocated, 4*i.Size, name)
	}
}

// TestLargeCertificates sees to it that certificates which are too large for crypto/x509 are
// not parsed, be it that one is or that all are, and are read without it all the same.
func TestLargeCertificates(t *testing.T) {
	good := key(t, "rsa", string(EKUIUM))
	whole := der{good.certificate, 0}
	e, err := whole.next()
	require.NoError(t, err)
	in := e.inside()
	tbs, err := in.next()
	require.NoError(t, err)
	// named returns the certificate with a subject of about n bytes, in 11 for each part.
	named := func(n int) []byte {
		var parts [][]byte
		for rest := tbs.inside(); !rest.empty(); {
			part, err := rest.next()
			require.NoError(t, err)
			parts = append(parts, part.raw)
		}
		unit := tlv(0x31, tlv(0x30, tlv(0x06, []byte{0x55, 4, 11}), tlv(0x0C, []byte("a"))))
		parts[5] = tlv(0x30, bytes.Repeat(unit, n/len(unit)))
		return tlv(0x30, tlv(0x30, parts...), in.rest)
	}
	plain := built(t, trustletSpec())
	for name, tc := range map[string]struct {
		certificates [][]byte
		parsed       int
	}{
		"one":   {[][]byte{named(3_900_000)}, 0},
		"limit": {[][]byte{named(MaxX509Size - 1200), named(MaxX509Size)}, 1},
		"all":   {slices.Repeat([][]byte{named(MaxX509Size - 1200)}, 30), 16},
	} {
		i := signed(t, recipe{key: good, certificates: tc.certificates}.sign(t, plain))
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		all, err := i.Signatures()
		runtime.ReadMemStats(&after)
		require.NoError(t, err)
		assert.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(4*i.Size+40*MaxX509Total), name)
		require.Len(t, all[0].Certificates, len(tc.certificates))
		parsed := 0
		for _, c := range all[0].Certificates {
			assert.Equal(t, []EKU{EKUIUM}, c.EKUs, name)
			if c.X509 != nil {
				parsed++
				continue
			}
			var bad *FormatError
			require.ErrorAs(t, c.Err, &bad)
			assert.Equal(t, RuleSignatureLimit, bad.Rule)
			assert.Contains(t, all[0].Reasons, Reason{Rule: bad.Rule, Offset: c.Offset, Detail: bad.Detail})
		}
		assert.Equal(t, tc.parsed, parsed, name)
	}
}

// TestEKUTable compares the table with a header, if that is there.
func TestEKUTable(t *testing.T) {
	for _, row := range ekuRows {
		for _, s := range []string{string(row.oid), row.oid.String(), row.meaning, row.name} {
			if s != "" {
				got, err := ParseEKU(s)
				require.NoError(t, err)
				assert.Equal(t, row.oid, got, s)
			}
		}
		assert.NotEmpty(t, row.oid.Source())
		assert.NotEmpty(t, row.oid.Meaning())
	}
	author := EKU("1.3.6.1.4.1.311.97.99999999999999999999.2")
	assert.Equal(t, "Enclave Author [1.3.6.1.4.1.311.97.99999999999999999999.2]", author.String())
	got, err := ParseEKU(author.String())
	require.NoError(t, err)
	assert.Equal(t, author, got)
	assert.Equal(t, "1.2.3", EKU("1.2.3").String())
	for _, s := range []string{"", "1", "1..2", "01.2", "1.2.", ".", "no such usage", "1.2.x", "[1.2", "()"} {
		_, err := ParseEKU(s)
		assert.ErrorContains(t, err, "object identifier", s)
	}

	header, err := os.ReadFile("/usr/share/mingw-w64/include/wincrypt.h")
	if err != nil {
		t.Skip("needs MinGW's wincrypt.h for the comparison")
	}
	for _, row := range ekuRows {
		if row.name != "" {
			assert.Regexp(t, `#define `+row.name+` "`+regexp.QuoteMeta(string(row.oid))+`"`, string(header))
		}
	}
}

func TestSigningLevels(t *testing.T) {
	for l := range SigningLevel(255) {
		text, err := l.MarshalText()
		require.NoError(t, err)
		var back SigningLevel
		require.NoError(t, back.UnmarshalText(text))
		assert.Equal(t, l, back)
	}
	for s, want := range map[string]SigningLevel{
		"12": 12, "0xe": 14, "SE_SIGNING_LEVEL_WINDOWS_TCB": 14, "custom_1": 3, "SE_SIGNING_LEVEL_CUSTOM_3": 7, "dynamic-codegen": 11,
	} {
		got, err := ParseSigningLevel(s)
		require.NoError(t, err, s)
		assert.Equal(t, want, got, s)
	}
	for _, s := range []string{"", "16", "-1", "SigningLevel(3)", "SigningLevel(0x10", "trusted"} {
		_, err := ParseSigningLevel(s)
		assert.ErrorContains(t, err, "from 0 to 15", s)
	}
	for c := range Check(255) {
		text, _ := c.MarshalText()
		var back Check
		require.NoError(t, back.UnmarshalText(text))
		assert.Equal(t, c, back)
	}
	assert.Error(t, new(Check).UnmarshalText([]byte("maybe")))
	assert.Error(t, new(Check).UnmarshalText([]byte("Check(0x1)")))
}

// TestClaims draws usages: the level is the highest of those they stand for.
func TestClaims(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var ekus []EKU
		want := SigningAuthenticode
		for _, row := range rapid.SliceOf(rapid.SampledFrom(ekuRows)).Draw(t, "rows") {
			ekus = append(ekus, row.oid)
			want = max(want, row.level)
		}
		c := (&Signature{Signers: []Signer{{Certificate: &SigningCertificate{EKUs: ekus}}}}).Claims()
		require.Equal(t, want, c.Level)
		if c.Because != "" {
			require.Equal(t, want, c.Because.row().level)
			require.True(t, c.Has(c.Because))
		}
		lacks := c.TrustletLacks(Platform{})
		require.Equal(t, c.Has(EKUIUM) && c.Has(EKUSystemComponent), len(lacks) == 0, lacks)
	})
	unsigned := (&Signature{}).Claims()
	assert.Equal(t, SigningUnsigned, unsigned.Level)
	assert.Equal(t, []string{"a signature"}, unsigned.TrustletLacks(Platform{TestSigning: true}))
}

func BenchmarkSignatures(b *testing.B) {
	data, err := os.ReadFile("testdata/signed-rsa.exe")
	require.NoError(b, err)
	i, err := Open(bytes.NewReader(data), int64(len(data)))
	require.NoError(b, err)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := i.Signatures(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDigest(b *testing.B) {
	spec := trustletSpec()
	spec.Sections = []SectionSpec{{Name: ".text", Data: make([]byte, 2<<20)}}
	i := built(b, spec)
	b.SetBytes(i.Size)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := i.Digest(crypto.SHA256); err != nil {
			b.Fatal(err)
		}
	}
}
