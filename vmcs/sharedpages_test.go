package vmcs_test

import (
	"encoding/binary"
	"slices"
	"sync"
	"testing"
	"unsafe"

	"pgregory.net/rapid"

	"github.com/govtx/vtx/internal/require"
	"github.com/govtx/vtx/internal/ring0test"
	"github.com/govtx/vtx/vmcs"
)

// atMultiple returns n bytes that lie at a multiple of align.
func atMultiple(align, n int) []byte {
	mem := make([]byte, n+align)
	off := -int(uintptr(unsafe.Pointer(unsafe.SliceData(mem)))) & (align - 1)
	return mem[off : off+n]
}

// postedInterrupts compares a descriptor with its bits and a model of who has been
// told what.
func postedInterrupts(t *rapid.T) {
	mem := atMultiple(64, 64)
	d, err := vmcs.PostedInterruptDescriptorOf(mem)
	require.NoError(t, err)
	var pending vmcs.VectorSet
	var on, sn bool
	var nv vmcs.Vector
	var ndst uint32
	t.Repeat(map[string]func(*rapid.T){
		"post": func(t *rapid.T) {
			v := vmcs.Vector(rapid.Byte().Draw(t, "vector"))
			notify := d.Post(v)
			require.Equal(t, !on && !sn, notify)
			pending.Add(v)
			on = on || notify
		},
		"take": func(t *rapid.T) {
			require.Equal(t, pending, d.Take())
			pending, on = vmcs.VectorSet{}, false
		},
		"suppress": func(t *rapid.T) {
			sn = rapid.Bool().Draw(t, "SN")
			d.Suppress(sn)
		},
		"destination": func(t *rapid.T) {
			nv, ndst = vmcs.Vector(rapid.Byte().Draw(t, "NV")), rapid.Uint32().Draw(t, "NDST")
			d.SetDestination(nv, ndst)
		},
		"": func(t *rapid.T) {
			require.Equal(t, pending, d.Pending())
			require.Equal(t, [2]bool{on, sn}, [2]bool{d.Outstanding(), d.Suppressed()})
			require.Equal(t, nv, d.NotificationVector())
			require.Equal(t, ndst, d.Destination())
		},
	})
	// The layout, as seen by a processor (which is little-endian).
	if one := uint16(1); *(*byte)(unsafe.Pointer(&one)) != 1 {
		return
	}
	for v := range 256 {
		if pending.Has(vmcs.Vector(v)) != (mem[v/8]>>(v%8)&1 != 0) {
			t.Fatalf("vector %d: pending are %v, memory is %x", v, pending, mem[:32])
		}
	}
	require.Equal(t, on, mem[32]&1 != 0)
	require.Equal(t, sn, mem[32]&2 != 0)
	require.Equal(t, byte(nv), mem[34])
	require.Equal(t, ndst, binary.LittleEndian.Uint32(mem[36:]))
	require.Equal(t, make([]byte, 24), mem[40:])
}

func TestPostedInterrupts(t *testing.T) { ring0test.CheckOnHost(t, postedInterrupts) }
func FuzzPostedInterrupts(f *testing.F) { f.Fuzz(rapid.MakeFuzz(postedInterrupts)) }

// TestPostedInterruptsRace: with many that post and one that takes at each
// notification, no vector is lost and none is seen twice.
func TestPostedInterruptsRace(t *testing.T) {
	d, err := vmcs.PostedInterruptDescriptorOf(atMultiple(64, 64))
	require.NoError(t, err)
	const posters, each = 8, 32
	notifications := make(chan struct{}, posters*each)
	var wg sync.WaitGroup
	for p := range posters {
		wg.Go(func() {
			for i := range each {
				if d.Post(vmcs.Vector(p*each + i)) {
					notifications <- struct{}{}
				}
			}
		})
	}
	go func() { wg.Wait(); close(notifications) }()
	seen := 0
	for range notifications {
		s := d.Take()
		seen += s.Len()
	}
	require.Equal(t, posters*each, seen)
	require.False(t, d.Outstanding())
}

func TestPostedInterruptDescriptorOf(t *testing.T) {
	mem := atMultiple(64, 4096)
	for off, part := range map[int]string{0: "", 64: "", 8: "multiple of 64", 1: "multiple of 64", 4096 - 32: "64 bytes, not 32", 4096: "64 bytes, not 0"} {
		_, err := vmcs.PostedInterruptDescriptorOf(mem[off:])
		if part == "" {
			require.NoError(t, err)
		} else {
			require.ErrorContains(t, err, part)
		}
	}
	d, err := vmcs.PostedInterruptDescriptorOf(mem)
	require.NoError(t, err)
	d.SetDestination(0xf2, 0x500)
	d.Post(0x31)
	require.Equal(t, "PIR 0x31; ON true, SN false, NV 0xf2, NDST 0x500", d.String())
}

