package main

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/govtx/vtx/ium"
)

// A trustletReport is what "vtx trustlet" says of a file. Its members' names in JSON are
// in the help and stay as they are.
type trustletReport struct {
	File   string   `json:"file"`
	Error  string   `json:"error,omitempty"`
	Rule   ium.Rule `json:"rule,omitempty"`
	Offset *int64   `json:"offset,omitempty"`

	Verdict  string       `json:"verdict,omitempty"`
	Trustlet bool         `json:"trustlet"`
	Size     int64        `json:"size,omitempty"`
	Machine  string       `json:"machine,omitempty"`
	Bits     int          `json:"bits,omitempty"`
	Kind     string       `json:"kind,omitempty"`
	Problems []reasonJSON `json:"problems,omitempty"`
	Policy   *policyJSON  `json:"policy,omitempty"`
	Signed   *signedJSON  `json:"signatures,omitempty"`
	Known    *knownJSON   `json:"known,omitempty"`
	Answers  []answerJSON `json:"answers,omitempty"`
	Enclave  *enclaveJSON `json:"enclave,omitempty"`

	grade ium.Grade
	fits  ium.Check // whether the signature that Signed.Lacks is of fits the image and itself
	brief bool      // the verdict is enough
}

type reasonJSON struct {
	Rule   ium.Rule `json:"rule"`
	Offset int64    `json:"offset"`
	Detail string   `json:"detail"`
	Note   bool     `json:"note,omitempty"` // not why the grade is as it is
}

type policyJSON struct {
	Grade   ium.Grade    `json:"grade"`
	Section string       `json:"section,omitempty"`
	Export  string       `json:"export,omitempty"`
	RVA     uint32       `json:"rva,omitempty"`
	Offset  int64        `json:"offset,omitempty"`
	Version uint8        `json:"version,omitempty"`
	ID      *uint64      `json:"id,omitempty"`
	Entries []entryJSON  `json:"entries,omitempty"`
	Reasons []reasonJSON `json:"reasons,omitempty"`
}

type entryJSON struct {
	Offset int64         `json:"offset"`
	ID     ium.PolicyID  `json:"id"`
	Type   ium.EntryType `json:"type"`
	Value  *uint64       `json:"value,omitempty"`
	Text   *string       `json:"text,omitempty"`
}

type signedJSON struct {
	List  []signatureJSON `json:"list,omitempty"`
	Error string          `json:"error,omitempty"`
	Lacks []string        `json:"lacks,omitempty"` // of what a trustlet has to claim
}

type signatureJSON struct {
	Offset     int64        `json:"offset"`
	Nesting    int          `json:"nesting,omitempty"`
	Digest     string       `json:"digest,omitempty"`
	Image      ium.Check    `json:"image"`      // the digest of the image
	Consistent bool         `json:"consistent"` // with the image and itself; not trust
	Signer     string       `json:"signer,omitempty"`
	Level      string       `json:"level"`
	EKUs       []string     `json:"ekus,omitempty"`
	Timestamps []time.Time  `json:"timestamps,omitempty"`
	Reasons    []reasonJSON `json:"reasons,omitempty"`

	fits ium.Check
}

type knownJSON struct {
	ID         uint64   `json:"id"`
	Name       string   `json:"name"`
	Image      string   `json:"image,omitempty"`
	Purpose    string   `json:"purpose"`
	Source     string   `json:"source"`
	Note       string   `json:"note,omitempty"`
	Deviations []string `json:"deviations,omitempty"`
}

type answerJSON struct {
	Question ium.Question `json:"question"`
	When     string       `json:"when,omitempty"` // on which platforms; empty: on all
	Allowed  bool         `json:"allowed"`
	Rule     ium.Rule     `json:"rule"`
	Reason   string       `json:"reason"`
	Inferred bool         `json:"inferred,omitempty"`
	Source   string       `json:"source"`
}

type enclaveJSON struct {
	Error           string       `json:"error,omitempty"`
	Rule            ium.Rule     `json:"rule,omitempty"`
	Offset          int64        `json:"offset,omitempty"`
	Policy          string       `json:"policy,omitempty"`
	Flags           string       `json:"flags,omitempty"`
	FamilyID        string       `json:"family,omitempty"`
	ImageID         string       `json:"image,omitempty"`
	ImageVersion    uint32       `json:"version,omitempty"`
	SecurityVersion uint32       `json:"svn,omitempty"`
	Size            uint64       `json:"size,omitempty"`
	Threads         uint32       `json:"threads,omitempty"`
	Imports         []importJSON `json:"imports,omitempty"`
	Reasons         []reasonJSON `json:"reasons,omitempty"`
}

