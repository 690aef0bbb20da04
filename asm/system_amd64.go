package asm

import "unsafe"

// The stubs in system_amd64.s of functions that check something first.

//go:noescape
func xsave(area *byte, mask uint64)

//go:noescape
func xrstor(area *byte, mask uint64)

//go:noescape
func fxsave(area *[512]byte)

//go:noescape
func fxrstor(area *[512]byte)

func rdmsrSafe(msr uint32) (value, vector, code, pc uint64)
func wrmsrSafe(msr uint32, value uint64) (vector, code, pc uint64)
func xsetbvSafe(index uint32, value uint64) (vector, code, pc uint64)
func readDR(n uint64) (value uint64)
func writeDR(n, value uint64)
func xgetbv(index uint32) (value uint64)
func rdtscp() (tsc uint64, aux uint32)
func sgdt() (t DescriptorTable)
func sidt() (t DescriptorTable)
func sldt() (selector uint16)
func str() (selector uint16)

// CPUID returns a leaf of the processor's identification
// (SDM Vol. 2A CPUID; 0F A2).
func CPUID(leaf, subleaf uint32) (eax, ebx, ecx, edx uint32)

// RDMSR reads a model-specific register (SDM Vol. 2B RDMSR; 0F 32).
func RDMSR(msr uint32) (value uint64)

// WRMSR writes a model-specific register (SDM Vol. 2D WRMSR; 0F 30).
func WRMSR(msr uint32, value uint64)

// RDMSRSafe is [RDMSR], but a fault, such as #GP for a register that does not
// exist, comes back as a *[Fault]. It allocates only then.
//
//go:nosplit
func RDMSRSafe(msr uint32) (uint64, error) {
	if user {
		return 0, &Fault{Instruction: opRDMSR.String(), Operand: uint64(msr), Err: ErrPrivilege}
	}
	value, vector, code, pc := rdmsrSafe(msr)
	if pc != 0 {
		return 0, safeFault(opRDMSR, msr, vector, code, pc)
	}
	return value, nil
}

// WRMSRSafe is [WRMSR], but a fault comes back as a *[Fault].
//
//go:nosplit
func WRMSRSafe(msr uint32, value uint64) error {
	if user {
		return &Fault{Instruction: opWRMSR.String(), Operand: uint64(msr), Err: ErrPrivilege}
	}
	if vector, code, pc := wrmsrSafe(msr, value); pc != 0 {
		return safeFault(opWRMSR, msr, vector, code, pc)
	}
	return nil
}

// XSETBVSafe is [XSETBV], but a fault comes back as a *[Fault].
//
//go:nosplit
func XSETBVSafe(index uint32, value uint64) error {
	if user {
		return &Fault{Instruction: opXSETBV.String(), Operand: uint64(index), Err: ErrPrivilege}
	}
	if vector, code, pc := xsetbvSafe(index, value); pc != 0 {
		return safeFault(opXSETBV, index, vector, code, pc)
	}
	return nil
}

func safeFault(o op, index uint32, vector, code, pc uint64) error {
	return &Fault{Instruction: o.String(), Operand: uint64(index), Vector: uint8(vector), Code: uint32(code), PC: pc}
}

// ReadCR0 and the next four read a control register
// (SDM Vol. 2B MOV—Move to/from Control Registers; 0F 20 /r, and REX.R for CR8).
func ReadCR0() (value uint64)

// ReadCR2 returns the linear address of the last page fault.
func ReadCR2() (value uint64)

// ReadCR3 returns the physical address of the paging structures, and flags.
func ReadCR3() (value uint64)

// ReadCR4 returns CR4.
func ReadCR4() (value uint64)

// ReadCR8 returns the task priority.
func ReadCR8() (value uint64)

// WriteCR0 and the next four write a control register
// (SDM Vol. 2B MOV—Move to/from Control Registers; 0F 22 /r, and REX.R for CR8).
func WriteCR0(value uint64)

// WriteCR2 writes CR2.
func WriteCR2(value uint64)

// WriteCR3 switches the paging structures and drops TLB entries.
func WriteCR3(value uint64)

// WriteCR4 writes CR4.
func WriteCR4(value uint64)

// WriteCR8 sets the task priority, 0 to 15.
func WriteCR8(value uint64)

