#include "stub_amd64.h"
#include "funcdata.h"

// func fixups() *fixup
TEXT ·fixups(SB), NOSPLIT, $0-8
	LEAQ ·fixupTable(SB), AX
	MOVQ AX, ret+0(FP)
	RET

// func Fixup(rip uint64) (target uint64, ok bool)
TEXT ·Fixup(SB), NOSPLIT, $0-17
	MOVQ rip+0(FP), CX
	LEAQ ·fixupTable(SB), AX

next:
	MOVQ fixup_pc(AX), DX
	TESTQ DX, DX
	JEQ  none
	CMPQ DX, CX
	JEQ  found
	ADDQ $fixup__size, AX
	JMP  next

found:
	MOVQ fixup_target(AX), AX
	MOVQ AX, target+8(FP)
	MOVB $1, ok+16(FP)
	RET

none:
	MOVQ $0, target+8(FP)
	MOVB $0, ok+16(FP)
	RET

// faulted is the target of most instructions. The runtime enters it as if the
// instruction had called it, with the vector in AX, the error code in BX and
// the instruction's address in CX. Calling Go goes through a wrapper that loads
// R14 and X15 anew, so it does not matter what they held.
TEXT ·faulted(SB), NOSPLIT, $24-0
	NO_LOCAL_POINTERS
	MOVQ AX, 0(SP)
	MOVQ BX, 8(SP)
	MOVQ CX, 16(SP)
	CALL ·faultPanic(SB)
	UNDEF

// safeFaulted is the target of the safe forms: it returns to their caller with
// the fault as results. It is entered like faulted.
TEXT ·safeFaulted(SB), NOSPLIT|NOFRAME, $0-0
	LEAQ 8(SP), SP  // drop the pushed address
	LEAQ 8(SP), DX  // the arguments
	MOVQ AX, 16(DX) // vector
	MOVQ BX, 24(DX) // code
	MOVQ CX, 32(DX) // pc
	RET

// refused is where a stub jumps to that needs privilege level 0, with its op
// in AX.
TEXT ·refused(SB), NOSPLIT, $8-0
	NO_LOCAL_POINTERS
	MOVQ AX, 0(SP)
	CALL ·refuse(SB)
	UNDEF

// The table of fixups: the address of each instruction, as an offset into its
// stub, and where a fault there goes on. TestFixups finds the instruction's
// bytes at each address, and says where they are if they moved.
#define FIXUP(row, stub, offset, target, op) \
	DATA ·fixupTable+(row*24+0)(SB)/8, $stub+offset(SB) \
	DATA ·fixupTable+(row*24+8)(SB)/8, $target(SB) \
	DATA ·fixupTable+(row*24+16)(SB)/8, $op

