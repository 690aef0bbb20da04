package main

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/govtx/vtx/internal/require"
)

// A double is a machine whose hypervisor and VTL1 refuse what they should, unless a test
// replaces one of its functions.
type double struct {
	vtl1     span
	key      string
	messages uint32
	names    []string // of messages that were not told yet
	reports  []string
	finished int // the number of failed steps that VTL1 was told, -1 before

	ioctl  func(r *request) error
	died   bool   // how a doomed process ends
	signal string // of VMCALL outside of ring 0
	logs   string // what the kernel logs of it
	access error  // of /dev/mem
	fault  bool   // of a mapping
	files  map[string]string
	told   string // the beginning of the kernel's log
	config uint64 // what CONFIG_ADDRESS of PCI holds
}

func newDouble() *double {
	d := &double{
		vtl1: span{0x400000, 0x3ffffff}, key: "key", finished: -1, died: true, signal: "illegal instruction", access: errors.New("bad address"), fault: true,
		files: map[string]string{
			"/proc/iomem":   "00001000-0009efff : System RAM\n00100000-003fffff : System RAM\n00400000-03ffffff : Reserved\n04000000-0fffffff : System RAM\n  05000000-06000000 : Kernel code\n1fff0000-1fffffff : ACPI Tables\nc0000000-febfffff : PCI Bus 0000:00\nfee00000-fee00fff : Local APIC\n",
			"/proc/cpuinfo": "processor\t: 0\nflags\t\t: fpu vme\nvmx flags\t: vnmi\n",
		},
		told: "BIOS-e820: [mem 0x00000000fffc0000-0x00000000ffffffff] reserved\nHypervisor detected: Microsoft Hyper-V\n",
	}
	d.ioctl = d.refuse
	return d
}

func (d *double) do(r *request) error {
	r.vector = none
	return d.ioctl(r)
}

// tell has VTL1 refuse an attempt.
func (d *double) tell(format string, args ...any) {
	d.messages++
	d.names = append(d.names, fmt.Sprintf(format, args...)+" by code at 0xabc")
}

// touch tells VTL1 of an access to its memory.
func (d *double) touch(kind string, address uint64) bool {
	if d.vtl1.contains(address) {
		d.tell("%s of %#x", kind, address&^(pageSize-1))
		return true
	}
	return false
}

// refuse does what a request should lead to.
func (d *double) refuse(r *request) error {
	r.vector = 13
	switch r.what {
	case doRead, doReadOops, doOUTS, doWalk:
		if d.touch("read", r.a) {
			break
		}
		r.vector = none
		if r.c = ones; r.a >= 0xfec00000 && r.a < 0xfec01000 || r.a >= 0xfffc0000 && r.a < 1<<32 {
			r.c = 0 // the I/O APIC, the firmware
		}
	case doWrite, doINS:
		if !d.touch("write", r.a) {
			r.vector = none
		}
	case doExecute:
		d.touch("execute", r.a)
		d.touch("read", r.a)
	case doMove:
		if !d.touch("read", r.a) && !d.touch("write", r.b) {
			r.vector = none
		}
	case doRDMSR:
		if r.a < msrVMXFirst && r.a != msrFeatureControl || r.a > msrVMXLast {
			r.vector, r.c = none, 0x1000
		}
	case doWRMSR:
		if slices.Contains([]uint64{msrLSTAR, msrSTAR, msrSysenterEIP, msrEFER, msrAPICBase}, r.a) {
			d.tell("write of MSR %#x with %#x", r.a, r.b)
		}
		r.b, r.c = 0, 0
	case doOverlay:
		r.vector, r.c = none, 0x3c3
		r.b = r.b&^(1<<32-1) | 1<<32 - 1 // none
		d.answer(r.page[:])
	case doVMX:
		r.vector = 6
	case doCR:
		if r.b != 1<<13 {
			d.tell("write of HvX64RegisterCr%d with %#x", r.a, 0x80000000|r.b)
		}
		r.b, r.c = 0x80000000, 0x80000000
	case doHypercall:
		r.vector = none
		le := binary.LittleEndian
		switch code := r.a & 0xffff; {
		case d.touch("read", r.b), d.touch("write", r.c):
			r.vector = 13
		case r.b != ownPage || r.c != ownOutput: // in a hole
			r.vector = 13
		case code == 0x50 && r.page[12] == 0 && r.a>>32 == 1 && le.Uint32(r.page[8:]) == ^uint32(1):
			r.c = 0 // its own register
		case code == 0xd: // enabled already
			r.c = 0x51
		default:
			r.c = 6
		}
	case doVTLCall:
		switch r.vector = none; {
		case r.a != vtlCall || r.b != 0:
			r.vector = 6
		case r.c == ownPage:
			d.answer(r.page[:])
		default:
			d.tell("VTL call with a page at %#x", r.c)
		}
	case doSoak:
		r.vector = none
		for i, v := range []uint64{r.a, 0, r.a / 2, r.a / 2, 7} {
			binary.LittleEndian.PutUint64(r.page[8*i:], v)
		}
	case doIn:
		r.vector = none
		r.c = 1<<(8*r.b) - 1
		if r.a == configData {
			r.c = configured(d.config)
		}
	case doOut:
		r.vector = none
		if r.a == configAddress {
			d.config = r.c
		}
	default:
		r.vector = none
	}
	return nil
}

