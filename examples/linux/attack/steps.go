package main

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"github.com/govtx/vtx/hypercall"
)

// steps are in this order: what Linux was told, what root can do without ring 0, ring 0
// on memory, hypercalls, MSRs and control registers, VMX, devices; proper calls.
var steps = []step{
	{"detected", detected},
	{"memory-map", memoryMap},
	{"no-vmx", noVMX},
	{"call", callStep},
	{"devmem-read-vtl1", devmemRead},
	{"devmem-write-vtl1", devmemWrite},
	{"devmem-map-read-vtl1", func(a *attacker) (string, error) { return devmemMap(a, false) }},
	{"devmem-map-write-vtl1", func(a *attacker) (string, error) { return devmemMap(a, true) }},
	{"devmem-map-hypervisor", devmemMapHoles},
	{"user-vmcall", userVMCALL},
	{"read-vtl1", func(a *attacker) (string, error) { return accessVTL1(a, doRead) }},
	{"write-vtl1", func(a *attacker) (string, error) { return accessVTL1(a, doWrite) }},
	{"read-vtl1-oops", func(a *attacker) (string, error) { return oops(a, doReadOops) }},
	{"execute-vtl1-oops", func(a *attacker) (string, error) { return oops(a, doExecute) }},
	{"page-table-in-vtl1", pageTable},
	{"string-io-on-vtl1", stringIO},
	{"device-and-vtl1", deviceMove},
	{"read-hypervisor", readHoles},
	{"write-hypervisor", writeHoles},
	{"unprotect-vtl1", unprotect},
	{"set-registers-of-vtl1", setRegisters},
	{"get-registers-of-vtl1", getRegisters},
	{"enable-vtl1-again", enableAgain},
	{"hypercall-page-in-vtl1", hypercallPages},
	{"odd-hypercalls", oddHypercalls},
	{"every-hypercall", everyHypercall},
	{"odd-vtl-calls", oddVTLCalls},
	{"vmx-msrs", vmxMSRs},
	{"guarded-msrs", guardedMSRs},
	{"memory-msrs", memoryMSRs},
	{"synthetic-msrs", syntheticMSRs},
	{"control-registers", controlRegisters},
	{"vmx-instructions", vmxInstructions},
	{"pci", pci},
	{"host-ports", hostPorts},
	{"a20-and-smi", a20AndSMI},
	{"call-page-elsewhere", callPages},
	{"call-again", callStep},
	{"soak", soak},
	{"proof", proof},
}

// detected: the kernel has found the hypervisor's interface by itself.
func detected(a *attacker) (string, error) {
	const want = "Hypervisor detected: Microsoft Hyper-V"
	if !strings.Contains(a.booted, want) {
		return "", fmt.Errorf("the kernel did not log %q", want)
	}
	return "ok: " + want, nil
}

// memoryMap: VTL1's memory is none that the kernel was given. The step also looks for
// addresses at which there is nothing.
func memoryMap(a *attacker) (string, error) {
	text, err := a.file("/proc/iomem")
	if err != nil {
		return "", err
	}
	ranges, names, err := parseIOMem(text)
	if err != nil {
		return "", err
	}
	ram := uint64(0)
	var taken []span
	for i, r := range ranges {
		// In the windows of PCI there would be devices, if it had any with memory.
		if !strings.HasPrefix(names[i], "PCI Bus ") {
			taken = append(taken, r)
		}
		if names[i] != "System RAM" {
			continue
		}
		if ram += r.last - r.first + 1; r.overlaps(a.vtl1) {
			return "", fmt.Errorf("the RAM at %v overlaps VTL1's memory at %v", r, a.vtl1)
		}
	}
	if ram == 0 {
		return "", errors.New("/proc/iomem has no RAM: are you root?")
	}
	// The I/O APIC is in neither map. Reads of 8 bytes there stop the emulator.
	taken = append(append(taken, a.vtl1, span{0xfec00000, 0xfec00fff}), parseE820(a.booted)...)
	a.holes = gaps(taken, 1<<32)
	// Every processor has 36 bits of physical addresses, and no machine that this
	// runs on has memory so high.
	a.holes = append(a.holes, span{1 << 32, 1<<32 + 1<<30 - 1}, span{1<<36 - 1<<30, 1<<36 - 1})
	for _, r := range taken {
		for _, h := range a.holes[len(a.holes)-2:] {
			if r.overlaps(h) {
				return "", fmt.Errorf("there is something at %v: this program takes no such machine", r)
			}
		}
	}
	return fmt.Sprintf("ok: %d MiB of RAM, none at VTL1's %v", ram>>20, a.vtl1), nil
}

// noVMX: the processor seems to have no VMX.
func noVMX(a *attacker) (string, error) {
	text, err := a.file("/proc/cpuinfo")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(text) {
		if name, flags, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "flags" {
			if strings.Contains(" "+strings.TrimSpace(flags)+" ", " vmx ") {
				return "", errors.New("the processor's flags have vmx")
			}
			return "ok: hidden", nil
		}
	}
	return "", errors.New("/proc/cpuinfo has no flags")
}

// callStep: VTL1 answers the same bytes with the same HMAC, and others with another one.
func callStep(a *attacker) (string, error) {
	var macs [3][]byte
	for i, data := range []string{"a message", "a message", "a massage"} {
		var err error
		if macs[i], err = a.hmac(data); err != nil {
			return "", err
		}
	}
	switch {
	case !bytes.Equal(macs[0], macs[1]):
		return "", fmt.Errorf("the same bytes have the HMACs %x and %x", macs[0], macs[1])
	case bytes.Equal(macs[0], macs[2]):
		return "", fmt.Errorf("different bytes have the same HMAC %x", macs[0])
	case bytes.Equal(macs[0], make([]byte, hmacSize)):
		return "", errors.New("the HMAC is 0")
	}
	return fmt.Sprintf("ok: HMAC %x...", macs[0][:8]), nil
}

