package vmexit_test

import (
	"fmt"
	"testing"

	"pgregory.net/rapid"

	"github.com/govtx/vtx/internal/require"
	"github.com/govtx/vtx/vmcs"
	"github.com/govtx/vtx/vmexit"
)

// b2u is 1 shifted by n if v.
func b2u(v bool, n uint) uint64 {
	if v {
		return 1 << n
	}
	return 0
}

// What each qualification prints, from the tables of SDM Vol. 3C 28.2.1, with bits set
// that are undefined.
func TestDescribe(t *testing.T) {
	const (
		de = vmcs.InterruptionInfo(0x80000300)
		db = de | 1
		pf = vmcs.InterruptionInfo(0x80000b0e)
	)
	for _, c := range []struct {
		r    vmexit.Reason
		info vmcs.InterruptionInfo
		q    uint64
		text string
	}{
		{0, db, 0, "none"},
		{0, db, 0x4001, "B0, BS"},
		{0, db, 0xffffffffffffffff, "B0, B1, B2, B3, BLD, BD, BS, RTM"},
		{0, 0x80000501, 0x4000, "BS"}, // INT1
		{0, 0x80000401, 0x4000, ""},   // INT n is no exception
		{0, pf, 0xffff800000001000, "linear address 0xffff800000001000"},
		{0, pf &^ vmcs.InfoValid, 0x1000, ""},
		{0, de, 0, ""},
		{0, 0x80000603, 0, ""}, // INT3
		{0, 0x80000202, 0, "none"},
		{0, 0x80000202, 0x8000000000000001, "NMI source 0, NMI source 63"},
		{1, 0x80000030, 0, ""},
		{4, 0, 0x9f, "vector 0x9f, start at 0x9f000"},
		{5, 0, 0x00700009, "IN, port 0x70 (DX), 16 bits"},
		{9, 0, 0x00000040, "CALL to TSS selector 0x0040"},
		{9, 0, 0xffffffff40000040, "IRET to TSS selector 0x0040"},
		{9, 0, 0xbfff0040, "JMP to TSS selector 0x0040"},
		{9, 0, 0xc0000040, "task gate to TSS selector 0x0040"},
		{10, 0, 0, ""},
		{14, 0, 0x1234, "linear address 0x1234"},
		{19, 0, 0xfffffffffffffff8, "displacement -0x8"},
		{46, 0, 0x40, "displacement 0x40"},
		{28, 0, 0x000, "MOV to CR0 from RAX"},
		{28, 0, 0xffffffff0000f083, "MOV to CR3 from RAX"},
		{28, 0, 0xf18, "MOV from CR8 to R15"},
		{28, 0, 0x20, "CLTS"},
		{28, 0, 0xfff10030, "LMSW 0xfff1 from register"},
		{28, 0, 0x00010070, "LMSW 0x1 from memory"},
		{29, 0, 0x307, "MOV to DR7 from RBX"},
		{29, 0, 0xfffffffffffff4fe, "MOV from DR6 to RSP"},
		{30, 0, 0x00210000, "OUT, port 0x21 (DX), 8 bits"},
		{30, 0, 0x0cf80003, "OUT, port 0xcf8 (DX), 32 bits"},
		{30, 0, 0x00600048, "IN, port 0x60 (immediate), 8 bits"},
		{30, 0, 0x01f00039, "REP INS, port 0x1f0 (DX), 16 bits"},
		{30, 0, 0xffffffff01f0ff93, "OUTS, port 0x1f0 (DX), 32 bits"},
		{30, 0, 0x00000002, "OUT, port 0x0 (DX), reserved size"},
		{32, 0, 0, "WRMSR"},
		{32, 0, 1, "WRMSRNS"},
		{33 | 1<<31, 0, 0, "not told which rule"},
		{33 | 1<<31, 0, 1, "GuestStateQualification(0x1)"},
		{33 | 1<<31, 0, 2, "loading the PDPTEs failed"},
		{33 | 1<<31, 0, 3, "an NMI was to be injected during blocking by STI"},
		{33 | 1<<31, 0, 4, "the VMCS link pointer is invalid"},
		{34 | 1<<31, 0, 2, "entry 2 of the VM-entry MSR-load area, from 1"},
		{35, 0, 5, ""},
		{36, 0, 0, "monitor not armed"},
		{36, 0, 1, "monitor armed"},
		{44, 0, 0x10b0, "linear write, offset 0xb0"},
		{44, 0, 0x300, "linear read, offset 0x300"},
		{44, 0, 0x2000, "linear fetch, offset 0x0"},
		{44, 0, 0x3020, "linear, during event delivery, offset 0x20"},
		{44, 0, 0x14020, "linear, asynchronous, offset 0x20, asynchronous to instructions"},
		{44, 0, 0xa020, "guest-physical, during event delivery"},
		{44, 0, 0x1b020, "guest-physical, asynchronous, asynchronous to instructions"},
		{44, 0, 0xf020, "guest-physical, for an instruction"},
		{44, 0, 0x5020, "APICAccessType(5)"},
		{45, 0, 0x31, "vector 0x31"},
		{48, 0, 0x181, "read; EPT rights ---; translation of the linear address"},
		{48, 0, 0x7aa, "write; EPT rights R-X; translation of the linear address, user-mode address, writable page"},
		{48, 0, 0xfffffffffffe0f84 &^ 0x100, "fetch; EPT rights ---; page walk"},
		{48, 0, 0x1083, "read and write; EPT rights ---; page walk, NMI unblocking"},
		{48, 0, 0x10e01, "read; EPT rights ---; no linear address, asynchronous to instructions"},
		{48, 0, 0xe9fa, "write; EPT rights RWXU; translation of the linear address, execute-disable page, shadow-stack access, supervisor shadow-stack page, guest-paging verification"},
		{48, 0, 0, "no access told; EPT rights ---; no linear address"},
		{49, 0, 0, ""},
		{54, 0, 0, "WBINVD"},
		{54, 0, 1, "WBNOINVD"},
		{56, 0, 0x300, "offset 0x300"},
		{62, 0, 0xfffffffffffeefff, "none"},
		{62, 0, 0x11000, "NMI unblocking, asynchronous to instructions"},
		{66, 0, 0, "SPP misconfiguration"},
		{66, 0, 0x11800, "SPP miss, NMI unblocking, asynchronous to instructions"},
		{72, 0, 0x12345, "PASID 0x12345"},
		{73, 0, 0x80012345, "PASID 0x12345, supervisor"},
		{75, 0, 0xffe, "none"},
		{75, 0, 0x1001, "context invalid, NMI unblocking"},
		{78, 0, 0x10, "MSR 0x10"},
		{84, 0, 0xc0000080, "MSR 0xc0000080"},
		{200, 0, 1, ""},
	} {
		require.Equal(t, c.text, vmexit.Describe(c.r, c.info, c.q), "%v, qualification %#x", c.r, c.q)
	}
}

