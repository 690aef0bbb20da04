package vmcs

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"iter"
	"strconv"
	"strings"
)

// A KVMDump is one dump of a VMCS as Linux' KVM prints it into the kernel's
// log, when a VM entry has failed and kvm_intel.dump_invalid_vmcs is set
// (dump_vmcs in arch/x86/kvm/vmx/vmx.c, Linux 4.4 and later).
//
// There may be other lines inside; those that have nothing of a dump are passed
// over.
type KVMDump struct {
	// Image has the fields that the dump shows, and no others. KVM shows no VMCS
	// link pointer, no bitmap addresses and no MSR-area addresses, and leaves
	// out what the controls make irrelevant.
	Image Image
	// Line and LastLine are the numbers, from 1, of the first and the last line
	// that belong to the dump.
	Line, LastLine int
	// VMCS is the pointer in the heading, as printed (usually a hash); empty
	// before Linux 5.12.
	VMCS string
	// CPU is the number of the processor that the entry was last tried on; -1
	// where the heading does not say.
	CPU int
	// EFER is what KVM says the guest's IA32_EFER would be where it is not
	// loaded from the VMCS; EFERSource says whence: "autoload" (from the VM-entry
	// MSR-load area), "effective" (from KVM's own state), or "" for none.
	EFER       uint64
	EFERSource string
	// MSRs holds the entries of the MSR areas, in the order printed.
	MSRs []KVMMSR
	// HardwareError is what QEMU says of the failed entry behind the dump, where
	// the log has that: the exit reason, with bit 31 set, or a VM-instruction
	// error; 0 for none.
	HardwareError uint32
}

// A KVMMSR is an entry of an MSR area in a KVMDump.
type KVMMSR struct {
	Area string // as printed: "guest autoload", "guest autostore", "host autoload"
	MSREntry
}

// Failure returns the error or the exit that the failed entry ended with, as far
// as the dump or QEMU's message behind it tells; ok is false if neither does. A
// dump without a failed entry in its exit reason does not: the entry may have failed
// with a VM-instruction error, which KVM does not print, or not at all.
func (d *KVMDump) Failure() (o Outcome, ok bool) {
	switch e := d.HardwareError; {
	case e>>31 != 0:
		return d.exit(uint64(e)), true
	case e != 0:
		return Outcome{Kind: FailValid, Error: InstructionError(e)}, true
	}
	if reason, there := d.Image.Get(ExitReason); there && reason>>31 != 0 {
		return d.exit(reason), true
	}
	return Outcome{}, false
}

func (d *KVMDump) exit(reason uint64) Outcome {
	q, _ := d.Image.Get(ExitQualification)
	return Outcome{Kind: EntryExit, Reason: uint32(reason) &^ (1 << 31), Qualification: q}
}

// A SyntaxError is a place in a dump that cannot be read.
type SyntaxError struct {
	Line  int    // from 1
	Token string // the text in question
	Rule  string // what should stand there
}

func (e *SyntaxError) Error() string {
	return fmt.Sprintf("vmcs: line %d: %q: %s", e.Line, e.Token, e.Rule)
}

const (
	maxDumpLine = 4096 // a longer line is no line of a dump
	maxKVMMSRs  = 512  // the most that IA32_VMX_MISC[27:25] = 0 recommends (A.6)
)

// ErrNoDump is what parsing a text without a dump gives.
var ErrNoDump = errors.New("vmcs: the text has no dump of a VMCS")

// The parts of a dump, by the heading between asterisks.
const (
	kvmGuest uint8 = 1 << iota
	kvmHost
	kvmControl
)

// The virtual-interrupt status is also printed in halves. These are no encodings of
// fields.
const (
	kvmSVI Field = 1<<31 + iota // bits 15:8 of GuestInterruptStatus
	kvmRVI                      // bits 7:0
)

// A kvmPattern is a piece of a line: texts, each followed by a hexadecimal
// number. A blank in a text stands for blanks and commas, or none.
type kvmPattern struct {
	parts  uint8
	texts  []string
	fields []Field
}

var kvmPatterns = kvmTable()