// pattern is what is written where nothing should be written.
const pattern = 0x5645525f4d41_4544

// page is where the page of an address begins.
func page(address uint64) uint64 { return address &^ (pageSize - 1) }

// onVTL1 makes an attempt at pages of VTL1's memory: accesses of a kind, "read" or "write", of
// which VTL1 must have been told.
func onVTL1(a *attacker, kind string, attempt func(address uint64) (string, error)) (string, error) {
	return a.onPages(a.samples, kind, attempt)
}

// onPages is onVTL1 with as many pages as it is told.
func (a *attacker) onPages(n uint64, kind string, attempt func(address uint64) (string, error)) (string, error) {
	return each(a.vtl1.pages(n), func(address uint64) (string, error) {
		way, err := attempt(address)
		if err == nil {
			err = a.told(accessOf(kind, address))
		}
		return way, err
	})
}

// accessOf is the name of an access. Messages tell its page.
func accessOf(kind string, address uint64) string {
	return fmt.Sprintf("%s of %#x", kind, page(address))
}

func devmemRead(a *attacker) (string, error) {
	return onVTL1(a, "read", func(address uint64) (string, error) {
		var b [8]byte
		if err := a.pread(b[:], address); err != nil {
			return as("bad address")(err.Error(), nil) // no other error comes of the access itself
		}
		return "", fmt.Errorf("/dev/mem at %#x reads %x", address, b)
	})
}

// devmemWrite: Linux copies to the page and, when that faults, clears what it has not copied
// to. It does not expect that the page faults and not the source, and this second access is an
// oops. Its fifty lines are a reason to try one page only.
func devmemWrite(a *attacker) (string, error) {
	return a.onPages(1, "write", func(address uint64) (string, error) {
		died, err := a.pwrite(binary.LittleEndian.AppendUint64(nil, pattern), address)
		switch {
		case err != nil:
			return as("bad address")(err.Error(), nil)
		case died:
			return "an oops of the attacker alone", nil
		}
		return "", fmt.Errorf("/dev/mem could be written at %#x", address)
	})
}

func devmemMap(a *attacker, write bool) (string, error) {
	kind := "read"
	if write {
		kind = "write"
	}
	return onVTL1(a, kind, func(address uint64) (string, error) {
		var value uint64
		fault, err := a.mapped(address, func(page []byte) {
			if word := page[address%pageSize:]; write {
				binary.LittleEndian.PutUint64(word, pattern)
			} else {
				value = binary.LittleEndian.Uint64(word)
			}
		})
		switch {
		case err != nil:
			return "", fmt.Errorf("/dev/mem could not be mapped at %#x: %w", address, err)
		case !fault && write:
			return "", fmt.Errorf("a mapping of /dev/mem could be written at %#x", address)
		case !fault:
			return "", fmt.Errorf("a mapping of /dev/mem at %#x reads %#x", address, value)
		}
		return "SIGSEGV", nil
	})
}

// onHoles makes an attempt at pages of all ranges in which nothing should be.
func onHoles(a *attacker, attempt func(address uint64) (string, error)) (string, error) {
	var list []uint64
	for _, h := range a.holes {
		list = append(list, h.pages(a.samples)...)
	}
	return each(list, attempt)
}

const (
	ones    = ^uint64(0) // what is read where nothing is
	nothing = "nothing there"
)

func devmemMapHoles(a *attacker) (string, error) {
	return onHoles(a, func(address uint64) (string, error) {
		var value uint64
		fault, err := a.mapped(address, func(page []byte) {
			value = binary.LittleEndian.Uint64(page[address%pageSize:])
		})
		switch {
		case err != nil:
			return "", fmt.Errorf("/dev/mem could not be mapped at %#x: %w", address, err)
		case fault:
			return "SIGSEGV", nil
		case value == ones:
			return nothing, nil
		}
		return "", fmt.Errorf("a mapping of /dev/mem at %#x reads %#x", address, value)
	})
}

// userVMCALL: VMCALL is for ring 0 alone.
func userVMCALL(a *attacker) (string, error) {
	signal, err := a.vmcall()
	switch {
	case err != nil:
		return "", err
	case signal == "":
		return "", errors.New("VMCALL outside of ring 0 went through")
	}
	way, err := as("illegal instruction")(signal, nil)
	return "refused: " + way, err
}

func accessVTL1(a *attacker, w what) (string, error) {
	kind := "read"
	if w == doWrite {
		kind = "write"
	}
	return each(a.vtl1.pages(a.samples), func(address uint64) (string, error) {
		return a.refused(&request{what: w, a: address, b: pattern}, accessOf(kind, address))
	})
}

// pageTable: the processor itself does not read VTL1's memory for VTL0, as a page table.
func pageTable(a *attacker) (string, error) {
	return each(a.vtl1.pages(a.samples), func(address uint64) (string, error) {
		return a.refused(&request{what: doWalk, a: address}, accessOf("read", address))
	})
}

