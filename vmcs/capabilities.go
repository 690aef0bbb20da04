package vmcs

import (
	"errors"
	"fmt"
)

// Reasons why the capabilities cannot be read, or VMX not be used.
var (
	// ErrNoVMX: CPUID leaf 1 ECX bit 5 is 0.
	ErrNoVMX = errors.New("the processor has no VMX, or what runs beneath hides it (CPUID leaf 1 ECX bit 5 is 0)")

	// ErrVMXLockedOff: IA32_FEATURE_CONTROL does not allow VMXON.
	ErrVMXLockedOff = errors.New("IA32_FEATURE_CONTROL does not allow VMXON")

	// ErrNotRecorded: a recorded text lacks an MSR.
	ErrNotRecorded = errors.New("not in the recorded values")
)

// An MSRReader reads a model-specific register.
type MSRReader interface {
	ReadMSR(msr uint32) (uint64, error)
}

// A CPUIDReader reads a leaf of the processor's identification. Leaves that the
// processor does not have are not asked for.
type CPUIDReader interface {
	ReadCPUID(leaf, subleaf uint32) (eax, ebx, ecx, edx uint32)
}

// The capability MSRs (SDM Vol. 3D, appendix A), and the one that says whether
// VMXON is allowed (SDM Vol. 3C 24.7).
const (
	MSRFeatureControl           = 0x3a
	MSRVMXBasic                 = 0x480
	MSRVMXPinControls           = 0x481
	MSRVMXPrimaryControls       = 0x482
	MSRVMXExitControls          = 0x483
	MSRVMXEntryControls         = 0x484
	MSRVMXMisc                  = 0x485
	MSRVMXCR0Fixed0             = 0x486
	MSRVMXCR0Fixed1             = 0x487
	MSRVMXCR4Fixed0             = 0x488
	MSRVMXCR4Fixed1             = 0x489
	MSRVMXVMCSEnum              = 0x48a
	MSRVMXSecondaryControls     = 0x48b
	MSRVMXEPTVPID               = 0x48c
	MSRVMXTruePinControls       = 0x48d
	MSRVMXTruePrimaryControls   = 0x48e
	MSRVMXTrueExitControls      = 0x48f
	MSRVMXTrueEntryControls     = 0x490
	MSRVMXFunctions             = 0x491
	MSRVMXTertiaryControls      = 0x492
	MSRVMXSecondaryExitControls = 0x493
)

// Allowed are the values that a field of control bits may have.
type Allowed struct {
	Must1 uint64 // bits that must be 1
	May1  uint64 // bits that may be 1; those of Must1 are among them
}

// Allows reports whether a control field may have the value v.
func (a Allowed) Allows(v uint64) bool { return v&a.Must1 == a.Must1 && v&^a.May1 == 0 }

// Free returns the bits that may be 0 or 1.
func (a Allowed) Free() uint64 { return a.May1 &^ a.Must1 }

// Capabilities are what a processor's VMX can do.
type Capabilities struct {
	Basic   Basic
	Misc    Misc
	EPTVPID EPTVPID // 0 without EPT and VPID

	// The bits of CR0 and CR4 that must be 1 in VMX operation are 1 in Fixed0,
	// those that must be 0 are 0 in Fixed1 (SDM Vol. 3D A.7, A.8).
	CR0Fixed0, CR0Fixed1 uint64
	CR4Fixed0, CR4Fixed1 uint64

	// VMCSEnum is IA32_VMX_VMCS_ENUM (SDM Vol. 3D A.9); see HighestIndex.
	VMCSEnum uint64

	// FeatureControl is IA32_FEATURE_CONTROL; HasFeatureControl is false if it
	// is not known, as with values recorded without it.
	FeatureControl    FeatureControl
	HasFeatureControl bool

	// Controls tells which controls there are, from the TRUE capability MSRs
	// where the processor has them. A group that the processor lacks is zero.
	Controls [NumControlGroups]Allowed

	// CPU is what CPUID says.
	CPU CPU
}

