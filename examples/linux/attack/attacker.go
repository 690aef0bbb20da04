package main

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/govtx/vtx/vmcs"
)

// A request is what the module does in ring 0: vtx_request in ../module/vtxattack.h.
type request struct {
	what    what
	vector  int32 // the exception that came of it, none if there was none
	a, b, c uint64
	page    [pageSize]byte
}

const (
	pageSize  = 4096
	none      = -1
	vectorUD  = int32(vmcs.VectorUD)
	ownPage   = ^uint64(0)     // VTX_PAGE: the physical address of the request's page
	ownOutput = ^uint64(0) - 1 // VTX_OUTPUT: of another page
)

// A what is enum vtx_what in ../module/vtxattack.h, which says what it does with a, b
// and c.
type what uint32

const (
	doRead what = iota + 1
	doWrite
	doReadOops
	doExecute
	doRDMSR
	doWRMSR
	doCR
	doVMX
	doHypercall
	doVTLCall
	doSoak
	doIn
	doOut
	doMove
	doOUTS
	doINS
	doWalk
	doOverlay
)

// A machine is what is attacked, as root sees it.
type machine interface {
	// do has the module carry out a request. An error means that it was not made.
	do(r *request) error
	// doomed has a process of its own make a request, and tells whether a signal
	// ended it.
	doomed(r *request) (died bool, err error)
	// vmcall executes VMCALL outside of ring 0, in a process of its own, and names the
	// signal that ended it, if one did.
	vmcall() (signal string, err error)
	// pread reads physical memory through /dev/mem.
	pread(p []byte, address uint64) error
	// pwrite has a process of its own write it so, and tells whether a signal ended it.
	pwrite(p []byte, address uint64) (died bool, err error)
	// mapped calls f with the page of physical memory at address, mapped through
	// /dev/mem, and tells whether that ended in a signal. An error means that it
	// was not mapped.
	mapped(address uint64, f func(page []byte)) (fault bool, err error)
	// log returns what the kernel has logged since it was called last.
	log() string
	// file returns a file's contents.
	file(name string) (string, error)
}

// errNoHypervisor is the error of open's machine where there is none.
var errNoHypervisor = errors.New("no hypervisor")

// An attacker makes the steps on a machine.
type attacker struct {
	machine
	out  io.Writer
	vtl1 span
	soak uint64
	// samples is how many pages of a range are attacked.
	samples uint64

	booted string // what the kernel has logged before
	holes  []span // addresses at which there is nothing, for all that Linux knows
	names  uint32 // of refused attempts that VTL1 has told
}

// A step is an attack, or a proper call. Its function returns what became of it. Attempts of
// which VTL1 is to be told it has to look for, by told: behind the step there must be none left.
type step struct {
	name string
	do   func(*attacker) (string, error)
}

// run makes all steps and returns how many failed.
func (a *attacker) run() (failed int, err error) {
	if err := a.do(&request{what: doIn, a: 0x80, b: 1}); errors.Is(err, errNoHypervisor) {
		fmt.Fprintf(a.out, "vtx: no hypervisor: the %d steps are not made\n", len(steps))
		return 0, nil
	} else if err != nil {
		return 0, err
	}
	a.booted = a.log()
	_ = a.told() // what was tried before is no matter
	for i, s := range steps {
		how, err := s.do(a)
		if left := a.told(); err == nil {
			err = left
		}
		if err != nil {
			failed++
			how = "FAILED: " + err.Error()
		}
		line := fmt.Sprintf("step %s: %s", s.name, how)
		fmt.Fprintf(a.out, "vtx: %d/%d %s\n", i+1, len(steps), line)
		if err != nil {
			_, _ = a.call(opReport, []byte(line)) // VTL1's log is one more place to see it
		}
	}
	fmt.Fprintf(a.out, "vtx: %d steps, %d failed\n", len(steps), failed)
	return failed, nil
}

// A span is a range of physical addresses, the last one included.
type span struct{ first, last uint64 }

func (s span) contains(address uint64) bool { return s.first <= address && address <= s.last }

func (s span) overlaps(t span) bool { return s.first <= t.last && t.first <= s.last }

func (s span) String() string { return fmt.Sprintf("%#x-%#x", s.first, s.last) }

// MarshalText and UnmarshalText let it be a flag.
func (s span) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