// stringIO: neither the processor, at ports that are the guest's, nor the hypervisor, at those
// where it answers itself, moves bytes between a port and VTL1's memory.
func stringIO(a *attacker) (string, error) {
	const postCode, speaker, pic, nobody = 0x80, 0x61, 0x21, 0x5555
	return each([]struct {
		what what
		port uint64
		kind string
	}{
		{doOUTS, postCode, "read"}, {doOUTS, nobody, "read"}, {doINS, speaker, "write"}, {doINS, pic, "write"}, {doINS, nobody, "write"},
	}, func(c struct {
		what what
		port uint64
		kind string
	}) (string, error) {
		return a.refused(&request{what: c.what, a: a.vtl1.first, b: c.port}, accessOf(c.kind, a.vtl1.first))
	})
}

// deviceMove: the hypervisor, which carries out instructions that access the I/O APIC and the
// local APIC, does not have them read VTL1's memory, nor write it.
func deviceMove(a *attacker) (string, error) {
	const ioAPIC, localAPICVersion = 0xfec00000, 0xfee00030
	var list []request
	for _, device := range []uint64{ioAPIC, localAPICVersion} {
		list = append(list, request{what: doMove, a: a.vtl1.first, b: device}, request{what: doMove, a: device, b: a.vtl1.first})
	}
	return each(list, func(r request) (string, error) {
		if r.a == a.vtl1.first {
			return a.refused(&r, accessOf("read", r.a))
		}
		return a.refused(&r, accessOf("write", r.b))
	})
}

// oops: the attacker's process alone ends, and what the kernel logs of it shows that it was
// the access itself that was refused.
func oops(a *attacker, w what) (string, error) {
	a.log()
	died, err := a.doomed(&request{what: w, a: page(a.vtl1.pages(3)[1])})
	if err != nil {
		return "", err
	}
	log := a.log()
	rip, about, oops := faultAt(log)
	switch {
	case !died:
		return "", errors.New("the access went through")
	case !oops:
		return "", fmt.Errorf("the process died, but the kernel logged no oops: %.200q", log)
	case about == "":
		return "", fmt.Errorf("the kernel logged an oops, but not that of the module: %.200q", log)
	case w == doExecute && rip != "0x"+about:
		return "", fmt.Errorf("the oops is at %s, behind %s where it should have begun", rip, about)
	case w == doReadOops && !strings.Contains(rip, "[vtxattack]"):
		return "", fmt.Errorf("the oops is at %s, not in the module", rip)
	}
	at := a.vtl1.pages(3)[1]
	told := []string{accessOf("read", at)}
	if w == doExecute { // after which the kernel reads the code, to log it
		told = append([]string{accessOf("execute", at)}, told...)
	}
	return "refused: an oops at " + rip + ", of the attacker alone", a.told(told...)
}

func readHoles(a *attacker) (string, error) {
	return onHoles(a, func(address uint64) (string, error) {
		r := &request{what: doRead, a: address}
		if err := a.do(r); err != nil {
			return "", err
		}
		switch {
		case r.vector != none:
			return exception(r.vector), nil
		case r.c == ones:
			return nothing, nil
		}
		return "", fmt.Errorf("the address %#x reads %#x", address, r.c)
	})
}

func writeHoles(a *attacker) (string, error) {
	return onHoles(a, func(address uint64) (string, error) {
		r := &request{what: doWrite, a: address, b: pattern}
		if err := a.do(r); err != nil {
			return "", err
		}
		if r.vector != none {
			return exception(r.vector), nil
		}
		r = &request{what: doRead, a: address}
		if err := a.do(r); err != nil {
			return "", err
		}
		if r.vector == none && r.c == pattern {
			return "", fmt.Errorf("what was written at %#x is there", address)
		}
		return nothing, nil
	})
}

// A call is a hypercall that must be refused.
type call struct {
	what          string
	word          hypercall.Input
	in            []byte
	input, output uint64 // addresses, 0 for the module's own
}

// callRefused makes a hypercall and returns its status.
func (a *attacker) callRefused(c call) (string, error) {
	r := &request{what: doHypercall, a: uint64(c.word), b: cmp.Or(c.input, ownPage), c: cmp.Or(c.output, ownOutput)}
	copy(r.page[:], c.in)
	if err := a.do(r); err != nil {
		return "", err
	}
	s := hypercall.Result(r.c).Status()
	switch {
	case r.vector == vectorUD:
		return "", fmt.Errorf("%s raised #UD: hypercalls are not enabled", c.what)
	case r.vector != none:
		return exception(r.vector), nil
	case s == hypercall.StatusSuccess:
		return "", fmt.Errorf("%s went through: %v", c.what, hypercall.Result(r.c))
	}
	return s.String(), nil
}

func rep(code hypercall.Code, count int) hypercall.Input {
	return hypercall.Input(0).WithCode(code).WithReps(count)
}

// marshal lays out the parameters of a hypercall.
func marshal(parts ...interface{ AppendBinary([]byte) ([]byte, error) }) []byte {
	var b []byte
	for _, p := range parts {
		b, _ = p.AppendBinary(b) // none of these structures has a value that cannot be
	}
	return b
}

// unprotect: VTL0 cannot give itself rights to VTL1's memory, whatever level it names, nor
// take rights from itself.
func unprotect(a *attacker) (string, error) {
	var list []call
	for _, target := range []hypercall.InputVTL{0, hypercall.TargetVTL(0), hypercall.TargetVTL(1)} {
		for _, address := range []uint64{a.vtl1.first, a.vtl1.last, 0x100000} {
			in := marshal(&hypercall.ModifyVtlProtectionMaskInput{PartitionID: hypercall.PartitionSelf, MapFlags: hypercall.MapAccess, TargetVTL: target})
			list = append(list, call{
				what: fmt.Sprintf("HvCallModifyVtlProtectionMask of %#x for %v", address, target),
				word: rep(hypercall.CodeModifyVtlProtectionMask, 1),
				in:   binary.LittleEndian.AppendUint64(in, address/pageSize),
			})
		}
	}
	return each(list, a.denied)
}

