package ept

import (
	"errors"
	"fmt"

	"github.com/govtx/vtx/vmcs"
)

// ErrNoEPT is the error for a VMCS whose control "enable EPT" is 0.
var ErrNoEPT = errors.New("EPT is not in use: the control “enable EPT” is 0")

// A Mode is what gives entries their meaning: what the processor can do, and the
// controls in use.
type Mode struct {
	Capabilities        vmcs.EPTVPID
	PhysicalAddressBits uint8 // MAXPHYADDR: 32 to 52
	KeyBits             uint8 // the upper bits of it that total memory encryption uses for keys
	Levels              uint8 // 4 or 5; 0 is 4

	// Bits 6 and 7 of the EPTP.
	AccessedDirty         bool // accessed and dirty flags
	SupervisorShadowStack bool // supervisor shadow-stack control

	// Secondary processor-based controls.
	ModeBasedExecute bool // mode-based execute control for EPT
	SubPageWrite     bool // sub-page write permissions for EPT
	ViolationVE      bool // EPT-violation #VE

	// Tertiary processor-based controls.
	PagingWrite       bool // EPT paging-write control
	VerifyGuestPaging bool // guest-paging verification
}

// TopLevel returns the level of the root table's entries: PML4E or PML5E.
func (m *Mode) TopLevel() Level {
	if m.Levels == 5 {
		return PML5E
	}
	return PML4E
}

// LargestPage returns the highest level whose entries can map pages, as can those of the
// levels below: PDPTE, PDE or PTE.
func (m *Mode) LargestPage() Level {
	l := PTE
	for l < PDPTE && m.CanMap(l+1) {
		l++
	}
	return l
}

// CanMap reports whether entries of a level can map pages on this processor.
func (m *Mode) CanMap(l Level) bool {
	return l == PTE || l == PDE && m.Capabilities.Pages2M() || l == PDPTE && m.Capabilities.Pages1G()
}

// AddressLimit returns the first guest-physical address that EPT cannot translate: by
// the number of levels (2⁴⁸ or 2⁵⁷), and by MAXPHYADDR, which limits guest-physical
// addresses too, whatever of it memory encryption uses (SDM Vol. 3C 29.3.1).
func (m *Mode) AddressLimit() uint64 {
	return 1 << min(m.TopLevel().Shift()+9, uint(m.PhysicalAddressBits), 52)
}

// PhysicalLimit returns the first physical address that an entry cannot have.
func (m *Mode) PhysicalLimit() uint64 { return 1 << m.PhysicalBits() }

// PhysicalBits returns the width of the addresses that entries can have: MAXPHYADDR
// without the bits for keys, at most the 52 that an entry has room for.
func (m *Mode) PhysicalBits() uint8 {
	bits := min(m.PhysicalAddressBits, 52)
	return bits - min(m.KeyBits, bits)
}

// presentMask has the bits of which one is 1 in an entry that is present.
func (m *Mode) presentMask() Entry {
	if m.ModeBasedExecute {
		return All | ExecuteUser
	}
	return All
}

// Validate returns an error that names what the capabilities do not allow.
func (m *Mode) Validate() error {
	c := m.Capabilities
	switch {
	case m.PhysicalAddressBits < 32 || m.PhysicalAddressBits > 52:
		return fmt.Errorf("ept: MAXPHYADDR (CPUID leaf 0x80000008 EAX[7:0]) must be 32 to 52, not %d", m.PhysicalAddressBits)
	case m.KeyBits > m.PhysicalAddressBits-32:
		return fmt.Errorf("ept: %d of the %d bits of physical addresses cannot be for keys: IA32_TME_ACTIVATE[39:36] has at most 15, and 32 must be left", m.KeyBits, m.PhysicalAddressBits)
	case m.Levels != 0 && m.Levels != 4 && m.Levels != 5:
		return fmt.Errorf("ept: EPT has 4 or 5 levels, not %d", m.Levels)
	case m.TopLevel() == PML4E && !c.Walk4():
		return unsupported("4-level EPT", 6)
	case m.TopLevel() == PML5E && !c.Walk5():
		return unsupported("5-level EPT", 7)
	case m.AccessedDirty && !c.AccessedDirty():
		return unsupported("accessed and dirty flags for EPT (EPTP[6])", 21)
	case m.SupervisorShadowStack && !c.SupervisorShadowStack():
		return unsupported("supervisor shadow-stack control (EPTP[7])", 23)
	}
	return nil
}

