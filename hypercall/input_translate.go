package hypercall

// TranslateFlags say how a guest-virtual address is to be translated (TLFS
// hv_translate_gva_control_flags.md). On Arm64 bits 9:8 are PanClear and PanSet.
//
//vtx:bits Translate
type TranslateFlags uint64

// A TranslateResult is what came of a translation (TLFS hv_translate_gva_result.md).
//
//	 63      41   40   39       32 31         0
//	┌──────────┬──────┬───────────┬────────────┐
//	│    0     │over- │cache type │result code │
//	└──────────┴──────┴───────────┴────────────┘
//
//vtx:bits
type TranslateResult uint64

// A TranslateResultCode tells why a translation failed (TLFS
// hv_translate_gva_result.md). The call succeeds all the same.
//
//vtx:enum
type TranslateResultCode uint32

// A CacheType is how memory is cached: what the PAT has for it (TLFS
// hv_translate_gva_result.md).
//
//vtx:enum
type CacheType uint32

// A TranslateVirtualAddressInput is the input of HvCallTranslateVirtualAddress and
// HvCallTranslateVirtualAddressEx (TLFS, pages of those names).
//
//vtx:layout
type TranslateVirtualAddressInput struct {
	PartitionID  uint64
	VPIndex      uint32
	Reserved     uint32
	ControlFlags TranslateFlags
	GVAPage      uint64 // page number
}

// A TranslateVirtualAddressOutput is the output of HvCallTranslateVirtualAddress.
//
//vtx:layout
type TranslateVirtualAddressOutput struct {
	Result  TranslateResult
	GPAPage uint64 // page number; counts if the result is success
}

// A TranslateVirtualAddressExOutput is the output of HvCallTranslateVirtualAddressEx on
// x64.
//
// The TLFS contradicts itself: the call's page has 16 bytes of result and the page number
// at offset 16, which leaves no room for the event that hv_translate_gva_result_ex.md
// puts into the result. OpenVMM has 64 bytes, confirmed on Hyper-V by its own account,
// and so has this type.
//
//vtx:layout
type TranslateVirtualAddressExOutput struct {
	Result    TranslateResult
	Reserved0 uint64
	Event     PendingEvent
	GPAPage   uint64 // page number; counts if the result is success
	Reserved1 uint64
}