// denied is callRefused, and that because VTL0 is who it is, not because of what it says.
func (a *attacker) denied(c call) (string, error) {
	return as(hypercall.StatusAccessDenied.String())(a.callRefused(c))
}

func setRegisters(a *attacker) (string, error) {
	var list []call
	for r := range hypercall.Registers() {
		list = append(list, call{
			what: fmt.Sprintf("HvCallSetVpRegisters of VTL1's %v", r),
			word: rep(hypercall.CodeSetVpRegisters, 1),
			in: marshal(&hypercall.VpRegistersInput{PartitionID: hypercall.PartitionSelf, VPIndex: hypercall.VPSelf, TargetVTL: hypercall.TargetVTL(1)},
				&hypercall.RegisterAssoc{Name: r}),
		})
	}
	return each(list, a.denied)
}

// getRegister is the input of HvCallGetVpRegisters for one register.
func getRegister(target hypercall.InputVTL, r hypercall.Register) []byte {
	in := marshal(&hypercall.VpRegistersInput{PartitionID: hypercall.PartitionSelf, VPIndex: hypercall.VPSelf, TargetVTL: target})
	return binary.LittleEndian.AppendUint32(in, uint32(r))
}

// getRegisters reads a register of its own level first, in the same way: that it cannot get
// those of VTL1 would mean nothing if it could get none at all.
func getRegisters(a *attacker) (string, error) {
	own := &request{what: doHypercall, a: uint64(rep(hypercall.CodeGetVpRegisters, 1)), b: ownPage, c: ownOutput}
	copy(own.page[:], getRegister(0, hypercall.RegisterCR3))
	if err := a.do(own); err != nil {
		return "", err
	}
	if s := hypercall.Result(own.c).Status(); own.vector != none || s != hypercall.StatusSuccess {
		return "", fmt.Errorf("HvCallGetVpRegisters of VTL0's own CR3 does not work: %v, exception %d", s, own.vector)
	}
	var list []call
	for r := range hypercall.Registers() {
		list = append(list, call{
			what: fmt.Sprintf("HvCallGetVpRegisters of VTL1's %v", r),
			word: rep(hypercall.CodeGetVpRegisters, 1),
			in:   getRegister(hypercall.TargetVTL(1), r),
		})
	}
	return each(list, a.denied)
}

// enableAgain: VTL1 cannot be enabled a second time, with a context that the attacker chooses.
// The processor could run with it: it is 32-bit code. On processors VTL0 may not even ask.
func enableAgain(a *attacker) (string, error) {
	simple := func(c hypercall.Code) hypercall.Input { return hypercall.Input(0).WithCode(c) }
	segment := func(selector uint16, limit uint32, attributes hypercall.SegmentAttributes) hypercall.SegmentRegister {
		return hypercall.SegmentRegister{Selector: selector, Limit: limit, Attributes: attributes}
	}
	data := segment(0x10, 1<<32-1, 0xc093)
	context := hypercall.InitialVpContext{
		RIP: 0x100000, RSP: 0x100000, RFLAGS: 2, CS: segment(8, 1<<32-1, 0xc09b), DS: data, ES: data, FS: data, GS: data, SS: data,
		TR: segment(0x18, 0x67, 0x8b), CR0: 0x31, PAT: 0x0007040600070406,
	}
	return each([]struct {
		call
		want hypercall.Status
	}{
		{call{
			what: "HvCallEnablePartitionVtl", word: simple(hypercall.CodeEnablePartitionVtl),
			in: marshal(&hypercall.EnablePartitionVtlInput{PartitionID: hypercall.PartitionSelf, TargetVTL: 1}),
		}, hypercall.StatusInvalidVTLState},
		{call{
			what: "HvCallEnableVpVtl", word: simple(hypercall.CodeEnableVpVtl),
			in: marshal(&hypercall.EnableVpVtlInput{PartitionID: hypercall.PartitionSelf, VPIndex: hypercall.VPSelf, TargetVTL: 1, Context: context}),
		}, hypercall.StatusAccessDenied},
		{call{
			what: "HvCallEnableVpVtl of processor 0", word: simple(hypercall.CodeEnableVpVtl),
			in: marshal(&hypercall.EnableVpVtlInput{PartitionID: hypercall.PartitionSelf, TargetVTL: 1, Context: context}),
		}, hypercall.StatusAccessDenied},
	}, func(c struct {
		call
		want hypercall.Status
	}) (string, error) {
		return as(c.want.String())(a.callRefused(c.call))
	})
}

// hypercallPages: the hypervisor reads no parameters for VTL0 from memory that VTL0 cannot
// read, and writes no results where it cannot write.
func hypercallPages(a *attacker) (string, error) {
	word, in := rep(hypercall.CodeGetVpRegisters, 1), getRegister(0, hypercall.RegisterCR3)
	pages := []uint64{a.vtl1.first, page(a.vtl1.pages(3)[1]), page(a.vtl1.last)}
	for _, h := range a.holes {
		pages = append(pages, h.first)
	}
	var list []call
	for _, p := range pages {
		list = append(list,
			call{what: fmt.Sprintf("a hypercall with its input at %#x", p), word: word, input: p},
			call{what: fmt.Sprintf("a hypercall with its output at %#x", p), word: word, in: in, output: p})
	}
	return each(list, func(c call) (string, error) {
		way, err := as("#GP")(a.callRefused(c))
		switch {
		case err != nil:
		case a.vtl1.contains(c.input):
			err = a.told(accessOf("read", c.input))
		case a.vtl1.contains(c.output):
			err = a.told(accessOf("write", c.output))
		}
		return way, err
	})
}

