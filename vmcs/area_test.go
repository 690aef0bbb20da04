package vmcs_test

import (
	"iter"
	"slices"
	"strconv"
	"testing"

	"pgregory.net/rapid"

	"github.com/govtx/vtx/internal/require"
	"github.com/govtx/vtx/internal/ring0test"
	"github.com/govtx/vtx/vmcs"
)

// edges draws numbers below limit, with those near the given ones well
// represented.
func edges(limit uint32, near ...uint32) *rapid.Generator[uint32] {
	return rapid.Custom(func(t *rapid.T) uint32 {
		any := rapid.Uint32Max(limit-1).Draw(t, "number")
		if rapid.Bool().Draw(t, "at an edge") {
			any = rapid.SampledFrom(near).Draw(t, "edge") + uint32(rapid.IntRange(-9, 9).Draw(t, "off"))
		}
		return min(any, limit-1)
	})
}

// fewBytes draws a page of which most bytes are the same.
func fewBytes(t *rapid.T) (p [4096]byte) {
	fill := rapid.SampledFrom([]byte{0, 0xff}).Draw(t, "fill")
	for i := range p {
		p[i] = fill
	}
	for range rapid.IntRange(0, 8).Draw(t, "bytes") {
		p[rapid.IntRange(0, 4095).Draw(t, "at")] = rapid.Byte().Draw(t, "byte")
	}
	return p
}

// modelRanges is the text for a set of numbers below n.
func modelRanges(n int, has func(int) bool) string {
	var s string
	for i := 0; i < n; i++ {
		if !has(i) || i > 0 && has(i-1) {
			continue
		}
		last := i
		for last+1 < n && has(last+1) {
			last++
		}
		if s != "" {
			s += ", "
		}
		s += hex(i)
		if last > i {
			s += "-" + hex(last)
		}
	}
	if s == "" {
		return "none"
	}
	return s
}

func hex(n int) string { return "0x" + strconv.FormatUint(uint64(uint32(n)), 16) }

func TestPageSizes(t *testing.T) {
	for name, of := range map[string]func([]byte) error{
		"MSR bitmap":   func(b []byte) error { _, err := vmcs.MSRBitmapOf(b); return err },
		"bitmap A":     func(b []byte) error { _, err := vmcs.IOBitmapsOf(b, make([]byte, 4096)); return err },
		"bitmap B":     func(b []byte) error { _, err := vmcs.IOBitmapsOf(make([]byte, 4096), b); return err },
		"VMREAD":       func(b []byte) error { _, err := vmcs.FieldBitmapOf(b); return err },
		"VMCS region":  func(b []byte) error { _, err := vmcs.RegionOf(b); return err },
		"modification": func(b []byte) error { _, err := vmcs.PMLBufferOf(b); return err },
		"EPTP list":    func(b []byte) error { _, err := vmcs.EPTPListOf(b); return err },
		"exception":    func(b []byte) error { _, err := vmcs.VEAreaOf(b); return err },
	} {
		require.NoError(t, of(make([]byte, 4096)), name)
		for _, n := range []int{0, 1, 4095, 4097, 8192} {
			err := of(make([]byte, n))
			require.ErrorContains(t, err, name)
			require.ErrorContains(t, err, "4096")
		}
	}
}

// TestInPlace: the types are views of the caller's memory.
func TestInPlace(t *testing.T) {
	page := make([]byte, 4096)
	msrs, err := vmcs.MSRBitmapOf(page)
	require.NoError(t, err)
	msrs.Intercept(0xc0000080, vmcs.MSRWrite)
	require.Equal(t, byte(1), page[3072+0x80/8])
	msrs.Intercept(0x10, vmcs.MSRReadWrite)
	require.Equal(t, byte(1), page[2])
	require.Equal(t, byte(1), page[2048+2])
	require.Equal(t, "0x10 rw, 0xc0000080 w", msrs.String())

	other := make([]byte, 4096)
	io, err := vmcs.IOBitmapsOf(page, other)
	require.NoError(t, err)
	io.PassAll()
	io.InterceptRange(0x7fff, 0x8000)
	require.Equal(t, byte(0x80), page[4095])
	require.Equal(t, byte(1), other[0])
	require.Equal(t, "0x7fff-0x8000", io.String())

	fields, err := vmcs.FieldBitmapOf(page)
	require.NoError(t, err)
	fields.PassAll()
	fields.Intercept(vmcs.GuestRIP)
	require.Equal(t, byte(1<<(0x681e%8)), page[0x681e/8])
	require.Equal(t, "0x681e", fields.String())
}

