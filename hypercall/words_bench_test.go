package hypercall_test

import (
	"testing"

	"github.com/govtx/vtx/hypercall"
)

var sink uint64

// Words are taken apart and put together: all fields in one operation.
func BenchmarkInput(b *testing.B) {
	b.Run("decode", func(b *testing.B) {
		w, sum := hypercall.Input(0x0010_0020_0001_0050), uint64(0)
		for range b.N {
			sum += uint64(w.Code()) + uint64(w.VariableHeader()) + uint64(w.RepCount()) + uint64(w.RepStart()) + w.Reserved()
			if w.Fast() != w.Nested() {
				sum++
			}
			w++
		}
		sink = sum
	})
	b.Run("build", func(b *testing.B) {
		w := hypercall.Input(0)
		for i := range b.N {
			w ^= hypercall.Input(0).WithCode(hypercall.Code(i)).WithFast(i&1 == 0).WithVariableHeader(i).WithReps(i).WithRepStart(i)
		}
		sink = uint64(w)
	})
	b.Run("String", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			sink = uint64(len(hypercall.Input(0x0010_0020_0001_0050).String()))
		}
	})
	b.Run("Parse", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			w, _ := hypercall.ParseInput("HvCallGetVpRegisters, fast, reps 32, start 16")
			sink = uint64(w)
		}
	})
}

func BenchmarkResult(b *testing.B) {
	b.Run("decode", func(b *testing.B) {
		r, sum := hypercall.Result(0x3_0000_0005), uint64(0)
		for range b.N {
			sum += uint64(r.Status()) + uint64(r.Reps()) + r.Reserved()
			r += 1 << 32
		}
		sink = sum
	})
	b.Run("build", func(b *testing.B) {
		r := hypercall.Result(0)
		for i := range b.N {
			r ^= hypercall.MakeResult(hypercall.Status(i), i)
		}
		sink = uint64(r)
	})
}

func BenchmarkTables(b *testing.B) {
	b.Run("Layout", func(b *testing.B) {
		for b.Loop() {
			l, _ := hypercall.CodeModifyVtlProtectionMask.Layout()
			sink = uint64(l.Input)
		}
	})
	b.Run("RegisterString", func(b *testing.B) {
		for b.Loop() {
			sink = uint64(len(hypercall.RegisterVsmVina.String()))
		}
	})
}

// A hypervisor answers CPUID.
func BenchmarkLeaves(b *testing.B) {
	l := hypercall.NewLeaves("vtx", 0xffffffff)
	sum := uint64(0)
	for i := range b.N {
		r, _ := l.CPUID(hypercall.LeafVendor + uint32(i)%13)
		sum += uint64(r.EAX)
	}
	sink = sum
}
