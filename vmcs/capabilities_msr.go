package vmcs

import "strconv"

// msrNames are the names of the MSRs of this package, in ascending order.
var msrNames = []struct {
	msr  uint32
	name string
}{
	{MSRFeatureControl, "IA32_FEATURE_CONTROL"},
	{MSRVMXBasic, "IA32_VMX_BASIC"},
	{MSRVMXPinControls, "IA32_VMX_PINBASED_CTLS"},
	{MSRVMXPrimaryControls, "IA32_VMX_PROCBASED_CTLS"},
	{MSRVMXExitControls, "IA32_VMX_EXIT_CTLS"},
	{MSRVMXEntryControls, "IA32_VMX_ENTRY_CTLS"},
	{MSRVMXMisc, "IA32_VMX_MISC"},
	{MSRVMXCR0Fixed0, "IA32_VMX_CR0_FIXED0"},
	{MSRVMXCR0Fixed1, "IA32_VMX_CR0_FIXED1"},
	{MSRVMXCR4Fixed0, "IA32_VMX_CR4_FIXED0"},
	{MSRVMXCR4Fixed1, "IA32_VMX_CR4_FIXED1"},
	{MSRVMXVMCSEnum, "IA32_VMX_VMCS_ENUM"},
	{MSRVMXSecondaryControls, "IA32_VMX_PROCBASED_CTLS2"},
	{MSRVMXEPTVPID, "IA32_VMX_EPT_VPID_CAP"},
	{MSRVMXTruePinControls, "IA32_VMX_TRUE_PINBASED_CTLS"},
	{MSRVMXTruePrimaryControls, "IA32_VMX_TRUE_PROCBASED_CTLS"},
	{MSRVMXTrueExitControls, "IA32_VMX_TRUE_EXIT_CTLS"},
	{MSRVMXTrueEntryControls, "IA32_VMX_TRUE_ENTRY_CTLS"},
	{MSRVMXFunctions, "IA32_VMX_VMFUNC"},
	{MSRVMXTertiaryControls, "IA32_VMX_PROCBASED_CTLS3"},
	{MSRVMXSecondaryExitControls, "IA32_VMX_EXIT_CTLS2"},
}

// MSRName returns the SDM's name of a capability MSR or of IA32_FEATURE_CONTROL,
// and MSR(0x...) for any other.
func MSRName(msr uint32) string {
	for _, m := range msrNames {
		if m.msr == msr {
			return m.name
		}
	}
	return "MSR(0x" + strconv.FormatUint(uint64(msr), 16) + ")"
}
