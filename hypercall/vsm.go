package hypercall

// A VsmPartitionConfig is the value of [RegisterVsmPartitionConfig]: what a level has
// set for the partition (TLFS vsm.md, "Partition Configuration"). Every level above 0
// has one; it and higher levels may write it.
//
//	 63        16  15  14  13  12  11  10   9   8   7    6    5   4    1  0
//	┌────────────┬───┬───┬───┬───┬───┬───┬───┬───┬───┬────┬────┬──────┬────┐
//	│     0      │rst│ np│tim│pag│exc│cpu│ VP│ena│acc│deny│zero│ mask │prot│
//	└────────────┴───┴───┴───┴───┴───┴───┴───┴───┴───┴────┴────┴──────┴────┘
//
// The TLFS has only bits 6:0 and 9, [VsmPartitionConfigTLFS]; OpenVMM names the others.
//
//vtx:bits
type VsmPartitionConfig uint64

// A VsmPartitionStatus is the value of [RegisterVsmPartitionStatus]: which levels the
// partition has (TLFS vsm.md, "HvRegisterVsmPartitionStatus"). It is read-only, and
// one for all levels. Bits 39:36, supervisor shadow stacks, are OpenVMM's alone.
//
//	 63    40 39     36 35        20 19    16 15          0
//	┌────────┬─────────┬────────────┬────────┬─────────────┐
//	│   0    │ SSS set │  MBEC set  │maximum │ enabled set │
//	└────────┴─────────┴────────────┴────────┴─────────────┘
//
//vtx:bits
type VsmPartitionStatus uint64

// A VsmVpStatus is the value of [RegisterVsmVpStatus]: which levels a processor has
// (TLFS vsm.md, "HvRegisterVsmVpStatus"). It is read-only, and one for all levels.
//
//	 63     32 31          16 15    5   4   3      0
//	┌─────────┬──────────────┬───────┬─────┬────────┐
//	│    0    │ enabled set  │   0   │MBEC │ active │
//	└─────────┴──────────────┴───────┴─────┴────────┘
//
//vtx:bits
type VsmVpStatus uint64

// VsmCapabilities is the value of [RegisterVsmCapabilities]: what the hypervisor has
// of VSM. It is read-only.
//
// The TLFS page (vsm.md, "Register Format") counts these bits from the other end:
// Dr6Shared is its bit 63, MbecVtlMask its bits 62:47 and DenyLowerVtlStartup its bit
// 46. OpenVMM, Linux and QEMU have them in bits 0, 16:1 and 17, as the order of the
// fields in a C structure makes them, and so has this type. The bits above 17 are
// OpenVMM's.
//
//vtx:bits
type VsmCapabilities uint64

// VsmCodePageOffsets is the value of [RegisterVsmCodePageOffsets]: where in the
// hypercall page the calls and returns are (TLFS vsm.md, "Hypercall Page Assist").
// [HypercallPage.Offsets] has it for the page that this package makes.
//
//	 63       24 23           12 11         0
//	┌───────────┬───────────────┬────────────┐
//	│     0     │ return offset │call offset │
//	└───────────┴───────────────┴────────────┘
//
//vtx:bits
type VsmCodePageOffsets uint64

// A VsmVina is the value of [RegisterVsmVina]: whether and how a level is told that it
// holds up an interrupt of a lower one (TLFS vsm.md, "Virtual Interrupt Notification
// Assist"). Every level on every processor has one. The TLFS has the rest reserved and
// preserved; OpenVMM refuses it if it is not 0.
//
//	 63     11   10     9     8   7     0
//	┌─────────┬──────┬─────┬─────┬───────┐
//	│    -    │autoE.│autoR│enab.│vector │
//	└─────────┴──────┴─────┴─────┴───────┘
//
//vtx:bits
type VsmVina uint64

// A VsmVpSecureConfig is the value of [RegisterVsmVpSecureConfigVtl0] and those that
// follow: what a level has set for a lower one on a processor (TLFS vsm.md,
// "Configuring Lower VTLs"). The TLFS has only bits 1:0.
//
//vtx:bits
type VsmVpSecureConfig uint64

// A VsmGuestPartitionConfig is the value of [RegisterGuestVsmPartitionConfig], by which a
// paravisor tells what levels its guest may have. Only OpenVMM tells its layout. The
// ways of injection are 0 restricted, 1 normal, 2 alternate, 3 secure AVIC.
//
//vtx:bits
type VsmGuestPartitionConfig uint64

// A VsmWaitForTlbLock is the value of [RegisterVsmVpWaitForTlbLock]. Only OpenVMM tells its
// layout.
//
//vtx:bits
type VsmWaitForTlbLock uint64

// A CrInterceptControl is the value of [RegisterCRInterceptControl]: on which accesses
// to control registers, descriptor-table registers and MSRs by lower levels a level
// is to be told (TLFS vsm.md, "Secure Register Intercepts"). The TLFS has bits 24:0,
// [CrInterceptTLFS]; OpenVMM names four more.
//
//vtx:bits CrIntercept
type CrInterceptControl uint64

// A VtlReturnControl is the control input of a VTL return (TLFS vsm.md, "VTL Return
// Control Input"), in RCX, in 32-bit mode in EDX:EAX. Of a VTL call all bits are
// reserved. Any that is must be 0, or there is #UD.
//
//vtx:bits VtlReturn
type VtlReturnControl uint64

// EnablePartitionVtlFlags are the flags of an [EnablePartitionVtlInput].
//
//vtx:bits PartitionVtl
type EnablePartitionVtlFlags uint8

// A VtlEntryReason tells a level why it has been entered (TLFS hv_vp_vtl_control.md).
//
//vtx:enum
type VtlEntryReason uint32
