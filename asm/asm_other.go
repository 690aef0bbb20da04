//go:build !amd64

package asm

// On other architectures every function panics with a *[Fault], or returns one,
// that is [ErrNotSupported].

func unsupportedFault(o op) *Fault {
	return &Fault{Instruction: o.String(), Err: ErrNotSupported}
}

// VMXON is not supported here.
func VMXON(phys uint64) (status Status) { panic(unsupportedFault(opVMXON)) }

// VMXOFF is not supported here.
func VMXOFF() (status Status) { panic(unsupportedFault(opVMXOFF)) }

// VMCLEAR is not supported here.
func VMCLEAR(phys uint64) (status Status) { panic(unsupportedFault(opVMCLEAR)) }

// VMPTRLD is not supported here.
func VMPTRLD(phys uint64) (status Status) { panic(unsupportedFault(opVMPTRLD)) }

// VMPTRST is not supported here.
func VMPTRST() (phys uint64, status Status) { panic(unsupportedFault(opVMPTRST)) }

// VMREAD is not supported here.
func VMREAD(field uint32) (value uint64, status Status) { panic(unsupportedFault(opVMREAD)) }

// VMWRITE is not supported here.
func VMWRITE(field uint32, value uint64) (status Status) { panic(unsupportedFault(opVMWRITE)) }

// INVEPT is not supported here.
func INVEPT(kind uint64, descriptor *[2]uint64) (status Status) { panic(unsupportedFault(opINVEPT)) }

// INVVPID is not supported here.
func INVVPID(kind uint64, descriptor *[2]uint64) (status Status) { panic(unsupportedFault(opINVVPID)) }

// VMCALL is not supported here.
func VMCALL(regs *CallRegs) { panic(unsupportedFault(opVMCALL)) }

// VMFUNC is not supported here.
func VMFUNC(function, index uint32) { panic(unsupportedFault(opVMFUNC)) }

// CPUID is not supported here.
func CPUID(leaf, subleaf uint32) (eax, ebx, ecx, edx uint32) { panic(unsupportedFault(opCPUID)) }

// RDMSR is not supported here.
func RDMSR(msr uint32) (value uint64) { panic(unsupportedFault(opRDMSR)) }

// WRMSR is not supported here.
func WRMSR(msr uint32, value uint64) { panic(unsupportedFault(opWRMSR)) }

// RDMSRSafe is not supported here.
func RDMSRSafe(msr uint32) (uint64, error) { return 0, unsupportedFault(opRDMSR) }

// WRMSRSafe is not supported here.
func WRMSRSafe(msr uint32, value uint64) error { return unsupportedFault(opWRMSR) }

// XSETBVSafe is not supported here.
func XSETBVSafe(index uint32, value uint64) error { return unsupportedFault(opXSETBV) }

// ReadCR0 is not supported here.
func ReadCR0() (value uint64) { panic(unsupportedFault(opReadCR0)) }

// ReadCR2 is not supported here.
func ReadCR2() (value uint64) { panic(unsupportedFault(opReadCR2)) }

// ReadCR3 is not supported here.
func ReadCR3() (value uint64) { panic(unsupportedFault(opReadCR3)) }

// ReadCR4 is not supported here.
func ReadCR4() (value uint64) { panic(unsupportedFault(opReadCR4)) }

// ReadCR8 is not supported here.
func ReadCR8() (value uint64) { panic(unsupportedFault(opReadCR8)) }

// WriteCR0 is not supported here.
func WriteCR0(value uint64) { panic(unsupportedFault(opWriteCR0)) }

// WriteCR2 is not supported here.
func WriteCR2(value uint64) { panic(unsupportedFault(opWriteCR2)) }

// WriteCR3 is not supported here.
func WriteCR3(value uint64) { panic(unsupportedFault(opWriteCR3)) }

// WriteCR4 is not supported here.
func WriteCR4(value uint64) { panic(unsupportedFault(opWriteCR4)) }

// WriteCR8 is not supported here.
func WriteCR8(value uint64) { panic(unsupportedFault(opWriteCR8)) }

// ReadDR is not supported here.
func ReadDR(n int) uint64 { panic(unsupportedFault(opReadDR)) }

// WriteDR is not supported here.
func WriteDR(n int, value uint64) { panic(unsupportedFault(opWriteDR)) }

// XGETBV is not supported here.
func XGETBV(index uint32) uint64 { panic(unsupportedFault(opXGETBV)) }

// XSETBV is not supported here.
func XSETBV(index uint32, value uint64) { panic(unsupportedFault(opXSETBV)) }

// SGDT is not supported here.
func SGDT() DescriptorTable { panic(unsupportedFault(opSGDT)) }

// SIDT is not supported here.
func SIDT() DescriptorTable { panic(unsupportedFault(opSIDT)) }

// SLDT is not supported here.
func SLDT() uint16 { panic(unsupportedFault(opSLDT)) }

// STR is not supported here.
func STR() uint16 { panic(unsupportedFault(opSTR)) }

