package vmcs

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Recorded is what a processor once answered to RDMSR and CPUID: the capability
// MSRs, IA32_FEATURE_CONTROL, and leaves of CPUID. It is an [MSRReader]; see
// CPUID for the other half. Text stands for it in files.
type Recorded struct {
	msrs   []recordedMSR  // ascending
	leaves []recordedLeaf // ascending
}

type recordedMSR struct {
	msr   uint32
	value uint64
}

type recordedLeaf struct {
	leaf, subleaf uint32
	registers     [4]uint32 // EAX, EBX, ECX, EDX
}

// maxRecordedLeaves limits what a text from outside may ask to be kept. A real
// processor has fewer than 200 leaves and subleaves.
const maxRecordedLeaves = 1024

// recordable reports whether r keeps an MSR: one in the range of the capability
// MSRs, or IA32_FEATURE_CONTROL.
func recordable(msr uint64) bool {
	return msr == MSRFeatureControl || MSRVMXBasic <= msr && msr <= 0x49f
}

// ReadMSR returns a recorded value, or an error that is [ErrNotRecorded].
func (r *Recorded) ReadMSR(msr uint32) (uint64, error) {
	i, ok := r.findMSR(msr)
	if !ok {
		return 0, ErrNotRecorded
	}
	return r.msrs[i].value, nil
}

// CPUID returns the recorded leaves, or nil if there are none: then it is not
// known what CPUID would say. Leaves 0 and 0x8000_0000, if they are not among
// the recorded ones, tell the highest leaf that is.
func (r *Recorded) CPUID() CPUIDReader {
	if len(r.leaves) == 0 {
		return nil
	}
	return recordedCPUID{r}
}

type recordedCPUID struct{ r *Recorded }

func (c recordedCPUID) ReadCPUID(leaf, subleaf uint32) (eax, ebx, ecx, edx uint32) {
	if i, ok := c.r.findLeaf(leaf, subleaf); ok {
		v := &c.r.leaves[i].registers
		return v[0], v[1], v[2], v[3]
	}
	const extended = 0x8000_0000
	if leaf == 0 || leaf == extended {
		for _, l := range c.r.leaves {
			if l.leaf&extended == leaf {
				eax = max(eax, l.leaf)
			}
		}
	}
	return eax, 0, 0, 0
}

// Capabilities returns the capabilities of the processor that was recorded.
func (r *Recorded) Capabilities() (*Capabilities, error) { return ReadCapabilities(r, r.CPUID()) }

func (r *Recorded) findMSR(msr uint32) (int, bool) {
	return slices.BinarySearchFunc(r.msrs, msr, func(m recordedMSR, msr uint32) int { return cmp.Compare(m.msr, msr) })
}

func (r *Recorded) findLeaf(leaf, subleaf uint32) (int, bool) {
	return slices.BinarySearchFunc(r.leaves, leaf, func(l recordedLeaf, leaf uint32) int {
		return cmp.Or(cmp.Compare(l.leaf, leaf), cmp.Compare(l.subleaf, subleaf))
	})
}

// addMSR keeps a value. Two values of one MSR must be equal: processors of one
// machine have the same capabilities.
func (r *Recorded) addMSR(msr uint32, value uint64) error {
	i, ok := r.findMSR(msr)
	if !ok {
		r.msrs = slices.Insert(r.msrs, i, recordedMSR{msr, value})
		return nil
	}
	if old := r.msrs[i].value; old != value {
		return fmt.Errorf("%s (MSR %#x) is %#x here and %#x before; give the values of one processor", MSRName(msr), msr, value, old)
	}
	return nil
}

// addLeaf keeps a leaf, the first of several: the others are of other
// processors, whose leaves differ in their numbers.
func (r *Recorded) addLeaf(leaf, subleaf uint32, registers [4]uint32) error {
	i, ok := r.findLeaf(leaf, subleaf)
	if ok {
		return nil
	}
	if len(r.leaves) >= maxRecordedLeaves {
		return fmt.Errorf("more than %d leaves of CPUID", maxRecordedLeaves)
	}
	r.leaves = slices.Insert(r.leaves, i, recordedLeaf{leaf, subleaf, registers})
	return nil
}

// Record reads what [ReadCapabilities] reads, and keeps it. With a nil c it
// keeps no leaves of CPUID.
func Record(m MSRReader, c CPUIDReader) (*Recorded, error) {
	if m == nil {
		return nil, errors.New("vmcs: recording needs a reader of MSRs")
	}
	rec := &recorder{m: m, c: c}
	var cpuid CPUIDReader
	if c != nil {
		cpuid = rec
	}
	caps, err := ReadCapabilities(rec, cpuid)
	if err != nil {
		return nil, err
	}
	if caps.Basic.TrueControls() {
		for _, msr := range []uint32{MSRVMXPinControls, MSRVMXPrimaryControls, MSRVMXExitControls, MSRVMXEntryControls} {
			if _, err := rec.ReadMSR(msr); err != nil {
				return nil, msrError(msr, err)
			}
		}
	}
	return &rec.r, rec.err
}

