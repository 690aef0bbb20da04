package vmcs_test

import (
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/govtx/vtx/asm"
	"github.com/govtx/vtx/internal/require"
	"github.com/govtx/vtx/internal/vmtest"
	"github.com/govtx/vtx/ring0"
	"github.com/govtx/vtx/vmcs"
)

// In these tests the processor judges what the package says of the areas that
// fields point to.

const (
	reasonException     = 0
	reasonVMCALL        = 18
	reasonVMREAD        = 23
	reasonVMWRITE       = 25
	reasonCRAccess      = 28
	reasonIO            = 30
	reasonRDMSR         = 31
	reasonWRMSR         = 32
	reasonBadMSR        = 34
	reasonVirtualEOI    = 45
	reasonEPTViolation  = 48
	reasonVMFUNC        = 59
	reasonLogFull       = 62
	reasonEntryFailure  = 1 << 31
	flagCF              = 1 << 0
	flagZF              = 1 << 6
	eptAccessedAndDirty = 1 << 6 // in the EPTP: use the flags
)

var vmcall = []byte{0x0f, 0x01, 0xc1}

// snippets are pieces of guest code, each with a VMCALL behind it, at the
// addresses that offsets has.
func snippets(pieces ...[]byte) (code []byte, at []uint64) {
	for _, p := range pieces {
		at = append(at, vmtest.Code+uint64(len(code)))
		code = append(append(code, p...), vmcall...)
	}
	return code, at
}

// vm is a guest for a rapid property, which is where its failures go.
type vm struct{ *vmtest.Guest }

// from runs the guest from an address to its next exit. Sweeps call it so often
// that Step, with its marks for the line of a failure, would take most of the time.
func (g vm) from(at uint64) (reason uint16) {
	g.RIP = at
	if s := g.Enter(); s != asm.Succeed || g.Reason&reasonEntryFailure != 0 {
		g.Fatalf("VM entry failed: %v, exit reason 0x%x", vmcs.StatusError(s), g.Reason)
	}
	return g.Basic()
}

// TestMSRBitmapOnVTx: RDMSR and WRMSR in a guest exit exactly as Intercepts says,
// for bitmaps with any bytes.
func TestMSRBitmapOnVTx(t *testing.T) {
	m := vmtest.Start(t)
	code, at := snippets([]byte{0x0f, 0x32}, []byte{0x0f, 0x30})
	g := vm{m.NewGuest(vmtest.LongNoEPT, code...)}
	page := m.Pages(1)
	bitmap, err := vmcs.MSRBitmapOf(page.Bytes())
	require.NoError(t, err)
	vmtest.SetControls(g.Guest, vmcs.PrimaryUseMSRBitmaps)
	g.Set(vmcs.MSRBitmaps, page.Phys())

	const tsc = 0x10
	exits := 0
	check := func(t require.T, msr uint32, write bool) {
		want := bitmap.Intercepts(msr, write)
		now, err := asm.RDMSRSafe(msr)
		if write && msr == tsc && !want {
			return // it would go back
		}
		g.Regs[asm.RCX], g.Regs[asm.RAX], g.Regs[asm.RDX] = uint64(msr), now&0xffffffff, now>>32
		i, reason := 0, uint16(reasonRDMSR)
		if write {
			i, reason = 1, reasonWRMSR
		}
		got := g.from(at[i])
		switch {
		case want:
			exits++
		case !write && err != nil || write && got != reasonVMCALL: // it lacks the MSR, or cannot write it
			reason = reasonException
			info, _ := asm.VMREAD(uint32(vmcs.ExitInterruptionInformation))
			if v := vmcs.InterruptionInfo(info).Vector(); v != vmcs.VectorGP {
				t.Fatalf("MSR 0x%x, write %t: %v", msr, write, v)
			}
		default:
			reason = reasonVMCALL
		}
		if got != reason {
			t.Fatalf("MSR 0x%x, write %t: exit reason %d, not %d; intercepted: %v", msr, write, got, reason, bitmap)
		}
	}
	// The whole of both ranges and what is near, by reads, which harm nothing.
	random := rand.New(rand.NewPCG(25, 69))
	for i := range bitmap {
		bitmap[i] = byte(random.Uint32())
	}
	for _, start := range []uint32{0, 0xc0000000} {
		for msr := start - 2; msr != start+0x2002; msr++ {
			check(t, msr, false)
		}
	}
	require.Greater(t, exits, 0x1800)
	require.Less(t, exits, 0x2800)

	near := edges(^uint32(0), 0, 0x174, 0x277, 0x1fff, 0x2000, 0x80000000, 0xbfffffff, 0xc0000080, 0xc0000100, 0xc0001fff, 0xc0002000)
	rapid.Check(t, func(t *rapid.T) {
		if rapid.Bool().Draw(t, "all") {
			bitmap.InterceptAll()
		} else {
			bitmap.PassAll()
		}
		for range 3 {
			first, last := near.Draw(t, "first"), near.Draw(t, "last")
			a := rapid.SampledFrom([]vmcs.MSRAccess{vmcs.MSRRead, vmcs.MSRWrite, vmcs.MSRReadWrite}).Draw(t, "access")
			if rapid.Bool().Draw(t, "pass") {
				_ = bitmap.PassRange(first, last, a) // refused if beyond
			} else {
				bitmap.InterceptRange(first, last, a)
			}
			for range 3 {
				check(t, near.Draw(t, "MSR"), rapid.Bool().Draw(t, "write"))
			}
			check(t, first, rapid.Bool().Draw(t, "write"))
			check(t, last, rapid.Bool().Draw(t, "write"))
		}
	})
}