FIXUP(0, ·VMXON, 9, ·faulted, const_opVMXON)
FIXUP(1, ·VMXOFF, 9, ·faulted, const_opVMXOFF)
FIXUP(2, ·VMCLEAR, 9, ·faulted, const_opVMCLEAR)
FIXUP(3, ·VMPTRLD, 9, ·faulted, const_opVMPTRLD)
FIXUP(4, ·VMPTRST, 18, ·faulted, const_opVMPTRST)
FIXUP(5, ·VMREAD, 13, ·faulted, const_opVMREAD)
FIXUP(6, ·VMWRITE, 18, ·faulted, const_opVMWRITE)
FIXUP(7, ·INVEPT, 19, ·faulted, const_opINVEPT)
FIXUP(8, ·INVVPID, 19, ·faulted, const_opINVVPID)
FIXUP(9, ·VMCALL, 63, ·faulted, const_opVMCALL)
FIXUP(10, ·VMFUNC, 17, ·faulted, const_opVMFUNC)
FIXUP(11, ·enter, 208, ·enterFaulted, const_opVMWRITE)
FIXUP(12, ·enter, 239, ·enterFaulted, const_opVMWRITE)
FIXUP(13, ·enter, 260, ·enterFaulted, const_opVMWRITE)
FIXUP(14, ·enter, 293, ·enterFaulted, const_opVMWRITE)
FIXUP(15, ·enter, 339, ·enterFaulted, const_opXRSTOR)
FIXUP(16, ·enter, 379, ·enterFaulted, const_opFXRSTOR)
FIXUP(17, ·enter, 371, ·launchFaulted, const_opXSETBV)
FIXUP(18, ·enter, 151, ·launchFaulted, const_opVMRESUME)
FIXUP(19, ·enter, 156, ·launchFaulted, const_opVMLAUNCH)
FIXUP(20, ·exited, 79, ·enterFaulted, const_opVMREAD)
FIXUP(21, ·exited, 91, ·enterFaulted, const_opVMREAD)
FIXUP(22, ·exited, 103, ·enterFaulted, const_opVMREAD)
FIXUP(23, ·exited, 115, ·enterFaulted, const_opVMREAD)
FIXUP(24, ·exited, 127, ·enterFaulted, const_opVMREAD)
FIXUP(25, ·leaveVector, 56, ·enterFaulted, const_opXSETBV)
FIXUP(26, ·leaveVector, 39, ·enterFaulted, const_opXSAVE)
FIXUP(27, ·leaveVector, 43, ·enterFaulted, const_opXRSTOR)
FIXUP(28, ·leaveVector, 61, ·enterFaulted, const_opFXSAVE)
FIXUP(29, ·leaveVector, 65, ·enterFaulted, const_opFXRSTOR)
FIXUP(30, ·CPUID, 8, ·faulted, const_opCPUID)
FIXUP(31, ·RDMSR, 13, ·faulted, const_opRDMSR)
FIXUP(32, ·WRMSR, 25, ·faulted, const_opWRMSR)
FIXUP(33, ·rdmsrSafe, 4, ·safeFaulted, const_opRDMSR)
FIXUP(34, ·wrmsrSafe, 16, ·safeFaulted, const_opWRMSR)
FIXUP(35, ·xsetbvSafe, 16, ·safeFaulted, const_opXSETBV)
FIXUP(36, ·ReadCR0, 9, ·faulted, const_opReadCR0)
FIXUP(37, ·ReadCR2, 9, ·faulted, const_opReadCR2)
FIXUP(38, ·ReadCR3, 9, ·faulted, const_opReadCR3)
FIXUP(39, ·ReadCR4, 9, ·faulted, const_opReadCR4)
FIXUP(40, ·ReadCR8, 9, ·faulted, const_opReadCR8)
FIXUP(41, ·WriteCR0, 14, ·faulted, const_opWriteCR0)
FIXUP(42, ·WriteCR2, 14, ·faulted, const_opWriteCR2)
FIXUP(43, ·WriteCR3, 14, ·faulted, const_opWriteCR3)
FIXUP(44, ·WriteCR4, 14, ·faulted, const_opWriteCR4)
FIXUP(45, ·WriteCR8, 14, ·faulted, const_opWriteCR8)
FIXUP(46, ·readDR, 44, ·faulted, const_opReadDR)
FIXUP(47, ·readDR, 53, ·faulted, const_opReadDR)
FIXUP(48, ·readDR, 62, ·faulted, const_opReadDR)
FIXUP(49, ·readDR, 71, ·faulted, const_opReadDR)
FIXUP(50, ·readDR, 80, ·faulted, const_opReadDR)
FIXUP(51, ·readDR, 89, ·faulted, const_opReadDR)
FIXUP(52, ·writeDR, 49, ·faulted, const_opWriteDR)
FIXUP(53, ·writeDR, 53, ·faulted, const_opWriteDR)
FIXUP(54, ·writeDR, 57, ·faulted, const_opWriteDR)
FIXUP(55, ·writeDR, 61, ·faulted, const_opWriteDR)
FIXUP(56, ·writeDR, 65, ·faulted, const_opWriteDR)
FIXUP(57, ·writeDR, 69, ·faulted, const_opWriteDR)
FIXUP(58, ·xgetbv, 4, ·faulted, const_opXGETBV)
FIXUP(59, ·XSETBV, 25, ·faulted, const_opXSETBV)
FIXUP(60, ·sgdt, 5, ·faulted, const_opSGDT)
FIXUP(61, ·sidt, 5, ·faulted, const_opSIDT)
FIXUP(62, ·sldt, 2, ·faulted, const_opSLDT)
FIXUP(63, ·str, 2, ·faulted, const_opSTR)
FIXUP(64, ·LGDT, 23, ·faulted, const_opLGDT)
FIXUP(65, ·LIDT, 23, ·faulted, const_opLIDT)
FIXUP(66, ·LLDT, 14, ·faulted, const_opLLDT)
FIXUP(67, ·LTR, 14, ·faulted, const_opLTR)
FIXUP(68, ·LAR, 7, ·faulted, const_opLAR)
FIXUP(69, ·LSL, 7, ·faulted, const_opLSL)
FIXUP(70, ·INVLPG, 14, ·faulted, const_opINVLPG)
FIXUP(71, ·INVPCID, 19, ·faulted, const_opINVPCID)
FIXUP(72, ·WBINVD, 9, ·faulted, const_opWBINVD)
FIXUP(73, ·RDTSC, 2, ·faulted, const_opRDTSC)
FIXUP(74, ·rdtscp, 2, ·faulted, const_opRDTSCP)
FIXUP(75, ·IN8, 14, ·faulted, const_opIN)
FIXUP(76, ·IN16, 14, ·faulted, const_opIN)
FIXUP(77, ·IN32, 14, ·faulted, const_opIN)
FIXUP(78, ·OUT8, 18, ·faulted, const_opOUT)
FIXUP(79, ·OUT16, 19, ·faulted, const_opOUT)
FIXUP(80, ·OUT32, 18, ·faulted, const_opOUT)
FIXUP(81, ·HLT, 9, ·faulted, const_opHLT)
FIXUP(82, ·CLI, 9, ·faulted, const_opCLI)
FIXUP(83, ·STI, 9, ·faulted, const_opSTI)
FIXUP(84, ·RDFSBASE, 9, ·faulted, const_opRDFSBASE)
FIXUP(85, ·RDGSBASE, 9, ·faulted, const_opRDGSBASE)
FIXUP(86, ·WRFSBASE, 14, ·faulted, const_opWRFSBASE)
FIXUP(87, ·WRGSBASE, 14, ·faulted, const_opWRGSBASE)
FIXUP(88, ·xsave, 17, ·faulted, const_opXSAVE)
FIXUP(89, ·xrstor, 17, ·faulted, const_opXRSTOR)
FIXUP(90, ·fxsave, 5, ·faulted, const_opFXSAVE)
FIXUP(91, ·fxrstor, 5, ·faulted, const_opFXRSTOR)
DATA ·fixupTable+(92*24)(SB)/8, $0 // the end
GLOBL ·fixupTable(SB), RODATA|NOPTR, $(92*24+8)