// ReadDR reads debug register n: 0 to 3, 6 or 7. DR4 and DR5 are no registers of
// their own, and are refused with [ErrOperand].
// (SDM Vol. 2B MOV—Move to/from Debug Registers; 0F 21 /r)
//
//go:nosplit
func ReadDR(n int) uint64 {
	if 0xcf>>uint(n)&1 == 0 {
		denyDR(opReadDR)
	}
	return readDR(uint64(n))
}

// WriteDR writes debug register n: 0 to 3, 6 or 7.
// (SDM Vol. 2B MOV—Move to/from Debug Registers; 0F 23 /r)
//
//go:nosplit
func WriteDR(n int, value uint64) {
	if 0xcf>>uint(n)&1 == 0 {
		denyDR(opWriteDR)
	}
	writeDR(uint64(n), value)
}

func denyDR(o op) {
	deny(o, ErrOperand, "the debug registers are 0 to 3, 6 and 7")
}

// XGETBV reads an extended control register (SDM Vol. 2D XGETBV; 0F 01 D0).
// Register 0 is XCR0; 1, where CPUID offers it, is XCR0 AND the state
// components in use.
//
//go:nosplit
func XGETBV(index uint32) uint64 {
	if user {
		checkXGETBV(index)
	}
	return xgetbv(index)
}

// XSETBV writes an extended control register (SDM Vol. 2D XSETBV; 0F 01 D1).
func XSETBV(index uint32, value uint64)

// SGDT returns GDTR (SDM Vol. 2B SGDT; 0F 01 /0). SGDT, SIDT, SLDT and STR are
// refused in an ordinary process if the processor has user-mode instruction
// prevention, since a process cannot see whether it is on.
//
//go:nosplit
func SGDT() DescriptorTable {
	if user {
		checkUMIP(opSGDT)
	}
	return sgdt()
}

// SIDT returns IDTR (SDM Vol. 2B SIDT; 0F 01 /1).
//
//go:nosplit
func SIDT() DescriptorTable {
	if user {
		checkUMIP(opSIDT)
	}
	return sidt()
}

// SLDT returns the selector in LDTR (SDM Vol. 2B SLDT; 0F 00 /0).
//
//go:nosplit
func SLDT() uint16 {
	if user {
		checkUMIP(opSLDT)
	}
	return sldt()
}

// STR returns the selector in the task register (SDM Vol. 2B STR; 0F 00 /1).
//
//go:nosplit
func STR() uint16 {
	if user {
		checkUMIP(opSTR)
	}
	return str()
}

// LGDT loads GDTR (SDM Vol. 2A LGDT; 0F 01 /2).
func LGDT(t DescriptorTable)

// LIDT loads IDTR (SDM Vol. 2A LIDT; 0F 01 /3).
func LIDT(t DescriptorTable)

// LLDT loads LDTR from the GDT (SDM Vol. 2A LLDT; 0F 00 /2).
func LLDT(selector uint16)

// LTR loads the task register from the GDT and marks the segment busy
// (SDM Vol. 2A LTR; 0F 00 /3).
func LTR(selector uint16)

// LAR returns the access rights of the segment that selector names, as the
// second doubleword of its descriptor holds them (SDM Vol. 2A LAR; 0F 02 /r).
// ok is false, and rights 0, if there is none that may be seen.
func LAR(selector uint16) (rights uint32, ok bool)

// LSL returns the limit in bytes of the segment that selector names
// (SDM Vol. 2A LSL; 0F 03 /r). ok is as for [LAR].
func LSL(selector uint16) (limit uint32, ok bool)

// INVLPG drops the TLB entries for the page at linear address addr
// (SDM Vol. 2A INVLPG; 0F 01 /7).
func INVLPG(addr uint64)

// INVPCID drops TLB entries by process-context identifier
// (SDM Vol. 2A INVPCID; 66 0F 38 82). Kind is 0 for one address of a PCID, 1 for a
// PCID, 2 for all, 3 for all but global ones. The low 12 bits of the descriptor's first
// word are the PCID, the rest of it 0; the second is a linear address.
//
//go:noescape
func INVPCID(kind uint64, descriptor *[2]uint64)

// WBINVD writes the caches back and empties them (SDM Vol. 2D WBINVD; 0F 09).
func WBINVD()

// RDTSC reads the time-stamp counter (SDM Vol. 2B RDTSC; 0F 31). A process that
// has asked its operating system to forbid it (CR4.TSD) must not call it.
func RDTSC() (tsc uint64)