// TestIOBitmapsOnVTx: port accesses of one, two and four bytes exit exactly as
// Intercepts says, across both pages and round the end.
func TestIOBitmapsOnVTx(t *testing.T) {
	m := vmtest.Start(t)
	accesses := []struct {
		code []byte
		size int
	}{
		{[]byte{0xec}, 1}, {[]byte{0x66, 0xed}, 2}, {[]byte{0xed}, 4}, // IN
		{[]byte{0xee}, 1}, {[]byte{0x66, 0xef}, 2}, {[]byte{0xef}, 4}, // OUT
		{[]byte{0x6c}, 1}, {[]byte{0x66, 0x6d}, 2}, {[]byte{0x6d}, 4}, // INS
		{[]byte{0x6e}, 1}, {[]byte{0x66, 0x6f}, 2}, {[]byte{0x6f}, 4}, // OUTS
	}
	var pieces [][]byte
	for _, a := range accesses {
		pieces = append(pieces, a.code)
	}
	code, at := snippets(pieces...)
	g := vm{m.NewGuest(vmtest.LongNoEPT, code...)}
	a, b := m.Pages(1), m.Pages(1)
	bitmaps, err := vmcs.IOBitmapsOf(a.Bytes(), b.Bytes())
	require.NoError(t, err)
	vmtest.SetControls(g.Guest, vmcs.PrimaryUseIOBitmaps)
	g.Set(vmcs.IOBitmapA, a.Phys())
	g.Set(vmcs.IOBitmapB, b.Phys())

	// No device is at any of these ports.
	port := rapid.Custom(func(t *rapid.T) uint16 {
		start := rapid.SampledFrom([]int{0x1230, 0x7ff0, 0x7ff8, 0x8000, 0xfff0}).Draw(t, "start")
		return uint16(start + rapid.IntRange(0, 15).Draw(t, "off"))
	})
	rapid.Check(t, func(t *rapid.T) {
		bitmaps.PassAll()
		if rapid.Bool().Draw(t, "port 0") {
			bitmaps.Intercept(0)
		}
		for range rapid.IntRange(0, 4).Draw(t, "intercepted") {
			bitmaps.Intercept(port.Draw(t, "intercepted"))
		}
		if rapid.IntRange(0, 3).Draw(t, "range") == 0 {
			bitmaps.InterceptRange(port.Draw(t, "first"), port.Draw(t, "last"))
		}
		for range 6 {
			p, i := port.Draw(t, "port"), rapid.IntRange(0, len(accesses)-1).Draw(t, "access")
			g.Regs[asm.RDX], g.Regs[asm.RDI], g.Regs[asm.RSI] = uint64(p), vmtest.Data, vmtest.Data
			want := uint16(reasonVMCALL)
			if bitmaps.Intercepts(p, accesses[i].size) {
				want = reasonIO
			}
			require.Equal(t, want, g.from(at[i]), "port 0x%x, %d bytes; intercepted: %v", p, accesses[i].size, bitmaps)
		}
	})
}

