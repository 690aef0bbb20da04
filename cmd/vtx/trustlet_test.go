package main

import (
	"bytes"
	"debug/pe"
	"encoding/binary"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/govtx/vtx/ium"
)

var updateTrustlet = flag.Bool("update-trustlet", false, "write what vtx trustlet prints to testdata/trustlet")

func policyNumber(id ium.PolicyID, v uint64) ium.Entry {
	typ := ium.EntryUInt32
	if id == ium.PolicyCapability {
		typ = ium.EntryUInt64
	}
	return ium.Entry{Type: typ, ID: id, Value: v}
}

// trustletImages are images to report, by file name.
func trustletImages(t require.TestingT) map[string][]byte {
	lsaiso := &ium.Policy{Version: 1, ID: 1, Entries: []ium.Entry{
		policyNumber(ium.PolicyETW, 1), policyNumber(ium.PolicyDebug, 0), policyNumber(ium.PolicyCrashDump, 1),
		{Type: ium.EntryAnsiString, ID: ium.PolicyCrashDumpKey, Text: "5253413100080000"},
	}}
	fsiso := &ium.Policy{Version: 1, ID: 5, Entries: []ium.Entry{
		policyNumber(ium.PolicyETW, 1), policyNumber(ium.PolicyDebug, 3), policyNumber(ium.PolicyCapability, 0),
		{Type: ium.EntryAnsiString, ID: ium.PolicyCrashDumpKey, Text: "5253413100080000"},
		{Type: ium.EntryAnsiString, ID: ium.PolicyScenarioID, Text: "{01234567-89ab-cdef-0123-456789abcdef}"},
	}}
	unknown := &ium.Policy{Version: 1, ID: 4242, Entries: []ium.Entry{policyNumber(ium.PolicyDebug, 2)}}
	specs := map[string]*ium.ImageSpec{
		"lsaiso":    {Policy: lsaiso},
		"fsiso":     {Policy: fsiso, PolicyExports: []string{ium.OldPolicyExport}},
		"unknown":   {Policy: unknown},
		"dll":       {Policy: unknown, Characteristics: 0x2000}, // IMAGE_FILE_DLL
		"refused":   {Policy: &ium.Policy{Version: 1, Entries: unknown.Entries}},
		"misplaced": {Policy: lsaiso, PolicySection: ".rdata"},
		"malformed": {Policy: &ium.Policy{Version: 2, ID: 1, Entries: lsaiso.Entries}},
		"plain":     {},
		"enclave":   {Characteristics: 0x2000},
	}
	require.NoError(t, specs["enclave"].SetEnclave(&ium.EnclaveConfig{
		Policy: ium.EnclaveDebuggable, FamilyID: [16]byte{1, 2, 3}, ImageID: [16]byte{0xff}, ImageVersion: 3, SecurityVersion: 2,
		EnclaveSize: 1 << 28, Threads: 16, Flags: ium.EnclavePrimaryImage,
		Imports: []ium.EnclaveImport{{Match: ium.MatchAuthorID, SecurityVersion: 1, Name: "bcrypt.dll"}},
	}))
	images := map[string][]byte{}
	for name, s := range specs {
		b, err := s.Build()
		require.NoError(t, err, name)
		images[name] = b
	}
	return images
}

func TestTrustlet(t *testing.T) {
	for name, image := range trustletImages(t) {
		t.Run(name, func(t *testing.T) {
			s := newSession(t)
			require.NoError(t, os.WriteFile(filepath.Join(s.dir, name+".exe"), image, 0o600))
			out, errOut, status := s.run(t, "trustlet", name+".exe")
			require.Zero(t, status)
			require.Empty(t, errOut)
			golden := filepath.Join("testdata", "trustlet", name+".golden")
			if *updateTrustlet {
				require.NoError(t, os.WriteFile(golden, []byte(out), 0o644))
			}
			want, err := os.ReadFile(golden)
			require.NoError(t, err, "-update-trustlet writes it")
			require.Equal(t, string(want), out)
		})
	}
}