type importJSON struct {
	Name            string           `json:"name"`
	Match           ium.EnclaveMatch `json:"match"`
	SecurityVersion uint32           `json:"svn"`
}

// examine reports an image. The error is an *ium.FormatError if the file is none.
func examine(name string, file io.ReaderAt, size int64) (*trustletReport, error) {
	image, err := ium.Open(file, size)
	if err != nil {
		return nil, err
	}
	r := &trustletReport{File: name, Size: size, Machine: image.Machine.String(), Bits: 32, Kind: image.Kind.String()}
	if image.Is64 {
		r.Bits = 64
	}
	for _, p := range image.Problems {
		r.Problems = append(r.Problems, reasonJSON{Rule: p.Rule, Offset: p.Offset, Detail: p.Detail})
	}
	finding, err := image.Policy()
	if err != nil {
		return nil, err
	}
	r.policy(&finding)
	if err := r.signed(image); err != nil {
		return nil, err
	}
	if err := r.enclave(image); err != nil {
		return nil, err
	}
	r.Verdict = r.verdict(&finding)
	return r, nil
}

func reasons(list []ium.Reason) (all []reasonJSON) {
	for _, r := range list {
		all = append(all, reasonJSON{r.Rule, r.Offset, r.Detail, r.Note})
	}
	return all
}

func (r *trustletReport) policy(f *ium.Finding) {
	r.grade = f.Grade
	p := &policyJSON{Grade: f.Grade, Section: f.Location.Section, Export: f.Location.Export, RVA: f.Location.RVA, Reasons: reasons(f.Reasons)}
	r.Policy = p
	if f.Grade != ium.Absent {
		p.Offset = f.Location.Offset
	}
	if f.Policy == nil {
		return
	}
	p.Version, p.ID = f.Policy.Version, &f.Policy.ID
	for _, e := range f.Policy.Entries {
		j := entryJSON{Offset: e.Offset, ID: e.ID, Type: e.Type}
		if isText(e.Type) {
			j.Text = &e.Text
		} else {
			j.Value = &e.Value
		}
		p.Entries = append(p.Entries, j)
	}
	if f.Grade != ium.Valid {
		return
	}
	r.Answers = answers(f.Policy)
	if k, ok := ium.FindTrustlet(f.Policy.ID); ok {
		known := &knownJSON{ID: k.ID, Name: k.Name, Image: k.Image, Purpose: k.Purpose, Source: k.Source, Note: k.Note}
		for _, d := range k.Compare(f.Policy) {
			known.Deviations = append(known.Deviations, d.String())
		}
		r.Known = known
	}
}

func isText(t ium.EntryType) bool { return t == ium.EntryAnsiString || t == ium.EntryUnicodeString }

// signed reports the signatures. An error is one of reading.
func (r *trustletReport) signed(image *ium.Image) error {
	list, err := image.Signatures()
	s := &signedJSON{}
	if err != nil {
		if !errors.As(err, new(*ium.FormatError)) {
			return err
		}
		s.Error = err.Error()
	}
	lacks := ium.Claims{Level: ium.SigningUnsigned}.TrustletLacks(ium.Platform{})
	for i := range list {
		sig := &list[i]
		claims := sig.Claims()
		j := signatureJSON{
			Offset: sig.Offset, Nesting: sig.Nesting, Image: sig.Image, Consistent: sig.Consistent(),
			Level: fmt.Sprintf("%v (%d)", claims.Level, claims.Level), Reasons: reasons(sig.Reasons),
			fits: fits(sig),
		}
		if sig.Digest != "" {
			j.Digest = sig.Digest.String()
		}
		for _, e := range claims.EKUs {
			j.EKUs = append(j.EKUs, e.String())
		}
		for _, signer := range sig.Signers {
			if c := signer.Certificate; c != nil && c.X509 != nil && j.Signer == "" {
				j.Signer = c.X509.Subject.String()
			}
			for _, t := range signer.Timestamps {
				j.Timestamps = append(j.Timestamps, t.Time)
			}
		}
		s.List = append(s.List, j)
		// One signature that claims all, and fits, is enough.
		l := claims.TrustletLacks(ium.Platform{})
		if i == 0 || len(l) < len(lacks) || len(l) == len(lacks) && j.fits == ium.CheckHolds {
			lacks, r.fits = l, j.fits
		}
	}
	if r.grade != ium.Absent {
		s.Lacks = lacks
	}
	if len(s.List) > 0 || s.Error != "" || s.Lacks != nil {
		r.Signed = s
	}
	return nil
}