// TestExceptionFilterOnVTx: exceptions in a guest exit exactly as Intercepts says,
// page faults by their error codes.
func TestExceptionFilterOnVTx(t *testing.T) {
	m := vmtest.Start(t)
	const absent, readOnly, reserved = vmtest.Free, vmtest.Free + 0x1000, vmtest.Free + 0x2000
	read, write := []byte{0x8a, 0x03}, []byte{0x88, 0x03} // MOV AL, [RBX] and back
	raised := []struct {
		name string
		code []byte
		rbx  uint64
		kind vmcs.EventType // 0: INT n, which is no exception
		v    vmcs.Vector
		pf   uint32 // error code
	}{
		{"#DE", []byte{0xf7, 0xf1}, 0, vmcs.EventHardwareException, vmcs.VectorDE, 0},
		{"INT1", []byte{0xf1}, 0, vmcs.EventPrivilegedSoftwareException, vmcs.VectorDB, 0},
		{"INT3", []byte{0xcc}, 0, vmcs.EventSoftwareException, vmcs.VectorBP, 0},
		{"#UD", []byte{0x0f, 0x0b}, 0, vmcs.EventHardwareException, vmcs.VectorUD, 0},
		{"#GP", read, 1 << 63, vmcs.EventHardwareException, vmcs.VectorGP, 0},
		{"#PF read", read, absent, vmcs.EventHardwareException, vmcs.VectorPF, 0},
		{"#PF write", write, absent, vmcs.EventHardwareException, vmcs.VectorPF, 2},
		{"#PF read-only", write, readOnly, vmcs.EventHardwareException, vmcs.VectorPF, 3},
		{"#PF reserved", read, reserved, vmcs.EventHardwareException, vmcs.VectorPF, 9},
		{"#PF write reserved", write, reserved, vmcs.EventHardwareException, vmcs.VectorPF, 11},
		{"INT 3", []byte{0xcd, 3}, 0, 0, vmcs.VectorBP, 0},
		{"INT 13", []byte{0xcd, 13}, 0, 0, vmcs.VectorGP, 0},
		{"INT 14", []byte{0xcd, 14}, 0, 0, vmcs.VectorPF, 0},
	}
	var pieces [][]byte
	for _, r := range raised {
		pieces = append(pieces, r.code)
	}
	code, at := snippets(pieces...)
	g := vm{m.NewGuest(vmtest.LongNoEPT, code...)}
	entry := func(linear uint64) []byte { return g.Memory[vmtest.TablePT+linear>>12*8:][:8] }
	entry(absent)[0] &^= 1
	entry(readOnly)[0] &^= 2
	entry(reserved)[6] |= 1 << 2 // bit 50: no model has such addresses
	require.LessOrEqual(t, int(m.Caps.CPU.PhysicalAddressBits), 50)

	exits, delivered := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		f := vmcs.ExceptionFilter{
			Exceptions: vmcs.Exceptions(rapid.Uint32().Draw(t, "exceptions")),
			Mask:       rapid.Uint32Max(31).Draw(t, "mask"),
			Match:      rapid.Uint32Max(15).Draw(t, "match"),
		}
		if rapid.Bool().Draw(t, "possible") {
			f.Match &= f.Mask
		}
		require.NoError(t, f.Write(vmcs.Current{}))
		back, err := vmcs.ReadExceptionFilter(vmcs.Current{})
		require.NoError(t, err)
		require.Equal(t, f, back)
		for i, r := range raised {
			g.Regs[asm.RBX], g.Regs[asm.RCX] = r.rbx, 0
			got := g.from(at[i])
			if r.kind != 0 && f.Intercepts(r.v, r.pf) {
				exits++
				require.Equal(t, uint16(reasonException), got, "%s, %v", r.name, f)
				info := vmcs.InterruptionInfo(g.Get(vmcs.ExitInterruptionInformation))
				want := vmcs.EventInfo(r.kind, r.v)
				if r.v.HasErrorCode() {
					want |= vmcs.InfoErrorCode
					require.Equal(t, uint64(r.pf), g.Get(vmcs.ExitInterruptionErrorCode), r.name)
				}
				require.Equal(t, want, info, "%s: %v", r.name, info)
				continue
			}
			delivered++
			require.Equal(t, uint16(reasonVMCALL), got, "%s, %v", r.name, f)
			require.Equal(t, vmtest.Handler(uint8(r.v)), g.RIP, "%s, %v", r.name, f)
			g.Set(vmcs.GuestRSP, vmtest.StackTop-16)
		}
	})
	require.Greater(t, exits, 0)
	require.Greater(t, delivered, 0)
}

// TestEventsOnVTx: an injected event arrives where its vector says, with its error
// code and its return address.
func TestEventsOnVTx(t *testing.T) {
	m := vmtest.Start(t)
	g := vm{m.NewGuest(vmtest.LongNoEPT)}
	g.Set(vmcs.ExceptionBitmap, 0)
	for _, e := range []vmcs.Event{
		vmcs.InjectNMI(),
		vmcs.InjectException(vmcs.VectorUD, 0),
		vmcs.InjectException(vmcs.VectorGP, 0x1234),
		vmcs.InjectException(vmcs.VectorPF, 2),
		vmcs.InjectException(vmcs.VectorAC, 0),
		vmcs.InjectSoftwareInterrupt(0x80, 2),
		vmcs.InjectSoftwareException(vmcs.VectorBP, 1),
		vmcs.InjectINT1(1),
	} {
		g.Set(vmcs.GuestRSP, vmtest.StackTop-16)
		g.Set(vmcs.GuestInterruptibilityState, 0)
		require.NoError(t, e.Write(vmcs.Current{}))
		pending, err := vmcs.ReadEvent(vmcs.Current{})
		require.NoError(t, err)
		require.Equal(t, e, pending)
		require.Equal(t, uint16(reasonVMCALL), g.from(vmtest.Code), e.String())
		require.Equal(t, vmtest.Handler(uint8(e.Info.Vector())), g.RIP, e.String())
		stack := g.Memory[g.Get(vmcs.GuestRSP):]
		if e.Info.HasErrorCode() {
			require.Equal(t, uint64(e.ErrorCode), binary.LittleEndian.Uint64(stack), e.String())
			stack = stack[8:]
		}
		require.Equal(t, vmtest.Code+uint64(e.Length), binary.LittleEndian.Uint64(stack), e.String())
		done, err := vmcs.ReadEvent(vmcs.Current{}) // it is not injected again
		require.NoError(t, err)
		require.False(t, done.Info.Valid())
	}

	// Which exceptions have an error code (SDM Vol. 3C 27.2.1.3).
	for v := range vmcs.Vector(32) {
		if v == vmcs.VectorNMI || v == vmcs.VectorCP && !m.Caps.Basic.AnyErrorCode() {
			continue // the manual does not say
		}
		e := vmcs.InjectException(v, 0)
		for _, flip := range []vmcs.InterruptionInfo{0, vmcs.InfoErrorCode} {
			e.Info ^= flip
			g.Set(vmcs.EntryExceptionErrorCode, 0)
			require.NoError(t, e.Write(vmcs.Current{}))
			g.Set(vmcs.GuestRSP, vmtest.StackTop-16)
			g.RIP = vmtest.Code
			err := vmcs.StatusError(g.Enter())
			if flip != 0 && !m.Caps.Basic.AnyErrorCode() {
				require.ErrorIs(t, err, vmcs.EntryInvalidControls, e.String())
				continue
			}
			require.NoError(t, err, e.String())
			require.Equal(t, uint32(reasonVMCALL), g.Reason, e.String())
			require.Equal(t, vmtest.Handler(uint8(v)), g.RIP, e.String())
		}
	}
}

