package vmexit

import "fmt"

// A DisplacementQualification is the displacement of the memory operand of an
// instruction, sign-extended; with RIP-relative addressing RIP of the next
// instruction has been added (SDM Vol. 3C 28.2.1). It is 0 if there is none. Bits
// beyond the instruction's address size are undefined: [MemoryOperand.Offset] does
// without them.
type DisplacementQualification uint64

// Displacement returns the displacement.
func (q DisplacementQualification) Displacement() int64 { return int64(q) }

// String tells the displacement.
func (q DisplacementQualification) String() string {
	if q>>63 != 0 {
		return fmt.Sprintf("displacement -%#x", -uint64(q))
	}
	return fmt.Sprintf("displacement %#x", uint64(q))
}

// A CRAccessType is what an instruction does to a control register.
type CRAccessType uint8

// Types of accesses to control registers.
const (
	MOVToCR   CRAccessType = 0
	MOVFromCR CRAccessType = 1
	CLTS      CRAccessType = 2
	LMSW      CRAccessType = 3
)

var crAccessNames = []string{"MOV to CR", "MOV from CR", "CLTS", "LMSW"}

// String returns MOV to CR, MOV from CR, CLTS or LMSW.
func (t CRAccessType) String() string { return enumName(crAccessNames, "CRAccessType", uint8(t)) }

// MarshalText returns what String does.
func (t CRAccessType) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// UnmarshalText reads what String prints.
func (t *CRAccessType) UnmarshalText(text []byte) error {
	return parseEnum(t, crAccessNames, "CRAccessType", text)
}

// A CRAccessQualification is that of an access to a control register (SDM Vol. 3C
// table 28-3).
//
//	63  32 31     16 15 12 11     8 7  6  5  4 3  0
//	┌─────┬─────────┬─────┬────────┬─┬───┬────┬────┐
//	│  -  │LMSW data│  -  │register│-│mem│type│ CR │
//	└─────┴─────────┴─────┴────────┴─┴───┴────┴────┘
type CRAccessQualification uint64

// CR returns the number of the control register: 0, 3, 4 or 8. CLTS and LMSW access
// CR0.
func (q CRAccessQualification) CR() int { return int(q & 15) }

// Type returns what the instruction does.
func (q CRAccessQualification) Type() CRAccessType { return CRAccessType(q >> 4 & 3) }

// Memory reports whether the operand of LMSW is in memory; the guest-linear address
// is then that of the operand.
func (q CRAccessQualification) Memory() bool { return bit(uint64(q), 6) }

// Register returns the general register that MOV CR moves from or to.
func (q CRAccessQualification) Register() Register { return Register(q >> 8 & 15) }

// LMSWSource returns the operand of LMSW.
func (q CRAccessQualification) LMSWSource() uint16 { return uint16(q >> 16) }

// String tells the instruction.
func (q CRAccessQualification) String() string {
	switch q.Type() {
	case MOVToCR:
		return fmt.Sprintf("MOV to CR%d from %v", q.CR(), q.Register())
	case MOVFromCR:
		return fmt.Sprintf("MOV from CR%d to %v", q.CR(), q.Register())
	case CLTS:
		return "CLTS"
	}
	operand := "register"
	if q.Memory() {
		operand = "memory"
	}
	return fmt.Sprintf("LMSW %#x from %s", q.LMSWSource(), operand)
}

// A DRAccessQualification is that of a MOV DR (SDM Vol. 3C table 28-4).
//
//	63    12 11     8 7   5  4   3 2  0
//	┌───────┬────────┬─────┬────┬─┬────┐
//	│   -   │register│  -  │from│-│ DR │
//	└───────┴────────┴─────┴────┴─┴────┘
type DRAccessQualification uint64

// DR returns the number of the debug register, 0 to 7. 4 and 5 stand for 6 and 7, or
// raise #UD if CR4.DE is 1.
func (q DRAccessQualification) DR() int { return int(q & 7) }

// From reports whether the instruction reads the debug register.
func (q DRAccessQualification) From() bool { return bit(uint64(q), 4) }

// Register returns the general register that it moves from or to.
func (q DRAccessQualification) Register() Register { return Register(q >> 8 & 15) }

// String tells the instruction.
func (q DRAccessQualification) String() string {
	if q.From() {
		return fmt.Sprintf("MOV from DR%d to %v", q.DR(), q.Register())
	}
	return fmt.Sprintf("MOV to DR%d from %v", q.DR(), q.Register())
}

// An IOQualification is that of an I/O instruction, and of an SMI that arrived
// directly behind one (SDM Vol. 3C table 28-5, and 32.15.2.3).
//
//	63   32 31    16 15   7  6   5   4    3  2    0
//	┌──────┬────────┬──────┬───┬───┬──────┬──┬──────┐
//	│  -   │  port  │  -   │imm│REP│string│IN│size-1│
//	└──────┴────────┴──────┴───┴───┴──────┴──┴──────┘
type IOQualification uint64

