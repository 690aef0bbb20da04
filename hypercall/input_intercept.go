package hypercall

// An InterceptAccessMask says on which accesses an intercept is (TLFS
// hv_intercept_access_type_mask.md).
//
//vtx:bits InterceptAccess
type InterceptAccessMask uint32

// An InterceptType is what is intercepted (TLFS hv_intercept_type.md).
//
//vtx:enum
type InterceptType uint32

// InterceptParameters say what in particular is intercepted (TLFS
// hv_intercept_parameters.md). What they are depends on the type.
type InterceptParameters uint64

// IoPort returns the port of an [InterceptIoPort].
func (p InterceptParameters) IoPort() uint16 { return uint16(p) }

// IoPortRange returns the first and the last port of an [InterceptIoPortRange].
func (p InterceptParameters) IoPortRange() (first, last uint16) { return uint16(p), uint16(p >> 16) }

// Cpuid returns the leaf of an [InterceptCpuid].
func (p InterceptParameters) Cpuid() uint32 { return uint32(p) }

// ApicWriteMask returns the mask of an [InterceptApicWrite].
func (p InterceptParameters) ApicWriteMask() uint32 { return uint32(p) }

// Msr returns the MSR of an [InterceptMsrIndex].
func (p InterceptParameters) Msr() uint32 { return uint32(p) }

// Exception returns the vector of an [InterceptException].
func (p InterceptParameters) Exception() uint16 { return uint16(p) }

// IoPortParameters returns the parameters for ports first to last.
func IoPortParameters(first, last uint16) InterceptParameters {
	return InterceptParameters(first) | InterceptParameters(last)<<16
}

// An InstallInterceptInput is the input of HvCallInstallIntercept (TLFS
// HvCallInstallIntercept.md).
//
//vtx:layout
type InstallInterceptInput struct {
	PartitionID uint64
	AccessMask  InterceptAccessMask
	Type        InterceptType
	Parameters  InterceptParameters
}