func kvmTable() []kvmPattern {
	var t []kvmPattern
	add := func(parts uint8, texts string, fields ...Field) {
		t = append(t, kvmPattern{parts, strings.Split(strings.TrimSuffix(texts, "{}"), "{}"), fields})
	}
	add(kvmGuest, "CR0: actual={} shadow={} gh_mask={}", GuestCR0, CR0ReadShadow, CR0GuestHostMask)
	add(kvmGuest, "CR4: actual={} shadow={} gh_mask={}", GuestCR4, CR4ReadShadow, CR4GuestHostMask)
	add(kvmGuest, "CR3 ={}", GuestCR3)
	for i := range Field(4) {
		add(kvmGuest, fmt.Sprintf("PDPTR%d ={}", i), GuestPDPTE0+2*i)
	}
	add(kvmGuest, "RSP ={}", GuestRSP)
	add(kvmGuest, "RIP ={}", GuestRIP)
	add(kvmGuest, "RFLAGS={}", GuestRFLAGS)
	add(kvmGuest, "DR7 ={}", GuestDR7)
	add(kvmGuest, "Sysenter RSP={} CS:RIP={}:{}", GuestSysenterESP, GuestSysenterCS, GuestSysenterEIP)
	for i, name := range []string{"ES", "CS", "SS", "DS", "FS", "GS", "LDTR", "TR"} {
		d := 2 * Field(i)
		add(kvmGuest, name+": sel={} attr={} limit={} base={}",
			GuestESSelector+d, GuestESAccessRights+d, GuestESLimit+d, GuestESBase+d)
	}
	add(kvmGuest, "GDTR: limit={} base={}", GuestGDTRLimit, GuestGDTRBase)
	add(kvmGuest, "IDTR: limit={} base={}", GuestIDTRLimit, GuestIDTRBase)
	add(kvmGuest, "EFER ={}", GuestEFER)
	add(kvmGuest, "PAT ={}", GuestPAT)
	add(kvmGuest, "DebugCtl ={}", GuestDebugCtl)
	add(kvmGuest, "DebugExceptions ={}", GuestPendingDebugExceptions)
	add(kvmGuest, "PerfGlobCtl ={}", GuestPerfGlobalCtrl)
	add(kvmGuest, "BndCfgS ={}", GuestBndCfgs)
	add(kvmGuest, "Interruptibility ={}", GuestInterruptibilityState)
	add(kvmGuest, "ActivityState ={}", GuestActivityState)
	add(kvmGuest, "InterruptStatus ={}", GuestInterruptStatus)
	// The shadow-stack lines stand in one line or in three; a patched kernel
	// prints the host's behind the controls.
	add(kvmGuest, "S_CET ={}", GuestSCET)
	add(kvmGuest, "SSP ={}", GuestSSP)
	add(kvmGuest, "SSP TABLE ={}", GuestInterruptSSPTable)
	add(kvmGuest, "INTR SSP TABLE ={}", GuestInterruptSSPTable)
	add(kvmHost|kvmControl, "S_CET ={}", HostSCET)
	add(kvmHost|kvmControl, "SSP ={}", HostSSP)
	add(kvmHost|kvmControl, "SSP TABLE ={}", HostInterruptSSPTable)
	add(kvmHost|kvmControl, "INTR SSP TABLE ={}", HostInterruptSSPTable)

	add(kvmHost, "RIP ={}", HostRIP)
	add(kvmHost, "RSP ={}", HostRSP)
	add(kvmHost, "CS={} SS={} DS={} ES={} FS={} GS={} TR={}", HostCSSelector, HostSSSelector, HostDSSelector,
		HostESSelector, HostFSSelector, HostGSSelector, HostTRSelector)
	add(kvmHost, "FSBase={} GSBase={} TRBase={}", HostFSBase, HostGSBase, HostTRBase)
	add(kvmHost, "GDTBase={} IDTBase={}", HostGDTRBase, HostIDTRBase)
	add(kvmHost, "CR0={} CR3={} CR4={}", HostCR0, HostCR3, HostCR4)
	add(kvmHost, "Sysenter RSP={} CS:RIP={}:{}", HostSysenterESP, HostSysenterCS, HostSysenterEIP)
	add(kvmHost, "EFER ={}", HostEFER)
	add(kvmHost, "PAT ={}", HostPAT)
	add(kvmHost, "PerfGlobCtl ={}", HostPerfGlobalCtrl)

	add(kvmControl, "PinBased={}", GroupPin.Field())
	add(kvmControl, "CPUBased={}", GroupPrimary.Field())
	add(kvmControl, "SecondaryExec={}", GroupSecondary.Field())
	add(kvmControl, "TertiaryExec={}", GroupTertiary.Field())
	add(kvmControl, "EntryControls={}", GroupEntry.Field())
	add(kvmControl, "ExitControls={}", GroupExit.Field())
	add(kvmControl, "SecondaryExitControls={}", GroupSecondaryExit.Field())
	add(kvmControl, "ExceptionBitmap={}", ExceptionBitmap)
	add(kvmControl, "PFECmask={}", PageFaultErrorCodeMask)
	add(kvmControl, "PFECmatch={}", PageFaultErrorCodeMatch)
	add(kvmControl, "VMEntry: intr_info={} errcode={} ilen={}",
		EntryInterruptionInformation, EntryExceptionErrorCode, EntryInstructionLength)
	add(kvmControl, "VMExit: intr_info={} errcode={} ilen={}",
		ExitInterruptionInformation, ExitInterruptionErrorCode, ExitInstructionLength)
	add(kvmControl, "reason={} qualification={}", ExitReason, ExitQualification)
	add(kvmControl, "IDTVectoring: info={} errcode={}", IDTVectoringInformation, IDTVectoringErrorCode)
	add(kvmControl, "TSC Offset ={}", TSCOffset)
	add(kvmControl, "TSC Multiplier ={}", TSCMultiplier)
	add(kvmControl, "SVI|RVI ={}|{}", kvmSVI, kvmRVI)
	add(kvmControl, "TPR Threshold ={}", TPRThreshold)
	add(kvmControl, "APIC-access addr ={}", APICAccessAddress)
	add(kvmControl, "virt-APIC addr ={}", VirtualAPICAddress)
	add(kvmControl, "PostedIntrVec ={}", PostedInterruptNotificationVector)
	add(kvmControl, "EPT pointer ={}", EPTPointer)
	for i := range Field(4) {
		add(kvmControl, fmt.Sprintf("CR3 target%d={}", i), CR3Target0+2*i)
		add(kvmControl, fmt.Sprintf("target%d={}", i), CR3Target0+2*i) // the second of a line
	}
	add(kvmControl, "PLE Gap={} Window={}", PLEGap, PLEWindow)
	add(kvmControl, "Virtual processor ID ={}", VPID)
	return t
}

