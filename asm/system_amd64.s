#include "stub_amd64.h"

// func CPUID(leaf, subleaf uint32) (eax, ebx, ecx, edx uint32)
TEXT ·CPUID(SB), NOSPLIT, $0-24
	MOVL leaf+0(FP), AX
	MOVL subleaf+4(FP), CX
	CPUID
	MOVL AX, eax+8(FP)
	MOVL BX, ebx+12(FP)
	MOVL CX, ecx+16(FP)
	MOVL DX, edx+20(FP)
	RET

// func RDMSR(msr uint32) (value uint64)
TEXT ·RDMSR(SB), NOSPLIT, $0-16
	RING0
	MOVL msr+0(FP), CX
	RDMSR
	SHLQ $32, DX
	ORQ  DX, AX
	MOVQ AX, value+8(FP)
	RET
	REFUSE(const_opRDMSR)

// func WRMSR(msr uint32, value uint64)
TEXT ·WRMSR(SB), NOSPLIT, $0-16
	RING0
	MOVL msr+0(FP), CX
	MOVQ value+8(FP), AX
	MOVQ AX, DX
	SHRQ $32, DX
	WRMSR
	RET
	REFUSE(const_opWRMSR)

// func rdmsrSafe(msr uint32) (value, vector, code, pc uint64)
//
// The safe forms lay out their arguments alike, so that safeFaulted can fill in
// the results of each: an index, a value, then vector, code and pc.
TEXT ·rdmsrSafe(SB), NOSPLIT, $0-40
	MOVL msr+0(FP), CX
	RDMSR
	SHLQ $32, DX
	ORQ  DX, AX
	MOVQ AX, value+8(FP)
	MOVQ $0, pc+32(FP)
	RET

// func wrmsrSafe(msr uint32, value uint64) (vector, code, pc uint64)
TEXT ·wrmsrSafe(SB), NOSPLIT, $0-40
	MOVL msr+0(FP), CX
	MOVQ value+8(FP), AX
	MOVQ AX, DX
	SHRQ $32, DX
	WRMSR
	MOVQ $0, pc+32(FP)
	RET

// func xsetbvSafe(index uint32, value uint64) (vector, code, pc uint64)
TEXT ·xsetbvSafe(SB), NOSPLIT, $0-40
	MOVL index+0(FP), CX
	MOVQ value+8(FP), AX
	MOVQ AX, DX
	SHRQ $32, DX
	XSETBV
	MOVQ $0, pc+32(FP)
	RET

// func ReadCR0() (value uint64)
TEXT ·ReadCR0(SB), NOSPLIT, $0-8
	RING0
	MOVQ CR0, AX
	MOVQ AX, value+0(FP)
	RET
	REFUSE(const_opReadCR0)

// func ReadCR2() (value uint64)
TEXT ·ReadCR2(SB), NOSPLIT, $0-8
	RING0
	MOVQ CR2, AX
	MOVQ AX, value+0(FP)
	RET
	REFUSE(const_opReadCR2)

// func ReadCR3() (value uint64)
TEXT ·ReadCR3(SB), NOSPLIT, $0-8
	RING0
	MOVQ CR3, AX
	MOVQ AX, value+0(FP)
	RET
	REFUSE(const_opReadCR3)

// func ReadCR4() (value uint64)
TEXT ·ReadCR4(SB), NOSPLIT, $0-8
	RING0
	MOVQ CR4, AX
	MOVQ AX, value+0(FP)
	RET
	REFUSE(const_opReadCR4)

// func ReadCR8() (value uint64)
TEXT ·ReadCR8(SB), NOSPLIT, $0-8
	RING0
	MOVQ CR8, AX
	MOVQ AX, value+0(FP)
	RET
	REFUSE(const_opReadCR8)

// func WriteCR0(value uint64)
TEXT ·WriteCR0(SB), NOSPLIT, $0-8
	RING0
	MOVQ value+0(FP), AX
	MOVQ AX, CR0
	RET
	REFUSE(const_opWriteCR0)

// func WriteCR2(value uint64)
TEXT ·WriteCR2(SB), NOSPLIT, $0-8
	RING0
	MOVQ value+0(FP), AX
	MOVQ AX, CR2
	RET
	REFUSE(const_opWriteCR2)

// func WriteCR3(value uint64)
TEXT ·WriteCR3(SB), NOSPLIT, $0-8
	RING0
	MOVQ value+0(FP), AX
	MOVQ AX, CR3
	RET
	REFUSE(const_opWriteCR3)

