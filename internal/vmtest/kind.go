package vmtest

import (
	"encoding/binary"

	"github.com/govtx/vtx/asm"
	"github.com/govtx/vtx/internal/require"
	"github.com/govtx/vtx/ring0"
	"github.com/govtx/vtx/vmcs"
)

// A Mode is an operating mode of a guest.
type Mode uint8

// The modes.
const (
	ModeLong          Mode = iota // 64-bit mode
	ModeCompatibility             // IA-32e mode, 32-bit code
	ModePAE                       // protected mode with PAE paging
	ModePaged                     // protected mode with 32-bit paging
	ModeVirtual8086               // in ModePaged
	ModeProtected                 // protected mode, 32-bit code, no paging
	ModeProtected16               // the same with 16-bit code and stack
	ModeReal                      // real-address mode
)

var modeNames = [...]string{"64-bit", "compatibility", "PAE", "32-bit paging", "virtual-8086", "protected", "16-bit protected", "real-address"}

func (m Mode) String() string { return modeNames[m] }

type paging uint8

const (
	pagingNone paging = iota
	paging32
	pagingPAE
	pagingLong
)

func (m Mode) paging() paging {
	switch m {
	case ModeLong, ModeCompatibility:
		return pagingLong
	case ModePAE:
		return pagingPAE
	case ModePaged, ModeVirtual8086:
		return paging32
	}
	return pagingNone
}

func (m Mode) long() bool { return m.paging() == pagingLong }

// A Kind is a kind of guest.
type Kind struct {
	Mode         Mode
	EPT          bool
	Unrestricted bool // "unrestricted guest"; needs EPT
}

// Kinds that tests name most.
var (
	Long      = Kind{ModeLong, true, false}
	LongNoEPT = Kind{ModeLong, false, false}
	Real      = Kind{ModeReal, true, true}
)

// String names the kind.
func (k Kind) String() string {
	s := k.Mode.String()
	if k.EPT {
		s += ", EPT"
	}
	if k.Unrestricted {
		s += ", unrestricted"
	}
	return s
}

// Kinds are the kinds of guests that this processor can run.
func (m *Machine) Kinds() (kinds []Kind) {
	for mode := ModeLong; mode <= ModeReal; mode++ {
		for _, k := range []Kind{{mode, false, false}, {mode, true, false}, {mode, true, true}} {
			switch {
			case k.EPT && !Has(m, vmcs.SecondaryEnableEPT):
			case k.Unrestricted && !Has(m, vmcs.SecondaryUnrestrictedGuest):
			case !k.Unrestricted && mode.paging() == pagingNone: // CR0.PG must be 1
			default:
				kinds = append(kinds, k)
			}
		}
	}
	return kinds
}

// The segment registers, as VMCS fields number them: field GuestESSelector + 2*n
// is a selector, and so on.
const (
	ES = iota
	CS
	SS
	DS
	FS
	GS
	LDTR
	TR
)

// Controls sets bits in the control field of an image, beside those that it has
// and those that the processor insists on. Bits that the processor lacks fail
// the test.
func Controls[C control](m *Machine, image *vmcs.Image, bits C) {
	m.Helper()
	require.True(m, Has(m, bits), "this processor does not allow all of: %v", bits)
	f := controlFields[bits.ControlGroup()]
	v, _ := image.Get(f)
	image.Set(f, v|uint64(bits)|m.Caps.Controls[bits.ControlGroup()].Must1)
}

// wish is Controls for those of the bits that the processor allows.
func wish[C control](m *Machine, image *vmcs.Image, bits C) {
	Controls(m, image, bits&C(m.Caps.Controls[bits.ControlGroup()].May1))
}

var controlFields = [vmcs.NumControlGroups]vmcs.Field{
	vmcs.GroupPin:           vmcs.PinBasedControls,
	vmcs.GroupPrimary:       vmcs.PrimaryProcessorBasedControls,
	vmcs.GroupSecondary:     vmcs.SecondaryProcessorBasedControls,
	vmcs.GroupTertiary:      vmcs.TertiaryProcessorBasedControls,
	vmcs.GroupExit:          vmcs.PrimaryVMExitControls,
	vmcs.GroupSecondaryExit: vmcs.SecondaryVMExitControls,
	vmcs.GroupEntry:         vmcs.VMEntryControls,
	vmcs.GroupVMFunctions:   vmcs.VMFunctionControls,
}