// configured is what a register of PCI configuration reads.
func configured(address uint64) uint64 {
	for _, f := range []struct{ address, id, class uint64 }{
		{0x80000000, 0x12378086, 0x06000000}, {0x80000800, 0x70008086, 0x06010000}, {0x80000b00, 0x71138086, 0x06800003},
	} {
		if f.address == address&^0xff {
			return map[uint64]uint64{0: f.id, 8: f.class}[address&0xff]
		}
	}
	return 1<<32 - 1
}

// answer is VTL1's program.
func (d *double) answer(page []byte) {
	le := binary.LittleEndian
	data := page[callHeader:][:le.Uint32(page[4:])]
	h := hmac.New(sha256.New, []byte(d.key))
	h.Write(data)
	if le.Uint32(page) == opProve {
		h.Write([]byte("proof"))
	}
	out := h.Sum(nil)
	switch le.Uint32(page) {
	case opHMAC:
	case opProve:
		out = le.AppendUint32(out, d.messages)
	case opReport:
		d.reports = append(d.reports, string(data))
		out = nil
	case opFinish:
		d.finished = int(le.Uint32(data))
		out = nil
	case opNames:
		out = le.AppendUint32(nil, d.messages)
		for _, name := range d.names {
			out = append(out, name+"\n"...)
		}
		d.names = nil
	}
	le.PutUint32(page[4:], uint32(copy(page[callHeader:], out)))
	le.PutUint32(page[8:], 0)
}

func (d *double) doomed(r *request) (bool, error) {
	if err := d.do(r); err != nil {
		return false, err
	}
	d.logs = "vtxattack: reading at ffffa\nBUG: unable to handle page fault\nRIP: 0010:touch+0x1/0x2 [vtxattack]\nRIP: 0033:0x1\n"
	if r.what == doExecute {
		d.logs = "vtxattack: executing at ffffb\ngeneral protection fault\nRIP: 0010:0xffffb\n"
	}
	return d.died, nil
}

func (d *double) vmcall() (string, error) { return d.signal, nil }

func (d *double) pread(_ []byte, address uint64) error {
	if d.access != nil {
		d.touch("read", address)
	}
	return d.access
}

func (d *double) pwrite(_ []byte, address uint64) (bool, error) {
	if d.access == nil {
		return false, nil
	}
	d.touch("write", address)
	d.touch("write", address) // as Linux does
	if d.died {
		return true, nil
	}
	return false, d.access
}

func (d *double) mapped(address uint64, f func([]byte)) (bool, error) {
	page := bytes.Repeat([]byte{0xff}, pageSize)
	before := bytes.Clone(page)
	f(page)
	if !d.fault || !d.vtl1.contains(address) {
		return false, nil
	}
	kind := "read"
	if !bytes.Equal(page, before) {
		kind = "write"
	}
	return d.touch(kind, address), nil
}