// TestFieldBitmapsOnVTx: VMREAD and VMWRITE in a guest exit exactly as Intercepts
// says, and reach the shadow VMCS otherwise.
func TestFieldBitmapsOnVTx(t *testing.T) {
	m := vmtest.Start(t)
	if !vmtest.Has(m, vmcs.SecondaryVMCSShadowing) {
		t.Skip("this processor has no VMCS shadowing")
	}
	code, at := snippets([]byte{0x0f, 0x78, 0xc3}, []byte{0x0f, 0x79, 0xc3}) // VMREAD RBX, RAX; VMWRITE RAX, RBX
	g := vm{m.NewGuest(vmtest.LongNoEPT, code...)}
	page := m.Pages(1)
	shadow, err := vmcs.RegionOf(page.Bytes())
	require.NoError(t, err)
	require.NoError(t, shadow.Init(m.Caps.Basic.Revision(), true))
	require.Equal(t, asm.Succeed, asm.VMCLEAR(page.Phys()))

	reads, writes := m.Pages(1), m.Pages(1)
	readBitmap, err := vmcs.FieldBitmapOf(reads.Bytes())
	require.NoError(t, err)
	writeBitmap, err := vmcs.FieldBitmapOf(writes.Bytes())
	require.NoError(t, err)
	vmtest.SetControls(g.Guest, vmcs.SecondaryVMCSShadowing)
	g.Set(vmcs.VMREADBitmap, reads.Phys())
	g.Set(vmcs.VMWRITEBitmap, writes.Phys())
	g.Set(vmcs.VMCSLinkPointer, page.Phys())

	random := rand.New(rand.NewPCG(25, 615))
	for i := range readBitmap {
		readBitmap[i], writeBitmap[i] = byte(random.Uint32()), byte(random.Uint32())
	}
	check := func(t require.T, encoding uint64) {
		for i, b := range []*vmcs.FieldBitmap{readBitmap, writeBitmap} {
			g.Regs[asm.RAX], g.Regs[asm.RBX] = encoding, 0
			want := uint16(reasonVMCALL)
			if b.Intercepts(encoding) {
				want = [...]uint16{reasonVMREAD, reasonVMWRITE}[i]
			}
			if got := g.from(at[i]); got != want {
				t.Fatalf("encoding 0x%x: exit reason %d, not %d", encoding, got, want)
			}
		}
	}
	for encoding := range uint64(0x8002) {
		check(t, encoding)
	}
	for _, encoding := range []uint64{0xffff, 0x10000, 1 << 31, 1 << 32, 1<<32 | 0x681e, 1 << 63, ^uint64(0)} {
		check(t, encoding)
	}

	// What passes is in the shadow VMCS.
	readBitmap.InterceptAll()
	writeBitmap.InterceptAll()
	require.NoError(t, readBitmap.Pass(vmcs.GuestRIP))
	require.NoError(t, writeBitmap.Pass(vmcs.GuestRIP))
	g.Regs[asm.RAX], g.Regs[asm.RBX] = uint64(vmcs.GuestRIP), 0x1122334455667788
	require.Equal(t, uint16(reasonVMCALL), g.from(at[1]))
	require.Zero(t, g.Get(vmcs.GuestRFLAGS)&(flagCF|flagZF))
	g.Regs[asm.RBX] = 0
	require.Equal(t, uint16(reasonVMCALL), g.from(at[0]))
	require.Equal(t, uint64(0x1122334455667788), g.Regs[asm.RBX])
	require.Equal(t, asm.Succeed, asm.VMCLEAR(page.Phys()))
	require.Equal(t, asm.Succeed, asm.VMPTRLD(page.Phys()))
	require.Equal(t, uint64(0x1122334455667788), g.Get(vmcs.GuestRIP))
	require.Equal(t, asm.Succeed, asm.VMCLEAR(page.Phys()))
	g.Use()
	require.True(t, shadow.Shadow())
}

