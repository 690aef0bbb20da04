package asm

// Bits of CR0 (SDM Vol. 3A 2.5).
const (
	CR0PE = 1 << 0  // protection enable
	CR0MP = 1 << 1  // monitor coprocessor
	CR0EM = 1 << 2  // emulation
	CR0TS = 1 << 3  // task switched
	CR0ET = 1 << 4  // extension type: always 1
	CR0NE = 1 << 5  // numeric error
	CR0WP = 1 << 16 // write protect
	CR0AM = 1 << 18 // alignment mask
	CR0NW = 1 << 29 // not write-through
	CR0CD = 1 << 30 // cache disable
	CR0PG = 1 << 31 // paging
)

// Bits of CR4 (SDM Vol. 3A 2.5).
const (
	CR4VME        = 1 << 0  // virtual-8086 mode extensions
	CR4PVI        = 1 << 1  // protected-mode virtual interrupts
	CR4TSD        = 1 << 2  // time stamp disable
	CR4DE         = 1 << 3  // debugging extensions
	CR4PSE        = 1 << 4  // page size extensions
	CR4PAE        = 1 << 5  // physical address extension
	CR4MCE        = 1 << 6  // machine-check enable
	CR4PGE        = 1 << 7  // page global enable
	CR4PCE        = 1 << 8  // performance-monitoring counter enable
	CR4OSFXSR     = 1 << 9  // FXSAVE and FXRSTOR
	CR4OSXMMEXCPT = 1 << 10 // unmasked SIMD floating-point exceptions
	CR4UMIP       = 1 << 11 // user-mode instruction prevention
	CR4LA57       = 1 << 12 // 57-bit linear addresses
	CR4VMXE       = 1 << 13 // VMX enable
	CR4SMXE       = 1 << 14 // SMX enable
	CR4FSGSBASE   = 1 << 16 // RDFSBASE and its kin
	CR4PCIDE      = 1 << 17 // PCIDs enable
	CR4OSXSAVE    = 1 << 18 // XSAVE and extended states
	CR4KL         = 1 << 19 // key locker
	CR4SMEP       = 1 << 20 // supervisor-mode execution prevention
	CR4SMAP       = 1 << 21 // supervisor-mode access prevention
	CR4PKE        = 1 << 22 // protection keys for user-mode pages
	CR4CET        = 1 << 23 // control-flow enforcement
	CR4PKS        = 1 << 24 // protection keys for supervisor-mode pages
	CR4UINTR      = 1 << 25 // user interrupts
	CR4FRED       = 1 << 32 // flexible return and event delivery (FRED specification)
)

// Bits of IA32_EFER (SDM Vol. 3A 2.2.1).
const (
	EFERSCE = 1 << 0  // SYSCALL enable
	EFERLME = 1 << 8  // IA-32e mode enable
	EFERLMA = 1 << 10 // IA-32e mode active
	EFERNXE = 1 << 11 // execute disable bit enable
)

// Bits of RFLAGS (SDM Vol. 1 3.4.3).
const (
	FlagCF   = 1 << 0
	FlagPF   = 1 << 2
	FlagAF   = 1 << 4
	FlagZF   = 1 << 6
	FlagSF   = 1 << 7
	FlagTF   = 1 << 8
	FlagIF   = 1 << 9
	FlagDF   = 1 << 10
	FlagOF   = 1 << 11
	FlagIOPL = 3 << 12
	FlagNT   = 1 << 14
	FlagRF   = 1 << 16
	FlagVM   = 1 << 17
	FlagAC   = 1 << 18
	FlagVIF  = 1 << 19
	FlagVIP  = 1 << 20
	FlagID   = 1 << 21
)
