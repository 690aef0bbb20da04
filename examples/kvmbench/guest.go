package main

import (
	"encoding/binary"
	"fmt"
	"regexp"
	"slices"
	"strconv"
)

const (
	// Few enough that most runs end between two ticks of the host's timer.
	iterations = 20  // of the guest's loop in a run
	runs       = 101 // of each loop

	portDone = 0xf4  // the guest writes here when its loop has ended
	portPIC  = 0x21  // the first interrupt controller's mask, which KVM emulates by itself
	portUser = 0x10f // of a device that is none of KVM's: KVM asks the program

	msrMiscEnable = 0x1a0
	msrPAT        = 0x277
	patAtReset    = 0x0007040600070406 // SDM Vol. 3A 12.12.4

	// A hypercall that KVM does not know, and what it answers: KVM_ENOSYS, negated.
	unknownCall = 0x7fff0000
	noSuchCall  = ^uint64(1000) + 1
)

// An operation is one instruction that makes a guest exit, with the values that EAX, ECX and
// EDX have before it.
type operation struct {
	name          string
	code          []byte
	eax, ecx, edx uint32

	// What RAX is behind it, in the bits of mask.
	rax, mask uint64
}

const low32 = 0xffffffff

// The operations. All but the first stand in the table.
var operations = []operation{
	{name: "nothing", eax: 1, rax: 1, mask: low32},
	{name: "CPUID, leaf 0", code: cpuid},
	{name: "CPUID, leaf 1", code: cpuid, eax: 1},
	{name: "VMCALL that is not known", code: []byte{0x0f, 0x01, 0xc1}, eax: unknownCall, rax: noSuchCall, mask: ^uint64(0)},
	{name: "RDMSR, a value (IA32_MISC_ENABLE)", code: rdmsr, eax: low32, ecx: msrMiscEnable, mask: 1 << 31},
	{name: "RDMSR, in the VMCS (IA32_PAT)", code: rdmsr, ecx: msrPAT, rax: patAtReset & low32, mask: low32},
	{name: "WRMSR, in the VMCS (IA32_PAT)", code: []byte{0x0f, 0x30}, ecx: msrPAT, eax: patAtReset & low32, edx: patAtReset >> 32,
		rax: patAtReset & low32, mask: low32},
	{name: "IN from a device of the hypervisor", code: []byte{0xec}, eax: 0xabcd, edx: portPIC, rax: 0xab00, mask: low32},
	{name: "OUT to a device of the program", code: []byte{0xee}, eax: 0xabcd, edx: portUser, rax: 0xabcd, mask: low32},
}

var (
	cpuid = []byte{0x0f, 0xa2}
	rdmsr = []byte{0x0f, 0x32}
)

// program is the guest's code, for 64-bit mode, at any address. At its end, which is a write
// to portDone, R9 has the ticks that the loop took and R10 what RAX was behind the
// operation.
func (o *operation) program() []byte {
	now := []byte{
		0x0f, 0x31, // rdtsc
		0x48, 0xc1, 0xe2, 0x20, // shl rdx, 32
		0x48, 0x09, 0xc2, // or rdx, rax
	}
	word := binary.LittleEndian.AppendUint32
	body := word([]byte{0xb8}, o.eax)                  // mov eax, ...
	body = word(append(body, 0xb9), o.ecx)             // mov ecx, ...
	body = word(append(body, 0xba), o.edx)             // mov edx, ...
	body = append(append(body, o.code...), 0xff, 0xcd) // dec ebp

	p := word([]byte{0xbd}, iterations) // mov ebp, iterations
	p = append(p, now...)
	p = append(p, 0x49, 0x89, 0xd0) // mov r8, rdx
	p = append(p, body...)
	p = append(p, 0x75, byte(-(len(body) + 2))) // jnz to the body
	p = append(p, 0x49, 0x89, 0xc2)             // mov r10, rax
	p = append(p, now...)
	p = append(p, 0x4c, 0x29, 0xc2, 0x49, 0x89, 0xd1) // sub rdx, r8; mov r9, rdx
	p = word(append(p, 0xba), portDone)               // mov edx, portDone
	return append(p, 0xee)                            // out dx, al
}

// check tells whether the guest saw what it should. For CPUID that is the hypervisor's own
// table, of which maxLeaf and signature are EAX of leaves 0 and 1.
func (o *operation) check(rax uint64, maxLeaf, signature uint32) error {
	want, mask := o.rax, o.mask
	if len(o.code) == len(cpuid) && [2]byte(o.code) == [2]byte(cpuid) {
		want, mask = uint64([]uint32{maxLeaf, signature}[o.eax]), ^uint64(0)
	}
	if (rax^want)&mask != 0 {
		return fmt.Errorf("%s: RAX is 0x%x in the guest, want 0x%x in the bits 0x%x: this is not the exit that is to be measured", o.name, rax, want, mask)
	}
	return nil
}

// A figure is what one operation costs over several runs, in ticks for one exit.
type figure struct {
	name             string
	min, median, max float64
}

// measure runs all operations. Run executes the guest's program for one of them and returns
// the ticks that its loop took.
func measure(run func(*operation) (uint64, error)) ([]figure, error) {
	var empty uint64
	var figures []figure
	for i := range operations {
		o := &operations[i]
		ticks := make([]uint64, runs)
		// The first run writes what is written once, and fills caches.
		if _, err := run(o); err != nil {
			return nil, err
		}
		for n := range ticks {
			var err error
			if ticks[n], err = run(o); err != nil {
				return nil, err
			}
		}
		slices.Sort(ticks)
		if len(o.code) == 0 {
			empty = ticks[0]
			continue
		}
		each := func(t uint64) float64 { return (float64(t) - float64(empty)) / iterations }
		figures = append(figures, figure{o.name, each(ticks[0]), each(ticks[runs/2]), each(ticks[runs-1])})
	}
	return figures, nil
}

// String is the line that parse finds.
func (f figure) String() string {
	return fmt.Sprintf("kvmbench: %s: min %.2f median %.2f max %.2f", f.name, f.min, f.median, f.max)
}

var figureLine = regexp.MustCompile(`kvmbench: (.+): min (-?[0-9.]+) median (-?[0-9.]+) max (-?[0-9.]+)`)

// parse finds the figures in what was printed.
func parse(printed string) (figures []figure) {
	for _, m := range figureLine.FindAllStringSubmatch(printed, -1) {
		f := figure{name: m[1]}
		for i, v := range []*float64{&f.min, &f.median, &f.max} {
			*v, _ = strconv.ParseFloat(m[2+i], 64) // what the expression admits and this does not reads as 0, and is seen
		}
		figures = append(figures, f)
	}
	return figures
}