// TestRegionOnVTx: the header decides what VMPTRLD and VMXON make of a region.
func TestRegionOnVTx(t *testing.T) {
	m := vmtest.Start(t)
	page := m.Pages(1)
	r, err := vmcs.RegionOf(page.Bytes())
	require.NoError(t, err)
	revision := m.Caps.Basic.Revision()
	load := func() error { return vmcs.StatusError(asm.VMPTRLD(page.Phys())) }

	m.Load(m.Region()) // whose VM-instruction error field tells
	require.NoError(t, r.Init(revision, false))
	require.Equal(t, asm.Succeed, asm.VMCLEAR(page.Phys()))
	require.NoError(t, load())
	require.Equal(t, revision, r.Revision())
	require.Zero(t, r.Abort())
	require.Equal(t, asm.Succeed, asm.VMCLEAR(page.Phys()))

	m.Load(m.Region())
	require.NoError(t, r.Init(revision^1, false))
	require.ErrorIs(t, load(), vmcs.VMPTRLDIncorrectRevision)

	require.NoError(t, r.Init(revision, true))
	if vmtest.Has(m, vmcs.SecondaryVMCSShadowing) {
		require.NoError(t, load())
		require.Equal(t, asm.Succeed, asm.VMCLEAR(page.Phys()))
	} else {
		require.ErrorIs(t, load(), vmcs.VMPTRLDIncorrectRevision)
	}
}

// TestMSRAreasOnVTx: MSRs are loaded and stored as the areas say, and VM entry
// fails at the entry that CheckLoad names.
func TestMSRAreasOnVTx(t *testing.T) {
	m := vmtest.Start(t)
	const kernelGSBase, cstar = 0xc0000102, 0xc0000083
	code, at := snippets([]byte{0x0f, 0x32}, []byte{0x0f, 0x30})
	g := vm{m.NewGuest(vmtest.LongNoEPT, code...)}
	bitmap := m.Pages(1) // no access exits
	vmtest.SetControls(g.Guest, vmcs.PrimaryUseMSRBitmaps)
	g.Set(vmcs.MSRBitmaps, bitmap.Phys())

	var areas [3]vmcs.MSRArea
	fields := [3][2]vmcs.Field{
		{vmcs.EntryMSRLoadAddress, vmcs.EntryMSRLoadCount},
		{vmcs.ExitMSRStoreAddress, vmcs.ExitMSRStoreCount},
		{vmcs.ExitMSRLoadAddress, vmcs.ExitMSRLoadCount},
	}
	entry, store, host := &areas[0], &areas[1], &areas[2]
	for i := range areas {
		page, err := m.Pages(1), error(nil)
		areas[i], err = vmcs.MSRAreaOf(page.Bytes(), 0)
		require.NoError(t, err)
		g.Set(fields[i][0], page.Phys())
	}
	counts := func() {
		for i := range areas {
			g.Set(fields[i][1], uint64(areas[i].Count()))
		}
	}
	for _, msr := range []uint32{kernelGSBase, cstar} {
		require.NoError(t, entry.Set(msr, 0))
		require.NoError(t, store.Set(msr, 0))
		require.NoError(t, host.Set(msr, asm.RDMSR(msr)))
		old := asm.RDMSR(msr)
		t.Cleanup(func() { asm.WRMSR(msr, old) })
	}
	counts()
	rapid.Check(t, func(t *rapid.T) {
		canonical := rapid.Custom(func(t *rapid.T) uint64 {
			return uint64(int64(rapid.Uint64().Draw(t, "value")) << 16 >> 16)
		})
		for _, msr := range []uint32{kernelGSBase, cstar} {
			loaded, written, back := canonical.Draw(t, "loaded"), canonical.Draw(t, "written"), canonical.Draw(t, "host")
			require.NoError(t, entry.Set(msr, loaded))
			require.NoError(t, host.Set(msr, back))
			g.Regs[asm.RCX] = uint64(msr)
			require.Equal(t, uint16(reasonVMCALL), g.from(at[0]))
			require.Equal(t, loaded, g.Regs[asm.RAX]&0xffffffff|g.Regs[asm.RDX]<<32, "the guest sees")
			stored, _ := store.Get(msr)
			require.Equal(t, loaded, stored)
			require.Equal(t, back, asm.RDMSR(msr), "the host has")

			g.Regs[asm.RAX], g.Regs[asm.RDX] = written&0xffffffff, written>>32
			require.Equal(t, uint16(reasonVMCALL), g.from(at[1]))
			stored, _ = store.Get(msr)
			require.Equal(t, written, stored)
			require.Equal(t, back, asm.RDMSR(msr), "the host has")
		}
	})

	// Entries that are refused, at any place among good ones.
	good := []vmcs.MSREntry{
		{Index: kernelGSBase, Value: 0x7fffffffffff}, {Index: cstar, Value: 0xffff800000000000},
		{Index: 0x277, Value: asm.RDMSR(0x277)}, {Index: 0xc0000080, Value: g.Get(vmcs.GuestEFER)},
	}
	bad := []vmcs.MSREntry{
		{Index: kernelGSBase, Reserved: 1}, {Index: cstar, Reserved: 1 << 31},
		{Index: 0xc0000100}, {Index: 0xc0000101}, {Index: 0x800}, {Index: 0x8ff}, {Index: 0x9b},
		{Index: 0x277, Value: 2}, {Index: 0x277, Value: 3 << 56}, {Index: 0x277, Value: 8 << 16},
		{Index: kernelGSBase, Value: 1 << 63}, {Index: cstar, Value: 1 << 47}, {Index: 0x175, Value: 1 << 62},
		{Index: 0xc0000080, Value: 1 << 1}, {Index: 0xc0000080, Value: 1<<63 | 0x500},
		{Index: 0x480}, {Index: 0x48c}, {Index: 0xfe},
	}
	for _, e := range good {
		require.Equal(t, vmcs.MSRAccepted, e.LoadRule(&m.Caps.CPU), e)
	}
	for _, e := range bad {
		require.NotEqual(t, vmcs.MSRAccepted, e.LoadRule(&m.Caps.CPU), e)
	}
	try := func(t require.T, entries []vmcs.MSREntry) {
		entry.Reset()
		for i, e := range entries { // Set does not take reserved bits, or an MSR twice
			require.NoError(t, entry.Set(0x10000+uint32(i), e.Value))
		}
		page := g.Get(vmcs.EntryMSRLoadAddress)
		mem, err := ring0.Physical(page, 16*len(entries)+16)
		require.NoError(t, err)
		for i, e := range entries {
			binary.LittleEndian.PutUint32(mem[16*i:], e.Index)
			binary.LittleEndian.PutUint32(mem[16*i+4:], e.Reserved)
		}
		counts()
		g.RIP = at[0]
		require.NoError(t, vmcs.StatusError(g.Enter()))
		var refused *vmcs.MSRAreaError
		if err := entry.CheckLoad(m.Caps); err != nil {
			require.ErrorAs(t, err, &refused)
			require.Equal(t, uint32(reasonEntryFailure|reasonBadMSR), g.Reason, err.Error())
			require.Equal(t, uint64(refused.Number), g.Get(vmcs.ExitQualification), err.Error())
			return
		}
		require.Equal(t, uint32(reasonVMCALL), g.Reason, entry)
	}
	for _, e := range bad {
		try(t, []vmcs.MSREntry{good[0], e, good[1]})
	}
	g.Regs[asm.RCX] = kernelGSBase
	rapid.Check(t, func(t *rapid.T) {
		entries := rapid.SliceOfN(rapid.SampledFrom(good), 0, 6).Draw(t, "good")
		for range rapid.IntRange(0, 2).Draw(t, "bad") {
			e := rapid.SampledFrom(bad).Draw(t, "bad")
			entries = slices.Insert(slices.Clone(entries), rapid.IntRange(0, len(entries)).Draw(t, "at"), e)
		}
		try(t, entries)
	})
}

