package asm

import "runtime"

// StubAddr returns the address of a stub of this package, and of its first
// instruction that has a fixup.
func StubAddr(stub string) (entry, instruction uint64) {
	for _, f := range rows() {
		if funcName(f.pc) == stub {
			return uint64(runtime.FuncForPC(uintptr(f.pc)).Entry()), f.pc
		}
	}
	panic("no stub " + stub)
}

// KeepLegacy is KeepVector as it is with CR4.OSXSAVE clear.
func KeepLegacy(g *Guest) { g.keep(0, legacyBytes) }