// func WriteCR4(value uint64)
TEXT ·WriteCR4(SB), NOSPLIT, $0-8
	RING0
	MOVQ value+0(FP), AX
	MOVQ AX, CR4
	RET
	REFUSE(const_opWriteCR4)

// func WriteCR8(value uint64)
TEXT ·WriteCR8(SB), NOSPLIT, $0-8
	RING0
	MOVQ value+0(FP), AX
	MOVQ AX, CR8
	RET
	REFUSE(const_opWriteCR8)

// func readDR(n uint64) (value uint64)
TEXT ·readDR(SB), NOSPLIT, $0-16
	RING0
	MOVQ n+0(FP), CX
	CMPQ CX, $0
	JEQ dr0
	CMPQ CX, $1
	JEQ dr1
	CMPQ CX, $2
	JEQ dr2
	CMPQ CX, $3
	JEQ dr3
	CMPQ CX, $6
	JEQ dr6
	MOVQ DR7, AX
	MOVQ AX, value+8(FP)
	RET
dr0:
	MOVQ DR0, AX
	MOVQ AX, value+8(FP)
	RET
dr1:
	BYTE $0x0f; BYTE $0x21; BYTE $0xc8 // MOVQ DR1, AX: unknown to the assembler
	MOVQ AX, value+8(FP)
	RET
dr2:
	MOVQ DR2, AX
	MOVQ AX, value+8(FP)
	RET
dr3:
	MOVQ DR3, AX
	MOVQ AX, value+8(FP)
	RET
dr6:
	MOVQ DR6, AX
	MOVQ AX, value+8(FP)
	RET
	REFUSE(const_opReadDR)

// func writeDR(n, value uint64)
TEXT ·writeDR(SB), NOSPLIT, $0-16
	RING0
	MOVQ n+0(FP), CX
	MOVQ value+8(FP), AX
	CMPQ CX, $0
	JEQ dr0
	CMPQ CX, $1
	JEQ dr1
	CMPQ CX, $2
	JEQ dr2
	CMPQ CX, $3
	JEQ dr3
	CMPQ CX, $6
	JEQ dr6
	MOVQ AX, DR7
	RET
dr0:
	MOVQ AX, DR0
	RET
dr1:
	BYTE $0x0f; BYTE $0x23; BYTE $0xc8 // MOVQ AX, DR1: unknown to the assembler
	RET
dr2:
	MOVQ AX, DR2
	RET
dr3:
	MOVQ AX, DR3
	RET
dr6:
	MOVQ AX, DR6
	RET
	REFUSE(const_opWriteDR)

// func xgetbv(index uint32) (value uint64)
TEXT ·xgetbv(SB), NOSPLIT, $0-16
	MOVL index+0(FP), CX
	XGETBV
	SHLQ $32, DX
	ORQ  DX, AX
	MOVQ AX, value+8(FP)
	RET

// func XSETBV(index uint32, value uint64)
TEXT ·XSETBV(SB), NOSPLIT, $0-16
	RING0
	MOVL index+0(FP), CX
	MOVQ value+8(FP), AX
	MOVQ AX, DX
	SHRQ $32, DX
	XSETBV
	RET
	REFUSE(const_opXSETBV)

// func sgdt() (t DescriptorTable)
//
// The register's image is 2 bytes of limit and 8 of base, without a gap: it
// goes to where the base will be, and the limit is moved from there.
TEXT ·sgdt(SB), NOSPLIT, $0-16
	LEAQ t_Limit+0(FP), CX
	SGDT 6(CX)
	MOVWLZX 6(CX), AX
	MOVW AX, t_Limit+0(FP)
	RET

// func sidt() (t DescriptorTable)
TEXT ·sidt(SB), NOSPLIT, $0-16
	LEAQ t_Limit+0(FP), CX
	SIDT 6(CX)
	MOVWLZX 6(CX), AX
	MOVW AX, t_Limit+0(FP)
	RET

// func sldt() (selector uint16)
TEXT ·sldt(SB), NOSPLIT, $0-2
	XORL AX, AX
	SLDTL AX
	MOVW AX, selector+0(FP)
	RET

// func str() (selector uint16)
TEXT ·str(SB), NOSPLIT, $0-2
	XORL AX, AX
	STRL AX
	MOVW AX, selector+0(FP)
	RET