// RDTSCP reads the time-stamp counter after all instructions before it have
// executed, and IA32_TSC_AUX (SDM Vol. 2B RDTSCP; 0F 01 F9).
//
//go:nosplit
func RDTSCP() (tsc uint64, aux uint32) {
	if user {
		checkRDTSCP()
	}
	return rdtscp()
}

// IN8 reads a byte from an I/O port (SDM Vol. 2A IN; EC). In an ordinary process
// the port instructions are refused, whatever its I/O permissions.
func IN8(port uint16) (value uint8)

// IN16 reads two bytes from an I/O port (66 ED).
func IN16(port uint16) (value uint16)

// IN32 reads four bytes from an I/O port (ED).
func IN32(port uint16) (value uint32)

// OUT8 writes a byte to an I/O port (SDM Vol. 2B OUT; EE).
func OUT8(port uint16, value uint8)

// OUT16 writes two bytes to an I/O port (66 EF).
func OUT16(port uint16, value uint16)

// OUT32 writes four bytes to an I/O port (EF).
func OUT32(port uint16, value uint32)

// HLT waits for an interrupt (SDM Vol. 2A HLT; F4).
func HLT()

// CLI turns maskable interrupts off (SDM Vol. 2A CLI; FA).
func CLI()

// STI turns maskable interrupts on, one instruction later (SDM Vol. 2B STI; FB).
func STI()

// PAUSE tells the processor that the program spins (SDM Vol. 2B PAUSE; F3 90).
func PAUSE()

// ReadRFLAGS returns the flags (SDM Vol. 2B PUSHF; 9C). Arithmetic flags are
// whatever the call left.
func ReadRFLAGS() (value uint64)

// RDFSBASE returns the base address of FS (SDM Vol. 2B RDFSBASE; F3 0F AE /0).
// The four are refused in an ordinary process, which cannot see whether
// CR4.FSGSBASE is set.
func RDFSBASE() (base uint64)

// RDGSBASE returns the base address of GS (SDM Vol. 2B RDGSBASE; F3 0F AE /1).
func RDGSBASE() (base uint64)

// WRFSBASE sets the base address of FS (SDM Vol. 2D WRFSBASE; F3 0F AE /2).
// Go finds the goroutine's state through FS on most systems: a caller must lock
// its thread, and set the base of that very thread.
func WRFSBASE(base uint64)

// WRGSBASE sets the base address of GS (SDM Vol. 2D WRGSBASE; F3 0F AE /3).
func WRGSBASE(base uint64)

// ReadCS and the next five return a segment selector (SDM Vol. 2B MOV; 8C /r).
func ReadCS() (selector uint16)

// ReadDS returns the selector in DS.
func ReadDS() (selector uint16)

// ReadES returns the selector in ES.
func ReadES() (selector uint16)

// ReadFS returns the selector in FS.
func ReadFS() (selector uint16)

// ReadGS returns the selector in GS.
func ReadGS() (selector uint16)

// ReadSS returns the selector in SS.
func ReadSS() (selector uint16)

// XSAVE stores the state components in mask AND XCR0 to area, in the standard
// format (SDM Vol. 2D XSAVE; REX.W 0F AE /4). The area must be 64-byte aligned
// and hold [XSAVESize] bytes.
func XSAVE(area []byte, mask uint64) {
	checkArea(opXSAVE, area, mask)
	xsave(unsafe.SliceData(area), mask)
}

// XRSTOR loads the state components in mask AND XCR0 from area
// (SDM Vol. 2D XRSTOR; REX.W 0F AE /5). See [XSAVE]. Go code expects MXCSR to be
// 0x1f80.
func XRSTOR(area []byte, mask uint64) {
	checkArea(opXRSTOR, area, mask)
	if user {
		checkRestore(area, mask)
	}
	xrstor(unsafe.SliceData(area), mask)
}

// FXSAVE stores x87 and SSE state to area, which must be 16-byte aligned
// (SDM Vol. 2A FXSAVE; REX.W 0F AE /0).
func FXSAVE(area *[512]byte) {
	checkAligned(opFXSAVE, unsafe.Pointer(area), 16)
	fxsave(area)
}

// FXRSTOR loads x87 and SSE state from area, which must be 16-byte aligned
// (SDM Vol. 2A FXRSTOR; REX.W 0F AE /1). See [XRSTOR].
func FXRSTOR(area *[512]byte) {
	checkAligned(opFXRSTOR, unsafe.Pointer(area), 16)
	if user {
		checkMXCSR(opFXRSTOR, area[:])
	}
	fxrstor(area)
}
