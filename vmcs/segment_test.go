package vmcs_test

import (
	"encoding/binary"
	"testing"

	"pgregory.net/rapid"

	"github.com/govtx/vtx/internal/require"
	"github.com/govtx/vtx/vmcs"
)

// TestDescriptors: descriptors with well-known values, both ways.
func TestDescriptors(t *testing.T) {
	for _, c := range []struct {
		low, high uint64
		segment   vmcs.Segment
		rights    string
	}{
		{0x00af9b000000ffff, 0, vmcs.FlatCode64(8), "execute/read accessed, DPL 0, P, L, G"},
		{0x00affb000000ffff, 0, vmcs.FlatCode64(0x33), "execute/read accessed, DPL 3, P, L, G"},
		{0x00cf9b000000ffff, 0, vmcs.FlatCode32(0x10), "execute/read accessed, DPL 0, P, D/B, G"},
		{0x00cff3000000ffff, 0, vmcs.FlatData(0x2b), "read/write accessed, DPL 3, P, D/B, G"},
		{0x00009312ab00ffff, 0, vmcs.Segment{Selector: 8, Base: 0x12ab00, Limit: 0xffff, Rights: 0x93}, "read/write accessed, DPL 0, P"},
		{0x12008b3456780067, 0xffff8000, vmcs.TaskState(0x40, 0xffff800012345678, 0x67), "TSS busy, DPL 0, P"},
		{0x12008234567800ff, 0, vmcs.LocalTable(0x48, 0x12345678, 0xff), "LDT, DPL 0, P"},
		{0x0047f2000000abcd, 0, vmcs.Segment{Selector: 0x13, Limit: 0x7abcd, Rights: 0x40f2}, "read/write, DPL 3, P, D/B"},
		{0x00df96000000fff0, 0, vmcs.Segment{Selector: 0x18, Limit: 0xffff0fff, Rights: 0xd096}, "read/write expand-down, DPL 0, P, AVL, D/B, G"},
	} {
		require.Equal(t, c.segment, vmcs.SegmentFromDescriptor(c.segment.Selector, c.low, c.high))
		low, high, err := c.segment.Descriptor()
		require.NoError(t, err)
		require.Equal(t, [2]uint64{c.low, c.high}, [2]uint64{low, high}, c.rights)
		require.Equal(t, c.rights, c.segment.Rights.String())
		require.NoError(t, c.segment.LimitError())
	}
	require.Equal(t, "sel=0x0010, attr=0x0a09b, limit=0xffffffff, base=0x0000000000000000 (execute/read accessed, DPL 0, P, L, G)",
		vmcs.FlatCode64(0x10).String())
	low, high, err := vmcs.UnusableSegment().Descriptor()
	require.NoError(t, err)
	require.Zero(t, low|high)
	require.Equal(t, "unusable", vmcs.UnusableSegment().Rights.String())
	require.Equal(t, vmcs.Segment{Selector: 0xf000, Base: 0xf0000, Limit: 0xffff, Rights: 0x93}, vmcs.RealModeSegment(0xf000))
	require.Equal(t, vmcs.Segment{Selector: 0x1234, Base: 0x12340, Limit: 0xffff, Rights: 0xf3}, vmcs.Virtual8086Segment(0x1234))
}

// accessRights: any value prints and parses, and its parts are those of the
// manual's table.
func accessRights(t *rapid.T) {
	r := vmcs.AccessRights(rapid.Uint32().Draw(t, "rights"))
	if rapid.Bool().Draw(t, "usual") {
		r &= 0x1f0ff
	}
	text, err := r.MarshalText()
	require.NoError(t, err)
	var back vmcs.AccessRights
	require.NoError(t, back.UnmarshalText(text), string(text))
	require.Equal(t, r, back, string(text))
	n, err := vmcs.ParseAccessRights(hex(int(r)))
	require.NoError(t, err)
	require.Equal(t, r, n)

	require.Equal(t, r&0xf, vmcs.AccessRights(r.Type()))
	require.Equal(t, r>>5&3, vmcs.AccessRights(r.DPL()))
	require.Equal(t, r&0x80 != 0, r.Present())
	require.Equal(t, r&0x10 == 0, r.System())
	require.Equal(t, r&0x18 == 0x18, r.Code())
	require.Equal(t, r&0x18 == 0x10, r.Data())
	require.Equal(t, r&0x10000 != 0, r.Unusable())
	require.Equal(t, r&0xff|0x80, vmcs.Rights(r.Type(), !r.System(), r.DPL()))

	lar, zf := r.LAR()
	require.Equal(t, !r.Unusable(), zf)
	if zf {
		require.Equal(t, uint32(r&0xf0ff)<<8, lar)
		require.Equal(t, r&0xf0ff, vmcs.RightsFromLAR(lar|rapid.Uint32().Draw(t, "other")&^0xf0ff00, true))
	} else {
		require.Equal(t, vmcs.RightsUnusable, vmcs.RightsFromLAR(rapid.Uint32().Draw(t, "result"), false))
	}
}