func (s *span) UnmarshalText(text []byte) error {
	var t span
	if n, err := fmt.Sscanf(string(text), "%v-%v", &t.first, &t.last); n != 2 || err != nil || t.first > t.last || t.first%pageSize != 0 {
		return fmt.Errorf("%q is no range of addresses: write 0xFIRST-0xLAST, the first a multiple of %d", text, pageSize)
	}
	*s = t
	return nil
}

// pages returns up to n pages of the range, the first one and the last one among
// them, and in each of them another aligned word.
func (s span) pages(n uint64) []uint64 {
	first, last := s.first/pageSize, s.last/pageSize
	n = min(n, last-first+1)
	list := make([]uint64, n)
	for i := range n {
		page := first
		if n > 1 {
			page += (last - first) * i / (n - 1)
		}
		list[i] = page*pageSize + i*8%pageSize
	}
	return list
}

// parseIOMem reads the outer ranges of /proc/iomem.
func parseIOMem(text string) (all []span, names []string, err error) {
	for line := range strings.Lines(text) {
		var s span
		at, name, ok := strings.Cut(strings.TrimSuffix(line, "\n"), " : ")
		if strings.HasPrefix(line, " ") {
			continue
		}
		if n, err := fmt.Sscanf(at, "%x-%x", &s.first, &s.last); !ok || n != 2 || err != nil {
			return nil, nil, fmt.Errorf("/proc/iomem has a line that is none: %q", line)
		}
		all, names = append(all, s), append(names, name)
	}
	return all, names, nil
}

// parseE820 reads the firmware's memory map in the kernel's log. Not all of it is in /proc/iomem
// where Linux finds no PCI.
func parseE820(log string) (all []span) {
	for line := range strings.Lines(log) {
		var s span
		if _, at, ok := strings.Cut(line, "BIOS-e820: [mem "); !ok {
			continue
		} else if n, _ := fmt.Sscanf(at, "%v-%v]", &s.first, &s.last); n == 2 {
			all = append(all, s)
		}
	}
	return all
}

// gaps returns the whole pages from 1 MiB to limit in which none of the ranges is.
func gaps(ranges []span, limit uint64) (list []span) {
	ranges = slices.SortedFunc(slices.Values(ranges), func(s, t span) int { return cmp.Compare(s.first, t.first) })
	ranges = append(ranges, span{limit, limit})
	at := uint64(1 << 20)
	for _, r := range ranges {
		if end := min(r.first, limit) &^ (pageSize - 1); end > at {
			list = append(list, span{at, end - 1})
		}
		at = max(at, (r.last+pageSize)&^(pageSize-1))
	}
	return list
}

// A tally counts in which ways attempts were refused.
type tally struct {
	ways   []string
	counts map[string]int
}

func (t *tally) add(way string) {
	if t.counts == nil {
		t.counts = map[string]int{}
	}
	if t.counts[way]++; t.counts[way] == 1 {
		t.ways = append(t.ways, way)
	}
}

func (t *tally) String() string {
	var b strings.Builder
	for i, way := range t.ways {
		if i > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "%d x %s", t.counts[way], way)
	}
	return b.String()
}

// each makes an attempt with each element of a list. All of them must be refused: an
// attempt returns in which way it was, or an error.
func each[E any](list []E, attempt func(E) (string, error)) (string, error) {
	var t tally
	var errs []error
	for _, e := range list {
		way, err := attempt(e)
		if err == nil {
			t.add(way)
		} else if errs = append(errs, err); len(errs) == 4 {
			break // enough to know
		}
	}
	if len(errs) > 0 {
		return "", errors.Join(errs...)
	}
	if len(t.ways) == 0 {
		return "", errors.New("there was nothing to attempt")
	}
	return "refused: " + t.String(), nil
}

// exception names an exception.
func exception(vector int32) string { return vmcs.Vector(vector).String() }

// refusedBy makes a request that must end in an exception, and returns its name.
func (a *attacker) refusedBy(r *request, format string, args ...any) (string, error) {
	if err := a.do(r); err != nil {
		return "", err
	}
	if r.vector == none {
		return "", fmt.Errorf(format+" went through", args...)
	}
	return exception(r.vector), nil
}

// Calls of VTL1's program. Its page begins with the operation, the length of the data
// and a status.
const (
	opHMAC   = 1 // the data's HMAC-SHA256
	opProve  = 2 // that of the data and "proof"; how many attempts were refused
	opReport = 3 // a line for VTL1's log
	opFinish = 4 // the number of failed steps
	opNames  = 5 // that number of attempts; the names of those not told yet, a line each

	callHeader = 16
	vtlCall    = 0x11
	vtlReturn  = 0x12
	hmacSize   = 32
)