// image is a VMCS for a guest of this kind with this memory, in which every
// field that the processor has is there. HLT and every exception exit.
func (m *Machine) image(k Kind, mem *memory, ept *EPT) *vmcs.Image {
	m.Helper()
	image := new(vmcs.Image)
	image.Fill(m.Caps)
	m.controls(image, k, ept)
	m.hostState(image)
	m.guestState(image, k, mem)
	m.guestSegments(image, k)
	return image
}

func (m *Machine) controls(image *vmcs.Image, k Kind, ept *EPT) {
	m.Helper()
	Controls(m, image, vmcs.PinControls(0))
	Controls(m, image, vmcs.PrimaryHLTExiting)
	Controls(m, image, vmcs.ExitHostAddressSpaceSize)
	Controls(m, image, vmcs.EntryControls(0))
	wish(m, image, vmcs.ExitSaveIA32EFER|vmcs.ExitLoadIA32EFER)
	wish(m, image, vmcs.EntryLoadIA32EFER|vmcs.EntryLoadDebugControls)
	if k.Mode.long() {
		Controls(m, image, vmcs.EntryIA32eModeGuest)
	}
	if Has(m, vmcs.PrimaryActivateSecondaryControls) {
		Controls(m, image, vmcs.PrimaryActivateSecondaryControls)
		wish(m, image, vmcs.SecondaryEnableRDTSCP|vmcs.SecondaryEnableINVPCID|vmcs.SecondaryEnableXSAVESXRSTORS)
	}
	if k.EPT {
		Controls(m, image, vmcs.SecondaryEnableEPT)
		image.Set(vmcs.EPTPointer, ept.Pointer())
	}
	if k.Unrestricted {
		Controls(m, image, vmcs.SecondaryUnrestrictedGuest)
	}
	image.Set(vmcs.ExceptionBitmap, 0xffffffff)
	image.Set(vmcs.VMCSLinkPointer, ^uint64(0))
}

// hostState is this thread, as it is now (SDM Vol. 3C 25.5).
func (m *Machine) hostState(image *vmcs.Image) {
	m.Helper()
	gdt, idt, tr := asm.SGDT(), asm.SIDT(), asm.STR()
	for n, selector := range [...]uint16{asm.ReadES(), asm.ReadCS(), asm.ReadSS(), asm.ReadDS(), asm.ReadFS(), asm.ReadGS(), tr} {
		image.Set(vmcs.HostESSelector+vmcs.Field(2*n), uint64(selector&^7))
	}
	d, err := ring0.Physical(gdt.Base+uint64(tr&^7), 16)
	require.NoError(m, err)
	low, high := binary.LittleEndian.Uint64(d), binary.LittleEndian.Uint64(d[8:])
	for _, f := range []struct {
		field vmcs.Field
		value uint64
	}{
		{vmcs.HostCR0, asm.ReadCR0()}, {vmcs.HostCR3, asm.ReadCR3()}, {vmcs.HostCR4, asm.ReadCR4()},
		{vmcs.HostFSBase, asm.RDMSR(msrFSBase)}, {vmcs.HostGSBase, asm.RDMSR(msrGSBase)},
		{vmcs.HostTRBase, low>>16&0xffffff | low>>56<<24 | high<<32}, // SDM Vol. 3A 8.2.3
		{vmcs.HostGDTRBase, gdt.Base}, {vmcs.HostIDTRBase, idt.Base},
		{vmcs.HostSysenterCS, asm.RDMSR(msrSysenterCS)}, {vmcs.HostSysenterESP, asm.RDMSR(msrSysenterESP)},
		{vmcs.HostSysenterEIP, asm.RDMSR(msrSysenterEIP)},
		{vmcs.HostEFER, asm.RDMSR(msrEFER)}, {vmcs.HostPAT, asm.RDMSR(msrPAT)},
	} {
		if image.Has(f.field) {
			image.Set(f.field, f.value)
		}
	}
}

const flagsAlways = 1 << 1

