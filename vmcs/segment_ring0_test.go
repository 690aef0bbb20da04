package vmcs_test

import (
	"encoding/binary"
	"testing"

	"pgregory.net/rapid"

	"github.com/govtx/vtx/asm"
	"github.com/govtx/vtx/internal/require"
	"github.com/govtx/vtx/internal/ring0test"
	"github.com/govtx/vtx/internal/vmtest"
	"github.com/govtx/vtx/ring0"
	"github.com/govtx/vtx/vmcs"
)

// TestSegmentsOnVTx: what a guest loads from its GDT is what Load says, and what
// the guest-state area has after an exit; LAR and LSL agree.
func TestSegmentsOnVTx(t *testing.T) {
	m := vmtest.Start(t)
	larLSL := []byte{
		0x0f, 0x02, 0xc3, // LAR EAX, EBX
		0x9c,             // PUSHF
		0x5a,             // POP RDX
		0x0f, 0x03, 0xcb, // LSL ECX, EBX
	}
	with := func(load ...byte) []byte { return append(load, larLSL...) }
	registers := []vmcs.SegmentRegister{vmcs.ES, vmcs.SS, vmcs.DS, vmcs.FS, vmcs.GS, vmcs.LDTR, vmcs.TR}
	code, at := snippets(
		with(0x8e, 0xc3),       // MOV ES, BX
		with(0x8e, 0xd3),       // MOV SS, BX
		with(0x8e, 0xdb),       // MOV DS, BX
		with(0x8e, 0xe3),       // MOV FS, BX
		with(0x8e, 0xeb),       // MOV GS, BX
		with(0x0f, 0x00, 0xd3), // LLDT BX
		with(0x0f, 0x00, 0xdb), // LTR BX
	)
	const selector = 0x80 // behind what the guest itself needs
	for _, k := range []vmtest.Kind{vmtest.LongNoEPT, {Mode: vmtest.ModeProtected, EPT: true, Unrestricted: true}} {
		long := k.Mode == vmtest.ModeLong
		g := vm{m.NewGuest(k, code...)}
		const limit = selector + 15
		g.Set(vmcs.GuestGDTRLimit, limit)
		original, err := vmcs.ReadSegments(vmcs.Current{})
		require.NoError(t, err)
		tables := vmcs.DescriptorTables{GDT: g.Memory[vmtest.GDT:][:limit+1], IA32e: long}

		// The guest's own segments, at first: the descriptors are those of its GDT.
		for r := range vmcs.SegmentRegister(vmcs.NumSegmentRegisters) {
			s := original[r]
			if s.Rights.Unusable() {
				continue
			}
			want, err := tables.Load(s.Selector)
			require.NoError(t, err, r.String())
			require.Equal(t, want, s, r.String())
		}
		faults := 0
		rapid.Check(t, func(t *rapid.T) {
			i := rapid.IntRange(0, len(registers)-1).Draw(t, "register")
			r := registers[i]
			granular := rapid.Bool().Draw(t, "G")
			s := vmcs.Segment{
				Selector: selector,
				Limit:    vmcs.ScaleLimit(rapid.Uint32().Draw(t, "limit"), granular),
				Base:     uint64(rapid.Uint32().Draw(t, "base")),
			}
			switch {
			case r == vmcs.LDTR:
				s.Rights = vmcs.Rights(vmcs.TypeLDT, false, uint8(rapid.IntRange(0, 3).Draw(t, "DPL")))
			case r == vmcs.TR:
				s.Rights = vmcs.Rights(vmcs.TypeTSSAvailable, false, uint8(rapid.IntRange(0, 3).Draw(t, "DPL")))
				s.Limit |= 0x67
			case r == vmcs.SS:
				s.Rights = vmcs.Rights(vmcs.TypeWritable, true, 0) | vmcs.RightsDB
				s.Base = 0
				s.Limit |= 0xfffff // the stack is in it
			default:
				types := []vmcs.SegmentType{0, vmcs.TypeWritable, vmcs.TypeExpandDown, vmcs.TypeExpandDown | vmcs.TypeWritable, vmcs.TypeCode | vmcs.TypeReadable}
				s.Rights = vmcs.Rights(rapid.SampledFrom(types).Draw(t, "type"), true, uint8(rapid.IntRange(0, 3).Draw(t, "DPL")))
				s.Rights |= vmcs.AccessRights(rapid.Uint32().Draw(t, "rights")) & (vmcs.RightsDB)
			}
			s.Rights |= vmcs.AccessRights(rapid.Uint32().Draw(t, "AVL")) & vmcs.RightsAVL
			if granular {
				s.Rights |= vmcs.RightsG
			}
			if long && s.Rights.System() {
				s.Base = uint64(int64(rapid.Uint64().Draw(t, "base of 64 bits")) << 16 >> 16)
				s.Base &^= 0x1f << 40 // which would be its second half's type
				s.Base = uint64(int64(s.Base) << 16 >> 16)
			}
			if rapid.IntRange(0, 7).Draw(t, "not present") == 0 {
				s.Rights &^= vmcs.RightsP
			}
			low, high, err := s.Descriptor()
			require.NoError(t, err)
			require.Equal(t, s.Rights&vmcs.RightsAVL != 0, low>>52&1 != 0)
			if !long {
				high = 0
			}
			d := tables.GDT[selector:]
			binary.LittleEndian.PutUint64(d, low)
			binary.LittleEndian.PutUint64(d[8:], high)

			load := uint16(selector)
			if rapid.IntRange(0, 7).Draw(t, "beyond") == 0 {
				load = limit + 1
			}
			require.NoError(t, original.Write(vmcs.Current{}))
			g.Set(vmcs.GuestInterruptibilityState, 0)
			g.Regs[asm.RAX], g.Regs[asm.RBX] = 0, uint64(load)
			got := g.from(at[i])
			want, err := tables.Load(load) // the processor has set the accessed or busy bit
			if err != nil {
				faults++
				require.Equal(t, uint16(reasonException), got, "%v: %v", r, err)
				return
			}
			require.Equal(t, uint16(reasonVMCALL), got, "%v: %v", r, s)
			loaded, err := vmcs.ReadSegment(vmcs.Current{}, r)
			require.NoError(t, err)
			require.Equal(t, want, loaded, "%v", r)
			require.NoError(t, loaded.LimitError())
			marked := s.Rights.Type() | vmcs.TypeAccessed
			switch r {
			case vmcs.LDTR:
				marked = vmcs.TypeLDT
			case vmcs.TR:
				marked = vmcs.TypeTSSBusy
			}
			require.Equal(t, marked, loaded.Rights.Type())

			rights := vmcs.RightsFromLAR(uint32(g.Regs[asm.RAX]), g.Regs[asm.RDX]&flagZF != 0)
			require.Equal(t, loaded.Rights, rights, "%v: LAR", r)
			require.Equal(t, loaded.Limit, uint32(g.Regs[asm.RCX]), "%v: LSL", r)
		})
		require.Greater(t, faults, 0)
	}
}

// TestSegmentsOfTheHost: LAR, LSL and the GDT of ring 0 itself agree with Load.
func TestSegmentsOfTheHost(t *testing.T) {
	ring0test.Need(t)
	gdt := asm.SGDT()
	mem, err := ring0.Physical(gdt.Base, int(gdt.Limit)+1)
	require.NoError(t, err)
	tables := vmcs.DescriptorTables{GDT: mem, IA32e: true}
	for name, selector := range map[string]uint16{"CS": asm.ReadCS(), "TR": asm.STR()} {
		s, err := tables.Load(selector)
		require.NoError(t, err, name)
		lar, zf := asm.LAR(selector)
		require.Equal(t, s.Rights, vmcs.RightsFromLAR(lar, zf), name)
		limit, ok := asm.LSL(selector)
		require.True(t, ok)
		require.Equal(t, s.Limit, limit, name)
	}
}