// KVMDumps yields the dumps of KVM in a log, in their order. Timestamps,
// prefixes of printk and syslog, carriage returns and foreign lines do not
// matter. A dump's line that cannot be read ends the sequence with a
// *SyntaxError, as an error of r does; the dumps before it have been yielded.
// A text without a dump yields nothing.
func KVMDumps(r io.Reader) iter.Seq2[*KVMDump, error] {
	return func(yield func(*KVMDump, error) bool) {
		p := kvmParser{}
		for line, err := range dumpLines(r) {
			if err == nil {
				p.line++
				err = p.parse(line)
			}
			if err != nil {
				yield(nil, err)
				return
			}
			if p.done != nil {
				if !yield(p.done, nil) {
					return
				}
				p.done = nil
			}
		}
		if p.dump != nil && p.part != 0 {
			yield(p.dump, nil)
		}
	}
}

// dumpLines yields the lines of r without their ends; an overlong line is yielded
// empty.
func dumpLines(r io.Reader) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		b := bufio.NewReaderSize(r, maxDumpLine)
		for {
			line, err := b.ReadSlice('\n')
			long := err == bufio.ErrBufferFull
			for err == bufio.ErrBufferFull {
				_, err = b.ReadSlice('\n')
			}
			if err != nil && err != io.EOF {
				yield("", fmt.Errorf("vmcs: reading a dump: %w", err))
				return
			}
			if long {
				line = nil
			}
			if (len(line) > 0 || err == nil) && !yield(strings.TrimRight(string(line), "\r\n"), nil) {
				return
			}
			if err == io.EOF {
				return
			}
		}
	}
}