// call makes a VTL call and returns VTL1's answer.
func (a *attacker) call(op uint32, data []byte) ([]byte, error) {
	if len(data) > pageSize-callHeader {
		return nil, fmt.Errorf("%d bytes do not fit into a call, which has %d", len(data), pageSize-callHeader)
	}
	r := &request{what: doVTLCall, a: vtlCall, c: ownPage}
	putCall(r, op, data)
	if err := a.do(r); err != nil {
		return nil, err
	}
	return answerOf(r, op)
}

// putCall lays out a call in a request's page.
func putCall(r *request, op uint32, data []byte) {
	le := binary.LittleEndian
	le.PutUint32(r.page[0:], op)
	le.PutUint32(r.page[4:], uint32(len(data)))
	le.PutUint32(r.page[8:], ^uint32(0)) // which is no answer
	copy(r.page[callHeader:], data)
}

// answerOf returns VTL1's answer to a call.
func answerOf(r *request, op uint32) ([]byte, error) {
	le := binary.LittleEndian
	if r.vector != none {
		return nil, fmt.Errorf("the VTL call raised %s", exception(r.vector))
	}
	if status := le.Uint32(r.page[8:]); status != 0 {
		return nil, fmt.Errorf("VTL1 answered call %d with status %#x", op, status)
	}
	n := le.Uint32(r.page[4:])
	if n > pageSize-callHeader {
		return nil, fmt.Errorf("VTL1 says that its answer to call %d has %d bytes, more than a page", op, n)
	}
	return bytes.Clone(r.page[callHeader:][:n]), nil
}

// told compares the names of the attempts that VTL1 has refused since it was asked last with
// those that it should have: "read of 0x400000", say, behind which it says where the code is.
// One attempt can be refused more than once in a row.
func (a *attacker) told(want ...string) error {
	answer, err := a.call(opNames, nil)
	if err != nil {
		return err
	}
	if len(answer) < 4 {
		return fmt.Errorf("VTL1's answer to call %d has %d bytes, fewer than 4", opNames, len(answer))
	}
	var names []string
	for name := range strings.Lines(string(answer[4:])) {
		what, _, _ := strings.Cut(strings.TrimSuffix(name, "\n"), " by code at ")
		names = append(names, what)
		a.names++
	}
	number := binary.LittleEndian.Uint32(answer)
	lost := number - a.names
	a.names = number
	switch names = slices.Compact(names); {
	case !slices.Equal(names, want):
		return fmt.Errorf("VTL1 was told of %q, not of %q", names, want)
	case lost != 0:
		return fmt.Errorf("VTL1 was told of %d more attempts than it has names for", lost)
	}
	return nil
}

// refused makes a request that must end in #GP, and of which VTL1 must have been told in these
// words.
func (a *attacker) refused(r *request, told string) (string, error) {
	way, err := as("#GP")(a.refusedBy(r, "%s", told))
	return way, cmp.Or(err, a.told(told))
}

// hmac has VTL1 authenticate bytes.
func (a *attacker) hmac(data string) ([]byte, error) {
	mac, err := a.call(opHMAC, []byte(data))
	if err == nil && len(mac) != hmacSize {
		err = fmt.Errorf("VTL1's HMAC has %d bytes, not %d", len(mac), hmacSize)
	}
	return mac, err
}

// finish tells VTL1 that all is over.
func (a *attacker) finish(failed uint32) error {
	_, err := a.call(opFinish, binary.LittleEndian.AppendUint32(nil, failed))
	if errors.Is(err, errNoHypervisor) {
		return nil
	}
	return err
}

// faultAt looks in the kernel's log for an oops, whose RIP is returned as it stands
// there, and for the address at which the module was about to do what led to it.
func faultAt(log string) (rip, about string, oops bool) {
	lines := bufio.NewScanner(strings.NewReader(log))
	for lines.Scan() {
		line := lines.Text()
		for _, what := range []string{"vtxattack: reading at ", "vtxattack: executing at "} {
			if _, at, ok := strings.Cut(line, what); ok {
				about = at
			}
		}
		if strings.Contains(line, "general protection fault") || strings.Contains(line, "BUG: unable to handle page fault") || strings.Contains(line, "Oops:") {
			oops = true
		}
		if _, at, ok := strings.Cut(line, "RIP: 0010:"); ok && rip == "" {
			rip = at
		}
	}
	return rip, about, oops
}