// msrBitmap compares an MSR bitmap with a map.
func msrBitmap(t *rapid.T) {
	const ranges = 0x2000
	msr := edges(1<<32-1, 0, 0x1fff, 0x2000, 0x80000000, 0xbfffffff, 0xc0000000, 0xc0001fff, 0xc0002000)
	var m vmcs.MSRBitmap
	var model [2][ranges]vmcs.MSRAccess // of the two ranges
	covered := func(i uint32) bool { return i < ranges || i >= 0xc0000000 && i < 0xc0000000+ranges }
	set := func(first, last uint32, a vmcs.MSRAccess, on bool) {
		for r := range model {
			start := uint32(r) * 0xc0000000
			for msr := max(first, start); msr <= last && msr < start+ranges; msr++ {
				if on {
					model[r][msr-start] |= a
				} else {
					model[r][msr-start] &^= a
				}
			}
		}
	}
	access := rapid.SampledFrom([]vmcs.MSRAccess{0, vmcs.MSRRead, vmcs.MSRWrite, vmcs.MSRReadWrite})
	t.Repeat(map[string]func(*rapid.T){
		"intercept": func(t *rapid.T) {
			i, a := msr.Draw(t, "MSR"), access.Draw(t, "access")
			m.Intercept(i, a)
			set(i, i, a, true)
		},
		"intercept range": func(t *rapid.T) {
			first, last, a := msr.Draw(t, "first"), msr.Draw(t, "last"), access.Draw(t, "access")
			m.InterceptRange(first, last, a)
			set(first, last, a, true)
		},
		"pass": func(t *rapid.T) {
			i, a := msr.Draw(t, "MSR"), access.Draw(t, "access")
			err := m.Pass(i, a)
			require.Equal(t, covered(i), err == nil)
			if err == nil {
				set(i, i, a, false)
			}
		},
		"pass range": func(t *rapid.T) {
			first, last, a := msr.Draw(t, "first"), msr.Draw(t, "last"), access.Draw(t, "access")
			err := m.PassRange(first, last, a)
			want := first <= last && covered(first) && covered(last) && first>>31 == last>>31
			require.Equal(t, want, err == nil, "%x %x", first, last)
			if err == nil {
				set(first, last, a, false)
			}
		},
		"all": func(t *rapid.T) {
			on := rapid.Bool().Draw(t, "on")
			if on {
				m.InterceptAll()
			} else {
				m.PassAll()
			}
			set(0, ^uint32(0), vmcs.MSRReadWrite, on)
		},
		"": func(t *rapid.T) {
			for range 4 {
				i := msr.Draw(t, "asked")
				want := vmcs.MSRReadWrite
				if covered(i) {
					want = model[i>>31][i&0x1fff]
				}
				require.Equal(t, want, m.Intercepted(i), "MSR 0x%x", i)
				require.Equal(t, want&vmcs.MSRRead != 0, m.Intercepts(i, false))
				require.Equal(t, want&vmcs.MSRWrite != 0, m.Intercepts(i, true))
			}
		},
	})
	type entry struct {
		msr uint32
		a   vmcs.MSRAccess
	}
	var want, got []entry
	for r := range model {
		for i, a := range model[r] {
			if a != 0 {
				want = append(want, entry{uint32(i) + uint32(r)*0xc0000000, a})
			}
		}
	}
	for i, a := range m.All() {
		got = append(got, entry{i, a})
	}
	require.True(t, slices.Equal(want, got))
	require.Equal(t, len(want) == 0, m.String() == "none")
}

func TestMSRBitmap(t *testing.T) { ring0test.CheckOnHost(t, msrBitmap) }
func FuzzMSRBitmap(f *testing.F) { f.Fuzz(rapid.MakeFuzz(msrBitmap)) }

