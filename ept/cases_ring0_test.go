package ept_test

import (
	"encoding/binary"
	"slices"
	"testing"

	"github.com/govtx/vtx/asm"
	"github.com/govtx/vtx/ept"
	"github.com/govtx/vtx/internal/require"
	"github.com/govtx/vtx/internal/vmtest"
	"github.com/govtx/vtx/ring0"
	"github.com/govtx/vtx/vmcs"
	"github.com/govtx/vtx/vmexit"
)

// leafPage is a page of 4 KiB of the rig, and the linear address of it.
const leafPage = small + 0x8000

// newLong is a rig with a 64-bit guest.
func newLong(t *testing.T, flags bool) *rig {
	m := vmtest.Start(t)
	if flags && !m.Caps.EPTVPID.AccessedDirty() {
		t.Skip("no accessed and dirty flags for EPT")
	}
	return newRig(m, vmtest.ModeLong, ept.Mode{AccessedDirty: flags}, 1)
}

// protect gives the leaf page other rights.
func (r *rig) protect(gpa uint64, rights ept.Entry) {
	r.Helper()
	i, err := r.space.Protect(gpa, 4096, rights, ept.All)
	require.NoError(r, err)
	r.invalidate(i)
	r.sync()
}

// rightsOf is bits 5:3 of a qualification.
func rightsOf(o outcome) ept.Entry {
	return ept.Entry(vmexit.EPTViolationQualification(o.qualification).Rights())
}

func TestExecuteOnly(t *testing.T) {
	r := newLong(t, false)
	if !r.mode.Capabilities.ExecuteOnly() {
		t.Skip("no execute-only translations")
	}
	r.protect(leafPage, ept.Execute)
	r.want(vmexit.VMCALL, fetch, leafPage)
	for _, k := range []kind{read, write, modify} {
		require.Equal(t, ept.Execute, rightsOf(r.want(vmexit.EPTViolation, k, leafPage+slotData)))
	}
}

func TestWriteOnlyIsMisconfigured(t *testing.T) {
	r := newLong(t, false)
	_, err := r.space.Protect(leafPage, 4096, ept.Write, ept.All)
	require.ErrorIs(t, err, ept.ErrMisconfigure)
	for _, rights := range []ept.Entry{ept.Write, ept.Write | ept.Execute} {
		for level := ept.PTE; level <= ept.PDE; level++ {
			table, index, old, _ := r.twin.find(leafPage, level)
			r.set(table, index, old&^ept.All|rights)
			for k := read; k <= fetch; k++ {
				require.Equal(t, uint64(leafPage), r.want(vmexit.EPTMisconfiguration, k, leafPage).physical)
			}
			r.restore(table, index, old)
		}
	}
}

// TestEachBit flips each bit of an entry of each form on the way to a read: the entries
// for 4 KiB, 2 MiB and 1 GiB, and the tables above.
func TestEachBit(t *testing.T) {
	r := newLong(t, false)
	forms := []struct {
		name  string
		gpa   uint64
		level ept.Level
	}{
		{"PTE", leafPage, ept.PTE}, {"PDE", leafPage, ept.PDE}, {"PDPTE", leafPage, ept.PDPTE}, {"PML4E", leafPage, ept.PML4E},
		{"PDE, 2 MiB", large, ept.PDE}, {"PDPTE, 1 GiB", huge + r.pool.Phys(), ept.PDPTE},
	}
	for _, form := range forms {
		count := map[vmexit.Basic]int{}
		skipped := 0
		for bit := range 64 {
			table, index, old, l := r.twin.find(form.gpa, form.level)
			require.Equal(t, form.level, l)
			r.set(table, index, old^1<<bit)
			o, made := r.try(read, form.gpa+slotData)
			if made {
				r.same()
				count[o.reason]++
			} else {
				skipped++ // it leads elsewhere
			}
			r.restore(table, index, old)
			wide := bit >= int(r.mode.PhysicalAddressBits) && bit < 52
			if reserved := wide || form.level > ept.PTE && old&ept.Large == 0 && bit >= 3 && bit <= 6; reserved {
				require.Equal(t, vmexit.EPTMisconfiguration, o.reason, "%s, bit %d", form.name, bit)
			}
		}
		t.Logf("%s: %v, %d lead elsewhere", form.name, count, skipped)
		require.Greater(t, count[vmexit.EPTMisconfiguration], 51-int(r.mode.PhysicalAddressBits), form.name)
		require.Greater(t, count[vmexit.VMCALL], 10, form.name) // ignored bits
	}
}