// What is said of real images: those of package ium, signed with keys made for that.
func TestTrustletSigned(t *testing.T) {
	for file, want := range map[string][]string{
		"signed-rsa.exe":      {"fits the image and itself; digest of the image (SHA-256): holds", "Isolated User Mode (IUM) [1.3.6.1.4.1.311.10.3.37]"},
		"signed-ecdsa.exe":    {"fits the image and itself; digest of the image (SHA-256): holds"},
		"signed-sha1.exe":     {"digest of the image (SHA-1): holds"},
		"signed-nested.exe":   {"\n  nested signature "},
		"signed-tampered.exe": {"does not fit the image, or not itself; digest of the image (SHA-256): fails"},
		"signed-vbs64.dll":    {"a VBS enclave, not a trustlet", "\n  enclave "},
	} {
		t.Run(file, func(t *testing.T) {
			path, err := filepath.Abs(filepath.Join("..", "..", "ium", "testdata", file))
			require.NoError(t, err)
			out, errOut, status := newSession(t).run(t, "trustlet", path)
			require.Zero(t, status, errOut)
			for _, s := range want {
				require.Contains(t, out, s)
			}
		})
	}
}

func TestTrustletJSON(t *testing.T) {
	s := newSession(t)
	images := trustletImages(t)
	require.NoError(t, os.WriteFile(filepath.Join(s.dir, "f.exe"), images["fsiso"], 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(s.dir, "text"), []byte("no image"), 0o600))
	out, errOut, status := s.run(t, "trustlet", "-json", "f.exe", "text", "gone")
	require.Equal(t, 1, status)
	require.Contains(t, errOut, "2 files: 1 PE image")
	lines := strings.Split(strings.TrimSpace(out), "\n")
	require.Len(t, lines, 3)
	var got [3]map[string]any
	for i, line := range lines {
		require.NoError(t, json.Unmarshal([]byte(line), &got[i]), line)
	}
	f := got[0]
	require.Equal(t, "f.exe", f["file"])
	require.Equal(t, true, f["trustlet"])
	require.NotContains(t, f, "error")
	policy := f["policy"].(map[string]any)
	require.Equal(t, "valid", policy["grade"])
	require.EqualValues(t, 5, policy["id"])
	require.Equal(t, ium.OldPolicyExport, policy["export"])
	entry := policy["entries"].([]any)[1].(map[string]any)
	require.Equal(t, map[string]any{"id": "ImagePolicyIdDebug", "type": "ImagePolicyEntryTypeUInt32", "value": 3.0, "offset": entry["offset"]}, entry)
	require.Len(t, f["known"].(map[string]any)["deviations"], 2)
	require.NotEmpty(t, f["answers"])
	require.Equal(t, []any{"a signature"}, f["signatures"].(map[string]any)["lacks"])

	require.Equal(t, "text", got[1]["file"])
	require.NotEmpty(t, got[1]["rule"])
	require.EqualValues(t, 0, got[1]["offset"])
	require.Equal(t, false, got[1]["trustlet"])
	require.Contains(t, got[2]["error"], "no such file")
}

func TestTrustletErrors(t *testing.T) {
	for _, tc := range []struct {
		args        []string
		out, errOut string
		status      int
	}{
		{nil, "", "no FILE or DIR named", 2},
		{[]string{"gone"}, "", "vtx trustlet: stat gone: no such file", 1},
		{[]string{"text"}, "text: no PE image: offset 0x0: ", "", 1},
		{[]string{"empty"}, "empty: no PE image: ", "", 1},
		{[]string{os.DevNull}, "", "neither a file nor a directory", 1},
		{[]string{"empty dir"}, "0 files: 0 PE images", "", 0},
		{[]string{"a\nb"}, "", `stat a\nb: no such file`, 1},
	} {
		t.Run(strings.Join(tc.args, " "), func(t *testing.T) {
			s := newSession(t)
			require.NoError(t, os.WriteFile(filepath.Join(s.dir, "text"), []byte("no image"), 0o600))
			require.NoError(t, os.WriteFile(filepath.Join(s.dir, "empty"), nil, 0o600))
			require.NoError(t, os.Mkdir(filepath.Join(s.dir, "empty dir"), 0o700))
			out, errOut, status := s.run(t, append([]string{"trustlet"}, tc.args...)...)
			require.Equal(t, tc.status, status)
			require.Contains(t, out, tc.out)
			require.Contains(t, errOut, tc.errOut)
			if tc.errOut == "" {
				require.Empty(t, errOut)
			}
		})
	}
}

