package hypercall

// Privileges are what a partition may do: HV_PARTITION_PRIVILEGE_MASK, which a guest
// finds in CPUID leaf 0x40000003, EAX the low and EBX the high half (TLFS, data type
// HV_PARTITION_PRIVILEGE_MASK). The low half is about MSRs, the high half about
// hypercalls.
type Privileges uint64

// MakePrivileges returns the privileges that EAX and EBX of the leaf hold.
func MakePrivileges(eax, ebx uint32) Privileges { return Privileges(ebx)<<32 | Privileges(eax) }

// Registers returns EAX and EBX of the leaf.
func (w Privileges) Registers() (eax, ebx uint32) { return uint32(w), uint32(w >> 32) }