func (d *double) log() string {
	text := d.told + d.logs
	d.told, d.logs = "", ""
	return text
}

func (d *double) file(name string) (string, error) { return d.files[name], nil }

// failures runs all steps on a machine and returns the names of those that fail.
func failures(t *testing.T, d *double) (names []string, out string) {
	t.Helper()
	var b strings.Builder
	failed, err := (&attacker{machine: d, out: &b, vtl1: d.vtl1, samples: 64, soak: 1000}).run()
	require.NoError(t, err)
	for _, m := range regexp.MustCompile(`step (\S+): FAILED`).FindAllStringSubmatch(b.String(), -1) {
		names = append(names, m[1])
	}
	require.Len(t, names, failed, b.String())
	return names, b.String()
}

func TestAllStepsPassWhereAllIsRefused(t *testing.T) {
	d := newDouble()
	names, out := failures(t, d)
	require.Empty(t, names, out)
	require.Contains(t, out, fmt.Sprintf("vtx: %d steps, 0 failed", len(steps)))
	require.Contains(t, out, "step read-vtl1: refused: 64 x #GP")
	require.Contains(t, out, "step proof: ok: the key is whole; VTL1 has named each of ")
	require.Empty(t, d.reports)
}

// A window of PCI is searched for the hypervisor's memory as well.
func TestHolesHaveWindowsOfPCI(t *testing.T) {
	d := newDouble()
	a := &attacker{machine: d, vtl1: d.vtl1, booted: d.told}
	_, err := memoryMap(a)
	require.NoError(t, err)
	require.Equal(t, []span{{0x10000000, 0x1ffeffff}, {0x20000000, 0xfebfffff}, {0xfec01000, 0xfedfffff}, {0xfee01000, 0xfffbffff}}, a.holes[:4])
}