// trustletDir has images and other things in two directories, and links that lead nowhere
// and in a circle.
func trustletDir(t *testing.T, s *session) {
	t.Helper()
	images := trustletImages(t)
	sub := filepath.Join(s.dir, "top", "sub")
	require.NoError(t, os.MkdirAll(sub, 0o755))
	for name, content := range map[string][]byte{
		"top/a.exe": images["plain"], "top/b.txt": []byte("text"), "top/c.com": []byte("MZ, but of DOS"),
		"top/sub/d.exe": images["lsaiso"], "top/sub/e.exe": images["malformed"], "top/sub/f.dll": images["enclave"],
	} {
		require.NoError(t, os.WriteFile(filepath.Join(s.dir, name), content, 0o600))
	}
	require.NoError(t, os.Symlink("..", filepath.Join(sub, "up")))
	require.NoError(t, os.Symlink("nowhere", filepath.Join(sub, "down")))
}

func TestTrustletDir(t *testing.T) {
	s := newSession(t)
	trustletDir(t, s)
	out, errOut, status := s.run(t, "trustlet", "top")
	require.Zero(t, status)
	require.Empty(t, errOut)
	require.Contains(t, out, "top/a.exe: not a trustlet: program without a policy\ntop/sub/d.exe: a trustlet, by its policy: id 1, that of LSAISO")
	require.Contains(t, out, "top/sub/e.exe: not a trustlet: its policy is malformed")
	require.Contains(t, out, "top/sub/f.dll: a VBS enclave")
	require.NotContains(t, out, "b.txt")
	require.NotContains(t, out, "c.com")
	summary := "6 files: 4 PE images, of which 2 without a policy, 1 with a valid one, 0 misplaced, 1 malformed; 1 enclave; 2 of other formats\n"
	require.True(t, strings.HasSuffix(out, summary), out)

	all, errOut, status := s.run(t, "trustlet", "-v", "top")
	require.Zero(t, status)
	require.Empty(t, errOut)
	require.Contains(t, all, "top/b.txt: no PE image: ")
	require.Contains(t, all, "program without a policy\n  image ")
	require.True(t, strings.HasSuffix(all, summary))

	// A link that is named is followed.
	require.NoError(t, os.Symlink("top", filepath.Join(s.dir, "link")))
	linked, errOut, status := s.run(t, "trustlet", "link")
	require.Zero(t, status)
	require.Empty(t, errOut)
	require.Equal(t, strings.ReplaceAll(out, "top/", "link/"), linked)

	lines, errOut, status := s.run(t, "trustlet", "-json", "top")
	require.Zero(t, status)
	require.Equal(t, summary, errOut)
	require.Equal(t, 5, strings.Count(lines, "\n")) // with the program of DOS, which begins as an image does
}

// A long walk gives signs of life; one that goes too far ends.
func TestTrustletProgress(t *testing.T) {
	s := newSession(t)
	trustletDir(t, s)
	var out, errOut bytes.Buffer
	r := &trustletRun{out: &out, errOut: &errOut}
	require.Zero(t, r.run([]string{filepath.Join(s.dir, "top")}))
	require.Contains(t, errOut.String(), "vtx trustlet: 4 files so far, 1 of them PE images\n")

	errOut.Reset()
	r = &trustletRun{out: &out, errOut: &errOut, files: maxTrustletFiles - 1}
	require.Equal(t, 1, r.run([]string{filepath.Join(s.dir, "top")}))
	require.Contains(t, errOut.String(), "name smaller directories")
}

// unread fails a test that reads it.
type unread struct{ t *testing.T }

func (u unread) ReadAt([]byte, int64) (int, error) {
	u.t.Error("a file without a size is read, which may wait")
	return 0, io.EOF
}

func TestTrustletWithoutSize(t *testing.T) {
	name := filepath.Join(t.TempDir(), "empty")
	require.NoError(t, os.WriteFile(name, nil, 0o600))
	info, err := os.Stat(name)
	require.NoError(t, err)
	require.False(t, startsMZ(unread{t}, info))
}

