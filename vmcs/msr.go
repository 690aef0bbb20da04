package vmcs

import "github.com/govtx/vtx/asm"

// Processor reads the MSRs and the CPUID of the processor it runs on: an
// [MSRReader] for programs in ring 0, and a [CPUIDReader] everywhere on amd64.
type Processor struct{}

// ReadMSR executes RDMSR. A register that does not exist gives an *[asm.Fault];
// so does an ordinary process, which may not read any.
func (Processor) ReadMSR(msr uint32) (uint64, error) { return asm.RDMSRSafe(msr) }

// ReadCPUID executes CPUID. It panics with an *[asm.Fault] on other
// architectures than amd64.
func (Processor) ReadCPUID(leaf, subleaf uint32) (eax, ebx, ecx, edx uint32) {
	return asm.CPUID(leaf, subleaf)
}