// eptGuest is a guest in 64-bit mode behind EPT, with snippets of code, and the
// reason to skip it if the processor lacks a control.
func eptGuest(m *vmtest.Machine, control vmcs.SecondaryControls, pieces ...[]byte) (vm, []uint64) {
	m.Helper()
	if !vmtest.Has(m, control) {
		m.Skipf("this processor has no %v", control)
	}
	code, at := snippets(pieces...)
	g := vm{m.NewGuest(vmtest.Long, code...)}
	vmtest.SetControls(g.Guest, control)
	return g, at
}

var (
	load  = []byte{0x8a, 0x03} // MOV AL, [RBX]
	store = []byte{0x88, 0x03} // MOV [RBX], AL
)

// TestPMLOnVTx: the log has the pages that a guest writes first, in order, and the
// guest exits when it is full.
func TestPMLOnVTx(t *testing.T) {
	m := vmtest.Start(t)
	g, at := eptGuest(m, vmcs.SecondaryEnablePML, store)
	page := m.Pages(1)
	log, err := vmcs.PMLBufferOf(page.Bytes())
	require.NoError(t, err)
	g.Set(vmcs.EPTPointer, g.EPT.Pointer()|eptAccessedAndDirty)
	g.Set(vmcs.PMLAddress, page.Phys())

	const pages = (vmtest.Ring0Stack - 0x1000 - vmtest.Free) / 0x1000
	const accessed, dirty = 1 << 0, 1 << 1 // in the second byte of an EPT entry
	clean := func() {                      // only the pages that the test writes to are not dirty yet
		for gpa := uint64(0); gpa < vmtest.MemorySize; gpa += 0x1000 {
			g.EPT.Entry(gpa)[1] |= accessed | dirty
		}
		for i := range uint64(pages) {
			g.EPT.Entry(vmtest.Free + i<<12)[1] &^= accessed | dirty
		}
		require.Equal(t, asm.Succeed, asm.INVEPT(2, new([2]uint64)))
	}
	rapid.Check(t, func(t *rapid.T) {
		clean()
		start := uint16(rapid.SampledFrom([]int{vmcs.PMLStart, 5, 1}).Draw(t, "index"))
		g.Set(vmcs.PMLIndex, uint64(start))
		index := start
		var model vmcs.PMLBuffer
		logged := map[uint64]bool{}
		for range rapid.IntRange(1, 12).Draw(t, "writes") {
			gpa := uint64(vmtest.Free + rapid.IntRange(0, pages-1).Draw(t, "page")<<12)
			g.Regs[asm.RBX] = gpa + uint64(rapid.IntRange(0, 0xfff).Draw(t, "offset"))
			got := g.from(at[0])
			if vmcs.PMLFull(index) {
				// Bochs 2.7 exits at the next page walk; the manual says, at one
				// that has to set a flag.
				if !logged[gpa] {
					require.Equal(t, uint16(reasonLogFull), got)
				}
				return
			}
			require.Equal(t, uint16(reasonVMCALL), got)
			if !logged[gpa] {
				index, _ = model.Log(index, gpa)
				logged[gpa] = true
			}
			require.Equal(t, index, uint16(g.Get(vmcs.PMLIndex)))
			for i := range len(logged) {
				e := int(start) - i
				// Bochs 2.7 leaves the offset in the page; the manual says, bits
				// 11:0 are 0.
				require.Equal(t, model.At(e), log.At(e)&^0xfff, "entry %d", e)
			}
			if start == vmcs.PMLStart {
				require.Equal(t, len(logged), count(log.All(index)))
			}
		}
	})
}