// What is put together from drawn parts is taken apart into them.
func qualifications(t *rapid.T) {
	u := func(name string, bits int) uint64 { return rapid.Uint64Range(0, 1<<bits-1).Draw(t, name) }
	flag := func(name string) bool { return rapid.Bool().Draw(t, name) }
	// Undefined bits are drawn last and put where the mask says.
	undefined := func(defined uint64) uint64 { return rapid.Uint64().Draw(t, "undefined") &^ defined }

	{
		b, bld, bd, bs, rtm := u("B", 4), flag("BLD"), flag("BD"), flag("BS"), flag("RTM")
		q := vmexit.DebugQualification(b | b2u(bld, 11) | b2u(bd, 13) | b2u(bs, 14) | b2u(rtm, 16) | undefined(0x1680f))
		for n := -1; n < 5; n++ {
			require.Equal(t, n >= 0 && n < 4 && b>>n&1 != 0, q.Breakpoint(n))
		}
		require.Equal(t, []bool{bld, bd, bs, rtm}, []bool{q.BusLock(), q.RegisterAccess(), q.SingleStep(), q.RTM()})
		old := rapid.Uint64Range(0, 0xffffffff).Draw(t, "DR6") | 0xfffe07f0
		dr6 := q.DR6(old)
		require.Equal(t, b, dr6&15)
		require.Equal(t, !rtm, dr6>>16&1 != 0)
		require.Equal(t, !bld && old>>11&1 != 0, dr6>>11&1 != 0)
		require.Equal(t, bd || old>>13&1 != 0, dr6>>13&1 != 0)
		require.Equal(t, bs || old>>14&1 != 0, dr6>>14&1 != 0)
		require.Equal(t, old&^0x1680f, dr6&^0x1680f, "other bits stay")
	}
	{
		v := u("vector", 8)
		q := vmexit.SIPIQualification(v)
		require.Equal(t, uint8(v), q.Vector())
		require.Equal(t, uint32(v)*4096, q.Address())
		require.Equal(t, vmcs.Vector(v), vmexit.EOIQualification(v).Vector())
	}
	{
		sel, source := u("selector", 16), u("source", 2)
		q := vmexit.TaskSwitchQualification(sel | source<<30 | undefined(0xc000ffff))
		require.Equal(t, uint16(sel), q.Selector())
		require.Equal(t, vmexit.TaskSwitchSource(source), q.Source())
	}
	{
		cr, typ, mem, reg, data := u("CR", 4), u("type", 2), flag("memory"), u("register", 4), u("data", 16)
		q := vmexit.CRAccessQualification(cr | typ<<4 | b2u(mem, 6) | reg<<8 | data<<16 | undefined(0xffff0f7f))
		require.Equal(t, int(cr), q.CR())
		require.Equal(t, vmexit.CRAccessType(typ), q.Type())
		require.Equal(t, mem, q.Memory())
		require.Equal(t, vmexit.Register(reg), q.Register())
		require.Equal(t, uint16(data), q.LMSWSource())
	}
	{
		dr, from, reg := u("DR", 3), flag("from"), u("register", 4)
		q := vmexit.DRAccessQualification(dr | b2u(from, 4) | reg<<8 | undefined(0xf17))
		require.Equal(t, int(dr), q.DR())
		require.Equal(t, from, q.From())
		require.Equal(t, vmexit.Register(reg), q.Register())
	}
	{
		size := rapid.SampledFrom([]int{1, 2, 4}).Draw(t, "size")
		in, str, rep, imm, port := flag("in"), flag("string"), flag("rep"), flag("immediate"), u("port", 16)
		q := vmexit.IOQualification(uint64(size-1) | b2u(in, 3) | b2u(str, 4) | b2u(rep, 5) | b2u(imm, 6) | port<<16 | undefined(0xffff007f))
		require.Equal(t, size, q.Size())
		require.Equal(t, []bool{in, str, rep, imm}, []bool{q.In(), q.StringInstruction(), q.REP(), q.Immediate()})
		require.Equal(t, uint16(port), q.Port())
	}
	{
		off, typ, async := u("offset", 12), u("type", 4), flag("asynchronous")
		q := vmexit.APICAccessQualification(off | typ<<12 | b2u(async, 16) | undefined(0x1ffff))
		require.Equal(t, vmexit.APICAccessType(typ), q.Type())
		require.Equal(t, async, q.Asynchronous())
		if typ < 5 {
			require.Equal(t, uint16(off), q.Offset())
		} else {
			require.Zero(t, q.Offset())
		}
		require.Equal(t, uint16(off), vmexit.APICWriteQualification(off).Offset())
	}
	{
		raw := u("EPT violation", 17)
		q := vmexit.EPTViolationQualification(raw | undefined(0x1ffff))
		has := func(n uint) bool { return raw>>n&1 != 0 }
		require.Equal(t, []bool{has(0), has(1), has(2), has(7), has(12), has(13), has(14), has(15), has(16)},
			[]bool{q.Read(), q.Write(), q.Fetch(), q.LinearAddress(), q.NMIUnblocking(), q.ShadowStack(), q.SupervisorShadowStack(), q.PagingVerification(), q.Asynchronous()})
		require.Equal(t, uint8(raw>>3&15), q.Rights())
		require.Equal(t, raw>>3&7 != 0, q.Present(false))
		require.Equal(t, raw>>3&15 != 0, q.Present(true))
		require.Equal(t, has(7) && has(8), q.Translation())
		require.Equal(t, has(7) && !has(8), q.PageWalk())
		user, writable, xd := q.Paging()
		require.Equal(t, []bool{has(9), has(10), has(11)}, []bool{user, writable, xd})
		require.Equal(t, []bool{has(12), has(16)}, []bool{vmexit.PMLQualification(q).NMIUnblocking(), vmexit.PMLQualification(q).Asynchronous()})
		require.Equal(t, []bool{has(11), has(12), has(16)}, []bool{vmexit.SPPQualification(q).Miss(), vmexit.SPPQualification(q).NMIUnblocking(), vmexit.SPPQualification(q).Asynchronous()})
		require.Equal(t, []bool{has(0), has(12)}, []bool{vmexit.TimeoutQualification(q).ContextInvalid(), vmexit.TimeoutQualification(q).NMIUnblocking()})
	}
	{
		v := rapid.Uint64().Draw(t, "value")
		require.Equal(t, v, vmexit.LinearAddressQualification(v).Address())
		require.Equal(t, int64(v), vmexit.DisplacementQualification(v).Displacement())
		require.Equal(t, v, vmexit.MSRLoadingQualification(v).Entry())
		require.Equal(t, uint32(v), vmexit.MSRQualification(v).MSR())
		require.Equal(t, uint32(v%(1<<20)), vmexit.PASIDQualification(v).PASID())
		require.Equal(t, v>>31&1 != 0, vmexit.PASIDQualification(v).Supervisor())
		require.Equal(t, v&1 != 0, vmexit.MWAITQualification(v).Armed())
		require.Equal(t, v&1 != 0, vmexit.WBINVDQualification(v).WBNOINVD())
		require.Equal(t, v&1 != 0, vmexit.WRMSRQualification(v).NonSerializing())
		for n := -1; n < 65; n++ {
			require.Equal(t, n >= 0 && n < 64 && v>>uint(n&63)&1 != 0, vmexit.NMIQualification(v).Source(n))
		}
	}
}