func TestMSRBitmapText(t *testing.T) {
	var m vmcs.MSRBitmap
	require.Equal(t, "none", m.String())
	m.InterceptRange(0x1ffe, 0xc0000001, vmcs.MSRRead)
	m.Intercept(0xc0000001, vmcs.MSRWrite)
	m.Intercept(0x12345678, vmcs.MSRReadWrite) // does anyway
	require.Equal(t, "0x1ffe-0x1fff r, 0xc0000000 r, 0xc0000001 rw", m.String())
	m.InterceptAll()
	require.Equal(t, "0x0-0x1fff rw, 0xc0000000-0xc0001fff rw", m.String())
	require.ErrorContains(t, m.Pass(0x2000, vmcs.MSRRead), "always exit")
	require.Equal(t, [...]string{"none", "r", "w", "rw"}, [...]string{vmcs.MSRAccess(0).String(), vmcs.MSRRead.String(), vmcs.MSRWrite.String(), vmcs.MSRReadWrite.String()})
	for range m.All() {
		break // a consumer may stop
	}
}

// ioBitmaps compares the I/O bitmaps with an array.
func ioBitmaps(t *rapid.T) {
	port := rapid.Custom(func(t *rapid.T) uint16 {
		return uint16(edges(0x10000, 0, 0x7fff, 0x8000, 0xffff).Draw(t, "port"))
	})
	var a, b [4096]byte
	m := vmcs.IOBitmaps{A: &a, B: &b}
	var model [0x10000]bool
	set := func(first, last uint16, on bool) {
		for i := int(first); i <= int(last); i++ {
			model[i] = on
		}
	}
	t.Repeat(map[string]func(*rapid.T){
		"one": func(t *rapid.T) {
			p := port.Draw(t, "port")
			if rapid.Bool().Draw(t, "on") {
				m.Intercept(p)
				set(p, p, true)
			} else {
				m.Pass(p)
				set(p, p, false)
			}
		},
		"range": func(t *rapid.T) {
			first, last := port.Draw(t, "first"), port.Draw(t, "last")
			if rapid.Bool().Draw(t, "on") {
				m.InterceptRange(first, last)
				set(first, last, true)
			} else {
				m.PassRange(first, last)
				set(first, last, false)
			}
		},
		"all": func(t *rapid.T) {
			on := rapid.Bool().Draw(t, "on")
			if on {
				m.InterceptAll()
			} else {
				m.PassAll()
			}
			set(0, 0xffff, on)
		},
		"": func(t *rapid.T) {
			for range 4 {
				p := port.Draw(t, "asked")
				for _, size := range []int{1, 2, 4} {
					want := false
					for i := range size {
						want = want || int(p)+i > 0xffff || model[int(p)+i]
					}
					require.Equal(t, want, m.Intercepts(p, size), "port 0x%x, %d bytes", p, size)
				}
			}
		},
	})
	var want []uint16
	for i, on := range model {
		if on {
			want = append(want, uint16(i))
		}
	}
	require.True(t, slices.Equal(want, slices.Collect(m.All())))
	require.Equal(t, modelRanges(0x10000, func(i int) bool { return model[i] }), m.String())
}

func TestIOBitmaps(t *testing.T) { ring0test.CheckOnHost(t, ioBitmaps) }
func FuzzIOBitmaps(f *testing.F) { f.Fuzz(rapid.MakeFuzz(ioBitmaps)) }

// fieldBitmap compares a VMREAD or VMWRITE bitmap with an array.
func fieldBitmap(t *rapid.T) {
	field := rapid.Custom(func(t *rapid.T) vmcs.Field {
		return vmcs.Field(edges(1<<32-1, 0, 0x681e, 0x7fff, 0x8000, 0xffff0000).Draw(t, "field"))
	})
	var m vmcs.FieldBitmap
	var model [0x8000]bool
	all := func(on bool) {
		for i := range model {
			model[i] = on
		}
	}
	t.Repeat(map[string]func(*rapid.T){
		"intercept": func(t *rapid.T) {
			fields := rapid.SliceOfN(field, 0, 4).Draw(t, "fields")
			m.Intercept(fields...)
			for _, f := range fields {
				if f < 0x8000 {
					model[f] = true
				}
			}
		},
		"pass": func(t *rapid.T) {
			fields := rapid.SliceOfN(field, 0, 4).Draw(t, "fields")
			beyond := slices.ContainsFunc(fields, func(f vmcs.Field) bool { return f > 0x7fff })
			require.Equal(t, beyond, m.Pass(fields...) != nil)
			if !beyond {
				for _, f := range fields {
					model[f] = false
				}
			}
		},
		"all":  func(*rapid.T) { m.InterceptAll(); all(true) },
		"none": func(*rapid.T) { m.PassAll(); all(false) },
		"": func(t *rapid.T) {
			for range 4 {
				f := field.Draw(t, "asked")
				require.Equal(t, f > 0x7fff || model[f], m.Intercepts(uint64(f)))
				require.True(t, m.Intercepts(uint64(f)|1<<32))
			}
		},
	})
	var set, passed []vmcs.Field
	for i, on := range model {
		if on {
			set = append(set, vmcs.Field(i))
		} else {
			passed = append(passed, vmcs.Field(i))
		}
	}
	require.True(t, slices.Equal(set, slices.Collect(m.All())))
	require.True(t, slices.Equal(passed, slices.Collect(m.Passed())))
	require.Equal(t, modelRanges(0x8000, func(i int) bool { return model[i] }), m.String())
}