// oddHypercalls: what is no hypercall is none.
func oddHypercalls(a *attacker) (string, error) {
	var list []call
	for _, w := range []hypercall.Input{
		0, 0xffff, 0x7fff, ^hypercall.Input(0), 1 << 27, 1 << 44, 1 << 63,
		rep(hypercall.CodeModifyVtlProtectionMask, 0), rep(hypercall.CodeModifyVtlProtectionMask, 4095),
		rep(hypercall.CodeModifyVtlProtectionMask, 1).WithRepStart(2), rep(hypercall.CodeEnableVpVtl, 1),
	} {
		list = append(list, call{what: fmt.Sprintf("the hypercall %#x", uint64(w)), word: w})
	}
	return each(list, a.callRefused)
}

// everyHypercall: no hypercall at all does anything about VTL1's memory, neither those that read
// and write any memory of a partition nor those whose numbers mean nothing.
func everyHypercall(a *attacker) (string, error) {
	var list []call
	add := func(word hypercall.Input) {
		in := make([]byte, 0, pageSize)
		in = binary.LittleEndian.AppendUint64(in, uint64(hypercall.PartitionSelf))
		for len(in) < pageSize { // a processor, a level, a page, an address: each where one may be
			in = binary.LittleEndian.AppendUint64(in, a.vtl1.first/pageSize<<(uint64(len(in))/8%2*12))
		}
		list = append(list, call{what: fmt.Sprintf("%v (%#x)", word.Code(), uint64(word)), word: word, in: in})
	}
	for c := range hypercall.Code(0x200) {
		switch c {
		case hypercall.CodeVtlCall, hypercall.CodeVtlReturn: // of these there are other steps
		case hypercall.CodeNotifyLongSpinWait: // which does nothing, and that well
		default:
			add(hypercall.Input(0).WithCode(c))
			add(rep(c, 1))
		}
	}
	return each(list, a.callRefused)
}

// oddVTLCalls: VTL0 can make no VTL return, for no level is below it, and no VTL call that
// is not as it must be.
func oddVTLCalls(a *attacker) (string, error) {
	return each([]struct{ word, control uint64 }{
		{vtlReturn, 0}, {vtlReturn, 1}, {vtlCall, 1}, {vtlCall, 1 << 63}, {vtlCall | 1<<16, 0}, {vtlCall | 1<<32, 0},
	}, func(c struct{ word, control uint64 }) (string, error) {
		return as("#UD")(a.refusedBy(&request{what: doVTLCall, a: c.word, b: c.control, c: ownPage}, "VMCALL with RCX %#x and RAX %#x", c.word, c.control))
	})
}

// MSRs (SDM Vol. 4, table 2-2).
const (
	msrAPICBase       = 0x1b
	msrFeatureControl = 0x3a
	msrSysenterEIP    = 0x176
	msrVMXFirst       = 0x480
	msrVMXLast        = 0x491
	msrEFER           = 0xc0000080
	msrSTAR           = 0xc0000081
	msrLSTAR          = 0xc0000082
)

// vmxMSRs: a processor without VMX does not have them.
func vmxMSRs(a *attacker) (string, error) {
	msrs := []uint64{msrFeatureControl}
	for n := uint64(msrVMXFirst); n <= msrVMXLast; n++ {
		msrs = append(msrs, n)
	}
	return each(msrs, func(n uint64) (string, error) {
		if _, err := as("#GP")(a.refusedBy(&request{what: doWRMSR, a: n, b: 5}, "WRMSR of %#x", n)); err != nil {
			return "", err
		}
		return as("#GP")(a.refusedBy(&request{what: doRDMSR, a: n}, "RDMSR of %#x", n))
	})
}

// as returns a function that lets an attempt pass only if it was refused in one way: in
// another one, there would be something to see.
func as(want string) func(way string, err error) (string, error) {
	return func(way string, err error) (string, error) {
		if err == nil && way != want {
			err = fmt.Errorf("refused by %s, not %s", way, want)
		}
		return way, err
	}
}

// unchanged tells in which way a change was refused: by an exception, or by doing nothing.
func unchanged(r *request, format string, args ...any) (string, error) {
	switch {
	case r.vector != none && r.b == r.c:
		return exception(r.vector), nil
	case r.b == r.c:
		return "unchanged", nil
	}
	return "", fmt.Errorf(format+" changed it from %#x to %#x", append(args, r.b, r.c)...)
}

// guardedMSRs: those that VTL1 guards keep their values. What is tried would do no harm
// if it went through, and the module puts it back.
func guardedMSRs(a *attacker) (string, error) {
	return each([]struct {
		name       string
		msr, flips uint64
	}{
		{"IA32_LSTAR", msrLSTAR, 0x10},
		{"IA32_STAR", msrSTAR, 0x10 << 32},
		{"IA32_SYSENTER_EIP", msrSysenterEIP, 0x10},
		{"IA32_EFER", msrEFER, 1}, // SCE
		{"IA32_APIC_BASE", msrAPICBase, 0x100000},
		{"IA32_APIC_BASE over VTL1's memory", msrAPICBase, 0xfee00000 ^ a.vtl1.first},
	}, func(m struct {
		name       string
		msr, flips uint64
	}) (string, error) {
		old := &request{what: doRDMSR, a: m.msr}
		if err := a.do(old); err != nil {
			return "", err
		}
		r := &request{what: doWRMSR, a: m.msr, b: old.c ^ m.flips}
		told := fmt.Sprintf("write of MSR %#x with %#x", r.a, r.b)
		if err := a.do(r); err != nil {
			return "", err
		}
		way, err := as("#GP")(unchanged(r, "WRMSR of %s", m.name))
		return way, cmp.Or(err, a.told(told))
	})
}