// A kvmParser is between two lines of a log.
type kvmParser struct {
	line int
	dump *KVMDump // the one being read, nil before the first
	done *KVMDump // the one before it, when a new one has begun
	part uint8    // of dump: 0 between its heading and its first part
	area string   // the MSR area being read
	svi  uint64   // the first half of the virtual-interrupt status
}

func (p *kvmParser) begin() {
	if p.part != 0 {
		p.done = p.dump
	}
	p.dump = &KVMDump{Line: p.line, LastLine: p.line, CPU: -1}
	p.part, p.area = 0, ""
}

func (p *kvmParser) parse(line string) error {
	if before, after, ok := strings.Cut(line, ", last attempted VM-entry on CPU "); ok {
		p.begin()
		if i := strings.LastIndex(before, "VMCS "); i >= 0 {
			p.dump.VMCS = before[i+len("VMCS "):]
		}
		cpu, err := strconv.ParseUint(strings.TrimSpace(after), 10, 31)
		if err != nil {
			return &SyntaxError{p.line, strings.TrimSpace(after), "want the number of a CPU"}
		}
		p.dump.CPU = int(cpu)
		return nil
	}
	for _, h := range []struct {
		text string
		part uint8
	}{{"*** Guest State ***", kvmGuest}, {"*** Host State ***", kvmHost}, {"*** Control State ***", kvmControl}} {
		if !strings.Contains(line, h.text) {
			continue
		}
		if h.part == kvmGuest && (p.dump == nil || p.part != 0) {
			p.begin()
		}
		if p.dump == nil { // the log begins in the middle of a dump
			p.begin()
		}
		if p.part >= h.part {
			return &SyntaxError{p.line, h.text, "the part stands twice in one dump; two processors' dumps are mixed: take the lines of one"}
		}
		p.part, p.area, p.dump.LastLine = h.part, "", p.line
		return nil
	}
	if p.dump == nil || p.part == 0 {
		return nil
	}
	if _, after, ok := strings.Cut(line, "KVM: entry failed, hardware error 0x"); ok {
		if e, err := strconv.ParseUint(strings.TrimSpace(after), 16, 32); err == nil {
			p.dump.HardwareError = uint32(e)
		}
		return nil
	}
	if ok, err := p.parseMSR(line); ok || err != nil {
		return err
	}
	return p.parseFields(line)
}

// parseMSR reads the heading or an entry of an MSR area.
func (p *kvmParser) parseMSR(line string) (bool, error) {
	if area, ok := strings.CutSuffix(line, ":"); ok {
		if i := strings.LastIndex(area, "MSR "); i >= 0 && isLogPrefix(area[:i]) && strings.Contains(area[i:], "auto") {
			p.area, p.dump.LastLine = area[i+len("MSR "):], p.line
			return true, nil
		}
	}
	i := strings.Index(line, "msr=0x")
	if p.area == "" || i < 0 {
		return false, nil
	}
	index, rest, err := p.number(line[i+len("msr="):], 32)
	if err != nil {
		return false, err
	}
	rest, ok := cutText(rest, " value=")
	if !ok {
		return false, p.missing(strings.TrimSpace(rest), "value=")
	}
	value, _, err := p.number(rest, 64)
	if err != nil {
		return false, err
	}
	if len(p.dump.MSRs) == maxKVMMSRs {
		return false, &SyntaxError{p.line, line[i:], fmt.Sprintf("a dump has at most %d MSRs", maxKVMMSRs)}
	}
	p.dump.MSRs = append(p.dump.MSRs, KVMMSR{p.area, MSREntry{Index: uint32(index), Value: value}})
	p.dump.LastLine = p.line
	return true, nil
}

// parseFields reads the fields in a line; a line with none is a foreign one. So is
// one that goes on otherwise behind the first number: QEMU prints its registers with
// "CR0=" too.
func (p *kvmParser) parseFields(line string) error {
	first := true
	for {
		pat, rest := p.find(line, first)
		if pat == nil {
			return nil
		}
		first = false
		var values [7]uint64 // as many as a pattern has at most
		for i, f := range pat.fields {
			if i > 0 {
				var ok bool
				if rest, ok = cutText(rest, pat.texts[i]); !ok {
					want, at := strings.TrimSpace(pat.texts[i]), strings.TrimLeft(rest, " \t,")
					if i == 1 && !strings.HasPrefix(want, at) {
						return nil
					}
					return p.missing(at, want)
				}
			}
			v, r, err := p.number(rest, kvmBits(f))
			if err != nil {
				return err
			}
			values[i], rest = v, r
		}
		p.dump.LastLine = p.line
		for i, f := range pat.fields {
			if f == GuestEFER && p.effective(rest, values[i]) {
				continue
			}
			if err := p.set(f, values[i]); err != nil {
				return err
			}
		}
		line = rest
	}
}

