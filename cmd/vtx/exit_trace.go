package main

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/govtx/vtx/vmcs"
	"github.com/govtx/vtx/vmexit"
)

// A kvmExit is one event of Linux' trace event kvm:kvm_exit. Its formats have been
// (arch/x86/kvm/trace.h), each with flags such as FAILED_VMENTRY behind the reason:
//
//	reason NAME rip 0xRIP info QUALIFICATION EVENT
//	vcpu N reason NAME rip 0xRIP info QUALIFICATION EVENT
//	vcpu N reason NAME rip 0xRIP info1 0xQUALIFICATION info2 0xVECTORING intr_info 0xEVENT error_code 0xCODE
//
// and the last one with "requests 0x..." behind it.
type kvmExit struct {
	prefix string // task, processor, time
	vcpu   string // "" if not told
	rip    uint64
	hasRIP bool
	reason vmexit.Reason

	qualification uint64
	has           bool // the qualification is told
	event         vmcs.InterruptionInfo
	vectoring     vmcs.InterruptionInfo
	code          uint32 // error code of event
	hasCode       bool   // it is told
}

// exitKeys are the words that a value follows.
var exitKeys = map[string]bool{
	"vcpu": true, "reason": true, "rip": true, "info": true, "info1": true, "info2": true,
	"intr_info": true, "error_code": true, "requests": true,
}

// parseKVMExit reads a line. It reports false if that is no kvm_exit event of VT-x that
// it understands.
func parseKVMExit(line string) (e kvmExit, ok bool) {
	prefix, rest, ok := strings.Cut(line, "kvm_exit:")
	if !ok || prefix != "" && !strings.ContainsAny(prefix[len(prefix)-1:], " \t:") {
		return e, false
	}
	e.prefix = printable(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(prefix), "kvm:")))
	words := strings.Fields(rest)
	var info2 uint64
	old, hasReason := true, false
	for i := 0; i < len(words); {
		key := words[i]
		end := i + 1
		for end < len(words) && !exitKeys[words[end]] {
			end++
		}
		values := words[i+1 : end]
		i = end
		if !exitKeys[key] {
			continue
		}
		if len(values) == 0 {
			return e, false
		}
		if key == "reason" {
			if e.reason, ok = parseKVMReason(values); !ok {
				return e, false
			}
			hasReason = true
			continue
		}
		if key == "vcpu" {
			n, err := strconv.ParseUint(strings.TrimSuffix(values[0], ","), 10, 32)
			if err != nil {
				return e, false
			}
			e.vcpu = strconv.FormatUint(n, 10)
			continue
		}
		v, ok := parseHex(values[0], 64)
		if !ok {
			return e, false
		}
		switch key {
		case "rip":
			e.rip, e.hasRIP = v, true
		case "info":
			if len(values) < 2 {
				return e, false
			}
			e.qualification, e.has = v, true
			if info2, ok = parseHex(values[1], 64); !ok {
				return e, false
			}
			e.event = vmcs.InterruptionInfo(info2)
		case "info1":
			e.qualification, e.has = v, true
		case "info2":
			info2 = v
		case "intr_info":
			old = false
			e.event = vmcs.InterruptionInfo(v)
		case "error_code":
			e.code, e.hasCode = uint32(v), true
		}
	}
	if !old {
		e.vectoring = vmcs.InterruptionInfo(info2)
	}
	return e, hasReason
}

// parseKVMReason reads what the trace event has between "reason" and the next key:
// a name in capitals, as VT-x has them (those of AMD-V are in small letters), or a
// number, or "UNKNOWN (n)"; and flags.
func parseKVMReason(words []string) (r vmexit.Reason, ok bool) {
	name, flags := words[0], words[1:]
	if name == "UNKNOWN" && len(flags) > 0 {
		name, flags = strings.Trim(flags[0], "()"), flags[1:]
	}
	if n, err := strconv.ParseUint(name, 0, 32); err == nil {
		r = vmexit.Reason(n)
	} else {
		if name != strings.ToUpper(name) {
			return 0, false
		}
		b, err := vmexit.ParseBasic(name)
		if err != nil {
			return 0, false
		}
		r = vmexit.Reason(b)
	}
	for _, flag := range flags {
		for part := range strings.SplitSeq(flag, "|") {
			if part == "FAILED_VMENTRY" {
				r |= vmexit.ReasonEntryFailure
			} else if n, err := strconv.ParseUint(part, 0, 32); err == nil {
				r |= vmexit.Reason(n) &^ 0xffff
			}
		}
	}
	return r, true
}