func TestFieldBitmap(t *testing.T) { ring0test.CheckOnHost(t, fieldBitmap) }
func FuzzFieldBitmap(f *testing.F) { f.Fuzz(rapid.MakeFuzz(fieldBitmap)) }

// readers shows that pages with any content are read without harm.
func readers(t *rapid.T) {
	a, b := fewBytes(t), fewBytes(t)
	msrs := vmcs.MSRBitmap(a)
	n := 0
	for _, x := range msrs.All() {
		n += int(x&1) + int(x>>1)
	}
	require.Equal(t, ones(a[:]), n)
	_ = msrs.String()
	io := vmcs.IOBitmaps{A: &a, B: &b}
	require.Equal(t, ones(a[:])+ones(b[:]), count(io.All()))
	fields := vmcs.FieldBitmap(b)
	require.Equal(t, ones(b[:]), count(fields.All()))
	require.Equal(t, 0x8000, count(fields.All())+count(fields.Passed()))
}

func ones(b []byte) (n int) {
	for _, x := range b {
		for ; x != 0; x &= x - 1 {
			n++
		}
	}
	return n
}

func count[V any](s iter.Seq[V]) (n int) {
	for range s {
		n++
	}
	return n
}

func TestBitmapReaders(t *testing.T) { ring0test.CheckOnHost(t, readers) }
func FuzzBitmapReaders(f *testing.F) { f.Fuzz(rapid.MakeFuzz(readers)) }

var sink bool

func BenchmarkMSRBitmapIntercepts(b *testing.B) {
	var m vmcs.MSRBitmap
	b.ReportAllocs()
	msr := uint32(0xc0000080)
	for b.Loop() {
		sink = m.Intercepts(msr, true)
		msr ^= 0xc0000000
	}
}

func BenchmarkIOBitmapsIntercepts(b *testing.B) {
	m := vmcs.IOBitmaps{A: new([4096]byte), B: new([4096]byte)}
	for _, size := range []int{1, 4} {
		b.Run([...]string{1: "byte", 4: "doubleword"}[size], func(b *testing.B) {
			b.ReportAllocs()
			port := uint16(0x3f8)
			for b.Loop() {
				sink = m.Intercepts(port, size)
				port ^= 0x8000
			}
		})
	}
}

func BenchmarkFieldBitmapIntercepts(b *testing.B) {
	var m vmcs.FieldBitmap
	b.ReportAllocs()
	f := uint64(vmcs.GuestRIP)
	for b.Loop() {
		sink = m.Intercepts(f)
		f ^= 1 << 10
	}
}

func BenchmarkExceptionFilterIntercepts(b *testing.B) {
	f := vmcs.ExceptionFilter{Exceptions: vmcs.ExceptionsOf(vmcs.VectorPF), Mask: 5, Match: 4}
	b.ReportAllocs()
	code := uint32(0)
	for b.Loop() {
		sink = f.Intercepts(vmcs.VectorPF, code)
		code++
	}
}