// A recorder is a reader that keeps what it reads.
type recorder struct {
	m   MSRReader
	c   CPUIDReader
	r   Recorded
	err error
}

func (r *recorder) ReadMSR(msr uint32) (uint64, error) {
	v, err := r.m.ReadMSR(msr)
	if err == nil && r.err == nil {
		r.err = r.r.addMSR(msr, v)
	}
	return v, err
}

func (r *recorder) ReadCPUID(leaf, subleaf uint32) (eax, ebx, ecx, edx uint32) {
	eax, ebx, ecx, edx = r.c.ReadCPUID(leaf, subleaf)
	if leaf == 1 { // the APIC ID and OSXSAVE are not the model's
		ebx &= 0x00ff_ffff
		ecx &^= 1 << 27
	}
	if r.err == nil {
		r.err = r.r.addLeaf(leaf, subleaf, [4]uint32{eax, ebx, ecx, edx})
	}
	return eax, ebx, ecx, edx
}

// String returns one line for each value, as [Recorded.UnmarshalText] reads them:
//
//	msr 0x480 0x00d810000000002b # IA32_VMX_BASIC
//	cpuid 0x1 0x0 0x000406f1 0x00000000 0x00000020 0x00000000
func (r *Recorded) String() string {
	var b []byte
	for _, m := range r.msrs {
		b = fmt.Appendf(b, "msr 0x%03x 0x%016x # %s\n", m.msr, m.value, MSRName(m.msr))
	}
	for _, l := range r.leaves {
		v := l.registers
		b = fmt.Appendf(b, "cpuid 0x%x 0x%x 0x%08x 0x%08x 0x%08x 0x%08x\n", l.leaf, l.subleaf, v[0], v[1], v[2], v[3])
	}
	return string(b)
}

// MarshalText returns what String returns. The error is always nil.
func (r *Recorded) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText reads values from a text, from lines such as
//
//	msr 0x480 0x00d810000000002b
//	0x480 00d810000000002b
//	MSR 480 = 00d81000_0000002b
//	IA32_VMX_BASIC (0x480): 0x00d810000000002b
//	CPU(0x00): RDMSR(0x00000480) = 0x00da04000000000f
//	00:00:00.15 HM: MSR_IA32_VMX_BASIC = 0xda040000000010
//	cpuid 7 0 00000000 009c6fbb 00000000 00000000
//	   0x00000007 0x00: eax=0x00000000 ebx=0x009c6fbb ecx=0x00000000 edx=0x00000000
//
// and the output of "rdmsr 0x480" behind a line with that command. Numbers are
// hexadecimal. What follows a # is a comment; other lines count as noise. It is
// an error if a line names a capability MSR but has no value for it, if an MSR
// has two different values, and if the text has no value at all.
func (r *Recorded) UnmarshalText(text []byte) error {
	var got Recorded
	pending := uint32(0) // the MSR that the rdmsr command before asked for
	number := 0
	for line := range strings.Lines(string(text)) {
		number++
		line, _, _ = strings.Cut(line, "#")
		asked := pending
		pending = 0
		var err error
		if asked != 0 {
			if v, ok := loneValue(line); ok {
				if err := got.addMSR(asked, v); err != nil {
					return fmt.Errorf("vmcs: line %d: %w", number, err)
				}
				continue
			}
		}
		pending, err = got.parseLine(line)
		if err != nil {
			return fmt.Errorf("vmcs: line %d: %w", number, err)
		}
	}
	if len(got.msrs) == 0 {
		return fmt.Errorf(`vmcs: the text has no capability MSR; want lines such as "msr 0x480 0x00d810000000002b"`)
	}
	*r = got
	return nil
}

// ParseRecorded is [Recorded.UnmarshalText] as a function.
func ParseRecorded(text string) (*Recorded, error) {
	r := new(Recorded)
	if err := r.UnmarshalText([]byte(text)); err != nil {
		return nil, err
	}
	return r, nil
}