// memoryMSRs: none of the MSRs that say where memory is, of what type, or where the processor
// itself is to write or to take microcode from, can be pointed at VTL1's memory.
func memoryMSRs(a *attacker) (string, error) {
	const valid = 1 << 11
	at := a.vtl1.first
	return each([]struct{ msr, value uint64 }{
		{0x79, at},                 // IA32_BIOS_UPDT_TRIG
		{0x9b, at | 1}, {0x9e, at}, // IA32_SMM_MONITOR_CTL, IA32_SMBASE
		{0x1d9, 3 << 6},                 // IA32_DEBUGCTL: TR, BTS
		{0x1f2, at | 6}, {0x1f3, valid}, // SMRR
		{0x200, at}, {0x201, 0xfffc00000 | valid}, {0x250, 0}, {0x2ff, 0}, // MTRRs
		{0x560, at}, {0x570, 1}, // IA32_RTIT_OUTPUT_BASE, IA32_RTIT_CTL
		{0x600, at},                               // IA32_DS_AREA
		{0x6a4, at}, {0x6a8, at}, {0xda0, 1 << 8}, // IA32_PL0_SSP, IA32_INTERRUPT_SSP_TABLE_ADDR, IA32_XSS
	}, func(m struct{ msr, value uint64 }) (string, error) {
		r := &request{what: doWRMSR, a: m.msr, b: m.value}
		if err := a.do(r); err != nil {
			return "", err
		}
		return unchanged(r, "WRMSR of %#x", m.msr)
	})
}

// syntheticMSRs: VTL0 may lay pages of its interface with the hypervisor over any address. That
// opens nothing that is beneath, neither while it lasts for VTL1, nor afterwards.
func syntheticMSRs(a *attacker) (string, error) {
	before, err := a.hmac("beneath")
	if err != nil {
		return "", err
	}
	type attempt struct {
		msr     hypercall.MSR
		address uint64
	}
	const nowhere = 1 << 51 // no processor that this runs on has such an address
	var list []attempt
	for _, m := range []hypercall.MSR{hypercall.MSRHypercall, hypercall.MSRVPAssistPage, hypercall.MSRSIMP} {
		list = append(list, attempt{m, nowhere}, attempt{m, a.vtl1.first}, attempt{m, page(a.vtl1.last)})
		for _, h := range a.holes {
			list = append(list, attempt{m, h.first})
		}
	}
	seen := map[hypercall.MSR]uint64{} // where a page begins that lies over another
	how, err := each(list, func(t attempt) (string, error) {
		if t.address == nowhere {
			r := &request{what: doWRMSR, a: uint64(t.msr), b: t.address | 1}
			if err := a.do(r); err != nil {
				return "", err
			}
			return as("#GP")(unchanged(r, "%v at %#x", t.msr, t.address))
		}
		r := &request{what: doOverlay, a: uint64(t.msr), b: t.address | 1, c: t.address}
		putCall(r, opHMAC, []byte("beneath"))
		if err := a.do(r); err != nil {
			return "", err
		}
		switch first, ok := seen[t.msr]; {
		case r.vector != none:
			return "", fmt.Errorf("%v at %#x raised %s", t.msr, t.address, exception(r.vector))
		case int32(r.b) != none:
			return "", fmt.Errorf("%v is at %#x, and reading there raised %s", t.msr, t.address, exception(int32(r.b)))
		case ok && r.c != first:
			return "", fmt.Errorf("while %v was at %#x, it read %#x there, not %#x as elsewhere", t.msr, t.address, r.c, first)
		}
		seen[t.msr] = r.c
		if after, err := answerOf(r, opHMAC); err != nil || !bytes.Equal(before, after) {
			return "", fmt.Errorf("while %v was at %#x, VTL1 answered %x, not %x (%v)", t.msr, t.address, after, before, err)
		}
		below := &request{what: doRead, a: t.address}
		if a.vtl1.contains(t.address) {
			if _, err := a.refused(below, accessOf("read", t.address)); err != nil {
				return "", fmt.Errorf("after %v was at %#x: %w", t.msr, t.address, err)
			}
		} else if err := a.do(below); err != nil {
			return "", err
		} else if below.vector == none && below.c != ones {
			return "", fmt.Errorf("after %v was at %#x, it reads %#x there", t.msr, t.address, below.c)
		}
		return "an overlay, no more", nil
	})
	if err != nil {
		return "", err
	}
	if after, err := a.hmac("beneath"); err != nil || !bytes.Equal(before, after) {
		return "", fmt.Errorf("VTL1 answers %x, not %x (%v)", after, before, err)
	}
	return how, nil
}