// func LGDT(t DescriptorTable)
TEXT ·LGDT(SB), NOSPLIT, $0-16
	RING0
	LEAQ t_Limit+0(FP), CX
	MOVWLZX t_Limit+0(FP), AX
	MOVW AX, 6(CX)
	LGDT 6(CX)
	RET
	REFUSE(const_opLGDT)

// func LIDT(t DescriptorTable)
TEXT ·LIDT(SB), NOSPLIT, $0-16
	RING0
	LEAQ t_Limit+0(FP), CX
	MOVWLZX t_Limit+0(FP), AX
	MOVW AX, 6(CX)
	LIDT 6(CX)
	RET
	REFUSE(const_opLIDT)

// func LLDT(selector uint16)
TEXT ·LLDT(SB), NOSPLIT, $0-2
	RING0
	MOVW selector+0(FP), AX
	LLDT AX
	RET
	REFUSE(const_opLLDT)

// func LTR(selector uint16)
TEXT ·LTR(SB), NOSPLIT, $0-2
	RING0
	MOVW selector+0(FP), AX
	LTR AX
	RET
	REFUSE(const_opLTR)

// func LAR(selector uint16) (rights uint32, ok bool)
TEXT ·LAR(SB), NOSPLIT, $0-13
	MOVWLZX selector+0(FP), AX
	XORL CX, CX
	LARL AX, CX
	SETEQ ok+12(FP)
	MOVL CX, rights+8(FP)
	RET

// func LSL(selector uint16) (limit uint32, ok bool)
TEXT ·LSL(SB), NOSPLIT, $0-13
	MOVWLZX selector+0(FP), AX
	XORL CX, CX
	LSLL AX, CX
	SETEQ ok+12(FP)
	MOVL CX, limit+8(FP)
	RET

// func INVLPG(addr uint64)
TEXT ·INVLPG(SB), NOSPLIT, $0-8
	RING0
	MOVQ addr+0(FP), AX
	INVLPG (AX)
	RET
	REFUSE(const_opINVLPG)

// func INVPCID(kind uint64, descriptor *[2]uint64)
TEXT ·INVPCID(SB), NOSPLIT, $0-16
	RING0
	MOVQ kind+0(FP), AX
	MOVQ descriptor+8(FP), CX
	INVPCID (CX), AX
	RET
	REFUSE(const_opINVPCID)

// func WBINVD()
TEXT ·WBINVD(SB), NOSPLIT, $0-0
	RING0
	WBINVD
	RET
	REFUSE(const_opWBINVD)

// func RDTSC() (tsc uint64)
//
// A fault's address must not be the stub's first, because a traceback looks for
// the byte before it.
TEXT ·RDTSC(SB), NOSPLIT, $0-8
	XORL AX, AX
	RDTSC
	SHLQ $32, DX
	ORQ  DX, AX
	MOVQ AX, tsc+0(FP)
	RET

// func rdtscp() (tsc uint64, aux uint32)
TEXT ·rdtscp(SB), NOSPLIT, $0-12
	XORL AX, AX
	RDTSCP
	SHLQ $32, DX
	ORQ  DX, AX
	MOVQ AX, tsc+0(FP)
	MOVL CX, aux+8(FP)
	RET

// func IN8(port uint16) (value uint8)
TEXT ·IN8(SB), NOSPLIT, $0-9
	RING0
	MOVW port+0(FP), DX
	INB
	MOVB AX, value+8(FP)
	RET
	REFUSE(const_opIN)

// func IN16(port uint16) (value uint16)
TEXT ·IN16(SB), NOSPLIT, $0-10
	RING0
	MOVW port+0(FP), DX
	INW
	MOVW AX, value+8(FP)
	RET
	REFUSE(const_opIN)

// func IN32(port uint16) (value uint32)
TEXT ·IN32(SB), NOSPLIT, $0-12
	RING0
	MOVW port+0(FP), DX
	INL
	MOVL AX, value+8(FP)
	RET
	REFUSE(const_opIN)

// func OUT8(port uint16, value uint8)
TEXT ·OUT8(SB), NOSPLIT, $0-3
	RING0
	MOVW port+0(FP), DX
	MOVB value+2(FP), AX
	OUTB
	RET
	REFUSE(const_opOUT)