// Files of /sys are not as long as they say. They are no images, and no mistakes.
func TestTrustletShortFiles(t *testing.T) {
	const dir = "/sys/kernel/mm/transparent_hugepage"
	b, err := os.ReadFile(filepath.Join(dir, "enabled"))
	info, err2 := os.Stat(filepath.Join(dir, "enabled"))
	if err != nil || err2 != nil || int64(len(b)) >= info.Size() {
		t.Skip("needs a file of /sys that is shorter than it says")
	}
	var out, errOut bytes.Buffer
	r := &trustletRun{out: &out, errOut: &errOut, every: time.Hour}
	require.Zero(t, r.run([]string{dir}), errOut.String())
	require.Empty(t, errOut.String())
	require.Equal(t, r.files, r.broken)
}

// full is a writer that has room for some writes.
type full int

func (f *full) Write(b []byte) (int, error) {
	if *f--; *f < 0 {
		return 0, errors.New("disk full")
	}
	return len(b), nil
}

// What cannot be written is said, and nothing is read any more.
func TestTrustletUnwritten(t *testing.T) {
	s := newSession(t)
	trustletDir(t, s)
	top := filepath.Join(s.dir, "top")
	for _, json := range []bool{false, true} {
		var errOut bytes.Buffer
		room := full(1)
		r := &trustletRun{json: json, out: &room, errOut: &errOut, every: time.Hour}
		require.Equal(t, 1, r.run([]string{top, top}))
		require.Equal(t, 1, strings.Count(errOut.String(), "vtx trustlet: disk full\n"))
		require.Less(t, r.files, 6)
	}
}

// Of several signatures, the one that claims most says what the verdict is; that another
// one fits the image is no help.
func TestTrustletVerdictOfSignatures(t *testing.T) {
	file := func(name string) *ium.Image {
		i, err := ium.OpenFile(filepath.Join("..", "..", "ium", "testdata", name))
		require.NoError(t, err)
		t.Cleanup(func() { i.Close() })
		return i
	}
	certificate := func(name string) ium.Certificate {
		all, err := file(name).Certificates()
		require.NoError(t, err)
		return all[0]
	}
	whole := func(i *ium.Image) []byte {
		b := make([]byte, i.Size)
		_, err := i.ReaderAt().ReadAt(b, 0)
		require.NoError(t, err)
		return b
	}
	// The image of signed-rsa.exe, with its own signature and that of an enclave.
	image := file("signed-rsa.exe")
	start, _ := image.Directory(pe.IMAGE_DIRECTORY_ENTRY_SECURITY)
	with := func(certificates ...ium.Certificate) *trustletReport {
		b := bytes.Clone(whole(image)[:start])
		for _, c := range certificates {
			b = binary.LittleEndian.AppendUint32(b, c.Length)
			b = binary.LittleEndian.AppendUint16(b, c.Revision)
			b = binary.LittleEndian.AppendUint16(b, c.Type)
			b = append(b, c.Data...)
			b = append(b, make([]byte, -len(b)&7)...)
		}
		binary.LittleEndian.PutUint32(b[image.DirectoryOffset(pe.IMAGE_DIRECTORY_ENTRY_SECURITY)+4:], uint32(len(b))-start)
		r, err := examine("x", bytes.NewReader(b), int64(len(b)))
		require.NoError(t, err)
		return r
	}
	own, enclave := certificate("signed-rsa.exe"), certificate("signed-vbs64.dll")
	const claims = "its signature claims what a trustlet needs, and is not verified"
	require.Contains(t, with(own).Verdict, claims)
	require.Contains(t, with(enclave).Verdict, "its signature does not claim what a trustlet needs")
	require.Contains(t, with(enclave, own).Verdict, claims)
	require.Contains(t, with(own, enclave).Verdict, claims)

	broken := own
	broken.Data = bytes.Clone(own.Data)
	broken.Data[len(broken.Data)-40] ^= 1 // in the signature by the key, 256 bytes at the end
	require.Contains(t, with(broken).Verdict, "its signature does not fit it")
	require.Contains(t, with(broken, own).Verdict, claims)

	// What is not checked does not fail: here, for the digest is one that nobody knows.
	algorithm := []byte{0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01} // SHA-256
	strange := own
	strange.Data = bytes.ReplaceAll(own.Data, algorithm, append(algorithm[:10:10], 0x7f))
	r := with(strange)
	require.Contains(t, r.Verdict, "claims what a trustlet needs, and whether it fits could not be checked")
	var text strings.Builder
	r.text(&text)
	require.Contains(t, text.String(), "could not be checked in full; digest of the image (2.16.840.1.101.3.4.2.127): not checked")
}