func TestQualifications(t *testing.T) { rapid.Check(t, qualifications) }
func FuzzQualifications(f *testing.F) { f.Fuzz(rapid.MakeFuzz(qualifications)) }

// Every format, with values of the low 17 bits: a text that says something, and no
// panic.
func TestQualificationValues(t *testing.T) {
	types := map[string]bool{}
	for f := range vmexit.QualificationFormat(30) {
		none := f == vmexit.QualificationNone || f == vmexit.QualificationEvent || f > vmexit.QualificationMSRLoading
		require.Equal(t, none, f.Value(0) == nil, "%v", f)
		if none {
			continue
		}
		typ := fmt.Sprintf("%T", f.Value(0))
		require.False(t, types[typ], "%v has the type of another format", f)
		types[typ] = true
		step := uint64(997)
		if f == vmexit.QualificationEPTViolation {
			step = 31
		}
		for q := uint64(0); q < 1<<17; q += step {
			if f.Value(q).String() == "" {
				t.Fatalf("%s(%#x) prints nothing", typ, q)
			}
		}
	}
}

// For all reasons and events a format is found that has a type, or there is none.
func TestQualificationFormats(t *testing.T) {
	for b := range vmexit.Basic(300) {
		for info := range vmcs.InterruptionInfo(1 << 11) {
			for _, valid := range []vmcs.InterruptionInfo{0, vmcs.InfoValid} {
				f := vmexit.Reason(b).QualificationFormat(info | valid)
				if b != 0 {
					require.Equal(t, b.QualificationFormat(), f)
					break
				}
				want := vmexit.QualificationNone
				if valid != 0 {
					switch info {
					case 0x301, 0x501:
						want = vmexit.QualificationDebug
					case 0x30e:
						want = vmexit.QualificationLinearAddress
					}
					if info>>8 == 2 {
						want = vmexit.QualificationNMI
					}
				}
				require.Equal(t, want, f, "%#x", uint32(info))
			}
			if b != 0 {
				break
			}
		}
	}
}