func TestLargePageAlignment(t *testing.T) {
	r := newLong(t, false)
	for _, form := range []struct {
		gpa   uint64
		level ept.Level
	}{{large, ept.PDE}, {huge + r.pool.Phys(), ept.PDPTE}} {
		for bit := 12; bit < int(form.level.Shift()); bit++ {
			table, index, old, _ := r.twin.find(form.gpa, form.level)
			e := old | 1<<bit
			require.Equal(t, "large-alignment", r.mode.Misconfiguration(e, form.level).ID)
			r.set(table, index, e)
			want := vmexit.EPTMisconfiguration
			if bit == 12 {
				want = vmexit.VMCALL // see the deviation bit12
			}
			r.want(want, read, form.gpa+slotData)
			r.restore(table, index, old)
		}
	}
}

// TestPageWalkThroughReadOnly: with accessed and dirty flags for EPT, reads of the guest's
// paging structures are writes (SDM Vol. 3C 29.3.5).
func TestPageWalkThroughReadOnly(t *testing.T) {
	const linear = 1 << 39 // by the risky tables
	for _, flags := range []bool{false, true} {
		t.Run(map[bool]string{false: "no flags", true: "flags"}[flags], func(t *testing.T) {
			r := newLong(t, flags)
			binary.LittleEndian.PutUint64(r.pool.Bytes()[riskyPT-small:], leafPage|entryAll|1<<5|1<<6)
			r.sync()
			r.want(vmexit.VMCALL, write, linear+slotData) // sets the guest's accessed flags above
			for _, table := range []uint64{riskyPDPT, riskyPD, riskyPT} {
				r.protect(table, ept.Read)
				for k := read; k <= fetch; k++ {
					target := uint64(linear)
					if k != fetch {
						target += slotData
					}
					if !flags {
						r.want(vmexit.VMCALL, k, target)
						continue
					}
					o := r.want(vmexit.EPTViolation, k, target)
					q := vmexit.EPTViolationQualification(o.qualification)
					require.True(t, q.PageWalk() && q.Write(), "%v", q)
					require.Equal(t, ept.Read, rightsOf(o))
					require.Equal(t, target, o.linear)
					require.Equal(t, table, o.physical&^0xfff)
				}
				r.protect(table, 0)
				o := r.want(vmexit.EPTViolation, read, linear+slotData)
				require.Equal(t, table, o.physical&^0xfff)
				require.Zero(t, rightsOf(o))
				r.protect(table, ept.All)
			}
		})
	}
}

// TestForgottenINVEPT: the guest reads a page, has the EPT entry changed while it runs
// (it does so itself, through a page that maps the table) and reads again: the
// processor may go on with what it knew. After INVEPT it must not.
func TestForgottenINVEPT(t *testing.T) {
	r := newLong(t, false)
	if vmtest.Has(r.Machine, vmcs.SecondaryEnableVPID) { // VM entries and exits may keep translations
		vmtest.SetControls(r.Guest, vmcs.SecondaryEnableVPID)
		r.Set(vmcs.VPID, 7)
	}
	const window = small + 0xf000
	table, index, e, _ := r.twin.find(leafPage, ept.PTE)
	i, err := r.space.Replace(window, 4096, table, ept.ReadWrite|ept.WB.Entry())
	require.NoError(t, err)
	r.invalidate(i)
	// MOV edx, [rbx]; MOV [rcx], rsi; MOV eax, [rbx]; VMCALL; MOV eax, [rbx]; VMCALL
	copy(r.Memory[vmtest.Code:], []byte{0x8b, 0x13, 0x48, 0x89, 0x31, 0x8b, 0x03, 0x0f, 0x01, 0xc1, 0x8b, 0x03, 0x0f, 0x01, 0xc1})
	values := [2]uint32{}
	for n := range values {
		values[n] = binary.LittleEndian.Uint32(r.pool.Bytes()[0x8000+n*0x1000+slotData:])
	}
	require.NotEqual(t, values[0], values[1])
	step := func() uint32 {
		r.Require(uint16(vmexit.VMCALL))
		r.Skip()
		return uint32(r.Regs[asm.RAX])
	}
	r.RIP = vmtest.Code
	r.Regs[asm.RBX], r.Regs[asm.RCX], r.Regs[asm.RSI] = leafPage+slotData, window+8*uint64(index), uint64(e)+0x1000
	second := step()
	require.Equal(t, values[0], uint32(r.Regs[asm.RDX]))
	require.Contains(t, values[:], second)
	third := step()
	require.Contains(t, values[:], third)
	t.Logf("the processor goes on with the old entry: until the next VM exit %t, beyond it %t", second == values[0], third == values[0])

	r.RIP = vmtest.Code + 10
	r.invalidate(ept.SingleContext)
	require.Equal(t, values[1], step())
	if second != values[0] {
		t.Error("the processor does not keep translations any more: docs/bochs.md says that it does while a guest runs")
	}
}