// Each row lets one thing through, or breaks one. The steps that are about it must fail.
func TestStepsFailWhereSomethingGoesThrough(t *testing.T) {
	// instead has requests that match end in another way.
	instead := func(match func(*request) bool, then func(*double, *request)) func(*double) {
		return func(d *double) {
			d.ioctl = func(r *request) error {
				if !match(r) {
					return d.refuse(r)
				}
				then(d, r)
				return nil
			}
		}
	}
	is := func(w what) func(*request) bool { return func(r *request) bool { return r.what == w } }
	nothing := func(*double, *request) {}
	changed := func(_ *double, r *request) { r.b, r.c = 1, 2 }
	success := func(_ *double, r *request) { r.c = 0 }
	callTo := func(code uint64, target byte) func(*request) bool {
		return func(r *request) bool { return r.what == doHypercall && r.a&0xffff == code && r.page[12] == target }
	}
	// config has a register of PCI configuration read something else.
	config := func(address, v uint64) func(*double) {
		return func(d *double) {
			d.ioctl = func(r *request) error {
				err := d.refuse(r)
				if r.what == doIn && r.a == 0xcfc && d.config == address {
					r.c = v
				}
				return err
			}
		}
	}
	// stays has such a register hold what is written to it.
	stays := func(address uint64) func(*double) {
		v := configured(address)
		return func(d *double) {
			d.ioctl = func(r *request) error {
				err := d.refuse(r)
				if r.a == 0xcfc && d.config == address {
					switch r.what {
					case doOut:
						v = r.c
					case doIn:
						r.c = v
					}
				}
				return err
			}
		}
	}
	calls := 0
	for _, row := range []struct {
		name  string
		spoil func(*double)
		want  []string
	}{
		{"not detected", func(d *double) { d.told = strings.Replace(d.told, "Hyper-V", "KVM", 1) }, []string{"detected"}},
		{"RAM at VTL1", func(d *double) { d.files["/proc/iomem"] = "00100000-0fffffff : System RAM\n" },
			[]string{"memory-map", "devmem-map-hypervisor", "read-hypervisor", "write-hypervisor"}},
		{"iomem unreadable", func(d *double) { d.files["/proc/iomem"] = "nonsense\n" },
			[]string{"memory-map", "devmem-map-hypervisor", "read-hypervisor", "write-hypervisor"}},
		{"VMX seen", func(d *double) { d.files["/proc/cpuinfo"] = "flags\t\t: fpu vmx vme\n" }, []string{"no-vmx"}},
		{"/dev/mem works", func(d *double) { d.access = nil }, []string{"devmem-read-vtl1", "devmem-write-vtl1"}},
		{"mappings work", func(d *double) { d.fault = false }, []string{"devmem-map-read-vtl1", "devmem-map-write-vtl1"}},
		{"processes live", func(d *double) { d.died = false }, []string{"read-vtl1-oops", "execute-vtl1-oops"}},
		{"VMCALL of a process works", func(d *double) { d.signal = "" }, []string{"user-vmcall"}},
		{"VMCALL of a process does something else", func(d *double) { d.signal = "segmentation fault" }, []string{"user-vmcall"}},
		{"/dev/mem is not permitted by Linux", func(d *double) { d.access, d.died = errors.New("operation not permitted"), false },
			[]string{"devmem-read-vtl1", "devmem-write-vtl1", "read-vtl1-oops", "execute-vtl1-oops"}},
		{"reads work", instead(is(doRead), nothing), []string{"read-vtl1", "read-hypervisor", "synthetic-msrs", "a20-and-smi"}},
		{"writes stay", func(d *double) {
			words := map[uint64]uint64{}
			d.ioctl = func(r *request) error {
				_ = d.refuse(r)
				if v, ok := words[r.a]; ok && r.what == doRead {
					r.c = v
				}
				if r.what == doWrite && !d.vtl1.contains(r.a) {
					words[r.a] = r.b
				}
				return nil
			}
		}, []string{"write-hypervisor", "synthetic-msrs"}},
		{"page tables read VTL1", instead(is(doWalk), nothing), []string{"page-table-in-vtl1"}},
		{"page tables raise something else", instead(is(doWalk), func(_ *double, r *request) { r.vector = 14 }), []string{"page-table-in-vtl1"}},
		{"INS writes", instead(is(doINS), nothing), []string{"string-io-on-vtl1"}},
		{"MOVS reads for a device", instead(is(doMove), nothing), []string{"device-and-vtl1"}},
		{"protection given up", instead(callTo(0xc, 0x11), success), []string{"unprotect-vtl1"}},
		{"registers set", instead(callTo(0x51, 0x11), success), []string{"set-registers-of-vtl1"}},
		{"registers got", instead(callTo(0x50, 0x11), success), []string{"get-registers-of-vtl1"}},
		{"no registers at all", instead(callTo(0x50, 0), func(_ *double, r *request) { r.c = 6 }), []string{"get-registers-of-vtl1", "hypercall-page-in-vtl1"}},
		{"hypercalls off", instead(is(doHypercall), func(_ *double, r *request) { r.vector = vectorUD }),
			[]string{"unprotect-vtl1", "set-registers-of-vtl1", "get-registers-of-vtl1", "enable-vtl1-again", "hypercall-page-in-vtl1", "odd-hypercalls", "every-hypercall"}},
		{"a hypercall refused for what it says", instead(callTo(0x51, 0x11), func(_ *double, r *request) { r.c = 5 }), []string{"set-registers-of-vtl1"}},
		{"HvCallReadGpa", instead(func(r *request) bool { return r.what == doHypercall && r.a == 0x53 }, success), []string{"every-hypercall"}},
		{"enabled again", instead(func(r *request) bool { return r.what == doHypercall && r.a == 0xf }, success), []string{"enable-vtl1-again", "every-hypercall"}},
		{"output in VTL1", instead(func(r *request) bool { return r.what == doHypercall && r.c == 0x400000 }, success), []string{"hypercall-page-in-vtl1"}},
		{"hypercall 0", instead(func(r *request) bool { return r.what == doHypercall && r.a == 0 }, success), []string{"odd-hypercalls", "every-hypercall"}},
		{"VTL return", instead(func(r *request) bool { return r.what == doVTLCall && r.a == vtlReturn }, nothing), []string{"odd-vtl-calls"}},
		{"VMX MSR read", instead(func(r *request) bool { return r.what == doRDMSR && r.a == 0x485 }, nothing), []string{"vmx-msrs"}},
		{"LSTAR changed", instead(func(r *request) bool { return r.what == doWRMSR && r.a == msrLSTAR }, changed), []string{"guarded-msrs"}},
		{"LSTAR kept, but VTL1 not told", instead(func(r *request) bool { return r.what == doWRMSR && r.a == msrLSTAR }, func(_ *double, r *request) { r.vector, r.b, r.c = 13, 0, 0 }),
			[]string{"guarded-msrs"}},
		{"the local APIC over VTL1", instead(func(r *request) bool {
			return r.what == doWRMSR && r.a == msrAPICBase && r.b == 0xfee00000^0x400000^0x1000
		}, changed),
			[]string{"guarded-msrs"}},
		{"MTRR changed", instead(func(r *request) bool { return r.what == doWRMSR && r.a == 0x200 }, changed), []string{"memory-msrs"}},
		{"SIMP beyond all addresses", instead(func(r *request) bool { return r.what == doWRMSR && r.a == 0x40000083 }, changed), []string{"synthetic-msrs"}},
		{"overlays leave a hole", func(d *double) {
			opened := false
			d.ioctl = func(r *request) error {
				if r.what == doRead && opened && d.vtl1.contains(r.a) {
					opened = false
					return nil
				}
				opened = r.what == doOverlay && r.a == 0x40000073 && d.vtl1.contains(r.c)
				return d.refuse(r)
			}
		}, []string{"synthetic-msrs"}},
		{"an overlay shows VTL1", instead(func(r *request) bool { return r.what == doOverlay && r.c == 0x400000 },
			func(d *double, r *request) { _ = d.refuse(r); r.c = 1 }), []string{"synthetic-msrs"}},
		{"VTL1 is wrong beneath an overlay", instead(is(doOverlay), func(d *double, r *request) { _ = d.refuse(r); r.page[callHeader]++ }), []string{"synthetic-msrs"}},
		{"SMEP off", instead(func(r *request) bool { return r.what == doCR && r.b == 1<<20 }, changed), []string{"control-registers"}},
		{"INVEPT works", instead(func(r *request) bool { return r.what == doVMX && vmxNames[r.a] == "INVEPT" }, nothing), []string{"vmx-instructions"}},
		{"VMXON seen", instead(func(r *request) bool { return r.what == doVMX && r.a == 0 }, func(_ *double, r *request) { r.vector = 13 }), []string{"vmx-instructions"}},
		{"PCI reads as zeros", instead(func(r *request) bool { return r.what == doIn && r.a == 0xcfc }, nothing), []string{"pci"}},
		{"no PCI", config(0x80000000, 1<<32-1), []string{"pci"}},
		{"a disk controller", config(0x80000900, 0x70108086), []string{"pci"}},
		{"a device on another bus", config(0x80010000, 0x12378086), []string{"pci"}},
		{"a device of another class", config(0x80000b08, 0x02000003), []string{"pci"}},
		{"a device with memory", config(0x80000b14, 0xe0000000), []string{"pci"}},
		{"a device with a ROM", config(0x80000030, 0xc0001), []string{"pci"}},
		{"bus mastering of the host bridge", stays(0x80000004), []string{"pci"}},
		{"bus mastering of nothing", stays(0x8000ff04), []string{"pci"}},
		{"a base address stays", stays(0x80000b10), []string{"pci"}},
		{"SMRAM", stays(0x80000070), []string{"pci"}},
		{"RAM under the firmware", stays(0x80000058), []string{"pci"}},
		{"the firmware can be written", stays(0x8000084c), []string{"pci"}},
		{"ports of power management", stays(0x80000b40), []string{"pci"}},
		{"SMRAM, unseen", func(d *double) {
			open := false
			d.ioctl = func(r *request) error {
				open = open || r.what == doOut && r.a == 0xcfc && d.config == 0x80000070 && r.c&(0x48<<16) != 0
				err := d.refuse(r)
				if r.what == doRead && r.a == 0xa8000 && open {
					r.c = 0x9066
				}
				return err
			}
		}, []string{"pci"}},
		{"port E9", instead(func(r *request) bool { return r.what == doIn && r.a == 0xe9 }, func(_ *double, r *request) { r.c = 0xe9 }), []string{"host-ports"}},
		{"key changed by a bad page", instead(func(r *request) bool { return r.what == doVTLCall && r.c == 0x400000 },
			func(d *double, _ *request) { d.key = "another" }), []string{"call-page-elsewhere"}},
		{"soak: a call wrong", instead(is(doSoak), func(d *double, r *request) { _ = d.refuse(r); r.page[8] = 1 }), []string{"soak"}},
		{"soak: an interrupt lost", instead(is(doSoak), func(d *double, r *request) { _ = d.refuse(r); r.page[24]-- }), []string{"soak"}},
		{"soak: calls missing", instead(is(doSoak), func(d *double, r *request) { _ = d.refuse(r); r.page[0]-- }), []string{"soak"}},
		{"a disk", instead(func(r *request) bool { return r.what == doIn && r.a == 0x1f7 }, func(_ *double, r *request) { r.c = 0x50 }), []string{"host-ports"}},
		{"A20", func(d *double) {
			closed := false
			d.ioctl = func(r *request) error {
				if r.what == doOut && r.a == 0x92 {
					closed = true
				}
				if r.what == doRead && closed {
					r.a &^= 1 << 20
				}
				return d.refuse(r)
			}
		}, []string{"a20-and-smi"}},
		{"VTL1 not told of a read", instead(is(doRead), func(d *double, r *request) {
			_ = d.refuse(r)
			if d.vtl1.contains(r.a) {
				d.messages, d.names = d.messages-1, nil
			}
		}), []string{"read-vtl1", "synthetic-msrs", "a20-and-smi"}},
		{"VTL1 told of another page", instead(is(doWrite), func(d *double, r *request) {
			at := r.a
			if d.vtl1.contains(r.a) {
				r.a ^= 0x1000
			}
			_ = d.refuse(r)
			r.a = at
		}), []string{"write-vtl1"}},
		{"VTL1 told of what nobody did", instead(func(r *request) bool { return r.what == doVMX && r.a == 3 }, func(d *double, r *request) {
			_ = d.refuse(r)
			d.tell("read of 0x400000")
		}), []string{"vmx-instructions"}},
		{"VTL1 forgets names", instead(func(r *request) bool { return r.what == doVMX && r.a == 3 }, func(d *double, r *request) {
			_ = d.refuse(r)
			d.messages++
		}), []string{"vmx-instructions"}},
		{"VTL1 refuses more than it says", instead(func(r *request) bool { return r.what == doVTLCall && binary.LittleEndian.Uint32(r.page[:]) == opProve },
			func(d *double, r *request) { d.messages++; _ = d.refuse(r); d.messages-- }), []string{"proof"}},
		{"key changes all the time", instead(is(doVTLCall), func(d *double, r *request) {
			calls++
			d.key = fmt.Sprint(calls)
			_ = d.refuse(r)
		}), []string{"call", "synthetic-msrs", "a20-and-smi", "call-page-elsewhere", "call-again", "proof"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			d := newDouble()
			row.spoil(d)
			names, out := failures(t, d)
			for _, name := range row.want {
				require.True(t, slices.Contains(names, name), name, out)
			}
			require.Len(t, names, len(row.want), out)
			require.Len(t, d.reports, len(names)) // each failure is in VTL1's log
		})
	}
}