// fits tells whether a signature fits the image and itself.
func fits(s *ium.Signature) ium.Check {
	failed := s.Image == ium.CheckFails
	for _, signer := range s.Signers {
		failed = failed || signer.Message == ium.CheckFails || signer.Signature == ium.CheckFails
	}
	switch {
	case failed:
		return ium.CheckFails
	case s.Consistent():
		return ium.CheckHolds
	}
	return ium.NotChecked
}

// enclave reports the enclave configuration. An error is one of reading.
func (r *trustletReport) enclave(image *ium.Image) error {
	c, err := image.Enclave()
	var bad *ium.FormatError
	switch {
	case errors.As(err, &bad):
		// Without an enclave configuration, a load configuration that cannot be read
		// says nothing of enclaves.
		if image.Kind == ium.KindEnclave {
			r.Enclave = &enclaveJSON{Error: bad.Detail, Rule: bad.Rule, Offset: bad.Offset}
		} else {
			r.Problems = append(r.Problems, reasonJSON{Rule: bad.Rule, Offset: bad.Offset, Detail: bad.Detail})
		}
		return nil
	case err != nil || c == nil:
		return err
	}
	e := &enclaveJSON{
		Offset: c.Offset, Policy: c.Policy.String(), FamilyID: hex.EncodeToString(c.FamilyID[:]), ImageID: hex.EncodeToString(c.ImageID[:]),
		ImageVersion: c.ImageVersion, SecurityVersion: c.SecurityVersion, Size: c.EnclaveSize, Threads: c.Threads, Reasons: reasons(c.Reasons),
	}
	if c.HasFlags {
		e.Flags = c.Flags.String()
	}
	for _, i := range c.Imports {
		e.Imports = append(e.Imports, importJSON{i.Name, i.Match, i.SecurityVersion})
	}
	r.Enclave = e
	return nil
}

// A platformBit is a part of a platform's state on which answers may depend.
type platformBit struct {
	set     func(*ium.Platform)
	on, off string
}

var platformBits = []platformBit{
	{func(p *ium.Platform) { p.SecureBoot = true }, "Secure Boot on", "Secure Boot off"},
	{func(p *ium.Platform) { p.ChallengePassed = true }, "challenge passed", "challenge not passed"},
	{func(p *ium.Platform) { p.DebugEnabled = true }, "secure kernel debugging on", "secure kernel debugging off"},
}

// answers asks all questions on platforms in all states, and puts together the states with
// the same answer.
func answers(p *ium.Policy) (all []answerJSON) {
	states := 1 << len(platformBits)
	for q := range ium.Questions() {
		var found []ium.Answer
		in := map[ium.Rule][]int{}
		for state := range states {
			var platform ium.Platform
			for i, b := range platformBits {
				if state>>i&1 != 0 {
					b.set(&platform)
				}
			}
			a := ium.Judge(p, platform, q)
			if in[a.Rule] == nil {
				found = append(found, a)
			}
			in[a.Rule] = append(in[a.Rule], state)
		}
		for _, a := range found {
			all = append(all, answerJSON{q, when(in[a.Rule]), a.Allowed, a.Rule, a.Reason, a.Inferred, a.Source})
		}
	}
	return all
}

// when describes states of the platform: by the parts that they have in common if these
// tell them from all others, or else one by one.
func when(states []int) string {
	var words []string
	free := 1 << len(platformBits)
	for i, b := range platformBits {
		ones := 0
		for _, s := range states {
			ones += s >> i & 1
		}
		switch ones {
		case 0:
			words = append(words, b.off)
		case len(states):
			words = append(words, b.on)
		default:
			continue
		}
		free /= 2
	}
	if free == len(states) || len(states) == 1 {
		return strings.Join(words, ", ")
	}
	var each []string
	for _, s := range states {
		each = append(each, when([]int{s}))
	}
	return strings.Join(each, "; or ")
}