// region: the header's parts do not disturb each other, whatever is there.
func region(t *rapid.T) {
	r := vmcs.Region(fewBytes(t))
	word := binary.LittleEndian.Uint32(r[:])
	require.Equal(t, word&0x7fffffff, r.Revision())
	require.Equal(t, word>>31 != 0, r.Shadow())
	require.Equal(t, binary.LittleEndian.Uint32(r[4:]), uint32(r.Abort()))
	require.NotEmpty(t, r.String())

	rest := slices.Clone(r[8:])
	revision, shadow := rapid.Uint32().Draw(t, "revision"), rapid.Bool().Draw(t, "shadow")
	before := r
	err := r.Init(revision, shadow)
	require.Equal(t, revision>>31 != 0, err != nil)
	if err != nil {
		require.ErrorContains(t, err, "31 bits")
		require.Equal(t, before, r)
		return
	}
	require.Equal(t, revision, r.Revision())
	require.Equal(t, shadow, r.Shadow())
	require.Zero(t, r.Abort())
	abort := vmcs.Abort(rapid.Uint32().Draw(t, "abort"))
	r.SetAbort(abort)
	require.Equal(t, abort, r.Abort())
	require.Equal(t, revision, r.Revision())
	require.True(t, slices.Equal(rest, r[8:]))
}

func TestRegion(t *testing.T) { rapid.Check(t, region) }
func FuzzRegion(f *testing.F) { f.Fuzz(rapid.MakeFuzz(region)) }

func TestRegionText(t *testing.T) {
	var r vmcs.Region
	require.NoError(t, r.Init(0x2b, true))
	require.Equal(t, "shadow VMCS, revision 0x2b, no VMX abort", r.String())
	require.NoError(t, r.Init(4, false))
	r.SetAbort(vmcs.AbortLoadingHostMSRs)
	require.Contains(t, r.String(), "VMCS, revision 0x4, VMX abort 4: loading host MSRs failed")
	texts := map[string]bool{}
	for a := range vmcs.Abort(8) {
		texts[a.String()] = true
	}
	require.Len(t, texts, 8)
	require.Equal(t, "VMX abort 7: not in the manual", vmcs.Abort(7).String())
	require.Contains(t, vmcs.Abort(1<<31).String(), "not in the manual")
	require.Contains(t, vmcs.AbortHostNotIA32e.String(), "host address-space size")
}

// pmlBuffer logs addresses as a processor does, and reads them back.
func pmlBuffer(t *rapid.T) {
	p := vmcs.PMLBuffer(fewBytes(t))
	index := uint16(vmcs.PMLStart)
	var want []uint64
	addr := rapid.Uint64().Draw(t, "address")
	for range rapid.IntRange(0, 520).Draw(t, "writes") {
		addr = addr*0x5851f42d4c957f2d + 0x14057b7ef767814f
		next, ok := p.Log(index, addr)
		if ok != (len(want) < 512) || ok == vmcs.PMLFull(index) {
			t.Fatalf("index %d: logged %t after %d", index, ok, len(want))
		}
		if ok {
			want = append(want, addr&^0xfff)
		}
		index = next
	}
	require.Equal(t, uint16(511-len(want)), index)
	require.Equal(t, len(want), vmcs.PMLLen(index))
	require.True(t, slices.Equal(want, slices.Collect(p.All(index))))
	for i, addr := range want {
		if p.At(511-i) != addr || binary.LittleEndian.Uint64(p[8*(511-i):]) != addr {
			t.Fatalf("entry %d is 0x%x, not 0x%x", 511-i, p.At(511-i), addr)
		}
	}
}

func TestPMLBuffer(t *testing.T) { rapid.Check(t, pmlBuffer) }
func FuzzPMLBuffer(f *testing.F) { f.Fuzz(rapid.MakeFuzz(pmlBuffer)) }

func TestPMLIndex(t *testing.T) {
	var p vmcs.PMLBuffer
	for index := range 0x10000 {
		i := uint16(index)
		want := 0
		if i <= 511 {
			want = 511 - index
		} else if i == 0xffff {
			want = 512
		}
		if vmcs.PMLLen(i) != want || vmcs.PMLFull(i) != (index > 511) {
			t.Fatalf("index %d: %d entries, full %t", i, vmcs.PMLLen(i), vmcs.PMLFull(i))
		}
		if i%100 == 11 || i > 0xfffd {
			require.Equal(t, want, count(p.All(i)))
		}
	}
}