func TestNothingIsAttackedWithoutHypervisor(t *testing.T) {
	d := newDouble()
	d.ioctl = func(*request) error { return errNoHypervisor }
	_, out := failures(t, d)
	require.Contains(t, out, "no hypervisor")
	require.Zero(t, d.messages)
	require.NoError(t, (&attacker{machine: d}).finish(0))
}

func TestFinishTellsVTL1HowManyFailed(t *testing.T) {
	d := newDouble()
	require.NoError(t, (&attacker{machine: d}).finish(3))
	require.Equal(t, 3, d.finished)
}

func TestGaps(t *testing.T) {
	all, names, err := parseIOMem("00000000-00000fff : Reserved\n00100000-001fffff : System RAM\n  00180000-0018ffff : Kernel code\n00300000-003003ff : IOAPIC 0\nfff00000-ffffffff : Reserved\n")
	require.NoError(t, err)
	require.Equal(t, []string{"Reserved", "System RAM", "IOAPIC 0", "Reserved"}, names)
	require.Equal(t, []span{{0x200000, 0x2fffff}, {0x301000, 0xffefffff}}, gaps(all, 1<<32))
	require.Equal(t, []span{{0x100000, 0xffffffff}}, gaps(nil, 1<<32))
	require.Empty(t, gaps([]span{{0, 1<<32 - 1}}, 1<<32))
	require.Equal(t, []span{{0, 0x9efff}, {0xfffc0000, 0xffffffff}},
		parseE820("x\n[    0.0] BIOS-e820: [mem 0x0000000000000000-0x000000000009efff] usable\nBIOS-e820: [mem 0x00000000fffc0000-0x00000000ffffffff] reserved\nBIOS-e820: [mem \n"))
}