// TestEarlyStop: the iterators end when their consumer does.
func TestEarlyStop(t *testing.T) {
	var msrs vmcs.MSRBitmap
	msrs.InterceptAll()
	var fields vmcs.FieldBitmap
	fields.Intercept(0, 1)
	io := vmcs.IOBitmaps{A: new([4096]byte), B: new([4096]byte)}
	io.InterceptAll()
	for name, s := range map[string]iter.Seq[int]{
		"MSRs":       first(msrs.All()),
		"ports":      numbers(io.All()),
		"fields":     numbers(fields.All()),
		"passed":     numbers(fields.Passed()),
		"vectors":    numbers((&vmcs.VectorSet{^uint64(0), 0, 0, 1}).All()),
		"exceptions": numbers(vmcs.Exceptions(0xffffffff).All()),
		"log":        numbers(new(vmcs.PMLBuffer).All(0)),
	} {
		n := 0
		for range s {
			if n++; n == 2 {
				break
			}
		}
		require.Equal(t, 2, n, name)
	}
}

func numbers[V ~uint8 | ~uint16 | ~uint32 | ~uint64](s iter.Seq[V]) iter.Seq[int] {
	return func(yield func(int) bool) {
		s(func(v V) bool { return yield(int(v)) })
	}
}

func first[V any](s iter.Seq2[uint32, V]) iter.Seq[int] {
	return func(yield func(int) bool) {
		s(func(v uint32, _ V) bool { return yield(int(v)) })
	}
}

// TestNoAllocation: what a hypervisor does between a VM exit and the next entry
// allocates nothing.
func TestNoAllocation(t *testing.T) {
	if !ring0test.Optimised() {
		t.Skip("what allocates is for the optimiser to decide")
	}
	var msrs vmcs.MSRBitmap
	io := vmcs.IOBitmaps{A: new([4096]byte), B: new([4096]byte)}
	var fields vmcs.FieldBitmap
	posted, err := vmcs.PostedInterruptDescriptorOf(atMultiple(64, 64))
	require.NoError(t, err)
	area, err := vmcs.MSRAreaOf(make([]byte, 64), 0)
	require.NoError(t, err)
	ve, err := vmcs.VEAreaOf(atMultiple(4, 4096))
	require.NoError(t, err)
	tables := vmcs.DescriptorTables{GDT: make([]byte, 64)}
	tables.GDT[0x08+5] = 0x93
	image := new(vmcs.Image)
	var all vmcs.Segments
	require.NoError(t, all.Write(image))
	for name, f := range map[string]func(){
		"bitmaps": func() {
			msrs.Intercept(0x10, vmcs.MSRRead)
			sink = msrs.Pass(0x10, vmcs.MSRRead) != nil || msrs.Intercepts(0x10, true)
			io.Intercept(0x20)
			sink = io.Intercepts(0x20, 4)
			fields.Intercept(vmcs.GuestRIP)
			sink = fields.Pass(vmcs.GuestRIP) != nil || fields.Intercepts(0)
		},
		"events": func() {
			sink = vmcs.InjectException(vmcs.VectorPF, 2).Write(image) != nil
			e, _ := vmcs.ReadEvent(image)
			sink = e.Info.Valid()
			sink = vmcs.ExceptionFilter{}.Write(image) != nil
			f, _ := vmcs.ReadExceptionFilter(image)
			sink = f.Intercepts(vmcs.VectorPF, 2)
		},
		"posted interrupts": func() {
			sink = posted.Post(0x30)
			s := posted.Take()
			_, sink = s.Highest()
			sink = vmcs.WriteEOIExitBitmap(image, s) != nil
		},
		"MSR area": func() {
			sink = area.Set(0x174, 8) != nil
			_, sink = area.Get(0x174)
			for e := range area.All() {
				sink = e.LoadRule(nil) == vmcs.MSRAccepted
			}
			sink = area.CheckLoad(nil) != nil || area.Remove(0x174)
		},
		"segments": func() {
			s, err := tables.Load(0x08)
			sink = err != nil || s.LimitError() != nil || vmcs.WriteSegment(image, vmcs.DS, s) != nil
			all, err := vmcs.ReadSegments(image)
			sink = err != nil || all.Write(image) != nil
		},
		"control registers": func() {
			m, _ := vmcs.ReadCR0Mask(image)
			sink = m.MOVExits(1) || m.WriteCR0(image) != nil
		},
		"virtualization exceptions": func() {
			sink = ve.Deliver(vmcs.VEInfo{Reason: 48})
			sink = ve.Info().Reason == 48
			ve.Release()
		},
	} {
		require.NoError(t, vmcs.CRMask{}.WriteCR0(image))
		require.Zero(t, testing.AllocsPerRun(100, f), name)
	}
}