// TestMisconfigurationIsProcessor puts random entries at random levels.
func TestMisconfigurationIsProcessor(t *testing.T) {
	needSpeed(t)
	const tries = 3000
	r := newLong(t, false)
	made, rules := 0, map[string]int{}
	for made < tries {
		gpa := uint64(leafPage)
		switch r.rand.IntN(4) {
		case 0:
			gpa = large
		case 1:
			gpa = huge + r.pool.Phys()
		}
		level := ept.Level(1 + r.rand.IntN(4))
		table, index, old, l := r.twin.find(gpa, level)
		// Any low bits but the address stays, unless a reserved bit is added to it.
		e := old&^0xfff | ept.Entry(r.rand.IntN(0x1000))
		if l > ept.PTE && r.rand.IntN(2) == 0 {
			e = e&^ept.Large | old&ept.Large
		}
		switch r.rand.IntN(4) {
		case 0:
			e |= 1 << (int(r.mode.PhysicalAddressBits) + r.rand.IntN(52-int(r.mode.PhysicalAddressBits)))
		case 1:
			e |= ept.Entry(r.rand.Uint64()) << 52
		case 2:
			e |= 1 << (12 + r.rand.IntN(18))
		}
		r.set(table, index, e)
		r.done(func() string { return l.String() + " " + e.String() })
		o, ok := r.try(read, gpa+slotData)
		r.restore(table, index, old)
		if !ok {
			continue
		}
		r.notes = r.notes[:0]
		made++
		rule := r.mode.Misconfiguration(e, l)
		if rule == nil {
			rules[o.reason.String()]++
			require.NotEqual(t, vmexit.EPTMisconfiguration, o.reason)
			continue
		}
		rules[rule.ID]++
		if o.reason != vmexit.EPTMisconfiguration {
			require.Equal(t, "large-alignment", rule.ID) // bit 12
		}
	}
	r.same()
	t.Logf("%d entries: %v", made, rules)
	for _, rule := range ept.Rules() {
		possible := map[string]bool{"execute-only": !r.mode.Capabilities.ExecuteOnly(), "paging-write-without-read": false,
			"large-unsupported": !r.mode.Capabilities.Pages1G()}
		if can, conditional := possible[rule.ID]; rules[rule.ID] == 0 && (!conditional || can) {
			t.Errorf("rule %s did not come up", rule.ID)
		}
	}
}

// processorMSRs reads the machine's.
type processorMSRs struct{}

func (processorMSRs) ReadMSR(msr uint32) (uint64, error) { return asm.RDMSRSafe(msr) }

// TestMTRRTypes maps memory with the types that the machine's MTRRs give, and has a guest
// read it all: the processor takes each entry.
func TestMTRRTypes(t *testing.T) {
	r := newLong(t, true)
	mtrrs, err := ept.ReadMTRRs(processorMSRs{}, r.mode.PhysicalAddressBits)
	require.NoError(t, err)
	_, err = r.space.Unmap(huge, huge)
	require.NoError(t, err)
	r.invalidate(ept.AllContexts)
	r.space.Reclaim()
	i, err := r.space.MapTyped(huge, huge, 0, ept.All, mtrrs)
	require.NoError(t, err)
	r.invalidate(i)
	r.sync()
	runs := 0
	for mapping, err := range ept.MappingsIn(r.space.View(0), ept.Range{Start: huge, Size: huge}) {
		require.NoError(t, err)
		t.Logf("%#x to %#x: %v", mapping.HPA, mapping.HPA+mapping.Size-1, mapping.Attributes.MemoryType())
		runs++
		for hpa := mapping.HPA; hpa < mapping.HPA+mapping.Size; {
			want, end := mtrrs.At(hpa)
			require.Equal(t, want, mapping.Attributes.MemoryType(), "at 0x%x", hpa)
			hpa = end
		}
	}
	require.Greater(t, runs, 1, "the machine's MTRRs give one type to all: nothing was split")
	_, l, ok := r.space.View(0).Lookup(huge)
	require.True(t, ok)
	require.Equal(t, ept.PTE, l) // fixed ranges
	r.want(vmexit.VMCALL, write, huge+r.pool.Phys()+slotData)
	// Read-only memory, whose contents stay: the BIOS below 1 MiB, by 4 KiB.
	for hpa := uint64(0xf0000); hpa < 0x100000; hpa += 4096 {
		b, err := ring0.Physical(hpa, 8)
		require.NoError(t, err)
		o := r.run(read, huge+hpa, 0)
		require.Equal(t, vmexit.VMCALL, o.reason, "%v", o)
		require.Equal(t, binary.LittleEndian.Uint32(b), o.value)
	}
	// The Space's view of it is what the processor has used.
	e, _, _ := r.space.View(0).Lookup(huge + 0xf0000)
	require.NotZero(t, e&ept.Accessed)
}

