package vmexit

import "github.com/govtx/vtx/asm"

// rdrand and rdseed return a random number of 64 bits, and whether there was one
// (SDM Vol. 2B RDRAND, RDSEED).
func rdrand() (v uint64, ok bool)
func rdseed() (v uint64, ok bool)

// interrupt2 calls the host's handler of NMIs.
func interrupt2()

// nativeRandom returns the processor's own instruction, nil if it has none.
func nativeRandom(seed bool) func() (uint64, bool) {
	if seed {
		if highest, _, _, _ := asm.CPUID(0, 0); highest < 7 {
			return nil
		}
		if _, ebx, _, _ := asm.CPUID(7, 0); ebx>>18&1 == 0 {
			return nil
		}
		return rdseed
	}
	if _, _, ecx, _ := asm.CPUID(1, 0); ecx>>30&1 == 0 {
		return nil
	}
	return rdrand
}

// hostNMI has the host take an NMI that has arrived in the guest. It tells whether that
// can be.
func hostNMI() bool {
	if asm.ReadCS()&3 != 0 {
		return false
	}
	interrupt2()
	return true
}