func (m *Machine) guestState(image *vmcs.Image, k Kind, mem *memory) {
	cr0, cr4, efer := uint64(asm.CR0ET|asm.CR0NE|asm.CR0WP), uint64(0), uint64(0)
	fixed0 := m.Caps.CR0Fixed0
	if k.Unrestricted {
		fixed0 &^= asm.CR0PE | asm.CR0PG // SDM Vol. 3C 27.3.1.1
	}
	if k.Mode != ModeReal {
		cr0 |= asm.CR0PE
	}
	cr3 := mem.physical(TableRoot)
	switch k.Mode.paging() {
	case pagingLong:
		cr4, efer = asm.CR4PAE, asm.EFERLME|asm.EFERLMA
		cr0 |= asm.CR0PG
	case pagingPAE:
		cr4, cr3 = asm.CR4PAE, mem.physical(TablePDPT)
		cr0 |= asm.CR0PG
		if image.Has(vmcs.GuestPDPTE0) {
			image.Set(vmcs.GuestPDPTE0, mem.physical(TablePD)|1)
		}
	case paging32:
		cr0 |= asm.CR0PG
	}
	flags := uint64(flagsAlways)
	if k.Mode == ModeVirtual8086 {
		flags |= asm.FlagVM | asm.FlagIOPL
	}
	for _, f := range []struct {
		field vmcs.Field
		value uint64
	}{
		{vmcs.GuestCR0, (cr0 | fixed0) & m.Caps.CR0Fixed1}, {vmcs.GuestCR3, cr3},
		{vmcs.GuestCR4, (cr4 | m.Caps.CR4Fixed0) & m.Caps.CR4Fixed1},
		{vmcs.GuestEFER, efer}, {vmcs.GuestPAT, 0x0007040600070406},
		{vmcs.GuestRFLAGS, flags}, {vmcs.GuestDR7, 0x400},
		{vmcs.GuestRIP, Code}, {vmcs.GuestRSP, StackTop - 16},
	} {
		if image.Has(f.field) {
			image.Set(f.field, f.value)
		}
	}
}

// guestSegments gives flat segments, whose descriptors are in the guest's GDT
// (SDM Vol. 3C 25.4.1, 27.3.1.2).
func (m *Machine) guestSegments(image *vmcs.Image, k Kind) {
	const (
		code64   = 0xa09b // access rights: present, code, read, accessed, L, G
		code32   = 0xc09b // the same, D
		code16   = 0x009b
		data32   = 0xc093
		data16   = 0x0093
		user16   = 0x00f3
		busyTSS  = 0x008b
		unusable = 1 << 16
	)
	type segment struct{ selector, limit, rights uint64 }
	const all = 0xffffffff
	code, data := segment{SelectorCode32, all, code32}, segment{SelectorData, all, data32}
	gdt, idt, idtLimit := uint64(GDT), uint64(IDT), uint64(256*8-1)
	switch k.Mode {
	case ModeLong:
		code = segment{SelectorCode64, all, code64}
	case ModeProtected16:
		code, data = segment{SelectorCode16, 0xffff, code16}, segment{SelectorData16, 0xffff, data16}
	case ModeVirtual8086:
		code, data = segment{0, 0xffff, user16}, segment{0, 0xffff, user16}
	case ModeReal:
		code, data = segment{0, 0xffff, code16}, segment{0, 0xffff, data16}
		idt, idtLimit = 0, 0x3ff
	}
	if k.Mode.long() {
		idtLimit = 256*16 - 1
	}
	for n := range vmcs.Field(8) {
		s := data
		switch n {
		case CS:
			s = code
		case LDTR:
			s = segment{0, 0, unusable}
		case TR:
			s = segment{SelectorTSS, 0x67, busyTSS}
			image.Set(vmcs.GuestTRBase, TSS)
		}
		image.Set(vmcs.GuestESSelector+2*n, s.selector)
		image.Set(vmcs.GuestESLimit+2*n, s.limit)
		image.Set(vmcs.GuestESAccessRights+2*n, s.rights)
	}
	image.Set(vmcs.GuestGDTRBase, gdt)
	image.Set(vmcs.GuestGDTRLimit, gdtSize-1)
	image.Set(vmcs.GuestIDTRBase, idt)
	image.Set(vmcs.GuestIDTRLimit, idtLimit)
}