// parseHex reads a number in hexadecimal, with or without 0x.
func parseHex(s string, bits int) (uint64, bool) {
	n, err := strconv.ParseUint(strings.TrimPrefix(s, "0x"), 16, bits)
	return n, err == nil
}

// printable has a ? for each character that does something to a terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' && r != '\t' || r >= 0x7f && r < 0xa0 {
			return '?'
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
}

// String prints the exit decoded in one line.
func (e *kvmExit) String() string {
	var b strings.Builder
	if e.prefix != "" {
		fmt.Fprintf(&b, "%s ", e.prefix)
	}
	if e.vcpu != "" {
		fmt.Fprintf(&b, "vcpu %s ", e.vcpu)
	}
	if e.hasRIP {
		fmt.Fprintf(&b, "rip %#x ", e.rip)
	}
	b.WriteString(e.reason.String())
	if e.has {
		if s := vmexit.Describe(e.reason, e.event, e.qualification); s != "" {
			fmt.Fprintf(&b, ": %s", s)
		}
	}
	if ev, ok := vmexit.EventOf(e.event, e.code, 0); ok && !e.reason.EntryFailure() {
		s := ev.Info.String()
		if ev.Info.HasErrorCode() && e.hasCode {
			s = fmt.Sprintf("%s %#x", s, ev.ErrorCode)
		}
		fmt.Fprintf(&b, " [%s]", s)
	}
	if ev, ok := vmexit.EventOf(e.vectoring, 0, 0); ok {
		fmt.Fprintf(&b, " [while delivering %v]", ev.Info)
	}
	return b.String()
}

// maxTraceLine is the longest line of a trace that is looked at, in bytes.
const maxTraceLine = 16 << 10

// exitTrace decodes a trace, prints how often each reason occurred, and returns the
// exit status.
func exitTrace(in io.Reader, out io.Writer) (int, error) {
	r := bufio.NewReaderSize(in, maxTraceLine)
	w := bufio.NewWriter(out)
	count := map[vmexit.Basic]uint64{}
	var exits, passed uint64
	for {
		line, long, err := readTraceLine(r)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return 0, fmt.Errorf("standard input: %w", err)
		}
		if e, ok := parseKVMExit(line); ok && !long {
			exits++
			count[e.reason.Basic()]++
			fmt.Fprintln(w, e.String())
		} else if strings.TrimSpace(line) != "" {
			passed++
		}
		if r.Buffered() == 0 { // what comes next may be long in coming
			if err := w.Flush(); err != nil {
				return 1, nil // nobody reads on
			}
		}
	}
	printHistogram(w, count, exits, passed)
	if err := w.Flush(); err != nil || exits == 0 {
		return 1, nil
	}
	return 0, nil
}

// readTraceLine reads a line without its end. Of a line that is too long it returns
// the beginning, and passes over the rest.
func readTraceLine(r *bufio.Reader) (line string, long bool, err error) {
	b, long, err := r.ReadLine()
	line = string(b)
	for more := long; more && err == nil; {
		_, more, err = r.ReadLine()
	}
	if line != "" && errors.Is(err, io.EOF) {
		err = nil
	}
	return line, long, err
}

func printHistogram(w io.Writer, count map[vmexit.Basic]uint64, exits, passed uint64) {
	reasons := make([]vmexit.Basic, 0, len(count))
	for b := range count {
		reasons = append(reasons, b)
	}
	slices.SortFunc(reasons, func(a, b vmexit.Basic) int {
		return cmp.Or(cmp.Compare(count[b], count[a]), cmp.Compare(a, b))
	})
	if exits > 0 {
		fmt.Fprintln(w)
	}
	for _, b := range reasons {
		fmt.Fprintf(w, "%9d  %5.1f%%  %v\n", count[b], 100*float64(count[b])/float64(exits), b)
	}
	fmt.Fprintf(w, "%9d  exits; %d other lines passed over\n", exits, passed)
}