// ReadCapabilities reads the capability MSRs. It reads none that the processor
// does not announce, so that a processor which answers RDMSR of an unknown MSR
// with #GP will do.
//
// If c is nil then [AnyCPU] stands for what CPUID would say.
func ReadCapabilities(m MSRReader, c CPUIDReader) (*Capabilities, error) {
	if m == nil {
		return nil, errors.New("vmcs: reading the capabilities needs a reader of MSRs")
	}
	out := &Capabilities{CPU: AnyCPU()}
	if c != nil {
		out.CPU = ReadCPU(c)
		if !out.CPU.VMX {
			return nil, fmt.Errorf("vmcs: %w", ErrNoVMX)
		}
	}
	r := &msrs{from: m}
	switch v, err := m.ReadMSR(MSRFeatureControl); {
	case err == nil:
		out.FeatureControl, out.HasFeatureControl = FeatureControl(v), true
	case !errors.Is(err, ErrNotRecorded):
		return nil, msrError(MSRFeatureControl, err)
	}
	out.Basic = Basic(r.read(MSRVMXBasic))
	out.Misc = Misc(r.read(MSRVMXMisc))
	out.CR0Fixed0, out.CR0Fixed1 = r.read(MSRVMXCR0Fixed0), r.read(MSRVMXCR0Fixed1)
	out.CR4Fixed0, out.CR4Fixed1 = r.read(MSRVMXCR4Fixed0), r.read(MSRVMXCR4Fixed1)
	out.VMCSEnum = r.read(MSRVMXVMCSEnum)
	for g := range ControlGroup(NumControlGroups) {
		if out.announces(g) { // by a group before it
			out.Controls[g] = r.controls(g, out.Basic.TrueControls())
		}
	}
	if out.Has(GroupSecondary, uint64(SecondaryEnableEPT)) || out.Has(GroupSecondary, uint64(SecondaryEnableVPID)) {
		out.EPTVPID = EPTVPID(r.read(MSRVMXEPTVPID))
	}
	if r.err == nil {
		r.err = out.contradiction()
	}
	if r.err != nil {
		return nil, r.err
	}
	return out, nil
}

// announces reports whether the processor has the capability MSR of a group, by
// the groups before it (SDM Vol. 3D A.3.3, A.3.4, A.4.2, A.11).
func (c *Capabilities) announces(g ControlGroup) bool {
	switch g {
	case GroupSecondary:
		return c.Has(GroupPrimary, uint64(PrimaryActivateSecondaryControls))
	case GroupTertiary:
		return c.Has(GroupPrimary, uint64(PrimaryActivateTertiaryControls))
	case GroupSecondaryExit:
		return c.Has(GroupExit, uint64(ExitActivateSecondaryControls))
	case GroupVMFunctions:
		return c.Has(GroupSecondary, uint64(SecondaryEnableVMFunctions))
	}
	return true
}

// Has reports whether all bits of a group may be 1.
func (c *Capabilities) Has(g ControlGroup, bits uint64) bool {
	return g.Valid() && bits&^c.Controls[g].May1 == 0
}

// Supports reports whether c has all the given controls.
func Supports[C Controls](c *Capabilities, controls C) bool {
	return c.Has(controls.ControlGroup(), uint64(controls))
}

// contradiction finds bits that would have to be both 0 and 1, which no
// processor has.
func (c *Capabilities) contradiction() error {
	for g, a := range c.Controls {
		if bad := a.Must1 &^ a.May1; bad != 0 {
			g := ControlGroup(g)
			return fmt.Errorf("vmcs: the capability MSR of the %v contradicts itself: bits that must be 1 must be 0 too: %s", g, controlString(g, bad))
		}
	}
	for _, f := range []struct {
		name           string
		fixed0, fixed1 uint64
	}{{"CR0", c.CR0Fixed0, c.CR0Fixed1}, {"CR4", c.CR4Fixed0, c.CR4Fixed1}} {
		if bad := f.fixed0 &^ f.fixed1; bad != 0 {
			return fmt.Errorf("vmcs: IA32_VMX_%s_FIXED0 %#x and FIXED1 %#x contradict each other in the bits %#x", f.name, f.fixed0, f.fixed1, bad)
		}
	}
	return nil
}

// msrs reads MSRs until one cannot be read.
type msrs struct {
	from MSRReader
	err  error
}