func TestAccessRights(t *testing.T) { rapid.Check(t, accessRights) }
func FuzzAccessRights(f *testing.F) { f.Fuzz(rapid.MakeFuzz(accessRights)) }

func TestParseAccessRights(t *testing.T) {
	for text, want := range map[string]vmcs.AccessRights{
		"0xa09b": 0xa09b, "unusable": 1 << 16, "LDT,P": 0x82, "P, DPL 3": 0xe0, "bit 31, G": 1<<31 | 1<<15,
	} {
		r, err := vmcs.ParseAccessRights(text)
		require.NoError(t, err)
		require.Equal(t, want, r, text)
	}
	for _, text := range []string{"", "DPL 4", "DPL", "bit 32", "bit -1", "rwx", "P,,G", "0x100000000"} {
		_, err := vmcs.ParseAccessRights(text)
		require.ErrorContains(t, err, "access rights", text)
	}
}

// limits: the two forms of a limit, and the rule that binds it to the G bit.
func limits(t *rapid.T) {
	limit := rapid.Uint32().Draw(t, "limit")
	if rapid.Bool().Draw(t, "pages") {
		limit |= 0xfff
	}
	if rapid.Bool().Draw(t, "small") {
		limit &= 0xfffff
	}
	raw, g, ok := vmcs.UnscaleLimit(limit)
	require.Equal(t, limit < 1<<20 || limit%4096 == 4095, ok)
	require.Equal(t, limit >= 1<<20, g)
	if ok {
		require.Equal(t, limit, vmcs.ScaleLimit(raw, g))
	}
	require.Equal(t, limit%(1<<20), vmcs.ScaleLimit(limit, false))
	require.Equal(t, uint64(limit%(1<<20)+1)*4096-1, uint64(vmcs.ScaleLimit(limit, true)))

	for _, rights := range []vmcs.AccessRights{0x93, 0x8093} {
		s := vmcs.Segment{Limit: limit, Rights: rights}
		bad := false
		if rights&vmcs.RightsG == 0 {
			bad = limit >= 1<<20
		} else {
			bad = limit%4096 != 4095
		}
		require.Equal(t, bad, s.LimitError() != nil)
		_, _, err := s.Descriptor()
		require.Equal(t, bad, err != nil)
		s.Rights |= vmcs.RightsUnusable
		require.NoError(t, s.LimitError())
	}
}

func TestLimits(t *testing.T) { rapid.Check(t, limits) }
func FuzzLimits(f *testing.F) { f.Fuzz(rapid.MakeFuzz(limits)) }

func TestLimitErrors(t *testing.T) {
	require.ErrorContains(t, vmcs.Segment{Limit: 0xffffe, Rights: 0x8093}.LimitError(), "clear G")
	require.ErrorContains(t, vmcs.Segment{Limit: 0x100000, Rights: 0x93}.LimitError(), "set G")
}