// verdict says in a line what the image is, and why, and tells r.Trustlet.
func (r *trustletReport) verdict(f *ium.Finding) string {
	switch f.Grade {
	case ium.Absent:
		if r.Enclave != nil {
			return "a VBS enclave, not a trustlet: it has no policy of one"
		}
		return fmt.Sprintf("not a trustlet: %s without a policy", r.Kind)
	case ium.Misplaced, ium.Malformed:
		return fmt.Sprintf("not a trustlet: its policy is %v: %s", f.Grade, firstReason(f.Reasons))
	}
	create := ium.Judge(f.Policy, ium.Platform{}, ium.CreateProcess)
	name := fmt.Sprintf("id %d", f.Policy.ID)
	if r.Known != nil {
		name += ", that of " + r.Known.Name
	}
	if !create.Allowed {
		s := fmt.Sprintf("not a trustlet: it has a policy with %s, but VTL1 refuses it: %s", name, create.Reason)
		if create.Inferred {
			s += "; that rule is inferred"
		}
		return s
	}
	s := "a trustlet, by its policy: "
	if r.Trustlet = r.Kind != ium.KindDLL.String(); !r.Trustlet {
		s = "not a trustlet, but a DLL whose policy may extend that of one: "
	}
	s += name
	if r.Known != nil && len(r.Known.Deviations) > 0 {
		s += ", whose policy is another"
	}
	switch {
	case r.Signed == nil || len(r.Signed.List) == 0:
		s += "; it carries no signature, so that it runs only if a catalog has one"
	case len(r.Signed.Lacks) > 0:
		s += "; its signature does not claim what a trustlet needs"
	case r.fits == ium.CheckFails:
		s += "; its signature does not fit it"
	case r.fits == ium.NotChecked:
		s += "; its signature claims what a trustlet needs, and whether it fits could not be checked"
	default:
		s += "; its signature claims what a trustlet needs, and is not verified"
	}
	return s
}

func firstReason(list []ium.Reason) string {
	for _, r := range list {
		if !r.Note {
			return r.Detail
		}
	}
	return "no reason is known"
}

// oneLine returns a text that a terminal can take: quoted if it has what is not printed.
func oneLine(s string) string {
	for _, c := range s {
		if !unicode.IsPrint(c) || c == unicode.ReplacementChar {
			return strconv.Quote(s)
		}
	}
	return s
}

// text prints the report.
func (r *trustletReport) text(out io.Writer) {
	name := oneLine(r.File)
	if r.Error != "" {
		fmt.Fprintf(out, "%s: no PE image: %s\n", name, reasonText(reasonJSON{Rule: r.Rule, Offset: *r.Offset, Detail: r.Error}))
		return
	}
	fmt.Fprintf(out, "%s: %s\n", name, oneLine(r.Verdict))
	if r.brief {
		return
	}
	t := table{tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)}
	row := func(name, format string, args ...any) {
		t.row("  "+name, "%s", oneLine(fmt.Sprintf(format, args...)))
	}
	row("image", "%s, %d bits, %s, %d bytes", r.Machine, r.Bits, r.Kind, r.Size)
	for _, p := range r.Problems {
		row("problem", "%s", reasonText(p))
	}
	r.policyText(row)
	r.signedText(row)
	r.knownText(row)
	var refused ium.Rule // why no process is created
	for _, a := range r.Answers {
		if a.Question == ium.CreateProcess && !a.Allowed {
			refused = a.Rule
		} else if a.Rule == refused && refused != "" {
			a.Reason = "no process of it is created"
		}
		word := "denied"
		if a.Allowed {
			word = "allowed"
		}
		if a.When != "" {
			word += " with " + a.When
		}
		if a.Inferred {
			a.Reason += "; inferred"
		}
		row(a.Question.String(), "%s: %s (%s)", word, a.Reason, a.Rule)
	}
	r.enclaveText(row)
	t.w.Flush()
}

func reasonText(r reasonJSON) string {
	where := ""
	if r.Offset >= 0 {
		where = fmt.Sprintf("offset %#x: ", r.Offset)
	}
	return fmt.Sprintf("%s%s (%s)", where, r.Detail, r.Rule)
}