// A verdict is not surer than the rule it is from.
func TestTrustletVerdictInferred(t *testing.T) {
	spec := ium.ImageSpec{Policy: &ium.Policy{Version: 1, ID: 7, Entries: []ium.Entry{{Type: ium.EntryOverride, ID: ium.PolicyScenarioID}}}}
	b, err := spec.Build()
	require.NoError(t, err)
	r, err := examine("x", bytes.NewReader(b), int64(len(b)))
	require.NoError(t, err)
	require.False(t, r.Trustlet)
	require.Contains(t, r.Verdict, "VTL1 refuses it: a scenario id is not a string with a GUID; that rule is inferred")
}

// Whatever a file holds, the report is text that a terminal can take, and JSON.
func TestTrustletHostile(t *testing.T) {
	var images [][]byte
	for _, b := range trustletImages(t) {
		images = append(images, b)
	}
	rapid.Check(t, func(t *rapid.T) {
		b := bytes.Clone(images[rapid.IntRange(0, len(images)-1).Draw(t, "image")])
		for range rapid.IntRange(0, 8).Draw(t, "changes") {
			b[rapid.IntRange(0, len(b)-1).Draw(t, "where")] = rapid.Byte().Draw(t, "byte")
		}
		b = b[:rapid.IntRange(len(b)/2, len(b)).Draw(t, "length")]
		report, err := examine("\x1b]0;x\a", bytes.NewReader(b), int64(len(b)))
		if err != nil {
			require.ErrorAs(t, err, new(*ium.FormatError))
			return
		}
		var text strings.Builder
		report.text(&text)
		for _, c := range text.String() {
			require.True(t, c == '\n' || unicode.IsPrint(c), "%q", text.String())
		}
		line, err := json.Marshal(report)
		require.NoError(t, err)
		require.True(t, json.Valid(line))
	})
}

// JSON can be looked at in a terminal, whatever names hold, and is the same text.
func TestTrustletJSONPrintable(t *testing.T) {
	for name, want := range map[string]string{
		"\x1b]0;x\a": `"\u001b]0;x\u0007"`, "\x7f": `"\u007f"`, "\u009b31m": `"\u009b31m"`, "\u202eexe": `"\u202eexe"`,
		"\U000e0001": `"\udb40\udc01"`, "ü \\ \"😀<\n": "\"ü \\\\ \\\"😀<\\n\"",
	} {
		var out bytes.Buffer
		r := &trustletRun{json: true, out: &out}
		r.print(&trustletReport{File: name})
		require.Equal(t, `{"file":`+want+`,"trustlet":false}`+"\n", out.String())
		var back trustletReport
		require.NoError(t, json.Unmarshal(out.Bytes(), &back))
		require.Equal(t, name, back.File)
	}
}

// when names states by what tells them from all others.
func TestTrustletWhen(t *testing.T) {
	for _, tc := range []struct {
		states []int
		want   string
	}{
		{[]int{0, 1, 2, 3, 4, 5, 6, 7}, ""},
		{[]int{1, 3, 5, 7}, "Secure Boot on"},
		{[]int{2, 6}, "Secure Boot off, challenge passed"},
		{[]int{0}, "Secure Boot off, challenge not passed, secure kernel debugging off"},
		{[]int{0, 3}, "Secure Boot off, challenge not passed, secure kernel debugging off; or Secure Boot on, challenge passed, secure kernel debugging off"},
	} {
		require.Equal(t, tc.want, when(tc.states))
	}
}