// LGDT is not supported here.
func LGDT(t DescriptorTable) { panic(unsupportedFault(opLGDT)) }

// LIDT is not supported here.
func LIDT(t DescriptorTable) { panic(unsupportedFault(opLIDT)) }

// LLDT is not supported here.
func LLDT(selector uint16) { panic(unsupportedFault(opLLDT)) }

// LTR is not supported here.
func LTR(selector uint16) { panic(unsupportedFault(opLTR)) }

// LAR is not supported here.
func LAR(selector uint16) (rights uint32, ok bool) { panic(unsupportedFault(opLAR)) }

// LSL is not supported here.
func LSL(selector uint16) (limit uint32, ok bool) { panic(unsupportedFault(opLSL)) }

// INVLPG is not supported here.
func INVLPG(addr uint64) { panic(unsupportedFault(opINVLPG)) }

// INVPCID is not supported here.
func INVPCID(kind uint64, descriptor *[2]uint64) { panic(unsupportedFault(opINVPCID)) }

// WBINVD is not supported here.
func WBINVD() { panic(unsupportedFault(opWBINVD)) }

// RDTSC is not supported here.
func RDTSC() (tsc uint64) { panic(unsupportedFault(opRDTSC)) }

// RDTSCP is not supported here.
func RDTSCP() (tsc uint64, aux uint32) { panic(unsupportedFault(opRDTSCP)) }

// IN8 is not supported here.
func IN8(port uint16) (value uint8) { panic(unsupportedFault(opIN)) }

// IN16 is not supported here.
func IN16(port uint16) (value uint16) { panic(unsupportedFault(opIN)) }

// IN32 is not supported here.
func IN32(port uint16) (value uint32) { panic(unsupportedFault(opIN)) }

// OUT8 is not supported here.
func OUT8(port uint16, value uint8) { panic(unsupportedFault(opOUT)) }

// OUT16 is not supported here.
func OUT16(port uint16, value uint16) { panic(unsupportedFault(opOUT)) }

// OUT32 is not supported here.
func OUT32(port uint16, value uint32) { panic(unsupportedFault(opOUT)) }

// HLT is not supported here.
func HLT() { panic(unsupportedFault(opHLT)) }

// CLI is not supported here.
func CLI() { panic(unsupportedFault(opCLI)) }

// STI is not supported here.
func STI() { panic(unsupportedFault(opSTI)) }

// PAUSE is not supported here.
func PAUSE() { panic(unsupportedFault(opPAUSE)) }

// ReadRFLAGS is not supported here.
func ReadRFLAGS() (value uint64) { panic(unsupportedFault(opPUSHF)) }

// RDFSBASE is not supported here.
func RDFSBASE() (base uint64) { panic(unsupportedFault(opRDFSBASE)) }

// RDGSBASE is not supported here.
func RDGSBASE() (base uint64) { panic(unsupportedFault(opRDGSBASE)) }

// WRFSBASE is not supported here.
func WRFSBASE(base uint64) { panic(unsupportedFault(opWRFSBASE)) }

// WRGSBASE is not supported here.
func WRGSBASE(base uint64) { panic(unsupportedFault(opWRGSBASE)) }

// ReadCS is not supported here.
func ReadCS() (selector uint16) { panic(unsupportedFault(opReadSelector)) }

// ReadDS is not supported here.
func ReadDS() (selector uint16) { panic(unsupportedFault(opReadSelector)) }

// ReadES is not supported here.
func ReadES() (selector uint16) { panic(unsupportedFault(opReadSelector)) }

// ReadFS is not supported here.
func ReadFS() (selector uint16) { panic(unsupportedFault(opReadSelector)) }

// ReadGS is not supported here.
func ReadGS() (selector uint16) { panic(unsupportedFault(opReadSelector)) }

// ReadSS is not supported here.
func ReadSS() (selector uint16) { panic(unsupportedFault(opReadSelector)) }

// XSAVE is not supported here.
func XSAVE(area []byte, mask uint64) { panic(unsupportedFault(opXSAVE)) }

// XRSTOR is not supported here.
func XRSTOR(area []byte, mask uint64) { panic(unsupportedFault(opXRSTOR)) }

// FXSAVE is not supported here.
func FXSAVE(area *[512]byte) { panic(unsupportedFault(opFXSAVE)) }

// FXRSTOR is not supported here.
func FXRSTOR(area *[512]byte) { panic(unsupportedFault(opFXRSTOR)) }

// XSAVESize is not supported here.
func XSAVESize(mask uint64) int { return 0 }

// Enter is not supported here.
func (g *Guest) Enter() (status Status) { panic(unsupportedFault(opVMLAUNCH)) }

// KeepVector is not supported here.
func (g *Guest) KeepVector() error { return unsupportedFault(opXSAVE) }

// SetXCR0 is not supported here.
func (g *Guest) SetXCR0(value uint64) error { return unsupportedFault(opXSETBV) }

// Fixup is not supported here.
func Fixup(rip uint64) (target uint64, ok bool) { return 0, false }