func unsupported(what string, bit int) error {
	return fmt.Errorf("ept: the processor does not support %s: IA32_VMX_EPT_VPID_CAP[%d] is 0 (SDM Vol. 3D A.10)", what, bit)
}

// NewMode returns the plain mode of a processor: four levels, and none of what controls
// and the EPT pointer can turn on.
func NewMode(c *vmcs.Capabilities) Mode {
	m := Mode{Capabilities: c.EPTVPID, PhysicalAddressBits: c.CPU.PhysicalAddressBits, KeyBits: c.CPU.KeyBits}
	if m.PhysicalAddressBits == 0 { // of a processor that is not known in full
		m.PhysicalAddressBits = 52
	}
	return m
}

// ModeOf returns the mode and the EPT pointer that a VMCS has. The error is
// [ErrNoEPT] if it does not use EPT; else it names the field that cannot be read, or
// what the processor does not support.
func ModeOf(r vmcs.Reader, c *vmcs.Capabilities) (Mode, Pointer, error) {
	if c == nil {
		return Mode{}, 0, errors.New("ept: the mode of a VMCS needs capabilities; vmcs.DumpProcessor has some for dumps")
	}
	primary, err := r.Read(vmcs.PrimaryProcessorBasedControls)
	if err != nil {
		return Mode{}, 0, fmt.Errorf("ept: %w", err)
	}
	var secondary vmcs.SecondaryControls
	var tertiary vmcs.TertiaryControls
	if vmcs.PrimaryControls(primary)&vmcs.PrimaryActivateSecondaryControls != 0 {
		v, err := r.Read(vmcs.SecondaryProcessorBasedControls)
		if err != nil {
			return Mode{}, 0, fmt.Errorf("ept: %w", err)
		}
		secondary = vmcs.SecondaryControls(v)
	}
	if secondary&vmcs.SecondaryEnableEPT == 0 {
		return Mode{}, 0, fmt.Errorf("ept: %w", ErrNoEPT)
	}
	if vmcs.PrimaryControls(primary)&vmcs.PrimaryActivateTertiaryControls != 0 {
		v, err := r.Read(vmcs.TertiaryProcessorBasedControls)
		if err != nil {
			return Mode{}, 0, fmt.Errorf("ept: %w", err)
		}
		tertiary = vmcs.TertiaryControls(v)
	}
	v, err := r.Read(vmcs.EPTPointer)
	if err != nil {
		return Mode{}, 0, fmt.Errorf("ept: %w", err)
	}
	p := Pointer(v)
	m := NewMode(c)
	m.Levels = uint8(p.Levels())
	m.AccessedDirty = p.AccessedDirty()
	m.SupervisorShadowStack = p.SupervisorShadowStack()
	m.ModeBasedExecute = secondary&vmcs.SecondaryModeBasedExecuteControlForEPT != 0
	m.SubPageWrite = secondary&vmcs.SecondarySubPageWritePermissionsForEPT != 0
	m.ViolationVE = secondary&vmcs.SecondaryEPTViolationVE != 0
	m.PagingWrite = tertiary&vmcs.TertiaryEPTPagingWriteControl != 0
	m.VerifyGuestPaging = tertiary&vmcs.TertiaryGuestPagingVerification != 0
	return m, p, p.Validate(&m)
}