// FuzzDescribe: any exit is described.
func FuzzDescribe(f *testing.F) {
	f.Add(uint32(48), uint32(0), uint64(0x181), uint32(0))
	f.Add(uint32(0), uint32(0x80000b0e), uint64(0x1000), uint32(0))
	f.Add(uint32(50), uint32(0), uint64(0x10), uint32(0xffffffff))
	f.Fuzz(func(t *testing.T, r, info uint32, q uint64, i uint32) {
		reason := vmexit.Reason(r)
		s := vmexit.Describe(reason, vmcs.InterruptionInfo(info), q)
		require.LessOrEqual(t, len(s), 2000)
		if s == "" {
			require.Nil(t, reason.QualificationFormat(vmcs.InterruptionInfo(info)).Value(q))
		}
		if vmexit.DescribeInformation(reason, i) == "" {
			require.Equal(t, vmexit.InformationNone, reason.Basic().InformationFormat())
		}
	})
}

// Decoding does not allocate.
func TestDecodingAllocates(t *testing.T) {
	var sum uint64
	q := uint64(0x7ab)
	require.Zero(t, testing.AllocsPerRun(100, func() {
		e := vmexit.EPTViolationQualification(q)
		io := vmexit.IOQualification(q)
		cr := vmexit.CRAccessQualification(q)
		sum += b2u(e.Write(), 0) + uint64(e.Rights()) + uint64(io.Size()) + uint64(io.Port()) + uint64(cr.CR()) + uint64(cr.Register())
		r := vmexit.Reason(q)
		sum += uint64(r.QualificationFormat(vmcs.InterruptionInfo(q))) + uint64(r.Basic().Kind())
		q = q*6364136223846793005 + 1
	}))
	require.NotZero(t, sum)
}