// TestEPTPListOnVTx: VMFUNC takes the EPTP from the list, and exits if there is no
// valid one.
func TestEPTPListOnVTx(t *testing.T) {
	m := vmtest.Start(t)
	g, at := eptGuest(m, vmcs.SecondaryEnableVMFunctions, []byte{
		0x0f, 0x01, 0xd4, // VMFUNC
		0x8a, 0x03, // MOV AL, [RBX]
	})
	if !vmtest.Has(m, vmcs.VMFuncEPTPSwitching) {
		t.Skip("this processor has no EPTP switching")
	}
	page := m.Pages(1)
	list, err := vmcs.EPTPListOf(page.Bytes())
	require.NoError(t, err)
	vmtest.SetControls(g.Guest, vmcs.VMFuncEPTPSwitching)
	g.Set(vmcs.EPTPListAddress, page.Phys())

	// Each EPT gives the guest another page at Free.
	const views = 4
	var pointers [views]uint64
	for i := range views {
		ept, seen := m.NewEPT(), m.Pages(1)
		seen.Bytes()[0] = byte(0x40 + i)
		for gpa := uint64(0); gpa < vmtest.MemorySize; gpa += 0x1000 {
			ept.Map(gpa, g.HostPhysical(gpa), vmtest.EPTAll)
		}
		ept.Map(vmtest.Free, seen.Phys(), vmtest.EPTAll)
		pointers[i] = ept.Pointer()
	}
	index := edges(^uint32(0), 0, 7, 511, 512, 1<<31)
	rapid.Check(t, func(t *rapid.T) {
		clear(list[:])
		model := map[uint32]int{}
		for range rapid.IntRange(0, 4).Draw(t, "entries") {
			i, view := index.Draw(t, "index"), rapid.IntRange(0, views-1).Draw(t, "view")
			if list.Set(i, pointers[view]) == nil {
				model[i] = view
			}
		}
		tries := []uint32{index.Draw(t, "ECX"), 512}
		for i := range model {
			tries = append(tries, i)
		}
		for _, i := range tries {
			before := g.Get(vmcs.EPTPointer)
			g.Regs[asm.RAX], g.Regs[asm.RBX], g.Regs[asm.RCX] = 0, vmtest.Free, uint64(i)
			got := g.from(at[0])
			eptp, ok := list.At(i)
			if !ok || eptp == 0 {
				require.Equal(t, uint16(reasonVMFUNC), got, "ECX 0x%x", i)
				require.Equal(t, before, g.Get(vmcs.EPTPointer))
				continue
			}
			require.Equal(t, uint16(reasonVMCALL), got, "ECX 0x%x", i)
			require.Equal(t, pointers[model[i]], g.Get(vmcs.EPTPointer))
			require.Equal(t, byte(0x40+model[i]), byte(g.Regs[asm.RAX]))
		}
	})
}