// controlRegisters: there is no CR4.VMXE, and VTL1 guards the bits that keep the kernel from
// executing and writing what it should not.
func controlRegisters(a *attacker) (string, error) {
	return each([]struct {
		name        string
		number, bit uint64
		told        string // to VTL1
	}{
		{"CR4.VMXE", 4, 13, ""},
		{"CR4.SMEP", 4, 20, "HvX64RegisterCr4"}, {"CR4.SMAP", 4, 21, "HvX64RegisterCr4"}, {"CR0.WP", 0, 16, "HvX64RegisterCr0"},
	}, func(c struct {
		name        string
		number, bit uint64
		told        string
	}) (string, error) {
		r := &request{what: doCR, a: c.number, b: 1 << c.bit}
		if err := a.do(r); err != nil {
			return "", err
		}
		way, err := as("#GP")(unchanged(r, "an attack on %s", c.name))
		if c.told != "" && err == nil {
			err = a.told(fmt.Sprintf("write of %s with %#x", c.told, r.b^1<<c.bit))
		}
		return way, err
	})
}

// vmxNames are enum vtx_instruction in ../module/vtxattack.h.
var vmxNames = []string{
	"VMXON", "VMXOFF", "VMCLEAR", "VMPTRLD", "VMPTRST", "VMREAD",
	"VMWRITE", "VMLAUNCH", "VMRESUME", "INVEPT", "INVVPID", "VMFUNC",
}

func vmxInstructions(a *attacker) (string, error) {
	numbers := make([]uint64, len(vmxNames))
	for i := range numbers {
		numbers[i] = uint64(i)
	}
	return each(numbers, func(n uint64) (string, error) {
		return as("#UD")(a.refusedBy(&request{what: doVMX, a: n}, "%s", vmxNames[n]))
	})
}

// pciFunctions are all that PCI has: emulated, and with nothing by which they could write to
// memory.
var pciFunctions = []struct {
	function  uint64 // bits 23:8 of CONFIG_ADDRESS
	id, class uint64
}{
	{0, 0x12378086, 0x060000},        // 00:00.0, host bridge
	{1 << 3, 0x70008086, 0x060100},   // 00:01.0, ISA bridge
	{1<<3 | 3, 0x71138086, 0x068000}, // 00:01.3, power management
}

// pciAttacks are made on every function, be it there or not.
var pciAttacks = []struct {
	what       string
	register   uint64
	clear, set uint64
}{
	{"bus mastering", 0x04, 0, 7},
	{"a base address", 0x10, 0, 0xe0000000},
	{"SMRAM", 0x70, 0x10 << 16, 0x48 << 16}, // of the host bridge: D_LCK; D_OPEN, G_SMRAME
	{"RAM under the firmware", 0x58, 0, 0x30 << 8},
	{"write access to the firmware", 0x4c, 0, 4 << 16}, // of the ISA bridge
	{"ports", 0x40, 0xffff, 0xc001},                    // of power management
}

const (
	configAddress = 0xcf8
	configData    = 0xcfc
	smmHandler    = 0xa8000 // where code is for system-management mode, if its memory is open
)

// pci: no device of the machine can be reached that could write to memory, nor its bridges.
func pci(a *attacker) (string, error) {
	below := &request{what: doRead, a: smmHandler}
	if err := a.do(below); err != nil {
		return "", err
	}
	functions := []uint64{1 << 8, 2 << 8, 0xff << 8} // of other buses
	for f := range uint64(1 << 8) {
		functions = append(functions, f)
	}
	how, err := each(functions, a.pciFunction)
	if err != nil {
		return "", err
	}
	after := &request{what: doRead, a: smmHandler}
	if err := a.do(after); err != nil {
		return "", err
	}
	if below.vector != after.vector || below.c != after.c {
		return "", fmt.Errorf("the memory of system-management mode is open: %#x reads %#x, and %#x before", smmHandler, after.c, below.c)
	}
	return how, nil
}

// pciFunction attacks a function.
func (a *attacker) pciFunction(function uint64) (string, error) {
	name := fmt.Sprintf("PCI function %02x:%02x.%x", function>>8, function>>3&0x1f, function&7)
	const absent = 1<<32 - 1
	id, class, bars, way := uint64(absent), uint64(absent>>8), uint64(absent), nothing
	for _, f := range pciFunctions {
		if f.function == function {
			id, class, bars, way = f.id, f.class, 0, "emulated, and unchanged"
		}
	}
	for _, register := range []uint64{0, 8, 0x10, 0x14, 0x18, 0x1c, 0x20, 0x24, 0x30} {
		v, err := a.configRead(function, register)
		want := bars
		switch register {
		case 0:
			want = id
		case 8:
			v, want = v>>8, class
		}
		switch {
		case err != nil:
			return "", err
		case v != want:
			return "", fmt.Errorf("%s: register %#x reads %#x, not %#x", name, register, v, want)
		}
	}
	for _, t := range pciAttacks {
		before, err := a.configRead(function, t.register)
		if err != nil {
			return "", err
		}
		v := before&^t.clear | t.set
		if before == absent {
			v = t.set // all bits are set, so far
		}
		if err := a.configWrite(v); err != nil {
			return "", err
		}
		after, err := a.configRead(function, t.register)
		switch {
		case err != nil:
			return "", err
		case after != before:
			return "", errors.Join(fmt.Errorf("%s: an attack on %s changed register %#x from %#x to %#x", name, t.what, t.register, before, after),
				a.configWrite(before))
		}
	}
	return way, nil
}

// configRead reads a register of PCI configuration.
func (a *attacker) configRead(function, register uint64) (uint64, error) {
	if err := a.do(&request{what: doOut, a: configAddress, b: 4, c: 1<<31 | function<<8 | register}); err != nil {
		return 0, err
	}
	r := &request{what: doIn, a: configData, b: 4}
	err := a.do(r)
	return r.c, err
}