// eptpList compares a list with an array.
func eptpList(t *rapid.T) {
	var l vmcs.EPTPList
	var model [512]uint64
	index := edges(1<<32-1, 0, 511, 512)
	for range rapid.IntRange(0, 20).Draw(t, "settings") {
		i, eptp := index.Draw(t, "index"), rapid.Uint64().Draw(t, "EPTP")
		err := l.Set(i, eptp)
		require.Equal(t, i < 512, err == nil)
		if i < 512 {
			model[i] = eptp
		} else {
			require.ErrorContains(t, err, "511")
		}
	}
	n := 0
	for i, eptp := range l.All() {
		require.NotZero(t, eptp)
		require.Equal(t, model[i], eptp)
		n++
	}
	for i, eptp := range model {
		if got, ok := l.At(uint32(i)); !ok || got != eptp || binary.LittleEndian.Uint64(l[8*i:]) != eptp {
			t.Fatalf("entry %d is 0x%x, %t; want 0x%x", i, got, ok, eptp)
		}
		if eptp != 0 {
			n--
		}
	}
	require.Zero(t, n)
	_, ok := l.At(512 + rapid.Uint32Max(1<<30).Draw(t, "beyond"))
	require.False(t, ok)
}

func TestEPTPList(t *testing.T) { rapid.Check(t, eptpList) }
func FuzzEPTPList(f *testing.F) { f.Fuzz(rapid.MakeFuzz(eptpList)) }

func TestEPTPListText(t *testing.T) {
	var l vmcs.EPTPList
	require.NoError(t, l.Set(1, 0x101e))
	require.NoError(t, l.Set(511, 0x201e))
	require.Equal(t, "1: 0x101e\n511: 0x201e\n", l.String())
	for range l.All() {
		break
	}
}

// veArea: what is delivered is read back, once, until the area is released.
func veArea(t *rapid.T) {
	before := fewBytes(t)
	mem := atMultiple(4, 4096)
	copy(mem, before[:])
	a, err := vmcs.VEAreaOf(mem)
	require.NoError(t, err)
	info := vmcs.VEInfo{
		Reason:        rapid.Uint32().Draw(t, "reason"),
		Qualification: rapid.Uint64().Draw(t, "qualification"), LinearAddress: rapid.Uint64().Draw(t, "linear"),
		PhysicalAddress: rapid.Uint64().Draw(t, "physical"), EPTPIndex: rapid.Uint16().Draw(t, "EPTP index"),
	}
	busy := before[4]|before[5]|before[6]|before[7] != 0
	require.Equal(t, busy, a.Busy())
	require.Equal(t, !busy, a.Deliver(info))
	if busy {
		require.Equal(t, before, [4096]byte(mem))
		a.Release()
		require.True(t, a.Deliver(info))
	}
	require.True(t, a.Busy())
	require.Equal(t, info, a.Info())
	require.False(t, a.Deliver(vmcs.VEInfo{}))
	require.Equal(t, info, a.Info())
	require.Equal(t, info.Reason, binary.LittleEndian.Uint32(mem))
	require.Equal(t, ^uint32(0), binary.LittleEndian.Uint32(mem[4:]))
	require.Equal(t, info.Qualification, binary.LittleEndian.Uint64(mem[8:]))
	require.Equal(t, info.LinearAddress, binary.LittleEndian.Uint64(mem[16:]))
	require.Equal(t, info.PhysicalAddress, binary.LittleEndian.Uint64(mem[24:]))
	require.Equal(t, info.EPTPIndex, binary.LittleEndian.Uint16(mem[32:]))
	require.True(t, slices.Equal(before[34:], mem[34:]))
	a.Release()
	require.False(t, a.Busy())
	a.Hold()
	require.True(t, a.Busy())
	require.Equal(t, info, a.Info())
}

func TestVEArea(t *testing.T) { ring0test.CheckOnHost(t, veArea) }
func FuzzVEArea(f *testing.F) { f.Fuzz(rapid.MakeFuzz(veArea)) }

func TestVEAreaText(t *testing.T) {
	mem := atMultiple(4, 4100)
	_, err := vmcs.VEAreaOf(mem[1:4097])
	require.ErrorContains(t, err, "multiple of 4")
	a, err := vmcs.VEAreaOf(mem[4:])
	require.NoError(t, err)
	require.True(t, a.Deliver(vmcs.VEInfo{48, 0x181, 0x1000, 0x2000, 3}))
	require.Equal(t, "reason 48, busy true, qualification 0x181, linear 0x1000, physical 0x2000, EPTP index 3", a.String())
}
