package vmcs

import "github.com/govtx/vtx/asm"

// CPU is what CPUID says that VM-entry checks ask for.
type CPU struct {
	Known bool // read from CPUID, not supposed

	PhysicalAddressBits uint8 // MAXPHYADDR: 32 to 52
	KeyBits             uint8 // bits of it that total memory encryption uses for keys (IA32_TME_ACTIVATE[39:36])
	LinearAddressBits   uint8 // 48, or 57 with 5-level paging; 32 without long mode

	// The bits of MSRs that are not reserved on this processor. DebugCtlValid
	// has the model-specific bits of IA32_DEBUGCTL that CPUID does not tell of.
	EFERValid           uint64
	DebugCtlValid       uint64
	PerfGlobalCtrlValid uint64

	VMX      bool // the instructions of this library
	SMX      bool // GETSEC, thus IA32_FEATURE_CONTROL's bit 1
	LongMode bool // Intel 64 architecture
	X2APIC   bool
	SGX      bool
	RTM      bool // transactional memory
	IntelPT  bool
	MPX      bool // IA32_BNDCFGS
	CET      bool // shadow stacks or indirect-branch tracking
	UINTR    bool // user interrupts
	PKS      bool // protection keys for supervisor pages
	LAM      bool // linear-address masking
	FRED     bool
	ArchLBR  bool
}

// physicalWidth and linearWidth are the widths within what there is, whatever has
// been said of the processor: 0 is not known, and the widest is taken.
func (c *CPU) physicalWidth() uint8 {
	if c.PhysicalAddressBits == 0 || c.PhysicalAddressBits > 52 {
		return 52
	}
	return c.PhysicalAddressBits
}

func (c *CPU) linearWidth() uint8 {
	if c.LinearAddressBits == 0 || c.LinearAddressBits > 57 {
		return 57
	}
	return max(c.LinearAddressBits, 48)
}

// AnyCPU returns the CPU that is supposed when CPUID is not known: one that has
// everything, so that nothing is reserved that is valid on some processor.
func AnyCPU() CPU {
	return CPU{
		PhysicalAddressBits: 52, LinearAddressBits: 57,
		EFERValid: asm.EFERSCE | asm.EFERLME | asm.EFERLMA | asm.EFERNXE, DebugCtlValid: debugCtlAlways | debugCtlDS | debugCtlPerfmon | debugCtlBusLock | debugCtlRTM,
		PerfGlobalCtrlValid: ^uint64(0),
		VMX:                 true, SMX: true, LongMode: true, X2APIC: true, SGX: true, RTM: true, IntelPT: true, MPX: true,
		CET: true, UINTR: true, PKS: true, LAM: true, FRED: true, ArchLBR: true,
	}
}

// Bits of IA32_DEBUGCTL (SDM Vol. 3B 18.4.1 and Vol. 4, table 2-2), by what
// announces them.
const (
	debugCtlAlways  = 1<<0 | 1<<1 | 1<<6            // LBR, BTF, TR
	debugCtlDS      = 1<<7 | 1<<8 | 1<<9 | 1<<10    // BTS, BTINT, BTS_OFF_OS, BTS_OFF_USR: the debug store
	debugCtlPerfmon = 1<<11 | 1<<12 | 1<<13 | 1<<14 // FREEZE_..._ON_PMI, ENABLE_UNCORE_PMI, FREEZE_WHILE_SMM
	debugCtlBusLock = 1 << 2                        // BLD
	debugCtlRTM     = 1 << 15                       // RTM_DEBUG
)

// ReadCPU reads what CPUID says. Leaves beyond the highest one that the
// processor has count as zero.
func ReadCPU(c CPUIDReader) CPU {
	basic, _, _, _ := c.ReadCPUID(0, 0)
	extended, _, _, _ := c.ReadCPUID(0x8000_0000, 0)
	leaf := func(n, sub uint32) (eax, ebx, ecx, edx uint32) {
		highest := basic
		if n >= 0x8000_0000 {
			highest = extended
		}
		if n > highest {
			return 0, 0, 0, 0
		}
		return c.ReadCPUID(n, sub)
	}
	bit := func(register uint32, n int) bool { return register>>n&1 != 0 }

	cpu := CPU{Known: true, PhysicalAddressBits: 36, LinearAddressBits: 32}
	_, _, c1, d1 := leaf(1, 0)
	cpu.VMX, cpu.SMX, cpu.X2APIC = bit(c1, 5), bit(c1, 6), bit(c1, 21)

	subleaves, b7, c7, d7 := leaf(7, 0)
	cpu.SGX, cpu.RTM, cpu.MPX, cpu.IntelPT = bit(b7, 2), bit(b7, 11), bit(b7, 14), bit(b7, 25)
	cpu.CET = bit(c7, 7) || bit(d7, 20)
	cpu.PKS, cpu.UINTR, cpu.ArchLBR = bit(c7, 31), bit(d7, 5), bit(d7, 19)
	if subleaves >= 1 {
		a71, _, _, _ := leaf(7, 1)
		cpu.FRED, cpu.LAM = bit(a71, 17), bit(a71, 26)
	}

	_, _, _, d81 := leaf(0x8000_0001, 0)
	cpu.LongMode = bit(d81, 29)
	if cpu.LongMode || bit(d81, 11) {
		cpu.EFERValid |= asm.EFERSCE
	}
	if cpu.LongMode {
		cpu.EFERValid |= asm.EFERLME | asm.EFERLMA
	}
	if bit(d81, 20) {
		cpu.EFERValid |= asm.EFERNXE
	}
	if a88, _, _, _ := leaf(0x8000_0008, 0); a88 != 0 {
		cpu.PhysicalAddressBits = uint8(min(a88&0xff, 52))
		cpu.LinearAddressBits = uint8(min(a88>>8&0xff, 57))
	}

	cpu.DebugCtlValid = debugCtlAlways
	if bit(d1, 21) {
		cpu.DebugCtlValid |= debugCtlDS
	}
	if bit(c7, 24) {
		cpu.DebugCtlValid |= debugCtlBusLock
	}
	if cpu.RTM {
		cpu.DebugCtlValid |= debugCtlRTM
	}
	a10, _, c10, d10 := leaf(10, 0)
	if a10&0xff >= 2 { // the first version with freezing and IA32_PERF_GLOBAL_CTRL's fixed counters
		cpu.DebugCtlValid |= debugCtlPerfmon
	}
	cpu.PerfGlobalCtrlValid = perfGlobalCtrl(a10, c10, d10)
	return cpu
}

// perfGlobalCtrl returns the bits of IA32_PERF_GLOBAL_CTRL that enable a counter
// that is there (SDM Vol. 3B 20.2.2), by CPUID leaf 10.
func perfGlobalCtrl(eax, ecx, edx uint32) uint64 {
	version, general, fixed := eax&0xff, eax>>8&0xff, edx&31
	if version == 0 {
		return 0
	}
	valid := uint64(1)<<min(general, 32) - 1
	if version >= 2 {
		valid |= (uint64(1)<<min(fixed, 16) - 1) << 32
	}
	if version >= 5 {
		valid |= uint64(ecx&0xffff) << 32 // fixed counters that are there out of order
		valid |= 1 << 48                  // performance metrics: IA32_PERF_CAPABILITIES tells
	}
	return valid
}