// effective notes a guest's IA32_EFER that is not in the VMCS.
func (p *kvmParser) effective(rest string, v uint64) bool {
	for _, source := range []string{"autoload", "effective"} {
		if strings.HasPrefix(strings.TrimSpace(rest), "("+source+")") {
			p.dump.EFER, p.dump.EFERSource = v, source
			return true
		}
	}
	return false
}

func kvmBits(f Field) int {
	if f == kvmSVI || f == kvmRVI {
		return 8
	}
	return f.Width().Bits()
}

func (p *kvmParser) set(f Field, v uint64) error {
	switch f {
	case kvmSVI:
		p.svi = v
		return nil
	case kvmRVI:
		f, v = GuestInterruptStatus, p.svi<<8|v
	}
	if old, there := p.dump.Image.Get(f); there && old != v {
		return &SyntaxError{p.line, fmt.Sprintf("%#x", v),
			fmt.Sprintf("%v was %#x before in this dump; two processors' dumps are mixed: take the lines of one", f, old)}
	}
	p.dump.Image.Set(f, v)
	return nil
}

// find finds the pattern that the line begins with, and gives what follows
// its first text. The first of a line stands behind a prefix of the log.
func (p *kvmParser) find(line string, first bool) (*kvmPattern, string) {
	for i := range kvmPatterns {
		pat := &kvmPatterns[i]
		if pat.parts&p.part == 0 {
			continue
		}
		if !first {
			if rest, ok := cutText(line, " "+pat.texts[0]); ok {
				return pat, rest
			}
			continue
		}
		word, _, _ := strings.Cut(pat.texts[0], " ")
		for at := 0; ; {
			j := strings.Index(line[at:], word)
			if j < 0 {
				break
			}
			if rest, ok := cutText(line[at+j:], pat.texts[0]); ok && isLogPrefix(line[:at+j]) {
				return pat, rest
			}
			at += j + 1
		}
	}
	return nil, ""
}

// isLogPrefix says whether s can be what a log puts before a line: nothing,
// blanks, or what ends in a bracket or in a colon and a blank.
func isLogPrefix(s string) bool {
	t := strings.TrimRight(s, " \t")
	if t == "" {
		return true
	}
	switch t[len(t)-1] {
	case ']', ')', '>':
		return true
	case ':', '|':
		return len(t) < len(s)
	}
	return false
}

// cutText removes text from the beginning of s. A blank in text stands for
// any blanks and commas.
func cutText(s, text string) (rest string, ok bool) {
	whole := s
	for i := range len(text) {
		switch {
		case text[i] == ' ':
			s = strings.TrimLeft(s, " \t,")
		case s != "" && s[0] == text[i]:
			s = s[1:]
		default:
			return whole, false
		}
	}
	return s, true
}

// number reads a hexadecimal number of at most bits bits, with or without 0x.
func (p *kvmParser) number(s string, bits int) (v uint64, rest string, err error) {
	s = strings.TrimLeft(s, " \t")
	token, _, _ := strings.Cut(s, " ")
	if n := strings.IndexAny(token, ",:|\t"); n >= 0 {
		token = token[:n]
	}
	digits := strings.TrimPrefix(token, "0x")
	v, e := strconv.ParseUint(digits, 16, bits)
	if e != nil || strings.ContainsAny(digits, "_+-") {
		return 0, "", &SyntaxError{p.line, token, fmt.Sprintf("want a hexadecimal number of at most %d bits", bits)}
	}
	return v, s[len(token):], nil
}

func (p *kvmParser) missing(at, text string) error {
	return &SyntaxError{p.line, at, fmt.Sprintf("want %q here; the line is cut off or damaged", text)}
}