// TestPMLLogsDirtied: what the log has is what a harvest finds dirty (SDM Vol. 3C 29.3.6).
func TestPMLLogsDirtied(t *testing.T) {
	r := newLong(t, true)
	if !vmtest.Has(r.Machine, vmcs.SecondaryEnablePML) {
		t.Skip("no page-modification logging")
	}
	page := r.Pages(1)
	log, err := vmcs.PMLBufferOf(page.Bytes())
	require.NoError(t, err)
	vmtest.SetControls(r.Guest, vmcs.SecondaryEnablePML)
	r.Set(vmcs.PMLAddress, page.Phys())
	clone, err := r.space.View(0).Clone()
	require.NoError(t, err)
	i, err := clone.Replace(small+0x8000, 0x4000, r.pool.Phys()+0x8000, ept.All|ept.WB.Entry())
	require.NoError(t, err)
	r.invalidate(i)
	logged := 0
	for round := range 40 {
		r.setView(round & 1)
		v := r.space.View(r.view)
		all := ept.Range{Start: 0, Size: 4 << 30}
		for range v.Harvest(all.Start, all.Size, ept.Accessed|ept.Dirty) {
		}
		r.invalidate(ept.AllContexts)
		r.sync()
		r.Set(vmcs.PMLIndex, 511)
		for range 6 {
			k := []kind{read, write, modify}[r.rand.IntN(3)]
			r.try(k, r.drawLinear(k))
		}
		r.same()
		var want, got []uint64
		for ranges, e := range v.Harvest(all.Start, all.Size, 0) {
			for gpa := ranges.Start; e&ept.Dirty != 0 && gpa < ranges.Start+ranges.Size; gpa += 4096 {
				if _, l, _ := v.Lookup(gpa); l > ept.PTE { // the log has the page of 4 KiB
					gpa = ranges.Start + ranges.Size
					continue
				}
				want = append(want, gpa)
			}
		}
		for n := 511; n > int(int16(r.Get(vmcs.PMLIndex))); n-- {
			gpa := log.At(n) &^ 0xfff // Bochs logs the offset too
			logged++
			if _, l, _ := v.Lookup(gpa); l == ept.PTE {
				got = append(got, gpa)
			}
		}
		slices.Sort(got)
		require.Equal(t, want, got, "round %d", round)
	}
	t.Logf("%d entries", logged)
	require.Greater(t, logged, 100)
}