func TestPages(t *testing.T) {
	require.Equal(t, []uint64{0x1000}, span{0x1000, 0x1fff}.pages(64))
	require.Equal(t, []uint64{0x1000, 0x2008, 0x3010}, span{0x1000, 0x3fff}.pages(64))
	list := span{0x400000, 0x3ffffff}.pages(64)
	require.Len(t, list, 64)
	require.Equal(t, uint64(0x3fff000), list[63]&^(pageSize-1))
}

func TestSpanIsAFlag(t *testing.T) {
	var s span
	require.NoError(t, s.UnmarshalText([]byte("0x400000-0x3ffffff")))
	require.Equal(t, span{0x400000, 0x3ffffff}, s)
	text, err := s.MarshalText()
	require.NoError(t, err)
	require.Equal(t, "0x400000-0x3ffffff", string(text))
	for _, bad := range []string{"", "1", "0x2000-0x1000", "0x1001-0x2000", "a-b"} {
		require.Error(t, s.UnmarshalText([]byte(bad)), bad)
	}
}

// The module's header has the same numbers as this program.
func TestHeaderOfTheModule(t *testing.T) {
	text, err := os.ReadFile("../module/vtxattack.h")
	require.NoError(t, err)
	_, list, ok := strings.Cut(string(text), "enum vtx_what {")
	require.True(t, ok)
	list, _, _ = strings.Cut(list, "};")
	var names []string
	for _, m := range regexp.MustCompile(`(?m)^\tVTX_(\w+)`).FindAllStringSubmatch(list, -1) {
		names = append(names, m[1])
	}
	want := map[what]string{
		doRead: "READ", doWrite: "WRITE", doReadOops: "READ_OOPS", doExecute: "EXECUTE", doRDMSR: "RDMSR", doWRMSR: "WRMSR", doCR: "CR",
		doVMX: "VMX", doHypercall: "HYPERCALL", doVTLCall: "VTL_CALL", doSoak: "SOAK", doIn: "IN", doOut: "OUT",
		doMove: "MOVE", doOUTS: "OUTS", doINS: "INS", doWalk: "WALK", doOverlay: "OVERLAY",
	}
	require.Len(t, names, len(want))
	for i, name := range names {
		require.Equal(t, want[what(i+1)], name)
	}
	_, list, ok = strings.Cut(string(text), "enum vtx_instruction {")
	require.True(t, ok)
	list, _, _ = strings.Cut(list, "};")
	for i, m := range regexp.MustCompile(`VTX_(\w+)`).FindAllStringSubmatch(list, -1) {
		require.Equal(t, vmxNames[i], m[1])
	}
}