// TestVEAreaOnVTx: an EPT violation reaches the guest as #VE with its particulars
// in the area, while the area is free.
func TestVEAreaOnVTx(t *testing.T) {
	m := vmtest.Start(t)
	g, at := eptGuest(m, vmcs.SecondaryEPTViolationVE, load, store, []byte{0x0f, 0x01, 0xd4}) // the last is VMFUNC
	page := m.Pages(1)
	area, err := vmcs.VEAreaOf(page.Bytes())
	require.NoError(t, err)
	g.Set(vmcs.VirtualizationExceptionAddress, page.Phys())
	// Bochs 2.7 does not load the EPTP index at VM entry, so VMFUNC sets it.
	const index = 3
	page = m.Pages(1)
	list, err := vmcs.EPTPListOf(page.Bytes())
	require.NoError(t, err)
	require.NoError(t, list.Set(index, g.EPT.Pointer()))
	vmtest.SetControls(g.Guest, vmcs.SecondaryEnableVMFunctions)
	vmtest.SetControls(g.Guest, vmcs.VMFuncEPTPSwitching)
	g.Set(vmcs.EPTPListAddress, page.Phys())
	g.Regs[asm.RAX], g.Regs[asm.RCX] = 0, index
	require.Equal(t, uint16(reasonVMCALL), g.from(at[2]))
	require.Equal(t, uint64(index), g.Get(vmcs.EPTPIndex))

	g.Set(vmcs.ExceptionBitmap, uint64(^vmcs.ExceptionsOf(vmcs.VectorVE)))
	g.EPT.Map(vmtest.Free, g.HostPhysical(vmtest.Free), vmtest.EPTRead)
	const absent = vmtest.Free + 0x1000
	clear(g.EPT.Entry(absent))

	rapid.Check(t, func(t *rapid.T) {
		rights, gpa := uint64(vmtest.EPTRead), uint64(vmtest.Free)
		write := rapid.Bool().Draw(t, "write")
		i := 1
		if rapid.Bool().Draw(t, "absent") {
			rights, gpa = 0, absent
			if !write {
				i = 0
			}
		} else {
			write = true
		}
		gpa += uint64(rapid.IntRange(0, 0xfff).Draw(t, "offset"))
		// SDM Vol. 3C table 28-7: the access, the rights, a linear address that is
		// valid and being translated.
		qualification := 1<<0 | rights<<3 | 1<<7 | 1<<8
		if write {
			qualification ^= 3
		}
		want := vmcs.VEInfo{Reason: reasonEPTViolation, Qualification: qualification, LinearAddress: gpa, PhysicalAddress: gpa, EPTPIndex: index}

		g.Set(vmcs.GuestRSP, vmtest.StackTop-16)
		g.Regs[asm.RBX] = gpa
		if rapid.Bool().Draw(t, "busy") {
			area.Hold()
			before := *area
			require.Equal(t, uint16(reasonEPTViolation), g.from(at[i]))
			require.Equal(t, qualification, g.Get(vmcs.ExitQualification))
			require.Equal(t, gpa, g.Get(vmcs.GuestPhysicalAddress))
			require.Equal(t, before, *area)
		}
		area.Release()
		require.Equal(t, uint16(reasonVMCALL), g.from(at[i]))
		require.Equal(t, vmtest.Handler(uint8(vmcs.VectorVE)), g.RIP)
		require.True(t, area.Busy())
		require.Equal(t, want, area.Info())
	})
}

// TestEOIExitBitmapOnVTx: a guest's EOI exits exactly for the vectors in the
// bitmap.
func TestEOIExitBitmapOnVTx(t *testing.T) {
	m := vmtest.Start(t)
	const needed = vmcs.SecondaryVirtualizeX2APICMode | vmcs.SecondaryAPICRegisterVirtualization | vmcs.SecondaryVirtualInterruptDelivery
	if !vmtest.Has(m, needed) {
		t.Skip("this processor has no virtual-interrupt delivery")
	}
	code, at := snippets([]byte{0x0f, 0x30}) // WRMSR
	g := vm{m.NewGuest(vmtest.LongNoEPT, code...)}
	apic, bitmap := m.Pages(1), m.Pages(1)
	vmtest.SetControls(g.Guest, vmcs.PinExternalInterruptExiting)
	vmtest.SetControls(g.Guest, vmcs.PrimaryUseTPRShadow|vmcs.PrimaryUseMSRBitmaps)
	vmtest.SetControls(g.Guest, needed)
	g.Set(vmcs.MSRBitmaps, bitmap.Phys())
	g.Set(vmcs.VirtualAPICAddress, apic.Phys())

	const eoi, externalInterrupt = 0x80b, 1
	isr := func(v vmcs.Vector) *byte { return &apic.Bytes()[0x100+int(v)/32*16+int(v)%32/8] }
	rapid.Check(t, func(t *rapid.T) {
		var s vmcs.VectorSet
		for i := range s {
			s[i] = rapid.Uint64().Draw(t, "vectors")
		}
		require.NoError(t, vmcs.WriteEOIExitBitmap(vmcs.Current{}, s))
		back, err := vmcs.ReadEOIExitBitmap(vmcs.Current{})
		require.NoError(t, err)
		require.Equal(t, s, back)
		for range 8 {
			v := vmcs.Vector(rapid.IntRange(16, 255).Draw(t, "vector"))
			for got := uint16(externalInterrupt); got == externalInterrupt; {
				*isr(v) |= 1 << (v % 8)
				g.Set(vmcs.GuestInterruptStatus, uint64(v)<<8) // SVI
				g.Regs[asm.RCX], g.Regs[asm.RAX], g.Regs[asm.RDX] = eoi, 0, 0
				if got = g.from(at[0]); got == externalInterrupt {
					continue // the host's timer; the guest begins again
				}
				require.Equal(t, s.Has(v), got == reasonVirtualEOI, "vector %d, reason %d", v, got)
				if s.Has(v) {
					require.Equal(t, uint64(v), g.Get(vmcs.ExitQualification))
				} else {
					require.Equal(t, uint16(reasonVMCALL), got)
				}
			}
			require.Zero(t, *isr(v)&(1<<(v%8)), "in service")
		}
	})
}
