package hypercall

import "fmt"

// VinaStatus tells in the VP assist page whether a level has been told of an interrupt that
// it holds up, see [VsmVina].
//
//vtx:bits -
type VinaStatus uint8

// ApicAssist is the first word of the VP assist page: whether an EOI needs a write of the
// EOI register (TLFS virtual-interrupts.md, "EOI Assist").
//
//vtx:bits
type ApicAssist uint32

// NestedFeatures says what a nested hypervisor grants its guest (TLFS
// hv_nested_enlightenments_control.md).
//
//vtx:bits
type NestedFeatures uint32

// NestedHypercallControls says what calls of a nested hypervisor's guest go past it (TLFS
// hv_nested_enlightenments_control.md).
//
//vtx:bits
type NestedHypercallControls uint32

// NestedEnlightenmentsControl has both (TLFS hv_nested_enlightenments_control.md).
//
//vtx:layout
type NestedEnlightenmentsControl struct {
	Features          NestedFeatures
	HypercallControls NestedHypercallControls
}

// A VtlControl is the part of the VP assist page by which the hypervisor and a level above 0
// tell each other of entries and returns (TLFS hv_vp_vtl_control.md).
//
//vtx:layout
type VtlControl struct {
	EntryReason VtlEntryReason
	VinaStatus  VinaStatus
	Reserved0   uint8
	Reserved1   uint16

	// What the lower level has in RAX and RCX after a return that is not fast. If it is
	// a 32-bit level the halves are EAX, ECX, EDX and 0.
	ReturnRAX, ReturnRCX uint64
}

// ReturnRegisters32 returns EAX, ECX and EDX for a 32-bit level.
func (x *VtlControl) ReturnRegisters32() (eax, ecx, edx uint32) {
	return uint32(x.ReturnRAX), uint32(x.ReturnRAX >> 32), uint32(x.ReturnRCX)
}

// SetReturnRegisters32 sets EAX, ECX and EDX for a 32-bit level.
func (x *VtlControl) SetReturnRegisters32(eax, ecx, edx uint32) {
	x.ReturnRAX, x.ReturnRCX = uint64(eax)|uint64(ecx)<<32, uint64(edx)
}

// VirtualizationFaultInformation is what a virtualization fault is about (TLFS
// hv_virtualization_fault_information.md).
//
//vtx:layout
type VirtualizationFaultInformation struct {
	Parameter0 uint16
	Reserved   uint16
	Code       uint32
	Parameter1 uint64
}

// VpAssistFields are the fields of a VP assist page (TLFS hv_vp_assist_page.md): what it has
// in it at one time, or is to have. [VpAssistPage] is the page itself.
//
// The TLFS ends with the 16 bytes of VirtualizationFault. OpenVMM and Linux set 40 bytes
// aside for it, and name two areas behind, InterceptMessage and VtlReturnActions.
//
//vtx:layout
type VpAssistFields struct {
	ApicAssist                        ApicAssist
	Reserved0                         uint32
	VtlControl                        VtlControl
	NestedControl                     NestedEnlightenmentsControl
	EnlightenVMEntry                  uint8
	Reserved1                         [7]uint8
	CurrentNestedVmcs                 uint64
	SyntheticTimeUnhaltedTimerExpired uint8
	Reserved2                         [7]uint8
	VirtualizationFault               VirtualizationFaultInformation
	VirtualizationFaultMore           [24]uint8
	Reserved3                         uint64
	InterceptMessage                  Message
	VtlReturnActions                  [256]uint8
	Reserved4                         [3472]uint8
}

// A VpAssistPage is the VP assist page, in place: the one at the address in
// [MSRVPAssistPage] (TLFS hv_vp_assist_page.md, vp-properties.md). Each level on each
// processor has its own. The hypervisor writes it while that processor is not in that level
// or has come to the hypervisor, with the exception of NoEoiRequired, which may change at
// any time; other processors of the guest can write any of it at any time. So all that the
// methods read or write is atomic, and read once.
//
//	byte  bits
//	0     32    APIC assist: bit 0 no EOI required
//	8     32    VTL entry reason
//	12    8     bit 0 VINA asserted
//	16    64    RAX for the lower level; or EAX, ECX
//	24    64    RCX for the lower level; or EDX, 0
//	32    64    nested enlightenments control
//	40    8     enlightened VM entry
//	48    64    address of the current nested VMCS
//	56    8     synthetic time-unhalted timer expired
//	64    128   virtualization fault information
//	112   2048  intercept message (not in the TLFS)
//	368   2048  VTL return actions (not in the TLFS)
//
// The zero value has no page; its methods act as on a page of zeros, and write nothing.
type VpAssistPage struct{ p *sharedPage }

// Offsets in the VP assist page.
const (
	vpAssistApic        = 0
	vpAssistEntryReason = 8
	vpAssistVina        = 12
	vpAssistRAX         = 16
	vpAssistRCX         = 24
	vpAssistMessage     = 112
	vpAssistActions     = 368
	vpAssistTimer       = 56
)

