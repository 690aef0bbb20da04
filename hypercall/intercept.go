package hypercall

// The TLFS names the messages of intercepts (hv_message_type.md) and leaves out what is in
// them. The layouts here are OpenVMM's (hvdef), which Hyper-V's own headers share; the
// tests of KVM's fork for trust levels expect 16 general registers behind the memory
// intercept's 80 bytes, which no other source has.

// An InterceptAccessType is the kind of access that was intercepted.
//
//vtx:enum
type InterceptAccessType uint8

// InstructionInfo has the length of the instruction and CR8 in an [InterceptHeader].
//
//vtx:bits
type InstructionInfo uint8

// An ExecutionState tells in which mode a processor was.
//
//	 15 14 13  12   11  10    7   6   5   4   3   2  1  0
//	┌─────┬──┬────┬────┬───────┬────┬───┬───┬──┬───┬──────┐
//	│  0  │VF│shdw│encl│ level │pend│dbg│LMA│AM│ PE│ CPL  │
//	└─────┴──┴────┴────┴───────┴────┴───┴───┴──┴───┴──────┘
//
//vtx:bits
type ExecutionState uint16

// An InterceptHeader is what every message of an intercept on x64 begins with, and all of
// those of type [MessageHalt] and [MessageUnrecoverableException].
//
//vtx:layout
type InterceptHeader struct {
	VPIndex        uint32
	Instruction    InstructionInfo
	AccessType     InterceptAccessType
	ExecutionState ExecutionState
	CS             SegmentRegister
	RIP, RFLAGS    uint64
}

// MemoryAccessInfo tells what is known of an access to memory.
//
//vtx:bits
type MemoryAccessInfo uint8

// A MemoryIntercept is a message of type [MessageGpaIntercept]: an access to memory that a
// higher level has taken rights to away.
//
//vtx:layout
type MemoryIntercept struct {
	Header               InterceptHeader
	CacheType            CacheType
	InstructionByteCount uint8 // 0 for a fetch
	AccessInfo           MemoryAccessInfo
	TPRPriority          uint8
	Reserved             uint8
	GVA, GPA             uint64
	InstructionBytes     [16]uint8
}

// IoPortAccessInfo tells of an IN or OUT instruction.
//
//vtx:bits
type IoPortAccessInfo uint8

// An IoPortIntercept is a message of type [MessageIoPortIntercept].
//
//vtx:layout
type IoPortIntercept struct {
	Header               InterceptHeader
	Port                 uint16
	AccessInfo           IoPortAccessInfo
	InstructionByteCount uint8
	Reserved             uint32
	RAX                  uint64
	InstructionBytes     [16]uint8
	DS, ES               SegmentRegister
	RCX, RSI, RDI        uint64
}

// An MsrIntercept is a message of type [MessageMsrIntercept].
//
//vtx:layout
type MsrIntercept struct {
	Header   InterceptHeader
	MSR      uint32
	Reserved uint32
	RDX, RAX uint64
}

// RegisterInterceptFlags are flags of a [RegisterIntercept].
//
//vtx:bits
type RegisterInterceptFlags uint8

// A RegisterIntercept is a message of type [MessageRegisterIntercept]: a write to a register
// that a higher level guards, see [CrInterceptControl].
//
//vtx:layout
type RegisterIntercept struct {
	Header    InterceptHeader
	Flags     RegisterInterceptFlags
	Reserved0 uint8
	Reserved1 uint16
	Register  Register
	Value     RegisterValue // the one to be written; with IsMemoryOp the operand's address
}

// ExceptionInfo tells of an exception.
//
//vtx:bits
type ExceptionInfo uint8

// An ExceptionIntercept is a message of type [MessageExceptionIntercept].
//
//vtx:layout
type ExceptionIntercept struct {
	Header               InterceptHeader
	Vector               uint16
	Info                 ExceptionInfo
	InstructionByteCount uint8
	ErrorCode            uint32
	Parameter            uint64
	Reserved             uint64
	InstructionBytes     [16]uint8
	DS, SS               SegmentRegister
	Registers            [16]uint64 // RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8 to R15
}

// HypercallInterceptFlags are flags of a [HypercallIntercept].
//
//vtx:bits
type HypercallInterceptFlags uint32

// A HypercallIntercept is a message of type [MessageHypercallIntercept].
//
//vtx:layout
type HypercallIntercept struct {
	Header                           InterceptHeader
	RAX, RBX, RCX, RDX, R8, RSI, RDI uint64
	XMM                              [6]RegisterValue
	Flags                            HypercallInterceptFlags
	Reserved                         [3]uint32
}

// A CpuidIntercept is a message of type [MessageCpuidIntercept].
//
//vtx:layout
type CpuidIntercept struct {
	Header                                         InterceptHeader
	RAX, RCX, RDX, RBX                             uint64
	DefaultRAX, DefaultRCX, DefaultRDX, DefaultRBX uint64 // what CPUID would return
}

// A SipiIntercept is a message of type [MessageSipiIntercept].
//
//vtx:layout
type SipiIntercept struct {
	Header        InterceptHeader
	TargetVPIndex uint32
	Vector        uint32
}

// A SintDeliverable is a message of type [MessageSynicSintDeliverable].
//
//vtx:layout
type SintDeliverable struct {
	Header           InterceptHeader
	DeliverableSints uint16 // bit n: SINTn
	Reserved0        uint16
	Reserved1        uint32
}

// An InterruptionDeliverable is a message of type [MessageInterruptionDeliverable].
//
//vtx:layout
type InterruptionDeliverable struct {
	Header    InterceptHeader
	Type      PendingInterruptionType
	Reserved0 [3]uint8
	Reserved1 uint32
}

// An ApicEoiMessage is a message of type [MessageApicEoi].
//
//vtx:layout
type ApicEoiMessage struct {
	VPIndex         uint32
	InterruptVector uint32
}

// An InvalidVpRegisterMessage is a message of type [MessageInvalidVpRegisterValue].
//
//vtx:layout
type InvalidVpRegisterMessage struct {
	VPIndex  uint32
	Reserved uint32
}