func (r *trustletReport) policyText(row func(name, format string, args ...any)) {
	p := r.Policy
	switch {
	case p.Grade == ium.Absent:
		row("policy", "none")
	case p.ID == nil:
		row("policy", "%v", p.Grade)
	default:
		where := "in section " + p.Section
		if p.Section == "" {
			where = "in no section"
		}
		if p.Export != "" {
			where += ", export " + p.Export
		}
		row("policy", "%v, %s, offset %#x: version %d, trustlet id %d", p.Grade, where, p.Offset, p.Version, *p.ID)
	}
	for _, e := range p.Entries {
		value := ""
		if e.Text != nil {
			value = strconv.Quote(*e.Text)
		} else {
			value = fmt.Sprintf("%#x", *e.Value)
			if e.ID == ium.PolicyDebug && e.Type == ium.EntryUInt32 {
				value += fmt.Sprintf(": %v", ium.DebugPolicy(*e.Value))
			}
		}
		row("entry", "%s, %s: %s", strings.TrimPrefix(e.ID.String(), "ImagePolicyId"), strings.TrimPrefix(e.Type.String(), "ImagePolicyEntryType"), value)
	}
	for _, reason := range p.Reasons {
		name := "reason"
		if reason.Note {
			name = "note"
		}
		row(name, "%s", reasonText(reason))
	}
}

func (r *trustletReport) signedText(row func(name, format string, args ...any)) {
	if r.Signed == nil {
		row("signature", "none in the file")
		return
	}
	if r.Signed.Error != "" {
		row("certificates", "%s", r.Signed.Error)
	}
	if len(r.Signed.List) == 0 {
		row("signature", "none in the file")
	}
	for _, s := range r.Signed.List {
		name := "signature"
		if s.Nesting > 0 {
			name = "nested signature"
		}
		fits := "could not be checked in full"
		switch s.fits {
		case ium.CheckHolds:
			fits = "fits the image and itself"
		case ium.CheckFails:
			fits = "does not fit the image, or not itself"
		}
		digest := ""
		if s.Digest != "" {
			digest = " (" + s.Digest + ")"
		}
		row(name, "claims level %s; %s; digest of the image%s: %v", s.Level, fits, digest, s.Image)
		if s.Signer != "" {
			row("signer", "%s", s.Signer)
		}
		for _, e := range s.EKUs {
			row("usage", "%s", e)
		}
		for _, t := range s.Timestamps {
			row("timestamp", "claims %s", t.UTC().Format(time.RFC3339))
		}
		for _, reason := range s.Reasons {
			row("reason", "%s", reasonText(reason))
		}
	}
	if len(r.Signed.List) == 0 {
		return
	}
	for _, l := range r.Signed.Lacks {
		row("lacks", "%s", l)
	}
}

func (r *trustletReport) knownText(row func(name, format string, args ...any)) {
	k := r.Known
	if k == nil {
		if r.grade == ium.Valid {
			row("known as", "no trustlet that public sources name")
		}
		return
	}
	image := ""
	if k.Image != "" {
		image = ", " + k.Image
	}
	row("known as", "%s%s: %s (%s)", k.Name, image, k.Purpose, k.Source)
	if k.Note != "" {
		row("uncertain", "%s", k.Note)
	}
	for _, d := range k.Deviations {
		row("deviates", "%s", d)
	}
}

func (r *trustletReport) enclaveText(row func(name, format string, args ...any)) {
	e := r.Enclave
	switch {
	case e == nil:
		return
	case e.Error != "":
		row("enclave", "%s", reasonText(reasonJSON{Rule: e.Rule, Offset: e.Offset, Detail: e.Error}))
		return
	}
	flags := ""
	if e.Flags != "" {
		flags = ", flags " + e.Flags
	}
	row("enclave", "policy %s%s, version %d, security version %d, %d bytes, %s", e.Policy, flags, e.ImageVersion, e.SecurityVersion, e.Size, plural(int(e.Threads), "thread"))
	row("family", "%s", e.FamilyID)
	row("image id", "%s", e.ImageID)
	for _, i := range e.Imports {
		row("import", "%s, by %v, security version %d or more", strconv.Quote(i.Name), i.Match, i.SecurityVersion)
	}
	for _, reason := range e.Reasons {
		name := "reason"
		if reason.Note {
			name = "note"
		}
		row(name, "%s", reasonText(reason))
	}
}