// VpAssistPageOf returns the page that 4096 bytes are, which lie at a multiple of 8.
func VpAssistPageOf(mem []byte) (VpAssistPage, error) {
	p, err := sharedPageOf("the VP assist page", mem)
	return VpAssistPage{p}, err
}

// Valid reports whether there is a page.
func (a VpAssistPage) Valid() bool { return a.p != nil }

// EntryReason returns why the level has been entered.
func (a VpAssistPage) EntryReason() VtlEntryReason {
	if a.p == nil {
		return 0
	}
	return VtlEntryReason(a.p.load32(vpAssistEntryReason))
}

// SetEntryReason tells the level why it is entered.
func (a VpAssistPage) SetEntryReason(r VtlEntryReason) {
	if a.p != nil {
		a.p.store32(vpAssistEntryReason, uint32(r))
	}
}

// VinaAsserted reports whether the level has been told of an interrupt that it holds up.
func (a VpAssistPage) VinaAsserted() bool {
	return a.p != nil && a.p.load32(vpAssistVina)&uint32(VinaAsserted) != 0
}

// SetVinaAsserted sets or clears that, and reports what it was.
func (a VpAssistPage) SetVinaAsserted(on bool) bool {
	switch {
	case a.p == nil:
		return false
	case on:
		return a.p.or32(vpAssistVina, uint32(VinaAsserted))&uint32(VinaAsserted) != 0
	}
	return a.p.and32(vpAssistVina, ^uint32(VinaAsserted))&uint32(VinaAsserted) != 0
}

// ReturnRegisters returns what the lower level is to have in RAX and RCX after a return
// that is not fast.
func (a VpAssistPage) ReturnRegisters() (rax, rcx uint64) {
	if a.p == nil {
		return 0, 0
	}
	return a.p.load64(vpAssistRAX), a.p.load64(vpAssistRCX)
}

// SetReturnRegisters sets what ReturnRegisters returns.
func (a VpAssistPage) SetReturnRegisters(rax, rcx uint64) {
	if a.p != nil {
		a.p.store64(vpAssistRAX, rax)
		a.p.store64(vpAssistRCX, rcx)
	}
}

// ReturnRegisters32 is ReturnRegisters for a 32-bit level: EAX, ECX and EDX.
func (a VpAssistPage) ReturnRegisters32() (eax, ecx, edx uint32) {
	var x VtlControl
	x.ReturnRAX, x.ReturnRCX = a.ReturnRegisters()
	return x.ReturnRegisters32()
}

// SetReturnRegisters32 is SetReturnRegisters for a 32-bit level.
func (a VpAssistPage) SetReturnRegisters32(eax, ecx, edx uint32) {
	var x VtlControl
	x.SetReturnRegisters32(eax, ecx, edx)
	a.SetReturnRegisters(x.ReturnRAX, x.ReturnRCX)
}

// SetNoEoiRequired tells the guest that its next EOI needs no write of the EOI register, as
// the hypervisor does with an edge-triggered interrupt that no other waits behind.
func (a VpAssistPage) SetNoEoiRequired() {
	if a.p != nil {
		a.p.or32(vpAssistApic, uint32(ApicAssistNoEoiRequired))
	}
}

// ClearNoEoiRequired takes that back, and reports whether it was still set. The hypervisor
// does so when another interrupt comes up behind; the guest does for an EOI, and writes the
// EOI register if it was not set.
func (a VpAssistPage) ClearNoEoiRequired() bool {
	return a.p != nil && a.p.and32(vpAssistApic, ^uint32(ApicAssistNoEoiRequired))&uint32(ApicAssistNoEoiRequired) != 0
}

// SetTimerExpired tells the guest that its synthetic time-unhalted timer has expired.
func (a VpAssistPage) SetTimerExpired() {
	if a.p != nil {
		a.p.or32(vpAssistTimer, 1)
	}
}

// SetInterceptMessage puts a message where a level with [VsmPartitionConfigInterceptPage]
// looks for it. The entry with [VtlEntryIntercept] has to come after it.
func (a VpAssistPage) SetInterceptMessage(m *Message) {
	if a.p != nil {
		m.Put(a.p[vpAssistMessage:vpAssistActions])
	}
}

// Fields returns a copy of all that the page has. While others write the page it can have
// some of what they wrote and not the rest.
func (a VpAssistPage) Fields() (f VpAssistFields) {
	if a.p != nil {
		f.Get(a.p[:])
	}
	return f
}

// Clear makes the page zero, as at the processor's reset.
func (a VpAssistPage) Clear() {
	if a.p != nil {
		clear(a.p[:])
	}
}

// String tells what a level reads there when it is entered.
func (a VpAssistPage) String() string {
	if a.p == nil {
		return "no VP assist page"
	}
	rax, rcx := a.ReturnRegisters()
	return fmt.Sprintf("%v, VINA asserted %v, RAX %#x, RCX %#x for the lower level", a.EntryReason(), a.VinaAsserted(), rax, rcx)
}