// configWrite writes the register that was read last.
func (a *attacker) configWrite(v uint64) error {
	return a.do(&request{what: doOut, a: configData, b: 4, c: v})
}

// hostPorts: the ports by which Bochs talks with the hypervisor, the DMA controllers, and the
// disk and floppy controllers, which use those, are not the guest's.
func hostPorts(a *attacker) (string, error) {
	for _, b := range []byte("Shutdown") { // ends Bochs
		if err := a.do(&request{what: doOut, a: 0x8900, b: 1, c: uint64(b)}); err != nil {
			return "", err
		}
	}
	return each([]uint64{
		0xe9, 0x8900, 0x00, 0x08, 0x87, 0xc0, 0xd0, 0x1f1, 0x1f7, 0x171, 0x177, 0x376, 0x3f6, 0x3f2, 0x3f5,
	}, func(port uint64) (string, error) {
		for _, c := range []uint64{0x5a, 0xa5} {
			if err := a.do(&request{what: doOut, a: port, b: 1, c: c}); err != nil {
				return "", err
			}
			r := &request{what: doIn, a: port, b: 1}
			if err := a.do(r); err != nil {
				return "", err
			}
			if r.c != 0xff {
				return "", fmt.Errorf("something is at port %#x: it reads %#x", port, r.c)
			}
		}
		return nothing, nil
	})
}

// a20AndSMI: VTL0 cannot have bit 20 of addresses ignored, with which 0x500000 would be
// 0x400000 for VTL1 and the hypervisor too, and a system-management interrupt changes nothing.
func a20AndSMI(a *attacker) (string, error) {
	before, err := a.hmac("a20")
	if err != nil {
		return "", err
	}
	return each([][]struct{ port, value uint64 }{
		{{0x92, 0}},
		{{0x64, 0xdd}},
		{{0x64, 0xd1}, {0x60, 0xdd}},
		{{0xb2, 0x5a}},
	}, func(writes []struct{ port, value uint64 }) (string, error) {
		for _, w := range writes {
			if err := a.do(&request{what: doOut, a: w.port, b: 1, c: w.value}); err != nil {
				return "", err
			}
		}
		if after, err := a.hmac("a20"); err != nil || !bytes.Equal(before, after) {
			return "", fmt.Errorf("after port %#x VTL1 answers %x, not %x (%v)", writes[0].port, after, before, err)
		}
		odd := a.vtl1.first | 1<<20
		if _, err := a.refused(&request{what: doRead, a: odd}, accessOf("read", odd)); err != nil {
			return "", fmt.Errorf("after port %#x: %w", writes[0].port, err)
		}
		return "without effect", nil
	})
}

// callPages: VTL1 does not use a page of a call that is its own, or not there, or none.
func callPages(a *attacker) (string, error) {
	before, err := a.hmac("elsewhere")
	if err != nil {
		return "", err
	}
	pages := []uint64{a.vtl1.first, page(a.vtl1.pages(3)[1]), page(a.vtl1.last), 0x100008, 1<<64 - pageSize}
	for _, h := range a.holes {
		pages = append(pages, h.first)
	}
	for _, p := range pages {
		r := &request{what: doVTLCall, a: vtlCall, c: p}
		if err := a.do(r); err != nil {
			return "", err
		}
		after, err := a.hmac("elsewhere")
		if err != nil || !bytes.Equal(before, after) {
			return "", fmt.Errorf("after a call with a page at %#x VTL1 answers %x, not %x (%v)", p, after, before, err)
		}
		if err := a.told(fmt.Sprintf("VTL call with a page at %#x", p)); err != nil {
			return "", err
		}
	}
	return fmt.Sprintf("ok: %d calls did nothing", len(pages)), nil
}

// soak: many calls while interrupts arrive.
func soak(a *attacker) (string, error) {
	r := &request{what: doSoak, a: a.soak}
	if err := a.do(r); err != nil {
		return "", err
	}
	word := func(i int) uint64 { return binary.LittleEndian.Uint64(r.page[8*i:]) }
	done, wrong, sent, received, timer := word(0), word(1), word(2), word(3), word(4)
	text := fmt.Sprintf("%d of %d calls, %d wrong; %d of %d interrupts that were waiting, %d of the timer", done, a.soak, wrong, received, sent, timer)
	if r.vector != none {
		return "", fmt.Errorf("a call raised %s: %s", exception(r.vector), text)
	}
	if done != a.soak || wrong != 0 || received != sent || sent != a.soak/2 || a.soak >= 1000 && timer == 0 {
		return "", errors.New(text)
	}
	return "ok: " + text, nil
}

// proof: VTL1's key is what it was, and it has refused no attempt but those that were made here.
func proof(a *attacker) (string, error) {
	const nonce = "a nonce for the proof"
	want, err := a.hmac(nonce + "proof") // which it adds by itself
	if err != nil {
		return "", err
	}
	answer, err := a.call(opProve, []byte(nonce))
	if err != nil {
		return "", err
	}
	if len(answer) < hmacSize+4 {
		return "", fmt.Errorf("the proof has %d bytes, fewer than %d", len(answer), hmacSize+4)
	}
	if !bytes.Equal(answer[:hmacSize], want) {
		return "", fmt.Errorf("the proof is %x, not %x", answer[:hmacSize], want)
	}
	if n := binary.LittleEndian.Uint32(answer[hmacSize:]); n != a.names {
		return "", fmt.Errorf("VTL1 has refused %d attempts, but named %d", n, a.names)
	}
	return fmt.Sprintf("ok: the key is whole; VTL1 has named each of %d attempts that it refused", a.names), nil
}