// segments: a segment survives its descriptor, a table, and the fields.
func segments(t *rapid.T) {
	g := rapid.Bool().Draw(t, "G")
	s := vmcs.Segment{
		Selector: uint16(rapid.IntRange(1, 30).Draw(t, "index")<<3 | rapid.IntRange(0, 7).Draw(t, "TI and RPL")),
		Rights:   vmcs.AccessRights(rapid.Uint32().Draw(t, "rights"))&0x70ff | vmcs.RightsP,
		Limit:    vmcs.ScaleLimit(rapid.Uint32().Draw(t, "limit"), g),
		Base:     uint64(rapid.Uint32().Draw(t, "base")),
	}
	if g {
		s.Rights |= vmcs.RightsG
	}
	tables := vmcs.DescriptorTables{GDT: make([]byte, 32*8), LDT: make([]byte, 32*8), IA32e: rapid.Bool().Draw(t, "IA-32e")}
	if s.Rights.System() {
		s.Rights = s.Rights&^0xf | vmcs.AccessRights(rapid.SampledFrom([]vmcs.SegmentType{vmcs.TypeLDT, vmcs.TypeTSSAvailable, vmcs.TypeTSSBusy}).Draw(t, "type"))
		if tables.IA32e {
			s.Base = rapid.Uint64().Draw(t, "base of 64 bits")
			if s.Base>>40&0x1f != 0 { // keeps the second half's type 0
				s.Base &^= 0x1f << 40
			}
		}
	}
	low, high, err := s.Descriptor()
	require.NoError(t, err)
	table := tables.GDT
	if s.Selector&4 != 0 {
		table = tables.LDT
	}
	binary.LittleEndian.PutUint64(table[s.Selector&^7:], low)
	binary.LittleEndian.PutUint64(table[s.Selector&^7+8:], high)
	got, err := tables.Load(s.Selector)
	require.NoError(t, err)
	require.Equal(t, s, got)

	var all vmcs.Segments
	register := vmcs.SegmentRegister(rapid.IntRange(0, 7).Draw(t, "register"))
	all[register] = s
	var image vmcs.Image
	require.NoError(t, all.Write(&image))
	back, err := vmcs.ReadSegments(&image)
	require.NoError(t, err)
	require.Equal(t, all, back)
	for field, want := range map[vmcs.Field]uint64{
		vmcs.GuestESSelector + 2*vmcs.Field(register):     uint64(s.Selector),
		vmcs.GuestESBase + 2*vmcs.Field(register):         s.Base,
		vmcs.GuestESLimit + 2*vmcs.Field(register):        uint64(s.Limit),
		vmcs.GuestESAccessRights + 2*vmcs.Field(register): uint64(s.Rights),
	} {
		got, err := image.Read(field)
		require.NoError(t, err)
		require.Equal(t, want, got, field.String())
	}
	require.Contains(t, all.String(), register.String()+":")
	require.Contains(t, all.String(), s.String()+"\n")
}

func TestSegments(t *testing.T) { rapid.Check(t, segments) }
func FuzzSegments(f *testing.F) { f.Fuzz(rapid.MakeFuzz(segments)) }

func TestSegmentRegisters(t *testing.T) {
	for register, fields := range map[vmcs.SegmentRegister][4]vmcs.Field{
		vmcs.ES:   {vmcs.GuestESSelector, vmcs.GuestESBase, vmcs.GuestESLimit, vmcs.GuestESAccessRights},
		vmcs.CS:   {vmcs.GuestCSSelector, vmcs.GuestCSBase, vmcs.GuestCSLimit, vmcs.GuestCSAccessRights},
		vmcs.SS:   {vmcs.GuestSSSelector, vmcs.GuestSSBase, vmcs.GuestSSLimit, vmcs.GuestSSAccessRights},
		vmcs.DS:   {vmcs.GuestDSSelector, vmcs.GuestDSBase, vmcs.GuestDSLimit, vmcs.GuestDSAccessRights},
		vmcs.FS:   {vmcs.GuestFSSelector, vmcs.GuestFSBase, vmcs.GuestFSLimit, vmcs.GuestFSAccessRights},
		vmcs.GS:   {vmcs.GuestGSSelector, vmcs.GuestGSBase, vmcs.GuestGSLimit, vmcs.GuestGSAccessRights},
		vmcs.LDTR: {vmcs.GuestLDTRSelector, vmcs.GuestLDTRBase, vmcs.GuestLDTRLimit, vmcs.GuestLDTRAccessRights},
		vmcs.TR:   {vmcs.GuestTRSelector, vmcs.GuestTRBase, vmcs.GuestTRLimit, vmcs.GuestTRAccessRights},
	} {
		require.Equal(t, fields, [4]vmcs.Field{register.Selector(), register.Base(), register.Limit(), register.AccessRights()})
		require.Contains(t, fields[0].String(), register.String())
		for _, f := range fields {
			require.ErrorIs(t, new(vmcs.Segments).Write(refusing{f}), errRefused)
			var image vmcs.Image
			require.NoError(t, new(vmcs.Segments).Write(&image))
			image.Delete(f)
			_, err := vmcs.ReadSegments(&image)
			require.ErrorContains(t, err, f.String())
		}
	}
	require.Equal(t, "SegmentRegister(8)", vmcs.SegmentRegister(8).String())
}