var sink uint64

func benchmark(b *testing.B, decode func(uint64) uint64) {
	b.ReportAllocs()
	q := uint64(0x7ab)
	var sum uint64
	for b.Loop() {
		sum += decode(q)
		q += 0x9e3779b97f4a7c15
	}
	sink = sum
}

func BenchmarkQualification(b *testing.B) {
	b.Run("ept", func(b *testing.B) {
		benchmark(b, func(v uint64) uint64 {
			q := vmexit.EPTViolationQualification(v)
			return b2u(q.Write(), 0) + b2u(q.Translation(), 1) + b2u(q.Present(false), 2) + uint64(q.Rights())
		})
	})
	b.Run("io", func(b *testing.B) {
		benchmark(b, func(v uint64) uint64 {
			q := vmexit.IOQualification(v)
			return uint64(q.Port()) + uint64(q.Size()) + b2u(q.In(), 20) + b2u(q.StringInstruction(), 21)
		})
	})
	b.Run("cr", func(b *testing.B) {
		benchmark(b, func(v uint64) uint64 {
			q := vmexit.CRAccessQualification(v)
			return uint64(q.CR()) + uint64(q.Type()) + uint64(q.Register())
		})
	})
	b.Run("format", func(b *testing.B) {
		benchmark(b, func(v uint64) uint64 {
			return uint64(vmexit.Reason(v & 63).QualificationFormat(vmcs.InterruptionInfo(v >> 32)))
		})
	})
	b.Run("print", func(b *testing.B) {
		benchmark(b, func(v uint64) uint64 {
			return uint64(len(vmexit.EPTViolationQualification(v).String()))
		})
	})
}