// Size returns the size of the access in bytes: 1, 2 or 4; 0 if the field has a
// value that is not used.
func (q IOQualification) Size() int {
	const sizes = 0x4021 // by nibble
	return int(sizes >> (4 * (q & 7)) & 15)
}

// In reports whether the instruction reads from the port.
func (q IOQualification) In() bool { return bit(uint64(q), 3) }

// StringInstruction reports whether it is INS or OUTS. The instruction information
// then has a [StringIOInformation], and the guest-linear address is that of the
// operand in memory.
func (q IOQualification) StringInstruction() bool { return bit(uint64(q), 4) }

// REP reports whether INS or OUTS has a REP prefix.
func (q IOQualification) REP() bool { return bit(uint64(q), 5) }

// Immediate reports whether the port is an immediate operand, not DX.
func (q IOQualification) Immediate() bool { return bit(uint64(q), 6) }

// Port returns the number of the port.
func (q IOQualification) Port() uint16 { return uint16(q >> 16) }

// String tells the instruction, the port and the size.
func (q IOQualification) String() string {
	name := [...]string{"OUT", "IN", "OUTS", "INS"}[q>>4&1<<1|q>>3&1]
	if q.REP() {
		name = "REP " + name
	}
	operand := "DX"
	if q.Immediate() {
		operand = "immediate"
	}
	size := "reserved size"
	if n := q.Size(); n != 0 {
		size = fmt.Sprintf("%d bits", 8*n)
	}
	return fmt.Sprintf("%s, port %#x (%s), %s", name, q.Port(), operand, size)
}

// An MWAITQualification is that of MWAIT: 1 if the address-range monitoring is
// armed (SDM Vol. 3C 28.2.1).
type MWAITQualification uint64

// Armed reports whether MONITOR has armed the monitoring, so that MWAIT would wait.
func (q MWAITQualification) Armed() bool { return q&1 != 0 }

// String returns monitor armed or monitor not armed.
func (q MWAITQualification) String() string {
	if q.Armed() {
		return "monitor armed"
	}
	return "monitor not armed"
}

// An MSRQualification is the MSR that an instruction accesses: RDMSRLIST and WRMSRLIST
// (SDM Vol. 3C 28.2.1), the immediate forms of RDMSR and WRMSRNS, URDMSR and UWRMSR.
// For the former two it is 0 if the control "use MSR bitmaps" is 0.
type MSRQualification uint64

// MSR returns the number of the MSR.
func (q MSRQualification) MSR() uint32 { return uint32(q) }

// String tells the number.
func (q MSRQualification) String() string { return fmt.Sprintf("MSR %#x", q.MSR()) }

// A WBINVDQualification tells WBNOINVD (1) from WBINVD (0). It is younger than
// revision 084 of the SDM: see 30.2.1 of Vol. 3C in later ones. Processors from
// before leave 0.
type WBINVDQualification uint64

// WBNOINVD reports whether the instruction is known to be WBNOINVD.
func (q WBINVDQualification) WBNOINVD() bool { return q&1 != 0 }

// String returns the instruction's name.
func (q WBINVDQualification) String() string {
	if q.WBNOINVD() {
		return "WBNOINVD"
	}
	return "WBINVD"
}

// A WRMSRQualification tells WRMSRNS (1) from WRMSR (0). It is younger than
// revision 084 of the SDM: see 30.2.1 of Vol. 3C in later ones.
type WRMSRQualification uint64

// NonSerializing reports whether the instruction is WRMSRNS.
func (q WRMSRQualification) NonSerializing() bool { return q&1 != 0 }

// String returns the instruction's name.
func (q WRMSRQualification) String() string {
	if q.NonSerializing() {
		return "WRMSRNS"
	}
	return "WRMSR"
}

// A PASIDQualification is that of a failed PASID translation (SDM Vol. 3C 28.2.1):
// IA32_PASID[19:0] for ENQCMD, the first 32 bits of the command for ENQCMDS.
//
//	63   32  31  30    20 19       0
//	┌──────┬────┬────────┬──────────┐
//	│  0   │priv│   0    │  PASID   │
//	└──────┴────┴────────┴──────────┘
type PASIDQualification uint64

// PASID returns the process address-space identifier of the guest, 20 bits.
func (q PASIDQualification) PASID() uint32 { return uint32(q) & 0xfffff }

// Supervisor reports whether the command of an ENQCMDS is privileged.
func (q PASIDQualification) Supervisor() bool { return bit(uint64(q), 31) }

// String tells the PASID.
func (q PASIDQualification) String() string {
	if q.Supervisor() {
		return fmt.Sprintf("PASID %#x, supervisor", q.PASID())
	}
	return fmt.Sprintf("PASID %#x", q.PASID())
}