// func OUT16(port uint16, value uint16)
TEXT ·OUT16(SB), NOSPLIT, $0-4
	RING0
	MOVW port+0(FP), DX
	MOVW value+2(FP), AX
	OUTW
	RET
	REFUSE(const_opOUT)

// func OUT32(port uint16, value uint32)
TEXT ·OUT32(SB), NOSPLIT, $0-8
	RING0
	MOVW port+0(FP), DX
	MOVL value+4(FP), AX
	OUTL
	RET
	REFUSE(const_opOUT)

// func HLT()
TEXT ·HLT(SB), NOSPLIT, $0-0
	RING0
	HLT
	RET
	REFUSE(const_opHLT)

// func CLI()
TEXT ·CLI(SB), NOSPLIT, $0-0
	RING0
	CLI
	RET
	REFUSE(const_opCLI)

// func STI()
TEXT ·STI(SB), NOSPLIT, $0-0
	RING0
	STI
	RET
	REFUSE(const_opSTI)

// func PAUSE()
TEXT ·PAUSE(SB), NOSPLIT, $0-0
	PAUSE
	RET

// func ReadRFLAGS() (value uint64)
TEXT ·ReadRFLAGS(SB), NOSPLIT, $0-8
	PUSHFQ
	POPQ AX
	MOVQ AX, value+0(FP)
	RET

// func RDFSBASE() (base uint64)
TEXT ·RDFSBASE(SB), NOSPLIT, $0-8
	RING0
	RDFSBASEQ AX
	MOVQ AX, base+0(FP)
	RET
	REFUSE(const_opRDFSBASE)

// func WRFSBASE(base uint64)
TEXT ·WRFSBASE(SB), NOSPLIT, $0-8
	RING0
	MOVQ base+0(FP), AX
	WRFSBASEQ AX
	RET
	REFUSE(const_opWRFSBASE)

// func RDGSBASE() (base uint64)
TEXT ·RDGSBASE(SB), NOSPLIT, $0-8
	RING0
	RDGSBASEQ AX
	MOVQ AX, base+0(FP)
	RET
	REFUSE(const_opRDGSBASE)

// func WRGSBASE(base uint64)
TEXT ·WRGSBASE(SB), NOSPLIT, $0-8
	RING0
	MOVQ base+0(FP), AX
	WRGSBASEQ AX
	RET
	REFUSE(const_opWRGSBASE)

// func ReadCS() (selector uint16)
TEXT ·ReadCS(SB), NOSPLIT, $0-2
	MOVW CS, AX
	MOVW AX, selector+0(FP)
	RET

// func ReadDS() (selector uint16)
TEXT ·ReadDS(SB), NOSPLIT, $0-2
	MOVW DS, AX
	MOVW AX, selector+0(FP)
	RET

// func ReadES() (selector uint16)
TEXT ·ReadES(SB), NOSPLIT, $0-2
	MOVW ES, AX
	MOVW AX, selector+0(FP)
	RET

// func ReadFS() (selector uint16)
TEXT ·ReadFS(SB), NOSPLIT, $0-2
	MOVW FS, AX
	MOVW AX, selector+0(FP)
	RET

// func ReadGS() (selector uint16)
TEXT ·ReadGS(SB), NOSPLIT, $0-2
	MOVW GS, AX
	MOVW AX, selector+0(FP)
	RET

// func ReadSS() (selector uint16)
TEXT ·ReadSS(SB), NOSPLIT, $0-2
	MOVW SS, AX
	MOVW AX, selector+0(FP)
	RET

// func xsave(area *byte, mask uint64)
TEXT ·xsave(SB), NOSPLIT, $0-16
	MOVQ area+0(FP), CX
	MOVQ mask+8(FP), AX
	MOVQ AX, DX
	SHRQ $32, DX
	XSAVE64 (CX)
	RET

// func xrstor(area *byte, mask uint64)
TEXT ·xrstor(SB), NOSPLIT, $0-16
	MOVQ area+0(FP), CX
	MOVQ mask+8(FP), AX
	MOVQ AX, DX
	SHRQ $32, DX
	XRSTOR64 (CX)
	RET

// func fxsave(area *[512]byte)
TEXT ·fxsave(SB), NOSPLIT, $0-8
	MOVQ area+0(FP), CX
	FXSAVE64 (CX)
	RET

// func fxrstor(area *[512]byte)
TEXT ·fxrstor(SB), NOSPLIT, $0-8
	MOVQ area+0(FP), CX
	FXRSTOR64 (CX)
	RET
