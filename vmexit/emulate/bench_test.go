package emulate_test

import (
	"encoding/binary"
	"testing"

	"golang.org/x/arch/x86/x86asm"

	"github.com/govtx/vtx/asm"
	"github.com/govtx/vtx/internal/require"
	"github.com/govtx/vtx/vmexit/emulate"
)

// benchmarked are instructions that drivers use, in 64-bit code behind a walk of 4 levels.
var benchmarked = []struct {
	name string
	code []byte
	rcx  uint64
}{
	{"MOV-store", []byte{0x89, 0x43, 0x10}, 0},
	{"MOV-load", []byte{0x8b, 0x43, 0x10}, 0},
	{"OR", []byte{0x83, 0x4b, 0x10, 0x01}, 0},
	{"LOCK-CMPXCHG", []byte{0xf0, 0x0f, 0xb1, 0x4b, 0x10}, 0},
	{"REP-MOVSD-64", []byte{0xf3, 0xa5}, 64},
}

// newBenchmark makes a machine with paging, whose first GByte is mapped to itself, and the
// one after it to the device.
func newBenchmark(code []byte) *machine {
	m := newMachine(64, code...)
	m.device.quiet = true
	m.CR0, m.CR4, m.CR3 = mode4.cr0, mode4.cr4, 0x1000
	put := func(at, v uint64) { binary.LittleEndian.PutUint64(m.ram.bytes[at:], v) }
	put(0x1000, 0x2000|all)
	put(0x2000, 0x3000|all)
	put(0x2008, 0x4000|all)
	put(0x3000, entPS|all)
	put(0x4000, deviceBase&^0x1fffff|entPS|all)
	m.regs[asm.RBX] = 1<<30 | deviceBase&0x1fffff
	return m
}

func (m *machine) benchmark(rcx uint64) (emulate.Result, error) {
	m.regs[asm.RCX], m.regs[asm.RSI], m.regs[asm.RDI] = rcx, 0x3000, m.regs[asm.RBX]
	return m.Step(&m.State)
}

// TestAllocations: once an instruction is known, nothing is allocated; nor for an exception.
func TestAllocations(t *testing.T) {
	for _, c := range benchmarked {
		m := newBenchmark(c.code)
		n := testing.AllocsPerRun(100, func() {
			r, err := m.benchmark(c.rcx)
			if err != nil || r.Action != emulate.Advance {
				t.Fatal(c.name, r, err)
			}
		})
		require.Zero(t, n, c.name)
	}
	m := newBenchmark([]byte{0x89, 0x43, 0x10})
	m.regs[asm.RBX] = 1 << 38
	n := testing.AllocsPerRun(100, func() {
		r, err := m.Step(&m.State)
		if err != nil || r.Action != emulate.Inject {
			t.Fatal(r, err)
		}
	})
	require.Zero(t, n)
}

// BenchmarkStep is an emulation from the fetch to the flags, of an instruction that is known.
func BenchmarkStep(b *testing.B) {
	for _, c := range benchmarked {
		b.Run(c.name, func(b *testing.B) {
			m := newBenchmark(c.code)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := m.benchmark(c.rcx); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkFirstStep is the same of an instruction that is new each time.
func BenchmarkFirstStep(b *testing.B) {
	m := newBenchmark([]byte{0x89, 0x43, 0x10})
	b.ReportAllocs()
	for b.Loop() {
		m.ram.bytes[codeAt+2] ^= 4
		if _, err := m.benchmark(0); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkX86asm is x86asm's part in that.
func BenchmarkX86asm(b *testing.B) {
	code := []byte{0x89, 0x43, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := x86asm.Decode(code, 64); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkTranslate is a walk of 4 levels.
func BenchmarkTranslate(b *testing.B) {
	w, s, _ := walker(mode4, walk4)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := w.Translate(s, walked, emulate.Read); err != nil {
			b.Fatal(err)
		}
	}
}
