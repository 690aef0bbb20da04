package vmcs

import (
	"encoding/binary"
	"fmt"
)

// A Region is the memory of a VMCS, or of VMXON: up to 4096 bytes, as
// IA32_VMX_BASIC says, at a physical address that is a multiple of 4,096. Software
// may use its first eight bytes only (SDM Vol. 3C 25.2, table 25-1); fields are
// accessed by VMREAD and VMWRITE.
//
//	byte  bits
//	0     30:0  VMCS revision identifier
//	0     31    shadow-VMCS indicator
//	4     31:0  VMX-abort indicator
type Region [4096]byte

const (
	regionRevision = 0
	regionAbort    = 4
	regionShadow   = 1 << 31
)

// RegionOf returns the region that a page of 4096 bytes holds, in place.
func RegionOf(mem []byte) (*Region, error) {
	p, err := pageOf("a VMCS region", mem)
	return (*Region)(p), err
}

// Init makes the region one that VMPTRLD accepts, after a VMCLEAR: with the
// processor's revision identifier, from bits 30:0 of IA32_VMX_BASIC, and no abort.
// A shadow VMCS is for VMCS shadowing, and cannot be entered. For VMXON it must be
// false.
func (r *Region) Init(revision uint32, shadow bool) error {
	if revision&regionShadow != 0 {
		return fmt.Errorf("vmcs: a VMCS revision identifier has 31 bits, not 0x%x", revision)
	}
	if shadow {
		revision |= regionShadow
	}
	binary.LittleEndian.PutUint32(r[regionRevision:], revision)
	binary.LittleEndian.PutUint32(r[regionAbort:], 0)
	return nil
}

// Revision returns the VMCS revision identifier.
func (r *Region) Revision() uint32 {
	return binary.LittleEndian.Uint32(r[regionRevision:]) &^ regionShadow
}

// Shadow reports whether the region is for a shadow VMCS.
func (r *Region) Shadow() bool {
	return binary.LittleEndian.Uint32(r[regionRevision:])&regionShadow != 0
}

// Abort returns why the processor has shut down in a VM exit, 0 if it has not.
func (r *Region) Abort() Abort { return Abort(binary.LittleEndian.Uint32(r[regionAbort:])) }

// SetAbort writes the VMX-abort indicator. 0 makes a later abort visible.
func (r *Region) SetAbort(a Abort) { binary.LittleEndian.PutUint32(r[regionAbort:], uint32(a)) }

// String prints the three fields.
func (r *Region) String() string {
	kind := "VMCS"
	if r.Shadow() {
		kind = "shadow VMCS"
	}
	return fmt.Sprintf("%s, revision 0x%x, %v", kind, r.Revision(), r.Abort())
}

// An Abort is a VMX-abort indicator: why a VM exit could not be completed, and the
// processor is in shutdown (SDM Vol. 3C 28.7).
type Abort uint32

// VMX-abort indicators.
const (
	AbortSavingGuestMSRs Abort = 1 // saving guest MSRs failed (28.4)
	AbortHostPDPTEs      Abort = 2 // the host's PDPTEs are not valid (28.5.4)
	AbortVMCSCorrupted   Abort = 3 // the VMCS has been corrupted by writes to its region
	AbortLoadingHostMSRs Abort = 4 // loading host MSRs failed (28.6)
	AbortMachineCheck    Abort = 5 // a machine-check event happened during the VM exit (28.8)
	AbortHostNotIA32e    Abort = 6 // the processor was in IA-32e mode, and ExitHostAddressSpaceSize is 0 (28.5)
)

var abortNames = [...]string{
	"no VMX abort",
	"VMX abort 1: saving guest MSRs failed; check the VM-exit MSR-store area",
	"VMX abort 2: the host's page-directory-pointer-table entries are not valid; check what the host's CR3 points to",
	"VMX abort 3: the VMCS has been corrupted by writes to its region",
	"VMX abort 4: loading host MSRs failed; check the VM-exit MSR-load area",
	"VMX abort 5: a machine-check event happened during the VM exit",
	"VMX abort 6: the processor was in IA-32e mode; set the VM-exit control \"host address-space size\"",
}

// String says what the indicator means.
func (a Abort) String() string {
	if int64(a) < int64(len(abortNames)) {
		return abortNames[a]
	}
	return fmt.Sprintf("VMX abort %d: not in the manual", uint32(a))
}