// parseLine reads one line. It returns an MSR if the line is a command whose
// output may follow.
func (r *Recorded) parseLine(line string) (pending uint32, err error) {
	words := strings.FieldsFunc(line, func(c rune) bool {
		return c == ' ' || c == '\t' || c == '\r' || c == '\n' || strings.ContainsRune("=:,;()|$", c)
	})
	if i := slices.IndexFunc(words, func(w string) bool { return strings.EqualFold(w, "cpuid") }); i >= 0 {
		return 0, r.parseCPUID(words[i+1:])
	}
	if ok, err := r.parseCPUIDTool(words); ok || err != nil {
		return 0, err
	}
	asked, rdmsr := false, false // msr or rdmsr, and the latter, came before
	for i, w := range words {
		msr, named, ok := msrWord(w, asked || i == 0)
		rdmsr = rdmsr || strings.EqualFold(w, "rdmsr")
		asked = asked || rdmsr || strings.EqualFold(w, "msr")
		if !ok {
			continue
		}
		rest := words[i+1:]
		if n, isNumber := hexNumber(firstWord(rest)); named && isNumber && n == uint64(msr) {
			rest = rest[1:] // the number behind the name
		}
		value := firstWord(rest)
		if v, ok := hexNumber(value); ok {
			return 0, r.addMSR(msr, v)
		}
		switch {
		case slices.ContainsFunc(words, isAbsent):
			return 0, nil
		case rdmsr && value == "":
			return msr, nil
		case named: // a name alone may stand in any text, such as prose or the names of bits
		case value == "":
			return 0, fmt.Errorf("%s (MSR %#x) stands without a value", MSRName(msr), msr)
		default:
			return 0, fmt.Errorf("%q is no value for %s (MSR %#x); want up to 16 hexadecimal digits", short(value), MSRName(msr), msr)
		}
	}
	return 0, nil
}

// msrWord reports whether a word is an MSR that is kept: its name; its number, if
// that may stand here; or its number behind msr, as MSR_480.
func msrWord(w string, number bool) (msr uint32, named, ok bool) {
	rest, isMSR := cutPrefixFold(w, "msr")
	rest = strings.TrimPrefix(rest, "_")
	if name, _ := cutPrefixFold(rest, "IA32_"); len(name) < len(rest) {
		for _, m := range msrNames {
			if strings.EqualFold(rest, m.name) {
				return m.msr, true, true
			}
		}
	}
	if n, ok := hexNumber(rest); ok && recordable(n) && (number || isMSR) {
		return uint32(n), false, true
	}
	return 0, false, false
}

// isAbsent reports whether a word says that an MSR could not be read.
func isAbsent(w string) bool {
	return slices.Contains([]string{"unavailable", "cannot", "#gp", "n/a", "absent", "failed", "error"}, strings.ToLower(w))
}

// parseCPUID reads leaf, subleaf, EAX, EBX, ECX, EDX. A line with another number
// of words is prose.
func (r *Recorded) parseCPUID(words []string) error {
	if len(words) != 6 {
		return nil
	}
	var v [6]uint32
	for i, w := range words {
		n, ok := hexNumber(w)
		if !ok || n>>32 != 0 {
			return fmt.Errorf("%q is no value for a leaf of CPUID; want leaf, subleaf, EAX, EBX, ECX, EDX, up to 8 hexadecimal digits each", short(w))
		}
		v[i] = uint32(n)
	}
	return r.addLeaf(v[0], v[1], [4]uint32(v[2:]))
}

// parseCPUIDTool reads a line of "cpuid -r". ok is false if it is none.
func (r *Recorded) parseCPUIDTool(words []string) (ok bool, err error) {
	if len(words) != 10 || words[2] != "eax" || words[4] != "ebx" || words[6] != "ecx" || words[8] != "edx" {
		return false, nil
	}
	return true, r.parseCPUID([]string{words[0], words[1], words[3], words[5], words[7], words[9]})
}

// loneValue reads a line that is nothing but one value.
func loneValue(line string) (uint64, bool) { return hexNumber(strings.TrimSpace(line)) }

func firstWord(words []string) string {
	if len(words) == 0 {
		return ""
	}
	return words[0]
}

// hexNumber reads up to 16 hexadecimal digits, with or without 0x, a trailing h,
// and underscores or accents between them.
func hexNumber(s string) (uint64, bool) {
	s, _ = cutPrefixFold(s, "0x")
	if n := len(s); n > 1 && (s[n-1] == 'h' || s[n-1] == 'H') {
		s = s[:n-1]
	}
	if len(s) > 32 || s == "" || s[0] == '_' || s[0] == '`' || s[0] == '+' || s[0] == '-' {
		return 0, false
	}
	s = digits(s)
	if len(s) > 16 {
		return 0, false
	}
	v, err := strconv.ParseUint(s, 16, 64)
	return v, err == nil
}

// digits returns s without the marks that may stand between digits.
func digits(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '_' || r == '`' {
			return -1
		}
		return r
	}, s)
}