func (r *msrs) read(msr uint32) uint64 {
	if r.err != nil {
		return 0
	}
	v, err := r.from.ReadMSR(msr)
	if err != nil {
		r.err = msrError(msr, err)
		return 0
	}
	return v
}

// controls reads the capability MSR of a group: in one of 64 bits a 1 is a bit
// that may be 1, else the lower half has the bits that must be 1, the upper half
// those that may be.
func (r *msrs) controls(g ControlGroup, trueMSRs bool) Allowed {
	group := &controlGroups[g]
	msr := group.msr
	if trueMSRs && group.trueMSR != 0 {
		msr = group.trueMSR
	}
	v := r.read(uint32(msr))
	if group.width == 64 {
		return Allowed{May1: v}
	}
	return Allowed{Must1: v & 0xffff_ffff, May1: v >> 32}
}

func msrError(msr uint32, err error) error {
	return fmt.Errorf("vmcs: reading %s (MSR %#x): %w", MSRName(msr), msr, err)
}

// FixedCR0 brings a value for CR0 in line with what VMX operation asks for: bits
// that must be 1 are set, bits that must be 0 are cleared. With unrestricted,
// for a guest that has the "unrestricted guest" control, PE and PG stay as they
// are (SDM Vol. 3C 24.8, 27.3.1.1).
func (c *Capabilities) FixedCR0(want uint64, unrestricted bool) uint64 {
	const peAndPG = 1<<0 | 1<<31
	must := c.CR0Fixed0
	if unrestricted {
		must &^= peAndPG
	}
	return (want | must) & c.CR0Fixed1
}

// FixedCR4 brings a value for CR4 in line with what VMX operation asks for. The
// host needs VMXE, so this sets it; a guest sees its own through the read shadow.
func (c *Capabilities) FixedCR4(want uint64) uint64 {
	return (want | c.CR4Fixed0) & c.CR4Fixed1
}

// HighestIndex returns the highest index of any field's encoding, as
// IA32_VMX_VMCS_ENUM has it (SDM Vol. 3D A.9).
func (c *Capabilities) HighestIndex() int { return int(c.VMCSEnum >> 1 & 0x1ff) }

// CanVMXON says whether VMXON is allowed, and why not: it is nil if outside SMX
// operation VMXON does not fail for the firmware's settings, and for values
// recorded without IA32_FEATURE_CONTROL.
func (c *Capabilities) CanVMXON() error {
	if !c.HasFeatureControl {
		return nil
	}
	return c.FeatureControl.CanVMXON()
}

// FeatureControl is IA32_FEATURE_CONTROL, MSR 0x3a (SDM Vol. 3C 24.7).
type FeatureControl uint64

// Locked reports whether the MSR is locked; VMXON needs that.
func (f FeatureControl) Locked() bool { return f&1 != 0 }

// VMXInSMX reports whether VMXON works in SMX operation.
func (f FeatureControl) VMXInSMX() bool { return f>>1&1 != 0 }

// VMXOutsideSMX reports whether VMXON works outside SMX operation.
func (f FeatureControl) VMXOutsideSMX() bool { return f>>2&1 != 0 }

// CanVMXON returns nil if VMXON works outside SMX operation, else an error that
// is [ErrVMXLockedOff] and says what to do.
func (f FeatureControl) CanVMXON() error {
	switch {
	case f.Locked() && f.VMXOutsideSMX():
		return nil
	case f.Locked():
		return fmt.Errorf("vmcs: %w: it is %#x, locked with bit 2 (VMX outside SMX operation) clear; turn VT-x on in the firmware's setup", ErrVMXLockedOff, uint64(f))
	}
	return fmt.Errorf("vmcs: %w: it is %#x, not locked; write %#x to MSR 0x3a first", ErrVMXLockedOff, uint64(f), uint64(f)|5)
}

// String returns the value and what its bits mean.
func (f FeatureControl) String() string {
	return fmt.Sprintf("%#x (%s)", uint64(f), flagList(uint64(f), []flagName{
		{0, "locked"}, {1, "VMX in SMX operation"}, {2, "VMX outside SMX operation"},
	}))
}