// TestLoadErrors: what a selector cannot be loaded from, and what the error says.
func TestLoadErrors(t *testing.T) {
	gdt := make([]byte, 0x58)
	for selector, descriptor := range map[int]uint64{
		0x08: 0x00af9b000000ffff, // code
		0x10: 0x00cf13000000ffff, // data, not present
		0x18: 0x00008c0000000000, // call gate
		0x20: 0x0000830000000067, // 16-bit TSS
		0x28: 0x00008b0000000067, // TSS
		0x38: 0x0000820000000000, // LDT
		0x48: 0x0000850000000000, // task gate
		0x50: 0x0000890000000067, // TSS, half of it beyond the table
	} {
		binary.LittleEndian.PutUint64(gdt[selector:], descriptor)
	}
	binary.LittleEndian.PutUint32(gdt[0x34:], 0x1f00) // the second half of the one at 0x28
	for _, c := range []struct {
		selector      uint16
		legacy, ia32e string // parts of the errors
	}{
		{0x08, "", ""},
		{0x0b, "", ""},
		{0x10, "not present", "not present"},
		{0x18, "call gate", "call gate"},
		{0x20, "", "16-bit TSS"},
		{0x28, "", "bits 12:8"},
		{0x38, "", ""},
		{0x40, "system type 0", "system type 0"},
		{0x48, "task gate", "task gate"},
		{0x50, "", "16-byte"},
		{0x58, "byte 96", "byte 96"},
		{0xfff8, "has 88", "has 88"},
		{0x0c, "index 1 of the LDT", "index 1 of the LDT"},
		{0x04, "index 0 of the LDT", "index 0 of the LDT"},
	} {
		for ia32e, part := range map[bool]string{false: c.legacy, true: c.ia32e} {
			tables := vmcs.DescriptorTables{GDT: gdt, IA32e: ia32e}
			s, err := tables.Load(c.selector)
			if part == "" {
				require.NoError(t, err, "selector 0x%x, %v", c.selector, ia32e)
				require.Equal(t, c.selector, s.Selector)
				continue
			}
			require.ErrorContains(t, err, part)
			require.ErrorContains(t, err, "selector "+hex(int(c.selector)))
			var selector *vmcs.SelectorError
			require.ErrorAs(t, err, &selector)
			require.Equal(t, c.selector, selector.Selector)
		}
	}
	for null := range uint16(4) {
		s, err := new(vmcs.DescriptorTables).Load(null)
		require.NoError(t, err)
		require.Equal(t, vmcs.Segment{Selector: null, Rights: vmcs.RightsUnusable}, s)
	}
}

// hostileTables: any bytes and any selector give a segment or an error.
func hostileTables(t *rapid.T) {
	tables := vmcs.DescriptorTables{
		GDT:   rapid.SliceOfN(rapid.Byte(), 0, 64).Draw(t, "GDT"),
		LDT:   rapid.SliceOfN(rapid.Byte(), 0, 64).Draw(t, "LDT"),
		IA32e: rapid.Bool().Draw(t, "IA-32e"),
	}
	s, err := tables.Load(uint16(rapid.IntRange(0, 0x50).Draw(t, "selector")))
	if err != nil {
		require.Zero(t, s)
		return
	}
	require.NoError(t, s.LimitError())
	require.Equal(t, !s.Rights.Unusable(), s.Rights.Present())
}

func TestHostileTables(t *testing.T) { rapid.Check(t, hostileTables) }
func FuzzHostileTables(f *testing.F) { f.Fuzz(rapid.MakeFuzz(hostileTables)) }
