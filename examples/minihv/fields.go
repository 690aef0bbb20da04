package main

// VMCS fields by encoding (SDM Vol. 3D, appendix B): those that this hypervisor
// uses.
const (
	guestES = 0x0800 // selectors of ES, CS, SS, DS, FS, GS, LDTR, TR follow by 2
	hostES  = 0x0c00 // likewise, without LDTR

	eptPointer       = 0x201a
	guestPhysical    = 0x2400
	vmcsLink         = 0x2800
	guestDebugCtl    = 0x2802
	guestEFER        = 0x2806
	hostEFER         = 0x2c02
	pinControls      = 0x4000
	primaryControls  = 0x4002
	exceptionBitmap  = 0x4004
	cr3TargetCount   = 0x400a
	exitControls     = 0x400c
	exitStoreCount   = 0x400e
	exitLoadCount    = 0x4010
	entryControls    = 0x4012
	entryLoadCount   = 0x4014
	entryEvent       = 0x4016
	secondControls   = 0x401e
	instructionError = 0x4400
	guestESLimit     = 0x4800 // limits: ES .. TR, GDTR, IDTR by 2
	guestGDTRLimit   = 0x4810
	guestIDTRLimit   = 0x4812
	guestESRights    = 0x4814 // access rights: ES .. TR by 2
	interruptibility = 0x4824
	activityState    = 0x4826
	guestSysenterCS  = 0x482a
	hostSysenterCS   = 0x4c00
	cr0Mask          = 0x6000
	cr4Mask          = 0x6002
	cr0Shadow        = 0x6004
	cr4Shadow        = 0x6006
	qualification    = 0x6400
	guestCR0         = 0x6800
	guestCR3         = 0x6802
	guestCR4         = 0x6804
	guestESBase      = 0x6806 // bases: ES .. TR, GDTR, IDTR by 2
	guestDR7         = 0x681a
	guestRSP         = 0x681c
	guestRFLAGS      = 0x6820
	pendingDebug     = 0x6822
	guestSysenterESP = 0x6824
	guestSysenterEIP = 0x6826
	hostCR0          = 0x6c00
	hostCR3          = 0x6c02
	hostCR4          = 0x6c04
	hostFSBase       = 0x6c06
	hostGSBase       = 0x6c08
	hostTRBase       = 0x6c0a
	hostGDTRBase     = 0x6c0c
	hostIDTRBase     = 0x6c0e
	hostSysenterESP  = 0x6c10
	hostSysenterEIP  = 0x6c12
)

// Segment numbers, in the order of the fields.
const (
	segES = iota
	segCS
	segSS
	segDS
	segFS
	segGS
	segLDTR
	segTR
	segments
)

// Basic exit reasons (SDM Vol. 3D, appendix C) that this hypervisor handles.
const (
	exitInterrupt    = 1
	exitCPUID        = 10
	exitHLT          = 12
	exitVMCALL       = 18
	exitEPTViolation = 48
)

var reasonNames = map[uint32]string{
	0: "exception or NMI", exitInterrupt: "external interrupt", 2: "triple fault",
	exitCPUID: "CPUID", exitHLT: "HLT", exitVMCALL: "VMCALL",
	33: "VM-entry failure: guest state", 34: "VM-entry failure: MSR loading",
	exitEPTViolation: "EPT violation", 49: "EPT misconfiguration",
}

// MSRs (SDM Vol. 4, table 2-2; the VMX ones Vol. 3D, appendix A).
const (
	msrFeatureControl = 0x3a
	msrSysenterCS     = 0x174
	msrSysenterESP    = 0x175
	msrSysenterEIP    = 0x176
	msrVMXBasic       = 0x480
	msrPinControls    = 0x481 // the TRUE versions of 0x481 to 0x484 are 0xc later
	msrPrimary        = 0x482
	msrExitControls   = 0x483
	msrEntryControls  = 0x484
	msrCR0Fixed0      = 0x486
	msrCR0Fixed1      = 0x487
	msrCR4Fixed0      = 0x488
	msrCR4Fixed1      = 0x489
	msrSecondary      = 0x48b
	msrEPTCap         = 0x48c
	msrEFER           = 0xc0000080
	msrFSBase         = 0xc0000100
	msrGSBase         = 0xc0000101
)