// TestEPTPListSwitchesViews: guests choose a view by VMFUNC (SDM Vol. 3C 26.5.6.3).
func TestEPTPListSwitchesViews(t *testing.T) {
	r := newLong(t, false)
	if !vmtest.Has(r.Machine, vmcs.SecondaryEnableVMFunctions) || !vmtest.Has(r.Machine, vmcs.VMFuncEPTPSwitching) {
		t.Skip("no EPTP switching")
	}
	page := r.Pages(1)
	list, err := vmcs.EPTPListOf(page.Bytes())
	require.NoError(t, err)
	vmtest.SetControls(r.Guest, vmcs.SecondaryEnableVMFunctions)
	vmtest.SetControls(r.Guest, vmcs.VMFuncEPTPSwitching)
	r.Set(vmcs.EPTPListAddress, page.Phys())
	for range 3 {
		_, err := r.space.View(0).Clone()
		require.NoError(t, err)
	}
	seen := map[vmexit.Basic]int{}
	for round := range 200 {
		for v := range r.space.Views() {
			require.NoError(t, list.Set(uint32(v.Index()), uint64(v.Pointer())))
			if round%8 == 0 { // each view has another page there, or none
				i, err := v.Replace(leafPage, 4096, r.pool.Phys()+uint64(4+r.rand.IntN(12))<<12, []ept.Entry{0, ept.Read, ept.All}[r.rand.IntN(3)]|ept.WB.Entry())
				require.NoError(t, err)
				r.invalidate(i)
			}
		}
		from, to := r.rand.IntN(4), r.rand.IntN(4)
		r.setView(from)
		r.RIP = codeSwitch
		r.Regs[asm.RAX], r.Regs[asm.RCX], r.Regs[asm.RBX] = 0, uint64(to), leafPage+slotData
		r.Guest.Run(func() bool { return false })
		v := r.space.View(to)
		require.Equal(t, uint64(v.Pointer()), r.Get(vmcs.EPTPointer))
		hpa, f := v.Translate(leafPage+slotData, ept.LinearRead)
		seen[vmexit.Basic(r.Basic())]++
		if f.Kind != ept.NoFault {
			require.Equal(t, uint16(vmexit.EPTViolation), r.Basic())
			require.Equal(t, f.Qualification, vmexit.EPTViolationQualification(r.Get(vmcs.ExitQualification)))
			continue
		}
		require.Equal(t, uint16(vmexit.VMCALL), r.Basic())
		require.Equal(t, binary.LittleEndian.Uint32(r.pool.Bytes()[hpa-r.pool.Phys():]), uint32(r.Regs[asm.RAX]))
	}
	require.True(t, seen[vmexit.VMCALL] > 20 && seen[vmexit.EPTViolation] > 20, "%v", seen)
}

// machineMemory is the machine's memory.
type machineMemory struct{}

func (machineMemory) ReadPhysical(addr uint64) (uint64, error) {
	b, err := ring0.Physical(addr, 8)
	if err != nil {
		return 0, err
	}
	return binary.LittleEndian.Uint64(b), nil
}

// TestSubPages: writes that Translate leaves to the sub-page permission table go as
// LookupSubPage says (SDM Vol. 3C 29.3.4).
func TestSubPages(t *testing.T) {
	m := vmtest.Start(t)
	if !vmtest.Has(m, vmcs.SecondarySubPageWritePermissionsForEPT) {
		t.Skip("no sub-page write permissions")
	}
	r := newRig(m, vmtest.ModeLong, ept.Mode{SubPageWrite: true}, 1)
	memory := r.Pages(8)
	arena, err := ept.NewArena(memory.Bytes(), memory.Phys())
	require.NoError(t, err)
	table, err := ept.NewSubPageTable(arena, r.mode.PhysicalAddressBits)
	require.NoError(t, err)
	vmtest.SetControls(r.Guest, vmcs.SecondarySubPageWritePermissionsForEPT)
	r.Set(vmcs.SubPagePermissionTable, table.Pointer())
	i, err := r.space.Protect(leafPage, 0x4000, ept.Read|ept.SubPageWrite, ept.All)
	require.NoError(t, err)
	r.invalidate(i)
	r.sync()
	count := map[string]int{}
	for round := range 200 {
		gpa := leafPage + uint64(r.rand.IntN(4))<<12 + uint64(r.rand.IntN(256))*slotSize + slotData
		if round > 10 && round%4 == 0 {
			_, err := table.Set(gpa&^0xfff, ept.SubPages(r.rand.Uint32()))
			require.NoError(t, err)
		}
		_, f := r.space.View(0).Translate(gpa, ept.LinearWrite)
		require.True(t, f.SubPage, "%v", f)
		vector, result, err := ept.LookupSubPage(machineMemory{}, table.Pointer(), gpa, r.mode.PhysicalAddressBits)
		require.NoError(t, err)
		o := r.run(write, gpa, r.rand.Uint32())
		switch {
		case result != ept.SubPageFound:
			require.Equal(t, vmexit.SPPEvent, o.reason)
			require.Equal(t, result.Qualification(), vmexit.SPPQualification(r.Get(vmcs.ExitQualification)))
		case vector.Writable(gpa, 4):
			require.Equal(t, vmexit.VMCALL, o.reason)
		default:
			require.Equal(t, vmexit.EPTViolation, o.reason)
			require.Equal(t, f.Qualification, vmexit.EPTViolationQualification(o.qualification))
		}
		count[o.reason.String()]++
	}
	t.Log(count)
	require.Len(t, count, 3)
}
